//! config-linux.md, seccomp: the listener of SCMP_ACT_NOTIFY and what is sent to it.

use super::seccomp::profile;
use super::{Bundle, Case, Ctx, Level, Row, rows};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

const CLAUSE: &str = "config-linux.md#seccomp";

const TABLE: &[Row] = &[
    (
        "seccomp.notify",
        "config-linux.md#the-container-process-state",
        Level::Must,
        "with SCMP_ACT_NOTIFY the listener gets one state and the descriptor, then the connection is closed",
        notify,
    ),
    (
        "seccomp.notify-answer",
        CLAUSE,
        Level::Must,
        "the listener's answer is the system call's result",
        notify_answer,
    ),
    (
        "seccomp.listener-ignored",
        CLAUSE,
        Level::Must,
        "listenerPath is ignored without SCMP_ACT_NOTIFY",
        listener_ignored,
    ),
    (
        "seccomp.listener-fails",
        CLAUSE,
        Level::Must,
        "a listener that cannot be reached is an error",
        listener_fails,
    ),
    (
        "seccomp.metadata-alone",
        CLAUSE,
        Level::Must,
        "listenerMetadata without listenerPath is an error",
        metadata_alone,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

/// Creates a container whose getpgid is notified; accepts what the runtime sends.
fn notified(ctx: &Ctx) -> Result<(Bundle, Value, Vec<std::os::fd::OwnedFd>, bool)> {
    let mut b = ctx.bundle()?;
    let socket = ctx.work.join("seccomp.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_NOTIFY" }]),
    );
    b.set(
        "/linux/seccomp/listenerPath",
        json!(socket.display().to_string()),
    );
    b.set("/linux/seccomp/listenerMetadata", json!("some=data"));
    b.probe(&["syscall:getpgid"]);
    // The runtime may send at create or at start, and waits for nobody.
    let receiver = std::thread::spawn(
        move || -> Result<(Vec<u8>, Vec<std::os::fd::OwnedFd>, bool)> {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let (mut data, fds) = super::fdpass::receive(&stream)?;
            let closed = loop {
                match super::fdpass::receive(&stream) {
                    Ok((more, _)) if more.is_empty() => break true,
                    Ok((more, _)) => data.extend(more),
                    Err(_) => break false,
                }
            };
            Ok((data, fds, closed))
        },
    );
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    // A runtime that sends nothing must not block the test: unblock accept.
    if !ctx.until(|| receiver.is_finished()) {
        let _ = std::os::unix::net::UnixStream::connect(&socket);
    }
    let (data, fds, closed) = receiver
        .join()
        .map_err(|_| anyhow::anyhow!("the receiving thread failed"))?
        .context("receive from the runtime")?;
    let state = serde_json::from_slice(&data)
        .with_context(|| format!("the payload is no JSON: {}", String::from_utf8_lossy(&data)))?;
    Ok((b, state, fds, closed))
}

fn notify(ctx: &Ctx, _: &str) -> Result<()> {
    let (b, state, fds, closed) = notified(ctx)?;
    let pid = ctx.pid("c")?;
    ctx.eq(fds.len(), 1, "one descriptor came with the first message");
    ctx.eq(&state["fds"], &json!(["seccompFd"]), "fds names it");
    ctx.ok(closed, "the connection is closed after one state");
    ctx.ok(
        state["ociVersion"]
            .as_str()
            .is_some_and(|v| v.split('.').count() == 3 && v != "0.2.0"),
        "ociVersion is the specification's version",
    );
    ctx.eq(
        state["pid"].as_i64(),
        Some(i64::from(pid.as_raw())),
        "pid is the container process",
    );
    ctx.eq(
        state["metadata"].as_str(),
        Some("some=data"),
        "metadata is listenerMetadata",
    );
    ctx.eq(state["state"]["id"].as_str(), Some("c"), "state.id");
    ctx.eq(
        state["state"]["status"].as_str(),
        Some("creating"),
        "state.status",
    );
    ctx.eq(
        state["state"]["bundle"].as_str(),
        Some(b.dir.display().to_string().as_str()),
        "state.bundle",
    );
    Ok(())
}

fn notify_answer(ctx: &Ctx, _: &str) -> Result<()> {
    let (b, _, fds, _) = notified(ctx)?;
    let fd = fds.first().context("no descriptor")?;
    let (number, _, _) = crate::sys::answer_notification(fd.as_fd(), 79)?;
    ctx.eq(
        i64::from(number),
        libc::SYS_getpgid,
        "the notification is for getpgid",
    );
    let pid = ctx.pid("c")?;
    let end = ctx.finish(&b, "c", pid)?;
    ctx.eq(
        end.errno(0)?,
        Some(79),
        "the program gets the errno of the answer",
    );
    Ok(())
}

fn listener_ignored(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/listenerPath", json!("/no/such/socket"))
        .probe(&["syscall:getpgid"]);
    ctx.eq(
        ctx.run(&b)?.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "a path that leads nowhere does no harm",
    );
    Ok(())
}

fn listener_fails(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_NOTIFY" }]),
    );
    b.set("/linux/seccomp/listenerPath", json!("/no/such/socket"));
    ctx.refused(&b, "a listener that is not there is refused")
}

fn metadata_alone(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/listenerMetadata", json!("data"));
    ctx.refused(&b, "listenerMetadata alone is refused")
}
