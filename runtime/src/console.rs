//! x
use crate::error::Result;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
/// x
#[derive(Debug)]
pub struct Relay;
impl Relay {
    /// x
    pub fn start(_m: OwnedFd) -> Result<Relay> {
        Ok(Relay)
    }
    /// x
    pub fn resize(&self) {}
    /// x
    pub fn finish(self) {}
}
/// x
pub fn wait(
    pidfd: BorrowedFd<'_>,
    signals: BorrowedFd<'_>,
    _r: Option<&mut Relay>,
) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags};
    let mut fds = [
        PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
        PollFd::from_borrowed_fd(signals, PollFlags::IN),
    ];
    let _ = rustix::event::poll(&mut fds, None);
    Ok(!fds[0].revents().is_empty())
}
/// x
pub fn send_fd(_s: &Path, _f: BorrowedFd<'_>, _n: &[u8]) -> Result<()> {
    Ok(())
}
