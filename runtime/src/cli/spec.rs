//! `spec`.

use std::fs::OpenOptions;
use std::io::Write;

use knarr_runtime::error::{Context, Error, Kind};
use knarr_runtime::host::{CgroupLayout, Host};
use knarr_runtime::spec::template::{Rootless, Template, template};

use super::Outcome;
use super::create::bundle;
use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;

/// `spec`
pub fn spec(_globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let host = Host::new();
    let rootless = matches.on(&flags::SPEC_ROOTLESS).then(|| Rootless {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    });
    let spec = template(Template {
        rootless,
        cgroup_namespace: host.cgroup_layout() == CgroupLayout::V2,
    });
    let path = bundle(matches).join("config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(
                Kind::Exists,
                format!("File {} exists. Remove it first", path.display()),
            ));
        }
        other => other.context(|| format!("open {}", path.display()))?,
    };
    let mut text = serde_json::to_string_pretty(&spec)
        .map_err(|error| Error::new(Kind::System, format!("write JSON: {error}")))?;
    text.push('\n');
    file.write_all(text.as_bytes())
        .context(|| format!("write {}", path.display()))?;
    Ok(0)
}
