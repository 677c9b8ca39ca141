//! Media types that registries and clients tell apart.

/// An image of one platform, as the OCI has it.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Several images, as the OCI has it.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image of one platform, as Docker has it.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Several images, as Docker has it.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Whether a registry keeps it among manifests and not among blobs.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type)
}
