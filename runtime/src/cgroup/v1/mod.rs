//! cgroup v1, with the unified hierarchy beside it where the host is hybrid.
//!
//! Belongs here: one directory a hierarchy, and what is done in each. Does
//! not: the values (`resources`).
//!
//! A container gets a directory in every hierarchy that has a controller, in
//! systemd's named one and in the unified one. The last controls little in a
//! hybrid layout, often only hugetlb, but has cgroup.kill, which ends all
//! processes in one write, and pressure figures.

mod hybrid;
pub(super) mod resources;
mod stats;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use rustix::io::Errno;

use super::devices;
use super::enter::{Sub, is_within};
use super::file;
use super::hierarchy::{Controller, Controllers, Hierarchy, Layout, is_denied};
use super::setting::{self, Journal, Setting};
use super::{Manager, OomWatch, Place, Record, RecordedDir, Request, Stats, control};
use crate::error::{Context, Error, Kind, Result};
use crate::spec::resources::Resources;
use crate::sys::fds::Batch;

/// The container's directory in one hierarchy.
#[derive(Debug)]
struct Dir {
    controllers: Controllers,
    /// Absolute path.
    path: String,
    /// Length of the part that is the mount point.
    base: usize,
    /// How many directories at the path's end we made.
    made: usize,
    /// How many were missing when somebody looked.
    missing: Cell<usize>,
}

/// A container's cgroups on v1.
#[derive(Debug)]
pub(super) struct V1 {
    dirs: Vec<Dir>,
    rootless: bool,
    warnings: Vec<String>,
}

impl V1 {
    /// Chooses the places; makes nothing.
    pub(super) fn new(layout: &Layout, request: &Request<'_>) -> V1 {
        let place = Place::of(request);
        let dir = |hierarchy: &Hierarchy| {
            let base = hierarchy.mount_point.len();
            Dir {
                controllers: hierarchy.controllers,
                path: place.below(&hierarchy.mount_point, &hierarchy.own),
                base,
                made: 0,
                missing: Cell::new(1),
            }
        };
        V1 {
            // The first attach waits for the kernel's RCU; which one is first makes no difference.
            dirs: layout.v1.iter().chain(&layout.unified).map(dir).collect(),
            rootless: request.rootless,
            warnings: Vec::new(),
        }
    }

    /// A cgroup of the same path in every hierarchy, some of it made by systemd.
    pub(super) fn at(layout: &Layout, path: &str, rootless: bool) -> V1 {
        let dir = |hierarchy: &Hierarchy| Dir {
            controllers: hierarchy.controllers,
            path: file::join(&hierarchy.mount_point, path),
            base: hierarchy.mount_point.len(),
            made: 0,
            missing: Cell::new(1),
        };
        V1 {
            dirs: layout.v1.iter().chain(&layout.unified).map(dir).collect(),
            rootless,
            warnings: Vec::new(),
        }
    }

    /// Makes what is missing of a cgroup that is known to be ours, and sets it up.
    pub(super) fn install(
        &mut self,
        settings: &[Setting<'_>],
        merged: Option<&devices::Merged>,
    ) -> Result<()> {
        let mut spent = Batch::default();
        self.make_dirs()?;
        if let Some(dir) = self.dir(Controller::Cpuset) {
            fill_cpuset(dir, false, false, &mut spent)?;
        }
        self.apply(settings, None, &mut spent)?;
        merged.map_or(Ok(()), |merged| self.write_devices(merged, &mut spent))
    }

    /// Sets new limits; the journal undoes that.
    pub(super) fn change(&self, resources: &Resources<'_>) -> Result<Journal> {
        let settings = self.settings(resources, false)?;
        if let Some(dir) = self.dir(Controller::Unified) {
            hybrid::enable(&dir.path, dir.base, &settings)?;
        }
        let mut journal = Journal::default();
        match self.apply(&settings, Some(&mut journal), &mut Batch::default()) {
            Ok(()) => Ok(journal),
            Err(error) => {
                journal.undo();
                Err(error)
            }
        }
    }

    /// Takes up what an earlier process made.
    pub(super) fn from_record(record: &Record) -> V1 {
        let dir = |dir: &RecordedDir| Dir {
            controllers: Controllers::from_list(&dir.controllers),
            path: dir.path.clone(),
            base: dir.base,
            made: dir.made,
            missing: Cell::new(1),
        };
        V1 {
            dirs: record.dirs.iter().map(dir).collect(),
            rootless: record.rootless,
            warnings: Vec::new(),
        }
    }

    fn dir(&self, controller: Controller) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|dir| dir.controllers.contains(controller))
    }

    fn path(&self, controller: Controller) -> Option<&str> {
        self.dir(controller).map(|dir| dir.path.as_str())
    }

    fn try_create(&mut self, resources: &Resources<'_>) -> Result<()> {
        let mut settings = self.settings(resources, true)?;
        let rules = devices::merge(&devices::rules(&resources.devices)?)?;
        let mut spent = Batch::default();
        self.make_dirs()?;
        fault!("cgroup.made");
        self.check_unused()?;
        if self.dirs.iter().any(|dir| dir.made == 0) {
            // An earlier user may have left other values than the kernel's own.
            settings = self.settings(resources, false)?;
        }
        if let Some(dir) = self.dir(Controller::Cpuset) {
            let given = resources.cpu.as_ref();
            fill_cpuset(
                dir,
                given.is_some_and(|cpu| !cpu.cpus.is_empty()),
                given.is_some_and(|cpu| !cpu.mems.is_empty()),
                &mut spent,
            )?;
        }
        let enabled = match self.dir(Controller::Unified) {
            Some(dir) => hybrid::enable(&dir.path, dir.base, &settings),
            None => Ok(()),
        };
        if self.rootless {
            let path = |controller| self.path(controller);
            let (settings, warning) = setting::without_undelegated(&settings, path);
            self.apply(&settings, None, &mut spent)?;
            self.warnings.extend(warning);
        } else {
            enabled?;
            self.apply(&settings, None, &mut spent)?;
        }
        fault!("cgroup.limits");
        self.write_devices(&rules, &mut spent)
    }

    /// The settings for this host: what v1 has no hierarchy for goes to the
    /// unified one, where that has the controller.
    fn settings<'a>(&self, resources: &'a Resources<'_>, fresh: bool) -> Result<Vec<Setting<'a>>> {
        let mut settings = resources::settings(resources, fresh)?;
        if self.path(Controller::Unified).is_some() {
            let missing = |controller| self.path(controller).is_none();
            hybrid::redirect(&mut settings, resources, missing)?;
        } else if let Some(key) = resources.unified.keys().next() {
            return Err(Error::unsupported(
                format!("linux.resources.unified.{key}"),
                "this host has no unified cgroup hierarchy",
            ));
        }
        Ok(settings)
    }

    fn freezer(&self) -> Result<&str> {
        self.path(Controller::Freezer).ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                "the cgroup controller freezer is not available",
            )
        })
    }

    fn make_dirs(&mut self) -> Result<()> {
        let rootless = self.rootless;
        let mut error = None;
        self.dirs.retain_mut(|dir| {
            if error.is_some() {
                return false;
            }
            match file::make_dirs(&dir.path, dir.base, dir.missing.get()) {
                Ok(made) => {
                    dir.made = made;
                    true
                }
                // An unprivileged caller does without the hierarchies that are
                // closed to it; a limit that needs one fails when it is set.
                Err(denied) if rootless && is_denied(denied.errno()) => false,
                Err(other) => {
                    error = Some(other);
                    true
                }
            }
        });
        match error {
            Some(error) => Err(error.context("cgroup")),
            None => Ok(()),
        }
    }

    /// A cgroup that was there before must not be in use: whatever is done to
    /// this container would be done to its processes too.
    fn check_unused(&self) -> Result<()> {
        for dir in self.dirs.iter().filter(|dir| dir.made == 0) {
            let procs = file::read_text(&dir.path, "cgroup.procs")?;
            if !procs.is_empty() {
                return Err(Error::new(
                    Kind::WrongState,
                    format!(
                        "the cgroup {:?} is in use by {} processes; choose another linux.cgroupsPath",
                        dir.path,
                        procs.lines().count()
                    ),
                ));
            }
            if dir.controllers.contains(Controller::Freezer)
                && file::read(&dir.path, "freezer.state").is_ok_and(|state| state != "THAWED")
            {
                return Err(Error::new(
                    Kind::WrongState,
                    format!("the cgroup {:?} is frozen; thaw it first", dir.path),
                ));
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        settings: &[Setting<'_>],
        journal: Option<&mut Journal>,
        spent: &mut Batch,
    ) -> Result<()> {
        setting::apply(settings, |controller| self.path(controller), journal, spent)
    }

    fn write_devices(&self, merged: &devices::Merged, spent: &mut Batch) -> Result<()> {
        let Some(dir) = self.path(Controller::Devices) else {
            return if self.rootless {
                Ok(())
            } else {
                Err(Error::unsupported(
                    "linux.resources.devices",
                    "the cgroup controller devices is not available",
                ))
            };
        };
        let open = |name: &str| {
            file::open_write(&file::join(dir, name))
                .context(|| format!("linux.resources.devices: open(\"{dir}/{name}\")"))
        };
        let (reset, list) = if merged.default_allow {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        };
        file::write_among(dir, reset, "a", spent).map_err(|errno| {
            file::write_error(dir, reset, "a", errno).context("linux.resources.devices")
        })?;
        if merged.exceptions.is_empty() {
            return Ok(());
        }
        let fd = open(list)?;
        let mut line = String::with_capacity(32);
        for rule in &merged.exceptions {
            line.clear();
            let _ = std::fmt::Write::write_fmt(&mut line, format_args!("{rule}"));
            file::write_fd(&fd, line.as_bytes()).map_err(|errno| {
                file::write_error(dir, list, &line, errno).context("linux.resources.devices")
            })?;
        }
        spent.push(fd);
        Ok(())
    }

    fn remove_made(&mut self) {
        for dir in &mut self.dirs {
            file::remove_made(&dir.path, dir.made);
            dir.made = 0;
        }
    }
}

/// A new cpuset has no CPU and no memory node, and takes no process and no
/// child's values until it has: fills both from the nearest level above that has them.
/// The last level gets what the configuration names later.
fn fill_cpuset(dir: &Dir, cpus_given: bool, mems_given: bool, spent: &mut Batch) -> Result<()> {
    for (name, given) in [("cpuset.cpus", cpus_given), ("cpuset.mems", mems_given)] {
        let mut empty = Vec::new();
        let mut level = 0;
        let mut path = dir.path.as_str();
        let value = loop {
            if path.len() < dir.base {
                break String::new();
            }
            if level >= dir.made && !(level == 0 && given) {
                let value = file::read_among(path, name, spent)
                    .context(|| format!("read(\"{}\")", file::join(path, name)))?;
                if !value.is_empty() {
                    break value;
                }
            }
            if !(level == 0 && given) {
                empty.push(path);
            }
            level += 1;
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        };
        for path in empty.iter().rev() {
            file::write_among(path, name, &value, spent)
                .map_err(|errno| file::write_error(path, name, &value, errno))?;
        }
    }
    Ok(())
}

/// Where `init` is in the unified hierarchy, if that is within the container's directory.
fn init_cgroup(init: u32, dir: &Dir) -> String {
    let mount_point = dir.path.get(..dir.base).unwrap_or_default();
    file::read_path(&format!("/proc/{init}/cgroup"))
        .ok()
        .and_then(|table| {
            let own = table.lines().find_map(|line| line.strip_prefix("0::"))?;
            let path = file::join(mount_point, &file::clean(own));
            is_within(&path, &dir.path).then_some(path)
        })
        .unwrap_or_else(|| dir.path.clone())
}

impl Manager for V1 {
    fn create(&mut self, resources: &Resources<'_>) -> Result<()> {
        let result = self.try_create(resources);
        if result.is_err() {
            self.remove_made();
        }
        result
    }

    fn attach(&mut self, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        let mut spent = Batch::default();
        for dir in &self.dirs {
            match file::write_among(&dir.path, "cgroup.procs", &pid, &mut spent) {
                Ok(()) => {}
                Err(errno) if self.rootless && is_denied(Some(errno)) => {}
                Err(errno) => {
                    return Err(file::write_error(&dir.path, "cgroup.procs", &pid, errno));
                }
            }
        }
        Ok(())
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn attach_exec(&self, pid: u32, sub: &[String], init: u32) -> Result<()> {
        let subs = sub
            .iter()
            .map(|text| Sub::parse(text))
            .collect::<Result<Vec<_>>>()?;
        let named = subs
            .iter()
            .filter_map(|sub| sub.controllers)
            .fold(String::new(), |list, more| list + "," + more);
        for name in named.split(',').filter(|name| !name.is_empty()) {
            let wanted = Controllers::from_list(name);
            if !self
                .dirs
                .iter()
                .any(|dir| dir.controllers.intersects(wanted))
            {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    format!("--cgroup: no cgroup controller {name:?}"),
                ));
            }
        }
        let pid = pid.to_string();
        let mut spent = Batch::default();
        let mut own = None;
        for dir in &self.dirs {
            let sub = subs.iter().rev().find(|sub| {
                sub.controllers
                    .is_none_or(|list| Controllers::from_list(list).intersects(dir.controllers))
            });
            let unified = dir.controllers.contains(Controller::Unified);
            // Containers split the hierarchies that v1 has; without being named, the unified one need not have the path.
            let place = match sub {
                Some(sub) => file::join(&dir.path, &sub.path),
                None => dir.path.clone(),
            };
            match file::write_among(&place, "cgroup.procs", &pid, &mut spent) {
                Ok(()) => {}
                Err(Errno::NOENT)
                    if unified && sub.is_some_and(|sub| sub.controllers.is_none()) =>
                {
                    file::write(&dir.path, "cgroup.procs", &pid).map_err(|errno| {
                        file::write_error(&dir.path, "cgroup.procs", &pid, errno)
                    })?;
                }
                Err(Errno::BUSY) if unified && sub.is_none() => {
                    let place = own.get_or_insert_with(|| init_cgroup(init, dir));
                    file::write(place, "cgroup.procs", &pid)
                        .map_err(|errno| file::write_error(place, "cgroup.procs", &pid, errno))?;
                }
                Err(errno) if self.rootless && is_denied(Some(errno)) => {}
                Err(errno) => return Err(file::write_error(&place, "cgroup.procs", &pid, errno)),
            }
        }
        Ok(())
    }

    fn update(&mut self, resources: &Resources<'_>) -> Result<()> {
        self.change(resources).map(drop)
    }

    fn freeze(&self) -> Result<()> {
        let dir = self.freezer()?;
        let set = |state: &str| {
            file::write(dir, "freezer.state", state)
                .map_err(|errno| file::write_error(dir, "freezer.state", state, errno))
        };
        let result = control::wait_until("freezing the container", |attempt| {
            // A task that forks while it is frozen can hold the state at
            // FREEZING for ever; thawing for a moment lets it through.
            if attempt % 50 == 49 {
                set("THAWED")?;
                file::pause_ms(1);
            }
            set("FROZEN")?;
            Ok(file::read_text(dir, "freezer.state")? == "FROZEN")
        });
        if result.is_err() {
            let _ = set("THAWED");
        }
        result
    }

    fn thaw(&self) -> Result<()> {
        let dir = self.freezer()?;
        file::write(dir, "freezer.state", "THAWED")
            .map_err(|errno| file::write_error(dir, "freezer.state", "THAWED", errno))
    }

    fn is_frozen(&self) -> Result<bool> {
        let Some(dir) = self.path(Controller::Freezer) else {
            return Ok(false);
        };
        match file::read(dir, "freezer.state") {
            Ok(state) => Ok(state != "THAWED"),
            Err(Errno::NOENT | Errno::NODEV) => Ok(false),
            Err(errno) => Err(Error::system(
                format!("read(\"{dir}/freezer.state\")"),
                errno,
            )),
        }
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL
            && let Some(dir) = self.path(Controller::Unified)
            && file::write(dir, "cgroup.kill", "1").is_ok()
        {
            // A process frozen by the v1 freezer dies once it is thawed.
            if self.is_frozen()? {
                self.thaw()?;
            }
            // Processes that were moved out of the unified directory alone
            // are in the other hierarchies still. Those killed cannot fork, so
            // that the second list has no new ones.
            let mut killed = Vec::new();
            let _ = file::pids_below(dir, &mut killed);
            if self.pids()?.iter().all(|pid| killed.contains(pid)) {
                return Ok(());
            }
        }
        control::signal_frozen(self, signal)
    }

    fn stats(&self) -> Result<Stats> {
        Ok(stats::read(self))
    }

    fn watch_oom(&self) -> Result<OomWatch> {
        match self.path(Controller::Memory) {
            Some(dir) => OomWatch::v1(dir),
            None => Err(Error::new(
                Kind::Unsupported,
                "the cgroup controller memory is not available",
            )),
        }
    }

    fn pids(&self) -> Result<Vec<u32>> {
        // Any hierarchy has them all; the devices one exists wherever limits were set.
        let dir = self
            .path(Controller::Devices)
            .or_else(|| self.dirs.first().map(|dir| dir.path.as_str()));
        let mut pids = Vec::new();
        if let Some(dir) = dir {
            match file::pids_below(dir, &mut pids) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => {
                    return Err(Error::system(
                        format!("read(\"{dir}/cgroup.procs\")"),
                        errno,
                    ));
                }
            }
        }
        Ok(pids)
    }

    fn delete(&mut self) -> Result<()> {
        let mut first = None;
        for dir in &mut self.dirs {
            if dir.made == 0 {
                continue;
            }
            match file::remove_tree(&dir.path) {
                Ok(()) => {
                    if let Some((above, _)) = dir.path.rsplit_once('/') {
                        file::remove_made(above, dir.made - 1);
                    }
                    dir.made = 0;
                }
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn planned(&self) -> Record {
        let mut record = self.record();
        for (dir, planned) in self.dirs.iter().zip(&mut record.dirs) {
            planned.made = file::missing_dirs(&dir.path, dir.base);
            dir.missing.set(planned.made);
        }
        record
    }

    fn record(&self) -> Record {
        Record {
            version: super::Version::V1,
            dirs: self
                .dirs
                .iter()
                .map(|dir| RecordedDir {
                    controllers: dir.controllers.to_list(),
                    path: dir.path.clone(),
                    base: dir.base,
                    made: dir.made,
                })
                .collect(),
            rootless: self.rootless,
            unit: None,
        }
    }
}
