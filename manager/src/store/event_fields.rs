//! The fields of events, by the names that their messages have: what filters such as
//! `event.container_id==a` look at. The descriptors of the API say where a field is.

use std::collections::HashMap;
use std::sync::LazyLock;

use knarr_proto::prost::Message as _;
use knarr_proto::prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, skip_field,
};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

use super::schema::Typed;

/// How deep messages are looked into.
const DEEPEST: usize = 8;

#[derive(Debug)]
enum Kind {
    Text,
    Message(String),
    /// A map from texts to texts.
    Map,
}

type Messages = HashMap<String, HashMap<String, (u32, Kind)>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(knarr_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut messages = Messages::new();
    for file in &files.file {
        if file.package() == "containerd.events" {
            for message in &file.message_type {
                add(&mut messages, file.package(), message);
            }
        }
    }
    messages
});

fn add(messages: &mut Messages, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    let is_map = |entry: &DescriptorProto| {
        let options = entry.options.as_ref();
        options.is_some_and(|options| options.map_entry())
    };
    let mut fields = HashMap::new();
    for field in &message.field {
        let of = field.type_name().trim_start_matches('.').to_owned();
        let maps = message.nested_type.iter();
        let is_map = maps
            .filter(|entry| is_map(entry))
            .any(|entry| of == format!("{name}.{}", entry.name()));
        let kind = match field.r#type() {
            Type::String => Kind::Text,
            Type::Message if is_map => Kind::Map,
            Type::Message => Kind::Message(of),
            _ => continue,
        };
        let number = u32::try_from(field.number()).unwrap_or(0);
        fields.insert(field.name().to_owned(), (number, kind));
    }
    for nested in &message.nested_type {
        add(messages, &name, nested);
    }
    messages.insert(name, fields);
}

/// The text in a field of an event; `None` where it has none, or an empty one.
pub(super) fn field(event: &Typed, path: &[&str]) -> Option<String> {
    let name = event.type_url.rsplit('/').next()?;
    look(name, &event.value, path, DEEPEST).filter(|text| !text.is_empty())
}

fn look(name: &str, bytes: &[u8], path: &[&str], depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let (first, rest) = path.split_first()?;
    let (number, kind) = MESSAGES.get(name)?.get(*first)?;
    match kind {
        Kind::Text if rest.is_empty() => text(pieces(bytes, *number).pop()?),
        Kind::Text => None,
        Kind::Message(name) => look(name, pieces(bytes, *number).pop()?, rest, depth),
        Kind::Map => {
            let key = rest.join(".");
            let entries = pieces(bytes, *number).into_iter();
            let mut found = entries.filter(|entry| {
                let own = pieces(entry, 1).pop().and_then(text);
                own.unwrap_or_default() == key
            });
            found
                .next_back()
                .and_then(|entry| text(pieces(entry, 2).pop()?))
        }
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// The values of one field that are bytes, in order, as far as the message makes sense.
fn pieces(mut bytes: &[u8], number: u32) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Ok((tag, kind)) = decode_key(&mut bytes) {
        if kind == WireType::LengthDelimited && tag == number {
            let length = decode_varint(&mut bytes).ok();
            let length = length.and_then(|length| usize::try_from(length).ok());
            let Some((piece, rest)) = length.and_then(|length| bytes.split_at_checked(length))
            else {
                break;
            };
            found.push(piece);
            bytes = rest;
        } else if skip_field(kind, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use knarr_proto::any;
    use knarr_proto::events as told;

    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let exit: Typed = any::pack(&told::TaskExit {
            container_id: "c".to_owned(),
            id: "e".to_owned(),
            pid: 7,
            ..told::TaskExit::default()
        })
        .into();
        let of = |event: &Typed, path: &str| {
            let path: Vec<&str> = path.split('.').collect();
            field(event, &path)
        };
        assert_eq!(of(&exit, "container_id").as_deref(), Some("c"));
        assert_eq!(of(&exit, "id").as_deref(), Some("e"));
        for none in ["pid", "nonsense", "id.x", ""] {
            assert_eq!(of(&exit, none), None, "{none}");
        }
        let create: Typed = any::pack(&told::ContainerCreate {
            image: String::new(),
            runtime: Some(told::container_create::Runtime {
                name: "r".to_owned(),
                options: None,
            }),
            ..told::ContainerCreate::default()
        })
        .into();
        assert_eq!(of(&create, "runtime.name").as_deref(), Some("r"));
        assert_eq!(of(&create, "image"), None);
        let update: Typed = any::pack(&told::NamespaceUpdate {
            name: "n".to_owned(),
            labels: [("a.b".to_owned(), "v".to_owned())].into(),
        })
        .into();
        assert_eq!(of(&update, "labels.a.b").as_deref(), Some("v"));
        assert_eq!(of(&update, "labels.c"), None);
    }

    #[test]
    fn what_makes_no_sense_has_no_fields() {
        let bytes = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1];
        for (name, value) in [
            ("containerd.events.TaskExit", &bytes[..]),
            ("containerd.events.TaskExit", &[0x0a]),
            ("containerd.events.TaskExit", &[0xff; 20]),
            ("none", &[]),
        ] {
            let event = Typed {
                type_url: name.to_owned(),
                value: value.to_vec(),
            };
            assert_eq!(field(&event, &["container_id"]), None, "{name} {value:?}");
        }
    }
}
