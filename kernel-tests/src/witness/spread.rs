//! Which slot a flow has, as the module `flow` of the datapath promises it to every release, and which prefix an address lies in.

use std::net::IpAddr;

use edge_kernel::Hash;

use super::Flow;

const SLOTS: u64 = 65_537;

pub fn slot(flow: &Flow, mode: Hash, seed: u32) -> usize {
    let (source, destination) = (flow.client.ip(), flow.vip.ip());
    let (mut from, mut to) = (bits(source), bits(destination));
    let (mut source_port, mut destination_port) = (u64::from(flow.client.port()), u64::from(flow.vip.port()));
    let mut protocol = u64::from(flow.protocol);
    match mode {
        Hash::FiveTuple => {}
        Hash::SourceIp | Hash::SourcePrefix { .. } => (to, source_port, destination_port, protocol) = (0, 0, 0, 0),
        Hash::DestinationPort => (from, to, source_port) = (0, 0, 0),
    }
    if let Hash::SourcePrefix { v4, v6 } = mode {
        from &= mask(source, if source.is_ipv4() { v4 } else { v6 });
    }
    // Words as they lie in the memory of a little-endian machine.
    let word = |bits: u128, at: u32| u64::from(((bits >> (96 - 32 * at)) as u32).swap_bytes());
    let mut words = Vec::new();
    if source.is_ipv4() {
        words.push(word(from, 3) << 32 | word(to, 3));
    } else {
        for address in [from, to] {
            words.extend([word(address, 0) << 32 | word(address, 1), word(address, 2) << 32 | word(address, 3)]);
        }
    }
    words.push(source_port << 32 | destination_port << 8 | protocol);
    let mut hash = 0x2436_a885_a308_d313 ^ u64::from(seed);
    for word in words {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 29;
    (((hash >> 32) * SLOTS) >> 32) as usize
}

pub fn lies_in(address: IpAddr, prefix: IpAddr, length: u8) -> bool {
    address.is_ipv4() == prefix.is_ipv4() && (bits(address) ^ bits(prefix)) & mask(address, length) == 0
}

/// As a number; of IPv4 the last 32 bits of it.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The first so many bits of an address of its family.
fn mask(address: IpAddr, length: u8) -> u128 {
    let width = if address.is_ipv4() { 32 } else { 128 };
    (0..width).filter(|bit| bit + u32::from(length) >= width).fold(0, |mask, bit| mask | 1 << bit)
}
