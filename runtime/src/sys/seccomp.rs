//! seccomp(2).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use libc::sock_filter;
use rustix::io::Errno;

use super::last_errno;

/// `SECCOMP_FILTER_FLAG_TSYNC` of linux/seccomp.h.
pub const TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_TSYNC_ESRCH`.
const TSYNC_ESRCH: u32 = 1 << 4;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;

/// Loads a filter; returns the listener that `listen` asks for. seccomp(2)
///
/// # Errors
/// The call's; EINVAL too for a filter of more than 65535 instructions, ESRCH
/// if another thread could not follow (`TSYNC`).
pub fn load(
    filter: &[sock_filter],
    flags: u32,
    listen: bool,
) -> rustix::io::Result<Option<OwnedFd>> {
    let mut flags = flags;
    if listen {
        flags |= NEW_LISTENER;
        if flags & TSYNC != 0 {
            // Both want the return value; this moves the failure of TSYNC to errno.
            flags |= TSYNC_ESRCH;
        }
    }
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions, which outlive the call; the
    // kernel copies and does not change them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 && listen => {
            // SAFETY: with NEW_LISTENER the call returns a new descriptor that nobody else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(0) => Ok(None),
        // TSYNC without a listener: the id of a thread that could not follow.
        Ok(1..) => Err(Errno::SRCH),
        _ => Err(last_errno()),
    }
}

/// Whether the kernel takes a flag. Loads nothing. seccomp(2)
#[must_use]
pub fn has_flag(flag: u32) -> bool {
    let flag = match flag {
        WAIT_KILLABLE_RECV => WAIT_KILLABLE_RECV | NEW_LISTENER,
        flag => flag,
    };
    // SAFETY: a null program makes the call fail, with EFAULT if the flags are known.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flag,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && last_errno() == Errno::FAULT
}

#[cfg(test)]
mod tests {
    //! Filters on the real kernel, each in a forked child, which makes one call and
    //! exits with what came of it. Between fork and exit the child makes system
    //! calls only: the test program has more threads.

    use super::*;
    use crate::seccomp::{Program, compile};
    use crate::spec::seccomp::Seccomp;
    use std::os::fd::AsRawFd;

    /// How a child ended.
    #[derive(Debug, PartialEq, Eq)]
    enum End {
        /// It made the call: 0 or the errno.
        Call(i32),
        /// By a signal.
        Signal(i32),
    }

    const COULD_NOT_LOAD: i32 = 200;

    fn program(json: &str) -> Program {
        let profile: Seccomp<'_> = serde_json::from_str(json).unwrap();
        compile(&profile).unwrap()
    }

    fn errno() -> i32 {
        // SAFETY: the address of this thread's errno is always valid.
        unsafe { *libc::__errno_location() }
    }

    /// Runs `call` under the filter in a child.
    fn run(program: &Program, call: impl Fn() -> i32) -> End {
        // SAFETY: the child allocates nothing and takes no lock, see above.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: plain system calls.
            unsafe {
                let quiet = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const quiet);
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                let code = match load(&program.filter, program.flags, program.notify) {
                    Ok(_) => call(),
                    Err(_) => COULD_NOT_LOAD,
                };
                libc::_exit(code);
            }
        }
        assert!(pid > 0);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Call(libc::WEXITSTATUS(status))
        }
    }

    fn call(number: libc::c_long, args: [u64; 3]) -> i32 {
        // SAFETY: only used with calls that take numbers or ignore their arguments.
        let result = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
        if result == -1 { errno() } else { 0 }
    }

    fn getppid() -> i32 {
        call(libc::SYS_getppid, [0; 3])
    }

    fn deny(action: &str) -> String {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["getppid"],{action}}}]}}"#
        )
    }

    #[test]
    fn every_action_does_what_it_says() {
        let under = |action: &str| run(&program(&deny(action)), getppid);
        assert_eq!(under(r#""action":"SCMP_ACT_ALLOW""#), End::Call(0));
        assert_eq!(under(r#""action":"SCMP_ACT_LOG""#), End::Call(0));
        assert_eq!(
            under(r#""action":"SCMP_ACT_ERRNO""#),
            End::Call(libc::EPERM)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_ERRNO","errnoRet":38"#),
            End::Call(libc::ENOSYS)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_ERRNO","errnoRet":0"#),
            End::Call(0)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_KILL""#),
            End::Signal(libc::SIGSYS)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_KILL_THREAD""#),
            End::Signal(libc::SIGSYS)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_KILL_PROCESS""#),
            End::Signal(libc::SIGSYS)
        );
        assert_eq!(
            under(r#""action":"SCMP_ACT_TRAP""#),
            End::Signal(libc::SIGSYS)
        );
        // Nobody traces.
        assert_eq!(
            under(r#""action":"SCMP_ACT_TRACE""#),
            End::Call(libc::ENOSYS)
        );
    }

    #[test]
    fn a_trap_can_be_caught() {
        extern "C" fn caught(_: libc::c_int) {
            // SAFETY: ends the child.
            unsafe { libc::_exit(42) };
        }
        let end = run(&program(&deny(r#""action":"SCMP_ACT_TRAP""#)), || {
            // SAFETY: the handler only exits.
            unsafe { libc::signal(libc::SIGSYS, caught as *const () as usize) };
            getppid()
        });
        assert_eq!(end, End::Call(42));
    }

    #[test]
    fn all_flags_of_the_kernel_load() {
        for flag in crate::seccomp::supported_flags() {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":["{flag}"],"listenerPath":"/x","syscalls":[{{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
            );
            let program = program(&json);
            assert!(program.notify);
            assert_eq!(run(&program, || 7), End::Call(7), "{flag}");
        }
        assert!(has_flag(TSYNC) && has_flag(LOG) && has_flag(SPEC_ALLOW));
        assert!(!has_flag(1 << 31));
    }

    #[test]
    fn arguments_are_compared_in_full() {
        let profile = |op: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["getppid"],"action":"SCMP_ACT_ERRNO","args":[{{"index":1,"op":"SCMP_CMP_{op}","value":4294967298,"valueTwo":4294967296}}]}}]}}"#
            )
        };
        for (op, holds) in [
            ("EQ", [false, false, true, false]),
            ("NE", [true, true, false, true]),
            ("LT", [true, true, false, false]),
            ("LE", [true, true, true, false]),
            ("GT", [false, false, false, true]),
            ("GE", [false, false, true, true]),
            ("MASKED_EQ", [false, true, false, true]),
        ] {
            let program = program(&profile(op));
            let values = [2, 0x1_0000_0000, 0x1_0000_0002, 0x7_0000_0001];
            for (value, holds) in values.into_iter().zip(holds) {
                let end = run(&program, || call(libc::SYS_getppid, [0, value, 0]));
                let expected = if holds { libc::EPERM } else { 0 };
                assert_eq!(end, End::Call(expected), "{value:#x} {op}");
            }
        }
    }

    #[test]
    fn calls_newer_than_the_profile_fail_with_enosys() {
        let program = program(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["exit_group","getppid"],"action":"SCMP_ACT_ALLOW"},{"names":["openat2"],"action":"SCMP_ACT_ERRNO"}]}"#,
        );
        assert_eq!(run(&program, getppid), End::Call(0));
        let end = |number| run(&program, || call(number, [u64::MAX; 3]));
        assert_eq!(end(libc::SYS_openat2), End::Call(libc::EPERM));
        assert_eq!(end(libc::SYS_getuid), End::Call(libc::EPERM));
        assert_eq!(end(libc::SYS_openat2 + 1), End::Call(libc::ENOSYS));
        assert_eq!(end(5000), End::Call(libc::ENOSYS));
    }

    /// `int 0x80`: a call of the x86 ABI from 64-bit code.
    #[cfg(target_arch = "x86_64")]
    fn int80(number: u32, arg: u64) -> i32 {
        let result: i64;
        // SAFETY: only used with calls that take a number; rbx is saved by hand
        // because the compiler keeps it for itself.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {arg}",
                "int 0x80",
                "xchg rbx, {arg}",
                arg = inout(reg) arg => _,
                inlateout("rax") i64::from(number) => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        // The result is 32 bits wide; errors are the last 4095 numbers.
        let result = result & 0xffff_ffff;
        i32::try_from(0x1_0000_0000 - result)
            .map_or(0, |errno| if errno < 4096 { errno } else { 0 })
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn other_abis_are_bound_too() {
        let everything =
            program(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}"#);
        // personality(0xffffffff) only reads.
        let personality = || int80(136, 0xffff_ffff);
        match run(&everything, personality) {
            End::Call(0) => {}
            other => {
                crate::sys::testing::note_skip(format_args!(
                    "the kernel has no 32-bit calls: {other:?}"
                ));
                return;
            }
        }
        let profile = |archs: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":[{archs}],"syscalls":[{{"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[{{"index":0,"op":"SCMP_CMP_EQ","value":4294967295}}]}}]}}"#
            )
        };
        let both = program(&profile(r#""SCMP_ARCH_X86""#));
        assert_eq!(run(&both, personality), End::Call(libc::EPERM));
        // What is above 32 bits in the register must not hide the argument.
        let hidden = run(&both, || int80(136, 0x5_ffff_ffff));
        assert_eq!(hidden, End::Call(libc::EPERM));
        let native = program(&profile(""));
        assert_eq!(run(&native, personality), End::Signal(libc::SIGSYS));
        // x32: killed if it is not in the profile, whether the kernel has it or not.
        let x32 = 0x4000_0000 + libc::SYS_getppid;
        assert_eq!(
            run(&native, || call(x32, [0; 3])),
            End::Signal(libc::SIGSYS)
        );
        let with_x32 = program(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32"],"syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#,
        );
        assert_eq!(run(&with_x32, || call(x32, [0; 3])), End::Call(77));
    }

    #[test]
    fn a_listener_gets_the_calls_and_the_state() {
        use crate::container::state::SpecState;
        use crate::container::state::Status;
        use crate::seccomp::listener::{ContainerProcessState, FDS, send};
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
        use std::io::{IoSliceMut, Read};
        use std::mem::MaybeUninit;
        use std::os::fd::AsFd;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let program = program(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":{path:?},"syscalls":[{{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
        ));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = theirs.as_raw_fd();
        // SAFETY: the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: plain system calls; the parent takes the listener with pidfd_getfd.
            unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                let Ok(Some(listener)) = load(&program.filter, program.flags, program.notify)
                else {
                    libc::_exit(COULD_NOT_LOAD);
                };
                let number = listener.as_raw_fd();
                libc::write(theirs, (&raw const number).cast(), 4);
                let parent = libc::getppid();
                libc::_exit(if parent == 4711 { 0 } else { 1 });
            }
        }
        assert!(pid > 0);
        let mut number = [0; 4];
        (&ours).read_exact(&mut number).unwrap();
        let child = rustix::process::Pid::from_raw(pid).unwrap();
        let pidfd =
            rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty()).unwrap();
        let listener = rustix::process::pidfd_getfd(
            &pidfd,
            i32::from_ne_bytes(number),
            rustix::process::PidfdGetfdFlags::empty(),
        )
        .unwrap();

        let state = ContainerProcessState {
            oci_version: "1.3.0",
            fds: FDS,
            pid,
            metadata: "for the agent",
            state: SpecState {
                oci_version: "1.3.0",
                id: "c1",
                status: Status::Creating,
                pid,
                bundle: "/bundle",
                annotations: &std::collections::BTreeMap::new(),
            },
        };
        send(listener.as_fd(), path.to_str().unwrap(), &state).unwrap();
        drop(listener);

        let (connection, _) = agent.accept().unwrap();
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::net::recvmsg(
            &connection,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        assert_eq!(fds.len(), 1);
        let mut text = bytes[..message.bytes].to_vec();
        (&connection).read_to_end(&mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "for the agent",
                "state": {"ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": pid, "bundle": "/bundle"},
            })
        );

        // Answer the child's call.
        // SAFETY: zeros are valid for both; the ioctls fill and read exactly them.
        unsafe {
            let mut notice: libc::seccomp_notif = std::mem::zeroed();
            const RECV: libc::c_ulong = 0xc050_2100;
            const SEND: libc::c_ulong = 0xc018_2101;
            assert_eq!(
                libc::ioctl(fds[0].as_raw_fd(), RECV as _, &raw mut notice),
                0
            );
            assert_eq!(i64::from(notice.data.nr), libc::SYS_getppid);
            let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
            answer.id = notice.id;
            answer.val = 4711;
            assert_eq!(
                libc::ioctl(fds[0].as_raw_fd(), SEND as _, &raw mut answer),
                0
            );
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            assert!(libc::WIFEXITED(status));
            assert_eq!(libc::WEXITSTATUS(status), 0);
        }
    }

    #[test]
    fn a_missing_agent_is_an_error_with_its_path() {
        use crate::container::state::SpecState;
        use crate::container::state::Status;
        use crate::seccomp::listener::{ContainerProcessState, FDS, send};
        let state = ContainerProcessState {
            oci_version: "1.3.0",
            fds: FDS,
            pid: 1,
            metadata: "",
            state: SpecState {
                oci_version: "1.3.0",
                id: "c1",
                status: Status::Running,
                pid: 1,
                bundle: "/b",
                annotations: &std::collections::BTreeMap::new(),
            },
        };
        let fd = std::fs::File::open("/dev/null").unwrap();
        use std::os::fd::AsFd;
        let error = send(fd.as_fd(), "/nonexistent/agent", &state)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "linux.seccomp.listenerPath: connect(\"/nonexistent/agent\"): no such file or directory"
        );
        let long = format!("/{}", "x".repeat(120));
        let error = send(fd.as_fd(), &long, &state).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.seccomp.listenerPath:") && error.contains("107"),
            "{error}"
        );
    }
}
