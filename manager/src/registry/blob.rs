//! Fetching blobs: from where they are, from the byte that is wanted, again where it breaks, and in
//! ranges side by side.

use std::collections::VecDeque;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use hyper::{Method, StatusCode, Uri};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::call::{Answer, next, shown};
use super::client::{Ask, Client, Site, Target, put};
use super::headers;
use super::retry::{Attempts, Meter};
use super::{Descriptor, media_type};
use crate::error::{Code, Error, Result};

impl Client {
    /// The bytes of a blob from `offset` on, in order, by ranges side by side where it is long.
    /// Its digest is not checked. A descriptor's `urls` are tried where no host has it.
    ///
    /// # Errors
    /// `NotFound` where no host has it; `Unauthenticated` where the caller may not have it.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Blob> {
        let size = descriptor.size;
        if offset > size {
            return Err(Error::new(
                Code::OutOfRange,
                format!("{}: from byte {offset} of {size}", descriptor.digest),
            ));
        }
        let limits = self.limits();
        let splits = size - offset > limits.split && limits.ranges > 1 && limits.range > 0;
        let end = if splits { offset + limits.range } else { size };
        let mut first = Stream::new(self, descriptor, offset, end);
        first.open().await?;
        // A host that knows no ranges sends all of it.
        let splits = splits && first.end == end;
        let mut blob = Blob {
            offset,
            next: first.end,
            first,
            ahead: VecDeque::new(),
            tasks: JoinSet::new(),
            splits,
        };
        blob.look_ahead();
        Ok(blob)
    }
}

/// Bytes that arrive. Broken and stalled connections are made anew inside.
#[derive(Debug)]
pub struct Blob {
    offset: u64,
    /// Up to where somebody is at it.
    next: u64,
    first: Stream,
    ahead: VecDeque<mpsc::UnboundedReceiver<Result<Bytes>>>,
    tasks: JoinSet<()>,
    splits: bool,
}

impl Blob {
    /// The next bytes, or nothing at the end: exactly as many as the descriptor says have come then.
    /// May be dropped while it waits and called again.
    ///
    /// # Errors
    /// `Unavailable` where the transfer got no further in several attempts; `FailedPrecondition`
    /// where the registry has more or fewer bytes than the descriptor says.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let mut found = self.first.chunk().await?;
        while found.is_none() {
            let Some(part) = self.ahead.front_mut() else {
                return Ok(None);
            };
            match part.recv().await {
                Some(bytes) => found = Some(bytes?),
                None => {
                    // A task that ended early would leave a hole.
                    while let Some(done) = self.tasks.try_join_next() {
                        done.map_err(|error| Error::internal(format!("fetching: {error}")))?;
                    }
                    self.ahead.pop_front();
                    self.look_ahead();
                }
            }
        }
        if let Some(bytes) = &found {
            self.offset += u64::try_from(bytes.len()).unwrap_or(0);
        }
        Ok(found)
    }

    /// How many bytes of the blob have been given out, with those before the offset it began at.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How long the blob is.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.first.descriptor.size
    }

    /// Starts fetching ranges until enough are under way. What they hold in memory is what was not
    /// taken yet: at most their length.
    fn look_ahead(&mut self) {
        let size = self.size();
        let (ranges, length) = (
            self.first.client.limits().ranges,
            self.first.client.limits().range,
        );
        while self.splits && self.next < size && self.ahead.len() + 1 < ranges {
            let end = size.min(self.next + length);
            let mut stream =
                Stream::new(&self.first.client, &self.first.descriptor, self.next, end);
            stream.source = self.first.source;
            let (sender, receiver) = mpsc::unbounded_channel();
            self.tasks.spawn(async move {
                loop {
                    let (chunk, ended) = match stream.chunk().await {
                        Ok(Some(bytes)) => (Ok(bytes), false),
                        Ok(None) => return,
                        Err(error) => (Err(error), true),
                    };
                    if sender.send(chunk).is_err() || ended {
                        return;
                    }
                }
            });
            self.ahead.push_back(receiver);
            self.next = end;
        }
    }
}

/// A part of a blob that arrives over one connection after the other.
#[derive(Debug)]
struct Stream {
    client: Client,
    descriptor: Descriptor,
    /// The next byte.
    at: u64,
    /// The byte after the last.
    end: u64,
    /// Which of the places is asked.
    source: usize,
    body: Option<Incoming>,
    /// Who sends it.
    from: String,
    /// Bytes to leave out, which a host that knows no ranges sends first.
    skip: u64,
    /// Whether such a host sends bytes after the last as well.
    more: bool,
    attempts: Attempts,
    meter: Meter,
    /// Bytes since an attempt failed.
    progress: u64,
    /// Why no earlier place served.
    refused: Option<Error>,
}

impl Stream {
    fn new(client: &Client, descriptor: &Descriptor, at: u64, end: u64) -> Self {
        Self {
            client: client.clone(),
            descriptor: descriptor.clone(),
            at,
            end,
            source: 0,
            body: None,
            from: String::new(),
            skip: 0,
            more: false,
            attempts: Attempts::new(client.limits()),
            meter: Meter::new(client.limits()),
            progress: 0,
            refused: None,
        }
    }

    /// The next bytes, or nothing at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.end && self.skip == 0 {
                return self.finish().await;
            }
            if self.body.is_none() {
                self.open().await?;
            }
            let Some(body) = &mut self.body else {
                continue;
            };
            let what = match next(body, self.client.limits(), &mut self.meter).await {
                Ok(Some(bytes)) => match self.take(bytes)? {
                    Some(bytes) => return Ok(Some(bytes)),
                    None => continue,
                },
                Ok(None) => format!("the answer ended at byte {} of {}", self.at, self.end),
                Err(what) => what,
            };
            self.broke(what).await?;
        }
    }

    /// Cuts off what is not wanted.
    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>> {
        let length = |bytes: &Bytes| u64::try_from(bytes.len()).unwrap_or(0);
        self.progress += length(&bytes);
        if self.progress >= self.client.limits().progress {
            self.attempts.reset();
        }
        let skip = self.skip.min(length(&bytes));
        let _ = bytes.split_to(usize::try_from(skip).unwrap_or(0));
        self.skip -= skip;
        if bytes.is_empty() {
            return Ok(None);
        }
        let left = self.end - self.at;
        if length(&bytes) > left {
            self.body = None;
            if !self.more {
                return Err(self.too_long());
            }
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.at += length(&bytes);
        Ok(Some(bytes))
    }

    /// Sees to it that nothing comes after the last byte.
    async fn finish(&mut self) -> Result<Option<Bytes>> {
        if let Some(mut body) = self.body.take()
            && !self.more
        {
            // That the end is late, or is no proper one, harms nobody.
            let rest = next(&mut body, self.client.limits(), &mut self.meter).await;
            if matches!(rest, Ok(Some(_))) {
                return Err(self.too_long());
            }
        }
        Ok(None)
    }

    fn too_long(&self) -> Error {
        Error::precondition(format!(
            "{}: the registry sends more than the {} bytes that the descriptor says",
            self.from, self.descriptor.size
        ))
    }

    /// Notes that a transfer broke, and waits for the next attempt.
    async fn broke(&mut self, what: String) -> Result<()> {
        self.body = None;
        self.progress = 0;
        self.meter = Meter::new(self.client.limits());
        if self.attempts.again(None).await {
            return Ok(());
        }
        let what = format!(
            "{}: {what} (given up after {} attempts that got no further)",
            self.from,
            self.attempts.failed()
        );
        Err(Error::new(Code::Unavailable, what))
    }

    /// Asks one place after the other, from the one that served last.
    async fn open(&mut self) -> Result<()> {
        loop {
            match self.open_here().await {
                Ok(Some(())) => return Ok(()),
                Ok(None) => {}
                // A place that has served does not stop being the right one.
                Err(error) if !self.from.is_empty() => return Err(error),
                Err(error) if error.code() == Code::NotFound => {}
                Err(error) => {
                    if self.refused.is_none() {
                        self.refused = Some(error);
                    }
                }
            }
            self.source += 1;
            self.attempts.reset();
            if self.source >= self.places() {
                let missing = || {
                    Error::not_found(format!(
                        "{} in {}",
                        self.descriptor.digest,
                        self.client.reference()
                    ))
                };
                return Err(self.refused.take().unwrap_or_else(missing));
            }
        }
    }

    /// How many places there are to ask: those of hosts among blobs and, for what may be a manifest,
    /// among manifests; and those of the descriptor.
    fn places(&self) -> usize {
        2 * self.client.sites().len() + self.descriptor.urls.len()
    }

    /// Asks the place that it is at; nothing where there is none to ask.
    async fn open_here(&mut self) -> Result<Option<()>> {
        let client = self.client.clone();
        let sites = client.sites();
        let is_manifest = media_type::is_manifest(&self.descriptor.media_type);
        let hosts = sites.len();
        let digest = &self.descriptor.digest;
        let (site, ask) = match self.source {
            source if source < 2 * hosts => {
                let among_manifests = is_manifest == (source < hosts);
                let again = self.source >= hosts && self.refused.is_some();
                if (among_manifests && !is_manifest) || again {
                    return Ok(None);
                }
                let Some(site) = sites.get(source % hosts) else {
                    return Ok(None);
                };
                let place = if among_manifests {
                    "manifests"
                } else {
                    "blobs"
                };
                (
                    site,
                    client.reading(Method::GET, format!("{place}/{digest}")),
                )
            }
            source => {
                let url = self.descriptor.urls.get(source - 2 * hosts);
                let url: Option<Uri> = url.and_then(|url| url.parse().ok());
                let web = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
                let (Some(site), Some(url)) = (sites.last(), url.filter(web)) else {
                    return Ok(None);
                };
                let mut ask = client.reading(Method::GET, String::new());
                ask.target = Target::Url(url);
                (site, ask)
            }
        };
        if !site.host.capabilities.pull {
            return Ok(None);
        }
        let last = self.source + 1 >= self.places() || !self.from.is_empty();
        self.request(site, ask, last).await
    }

    async fn request(&mut self, site: &Site, mut ask: Ask, last: bool) -> Result<Option<()>> {
        ask.multiplexed = false;
        let whole = self.at == 0 && self.end == self.descriptor.size;
        if !whole {
            let range = format!("bytes={}-{}", self.at, self.end.saturating_sub(1));
            put(&mut ask.headers, RANGE, &range)?;
        }
        let client = self.client.clone();
        let answer = if last {
            client.ask(site, &ask, &mut self.attempts).await?
        } else {
            let mut few = self.attempts.clone().few();
            client.ask(site, &ask, &mut few).await?
        };
        let from = shown(&answer.url);
        match answer.status {
            StatusCode::OK => self.whole(&answer, &from)?,
            StatusCode::PARTIAL_CONTENT if !whole => self.partial(&answer, &from)?,
            StatusCode::NOT_FOUND => return Err(Error::not_found(from)),
            _ => return Err(answer.refusal(client.limits(), &ask.method).await),
        }
        self.from = from;
        self.body = Some(answer.body);
        Ok(Some(()))
    }

    /// All of the blob is coming, whether that was asked for or not.
    fn whole(&mut self, answer: &Answer, from: &str) -> Result<()> {
        let size = self.descriptor.size;
        let told = headers::length(&answer.headers, &CONTENT_LENGTH);
        if let Some(told) = told.filter(|told| *told != size) {
            return Err(Error::precondition(format!(
                "{from}: the registry has {told} bytes, the descriptor says {size}"
            )));
        }
        self.skip = self.at;
        if self.from.is_empty() {
            self.end = size;
        }
        self.more = self.end < size;
        Ok(())
    }

    /// A range is coming: it has to be the right one.
    fn partial(&mut self, answer: &Answer, from: &str) -> Result<()> {
        let size = self.descriptor.size;
        let text = answer.header(&CONTENT_RANGE).unwrap_or("");
        let right = headers::content_range(text).is_some_and(|(first, last, total)| {
            first == self.at && last < self.end && total.is_none_or(|total| total == size)
        });
        if !right {
            return Err(Error::precondition(format!(
                "{from}: asked for the bytes from {} on of {size}, the registry sends {text:?}",
                self.at
            )));
        }
        self.skip = 0;
        self.more = false;
        Ok(())
    }
}
