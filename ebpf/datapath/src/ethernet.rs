//! Ethernet, with at most one VLAN tag (802.1Q or 802.1ad).

use crate::{Frame, Tables, Window};

use abi::Reason;

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
    /// To a machine on this link.
    To([u8; 6]),
}

impl Ethernet {
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

    /// Of a frame without a tag, which the window is the start of.
    #[inline(always)]
    pub fn untagged(w: impl Window) -> Ethernet {
        let addresses = [w.u32_raw(0), w.u32_raw(4), w.u32_raw(8)];
        Ethernet { addresses, tag: [0; 2], kind: w.u16(12), length: HEADER }
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
        let a = &self.addresses;
        let words = match send {
            Send::Keep => *a,
            Send::Back => [a[1] >> 16 | a[2] << 16, a[2] >> 16 | a[0] << 16, a[0] >> 16 | a[1] << 16],
            Send::To(m) => [
                u32::from_le_bytes([m[0], m[1], m[2], m[3]]),
                u16::from_le_bytes([m[4], m[5]]) as u32 | a[0] << 16,
                a[0] >> 16 | a[1] << 16,
            ],
        };
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
