//! A caller's requests to one repository: who is asked, how often, and as whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use super::auth::{Asker, Authorizer, Credentials, Scopes, add_field};
use super::body::Payload;
use super::call::{Answer, Call, Trouble, same_origin};
use super::connect::Pool;
use super::headers;
use super::hosts::{Host, Hosts, Scheme};
use super::limits::Limits;
use super::reference::Reference;
use super::retry::Attempts;
use crate::error::{Code, Error, Result};

/// How often one request may be refused for want of authorization: without, and with a token that
/// has ended.
const MOST_REFUSALS: u32 = 2;

/// Connections to registries; one a daemon, and shared when cloned.
#[derive(Debug, Clone)]
pub struct Registry {
    limits: Arc<Limits>,
    pool: Arc<Pool>,
}

/// How a caller wants registries to be spoken to.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where registries are.
    pub hosts: Hosts,
    /// Who the caller is.
    pub credentials: Arc<dyn Credentials>,
    headers: HeaderMap,
}

impl Access {
    /// Without hosts.toml and without headers.
    #[must_use]
    pub fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            hosts: Hosts::default(),
            credentials,
            headers: HeaderMap::new(),
        }
    }

    /// Adds a header that is sent to registries with each request, beside those of hosts.toml.
    ///
    /// # Errors
    /// `InvalidArgument` where name or value cannot be sent.
    pub fn header(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = super::hosts::header(name, value).map_err(Error::invalid)?;
        self.headers.append(name, value);
        Ok(())
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Registry {
    /// Without any connection yet; proxies are those of the environment.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_proxies(limits, Matcher::from_env())
    }

    /// The same with proxies for requests in the clear and over TLS, and hosts that are reached
    /// without, in the form of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
    #[must_use]
    pub fn proxied(limits: Limits, http: &str, https: &str, no: &str) -> Self {
        let builder = Matcher::builder();
        let builder = builder.http(http.to_owned()).https(https.to_owned());
        Self::with_proxies(limits, builder.no(no.to_owned()).build())
    }

    fn with_proxies(limits: Limits, proxies: Matcher) -> Self {
        Self {
            pool: Arc::new(Pool::new(&limits, proxies)),
            limits: Arc::new(limits),
        }
    }

    /// A client of the repository that `reference` names; nothing is asked yet.
    ///
    /// # Errors
    /// Where hosts.toml cannot be read or makes no sense.
    pub fn client(&self, reference: &Reference, access: &Access) -> Result<Client> {
        let hosts = access.hosts.of(reference.host())?;
        let site = |host: Host| Site {
            plain: AtomicBool::new(host.scheme == Scheme::Http),
            authorizer: Authorizer::default(),
            host,
        };
        Ok(Client {
            inner: Arc::new(Inner {
                registry: self.clone(),
                reference: reference.clone(),
                text: reference.to_string(),
                sites: hosts.into_iter().map(site).collect(),
                access: access.clone(),
            }),
        })
    }
}

/// Speaks to one repository for one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reference: Reference,
    /// The same as text.
    text: String,
    sites: Vec<Site>,
    access: Access,
}

/// A host, and what was learned of it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) host: Host,
    /// That it does not know TLS.
    plain: AtomicBool,
    authorizer: Authorizer,
}

impl Site {
    /// The URL of something in a repository: `tail` is `manifests/latest`.
    pub(super) fn url(&self, repository: &str, tail: &str, query: &[(&str, &str)]) -> Result<Uri> {
        let scheme = if self.plain.load(Ordering::Relaxed) {
            "http"
        } else {
            "https"
        };
        let host = &self.host;
        let mut text = format!("{scheme}://{}{}/{repository}/{tail}", host.name, host.path);
        let mut fields = String::new();
        for (name, value) in query {
            add_field(&mut fields, name, value);
        }
        if let Some(namespace) = &host.namespace {
            add_field(&mut fields, "ns", namespace);
        }
        if !fields.is_empty() {
            text.push('?');
            text.push_str(&fields);
        }
        text.parse()
            .map_err(|_| Error::invalid(format!("{text:?} is no URL")))
    }
}

/// What is asked of a site.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) scopes: Scopes,
    /// How long the answer may take.
    pub(super) answer: Duration,
    /// Whether the answer is short, so that others may share the connection.
    pub(super) multiplexed: bool,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// To something in the client's repository: path and query.
    Tail(String, Vec<(&'static str, String)>),
    /// Where the registry said.
    Url(Uri),
}

impl Client {
    /// What it was made for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    /// Where that is reached, in the order in which to try.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.inner.sites.iter().map(|site| &site.host)
    }

    pub(super) fn sites(&self) -> &[Site] {
        &self.inner.sites
    }

    /// The limits that it keeps.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.registry.limits
    }

    /// What a request for the repository has to be allowed: `pull` or `pull,push`.
    pub(super) fn scopes(&self, actions: &str) -> Scopes {
        let name = self.inner.reference.repository();
        Scopes::from([format!("repository:{name}:{actions}")])
    }

    /// A request that fetches.
    pub(super) fn reading(&self, method: Method, tail: String) -> Ask {
        Ask {
            method,
            target: Target::Tail(tail, Vec::new()),
            headers: HeaderMap::new(),
            payload: Payload::EMPTY,
            scopes: self.scopes("pull"),
            answer: self.limits().answer,
            multiplexed: true,
        }
    }

    /// Asks a site until it answers with what another try would not change.
    pub(super) async fn ask(
        &self,
        site: &Site,
        ask: &Ask,
        attempts: &mut Attempts,
    ) -> Result<Answer> {
        loop {
            let (error, after) = match self.ask_once(site, ask).await {
                Ok(answer) if is_passing(answer.status) => {
                    let after = headers::retry_after(&answer.headers);
                    (answer.refusal(self.limits(), &ask.method).await, after)
                }
                Ok(answer) => return Ok(answer),
                Err(Trouble::Final(error)) => return Err(error),
                Err(trouble) => (Error::new(Code::Unavailable, trouble.to_string()), None),
            };
            if !attempts.again(after).await {
                return Err(error);
            }
        }
    }

    /// Asks a site, as whoever it wants the caller to be.
    pub(super) async fn ask_once(&self, site: &Site, ask: &Ask) -> Result<Answer, Trouble> {
        let mut refusals = 0;
        loop {
            let own = self.url_of(site, ask)?;
            let asker = self.asker(site, &own);
            // What is meant for this host does not go where it sends an upload.
            let home = site.url("x", "", &[]).map_err(Trouble::Final)?;
            let at_home = same_origin(&home, &own);
            let mut private = HeaderMap::new();
            let mut used = None;
            if at_home {
                private.extend(self.inner.access.headers.clone());
                for (name, value) in &site.host.headers {
                    private.insert(name.clone(), value.clone());
                }
                let known = site.authorizer.header(&asker, &ask.scopes).await;
                if let Some(value) = known.map_err(Trouble::Final)? {
                    private.insert(AUTHORIZATION, value.clone());
                    used = Some(value);
                }
            }
            let mut tls = site.host.tls.clone();
            if !at_home {
                tls.client.clear();
            }
            let call = Call {
                method: ask.method.clone(),
                url: own,
                headers: ask.headers.clone(),
                private,
                payload: ask.payload.clone(),
                tls: &tls,
                connect: site.host.dial_timeout.unwrap_or(self.limits().connect),
                answer: ask.answer,
                multiplexed: ask.multiplexed,
            };
            let falls_back = site.host.scheme == Scheme::HttpsOrHttp
                && matches!(ask.target, Target::Tail(..))
                && call.url.scheme_str() == Some("https");
            let answer = match self.pool().call(self.limits(), &call).await {
                Err(Trouble::NotTls(_)) if falls_back => {
                    site.plain.store(true, Ordering::Relaxed);
                    continue;
                }
                other => other?,
            };
            if answer.status != StatusCode::UNAUTHORIZED || answer.elsewhere || !at_home {
                return Ok(answer);
            }
            refusals += 1;
            let done = if refusals > MOST_REFUSALS {
                Err(super::auth::denied(
                    "the registry does not accept its own tokens",
                ))
            } else {
                let header = used.as_ref();
                let authorizer = &site.authorizer;
                authorizer
                    .refused(&asker, &ask.scopes, &answer.headers, header)
                    .await
            };
            let again = done.map_err(|error| {
                let what = "access denied, repository does not exist or may require authorization";
                let pushes = ask.scopes.iter().any(|scope| scope.ends_with(",push"));
                let doing = if pushes { "push" } else { "pull" };
                let error = if error.code() == Code::Unauthenticated {
                    error.context(format!("{doing} {what}"))
                } else {
                    error
                };
                Trouble::Final(error)
            })?;
            if !again {
                return Ok(answer);
            }
        }
    }

    fn url_of(&self, site: &Site, ask: &Ask) -> Result<Uri, Trouble> {
        match &ask.target {
            Target::Url(url) => Ok(url.clone()),
            Target::Tail(tail, query) => {
                let query: Vec<(&str, &str)> = query
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                let name = self.inner.reference.repository();
                site.url(name, tail, &query).map_err(Trouble::Final)
            }
        }
    }

    fn asker<'a>(&'a self, site: &'a Site, url: &Uri) -> Asker<'a> {
        Asker {
            pool: self.pool(),
            limits: self.limits(),
            credentials: &*self.inner.access.credentials,
            tls: &site.host.tls,
            connect: site.host.dial_timeout.unwrap_or(self.limits().connect),
            host: &site.host.name,
            clear: url.scheme_str() == Some("http"),
            reference: &self.inner.text,
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.inner.registry.pool
    }
}

/// Whether a refusal may pass: too many requests, or a server that is ill.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504 | 507..=599)
}

/// A header for a request.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value);
    let value = value.map_err(|_| Error::invalid(format!("{name} cannot be sent")))?;
    headers.append(name, value);
    Ok(())
}
