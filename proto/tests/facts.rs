//! Compares the descriptors with the written facts about the protocol
//! (`facts/*.txt`), both ways: what the facts name is there and is as they say, and
//! nothing else is there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use knarr_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// What is known of one message, enum or service: its file, and a line for each of
/// its parts, in the order of the lines.
#[derive(Debug, Default, PartialEq)]
struct Item {
    file: String,
    parts: Vec<String>,
}

/// By kind and full name: `message google.rpc.Status`. Files too: `file NAME`, whose
/// one part is the package.
type Items = BTreeMap<String, Item>;

fn add(items: &mut Items, key: String, file: &str, mut parts: Vec<String>) {
    parts.sort();
    let item = Item {
        file: file.to_owned(),
        parts,
    };
    assert!(
        items.insert(key.clone(), item).is_none(),
        "{key} comes twice"
    );
}

/// Reads fact files. What they say beyond the wire, `since 2.4`, is left out.
fn stated() -> Items {
    let mut items = Items::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("facts");
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    for name in names {
        let text = fs::read_to_string(&name).unwrap();
        let mut file = String::new();
        let mut key = String::new();
        let mut parts = Vec::new();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let line = line.split("  since ").next().unwrap();
            if let Some(part) = line.strip_prefix("  ") {
                parts.push(part.to_owned());
                continue;
            }
            if !key.is_empty() {
                add(
                    &mut items,
                    std::mem::take(&mut key),
                    &file,
                    std::mem::take(&mut parts),
                );
            }
            match line.split_once(' ') {
                Some(("file", rest)) => {
                    let (path, package) = rest.split_once("  package ").unwrap();
                    file = path.to_owned();
                    add(
                        &mut items,
                        format!("file {path}"),
                        path,
                        vec![package.to_owned()],
                    );
                }
                Some(("message" | "enum" | "service", _)) => key = line.to_owned(),
                _ => panic!("{}: {line:?} is no fact", name.display()),
            }
        }
        add(&mut items, key, &file, parts);
    }
    items
}

/// Tells the descriptors in the words of the facts.
fn described(set: &FileDescriptorSet) -> Items {
    let mut items = Items::new();
    for file in &set.file {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        if file.name().starts_with("google/protobuf/") {
            continue; // protobuf's own
        }
        assert!(file.extension.is_empty(), "{}", file.name());
        let package = file.package();
        add(
            &mut items,
            format!("file {}", file.name()),
            file.name(),
            vec![package.to_owned()],
        );
        for message in &file.message_type {
            describe_message(&mut items, file, package, message);
        }
        for one in &file.enum_type {
            describe_enum(&mut items, file, package, one);
        }
        for service in &file.service {
            let methods = service.method.iter().map(|method| {
                let stream = |is| if is { "stream " } else { "" };
                format!(
                    "{}({}{}) -> {}{}",
                    method.name(),
                    stream(method.client_streaming()),
                    &method.input_type()[1..],
                    stream(method.server_streaming()),
                    &method.output_type()[1..],
                )
            });
            let key = format!("service {package}.{}", service.name());
            add(&mut items, key, file.name(), methods.collect());
        }
    }
    items
}

fn describe_enum(
    items: &mut Items,
    file: &FileDescriptorProto,
    scope: &str,
    one: &EnumDescriptorProto,
) {
    let values = one
        .value
        .iter()
        .map(|value| format!("{} {}", value.number(), value.name()));
    add(
        items,
        format!("enum {scope}.{}", one.name()),
        file.name(),
        values.collect(),
    );
}

fn describe_message(
    items: &mut Items,
    file: &FileDescriptorProto,
    scope: &str,
    message: &DescriptorProto,
) {
    let name = format!("{scope}.{}", message.name());
    // The messages that the compiler makes for the entries of maps.
    let is_entry = |nested: &&DescriptorProto| {
        nested
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
    };
    let entries: BTreeMap<String, &DescriptorProto> = message
        .nested_type
        .iter()
        .filter(is_entry)
        .map(|entry| (format!(".{name}.{}", entry.name()), entry))
        .collect();
    for nested in message
        .nested_type
        .iter()
        .filter(|nested| !is_entry(nested))
    {
        describe_message(items, file, &name, nested);
    }
    for one in &message.enum_type {
        describe_enum(items, file, &name, one);
    }

    let mut parts = Vec::new();
    for field in &message.field {
        let mut kind = if let Some(entry) = entries.get(field.type_name()) {
            format!(
                "map<{},{}>",
                type_name(&entry.field[0]),
                type_name(&entry.field[1])
            )
        } else if field.label() == Label::Repeated {
            format!("repeated {}", type_name(field))
        } else if field.proto3_optional() {
            format!("optional {}", type_name(field))
        } else if let Some(index) = field.oneof_index {
            let oneof = &message.oneof_decl[usize::try_from(index).unwrap()];
            format!("oneof {} {}", oneof.name(), type_name(field))
        } else {
            type_name(field)
        };
        if field
            .options
            .as_ref()
            .is_some_and(|options| options.deprecated())
        {
            kind += "  deprecated";
        }
        parts.push(format!("{} {} {kind}", field.number(), field.name()));
    }
    for range in &message.reserved_range {
        parts.push(format!("reserved {}-{}", range.start(), range.end() - 1));
    }
    add(items, format!("message {name}"), file.name(), parts);
}

fn type_name(field: &prost_types::FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name()[1..].to_owned(),
        other => other.as_str_name()["TYPE_".len()..].to_lowercase(),
    }
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap()
}

#[test]
fn descriptors_are_as_the_facts_say() {
    let (stated, described) = (stated(), described(&descriptors()));
    let mut wrong = Vec::new();
    for (key, item) in &stated {
        match described.get(key) {
            None => wrong.push(format!("{key}: missing")),
            Some(found) if found.file != item.file => {
                wrong.push(format!("{key}: is in {}, not in {}", found.file, item.file));
            }
            Some(found) => {
                let missing = item.parts.iter().filter(|part| !found.parts.contains(part));
                wrong.extend(missing.map(|part| format!("{key}: {part}: missing")));
                let more = found.parts.iter().filter(|part| !item.parts.contains(part));
                wrong.extend(more.map(|part| format!("{key}: {part}: not in the facts")));
            }
        }
    }
    let more = described.keys().filter(|key| !stated.contains_key(*key));
    wrong.extend(more.map(|key| format!("{key}: not in the facts")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Against a reader that reads nothing.
    let count = |kind: &str| stated.keys().filter(|key| key.starts_with(kind)).count();
    assert_eq!(
        ["file ", "service ", "enum ", "message "].map(count),
        [48, 22, 18, 507],
    );
}

#[test]
fn a_difference_is_found() {
    let mut set = descriptors();
    let file = set
        .file
        .iter_mut()
        .find(|file| file.name().ends_with("descriptor.proto"));
    let size = &mut file.unwrap().message_type[0].field[2];
    assert_eq!(size.name(), "size");
    size.set_type(Type::Uint64);
    let (stated, described) = (stated(), described(&set));
    let different: Vec<_> = stated
        .iter()
        .filter(|(key, item)| described[*key] != **item)
        .collect();
    assert_eq!(different.len(), 1);
    assert_eq!(different[0].0, "message containerd.types.Descriptor");
}

#[test]
fn numbers_that_the_documents_promise() {
    let set = descriptors();
    let methods = |prefix: &str| -> usize {
        let files = set
            .file
            .iter()
            .filter(|file| file.package().starts_with(prefix));
        files
            .flat_map(|file| &file.service)
            .map(|service| service.method.len())
            .sum()
    };
    assert_eq!(
        methods("containerd.services.") - methods("containerd.services.events.ttrpc."),
        88
    );
    assert_eq!(methods("runtime.v1"), 43);
    assert_eq!(methods("containerd.runtime.sandbox.v1"), 10);
}

/// One set of Rust types serves both versions of the task service, which is sound as
/// long as nothing but the package tells them apart.
#[test]
fn task_versions_2_and_3_are_equal() {
    let described = described(&descriptors());
    let of = |version: &str| -> BTreeMap<String, Vec<String>> {
        let plain = |text: &str| text.replace(version, "containerd.task");
        described
            .iter()
            .filter(|(key, _)| key.contains(version))
            .map(|(key, item)| {
                (
                    plain(key),
                    item.parts.iter().map(|part| plain(part)).collect(),
                )
            })
            .collect()
    };
    let two = of("containerd.task.v2");
    assert_eq!(two.len(), 1 + 26);
    assert_eq!(two, of("containerd.task.v3"));
}
