//! The tunnel header between machines: GUE version 0 (draft-ietf-intarea-gue) with four private bytes.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---+-+---------+---------------+-------------------------------+
//! | 0 |0|  hlen 1 | proto 4 or 41 |          flags 0x0001         |
//! +---+-+---------+---------------+-------------------------------+
//! |     hops      |  magic 0x57   |             epoch             |
//! +---------------+---------------+-------------------------------+
//! ```

/// UDP destination port, the one Katran uses for GUE.
pub const PORT: u16 = 6080;

/// Bytes of the header, private bytes included.
pub const LENGTH: usize = 8;

/// Version 0, data (not control), one word of optional fields.
pub const VERSION_AND_LENGTH: u8 = 0x01;

/// The P bit: private bytes follow.
pub const FLAGS: u16 = 0x0001;

/// Tells our private bytes from anybody else's.
pub const MAGIC: u8 = 0x57;

/// What an outer IPv4, UDP and GUE header add to a packet.
pub const OVERHEAD_V4: usize = 20 + 8 + LENGTH;

/// The same over IPv6.
pub const OVERHEAD_V6: usize = 40 + 8 + LENGTH;
