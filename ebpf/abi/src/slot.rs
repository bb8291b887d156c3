//! One slot of a Maglev table.

use crate::limits::{OWNERS, SLOTS};

/// Who takes the slot's new flows in the lowest 16 bits, and above it those that took them before, newest first: indices of machines,
/// 0 means nobody. One word, so a reader sees all of one write.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// Of a machine that had nobody before it.
    #[inline(always)]
    pub const fn of(current: u16) -> Slot {
        Slot(current as u64)
    }

    /// The owners, newest first. The first is who takes new flows, or 0 when nobody does; behind it there is no gap.
    #[inline(always)]
    pub const fn new(owners: [u16; OWNERS]) -> Slot {
        Slot(owners[0] as u64 | (owners[1] as u64) << 16 | (owners[2] as u64) << 32 | (owners[3] as u64) << 48)
    }

    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Whether anybody had the slot before.
    #[inline(always)]
    pub const fn has_past(self) -> bool {
        self.0 >> 16 != 0
    }

    /// Whether it remembers as many as it can.
    #[inline(always)]
    pub const fn is_full(self) -> bool {
        self.0 >> 48 != 0
    }

    /// The owner before the current one; 0: none.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub const fn owners(self) -> [u16; OWNERS] {
        [self.0 as u16, (self.0 >> 16) as u16, (self.0 >> 32) as u16, (self.0 >> 48) as u16]
    }

    /// The slot of a hash: multiply and shift, because a modulo costs a division.
    #[inline(always)]
    pub const fn number(hash: u32) -> u32 {
        ((hash as u64 * SLOTS as u64) >> 32) as u32
    }

    /// The slot after `number` whose owner stands in where this one's does not serve. Far apart, so that the flows of one machine that
    /// is down are spread over the others.
    #[inline(always)]
    pub const fn stand_in(number: u32) -> u32 {
        // A division here is rare, and one road for the verifier.
        (number + STRIDE) % SLOTS
    }

    /// The element of the map SLOTS that holds slot `number` of `table`.
    #[inline(always)]
    pub const fn element(table: u16, number: u32) -> u32 {
        table as u32 * SLOTS + number
    }
}

/// About SLOTS divided by the golden ratio: steps that meet no slot twice and land far from each other.
const STRIDE: u32 = 40_503;

const _: () = assert!(size_of::<Slot>() == 8 && OWNERS == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back_and_every_slot_is_reachable() {
        let slot = Slot::new([513, 65_535, 1, 0]);
        assert_eq!((slot.current(), slot.previous(), slot.owners()), (513, 65_535, [513, 65_535, 1, 0]));
        assert!(slot.has_past() && !Slot::of(7).has_past());
        assert_eq!(Slot::number(0), 0);
        assert_eq!(Slot::number(u32::MAX), SLOTS - 1);
        assert_eq!(Slot::element(1, 0), SLOTS);
    }
}
