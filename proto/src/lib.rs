//! What goes over the wire between clients, the manager and its shims: types
//! generated from the `.proto` files of this crate, the packing of
//! `google.protobuf.Any`, and the ttrpc protocol.
//!
//! Modules mirror packages, so that a type is found by its full name:
//! `containerd.services.content.v1.Info` is
//! [`containerd::services::content::v1::Info`]. Shorter names are [`services`],
//! [`events`], [`types`], [`cgroups`] and [`cri`].
//!
//! Feature `grpc` adds tonic's clients and servers to the modules of services,
//! feature `ttrpc-client` the client for shims.

pub mod any;
mod packages;
mod secret;
pub mod ttrpc;

pub use packages::{containerd, google, io, runtime, runtimeoptions};

pub use packages::containerd::{events, services, types};
pub use packages::io::containerd::cgroups;
pub use packages::runtime::v1 as cri;

pub use prost;
pub use prost_types;

/// Every file, message and service of this crate: a serialized
/// `google.protobuf.FileDescriptorSet` without comments, as gRPC reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
