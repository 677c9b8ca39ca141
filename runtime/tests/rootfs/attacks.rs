//! Images that try to reach the host: everything they are told to do stays inside.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{ALL, Bundle, config, isolated, mountinfo};

const PROC: &str = r#"{"destination":"/proc","type":"proc","source":"proc"}"#;
const DEV: &str = r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs"}"#;

/// A directory outside of the image, with what must not be touched.
fn outside(bundle: &Bundle) -> String {
    let path = bundle.path().join("outside");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("secret"), "secret").unwrap();
    path.to_str().unwrap().to_owned()
}

fn untouched(path: &str) {
    let names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(
        fs::read_to_string(Path::new(path).join("secret")).unwrap(),
        "secret"
    );
}

#[test]
fn links_at_special_directories_are_refused() {
    isolated(
        "attacks::links_at_special_directories_are_refused",
        ALL,
        || {
            let bundle = Bundle::new();
            let outside = outside(&bundle);
            for (name, kind) in [("proc", "proc"), ("sys", "sysfs"), ("dev", "tmpfs")] {
                for target in [outside.as_str(), "/etc", "../outside", "etc"] {
                    bundle.dir("etc").link(name, target);
                    let mount =
                        format!(r#"{{"destination":"/{name}","type":"{kind}","source":"x"}}"#);
                    let error = bundle.refuse(&config(&mount, ""));
                    assert!(
                        error.contains("symbolic link"),
                        "{name} -> {target}: {error}"
                    );
                    fs::remove_file(bundle.rootfs().join(name)).unwrap();
                }
            }
            // Without a mount at /dev the nodes would go where the link leads.
            bundle.link("dev", &outside);
            let error = bundle.refuse(&config("", ""));
            assert!(error.contains("symbolic link"), "{error}");
            untouched(&outside);
            // A procfs somewhere behind a link is refused too.
            fs::remove_file(bundle.rootfs().join("dev")).unwrap();
            bundle.link("else", "/etc");
            let mount = r#"{"destination":"/else/proc","type":"proc","source":"proc"}"#;
            assert!(bundle.refuse(&config(mount, "")).contains("symbolic link"));
        },
    );
}

#[test]
fn mount_targets_stay_inside() {
    isolated("attacks::mount_targets_stay_inside", ALL, || {
        let bundle = Bundle::new();
        let outside = outside(&bundle);
        fs::write(bundle.path().join("f"), "mounted").unwrap();
        bundle
            .dir("d")
            .link("absolute", &outside)
            .link("upwards", "../outside")
            .link("d/far", "../../../../../../..");
        let bind =
            |to: &str| format!(r#"{{"destination":"{to}","source":"f","options":["bind"]}}"#);
        let mounts = [
            PROC.to_owned(),
            bind("/absolute/secret"),
            bind("/upwards/secret"),
            bind("/d/far/new"),
            bind("/../../../../escaped"),
            bind("d/../../../also"),
            r#"{"destination":"/absolute/t","type":"tmpfs","source":"t"}"#.to_owned(),
        ]
        .join(",");
        bundle
            .prepare(&config(&mounts, ""), |mut rootfs| {
                untouched(&outside);
                assert!(!Path::new("/escaped").exists() && !Path::new("/also").exists());
                rootfs.pivot(false).unwrap();
                rootfs.finish().unwrap();
            })
            .unwrap();
        for path in [
            &format!("{outside}/secret"),
            "/outside/secret",
            "/new",
            "/escaped",
            "/also",
        ] {
            assert_eq!(fs::read_to_string(path).unwrap(), "mounted", "{path}");
        }
    });
}

#[test]
fn the_proc_file_system_cannot_be_feigned() {
    isolated(
        "attacks::the_proc_file_system_cannot_be_feigned",
        ALL,
        || {
            let bundle = Bundle::new();
            fs::create_dir(bundle.path().join("d")).unwrap();
            fs::write(bundle.path().join("f"), "mine").unwrap();
            bundle.link("way", "/proc/sys");
            for mounts in [
                r#"{"destination":"/proc","type":"tmpfs","source":"x"}"#.to_owned(),
                r#"{"destination":"/proc","source":"d","options":["bind"]}"#.to_owned(),
                format!(
                    r#"{PROC},{{"destination":"/proc/self/attr","source":"d","options":["bind"]}}"#
                ),
                format!(
                    r#"{PROC},{{"destination":"/x/../proc/sys","source":"d","options":["bind"]}}"#
                ),
                format!(
                    r#"{PROC},{{"destination":"/way/kernel","source":"d","options":["bind"]}}"#
                ),
            ] {
                let error = bundle.refuse(&config(&mounts, ""));
                assert!(error.contains("proc file system"), "{mounts}: {error}");
            }
        },
    );
}

#[test]
fn lxcfs_files_can_be_bound_over_proc() {
    isolated("attacks::lxcfs_files_can_be_bound_over_proc", ALL, || {
        let bundle = Bundle::new();
        fs::write(bundle.path().join("f"), "mine").unwrap();
        let mounts =
            format!(r#"{PROC},{{"destination":"/proc/meminfo","source":"f","options":["bind"]}}"#);
        bundle.enter(&config(&mounts, "")).unwrap();
        assert_eq!(fs::read_to_string("/proc/meminfo").unwrap(), "mine");
    });
}

#[test]
fn masks_and_read_only_paths_follow_links_inside_only() {
    isolated(
        "attacks::masks_and_read_only_paths_follow_links_inside_only",
        ALL,
        || {
            let bundle = Bundle::new();
            let outside = outside(&bundle);
            bundle
                .file("etc/file", "x")
                .file("etc/dir/in", "x")
                .file("ro/in", "x")
                .dir("dev")
                .link("out", &outside)
                .link("to-file", "/etc/file")
                .link("loop", "loop");
            // The image's own /dev/null is a link to something worth reading (CVE-2025-31133).
            bundle.link("dev/null2", "/etc/file");
            let linux = r#""maskedPaths":["/out","/out/secret","/to-file","/etc/dir","/missing","/etc/file/below"],
            "readonlyPaths":["/ro","/missing"]"#;
            let mounts = [PROC, DEV].join(",");
            bundle
                .prepare(&config(&mounts, linux), |mut rootfs| {
                    rootfs.pivot(false).unwrap();
                    rootfs.finish().unwrap();
                })
                .unwrap();
            let seen = mountinfo();
            assert_eq!(seen["/etc/file"].root, "/null");
            assert_eq!(fs::read("/etc/file").unwrap(), b"");
            assert!(
                fs::metadata("/etc/file")
                    .unwrap()
                    .file_type()
                    .is_char_device()
            );
            assert_eq!(fs::read_dir("/etc/dir").unwrap().count(), 0);
            assert!(fs::write("/etc/dir/new", "").is_err());
            assert_eq!(fs::read_to_string("/ro/in").unwrap(), "x");
            assert!(fs::write("/ro/in", "").is_err());
            assert!(!seen.contains_key("/missing"));
        },
    );
}

#[test]
fn an_image_cannot_bring_its_own_devices() {
    isolated(
        "attacks::an_image_cannot_bring_its_own_devices",
        ALL,
        || {
            let bundle = Bundle::new();
            bundle.file("dev/zero", "not a device");
            let error = bundle.refuse(&config("", ""));
            assert!(
                error.contains("/dev/zero") && error.contains("1:5"),
                "{error}"
            );

            fs::remove_file(bundle.rootfs().join("dev/zero")).unwrap();
            bundle.link("dev/zero", "/etc/passwd");
            assert!(bundle.refuse(&config("", "")).contains("/dev/zero"));

            // Another device under a harmless name.
            fs::remove_file(bundle.rootfs().join("dev/zero")).unwrap();
            let path = bundle.rootfs().join("dev/zero");
            assert!(
                Command::new("mknod")
                    .arg(&path)
                    .args(["c", "1", "1"])
                    .status()
                    .unwrap()
                    .success()
            );
            assert!(bundle.refuse(&config("", "")).contains("/dev/zero"));
        },
    );
}

#[test]
fn a_racing_link_does_not_lead_outside() {
    isolated("attacks::a_racing_link_does_not_lead_outside", ALL, || {
        // A directory of the image and a link to the outside change places all the time.
        let bundle = Bundle::new();
        let outside = outside(&bundle);
        fs::write(bundle.path().join("f"), "mounted").unwrap();
        bundle.dir("a/b").file("a/b/secret", "");
        let root = bundle.rootfs();
        symlink("../../outside", root.join("a/swap")).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let directory = fs::File::open(root.join("a")).unwrap();
                let mut swaps = 0u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(&directory, "b", &directory, "swap", flags).unwrap();
                    swaps += 1;
                }
                swaps
            });
            let file = fs::File::open(&root).unwrap();
            let rootfd = knarr_runtime::rootfs::RootFd::from(std::os::fd::OwnedFd::from(file));
            use knarr_runtime::rootfs::{Leaf, Links};
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let mut found = 0;
            for round in 0..3000 {
                // Whatever is found must be inside; errors are fine.
                let path = if round % 2 == 0 {
                    "/a/b/secret".to_owned()
                } else {
                    format!("/a/b/new{round}")
                };
                if let Ok(file) = rootfd.make(&path, Links::Follow, Leaf::File, mode) {
                    let link = format!(
                        "/proc/self/fd/{}",
                        std::os::fd::AsRawFd::as_raw_fd(&file.fd)
                    );
                    let real = fs::read_link(link).unwrap();
                    assert!(real.starts_with(&root), "{real:?}");
                    found += 1;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(swapper.join().unwrap() > 0 && found > 0);
        });
        untouched(&outside);
    });
}
