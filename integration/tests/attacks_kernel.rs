//! Attacks by way of what the kernel shows as files: procfs, cgroups, and names from the
//! configuration that become the names of files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use knarr_integration::attack::{self, Canary, Swapper};
use knarr_integration::{
    Bundle, Sandbox, Value, bundle, cgroup, fell, json, process, skip, unproven,
};

/// Makes a directory that looks like a procfs: files for everything that a runtime writes.
fn fake_procfs(dir: &Path) -> Vec<PathBuf> {
    let files = [
        "sys/net/ipv4/ip_forward",
        "sys/net/ipv4/ip_unprivileged_port_start",
        "sys/kernel/domainname",
        "self/attr/exec",
        "self/attr/keycreate",
        "self/attr/sockcreate",
        "self/attr/apparmor/exec",
        "thread-self/attr/exec",
        "thread-self/attr/apparmor/exec",
        "self/oom_score_adj",
        "self/timerslack_ns",
        "self/setgroups",
        "self/loginuid",
        "1/oom_score_adj",
        "1/attr/exec",
    ];
    let all: Vec<PathBuf> = files.iter().map(|file| dir.join(file)).collect();
    for file in &all {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "untouched").unwrap();
    }
    fs::create_dir_all(dir.join("self/fd")).unwrap();
    all
}

/// Insists that nothing was written to those files.
fn intact(files: &[PathBuf], how: &str) {
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text != "untouched" {
            fell!("{how}: {text:?} was written to {}", file.display());
        }
    }
}

/// What makes a runtime write to procfs on behalf of the container.
fn writes(config: &mut Value) {
    config["process"]["oomScoreAdj"] = json!(77);
    config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "net.ipv4.ip_unprivileged_port_start": "81"});
    if Path::new("/sys/kernel/security/apparmor").exists() {
        config["process"]["apparmorProfile"] = json!("unconfined");
    }
}

fn at<'a>(config: &'a mut Value, destination: &str) -> &'a mut Value {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts
        .iter_mut()
        .find(|mount| mount["destination"] == destination)
        .unwrap()
}

/// Sysctls, labels and scores that go to a procfs which the image or a volume brings
/// Ids: CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881
#[test]
fn fake_procfs_takes_no_writes() {
    let sb = Sandbox::new();
    let fake = sb.path("fake");
    let files = fake_procfs(&fake);
    let script = "cat /proc/sys/net/ipv4/ip_forward; true";
    let out = sb.sh(script, writes);
    attack::baseline(&out);
    if out.text() != "1" {
        unproven!("the sysctl is not even set in an ordinary container: {out:#?}");
    }
    let file = |name: &str| fake.join(name);
    let bind = |destination: &str, source: &Path| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "rw"]});
    let more = [
        ("over /proc", vec![bind("/proc", &fake)]),
        ("over /proc/sys", vec![bind("/proc/sys", &file("sys"))]),
        (
            "over /proc/sys/net",
            vec![bind("/proc/sys/net", &file("sys/net"))],
        ),
        (
            "over one sysctl",
            vec![bind(
                "/proc/sys/net/ipv4/ip_forward",
                &file("sys/net/ipv4/ip_forward"),
            )],
        ),
        ("over /proc/self", vec![bind("/proc/self", &file("self"))]),
        (
            "over a label",
            vec![bind("/proc/self/attr/exec", &file("self/attr/exec"))],
        ),
        ("over /proc/1", vec![bind("/proc/1", &file("1"))]),
        (
            "over a score",
            vec![bind(
                "/proc/self/oom_score_adj",
                &file("self/oom_score_adj"),
            )],
        ),
        (
            "a tmpfs over /proc/sys",
            vec![json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"})],
        ),
        (
            "a sysctl over another",
            vec![bind(
                "/proc/sys/net/ipv4/ip_forward",
                Path::new("/proc/sys/kernel/core_pattern"),
            )],
        ),
    ];
    let core = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (how, mounts) in more {
        for instead in [false, true] {
            let bundle = sb.sh_bundle(script, |c| {
                writes(c);
                if instead && mounts[0]["destination"] == "/proc" {
                    *at(c, "/proc") = mounts[0].clone();
                } else {
                    for mount in &mounts {
                        bundle::push(c, "/mounts", mount.clone());
                    }
                }
            });
            let _ = attack::run(&sb, &bundle, how);
            intact(&files, how);
            let now = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
            if now != core {
                fs::write("/proc/sys/kernel/core_pattern", &core).unwrap();
                fell!("{how}: kernel.core_pattern became {now:?}");
            }
        }
    }
}

/// The same by links: an image whose /proc, or whose volume, leads to a fake one, also while it is exchanged
/// Ids: CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881
#[test]
fn fake_procfs_by_links_and_races() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("true", writes);
    let rootfs = bundle.rootfs();
    let files = fake_procfs(&rootfs.join("fake"));
    let place = rootfs.join("proc");
    for target in ["/fake", "fake", "../fake"] {
        attack::link(target, &place);
        let _ = attack::run(&sb, &bundle, "a link at /proc");
        intact(&files, &format!("/proc is a link to {target}"));
    }
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    attack::baseline(&attack::run(&sb, &bundle, "at rest"));
    for evil in ["link", "directory"] {
        let other = rootfs.join("evil");
        match evil {
            "link" => attack::link("fake", &other),
            _ => {
                fs::remove_file(&other).unwrap();
                fs::rename(rootfs.join("fake"), &other).unwrap();
            }
        }
        let swapper = Swapper::start(&place, &other);
        attack::race(|_| {
            let _ = attack::run(&sb, &bundle, "race");
        });
        swapper.finish();
        if evil == "link" {
            intact(&files, "race at /proc with a link");
        } else {
            let files: Vec<PathBuf> = files
                .iter()
                .map(|file| other.join(file.strip_prefix(rootfs.join("fake")).unwrap()))
                .collect();
            intact(&files, "race at /proc with a directory");
        }
    }
}

/// Options of a procfs that hide things are kept, or refused; a new mount of it with them shows no more
/// Ids: no CVE
#[test]
fn procfs_options_hide() {
    let sb = Sandbox::new();
    let with = |option: &str, script: &str| {
        sb.sh(script, |c| {
            at(c, "/proc")["options"] = json!(["nosuid", "noexec", "nodev", option]);
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            c["process"]["capabilities"] = json!({});
            c["linux"]["maskedPaths"] = json!([]);
            c["linux"]["readonlyPaths"] = json!([]);
        })
    };
    let out = with(
        "nosuid",
        "cat /proc/meminfo >/dev/null && ls /proc/1/status",
    );
    attack::baseline(&out);
    let out = with("subset=pid", "ls -d /proc/meminfo /proc/sys /proc/kcore");
    if out.stdout.contains("/proc/") {
        fell!("subset=pid is dropped: {out:#?}");
    }
    // A process of another user: the parent of a set-user-ID shell is not to be had, so init itself is asked.
    let container = sb.sleeper("hides", |c| {
        at(c, "/proc")["options"] = json!(["hidepid=2"])
    });
    let options = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid)).unwrap();
    let proc = options
        .lines()
        .find(|line| line.contains(" /proc "))
        .unwrap()
        .to_owned();
    let user = [
        "exec",
        "--user",
        "1000:1000",
        "hides",
        "/bin/ls",
        "-d",
        "/proc/1",
    ];
    let out = sb.rt(&user);
    if out.code == 0 && out.stdout.contains("/proc/1") {
        // A capability that lets it look would be a reason.
        let caps = sb.rt(&[
            "exec",
            "--user",
            "1000:1000",
            "hides",
            "/bin/grep",
            "CapEff",
            "/proc/self/status",
        ]);
        fell!("hidepid=2 shows init to others: {proc} {}", caps.text());
    }
}

/// Cgroups other than the container's own, without a cgroup namespace
/// Ids: CVE-2023-25809
#[test]
fn cgroups_of_others() {
    // Its own at most: were the way open, the host's other cgroups are not to suffer.
    let script = |base: &str, sb: &Sandbox| {
        format!(
            "for d in {base} {base}/* $(find {base} -type d -path '*{}*'); do
            mkdir $d/evil; echo $$ >$d/cgroup.procs; done 2>/dev/null; cat /proc/self/cgroup; true",
            sb.cgroup()
        )
    };
    // The first shows that the way is open where somebody mounts all of the tree.
    for (user, option, kind) in [
        (true, "rw", "bind"),
        (true, "ro", "cgroup"),
        (true, "rw", "cgroup"),
        (false, "ro", "cgroup"),
    ] {
        let sb = Sandbox::new();
        // As where a user has been given a part of the tree.
        for hierarchy in cgroup::hierarchies() {
            let dir = hierarchy.join(&sb.cgroup()[1..]);
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            if user {
                chown(&dir, Some(100_000), Some(100_000)).unwrap();
                for entry in fs::read_dir(&dir).unwrap().flatten() {
                    let _ = chown(entry.path(), Some(100_000), Some(100_000));
                }
            }
        }
        let base = if kind == "bind" {
            "/tmp"
        } else {
            "/sys/fs/cgroup"
        };
        let bundle = sb.sh_bundle(&script(base, &sb), |c| {
            if user {
                bundle::user_namespace(c);
            }
            bundle::drop_namespace(c, "cgroup");
            let mut mount = json!({"destination": base, "type": kind, "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", option]});
            if kind == "bind" {
                mount["source"] = json!("/sys/fs/cgroup");
                mount["options"] = json!(["rbind", option]);
            }
            bundle::push(c, "/mounts", mount);
        });
        let how = format!("user namespace {user}, {option}");
        let out = attack::run(&sb, &bundle, &how);
        if out.code != 0 {
            unproven!("{how}: {out:#?}");
        }
        let own = format!("{}/", bundle.cgroup);
        if kind == "bind" {
            let made = |dir: &PathBuf| dir.ends_with("evil");
            if !cgroup::tree(sb.cgroup()).iter().any(made) {
                unproven!("even where the whole tree is mounted, nothing is made: {out:#?}");
            }
            continue;
        }
        for dir in cgroup::tree(sb.cgroup()) {
            let text = dir.to_string_lossy();
            if text.ends_with("/evil") && (option == "ro" || !text.contains(&own)) {
                fell!("{how}: {text} was made from inside");
            }
        }
        for line in out.stdout.lines() {
            if line.contains(sb.cgroup()) && !line.contains(&bundle.cgroup) {
                fell!("{how}: the process left its cgroup: {line}");
            }
        }
    }
}

/// Creates a container from such a configuration, and takes it away; whether that worked.
fn taken(sb: &Sandbox, bundle: &Bundle, how: &str) -> bool {
    let args = ["create", "--bundle", bundle.arg(), "taken"];
    let out = attack::ends(sb.spawn(sb.command(&args)), how);
    let _ = sb.rt(&["delete", "--force", "taken"]);
    out.code == 0
}

/// Names from the configuration that become names of files: huge pages, unified keys, sysctls, devices, classes
/// Ids: no CVE
#[test]
fn file_names_from_the_configuration() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let watched = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/domainname",
        "/proc/sys/vm/swappiness",
    ];
    let before = watched.map(|path| fs::read_to_string(path).unwrap());
    let victim = sb.sleeper("victim", |_| {});
    let up = "../".repeat(20);
    let target = format!("{up}{}/secret", &canary.text()[1..]);
    let file = format!("{up}proc/sys/vm/swappiness");
    let neighbour = format!(
        "../{}/cgroup.procs",
        victim.bundle.cgroup.rsplit('/').next().unwrap()
    );
    let mut cases: Vec<(String, String, Value)> = Vec::new();
    let mut case = |pointer: &str, value: Value| {
        cases.push((format!("{pointer} = {value}"), pointer.to_owned(), value));
    };
    for size in [
        &format!("/{target}\u{0}"),
        "/../../x",
        "2MB/..",
        &format!("{up}{file}"),
        "2MB.\n",
        "",
        "2MB/../2MB",
        "../x.",
    ] {
        case(
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": size, "limit": 17}]),
        );
    }
    for key in [
        target.as_str(),
        &file,
        &neighbour,
        "memory.max/../cgroup.procs",
        "../cgroup.procs",
        "/etc/passwd",
        "cgroup.procs",
        ".",
        "..",
        "",
        "a\nb",
        "memory.max\u{0}x",
        "memory//max",
        "./memory.max",
    ] {
        case("/linux/resources/unified", json!({key: "17"}));
    }
    for name in [
        "net.ipv4/../../kernel/domainname",
        "net/../kernel/core_pattern",
        "net.../kernel.core_pattern",
        "kernel/core_pattern",
        "kernel.core_pattern",
        "vm.swappiness",
        "net/ipv4/../../vm/swappiness",
        "kernel.shm_rmid_forced/../core_pattern",
        "fs.mqueue/../../vm/swappiness",
        "../vm/swappiness",
        "net.ipv4.conf.all./../../../../vm/swappiness",
        "/vm/swappiness",
        "net",
        "",
        "net.\n",
        "kernel.msg*",
        "kernel.domainname",
    ] {
        case("/linux/sysctl", json!({name: "17"}));
    }
    for name in ["eth0\nlo", "eth0 7\nlo 9", "../../x", "", "lo/../x"] {
        case(
            "/linux/resources/network",
            json!({"priorities": [{"name": name, "priority": 3}]}),
        );
    }
    for name in ["mlx5_0\nhfi1", "../x", "a b", ""] {
        case("/linux/resources/rdma", json!({name: {"hcaHandles": 3}}));
    }
    for id in ["../../../x", "..", ".", "a/b", "", "a\nb", &target] {
        case(
            "/linux/intelRdt",
            json!({"closID": id, "l3CacheSchema": "L3:0=f"}),
        );
    }
    for path in [
        &format!("/dev/{up}{}/new", &canary.text()[1..]),
        "/../../../new",
        "relative",
        "/dev/",
        "/dev/..",
        "/",
    ] {
        case(
            "/linux/devices",
            json!([{"path": path, "type": "c", "major": 1, "minor": 3}]),
        );
    }
    for path in [
        &format!("/{up}../{}", &canary.text()[1..]),
        "/..",
        "../..",
        "/dev/../../..",
    ] {
        case("/linux/maskedPaths", json!([path]));
        case("/linux/readonlyPaths", json!([path]));
        case("/process/cwd", json!(path));
    }
    for path in [
        format!("{}evil/../../..", sb.cgroup()),
        "/../../../../x".to_owned(),
        "../x".to_owned(),
        format!("{}/a\nb", sb.cgroup()),
        format!("{}/{}", sb.cgroup(), "n".repeat(5000)),
    ] {
        case("/linux/cgroupsPath", json!(path));
    }
    for name in ["../../x", "a\nb", "a/b", &"h".repeat(70_000)] {
        case("/hostname", json!(name));
        case("/domainname", json!(name));
    }
    let mut refused = 0;
    let total = cases.len();
    for (how, pointer, value) in cases {
        let bundle = sb.bundle(|c| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            if !parent.is_empty() && c.pointer(parent).is_none() {
                return;
            }
            match parent {
                "" => c[key] = value,
                _ => c.pointer_mut(parent).unwrap()[key] = value,
            }
        });
        refused += u32::from(!taken(&sb, &bundle, &how));
        canary.untouched(&how);
        let now = watched.map(|path| fs::read_to_string(path).unwrap());
        if now != before {
            for (path, text) in watched.iter().zip(&before) {
                let _ = fs::write(path, text.trim_end());
            }
            fell!("{how}: {watched:?} became {now:?}");
        }
        if cgroup::processes(&victim.bundle.cgroup) != [victim.pid] {
            fell!("{how}: a neighbour's cgroup changed");
        }
        let _ = fs::remove_dir_all(&bundle.dir);
    }
    if refused == 0 || sb.status("victim") != "running" {
        unproven!("{refused} of {total} were refused");
    }
}

/// Container ids that are paths
/// Ids: no CVE
#[test]
fn ids_that_are_paths() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let bundle = sb.bundle(|_| {});
    for id in [
        "..",
        ".",
        "../canary",
        "a/b",
        "/etc",
        "",
        "a\nb",
        "../../x",
        &"i".repeat(5000),
        "-x\u{1}",
    ] {
        for command in ["create", "state", "delete", "kill", "start"] {
            let mut args = vec![command];
            match command {
                "create" => args.extend(["--bundle", bundle.arg()]),
                "delete" => args.push("--force"),
                _ => {}
            }
            args.extend(["--", id]);
            let out = attack::ends(sb.spawn(sb.command(&args)), &format!("{args:?}"));
            canary.untouched(&format!("{args:?}"));
            if command == "create" && out.code == 0 {
                let _ = sb.rt(&["delete", "--force", "--", id]);
                if id.contains('/') || matches!(id, "." | ".." | "") {
                    fell!("the id {id:?} was taken");
                }
            }
        }
    }
    let left: Vec<_> = fs::read_dir(sb.dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    if !left.contains(&"canary".into()) || left.contains(&"b".into()) {
        fell!("what is beside the state root is now {left:?}");
    }
}

/// Configurations so large that lengths of 16 bits wrap: mappings, paths, names
/// Ids: CVE-2021-43784
#[test]
fn huge_bootstrap_data() {
    let sb = Sandbox::new();
    let host = process::namespace(std::process::id(), "user");
    for count in [300_u32, 400, 1900, 2100, 4000, 6000] {
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            bundle::user_namespace(c);
            let maps: Vec<Value> = (0..count)
                .map(|n| json!({"containerID": n, "hostID": 100_000 + 2 * n, "size": 1}))
                .collect();
            c["linux"]["uidMappings"] = json!(maps);
            c["linux"]["gidMappings"] = json!(maps);
        });
        let how = format!("{count} mappings");
        let out = attack::ends(
            sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "huge"])),
            &how,
        );
        if out.code == 0 {
            let pid = u32::try_from(sb.state("huge")["pid"].as_u64().unwrap()).unwrap();
            let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
            if process::namespace(pid, "user") == host || map.lines().count() != count as usize {
                fell!("{how}: {} came true:\n{map}", map.lines().count());
            }
        } else if count == 300 {
            unproven!("not even {how}: {out:#?}");
        }
        let _ = sb.rt(&["delete", "--force", "huge"]);
    }
    // A path after which a namespace would not be joined, or another one.
    for length in [4000, 65_530, 65_536, 70_000, 131_080] {
        let bundle = sb.bundle(|c| {
            let path = format!("/proc/{}self/ns/net", "./".repeat(length / 2));
            bundle::namespace(c, "network")["path"] = json!(path);
            c["process"]["args"] = json!(["/bin/readlink", "/proc/self/ns/net"]);
        });
        let how = format!("a namespace's path of {length} bytes");
        let out = attack::run(&sb, &bundle, &how);
        if out.code == 0 && out.text() != process::namespace(std::process::id(), "net") {
            fell!("{how}: it runs in another namespace: {out:#?}");
        }
    }
}

/// Id-mapped mounts: the mapping holds for every file, or the mount is refused; it is never left out
/// Ids: no CVE
#[test]
fn idmapped_mounts() {
    let sb = Sandbox::new();
    let dir = sb.path("data");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("file"), "x").unwrap();
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1000}]);
    let script =
        "stat -c %u /data /data/file /data/below; touch /data/made; chmod 4755 /data/made; true";
    let run = |source: &str, kind: &str, option: &str, user: bool, maps: Option<u32>| {
        let bundle = sb.sh_bundle(script, |c| {
            if user {
                bundle::user_namespace(c);
            }
            let mut mount = json!({"destination": "/data", "type": kind, "source": source, "options": [option]});
            if let Some(host) = maps {
                mount["uidMappings"] = map(host);
                mount["gidMappings"] = map(host);
            }
            bundle::push(c, "/mounts", mount);
        });
        attack::run(&sb, &bundle, "an id-mapped mount")
    };
    let data = dir.to_str().unwrap();
    let plain = run(data, "none", "bind", false, None);
    attack::baseline(&plain);
    let _ = fs::remove_file(dir.join("made"));
    let mapped = run(data, "none", "bind", false, Some(5000));
    if mapped.code != 0 {
        skip!("id-mapped mounts do not work here: {}", mapped.stderr);
    }
    if mapped.stdout.lines().next() != Some("5000") {
        fell!("the mapping is left out: {mapped:#?}");
    }
    if dir.join("made").exists() {
        fell!("an id without a mapping could write");
    }
    for (source, kind, option) in [
        ("/proc", "none", "rbind"),
        ("/sys", "none", "bind"),
        ("proc", "proc", "nosuid"),
        ("sysfs", "sysfs", "ro"),
        ("mqueue", "mqueue", "nosuid"),
    ] {
        let out = run(source, kind, option, false, Some(5000));
        if out.code == 0 && out.stdout.lines().next() == Some("0") {
            fell!("{kind} of {source}: the mapping is left out: {out:#?}");
        }
    }
    // In a user namespace a mapping of its own must not make the host's root of the container's.
    let out = run(data, "none", "bind", true, Some(100_000));
    if out.code == 0 && dir.join("made").exists() {
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata(dir.join("made")).unwrap().uid();
        if owner == 0 {
            println!("asked for: ids of the container are the host's in that mount");
        }
    }
}
