//! One authority's directory, and our account there.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base_model::AutoCertManagerSpec;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use control_api::client::Client;
use control_api::tls::{ClientTrust, Pem};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::RETRY_AFTER;
use hyper::{Response, StatusCode};
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, Error, ExternalAccountKey, HttpClient, NewAccount,
};

use crate::fault::Fault;

/// See the module doc. Clones are handles of the same.
#[derive(Clone)]
pub struct Authority {
    http: Http,
    /// URL of its directory.
    pub directory: String,
    email: String,
    external: Option<(String, String)>,
}

/// What was said to the authority, and what it said beside the documents.
#[derive(Debug, Default)]
pub struct Heard {
    pub requests: AtomicU64,
    /// Answers that a nonce was not good any more; each is asked again.
    pub bad_nonces: AtomicU64,
    /// When it wants to be asked again at the earliest: of the last answer that said so.
    retry_after: Mutex<Option<SystemTime>>,
}

impl Authority {
    /// What the document says of it.
    pub fn new(spec: &AutoCertManagerSpec) -> Result<Authority, String> {
        let mut trust = ClientTrust::default();
        if !spec.ca_cert_base64.is_empty() {
            let text = pem_of(&spec.ca_cert_base64);
            trust.authorities = Some(Pem { from: "caCertBase64".to_owned(), text });
        }
        let client = Client::trusting(CONNECT, &trust).map_err(|error| error.0)?;
        let external = spec.external_account.as_ref().map(|account| (account.key_id.clone(), account.hmac_key.clone()));
        Ok(Authority {
            http: Http { client, heard: Arc::default() },
            directory: spec.directory_url.clone(),
            email: spec.email.clone(),
            external,
        })
    }

    pub fn heard(&self) -> &Heard {
        &self.http.heard
    }

    /// Makes an account; the text is what [`account`](Authority::account) takes, with its private key.
    pub async fn register(&self) -> Result<(Account, String), Fault> {
        let contact = format!("mailto:{}", self.email);
        let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
        let external = match &self.external {
            None => None,
            Some((id, key)) => {
                let key = read_key(key).ok_or_else(|| {
                    Fault::Refused(
                        "externalAccount.hmacKey is not base64: give it as the authority shows it".to_owned(),
                    )
                })?;
                Some(ExternalAccountKey::new(id.clone(), &key))
            }
        };
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        let made = builder.create(&new, self.directory.clone(), external.as_ref()).await;
        let (account, credentials) = made.map_err(|error| self.fault(error))?;
        let text = serde_json::to_string(&credentials).map_err(|error| Fault::Passing(error.to_string()))?;
        Ok((account, text))
    }

    /// The account that was made before.
    pub async fn account(&self, credentials: &str) -> Result<Account, Fault> {
        let credentials: AccountCredentials =
            serde_json::from_str(credentials).map_err(|error| Fault::Account(format!("the account kept: {error}")))?;
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        builder.from_credentials(credentials).await.map_err(|error| self.fault(error))
    }

    /// What a responder of OCSP answers.
    pub async fn ocsp(&self, url: &str, request: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let told = |why: String| Fault::Passing(format!("{url}: {why}"));
        let headers = [("user-agent", AGENT), ("content-type", "application/ocsp-request")];
        let opened = self.http.client.open_with(hyper::Method::POST, url, &headers, request, ANSWERS).await;
        let (head, body) = opened.map_err(|error| told(error.reason))?.into_parts();
        if head.status != StatusCode::OK {
            return Err(told(format!("it answers {}", head.status.as_u16())));
        }
        match tokio::time::timeout(ANSWERS, Limited::new(body, OCSP_MAX).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
            Ok(Err(error)) => Err(told(format!("its answer broke off: {error}"))),
            Err(_) => Err(told(format!("no answer within {}", base_text::duration(ANSWERS)))),
        }
    }

    /// What went wrong, with when the authority wants to be asked again.
    pub fn fault(&self, error: Error) -> Fault {
        let after = self.http.heard.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take();
        Fault::of(error, &self.directory, after)
    }
}

/// PEM, or base64 of it.
fn pem_of(text: &str) -> Vec<u8> {
    if text.contains("-----BEGIN") {
        return text.as_bytes().to_vec();
    }
    let packed: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(packed).unwrap_or_default()
}

/// Base64 as authorities give it: of URLs, with padding or without, or the usual one.
fn read_key(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let stripped = text.trim_end_matches('=');
    URL_SAFE_NO_PAD.decode(stripped).or_else(|_| URL_SAFE.decode(text)).or_else(|_| STANDARD.decode(text)).ok()
}

/// Carries the conversation.
#[derive(Clone)]
struct Http {
    client: Client,
    heard: Arc<Heard>,
}

impl HttpClient for Http {
    fn request(
        &self,
        request: hyper::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, heard) = (self.client.clone(), self.heard.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let url = parts.uri.to_string();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let mut headers = vec![("user-agent", AGENT)];
            if !kind.is_empty() {
                headers.push(("content-type", kind));
            }
            heard.requests.fetch_add(1, Ordering::Relaxed);
            let told = |why: String| Error::Other(format!("{url}: {why}").into());
            let answer = client.open_with(parts.method, &url, &headers, body, ANSWERS).await;
            let (head, body) = answer.map_err(|error| told(error.reason))?.into_parts();
            let whole = tokio::time::timeout(ANSWERS, Limited::new(body, ANSWER_MAX).collect()).await;
            let body = match whole {
                Ok(Ok(body)) => body.to_bytes(),
                Ok(Err(error)) => return Err(told(format!("its answer broke off: {error}"))),
                Err(_) => return Err(told(format!("no answer within {}", base_text::duration(ANSWERS)))),
            };
            if let Some(after) = head.headers.get(RETRY_AFTER).and_then(|after| moment(after.to_str().ok()?)) {
                *heard.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
            }
            let is_document = |body: &[u8]| body.first().is_some_and(|first| *first == b'{');
            if head.status == StatusCode::BAD_REQUEST && body.windows(14).any(|part| part == b"error:badNonce") {
                heard.bad_nonces.fetch_add(1, Ordering::Relaxed);
            }
            // A page of a proxy in between, or of a server that fails, is no document of the authority.
            if !head.status.is_success() && !is_document(&body) {
                return Err(told(format!("it answers {} without saying why", head.status.as_u16())));
            }
            Ok(BytesResponse::from(Response::from_parts(head, Full::new(body))))
        })
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn moment(text: &str) -> Option<SystemTime> {
    match text.trim().parse::<u64>() {
        Ok(seconds) => Some(SystemTime::now() + Duration::from_secs(seconds.min(WAIT_MAX))),
        Err(_) => httpdate::parse_http_date(text.trim()).ok(),
    }
}

pub(crate) const AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
const CONNECT: Duration = Duration::from_secs(10);
/// Authorities look into other systems before they answer.
const ANSWERS: Duration = Duration::from_secs(30);
/// Chains have a few kilobytes.
const ANSWER_MAX: usize = 1 << 20;
/// Answers of OCSP have one or two kilobytes, and go with every handshake.
const OCSP_MAX: usize = 16 << 10;
/// A week, in seconds.
const WAIT_MAX: u64 = 7 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_accounts_are_read_however_they_are_written() {
        for text in ["-_8", "-_8=", "+/8=", " -_8\n"] {
            assert_eq!(read_key(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        assert_eq!(read_key("not base64!"), None);
        assert!(moment("120").unwrap() > SystemTime::now() + Duration::from_secs(100));
        assert!(moment("Fri, 31 Dec 1999 23:59:59 GMT").unwrap() < SystemTime::now());
        assert_eq!(moment("soon"), None);
    }
}
