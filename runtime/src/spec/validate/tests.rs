//! Each rule broken once in an otherwise good configuration, and what must pass.

use serde_json::{Value, json};

use super::*;
use crate::spec::parse::parse;

mod linux;

/// A configuration without findings that has something of everything.
fn good() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/x", "source": "x", "options": ["rbind", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"}
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
            ]},
            "maskedPaths": ["/proc/kcore"]
        }
    })
}

/// Puts `value` at the path `a/b/0`, making objects on the way.
fn put(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for part in path.split('/') {
        place = match part.parse::<usize>() {
            Ok(index) if place.is_array() => &mut place[index],
            _ => &mut place[part],
        };
    }
    *place = value;
}

fn findings(document: &Value) -> Vec<Finding> {
    let text = document.to_string();
    let spec: Spec<'_> = parse("config.json", text.as_bytes()).unwrap();
    validate(&spec, &Context::default())
}

fn changed(changes: &[(&str, Value)]) -> Vec<Finding> {
    let mut document = good();
    for (path, value) in changes {
        put(&mut document, path, value.clone());
    }
    findings(&document)
}

/// Asserts that the change leads to one finding: severity, path, and words of its text.
#[track_caller]
fn one(changes: &[(&str, Value)], severity: Severity, path: &str, words: &str) {
    let found = changed(changes);
    assert!(
        found.len() == 1
            && found[0].severity == severity
            && found[0].path == path
            && found[0].to_string().contains(words),
        "{changes:?}: {found:#?} instead of {severity} {path}: {words}"
    );
    assert!(!found[0].help.is_empty() && found[0].clause.contains(".md#"));
    assert!(!found[0].to_string().contains('\n'));
}

#[track_caller]
fn error(path: &str, value: Value, finding: &str, words: &str) {
    one(&[(path, value)], Severity::Error, finding, words);
}

#[track_caller]
fn warning(path: &str, value: Value, finding: &str, words: &str) {
    one(&[(path, value)], Severity::Warning, finding, words);
}

#[track_caller]
fn passes(path: &str, value: Value) {
    let found = changed(&[(path, value.clone())]);
    assert!(found.is_empty(), "{path} = {value}: {found:#?}");
}

#[test]
fn good_configurations_have_no_findings() {
    assert_eq!(findings(&good()), []);
    let text = include_bytes!("../../../tests/data/docker.json");
    let spec: Spec<'_> = parse("config.json", text).unwrap();
    assert_eq!(validate(&spec, &Context::default()), []);
    // create without a process is legal, and so is a container without linux.
    passes("process", Value::Null);
    assert_eq!(
        findings(&json!({"ociVersion": "1.0.0", "root": {"path": "rootfs"}})),
        []
    );
    // Unknown properties are ignored everywhere.
    passes("linux/future", json!({"a": [1, {}]}));
    passes("process/user/username", json!("x"));
}

#[test]
fn version() {
    for good in [
        "1.0.0",
        "1.3.0",
        "1.99.7",
        "1.0.2-dev",
        "1.2.0-rc.1+build.5",
        "1.1.0+dev",
    ] {
        passes("ociVersion", json!(good));
    }
    for bad in ["2.0.0", "0.5.0"] {
        error("ociVersion", json!(bad), "ociVersion", "not compatible");
    }
    for bad in [
        "one",
        "",
        "1",
        "1.0",
        "1.0.0.0",
        "01.0.0",
        "1.0.0-",
        "v1.0.0",
        "1.0.0-a..b",
    ] {
        error(
            "ociVersion",
            json!(bad),
            "ociVersion",
            "no semantic version",
        );
    }
}

#[test]
fn process() {
    error(
        "process/cwd",
        json!("tmp"),
        "process.cwd",
        "\"tmp\" is not absolute",
    );
    error("process/cwd", json!(""), "process.cwd", "missing or empty");
    error("process/args", json!([]), "process.args", "no program");
    error(
        "process/args",
        json!(["a", "b\0c"]),
        "process.args[1]",
        "NUL",
    );
    error("process/env", json!(["A=\0"]), "process.env[0]", "NUL");
    error("process/env", json!(["A"]), "process.env[0]", "NAME=value");
    error("process/env", json!(["=A"]), "process.env[0]", "NAME=value");
    error(
        "process/user/uid",
        json!(u32::MAX),
        "process.user.uid",
        "reserves",
    );
    error(
        "process/user/additionalGids",
        json!([1, u32::MAX]),
        "process.user.additionalGids[1]",
        "reserves",
    );
    error(
        "process/user/umask",
        json!(1024),
        "process.user.umask",
        "octal 2000",
    );
    passes("process/user/umask", json!(63));
    error(
        "process/oomScoreAdj",
        json!(1001),
        "process.oomScoreAdj",
        "-1000 to 1000",
    );
    passes("process/oomScoreAdj", json!(-1000));
    passes(
        "process/consoleSize",
        json!({"height": 100_000, "width": 1}),
    );
    one(
        &[
            ("process/terminal", json!(true)),
            (
                "process/consoleSize",
                json!({"height": 100_000, "width": 1}),
            ),
        ],
        Severity::Error,
        "process.consoleSize",
        "65535",
    );
}

#[test]
fn capabilities() {
    warning(
        "process/capabilities/bounding",
        json!(["CAP_KILL", "CAP_FLY"]),
        "process.capabilities.bounding[1]",
        "\"CAP_FLY\" is no known capability",
    );
    warning(
        "process/capabilities/ambient",
        json!(["CAP_KILL"]),
        "process.capabilities.ambient",
        "not both permitted and inheritable",
    );
    warning(
        "process/capabilities/permitted",
        json!([]),
        "process.capabilities.effective",
        "CAP_KILL cannot be granted",
    );
}

#[test]
fn rlimits() {
    let limit =
        |kind: &str, soft: u64, hard: u64| json!({"type": kind, "soft": soft, "hard": hard});
    error(
        "process/rlimits",
        json!([
            limit("RLIMIT_AS", 1, 2),
            limit("RLIMIT_CPU", 1, 1),
            limit("RLIMIT_AS", 1, 2)
        ]),
        "process.rlimits[2].type",
        "RLIMIT_AS is limited twice",
    );
    error(
        "process/rlimits",
        json!([limit("RLIMIT_X", 1, 1)]),
        "process.rlimits[0].type",
        "no resource limit",
    );
    error(
        "process/rlimits",
        json!([limit("NOFILE", 1, 1)]),
        "process.rlimits[0].type",
        "RLIMIT_NOFILE",
    );
    error(
        "process/rlimits",
        json!([limit("RLIMIT_AS", 2, 1)]),
        "process.rlimits[0].soft",
        "hard limit 1",
    );
    passes(
        "process/rlimits",
        json!([limit("RLIMIT_CORE", u64::MAX, u64::MAX)]),
    );
}

#[test]
fn scheduling() {
    let at = "process/scheduler";
    passes(at, json!({"policy": "SCHED_BATCH", "nice": 19}));
    passes(
        at,
        json!({"policy": "SCHED_FIFO", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    );
    passes(
        at,
        json!({"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 30_000_000, "period": 0}),
    );
    error(at, json!({}), "process.scheduler.policy", "missing");
    error(
        at,
        json!({"policy": "SCHED_FAST"}),
        "process.scheduler.policy",
        "no scheduling policy",
    );
    warning(
        at,
        json!({"policy": "SCHED_ISO"}),
        "process.scheduler.policy",
        "no released kernel",
    );
    error(
        at,
        json!({"policy": "SCHED_IDLE", "flags": ["RESET"]}),
        "process.scheduler.flags[0]",
        "no flag",
    );
    error(
        at,
        json!({"policy": "SCHED_OTHER", "nice": 20}),
        "process.scheduler.nice",
        "-20 to 19",
    );
    error(
        at,
        json!({"policy": "SCHED_FIFO"}),
        "process.scheduler.priority",
        "1 to 99",
    );
    error(
        at,
        json!({"policy": "SCHED_OTHER", "priority": 1}),
        "process.scheduler.priority",
        "has no priority",
    );
    error(
        at,
        json!({"policy": "SCHED_OTHER", "period": 1}),
        "process.scheduler",
        "no runtime",
    );
    error(
        at,
        json!({"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 4000}),
        "process.scheduler",
        "refused",
    );
    let at = "process/ioPriority";
    passes(at, json!({"class": "IOPRIO_CLASS_RT", "priority": 7}));
    error(
        at,
        json!({"class": "RT", "priority": 1}),
        "process.ioPriority.class",
        "no I/O scheduling class",
    );
    error(
        at,
        json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        "process.ioPriority.priority",
        "0 (highest) to 7",
    );
    let at = "process/execCPUAffinity";
    passes(at, json!({"initial": "0-3, 7", "final": ""}));
    error(
        at,
        json!({"initial": "0-3,x"}),
        "process.execCPUAffinity.initial",
        "\"x\" is neither",
    );
    error(
        at,
        json!({"final": "3-1"}),
        "process.execCPUAffinity.final",
        "\"3-1\"",
    );
}

#[test]
fn root_and_mounts() {
    error("root", Value::Null, "root", "missing");
    error("root/path", json!(""), "root.path", "missing");
    error("root/path", json!("a\0"), "root.path", "NUL");
    error(
        "mounts/0/destination",
        json!(""),
        "mounts[0].destination",
        "missing",
    );
    warning(
        "mounts/0/destination",
        json!("proc"),
        "mounts[0].destination",
        "deprecated",
    );
    error(
        "mounts/1/source",
        Value::Null,
        "mounts[1].source",
        "the path to bind",
    );
    error(
        "mounts/1/options",
        json!(["rbind", "size=1"]),
        "mounts[1].options[1]",
        "\"size=1\" is no mount option",
    );
    error(
        "mounts/1/options",
        json!(["ro"]),
        "mounts[1].type",
        "neither bind nor rbind",
    );
    error(
        "mounts/1/options",
        json!(["rshared"]),
        "mounts[1].type",
        "missing",
    );
    passes("mounts/1/options", json!(["remount", "ro"]));
    warning(
        "mounts/1",
        json!({"destination": "/x", "source": "x", "type": "bind"}),
        "mounts[1].type",
        "add the option bind",
    );
    error(
        "mounts/1",
        json!({"destination": "/x", "source": "x", "type": "none"}),
        "mounts[1].type",
        "none is no file system",
    );
    error(
        "mounts/1/destination",
        json!("/./"),
        "mounts[1].destination",
        "root.path",
    );
    error(
        "mounts/0/options",
        json!(["idmap"]),
        "mounts[0]",
        "must be a bind mount",
    );
    passes("mounts/0/options", json!(["hidepid=2", "x-anything"]));
    warning(
        "mounts/0/options",
        json!(["tmpcopyup"]),
        "mounts[0].options",
        "tmpfs only",
    );
    let range = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    error(
        "mounts/1/uidMappings",
        range.clone(),
        "mounts[1].gidMappings",
        "needs both",
    );
    error(
        "mounts/1/gidMappings",
        range.clone(),
        "mounts[1].uidMappings",
        "needs both",
    );
    assert_eq!(
        changed(&[
            ("mounts/1/uidMappings", range.clone()),
            ("mounts/1/gidMappings", range.clone())
        ]),
        []
    );
    error(
        "mounts/1/options",
        json!(["bind", "idmap"]),
        "mounts[1].options",
        "there is none",
    );
    assert_eq!(
        changed(&[
            ("mounts/1/options", json!(["rbind", "ridmap"])),
            ("linux/namespaces/5", json!({"type": "user"})),
            ("linux/uidMappings", range.clone()),
            ("linux/gidMappings", range),
        ]),
        []
    );
    one(
        &[
            ("linux/maskedPaths", Value::Null),
            ("linux/namespaces/4", json!({"type": "time"})),
        ],
        Severity::Warning,
        "mounts",
        "stay there",
    );
}

#[test]
fn hooks() {
    let at = "hooks/poststop";
    passes(at, json!([{"path": "/bin/true", "timeout": 1}]));
    error(
        at,
        json!([{"path": "true"}]),
        "hooks.poststop[0].path",
        "not absolute",
    );
    error(
        at,
        json!([{"path": "/bin/true", "timeout": 0}]),
        "hooks.poststop[0].timeout",
        "greater than 0",
    );
    error(
        at,
        json!([{"path": "/bin/true", "env": ["A=\0"]}]),
        "hooks.poststop[0].env[0]",
        "NUL",
    );
    error(
        "annotations",
        json!({"": "x"}),
        "annotations[\"\"]",
        "empty",
    );
}

#[test]
fn errors_become_one_error_and_warnings_stay() {
    let found = changed(&[
        ("process/cwd", json!("x")),
        ("linux/maskedPaths", json!(["x"])),
    ]);
    let error = refuse_errors(found).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidConfig);
    assert_eq!(
        error.to_string(),
        "config.json: process.cwd: \"x\" is not absolute; write an absolute path (config.md#process); and 1 more, see knarr validate"
    );
    let found = changed(&[("mounts/0/destination", json!("proc"))]);
    assert_eq!(refuse_errors(found.clone()).unwrap(), found);
}

#[test]
fn messages_are_bounded() {
    let found = changed(&[("process/cwd", json!("x".repeat(1 << 20)))]);
    assert!(found[0].to_string().len() < 300);
}

/// The places of all values in a document, as for [`Value::pointer`].
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(member, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Every value of a configuration that has every field, replaced by each of
/// some odd ones: nothing panics, and what is found is a line that helps.
#[test]
fn any_value_anywhere_is_survived() {
    let everything: Value =
        serde_json::from_slice(include_bytes!("../../../tests/data/everything.json")).unwrap();
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(1.5),
        json!(""),
        json!("/"),
        json!("\0\n\u{1F600}%,-:=.."),
        json!("a".repeat(5000)),
        json!([]),
        json!({}),
        json!([[], {}, null, ""]),
        json!({"": {}, "..": "\n"}),
    ];
    let mut all = Vec::new();
    places(&everything, "", &mut all);
    let host = Host::assume(1000, crate::host::CgroupLayout::V2);
    let (mut judged, mut refused) = (0, 0);
    for place in &all {
        for value in &odd {
            let mut document = everything.clone();
            *document.pointer_mut(place).unwrap() = value.clone();
            let text = document.to_string();
            let lines: Vec<String> = match parse::<Spec<'_>>("config.json", text.as_bytes()) {
                Ok(spec) => {
                    judged += 1;
                    let context = Context {
                        host: Some(&host),
                        systemd_cgroup: place.len() % 2 == 0,
                    };
                    let found = validate(&spec, &context);
                    assert!(found.iter().all(|finding| !finding.path.is_empty()
                        && !finding.help.is_empty()
                        && finding.clause.contains(".md#")));
                    found.iter().map(Finding::to_string).collect()
                }
                Err(error) => {
                    refused += 1;
                    vec![error.to_string()]
                }
            };
            for line in lines {
                assert!(line.len() < 1000 && !line.contains('\n'), "{place}: {line}");
            }
        }
    }
    assert!(judged > 1000 && refused > 1000, "{judged} {refused}");
}
