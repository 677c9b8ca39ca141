//! Tests of the database: what is there after kills, failures and restarts.

use std::sync::atomic::AtomicUsize;

use super::super::schema::{Namespace, Typed};
use super::*;

fn label(value: &str) -> Namespace {
    Namespace {
        labels: [("key".to_owned(), value.to_owned())].into(),
    }
}

fn stored(database: &Database, name: &str) -> Option<String> {
    let row: Option<Namespace> = database.read(|read| read.get(NAMESPACES, name)).unwrap();
    row.map(|row| row.labels.values().next().cloned().unwrap_or_default())
}

async fn store(database: &Database, name: &'static str, value: &'static str) {
    let change = move |write: &Write| write.put(NAMESPACES, name, &label(value));
    database.write(change).await.unwrap();
}

fn topic(database: &Database, after: u64) -> Vec<(u64, String)> {
    let events = database.read(|read| read.events_after(after, 10)).unwrap();
    events
        .into_iter()
        .map(|(number, event)| (number, event.topic))
        .collect()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path).unwrap();
    store(&database, "a", "1").await;
    assert_eq!(stored(&database, "a").as_deref(), Some("1"));
    drop(database);
    let database = Database::open(&path).unwrap();
    assert_eq!(stored(&database, "a").as_deref(), Some("1"));
    assert_eq!(stored(&database, "b"), None);
}

/// A change that does not wait for the disk.
async fn store_soon(database: &Database, name: &'static str, value: &'static str) {
    let change = move |write: &Write| {
        write.tell(name, "/x", Typed::default());
        write.put(NAMESPACES, name, &label(value))
    };
    database.write_soon(change).await.unwrap();
}

async fn drop_soon(database: &Database, name: &'static str) {
    let change = move |write: &Write| write.remove(NAMESPACES, name).map(|_| ());
    database.write_soon(change).await.unwrap();
}

/// What a process that was killed leaves: the files as they are at this moment.
fn killed(path: &Path, to: &Path) -> Database {
    for extension in ["db", "journal"] {
        std::fs::copy(path.with_extension(extension), to.with_extension(extension)).unwrap();
    }
    Database::open(to).unwrap()
}

#[tokio::test]
async fn what_did_not_wait_for_the_disk_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("a.db"), dir.path().join("b.db"));
    let database = Database::open(&path).unwrap();
    store_soon(&database, "a", "1").await;
    store_soon(&database, "b", "1").await;
    drop_soon(&database, "b").await;
    for _ in 0..2 {
        let after = killed(&path, &copy);
        assert_eq!(stored(&after, "a").as_deref(), Some("1"));
        assert_eq!(stored(&after, "b"), None);
        assert_eq!(topic(&after, 0).len(), 2);
    }
    // A commit that waits holds what came before, and what came before it is not done again.
    let change = |write: &Write| write.put(NAMESPACES, "a", &label("2"));
    database.write(change).await.unwrap();
    assert_eq!(stored(&killed(&path, &copy), "a").as_deref(), Some("2"));
    store_soon(&database, "c", "3").await;
    let after = killed(&path, &copy);
    assert_eq!(stored(&after, "a").as_deref(), Some("2"));
    assert_eq!(stored(&after, "c").as_deref(), Some("3"));
    assert_eq!(*after.newest_event().borrow(), 3);
}

#[tokio::test]
async fn the_disk_has_it_all_soon_or_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let database = Database::open(&path).unwrap();
    store_soon(&database, "a", "1").await;
    assert!(database.shared.unsettled.load(Ordering::Acquire));
    database.settle().await.unwrap();
    assert!(!database.shared.unsettled.load(Ordering::Acquire));
    store_soon(&database, "b", "1").await;
    while database.shared.unsettled.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store_soon(&database, "c", "1").await;
    drop(database);
    std::fs::remove_file(path.with_extension("journal")).unwrap();
    let database = Database::open(&path).unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(stored(&database, name).as_deref(), Some("1"), "{name}");
    }
}

#[tokio::test]
async fn a_change_that_fails_leaves_nothing_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("a.db"), dir.path().join("b.db"));
    let database = Database::open(&path).unwrap();
    store_soon(&database, "a", "1").await;
    let bad = |write: &Write| {
        write.put(NAMESPACES, "bad", &label("1"))?;
        Err::<(), _>(Error::invalid("no"))
    };
    database.write_soon(bad).await.unwrap_err();
    let settles = |write: &Write| {
        write.settles();
        write.put(NAMESPACES, "b", &label("1"))
    };
    database.write_soon(settles).await.unwrap();
    assert!(!database.shared.unsettled.load(Ordering::Acquire));
    let after = killed(&path, &copy);
    assert_eq!(stored(&after, "bad"), None);
    assert_eq!(stored(&after, "a").as_deref(), Some("1"));
    assert_eq!(stored(&after, "b").as_deref(), Some("1"));
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let _database = Database::open(&path).unwrap();
    let error = Database::open_within(&path, Duration::ZERO).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}

#[tokio::test]
async fn one_that_is_ending_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let first = Database::open(&path).unwrap();
    let ending = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
    });
    Database::open(&path).unwrap();
    ending.join().unwrap();
}

#[tokio::test]
async fn a_change_that_fails_leaves_nothing_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    // The first job keeps the writer busy until the others wait together.
    let runs = Arc::new(AtomicUsize::new(0));
    let slow = database.write(|_: &Write| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    });
    let good = {
        let runs = Arc::clone(&runs);
        database.write(move |write: &Write| {
            runs.fetch_add(1, Ordering::Relaxed);
            write.tell("a", "/good", Typed::default());
            write.put(NAMESPACES, "good", &label("1"))
        })
    };
    let bad = database.write(|write: &Write| {
        write.tell("a", "/bad", Typed::default());
        write.put(NAMESPACES, "bad", &label("1"))?;
        Err::<(), _>(Error::invalid("no"))
    });
    let mad = database.write(|write: &Write| {
        write.put(NAMESPACES, "mad", &label("1"))?;
        assert!(stored_in(write, "mad"), "a change sees itself");
        let nothing: Option<()> = None;
        nothing.map_or_else(|| std::panic::resume_unwind(Box::new(())), Ok)
    });
    let (slow, good, bad, mad) = tokio::join!(slow, good, bad, mad);
    slow.unwrap();
    good.unwrap();
    assert_eq!(bad.unwrap_err(), Error::invalid("no"));
    assert_eq!(mad.unwrap_err().code(), Code::Internal);
    assert_eq!(stored(&database, "good").as_deref(), Some("1"));
    assert_eq!(stored(&database, "bad"), None);
    assert_eq!(stored(&database, "mad"), None);
    assert_eq!(topic(&database, 0), [(1, "/good".to_owned())]);
    assert!(runs.load(Ordering::Relaxed) >= 1);
}

fn stored_in(write: &Write, name: &str) -> bool {
    write
        .get::<_, Namespace>(NAMESPACES, name)
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn events_are_numbered_on_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path).unwrap();
    let mut newest = database.newest_event();
    for topic in ["/a", "/b"] {
        let change = move |write: &Write| {
            write.tell("space", topic, Typed::default());
            Ok(())
        };
        database.write(change).await.unwrap();
    }
    assert_eq!(*newest.borrow_and_update(), 2);
    drop(database);
    let database = Database::open(&path).unwrap();
    assert_eq!(*database.newest_event().borrow(), 2);
    let change = |write: &Write| {
        write.tell("space", "/c", Typed::default());
        Ok(())
    };
    database.write(change).await.unwrap();
    let rest = [(2, "/b".to_owned()), (3, "/c".to_owned())];
    assert_eq!(topic(&database, 1), rest);
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path).unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("name {number}")).collect();
    for some in names.chunks(30) {
        let some = some.to_vec();
        let change = move |write: &Write| {
            let mut names = some.iter();
            names.try_for_each(|name| write.put(NAMESPACES, name, &label(&"1".repeat(500))))
        };
        database.write(change).await.unwrap();
    }
    drop(database);
    let whole = std::fs::read(&path).unwrap();
    let steps = (1..64).map(|step| whole.len() * step / 64);
    for keep in [1, 100, 319, 320, 4095, 4096, 5000, whole.len() - 1]
        .into_iter()
        .chain(steps)
    {
        std::fs::write(&path, &whole[..keep]).unwrap();
        // No panic; whole or refused, and never with less than was there.
        match Database::open(&path) {
            Ok(database) => {
                let lost = names.iter().find(|name| stored(&database, name).is_none());
                assert_eq!(lost, None, "{keep} of {}", whole.len());
            }
            Err(error) => assert!(error.to_string().contains("db"), "{keep}: {error}"),
        }
    }
    // An empty file is a new database: nothing says that it was another.
    std::fs::write(&path, &whole).unwrap();
    assert!(Database::open(&path).is_ok());
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path).unwrap();
    store(&database, "a", "1").await;
    drop(database);
    // The first version had no mounts.
    let raw = redb::Database::open(&path).unwrap();
    let write = raw.begin_write().unwrap();
    write.delete_table(MOUNTS).unwrap();
    let mut meta = write.open_table(META).unwrap();
    let first = 1u32.to_le_bytes();
    meta.insert(VERSION_KEY, first.as_slice()).unwrap();
    drop(meta);
    write.commit().unwrap();
    drop(raw);
    for _ in 0..2 {
        let database = Database::open(&path).unwrap();
        assert_eq!(stored(&database, "a").as_deref(), Some("1"));
        let empty = |_: (&str, &str), _: &[u8]| Ok(true);
        database
            .read(|read| read.rows(MOUNTS, ("", ""), empty))
            .unwrap();
    }
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(Database::open(&path).unwrap());
    let raw = redb::Database::open(&path).unwrap();
    let write = raw.begin_write().unwrap();
    let mut meta = write.open_table(META).unwrap();
    let newer = (VERSION + 1).to_le_bytes();
    meta.insert(VERSION_KEY, newer.as_slice()).unwrap();
    drop(meta);
    write.commit().unwrap();
    drop(raw);
    let error = Database::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
}
