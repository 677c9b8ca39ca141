//! cgroup v2: one directory, controllers enabled from the top down.
//!
//! Belongs here: that directory, and what is done in it. Does not: the values
//! (`resources`). Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.

pub(super) mod resources;
pub(super) mod stats;
#[cfg(test)]
mod tests;

pub(super) use resources::unified_settings;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::devices::{self, Rule};
use super::enter::{Sub, is_within};
use super::file;
use super::hierarchy::{Controllers, Hierarchy, is_denied};
use super::setting::{self, Journal, Setting};
use super::{Manager, OomWatch, Place, Record, RecordedDir, Request, Stats};
use super::{control, delegate, device_program};
use crate::error::{Context, Error, Kind, Result};
use crate::spec::resources::Resources;
use crate::sys::fds::Batch;

/// A container's cgroup on v2.
#[derive(Debug)]
pub(super) struct V2 {
    /// Absolute path.
    path: String,
    /// Length of the part of the path that is the mount point.
    base: usize,
    /// How many directories at the path's end we made.
    made: usize,
    /// Whether the container has a cgroup of its own at all: an unprivileged
    /// caller without a delegated one does without.
    present: bool,
    /// Whether every controller that the host has is known to be enabled.
    complete: bool,
    rootless: bool,
    warnings: Vec<String>,
}

impl V2 {
    /// Chooses the place; makes nothing.
    pub(super) fn new(unified: &Hierarchy, request: &Request<'_>) -> V2 {
        // The caller is itself a process in its cgroup, so that no controller
        // can be enabled for children of it: the place is beside it.
        let beside = unified.own.rsplit_once('/').map_or("", |(above, _)| above);
        let path = Place::of(request).below(&unified.mount_point, beside);
        V2::at(path, unified.mount_point.len(), request.rootless)
    }

    /// A cgroup at a given place.
    pub(super) fn at(path: String, base: usize, rootless: bool) -> V2 {
        V2 {
            path,
            base,
            made: 0,
            present: true,
            complete: false,
            rootless,
            warnings: Vec::new(),
        }
    }

    /// Takes up what an earlier process made.
    pub(super) fn from_record(record: &Record) -> Result<V2> {
        let Some(dir) = record.dirs.first() else {
            return Ok(V2 {
                present: false,
                ..V2::at(String::new(), 0, record.rootless)
            });
        };
        if !dir.path.starts_with('/') || dir.base > dir.path.len() {
            return Err(Error::new(Kind::State, "the recorded cgroup is no path"));
        }
        Ok(V2 {
            made: dir.made,
            ..V2::at(dir.path.clone(), dir.base, record.rootless)
        })
    }

    /// Makes the directory where it is missing and enables controllers down to it.
    pub(super) fn prepare(&mut self) -> Result<()> {
        match file::make_dirs(&self.path, self.base, 1) {
            Ok(made) => self.made = made,
            Err(denied) if self.rootless && is_denied(denied.errno()) => {
                self.present = false;
                return Ok(());
            }
            Err(error) => return Err(error.context("cgroup")),
        }
        if self.made > 0 {
            // Users of the container read their limits there, whatever the caller's umask.
            rustix::fs::chmod(&self.path, file::MODE)
                .map_err(|errno| Error::system(format!("chmod(\"{}\")", self.path), errno))?;
        }
        self.check_place()?;
        self.complete = enable_all(&self.path, self.base)?;
        Ok(())
    }

    /// Whether processes can live here: a cgroup in use would share all that is done to this
    /// container, in a frozen one init would never run, and a threaded one takes no processes.
    fn check_place(&self) -> Result<()> {
        let events = file::read_text(&self.path, "cgroup.events")?;
        let says = |line: &str| events.lines().any(|known| known == line);
        let why = if says("populated 1") {
            let mut pids = Vec::new();
            file::pids_below(&self.path, &mut pids)
                .context(|| format!("read(\"{}/cgroup.procs\")", self.path))?;
            format!(
                "is in use by {} processes; choose another linux.cgroupsPath",
                pids.len()
            )
        } else if says("frozen 1") {
            // A new cgroup is frozen where one above it is.
            "is frozen, or within one that is; thaw it first".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::new(
            Kind::WrongState,
            format!("the cgroup {:?} {why}", self.path),
        ))
    }

    /// Insists that no cgroup above is frozen: of a cgroup with processes its own files say it late.
    pub(super) fn check_thawed(&self) -> Result<()> {
        for dir in ancestors(&self.path, self.base) {
            if file::read(dir, "cgroup.freeze").is_ok_and(|state| state == "1") {
                return Err(Error::new(
                    Kind::WrongState,
                    format!(
                        "the cgroup {:?} is within {dir:?}, which is frozen; thaw it first",
                        self.path
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What is wrong with a place whose files or clone3(2) refused something.
    fn explain(&self, error: Error) -> Error {
        let kind = file::read(&self.path, "cgroup.type").unwrap_or_default();
        if !self.present || kind.is_empty() || kind == "domain" || kind == "domain threaded" {
            return error;
        }
        error.context(threaded(&self.path, &kind))
    }

    /// Sets device rules and limits on a cgroup that is there.
    pub(super) fn limit(&mut self, settings: &[Setting<'_>], rules: &[Rule]) -> Result<()> {
        if self.present {
            self.filter_devices(rules)?;
        }
        if !self.rootless {
            return self.apply(settings, None);
        }
        let dir = self.present.then_some(self.path.as_str());
        let (settings, warning) = setting::without_undelegated(settings, |_| dir);
        self.warnings.extend(warning);
        self.apply(&settings, None)
    }

    fn filter_devices(&self, rules: &[Rule]) -> Result<()> {
        let dir = self.open("")?;
        match device_program::attach(dir.as_fd(), rules, self.made > 0) {
            // In a user namespace nobody may filter; devices are out of reach there anyway.
            Err(error) if self.rootless && is_denied(error.errno()) => Ok(()),
            other => other,
        }
    }

    pub(super) fn apply(
        &self,
        settings: &[Setting<'_>],
        journal: Option<&mut Journal>,
    ) -> Result<()> {
        if self.present {
            self.enable(settings)?;
        }
        let dir = self.present.then_some(self.path.as_str());
        setting::apply(settings, |_| dir, journal, &mut Batch::default())
    }

    /// Enables the controllers that the settings need and that nobody has enabled yet: systemd
    /// does not know all of them.
    fn enable(&self, settings: &[Setting<'_>]) -> Result<()> {
        if settings.is_empty() || self.complete {
            return Ok(());
        }
        let present = file::read_text(&self.path, "cgroup.controllers")?;
        for setting in settings.iter().filter(|setting| !setting.may_miss) {
            if controller_of(&setting.file).is_some_and(|name| !has_word(&present, name)) {
                enable_for(&self.path, self.base, setting)?;
            }
        }
        Ok(())
    }

    /// What `update` writes.
    pub(super) fn update_settings<'a>(
        &self,
        resources: &'a Resources<'_>,
    ) -> Result<Vec<Setting<'a>>> {
        let quota = file::read(&self.path, "cpu.max").unwrap_or_default();
        let quota = quota.split(' ').next().filter(|quota| !quota.is_empty());
        let settings = resources::settings(resources, quota.unwrap_or("max"))?;
        if let Some(memory) = &resources.memory
            && memory.check_before_update == Some(true)
            && let Some(limit) = memory.limit.and_then(|limit| u64::try_from(limit).ok())
        {
            let usage = super::stats::number(&self.path, "memory.current");
            if limit != 0 && limit < usage {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    format!(
                        "linux.resources.memory.limit: {limit} is less than the {usage} bytes in use"
                    ),
                ));
            }
        }
        Ok(settings)
    }

    /// Sets new limits; the journal undoes that.
    pub(super) fn change(&self, resources: &Resources<'_>) -> Result<Journal> {
        let settings = self.update_settings(resources)?;
        let mut journal = Journal::default();
        match self.apply(&settings, Some(&mut journal)) {
            Ok(()) => Ok(journal),
            Err(error) => {
                journal.undo();
                Err(error)
            }
        }
    }

    /// Contents of the files that systemd writes by itself when one of a controller's properties changes.
    pub(super) fn shared_files(&self) -> Vec<(&'static str, String)> {
        const FILES: [&str; 16] = [
            "cpu.idle",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus",
            "cpuset.mems",
            "io.bfq.weight",
            "io.weight",
            "memory.min",
            "memory.low",
            "memory.high",
            "memory.max",
            "memory.swap.max",
            "memory.zswap.max",
            "memory.zswap.writeback",
            "memory.oom.group",
            "pids.max",
        ];
        FILES
            .iter()
            .filter_map(|name| Some((*name, file::read(&self.path, name).ok()?)))
            .collect()
    }

    /// Puts back what differs from `before`.
    pub(super) fn restore(&self, before: &[(&'static str, String)]) -> Result<()> {
        for (name, value) in before {
            if file::read(&self.path, name).is_ok_and(|now| now != *value) {
                // A line for each device where there are several.
                for line in value.lines() {
                    file::write(&self.path, name, line)
                        .map_err(|errno| file::write_error(&self.path, name, line, errno))?;
                }
            }
        }
        Ok(())
    }

    /// A file's contents.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        file::read(&self.path, name).ok()
    }

    fn open(&self, sub: &str) -> Result<OwnedFd> {
        let path = file::join(&self.path, sub);
        rustix::fs::open(
            path.as_str(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .context(|| format!("open(\"{path}\")"))
    }

    fn attach_to(&self, dir: &str, pid: &str) -> std::result::Result<(), Errno> {
        file::write(dir, "cgroup.procs", pid)
    }

    fn attach_error(&self, dir: &str, pid: &str, errno: Errno) -> Error {
        let error = file::write_error(dir, "cgroup.procs", pid, errno);
        match errno {
            Errno::OPNOTSUPP => error.context(threaded(
                dir,
                &file::read(dir, "cgroup.type").unwrap_or_default(),
            )),
            // cgroup-v2.rst, Delegation Containment.
            Errno::ACCESS | Errno::PERM => error.context(
                "a process comes here only from a cgroup of the same delegated tree; start the runtime in one, such as with systemd-run --user --scope",
            ),
            _ => error,
        }
    }

    /// The path below the container's cgroup that `exec --cgroup` names.
    pub(super) fn sub(sub: &[String]) -> Result<Option<String>> {
        let Some(text) = sub.last() else {
            return Ok(None);
        };
        let sub = Sub::parse(text)?;
        if sub.controllers.is_some() {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "--cgroup {text:?}: cgroup v2 has no hierarchies by controller, give a path alone"
                ),
            ));
        }
        Ok(Some(sub.path))
    }

    /// Where `init` is now, relative to the container's cgroup.
    pub(super) fn init_place(&self, init: u32) -> Option<String> {
        let table = file::read_path(&format!("/proc/{init}/cgroup")).ok()?;
        let own = table.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount_point = self.path.get(..self.base)?;
        let path = file::join(mount_point, &file::clean(own));
        if !is_within(&path, &self.path) {
            return None;
        }
        path.get(self.path.len()..).map(file::clean)
    }
}

fn threaded(dir: &str, kind: &str) -> String {
    format!(
        "the cgroup {dir:?} is of type {kind:?}: a container cannot be in a threaded part of the tree, choose another linux.cgroupsPath"
    )
}

/// The controller that a file of v2 belongs to; the core's own have none.
fn controller_of(name: &str) -> Option<&str> {
    match name.split_once('.') {
        Some(("cgroup" | "irq", _)) | None => None,
        Some((controller, _)) => Some(controller),
    }
}

fn has_word(list: &str, word: &str) -> bool {
    list.split(' ').any(|known| known == word)
}

/// Enables every controller of the root from there down to the parent of `path`,
/// as far as that goes: a limit whose controller is then missing reports it. Tells whether all were enabled already.
fn enable_all(path: &str, base: usize) -> Result<bool> {
    let root = path.get(..base).unwrap_or_default();
    let available = file::read_text(root, "cgroup.controllers")?;
    let present = file::read_text(path, "cgroup.controllers")?;
    let missing: Vec<&str> = available
        .split(' ')
        .filter(|name| !name.is_empty() && !has_word(&present, name))
        .collect();
    if missing.is_empty() {
        return Ok(true);
    }
    let line = missing
        .iter()
        .map(|name| format!("+{name}"))
        .collect::<Vec<_>>()
        .join(" ");
    for dir in ancestors(path, base) {
        match file::write(dir, "cgroup.subtree_control", &line) {
            Ok(()) => {}
            // It has processes. Some controllers would be taken one by one, and make its whole
            // tree threaded, in which no container can be.
            Err(Errno::BUSY | Errno::OPNOTSUPP) => return Ok(false),
            Err(_) => {
                for name in &missing {
                    let _ = file::write(dir, "cgroup.subtree_control", &format!("+{name}"));
                }
            }
        }
    }
    Ok(false)
}

/// Enables the controller of one setting down to `path`.
///
/// # Errors
/// A controller that is not there, or that cannot be enabled: config-linux.md, Unified.
pub(super) fn enable_for(path: &str, base: usize, setting: &Setting<'_>) -> Result<()> {
    let Some(name) = controller_of(&setting.file) else {
        return Ok(());
    };
    if has_word(&file::read_text(path, "cgroup.controllers")?, name) {
        return Ok(());
    }
    let field = format!("linux.resources.{}", setting.field);
    let root = path.get(..base).unwrap_or_default();
    if !has_word(&file::read_text(root, "cgroup.controllers")?, name) {
        // Pressure files and cpu.stat are there without their controller.
        if file::read(path, &setting.file).is_ok() {
            return Ok(());
        }
        return Err(Error::unsupported(
            field,
            format!("the cgroup controller {name} is not available"),
        ));
    }
    let line = format!("+{name}");
    for dir in ancestors(path, base) {
        if !has_word(
            &file::read(dir, "cgroup.subtree_control").unwrap_or_default(),
            name,
        ) {
            // As above; the root is free of that rule.
            if dir.len() > base
                && file::read(dir, "cgroup.procs").is_ok_and(|pids| !pids.is_empty())
            {
                return Err(Error::new(
                    Kind::WrongState,
                    format!(
                        "{field}: the cgroup {dir:?} has processes of its own, so the controller {name} cannot be given to cgroups below it; choose another linux.cgroupsPath"
                    ),
                ));
            }
            file::write(dir, "cgroup.subtree_control", &line).map_err(|errno| {
                file::write_error(dir, "cgroup.subtree_control", &line, errno).context(&field)
            })?;
        }
    }
    Ok(())
}

/// The directories from the mount point down to the parent of `path`.
fn ancestors(path: &str, base: usize) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .map(|(at, _)| at)
        .filter(move |at| *at >= base)
        .filter_map(|at| path.get(..at))
}

impl Manager for V2 {
    fn create(&mut self, resources: &Resources<'_>) -> Result<()> {
        let settings = resources::settings(resources, "max")?;
        let rules = devices::rules(&resources.devices)?;
        let result = self
            .prepare()
            .and_then(|()| self.limit(&settings, &rules))
            .map_err(|error| self.explain(error));
        if result.is_err() {
            file::remove_made(&self.path, self.made);
            self.made = 0;
        }
        result
    }

    fn attach(&mut self, pid: u32) -> Result<()> {
        if !self.present {
            return Ok(());
        }
        let pid = pid.to_string();
        self.attach_to(&self.path, &pid)
            .map_err(|errno| self.attach_error(&self.path, &pid, errno))
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn clone_into(&self) -> Result<Option<OwnedFd>> {
        if self.present {
            self.open("").map(Some)
        } else {
            Ok(None)
        }
    }

    fn clone_into_exec(&self, sub: &[String], init: u32) -> Result<Option<OwnedFd>> {
        if !self.present {
            return Ok(None);
        }
        if let Some(sub) = V2::sub(sub)? {
            return self.open(&sub).map(Some);
        }
        // A cgroup that has enabled controllers for its children takes no processes.
        let split =
            file::read(&self.path, "cgroup.subtree_control").is_ok_and(|list| !list.is_empty());
        let place = if split { self.init_place(init) } else { None };
        self.open(place.as_deref().unwrap_or_default()).map(Some)
    }

    fn attach_exec(&self, pid: u32, sub: &[String], init: u32) -> Result<()> {
        if !self.present {
            return Ok(());
        }
        let pid = pid.to_string();
        let sub = V2::sub(sub)?;
        let dir = file::join(&self.path, sub.as_deref().unwrap_or_default());
        match self.attach_to(&dir, &pid) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) if sub.is_none() => {
                let place = self.init_place(init).unwrap_or_default();
                let dir = file::join(&self.path, &place);
                self.attach_to(&dir, &pid)
                    .map_err(|errno| self.attach_error(&dir, &pid, errno))
            }
            Err(errno) => Err(self.attach_error(&dir, &pid, errno)),
        }
    }

    fn delegate(&self, uid: u32) -> Result<()> {
        if self.present {
            delegate::delegate(&self.path, uid)
        } else {
            Ok(())
        }
    }

    fn update(&mut self, resources: &Resources<'_>) -> Result<()> {
        self.change(resources).map(drop)
    }

    fn freeze(&self) -> Result<()> {
        let set = |state: &str| {
            file::write(&self.path, "cgroup.freeze", state)
                .map_err(|errno| file::write_error(&self.path, "cgroup.freeze", state, errno))
        };
        set("1")?;
        let result = control::wait_until("freezing the container", |_| {
            Ok(file::read_text(&self.path, "cgroup.events")?
                .lines()
                .any(|line| line == "frozen 1"))
        });
        if result.is_err() {
            let _ = set("0");
        }
        result
    }

    fn thaw(&self) -> Result<()> {
        file::write(&self.path, "cgroup.freeze", "0")
            .map_err(|errno| file::write_error(&self.path, "cgroup.freeze", "0", errno))
    }

    fn is_frozen(&self) -> Result<bool> {
        match file::read(&self.path, "cgroup.freeze") {
            Ok(state) => Ok(state == "1"),
            Err(Errno::NOENT | Errno::NODEV) => Ok(false),
            Err(errno) => Err(Error::system(
                format!("read(\"{}/cgroup.freeze\")", self.path),
                errno,
            )),
        }
    }

    fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        match file::pids_below(&self.path, &mut pids) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(pids),
            Err(errno) => Err(Error::system(
                format!("read(\"{}/cgroup.procs\")", self.path),
                errno,
            )),
        }
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            match file::write(&self.path, "cgroup.kill", "1") {
                // Also kills what is frozen. ENODEV: the cgroup is gone, and so are its processes.
                Ok(()) | Err(Errno::NODEV) => return Ok(()),
                // Linux before 5.14, or no cgroup.
                Err(_) => {}
            }
        }
        control::signal_frozen(self, signal)
    }

    fn stats(&self) -> Result<Stats> {
        stats::read(&self.path)
    }

    fn watch_oom(&self) -> Result<OomWatch> {
        OomWatch::v2(&self.path)
    }

    fn delete(&mut self) -> Result<()> {
        if !self.present || self.made == 0 {
            return Ok(());
        }
        file::remove_tree(&self.path)?;
        if let Some((above, _)) = self.path.rsplit_once('/') {
            file::remove_made(above, self.made - 1);
        }
        self.made = 0;
        Ok(())
    }

    fn planned(&self) -> Record {
        let mut record = self.record();
        for dir in &mut record.dirs {
            dir.made = file::missing_dirs(&dir.path, dir.base);
        }
        record
    }

    fn record(&self) -> Record {
        let mut controllers = Controllers::default();
        controllers.insert(super::hierarchy::Controller::Unified);
        let dir = RecordedDir {
            controllers: controllers.to_list(),
            path: self.path.clone(),
            base: self.base,
            made: self.made,
        };
        Record {
            version: super::Version::V2,
            dirs: if self.present { vec![dir] } else { Vec::new() },
            rootless: self.rootless,
            unit: None,
        }
    }
}
