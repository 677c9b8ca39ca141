//! Options of the runtime: as clients of runc's shim send them, or as a table of TOML in a message
//! for runtimes of any kind, whose keys are the same names in another style (`SystemdCgroup`).

use std::fs;
use std::path::Path;

use knarr_proto::any;
use knarr_proto::containerd::runc::v1::Options;
use knarr_proto::prost_types::Any;
use knarr_proto::runtimeoptions::v1::Options as Table;
use knarr_runtime::error::{Context, Error, Kind, Result};

/// The programs whose place this shim takes; others it cannot execute.
const OWN: [&str; 3] = ["runc", "docker-runc", "knarr"];

/// Reads the options; those of another type, or none, are the defaults.
///
/// # Errors
/// What is damaged or has a value of the wrong kind; a runtime to execute that is another one.
pub fn read(options: Option<&Any>) -> Result<Options> {
    let wrong = |error: any::Error| Error::new(Kind::InvalidArgument, format!("options: {error}"));
    let options = match options {
        Some(any) if any::is::<Options>(any) => any::unpack(any).map_err(wrong)?,
        Some(any) if any::is::<Table>(any) => {
            let table: Table = any::unpack(any).map_err(wrong)?;
            let text = match (table.config_body.is_empty(), table.config_path.as_str()) {
                (true, "") => String::new(),
                (true, path) => {
                    fs::read_to_string(path).context(|| format!("options: read({path})"))?
                }
                (false, _) => String::from_utf8(table.config_body).map_err(|_| {
                    Error::new(Kind::InvalidArgument, "options: config_body is not UTF-8")
                })?,
            };
            parse(&text)?
        }
        _ => Options::default(),
    };
    let name = Path::new(&options.binary_name).file_name();
    match name.is_none_or(|name| OWN.iter().any(|own| name == *own)) {
        true => Ok(options),
        false => Err(Error::new(
            Kind::Unsupported,
            format!(
                "options: binary_name {:?}: this shim is the runtime itself; containerd-shim-runc-v2 executes others",
                options.binary_name
            ),
        )),
    }
}

/// Reads lines of `Key = value`, in the first table; keys that mean nothing here are skipped.
fn parse(text: &str) -> Result<Options> {
    let mut options = Options::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let wrong = |why: &str| {
            let text = format!("options: line {number}: {why}: {line}");
            Error::new(Kind::InvalidArgument, text)
        };
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("not a key and a value"))?;
        let value = value.trim();
        let text = || {
            let quote = value
                .chars()
                .next()
                .filter(|quote| ['"', '\''].contains(quote));
            let inner = quote.and_then(|quote| {
                let rest = value.get(1..)?;
                let (inner, after) = rest.split_once(quote)?;
                let after = after.trim();
                (after.is_empty() || after.starts_with('#')).then_some(inner)
            });
            match inner {
                Some(inner) if !inner.contains('\\') => Ok(inner.to_owned()),
                _ => Err(wrong("not a string without escapes")),
            }
        };
        let bare = value.split('#').next().unwrap_or_default().trim();
        let switch = || match bare {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(wrong("neither true nor false")),
        };
        let id = || bare.parse().map_err(|_| wrong("not a number of an id"));
        let key: String = key
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        match key.as_str() {
            "nopivotroot" => options.no_pivot_root = switch()?,
            "nonewkeyring" => options.no_new_keyring = switch()?,
            "shimcgroup" => options.shim_cgroup = text()?,
            "iouid" => options.io_uid = id()?,
            "iogid" => options.io_gid = id()?,
            "binaryname" => options.binary_name = text()?,
            "root" => options.root = text()?,
            "systemdcgroup" => options.systemd_cgroup = switch()?,
            "criuimagepath" => options.criu_image_path = text()?,
            "criuworkpath" => options.criu_work_path = text()?,
            _ => {}
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let text = "# of a daemon's configuration\n\n[options]\n  SystemdCgroup = true # here\n\
                    Root = '/run/other'\nBinaryName=\"/usr/bin/runc\" # ours\nio_uid = 7\nElse = [1]\n";
        let options = parse(text).unwrap();
        assert!(options.systemd_cgroup && !options.no_pivot_root);
        assert_eq!(options.root, "/run/other");
        assert_eq!(options.binary_name, "/usr/bin/runc");
        assert_eq!(options.io_uid, 7);
        for wrong in [
            "SystemdCgroup",
            "SystemdCgroup = 1",
            "Root = x",
            "IoUid = -1",
            "Root = 'x",
            "Root = \"a\\n\"",
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{wrong}");
            assert!(error.to_string().contains("line 1"), "{error}");
        }
    }

    #[test]
    fn messages() {
        let table = Table {
            config_body: b"NoNewKeyring = true".to_vec(),
            ..Table::default()
        };
        assert!(read(Some(&any::pack(&table))).unwrap().no_new_keyring);
        let table = Table {
            config_path: "/no/such/file".to_owned(),
            ..Table::default()
        };
        assert!(read(Some(&any::pack(&table))).is_err());
        for (name, fits) in [("", true), ("/usr/sbin/runc", true), ("crun", false)] {
            let options = Options {
                binary_name: name.to_owned(),
                ..Options::default()
            };
            assert_eq!(read(Some(&any::pack(&options))).is_ok(), fits, "{name}");
        }
        let other = any::pack_json(any::SPEC, b"{}".to_vec());
        assert_eq!(read(Some(&other)).unwrap(), Options::default());
        assert_eq!(read(None).unwrap(), Options::default());
    }
}
