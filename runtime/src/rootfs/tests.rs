//! User namespaces, id mappings and old kernels: what needs a process between
//! the host's side and the container's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{HostSources, Links, RootFd, plan, prepare};
use crate::error::{Context, Error, Result};
use crate::spec::{Spec, parse};
use crate::sys::clone::{self, flags};
use crate::sys::testing::{in_child, is_root, unshare_user};
use std::os::fd::{AsFd, OwnedFd};

struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new() -> Bundle {
        let bundle = Bundle(tempfile::tempdir().unwrap());
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        // Mapped root has to pass it.
        fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o711)).unwrap();
        bundle
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn config(mounts: &str, linux: &str) -> String {
    format!(
        r#"{{"ociVersion":"1.3.0","root":{{"path":"rootfs"}},"mounts":[{mounts}],"linux":{{{linux}}}}}"#
    )
}

/// The host's side in a mount namespace, and `inside` in a user namespace that maps root only.
fn in_user_namespace(
    bundle: &Path,
    config: &str,
    inside: impl FnOnce() -> Result<String>,
) -> Result<String> {
    in_child(|| {
        clone::unshare(flags::NEWNS).context(|| "unshare")?;
        let spec: Spec<'_> = parse::parse("config.json", config.as_bytes())?;
        let mut plan = plan(&spec, bundle)?;
        plan.mount_namespace = true;
        let sources = HostSources::open(&plan)?;
        in_child(|| {
            unshare_user();
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/uid_map", "0 0 1").unwrap();
            fs::write("/proc/self/gid_map", "0 0 1").unwrap();
            clone::unshare(flags::NEWNS).context(|| "unshare")?;
            let mut rootfs = prepare(&plan, sources, &mut || Ok(()))?;
            rootfs.pivot(false)?;
            rootfs.finish()?;
            inside()
        })
    })
}

const USER: &str = r#""namespaces":[{"type":"user"},{"type":"mount"}],
    "uidMappings":[{"containerID":0,"hostID":0,"size":1}],"gidMappings":[{"containerID":0,"hostID":0,"size":1}]"#;

#[test]
fn a_user_namespace_gets_the_hosts_devices_and_file_systems() {
    if !is_root("a_user_namespace_gets_the_hosts_devices_and_file_systems") {
        return;
    }
    let bundle = Bundle::new();
    // A source that mapped root could not reach: its directory belongs to somebody unmapped.
    let closed = bundle.path().join("closed");
    fs::create_dir_all(closed.join("source/sub")).unwrap();
    fs::write(closed.join("source/file"), "reached").unwrap();
    std::os::unix::fs::chown(&closed, Some(1234), Some(1234)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mounts = r#"
        {"destination":"/proc","source":"/proc","options":["rbind"]},
        {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755"]},
        {"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
        {"destination":"/source","source":"closed/source","options":["rbind","ro"]}"#;
    let linux = format!(
        r#"{USER},"maskedPaths":["/proc/keys","/proc/acpi"],"readonlyPaths":["/proc/sys"]"#
    );
    in_user_namespace(bundle.path(), &config(mounts, &linux), || {
        for (name, minor) in [
            ("null", 3),
            ("zero", 5),
            ("full", 7),
            ("random", 8),
            ("urandom", 9),
        ] {
            let meta = fs::metadata(format!("/dev/{name}")).unwrap();
            assert!(meta.file_type().is_char_device());
            assert_eq!(meta.rdev(), rustix::fs::makedev(1, minor));
        }
        fs::write("/dev/null", "usable").unwrap();
        assert_eq!(fs::read_to_string("/source/file").unwrap(), "reached");
        assert!(fs::write("/source/file", "").is_err());
        assert!(Path::new("/sys/kernel").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let sys = table.lines().find(|line| line.contains(" /sys ")).unwrap();
        assert!(sys.contains(" ro,nosuid,nodev,noexec"), "{sys}");
        assert_eq!(fs::read("/proc/keys").unwrap(), b"");
        Ok(String::new())
    })
    .unwrap();
}

#[test]
fn a_user_namespace_gets_configured_devices_that_the_host_lacks() {
    if !is_root("a_user_namespace_gets_configured_devices_that_the_host_lacks") {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.path().join("rootfs/taken"), "").unwrap();
    let linux = format!(
        r#"{USER},"devices":[
            {{"path":"/dev/knarr-own","type":"c","major":1,"minor":5,"fileMode":432,"uid":0,"gid":0}},
            {{"path":"/deep/block","type":"b","major":7,"minor":250,"fileMode":2480}},
            {{"path":"/taken","type":"c","major":1,"minor":3}},
            {{"path":"/pipe","type":"p","fileMode":384}},
            {{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":420}}]"#
    );
    let outcome = in_user_namespace(bundle.path(), &config("", &linux), || {
        for (path, number, mode) in [
            ("/dev/knarr-own", (1, 5), 0o020_660),
            ("/deep/block", (7, 250), 0o064_660),
            ("/taken", (1, 3), 0o020_666),
            ("/pipe", (0, 0), 0o010_600),
            ("/dev/null", (1, 3), 0o020_644),
        ] {
            let meta = fs::metadata(path).unwrap();
            assert_eq!(
                meta.rdev(),
                rustix::fs::makedev(number.0, number.1),
                "{path}"
            );
            assert_eq!(meta.mode(), mode, "{path}");
            assert_eq!((meta.uid(), meta.gid()), (0, 0), "{path}");
        }
        let mut zero = [1; 4];
        let mut file = fs::File::open("/dev/knarr-own").unwrap();
        std::io::Read::read_exact(&mut file, &mut zero).unwrap();
        assert_eq!(zero, [0; 4]);
        Ok(String::new())
    });
    match outcome {
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => {
            crate::sys::testing::note_skip(format_args!(
                "the kernel does not copy detached mounts: {error}"
            ));
        }
        outcome => assert_eq!(outcome.unwrap(), ""),
    }
}

#[test]
fn the_root_itself_may_be_out_of_reach() {
    if !is_root("the_root_itself_may_be_out_of_reach") {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.path().join("rootfs/here"), "").unwrap();
    std::os::unix::fs::chown(bundle.path(), Some(1234), Some(1234)).unwrap();
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o700)).unwrap();
    in_user_namespace(bundle.path(), &config("", USER), || {
        assert!(Path::new("/here").exists() && !Path::new("/tmp").exists());
        Ok(String::new())
    })
    .unwrap();
}

#[test]
fn without_a_mount_namespace_the_host_keeps_its_mounts() {
    if !is_root("without_a_mount_namespace_the_host_keeps_its_mounts") {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.path().join("rootfs/here"), "").unwrap();
    let go = |config: &str, no_pivot: bool| {
        in_child(|| {
            // Stands for the host's.
            clone::unshare(flags::NEWNS).context(|| "unshare")?;
            let spec: Spec<'_> = parse::parse("config.json", config.as_bytes())?;
            let plan = plan(&spec, bundle.path())?;
            let host = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
            let table = || {
                let file =
                    rustix::fs::openat(&host, "self/mountinfo", OFlags::RDONLY, Mode::empty());
                std::io::read_to_string(fs::File::from(file.unwrap())).unwrap()
            };
            let before = table();
            let mut rootfs = prepare(&plan, HostSources::open(&plan)?, &mut || Ok(()))?;
            assert_eq!(table(), before);
            rootfs.pivot(no_pivot)?;
            rootfs.finish()?;
            assert!(Path::new("/here").exists() && !Path::new("/proc").exists());
            // The table is that of the root, of which the host's is no part now.
            rustix::process::fchdir(&host).unwrap();
            rustix::process::chdir("..").unwrap();
            rustix::process::chroot(".").unwrap();
            assert_eq!(table(), before);
            Ok(String::new())
        })
    };
    go(&config("", ""), false).unwrap();
    go(&config("", ""), true).unwrap();
    let read_only = r#"{"ociVersion":"1.3.0","root":{"path":"rootfs","readonly":true}}"#;
    let error = go(read_only, false).unwrap_err().to_string();
    assert!(error.contains("root.readonly"), "{error}");
    let shared = config("", r#""rootfsPropagation":"shared""#);
    let error = go(&shared, false).unwrap_err().to_string();
    assert!(error.contains("linux.rootfsPropagation"), "{error}");
}

/// The whole way without a user namespace; then `inside`.
fn inside(
    bundle: &Path,
    config: &str,
    check: impl FnOnce(RootFd) -> Result<String>,
) -> Result<String> {
    in_child(|| {
        clone::unshare(flags::NEWNS).context(|| "unshare")?;
        enter(bundle, config, false).and_then(check)
    })
}

fn enter(bundle: &Path, config: &str, no_pivot: bool) -> Result<RootFd> {
    let spec: Spec<'_> = parse::parse("config.json", config.as_bytes())?;
    let mut plan = plan(&spec, bundle)?;
    plan.mount_namespace = true;
    let mut rootfs = prepare(&plan, HostSources::open(&plan)?, &mut || Ok(()))?;
    rootfs.pivot(no_pivot)?;
    rootfs.finish()
}

fn owners(path: &str) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn mounts_map_ids() {
    if !is_root("mounts_map_ids") {
        return;
    }
    let bundle = Bundle::new();
    let source = bundle.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(1), Some(2)).unwrap();
    let mapping = r#""uidMappings":[{"containerID":0,"hostID":1000,"size":10}],"gidMappings":[{"containerID":0,"hostID":2000,"size":10}]"#;
    let mounts = format!(
        r#"{{"destination":"/given","source":"source","options":["bind","idmap"],{mapping}}},
           {{"destination":"/implied","source":"source","options":["rbind","nosuid"],{mapping}}},
           {{"destination":"/recursive","source":"source","options":["rbind","ridmap"],{mapping}}},
           {{"destination":"/plain","source":"source","options":["bind"]}}"#
    );
    inside(bundle.path(), &config(&mounts, ""), |_| {
        assert_eq!(owners("/given/file"), (1001, 2002));
        assert_eq!(owners("/implied/file"), (1001, 2002));
        assert_eq!(owners("/recursive/file"), (1001, 2002));
        assert_eq!(owners("/plain/file"), (1, 2));
        Ok(String::new())
    })
    .unwrap();
}

#[test]
fn idmap_takes_the_containers_mapping_or_is_refused() {
    let text = |linux: &str| {
        let mounts = r#"{"destination":"/m","source":"source","options":["bind","idmap"]}"#;
        config(mounts, linux)
    };
    let refused = |config: &str| {
        let spec: Spec<'_> = parse::parse("config.json", config.as_bytes()).unwrap();
        plan(&spec, Path::new("/b"))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert!(refused(&text(USER)).is_ok());
    assert!(
        refused(&text(""))
            .unwrap_err()
            .contains("mounts[0]: idmap needs")
    );
    let half = r#"{"destination":"/m","source":"s","options":["bind"],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#;
    assert!(
        refused(&config(half, ""))
            .unwrap_err()
            .contains("need each other")
    );
    let tmpfs = r#"{"destination":"/m","type":"tmpfs","options":["idmap"]}"#;
    assert!(
        refused(&config(tmpfs, USER))
            .unwrap_err()
            .contains("only bind mounts")
    );
}

/// Makes system calls fail with `ENOSYS`, as on a kernel that does not have them.
fn without(calls: &[i64]) {
    use seccompiler::{SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn kernels_without_newer_calls() {
    if !is_root("kernels_without_newer_calls") {
        return;
    }
    let bundle = Bundle::new();
    fs::create_dir_all(bundle.path().join("rootfs/real")).unwrap();
    std::os::unix::fs::symlink("/real", bundle.path().join("rootfs/link")).unwrap();
    std::os::unix::fs::symlink("/etc", bundle.path().join("rootfs/sys")).unwrap();
    fs::create_dir(bundle.path().join("d")).unwrap();
    let mounts = r#"
        {"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]},
        {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["ro","mode=755"]},
        {"destination":"/link/new","source":"d","options":["rbind","ro","nodev","noatime","rprivate"]}"#;
    let linux = r#""maskedPaths":["/proc/keys"],"readonlyPaths":["/proc/sys"],"rootfsPropagation":"private""#;
    let text = config(mounts, linux);
    let age = |calls: &[i64]| {
        in_child(|| {
            clone::unshare(flags::NEWNS).context(|| "unshare")?;
            without(calls);
            let sysfs = r#"{"destination":"/sys","type":"sysfs","source":"s"}"#;
            let refused = enter(bundle.path(), &config(sysfs, ""), false).unwrap_err();
            assert!(refused.to_string().contains("symbolic link"), "{refused}");
            enter(bundle.path(), &text, false)?;
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let options = |place: &str| {
                let line = table
                    .lines()
                    .find(|line| line.contains(&format!(" {place} ")))
                    .unwrap();
                line.split(' ').nth(5).unwrap().to_owned()
            };
            assert_eq!(options("/real/new"), "ro,nodev,noatime");
            assert_eq!(options("/proc/sys"), "ro,nosuid,relatime");
            assert_eq!(options("/dev"), "ro,relatime");
            assert!(fs::write("/proc/sys/kernel/hostname", "x").is_err());
            assert!(!table.contains("/proc/driver"), "{table}");
            Ok(String::new())
        })
    };
    let old = [
        libc::SYS_openat2,
        libc::SYS_mount_setattr,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_fsconfig,
        libc::SYS_statx,
    ];
    age(&[libc::SYS_mount_setattr, libc::SYS_openat2]).unwrap();
    age(&[libc::SYS_move_mount]).unwrap();
    age(&[libc::SYS_fsmount]).unwrap();
    age(&old).unwrap();

    // Recursive options reach all mounts below, in a namespace that others share, too.
    fs::create_dir(bundle.path().join("d/below")).unwrap();
    let recursive = r#"{"destination":"/m","source":"d","options":["rbind","rro","rnosuid"]}"#;
    for linux in ["", r#""rootfsPropagation":"shared""#] {
        for calls in [&[libc::SYS_mount_setattr], &old[..]] {
            in_child(|| {
                crate::sys::testing::private_mounts();
                let below = bundle.path().join("d/below");
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("t", &below, "tmpfs", flags, None).unwrap();
                without(calls);
                enter(bundle.path(), &config(recursive, linux), false)?;
                let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                assert!(fs::write("/m/below/file", "").is_err(), "{linux}: {table}");
                assert!(fs::write("/m/file", "").is_err(), "{linux}: {table}");
                Ok(String::new())
            })
            .unwrap();
        }
    }
}

#[test]
fn no_pivot_hides_the_hosts_root() {
    if !is_root("no_pivot_hides_the_hosts_root") {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.path().join("rootfs/here"), "").unwrap();
    let mounts = r#"{"destination":"/proc","type":"proc","source":"proc"}"#;
    in_child(|| {
        clone::unshare(flags::NEWNS).context(|| "unshare")?;
        enter(bundle.path(), &config(mounts, ""), true)?;
        assert!(Path::new("/here").exists() && !Path::new("/../tmp").exists());
        // Only the container's own view is left.
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(
            table
                .lines()
                .filter(|line| line.contains(" - proc "))
                .count(),
            1,
            "{table}"
        );
        assert_eq!(
            table
                .lines()
                .filter(|line| line.contains(" - sysfs "))
                .count(),
            0,
            "{table}"
        );
        Ok(String::new())
    })
    .unwrap();
}

#[test]
fn a_terminal_becomes_the_console() {
    if !is_root("a_terminal_becomes_the_console") {
        return;
    }
    let bundle = Bundle::new();
    let mounts = r#"
        {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755"]},
        {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666","mode=0620"]}"#;
    inside(bundle.path(), &config(mounts, ""), |root| {
        let master = super::open_ptmx(&root)?;
        rustix::pty::unlockpt(&master).unwrap();
        let slave =
            rustix::pty::ioctl_tiocgptpeer(&master, rustix::pty::OpenptFlags::RDWR).unwrap();
        let kernel = super::Kernel::probe(super::kernel::Reach::Host)?;
        let bind = |fd: &OwnedFd| super::device::console_bind(&root, &kernel, fd.as_fd());
        bind(&slave)?;
        let console = fs::metadata("/dev/console").unwrap();
        assert_eq!(console.rdev(), fs::metadata("/dev/pts/0").unwrap().rdev());
        // Anything else is refused.
        let null = fs::File::open("/dev/null").unwrap();
        assert!(bind(&null.into()).is_err());
        Ok(String::new())
    })
    .unwrap();
    // An ordinary directory at /dev/pts, with the host's multiplexer in it.
    let error = inside(
        bundle.path(),
        &config(
            r#"{"destination":"/dev/pts","source":"/dev","options":["bind"]}"#,
            "",
        ),
        |root| super::open_ptmx(&root).map(|_| String::new()),
    )
    .unwrap_err();
    assert!(error.to_string().contains("devpts"), "{error}");
}

#[test]
fn cgroups_are_mounted_where_they_are_asked_for() {
    if !is_root("cgroups_are_mounted_where_they_are_asked_for") {
        return;
    }
    let own: Vec<String> = fs::read_to_string("/proc/self/cgroup")
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let bundle = Bundle::new();
    for namespace in [false, true] {
        let mounts = r#"
            {"destination":"/proc","type":"proc","source":"proc"},
            {"destination":"/sys","type":"sysfs","source":"sysfs"},
            {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro","nosuid","nodev","noexec"]}"#;
        let linux = if namespace {
            r#""namespaces":[{"type":"cgroup"}]"#
        } else {
            ""
        };
        let text = config(mounts, linux);
        in_child(|| {
            clone::unshare(flags::NEWNS).context(|| "unshare")?;
            let spec: Spec<'_> = parse::parse("config.json", text.as_bytes())?;
            let mut plan = plan(&spec, bundle.path())?;
            plan.mount_namespace = true;
            let mut calls = 0;
            let mut rootfs = prepare(&plan, HostSources::default(), &mut || {
                calls += 1;
                if namespace {
                    clone::unshare(flags::NEWCGROUP).context(|| "unshare")?;
                }
                Ok(())
            })?;
            assert_eq!(calls, 1);
            rootfs.pivot(false)?;
            rootfs.finish()?;
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let v1 = !table.contains(" - cgroup2 ");
            let expected = own.iter().filter(|line| !line.starts_with("0::")).count();
            let mounted = table
                .lines()
                .filter(|line| line.contains(" - cgroup "))
                .count();
            if v1 {
                assert_eq!(mounted, expected, "{table}");
            }
            for line in table
                .lines()
                .filter(|line| line.contains(" /sys/fs/cgroup"))
            {
                assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
            }
            for line in own.iter().filter(|line| !line.starts_with("0::") && v1) {
                let name = line.split(':').nth(1).unwrap().trim_start_matches("name=");
                assert!(
                    Path::new("/sys/fs/cgroup")
                        .join(name)
                        .join("cgroup.procs")
                        .exists()
                );
            }
            Ok(String::new())
        })
        .unwrap();
    }
}

#[test]
fn one_static_program_is_enough() {
    if !is_root("one_static_program_is_enough") {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.path().join("rootfs/program"), "").unwrap();
    inside(bundle.path(), &config("", ""), |root| {
        let mut names: Vec<PathBuf> = fs::read_dir("/")
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        assert_eq!(names, [Path::new("/dev"), Path::new("/program")]);
        assert!(
            fs::symlink_metadata("/dev/fd").is_err(),
            "there is no /proc to point to"
        );
        assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
        assert_eq!(
            root.resolve("/etc/passwd", Links::Follow).unwrap_err(),
            rustix::io::Errno::NOENT
        );
        Ok(String::new())
    })
    .unwrap();
}

#[test]
fn devices_are_exactly_as_configured() {
    if !is_root("devices_are_exactly_as_configured") {
        return;
    }
    let bundle = Bundle::new();
    let linux = r#""devices":[
        {"type":"c","path":"/dev/fuse","major":10,"minor":229,"fileMode":438,"uid":7,"gid":8},
        {"type":"u","path":"/dev/null","major":1,"minor":3,"fileMode":384},
        {"type":"b","path":"/somewhere/else","major":7,"minor":1,"fileMode":3536,"uid":1},
        {"type":"p","path":"/dev/pipe","fileMode":511},
        {"type":"c","path":"/dev/unset","major":1,"minor":5}]"#;
    inside(bundle.path(), &config("", linux), |_| {
        let check = |path: &str, mode: u32, owner: (u32, u32), number: Option<(u32, u32)>| {
            let meta = fs::symlink_metadata(path).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, mode, "{path}");
            assert_eq!((meta.uid(), meta.gid()), owner, "{path}");
            if let Some((major, minor)) = number {
                assert_eq!(meta.rdev(), rustix::fs::makedev(major, minor), "{path}");
            }
        };
        check("/dev/fuse", 0o666, (7, 8), Some((10, 229)));
        check("/dev/null", 0o600, (0, 0), Some((1, 3)));
        check("/somewhere/else", 0o6720, (1, 0), Some((7, 1)));
        check("/dev/pipe", 0o777, (0, 0), None);
        check("/dev/unset", 0o666, (0, 0), Some((1, 5)));
        assert!(
            fs::symlink_metadata("/dev/pipe")
                .unwrap()
                .file_type()
                .is_fifo()
        );
        assert!(
            fs::symlink_metadata("/somewhere/else")
                .unwrap()
                .file_type()
                .is_block_device()
        );
        // The umask is as it was.
        fs::write("/made", "").unwrap();
        assert_eq!(
            fs::metadata("/made").unwrap().permissions().mode() & 0o022,
            0
        );
        Ok(String::new())
    })
    .unwrap();
    for (device, words) in [
        (r#"{"type":"x","path":"/dev/x"}"#, "linux.devices[0].type"),
        (
            r#"{"type":"c","path":"/dev/x","major":1}"#,
            "linux.devices[0].minor",
        ),
        (
            r#"{"type":"c","path":"/dev/x","major":-1,"minor":1}"#,
            "linux.devices[0].major",
        ),
        (
            r#"{"type":"c","path":"/dev/x","major":1,"minor":4294967299}"#,
            "linux.devices[0].minor",
        ),
        (
            r#"{"type":"c","path":"dev/x","major":1,"minor":4}"#,
            "linux.devices[0].path",
        ),
    ] {
        let text = config("", &format!(r#""devices":[{device}]"#));
        let spec: Spec<'_> = parse::parse("config.json", text.as_bytes()).unwrap();
        let error: Error = plan(&spec, Path::new("/b")).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
