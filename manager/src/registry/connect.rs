//! Connections: to hosts or through a proxy, in the clear or over TLS, kept for the next request.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::auth::Future;
use super::body::Outgoing;
use super::hosts::{Tls, is_this_machine};
use super::limits::Limits;
use crate::error::{Error, Result};

/// A pool of connections with one way to make them.
pub(super) type Http = Client<Connector, Outgoing>;

/// Certificates of a file.
type Certificates = Vec<CertificateDer<'static>>;

/// What a connection that could not be made failed with.
type Failure = Box<dyn StdError + Send + Sync>;

/// The most ways to connect that are remembered: callers choose the files.
const MOST_POOLS: usize = 64;

/// Bytes of a stream that HTTP/2 may have under way.
const WINDOW: u32 = 4 << 20;

/// Connections of a daemon.
#[derive(Debug)]
pub(super) struct Pool {
    proxies: Arc<Matcher>,
    keep: Duration,
    pools: Mutex<HashMap<Key, Http>>,
    roots: OnceLock<Arc<RootCertStore>>,
}

/// What makes connections differ. Files are read once: the time of their last change is part of it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    tls: Tls,
    stamps: Vec<Option<std::time::SystemTime>>,
    timeout: Duration,
    multiplexed: bool,
}

impl Pool {
    pub(super) fn new(limits: &Limits, proxies: Matcher) -> Self {
        Self {
            proxies: Arc::new(proxies),
            keep: limits.keep,
            pools: Mutex::new(HashMap::new()),
            roots: OnceLock::new(),
        }
    }

    /// The connections that are made that way; `multiplexed` ones carry many requests, where the
    /// host offers that.
    ///
    /// # Errors
    /// `InvalidArgument` for a file with certificates that makes no sense.
    pub(super) fn http(&self, tls: &Tls, timeout: Duration, multiplexed: bool) -> Result<Http> {
        let files = tls.client.iter().flat_map(|(one, two)| [one, two]);
        let stamp = |file| fs::metadata(file).and_then(|meta| meta.modified()).ok();
        let key = Key {
            tls: tls.clone(),
            stamps: tls.ca.iter().chain(files).map(stamp).collect(),
            timeout,
            multiplexed,
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(http) = pools.get(&key) {
            return Ok(http.clone());
        }
        let connector = Connector::new(
            self.tls_config(tls)?,
            timeout,
            multiplexed,
            Arc::clone(&self.proxies),
        );
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(self.keep)
            .pool_max_idle_per_host(8)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(2 * WINDOW)
            .build(connector);
        if pools.len() >= MOST_POOLS {
            pools.clear();
        }
        pools.insert(key, http.clone());
        Ok(http)
    }

    /// What a proxy for requests in the clear wants to be told.
    pub(super) fn proxy_authorization(&self, url: &Uri) -> Option<HeaderValue> {
        if url.scheme_str() != Some("http") {
            return None;
        }
        let proxy = proxy_of(&self.proxies, url)?;
        proxy.basic_auth().cloned()
    }

    fn tls_config(&self, tls: &Tls) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let broken = |error: rustls::Error| Error::invalid(format!("TLS: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(broken)?;
        let named = if tls.skip_verify {
            None
        } else {
            let (roots, certificates) = self.authorities(&tls.ca)?;
            let usual =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            let usual = usual.map_err(|error| Error::invalid(format!("TLS: {error}")))?;
            Some(TrustNamed {
                usual,
                certificates,
            })
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trust { provider, named }));
        // rustls has one certificate for a connection: the first.
        match tls.client.first() {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let text = read(key)?;
                let key_der = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|error| Error::invalid(format!("{}: {error}", key.display())))?;
                let done = builder.with_client_auth_cert(chain, key_der);
                done.map_err(|error| Error::invalid(format!("{}: {error}", certificate.display())))
            }
        }
    }

    /// The system's authorities with those of files, and those of files alone.
    fn authorities(&self, files: &[PathBuf]) -> Result<(Arc<RootCertStore>, Certificates)> {
        let system = self.roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // Without any, handshakes say so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        });
        if files.is_empty() {
            return Ok((Arc::clone(system), Vec::new()));
        }
        let mut roots = RootCertStore::clone(system);
        let mut named = Vec::new();
        for file in files {
            for certificate in certificates(file)? {
                let added = roots.add(certificate.clone());
                named.push(certificate);
                added.map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
            }
        }
        Ok((Arc::new(roots), named))
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| Error::io(file.display(), &error))
}

/// All certificates of a file.
fn certificates(file: &Path) -> Result<Certificates> {
    let text = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let wrong = |what: String| Error::invalid(format!("{}: {what}", file.display()));
    match all {
        Ok(all) if all.is_empty() => Err(wrong("no certificate in PEM form".to_owned())),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The proxy for a URL, if any. This machine is reached without.
fn proxy_of(proxies: &Matcher, url: &Uri) -> Option<hyper_util::client::proxy::matcher::Intercept> {
    if is_this_machine(url.host()?) {
        return None;
    }
    proxies.intercept(url)
}

/// Who is believed to be the host that was asked for. Signatures are checked in either case.
#[derive(Debug)]
struct Trust {
    provider: Arc<CryptoProvider>,
    /// `None` where certificates are not to be checked.
    named: Option<TrustNamed>,
}

/// Authorities, and the very certificates that were named as authorities: a registry's one
/// certificate is often its own authority, which the rules of the web do not allow.
#[derive(Debug)]
struct TrustNamed {
    usual: Arc<WebPkiServerVerifier>,
    certificates: Certificates,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(named) = &self.named else {
            return Ok(ServerCertVerified::assertion());
        };
        let usual = named
            .usual
            .verify_server_cert(certificate, chain, name, status, now);
        match usual {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if named.certificates.contains(certificate) =>
            {
                let parsed = ParsedCertificate::try_from(certificate)?;
                rustls::client::verify_server_name(&parsed, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Makes connections, and gives up after a time.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    https: HttpsConnector<Dialer>,
    timeout: Duration,
}

impl Connector {
    fn new(tls: ClientConfig, timeout: Duration, multiplexed: bool, proxies: Arc<Matcher>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeout));
        let dialer = Dialer { http, proxies };
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http();
        let https = if multiplexed {
            builder.enable_all_versions().wrap_connector(dialer)
        } else {
            builder.enable_http1().wrap_connector(dialer)
        };
        Self { https, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
    type Error = Failure;
    type Future = Future<'static, Result<Self::Response, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connecting = self.https.call(url);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(done) => done,
                Err(_) => Err(format!("no connection within {} s", timeout.as_secs_f32()).into()),
            }
        })
    }
}

/// Connects to a host, or to a proxy for it.
#[derive(Debug, Clone)]
struct Dialer {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = Failure;
    type Future = Future<'static, Result<Stream, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(ready!(self.http.poll_ready(context)).map_err(Into::into))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let Some(proxy) = proxy_of(&self.proxies, &url) else {
            return Box::pin(async move {
                let inner = http.call(url).await?;
                Ok(Stream {
                    inner,
                    proxied: false,
                })
            });
        };
        let to = proxy.uri().clone();
        if to.scheme_str() != Some("http") {
            let scheme = to.scheme_str().unwrap_or("").to_owned();
            return Box::pin(async move {
                Err(
                    format!("a proxy of scheme {scheme:?} is configured: only http is known")
                        .into(),
                )
            });
        }
        let named = format!("proxy {}", to.authority().map_or("", |name| name.as_str()));
        Box::pin(async move {
            let failed =
                |error: &dyn StdError| -> Failure { format!("{named}: {}", chain(error)).into() };
            if url.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(to, http);
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                let inner = tunnel.call(url).await.map_err(|error| failed(&error))?;
                return Ok(Stream {
                    inner,
                    proxied: false,
                });
            }
            let inner = http.call(to).await.map_err(|error| failed(&error))?;
            Ok(Stream {
                inner,
                proxied: true,
            })
        })
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A connection before TLS.
#[derive(Debug)]
pub(super) struct Stream {
    inner: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }
}
