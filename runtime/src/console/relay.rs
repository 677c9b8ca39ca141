//! Waiting for a process in the foreground: its terminal, the caller's signals, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::peer;
use crate::container::wait;
use crate::error::{Context, Result};
use crate::sys::signal::Signals;

/// A write of at most this much to a pipe that poll(2) calls writable does not block: pipe(7).
const CHUNK: usize = 4096;
/// The same of a pseudoterminal's master: the kernel has at least a buffer of this size for it, or says
/// that it has none.
const MASTER_CHUNK: usize = 256;
/// How much is read after the end of the process, in bytes: another one may write for ever.
const REST: usize = 1 << 20;

const SIGWINCH: i32 = 28;
/// What ends a program that waits: SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const ENDING: [i32; 4] = [1, 2, 3, 15];

/// Waits until the process of `pidfd` has ended (it is not reaped). With `master`, the master of its terminal, the
/// standard streams of the caller are passed to and fro meanwhile, and its terminal is in raw mode.
/// Signals go to `on_signal`, but for SIGWINCH, which changes the size of the terminal.
///
/// # Errors
/// Those of poll(2) and of setting the terminals up. The caller's terminal is as before in any case.
pub fn wait(
    pidfd: BorrowedFd<'_>,
    signals: &Signals,
    master: Option<&OwnedFd>,
    on_signal: &mut dyn FnMut(i32),
) -> Result<()> {
    let mut relay = master.map(Relay::new).transpose()?;
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        let mut ends = Vec::new();
        if let Some(relay) = &relay {
            for (end, flags) in relay.wanted() {
                ends.push(end);
                fds.push(PollFd::from_borrowed_fd(relay.descriptor(end), flags));
            }
        }
        let ended = match wait::poll_beside(pidfd, &mut fds, None) {
            Ok(ended) => ended,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(|| "poll()"),
        };
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        // With the end comes SIGCHLD, and who has ended needs no other signal.
        if !ended && !ready[1].is_empty() {
            while let Some(signal) = signals.next().context(|| "read(signalfd)")? {
                match (signal, &relay) {
                    (SIGWINCH, Some(relay)) => relay.resize(),
                    _ => on_signal(signal),
                }
            }
        }
        if let Some(relay) = &mut relay {
            for (end, flags) in ends.into_iter().zip(&ready[2..]) {
                relay.pass(end, *flags);
            }
        }
        if ended {
            if let Some(relay) = &mut relay {
                relay.finish(signals)?;
            }
            return Ok(());
        }
    }
}

/// What is watched for a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stdin,
    Stdout,
    Master,
}

/// Bytes between two descriptors.
#[derive(Default)]
struct Channel {
    pending: Vec<u8>,
    closed: bool,
}

impl Channel {
    fn wants_input(&self) -> bool {
        !self.closed && self.pending.is_empty()
    }

    fn fill<Fd: AsFd>(&mut self, from: Fd) {
        let mut buffer = [0; CHUNK];
        match read(from, &mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.closed = true,
        }
    }

    /// Writes what is pending, `most` bytes of it.
    fn flush<Fd: AsFd>(&mut self, to: Fd, most: usize) {
        let piece = &self.pending[..self.pending.len().min(most)];
        match write(to, piece) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody reads any more; what comes is thrown away, so that the container does not stall.
            Err(_) => self.pending.clear(),
        }
    }
}

struct Relay<'a> {
    master: &'a OwnedFd,
    /// Held, so that the master does not report a hang-up each time that the container has its terminal closed.
    _slave: OwnedFd,
    /// The caller's terminal once more, as writes to the one at hand would wait until somebody reads,
    /// and no signal would get through meanwhile. Making that one non-blocking would change the caller's.
    screen: Option<OwnedFd>,
    /// How many bytes go to standard output at a time.
    most: usize,
    saved: Option<Termios>,
    input: Channel,
    output: Channel,
}

impl<'a> Relay<'a> {
    fn new(master: &'a OwnedFd) -> Result<Relay<'a>> {
        let slave = peer(master).context(|| "ioctl(TIOCGPTPEER)")?;
        ioctl_fionbio(master, true).context(|| "ioctl(terminal, FIONBIO)")?;
        let stdin = rustix::stdio::stdin();
        let to_master = is_master(rustix::stdio::stdout());
        let mut relay = Relay {
            master,
            _slave: slave,
            screen: if to_master { None } else { screen() },
            most: if to_master { MASTER_CHUNK } else { CHUNK },
            saved: None,
            input: Channel::default(),
            output: Channel::default(),
        };
        if isatty(stdin) {
            let saved = tcgetattr(stdin).context(|| "tcgetattr(0)")?;
            let mut raw = saved.clone();
            raw.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &raw).context(|| "tcsetattr(0, raw)")?;
            relay.saved = Some(saved);
            // A size that the configuration asked for stays until the user changes the window.
            if tcgetwinsize(master).is_ok_and(|size| size.ws_row == 0 && size.ws_col == 0) {
                relay.resize();
            }
        }
        Ok(relay)
    }

    /// Gives the container's terminal the size of the caller's.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = tcsetwinsize(self.master, size);
        }
    }

    fn stdout(&self) -> BorrowedFd<'_> {
        self.screen
            .as_ref()
            .map_or(rustix::stdio::stdout(), AsFd::as_fd)
    }

    fn descriptor(&self, end: End) -> BorrowedFd<'_> {
        match end {
            End::Stdin => rustix::stdio::stdin(),
            End::Stdout => self.stdout(),
            End::Master => self.master.as_fd(),
        }
    }

    /// What to wait for: input where there is room for it, room where there is something to write. Ends
    /// that nothing is wanted of are left out, because poll(2) reports a hang-up unasked and would not wait.
    fn wanted(&self) -> Vec<(End, PollFlags)> {
        let mut wanted = Vec::with_capacity(3);
        let mut master = PollFlags::empty();
        if self.input.wants_input() {
            wanted.push((End::Stdin, PollFlags::IN));
        }
        if !self.input.pending.is_empty() {
            master |= PollFlags::OUT;
        }
        if self.output.wants_input() {
            master |= PollFlags::IN;
        }
        if !self.output.pending.is_empty() {
            wanted.push((End::Stdout, PollFlags::OUT));
        }
        if !master.is_empty() {
            wanted.push((End::Master, master));
        }
        wanted
    }

    fn pass(&mut self, end: End, ready: PollFlags) {
        match end {
            _ if ready.is_empty() => {}
            End::Stdin => self.input.fill(rustix::stdio::stdin()),
            End::Stdout => self.flush_output(),
            End::Master => {
                if ready.contains(PollFlags::OUT) {
                    self.input.flush(self.master, CHUNK);
                }
                if self.output.wants_input() {
                    self.output.fill(self.master);
                }
            }
        }
    }

    fn flush_output(&mut self) {
        let Relay {
            screen,
            output,
            most,
            ..
        } = self;
        match screen {
            Some(screen) => output.flush(screen, *most),
            None => output.flush(rustix::stdio::stdout(), *most),
        }
    }

    /// Writes what the process left in its terminal; a signal ends that, since nobody may read any more.
    fn finish(&mut self, signals: &Signals) -> Result<()> {
        let mut rest = REST;
        // Whether the caller wants an end: then nobody is waited for, but who reads gets the rest.
        let mut hurry = false;
        loop {
            while !self.output.pending.is_empty() {
                // The caller may have made it non-blocking.
                let mut fds = [
                    PollFd::from_borrowed_fd(self.stdout(), PollFlags::OUT),
                    PollFd::new(signals, PollFlags::IN),
                ];
                let patience = hurry.then(Timespec::default);
                match poll(&mut fds, patience.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno).context(|| "poll()"),
                }
                let [writable, signalled] = fds.map(|fd| !fd.revents().is_empty());
                if signalled {
                    while let Some(signal) = signals.next().context(|| "read(signalfd)")? {
                        hurry |= ENDING.contains(&signal);
                    }
                }
                let left = self.output.pending.len();
                if writable {
                    self.flush_output();
                }
                if hurry && self.output.pending.len() == left {
                    return Ok(());
                }
            }
            self.output.fill(self.master);
            rest = rest.saturating_sub(self.output.pending.len());
            if self.output.pending.is_empty() || rest == 0 {
                return Ok(());
            }
        }
    }
}

/// The caller's terminal, opened so that writes do not wait; nothing where standard output is none
/// or may not be opened.
fn screen() -> Option<OwnedFd> {
    if !isatty(rustix::stdio::stdout()) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open("/proc/self/fd/1", flags, Mode::empty()).ok()
}

/// Whether a descriptor is the master of a pseudoterminal, which is a terminal too as far as isatty(3)
/// knows. To open one again is to make another pseudoterminal.
fn is_master(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == makedev(5, 2)
    })
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, saved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGCHLD: i32 = 17;
    use crate::console::{Terminal, attach};
    use crate::sys::testing::{in_child, is_root};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    fn host_devpts() -> OwnedFd {
        File::open("/dev/pts").unwrap().into()
    }

    /// Runs a shell script in a terminal and `wait` in a child whose terminal `f` plays the user of.
    fn session(script: &str, f: impl FnOnce(&mut File)) -> String {
        let user = Terminal::open(host_devpts().as_fd(), None).unwrap();
        let inner = Terminal::open(host_devpts().as_fd(), None).unwrap();
        let mut screen = File::from(user.master);
        std::thread::scope(|scope| {
            let runtime = scope.spawn(|| {
                in_child(|| {
                    attach(&user.slave)?;
                    let before = tcgetattr(rustix::stdio::stdin()).unwrap();
                    let signals = Signals::block().unwrap();
                    let mut command = Command::new("/bin/sh");
                    command.arg("-c").arg(script);
                    let slave = inner.slave.try_clone().unwrap();
                    let mut child = crate::sys::testing::before_exec(&mut command, move || {
                        attach(&slave).map_err(|_| std::io::ErrorKind::Other)?;
                        crate::sys::exec::restore_signals();
                        Ok(())
                    })
                    .spawn()
                    .unwrap();
                    let pid = Pid::from_child(&child);
                    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
                    let mut got = Vec::new();
                    wait(
                        pidfd.as_fd(),
                        &signals,
                        Some(&inner.master),
                        &mut |signal| {
                            if signal != SIGCHLD {
                                got.push(signal);
                            }
                        },
                    )
                    .unwrap();
                    let after = tcgetattr(rustix::stdio::stdin()).unwrap();
                    let restored = after.local_modes == before.local_modes;
                    let code = child.wait().unwrap().code().unwrap_or(-1);
                    Ok(format!("{code} {restored} {got:?}"))
                })
                .unwrap()
            });
            f(&mut screen);
            runtime.join().unwrap()
        })
    }

    fn read_until(screen: &mut File, end: &str) -> String {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with(end) {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{text:?}");
            text.push(char::from(byte[0]));
        }
        text
    }

    #[test]
    fn a_user_talks_to_the_process() {
        if !is_root("a_user_talks_to_the_process") {
            return;
        }
        let script = "trap 'echo size $(stty size)' WINCH; stty -echo; echo ready; \
                      while ! read line; do :; done; echo got $line; exit 7";
        let end = session(script, |screen| {
            read_until(screen, "ready\r\n");
            let size = rustix::termios::Winsize {
                ws_row: 33,
                ws_col: 44,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&*screen, size).unwrap();
            read_until(screen, "size 33 44\r\n");
            // Raw mode: the line goes through as it is, and is not echoed twice.
            screen.write_all(b"line\r").unwrap();
            assert_eq!(read_until(screen, "got line\r\n"), "got line\r\n");
        });
        assert_eq!(end, "7 true []");
    }

    #[test]
    fn everything_that_was_written_arrives_before_the_end() {
        if !is_root("everything_that_was_written_arrives_before_the_end") {
            return;
        }
        let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 3";
        let end = session(script, |screen| {
            read_until(screen, "line 2999\r\n");
        });
        assert_eq!(end, "3 true []");
    }

    /// Runs a shell script in a terminal and `wait` in a child whose standard output is the master of
    /// another, of which `f` plays the reader; `beside` is a script that runs beside the child.
    fn session_of_a_master(script: &str, beside: &str, f: impl FnOnce(&mut File)) -> String {
        let outer = Terminal::open(host_devpts().as_fd(), None).unwrap();
        let inner = Terminal::open(host_devpts().as_fd(), None).unwrap();
        let mut raw = tcgetattr(&outer.slave).unwrap();
        raw.make_raw();
        tcsetattr(&outer.slave, OptionalActions::Now, &raw).unwrap();
        let mut reader = File::from(outer.slave);
        std::thread::scope(|scope| {
            let runtime = scope.spawn(|| {
                in_child(|| {
                    rustix::stdio::dup2_stdout(&outer.master).unwrap();
                    let null = File::open("/dev/null").unwrap();
                    rustix::stdio::dup2_stdin(&null).unwrap();
                    let mut other = Command::new("/bin/sh")
                        .args(["-c", beside])
                        .stdout(null)
                        .spawn()
                        .unwrap();
                    let signals = Signals::block().unwrap();
                    let slave = inner.slave.try_clone().unwrap();
                    let mut child = Command::new("/bin/sh")
                        .args(["-c", script])
                        .stdout(slave)
                        .spawn()
                        .unwrap();
                    let pid = Pid::from_child(&child);
                    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
                    wait(
                        pidfd.as_fd(),
                        &signals,
                        Some(&inner.master),
                        &mut |signal| {
                            if signal != SIGCHLD {
                                let kill = rustix::process::Signal::KILL;
                                let _ = rustix::process::pidfd_send_signal(&pidfd, kill);
                            }
                        },
                    )
                    .unwrap();
                    let _ = other.kill();
                    other.wait().unwrap();
                    let code = child.wait().unwrap().code();
                    Ok(format!("{code:?}"))
                })
                .unwrap()
            });
            f(&mut reader);
            runtime.join().unwrap()
        })
    }

    #[test]
    fn what_a_master_is_given_arrives_at_its_other_end() {
        if !is_root("what_a_master_is_given_arrives_at_its_other_end") {
            return;
        }
        let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 3";
        let end = session_of_a_master(script, "", |reader| {
            read_until(reader, "line 2999\r\n");
        });
        assert_eq!(end, "Some(3)");
    }

    #[test]
    fn signals_get_through_where_nobody_reads_what_a_master_is_given() {
        if !is_root("signals_get_through_where_nobody_reads_what_a_master_is_given") {
            return;
        }
        let script = "while :; do echo a line of some length, so that it fills buffers; done";
        let beside = "while sleep 0.2; do kill -TERM $PPID; done";
        assert_eq!(session_of_a_master(script, beside, |_| {}), "None");
    }

    #[test]
    fn signals_are_handed_on() {
        let seen = in_child(|| {
            let signals = Signals::block().unwrap();
            let mut child = Command::new("sleep")
                .arg("1000")
                .process_group(0)
                .spawn()
                .unwrap();
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
                .unwrap();
            let mut got = Vec::new();
            wait(pidfd.as_fd(), &signals, None, &mut |signal| {
                if signal == SIGCHLD {
                    return;
                }
                got.push(signal);
                // The child was started with everything blocked, so only this ends it.
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
            })
            .unwrap();
            child.wait().unwrap();
            Ok(format!("{got:?}"))
        });
        assert_eq!(seen.unwrap(), "[15]");
    }
}
