//! How long to wait before a request is tried again.

use crate::random;
use base_model::{BackOffPolicy, RetrySpec};
use std::time::Duration;

/// Longest pause between two tries, whatever the policy grows to.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after `tries` tries have failed, 1 or more.
pub fn pause(spec: &RetrySpec, tries: u32) -> Duration {
    pause_at(spec, tries, random::below(1 << 20) as f64 / f64::from(1 << 20))
}

/// As [`pause`], with a chance from 0 to 1.
fn pause_at(spec: &RetrySpec, tries: u32, chance: f64) -> Duration {
    let mut seconds = Duration::from(spec.wait_duration).as_secs_f64();
    if spec.back_off_policy == BackOffPolicy::Exponential {
        seconds *= 1.5f64.powi(tries.saturating_sub(1).min(64) as i32);
    }
    seconds += seconds * spec.randomization_factor * (2.0 * chance - 1.0);
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::GoDuration;

    #[test]
    fn pauses_grow_and_vary_as_written() {
        let base = RetrySpec { wait_duration: GoDuration::from_millis(100), ..RetrySpec::default() };
        assert_eq!(pause_at(&base, 5, 0.9), Duration::from_millis(100));
        let growing = RetrySpec { back_off_policy: BackOffPolicy::Exponential, ..base.clone() };
        assert_eq!(pause_at(&growing, 1, 0.5), Duration::from_millis(100));
        assert_eq!(pause_at(&growing, 3, 0.5), Duration::from_millis(225));
        assert_eq!(pause_at(&growing, 1000, 0.5), LONGEST);
        let varied = RetrySpec { randomization_factor: 0.5, ..base };
        assert_eq!(pause_at(&varied, 1, 0.0), Duration::from_millis(50));
        assert_eq!(pause_at(&varied, 1, 1.0), Duration::from_millis(150));
    }
}
