//! The state directory of one container: its files, its lock, its removal.
//!
//! ```text
//! ROOT/            0700
//!   ID/            0700, locked with flock(2) while somebody changes the container
//!     state.json   the record; replaced by rename, so it is whole or absent
//!     config.json  the configuration as it was at create; not there before the recorded cgroup was
//!                  found to be nobody else's
//!     start        fifo: init waits at it while the container is `created`
//!     result       fifo: init tells `start` what went wrong
//!     notify/      the socket for a service manager, where there is one
//! ```

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RawDir, accessat, flock,
    fstat, mkdirat, mknodat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::fds::Batch;

/// Fifo at which init waits.
pub(crate) const START_FIFO: &str = "start";
/// Fifo through which init reports after it was started.
pub(crate) const RESULT_FIFO: &str = "result";
/// The record.
pub(crate) const STATE: &str = "state.json";
/// Copy of the configuration.
pub(crate) const CONFIG: &str = "config.json";

/// The largest record that is read, in bytes.
const MAX_FILE: usize = 32 << 20;

const DIR_FLAGS: OFlags = OFlags::DIRECTORY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// An open state directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: OwnedFd,
    dir: OwnedFd,
    id: String,
    /// Whether the lock is ours: asking the kernel would give it up.
    locked: Cell<bool>,
    /// Files that are done with.
    spent: RefCell<Batch>,
}

impl AsFd for Store {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Refuses ids that could be anything but one plain file name.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if !id.is_empty() && id.len() <= 255 && id != "." && id != ".." && id.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidArgument,
        format!(
            "invalid id format: {id:?}: an id has 1 to 255 characters of a-z, A-Z, 0-9, '_', '+', '-' and '.'"
        ),
    ))
}

/// The root is the caller's own choice, and may be a link.
fn open_root(root: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, root, flags, Mode::empty())
}

fn open_dir(at: BorrowedFd<'_>, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | DIR_FLAGS, Mode::empty())
}

impl Store {
    /// Makes the directory of a new container and locks it.
    pub fn create(root: &Path, id: &str) -> Result<Store> {
        check_id(id)?;
        let root_fd = match open_root(root) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                use std::os::unix::fs::DirBuilderExt;
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(root)
                    .context(|| format!("mkdir({})", root.display()))?;
                open_root(root).context(|| format!("open({})", root.display()))?
            }
            Err(errno) => return Err(Error::system(format!("open({})", root.display()), errno)),
        };
        let mut made = mkdirat(&root_fd, id, Mode::RWXU);
        if made == Err(Errno::EXIST) && Store::clear_remains(root, id)? {
            made = mkdirat(&root_fd, id, Mode::RWXU);
        }
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists(id)),
            Err(errno) => {
                return Err(Error::system(
                    format!("mkdir({}/{id})", root.display()),
                    errno,
                ));
            }
        }
        let remove = |root_fd: &OwnedFd| {
            let _ = unlinkat(root_fd, id, AtFlags::REMOVEDIR);
        };
        let dir = Store::open_made(root, &root_fd, id).inspect_err(|_| remove(&root_fd))?;
        let store = Store {
            root: root_fd,
            dir,
            id: id.to_owned(),
            locked: Cell::new(false),
            spent: RefCell::default(),
        };
        match store.lock() {
            // Taken for the remains of somebody else before it was locked.
            Err(error) if error.kind() == Kind::NotFound => Err(exists(id)),
            other => other.inspect_err(|_| remove(&store.root)),
        }?;
        // Made by somebody else in the place of ours, which they took for remains.
        match accessat(&store.dir, STATE, Access::EXISTS, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(store),
            _ => Err(exists(id)),
        }
    }

    fn open_made(root: &Path, root_fd: &OwnedFd, id: &str) -> Result<OwnedFd> {
        fault!("create.store");
        open_dir(root_fd.as_fd(), Path::new(id))
            .context(|| format!("open({}/{id})", root.display()))
    }

    /// Removes a directory that is no container: one whose maker was killed before the record
    /// was there, or whose remover was killed after it was gone. Whether there was such a one.
    fn clear_remains(root: &Path, id: &str) -> Result<bool> {
        // Not a directory, for example: not ours to remove.
        let Ok(Some(store)) = Store::open(root, id) else {
            return Ok(false);
        };
        if !store.try_lock()? || !matches!(store.read(STATE), Ok(None)) {
            return Ok(false);
        }
        store.remove().map(|()| true)
    }

    /// Opens the directory of a container; `None` where there is none.
    pub fn open(root: &Path, id: &str) -> Result<Option<Store>> {
        check_id(id)?;
        let found = |opened| match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::system(
                format!("open({}/{id})", root.display()),
                errno,
            )),
        };
        let Some(root_fd) = found(open_root(root))? else {
            return Ok(None);
        };
        let Some(dir) = found(open_dir(root_fd.as_fd(), Path::new(id)))? else {
            return Ok(None);
        };
        Ok(Some(Store {
            root: root_fd,
            dir,
            id: id.to_owned(),
            locked: Cell::new(false),
            spent: RefCell::default(),
        }))
    }

    /// The ids of all containers below `root`, sorted; none where `root` is missing.
    pub fn ids(root: &Path) -> Result<Vec<String>> {
        let fd = match open_root(root) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::system(format!("open({})", root.display()), errno)),
        };
        let mut ids = Vec::new();
        for entry in Dir::read_from(&fd).context(|| format!("readdir({})", root.display()))? {
            let entry = entry.context(|| format!("readdir({})", root.display()))?;
            if let Ok(name) = entry.file_name().to_str()
                && check_id(name).is_ok()
            {
                ids.push(name.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Waits for the lock; it is released when the store is dropped or the process ends.
    pub fn lock(&self) -> Result<()> {
        while !self.locked.get() {
            match flock(&self.dir, FlockOperation::LockExclusive) {
                Ok(()) => self.locked.set(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::system(format!("flock({})", self.id), errno)),
            }
        }
        // Removed while we waited: what we hold is not the container any more.
        if self.is_removed()? {
            Err(does_not_exist())
        } else {
            Ok(())
        }
    }

    /// Whether the directory is gone, which its descriptor outlives.
    pub fn is_removed(&self) -> Result<bool> {
        let stat = fstat(&self.dir).context(|| format!("fstat({})", self.id))?;
        Ok(stat.st_nlink == 0)
    }

    /// The process that has taken the lock, as far as the kernel tells: proc_locks(5).
    pub fn holder(&self) -> Result<Option<i32>> {
        let stat = fstat(&self.dir).context(|| format!("fstat({})", self.id))?;
        let (major, minor) = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        let place = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
        let table = std::fs::read_to_string("/proc/locks").context(|| "read(/proc/locks)")?;
        // The table has who took the lock, who may be gone while a child keeps it, and another
        // process be called by that number.
        let is_ours = |path: &Path| {
            rustix::fs::stat(path)
                .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
        };
        let holds = |pid: &i32| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| is_ours(&fd.path()))))
        };
        Ok(holder_in(&table, &place).filter(holds))
    }

    /// Takes the lock where nobody has it; whether it is ours now.
    pub fn try_lock(&self) -> Result<bool> {
        match flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.locked.set(true);
                Ok(true)
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::system(format!("flock({})", self.id), errno)),
        }
    }

    /// Closes the directory together with others.
    pub fn close(self, spent: &mut Batch) {
        spent.append(self.spent.take());
        spent.push(self.root);
        spent.push(self.dir);
    }

    /// Lets others change the container again.
    pub fn unlock(&self) {
        self.locked.set(false);
        let _ = flock(&self.dir, FlockOperation::Unlock);
    }

    /// Whether somebody else is changing the container right now.
    pub fn is_locked(&self) -> bool {
        if self.locked.get() {
            return false;
        }
        match flock(&self.dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = flock(&self.dir, FlockOperation::Unlock);
                false
            }
            Err(_) => true,
        }
    }

    /// Replaces a file as a whole.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let temporary = format!(".{name}");
        self.write_first(&temporary, contents)?;
        renameat(&self.dir, &temporary, &self.dir, name)
            .context(|| format!("rename({}/{name})", self.id))
    }

    /// Writes a file that nobody reads yet.
    pub fn write_first(&self, name: &str, contents: &[u8]) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .context(|| format!("open({}/{name})", self.id))?;
        let mut file = std::fs::File::from(fd);
        let written = file.write_all(contents);
        self.spent.borrow_mut().push(file.into());
        written.context(|| format!("write({}/{name})", self.id))
    }

    /// Reads a file; `None` where it is missing.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => crate::proc::read_bounded(fd, MAX_FILE)
                .context(|| format!("read({}/{name})", self.id))
                .map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::system(format!("open({}/{name})", self.id), errno)),
        }
    }

    /// Makes a fifo and opens it so that neither reading nor writing it ever finds the other side gone.
    pub fn make_fifo(&self, name: &str) -> Result<OwnedFd> {
        mknodat(&self.dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context(|| format!("mkfifo({}/{name})", self.id))?;
        openat(
            &self.dir,
            name,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .context(|| format!("open({}/{name})", self.id))
    }

    /// Opens one side of a fifo without waiting: `None` where it is missing or nobody reads it.
    pub fn open_fifo(&self, name: &str, side: OFlags) -> Result<Option<OwnedFd>> {
        let flags = side | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NXIO) => Ok(None),
            Err(errno) => Err(Error::system(format!("open({}/{name})", self.id), errno)),
        }
    }

    /// Whether something of that name is there.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes a file; a missing one is fine.
    pub fn unlink(&self, name: &str) {
        let _ = unlinkat(&self.dir, name, AtFlags::empty());
    }

    /// Removes the directory and what is in it, the record last: until that is gone, whoever is
    /// interrupted can begin again.
    pub fn remove(&self) -> Result<()> {
        empty(self.dir.as_fd(), 0).context(|| format!("cannot remove {}", self.id))?;
        fault!("delete.files");
        self.unlink(STATE);
        fault!("delete.record");
        match unlinkat(&self.root, &self.id, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::system(format!("rmdir({})", self.id), errno)),
        }
    }
}

/// How deep directories are removed that somebody else has made.
const MAX_DEPTH: u32 = 32;

/// Removes all files of a directory, and directories below it; but not the record at the top.
/// Nobody has read the directory through this descriptor before.
fn empty(dir: BorrowedFd<'_>, depth: u32) -> Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut list = RawDir::new(dir, &mut buffer);
    while let Some(entry) = list.next() {
        let entry = entry.context(|| "readdir()")?;
        let name = entry.file_name();
        let is_record = depth == 0
            && name.to_bytes() == STATE.as_bytes()
            && entry.file_type() != FileType::Directory;
        if name == c"." || name == c".." || is_record {
            continue;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) if depth < MAX_DEPTH => {
                let below = openat(dir, name, OFlags::RDONLY | DIR_FLAGS, Mode::empty())
                    .context(|| format!("open({name:?})"))?;
                empty(below.as_fd(), depth + 1)?;
                unlinkat(dir, name, AtFlags::REMOVEDIR).context(|| format!("rmdir({name:?})"))?;
            }
            Err(errno) => return Err(Error::system(format!("unlink({name:?})"), errno)),
        }
    }
    Ok(())
}

fn holder_in(table: &str, place: &str) -> Option<i32> {
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // Who only waits for a lock has an arrow there.
        if fields.next()? != "FLOCK" {
            return None;
        }
        let pid: i32 = fields.nth(2)?.parse().ok()?;
        (fields.next()? == place && pid > 0).then_some(pid)
    })
}

fn exists(id: &str) -> Error {
    Error::new(
        Kind::Exists,
        format!("container with given ID already exists: {id}"),
    )
}

/// The error that callers match for an id that nobody has.
pub(crate) fn does_not_exist() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_has_a_lock() {
        let table = "1: POSIX  ADVISORY  WRITE 7 00:1c:99 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 4711 00:1c:99 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 5000 00:1c:99 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 0 00:1c:77 0 EOF\n";
        assert_eq!(holder_in(table, "00:1c:99"), Some(4711));
        assert_eq!(holder_in(table, "00:1c:77"), None);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), "x").unwrap();
        let other = Store::open(dir.path(), "x").unwrap().unwrap();
        assert!(!other.try_lock().unwrap());
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(other.holder().unwrap(), Some(own));
        drop(store);
    }
}
