//! Who of a slot's owners is asked next. Four machines of 16 bits lie in one word, and all are compared at once: no branch, so one
//! road for the verifier.

use abi::Slot;
use abi::gue::Asked;

/// The newest owner that was not asked yet; 0: nobody is left.
#[inline(always)]
pub fn next(slot: Slot, asked: Asked) -> u16 {
    let mut out = zeros(slot.0);
    out |= zeros(slot.0 ^ spread(asked.at(0)));
    out |= zeros(slot.0 ^ spread(asked.at(1)));
    out |= zeros(slot.0 ^ spread(asked.at(2)));
    out |= zeros(slot.0 ^ spread(asked.at(3)));
    let left = !out & TOPS;
    let lowest = left & left.wrapping_neg();
    let owner = slot.0 & (lowest >> 15).wrapping_mul(0xffff);
    let owner = owner | owner >> 32;
    (owner | owner >> 16) as u16
}

/// The top bit of every part of the word that is zero.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    !((word & !TOPS).wrapping_add(!TOPS) | word) & TOPS
}

/// The machine in every part of a word.
#[inline(always)]
fn spread(machine: u16) -> u64 {
    (machine as u64).wrapping_mul(0x0001_0001_0001_0001)
}

const TOPS: u64 = 0x8000_8000_8000_8000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_asked_newest_first_and_once() {
        let slot = Slot::new([7, 65_535, 32_768, 1]);
        let mut asked = Asked::NOBODY;
        for owner in [7, 65_535, 32_768, 1, 0] {
            assert_eq!(next(slot, asked), owner);
            asked = asked.and(owner);
        }
        // A machine that is no owner was asked too; an entry of the newest place names nobody.
        assert_eq!(next(slot, Asked::NOBODY.and(9).and(7)), 65_535);
        assert_eq!(next(Slot::new([0, 5, 0, 0]), Asked::NOBODY), 5);
        assert_eq!(next(Slot::new([0, 5, 0, 0]), Asked::NOBODY.and(5)), 0);
        assert_eq!(next(Slot::default(), Asked::NOBODY), 0);
    }

    #[test]
    fn says_what_a_search_says() {
        let mut x = 1u64;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let slot = Slot(x & 0x0003_0003_0003_0003 | (x >> 60) << 15);
            let asked = Asked(x.rotate_left(21) & 0x0003_0003_0003_0003);
            let naive = slot.owners().into_iter().find(|o| *o != 0 && (0..4).all(|place| asked.at(place) != *o));
            assert_eq!(next(slot, asked), naive.unwrap_or(0), "{slot:?} {asked:?}");
        }
    }
}
