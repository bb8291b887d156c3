//! When a client is banned that a policy refuses too often.

use crate::bans::Rule;
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Clients that are refused too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BanSpec {
    /// So many refusals of one client, 1 to 1,000,000, ban it. Default 20.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub refusals: u32,
    /// In this time from the first of them, 24h or less. Default 1m.
    pub within: GoDuration,
    /// Nothing is taken from it for so long, 720h or less. Default 10m.
    pub duration: GoDuration,
}

impl Default for BanSpec {
    fn default() -> BanSpec {
        BanSpec { refusals: 20, within: GoDuration::from_secs(60), duration: GoDuration::from_secs(600) }
    }
}

const WITHIN_MAX_S: i64 = 24 * 3_600;
const DURATION_MAX_S: i64 = 30 * 24 * 3_600;

impl BanSpec {
    /// `of_each`: what is refused is what the client has had itself, and not what others share with it or a machine could not ask for.
    pub(super) fn validate(&self, place: &str, of_each: bool, findings: &mut Findings) {
        if !of_each {
            let problem = Problem::new(place, "clients would be banned for what others have used up");
            findings.problem(problem.advice(
                "write key: {from: address} beside it, with ipv6PrefixLength: 64 if any, and no scope: cluster",
            ));
        }
        if !(1..=1_000_000).contains(&self.refusals) {
            let problem = Problem::new(at(place, "refusals"), "out of range").value(&self.refusals.into());
            findings.problem(problem.accepted("1 to 1,000,000"));
        }
        for (name, duration, most) in
            [("within", self.within, WITHIN_MAX_S), ("duration", self.duration, DURATION_MAX_S)]
        {
            if duration.nanos() <= 0 || duration > GoDuration::from_secs(most) {
                let problem = Problem::new(at(place, name), "out of range").text(&duration.to_string());
                findings.problem(problem.accepted(format!("more than 0s, and {}h at most", most / 3_600)));
            }
        }
    }

    pub(super) fn rule(&self) -> Rule {
        Rule { refusals: self.refusals, within: self.within.duration(), duration: self.duration.duration() }
    }
}
