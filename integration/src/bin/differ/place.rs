//! Where one configuration is run under one runtime: bundle, state root, cgroup, and namespaces that
//! the configuration may join. All gone when it is dropped.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use knarr_integration::{Value, cgroup, json};
use nix::sched::CloneFlags;

/// The namespaces of a thread that does nothing: something to join.
#[derive(Debug)]
struct Given {
    dir: PathBuf,
    stop: mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// See the module.
#[derive(Debug)]
pub struct Place {
    /// Below it lies everything.
    pub dir: PathBuf,
    /// linux.cgroupsPath.
    pub cgroup: String,
    given: RefCell<Option<Given>>,
}

impl Place {
    /// Makes the directory with a root file system whose only program is the probe.
    pub fn new(parent: &Path, probe: &Path, name: &str, cgroup: String) -> Self {
        let dir = parent.join(name);
        let rootfs = dir.join("rootfs");
        for sub in ["dev", "etc", "proc", "sys", "tmp", "root", "var", "mnt"] {
            fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::hard_link(probe, rootfs.join("probe")).unwrap();
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/probe\nworker:x:1000:1000::/tmp:/probe\n",
        )
        .unwrap();
        fs::write(
            rootfs.join("etc/group"),
            "root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n",
        )
        .unwrap();
        Self {
            dir,
            cgroup,
            given: RefCell::default(),
        }
    }

    /// A path below the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file on the host, to be mounted.
    pub fn file(&self, name: &str) -> Value {
        let path = self.path(name);
        fs::write(&path, format!("{name}\n")).unwrap();
        json!(path)
    }

    /// A directory on the host, to be mounted.
    pub fn directory(&self, name: &str) -> Value {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        json!(path)
    }

    /// A directory of the root file system.
    pub fn inside(&self, name: &str) {
        fs::create_dir_all(self.path("rootfs").join(name)).unwrap();
    }

    /// Gives the root file system, but for the probe, to another user, as image stores do.
    pub fn give_rootfs(&self, owner: u32) {
        let rootfs = self.path("rootfs");
        let mut todo = vec![rootfs];
        while let Some(path) = todo.pop() {
            if path.ends_with("rootfs/probe") {
                continue;
            }
            std::os::unix::fs::lchown(&path, Some(owner), Some(owner)).unwrap();
            if let Ok(entries) = fs::read_dir(&path) {
                todo.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
    }

    /// The path of a namespace (`net`, `uts`, `ipc`) that exists for this place alone.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        let mut given = self.given.borrow_mut();
        given.get_or_insert_with(Given::new).dir.join(kind)
    }

    /// Whether `link`, as /proc/PID/ns has it, is one of [`Place::namespace`].
    pub fn gave(&self, kind: &str, link: &str) -> bool {
        self.given.borrow().as_ref().is_some_and(|given| {
            fs::read_link(given.dir.join(kind)).is_ok_and(|own| own.as_os_str() == link)
        })
    }
}

impl Given {
    fn new() -> Self {
        let (stop, stopped) = mpsc::channel();
        let (send, dir) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(
                CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC,
            )
            .unwrap();
            let own = fs::read_link("/proc/thread-self").unwrap();
            let _ = send.send(Path::new("/proc").join(own).join("ns"));
            let _: Result<(), _> = stopped.recv();
        });
        Self {
            dir: dir.recv().unwrap(),
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        cgroup::remove(&self.cgroup);
        let _ = fs::remove_dir_all(&self.dir);
    }
}
