//! Requests of the right shape with hostile values, to every method.
//!
//! `KNARR_FUZZ_SEED` repeats a run that failed, `KNARR_FUZZ_ROUNDS` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knarr_proto::prost::Message as _;
use knarr_proto::prost::encoding::{WireType, encode_key, encode_varint};
use knarr_proto::prost_types::field_descriptor_proto::{Label, Type};
use knarr_proto::prost_types::{DescriptorProto, FileDescriptorSet};
use knarr_proto::services::version::v1::version_client::VersionClient;
use support::wire::{call_with, described};
use support::{Chance, Daemon, command};

/// How deep messages are in each other.
const DEEPEST: u32 = 5;

/// Requests to each method, unless told otherwise.
const ROUNDS: u64 = 12;

/// What names, paths, digests, filters, references and the like may look like, and must not.
const TEXTS: [&str; 44] = [
    "",
    "a",
    "b",
    "test",
    "default",
    "../../../../etc/passwd",
    "/nonesuch/path",
    "/",
    ".",
    "..",
    "a/b/c",
    "a b",
    "\0",
    "a\0b",
    "ä€𝄞\u{202e}",
    "%s%n%d",
    "sha256:",
    "sha256:zz",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:00",
    "overlayfs",
    "native",
    "nonesuch",
    "shim",
    "io.containerd.nonesuch.v1",
    "io.containerd.snapshotter.v1",
    "labels",
    "labels.a",
    "labels.",
    "target",
    "spec",
    "name==a",
    "labels.\"a.b\"~=/(a|a)*$/",
    "labels.a~=((((((((((a*)*)*)*)*)*)*)*)*)*",
    "==",
    "\"",
    "format/mkdir/overlay",
    "format/bind",
    "{{ mount 0 }}",
    "{{ overlay 0 99999999999999999999 }}",
    "containerd.io/gc.ref.content.0",
    "containerd.io/gc.expire",
    "2001-02-03T04:05:06Z",
    "localhost:1/nonesuch:latest",
];

struct Maker {
    chance: Chance,
    messages: HashMap<String, DescriptorProto>,
}

fn add(messages: &mut HashMap<String, DescriptorProto>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        add(messages, &name, nested);
    }
    messages.insert(name, message.clone());
}

impl Maker {
    fn new(seed: u64) -> Self {
        let files = FileDescriptorSet::decode(knarr_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut messages = HashMap::new();
        for file in &files.file {
            for message in &file.message_type {
                add(&mut messages, file.package(), message);
            }
        }
        // Zero would stay zero.
        let chance = Chance(seed | 1);
        Self { chance, messages }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.chance.below(from.len().try_into().unwrap());
        from[usize::try_from(at).unwrap()]
    }

    fn text(&mut self) -> String {
        match self.chance.below(30) {
            0 => self.pick(&TEXTS).repeat(500),
            1 => format!("{}{}", self.pick(&TEXTS), self.pick(&TEXTS)),
            _ => self.pick(&TEXTS).to_owned(),
        }
    }

    fn number(&mut self) -> u64 {
        let some = [
            0,
            1,
            2,
            3,
            127,
            4096,
            1 << 31,
            u64::from(u32::MAX),
            1 << 62,
            1 << 63,
            u64::MAX,
        ];
        self.pick(&some)
    }

    /// A message of that name: most fields, some of them many times.
    fn message(&mut self, name: &str, depth: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let fields = self.messages.get(name).map(|message| message.field.clone());
        for field in fields.unwrap_or_default() {
            let times = match (field.label(), self.chance.below(10)) {
                (_, 0 | 1) => 0,
                (Label::Repeated, 2) => 40,
                (Label::Repeated, _) => self.chance.below(4),
                _ => 1,
            };
            let number = u32::try_from(field.number()).unwrap();
            for _ in 0..times {
                let bytes = match field.r#type() {
                    Type::String => self.text().into_bytes(),
                    Type::Bytes => (0..self.chance.below(200))
                        .map(|_| self.chance.byte())
                        .collect(),
                    Type::Message | Type::Group => {
                        let inner = field.type_name().trim_start_matches('.').to_owned();
                        match depth {
                            0 => continue,
                            depth => self.message(&inner, depth - 1),
                        }
                    }
                    _ => {
                        encode_key(number, WireType::Varint, &mut out);
                        encode_varint(self.number(), &mut out);
                        continue;
                    }
                };
                encode_key(number, WireType::LengthDelimited, &mut out);
                encode_varint(bytes.len().try_into().unwrap(), &mut out);
                out.extend(bytes);
            }
        }
        out
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_answered() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("KNARR_FUZZ_SEED").unwrap_or(now.subsec_nanos().into());
    let rounds = setting("KNARR_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    // Shown where the test fails.
    println!("KNARR_FUZZ_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let daemon = command(dir.path());
    // What it mounts and whom it calls is nobody's business.
    let mut daemon = if rustix::process::geteuid().is_root() {
        let mut own = Command::new("unshare");
        own.args(["-m", "-n", "--propagation", "private"]);
        own.arg(daemon.get_program()).args(daemon.get_args());
        Daemon::run(dir.path(), own)
    } else {
        Daemon::run(dir.path(), daemon)
    };
    let channel = daemon.connect().await;
    let mut maker = Maker::new(seed);
    let methods = described();
    assert_eq!(methods.len(), 88);
    for round in 0..rounds {
        for (path, request) in &methods {
            let count = 1 + maker.chance.below(3);
            let messages: Vec<Vec<u8>> = (0..count)
                .map(|_| maker.message(request, DEEPEST))
                .collect();
            let limit = Duration::from_millis(100);
            if let Err(status) = call_with(&channel, path, messages, limit).await {
                let said = status.message();
                assert!(
                    !said.contains("panicked"),
                    "{path}, round {round}: {status}"
                );
                assert!(
                    said.len() < 100_000,
                    "{path}, round {round}: {}",
                    said.len()
                );
            }
        }
        let mut client = VersionClient::new(channel.clone());
        let version = client.version(());
        let version = tokio::time::timeout(Duration::from_secs(30), version).await;
        assert!(
            version.is_ok_and(|answer| answer.is_ok()),
            "after round {round}"
        );
        assert!(
            daemon.child.try_wait().unwrap().is_none(),
            "after round {round}"
        );
    }
}
