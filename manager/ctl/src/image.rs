//! Images as the daemon has them: names, and what a container needs to know of one.

use anyhow::{Context as _, Result, bail};
use knarr_proto::services::content::v1::ReadContentRequest;
use knarr_proto::services::images::v1::{GetImageRequest, ListImagesRequest};
use knarr_proto::types::Platform;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::daemon::{Daemon, said};

/// What layers are unpacked with.
pub const SNAPSHOTTER: &str = "overlayfs";

/// Documents of an image that are larger than this are refused, in bytes.
const LARGEST: usize = 8 << 20;

/// How deep indexes may name indexes.
const DEEPEST: usize = 8;

/// An image for this machine.
#[derive(Debug)]
pub struct Image {
    /// Its full name.
    pub name: String,
    /// The configuration, as it is in the image.
    pub config: Value,
    /// The name of the snapshot of all its layers.
    pub chain_id: String,
}

/// This machine.
pub fn platform() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture().to_owned(),
        ..Default::default()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The name that the daemon knows an image by: with registry and tag.
pub fn full_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let has_registry = first.contains(['.', ':']) || first == "localhost";
    let path = match (has_registry, first) {
        (true, _) => name.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{name}"),
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    match last.contains([':', '@']) {
        true => path,
        false => format!("{path}:latest"),
    }
}

/// Lists images, one a line.
///
/// # Errors
/// What the daemon says.
pub async fn list(daemon: &Daemon) -> Result<()> {
    let request = daemon.request(ListImagesRequest::default());
    let listed = daemon.images().list(request).await;
    let mut images = listed.map_err(|status| said(&status))?.into_inner().images;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    for image in images {
        let digest = image.target.unwrap_or_default().digest;
        println!("{:50} {digest}", image.name);
    }
    Ok(())
}

/// Finds an image and reads its configuration.
///
/// # Errors
/// An image that is not here, or not for this machine.
pub async fn find(daemon: &Daemon, name: &str) -> Result<Image> {
    let name = full_name(name);
    let request = daemon.request(GetImageRequest { name: name.clone() });
    let found = daemon
        .images()
        .get(request)
        .await
        .map_err(|status| match status.code() {
            Code::NotFound => said(&status).context(format!(
                "no image {name} here; `knarrctl pull` and `knarrctl import` bring one"
            )),
            _ => said(&status),
        })?;
    let target = found.into_inner().image.and_then(|image| image.target);
    let mut digest = target.unwrap_or_default().digest;
    for _ in 0..DEEPEST {
        let document = document(daemon, &digest).await?;
        let Some(manifests) = document["manifests"].as_array() else {
            let config = text(&document["config"]["digest"], &digest)?;
            let config = self::document(daemon, &config).await?;
            let chain_id = chain_id(&config).with_context(|| format!("image {name}"))?;
            return Ok(Image {
                name,
                config,
                chain_id,
            });
        };
        let ours = manifests.iter().find(|manifest| {
            let platform = &manifest["platform"];
            platform["os"] == "linux" && platform["architecture"] == architecture()
        });
        let Some(ours) = ours.or_else(|| manifests.first().filter(|_| manifests.len() == 1)) else {
            bail!("image {name} has nothing for linux/{}", architecture());
        };
        digest = text(&ours["digest"], &digest)?;
    }
    bail!("image {name} has indexes that name indexes, more than {DEEPEST} deep")
}

fn text(value: &Value, document: &str) -> Result<String> {
    let text = value
        .as_str()
        .with_context(|| format!("{document} names no digest"))?;
    Ok(text.to_owned())
}

async fn document(daemon: &Daemon, digest: &str) -> Result<Value> {
    let request = daemon.request(ReadContentRequest {
        digest: digest.to_owned(),
        ..Default::default()
    });
    let read = daemon.content().read(request).await;
    let mut parts = read.map_err(|status| said(&status))?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await.map_err(|status| said(&status))? {
        bytes.extend_from_slice(&part.data);
        if bytes.len() > LARGEST {
            bail!("{digest} is too large for a document of an image");
        }
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{digest} is not JSON"))
}

/// The name of the snapshot with all layers: image-spec, config.md, "Layer ChainID".
fn chain_id(config: &Value) -> Result<String> {
    let layers = config["rootfs"]["diff_ids"].as_array();
    let mut layers = layers.into_iter().flatten().map(Value::as_str);
    let first = layers.next().unwrap_or(Some(""));
    let first = first.context("rootfs.diff_ids has something that is no digest")?;
    layers.try_fold(first.to_owned(), |chain, layer| {
        let layer = layer.context("rootfs.diff_ids has something that is no digest")?;
        let sum = Sha256::digest(format!("{chain} {layer}"));
        let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("sha256:{hex}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (short, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("user/app", "docker.io/user/app:latest"),
            ("quay.io/user/app", "quay.io/user/app:latest"),
            ("localhost/app:1", "localhost/app:1"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("app@sha256:00", "docker.io/library/app@sha256:00"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }

    #[test]
    fn the_chain_of_one_layer_is_the_layer() {
        let config = |ids: &[&str]| serde_json::json!({"rootfs": {"diff_ids": ids}});
        assert_eq!(chain_id(&config(&["sha256:a"])).unwrap(), "sha256:a");
        assert_eq!(chain_id(&config(&[])).unwrap(), "");
        assert_eq!(
            chain_id(&config(&["sha256:a", "sha256:b"])).unwrap(),
            // printf 'sha256:a sha256:b' | sha256sum
            "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"
        );
    }
}
