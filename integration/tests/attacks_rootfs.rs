//! Attacks by what an image or a shared volume has below the root: links, and paths exchanged while
//! the runtime looks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use knarr_integration::attack::{self, Canary, Swapper};
use knarr_integration::socket::Receiver;
use knarr_integration::{Bundle, Sandbox, Value, bundle, fell, json, unproven};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// The source of a mount that has to be in the container, wherever its destination is.
const MARK: &str = "attackmark";

/// Counts these mounts, and reads whatever a path that leads out would show.
fn script(canary: &Canary) -> String {
    format!(
        "echo marks $(grep -c ' - tmpfs {MARK} ' /proc/self/mountinfo)
        cd /; cat /link/secret /vol/*/secret /vol/*/*/secret {0}/secret {0}/sub/secret; true",
        canary.text()
    )
}

/// Every link that would lead to the canary if it were followed on the host, and some that lead nowhere.
fn links(canary: &Canary) -> Vec<String> {
    let dir = canary.text();
    let up = "../".repeat(20);
    vec![
        dir.to_owned(),
        format!("{up}{}", &dir[1..]),
        format!("{dir}/new"),
        format!("{dir}/new/deeper"),
        format!("/proc/self/root{dir}"),
        format!("/proc/1/root{dir}"),
        format!("/proc/self/cwd/../../canary"),
        "/proc/self/fd/3".to_owned(),
        "../../canary".to_owned(),
        "link".to_owned(),
        "/nowhere".to_owned(),
        String::from("/"),
    ]
}

fn mark(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": MARK, "options": ["mode=700"]})
}

/// The paths of the canary exist below the root, too: so that whatever leads there finds something.
fn mirror(bundle: &Bundle, canary: &Canary) {
    let below = bundle.rootfs().join(&canary.text()[1..]);
    fs::create_dir_all(below.join("sub")).unwrap();
    for file in ["secret", "sub/secret", "masked-file"] {
        fs::write(below.join(file), "the image's own").unwrap();
    }
}

/// A volume with the directory `a` and, beside it, `b`, a link to the canary.
fn volume(sb: &Sandbox, canary: &Canary) -> (std::path::PathBuf, Value) {
    let (dir, mount) = attack::volume(sb, "volume", "/vol");
    fs::create_dir_all(dir.join("a/c")).unwrap();
    fs::write(dir.join("a/masked-file"), "hidden").unwrap();
    attack::link(canary.dir(), &dir.join("b"));
    (dir, mount)
}

/// A mount whose destination is, or goes through, a link of the image
/// Ids: CVE-2019-18837, CVE-2021-30465
#[test]
fn mount_destination_links() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let file = sb.path("file");
    fs::write(&file, "x").unwrap();
    attack::baseline(&sb.sh(&script(&canary), |c| {
        bundle::push(c, "/mounts", mark("/mnt"))
    }));
    let mut taken = 0;
    for target in links(&canary) {
        for below in ["", "/sub", "/deep/er"] {
            let destination = format!("/link{below}");
            for mount in [
                mark(&destination),
                json!({"destination": destination, "type": "bind", "source": file, "options": ["bind"]}),
            ] {
                let marked = mount["source"] == MARK;
                let bundle = sb.sh_bundle(&script(&canary), |c| bundle::push(c, "/mounts", mount));
                attack::link(&target, &bundle.rootfs().join("link"));
                let how = format!("destination {destination} with a link to {target}");
                let out = attack::run(&sb, &bundle, &how);
                canary.safe_from(&out, &how);
                if out.code == 0 && marked && !out.stdout.contains("marks 1\n") {
                    fell!("{how}: the mount is not in the container: {out:#?}");
                }
                taken += u32::from(out.code == 0);
            }
        }
    }
    if taken == 0 {
        println!("every link was refused");
    }
}

/// A mount whose destination is exchanged for a link while the runtime mounts it
/// Ids: CVE-2021-30465
#[test]
fn mount_destination_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let (dir, mount) = volume(&sb, &canary);
    let bundle = sb.sh_bundle(&script(&canary), |c| {
        bundle::push(c, "/mounts", mount);
        bundle::push(c, "/mounts", mark("/vol/a/c"));
    });
    mirror(&bundle, &canary);
    attack::baseline(&attack::run(&sb, &bundle, "at rest"));
    let swapper = Swapper::start(&dir.join("a"), &dir.join("b"));
    attack::race(|_| {
        let out = attack::run(&sb, &bundle, "race");
        canary.safe_from(&out, "race at the destination of a mount");
        if out.code == 0 && !out.stdout.contains("marks 1\n") {
            fell!("the mount went outside the container: {out:#?}");
        }
    });
    swapper.finish();
}

/// Missing directories of destinations, devices and the working directory, made where a path is exchanged for a link
/// Ids: CVE-2024-45310
#[test]
fn missing_directories_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let (dir, mount) = volume(&sb, &canary);
    let file = sb.path("file");
    fs::write(&file, "x").unwrap();
    let swapper = Swapper::start(&dir.join("a"), &dir.join("b"));
    let mut ran = 0;
    attack::race(|round| {
        let bundle = sb.sh_bundle("true", |c| {
            bundle::push(c, "/mounts", mount.clone());
            let fresh = format!("/vol/a/new{round}/deeper");
            match round % 4 {
                0 => bundle::push(c, "/mounts", mark(&fresh)),
                1 => bundle::push(
                    c,
                    "/mounts",
                    json!({"destination": fresh, "type": "bind", "source": file, "options": ["bind"]}),
                ),
                2 => c["process"]["cwd"] = json!(fresh),
                _ => c["linux"]["devices"] = json!([{"path": fresh, "type": "c", "major": 1, "minor": 3}]),
            }
        });
        let out = attack::run(&sb, &bundle, "race");
        canary.untouched("missing directories are made on the host");
        ran += u32::from(out.code == 0);
        let _ = fs::remove_dir_all(&bundle.dir);
    });
    swapper.finish();
    if ran == 0 {
        unproven!("no container ran");
    }
}

/// An image whose /dev, or whose entries of /dev, are links to the host
/// Ids: CVE-2026-41579, CVE-2026-47766
#[test]
fn device_directory_links() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let no_dev = |c: &mut Value| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    };
    attack::baseline(&sb.sh("test -c /dev/null", no_dev));
    for target in links(&canary) {
        for name in [
            "", "null", "zero", "fd", "ptmx", "pts", "shm", "mqueue", "console", "core", "sub",
        ] {
            for below in ["", "/new"] {
                let with_mounts = matches!(name, "pts" | "shm" | "mqueue");
                let bundle = sb.sh_bundle("for f in /dev/secret /dev/*/secret; do test -f $f && cat $f; done; true", |c| {
                    if with_mounts {
                        let mounts = c["mounts"].as_array_mut().unwrap();
                        mounts.retain(|mount| mount["destination"] != "/dev");
                    } else {
                        no_dev(c);
                    }
                    if name == "sub" {
                        c["linux"]["devices"] =
                            json!([{"path": "/dev/sub/node", "type": "c", "major": 1, "minor": 3}]);
                    }
                });
                let dev = bundle.rootfs().join("dev");
                let place = if name.is_empty() { dev } else { dev.join(name) };
                attack::link(format!("{target}{below}"), &place);
                let how = format!("/dev/{name} with a link to {target}{below}");
                let command = sb.command(&["run", "--bundle", bundle.arg(), "runs"]);
                let out = attack::ends(sb.spawn(command), &how);
                canary.safe_from(&out, &how);
                if out.code != 0 && sb.root().join("runs").exists() {
                    let _ = sb.rt(&["delete", "--force", "runs"]);
                }
                let _ = fs::remove_dir_all(&bundle.dir);
            }
        }
    }
}

/// /dev, /dev/pts or a device's directory in a shared volume, exchanged for a link while nodes are made
/// Ids: CVE-2026-41579, CVE-2021-30465
#[test]
fn device_directory_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    for (a, b) in [
        ("dev", "devil"),
        ("dev/null", "dev/evil"),
        ("dev/pts", "dev/evil"),
    ] {
        let bundle = sb.sh_bundle("true", |c| {
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| {
                let destination = mount["destination"].as_str().unwrap();
                !destination.starts_with("/dev") || (a, destination) == ("dev/pts", "/dev/pts")
            });
        });
        let rootfs = bundle.rootfs();
        match a {
            "dev/null" => null(&rootfs.join(a)),
            _ => fs::create_dir_all(rootfs.join(a)).unwrap(),
        }
        let target = if a == "dev/null" {
            canary.dir().join("secret")
        } else {
            canary.dir().into()
        };
        attack::link(target, &rootfs.join(b));
        let _ = attack::run(&sb, &bundle, a);
        let swapper = Swapper::start(&rootfs.join(a), &rootfs.join(b));
        attack::race(|_| {
            let out = attack::run(&sb, &bundle, "race");
            canary.safe_from(&out, &format!("race at /{a}"));
        });
        swapper.finish();
    }
}

/// Makes a null device.
fn null(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .unwrap();
}

/// The mounts of a container's init whose mount point ends so: the root within its file system, and
/// that file system's number, of each.
fn mounted(pid: u32, point: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let (number, root) = (fields.next()?, fields.next()?);
            let found = fields.next()?.ends_with(point);
            found.then(|| (root.to_owned(), number.to_owned()))
        })
        .collect()
}

/// A container that has come to life in a race, looked at and taken away; nothing where it was refused.
fn brief<R>(
    sb: &Sandbox,
    bundle: &Bundle,
    extra: &[&str],
    look: impl FnOnce(u32) -> R,
) -> Option<R> {
    let mut args = vec!["create", "--bundle", bundle.arg()];
    args.extend(extra);
    args.push("brief");
    let out = attack::ends(sb.spawn(sb.command(&args)), "race");
    if out.code != 0 {
        println!("refused: {}", out.stderr.trim());
    }
    let seen = (out.code == 0).then(|| {
        let pid = sb.state("brief")["pid"].as_u64().unwrap();
        look(u32::try_from(pid).unwrap())
    });
    let _ = sb.rt(&["delete", "--force", "brief"]);
    seen
}

/// The container's /dev/null, of which masks could be made, exchanged for a link
/// Ids: CVE-2025-31133, CVE-2025-62161, CVE-2025-62596
#[test]
fn mask_source_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let (dir, mut dev) = attack::volume(&sb, "dev", "/dev");
    dev["options"] = json!(["bind", "rw", "dev"]);
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    null(&dir.join("null"));
    attack::link("/proc/sysrq-trigger", &dir.join("evil"));
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["linux"]["maskedPaths"] = json!(["/masked-file"]);
        let mounts = c["mounts"].as_array_mut().unwrap();
        *mounts
            .iter_mut()
            .find(|mount| mount["destination"] == "/dev")
            .unwrap() = dev;
    });
    fs::write(bundle.rootfs().join("masked-file"), "hidden").unwrap();
    if brief(&sb, &bundle, &[], |pid| mounted(pid, "/masked-file").len()) != Some(1) {
        unproven!("at rest the path is not masked");
    }
    let swapper = Swapper::start(&dir.join("null"), &dir.join("evil"));
    attack::race(|_| {
        brief(&sb, &bundle, &[], |pid| {
            // What it was made of may have another name by now, but is the null device.
            let mask = fs::metadata(format!("/proc/{pid}/root/masked-file")).unwrap();
            if mask.rdev() != makedev(1, 3) {
                fell!("the mask is {:?}", mounted(pid, "/masked-file"));
            }
        });
        canary.untouched("race at /dev/null");
    });
    swapper.finish();
}

/// A masked or read-only path exchanged for a link while it is covered
/// Ids: GHSA-3q8j-pf29-vwv8
#[test]
fn masked_and_readonly_path_race() {
    for list in ["maskedPaths", "readonlyPaths"] {
        let sb = Sandbox::new();
        let canary = Canary::new(&sb);
        let (dir, mount) = volume(&sb, &canary);
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            c["linux"][list] = json!(["/vol/a/masked-file"]);
            bundle::push(c, "/mounts", mount);
        });
        mirror(&bundle, &canary);
        if brief(&sb, &bundle, &[], |pid| mounted(pid, "/masked-file").len()) != Some(1) {
            unproven!("at rest the path is not in {list}");
        }
        let swapper = Swapper::start(&dir.join("a"), &dir.join("b"));
        attack::race(|_| {
            brief(&sb, &bundle, &[], |pid| {
                // Whichever of the two it was: one was there, and it is covered, inside.
                let found = mounted(pid, "/masked-file").len();
                if found != 1 {
                    fell!("{list}: {found} mounts in the container where one is due");
                }
            });
            canary.untouched("race at a masked path");
        });
        swapper.finish();
    }
}

/// The terminal's place: links at /dev/console and /dev/pts, and /dev/console exchanged for one
/// Ids: CVE-2025-52565
#[test]
fn console_links_and_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let (dir, mut dev) = attack::volume(&sb, "dev", "/dev");
    dev["options"] = json!(["bind", "rw", "dev"]);
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["process"]["terminal"] = json!(true);
        let mounts = c["mounts"].as_array_mut().unwrap();
        *mounts
            .iter_mut()
            .find(|mount| mount["destination"] == "/dev")
            .unwrap() = dev;
    });
    mirror(&bundle, &canary);
    let clean = || {
        let _ = fs::remove_dir_all(&dir);
        for name in ["pts", "shm", "mqueue"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        null(&dir.join("null"));
        attack::link("pts/ptmx", &dir.join("ptmx"));
        fs::write(dir.join("console"), "").unwrap();
    };
    let receiver = Receiver::bind(sb.path("console.sock"));
    let create = || {
        brief(&sb, &bundle, &["--console-socket", receiver.arg()], |pid| {
            (mounted(pid, "/console"), devpts(pid))
        })
    };
    clean();
    match create() {
        Some((console, _)) if console.len() == 1 => {}
        other => unproven!("at rest there is no console: {other:?}"),
    }
    type Seen = Option<(Vec<(String, String)>, Vec<String>)>;
    let check = |seen: Seen, how: &str| {
        // A terminal of the container's own devpts, or nothing at all.
        if let Some((console, pts)) = seen
            && console
                .iter()
                .any(|(root, number)| !is_slave(root) || !pts.contains(number))
        {
            fell!("{how}: {console:?} is at /dev/console");
        }
        canary.untouched(how);
    };
    for (place, target) in [
        ("console", canary.dir().join("console")),
        ("console", canary.dir().join("new")),
        ("console", "/proc/sysrq-trigger".into()),
        ("console", "pts/ptmx".into()),
        ("pts", canary.dir().join("sub")),
        ("pts", "/proc/self".into()),
        ("ptmx", "/proc/self/fd/0".into()),
    ] {
        clean();
        attack::link(&target, &dir.join(place));
        check(
            create(),
            &format!("/dev/{place} is a link to {}", target.display()),
        );
    }
    for (name, target) in [
        ("console", "/proc/sysrq-trigger"),
        ("console", &format!("{}/console", canary.text())),
        ("pts", &format!("{}/sub", canary.text())),
    ] {
        clean();
        attack::link(target, &dir.join("evil"));
        let swapper = Swapper::start(&dir.join(name), &dir.join("evil"));
        attack::race(|_| check(create(), &format!("race at /dev/{name}")));
        swapper.finish();
    }
}

/// The numbers of the devpts file systems in a container, whose whole is mounted somewhere.
fn devpts(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    text.lines()
        .filter(|line| line.contains(" - devpts ") && line.split(' ').nth(3) == Some("/"))
        .filter_map(|line| line.split(' ').nth(2).map(str::to_owned))
        .collect()
}

/// Whether it is the path of a slave in a devpts.
fn is_slave(root: &str) -> bool {
    root.strip_prefix('/')
        .is_some_and(|name| name.parse::<u32>().is_ok())
}

/// tmpcopyup of a directory in which files are exchanged for links, devices and directories
/// Ids: no CVE
#[test]
fn tmpcopyup_race() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let (dir, mount) = volume(&sb, &canary);
    let data = dir.join("data");
    let bundle = sb.sh_bundle("cat /vol/data/* /vol/data/*/*; true", |c| {
        bundle::push(c, "/mounts", mount);
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/vol/data", "type": "tmpfs", "source": "tmpfs",
                "options": ["tmpcopyup", "size=4m"]}),
        );
    });
    let zero = |path: &Path| {
        mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(1, 5),
        )
        .unwrap();
    };
    for kind in [
        "file and link",
        "directory and link",
        "file and device",
        "file and fifo",
    ] {
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data).unwrap();
        let (x, y) = (data.join("x"), data.join("y"));
        match kind {
            "directory and link" => fs::create_dir(&x).unwrap(),
            _ => fs::write(&x, "harmless").unwrap(),
        }
        let script = if kind == "file and device" {
            // What was read from a device is a file full of zeros.
            "for f in /vol/data/*; do test -f $f && test $(stat -c %s $f) -gt 100 && echo device; done; true"
        } else {
            "cat /vol/data/* /vol/data/*/* </dev/null & sleep 0.05; true"
        };
        bundle.edit(|c| c["process"]["args"][2] = json!(script));
        attack::baseline(&attack::run(&sb, &bundle, "at rest"));
        match kind {
            "file and link" => attack::link(canary.dir().join("secret"), &y),
            "directory and link" => attack::link(canary.dir(), &y),
            "file and device" => zero(&y),
            _ => mknodat(CWD, &y, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
        }
        let swapper = Swapper::start(&x, &y);
        attack::race(|_| {
            let out = attack::run(&sb, &bundle, kind);
            canary.safe_from(&out, kind);
            // A full tmpfs: the device's content was copied.
            if out.stdout.contains("device") || out.stderr.to_lowercase().contains("no space left")
            {
                fell!("{kind}: a device was read: {out:#?}");
            }
        });
        swapper.finish();
    }
}

/// An image whose /proc or /sys is a link, and one that is exchanged for a link meanwhile
/// Ids: CVE-2023-27561, CVE-2023-28642, CVE-2025-54867
#[test]
fn proc_and_sys_links() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    // A mount that is covered is still there: the last one at the path is what the container sees.
    let check = |name: &str, how: &str, bundle: &Bundle| {
        brief(&sb, bundle, &[], |pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            let kind = if name == "proc" { "proc" } else { "sysfs" };
            let point = format!("/{name}");
            let found = text.lines().any(|line| {
                line.split(' ').nth(4) == Some(&point) && line.contains(&format!(" - {kind} "))
            });
            if !found {
                fell!("{how}: it runs with its {kind} elsewhere:\n{text}");
            }
        });
        canary.untouched(how);
    };
    for name in ["proc", "sys"] {
        let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
        mirror(&bundle, &canary);
        let place = bundle.rootfs().join(name);
        fs::create_dir_all(bundle.rootfs().join("fake/self/attr")).unwrap();
        for target in [
            "/fake",
            "fake",
            canary.text(),
            "../../canary",
            "/bin/../fake",
            "/nowhere",
        ] {
            attack::link(target, &place);
            check(name, &format!("/{name} is a link to {target}"), &bundle);
        }
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        let evil = bundle.rootfs().join("evil");
        attack::link("/fake", &evil);
        let swapper = Swapper::start(&place, &evil);
        attack::race(|_| {
            brief(&sb, &bundle, &[], |_| ());
            canary.untouched("race at /proc");
        });
        swapper.finish();
    }
}
