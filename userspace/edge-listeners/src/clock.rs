//! The time of day, from the clock that time-outs go by: one reading tells both.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the two clocks are taken to run alike. The time of day may be set; logs and `Date` follow within this.
const ALIKE: Duration = Duration::from_secs(1);

/// The time of day at `instant`, which is about now: how long ago 1970 began.
pub fn since_1970(instant: Instant) -> Duration {
    thread_local! {
        static BOTH: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    }
    let known = BOTH.get().and_then(|(then, time)| {
        let since = instant.checked_duration_since(then)?;
        (since < ALIKE).then(|| time + since)
    });
    known.unwrap_or_else(|| {
        let (now, time) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        BOTH.set(Some((now, time)));
        time.saturating_sub(now.saturating_duration_since(instant))
    })
}

/// Seconds since 1970 as of this turn of the worker.
pub fn seconds() -> u64 {
    seconds_at(base_runtime::now())
}

/// Of all answers of a second the first one looks for its number.
fn seconds_at(now: Instant) -> u64 {
    thread_local! {
        /// A second, from when to when it is taken for granted.
        static SECOND: Cell<Option<(u64, Instant, Instant)>> = const { Cell::new(None) };
    }
    if let Some((second, from, until)) = SECOND.get()
        && from <= now
        && now < until
    {
        return second;
    }
    let since = since_1970(now);
    let left = Duration::from_secs(1).saturating_sub(Duration::from_nanos(since.subsec_nanos().into()));
    SECOND.set(Some((since.as_secs(), now, now + left)));
    since.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEARLY: Duration = Duration::from_millis(50);

    #[test]
    fn both_clocks_tell_the_same() {
        for _ in 0..3 {
            // Whatever happens between these lines, the time is one between them.
            let (before, time, after) = (Instant::now(), SystemTime::now(), Instant::now());
            let time = time.duration_since(UNIX_EPOCH).unwrap();
            let (earliest, latest) = (since_1970(before) - NEARLY, since_1970(after) + NEARLY);
            assert!(earliest <= time && time <= latest, "{earliest:?} to {latest:?}, and not {time:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Seconds follow, forth and back.
        let now = Instant::now();
        for ms in [60_000, 1_700, 1_000, 999, 400, 5, 0, 300, 900, 0] {
            let at = now - Duration::from_millis(ms);
            let told = since_1970(at);
            let nearly = told.subsec_millis() < 60 || told.subsec_millis() > 940;
            let second = seconds_at(at);
            assert!(
                second == told.as_secs() || nearly && second.abs_diff(told.as_secs()) <= 1,
                "{ms}: {second}, {told:?}"
            );
        }
        // One that lies before the first reading.
        let early = Instant::now() - Duration::from_secs(5);
        let apart = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - since_1970(early);
        assert!((4900..5100).contains(&apart.as_millis()), "{apart:?}");
    }
}
