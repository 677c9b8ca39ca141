//! What the daemon consists of, named as containerd names its plugins: clients look there for
//! snapshotters and what they can do.

use std::collections::BTreeMap;

use knarr_proto::services::introspection::v1::Plugin;
use knarr_proto::types::Platform;

use crate::manager::Manager;
use crate::store::filter::Fields;

/// The part that can tell of runtimes.
pub(super) const RUNTIME: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// A part that every manager has.
struct Part {
    kind: &'static str,
    id: &'static str,
    /// The types of the parts that it needs.
    requires: &'static [&'static str],
    /// Whether it depends on the platform.
    here: bool,
    /// What clients look up by name.
    exports: &'static [(&'static str, &'static str)],
}

const fn part(kind: &'static str, id: &'static str, requires: &'static [&'static str]) -> Part {
    Part {
        kind,
        id,
        requires,
        here: false,
        exports: &[],
    }
}

const CONTENT: &str = "io.containerd.content.v1";
const EVENT: &str = "io.containerd.event.v1";
const METADATA: &str = "io.containerd.metadata.v1";
const SERVICE: &str = "io.containerd.service.v1";
const GRPC: &str = "io.containerd.grpc.v1";
const GC: &str = "io.containerd.gc.v1";
const LEASE: &str = "io.containerd.lease.v1";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const DIFFER: &str = "io.containerd.differ.v1";
const MOUNTS: &str = "io.containerd.mount-manager.v1";
const SHIM: &str = "io.containerd.shim.v1";
const SANDBOX: &str = "io.containerd.sandbox.store.v1";
const CONTROLLER: &str = "io.containerd.sandbox.controller.v1";
const STREAMING: &str = "io.containerd.streaming.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";

static PARTS: [Part; 38] = [
    part(CONTENT, "content", &[]),
    part(EVENT, "exchange", &[]),
    part(METADATA, "bolt", &[CONTENT, EVENT, SNAPSHOTTER]),
    Part {
        // How this collector works, in the words of the other's settings.
        exports: &[
            ("DeletionThreshold", "0"),
            ("MutationThreshold", "100"),
            ("PauseThreshold", "0.02"),
            ("ScheduleDelay", "0s"),
        ],
        ..part(GC, "scheduler", &[METADATA])
    },
    part(LEASE, "manager", &[METADATA, GC]),
    part(
        MOUNTS,
        "bolt",
        &[METADATA, "io.containerd.mount-handler.v1"],
    ),
    Part {
        here: true,
        ..part(DIFFER, "walking", &[METADATA, MOUNTS])
    },
    part(SHIM, "manager", &[EVENT, METADATA]),
    Part {
        here: true,
        exports: &[("log-uri-schemes", "fifo,binary,file")],
        ..part(
            RUNTIME.0,
            RUNTIME.1,
            &[SHIM, MOUNTS, "io.containerd.warning.v1"],
        )
    },
    part(SANDBOX, "local", &[METADATA]),
    part(CONTROLLER, "shim", &[SHIM, EVENT]),
    part(STREAMING, "manager", &[METADATA]),
    part(
        TRANSFER,
        "local",
        &[
            LEASE,
            METADATA,
            DIFFER,
            "io.containerd.image-verifier.v1",
            SNAPSHOTTER,
        ],
    ),
    part(SERVICE, "containers-service", &[EVENT, METADATA]),
    part(SERVICE, "content-service", &[METADATA]),
    part(SERVICE, "diff-service", &[DIFFER]),
    part(
        SERVICE,
        "images-service",
        &[METADATA, GC, "io.containerd.warning.v1"],
    ),
    part(
        SERVICE,
        "introspection-service",
        &["io.containerd.warning.v1"],
    ),
    part(SERVICE, "namespaces-service", &[EVENT, METADATA]),
    part(SERVICE, "snapshots-service", &[METADATA]),
    part(
        SERVICE,
        "tasks-service",
        &[
            EVENT,
            RUNTIME.0,
            METADATA,
            "io.containerd.monitor.task.v1",
            "io.containerd.warning.v1",
        ],
    ),
    part(GRPC, "containers", &[SERVICE]),
    part(GRPC, "content", &[SERVICE]),
    part(GRPC, "diff", &[SERVICE]),
    part(GRPC, "events", &[EVENT]),
    part(GRPC, "healthcheck", &[]),
    part(GRPC, "images", &[SERVICE]),
    part(GRPC, "introspection", &[SERVICE]),
    part(GRPC, "leases", &[LEASE]),
    part(GRPC, "mounts", &[MOUNTS]),
    part(GRPC, "namespaces", &[SERVICE]),
    part(
        GRPC,
        "sandbox-controllers",
        &["io.containerd.podsandbox.controller.v1", CONTROLLER, EVENT],
    ),
    part(GRPC, "sandboxes", &[SANDBOX]),
    part(GRPC, "snapshots", &[SERVICE]),
    part(GRPC, "streaming", &[STREAMING]),
    part(GRPC, "tasks", &[SERVICE]),
    part(GRPC, "transfer", &[TRANSFER, STREAMING]),
    part(GRPC, "version", &[]),
];

impl Fields for Plugin {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["type"] => Some(self.r#type.clone()),
            ["id"] => Some(self.id.clone()),
            ["platforms"] => Some(String::new()),
            ["capabilities"] => Some(self.capabilities.join(",")),
            _ => None,
        }
    }
}

/// All parts of a manager.
pub(super) fn all(manager: &Manager) -> Vec<Plugin> {
    let snapshotters = manager
        .snapshotters()
        .map(|(name, exports, snapshots)| Plugin {
            r#type: SNAPSHOTTER.to_owned(),
            id: name.to_owned(),
            platforms: vec![platform()],
            capabilities: snapshots.capabilities(),
            exports,
            ..Plugin::default()
        });
    let places = manager.places();
    let parts = PARTS.iter().map(|part| {
        let own = part.exports.iter().map(|(key, value)| (*key, *value));
        let mut exports: BTreeMap<String, String> = own
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        match part.kind {
            CONTENT => exports.extend([("root".to_owned(), places.content.clone())]),
            METADATA => exports.extend([
                ("path".to_owned(), places.database.clone()),
                ("policy".to_owned(), "shared".to_owned()),
            ]),
            _ => {}
        }
        Plugin {
            r#type: part.kind.to_owned(),
            id: part.id.to_owned(),
            requires: part.requires.iter().map(ToString::to_string).collect(),
            platforms: part.here.then(platform).into_iter().collect(),
            exports,
            ..Plugin::default()
        }
    });
    let differs = manager.differs.iter().map(|differ| Plugin {
        r#type: DIFFER.to_owned(),
        id: differ.name().to_owned(),
        platforms: vec![platform()],
        ..Plugin::default()
    });
    snapshotters.chain(differs).chain(parts).collect()
}

/// The platform that this program is for, in Go's words.
fn platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "x86" => ("386", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
}
