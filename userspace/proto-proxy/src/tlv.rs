//! What version 2 says beside the addresses (section 2.2.1 and following).

use crate::error::Error;

/// The protocol agreed on above TLS, as ALPN spells it.
pub const ALPN: u8 = 0x01;
/// The host name the client asked for (SNI).
pub const AUTHORITY: u8 = 0x02;
/// CRC32C of the header.
pub const CRC32C: u8 = 0x03;
/// Means nothing; for alignment.
pub const NOOP: u8 = 0x04;
/// An id of the connection, of at most 128 bytes.
pub const UNIQUE_ID: u8 = 0x05;
/// What is known of the client's TLS, see [`Ssl`].
pub const SSL: u8 = 0x20;
/// The name of the network namespace.
pub const NETNS: u8 = 0x30;

const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

/// Flags of [`Ssl::client`].
pub const CLIENT_SSL: u8 = 1;
/// The client has shown a certificate over this connection.
pub const CLIENT_CERT_CONN: u8 = 2;
/// The client has shown one over this session.
pub const CLIENT_CERT_SESS: u8 = 4;

const UNIQUE_ID_MOST: usize = 128;
const NAME_BYTES: usize = 3;

/// A list that was found to be well formed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tlvs<'b> {
    bytes: &'b [u8],
}

impl<'b> Tlvs<'b> {
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Tlvs<'b>, Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (kind, value, after) = next(rest).ok_or(Error::Tlv)?;
            match kind {
                SSL => Ssl::parse(value).map(drop)?,
                UNIQUE_ID if value.len() > UNIQUE_ID_MOST => return Err(Error::Tlv),
                CRC32C if value.len() != 4 => return Err(Error::Tlv),
                _ => {}
            }
            rest = after;
        }
        Ok(Tlvs { bytes })
    }

    /// Types and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'b [u8])> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (kind, value, after) = next(rest)?;
            rest = after;
            Some((kind, value))
        })
    }

    /// The first value of a type.
    pub fn find(&self, kind: u8) -> Option<&'b [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub fn ssl(&self) -> Option<Ssl<'b>> {
        Ssl::parse(self.find(SSL)?).ok()
    }

    /// Where in the list the checksum's value begins. Two of them cannot both be right.
    pub(crate) fn checksum_at(&self) -> Result<Option<usize>, Error> {
        let (mut at, mut found) = (0, None);
        for (kind, value) in self.iter() {
            at += NAME_BYTES;
            if kind == CRC32C && found.replace(at).is_some() {
                return Err(Error::Tlv);
            }
            at += value.len();
        }
        Ok(found)
    }
}

fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([kind, high, low], rest) = bytes.split_first_chunk::<NAME_BYTES>()?;
    let (value, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    Some((*kind, value, after))
}

pub(crate) fn write(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    // No value longer than a header is ever written.
    let length = value.len().min(usize::from(u16::MAX)) as u16;
    out.push(kind);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(&value[..usize::from(length)]);
}

/// What is known of the client's TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ssl<'b> {
    /// [`CLIENT_SSL`], [`CLIENT_CERT_CONN`], [`CLIENT_CERT_SESS`].
    pub client: u8,
    /// The client has shown a certificate, and it was verified.
    pub verified: bool,
    /// Such as `TLSv1.3`.
    pub version: Option<&'b [u8]>,
    /// The common name of the client's certificate.
    pub common_name: Option<&'b [u8]>,
    pub cipher: Option<&'b [u8]>,
}

impl<'b> Ssl<'b> {
    pub(crate) fn parse(value: &'b [u8]) -> Result<Ssl<'b>, Error> {
        let ([client, verify @ ..], mut rest) = value.split_first_chunk::<5>().ok_or(Error::Tlv)?;
        let mut ssl = Ssl { client: *client, verified: *verify == [0; 4], ..Ssl::default() };
        while !rest.is_empty() {
            let (kind, value, after) = next(rest).ok_or(Error::Tlv)?;
            match kind {
                SSL_VERSION => ssl.version = Some(value),
                SSL_COMMON_NAME => ssl.common_name = Some(value),
                SSL_CIPHER => ssl.cipher = Some(value),
                _ => {}
            }
            rest = after;
        }
        Ok(ssl)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.client);
        out.extend(u32::from(!self.verified).to_be_bytes());
        let values = [(SSL_VERSION, self.version), (SSL_COMMON_NAME, self.common_name), (SSL_CIPHER, self.cipher)];
        for (kind, value) in values {
            if let Some(value) = value {
                write(kind, value, out);
            }
        }
    }
}
