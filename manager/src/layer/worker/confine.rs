//! What a worker can't do any more: gain privileges, reach a network, make processes, mount.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use crate::error::{Error, Result};

/// What unpacking needs: files of any owner, mode and kind, with capabilities; attributes that are
/// reserved for the administrator, overlayfs's and those of security modules, are the last.
pub const UNPACKING: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// What comparing needs: to read everything, and what overlayfs has noted.
pub const COMPARING: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_ADMIN);

/// Descriptors: those of directories in each other, to remove the deepest tree that a path can name.
const FILES: u64 = 4096;

/// Memory in bytes: a window of zstd, buffers, and what is remembered of a layer.
const MEMORY: u64 = 2 << 30;

/// Gives up every capability but those of `kept` that there are, and what would bring them back.
///
/// # Errors
/// Where the kernel refuses.
pub fn give_up(kept: CapabilitySet) -> Result<()> {
    let failed = |errno: rustix::io::Errno| Error::io("confinement", &errno.into());
    let had = rustix::thread::capabilities(None).map_err(failed)?;
    let kept = had.permitted & kept;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    let limits = [
        (Resource::Core, 0),
        (Resource::Nofile, FILES),
        (Resource::As, MEMORY),
    ];
    for (resource, most) in limits {
        let before = rustix::process::getrlimit(resource).maximum;
        let most = Some(before.map_or(most, |before| before.min(most)));
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        rustix::process::setrlimit(resource, limit).map_err(failed)?;
    }
    Ok(())
}

/// What all threads may ask the kernel for from now on: files below directories that are open,
/// memory, and to wait for each other. Anything else is refused.
///
/// # Errors
/// Where the kernel refuses the filter.
pub fn filter() -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("confinement: {error}"));
    let calls = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_dup,
        libc::SYS_fcntl,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_getdents64,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_readlinkat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_unlinkat,
        libc::SYS_fchdir,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_ftruncate,
        libc::SYS_utimensat,
        libc::SYS_syncfs,
        libc::SYS_fsetxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fgetxattr,
        libc::SYS_lgetxattr,
        libc::SYS_flistxattr,
        libc::SYS_llistxattr,
        libc::SYS_ppoll,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_geteuid,
        libc::SYS_getegid,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_tgkill,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let rules: BTreeMap<i64, Vec<_>> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    // An error, and not the end, for what a C library may try in vain.
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch);
    let filter = filter.map_err(|error| failed(&error))?;
    let program = seccompiler::BpfProgram::try_from(filter).map_err(|error| failed(&error))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| failed(&error))
}
