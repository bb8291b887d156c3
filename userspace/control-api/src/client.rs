//! A small pooled HTTP client, for members talking to each other and for `weirctl`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{ClientTrust, TlsError, client_config, suspicious};

/// Connections are kept and shared by all clones.
#[derive(Clone)]
pub struct Client {
    inner: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, Clone)]
pub struct CallError {
    pub url: String,
    pub reason: String,
    /// No connection came about, so the other side has not seen the request.
    pub unsent: bool,
}

impl Client {
    /// `connect_timeout` bounds the TCP handshake; each call brings its own bound for the rest.
    /// No server with `https://` is believed.
    pub fn new(connect_timeout: Duration) -> Self {
        Self::with(connect_timeout, suspicious())
    }

    /// As [`new`](Client::new), with what is to be believed of servers with `https://`, and shown to them.
    pub fn trusting(connect_timeout: Duration, trust: &ClientTrust) -> Result<Self, TlsError> {
        Ok(Self::with(connect_timeout, client_config(trust)?))
    }

    fn with(connect_timeout: Duration, tls: rustls::ClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Client { inner }
    }

    /// Sends one request and reads the whole answer.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let whole = async {
            let (parts, body) = self.send(method, url, headers, body.into()).await?.into_parts();
            let body = body.collect().await.map_err(|e| CallError::after(url, &e))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        match tokio::time::timeout(timeout, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::after(url, &format!("no answer within {}", base_text::duration(timeout)))),
        }
    }

    /// Reads what a URL leads to, of at most `most` bytes.
    pub async fn fetch(&self, url: &str, most: usize, timeout: Duration) -> Result<Vec<u8>, CallError> {
        let whole = async {
            let (parts, body) = self.send(Method::GET, url, &[], Bytes::new()).await?.into_parts();
            if parts.status != StatusCode::OK {
                return Err(CallError::after(url, &format!("answered with status {}", parts.status.as_u16())));
            }
            let bytes = Limited::new(body, most).collect().await;
            let bytes = bytes.map_err(|e| CallError::after(url, &format!("{e}; accepted are {most} bytes at most")))?;
            Ok(bytes.to_bytes().to_vec())
        };
        match tokio::time::timeout(timeout, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::after(url, &format!("no answer within {}", base_text::duration(timeout)))),
        }
    }

    /// Sends one request and hands back the body as it arrives; `timeout` bounds the wait for the head.
    pub async fn open(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<hyper::Response<Incoming>, CallError> {
        self.open_with(method, url, headers, Bytes::new(), timeout).await
    }

    /// As [`open`](Client::open), of a request that has a body.
    pub async fn open_with(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<hyper::Response<Incoming>, CallError> {
        match tokio::time::timeout(timeout, self.send(method, url, headers, body.into())).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::after(url, &format!("no answer within {}", base_text::duration(timeout)))),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>, CallError> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| CallError::before(url, &e))?;
        self.inner.request(request).await.map_err(|e| CallError {
            url: url.to_owned(),
            reason: chain(&e),
            unsent: e.is_connect(),
        })
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new(Duration::from_secs(3))
    }
}

impl CallError {
    fn before(url: &str, reason: &dyn fmt::Display) -> Self {
        CallError { url: url.to_owned(), reason: reason.to_string(), unsent: true }
    }

    fn after(url: &str, reason: &dyn fmt::Display) -> Self {
        CallError { url: url.to_owned(), reason: reason.to_string(), unsent: false }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.reason)
    }
}

impl std::error::Error for CallError {}

/// hyper hides the reason people need ("connection refused") at the end of the source chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
