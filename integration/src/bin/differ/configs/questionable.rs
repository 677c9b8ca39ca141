//! Configurations that a runtime has to refuse, or about which runtimes may disagree: compared is
//! whether and when they are refused.

use knarr_integration::{bundle, json};

use super::Variation;

/// The variations.
pub const ALL: &[Variation] = &[
    ("version none", |c, _| {
        c.as_object_mut().unwrap().remove("ociVersion");
    }),
    ("version odd", |c, _| c["ociVersion"] = json!("one")),
    ("version 2", |c, _| c["ociVersion"] = json!("2.0.0")),
    ("root none", |c, _| {
        c.as_object_mut().unwrap().remove("root");
    }),
    ("root absent", |c, _| c["root"]["path"] = json!("nowhere")),
    ("args empty", |c, _| c["process"]["args"] = json!([])),
    ("args none", |c, _| {
        c["process"].as_object_mut().unwrap().remove("args");
    }),
    ("program absent", |c, _| {
        c["process"]["args"] = json!(["/bin/absent"])
    }),
    ("program not in PATH", |c, _| {
        c["process"]["args"] = json!(["absent"])
    }),
    ("program a directory", |c, _| {
        c["process"]["args"] = json!(["/etc"])
    }),
    ("program not executable", |c, _| {
        c["process"]["args"] = json!(["/etc/passwd"])
    }),
    ("cwd none", |c, _| {
        c["process"].as_object_mut().unwrap().remove("cwd");
    }),
    ("cwd relative", |c, _| c["process"]["cwd"] = json!("tmp")),
    ("cwd a file", |c, _| {
        c["process"]["cwd"] = json!("/etc/passwd")
    }),
    ("env without =", |c, _| {
        c["process"]["env"] = json!(["PATH=/", "odd"])
    }),
    ("env without name", |c, _| {
        c["process"]["env"] = json!(["PATH=/", "=x"])
    }),
    ("env with NUL", |c, _| {
        c["process"]["env"] = json!(["A=x\u{0}y"])
    }),
    ("rlimit unknown", |c, _| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_ODD", "soft": 1, "hard": 1}]);
    }),
    ("rlimit twice", |c, _| {
        let one = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
        c["process"]["rlimits"] = json!([one, one]);
    }),
    ("rlimit soft above hard", |c, _| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]);
    }),
    ("rlimit negative", |c, _| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": -1, "hard": -1}]);
    }),
    ("oom score too high", |c, _| {
        c["process"]["oomScoreAdj"] = json!(1001)
    }),
    ("uid negative", |c, _| {
        c["process"]["user"]["uid"] = json!(-1)
    }),
    ("uid text", |c, _| c["process"]["user"]["uid"] = json!("0")),
    ("namespace unknown", |c, _| {
        bundle::push(c, "/linux/namespaces", json!({"type": "odd"}))
    }),
    ("namespace twice", |c, _| {
        bundle::push(c, "/linux/namespaces", json!({"type": "pid"}))
    }),
    ("namespace path absent", |c, _| {
        bundle::namespace(c, "network")["path"] = json!("/absent")
    }),
    ("namespace of another type", |c, p| {
        bundle::namespace(c, "network")["path"] = json!(p.namespace("uts"));
    }),
    ("namespace path relative", |c, _| {
        bundle::namespace(c, "network")["path"] = json!("net")
    }),
    ("hostname without uts", |c, _| {
        bundle::drop_namespace(c, "uts")
    }),
    ("user without mappings", |c, _| {
        bundle::push(c, "/linux/namespaces", json!({"type": "user"}))
    }),
    ("mappings without user", |c, _| {
        c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    }),
    ("offsets without time", |c, _| {
        c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1, "nanosecs": 0}});
    }),
    ("mount source absent", |c, _| {
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "bind", "source": "/absent",
            "options": ["bind"]}),
        );
    }),
    ("mount type unknown", |c, _| {
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "oddfs", "source": "x"}),
        );
    }),
    ("mount option unknown", |c, _| {
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "tmpfs", "source": "x",
            "options": ["oddoption"]}),
        );
    }),
    ("mount without destination", |c, _| {
        bundle::push(c, "/mounts", json!({"type": "tmpfs", "source": "x"}));
    }),
    ("mount directory on a file", |c, p| {
        let source = p.directory("source");
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/etc/passwd", "type": "bind", "source": source,
            "options": ["bind"]}),
        );
    }),
    ("mount file on a directory", |c, p| {
        let source = p.file("source-file");
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "bind", "source": source,
            "options": ["bind"]}),
        );
    }),
    ("mount through a link to the outside", |c, p| {
        let _ = std::os::unix::fs::symlink("/../../../../tmp", p.path("rootfs/out"));
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/out/inner", "type": "tmpfs", "source": "x"}),
        );
    }),
    ("mount on a link to itself", |c, p| {
        let _ = std::os::unix::fs::symlink("loop", p.path("rootfs/loop"));
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/loop", "type": "tmpfs", "source": "x"}),
        );
    }),
    ("mount over proc's inside", |c, p| {
        let source = p.file("source-file");
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/proc/self/attr/current", "type": "bind",
            "source": source, "options": ["bind"]}),
        );
    }),
    ("mount on the root", |c, _| {
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/", "type": "tmpfs", "source": "x"}),
        );
    }),
    ("idmap without bind", |c, _| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1}]);
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "tmpfs", "source": "x",
            "uidMappings": map, "gidMappings": map}),
        );
    }),
    ("masked relative", |c, _| {
        c["linux"]["maskedPaths"] = json!(["proc/kcore"])
    }),
    ("readonly relative", |c, _| {
        c["linux"]["readonlyPaths"] = json!(["proc/sys"])
    }),
    ("propagation unknown", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("odd")
    }),
    ("sysctl of the host", |c, _| {
        // What it is already: a runtime that sets it changes nothing.
        let value = std::fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
        c["linux"]["sysctl"] = json!({"vm.swappiness": value.trim()});
    }),
    ("sysctl absent", |c, _| {
        c["linux"]["sysctl"] = json!({"net.odd.absent": "1"})
    }),
    ("sysctl of the host's network", |c, _| {
        bundle::drop_namespace(c, "network");
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    }),
    ("sysctl hostname", |c, _| {
        c["linux"]["sysctl"] = json!({"kernel.hostname": "odd"})
    }),
    ("device type unknown", |c, _| {
        c["linux"]["devices"] = json!([{"path": "/dev/odd", "type": "x", "major": 1, "minor": 3}]);
    }),
    ("device without numbers", |c, _| {
        c["linux"]["devices"] = json!([{"path": "/dev/odd", "type": "c"}]);
    }),
    ("device relative", |c, _| {
        c["linux"]["devices"] = json!([{"path": "dev/odd", "type": "c", "major": 1, "minor": 3}]);
    }),
    ("device twice", |c, _| {
        let one = json!({"path": "/dev/odd", "type": "c", "major": 1, "minor": 3});
        c["linux"]["devices"] = json!([one, one]);
    }),
    ("device rule of no access", |c, _| {
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "type": "c"}]);
    }),
    ("device rule of odd access", |c, _| {
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "type": "c", "access": "q"}]);
    }),
    ("seccomp action unknown", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ODD"})
    }),
    ("seccomp errno on allow", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5});
    }),
    ("seccomp arch unknown", |c, _| {
        c["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ODD"]});
    }),
    ("seccomp flag unknown", |c, _| {
        c["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_ODD"]});
    }),
    ("seccomp index too high", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kcmp"],
            "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]});
    }),
    ("seccomp notify without listener", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["kcmp"], "action": "SCMP_ACT_NOTIFY"}]});
    }),
    ("personality unknown", |c, _| {
        c["linux"]["personality"] = json!({"domain": "ODD"})
    }),
    ("scheduler unknown", |c, _| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_ODD"})
    }),
    ("scheduler nice of fifo", |c, _| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "nice": 5, "priority": 10});
    }),
    ("io class unknown", |c, _| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_ODD", "priority": 1});
    }),
    ("io priority too high", |c, _| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    }),
    ("memory swap below limit", |c, _| {
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 33_554_432});
    }),
    ("memory too small", |c, _| {
        c["linux"]["resources"]["memory"] = json!({"limit": 4096})
    }),
    ("cpu quota too small", |c, _| {
        c["linux"]["resources"]["cpu"] = json!({"quota": 1})
    }),
    ("cpu set absent", |c, _| {
        c["linux"]["resources"]["cpu"] = json!({"cpus": "100000"})
    }),
    ("rdma of no limit", |c, _| {
        c["linux"]["resources"]["rdma"] = json!({"mlx5_1": {}})
    }),
    ("unified absent file", |c, _| {
        c["linux"]["resources"]["unified"] = json!({"memory.odd": "1"});
    }),
    ("hook relative", |c, _| {
        c["hooks"] = json!({"prestart": [{"path": "true"}]})
    }),
    ("hook timeout zero", |c, p| {
        c["hooks"] = json!({"createRuntime": [{"path": p.path("rootfs/probe"), "timeout": 0,
            "args": ["probe", "probe", "exit:0"]}]});
    }),
    ("hook fails", |c, p| {
        c["hooks"] = json!({"createRuntime": [{"path": p.path("rootfs/probe"),
            "args": ["probe", "probe", "exit:3"]}]});
    }),
    ("hook of start fails", |c, _| {
        c["hooks"] =
            json!({"startContainer": [{"path": "/probe", "args": ["probe", "probe", "exit:3"]}]});
    }),
    ("hook poststart fails", |c, p| {
        c["hooks"] = json!({"poststart": [{"path": p.path("rootfs/probe"),
            "args": ["probe", "probe", "exit:3"]}]});
    }),
    ("intel rdt", |c, _| {
        c["linux"]["intelRdt"] = json!({"l3CacheSchema": "L3:0=f"})
    }),
    ("apparmor profile", |c, _| {
        c["process"]["apparmorProfile"] = json!("odd")
    }),
    ("selinux label", |c, _| {
        c["process"]["selinuxLabel"] = json!("odd")
    }),
    ("mount label", |c, _| {
        c["linux"]["mountLabel"] = json!("odd")
    }),
    ("net device absent", |c, _| {
        c["linux"]["netDevices"] = json!({"absent0": {}})
    }),
    ("capability of another case", |c, _| {
        c["process"]["capabilities"] =
            json!({"bounding": ["cap_kill", "KILL"], "permitted": ["CAP_KILL"]});
    }),
    ("ambient beyond inheritable", |c, _| {
        c["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"],
            "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    }),
    ("effective beyond permitted", |c, _| {
        c["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"], "permitted": [],
            "effective": ["CAP_KILL"]});
    }),
    ("process none", |c, _| {
        c.as_object_mut().unwrap().remove("process");
    }),
    ("windows section", |c, _| {
        c["windows"] = json!({"layerFolders": ["x"]})
    }),
    ("annotation of no name", |c, _| {
        c["annotations"] = json!({"": "x"})
    }),
    ("annotation a number", |c, _| {
        c["annotations"] = json!({"a": 1})
    }),
];
