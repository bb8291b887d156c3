//! From bytes to documents and from answers to bytes: JSON or YAML both ways, one shape of error, one version header.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_model::namespaces::{DEFAULT_NAMESPACE, is_default};
use base_model::yaml;
use base_text::quoted;
use control_api::{CONFIG_VERSION_HEADER, Refusal};
use serde_json::{Value, json};

use crate::BODY_BYTES_MAX;
use crate::routes::Api;

/// An answer before anybody chose between JSON and YAML.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Option<Value>,
    /// Of the configuration that the answer speaks of; the current one when absent.
    pub version: Option<u64>,
    /// The version that what is shown was last changed in: its `ETag`, which comes back in `If-Match`.
    pub changed: Option<u64>,
    pub warnings: Vec<String>,
    pub location: Option<String>,
}

/// A refusal on its way out.
#[derive(Debug)]
pub struct Error {
    pub status: StatusCode,
    pub message: String,
}

pub type Answer = Result<Reply, Error>;

/// A body as text, within [`BODY_BYTES_MAX`].
pub struct Text(pub String);

#[derive(Clone)]
struct Payload(Value);

impl Reply {
    pub fn body(value: impl Into<Value>) -> Self {
        Reply { body: Some(value.into()), ..Reply::default() }
    }

    pub fn created() -> Self {
        Reply { status: StatusCode::CREATED, ..Reply::default() }
    }

    pub fn version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    pub fn changed(mut self, version: u64) -> Self {
        self.changed = Some(version);
        self
    }

    pub fn warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }
}

impl Error {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Error { status, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Error::new(status, refusal.message)
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if let Some(version) = self.version {
            headers.insert(CONFIG_VERSION_HEADER, HeaderValue::from(version));
        }
        if let Some(changed) = self.changed {
            headers.insert(header::ETAG, etag(changed));
        }
        if let Some(location) = self.location
            && let Ok(location) = HeaderValue::from_str(&location)
        {
            headers.insert(header::LOCATION, location);
        }
        for warning in self.warnings.iter().take(WARNINGS_MAX) {
            headers.append(header::WARNING, warning_value(warning));
        }
        if let Some(body) = self.body {
            response.extensions_mut().insert(Payload(body));
        }
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let body = json!({"code": self.status.as_u16(), "message": self.message});
        response.extensions_mut().insert(Payload(body));
        response
    }
}

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let bytes = to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
            let message = format!("the body is larger than {BODY_BYTES_MAX} bytes, or ended early; send it in parts");
            Error::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        })?;
        String::from_utf8(bytes.into()).map(Text).map_err(|e| {
            Error::invalid(format!(
                "the body is not UTF-8: byte {} is not part of any character",
                e.utf8_error().valid_up_to()
            ))
        })
    }
}

impl Text {
    /// Every document of the body; YAML contains JSON.
    pub fn documents(&self) -> Result<Vec<Value>, Error> {
        let documents =
            yaml::parse_documents(&self.0).map_err(|e| Error::invalid(format!("the body is not YAML or JSON: {e}")))?;
        if documents.is_empty() {
            return Err(Error::invalid("the body is empty: send a document in YAML or JSON"));
        }
        Ok(documents)
    }

    pub fn document(&self) -> Result<Value, Error> {
        let mut documents = self.documents()?;
        match documents.len() {
            1 => Ok(documents.remove(0)),
            n => Err(Error::invalid(format!("the body holds {n} documents, and this path takes one"))),
        }
    }
}

/// Renders payloads as the caller likes them, and says which version they are of.
pub async fn finish(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = finish_alone(request, next).await;
    if !response.headers().contains_key(CONFIG_VERSION_HEADER) {
        let version = HeaderValue::from(api.control.state().view.version);
        response.headers_mut().insert(CONFIG_VERSION_HEADER, version);
    }
    response
}

/// The same where there is no configuration whose version could be told.
pub async fn finish_alone(request: Request, next: Next) -> Response {
    let wants_yaml = header_text(request.headers(), header::ACCEPT).contains("yaml");
    let known = (request.method() == Method::GET).then(|| header_text(request.headers(), header::IF_NONE_MATCH));
    let mut response = match foreign_origin(&request) {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    };
    if let (Some(known), Some(now)) = (known, response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()))
        && response.status() == StatusCode::OK
        && tags(&known).any(|tag| tag == now.trim_matches('"'))
    {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.extensions_mut().remove::<Payload>();
    }
    render(response, wants_yaml)
}

/// What a change depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: that the object is there.
    Any,
    /// That it was not changed after this version.
    Since(u64),
}

/// `If-Match` of a change. Of several tags the newest counts.
pub fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Error> {
    let text = header_text(headers, header::IF_MATCH);
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.trim() == "*" {
        return Ok(Some(IfMatch::Any));
    }
    let newest = tags(&text).filter_map(|tag| tag.parse().ok()).max();
    newest.map(|version| Some(IfMatch::Since(version))).ok_or_else(|| {
        let advice = "send the ETag of the answer the change was made from, such as \"42\", or leave the header out";
        Error::new(StatusCode::PRECONDITION_FAILED, format!("If-Match: {text}: no version of ours; {advice}"))
    })
}

/// The same where `*` asks for nothing.
pub fn since(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    Ok(match if_match(headers)? {
        Some(IfMatch::Since(version)) => Some(version),
        Some(IfMatch::Any) | None => None,
    })
}

/// Refuses a change that depends on a version where none is looked at, rather than make it whatever was changed meanwhile.
pub async fn unconditional(request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && request.headers().contains_key(header::IF_MATCH) {
        let message = format!(
            "If-Match: {} {} does not look at versions, so that nothing was changed: send it without the header; it is accepted for \
             /objects, /objects/NAME, /rollback, /restore, and below /customdatakinds and /customdata",
            request.method(),
            request.uri().path()
        );
        return Error::new(StatusCode::PRECONDITION_FAILED, message).into_response();
    }
    next.run(request).await
}

/// Refuses a change in a namespace that is not for people to write in, rather than make it in `default`, to another object of that name.
pub async fn in_default(query: Query<Vec<(String, String)>>, request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let elsewhere = |(key, namespace): &&(String, String)| key == "namespace" && !is_default(namespace.trim());
    if let Some((_, namespace)) = query.iter().find(elsewhere).filter(|_| changes) {
        let message = format!(
            "namespace = {}: what people write is in the namespace {DEFAULT_NAMESPACE}, so that nothing was changed; what is in others \
             is made by a controller, and follows the object that it is made of: change or delete that one, without a namespace",
            quoted(namespace)
        );
        return Error::invalid(message).into_response();
    }
    next.run(request).await
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits and quotes may stand in a header")
}

/// The tags of a list without their dress.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|tag| tag.trim().trim_start_matches("w/").trim_start_matches("W/").trim_matches('"'))
}

fn render(mut response: Response, wants_yaml: bool) -> Response {
    let Some(Payload(value)) = response.extensions_mut().remove() else { return response };
    let (kind, body) = if wants_yaml {
        ("application/yaml", yaml::to_string(&value))
    } else {
        ("application/json", value.to_string())
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = Body::from(body);
    response
}

/// A web page somewhere must not be able to change this machine through the browser of somebody who can reach it.
fn foreign_origin(request: &Request) -> Option<Error> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let origin = header_text(request.headers(), header::ORIGIN);
    let host = header_text(request.headers(), header::HOST);
    let authority = origin.split_once("://").map_or(origin.as_str(), |(_, authority)| authority);
    (!origin.is_empty() && authority != host)
        .then(|| Error::new(StatusCode::FORBIDDEN, format!("changes from pages of {origin} are refused")))
}

pub fn header_text(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
}

/// `?key=` as a flag.
pub fn flag(query: &Query<Vec<(String, String)>>, key: &str) -> bool {
    query.iter().any(|(k, v)| k == key && (v.is_empty() || v == "true" || v == "1"))
}

pub fn text<'q>(query: &'q Query<Vec<(String, String)>>, key: &str) -> &'q str {
    query.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.trim())
}

/// Problems, one to a line; nobody reads a hundred thousand.
pub fn listed(mut problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(LISTED_MAX);
    if more > 0 {
        problems.truncate(LISTED_MAX);
        problems.push(format!("and {more} more like these"));
    }
    problems.join("\n")
}

/// `299` is "miscellaneous, keep showing it" (RFC 7234 §5.5); the text is quoted.
fn warning_value(text: &str) -> HeaderValue {
    let quoted: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => vec![' '],
            c => vec![c],
        })
        .take(WARNING_CHARS_MAX)
        .collect();
    HeaderValue::from_bytes(format!("299 weir \"{quoted}\"").as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("299 weir \"a warning that does not fit a header\""))
}

/// Problems that go into an answer.
const LISTED_MAX: usize = 100;
/// Clients bound the size of a head; what does not fit is logged.
const WARNINGS_MAX: usize = 16;
const WARNING_CHARS_MAX: usize = 300;
