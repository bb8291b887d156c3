//! What the driver of an interface says of it: its name, what it does to packets by itself, by what it spreads them over its queues, and
//! how many frames of ours it has lost. A driver that does not answer a question is taken to have nothing to say.

use std::io;
use std::mem::size_of;

use crate::interface;

/// Frames that XDP gave back to the driver, and that it did not send, since the interface was made: by the driver's own counters. None
/// where it has none.
pub(crate) fn lost(name: &str) -> Option<u64> {
    let (names, values) = statistics(name)?;
    let counts = names.iter().zip(&values).filter(|(name, _)| counts_lost(name)).map(|(_, count)| *count);
    counts.reduce(|sum, count| sum.saturating_add(count))
}

/// `rx_queue_0_xdp_tx_errors` (veth), `tx_queue_0_xdp_tx_drops` (virtio_net), `rx_xdp_tx_full`, `rx3_xdp_tx_err`, `tx0_xdp_full` (mlx5),
/// `rx_xdp_tx_errors[0]` (gve): each driver has its own words, and no other counter has all of these.
fn counts_lost(name: &str) -> bool {
    let lost = ["err", "drop", "full", "fail", "bad"];
    name.contains("xdp") && name.contains("tx") && lost.iter().any(|word| name.contains(word))
}

/// Its name, as `ethtool -i` has it.
pub(crate) fn driver(name: &str) -> Option<String> {
    let mut information = Information::asked(GDRVINFO);
    ask(name, &mut information).ok()?;
    let text = information.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned()).filter(|name| !name.is_empty())
}

/// Whether something the hardware or driver can do by itself is on, by its name in `ethtool -k`.
pub(crate) fn is_on(name: &str, feature: &str) -> bool {
    let Some(names) = strings(name, SS_FEATURES) else { return false };
    let Some(at) = names.iter().position(|name| name == feature) else { return false };
    let blocks = names.len().div_ceil(32);
    // A command, how many blocks follow, and of each what is available, asked for, on, and never changes.
    let mut words = vec![0u32; 2 + 4 * blocks];
    (words[0], words[1]) = (GFEATURES, blocks as u32);
    ask_words(name, &mut words).is_ok() && words.get(2 + 4 * (at / 32) + 2).is_some_and(|on| on >> (at % 32) & 1 != 0)
}

/// Whether ports count when datagrams are spread over the queues; none where it does not say.
pub(crate) fn spreads_datagrams_by_ports(name: &str, v4: bool) -> Option<bool> {
    // `struct ethtool_rxnfc`: command, flow type, and what counts; more follows that is of other questions.
    let mut words = [0u32; 48];
    (words[0], words[1]) = (GRXFH, if v4 { UDP_V4_FLOW } else { UDP_V6_FLOW });
    ask_words(name, &mut words).ok()?;
    let counts = u64::from(words[2]) | u64::from(words[3]) << 32;
    (counts != 0).then_some(counts & BOTH_PORTS == BOTH_PORTS)
}

fn statistics(name: &str) -> Option<(Vec<String>, Vec<u64>)> {
    let names = strings(name, SS_STATS)?;
    let mut words = vec![0u32; 2 + 2 * room(names.len())];
    (words[0], words[1]) = (GSTATS, names.len() as u32);
    ask_words(name, &mut words).ok()?;
    // The kernel says how many it wrote: of another number none is known by its name.
    if words[1] as usize != names.len() {
        return None;
    }
    let value = |pair: &[u32]| {
        let [low, high] = [pair[0].to_ne_bytes(), pair[1].to_ne_bytes()];
        u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]])
    };
    let values = words[2..].chunks_exact(2).map(value).take(names.len()).collect();
    Some((names, values))
}

/// The names of a set.
fn strings(name: &str, set: u32) -> Option<Vec<String>> {
    // `struct ethtool_sset_info`: command, reserved, a mask of sets, and how many strings each has.
    let mut words = [GSSET_INFO, 0, 0, 0, 0];
    let mask = (1u64 << set).to_ne_bytes();
    words[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
    words[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
    ask_words(name, &mut words).ok()?;
    let count = words[4] as usize;
    if count == 0 || count > STRINGS_MAX {
        return None;
    }
    // A command, which set, how many, and 32 bytes each.
    let mut words = vec![0u32; 3 + room(count) * STRING / size_of::<u32>()];
    (words[0], words[1], words[2]) = (GSTRINGS, set, count as u32);
    ask_words(name, &mut words).ok()?;
    if words[2] as usize != count {
        return None;
    }
    let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text = |chunk: &[u8]| {
        let end = chunk.iter().position(|byte| *byte == 0).unwrap_or(STRING);
        String::from_utf8_lossy(&chunk[..end]).into_owned()
    };
    Some(bytes.chunks_exact(STRING).map(text).take(count).collect())
}

/// For so many and more: before Linux 6.19 the kernel writes as many as the driver has when it is asked, whatever the question says, and
/// queues, with their counters, come and go. No card has more than a few for each of its queues, and none gains so many in between.
fn room(count: usize) -> usize {
    (4 * count).max(ROOM_LEAST)
}

fn ask_words(name: &str, words: &mut [u32]) -> io::Result<()> {
    // SAFETY: as long as the command that stands in it says, and where the kernel may write more, as long as that can be: see `room`.
    unsafe { interface::ethtool(name, words.as_mut_ptr().cast()) }
}

fn ask(name: &str, information: &mut Information) -> io::Result<()> {
    // SAFETY: the structure of its command.
    unsafe { interface::ethtool(name, (&raw mut *information).cast()) }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct Information {
    command: u32,
    driver: [u8; 32],
    /// Versions, bus, and counts of what else there is.
    rest: [u8; 4 * 32 + 12 + 5 * 4],
}

impl Information {
    fn asked(command: u32) -> Information {
        Information { command, driver: [0; 32], rest: [0; 160] }
    }
}

const _: () = assert!(size_of::<Information>() == 196);

const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GRXFH: u32 = 0x29;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SS_STATS: u32 = 1;
const SS_FEATURES: u32 = 4;
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// RXH_L4_B_0_1 and RXH_L4_B_2_3.
const BOTH_PORTS: u64 = 1 << 6 | 1 << 7;
const STRING: usize = 32;
/// More than cards have whose queues are not made yet.
const ROOM_LEAST: usize = 16_384;
/// Cards with hundreds of queues have some thousands.
const STRINGS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_what_is_lost_are_told_from_others() {
        for name in [
            "rx_queue_0_xdp_tx_errors",
            "tx_queue_1_xdp_tx_drops",
            "rx_xdp_tx_full",
            "rx3_xdp_tx_err",
            "tx0_xdp_full",
            "tx_xdp_err",
            "rx_xdp_tx_errors[0]",
        ] {
            assert!(counts_lost(name), "{name}");
        }
        for name in [
            "rx_queue_0_xdp_tx",
            "rx_queue_0_xdp_drops",
            "rx_xdp_drop",
            "rx_xdp_redirect_errors",
            "tx_errors",
            "tx_queue_0_xdp_xmit",
            "tx_dropped",
        ] {
            assert!(!counts_lost(name), "{name}");
        }
    }

    #[test]
    fn there_is_room_for_more_than_was_asked_for() {
        for count in [1, 100, 10_000, STRINGS_MAX] {
            assert!(room(count) >= 4 * count && room(count) >= ROOM_LEAST);
        }
    }

    #[test]
    fn the_loopback_can_be_asked_and_what_is_not_there_says_nothing() {
        assert_eq!((lost("nosuch0"), driver("nosuch0"), is_on("nosuch0", "rx-gro")), (None, None, false));
        assert_eq!(spreads_datagrams_by_ports("lo", true), None, "it has no queues to spread over");
        assert!(is_on("lo", "rx-gro") && !is_on("lo", "no-such-feature"));
    }
}
