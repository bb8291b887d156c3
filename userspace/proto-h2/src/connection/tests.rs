use super::said::{Frame, block, frame, frames, open};
use super::*;
use crate::hpack::encoder;
use crate::pings::PingRules;
use crate::server::BodyBroken;
use crate::settings::ServerSettings;
use proptest::prelude::*;
use std::task::Waker;
use std::time::Duration;

/// A client that says frames byte by byte, and reads what comes back.
struct Peer {
    core: ServerConnection,
    now: Instant,
    said: Vec<u8>,
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET))
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[POST, more].concat()))
}

impl Peer {
    fn silent(settings: &ServerSettings) -> Peer {
        let now = Instant::now();
        Peer { core: ServerConnection::new(settings, now, 16 * 1024), now, said: Vec::new() }
    }

    fn new() -> Peer {
        Peer::with(&[])
    }

    /// One whose preface and settings were read, and who has read ours.
    fn with(settings: &[(u16, u32)]) -> Peer {
        let mut peer = Peer::silent(&ServerSettings::default());
        let mut first = PREFACE.to_vec();
        frame::settings(settings, &mut first);
        peer.say(&first).unwrap();
        peer.say(&frame(SETTINGS, ACK, 0, &[])).unwrap();
        peer.frames();
        peer
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.core.handle(bytes, self.now)
    }

    /// What was said since the last time.
    fn frames(&mut self) -> Vec<Frame> {
        while self.core.pump() {
            let said = &mut self.said;
            self.core.out().take(|buffer| said.extend_from_slice(&buffer));
        }
        let said = &mut self.said;
        self.core.out().take(|buffer| said.extend_from_slice(&buffer));
        frames(&std::mem::take(&mut self.said))
    }

    fn accept(&mut self) -> Key {
        self.core.accept().expect("a request").key
    }

    fn answer(&mut self, key: Key, body: &[u8]) {
        let mut block = Vec::new();
        encoder::field(b":status", b"200", &mut block);
        self.core.send_fields(key, &block, false).unwrap();
        self.core.send_data(key, Bytes::copy_from_slice(body).into(), true).unwrap();
    }

    fn data(&mut self, key: Key) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        self.core.poll_data(key, &mut Context::from_waker(Waker::noop())).map_err(BodyBroken::from)
    }

    fn body(&mut self, key: Key) -> (Vec<u8>, Poll<Result<(), BodyBroken>>) {
        let mut body = Vec::new();
        loop {
            match self.data(key) {
                Poll::Ready(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => return (body, Poll::Ready(Ok(()))),
                Poll::Ready(Err(broken)) => return (body, Poll::Ready(Err(broken))),
                Poll::Pending => return (body, Poll::Pending),
            }
        }
    }

    /// The resets of streams and the end of the connection that were said, with their codes.
    fn codes(&mut self) -> Vec<(u32, u32)> {
        let frames = self.frames();
        frames.iter().filter(|f| matches!(f.kind, RST_STREAM | GOAWAY)).map(|f| (f.stream, f.code())).collect()
    }
}

#[test]
fn settings_come_first_and_are_acknowledged() {
    let mut peer = Peer::silent(&ServerSettings::default());
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| (f.kind, f.stream)).collect::<Vec<_>>(), [(SETTINGS, 0), (WINDOW_UPDATE, 0)]);
    let limit = 64 * 1024 + 128 * 32 + 1024u32;
    for (id, value) in [(3, 128u32), (4, 65_536), (5, 16_384), (6, limit), (8, 1)] {
        let setting = [&[0, id][..], &value.to_be_bytes()].concat();
        assert!(frames[0].payload.chunks(6).any(|said| said == setting), "{id}");
    }
    let mut first = PREFACE.to_vec();
    frame::settings(&[(4, 7), (99, 1)], &mut first);
    peer.say(&first).unwrap();
    assert_eq!(peer.frames(), [Frame { kind: SETTINGS, flags: ACK, stream: 0, payload: vec![] }]);
}

#[test]
fn a_request_and_its_answer() {
    let mut peer = Peer::new();
    peer.say(&get(1)).unwrap();
    let accepted = peer.core.accept().unwrap();
    assert!(accepted.is_whole && accepted.head.kept == Kept::All);
    assert_eq!(accepted.head.section.iter().last(), Some((&b":path"[..], &b"/"[..])));
    peer.answer(accepted.key, b"hello");
    let frames = peer.frames();
    assert_eq!((frames[0].kind, frames[0].flags, frames[0].payload.as_slice()), (HEADERS, END_HEADERS, &[0x88][..]));
    assert_eq!((frames[1].kind, frames[1].flags, frames[1].payload.as_slice()), (DATA, END_STREAM, &b"hello"[..]));
    peer.core.let_go(accepted.key);
    assert_eq!((peer.frames(), peer.core.streams.open()), (vec![], 0));
}

#[test]
fn bodies_come_with_padding_and_trailers() {
    let mut peer = Peer::new();
    peer.say(&post(1, &[("content-length", "8")])).unwrap();
    let key = peer.accept();
    assert_eq!(peer.data(key), Poll::Pending);
    peer.say(&frame(DATA, PADDED, 1, b"\x03body\0\0\0")).unwrap();
    assert_eq!(peer.body(key), (b"body".to_vec(), Poll::Pending));
    peer.say(&frame(DATA, 0, 1, b"more")).unwrap();
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "7")]));
    peer.say(&trailers).unwrap();
    assert!(!peer.core.is_body_over(key));
    assert_eq!(peer.body(key), (b"more".to_vec(), Poll::Ready(Ok(()))));
    assert!((1..256).contains(&peer.core.held()));
    let section = peer.core.take_trailers(key).unwrap().unwrap();
    assert_eq!(peer.core.held(), 0);
    assert_eq!(section.iter().collect::<Vec<_>>(), [(&b"x-sum"[..], &b"7"[..])]);
    assert!(peer.core.is_body_over(key));
    assert_eq!(peer.core.unread(), 0);
}

#[test]
fn windows_open_as_bodies_are_read() {
    let mut peer = Peer::new();
    peer.say(&post(1, &[])).unwrap();
    let key = peer.accept();
    for _ in 0..4 {
        peer.say(&frame(DATA, 0, 1, &[7; 16_384])).unwrap();
    }
    assert_eq!(peer.frames(), []);
    assert_eq!(peer.core.unread(), 65_536);
    assert_eq!(peer.body(key).0.len(), 65_536);
    let opened: u32 = peer.frames().iter().filter(|f| f.kind == WINDOW_UPDATE && f.stream == 1).map(Frame::code).sum();
    assert!((32_768..=65_536).contains(&opened), "{opened}");
    // More than was allowed ends the stream, and more than all of them may send ends the connection.
    let mut peer = Peer::new();
    peer.say(&post(1, &[])).unwrap();
    for _ in 0..4 {
        peer.say(&frame(DATA, 0, 1, &[7; 16_384])).unwrap();
    }
    peer.say(&frame(DATA, 0, 1, &[7])).unwrap();
    assert_eq!(peer.codes(), [(1, 3)]);
    let mut peer = Peer::new();
    for n in 0..5 {
        peer.say(&post(2 * n + 1, &[])).unwrap();
        for _ in 0..4 {
            let _ = peer.say(&frame(DATA, 0, 2 * n + 1, &[7; 16_384]));
        }
    }
    assert_eq!(peer.core.ended(), Some(Err(Ended::Fault("h2_flow_control"))));
}

#[test]
fn bodies_nobody_reads_give_their_room_back() {
    let mut peer = Peer::new();
    let mut requests = 0;
    for n in 0..200 {
        let stream = 2 * n + 1;
        peer.say(&post(stream, &[])).unwrap();
        let key = peer.accept();
        peer.core.hold(key);
        for size in [16_384, 10_000] {
            peer.say(&frame(DATA, 0, stream, &vec![7; size])).unwrap();
        }
        // In the middle of a frame.
        let padded = frame(DATA, PADDED, stream, &[&[5][..], &[7; 1_005]].concat());
        peer.say(&padded[..500]).unwrap();
        peer.core.discard(key);
        peer.core.let_go(key);
        peer.say(&padded[500..]).unwrap();
        peer.answer(key, b"no");
        peer.core.let_go(key);
        assert_eq!(peer.core.unread(), 0, "{n}");
        requests += peer.codes().iter().filter(|(id, code)| (*id, *code) == (stream, 0)).count();
        // What was under way is no fault.
        peer.say(&frame(DATA, 0, stream, &[7; 10_000])).unwrap();
        assert_eq!(peer.codes(), []);
    }
    assert_eq!(requests, 200, "each is told to stop");
    assert_eq!(peer.core.streams.open(), 0);
}

/// Of a body that is thrown away no more is asked for than its client may send anyway, though its answer is not over.
#[test]
fn no_more_is_asked_for_of_what_nobody_reads() {
    let mut peer = Peer::new();
    peer.say(&post(1, &[])).unwrap();
    let key = peer.accept();
    peer.core.discard(key);
    for _ in 0..4 {
        peer.say(&frame(DATA, 0, 1, &[7; 16_384])).unwrap();
    }
    assert_eq!((peer.frames(), peer.core.unread()), (vec![], 0));
    peer.say(&frame(DATA, 0, 1, &[7])).unwrap();
    assert_eq!(peer.codes(), [(1, 3)]);
}

/// RFC 9113 section 8.1.1.
#[test]
fn bodies_are_as_long_as_was_announced() {
    for (announced, sent, ends) in [("1", "test", 0), ("1", "test", END_STREAM), ("5", "test", END_STREAM)] {
        let mut peer = Peer::new();
        peer.say(&post(1, &[("content-length", announced)])).unwrap();
        let key = peer.accept();
        peer.say(&frame(DATA, ends, 1, sent.as_bytes())).unwrap();
        assert_eq!(peer.codes(), [(1, 1)], "{announced} {sent}");
        assert_eq!(peer.body(key).1, Poll::Ready(Err(BodyBroken::Length)));
        assert!(peer.core.poll_gone(key, &mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(peer.core.unread(), 0);
    }
    let mut peer = Peer::new();
    let head = block(&[POST, &[("content-length", "1")]].concat());
    peer.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).unwrap();
    assert_eq!((peer.codes(), peer.core.accept().is_none()), (vec![(1, 1)], true));
}

#[test]
fn requests_without_the_form_of_one_are_reset() {
    let with = |more: &[(&'static str, &'static str)]| [GET, more].concat();
    for wrong in [
        with(&[("X-Upper", "1")]),
        with(&[("x-a", "1"), (":path", "/")]),
        with(&[(":path", "/")]),
        with(&[(":status", "200")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        GET[1..].to_vec(),
        GET[..3].to_vec(),
        [&GET[..3], &[(":path", "")]].concat(),
    ] {
        let mut peer = Peer::new();
        peer.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&wrong))).unwrap();
        assert_eq!((peer.codes(), peer.core.accept().is_none()), (vec![(1, 1)], true), "{wrong:?}");
        // The connection goes on.
        peer.say(&get(3)).unwrap();
        peer.accept();
    }
    let mut peer = Peer::new();
    peer.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&with(&[("te", "trailers")])))).unwrap();
    peer.accept();
}

#[test]
fn frames_that_may_not_come_end_the_connection() {
    let opened = post(1, &[]);
    let finished = get(1);
    let cases: Vec<(&str, Vec<Vec<u8>>, u32)> = vec![
        ("DATA on no stream", vec![frame(DATA, 0, 0, b"x")], 1),
        ("DATA on an idle stream", vec![frame(DATA, 0, 1, b"x")], 1),
        ("HEADERS on no stream", vec![frame(HEADERS, 5, 0, &block(GET))], 1),
        ("HEADERS of a server", vec![frame(HEADERS, 5, 2, &block(GET))], 1),
        ("an old number", vec![get(5), get(3)], 1),
        ("no field block", vec![frame(HEADERS, 5, 1, &[0x80])], 9),
        ("padding longer than the frame", vec![opened.clone(), frame(DATA, PADDED, 1, b"\x02x")], 1),
        ("padding of nothing", vec![opened.clone(), frame(DATA, PADDED, 1, b"")], 6),
        ("a frame within a head", vec![frame(HEADERS, 0, 1, &block(GET)), frame(PING, 0, 0, &[0; 8])], 1),
        ("an unknown frame within a head", vec![frame(HEADERS, 0, 1, &block(GET)), frame(77, 0, 0, b"")], 1),
        ("CONTINUATION of another", vec![frame(HEADERS, 0, 1, &block(GET)), frame(CONTINUATION, 4, 3, b"")], 1),
        ("CONTINUATION of nothing", vec![frame(CONTINUATION, 4, 1, b"")], 1),
        ("dependency on itself", vec![frame(PRIORITY, 0, 3, &[0, 0, 0, 3, 1])], 1),
        ("PRIORITY of another size", vec![frame(PRIORITY, 0, 3, &[0; 4])], 6),
        ("RST_STREAM on an idle stream", vec![frame(RST_STREAM, 0, 1, &[0; 4])], 1),
        ("RST_STREAM of another size", vec![opened.clone(), frame(RST_STREAM, 0, 1, &[0; 3])], 6),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], 1),
        ("SETTINGS of another size", vec![frame(SETTINGS, 0, 0, &[0; 5])], 6),
        ("SETTINGS acknowledged with something", vec![frame(SETTINGS, ACK, 0, &[0; 6])], 6),
        ("a window that is too large", vec![frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])], 3),
        ("frames that are too small", vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])], 1),
        ("PUSH_PROMISE", vec![frame(PUSH_PROMISE, 4, 1, &[0; 4])], 1),
        ("PING of another size", vec![frame(PING, 0, 0, &[0; 7])], 6),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], 1),
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], 1),
        ("a window of nothing", vec![open(0, 0)], 1),
        ("a window on an idle stream", vec![open(1, 1)], 1),
        ("the window of all too large", vec![open(0, 0x7fff_ffff)], 3),
        (
            "the first window too large",
            vec![opened.clone(), open(1, 0x7fff_0000), frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])],
            3,
        ),
        ("a frame that is too long", vec![frame(77, 0, 0, &vec![0; 16_385])], 6),
        ("HEADERS behind the end", vec![finished.clone(), frame(RST_STREAM, 0, 1, &[0; 4]), get(1)], 5),
    ];
    for (name, frames, code) in cases {
        let mut peer = Peer::new();
        let ended = peer.say(&frames.concat());
        assert!(ended.is_err(), "{name}");
        assert_eq!(peer.codes().last(), Some(&(0, code)), "{name}");
        assert!(peer.core.streams.open() == 0 && peer.core.accept().is_none());
    }
    // Before the settings there is nothing, and before them the preface.
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()] {
        assert_eq!(Peer::silent(&ServerSettings::default()).say(first), Err(Ended::Fault("h2_protocol")));
    }
}

#[test]
fn frames_that_may_not_come_on_a_stream_end_that_alone() {
    let cases: Vec<(&str, Vec<Vec<u8>>, u32)> = vec![
        ("DATA behind the end", vec![get(1), frame(DATA, 0, 1, b"x")], 5),
        ("HEADERS behind the end", vec![get(1), get(1)], 5),
        ("HEADERS again that are no end", vec![post(1, &[]), post(1, &[])], 1),
        ("trailers with pseudo-fields", vec![post(1, &[]), frame(HEADERS, 5, 1, &block(&[(":path", "/")]))], 1),
        ("a window of nothing", vec![post(1, &[]), open(1, 0)], 1),
        ("a window that is too large", vec![post(1, &[]), open(1, 0x7fff_ffff)], 3),
        ("DATA behind a reset", vec![post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 4]), frame(DATA, 0, 1, b"x")], 5),
    ];
    for (name, frames, code) in cases {
        let mut peer = Peer::new();
        peer.say(&frames.concat()).unwrap();
        assert_eq!(peer.codes(), [(1, code)], "{name}");
        peer.say(&get(3)).unwrap();
        while peer.accept().id != 3 {}
        assert_eq!(peer.core.ended(), None, "{name}");
    }
}

#[test]
fn answers_wait_for_windows_and_take_turns() {
    let mut peer = Peer::with(&[(INITIAL_WINDOW_SIZE, 0)]);
    let keys: Vec<Key> = (0..3)
        .map(|n| {
            peer.say(&get(2 * n + 1)).unwrap();
            let key = peer.accept();
            peer.answer(key, &[n as u8; 40_000]);
            key
        })
        .collect();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [HEADERS; 3], "heads wait for no window");
    // All of them at once: a frame of each in turn, as far as the window of the connection goes.
    peer.say(&frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])).unwrap();
    let order: Vec<(u32, usize)> =
        peer.frames().iter().filter(|f| f.kind == DATA).map(|f| (f.stream, f.payload.len())).collect();
    assert_eq!(order[..4], [(1, 16_375), (3, 16_375), (5, 16_375), (1, 16_375)]);
    assert_eq!(order.iter().map(|(_, bytes)| bytes).sum::<usize>(), 65_535);
    peer.say(&open(0, 100_000)).unwrap();
    let frames = peer.frames();
    let ends: Vec<u32> = frames.iter().filter(|f| f.flags & END_STREAM != 0).map(|f| f.stream).collect();
    assert_eq!(ends.len(), 3, "{ends:?}");
    keys.iter().for_each(|key| peer.core.let_go(*key));
    assert_eq!((peer.codes(), peer.core.streams.open()), (vec![], 0));
}

#[test]
fn one_whose_window_is_shut_stops_no_other() {
    let mut peer = Peer::new();
    peer.say(&[get(1), get(3)].concat()).unwrap();
    let (first, second) = (peer.accept(), peer.accept());
    peer.answer(first, &[1; 100_000]);
    // The connection's window is shut as well now: a head still goes.
    peer.answer(second, &[2; 10]);
    let frames = peer.frames();
    assert_eq!(frames.iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum::<usize>(), 65_535);
    assert_eq!(frames.last().map(|f| (f.kind, f.stream)), Some((HEADERS, 3)));
    peer.say(&open(0, 10)).unwrap();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| (f.kind, f.stream, f.payload.len())).collect::<Vec<_>>(), [(DATA, 3, 10)]);
}

/// Others may have used up the window of the connection, and their client may read on when it likes.
#[test]
fn what_needs_no_window_is_said_whole_behind_those_that_wait_for_one() {
    for shut in 1..4 {
        let mut peer = Peer::with(&[(INITIAL_WINDOW_SIZE, 1 << 20)]);
        let mut keys: Vec<Key> = Vec::new();
        for n in 0..shut + 3 {
            peer.say(&get(2 * n + 1)).unwrap();
            keys.push(peer.accept());
        }
        let needless = keys.split_off(shut as usize);
        for key in &keys {
            peer.answer(*key, &[1; 70_000]);
        }
        let sent = peer.frames().iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum::<usize>();
        assert_eq!(sent, 65_535);
        let [interim, trailers, given_up] = needless[..] else { unreachable!() };
        peer.core.send_fields(interim, b"\x08\x03103", false).unwrap();
        peer.core.send_fields(interim, &[0x89], true).unwrap();
        peer.core.send_fields(trailers, &[0x88], false).unwrap();
        peer.core.send_fields(trailers, &block(&[("grpc-status", "0")]), true).unwrap();
        peer.core.send_fields(given_up, &[0x88], false).unwrap();
        peer.core.let_go(given_up);
        let frames = peer.frames();
        for (key, last) in [(interim, (HEADERS, 5)), (trailers, (HEADERS, 5)), (given_up, (RST_STREAM, 0))] {
            let of_it: Vec<(u8, u8)> =
                frames.iter().filter(|f| f.stream == key.id).map(|f| (f.kind, f.flags)).collect();
            assert_eq!(of_it, [(HEADERS, END_HEADERS), last], "{} of {shut}", key.id);
        }
    }
}

#[test]
fn what_is_left_is_reset_behind_what_was_said() {
    let mut peer = Peer::with(&[(INITIAL_WINDOW_SIZE, 5)]);
    peer.say(&get(1)).unwrap();
    let key = peer.accept();
    peer.core.send_fields(key, &[0x88], false).unwrap();
    peer.core.send_data(key, Bytes::from_static(b"0123456789").into(), false).unwrap();
    peer.core.let_go(key);
    assert_eq!(peer.frames().iter().map(|f| f.kind).collect::<Vec<_>>(), [HEADERS, DATA]);
    peer.say(&open(1, 5)).unwrap();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [DATA, RST_STREAM]);
    assert_eq!((frames[1].code(), peer.core.streams.open()), (8, 0));
}

#[test]
fn who_resets_is_told_so_by_whoever_waits() {
    let mut peer = Peer::new();
    peer.say(&post(1, &[])).unwrap();
    let key = peer.accept();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(peer.core.poll_gone(key, &mut cx).is_pending());
    peer.say(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).unwrap();
    assert!(peer.core.poll_gone(key, &mut cx).is_ready());
    assert_eq!(peer.data(key), Poll::Ready(Err(BodyBroken::Gone)));
    assert_eq!(peer.core.send_fields(key, &[0x88], true), Err(Gone));
    peer.core.let_go(key);
    assert_eq!(peer.frames(), []);
}

#[test]
fn resets_before_anybody_looked_and_faults_are_bounded() {
    let mut peer = Peer::new();
    let flood: Vec<u8> =
        (0..100).flat_map(|n| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat()).collect();
    assert_eq!(peer.say(&flood), Err(Ended::Fault("h2_calm")));
    let mut peer = Peer::new();
    let wrong = |n: u32| [post(2 * n + 1, &[]), open(2 * n + 1, 0)].concat();
    for n in 0..256 {
        peer.say(&wrong(n)).unwrap();
        assert!(peer.core.accept().is_none(), "nobody has to answer it");
    }
    assert_eq!(peer.say(&wrong(256)), Err(Ended::Fault("h2_calm")));
    // Over a long life they are forgiven.
    let mut peer = Peer::new();
    for n in 0..2_000 {
        peer.now += Duration::from_secs(1);
        peer.say(&wrong(n)).unwrap();
        peer.frames();
    }
}

/// Each takes what its client has sent of it, and costs it nothing to leave there.
#[test]
fn what_is_not_whole_is_in_the_books() {
    let mut peer = Peer::new();
    assert_eq!(peer.core.held(), 0);
    let head = frame(HEADERS, 0, 1, &[&block(POST)[..], &block(&[("x-long", &"x".repeat(9_000))])].concat());
    peer.say(&head[..5_000]).unwrap();
    assert!((4_000..16_000).contains(&peer.core.held()), "{}", peer.core.held());
    peer.say(&head[5_000..]).unwrap();
    assert!((9_000..20_000).contains(&peer.core.held()), "{}", peer.core.held());
    let more = block(&[("x-more", &"x".repeat(12_000))]);
    peer.say(&frame(CONTINUATION, 0, 1, &more)).unwrap();
    assert!((21_000..50_000).contains(&peer.core.held()), "{}", peer.core.held());
    peer.say(&frame(CONTINUATION, END_HEADERS, 1, &[])).unwrap();
    // Read, and not taken.
    assert!((21_000..60_000).contains(&peer.core.held()), "{}", peer.core.held());
    peer.accept();
    assert_eq!(peer.core.held(), 0);
    let mut peer = Peer::new();
    peer.say(&[get(1), get(3), frame(RST_STREAM, 0, 1, &[0; 4])].concat()).unwrap();
    assert!(peer.core.held() > 0);
    peer.core.handle_end();
    assert_eq!(peer.core.held(), 0);
}

/// Each of them is nothing but frames.
#[test]
fn frames_of_nothing_have_a_bound() {
    for (name, flood) in
        [("h2_empty_data", frame(DATA, PADDED, 1, &[9; 10])), ("h2_settings", frame(GOAWAY, 0, 0, &[0; 8]))]
    {
        let mut peer = Peer::new();
        peer.say(&post(1, &[])).unwrap();
        let ended = (0..200).find_map(|_| peer.say(&flood).err());
        assert_eq!(ended, Some(Ended::Fault(name)));
    }
}

/// Who has nothing to do with what waits for a window wakes nobody.
#[test]
fn what_waits_for_a_window_is_nothing_to_send() {
    let mut peer = Peer::new();
    peer.say(&[get(1), get(3)].concat()).unwrap();
    let (first, second) = (peer.accept(), peer.accept());
    peer.answer(first, &[1; 100_000]);
    assert!(peer.core.has_output());
    peer.frames();
    assert!(!peer.core.has_output());
    peer.answer(second, &[2; 10]);
    assert!(peer.core.has_output(), "its head needs none");
    peer.frames();
    assert!(!peer.core.has_output());
    peer.say(&open(0, 100_000)).unwrap();
    assert!(peer.core.has_output());
    let ends = peer.frames().iter().filter(|f| f.flags & END_STREAM != 0).count();
    assert_eq!(ends, 1, "the window of the first one itself is shut");
    assert!(!peer.core.has_output());
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let mut peer = Peer::new();
    for n in 0..129 {
        peer.say(&get(2 * n + 1)).unwrap();
    }
    assert_eq!(peer.codes(), [(257, 7)]);
    let key = peer.accept();
    peer.answer(key, b"");
    peer.core.let_go(key);
    peer.say(&get(259)).unwrap();
    assert_eq!(peer.codes(), []);
}

#[test]
fn heads_are_bounded() {
    // One entry of the table, named over and over.
    let mut bomb = block(GET);
    bomb.extend([0x40, 3]);
    bomb.extend(b"x-a");
    coding::write_integer(3_912, 7, 0, &mut bomb);
    bomb.extend([b'x'; 3_912]);
    let large = [&bomb[..], &[0x80 | 62; 30]].concat();
    let mut peer = Peer::new();
    peer.say(&frame(HEADERS, 5, 1, &large)).unwrap();
    assert_eq!(peer.core.accept().unwrap().head.kept, Kept::Part);
    bomb.extend([0x80 | 62; 8_000]);
    assert_eq!(peer.say(&frame(HEADERS, 5, 3, &bomb)), Err(Ended::Fault("h2_calm")));
    // Pieces that never end.
    for piece in [&b""[..], &block(&[("x-a", "b")]), &block(&[("x-long", &"x".repeat(10_000))])] {
        let mut peer = Peer::new();
        peer.say(&frame(HEADERS, 0, 1, &block(GET))).unwrap();
        assert_eq!(peer.core.head_coming(), Some(1));
        let ended = (0..2_000).find_map(|_| peer.say(&frame(CONTINUATION, 0, 1, piece)).err());
        assert!(matches!(ended, Some(Ended::Fault("h2_calm" | "h2_continuations"))), "{ended:?}");
    }
}

/// For as long as nobody reads their bodies they lie there, and each is a hundred bytes on the wire.
#[test]
fn trailers_are_bounded_when_they_come() {
    let mut peer = Peer::new();
    let mut bomb = vec![0x40, 3];
    bomb.extend(b"x-a");
    coding::write_integer(3_912, 7, 0, &mut bomb);
    bomb.extend([b'x'; 3_912]);
    bomb.extend([0x80 | 62; 15]);
    let small = block(&[("x-sum", "7")]);
    let many = [0x80 | 62; 33];
    let mut keys = Vec::new();
    for n in 0..100 {
        let trailers = match n {
            0 => bomb.clone(),
            1 => [&[0x40, 3][..], b"x-a", b"\x01b", &many].concat(),
            2..50 => many.to_vec(),
            _ => small.clone(),
        };
        peer.say(&post(2 * n + 1, &[])).unwrap();
        keys.push(peer.accept());
        peer.say(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &trailers)).unwrap();
    }
    assert!((1..50 * 256).contains(&peer.core.held()), "{}", peer.core.held());
    assert_eq!(peer.core.take_trailers(keys[0]).unwrap().unwrap_err(), Fault::TrailersTooLarge);
    assert_eq!(peer.core.take_trailers(keys[1]).unwrap().unwrap_err(), Fault::TooManyTrailers);
    // They count until they are read, or nobody will.
    for (n, key) in keys.into_iter().enumerate() {
        if n % 2 == 0 {
            let _ = peer.core.take_trailers(key);
        }
        peer.core.let_go(key);
    }
    assert_eq!(peer.core.held(), 0);
}

#[test]
fn leaving_takes_what_was_under_way() {
    let mut peer = Peer::new();
    peer.say(&get(1)).unwrap();
    let key = peer.accept();
    peer.core.go_away();
    let frames = peer.frames();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [GOAWAY, PING]);
    peer.say(&get(3)).unwrap();
    let late = peer.accept();
    peer.say(&frame(PING, ACK, 0, &frames[1].payload)).unwrap();
    assert_eq!(peer.frames()[0].payload[..4], [0, 0, 0, 3]);
    // What it sends now is not looked at, but its fields are read.
    peer.say(&[frame(HEADERS, END_HEADERS, 5, &block(POST)), frame(DATA, END_STREAM, 5, b"x")].concat()).unwrap();
    assert!(peer.core.accept().is_none());
    for key in [key, late] {
        assert_eq!(peer.core.ended(), None);
        peer.answer(key, b"bye");
        peer.core.let_go(key);
    }
    peer.frames();
    assert_eq!(peer.core.ended(), Some(Ok(())));
    let mut left = Peer::new();
    left.say(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2])).unwrap();
    assert_eq!(left.core.ended(), Some(Err(Ended::ByPeer)));
}

#[test]
fn who_asks_more_often_than_the_rules_say_is_sent_away_with_a_word() {
    let rules = PingRules { pause: Duration::from_secs(10), without_requests: true };
    let mut peer = Peer::silent(&ServerSettings { pings: Some(rules), ..ServerSettings::default() });
    peer.say(&[PREFACE, &frame(SETTINGS, 0, 0, &[])[..]].concat()).unwrap();
    peer.frames();
    let ask = frame(PING, 0, 0, b"12345678");
    for _ in 0..3 {
        peer.say(&ask).unwrap();
        assert_eq!(peer.frames().iter().map(|f| f.kind).collect::<Vec<_>>(), [PING]);
    }
    // What it is sent lets it ask again, as often as before.
    peer.say(&get(1)).unwrap();
    let key = peer.accept();
    peer.answer(key, b"x");
    peer.core.let_go(key);
    peer.frames();
    for _ in 0..3 {
        peer.say(&ask).unwrap();
        peer.frames();
    }
    peer.say(&[ask.clone(), get(3)].concat()).unwrap();
    let last = peer.frames().pop().unwrap();
    assert_eq!((last.kind, last.code(), &last.payload[8..]), (GOAWAY, Code::CALM.0, &b"too_many_pings"[..]));
    assert_eq!(peer.core.ended(), Some(Err(Ended::Fault("grpc_pings"))));
}

#[test]
fn nothing_is_read_behind_what_ends_the_connection() {
    let leaves = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]);
    let mut peer = Peer::new();
    let said = [leaves, frame(PUSH_PROMISE, 0, 1, b"")].concat();
    assert_eq!(peer.core.handle(&said, peer.now), Ok(()));
    assert_eq!(peer.core.ended(), Some(Err(Ended::ByPeer)));
    assert!(peer.frames().iter().all(|frame| frame.kind != GOAWAY));
    let mut peer = Peer::new();
    peer.core.go_away();
    let ping = peer.frames().pop().unwrap();
    let said = [frame(PING, ACK, 0, &ping.payload), frame(PUSH_PROMISE, 0, 1, b"")].concat();
    assert_eq!(peer.core.handle(&said, peer.now), Ok(()));
    assert_eq!(peer.core.ended(), Some(Ok(())));
}

#[test]
fn leaving_waits_no_longer_than_it_is_told_to_for_a_client_that_does_not_answer() {
    let mut peer = Peer::new();
    peer.say(&get(1)).unwrap();
    let key = peer.accept();
    peer.core.go_away();
    let frames = peer.frames();
    peer.core.go_away();
    assert_eq!(peer.frames()[0].payload[..4], [0, 0, 0, 1]);
    // An answer that comes all the same says nothing new.
    peer.say(&[get(3), frame(PING, ACK, 0, &frames[1].payload)].concat()).unwrap();
    assert!(peer.core.accept().is_none() && peer.frames().is_empty());
    peer.answer(key, b"bye");
    peer.core.let_go(key);
    peer.frames();
    assert_eq!(peer.core.ended(), Some(Ok(())));
}

#[test]
fn a_smaller_table_is_answered_once() {
    let mut peer = Peer::with(&[(HEADER_TABLE_SIZE, 0)]);
    peer.say(&[get(1), get(3)].concat()).unwrap();
    for block in [&[0x20, 0x88][..], &[0x88]] {
        let key = peer.accept();
        peer.core.send_fields(key, &[0x88], true).unwrap();
        assert_eq!(peer.frames()[0].payload, block);
    }
}

#[test]
fn long_heads_are_written_in_pieces() {
    let mut peer = Peer::new();
    peer.say(&get(1)).unwrap();
    let key = peer.accept();
    let mut block = vec![0x88];
    encoder::field(b"x-long", &[b'x'; 40_000], &mut block);
    peer.core.send_fields(key, &block, true).unwrap();
    let frames = peer.frames();
    let kinds: Vec<_> = frames.iter().map(|f| (f.kind, f.flags)).collect();
    assert_eq!(kinds, [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
    assert_eq!(frames.into_iter().flat_map(|f| f.payload).collect::<Vec<_>>(), block);
}

/// A connection at rest is this, its task and its socket.
#[test]
fn a_connection_at_rest_is_small() {
    let mut peer = Peer::new();
    for n in 0..100 {
        peer.say(&[get(4 * n + 1), post(4 * n + 3, &[])].concat()).unwrap();
        let (first, second) = (peer.accept(), peer.accept());
        peer.say(&frame(DATA, END_STREAM, 4 * n + 3, &[7; 10_000])).unwrap();
        for key in [first, second] {
            peer.answer(key, &[7; 100]);
            peer.core.let_go(key);
        }
        peer.frames();
        peer.say(&open(0, 200)).unwrap();
    }
    let core = &peer.core;
    let held = core.partial.capacity() + core.streams.memory() + core.decoder.memory() + core.side.accepted.capacity();
    assert!(
        size_of::<ServerConnection>() <= 768 && size_of::<Stream<()>>() <= 400,
        "{} {}",
        size_of::<ServerConnection>(),
        size_of::<Stream<()>>()
    );
    assert!(held <= 2048 && core.line.capacity() == 0 && core.out.is_empty(), "{held}");
}

/// What a client says, and what became of it: frames back, requests, bodies.
type Story = (Vec<Frame>, Vec<(u32, Vec<(Vec<u8>, Vec<u8>)>)>, Vec<(u32, Vec<u8>, bool)>, Option<Result<(), Ended>>);

/// Everything is read and answered at once, so that only the pieces differ.
fn told(bytes: &[u8], piece: usize) -> Story {
    let mut peer = Peer::silent(&ServerSettings::default());
    let (mut requests, mut bodies, mut keys) = (Vec::new(), Vec::<(u32, Vec<u8>, bool)>::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        let ended = peer.say(piece);
        while let Some(accepted) = peer.core.accept() {
            let fields = accepted.head.section.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            requests.push((accepted.key.id, fields));
            keys.push(accepted.key);
        }
        if ended.is_err() {
            break;
        }
    }
    for key in keys {
        let (body, end) = peer.body(key);
        bodies.push((key.id, body, end == Poll::Ready(Ok(()))));
    }
    let ended = peer.core.ended();
    (peer.frames(), requests, bodies, ended)
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![4 => (0..4u32).prop_map(|n| 2 * n + 1), 1 => 0..8u32];
    let payload = prop_oneof![
        Just(block(GET)),
        Just(block(POST)),
        Just(vec![0; 4]),
        Just(vec![0, 0, 0, 9]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 1, 0]),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let kind = prop_oneof![3 => Just(DATA), 3 => Just(HEADERS), 1 => 0..12u8];
    let flags =
        prop_oneof![Just(0), Just(END_STREAM), Just(END_HEADERS), Just(5), Just(END_STREAM | PADDED), any::<u8>()];
    (kind, flags, stream, payload).prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// However it is cut, what comes means the same; and nothing of it makes the machine lose count.
    #[test]
    fn frames_mean_the_same_in_whatever_pieces(frames in proptest::collection::vec(some_frame(), 0..20), size in 1..50usize) {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frames.concat());
        let whole = told(&bytes, usize::MAX);
        // A request that was reset before anybody looked at it is looked at when it comes in pieces.
        let split = told(&bytes, size);
        prop_assert_eq!(&split.0, &whole.0);
        prop_assert_eq!(&split.3, &whole.3);
        let seen = whole.1.iter().all(|request| split.1.contains(request));
        prop_assert!(seen);
        prop_assert!(whole.2.iter().all(|body| split.2.contains(body)));
        prop_assert_eq!(told(&bytes, 1).0, whole.0);
    }

    /// A life of any kind ends with every byte given back.
    #[test]
    fn nothing_is_left_of_any_life(
        steps in proptest::collection::vec((0..12u8, 0..4u32, some_frame()), 0..80),
    ) {
        let mut peer = Peer::with(&[]);
        let mut keys: Vec<(Key, u8)> = Vec::new();
        let mut next = 1;
        for (step, which, frame) in steps {
            let at = which as usize % keys.len().max(1);
            let key = keys.get(at).map(|(key, _)| *key);
            match (step, key) {
                (0..2, _) => {
                    let _ = peer.say(&post(next, &[]));
                    next += 2;
                }
                (2, _) => drop(peer.say(&frame)),
                (3, Some(key)) => drop(peer.say(&super::tests::frame(DATA, (which & 1) as u8, key.id, &[7; 5_000]))),
                (4, Some(key)) => drop(peer.body(key)),
                (5, Some(key)) => drop(peer.core.send_fields(key, &[0x88], which == 0)),
                (6, Some(key)) => drop(peer.core.send_data(key, Bytes::from_static(&[7; 9_000]).into(), which == 0)),
                (7, Some(key)) => drop(peer.core.send_end(key)),
                (8, Some(key)) => peer.core.reset(key, Code::CANCEL),
                (9, Some(key)) => {
                    if which > 1 {
                        peer.core.discard(key);
                    }
                    keys[at].1 -= 1;
                    if keys[at].1 == 0 {
                        keys.remove(at);
                    }
                    peer.core.let_go(key);
                }
                (10, _) => drop(peer.frames()),
                (11, Some(key)) => drop(peer.say(&open(key.id * (which & 1), 20_000))),
                _ => {}
            }
            while let Some(accepted) = peer.core.accept() {
                peer.core.hold(accepted.key);
                keys.push((accepted.key, 2));
            }
        }
        for (key, handles) in keys {
            for _ in 0..handles {
                peer.core.let_go(key);
            }
        }
        let _ = peer.say(&open(0, 10_000_000));
        for id in peer.core.streams.keys() {
            let _ = peer.say(&open(id.id, 1_000_000));
        }
        peer.frames();
        prop_assert_eq!(peer.core.streams.open(), 0);
        // Of a frame that has not come whole.
        let coming = match peer.core.stage {
            Stage::Data(frame) => frame.left,
            _ => 0,
        };
        prop_assert!(peer.core.unread() <= coming && peer.core.held == 0);
    }
}
