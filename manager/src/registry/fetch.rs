//! Finding out what a name means, and fetching manifests and lists.

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::call::{Answer, join, plain, same_origin, shown};
use super::client::{Client, Site, Target, put};
use super::headers;
use super::retry::Attempts;
use super::{Descriptor, media_type};
use crate::error::{Code, Error, Result};
use crate::store::digest::{Algorithm, Digest};

/// Where a registry says what the digest of its answer is.
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Which filters a list of referrers has been through.
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What is accepted where a name is looked up.
const ANY_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// The most entries of a list.
const LONGEST_LIST: usize = 100_000;

impl Client {
    /// What the client's reference names now: by its digest where it has one, else by its tag.
    ///
    /// # Errors
    /// `InvalidArgument` where it has neither; `NotFound` where no host has it; `Unauthenticated`
    /// where the caller may not know.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let reference = self.reference();
        let digest = reference.digest();
        let tails = match (digest, reference.tag()) {
            // What has no manifest's type is among the blobs.
            (Some(digest), _) => vec![format!("manifests/{digest}"), format!("blobs/{digest}")],
            (None, Some(tag)) => vec![format!("manifests/{tag}")],
            (None, None) => {
                let what = format!("{reference}: object required: a tag or a digest");
                return Err(Error::invalid(what));
            }
        };
        let able = |site: &&Site| match digest {
            Some(_) => site.host.capabilities.pull,
            None => site.host.capabilities.resolve,
        };
        let sites: Vec<&Site> = self.sites().iter().filter(able).collect();
        let mut first = None;
        for tail in &tails {
            for (at, site) in sites.iter().enumerate() {
                let attempts = self.attempts(at + 1 == sites.len());
                match self.resolve_at(site, tail, digest, attempts).await {
                    Ok(found) => return Ok(found),
                    Err(error) if error.code() == Code::NotFound => {}
                    Err(error) => first = first.or(Some(error)),
                }
            }
            if let Some(error) = first {
                return Err(error);
            }
        }
        Err(Error::not_found(reference.to_string()))
    }

    /// All attempts for the last host that can be asked, few for the others.
    pub(super) fn attempts(&self, last: bool) -> Attempts {
        let attempts = Attempts::new(self.limits());
        if last { attempts } else { attempts.few() }
    }

    async fn resolve_at(
        &self,
        site: &Site,
        tail: &str,
        digest: Option<&Digest>,
        mut attempts: Attempts,
    ) -> Result<Descriptor> {
        let mut ask = self.reading(Method::HEAD, tail.to_owned());
        put(&mut ask.headers, ACCEPT, ANY_MANIFEST)?;
        let answer = self.ask(site, &ask, &mut attempts).await?;
        if answer.status.is_success() {
            if let Some(found) = described(&answer, digest)? {
                return Ok(found);
            }
        } else if answer.status != StatusCode::METHOD_NOT_ALLOWED {
            return Err(answer.refusal(self.limits(), &ask.method).await);
        }
        if tail.starts_with("blobs/") {
            // Nobody needs to fetch a blob to know what its name says.
            return Err(Error::not_found(tail));
        }
        // Not every registry says all of it in the headers: then the bytes do.
        ask.method = Method::GET;
        let answer = self.ask(site, &ask, &mut attempts).await?;
        if !answer.status.is_success() {
            return Err(answer.refusal(self.limits(), &ask.method).await);
        }
        let told = answer.header(&CONTENT_TYPE).map(type_only);
        let (told, url) = (told.unwrap_or_default(), shown(&answer.url));
        let body = answer.bytes(self.limits(), self.limits().manifest).await;
        let body = body.map_err(|trouble| Error::new(Code::Unavailable, trouble.to_string()))?;
        let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
        let found = algorithm.digest(&body);
        if digest.is_some_and(|digest| *digest != found) {
            return Err(Error::precondition(format!(
                "{url}: the registry sends content of digest {found}"
            )));
        }
        let kind = match Head::read(&body) {
            Some(Head {
                media_type: Some(own),
                ..
            }) if !own.is_empty() => own,
            _ => told,
        };
        let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
        Ok(Descriptor::new(kind, found, size))
    }

    /// A manifest as a whole, with the size and digest that the descriptor says, and of the type that
    /// it says.
    ///
    /// # Errors
    /// `NotFound` where no host has it; `FailedPrecondition` where it is not what the descriptor says;
    /// `ResourceExhausted` where it is too long.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let most = self.limits().manifest;
        if descriptor.size > most {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!(
                    "{} in {}: a manifest of {} bytes: at most {most} are read",
                    descriptor.digest,
                    self.reference(),
                    descriptor.size
                ),
            ));
        }
        let mut first = None;
        let pulls = |site: &&Site| site.host.capabilities.pull;
        let sites: Vec<&Site> = self.sites().iter().filter(pulls).collect();
        for place in ["manifests", "blobs"] {
            for (at, site) in sites.iter().enumerate() {
                let mut attempts = self.attempts(at + 1 == sites.len());
                let tail = format!("{place}/{}", descriptor.digest);
                match self
                    .manifest_at(site, tail, descriptor, &mut attempts)
                    .await
                {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) if error.code() == Code::NotFound => {}
                    Err(error) => first = first.or(Some(error)),
                }
            }
            if let Some(error) = first {
                return Err(error);
            }
        }
        let what = format!("{} in {}", descriptor.digest, self.reference());
        Err(Error::not_found(what))
    }

    async fn manifest_at(
        &self,
        site: &Site,
        tail: String,
        descriptor: &Descriptor,
        attempts: &mut Attempts,
    ) -> Result<Bytes> {
        let mut ask = self.reading(Method::GET, tail);
        let accept = if descriptor.media_type.is_empty() {
            ANY_MANIFEST.to_owned()
        } else {
            format!("{}, */*", descriptor.media_type)
        };
        put(&mut ask.headers, ACCEPT, &accept)?;
        loop {
            let answer = self.ask(site, &ask, attempts).await?;
            if !answer.status.is_success() {
                return Err(answer.refusal(self.limits(), &ask.method).await);
            }
            let url = shown(&answer.url);
            let what = match answer.bytes(self.limits(), descriptor.size).await {
                Ok(body) if u64::try_from(body.len()) == Ok(descriptor.size) => {
                    verify(&body, descriptor).map_err(|error| error.context(&url))?;
                    return Ok(body);
                }
                Ok(body) => format!("{url}: {} of {} bytes", body.len(), descriptor.size),
                Err(super::call::Trouble::Final(error)) => {
                    return Err(Error::precondition(error.message()));
                }
                Err(trouble) => trouble.to_string(),
            };
            if !attempts.again(None).await {
                return Err(Error::new(Code::Unavailable, what));
            }
        }
    }

    /// Who refers to a manifest, of one type or all. Where the registry keeps no list, the one under
    /// the tag that stands for the manifest counts. Distribution specification, "Listing Referrers".
    ///
    /// # Errors
    /// Where the registry cannot be asked.
    pub async fn referrers(&self, subject: &Digest, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        let able = |site: &&Site| site.host.capabilities.referrers;
        let sites: Vec<&Site> = self.sites().iter().filter(able).collect();
        let mut first = None;
        for (at, site) in sites.iter().enumerate() {
            let mut attempts = self.attempts(at + 1 == sites.len());
            match self.referrers_at(site, subject, kind, &mut attempts).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(Vec::new()), Err)
    }

    /// The same of one host, which may know nothing of any.
    async fn referrers_at(
        &self,
        site: &Site,
        subject: &Digest,
        kind: Option<&str>,
        attempts: &mut Attempts,
    ) -> Result<Option<Vec<Descriptor>>> {
        let mut ask = self.reading(Method::GET, String::new());
        let query = kind.map(|kind| ("artifactType", kind.to_owned()));
        ask.target = Target::Tail(format!("referrers/{subject}"), query.into_iter().collect());
        put(&mut ask.headers, ACCEPT, media_type::OCI_INDEX)?;
        let mut found = Vec::new();
        let wanted = |entry: &Descriptor| {
            kind.is_none_or(|kind| entry.artifact_type.as_deref() == Some(kind))
        };
        let mut known = false;
        for _ in 0..self.limits().pages {
            let answer = self.ask(site, &ask, attempts).await?;
            if !known && matches!(answer.status.as_u16(), 400 | 404 | 405) {
                let list = self.tagged_referrers(site, subject, attempts).await?;
                let list = list.map(|index| index.manifests);
                return Ok(list.map(|list| list.into_iter().filter(wanted).collect()));
            }
            if !answer.status.is_success() {
                return Err(answer.refusal(self.limits(), &ask.method).await);
            }
            known = true;
            let filtered = answer
                .header(&FILTERS)
                .is_some_and(|all| all.contains("artifactType"));
            let next = next(&answer)?;
            let index: Index = self.json(answer).await?;
            let entries = index.manifests.into_iter();
            found.extend(entries.filter(|entry| filtered || wanted(entry)));
            match next {
                Some(url) if found.len() < LONGEST_LIST => ask.target = Target::Url(url),
                _ => return Ok(Some(found)),
            }
        }
        Ok(Some(found))
    }

    /// The list under the tag that stands for a manifest, if there is one.
    pub(super) async fn tagged_referrers(
        &self,
        site: &Site,
        subject: &Digest,
        attempts: &mut Attempts,
    ) -> Result<Option<Index>> {
        let mut ask = self.reading(Method::GET, format!("manifests/{}", referrers_tag(subject)));
        put(&mut ask.headers, ACCEPT, media_type::OCI_INDEX)?;
        let answer = self.ask(site, &ask, attempts).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => self.json(answer).await.map(Some),
            _ => Err(answer.refusal(self.limits(), &ask.method).await),
        }
    }

    /// All tags of the repository.
    ///
    /// # Errors
    /// `NotFound` where there is no such repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let Some(site) = self
            .sites()
            .iter()
            .rfind(|site| site.host.capabilities.resolve)
        else {
            return Err(Error::not_found(format!(
                "a host for {}",
                self.reference().host()
            )));
        };
        let mut attempts = Attempts::new(self.limits());
        let mut ask = self.reading(Method::GET, String::new());
        ask.target = Target::Tail("tags/list".to_owned(), vec![("n", "1000".to_owned())]);
        let mut found = Vec::new();
        for _ in 0..self.limits().pages {
            let answer = self.ask(site, &ask, &mut attempts).await?;
            if !answer.status.is_success() {
                return Err(answer.refusal(self.limits(), &ask.method).await);
            }
            let next = next(&answer)?;
            let list: Tags = self.json(answer).await?;
            found.extend(list.tags.unwrap_or_default());
            match next {
                Some(url) if found.len() < LONGEST_LIST => ask.target = Target::Url(url),
                _ => break,
            }
        }
        Ok(found)
    }

    /// An answer's body in JSON.
    async fn json<T: for<'de> Deserialize<'de>>(&self, answer: Answer) -> Result<T> {
        let url = shown(&answer.url);
        let body = answer.bytes(self.limits(), self.limits().manifest).await;
        let body = body.map_err(|trouble| Error::new(Code::Unavailable, trouble.to_string()))?;
        let parsed = serde_json::from_slice(&body);
        parsed.map_err(|error| {
            Error::precondition(format!("{url}: no such list as was asked for: {error}"))
        })
    }
}

/// A list of manifests.
#[derive(Debug, Clone, serde::Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    /// What else there is, which is kept.
    #[serde(flatten)]
    pub(super) other: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

/// What tells kinds of manifests apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl Head {
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The tag that stands for a manifest: its digest, with another character for the colon.
pub(super) fn referrers_tag(subject: &Digest) -> String {
    format!("{}-{}", subject.algorithm().name(), subject.hex())
}

/// What the headers of an answer say about its body, where they say all of it.
fn described(answer: &Answer, digest: Option<&Digest>) -> Result<Option<Descriptor>> {
    let told = answer
        .header(&DIGEST)
        .and_then(|text| text.parse::<Digest>().ok());
    if let (Some(told), Some(digest)) = (&told, digest)
        && told != digest
        && told.algorithm() == digest.algorithm()
    {
        return Err(Error::precondition(format!(
            "{}: the registry answers with digest {told}",
            shown(&answer.url)
        )));
    }
    let kind = answer
        .header(&CONTENT_TYPE)
        .map(type_only)
        .unwrap_or_default();
    let size = headers::length(&answer.headers, &CONTENT_LENGTH);
    let (Some(digest), Some(size)) = (digest.cloned().or(told), size) else {
        return Ok(None);
    };
    // A type that any body could have says nothing of a manifest.
    let vague = [
        "",
        "text/plain",
        "text/html",
        "application/json",
        "application/octet-stream",
    ];
    if vague.contains(&kind.as_str()) && !answer.url.path().contains("/blobs/") {
        return Ok(None);
    }
    Ok(Some(Descriptor::new(kind, digest, size)))
}

/// A media type without parameters.
fn type_only(text: &str) -> String {
    plain(text.split(';').next().unwrap_or("").trim())
}

/// Whether a manifest is what its descriptor says, and not two things at once.
fn verify(body: &[u8], descriptor: &Descriptor) -> Result<()> {
    let found = descriptor.digest.algorithm().digest(body);
    if found != descriptor.digest {
        return Err(Error::precondition(format!(
            "unexpected digest {found}, expected {}",
            descriptor.digest
        )));
    }
    let Some(head) = Head::read(body) else {
        return Ok(());
    };
    let kind = descriptor.media_type.as_str();
    if let Some(own) = &head.media_type
        && !own.is_empty()
        && !kind.is_empty()
        && own != kind
    {
        return Err(Error::precondition(format!(
            "the manifest says that it is {:?}, the registry that it is {kind:?}",
            plain(own)
        )));
    }
    let is_index = [media_type::OCI_INDEX, media_type::DOCKER_LIST].contains(&kind);
    let is_image = [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST].contains(&kind);
    if (is_index && (head.layers.is_some() || head.config.is_some()))
        || (is_image && head.manifests.is_some())
    {
        return Err(Error::precondition(format!(
            "a {kind} that has both manifests and layers: it may be read as either"
        )));
    }
    Ok(())
}

/// Where a list goes on: at the same host.
fn next(answer: &Answer) -> Result<Option<hyper::Uri>> {
    let Some(link) = headers::next_page(&answer.headers) else {
        return Ok(None);
    };
    match join(&answer.url, &link) {
        Some(url) if same_origin(&url, &answer.url) => Ok(Some(url)),
        _ => Err(Error::precondition(format!(
            "{}: the list goes on at {:?}, which is not the same host",
            shown(&answer.url),
            plain(&link)
        ))),
    }
}
