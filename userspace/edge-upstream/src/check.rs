//! Active health checks: servers are asked again and again whether they are well, whatever requests they get.
//!
//! A [`Check`] is one question to one server. It is shared by everybody who asks the same, whatever pool, filter, generation or worker, and
//! lives as long as anybody holds it, so that what is known survives changes of documents. When it is due a probe runs on one of the
//! workers; what is due when is kept for all of them in one queue by one thread ([`schedule`]), so that a thousand servers cost a thousand
//! entries and nothing else between their probes. Pure parts: [`standing`] (what outcomes make of a server) and the queue itself.
//!
//! The process has a bounded number of probes under way (see [`probe::MOST`](crate::probe::MOST)); one that finds no room is counted as
//! `upstream_probes` and has its turn a little later, which says nothing of its server.

mod question;
mod schedule;
mod standing;

use crate::attempt::Counters;
use crate::endpoint::{Protocols, Server};
use crate::health::{self, Health};
use crate::probe::Room;
use crate::random;
use base_model::{HealthCheckSpec, ProbeType, ProxyProtocol};
use base_runtime::time::timeout;
use base_telemetry::proxy::{Checkup, PoolNames, PoolStats, ServerRecorder};
use base_telemetry::{Limit, Telemetry};
use edge_pipeline::Body;
use question::{Asking, Question};
use standing::Standing;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The first probes of servers that are named together are spread over this time.
const FIRST_WITHIN: Duration = Duration::from_millis(20);

/// Into so many parts an interval is divided, see [`together`].
const PARTS: u32 = 100;

/// Probes that a connection that is kept serves at most: one more connects anew, so that a server is not taken for well for long that
/// nobody else can connect to.
const PROBES_EACH: u32 = 10;

/// Pause before a probe that found no worker has its next turn.
const IDLE_PAUSE: Duration = Duration::from_millis(100);

/// Least and longest pause before a probe that found no room has its next turn, a quarter of its interval between them. Thousands of
/// servers that hang may be waiting for room: they must not ask for it all the time.
const CROWDED_PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// See the module doc.
#[derive(Debug)]
pub struct Check {
    number: u64,
    content: Content,
    question: Question,
    interval: Duration,
    timeout: Duration,
    standing: Mutex<Standing>,
    /// Somebody has asked, and something is known.
    known: AtomicBool,
    checkup: Arc<Checkup>,
    /// Probes that may still go over the connection that is kept. None after one that failed.
    left: AtomicU32,
    /// What requests say of the server: a probe that passes has connected, unless it goes to another port.
    health: Option<Arc<Health>>,
    /// The server as documents write it.
    url: String,
    crowded: Limit,
    counters: Arc<Counters>,
    /// By worker; figures that nobody sees, since probes are no requests.
    recorders: Vec<ServerRecorder>,
}

/// What makes two checks the same.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    /// Place and identity, see [`Server::connections`].
    connections: u64,
    protocols: Protocols,
    told: ProxyProtocol,
    authority: String,
    prefix: String,
    probe: ProbeType,
    spec: HealthCheckSpec,
}

impl Check {
    /// The check of this server; one object as long as anybody holds it. `usual` is what is spoken where the document does not say.
    pub fn shared(
        server: &Server,
        spec: &HealthCheckSpec,
        usual: ProbeType,
        telemetry: &Telemetry,
    ) -> Result<Arc<Check>, String> {
        let probe = spec.speaks(usual);
        let content = Content {
            connections: server.connections(),
            protocols: server.protocols,
            told: server.told,
            authority: server.authority.clone(),
            prefix: server.prefix.clone(),
            probe,
            spec: spec.clone(),
        };
        let mut known = registry().lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.entry(content.connections).or_default();
        place.retain(|check| check.strong_count() > 0);
        let there: Vec<Arc<Check>> = place.iter().filter_map(Weak::upgrade).collect();
        if let Some(found) = there.iter().find(|check| check.content == content) {
            return Ok(found.clone());
        }
        // Somebody who asks otherwise from now on does not forget what the last answers were.
        let known_before = there.iter().any(|check| check.is_known());
        let healthy = there.iter().all(|check| check.is_well() || check.content.probe != probe);
        let made = Arc::new(Check {
            number: NUMBER.fetch_add(1, Relaxed),
            question: Question::new(server, spec, probe)?,
            content,
            interval: spec.interval.into(),
            timeout: spec.timeout.into(),
            standing: Mutex::new(Standing::new(healthy, spec.fails, spec.passes)),
            known: AtomicBool::new(known_before),
            checkup: Arc::new(Checkup::new(probe.text(), healthy)),
            left: AtomicU32::new(0),
            health: (spec.port == 0).then(|| server.health.clone()),
            url: server.url.clone(),
            crowded: telemetry.limits().register("upstream_probes"),
            counters: Counters::new(telemetry.limits()),
            recorders: unseen_recorders(telemetry.workers()),
        });
        place.push(Arc::downgrade(&made));
        if known.len() > REGISTRY_SWEPT_BEYOND {
            known.retain(|_, checks| checks.iter().any(|check| check.strong_count() > 0));
        }
        drop(known);
        let first = random::below(FIRST_WITHIN.min(made.interval).as_nanos().max(1) as u64);
        schedule::add(Arc::downgrade(&made), Instant::now() + Duration::from_nanos(first), made.number);
        Ok(made)
    }

    /// Whether its server is to get requests.
    #[inline]
    pub fn is_well(&self) -> bool {
        self.checkup.healthy.load(Relaxed)
    }

    /// Whether anything is known of its server. Until then it is taken for well, and yet gets no requests while another one is known to be.
    #[inline]
    pub fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// How long its probe may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What status and metrics show.
    pub fn checkup(&self) -> &Arc<Checkup> {
        &self.checkup
    }

    /// Asks once, on a worker. The room is given back once it is known what the answer says.
    async fn run(&self, room: Room) {
        let (era, began) = (self.health.as_ref().map(|health| (health, health.era())), base_runtime::now());
        let recorder = &self.recorders[base_runtime::worker_index() % self.recorders.len()];
        let asking = Asking { limit: self.timeout, recorder, counters: &self.counters };
        // A connection that is kept says nothing of who cannot be connected to, or does not answer well over it.
        let left = self.left.load(Relaxed);
        let anew = left == 0 || !self.is_well() || self.health.as_ref().is_some_and(|health| health.is_out());
        let mut rest = Body::Empty;
        let outcome = match timeout(self.timeout, self.question.ask(anew, &asking, &mut rest)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer in {}", base_text::duration(self.timeout))),
        };
        let took = base_runtime::now().saturating_duration_since(began);
        let passed = outcome.is_ok();
        self.left.store(
            if !passed {
                0
            } else if anew {
                PROBES_EACH - 1
            } else {
                left - 1
            },
            Relaxed,
        );
        self.conclude(outcome, took);
        drop(room);
        if passed && era.is_some_and(|(health, era)| health.connected(era, base_runtime::now())) {
            tracing::info!(server = self.url, "the server can be connected to again and is back");
        }
        if passed {
            self.question.finish(rest, self.timeout).await;
        }
    }

    fn conclude(&self, outcome: Result<(), String>, took: Duration) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = standing.note(outcome.is_ok());
        if let Some(healthy) = changed {
            self.checkup.healthy.store(healthy, Relaxed);
            health::changed();
            let (server, probe) = (self.url.as_str(), self.content.probe.text());
            match &outcome {
                Ok(()) => tracing::info!(server, probe, "the server passes its health check again and gets requests"),
                Err(error) => {
                    self.checkup.falls.fetch_add(1, Relaxed);
                    tracing::warn!(server, probe, error, "the server fails its health check and gets no requests");
                }
            }
        }
        drop(standing);
        self.checkup.probed(outcome.err(), took);
        if !self.known.swap(true, Relaxed) {
            health::changed();
        }
    }
}

/// Runs the probe that is due on one of the workers, and sees that there is a next one.
fn launch(check: Arc<Check>) {
    let mut turn = Turn { check: Arc::downgrade(&check), number: check.number, next: Instant::now() + IDLE_PAUSE };
    let Some(worker) = base_runtime::some_worker(check.number as usize) else { return };
    // Looked for here, so that no worker is troubled by those that find none.
    let room = if check.is_known() { Room::take() } else { Room::take_first() };
    let Some(room) = room else {
        turn.next = Instant::now() + crowded_pause(check.interval);
        return check.crowded.add(1);
    };
    worker.spawn(move || async move {
        let mut turn = turn;
        turn.next = together(base_runtime::now() + varied(check.interval), check.interval);
        check.run(room).await;
    });
}

/// Whoever has it asks; dropped, for whatever reason, the check is due again.
struct Turn {
    check: Weak<Check>,
    number: u64,
    next: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        schedule::add(std::mem::take(&mut self.check), self.next, self.number);
    }
}

/// Nine to eleven tenths of an interval, so that servers that were named together are not asked together for ever.
fn varied(interval: Duration) -> Duration {
    let tenth = interval / 10;
    interval - tenth
        + Duration::from_nanos(random::below(tenth.as_nanos().min(u128::from(u64::MAX / 2)) as u64 * 2 + 1))
}

/// The end of the part of its interval that a time is in: what is due in one is asked together, and one waking is for all of it.
fn together(at: Instant, interval: Duration) -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    let part = (interval / PARTS).as_nanos().max(1);
    let since = at.saturating_duration_since(began).as_nanos();
    // Neither is longer than what an `Instant` holds.
    at + Duration::from_nanos((since.next_multiple_of(part) - since) as u64)
}

/// When one that found no room has its next turn.
fn crowded_pause(interval: Duration) -> Duration {
    let [least, longest] = CROWDED_PAUSES;
    varied((interval / 4).clamp(least, longest))
}

fn unseen_recorders(workers: usize) -> Vec<ServerRecorder> {
    static UNSEEN: OnceLock<Mutex<HashMap<usize, Arc<PoolStats>>>> = OnceLock::new();
    let workers = workers.max(1);
    let mut made = UNSEEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let stats = made.entry(workers).or_insert_with(|| PoolStats::new(PoolNames::default(), workers));
    (0..workers).map(|worker| stats.recorder(worker).server("probed")).collect()
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Places beyond which those are looked for that nobody asks any more.
const REGISTRY_SWEPT_BEYOND: usize = 1024;

type Registry = Mutex<HashMap<u64, Vec<Weak<Check>>>>;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

#[cfg(test)]
mod tests;
