//! Packing and unpacking of `google.protobuf.Any` as the containerd API does it.
//!
//! Two rules differ from protobuf's own habit. The type URL that is written is the
//! full message name alone, `containerd.events.TaskExit`: clients compare it as a
//! string. Read is the name behind `type.googleapis.com/` as well. And a value whose
//! type URL begins with `types.containerd.io/` is JSON: documents of the OCI runtime
//! specification, which pass through unchanged.

use std::fmt;

use bytes::Bytes;
use prost::{DecodeError, Message, Name};
use prost_types::Any;

/// A runtime specification, config.json.
pub const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// `process` of a runtime specification: what exec takes.
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// `linux.resources` of a runtime specification: what update takes.
pub const LINUX_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// The features document of a runtime.
pub const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// What type URLs of JSON values begin with.
const JSON: &str = "types.containerd.io/";
/// What others put before a message's name; prost puts the slash alone.
const PREFIXES: [&str; 2] = ["type.googleapis.com/", "/"];

/// Why a value could not be unpacked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// It is of another type.
    Type {
        /// The name of the type that was asked for.
        wanted: String,
        /// The type URL of the value; empty where nothing was sent.
        found: String,
    },
    /// It is of this type, but damaged.
    Value {
        /// The name of the type.
        name: String,
        /// What is wrong with the bytes.
        cause: DecodeError,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { wanted, found } => write!(f, "expected a {wanted}, got {found:?}"),
            Self::Value { name, cause } => write!(f, "{name}: {cause}"),
        }
    }
}

impl std::error::Error for Error {}

/// Packs a message under its full name.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::full_name(),
        value: message.encode_to_vec(),
    }
}

/// Packs a JSON document under one of the type URLs above.
pub fn pack_json(type_url: &str, document: Vec<u8>) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: document,
    }
}

/// The name of the type of a value, without the prefix of other habits.
pub fn type_name(any: &Any) -> &str {
    PREFIXES
        .iter()
        .find_map(|prefix| any.type_url.strip_prefix(prefix))
        .unwrap_or(&any.type_url)
}

/// Whether the value is a message of type `M`.
pub fn is<M: Name>(any: &Any) -> bool {
    let name = type_name(any);
    // The package may have no message name in it (`a.b` and `a.b.C`), so in two steps.
    name.strip_prefix(M::PACKAGE)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|rest| rest == M::NAME)
        || (M::PACKAGE.is_empty() && name == M::NAME)
}

/// Whether the value is JSON and no message.
pub fn is_json(any: &Any) -> bool {
    type_name(any).starts_with(JSON)
}

/// Unpacks a message.
///
/// # Errors
/// [`Error::Type`] where the value is something else, [`Error::Value`] where it is damaged.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, Error> {
    check::<M>(any)?;
    M::decode(any.value.as_slice()).map_err(damaged::<M>)
}

/// Unpacks a message whose fields may be large: those of type [`Bytes`] become a part
/// of the value, which is not copied.
///
/// # Errors
/// As those of [`unpack`].
pub fn unpack_owned<M: Message + Name + Default>(any: Any) -> Result<M, Error> {
    check::<M>(&any)?;
    M::decode(Bytes::from(any.value)).map_err(damaged::<M>)
}

/// The document in a JSON value of the type URL.
///
/// # Errors
/// [`Error::Type`] where the value is something else. The document itself is not looked at.
pub fn unpack_json<'a>(any: &'a Any, type_url: &str) -> Result<&'a [u8], Error> {
    if type_name(any) == type_url {
        Ok(&any.value)
    } else {
        Err(Error::Type {
            wanted: type_url.to_owned(),
            found: any.type_url.clone(),
        })
    }
}

fn check<M: Name>(any: &Any) -> Result<(), Error> {
    if is::<M>(any) {
        Ok(())
    } else {
        Err(Error::Type {
            wanted: M::full_name(),
            found: any.type_url.clone(),
        })
    }
}

fn damaged<M: Name>(cause: DecodeError) -> Error {
    Error::Value {
        name: M::full_name(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::TaskExit;
    use crate::types::transfer::Data;

    fn exit() -> TaskExit {
        TaskExit {
            container_id: "web".into(),
            exit_status: 137,
            ..TaskExit::default()
        }
    }

    #[test]
    fn a_message_is_packed_under_its_name_alone() {
        let any = pack(&exit());
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(any.value, b"\x0a\x03web\x20\x89\x01");
        assert_eq!(unpack::<TaskExit>(&any), Ok(exit()));
        assert_eq!(pack(&()).type_url, "google.protobuf.Empty");
    }

    #[test]
    fn prefixes_of_others_are_read() {
        for prefix in ["type.googleapis.com/", "/"] {
            let any = Any {
                type_url: format!("{prefix}containerd.events.TaskExit"),
                ..pack(&exit())
            };
            assert_eq!(type_name(&any), "containerd.events.TaskExit");
            assert_eq!(unpack::<TaskExit>(&any), Ok(exit()));
            assert_eq!(unpack_owned::<TaskExit>(any), Ok(exit()));
        }
    }

    #[test]
    fn another_type_is_refused() {
        for url in [
            "",
            "containerd.events",
            "containerd.events.TaskExitX",
            "containerd.eventsXTaskExit",
            SPEC,
        ] {
            let any = Any {
                type_url: url.into(),
                value: Vec::new(),
            };
            let error = unpack::<TaskExit>(&any).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("expected a containerd.events.TaskExit, got {url:?}")
            );
        }
    }

    #[test]
    fn damage_is_told_with_the_type() {
        let any = Any {
            value: b"\x0a\x7fweb".to_vec(),
            ..pack(&exit())
        };
        let error = unpack::<TaskExit>(&any).unwrap_err().to_string();
        assert!(error.starts_with("containerd.events.TaskExit: "), "{error}");
    }

    #[test]
    fn large_data_is_not_copied() {
        let any = pack(&Data {
            data: vec![7; 32768].into(),
        });
        let value = any.value.as_ptr_range();
        let data = unpack_owned::<Data>(any).unwrap().data;
        assert!(value.contains(&data.as_ptr()));
    }

    #[test]
    fn json_goes_through_unchanged() {
        let any = pack_json(SPEC, b"{ }".to_vec());
        assert!(is_json(&any) && !is_json(&pack(&exit())));
        assert_eq!(unpack_json(&any, SPEC), Ok(&b"{ }"[..]));
        assert!(unpack_json(&any, PROCESS).is_err());
    }
}
