//! A document of somebody else's that lives at a URL and changes now and then: keys of an issuer, what a provider says of itself.
//!
//! It is fetched with the first request that needs it and again in the background once it is older than the refresh time, over the
//! connections of the worker that noticed. While the URL does not answer what was known last is used, for a day at most, and the pauses
//! between tries grow from a second to a minute; to a few seconds where nothing is known that could be used. Whoever misses something in it
//! may have it fetched once more, a second after the last time; each time that brought nothing new doubles the pause, up to a few seconds:
//! who invents names makes nobody ask without end, and does not keep what is really new from the others for long.

use base_telemetry::Limit;
use bytes::Bytes;
use edge_pipeline::Body;
use edge_upstream::Caller;
use proto_http::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long it is used while it cannot be fetched again.
const USED_MOST: Duration = Duration::from_secs(24 * 3600);

/// Pause after a fetch that failed, or brought nothing new to those who missed something; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// The same while somebody is refused for want of it.
const PAUSE_WANTED: Duration = Duration::from_secs(5);

/// How it is read.
type Read<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

/// See the module doc. Shared by all workers.
pub(crate) struct Remote<T> {
    /// What it is, for messages.
    name: &'static str,
    caller: Caller,
    read: Read<T>,
    state: Mutex<State<T>>,
    failed: Limit,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// What it was read from.
    text: Bytes,
    schedule: Schedule,
    waiting: Vec<oneshot::Sender<()>>,
    error: Option<String>,
}

/// When it is fetched.
#[derive(Debug)]
struct Schedule {
    refresh: Duration,
    loaded: Option<Instant>,
    tried: Option<Instant>,
    failures: u32,
    /// Fetches for the sake of something missing that brought nothing new.
    fruitless: u32,
    fetching: bool,
    for_missing: bool,
}

/// What came of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Nothing,
    Same,
    New,
}

/// What is done before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Use,
    /// It is used, and fetched beside that.
    UseAndFetch,
    /// It is fetched first.
    Fetch,
    /// Somebody fetches it.
    Wait,
    /// There is none, and it is too early to ask again.
    None,
}

impl Schedule {
    /// `missed`: something is not in it.
    fn plan(&self, now: Instant, missed: bool) -> Plan {
        let since = |then: Instant| now.saturating_duration_since(then);
        let usable = self.usable(now);
        let doublings = if self.failures > 0 { self.failures - 1 } else { self.fruitless };
        let most = if usable && !missed { PAUSE_MOST } else { PAUSE_WANTED };
        let pause = most.min(PAUSE_FIRST.saturating_mul(1 << doublings.min(6)));
        let may_ask = self.tried.is_none_or(|then| since(then) >= pause);
        let old = self.loaded.is_none_or(|then| since(then) >= self.refresh);
        match (usable && !missed, self.fetching) {
            (true, true) => Plan::Use,
            (true, false) if old && may_ask => Plan::UseAndFetch,
            (true, false) => Plan::Use,
            (false, true) => Plan::Wait,
            (false, false) if may_ask => Plan::Fetch,
            (false, false) => Plan::None,
        }
    }

    /// Whether there is one, and not that of another age.
    fn usable(&self, now: Instant) -> bool {
        self.loaded.is_some_and(|then| now.saturating_duration_since(then) < USED_MOST)
    }

    fn begin(&mut self, now: Instant, missed: bool) {
        (self.fetching, self.tried, self.for_missing) = (true, Some(now), missed);
    }

    fn end(&mut self, now: Instant, fetched: Fetched) {
        self.fetching = false;
        if fetched == Fetched::Nothing {
            self.failures = self.failures.saturating_add(1);
            return;
        }
        (self.loaded, self.failures) = (Some(now), 0);
        match fetched {
            Fetched::New => self.fruitless = 0,
            _ if self.for_missing => self.fruitless = self.fruitless.saturating_add(1),
            _ => {}
        }
    }
}

impl<T: Send + Sync + 'static> Remote<T> {
    /// `failed` counts fetches that brought nothing.
    pub(crate) fn new(
        name: &'static str,
        caller: Caller,
        refresh: Duration,
        failed: Limit,
        read: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Arc<Remote<T>> {
        let schedule = Schedule {
            refresh,
            loaded: None,
            tried: None,
            failures: 0,
            fruitless: 0,
            fetching: false,
            for_missing: false,
        };
        let state = State { value: None, text: Bytes::new(), schedule, waiting: Vec::new(), error: None };
        Arc::new(Remote { name, caller, read: Box::new(read), state: Mutex::new(state), failed })
    }

    /// What is known, fetched first where nothing is, or where something was `missed` in it and may have come since.
    pub(crate) async fn value(self: &Arc<Self>, missed: bool) -> Option<Arc<T>> {
        let waiting = {
            let mut state = self.state();
            match state.schedule.plan(base_runtime::now(), missed) {
                Plan::Use => return state.value.clone(),
                Plan::UseAndFetch => {
                    self.fetch(&mut state, missed);
                    return state.value.clone();
                }
                Plan::None => return None,
                plan => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.push(sender);
                    if plan == Plan::Fetch {
                        self.fetch(&mut state, missed);
                    }
                    receiver
                }
            }
        };
        waiting.await.ok()?;
        let state = self.state();
        state.value.clone().filter(|_| state.schedule.usable(base_runtime::now()))
    }

    /// Whether the last fetch brought nothing: what is missing may be there by now.
    pub(crate) fn is_failing(&self) -> bool {
        self.state().schedule.failures > 0
    }

    /// What is known without asking.
    pub(crate) fn known(&self) -> Option<Arc<T>> {
        self.state().value.clone()
    }

    fn fetch(self: &Arc<Self>, state: &mut State<T>, missed: bool) {
        state.schedule.begin(base_runtime::now(), missed);
        let mut fetching = Fetching { remote: self.clone(), done: false };
        base_runtime::spawn(async move {
            let fetched = fetching.remote.ask().await;
            // Before it is: from then on somebody else may be fetching.
            fetching.done = true;
            fetching.remote.loaded(fetched);
        })
        .detach();
    }

    async fn ask(&self) -> Result<(T, Bytes), String> {
        let mut request = self.caller.request(Method::Get);
        request.headers.add("Accept", "application/json, */*;q=0.1");
        let reply = self.caller.call(&request, Body::Empty).await.map_err(|error| error.to_string())?;
        match reply.response.status {
            200 => (self.read)(&reply.body).map(|value| (value, reply.body)),
            status => Err(format!("the URL answers {status}")),
        }
    }

    fn loaded(&self, fetched: Result<(T, Bytes), String>) {
        let mut state = self.state();
        let outcome = match &fetched {
            Err(_) => Fetched::Nothing,
            Ok((_, text)) if *text == state.text => Fetched::Same,
            Ok(_) => Fetched::New,
        };
        state.schedule.end(base_runtime::now(), outcome);
        match fetched {
            Ok(_) if outcome == Fetched::Same => state.error = None,
            Ok((value, text)) => (state.value, state.text, state.error) = (Some(Arc::new(value)), text, None),
            Err(error) => {
                self.failed.hit(base_runtime::worker_index());
                if state.error.as_ref() != Some(&error) {
                    tracing::warn!(what = self.name, error, "cannot be fetched; what was known last is used");
                }
                state.error = Some(error);
            }
        }
        state.waiting.drain(..).for_each(|sender| {
            // Who has left needs nothing.
            let _ = sender.send(());
        });
    }

    pub(crate) fn status(&self) -> Value {
        let state = self.state();
        let age = state.schedule.loaded.map(|then| then.elapsed().as_secs());
        json!({"ageSeconds": age, "error": state.error, "url": self.caller.status()})
    }
}

impl<T> Remote<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch; ended early, with its worker for example, somebody else may fetch.
struct Fetching<T> {
    remote: Arc<Remote<T>>,
    done: bool,
}

impl<T> Drop for Fetching<T> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.remote.state();
            state.schedule.fetching = false;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_are_few_and_what_is_known_outlives_an_outage() {
        let refresh = Duration::from_secs(600);
        let mut schedule = Schedule {
            refresh,
            loaded: None,
            tried: None,
            failures: 0,
            fruitless: 0,
            fetching: false,
            for_missing: false,
        };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(schedule.plan(at(0), false), Plan::Fetch);
        schedule.begin(at(0), false);
        assert_eq!(schedule.plan(at(0), false), Plan::Wait);
        schedule.end(at(0), Fetched::Nothing);
        assert_eq!((schedule.plan(at(0), false), schedule.plan(at(1), false)), (Plan::None, Plan::Fetch));
        schedule.begin(at(1), false);
        schedule.end(at(1), Fetched::New);
        assert_eq!((schedule.plan(at(2), false), schedule.plan(at(600), false)), (Plan::Use, Plan::Use));
        assert_eq!(schedule.plan(at(601), false), Plan::UseAndFetch);
        // The issuer is down: tries become rare, what is known holds for a day.
        let (mut now, mut tries) = (601, 0);
        while now < 601 + 3600 {
            if schedule.plan(at(now), false) == Plan::UseAndFetch {
                tries += 1;
                schedule.begin(at(now), false);
                schedule.end(at(now), Fetched::Nothing);
            }
            now += 1;
        }
        assert!((60..=70).contains(&tries), "{tries} tries in an hour");
        assert_eq!(schedule.plan(at(1 + 24 * 3600), false), Plan::Fetch);
        // From then on everybody is refused: an issuer that is back is noticed soon.
        let back = 1 + 24 * 3600;
        schedule.begin(at(back), false);
        schedule.end(at(back), Fetched::Nothing);
        assert_eq!((schedule.plan(at(back + 4), false), schedule.plan(at(back + 5), false)), (Plan::None, Plan::Fetch));
    }

    #[test]
    fn what_is_missing_is_asked_for_soon_and_what_nobody_has_now_and_then() {
        let refresh = Duration::from_secs(600);
        let mut schedule = Schedule {
            refresh,
            loaded: None,
            tried: None,
            failures: 0,
            fruitless: 0,
            fetching: false,
            for_missing: false,
        };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        schedule.begin(at(0), false);
        schedule.end(at(0), Fetched::New);
        assert_eq!((schedule.plan(at(0), true), schedule.plan(at(1), true)), (Plan::None, Plan::Fetch));
        schedule.begin(at(1), true);
        assert_eq!((schedule.plan(at(1), true), schedule.plan(at(1), false)), (Plan::Wait, Plan::Use));
        schedule.end(at(1), Fetched::New);
        // Somebody invents names for an hour. What is really new is never further away than a few seconds.
        let (mut tries, mut last) = (0, 1);
        for now in 2..3602 {
            if schedule.plan(at(now), true) == Plan::Fetch {
                tries += 1;
                assert!(now - last <= PAUSE_WANTED.as_secs(), "{} seconds without a look", now - last);
                last = now;
                schedule.begin(at(now), true);
                schedule.end(at(now), Fetched::Same);
            }
        }
        assert!((700..=730).contains(&tries), "{tries} tries in an hour");
        // Once there is something new it is as before.
        schedule.end(at(3700), Fetched::New);
        assert_eq!(schedule.plan(at(3701), true), Plan::Fetch);
    }
}
