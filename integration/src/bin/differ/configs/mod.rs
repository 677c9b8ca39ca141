//! The configurations: bases as callers write them, each field varied, and mixes drawn with a fixed
//! seed. Each is the same for every runtime.

mod bases;
mod linux;
mod mounts;
mod process;
mod questionable;

use knarr_integration::{Value, json};

use crate::place::Place;

/// A change of a configuration, with the name under which the list of differences knows it.
pub type Variation = (&'static str, fn(&mut Value, &Place));

/// Makes a configuration.
type Base = (&'static str, fn(&Place) -> Value);

/// How a container is exercised.
#[derive(Debug, Clone)]
pub enum Drive {
    /// create, start, a report, exec with another report, kill, delete.
    Whole {
        /// Flags of `exec`; without any it gets the container's own process by `--process`.
        exec: &'static [&'static str],
    },
    /// `run` of a process that does this, and its exit code.
    Run(&'static str),
}

/// One configuration.
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique: `area/variation`.
    pub name: String,
    /// How it is exercised.
    pub drive: Drive,
    base: fn(&Place) -> Value,
    variations: Vec<fn(&mut Value, &Place)>,
}

impl Case {
    /// The configuration, with whatever it refers to made in `place`.
    pub fn config(&self, place: &Place) -> Value {
        let mut config = (self.base)(place);
        config["process"]["args"] = json!(["/probe"]);
        for vary in &self.variations {
            vary(&mut config, place);
        }
        config["linux"]["cgroupsPath"] = json!(place.cgroup);
        config
    }
}

const BASES: &[Base] = &[
    ("plain", bases::plain),
    ("runc spec", bases::spec),
    ("runc spec rootless", bases::spec_rootless),
    ("docker", bases::docker),
    ("podman", bases::podman),
    ("kubelet pause", bases::pause),
    ("kubelet container", bases::pod),
    ("least", bases::least),
    ("docker privileged", bases::privileged),
];

/// Flags of exec instead of a process file.
const EXECS: &[(&str, &[&str])] = &[
    ("nothing", &["--"]),
    ("user", &["--user", "1000:2000"]),
    ("user without group", &["--user", "1000"]),
    ("groups", &["--user", "1000:1000", "--cap", "CAP_NET_RAW"]),
    ("cap", &["--cap", "CAP_SYS_PTRACE"]),
    ("no new privs", &["--no-new-privs"]),
    ("cwd", &["--cwd", "/tmp"]),
    ("env", &["--env", "A=1", "--env", "HOME=/x", "--env", "A=2"]),
];

const RUNS: &[(&str, &str)] = &[
    ("exits with 0", "exit:0"),
    ("exits with 42", "exit:42"),
    ("exits with 255", "exit:255"),
    ("is terminated", "kill:15"),
    ("is killed", "kill:9"),
];

/// Beginnings of the names of those that differ between the versions of cgroups: they are run first.
const FIRST: &[&str] = &[
    "linux/block",
    "linux/cpu",
    "linux/device rules",
    "linux/huge",
    "linux/memory",
    "linux/network class",
    "linux/pids",
    "linux/resources",
    "linux/unified",
    "mounts/cgroup",
];

/// How many mixes there are.
const MIXES: usize = 50;

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let whole = Drive::Whole { exec: &[] };
    for (name, base) in BASES {
        cases.push(case(format!("base/{name}"), &whole, *base, Vec::new()));
    }
    for (area, variations) in [
        ("process", process::ALL),
        ("mounts", mounts::ALL),
        ("linux", linux::ALL),
        ("questionable", questionable::ALL),
    ] {
        for (name, vary) in variations {
            let name = format!("{area}/{name}");
            cases.push(case(name, &whole, bases::plain, vec![*vary]));
        }
    }
    for (name, flags) in EXECS {
        let drive = Drive::Whole { exec: flags };
        cases.push(case(
            format!("exec/{name}"),
            &drive,
            bases::plain,
            Vec::new(),
        ));
        cases.push(case(
            format!("exec/docker {name}"),
            &drive,
            bases::docker,
            Vec::new(),
        ));
    }
    for (name, operation) in RUNS {
        let drive = Drive::Run(operation);
        // As init a process is deaf for signals of its own, so it must not be one.
        let vary: Vec<fn(&mut Value, &Place)> = if operation.starts_with("kill") {
            vec![|c, _| knarr_integration::bundle::drop_namespace(c, "pid")]
        } else {
            Vec::new()
        };
        cases.push(case(format!("run/{name}"), &drive, bases::plain, vary));
    }
    cases.extend(mixes());
    // What is cut off for lack of time is some of everything but what cgroups are given.
    let mut draw = Draw(0x5eed);
    cases.sort_by_cached_key(|case| {
        let first = FIRST.iter().any(|part| case.name.starts_with(part));
        (!first, if first { 0 } else { draw.below(1 << 16) })
    });
    cases
}

fn case(
    name: String,
    drive: &Drive,
    base: fn(&Place) -> Value,
    variations: Vec<fn(&mut Value, &Place)>,
) -> Case {
    Case {
        name,
        drive: drive.clone(),
        base,
        variations,
    }
}

/// Three or four variations at once on one of the bases: fields that influence each other.
fn mixes() -> Vec<Case> {
    let mut draw = Draw(0x5eed);
    let mut cases = Vec::new();
    // Not together with others: they make the host's /dev the container's, or leave nothing to vary.
    let alone = ["dev bound", "mounts none", "seccomp kill", "seccomp trap"];
    for number in 0..MIXES {
        let (base_name, base) = BASES[draw.below(6)];
        let mut names = vec![base_name];
        let mut variations = Vec::new();
        for area in [process::ALL, mounts::ALL, linux::ALL, linux::ALL] {
            let (name, vary) = area[draw.below(area.len())];
            let kind = name.split(' ').next().unwrap_or(name);
            // Twice the same field: the second would undo the first.
            if !alone.contains(&name) && !names.iter().any(|other| other.starts_with(kind)) {
                names.push(name);
                variations.push(vary);
            }
        }
        let name = format!("mix/{number:02} {}", names.join(", "));
        cases.push(case(name, &Drive::Whole { exec: &[] }, base, variations));
    }
    cases
}

/// Numbers that look random and are the same on every machine (xorshift64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// The calls that Docker's profile allows whatever their arguments.
pub fn everyday_calls() -> Value {
    bases::everyday_calls()
}

/// Every capability up to CAP_CHECKPOINT_RESTORE that a container may be given.
pub const EVERY_CAPABILITY: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYSLOG",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];
