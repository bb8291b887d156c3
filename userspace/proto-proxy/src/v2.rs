//! Version 2: a signature, a fixed head, addresses, and a list of types, lengths and values.

use crate::crc32c::crc32c;
use crate::error::Error;
use crate::header::{Addresses, Header, Transport, Version, in_one_family};
use crate::read::HEADER_MOST;
use crate::tlv::{self, Ssl, Tlvs};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version with command, family with transport, length of the rest.
const HEAD_BYTES: usize = 16;

const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Addresses of each family, in bytes.
const V4_BYTES: usize = 12;
const V6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Header<'_>, usize)>, Error> {
    // What is wrong already is said before the rest has come.
    if let Some(byte) = bytes.get(12) {
        if byte >> 4 != 2 {
            return Err(Error::Version);
        }
        if !matches!(byte & 15, LOCAL | PROXY) {
            return Err(Error::Command);
        }
    }
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = HEAD_BYTES + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > HEADER_MOST {
        return Err(Error::TooLong);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let header = |addresses, tlvs| Header { version: Version::V2, addresses, tlvs };
    if head[12] & 15 == LOCAL {
        // Whatever else it holds is to be skipped (section 2.2).
        return Ok(Some((header(Addresses::Local, Tlvs::default()), length)));
    }
    let (addresses, rest) = addresses(head[13], &whole[HEAD_BYTES..])?;
    let tlvs = Tlvs::parse(rest)?;
    check(whole, rest.len(), &tlvs)?;
    Ok(Some((header(addresses, tlvs), length)))
}

/// The addresses, and what follows them.
fn addresses(kind: u8, block: &[u8]) -> Result<(Addresses, &[u8]), Error> {
    let transport = match kind & 15 {
        0 => None,
        1 => Some(Transport::Stream),
        2 => Some(Transport::Datagram),
        _ => return Err(Error::Family),
    };
    let split = |length| block.split_at_checked(length).ok_or(Error::Addresses);
    let port = |at: &[u8]| u16::from_be_bytes([at[0], at[1]]);
    let (said, rest) = match kind >> 4 {
        0 => return Ok((Addresses::Unknown, block)),
        1 => {
            let (own, rest) = split(V4_BYTES)?;
            let ip = |at: usize| IpAddr::from(Ipv4Addr::new(own[at], own[at + 1], own[at + 2], own[at + 3]));
            (Some(((ip(0), port(&own[8..])), (ip(4), port(&own[10..])))), rest)
        }
        2 => {
            let (own, rest) = split(V6_BYTES)?;
            let ip = |at: usize| {
                let octets: [u8; 16] = std::array::from_fn(|i| own[at + i]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            (Some(((ip(0), port(&own[32..])), (ip(16), port(&own[34..])))), rest)
        }
        3 => (None, split(UNIX_BYTES)?.1),
        _ => return Err(Error::Family),
    };
    let addresses = match (said, transport) {
        (Some(((from, from_port), (to, to_port))), Some(transport)) => Addresses::Inet {
            transport,
            source: SocketAddr::new(from, from_port),
            destination: SocketAddr::new(to, to_port),
        },
        // Of a family, over a transport nobody names.
        (Some(_), None) => Addresses::Unknown,
        (None, _) => Addresses::Unix,
    };
    Ok((addresses, rest))
}

/// Compares the checksum, where there is one: that of the whole header with zeros in its place.
fn check(whole: &[u8], tlv_bytes: usize, tlvs: &Tlvs<'_>) -> Result<(), Error> {
    let Some(at) = tlvs.checksum_at()? else { return Ok(()) };
    let at = whole.len() - tlv_bytes + at;
    let (before, rest) = whole.split_at(at);
    let (said, after) = rest.split_first_chunk::<4>().ok_or(Error::Tlv)?;
    let sum = crc32c(crc32c(crc32c(0, before), &[0; 4]), after);
    if sum == u32::from_be_bytes(*said) { Ok(()) } else { Err(Error::Checksum) }
}

/// Makes a header.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// For a connection or datagram with a client.
    pub fn proxy(transport: Transport, source: SocketAddr, destination: SocketAddr) -> Writer {
        let (from, to) = in_one_family(source, destination);
        let family = if from.is_ipv4() { 0x10 } else { 0x20 };
        let mut writer = Writer::new(PROXY, family | if transport == Transport::Stream { 1 } else { 2 });
        for ip in [from, to] {
            match ip {
                IpAddr::V4(ip) => writer.bytes.extend(ip.octets()),
                IpAddr::V6(ip) => writer.bytes.extend(ip.octets()),
            }
        }
        writer.bytes.extend(source.port().to_be_bytes());
        writer.bytes.extend(destination.port().to_be_bytes());
        writer
    }

    /// For a connection of the proxy's own.
    pub fn local() -> Writer {
        Writer::new(LOCAL, 0)
    }

    /// For one whose client nobody can name.
    pub fn unknown() -> Writer {
        Writer::new(PROXY, 0)
    }

    fn new(command: u8, kind: u8) -> Writer {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(SIGNATURE);
        bytes.extend([0x20 | command, kind, 0, 0]);
        Writer { bytes }
    }

    /// Adds a value, where there is room for it; see [`tlv`](mod@tlv) for the types.
    #[must_use]
    pub fn with(mut self, kind: u8, value: &[u8]) -> Writer {
        if self.bytes.len() + 3 + value.len() + CHECKSUM_BYTES <= HEADER_MOST {
            tlv::write(kind, value, &mut self.bytes);
        }
        self
    }

    /// Adds what is known of the client's TLS.
    #[must_use]
    pub fn with_ssl(self, ssl: &Ssl<'_>) -> Writer {
        let mut value = Vec::new();
        ssl.write(&mut value);
        self.with(tlv::SSL, &value)
    }

    /// Adds what was agreed with the client in TLS.
    #[must_use]
    pub fn with_session(mut self, alpn: Option<&[u8]>, server_name: Option<&str>, ssl: &Ssl<'_>) -> Writer {
        if let Some(alpn) = alpn {
            self = self.with(tlv::ALPN, alpn);
        }
        if let Some(name) = server_name {
            self = self.with(tlv::AUTHORITY, name.as_bytes());
        }
        self.with_ssl(ssl)
    }

    /// The header.
    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - HEAD_BYTES) as u16;
        self.bytes[14..16].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }

    /// The header with a checksum at its end.
    pub fn finish_checked(mut self) -> Vec<u8> {
        tlv::write(tlv::CRC32C, &[0; 4], &mut self.bytes);
        let mut bytes = self.finish();
        let (sum, at) = (crc32c(0, &bytes), bytes.len() - 4);
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// What a checksum takes.
const CHECKSUM_BYTES: usize = 7;
