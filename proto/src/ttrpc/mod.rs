//! The ttrpc protocol between a daemon and its shims: remote calls over a Unix
//! socket, without HTTP.
//!
//! | file | |
//! |---|---|
//! | `frame.rs` | frames to bytes and back |
//! | `status.rs` | how a call can end |
//! | `server.rs` | a server's side: requests out of bytes, answers into bytes |
//! | `services.rs` | the services: traits with a method for each of theirs, and typed clients |
//! | `client.rs` | the client, on tokio (feature `ttrpc-client`) |
//! | `serve.rs` | the server, on tokio (feature `ttrpc-server`) |
//!
//! All but these two is without input and output of its own, so that a single-threaded
//! program around epoll and an asynchronous one use it alike. A server reads:
//!
//! ```no_run
//! use std::io::{self, Read, Write};
//! use std::os::unix::net::UnixStream;
//!
//! use knarr_proto::ttrpc::{Received, Receiver, reply, services};
//!
//! fn serve(socket: &mut UnixStream, tasks: &mut impl services::Task) -> io::Result<()> {
//!     let mut receiver = Receiver::default();
//!     let mut bytes = [0; 4096];
//!     loop {
//!         let count = socket.read(&mut bytes)?;
//!         if count == 0 {
//!             return Ok(());
//!         }
//!         receiver.push(&bytes[..count]);
//!         let mut out = Vec::new();
//!         while let Some(received) = receiver.take() {
//!             match received {
//!                 Received::Refused(refusal) => out.extend(refusal),
//!                 Received::Call(call) if services::TASK.contains(&call.service.as_str()) => {
//!                     reply(&mut out, call.stream, services::dispatch_task(tasks, &call));
//!                 }
//!                 Received::Call(call) => reply(&mut out, call.stream, Err(call.unimplemented())),
//!             }
//!         }
//!         socket.write_all(&out)?;
//!     }
//! }
//! ```

#[cfg(feature = "ttrpc-client")]
mod client;
pub mod frame;
#[cfg(feature = "ttrpc-server")]
mod serve;
mod server;
pub mod services;
mod status;

#[cfg(feature = "ttrpc-client")]
pub use client::{Carrier, Client, Error, Options};
#[cfg(feature = "ttrpc-server")]
pub use serve::serve;
pub use server::{Call, Received, Receiver, Reply, answer, reply};
pub use status::{Code, Status};

pub use crate::packages::ttrpc::{KeyValue, Request, Response};

/// Key of the metadata that names the namespace a call is about.
pub const NAMESPACE: &str = "containerd-namespace-ttrpc";
