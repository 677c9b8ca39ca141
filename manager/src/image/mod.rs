//! Images: what their documents say, and how they come and go.
//!
//! An image is a descriptor of an index, or of a manifest, which has a configuration and layers. All
//! are blobs that the content store keeps byte for byte as they came; labels on a blob say which
//! others it refers to, so that the collector keeps those too.
//!
//! ```text
//! model.rs      the documents: image specification 1.1 and Docker's older types
//! platform.rs   which of an index's manifests are wanted
//! walk.rs       from a descriptor to all that belongs to it
//! archive.rs    reading archives: OCI layouts and what `docker save` writes
//! import.rs     an archive into the stores
//! export.rs     images into an archive
//! unpack.rs     layers into snapshots
//! fetch.rs      blobs from a registry, as they arrive
//! pull.rs       an image from a registry
//! push.rs       an image to a registry
//! name.rs       which names an image gets that comes without, or with several
//! progress.rs   telling how far it is
//! ```

pub mod archive;
pub mod export;
pub mod fetch;
pub mod import;
pub mod model;
pub mod name;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod unpack;
pub mod walk;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use crate::error::{Code, Result};
use crate::manager::{self, Manager};
use crate::store::images::Named;
use crate::store::name::Labels;
use model::Descriptor;
use progress::{Progress, Reporter};

/// How long what a transfer made is kept when the daemon is killed, in seconds: a day.
const LEASE_TIME: i64 = 24 * 3600;

/// The label with the time from which on the collector removes something that nobody refers to.
const EXPIRE: &str = "containerd.io/gc.expire";

/// The time in so many seconds, RFC 3339.
fn time_in(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(0);
    let seconds = now.saturating_add(seconds);
    Timestamp { seconds, nanos: 0 }.to_string()
}

/// How many blobs arrive at once, in all pulls together.
pub const AT_ONCE: usize = 64;

/// For whom images are moved, and who hears of it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The manager with the stores.
    pub manager: Arc<Manager>,
    /// The namespace.
    pub namespace: String,
    /// The lease that keeps what is made until an image names it.
    pub lease: String,
    /// Who hears how far it is.
    pub progress: Reporter,
}

impl Context {
    /// Does something under a lease: that of the caller, or one that ends with it.
    ///
    /// # Errors
    /// Those of `work`; where there can't be a lease.
    pub async fn with_lease<T>(
        manager: Arc<Manager>,
        namespace: String,
        lease: Option<String>,
        progress: Reporter,
        work: impl AsyncFnOnce(Self) -> Result<T>,
    ) -> Result<T> {
        let own = lease.is_none();
        let lease = match lease {
            Some(lease) => lease,
            None => manager::new_uuid()?,
        };
        let this = Self {
            manager,
            namespace,
            lease,
            progress,
        };
        if !own {
            return work(this).await;
        }
        let labels = [(EXPIRE.to_owned(), time_in(LEASE_TIME))];
        let leases = this.manager.leases.clone();
        let (namespace, lease) = (this.namespace.clone(), this.lease.clone());
        leases.create(&namespace, &lease, labels.into()).await?;
        let done = work(this).await;
        // The collector ends what this can't.
        let _ = leases.delete(&namespace, &lease).await;
        done
    }

    /// Gives an image a name, also one that another has.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn save(&self, name: &str, target: &Descriptor, labels: &Labels) -> Result<Named> {
        let images = &self.manager.images;
        let (space, target) = (&self.namespace, target.to_target());
        loop {
            match images
                .create(space, name, target.clone(), labels.clone())
                .await
            {
                Err(error) if error.code() == Code::AlreadyExists => {}
                done => return done,
            }
            let updated = images.update(space, name, target.clone(), labels.clone(), Vec::new());
            match updated.await {
                // Somebody has removed it just now.
                Err(error) if error.code() == Code::NotFound => {}
                done => return done,
            }
        }
    }

    /// The same for several names, and tells of each. Where the client gave one name, the others go
    /// with it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn save_all(
        &self,
        names: &[String],
        target: &Descriptor,
        to: &name::Destination,
    ) -> Result<()> {
        for name in names {
            let mut labels = to.labels.clone();
            if !to.name.is_empty() && *name != to.name {
                labels.insert("containerd.io/gc.bref.image".to_owned(), to.name.clone());
                labels.insert(EXPIRE.to_owned(), time_in(0));
            }
            self.save(name, target, &labels).await?;
            self.progress.tell(Progress {
                event: "saved".to_owned(),
                name: name.clone(),
                target: Some(target.clone()),
                ..Progress::default()
            });
        }
        Ok(())
    }
}

/// Gives an image that is there further names.
///
/// # Errors
/// `NotFound`; `InvalidArgument` where the destination has no name.
pub async fn tag(context: &Context, source: &str, to: &name::Destination) -> Result<()> {
    let source = context.manager.images.get(&context.namespace, source)?;
    let target = Descriptor::from_target(&source.image.target)?;
    let names = to.names(&target);
    if names.is_empty() {
        return Err(crate::error::Error::invalid(
            "the tag of an image has no name",
        ));
    }
    for name in names {
        context.save(&name, &target, &to.labels).await?;
    }
    Ok(())
}
