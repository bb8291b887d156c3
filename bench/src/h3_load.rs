//! HTTP/3 as our own way to backends asks for it, with the generator as the upstream that answers: no package has a client that measures.
//!
//! Each connection is a worker's, and all workers are on the CPU of the load. Every answer is compared byte by byte.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base_runtime::{Config, IoMode, Runtime};
use base_telemetry::proxy::PoolNames;
use base_telemetry::{Identity, Telemetry};
use edge_pipeline::Body;
use edge_upstream::{CallSettings, Caller};
use proto_http::Method;

use crate::generator::pattern::{Pattern, WINDOWS};
use crate::generator::{self, Others, Outcome};
use crate::h2load::Shape;

/// Loads the gateway for as long as the options say.
pub fn run(options: &generator::Options, shape: Shape) -> Result<Outcome, String> {
    let target = options.target.ok_or("the load of HTTP/3 needs a gateway")?;
    let asking = Asking::start(target, options, shape)?;
    let others = Some(asking.shared.others.clone());
    let outcome = generator::run(&generator::Options { connections: 0, tls: None, others, ..options.clone() });
    asking.shared.others.over.store(true, Ordering::Release);
    let outcome = outcome?;
    let (sound, wrong) = (asking.shared.sound.load(Ordering::Relaxed), asking.shared.wrong.load(Ordering::Relaxed));
    if wrong > 0 || sound == 0 {
        return Err(format!("{wrong} answers of {} were no answers", sound + wrong));
    }
    Ok(Outcome { requests: outcome.upstream_requests, foreign_load_us: 0.0, ..outcome })
}

#[derive(Default)]
struct Shared {
    others: Others,
    sound: AtomicU64,
    wrong: AtomicU64,
}

/// Workers that ask; they end when this is dropped.
struct Asking {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Asking {
    fn start(target: SocketAddr, options: &generator::Options, shape: Shape) -> Result<Asking, String> {
        let config = Config {
            io: IoMode::Auto,
            cpus: Some(vec![options.load_cpu; shape.connections]),
            workers: Some(shape.connections),
            name: "h3-load".to_owned(),
            ..Config::default()
        };
        let runtime = Runtime::start(config).map_err(|error| format!("workers of the load: {error}"))?;
        let telemetry = Telemetry::new(Identity::default(), shape.connections);
        let settings = CallSettings {
            http3: true,
            insecure_tls: true,
            in_flight_max: shape.connections * shape.streams,
            timeout: Duration::from_secs(5),
            ..CallSettings::default()
        };
        let shared = Arc::<Shared>::default();
        let pattern = Arc::new(Pattern::new("/", options.size, 0, false));
        for (at, worker) in runtime.workers().iter().enumerate() {
            let window = at % WINDOWS;
            let names = PoolNames { pool: format!("load-{at}"), ..PoolNames::default() };
            let caller = Caller::new(&format!("https://{target}/{window}"), settings.clone(), names, &telemetry)?;
            let (shared, pattern) = (shared.clone(), pattern.clone());
            let asking: Vec<_> = (0..shape.streams).map(|_| shared.others.begin()).collect();
            worker.spawn(move || async move {
                let caller = Rc::new(caller);
                // A gateway that ends at the end of a round is no fault of its own.
                let failed = Rc::new(Cell::new(0u32));
                for asks in asking {
                    let asked = ask(caller.clone(), window, shared.clone(), pattern.clone(), failed.clone());
                    base_runtime::spawn(async move {
                        let _asks = asks;
                        asked.await;
                    })
                    .detach();
                }
            });
        }
        Ok(Asking { shared, _runtime: runtime })
    }
}

/// One request after another.
async fn ask(caller: Rc<Caller>, window: usize, shared: Arc<Shared>, pattern: Arc<Pattern>, failed: Rc<Cell<u32>>) {
    let request = caller.request(Method::Get);
    let is_over = || shared.others.over.load(Ordering::Acquire);
    while !is_over() {
        match caller.call(&request, Body::Empty).await {
            Ok(reply) if reply.response.status == 200 && reply.body[..] == *pattern.response_body(window) => {
                shared.sound.fetch_add(1, Ordering::Relaxed);
            }
            _ if is_over() => {}
            // It may listen a moment later than over TCP, and the upstream a moment later than it is asked.
            _ if failed.get() < FIRST_FAILURES => {
                failed.set(failed.get() + 1);
                base_runtime::time::sleep(Duration::from_millis(5)).await;
            }
            _ => {
                shared.wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Failures of one connection at first that are none.
const FIRST_FAILURES: u32 = 64;
