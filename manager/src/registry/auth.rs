//! Who the caller is to a registry: the credentials it is asked for, and the tokens they bring.
//! Distribution's token specification; RFC 6749 and 6750; RFC 7617.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::pin::Pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::body::Payload;
use super::call::{Call, Trouble, plain, shown};
use super::connect::Pool;
use super::headers::{self, Challenge};
use super::hosts::{Tls, is_this_machine};
use super::limits::Limits;
use super::retry::Attempts;
use crate::error::{Code, Error, Result};

/// What a method of a trait object answers with later.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// How long a token is good for where its server does not say. Token specification, "expires_in".
const USUAL_LIFE: Duration = Duration::from_secs(60);

/// A token is renewed that long before it ends, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(10);

/// The longest token, in bytes.
const LONGEST_TOKEN: usize = 64 << 10;

/// How the daemon names itself to token servers.
const CLIENT_ID: &str = "knarrd";

/// What a caller has for a registry. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: go on without.
    None,
    /// Name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        secret: String,
    },
    /// An identity token, to be changed for access tokens.
    Identity(String),
    /// The value of an `Authorization` header as it is.
    Header(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
            Self::Header(_) => "Header",
        })
    }
}

/// Knows credentials.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// Called when `host` (as connected to: name, with its port if not the usual one) does not serve
    /// `reference` without; `challenges` are the values of its `WWW-Authenticate` headers.
    ///
    /// # Errors
    /// Ends the request: use [`Credential::None`] to go on without.
    fn get<'a>(
        &'a self,
        host: &'a str,
        reference: &'a str,
        challenges: &'a [String],
    ) -> Future<'a, Result<Credential>>;
}

/// Has none.
#[derive(Debug, Clone, Copy)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [String],
    ) -> Future<'a, Result<Credential>> {
        Box::pin(async { Ok(Credential::None) })
    }
}

/// What a token is good for: `repository:NAME:pull`.
pub(super) type Scopes = BTreeSet<String>;

/// What is known of the authorization that one host wants. One asks for a token at a time; others
/// wait for it.
#[derive(Default)]
pub(super) struct Authorizer(Mutex<State>);

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

#[derive(Default)]
struct State {
    credential: Option<Credential>,
    way: Way,
    tokens: HashMap<Scopes, Token>,
}

/// How a host wants to be told who asks.
#[derive(Default)]
enum Way {
    #[default]
    Unknown,
    Fixed(HeaderValue),
    Bearer(Bearer),
}

#[derive(Clone)]
struct Bearer {
    realm: Uri,
    service: Option<String>,
    /// What the host asked for itself.
    scopes: Scopes,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

/// Who asks whom for what.
pub(super) struct Asker<'a> {
    pub(super) pool: &'a Pool,
    pub(super) limits: &'a Limits,
    pub(super) credentials: &'a dyn Credentials,
    pub(super) tls: &'a Tls,
    pub(super) connect: Duration,
    pub(super) host: &'a str,
    /// Whether the host was asked in the clear.
    pub(super) clear: bool,
    pub(super) reference: &'a str,
}

impl Authorizer {
    /// What to send along, as far as it is known.
    pub(super) async fn header(
        &self,
        asker: &Asker<'_>,
        scopes: &Scopes,
    ) -> Result<Option<HeaderValue>> {
        let mut state = self.0.lock().await;
        match &state.way {
            Way::Unknown => Ok(None),
            Way::Fixed(header) => Ok(Some(header.clone())),
            Way::Bearer(bearer) => {
                let bearer = bearer.clone();
                state.token(asker, &bearer, scopes).await.map(Some)
            }
        }
    }

    /// Takes in that a request was refused, which sent `used`. Whether another try makes sense: not with
    /// the same name and password.
    ///
    /// # Errors
    /// `Unauthenticated` where there is nothing to try with.
    pub(super) async fn refused(
        &self,
        asker: &Asker<'_>,
        scopes: &Scopes,
        answer: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool> {
        let challenges = headers::challenges(answer);
        let find = |scheme: &str| challenges.iter().find(|one| one.scheme == scheme);
        let mut state = self.0.lock().await;
        if state.changed_since(scopes, used) {
            return Ok(true);
        }
        if state.credential.is_none() {
            let values = answer.get_all(hyper::header::WWW_AUTHENTICATE).into_iter();
            let values = values.filter_map(|value| Some(value.to_str().ok()?.to_owned()));
            let values: Vec<String> = values.collect();
            let got = asker.credentials.get(asker.host, asker.reference, &values);
            state.credential = Some(got.await?);
        }
        if let Some(Credential::Header(value)) = &state.credential {
            let header = secret(value).ok_or_else(|| {
                Error::invalid("the Authorization header of the credentials cannot be sent")
            })?;
            return Ok(state.fix(header, used));
        }
        if let Some(bearer) = find("bearer") {
            state.bearer(asker, bearer, scopes, used).await?;
            return Ok(true);
        }
        if find("basic").is_some() {
            let Some(Credential::Password {
                user,
                secret: password,
            }) = &state.credential
            else {
                return Err(denied("authorization failed: no basic auth credentials"));
            };
            let header = basic(user, password).ok_or_else(|| denied("the name cannot be sent"))?;
            return Ok(state.fix(header, used));
        }
        Err(denied(
            "the registry asks for no known kind of authorization",
        ))
    }
}

impl State {
    /// Whether there is something else to send than what was refused: another request renewed it.
    fn changed_since(&self, scopes: &Scopes, used: Option<&HeaderValue>) -> bool {
        let now = match &self.way {
            Way::Unknown => None,
            Way::Fixed(header) => Some(header),
            Way::Bearer(_) => self.tokens.get(scopes).map(|token| &token.header),
        };
        now.is_some() && now != used
    }

    /// Sends this from now on. Whether it is anything new.
    fn fix(&mut self, header: HeaderValue, used: Option<&HeaderValue>) -> bool {
        let new = used != Some(&header);
        self.way = Way::Fixed(header);
        new
    }

    async fn bearer(
        &mut self,
        asker: &Asker<'_>,
        challenge: &Challenge,
        scopes: &Scopes,
        used: Option<&HeaderValue>,
    ) -> Result<()> {
        let realm = challenge.get("realm").unwrap_or("");
        let realm: Uri = realm
            .parse()
            .ok()
            .filter(|realm: &Uri| {
                matches!(realm.scheme_str(), Some("http" | "https"))
                    && realm
                        .authority()
                        .is_some_and(|name| !name.as_str().contains('@'))
            })
            .ok_or_else(|| denied(&format!("the token server {:?} is no URL", plain(realm))))?;
        let asked: Scopes = challenge
            .get("scope")
            .into_iter()
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect();
        // A fresh token that lacks what is asked for would lack it again.
        let lacking = challenge.get("error") == Some("insufficient_scope");
        if used.is_some() && lacking && asked.is_subset(scopes) {
            return Err(denied("server message: insufficient_scope"));
        }
        let bearer = Bearer {
            realm,
            service: challenge.get("service").map(str::to_owned),
            scopes: asked,
        };
        self.tokens.remove(scopes);
        self.way = Way::Bearer(bearer.clone());
        self.token(asker, &bearer, scopes).await.map(|_| ())
    }

    /// A token that is good for some time to come.
    async fn token(
        &mut self,
        asker: &Asker<'_>,
        bearer: &Bearer,
        scopes: &Scopes,
    ) -> Result<HeaderValue> {
        let now = Instant::now();
        if let Some(token) = self.tokens.get(scopes)
            && token.until > now
        {
            return Ok(token.header.clone());
        }
        let credential = self.credential.clone().unwrap_or(Credential::None);
        let all: Scopes = scopes.union(&bearer.scopes).cloned().collect();
        let token = asker.fetch(bearer, &all, &credential).await;
        let token =
            token.map_err(|error| error.context(format!("failed to authorize {}", asker.host)))?;
        let header = token.header.clone();
        if self.tokens.len() > 64 {
            self.tokens.clear();
        }
        self.tokens.insert(scopes.clone(), token);
        Ok(header)
    }
}

/// A token server's answer.
#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Asker<'_> {
    /// Fetches a token.
    async fn fetch(
        &self,
        bearer: &Bearer,
        scopes: &Scopes,
        credential: &Credential,
    ) -> Result<Token> {
        if *credential != Credential::None
            && !self.clear
            && bearer.realm.scheme_str() == Some("http")
            && !bearer.realm.host().is_some_and(is_this_machine)
        {
            return Err(denied(&format!(
                "the credentials are not sent to {}, which is not over TLS",
                shown(&bearer.realm)
            )));
        }
        let granted = match credential {
            Credential::Identity(identity) => {
                let fields = [("grant_type", "refresh_token"), ("refresh_token", identity)];
                self.post(bearer, scopes, &fields).await?
            }
            Credential::Password { user, secret } => {
                let header =
                    basic(user, secret).ok_or_else(|| denied("the name cannot be sent"))?;
                match self.get(bearer, scopes, Some(header)).await? {
                    // Some servers know only the one that RFC 6749 has.
                    Err(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => {
                        let fields = [
                            ("grant_type", "password"),
                            ("username", user),
                            ("password", secret),
                        ];
                        self.post(bearer, scopes, &fields).await?
                    }
                    other => other,
                }
            }
            Credential::None | Credential::Header(_) => self.get(bearer, scopes, None).await?,
        };
        let granted = granted.map_err(|status| {
            denied(&format!(
                "the token server {} answers {status}",
                shown(&bearer.realm)
            ))
        })?;
        let text = [granted.token, granted.access_token];
        let text = text.into_iter().flatten().find(|text| !text.is_empty());
        let header = text
            .filter(|text| text.len() <= LONGEST_TOKEN)
            .and_then(|text| secret(&format!("Bearer {text}")));
        let header = header.ok_or_else(|| {
            denied(&format!(
                "the token server {} sends no token",
                shown(&bearer.realm)
            ))
        })?;
        let life = granted.expires_in.map_or(USUAL_LIFE, Duration::from_secs);
        let life = life.clamp(USUAL_LIFE, Duration::from_secs(24 * 3600));
        Ok(Token {
            header,
            until: Instant::now() + life - MARGIN,
        })
    }

    async fn get(
        &self,
        bearer: &Bearer,
        scopes: &Scopes,
        header: Option<HeaderValue>,
    ) -> Result<Result<Granted, StatusCode>> {
        let mut query = bearer.realm.query().unwrap_or("").to_owned();
        let service = bearer
            .service
            .iter()
            .map(|service| ("service", service.as_str()));
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        for (name, value) in service.chain(scopes) {
            add_field(&mut query, name, value);
        }
        let realm = &bearer.realm;
        let url = format!("{}?{query}", shown(realm));
        let url: Uri = url
            .trim_end_matches('?')
            .parse()
            .map_err(|_| denied(&format!("the token server {} is no URL", shown(realm))))?;
        let private = header
            .map(|header| (AUTHORIZATION, header))
            .into_iter()
            .collect();
        self.grant(Method::GET, url, private, Payload::EMPTY).await
    }

    async fn post(
        &self,
        bearer: &Bearer,
        scopes: &Scopes,
        fields: &[(&str, &str)],
    ) -> Result<Result<Granted, StatusCode>> {
        let mut form = String::new();
        let service = bearer.service.as_deref().unwrap_or("");
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let scope = scopes.join(" ");
        let own = [
            ("client_id", CLIENT_ID),
            ("service", service),
            ("scope", &scope),
        ];
        for (name, value) in fields.iter().copied().chain(own) {
            add_field(&mut form, name, value);
        }
        let private = [(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        )];
        let payload = Payload::Bytes(Bytes::from(form));
        let private = private.into_iter().collect();
        self.grant(Method::POST, bearer.realm.clone(), private, payload)
            .await
    }

    /// Asks a token server; the inner error is the status of its refusal.
    async fn grant(
        &self,
        method: Method,
        url: Uri,
        private: HeaderMap,
        payload: Payload,
    ) -> Result<Result<Granted, StatusCode>> {
        let call = Call {
            method,
            url,
            headers: [(ACCEPT, HeaderValue::from_static("application/json"))]
                .into_iter()
                .collect(),
            private,
            payload,
            tls: &Tls {
                client: Vec::new(),
                ..self.tls.clone()
            },
            connect: self.connect,
            answer: self.limits.answer,
            multiplexed: true,
        };
        let mut attempts = Attempts::new(self.limits);
        loop {
            let (what, after) = match self.pool.call(self.limits, &call).await {
                Ok(answer) if answer.status.is_success() => {
                    match answer.bytes(self.limits, self.limits.answer_body).await {
                        Ok(body) => {
                            let granted = serde_json::from_slice(&body).map_err(|_| {
                                denied(&format!(
                                    "the token server {} sends no token",
                                    shown(&call.url)
                                ))
                            })?;
                            return Ok(Ok(granted));
                        }
                        Err(Trouble::Final(error)) => return Err(error),
                        Err(trouble) => (trouble.to_string(), None),
                    }
                }
                Ok(answer) => {
                    let again = matches!(answer.status.as_u16(), 408 | 429 | 500..=599);
                    if matches!(answer.status.as_u16(), 404 | 405) {
                        return Ok(Err(answer.status));
                    }
                    let after = headers::retry_after(&answer.headers);
                    let refusal = answer.refusal(self.limits, &call.method).await;
                    if !again {
                        return Err(denied(refusal.message()));
                    }
                    (refusal.message().to_owned(), after)
                }
                Err(Trouble::Final(error)) => return Err(error),
                Err(trouble) => (trouble.to_string(), None),
            };
            if !attempts.again(after).await {
                return Err(Error::new(Code::Unavailable, what));
            }
        }
    }
}

/// That the caller may not, in the words that clients look for.
pub(super) fn denied(what: &str) -> Error {
    Error::new(Code::Unauthenticated, what)
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    if user.contains(':') {
        return None;
    }
    let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {both}"))
}

/// A header's value that is not shown.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Adds a field to a query or a form. WHATWG URL, "application/x-www-form-urlencoded".
pub(super) fn add_field(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query.push('%');
            query.push(char::from(b"0123456789ABCDEF"[usize::from(byte >> 4)]));
            query.push(char::from(b"0123456789ABCDEF"[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_escaped() {
        let mut query = "a=b".to_owned();
        add_field(&mut query, "scope", "repository:x/y:pull,push");
        add_field(&mut query, "password", "ä&= +");
        assert_eq!(
            query,
            "a=b&scope=repository:x/y:pull,push&password=%C3%A4%26%3D%20%2B"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let password = Credential::Password {
            user: "u".to_owned(),
            secret: "s3cret".to_owned(),
        };
        assert!(!format!("{password:?} {:?}", basic("u", "s3cret")).contains("s3cret"));
        assert!(basic("a:b", "c").is_none());
    }
}
