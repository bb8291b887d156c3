//! What both sides tell each other at first (RFC 9114 section 7.2.4).

use crate::code::{Code, Fault};
use crate::varint;

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
/// RFC 9297 section 2.1.1.
const H3_DATAGRAM: u64 = 0x33;

/// What HTTP/2 has and HTTP/3 has not (section 7.2.4.1).
const RESERVED: std::ops::RangeInclusive<u64> = 0x02..=0x05;

/// What our side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Largest field section accepted, in bytes with 32 for each field.
    pub field_section_bytes: u64,
    /// Extended CONNECT is taken (RFC 9220).
    pub connect_protocol: bool,
    /// Datagrams that belong to requests are taken, as the transport takes any.
    pub datagrams: bool,
}

impl Settings {
    /// Appends the frame. Of QPACK's dynamic table it says that there is none, which is what saying nothing means too.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(16);
        let mut say = |id, value| {
            varint::encode(id, &mut payload);
            varint::encode(value, &mut payload);
        };
        say(QPACK_MAX_TABLE_CAPACITY, 0);
        say(MAX_FIELD_SECTION_SIZE, self.field_section_bytes.min(varint::MAX));
        say(QPACK_BLOCKED_STREAMS, 0);
        if self.connect_protocol {
            say(ENABLE_CONNECT_PROTOCOL, 1);
        }
        if self.datagrams {
            say(H3_DATAGRAM, 1);
        }
        varint::encode(crate::frame::SETTINGS, into);
        varint::encode(payload.len() as u64, into);
        into.extend_from_slice(&payload);
    }
}

/// What the peer said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerSettings {
    /// `None`: it said nothing, so any size.
    pub field_section_bytes: Option<u64>,
    pub connect_protocol: bool,
    /// It takes datagrams that belong to requests, which needs a transport that takes any.
    pub datagrams: bool,
}

/// Reads the payload of a frame, as a whole.
pub fn decode(mut payload: &[u8]) -> Result<PeerSettings, Fault> {
    let mut settings = PeerSettings::default();
    let mut seen: Vec<u64> = Vec::new();
    while !payload.is_empty() {
        let mut next = || {
            let (value, length) = varint::decode(payload).ok_or(Fault::Connection(Code::Frame))?;
            payload = &payload[length..];
            Ok(value)
        };
        let (id, value) = (next()?, next()?);
        if RESERVED.contains(&id) || seen.contains(&id) {
            return Err(Fault::Connection(Code::Settings));
        }
        seen.push(id);
        match id {
            MAX_FIELD_SECTION_SIZE => settings.field_section_bytes = Some(value),
            ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Fault::Connection(Code::Settings)),
            ENABLE_CONNECT_PROTOCOL => settings.connect_protocol = value == 1,
            H3_DATAGRAM if value > 1 => return Err(Fault::Connection(Code::Settings)),
            H3_DATAGRAM => settings.datagrams = value == 1,
            _ => {}
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let mut frame = Vec::new();
        Settings { field_section_bytes: 70_000, connect_protocol: true, datagrams: true }.encode(&mut frame);
        assert_eq!(frame[..2], [4, frame.len() as u8 - 2]);
        let expected = PeerSettings { field_section_bytes: Some(70_000), connect_protocol: true, datagrams: true };
        assert_eq!(decode(&frame[2..]), Ok(expected));
        assert_eq!(decode(&[]), Ok(PeerSettings::default()));
        assert_eq!(decode(&[0x33, 1]), Ok(PeerSettings { datagrams: true, ..PeerSettings::default() }));
        // One that nobody knows (section 7.2.4.1).
        assert_eq!(decode(&[0x21, 0x01]), Ok(PeerSettings::default()));
    }

    #[test]
    fn what_may_not_be_said_is_refused() {
        for id in 2..=5 {
            assert_eq!(decode(&[id, 0]), Err(Fault::Connection(Code::Settings)));
        }
        assert_eq!(decode(&[6, 1, 6, 1]), Err(Fault::Connection(Code::Settings)));
        assert_eq!(decode(&[0x21, 1, 0x21, 1]), Err(Fault::Connection(Code::Settings)));
        assert_eq!(decode(&[8, 2]), Err(Fault::Connection(Code::Settings)));
        assert_eq!(decode(&[0x33, 2]), Err(Fault::Connection(Code::Settings)));
        assert_eq!(decode(&[6]), Err(Fault::Connection(Code::Frame)));
        assert_eq!(decode(&[6, 0x40]), Err(Fault::Connection(Code::Frame)));
    }
}
