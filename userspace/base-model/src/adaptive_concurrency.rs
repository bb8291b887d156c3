//! How many requests may be under way at a time, found by what they take, and who goes first: the filter AdaptiveConcurrency and the field
//! `adaptiveConcurrency` of pools.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::header_adapt::is_header_name;
use crate::problem::{Findings, Problem, at, nth};
use crate::string_matcher::{StringMatcher, UrlRule};

/// How much a request matters when not all can be served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    /// 3 for the highest, 0 for the lowest.
    pub const fn level(self) -> u8 {
        match self {
            Priority::Critical => 3,
            Priority::High => 2,
            Priority::Normal => 1,
            Priority::Low => 0,
        }
    }

    pub const ALL: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
}

/// Limits how many requests are under way by what they wait for, not by a number somebody guessed.
///
/// The limit of each server follows what its requests take beyond what they take when nobody is in their way. Those for which there is no
/// place wait in a queue, bounded in length and time; routes and clients are served in turn, and when the queue stands, the newest go
/// first. While too much comes, requests below a rank that rises with the delay are refused at once with 503 and Retry-After, whole
/// clients at a time, the lowest priority first. Requests go on with the field `X-Weir-Priority` (their rank, 0 to 127), and answers to
/// whoever sent that field have `X-Weir-Threshold` (the lowest rank that is let in); what a server says there is heeded before it is asked.
///
/// A place belongs to the work of a server. That of a request that has waited for its client more than for the server, or for a server
/// that has said nothing in 10s and in sixteen times what requests take there, is lent to others: no more at a time than may be under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AdaptiveConcurrencySpec {
    /// Least requests under way per server; 1 or more. Default 2.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_limit: u32,
    /// Most requests under way per server. Default 1000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_limit: u32,
    /// Where the limit of a server begins. Default 20, or the bound that is nearest to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub initial_limit: Option<u32>,
    /// Most requests that wait for a place, of all workers; 0 refuses at once. Default 256. Beyond it 503, counted as `queue_full`; each
    /// takes the memory of a request under way.
    #[schemars(range(max = 100_000))]
    pub max_queue: u32,
    /// Longest time a request waits for a place; then 503, counted as `waited`. Default 100ms.
    pub max_wait: GoDuration,
    /// Mean wait that is no overload. Beyond it the threshold rises. Default 20ms.
    pub target_delay: GoDuration,
    /// Least seconds of Retry-After; up to three times as many are said at random, so that clients do not come back together. Default 1s.
    pub retry_after: GoDuration,
    /// Which requests matter how much; the first that fits decides, others are `normal`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<PriorityRule>,
    /// Field that names whose requests these are, for example one that a Validator sets. Default: the client's address does, of IPv6 its
    /// first 64 bits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consumer_header: String,
    /// Believe the field `X-Weir-Priority` of requests, and answer those with `X-Weir-Threshold`: for callers of our own. Default false:
    /// whoever sends it is not believed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust_priority: bool,
}

impl Default for AdaptiveConcurrencySpec {
    fn default() -> Self {
        Self {
            min_limit: 2,
            max_limit: 1000,
            initial_limit: None,
            max_queue: 256,
            max_wait: GoDuration::from_millis(100),
            target_delay: GoDuration::from_millis(20),
            retry_after: GoDuration::from_secs(1),
            priorities: Vec::new(),
            consumer_header: String::new(),
            trust_priority: false,
        }
    }
}

/// Says how much some requests matter. Every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["priority"]))]
pub struct PriorityRule {
    /// `critical`, `high`, `normal` or `low`.
    pub priority: Priority,
    /// Fields that must match, all of them. Default: any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatcher>,
    /// Methods and paths, of which one must match. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<UrlRule>,
    /// Values of `consumerHeader`, of which one must match. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<String>,
}

impl AdaptiveConcurrencySpec {
    /// Where a limit begins.
    pub fn first(&self) -> u32 {
        self.initial_limit.unwrap_or(20).clamp(self.min_limit, self.max_limit)
    }

    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let mut refuse = |field: &str, what: &str, value: serde_json::Value, accepted: &str| {
            findings.problem(Problem::new(at(path, field), what).value(&value).accepted(accepted));
        };
        if self.min_limit == 0 {
            refuse("minLimit", "nothing could be under way", 0.into(), "1 or more");
        }
        if self.max_limit < self.min_limit {
            let accepted = format!("minLimit ({}) or more", self.min_limit);
            refuse("maxLimit", "below minLimit", self.max_limit.into(), &accepted);
        }
        if let Some(first) = self.initial_limit
            && (first < self.min_limit || first > self.max_limit)
        {
            let accepted = format!("{} to {}, as minLimit and maxLimit say", self.min_limit, self.max_limit);
            refuse("initialLimit", "out of bounds", first.into(), &accepted);
        }
        for (field, time) in [("maxWait", self.max_wait), ("retryAfter", self.retry_after)] {
            if time.is_negative() {
                refuse(field, "a time cannot be negative", time.to_string().into(), "0s or longer");
            }
        }
        if self.target_delay.nanos() <= 0 {
            refuse(
                "targetDelay",
                "every wait would be an overload",
                self.target_delay.to_string().into(),
                "longer than 0s",
            );
        }
        PriorityRule::validate_all(&self.priorities, &self.consumer_header, path, findings);
    }
}

impl PriorityRule {
    /// The fields `priorities` and `consumerHeader` of the kind at `path`.
    pub(crate) fn validate_all(rules: &[PriorityRule], consumer_header: &str, path: &str, findings: &mut Findings) {
        if !consumer_header.is_empty() && !is_header_name(consumer_header) {
            findings.problem(Problem::new(at(path, "consumerHeader"), "not a header name").text(consumer_header));
        }
        for (index, rule) in rules.iter().enumerate() {
            let place = nth(&at(path, "priorities"), index);
            let open = rule.headers.is_empty() && rule.urls.is_empty() && rule.consumers.is_empty();
            if open && index + 1 < rules.len() {
                findings.warn(&place, "fits every request: rules after it have no effect");
            }
            if !rule.consumers.is_empty() && consumer_header.is_empty() {
                let problem = Problem::new(at(&place, "consumers"), "consumerHeader is not given");
                findings.problem(problem.advice("name the field that says whose requests these are"));
            }
            for (name, matcher) in &rule.headers {
                matcher.validate(&at(&at(&place, "headers"), name), findings);
            }
            for (index, url) in rule.urls.iter().enumerate() {
                url.validate(&nth(&at(&place, "urls"), index), findings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_fit_each_other() {
        for (text, wanted) in [
            ("{}", &[][..]),
            ("{minLimit: 0}", &["a.minLimit"]),
            ("{minLimit: 50, maxLimit: 40}", &["a.maxLimit"]),
            ("{initialLimit: 2000}", &["a.initialLimit"]),
            ("{minLimit: 50}", &[]),
            ("{targetDelay: 0s}", &["a.targetDelay"]),
            ("{consumerHeader: 'a b'}", &["a.consumerHeader"]),
            ("{priorities: [{priority: low, consumers: [x]}]}", &["a.priorities[0].consumers"]),
            ("{priorities: [{priority: high, urls: [{url: {}}]}]}", &["a.priorities[0].urls[0].url"]),
        ] {
            let value = crate::yaml::parse_document(text).unwrap();
            let found = match crate::decode::<AdaptiveConcurrencySpec>(&value, "a") {
                Ok(decoded) => {
                    let mut findings = Findings::default();
                    decoded.value.validate("a", &mut findings);
                    findings.problems
                }
                Err(problems) => problems,
            };
            let found: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(found, wanted, "{text}");
        }
        assert_eq!(AdaptiveConcurrencySpec { min_limit: 50, ..AdaptiveConcurrencySpec::default() }.first(), 50);
    }
}
