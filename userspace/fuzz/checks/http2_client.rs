//! A connection to a server says and does the same in whatever pieces the server's bytes come, and what it says are whole frames.

use proto_h2::client::{Asks, Ended, Lost};
use proto_h2::connection::ClientConnection;
use proto_h2::frame::{Head, PREFACE};
use proto_h2::{ClientSettings, Data};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The first byte says how long pieces are; the rest is what a server says behind its settings, when it was asked four times.
pub fn check(bytes: &[u8]) {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let settings = Head { length: 0, kind: 4, flags: 0, stream: 0 }.written();
    let bytes = [&settings, bytes].concat();
    assert_eq!(story(&bytes, usize::from(piece).max(1)), story(&bytes, bytes.len()));
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What came of a request: its heads, its body and how that ended.
type Answer = (Vec<Fields>, Vec<u8>, Result<bool, Lost>);

/// What a server was told, what it answered, and how the connection ended.
type Story = (Vec<u8>, Vec<Answer>, Option<Result<(), Ended>>);

fn story(bytes: &[u8], piece: usize) -> Story {
    let (now, mut cx) = (Instant::now(), Context::from_waker(Waker::noop()));
    let mut connection = ClientConnection::new(&ClientSettings::default(), now, 16 * 1024);
    let asked = [(Asks::Message, true), (Asks::Message, false), (Asks::Head, true), (Asks::Tunnel, false)];
    let keys = asked.map(|(asks, ends)| connection.open(&[0x82, 0x86, 0x84], ends, asks).unwrap());
    let body = || Data::from(bytes::Bytes::from_static(&[7; 20_000]));
    connection.send_data(keys[1], body(), true).unwrap();
    connection.send_data(keys[3], body(), false).unwrap();
    let mut told = Vec::new();
    while connection.pump() {
        connection.out().take(|buffer| told.extend_from_slice(&buffer));
    }
    for piece in bytes.chunks(piece) {
        if connection.handle(piece, now).is_err() {
            break;
        }
    }
    let mut answers = Vec::new();
    for key in keys {
        let (mut heads, mut body) = (Vec::new(), Vec::new());
        while let Poll::Ready(Ok(fields)) = connection.poll_head(key, &mut cx) {
            assert!(heads.len() <= ClientSettings::default().interim_most);
            heads.push(fields.section.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect());
        }
        let end = loop {
            match connection.poll_data(key, &mut cx) {
                Poll::Ready(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => break Ok(true),
                Poll::Ready(Err(lost)) => break Err(lost),
                Poll::Pending => break Ok(false),
            }
        };
        answers.push((heads, body, end));
        connection.let_go(key);
    }
    while connection.pump() {
        connection.out().take(|buffer| told.extend_from_slice(&buffer));
    }
    connection.out().take(|buffer| told.extend_from_slice(&buffer));
    let mut rest = told.strip_prefix(PREFACE).expect("the preface comes first");
    while let Some((head, after)) = rest.split_first_chunk() {
        let head = Head::read(head);
        assert!(head.length <= 16 * 1024 && after.len() >= head.length as usize, "{head:?}");
        rest = &after[head.length as usize..];
    }
    assert!(rest.is_empty());
    (told, answers, connection.ended())
}
