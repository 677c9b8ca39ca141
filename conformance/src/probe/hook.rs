//! What this program does as a hook: it appends what it sees to a log.

use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::time::Duration;

/// `hook LOG NAME [sleep:MS] [exit:N]`: logs one JSON line, then obeys.
pub fn main(arguments: &[String]) -> i32 {
    let (Some(log), Some(name)) = (arguments.first(), arguments.get(1)) else {
        return 2;
    };
    let mut input = String::new();
    let _ = io::stdin().lock().read_to_string(&mut input);
    let state: Value = serde_json::from_str(&input).unwrap_or(Value::Null);
    let line = json!({
        "hook": name,
        "state": state,
        "namespaces": super::look::namespaces(),
        "pid": std::process::id(),
        "cwd": std::env::current_dir().ok().map(|p| p.display().to_string()),
        "env": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "arg0": std::env::args().next(),
        "root": fs::read_dir("/").map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()).unwrap_or_default(),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "program": state.get("pid").and_then(Value::as_i64)
            .and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok()).map(|p| p.display().to_string()),
    });
    let written = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .and_then(|mut f| f.write_all(format!("{line}\n").as_bytes()));
    if let Err(e) = written {
        eprintln!("hook {name}: {log}: {e}");
        return 3;
    }
    for argument in arguments.iter().skip(2) {
        match argument.split_once(':') {
            Some(("sleep", ms)) => {
                std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)))
            }
            Some(("exit", code)) => return code.parse().unwrap_or(1),
            _ => {}
        }
    }
    0
}
