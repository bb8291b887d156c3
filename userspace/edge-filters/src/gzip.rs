//! gzip of bodies in memory, bounded in size and polite to the other tasks of a worker.

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::io::{Read, Write};

/// Why a body did not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GzipError {
    /// Not gzip, cut short, or with a wrong checksum.
    Corrupt,
    /// More bytes than the bound: most likely a bomb.
    TooLarge,
}

impl std::fmt::Display for GzipError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GzipError::Corrupt => "the body is not gzip",
            GzipError::TooLarge => "the body unpacks to more than its bound",
        })
    }
}

/// Unpacks `packed` to at most `most` bytes.
pub(crate) async fn decompress(packed: &[u8], most: usize) -> Result<Vec<u8>, GzipError> {
    let mut decoder = MultiGzDecoder::new(packed);
    let mut out = Vec::new();
    let mut turn = vec![0; TURN.min(most + 1)];
    let mut since_yield = 0;
    loop {
        let read = decoder.read(&mut turn).map_err(|_| GzipError::Corrupt)?;
        if read == 0 {
            return Ok(out);
        }
        if out.len() + read > most {
            return Err(GzipError::TooLarge);
        }
        out.extend_from_slice(&turn[..read]);
        since_yield += read;
        if since_yield >= YIELD_AFTER {
            since_yield = 0;
            base_runtime::yield_now().await;
        }
    }
}

pub(crate) async fn compress(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3 + 64), Compression::new(LEVEL));
    for (index, piece) in plain.chunks(YIELD_AFTER_PACKING).enumerate() {
        if index > 0 {
            base_runtime::yield_now().await;
        }
        // Writing to a Vec cannot fail, here and at the end.
        let _ = encoder.write_all(piece);
    }
    encoder.finish().unwrap_or_default()
}

/// Largest body a decompression may give, in bytes: four times the limit of a collected body.
pub(crate) const UNPACKED_MAX: usize = 4 * edge_pipeline::exchange::DEFAULT_BODY_LIMIT as usize;
/// Level 5 is where more time stops buying much size.
const LEVEL: u32 = 5;
const TURN: usize = 64 * 1024;
/// A quarter of a megabyte takes about a millisecond to unpack.
const YIELD_AFTER: usize = 256 * 1024;
/// Packing takes ten times as long.
const YIELD_AFTER_PACKING: usize = 32 * 1024;
