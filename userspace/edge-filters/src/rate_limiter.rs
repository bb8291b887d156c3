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
//! Outcomes: `rateLimited`, with status 429 and `X-EG-Rate-Limiter: too-many-requests`. Fits HTTPServer. Costs a
//! comparison per rule and one exchange of a number that workers share; waiting requests hold no thread.

pub mod cycle;

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, nth, one_of};
use base_model::string_matcher::UrlMatcher;
use base_model::{Findings, GoDuration, Problem, UrlRule, repeats};
use cycle::{Cycles, Permit, Policy};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

const RATE_LIMITED: Outcome = "rateLimited";

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
    /// Requests that pass per period, 1 or more. Default 50.
    #[schemars(range(min = 1))]
    pub limit_for_period: u32,
}

impl Default for PolicySpec {
    fn default() -> PolicySpec {
        PolicySpec {
            name: String::new(),
            timeout_duration: GoDuration::from_millis(100),
            limit_refresh_period: GoDuration::from_millis(10),
            limit_for_period: 50,
        }
    }
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

/// A ready RateLimiter.
pub struct RateLimiter {
    urls: Vec<(UrlMatcher, Arc<Limiter>)>,
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
        let mut inherited: Vec<Arc<Limiter>> = match parts.previous.and_then(|p| p.downcast::<RateLimiter>()) {
            Some(previous) => previous.urls.iter().map(|(_, limiter)| limiter.clone()).collect(),
            None => Vec::new(),
        };
        let mut urls = Vec::new();
        for mut rule in spec.urls {
            let matcher = rule.compile().map_err(|why| unexpected("urls", why))?;
            let name = match rule.policy_ref.as_str() {
                "" => &spec.default_policy_ref,
                name => name,
            };
            let policy =
                spec.policies.iter().find(|p| p.name == *name).ok_or_else(|| unexpected("urls", "no policy"))?;
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
            urls.push((matcher, limiter));
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
        let Some((_, limiter)) = self.urls.iter().find(|(matcher, _)| matcher.matches(method, path)) else {
            return Step::Done(SUCCESS);
        };
        match limiter.acquire(base_runtime::now()) {
            Permit::Now => Step::Done(SUCCESS),
            Permit::Refused => {
                exchange.tags.note(|| "rateLimiter: too many requests".to_owned());
                exchange.refuse(429).headers.set("X-EG-Rate-Limiter", "too-many-requests");
                Step::Done(RATE_LIMITED)
            }
            Permit::After(wait) => Step::wait(async move {
                base_runtime::time::sleep(wait).await;
                exchange.tags.note(|| format!("rateLimiter: waited {}", base_text::duration(wait)));
                if exchange.client_gone { RATE_LIMITED } else { SUCCESS }
            }),
        }
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
    }

    fn check(limiter: &dyn Filter, method: &str, path: &str, outcome: Outcome) {
        let mut exchange = request(method, path, &[]);
        assert_eq!(run(limiter, &mut exchange), outcome, "{method} {path}");
        if outcome == RATE_LIMITED {
            assert_eq!(status_of(&exchange), 429);
            assert_eq!(response_header(&exchange, "X-EG-Rate-Limiter"), Some("too-many-requests"));
        }
    }
}
