//! Whether something was seen a short while ago, in memory that never grows: two Bloom filters that take turns.
//!
//! What it takes for seen although it was not, one in about fifty when 100,000 were seen within a turn, is not counted once more:
//! a queue then looks that much shorter than it is, and nobody loses a place.

/// Remembers for one turn at least, and two at most.
pub struct Seen {
    now: Vec<u64>,
    before: Vec<u64>,
    turned_ms: u64,
    turn_ms: u64,
}

impl Seen {
    pub fn new(turn_ms: u64) -> Seen {
        Seen { now: vec![0; WORDS], before: vec![0; WORDS], turned_ms: 0, turn_ms: turn_ms.max(1) }
    }

    /// Whether it was seen; it is from now on.
    pub fn note(&mut self, id: u64, now_ms: u64) -> bool {
        let passed = now_ms.saturating_sub(self.turned_ms) / self.turn_ms;
        if passed > 0 {
            std::mem::swap(&mut self.now, &mut self.before);
            self.now.fill(0);
            if passed > 1 {
                self.before.fill(0);
            }
            self.turned_ms = now_ms;
        }
        let bits = Self::bits(id);
        let known = |words: &[u64]| bits.iter().all(|bit| words[bit / 64] & (1 << (bit % 64)) != 0);
        let seen = known(&self.now) || known(&self.before);
        for bit in bits {
            self.now[bit / 64] |= 1 << (bit % 64);
        }
        seen
    }

    /// Ids are spread evenly already; each bit takes a part of the mixed id.
    fn bits(id: u64) -> [usize; 3] {
        let mut mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
        mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93);
        [0, 20, 40].map(|shift| (mixed >> shift) as usize % (WORDS * 64))
    }
}

/// 128 KiB for each of the two.
const WORDS: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_seen_for_a_turn_and_forgotten_after_two() {
        let mut seen = Seen::new(1_000);
        assert!(!seen.note(1, 10_000));
        assert!(seen.note(1, 10_500));
        assert!(!seen.note(2, 10_999));
        assert!(seen.note(2, 11_500), "in the turn before");
        assert!(!seen.note(1, 20_000));
    }

    #[test]
    fn hardly_anything_is_taken_for_seen_that_was_not() {
        let mut seen = Seen::new(1_000);
        let mut number = 0x1234_5678_9abc_def1_u64;
        let wrong = (0..100_000)
            .filter(|_| {
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
                seen.note(number, 5)
            })
            .count();
        assert!(wrong < 2_000, "{wrong} of 100,000");
    }
}
