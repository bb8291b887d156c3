//! Version 1: one line, `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.

use crate::error::Error;
use crate::header::{Addresses, Header, Transport, Version, in_one_family};
use crate::tlv::Tlvs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

pub(crate) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line, its end included (section 2.1).
pub const LINE_MOST: usize = 107;

pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Header<'_>, usize)>, Error> {
    let within = &bytes[..bytes.len().min(LINE_MOST)];
    let Some(end) = within.iter().position(|b| *b == b'\n') else {
        return if bytes.len() >= LINE_MOST { Err(Error::TooLong) } else { Ok(None) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Error::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| Error::Line)?;
    let addresses = addresses(line.strip_prefix("PROXY ").ok_or(Error::Line)?)?;
    Ok(Some((Header { version: Version::V1, addresses, tlvs: Tlvs::default() }, end + 1)))
}

fn addresses(said: &str) -> Result<Addresses, Error> {
    // What follows UNKNOWN is to be ignored.
    if said == "UNKNOWN" || said.starts_with("UNKNOWN ") {
        return Ok(Addresses::Unknown);
    }
    let mut words = said.split(' ');
    let mut word = || words.next().ok_or(Error::Line);
    let v4 = match word()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return Err(Error::Line),
    };
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(Error::Line);
    }
    let at = |ip, of| Ok(SocketAddr::new(address(ip, v4)?, port(of)?));
    let (source, destination) = (at(source, source_port)?, at(destination, destination_port)?);
    Ok(Addresses::Inet { transport: Transport::Stream, source, destination })
}

fn address(text: &str, v4: bool) -> Result<IpAddr, Error> {
    let ip = IpAddr::from_str(text).map_err(|_| Error::Line)?;
    if ip.is_ipv4() == v4 { Ok(ip) } else { Err(Error::Line) }
}

/// Decimal, without a sign and without leading zeros.
fn port(text: &str) -> Result<u16, Error> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| Error::Line) } else { Err(Error::Line) }
}

/// Writes the line of a connection; `None` for one nobody can say anything of.
pub fn write(of: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = match of {
        None => out.write_all(b"PROXY UNKNOWN\r\n"),
        Some((source, destination)) => {
            let (from, to) = in_one_family(source, destination);
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    };
}
