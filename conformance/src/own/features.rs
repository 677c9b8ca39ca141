//! features.md and features-linux.md: the document that `features` prints.
//! The operation is not required; what it says must be true.

use super::{Case, Ctx, Level, Row, options, rows, skip};
use anyhow::Result;
use serde_json::{Value, json};

const LINUX: &str = "features-linux.md#linux-features-structure";

const TABLE: &[Row] = &[
    (
        "features.versions",
        "features.md#specification-version",
        Level::Must,
        "ociVersionMin and ociVersionMax are there and both are accepted in a configuration",
        versions,
    ),
    (
        "features.version-covers-suite",
        "features.md#specification-version",
        Level::Practice,
        "ociVersionMax is the version of this suite or newer",
        version_max,
    ),
    (
        "features.types",
        "features.md#features-structure",
        Level::Must,
        "each property has the type of the schema",
        types,
    ),
    (
        "features.hooks",
        "features.md#hooks",
        Level::Must,
        "hooks names hook kinds of the specification",
        hooks,
    ),
    (
        "features.mount-options",
        "features.md#mount-options",
        Level::Practice,
        "mountOptions has every option of the specification",
        mount_options,
    ),
    (
        "features.mount-options-true",
        "features.md#mount-options",
        Level::Must,
        "each option of the table that is listed is understood",
        mount_options_true,
    ),
    (
        "features.namespaces",
        LINUX,
        Level::Practice,
        "all eight namespaces are listed",
        namespaces,
    ),
    (
        "features.seccomp",
        LINUX,
        Level::Practice,
        "all actions, operators and flags of the specification are listed",
        seccomp,
    ),
    (
        "features.linux-1-3",
        LINUX,
        Level::Practice,
        "the properties of version 1.3 are there",
        linux_additions,
    ),
    (
        "features.idmap-true",
        LINUX,
        Level::Must,
        "mountExtensions.idmap.enabled is what a mount shows",
        idmap_true,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn document(ctx: &Ctx) -> Result<Value> {
    match ctx.call(&["features"]) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(e) => skip(format!("the runtime has no `features`: {e}")),
    }
}

fn versions(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    for key in ["ociVersionMin", "ociVersionMax"] {
        let Some(version) = d[key].as_str() else {
            ctx.ok(false, &format!("{key} is a string"));
            continue;
        };
        ctx.ok(
            version
                .split(['.', '-', '+'])
                .take(3)
                .filter(|p| p.parse::<u32>().is_ok())
                .count()
                == 3,
            &format!("{key} is a SemVer version"),
        );
        let mut b = ctx.bundle()?;
        b.set("/ociVersion", json!(version));
        let created = ctx.create(&b, &ctx.id());
        let error = created
            .as_ref()
            .err()
            .map_or(String::new(), ToString::to_string);
        ctx.note(
            &format!("{key} {version} is accepted"),
            created.is_ok(),
            &[("error", &error)],
        );
    }
    Ok(())
}

fn version_max(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', '-', '+'])
            .take(3)
            .filter_map(|p| p.parse().ok())
            .collect()
    };
    let max = d["ociVersionMax"].as_str().unwrap_or("");
    ctx.ok(
        numbers(max) >= numbers(crate::fetch::OCI_VERSION),
        &format!("{max} covers {}", crate::fetch::OCI_VERSION),
    );
    Ok(())
}

fn strings(v: &Value) -> bool {
    v.is_null() || v.as_array().is_some_and(|l| l.iter().all(Value::is_string))
}

fn boolean(v: &Value) -> bool {
    v.is_null() || v.is_boolean()
}

fn types(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    for p in [
        "/hooks",
        "/mountOptions",
        "/potentiallyUnsafeConfigAnnotations",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/linux/seccomp/archs",
        "/linux/seccomp/knownFlags",
        "/linux/seccomp/supportedFlags",
        "/linux/memoryPolicy/modes",
        "/linux/memoryPolicy/flags",
    ] {
        ctx.ok(
            strings(d.pointer(p).unwrap_or(&Value::Null)),
            &format!("{p} is a list of strings"),
        );
    }
    for p in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/systemd",
        "/linux/cgroup/systemdUser",
        "/linux/cgroup/rdma",
        "/linux/seccomp/enabled",
        "/linux/apparmor/enabled",
        "/linux/selinux/enabled",
        "/linux/intelRdt/enabled",
        "/linux/intelRdt/schemata",
        "/linux/intelRdt/monitoring",
        "/linux/mountExtensions/idmap/enabled",
        "/linux/netDevices/enabled",
    ] {
        ctx.ok(
            boolean(d.pointer(p).unwrap_or(&Value::Null)),
            &format!("{p} is true, false or absent"),
        );
    }
    let annotations = d
        .get("annotations")
        .and_then(Value::as_object)
        .is_none_or(|o| o.values().all(Value::is_string));
    ctx.ok(annotations, "annotations are strings");
    Ok(())
}

fn list(d: &Value, pointer: &str) -> Vec<String> {
    let list = d.pointer(pointer).and_then(Value::as_array);
    list.map(|l| {
        l.iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    })
    .unwrap_or_default()
}

fn missing(d: &Value, pointer: &str, wanted: &[&str]) -> Vec<String> {
    let have = list(d, pointer);
    wanted
        .iter()
        .filter(|w| !have.iter().any(|h| h == *w))
        .map(|w| (*w).to_owned())
        .collect()
}

fn hooks(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let known = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    let other: Vec<String> = list(&d, "/hooks")
        .into_iter()
        .filter(|h| !known.contains(&h.as_str()))
        .collect();
    ctx.eq(other, Vec::<String>::new(), "no other name is listed");
    Ok(())
}

fn mount_options(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let mut wanted = options::all();
    wanted.sort_unstable();
    ctx.eq(
        missing(&d, "/mountOptions", &wanted),
        Vec::<String>::new(),
        "options that are not listed",
    );
    Ok(())
}

fn mount_options_true(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    // Options that need nothing but a tmpfs; all in one container.
    let plain = [
        "async",
        "atime",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "mand",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "nomand",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nosymfollow",
        "relatime",
        "ro",
        "rw",
        "silent",
        "strictatime",
        "suid",
        "symfollow",
        "sync",
    ];
    let listed = list(&d, "/mountOptions");
    let mut b = ctx.bundle()?;
    let mut tried = Vec::new();
    for option in plain.iter().filter(|o| listed.iter().any(|l| l == *o)) {
        super::mounts::add(&mut b, &format!("/tmp/{option}"), "tmpfs", "t", &[option]);
        tried.push(*option);
    }
    if tried.is_empty() {
        return skip("no option is listed");
    }
    b.probe(&["exit:0"]);
    let result = ctx.run(&b);
    let error = result
        .as_ref()
        .err()
        .map_or(String::new(), |e| format!("{e:#}"));
    ctx.note(
        &format!("{} listed options are accepted", tried.len()),
        result.is_ok(),
        &[("error", &error)],
    );
    Ok(())
}

fn namespaces(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let wanted = [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ];
    ctx.eq(
        missing(&d, "/linux/namespaces", &wanted),
        Vec::<String>::new(),
        "namespaces that are not listed",
    );
    Ok(())
}

fn seccomp(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ];
    ctx.eq(
        missing(&d, "/linux/seccomp/actions", &actions),
        Vec::<String>::new(),
        "actions that are not listed",
    );
    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ];
    ctx.eq(
        missing(&d, "/linux/seccomp/operators", &operators),
        Vec::<String>::new(),
        "operators that are not listed",
    );
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    ctx.eq(
        missing(&d, "/linux/seccomp/knownFlags", &flags),
        Vec::<String>::new(),
        "flags that are not listed",
    );
    Ok(())
}

fn linux_additions(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    for p in [
        "/linux/netDevices/enabled",
        "/linux/memoryPolicy/modes",
        "/linux/intelRdt/schemata",
        "/linux/intelRdt/monitoring",
    ] {
        ctx.ok(
            d.pointer(p).is_some_and(|v| !v.is_null()),
            &format!("{p} is there"),
        );
    }
    Ok(())
}

fn idmap_true(ctx: &Ctx, _: &str) -> Result<()> {
    let d = document(ctx)?;
    let Some(claimed) = d
        .pointer("/linux/mountExtensions/idmap/enabled")
        .and_then(Value::as_bool)
    else {
        return skip("mountExtensions.idmap is not there: unknown");
    };
    let dir = super::mounts::source(ctx, "src")?;
    let mut b = ctx.bundle()?;
    let map = json!([{ "containerID": 0, "hostID": 500, "size": 10 }]);
    b.set(
        "/mounts/-",
        json!({ "destination": "/mnt", "type": "none", "source": dir.display().to_string(),
        "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map }),
    );
    b.probe(&["stat:/mnt/file"]);
    let works = ctx
        .run(&b)
        .and_then(|e| e.value(0))
        .is_ok_and(|v| v["uid"] == 500);
    ctx.eq(
        claimed,
        works,
        "an id-mapped mount works if and only if it is claimed",
    );
    Ok(())
}
