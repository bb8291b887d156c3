//! HDR histograms that one worker writes without a lock and anybody reads.
//!
//! The slots are those of an HDR histogram whose lowest value is 1: `HALF` slots to each power of two, so a value is known to one
//! part in `HALF`. Each power of two is allocated when the first value falls into it, since a server's latencies seldom span more
//! than eight of them. Readers copy the counts and take differences; nothing is ever reset, which is why no lock is needed.

use std::array;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use hdrhistogram::Histogram;

/// Largest value told apart from larger ones: 71 minutes in µs, 4 GiB in bytes.
pub const VALUE_MAX: u64 = u32::MAX as u64;

/// Slots per power of two where 1 % is wanted (HDR's two significant digits): 1 KiB per power of two in use.
pub const FINE: usize = 128;
/// Slots per power of two where 6 % is enough: 128 B per power of two in use.
pub const COARSE: usize = 16;

/// Enough for `COARSE`, which needs the most: two below 32 and one for each of 2^5 … 2^31.
const CHUNKS: usize = 29;

/// Adds to a counter that has one writer: cheaper than an atomic addition, which would lock the cache line.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// The slot a value falls into.
#[inline]
pub(crate) const fn slot<const HALF: usize>(value: u64) -> usize {
    let value = if value < VALUE_MAX { value } else { VALUE_MAX };
    let sub_bits = (2 * HALF).trailing_zeros();
    let bucket = (u64::BITS - (value | (2 * HALF as u64 - 1)).leading_zeros()) - sub_bits;
    bucket as usize * HALF + (value >> bucket) as usize
}

/// The middle of the values that fall into a slot.
pub(crate) fn slot_value<const HALF: usize>(slot: usize) -> u64 {
    if slot < 2 * HALF {
        return slot as u64;
    }
    let bucket = slot / HALF - 1;
    let low = ((slot % HALF + HALF) as u64) << bucket;
    low + (1u64 << bucket) / 2
}

/// Rising bounds of a histogram's buckets, looked up by the coarse slot of a value: comparing it with each of them took longer than
/// all else that is counted of it.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// A last one that nothing exceeds stands behind them.
    bounds: [u64; 11],
    /// Of each slot, how many bounds all of its values exceed. A slot is so narrow that one bound more lies in it at most.
    exceeded: [u8; CHUNKS * COARSE],
}

impl Bounds {
    pub(crate) const fn new(bounds: &[u64; 10]) -> Bounds {
        let mut table = Bounds { bounds: [u64::MAX; 11], exceeded: [0; CHUNKS * COARSE] };
        let mut index = 0;
        while index < bounds.len() {
            table.bounds[index] = bounds[index];
            assert!(bounds[index] < VALUE_MAX && (index == 0 || bounds[index - 1] < bounds[index]), "the bounds rise");
            assert!(
                index == 0 || slot::<COARSE>(bounds[index - 1]) < slot::<COARSE>(bounds[index]),
                "two bounds share a slot"
            );
            let mut beyond = slot::<COARSE>(bounds[index]) + 1;
            while beyond < table.exceeded.len() {
                table.exceeded[beyond] += 1;
                beyond += 1;
            }
            index += 1;
        }
        table
    }

    #[cfg(test)]
    pub(crate) fn bounds(&self) -> &[u64] {
        &self.bounds[..10]
    }

    /// How many of the bounds a value exceeds; `slot` is its coarse one.
    #[inline]
    pub(crate) fn exceeded(&self, value: u64, slot: usize) -> usize {
        let surely = usize::from(self.exceeded[slot]);
        surely + usize::from(value > self.bounds[surely])
    }
}

/// A histogram with one writer.
#[derive(Debug)]
pub struct SharedHistogram<const HALF: usize> {
    chunks: [OnceLock<Box<[AtomicU64; HALF]>>; CHUNKS],
}

impl<const HALF: usize> Default for SharedHistogram<HALF> {
    fn default() -> Self {
        Self { chunks: array::from_fn(|_| OnceLock::new()) }
    }
}

impl<const HALF: usize> SharedHistogram<HALF> {
    /// Counts one value. Only the owning worker calls this.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_slot(slot::<HALF>(value));
    }

    #[inline]
    pub(crate) fn record_slot(&self, slot: usize) {
        if let Some(chunk) = self.chunks.get(slot / HALF) {
            let chunk = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; HALF]));
            bump(&chunk[slot % HALF], 1);
        }
    }

    /// Adds all counts to `into`.
    pub fn merge_into(&self, into: &mut Counts<HALF>) {
        for (index, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk.get() else { continue };
            let base = index * HALF;
            if into.slots.len() < base + HALF {
                into.slots.resize(base + HALF, 0);
            }
            for (to, from) in into.slots[base..].iter_mut().zip(chunk.iter()) {
                *to += from.load(Relaxed);
            }
        }
    }
}

/// Counts read from one or more histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts<const HALF: usize> {
    slots: Vec<u64>,
}

impl<const HALF: usize> Counts<HALF> {
    pub fn record_n(&mut self, value: u64, count: u64) {
        let slot = slot::<HALF>(value);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += count;
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.slots.iter().copied().chain(std::iter::repeat(0));
        Self { slots: self.slots.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect() }
    }

    pub fn total(&self) -> u64 {
        self.slots.iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|&n| n == 0)
    }

    /// Value and count of each slot that holds anything, rising.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.slots.iter().enumerate().filter(|&(_, &n)| n > 0).map(|(slot, &n)| (slot_value::<HALF>(slot), n))
    }

    /// The values at rising `quantiles` (0 to 1): the smallest value that so large a part of all values does not exceed.
    /// All 0 when nothing was counted.
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [u64; N] {
        let total = self.total();
        let mut values = [0; N];
        let (mut seen, mut next) = (0, 0);
        for (value, count) in self.iter() {
            seen += count;
            while next < N && seen as f64 >= (quantiles[next] * total as f64).max(1.0) {
                values[next] = value;
                next += 1;
            }
        }
        values
    }

    /// The same counts as the type the HDR ecosystem knows (log writers, mergers), two significant digits.
    pub fn to_hdr(&self) -> Histogram<u64> {
        // Between 1 and VALUE_MAX with two digits is always a valid range; an empty auto-resizing histogram is the spare.
        let mut hdr = Histogram::new_with_bounds(1, VALUE_MAX, 2)
            .unwrap_or_else(|_| Histogram::new(2).expect("two significant digits are within 0..=5"));
        for (value, count) in self.iter() {
            hdr.saturating_record_n(value, count);
        }
        hdr
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slot_value_is_within_one_part_in_half(value in 0..=VALUE_MAX) {
            let fine = slot_value::<FINE>(slot::<FINE>(value));
            prop_assert!(fine.abs_diff(value) * FINE as u64 <= value.max(1), "{value} became {fine}");
            let coarse = slot_value::<COARSE>(slot::<COARSE>(value));
            prop_assert!(coarse.abs_diff(value) * COARSE as u64 <= value.max(1), "{value} became {coarse}");
        }

        #[test]
        fn bounds_are_found_by_slot(value in 0..=u64::MAX, shift in 0..64, near in -2i64..=2) {
            const BOUNDS: [u64; 10] = [0, 10, 31, 40, 63, 200, 465, 100_000, 1_000_000, 4_000_000_000];
            static TABLE: Bounds = Bounds::new(&BOUNDS);
            for value in BOUNDS.map(|bound| bound.saturating_add_signed(near)).into_iter().chain([value >> shift]) {
                let wanted = BOUNDS.iter().filter(|bound| value > **bound).count();
                prop_assert_eq!(TABLE.exceeded(value, slot::<COARSE>(value)), wanted, "{}", value);
            }
        }

        #[test]
        fn quantiles_agree_with_sorting(mut values in prop::collection::vec(0u64..5_000_000, 1..800)) {
            let shared = SharedHistogram::<FINE>::default();
            values.iter().for_each(|&v| shared.record(v));
            let mut counts = Counts::default();
            shared.merge_into(&mut counts);
            values.sort_unstable();
            let quantiles = [0.25, 0.5, 0.75, 0.95, 0.98, 0.99, 0.999];
            for (quantile, got) in quantiles.iter().zip(counts.quantiles(quantiles)) {
                let rank = ((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len());
                let want = values[rank - 1];
                prop_assert!(got.abs_diff(want) * FINE as u64 <= want.max(1), "p{quantile}: {got}, sorted {want}");
            }
        }
    }

    #[test]
    fn extremes_stay_inside() {
        let shared = SharedHistogram::<COARSE>::default();
        [0, 1, VALUE_MAX, u64::MAX].into_iter().for_each(|v| shared.record(v));
        let mut counts = Counts::default();
        shared.merge_into(&mut counts);
        assert_eq!(counts.total(), 4);
        assert_eq!(counts.to_hdr().len(), 4);
        assert_eq!(slot::<COARSE>(VALUE_MAX), CHUNKS * COARSE - 1);
        assert!(slot::<FINE>(VALUE_MAX) < CHUNKS * FINE);
    }

    #[test]
    fn difference_is_the_round() {
        let shared = SharedHistogram::<FINE>::default();
        shared.record(10);
        let mut before = Counts::default();
        shared.merge_into(&mut before);
        shared.record(1_000_000);
        let mut now = Counts::default();
        shared.merge_into(&mut now);
        assert_eq!(now.since(&before).total(), 1);
        assert_eq!(before.since(&now).total(), 0);
        assert_eq!(Counts::<FINE>::default().quantiles([0.5]), [0]);
    }
}
