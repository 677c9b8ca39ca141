//! The mounts that the daemon makes for clients: real ones, in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{CreateRequest, DeleteRequest};
use knarr_proto::services::mounts::v1::mounts_client::MountsClient;
use knarr_proto::services::mounts::v1::{
    ActivateRequest, DeactivateRequest, InfoRequest, ListRequest, UpdateRequest,
};
use knarr_proto::types::{ActivationInfo, Mount};
use support::{Daemon, command, in_namespace};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The daemon with mounts of its own, or why not.
fn start(dir: &Path) -> Daemon {
    let daemon = command(dir);
    let mut own = Command::new("unshare");
    own.args(["-m", "--propagation", "private"]);
    own.arg(daemon.get_program()).args(daemon.get_args());
    Daemon::run(dir, own)
}

fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {test}: needs root, to mount");
    }
    root
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: kind.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

async fn activate(
    channel: &Channel,
    name: &str,
    mounts: &[Mount],
    temporary: bool,
    lease: Option<&'static str>,
) -> Result<ActivationInfo, Status> {
    let mut request = in_namespace(ActivateRequest {
        name: name.to_owned(),
        mounts: mounts.to_vec(),
        temporary,
        ..ActivateRequest::default()
    });
    if let Some(lease) = lease {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-lease", lease.parse().unwrap());
    }
    let answer = MountsClient::new(channel.clone()).activate(request).await?;
    Ok(answer.into_inner().info.unwrap())
}

/// A lease: what nothing refers to goes with the next collection.
async fn create_lease(channel: &Channel, id: &str) {
    let request = CreateRequest {
        id: id.to_owned(),
        ..CreateRequest::default()
    };
    let mut leases = LeasesClient::new(channel.clone());
    leases.create(in_namespace(request)).await.unwrap();
}

async fn deactivate(channel: &Channel, name: &str) -> Result<(), Status> {
    let name = name.to_owned();
    let request = in_namespace(DeactivateRequest { name });
    let done = MountsClient::new(channel.clone()).deactivate(request).await;
    done.map(|_| ())
}

async fn names(channel: &Channel, filter: &[&str]) -> Vec<String> {
    let filters = filter.iter().map(ToString::to_string).collect();
    let request = in_namespace(ListRequest { filters });
    let listed = MountsClient::new(channel.clone()).list(request).await;
    let mut listed = listed.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(message) = listed.message().await.unwrap() {
        names.push(message.info.unwrap().name);
    }
    names
}

/// The mount points below the daemon's directory, as it sees them.
fn mounted(daemon: &Daemon, dir: &Path) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.child.id())).unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let below = dir.join("state/mounts").display().to_string();
    points
        .filter(|point| point.starts_with(&below))
        .map(str::to_owned)
        .collect()
}

/// A path as the daemon sees it.
fn seen(daemon: &Daemon, path: &str) -> std::path::PathBuf {
    format!("/proc/{}/root{path}", daemon.child.id()).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_cannot_do_is_done() {
    if !root("what_the_client_cannot_do_is_done") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    let channel = daemon.connect().await;
    create_lease(&channel, "l").await;
    let plain = [mount("bind", "/usr", &["rbind", "ro"])];
    let status = activate(&channel, "plain", &plain, false, None).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);

    let stack = [
        mount("tmpfs", "tmpfs", &["size=1m", "nosuid"]),
        mount("bind", "/usr", &["rbind", "ro"]),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0751",
                "X-containerd.mkdir.path={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "workdir={{ mount 0 }}/work",
                "lowerdir={{ overlay 1 1 }}",
            ],
        ),
    ];
    let info = activate(&channel, "a", &stack, false, Some("l"))
        .await
        .unwrap();
    let points: Vec<&str> = info.active.iter().map(|one| &*one.mount_point).collect();
    assert_eq!(points.len(), 2, "{info:?}");
    let left = &info.system[0];
    assert_eq!((&*left.r#type, info.system.len()), ("overlay", 1));
    assert_eq!(left.options[0], format!("upperdir={}/upper", points[0]));
    assert_eq!(left.options[2], format!("lowerdir={}", points[1]));
    assert!(seen(&daemon, &left.options[0]["upperdir=".len()..]).is_dir());
    assert!(seen(&daemon, points[1]).join("bin").exists());
    let status = activate(&channel, "a", &stack, false, None).await;
    assert_eq!(status.unwrap_err().code(), Code::AlreadyExists);
    let request = in_namespace(InfoRequest { name: "a".into() });
    let known = MountsClient::new(channel.clone()).info(request).await;
    assert_eq!(known.unwrap().into_inner().info, Some(info));

    // All of it, where the client asks for a place to look at.
    let info = activate(&channel, "t", &stack, true, Some("l"))
        .await
        .unwrap();
    assert_eq!((info.active.len(), info.system.len()), (3, 1));
    let whole = &info.system[0];
    assert_eq!((&*whole.r#type, &*whole.options[0]), ("bind", "rbind"));
    fs::write(seen(&daemon, &whole.source).join("new"), "x").unwrap();

    assert_eq!(names(&channel, &[]).await, ["a", "t"]);
    assert_eq!(names(&channel, &["name==t"]).await, ["t"]);
    assert_eq!(mounted(&daemon, dir.path()).len(), 5);
    for name in ["a", "t"] {
        deactivate(&channel, name).await.unwrap();
        let status = deactivate(&channel, name).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    assert!(mounted(&daemon, dir.path()).is_empty());
    let left = fs::read_dir(dir.path().join("state/mounts")).unwrap();
    assert_eq!(left.count(), 0);
    let request = in_namespace(UpdateRequest::default());
    let status = MountsClient::new(channel).update(request).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_the_middle_leaves_nothing() {
    if !root("what_fails_in_the_middle_leaves_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    let channel = daemon.connect().await;
    let tmpfs = mount("tmpfs", "tmpfs", &[]);
    for (wrong, code) in [
        (mount("nonesuch", "x", &[]), Code::InvalidArgument),
        (mount("bind", "/none/such", &["bind"]), Code::NotFound),
        (
            mount("format/bind", "{{ mount 1 }}", &["bind"]),
            Code::InvalidArgument,
        ),
        (
            mount("format/bind", "{{ oops", &["bind"]),
            Code::InvalidArgument,
        ),
        (mount("tmpfs", "a\0b", &[]), Code::InvalidArgument),
        (
            mount("tmpfs", "tmpfs", &[&"x".repeat(5000)]),
            Code::InvalidArgument,
        ),
        (
            mount(
                "mkdir/bind",
                "/usr",
                &["X-containerd.mkdir.path=/elsewhere", "bind"],
            ),
            Code::Unimplemented,
        ),
        (mount("loop", "/none/such", &[]), Code::NotFound),
    ] {
        let mounts = [tmpfs.clone(), wrong.clone()];
        let status = activate(&channel, "a", &mounts, true, None).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), code, "{wrong:?}: {status}");
        assert!(mounted(&daemon, dir.path()).is_empty(), "{wrong:?}");
    }
    let many = vec![tmpfs; 1000];
    let status = activate(&channel, "a", &many, true, None).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    assert!(names(&channel, &[]).await.is_empty());
}

/// A file system in a file, through a loop device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_block_devices() {
    if !root("files_are_block_devices") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    if !made.is_ok_and(|status| status.success()) || !Path::new("/dev/loop-control").exists() {
        return println!("skipped: files_are_block_devices: no mkfs.ext4 or no loop devices");
    }
    let image = image.to_str().unwrap();
    let mut daemon = start(dir.path());
    let channel = daemon.connect().await;
    create_lease(&channel, "l").await;
    let option = [mount("ext4", image, &["loop", "ro"])];
    let device = [
        mount("loop", image, &[]),
        mount("format/ext4", "{{ source 0 }}", &["rw"]),
    ];
    for (name, mounts, temporary) in [("o", &option[..], true), ("d", &device, true)] {
        let info = activate(&channel, name, mounts, temporary, Some("l"))
            .await
            .unwrap();
        let place = seen(&daemon, &info.system[0].source);
        assert!(place.join("lost+found").is_dir(), "{info:?}");
        deactivate(&channel, name).await.unwrap();
    }
    let info = activate(&channel, "d", &device, false, Some("l"))
        .await
        .unwrap();
    let [node] = &info.system[..] else {
        panic!("{info:?}")
    };
    assert!(node.source.starts_with("/dev/loop"), "{info:?}");
    let file = format!(
        "/sys/block/{}/loop/backing_file",
        &node.source["/dev/".len()..]
    );
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), image);
    deactivate(&channel, "d").await.unwrap();
    assert!(!Path::new(&file).exists(), "the loop device stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_them_and_a_crash_does_not() {
    if !root("a_lease_keeps_them_and_a_crash_does_not") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    let channel = daemon.connect().await;
    let mut leases = LeasesClient::new(channel.clone());
    create_lease(&channel, "kept").await;
    create_lease(&channel, "other").await;
    let mounts = [mount("tmpfs", "tmpfs", &[])];
    for (name, lease) in [("kept", Some("kept")), ("free", None)] {
        activate(&channel, name, &mounts, true, lease)
            .await
            .unwrap();
    }
    let end = |id: &str| DeleteRequest {
        id: id.to_owned(),
        sync: true,
    };
    leases.delete(in_namespace(end("other"))).await.unwrap();
    assert_eq!(names(&channel, &[]).await, ["kept"]);
    assert_eq!(mounted(&daemon, dir.path()).len(), 1);

    // The daemon's mounts end with the last process of its namespace: as with the machine.
    daemon.kill();
    let mut daemon = start(dir.path());
    let channel = daemon.connect().await;
    for _ in 0..500 {
        if names(&channel, &[]).await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(names(&channel, &[]).await.is_empty());
    let mut leases = LeasesClient::new(channel.clone());
    leases.delete(in_namespace(end("kept"))).await.unwrap();
    let left = fs::read_dir(dir.path().join("state/mounts")).unwrap();
    assert_eq!(left.count(), 0);
}
