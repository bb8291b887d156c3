//! Datagrams that go beside their request's stream (RFC 9297 section 2.1): what QUIC carries of them, and those that have come of one
//! stream and wait for whoever reads it.

use crate::code::{Code, Fault};
use crate::varint;
use bytes::{Buf as _, Bytes};
use std::collections::{HashMap, VecDeque};

/// Bytes of datagrams that wait for the reader of one stream. Beyond it those that come are dropped, as the network would.
pub const WAITING_MOST: usize = 64 * 1024;

/// What each weighs beside its content.
pub const OVERHEAD: usize = 64;

/// The number of the request among those of its connection, which its stream's is four times of, and the content of a datagram.
pub fn decode(mut datagram: Bytes) -> Result<(u64, Bytes), Fault> {
    match varint::decode(&datagram) {
        Some((number, length)) if number <= varint::MAX / 4 => {
            datagram.advance(length);
            Ok((number, datagram))
        }
        _ => Err(Fault::Connection(Code::Datagram)),
    }
}

/// A datagram for the request of this number.
pub fn encode(number: u64, content: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + content.len());
    varint::encode(number, &mut datagram);
    datagram.extend_from_slice(content);
    datagram
}

/// What becomes of datagrams of a stream.
#[derive(Debug, Default)]
pub struct Waiting {
    are: Are,
    queue: VecDeque<Bytes>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Are {
    /// The head that says whether there are any has not been read.
    #[default]
    Unknown,
    Wanted,
    /// The stream has none: they mean nothing to it.
    Meaningless,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Kept,
    /// There is no room for it.
    Dropped,
}

impl Waiting {
    /// One has come. An error ends the stream: it is of one that has no datagrams.
    pub fn handle(&mut self, content: Bytes) -> Result<Taken, Fault> {
        if self.are == Are::Meaningless {
            return Err(Fault::Stream(Code::Datagram));
        }
        let weight = content.len() + OVERHEAD;
        if self.bytes + weight > WAITING_MOST {
            return Ok(Taken::Dropped);
        }
        self.bytes += weight;
        self.queue.push_back(content);
        Ok(Taken::Kept)
    }

    /// The head says whether there are any. An error ends the stream: some came that mean nothing.
    pub fn decide(&mut self, wanted: bool) -> Result<(), Fault> {
        self.are = if wanted { Are::Wanted } else { Are::Meaningless };
        let came = !self.queue.is_empty();
        if !wanted {
            self.clear();
        }
        if came && !wanted { Err(Fault::Stream(Code::Datagram)) } else { Ok(()) }
    }

    pub fn take(&mut self) -> Option<Bytes> {
        let content = self.queue.pop_front()?;
        self.bytes -= content.len() + OVERHEAD;
        Some(content)
    }

    /// Bytes of memory.
    pub fn held(&self) -> usize {
        self.bytes
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }
}

/// Datagrams on their way out of a connection. QUIC sends those it has before anything of a stream, so it gets few at a time, behind what
/// streams had to say; and where the way takes no more, streams have what it takes next before others follow. Requests take turns.
#[derive(Debug, Default)]
pub struct Outbox {
    turns: VecDeque<u64>,
    of: HashMap<u64, Own>,
    bytes: usize,
    /// Some that QUIC got could not go out at once.
    limited: bool,
    /// How often the peer had acknowledged when all of them were out.
    streams_from: Option<u64>,
}

/// Those of one request.
#[derive(Debug, Default)]
struct Own {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Outbox {
    /// One more of this request, as QUIC carries it.
    pub fn push(&mut self, number: u64, content: &[u8]) -> Taken {
        let datagram = encode(number, content);
        let weight = datagram.len() + OVERHEAD;
        let held = self.of.get(&number).map_or(0, |own| own.bytes);
        if held + weight > WAITING_MOST || self.bytes + weight > OUTBOX_MOST {
            return Taken::Dropped;
        }
        let own = self.of.entry(number).or_default();
        if own.queue.is_empty() {
            self.turns.push_back(number);
        }
        own.queue.push_back(datagram);
        own.bytes += weight;
        self.bytes += weight;
        Taken::Kept
    }

    /// There is something for QUIC, or to learn of what it got.
    pub fn wants_turn(&self) -> bool {
        self.limited || !self.is_empty()
    }

    /// What QUIC is to get now that it has sent what it could: `unsent` bytes of what it got before are left, and its peer has acknowledged so
    /// often. To be asked whenever it may have: what is pushed later does not wait for what was let go before.
    pub fn turn(&mut self, unsent: usize, acknowledged: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if unsent > 0 {
            self.limited = true;
            return out;
        }
        if self.limited {
            // What the peer has let go since went to streams, as far as those had anything to say.
            if *self.streams_from.get_or_insert(acknowledged) == acknowledged {
                return out;
            }
            (self.limited, self.streams_from) = (false, None);
        }
        let mut bytes = 0;
        while bytes < TURN
            && let Some(number) = self.turns.pop_front()
        {
            let Some(own) = self.of.get_mut(&number) else { continue };
            if let Some(datagram) = own.queue.pop_front() {
                bytes += datagram.len();
                own.bytes -= datagram.len() + OVERHEAD;
                self.bytes -= datagram.len() + OVERHEAD;
                out.push(datagram);
            }
            match own.queue.is_empty() {
                true => drop(self.of.remove(&number)),
                false => self.turns.push_back(number),
            }
        }
        out
    }

    /// QUIC has dropped some of what it got, as the way takes only shorter ones by now. Those are not under way, so that no acknowledgement
    /// need be to come that others could wait for.
    pub fn handle_dropped(&mut self) {
        (self.limited, self.streams_from) = (false, None);
    }

    /// The stream of a request ends, and none of its datagrams is to follow (RFC 9297 section 2.1): what QUIC is to get before that, so that
    /// it goes with the end if not ahead of it, and how many others are lost. It gets no more than in a turn, since the streams of others wait for it.
    pub fn leave(&mut self, number: u64) -> (Vec<Vec<u8>>, u32) {
        let Some(own) = self.of.remove(&number) else { return Default::default() };
        self.turns.retain(|turn| *turn != number);
        self.bytes -= own.bytes;
        let (mut bytes, all) = (0, own.queue.len());
        let within = |datagram: &Vec<u8>| {
            bytes += datagram.len();
            bytes <= TURN
        };
        let going: Vec<_> = own.queue.into_iter().take_while(within).collect();
        let lost = all - going.len();
        (going, u32::try_from(lost).unwrap_or(u32::MAX))
    }

    /// Whether there is more for QUIC at once; `unsent` bytes of what it got could not go out.
    pub fn goes_on(&mut self, unsent: usize) -> bool {
        self.limited |= unsent > 0;
        !self.is_empty() && !self.limited
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Bytes of memory.
    pub fn held(&self) -> usize {
        self.bytes
    }
}

/// Bytes of datagrams of all requests of a connection that are on their way out.
const OUTBOX_MOST: usize = 4 * WAITING_MOST;

/// Bytes of them that QUIC gets at a time.
const TURN: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(out: Vec<Vec<u8>>) -> Vec<u8> {
        out.iter().map(|datagram| datagram[0]).collect()
    }

    #[test]
    fn requests_have_their_turns() {
        let mut outbox = Outbox::default();
        assert!((0..50).all(|_| outbox.push(1, &[1; 1000]) == Taken::Kept));
        assert_eq!(outbox.push(2, &[2; 1000]), Taken::Kept);
        assert_eq!(numbers(outbox.turn(0, 0)), [1, 2, 1, 1, 1]);
        assert!(outbox.goes_on(0));
        assert_eq!(numbers(outbox.turn(0, 0)), [1; 5], "where the way takes them nobody waits");
    }

    /// A way that takes two packets each time the peer is heard, tunnels that never run out, and a stream that has always more to say.
    #[test]
    fn streams_have_theirs_where_the_way_is_what_limits() {
        let (mut outbox, mut unsent, mut of_streams, mut of_datagrams) = (Outbox::default(), 0usize, 0, 0);
        for heard in 1..=300u64 {
            let mut room = 2;
            let mut send = |unsent: &mut usize, room: &mut i32| {
                while *room > 0 && *unsent > 0 {
                    (*unsent, *room, of_datagrams) = (*unsent - 1, *room - 1, of_datagrams + 1);
                }
                of_streams += std::mem::take(room);
            };
            // It is looked at more often than it is heard.
            for _ in 0..3 {
                (0..10).for_each(|n| _ = outbox.push(n % 3, &[0; 1200]));
                send(&mut unsent, &mut room);
                unsent += outbox.turn(unsent, heard).len();
                send(&mut unsent, &mut room);
                outbox.goes_on(unsent);
            }
        }
        assert!(of_streams >= 150 && of_datagrams >= 150, "{of_streams} of streams, {of_datagrams} datagrams");
    }

    #[test]
    fn what_comes_after_a_flood_does_not_wait_for_the_peer() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(1, b"flood"), Taken::Kept);
        assert_eq!(numbers(outbox.turn(0, 1)), [1]);
        assert!(!outbox.goes_on(500) && outbox.is_empty());
        // It goes out, and is acknowledged.
        for (unsent, heard) in [(500, 1), (0, 2), (0, 3)] {
            assert!(outbox.wants_turn() && outbox.turn(unsent, heard).is_empty());
        }
        assert!(!outbox.wants_turn());
        assert_eq!(outbox.push(1, b"later"), Taken::Kept);
        assert_eq!(numbers(outbox.turn(0, 3)), [1], "nothing is under way that the peer would answer");
    }

    #[test]
    fn what_quic_drops_is_not_waited_for() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(1, &[1; TURN]), Taken::Kept);
        assert_eq!(outbox.push(1, b"shorter"), Taken::Kept);
        assert_eq!(outbox.turn(0, 1).len(), 1);
        assert!(!outbox.goes_on(TURN));
        assert!(outbox.turn(0, 2).is_empty(), "it may be under way");
        outbox.handle_dropped();
        assert_eq!(numbers(outbox.turn(0, 2)), [1]);
    }

    #[test]
    fn what_goes_out_has_bounds() {
        let mut outbox = Outbox::default();
        let kept =
            |outbox: &mut Outbox, number| (0..100).filter(|_| outbox.push(number, &[0; 999]) == Taken::Kept).count();
        assert_eq!(kept(&mut outbox, 1), WAITING_MOST / (1000 + OVERHEAD));
        let others: usize = (2..10).map(|number| kept(&mut outbox, number)).sum();
        assert!(outbox.held() <= OUTBOX_MOST && (3 * 61..4 * 61).contains(&others), "{others}");
        // Nor is anything kept of requests whose datagrams found no room.
        assert_eq!((outbox.of.len(), outbox.push(99, &[0; WAITING_MOST])), (5, Taken::Dropped));
        assert_eq!((outbox.of.len(), outbox.turns.len()), (5, 5));
    }

    #[test]
    fn what_a_request_said_last_goes_out_before_its_end() {
        let mut outbox = Outbox::default();
        (0..10u8).for_each(|n| assert_eq!(outbox.push(1, &[n; 1000]), Taken::Kept));
        assert_eq!(outbox.push(2, b"other"), Taken::Kept);
        let held = outbox.held();
        let (going, lost) = outbox.leave(1);
        assert_eq!((going.iter().map(|datagram| datagram[1]).collect::<Vec<_>>(), lost), (vec![0, 1, 2, 3], 6));
        assert_eq!(outbox.held(), held - 10 * (1001 + OVERHEAD));
        assert_eq!((outbox.leave(1), outbox.leave(3)), ((Vec::new(), 0), (Vec::new(), 0)));
        assert_eq!(numbers(outbox.turn(0, 0)), [2]);
        assert!(outbox.is_empty() && outbox.held() == 0);
    }

    #[test]
    fn a_datagram_names_its_request() {
        for number in [0, 63, 64, 20_000, varint::MAX / 4] {
            assert_eq!(decode(encode(number, b"x").into()), Ok((number, Bytes::from_static(b"x"))));
        }
        assert_eq!(decode(encode(5, b"").into()), Ok((5, Bytes::new())));
        // Of no stream there can be, and none at all (section 2.1).
        for broken in [&encode(varint::MAX / 4 + 1, b"x")[..], &[], &[0x40]] {
            assert_eq!(decode(Bytes::copy_from_slice(broken)), Err(Fault::Connection(Code::Datagram)));
        }
    }

    #[test]
    fn as_many_wait_as_may() {
        let mut waiting = Waiting::default();
        let large = Bytes::from(vec![0; WAITING_MOST / 2 - OVERHEAD]);
        assert_eq!(waiting.handle(large.clone()), Ok(Taken::Kept));
        assert_eq!(waiting.decide(true), Ok(()));
        assert_eq!(waiting.handle(large.clone()), Ok(Taken::Kept));
        assert_eq!(waiting.handle(Bytes::new()), Ok(Taken::Dropped));
        assert_eq!(waiting.held(), WAITING_MOST);
        assert_eq!(waiting.take().map(|content| content.len()), Some(large.len()));
        assert_eq!(waiting.handle(Bytes::new()), Ok(Taken::Kept));
        assert!(waiting.take().is_some() && waiting.take().is_some() && waiting.take().is_none());
        assert_eq!(waiting.held(), 0);
    }

    #[test]
    fn a_request_without_datagrams_gets_none() {
        let mut before = Waiting::default();
        assert_eq!(before.handle(Bytes::new()), Ok(Taken::Kept));
        assert_eq!((before.decide(false), before.held()), (Err(Fault::Stream(Code::Datagram)), 0));
        let mut after = Waiting::default();
        assert_eq!(after.decide(false), Ok(()));
        assert_eq!(after.handle(Bytes::new()), Err(Fault::Stream(Code::Datagram)));
    }
}
