use super::*;
use proptest::prelude::*;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::begin(kind, payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Everything that comes of these bytes in pieces of a size, DATA joined.
fn all(bytes: &[u8], piece: usize, most: usize) -> (Vec<Event>, Result<(), Fault>) {
    let (mut receiving, mut events) = (Receiving::new(most), Vec::new());
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
        assert!(receiving.held() <= most.max(FIRST_BYTES));
    }
    (events, receiving.handle_end())
}

fn of(frames: &[(u64, &[u8])]) -> (Vec<Event>, Result<(), Fault>) {
    let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
    let whole = all(&bytes, bytes.len().max(1), 1000);
    assert_eq!(all(&bytes, 1, 1000), whole);
    whole
}

const UNEXPECTED: Result<(), Fault> = Err(Fault::Connection(Code::FrameUnexpected));

#[test]
fn a_whole_request() {
    let grease: (u64, &[u8]) = (0x21, b"anything");
    let frames: [(u64, &[u8]); 8] =
        [grease, (1, b"head"), grease, (0, b"bo"), (0, b""), (0, b"dy"), (1, b"trailers"), grease];
    let head = Event::Head(b"head".to_vec());
    let (data, trailers) = (Event::Data(Bytes::from_static(b"body")), Event::Trailers(b"trailers".to_vec()));
    assert_eq!(of(&frames), (vec![head.clone(), data, trailers], Ok(())));
    assert_eq!(of(&[(1, b"head")]), (vec![head], Ok(())));
    assert_eq!(of(&[(1, b"")]), (vec![Event::Head(vec![])], Ok(())));
}

#[test]
fn frames_in_the_wrong_place() {
    for frames in [
        &[(0, &b"body"[..])][..],
        &[(1, b"head"), (1, b"trailers"), (0, b"more")],
        &[(1, b"head"), (1, b"trailers"), (1, b"more")],
    ] {
        assert_eq!(of(frames).1, UNEXPECTED);
    }
    for kind in [3, 4, 5, 7, 0xd, 2, 6, 8, 9] {
        assert_eq!(of(&[(kind, b"x")]).1, UNEXPECTED);
        assert_eq!(of(&[(1, b"head"), (kind, b"")]).1, UNEXPECTED);
    }
}

#[test]
fn ends_in_the_wrong_place() {
    assert_eq!(of(&[]).1, Err(Fault::Stream(Code::RequestIncomplete)));
    assert_eq!(of(&[(0x21, b"x")]).1, Err(Fault::Stream(Code::RequestIncomplete)));
    let whole = [frame(1, b"head"), frame(0, b"body"), frame(0x4021, b"x")].concat();
    let between = [6, 12, whole.len()];
    for cut in 1..=whole.len() {
        let expected = if between.contains(&cut) { Ok(()) } else { Err(Fault::Connection(Code::Frame)) };
        assert_eq!(all(&whole[..cut], 3, 1000).1, expected, "{cut}");
    }
}

#[test]
fn a_head_beyond_the_bound_is_never_held() {
    let bytes = [frame(1, &[7; 2000]), frame(0, b"body")].concat();
    let (events, end) = all(&bytes, 100, 1999);
    assert_eq!((&events[0], end), (&Event::HeadTooLarge, Ok(())));
    let bytes = [frame(1, b"head"), frame(1, &[7; 2000])].concat();
    assert_eq!(all(&bytes, 100, 1999).0[1], Event::TrailersTooLarge);
    // What is only announced costs nothing.
    let mut receiving = Receiving::new(1 << 20);
    let mut announced = Vec::new();
    frame::begin(1, 1 << 20, &mut announced);
    announced.push(0);
    assert_eq!(receiving.handle(&mut announced.into()), Ok(None));
    assert!(receiving.held() <= FIRST_BYTES && receiving.awaits_head());
}

#[test]
fn frames_that_nobody_knows_are_counted_and_not_held() {
    let mut receiving = Receiving::new(1000);
    let mut long = Vec::new();
    frame::begin(0x21, crate::varint::MAX, &mut long);
    assert_eq!(receiving.handle(&mut long.into()), Ok(None));
    for _ in 0..100 {
        assert_eq!(receiving.handle(&mut Bytes::from(vec![0; 10_000])), Ok(None));
    }
    assert_eq!((receiving.held(), receiving.take_idle(), receiving.take_idle()), (0, 1, 0));
    let mut receiving = Receiving::new(1000);
    let mut bytes = Bytes::from([frame(1, b"h"), frame(0, b"").repeat(50)].concat());
    while receiving.handle(&mut bytes).unwrap().is_some() {}
    assert_eq!(receiving.take_idle(), 50);
}

proptest! {
    #[test]
    fn any_bytes_are_the_same_in_any_pieces(bytes in proptest::collection::vec(prop_oneof![0..10u8, any::<u8>()], 1..300), piece in 1..50usize) {
        prop_assert_eq!(all(&bytes, piece, 100), all(&bytes, bytes.len(), 100));
    }
}
