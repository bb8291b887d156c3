use super::*;
use proptest::prelude::*;

/// Types and contents, as a stream has them.
fn stream(capsules: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, content) in capsules {
        begin(*kind, content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
    }
    bytes
}

#[test]
fn datagrams_leave_the_stream_and_nothing_else_does() {
    let sent = [(DATAGRAM, vec![0, 1]), (0x2575, vec![9; 300]), (DATAGRAM, vec![]), (1, vec![]), (DATAGRAM, vec![7])];
    let (mut splitter, mut split) = (Splitter::default(), Split::default());
    splitter.handle(&stream(&sent), true, &mut split);
    assert_eq!(split.datagrams, [vec![0, 1], vec![], vec![7]]);
    assert_eq!(split.stream, stream(&[sent[1].clone(), sent[3].clone()]));
    assert!(splitter.is_between() && split.too_long == 0);
}

#[test]
fn one_that_began_on_the_stream_ends_there() {
    let bytes = stream(&[(DATAGRAM, vec![1; 10]), (DATAGRAM, vec![2])]);
    let (mut splitter, mut split) = (Splitter::default(), Split::default());
    splitter.handle(&bytes[..5], false, &mut split);
    assert!(!splitter.is_between());
    splitter.handle(&bytes[5..], true, &mut split);
    assert_eq!((split.stream, split.datagrams), (stream(&[(DATAGRAM, vec![1; 10])]), vec![vec![2]]));
}

#[test]
fn one_that_fits_into_no_packet_goes_nowhere_and_is_not_held() {
    let mut bytes = Vec::new();
    begin(DATAGRAM, DATAGRAM_MOST as u64 + 1, &mut bytes);
    let (mut splitter, mut split) = (Splitter::default(), Split::default());
    splitter.handle(&bytes, true, &mut split);
    splitter.handle(&vec![0; DATAGRAM_MOST + 1], true, &mut split);
    assert_eq!((splitter.held(), split.too_long, split.datagrams.len()), (0, 1, 0));
    // One of a length that nobody would send is not waited for in memory either.
    let mut bytes = stream(&[(DATAGRAM, vec![5])]);
    begin(DATAGRAM, varint::MAX, &mut bytes);
    splitter.handle(&bytes, true, &mut split);
    assert_eq!((splitter.held(), split.too_long, &split.datagrams), (0, 2, &vec![vec![5]]));
    assert!(!splitter.is_between() && split.stream.is_empty());
}

proptest! {
    #[test]
    fn capsules_are_the_same_in_any_pieces(
        sent in proptest::collection::vec((0..3u64, proptest::collection::vec(any::<u8>(), 0..200)), 1..8),
        piece in 1..60usize,
    ) {
        let bytes = stream(&sent);
        let (mut splitter, mut walk, mut split) = (Splitter::default(), Walk::default(), Split::default());
        for input in bytes.chunks(piece) {
            splitter.handle(input, true, &mut split);
            walk.pass(input);
            prop_assert_eq!(splitter.is_between(), walk.is_between());
        }
        prop_assert!(walk.is_between());
        let (datagrams, others): (Vec<_>, Vec<_>) = sent.into_iter().partition(|(kind, _)| *kind == DATAGRAM);
        prop_assert_eq!(split.stream, stream(&others));
        prop_assert_eq!(split.datagrams, datagrams.into_iter().map(|(_, content)| content).collect::<Vec<_>>());
    }
}
