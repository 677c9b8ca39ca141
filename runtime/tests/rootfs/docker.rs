//! A bundle such as Docker writes: every part of the root file system at once.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use crate::support::{ALL, Bundle, errno, isolated, mountinfo};

const CONFIG: &str = r#"{
 "ociVersion": "1.3.0", "root": {"path": "rootfs"},
 "mounts": [
  {"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
  {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
  {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
  {"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
  {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro","nosuid","noexec","nodev"]},
  {"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
  {"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=67108864"]},
  {"destination":"/etc/hosts","type":"bind","source":"hosts","options":["rbind","rprivate"]},
  {"destination":"/etc/resolv.conf","type":"bind","source":"resolv.conf","options":["rbind","rprivate","ro"]}
 ],
 "linux": {
  "namespaces": [{"type":"mount"},{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"cgroup"}],
  "maskedPaths": ["/proc/acpi","/proc/asound","/proc/kcore","/proc/keys","/proc/interrupts","/proc/timer_list","/proc/scsi","/sys/firmware","/no/such/path"],
  "readonlyPaths": ["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger","/no/such/path"]
 }
}"#;

#[test]
fn everything_is_where_it_should_be() {
    isolated("docker::everything_is_where_it_should_be", ALL, || {
        let bundle = Bundle::new();
        fs::write(bundle.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(bundle.path().join("resolv.conf"), "").unwrap();
        bundle.enter(CONFIG).unwrap();

        let mounts = mountinfo();
        for (place, kind, source, options) in [
            (
                "/proc",
                "proc",
                "proc",
                &["rw", "nosuid", "nodev", "noexec", "relatime"][..],
            ),
            ("/dev", "tmpfs", "tmpfs", &["rw", "nosuid"]),
            (
                "/dev/pts",
                "devpts",
                "devpts",
                &["rw", "nosuid", "noexec", "relatime"],
            ),
            (
                "/sys",
                "sysfs",
                "sysfs",
                &["ro", "nosuid", "nodev", "noexec", "relatime"],
            ),
            (
                "/dev/mqueue",
                "mqueue",
                "mqueue",
                &["rw", "nosuid", "nodev", "noexec", "relatime"],
            ),
            (
                "/dev/shm",
                "tmpfs",
                "shm",
                &["rw", "nosuid", "nodev", "noexec", "relatime"],
            ),
        ] {
            let mount = &mounts[place];
            assert_eq!(
                (mount.kind.as_str(), mount.source.as_str()),
                (kind, source),
                "{place}"
            );
            assert_eq!(mount.options, options, "{place}");
        }
        assert!(mounts["/etc/resolv.conf"].has("ro"));
        assert!(mounts["/etc/hosts"].has("rw"));
        assert_eq!(mounts["/proc/keys"].root, "/null");
        assert_eq!(mounts["/proc/timer_list"].root, "/null");
        assert_eq!(mounts["/sys/firmware"].kind, "tmpfs");
        assert!(mounts["/sys/firmware"].has("ro"));
        assert!(mounts["/proc/sys"].has("ro") && mounts["/proc/sys"].has("nosuid"));
        assert!(
            !mounts
                .keys()
                .any(|place| place.starts_with("/tmp") || place.contains("no/such"))
        );

        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let meta = fs::symlink_metadata(format!("/dev/{name}")).unwrap();
            assert!(meta.file_type().is_char_device(), "{name}");
            assert_eq!(meta.rdev(), rustix::fs::makedev(major, minor), "{name}");
            assert_eq!(meta.permissions().mode() & 0o7777, 0o666, "{name}");
            assert_eq!((meta.uid(), meta.gid()), (0, 0));
        }
        fs::write("/dev/null", "x").unwrap();
        for (link, target) in [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/ptmx", "pts/ptmx"),
        ] {
            assert_eq!(fs::read_link(link).unwrap().to_str(), Some(target));
        }
        // The kernel may be built without /proc/kcore.
        assert_eq!(
            fs::symlink_metadata("/dev/core").is_ok(),
            fs::metadata("/proc/kcore").is_ok()
        );
        assert_eq!(fs::read("/proc/keys").unwrap(), b"");
        assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
        assert_eq!(
            errno(fs::write("/proc/sys/kernel/domainname", "x")),
            Some(30)
        ); // EROFS
        assert_eq!(errno(fs::write("/etc/resolv.conf", "x")), Some(30));
        assert_eq!(
            fs::read_to_string("/etc/hosts").unwrap(),
            "127.0.0.1 localhost\n"
        );
        assert_eq!(std::env::current_dir().unwrap().to_str(), Some("/"));
        fs::write("/written", "").unwrap();
    });
}
