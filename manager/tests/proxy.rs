//! Snapshotters and differs that another process serves: used, stopped, killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_manager::config::Config;
use knarr_manager::manager::Manager;
use knarr_manager::store::digest::Algorithm;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{InfoRequest, WriteAction, WriteContentRequest};
use knarr_proto::services::diff::v1::diff_client::DiffClient;
use knarr_proto::services::diff::v1::{ApplyRequest, DiffRequest};
use knarr_proto::services::images::v1::ListImagesRequest;
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::introspection::v1::PluginsRequest;
use knarr_proto::services::introspection::v1::introspection_client::IntrospectionClient;
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{CreateRequest, DeleteRequest};
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
    ViewSnapshotRequest,
};
use knarr_proto::types::{Descriptor, Mount};
use rustix::process::{Pid, Signal};
use support::{Daemon, command, in_namespace};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};

/// Names the directory that [`serves_when_asked_to`] is to serve.
const SERVE: &str = "KNARR_TEST_SERVE";

/// How long a call to the other process may take here, in seconds.
const DEADLINE: u64 = 2;

/// The other process: this program, as a snapshotter without a collector.
struct Other {
    child: Child,
    socket: PathBuf,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("other.sock");
        let _ = fs::remove_file(&socket);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serves_when_asked_to"])
            .env(SERVE, dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !socket.exists() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "it does not come"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it has, as it says itself.
    async fn infos(&self) -> Vec<Info> {
        let address = format!("unix://{}", self.socket.display());
        let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
        list(&endpoint.connect().await.unwrap(), "native").await
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serves_when_asked_to() {
    let Some(dir) = std::env::var_os(SERVE).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Config {
            root: dir.join("other"),
            state: dir.join("other-state"),
            ..Config::default()
        };
        let manager = Arc::new(Manager::open(&config).unwrap());
        let routes = knarr_manager::api::routes(manager).await.unwrap();
        let listener = tokio::net::UnixListener::bind(dir.join("other.sock")).unwrap();
        let incoming = UnixListenerStream::new(listener);
        let served = Server::builder().add_routes(routes);
        served.serve_with_incoming(incoming).await.unwrap();
    });
}

fn daemon(dir: &Path) -> Daemon {
    let config = dir.join("config.toml");
    let text = format!(
        "[proxy_plugins.far]\ntype = 'snapshot'\naddress = '{}'\nsnapshotter = 'native'\n\
         timeout = {DEADLINE}\ncapabilities = ['example']\nexports = {{ root = '/far' }}\n",
        dir.join("other.sock").display()
    );
    fs::write(&config, text).unwrap();
    let mut command = command(dir);
    command.arg("--config").arg(config);
    Daemon::run(dir, command)
}

async fn list(channel: &Channel, snapshotter: &str) -> Vec<Info> {
    let request = in_namespace(ListSnapshotsRequest {
        snapshotter: snapshotter.to_owned(),
        ..ListSnapshotsRequest::default()
    });
    let listed = SnapshotsClient::new(channel.clone()).list(request).await;
    let mut listed = listed.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(message) = listed.message().await.unwrap() {
        found.extend(message.info);
    }
    found
}

fn leased<T>(message: T) -> Request<T> {
    let mut request = in_namespace(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-lease", "l".parse().unwrap());
    request
}

async fn lease(channel: &Channel) {
    let request = CreateRequest {
        id: "l".to_owned(),
        ..CreateRequest::default()
    };
    let mut leases = LeasesClient::new(channel.clone());
    leases.create(in_namespace(request)).await.unwrap();
}

async fn prepare(channel: &Channel, of: &str, key: &str, parent: &str) -> Result<String, Status> {
    let request = leased(PrepareSnapshotRequest {
        snapshotter: of.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..PrepareSnapshotRequest::default()
    });
    let made = SnapshotsClient::new(channel.clone())
        .prepare(request)
        .await?;
    Ok(made.into_inner().mounts[0].source.clone())
}

async fn commit(channel: &Channel, name: &str, key: &str) -> Result<(), Status> {
    let request = leased(CommitSnapshotRequest {
        snapshotter: "far".to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        ..CommitSnapshotRequest::default()
    });
    let done = SnapshotsClient::new(channel.clone()).commit(request).await;
    done.map(drop)
}

async fn collect(channel: &Channel) -> Result<(), Status> {
    let mut leases = LeasesClient::new(channel.clone());
    let id = "gone".to_owned();
    let request = CreateRequest {
        id: id.clone(),
        ..CreateRequest::default()
    };
    leases.create(in_namespace(request)).await?;
    let request = DeleteRequest { id, sync: true };
    leases.delete(in_namespace(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_snapshots_are_like_any() {
    let dir = tempfile::tempdir().unwrap();
    let other = Other::start(dir.path());
    let mut daemon = daemon(dir.path());
    let channel = daemon.connect().await;
    lease(&channel).await;
    let place = prepare(&channel, "far", "a", "").await.unwrap();
    assert!(place.contains("/other/snapshots/native/"), "{place}");
    fs::write(Path::new(&place).join("file"), "x").unwrap();
    let status = prepare(&channel, "far", "a", "").await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let status = prepare(&channel, "far", "b", "a").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    commit(&channel, "A", "a").await.unwrap();
    let place = prepare(&channel, "far", "a", "A").await.unwrap();
    assert!(Path::new(&place).join("file").exists());
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let (snapshotter, key) = ("far".to_owned(), "v".to_owned());
    let view = leased(ViewSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: "A".to_owned(),
        ..ViewSnapshotRequest::default()
    });
    let viewed = snapshots.view(view).await.unwrap().into_inner().mounts;
    let request = in_namespace(MountsRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
    });
    let mounts = snapshots.mounts(request).await.unwrap().into_inner().mounts;
    assert_eq!(viewed, mounts);
    let usage = in_namespace(UsageRequest {
        snapshotter: snapshotter.clone(),
        key: "A".to_owned(),
    });
    let usage = snapshots.usage(usage).await.unwrap().into_inner();
    assert!(usage.inodes >= 2, "{usage:?}");
    let stat = in_namespace(StatSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: "a".to_owned(),
    });
    let info = snapshots.stat(stat).await.unwrap().into_inner().info;
    assert_eq!(info.unwrap().parent, "A");
    let names = list(&channel, "far").await.into_iter();
    let names: Vec<String> = names.map(|info| info.name).collect();
    assert_eq!(names, ["A", "a", "v"]);
    assert_eq!(other.infos().await.len(), 3);

    let request = PluginsRequest {
        filters: vec!["id==far".to_owned()],
    };
    let mut introspection = IntrospectionClient::new(channel.clone());
    let plugins = introspection.plugins(request);
    let plugin = plugins.await.unwrap().into_inner().plugins.remove(0);
    assert_eq!(plugin.r#type, "io.containerd.snapshotter.v1");
    assert_eq!(plugin.capabilities, ["example"]);
    assert_eq!(plugin.exports["root"], "/far");

    let remove = |key: &str| {
        in_namespace(RemoveSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.to_owned(),
        })
    };
    let status = snapshots.remove(remove("A")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    snapshots.remove(remove("v")).await.unwrap();
    // What the lease kept goes with it, there as well.
    let end = DeleteRequest {
        id: "l".to_owned(),
        sync: true,
    };
    let mut leases = LeasesClient::new(channel.clone());
    leases.delete(in_namespace(end)).await.unwrap();
    assert!(list(&channel, "far").await.is_empty());
    let start = Instant::now();
    while !other.infos().await.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "it stays there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_stalls_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let other = Other::start(dir.path());
    let mut daemon = daemon(dir.path());
    let channel = daemon.connect().await;
    lease(&channel).await;
    prepare(&channel, "far", "a", "").await.unwrap();
    other.signal(Signal::STOP);
    let start = Instant::now();
    let stuck: Vec<_> = (0..100)
        .map(|number| {
            let channel = channel.clone();
            let key = format!("stuck{number}");
            tokio::spawn(async move { prepare(&channel, "far", &key, "").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let begun = Instant::now();
        let request = in_namespace(ListImagesRequest::default());
        let mut images = ImagesClient::new(channel.clone());
        images.list(request).await.unwrap();
        prepare(&channel, "native", &format!("n{round}"), "")
            .await
            .unwrap();
        list(&channel, "far").await;
        collect(&channel).await.unwrap();
        longest = longest.max(begun.elapsed());
    }
    assert!(
        stuck.iter().all(|call| !call.is_finished()) || start.elapsed().as_secs() >= DEADLINE,
        "a stopped process answers"
    );
    assert!(longest < Duration::from_secs(DEADLINE), "{longest:?}");
    for call in stuck {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    other.signal(Signal::CONT);
    let start = Instant::now();
    // What it has made in the meantime, for nobody, goes.
    loop {
        let request = in_namespace(CleanupRequest {
            snapshotter: "far".to_owned(),
        });
        let _ = SnapshotsClient::new(channel.clone()).cleanup(request).await;
        if other.infos().await.len() == 1 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it stays there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    commit(&channel, "A", "a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_went_is_used_again_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = daemon(dir.path());
    let channel = daemon.connect().await;
    lease(&channel).await;
    let status = prepare(&channel, "far", "a", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    for round in 0..2 {
        let other = Other::start(dir.path());
        let key = format!("a{round}");
        let start = Instant::now();
        while let Err(status) = prepare(&channel, "far", &key, "").await {
            assert!(start.elapsed() < Duration::from_secs(30), "{status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(other);
        let status = prepare(&channel, "far", "b", "").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert_eq!(list(&channel, "far").await.len(), 2);
}

#[test]
fn a_configuration_that_is_wrong_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for (text, said) in [
        ("[proxy_plugins.a]\ntype = 'what'\n", "line 2"),
        ("rooot = 'x'\n", "line 1: unknown field `rooot`"),
        (
            "[proxy_plugins.native]\ntype = 'snapshot'\naddress = '/a'\n",
            "proxy_plugins.native: a snapshotter of this name",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let ended = command(dir.path()).arg("--config").arg(&file).output();
        let ended = ended.unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success());
        assert!(
            stderr.contains(said) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    let none = command(dir.path()).args(["--config", "/no/such"]).output();
    assert!(!none.unwrap().status.success());
}

/// A layer without an entry, as a blob.
async fn layer(channel: &Channel) -> Descriptor {
    let data = vec![0; 1024];
    let digest = Algorithm::Sha256.digest(&data).to_string();
    let request = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: "layer".to_owned(),
        expected: digest.clone(),
        total: 1024,
        data: data.into(),
        ..WriteContentRequest::default()
    };
    let mut content = ContentClient::new(channel.clone());
    let request = in_namespace(tokio_stream::iter([request]));
    let mut answers = content.write(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        digest,
        size: 1024,
        ..Descriptor::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_differ_is_asked_first() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: its_differ_is_asked_first: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let target = dir.path().join("target");
    for dir in [&here, &there, &target] {
        fs::create_dir(dir).unwrap();
    }
    let mut other = Daemon::start(&there);
    let far = other.connect().await;
    let config = here.join("config.toml");
    let text = format!(
        "[proxy_plugins.far]\ntype = 'diff'\naddress = '{}'\n",
        there.join("socket").display()
    );
    fs::write(&config, text).unwrap();
    let mut program = command(&here);
    program.arg("--config").arg(config);
    let mut daemon = Daemon::run(&here, program);
    let channel = daemon.connect().await;
    let plugins = IntrospectionClient::new(channel.clone())
        .plugins(PluginsRequest {
            filters: vec!["type==io.containerd.differ.v1".to_owned()],
        })
        .await;
    let names = plugins.unwrap().into_inner().plugins.into_iter();
    let names: Vec<String> = names.map(|plugin| plugin.id).collect();
    assert_eq!(names, ["far", "walking"]);

    // Only the other one has the blob.
    let blob = layer(&far).await;
    let mounts = vec![Mount {
        r#type: "bind".to_owned(),
        source: target.display().to_string(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
        ..Mount::default()
    }];
    let request = ApplyRequest {
        diff: Some(blob.clone()),
        mounts: mounts.clone(),
        ..ApplyRequest::default()
    };
    let mut differ = DiffClient::new(channel.clone());
    let applied = differ.apply(in_namespace(request.clone())).await.unwrap();
    assert_eq!(applied.into_inner().applied.unwrap().digest, blob.digest);
    fs::write(target.join("new"), "x").unwrap();
    let made = differ
        .diff(in_namespace(DiffRequest {
            right: mounts,
            r#ref: "new".to_owned(),
            ..DiffRequest::default()
        }))
        .await;
    let digest = made.unwrap().into_inner().diff.unwrap().digest;
    let info = InfoRequest { digest };
    let mut content = ContentClient::new(far);
    content.info(in_namespace(info.clone())).await.unwrap();
    let mut content = ContentClient::new(channel);
    let status = content.info(in_namespace(info)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");

    // What nobody knows, and nobody there.
    let mut unknown = request.clone();
    unknown.diff.as_mut().unwrap().media_type = "application/x-other".to_owned();
    let status = differ.apply(in_namespace(unknown)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    other.kill();
    let status = differ.apply(in_namespace(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("differ far"), "{status}");
}
