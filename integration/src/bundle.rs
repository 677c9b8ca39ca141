//! Bundles: a root file system from Debian's busybox-static and a config.json.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The static busybox that becomes the root file system.
pub const BUSYBOX: &str = "/bin/busybox";

/// The programs linked to busybox in a root file system.
const APPLETS: &[&str] = &[
    "arping",
    "ash",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hostname",
    "id",
    "ifconfig",
    "ionice",
    "ip",
    "kill",
    "less",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mountpoint",
    "mv",
    "nc",
    "nice",
    "nproc",
    "od",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "vi",
    "wc",
    "which",
    "whoami",
    "xargs",
    "yes",
];

/// A directory with config.json and rootfs/.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's directory, absolute.
    pub dir: PathBuf,
    /// linux.cgroupsPath of its configuration.
    pub cgroup: String,
}

impl Bundle {
    /// The directory as an argument.
    ///
    /// # Panics
    /// Where the path is not UTF-8.
    #[must_use]
    pub fn arg(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// The root file system on the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Reads the configuration back, changes it and writes it.
    ///
    /// # Panics
    /// Where config.json cannot be read or written.
    pub fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(&path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }

    /// Writes `text` as config.json, whatever it is.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn raw_config(&self, text: &[u8]) {
        fs::write(self.dir.join("config.json"), text).unwrap();
    }

    /// Writes an executable script of the host's shell below the bundle and gives its path.
    ///
    /// # Panics
    /// Where the file cannot be written.
    #[must_use]
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.dir.join(name);
        write_program(&path, &format!("#!/bin/sh\n{body}\n"));
        path
    }
}

/// Writes a file that can be executed. A child does it, so that no process that another test makes
/// at the same time inherits a descriptor that is open for writing: the file would be busy then.
///
/// # Panics
/// Where the file cannot be written.
pub fn write_program(path: &Path, text: &str) {
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
        .args([path.as_os_str(), text.as_ref()])
        .status()
        .unwrap();
    assert!(written.success(), "{} should be written", path.display());
}

/// Makes a root file system at `dir`: busybox, links to it, and the usual directories.
///
/// # Panics
/// Where busybox-static is not installed or a file cannot be made.
pub fn rootfs(dir: &Path) {
    for sub in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "var"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, dir.join("bin/busybox")).unwrap_or_else(|error| {
        panic!("cannot copy {BUSYBOX} ({error}): install Debian's package busybox-static")
    });
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    fs::write(
        dir.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        dir.join("etc/group"),
        "root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n",
    )
    .unwrap();
}

/// Makes an image of [`rootfs`] that `ctr image import` and `docker load` read: a file at `tar`, made
/// below `dir`. It runs `command` where nothing else is asked for.
///
/// # Panics
/// Where a file cannot be made, or tar or sha256sum fails.
pub fn image(dir: &Path, tar: &Path, name: &str, command: &[&str]) {
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .current_dir(dir)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(out.status.success(), "{program} {args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    rootfs(&dir.join("rootfs"));
    run("tar", &["-C", "rootfs", "-cf", "layer.tar", "."]);
    let sum = run("sha256sum", &["layer.tar"]);
    let digest = sum.split(' ').next().unwrap();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    let files = [
        "-cf",
        tar.to_str().unwrap(),
        "manifest.json",
        "config.json",
        "layer.tar",
    ];
    run("tar", &files);
}

/// The capabilities of a container that nobody configured.
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What containerd and Docker mask.
pub const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What they make read-only.
pub const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// An ordinary configuration that runs `/bin/true`.
#[must_use]
pub fn config(cgroup: &str, version: &str) -> Value {
    json!({
        "ociVersion": version,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
        },
        "root": {"path": "rootfs"},
        "hostname": "knarr-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"},
                {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What `runc spec` and `crun spec` write, without the terminal.
///
/// # Panics
/// Never: the ordinary configuration has what is changed.
#[must_use]
pub fn runc_spec() -> Value {
    let mut config = config("", "1.3.0");
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    config["process"]["capabilities"] =
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
    config["process"]["noNewPrivileges"] = json!(true);
    config["root"]["readonly"] = json!(true);
    push(
        &mut config,
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    config["linux"]["maskedPaths"] = json!(MASKED);
    config["linux"]["readonlyPaths"] = json!(READONLY);
    config
}

/// The entry of `linux.namespaces` of that type, for editing.
///
/// # Panics
/// Where the configuration has no such entry.
pub fn namespace<'a>(config: &'a mut Value, kind: &str) -> &'a mut Value {
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find(|entry| entry["type"] == kind)
        .unwrap()
}

/// Takes the entry of `linux.namespaces` of that type away.
///
/// # Panics
/// Where linux.namespaces is no list.
pub fn drop_namespace(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|entry| entry["type"] != kind);
}

/// Appends to a list of the configuration, made where absent.
///
/// # Panics
/// Where `pointer` leads to something else than a list.
pub fn push(config: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap();
    if parent[name].is_null() {
        parent[name] = json!([]);
    }
    parent[name].as_array_mut().unwrap().push(value);
}

/// Adds a new user namespace that maps 65536 ids from 100000 on, and gives the root file system to them.
///
/// # Panics
/// Where the configuration is not an object of [`config`].
pub fn user_namespace(config: &mut Value) {
    push(config, "/linux/namespaces", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
}
