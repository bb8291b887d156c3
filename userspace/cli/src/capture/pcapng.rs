//! A file of packets in the pcapng format (draft-ietf-opsawg-pcapng), as much of it as a capture needs: one section, an interface block for
//! each interface of each machine, a packet block for each packet, and statistics at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// A packet to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    pub machine: &'a str,
    pub interface: &'a str,
    pub queue: u32,
    /// Since 1970.
    pub nanoseconds: u64,
    /// What XDP is told to do with it: XDP_DROP 1, XDP_PASS 2, XDP_TX 3.
    pub action: u8,
    /// Bytes of the frame, which may be more than `frame` has.
    pub length: u32,
    pub frame: &'a [u8],
    pub comment: &'a str,
}

/// Writes the blocks, each as a whole, so that what was written can be read while the rest is to come.
pub struct Writer<W> {
    out: W,
    /// Bytes of a frame that are kept at most, said of every interface.
    snap: u32,
    /// By machine and name, the number of its block and what was written of it.
    interfaces: BTreeMap<(String, String), (u32, u64)>,
}

impl<W: Write> Writer<W> {
    /// Begins with the section header (section 4.1).
    pub fn new(out: W, snap: u32, application: &str) -> io::Result<Writer<W>> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend([1u16, 0].map(u16::to_le_bytes).concat());
        // How long the section is is not known.
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, SHB_USERAPPL, application.as_bytes());
        end_of_options(&mut body);
        let mut writer = Writer { out, snap, interfaces: BTreeMap::new() };
        writer.block(SECTION, &body)?;
        Ok(writer)
    }

    /// An enhanced packet block (section 4.3), behind the block of its interface where that is new.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.machine, packet.interface)?;
        if let Some((_, written)) = self.interfaces.get_mut(&key(packet.machine, packet.interface)) {
            *written += 1;
        }
        let mut body = Vec::with_capacity(packet.frame.len() + 200);
        body.extend(interface.to_le_bytes());
        body.extend(((packet.nanoseconds >> 32) as u32).to_le_bytes());
        body.extend((packet.nanoseconds as u32).to_le_bytes());
        body.extend((packet.frame.len() as u32).to_le_bytes());
        body.extend(packet.length.to_le_bytes());
        body.extend(packet.frame);
        pad(&mut body);
        option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
        let direction = if packet.action == XDP_TX { OUTBOUND } else { INBOUND };
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
        option(&mut body, EPB_QUEUE, &packet.queue.to_le_bytes());
        let verdict = [&[VERDICT_OF_XDP][..], &u64::from(packet.action).to_le_bytes()].concat();
        option(&mut body, EPB_VERDICT, &verdict);
        end_of_options(&mut body);
        self.block(PACKET, &body)?;
        self.out.flush()
    }

    /// An interface statistics block for each interface (section 4.6), with what was missed on its machine, and the end.
    pub fn finish(mut self, nanoseconds: u64, missed: &BTreeMap<String, u64>) -> io::Result<()> {
        if self.interfaces.is_empty() {
            // Readers want to know of what link the packets are that there are none of.
            self.interface("", "any")?;
        }
        let mut told = None;
        for ((machine, _), (number, written)) in std::mem::take(&mut self.interfaces) {
            let mut body = Vec::new();
            body.extend(number.to_le_bytes());
            body.extend(((nanoseconds >> 32) as u32).to_le_bytes());
            body.extend((nanoseconds as u32).to_le_bytes());
            // It is not known of which of a machine's interfaces: said once.
            let missed = if told.as_ref() == Some(&machine) { 0 } else { missed.get(&machine).copied().unwrap_or(0) };
            option(&mut body, ISB_IFRECV, &(written + missed).to_le_bytes());
            option(&mut body, ISB_IFDROP, &missed.to_le_bytes());
            end_of_options(&mut body);
            self.block(STATISTICS, &body)?;
            told = Some(machine);
        }
        self.out.flush()
    }

    /// The number of the interface; its block (section 4.2) is written where it has none.
    fn interface(&mut self, machine: &str, name: &str) -> io::Result<u32> {
        let next = self.interfaces.len() as u32;
        if let Some((number, _)) = self.interfaces.get(&key(machine, name)) {
            return Ok(*number);
        }
        let mut body = Vec::new();
        body.extend([ETHERNET, 0].map(u16::to_le_bytes).concat());
        body.extend(self.snap.to_le_bytes());
        let shown = if machine.is_empty() { name.to_owned() } else { format!("{machine}/{name}") };
        option(&mut body, IF_NAME, shown.as_bytes());
        option(&mut body, IF_TSRESOL, &[9]);
        end_of_options(&mut body);
        self.block(INTERFACE, &body)?;
        self.interfaces.insert(key(machine, name), (next, 0));
        Ok(next)
    }

    /// Type and length, the body, which is padded, and the length again (section 3.1).
    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&[&kind.to_le_bytes()[..], &length, body, &length].concat())
    }
}

fn key(machine: &str, interface: &str) -> (String, String) {
    (machine.to_owned(), interface.to_owned())
}

/// Code, length and value (section 3.5).
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

const XDP_TX: u8 = 3;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const EPB_FLAGS: u16 = 2;
const EPB_QUEUE: u16 = 6;
const EPB_VERDICT: u16 = 7;
/// Of an epb_verdict: what XDP returned, in 64 bits.
const VERDICT_OF_XDP: u8 = 2;
/// Of epb_flags.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds and bodies of the blocks; lengths on both sides are the same, and multiples of four.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: &[u8]| u32::from_le_bytes(at[..4].try_into().expect("four bytes"));
        let mut found = Vec::new();
        while !file.is_empty() {
            let (kind, length) = (word(file), word(&file[4..]) as usize);
            assert!(length.is_multiple_of(4) && word(&file[length - 4..]) as usize == length);
            found.push((kind, file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    fn contains(body: &[u8], bytes: &[u8]) -> bool {
        body.windows(bytes.len()).any(|window| window == bytes)
    }

    #[test]
    fn each_interface_is_told_of_once_and_each_packet_with_what_became_of_it() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 2048, "weirctl").unwrap();
        let packet = Packet {
            machine: "edge-1",
            interface: "eth0",
            queue: 3,
            nanoseconds: (7 << 32) + 9,
            action: 3,
            length: 1500,
            frame: &[1, 2, 3, 4, 5],
            comment: "reason=forwarded",
        };
        for machine in ["edge-1", "edge-2", "edge-1"] {
            writer.packet(&Packet { machine, ..packet.clone() }).unwrap();
        }
        writer.finish(1, &[("edge-1".to_owned(), 5)].into()).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET, STATISTICS, STATISTICS]);
        assert!(contains(&blocks[1].1, b"edge-1/eth0") && contains(&blocks[3].1, b"edge-2/eth0"));
        let body = &blocks[5].1;
        assert_eq!(body[..28], [0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0xdc, 5, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(body[28..32], [1, 0, 16, 0], "a comment of 16 bytes");
        assert!(contains(body, b"reason=forwarded"));
        assert!(contains(body, &[7, 0, 9, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "XDP_TX, padded");
        assert!(contains(body, &[2, 0, 4, 0, 2, 0, 0, 0]), "outbound");
        assert_eq!(blocks[4].1[..4], [1, 0, 0, 0], "of the second interface");
        assert!(contains(&blocks[6].1, &[4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 8, 0, 5, 0, 0, 0]));
    }

    #[test]
    fn a_file_without_packets_has_an_interface_all_the_same() {
        let mut file = Vec::new();
        Writer::new(&mut file, 64, "weirctl").unwrap().finish(1, &BTreeMap::new()).unwrap();
        assert_eq!(blocks(&file).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION, INTERFACE, STATISTICS]);
    }
}
