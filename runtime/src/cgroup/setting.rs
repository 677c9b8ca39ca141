//! One value for one control file, and how a list of them is written.
//!
//! Belongs here: order, retries and undoing. Does not: which values a
//! configuration comes to (`v1::resources`, `v2::resources`).

use std::borrow::Cow;

use rustix::io::Errno;

use super::file;
use super::hierarchy::Controller;
use crate::error::{Error, Kind, Result};
use crate::sys::fds::Batch;

/// A value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting<'a> {
    /// Whose file it is; chooses the directory.
    pub(super) controller: Controller,
    /// Name of the file.
    pub(super) file: Cow<'a, str>,
    /// What is written.
    pub(super) value: Cow<'a, str>,
    /// JSON path of the field it comes from, below `linux.resources`.
    pub(super) field: Cow<'a, str>,
    /// Settings next to each other with the same number other than 0 depend on
    /// each other: which order the kernel accepts follows from the present values.
    pub(super) group: u8,
    /// A file, and the value for it, to write instead where the first is absent.
    pub(super) instead: Option<(Cow<'a, str>, Cow<'a, str>)>,
    /// Whether a missing file is no error: what it would limit is not there, or unlimited as asked.
    pub(super) may_miss: bool,
}

impl<'a> Setting<'a> {
    /// A setting that must succeed and depends on no other.
    pub(super) fn new(
        controller: Controller,
        file: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
        field: impl Into<Cow<'a, str>>,
    ) -> Setting<'a> {
        Setting {
            controller,
            file: file.into(),
            value: value.into(),
            field: field.into(),
            group: 0,
            instead: None,
            may_miss: false,
        }
    }

    pub(super) fn group(mut self, group: u8) -> Self {
        self.group = group;
        self
    }

    pub(super) fn or(
        mut self,
        file: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
    ) -> Self {
        self.instead = Some((file.into(), value.into()));
        self
    }

    /// A copy that borrows nothing.
    pub(super) fn into_owned(self) -> Setting<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        Setting {
            controller: self.controller,
            file: own(self.file),
            value: own(self.value),
            field: own(self.field),
            group: self.group,
            instead: self.instead.map(|(file, value)| (own(file), own(value))),
            may_miss: self.may_miss,
        }
    }

    pub(super) fn may_miss(mut self, may: bool) -> Self {
        self.may_miss = may;
        self
    }
}

/// Splits off the settings that an unprivileged caller cannot make, since nobody has delegated
/// their controller to it: no directory, no file, or a file that is closed. Returns those that are
/// left, and a warning that names the fields of the others.
pub(super) fn without_undelegated<'s, 'a, 'd>(
    settings: &'s [Setting<'a>],
    dir: impl Fn(Controller) -> Option<&'d str>,
) -> (Cow<'s, [Setting<'a>]>, Option<String>) {
    let may_write = |dir: &str, name: &str| {
        let access = rustix::fs::Access::WRITE_OK;
        rustix::fs::access(file::join(dir, name), access).is_ok()
    };
    let can = |setting: &Setting<'_>| {
        dir(setting.controller).is_some_and(|dir| {
            let instead = setting.instead.as_ref();
            may_write(dir, &setting.file) || instead.is_some_and(|(other, _)| may_write(dir, other))
        })
    };
    let lost: Vec<bool> = settings
        .iter()
        .map(|setting| !setting.may_miss && !can(setting))
        .collect();
    if !lost.contains(&true) {
        return (Cow::Borrowed(settings), None);
    }
    let mut fields: Vec<String> = Vec::new();
    let mut left = Vec::new();
    for (setting, lost) in settings.iter().zip(lost) {
        let field = format!("linux.resources.{}", setting.field);
        if !lost {
            left.push(setting.clone());
        } else if !fields.contains(&field) {
            fields.push(field);
        }
    }
    let warning = format!(
        "no limit is set for {}: no cgroup with the controllers for it is delegated to user {}",
        fields.join(", "),
        rustix::process::geteuid().as_raw()
    );
    (Cow::Owned(left), Some(warning))
}

/// Earlier contents of files, to be put back.
#[derive(Debug, Default)]
pub(super) struct Journal(Vec<(String, String, String)>);

impl Journal {
    /// Notes what `name` held before `value` was written. In a file with a line
    /// for each device only that line is put back.
    fn note(&mut self, dir: &str, name: &str, value: &str, old: &str) {
        let device = value.split_once(' ').map(|(device, _)| device);
        let old = match device.filter(|device| device.contains(':')) {
            None => old.to_owned(),
            Some(device) => old
                .lines()
                .find(|line| {
                    line.split_once(' ')
                        .is_some_and(|(known, _)| known == device)
                })
                .map_or_else(|| no_limit(device, value), str::to_owned),
        };
        self.0.push((dir.to_owned(), name.to_owned(), old));
    }

    /// Puts the earlier values back, the last written first, as far as the kernel allows.
    pub(super) fn undo(self) {
        let mut list = self.0;
        list.reverse();
        // What depends on another value may be refused until that one is back.
        // A failure here must not hide the one that led to it.
        for _ in 0..2 {
            list.retain(|(dir, name, value)| file::write(dir, name, value).is_err());
        }
    }
}

/// The line that ends a device's limit: `8:0 rbps=max` (v2) or `8:0 0` (v1).
fn no_limit(device: &str, value: &str) -> String {
    match value
        .split_once(' ')
        .and_then(|(_, rest)| rest.split_once('='))
    {
        Some((key, _)) => format!("{device} {key}=max"),
        None => format!("{device} 0"),
    }
}

/// Writes settings in order. `dir` finds the directory of a controller; what is
/// overwritten goes to the journal where one is given, open files to `spent`.
///
/// # Errors
/// The first value that the kernel refuses, or the first whose controller or
/// file is missing; the error names the field.
pub(super) fn apply<'d>(
    settings: &[Setting<'_>],
    dir: impl Fn(Controller) -> Option<&'d str>,
    mut journal: Option<&mut Journal>,
    spent: &mut Batch,
) -> Result<()> {
    let mut rest = settings;
    while let Some(first) = rest.first() {
        let same = match first.group {
            0 => 1,
            group => rest.iter().take_while(|s| s.group == group).count(),
        };
        let (group, after) = rest.split_at(same);
        rest = after;
        settle(group, &dir, journal.as_deref_mut(), spent)?;
    }
    Ok(())
}

/// Writes settings of one group: those refused with EINVAL are tried again
/// after the others, as long as that gets anywhere.
fn settle<'d>(
    group: &[Setting<'_>],
    dir: &impl Fn(Controller) -> Option<&'d str>,
    mut journal: Option<&mut Journal>,
    spent: &mut Batch,
) -> Result<()> {
    let mut pending: Vec<&Setting<'_>> = Vec::new();
    for setting in group {
        match write_one(setting, dir, journal.as_deref_mut(), spent) {
            Err(error) if group.len() > 1 && error.errno() == Some(Errno::INVAL) => {
                pending.push(setting);
            }
            other => other?,
        }
    }
    while !pending.is_empty() {
        let before = pending.len();
        let mut failed = None;
        let mut left = Vec::new();
        for setting in pending {
            match write_one(setting, dir, journal.as_deref_mut(), spent) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(Errno::INVAL) => {
                    left.push(setting);
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if left.len() == before => return Err(error),
            _ => pending = left,
        }
    }
    Ok(())
}

fn write_one<'d>(
    setting: &Setting<'_>,
    dir: &impl Fn(Controller) -> Option<&'d str>,
    journal: Option<&mut Journal>,
    spent: &mut Batch,
) -> Result<()> {
    let context = |error: Error| error.context(format!("linux.resources.{}", setting.field));
    let Some(dir) = dir(setting.controller) else {
        if setting.may_miss {
            return Ok(());
        }
        return Err(context(Error::new(
            Kind::Unsupported,
            format!(
                "the cgroup controller {} is not available",
                setting.controller.name()
            ),
        )));
    };
    let mut name: &str = &setting.file;
    let mut value: &str = &setting.value;
    let mut old = journal.is_some().then(|| file::read(dir, name));
    let mut result = file::write_among(dir, name, value, spent);
    if let (Err(Errno::NOENT), Some((other, converted))) = (result, &setting.instead) {
        (name, value) = (other, converted);
        old = journal.is_some().then(|| file::read(dir, name));
        result = file::write_among(dir, name, value, spent);
    }
    if let (Ok(()), Some(Ok(old)), Some(journal)) = (result, old, journal) {
        journal.note(dir, name, value, &old);
    }
    match result {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) if setting.may_miss => Ok(()),
        Err(Errno::NOENT) => Err(context(Error::new(
            Kind::Unsupported,
            format!("the kernel has no {:?} in {dir:?}", &*setting.file),
        ))),
        Err(errno) => Err(context(file::write_error(dir, name, value, errno))),
    }
}
