//! Why bytes are no header.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The connection begins with something else.
    Absent,
    /// It does not end where it must.
    TooLong,
    /// The line of version 1 is not as it must be.
    Line,
    /// The version is neither 1 nor 2.
    Version,
    /// Neither LOCAL nor PROXY.
    Command,
    /// A family or transport the specification does not know.
    Family,
    /// Shorter than the addresses of its family.
    Addresses,
    /// What follows the addresses is no list of types, lengths and values.
    Tlv,
    /// The CRC32C it carries is not that of its bytes.
    Checksum,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Absent => "no PROXY header where there must be one",
            Error::TooLong => "a PROXY header that does not end",
            Error::Line => "a malformed PROXY line",
            Error::Version => "a PROXY header of an unknown version",
            Error::Command => "a PROXY header with an unknown command",
            Error::Family => "a PROXY header with an unknown address family",
            Error::Addresses => "a PROXY header too short for its addresses",
            Error::Tlv => "a PROXY header with malformed extensions",
            Error::Checksum => "a PROXY header whose checksum does not fit",
        })
    }
}

impl std::error::Error for Error {}
