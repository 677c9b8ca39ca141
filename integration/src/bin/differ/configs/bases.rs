//! The configurations from which the others are made, as callers write them.

use knarr_integration::{Value, bundle, json};

use crate::place::Place;

const DOCKER: &str = include_str!("../../../../bundles/docker-like.json");

/// The integration tests' own: a tmpfs on /dev, six namespaces, fourteen capabilities.
pub fn plain(_: &Place) -> Value {
    bundle::config("", "1.3.0")
}

/// What `runc spec` and `crun spec` write, without the terminal.
pub fn spec(_: &Place) -> Value {
    bundle::runc_spec()
}

/// What `runc spec --rootless` writes, but for the map: the caller is root.
pub fn spec_rootless(place: &Place) -> Value {
    let mut config = spec(place);
    bundle::drop_namespace(&mut config, "network");
    bundle::user_namespace(&mut config);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/sys" && m["destination"] != "/sys/fs/cgroup");
    mounts.push(
        json!({"destination": "/sys", "type": "none", "source": "/sys",
                       "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
    );
    for mount in mounts {
        if mount["destination"] == "/dev/pts" {
            mount["options"] = json!([
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620"
            ]);
        }
    }
    config["linux"].as_object_mut().unwrap().remove("resources");
    place.give_rootfs(100_000);
    config
}

/// What dockerd writes, with its bound files.
pub fn docker(place: &Place) -> Value {
    let mut config: Value = serde_json::from_str(DOCKER).unwrap();
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            let name = mount["source"].as_str().unwrap().replace('/', "-");
            mount["source"] = place.file(&name);
        }
    }
    config
}

/// What `podman run` writes for a rootful container: run files bound, a small list of capabilities,
/// umask, ulimits, annotations for crun.
pub fn podman(place: &Place) -> Value {
    let mut config = docker(place);
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    config["process"]["capabilities"] = json!({"bounding": capabilities, "effective": capabilities,
                                               "permitted": capabilities});
    config["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 18, "additionalGids": [0]});
    config["process"]["env"] = json!([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "container=podman",
        "HOME=/root",
        "HOSTNAME=box"
    ]);
    config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096},
        {"type": "RLIMIT_NPROC", "hard": 4194, "soft": 4194},
    ]);
    config["annotations"] = json!({
        "io.container.manager": "libpod", "io.podman.annotations.autoremove": "FALSE",
        "org.opencontainers.image.stopSignal": "15", "run.oci.hooks.stderr": "/dev/null",
    });
    bundle::push(
        &mut config,
        "/mounts",
        json!({"destination": "/run/.containerenv", "type": "bind",
        "source": place.file("containerenv"), "options": ["bind", "rprivate"]}),
    );
    config["linux"]["rootfsPropagation"] = json!("private");
    config
}

/// The pause container of a pod, as containerd's CRI plugin writes it.
pub fn pause(place: &Place) -> Value {
    let mut config = plain(place);
    config["process"]["user"] = json!({"uid": 65535, "gid": 65535, "additionalGids": [65535]});
    config["process"]["oomScoreAdj"] = json!(0);
    config["process"]["noNewPrivileges"] = json!(true);
    config["root"]["readonly"] = json!(true);
    config["annotations"] = json!({"io.kubernetes.cri.container-type": "sandbox",
                                   "io.kubernetes.cri.sandbox-id": "pause"});
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev/shm" {
            *mount = json!({"destination": "/dev/shm", "type": "bind", "source": place.directory("shm"),
                            "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]});
        }
    }
    bundle::push(
        &mut config,
        "/mounts",
        json!({"destination": "/etc/resolv.conf", "type": "bind",
        "source": place.file("resolv.conf"), "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]}),
    );
    config["linux"]["resources"]["cpu"] = json!({"shares": 2});
    config["linux"]["maskedPaths"] = json!(bundle::MASKED);
    config["linux"]["readonlyPaths"] = json!(bundle::READONLY);
    config
}

/// A container of a pod, as containerd's CRI plugin writes it: the pause container's namespaces,
/// files of the kubelet, limits.
pub fn pod(place: &Place) -> Value {
    let mut config = plain(place);
    for kind in ["network", "ipc", "uts"] {
        let short = if kind == "network" { "net" } else { kind };
        bundle::namespace(&mut config, kind)["path"] = json!(place.namespace(short));
    }
    config.as_object_mut().unwrap().remove("hostname");
    config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [0, 10]});
    config["process"]["env"] = json!([
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=pod",
        "KUBERNETES_PORT=tcp://10.0.0.1:443"
    ]);
    config["process"]["oomScoreAdj"] = json!(985);
    for (name, to) in [
        ("hosts", "/etc/hosts"),
        ("termination", "/dev/termination-log"),
    ] {
        let source = place.file(name);
        bundle::push(
            &mut config,
            "/mounts",
            json!({"destination": to, "type": "bind",
            "source": source, "options": ["rbind", "rprivate", "rw"]}),
        );
    }
    bundle::push(
        &mut config,
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    bundle::push(
        &mut config,
        "/mounts",
        json!({"destination": "/var/run/secrets", "type": "bind",
        "source": place.directory("secrets"), "options": ["rbind", "rprivate", "ro"]}),
    );
    config["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 134_217_728, "swap": 134_217_728},
        "cpu": {"shares": 102, "quota": 50_000, "period": 100_000},
    });
    config["linux"]["maskedPaths"] = json!(bundle::MASKED);
    config["linux"]["readonlyPaths"] = json!(bundle::READONLY);
    config
}

/// The least that the specification demands.
pub fn least(_: &Place) -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/probe"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    })
}

/// What `docker run --privileged` asks for.
pub fn privileged(place: &Place) -> Value {
    let mut config = docker(place);
    let all = json!(super::EVERY_CAPABILITY);
    config["process"]["capabilities"] =
        json!({"bounding": all, "effective": all, "permitted": all});
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("seccomp");
    linux.remove("maskedPaths");
    linux.remove("readonlyPaths");
    linux["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    for mount in config["mounts"].as_array_mut().unwrap() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "ro");
        }
    }
    config
}

/// The names of the calls that the profile of [`docker`] allows whatever their arguments.
pub fn everyday_calls() -> Value {
    let config: Value = serde_json::from_str(DOCKER).unwrap();
    let rules = config["linux"]["seccomp"]["syscalls"].as_array().unwrap();
    let allowed = rules
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null());
    allowed
        .flat_map(|rule| rule["names"].as_array().unwrap().clone())
        .collect()
}
