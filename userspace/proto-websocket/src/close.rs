//! Why a side ends: the codes of Close frames (RFC 6455 section 7.4).

use crate::frame::{self, Opcode};

/// The code of a Close frame that we say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// The server stops, or nothing was said for too long.
    GoingAway,
    /// A frame breaks the rules.
    Protocol,
    /// Text that is not UTF-8.
    Text,
    /// A message is longer than it may be.
    TooBig,
}

impl CloseCode {
    pub const fn number(self) -> u16 {
        match self {
            CloseCode::GoingAway => 1001,
            CloseCode::Protocol => 1002,
            CloseCode::Text => 1007,
            CloseCode::TooBig => 1009,
        }
    }
}

/// Whether a Close frame may carry this code: those of the protocol and of IANA's register, and those of libraries and applications.
/// 1004 means nothing; 1005, 1006 and 1015 say what was never said.
pub const fn may_be_said(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A Close frame with this code and no reason; with a mask, as clients send it.
pub fn write_close(code: CloseCode, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    frame::write(&mut out, true, Opcode::Close, mask, &code.number().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_said() {
        // Those of Autobahn's cases 7.7 and 7.9.
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(may_be_said(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!may_be_said(code), "{code}");
        }
    }

    #[test]
    fn a_close_is_a_small_frame() {
        assert_eq!(write_close(CloseCode::GoingAway, None), [0x88, 2, 0x03, 0xe9]);
        assert_eq!(write_close(CloseCode::TooBig, Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xf1 ^ 2]);
    }
}
