//! WebSockets through a WebSocketProxy: opened by a client's head, and frame by frame from there.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use proto_websocket::frame::{read_head, write};
use proto_websocket::{Opcode, Sender};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use support::{Backend, House, Wire, eventually};

on_both_drivers![
    messages_pass_as_they_are,
    a_message_that_is_too_long_ends_both_sides,
    a_message_of_the_server_has_its_own_bound,
    what_breaks_the_rules_ends_both_sides,
    text_is_checked_while_it_passes,
    a_close_waits_for_the_frame_under_way,
    a_close_passes_and_nothing_after_it,
    a_close_that_is_not_answered_is_the_end_all_the_same,
    a_stopped_server_says_so,
    a_silent_websocket_is_told_before_it_ends,
    without_bounds_bytes_pass_unseen,
    what_is_no_opening_is_refused,
    pages_of_other_sites_are_refused,
    a_server_must_agree_as_asked,
    what_a_server_says_instead_is_the_answer,
    servers_hear_of_the_client,
    a_server_that_is_gone_opens_nothing,
];

const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
/// The key and its acceptance of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn opening(fields: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
    )
}

fn agreed(fields: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{fields}\r\n"
    )
}

/// A backend that agrees and hands its end of the connection over, with the head it read.
fn agreeing(fields: &'static str) -> (Backend, Receiver<(Wire, String)>) {
    let (sender, receiver) = channel();
    let sender = std::sync::Mutex::new(sender);
    let backend = Backend::new(move |mut wire, _| {
        let Some(head) = wire.head() else { return };
        wire.send(agreed(fields).as_bytes());
        let _ = sender.lock().unwrap().send((wire, head));
    });
    (backend, receiver)
}

fn pipeline(port: u16, filter: &str, pool: &str) -> String {
    format!(
        "filters: [{{name: w, kind: WebSocketProxy, {filter} pools: [{{servers: [{{url: 'ws://127.0.0.1:{port}'}}], {pool}}}]}}]"
    )
}

struct Pair {
    house: House,
    client: Wire,
    server: Wire,
    /// What the backend was asked.
    asked: String,
    _backend: Backend,
}

/// An open WebSocket.
fn open(io: IoMode, filter: &str, pool: &str, fields: &str, answers: &'static str, timeouts: Timeouts) -> Pair {
    let (backend, wires) = agreeing(answers);
    let house = House::with_timeouts(io, "", &pipeline(backend.port, filter, pool), timeouts);
    let mut client = house.connect();
    client.send(opening(fields).as_bytes());
    let head = client.head().expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
    let (server, asked) = wires.recv().unwrap();
    Pair { house, client, server, asked, _backend: backend }
}

fn plain(io: IoMode, pool: &str) -> Pair {
    open(io, "", pool, "", "", Timeouts::default())
}

fn frame(last: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, last, opcode, mask, payload);
    out
}

/// The next frame of `sender`, its mask taken off; `None` at the end.
fn next(wire: &mut Wire, sender: Sender) -> Option<(Opcode, Vec<u8>)> {
    loop {
        if let Some(head) = read_head(&wire.read, sender).expect("a sound head")
            && wire.read.len() >= head.size + head.length as usize
        {
            let mut payload = wire.exactly(head.size + head.length as usize)?.split_off(head.size);
            if let Some(mask) = head.mask {
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            }
            return Some((head.opcode, payload));
        }
        if !wire.more() {
            return None;
        }
    }
}

fn close_of(wire: &mut Wire, sender: Sender) -> Option<u16> {
    match next(wire, sender)? {
        (Opcode::Close, code) => Some(u16::from_be_bytes([code[0], code[1]])),
        other => panic!("no Close: {other:?}"),
    }
}

/// Both sides are told `code`, and it ends.
fn ends_with(pair: &mut Pair, code: u16, limit: &str) {
    assert_eq!(close_of(&mut pair.client, Sender::Server), Some(code), "{limit}");
    assert_eq!(close_of(&mut pair.server, Sender::Client), Some(code), "{limit}");
    pair.client.send(&frame(true, Opcode::Close, Some(MASK), &code.to_be_bytes()));
    assert!(pair.client.ends(), "{limit}: nothing comes after a Close");
    pair.client.finish_sending();
    assert!(pair.server.ends(), "{limit}: what follows a Close reaches nobody");
    if !limit.is_empty() {
        assert_eq!(pair.house.limit(limit), 1, "{limit}");
    }
}

fn messages_pass_as_they_are(io: IoMode) {
    let mut pair = plain(io, "");
    let mut from_client = frame(true, Opcode::Text, Some(MASK), "κόσμε".as_bytes());
    from_client.extend(frame(false, Opcode::Text, Some([0; 4]), b"in "));
    from_client.extend(frame(true, Opcode::Ping, Some(MASK), b"are you there"));
    from_client.extend(frame(false, Opcode::Continuation, Some(MASK), b""));
    from_client.extend(frame(true, Opcode::Continuation, Some(MASK), b"pieces"));
    from_client.extend(frame(true, Opcode::Binary, Some(MASK), &[0xff; 300]));
    from_client.extend(frame(true, Opcode::Binary, Some(MASK), &vec![0x7f; 32 * 1024]));
    let from_server = [
        frame(true, Opcode::Pong, None, b"are you there"),
        frame(false, Opcode::Binary, None, &[1; 126]),
        frame(true, Opcode::Continuation, None, &vec![2; 30_000]),
        frame(true, Opcode::Text, None, b""),
    ]
    .concat();
    // At once, and in pieces that cut every head.
    for step in [usize::MAX, 1] {
        for piece in from_client.chunks(step.min(from_client.len())) {
            pair.client.send(piece);
        }
        assert!(pair.server.exactly(from_client.len()).unwrap() == from_client, "not what was sent");
        for piece in from_server.chunks(step.min(from_server.len())) {
            pair.server.send(piece);
        }
        assert!(pair.client.exactly(from_server.len()).unwrap() == from_server, "not what was sent");
    }
}

fn a_message_that_is_too_long_ends_both_sides(io: IoMode) {
    for (pool, longest) in [("", 32_768), ("clientMaxMsgSize: 1000", 1000), ("clntMaxMsgSize: 70000", 70_000)] {
        let mut pair = plain(io, pool);
        let fits = frame(true, Opcode::Binary, Some(MASK), &vec![1; longest]);
        pair.client.send(&fits);
        assert!(pair.server.exactly(fits.len()).unwrap() == fits, "{pool}: what fits passes");
        pair.client.send(&frame(true, Opcode::Binary, Some(MASK), &vec![1; longest + 1]));
        ends_with(&mut pair, 1009, "websocket_message_bytes");
    }
    // In pieces: each is short.
    let mut pair = plain(io, "clientMaxMsgSize: 10");
    let first = frame(false, Opcode::Text, Some(MASK), b"sixsix");
    pair.client.send(&[&first[..], &frame(true, Opcode::Continuation, Some(MASK), b"five5")].concat());
    assert_eq!(pair.server.exactly(first.len()).unwrap(), first);
    ends_with(&mut pair, 1009, "websocket_message_bytes");
}

fn a_message_of_the_server_has_its_own_bound(io: IoMode) {
    for bound in ["serverMaxMsgSize", "svrMaxMsgSize"] {
        let mut pair = plain(io, &format!("clientMaxMsgSize: -1, {bound}: 10"));
        let long = frame(true, Opcode::Binary, Some(MASK), &[1; 100_000]);
        pair.client.send(&long);
        assert!(pair.server.exactly(long.len()).unwrap() == long);
        let fits = frame(true, Opcode::Text, None, b"0123456789");
        pair.server.send(&fits);
        assert_eq!(pair.client.exactly(fits.len()).unwrap(), fits);
        pair.server.send(&frame(true, Opcode::Text, None, b"0123456789+"));
        ends_with(&mut pair, 1009, "websocket_message_bytes");
    }
}

fn what_breaks_the_rules_ends_both_sides(io: IoMode) {
    let masked = |first: u8, payload: &[u8]| {
        let mut bytes = frame(true, Opcode::Text, Some(MASK), payload);
        bytes[0] = first;
        bytes
    };
    for (what, bytes) in [
        ("no mask", frame(true, Opcode::Text, None, b"hello")),
        ("a reserved bit", masked(0xc1, b"hello")),
        ("an opcode", masked(0x83, b"hello")),
        ("a ping in pieces", masked(0x09, b"hello")),
        ("a continuation of nothing", masked(0x80, b"hello")),
        ("two messages at a time", [masked(0x01, b""), masked(0x81, b"hello")].concat()),
        ("half a code", masked(0x88, b"\x03")),
        ("a code that is not said", masked(0x88, &1005u16.to_be_bytes())),
        ("a longer length than needed", vec![0x82, 0xfe, 0, 5, 1, 2, 3, 4]),
    ] {
        let mut pair = plain(io, "");
        let sound = frame(true, Opcode::Binary, Some(MASK), b"sound");
        pair.client.send(&[&sound[..], &bytes].concat());
        assert_eq!(pair.server.exactly(sound.len()).unwrap(), sound, "{what}");
        if what == "two messages at a time" {
            pair.server.exactly(6).unwrap();
        }
        ends_with(&mut pair, 1002, "websocket_frames");
    }
    let mut pair = plain(io, "");
    pair.server.send(&frame(true, Opcode::Text, Some(MASK), b"a server that masks"));
    ends_with(&mut pair, 1002, "websocket_frames");
}

fn text_is_checked_while_it_passes(io: IoMode) {
    // The last character of a message is not whole.
    let mut pair = plain(io, "");
    let text = frame(true, Opcode::Text, Some(MASK), b"ok\xce");
    pair.client.send(&text);
    assert_eq!(pair.server.exactly(text.len()).unwrap(), text);
    ends_with(&mut pair, 1007, "websocket_text");
    // Said before the rest of the frame comes; the server, in the middle of it, sees the connection end.
    let mut pair = plain(io, "");
    let text = frame(true, Opcode::Text, Some(MASK), &[&b"ok \xff"[..], &[b'x'; 500]].concat());
    pair.client.send(&text[..20]);
    assert_eq!(close_of(&mut pair.client, Sender::Server), Some(1007));
    assert_eq!(pair.server.exactly(11).unwrap(), &text[..11]);
    pair.client.send(&text[20..]);
    pair.client.finish_sending();
    assert!(pair.server.ends());
    assert_eq!(pair.house.limit("websocket_text"), 1);
}

fn a_close_waits_for_the_frame_under_way(io: IoMode) {
    let mut pair = plain(io, "");
    let long = frame(true, Opcode::Binary, None, &[5; 20_000]);
    pair.server.send(&long[..10_000]);
    assert!(pair.client.exactly(10_000).unwrap() == long[..10_000]);
    pair.client.send(&frame(true, Opcode::Text, None, b"no mask"));
    assert_eq!(close_of(&mut pair.server, Sender::Client), Some(1002));
    // The rest of the frame comes before the Close, the next frame does not.
    pair.server.send(&[&long[10_000..], &frame(true, Opcode::Text, None, b"more")].concat());
    assert!(pair.client.exactly(long.len() - 10_000).unwrap() == long[10_000..]);
    assert_eq!(close_of(&mut pair.client, Sender::Server), Some(1002));
    assert!(pair.client.ends());
}

fn a_close_passes_and_nothing_after_it(io: IoMode) {
    let mut pair = plain(io, "");
    let close = frame(true, Opcode::Close, Some(MASK), &[&4002u16.to_be_bytes()[..], b"client goes"].concat());
    pair.client.send(&[&close[..], &frame(true, Opcode::Text, Some(MASK), b"one more thing")].concat());
    assert_eq!(next(&mut pair.server, Sender::Client).unwrap(), (Opcode::Close, b"\x0f\xa2client goes".to_vec()));
    let answer = frame(true, Opcode::Close, None, &4002u16.to_be_bytes());
    pair.server.send(&[&answer[..], &frame(true, Opcode::Text, None, b"late")].concat());
    assert_eq!(pair.client.exactly(answer.len()).unwrap(), answer);
    pair.server.finish_sending();
    assert!(pair.client.ends());
    drop(pair.client);
    assert!(pair.server.ends(), "nothing came behind the Close");
    eventually("nothing is left", || pair.house.traffic.connections() == 0);
    for limit in ["websocket_frames", "websocket_text", "websocket_message_bytes"] {
        assert_eq!(pair.house.limit(limit), 0, "{limit}");
    }
}

fn a_close_that_is_not_answered_is_the_end_all_the_same(io: IoMode) {
    // The silence of either would be long: ten minutes.
    let mut pair = plain(io, "");
    pair.server.send(&frame(true, Opcode::Close, None, &1000u16.to_be_bytes()));
    assert_eq!(close_of(&mut pair.client, Sender::Server), Some(1000));
    eventually("a silent client is left", || pair.house.traffic.connections() == 0);
    // What is thrown away behind a Close keeps nothing open.
    let mut pair = plain(io, "");
    pair.client.send(&frame(true, Opcode::Close, Some(MASK), &1000u16.to_be_bytes()));
    assert_eq!(next(&mut pair.server, Sender::Client).map(|(opcode, _)| opcode), Some(Opcode::Close));
    pair.client.send(&frame(true, Opcode::Text, Some(MASK), b"one more thing"));
    eventually("a silent server is left", || pair.house.traffic.connections() == 0);
}

fn a_stopped_server_says_so(io: IoMode) {
    let ms = Duration::from_millis;
    let timeouts = Timeouts { tunnel_drain: ms(20_000), ..Timeouts::default() };
    let mut pair = open(io, "", "", "", "", timeouts);
    let server = pair.house.traffic.servers()[0].1.clone();
    pair.house.traffic.remove_server("web");
    // Long before its silence is over.
    ends_with(&mut pair, 1001, "");
    drop(pair.client);
    eventually("nothing is left", || server.connections() == 0);
    // Bytes that nobody looks at end by silence.
    let timeouts = Timeouts { tunnel_drain: ms(300), ..Timeouts::default() };
    let mut pair = open(io, "", "clientMaxMsgSize: -1, serverMaxMsgSize: -1", "", "", timeouts);
    pair.house.traffic.remove_server("web");
    assert!(pair.client.ends() && pair.server.ends());
}

fn a_silent_websocket_is_told_before_it_ends(io: IoMode) {
    let mut pair = open(io, "idleTimeout: 300ms,", "", "", "", Timeouts::default());
    ends_with(&mut pair, 1001, "");
    // A client that does not answer is not waited for for long.
    let timeouts = Timeouts { tunnel: Duration::from_millis(300), ..Timeouts::default() };
    let mut pair = open(io, "", "", "", "", timeouts);
    assert_eq!(close_of(&mut pair.client, Sender::Server), Some(1001));
    eventually("it is gone", || pair.house.traffic.connections() == 0);
    // Unseen, it just ends.
    let bounds = "clientMaxMsgSize: -1, serverMaxMsgSize: -1";
    let mut pair = open(io, "idleTimeout: 300ms,", bounds, "", "", Timeouts::default());
    assert!(pair.client.ends() && pair.server.ends());
    eventually("it is counted", || pair.house.limit("tunnel_idle") == 1);
}

fn without_bounds_bytes_pass_unseen(io: IoMode) {
    let extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let bounds = "clientMaxMsgSize: -1, serverMaxMsgSize: -1";
    let mut pair =
        open(io, "", bounds, extensions, "Sec-WebSocket-Extensions: permessage-deflate\r\n", Timeouts::default());
    assert!(pair.asked.contains("permessage-deflate"), "{}", pair.asked);
    let odd = [0xc1, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0x70];
    pair.client.send(&odd);
    assert_eq!(pair.server.exactly(odd.len()).unwrap(), odd);
    pair.server.send(&odd);
    assert_eq!(pair.client.exactly(odd.len()).unwrap(), odd);
    // Where frames are looked at, no extension is agreed on.
    let pair = open(io, "", "serverMaxMsgSize: -1", extensions, "", Timeouts::default());
    assert!(!pair.asked.to_lowercase().contains("extensions"), "{}", pair.asked);
}

fn what_is_no_opening_is_refused(io: IoMode) {
    let (backend, _wires) = agreeing("");
    let house = House::new(io, "", &pipeline(backend.port, "", ""));
    let sound = opening("");
    for (from, to, status) in [
        ("GET /chat", "POST /chat", 400),
        ("Upgrade: websocket\r\n", "", 400),
        ("Connection: Upgrade\r\n", "", 400),
        ("Version: 13", "Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 400),
        (KEY, "dGhlIHNhbXBsZQ==", 400),
        (KEY, "no key", 400),
        ("Sec-WebSocket-Key", "X-Key", 400),
    ] {
        let answer = house.ask(&sound.replace(from, to));
        assert_eq!((answer.status(), answer.field("sec-websocket-version")), (status, Some("13")), "{from} {to}");
        assert_eq!(answer.field("upgrade"), (status == 426).then_some("websocket"), "{from} {to}");
    }
    assert_eq!((backend.connections(), house.limit("websocket_handshake")), (0, 8));
}

fn pages_of_other_sites_are_refused(io: IoMode) {
    for (pool, origin, status) in [
        ("", "http://a.test", 101),
        ("", "http://evil.test", 400),
        ("originPatterns: ['*.ok.test']", "https://www.ok.test", 101),
        ("originPatterns: ['*.ok.test']", "https://evil.test", 400),
        ("insecureSkipVerify: true", "https://evil.test", 101),
    ] {
        let (backend, _wires) = agreeing("");
        let house = House::new(io, "", &pipeline(backend.port, "", pool));
        let answer = house.ask(&opening(&format!("Origin: {origin}\r\n")));
        assert_eq!(answer.status(), status, "{pool} {origin}");
        assert_eq!(house.limit("websocket_origin"), u64::from(status != 101), "{pool} {origin}");
        assert_eq!(backend.connections(), usize::from(status == 101), "{pool} {origin}");
    }
}

fn a_server_must_agree_as_asked(io: IoMode) {
    for (answer, fields, status) in [
        (agreed(""), "", 101),
        (agreed("Sec-WebSocket-Protocol: chat\r\n"), "Sec-WebSocket-Protocol: other, chat\r\n", 101),
        (agreed("Sec-WebSocket-Protocol: chat\r\n"), "Sec-WebSocket-Protocol: other\r\n", 503),
        (agreed("Sec-WebSocket-Protocol: chat\r\n"), "", 503),
        (agreed("Sec-WebSocket-Extensions: permessage-deflate\r\n"), "", 503),
        (agreed("").replace(ACCEPT, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), "", 503),
        (agreed("").replace("Sec-WebSocket-Accept", "X-Accept"), "", 503),
    ] {
        let text: &'static str = answer.clone().leak();
        let backend = Backend::new(move |mut wire, _| {
            wire.head();
            wire.send(text.as_bytes());
            wire.rest();
        });
        let house = House::new(io, "", &pipeline(backend.port, "", ""));
        assert_eq!(house.ask(&opening(fields)).status(), status, "{answer} {fields}");
    }
}

fn what_a_server_says_instead_is_the_answer(io: IoMode) {
    let backend =
        Backend::answering("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno");
    let pipeline = pipeline(backend.port, "", "");
    let house = House::new(io, "", &pipeline);
    let answer = house.ask(&opening(""));
    assert_eq!((answer.status(), answer.field("www-authenticate"), answer.text()), (401, Some("Basic"), "no".into()));
    // To the flow it is a failure of the server.
    let flow = "flow: [{filter: w, jumpIf: {serverError: m}}, {filter: END}, {filter: m}]\n";
    let mock = "{name: m, kind: Mock, rules: [{code: 418}]}]";
    house.pipeline("app", &format!("{flow}{}, {mock}", pipeline.strip_suffix(']').unwrap()));
    assert_eq!(house.ask(&opening("")).status(), 418);
}

fn servers_hear_of_the_client(io: IoMode) {
    let filter = "defaultOrigin: 'http://default.test',";
    let has = |head: &str, line: &str| head.lines().any(|l| l.eq_ignore_ascii_case(line));
    let fields = "X-Forwarded-For: 192.0.2.7\r\nSec-WebSocket-Protocol: a, b\r\nCookie: c=1\r\n";
    let pair = open(io, filter, "", fields, "Sec-WebSocket-Protocol: b\r\n", Timeouts::default());
    for line in [
        "X-Forwarded-For: 192.0.2.7, 127.0.0.1",
        "X-Forwarded-Host: a.test",
        "X-Forwarded-Proto: http",
        "Origin: http://default.test",
        "Sec-WebSocket-Protocol: a, b",
        "Cookie: c=1",
        "Host: a.test",
        &format!("Sec-WebSocket-Key: {KEY}"),
    ] {
        assert!(has(&pair.asked, line), "{line}: {}", pair.asked);
    }
    let pair = open(io, filter, "", "Origin: http://a.test\r\n", "", Timeouts::default());
    assert!(has(&pair.asked, "Origin: http://a.test"), "{}", pair.asked);
    assert!(has(&pair.asked, "X-Forwarded-For: 127.0.0.1"), "{}", pair.asked);
}

fn a_server_that_is_gone_opens_nothing(io: IoMode) {
    let (backend, _wires) = agreeing("");
    let house = House::new(io, "", &pipeline(support::free_port(), "", ""));
    assert_eq!(house.ask(&opening("")).status(), 503);
    // Another one of the pool takes it.
    let two = format!(
        "filters: [{{name: w, kind: WebSocketProxy, pools: [{{servers: [{{url: 'ws://127.0.0.1:{}'}}, {{url: 'ws://127.0.0.1:{}'}}]}}]}}]",
        support::free_port(),
        backend.port
    );
    house.pipeline("app", &two);
    for _ in 0..4 {
        assert_eq!(house.ask(&opening("")).status(), 101);
    }
}
