//! Ethernet, with at most one VLAN tag (802.1Q or 802.1ad).

use crate::{Frame, Tables, Window};

use abi::Reason;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const VLAN_SERVICE: u16 = 0x88a8;

/// Length of an Ethernet header without a tag.
pub const HEADER: usize = 14;
const TAG: usize = 4;

/// The link header of a frame, taken out so that the frame's head may move.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// The two addresses as they lie on the wire: destination, then source.
    addresses: [u16; 6],
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
        let addresses = [w.u16_raw(0), w.u16_raw(2), w.u16_raw(4), w.u16_raw(6), w.u16_raw(8), w.u16_raw(10)];
        let kind = w.u16(12);
        if kind != VLAN && kind != VLAN_SERVICE {
            return Ok(Ethernet { addresses, tag: [0; 2], kind, length: HEADER });
        }
        let Some(t) = frame.window::<TAG>(HEADER) else { return Err(Reason::EthernetTruncated) };
        let tag = [kind.to_be(), t.u16_raw(0)];
        Ok(Ethernet { addresses, tag, kind: t.u16(2), length: HEADER + TAG })
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
        let (to, from) = match send {
            Send::Keep => ([a[0], a[1], a[2]], [a[3], a[4], a[5]]),
            Send::Back => ([a[3], a[4], a[5]], [a[0], a[1], a[2]]),
            Send::To(m) => {
                let raw = |i: usize| u16::from_ne_bytes([m[i], m[i + 1]]);
                ([raw(0), raw(2), raw(4)], [a[0], a[1], a[2]])
            }
        };
        w.put_u16_raw(0, to[0]);
        w.put_u16_raw(2, to[1]);
        w.put_u16_raw(4, to[2]);
        w.put_u16_raw(6, from[0]);
        w.put_u16_raw(8, from[1]);
        w.put_u16_raw(10, from[2]);
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
