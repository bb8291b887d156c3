//! Hashes that requests and servers are brought together by.

/// FNV-1 with 32 bits, the hash of Easegress's `ipHash` and `headerHash`.
pub fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

/// 64 bits that are spread well also where texts differ in their last letter alone: FNV-1a, stirred (the end of MurmurHash3). The same on
/// every machine and in every version, so that whoever has the same servers leads the same clients to the same ones.
pub fn spread64(seed: u64, bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ stirred(seed), |hash: u64, b| {
        (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    stirred(hash)
}

/// All bits of a number in each of its bits.
pub fn stirred(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1_vectors() {
        assert_eq!(fnv1_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1_32(b"a"), 0x050c_5d7e);
        assert_eq!(fnv1_32(b"foobar"), 0x31f0_b262);
    }

    /// What has been agreed on between machines and versions does not change.
    #[test]
    fn the_spread_is_what_it_was() {
        assert_eq!(stirred(1), 0xb456_bcfc_34c2_cb2c);
        let mut buckets = [0u32; 16];
        for n in 0..16_000 {
            buckets[(spread64(0, format!("user-{n}").as_bytes()) % 16) as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }
}
