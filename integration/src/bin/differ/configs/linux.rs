//! Variations of `linux`: namespaces, devices, sysctl, seccomp, resources.

use knarr_integration::{Value, bundle, json};

use super::Variation;
use crate::place::Place;

/// The variations.
pub const ALL: &[Variation] = &[
    ("host network", |c, _| bundle::drop_namespace(c, "network")),
    ("host pid", |c, _| bundle::drop_namespace(c, "pid")),
    ("host ipc", |c, _| bundle::drop_namespace(c, "ipc")),
    ("host uts", |c, _| {
        bundle::drop_namespace(c, "uts");
        c.as_object_mut().unwrap().remove("hostname");
    }),
    ("host cgroup", |c, _| bundle::drop_namespace(c, "cgroup")),
    ("joined network", |c, p| join(c, p, "network", "net")),
    ("joined uts", |c, p| {
        join(c, p, "uts", "uts");
        c.as_object_mut().unwrap().remove("hostname");
    }),
    ("joined uts with hostname", |c, p| join(c, p, "uts", "uts")),
    ("joined ipc", |c, p| join(c, p, "ipc", "ipc")),
    ("time", |c, _| {
        bundle::push(c, "/linux/namespaces", json!({"type": "time"}));
        c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 2000, "nanosecs": 0}});
    }),
    ("time without offsets", |c, _| {
        bundle::push(c, "/linux/namespaces", json!({"type": "time"}))
    }),
    ("user", user),
    ("user small", |c, p| {
        user(c, p);
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10},
                         {"containerID": 1000, "hostID": 200_000, "size": 1}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        for mount in c["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/dev/pts" {
                mount["options"] = json!(["nosuid", "noexec", "newinstance"]);
            }
        }
    }),
    ("devices", |c, _| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 1, "gid": 2},
            {"path": "/dev/plain", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/sub/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 384},
            {"path": "/dev/pipe", "type": "p", "fileMode": 420},
            {"path": "/var/zero", "type": "u", "major": 1, "minor": 5},
        ]);
    }),
    ("devices default again", |c, _| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 384, "uid": 0, "gid": 5},
        ]);
    }),
    ("device rules allow all", |c, _| {
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    }),
    ("device rules none", |c, _| {
        c["linux"]["resources"]
            .as_object_mut()
            .unwrap()
            .remove("devices");
    }),
    ("device rules", |c, _| {
        c["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "access": "r"},
            {"allow": false, "type": "c", "major": 1, "minor": 8, "access": "w"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]);
    }),
    ("device rules deny some", |c, _| {
        c["linux"]["resources"]["devices"] = json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]);
    }),
    ("sysctl net", |c, _| {
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "net/core/somaxconn": "300", "net.ipv4.ping_group_range": "0 100"});
    }),
    ("sysctl ipc", |c, _| {
        c["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1", "kernel.msgmax": "9000", "fs.mqueue.msg_max": "12"});
    }),
    ("sysctl domainname", |c, _| {
        c["linux"]["sysctl"] = json!({"kernel.domainname": "by.sysctl"})
    }),
    ("personality", |c, _| {
        c["linux"]["personality"] = json!({"domain": "LINUX32"})
    }),
    ("personality linux", |c, _| {
        c["linux"]["personality"] = json!({"domain": "LINUX"})
    }),
    ("seccomp allow", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"})
    }),
    ("seccomp errno", |c, _| {
        seccomp(
            c,
            json!([
                {"names": ["keyctl", "add_key", "clone3", "not_a_call"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["kcmp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
            ]),
        )
    }),
    ("seccomp arguments", |c, _| {
        seccomp(
            c,
            json!([
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
                 "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
                {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 4_294_967_295_u64, "op": "SCMP_CMP_EQ"}]},
                {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 1, "value": 21_522, "op": "SCMP_CMP_EQ"}]},
                {"names": ["prctl"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 1000, "op": "SCMP_CMP_GT"}]},
                {"names": ["close_range"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 2, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]},
            ]),
        )
    }),
    ("seccomp list", |c, _| {
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": super::everyday_calls(), "action": "SCMP_ACT_ALLOW"}],
        });
    }),
    ("seccomp list without arch", |c, _| {
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": super::everyday_calls(), "action": "SCMP_ACT_ALLOW"}],
        });
    }),
    ("seccomp log", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["kcmp"], "action": "SCMP_ACT_LOG"}]});
    }),
    ("seccomp flags", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
            "syscalls": [{"names": ["kcmp"], "action": "SCMP_ACT_ERRNO"}]});
    }),
    ("seccomp no flags", |c, _| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [],
            "syscalls": [{"names": ["kcmp"], "action": "SCMP_ACT_ERRNO"}]});
    }),
    ("seccomp trace", |c, _| {
        seccomp(
            c,
            json!([{"names": ["kcmp"], "action": "SCMP_ACT_TRACE", "errnoRet": 7}]),
        )
    }),
    ("seccomp trap", |c, _| {
        seccomp(c, json!([{"names": ["kcmp"], "action": "SCMP_ACT_TRAP"}]))
    }),
    ("seccomp kill", |c, _| {
        seccomp(
            c,
            json!([{"names": ["kcmp"], "action": "SCMP_ACT_KILL_PROCESS"}]),
        )
    }),
    ("memory", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "reservation": 33_554_432}),
        )
    }),
    ("memory swap", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "swap": 134_217_728}),
        )
    }),
    ("memory swap equal", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "swap": 67_108_864}),
        )
    }),
    ("memory unlimited", |c, _| {
        resource(c, "memory", json!({"limit": -1, "swap": -1}))
    }),
    ("memory limit no swap limit", |c, _| {
        resource(c, "memory", json!({"limit": 67_108_864, "swap": -1}))
    }),
    ("memory swappiness", |c, _| {
        resource(c, "memory", json!({"swappiness": 10}))
    }),
    ("memory oom killer", |c, _| {
        resource(c, "memory", json!({"disableOOMKiller": true}))
    }),
    ("memory oom killer kept", |c, _| {
        resource(c, "memory", json!({"disableOOMKiller": false}))
    }),
    ("memory hierarchy", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "useHierarchy": true}),
        )
    }),
    ("memory kernel", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "kernel": 33_554_432, "kernelTCP": 8_388_608}),
        );
    }),
    ("memory checked", |c, _| {
        resource(
            c,
            "memory",
            json!({"limit": 67_108_864, "checkBeforeUpdate": true}),
        );
    }),
    ("cpu shares", |c, _| {
        resource(c, "cpu", json!({"shares": 512}))
    }),
    ("cpu shares 2", |c, _| {
        resource(c, "cpu", json!({"shares": 2}))
    }),
    ("cpu shares most", |c, _| {
        resource(c, "cpu", json!({"shares": 262_144}))
    }),
    ("cpu quota", |c, _| {
        resource(c, "cpu", json!({"quota": 50_000, "period": 200_000}))
    }),
    ("cpu quota alone", |c, _| {
        resource(c, "cpu", json!({"quota": 50_000}))
    }),
    ("cpu period alone", |c, _| {
        resource(c, "cpu", json!({"period": 50_000}))
    }),
    ("cpu unlimited", |c, _| {
        resource(c, "cpu", json!({"quota": -1, "period": 100_000}))
    }),
    ("cpu burst", |c, _| {
        resource(
            c,
            "cpu",
            json!({"quota": 50_000, "period": 100_000, "burst": 20_000}),
        );
    }),
    ("cpu idle", |c, _| resource(c, "cpu", json!({"idle": 1}))),
    ("cpu set", |c, _| {
        resource(c, "cpu", json!({"cpus": "0", "mems": "0"}))
    }),
    ("pids", |c, _| resource(c, "pids", json!({"limit": 100}))),
    ("pids unlimited", |c, _| {
        resource(c, "pids", json!({"limit": -1}))
    }),
    ("pids zero", |c, _| resource(c, "pids", json!({"limit": 0}))),
    ("block weight", |c, _| {
        resource(c, "blockIO", json!({"weight": 300}))
    }),
    ("block throttle", |c, _| {
        resource(
            c,
            "blockIO",
            json!({
                "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1_048_576}],
                "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 100}],
            }),
        );
    }),
    ("huge pages", |c, _| {
        resource(
            c,
            "hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 4_194_304}]),
        );
    }),
    ("network class", |c, _| {
        resource(c, "network", json!({"classID": 1_048_577}))
    }),
    ("unified", |c, _| {
        resource(c, "unified", json!({"memory.high": "50000000"}))
    }),
    ("unified pids", |c, _| {
        resource(c, "unified", json!({"pids.max": "77"}))
    }),
    ("resources none", |c, _| {
        c["linux"].as_object_mut().unwrap().remove("resources");
    }),
    ("memory policy", |c, _| {
        c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    }),
];

fn join(config: &mut Value, place: &Place, kind: &str, short: &str) {
    bundle::namespace(config, kind)["path"] = json!(place.namespace(short));
}

fn user(config: &mut Value, place: &Place) {
    bundle::user_namespace(config);
    place.give_rootfs(100_000);
}

fn seccomp(config: &mut Value, calls: Value) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": calls,
    });
}

fn resource(config: &mut Value, name: &str, value: Value) {
    if config["linux"]["resources"].is_null() {
        config["linux"]["resources"] = json!({});
    }
    config["linux"]["resources"][name] = value;
}
