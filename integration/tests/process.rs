//! What the program finds: identity, limits, capabilities, scheduling, descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;

use knarr_integration::bundle::push;
use knarr_integration::{Sandbox, json};

#[test]
fn user_groups_cwd_and_environment() {
    let sb = Sandbox::new();
    let out = sb
        .sh("id -u; id -g; id -G; pwd; echo $A; env | wc -l", |c| {
            c["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]});
            c["process"]["cwd"] = json!("/tmp");
            c["process"]["env"] = json!(["PATH=/bin", "A=b=c", "HOME=/nowhere"]);
        })
        .ok();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines[..5], ["1000", "1001", "1001 5 6", "/tmp", "b=c"]);
}

#[test]
fn case_21_umask_unset_is_not_changed_and_set_is_applied() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("umask", |_| {});
    let with = |mask: &str, command: &str| {
        let runtime = knarr_integration::runtime::path().display();
        let root = sb.root();
        let line = format!(
            "umask {mask}; exec {runtime} --root {} {command}",
            root.display()
        );
        let mut shell = knarr_integration::runtime::command("/bin/sh".as_ref());
        shell.args(["-c", &line]);
        sb.spawn(shell).wait().ok().text().to_owned()
    };
    let run = format!("run --bundle {} umask", bundle.arg());
    assert_eq!(with("0031", &run), "0031");
    // Daemons have 0 for reasons of their own: their containers' files are not for everybody to write.
    assert_eq!(with("0", &run), "0022");
    sb.sleeper("long", |_| {});
    assert_eq!(with("0", "exec long /bin/sh -c umask"), "0022");
    assert_eq!(with("0077", "exec long /bin/sh -c umask"), "0077");
    let out = sb
        .sh("umask", |c| c["process"]["user"]["umask"] = json!(0o077))
        .ok();
    assert_eq!(out.text(), "0077");
}

#[test]
fn what_the_caller_ignores_is_of_no_matter() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("", |c| {
        c["process"]["args"] = json!(["grep", "SigIgn", "/proc/self/status"]);
        c["hooks"] = json!({
            "createRuntime": [{"path": "/bin/true"}],
            "createContainer": [{"path": "/bin/true"}],
            "poststop": [{"path": "/bin/true"}],
        });
    });
    let ignoring = |args: &[&str]| {
        let plain = sb.command(args);
        let mut command = knarr_integration::runtime::command("env".as_ref());
        command
            .env("KNARR_SANDBOX", sb.cgroup())
            .arg("--ignore-signal")
            .arg(plain.get_program())
            .args(plain.get_args());
        sb.spawn(command).wait()
    };
    // Real-time signals are left as they are.
    let standard = |text: &str| {
        let all = text.trim_start_matches("SigIgn:").trim();
        u64::from_str_radix(all, 16).map(|ignored| ignored & 0x7fff_ffff)
    };
    let out = ignoring(&["run", "--bundle", bundle.arg(), "signals"]).ok();
    assert_eq!(standard(out.text()), Ok(0), "{out:?}");
    assert_eq!(out.stderr, "", "{out:?}");
    sb.sleeper("long", |_| {});
    let out = ignoring(&["exec", "long", "grep", "SigIgn", "/proc/self/status"]).ok();
    assert_eq!(standard(out.text()), Ok(0), "{out:?}");
    assert_eq!(
        ignoring(&["exec", "long", "grep", "x", "/proc/self/stat"]).code,
        1
    );
}

#[test]
fn oom_score_is_set_in_a_user_namespace_too() {
    let sb = Sandbox::new();
    sb.sleeper("u", |c| {
        knarr_integration::bundle::user_namespace(c);
        c["process"]["oomScoreAdj"] = json!(600);
    });
    let pid = &sb.state("u")["pid"];
    let own = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(own, "600\n");
    let out = sb
        .rt(&["exec", "u", "cat", "/proc/self/oom_score_adj"])
        .ok();
    assert_eq!(out.stdout, "600\n");
}

#[test]
fn case_22_oom_score_unset_is_not_changed() {
    let sb = Sandbox::new();
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(
        sb.sh("cat /proc/self/oom_score_adj", |_| {}).ok().stdout,
        own
    );
    let out = sb
        .sh("cat /proc/self/oom_score_adj", |c| {
            c["process"]["oomScoreAdj"] = json!(500)
        })
        .ok();
    assert_eq!(out.text(), "500");
    let bundle = sb.bundle(|c| c["process"]["oomScoreAdj"] = json!(1001));
    sb.create("oom", &bundle).fails();
}

#[test]
fn capabilities_are_exactly_those() {
    let sb = Sandbox::new();
    let out = sb
        .sh("grep ^Cap /proc/self/status", |c| {
            c["process"]["capabilities"] = json!({
                "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYSLOG"],
                "effective": ["CAP_KILL"],
                "permitted": ["CAP_KILL", "CAP_CHOWN"],
                "inheritable": ["CAP_KILL", "CAP_CHOWN"],
                "ambient": ["CAP_KILL"],
            });
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .ok();
    let set = |name: &str| {
        let line = out
            .stdout
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap();
        u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
    };
    assert_eq!(set("CapBnd"), (1 << 5) | 1 | (1 << 34));
    assert_eq!(set("CapAmb"), 1 << 5);
    assert_eq!(set("CapInh"), (1 << 5) | 1);
    // An ordinary user's exec leaves permitted and effective what ambient gives.
    assert_eq!(set("CapPrm"), 1 << 5);
    assert_eq!(set("CapEff"), 1 << 5);
}

#[test]
fn case_24_unknown_capability_warns_but_works() {
    let sb = Sandbox::new();
    let out = sb
        .sh("echo fine", |c| {
            push(c, "/process/capabilities/bounding", json!("CAP_NO_SUCH"));
            push(c, "/process/capabilities/permitted", json!("CAP_NO_SUCH"));
        })
        .ok();
    assert_eq!(out.text(), "fine");
    assert!(
        out.stderr.contains("CAP_NO_SUCH"),
        "a warning names it: {out:?}"
    );
}

#[test]
fn case_25_rlimits() {
    let sb = Sandbox::new();
    let out = sb
        .sh(
            "grep -E 'open files|core file|locked' /proc/self/limits",
            |c| {
                c["process"]["rlimits"] = json!([
                    {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                ]);
            },
        )
        .ok();
    let field = |name: &str| -> Vec<String> {
        let line = out
            .stdout
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap();
        line[name.len()..]
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(field("Max open files")[..2], ["100", "200"]);
    assert_eq!(field("Max core file size")[..2], ["0", "0"]);
    let before = sb.look();
    for rlimits in [
        json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        json!([{"type": "RLIMIT_NO_SUCH", "soft": 1, "hard": 1}]),
        json!([{"type": "NOFILE", "soft": 1, "hard": 1}]),
        json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}]),
        json!([{"type": "RLIMIT_NOFILE", "soft": -1, "hard": -1}]),
    ] {
        let bundle = sb.bundle(|c| c["process"]["rlimits"] = rlimits.clone());
        assert_ne!(sb.create("rl", &bundle).code, 0, "{rlimits} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn case_26_args_follow_execvp() {
    let sb = Sandbox::new();
    // PATH is the container's, and so is the directory a relative program starts from.
    let out = sb
        .sh("true", |c| {
            c["process"]["args"] = json!(["id", "-u"]);
            c["process"]["env"] = json!(["PATH=/nonexistent:/bin"]);
        })
        .ok();
    assert_eq!(out.text(), "0");
    let out = sb
        .sh("true", |c| {
            c["process"]["args"] = json!(["./busybox", "echo", "here"]);
            c["process"]["cwd"] = json!("/bin");
        })
        .ok();
    assert_eq!(out.text(), "here");
    let before = sb.look();
    for args in [json!([]), json!([""]), json!(["id"])] {
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = args.clone();
            c["process"]["env"] = json!(["PATH=/nonexistent"]);
        });
        sb.create("args", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn working_directory() {
    let sb = Sandbox::new();
    let before = sb.look();
    for cwd in ["relative", ""] {
        let bundle = sb.bundle(|c| c["process"]["cwd"] = json!(cwd));
        sb.create("cwd", &bundle).fails_with("cwd");
        sb.same_as(&before);
    }
    let bundle = sb.bundle(|c| c["process"]["cwd"] = json!("/bin/busybox"));
    sb.create("cwd", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn case_28_scheduler() {
    let sb = Sandbox::new();
    let c = sb.sleeper("sched", |c| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    });
    let stat = fs::read_to_string(format!("/proc/{}/stat", c.pid)).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[16], "5", "nice");
    assert_eq!(fields[38], "3", "SCHED_BATCH");
    let before = sb.look();
    for scheduler in [
        json!({"policy": "SCHED_NO_SUCH"}),
        json!({}),
        json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NO_SUCH"]}),
        json!({"policy": "SCHED_OTHER", "nice": 30}),
        json!({"policy": "SCHED_OTHER", "priority": 10}),
    ] {
        let bundle = sb.bundle(|c| c["process"]["scheduler"] = scheduler.clone());
        assert_ne!(sb.create("bad", &bundle).code, 0, "{scheduler} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn case_29_io_priority() {
    let sb = Sandbox::new();
    let out = sb
        .sh("ionice", |c| {
            c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        })
        .ok();
    assert!(
        out.stdout.contains("best-effort") && out.stdout.contains('6'),
        "{out:?}"
    );
    let before = sb.look();
    for priority in [
        json!({"priority": 4}),
        json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        json!({"class": "IOPRIO_CLASS_BE", "priority": -1}),
        json!({"class": "no-such", "priority": 0}),
    ] {
        let bundle = sb.bundle(|c| c["process"]["ioPriority"] = priority.clone());
        assert_ne!(sb.create("bad", &bundle).code, 0, "{priority} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn case_30_additional_groups_also_for_root() {
    let sb = Sandbox::new();
    let out = sb
        .sh("id -G; grep Groups /proc/self/status", |c| {
            c["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [10, 20]});
        })
        .ok();
    assert!(out.stdout.starts_with("0 10 20\n"), "{out:?}");
    // The caller's own groups do not come along.
    assert_eq!(sb.sh("id -G", |_| {}).ok().text(), "0");
}

#[test]
fn no_new_privileges() {
    let sb = Sandbox::new();
    for (value, bit) in [(true, "1"), (false, "0")] {
        let out = sb
            .sh("grep NoNewPrivs /proc/self/status", |c| {
                c["process"]["noNewPrivileges"] = json!(value);
            })
            .ok();
        assert!(out.text().ends_with(bit), "{out:?}");
    }
}

#[test]
fn personality() {
    let sb = Sandbox::new();
    let out = sb
        .sh("uname -m", |c| {
            c["linux"]["personality"] = json!({"domain": "LINUX32"})
        })
        .ok();
    assert_eq!(out.text(), "i686");
    let bundle = sb.bundle(|c| c["linux"]["personality"] = json!({"domain": "NO_SUCH"}));
    sb.create("bad", &bundle).fails();
}

#[test]
fn case_43_only_three_descriptors_are_open() {
    let sb = Sandbox::new();
    let out = sb.sh("ls /proc/self/fd", |_| {}).ok();
    assert_eq!(out.stdout, "0\n1\n2\n3\n", "3 is ls's own");
    let c = sb.sleeper("fds", |_| {});
    let mut fds: Vec<_> = fs::read_dir(format!("/proc/{}/fd", c.pid))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
}

#[test]
fn case_65_memory_policy() {
    let sb = Sandbox::new();
    let c = sb.sleeper("mem", |c| {
        c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    });
    let maps = fs::read_to_string(format!("/proc/{}/numa_maps", c.pid)).unwrap_or_default();
    if !maps.is_empty() {
        assert!(
            maps.contains("bind:0") || maps.contains("bind=static:0"),
            "{maps}"
        );
    }
    let before = sb.look();
    for policy in [
        json!({"mode": "MPOL_BIND"}),
        json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
        json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
        json!({"mode": "MPOL_NO_SUCH", "nodes": "0"}),
        json!({"mode": "MPOL_BIND", "nodes": "x"}),
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NO_SUCH"]}),
        json!({}),
    ] {
        let bundle = sb.bundle(|c| c["linux"]["memoryPolicy"] = policy.clone());
        assert_ne!(sb.create("bad", &bundle).code, 0, "{policy} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn session_keyring_is_its_own_unless_the_callers_is_kept() {
    let sb = Sandbox::new();
    if fs::read_to_string("/proc/keys").is_err() {
        knarr_integration::skip!("this kernel has no /proc/keys");
    }
    // Keyrings are seen by all of the host's root.
    let id = |name: &str| format!("{name}-{}", std::process::id());
    let has_keyring = |id: &str| {
        let keys = fs::read_to_string("/proc/keys").unwrap();
        keys.contains(&format!("_ses.{id}: "))
    };
    let (own, callers) = (id("own"), id("callers"));
    sb.sleeper(&own, |_| {});
    assert!(has_keyring(&own));
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    sb.rt(&[
        "create",
        "--no-new-keyring",
        "--bundle",
        bundle.arg(),
        &callers,
    ])
    .ok();
    sb.rt(&["start", &callers]).ok();
    sb.rt(&["exec", "--detach", &callers, "sleep", "600"]).ok();
    assert!(!has_keyring(&callers));
}
