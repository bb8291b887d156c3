//! Bytes for a service, from a thread that may wait, over the connections of the workers.

use base_model::{MtlsSpec, ServerUrl};
use base_runtime::Worker;
use base_telemetry::Telemetry;
use base_telemetry::proxy::PoolNames;
use bytes::Bytes;
use edge_pipeline::Body;
use edge_upstream::{CallSettings, Caller, Reply};
use proto_http::{Method, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// A service that takes what is posted to one URL.
pub struct Post {
    caller: Arc<Caller>,
    workers: Vec<Worker>,
    turn: AtomicUsize,
    timeout: Duration,
}

/// Makes one for a URL, whether or not it speaks HTTP/2 (see [`CallSettings::http2`]), and with what is said of TLS to it.
pub type Make<'a> = dyn Fn(&str, Option<bool>, Option<&MtlsSpec>) -> Result<Post, String> + 'a;

/// Largest answer that is read: a service has little to say about what it took.
const ANSWER_BYTES_MOST: u64 = 256 * 1024;

/// Between two looks whether there is still time.
const LOOK: Duration = Duration::from_millis(50);

impl Post {
    /// `pool` is how figures of the calls are labelled. The error says what is wrong with the URL or with this machine.
    pub fn new(
        url: &str,
        http2: Option<bool>,
        mtls: Option<&MtlsSpec>,
        timeout: Duration,
        pool: &str,
        telemetry: &Arc<Telemetry>,
        workers: &[Worker],
    ) -> Result<Post, String> {
        let mtls = mtls.cloned();
        let settings =
            CallSettings { timeout, body_bytes_max: ANSWER_BYTES_MOST, http2, mtls, ..CallSettings::default() };
        let names = PoolNames { pool: pool.to_owned(), kind: "Export".to_owned(), ..PoolNames::default() };
        let caller = Arc::new(Caller::new(url, settings, names, telemetry)?);
        Ok(Post { caller, workers: workers.to_vec(), turn: AtomicUsize::new(0), timeout })
    }

    /// A request for the URL, to be completed.
    pub fn request(&self) -> Request {
        self.caller.request(Method::Post)
    }

    /// Sends it and waits for the answer, until `until` has come where it says a time.
    pub fn send(&self, request: Request, body: Bytes, until: &dyn Fn() -> Option<Instant>) -> Result<Reply, String> {
        let Some(worker) = self.workers.get(self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1))
        else {
            return Err("there are no workers".to_owned());
        };
        let (done, wait) = sync_channel(1);
        let caller = self.caller.clone();
        worker.spawn(move || async move {
            let reply = caller.call(&request, Body::shared(body)).await;
            let _ = done.send(reply.map_err(|error| error.to_string()));
        });
        // The call ends by itself; whoever waits does not depend on it.
        let last = Instant::now() + self.timeout + Duration::from_secs(1);
        loop {
            match wait.recv_timeout(LOOK) {
                Ok(reply) => return reply,
                Err(RecvTimeoutError::Disconnected) => return Err("the workers have ended".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until().map_or(last, |until| until.min(last)) => {
                    return Err("no answer in time".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A URL of what is written as `host:port` or as a URL, with this path where it has none.
pub fn url_of(endpoint: &str, insecure: bool, path: &str) -> String {
    let scheme = if insecure { "http" } else { "https" };
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
    let host_at = url.find("://").map_or(0, |at| at + 3);
    match url[host_at..].find('/') {
        Some(at) if url[host_at + at..].len() > 1 => url,
        Some(at) => format!("{}{path}", &url[..host_at + at]),
        None => format!("{url}{path}"),
    }
}

/// Whether a URL of this kind can be asked at all.
pub fn check_url(url: &str) -> Result<(), String> {
    edge_upstream::call::split_url(url).map(|(_, _): (ServerUrl, &str)| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_a_path() {
        for (endpoint, insecure, url) in [
            ("c:4318", true, "http://c:4318/v1/traces"),
            ("c:4318", false, "https://c:4318/v1/traces"),
            ("http://c:4318", false, "http://c:4318/v1/traces"),
            ("https://c/", true, "https://c/v1/traces"),
            ("http://c:4318/own?x=1", false, "http://c:4318/own?x=1"),
            ("http://[::1]:9", false, "http://[::1]:9/v1/traces"),
        ] {
            assert_eq!(url_of(endpoint, insecure, "/v1/traces"), url);
            check_url(url).unwrap();
        }
    }
}
