//! Handing the listener of a filter to the seccomp agent.
//!
//! Belongs here: the container process state and its way through the socket
//! (runtime-spec, config-linux.md, section The Container Process State). Does
//! not: getting the descriptor out of the container's process.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde::Serialize;

use crate::container::state::SpecState;
use crate::error::{Context, Error, Kind, Result};

/// What the agent gets beside the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerProcessState<'a> {
    /// Version of the specification that this object complies with.
    pub oci_version: &'a str,
    /// Names of the descriptors: [`FDS`].
    pub fds: &'a [&'a str],
    /// The process that the filter binds, as the runtime sees it; for an exec
    /// not the same as `state.pid`.
    pub pid: i32,
    /// `linux.seccomp.listenerMetadata`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub metadata: &'a str,
    /// The container.
    pub state: SpecState<'a>,
}

/// The names of the descriptors that [`send`] sends.
pub const FDS: &[&str] = &["seccompFd"];

/// Sends `fd` and `state` over a connection of their own to the socket `path`.
///
/// The descriptor goes with the first bytes only, and the connection is closed
/// afterwards. The caller must not be bound by the filter itself.
///
/// # Errors
/// `System` if the socket cannot be reached or written to; `InvalidConfig` if
/// the path does not fit into a socket address.
pub fn send(fd: BorrowedFd<'_>, path: &str, state: &ContainerProcessState<'_>) -> Result<()> {
    let json = serde_json::to_vec(state).map_err(|error| {
        Error::new(Kind::State, format!("the container process state: {error}"))
    })?;
    let address = SocketAddrUnix::new(path).map_err(|_| {
        Error::config(
            "linux.seccomp.listenerPath",
            format_args!("{path:?} is longer than the 107 bytes of a socket address"),
        )
    })?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "socket(AF_UNIX, SOCK_STREAM)")?;
    rustix::net::connect(&socket, &address)
        .context(|| format!("linux.seccomp.listenerPath: connect({path:?})"))?;

    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rest = json.as_slice();
    let mut first = true;
    while !rest.is_empty() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if first {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(
                &socket,
                &[IoSlice::new(rest)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })
        .context(|| format!("linux.seccomp.listenerPath: sendmsg({path:?})"))?;
        first = false;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}
