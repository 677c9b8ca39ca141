//! Settings that only the unified hierarchy of a hybrid host can hold.
//!
//! A controller belongs to one hierarchy at a time. On a hybrid host those
//! that nobody mounted on v1, often hugetlb, are in the unified one; their
//! settings go there in the form of v2.

use std::borrow::Cow;

use super::super::hierarchy::Controller;
use super::super::setting::Setting;
use super::super::v2;
use crate::error::Result;
use crate::spec::resources::Resources;

/// Replaces settings whose controller is `missing` on v1, and appends `unified`.
///
/// # Errors
/// A key of `unified` that is no file name.
pub(super) fn redirect<'a>(
    settings: &mut Vec<Setting<'a>>,
    resources: &'a Resources<'_>,
    missing: impl Fn(Controller) -> bool,
) -> Result<()> {
    for setting in settings.iter_mut() {
        let controller = setting.controller;
        if !matches!(controller, Controller::Hugetlb | Controller::Rdma) || !missing(controller) {
            continue;
        }
        setting.controller = Controller::Unified;
        if let Some(stem) = setting.file.strip_suffix("limit_in_bytes") {
            setting.file = Cow::Owned(format!("{stem}max"));
        }
    }
    v2::unified_settings(resources, settings)
}

/// Makes the controllers of the settings available in the unified directory.
///
/// # Errors
/// A controller that the unified hierarchy does not have.
pub(super) fn enable(path: &str, base: usize, settings: &[Setting<'_>]) -> Result<()> {
    for setting in settings {
        if setting.controller == Controller::Unified {
            v2::enable_for(path, base, setting)?;
        }
    }
    Ok(())
}
