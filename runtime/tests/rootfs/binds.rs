//! Bind mounts and options of mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use crate::support::{ALL, Bundle, config, errno, isolated, mountinfo};

const PROC: &str = r#"{"destination":"/proc","type":"proc","source":"proc"}"#;

fn mount(kind: &str, source: &str, target: &str, options: &str) {
    let status = Command::new("mount")
        .args(["-t", kind, "-o", options, source, target])
        .status()
        .unwrap();
    assert!(status.success());
}

fn bind(source: &str, destination: &str, options: &str) -> String {
    format!(
        r#"{{"destination":"{destination}","type":"none","source":"{source}","options":[{options}]}}"#
    )
}

#[test]
fn recursive_options_reach_what_is_below() {
    isolated("binds::recursive_options_reach_what_is_below", ALL, || {
        let bundle = Bundle::new();
        let source = bundle.path().join("src");
        fs::create_dir_all(source.join("sub")).unwrap();
        let sub = source.join("sub");
        mount("tmpfs", "below", sub.to_str().unwrap(), "nosuid");
        let mounts = [
            PROC.to_owned(),
            bind("src", "/plain", r#""rbind""#),
            bind("src", "/ro", r#""rbind","ro""#),
            bind("src", "/rro", r#""rbind","rro","rnodev","rnoatime""#),
            bind(
                "src",
                "/one",
                r#""bind","nosuid","nodev","noexec","strictatime""#,
            ),
            bind("src", "/nolinks", r#""bind","nosymfollow""#),
        ]
        .join(",");
        bundle.enter(&config(&mounts, "")).unwrap();
        let seen = mountinfo();
        assert!(seen["/plain"].has("rw") && seen["/plain/sub"].has("nosuid"));
        assert!(seen["/ro"].has("ro") && seen["/ro/sub"].has("rw"));
        for place in ["/rro", "/rro/sub"] {
            let mount = &seen[place];
            assert!(
                mount.has("ro") && mount.has("nodev") && mount.has("noatime"),
                "{place}: {mount:?}"
            );
        }
        assert!(
            seen["/rro/sub"].has("nosuid"),
            "flags of the source are kept"
        );
        let one = &seen["/one"];
        assert!(one.has("nosuid") && one.has("nodev") && one.has("noexec") && !one.has("relatime"));
        assert!(!seen.contains_key("/one/sub"), "bind is one mount only");
        assert!(seen["/nolinks"].has("nosymfollow"));
    });
}

#[test]
fn files_directories_and_what_is_missing() {
    isolated("binds::files_directories_and_what_is_missing", ALL, || {
        let bundle = Bundle::new();
        bundle
            .dir("real/deep")
            .link("abs", "/real")
            .link("rel", "real/../real")
            .link("dangling", "/made/later");
        fs::write(bundle.path().join("f"), "file").unwrap();
        fs::create_dir(bundle.path().join("d")).unwrap();
        fs::write(bundle.path().join("d/in"), "inside").unwrap();
        symlink("f", bundle.path().join("to-f")).unwrap();
        let mounts = [
            PROC.to_owned(),
            bind("f", "/a/b/c/file", r#""bind""#),
            bind("d", "/abs/deep", r#""bind""#),
            bind("f", "rel/new", r#""bind""#),
            bind("f", "/dangling", r#""bind""#),
            bind("f", "/x/../y/./z", r#""bind""#),
            bind("to-f", "/linked", r#""bind""#),
            bind("to-f", "/same-link", r#""bind","copy-symlink""#),
            // A type without the option is a bind mount too.
            r#"{"destination":"/typed","type":"bind","source":"f"}"#.to_owned(),
        ]
        .join(",");
        bundle.enter(&config(&mounts, "")).unwrap();
        for file in [
            "/a/b/c/file",
            "/real/new",
            "/made/later",
            "/y/z",
            "/linked",
            "/typed",
        ] {
            assert_eq!(fs::read_to_string(file).unwrap(), "file", "{file}");
        }
        assert_eq!(fs::read_to_string("/real/deep/in").unwrap(), "inside");
        assert_eq!(fs::read_link("/same-link").unwrap().to_str(), Some("f"));
        assert_eq!(
            fs::metadata("/a/b").unwrap().permissions().mode() & 0o7777,
            0o755
        );
        assert!(mountinfo().contains_key("/a/b/c/file"));
    });
}

#[test]
fn tmpfs_modes_copies_and_read_only() {
    isolated("binds::tmpfs_modes_copies_and_read_only", ALL, || {
        let bundle = Bundle::new();
        bundle
            .file("copied/sub/file", "text")
            .link("copied/link", "/etc/passwd")
            .dir("kept")
            .dir("parent");
        let rootfs = bundle.rootfs();
        fs::set_permissions(rootfs.join("kept"), fs::Permissions::from_mode(0o2711)).unwrap();
        fs::set_permissions(
            rootfs.join("copied/sub/file"),
            fs::Permissions::from_mode(0o4750),
        )
        .unwrap();
        std::os::unix::fs::chown(rootfs.join("copied/sub"), Some(5), Some(6)).unwrap();
        fs::write(bundle.path().join("f"), "file").unwrap();
        let mounts = [
            PROC.to_owned(),
            r#"{"destination":"/kept","type":"tmpfs","source":"a"}"#.to_owned(),
            r#"{"destination":"/fresh","type":"tmpfs","source":"a"}"#.to_owned(),
            r#"{"destination":"/given","type":"tmpfs","source":"a","options":["mode=0700","size=4096"]}"#.to_owned(),
            r#"{"destination":"/copied","type":"tmpfs","source":"a","options":["tmpcopyup"]}"#.to_owned(),
            r#"{"destination":"/versioned","type":"tmpfs","source":"a","options":["iversion","nosuid","ro"]}"#.to_owned(),
            r#"{"destination":"/parent","type":"tmpfs","source":"a","options":["ro","sync","lazytime"]}"#.to_owned(),
            bind("f", "/parent/child", r#""bind""#),
        ]
        .join(",");
        bundle.enter(&config(&mounts, "")).unwrap();
        let mode = |path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("/kept"), 0o2711);
        assert_eq!(mode("/fresh"), 0o1777);
        assert_eq!(mode("/given"), 0o700);
        assert_eq!(fs::read_to_string("/copied/sub/file").unwrap(), "text");
        assert_eq!(mode("/copied/sub/file"), 0o4750);
        let sub = fs::metadata("/copied/sub").unwrap();
        assert_eq!((sub.uid(), sub.gid()), (5, 6));
        assert_eq!(
            fs::read_link("/copied/link").unwrap().to_str(),
            Some("/etc/passwd")
        );
        let seen = mountinfo();
        assert!(seen["/versioned"].has("ro") && seen["/versioned"].has("nosuid"));
        assert!(seen["/parent"].has("ro"));
        assert_eq!(fs::read_to_string("/parent/child").unwrap(), "file");
        assert_eq!(errno(fs::write("/parent/other", "")), Some(30)); // EROFS
    });
}

#[test]
fn remount_changes_what_is_there() {
    isolated("binds::remount_changes_what_is_there", ALL, || {
        let bundle = Bundle::new();
        let mounts = [
            PROC,
            r#"{"destination":"/t","type":"tmpfs","source":"a","options":["nosuid"]}"#,
            r#"{"destination":"/t","options":["remount","noexec","size=1m","ro"]}"#,
        ]
        .join(",");
        bundle.enter(&config(&mounts, "")).unwrap();
        let seen = mountinfo();
        assert!(
            ["ro", "nosuid", "noexec"]
                .iter()
                .all(|option| seen["/t"].has(option))
        );
    });
}

#[test]
fn propagation_of_the_root_and_to_the_host() {
    let name = "binds::propagation_of_the_root_and_to_the_host";
    isolated(name, &[], || {
        // As on hosts with systemd: everything is shared, and the root is a mount of its own.
        let bundle = Bundle::new();
        fs::create_dir(bundle.path().join("v")).unwrap();
        let root = bundle.rootfs();
        mount("tmpfs", "image", root.to_str().unwrap(), "mode=755");
        let shared = Command::new("mount").args(["--make-rshared", "/"]).status();
        assert!(shared.unwrap().success());
        for (value, expected) in [
            ("", "master"),
            ("slave", "master"),
            ("private", ""),
            ("shared", "shared"),
            ("unbindable", "unbindable"),
        ] {
            // This process is the host, one in a copy of its namespace the container.
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let inside = "binds::container_of_the_propagation_test";
            let output = Command::new("unshare")
                .args(["--mount", "--propagation", "unchanged"])
                .arg(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    inside,
                    "--ignored",
                    "--nocapture",
                    "--test-threads=1",
                ])
                .env("KNARR_BUNDLE", bundle.path())
                .env("KNARR_VALUE", value)
                .env("KNARR_EXPECTED", expected)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert_eq!(before, after, "{value}: nothing appears on the host");
        }
        let _ = Command::new("umount").arg(&root).status();
    });
}

/// The container's side of [`propagation_of_the_root_and_to_the_host`].
#[test]
#[ignore = "runs as part of another test"]
fn container_of_the_propagation_test() {
    let bundle = Bundle::at(std::env::var_os("KNARR_BUNDLE").unwrap().into());
    let value = std::env::var("KNARR_VALUE").unwrap();
    let expected = std::env::var("KNARR_EXPECTED").unwrap();
    let mounts = [
        PROC.to_owned(),
        r#"{"destination":"/t","type":"tmpfs","source":"a"}"#.to_owned(),
        bind("v", "/private", r#""bind","private""#),
        bind("v", "/shared", r#""bind","shared""#),
        bind("v", "/slave", r#""bind","rslave""#),
        bind("v", "/unbindable", r#""bind","unbindable""#),
    ]
    .join(",");
    bundle
        .enter(&config(
            &mounts,
            &format!(r#""rootfsPropagation":"{value}""#),
        ))
        .unwrap();
    let seen = mountinfo();
    let optional = |place: &str| seen[place].optional.join(" ");
    let root = optional("/");
    assert!(
        root.starts_with(&expected) && root.is_empty() == expected.is_empty(),
        "{value}: {root}"
    );
    assert_eq!(optional("/private"), "");
    assert!(optional("/shared").contains("shared:"));
    assert!(optional("/slave").contains("master:"));
    assert_eq!(optional("/unbindable"), "unbindable");
}

#[test]
fn bad_binds_are_named() {
    isolated("binds::bad_binds_are_named", ALL, || {
        let bundle = Bundle::new();
        bundle.file("file", "").dir("dir");
        fs::create_dir(bundle.path().join("d")).unwrap();
        fs::write(bundle.path().join("f"), "").unwrap();
        for (mount, words) in [
            (
                bind("none", "/x", r#""bind""#),
                &["mounts[0]", "none", "no such file or directory"][..],
            ),
            (
                bind("d", "/file", r#""bind""#),
                &["mounts[0]", "not a directory"],
            ),
            (
                bind("f", "/dir", r#""bind""#),
                &["mounts[0]", "not a directory"],
            ),
            (
                bind("f", "/file/below", r#""bind""#),
                &["mounts[0]", "not a directory"],
            ),
            (
                bind("f", "/", r#""bind""#),
                &["mounts[0].destination", "root"],
            ),
            (
                bind("f", "/x/..", r#""bind""#),
                &["mounts[0].destination", "root"],
            ),
            (
                bind("f", "/x", r#""bind","size=1""#),
                &["mounts[0].options", "size=1"],
            ),
            (bind("", "/x", r#""bind""#), &["mounts[0].source"]),
            (
                r#"{"destination":"/x","type":"nosuchfs"}"#.to_owned(),
                &["mounts[0]", "nosuchfs"],
            ),
            (r#"{"destination":"/x"}"#.to_owned(), &["mounts[0].type"]),
            (
                r#"{"destination":"/x","type":"tmpfs","options":["size=much"]}"#.to_owned(),
                &["mounts[0]", "size"],
            ),
            (
                r#"{"destination":"/never","options":["remount","ro"]}"#.to_owned(),
                &["mounts[0]", "no such file"],
            ),
        ] {
            let error = bundle.refuse(&config(&mount, ""));
            assert!(
                words.iter().all(|word| error.contains(word)),
                "{mount}: {error}"
            );
        }
    });
}
