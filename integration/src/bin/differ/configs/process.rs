//! Variations of `process`, `hostname` and `hooks`.

use knarr_integration::{Value, bundle, json};

use super::Variation;
use crate::place::Place;

/// The variations.
pub const ALL: &[Variation] = &[
    ("umask", |c, _| c["process"]["user"]["umask"] = json!(0o077)),
    ("umask zero", |c, _| {
        c["process"]["user"]["umask"] = json!(0)
    }),
    ("user", |c, _| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000})
    }),
    ("user without a name", |c, _| {
        c["process"]["user"] = json!({"uid": 4242, "gid": 4343})
    }),
    ("group only", |c, _| {
        c["process"]["user"] = json!({"uid": 0, "gid": 2000})
    }),
    ("groups", |c, _| {
        c["process"]["user"]["additionalGids"] = json!([5, 2000, 7])
    }),
    ("user and groups", |c, _| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 2000]});
    }),
    ("username", |c, _| {
        c["process"]["user"]["username"] = json!("worker")
    }),
    ("cwd", |c, _| c["process"]["cwd"] = json!("/tmp")),
    ("cwd absent", |c, _| {
        c["process"]["cwd"] = json!("/not/there/yet")
    }),
    ("env none", |c, _| {
        c["process"].as_object_mut().unwrap().remove("env");
    }),
    ("env empty", |c, _| c["process"]["env"] = json!([])),
    ("env without PATH", |c, _| {
        c["process"]["env"] = json!(["A=1"])
    }),
    ("env twice", |c, _| {
        c["process"]["env"] = json!(["A=1", "B=2", "A=3", "HOME=/x"])
    }),
    ("env odd", |c, _| {
        c["process"]["env"] = json!(["A=", "B=x=y", "C= spaced ", "Z=\u{fc}"])
    }),
    ("env HOME empty", |c, _| {
        c["process"]["env"] = json!(["PATH=/", "HOME="])
    }),
    ("env without HOME of a user", |c, _| {
        c["process"]["env"] = json!(["PATH=/"]);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
    ("args by PATH", |c, _| {
        c["process"]["env"] = json!(["PATH=/nowhere:/"]);
        c["process"]["args"][0] = json!("probe");
    }),
    ("args relative", |c, _| {
        c["process"]["args"][0] = json!("./probe")
    }),
    ("args without PATH", |c, _| {
        c["process"]["env"] = json!([]);
        c["process"]["args"][0] = json!("/probe");
    }),
    ("no new privileges", |c, _| {
        c["process"]["noNewPrivileges"] = json!(true)
    }),
    ("new privileges", |c, _| {
        c["process"]["noNewPrivileges"] = json!(false)
    }),
    ("capabilities absent", |c, _| {
        c["process"].as_object_mut().unwrap().remove("capabilities");
    }),
    ("capabilities none", |c, _| {
        c["process"]["capabilities"] = json!({})
    }),
    ("capabilities bounding", |c, _| {
        c["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]})
    }),
    ("capabilities inheritable", |c, _| inheritable(c, false)),
    ("capabilities ambient", |c, _| inheritable(c, true)),
    ("capabilities ambient user", |c, _| {
        inheritable(c, true);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
    ("capabilities user", |c, _| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        let some = json!(["CAP_KILL", "CAP_NET_RAW"]);
        c["process"]["capabilities"] =
            json!({"bounding": some, "effective": some, "permitted": some});
    }),
    ("capabilities permitted", |c, _| {
        c["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": []});
    }),
    ("capabilities unknown", |c, _| {
        c["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_TO_COME"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
    }),
    ("capabilities all", |c, _| {
        let all = json!(super::EVERY_CAPABILITY);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    }),
    ("rlimits", |c, _| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608},
            {"type": "RLIMIT_MEMLOCK", "soft": 65_536, "hard": 65_536},
        ]);
    }),
    ("rlimits more", |c, _| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_AS", "soft": 17_179_869_184_u64, "hard": u64::MAX},
            {"type": "RLIMIT_CPU", "soft": 100, "hard": 200},
            {"type": "RLIMIT_DATA", "soft": u64::MAX, "hard": u64::MAX},
            {"type": "RLIMIT_FSIZE", "soft": 1_000_000_000, "hard": 2_000_000_000},
            {"type": "RLIMIT_SIGPENDING", "soft": 100, "hard": 100},
            {"type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 1000},
            {"type": "RLIMIT_RTTIME", "soft": 1000, "hard": 1000},
            {"type": "RLIMIT_NPROC", "soft": 4000, "hard": 4000},
        ]);
    }),
    ("oom score", |c, _| c["process"]["oomScoreAdj"] = json!(500)),
    ("oom score zero", |c, _| {
        c["process"]["oomScoreAdj"] = json!(0)
    }),
    ("scheduler batch", |c, _| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    }),
    ("scheduler idle", |c, _| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"})
    }),
    ("scheduler other", |c, _| {
        c["process"]["scheduler"] =
            json!({"policy": "SCHED_OTHER", "nice": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    }),
    ("io priority", |c, _| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    }),
    ("io priority idle", |c, _| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    }),
    ("affinity for exec", |c, _| {
        c["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    }),
    ("terminal", |c, _| {
        c["process"]["terminal"] = json!(true);
        c["process"]["consoleSize"] = json!({"height": 33, "width": 101});
    }),
    ("terminal of a user", |c, _| {
        c["process"]["terminal"] = json!(true);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
    ("size without a terminal", |c, _| {
        c["process"]["consoleSize"] = json!({"height": 33, "width": 101});
    }),
    ("hostname none", |c, _| {
        c.as_object_mut().unwrap().remove("hostname");
    }),
    ("domainname", |c, _| c["domainname"] = json!("example.org")),
    ("annotations", |c, _| {
        c["annotations"] =
            json!({"org.example.a": "1", "b": "", "org.example.long": "x".repeat(300)});
    }),
    ("readonly root", |c, _| c["root"]["readonly"] = json!(true)),
    ("unknown properties", |c, _| {
        c["later"] = json!({"a": [1]});
        c["process"]["later"] = json!(true);
        c["linux"]["later"] = json!("x");
    }),
    ("hooks", hooks),
];

fn inheritable(config: &mut Value, ambient: bool) {
    let some = json!(["CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN"]);
    config["process"]["capabilities"] =
        json!({"bounding": some, "effective": some, "permitted": some, "inheritable": some});
    if ambient {
        config["process"]["capabilities"]["ambient"] = json!(["CAP_NET_RAW"]);
    }
}

/// One hook of each kind, that writes down what it sees.
fn hooks(config: &mut Value, place: &Place) {
    let probe = place.path("rootfs/probe");
    let log = place.path("hooks.log");
    place.inside("hooks");
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let args = json!(["probe", "hook", log, kind]);
        let hook = json!({"path": probe, "args": args, "env": ["HOOK=1", "B=2"], "timeout": 10});
        if config["hooks"].is_null() {
            config["hooks"] = json!({});
        }
        bundle::push(config, &format!("/hooks/{kind}"), hook);
    }
    let args = json!(["probe", "hook", "/hooks/log", "startContainer"]);
    let hook = json!({"path": "/probe", "args": args, "env": ["HOOK=1"], "timeout": 10});
    bundle::push(config, "/hooks/startContainer", hook);
}
