//! restore: a container made from the images of a checkpoint.
//!
//! The state directory, cgroups and descriptors are made as by create; the process, its namespaces
//! and mounts by criu. criu starts in the container's cgroups, so that what it makes is born there,
//! and in a mount namespace of its own, so that nothing of the root it builds in is left behind.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;

use super::checkpoint::{self, Dirs, EXTERNAL_NAMESPACES, RestoreOptions, inherited_streams};
use super::create::{self, Bundle, Undo};
use super::record::Record;
use super::state::Status;
use super::store::{CONFIG, STATE, Store};
use super::{Child, Container, run};
use crate::cgroup;
use crate::criu::{self, Criu, Inherit, Opts, Request, Step};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::intel_rdt::{self, Resctrl};
use crate::namespaces::{self, Entered, Namespaces};
use crate::process::procfs::ProcFs;
use crate::process::sysctl::{self, OwnNamespaces};
use crate::rootfs::{self, RootfsPlan};
use crate::spec::Spec;
use crate::spec::linux::Linux;
use crate::spec::resources::Resources;
use crate::sys::clone::flags;
use crate::{hooks, network, notify, proc, protect};

impl Container {
    /// Makes a container from images; waits for its end unless detached. Returns the exit code
    /// of the process, 0 when detached, and warnings.
    ///
    /// # Errors
    /// As [`Container::create`], and what criu fails with; nothing is left then.
    pub fn restore(root: &Path, options: &RestoreOptions) -> Result<(i32, Vec<String>)> {
        let signals = run::prepare_to_wait(&options.run)?;
        let made = make(root, options, options.run.detach)?;
        let (Some(signals), Some(pidfd)) = (signals, made.init) else {
            return Ok((0, made.warnings));
        };
        run::until_end(
            (root, &options.create.id),
            pidfd.as_fd(),
            &signals,
            made.console.as_ref(),
            options.run.keep,
            made.warnings,
        )
    }

    /// Makes a container from images for a caller that stays with its process, as
    /// [`Container::create_child`]. The caller must be a subreaper (prctl(2)): the process is its
    /// child once criu has ended.
    ///
    /// # Errors
    /// As [`Container::restore`].
    pub fn restore_child(root: &Path, options: &RestoreOptions) -> Result<(Container, Child)> {
        let made = make(root, options, false)?;
        let container = Container {
            root: root.to_owned(),
            id: options.create.id.clone(),
            warnings: Vec::new(),
        };
        let child = Child {
            pid: made.pid,
            console: made.console,
            warnings: made.warnings,
        };
        Ok((container, child))
    }
}

/// What came of a restore.
struct Made {
    pid: i32,
    /// The process.
    init: Option<OwnedFd>,
    /// The terminal's master, where nobody else got it.
    console: Option<OwnedFd>,
    warnings: Vec<String>,
}

fn make(root: &Path, options: &RestoreOptions, detach: bool) -> Result<Made> {
    protect::require()?;
    protect::let_go();
    proc::require_one_thread()?;
    let mut create = options.create.clone();
    create.detach = detach;
    super::store::check_id(&create.id)?;
    let bundle = Bundle::read(&create)?;
    let host = Host::new();
    let (spec, warnings) = bundle.spec(&create, &host)?;
    create::check_console(&spec, &create)?;
    let program = criu::find()?;
    let store = Store::create(root, &create.id)?;
    let mut undo = Undo::default();
    let mut restore = Restore {
        options,
        root,
        create: &create,
        bundle: &bundle,
        spec: &spec,
        store: &store,
        program: &program,
        record: create::record(&create, &host, &bundle, &spec),
        console: None,
    };
    if let Err(error) = restore.steps(&mut undo) {
        return Err(undo.undo(&store).into_iter().fold(error, Error::and_also));
    }
    let Restore {
        console, record, ..
    } = restore;
    store.unlock();
    Ok(Made {
        pid: record.pid,
        init: undo.init.take(),
        console,
        warnings,
    })
}

struct Restore<'a> {
    options: &'a RestoreOptions,
    root: &'a Path,
    create: &'a super::CreateOptions,
    bundle: &'a Bundle,
    spec: &'a Spec<'a>,
    store: &'a Store,
    program: &'a Path,
    record: Record,
    /// The terminal's master, where nobody else got it.
    console: Option<OwnedFd>,
}

impl Restore<'_> {
    fn steps(&mut self, undo: &mut Undo) -> Result<()> {
        let spec = self.spec;
        let default_linux = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&default_linux);
        let namespaces = Namespaces::open(linux)?;
        self.record.namespaces = namespaces.all();
        self.record.private_pid = namespaces.make & flags::NEWPID != 0;
        let layout = rootfs::plan(spec, &self.bundle.path)?;
        self.record.rootfs = layout.rootfs.display().to_string();
        let rdt = linux
            .intel_rdt
            .as_ref()
            .map(|rdt| intel_rdt::plan(rdt, &self.create.id))
            .transpose()?;
        let request = cgroup::Request {
            id: &self.create.id,
            cgroups_path: &linux.cgroups_path,
            driver: self.create.cgroup,
            rootless: self
                .create
                .rootless
                .unwrap_or_else(|| Host::new().rootless()),
            annotations: &spec.annotations,
        };
        let mut cgroup = cgroup::manager(&request)?;
        self.record.cgroup = cgroup.planned();
        self.store.write(STATE, &self.record.to_json()?)?;
        let default_resources = Resources::default();
        cgroup.create(linux.resources.as_ref().unwrap_or(&default_resources))?;
        let cgroup = undo.cgroup.insert(cgroup);
        // From here on the cgroup is the container's, as in create.
        self.store.write_first(CONFIG, &self.bundle.text)?;

        let into = cgroup.clone_into()?;
        let mut private = Entered::default();
        private.make(flags::NEWNS)?;
        rootfs::prepare_restore(&layout)?;
        // criu mounts in its directories, so they have to be opened where it lives.
        let (dirs, mut opts) = self.options.criu.open(spec, "restore.log")?;
        let kept = self.namespaces(linux, &namespaces, &mut opts);
        let inherit = Inherit {
            cgroup: into.as_ref().map(AsFd::as_fd),
            fds: &kept,
        };
        let mut criu = Criu::new(self.program, inherit)?;
        private.leave()?;
        if into.is_none() {
            cgroup.attach(criu.pid.cast_unsigned())?;
        }
        if cgroup::owner_changes(spec) {
            let uid = spec.process.as_ref().map_or(0, |process| process.user.uid);
            cgroup.delegate(namespaces.host_uid(uid))?;
        }
        self.record.cgroup = cgroup.record();
        if let Some(plan) = rdt {
            // What criu makes is born in its group.
            let process = Pid::from_raw(criu.pid)
                .ok_or_else(|| Error::new(Kind::System, "criu has no pid"))?;
            let resctrl = Resctrl::find(&ProcFs::open()?)?;
            let made = resctrl.prepare(&plan)?;
            self.record.rdt = Some(made.clone());
            let (resctrl, made) = undo.rdt.insert((resctrl, made));
            resctrl.enter(made, process)?;
        }
        self.complete(&layout, criu.pid, &dirs, &mut opts)?;
        let result = criu.call(Request::Restore, &opts, &dirs.log, &mut |step| {
            self.at_step(step, undo)
        });
        // Its end frees the cgroup for removal, should something have failed.
        drop(criu);
        result?;
        if !self.record.ready {
            return Err(Error::new(
                Kind::System,
                "criu restore ended without telling of the restored process",
            ));
        }
        Ok(())
    }

    /// Tells criu which namespaces are not to be made anew; returns what it has to inherit.
    fn namespaces<'n>(
        &self,
        linux: &Linux<'_>,
        namespaces: &'n Namespaces,
        opts: &mut Opts,
    ) -> Vec<BorrowedFd<'n>> {
        let mut kept = Vec::new();
        let mut fds: HashMap<u64, BorrowedFd<'n>> = namespaces
            .join
            .iter()
            .map(|(flag, fd)| (*flag, fd.as_fd()))
            .collect();
        for namespace in &linux.namespaces {
            if namespace.path.is_empty() {
                continue;
            }
            let kind = namespace.kind.as_str();
            let external = EXTERNAL_NAMESPACES.iter().find(|(name, ..)| *name == kind);
            let Some((_, name, flag)) = namespaces::KINDS.iter().find(|(name, ..)| *name == kind)
            else {
                continue;
            };
            match external {
                Some((_, _, key)) => {
                    if let Some(fd) = fds.remove(flag) {
                        opts.inherit_fds.push(((*key).to_owned(), fd.as_raw_fd()));
                        kept.push(fd);
                    }
                }
                // criu makes these two whatever is asked for, with what they showed before.
                None if matches!(kind, "mount" | "cgroup") => {}
                None => {
                    let path = namespace.path.to_string();
                    opts.join_namespaces.push(((*name).to_owned(), path));
                }
            }
        }
        kept
    }

    /// Adds what a restore needs beyond the common options.
    fn complete(
        &self,
        layout: &RootfsPlan<'_>,
        criu: i32,
        dirs: &Dirs,
        opts: &mut Opts,
    ) -> Result<()> {
        let path = format!("/proc/{criu}/cgroup");
        let cgroups = std::fs::read_to_string(&path).context(|| format!("read({path})"))?;
        for line in cgroups.lines() {
            let Some((controllers, cgroup)) = line
                .split_once(':')
                .and_then(|(_, rest)| rest.split_once(':'))
            else {
                continue;
            };
            for controller in controllers.split(',') {
                opts.cgroup_roots
                    .push((controller.to_owned(), cgroup.to_owned()));
            }
        }
        opts.external_mounts = rootfs::external_sources(layout, &cgroups)?;
        // Who waited for the container's word has had it, so nobody listens there again; but the
        // mount is restored.
        notify::prepare(self.store.as_fd())?;
        let directory = self.root.join(&self.create.id).join(notify::DIRECTORY);
        opts.external_mounts.push((
            notify::INSIDE_DIRECTORY.to_owned(),
            directory.to_string_lossy().into_owned(),
        ));
        opts.inherit_fds.extend(inherited_streams(&dirs.images)?);
        opts.root.clone_from(&self.record.rootfs);
        opts.sibling = true;
        // Devices of another file system with the same numbers will do.
        opts.evasive_devices = true;
        opts.tcp_close = self.options.tcp_close;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        opts.lsm_profile = text(&self.options.lsm_profile);
        opts.lsm_mount_context = text(&self.options.lsm_mount_context);
        Ok(())
    }

    fn at_step(&mut self, step: Step, undo: &mut Undo) -> Result<()> {
        match (step.name.as_str(), step.fd) {
            // The namespaces are there, their contents are not: the place of the runtime's hooks.
            ("setup-namespaces", _) => self.set_up(step.pid, undo),
            ("orphan-pts-master", Some(master)) => {
                match &self.create.console_socket {
                    Some(socket) => create::send_console(socket, master.as_fd())?,
                    None => self.console = Some(master),
                }
                Ok(())
            }
            // Everything is restored and stands still until this is answered.
            ("post-restore", _) => self.restored(step.pid, undo),
            _ => Ok(()),
        }
    }

    /// Sets up what the images do not bring, with the hooks that do the same for a new container.
    fn set_up(&mut self, pid: i32, undo: &mut Undo) -> Result<()> {
        let default_linux = Linux::default();
        let linux = self.spec.linux.as_ref().unwrap_or(&default_linux);
        let network = checkpoint::own_network(linux)
            .then(|| {
                let path = format!("/proc/{pid}/ns/net");
                openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .context(|| format!("open({path})"))
            })
            .transpose()?;
        if let Some(network) = &network {
            let mut inside = Entered::default();
            inside.join(flags::NEWNET, network.as_fd())?;
            network::loopback::up()?;
            inside.leave()?;
            if !linux.net_devices.is_empty() {
                let devices = network::devices::plan(&linux.net_devices, true)?;
                undo.devices = Some(network::devices::move_into(&devices, network.as_fd())?);
            }
        }
        if let Some(hooks) = &self.spec.hooks {
            let state = self.record.hooks_state(Status::Creating, pid);
            let prestart = hooks::plan(&hooks.prestart, "hooks.prestart")?;
            hooks::run(&prestart, &state, &self.record.bundle)?;
            hooks::run(
                &hooks::plan(&hooks.create_runtime, "hooks.createRuntime")?,
                &state,
                &self.record.bundle,
            )?;
        }
        if let Some(network) = &network {
            // criu restores those of other namespaces.
            let own = OwnNamespaces {
                network: true,
                ..OwnNamespaces::default()
            };
            let sysctls = linux
                .sysctl
                .iter()
                .filter(|(key, _)| key.starts_with("net.") || key.starts_with("net/"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let sysctls = sysctl::plan(&sysctls, own)?;
            let procfs = ProcFs::open()?;
            let mut inside = Entered::default();
            inside.join(flags::NEWNET, network.as_fd())?;
            sysctl::apply(&sysctls, &procfs)?;
            inside.leave()?;
        }
        Ok(())
    }

    fn restored(&mut self, pid: i32, undo: &mut Undo) -> Result<()> {
        let pidfd = super::wait::open(pid)?;
        if let Some(socket) = &self.create.pidfd_socket {
            create::send_pidfd(socket, pidfd.as_fd())?;
        }
        undo.init = Some(pidfd);
        if let Some(path) = &self.create.pid_file {
            undo.pid_file = Some(path.clone());
            create::write_pid_file(path, pid)?;
        }
        self.record.pid = pid;
        self.record.start_time = proc::identity(pid)?.map_or(0, |identity| identity.start_time);
        self.record.ready = true;
        self.store.write(STATE, &self.record.to_json()?)
    }
}
