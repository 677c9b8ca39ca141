//! The tables of the database and what their values hold.
//!
//! ```text
//! table            key                          value
//! meta             name                         bytes        the schema's version, the journal's generation
//! namespaces       namespace                    Namespace
//! images           namespace, name              Image
//! containers       namespace, id                Container
//! sandboxes        namespace, id                Sandbox
//! leases           namespace, id                Lease
//! lease_resources  namespace, lease, type, id   nothing      what a lease keeps alive
//! blobs            namespace, digest            Blob         the data lies beside the database
//! ingests          namespace, reference         Ingest       blobs that are being written
//! snapshots        namespace, snapshotter, key  Snapshot
//! children         namespace, snapshotter,      nothing      which snapshots are built upon which
//!                  parent, key
//! mounts           namespace, name              Activation   what is mounted for clients
//! events           sequence number              Event        the log, oldest first
//! ```
//!
//! Values are protobuf messages, so that fields can be added: what an older program does not know it
//! leaves out, what is missing has its zero. A field's number is never used for anything else. Where
//! that is not enough the version goes up, and the database migrates at start, in one transaction.
//!
//! Times are nanoseconds since 1970, UTC.

use prost::Message;
use redb::TableDefinition;

use super::name::Labels;
use crate::error::{Code, Error, Result};

/// The version that this program writes.
pub const VERSION: u32 = 3;

pub(crate) type Bytes = &'static [u8];
type One = &'static str;
type Two = (&'static str, &'static str);
type Three = (&'static str, &'static str, &'static str);
type Four = (&'static str, &'static str, &'static str, &'static str);

pub(super) const META: TableDefinition<'_, One, Bytes> = TableDefinition::new("meta");
pub(crate) const NAMESPACES: TableDefinition<'_, One, Bytes> = TableDefinition::new("namespaces");
pub(super) const IMAGES: TableDefinition<'_, Two, Bytes> = TableDefinition::new("images");
pub(super) const CONTAINERS: TableDefinition<'_, Two, Bytes> = TableDefinition::new("containers");
pub(super) const SANDBOXES: TableDefinition<'_, Two, Bytes> = TableDefinition::new("sandboxes");
pub(super) const LEASES: TableDefinition<'_, Two, Bytes> = TableDefinition::new("leases");
pub(super) const LEASE_RESOURCES: TableDefinition<'_, Four, ()> =
    TableDefinition::new("lease_resources");
pub(super) const BLOBS: TableDefinition<'_, Two, Bytes> = TableDefinition::new("blobs");
pub(super) const INGESTS: TableDefinition<'_, Two, Bytes> = TableDefinition::new("ingests");
pub(crate) const SNAPSHOTS: TableDefinition<'_, Three, Bytes> = TableDefinition::new("snapshots");
pub(crate) const CHILDREN: TableDefinition<'_, Four, ()> = TableDefinition::new("children");
pub(crate) const MOUNTS: TableDefinition<'_, Two, Bytes> = TableDefinition::new("mounts");
pub(super) const EVENTS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("events");

/// A value of a protobuf `Any`: the name of its type and its bytes.
#[derive(Clone, PartialEq, Message)]
pub struct Typed {
    /// The name of the type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl From<prost_types::Any> for Typed {
    fn from(any: prost_types::Any) -> Self {
        let (type_url, value) = (any.type_url, any.value);
        Self { type_url, value }
    }
}

impl From<Typed> for prost_types::Any {
    fn from(typed: Typed) -> Self {
        let (type_url, value) = (typed.type_url, typed.value);
        Self { type_url, value }
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Message)]
pub struct Namespace {
    /// Labels, defaults of clients among them.
    #[prost(btree_map = "string, string", tag = "1")]
    pub labels: Labels,
}

/// What an image's name stands for: a blob with its type.
#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    /// The type of the content.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// The digest of the content.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// The length of the content in bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
    /// What else is known of it.
    #[prost(btree_map = "string, string", tag = "4")]
    pub annotations: Labels,
}

/// An image: a name for a descriptor.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// What it names.
    #[prost(message, required, tag = "1")]
    pub target: Descriptor,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    /// When it was made.
    #[prost(int64, tag = "3")]
    pub created: i64,
    /// When it was changed last.
    #[prost(int64, tag = "4")]
    pub updated: i64,
}

/// A container: what is needed to make a task.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// The name of the image it was made from; nothing checks it.
    #[prost(string, tag = "1")]
    pub image: String,
    /// The name of the runtime.
    #[prost(string, tag = "2")]
    pub runtime: String,
    /// The runtime's options.
    #[prost(message, optional, tag = "3")]
    pub runtime_options: Option<Typed>,
    /// The specification of the process, as the runtime gets it.
    #[prost(message, optional, tag = "4")]
    pub spec: Option<Typed>,
    /// The snapshotter of the root file system.
    #[prost(string, tag = "5")]
    pub snapshotter: String,
    /// The key of the snapshot.
    #[prost(string, tag = "6")]
    pub snapshot_key: String,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: Labels,
    /// What clients keep with it, by name.
    #[prost(btree_map = "string, message", tag = "8")]
    pub extensions: std::collections::BTreeMap<String, Typed>,
    /// The sandbox it belongs to, if any.
    #[prost(string, tag = "9")]
    pub sandbox: String,
    /// When it was made.
    #[prost(int64, tag = "10")]
    pub created: i64,
    /// When it was changed last.
    #[prost(int64, tag = "11")]
    pub updated: i64,
}

/// A sandbox: what containers share.
#[derive(Clone, PartialEq, Message)]
pub struct Sandbox {
    /// The name of the runtime.
    #[prost(string, tag = "1")]
    pub runtime: String,
    /// The runtime's options.
    #[prost(message, optional, tag = "2")]
    pub runtime_options: Option<Typed>,
    /// The specification.
    #[prost(message, optional, tag = "3")]
    pub spec: Option<Typed>,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
    /// What clients keep with it, by name.
    #[prost(btree_map = "string, message", tag = "5")]
    pub extensions: std::collections::BTreeMap<String, Typed>,
    /// Who manages it.
    #[prost(string, tag = "6")]
    pub sandboxer: String,
    /// When it was made.
    #[prost(int64, tag = "7")]
    pub created: i64,
    /// When it was changed last.
    #[prost(int64, tag = "8")]
    pub updated: i64,
}

/// A lease: keeps what it names from the collector.
#[derive(Clone, PartialEq, Message)]
pub struct Lease {
    /// Labels; one says when it expires.
    #[prost(btree_map = "string, string", tag = "1")]
    pub labels: Labels,
    /// When it was made.
    #[prost(int64, tag = "2")]
    pub created: i64,
}

/// A blob as one namespace knows it.
#[derive(Clone, PartialEq, Message)]
pub struct Blob {
    /// The length in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Labels, references to other objects among them.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    /// When it was committed.
    #[prost(int64, tag = "3")]
    pub created: i64,
    /// When its labels were changed last.
    #[prost(int64, tag = "4")]
    pub updated: i64,
}

/// A blob that is being written.
#[derive(Clone, PartialEq, Message)]
pub struct Ingest {
    /// The name of its file.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The digest that it will have, empty where nobody said.
    #[prost(string, tag = "2")]
    pub expected: String,
    /// The length in bytes that it will have, 0 where nobody said.
    #[prost(uint64, tag = "3")]
    pub total: u64,
    /// When it began.
    #[prost(int64, tag = "4")]
    pub started: i64,
}

/// A snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// The name of its directory.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The key of the parent, empty where there is none.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// Whether it can be written, only be looked at, or be built upon.
    #[prost(enumeration = "SnapshotKind", tag = "3")]
    pub kind: i32,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
    /// When it was made.
    #[prost(int64, tag = "5")]
    pub created: i64,
    /// When it was changed last.
    #[prost(int64, tag = "6")]
    pub updated: i64,
    /// What it takes on the disk beyond its parent, known once it is committed.
    #[prost(message, optional, tag = "7")]
    pub usage: Option<Usage>,
    /// What it is called by the program that makes it, where that is another.
    #[prost(string, tag = "8")]
    pub remote: String,
}

/// What something takes on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Usage {
    /// Blocks, in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Files, directories and the like.
    #[prost(uint64, tag = "2")]
    pub inodes: u64,
}

/// What a snapshot is for. The numbers are those of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub enum SnapshotKind {
    /// Nobody said.
    Unknown = 0,
    /// Read only, and nothing is built upon it.
    View = 1,
    /// Can be written.
    Active = 2,
    /// Fixed; others are built upon it.
    Committed = 3,
}

/// What is mounted for a client.
#[derive(Clone, PartialEq, Message)]
pub struct Activation {
    /// The name of its directory.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What the daemon has mounted, in order.
    #[prost(message, repeated, tag = "2")]
    pub active: Vec<ActiveMount>,
    /// What is left for the client.
    #[prost(message, repeated, tag = "3")]
    pub system: Vec<Mount>,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
    /// When it was made.
    #[prost(int64, tag = "5")]
    pub created: i64,
}

/// A mount that was made.
#[derive(Clone, PartialEq, Message)]
pub struct ActiveMount {
    /// What is mounted.
    #[prost(message, required, tag = "1")]
    pub mount: Mount,
    /// Where.
    #[prost(string, tag = "2")]
    pub point: String,
    /// When.
    #[prost(int64, tag = "3")]
    pub mounted: i64,
    /// The device behind it, where it is one and no mount.
    #[prost(string, tag = "4")]
    pub device: String,
}

/// A mount as clients describe it: mount(8).
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// The type of the file system, or `bind`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// What is mounted.
    #[prost(string, tag = "2")]
    pub source: String,
    /// A place below where the whole is mounted.
    #[prost(string, tag = "3")]
    pub target: String,
    /// Options.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// When.
    #[prost(int64, tag = "1")]
    pub time: i64,
    /// In which namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// What kind of thing: `/tasks/exit`.
    #[prost(string, tag = "3")]
    pub topic: String,
    /// The details.
    #[prost(message, optional, tag = "4")]
    pub event: Option<Typed>,
}

/// Reads a value of `what`.
///
/// # Errors
/// `DataLoss` where the bytes are none.
pub(crate) fn decode<T: Message + Default>(
    bytes: &[u8],
    what: impl FnOnce() -> String,
) -> Result<T> {
    T::decode(bytes).map_err(|error| {
        Error::new(
            Code::DataLoss,
            format!("{} cannot be read in the database: {error}", what()),
        )
    })
}
