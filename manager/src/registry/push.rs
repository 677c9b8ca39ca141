//! Pushing: blobs in one piece, or from where an upload broke, and manifests as they are.
//! Distribution specification, "Push".

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::header::{
    ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use serde::Deserialize;

use super::auth::add_field;
use super::body::{Part, Payload, Source};
use super::call::{Answer, Trouble, join, shown};
use super::client::{Ask, Client, Site, Target, is_passing, put};
use super::fetch::{Index, referrers_tag};
use super::headers;
use super::reference::{check_repository, check_tag};
use super::retry::Attempts;
use super::{Descriptor, media_type};
use crate::error::{Code, Error, Result};
use crate::store::digest::{Algorithm, Digest};

/// The digest of what the registry has now.
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Which `subject` the registry has noted.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// The shortest piece of an upload that the registry takes.
const SHORTEST_PIECE: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// The length of pieces for registries that do not take a blob as a whole.
const PIECE: u64 = 16 << 20;

/// The most repositories that a blob is looked for in.
const MOST_MOUNTS: usize = 4;

/// How content came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

/// An upload that the registry has open.
#[derive(Debug)]
struct Upload {
    url: Uri,
    /// The shortest piece that it takes.
    shortest: u64,
}

/// How the bytes of a blob go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// With the request that ends the upload.
    Whole,
    /// From a byte on, in one request, before the one that ends the upload.
    From(u64),
    /// In pieces, from a byte on.
    Pieces(u64),
}

impl Client {
    /// Pushes a blob; `mount_from` are repositories of the same registry that may have it, and
    /// `sent` tells up to which byte it has gone out: it falls when an attempt begins anew. An
    /// upload that does not come to its end is taken back.
    ///
    /// # Errors
    /// `Unavailable` where it could not be sent in several attempts; `Unauthenticated` where the
    /// caller may not push; what the source fails with.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: Arc<dyn Source>,
        mount_from: &[&str],
        sent: Arc<AtomicU64>,
    ) -> Result<Pushed> {
        let site = self.push_site()?;
        let mut attempts = Attempts::new(self.limits());
        let mut ask = self.pushing(Method::HEAD, format!("blobs/{}", descriptor.digest));
        let answer = self.ask(site, &ask, &mut attempts).await?;
        if answer.status.is_success() {
            return Ok(Pushed::Existed);
        }
        if answer.status != StatusCode::NOT_FOUND {
            return Err(answer.refusal(self.limits(), &ask.method).await);
        }
        ask.method = Method::POST;
        let mounts = mount_from
            .iter()
            .filter(|name| check_repository(name).is_ok());
        for name in mounts.take(MOST_MOUNTS) {
            match self.mount(site, descriptor, name, &mut attempts).await? {
                None => return Ok(Pushed::Mounted),
                // A way to send it that is not needed yet.
                Some(upload) => self.abandon(site, upload.url),
            }
        }
        let part = Part {
            source,
            start: 0,
            end: descriptor.size,
            sent,
            failed: Arc::new(Mutex::new(None)),
        };
        let mut open = Open {
            client: self,
            site,
            upload: None,
        };
        let mut manner = Manner::Whole;
        loop {
            let upload = match open.upload.take() {
                Some(upload) => upload,
                None => self.begin(site, &mut attempts).await?,
            };
            let upload = open.upload.insert(upload);
            let before = part.sent.load(Ordering::Relaxed);
            let (what, after) = match self
                .send_blob(site, upload, descriptor, &part, manner)
                .await
            {
                Ok(answer)
                    if answer.status == StatusCode::PAYLOAD_TOO_LARGE
                        && manner == Manner::Whole =>
                {
                    self.abandon_open(&mut open);
                    manner = Manner::Pieces(0);
                    continue;
                }
                Ok(answer) if answer.status.is_success() => {
                    open.upload = None;
                    return settled(&answer, &descriptor.digest).map(|()| Pushed::Sent);
                }
                Ok(answer) => {
                    let passing = is_passing(answer.status);
                    // The upload may be gone, as they are after a while: then it begins anew.
                    let gone = matches!(answer.status.as_u16(), 404 | 416);
                    let after = headers::retry_after(&answer.headers);
                    let refusal = answer.refusal(self.limits(), &Method::PUT).await;
                    if gone {
                        open.upload = None;
                    } else if !passing {
                        return Err(refusal);
                    }
                    (refusal.message().to_owned(), after)
                }
                Err(Trouble::Final(error)) => return Err(error),
                Err(trouble) => (trouble.to_string(), None),
            };
            if part.sent.load(Ordering::Relaxed) >= before + self.limits().progress {
                attempts.reset();
            }
            if !attempts.again(after).await {
                return Err(Error::new(Code::Unavailable, what));
            }
            let arrived = match &open.upload {
                Some(upload) => self.arrived(site, &upload.url).await,
                None => None,
            };
            let pieces = matches!(manner, Manner::Pieces(_));
            manner = match arrived {
                Some((url, from)) if from <= descriptor.size => {
                    if let Some(upload) = &mut open.upload {
                        upload.url = url;
                    }
                    if pieces {
                        Manner::Pieces(from)
                    } else {
                        Manner::From(from)
                    }
                }
                // Nobody knows what has arrived.
                _ => {
                    self.abandon_open(&mut open);
                    // What breaks again and again may be too long for something on the way.
                    if pieces || attempts.failed() > 1 {
                        Manner::Pieces(0)
                    } else {
                        Manner::Whole
                    }
                }
            };
        }
    }

    /// Pushes a manifest as it is, under a tag or else by its digest. Where it has a `subject` that
    /// the registry does not note, the list of referrers under the subject's tag is brought up to
    /// date.
    ///
    /// # Errors
    /// Where the registry refuses it, as it does when content that it refers to is missing.
    pub async fn push_manifest(
        &self,
        descriptor: &Descriptor,
        manifest: Bytes,
        tag: Option<&str>,
    ) -> Result<Pushed> {
        let site = self.push_site()?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(Error::invalid)?;
        }
        let found = descriptor.digest.algorithm().digest(&manifest);
        if found != descriptor.digest {
            return Err(Error::invalid(format!(
                "a manifest of digest {found} cannot be pushed as {}",
                descriptor.digest
            )));
        }
        let name = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        let mut attempts = Attempts::new(self.limits());
        let mut ask = self.pushing(Method::HEAD, format!("manifests/{name}"));
        put(
            &mut ask.headers,
            ACCEPT,
            &format!("{}, */*", descriptor.media_type),
        )?;
        let answer = self.ask(site, &ask, &mut attempts).await?;
        let there = answer.header(&DIGEST) == Some(descriptor.digest.as_str());
        if answer.status.is_success() && there {
            return Ok(Pushed::Existed);
        }
        if !answer.status.is_success() && answer.status != StatusCode::NOT_FOUND {
            return Err(answer.refusal(self.limits(), &ask.method).await);
        }
        let referrer = Referrer::read(&manifest, descriptor);
        let answer = self
            .put_manifest(site, &name, &descriptor.media_type, manifest, &mut attempts)
            .await?;
        settled(&answer, &descriptor.digest)?;
        if let Some((subject, entry)) = referrer
            && answer.header(&SUBJECT) != Some(subject.as_str())
        {
            let noted = self
                .note_referrer(site, &subject, entry, &mut attempts)
                .await;
            noted.map_err(|error| error.context(format!("referrers of {subject}")))?;
        }
        Ok(Pushed::Sent)
    }

    /// The host that takes content.
    fn push_site(&self) -> Result<&Site> {
        let found = self.sites().iter().find(|site| site.host.capabilities.push);
        found.ok_or_else(|| {
            Error::not_found(format!(
                "a host for {} that may be pushed to, among those of hosts.toml",
                self.reference().host()
            ))
        })
    }

    fn pushing(&self, method: Method, tail: String) -> Ask {
        let mut ask = self.reading(method, tail);
        ask.scopes = self.scopes("pull,push");
        ask
    }

    /// A request to where the registry wants an upload.
    fn uploading(&self, method: Method, url: Uri) -> Ask {
        let mut ask = self.pushing(method, String::new());
        ask.target = Target::Url(url);
        ask
    }

    /// Asks the registry to take a blob from another repository: nothing where it did, else what it
    /// has opened to send it.
    async fn mount(
        &self,
        site: &Site,
        descriptor: &Descriptor,
        from: &str,
        attempts: &mut Attempts,
    ) -> Result<Option<Upload>> {
        let mut ask = self.pushing(Method::POST, String::new());
        let query = [
            ("mount", descriptor.digest.to_string()),
            ("from", from.to_owned()),
        ];
        ask.target = Target::Tail("blobs/uploads/".to_owned(), query.into());
        ask.scopes.insert(format!("repository:{from}:pull"));
        let answer = match self.ask(site, &ask, attempts).await {
            Ok(answer) => answer,
            // Who may not read the other repository can still send the blob.
            Err(error) if error.code() == Code::Unauthenticated => {
                return self.begin(site, attempts).await.map(Some);
            }
            Err(error) => return Err(error),
        };
        match answer.status {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => upload(&answer).map(Some),
            _ => self.begin(site, attempts).await.map(Some),
        }
    }

    /// Opens an upload.
    async fn begin(&self, site: &Site, attempts: &mut Attempts) -> Result<Upload> {
        let ask = self.pushing(Method::POST, "blobs/uploads/".to_owned());
        let answer = self.ask(site, &ask, attempts).await?;
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::CREATED => upload(&answer),
            _ => Err(answer.refusal(self.limits(), &ask.method).await),
        }
    }

    /// Sends a blob and ends the upload. The upload's URL changes on the way.
    async fn send_blob(
        &self,
        site: &Site,
        upload: &mut Upload,
        descriptor: &Descriptor,
        part: &Part,
        manner: Manner,
    ) -> Result<Answer, Trouble> {
        let size = descriptor.size;
        let (mut at, length) = match manner {
            Manner::Whole => (size, 0),
            Manner::From(at) => (at, size),
            Manner::Pieces(at) => (at, PIECE.max(upload.shortest)),
        };
        while at < size {
            let end = size.min(at.saturating_add(length));
            let mut ask = self.uploading(Method::PATCH, upload.url.clone());
            ask.payload = content(&mut ask.headers, part, at, end);
            put(
                &mut ask.headers,
                CONTENT_RANGE,
                &format!("{at}-{}", end - 1),
            )
            .map_err(Trouble::Final)?;
            let answer = self.ask_once(site, &ask).await?;
            if !answer.status.is_success() {
                return Ok(answer);
            }
            if answer.headers.contains_key(LOCATION) {
                upload.url = location(&answer).map_err(Trouble::Final)?;
            }
            at = end;
        }
        let mut url = upload.url.to_string();
        let mut field = String::new();
        add_field(&mut field, "digest", descriptor.digest.as_str());
        url.push(if upload.url.query().is_some() {
            '&'
        } else {
            '?'
        });
        url.push_str(&field);
        let url = url.parse().map_err(|_| {
            Trouble::Final(Error::precondition(format!(
                "{}: no URL for an upload",
                shown(&upload.url)
            )))
        })?;
        let mut ask = self.uploading(Method::PUT, url);
        ask.answer = self.limits().commit;
        if manner == Manner::Whole {
            ask.payload = content(&mut ask.headers, part, 0, size);
            ask.multiplexed = false;
        }
        self.ask_once(site, &ask).await
    }

    /// How much of an upload has arrived, and where it goes on.
    async fn arrived(&self, site: &Site, url: &Uri) -> Option<(Uri, u64)> {
        let ask = self.uploading(Method::GET, url.clone());
        let answer = self.ask_once(site, &ask).await.ok()?;
        if !answer.status.is_success() {
            return None;
        }
        let from = headers::uploaded(answer.header(&RANGE)?)?;
        let url = location(&answer).unwrap_or_else(|_| url.clone());
        Some((url, from))
    }

    /// Tells the registry that an upload will not come to its end. Nobody waits for that.
    fn abandon(&self, site: &Site, url: Uri) {
        let at = self
            .sites()
            .iter()
            .position(|known| std::ptr::eq(known, site));
        let (client, ask) = (self.clone(), self.uploading(Method::DELETE, url));
        if let (Some(at), Ok(runtime)) = (at, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Some(site) = client.sites().get(at) {
                    let _ = client.ask_once(site, &ask).await;
                }
            });
        }
    }

    fn abandon_open(&self, open: &mut Open<'_>) {
        if let Some(upload) = open.upload.take() {
            self.abandon(open.site, upload.url);
        }
    }

    async fn put_manifest(
        &self,
        site: &Site,
        name: &str,
        kind: &str,
        manifest: Bytes,
        attempts: &mut Attempts,
    ) -> Result<Answer> {
        let mut ask = self.pushing(Method::PUT, format!("manifests/{name}"));
        put(&mut ask.headers, CONTENT_TYPE, kind)?;
        ask.payload = Payload::Bytes(manifest);
        let answer = self.ask(site, &ask, attempts).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(answer.refusal(self.limits(), &ask.method).await)
    }

    /// Adds an entry to the list of referrers under the tag that stands for a manifest.
    async fn note_referrer(
        &self,
        site: &Site,
        subject: &Digest,
        entry: Descriptor,
        attempts: &mut Attempts,
    ) -> Result<()> {
        let list = self.tagged_referrers(site, subject, attempts).await?;
        let mut list = list.unwrap_or_else(|| Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests: Vec::new(),
            other: serde_json::Map::new(),
        });
        if list
            .manifests
            .iter()
            .any(|known| known.digest == entry.digest)
        {
            return Ok(());
        }
        list.manifests.push(entry);
        let text = serde_json::to_vec(&list).map_err(|error| Error::internal(error.to_string()))?;
        let digest = Algorithm::Sha256.digest(&text);
        let tag = referrers_tag(subject);
        let answer = self
            .put_manifest(site, &tag, media_type::OCI_INDEX, text.into(), attempts)
            .await?;
        settled(&answer, &digest)
    }
}

/// An upload that is taken back unless it came to its end, also where the caller has gone.
struct Open<'a> {
    client: &'a Client,
    site: &'a Site,
    upload: Option<Upload>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.client.abandon(self.site, upload.url);
        }
    }
}

/// What a manifest says of itself that a list of referrers repeats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Kind>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    media_type: String,
}

impl Referrer {
    /// The manifest that one refers to, and its entry in the list of those that do.
    fn read(manifest: &[u8], descriptor: &Descriptor) -> Option<(Digest, Descriptor)> {
        let own: Self = serde_json::from_slice(manifest).ok()?;
        let config = own.config.map(|config| config.media_type);
        let mut entry = Descriptor::new(
            descriptor.media_type.clone(),
            descriptor.digest.clone(),
            descriptor.size,
        );
        let kind = own.artifact_type.filter(|kind| !kind.is_empty());
        entry.artifact_type = kind.or(config);
        entry.annotations = own.annotations.unwrap_or_default();
        Some((own.subject?.digest, entry))
    }
}

/// Where an answer says that an upload goes on.
fn location(answer: &Answer) -> Result<Uri> {
    let text = answer.header(&LOCATION);
    let url = text.and_then(|text| join(&answer.url, text));
    url.ok_or_else(|| {
        Error::precondition(format!(
            "{}: the registry does not say where to upload",
            shown(&answer.url)
        ))
    })
}

fn upload(answer: &Answer) -> Result<Upload> {
    Ok(Upload {
        url: location(answer)?,
        shortest: headers::length(&answer.headers, &SHORTEST_PIECE).unwrap_or(0),
    })
}

/// A part of a blob as a request's content.
fn content(headers: &mut HeaderMap, part: &Part, start: u64, end: u64) -> Payload {
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    part.sent.store(start, Ordering::Relaxed);
    Payload::Part(Part {
        start,
        end,
        ..part.clone()
    })
}

/// Whether the registry has what it was sent.
fn settled(answer: &Answer, digest: &Digest) -> Result<()> {
    match answer.header(&DIGEST).map(str::parse::<Digest>) {
        Some(Ok(found)) if found != *digest && found.algorithm() == digest.algorithm() => {
            Err(Error::precondition(format!(
                "{}: the registry has stored {found}, {digest} was sent",
                shown(&answer.url)
            )))
        }
        _ => Ok(()),
    }
}
