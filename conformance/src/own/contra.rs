//! The proofs of the list of suite faults: each builds the smallest case in
//! which the words of the specification, or of the kernel, contradict what the
//! suite expects. They hold for every conforming runtime; one that follows the
//! suite instead fails here.

use super::{Case, Ctx, Level, Row, cgroups, rows, skip};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const TABLE: &[Row] = &[
    (
        "contra.pointer-comparison",
        "config-linux.md#pids",
        Level::Must,
        "a pids limit is compared as a number: the suite compares two addresses",
        pointer_comparison,
    ),
    (
        "contra.prestart-in-start",
        "config.md#prestart",
        Level::Must,
        "prestart hooks belong to create: the suite wants them in start",
        prestart_in_start,
    ),
    (
        "contra.prestart-status",
        "runtime.md#state",
        Level::Must,
        "during prestart hooks the status is creating: the suite wants created",
        prestart_status,
    ),
    (
        "contra.poststart-failure",
        "runtime.md#lifecycle",
        Level::Must,
        "a failing poststart hook is an error since 1.3: the suite wants a warning",
        poststart_failure,
    ),
    (
        "contra.hook-output",
        "config.md#posix-platform-hooks",
        Level::Must,
        "what hooks write is what they were told to: the suite expects other lines than its hooks write",
        hook_output,
    ),
    (
        "contra.program-writes-late",
        "config.md#poststart",
        Level::Must,
        "poststart follows the execution of the program, not its first write",
        program_writes_late,
    ),
    (
        "contra.start-without-process",
        "runtime.md#start",
        Level::Must,
        "start without process generates an error: the suite asserts that there is none",
        start_without_process,
    ),
    (
        "contra.missing-program",
        "config.md#process",
        Level::Must,
        "a program that is not in the root file system is an error: the suite forgot to copy it",
        missing_program,
    ),
    (
        "contra.capability-unknown",
        "config.md#linux-process",
        Level::Should,
        "an unknown capability is a warning: the suite wants an error",
        capability_unknown,
    ),
    (
        "contra.capability-lacking",
        "config.md#linux-process",
        Level::Should,
        "capabilities that the caller lacks cannot be granted: the suite asserts all of them",
        capability_lacking,
    ),
    (
        "contra.file-limit-of-go",
        "config.md#posix-process",
        Level::Must,
        "RLIMIT_NOFILE is the configured one: Go raises it before the suite's program looks",
        file_limit,
    ),
    (
        "contra.kernel-memory",
        "config-linux.md#memory",
        Level::Must,
        "the kernel ignores memory.kmem.limit_in_bytes: the suite reads it back",
        kernel_memory,
    ),
    (
        "contra.block-weight",
        "config-linux.md#block-io",
        Level::Must,
        "the kernel has no blkio.leaf_weight: the suite demands it",
        block_weight,
    ),
    (
        "contra.controller-missing",
        "config-linux.md#control-groups",
        Level::Must,
        "a controller that is not in a v1 hierarchy has no v1 files: the suite reads them",
        controller_missing,
    ),
    (
        "contra.bind-data",
        "config.md#valid-values",
        Level::Must,
        "the kernel drops mode= and size= of a bind mount: the suite asks for them",
        bind_data,
    ),
    (
        "contra.lsm-missing",
        "config.md#extensibility",
        Level::Must,
        "a label for a security module that the host does not have is unsupported: the suite does not look",
        lsm_missing,
    ),
    (
        "contra.signal-before-handler",
        "runtime.md#kill",
        Level::Must,
        "running does not mean that a handler is installed: the suite kills at once",
        signal_before_handler,
    ),
    (
        "contra.stopped-meanwhile",
        "runtime.md#kill",
        Level::Must,
        "kill of a container that has ended by itself is an error: the suite takes that for a failure",
        stopped_meanwhile,
    ),
    (
        "contra.silent-success",
        "runtime.md#lifecycle",
        Level::Must,
        "failing prestart hooks and wrong rlimits are errors: the suite prints nothing when they are",
        silent_success,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn hook(b: &mut super::Bundle, kind: &str, operations: &[&str]) {
    let probe = b.rootfs().join("probe").display().to_string();
    let log = b.rootfs().join("log").display().to_string();
    let mut args = vec!["hook", "hook", log.as_str(), kind];
    args.extend(operations);
    let libraries = format!("LD_LIBRARY_PATH={}", b.rootfs().join("lib64").display());
    let value = json!({ "path": probe, "args": args, "env": [libraries] });
    b.set(&format!("/hooks/{kind}/-"), value);
}

fn hooks_run(b: &super::Bundle) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(b.rootfs().join("log")).unwrap_or_default();
    text.lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect()
}

fn pointer_comparison(ctx: &Ctx, _: &str) -> Result<()> {
    let path = "/conformance-contra";
    let Some(dir) = cgroups::v1("pids", path).or_else(|| cgroups::v2(path)) else {
        return skip("no pids controller");
    };
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(path))
        .set("/linux/resources/pids/limit", json!(1000));
    ctx.create(&b, "c")?;
    ctx.eq(
        fs::read_to_string(dir.join("pids.max"))?.trim(),
        "1000",
        "pids.max is the configured limit",
    );
    Ok(())
}

fn prestart_in_start(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "prestart", &[]);
    ctx.create(&b, "c")?;
    ctx.eq(
        hooks_run(&b).len(),
        1,
        "the prestart hook has run when create returns",
    );
    Ok(())
}

fn prestart_status(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "prestart", &[]);
    ctx.create(&b, "c")?;
    let status = hooks_run(&b)
        .first()
        .map(|l| l["state"]["status"].clone())
        .unwrap_or_default();
    ctx.eq(
        status.as_str(),
        Some("creating"),
        "create has not finished, so the status is creating",
    );
    Ok(())
}

fn poststart_failure(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "poststart", &["exit:1"]);
    b.probe(&["sleep:300"]);
    ctx.create(&b, "c")?;
    ctx.ok(ctx.start("c").is_err(), "start generates an error");
    Ok(())
}

fn hook_output(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "poststart", &[]);
    hook(&mut b, "poststop", &[]);
    b.probe(&["sleep:50"]);
    ctx.run(&b)?;
    let names: Vec<String> = hooks_run(&b)
        .iter()
        .filter_map(|l| l["hook"].as_str().map(str::to_owned))
        .collect();
    ctx.eq(
        names,
        ["poststart", "poststop"],
        "each hook wrote its own whole line",
    );
    Ok(())
}

fn program_writes_late(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "poststart", &[]);
    // Executed long before it writes.
    b.probe(&["sleep:300", "touch:/written"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.eq(
        hooks_run(&b).len(),
        1,
        "the hook has run when start returns",
    );
    ctx.ok(
        !b.rootfs().join("written").exists(),
        "the program, executed before, has not written yet",
    );
    ctx.finish(&b, "c", pid)?;
    ctx.ok(b.rootfs().join("written").exists(), "it writes later");
    Ok(())
}

fn start_without_process(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.unset("/process");
    match ctx.create(&b, "c") {
        Err(e) => skip(format!(
            "the runtime refuses the configuration at create already: {e}"
        )),
        Ok(()) => {
            ctx.ok(ctx.start("c").is_err(), "start generates an error");
            Ok(())
        }
    }
}

fn missing_program(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/args", json!(["/runtimetest", "--path=/"]));
    b.set("/annotations", json!({ "org.example.unknown": "" }));
    ctx.refused(
        &b,
        "the program /runtimetest, which is not there, is an error",
    )?;
    b.probe(&["exit:0"]);
    ctx.eq(
        ctx.run(&b)?.code,
        Some(0),
        "with a program that is there the unknown annotation does no harm",
    );
    Ok(())
}

fn capability_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/capabilities/bounding/-", json!("CAP_TEST"))
        .probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn capability_lacking(ctx: &Ctx, _: &str) -> Result<()> {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|h| u64::from_str_radix(h.trim(), 16).ok());
    if bounding.is_none_or(|b| b & SYS_RESOURCE != 0) {
        return skip("the caller lacks no capability");
    }
    let mut b = ctx.bundle()?;
    b.set(
        "/process/capabilities/bounding/-",
        json!("CAP_SYS_RESOURCE"),
    );
    b.set(
        "/process/capabilities/permitted/-",
        json!("CAP_SYS_RESOURCE"),
    );
    b.set(
        "/process/capabilities/effective/-",
        json!("CAP_SYS_RESOURCE"),
    );
    b.probe(&["report"]);
    let created = ctx.run(&b);
    let error = created
        .as_ref()
        .err()
        .map_or(String::new(), |e| format!("{e:#}"));
    ctx.note(
        "the container runs without it",
        created.is_ok(),
        &[("error", &error)],
    );
    Ok(())
}

fn file_limit(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOFILE", "soft": 3000, "hard": 4000 }]),
    )
    .probe(&["report"]);
    let report = ctx.run(&b)?.value(0)?;
    ctx.eq(
        &report["rlimits"]["Max open files"],
        &json!(["3000", "4000"]),
        "a program that leaves its limits alone sees 3000",
    );
    Ok(())
}

fn kernel_memory(ctx: &Ctx, _: &str) -> Result<()> {
    let Some(dir) = cgroups::v1("memory", "/conformance-kernel-memory") else {
        return skip("memory is no v1 controller");
    };
    fs::create_dir(&dir)?;
    let file = dir.join("memory.kmem.limit_in_bytes");
    let before = fs::read_to_string(&file).unwrap_or_default();
    // The kernel takes the value without an error, and drops it.
    let _ = fs::write(&file, "50593792");
    let after = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_dir(&dir);
    ctx.eq(
        after.as_str(),
        before.as_str(),
        "writing to memory.kmem.limit_in_bytes changes nothing",
    );
    Ok(())
}

fn block_weight(ctx: &Ctx, _: &str) -> Result<()> {
    let Some(dir) = cgroups::v1("blkio", "/conformance-blkio") else {
        return skip("blkio is no v1 controller");
    };
    fs::create_dir(&dir)?;
    let missing = !dir.join("blkio.leaf_weight").exists();
    let _ = fs::remove_dir(&dir);
    ctx.ok(missing, "a new cgroup has no blkio.leaf_weight");
    Ok(())
}

fn controller_missing(ctx: &Ctx, _: &str) -> Result<()> {
    for controller in ["hugetlb", "net_cls"] {
        let here = cgroups::v1(controller, "/").is_some();
        if here {
            ctx.skipped(controller, "the controller is in a v1 hierarchy");
        } else {
            let path = format!("/sys/fs/cgroup/{controller}");
            ctx.ok(
                !Path::new(&path).exists(),
                &format!("{path}, which the suite reads, does not exist"),
            );
        }
    }
    Ok(())
}

fn bind_data(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = ctx.bundle()?.rootfs().join("bound");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    let (flags, data) = (nix::mount::MsFlags::MS_BIND, "mode=755,size=1k");
    nix::mount::mount(Some(&dir), &dir, None::<&str>, flags, Some(data))?;
    let mode = fs::metadata(&dir)?.permissions().mode() & 0o7777;
    let large = fs::write(dir.join("file"), [0; 4096]);
    let _ = nix::mount::umount(&dir);
    ctx.eq(mode, 0o700, "the directory has the mode of its source");
    ctx.ok(large.is_ok(), "it holds more than 1k");
    Ok(())
}

fn lsm_missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut tried = false;
    for (path, pointer, value) in [
        (
            "/sys/kernel/security/apparmor",
            "/process/apparmorProfile",
            "acme_secure_profile",
        ),
        (
            "/sys/fs/selinux",
            "/linux/mountLabel",
            "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811",
        ),
    ] {
        if Path::new(path).exists() {
            continue;
        }
        tried = true;
        let mut b = ctx.bundle()?;
        b.set(pointer, json!(value));
        ctx.refused(
            &b,
            &format!("{pointer} is refused on a host without {path}"),
        )?;
    }
    if tried {
        Ok(())
    } else {
        skip("the host has both security modules")
    }
}

fn signal_before_handler(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["sleep:300", "touch:/ready", "sleep:10000"]);
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    ctx.eq(ctx.status("c"), "running", "the status is running");
    ctx.ok(
        !b.rootfs().join("ready").exists(),
        "the program has not come to its first step yet",
    );
    Ok(())
}

fn stopped_meanwhile(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.wait(pid)?;
    ctx.until(|| ctx.status("c") == "stopped");
    ctx.ok(ctx.kill("c", "KILL").is_err(), "kill generates an error");
    Ok(())
}

fn silent_success(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    hook(&mut b, "prestart", &["exit:1"]);
    ctx.ok(
        ctx.create(&b, "c").is_err(),
        "create with a failing prestart hook generates an error",
    );
    let mut b = ctx.bundle()?;
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_TEST", "soft": 1024, "hard": 1024 }]),
    );
    ctx.refused(&b, "RLIMIT_TEST is refused")
}
