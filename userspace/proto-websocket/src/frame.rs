//! The heads of frames (RFC 6455 section 5.2).
//!
//! ```text
//!  0               1               2               3
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |F|R|R|R| opcode|M| length (7)  | length (16 or 64, when the    |
//! |I|S|S|S|  (4)  |A|             | first is 126 or 127)          |
//! |N|V|V|V|       |S|             |                               |
//! | |1|2|3|       |K|             |                               |
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! | mask (32, when MASK is set)   | payload …                     |
//! ```

use crate::fault::Fault;

/// Longest head of a frame, in bytes.
pub const HEAD_MOST: usize = 14;

/// Longest payload of a control frame, in bytes.
pub const CONTROL_MOST: u64 = 125;

/// Who sends: clients mask their frames, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn read(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    pub const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    pub const fn is_control(self) -> bool {
        self.bits() >= 8
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// The message ends with it.
    pub last: bool,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    /// Bytes of the payload.
    pub length: u64,
    /// Bytes of the head itself.
    pub size: usize,
}

/// Reads the head of a frame that `sender` sends; `None`: more is needed. What the first two bytes say is judged as soon as they are
/// there.
pub fn read_head(bytes: &[u8], sender: Sender) -> Result<Option<FrameHead>, Fault> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Fault::ReservedBit);
    }
    let opcode = Opcode::read(first & 0x0f).ok_or(Fault::Opcode)?;
    let (last, masked, short) = (first & 0x80 != 0, second & 0x80 != 0, second & 0x7f);
    if masked != (sender == Sender::Client) {
        return Err(Fault::Mask);
    }
    if opcode.is_control() && (!last || u64::from(short) > CONTROL_MOST) {
        return Err(Fault::Control);
    }
    let (length, wide) = match short {
        126 => match rest.first_chunk() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    let least = match wide {
        2 => CONTROL_MOST + 1,
        8 => 1 << 16,
        _ => 0,
    };
    if length < least || length >> 63 != 0 {
        return Err(Fault::Length);
    }
    let mask = match (masked, rest[wide..].first_chunk()) {
        (false, _) => None,
        (true, Some(mask)) => Some(*mask),
        (true, None) => return Ok(None),
    };
    let size = 2 + wide + if masked { 4 } else { 0 };
    Ok(Some(FrameHead { last, opcode, mask, length, size }))
}

/// Appends a frame, its payload masked where there is a mask.
pub fn write(out: &mut Vec<u8>, last: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) {
    out.push(if last { 0x80 } else { 0 } | opcode.bits());
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => out.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let Some(mask) = mask else { return out.extend_from_slice(payload) };
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // Section 5.7.
        let head = |bytes, sender| read_head(bytes, sender).unwrap().unwrap();
        let hello = head(&[0x81, 5, b'H'], Sender::Server);
        assert_eq!((hello.last, hello.opcode, hello.length, hello.size), (true, Opcode::Text, 5, 2));
        let masked = head(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f], Sender::Client);
        assert_eq!((masked.mask, masked.length, masked.size), (Some([0x37, 0xfa, 0x21, 0x3d]), 5, 6));
        let mut out = Vec::new();
        write(&mut out, true, Opcode::Text, Some([0x37, 0xfa, 0x21, 0x3d]), b"Hello");
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        let middle = head(&[0x82, 126, 1, 0], Sender::Server);
        assert_eq!((middle.length, middle.size), (256, 4));
        let long = head(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], Sender::Server);
        assert_eq!((long.length, long.size), (65536, 10));
    }

    #[test]
    fn heads_that_are_none() {
        use Fault::*;
        for (bytes, sender, fault) in [
            (&[0xc1, 0][..], Sender::Server, ReservedBit),
            (&[0xa1, 0], Sender::Server, ReservedBit),
            (&[0x91, 0x80], Sender::Client, ReservedBit),
            (&[0x83, 0], Sender::Server, Opcode),
            (&[0x87, 0], Sender::Server, Opcode),
            (&[0x8b, 0x80], Sender::Client, Opcode),
            (&[0x81, 0], Sender::Client, Mask),
            (&[0x81, 0x80], Sender::Server, Mask),
            (&[0x09, 0], Sender::Server, Control),
            (&[0x89, 126], Sender::Server, Control),
            (&[0x88, 0xff], Sender::Client, Control),
            (&[0x82, 126, 0, 125], Sender::Server, Length),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Sender::Server, Length),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Sender::Server, Length),
        ] {
            assert_eq!(read_head(bytes, sender), Err(fault), "{bytes:x?}");
        }
    }

    #[test]
    fn a_head_in_pieces_is_waited_for() {
        let mut whole = Vec::new();
        write(&mut whole, true, Opcode::Binary, Some([1, 2, 3, 4]), &[0; 70_000]);
        for end in 0..HEAD_MOST {
            assert_eq!(read_head(&whole[..end], Sender::Client), Ok(None), "{end}");
        }
        assert_eq!(read_head(&whole[..HEAD_MOST], Sender::Client).unwrap().unwrap().length, 70_000);
    }
}
