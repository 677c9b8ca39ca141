//! The collector: removes what nobody refers to, while everybody works on.
//!
//! Roots are images, containers, sandboxes, leases, and what a label makes one. From them
//! references are followed: an image's target, a container's snapshot, a snapshot's parent, and
//! those that labels name. Labels that clients set:
//!
//! ```text
//! containerd.io/gc.root                     keep this, whoever refers to it
//! containerd.io/gc.expire                   remove this after that time (RFC 3339): leases, images
//! containerd.io/gc.flat                     a lease keeps what it names, not what that refers to
//! containerd.io/gc.ref.content[.…]          refers to a blob
//! containerd.io/gc.ref.snapshot.NAME[/…]    refers to a snapshot of that snapshotter
//! containerd.io/gc.ref.image[.…]            refers to an image
//! containerd.io/gc.bref.{content,image,container,snapshot.NAME}[.…]   that refers to this
//! ```
//!
//! A collection holds up nobody: it looks at a few rows at a time, and not all looks are at the same
//! commit of the database. What is written meanwhile is noted, and counts as referred to, with all
//! that it refers to; what is not written is the same in every look. Rows are removed some at a time,
//! each time with regard to what was noted until then, so that no reference is ever left that leads
//! nowhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost_types::Timestamp;

use super::content::{self, Content};
use super::database::{Database, Look, Notes, Steps, Write, now};
use super::name::Labels;
use super::schema::{
    Activation, BLOBS, Blob, CONTAINERS, Container, IMAGES, INGESTS, Image, Ingest,
    LEASE_RESOURCES, LEASES, Lease, MOUNTS, SANDBOXES, SNAPSHOTS, Sandbox, Snapshot, decode,
};
use super::{images, leases};
use crate::error::{Code, Error, Result};
use crate::mount::{self, Mounts};
use crate::snapshot::Local;

/// How long rows are removed at once: other changes wait as long as that takes.
const STEP: Duration = Duration::from_millis(2);

/// How many rows are removed at once at most.
const ROWS: usize = 100;

/// How long half a blob is kept that no lease keeps, in nanoseconds: a day.
const INGEST_AGE: i64 = 24 * 3600 * 1_000_000_000;

const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
const FLAT: &str = "containerd.io/gc.flat";
const REFERENCE: &str = "containerd.io/gc.ref.";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs, each as often as a namespace knew it.
    pub blobs: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Images that had expired.
    pub images: usize,
    /// Leases that had expired.
    pub leases: usize,
    /// Blobs that nobody went on writing.
    pub ingests: usize,
    /// Mounts.
    pub mounts: usize,
}

/// An object that can refer or be referred to. Its namespace comes first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Object {
    Blob(String, String),
    Snapshot(String, String, String),
    Image(String, String),
    Container(String, String),
    Ingest(String, String),
    Lease(String, String),
    Mount(String, String),
}

/// Removes what nobody refers to.
#[derive(Debug, Clone)]
pub struct Collector {
    database: Arc<Database>,
    content: Content,
    snapshots: Vec<Local>,
    mounts: Mounts,
}

impl Collector {
    /// A collector of these blobs, snapshots and mounts.
    #[must_use]
    pub fn new(
        database: Arc<Database>,
        content: Content,
        snapshots: Vec<Local>,
        mounts: Mounts,
    ) -> Self {
        Self {
            database,
            content,
            snapshots,
            mounts,
        }
    }

    /// Collects once. Files and directories of what is removed go as well, and those that a crash
    /// has left.
    ///
    /// # Errors
    /// `Unavailable` while another collection is under way; where the database or the disk fails.
    pub async fn collect(&self) -> Result<Removed> {
        let notes = self
            .database
            .note_writes()
            .ok_or_else(|| Error::new(Code::Unavailable, "another collection is under way"))?;
        // A change that was under way before it would be noted can be seen after this one.
        self.database.write_soon(|_| Ok(())).await?;
        let database = Arc::clone(&self.database);
        let looked = tokio::task::spawn_blocking(move || Marked::look(&Steps::new(&database)));
        let mut marked = looked
            .await
            .map_err(|_| Error::internal("the collector panicked"))??;
        let mut removed = Removed::default();
        let mut candidates = std::mem::take(&mut marked.candidates);
        let shared = Arc::new(Mutex::new((marked, notes)));
        while !candidates.is_empty() {
            let step = candidates.split_off(candidates.len().saturating_sub(ROWS));
            let step = Arc::new(step);
            let (job_step, shared) = (Arc::clone(&step), Arc::clone(&shared));
            let job = move |write: &Write| {
                let start = Instant::now();
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let (marked, notes) = &mut *shared;
                marked.catch_up(write, notes)?;
                let (mut removed, mut left) = (Removed::default(), job_step.len());
                // Nearest to the end first: a snapshot before its parent.
                for object in job_step.iter().rev() {
                    if !marked.live.contains(object) {
                        // Its file goes.
                        write.settles();
                        remove(write, object, &mut removed)?;
                    }
                    left -= 1;
                    if start.elapsed() > STEP {
                        break;
                    }
                }
                Ok((removed, left))
            };
            let (some, left) = self.database.write_soon(job).await?;
            candidates.extend(step.iter().take(left).cloned());
            removed.blobs += some.blobs;
            removed.snapshots += some.snapshots;
            removed.images += some.images;
            removed.leases += some.leases;
            removed.ingests += some.ingests;
            removed.mounts += some.mounts;
        }
        // A mount may be of a snapshot.
        self.mounts.clean_up().await?;
        self.content.clean_up().await?;
        for snapshots in &self.snapshots {
            snapshots.tidy().await?;
        }
        Ok(removed)
    }
}

/// Removes the row of one object.
fn remove(write: &Write, object: &Object, removed: &mut Removed) -> Result<()> {
    match object {
        Object::Blob(space, digest) => {
            removed.blobs += usize::from(content::remove(write, space, digest)?);
        }
        Object::Snapshot(space, driver, key) => {
            let row: Option<Snapshot> = write.get(SNAPSHOTS, (&**space, &**driver, &**key))?;
            if let Some(row) = row {
                Local::forget(write, space, driver, key, &row.parent)?;
                removed.snapshots += 1;
            }
        }
        Object::Image(space, name) => {
            removed.images += usize::from(images::remove(write, space, name)?);
        }
        Object::Ingest(space, reference) => {
            removed.ingests += usize::from(write.remove(INGESTS, (&**space, &**reference))?);
        }
        Object::Lease(space, id) => {
            removed.leases += usize::from(leases::remove(write, space, id)?);
        }
        Object::Mount(space, name) => {
            removed.mounts += usize::from(mount::remove(write, space, name)?);
        }
        Object::Container(..) => {}
    }
    Ok(())
}

/// What is referred to, and what is perhaps not.
#[derive(Debug, Default)]
struct Marked {
    live: HashSet<Object>,
    /// What a label says that it is referred to by.
    back: HashMap<Object, Vec<Object>>,
    /// What can be removed if it is not live: the first to be removed is the last.
    candidates: Vec<Object>,
    time: i64,
}

impl Marked {
    fn look(read: &impl Look) -> Result<Self> {
        let mut this = Self {
            time: now(),
            ..Self::default()
        };
        let mut roots = Vec::new();
        let mut snapshots = HashMap::new();
        this.all(read, &mut roots, &mut snapshots)?;
        for root in roots {
            this.follow(read, root)?;
        }
        this.leases(read)?;
        this.candidates.extend(parents_first(snapshots));
        let live = &this.live;
        this.candidates.retain(|object| !live.contains(object));
        Ok(this)
    }

    /// Goes through all objects: collects candidates and back references, and finds roots.
    fn all(
        &mut self,
        read: &impl Look,
        roots: &mut Vec<Object>,
        snapshots: &mut HashMap<Object, Option<Object>>,
    ) -> Result<()> {
        read.rows(IMAGES, ("", ""), |(space, name), bytes| {
            let row: Image = decode(bytes, || format!("image {name}"))?;
            let object = Object::Image(space.to_owned(), name.to_owned());
            self.referred_by(space, &row.labels, &object);
            match expired(&row.labels, self.time) {
                true => self.candidates.push(object),
                false => roots.push(object),
            }
            Ok(true)
        })?;
        read.rows(CONTAINERS, ("", ""), |(space, id), _| {
            roots.push(Object::Container(space.to_owned(), id.to_owned()));
            Ok(true)
        })?;
        read.rows(LEASES, ("", ""), |(space, id), bytes| {
            let row: Lease = decode(bytes, || format!("lease {id}"))?;
            if expired(&row.labels, self.time) {
                let object = Object::Lease(space.to_owned(), id.to_owned());
                self.candidates.push(object);
            }
            Ok(true)
        })?;
        read.rows(SANDBOXES, ("", ""), |(space, id), bytes| {
            let row: Sandbox = decode(bytes, || format!("sandbox {id}"))?;
            roots.extend(references(space, &row.labels));
            Ok(true)
        })?;
        read.rows(INGESTS, ("", ""), |(space, reference), bytes| {
            let row: Ingest = decode(bytes, || format!("ingest {reference}"))?;
            if row.started < self.time - INGEST_AGE {
                let object = Object::Ingest(space.to_owned(), reference.to_owned());
                self.candidates.push(object);
            }
            Ok(true)
        })?;
        read.rows(MOUNTS, ("", ""), |(space, name), bytes| {
            let row: Activation = decode(bytes, || format!("mount {name}"))?;
            let object = Object::Mount(space.to_owned(), name.to_owned());
            self.referred_by(space, &row.labels, &object);
            self.candidates.push(object);
            Ok(true)
        })?;
        read.rows(BLOBS, ("", ""), |(space, digest), bytes| {
            let row: Blob = decode(bytes, || format!("content {digest}"))?;
            let object = Object::Blob(space.to_owned(), digest.to_owned());
            self.referred_by(space, &row.labels, &object);
            match row.labels.contains_key(ROOT) {
                true => roots.push(object),
                false => self.candidates.push(object),
            }
            Ok(true)
        })?;
        read.rows(SNAPSHOTS, ("", "", ""), |(space, driver, key), bytes| {
            let row: Snapshot = decode(bytes, || format!("snapshot {key}"))?;
            let object = Object::Snapshot(space.to_owned(), driver.to_owned(), key.to_owned());
            self.referred_by(space, &row.labels, &object);
            match row.labels.contains_key(ROOT) {
                true => roots.push(object),
                false => {
                    let parent = Some(row.parent).filter(|parent| !parent.is_empty());
                    let parent = parent.map(|parent| {
                        Object::Snapshot(space.to_owned(), driver.to_owned(), parent)
                    });
                    snapshots.insert(object, parent);
                }
            }
            Ok(true)
        })
    }

    fn leases(&mut self, read: &impl Look) -> Result<()> {
        let mut kept = Vec::new();
        read.rows(
            LEASE_RESOURCES,
            ("", "", "", ""),
            |(space, lease, kind, id), ()| {
                kept.push([space, lease, kind, id].map(str::to_owned));
                Ok(true)
            },
        )?;
        for [space, lease, kind, id] in kept {
            self.lease_keeps(read, &space, &lease, &kind, &id)?;
        }
        Ok(())
    }

    fn lease_keeps(
        &mut self,
        look: &impl Look,
        space: &str,
        lease: &str,
        kind: &str,
        id: &str,
    ) -> Result<()> {
        let row: Option<Lease> = look.get(LEASES, (space, lease))?;
        let Some(row) = row.filter(|row| !expired(&row.labels, self.time)) else {
            return Ok(());
        };
        let (space, id) = (space.to_owned(), id.to_owned());
        let object = match kind {
            "content" => Object::Blob(space, id),
            "ingests" => Object::Ingest(space, id),
            "images" => Object::Image(space, id),
            mount::RESOURCE => Object::Mount(space, id),
            kind => match kind.strip_prefix("snapshots/") {
                Some(driver) => Object::Snapshot(space, driver.to_owned(), id),
                None => return Ok(()),
            },
        };
        if !row.labels.contains_key(FLAT) {
            return self.follow(look, object);
        }
        // A snapshot can't be without its parents, however flat the lease.
        match object {
            Object::Snapshot(..) => self.follow(look, object),
            object => {
                self.live.insert(object);
                Ok(())
            }
        }
    }

    /// Marks an object and everything that it refers to.
    fn follow(&mut self, look: &impl Look, first: Object) -> Result<()> {
        let mut todo = vec![first];
        while let Some(object) = todo.pop() {
            if self.live.contains(&object) {
                continue;
            }
            refers_to(look, &object, &mut todo)?;
            todo.extend(self.back.get(&object).cloned().unwrap_or_default());
            self.live.insert(object);
        }
        Ok(())
    }

    /// Marks what was written since the collection began, and what that refers to.
    fn catch_up(&mut self, write: &Write, notes: &Notes) -> Result<()> {
        for row in notes.take(write) {
            if let Some((space, name)) = row.key_in(BLOBS) {
                self.renew(write, Object::Blob(space.to_owned(), name.to_owned()))?;
            } else if let Some((space, driver, key)) = row.key_in(SNAPSHOTS) {
                let (driver, key) = (driver.to_owned(), key.to_owned());
                self.renew(write, Object::Snapshot(space.to_owned(), driver, key))?;
            } else if let Some((space, name)) = row.key_in(IMAGES) {
                self.renew(write, Object::Image(space.to_owned(), name.to_owned()))?;
            } else if let Some((space, id)) = row.key_in(CONTAINERS) {
                self.renew(write, Object::Container(space.to_owned(), id.to_owned()))?;
            } else if let Some((space, name)) = row.key_in(MOUNTS) {
                self.renew(write, Object::Mount(space.to_owned(), name.to_owned()))?;
            } else if let Some((space, reference)) = row.key_in(INGESTS) {
                self.renew(
                    write,
                    Object::Ingest(space.to_owned(), reference.to_owned()),
                )?;
            } else if let Some((space, id)) = row.key_in(SANDBOXES) {
                let row: Option<Sandbox> = write.get(SANDBOXES, (space, id))?;
                for object in references(space, &row.unwrap_or_default().labels) {
                    self.follow(write, object)?;
                }
            } else if let Some((space, lease, kind, id)) = row.key_in(LEASE_RESOURCES) {
                self.lease_keeps(write, space, lease, kind, id)?;
            } else if let Some((space, id)) = row.key_in(LEASES) {
                self.live
                    .insert(Object::Lease(space.to_owned(), id.to_owned()));
                // It may have become one that does not expire, or is not flat.
                let mut kept = Vec::new();
                write.rows(
                    LEASE_RESOURCES,
                    (space, id, "", ""),
                    |(s, l, kind, id_of), ()| {
                        let own = (s, l) == (space, id);
                        if own {
                            kept.push((kind.to_owned(), id_of.to_owned()));
                        }
                        Ok(own)
                    },
                )?;
                for (kind, what) in kept {
                    self.lease_keeps(write, space, id, &kind, &what)?;
                }
            }
        }
        Ok(())
    }

    /// Marks an object whose references may have changed since it was marked.
    fn renew(&mut self, write: &Write, object: Object) -> Result<()> {
        self.live.remove(&object);
        self.follow(write, object)
    }

    fn referred_by(&mut self, space: &str, labels: &Labels, object: &Object) {
        for (label, value) in labels {
            if let Some(kind) = label.strip_prefix(BACK_REFERENCE) {
                let by = match kind_of(kind) {
                    Some(("container", _)) => Object::Container(space.to_owned(), value.clone()),
                    _ => match named(space, kind, value) {
                        Some(by) => by,
                        None => continue,
                    },
                };
                self.back.entry(by).or_default().push(object.clone());
            }
        }
    }
}

/// Snapshots, each with its parent, in an order in which a parent comes before its children.
fn parents_first(snapshots: HashMap<Object, Option<Object>>) -> Vec<Object> {
    let mut depths: HashMap<&Object, usize> = HashMap::new();
    for mut object in snapshots.keys() {
        let mut path = Vec::new();
        let mut depth = loop {
            if let Some(known) = depths.get(object) {
                break *known;
            }
            path.push(object);
            match snapshots.get(object) {
                Some(Some(parent)) if path.len() <= snapshots.len() => object = parent,
                _ => break 0,
            }
        };
        for object in path.into_iter().rev() {
            depth += 1;
            depths.insert(object, depth);
        }
    }
    let mut order: Vec<(usize, Object)> = snapshots
        .keys()
        .map(|object| (depths.get(object).copied().unwrap_or(0), object.clone()))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, object)| object).collect()
}

/// Whether a label says that the time of an object is over. A time that is none keeps it.
fn expired(labels: &Labels, time: i64) -> bool {
    let end = labels
        .get(EXPIRE)
        .and_then(|end| end.parse::<Timestamp>().ok());
    end.is_some_and(|end| {
        let nanoseconds = i64::from(end.nanos);
        end.seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds)
            < time
    })
}

/// The kind that a label names, and what follows.
fn kind_of(label: &str) -> Option<(&str, &str)> {
    ["content", "image", "container", "snapshot"]
        .into_iter()
        .find_map(|kind| {
            let rest = label.strip_prefix(kind)?;
            (rest.is_empty() || rest.starts_with(['.', '/'])).then_some((kind, rest))
        })
}

/// The object that a label names.
fn named(space: &str, label: &str, value: &str) -> Option<Object> {
    let space = space.to_owned();
    match kind_of(label)? {
        ("content", _) => Some(Object::Blob(space, value.to_owned())),
        ("image", _) => Some(Object::Image(space, value.to_owned())),
        ("snapshot", rest) => {
            let driver = rest.strip_prefix('.')?;
            let driver = driver.split_once('/').map_or(driver, |(driver, _)| driver);
            Some(Object::Snapshot(space, driver.to_owned(), value.to_owned()))
        }
        _ => None,
    }
}

fn references(space: &str, labels: &Labels) -> Vec<Object> {
    let labels = labels.iter();
    let named = labels.filter_map(|(label, value)| {
        let kind = label.strip_prefix(REFERENCE)?;
        named(space, kind, value)
    });
    named.collect()
}

/// What an object refers to; nothing, where it is not there.
fn refers_to(look: &impl Look, object: &Object, found: &mut Vec<Object>) -> Result<()> {
    match object {
        Object::Blob(space, digest) => {
            let row: Option<Blob> = look.get(BLOBS, (&**space, &**digest))?;
            found.extend(references(space, &row.unwrap_or_default().labels));
        }
        Object::Image(space, name) => {
            if let Some(row) = look.get::<_, Image>(IMAGES, (&**space, &**name))? {
                found.push(Object::Blob(space.clone(), row.target.digest));
                found.extend(references(space, &row.labels));
            }
        }
        Object::Snapshot(space, driver, key) => {
            let row: Option<Snapshot> = look.get(SNAPSHOTS, (&**space, &**driver, &**key))?;
            if let Some(row) = row {
                found.extend(references(space, &row.labels));
                if !row.parent.is_empty() {
                    found.push(Object::Snapshot(space.clone(), driver.clone(), row.parent));
                }
            }
        }
        Object::Container(space, id) => {
            if let Some(row) = look.get::<_, Container>(CONTAINERS, (&**space, &**id))? {
                found.extend(references(space, &row.labels));
                if !row.snapshot_key.is_empty() {
                    let (driver, key) = (row.snapshotter, row.snapshot_key);
                    found.push(Object::Snapshot(space.clone(), driver, key));
                }
            }
        }
        Object::Mount(space, name) => {
            let row: Option<Activation> = look.get(MOUNTS, (&**space, &**name))?;
            found.extend(references(space, &row.unwrap_or_default().labels));
        }
        Object::Ingest(..) | Object::Lease(..) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
