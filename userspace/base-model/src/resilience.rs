//! Policies in a pipeline's `resilience`: Retry and CircuitBreaker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::problem::{Findings, at};

/// `kind: Retry`: tries a failed request again. Waits before each further try, `waitDuration` long or longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetrySpec {
    /// Tries in all, the first included; 1 or more, of which 100 are made at most. Default 3.
    #[schemars(range(min = 1))]
    pub max_attempts: u32,
    /// Pause before a further try. Default 500ms.
    pub wait_duration: GoDuration,
    /// Whether the pause stays as it is (random) or grows by half with each try (exponential). Default random.
    pub back_off_policy: BackOffPolicy,
    /// By which share of itself the pause varies at random, 0 to 1. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub randomization_factor: f64,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            wait_duration: GoDuration::from_millis(500),
            back_off_policy: BackOffPolicy::Random,
            randomization_factor: 0.0,
        }
    }
}

/// Most tries of one request, whatever a document says.
pub const ATTEMPTS_MOST: u32 = 100;

impl RetrySpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        if self.max_attempts > ATTEMPTS_MOST {
            findings.warn(at(path, "maxAttempts"), format!("{ATTEMPTS_MOST} are made at most"));
        }
    }

    /// Tries in all.
    pub fn attempts(&self) -> u32 {
        self.max_attempts.min(ATTEMPTS_MOST)
    }
}

/// How the pause between tries develops. Easegress's documents write its words in several ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(extend("x-also" = {
    "Random": "random",
    "RANDOM": "random",
    "Exponential": "exponential",
    "EXPONENTIAL": "exponential",
    "exponentially": "exponential",
    "Exponentially": "exponential",
}))]
pub enum BackOffPolicy {
    #[default]
    Random,
    Exponential,
}

/// `kind: CircuitBreaker`: stops asking servers that fail too often, for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreakerSpec {
    /// Whether the window counts calls or seconds. Default COUNT_BASED.
    pub sliding_window_type: SlidingWindowType,
    /// Size of the window, in calls or seconds; 1 or more. Default 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sliding_window_size: u32,
    /// Share of failures that opens the circuit, in per cent, 1 to 100. Default 50.
    #[schemars(range(min = 1, max = 100))]
    pub failure_rate_threshold: u8,
    /// Share of slow calls that opens the circuit, in per cent, 1 to 100. Default 100.
    #[schemars(range(min = 1, max = 100))]
    pub slow_call_rate_threshold: u8,
    /// From when a call counts as slow. Default 1m.
    pub slow_call_duration_threshold: GoDuration,
    /// Calls before shares are looked at; 1 or more. Default 100.
    #[schemars(range(min = 1))]
    pub minimum_number_of_calls: u32,
    /// Calls let through to see whether the servers are well again; 1 or more. Default 10.
    #[schemars(range(min = 1))]
    pub permitted_number_of_calls_in_half_open_state: u32,
    /// How long an open circuit refuses calls. Default 1m.
    pub wait_duration_in_open_state: GoDuration,
    /// How long the half-open state may last before the circuit opens again. 0s, the default, waits for ever.
    pub max_wait_duration_in_half_open_state: GoDuration,
}

impl Default for CircuitBreakerSpec {
    fn default() -> Self {
        Self {
            sliding_window_type: SlidingWindowType::CountBased,
            sliding_window_size: 100,
            failure_rate_threshold: 50,
            slow_call_rate_threshold: 100,
            slow_call_duration_threshold: GoDuration::from_secs(60),
            minimum_number_of_calls: 100,
            permitted_number_of_calls_in_half_open_state: 10,
            wait_duration_in_open_state: GoDuration::from_secs(60),
            max_wait_duration_in_half_open_state: GoDuration::ZERO,
        }
    }
}

/// What a circuit breaker's window counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SlidingWindowType {
    /// The last calls.
    #[default]
    #[serde(rename = "COUNT_BASED")]
    CountBased,
    /// The calls of the last seconds.
    #[serde(rename = "TIME_BASED")]
    TimeBased,
}

/// Kinds `resilience` knows.
pub const KINDS: [&str; 2] = ["CircuitBreaker", "Retry"];

impl CircuitBreakerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let by_count = self.sliding_window_type == SlidingWindowType::CountBased;
        if by_count && self.minimum_number_of_calls > self.sliding_window_size {
            findings.warn(
                at(path, "minimumNumberOfCalls"),
                format!(
                    "{} calls never fit in a window of {}: the circuit never opens",
                    self.minimum_number_of_calls, self.sliding_window_size
                ),
            );
        }
        if self.wait_duration_in_open_state.is_zero() {
            let text = "0s keeps nothing from the servers: the call after the one that opened the circuit tries them";
            findings.warn(at(path, "waitDurationInOpenState"), text);
        }
    }
}
