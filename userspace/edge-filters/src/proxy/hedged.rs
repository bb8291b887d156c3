//! A Proxy that asks a second server where the first takes long (`hedging`): the tail of answers that are slow by chance is cut off.
//!
//! Whoever answers first is listened to, unless it is with a failure while the other may yet do better. The other is given up: its
//! connection of HTTP/1.1 is closed, its stream of HTTP/2 reset.

use super::members::Set;
use super::spans;
use super::{Pool, Proxy, Stand, another};
use base_model::{GoDuration, HedgingSpec, RetryBudgetSpec};
use base_telemetry::proxy::UpstreamError;
use base_telemetry::{Limit, LimitHits};
use edge_pipeline::{Body, Client, Exchange};
use edge_upstream::balance::Choice;
use edge_upstream::budget::RetryBudget;
use edge_upstream::{Answer, Attempt, AttemptError};
use proto_http::Request;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Requests of the last so many seconds are those of which a share is sent twice.
const WINDOW_SECONDS: i64 = 10;

/// See the module doc.
pub struct Hedging {
    delay: Duration,
    pub(super) budget: RetryBudget,
    /// Requests for which no second server was asked because that many had been.
    spent: Limit,
}

/// What a second server would be asked.
struct Hedge<'a> {
    hedging: &'a Hedging,
    request: Request,
    client: Client,
    body: Body,
    written: &'a spans::Second,
}

impl Hedging {
    /// `before`: of the generation before, whose counts go on.
    pub fn new(spec: &HedgingSpec, workers: usize, limits: &LimitHits, before: Option<&Hedging>) -> Hedging {
        let window = GoDuration::from_secs(WINDOW_SECONDS);
        let budget = RetryBudgetSpec { percent: spec.percent, min_per_second: 1, window };
        Hedging {
            delay: spec.delay.into(),
            budget: RetryBudget::after(&budget, workers, Instant::now(), before.map(|before| &before.budget)),
            spent: limits.register("hedges"),
        }
    }
}

impl Proxy {
    /// As [`Proxy::reach`], with a second server where the first takes long.
    pub(super) async fn reach_hedged(
        &self,
        pool: &Pool,
        set: &Set,
        hedging: &Hedging,
        first: Choice,
        stand: &Stand<'_>,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let space = exchange.space_ref();
        let may_be_doubled = space.request.method.is_idempotent() && !exchange.upgrade_offered;
        let spare = space.request_body.again().filter(|body| may_be_doubled && !body.is_stream());
        // Another server does not know the session: it may answer soon, and as to a stranger.
        let is_led = set.balancer.is_led(&space.request, first.index);
        let Some(body) = spare.filter(|_| set.balancer.servers().len() > 1 && !is_led) else {
            return self.reach(pool, set, first, stand, exchange).await;
        };
        let (mut request, client) = (space.request.clone(), exchange.client.clone());
        let written = spans::Second::prepare(exchange, &mut request);
        let hedge = Hedge { hedging, request, client, body, written: &written };
        let result = self.race(pool, set, hedge, first, stand, exchange).await;
        written.write(pool, set.balancer.servers(), exchange);
        result
    }

    /// Asks the first, and where it takes long the second.
    async fn race(
        &self,
        pool: &Pool,
        set: &Set,
        hedge: Hedge<'_>,
        first: Choice,
        stand: &Stand<'_>,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let Hedge { hedging, request, client, mut body, written } = hedge;
        let (worker, began) = (base_runtime::worker_index(), base_runtime::now());
        let Set { of_pool, of_servers, .. } = set;
        let second = Stand {
            choice: Cell::new(first),
            place: Cell::new(None),
            pass: stand.pass,
            attended: RefCell::new(None),
            connecting: Cell::new(false),
            repeated: Cell::new(false),
            away: Cell::new(false),
            since: Cell::new(began),
        };
        let won = {
            let mut primary = pin!(self.reach(pool, set, first, stand, exchange));
            if let Ok(done) = base_runtime::time::timeout(hedging.delay, primary.as_mut()).await {
                return done;
            }
            if !hedging.budget.take(base_runtime::now()) {
                hedging.spent.hit(worker);
                return primary.await;
            }
            if !pool.may_send_again() {
                return primary.await;
            }
            let Some(choice) = another(set, first, &mut vec![stand.choice.get().index], &second) else {
                return primary.await;
            };
            if !pool.may_have_more(choice.index) {
                second.place.set(None);
                return primary.await;
            }
            second.choice.set(choice);
            second.attended.replace(second.begin(choice.index));
            of_pool.hedged();
            let (server, recorder) = (&set.balancer.servers()[choice.index], &of_servers[choice.index]);
            let introduction = server.introduction(&client);
            let attempt = Attempt {
                server,
                request: &request,
                host: pool.host_for(server, &request),
                introduction: &introduction,
                upgrade: false,
                max_idle: self.max_idle,
                connect_timeout: pool.connect_timeout,
                connecting: &second.connecting,
                repeated: &second.repeated,
                keep_body: false,
                interim: None,
                recorder,
                limits: &self.limits,
                counters: &pool.counters,
            };
            written.asks(choice.index);
            let mut hedge = pin!(attempt.run(&mut body));
            // What each has said, once it has.
            let (mut said, mut said_second) = (None, None);
            let won = poll_fn(|cx| {
                if said.is_none()
                    && let Poll::Ready(result) = primary.as_mut().poll(cx)
                {
                    said = Some(result);
                }
                if said_second.is_none()
                    && let Poll::Ready(result) = hedge.as_mut().poll(cx)
                {
                    if let Err(error) = &result {
                        pool.failed(set, choice, error);
                    }
                    written.hears(result.as_ref().ok().map(|answer| self.verdict(&answer.response)));
                    said_second = Some(result);
                }
                let good = |said: &Option<Result<Answer, AttemptError>>| {
                    said.as_ref()
                        .is_some_and(|said| said.as_ref().is_ok_and(|a| !pool.is_failure(self.verdict(&a.response))))
                };
                match (good(&said), good(&said_second)) {
                    (true, _) => Poll::Ready(None),
                    (false, true) => Poll::Ready(said_second.take()),
                    // Both have failed: what the first says stands, if it says anything.
                    _ => match (&said, &said_second) {
                        (Some(Err(_)), Some(Ok(_))) => Poll::Ready(said_second.take()),
                        (Some(_), Some(_)) => Poll::Ready(None),
                        _ => Poll::Pending,
                    },
                }
            })
            .await;
            let Some(won) = won else {
                if said_second.is_none() {
                    recorder.error(UpstreamError::Canceled);
                }
                return match said {
                    Some(said) => said,
                    None => primary.await,
                };
            };
            let loser = stand.choice.get().index;
            if said.is_none() {
                of_servers[loser].error(UpstreamError::Canceled);
                set.balancer.took(loser, base_runtime::now().saturating_duration_since(began), false);
            }
            won
        };
        // It is as though it had been asked from the beginning.
        of_pool.hedge_won();
        stand.choice.set(second.choice.get());
        stand.place.set(second.place.take());
        stand.attended.replace(second.attended.take());
        won
    }
}
