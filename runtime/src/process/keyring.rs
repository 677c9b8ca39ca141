//! A session keyring for the container: keyrings(7).

use std::ffi::CString;

use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::keyring::{join_session, set_permissions};

/// Everything for its possessor; view, read, search and link for its user. A new session keyring
/// has no search for the user, without which exec'ed processes could not join it by name.
const PERMISSIONS: u32 = 0x3f1b_0000;

/// Leaves the caller's session keyring for the container's own, which is made where there is none.
/// Without this the container could read the keys of whoever started it.
///
/// # Errors
/// Those of keyctl(2); a kernel without keys, or a filter that hides the call, is none: there is
/// nothing to leave then.
pub fn join(container_id: &str) -> Result<()> {
    let name = CString::new(format!("_ses.{container_id}")).map_err(|_| {
        Error::new(
            Kind::InvalidArgument,
            "the container's id contains a NUL byte",
        )
    })?;
    let serial = match join_session(&name) {
        Err(Errno::NOSYS) => return Ok(()),
        result => result.context(|| format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"))?,
    };
    match set_permissions(serial, PERMISSIONS) {
        // The keyring of a user of this namespace that somebody else of it joined before.
        Err(Errno::ACCESS) => Ok(()),
        result => result.context(|| format!("keyctl(KEYCTL_SETPERM, {serial})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, session_keyring};

    #[test]
    fn processes_of_one_container_share_a_keyring_of_their_own() {
        let serials = in_child(|| {
            let id = format!("test-{}", std::process::id());
            let before = session_keyring();
            join(&id)?;
            let own = session_keyring();
            // An exec'ed process comes from outside and holds another keyring.
            let exec = in_child(|| {
                join(&format!("{id}-other"))?;
                let other = session_keyring();
                join(&id)?;
                Ok(format!("{other} {}", session_keyring()))
            })?;
            Ok(format!("{before} {own} {exec}"))
        })
        .unwrap();
        let serials: Vec<&str> = serials.split(' ').collect();
        if serials[1] == "-1" {
            crate::sys::testing::note_skip(format_args!("this kernel has no keyrings"));
            return;
        }
        assert_ne!(serials[0], serials[1]);
        assert_ne!(serials[1], serials[2]);
        assert_eq!(serials[1], serials[3]);
    }
}
