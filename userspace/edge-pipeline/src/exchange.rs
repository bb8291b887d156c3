//! One request and what became of it.

use crate::body::{Body, BodyError};
use crate::duplex::Duplex;
use crate::filter::{Outcome, Touches};
use crate::interim::Interim;
use base_runtime::net::site_of;
use base_text::redact;
use base_tls::Session;
use proto_http::{Method, Request, Response, Scheme, Version};
use proto_trace::Recording;
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Largest body collected in memory where the document sets no limit, in bytes (Easegress's `clientMaxBodySize` and
/// `serverMaxBodySize`).
pub const DEFAULT_BODY_LIMIT: u64 = 4 * 1024 * 1024;

/// Name of the namespace that the client's own request and response live in.
pub const DEFAULT_NAMESPACE: &str = "DEFAULT";

/// Who asks, and over what.
#[derive(Clone, Debug)]
pub struct Client {
    /// The socket's peer.
    pub peer: SocketAddr,
    /// The address of ours that its connection has come to, where anybody [wants](want_local_addresses) to know.
    pub local: Option<SocketAddr>,
    /// The client's own address: the peer's, or the one a trusted proxy names in X-Forwarded-For. `None`: that proxy names one
    /// that cannot be read, and nobody knows.
    pub real_ip: Option<IpAddr>,
    /// The peer is a proxy that may speak for many, or one has said who it is: what comes from there is not known to be one client's.
    pub proxied: bool,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// Name of the server object that took the request.
    pub server: Arc<str>,
    /// What was agreed with the client, and the certificate it showed; `None` where nothing is encrypted.
    pub tls: Option<Rc<Session>>,
}

/// Somebody tells backends which of our addresses clients have come to: from now on that is asked of the kernel with each request.
pub fn want_local_addresses() {
    LOCAL_ADDRESSES_WANTED.store(true, Ordering::Relaxed);
}

/// Whether [`Client::local`] is to be found out.
#[inline]
pub fn local_addresses_wanted() -> bool {
    LOCAL_ADDRESSES_WANTED.load(Ordering::Relaxed)
}

static LOCAL_ADDRESSES_WANTED: AtomicBool = AtomicBool::new(false);

impl Default for Client {
    fn default() -> Client {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Client {
            peer: SocketAddr::new(nobody, 0),
            local: None,
            real_ip: None,
            proxied: false,
            scheme: "http",
            server: Arc::from(""),
            tls: None,
        }
    }
}

impl Client {
    /// The client's own address as text, v4-mapped v6 as v4 so that sockets of both kinds show it alike; `unknown` (RFC 7239 section
    /// 6.2) where nobody knows.
    pub fn real_ip_text(&self) -> String {
        self.real_ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string())
    }

    /// Where clients are counted, those that share an IPv6 network of /64 are one: each of them has all of its addresses to choose from
    /// (RFC 6177). Otherwise the address itself; `None` where nobody knows.
    pub fn site(&self) -> Option<IpAddr> {
        self.real_ip.map(site_of)
    }
}

/// A request and a response, with their bodies: what one namespace of an exchange holds.
#[derive(Debug, Default)]
pub struct Space {
    pub request: Request,
    /// Whether there is a request; namespaces other than `DEFAULT` start without.
    pub has_request: bool,
    pub request_body: Body,
    pub response: Option<Response>,
    pub response_body: Body,
}

impl Space {
    /// Puts a response in place of whatever was there.
    pub fn respond(&mut self, mut response: Response, body: Body) {
        if let Some(before) = self.response.take() {
            keep_for_pages(&before, &mut response);
            recycle(before);
        }
        self.response = Some(response);
        self.response_body = body;
    }

    /// Puts an answer in place of whatever was there, in memory that an earlier one had: without fields, but for those that say who may
    /// read it.
    pub fn answer(&mut self, status: u16, body: Body) -> &mut Response {
        self.response_body = body;
        let before = self.response.replace(fresh_response());
        let response = self.response.get_or_insert_default();
        if let Some(before) = before {
            keep_for_pages(&before, response);
            recycle(before);
        }
        response.status = status;
        response
    }

    /// Refuses the request: the response under way gets this status and no body. It keeps what filters have set for the client: without
    /// the fields of CORS, for instance, a browser would hide even the status. What an answer under way says of itself goes, see
    /// [`OF_ONE_ANSWER`]: a refusal is not fresh for as long, nor does it set that answer's cookies; and who may read a backend's answer is
    /// not who may read this. A cache that may keep a status
    /// without being told how long (RFC 9110 section 15.1) is told not to.
    pub fn refuse(&mut self, status: u16) -> &mut Response {
        let response = self.response.get_or_insert_with(fresh_response);
        response.status = status;
        response.headers.retain_with_own(|name, own| (own || !is_cors(name)) && !is_of_one_answer(name));
        if matches!(status, 404 | 405 | 410 | 414 | 501) {
            response.headers.add("Cache-Control", "no-store");
        }
        self.response_body = Body::Empty;
        response
    }

    /// Reads the response's body into memory, as long as the document lets it be. One that cannot be had leaves no answer of its status without a
    /// body: the answer is a refusal then, 503 or, beyond the limit, 500.
    pub async fn gather_response(&mut self) -> Result<(), BodyError> {
        let failed = match self.response_body.gather().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if self.response.is_some() {
            let status = if failed == BodyError::TooLarge { 500 } else { 503 };
            let response = self.refuse(status);
            if failed == BodyError::NoMemory {
                response.headers.set("Retry-After", "1");
            }
        }
        Err(failed)
    }
}

/// Whether a field speaks of the one answer it came with and of no other: a refusal that takes the answer's place does not keep it.
fn is_of_one_answer(name: &[u8]) -> bool {
    // Targeted cache control (RFC 9213 section 2.1) has any name before this.
    const TARGETED: &[u8] = b"-cache-control";
    let is = |field: &&str| name.eq_ignore_ascii_case(field.as_bytes());
    OF_ONE_ANSWER.iter().any(is)
        || name.len() > TARGETED.len() && name[name.len() - TARGETED.len()..].eq_ignore_ascii_case(TARGETED)
}

/// Takes over from an answer that is replaced what filters have said of who may read it, unless the new one says it itself: it is about the
/// page that asks and not about the answer. Without it a browser would neither follow a redirect nor show a maintenance page, and what says
/// that an answer depends on the origin keeps caches from giving it to others. What a backend has said of its own answer goes with that.
fn keep_for_pages(before: &Response, response: &mut Response) {
    for (name, value) in before.headers.own() {
        if name.eq_ignore_ascii_case(b"Vary") {
            if !response.headers.values("Vary").any(|known| known.eq_ignore_ascii_case(value)) {
                response.headers.add_own(name, value);
            }
        } else if is_cors(name) && !response.headers.iter().any(|(known, _, _)| known.eq_ignore_ascii_case(name)) {
            response.headers.add_own(name, value);
        }
    }
}

/// Whether a field says which pages may read the answer (Fetch, section 3.2.3).
pub fn is_cors(name: &[u8]) -> bool {
    name.get(..15).is_some_and(|start| start.eq_ignore_ascii_case(b"access-control-"))
}

/// Adds a field that the document or a program of it says: who may read an answer outlives that of a backend then.
pub fn add_said(headers: &mut proto_http::Headers, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    match is_cors(name.as_ref()) {
        true => headers.add_own(name, value),
        false => headers.add(name, value),
    }
}

const OF_ONE_ANSWER: [&str; 52] = [
    // The body, what it represents, and what may be asked of it (RFC 9110 sections 8 and 14, RFC 9530, RFC 6266).
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "Content-Location",
    "Content-Range",
    "Content-Disposition",
    "Content-Digest",
    "Content-MD5",
    "Repr-Digest",
    "Digest",
    "Accept-Ranges",
    "Trailer",
    "Transfer-Encoding",
    "Link",
    "SourceMap",
    // Validators and signatures (RFC 9110 section 8.8, RFC 9421).
    "ETag",
    "Last-Modified",
    "Delta-Base",
    "IM",
    "Signature",
    "Signature-Input",
    // How long it may be kept, and by whom (RFC 9111 section 5, RFC 9211, and what proxies and networks take beside that).
    "Age",
    "Cache-Control",
    "Expires",
    "Pragma",
    "Warning",
    "Cache-Status",
    "No-Vary-Search",
    "Surrogate-Control",
    "Surrogate-Key",
    "Cache-Tag",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    // What the client is to remember, and who it is (RFC 6265, RFC 9110 section 11, RFC 7615).
    "Set-Cookie",
    "Set-Cookie2",
    "Clear-Site-Data",
    "WWW-Authenticate",
    "Proxy-Authenticate",
    "Authentication-Info",
    "Proxy-Authentication-Info",
    // What it says in the context of its status, and when (RFC 9110 sections 10.2 and 15, RFC 5789, RFC 7240, RFC 6455).
    "Date",
    "Location",
    "Refresh",
    "Retry-After",
    "Allow",
    "Accept-Patch",
    "Accept-Post",
    "Preference-Applied",
    "Upgrade",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Protocol",
];

/// What is told of an exchange beside its message, in the access log and to `weirctl explain-request`: the stations passed, servers asked,
/// bounds reached, and notes.
///
/// Names are kept from one request to the next, which mostly passes the same stations: counting references to names that all
/// workers share costs more than comparing two addresses.
#[derive(Debug, Default)]
pub struct Tags {
    /// Off: stations are not timed, notes are dropped.
    pub enabled: bool,
    steps: Vec<(Arc<str>, Outcome, Duration)>,
    /// Of `steps`, those of this request.
    passed: usize,
    pipeline: Option<Arc<str>>,
    /// `pipeline` is one this request is in.
    inside: bool,
    pub notes: Vec<Note>,
    tries: Vec<Try>,
    /// Of `tries`, those of this request.
    tried: usize,
    limits: Vec<&'static str>,
}

/// What a station has to say of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It may quote a message, and credentials with it.
    Quoting(String),
    /// It quotes nothing, as is true of the others.
    Own(String),
    Fixed(&'static str),
    /// Made ready for all requests that it is said of.
    Ready(Arc<str>),
}

impl From<String> for Note {
    fn from(text: String) -> Note {
        Note::Own(text)
    }
}

impl From<&'static str> for Note {
    fn from(text: &'static str) -> Note {
        Note::Fixed(text)
    }
}

impl From<Arc<str>> for Note {
    fn from(text: Arc<str>) -> Note {
        Note::Ready(text)
    }
}

impl std::ops::Deref for Note {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Note::Quoting(text) | Note::Own(text) => text,
            Note::Fixed(text) => text,
            Note::Ready(text) => text,
        }
    }
}

/// A server that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Try {
    pub pool: Arc<str>,
    /// The server's URL.
    pub server: Arc<str>,
    /// Of its answer; 0 where none came.
    pub status: u16,
    /// Why none came.
    pub error: Option<String>,
    pub took: Duration,
}

impl Try {
    fn begun(pool: &Arc<str>, server: &Arc<str>) -> Try {
        Try { pool: pool.clone(), server: server.clone(), status: 0, error: None, took: Duration::ZERO }
    }

    fn forget(&mut self) {
        (self.status, self.error, self.took) = (0, None, Duration::ZERO);
    }

    /// Nothing has come of it yet.
    pub fn is_open(&self) -> bool {
        self.status == 0 && self.error.is_none()
    }
}

/// Tries and bounds told of one request; a request that needs more is not told more clearly by them.
const TOLD_MOST: usize = 64;

impl Tags {
    /// Adds a note when anyone will read it.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.enabled {
            self.notes.push(Note::Quoting(text()));
        }
    }

    /// As [`note`](Tags::note), of what no message had a part in: names of the document, numbers, words of ours. Nobody has to look for
    /// credentials in it, which costs more than all else of a refusal.
    pub fn note_own<T: Into<Note>>(&mut self, text: impl FnOnce() -> T) {
        if self.enabled {
            self.notes.push(text().into());
        }
    }

    /// The request is in this pipeline now.
    pub fn enter(&mut self, pipeline: &Arc<str>) {
        self.inside = true;
        if !self.pipeline.as_ref().is_some_and(|known| Arc::ptr_eq(known, pipeline)) {
            self.pipeline = Some(pipeline.clone());
        }
    }

    /// The pipeline entered last.
    pub fn pipeline(&self) -> Option<&Arc<str>> {
        self.pipeline.as_ref().filter(|_| self.inside)
    }

    /// A station was passed.
    #[inline]
    pub fn pass(&mut self, name: &Arc<str>, outcome: Outcome, took: Duration) {
        match self.steps.get_mut(self.passed) {
            Some((known, before, time)) if Arc::ptr_eq(known, name) => (*before, *time) = (outcome, took),
            _ => self.pass_other(name, outcome, took),
        }
        self.passed += 1;
    }

    /// Another station than that of the request before.
    #[cold]
    fn pass_other(&mut self, name: &Arc<str>, outcome: Outcome, took: Duration) {
        let step = (name.clone(), outcome, took);
        match self.steps.get_mut(self.passed) {
            Some(before) => *before = step,
            None => self.steps.push(step),
        }
    }

    /// The stations passed, in order.
    pub fn steps(&self) -> &[(Arc<str>, Outcome, Duration)] {
        &self.steps[..self.passed]
    }

    /// A server is asked. Names are kept like those of stations.
    pub fn asks(&mut self, pool: &Arc<str>, server: &Arc<str>) {
        if !self.enabled || self.tried == TOLD_MOST {
            return;
        }
        match self.tries.get_mut(self.tried) {
            Some(known) if Arc::ptr_eq(&known.server, server) && Arc::ptr_eq(&known.pool, pool) => known.forget(),
            Some(other) => *other = Try::begun(pool, server),
            None => self.tries.push(Try::begun(pool, server)),
        }
        self.tried += 1;
    }

    /// The server asked last has answered with a status, or did not; or another one has, which was asked beside it.
    pub fn came(&mut self, pool: &Arc<str>, server: &Arc<str>, what: Result<u16, String>, took: Duration) {
        if !self.enabled {
            return;
        }
        let last = self.tried.checked_sub(1).map(|at| &self.tries[at]);
        if !last.is_some_and(|last| last.is_open() && Arc::ptr_eq(&last.server, server)) {
            if self.tried == TOLD_MOST {
                return;
            }
            self.asks(pool, server);
        }
        let asked = &mut self.tries[self.tried - 1];
        asked.took = took;
        match what {
            Ok(status) => asked.status = status,
            Err(error) => asked.error = Some(error),
        }
    }

    /// The servers asked, in order.
    pub fn tries(&self) -> &[Try] {
        &self.tries[..self.tried]
    }

    /// The request has reached a bound, which is counted under this name.
    pub fn hit(&mut self, limit: &'static str) {
        if self.enabled && self.limits.len() < TOLD_MOST && !self.limits.contains(&limit) {
            self.limits.push(limit);
        }
    }

    /// The bounds it has reached.
    pub fn limits(&self) -> &[&'static str] {
        &self.limits
    }

    /// Takes over what was passed and noted beside this.
    pub(crate) fn absorb(&mut self, beside: Tags) {
        for (name, outcome, took) in beside.steps() {
            self.pass(name, outcome, *took);
        }
        for asked in beside.tries() {
            let what = asked.error.clone().map_or(Ok(asked.status), Err);
            self.asks(&asked.pool, &asked.server);
            self.came(&asked.pool, &asked.server, what, asked.took);
        }
        beside.limits().iter().for_each(|limit| self.hit(limit));
        self.notes.extend(beside.notes);
    }

    fn clear(&mut self) {
        self.passed = 0;
        self.inside = false;
        self.notes.clear();
        self.tried = 0;
        self.limits.clear();
    }
}

/// See the module doc. One per connection, [`reset`](Exchange::reset) between requests so that its memory is reused.
#[derive(Debug)]
pub struct Exchange {
    pub client: Client,
    /// What `X-Request-Id` says; empty where nobody has asked for one.
    pub id: Vec<u8>,
    default: Space,
    others: Vec<(Arc<str>, Space)>,
    /// 0 = `DEFAULT`, else index into `others` plus one.
    current: usize,
    /// When the request head was complete.
    pub started: Instant,
    /// What the clock said when it was read last for this exchange, see [`Exchange::ended`].
    pub clock: Instant,
    pub tags: Tags,
    /// The spans of this request, where they are written down. Boxed: most requests have none.
    pub trace: Option<Box<Recording>>,
    /// Method and target as the client sent them, whatever filters made of the request: scheme and authority are part of it where they
    /// were over HTTP/1, in a CONNECT, and where the client [is led](Exchange::remember_whole_target) to what it names.
    pub method: Method,
    pub uri: Vec<u8>,
    /// Where the path begins in it.
    path_at: usize,
    /// The `pathPrefix` of the route that matched, for prefix replacement. That of the last request until another route matches: none
    /// but the stations behind a route ask for it.
    pub matched_prefix: Option<Arc<str>>,
    /// `data` of templates: `PIPELINE` and what DataBuilders made.
    pub data: BTreeMap<String, Value>,
    /// The client offers to go on in another protocol (`Upgrade`).
    pub upgrade_offered: bool,
    /// What a backend's connection became after status 101, or a CONNECT led to: to be joined with the client's side.
    pub upgraded: Option<Box<dyn Duplex>>,
    /// Interim answers of backends, for the listener to send on.
    pub interim: Interim,
    /// What the stations after the running one may touch: of the others it may take away what it likes.
    pub later: Touches,
    /// What comes after the running pipeline may touch.
    pub after: Touches,
    /// No answer is waited for any longer than this. Its end says nothing of the server: it was the client that would wait no longer.
    pub deadline: Option<Instant>,
    /// Whether somebody has looked for what the client says of its deadline.
    pub deadline_read: bool,
    /// The client has gone; the response, if any, reaches nobody.
    pub client_gone: bool,
    /// Tells the routes of a server apart.
    pub route: u64,
    /// Why the request was refused to keep others going, as the access log and metrics name it; `None`: it was not.
    pub refused: Option<&'static str>,
    held: Vec<Box<dyn Hold>>,
    ends: Ends,
}

/// What filters do when the flow is over, see [`Exchange::at_end`].
#[derive(Default)]
struct Ends(Vec<End>);

type End = Box<dyn FnOnce(&mut Exchange)>;

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to be done", self.0.len())
    }
}

/// What a station holds for an exchange beyond its own part in it. Dropped when the exchange is over, the answer's body sent; of one that
/// became a tunnel, when that has ended.
pub trait Hold {
    /// The pipelines have been walked: there is this answer, or none, and its body, which is there already or still comes.
    fn answered(&mut self, response: Option<&mut Response>, body: &mut Body);
}

impl std::fmt::Debug for dyn Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hold")
    }
}

impl Default for Exchange {
    fn default() -> Exchange {
        let now = Instant::now();
        Exchange {
            client: Client::default(),
            id: Vec::new(),
            default: Space::default(),
            others: Vec::new(),
            current: 0,
            started: now,
            clock: now,
            tags: Tags::default(),
            trace: None,
            method: Method::Get,
            uri: Vec::new(),
            path_at: 0,
            matched_prefix: None,
            data: BTreeMap::new(),
            upgrade_offered: false,
            upgraded: None,
            interim: Interim::default(),
            later: Touches::NOTHING,
            after: Touches::NOTHING,
            deadline: None,
            deadline_read: false,
            client_gone: false,
            ends: Ends::default(),
            route: 0,
            refused: None,
            held: Vec::new(),
        }
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Response>> = const { RefCell::new(Vec::new()) };
}

/// Responses a worker keeps, for their memory: about as many as it reads heads into at a time.
const SPARE_MAX: usize = 64;

/// One that has grown beyond this, in bytes, is not worth keeping.
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// An empty response to read a head into; it has the memory of one that is not needed any more, where there is any.
pub fn fresh_response() -> Response {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn recycle(mut response: Response) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&response.headers.memory()) {
            response.headers.clear();
            spare.push(Response { headers: response.headers, ..Response::default() });
        }
    });
}

impl Exchange {
    /// Makes ready for the next request of the same client; keeps memory.
    pub fn reset(&mut self) {
        self.default.request.clear();
        self.default.has_request = false;
        self.default.request_body = Body::Empty;
        if let Some(response) = self.default.response.take() {
            recycle(response);
        }
        self.default.response_body = Body::Empty;
        self.others.clear();
        self.current = 0;
        self.client.tls = None;
        self.id.clear();
        self.tags.clear();
        self.trace = None;
        self.method = Method::Get;
        self.uri.clear();
        self.path_at = 0;
        if !self.data.is_empty() {
            self.data.clear();
        }
        self.upgrade_offered = false;
        self.upgraded = None;
        self.interim.clear();
        self.later = Touches::NOTHING;
        self.after = Touches::NOTHING;
        self.deadline = None;
        self.deadline_read = false;
        self.client_gone = false;
        self.ends.0.clear();
        self.route = 0;
        self.refused = None;
        self.held.clear();
    }

    /// Does this when all flows of the request are over, whichever way they end, with the answer that goes to the client: the filter
    /// that came last is first. Nothing is done when the client goes away before.
    pub fn at_end(&mut self, end: impl FnOnce(&mut Exchange) + 'static) {
        self.ends.0.push(Box::new(end));
    }

    /// The flows are over.
    pub fn end(&mut self) {
        while let Some(end) = self.ends.0.pop() {
            end(self);
        }
    }

    /// Somebody looks at the head of the answer at the end.
    pub fn has_ends(&self) -> bool {
        !self.ends.0.is_empty()
    }

    /// Keeps what a station holds until the exchange is over.
    pub fn hold(&mut self, held: Box<dyn Hold>) {
        self.held.push(held);
    }

    /// What stations hold goes on with the tunnel that the exchange has become.
    pub fn take_held(&mut self) -> Vec<Box<dyn Hold>> {
        std::mem::take(&mut self.held)
    }

    /// The pipelines have been walked.
    pub fn answered(&mut self) {
        for held in &mut self.held {
            held.answered(self.default.response.as_mut(), &mut self.default.response_body);
        }
    }

    /// Somebody wants to know how long each station takes.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.tags.enabled || self.trace.is_some()
    }

    /// The request begins.
    pub fn start(&mut self, now: Instant) {
        (self.started, self.clock) = (now, now);
    }

    /// The time at its end: a reading of this very poll will do, since what is sent leaves the machine after it anyway.
    pub fn ended(&self) -> Instant {
        if self.clock > base_runtime::poll_began() { self.clock } else { Instant::now() }
    }

    /// A route has matched. Most requests match the one that the last did, and a count that all workers share is let be.
    pub fn match_prefix(&mut self, prefix: Option<&Arc<str>>) {
        let known = match (&self.matched_prefix, prefix) {
            (Some(known), Some(prefix)) => Arc::ptr_eq(known, prefix),
            (None, None) => true,
            _ => false,
        };
        if !known {
            self.matched_prefix = prefix.cloned();
        }
    }

    /// The namespace the running filter works in.
    pub fn space(&mut self) -> &mut Space {
        match self.current {
            0 => &mut self.default,
            n => &mut self.others[n - 1].1,
        }
    }

    /// As [`space`](Exchange::space), to read.
    pub fn space_ref(&self) -> &Space {
        match self.current {
            0 => &self.default,
            n => &self.others[n - 1].1,
        }
    }

    /// The request of the current namespace.
    pub fn request(&self) -> &Request {
        &self.space_ref().request
    }

    pub fn request_mut(&mut self) -> &mut Request {
        &mut self.space().request
    }

    pub fn response_mut(&mut self) -> Option<&mut Response> {
        self.space().response.as_mut()
    }

    /// Takes note of what the client asked for, before anything changes it.
    pub fn remember_target(&mut self) {
        let request = &self.default.request;
        self.method = request.method.clone();
        let whole = matches!(request.version, Version::Http10 | Version::Http11) && request.scheme.is_some();
        if whole {
            self.uri.extend_from_slice(before_authority(request));
        }
        // The target of a CONNECT is an authority, and nothing else, in every version (RFC 9110 section 7.1).
        if whole || self.method == Method::Connect && request.path.is_empty() {
            self.uri.extend_from_slice(request.authority.as_bytes());
        }
        self.path_at = self.uri.len();
        request.path.encode(&mut self.uri);
        if let Some(query) = &request.query {
            self.uri.push(b'?');
            self.uri.extend_from_slice(query.as_bytes());
        }
    }

    /// The client is led where it asks to go. Later versions of HTTP name scheme and authority with every request, so that only now it
    /// is clear that the target is more than a path.
    pub fn remember_whole_target(&mut self) {
        let request = &self.default.request;
        if request.scheme.is_none() || self.path_at > 0 {
            return;
        }
        let before = [before_authority(request), request.authority.as_bytes()].concat();
        self.path_at = before.len();
        self.uri.splice(0..0, before);
    }

    /// The path that the client asked for, without what stood before it or its query.
    pub fn asked_path(&self) -> &[u8] {
        self.uri[self.path_at..].split(|b| *b == b'?').next().unwrap_or_default()
    }

    /// The path with its query, as the client asked for it.
    pub fn asked_target(&self) -> &[u8] {
        &self.uri[self.path_at..]
    }

    /// The credentials of the message, which are in no log.
    pub fn credentials(&self) -> Vec<Cow<'_, [u8]>> {
        let fields = self.default.request.headers.iter().map(|(name, value, _)| (name, value));
        let answered = self.default.response.iter().flat_map(|response| response.headers.iter());
        redact::of_message(fields.chain(answered.map(|(name, value, _)| (name, value))), &self.uri)
    }

    /// Answers in the current namespace.
    pub fn respond(&mut self, response: Response, body: Body) {
        self.space().respond(response, body);
    }

    /// Answers in the current namespace, see [`Space::answer`].
    pub fn answer(&mut self, status: u16, body: Body) -> &mut Response {
        self.space().answer(status, body)
    }

    /// Refuses in the current namespace, see [`Space::refuse`].
    pub fn refuse(&mut self, status: u16) -> &mut Response {
        self.space().refuse(status)
    }

    /// Bytes of the client's request body, when known before it is read.
    pub fn request_body_length(&self) -> Option<u64> {
        self.default.request_body.length()
    }

    /// The space the client's request came in and its answer is taken from.
    pub fn default_space(&mut self) -> &mut Space {
        &mut self.default
    }

    /// As [`default_space`](Exchange::default_space), to read.
    pub fn default_space_ref(&self) -> &Space {
        &self.default
    }

    /// A namespace by name, if anything was put there. `DEFAULT` and the empty name mean the client's own.
    pub fn named(&self, name: &str) -> Option<&Space> {
        if name.is_empty() || name == DEFAULT_NAMESPACE {
            return Some(&self.default);
        }
        self.others.iter().find(|(n, _)| &**n == name).map(|(_, s)| s)
    }

    /// As [`named`](Exchange::named), to change.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut Space> {
        if name.is_empty() || name == DEFAULT_NAMESPACE {
            return Some(&mut self.default);
        }
        self.others.iter_mut().find(|(n, _)| &**n == name).map(|(_, s)| s)
    }

    /// Every namespace, `DEFAULT` first.
    pub fn spaces(&self) -> impl Iterator<Item = (&str, &Space)> {
        std::iter::once((DEFAULT_NAMESPACE, &self.default)).chain(self.others.iter().map(|(n, s)| (&**n, s)))
    }

    /// An exchange of its own that has all this one has, as it stands, to be walked beside it. Bodies are shared where they are in memory,
    /// and left out where they are not.
    pub(crate) fn fork(&self) -> Exchange {
        let space = |space: &Space| Space {
            request: space.request.clone(),
            has_request: space.has_request,
            request_body: space.request_body.again().unwrap_or_default(),
            response: space.response.clone(),
            response_body: space.response_body.again().unwrap_or_default(),
        };
        let mut fork = Exchange {
            client: self.client.clone(),
            default: space(&self.default),
            others: self.others.iter().map(|(name, other)| (name.clone(), space(other))).collect(),
            started: self.started,
            clock: self.clock,
            method: self.method.clone(),
            uri: self.uri.clone(),
            path_at: self.path_at,
            matched_prefix: self.matched_prefix.clone(),
            data: self.data.clone(),
            id: self.id.clone(),
            deadline: self.deadline,
            deadline_read: self.deadline_read,
            ..Exchange::default()
        };
        fork.tags.enabled = self.tags.enabled;
        fork
    }

    /// Every space, to have its bodies gathered.
    pub(crate) fn spaces_mut(&mut self) -> impl Iterator<Item = &mut Space> {
        std::iter::once(&mut self.default).chain(self.others.iter_mut().map(|(_, space)| space))
    }

    /// Puts a namespace of `other` in the place of this one's.
    pub(crate) fn take_over(&mut self, namespace: &Arc<str>, other: &mut Exchange) {
        let Some(space) = other.named_mut(namespace).map(std::mem::take) else { return };
        match self.others.iter_mut().find(|(name, _)| name == namespace) {
            Some((_, here)) => *here = space,
            None => self.others.push((namespace.clone(), space)),
        }
    }

    /// Makes `namespace` (`None` = `DEFAULT`) the one filters work in; it is made when it does not exist.
    #[inline]
    pub fn enter(&mut self, namespace: Option<&Arc<str>>) {
        self.current = match namespace {
            None => 0,
            Some(name) => match self.others.iter().position(|(n, _)| n == name) {
                Some(at) => at + 1,
                None => {
                    self.others.push((name.clone(), Space::default()));
                    self.others.len()
                }
            },
        };
    }
}

/// How a whole URL begins.
fn before_authority(request: &Request) -> &'static [u8] {
    match request.scheme {
        Some(Scheme::Http) => b"http://",
        Some(Scheme::Https) => b"https://",
        None => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::{Limits, h1};

    #[test]
    fn the_target_is_remembered_as_it_was_asked_for() {
        for (line, target, path) in [
            ("GET /a?b=/c", "/a?b=/c", "/a"),
            ("GET http://out.test:8080/a?b=c", "http://out.test:8080/a?b=c", "/a"),
            ("GET https://out.test", "https://out.test/", "/"),
            ("CONNECT db.test:5432", "db.test:5432", ""),
        ] {
            let mut exchange = Exchange::default();
            let host = line.split("//").nth(1).map_or("db.test:5432", |rest| rest.split('/').next().unwrap());
            let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let read = h1::parse_request(text.as_bytes(), &Limits::default(), &mut exchange.default_space().request);
            assert!(read.is_ok_and(|head| head.is_some()), "{line}");
            exchange.remember_target();
            exchange.remember_whole_target();
            let told = (String::from_utf8_lossy(&exchange.uri), String::from_utf8_lossy(exchange.asked_path()));
            assert_eq!((&*told.0, &*told.1), (target, path), "{line}");
        }
        // Every request of later versions names both: what it asks of a server is a path.
        let mut exchange = Exchange::default();
        let request = &mut exchange.default_space().request;
        (request.version, request.scheme) = (Version::Http2, Some(Scheme::Https));
        request.authority.push_str("out.test");
        request.set_target(b"/a?b").unwrap();
        exchange.remember_target();
        assert_eq!(exchange.uri, b"/a?b");
        exchange.remember_whole_target();
        assert_eq!((&exchange.uri[..], exchange.asked_path()), (&b"https://out.test/a?b"[..], &b"/a"[..]));
        exchange.reset();
        assert!(exchange.asked_path().is_empty());
    }

    #[test]
    fn the_memory_of_a_response_serves_the_next() {
        let mut response = fresh_response();
        (0..20).for_each(|n| response.headers.add(format!("X-{n}"), "value"));
        let memory = response.headers.memory();
        let mut exchange = Exchange::default();
        exchange.respond(Response { status: 503, ..response }, Body::Empty);
        exchange.reset();
        let next = fresh_response();
        assert_eq!((next.status, next.headers.len(), next.headers.memory()), (200, 0, memory));
        // Neither what never had any, nor what has too much.
        exchange.respond(Response::default(), Body::Empty);
        exchange.reset();
        let mut large = Response::default();
        large.headers.add("X", "v".repeat(SPARE_BYTES_MAX));
        exchange.respond(large, Body::Empty);
        exchange.reset();
        assert_eq!(fresh_response().headers.memory(), 0);
    }

    /// Who may read an answer is said of the page that asks: it is true of the answer in its place.
    #[test]
    fn an_answer_that_replaces_another_keeps_who_may_read_it() {
        let before = || {
            let mut space = Space::default();
            let mut response = Response::with_status(200);
            for (name, value) in [
                ("vary", "Origin"),
                ("Access-Control-Allow-Origin", "https://a.test"),
                ("access-control-allow-credentials", "true"),
            ] {
                response.headers.add_own(name, value);
            }
            // The backend's, of its own answer.
            for (name, value) in [
                ("Vary", "Accept-Encoding"),
                ("Access-Control-Expose-Headers", "X-Other"),
                ("X-Other", "x"),
                ("Set-Cookie", "a=b"),
            ] {
                response.headers.add(name, value);
            }
            space.respond(response, Body::full("before"));
            space
        };
        let told = |space: &Space| {
            let headers = &space.response.as_ref().unwrap().headers;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            headers.iter().map(|(name, value, _)| format!("{}: {}", text(name), text(value))).collect::<Vec<_>>()
        };
        let kept =
            ["vary: Origin", "Access-Control-Allow-Origin: https://a.test", "access-control-allow-credentials: true"];
        let mut space = before();
        space.answer(404, Body::Empty);
        assert_eq!(told(&space), kept);
        space.answer(503, Body::Empty);
        assert_eq!(told(&space), kept, "as often as it is replaced");
        let mut space = before();
        let mut response = Response::with_status(302);
        for (name, value) in [("Vary", "Accept"), ("Vary", "origin"), ("Access-Control-Allow-Origin", "*")] {
            response.headers.add(name, value);
        }
        space.respond(response, Body::Empty);
        let own = ["Vary: Accept", "Vary: origin", "Access-Control-Allow-Origin: *", kept[2]];
        assert_eq!(told(&space), own, "it says some itself");
    }

    #[test]
    fn a_refusal_keeps_what_filters_set_and_nothing_of_the_answer_it_replaces() {
        let kept =
            ["Vary", "Content-Security-Policy", "Strict-Transport-Security", "X-Request-Id", "X-RateLimit-Remaining"];
        let gone = [
            "content-type",
            "ETAG",
            "Set-Cookie",
            "Cache-Control",
            "CDN-Cache-Control",
            "expires",
            "Age",
            "Last-Modified",
            "Location",
            "WWW-Authenticate",
            "Content-Length",
            "Link",
            "Pragma",
            "Date",
            "Retry-After",
        ];
        let refused = |status| {
            let mut space = Space::default();
            let mut response = Response::with_status(200);
            // The first one is the backend's own and goes, the second what a filter says.
            response.headers.add("Access-Control-Allow-Origin", "backend");
            response.headers.add_own("access-control-allow-origin", "filter");
            for name in kept.iter().chain(&gone) {
                response.headers.add(name, "x");
            }
            space.respond(response, Body::full("text"));
            space.refuse(status).headers.set("Retry-After", "1");
            assert_eq!((space.response_body.length(), space.response.as_ref().unwrap().status), (Some(0), status));
            let response = space.response.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            response.headers.iter().map(|(name, value, _)| (text(name), text(value))).collect::<Vec<_>>()
        };
        let mut wanted = vec![("access-control-allow-origin".to_owned(), "filter".to_owned())];
        wanted.extend(kept.iter().map(|name| (name.to_string(), "x".to_owned())));
        wanted.push(("Retry-After".to_owned(), "1".to_owned()));
        assert_eq!(refused(503), wanted);
        // 404 may be kept by a cache that nobody told how long.
        wanted.insert(wanted.len() - 1, ("Cache-Control".to_owned(), "no-store".to_owned()));
        assert_eq!(refused(404), wanted);
    }
}
