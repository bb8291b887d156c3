//! When a certificate is renewed: pure.

use std::time::{Duration, SystemTime};

/// When an authority would like a certificate to be renewed (RFC 9773): some time from the first to the second.
pub type Window = (SystemTime, SystemTime);

/// `random` is the certificate's own, so that whoever leads comes to the same moment.
pub fn renew_at(
    (begins, ends): (SystemTime, SystemTime),
    renew_before: Duration,
    window: Option<Window>,
    random: u64,
) -> SystemTime {
    let lasts = ends.duration_since(begins).unwrap_or_default();
    // One that lasts no longer than that would be renewed at once, over and over.
    let before = if renew_before < lasts { renew_before } else { lasts / 3 };
    let at_last = ends.checked_sub(before).unwrap_or(ends);
    match window {
        None => at_last,
        Some((from, to)) => {
            let length = to.duration_since(from).unwrap_or_default();
            let into = length.mul_f64(random as f64 / u64::MAX as f64);
            // A window that has always begun already would have one renewed after the other.
            let rest = (lasts / 10).min(REST);
            (from + into).max(begins + rest).min(at_last)
        }
    }
}

/// A certificate is shown for so long at least, whatever the authority says.
const REST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(n * 86_400)
    }

    #[test]
    fn renewal_is_early_enough_and_when_the_authority_likes() {
        let (month, none) = (Duration::from_secs(30 * 86_400), None);
        assert_eq!(renew_at((day(0), day(90)), month, none, 7), day(60));
        assert_eq!(renew_at((day(0), day(6)), month, none, 7), day(4), "a third of its time is left");
        assert_eq!(renew_at((day(0), day(30)), month, none, 7), day(20));
        let window = Some((day(50), day(52)));
        assert_eq!(renew_at((day(0), day(90)), month, window, 0), day(50));
        assert_eq!(renew_at((day(0), day(90)), month, window, u64::MAX), day(52));
        assert_eq!(
            renew_at((day(0), day(90)), month, Some((day(80), day(81))), 0),
            day(60),
            "not later than asked for"
        );
        assert_eq!(renew_at((day(0), day(90)), month, Some((day(1), day(1))), 9), day(1), "it was revoked, say");
        assert_eq!(
            renew_at((day(0), day(90)), month, Some((day(9), day(8))), 9),
            day(9),
            "a window the wrong way round"
        );
        let hour = day(20) + REST;
        assert_eq!(renew_at((day(20), day(110)), month, Some((day(1), day(2))), 9), hour, "not at once, over and over");
    }
}
