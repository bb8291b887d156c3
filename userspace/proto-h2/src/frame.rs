//! The heads of frames (RFC 9113 section 4.1), and the frames that are written as a whole.

/// What a client of HTTP/2 says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head: length, type, flags, stream.
pub const HEAD: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// RFC 9218 section 7.1.
pub const PRIORITY_UPDATE: u8 = 16;

/// Flags; which of them a frame may have depends on its type.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;

/// Identifiers of settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Why a stream or a connection ends, as it is said (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Code = Code(0);
    pub const PROTOCOL: Code = Code(1);
    pub const INTERNAL: Code = Code(2);
    pub const FLOW_CONTROL: Code = Code(3);
    pub const STREAM_CLOSED: Code = Code(5);
    pub const FRAME_SIZE: Code = Code(6);
    pub const REFUSED: Code = Code(7);
    pub const CANCEL: Code = Code(8);
    pub const COMPRESSION: Code = Code(9);
    pub const CALM: Code = Code(11);
    pub const HTTP_1_1: Code = Code(13);

    /// What it says.
    pub fn text(self) -> &'static str {
        match self.0 {
            0 => "no error",
            1 => "the protocol was broken",
            2 => "an error of its own",
            3 => "more came than the window allows",
            4 => "the settings were not acknowledged in time",
            5 => "a frame came on a stream that was closed",
            6 => "a frame had the wrong size",
            7 => "the stream was refused",
            8 => "the stream was cancelled",
            9 => "a field block could not be read",
            10 => "the connection of a CONNECT broke",
            11 => "a bound on what may come was passed",
            12 => "the encryption is too weak",
            13 => "HTTP/1.1 is required",
            _ => "an error without a name",
        }
    }
}

/// The head of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of its payload.
    pub length: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    #[inline]
    pub fn read(bytes: &[u8; HEAD]) -> Head {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]);
        Head { length, kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]) }
    }

    #[inline]
    pub fn written(&self) -> [u8; HEAD] {
        let [_, a, b, c] = self.length.to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A frame of a head and a payload of fixed size.
fn whole<const PAYLOAD: usize, const ALL: usize>(
    kind: u8,
    flags: u8,
    stream: u32,
    payload: [u8; PAYLOAD],
) -> [u8; ALL] {
    let mut frame = [0; ALL];
    frame[..HEAD].copy_from_slice(&Head { length: PAYLOAD as u32, kind, flags, stream }.written());
    frame[HEAD..].copy_from_slice(&payload);
    frame
}

pub fn reset(stream: u32, code: Code) -> [u8; 13] {
    whole(RST_STREAM, 0, stream, code.0.to_be_bytes())
}

pub fn window_update(stream: u32, bytes: u32) -> [u8; 13] {
    whole(WINDOW_UPDATE, 0, stream, bytes.to_be_bytes())
}

pub fn ping(flags: u8, payload: [u8; 8]) -> [u8; 17] {
    whole(PING, flags, 0, payload)
}

pub fn go_away(last: u32, code: Code) -> [u8; 17] {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    whole(GOAWAY, 0, 0, payload)
}

/// The same with a word of why.
pub fn go_away_saying(last: u32, code: Code, why: &[u8]) -> Vec<u8> {
    let head = Head { length: 8 + why.len() as u32, kind: GOAWAY, flags: 0, stream: 0 };
    [&head.written()[..], &last.to_be_bytes(), &code.0.to_be_bytes(), why].concat()
}

pub fn settings_ack() -> [u8; 9] {
    whole(SETTINGS, ACK, 0, [])
}

/// Appends a SETTINGS frame.
pub fn settings(settings: &[(u16, u32)], into: &mut Vec<u8>) {
    let head = Head { length: settings.len() as u32 * 6, kind: SETTINGS, flags: 0, stream: 0 };
    into.extend_from_slice(&head.written());
    for (id, value) in settings {
        into.extend_from_slice(&id.to_be_bytes());
        into.extend_from_slice(&value.to_be_bytes());
    }
}

/// The number that a payload of four bytes is, without its first bit.
pub fn number(payload: [u8; 4]) -> u32 {
    u32::from_be_bytes(payload) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head { length: 0x01_02_03, kind: HEADERS, flags: END_HEADERS | PADDED, stream: 0x7fff_fffe };
        assert_eq!(Head::read(&head.written()), head);
        let mut reserved = head.written();
        reserved[5] |= 0x80;
        assert_eq!(Head::read(&reserved), head, "a bit that means nothing");
        assert_eq!(go_away(3, Code::CALM), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 11]);
    }
}
