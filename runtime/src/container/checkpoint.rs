//! checkpoint: a running container saved by criu; and what callers choose for that and for restore.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, major, open, openat, statat};
use rustix::io::Errno;

use super::record::Record;
use super::state::Status;
use super::store::CONFIG;
use super::{Container, CreateOptions, RunOptions, config_of, delete, wrong_state};
use crate::criu::{self, Criu, Inherit, Opts, Request, Step};
use crate::error::{Context, Error, Kind, Result};
use crate::notify;
use crate::rootfs::{self, RunningMounts};
use crate::spec::Spec;
use crate::spec::linux::Linux;
use crate::sys::clone::flags;

pub use crate::criu::probe;

/// Names under which the images keep namespaces that are not the container's own.
pub(super) const EXTERNAL_NAMESPACES: [(&str, &str, &str); 2] = [
    ("network", "net", "extRootNetNS"),
    ("pid", "pid", "extRootPidNS"),
];

/// File of the images that says what the process had as its standard streams; runc's name and form.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// The annotation that names a configuration file for criu.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// Where the administrator configures criu for containers: the file that runc has criu read, too.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// What criu does with cgroups (criu(8), `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Make missing ones and restore the properties of those that were made.
    Soft,
    /// Restore all properties, also of those that exist.
    Full,
    /// Fail where one exists already.
    Strict,
    /// Do nothing.
    Ignore,
}

/// How criu keeps the network from the processes (criu(8), `--network-lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkLock {
    /// Rules of iptables.
    Iptables,
    /// Rules of nftables.
    Nftables,
    /// Not at all.
    Skip,
}

/// What checkpoint and restore both tell criu.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// Directory of the images.
    pub image_path: PathBuf,
    /// Directory of work files and logs; that of the images where absent.
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow the session of a shell.
    pub shell_job: bool,
    /// Allow file locks.
    pub file_locks: bool,
    /// Move pages only when they are used.
    pub lazy_pages: bool,
    /// Remove pages from older images once they are in newer ones.
    pub auto_dedup: bool,
    /// What to do with cgroups; soft where absent.
    pub cgroup_mode: Option<CgroupMode>,
    /// How to lock the network; criu's choice where absent.
    pub network_lock: Option<NetworkLock>,
}

/// Options of checkpoint.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// What criu is told.
    pub criu: CriuOptions,
    /// Directory of an earlier dump, relative to the images.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Dump memory only; the container runs on.
    pub pre_dump: bool,
    /// Leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Link open files without a name back.
    pub link_remap: bool,
    /// Descriptor of the caller that gets a zero byte when lazy pages are ready.
    pub status_fd: Option<i32>,
    /// Address and port of a server that takes the pages.
    pub page_server: Option<(String, u16)>,
}

/// Options of restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What criu is told.
    pub criu: CriuOptions,
    /// The container to make.
    pub create: CreateOptions,
    /// How to treat it when it runs.
    pub run: RunOptions,
    /// Restore TCP connections as closed.
    pub tcp_close: bool,
    /// Security profile, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// Security context of the mounts.
    pub lsm_mount_context: Option<String>,
}

impl CriuOptions {
    /// Opens the directories and turns the options into criu's. The descriptors must stay open
    /// while criu works, which finds them by their numbers in this process.
    pub(super) fn open(&self, spec: &Spec<'_>, log_file: &'static str) -> Result<(Dirs, Opts)> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::unsupported(
                "checkpoint and restore",
                "criu needs the privileges of root",
            ));
        }
        let images = open_dir(&self.image_path, "--image-path")?;
        let work = match &self.work_path {
            Some(path) => {
                make_dir(path, "--work-path")?;
                Some(open_dir(path, "--work-path")?)
            }
            None => None,
        };
        let log_dir = self.work_path.as_ref().unwrap_or(&self.image_path);
        let annotation = spec
            .annotations
            .iter()
            .find(|(key, _)| key.as_str() == CONFIG_ANNOTATION);
        let opts = Opts {
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: work.as_ref().map(AsRawFd::as_raw_fd),
            log_file,
            ext_unix_sk: self.ext_unix_sk,
            tcp_established: self.tcp_established,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            lazy_pages: self.lazy_pages,
            auto_dedup: self.auto_dedup,
            // Its devices are made and connected by others, whom restore calls by their hooks.
            empty_namespaces: spec
                .linux
                .as_ref()
                .is_some_and(own_network)
                .then(|| i32::try_from(flags::NEWNET).unwrap_or_default()),
            cgroup_mode: match self.cgroup_mode.unwrap_or(CgroupMode::Soft) {
                CgroupMode::Ignore => 0,
                CgroupMode::Soft => 3,
                CgroupMode::Full => 4,
                CgroupMode::Strict => 5,
            },
            network_lock: self.network_lock.map(|lock| match lock {
                NetworkLock::Iptables => 1,
                NetworkLock::Nftables => 2,
                NetworkLock::Skip => 3,
            }),
            // An empty annotation stands for no file at all. criu ignores one that is missing.
            config_file: annotation
                .map_or(CONFIG_FILE, |(_, path)| path.as_str())
                .to_owned(),
            ..Opts::default()
        };
        let dirs = Dirs {
            images,
            _work: work,
            log: std::path::absolute(log_dir).unwrap_or_else(|_| log_dir.clone()),
        };
        Ok((dirs, opts))
    }
}

/// Whether the runtime makes the container's network namespace.
pub(super) fn own_network(linux: &Linux<'_>) -> bool {
    linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == "network" && namespace.path.is_empty())
}

/// criu's directories.
#[derive(Debug)]
pub(super) struct Dirs {
    /// The images.
    pub images: OwnedFd,
    /// Held open for criu.
    _work: Option<OwnedFd>,
    /// Where the log is.
    pub log: PathBuf,
}

fn open_dir(path: &Path, option: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).context(|| format!("{option}: open({})", path.display()))
}

/// Makes a directory that others may only pass through, which the root of a user namespace has to
/// at restore: images hold the memory of processes, and criu makes them unreadable for others.
fn make_dir(path: &Path, option: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .context(|| format!("{option}: mkdir({})", path.display()))
}

impl Container {
    /// Saves the state of a running container. Unless it shall run on, it is deleted then; returns
    /// the warnings of that.
    ///
    /// # Errors
    /// `WrongState` unless running or paused, `Unsupported` where criu is missing or the caller is
    /// not root, and what criu fails with; the container runs on then.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<Vec<String>> {
        let (store, record) = self.open_locked()?;
        match self.status(&store, &record)? {
            Status::Running | Status::Paused => {}
            status => return Err(wrong_state("checkpoint", status)),
        }
        let program = criu::find()?;
        let status_fd = options.status_fd.map(status_descriptor).transpose()?;
        let text = store.read(CONFIG)?.unwrap_or_default();
        let spec = config_of(&self.id, &text)?;
        make_dir(&options.criu.image_path, "--image-path")?;
        let (dirs, mut opts) = options.criu.open(&spec, "dump.log")?;
        options.complete(&record, &spec, &dirs, &mut opts)?;

        let request = if options.pre_dump {
            Request::PreDump
        } else {
            Request::Dump
        };
        let mut at_step = |step: Step| match (step.name.as_str(), &status_fd) {
            ("status-ready", Some(fd)) => rustix::io::write(fd, &[0])
                .map(drop)
                .context(|| "--status-fd: write()"),
            _ => Ok(()),
        };
        let mut criu = Criu::new(&program, Inherit::default())?;
        criu.call(request, &opts, &dirs.log, &mut at_step)?;
        if options.leave_running || options.pre_dump {
            return Ok(Vec::new());
        }
        drop(store);
        delete::destroy(&self.root, &self.id, true)
    }
}

impl CheckpointOptions {
    /// Adds what a dump needs beyond the common options.
    fn complete(
        &self,
        record: &Record,
        spec: &Spec<'_>,
        dirs: &Dirs,
        opts: &mut Opts,
    ) -> Result<()> {
        if let Some(parent) = &self.parent_path {
            opts.parent_images = self.parent(parent)?;
        }
        let layout = rootfs::plan(spec, Path::new(&record.bundle))?;
        let mounts = RunningMounts::of(record.pid).map_err(|error| match error.errno() {
            Some(Errno::NOENT | Errno::SRCH) => wrong_state("checkpoint", Status::Stopped),
            _ => error,
        })?;
        opts.pid = Some(record.pid);
        opts.root.clone_from(&record.rootfs);
        opts.leave_running = self.leave_running;
        // Also without a parent: the next dump may want this one as its parent.
        opts.track_memory = self.pre_dump || self.parent_path.is_some();
        opts.tcp_skip_in_flight = self.tcp_skip_in_flight;
        opts.link_remap = self.link_remap;
        opts.page_server.clone_from(&self.page_server);
        opts.freeze_cgroup = freezer(record).unwrap_or_default();
        let default_linux = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&default_linux);
        for (kind, name, key) in EXTERNAL_NAMESPACES {
            let joined = linux
                .namespaces
                .iter()
                .any(|namespace| namespace.kind == kind && !namespace.path.is_empty());
            if joined {
                let path = format!("/proc/{}/ns/{name}", record.pid);
                let stat =
                    statat(CWD, &path, AtFlags::empty()).context(|| format!("stat({path})"))?;
                opts.external.push(format!("{name}[{}]:{key}", stat.st_ino));
            }
        }
        if self.pre_dump {
            return Ok(());
        }
        // The socket directory is no part of the configuration.
        opts.external_mounts = mounts.external(&layout, &[notify::INSIDE_DIRECTORY]);
        let mut streams = Vec::new();
        for number in 0..3 {
            let stream = Stream::of(record.pid, number, &mounts)?;
            if stream.is_external {
                opts.external.push(stream.name.clone());
            }
            streams.push(stream.name);
        }
        let json = serde_json::to_vec(&streams).unwrap_or_default();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&dirs.images, DESCRIPTORS, flags, Mode::RUSR | Mode::WUSR)
            .context(|| format!("--image-path: open({DESCRIPTORS})"))?;
        use std::io::Write;
        std::fs::File::from(file)
            .write_all(&json)
            .context(|| format!("--image-path: write({DESCRIPTORS})"))
    }

    /// The directory of earlier images, as criu wants it: relative to these.
    fn parent(&self, parent: &Path) -> Result<String> {
        let wrong = |why: &str| {
            let text = format!("--parent-path {}: {why}", parent.display());
            Err(Error::new(Kind::InvalidArgument, text))
        };
        if parent.is_absolute() {
            return wrong("must be relative to --image-path");
        }
        if !self.criu.image_path.join(parent).is_dir() {
            return wrong("is no directory below --image-path");
        }
        match parent.to_str() {
            Some(parent) => Ok(parent.to_owned()),
            None => wrong("is not UTF-8"),
        }
    }
}

/// The caller's descriptor of that number.
fn status_descriptor(number: i32) -> Result<OwnedFd> {
    crate::sys::fds::duplicate(number).context(|| format!("--status-fd: descriptor {number}"))
}

/// The cgroup by which the processes are frozen all at once.
fn freezer(record: &Record) -> Option<String> {
    let of = |name: &str| {
        let dirs = &record.cgroup.dirs;
        dirs.iter()
            .find(|dir| {
                dir.controllers
                    .split(',')
                    .any(|controller| controller == name)
            })
            .map(|dir| dir.path.clone())
    };
    of("freezer").or_else(|| of("unified"))
}

/// A standard stream of the container's process.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    /// What it is, or the name under which criu looks for a replacement at restore.
    name: String,
    /// Whether criu must be told to leave it out.
    is_external: bool,
}

impl Stream {
    fn of(pid: i32, number: u32, mounts: &RunningMounts) -> Result<Stream> {
        let path = format!("/proc/{pid}/fd/{number}");
        let Ok(target) = std::fs::read_link(&path) else {
            // Closed: there is nothing to replace.
            return Ok(Stream {
                name: String::new(),
                is_external: false,
            });
        };
        let plain = Stream {
            name: target.to_string_lossy().into_owned(),
            is_external: false,
        };
        // A file of the host, which has no path in the container: criu finds it by mount and inode.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(file) = open(&path, flags, Mode::empty()) else {
            return Ok(plain);
        };
        let stat = fstat(&file).context(|| format!("fstat({path})"))?;
        let replaceable = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => true,
            // One with a name; criu knows pipes by themselves.
            FileType::Fifo => !plain.name.starts_with("pipe:["),
            // Memory devices such as null; terminals are criu's own business.
            FileType::CharacterDevice => major(stat.st_rdev) == 1,
            _ => false,
        };
        let info = format!("/proc/{pid}/fdinfo/{number}");
        let info = std::fs::read_to_string(&info).context(|| format!("read({info})"))?;
        let mount: Option<u64> = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        Ok(match mount {
            Some(mount) if replaceable && !mounts.has(mount) => Stream {
                name: format!("file[{mount:x}:{:x}]", stat.st_ino),
                is_external: true,
            },
            _ => plain,
        })
    }
}

/// What takes the place of the standard streams at a restore: criu's name and our descriptor.
pub(super) fn inherited_streams(images: &OwnedFd) -> Result<Vec<(String, i32)>> {
    let file = match openat(
        images,
        DESCRIPTORS,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => file,
        // Images of a criu that was called by hand.
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(Error::system(format!("open({DESCRIPTORS})"), errno)),
    };
    let json = crate::proc::read_bounded(file, 1 << 16)
        .context(|| format!("--image-path: read({DESCRIPTORS})"))?;
    let names: Vec<String> = serde_json::from_slice(&json).map_err(|error| {
        Error::new(
            Kind::State,
            format!("--image-path: {DESCRIPTORS} is damaged: {error}"),
        )
    })?;
    let replaced = |name: &str| name.starts_with("pipe:[") || name.starts_with("file[");
    Ok((0..3)
        .zip(names)
        .filter(|(_, name)| replaced(name))
        .map(|(number, name)| (name, number))
        .collect())
}
