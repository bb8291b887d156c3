//! Ethernet, with at most one VLAN tag (802.1Q or 802.1ad).

use crate::{Frame, Tables, Window};

use abi::{Machine, Reason};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const VLAN_SERVICE: u16 = 0x88a8;

/// Length of an Ethernet header without a tag.
pub const HEADER: usize = 14;
pub const TAG: usize = 4;

/// The link header of a frame, taken out so that the frame's head may move.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// The two addresses as they lie on the wire: destination, then source, in three words (machines are little-endian).
    addresses: [u32; 3],
    /// Tag protocol and tag, raw; zero: untagged.
    tag: [u16; 2],
    /// What is carried, behind the tag.
    pub kind: u16,
    /// Where it starts.
    pub length: usize,
}

/// Whom the frame goes to after it was changed.
#[derive(Clone, Copy, Debug)]
pub enum Send {
    /// As it was addressed: it stays on this machine.
    Keep,
    /// Back to the MAC it came from.
    Back,
    /// To a machine on this link: its MAC, the first byte lowest.
    To(u64),
}

impl Send {
    #[inline(always)]
    pub fn to(machine: &Machine) -> Send {
        if machine.next_hop == 0 { Send::Back } else { Send::To(machine.next_hop) }
    }
}

impl Ethernet {
    /// Where there is one without a tag that nobody asks for.
    pub const UNREAD: Ethernet = Ethernet { addresses: [0; 3], tag: [0; 2], kind: 0, length: HEADER };

    #[inline(always)]
    pub fn parse(frame: &impl Frame) -> Result<Ethernet, Reason> {
        let Some(w) = frame.window::<HEADER>(0) else { return Err(Reason::EthernetTruncated) };
        let addresses = [w.u32_raw(0), w.u32_raw(4), w.u32_raw(8)];
        let kind = w.u16(12);
        if kind != VLAN && kind != VLAN_SERVICE {
            return Ok(Ethernet { addresses, tag: [0; 2], kind, length: HEADER });
        }
        let Some(t) = frame.window::<TAG>(HEADER) else { return Err(Reason::EthernetTruncated) };
        let tag = [kind.to_be(), t.u16_raw(0)];
        Ok(Ethernet { addresses, tag, kind: t.u16(2), length: HEADER + TAG })
    }

    /// Of a frame without a tag: what lies at `at` becomes the header of a frame that begins with the window.
    #[inline(always)]
    pub fn move_up(w: impl Window, at: usize, kind: u16, send: Send) {
        let [a, b, c] = addressed([w.u32_raw(at), w.u32_raw(at + 4), w.u32_raw(at + 8)], send);
        w.put_u32_raw(0, a);
        w.put_u32_raw(4, b);
        w.put_u32_raw(8, c);
        w.put_u16(12, kind);
    }

    /// The MAC it came from, its first byte lowest.
    #[inline(always)]
    pub fn from(&self) -> u64 {
        (self.addresses[1] >> 16) as u64 | (self.addresses[2] as u64) << 16
    }

    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        self.length != HEADER
    }

    /// Behind this, whether there was a tag no longer divides the roads.
    #[inline(always)]
    pub fn forget(&mut self, tables: &impl Tables) {
        self.length = tables.forget(self.length);
        self.tag[0] = tables.forget(self.tag[0] as usize) as u16;
    }

    /// Writes the header at the start of the frame. False when the frame is too short for it.
    #[inline(always)]
    pub fn write(&self, frame: &impl Frame, kind: u16, send: Send) -> bool {
        let Some(w) = frame.window::<HEADER>(0) else { return false };
        let words = addressed(self.addresses, send);
        w.put_u32_raw(0, words[0]);
        w.put_u32_raw(4, words[1]);
        w.put_u32_raw(8, words[2]);
        if self.tag[0] == 0 {
            w.put_u16(12, kind);
            return true;
        }
        let Some(t) = frame.window::<TAG>(HEADER) else { return false };
        w.put_u16_raw(12, self.tag[0]);
        t.put_u16_raw(0, self.tag[1]);
        t.put_u16(2, kind);
        true
    }
}

/// The two addresses of a frame that goes there.
#[inline(always)]
fn addressed(a: [u32; 3], send: Send) -> [u32; 3] {
    match send {
        Send::Keep => a,
        Send::Back => [a[1] >> 16 | a[2] << 16, a[2] >> 16 | a[0] << 16, a[0] >> 16 | a[1] << 16],
        Send::To(mac) => [mac as u32, (mac >> 32) as u32 & 0xffff | a[0] << 16, a[0] >> 16 | a[1] << 16],
    }
}
