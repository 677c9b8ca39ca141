//! What holds for every snapshotter, run for each. Mounts are real, in a namespace of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{Driver, Local, Mount, Native, Overlayfs, disk};
use crate::error::Code;
use crate::store::database::Database;
use crate::store::filter::Filters;
use crate::store::name::Labels;
use crate::store::schema::SnapshotKind::{Active, Committed, View};

const SPACE: &str = "default";

struct Place {
    dir: tempfile::TempDir,
    make: fn(&Path) -> Box<dyn Driver>,
}

impl Place {
    fn open(&self) -> Local {
        let database = Database::open(&self.dir.path().join("db")).unwrap();
        let driver = (self.make)(&self.dir.path().join("snapshots"));
        Local::new(Arc::new(database), driver)
    }

    fn directories(&self) -> usize {
        disk::numbers(&self.dir.path().join("snapshots"))
            .unwrap()
            .len()
    }

    /// Until what is removed in the background is gone.
    async fn settles_at(&self, count: usize) {
        for _ in 0..500 {
            if self.directories() == count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(self.directories(), count);
    }
}

fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {test}: needs root, to mount and to give files away");
    }
    root
}

/// Runs a script where a snapshot is mounted.
fn inside(mounts: &[Mount], script: &str) -> String {
    let [mount] = mounts else {
        panic!("expected one mount: {mounts:?}");
    };
    // mount(8) takes `rbind` and `ro` for a bind mount in two steps.
    let command = "mount -t \"$1\" -o \"$2\" \"$3\" /mnt && cd /mnt && exec sh -c \"$4\"";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", command, "sh"])
        .args([&mount.kind, &mount.options.join(","), &mount.source])
        .arg(script)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {output:?} on {mount:?}");
    text
}

async fn active(it: &Local, key: &str, parent: &str) -> Vec<Mount> {
    it.prepare(SPACE, key, parent, Active, Labels::new(), None)
        .await
        .unwrap()
}

async fn layer(it: &Local, name: &str, parent: &str, script: &str) {
    let mounts = active(it, "work", parent).await;
    inside(&mounts, script);
    it.commit(SPACE, name, "work", Labels::new(), None)
        .await
        .unwrap();
}

async fn layers_add_up(place: &Place) {
    let it = place.open();
    layer(
        &it,
        "one",
        "",
        "echo 1 > a; echo 1 > b; mkdir d; echo 1 > d/x; chmod 751 .; chown 7:8 .",
    )
    .await;
    layer(&it, "two", "one", "echo 2 > b; rm a; echo 2 > d/y").await;
    layer(&it, "three", "two", "rm -r d; mkdir d; echo 3 > d/z").await;
    let look = "find . | sort | tr '\n' ' '; cat b; stat -c '%a %u %g' .";
    for (key, kind) in [("v", View), ("r", Active)] {
        let mounts = it
            .prepare(SPACE, key, "three", kind, Labels::new(), None)
            .await
            .unwrap();
        assert_eq!(
            inside(&mounts, look),
            ". ./b ./d ./d/z 2\n751 7 8\n",
            "{key}"
        );
        assert_eq!(it.mounts(SPACE, key).await.unwrap(), mounts);
    }
    let below = it
        .prepare(SPACE, "v1", "one", View, Labels::new(), None)
        .await
        .unwrap();
    assert_eq!(
        inside(&below, "find . | sort | tr '\n' ' '"),
        ". ./a ./b ./d ./d/x "
    );
    inside(
        &it.mounts(SPACE, "v").await.unwrap(),
        "! touch new 2>/dev/null",
    );
}

/// Layers that were unpacked side by side are joined when they are committed.
async fn layers_are_joined_at_commit(place: &Place) {
    let it = place.open();
    let join = |name: &'static str, key: &'static str, parent: &'static str| {
        it.commit_upon(SPACE, name, key, parent, Labels::new(), None)
    };
    let scripts = [
        ("c", "echo 3 > three; mkdir d; echo 3 > d/z"),
        ("b", "echo 2 > two; mkdir d; echo 2 > d/y"),
        ("a", "echo 1 > one; chmod 751 .; chown 7:8 ."),
    ];
    for (key, script) in scripts {
        inside(&active(&it, key, "").await, script);
    }
    if !it.capabilities().iter().any(|one| one == "rebase") {
        join("A", "a", "").await.unwrap();
        let error = join("B", "b", "A").await.unwrap_err();
        return assert_eq!(error.code(), Code::Unimplemented, "{error}");
    }
    let error = join("A", "a", "none").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let error = join("A", "a", "b").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    join("A", "a", "").await.unwrap();
    join("B", "b", "A").await.unwrap();
    assert_eq!(it.stat(SPACE, "B").unwrap().snapshot.parent, "A");
    let error = join("B", "c", "A").await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    join("C", "c", "B").await.unwrap();
    active(&it, "x", "A").await;
    let error = join("X", "x", "B").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    join("X", "x", "A").await.unwrap();
    let view = it.prepare(SPACE, "v", "C", View, Labels::new(), None);
    let look = "find . | sort | tr '\n' ' '; stat -c '%a %u %g' .";
    assert_eq!(
        inside(&view.await.unwrap(), look),
        ". ./d ./d/y ./d/z ./one ./three ./two 751 7 8\n"
    );
    let error = it.remove(SPACE, "A").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
}

async fn the_rules_hold(place: &Place) {
    let it = place.open();
    let code =
        |result: Result<_, crate::error::Error>| result.map(|_: Vec<Mount>| ()).unwrap_err().code();
    let prepare = |key: &'static str, parent: &'static str| {
        it.prepare(SPACE, key, parent, Active, Labels::new(), None)
    };
    active(&it, "a", "").await;
    assert_eq!(code(prepare("a", "").await), Code::AlreadyExists);
    assert_eq!(code(prepare("", "").await), Code::InvalidArgument);
    assert_eq!(code(prepare("b", "none").await), Code::NotFound);
    assert_eq!(code(prepare("b", "a").await), Code::FailedPrecondition);
    it.commit(SPACE, "A", "a", Labels::new(), None)
        .await
        .unwrap();
    assert_eq!(code(it.mounts(SPACE, "A").await), Code::FailedPrecondition);
    assert_eq!(code(it.mounts(SPACE, "a").await), Code::NotFound);
    active(&it, "a", "A").await;
    let again = it
        .commit(SPACE, "A", "a", Labels::new(), None)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    let parent = it.remove(SPACE, "A").await.unwrap_err();
    assert_eq!(parent.code(), Code::FailedPrecondition, "{parent}");
    it.prepare(SPACE, "v", "A", View, Labels::new(), None)
        .await
        .unwrap();
    let view = it
        .commit(SPACE, "V", "v", Labels::new(), None)
        .await
        .unwrap_err();
    assert_eq!(view.code(), Code::FailedPrecondition, "{view}");
    assert_eq!(it.stat("other", "A").unwrap_err().code(), Code::NotFound);
    for key in ["v", "a", "A"] {
        it.remove(SPACE, key).await.unwrap();
        let error = it.remove(SPACE, key).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
    }
    place.settles_at(0).await;
}

async fn records_tell(place: &Place) {
    let it = place.open();
    let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
    layer(
        &it,
        "one",
        "",
        "head -c 100000 /dev/urandom > f; ln f g; mkdir d",
    )
    .await;
    it.prepare(SPACE, "a", "one", Active, labels.clone(), None)
        .await
        .unwrap();
    let stat = it.stat(SPACE, "a").unwrap().snapshot;
    assert_eq!(
        (stat.kind(), &*stat.parent, &stat.labels),
        (Active, "one", &labels)
    );
    assert_eq!(it.stat(SPACE, "one").unwrap().snapshot.kind(), Committed);
    let usage = it.usage(SPACE, "one").await.unwrap();
    assert_eq!(
        usage.inodes, 3,
        "the root, a file of two names, a directory"
    );
    assert!((100_000..140_000).contains(&usage.size), "{usage:?}");
    let changed = it
        .relabel(SPACE, "a", |labels| {
            labels.insert("k".to_owned(), "w".to_owned());
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(changed.snapshot.labels["k"], "w");
    for (filter, expected) in [
        ("kind==active", vec!["a"]),
        ("parent==one", vec!["a"]),
        ("labels.k==w", vec!["a"]),
        ("name==one", vec!["one"]),
        ("name", vec!["a", "one"]),
    ] {
        let mut found = Vec::new();
        let filters = Filters::parse(&[filter]).unwrap();
        it.list(SPACE, &filters, |named| found.push(named.key))
            .unwrap();
        assert_eq!(found, expected, "{filter}");
    }
}

async fn what_a_crash_leaves_is_removed(place: &Place) {
    let it = place.open();
    layer(&it, "one", "", "echo 1 > a").await;
    active(&it, "a", "one").await;
    drop(it);
    // As if the program had ended between the directory and its record, or the other way round.
    let lost = place.dir.path().join("snapshots/999999");
    fs::create_dir_all(lost.join("fs/d")).unwrap();
    fs::write(lost.join("fs/d/f"), "x").unwrap();
    let it = place.open();
    it.clean_up().await.unwrap();
    assert_eq!(place.directories(), 2);
    assert_eq!(
        inside(&it.mounts(SPACE, "a").await.unwrap(), "cat a"),
        "1\n"
    );
    // Numbers are not given twice.
    active(&it, "b", "one").await;
    assert_eq!(place.directories(), 3);
}

async fn of_two_clients_one_wins(place: &Place) {
    let it = place.open();
    let tries = (0..8).map(|_| {
        let it = it.clone();
        tokio::spawn(async move {
            it.prepare(SPACE, "a", "", Active, Labels::new(), None)
                .await
        })
    });
    let mut won = 0;
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.code(), Code::AlreadyExists, "{error}"),
        }
    }
    assert_eq!(won, 1);
    place.settles_at(1).await;
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod overlayfs {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() {
                run(stringify!($test), |dir| Box::new(Overlayfs::open(dir, false).unwrap()), async |place| super::$test(&place).await).await;
            })*
        }
        mod native {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() {
                run(stringify!($test), |dir| Box::new(Native::open(dir).unwrap()), async |place| super::$test(&place).await).await;
            })*
        }
    };
}

suite!(
    layers_add_up,
    layers_are_joined_at_commit,
    the_rules_hold,
    records_tell,
    what_a_crash_leaves_is_removed,
    of_two_clients_one_wins,
);

async fn run(test: &str, make: fn(&Path) -> Box<dyn Driver>, body: impl AsyncFnOnce(Place)) {
    if root(test) {
        let dir = tempfile::tempdir().unwrap();
        body(Place { dir, make }).await;
    }
}

/// A copy is like its original in everything that a program can see.
#[test]
fn a_copy_is_alike() {
    if !root("a_copy_is_alike") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("d/e")).unwrap();
    let script = "echo x > f; ln f d/g; chmod 6755 f; chown 3:4 f; chmod 6755 f; ln -s /nowhere s; chown -h 5:6 s;
        mknod n c 1 3; mkfifo p; chmod 1777 d; truncate -s 10M sparse; echo end >> sparse;
        touch -h -d '1969-12-31 23:59:59.123456789Z' s f d/e; touch -d '2001-02-03 04:05:06.789Z' d .";
    let made = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&from)
        .status();
    assert!(made.unwrap().success());
    rustix::fs::setxattr(
        from.join("f"),
        "user.a",
        b"value",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::lsetxattr(
        from.join("s"),
        "trusted.b",
        b"",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    symlink("f", from.join("d/link")).unwrap();
    disk::copy(&from, &to).unwrap();
    let list = |dir: &Path| {
        let look = "find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | sort; getfattr -hd -m- -R . 2>/dev/null || true";
        let out = Command::new("sh")
            .args(["-ec", look])
            .current_dir(dir)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(list(&from), list(&to));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(to.join("f"), "user.a", &mut value).unwrap();
    assert_eq!(&value[..length], b"value");
    assert_eq!(
        rustix::fs::lgetxattr(to.join("s"), "trusted.b", &mut value),
        Ok(0)
    );
    let sparse = fs::metadata(to.join("sparse")).unwrap();
    assert!(sparse.blocks() < 100, "{} blocks", sparse.blocks());
    let device = fs::symlink_metadata(to.join("n")).unwrap();
    assert_eq!(
        device.rdev(),
        fs::symlink_metadata(from.join("n")).unwrap().rdev()
    );
    assert_eq!(
        fs::metadata(to.join("f")).unwrap().permissions().mode() & 0o7777,
        0o6755
    );
    disk::remove(&to).unwrap();
    disk::remove(&to).unwrap();
}
