use super::*;
use proptest::prelude::*;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::begin(kind, payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// The last word on one stream with these bytes, given whole and byte by byte.
fn read(bytes: &[u8]) -> (Result<Next, Fault>, Peer) {
    let mut ends = Vec::new();
    for piece in [1, bytes.len().max(1)] {
        let (mut peer, mut incoming) = (Peer::default(), Incoming::default());
        let mut end = Ok(Next::Read);
        for piece in bytes.chunks(piece) {
            end = incoming.handle(&mut peer, piece);
            if end != Ok(Next::Read) {
                break;
            }
        }
        ends.push((end, peer));
    }
    assert_eq!(ends[0].0, ends[1].0);
    ends.swap_remove(0)
}

fn control(frames: &[Vec<u8>]) -> Result<Next, Fault> {
    read(&[&[0][..], &frame(4, &[]), &frames.concat()].concat()).0
}

fn connection(code: Code) -> Result<Next, Fault> {
    Err(Fault::Connection(code))
}

#[test]
fn settings_come_first_and_once() {
    let (end, peer) = read(&[&[0][..], &frame(4, &[6, 0x40, 100, 8, 1])].concat());
    assert_eq!(end, Ok(Next::Read));
    assert_eq!(
        peer.settings(),
        Some(PeerSettings { field_section_bytes: Some(100), connect_protocol: true, datagrams: false })
    );
    assert_eq!(read(&[&[0][..], &frame(7, &[0])].concat()).0, connection(Code::MissingSettings));
    assert_eq!(read(&[&[0][..], &frame(0x21, &[])].concat()).0, connection(Code::MissingSettings));
    assert_eq!(control(&[frame(4, &[])]), connection(Code::FrameUnexpected));
    assert_eq!(read(&[&[0][..], &frame(4, &[0; 1025])].concat()).0, connection(Code::ExcessiveLoad));
    assert_eq!(read(&[&[0][..], &frame(4, &[2, 0])].concat()).0, connection(Code::Settings));
}

#[test]
fn frames_of_the_control_stream() {
    for kind in [0, 1, 5, 2, 6, 8, 9] {
        assert_eq!(control(&[frame(kind, b"x")]), connection(Code::FrameUnexpected), "{kind}");
    }
    assert_eq!(control(&[frame(0x21, &[0; 3000]), frame(0xf0700, b"\0u=1")]), Ok(Next::Read));
    assert_eq!(control(&[frame(7, &[8]), frame(7, &[4])]), Ok(Next::Read));
    assert_eq!(control(&[frame(7, &[4]), frame(7, &[8])]), connection(Code::Id));
    assert_eq!(control(&[frame(0xd, &[4]), frame(0xd, &[8])]), Ok(Next::Read));
    assert_eq!(control(&[frame(0xd, &[8]), frame(0xd, &[4])]), connection(Code::Id));
    assert_eq!(control(&[frame(3, &[0])]), connection(Code::Id));
    for kind in [3, 7, 0xd] {
        for payload in [&[][..], &[0, 0], &[0x40], &[0; 9]] {
            assert_eq!(control(&[frame(kind, payload)]), connection(Code::Frame), "{kind} {payload:?}");
        }
    }
}

#[test]
fn each_of_the_streams_once() {
    for kind in [0, 2, 3] {
        let mut peer = Peer::default();
        assert_eq!(Incoming::default().handle(&mut peer, &[kind]), Ok(Next::Read));
        assert_eq!(Incoming::default().handle(&mut peer, &[kind]), connection(Code::StreamCreation));
    }
    assert_eq!(read(&[1]).0, connection(Code::StreamCreation), "a push of a client");
    assert_eq!(read(&[0x21, 1, 2, 3]).0, Ok(Next::Stop));
    for (kind, critical) in [(0, true), (2, true), (3, true), (0x21, false)] {
        let (mut peer, mut incoming) = (Peer::default(), Incoming::default());
        let _ = incoming.handle(&mut peer, &[kind]);
        assert_eq!(incoming.handle_end().is_err(), critical);
    }
    assert_eq!(Incoming::default().handle_end(), Ok(()));
}

#[test]
fn qpack_has_nothing_to_say() {
    assert_eq!(read(&[2, 0x20, 0x20]).0, Ok(Next::Read));
    for instruction in [0x21, 0x3f, 0x80, 0xc0, 0x40, 0x00] {
        assert_eq!(read(&[2, instruction]).0, connection(Code::QpackEncoderStream), "{instruction:02x}");
    }
    assert_eq!(read(&[3, 0x44, 0x7f, 0x80, 0x01, 0x40]).0, Ok(Next::Read));
    for instruction in [0x80, 0xff, 0x00, 0x01] {
        assert_eq!(read(&[3, instruction]).0, connection(Code::QpackDecoderStream), "{instruction:02x}");
    }
    let endless = [&[3, 0x7f][..], &[0xff; 12]].concat();
    assert_eq!(read(&endless).0, connection(Code::QpackDecoderStream));
}

#[test]
fn what_we_say_is_read() {
    let mut bytes = Vec::new();
    open(&mut bytes);
    settings::Settings { field_section_bytes: 1 << 16, connect_protocol: true, datagrams: false }.encode(&mut bytes);
    go_away(1 << 20, &mut bytes);
    go_away(400, &mut bytes);
    let (end, peer) = read(&bytes);
    assert_eq!((end, peer.goaway), (Ok(Next::Read), Some(400)));
}

proptest! {
    #[test]
    fn any_bytes_are_the_same_in_any_pieces(bytes in proptest::collection::vec(prop_oneof![0..16u8, any::<u8>()], 1..200)) {
        let _ = read(&bytes).0;
    }
}

#[test]
fn a_server_pushes_nothing_and_names_streams_of_ours() {
    let said = |frames: &[Vec<u8>]| {
        let (mut peer, mut incoming) = (Peer::server(), Incoming::default());
        let bytes = [&[0][..], &frame(4, &[]), &frames.concat()].concat();
        (incoming.handle(&mut peer, &bytes), peer.goaway())
    };
    assert_eq!(said(&[frame(7, &[8]), frame(7, &[4])]), (Ok(Next::Read), Some(4)));
    assert_eq!(said(&[frame(7, &[8]), frame(7, &[12])]).0, connection(Code::Id));
    assert_eq!(said(&[frame(7, &[9])]).0, connection(Code::Id));
    assert_eq!(said(&[frame(13, &[1])]).0, connection(Code::FrameUnexpected));
    assert_eq!(Incoming::default().handle(&mut Peer::server(), &[1, 0]), connection(Code::Id));
}
