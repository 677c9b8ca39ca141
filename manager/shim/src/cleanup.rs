//! `delete`: removes what a shim that died, or was ended, has left of a container.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use knarr_proto::containerd::task::v2::DeleteResponse;
use knarr_proto::prost::Message;
use knarr_runtime::container::Container;
use knarr_runtime::error::{Context, Result};

use crate::args::Args;
use crate::{idmap, rootfs, start, task};

/// 128 and SIGKILL: how a container ends whose shim has died.
const KILLED: u32 = 137;

/// Removes the container; returns what to write to standard output.
///
/// # Errors
/// What could not be removed; nothing there is no error.
pub fn delete(args: &Args) -> Result<Vec<u8>> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context(|| "getcwd()")?,
    };
    let root = match fs::read_to_string(bundle.join(task::ROOT_FILE)) {
        Ok(root) => PathBuf::from(root),
        Err(_) => Path::new(task::DEFAULT_ROOT).join(&args.namespace),
    };
    let pid = Container::load(&root, &args.id)
        .and_then(|container| container.state())
        .map_or(0, |state| u32::try_from(state.pid).unwrap_or(0));
    for warning in Container::force_delete(&root, &args.id)? {
        complain!("warning: {warning}");
    }
    let root = bundle.join("rootfs");
    idmap::clear(&idmap::spot(&root))?;
    rootfs::unmount(&root)?;
    remove_socket(&bundle);
    Ok(DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: Some(SystemTime::now().into()),
    }
    .encode_to_vec())
}

/// Removes the socket of a shim that is gone. One that serves other containers of a pod is there still.
fn remove_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join(start::ADDRESS)) else {
        return;
    };
    let Some(path) = address.strip_prefix("unix://") else {
        return;
    };
    if UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        let _ = fs::remove_file(path);
    }
}
