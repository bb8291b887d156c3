//! What is wrong with what came, and the code it is answered with.

use crate::close::CloseCode;
use std::fmt;

/// Why no more is taken from a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A reserved bit is set: no extension was agreed on that gives it a meaning.
    ReservedBit,
    /// An opcode that means nothing.
    Opcode,
    /// A client did not mask a frame, or a server did (RFC 6455 section 5.1).
    Mask,
    /// A control frame in pieces, or with more than 125 bytes (section 5.5).
    Control,
    /// A length in more bytes than it needs, or with its highest bit set (section 5.2).
    Length,
    /// A continuation of nothing, or another message in the middle of one (section 5.4).
    Fragments,
    /// A Close with half a code, or with one that may not be said (section 7.4).
    Close,
    /// Text, or the reason of a Close, that is not UTF-8 (section 8.1).
    Text,
    /// A message longer than it may be.
    TooBig,
}

impl Fault {
    /// What both sides are told.
    pub const fn code(self) -> CloseCode {
        match self {
            Fault::Text => CloseCode::Text,
            Fault::TooBig => CloseCode::TooBig,
            _ => CloseCode::Protocol,
        }
    }

    /// As it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Text => "websocket_text",
            Fault::TooBig => "websocket_message_bytes",
            _ => "websocket_frames",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::ReservedBit => "a reserved bit is set, and no extension gives it a meaning",
            Fault::Opcode => "an opcode that means nothing",
            Fault::Mask => "frames of clients are masked, those of servers are not",
            Fault::Control => "a control frame is whole and has at most 125 bytes",
            Fault::Length => "a length is written in as few bytes as it needs",
            Fault::Fragments => "pieces of messages out of order",
            Fault::Close => "a Close with half a code, or with one that may not be said",
            Fault::Text => "text is UTF-8",
            Fault::TooBig => "a message is longer than it may be",
        })
    }
}
