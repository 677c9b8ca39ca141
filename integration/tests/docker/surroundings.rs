//! What a container shares with others: namespaces, networks, volumes.

use std::fs;

use knarr_integration::daemon::PATIENCE;
use knarr_integration::docker::Docker;
use knarr_integration::{cgroup, process};

pub fn process_namespace_of_the_host(it: &Docker) {
    let host = it.pen.run(&["readlink", "/proc/self/ns/pid"]).ok();
    let out = it
        .sh(
            &["--pid=host"],
            "readlink /proc/self/ns/pid; ps | grep -c dockerd",
        )
        .ok();
    assert_eq!(out.lines()[0], host.text());
    let box_ = it.detached(&["--pid=host"], "hostpid", "sleep 604 & sleep 605 & wait");
    let group = box_.cgroup();
    assert!(process::eventually(PATIENCE, || cgroup::processes(&group)
        .len()
        >= 3));
    it.docker(&["kill", "hostpid"]).ok();
    box_.becomes("{{.State.Status}}", "exited");
    assert!(
        process::eventually(PATIENCE, || cgroup::processes(&group).is_empty()),
        "processes are left"
    );
    let host = it
        .sh(
            &["--ipc=host", "--uts=host", "--userns=host"],
            "readlink /proc/self/ns/ipc",
        )
        .ok();
    let own = it.pen.run(&["readlink", "/proc/self/ns/ipc"]).ok();
    assert_eq!(host.lines()[0], own.text());
}

pub fn namespaces_of_another_container(it: &Docker) {
    let box_ = it.detached(&["--ipc=shareable"], "shares", "sleep 600");
    let links = "for n in pid net ipc; do readlink /proc/self/ns/$n; done";
    let theirs = box_.exec(&[], links).ok();
    let flags = [
        "--pid=container:shares",
        "--network=container:shares",
        "--ipc=container:shares",
    ];
    let ours = it.sh(&flags, links).ok();
    assert_eq!(ours.stdout, theirs.stdout);
}

pub fn networks(it: &Docker) {
    let out = it
        .sh(&["--network", "none"], "ls /sys/class/net; ip addr show lo")
        .ok();
    assert_eq!(out.lines()[0], "lo");
    assert!(out.stdout.contains("127.0.0.1"), "{out:#?}");
    let host = it.pen.run(&["readlink", "/proc/self/ns/net"]).ok();
    let out = it
        .sh(&["--network", "host"], "readlink /proc/self/ns/net")
        .ok();
    assert_eq!(out.text(), host.text());
    let server = it.detached(&[], "server", "while :; do echo hello | nc -l -p 80; done");
    let address = server.inspect("{{.NetworkSettings.Networks.bridge.IPAddress}}");
    let script = format!(
        "until nc {address} 80 </dev/null; do sleep 0.1; done; ip route; cat /etc/resolv.conf /etc/hosts >/dev/null"
    );
    let out = it.sh(&[], &script).ok();
    assert!(out.stdout.starts_with("hello\n"), "{out:#?}");
    assert!(out.stdout.contains("default via"), "{out:#?}");
    // Names of containers on a network of their own.
    it.docker(&["network", "create", "named"]).ok();
    let named = it.detached(
        &["--network", "named"],
        "bynameserver",
        "while :; do echo by-name | nc -l -p 80; done",
    );
    let out = it
        .sh(
            &["--network", "named"],
            "until nc bynameserver 80 </dev/null; do sleep 0.1; done",
        )
        .ok();
    assert_eq!(out.text(), "by-name");
    // A running container gets a second network.
    it.docker(&["network", "connect", "named", "server"]).ok();
    server.exec(&[], "ip addr show eth1 | grep -q inet").ok();
    it.docker(&["network", "disconnect", "named", "server"])
        .ok();
    drop(named);
    it.docker(&["network", "rm", "named"]).ok();
}

pub fn published_ports(it: &Docker) {
    let _box = it.detached(
        &[
            "-p",
            "127.0.0.1:8099:80",
            "--hostname",
            "web",
            "--add-host",
            "far:10.9.9.9",
            "--dns",
            "10.8.8.8",
        ],
        "publishes",
        "while :; do echo published | nc -l -p 80; done",
    );
    assert!(process::eventually(PATIENCE, || {
        it.pen
            .run(&["busybox", "nc", "-w", "2", "127.0.0.1", "8099"])
            .stdout
            == "published\n"
    }));
    let out = it
        .docker(&[
            "exec",
            "publishes",
            "sh",
            "-c",
            "hostname; cat /etc/hosts /etc/resolv.conf",
        ])
        .ok();
    assert!(out.stdout.starts_with("web\n"), "{out:#?}");
    assert!(out.stdout.contains("10.9.9.9\tfar"), "{out:#?}");
    assert!(out.stdout.contains("10.8.8.8"), "{out:#?}");
}

pub fn volumes_and_tmpfs(it: &Docker) {
    let dir = it.pen.path("given");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "there\n").unwrap();
    let bind = |options: &str| format!("{}:/given{options}", dir.display());
    let out = it
        .sh(
            &["-v", &bind("")],
            "cat /given/file; echo back > /given/made",
        )
        .ok();
    assert_eq!(out.stdout, "there\n");
    assert_eq!(fs::read_to_string(dir.join("made")).unwrap(), "back\n");
    let out = it
        .sh(&["-v", &bind(":ro")], "touch /given/x || echo refused")
        .ok();
    assert_eq!(out.text(), "refused");
    for options in [":rslave", ":rshared", ":rprivate", ":ro,rprivate"] {
        it.sh(&["-v", &bind(options)], "test -e /given/file").ok();
    }
    let file = format!("{}:/etc/given", dir.join("file").display());
    it.sh(&["-v", &file], "grep -q there /etc/given").ok();
    // A named volume keeps what a container wrote, and starts with what the image has there.
    it.sh(
        &["-v", "kept:/etc"],
        "grep -q root /etc/passwd && echo x > /etc/mine",
    )
    .ok();
    it.sh(
        &["-v", "kept:/data"],
        "test -e /data/mine && test -e /data/passwd",
    )
    .ok();
    it.docker(&["volume", "rm", "kept"]).ok();
    let out = it
        .sh(&["--tmpfs", "/fast:rw,size=1m,mode=1770,noexec"], "grep ' /fast ' /proc/mounts; stat -c %a /fast; dd if=/dev/zero of=/fast/x bs=1k count=2000 2>/dev/null || echo full")
        .ok();
    for wanted in ["size=1024k", "noexec", "1770", "full"] {
        assert!(out.stdout.contains(wanted), "{wanted}: {out:#?}");
    }
    let mount = format!("type=bind,src={},dst=/m,readonly", dir.display());
    it.sh(
        &[
            "--mount",
            &mount,
            "--mount",
            "type=tmpfs,dst=/t,tmpfs-size=1m",
        ],
        "test -e /m/file && ! touch /m/y",
    )
    .ok();
    it.sh(&["--volumes-from", "nobody"], "true").exits(125);
    // Copying into and out of one that runs.
    let box_ = it.detached(&[], "copies", "sleep 600");
    it.docker(&["cp", dir.join("file").to_str().unwrap(), "copies:/tmp/file"])
        .ok();
    box_.exec(&[], "grep -q there /tmp/file").ok();
}
