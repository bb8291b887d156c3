//! Takes a header off what a connection begins with.

use crate::error::Error;
use crate::header::Header;
use crate::{v1, v2};

/// Largest header that is taken, in bytes; of version 1 at most [`v1::LINE_MOST`]. What proxies add (names, certificates' subjects,
/// ids) is far below it. Whoever reads needs no larger buffer.
pub const HEADER_MOST: usize = 4096;

/// The header that `bytes` begin with, and its length. `None` while more must come before that can be said; then `bytes` are fewer than
/// [`HEADER_MOST`].
pub fn read(bytes: &[u8]) -> Result<Option<(Header<'_>, usize)>, Error> {
    if agrees(bytes, v2::SIGNATURE) {
        v2::read(bytes)
    } else if agrees(bytes, v1::SIGNATURE) {
        v1::read(bytes)
    } else {
        Err(Error::Absent)
    }
}

/// Whether these bytes begin a header of any version; `None` while there are too few to tell. For peers that must not send one.
pub fn begins_one(bytes: &[u8]) -> Option<bool> {
    let mut undecided = bytes.is_empty();
    for signature in [v1::SIGNATURE, v2::SIGNATURE] {
        if agrees(bytes, signature) {
            if bytes.len() >= signature.len() {
                return Some(true);
            }
            undecided = true;
        }
    }
    if undecided { None } else { Some(false) }
}

/// As far as there are bytes they are those of the signature.
fn agrees(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}
