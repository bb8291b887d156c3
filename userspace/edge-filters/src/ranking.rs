//! Which requests go first where not all can be served: what the filter AdaptiveConcurrency and pools with `adaptiveConcurrency` share.

use crate::proxy::is_event_stream;
use base_model::{AdaptiveConcurrencySpec, Matcher, Priority, PriorityRule, UrlMatcher};
use edge_pipeline::{Client, Exchange, Outcome, overload};
use edge_upstream::adaptive::rank::TURN;
use edge_upstream::adaptive::{Bounds, Passages, Rank, Reason, Who};
use edge_upstream::matcher::matches_header;
use edge_upstream::random;
use proto_http::headers::Known;
use proto_http::{Request, Response};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The result of a station that refuses what is too much.
pub(crate) const OVERLOADED: Outcome = "overloaded";

/// Which requests matter how much, and whose they are: ready `priorities` with their `consumerHeader`.
pub struct PriorityRules {
    rules: Vec<Rule>,
    consumer_header: String,
}

struct Rule {
    priority: Priority,
    headers: Vec<(String, Matcher)>,
    urls: Vec<UrlMatcher>,
    consumers: Vec<String>,
}

impl Rule {
    fn fits(&self, request: &Request, consumer: &str) -> bool {
        (self.consumers.is_empty() || self.consumers.iter().any(|known| known == consumer))
            && self.headers.iter().all(|(name, matcher)| matches_header(request, name, matcher))
            && (self.urls.is_empty()
                || self.urls.iter().any(|url| url.matches(request.method.as_str(), request.path.as_str())))
    }
}

impl PriorityRules {
    pub fn new(rules: &[PriorityRule], consumer_header: &str) -> Result<PriorityRules, String> {
        let rules = rules.iter().map(|rule| {
            let headers = rule.headers.iter().map(|(name, matcher)| Ok((name.clone(), matcher.compile()?)));
            Ok(Rule {
                priority: rule.priority,
                headers: headers.collect::<Result<_, String>>()?,
                urls: rule.urls.iter().map(|url| url.compile()).collect::<Result<_, String>>()?,
                consumers: rule.consumers.clone(),
            })
        });
        let rules = rules.collect::<Result<_, String>>()?;
        Ok(PriorityRules { rules, consumer_header: consumer_header.to_owned() })
    }

    /// The rank of a request, and a hash of whose it is.
    pub fn rank(&self, request: &Request, client: &Client) -> (Rank, u64) {
        let consumer = match self.consumer_header.as_str() {
            "" => "",
            name => request.headers.text(name).unwrap_or_default(),
        };
        let client = match consumer {
            "" => hash_of(&client.site()),
            consumer => hash_of(consumer),
        };
        let rule = self.rules.iter().find(|rule| rule.fits(request, consumer));
        (Rank::new(rule.map_or(Priority::Normal, |rule| rule.priority), client, turn()), client)
    }
}

/// A ready `adaptiveConcurrency`.
pub(crate) struct Ranking {
    rules: PriorityRules,
    trusts: bool,
    /// Least seconds of Retry-After.
    retry_after: u64,
    pub passages: Arc<Passages>,
}

impl Ranking {
    /// `name` is unique on this machine. What was found out before a change of the document holds on where it says the same.
    pub fn new(
        spec: &AdaptiveConcurrencySpec,
        name: &str,
        servers: Vec<String>,
        workers: usize,
        previous: Option<&Ranking>,
    ) -> Result<Ranking, String> {
        let bounds = Bounds {
            least: spec.min_limit,
            first: spec.first(),
            most: spec.max_limit,
            queue: spec.max_queue as usize,
            target: spec.target_delay.duration(),
        };
        let wait_most = spec.max_wait.duration();
        let rules = PriorityRules::new(&spec.priorities, &spec.consumer_header)?;
        let known = previous.map(|ranking| &ranking.passages);
        let passages = match known.filter(|known| known.is_like(&bounds, wait_most, &servers)) {
            Some(known) => known.clone(),
            None => Passages::new(name, bounds, wait_most, servers, workers),
        };
        Ok(Ranking {
            rules,
            trusts: spec.trust_priority,
            retry_after: spec.retry_after.duration().as_secs_f64().ceil() as u64,
            passages,
        })
    }

    /// Whose request it is and how much it matters. From here on the request says so itself; whether its sender is told in turn, see
    /// [`tell`](Ranking::tell).
    pub fn rank(&self, exchange: &mut Exchange) -> (Who, bool) {
        let request = exchange.request();
        let (rank, client) = self.rules.rank(request, &exchange.client);
        let said = if self.trusts { request.headers.value(overload::PRIORITY).and_then(Rank::parse) } else { None };
        let rank = said.unwrap_or(rank);
        let route = exchange.route;
        exchange.request_mut().headers.set(overload::PRIORITY, rank.number().to_string());
        (Who { rank, route, client }, said.is_some())
    }

    /// Says in an answer which ranks are let in, to a sender that asks by saying its own.
    pub fn tell(&self, response: &mut Response, asks: bool) {
        response.headers.remove(overload::THRESHOLD);
        if asks {
            response.headers.set(overload::THRESHOLD, self.passages.cut().to_string());
        }
    }

    /// Takes note of what a server says of its own threshold.
    pub fn hear(&self, response: &Response) {
        if let Some(cut) = response.headers.value(overload::THRESHOLD).and_then(Rank::parse) {
            self.passages.told(cut);
        }
    }

    /// Refuses the request; gives the station's result.
    pub fn refuse(&self, exchange: &mut Exchange, reason: Reason, asks: bool) -> Outcome {
        exchange.tags.note_own(|| format!("adaptiveConcurrency: refused: {}", reason.name()));
        match reason {
            Reason::Deadline => overload::refuse_late(exchange),
            reason => {
                let spread = random::below(2 * self.retry_after + 1);
                overload::refuse(exchange, reason.name(), self.retry_after + spread);
            }
        }
        if let Some(response) = exchange.response_mut() {
            self.tell(response, asks);
        }
        OVERLOADED
    }

    /// Notes how long a request waited that had to.
    pub fn note_wait(exchange: &mut Exchange, waited: Duration) {
        if !waited.is_zero() {
            exchange.tags.note_own(|| format!("adaptiveConcurrency: waited {}", base_text::duration(waited)));
        }
    }
}

/// Whether an answer says that this is too much: 503, or RESOURCE_EXHAUSTED and UNAVAILABLE of gRPC.
pub(crate) fn pushes_back(response: &Response) -> bool {
    match edge_pipeline::grpc::status_of(&response.headers) {
        Some(code) => matches!(code.0, 8 | 14),
        None => response.status == 503,
    }
}

/// Whether what an answer took says how much its server has to do: one that fails at once has done nothing.
pub(crate) fn is_telling(response: &Response) -> bool {
    response.status < 500 || pushes_back(response)
}

/// Whether an answer goes on for as long as its client likes, or has nothing more to wait for once it begins: how long the rest of it
/// takes says nothing of what there is to do, and a place that it held would be kept from those who wait. A call of gRPC is one of
/// these: where it has one answer, that is there when its head is, and where it has many nobody knows when the last one comes.
pub(crate) fn lasts(response: &Response) -> bool {
    response.status == 101
        || response.headers.known(Known::ContentType).is_some_and(is_event_stream)
        || edge_pipeline::grpc::is_grpc(&response.headers)
}

/// Alike on every machine.
fn hash_of(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn turn() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / TURN.as_secs()
}
