//! `checkpoint` and `restore`.

use knarr_runtime::container::Container;
use knarr_runtime::container::checkpoint::{
    self, CgroupMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions,
};
use knarr_runtime::error::{Error, Kind, Result};

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, create, exit_code, protect};

/// Whether checkpoint and restore work on this host.
pub fn probe() -> Result<()> {
    checkpoint::probe()
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

/// What both commands tell criu.
fn criu(matches: &Matches<'_>) -> Result<CriuOptions> {
    let cgroup_mode = match matches.text(&flags::MANAGE_CGROUPS_MODE) {
        None | Some("") => None,
        Some("soft") => Some(CgroupMode::Soft),
        Some("full") => Some(CgroupMode::Full),
        Some("strict") => Some(CgroupMode::Strict),
        Some("ignore") => Some(CgroupMode::Ignore),
        Some(other) => {
            return Err(invalid(format!(
                "invalid manage-cgroups-mode {other:?}; use soft, full, strict or ignore"
            )));
        }
    };
    let network_lock = match matches.text(&flags::NETWORK_LOCK) {
        None | Some("") => None,
        Some("iptables") => Some(NetworkLock::Iptables),
        Some("nftables") => Some(NetworkLock::Nftables),
        Some("skip") => Some(NetworkLock::Skip),
        Some(other) => {
            return Err(invalid(format!(
                "invalid network-lock {other:?}; use iptables, nftables or skip"
            )));
        }
    };
    // A network namespace of the container's own is always left empty, as runc does.
    for namespace in matches.texts(&flags::EMPTY_NS) {
        if namespace != "network" {
            return Err(invalid(format!(
                "namespace {namespace:?} is not supported by --empty-ns; only network is"
            )));
        }
    }
    Ok(CriuOptions {
        image_path: matches
            .path(&flags::IMAGE_PATH)
            .unwrap_or_else(|| "checkpoint".into()),
        work_path: matches.path(&flags::WORK_PATH),
        tcp_established: matches.on(&flags::TCP_ESTABLISHED),
        ext_unix_sk: matches.on(&flags::EXT_UNIX_SK),
        shell_job: matches.on(&flags::SHELL_JOB),
        file_locks: matches.on(&flags::FILE_LOCKS),
        lazy_pages: matches.on(&flags::LAZY_PAGES),
        auto_dedup: matches.on(&flags::AUTO_DEDUP),
        cgroup_mode,
        network_lock,
    })
}

/// `ADDRESS:PORT`; an IPv6 address stands in brackets.
fn page_server(text: &str) -> Result<(String, u16)> {
    let wrong = || invalid(format!("invalid page-server {text:?}; use ADDRESS:PORT"));
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if address.is_empty() {
        return Err(wrong());
    }
    Ok((address.to_owned(), port.parse().map_err(|_| wrong())?))
}

/// `checkpoint`
pub fn checkpoint(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let options = CheckpointOptions {
        criu: criu(matches)?,
        parent_path: matches.path(&flags::PARENT_PATH),
        leave_running: matches.on(&flags::LEAVE_RUNNING),
        pre_dump: matches.on(&flags::PRE_DUMP),
        tcp_skip_in_flight: matches.on(&flags::TCP_SKIP_IN_FLIGHT),
        link_remap: matches.on(&flags::LINK_REMAP),
        // -1 stands for none.
        status_fd: matches
            .narrow(&flags::STATUS_FD)?
            .filter(|descriptor| *descriptor >= 0),
        page_server: matches
            .filled(&flags::PAGE_SERVER)
            .as_deref()
            .map(page_server)
            .transpose()?,
    };
    let container = Container::load(&globals.root(), matches.id()?)?;
    super::warn(globals, &container.checkpoint(&options)?);
    Ok(0)
}

/// `restore`
pub fn restore(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    protect()?;
    let options = RestoreOptions {
        criu: criu(matches)?,
        create: create::options(globals, matches)?,
        run: create::run_options(matches),
        tcp_close: matches.on(&flags::TCP_CLOSE),
        lsm_profile: matches.filled(&flags::LSM_PROFILE),
        lsm_mount_context: matches.filled(&flags::LSM_MOUNT_CONTEXT),
    };
    let (code, warnings) = Container::restore(&globals.root_for_create()?, &options)?;
    super::warn(globals, &warnings);
    Ok(exit_code(code))
}
