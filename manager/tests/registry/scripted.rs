//! A server that answers as a test says. Real registries do not break, stall or lie on order, so this
//! stands for those that do.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_manager::registry::{
    Access, Client, Credential, Credentials, Future, Limits, NoCredentials, Reference, Registry,
    Scheme,
};
use knarr_manager::store::digest::{Algorithm, Digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first and last byte of its range.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }

    /// Method and path, without the query.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target.split('?').next().unwrap())
    }
}

/// What is sent, piece by piece.
#[derive(Clone)]
enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
}

/// An answer; the connection ends after it.
#[derive(Clone)]
pub(crate) struct Reply(Vec<Piece>);

impl Reply {
    /// A whole answer.
    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        let mut headers = headers.to_vec();
        let told = |name: &str| name.eq_ignore_ascii_case("content-length");
        if !headers.iter().any(|(name, _)| told(name)) {
            headers.push(("content-length", &length));
        }
        Self::head(status, &headers).bytes(body)
    }

    /// Status and headers alone, with no word on the length.
    pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Self {
        let mut text = format!("HTTP/1.1 {status} Any\r\nconnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Self(vec![Piece::Bytes(text.into_bytes())])
    }

    pub(crate) fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push(Piece::Bytes(bytes.as_ref().to_vec()));
        self
    }

    pub(crate) fn pause(mut self, time: Duration) -> Self {
        self.0.push(Piece::Pause(time));
        self
    }

    /// A range of a blob as it should be sent.
    pub(crate) fn range(blob: &[u8], first: usize, last: usize) -> Self {
        let range = format!("bytes {first}-{last}/{}", blob.len());
        Self::new(206, &[("content-range", &range)], &blob[first..=last])
    }
}

/// The server; it goes with the test's runtime.
pub(crate) struct Server {
    pub(crate) name: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Server {
    /// Answers requests with what `reply` makes of them and of their number, from 0 on.
    pub(crate) async fn start(
        reply: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (Arc::clone(&seen), Arc::new(reply));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, reply) = (Arc::clone(&log), Arc::clone(&reply));
                tokio::spawn(async move {
                    let _ = answer(stream, &log, &*reply).await;
                });
            }
        });
        Self { name, seen }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Method and path of each request so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// Waits for a request that comes after an answer nobody waits for.
    pub(crate) async fn wait_for(&self, line: &str) {
        for _ in 0..500 {
            if self.lines().iter().any(|seen| seen == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {line:?} among {:?}", self.lines());
    }

    /// A client of `a/b:tag` here, without credentials.
    pub(crate) fn client(&self) -> Client {
        self.client_as(Arc::new(NoCredentials))
    }

    pub(crate) fn client_as(&self, credentials: Arc<dyn Credentials>) -> Client {
        self.client_with(limits(), credentials, "a/b:tag")
    }

    pub(crate) fn client_with(
        &self,
        limits: Limits,
        credentials: Arc<dyn Credentials>,
        name: &str,
    ) -> Client {
        let reference = Reference::parse(&format!("{}/{name}", self.name)).unwrap();
        Registry::proxied(limits, "", "", "")
            .client(&reference, &clear(credentials))
            .unwrap()
    }
}

/// Speaks in the clear.
pub(crate) fn clear(credentials: Arc<dyn Credentials>) -> Access {
    let mut access = Access::new(credentials);
    access.hosts.default_scheme = Some(Scheme::Http);
    access
}

async fn answer(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    reply: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut head = vec![stream.read_u8().await?];
    if head == [0x16] {
        // A handshake of TLS, which a server in the clear takes for a bad request.
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    }
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let mut seen = Seen {
        method: words.next().unwrap().to_owned(),
        target: words.next().unwrap().to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: Vec::new(),
    };
    let length: usize = seen
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let number = log.lock().unwrap().len();
    log.lock().unwrap().push(seen.clone());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    seen.body = body;
    log.lock().unwrap()[number] = seen.clone();
    for piece in reply(&seen, number).0 {
        match piece {
            Piece::Bytes(bytes) => stream.write_all(&bytes).await?,
            Piece::Pause(time) => tokio::time::sleep(time).await,
        }
        stream.flush().await?;
    }
    stream.shutdown().await
}

/// Short times, so that tests end soon.
pub(crate) fn limits() -> Limits {
    Limits {
        idle: Duration::from_millis(300),
        answer: Duration::from_secs(5),
        attempts: 3,
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(50),
        ..Limits::default()
    }
}

/// Bytes that differ everywhere.
pub(crate) fn some_bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// Name and password, and which hosts asked for them.
#[derive(Debug, Default)]
pub(crate) struct Login {
    pub(crate) credential: Option<Credential>,
    pub(crate) asked: Mutex<Vec<(String, String, Vec<String>)>>,
}

impl Login {
    pub(crate) fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self {
            credential: Some(credential),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn password() -> Arc<Self> {
        Self::new(Credential::Password {
            user: "me".to_owned(),
            secret: "s3cret".to_owned(),
        })
    }
}

impl Credentials for Login {
    fn get<'a>(
        &'a self,
        host: &'a str,
        reference: &'a str,
        challenges: &'a [String],
    ) -> Future<'a, knarr_manager::error::Result<Credential>> {
        let asked = (host.to_owned(), reference.to_owned(), challenges.to_vec());
        self.asked.lock().unwrap().push(asked);
        Box::pin(async { Ok(self.credential.clone().unwrap_or(Credential::None)) })
    }
}
