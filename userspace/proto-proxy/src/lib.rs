//! The PROXY protocol, versions 1 and 2: who a connection is from and where it was going, said by the proxy in between.
//!
//! Pure bytes in both directions, by the specification that HAProxy keeps (proxy-protocol.txt, 2020/03/05). [`read`] looks at what a
//! connection has begun with and takes one header off it; [`v1::write`] and [`v2::Writer`] make one. Nothing here decides who may say
//! such a thing: whoever listens does, before it reads.
//!
//! Reading order: [`header`], [`read`](mod@read), [`v1`], [`v2`], [`tlv`], [`error`], `crc32c`.
#![forbid(unsafe_code)]

mod crc32c;
pub mod error;
pub mod header;
pub mod read;
pub mod tlv;
pub mod v1;
pub mod v2;

pub use crc32c::crc32c;
pub use error::Error;
pub use header::{Addresses, Header, Transport, Version};
pub use read::{HEADER_MOST, begins_one, read};
