//! A connection says and does the same in whatever pieces its bytes come, and what it says are whole frames.

use proto_h2::connection::ServerConnection;
use proto_h2::frame::{Head, PREFACE};
use proto_h2::server::{BodyBroken, Ended};
use proto_h2::{Data, ServerSettings};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The first byte says how long pieces are; the rest is what a client says behind its preface and settings.
pub fn check(bytes: &[u8]) {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let settings = Head { length: 0, kind: 4, flags: 0, stream: 0 }.written();
    let bytes = [PREFACE, &settings, bytes].concat();
    assert_eq!(story(&bytes, usize::from(piece).max(1)), story(&bytes, bytes.len()));
}

/// What a client was told, the bodies it sent and how they ended, and how the connection did.
type Story = (Vec<u8>, Vec<(u32, Vec<u8>, Result<bool, BodyBroken>)>, Option<Result<(), Ended>>);

fn story(bytes: &[u8], piece: usize) -> Story {
    let (now, mut cx) = (Instant::now(), Context::from_waker(Waker::noop()));
    let mut connection = ServerConnection::new(&ServerSettings::default(), now, 16 * 1024);
    let mut told = Vec::new();
    for piece in bytes.chunks(piece) {
        if connection.handle(piece, now).is_err() {
            break;
        }
    }
    let mut bodies = Vec::new();
    while let Some(accepted) = connection.accept() {
        let (key, mut body) = (accepted.key, Vec::new());
        assert!(accepted.head.section.iter().count() == accepted.head.section.len());
        let end = loop {
            match connection.poll_data(key, &mut cx) {
                Poll::Ready(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => break Ok(true),
                Poll::Ready(Err(lost)) => break Err(BodyBroken::from(lost)),
                Poll::Pending => break Ok(false),
            }
        };
        let answer = Data::from(bytes::Bytes::from_static(&[7; 20_000]));
        let sent = connection.send_fields(key, &[0x88], false).and_then(|()| connection.send_data(key, answer, true));
        assert!(sent.is_ok() || connection.poll_gone(key, &mut cx).is_ready());
        connection.let_go(key);
        bodies.push((key.id, body, end));
    }
    while connection.pump() {
        connection.out().take(|buffer| told.extend_from_slice(&buffer));
    }
    connection.out().take(|buffer| told.extend_from_slice(&buffer));
    let mut rest = &told[..];
    while let Some((head, after)) = rest.split_first_chunk() {
        let head = Head::read(head);
        assert!(head.length <= 16 * 1024 && after.len() >= head.length as usize, "{head:?}");
        rest = &after[head.length as usize..];
    }
    assert!(rest.is_empty());
    (told, bodies, connection.ended())
}
