//! `-info`: what the runtime is and can do.

use knarr_proto::any;
use knarr_proto::containerd::types::{RuntimeInfo, RuntimeVersion};
use knarr_proto::prost::Message;
use knarr_proto::prost_types::Any;
use knarr_runtime::error::{Error, Kind, Result};
use knarr_runtime::spec::features::features;

/// The encoded answer; the options on standard input are told back.
///
/// # Errors
/// Standard input that cannot be read.
pub fn info() -> Result<Vec<u8>> {
    let input = super::start::read_input()?;
    let options = Any::decode(input.as_slice())
        .ok()
        .filter(|any| !any.type_url.is_empty());
    let features = serde_json::to_vec(&features())
        .map_err(|error| Error::new(Kind::System, format!("features: {error}")))?;
    let info = RuntimeInfo {
        name: "io.containerd.knarr.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        options,
        features: Some(any::pack_json(any::FEATURES, features)),
        annotations: Default::default(),
    };
    Ok(info.encode_to_vec())
}
