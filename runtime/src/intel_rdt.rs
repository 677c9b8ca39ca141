//! `linux.intelRdt`: classes of service and monitoring groups in a resctrl file system.
//!
//! Source: runtime-spec 1.3.0, config-linux.md, IntelRdt; Documentation/filesystems/resctrl.rst of the kernel.
//! Nothing here is called for a container that does not ask for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::{Errno, read, write};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::process::procfs::ProcFs;
use crate::spec::linux;

const PLACE: &str = "linux.intelRdt";
/// Directories of the file system's own.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];
/// The largest mountinfo and schemata that are read, in bytes.
const MAX_FILE: usize = 4 << 20;

/// What to do in resctrl for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rdt {
    container_id: String,
    /// `None` where the configuration names none, and the container's id is the name.
    clos_id: Option<String>,
    l3_cache: Option<String>,
    mem_bw: Option<String>,
    schemata: Option<Vec<String>>,
    monitoring: bool,
}

impl Rdt {
    /// The directory of the class, below the mount point; empty for the top.
    fn class(&self) -> &str {
        match self.clos_id.as_deref() {
            Some("/") => "",
            Some(id) => id,
            None => &self.container_id,
        }
    }
}

/// What was made and must go when the container is deleted; kept in its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// The directory of the class, below the mount point; empty for the top.
    pub class: String,
    /// Whether the directory of the class goes as well.
    #[serde(default)]
    pub class_is_ours: bool,
    /// Whether the directory of the class goes when the creation fails: it was made just now.
    #[serde(skip)]
    pub class_is_new: bool,
    /// The name of the monitoring group below the class, if one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Reads `linux.intelRdt` for the container `container_id`.
///
/// # Errors
/// `InvalidConfig` for names that are no directory and lines that are none.
pub fn plan(spec: &linux::IntelRdt<'_>, container_id: &str) -> Result<Rdt> {
    let refuse = |field: &str, why: &str| Err(Error::config(format_args!("{PLACE}.{field}"), why));
    if let Some(id) = spec.clos_id.as_deref()
        && id != "/"
        && (id.is_empty()
            || matches!(id, "." | "..")
            || RESERVED.contains(&id)
            || id.contains(['/', '\n', '\0']))
    {
        return refuse(
            "closID",
            "must be the name of one directory, or \"/\" for the default class",
        );
    }
    if spec.clos_id.is_none() && RESERVED.contains(&container_id) {
        return refuse(
            "closID",
            "must be set, because the container's id is a name of resctrl's own",
        );
    }
    if let Some(schema) = &spec.mem_bw_schema
        && (!schema.starts_with("MB:") || schema.contains('\n'))
    {
        return refuse("memBwSchema", "must be one line that starts with \"MB:\"");
    }
    for (index, line) in spec.schemata.iter().flatten().enumerate() {
        if line.contains('\n') {
            return refuse(
                &format!("schemata[{index}]"),
                "must be one line; use one entry a line",
            );
        }
    }
    Ok(Rdt {
        container_id: container_id.to_owned(),
        clos_id: spec.clos_id.as_ref().map(ToString::to_string),
        l3_cache: spec.l3_cache_schema.as_ref().map(ToString::to_string),
        mem_bw: spec.mem_bw_schema.as_ref().map(ToString::to_string),
        schemata: spec
            .schemata
            .as_ref()
            .map(|lines| lines.iter().map(ToString::to_string).collect()),
        monitoring: spec.enable_monitoring,
    })
}

/// A mounted resctrl file system.
#[derive(Debug)]
pub struct Resctrl {
    root: OwnedFd,
    /// Fills a directory that a test made in a fake tree, as the kernel does in a true one.
    #[cfg(test)]
    fill: Option<fn(BorrowedFd<'_>)>,
}

impl Resctrl {
    /// Finds the mounted resctrl in the mount table of the caller.
    ///
    /// # Errors
    /// `Unsupported` where there is none.
    pub fn find(procfs: &ProcFs) -> Result<Resctrl> {
        let table = procfs.read("self/mountinfo", MAX_FILE)?;
        let Some(path) = mount_point(&table) else {
            return Err(Error::unsupported(
                PLACE,
                "no resctrl file system is mounted (mount -t resctrl resctrl /sys/fs/resctrl)",
            ));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path.as_slice(), flags, Mode::empty())
            .context(|| format!("{PLACE}: openat({:?})", String::from_utf8_lossy(&path)))?;
        Ok(Resctrl {
            root,
            #[cfg(test)]
            fill: None,
        })
    }

    fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        crate::beneath::open(self.root.as_fd(), path, flags, false)
    }

    fn class(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Makes a directory below `parent`; false if it is there already.
    fn make(&self, parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<bool> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                #[cfg(test)]
                if let Some(fill) = self.fill {
                    let dir = openat(parent, name, OFlags::RDONLY, Mode::empty())?;
                    fill(dir.as_fd());
                }
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn remove_directory(&self, parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        #[cfg(test)]
        if self.fill.is_some() {
            let path = format!(
                "/proc/self/fd/{}/{name}",
                std::os::fd::AsRawFd::as_raw_fd(&parent)
            );
            std::fs::remove_dir_all(path)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
            return Ok(());
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// What [`Resctrl::prepare`] will make, to be recorded before: the maker may be killed.
    #[must_use]
    pub fn planned(&self, rdt: &Rdt) -> Made {
        let missing = |path: &str| self.open(path, OFlags::PATH).err() == Some(Errno::NOENT);
        let class = rdt.class();
        let group = join(&join(class, "mon_groups"), &rdt.container_id);
        Made {
            class: class.to_owned(),
            class_is_ours: rdt.clos_id.is_none() && missing(class),
            class_is_new: false,
            group: (rdt.monitoring && missing(&group)).then(|| rdt.container_id.clone()),
        }
    }

    /// Makes the class and the monitoring group of a container, or checks those that are there.
    ///
    /// # Errors
    /// A class that must be there and is not, one with another schema, a schema that
    /// the kernel refuses, no room for a further group. What was made by then is removed.
    pub fn prepare(&self, rdt: &Rdt) -> Result<Made> {
        let mut made = Made::default();
        match self.prepare_into(rdt, &mut made) {
            Ok(()) => Ok(made),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.undo(&made);
                Err(error)
            }
        }
    }

    fn prepare_into(&self, rdt: &Rdt, made: &mut Made) -> Result<()> {
        let name = rdt.class();
        made.class = name.to_owned();
        let has_schema = rdt.l3_cache.is_some() || rdt.mem_bw.is_some() || rdt.schemata.is_some();
        let call = |what: &str| format!("{PLACE}: {what}({name:?})");
        let mut fresh = false;
        // Without a schema a class that is named must have been made by somebody else.
        if !name.is_empty() && (rdt.clos_id.is_none() || has_schema) {
            fresh = self
                .make(self.root.as_fd(), name)
                .map_err(|errno| match errno {
                    Errno::NOSPC => Error::system(
                        format!("{PLACE}: the hardware has no further class of service: mkdirat({name:?})"),
                        errno,
                    ),
                    errno => Error::system(call("mkdirat"), errno),
                })?;
            made.class_is_new = fresh;
            // One that the configuration names stays for others.
            made.class_is_ours = fresh && rdt.clos_id.is_none();
        }
        let class = match self.class(name) {
            Err(Errno::NOENT) => {
                return Err(Error::config(
                    format_args!("{PLACE}.closID"),
                    format_args!(
                        "there is no class {name:?} in resctrl; make it first, or give a schema"
                    ),
                ));
            }
            result => result.context(|| call("openat2"))?,
        };
        if has_schema {
            let lines = [
                ("l3CacheSchema", &rdt.l3_cache),
                ("memBwSchema", &rdt.mem_bw),
            ];
            if !fresh {
                let present = read_file(&class, "schemata").context(|| call("read schemata"))?;
                for (field, line) in lines {
                    if let Some(line) = line {
                        compare(field, line, &present, name)?;
                    }
                }
            }
            for (field, line) in lines {
                if let Some(line) = line {
                    write_line(&class, "schemata", line).context(|| format!("{PLACE}.{field}"))?;
                }
            }
            for (index, line) in rdt.schemata.iter().flatten().enumerate() {
                write_line(&class, "schemata", line)
                    .context(|| format!("{PLACE}.schemata[{index}]"))?;
            }
        }
        if rdt.monitoring {
            let groups = self
                .open(
                    &join(name, "mon_groups"),
                    OFlags::RDONLY | OFlags::DIRECTORY,
                )
                .map_err(|errno| match errno {
                    Errno::NOENT => Error::unsupported(
                        format_args!("{PLACE}.enableMonitoring"),
                        "this machine's resctrl has no monitoring",
                    ),
                    errno => Error::system(call("open mon_groups"), errno),
                })?;
            let place = || format!("{PLACE}.enableMonitoring: mkdirat({:?})", rdt.container_id);
            if !self
                .make(groups.as_fd(), &rdt.container_id)
                .context(place)?
            {
                return Err(Error::system(place(), Errno::EXIST));
            }
            made.group = Some(rdt.container_id.clone());
        }
        Ok(())
    }

    /// Puts a process into the class and, where there is one, the monitoring group. The process
    /// must not have forked yet: only the task itself moves, its later children follow it.
    ///
    /// # Errors
    /// Those of writing `tasks`.
    pub fn enter(&self, made: &Made, process: Pid) -> Result<()> {
        let pid = process.to_string();
        let mut directory = made.class.clone();
        let write_tasks = |directory: &str| -> Result<()> {
            let class = self
                .class(directory)
                .context(|| format!("{PLACE}: openat2({directory:?})"))?;
            write_line(&class, "tasks", &pid).context(|| format!("{PLACE}: {directory:?}"))
        };
        // The class first: a task enters only the groups of its class.
        write_tasks(&directory)?;
        if let Some(group) = &made.group {
            directory = join(&join(&directory, "mon_groups"), group);
            write_tasks(&directory)?;
        }
        Ok(())
    }

    /// Changes the schema of a running container (`update`). Returns what [`Resctrl::restore`]
    /// puts back.
    ///
    /// # Errors
    /// Lines that the kernel refuses: all is then as it was.
    pub fn update(
        &self,
        made: &Made,
        l3_cache: Option<&str>,
        mem_bw: Option<&str>,
    ) -> Result<String> {
        let class = self
            .class(&made.class)
            .context(|| format!("{PLACE}: openat2({:?})", made.class))?;
        let before =
            read_file(&class, "schemata").context(|| format!("{PLACE}: read(schemata)"))?;
        for (field, line) in [("l3CacheSchema", l3_cache), ("memBwSchema", mem_bw)] {
            if let Some(line) = line
                && let Err(error) = write_line(&class, "schemata", line)
            {
                self.restore(made, &before);
                return Err(error.context(format!("{PLACE}.{field}")));
            }
        }
        Ok(before)
    }

    /// Puts back the schema that [`Resctrl::update`] returned, as far as the kernel allows.
    pub fn restore(&self, made: &Made, schemata: &str) {
        if let Ok(class) = self.class(&made.class) {
            let _ = write_line(&class, "schemata", schemata.trim_end());
        }
    }

    /// Removes what [`Resctrl::prepare`] made for the container, when it is deleted.
    ///
    /// # Errors
    /// Those of rmdir(2); what is gone already is none.
    pub fn remove(&self, made: &Made) -> Result<()> {
        self.remove_made(made, made.class_is_ours)
    }

    /// Removes all that [`Resctrl::prepare`] made, when the creation of the container fails.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn undo(&self, made: &Made) -> Result<()> {
        self.remove_made(made, made.class_is_new)
    }

    fn remove_made(&self, made: &Made, class_too: bool) -> Result<()> {
        let remove = |parent: &str, name: &str| match self
            .class(parent)
            .and_then(|dir| self.remove_directory(dir.as_fd(), name))
        {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno)
                .context(|| format!("{PLACE}: unlinkat({:?}, AT_REMOVEDIR)", join(parent, name))),
        };
        if let Some(group) = &made.group {
            remove(&join(&made.class, "mon_groups"), group)?;
        }
        if class_too && !made.class.is_empty() {
            remove("", &made.class)?;
        }
        Ok(())
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

/// The mount point of the first resctrl in a mount table: proc_pid_mountinfo(5).
fn mount_point(table: &[u8]) -> Option<Vec<u8>> {
    table.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        // The fourth field is the root of the mount within the file system: a part of it is no use.
        let root = fields.nth(3)?;
        let point = fields.next()?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"resctrl" && root == b"/").then(|| unescape(point))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, digits) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

fn read_file(directory: &OwnedFd, name: &str) -> rustix::io::Result<String> {
    let file = openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < MAX_FILE {
        match read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write_line(directory: &OwnedFd, name: &str, line: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // The kernel takes whole lines only.
    let text = format!("{line}\n");
    let call = || format!("write({name:?}, {line:?})");
    let file = openat(directory, name, flags, Mode::empty()).context(call)?;
    let count = write(&file, text.as_bytes()).context(call)?;
    if count != text.len() {
        return Err(Error::new(Kind::System, format!("{}: cut off", call())));
    }
    Ok(())
}

/// Whether every domain that `wanted` names has the same value in `present`; domains that it does not name may
/// have any. Values are hexadecimal masks but for MB, where they are decimal; leading zeros do not count.
fn compare(field: &str, wanted: &str, present: &str, class: &str) -> Result<()> {
    fn domains(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
        let (resource, rest) = line.trim().split_once(':')?;
        let domains = rest.split(';').filter_map(|domain| {
            let (id, value) = domain.split_once('=')?;
            let value = value.trim().trim_start_matches('0');
            Some((id.trim(), value))
        });
        Some((resource.trim(), domains.collect()))
    }
    for line in wanted.lines().filter(|line| !line.trim().is_empty()) {
        let matches = domains(line).is_some_and(|(resource, wanted)| {
            present.lines().filter_map(domains).any(|(name, present)| {
                name == resource
                    && wanted.iter().all(|(id, value)| {
                        present
                            .iter()
                            .any(|(other, now)| other == id && now.eq_ignore_ascii_case(value))
                    })
            })
        });
        if !matches {
            return Err(Error::config(
                format_args!("{PLACE}.{field}"),
                format_args!(
                    "{line:?} does not match the class {class:?}, which is there already with {:?}",
                    present.split_whitespace().collect::<Vec<_>>().join(" ")
                ),
            ));
        }
    }
    Ok(())
}

/// These tests work on a fake tree of plain files: few machines have the hardware, and the kernel's file system
/// cannot exist without it. What they show is which files are made, written and removed, not what hardware does.
#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const DEFAULT: &str = "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n";

    fn fill(directory: BorrowedFd<'_>) {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        fill_path(Path::new(&path));
    }

    fn fill_path(path: &Path) {
        fs::write(path.join("tasks"), "").unwrap();
        fs::write(path.join("schemata"), DEFAULT).unwrap();
        fs::create_dir(path.join("mon_groups")).unwrap();
    }

    fn tree() -> (tempfile::TempDir, Resctrl) {
        let dir = tempfile::tempdir().unwrap();
        fill_path(dir.path());
        fs::create_dir(dir.path().join("info")).unwrap();
        let root = fs::File::open(dir.path()).unwrap().into();
        let resctrl = Resctrl {
            root,
            fill: Some(fill),
        };
        (dir, resctrl)
    }

    fn spec(clos: Option<&'static str>) -> linux::IntelRdt<'static> {
        linux::IntelRdt {
            clos_id: clos.map(Into::into),
            ..Default::default()
        }
    }

    fn class(dir: &tempfile::TempDir, name: &str) {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fill_path(&path);
    }

    fn content(dir: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(dir.path().join(path)).unwrap()
    }

    fn entries(dir: &tempfile::TempDir) -> String {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["tasks", "schemata", "mon_groups", "info"].contains(&name.as_str()))
            .collect();
        names.sort();
        names.join(" ")
    }

    #[test]
    fn without_a_class_the_container_gets_its_own_until_it_is_deleted() {
        let (dir, resctrl) = tree();
        let mut spec = spec(None);
        spec.l3_cache_schema = Some("L3:0=7f0;1=1f".into());
        let made = resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap();
        assert!(made.class_is_ours);
        assert!(content(&dir, "c1/schemata").starts_with("L3:0=7f0;1=1f\n"));
        assert_eq!(content(&dir, "schemata"), DEFAULT);
        let pid = rustix::process::getpid();
        resctrl.enter(&made, pid).unwrap();
        assert_eq!(content(&dir, "c1/tasks"), format!("{pid}\n"));
        let before = resctrl.update(&made, None, Some("MB:0=20")).unwrap();
        assert!(content(&dir, "c1/schemata").starts_with("MB:0=20\n"));
        resctrl.restore(&made, &before);
        assert!(content(&dir, "c1/schemata").starts_with("L3:0=7f0;1=1f\n"));
        let made: Made = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        resctrl.remove(&made).unwrap();
        assert_eq!(entries(&dir), "");
        resctrl.remove(&made).unwrap();
    }

    #[test]
    fn what_was_planned_goes_as_far_as_it_was_made() {
        let (dir, resctrl) = tree();
        let mut spec = spec(None);
        spec.enable_monitoring = true;
        let planned = resctrl.planned(&plan(&spec, "c1").unwrap());
        resctrl.remove(&planned).unwrap();
        resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap();
        assert!(!resctrl.planned(&plan(&spec, "c1").unwrap()).class_is_ours);
        resctrl.remove(&planned).unwrap();
        assert_eq!(entries(&dir), "");
    }

    #[test]
    fn without_any_schema_none_is_written() {
        let (dir, resctrl) = tree();
        let made = resctrl.prepare(&plan(&spec(None), "c1").unwrap()).unwrap();
        assert_eq!(content(&dir, "c1/schemata"), DEFAULT);
        assert!(made.class_is_ours);
    }

    #[test]
    fn a_named_class_with_a_schema_is_made_and_stays() {
        let (dir, resctrl) = tree();
        let mut spec = spec(Some("gold"));
        spec.mem_bw_schema = Some("MB:0=20;1=70".into());
        let made = resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap();
        resctrl.remove(&made).unwrap();
        assert_eq!(entries(&dir), "gold");
        // Unless the creation fails at a later step.
        resctrl.undo(&made).unwrap();
        assert_eq!(entries(&dir), "");
    }

    #[test]
    fn a_class_that_is_there_must_have_the_same_schema() {
        let (dir, resctrl) = tree();
        class(&dir, "gold");
        let mut spec = spec(Some("gold"));
        // Zeros, case, spaces and domains that are not named do not matter.
        spec.l3_cache_schema = Some("L3:1=07FF".into());
        spec.mem_bw_schema = Some("MB:0=100; 1=100".into());
        resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap();
        for (l3, mb) in [
            ("L3:0=7fe", "MB:0=100"),
            ("L3:0=7ff", "MB:0=90"),
            ("L3:9=7ff", "MB:0=100"),
            ("L2:0=7ff", "MB:0=100"),
        ] {
            fs::write(dir.path().join("gold/schemata"), DEFAULT).unwrap();
            spec.l3_cache_schema = Some(l3.into());
            spec.mem_bw_schema = Some(mb.into());
            let error = resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("does not match the class \"gold\""),
                "{error}"
            );
            assert_eq!(content(&dir, "gold/schemata"), DEFAULT);
        }
        assert_eq!(entries(&dir), "gold");
    }

    #[test]
    fn lines_are_written_in_the_order_of_the_specification() {
        // Each write replaces the start of a plain file, so the lines get shorter and all can be seen.
        let (dir, resctrl) = tree();
        let mut spec = spec(Some("gold"));
        spec.l3_cache_schema = Some("L3:0=11111111111111111111111111".into());
        spec.mem_bw_schema = Some("MB:0=2222222222222222".into());
        spec.schemata = Some(vec!["L2:0=33333333".into(), "L2:1".into()]);
        resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap();
        let seen = content(&dir, "gold/schemata");
        assert!(
            seen.starts_with("L2:1\n33333333\n2222222\n111111"),
            "{seen}"
        );
    }

    #[test]
    fn a_named_class_without_a_schema_must_be_there() {
        let (dir, resctrl) = tree();
        let error = resctrl
            .prepare(&plan(&spec(Some("gold")), "c1").unwrap())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("linux.intelRdt.closID: there is no class \"gold\""),
            "{error}"
        );
        assert_eq!(entries(&dir), "");
        class(&dir, "gold");
        let made = resctrl
            .prepare(&plan(&spec(Some("gold")), "c1").unwrap())
            .unwrap();
        assert_eq!(content(&dir, "gold/schemata"), DEFAULT);
        resctrl.remove(&made).unwrap();
        assert_eq!(entries(&dir), "gold");
    }

    #[test]
    fn the_default_class() {
        let (dir, resctrl) = tree();
        let made = resctrl
            .prepare(&plan(&spec(Some("/")), "c1").unwrap())
            .unwrap();
        let pid = rustix::process::getpid();
        resctrl.enter(&made, pid).unwrap();
        assert_eq!(content(&dir, "tasks"), format!("{pid}\n"));
        resctrl.remove(&made).unwrap();
        assert_eq!(content(&dir, "schemata"), DEFAULT);
    }

    #[test]
    fn a_monitoring_group_of_its_own() {
        let (dir, resctrl) = tree();
        class(&dir, "gold");
        let mut spec = spec(Some("gold"));
        spec.enable_monitoring = true;
        let rdt = plan(&spec, "c1").unwrap();
        let made = resctrl.prepare(&rdt).unwrap();
        let pid = rustix::process::getpid();
        resctrl.enter(&made, pid).unwrap();
        assert_eq!(content(&dir, "gold/tasks"), format!("{pid}\n"));
        assert_eq!(
            content(&dir, "gold/mon_groups/c1/tasks"),
            format!("{pid}\n")
        );
        // Not twice.
        assert!(resctrl.prepare(&rdt).is_err());
        assert!(dir.path().join("gold/mon_groups/c1").exists());
        resctrl.remove(&made).unwrap();
        assert!(!dir.path().join("gold/mon_groups/c1").exists());
        // A machine without monitoring: the class that was made for it goes again.
        spec.clos_id = None;
        fs::remove_dir(dir.path().join("mon_groups")).unwrap();
        let without = Resctrl {
            root: fs::File::open(dir.path()).unwrap().into(),
            fill: Some(|dir| {
                fill(dir);
                unlinkat(dir, "mon_groups", AtFlags::REMOVEDIR).unwrap();
            }),
        };
        let error = without.prepare(&plan(&spec, "c2").unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(entries(&dir), "gold");
    }

    #[test]
    fn a_class_made_for_a_failed_container_goes_though_it_is_named() {
        let (dir, resctrl) = tree();
        let mut spec = spec(Some("gold"));
        spec.l3_cache_schema = Some("L3:0=1".into());
        let resctrl = Resctrl {
            fill: Some(|dir| {
                fill(dir);
                // The line cannot be written.
                unlinkat(dir, "schemata", AtFlags::empty()).unwrap();
            }),
            ..resctrl
        };
        let error = resctrl.prepare(&plan(&spec, "c1").unwrap()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("linux.intelRdt.l3CacheSchema: "),
            "{error}"
        );
        assert_eq!(entries(&dir), "");
    }

    #[test]
    fn names_and_lines_are_checked_first() {
        for id in ["", ".", "..", "a/b", "/a", "info", "mon_groups", "a\nb"] {
            assert!(plan(&spec(Some(id)), "c1").is_err(), "{id:?}");
        }
        assert!(plan(&spec(None), "info").is_err());
        let mut bad = spec(None);
        bad.mem_bw_schema = Some("L3:0=1".into());
        assert!(plan(&bad, "c1").is_err());
        bad.mem_bw_schema = None;
        bad.schemata = Some(vec!["L3:0=1\nMB:0=1".into()]);
        assert!(plan(&bad, "c1").is_err());
    }

    #[test]
    fn finds_the_mount_point_in_a_mount_table() {
        let table = b"36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw\n\
            40 35 0:31 /gold /part rw - resctrl resctrl rw\n\
            41 35 0:31 / /sys/fs/a\\040b\\134c rw shared:7 - resctrl resctrl rw\n";
        assert_eq!(mount_point(table).unwrap(), b"/sys/fs/a b\\c");
        assert_eq!(mount_point(b"junk\n1 2 3\n - \n"), None);
    }

    #[test]
    fn a_machine_without_resctrl_says_so() {
        let procfs = ProcFs::open().unwrap();
        match Resctrl::find(&procfs) {
            Ok(_) => crate::sys::testing::note_skip(format_args!("resctrl is mounted here")),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unsupported);
                assert!(error.to_string().starts_with("linux.intelRdt: "), "{error}");
            }
        }
    }
}
