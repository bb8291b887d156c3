//! IPv4 and IPv6 headers, up to the transport header.

use abi::limits::{IPV6_EXTENSIONS_MAX, TRANSPORT_OFFSET_MAX};
use abi::{Address, Part, Reason};

use crate::{Frame, Tables, Window};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP_V6: u8 = 58;

pub const HEADER_V4: usize = 20;
pub const HEADER_V6: usize = 40;

/// What the fixed part of the header says. Nothing of it has been checked but that it is there.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub v4: bool,
    /// Where it starts in the frame.
    pub at: usize,
    pub source: Address,
    pub destination: Address,
    /// Protocol, or the first next-header of IPv6.
    pub protocol: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub class: u8,
    /// Length of the packet, header included, as the header says.
    pub length: usize,
    /// First byte of an IPv4 header: version and header length.
    first: u8,
    /// Flags and offset word of an IPv4 header.
    fragment: u16,
}

/// Where the transport header is, and whether it is there at all.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    pub protocol: u8,
    pub at: usize,
    /// Only a part of a datagram is here.
    pub fragment: bool,
    /// And not the first, so that `at` is where something goes on whose ports are elsewhere.
    pub later: bool,
    /// Of which datagram, as it lies on the wire; 0 for a whole one.
    pub id: u32,
}

impl Ip {
    #[inline(always)]
    pub fn parse_v4(frame: &impl Frame, at: usize) -> Result<Ip, Reason> {
        let Some(w) = frame.window::<HEADER_V4>(at) else { return Err(Reason::Ipv4Truncated) };
        Ok(Ip {
            v4: true,
            at,
            source: Address::from_v4_raw(w.u32_raw(12)),
            destination: Address::from_v4_raw(w.u32_raw(16)),
            protocol: w.u8(9),
            class: w.u8(1),
            length: w.u16(2) as usize,
            first: w.u8(0),
            fragment: w.u16(6),
        })
    }

    #[inline(always)]
    pub fn parse_v6(frame: &impl Frame, at: usize) -> Result<Ip, Reason> {
        let Some(w) = frame.window::<HEADER_V6>(at) else { return Err(Reason::Ipv6Truncated) };
        let source = Address([w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)]);
        let destination = Address([w.u32_raw(24), w.u32_raw(28), w.u32_raw(32), w.u32_raw(36)]);
        if source.is_v4() || destination.is_v4() {
            // It would be taken for the IPv4 address that it maps. Such do not travel (RFC 4291 section 2.5.5.2): the stack's.
            return Err(Reason::NotVip);
        }
        Ok(Ip {
            v4: false,
            at,
            source,
            destination,
            protocol: w.u8(6),
            class: (w.u16(0) >> 4) as u8,
            length: w.u16(4) as usize + HEADER_V6,
            first: w.u8(0),
            fragment: 0,
        })
    }

    /// Of a whole packet without options, from `source` to `destination`.
    #[inline(always)]
    pub fn whole(
        v4: bool,
        at: usize,
        [source, destination]: [Address; 2],
        protocol: u8,
        class: u8,
        length: usize,
    ) -> Ip {
        Ip { v4, at, source, destination, protocol, class, length, first: PLAIN, fragment: 0 }
    }

    /// Of a packet whose header was read before.
    #[inline(always)]
    pub fn of(part: &Part) -> Ip {
        Ip {
            v4: part.key.destination.is_v4(),
            at: part.at as usize,
            source: part.key.source,
            destination: part.key.destination,
            protocol: part.key.protocol as u8,
            class: part.class as u8,
            length: part.length as usize,
            first: PLAIN,
            fragment: 0,
        }
    }

    /// Behind this, whether it may be taken apart no longer divides the roads.
    #[inline(always)]
    pub fn forget(&mut self, tables: &impl Tables) {
        self.fragment = tables.forget(self.fragment as usize) as u16;
    }

    /// No IPv4 options: the header has its shortest length.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        !self.v4 || self.first == PLAIN
    }

    /// Part of an IPv4 datagram; always false for IPv6, whose fragments have a header of their own.
    #[inline(always)]
    pub fn is_fragment_v4(&self) -> bool {
        self.fragment & 0x3fff != 0
    }

    /// Part of an IPv4 datagram, and not the first: what follows the header is no transport header.
    #[inline(always)]
    pub fn is_later_fragment_v4(&self) -> bool {
        self.fragment & 0x1fff != 0
    }

    /// Whether routers must not take the packet apart: always so with IPv6 (RFC 8200 section 5), with IPv4 when it says so.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        !self.v4 || self.fragment & 0x4000 != 0
    }

    /// Checks the header against the frame and finds the transport header.
    #[inline(always)]
    pub fn transport(&self, frame: &impl Frame, tables: &impl Tables) -> Result<Transport, Reason> {
        let mut found = if self.v4 { self.transport_v4(frame)? } else { self.transport_v6(frame, tables)? };
        found.at = tables.forget(found.at);
        found.protocol = tables.forget(found.protocol as usize) as u8;
        found.fragment = tables.forget(found.fragment as usize) != 0;
        found.later = tables.forget(found.later as usize) != 0;
        found.id = tables.forget(found.id as usize) as u32;
        Ok(found)
    }

    #[inline(always)]
    fn transport_v4(&self, frame: &impl Frame) -> Result<Transport, Reason> {
        let header = (self.first & 0x0f) as usize * 4;
        if self.first >> 4 != 4 || header < HEADER_V4 || self.length < header {
            return Err(Reason::Ipv4Malformed);
        }
        if self.at + self.length > frame.len() {
            return Err(Reason::Ipv4Truncated);
        }
        let fragment = self.fragment & 0x3fff != 0;
        let mut id = 0;
        if fragment {
            let Some(w) = frame.window::<HEADER_V4>(self.at) else { return Err(Reason::Ipv4Truncated) };
            id = w.u16_raw(4) as u32;
        }
        let later = self.is_later_fragment_v4();
        Ok(Transport { protocol: self.protocol, at: self.at + header, fragment, later, id })
    }

    #[inline(always)]
    fn transport_v6(&self, frame: &impl Frame, tables: &impl Tables) -> Result<Transport, Reason> {
        let end = self.at + self.length;
        if self.first >> 4 != 6 || end > frame.len() {
            return Err(Reason::Ipv6Truncated);
        }
        let mut protocol = self.protocol;
        let mut at = self.at + HEADER_V6;
        let mut fragment = false;
        let mut later = false;
        let mut id = 0;
        let mut walked = 0;
        while is_extension(protocol) {
            if walked == IPV6_EXTENSIONS_MAX || at > TRANSPORT_OFFSET_MAX {
                return Err(Reason::Ipv6ExtensionsTooMany);
            }
            let Some(w) = frame.window::<8>(at) else { return Err(Reason::Ipv6Truncated) };
            let length = extension_length(protocol, w.u8(1));
            let mut offset = 0;
            if protocol == FRAGMENT {
                let word = w.u16(2);
                offset = word & 0xfff8;
                // An atomic fragment (RFC 6946) is a whole datagram.
                fragment |= word & 0xfff9 != 0;
                later = offset != 0;
                id = w.u32_raw(4);
            }
            protocol = w.u8(0);
            at = tables.forget(at + length);
            fragment = tables.forget(fragment as usize) != 0;
            id = tables.forget(id as usize) as u32;
            walked += 1;
            if offset != 0 {
                // What follows is the middle of something.
                break;
            }
        }
        if at > end {
            return Err(Reason::Ipv6Truncated);
        }
        if at > TRANSPORT_OFFSET_MAX {
            return Err(Reason::Ipv6ExtensionsTooMany);
        }
        Ok(Transport { protocol, at, fragment, later, id })
    }
}

/// How an IPv4 header without options begins.
pub const PLAIN: u8 = 0x45;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Of an extension header, by what it says itself.
#[inline(always)]
pub fn extension_length(protocol: u8, said: u8) -> usize {
    match protocol {
        FRAGMENT => 8,
        AUTHENTICATION => (said as usize + 2) * 4,
        _ => (said as usize + 1) * 8,
    }
}

#[inline(always)]
pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}
