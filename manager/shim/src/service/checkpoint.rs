//! Checkpoint, and containers that begin as one. criu does both, for the runtime.

use knarr_proto::containerd::runc::v1::{CheckpointOptions as Asked, Options};
use knarr_runtime::container::checkpoint::{
    CgroupMode, CheckpointOptions, CriuOptions, RestoreOptions,
};

use super::*;

/// A container that start will restore.
#[derive(Debug)]
pub struct Saved {
    images: PathBuf,
    options: Options,
}

impl Shim {
    pub(super) fn save(&mut self, request: &CheckpointTaskRequest) -> Result<(), Status> {
        let task = self.task(&request.id)?;
        let asked: Asked = match &request.options {
            Some(options) if any::is::<Asked>(options) => any::unpack(options)
                .map_err(|error| Status::new(Code::InvalidArgument, format!("options: {error}")))?,
            _ => Asked::default(),
        };
        let mode = match asked.cgroups_mode.as_str() {
            "" => None,
            "soft" => Some(CgroupMode::Soft),
            "full" => Some(CgroupMode::Full),
            "strict" => Some(CgroupMode::Strict),
            "ignore" => Some(CgroupMode::Ignore),
            other => {
                let message =
                    format!("cgroups_mode {other:?}: soft, full, strict and ignore exist");
                return Err(Status::new(Code::InvalidArgument, message));
            }
        };
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let options = CheckpointOptions {
            criu: CriuOptions {
                image_path: PathBuf::from(&request.path),
                work_path: path(&asked.work_path).or_else(|| work_path(&task.bundle)),
                tcp_established: asked.open_tcp,
                ext_unix_sk: asked.external_unix_sockets,
                shell_job: asked.terminal,
                file_locks: asked.file_locks,
                cgroup_mode: mode,
                ..CriuOptions::default()
            },
            parent_path: path(&asked.parent_path),
            leave_running: !asked.exit,
            ..CheckpointOptions::default()
        };
        let warnings = task
            .container
            .checkpoint(&options)
            .map_err(|error| refused("checkpoint", error))?;
        for warning in warnings {
            complain!("warning: {warning}");
        }
        Ok(())
    }

    /// A task of which there is nothing but the images yet.
    pub(super) fn saved(
        request: &CreateTaskRequest,
        bundle: PathBuf,
        root: &Path,
        options: Options,
    ) -> Task {
        Task {
            container: Container {
                root: root.to_owned(),
                id: request.id.clone(),
                warnings: Vec::new(),
            },
            bundle,
            init: Process {
                paths: paths(request),
                ..Process::default()
            },
            execs: BTreeMap::new(),
            paused: false,
            oom: None,
            saved: Some(Saved {
                images: PathBuf::from(&request.checkpoint),
                options,
            }),
        }
    }

    /// Restores it; the process runs then.
    pub(super) fn restore(&mut self, id: &str) -> Result<(), Status> {
        let task = self.task(id)?;
        let Some(saved) = task.saved.take() else {
            return Ok(());
        };
        let path = &saved.options.criu_work_path;
        let options = RestoreOptions {
            criu: CriuOptions {
                image_path: saved.images.clone(),
                work_path: match path.as_str() {
                    "" => work_path(&task.bundle),
                    path => Some(path.into()),
                },
                ..CriuOptions::default()
            },
            create: create_options(id, &task.bundle, &saved.options),
            ..RestoreOptions::default()
        };
        let (root, paths) = (task.container.root.clone(), task.init.paths.clone());
        let owner = Owner {
            id,
            namespace: &self.namespace,
            uid: saved.options.io_uid,
            gid: saved.options.io_gid,
        };
        let mut streams = stdio::open_streams(&paths, owner)?;
        let made = self.with_streams(&streams, || Container::restore_child(&root, &options));
        let (_, child) = made.map_err(|error| refused("restore", error))?;
        let Some(mut task) = self.tasks.remove(id) else {
            return Err(unknown(id, ""));
        };
        let mut init = std::mem::take(&mut task.init);
        self.adopt(&mut init, child, &mut streams);
        task.init = init;
        self.watch_oom(&mut task);
        self.tasks.insert(id.to_owned(), task);
        Ok(())
    }
}

/// Where containerd keeps what is no part of the images.
fn work_path(bundle: &Path) -> Option<PathBuf> {
    let work = bundle.join("work");
    work.is_dir().then_some(work)
}
