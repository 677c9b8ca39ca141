//! The client of registries. Distribution specification.
//!
//! Belongs here: names of images, where registries are, who the caller is to them, and the requests
//! that find, fetch, push and list. Does not: what becomes of what was fetched, which the callers
//! put into the content store, and which images and layers there are.
//!
//! A [`Registry`] holds connections and is one a daemon. A [`Client`] of it speaks to one repository
//! for one caller: it knows the caller's credentials and the tokens they brought.

mod auth;
mod blob;
mod body;
mod call;
mod client;
mod connect;
mod docker_config;
mod fetch;
mod headers;
mod hosts;
mod limits;
pub mod media_type;
mod push;
mod reference;
mod retry;

pub use crate::descriptor::Descriptor;
pub use auth::{Credential, Credentials, Future, NoCredentials};
pub use blob::Blob;
pub use body::Source;
pub use client::{Access, Client, Registry};
pub use docker_config::DockerConfig;
pub use hosts::{Capabilities, Host, Hosts, Scheme, Tls};
pub use limits::Limits;
pub use push::Pushed;
pub use reference::Reference;
