//! x
use crate::error::{Error, Kind, Result};
use std::ffi::{CStr, CString};
/// x
pub fn find(args: &[CString], env: &[CString]) -> Result<CString> {
    let name = args
        .first()
        .map(|a| a.to_string_lossy().into_owned())
        .unwrap_or_default();
    if name.contains('/') {
        return Ok(CString::new(name).unwrap_or_default());
    }
    let path = env
        .iter()
        .filter_map(|v| v.to_str().ok()?.strip_prefix("PATH=").map(str::to_owned))
        .last()
        .unwrap_or_default();
    for dir in path.split(':') {
        let full = format!("{dir}/{name}");
        if rustix::fs::access(full.as_str(), rustix::fs::Access::EXEC_OK).is_ok() {
            return Ok(CString::new(full).unwrap_or_default());
        }
    }
    Err(Error::new(
        Kind::Exec,
        format!("exec: \"{name}\": executable file not found in $PATH"),
    ))
}
/// x
pub fn exec_error(program: &CStr, errno: rustix::io::Errno) -> Error {
    Error::system(format!("exec {program:?}"), errno).with_kind(Kind::Exec)
}
