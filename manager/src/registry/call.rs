//! One request and its answer: sent with a deadline for each step, redirected without what is
//! meant for one host alone.

use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::body::{Outgoing, Payload};
use super::connect::{Pool, chain};
use super::headers;
use super::hosts::Tls;
use super::limits::Limits;
use super::retry::Meter;
use crate::error::{Code, Error, Result};

/// How the daemon calls itself.
const AGENT: &str = concat!("knarrd/", env!("CARGO_PKG_VERSION"));

/// The longest text of a registry's that is passed on, in characters.
const LONGEST_TEXT: usize = 300;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Uri,
    /// For whoever answers.
    pub(super) headers: HeaderMap,
    /// For the host of `url` alone: authorization, and what callers configured.
    pub(super) private: HeaderMap,
    pub(super) payload: Payload,
    pub(super) tls: &'a Tls,
    pub(super) connect: Duration,
    /// From the request's end to the beginning of its answer.
    pub(super) answer: Duration,
    /// Whether the connection may carry other requests at the same time.
    pub(super) multiplexed: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There was no connection.
    Unreachable(String),
    /// The host does not speak TLS.
    NotTls(String),
    /// The connection broke or stalled: worth another try.
    Broken(String),
    /// Another try would end the same.
    Final(Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(what) | Self::NotTls(what) | Self::Broken(what) => f.write_str(what),
            Self::Final(error) => f.write_str(error.message()),
        }
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    /// Who answered.
    pub(super) url: Uri,
    /// Whether that is another host than the one that was asked.
    pub(super) elsewhere: bool,
}

impl Pool {
    /// Sends a request, and follows redirects.
    pub(super) async fn call(&self, limits: &Limits, call: &Call<'_>) -> Result<Answer, Trouble> {
        let mut call = call.clone();
        let mut elsewhere = false;
        let mut tls = call.tls.clone();
        for _ in 0..=limits.redirects {
            let response = self.send(limits, &call, &tls).await?;
            let status = response.status();
            let again = matches!(status.as_u16(), 307 | 308)
                || (matches!(status.as_u16(), 301..=303)
                    && matches!(call.method, Method::GET | Method::HEAD));
            let location = response.headers().get(LOCATION);
            let Some(location) = location.filter(|_| again) else {
                let (parts, body) = response.into_parts();
                return Ok(Answer {
                    status,
                    headers: parts.headers,
                    body,
                    url: call.url,
                    elsewhere,
                });
            };
            let target = location
                .to_str()
                .ok()
                .and_then(|text| join(&call.url, text));
            let Some(target) = target else {
                let what = format!(
                    "{}: redirected to what is no URL of http or https",
                    shown(&call.url)
                );
                return Err(Trouble::Final(Error::precondition(what)));
            };
            if !same_origin(&target, &call.url) {
                if matches!(&call.payload, Payload::Bytes(bytes) if call.method == Method::POST && !bytes.is_empty())
                {
                    // A form for a token server holds credentials.
                    let what = format!(
                        "{}: redirected to another host, {}",
                        shown(&call.url),
                        shown(&target)
                    );
                    return Err(Trouble::Final(Error::new(Code::Unauthenticated, what)));
                }
                // What is meant for one host goes to no other, and does not come back either.
                call.private.clear();
                tls.client.clear();
                elsewhere = true;
            }
            call.url = target;
        }
        let what = format!(
            "{}: more than {} redirects",
            shown(&call.url),
            limits.redirects
        );
        Err(Trouble::Final(Error::precondition(what)))
    }

    /// Sends a request to one host.
    async fn send(
        &self,
        limits: &Limits,
        call: &Call<'_>,
        tls: &Tls,
    ) -> Result<Response<Incoming>, Trouble> {
        let http = self.http(tls, call.connect, call.multiplexed);
        let http = http.map_err(Trouble::Final)?;
        let mut request = Request::new(Outgoing::from(call.payload.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.url.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(call.headers.clone());
        headers.extend(call.private.clone());
        headers.remove(HOST);
        if let Some(value) = self.proxy_authorization(&call.url) {
            headers.insert(PROXY_AUTHORIZATION, value);
        }
        let mut waiting = std::pin::pin!(http.request(request));
        let shown = || format!("failed to do request: {} {}", call.method, shown(&call.url));
        let mut meter = Meter::new(limits);
        let mut seen = 0;
        loop {
            let start = Instant::now();
            let (all_sent, sent) = match &call.payload {
                Payload::Part(part) => {
                    let sent = part.sent.load(Ordering::Relaxed);
                    (sent >= part.end, sent)
                }
                Payload::Bytes(_) => (true, 0),
            };
            // A connection has a deadline of its own.
            let patience = if all_sent {
                call.answer + call.connect
            } else {
                limits.idle.min(limits.window)
            };
            match tokio::time::timeout(patience, waiting.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    if let Payload::Part(part) = &call.payload
                        && let Some(error) = part.failure()
                    {
                        return Err(Trouble::Final(error));
                    }
                    return Err(trouble(&error, &shown()));
                }
                Err(_) if all_sent => {
                    let what =
                        format!("{}: no answer within {} s", shown(), patience.as_secs_f32());
                    return Err(Trouble::Broken(what));
                }
                Err(_) => {
                    let now = match &call.payload {
                        Payload::Part(part) => part.sent.load(Ordering::Relaxed),
                        Payload::Bytes(_) => 0,
                    };
                    let moved = now.saturating_sub(sent.max(seen));
                    seen = now;
                    if moved == 0 || !meter.moved(moved, start) {
                        let what = format!("{}: too slow: {now} bytes have been taken", shown());
                        return Err(Trouble::Broken(what));
                    }
                }
            }
        }
    }
}

/// The causes of a failed request, in the words that people and tools look for.
fn plainly(error: &hyper_util::client::legacy::Error) -> String {
    let text = chain(error);
    let text = [
        "client error (Connect): ",
        "client error (SendRequest): ",
        "tcp connect error: ",
    ]
    .iter()
    .fold(text, |text, part| text.replacen(part, "", 1));
    text.replace(
        "Connection refused (os error 111)",
        "connect: connection refused",
    )
}

/// What a failed request means.
fn trouble(error: &hyper_util::client::legacy::Error, shown: &str) -> Trouble {
    let what = format!("{shown}: {}", plainly(error));
    if !error.is_connect() {
        return Trouble::Broken(what);
    }
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(one) = cause {
        if let Some(error) = one.downcast_ref() {
            return of_tls(error, what);
        }
        let io = one.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof) {
            return Trouble::NotTls(what);
        }
        // An io::Error passes over what it holds where it is asked for its source.
        cause = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => one.source(),
        };
    }
    Trouble::Unreachable(what)
}

fn of_tls(error: &rustls::Error, what: String) -> Trouble {
    match error {
        rustls::Error::InvalidMessage(_) => Trouble::NotTls(what),
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Trouble::Final(Error::new(
                Code::Unavailable,
                format!("{what} (its authority can be given as ca in hosts.toml)"),
            ))
        }
        rustls::Error::AlertReceived(_) => Trouble::Final(Error::new(Code::Unavailable, what)),
        _ => Trouble::Unreachable(what),
    }
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole body, if it has at most `most` bytes.
    pub(super) async fn bytes(mut self, limits: &Limits, most: u64) -> Result<Bytes, Trouble> {
        let shown = shown(&self.url);
        let too_long = || {
            let what = format!("{shown}: the answer is longer than {most} bytes");
            Trouble::Final(Error::new(Code::ResourceExhausted, what))
        };
        let told = headers::length(&self.headers, &hyper::header::CONTENT_LENGTH);
        if told.is_some_and(|told| told > most) {
            return Err(too_long());
        }
        let mut all = Vec::new();
        let mut meter = Meter::new(limits);
        loop {
            match next(&mut self.body, limits, &mut meter).await {
                Ok(Some(bytes)) => {
                    let length = u64::try_from(all.len() + bytes.len()).unwrap_or(u64::MAX);
                    if length > most {
                        return Err(too_long());
                    }
                    all.extend_from_slice(&bytes);
                }
                Ok(None) => return Ok(all.into()),
                Err(what) => return Err(Trouble::Broken(format!("{shown}: {what}"))),
            }
        }
    }

    /// What went wrong, with what the registry says about it.
    pub(super) async fn refusal(self, limits: &Limits, method: &Method) -> Error {
        let status = self.status;
        let mut what = format!(
            "unexpected status from {method} request to {}: {status}",
            shown(&self.url)
        );
        if let Ok(body) = self.bytes(limits, limits.answer_body).await
            && let Some(said) = said(&body)
        {
            what = format!("{what}: {said}");
        }
        let code = match status.as_u16() {
            404 => Code::NotFound,
            401 | 403 => Code::PermissionDenied,
            408 | 429 | 500..=599 => Code::Unavailable,
            413 => Code::ResourceExhausted,
            _ => Code::FailedPrecondition,
        };
        Error::new(code, what)
    }
}

/// The next bytes of a body, or nothing at its end.
pub(super) async fn next(
    body: &mut Incoming,
    limits: &Limits,
    meter: &mut Meter,
) -> Result<Option<Bytes>, String> {
    loop {
        let start = Instant::now();
        let frame = match tokio::time::timeout(limits.idle, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(chain(&error)),
            Ok(None) => return Ok(None),
            Err(_) => return Err(format!("no byte for {} s", limits.idle.as_secs_f32())),
        };
        // Trailers say nothing here, but many of them are no progress.
        let bytes = frame.into_data().unwrap_or_default();
        if !meter.moved(u64::try_from(bytes.len()).unwrap_or(0), start) {
            return Err(format!("slower than {} bytes a second", limits.slowest));
        }
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
    }
}

/// The texts of a registry's errors. Distribution specification, "Error Codes".
fn said(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: &serde_json::Value, key: &str| {
        let text = value.get(key).and_then(|text| text.as_str());
        text.unwrap_or("").to_owned()
    };
    let errors = value.get("errors").and_then(|errors| errors.as_array());
    let all: Vec<String> = match errors {
        Some(errors) => {
            let one = |error| format!("{}: {}", text(error, "code"), text(error, "message"));
            errors.iter().take(5).map(one).collect()
        }
        // Token servers: RFC 6749, 5.2, or Docker's.
        None => ["error", "error_description", "details", "message"]
            .iter()
            .map(|key| text(&value, key))
            .collect(),
    };
    let all: Vec<&str> = all.iter().map(|one| one.trim_matches([':', ' '])).collect();
    let all: Vec<&str> = all.into_iter().filter(|one| !one.is_empty()).collect();
    let text = plain(&all.join("; "));
    (!text.is_empty()).then_some(text)
}

/// A registry's text in one line of bounded length.
pub(super) fn plain(text: &str) -> String {
    let letters = text.chars().take(LONGEST_TEXT);
    letters
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// A URL without its query, which may hold secrets.
pub(super) fn shown(url: &Uri) -> String {
    format!(
        "{}://{}{}",
        url.scheme_str().unwrap_or(""),
        url.authority().map_or("", |name| name.as_str()),
        url.path()
    )
}

/// Whether both are the same scheme, host and port.
pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| {
        let usual = if url.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        url.port_u16().unwrap_or(usual)
    };
    let host = |url: &Uri| url.host().map(str::to_ascii_lowercase);
    one.scheme_str() == other.scheme_str() && host(one) == host(other) && port(one) == port(other)
}

/// The URL that a reference means where it stands. RFC 3986, 5.2; only http and https, and without
/// names of users.
pub(super) fn join(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or("").trim();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    let lower = reference.to_ascii_lowercase();
    let text = if lower.starts_with("http://") || lower.starts_with("https://") {
        reference.to_owned()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{}{reference}", base.path())
    } else if reference
        .split(['/', '?'])
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        return None;
    } else {
        let (dir, _) = base.path().rsplit_once('/')?;
        format!("{scheme}://{authority}{dir}/{reference}")
    };
    let url: Uri = text.parse().ok()?;
    let named = url.authority()?.as_str();
    let fine = matches!(url.scheme_str(), Some("http" | "https")) && !named.contains('@');
    (fine && !url.host()?.is_empty()).then_some(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_to_urls() {
        let base = Uri::from_static("https://r.example:5000/v2/a/blobs/x?q=1");
        for (reference, meant) in [
            (
                "https://cdn.example/b?s=1#f",
                Some("https://cdn.example/b?s=1"),
            ),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("/v2/c?d=e", Some("https://r.example:5000/v2/c?d=e")),
            ("?n=2", Some("https://r.example:5000/v2/a/blobs/x?n=2")),
            ("y", Some("https://r.example:5000/v2/a/blobs/y")),
            ("ftp://x/y", None),
            ("file:/etc/passwd", None),
            ("https://user:secret@x/y", None),
            ("https://", None),
        ] {
            let url = join(&base, reference).map(|url| url.to_string());
            assert_eq!(url.as_deref(), meant, "{reference}");
        }
    }

    #[test]
    fn origins() {
        let same = |one: &'static str, other: &'static str| {
            same_origin(&Uri::from_static(one), &Uri::from_static(other))
        };
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("https://a/x", "https://a:444/x"));
        assert!(!same("https://a/x", "https://a.b/x"));
    }

    #[test]
    fn what_registries_say() {
        let text = br#"{"errors":[{"code":"DENIED","message":"no\nentry"},{"code":"X"}]}"#;
        assert_eq!(said(text).as_deref(), Some("DENIED: no entry; X"));
        let text = br#"{"error":"invalid_grant","error_description":"expired"}"#;
        assert_eq!(said(text).as_deref(), Some("invalid_grant; expired"));
        assert_eq!(said(b"<html>"), None);
        assert_eq!(said(b"{}"), None);
    }

    proptest! {
        #[test]
        fn any_location_is_read_or_refused(text in "[a-z:/?#@.%\\[\\]]{0,40}|.*") {
            let base = Uri::from_static("https://r.example/v2/x");
            if let Some(url) = join(&base, &text) {
                prop_assert!(!url.host().unwrap().is_empty());
            }
        }
    }
}
