//! runtime.md: state and the five operations.

use super::{Case, Ctx, Level, Row, rows};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::process::Command;

const TABLE: &[Row] = &[
    (
        "lifecycle.state-properties",
        "runtime.md#state",
        Level::Must,
        "the state has ociVersion, id, status, pid, bundle and the annotations",
        state_properties,
    ),
    (
        "lifecycle.bundle-absolute",
        "runtime.md#state",
        Level::Must,
        "bundle is absolute even when create is given a relative path",
        bundle_absolute,
    ),
    (
        "lifecycle.statuses",
        "runtime.md#state",
        Level::Must,
        "status is created, then running, then stopped",
        statuses,
    ),
    (
        "lifecycle.program-waits-for-start",
        "runtime.md#lifecycle",
        Level::Must,
        "the program is not run before start",
        program_waits,
    ),
    (
        "lifecycle.config-is-read-once",
        "runtime.md#lifecycle",
        Level::Must,
        "changes of config.json after create do not affect the container",
        config_read_once,
    ),
    (
        "lifecycle.create-duplicate-id",
        "runtime.md#create",
        Level::Must,
        "create with an id in use is an error and leaves the container alone",
        duplicate_id,
    ),
    (
        "lifecycle.create-without-process",
        "runtime.md#start",
        Level::Must,
        "process may be unset at create; start then generates an error",
        without_process,
    ),
    (
        "lifecycle.create-failure-leaves-nothing",
        "runtime.md#errors",
        Level::Must,
        "a create that fails leaves no container, cgroup or mount",
        failure_leaves_nothing,
    ),
    (
        "lifecycle.create-bad-id",
        "runtime.md#create",
        Level::Must,
        "an id that is a path is an error",
        bad_id,
    ),
    (
        "lifecycle.start-missing-program",
        "runtime.md#errors",
        Level::Must,
        "a program that does not exist is an error of create or start",
        missing_program,
    ),
    (
        "lifecycle.start-twice",
        "runtime.md#start",
        Level::Must,
        "start of a container that is not created is an error without effect",
        start_twice,
    ),
    (
        "lifecycle.kill-created",
        "runtime.md#kill",
        Level::Must,
        "kill reaches a created container",
        kill_created,
    ),
    (
        "lifecycle.kill-stopped",
        "runtime.md#kill",
        Level::Must,
        "kill of a stopped container is an error without effect",
        kill_stopped,
    ),
    (
        "lifecycle.kill-signal",
        "runtime.md#kill",
        Level::Must,
        "kill sends the signal it is told, by name and number",
        kill_signal,
    ),
    (
        "lifecycle.delete-created",
        "runtime.md#delete",
        Level::Must,
        "delete of a created container is an error without effect",
        delete_created,
    ),
    (
        "lifecycle.delete-running",
        "runtime.md#delete",
        Level::Must,
        "delete of a running container is an error without effect",
        delete_running,
    ),
    (
        "lifecycle.delete-frees-id",
        "runtime.md#delete",
        Level::Must,
        "an id can be used again after delete",
        delete_frees_id,
    ),
    (
        "lifecycle.delete-unknown",
        "runtime.md#delete",
        Level::Must,
        "state, start, kill and delete of an unknown container are errors",
        unknown_container,
    ),
    (
        "lifecycle.no-id",
        "runtime.md#operations",
        Level::Must,
        "an operation without an id is an error",
        no_id,
    ),
    (
        "lifecycle.annotations",
        "config.md#annotations",
        Level::Must,
        "annotations with unknown keys are accepted and appear in the state",
        annotations,
    ),
    (
        "lifecycle.unknown-property",
        "config.md#extensibility",
        Level::Must,
        "unknown properties of the configuration are ignored",
        unknown_property,
    ),
    (
        "lifecycle.invalid-value",
        "config.md#extensibility",
        Level::Must,
        "an invalid value of a known property is an error",
        invalid_value,
    ),
    (
        "lifecycle.version-not-semver",
        "config.md#specification-version",
        Level::Must,
        "an ociVersion that is no SemVer version is an error",
        version_not_semver,
    ),
    (
        "lifecycle.broken-json",
        "config.md#extensibility",
        Level::Must,
        "a truncated configuration is an error that leaves nothing",
        broken_json,
    ),
    (
        "lifecycle.pid-file",
        "runtime.md#create",
        Level::Practice,
        "create --pid-file writes the pid of the container's process",
        pid_file,
    ),
    (
        "lifecycle.minimal-rootfs",
        "config.md#root",
        Level::Must,
        "a root file system with one static program and nothing else runs",
        minimal_rootfs,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn state_properties(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/annotations", json!({ "org.example.key": "value" }));
    ctx.create(&b, "c")?;
    let state = ctx.state("c")?;
    ctx.ok(
        state["ociVersion"]
            .as_str()
            .is_some_and(|v| v.split('.').count() == 3),
        "ociVersion is a version",
    );
    ctx.eq(state["id"].as_str(), Some("c"), "id is the container's");
    ctx.eq(
        state["status"].as_str(),
        Some("created"),
        "status is created",
    );
    ctx.ok(state["pid"].as_i64().is_some_and(|p| p > 0), "pid is set");
    let bundle = b.dir.display().to_string();
    ctx.eq(
        state["bundle"].as_str(),
        Some(bundle.as_str()),
        "bundle is the bundle's path",
    );
    ctx.eq(
        state["annotations"]["org.example.key"].as_str(),
        Some("value"),
        "annotations are the configuration's",
    );
    Ok(())
}

fn bundle_absolute(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    b.write()?;
    let name = b.dir.file_name().unwrap_or_default().to_owned();
    let status = Command::new(&ctx.runtime)
        .args(["create", "--bundle"])
        .arg(&name)
        .arg("rel")
        .current_dir(&ctx.work)
        .stdin(std::process::Stdio::null())
        .stdout(fs::File::create(b.dir.join("stdout"))?)
        .stderr(fs::File::create(b.dir.join("stderr"))?)
        .status()?;
    ctx.ok(status.success(), "create takes a relative bundle path");
    let state = ctx.state("rel")?;
    let bundle = b.dir.display().to_string();
    ctx.eq(
        state["bundle"].as_str(),
        Some(bundle.as_str()),
        "bundle is absolute",
    );
    let _ = ctx.call(&["delete", "--force", "rel"]);
    Ok(())
}

fn statuses(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["await:/go"]);
    ctx.create(&b, "c")?;
    ctx.eq(
        ctx.status("c"),
        "created",
        "after create the status is created",
    );
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.eq(
        ctx.status("c"),
        "running",
        "after start the status is running",
    );
    fs::write(b.rootfs().join("go"), "")?;
    ctx.wait(pid)?;
    let stopped = ctx.until(|| ctx.status("c") == "stopped");
    ctx.ok(stopped, "after the end the status is stopped");
    ctx.delete("c")?;
    ctx.ok(ctx.state("c").is_err(), "after delete there is no state");
    Ok(())
}

fn program_waits(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["touch:/ran"]);
    ctx.create(&b, "c")?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    ctx.ok(
        !b.rootfs().join("ran").exists(),
        "the program has not run after create",
    );
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.finish(&b, "c", pid)?;
    ctx.ok(
        b.rootfs().join("ran").exists(),
        "the program has run after start",
    );
    Ok(())
}

fn config_read_once(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["exit:3"]);
    ctx.create(&b, "c")?;
    b.probe(&["exit:4"]).set("/hostname", json!("other"));
    b.write()?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    let end = ctx.finish(&b, "c", pid)?;
    ctx.eq(
        end.code,
        Some(3),
        "the program of the configuration at create runs",
    );
    Ok(())
}

fn duplicate_id(ctx: &Ctx, _: &str) -> Result<()> {
    let (a, b) = (ctx.bundle()?, ctx.bundle()?);
    ctx.create(&a, "c")?;
    let before = ctx.state("c")?;
    ctx.ok(
        ctx.call(&["create", "--bundle", &b.dir.display().to_string(), "c"])
            .is_err(),
        "the second create fails",
    );
    let after = ctx.state("c")?;
    ctx.eq(
        after["pid"].as_i64(),
        before["pid"].as_i64(),
        "the first container keeps its process",
    );
    ctx.eq(
        after["bundle"].as_str(),
        before["bundle"].as_str(),
        "the first container keeps its bundle",
    );
    Ok(())
}

fn without_process(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.unset("/process");
    let created = ctx.create(&b, "c");
    let error = created
        .as_ref()
        .err()
        .map_or(String::new(), ToString::to_string);
    ctx.note(
        "create accepts a configuration without process",
        created.is_ok(),
        &[("error", &error)],
    );
    if created.is_ok() {
        ctx.eq(ctx.status("c"), "created", "the container is created");
        ctx.ok(
            ctx.start("c").is_err(),
            "start without process generates an error",
        );
    }
    Ok(())
}

fn failure_leaves_nothing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let cgroup = "/conformance-failed";
    b.set("/linux/cgroupsPath", json!(cgroup));
    b.set(
        "/mounts/-",
        json!({ "destination": "/mnt", "type": "no-such-filesystem", "source": "x" }),
    );
    let mounts = |()| {
        fs::read_to_string("/proc/self/mountinfo")
            .map(|t| t.lines().count())
            .unwrap_or(0)
    };
    let before = mounts(());
    ctx.ok(ctx.create(&b, "c").is_err(), "create fails");
    ctx.ok(ctx.state("c").is_err(), "there is no container");
    let left = super::cgroups::find(cgroup);
    let left: Vec<String> = left.iter().map(|p| p.display().to_string()).collect();
    ctx.eq(left, Vec::<String>::new(), "there is no cgroup");
    ctx.eq(mounts(()), before, "there is no mount");
    if let Some(list) = b.config["mounts"].as_array_mut() {
        list.pop();
    }
    ctx.ok(ctx.create(&b, "c").is_ok(), "the id can be used");
    Ok(())
}

fn bad_id(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    for id in ["../escape", "a/b", "..", ""] {
        ctx.ok(
            ctx.create(&b, id).is_err(),
            &format!("the id {id:?} is refused"),
        );
    }
    Ok(())
}

fn missing_program(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/args", json!(["/no/such/program"]));
    ctx.refused(&b, "a program that does not exist is an error")
}

fn start_twice(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["touch:/ran", "await:/go"]);
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    let pid = ctx.pid("c")?;
    ctx.ok(
        ctx.start("c").is_err(),
        "start of a running container fails",
    );
    ctx.eq(ctx.status("c"), "running", "and it still runs");
    fs::write(b.rootfs().join("go"), "")?;
    ctx.wait(pid)?;
    ctx.until(|| ctx.status("c") == "stopped");
    ctx.ok(
        ctx.start("c").is_err(),
        "start of a stopped container fails",
    );
    ctx.eq(ctx.status("c"), "stopped", "and it is still stopped");
    Ok(())
}

fn kill_created(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.ok(
        ctx.kill("c", "KILL").is_ok(),
        "kill of a created container succeeds",
    );
    ctx.wait(pid)?;
    ctx.ok(
        ctx.until(|| ctx.status("c") == "stopped"),
        "the container is stopped",
    );
    ctx.ok(ctx.delete("c").is_ok(), "and can be deleted");
    Ok(())
}

fn kill_stopped(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.wait(pid)?;
    ctx.until(|| ctx.status("c") == "stopped");
    ctx.ok(
        ctx.kill("c", "TERM").is_err(),
        "kill of a stopped container fails",
    );
    ctx.eq(ctx.status("c"), "stopped", "and it is still stopped");
    Ok(())
}

fn kill_signal(ctx: &Ctx, _: &str) -> Result<()> {
    for (word, number) in [("TERM", 15), ("SIGUSR1", 10), ("12", 12)] {
        let mut b = ctx.bundle()?;
        // Not pid 1 of its namespace, so that a signal without a handler kills.
        b.probe(&["touch:/up", "sleep:10000"])
            .without_namespace("pid");
        let id = format!("c{number}");
        ctx.create(&b, &id)?;
        let pid = ctx.pid(&id)?;
        ctx.start(&id)?;
        ctx.until(|| b.rootfs().join("up").exists());
        ctx.ok(
            ctx.kill(&id, word).is_ok(),
            &format!("kill {word} succeeds"),
        );
        let (code, signal) = ctx.wait(pid)?;
        if code.is_none() && signal.is_none() {
            ctx.skipped(
                &format!("{word} arrives"),
                "the runtime reaps the container's process itself",
            );
        } else {
            ctx.eq(signal, Some(number), &format!("{word} arrives"));
        }
    }
    Ok(())
}

fn delete_created(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    ctx.create(&b, "c")?;
    ctx.ok(
        ctx.delete("c").is_err(),
        "delete of a created container fails",
    );
    ctx.eq(ctx.status("c"), "created", "and it is still created");
    Ok(())
}

fn delete_running(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["sleep:10000"]);
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    ctx.ok(
        ctx.delete("c").is_err(),
        "delete of a running container fails",
    );
    ctx.eq(ctx.status("c"), "running", "and it still runs");
    Ok(())
}

fn delete_frees_id(ctx: &Ctx, _: &str) -> Result<()> {
    for round in ["first", "second"] {
        let mut b = ctx.bundle()?;
        b.probe(&["exit:0"]);
        ctx.create(&b, "again")?;
        let pid = ctx.pid("again")?;
        ctx.start("again")?;
        ctx.finish(&b, "again", pid)?;
        ctx.ok(true, &format!("{round} container of the same id"));
    }
    Ok(())
}

fn unknown_container(ctx: &Ctx, _: &str) -> Result<()> {
    for call in [
        &["state", "nope"][..],
        &["start", "nope"],
        &["kill", "nope", "TERM"],
        &["delete", "nope"],
    ] {
        ctx.ok(
            ctx.call(call).is_err(),
            &format!("{} of an unknown container fails", call.join(" ")),
        );
    }
    Ok(())
}

fn no_id(ctx: &Ctx, _: &str) -> Result<()> {
    for operation in ["state", "create", "start", "kill", "delete"] {
        ctx.ok(
            ctx.call(&[operation]).is_err(),
            &format!("{operation} without an id fails"),
        );
    }
    Ok(())
}

fn annotations(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/annotations",
        json!({ "com.example.unknown": "", "x": "y" }),
    )
    .probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    let state = ctx.state("c")?;
    ctx.eq(
        &state["annotations"],
        &json!({ "com.example.unknown": "", "x": "y" }),
        "the state has the annotations",
    );
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.eq(
        ctx.finish(&b, "c", pid)?.code,
        Some(0),
        "the container runs",
    );
    Ok(())
}

fn unknown_property(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/unknown", json!({ "a": [1] }))
        .set("/process/unknown", json!("x"))
        .set("/linux/unknown", json!(true))
        .set("/linux/resources/unknown", json!(1.5))
        .set("/mounts/0/unknown", json!(null))
        .probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn invalid_value(ctx: &Ctx, _: &str) -> Result<()> {
    for (pointer, value) in [
        ("/process/cwd", json!(7)),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/linux/namespaces/0/type", json!("planet")),
        ("/linux/resources/pids/limit", json!("many")),
        ("/linux/rootfsPropagation", json!("sideways")),
        ("/root/path", json!("no-such-directory")),
    ] {
        let mut b = ctx.bundle()?;
        b.set(pointer, value.clone());
        ctx.refused(&b, &format!("{pointer} = {value} is refused"))?;
    }
    Ok(())
}

fn version_not_semver(ctx: &Ctx, _: &str) -> Result<()> {
    for version in ["invalid", "1", "", "1.0.0.0", "2.0.0"] {
        let mut b = ctx.bundle()?;
        b.set("/ociVersion", json!(version));
        ctx.refused(&b, &format!("ociVersion {version:?} is refused"))?;
    }
    Ok(())
}

fn broken_json(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    b.write()?;
    let path = b.dir.join("config.json");
    let text = fs::read(&path)?;
    fs::write(&path, text.get(..text.len() / 2).unwrap_or_default())?;
    let dir = b.dir.display().to_string();
    ctx.ok(
        ctx.call(&["create", "--bundle", &dir, "c"]).is_err(),
        "a truncated configuration is refused",
    );
    fs::write(&path, "[".repeat(200_000))?;
    ctx.ok(
        ctx.call(&["create", "--bundle", &dir, "c"]).is_err(),
        "a deeply nested configuration is refused",
    );
    ctx.ok(ctx.state("c").is_err(), "there is no container");
    Ok(())
}

fn pid_file(ctx: &Ctx, _: &str) -> Result<()> {
    let b = ctx.bundle()?;
    let file = ctx.work.join("pid");
    ctx.create_with(&b, "c", &["--pid-file", &file.display().to_string()])?;
    let pid = ctx.pid("c")?;
    let text = fs::read_to_string(&file)?;
    ctx.eq(
        text.trim(),
        pid.to_string().as_str(),
        "the file has the pid of the state",
    );
    Ok(())
}

fn minimal_rootfs(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    for dir in ["proc", "sys", "dev", "tmp", "etc", "run", "bin", "mnt"] {
        fs::remove_dir(b.rootfs().join(dir))?;
    }
    b.probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "it runs with the usual mounts");
    b.set("/mounts", json!([]));
    ctx.eq(ctx.run(&b)?.code, Some(0), "it runs without any mount");
    Ok(())
}
