//! Cgroups made by systemd: a transient scope for each container, on v1 or v2.
//!
//! Belongs here: the unit's life. Does not: its properties (`properties`), the
//! bus (`bus`, `wire`), limits in files (`v1`, `v2`).
//!
//! A scope needs a process to begin with, so `create` only prepares, and
//! `attach` starts the unit with the container's first process and then sets
//! limits and device rules in the cgroup that systemd made (Delegate=yes: it is
//! ours to use). systemd is told the limits too, because it writes what it
//! knows whenever it reloads its configuration.

mod bus;
mod gvariant;
mod properties;
#[cfg(test)]
mod tests;
mod wire;

use rustix::fd::OwnedFd;

use self::bus::{Bus, NO_REPLY, NO_SUCH_UNIT, UNIT_EXISTS};
use self::wire::Value;
use super::devices::{self, Merged, Rule};
use super::file;
use super::hierarchy::{Controller, Layout};
use super::setting::Setting;
use super::v1::V1;
use super::v2::V2;
use super::{Manager, OomWatch, Record, Request, Stats, Unit, v1, v2};
use crate::error::{Context, Error, Kind, Result};
use crate::spec::resources::Resources;

/// The cgroup within the unit.
#[derive(Debug)]
enum Inner {
    V1(V1),
    V2(V2),
}

impl Inner {
    fn get(&self) -> &dyn Manager {
        match self {
            Inner::V1(manager) => manager,
            Inner::V2(manager) => manager,
        }
    }

    fn get_mut(&mut self) -> &mut dyn Manager {
        match self {
            Inner::V1(manager) => manager,
            Inner::V2(manager) => manager,
        }
    }
}

/// What `create` prepared for `attach`.
#[derive(Debug)]
struct Pending {
    properties: Vec<(String, Value)>,
    /// Told once it is known which file takes it.
    io_weight: Option<u16>,
    settings: Vec<Setting<'static>>,
    rules: Vec<Rule>,
    merged: Option<Merged>,
}

/// Whether the manager of the system, or of the user, answers.
pub(super) fn answers(user: bool) -> Result<()> {
    Bus::connect(user).map(drop)
}

/// How often, and after which pause, a unit is tried whose name is not free yet: about 2 s.
const LEFTOVER_ATTEMPTS: u32 = 100;
const LEFTOVER_PAUSE_MS: u64 = 20;

/// A container's unit.
#[derive(Debug)]
pub(super) struct Systemd {
    unit: Unit,
    rootless: bool,
    /// Of the host; `None` for a container that exists already.
    layout: Option<Layout>,
    /// Of the unit, unless an annotation gives another.
    description: String,
    annotations: Vec<(String, Value)>,
    pending: Option<Pending>,
    inner: Option<Inner>,
    /// The connection that `create` made, so that a host without systemd is found out early.
    bus: Option<Bus>,
}

/// Splits `slice:prefix:name` into slice and unit.
fn unit_of(request: &Request<'_>) -> Result<(String, String)> {
    let bad = |why: &str| {
        Error::config(
            "linux.cgroupsPath",
            format!(
                "{:?}: {why}; with systemd it has the form slice:prefix:name",
                request.cgroups_path
            ),
        )
    };
    let default_slice = if request.rootless {
        "user.slice"
    } else {
        "system.slice"
    };
    let (slice, prefix, name) = if request.cgroups_path.is_empty() {
        ("", "knarr", request.id)
    } else {
        let mut parts = request.cgroups_path.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
            _ => return Err(bad("it has not three parts")),
        }
    };
    if name.is_empty() || prefix.contains('/') || name.contains('/') {
        return Err(bad("prefix and name make the name of a unit"));
    }
    let slice = if slice.is_empty() {
        default_slice
    } else {
        slice
    };
    if !slice.ends_with(".slice") || slice.contains('/') {
        return Err(bad("the first part is no slice"));
    }
    let unit = match (prefix, name) {
        (_, name) if name.ends_with(".slice") => name.to_owned(),
        ("", name) => format!("{name}.scope"),
        (prefix, name) => format!("{prefix}-{name}.scope"),
    };
    Ok((slice.to_owned(), unit))
}

impl Systemd {
    /// Chooses the unit's name; starts nothing.
    pub(super) fn new(layout: &Layout, request: &Request<'_>) -> Result<Systemd> {
        let (slice, name) = unit_of(request)?;
        if name.ends_with(".slice") {
            return Err(Error::config(
                "linux.cgroupsPath",
                "a container cannot be a slice: name a scope, without the ending .slice",
            ));
        }
        Ok(Systemd {
            unit: Unit {
                name,
                slice,
                user: request.rootless,
                started: false,
                planned: String::new(),
            },
            rootless: request.rootless,
            layout: Some(layout.clone()),
            description: format!("container {}", request.id),
            annotations: properties::annotations(request.annotations.iter())?,
            pending: None,
            inner: None,
            bus: None,
        })
    }

    /// Takes up what an earlier process made.
    pub(super) fn from_record(record: &Record, unit: &Unit) -> Result<Systemd> {
        let inner = match record.version {
            super::Version::V1 => Some(Inner::V1(V1::from_record(record))),
            super::Version::V2 => Some(Inner::V2(V2::from_record(record)?)),
            super::Version::None => None,
        };
        Ok(Systemd {
            unit: unit.clone(),
            rootless: record.rootless,
            layout: None,
            description: String::new(),
            annotations: Vec::new(),
            pending: None,
            inner,
            bus: None,
        })
    }

    fn inner(&self) -> Result<&Inner> {
        self.inner.as_ref().ok_or_else(|| {
            Error::new(
                Kind::WrongState,
                format!("the unit {} has not been started", self.unit.name),
            )
        })
    }

    fn is_v2(&self) -> bool {
        match (&self.layout, &self.inner) {
            (Some(layout), _) => layout.v1.is_empty(),
            (None, Some(Inner::V1(_))) => false,
            (None, _) => true,
        }
    }

    fn start(&mut self, bus: &mut Bus, pid: u32, properties: &[(String, Value)]) -> Result<()> {
        let mut list = vec![
            ("Description".to_owned(), Value::str(&self.description)),
            ("Slice".to_owned(), Value::str(&self.unit.slice)),
            ("Delegate".to_owned(), Value::Bool(true)),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
            // A scope that failed is forgotten like any other, so that its name is free again.
            ("CollectMode".to_owned(), Value::str("inactive-or-failed")),
            (
                "PIDs".to_owned(),
                Value::Array("u".into(), vec![Value::U32(pid)]),
            ),
        ];
        let io = if self.is_v2() {
            "IOAccounting"
        } else {
            "BlockIOAccounting"
        };
        for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io] {
            list.push((name.to_owned(), Value::Bool(true)));
        }
        list.extend_from_slice(properties);
        let arguments = [
            Value::str(&self.unit.name),
            Value::str("replace"),
            wire::properties(&list),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let step = format!("start {}", self.unit.name);
        let mut unanswered = false;
        for attempt in 0.. {
            let result = bus.job("StartTransientUnit", &arguments);
            // A job that fails or takes too long leaves a unit to stop.
            self.unit.started = bus.accepted;
            let Err(refusal) = result? else {
                return Ok(());
            };
            if refusal.name == NO_REPLY && !unanswered {
                unanswered = true;
                continue;
            }
            if refusal.name != UNIT_EXISTS {
                return Err(refusal.into_error(&step));
            }
            if unanswered && self.holds(pid) {
                // The call before was heeded.
                self.unit.started = true;
                return Ok(());
            }
            if attempt == LEFTOVER_ATTEMPTS || !self.clear_leftover(bus)? {
                return Err(Error::new(
                    Kind::Exists,
                    format!(
                        "systemd has a unit {0:?} already, and it is in use: choose another linux.cgroupsPath, or end what is in it (systemctl stop {0})",
                        self.unit.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether a process is in the unit.
    fn holds(&self, pid: u32) -> bool {
        file::read_path(&format!("/proc/{pid}/cgroup")).is_ok_and(|table| {
            let mut places = table.lines().filter_map(|line| line.rsplit_once('/'));
            places.any(|(_, name)| name == self.unit.name)
        })
    }

    /// Makes the name free where a container whose runtime was killed has left a unit that failed
    /// or that no process is in any more. Tells whether another attempt may succeed.
    fn clear_leftover(&self, bus: &mut Bus) -> Result<bool> {
        let name = [Value::str(&self.unit.name)];
        let state = match bus.property(Some(&self.unit.name), "ActiveState")? {
            Ok(state) => state,
            // Gone meanwhile.
            Err(_) => return Ok(true),
        };
        match state.as_str() {
            "failed" => {
                let _ = bus.call("ResetFailedUnit", &name)?;
            }
            "active" => match bus.call("GetUnitProcesses", &name)? {
                Ok(processes) if processes.empty_array => {
                    let stop = [Value::str(&self.unit.name), Value::str("replace")];
                    let _ = bus.job("StopUnit", &stop)?;
                }
                Ok(_) => return Ok(false),
                Err(_) => {}
            },
            // Just ending, or just beginning: what it becomes is seen soon.
            _ => {}
        }
        file::pause_ms(LEFTOVER_PAUSE_MS);
        Ok(true)
    }

    /// Stops the unit; one that is gone is no error.
    fn stop(&self) -> Result<()> {
        let mut bus = Bus::connect(self.unit.user)?;
        if !self.unit.planned.is_empty() {
            // Nobody has noted that it was started: it may be another's of the same name.
            match bus.property(Some(&self.unit.name), "Description")? {
                Ok(description) if description == self.unit.planned => {}
                Ok(_) | Err(_) => return Ok(()),
            }
        }
        // Whoever is left has no time to lose: init may ignore a plain SIGTERM for a minute.
        let kill = [
            Value::str(&self.unit.name),
            Value::str("all"),
            Value::I32(libc::SIGKILL),
        ];
        let _ = bus.call("KillUnit", &kill)?;
        let arguments = [Value::str(&self.unit.name), Value::str("replace")];
        match bus.job("StopUnit", &arguments)? {
            Ok(()) => Ok(()),
            // systemd forgets a scope once it is empty.
            Err(refusal) if refusal.name == NO_SUCH_UNIT => Ok(()),
            Err(refusal) => Err(refusal.into_error(&format!("stop {}", self.unit.name))),
        }
    }

    fn make_inner(&self, layout: &Layout, pid: u32) -> Result<Inner> {
        let path = format!("/proc/{pid}/cgroup");
        let table = file::read_path(&path).context(|| format!("read({path:?})"))?;
        if layout.v1.is_empty() {
            let unified = layout
                .unified
                .as_ref()
                .ok_or_else(|| Error::new(Kind::Unsupported, "no cgroup hierarchy is mounted"))?;
            let place = self.place(&table, |list| list.is_empty())?;
            let path = file::join(&unified.mount_point, &place);
            return Ok(Inner::V2(V2::at(
                path,
                unified.mount_point.len(),
                self.rootless,
            )));
        }
        let place = self.place(&table, |list| list == Controller::Systemd.name())?;
        Ok(Inner::V1(V1::at(layout, &place, self.rootless)))
    }

    /// Where systemd put the process: the unit's cgroup.
    fn place(&self, table: &str, hierarchy: impl Fn(&str) -> bool) -> Result<String> {
        table
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(list, path)| hierarchy(list) && path.ends_with(&self.unit.name))
            .map(|(_, path)| file::clean(path))
            .ok_or_else(|| {
                Error::new(
                    Kind::System,
                    format!(
                        "systemd started {} but did not move the process into it",
                        self.unit.name
                    ),
                )
            })
    }
}

/// Changes properties of a unit until it ends.
fn set_properties(bus: &mut Bus, unit: &str, properties: &[(String, Value)]) -> Result<()> {
    let arguments = [
        Value::str(unit),
        Value::Bool(true),
        wire::properties(properties),
    ];
    let mut answer = bus.call("SetUnitProperties", &arguments)?;
    if matches!(&answer, Err(refusal) if refusal.name == NO_REPLY) {
        // Whether it was done or not, it can be done again.
        answer = bus.call("SetUnitProperties", &arguments)?;
    }
    answer
        .map(drop)
        .map_err(|refusal| refusal.into_error(&format!("set properties of {unit}")))
}

/// Properties that follow from the files as they are after a change of limits.
fn beside(manager: &V2, resources: &Resources<'_>) -> Vec<(String, Value)> {
    let mut list = Vec::new();
    let weight = resources.block_io.as_ref().and_then(|io| io.weight);
    if let Some(weight) = weight.filter(|weight| *weight != 0) {
        let bfq = manager.read("io.bfq.weight").is_some();
        list.push(properties::io_weight(weight, bfq));
    }
    if let Some(cpu) = &resources.cpu
        && cpu.idle == Some(0)
        && cpu.shares.is_none_or(|shares| shares == 0)
        && let Some(weight) = manager
            .read("cpu.weight")
            .and_then(|text| text.parse().ok())
    {
        list.push(("CPUWeight".to_owned(), Value::U64(weight)));
    }
    list
}

impl Manager for Systemd {
    fn create(&mut self, resources: &Resources<'_>) -> Result<()> {
        let v2 = self.is_v2();
        let rules = devices::rules(&resources.devices)?;
        // The filter of v2 can do more than the merged list, which then only has to be wide enough.
        let allowed: Vec<Rule> = rules
            .iter()
            .filter(|rule| rule.allow || rule.is_everything())
            .copied()
            .collect();
        let merged = devices::merge(if v2 { &allowed } else { &rules })?;
        // Known to be readable before anybody is asked.
        let settings = if v2 {
            v2::resources::settings(resources, "max")?
        } else {
            v1::resources::settings(resources, true)?
        };
        let bus = self.bus.insert(Bus::connect(self.unit.user)?);
        let mut properties = properties::limits(resources, v2, || bus.version())?;
        properties.append(&mut properties::devices(&merged, v2));
        properties.append(&mut self.annotations);
        let weight = resources.block_io.as_ref().and_then(|io| io.weight);
        self.pending = Some(Pending {
            properties,
            io_weight: weight.filter(|weight| v2 && *weight != 0),
            settings: settings.into_iter().map(Setting::into_owned).collect(),
            rules,
            merged: (!v2).then_some(merged),
        });
        Ok(())
    }

    fn attach(&mut self, pid: u32) -> Result<()> {
        let (Some(pending), Some(layout)) = (self.pending.take(), self.layout.clone()) else {
            return match &mut self.inner {
                Some(inner) => inner.get_mut().attach(pid),
                None => Err(Error::new(Kind::WrongState, "attach before create")),
            };
        };
        let mut bus = match self.bus.take() {
            Some(bus) => bus,
            None => Bus::connect(self.unit.user)?,
        };
        self.start(&mut bus, pid, &pending.properties)?;
        let unit = self.unit.name.clone();
        let inner = self.inner.insert(self.make_inner(&layout, pid)?);
        match inner {
            Inner::V1(manager) => {
                manager.install(&pending.settings, pending.merged.as_ref())?;
                manager.attach(pid)
            }
            Inner::V2(manager) => {
                manager.check_thawed()?;
                if let Some(weight) = pending.io_weight {
                    let bfq = manager.read("io.bfq.weight").is_some();
                    set_properties(&mut bus, &unit, &[properties::io_weight(weight, bfq)])?;
                }
                manager.limit(&pending.settings, &pending.rules)
            }
        }
    }

    fn warnings(&mut self) -> Vec<String> {
        self.inner
            .as_mut()
            .map(|inner| inner.get_mut().warnings())
            .unwrap_or_default()
    }

    fn clone_into(&self) -> Result<Option<OwnedFd>> {
        match &self.inner {
            Some(inner) => inner.get().clone_into(),
            // No unit yet.
            None => Ok(None),
        }
    }

    fn clone_into_exec(&self, sub: &[String], init: u32) -> Result<Option<OwnedFd>> {
        self.inner()?.get().clone_into_exec(sub, init)
    }

    fn attach_exec(&self, pid: u32, sub: &[String], init: u32) -> Result<()> {
        let result = self.inner()?.get().attach_exec(pid, sub, init);
        let denied = matches!(&result, Err(error) if super::hierarchy::is_denied(error.errno()));
        if !(denied && self.unit.user) {
            return result;
        }
        // The user's own manager has to move it, because the user may not write to what is above both cgroups.
        let place = match (self.inner()?, sub.last()) {
            (_, Some(sub)) => super::enter::Sub::parse(sub)?.path,
            (Inner::V2(manager), None) => manager.init_place(init).unwrap_or_default(),
            (Inner::V1(_), None) => String::new(),
        };
        let arguments = [
            Value::str(&self.unit.name),
            Value::str(format!("/{place}")),
            Value::Array("u".into(), vec![Value::U32(pid)]),
        ];
        Bus::connect(true)?
            .call("AttachProcessesToUnit", &arguments)?
            .map(drop)
            .map_err(|refusal| refusal.into_error("attach a process"))
    }

    fn delegate(&self, uid: u32) -> Result<()> {
        self.inner()?.get().delegate(uid)
    }

    fn update(&mut self, resources: &Resources<'_>) -> Result<()> {
        let v2 = self.is_v2();
        let inner = self.inner()?;
        let mut bus = Bus::connect(self.unit.user)?;
        let mut properties = properties::limits(resources, v2, || bus.version())?;
        let journal = match inner {
            Inner::V1(manager) => manager.change(resources)?,
            Inner::V2(manager) => manager.change(resources)?,
        };
        let mut before = Vec::new();
        if let Inner::V2(manager) = inner {
            before = manager.shared_files();
            properties.extend(beside(manager, resources));
        }
        if properties.is_empty() {
            return Ok(());
        }
        if let Err(error) = set_properties(&mut bus, &self.unit.name, &properties) {
            journal.undo();
            return Err(error);
        }
        // systemd rounds, does not know some values (0 tasks), and writes what it was never told of.
        match inner {
            Inner::V1(manager) => manager.change(resources).map(drop),
            Inner::V2(manager) => manager.restore(&before),
        }
    }

    fn freeze(&self) -> Result<()> {
        self.inner()?.get().freeze()
    }

    fn thaw(&self) -> Result<()> {
        self.inner()?.get().thaw()
    }

    fn is_frozen(&self) -> Result<bool> {
        self.inner
            .as_ref()
            .map_or(Ok(false), |inner| inner.get().is_frozen())
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.inner
            .as_ref()
            .map_or(Ok(Vec::new()), |inner| inner.get().pids())
    }

    fn kill_all(&self, signal: i32) -> Result<()> {
        self.inner
            .as_ref()
            .map_or(Ok(()), |inner| inner.get().kill_all(signal))
    }

    fn stats(&self) -> Result<Stats> {
        self.inner()?.get().stats()
    }

    fn watch_oom(&self) -> Result<OomWatch> {
        self.inner()?.get().watch_oom()
    }

    fn delete(&mut self) -> Result<()> {
        self.pending = None;
        let record = self.record();
        let left = record
            .dirs
            .iter()
            .any(|dir| std::path::Path::new(&dir.path).exists());
        if self.unit.started && (left || self.inner.is_none()) {
            self.stop()?;
        }
        // The unit was ours alone: so is whatever is left of its cgroups.
        for dir in &record.dirs {
            file::remove_tree(&dir.path)?;
            if let Some((above, _)) = dir.path.rsplit_once('/') {
                file::remove_made(above, dir.made.saturating_sub(1));
            }
        }
        self.unit.started = false;
        Ok(())
    }

    fn planned(&self) -> Record {
        let mut record = self.record();
        if let Some(unit) = &mut record.unit {
            unit.started = true;
            let annotated = self
                .annotations
                .iter()
                .rfind(|(name, _)| name == "Description");
            unit.planned = match annotated {
                Some((_, Value::Str(text))) => text.clone(),
                _ => self.description.clone(),
            };
        }
        record
    }

    fn record(&self) -> Record {
        let base = match &self.inner {
            Some(inner) => inner.get().record(),
            None => Record {
                rootless: self.rootless,
                ..Record::default()
            },
        };
        Record {
            unit: Some(self.unit.clone()),
            ..base
        }
    }
}
