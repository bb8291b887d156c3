//! What is not there, or not fresh, is fetched from the stations behind, once for all who want it.

use super::{HIT, Shared};
use base_telemetry::cache::CacheResult;
use edge_pipeline::{Enclosed, Exchange, Rest};
use edge_upstream::cache::{self, CacheKey, End, Found, Gathered, Joined, Lead, Stored, Ticket, gather};
use proto_cache::control::SURROGATE;
use proto_cache::reuse::is_failure;
use proto_cache::status::{CacheStatus, Forward};
use proto_cache::{Refusal, RequestControl, Times, Use, Vary, may_stand_in, use_of};
use proto_http::{Headers, Known, Method, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// Longest time that a stale answer is fetched anew beside the request that has found it.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);

/// Fetches beside requests at a time, of all caches of the process; beyond it stale answers stay so until somebody else comes. Counted as
/// `cache_refreshes`.
const REFRESHES_MOST: usize = 1024;

static REFRESHES: AtomicUsize = AtomicUsize::new(0);

/// Why a request is not answered from memory.
#[derive(Clone, Copy)]
pub struct Why {
    pub forward: Forward,
    pub asked: RequestControl,
}

/// A request on its way to the stations behind.
pub struct Fetch {
    pub shared: Arc<Shared>,
    pub key: CacheKey,
    /// Of those that may share its answer.
    pub hash: u64,
    /// What is kept and may not be used without asking.
    pub found: Option<Arc<Stored>>,
    pub why: Why,
    /// It may wait for the answer to another request.
    pub patient: bool,
}

/// What the fetch of one was like.
struct Asked {
    ticket: Ticket,
    since: Instant,
    /// The request as the client sent it.
    request: Request,
    /// It was asked whether what is kept has changed.
    validates: bool,
    /// The answer varies with a field that the stations behind have made say something else than the client said.
    is_altered: bool,
}

impl Fetch {
    pub async fn run(mut self, exchange: &mut Exchange, rest: Rest) -> Enclosed {
        let lead = match self.wait(exchange).await {
            Turn::Answered => return Enclosed::Alone(HIT),
            Turn::Go(lead) => lead,
        };
        let earlier = exchange.space().response.take();
        let (asked, ended) = self.ask(exchange, &rest).await;
        let status = self.settle(asked, lead, exchange);
        if let Some(earlier) = earlier {
            match exchange.response_mut() {
                Some(response) => crate::proxy::merge(response, &earlier),
                None => exchange.space().response = Some(earlier),
            }
        }
        self.shared.say(exchange, status);
        Enclosed::Walked { ended }
    }

    /// Waits for who fetches the same already, or becomes the one who does.
    async fn wait(&mut self, exchange: &mut Exchange) -> Turn {
        let shared = self.shared.clone();
        let headers = &exchange.request().headers;
        let conditional = headers.contains("If-None-Match") || headers.contains("If-Modified-Since");
        // What a condition or a range brings is for whoever asked alone; where something is kept, we ask for the whole of it. So is what
        // credentials bring, unless it says otherwise, which nobody knows before.
        let own = conditional || headers.contains("Range") || headers.contains("Authorization");
        let alone = self.found.is_none() && own;
        if !self.patient || alone || exchange.request().method != Method::Get || shared.coalesce_timeout.is_zero() {
            return Turn::Go(None);
        }
        let worker = base_runtime::worker_index();
        let until = base_runtime::now() + shared.coalesce_timeout;
        loop {
            let now = base_runtime::now();
            let waiting = match shared.flights.join(self.hash, now) {
                Joined::Lead(lead) => return Turn::Go(Some(lead)),
                Joined::Pass => return Turn::Go(None),
                Joined::Full => {
                    shared.waiting.hit(worker);
                    return Turn::Go(None);
                }
                Joined::Wait(waiting) => waiting,
            };
            let end = base_runtime::time::timeout(until.saturating_duration_since(now), waiting).await;
            match end {
                Err(_) => {
                    shared.waited.hit(worker);
                    shared.flights.tire_of(self.hash);
                    return Turn::Go(None);
                }
                Ok(End::Abandoned) => continue,
                Ok(End::NotKept) => return Turn::Go(None),
                Ok(End::Kept | End::Failed) => {}
            }
            let now = base_runtime::now();
            let Found::This(stored) = shared.store.find(&self.key, &exchange.request().headers) else {
                return Turn::Go(None);
            };
            let is_of_use = use_of(&stored.kept, &self.why.asked, now) != Use::AfterValidation;
            let stands_in = end == Ok(End::Failed) && may_stand_in(&stored.kept, &self.why.asked, now);
            if !is_of_use && !stands_in {
                self.found = Some(stored);
                return Turn::Go(None);
            }
            shared.dealt(if is_of_use { CacheResult::Collapsed } else { CacheResult::StaleIfError });
            let status = CacheStatus { forward: Some(self.why.forward), collapsed: true, ..CacheStatus::default() };
            shared.answer(exchange, &stored, status, now);
            exchange.tags.note_own(|| "cache: collapsed");
            return Turn::Answered;
        }
    }

    /// Has the stations behind answer, with the conditions that what is kept lets us ask.
    async fn ask(&self, exchange: &mut Exchange, rest: &Rest) -> (Asked, bool) {
        let validates = self.found.as_ref().filter(|stored| stored.kept.has_validator());
        let mut asked = Asked {
            ticket: self.shared.store.ticket(),
            since: base_runtime::now(),
            request: exchange.request().clone(),
            validates: validates.is_some(),
            is_altered: false,
        };
        let request = exchange.request_mut();
        if let Some(stored) = validates {
            stored.kept.ask_whether_changed(request);
            request.headers.remove("Range");
        }
        if self.shared.is_surrogate {
            request.headers.add("Surrogate-Capability", format!("{SURROGATE}=\"Surrogate/1.0\""));
        }
        let ended = rest.run(exchange).await;
        let space = exchange.space_ref();
        let vary = space.response.as_ref().and_then(|response| Vary::of(&response.headers, &asked.request.headers));
        asked.is_altered = vary.is_some_and(|vary| !vary.is_for(&space.request.headers, &mut Vec::new()));
        // Others see the request as the client sent it.
        if validates.is_some() || self.shared.is_surrogate {
            exchange.request_mut().headers.copy_from(&asked.request.headers);
        }
        (asked, ended)
    }

    /// Makes of what the stations behind have answered what the client gets, and what is kept.
    fn settle(&self, asked: Asked, lead: Option<Lead>, exchange: &mut Exchange) -> CacheStatus {
        let (shared, now) = (&self.shared, base_runtime::now());
        let forwarded = CacheStatus { forward: Some(self.why.forward), ..CacheStatus::default() };
        let status = exchange.space_ref().response.as_ref().map_or(503, |response| response.status);
        if is_failure(status) || status == 408 {
            let stand_in = self.found.as_ref().filter(|stored| may_stand_in(&stored.kept, &self.why.asked, now));
            if let Some(stored) = stand_in {
                shared.dealt(CacheResult::StaleIfError);
                exchange.tags.note_own(|| format!("cache: stands in for a {status}"));
                give(exchange, stored, now);
                end(lead, End::Failed, false);
                return CacheStatus { forward_status: Some(status), ..forwarded };
            }
        }
        if status == 304 && asked.validates {
            shared.dealt(CacheResult::Revalidated);
            exchange.tags.note_own(|| "cache: revalidated");
            let stored = self.freshen(&asked, lead, exchange, now);
            return CacheStatus { forward_status: Some(304), stored, ..forwarded };
        }
        shared.dealt(CacheResult::Miss);
        let stored = match asked.request.method {
            Method::Get => self.keep(asked, lead, exchange, now),
            _ => {
                self.learn_from_head(&asked, exchange, now);
                false
            }
        };
        CacheStatus { stored, ..forwarded }
    }

    /// The origin says that what is kept is valid: it is kept on, with what is new of its head. Says whether it is.
    fn freshen(&self, asked: &Asked, lead: Option<Lead>, exchange: &mut Exchange, now: Instant) -> bool {
        let (Some(old), Some(mut response)) = (&self.found, exchange.space().response.take()) else { return false };
        response.remove_hop_by_hop();
        let whole = old.kept.freshened(&response);
        match self.shared.rules.keep(&as_get(&asked.request), &whole, &asked.times(now)) {
            Ok(kept) => {
                let new = Stored::new(kept, old.body.clone());
                let new = self.shared.store.replace(&self.key, old, Some(new));
                // It may have been purged meanwhile.
                give(exchange, new.as_ref().unwrap_or(old), now);
                end(lead, if new.is_some() { End::Kept } else { End::NotKept }, false);
                new.is_some()
            }
            Err(_) => {
                self.shared.store.replace(&self.key, old, None);
                let mut kept = old.kept.clone();
                kept.headers = whole.headers;
                kept.freshness.received = now;
                give(exchange, &Stored::new(kept, old.body.clone()), now);
                end(lead, End::NotKept, true);
                false
            }
        }
    }

    /// Keeps an answer once its body has come to its end, when it may be kept. Says whether it may.
    fn keep(&self, asked: Asked, lead: Option<Lead>, exchange: &mut Exchange, now: Instant) -> bool {
        let (shared, worker) = (&self.shared, base_runtime::worker_index());
        let space = exchange.space();
        let Some(response) = &mut space.response else {
            end(lead, End::NotKept, false);
            return false;
        };
        let mut told = response.clone();
        told.remove_hop_by_hop();
        // Others who say the same may be made to say something else.
        let kept = match asked.is_altered {
            true => Err(Refusal::Vary),
            false => shared.rules.keep(&asked.request, &told, &asked.times(now)),
        };
        if shared.is_surrogate {
            response.headers.remove("Surrogate-Control");
        }
        let kept = match kept {
            Ok(kept) => kept,
            Err(why) => {
                shared.store.stats().refused(worker, why as usize);
                // Of a failure nothing is learned; any other answer is newer than what is kept.
                if response.status < 500
                    && response.status != 206
                    && response.status != 304
                    && let Some(old) = &self.found
                {
                    shared.store.replace(&self.key, old, None);
                }
                // What this request is the reason for says nothing of others.
                let is_of_request = matches!(why, Refusal::RequestNoStore | Refusal::Authorization);
                end(lead, End::NotKept, !is_of_request && response.status < 500);
                return false;
            }
        };
        shared.flights.forget(self.hash);
        let (shared, key, headers) = (shared.clone(), self.key.clone(), asked.request.headers);
        let body = std::mem::take(&mut space.response_body);
        let keep = move |gathered| {
            let stats = shared.store.stats();
            let kept = match gathered {
                Gathered::Whole(bytes) => {
                    let kept = shared.store.keep(&key, &headers, Stored::new(kept, bytes.into()), asked.ticket);
                    if kept.is_none() {
                        stats.refused(worker, cache::PURGED);
                    }
                    kept.is_some()
                }
                Gathered::TooLarge => {
                    stats.refused(worker, cache::TOO_LARGE);
                    return end(lead, End::NotKept, true);
                }
                Gathered::BrokenOff => {
                    stats.refused(worker, cache::BROKEN_OFF);
                    return end(lead, End::Abandoned, false);
                }
            };
            end(lead, if kept { End::Kept } else { End::NotKept }, false);
        };
        space.response_body = gather(body, self.shared.entry_most, keep);
        true
    }

    /// What the origin says to a HEAD holds for what is kept of the same, or shows that it has changed (RFC 9111 section 4.3.5).
    fn learn_from_head(&self, asked: &Asked, exchange: &mut Exchange, now: Instant) {
        let (Some(old), Some(response)) = (&self.found, &exchange.space_ref().response) else { return };
        if response.status != 200 || old.kept.status != 200 {
            return;
        }
        let mut told = response.clone();
        told.remove_hop_by_hop();
        let kept = is_same(&old.kept.headers, old.body.len(), &told.headers).then(|| {
            let whole = old.kept.freshened(&told);
            self.shared.rules.keep(&as_get(&asked.request), &whole, &asked.times(now))
        });
        let new = kept.and_then(Result::ok).map(|kept| Stored::new(kept, old.body.clone()));
        if let Some(new) = self.shared.store.replace(&self.key, old, new) {
            give(exchange, &new, now);
        }
    }
}

/// What a request that wanted to share another's answer does next.
enum Turn {
    /// It has it.
    Answered,
    /// It asks; others wait for it, when it leads.
    Go(Option<Lead>),
}

impl Asked {
    fn times(&self, now: Instant) -> Times {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Times { asked: self.since, received: now, unix_seconds: since_1970.as_secs() }
    }
}

/// Fetches anew what is stale beside the request that is answered with it, unless somebody does already.
pub fn refresh(shared: &Arc<Shared>, key: &CacheKey, stored: &Arc<Stored>, exchange: &Exchange, rest: &Rest) {
    let Joined::Lead(lead) = shared.flights.join(key.hash(), base_runtime::now()) else { return };
    let Some(place) = Refreshing::begin() else {
        shared.refreshing.hit(base_runtime::worker_index());
        return;
    };
    let Some(mut beside) = rest.beside(exchange) else { return };
    let fetch = Fetch {
        shared: shared.clone(),
        key: key.clone(),
        hash: key.hash(),
        found: Some(stored.clone()),
        why: Why { forward: Forward::Stale, asked: RequestControl::default() },
        patient: false,
    };
    let (rest, most) = (rest.clone(), shared.entry_most as u64);
    let work = async move {
        let _place = place;
        let request = beside.request_mut();
        // The whole of it, for everybody.
        request.method = Method::Get;
        for name in proto_cache::kept::CONDITIONS {
            request.headers.remove(name);
        }
        request.headers.remove("Range");
        request.headers.remove("Cache-Control");
        let (asked, _) = fetch.ask(&mut beside, &rest).await;
        fetch.settle(asked, Some(lead), &mut beside);
        let body = std::mem::take(&mut beside.space().response_body);
        body.discard(most).await;
    };
    base_runtime::spawn(async move {
        let _ = base_runtime::time::timeout(REFRESH_TIMEOUT, work).await;
    })
    .detach();
}

/// A place among the fetches beside requests.
struct Refreshing;

impl Refreshing {
    fn begin() -> Option<Refreshing> {
        let place = Refreshing;
        (REFRESHES.fetch_add(1, Relaxed) < REFRESHES_MOST).then_some(place)
    }
}

impl Drop for Refreshing {
    fn drop(&mut self) {
        REFRESHES.fetch_sub(1, Relaxed);
    }
}

fn end(lead: Option<Lead>, end: End, remember: bool) {
    if let Some(lead) = lead {
        lead.end(end, remember);
    }
}

fn give(exchange: &mut Exchange, stored: &Stored, now: Instant) {
    let (response, body) = cache::serve::fitting(stored, exchange.request(), now);
    exchange.respond(response, body);
}

/// The request as a GET, whose answer may be kept.
fn as_get(request: &Request) -> Request {
    Request { method: Method::Get, ..request.clone() }
}

/// Whether the answer to a HEAD speaks of what is kept: no validator and no length says otherwise.
fn is_same(kept: &Headers, length: usize, told: &Headers) -> bool {
    let agree = |name: &str| match (kept.value(name), told.value(name)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    let said = told.known(Known::ContentLength).and_then(|text| std::str::from_utf8(text).ok()?.parse::<usize>().ok());
    agree("ETag") && agree("Last-Modified") && said.is_none_or(|said| said == length)
}
