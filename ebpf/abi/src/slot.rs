//! One slot of a Maglev table.

use crate::limits::{SLOT_PAIRS, SLOTS};

/// Current owner in the low half, previous owner in the high half; both are indices of machines, 0 means nobody.
/// One word, so a reader sees both halves of one write.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Slot(pub u32);

impl Slot {
    #[inline(always)]
    pub const fn new(current: u16, previous: u16) -> Slot {
        Slot(current as u32 | (previous as u32) << 16)
    }

    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The slot of a hash: multiply and shift, because a modulo costs a division.
    #[inline(always)]
    pub const fn number(hash: u32) -> u32 {
        ((hash as u64 * SLOTS as u64) >> 32) as u32
    }

    /// Where the map SLOTS keeps slot `number` of `table`: the array's element, and which half of it.
    #[inline(always)]
    pub const fn position(table: u16, number: u32) -> (u32, usize) {
        (table as u32 * SLOT_PAIRS + number / 2, (number & 1) as usize)
    }
}

const _: () = assert!(size_of::<Slot>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_back_and_every_slot_is_reachable() {
        let slot = Slot::new(513, 65_535);
        assert_eq!((slot.current(), slot.previous()), (513, 65_535));
        assert_eq!(Slot::number(0), 0);
        assert_eq!(Slot::number(u32::MAX), SLOTS - 1);
        assert_eq!(Slot::position(1, 0), (SLOT_PAIRS, 0));
        assert_eq!(Slot::position(0, SLOTS - 1), (SLOT_PAIRS - 1, 0));
    }
}
