//! seccomp profiles as the program feels them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

use knarr_integration::socket::Receiver;
use knarr_integration::{Sandbox, Value, cgroup, json, process};

/// A profile that allows all but what `syscalls` says.
fn profile(syscalls: &Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": syscalls})
}

#[test]
fn actions_do_what_they_say() {
    let sb = Sandbox::new();
    let with = |action: &str, extra: Value| {
        let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
        for (key, value) in extra.as_object().unwrap() {
            rule[key] = value.clone();
        }
        sb.sh(
            "mkdir /made; code=$?; echo $code; ls -d /made 2>/dev/null; rmdir /made 2>/dev/null",
            |c| {
                c["linux"]["seccomp"] = profile(&json!([rule]));
            },
        )
    };
    let said = with("SCMP_ACT_ERRNO", json!({}));
    assert!(said.stderr.contains("Operation not permitted"), "{said:?}");
    let said = with("SCMP_ACT_ERRNO", json!({"errnoRet": 28}));
    assert!(said.stderr.contains("No space left"), "{said:?}");
    for action in [
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
    ] {
        let said = with(action, json!({}));
        assert!(said.stdout.starts_with("159\n"), "128 + SIGSYS: {said:?}");
    }
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        let said = with(action, json!({}));
        assert!(said.stdout.contains("/made"), "{action}: {said:?}");
    }
    let said = with("SCMP_ACT_TRACE", json!({}));
    assert!(
        said.stderr.contains("not implemented"),
        "ENOSYS without a tracer: {said:?}"
    );
}

#[test]
fn arguments_are_compared() {
    let sb = Sandbox::new();
    // kill(2)'s second argument against every operator.
    let probe = |op: &str, value: u64, two: u64| {
        let out = sb.sh("sleep 5 & kill -0 $! 2>/dev/null && echo 0; kill -10 $! 2>/dev/null && echo 10; kill -9 $! && true", |c| {
            c["linux"]["seccomp"] = profile(&json!([{
                "names": ["kill"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "op": op, "value": value, "valueTwo": two}],
            }]));
        });
        out.stdout
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // What is printed was allowed.
    assert_eq!(probe("SCMP_CMP_EQ", 10, 0), ["0"]);
    assert_eq!(probe("SCMP_CMP_NE", 10, 0), ["10"]);
    assert_eq!(probe("SCMP_CMP_LT", 10, 0), ["10"]);
    assert_eq!(probe("SCMP_CMP_LE", 10, 0), Vec::<String>::new());
    assert_eq!(probe("SCMP_CMP_GT", 9, 0), ["0"]);
    assert_eq!(probe("SCMP_CMP_GE", 10, 0), ["0"]);
    assert_eq!(probe("SCMP_CMP_MASKED_EQ", 2, 2), ["0"]);
}

#[test]
fn filter_is_loaded_with_and_without_no_new_privileges() {
    let sb = Sandbox::new();
    for nnp in [true, false] {
        let out = sb.sh("grep Seccomp: /proc/self/status; mkdir /x", |c| {
            c["process"]["noNewPrivileges"] = json!(nnp);
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            c["process"]["capabilities"] = json!({});
            c["linux"]["seccomp"] = profile(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]));
        });
        assert!(out.stdout.contains("Seccomp:\t2"), "{out:?}");
        assert!(out.stderr.contains("No space left"), "{out:?}");
    }
}

#[test]
fn exec_gets_the_filter_too() {
    let sb = Sandbox::new();
    sb.sleeper("s", |c| {
        c["linux"]["seccomp"] =
            profile(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
    });
    let out = sb.rt(&["exec", "s", "mkdir", "/x"]).exits(1);
    assert!(out.stderr.contains("not permitted"), "{out:?}");
}

#[test]
fn case_61_errno_on_an_action_without_it_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    for action in [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_KILL",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRAP",
    ] {
        let rule = sb.bundle(|c| {
            c["linux"]["seccomp"] =
                profile(&json!([{"names": ["mkdir"], "action": action, "errnoRet": 5}]));
        });
        sb.create("rule", &rule).fails_with("errnoRet");
        let default = sb.bundle(|c| {
            c["linux"]["seccomp"] = json!({"defaultAction": action, "defaultErrnoRet": 5});
        });
        sb.create("default", &default).fails_with("defaultErrnoRet");
        sb.same_as(&before);
    }
}

/// A bundle whose mkdir is reported to `listener`.
fn notifying(
    sb: &Sandbox,
    listener: &Receiver,
    metadata: Option<&str>,
) -> knarr_integration::Bundle {
    sb.sh_bundle("mkdir /asked; sleep 600", |c| {
        c["linux"]["seccomp"] =
            profile(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]));
        c["linux"]["seccomp"]["listenerPath"] = json!(listener.path());
        if let Some(metadata) = metadata {
            c["linux"]["seccomp"]["listenerMetadata"] = json!(metadata);
        }
    })
}

#[test]
fn case_62_listener_gets_one_process_state() {
    let sb = Sandbox::new();
    let listener = Receiver::bind(sb.path("seccomp.sock"));
    let bundle = notifying(&sb, &listener, Some("the metadata"));
    let create = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "n"]));
    let mut messages = listener.messages();
    create.wait().ok();
    let first = messages.remove(0);
    let mut data = first.data.clone();
    for more in messages {
        assert!(
            more.fds.is_empty(),
            "descriptors belong to the first message"
        );
        data.extend(more.data);
    }
    let state: Value = serde_json::from_slice(&data).expect("exactly one JSON document");
    let names = state["fds"].as_array().unwrap();
    assert_eq!(names.len(), first.fds.len());
    assert!(names.contains(&json!("seccompFd")), "{state}");
    assert_eq!(state["metadata"], "the metadata");
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["state"]["id"], "n");
    assert_eq!(state["pid"], sb.state("n")["pid"]);
    assert!(state["ociVersion"].is_string());
    let _keep: Vec<OwnedFd> = first.fds;

    sb.rt(&["start", "n"]).ok();
    let exec = sb.spawn(sb.command(&[
        "exec",
        "--detach",
        "--pid-file",
        sb.path("pid").to_str().unwrap(),
        "n",
        "sleep",
        "600",
    ]));
    let mut messages = listener.messages();
    exec.wait().ok();
    let state: Value = serde_json::from_slice(&messages.remove(0).data).unwrap();
    assert_eq!(state["state"]["status"], "running");
    let pid: u64 = fs::read_to_string(sb.path("pid")).unwrap().parse().unwrap();
    assert_eq!(state["pid"], pid, "the new process");
    assert_eq!(
        state["state"]["pid"],
        sb.state("n")["pid"],
        "the container's init"
    );
}

#[test]
fn case_62_listener_failures() {
    let sb = Sandbox::new();
    // Never there; gone, with its file left; never a socket; one of another type.
    let stale = sb.path("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let file = sb.path("file");
    fs::write(&file, "").unwrap();
    let datagrams = sb.path("datagrams.sock");
    let _datagrams = UnixDatagram::bind(&datagrams).unwrap();
    for path in [PathBuf::from("/nonexistent/socket"), stale, file, datagrams] {
        let bundle = sb.sh_bundle("true", |c| {
            c["linux"]["seccomp"] =
                profile(&json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]));
            c["linux"]["seccomp"]["listenerPath"] = json!(path);
        });
        let before = sb.look();
        let out = sb.create("absent", &bundle).fails_with("listenerPath");
        assert!(out.stderr.contains(path.to_str().unwrap()), "{out:?}");
        assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
        sb.same_as(&before);
    }
    // Gone since create: the container goes on without the process that nobody would watch.
    let listener = Receiver::bind(sb.path("seccomp.sock"));
    let bundle = notifying(&sb, &listener, None);
    bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let create = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "left"]));
    let _kept = listener.messages();
    create.wait().ok();
    sb.rt(&["start", "left"]).ok();
    fs::remove_file(listener.path()).unwrap();
    drop(listener);
    let processes = || cgroup::processes(&bundle.cgroup).len();
    let out = sb.rt(&["exec", "left", "/bin/true"]).exits(255);
    assert!(out.stderr.contains("listenerPath"), "{out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    assert_eq!((sb.status("left").as_str(), processes()), ("running", 1));
    sb.finish("left");
    let before = sb.look();
    let metadata = sb.bundle(|c| {
        c["linux"]["seccomp"] = profile(&json!([]));
        c["linux"]["seccomp"]["listenerMetadata"] = json!("alone");
    });
    sb.create("metadata", &metadata)
        .fails_with("listenerMetadata");
    sb.same_as(&before);
    // Without a rule that notifies the path is not looked at.
    sb.sh("true", |c| {
        c["linux"]["seccomp"] = profile(&json!([]));
        c["linux"]["seccomp"]["listenerPath"] = json!("/nonexistent/socket");
    })
    .ok();
}

#[test]
fn case_63_names_must_not_be_empty() {
    let sb = Sandbox::new();
    let before = sb.look();
    for names in [json!([]), json!([""]), Value::Null] {
        let bundle = sb.bundle(|c| {
            c["linux"]["seccomp"] = profile(&json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]));
        });
        sb.create("names", &bundle).fails();
        sb.same_as(&before);
    }
    // A name that this kernel does not know is no error: profiles are written for many.
    sb.sh("true", |c| {
        c["linux"]["seccomp"] =
            profile(&json!([{"names": ["no_such_call", "mkdir"], "action": "SCMP_ACT_ERRNO"}]));
    })
    .ok();
}

#[test]
fn case_64_newer_calls_get_enosys() {
    let sb = Sandbox::new();
    if !std::path::Path::new("/usr/bin/perl").exists() {
        knarr_integration::skip!("no perl, which makes the system calls by number");
    }
    // 1000 is newer than everything the profile names: a program must see ENOSYS (38) and fall
    // back. kexec_load (246) is older and not allowed: EPERM (1), the profile's default.
    let script = "for my $nr (1000, 246) { syscall($nr, 0, 0, 0, 0); print $!+0, qq(\n); }";
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/usr/bin/perl", "-e", script]);
        c["linux"]["seccomp"] = docker();
        knarr_integration::bundle::push(
            c,
            "/mounts",
            json!({
                "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]
            }),
        );
    });
    for lib in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{lib}"), bundle.rootfs().join(lib)).unwrap();
    }
    assert_eq!(sb.run(&bundle).ok().stdout, "38\n1\n");
}

/// The profile that dockerd writes.
fn docker() -> Value {
    let config: Value = serde_json::from_str(include_str!("../bundles/docker-like.json")).unwrap();
    config["linux"]["seccomp"].clone()
}

/// Neither what sets the container up, or an exec, nor the filters need more of its memory.
#[test]
fn dockers_profile_fits_into_a_megabyte() {
    let sb = Sandbox::new();
    if !cgroup::unified() && !cgroup::v1_controller("memory") {
        knarr_integration::skip!("no memory controller");
    }
    let small = sb.sleeper("small", |c| {
        c["linux"]["seccomp"] = docker();
        c["linux"]["resources"]["memory"] = json!({"limit": 1 << 20, "swap": 1 << 20});
    });
    for _ in 0..3 {
        sb.rt(&["exec", "small", "/bin/true"]).ok();
    }
    assert!(process::alive(small.pid));
}

/// The filter is compiled once, and is in the state; an exec has it or does not run.
#[test]
fn a_damaged_filter_is_no_missing_one() {
    let sb = Sandbox::new();
    sb.sleeper("c", |c| c["linux"]["seccomp"] = docker());
    let state = sb.root().join("c/state.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    let Some(filter) = record["filter"].as_str().map(str::to_owned) else {
        panic!("no filter in {text}");
    };
    let exec = |record: &Value| {
        fs::write(&state, record.to_string()).unwrap();
        sb.rt(&["exec", "c", "grep", "-c", "Seccomp:.2", "/proc/self/status"])
    };
    assert_eq!(exec(&record).ok().text(), "1");
    let (half, odd) = filter.split_at(filter.len() / 32 * 16 + 8);
    for damaged in [
        "",
        half,
        &odd[1..],
        &filter[..8],
        &filter.replace('0', "x"),
        &format!("{filter}{}", &filter[8..].repeat(20)),
        // No flag that exists.
        &format!("80000000{}", &filter[8..]),
    ] {
        record["filter"] = json!(damaged);
        let out = exec(&record).exits(255);
        assert_eq!(out.stdout, "", "{damaged:.40}: {out:?}");
        assert_eq!(out.stderr.lines().count(), 1, "{damaged:.40}: {out:?}");
    }
    for other in [json!(7), json!([filter])] {
        record["filter"] = other;
        assert_eq!(exec(&record).exits(255).stdout, "");
    }
    // As an older version's: compiled from the configuration.
    record.as_object_mut().unwrap().remove("filter");
    assert_eq!(exec(&record).ok().text(), "1");
}

#[test]
fn unknown_words_error() {
    let sb = Sandbox::new();
    let before = sb.look();
    for seccomp in [
        json!({"defaultAction": "SCMP_ACT_NO_SUCH"}),
        json!({}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NO_SUCH"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NO_SUCH"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
               "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}]}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
               "args": [{"index": 1, "op": "SCMP_CMP_NO_SUCH", "value": 1}]}]}),
        json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/nonexistent"}),
    ] {
        let bundle = sb.bundle(|c| c["linux"]["seccomp"] = seccomp.clone());
        assert_ne!(sb.create("bad", &bundle).code, 0, "{seccomp} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn docker_profile_runs() {
    let sb = Sandbox::new();
    let c = sb.sleeper("docker", |c| {
        c["linux"]["seccomp"] = docker();
    });
    assert_eq!(process::status_field(c.pid, "Seccomp"), "2");
    sb.rt(&["exec", "docker", "unshare"]).exits(255);
    sb.rt(&["exec", "docker", "mount", "-t", "tmpfs", "x", "/tmp"])
        .exits(1);
}
