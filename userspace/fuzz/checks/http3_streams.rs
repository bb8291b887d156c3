//! Streams are the same in whatever pieces they come, and hold no more than a field section within its bound, or a datagram.

use bytes::Bytes;
use proto_h3::Fault;
use proto_h3::capsule::{DATAGRAM_MOST, Split, Splitter, Walk};
use proto_h3::control::{Incoming, Next, Peer};
use proto_h3::request::{Event, Receiving};

/// Largest field section, in bytes.
const SECTION: usize = 1000;

/// The first byte says how long pieces are; the rest is a request stream, a stream of one direction, and one of capsules.
pub fn check(bytes: &[u8]) {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let piece = usize::from(piece).max(1);
    assert_eq!(request(bytes, piece), request(bytes, bytes.len().max(1)));
    assert_eq!(control(bytes, piece), control(bytes, bytes.len().max(1)));
    assert_eq!(capsules(bytes, piece), capsules(bytes, bytes.len().max(1)));
    let _ = proto_h3::datagram::decode(Bytes::copy_from_slice(bytes));
}

fn capsules(bytes: &[u8], piece: usize) -> (Split, bool) {
    let (mut splitter, mut walk, mut split) = (Splitter::default(), Walk::default(), Split::default());
    for piece in bytes.chunks(piece) {
        splitter.handle(piece, true, &mut split);
        walk.pass(piece);
        assert_eq!(splitter.is_between(), walk.is_between());
        assert!(splitter.held() <= 2 * DATAGRAM_MOST);
    }
    (split, walk.is_between())
}

fn request(bytes: &[u8], piece: usize) -> (Vec<Event>, Result<(), Fault>) {
    let (mut receiving, mut events) = (Receiving::new(SECTION), Vec::new());
    for piece in bytes.chunks(piece) {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match receiving.handle(&mut input) {
                Ok(Some(Event::Data(more))) => match events.last_mut() {
                    Some(Event::Data(data)) => *data = [&data[..], &more[..]].concat().into(),
                    _ => events.push(Event::Data(more)),
                },
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(fault) => return (events, Err(fault)),
            }
        }
        assert!(receiving.held() <= SECTION);
    }
    (events, receiving.handle_end())
}

fn control(bytes: &[u8], piece: usize) -> Result<Next, Fault> {
    let (mut peer, mut incoming) = (Peer::default(), Incoming::default());
    for piece in bytes.chunks(piece) {
        match incoming.handle(&mut peer, piece)? {
            Next::Read => {}
            Next::Stop => return Ok(Next::Stop),
        }
    }
    incoming.handle_end().map(|()| Next::Read)
}
