//! config.json: its types, how it is read, and what is wrong with it.
//!
//! Belongs here: everything that can be said about a configuration from its
//! text and, in [`validate`], from facts of the host. Does not: doing any of it.

pub mod config;
pub mod features;
pub mod linux;
pub mod mount_options;
pub mod names;
pub mod parse;
mod path;
pub mod ranges;
pub mod resources;
pub mod seccomp;
mod strict;
pub mod sysctl;
pub mod template;
mod text;
pub mod validate;

pub use config::Spec;
pub use text::Text;
