//! The rules of the section `linux`.

use serde_json::{Value, json};

use super::*;

#[test]
fn namespaces() {
    error(
        "linux/namespaces/5",
        json!({"type": "pid"}),
        "linux.namespaces[5].type",
        "pid is listed twice",
    );
    error(
        "linux/namespaces/5",
        json!({"type": "net"}),
        "linux.namespaces[5].type",
        "one of cgroup, ipc",
    );
    error(
        "linux/namespaces/5",
        json!({"type": "time", "path": "x"}),
        "linux.namespaces[5].path",
        "not absolute",
    );
    passes("linux/namespaces/1/path", json!("/run/netns/x"));
    one(
        &[("linux/namespaces/3", json!({"type": "time"}))],
        Severity::Error,
        "hostname",
        "name of the host",
    );
    error("hostname", json!("x".repeat(65)), "hostname", "64 bytes");
    passes("domainname", json!("example.org"));
}

#[test]
fn id_mappings() {
    let ids = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    let with = |uids: Value| {
        changed(&[
            ("linux/namespaces/5", json!({"type": "user"})),
            ("linux/uidMappings", uids),
            ("linux/gidMappings", json!([ids(0, 0, u32::MAX)])),
        ])
    };
    assert_eq!(with(json!([ids(0, 1000, 1), ids(1, 100_000, 65535)])), []);
    for (mappings, path, words) in [
        (json!([]), "linux.uidMappings", "no id exists"),
        (
            json!([ids(0, 1000, 1), ids(5, 6, 0)]),
            "linux.uidMappings[1].size",
            "at least one",
        ),
        (
            json!([ids(0, 1000, u32::MAX)]),
            "linux.uidMappings[0]",
            "more than there are",
        ),
        (
            json!([ids(0, 1000, 10), ids(9, 5000, 1)]),
            "linux.uidMappings[1]",
            "overlaps",
        ),
        (
            json!([ids(0, 1000, 10), ids(20, 1009, 1)]),
            "linux.uidMappings[1]",
            "overlaps",
        ),
        (
            json!([ids(1, 1000, 10)]),
            "process.user.uid",
            "0 is not mapped",
        ),
        (
            json!(vec![ids(0, 0, 1); 341]),
            "linux.uidMappings",
            "the kernel takes 340",
        ),
    ] {
        let found = with(mappings);
        assert!(
            found.len() == 1 && found[0].path == path && found[0].message.contains(words),
            "{found:#?} instead of {path}: {words}"
        );
    }
    warning(
        "linux/uidMappings",
        json!([ids(0, 0, 1)]),
        "linux.uidMappings",
        "nothing to map",
    );
    // Callers send path and mappings together.
    assert_eq!(
        changed(&[
            (
                "linux/namespaces/5",
                json!({"type": "user", "path": "/proc/1/ns/user"})
            ),
            ("linux/uidMappings", json!([ids(0, 1000, 1)])),
            ("linux/gidMappings", json!([ids(0, 1000, 1)])),
        ]),
        []
    );
    assert_eq!(
        changed(&[(
            "linux/namespaces/5",
            json!({"type": "user", "path": "/proc/1/ns/user"})
        )]),
        []
    );
}

#[test]
fn time_offsets() {
    let time = |namespace: Value, offsets: Value| {
        changed(&[
            ("linux/namespaces/5", namespace),
            ("linux/timeOffsets", offsets),
        ])
    };
    let new = json!({"type": "time"});
    assert_eq!(
        time(
            new.clone(),
            json!({"monotonic": {"secs": -5, "nanosecs": 999_999_999}})
        ),
        []
    );
    let found = time(new.clone(), json!({"realtime": {"secs": 1}}));
    assert_eq!(found[0].path, "linux.timeOffsets.realtime");
    let found = time(new, json!({"boottime": {"nanosecs": 1_000_000_000}}));
    assert_eq!(found[0].path, "linux.timeOffsets.boottime.nanosecs");
    for old in [
        json!({"type": "time", "path": "/proc/1/ns/time"}),
        json!({"type": "user", "path": "/x"}),
    ] {
        let found = time(old, json!({"boottime": {"secs": 1}}));
        assert!(
            found.len() == 1 && found[0].message.contains("new time namespace"),
            "{found:?}"
        );
    }
}

#[test]
fn network_devices() {
    let at = "linux/netDevices";
    passes(
        at,
        json!({"eth0": {}, "eth1": {"name": "ctr%d"}, "eth2": {"name": "ctr%d"}}),
    );
    for (devices, path) in [
        (json!({"a/b": {}}), "linux.netDevices[\"a/b\"]"),
        (
            json!({"sixteen-bytes-xx": {}}),
            "linux.netDevices.sixteen-bytes-xx",
        ),
        (
            json!({"eth0": {"name": "a b"}}),
            "linux.netDevices.eth0.name",
        ),
        (
            json!({"eth0": {"name": "a%x"}}),
            "linux.netDevices.eth0.name",
        ),
        (
            json!({"eth0": {"name": "%d%d"}}),
            "linux.netDevices.eth0.name",
        ),
        (
            json!({"eth0": {"name": "eth1"}, "eth1": {}}),
            "linux.netDevices.eth0.name",
        ),
    ] {
        error(at, devices, path, "");
    }
    one(
        &[
            (at, json!({"eth0": {}})),
            ("linux/namespaces/1", json!({"type": "time"})),
        ],
        Severity::Error,
        at.replace('/', ".").as_str(),
        "nowhere to move",
    );
}

#[test]
fn sysctls() {
    let at = "linux/sysctl";
    passes(
        at,
        json!({
            "net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1",
            "kernel.shm_rmid_forced": "1", "kernel.msgmax": "1", "kernel.sem": "1 2 3 4",
            "fs.mqueue.msg_max": "1", "kernel.domainname": "x"
        }),
    );
    for (key, words) in [
        ("vm.swappiness", "no namespace"),
        ("kernel.hostname", "field of its own"),
        ("kernel/hostname", "field of its own"),
        ("kernel.semantics", "no namespace"),
        ("user.max_user_namespaces", "without a user namespace"),
        ("net.../kernel", "no name of a kernel parameter"),
        ("net/../kernel/panic", "no name of a kernel parameter"),
        ("", "no name of a kernel parameter"),
    ] {
        let mut document = good();
        document["linux"]["sysctl"] = json!({});
        document["linux"]["sysctl"][key] = json!("1");
        let found = findings(&document);
        assert!(
            found.len() == 1 && found[0].message.contains(words),
            "{key}: {found:#?}"
        );
    }
    one(
        &[
            (at, json!({"net.ipv4.ip_forward": "1"})),
            ("linux/namespaces/1", json!({"type": "time"})),
        ],
        Severity::Error,
        "linux.sysctl[\"net.ipv4.ip_forward\"]",
        "would change the host",
    );
}

#[test]
fn devices() {
    let at = "linux/devices";
    passes(
        at,
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/srv/pipe", "type": "p", "fileMode": 8630},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}
        ]),
    );
    error(
        at,
        json!([{"path": "fuse", "type": "c", "major": 1, "minor": 1}]),
        "linux.devices[0].path",
        "not absolute",
    );
    error(
        at,
        json!([{"path": "/x", "type": "d", "major": 1, "minor": 1}]),
        "linux.devices[0].type",
        "type of device",
    );
    error(
        at,
        json!([{"path": "/x", "type": "u", "minor": 1}]),
        "linux.devices[0].major",
        "missing",
    );
    error(
        at,
        json!([{"path": "/x", "type": "c", "major": 1, "minor": -1}]),
        "linux.devices[0].minor",
        "out of range",
    );
    error(
        at,
        json!([{"path": "/x", "type": "p", "fileMode": 1_000_000}]),
        "linux.devices[0].fileMode",
        "no file mode",
    );
    let zero =
        |path: &str, minor: i64| json!({"path": path, "type": "c", "major": 1, "minor": minor});
    error(
        at,
        json!([zero("/x", 3), zero("/x", 5)]),
        "linux.devices[1].path",
        "linux.devices[0]",
    );
    warning(
        at,
        json!([zero("/x", 3), zero("/y", 3)]),
        "linux.devices[1]",
        "same device",
    );
    passes(at, json!([zero("/x", 3), zero("/x", 3)]));
    let at = "linux/resources/devices";
    passes(
        at,
        json!([{"allow": false}, {"allow": true, "type": "c", "major": -1, "minor": 3, "access": "m"}]),
    );
    error(
        at,
        json!([{"allow": true, "type": "x", "access": "r"}]),
        "linux.resources.devices[0].type",
        "a, b, c",
    );
    error(
        at,
        json!([{"allow": true, "access": "rx"}]),
        "linux.resources.devices[0].access",
        "r, w and m",
    );
    error(
        at,
        json!([{"allow": true, "type": "c"}]),
        "linux.resources.devices[0].access",
        "no effect",
    );
    error(
        at,
        json!([{"allow": true, "major": -2, "access": "r"}]),
        "linux.resources.devices[0].major",
        "-1 for all",
    );
}

#[test]
fn resources() {
    let at = "linux/resources";
    passes(
        at,
        json!({
            "memory": {"limit": -1, "swap": -1, "reservation": 0, "kernel": -1, "swappiness": 100, "disableOOMKiller": false},
            "cpu": {"shares": 0, "quota": -1, "period": 0, "burst": 10, "idle": 1, "cpus": "0-1", "mems": "0", "realtimeRuntime": 950_000, "realtimePeriod": 1_000_000},
            "pids": {"limit": 0},
            "blockIO": {"weight": 0, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]},
            "hugepageLimits": [{"pageSize": "64KB", "limit": 0}],
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
            "unified": {"memory.high": "1", "hugetlb.1GB.max": "max"}
        }),
    );
    for (resources, path, words) in [
        (
            json!({"memory": {"limit": -2}}),
            "memory.limit",
            "no number of bytes",
        ),
        (
            json!({"memory": {"limit": 10, "swap": 9}}),
            "memory.swap",
            "memory and swap together",
        ),
        (
            json!({"memory": {"swappiness": 101}}),
            "memory.swappiness",
            "0 to 100",
        ),
        (
            json!({"cpu": {"period": 999}}),
            "cpu.period",
            "1000 to 1000000",
        ),
        (json!({"cpu": {"quota": 999}}), "cpu.quota", "1000 on"),
        (
            json!({"cpu": {"quota": 1000, "burst": 1001}}),
            "cpu.burst",
            "more than the quota",
        ),
        (
            json!({"cpu": {"realtimeRuntime": 2, "realtimePeriod": 1}}),
            "cpu.realtimeRuntime",
            "more than the period",
        ),
        (json!({"cpu": {"idle": 2}}), "cpu.idle", "neither 0 nor 1"),
        (json!({"cpu": {"cpus": "0-"}}), "cpu.cpus", "\"0-\""),
        (json!({"cpu": {"mems": "a"}}), "cpu.mems", "memory node"),
        (
            json!({"pids": {"limit": -2}}),
            "pids.limit",
            "-1 for no limit",
        ),
        (
            json!({"blockIO": {"weight": 9}}),
            "blockIO.weight",
            "10 to 1000",
        ),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
            "blockIO.weightDevice[0]",
            "neither weight",
        ),
        (
            json!({"blockIO": {"throttleReadIOPSDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
            "blockIO.throttleReadIOPSDevice[0]",
            "no block device",
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}),
            "hugepageLimits[0].pageSize",
            "such as 2MB",
        ),
        (
            json!({"rdma": {"mlx": {}}}),
            "rdma.mlx",
            "neither hcaHandles",
        ),
        (
            json!({"network": {"priorities": [{"name": "", "priority": 1}]}}),
            "network.priorities[0].name",
            "interface",
        ),
        (
            json!({"unified": {"../memory.max": "1"}}),
            "unified[\"../memory.max\"]",
            "not the name of a file",
        ),
    ] {
        error(at, resources, &format!("linux.resources.{path}"), words);
    }
    passes("linux/cgroupsPath", json!("/a/b..c"));
    error(
        "linux/cgroupsPath",
        json!("/a/../b"),
        "linux.cgroupsPath",
        "contains ..",
    );
}

#[test]
fn cgroups_of_systemd_have_three_parts() {
    let judge = |path: &str| {
        let mut document = good();
        document["linux"]["cgroupsPath"] = json!(path);
        let text = document.to_string();
        let spec: Spec<'_> = parse("config.json", text.as_bytes()).unwrap();
        let context = Context {
            systemd_cgroup: true,
            ..Context::default()
        };
        validate(&spec, &context)
    };
    assert_eq!(judge("system.slice:docker:abc"), []);
    assert_eq!(judge(""), []);
    assert!(judge("/docker/abc")[0].help.contains("slice:prefix:name"));
}

#[test]
fn seccomp() {
    let at = "linux/seccomp";
    passes(
        at,
        json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65535}),
    );
    passes(
        at,
        json!({
            "defaultAction": "SCMP_ACT_KILL", "flags": [], "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_RISCV64"],
            "listenerPath": "/run/x.sock", "listenerMetadata": "x",
            "syscalls": [{"names": ["a"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 5, "value": u64::MAX, "op": "SCMP_CMP_MASKED_EQ"}]}]
        }),
    );
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (seccomp, path, words) in [
        (json!({}), "defaultAction", "missing"),
        (
            json!({"defaultAction": "ALLOW"}),
            "defaultAction",
            "no seccomp action",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "defaultErrnoRet",
            "returns no errno",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}),
            "defaultErrnoRet",
            "up to 4095",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_LOG", "architectures": ["x86"]}),
            "architectures[0]",
            "no seccomp architecture",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_LOG", "flags": ["LOG"]}),
            "flags[0]",
            "no seccomp flag",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_LOG", "listenerMetadata": "x"}),
            "listenerMetadata",
            "nobody to send",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}),
            "defaultAction",
            "would hold",
        ),
        (
            rule(json!({"names": ["a"], "action": "SCMP_ACT_NOTIFY"})),
            "listenerPath",
            "needs a listener",
        ),
        (
            rule(json!({"names": [], "action": "SCMP_ACT_KILL"})),
            "syscalls[0].names",
            "at least one",
        ),
        (
            rule(json!({"names": [""], "action": "SCMP_ACT_KILL"})),
            "syscalls[0].names[0]",
            "empty",
        ),
        (
            rule(json!({"names": ["a"]})),
            "syscalls[0].action",
            "missing",
        ),
        (
            rule(json!({"names": ["a"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "syscalls[0].errnoRet",
            "returns no errno",
        ),
        (
            rule(
                json!({"names": ["a"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}),
            ),
            "syscalls[0].args[0].index",
            "0 to 5",
        ),
        (
            rule(
                json!({"names": ["a"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "=="}]}),
            ),
            "syscalls[0].args[0].op",
            "no seccomp comparison",
        ),
    ] {
        error(at, seccomp, &format!("linux.seccomp.{path}"), words);
    }
}

#[test]
fn the_rest_of_linux() {
    for good in [
        "shared",
        "slave",
        "private",
        "unbindable",
        "rslave",
        "rshared",
        "",
    ] {
        passes("linux/rootfsPropagation", json!(good));
    }
    error(
        "linux/rootfsPropagation",
        json!("bind"),
        "linux.rootfsPropagation",
        "no kind",
    );
    error(
        "linux/maskedPaths",
        json!(["proc"]),
        "linux.maskedPaths[0]",
        "not absolute",
    );
    error(
        "linux/readonlyPaths",
        json!(["/a\0"]),
        "linux.readonlyPaths[0]",
        "NUL",
    );
    passes("linux/personality", json!({"domain": "LINUX32"}));
    error(
        "linux/personality",
        json!({"domain": "BSD"}),
        "linux.personality.domain",
        "no execution domain",
    );
    error(
        "linux/personality",
        json!({"domain": "LINUX", "flags": ["X"]}),
        "linux.personality.flags[0]",
        "no flag",
    );
    let at = "linux/intelRdt";
    passes(
        at,
        json!({"closID": "/", "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f", "schemata": ["L2:0=1"]}),
    );
    error(
        at,
        json!({"closID": "a/b"}),
        "linux.intelRdt.closID",
        "class of service",
    );
    error(
        at,
        json!({"closID": ".."}),
        "linux.intelRdt.closID",
        "class of service",
    );
    error(
        at,
        json!({"memBwSchema": "0=20"}),
        "linux.intelRdt.memBwSchema",
        "MB:",
    );
    error(
        at,
        json!({"memBwSchema": "MB:0=20\nL3:0=1"}),
        "linux.intelRdt.memBwSchema",
        "MB:",
    );
    warning(
        at,
        json!({"l3CacheSchema": "0=f"}),
        "linux.intelRdt.l3CacheSchema",
        "L3:",
    );
    error(
        at,
        json!({"schemata": ["a", "b\nc"]}),
        "linux.intelRdt.schemata[1]",
        "one line",
    );
    let at = "linux/memoryPolicy";
    passes(
        at,
        json!({"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"]}),
    );
    passes(at, json!({"mode": "MPOL_DEFAULT", "flags": []}));
    passes(at, json!({"mode": "MPOL_PREFERRED"}));
    error(at, json!({}), "linux.memoryPolicy.mode", "missing");
    error(
        at,
        json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
        "linux.memoryPolicy.nodes",
        "takes no nodes",
    );
    error(
        at,
        json!({"mode": "MPOL_INTERLEAVE"}),
        "linux.memoryPolicy.nodes",
        "at least one node",
    );
    error(
        at,
        json!({"mode": "MPOL_BIND", "nodes": "x"}),
        "linux.memoryPolicy.nodes",
        "neither",
    );
    error(
        at,
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["F"]}),
        "linux.memoryPolicy.flags[0]",
        "no flag",
    );
    error(
        at,
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
        "linux.memoryPolicy.flags",
        "exclude",
    );
    error(
        at,
        json!({"mode": "MPOL_LOCAL", "flags": ["MPOL_F_STATIC_NODES"]}),
        "linux.memoryPolicy.flags",
        "without nodes",
    );
    error(
        at,
        json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
        "linux.memoryPolicy.flags",
        "MPOL_BIND",
    );
}
