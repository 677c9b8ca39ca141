//! config.md, POSIX-platform hooks: order, namespaces, states, failures, time limits.

use super::{Bundle, Case, Ctx, Level, Row, rows};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

const CLAUSE: &str = "config.md#posix-platform-hooks";

const TABLE: &[Row] = &[
    (
        "hooks.order",
        CLAUSE,
        Level::Must,
        "hooks run in the order of their kinds and, within one, as listed",
        order,
    ),
    (
        "hooks.prestart-in-create",
        "config.md#prestart",
        Level::Must,
        "prestart hooks run as part of create, before createRuntime hooks",
        prestart_in_create,
    ),
    (
        "hooks.create-phase",
        "config.md#createcontainer-hooks",
        Level::Must,
        "createRuntime and createContainer hooks run in create, startContainer hooks do not",
        create_phase,
    ),
    (
        "hooks.startcontainer-phase",
        "config.md#startcontainer-hooks",
        Level::Must,
        "startContainer hooks run in start, before the program",
        startcontainer_phase,
    ),
    (
        "hooks.poststart-phase",
        "config.md#poststart",
        Level::Must,
        "poststart hooks run after the program is executed and before start returns",
        poststart_phase,
    ),
    (
        "hooks.poststop-phase",
        "config.md#poststop",
        Level::Must,
        "poststop hooks run after the container is deleted and before delete returns",
        poststop_phase,
    ),
    (
        "hooks.namespaces",
        CLAUSE,
        Level::Must,
        "createContainer and startContainer hooks run in the container's namespaces, the others in the runtime's",
        namespaces,
    ),
    (
        "hooks.container-mount-namespace",
        "config.md#createcontainer-hooks",
        Level::Must,
        "createContainer hooks run before pivot_root, startContainer hooks in the container's root",
        before_pivot,
    ),
    (
        "hooks.state-stdin",
        CLAUSE,
        Level::Must,
        "hooks get id, bundle, pid and annotations on standard input",
        state_stdin,
    ),
    (
        "hooks.state-version",
        "runtime.md#state",
        Level::Must,
        "the state given to hooks names the version of the configuration or of the runtime",
        state_version,
    ),
    (
        "hooks.status-values",
        "runtime.md#state",
        Level::Must,
        "status is creating, creating, creating, created, running, stopped",
        status_values,
    ),
    (
        "hooks.pid-in-container",
        "runtime.md#state",
        Level::Must,
        "hooks in the container's namespaces get the pid that the container sees",
        pid_in_container,
    ),
    (
        "hooks.args-env",
        CLAUSE,
        Level::Must,
        "args and env of a hook are the listed ones and nothing else",
        args_env,
    ),
    (
        "hooks.path-absolute",
        CLAUSE,
        Level::Must,
        "a relative hook path is an error",
        path_absolute,
    ),
    (
        "hooks.timeout-positive",
        CLAUSE,
        Level::Must,
        "a timeout of zero or less is an error",
        timeout_positive,
    ),
    (
        "hooks.timeout-aborts",
        CLAUSE,
        Level::Must,
        "a hook that exceeds its timeout is aborted and counts as failed",
        timeout_aborts,
    ),
    (
        "hooks.poststop-failure",
        "runtime.md#lifecycle",
        Level::Must,
        "a failing poststop hook is a warning: the rest run and delete succeeds",
        poststop_failure,
    ),
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    let mut all = rows(TABLE);
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ] {
        all.push(Case {
            id: format!("hooks.failure-{}", kind.to_ascii_lowercase()),
            clause: "runtime.md#lifecycle",
            level: Level::Must,
            text: format!(
                "a failing {kind} hook is an error, stops the container and runs the poststop hooks"
            ),
            param: kind.to_owned(),
            realtime: false,
            run: failure,
        });
    }
    all
}

/// Adds a logging hook. The log is /log of the root file system, which the
/// hooks outside see by its path in the bundle.
fn add(b: &mut Bundle, kind: &str, name: &str, extra: &[&str]) {
    let inside = kind == "startContainer";
    let root = b.rootfs();
    let path = |p: &str| {
        if inside {
            format!("/{p}")
        } else {
            root.join(p).display().to_string()
        }
    };
    let mut args = vec![
        "a-name".to_owned(),
        "hook".to_owned(),
        path("log"),
        name.to_owned(),
    ];
    args.extend(extra.iter().map(|e| (*e).to_owned()));
    let libraries = path("lib64");
    b.set(
        &format!("/hooks/{kind}/-"),
        json!({ "path": path("probe"), "args": args, "env": ["HOOK=yes", format!("LD_LIBRARY_PATH={libraries}")] }),
    );
}

fn all_kinds(b: &mut Bundle) {
    for kind in KINDS {
        add(b, kind, kind, &[]);
    }
}

fn log(b: &Bundle) -> Vec<Value> {
    let text = fs::read_to_string(b.rootfs().join("log")).unwrap_or_default();
    text.lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect()
}

fn names(b: &Bundle) -> Vec<String> {
    log(b)
        .iter()
        .filter_map(|l| l["hook"].as_str().map(str::to_owned))
        .collect()
}

fn entry(b: &Bundle, name: &str) -> Result<Value> {
    log(b)
        .into_iter()
        .find(|l| l["hook"] == name)
        .with_context(|| format!("the {name} hook did not run"))
}

fn order(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let mut expected = Vec::new();
    for kind in KINDS {
        for n in [1, 2] {
            let name = format!("{kind}{n}");
            add(&mut b, kind, &name, &[]);
            expected.push(name);
        }
    }
    b.probe(&["sleep:50"]);
    ctx.run(&b)?;
    ctx.eq(names(&b), expected, "all twelve hooks ran in order");
    Ok(())
}

fn prestart_in_create(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "createRuntime", "createRuntime", &[]);
    add(&mut b, "prestart", "prestart", &[]);
    ctx.create(&b, "c")?;
    ctx.eq(
        names(&b),
        ["prestart", "createRuntime"],
        "both have run when create returns, prestart first",
    );
    Ok(())
}

fn create_phase(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    ctx.create(&b, "c")?;
    ctx.eq(
        names(&b),
        ["prestart", "createRuntime", "createContainer"],
        "these have run when create returns",
    );
    Ok(())
}

fn startcontainer_phase(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "startContainer", "startContainer", &["sleep:100"]);
    b.probe(&["stat:/log", "sleep:50"]);
    ctx.create(&b, "c")?;
    ctx.eq(names(&b).len(), 0, "it has not run after create");
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    let end = ctx.finish(&b, "c", pid)?;
    ctx.eq(end.errno(0)?, None, "the program finds the hook's file");
    Ok(())
}

fn poststart_phase(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "poststart", "poststart", &[]);
    b.probe(&["await:/go"]);
    ctx.create(&b, "c")?;
    ctx.eq(names(&b).len(), 0, "it has not run after create");
    ctx.start("c")?;
    let lines = log(&b);
    ctx.eq(lines.len(), 1, "it has run when start returns");
    let program = lines
        .first()
        .and_then(|l| l["program"].as_str().map(str::to_owned))
        .unwrap_or_default();
    ctx.ok(
        program.ends_with("/probe"),
        &format!("the container's process was the program already (it was {program:?})"),
    );
    fs::write(b.rootfs().join("go"), "")?;
    Ok(())
}

fn poststop_phase(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "poststop", "poststop", &[]);
    b.probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.wait(pid)?;
    ctx.until(|| ctx.status("c") == "stopped");
    ctx.eq(names(&b).len(), 0, "it has not run before delete");
    ctx.delete("c")?;
    ctx.eq(names(&b), ["poststop"], "it has run when delete returns");
    Ok(())
}

fn namespaces(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    b.probe(&["report"]);
    let container = ctx.run(&b)?.value(0)?["namespaces"].clone();
    let own = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .map(|p| p.display().to_string())
            .unwrap_or_default()
    };
    for kind in KINDS {
        let line = entry(&b, kind)?;
        let inside = matches!(kind, "createContainer" | "startContainer");
        for ns in ["net", "uts", "ipc", "mnt"] {
            let expected = if inside {
                container[ns].as_str().unwrap_or("").to_owned()
            } else {
                own(ns)
            };
            let place = if inside { "container's" } else { "runtime's" };
            ctx.eq(
                line["namespaces"][ns].as_str(),
                Some(expected.as_str()),
                &format!("{kind}: the {place} {ns} namespace"),
            );
        }
    }
    Ok(())
}

fn before_pivot(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "createContainer", "createContainer", &[]);
    add(&mut b, "startContainer", "startContainer", &[]);
    b.probe(&["exit:0"]);
    ctx.run(&b)?;
    let has_probe = |line: &Value| {
        line["root"]
            .as_array()
            .is_some_and(|names| names.iter().any(|n| n == "probe"))
    };
    let line = entry(&b, "createContainer")?;
    ctx.ok(
        !has_probe(&line),
        "createContainer sees the runtime's root directory",
    );
    let line = entry(&b, "startContainer")?;
    ctx.ok(
        has_probe(&line),
        "startContainer sees the container's root directory",
    );
    Ok(())
}

fn state_stdin(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    b.set("/annotations", json!({ "a.b": "c" }))
        .probe(&["sleep:50"]);
    ctx.create(&b, "hooked")?;
    let pid = ctx.pid("hooked")?;
    ctx.start("hooked")?;
    ctx.finish(&b, "hooked", pid)?;
    let dir = b.dir.display().to_string();
    for kind in KINDS {
        let state = entry(&b, kind)?["state"].clone();
        ctx.eq(state["id"].as_str(), Some("hooked"), &format!("{kind}: id"));
        ctx.eq(
            state["bundle"].as_str(),
            Some(dir.as_str()),
            &format!("{kind}: bundle"),
        );
        ctx.eq(
            state["annotations"]["a.b"].as_str(),
            Some("c"),
            &format!("{kind}: annotations"),
        );
        if matches!(kind, "prestart" | "createRuntime" | "poststart") {
            ctx.eq(
                state["pid"].as_i64(),
                Some(i64::from(pid.as_raw())),
                &format!("{kind}: pid as the runtime sees it"),
            );
        }
    }
    Ok(())
}

fn state_version(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "createRuntime", "createRuntime", &[]);
    ctx.create(&b, "c")?;
    let given = entry(&b, "createRuntime")?["state"]["ociVersion"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    let state = ctx.state("c")?;
    ctx.eq(
        Some(given.as_str()),
        state["ociVersion"].as_str(),
        "ociVersion is the one that state prints",
    );
    let semver = given
        .split('.')
        .filter(|p| p.parse::<u32>().is_ok())
        .count();
    ctx.eq(semver, 3, "ociVersion is a SemVer version");
    Ok(())
}

fn status_values(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    b.probe(&["sleep:200"]);
    ctx.run(&b)?;
    for (kind, status) in KINDS.iter().zip([
        "creating", "creating", "creating", "created", "running", "stopped",
    ]) {
        let given = entry(&b, kind)?["state"]["status"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        ctx.eq(given.as_str(), status, &format!("{kind}: status"));
    }
    Ok(())
}

fn pid_in_container(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    b.probe(&["exit:0"]);
    ctx.run(&b)?;
    for kind in ["createContainer", "startContainer"] {
        ctx.eq(
            entry(&b, kind)?["state"]["pid"].as_i64(),
            Some(1),
            &format!("{kind}: pid in the container's pid namespace"),
        );
    }
    Ok(())
}

fn args_env(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    all_kinds(&mut b);
    b.probe(&["exit:0"]);
    ctx.run(&b)?;
    for kind in KINDS {
        let line = entry(&b, kind)?;
        ctx.eq(
            line["arg0"].as_str(),
            Some("a-name"),
            &format!("{kind}: args[0]"),
        );
        let mut env: Vec<&str> = line["env"]
            .as_object()
            .map(|o| o.keys().map(String::as_str).collect())
            .unwrap_or_default();
        env.retain(|k| *k != "LD_LIBRARY_PATH");
        ctx.eq(env, ["HOOK"], &format!("{kind}: env"));
    }
    Ok(())
}

fn path_absolute(ctx: &Ctx, _: &str) -> Result<()> {
    for kind in KINDS {
        let mut b = ctx.bundle()?;
        b.set(&format!("/hooks/{kind}/-"), json!({ "path": "bin/true" }));
        ctx.refused(&b, &format!("{kind}: a relative path is refused"))?;
    }
    Ok(())
}

fn timeout_positive(ctx: &Ctx, _: &str) -> Result<()> {
    for timeout in [0, -1] {
        let mut b = ctx.bundle()?;
        add(&mut b, "createRuntime", "x", &[]);
        b.set("/hooks/createRuntime/0/timeout", json!(timeout));
        ctx.refused(&b, &format!("timeout {timeout} is refused"))?;
    }
    Ok(())
}

fn timeout_aborts(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "createRuntime", "slow", &["sleep:8000"]);
    b.set("/hooks/createRuntime/0/timeout", json!(1));
    let start = Instant::now();
    ctx.ok(ctx.create(&b, "c").is_err(), "create fails");
    ctx.ok(
        start.elapsed() < Duration::from_secs(6),
        "it does not wait for the hook",
    );
    ctx.ok(ctx.state("c").is_err(), "there is no container");
    let pid = entry(&b, "slow")?["pid"].as_i64().unwrap_or(0);
    let gone = ctx.until(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
    ctx.ok(gone, "the hook's process is gone");
    Ok(())
}

fn failure(ctx: &Ctx, kind: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, kind, "failing", &["exit:1"]);
    add(&mut b, kind, "next", &[]);
    add(&mut b, "poststop", "poststop", &[]);
    // A program that would be seen if it went on running.
    b.probe(&["sleep:300", "touch:/survived"]);
    let created = ctx.create(&b, "c");
    let in_create = !matches!(kind, "startContainer" | "poststart");
    if in_create {
        ctx.ok(created.is_err(), "create generates an error");
    } else {
        ctx.ok(created.is_ok(), "create succeeds");
        ctx.ok(ctx.start("c").is_err(), "start generates an error");
    }
    let status = ctx.status("c");
    ctx.ok(
        status.is_empty() || status == "stopped",
        &format!("the container is stopped or gone (it is {status:?})"),
    );
    if status == "stopped" {
        let _ = ctx.delete("c");
    }
    std::thread::sleep(Duration::from_millis(400));
    ctx.ok(
        !b.rootfs().join("survived").exists(),
        "the program does not go on",
    );
    ctx.ok(
        names(&b).iter().any(|n| n == "poststop"),
        "the poststop hooks have run",
    );
    ctx.ok(
        !names(&b).iter().any(|n| n == "next"),
        "the next hook of the list has not run",
    );
    Ok(())
}

fn poststop_failure(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "poststop", "failing", &["exit:1"]);
    add(&mut b, "poststop", "next", &[]);
    b.probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.wait(pid)?;
    ctx.until(|| ctx.status("c") == "stopped");
    let deleted = ctx.delete("c");
    let error = deleted
        .as_ref()
        .err()
        .map_or(String::new(), ToString::to_string);
    ctx.note("delete succeeds", deleted.is_ok(), &[("error", &error)]);
    ctx.eq(names(&b), ["failing", "next"], "the remaining hook has run");
    ctx.ok(ctx.state("c").is_err(), "the container is deleted");
    Ok(())
}
