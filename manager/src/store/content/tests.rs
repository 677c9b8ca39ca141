//! Tests of the content store: what is there after whatever way of writing it.

use super::*;

const SPACE: &str = "default";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn open(&self) -> Content {
        let database = Database::open(&self.dir.path().join("db")).unwrap();
        Content::open(self.dir.path(), Arc::new(database)).unwrap()
    }

    fn ingests(&self) -> usize {
        fs::read_dir(self.dir.path().join("ingest"))
            .unwrap()
            .count()
    }
}

fn order(reference: &str, bytes: Option<&[u8]>) -> Order {
    Order {
        reference: reference.to_owned(),
        expected: bytes.map(|bytes| Algorithm::Sha256.digest(bytes)),
        ..Order::default()
    }
}

fn all(content: &Content, digest: &Digest) -> Vec<u8> {
    let reader = content.read(SPACE, digest).unwrap();
    let mut bytes = vec![0; usize::try_from(reader.size()).unwrap() + 10];
    let length = reader.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}

/// What one namespace has, another gets by its digest, without a byte.
#[tokio::test]
async fn blobs_are_shared_between_namespaces() {
    let place = Place::new();
    let content = place.open();
    let mut writer = content.write(SPACE, order("r", None)).await.unwrap();
    writer.write(b"data").unwrap();
    let digest = writer.commit(0, None, Labels::new()).await.unwrap().digest;
    let asked = order("r", Some(b"data"));
    let writer = content.write("other", asked.clone()).await.unwrap();
    assert_eq!(
        (writer.status().offset, writer.digest()),
        (4, digest.clone())
    );
    writer
        .commit(4, Some(&digest), Labels::new())
        .await
        .unwrap();
    assert_eq!(content.info("other", &digest).unwrap().blob.size, 4);
    // A client that writes all the same may.
    let mut writer = content.write("third", asked).await.unwrap();
    writer.truncate(0).unwrap();
    writer.write(b"data").unwrap();
    writer
        .commit(4, Some(&digest), Labels::new())
        .await
        .unwrap();
    assert_eq!(place.ingests(), 0);
    for space in [SPACE, "other"] {
        content.delete(space, &digest).await.unwrap();
    }
    content.clean_up().await.unwrap();
    assert_eq!(content.read("third", &digest).unwrap().size(), 4);
}

#[tokio::test]
async fn a_blob_is_what_was_written() {
    let place = Place::new();
    let content = place.open();
    let mut writer = content.write(SPACE, order("r", None)).await.unwrap();
    writer.write(b"one ").unwrap();
    writer.write(b"two").unwrap();
    let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
    let info = writer.commit(7, None, labels.clone()).await.unwrap();
    assert_eq!(info.digest, Algorithm::Sha256.digest(b"one two"));
    assert_eq!(all(&content, &info.digest), b"one two");
    let known = content.info(SPACE, &info.digest).unwrap();
    assert_eq!((known.blob.size, &known.blob.labels), (7, &labels));
    assert_eq!(place.ingests(), 0);
    let error = content.info("other", &info.digest).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let error = content
        .write(SPACE, order("r", Some(b"one two")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
}

#[tokio::test]
async fn half_a_blob_is_gone_on_with_after_a_restart() {
    let place = Place::new();
    let content = place.open();
    let mut writer = content
        .write(SPACE, order("r", Some(b"abcdef")))
        .await
        .unwrap();
    writer.write(b"abc").unwrap();
    drop(writer);
    drop(content);
    let content = place.open();
    let status = content.status(SPACE, "r").unwrap();
    assert_eq!(status.offset, 3);
    let mut writer = content
        .write(SPACE, order("r", Some(b"abcdef")))
        .await
        .unwrap();
    assert_eq!(writer.status().offset, 3);
    writer.write(b"def").unwrap();
    let info = writer.commit(6, None, Labels::new()).await.unwrap();
    assert_eq!(all(&content, &info.digest), b"abcdef");
    let error = content.status(SPACE, "r").unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test]
async fn one_writer_at_a_time() {
    let place = Place::new();
    let content = place.open();
    let writer = content.write(SPACE, order("r", None)).await.unwrap();
    let error = content.write(SPACE, order("r", None)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    content.write("other", order("r", None)).await.unwrap();
    drop(writer);
    content.write(SPACE, order("r", None)).await.unwrap();
}

#[tokio::test]
async fn what_is_not_what_was_promised_is_no_blob() {
    let place = Place::new();
    let content = place.open();
    for (size, expected) in [(5, &b"abc"[..]), (3, b"abd")] {
        let mut writer = content
            .write(SPACE, order("r", Some(expected)))
            .await
            .unwrap();
        writer.truncate(0).unwrap();
        writer.write(b"abc").unwrap();
        let error = writer.commit(size, None, Labels::new()).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    }
    let digest = Algorithm::Sha256.digest(b"abc");
    assert_eq!(
        content.info(SPACE, &digest).unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        content.statuses(SPACE, &Filters::default()).unwrap().len(),
        1
    );
    content.abort(SPACE, "r").await.unwrap();
    assert_eq!(place.ingests(), 0);
}

#[tokio::test]
async fn another_algorithm_may_be_named_at_the_end() {
    let place = Place::new();
    let content = place.open();
    let mut writer = content.write(SPACE, order("r", None)).await.unwrap();
    writer.write(b"abc").unwrap();
    let digest = Algorithm::Sha512.digest(b"abc");
    let info = writer
        .commit(0, Some(&digest), Labels::new())
        .await
        .unwrap();
    assert_eq!(info.digest, digest);
    assert_eq!(all(&content, &digest), b"abc");
}

#[tokio::test]
async fn a_writer_goes_back_but_not_ahead() {
    let place = Place::new();
    let content = place.open();
    let mut writer = content.write(SPACE, order("r", None)).await.unwrap();
    writer.write(b"abcdef").unwrap();
    assert_eq!(writer.truncate(7).unwrap_err().code(), Code::OutOfRange);
    writer.truncate(2).unwrap();
    writer.write(b"x").unwrap();
    let info = writer.commit(3, None, Labels::new()).await.unwrap();
    assert_eq!(all(&content, &info.digest), b"abx");
}

#[tokio::test]
async fn namespaces_share_the_bytes_and_not_the_names() {
    let place = Place::new();
    let content = place.open();
    for space in [SPACE, "other"] {
        let mut writer = content.write(space, order("r", None)).await.unwrap();
        writer.write(b"abc").unwrap();
        writer.commit(3, None, Labels::new()).await.unwrap();
    }
    let digest = Algorithm::Sha256.digest(b"abc");
    content.delete("other", &digest).await.unwrap();
    assert_eq!(
        content.delete("other", &digest).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(all(&content, &digest), b"abc");
}
