//! The streams of one direction that a peer opens (RFC 9114 section 6.2): its control stream, those of QPACK, and what nobody knows.

use crate::code::{Code, Fault};
use crate::frame::{self, Reader};
use crate::qpack;
use crate::settings::{self, PeerSettings};
use crate::varint::Partial;

const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

/// What a peer has said on streams of one direction.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// It answers: what it may say differs.
    is_server: bool,
    settings: Option<PeerSettings>,
    has_control: bool,
    has_encoder: bool,
    has_decoder: bool,
    max_push: Option<u64>,
    goaway: Option<u64>,
    /// Frames that led nowhere since they were last asked for.
    idle: u32,
}

impl Peer {
    /// One that answers our requests.
    pub fn server() -> Peer {
        Peer { is_server: true, ..Peer::default() }
    }

    /// It has said that it takes no requests from this one on (section 5.2): of a server, the number of a stream.
    pub fn goaway(&self) -> Option<u64> {
        self.goaway
    }

    /// Once they have come.
    pub fn settings(&self) -> Option<PeerSettings> {
        self.settings
    }

    /// Frames since this was last asked that led nowhere.
    pub fn take_idle(&mut self) -> u32 {
        std::mem::take(&mut self.idle)
    }
}

/// What is to be done with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More of it is to be read.
    Read,
    /// Nobody knows what it is for: no more of it is wanted.
    Stop,
}

/// One stream as it comes.
#[derive(Debug, Default)]
pub struct Incoming {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Its type has not come yet.
    Unread(Partial),
    Control(Box<Control>),
    Encoder,
    /// Bytes of an instruction that is not complete.
    Decoder(Vec<u8>),
    Unknown,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind::Unread(Partial::default())
    }
}

#[derive(Debug, Default)]
struct Control {
    reader: Reader,
    /// The frame under way, and what has come of it; empty for one that is skipped.
    kind: u64,
    payload: Vec<u8>,
}

impl Incoming {
    /// Reads what has come.
    pub fn handle(&mut self, peer: &mut Peer, mut input: &[u8]) -> Result<Next, Fault> {
        if let Kind::Unread(number) = &mut self.kind {
            let Some(kind) = number.take(&mut input) else { return Ok(Next::Read) };
            self.kind = begin(peer, kind)?;
        }
        match &mut self.kind {
            Kind::Unread(_) => {}
            Kind::Control(control) => control.handle(peer, input)?,
            Kind::Encoder => read_encoder(input)?,
            Kind::Decoder(held) => read_decoder(held, input)?,
            Kind::Unknown => return Ok(Next::Stop),
        }
        Ok(Next::Read)
    }

    /// The stream has ended, or was reset: which some may not.
    pub fn handle_end(&self) -> Result<(), Fault> {
        match self.kind {
            Kind::Unread(_) | Kind::Unknown => Ok(()),
            _ => Err(Fault::Connection(Code::ClosedCriticalStream)),
        }
    }
}

fn begin(peer: &mut Peer, kind: u64) -> Result<Kind, Fault> {
    let (had, made) = match kind {
        CONTROL => (&mut peer.has_control, Kind::Control(Box::default())),
        QPACK_ENCODER => (&mut peer.has_encoder, Kind::Encoder),
        QPACK_DECODER => (&mut peer.has_decoder, Kind::Decoder(Vec::new())),
        // Clients push nothing, and no server was given a number to push under (section 4.6).
        PUSH if peer.is_server => return Err(Fault::Connection(Code::Id)),
        PUSH => return Err(Fault::Connection(Code::StreamCreation)),
        _ => return Ok(Kind::Unknown),
    };
    if std::mem::replace(had, true) {
        return Err(Fault::Connection(Code::StreamCreation));
    }
    Ok(made)
}

impl Control {
    fn handle(&mut self, peer: &mut Peer, mut input: &[u8]) -> Result<(), Fault> {
        while !input.is_empty() {
            if self.reader.left() == 0 {
                let Some((kind, length)) = self.reader.begin(&mut input) else { break };
                self.kind = kind;
                check(peer, kind, length)?;
                if length > 0 {
                    continue;
                }
            } else {
                let there = usize::try_from(self.reader.left()).unwrap_or(usize::MAX).min(input.len());
                let (taken, rest) = input.split_at(there);
                input = rest;
                self.reader.took(there);
                if is_read(self.kind) {
                    self.payload.extend_from_slice(taken);
                }
                if self.reader.left() > 0 {
                    continue;
                }
            }
            let payload = std::mem::take(&mut self.payload);
            obey(peer, self.kind, &payload)?;
        }
        Ok(())
    }
}

fn is_read(kind: u64) -> bool {
    matches!(kind, frame::SETTINGS | frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH)
}

/// Whether such a frame may come now, and be so long.
fn check(peer: &mut Peer, kind: u64, length: u64) -> Result<(), Fault> {
    match (kind, peer.settings.is_some()) {
        (frame::SETTINGS, false) if length > SETTINGS_BYTES => Err(Fault::Connection(Code::ExcessiveLoad)),
        (frame::SETTINGS, false) => Ok(()),
        (_, false) => Err(Fault::Connection(Code::MissingSettings)),
        (frame::SETTINGS | frame::DATA | frame::HEADERS | frame::PUSH_PROMISE, true) => {
            Err(Fault::Connection(Code::FrameUnexpected))
        }
        // What a client would push under is not a server's to say (section 7.2.7).
        (frame::MAX_PUSH_ID, true) if peer.is_server => Err(Fault::Connection(Code::FrameUnexpected)),
        (kind, true) if frame::is_reserved(kind) => Err(Fault::Connection(Code::FrameUnexpected)),
        (frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH, true) if !(1..=8).contains(&length) => {
            Err(Fault::Connection(Code::Frame))
        }
        (_, true) => {
            peer.idle += 1;
            Ok(())
        }
    }
}

fn obey(peer: &mut Peer, kind: u64, payload: &[u8]) -> Result<(), Fault> {
    let number = || match crate::varint::decode(payload) {
        Some((number, length)) if length == payload.len() => Ok(number),
        _ => Err(Fault::Connection(Code::Frame)),
    };
    match kind {
        frame::SETTINGS => peer.settings = Some(settings::decode(payload)?),
        frame::GOAWAY => {
            let number = number()?;
            // What a server names is a stream that a client opens for a request.
            if peer.goaway.is_some_and(|before| number > before) || peer.is_server && number % 4 != 0 {
                return Err(Fault::Connection(Code::Id));
            }
            peer.goaway = Some(number);
        }
        frame::MAX_PUSH_ID => {
            let number = number()?;
            if peer.max_push.is_some_and(|before| number < before) {
                return Err(Fault::Connection(Code::Id));
            }
            peer.max_push = Some(number);
        }
        // Of pushes that were never promised (section 7.2.3).
        frame::CANCEL_PUSH => {
            number()?;
            return Err(Fault::Connection(Code::Id));
        }
        _ => {}
    }
    Ok(())
}

/// With a table of no capacity there is one thing to say: that this is its capacity (RFC 9204 section 4.3.1).
fn read_encoder(input: &[u8]) -> Result<(), Fault> {
    match input.iter().all(|&byte| byte == 0x20) {
        true => Ok(()),
        false => Err(Fault::Connection(Code::QpackEncoderStream)),
    }
}

/// Nothing was inserted and no section refers to anything, so there is nothing to acknowledge. Streams that were given up may be told
/// of (RFC 9204 section 4.4.2).
fn read_decoder(held: &mut Vec<u8>, mut input: &[u8]) -> Result<(), Fault> {
    while let Some((&byte, rest)) = input.split_first() {
        input = rest;
        if held.is_empty() && byte & 0xc0 != 0x40 {
            return Err(Fault::Connection(Code::QpackDecoderStream));
        }
        held.push(byte);
        if qpack::integer(&mut &held[..], 6).is_ok() {
            held.clear();
        } else if held.len() > 10 {
            return Err(Fault::Connection(Code::QpackDecoderStream));
        }
    }
    Ok(())
}

/// Longest SETTINGS frame read, in bytes: hundreds of settings.
const SETTINGS_BYTES: u64 = 1024;

/// Appends the type of our own control stream.
pub fn open(into: &mut Vec<u8>) {
    crate::varint::encode(CONTROL, into);
}

/// Appends a GOAWAY: requests of streams with this number and later ones are not answered (section 5.2).
pub fn go_away(stream: u64, into: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(8);
    crate::varint::encode(stream, &mut payload);
    frame::begin(frame::GOAWAY, payload.len() as u64, into);
    into.extend_from_slice(&payload);
}

#[cfg(test)]
mod tests;
