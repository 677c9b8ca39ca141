//! What a service manager hands to its children: the notify socket and open descriptors.
//!
//! Sources: sd_notify(3), sd_listen_fds(3). Belongs here: passing both through to
//! the container's process. Does not: the mount of the socket's directory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, chmodat, mkdirat, openat, unlinkat};
use rustix::io::{Errno, IoSlice};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, connect, recv, send, sendmsg, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::container::wait;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fds;

/// Where the directory of the socket is mounted in the container.
pub const INSIDE_DIRECTORY: &str = "/run/notify";
/// What NOTIFY_SOCKET is in the container.
pub const INSIDE_SOCKET: &str = "/run/notify/notify.sock";

/// The directory of the socket, in the state directory.
pub(crate) const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// A message is a few lines; the service manager itself takes at most a page.
const MAX_MESSAGE: usize = 4096;
/// How long the service manager may take to note who the process is, in seconds.
const BARRIER: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The service manager's socket, where the caller has one: the value of NOTIFY_SOCKET.
#[must_use]
pub fn host_socket() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|socket| !socket.is_empty())
}

/// Makes the directory that is to be mounted at [`INSIDE_DIRECTORY`], below `state`: at create.
///
/// # Errors
/// Those of mkdir(2).
pub fn prepare(state: BorrowedFd<'_>) -> Result<()> {
    mkdirat(state, DIRECTORY, Mode::from_raw_mode(0o755)).context(|| "mkdirat(state, \"notify\")")
}

/// The socket on which the container's process reports.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds the socket in the directory that [`prepare`] made: at start, before the process runs.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(state: BorrowedFd<'_>) -> Result<Listener> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(state, DIRECTORY, flags, Mode::empty())
            .context(|| "openat(state, \"notify\")")?;
        let socket = dgram()?;
        match unlinkat(&directory, SOCKET, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| "unlinkat(\"notify.sock\")"),
        }
        // The path of the state may be longer than an address can be.
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let address = SocketAddrUnix::new(&path).context(|| "bind(\"notify.sock\")")?;
        bind(&socket, &address).context(|| "bind(\"notify.sock\")")?;
        // Whoever runs in the container may report.
        let everybody = Mode::from_raw_mode(0o777);
        chmodat(&directory, SOCKET, everybody, rustix::fs::AtFlags::empty())
            .context(|| "chmodat(\"notify.sock\")")?;
        Ok(Listener(socket))
    }

    /// Waits until the process of `pidfd` reports that it is ready, and passes that on to the service manager's
    /// socket `host` (the value of NOTIFY_SOCKET) together with the pid as the host sees it, so that
    /// it becomes the main process. Nothing else is passed on: the container
    /// must not speak for the service. Returns false when the process ended before.
    ///
    /// # Errors
    /// Those of poll(2), and of connecting and sending to the service manager.
    pub fn proxy(&self, host: &str, pid: u32, pidfd: BorrowedFd<'_>) -> Result<bool> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
                PollFd::new(&self.0, PollFlags::IN),
            ];
            let ended = match wait::poll_beside(pidfd, &mut fds, None) {
                Ok(ended) => ended,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).context(|| "poll()"),
            };
            if fds[1].revents().is_empty() {
                if ended {
                    return Ok(false);
                }
                continue;
            }
            let mut message = [0; MAX_MESSAGE];
            let (count, _) = match recv(&self.0, &mut message[..], RecvFlags::DONTWAIT) {
                Ok(received) => received,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(errno).context(|| "recv(\"notify.sock\")"),
            };
            let ready = message[..count]
                .split(|&byte| byte == b'\n')
                .any(|line| line == b"READY=1");
            if ready {
                return announce(host, pid).map(|()| true);
            }
        }
    }
}

fn dgram() -> Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "socket(AF_UNIX, SOCK_DGRAM)")
}

/// Tells the service manager which process is the main one and that it is ready, and waits
/// until it has read that: this process may end then, and the manager could no longer tell
/// whose the message was. sd_notify_barrier(3).
fn announce(host: &str, pid: u32) -> Result<()> {
    let call = || format!("NOTIFY_SOCKET: connect({host:?})");
    let address = match host.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(host),
    }
    .context(call)?;
    let socket = dgram()?;
    connect(&socket, &address).context(call)?;
    // A manager that does not read must not hold up the start for ever.
    let patience = std::time::Duration::from_secs(BARRIER.tv_sec.unsigned_abs());
    set_socket_timeout(&socket, Timeout::Send, Some(patience)).context(|| "SO_SNDTIMEO")?;
    let message = format!("MAINPID={pid}\nREADY=1\n");
    send(&socket, message.as_bytes(), SendFlags::NOSIGNAL)
        .context(|| format!("NOTIFY_SOCKET: send({message:?})"))?;

    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "pipe2()")?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let writers = [writer.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&writers));
    sendmsg(
        &socket,
        &[IoSlice::new(b"BARRIER=1")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .context(|| "NOTIFY_SOCKET: sendmsg(\"BARRIER=1\")")?;
    drop(writer);
    // The manager closes its copy when it has come to the message. One that does not know the barrier
    // drops the message, which closes the copy as well; one that hangs is not waited for.
    let mut fds = [PollFd::new(&reader, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&BARRIER));
    Ok(())
}

/// The descriptors that a process inherits beyond its standard streams: 3, 4 and so on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inherited {
    /// How many come from the service manager, first of all.
    listen: u32,
    /// How many the caller asked to preserve, after those.
    preserve: u32,
}

const FIRST: u32 = 3;

/// Works out what is inherited: `listen_fds` and `listen_pid` are the variables of the
/// environment, which count only when they are meant for `own_pid`; `preserve` is `--preserve-fds`.
///
/// # Errors
/// `InvalidArgument` for numbers that are none or too large, and descriptors that are not open or
/// close on exec.
pub fn inherited(
    listen_fds: Option<&str>,
    listen_pid: Option<&str>,
    own_pid: u32,
    preserve: u32,
) -> Result<Inherited> {
    let listen = match (listen_fds, listen_pid) {
        (Some(count), Some(pid)) if pid.parse() == Ok(own_pid) => {
            count.parse::<u32>().map_err(|_| {
                Error::new(
                    Kind::InvalidArgument,
                    format!("LISTEN_FDS: {count:?} is no number of descriptors"),
                )
            })?
        }
        _ => 0,
    };
    let end = FIRST
        .checked_add(listen)
        .and_then(|end| end.checked_add(preserve))
        .and_then(|end| i32::try_from(end).ok());
    let Some(end) = end else {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("--preserve-fds {preserve}: no process has so many descriptors"),
        ));
    };
    for fd in 3..end {
        // One that closes on exec is the runtime's own: the caller left a gap, and the state
        // directory of the host would get into the container.
        if !fds::is_handed_on(fd) {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "descriptor {fd} is to be handed on (LISTEN_FDS {listen}, --preserve-fds {preserve}) but is not open"
                ),
            ));
        }
    }
    Ok(Inherited { listen, preserve })
}

impl Inherited {
    /// The first descriptor that is not inherited.
    #[must_use]
    pub fn end(self) -> u32 {
        // Checked by `inherited`.
        FIRST
            .saturating_add(self.listen)
            .saturating_add(self.preserve)
    }

    /// Whether there are any [`Inherited::variables`].
    #[must_use]
    pub fn has_variables(self) -> bool {
        self.listen > 0
    }

    /// What the process finds in its environment, `pid` being its own as it sees it.
    /// `names` is LISTEN_FDNAMES of the caller. Empty without descriptors of a service manager.
    #[must_use]
    pub fn variables(self, pid: u32, names: Option<&str>) -> Vec<(&'static str, String)> {
        if !self.has_variables() {
            return Vec::new();
        }
        let mut variables = vec![
            ("LISTEN_FDS", self.listen.to_string()),
            ("LISTEN_PID", pid.to_string()),
        ];
        variables.extend(names.map(|names| ("LISTEN_FDNAMES", names.to_owned())));
        variables
    }

    /// Closes every descriptor but the standard streams, these, and those in `keep`: in the process
    /// itself, before it executes its program. Whatever is left open would lead out of the
    /// container (CVE-2024-21626).
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn close_others(self, keep: &[BorrowedFd<'_>]) -> Result<()> {
        fds::close_from_except(self.end(), keep);
        for fd in FIRST..self.end() {
            let number = i32::try_from(fd).unwrap_or(-1);
            fds::keep_on_exec(number).context(|| format!("fcntl({fd}, F_SETFD, 0)"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::fs::File;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    /// Runs the proxy against a process and a service manager; returns what the manager heard.
    fn heard(messages: &[&str], end_first: bool) -> (bool, Vec<String>, u32) {
        let dir = tempfile::tempdir().unwrap();
        // Longer than an address of a unix socket can be.
        let state = dir.path().join("s".repeat(100));
        std::fs::create_dir(&state).unwrap();
        let state = File::open(&state).unwrap();
        let host = dir.path().join("host");
        let manager = UnixDatagram::bind(&host).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        prepare(state.as_fd()).unwrap();
        let listener = Listener::bind(state.as_fd()).unwrap();
        let again = Listener::bind(state.as_fd());
        let listener = again.unwrap_or(listener);

        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        let inside = format!("/proc/self/fd/{}/notify/notify.sock", state.as_raw_fd());
        for message in messages {
            client.send_to(message.as_bytes(), &inside).unwrap();
        }
        if end_first {
            child.kill().unwrap();
        }
        let ready = std::thread::scope(|scope| {
            let proxy =
                scope.spawn(|| listener.proxy(host.to_str().unwrap(), child.id(), pidfd.as_fd()));
            let mut texts = Vec::new();
            while !end_first && texts.len() < 2 {
                let mut bytes = [0; 1000];
                // The descriptor of the barrier is dropped with the message here, as an old manager does.
                let count = manager.recv(&mut bytes).unwrap();
                texts.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
            }
            (proxy.join().unwrap().unwrap(), texts)
        });
        let pid = child.id();
        let _ = child.kill();
        child.wait().unwrap();
        (ready.0, ready.1, pid)
    }

    #[test]
    fn only_readiness_is_passed_on_with_the_true_pid() {
        let (ready, texts, pid) = heard(
            &[
                "STATUS=busy\nMAINPID=1",
                "STOPPING=1",
                "X=READY=1",
                "STATUS=up\nREADY=1\nMAINPID=1",
            ],
            false,
        );
        assert!(ready);
        assert_eq!(
            texts,
            [format!("MAINPID={pid}\nREADY=1\n"), "BARRIER=1".to_owned()]
        );
    }

    #[test]
    fn a_process_that_ends_is_not_waited_for() {
        let (ready, texts, _) = heard(&["STATUS=busy"], true);
        assert!(!ready && texts.is_empty());
    }

    #[test]
    fn counts_descriptors_of_both_kinds() {
        let seen = in_child(|| {
            // 3 to 7 are open, whatever the harness left there.
            let _files: Vec<_> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
            // Those that the process opened itself are not the caller's to hand on.
            fds::close_on_exec_from(FIRST).unwrap();
            assert!(inherited(None, None, 42, 1).is_err());
            for fd in 3..8 {
                fds::keep_on_exec(fd).unwrap();
            }
            let count = |fds, pid, preserve| inherited(fds, pid, 42, preserve);
            assert_eq!(count(None, None, 0)?.end(), 3);
            assert_eq!(count(Some("2"), Some("42"), 1)?.end(), 6);
            // Meant for somebody else, or for nobody.
            assert_eq!(count(Some("2"), Some("41"), 1)?.end(), 4);
            assert_eq!(count(Some("x"), None, 1)?.end(), 4);
            let both = count(Some("2"), Some("42"), 1)?;
            assert_eq!(
                both.variables(1, Some("a:b")),
                [
                    ("LISTEN_FDS", "2".to_owned()),
                    ("LISTEN_PID", "1".to_owned()),
                    ("LISTEN_FDNAMES", "a:b".to_owned())
                ]
            );
            assert!(count(None, None, 2)?.variables(1, None).is_empty());
            for (fds, preserve) in [
                ("x", 0),
                ("-1", 0),
                ("4294967295", 1),
                ("0", u32::MAX),
                ("0", 100_000),
            ] {
                assert!(
                    count(Some(fds), Some("42"), preserve).is_err(),
                    "{fds} {preserve}"
                );
            }
            Ok(String::new())
        });
        seen.unwrap();
    }

    #[test]
    fn nothing_else_survives_exec() {
        let out = tempfile::NamedTempFile::new().unwrap();
        let script = format!("ls /proc/$$/fd >{}; :", out.path().display());
        in_child(|| {
            let _files: Vec<_> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
            for fd in [3, 4] {
                fds::keep_on_exec(fd).unwrap();
            }
            let inherited = inherited(None, None, 1, 2)?;
            fds::close_on_exec_from(FIRST).unwrap();
            inherited.close_others(&[])?;
            let program = crate::process::program::plan(&crate::spec::config::Process {
                args: ["/bin/sh".into(), "-c".into(), script.as_str().into()].into(),
                ..Default::default()
            })?;
            Err(program.exec(c"/bin/sh"))
        })
        .unwrap();
        let mut seen: Vec<u32> = std::fs::read_to_string(out.path())
            .unwrap()
            .lines()
            .map(|fd| fd.parse().unwrap())
            // The shell may keep descriptors of its own, from 10 on.
            .filter(|fd| *fd < 10)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
