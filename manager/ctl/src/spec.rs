//! The configuration of a container, from that of its image: image-spec, conversion.md; and what
//! containers get that nobody configured further: runtime-spec, config.md and config-linux.md.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// The capabilities that root in a container keeps.
const CAPABILITIES: [&str; 14] = [
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

/// What tells of the whole host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// What would change the whole host.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where programs are looked for if the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the caller chose.
#[derive(Debug)]
pub struct Choice<'a> {
    /// The container.
    pub id: &'a str,
    /// The command in the place of the image's.
    pub args: &'a [String],
    /// Variables in addition, NAME=VALUE each.
    pub env: &'a [String],
    /// Whether the host's network is the container's.
    pub host_network: bool,
}

/// The configuration of a container of an image.
///
/// # Errors
/// A user that is a name, no command at all.
pub fn of_image(image: &Value, choice: &Choice<'_>) -> Result<Value> {
    let config = &image["config"];
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    };
    let mut args = texts(&config["Entrypoint"]);
    match choice.args {
        [] => args.extend(texts(&config["Cmd"])),
        given => args.extend_from_slice(given),
    }
    if args.is_empty() {
        bail!("the image names no command: name one behind it");
    }
    let mut env = texts(&config["Env"]);
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(PATH.to_owned());
    }
    env.extend_from_slice(choice.env);
    let (uid, gid) = user(config["User"].as_str().unwrap_or_default())?;
    let cwd = config["WorkingDir"].as_str().filter(|dir| !dir.is_empty());
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
    ];
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if std::path::Path::new("/proc/self/ns/cgroup").exists() {
        namespaces.push("cgroup");
    }
    if choice.host_network {
        for file in ["/etc/hosts", "/etc/resolv.conf"] {
            if std::path::Path::new(file).exists() {
                mounts.push(json!({"destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"]}));
            }
        }
    } else {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces
        .into_iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    Ok(json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": args,
            "env": env,
            "cwd": cwd.unwrap_or("/"),
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        },
        "root": {"path": "rootfs"},
        "hostname": choice.id,
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/knarr/{}", choice.id),
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// User and group of an image, as numbers: names are in the image's files, which this side does not open.
fn user(text: &str) -> Result<(u32, u32)> {
    let number = |part: &str| match part {
        "" | "root" => Ok(0),
        part => part.parse().with_context(|| {
            format!("the image's user {text:?} has a name; only numbers and root are known here")
        }),
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    Ok((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(config: Value, args: &[&str]) -> Result<Value> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let choice = Choice {
            id: "c",
            args: &args,
            env: &["A=1".to_owned()],
            host_network: false,
        };
        of_image(&json!({"config": config}), &choice)
    }

    #[test]
    fn the_caller_replaces_the_command_and_not_the_entrypoint() {
        let config = json!({"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["B=2"]});
        let process = spec(config.clone(), &[]).unwrap()["process"].take();
        assert_eq!(process["args"], json!(["/e", "c"]));
        assert_eq!(process["env"], json!(["B=2", PATH, "A=1"]));
        let process = spec(config, &["x", "y"]).unwrap()["process"].take();
        assert_eq!(process["args"], json!(["/e", "x", "y"]));
        assert!(spec(json!({}), &[]).is_err());
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(user("").unwrap(), (0, 0));
        assert_eq!(user("root").unwrap(), (0, 0));
        assert_eq!(user("1000").unwrap(), (1000, 0));
        assert_eq!(user("1000:20").unwrap(), (1000, 20));
        assert!(user("nobody").is_err());
    }
}
