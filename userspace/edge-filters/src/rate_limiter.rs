//! Lets through so many requests per period, makes a few wait, and refuses the rest.
//!
//! Use it in front of a Proxy to keep a backend from more than it can do.
//!
//! ```yaml
//! name: limiter
//! kind: RateLimiter
//! policies:
//! - name: careful
//!   limitForPeriod: 50
//!   limitRefreshPeriod: 10ms
//!   timeoutDuration: 100ms
//! defaultPolicyRef: careful
//! urls:
//! - methods: [POST]
//!   url: {prefix: /orders/}
//! ```
//!
//! The first of `urls` that matches decides; each has a limiter of its own, shared by all workers of this machine.
//! Requests without a match pass. A limiter keeps its state when the document changes but not its rule and policy.
//!
//! A policy with a `key` counts each client, header value or claim by itself, and one with `scope: cluster` counts over all
//! machines: `limitForPeriod` requests in each `limitRefreshPeriod`, evenly, and `burst` at once; nobody waits. In the cluster each
//! key has an owner among the machines, of which the others lease tokens ten times a second. Together they pass what the
//! policy says and hardly more (5 % in steady state); while a machine hears nothing from the owner it goes on with its last share.
//! A key `from: address` needs no lease where clients come by a VirtualIP with `hash: sourceIP` or `sourcePrefix`, and every machine
//! steers: all requests of a source come to one machine, which counts them exactly, whoever else is there (IPv6: where no more bits choose
//! the machine than `ipv6PrefixLength` has).
//! Clients are told by `RateLimit-*` fields and `Retry-After` how they stand.
//!
//! With `maxConcurrent` of a policy each key has so many requests under way at a time, of this machine and until their answers are sent, or a tunnel that one became has
//! ended;
//! further ones are refused at once. With `limitForPeriod: 0` it is all that is counted.
//!
//! ```yaml
//! - name: per-user
//!   scope: cluster
//!   key: {from: header, name: Authorization}
//!   limitForPeriod: 100
//!   limitRefreshPeriod: 1s
//! ```
//!
//! A client that is refused again and again can be banned for a while with `ban` of a policy of one machine whose `key` is `from: address`:
//! this machine then takes no connections from it at any listener, and where the kernel steers (`--interface`), no packets to any VirtualIP;
//! without, connections that it has go on as before. Banned is the peer of the connection, of IPv6 its /64, with all who share it; never a
//! trusted proxy, whoever it speaks for, nor who comes by a server with `proxyProtocol`, nor this machine and the addresses at which others of
//! the cluster steer. Each machine bans for itself, until the time is over, somebody lifts it (`weirctl bans`), the policy is another or gone,
//! or, without a kernel plane, the process ends. Who may write such a policy decides for all listeners of the machine; pipelines of namespaces may not have one.
//!
//! ```yaml
//! - name: logins
//!   key: {from: address}
//!   limitForPeriod: 5
//!   limitRefreshPeriod: 1m
//!   ban: {refusals: 20, within: 1m, duration: 10m}
//! ```
//!
//! Outcomes: `rateLimited`, with status 429 and `X-EG-Rate-Limiter: too-many-requests`; `{{Refused}}` of the access log is
//! `rate_limited`. Fits HTTPServer. Costs a
//! comparison per rule and one exchange of a number that workers share; by key, a hash and a look into a table under one of
//! sixteen locks; waiting requests hold no thread.

mod ban;
mod by_key;
pub mod cycle;
mod under_way;

use crate::bans::{IPV6_BITS, Refusals, bans};
use crate::limits::{self, Limit};
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use ban::BanSpec;
use base_model::namespaces::{DEFAULT_NAMESPACE, is_in};
use base_model::problem::{at, nth, one_of};
use base_model::string_matcher::UrlMatcher;
use base_model::{Findings, GoDuration, Problem, UrlRule, repeats};
use by_key::{Alone, KeySource, KeySpec, Scope, Told};
use cycle::{Cycles, Permit, Policy};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use proto_admission::limits::{Leases, Rate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use under_way::{Place, UnderWay};

const RATE_LIMITED: Outcome = "rateLimited";
/// As the access log names it.
const REFUSED: &str = "rate_limited";

/// `kind: RateLimiter`: so many requests per period.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["policies", "urls"]))]
pub struct RateLimiterSpec {
    /// Policies that `urls` refer to by name.
    pub policies: Vec<PolicySpec>,
    /// Policy of the URLs that name none.
    pub default_policy_ref: String,
    /// Which requests are limited; the first that matches decides.
    #[schemars(length(min = 1), extend("x-late" = true))]
    pub urls: Vec<UrlRule>,
}

/// How many requests may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct PolicySpec {
    /// What `policyRef` calls it.
    pub name: String,
    /// Longest time a request waits for its turn. Default 100ms; 0s refuses at once.
    pub timeout_duration: GoDuration,
    /// Length of a period. Default 10ms.
    pub limit_refresh_period: GoDuration,
    /// Requests that pass per period, 1 or more. Default 50. 0 beside `maxConcurrent`: any number.
    pub limit_for_period: u32,
    /// Requests of one key, or without a `key` of all clients together, that are under way at a time on a machine, from when they come
    /// here until their answers are sent; further ones are refused at once. 0, the default: any number.
    #[serde(skip_serializing_if = "is_none")]
    pub max_concurrent: u32,
    /// Who counts together: `machine` (default), each machine by itself, or `cluster`, all of them.
    pub scope: Scope,
    /// Whose requests are counted together. Default: those of all clients. With it nobody waits: `timeoutDuration` does nothing.
    pub key: KeySpec,
    /// Requests that may come at once after a pause, with `key` or `scope: cluster`. Default 0: `limitForPeriod`. In the cluster, what
    /// comes in 200ms fits in any case.
    pub burst: u32,
    /// What a machine does with `scope: cluster` while it hears nothing from the owner of a key: `share` (default) goes on with its last
    /// share, `open` lets everything through, `closed` nothing.
    pub when_alone: Alone,
    /// Keys that a machine keeps for each rule, 16 to 10,000,000; about 150 bytes each. Beyond it, those used longest ago are forgotten,
    /// and counted. Default 100000.
    #[schemars(range(min = 16, max = 10_000_000))]
    pub keys_max: u32,
    /// Whether answers have the fields RateLimit-Policy, RateLimit, RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, with `key`
    /// or `scope: cluster`. Default true.
    pub fields: bool,
    /// When a client is banned that is refused too often, with `key: {from: address}` and `scope: machine`: from all listeners and
    /// VirtualIPs of the machine. Pipelines of namespaces may not say it. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<BanSpec>,
}

impl Default for PolicySpec {
    fn default() -> PolicySpec {
        PolicySpec {
            name: String::new(),
            timeout_duration: GoDuration::from_millis(100),
            limit_refresh_period: GoDuration::from_millis(10),
            limit_for_period: 50,
            max_concurrent: 0,
            scope: Scope::Machine,
            key: KeySpec::default(),
            burst: 0,
            when_alone: Alone::Share,
            keys_max: 100_000,
            fields: true,
            ban: None,
        }
    }
}

fn is_none(bound: &u32) -> bool {
    *bound == 0
}

impl Spec for RateLimiterSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let policies = at(path, "policies");
        for (index, _) in repeats(self.policies.iter().map(|policy| &policy.name)) {
            let place = at(&nth(&policies, index), "name");
            let problem = Problem::new(place, "another policy has this name").text(&self.policies[index].name);
            findings.problem(problem);
        }
        for (index, policy) in self.policies.iter().enumerate() {
            let place = nth(&policies, index);
            if policy.limit_refresh_period.nanos() <= 0 {
                let problem = Problem::new(at(&place, "limitRefreshPeriod"), "a period must have a length");
                findings.problem(problem.advice("write 10ms or longer"));
            }
            if policy.limit_for_period == 0 && policy.max_concurrent == 0 {
                let problem = Problem::new(at(&place, "limitForPeriod"), "out of range").value(&0.into());
                findings.problem(problem.accepted("1 or more, or 0 beside maxConcurrent"));
            }
            policy.key.validate(&at(&place, "key"), findings);
            if policy.is_by_key() && policy.limit_refresh_period > GoDuration::from_secs(86_400) {
                let problem =
                    Problem::new(at(&place, "limitRefreshPeriod"), "longer than a day").advice("write 24h or less");
                findings.problem(problem);
            }
            if let Some(ban) = &policy.ban {
                let of_each = policy.key.from == KeySource::Address && policy.key.ipv6_prefix_length == IPV6_BITS;
                ban.validate(&at(&place, "ban"), of_each && policy.scope == Scope::Machine, findings);
            }
            if policy.timeout_duration.is_negative() {
                findings.problem(Problem::new(at(&place, "timeoutDuration"), "a time-out cannot be negative"));
            }
        }
        let names: Vec<&str> = self.policies.iter().map(|p| p.name.as_str()).collect();
        let unknown = |place: String, name: &str| {
            Problem::new(place, "no policy of that name in policies").text(name).accepted(one_of(&names))
        };
        let default = &self.default_policy_ref;
        if !default.is_empty() && !names.contains(&default.as_str()) {
            findings.problem(unknown(at(path, "defaultPolicyRef"), default));
        }
        for (index, url) in self.urls.iter().enumerate() {
            let place = nth(&at(path, "urls"), index);
            url.validate(&place, findings);
            if url.policy_ref.is_empty() && default.is_empty() {
                let problem = Problem::new(&place, "names no policy, and there is no default one");
                findings.problem(problem.advice("give policyRef, or defaultPolicyRef for all"));
            } else if !url.policy_ref.is_empty() && !names.contains(&url.policy_ref.as_str()) {
                findings.problem(unknown(at(&place, "policyRef"), &url.policy_ref));
            }
        }
    }
}

impl PolicySpec {
    fn is_by_key(&self) -> bool {
        self.scope == Scope::Cluster || self.key.from != KeySource::None || self.max_concurrent > 0
    }
}

/// A ready RateLimiter.
pub struct RateLimiter {
    urls: Vec<(UrlMatcher, Counted)>,
}

/// How a URL rule counts.
enum Counted {
    Together(Arc<Limiter>),
    ByKey(Box<ByKey>),
}

struct ByKey {
    /// None: how many come is not counted.
    limit: Option<Arc<Limit>>,
    under_way: Option<Arc<UnderWay>>,
    refusals: Option<Arc<Refusals>>,
    /// To find it again in the next generation.
    rule: UrlRule,
    policy: PolicySpec,
    told: Arc<Told>,
}

/// The state of one URL rule; survives from one generation to the next.
struct Limiter {
    rule: UrlRule,
    policy: Policy,
    began: Instant,
    cycles: Cycles,
}

pub const KIND: FilterKind = FilterKind {
    kind: "RateLimiter",
    results: &[RATE_LIMITED],
    doc: module_doc!("rate_limiter.rs"),
    schema: spec::schema::<RateLimiterSpec>,
    check: spec::check::<RateLimiterSpec>,
    build: |fields, parts| spec::build(fields, |spec| RateLimiter::new(spec, parts)),
};

impl RateLimiter {
    fn new(spec: RateLimiterSpec, parts: &Parts<'_>) -> Result<RateLimiter, BuildError> {
        let previous = parts.previous.and_then(|p| p.downcast::<RateLimiter>());
        let before = || previous.iter().flat_map(|previous| previous.urls.iter().map(|(_, counted)| counted));
        let mut inherited: Vec<Arc<Limiter>> = before().filter_map(Counted::together).cloned().collect();
        let mut urls = Vec::new();
        for (index, mut rule) in spec.urls.into_iter().enumerate() {
            let matcher = rule.compile().map_err(|why| unexpected("urls", why))?;
            let name = match rule.policy_ref.as_str() {
                "" => &spec.default_policy_ref,
                name => name,
            };
            let policy =
                spec.policies.iter().find(|p| p.name == *name).ok_or_else(|| unexpected("urls", "no policy"))?;
            // Who may write in a namespace alone shuts nobody out of all the others.
            if policy.ban.is_some() && !is_in(parts.pipeline.text(), DEFAULT_NAMESPACE) {
                let why = "has a ban, which holds for all of the machine: pipelines of namespaces may not say it";
                return Err(unexpected("policies", format!("{} {why}", policy.name)));
            }
            if policy.is_by_key() {
                let known =
                    before().filter_map(Counted::by_key).find(|known| known.rule == rule && known.policy == *policy);
                let by_key = ByKey::new(index, rule, policy, known, parts);
                urls.push((matcher, Counted::ByKey(Box::new(by_key))));
                continue;
            }
            let policy = Policy {
                refresh: policy.limit_refresh_period.duration(),
                limit: u64::from(policy.limit_for_period),
                timeout: policy.timeout_duration.duration(),
            };
            // What a policy is called does not matter, only what it says.
            rule.policy_ref.clear();
            let old = inherited.iter().position(|l| l.rule == rule && l.policy == policy);
            let limiter = match old {
                Some(index) => inherited.swap_remove(index),
                None => Arc::new(Limiter { rule, policy, began: Instant::now(), cycles: Cycles::default() }),
            };
            urls.push((matcher, Counted::Together(limiter)));
        }
        Ok(RateLimiter { urls })
    }
}

impl Filter for RateLimiter {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let request = exchange.request();
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let Some((_, counted)) = self.urls.iter().find(|(matcher, _)| matcher.matches(method, path)) else {
            return Step::Done(SUCCESS);
        };
        let limiter = match counted {
            Counted::Together(limiter) => limiter,
            Counted::ByKey(by_key) => return Step::Done(by_key.handle(exchange)),
        };
        match limiter.acquire(base_runtime::now()) {
            Permit::Now => Step::Done(SUCCESS),
            Permit::Refused => {
                exchange.tags.note_own(|| "rateLimiter: too many requests");
                exchange.refused = Some(REFUSED);
                exchange.refuse(429).headers.set("X-EG-Rate-Limiter", "too-many-requests");
                Step::Done(RATE_LIMITED)
            }
            Permit::After(wait) => Step::wait(async move {
                base_runtime::time::sleep(wait).await;
                exchange.tags.note_own(|| format!("rateLimiter: waited {}", base_text::duration(wait)));
                if exchange.client_gone { RATE_LIMITED } else { SUCCESS }
            }),
        }
    }
}

impl Counted {
    fn together(&self) -> Option<&Arc<Limiter>> {
        match self {
            Counted::Together(limiter) => Some(limiter),
            Counted::ByKey(_) => None,
        }
    }

    fn by_key(&self) -> Option<&ByKey> {
        match self {
            Counted::Together(_) => None,
            Counted::ByKey(by_key) => Some(by_key),
        }
    }
}

impl ByKey {
    fn new(index: usize, rule: UrlRule, policy: &PolicySpec, known: Option<&ByKey>, parts: &Parts<'_>) -> ByKey {
        let period_ns = policy.limit_refresh_period.duration().as_nanos() as u64;
        let interval_ns = period_ns / u64::from(policy.limit_for_period.max(1));
        let burst = if policy.burst == 0 { policy.limit_for_period } else { policy.burst };
        let window_s = period_ns.div_ceil(1_000_000_000).max(1);
        let told = Told::new(
            &policy.name,
            u64::from(policy.limit_for_period),
            window_s,
            policy.fields && policy.limit_for_period > 0,
            parts.telemetry.workers(),
        );
        let under_way = match known {
            Some(known) => known.under_way.clone(),
            None => (policy.max_concurrent > 0).then(|| Arc::new(UnderWay::new(policy.max_concurrent))),
        };
        let refusals = match known {
            Some(known) => known.refusals.clone(),
            None => policy.ban.as_ref().map(|ban| {
                let by = format!("{}/{} {}", parts.pipeline, parts.name, policy.name);
                Arc::new(Refusals::new(ban.rule(), by))
            }),
        };
        let limit = match known {
            Some(known) => known.limit.clone(),
            None if policy.limit_for_period == 0 => None,
            None => {
                let text = serde_json::to_string(&(&rule, policy)).unwrap_or_default();
                let limit = Arc::new(Limit {
                    pipeline: parts.pipeline.clone(),
                    filter: parts.name.to_owned(),
                    rule: index,
                    of: by_key::limit_of(parts.pipeline, parts.name, &text),
                    rate: Rate::new(interval_ns, burst),
                    shared: policy.scope == Scope::Cluster,
                    alone: policy.when_alone.ready(),
                    leases: Leases::new(policy.keys_max as usize),
                });
                limits::add(&limit);
                Some(limit)
            }
        };
        ByKey { limit, under_way, refusals, rule, policy: policy.clone(), told: Arc::new(told) }
    }

    fn handle(&self, exchange: &mut Exchange) -> Outcome {
        let key = self.policy.key.of(exchange);
        let place = match &self.under_way {
            None => None,
            Some(under_way) => match under_way.take(key) {
                Some(place) => Some(place),
                None => return self.refuse_one_more(exchange),
            },
        };
        let Some(limit) = &self.limit else { return ByKey::keep(place, exchange) };
        let decided = by_key::take(limit, key, &self.policy.key, exchange);
        if decided.passes {
            ByKey::keep(place, exchange);
            if self.told.is_wanted() {
                let told = self.told.clone();
                exchange.at_end(move |exchange| {
                    let Some(response) = exchange.default_space().response.as_mut() else { return };
                    told.passes(decided, &mut response.headers);
                });
            }
            return SUCCESS;
        }
        let told = &self.told;
        exchange.tags.note_own(|| told.note.own().clone());
        self.note_refusal(exchange);
        exchange.refused = Some(REFUSED);
        told.refuses(decided, &mut exchange.refuse(429).headers);
        RATE_LIMITED
    }

    /// The request passes, and has its place until its answer is sent.
    fn keep(place: Option<Place>, exchange: &mut Exchange) -> Outcome {
        if let Some(place) = place {
            exchange.hold(Box::new(place));
        }
        SUCCESS
    }

    fn note_refusal(&self, exchange: &mut Exchange) {
        if let Some(refusals) = &self.refusals
            && refusals.count(&exchange.client, bans())
        {
            exchange.tags.note_own(|| "rateLimiter: the client is banned for a while");
        }
    }

    /// As many as may be are under way.
    fn refuse_one_more(&self, exchange: &mut Exchange) -> Outcome {
        let (most, name) = (self.policy.max_concurrent, &self.policy.name);
        exchange.tags.note_own(|| format!("rateLimiter: {most} of {name} are under way"));
        exchange.refused = Some(REFUSED);
        self.note_refusal(exchange);
        self.told.refuses_one_more(&mut exchange.refuse(429).headers);
        RATE_LIMITED
    }
}

impl Limiter {
    fn acquire(&self, now: Instant) -> Permit {
        self.cycles.acquire(&self.policy, now.saturating_duration_since(self.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const SPEC: &str = r#"
policies:
- {name: strict, limitForPeriod: 1, limitRefreshPeriod: 60s, timeoutDuration: 10ms}
- {name: wide, limitForPeriod: 100, limitRefreshPeriod: 60s}
defaultPolicyRef: strict
urls:
- {methods: [POST], url: {prefix: /pay}}
- {url: {exact: /two}, policyRef: wide}
- {url: {prefix: /two}}
"#;

    #[test]
    fn the_first_rule_decides() {
        let limiter = filter(&KIND, SPEC);
        for (method, path, outcome) in [
            ("GET", "/pay/1", SUCCESS),
            ("GET", "/pay/1", SUCCESS),
            ("POST", "/pay/1", SUCCESS),
            ("POST", "/pay/2", RATE_LIMITED),
            ("GET", "/two", SUCCESS),
            ("GET", "/two", SUCCESS),
            ("GET", "/two/x", SUCCESS),
            ("GET", "/two/x", RATE_LIMITED),
        ] {
            check(&*limiter, method, path, outcome);
        }
    }

    #[test]
    fn each_key_is_counted_by_itself() {
        let policy = |key: &str| {
            format!(
                "{{policies: [{{name: p, key: {key}, limitForPeriod: 2, limitRefreshPeriod: 60s}}], defaultPolicyRef: p, \
                 urls: [{{url: {{prefix: /}}}}]}}"
            )
        };
        let token = |claims: &str| {
            use base64::Engine;
            let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
            format!("Bearer {}.{}.x", part("{}"), part(claims))
        };
        let (ann, ben) = (token(r#"{"sub":"ann"}"#), token(r#"{"sub":"ben"}"#));
        for (key, one, other) in [
            ("{from: header, name: X-User}", ("X-User", "ann"), ("X-User", "ben")),
            ("{from: claim, name: sub}", ("Authorization", ann.as_str()), ("Authorization", ben.as_str())),
        ] {
            let limiter = filter(&KIND, &policy(key));
            let ask = |headers: &[(&str, &str)]| {
                let mut exchange = request("GET", "/", headers);
                let outcome = run(&*limiter, &mut exchange);
                if outcome == SUCCESS {
                    answer(&mut exchange, 200, &[], b"");
                }
                exchange.end();
                (outcome, exchange)
            };
            let (outcome, exchange) = ask(&[one]);
            assert_eq!(outcome, SUCCESS, "{key}");
            assert_eq!(response_header(&exchange, "RateLimit-Policy"), Some("\"p\";q=2;w=60"));
            assert_eq!(response_header(&exchange, "RateLimit-Remaining"), Some("1"));
            assert_eq!(ask(&[one]).0, SUCCESS);
            let (outcome, exchange) = ask(&[one]);
            assert_eq!((outcome, status_of(&exchange), exchange.refused), (RATE_LIMITED, 429, Some("rate_limited")));
            let retry: u64 = response_header(&exchange, "Retry-After").unwrap().parse().unwrap();
            assert!((1..=30).contains(&retry), "{retry}");
            assert_eq!(response_header(&exchange, "RateLimit").map(|value| &value[..8]), Some("\"p\";r=0;"));
            assert_eq!(ask(&[other]).0, SUCCESS, "somebody else");
            // All without a key are one.
            assert_eq!([ask(&[]).0, ask(&[]).0, ask(&[]).0], [SUCCESS, SUCCESS, RATE_LIMITED]);
            // The table survives a change of other things.
            let next = filter_after(&KIND, &policy(key), Some(&*limiter));
            assert_eq!(run(&*next, &mut request("GET", "/", &[one])), RATE_LIMITED);
        }
    }

    #[test]
    fn a_client_has_so_many_requests_under_way() {
        let policy = |more: &str| {
            let policy = format!("{{name: p, key: {{from: address}}, maxConcurrent: 2, {more}}}");
            format!("{{policies: [{policy}], defaultPolicyRef: p, urls: [{{url: {{prefix: /}}}}]}}")
        };
        let text = policy("limitForPeriod: 0");
        let limiter = filter(&KIND, &text);
        let begin = |limiter: &dyn Filter, address: &str| {
            let mut exchange = request("GET", "/", &[]);
            exchange.client.real_ip = Some(address.parse().unwrap());
            (run(limiter, &mut exchange), exchange)
        };
        let [first, _second] = [0, 1].map(|_| {
            let (outcome, exchange) = begin(&*limiter, "192.0.2.1");
            assert_eq!(outcome, SUCCESS);
            exchange
        });
        let (outcome, refused) = begin(&*limiter, "192.0.2.1");
        assert_eq!((outcome, status_of(&refused), refused.refused), (RATE_LIMITED, 429, Some("rate_limited")));
        assert_eq!(response_header(&refused, "Retry-After"), Some("1"));
        assert_eq!(response_header(&refused, "RateLimit-Policy"), None, "there is no rate");
        assert_eq!(begin(&*limiter, "192.0.2.2").0, SUCCESS, "somebody else");
        // What is under way is counted on in the next generation.
        let next = filter_after(&KIND, &text, Some(&*limiter));
        assert_eq!(begin(&*next, "192.0.2.1").0, RATE_LIMITED);
        drop(first);
        assert_eq!([0, 1].map(|_| begin(&*next, "192.0.2.1").0), [SUCCESS, SUCCESS], "one after the other");
        // One that comes too often has taken no place.
        let both = filter(&KIND, &policy("limitForPeriod: 1, limitRefreshPeriod: 60s, burst: 1"));
        let (outcome, first) = begin(&*both, "192.0.2.1");
        assert_eq!(outcome, SUCCESS);
        for _ in 0..3 {
            let (outcome, exchange) = begin(&*both, "192.0.2.1");
            assert_eq!(outcome, RATE_LIMITED);
            assert!(response_header(&exchange, "RateLimit").is_some(), "it is the rate that refuses");
        }
        drop(first);
    }

    #[test]
    fn a_client_that_is_refused_again_and_again_is_banned() {
        let policy = |more: &str| {
            let policy = format!("{{name: p, limitForPeriod: 1, limitRefreshPeriod: 60s, {more}}}");
            format!("{{policies: [{policy}], defaultPolicyRef: p, urls: [{{url: {{prefix: /}}}}]}}")
        };
        let text = policy("key: {from: address}, ban: {refusals: 3, within: 1h, duration: 1h}");
        let limiter = filter(&KIND, &text);
        let begin = |limiter: &dyn Filter, peer: &str, real: &str| {
            let mut exchange = request("GET", "/", &[]);
            exchange.client.peer = std::net::SocketAddr::new(peer.parse().unwrap(), 40_000);
            exchange.client.real_ip = Some(real.parse().unwrap());
            (run(limiter, &mut exchange), exchange)
        };
        let ask = |limiter: &dyn Filter, peer: &str, real: &str| begin(limiter, peer, real).0;
        // Of the network 192.0.2.0/24 no other test has these.
        let (peer, proxy) = ("192.0.2.151", "192.0.2.152");
        let banned = |address: &str| bans().keep_out(address.parse().unwrap());
        assert_eq!([(); 3].map(|()| ask(&*limiter, peer, peer)), [SUCCESS, RATE_LIMITED, RATE_LIMITED]);
        assert!(!banned(peer));
        // What was counted is counted on in the next generation.
        let next = filter_after(&KIND, &text, Some(&*limiter));
        assert_eq!((ask(&*next, peer, peer), banned(peer)), (RATE_LIMITED, true));
        assert_eq!(bans().list()[&peer.parse::<std::net::IpAddr>().unwrap()].by.split('/').count(), 2);
        bans().lift(peer.parse().unwrap());
        for _ in 0..10 {
            ask(&*next, proxy, "192.0.2.153");
        }
        assert!(!banned(proxy) && !banned("192.0.2.153"), "neither who speaks for others nor who is spoken for");
        // Places that are taken count as well.
        let crowded = filter(
            &KIND,
            &policy("key: {from: address}, maxConcurrent: 1, ban: {refusals: 1}")
                .replace("limitForPeriod: 1", "limitForPeriod: 0"),
        );
        let (outcome, under_way) = begin(&*crowded, peer, peer);
        assert_eq!(outcome, SUCCESS);
        assert_eq!((ask(&*crowded, peer, peer), banned(peer)), (RATE_LIMITED, true));
        // Who was banned for what nobody has any more is let in.
        drop((crowded, under_way));
        assert!(!banned(peer));

        for (key, may) in [("p", true), ("g:beforePipeline", true), ("team/p", false), ("team/g:beforePipeline", false)]
        {
            let pipeline = &edge_pipeline::PipelineName::of_object(key);
            let parts = Parts { name: "l", pipeline, previous: None, resilience: &[], telemetry: &telemetry() };
            assert_eq!((KIND.build)(&yaml(&text), &parts).is_ok(), may, "{key}");
        }
        for (wrong, at) in [
            ("ban: {}", "policies[0].ban"),
            ("key: {from: address}, scope: cluster, whenAlone: closed, ban: {}", "policies[0].ban"),
            ("key: {from: address, ipv6PrefixLength: 56}, ban: {}", "policies[0].ban"),
            ("key: {from: address, ipv6PrefixLength: 128}, ban: {}", "policies[0].ban"),
            ("key: {from: header, name: X-User}, ban: {}", "policies[0].ban"),
            ("key: {from: address}, ban: {refusals: 0}", "policies[0].ban.refusals"),
            ("key: {from: address}, ban: {within: 0s}", "policies[0].ban.within"),
            ("key: {from: address}, ban: {within: 25h}", "policies[0].ban.within"),
            ("key: {from: address}, ban: {duration: -1s}", "policies[0].ban.duration"),
            ("key: {from: address}, ban: {duration: 721h}", "policies[0].ban.duration"),
        ] {
            refuses(&KIND, &policy(wrong), &[at]);
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let limiter = filter(
            &KIND,
            "{policies: [{name: p, key: {from: address}, limitForPeriod: 2, limitRefreshPeriod: 60s}], defaultPolicyRef: p, \
             urls: [{url: {prefix: /}}]}",
        );
        for (address, outcome) in [
            ("2001:db8:1:2::1", SUCCESS),
            ("2001:db8:1:2:ffff::2", SUCCESS),
            ("2001:db8:1:2::3", RATE_LIMITED),
            ("2001:db8:1:3::1", SUCCESS),
            ("192.0.2.1", SUCCESS),
            ("::ffff:192.0.2.1", SUCCESS),
            ("192.0.2.1", RATE_LIMITED),
            ("192.0.2.2", SUCCESS),
        ] {
            let mut exchange = request("GET", "/", &[]);
            exchange.client.real_ip = Some(address.parse().unwrap());
            assert_eq!(run(&*limiter, &mut exchange), outcome, "{address}");
        }
    }

    #[test]
    fn whoever_has_a_network_of_ipv6_is_one_client() {
        for (key, other_host, other_network) in [
            ("{from: address}", RATE_LIMITED, SUCCESS),
            ("{from: address, ipv6PrefixLength: 48}", RATE_LIMITED, RATE_LIMITED),
            ("{from: address, ipv6PrefixLength: 128}", SUCCESS, SUCCESS),
        ] {
            let limiter = filter(
                &KIND,
                &format!(
                    "{{policies: [{{name: p, key: {key}, limitForPeriod: 1, limitRefreshPeriod: 60s}}], defaultPolicyRef: p, \
                     urls: [{{url: {{prefix: /}}}}]}}"
                ),
            );
            let ask = |address: &str| {
                let mut exchange = request("GET", "/", &[]);
                exchange.client.real_ip = Some(address.parse().unwrap());
                run(&*limiter, &mut exchange)
            };
            assert_eq!(ask("2001:db8:1:2::1"), SUCCESS);
            assert_eq!(ask("2001:db8:1:2:ffff::9"), other_host, "{key}");
            assert_eq!(ask("2001:db8:1:3::1"), other_network, "{key}");
            // Addresses of IPv4 are clients, however they are written.
            assert_eq!([ask("192.0.2.1"), ask("192.0.2.2")], [SUCCESS, SUCCESS], "{key}");
            assert_eq!(ask("::ffff:192.0.2.1"), RATE_LIMITED, "{key}");
        }
    }

    #[test]
    fn who_hears_nothing_of_an_owner_does_as_the_document_says() {
        for (alone, passes) in [("open", true), ("closed", false)] {
            let limiter = filter(
                &KIND,
                &format!(
                    "{{policies: [{{name: p, scope: cluster, key: {{from: header, name: X-User}}, limitForPeriod: 1, \
                     limitRefreshPeriod: 60s, whenAlone: {alone}}}], defaultPolicyRef: p, urls: [{{url: {{prefix: /}}}}]}}"
                ),
            );
            let Counted::ByKey(by_key) = &limiter.downcast::<RateLimiter>().unwrap().urls[0].1 else { unreachable!() };
            let leases = &by_key.limit.as_ref().unwrap().leases;
            let ask = |user: &str| run(&*limiter, &mut request("GET", "/", &[("X-User", user)]));
            // Its first token is everybody's; the owner is told, and is not there.
            assert_eq!(ask("ann"), SUCCESS);
            let until = Instant::now() + std::time::Duration::from_secs(60);
            while leases.figures.alone.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                let reports = leases.reports(10, crate::limits::now_ms());
                leases.not_told(&reports);
                ask("ann");
                assert!(Instant::now() < until, "{alone}: it is never alone");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let outcomes: Vec<Outcome> = (0..50).map(|_| ask("ann")).collect();
            assert!(outcomes.iter().all(|outcome| (*outcome == SUCCESS) == passes), "{alone}: {outcomes:?}");
        }
    }

    #[test]
    fn a_source_that_has_one_machine_needs_no_lease() {
        use crate::limits::{BySource, set_all_steer, set_by_source, set_edges};
        let place = BySource {
            addresses: vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
            but_for: Vec::new(),
            ports: vec![80..=80],
            tcp: true,
            udp: false,
            ipv6_bits: 56,
        };
        set_by_source(vec![place]);
        let limiter = filter(
            &KIND,
            "{policies: [{name: p, scope: cluster, key: {from: address}, limitForPeriod: 8, limitRefreshPeriod: 24h}], \
             defaultPolicyRef: p, urls: [{url: {prefix: /}}]}",
        );
        let Counted::ByKey(by_key) = &limiter.downcast::<RateLimiter>().unwrap().urls[0].1 else { unreachable!() };
        let here = || by_key.limit.as_ref().unwrap().leases.figures.here.load(std::sync::atomic::Ordering::Relaxed);
        let ask = |peer: &str, real: &str, local: &str, version| {
            let mut exchange = request("GET", "/", &[]);
            let client = &mut exchange.client;
            client.peer = std::net::SocketAddr::new(peer.parse().unwrap(), 40_000);
            client.real_ip = Some(real.parse().unwrap());
            client.local = Some(local.parse().unwrap());
            exchange.request_mut().version = version;
            let before = here();
            (run(&*limiter, &mut exchange), here() > before)
        };
        use proto_http::Version::{Http2, Http3};
        let (vip, one) = ("203.0.113.10:80", "192.0.2.1");
        assert!(!ask(one, one, vip, Http2).1, "a machine that does not steer serves sources of others");
        set_all_steer(true);
        for (peer, real, local, version, is_here) in [
            ("192.0.2.2", "192.0.2.2", vip, Http2, true),
            ("::ffff:192.0.2.2", "192.0.2.2", "[::ffff:203.0.113.10]:80", Http2, true),
            ("192.0.2.2", "192.0.2.2", vip, Http3, false),
            ("192.0.2.2", "192.0.2.2", "203.0.113.10:443", Http2, false),
            ("192.0.2.2", "192.0.2.2", "203.0.113.11:80", Http2, false),
            ("192.0.2.2", "198.51.100.9", vip, Http2, false),
            ("2001:db8:1:2::7", "2001:db8:1:2::7", "[2001:db8::10]:80", Http2, true),
        ] {
            assert_eq!(ask(peer, real, local, version).1, is_here, "{peer} for {real} to {local}");
        }
        // All of the burst and no more, though three machines share the limit and nobody has said anything to an owner.
        set_edges(3);
        let passed = (0..20).filter(|_| ask("192.0.2.3", "192.0.2.3", vip, Http2).0 == SUCCESS).count();
        assert_eq!(passed, 8);
        set_edges(1);
        set_all_steer(false);
        set_by_source(Vec::new());
    }

    #[test]
    fn a_claim_is_read_where_it_was_checked() {
        use base64::Engine;
        let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let token = |user: u32| format!("{}.{}.x", part("{}"), part(&format!("{{\"sub\":\"user-{user}\"}}")));
        let limiter = filter(
            &KIND,
            "{policies: [{name: p, key: {from: claim, name: sub, cookieName: auth}, limitForPeriod: 2, limitRefreshPeriod: 60s}], \
             defaultPolicyRef: p, urls: [{url: {prefix: /}}]}",
        );
        let cookie = format!("auth={}", token(0));
        let outcomes = [1, 2, 3].map(|user| {
            let made_up = format!("Bearer {}", token(user));
            run(&*limiter, &mut request("GET", "/", &[("Cookie", &cookie), ("Authorization", &made_up)]))
        });
        assert_eq!(outcomes, [SUCCESS, SUCCESS, RATE_LIMITED], "a Validator looks at the cookie, and at nothing else");
    }

    #[test]
    fn state_survives_where_rule_and_policy_do() {
        let first = filter(&KIND, SPEC);
        check(&*first, "POST", "/pay/1", SUCCESS);
        check(&*first, "GET", "/two/x", SUCCESS);
        let renamed = SPEC.replace("strict", "other").replace("{prefix: /two}", "{prefix: /tw}");
        let second = filter_after(&KIND, &renamed, Some(&*first));
        check(&*second, "POST", "/pay/1", RATE_LIMITED);
        check(&*second, "GET", "/two/x", SUCCESS);
        let third = filter_after(&KIND, &renamed.replace("limitForPeriod: 1,", "limitForPeriod: 2,"), Some(&*second));
        check(&*third, "POST", "/pay/1", SUCCESS);
    }

    #[test]
    fn a_waiting_request_holds_no_thread() {
        let spec = "{policies: [{name: p, limitForPeriod: 1, limitRefreshPeriod: 30ms, timeoutDuration: 60ms}], \
                    defaultPolicyRef: p, urls: [{url: {prefix: /}}]}";
        let limiter = filter(&KIND, spec);
        let config = base_runtime::Config { workers: Some(1), ..base_runtime::Config::default() };
        let runtime = base_runtime::Runtime::start(config).unwrap();
        let (done, times) = std::sync::mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let mut waits = Vec::new();
            for _ in 0..3 {
                let began = Instant::now();
                let mut exchange = request("GET", "/", &[]);
                let outcome = match limiter.handle(&mut exchange) {
                    Step::Done(outcome) => outcome,
                    Step::Wait(future) => future.await,
                };
                waits.push((outcome, began.elapsed()));
            }
            done.send(waits).unwrap();
        });
        let waits = times.recv().unwrap();
        assert!(waits.iter().all(|(outcome, _)| *outcome == SUCCESS), "{waits:?}");
        let total: std::time::Duration = waits.iter().map(|(_, wait)| *wait).sum();
        assert!(total.as_millis() >= 25, "three requests at one per 30 ms: {waits:?}");
    }

    #[test]
    fn refused() {
        let url = "urls: [{url: {prefix: /}}]";
        refuses(&KIND, "{policies: [{name: p}], urls: [{url: {prefix: /}}]}", &["urls[0]"]);
        refuses(&KIND, &format!("{{policies: [{{name: p}}], defaultPolicyRef: q, {url}}}"), &["defaultPolicyRef"]);
        refuses(&KIND, "{policies: [{name: p}], urls: [{url: {prefix: /}, policyRef: q}]}", &["urls[0].policyRef"]);
        refuses(
            &KIND,
            &format!("{{policies: [{{name: p, limitForPeriod: 0}}], defaultPolicyRef: p, {url}}}"),
            &["policies[0].limitForPeriod"],
        );
        refuses(
            &KIND,
            &format!(
                "{{policies: [{{name: p, limitRefreshPeriod: 0s, timeoutDuration: 5 sec}}], \
            defaultPolicyRef: p, {url}}}"
            ),
            &["policies[0].timeoutDuration"],
        );
        refuses(
            &KIND,
            &format!("{{policies: [{{name: p, limitRefreshPeriod: 0s}}, {{name: p}}], defaultPolicyRef: p, {url}}}"),
            &["policies[0].limitRefreshPeriod", "policies[1].name"],
        );
        refuses(&KIND, "{policies: [{name: p}], defaultPolicyRef: p, urls: [{url: {}}]}", &["urls[0].url"]);
        for (policy, place) in [
            ("key: {from: header}", "policies[0].key.name"),
            ("key: {from: claim}", "policies[0].key.name"),
            ("key: {from: nowhere}", "policies[0].key.from"),
            ("key: {from: address, ipv6PrefixLength: 0}", "policies[0].key.ipv6PrefixLength"),
            ("scope: world", "policies[0].scope"),
            ("keysMax: 1", "policies[0].keysMax"),
            ("scope: cluster, limitRefreshPeriod: 48h", "policies[0].limitRefreshPeriod"),
        ] {
            let document = format!("{{policies: [{{name: p, {policy}}}], defaultPolicyRef: p, {url}}}");
            refuses(&KIND, &document, &[place]);
        }
    }

    fn check(limiter: &dyn Filter, method: &str, path: &str, outcome: Outcome) {
        let mut exchange = request(method, path, &[]);
        assert_eq!(run(limiter, &mut exchange), outcome, "{method} {path}");
        if outcome == RATE_LIMITED {
            assert_eq!((status_of(&exchange), exchange.refused), (429, Some("rate_limited")));
            assert_eq!(response_header(&exchange, "X-EG-Rate-Limiter"), Some("too-many-requests"));
        }
    }
}
