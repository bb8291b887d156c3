//! One thing as it lies on disk: its length, a checksum, itself. Pure: bytes in, bytes out.

use std::ops::RangeInclusive;

/// What is kept on disk.
pub trait Kept: Sized {
    /// What several are called; files of them are called so, too.
    const NAME: &'static str;

    /// Bytes of one, without what its frame adds. Fewer or more can only be damage.
    const BYTES: RangeInclusive<usize>;

    fn write(&self, out: &mut Vec<u8>);

    /// `None`: it is not as it was written.
    fn read(body: &[u8]) -> Option<Self>;

    fn checksum(length: [u8; 4], body: &[u8]) -> u32;

    /// The files of a spool have so many bytes more, wrapping where they have fewer.
    fn book(_more: u64) {}
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<K> {
    Whole(K),
    /// One that is not as it was written.
    Damaged,
    /// There is no whole one, and no telling where the next would begin.
    Cut,
}

/// Bytes of a length and a checksum.
pub const HEAD: usize = 4 + 4;

/// Appends one.
pub fn write<K: Kept>(kept: &K, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend([0; HEAD]);
    kept.write(out);
    let length = ((out.len() - at - HEAD) as u32).to_be_bytes();
    let sum = K::checksum(length, &out[at + HEAD..]);
    out[at..at + 4].copy_from_slice(&length);
    out[at + 4..at + HEAD].copy_from_slice(&sum.to_be_bytes());
}

/// Reads the first one, and says how many bytes it has.
pub fn read<K: Kept>(bytes: &[u8]) -> (Frame<K>, usize) {
    let Some((length, sum, rest)) = head(bytes) else { return (Frame::Cut, bytes.len()) };
    let count = u32::from_be_bytes(length) as usize;
    if !K::BYTES.contains(&count) {
        return (Frame::Cut, bytes.len());
    }
    let Some((body, after)) = rest.split_at_checked(count) else { return (Frame::Cut, bytes.len()) };
    let whole = HEAD + count;
    if K::checksum(length, body) != sum {
        // Its length may be what is wrong: it is believed where another frame follows it, or the end.
        let is_believed = after.is_empty() || is_good::<K>(after);
        return if is_believed { (Frame::Damaged, whole) } else { (Frame::Cut, bytes.len()) };
    }
    (K::read(body).map_or(Frame::Damaged, Frame::Whole), whole)
}

fn is_good<K: Kept>(bytes: &[u8]) -> bool {
    let Some((length, sum, rest)) = head(bytes) else { return false };
    rest.get(..u32::from_be_bytes(length) as usize).is_some_and(|body| K::checksum(length, body) == sum)
}

fn head(bytes: &[u8]) -> Option<([u8; 4], u32, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    Some((*length, u32::from_be_bytes(*sum), rest))
}
