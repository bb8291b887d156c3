use super::*;
use crate::connection::said::{Frame, block, frame, frames, open};
use crate::connection::{ClientConnection, Ended};
use crate::hpack::FIELD_OVERHEAD;
use bytes::Bytes;
use proptest::prelude::*;
use proto_http::coding;
use std::task::Waker;
use std::time::Duration;

/// A server that says frames byte by byte, and reads what comes back.
struct Peer {
    core: ClientConnection,
    now: Instant,
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::settings(settings, &mut bytes);
    bytes
}

fn answer(stream: u32, flags: u8, status: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(&[&[(":status", status)], more].concat()))
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, payload)
}

fn reset(stream: u32, code: Code) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn leave(last: u32, code: Code) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

const GET: &[u8] = &[0x82, 0x86, 0x84];

impl Peer {
    /// One that has said nothing.
    fn silent() -> Peer {
        let now = Instant::now();
        Peer { core: ClientConnection::new(&ClientSettings::default(), now, 16 * 1024), now }
    }

    fn new() -> Peer {
        Peer::with(&[])
    }

    /// One whose settings were read, and who has read ours.
    fn with(said: &[(u16, u32)]) -> Peer {
        let mut peer = Peer::silent();
        let first = peer.bytes();
        assert!(first.starts_with(PREFACE));
        peer.say(&settings(said)).unwrap();
        peer.say(&frame(SETTINGS, ACK, 0, &[])).unwrap();
        peer.frames();
        peer
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.core.handle(bytes, self.now)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        loop {
            let more = self.core.pump();
            self.core.out().take(|buffer| said.extend_from_slice(&buffer));
            if !more {
                return said;
            }
        }
    }

    /// What was said since the last time.
    fn frames(&mut self) -> Vec<Frame> {
        let said = self.bytes();
        frames(said.strip_prefix(PREFACE).unwrap_or(&said))
    }

    /// The resets of streams and the end of the connection that were said, with their codes.
    fn codes(&mut self) -> Vec<(u32, u32)> {
        let frames = self.frames();
        frames.iter().filter(|f| matches!(f.kind, RST_STREAM | GOAWAY)).map(|f| (f.stream, f.code())).collect()
    }

    /// Begins a message of a head, which goes out.
    fn get(&mut self) -> Key {
        let key = self.core.open(GET, true, Asks::Message).unwrap();
        self.frames();
        key
    }

    /// The same of one that a body follows.
    fn post(&mut self) -> Key {
        let key = self.core.open(GET, false, Asks::Message).unwrap();
        self.frames();
        key
    }

    fn head(&mut self, key: Key) -> Poll<Result<String, Lost>> {
        self.core.poll_head(key, &mut noop()).map_ok(|fields| {
            let mut text = fields.section.iter();
            String::from_utf8(text.next().unwrap().1.to_vec()).unwrap()
        })
    }

    fn body(&mut self, key: Key) -> (Vec<u8>, Poll<Result<(), Lost>>) {
        let mut body = Vec::new();
        loop {
            match self.core.poll_data(key, &mut noop()) {
                Poll::Ready(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => return (body, Poll::Ready(Ok(()))),
                Poll::Ready(Err(lost)) => return (body, Poll::Ready(Err(lost))),
                Poll::Pending => return (body, Poll::Pending),
            }
        }
    }

    fn send(&mut self, key: Key, bytes: usize, ends: bool) -> Result<(), Gone> {
        self.core.send_data(key, Bytes::from(vec![7; bytes]).into(), ends)
    }

    /// Nothing is left of anything.
    fn is_at_rest(&self) -> bool {
        self.core.streams() == 0 && self.core.unread() == 0 && self.core.held() == 0
    }
}

fn ok(status: &str) -> Poll<Result<String, Lost>> {
    Poll::Ready(Ok(status.to_owned()))
}

#[test]
fn the_preface_and_settings_come_first() {
    let mut peer = Peer::silent();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| (f.kind, f.stream)).collect::<Vec<_>>(), [(SETTINGS, 0), (WINDOW_UPDATE, 0)]);
    let list = 64 * 1024 + 128 * 32 + 1024u32;
    for (id, value) in [(2, 0u32), (4, 131_072), (5, 16_384), (6, list)] {
        let setting = [&[0, id][..], &value.to_be_bytes()].concat();
        assert!(frames[0].payload.chunks(6).any(|said| said == setting), "{id}");
    }
    assert_eq!(frames[1].code(), 16 * 1024 * 1024 - 65_535);
    peer.say(&settings(&[(4, 7), (99, 1)])).unwrap();
    assert_eq!(peer.frames(), [Frame { kind: SETTINGS, flags: ACK, stream: 0, payload: vec![] }]);
}

#[test]
fn a_request_and_its_answer() {
    let mut peer = Peer::new();
    let key = peer.core.open(GET, true, Asks::Message).unwrap();
    assert!(peer.core.has_output() && !peer.core.is_begun(key));
    let flags = END_HEADERS | END_STREAM;
    assert_eq!(peer.frames(), [Frame { kind: HEADERS, flags, stream: 1, payload: GET.to_vec() }]);
    assert!(peer.core.is_begun(key) && peer.head(key).is_pending());
    peer.say(&answer(1, 0, "200", &[("content-length", "5")])).unwrap();
    assert!(peer.core.held() > 0);
    assert_eq!((peer.head(key), peer.core.held()), (ok("200"), 0));
    assert_eq!(peer.body(key), (vec![], Poll::Pending));
    peer.say(&data(1, END_STREAM, b"hello")).unwrap();
    assert!(!peer.core.is_body_over(key));
    assert_eq!(peer.body(key), (b"hello".to_vec(), Poll::Ready(Ok(()))));
    assert!(peer.core.is_body_over(key));
    peer.core.let_go(key);
    assert!(peer.is_at_rest() && peer.frames().is_empty());
    assert_eq!(peer.get().id, 3);
}

#[test]
fn answers_have_interim_ones_padding_and_trailers() {
    let mut peer = Peer::new();
    let key = peer.get();
    let frames = [
        answer(1, 0, "100", &[]),
        answer(1, 0, "103", &[("link", "</s.css>")]),
        answer(1, 0, "201", &[]),
        data(1, PADDED, b"\x03body\0\0\0"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "7")])),
    ];
    peer.say(&frames.concat()).unwrap();
    for status in ["100", "103", "201"] {
        assert_eq!(peer.head(key), ok(status));
    }
    assert_eq!(peer.body(key), (b"body".to_vec(), Poll::Ready(Ok(()))));
    let section = peer.core.take_trailers(key).unwrap().unwrap();
    assert_eq!(section.iter().collect::<Vec<_>>(), [(&b"x-sum"[..], &b"7"[..])]);
    peer.core.let_go(key);
    assert!(peer.is_at_rest());
}

#[test]
fn bodies_are_as_long_as_was_announced_where_there_is_one() {
    let message = Asks::Message;
    for (asks, status, length, sent, is_sound) in [
        (message, "200", "4", "test", true),
        (message, "200", "3", "test", false),
        (message, "200", "5", "test", false),
        (message, "200", "5", "", false),
        (message, "204", "0", "", true),
        (message, "304", "77", "", true),
        (message, "304", "4", "test", false),
        (Asks::Head, "200", "77", "", true),
        (Asks::Head, "200", "4", "test", false),
        (Asks::Tunnel, "200", "1", "test", true),
        (Asks::Tunnel, "403", "1", "test", false),
    ] {
        let mut peer = Peer::new();
        let key = peer.core.open(GET, true, asks).unwrap();
        peer.frames();
        let ends = if sent.is_empty() { END_STREAM } else { 0 };
        peer.say(&answer(1, ends, status, &[("content-length", length)])).unwrap();
        if !sent.is_empty() {
            peer.say(&data(1, END_STREAM, sent.as_bytes())).unwrap();
        }
        let case = format!("{asks:?} {status} {length} {sent}");
        if peer.head(key) == ok(status) {
            let (body, end) = peer.body(key);
            match is_sound {
                true => assert_eq!((body, end), (sent.into(), Poll::Ready(Ok(()))), "{case}"),
                false => assert_eq!(end, Poll::Ready(Err(Lost::Fault(Code::PROTOCOL))), "{case}"),
            }
        }
        assert_eq!(peer.codes(), if is_sound { vec![] } else { vec![(1, 1)] }, "{case}");
        peer.core.let_go(key);
        assert!(peer.is_at_rest(), "{case}");
    }
}

/// It may be that the server has just said that it takes no more.
#[test]
fn requests_wait_for_what_has_come_to_be_read() {
    let mut peer = Peer::new();
    let key = peer.core.open(GET, true, Asks::Message).unwrap();
    peer.send(key, 1, false).unwrap_err();
    assert!(peer.core.out().is_empty());
    peer.say(&settings(&[(MAX_CONCURRENT_STREAMS, 0)])).unwrap();
    assert!(peer.frames().iter().all(|f| f.kind == SETTINGS) && !peer.core.is_begun(key));
    assert_eq!(peer.core.streams_most(), 0);
    peer.say(&settings(&[(MAX_CONCURRENT_STREAMS, 1)])).unwrap();
    assert_eq!(peer.frames().last().map(|f| (f.kind, f.stream)), Some((HEADERS, 1)));
}

#[test]
fn no_more_requests_are_under_way_than_the_server_takes() {
    let mut peer = Peer::silent();
    peer.frames();
    assert_eq!(peer.core.streams_most(), 100);
    let keys: Vec<Key> = (0..103).map(|_| peer.core.open(GET, true, Asks::Message).unwrap()).collect();
    assert_eq!(peer.frames().len(), 100, "before it has said anything");
    peer.say(&settings(&[])).unwrap();
    assert_eq!((peer.core.streams_most(), peer.frames().len()), (usize::MAX, 1 + 3));
    peer.say(&settings(&[(MAX_CONCURRENT_STREAMS, 102)])).unwrap();
    peer.frames();
    let more: Vec<Key> = (0..3).map(|_| peer.core.open(GET, true, Asks::Message).unwrap()).collect();
    assert!(peer.frames().is_empty());
    // One that nobody waits for any more is never said, and its number is left out.
    peer.core.let_go(more[0]);
    for (n, key) in keys[..2].iter().enumerate() {
        peer.say(&answer(key.id, END_STREAM, "200", &[])).unwrap();
        peer.core.let_go(*key);
        let said: Vec<_> = peer.frames().iter().map(|f| (f.kind, f.stream)).collect();
        assert_eq!(said, if n == 0 { vec![] } else { vec![(HEADERS, more[1].id)] });
    }
    assert_eq!(peer.core.streams(), 103);
}

/// A body that is there already goes behind its head, and no frame names a stream whose head has not gone out.
#[test]
fn what_belongs_to_a_request_waits_with_it() {
    let mut peer = Peer::with(&[(MAX_CONCURRENT_STREAMS, 1), (INITIAL_WINDOW_SIZE, 10)]);
    let first = peer.get();
    let second = peer.core.open(GET, false, Asks::Message).unwrap();
    peer.send(second, 5, false).unwrap();
    peer.send(second, 10, true).unwrap();
    let third = peer.core.open(GET, false, Asks::Message).unwrap();
    peer.send(third, 5, false).unwrap();
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 12)])).unwrap();
    assert!(peer.frames().iter().all(|f| f.kind == SETTINGS));
    peer.core.reset(third, Code::CANCEL);
    peer.say(&answer(1, END_STREAM, "200", &[])).unwrap();
    peer.core.let_go(first);
    let frames = peer.frames();
    let said: Vec<_> = frames.iter().map(|f| (f.kind, f.stream, f.payload.len(), f.flags)).collect();
    assert_eq!(said, [(HEADERS, 3, 3, END_HEADERS), (DATA, 3, 5, 0), (DATA, 3, 7, 0)]);
    peer.say(&open(3, 3)).unwrap();
    let said: Vec<_> = peer.frames().iter().map(|f| (f.kind, f.stream, f.payload.len(), f.flags)).collect();
    assert_eq!(said, [(DATA, 3, 3, END_STREAM)]);
    peer.core.let_go(third);
    peer.core.let_go(second);
    assert_eq!(peer.codes(), [(3, 8)]);
    assert!(peer.is_at_rest());
}

#[test]
fn requests_wait_for_windows_and_take_turns() {
    let mut peer = Peer::new();
    let keys: Vec<Key> = (0..3).map(|_| peer.post()).collect();
    for key in &keys {
        peer.send(*key, 40_000, true).unwrap();
    }
    let sent: usize = peer.frames().iter().map(|f| f.payload.len()).sum();
    assert_eq!(sent, 65_535, "the window of the connection");
    assert!(peer.core.poll_gone(keys[0], &mut noop()).is_pending());
    peer.say(&open(0, 100_000)).unwrap();
    let frames = peer.frames();
    assert_eq!(frames.iter().filter(|f| f.flags & END_STREAM != 0).count() + 1, 3);
    for key in keys {
        peer.say(&answer(key.id, END_STREAM, "200", &[])).unwrap();
        peer.core.let_go(key);
    }
    assert!(peer.is_at_rest() && peer.codes().is_empty());
}

/// A server that has answered may never take the rest: nobody waits for that any more, and it would have its place for ever.
#[test]
fn the_rest_of_a_request_that_nobody_waits_for_is_given_up() {
    let mut peer = Peer::with(&[(INITIAL_WINDOW_SIZE, 10)]);
    let key = peer.post();
    peer.send(key, 25, true).unwrap();
    peer.say(&answer(1, END_STREAM, "200", &[])).unwrap();
    peer.core.let_go(key);
    assert_eq!((peer.codes(), peer.core.streams()), (vec![(1, 8)], 0));
    peer.core.leave();
    assert_eq!(peer.core.ended(), Some(Ok(())));
    assert!(peer.is_at_rest());
    // What waits for no window goes out.
    let mut peer = Peer::new();
    let key = peer.post();
    peer.core.set_blocked(true);
    peer.core.send_end(key).unwrap();
    peer.say(&answer(1, END_STREAM, "200", &[])).unwrap();
    peer.core.let_go(key);
    peer.core.set_blocked(false);
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| (f.kind, f.flags)).collect::<Vec<_>>(), [(DATA, END_STREAM)]);
    assert!(peer.is_at_rest());
}

#[test]
fn windows_open_as_answers_are_read() {
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&answer(1, 0, "200", &[])).unwrap();
    for _ in 0..8 {
        peer.say(&data(1, 0, &[7; 16_384])).unwrap();
    }
    assert_eq!((peer.frames(), peer.core.unread()), (vec![], 131_072));
    assert_eq!(peer.body(key).0.len(), 131_072);
    let opened: u32 = peer.frames().iter().filter(|f| f.kind == WINDOW_UPDATE && f.stream == 1).map(Frame::code).sum();
    assert!((65_536..=131_072).contains(&opened), "{opened}");
    // More than was allowed ends the stream, and more than all of them may send ends the connection.
    let mut peer = Peer::new();
    peer.get();
    peer.say(&answer(1, 0, "200", &[])).unwrap();
    for _ in 0..8 {
        peer.say(&data(1, 0, &[7; 16_384])).unwrap();
    }
    peer.say(&data(1, 0, &[7])).unwrap();
    assert_eq!(peer.codes(), [(1, 3)]);
    let mut peer = Peer::new();
    let ended = (0..129).find_map(|_| {
        let key = peer.get();
        peer.say(&answer(key.id, 0, "200", &[])).unwrap();
        (0..8).find_map(|_| peer.say(&data(key.id, 0, &[7; 16_384])).err())
    });
    assert_eq!(ended, Some(Ended::Fault("h2_flow_control")));
    assert_eq!(peer.codes(), [(0, 3)]);
}

/// Tiny pieces cost little more than their bytes.
#[test]
fn tiny_frames_are_put_together() {
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&answer(1, 0, "200", &[])).unwrap();
    for _ in 0..100_000 {
        peer.say(&data(1, 0, &[7])).unwrap();
    }
    let mut pieces = 0;
    while let Poll::Ready(Ok(Some(_))) = peer.core.poll_data(key, &mut noop()) {
        pieces += 1;
    }
    assert!(pieces < 40, "{pieces}");
}

#[test]
fn a_stream_that_is_given_up_is_cancelled_and_what_was_under_way_is_no_fault() {
    let mut peer = Peer::new();
    for n in 0..400 {
        let id = 2 * n + 1;
        let key = if n % 2 == 0 { peer.get() } else { peer.post() };
        if n % 3 == 0 {
            peer.say(&answer(id, 0, "200", &[])).unwrap();
        }
        if n % 6 == 0 {
            peer.say(&data(id, 0, &[7; 10_000])).unwrap();
            peer.say(&data(id, 0, &[7; 1_000])[..500]).unwrap();
        }
        peer.core.let_go(key);
        assert_eq!(peer.codes(), [(id, 8)]);
        if n % 6 == 0 {
            peer.say(&data(id, 0, &[7; 1_000])[500..]).unwrap();
        }
        let late = [answer(id, 0, "200", &[]), data(id, END_STREAM, &[7; 5_000]), open(id, 1), reset(id, Code::CANCEL)];
        peer.say(&late.concat()).unwrap();
        assert_eq!((peer.codes(), peer.is_at_rest()), (vec![], true), "{n}");
    }
    assert_eq!(peer.core.ended(), None);
}

/// A gateway gives up whatever its clients give up: what was on its way then is no fault, however many they are and however late it
/// comes.
#[test]
fn what_comes_of_streams_long_forgotten_costs_nothing() {
    let mut peer = Peer::new();
    let beside = peer.post();
    let keys: Vec<Key> = (0..2_000).map(|_| peer.get()).collect();
    keys.iter().for_each(|key| peer.core.let_go(*key));
    peer.frames();
    // More than the window of the connection has room for, unless it is opened for what nobody reads.
    for key in &keys {
        let late = [answer(key.id, 0, "200", &[]), data(key.id, 0, &[7; 16_000]), data(key.id, END_STREAM, b"")];
        assert_eq!(peer.say(&late.concat()), Ok(()), "{}", key.id);
        assert_eq!(peer.codes(), []);
    }
    peer.say(&answer(beside.id, END_STREAM, "200", &[])).unwrap();
    assert_eq!((peer.head(beside), peer.core.excess(), peer.core.unread()), (ok("200"), 0, 0));
}

/// Frames of streams that are over have a bound, though no answer comes to it.
#[test]
fn what_comes_of_no_stream_has_an_allowance() {
    for flood in [answer(1, 0, "200", &[]), data(1, END_STREAM, &[]), data(1, END_STREAM | PADDED, &[2, 0, 0])] {
        let mut peer = Peer::new();
        let key = peer.get();
        peer.core.let_go(key);
        let ended = (0..5_000).find_map(|_| peer.say(&flood).err());
        assert!(matches!(ended, Some(Ended::Fault("h2_unknown_frames"))), "{ended:?}");
    }
}

#[test]
fn resets_say_why() {
    for code in [Code::REFUSED, Code::HTTP_1_1, Code::CANCEL, Code(99)] {
        let mut peer = Peer::new();
        let key = peer.post();
        peer.say(&reset(1, code)).unwrap();
        assert_eq!(peer.head(key), Poll::Ready(Err(Lost::Reset(code))));
        assert_eq!(peer.send(key, 1, true), Err(Gone));
        assert!(peer.core.poll_gone(key, &mut noop()).is_ready());
        peer.core.let_go(key);
        assert!(peer.is_at_rest() && peer.frames().is_empty());
    }
    // What came before is read, and then that it broke off.
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&[answer(1, 0, "200", &[]), data(1, 0, b"half"), reset(1, Code::INTERNAL)].concat()).unwrap();
    assert_eq!(peer.head(key), ok("200"));
    assert_eq!(peer.body(key), (b"half".to_vec(), Poll::Ready(Err(Lost::Reset(Code::INTERNAL)))));
    peer.core.let_go(key);
    assert!(peer.is_at_rest());
    // In full, and that no more of the request is wanted (RFC 9113 section 8.1).
    let mut peer = Peer::new();
    let key = peer.post();
    let answered = [answer(1, 0, "200", &[]), data(1, END_STREAM, b"whole"), reset(1, Code::NO_ERROR)].concat();
    peer.say(&answered).unwrap();
    assert_eq!((peer.head(key), peer.send(key, 1, true)), (ok("200"), Err(Gone)));
    assert_eq!(peer.body(key), (b"whole".to_vec(), Poll::Ready(Ok(()))));
    peer.core.let_go(key);
    assert!(peer.is_at_rest() && peer.frames().is_empty());
    // In the middle of a frame, nobody reads on.
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&[answer(1, 0, "200", &[]), data(1, 0, &[7; 9_000])[..4_000].to_vec()].concat()).unwrap();
    peer.core.handle_end();
    assert_eq!(peer.head(key), ok("200"));
    let (body, end) = peer.body(key);
    assert_eq!((body.len(), end), (3_991, Poll::Ready(Err(Lost::Gone))));
    peer.core.let_go(key);
    assert!(peer.is_at_rest());
}

#[test]
fn a_server_that_leaves_says_what_it_has_not_looked_at() {
    let mut peer = Peer::with(&[(MAX_CONCURRENT_STREAMS, 3)]);
    let keys: Vec<Key> = (0..5).map(|_| peer.core.open(GET, true, Asks::Message).unwrap()).collect();
    assert_eq!(peer.frames().len(), 3);
    // First that it leaves, then what of; who has not gone out goes nowhere (RFC 9113 section 6.8).
    peer.say(&leave(0x7fff_ffff, Code::NO_ERROR)).unwrap();
    assert!(!peer.core.is_open() && peer.core.open(GET, true, Asks::Message).is_err());
    let left_out = Poll::Ready(Err(Lost::LeftOut(Code::NO_ERROR)));
    for key in &keys[3..] {
        assert_eq!(peer.head(*key), left_out);
    }
    assert!(peer.head(keys[2]).is_pending());
    peer.say(&leave(3, Code::NO_ERROR)).unwrap();
    assert_eq!(peer.head(keys[2]), left_out);
    // The others are answered, and then it is over.
    for key in &keys[..2] {
        assert_eq!(peer.core.ended(), None);
        peer.say(&answer(key.id, END_STREAM, "200", &[])).unwrap();
        assert_eq!(peer.head(*key), ok("200"));
    }
    keys.iter().for_each(|key| peer.core.let_go(*key));
    assert_eq!((peer.frames(), peer.core.ended()), (vec![], Some(Ok(()))));
    assert!(peer.is_at_rest());
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&leave(0, Code::CALM)).unwrap();
    assert_eq!(peer.head(key), Poll::Ready(Err(Lost::LeftOut(Code::CALM))));
    assert_eq!(peer.core.ended(), Some(Err(Ended::ByPeer)));
}

#[test]
fn who_leaves_lets_what_is_under_way_end() {
    let mut peer = Peer::new();
    let key = peer.get();
    peer.core.leave();
    assert!(peer.core.open(GET, true, Asks::Message).is_err() && peer.frames().is_empty());
    peer.say(&answer(1, END_STREAM, "200", &[])).unwrap();
    assert_eq!((peer.codes(), peer.core.ended()), (vec![(0, 0)], Some(Ok(()))));
    assert_eq!(peer.head(key), ok("200"), "what has come is read");
    // One that never went out holds nobody up.
    let mut peer = Peer::with(&[(MAX_CONCURRENT_STREAMS, 0)]);
    let key = peer.core.open(GET, true, Asks::Message).unwrap();
    peer.core.leave();
    assert_eq!(peer.core.ended(), None);
    peer.core.let_go(key);
    assert_eq!((peer.codes(), peer.core.ended()), (vec![(0, 0)], Some(Ok(()))));
}

#[test]
fn numbers_come_to_an_end() {
    let mut peer = Peer::new();
    peer.core.side.next = NUMBER_MOST;
    let key = peer.get();
    assert_eq!(key.id, NUMBER_MOST);
    assert!(!peer.core.is_open() && peer.core.open(GET, true, Asks::Message).is_err());
    peer.say(&answer(key.id, END_STREAM, "200", &[])).unwrap();
    assert_eq!(peer.head(key), ok("200"));
}

#[test]
fn extended_connect_is_asked_for_once_it_is_offered() {
    let mut peer = Peer::new();
    assert!(!peer.core.takes_connect());
    peer.say(&settings(&[(ENABLE_CONNECT_PROTOCOL, 1)])).unwrap();
    assert!(peer.core.takes_connect());
    let key = peer.core.open(GET, false, Asks::Tunnel).unwrap();
    peer.frames();
    peer.say(&[answer(1, 0, "200", &[]), data(1, 0, b"said")].concat()).unwrap();
    assert_eq!((peer.head(key), peer.body(key)), (ok("200"), (b"said".to_vec(), Poll::Pending)));
    peer.send(key, 4, false).unwrap();
    assert_eq!(peer.frames().len(), 1);
    // It cannot be taken back.
    assert_eq!(peer.say(&settings(&[(ENABLE_CONNECT_PROTOCOL, 0)])), Err(Ended::Fault("h2_protocol")));
}

#[test]
fn frames_that_may_not_come_end_the_connection() {
    let head = answer(1, 0, "200", &[]);
    let cases: Vec<(&str, Vec<Vec<u8>>, u32)> = vec![
        ("an answer that nobody asked for", vec![answer(5, 0, "200", &[])], 1),
        ("an answer on a stream of the server", vec![answer(2, 0, "200", &[])], 1),
        ("PUSH_PROMISE", vec![frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82])], 1),
        ("DATA on no stream", vec![data(0, 0, b"x")], 1),
        ("DATA on an idle stream", vec![data(5, 0, b"x")], 1),
        ("DATA on a stream of the server", vec![data(2, 0, b"x")], 1),
        ("HEADERS on no stream", vec![answer(0, 0, "200", &[])], 1),
        ("no field block", vec![frame(HEADERS, 4, 1, &[0x80])], 9),
        ("padding longer than the frame", vec![head.clone(), data(1, PADDED, b"\x02x")], 1),
        ("padding of nothing", vec![head.clone(), data(1, PADDED, b"")], 6),
        ("a frame within a head", vec![frame(HEADERS, 0, 1, &[0x88]), frame(PING, 0, 0, &[0; 8])], 1),
        ("CONTINUATION of another", vec![frame(HEADERS, 0, 1, &[0x88]), frame(CONTINUATION, 4, 3, b"")], 1),
        ("CONTINUATION of nothing", vec![frame(CONTINUATION, 4, 1, b"")], 1),
        ("RST_STREAM on an idle stream", vec![reset(5, Code::CANCEL)], 1),
        ("RST_STREAM of another size", vec![frame(RST_STREAM, 0, 1, &[0; 3])], 6),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], 1),
        ("SETTINGS of another size", vec![frame(SETTINGS, 0, 0, &[0; 5])], 6),
        ("a push that is offered", vec![settings(&[(ENABLE_PUSH, 1)])], 1),
        ("extended CONNECT that is neither", vec![settings(&[(ENABLE_CONNECT_PROTOCOL, 2)])], 1),
        ("a window that is too large", vec![settings(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)])], 3),
        ("frames that are too small", vec![settings(&[(MAX_FRAME_SIZE, 1)])], 1),
        ("PING of another size", vec![frame(PING, 0, 0, &[0; 7])], 6),
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], 1),
        ("a window of nothing", vec![open(0, 0)], 1),
        ("a window on an idle stream", vec![open(5, 1)], 1),
        ("the window of all too large", vec![open(0, 0x7fff_ffff)], 3),
        ("a frame that is too long", vec![frame(77, 0, 0, &vec![0; 16_385])], 6),
    ];
    for (name, frames, code) in cases {
        let mut peer = Peer::new();
        let key = peer.get();
        assert!(peer.say(&frames.concat()).is_err(), "{name}");
        assert_eq!(peer.codes().last(), Some(&(0, code)), "{name}");
        let _ = peer.head(key);
        assert_eq!(peer.head(key), Poll::Ready(Err(Lost::Gone)), "{name}");
        peer.core.let_go(key);
        assert!(peer.is_at_rest(), "{name}");
    }
    // Before its settings there is nothing.
    for first in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &frame(PING, 0, 0, &[0; 8]), &frame(SETTINGS, ACK, 0, &[])]
    {
        assert!(matches!(Peer::silent().say(first), Err(Ended::Fault("h2_protocol" | "h2_frame_size"))));
    }
}

#[test]
fn frames_that_may_not_come_on_a_stream_end_that_alone() {
    let head = answer(1, 0, "200", &[]);
    let cases: Vec<(&str, Vec<Vec<u8>>, u32)> = vec![
        ("DATA before a head", vec![data(1, 0, b"early")], 1),
        ("the end before a head", vec![data(1, END_STREAM, b"")], 1),
        ("DATA behind the end", vec![answer(1, END_STREAM, "200", &[]), data(1, 0, b"x")], 5),
        ("HEADERS behind the end", vec![answer(1, END_STREAM, "200", &[]), head.clone()], 5),
        ("HEADERS again that are no end", vec![head.clone(), head.clone()], 1),
        ("trailers with pseudo-fields", vec![head.clone(), answer(1, END_STREAM, "200", &[])], 1),
        ("an interim answer that is the end", vec![answer(1, END_STREAM, "103", &[])], 1),
        ("an end before what was announced", vec![answer(1, END_STREAM, "200", &[("content-length", "5")])], 1),
        ("a switch", vec![answer(1, 0, "101", &[])], 1),
        ("no status", vec![frame(HEADERS, 4, 1, &block(&[("a", "b")]))], 1),
        ("a status that is none", vec![answer(1, 0, "20x", &[])], 1),
        ("a status of nothing", vec![answer(1, 0, "000", &[])], 1),
        ("a window of nothing", vec![open(1, 0)], 1),
        ("a window that is too large", vec![open(1, 0x7fff_ffff)], 3),
        ("interim answers without end", vec![answer(1, 0, "102", &[]).repeat(17)], 11),
    ];
    for (name, frames, code) in cases {
        let mut peer = Peer::new();
        let key = peer.post();
        peer.say(&frames.concat()).unwrap();
        assert_eq!(peer.codes(), [(1, code)], "{name}");
        if name.starts_with("an end before") {
            assert_eq!(peer.head(key), Poll::Ready(Err(Lost::Fault(Code::PROTOCOL))), "no head that is taken back");
        }
        peer.core.let_go(key);
        let other = peer.get();
        peer.say(&answer(3, END_STREAM, "200", &[])).unwrap();
        assert_eq!(peer.head(other), ok("200"), "{name}");
        peer.core.let_go(other);
        assert!(peer.is_at_rest() && peer.core.ended().is_none(), "{name}");
    }
}

/// What only our rules refuse ends its own stream: the others of the connection have nothing to do with it.
#[test]
fn an_answer_that_is_found_to_be_none_is_reset() {
    let mut peer = Peer::new();
    let beside = peer.get();
    for n in 0..1_000 {
        let key = peer.get();
        let code = match n % 3 {
            0 => {
                peer.say(&answer(key.id, 0, "200", &[("x-a", "1")])).unwrap();
                assert_eq!(peer.head(key), ok("200"));
                peer.core.refuse(key);
                Code::PROTOCOL
            }
            1 => {
                // Names of the table weigh their length each time.
                let large = [&[0x88, 0x0f, 0x08][..], &[0x7f, 0xa1, 0x1e], &[b'v'; 4_000]].concat();
                let entry = [&large[..1], &[0x40, 1, b'x'], &large[3..], &[0x80 | 62; 30]].concat();
                peer.say(&frame(HEADERS, 4, key.id, &entry)).unwrap();
                Code::CALM
            }
            _ => {
                peer.say(&answer(key.id, 0, "102", &[]).repeat(17)).unwrap();
                (0..16).for_each(|_| assert_eq!(peer.head(key), ok("102")));
                Code::CALM
            }
        };
        assert_eq!(peer.codes(), [(key.id, code.0)], "{n}");
        assert_eq!(peer.body(key), (vec![], Poll::Ready(Err(Lost::Fault(code)))));
        peer.core.let_go(key);
    }
    peer.say(&answer(beside.id, END_STREAM, "200", &[])).unwrap();
    assert_eq!((peer.head(beside), peer.core.excess(), peer.core.ended()), (ok("200"), 0, None));
}

/// A server that breaks the protocol on stream after stream is asked for nothing more, and what is under way may end before all of it
/// does.
#[test]
fn faults_of_streams_have_an_allowance() {
    let mut peer = Peer::new();
    let beside = peer.get();
    let fault = |peer: &mut Peer| {
        let key = peer.get();
        let said = peer.say(&frame(HEADERS, END_HEADERS, key.id, &block(&[("a", "b")])));
        peer.core.let_go(key);
        said
    };
    for n in 0..256 {
        assert_eq!((fault(&mut peer), peer.core.excess()), (Ok(()), 0), "{n}");
    }
    // With time they are forgiven.
    peer.now += Duration::from_secs(1);
    for n in 0..16 + EXCESS_MOST {
        assert_eq!(fault(&mut peer), Ok(()), "{n}");
        assert_eq!(peer.core.excess(), (n + 1).saturating_sub(16));
    }
    peer.say(&answer(beside.id, END_STREAM, "200", &[])).unwrap();
    assert_eq!(peer.head(beside), ok("200"));
    assert_eq!(fault(&mut peer), Err(Ended::Fault("h2_calm")));
    assert_eq!(peer.codes().last(), Some(&(0, 11)));
}

/// What a frame says of windows counts as a whole.
#[test]
fn the_last_of_several_windows_counts() {
    let mut peer = Peer::with(&[]);
    let key = peer.post();
    peer.say(&open(0, 1 << 20)).unwrap();
    peer.say(&open(1, 100)).unwrap();
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 0x7fff_ffff), (INITIAL_WINDOW_SIZE, 10), (INITIAL_WINDOW_SIZE, 20)]))
        .unwrap();
    peer.send(key, 200, true).unwrap();
    let sent: usize = peer.frames().iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum();
    assert_eq!(sent, 120);
}

#[test]
fn heads_are_bounded() {
    // One entry of the table, named over and over.
    let mut bomb = vec![0x88, 0x40, 3];
    bomb.extend(b"x-a");
    coding::write_integer(3_912, 7, 0, &mut bomb);
    bomb.extend([b'x'; 3_912]);
    let mut peer = Peer::new();
    let key = peer.get();
    peer.say(&frame(HEADERS, 4, 1, &[&bomb[..], &[0x80 | 62; 30]].concat())).unwrap();
    assert_eq!(peer.codes(), [(1, 11)], "it is refused, and later blocks are read");
    assert_eq!(peer.head(key), Poll::Ready(Err(Lost::Fault(Code::CALM))));
    let key = peer.get();
    peer.say(&frame(HEADERS, 4, 3, &[0x88, 0x80 | 62])).unwrap();
    assert_eq!(peer.head(key), ok("200"));
    peer.get();
    bomb.extend([0x80 | 62; 8_000]);
    assert_eq!(peer.say(&frame(HEADERS, 4, 5, &bomb)), Err(Ended::Fault("h2_calm")));
    // Pieces that never end.
    for piece in [&b""[..], &block(&[("x-a", "b")]), &block(&[("x-long", &"x".repeat(10_000))])] {
        let mut peer = Peer::new();
        peer.get();
        peer.say(&frame(HEADERS, 0, 1, &[0x88])).unwrap();
        let ended = (0..2_000).find_map(|_| peer.say(&frame(CONTINUATION, 0, 1, piece)).err());
        assert!(matches!(ended, Some(Ended::Fault("h2_calm" | "h2_continuations"))), "{ended:?}");
        assert_eq!((peer.codes(), peer.core.held()), (vec![(0, 11)], 0));
    }
    // Trailers lie there for as long as nobody reads the body.
    let mut peer = Peer::new();
    let key = peer.get();
    let many = [&[0x40, 3][..], b"x-a", b"\x01b", &[0x80 | 62; 33]].concat();
    peer.say(&[answer(1, 0, "200", &[]), frame(HEADERS, 5, 1, &many)].concat()).unwrap();
    assert!(peer.core.take_trailers(key).unwrap().is_err());
    assert!(1000 * FIELD_OVERHEAD < ClientSettings::default().header_list_bytes as usize);
}

#[test]
fn floods_of_frames_end_the_connection() {
    let floods: [(&str, Vec<u8>); 10] = [
        ("h2_empty_data", data(1, PADDED, &[9; 10])),
        ("h2_settings", leave(99, Code::NO_ERROR)),
        ("h2_pings", frame(PING, 0, 0, &[0; 8])),
        ("h2_settings", settings(&[])),
        ("h2_empty_data", data(1, 0, &[])),
        ("h2_window_updates", open(1, 1)),
        ("h2_priorities", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("h2_unknown_frames", frame(99, 0, 0, &[])),
        ("h2_resets", reset(3, Code::CANCEL)),
        ("h2_continuations", frame(CONTINUATION, 0, 1, &[])),
    ];
    for (name, flood) in floods {
        let mut peer = Peer::new();
        let keys = [peer.get(), peer.get()];
        let begins_head = name == "h2_continuations";
        let first = if begins_head { frame(HEADERS, 0, 1, &[0x88]) } else { answer(1, 0, "200", &[]) };
        peer.say(&first).unwrap();
        let (mut seen, mut ended) = (0, None);
        for _ in 0..5_000 {
            ended = peer.say(&flood).err();
            peer.frames();
            seen += u32::from(peer.core.excess() > 0);
            if ended.is_some() {
                break;
            }
        }
        // It is known for a while before the requests under way end with it.
        assert_eq!((ended, seen), (Some(Ended::Fault(name)), EXCESS_MOST + 1), "{name}");
        keys.iter().for_each(|key| peer.core.let_go(*key));
    }
    let mut peer = Peer::new();
    for _ in 0..10_000 {
        let key = peer.get();
        peer.say(&reset(key.id, Code::REFUSED)).unwrap();
        peer.core.let_go(key);
    }
    assert_eq!(peer.core.excess(), 0, "it may refuse each");
}

#[test]
fn what_we_say_is_a_reason_to_hear_something() {
    let mut peer = Peer::new();
    let before = peer.core.wants();
    peer.say(&[settings(&[]), frame(PING, 0, 0, &[0; 8])].concat()).unwrap();
    peer.core.ask();
    peer.core.ask();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| (f.kind, f.flags)).collect::<Vec<_>>(), [(SETTINGS, ACK), (PING, ACK), (PING, 0)]);
    assert_eq!(peer.core.wants(), before);
    peer.say(&frame(PING, ACK, 0, &frames[2].payload)).unwrap();
    peer.core.ask();
    assert_eq!(peer.frames().len(), 1, "once more, now that it has answered");
    let key = peer.post();
    peer.send(key, 10, true).unwrap();
    peer.frames();
    assert_eq!(peer.core.wants(), before + 2);
}

#[test]
fn a_smaller_table_is_answered_once() {
    let mut peer = Peer::with(&[(HEADER_TABLE_SIZE, 0)]);
    for said in [[&[0x20][..], GET].concat(), GET.to_vec()] {
        peer.core.open(GET, true, Asks::Message).unwrap();
        assert_eq!(peer.frames()[0].payload, said);
    }
}

/// A connection at rest is this, its task and its socket.
#[test]
fn a_connection_at_rest_is_small() {
    let mut peer = Peer::new();
    for _ in 0..100 {
        let (first, second) = (peer.get(), peer.post());
        peer.send(second, 10_000, true).unwrap();
        for key in [first, second] {
            peer.say(&[answer(key.id, 0, "200", &[("x-a", "b")]), data(key.id, END_STREAM, &[7; 9_000])].concat())
                .unwrap();
            assert_eq!(peer.head(key), ok("200"));
            assert_eq!(peer.body(key).0.len(), 9_000);
            peer.core.let_go(key);
        }
        peer.frames();
        peer.say(&open(0, 10_000)).unwrap();
    }
    let core = &peer.core;
    let held = core.partial.capacity() + core.streams.memory() + core.decoder.memory() + core.side.unopened.capacity();
    let (connection, stream) = (size_of::<ClientConnection>(), size_of::<Stream<Asked>>());
    assert!(connection <= 768 && stream <= 512, "{connection} {stream}");
    assert!(held <= 2_560 && core.line.capacity() == 0 && peer.is_at_rest(), "{held}");
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![4 => (0..4u32).prop_map(|n| 2 * n + 1), 1 => 0..10u32];
    let payload = prop_oneof![
        2 => Just(block(&[(":status", "200")])),
        1 => Just(block(&[(":status", "103")])),
        1 => Just(block(&[(":status", "200"), ("content-length", "4")])),
        1 => Just(block(&[("x-sum", "1")])),
        1 => Just(b"body".to_vec()),
        1 => Just(vec![0; 4]),
        1 => Just(vec![0, 0, 0, 9]),
        1 => Just(vec![0, 0, 0, 3, 0, 0, 0, 0]),
        1 => Just(vec![0, 3, 0, 0, 0, 2]),
        1 => Just(vec![0, 4, 0, 0, 1, 0]),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let kind = prop_oneof![3 => Just(DATA), 3 => Just(HEADERS), 2 => 3..9u8, 1 => 0..12u8];
    let flags =
        prop_oneof![Just(0), Just(END_STREAM), Just(END_HEADERS), Just(5), Just(END_STREAM | PADDED), any::<u8>()];
    (kind, flags, stream, payload).prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A life of any kind ends with every byte given back.
    #[test]
    fn nothing_is_left_of_any_life(steps in proptest::collection::vec((0..13u8, 0..4u32, some_frame()), 0..80)) {
        let mut peer = Peer::new();
        let mut keys: Vec<Key> = Vec::new();
        for (step, which, frame) in steps {
            let at = which as usize % keys.len().max(1);
            match (step, keys.get(at).copied()) {
                (0..2, _) => keys.extend(peer.core.open(GET, which == 0, [Asks::Message, Asks::Head][at % 2])),
                (2..4, _) => drop(peer.say(&frame)),
                (4, Some(key)) => drop(peer.say(&answer(key.id, (which & 1) as u8, "200", &[]))),
                (5, Some(key)) => drop(peer.say(&data(key.id, (which & 1) as u8, &[7; 5_000]))),
                (6, Some(key)) => drop(peer.body(key)),
                (7, Some(key)) => drop(peer.head(key)),
                (8, Some(key)) => drop(peer.send(key, 9_000, which == 0)),
                (9, Some(key)) => drop(peer.core.send_end(key)),
                (10, Some(key)) if which == 0 => peer.core.reset(key, Code::CANCEL),
                (10, Some(key)) if which == 1 => peer.core.discard(key),
                (10, Some(_)) => {
                    let key = keys.remove(at);
                    peer.core.let_go(key);
                }
                (11, _) => drop(peer.frames()),
                (12, Some(key)) => drop(peer.say(&open(key.id * (which & 1), 20_000))),
                _ => {}
            }
        }
        for key in keys {
            peer.core.let_go(key);
        }
        let _ = peer.say(&settings(&[(MAX_CONCURRENT_STREAMS, 1000)]));
        let _ = peer.say(&open(0, 10_000_000));
        for key in peer.core.streams.keys() {
            let _ = peer.say(&open(key.id, 1_000_000));
        }
        peer.frames();
        for key in peer.core.streams.keys() {
            let _ = peer.say(&open(key.id, 1_000_000));
        }
        peer.frames();
        prop_assert_eq!(peer.core.streams(), 0);
        // Of a frame that has not come whole.
        let coming = match peer.core.stage {
            crate::connection::Stage::Data(frame) => frame.left,
            _ => 0,
        };
        prop_assert!(peer.core.unread() <= coming && peer.core.held == 0, "{} {}", peer.core.unread(), peer.core.held);
    }
}
