//! The machine of an established connection: received bytes in, data out; data in, records out. No sockets, no clock.
//!
//! `handle_received` takes what came from the peer and [`TlsConnection::poll_data`] gives the data in it; `send` and `close` give
//! records to `transmit`. [`TlsConnection::end`] says how the peer's direction ended.
//!
//! Received records are decrypted where they lie; the data of all whole records in a buffer is moved together, so that one buffer
//! with one window is handed on. What is left of a record is kept until the rest is there.

use std::collections::VecDeque;

use base_runtime::Buf;

use crate::record::{
    ALERT, APPLICATION_DATA, CONTENT_MAX, Fault, HANDSHAKE, HEADER, PAYLOAD_MAX, RecordKey, Version, record_length,
};

/// Where keys come from once the handshake is over, and where tickets go.
pub trait Schedule {
    /// The next key for sending (TLS 1.3).
    fn next_tx(&mut self) -> Result<RecordKey, Fault>;
    /// The next key for receiving (TLS 1.3).
    fn next_rx(&mut self) -> Result<RecordKey, Fault>;
    /// Takes a NewSessionTicket's body; an error where the peer has none to give.
    fn take_ticket(&mut self, body: &[u8]) -> Result<(), Fault>;
    /// We are the client.
    fn is_client(&self) -> bool;
}

/// What happened that is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    KeyUpdateReceived,
    KeyUpdateSent,
    RenegotiationRefused,
    Abuse,
}

/// How the peer's direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    Open,
    /// The peer said `close_notify`.
    Closed,
    /// TCP ended before the peer said so: what was received may have been cut off.
    Truncated,
    /// The peer's fatal alert.
    Alert(u8),
    /// We ended it.
    Fault(Fault),
    /// The connection underneath broke, with this `errno`.
    Broken(Option<i32>),
}

/// The beginning of a record whose rest has not come.
#[derive(Default)]
enum Partial {
    #[default]
    None,
    /// In memory of its own size, so that a slow peer does not hold a whole buffer.
    Small(Vec<u8>),
    Large(Buf),
}

pub struct TlsConnection<S> {
    version: Version,
    /// `None` once the sending direction is over.
    tx: Option<RecordKey>,
    rx: RecordKey,
    schedule: S,
    partial: Partial,
    /// The beginning of a handshake message that goes on in the next record.
    message: Vec<u8>,
    data: VecDeque<Buf>,
    end: PeerEnd,
    /// Messages since the last one with data.
    idle_messages: u8,
    renegotiations: u8,
    /// The peer asked for a new key and has not got it yet.
    answer_due: bool,
    /// Bytes of data sent.
    said: u64,
    events: fn(Event),
}

/// A connection without the worker's buffers, which is why it may go to another worker.
pub struct Parked<S> {
    version: Version,
    tx: Option<RecordKey>,
    rx: RecordKey,
    schedule: S,
    /// The beginning of a record.
    partial: Vec<u8>,
    message: Vec<u8>,
    data: Vec<u8>,
    end: PeerEnd,
    idle_messages: u8,
    renegotiations: u8,
    answer_due: bool,
    said: u64,
    events: fn(Event),
}

impl<S> Parked<S> {
    /// Bytes of memory it takes for what was received.
    pub fn kept(&self) -> usize {
        self.partial.capacity() + self.message.capacity() + self.data.capacity()
    }
}

impl<S: Schedule> TlsConnection<S> {
    /// Takes it out of the worker's buffers.
    pub fn park(self) -> Parked<S> {
        Parked {
            version: self.version,
            tx: self.tx,
            rx: self.rx,
            schedule: self.schedule,
            partial: match self.partial {
                Partial::None => Vec::new(),
                Partial::Small(begun) => begun,
                Partial::Large(begun) => begun.to_vec(),
            },
            message: self.message,
            data: self.data.iter().flat_map(|buf| buf.iter().copied()).collect(),
            end: self.end,
            idle_messages: self.idle_messages,
            renegotiations: self.renegotiations,
            answer_due: self.answer_due,
            said: self.said,
            events: self.events,
        }
    }

    /// Goes on with it, in the buffers of this worker.
    pub fn unpark(parked: Parked<S>) -> TlsConnection<S> {
        TlsConnection {
            version: parked.version,
            tx: parked.tx,
            rx: parked.rx,
            schedule: parked.schedule,
            partial: match parked.partial.len() {
                0 => Partial::None,
                1..=SMALL_MAX => Partial::Small(parked.partial),
                _ => Partial::Large(Buf::copy_from(&parked.partial)),
            },
            message: parked.message,
            data: parked.data.chunks(Buf::CAPACITY - Buf::HEADROOM).map(Buf::copy_from).collect(),
            end: parked.end,
            idle_messages: parked.idle_messages,
            renegotiations: parked.renegotiations,
            answer_due: parked.answer_due,
            said: parked.said,
            events: parked.events,
        }
    }

    pub fn new(version: Version, tx: RecordKey, rx: RecordKey, schedule: S, events: fn(Event)) -> TlsConnection<S> {
        TlsConnection {
            version,
            tx: Some(tx),
            rx,
            schedule,
            partial: Partial::None,
            message: Vec::new(),
            data: VecDeque::new(),
            end: PeerEnd::Open,
            idle_messages: 0,
            renegotiations: 0,
            answer_due: false,
            said: 0,
            events,
        }
    }

    pub fn end(&self) -> PeerEnd {
        self.end
    }

    /// The sending direction is over: closed, or cut off by a fault.
    pub fn is_send_closed(&self) -> bool {
        self.tx.is_none()
    }

    /// Bytes of memory, buffers not counted, kept for what has not been received in full.
    #[inline]
    pub fn kept(&self) -> usize {
        let partial = match &self.partial {
            Partial::Small(begun) => begun.capacity(),
            Partial::None | Partial::Large(_) => 0,
        };
        partial + self.message.capacity()
    }

    /// A buffer is kept for the rest of a record.
    #[cfg(test)]
    fn holds_buffer(&self) -> bool {
        matches!(self.partial, Partial::Large(_))
    }

    pub fn has_data(&self) -> bool {
        !self.data.is_empty()
    }

    pub fn said(&self) -> u64 {
        self.said
    }

    /// The next received data. The end counts once there is none left.
    #[inline]
    pub fn poll_data(&mut self) -> Option<Buf> {
        let buf = self.data.pop_front();
        if self.data.is_empty() && self.data.capacity() > 8 {
            self.data = VecDeque::new();
        }
        buf
    }

    /// Puts data back in front.
    pub fn unread(&mut self, buf: Buf) {
        if !buf.is_empty() {
            self.data.push_front(buf);
        }
    }

    /// Takes bytes of the peer.
    pub fn handle_received(&mut self, mut buf: Buf, transmit: &mut dyn FnMut(Buf)) {
        if self.end != PeerEnd::Open || buf.is_empty() {
            return;
        }
        match std::mem::take(&mut self.partial) {
            Partial::None => self.open(buf, transmit),
            Partial::Small(begun) if buf.prepend(&begun) => self.open(buf, transmit),
            Partial::Small(mut begun) => {
                let needed = HEADER + PAYLOAD_MAX;
                let total = record_length(&begun).ok().flatten().unwrap_or(needed);
                let together = begun.len() + buf.len();
                if together < total && together <= SMALL_MAX {
                    begun.extend_from_slice(&buf);
                    self.partial = Partial::Small(begun);
                } else {
                    self.complete(Buf::copy_from(&begun), buf, transmit);
                }
            }
            Partial::Large(begun) => self.complete(begun, buf, transmit),
        }
    }

    /// Takes the rest of the record begun in `begun` from `buf`.
    fn complete(&mut self, mut begun: Buf, mut buf: Buf, transmit: &mut dyn FnMut(Buf)) {
        let total = match record_length(&begun) {
            Ok(total) => total.unwrap_or(HEADER + PAYLOAD_MAX),
            Err(fault) => return self.fail(fault, transmit),
        };
        let missing = (total - begun.len()).min(buf.len());
        begun.append(&buf[..missing]);
        buf.advance(missing);
        if begun.len() < total {
            self.partial = Partial::Large(begun);
            return;
        }
        self.open(begun, transmit);
        if self.end == PeerEnd::Open && !buf.is_empty() {
            self.open(buf, transmit);
        }
    }

    /// Opens all whole records in `buf`, which begins with one.
    fn open(&mut self, mut buf: Buf, transmit: &mut dyn FnMut(Buf)) {
        let bytes = buf.as_mut_slice();
        let mut at = 0;
        // Where the data of the records so far stands.
        let (mut start, mut end) = (0, 0);
        let fault = loop {
            let total = match record_length(&bytes[at..]) {
                Ok(Some(total)) if total <= bytes.len() - at => total,
                Ok(_) => break None,
                Err(fault) => break Some(fault),
            };
            let (content_type, content) = match self.rx.open(&mut bytes[at..at + total]) {
                Ok((content_type, content)) => (content_type, at + content.start..at + content.end),
                Err(fault) => break Some(fault),
            };
            at += total;
            if content_type == APPLICATION_DATA && self.message.is_empty() && !content.is_empty() {
                self.idle_messages = 0;
                if start == end {
                    (start, end) = (content.start, content.end);
                } else {
                    let length = content.len();
                    bytes.copy_within(content, end);
                    end += length;
                }
                continue;
            }
            if let Err(fault) = self.handle_control(content_type, &bytes[content], transmit) {
                break Some(fault);
            }
            if self.end != PeerEnd::Open {
                break None;
            }
        };
        if let Some(fault) = fault {
            self.fail(fault, transmit);
        }
        if self.end == PeerEnd::Open && at < buf.len() {
            let rest = &buf[at..];
            if rest.len() <= SMALL_MAX {
                self.partial = Partial::Small(rest.to_vec());
            } else if start == end && buf.tailroom() + rest.len() >= HEADER + PAYLOAD_MAX {
                buf.advance(at);
                self.partial = Partial::Large(buf);
                return;
            } else {
                self.partial = Partial::Large(Buf::copy_from(rest));
            }
        }
        if start < end {
            buf.truncate(end);
            buf.advance(start);
            self.data.push_back(buf);
        }
    }

    /// A record that carries no data.
    #[cold]
    fn handle_control(&mut self, content_type: u8, content: &[u8], transmit: &mut dyn FnMut(Buf)) -> Result<(), Fault> {
        self.idle_messages += 1;
        if self.idle_messages > IDLE_MESSAGES_MAX {
            (self.events)(Event::Abuse);
            return Err(Fault::Flood);
        }
        match content_type {
            // Handshake messages are not interleaved with others (RFC 8446 §5.1).
            _ if !self.message.is_empty() && content_type != HANDSHAKE => Err(Fault::UnexpectedMessage),
            APPLICATION_DATA => Ok(()),
            ALERT => self.handle_alert(content),
            HANDSHAKE if content.is_empty() => Err(Fault::UnexpectedMessage),
            HANDSHAKE if self.message.is_empty() => self.handle_messages(content, transmit),
            HANDSHAKE => {
                let mut joined = std::mem::take(&mut self.message);
                joined.extend_from_slice(content);
                self.handle_messages(&joined, transmit)
            }
            _ => Err(Fault::UnexpectedMessage),
        }
    }

    /// RFC 8446 §6, RFC 5246 §7.2.
    fn handle_alert(&mut self, content: &[u8]) -> Result<(), Fault> {
        let &[level, description] = content else { return Err(Fault::DecodeError) };
        let warning = match self.version {
            Version::Tls12 => level == WARNING,
            Version::Tls13 => description == USER_CANCELED,
        };
        if description == CLOSE_NOTIFY {
            self.end = PeerEnd::Closed;
        } else if !warning {
            self.end = PeerEnd::Alert(description);
            self.tx = None;
        }
        Ok(())
    }

    fn handle_messages(&mut self, mut bytes: &[u8], transmit: &mut dyn FnMut(Buf)) -> Result<(), Fault> {
        while let &[kind, a, b, c, ref rest @ ..] = bytes {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MESSAGE_MAX {
                return Err(Fault::DecodeError);
            }
            let Some((body, rest)) = rest.split_at_checked(length) else { break };
            self.handle_message(kind, body, rest.is_empty(), transmit)?;
            bytes = rest;
        }
        self.message = bytes.to_vec();
        Ok(())
    }

    fn handle_message(
        &mut self,
        kind: u8,
        body: &[u8],
        last: bool,
        transmit: &mut dyn FnMut(Buf),
    ) -> Result<(), Fault> {
        match (self.version, kind, self.schedule.is_client()) {
            (Version::Tls13, KEY_UPDATE, _) => {
                let requested = match body {
                    [0] => false,
                    [1] => true,
                    [_] => return Err(Fault::IllegalParameter),
                    _ => return Err(Fault::DecodeError),
                };
                // What follows under the old key would be a message across a change of keys (RFC 8446 §5.1).
                if !last {
                    return Err(Fault::UnexpectedMessage);
                }
                self.rx = self.schedule.next_rx()?;
                self.answer_due |= requested;
                (self.events)(Event::KeyUpdateReceived);
                Ok(())
            }
            (Version::Tls13, NEW_SESSION_TICKET, true) => self.schedule.take_ticket(body),
            (Version::Tls12, HELLO_REQUEST, true) | (Version::Tls12, CLIENT_HELLO, false) => {
                (self.events)(Event::RenegotiationRefused);
                self.renegotiations += 1;
                if self.renegotiations > 1 {
                    return Err(Fault::Renegotiation);
                }
                // RFC 5246 §7.2.2: a warning, and the connection goes on unless the peer minds.
                self.transmit_record(ALERT, Buf::copy_from(&[WARNING, NO_RENEGOTIATION]), transmit);
                Ok(())
            }
            _ => Err(Fault::UnexpectedMessage),
        }
    }

    /// Sends the new key the peer asked for. Done at once while nothing waits to be sent, otherwise with the next data, as RFC 8446
    /// §4.6.3 allows: a peer that asks without reading makes no queue grow.
    pub fn answer_key_update(&mut self, transmit: &mut dyn FnMut(Buf)) {
        if self.answer_due {
            self.update_tx(transmit);
        }
    }

    fn update_tx(&mut self, transmit: &mut dyn FnMut(Buf)) {
        self.answer_due = false;
        self.transmit_record(HANDSHAKE, Buf::copy_from(&[KEY_UPDATE, 0, 0, 1, 0]), transmit);
        if self.tx.is_none() {
            return;
        }
        match self.schedule.next_tx() {
            Ok(key) => {
                self.tx = Some(key);
                (self.events)(Event::KeyUpdateSent);
            }
            Err(fault) => {
                self.tx = None;
                self.fail(fault, transmit);
            }
        }
    }

    /// Sends `buf`, in several records when one does not hold it.
    #[inline]
    pub fn send(&mut self, mut buf: Buf, transmit: &mut dyn FnMut(Buf)) {
        if self.answer_due {
            self.update_tx(transmit);
        }
        while self.tx.is_some() && !buf.is_empty() {
            let rest = (buf.len() > CONTENT_MAX).then(|| buf.split_off(CONTENT_MAX));
            self.said += buf.len() as u64;
            if self.tx.as_ref().is_some_and(|key| key.records_left() <= RECORDS_RESERVED) {
                self.renew_tx(transmit);
            }
            self.transmit_record(APPLICATION_DATA, buf, transmit);
            match rest {
                Some(rest) => buf = rest,
                None => break,
            }
        }
    }

    /// The key for sending has done what it may.
    #[cold]
    fn renew_tx(&mut self, transmit: &mut dyn FnMut(Buf)) {
        match self.version {
            Version::Tls13 => self.update_tx(transmit),
            Version::Tls12 => self.fail(Fault::KeyExhausted, transmit),
        }
    }

    #[inline]
    fn transmit_record(&mut self, content_type: u8, mut buf: Buf, transmit: &mut dyn FnMut(Buf)) {
        let Some(key) = &mut self.tx else { return };
        match key.seal(content_type, &mut buf) {
            Ok(()) => transmit(buf),
            Err(fault) => {
                self.tx = None;
                self.end = PeerEnd::Fault(fault);
            }
        }
    }

    /// Ends the sending direction with `close_notify`.
    pub fn close(&mut self, transmit: &mut dyn FnMut(Buf)) {
        self.transmit_record(ALERT, Buf::copy_from(&[WARNING, CLOSE_NOTIFY]), transmit);
        self.tx = None;
    }

    /// TCP ended.
    pub fn handle_eof(&mut self) {
        if self.end == PeerEnd::Open {
            self.end = PeerEnd::Truncated;
        }
    }

    /// The connection underneath broke.
    pub fn handle_broken(&mut self, errno: Option<i32>) {
        if self.end == PeerEnd::Open {
            self.end = PeerEnd::Broken(errno);
        }
        self.tx = None;
    }

    #[cold]
    fn fail(&mut self, fault: Fault, transmit: &mut dyn FnMut(Buf)) {
        self.transmit_record(ALERT, Buf::copy_from(&[FATAL, fault.alert()]), transmit);
        self.tx = None;
        self.partial = Partial::None;
        self.end = PeerEnd::Fault(fault);
    }
}

/// Largest beginning of a record kept in memory of its own size, in bytes.
const SMALL_MAX: usize = 4096;
/// Records in a row that carry no data: tickets, key updates, empty records, warnings.
const IDLE_MESSAGES_MAX: u8 = 32;
/// Largest handshake message after the handshake, in bytes: a ticket may have 64 KiB, servers in use stay below 16.
const MESSAGE_MAX: usize = 1 << 14;
/// Records kept back of a key: the key update or the alert that ends its use.
const RECORDS_RESERVED: u64 = 8;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

#[cfg(test)]
mod tests;
