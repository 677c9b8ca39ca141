//! Every limit of the specification on cgroup v2, read back from the kernel: the same tests for
//! the files written directly and for systemd's scopes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use knarr_integration::{Container, Sandbox, Value, both_drivers, cgroup, json, process};

both_drivers! {
    values_reach_their_files
    shares_become_weights
    minus_one_is_max
    swap_is_the_difference
    quota_period_and_burst_keep_each_other
    idle_takes_the_weight_away
    block_devices_are_throttled
    block_weights_go_to_the_scheduler_there_is
    huge_pages_and_their_reservations
    rdma_and_misc
    unified_keys
    impossible_fields_are_errors
    a_limit_below_the_usage_is_refused_where_asked
    a_refused_update_changes_nothing
    no_task_at_all
    a_controller_that_is_not_there_is_an_error
}

fn read(c: &Container, file: &str) -> String {
    cgroup::read("", &c.bundle.cgroup, file)
}

#[track_caller]
fn reads(c: &Container, expected: &[(&str, &str)]) {
    for (file, value) in expected {
        assert_eq!(read(c, file), *value, "{file}");
    }
}

fn update(sb: &Sandbox, id: &str, resources: &Value) -> knarr_integration::Outcome {
    sb.rt_stdin(&["update", "--resources=-", id], &resources.to_string())
}

fn limited(sb: &Sandbox, id: &str, resources: &Value) -> Container {
    sb.sleeper(id, |c| {
        for (name, value) in resources.as_object().unwrap() {
            c["linux"]["resources"][name] = value.clone();
        }
    })
}

/// Insists that a container with these limits is refused, the message names `field`, and nothing is left.
#[track_caller]
fn refused(sb: &Sandbox, resources: &Value, field: &str) {
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        for (name, value) in resources.as_object().unwrap() {
            c["linux"]["resources"][name] = value.clone();
        }
    });
    let out = sb
        .create("refused", &bundle)
        .fails_with(&format!("linux.resources.{field}"));
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    sb.same_as(&before);
}

fn values_reach_their_files(sb: &Sandbox) {
    let c = limited(
        sb,
        "values",
        &json!({
            "cpu": {"shares": 512, "quota": 40_000, "period": 80_000, "burst": 10_000, "cpus": "0", "mems": "0"},
            "memory": {"limit": 209_715_200, "swap": 419_430_400, "reservation": 104_857_600,
                "disableOOMKiller": false, "useHierarchy": true, "kernel": -1, "kernelTCP": -1},
            "pids": {"limit": 7},
        }),
    );
    let expected = [
        ("cpu.weight", "59"),
        ("cpu.max", "40000 80000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "209715200"),
        ("memory.swap.max", "209715200"),
        ("memory.low", "104857600"),
        ("pids.max", "7"),
    ];
    reads(&c, &expected);
    // An update of one value leaves the others, by file and by flag.
    update(sb, "values", &json!({"pids": {"limit": 8}})).ok();
    reads(&c, &expected[..8]);
    sb.rt(&[
        "update",
        "--pids-limit",
        "9",
        "--memory-reservation",
        "52428800",
        "values",
    ])
    .ok();
    reads(&c, &expected[..7]);
    reads(&c, &[("memory.low", "52428800"), ("pids.max", "9")]);
    sb.finish("values");
    assert!(!cgroup::dir("", &c.bundle.cgroup).exists());
}

/// The curve through (2, 1), (1024, 100) and (262144, 10000), with what it gives between and outside.
fn shares_become_weights(sb: &Sandbox) {
    let c = limited(sb, "shares", &json!({"cpu": {"shares": 1024}}));
    reads(&c, &[("cpu.weight", "100")]);
    for (shares, weight) in [
        (1, "1"),
        (2, "1"),
        (102, "17"),
        (512, "59"),
        (2048, "174"),
        (262_144, "10000"),
        (999_999, "10000"),
    ] {
        update(sb, "shares", &json!({"cpu": {"shares": shares}})).ok();
        assert_eq!(read(&c, "cpu.weight"), weight, "{shares}");
    }
    update(sb, "shares", &json!({"cpu": {"shares": 0}})).ok();
    reads(&c, &[("cpu.weight", "10000")]);
}

fn minus_one_is_max(sb: &Sandbox) {
    let unlimited = json!({
        "memory": {"limit": -1, "swap": -1, "reservation": -1},
        "cpu": {"quota": -1},
        "pids": {"limit": -1},
    });
    let all = [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("memory.low", "max"),
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
    ];
    let c = limited(sb, "free", &unlimited);
    reads(&c, &all);
    update(
        sb,
        "free",
        &json!({"memory": {"limit": 52_428_800, "swap": 52_428_800, "reservation": 4096},
                "cpu": {"quota": 50_000}, "pids": {"limit": 5}}),
    )
    .ok();
    reads(
        &c,
        &[
            ("memory.max", "52428800"),
            ("memory.swap.max", "0"),
            ("memory.low", "4096"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "5"),
        ],
    );
    update(sb, "free", &unlimited).ok();
    reads(&c, &all);
    // Memory without limit and no word of swap: no limit for both.
    update(
        sb,
        "free",
        &json!({"memory": {"limit": 52_428_800, "swap": 104_857_600}}),
    )
    .ok();
    reads(&c, &[("memory.swap.max", "52428800")]);
    update(sb, "free", &json!({"memory": {"limit": -1}})).ok();
    reads(&c, &all[..2]);
}

fn swap_is_the_difference(sb: &Sandbox) {
    let c = limited(
        sb,
        "swap",
        &json!({"memory": {"limit": 52_428_800, "swap": 104_857_600}}),
    );
    for (memory, limit, swap) in [
        (json!({}), "52428800", "52428800"),
        (
            json!({"limit": 104_857_600, "swap": 104_857_600}),
            "104857600",
            "0",
        ),
        (json!({"limit": 52_428_800, "swap": -1}), "52428800", "max"),
        (json!({"limit": 20_971_520}), "20971520", "max"),
        (json!({"limit": -1, "swap": 41_943_040}), "max", "41943040"),
    ] {
        update(sb, "swap", &json!({"memory": memory})).ok();
        reads(&c, &[("memory.max", limit), ("memory.swap.max", swap)]);
    }
    for memory in [
        json!({"limit": 52_428_800, "swap": 41_943_040}),
        json!({"swap": 41_943_040}),
        json!({"limit": 52_428_800, "swap": -2}),
    ] {
        update(sb, "swap", &json!({"memory": memory})).fails_with("memory.swap");
        reads(
            &c,
            &[("memory.max", "max"), ("memory.swap.max", "41943040")],
        );
        refused(sb, &json!({"memory": memory}), "memory.swap");
    }
}

fn quota_period_and_burst_keep_each_other(sb: &Sandbox) {
    let c = limited(sb, "cpu", &json!({"cpu": {"quota": 20_000}}));
    reads(&c, &[("cpu.max", "20000 100000"), ("cpu.max.burst", "0")]);
    for (cpu, max, burst) in [
        (json!({"period": 50_000}), "20000 50000", "0"),
        (json!({"quota": 30_000}), "30000 50000", "0"),
        // A burst that fits only the new quota, and then one that fits only the old.
        (
            json!({"quota": 40_000, "burst": 35_000}),
            "40000 50000",
            "35000",
        ),
        (
            json!({"quota": 10_000, "burst": 5_000}),
            "10000 50000",
            "5000",
        ),
        (
            json!({"quota": 500_000, "period": 1_000_000}),
            "500000 1000000",
            "5000",
        ),
        (
            json!({"quota": 5_000, "period": 10_000}),
            "5000 10000",
            "5000",
        ),
        (json!({"burst": 0}), "5000 10000", "0"),
    ] {
        update(sb, "cpu", &json!({"cpu": cpu})).ok();
        assert_eq!(read(&c, "cpu.max"), max, "{cpu}");
        assert_eq!(read(&c, "cpu.max.burst"), burst, "{cpu}");
    }
    for (cpu, field) in [
        (json!({"quota": 10_000, "burst": 20_000}), "cpu.burst"),
        (json!({"period": 1}), "cpu.period"),
        (json!({"cpus": "4095"}), "cpu.cpus"),
        (json!({"mems": "63"}), "cpu.mems"),
    ] {
        update(sb, "cpu", &json!({"cpu": cpu})).fails_with(field);
        reads(&c, &[("cpu.max", "5000 10000"), ("cpu.max.burst", "0")]);
        refused(sb, &json!({"cpu": cpu}), field);
    }
}

fn idle_takes_the_weight_away(sb: &Sandbox) {
    let c = limited(sb, "idle", &json!({"cpu": {"shares": 512, "idle": 1}}));
    reads(&c, &[("cpu.idle", "1")]);
    sb.rt(&["update", "--cpu-idle", "0", "idle"]).ok();
    reads(&c, &[("cpu.idle", "0"), ("cpu.weight", "100")]);
    update(sb, "idle", &json!({"cpu": {"shares": 512}})).ok();
    reads(&c, &[("cpu.idle", "0"), ("cpu.weight", "59")]);
    update(sb, "idle", &json!({"cpu": {"idle": 1}})).ok();
    reads(&c, &[("cpu.idle", "1")]);
    update(sb, "idle", &json!({"cpu": {"idle": 0, "shares": 102}})).ok();
    reads(&c, &[("cpu.idle", "0"), ("cpu.weight", "17")]);
    refused(sb, &json!({"cpu": {"idle": 2}}), "cpu.idle");
}

/// A block device of the test's own.
struct Loop {
    device: String,
    file: PathBuf,
    major: u32,
    minor: u32,
}

impl Loop {
    fn new(sb: &Sandbox) -> Option<Loop> {
        let file = sb.path("disk");
        fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let _ = Command::new("modprobe").arg("loop").status();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(&file);
        let out = losetup.output().ok()?;
        let device = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        if device.is_empty() {
            return None;
        }
        let number = fs::read_to_string(Loop::sys(&device).join("dev")).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        let (major, minor) = (major.parse().unwrap(), minor.parse().unwrap());
        Some(Loop {
            device,
            file,
            major,
            minor,
        })
    }

    fn sys(device: &str) -> PathBuf {
        Path::new("/sys/block").join(device.trim_start_matches("/dev/"))
    }

    fn scheduler(&self, name: &str) -> bool {
        fs::write(Loop::sys(&self.device).join("queue/scheduler"), name).is_ok()
    }

    fn name(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }

    /// An entry of a list of devices.
    fn entry(&self, key: &str, value: u64) -> Value {
        json!([{"major": self.major, "minor": self.minor, key: value}])
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = fs::remove_file(&self.file);
    }
}

fn block_devices_are_throttled(sb: &Sandbox) {
    let Some(disk) = Loop::new(sb) else {
        knarr_integration::skip!("no loop device");
    };
    let c = limited(
        sb,
        "io",
        &json!({"blockIO": {
            "throttleReadBpsDevice": disk.entry("rate", 1_048_576),
            "throttleWriteBpsDevice": disk.entry("rate", 2_097_152),
            "throttleReadIOPSDevice": disk.entry("rate", 300),
            "throttleWriteIOPSDevice": disk.entry("rate", 400),
        }}),
    );
    let line = |limits: &str| format!("{} {limits}", disk.name());
    assert_eq!(
        read(&c, "io.max"),
        line("rbps=1048576 wbps=2097152 riops=300 wiops=400")
    );
    update(
        sb,
        "io",
        &json!({"blockIO": {"throttleReadIOPSDevice": disk.entry("rate", 30)}}),
    )
    .ok();
    assert_eq!(
        read(&c, "io.max"),
        line("rbps=1048576 wbps=2097152 riops=30 wiops=400")
    );
    // No rate is no limit.
    update(
        sb,
        "io",
        &json!({"blockIO": {"throttleWriteBpsDevice": disk.entry("rate", 0)}}),
    )
    .ok();
    assert_eq!(
        read(&c, "io.max"),
        line("rbps=1048576 wbps=max riops=30 wiops=400")
    );
    let nobody =
        json!({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 5}]}});
    refused(sb, &nobody, "blockIO.throttleReadBpsDevice[0]");
    update(sb, "io", &nobody).fails_with("blockIO.throttleReadBpsDevice[0]");
    assert_eq!(
        read(&c, "io.max"),
        line("rbps=1048576 wbps=max riops=30 wiops=400")
    );
}

/// Held by whoever needs BFQ to be there, or not.
static BFQ: Mutex<()> = Mutex::new(());

/// BFQ as a module, gone afterwards where it was not there before.
struct Bfq;

impl Bfq {
    fn load() -> Option<Bfq> {
        let status = Command::new("modprobe").arg("bfq").status();
        status.is_ok_and(|status| status.success()).then_some(Bfq)
    }
}

impl Drop for Bfq {
    fn drop(&mut self) {
        let _ = Command::new("modprobe").args(["-r", "bfq"]).status();
    }
}

fn block_weights_go_to_the_scheduler_there_is(sb: &Sandbox) {
    let _turn = BFQ
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(disk) = Loop::new(sb) else {
        knarr_integration::skip!("no loop device");
    };
    let weights = |default: u64, device: u64| json!({"blockIO": {"weight": default, "weightDevice": disk.entry("weight", device)}});
    let plain = sb.sleeper("plain", |_| {});
    if cgroup::dir("", &plain.bundle.cgroup)
        .join("io.bfq.weight")
        .exists()
    {
        knarr_integration::skip!("BFQ is in use here");
    }
    // Without BFQ: 10 to 1000 stretched to 1 to 10000; a device's own only where its costs are kept.
    let qos = Path::new("/sys/fs/cgroup/io.cost.qos");
    let enabled = |enable: u8| fs::write(qos, format!("{} enable={enable}", disk.name()));
    if cgroup::dir("", &plain.bundle.cgroup)
        .join("io.weight")
        .exists()
    {
        enabled(1).unwrap();
        let c = limited(sb, "weight", &weights(10, 1000));
        let line = |weight: &str| format!("{} {weight}", disk.name());
        assert_eq!(
            read(&c, "io.weight"),
            format!("default 1\n{}", line("10000"))
        );
        update(sb, "weight", &json!({"blockIO": {"weight": 505}})).ok();
        assert_eq!(
            read(&c, "io.weight"),
            format!("default 5000\n{}", line("10000"))
        );
        sb.rt(&["update", "--blkio-weight", "1000", "weight"]).ok();
        assert_eq!(
            read(&c, "io.weight"),
            format!("default 10000\n{}", line("10000"))
        );
    }
    let _ = enabled(0);
    let Some(_bfq) = Bfq::load() else {
        knarr_integration::skip!("no BFQ: what was checked is io.weight");
    };
    assert!(disk.scheduler("bfq"));
    let c = limited(sb, "bfq", &weights(321, 700));
    assert_eq!(
        read(&c, "io.bfq.weight"),
        format!("default 321\n{} 700", disk.name())
    );
    update(sb, "bfq", &json!({"blockIO": {"weight": 50}})).ok();
    assert!(read(&c, "io.bfq.weight").starts_with("default 50"));
    refused(sb, &json!({"blockIO": {"weight": 5000}}), "blockIO.weight");
    for id in ["plain", "weight", "bfq"] {
        sb.finish(id);
    }
    disk.scheduler("none");
}

fn huge_pages_and_their_reservations(sb: &Sandbox) {
    if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        knarr_integration::skip!("no huge pages of 2 MB");
    }
    let huge = |limit: u64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
    let c = limited(sb, "huge", &huge(4_194_304));
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        assert_eq!(read(&c, file), "4194304", "{file}");
    }
    update(sb, "huge", &huge(2_097_152)).ok();
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        assert_eq!(read(&c, file), "2097152", "{file}");
    }
    let odd = json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]});
    refused(sb, &odd, "hugepageLimits[0]");
}

fn rdma_and_misc(sb: &Sandbox) {
    let none = |path: &str| fs::read_dir(path).map_or(true, |mut list| list.next().is_none());
    let device = fs::read_dir("/sys/class/infiniband")
        .ok()
        .and_then(|mut list| list.next()?.ok()?.file_name().into_string().ok());
    match device {
        Some(device) => {
            let rdma = json!({"rdma": {device.clone(): {"hcaHandles": 3, "hcaObjects": 400}}});
            let c = limited(sb, "rdma", &rdma);
            assert_eq!(
                read(&c, "rdma.max"),
                format!("{device} hca_handle=3 hca_object=400")
            );
            update(
                sb,
                "rdma",
                &json!({"rdma": {device.clone(): {"hcaHandles": 5}}}),
            )
            .ok();
            assert_eq!(
                read(&c, "rdma.max"),
                format!("{device} hca_handle=5 hca_object=400")
            );
        }
        None => assert!(none("/sys/class/infiniband")),
    }
    refused(
        sb,
        &json!({"rdma": {"nobody0": {"hcaHandles": 3}}}),
        "rdma.nobody0",
    );
    refused(sb, &json!({"rdma": {"nobody0": {}}}), "rdma.nobody0");
    let capacity = fs::read_to_string("/sys/fs/cgroup/misc.capacity").unwrap_or_default();
    if let Some((name, _)) = capacity
        .lines()
        .next()
        .and_then(|line| line.split_once(' '))
    {
        let c = limited(
            sb,
            "misc",
            &json!({"unified": {"misc.max": format!("{name} 2")}}),
        );
        assert!(
            read(&c, "misc.max")
                .lines()
                .any(|line| line == format!("{name} 2"))
        );
    }
    let unknown = json!({"unified": {"misc.max": "nothing 2"}});
    refused(sb, &unknown, "unified.misc.max");
}

fn unified_keys(sb: &Sandbox) {
    let c = limited(
        sb,
        "unified",
        &json!({
            "pids": {"limit": 3},
            "memory": {"limit": 209_715_200},
            "unified": {
                "pids.max": "9", "memory.high": "188743680", "memory.min": "1048576", "memory.oom.group": "1",
                "cpu.weight": "77", "cpu.max": "30000 60000", "cpuset.cpus": "0", "cgroup.max.depth": "3",
                "hugetlb.2MB.max": "2097152",
            },
        }),
    );
    reads(
        &c,
        &[
            ("pids.max", "9"),
            ("memory.max", "209715200"),
            ("memory.high", "188743680"),
            ("memory.min", "1048576"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "77"),
            ("cpu.max", "30000 60000"),
            ("cpuset.cpus", "0"),
            ("cgroup.max.depth", "3"),
            ("hugetlb.2MB.max", "2097152"),
        ],
    );
    update(
        sb,
        "unified",
        &json!({"unified": {"memory.high": "max", "pids.max": "max"}}),
    )
    .ok();
    reads(
        &c,
        &[
            ("memory.high", "max"),
            ("pids.max", "max"),
            ("memory.oom.group", "1"),
        ],
    );
    // Of an unknown file the message has the key as it is; of what is no limit at all, the path of the list.
    for (key, value) in [
        ("memory.nosuch", "1"),
        ("nosuch.max", "1"),
        ("pids.max", "many"),
        ("cgroup.procs", "1"),
        ("../pids.max", "1"),
    ] {
        let resources = json!({"unified": {key: value}});
        let out = update(sb, "unified", &resources).fails_with("linux.resources.unified");
        assert!(out.stderr.contains(key), "{out:?}");
        refused(sb, &resources, "unified");
    }
}

/// config-linux.md, Unified: a field of version 1 is converted, or is an error.
fn impossible_fields_are_errors(sb: &Sandbox) {
    for (resources, field) in [
        (json!({"memory": {"swappiness": 60}}), "memory.swappiness"),
        (
            json!({"memory": {"disableOOMKiller": true}}),
            "memory.disableOOMKiller",
        ),
        (json!({"memory": {"kernel": 1_048_576}}), "memory.kernel"),
        (
            json!({"memory": {"kernelTCP": 1_048_576}}),
            "memory.kernelTCP",
        ),
        (
            json!({"cpu": {"realtimeRuntime": 5000}}),
            "cpu.realtimeRuntime",
        ),
        (
            json!({"cpu": {"realtimePeriod": 5000}}),
            "cpu.realtimePeriod",
        ),
        (json!({"blockIO": {"leafWeight": 50}}), "blockIO.leafWeight"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 7, "minor": 0, "leafWeight": 50}]}}),
            "blockIO.weightDevice[0].leafWeight",
        ),
        (json!({"network": {"classID": 5}}), "network.classID"),
        (
            json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}),
            "network.priorities",
        ),
    ] {
        refused(sb, &resources, field);
    }
}

fn a_limit_below_the_usage_is_refused_where_asked(sb: &Sandbox) {
    let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=20; exec sleep 600";
    let bundle = sb.sh_bundle(script, |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 104_857_600});
        c["linux"]["resources"]["pids"] = json!({"limit": 60});
    });
    let c = sb.started("check", &bundle);
    assert!(process::eventually(Duration::from_secs(20), || {
        read(&c, "memory.current").parse::<u64>().unwrap() > 20 << 20
    }));
    let small = |check: bool| json!({"memory": {"limit": 10_485_760, "checkBeforeUpdate": check}, "pids": {"limit": 50}});
    update(sb, "check", &small(true)).fails_with("linux.resources.memory.limit");
    reads(&c, &[("memory.max", "104857600"), ("pids.max", "60")]);
    assert!(process::alive(c.pid));
    let fits = json!({"memory": {"limit": 83_886_080, "checkBeforeUpdate": true}});
    update(sb, "check", &fits).ok();
    reads(&c, &[("memory.max", "83886080")]);
}

fn a_refused_update_changes_nothing(sb: &Sandbox) {
    let c = limited(
        sb,
        "whole",
        &json!({"memory": {"limit": 104_857_600, "swap": 209_715_200}, "pids": {"limit": 20},
                "cpu": {"shares": 512, "quota": 50_000}}),
    );
    let before = [
        ("memory.max", "104857600"),
        ("memory.swap.max", "104857600"),
        ("pids.max", "20"),
        ("cpu.weight", "59"),
        ("cpu.max", "50000 100000"),
    ];
    let bad = json!({"memory": {"limit": 52_428_800, "swap": 52_428_800}, "pids": {"limit": 33},
        "cpu": {"shares": 1024, "quota": 20_000}, "unified": {"memory.high": "nonsense"}});
    update(sb, "whole", &bad).fails_with("unified.memory.high");
    reads(&c, &before);
    // The last limit decides; what systemd was told of an update that failed must not come back.
    if sb.is_systemd() {
        let _ = Command::new("systemctl").arg("daemon-reload").status();
        reads(&c, &before);
    }
}

/// 0 is a limit, though systemd refuses it as TasksMax: init lives, and nothing can be started.
fn no_task_at_all(sb: &Sandbox) {
    let bundle = sb.sh_bundle("exec sleep 600", |c| {
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let c = sb.started("zero", &bundle);
    update(sb, "zero", &json!({"pids": {"limit": 0}})).ok();
    reads(&c, &[("pids.max", "0")]);
    assert_eq!(sb.rt(&["exec", "zero", "/bin/true"]).code, 255);
    update(sb, "zero", &json!({"pids": {"limit": 50}})).ok();
    sb.rt(&["exec", "zero", "/bin/true"]).ok();
    let none = limited(sb, "none", &json!({"pids": {"limit": 0}}));
    assert!(process::alive(none.pid));
    assert_eq!(read(&none, "pids.max"), "0");
}

/// With `cgroup_disable=memory,pids,...` on the kernel's command line, or on a small kernel.
fn a_controller_that_is_not_there_is_an_error(sb: &Sandbox) {
    let present = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let absent: Vec<_> = [
        (
            "memory",
            json!({"memory": {"limit": 52_428_800}}),
            "memory.limit",
        ),
        ("pids", json!({"pids": {"limit": 5}}), "pids.limit"),
        ("cpu", json!({"cpu": {"shares": 512}}), "cpu.shares"),
        ("cpuset", json!({"cpu": {"cpus": "0"}}), "cpu.cpus"),
        ("io", json!({"blockIO": {"weight": 100}}), "blockIO.weight"),
        (
            "hugetlb",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
            "hugepageLimits[0].limit",
        ),
        ("rdma", json!({"rdma": {"x": {"hcaHandles": 1}}}), "rdma.x"),
        (
            "misc",
            json!({"unified": {"misc.max": "x 1"}}),
            "unified.misc.max",
        ),
    ]
    .into_iter()
    .filter(|(name, ..)| !present.split_whitespace().any(|known| known == *name))
    .collect();
    for (_, resources, field) in &absent {
        refused(sb, resources, field);
    }
    // Without a limit nobody misses it.
    let c = sb.sleeper("free", |_| {});
    sb.rt(&["exec", "free", "/bin/true"]).ok();
    for (_, resources, field) in &absent {
        update(sb, "free", resources).fails_with(field);
    }
    sb.rt(&["events", "--stats", "free"]).ok();
    sb.finish("free");
    assert!(!cgroup::dir("", &c.bundle.cgroup).exists());
    if absent.is_empty() {
        knarr_integration::skip!("all controllers are there");
    }
}
