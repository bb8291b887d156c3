//! Calls of our own: a filter asks a service and reads its whole answer.
//!
//! Use it where a request depends on what somebody else says: token introspection, keys of an issuer, a remote filter. A [`Caller`] is one
//! service; its calls go over the connections of the worker that asks, like a Proxy's, and never block it. Each has an end
//! ([`CallSettings::timeout`]), an answer no larger than [`CallSettings::body_bytes_max`], and a place among so many that are on their way at
//! a time ([`CallSettings::in_flight_max`]); what is refused for the sake of a bound is counted. Redirects are not followed, nothing is
//! repeated that may have been done.

use crate::attempt::{Attempt, AttemptError, Counters};
use crate::connect::CONNECT_TIMEOUT;
use crate::endpoint::Server;
use crate::tls::Identity;
use base_model::{MtlsSpec, ServerUrl};
use base_telemetry::proxy::{AnsweredRequest, PoolNames, PoolStats, ServerRecorder, UpstreamError};
use base_telemetry::{Limit, Telemetry};
use bytes::Bytes;
use edge_pipeline::{Body, BodyError};
use proto_http::{Headers, Limits, Method, Request, Response};
use serde_json::Value;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bounds of calls, and how the service is believed.
#[derive(Debug, Clone)]
pub struct CallSettings {
    /// How long a call may take, from its connection to the last byte of its answer.
    pub timeout: Duration,
    /// Largest answer taken, in bytes.
    pub body_bytes_max: u64,
    /// Calls on their way at the same time, over all workers.
    pub in_flight_max: usize,
    /// Whatever certificate the service shows is believed, where `mtls` says nothing.
    pub insecure_tls: bool,
    /// Whom the service has to be, and as whom it is spoken to.
    pub mtls: Option<MtlsSpec>,
    /// Idle connections that each worker keeps to it.
    pub idle_max: usize,
    /// As `http2` of a pool: whether it is spoken to in HTTP/2; without, whatever it agrees to.
    pub http2: Option<bool>,
    /// As `http3` of a pool: it is spoken to in HTTP/3.
    pub http3: bool,
}

impl Default for CallSettings {
    fn default() -> CallSettings {
        CallSettings {
            timeout: Duration::from_secs(5),
            body_bytes_max: 1024 * 1024,
            in_flight_max: 64,
            insecure_tls: false,
            mtls: None,
            idle_max: 4,
            http2: None,
            http3: false,
        }
    }
}

/// A service that is asked.
pub struct Caller {
    server: Server,
    /// Path and query of the URL.
    target: Box<str>,
    settings: CallSettings,
    in_flight: AtomicUsize,
    limits: Limits,
    counters: Arc<Counters>,
    too_many: Limit,
    too_late: Limit,
    too_large: Limit,
    stats: Arc<PoolStats>,
    /// By worker.
    recorders: Vec<ServerRecorder>,
}

/// What a service answered, to its end.
#[derive(Debug)]
pub struct Reply {
    pub response: Response,
    pub body: Bytes,
    /// Fields that came after the body.
    pub trailers: Option<Headers>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    /// So many calls are on their way already; nothing was sent.
    TooMany(usize),
    TimedOut(Duration),
    Attempt(AttemptError),
    /// The answer did not come to its end, or is too large.
    Answer(BodyError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::TooMany(most) => write!(f, "{most} calls are on their way already"),
            CallError::TimedOut(limit) => write!(f, "no answer in {}", base_text::duration(*limit)),
            CallError::Attempt(error) => error.fmt(f),
            CallError::Answer(error) => write!(f, "answer: {error}"),
        }
    }
}

/// Takes a URL with a path and a query apart: what is connected to, and what is asked for there.
pub fn split_url(url: &str) -> Result<(ServerUrl, &str), String> {
    let host_at = url.find("://").map(|at| at + 3).ok_or("no scheme; write it as https://host/path")?;
    let end = url[host_at..].find(['/', '?', '#']).map_or(url.len(), |at| host_at + at);
    let (base, target) = url.split_at(end);
    if target.contains('#') {
        return Err("a fragment is never sent; remove it".to_owned());
    }
    let at: ServerUrl = base.parse()?;
    if !matches!(at.scheme.as_str(), "http" | "https") || at.socket.is_some() {
        return Err("only http:// and https:// can be asked".to_owned());
    }
    // Spaces and the like never leave as they are.
    let mut request = Request::default();
    let wanted = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    request.set_target(wanted.as_bytes()).map_err(|_| format!("{target} is no path"))?;
    Ok((at, target))
}

impl Caller {
    /// Prepares calls of `url`. `names` is how the figures are labelled. The error says what is wrong with the URL or with this machine.
    pub fn new(
        url: &str,
        settings: CallSettings,
        names: PoolNames,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Caller, String> {
        let (at, target) = split_url(url)?;
        let identity = match at.is_tls() {
            false => None,
            true => {
                let insecure = MtlsSpec { insecure_skip_verify: true, ..MtlsSpec::default() };
                let mtls = settings.mtls.as_ref().or(settings.insecure_tls.then_some(&insecure));
                Some(Identity::shared(mtls).map_err(|error| error.text)?)
            }
        };
        let shown = url[..url.len() - target.len()].to_owned();
        let server = Server::at(at, &shown, 1, false, identity.as_ref())?
            .with_http2(settings.http2)
            .with_http3(settings.http3)?;
        let (stats, limits) = (telemetry.pool(names), telemetry.limits());
        stats.retain_servers(|known| known == shown);
        Ok(Caller {
            target: if target.starts_with('/') { target.into() } else { format!("/{target}").into() },
            in_flight: AtomicUsize::new(0),
            limits: Limits::default(),
            counters: Counters::new(limits),
            too_many: limits.register("calls_in_flight"),
            too_late: limits.register("calls_timed_out"),
            too_large: limits.register("call_answer_bytes"),
            recorders: (0..telemetry.workers()).map(|worker| stats.recorder(worker).server(&server.url)).collect(),
            stats,
            server,
            settings,
        })
    }

    /// A request for the URL, to be completed.
    pub fn request(&self, method: Method) -> Request {
        let mut request = Request { method, ..Request::default() };
        // The target was read once already.
        let _ = request.set_target(self.target.as_bytes());
        request.authority.clone_from(&self.server.authority);
        request.headers.add("Host", &self.server.authority);
        request
    }

    /// Asks. Runs on a worker.
    pub async fn call(&self, request: &Request, body: Body) -> Result<Reply, CallError> {
        let worker = base_runtime::worker_index();
        let Some(_place) = self.take_place() else {
            self.too_many.hit(worker);
            return Err(CallError::TooMany(self.settings.in_flight_max));
        };
        let (began, recorder) = (base_runtime::now(), &self.recorders[worker]);
        let done =
            match base_runtime::time::timeout(self.settings.timeout, self.exchange(request, body, recorder)).await {
                Ok(done) => done,
                Err(_) => Err(CallError::TimedOut(self.settings.timeout)),
            };
        match &done {
            Ok(reply) => recorder.record(&AnsweredRequest {
                status: reply.response.status,
                duration: base_runtime::now().saturating_duration_since(began),
                request_bytes: 0,
                response_bytes: reply.body.len() as u64,
            }),
            Err(CallError::TimedOut(_)) => {
                self.too_late.hit(worker);
                recorder.error(UpstreamError::Timeout);
            }
            Err(CallError::Attempt(error)) => error.counted_as().into_iter().for_each(|kind| recorder.error(kind)),
            Err(CallError::Answer(BodyError::TooLarge)) => self.too_large.hit(worker),
            Err(CallError::Answer(_)) => recorder.error(UpstreamError::Closed),
            Err(CallError::TooMany(_)) => {}
        }
        done
    }

    async fn exchange(&self, request: &Request, body: Body, recorder: &ServerRecorder) -> Result<Reply, CallError> {
        let mut body = body;
        let attempt = Attempt {
            server: &self.server,
            request,
            host: &request.authority,
            introduction: &[],
            upgrade: false,
            max_idle: self.settings.idle_max,
            connect_timeout: self.settings.timeout.min(CONNECT_TIMEOUT),
            connecting: &Cell::new(false),
            repeated: &Cell::new(false),
            keep_body: false,
            interim: None,
            recorder,
            limits: &self.limits,
            counters: &self.counters,
        };
        let mut answer = attempt.run(&mut body).await.map_err(CallError::Attempt)?;
        let body = answer.body.collect(self.settings.body_bytes_max).await.map_err(CallError::Answer)?.clone();
        Ok(Reply { response: answer.response, body, trailers: answer.body.trailers() })
    }

    /// What `GET /status/objects` shows of it.
    pub fn status(&self) -> Value {
        self.stats.status_json()
    }

    fn take_place(&self) -> Option<Place<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it gives the place back.
        let place = Place(&self.in_flight);
        (before < self.settings.in_flight_max).then_some(place)
    }
}

/// A call among those on their way.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_where_the_host_ends() {
        for (url, host, port, target) in [
            ("http://idp.test/a/b?c=d", "idp.test", 80, "/a/b?c=d"),
            ("https://idp.test:8443", "idp.test", 8443, ""),
            ("https://[::1]:1/x/", "::1", 1, "/x/"),
            ("http://idp.test?x", "idp.test", 80, "?x"),
        ] {
            let (at, rest) = split_url(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!((at.host.as_str(), at.port, rest), (host, port, target), "{url}");
        }
        for bad in ["", "idp.test/x", "ftp://a", "unix:///run/a", "http://", "http://a/#x", "http://u@a/", "ws://a"] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }
}
