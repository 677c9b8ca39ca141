//! Generates the Rust types from the `.proto` files, and the descriptors that
//! reflection and the tests read. No `protoc`: protox is a compiler in Rust.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

/// The directories below this crate that hold `.proto` files.
const ROOTS: [&str; 6] = ["cgroup1", "cgroup2", "containerd", "cri", "google", "ttrpc"];

/// Fields that carry file contents: shared slices of what was received, not copies.
const BULK: [&str; 3] = [
    ".containerd.services.content.v1",
    ".containerd.types.transfer.Data",
    ".ttrpc",
];

/// Messages that carry secrets: their `Debug` is written by hand.
const SECRET: [&str; 2] = [
    ".containerd.types.transfer.AuthResponse",
    ".runtime.v1.AuthConfig",
];

/// Packages whose services are called over ttrpc (`src/ttrpc/services.rs`), not gRPC.
const TTRPC: [&str; 4] = [
    "containerd.runtime.sandbox.v1",
    "containerd.services.events.ttrpc.v1",
    "containerd.task.v2",
    "containerd.task.v3",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for root in ROOTS {
        println!("cargo::rerun-if-changed={root}");
        collect(Path::new(root), &mut files)?;
    }
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    let mut descriptors = compiler.file_descriptor_set();

    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None; // comments: half of the size
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;

    for file in &mut descriptors.file {
        if TTRPC.contains(&file.package()) {
            file.service.clear();
        }
    }

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let mut config = tonic_prost_build::Config::new();
    config
        .bytes(BULK)
        // In order, so that equal messages have equal bytes, and without a hasher's random keys.
        .btree_map(["."])
        .enable_type_names()
        .skip_debug(SECRET)
        // Equal to version 2, message by message, so that one implementation serves both.
        .extern_path(".containerd.task.v3", "crate::containerd::task::v2");
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .build_transport(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Appends the `.proto` files below `directory`.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}
