//! Everything that a daemon holds, opened in order: what the APIs are views of.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, watch};

use crate::config::{Config, ProxyKind};
use crate::error::{Error, Result};
use crate::image;
use crate::layer::{Differ, Layers, Limits};
use crate::mount::Mounts;
use crate::registry::Registry;
use crate::snapshot::{Driver, Local, Native, Overlayfs, Proxy};
use crate::store::containers::Containers;
use crate::store::content::Content;
use crate::store::database::Database;
use crate::store::events::Log;
use crate::store::gc::{Collector, Removed};
use crate::store::images::Images;
use crate::store::leases::Leases;
use crate::store::namespaces::Namespaces;
use crate::store::sandboxes::Sandboxes;
use crate::task::bundle::Bootstrap;
use crate::task::{Pods, Programs, Tasks};

/// When the collector begins after the daemon has.
const COLLECTOR_START: Duration = Duration::from_millis(100);

/// How long the collector waits for more to come before it begins: clients remove one thing after
/// another, and wait for the answers.
const COLLECTOR_DELAY: Duration = Duration::from_millis(200);

/// How much longer than it works the collector rests.
const COLLECTOR_PAUSE: u32 = 49;

/// After how many events the collector works even where nothing was removed: a label may have been.
const COLLECTOR_CHANGES: u64 = 100;

/// Opens a driver below a directory.
type Open = fn(&Path, &Config) -> Result<Box<dyn Driver>>;

/// The snapshotters, each with the directory that it has below the root.
const SNAPSHOTTERS: [(&str, Open); 2] = [
    ("overlayfs", |dir, config| {
        Ok(Box::new(Overlayfs::open(dir, config.overlayfs.volatile)?))
    }),
    ("native", |dir, _| Ok(Box::new(Native::open(dir)?))),
];

/// One manager, with the directory that everything durable is below.
///
/// ```text
/// ROOT/metadata.db              records and events
/// ROOT/metadata.journal         those of the last moment, which the other file lacks
/// ROOT/uuid                     tells this manager from others, for good
/// ROOT/content/                 blobs
/// ROOT/snapshots/NAME/          what each snapshotter makes
/// STATE/                        what need not survive a restart of the machine: bundles of tasks
/// STATE/mounts/                 what is mounted for clients
/// ```
#[derive(Debug)]
pub struct Manager {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Images.
    pub images: Images,
    /// Containers.
    pub containers: Containers,
    /// Sandboxes.
    pub sandboxes: Sandboxes,
    /// Blobs.
    pub content: Content,
    /// Layers.
    pub layers: Layers,
    /// Programs that unpack and make layers, asked before this one does.
    pub differs: Vec<Differ>,
    /// Places for blobs that are written while they arrive, of all pulls together.
    pub arriving: Arc<Semaphore>,
    /// Places for layers that are read while they arrive.
    pub reading: Arc<Semaphore>,
    /// What is mounted for clients.
    pub mounts: Mounts,
    /// Leases.
    pub leases: Leases,
    /// Running containers.
    pub tasks: Tasks,
    /// Sandboxes that shims hold.
    pub pods: Pods,
    /// What happened.
    pub log: Log,
    /// Connections to registries.
    pub registry: Registry,
    /// Directories of registries' `hosts.toml`.
    pub registry_hosts: Vec<PathBuf>,
    database: Arc<Database>,
    uuid: String,
    places: Places,
    snapshotters: BTreeMap<String, Snapshotter>,
    collector: Mutex<Collector>,
    /// One more than what the database said of untidiness before the last collection.
    tidied: AtomicU64,
    ending: watch::Sender<bool>,
}

/// Where what is durable is, for people to look at.
#[derive(Debug)]
pub struct Places {
    /// The directory of blobs.
    pub content: String,
    /// The file of records.
    pub database: String,
}

/// A snapshotter, with what clients look up of it by name.
#[derive(Debug)]
struct Snapshotter {
    snapshots: Local,
    exports: BTreeMap<String, String>,
}

impl Manager {
    /// Opens what is below the directories, and makes them where they are not there. To be called
    /// where tasks can be started: programs of the configuration are connected to from there.
    ///
    /// # Errors
    /// `Unavailable` where another process has them; `InvalidArgument` for a configuration that
    /// contradicts itself; where the disk fails.
    pub fn open(config: &Config) -> Result<Self> {
        let (root, state) = (&*config.root, &*config.state);
        for dir in [root, state] {
            make_dirs(dir)?;
        }
        let database = Arc::new(Database::open(&root.join("metadata.db"))?);
        let content = Content::open(&root.join("content"), Arc::clone(&database))?;
        let mounts = Mounts::open(&state.join("mounts"), Arc::clone(&database))?;
        let mut snapshotters = BTreeMap::new();
        for (name, open) in SNAPSHOTTERS {
            let dir = root.join("snapshots").join(name);
            let driver = open(&dir, config)?;
            let snapshotter = Snapshotter {
                snapshots: Local::new(Arc::clone(&database), driver),
                exports: [("root".to_owned(), dir.display().to_string())].into(),
            };
            snapshotters.insert(name.to_owned(), snapshotter);
        }
        let uuid = uuid(&root.join("uuid"))?;
        let mut differs = Vec::new();
        for (name, proxy) in &config.proxy_plugins {
            if proxy.kind == ProxyKind::Diff {
                differs.push(Differ::new(name, proxy)?);
                continue;
            }
            let snapshotter = Snapshotter {
                snapshots: Local::far(Arc::clone(&database), Proxy::new(name, &uuid, proxy)?),
                exports: proxy.exports.clone(),
            };
            if snapshotters.insert(name.clone(), snapshotter).is_some() {
                return Err(Error::invalid(format!(
                    "proxy_plugins.{name}: a snapshotter of this name is there already"
                )));
            }
        }
        let collector = Collector::new(
            Arc::clone(&database),
            content.clone(),
            snapshotters
                .values()
                .map(|snapshotter| snapshotter.snapshots.clone())
                .collect(),
            mounts.clone(),
        );
        let (containers, log) = (
            Containers::new(Arc::clone(&database)),
            Log::new(Arc::clone(&database)),
        );
        let programs = Programs::new(config.runtimes.clone());
        Ok(Self {
            pods: Pods::new(state, log.clone(), programs.clone()),
            tasks: Tasks::new(
                state,
                containers.clone(),
                content.clone(),
                log.clone(),
                programs,
            ),
            namespaces: Namespaces::new(Arc::clone(&database)),
            images: Images::new(Arc::clone(&database)),
            containers,
            sandboxes: Sandboxes::new(Arc::clone(&database)),
            layers: Layers::new("/proc/self/exe", Limits::default()),
            differs,
            arriving: Arc::new(Semaphore::new(image::AT_ONCE)),
            reading: Arc::new(Semaphore::new(image::AT_ONCE)),
            leases: Leases::new(Arc::clone(&database)),
            log,
            registry: Registry::default(),
            registry_hosts: config.registry_hosts.clone(),
            database,
            content,
            mounts,
            uuid,
            places: Places {
                content: root.join("content").display().to_string(),
                database: root.join("metadata.db").display().to_string(),
            },
            snapshotters,
            collector: Mutex::new(collector),
            tidied: AtomicU64::new(0),
            ending: watch::Sender::new(false),
        })
    }

    /// A name of this manager that it keeps.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Where what is durable is.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The snapshotter of that name.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none.
    pub fn snapshotter(&self, name: &str) -> Result<&Local> {
        if name.is_empty() {
            return Err(Error::invalid("snapshotter argument missing"));
        }
        let found = self.snapshotters.get(name);
        let found = found.map(|snapshotter| &snapshotter.snapshots);
        found.ok_or_else(|| Error::invalid(format!("snapshotter not loaded: {name}")))
    }

    /// The snapshotters' names, each with what clients look up of it by name.
    pub fn snapshotters(&self) -> impl Iterator<Item = (&str, BTreeMap<String, String>, &Local)> {
        let all = self.snapshotters.iter();
        all.map(|(name, snapshotter)| {
            let Snapshotter { snapshots, exports } = snapshotter;
            (&**name, exports.clone(), snapshots)
        })
    }

    /// The shim that a container's task is to be made in: the one of its sandbox, if it has one that
    /// runs.
    ///
    /// # Errors
    /// `NotFound` without the container.
    pub fn shim_for(&self, namespace: &str, id: &str) -> Result<Option<Bootstrap>> {
        let sandbox = self.containers.get(namespace, id)?.container.sandbox;
        Ok(self.pods.address(namespace, &sandbox).ok())
    }

    /// Removes what nobody refers to as of now; waits for a collection that is under way.
    ///
    /// # Errors
    /// Where the database or the disk fails.
    pub async fn collect(&self) -> Result<Removed> {
        let collector = self.collector.lock().await;
        let untidy = *self.database.untidy().borrow();
        let removed = collector.collect().await?;
        self.tidied.store(untidy + 1, Ordering::Release);
        Ok(removed)
    }

    /// Collects now and then, until the daemon ends: soon after it began, soon after something was
    /// removed, and after many other changes. It takes a fiftieth of the time at most.
    pub async fn keep_tidy(&self) {
        if let Err(error) = self.mounts.recover().await {
            eprintln!("knarrd: mounts of an earlier start: {error}");
        }
        let mut untidy = self.database.untidy();
        let mut news = self.database.newest_event();
        tokio::time::sleep(COLLECTOR_START).await;
        let mut many_changes = false;
        loop {
            let start = Instant::now();
            let left = *untidy.borrow_and_update();
            let seen = *news.borrow_and_update();
            // Somebody may have asked for a collection meanwhile, and count on there being no other.
            if many_changes || self.tidied.load(Ordering::Acquire) <= left {
                for done in [self.collect().await.map(|_| ()), self.log.trim().await] {
                    if let Err(error) = done {
                        eprintln!("knarrd: garbage collection: {error}");
                    }
                }
            }
            tokio::time::sleep(start.elapsed() * COLLECTOR_PAUSE).await;
            many_changes = tokio::select! {
                _ = untidy.changed() => false,
                _ = news.wait_for(|newest| *newest >= seen + COLLECTOR_CHANGES) => true,
                () = self.ended() => return,
            };
            tokio::time::sleep(COLLECTOR_DELAY).await;
        }
    }

    /// Ends what would go on for ever: followers of events.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Tells when [`Manager::end`] was called.
    pub async fn ended(&self) {
        // The sender is here: this does not fail.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }
}

/// Makes directories that others may pass through and not look into.
///
/// # Errors
/// Where the disk fails.
pub fn make_dirs(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|error| Error::io(dir.display(), &error))
}

/// What is in the file, or a new name that is in it from now on.
fn uuid(path: &Path) -> Result<String> {
    let broken = |error| Error::io(path.display(), &error);
    match fs::read_to_string(path) {
        Ok(text) if text.trim().len() == 36 => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(broken(error)),
        _ => {}
    }
    let uuid = new_uuid()?;
    let new = path.with_extension("new");
    fs::write(&new, &uuid).map_err(broken)?;
    fs::rename(&new, path).map_err(broken)?;
    Ok(uuid)
}

/// A random UUID. RFC 9562, version 4.
///
/// # Errors
/// Where the kernel's file can't be read.
pub fn new_uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            root: dir.path().join("root"),
            state: dir.path().join("state"),
            ..Config::default()
        };
        let open = || Manager::open(&config).unwrap();
        let first = open().uuid().to_owned();
        assert_eq!(first.len(), 36);
        assert_eq!(open().uuid(), first);
    }
}
