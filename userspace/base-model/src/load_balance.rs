//! How the servers of a pool are chosen, and how a client stays with its own, as users write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use base_text::quoted;

use crate::duration::GoDuration;
use crate::header_adapt::is_header_name;
use crate::health_check::HealthCheckSpec;
use crate::problem::{Findings, Problem, at, one_of};

/// How a server is chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalanceSpec {
    /// `roundRobin` (default), `random`, `weightedRandom`, `leastRequest` (fewer requests under way, of two), `peakEWMA` (sooner done, of
    /// two), `ipHash`, `headerHash`, `cookieHash`, `maglev` (by a hash, of which a change of the servers moves few) or, for gRPC,
    /// `forward`. Another word means roundRobin. Weights count with weightedRandom, leastRequest, peakEWMA and maglev.
    pub policy: String,
    /// Header that is hashed, with `headerHash` and `maglev`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_hash_key: String,
    /// Cookie that is hashed, with `maglev`. Without it and `headerHashKey` the client's address is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cookie_hash_key: String,
    /// Most requests that a server has under way with `maglev`, in per cent of the mean of all servers: beyond it others help it out
    /// (HAProxy's hash-balance-factor). 0, the default: any number; else 101 or more.
    #[serde(skip_serializing_if = "is_zero")]
    pub hash_balance_factor: u32,
    /// Header that holds the server, with `forward`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub forward_key: String,
    /// Keep a client on its server. Default: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_session: Option<StickySessionSpec>,
    /// Old place of the pool's `healthCheck`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
}

/// Keeps a client on its server by a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["mode"]))]
pub struct StickySessionSpec {
    /// `CookieConsistentHash`: by a hash of the application's cookie; `DurationBased`: by a cookie of ours;
    /// `ApplicationBased`: by a cookie of ours, set when the application sets its own.
    #[schemars(with = "StickyModeWords")]
    pub mode: String,
    /// The application's cookie, for the first and the last mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_cookie_name: String,
    /// Our cookie. Default EG_SESSION.
    pub lb_cookie_name: String,
    /// How long our cookie lives. Default 2h.
    pub lb_cookie_expire: GoDuration,
}

impl Default for StickySessionSpec {
    fn default() -> Self {
        Self {
            mode: String::new(),
            app_cookie_name: String::new(),
            lb_cookie_name: "EG_SESSION".to_owned(),
            lb_cookie_expire: GoDuration::from_secs(2 * 3600),
        }
    }
}

/// The words of `stickySession.mode`.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
enum StickyModeWords {
    CookieConsistentHash,
    DurationBased,
    ApplicationBased,
}

/// Policies a pool can choose its servers by.
pub const LOAD_BALANCE_POLICIES: [&str; 10] = [
    "roundRobin",
    "random",
    "weightedRandom",
    "leastRequest",
    "peakEWMA",
    "ipHash",
    "headerHash",
    "cookieHash",
    "maglev",
    "forward",
];

/// Those that go by the weights of servers.
pub const WEIGHTED_POLICIES: [&str; 4] = ["weightedRandom", "leastRequest", "peakEWMA", "maglev"];

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LoadBalanceSpec {
    pub(crate) fn validate(&self, path: &str, findings: &mut Findings) {
        let policy = self.policy.as_str();
        if !policy.is_empty() && !LOAD_BALANCE_POLICIES.contains(&policy) {
            findings.warn(
                at(path, "policy"),
                format!(
                    "{policy} is unknown, roundRobin is used; known: {}",
                    one_of(&LOAD_BALANCE_POLICIES),
                    policy = quoted(&policy)
                ),
            );
        }
        let idle = [
            (
                "policy",
                policy == "forward",
                "has no effect: servers are not named by requests in this version; they get them in turn",
            ),
            (
                "forwardKey",
                !self.forward_key.is_empty(),
                "has no effect: servers are not named by requests in this version",
            ),
            (
                "headerHashKey",
                !self.header_hash_key.is_empty() && !matches!(policy, "headerHash" | "maglev"),
                "has no effect: only policies headerHash and maglev look at it",
            ),
            (
                "cookieHashKey",
                !self.cookie_hash_key.is_empty() && policy != "maglev",
                "has no effect: only policy maglev looks at it",
            ),
            (
                "cookieHashKey",
                !self.cookie_hash_key.is_empty() && !self.header_hash_key.is_empty() && policy == "maglev",
                "has no effect beside headerHashKey",
            ),
            (
                "hashBalanceFactor",
                self.hash_balance_factor > 0 && policy != "maglev",
                "has no effect: only policy maglev looks at it",
            ),
        ];
        for (field, _, text) in idle.iter().filter(|(_, given, _)| *given) {
            findings.warn(at(path, field), *text);
        }
        for (wanted, key, value) in
            [("headerHash", "headerHashKey", &self.header_hash_key), ("forward", "forwardKey", &self.forward_key)]
        {
            if policy == wanted && value.is_empty() {
                findings.problem(
                    Problem::new(at(path, key), format!("missing: policy is {wanted}")).advice("name the header"),
                );
            }
        }
        if (1..=100).contains(&self.hash_balance_factor) {
            let problem = Problem::new(at(path, "hashBalanceFactor"), "servers could not take what there is");
            findings.problem(problem.value(&self.hash_balance_factor.into()).accepted("0, or 101 and more"));
        }
        if let Some(sticky) = &self.sticky_session {
            sticky.validate(&at(path, "stickySession"), findings);
        }
    }
}

impl StickySessionSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let by_application = matches!(self.mode.as_str(), "CookieConsistentHash" | "ApplicationBased");
        if by_application && self.app_cookie_name.is_empty() {
            let problem = Problem::new(at(path, "appCookieName"), format!("missing: mode is {}", self.mode));
            findings.problem(problem.advice("name the application's cookie"));
        }
        if !by_application && !self.app_cookie_name.is_empty() {
            findings.warn(at(path, "appCookieName"), "has no effect: mode DurationBased does not look at it");
        }
        // The name of a cookie is a token, as that of a header is (RFC 6265 section 4.1.1).
        for (field, name) in [("appCookieName", &self.app_cookie_name), ("lbCookieName", &self.lb_cookie_name)] {
            if !name.is_empty() && !is_header_name(name) {
                findings.problem(Problem::new(at(path, field), "not a name of a cookie").text(name));
            }
        }
        let usual = StickySessionSpec::default();
        for (field, given) in [
            ("lbCookieName", self.lb_cookie_name != usual.lb_cookie_name),
            ("lbCookieExpire", self.lb_cookie_expire != usual.lb_cookie_expire),
        ] {
            if given && self.mode == "CookieConsistentHash" {
                findings.warn(at(path, field), "has no effect: mode CookieConsistentHash sets no cookie");
            }
        }
    }
}
