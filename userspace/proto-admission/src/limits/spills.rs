//! When a bucket was full: how much time of a rate nobody wanted, by when that was.

/// Time that spilled, as a line through a few points: where much was noted, those go that say least for their age.
#[derive(Default)]
pub struct Spills {
    sum_us: u64,
    /// In the order of their times; the first are in use.
    points: [Point; POINTS],
    used: u8,
}

#[derive(Clone, Copy, Default)]
struct Point {
    at_ms: u64,
    /// What had spilled by then.
    sum_us: u64,
}

impl Spills {
    /// So much spilled just before `now_ms`.
    pub fn note(&mut self, spilled_us: u64, now_ms: u64) {
        let now_ms = now_ms.max(self.last().map_or(0, |last| last.at_ms));
        let began = now_ms.saturating_sub(spilled_us / 1000).max(self.last().map_or(0, |last| last.at_ms));
        if self.last().is_none_or(|last| began >= last.at_ms + GRAIN_MS) {
            self.push(Point { at_ms: began, sum_us: self.sum_us });
        }
        self.sum_us = self.sum_us.saturating_add(spilled_us);
        let point = Point { at_ms: now_ms, sum_us: self.sum_us };
        let used = usize::from(self.used);
        match self.points[..used] {
            // What comes again and again moves the end of the line.
            [.., before, ref mut last] if last.at_ms < before.at_ms + GRAIN_MS => *last = point,
            [.., ref mut last] if last.at_ms >= now_ms => *last = point,
            _ => self.push(point),
        }
    }

    /// How much spilled from then on.
    pub fn since(&self, from_ms: u64) -> u64 {
        let points = &self.points[..usize::from(self.used)];
        let after = points.partition_point(|point| point.at_ms <= from_ms);
        let by_then = match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
            (None, first) => first.map_or(0, |first| first.sum_us),
            (Some(last), None) => last.sum_us,
            (Some(before), Some(after)) => {
                let part = u128::from(from_ms - before.at_ms) * u128::from(after.sum_us - before.sum_us);
                before.sum_us + (part / u128::from(after.at_ms - before.at_ms)) as u64
            }
        };
        self.sum_us - by_then
    }

    fn last(&self) -> Option<Point> {
        self.points[..usize::from(self.used)].last().copied()
    }

    fn push(&mut self, point: Point) {
        if usize::from(self.used) == POINTS {
            let says = |at: &usize| {
                let [before, here, after] = [at - 1, *at, at + 1].map(|at| self.points[at].at_ms);
                (after - before) * 1024 / (point.at_ms - here).max(1)
            };
            let least = (1..POINTS - 1).min_by_key(says).unwrap_or(1);
            self.points.copy_within(least + 1.., least);
            self.used -= 1;
        }
        self.points[usize::from(self.used)] = point;
        self.used += 1;
    }
}

/// Enough for a few times of being cut off, one after the other.
const POINTS: usize = 8;
/// What is closer together is told as one.
const GRAIN_MS: u64 = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spilled_since_is_known_by_time() {
        let mut spills = Spills::default();
        assert_eq!(spills.since(0), 0);
        // A minute at once, and nothing for half an hour.
        spills.note(60_000_000, 160_000);
        assert_eq!(
            [0, 100_000, 130_000, 160_000, 1_960_000].map(|from| spills.since(from) / 1000),
            [60_000, 60_000, 30_000, 0, 0]
        );
        spills.note(10_000_000, 1_970_000);
        assert_eq!([130_000, 160_000, 1_965_000].map(|from| spills.since(from) / 1000), [40_000, 10_000, 5_000]);
    }

    #[test]
    fn what_spills_all_day_is_told_about_right_and_takes_no_room() {
        // Half of each tenth of a second, but for one minute in the first hour.
        let mut spills = Spills::default();
        for now in (100..86_400_000).step_by(100) {
            if !(1_800_000..1_860_000).contains(&now) {
                spills.note(50_000, now);
            }
        }
        for since in [5_000, 60_000, 3_600_000, 80_000_000] {
            let spilled = spills.since(86_400_000 - since) / 1000;
            assert!((since * 45 / 100..=since * 55 / 100).contains(&spilled), "{spilled} ms in {since} ms");
        }
    }

    #[test]
    fn nothing_wraps() {
        let mut spills = Spills::default();
        spills.note(u64::MAX, 1_000);
        spills.note(u64::MAX, 2_000);
        spills.note(1_000, 1_500);
        assert_eq!(spills.since(2_000), 0);
        assert!(spills.since(0) > 0);
    }
}
