//! One record: bytes in, bytes out. Encryption and decryption in place, for the AEAD suites of TLS 1.2 (RFC 5246 §6.2.3.3, RFC 5288,
//! RFC 7905) and TLS 1.3 (RFC 8446 §5).

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base_runtime::Buf;
use rustls::ConnectionTrafficSecrets;

/// Content type, two bytes of version, two of length.
pub const HEADER: usize = 5;
/// Most bytes of content in one record (RFC 8446 §5.1).
pub const CONTENT_MAX: usize = 1 << 14;
/// Most bytes behind a header (RFC 8446 §5.2). TLS 1.2 allows more, which no AEAD suite can use.
pub const PAYLOAD_MAX: usize = CONTENT_MAX + 256;

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

const TAG: usize = 16;
/// The part of the nonce that TLS 1.2 sends with each AES-GCM record (RFC 5288 §3).
const EXPLICIT_NONCE: usize = 8;

/// Records sealed under one AES-GCM key before it is replaced: half of what RFC 8446 §5.5 allows for full-sized records.
const AES_GCM_RECORDS: u64 = 1 << 23;
/// ChaCha20-Poly1305 has no limit of its own below the sequence number's, which must not wrap.
const CHACHA_RECORDS: u64 = 1 << 62;

/// What a peer did wrong, or why a key cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The record was not made with the key, or was changed on its way.
    BadMac,
    /// A record longer than allowed, before or after decryption.
    RecordOverflow,
    /// Something that has no place here.
    UnexpectedMessage,
    /// A message whose parts do not fit together.
    DecodeError,
    /// A value that is not allowed.
    IllegalParameter,
    /// Messages that carry nothing, one after another.
    Flood,
    /// The client asks for a renegotiation again although it was told that there is none.
    Renegotiation,
    /// A TLS 1.2 key has done all it safely can.
    KeyExhausted,
    /// The next key could not be made.
    Internal,
}

impl Fault {
    /// The alert that tells the peer (RFC 8446 §6).
    pub fn alert(self) -> u8 {
        match self {
            Fault::BadMac => 20,
            Fault::RecordOverflow => 22,
            Fault::UnexpectedMessage | Fault::Flood => 10,
            Fault::DecodeError => 50,
            Fault::IllegalParameter => 47,
            Fault::Renegotiation => 40,
            Fault::KeyExhausted | Fault::Internal => 80,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Fault::BadMac => "the peer sent a TLS record that does not decrypt",
            Fault::RecordOverflow => "the peer sent a TLS record longer than 16 KiB",
            Fault::UnexpectedMessage => "the peer sent a TLS message out of place",
            Fault::DecodeError => "the peer sent a malformed TLS message",
            Fault::IllegalParameter => "the peer sent a TLS message with a value that is not allowed",
            Fault::Flood => "the peer sent one TLS message after another without any data",
            Fault::Renegotiation => "the peer insists on a TLS renegotiation",
            Fault::KeyExhausted => "the TLS 1.2 connection has sent as much as its key may encrypt",
            Fault::Internal => "the next TLS key could not be made",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Which version's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// Which AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// How a key's records look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Tls13,
    /// The nonce's second part stands in each record.
    Tls12Explicit,
    /// The nonce is made of the sequence number alone.
    Tls12Implicit,
}

/// What protects the records of one direction, and how many it has protected.
pub struct RecordKey {
    aead: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// No record is sealed with this sequence number or a later one.
    limit: u64,
    layout: Layout,
}

impl RecordKey {
    /// The key rustls agreed on; `sequence` is the number of the next record.
    pub fn new(version: Version, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<RecordKey, Fault> {
        let (suite, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
            _ => return Err(Fault::Internal),
        };
        let iv = iv.as_ref().try_into().map_err(|_| Fault::Internal)?;
        RecordKey::from_parts(version, suite, key.as_ref(), iv, sequence)
    }

    /// `key` has as many bytes as the suite wants, otherwise it is a fault of ours.
    pub fn from_parts(
        version: Version,
        suite: Suite,
        key: &[u8],
        iv: [u8; 12],
        sequence: u64,
    ) -> Result<RecordKey, Fault> {
        let (algorithm, limit) = match suite {
            Suite::Aes128Gcm => (&AES_128_GCM, AES_GCM_RECORDS),
            Suite::Aes256Gcm => (&AES_256_GCM, AES_GCM_RECORDS),
            Suite::ChaCha20Poly1305 => (&CHACHA20_POLY1305, CHACHA_RECORDS),
        };
        let layout = match (version, suite) {
            (Version::Tls13, _) => Layout::Tls13,
            (Version::Tls12, Suite::ChaCha20Poly1305) => Layout::Tls12Implicit,
            (Version::Tls12, _) => Layout::Tls12Explicit,
        };
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| Fault::Internal)?);
        Ok(RecordKey { aead, iv, sequence, limit, layout })
    }

    /// As if all records but `left` had been sealed already.
    #[cfg(test)]
    pub fn spend_all_but(&mut self, left: u64) {
        self.sequence = self.limit - left;
    }

    /// Expects the record that `sender` seals next.
    #[cfg(test)]
    pub fn skip_to(&mut self, sender: &RecordKey) {
        self.sequence = sender.sequence;
    }

    /// How many more records may be sealed.
    #[inline]
    pub fn records_left(&self) -> u64 {
        self.limit.saturating_sub(self.sequence)
    }

    /// Bytes a record has in front of its content.
    #[inline]
    pub fn prefix(&self) -> usize {
        match self.layout {
            Layout::Tls12Explicit => HEADER + EXPLICIT_NONCE,
            _ => HEADER,
        }
    }

    /// Bytes a record has behind its content.
    #[inline]
    fn suffix(&self) -> usize {
        match self.layout {
            Layout::Tls13 => 1 + TAG,
            _ => TAG,
        }
    }

    /// Makes a record of the window of `buf`, at most [`CONTENT_MAX`] bytes, in place. A buffer without room around its window is
    /// replaced by another.
    pub fn seal(&mut self, content_type: u8, buf: &mut Buf) -> Result<(), Fault> {
        if self.sequence >= self.limit {
            return Err(Fault::KeyExhausted);
        }
        let prefix = self.prefix();
        if buf.headroom() < prefix || buf.tailroom() < self.suffix() {
            *buf = Buf::copy_from(buf);
        }
        let nonce = self.nonce();
        let tag = match self.layout {
            Layout::Tls13 => {
                buf.append(&[content_type]);
                let header = header(APPLICATION_DATA, buf.len() + TAG);
                self.aead.seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(header),
                    buf.as_mut_slice(),
                )
            }
            _ => self.aead.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.additional_data(content_type, buf.len())),
                buf.as_mut_slice(),
            ),
        }
        .map_err(|_| Fault::Internal)?;
        self.sequence += 1;
        buf.append(tag.as_ref());
        let outer = match self.layout {
            Layout::Tls13 => APPLICATION_DATA,
            _ => content_type,
        };
        let payload = buf.len() + prefix - HEADER;
        if let Some(front) = buf.prepend_mut(prefix) {
            front[..HEADER].copy_from_slice(&header(outer, payload));
            front[HEADER..].copy_from_slice(&nonce[12 - (prefix - HEADER)..]);
        }
        Ok(())
    }

    /// Decrypts one whole record in place: its content type, and where its content stands in `record`.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Fault> {
        let outer = record[0];
        // A connection ends long before: 2^62 records are more than a peer can send.
        if self.sequence >= CHACHA_RECORDS {
            return Err(Fault::KeyExhausted);
        }
        let prefix = self.prefix();
        let Some(sealed) = record.len().checked_sub(prefix).filter(|&n| n >= TAG) else { return Err(Fault::BadMac) };
        let mut nonce = self.nonce();
        let opened = match self.layout {
            Layout::Tls13 => {
                if outer != APPLICATION_DATA {
                    return Err(Fault::UnexpectedMessage);
                }
                let header = header(APPLICATION_DATA, record.len() - HEADER);
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.aead.open_in_place(nonce, Aad::from(header), &mut record[prefix..])
            }
            layout => {
                if layout == Layout::Tls12Explicit {
                    nonce[..4].copy_from_slice(&self.iv[..4]);
                    nonce[4..].copy_from_slice(&record[HEADER..prefix]);
                }
                let aad = Aad::from(self.additional_data(outer, sealed - TAG));
                self.aead.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut record[prefix..])
            }
        };
        let content = opened.map_err(|_| Fault::BadMac)?;
        self.sequence += 1;
        if self.layout != Layout::Tls13 {
            let length = content.len();
            return if length > CONTENT_MAX {
                Err(Fault::RecordOverflow)
            } else {
                Ok((outer, prefix..prefix + length))
            };
        }
        if content.len() > CONTENT_MAX + 1 {
            return Err(Fault::RecordOverflow);
        }
        // Padding is zeros behind the content type (RFC 8446 §5.4).
        let Some(last) = content.iter().rposition(|&byte| byte != 0) else { return Err(Fault::UnexpectedMessage) };
        Ok((content[last], prefix..prefix + last))
    }

    #[inline]
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// RFC 5246 §6.2.3.3.
    #[inline]
    fn additional_data(&self, content_type: u8, length: usize) -> [u8; 13] {
        let mut data = [0; 13];
        data[..8].copy_from_slice(&self.sequence.to_be_bytes());
        data[8..].copy_from_slice(&header(content_type, length));
        data
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordKey").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[inline]
fn header(content_type: u8, length: usize) -> [u8; HEADER] {
    let [high, low] = (length as u16).to_be_bytes();
    [content_type, 3, 3, high, low]
}

/// Length of the record `bytes` begin with, header included; `None` while less than a header is there.
#[inline]
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let &[content_type, major, _, high, low, ..] = bytes else { return Ok(None) };
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&content_type) || major != 3 {
        return Err(Fault::UnexpectedMessage);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > PAYLOAD_MAX { Err(Fault::RecordOverflow) } else { Ok(Some(HEADER + length)) }
}
