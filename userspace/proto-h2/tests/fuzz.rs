//! The checks of the fuzz targets, for a moment.

use proptest::prelude::*;

#[path = "../../fuzz/checks/http2_client.rs"]
mod http2_client;
#[path = "../../fuzz/checks/http2_connection.rs"]
mod http2_connection;
#[path = "../../fuzz/checks/http2_fields.rs"]
mod http2_fields;

/// Frames that may mean something, one behind the other, with anything in between.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let get = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
    let post = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
    let payload = prop_oneof![
        2 => Just(get.to_vec()),
        2 => Just(post.to_vec()),
        1 => proptest::collection::vec(prop_oneof![Just(0), 0..16u8, any::<u8>()], 0..60),
        1 => (0..20u8).prop_map(|n| vec![n; usize::from(n)]),
    ];
    let kind = prop_oneof![2 => Just(1u8), 2 => Just(0), 1 => 0..20u8];
    let flags = prop_oneof![Just(0u8), Just(1), Just(4), Just(5), Just(13), any::<u8>()];
    let frame = (kind, flags, 0..9u8, payload).prop_map(|(kind, flags, stream, payload)| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], &payload].concat()
    });
    let piece = prop_oneof![20 => frame, 1 => proptest::collection::vec(any::<u8>(), 0..20)];
    proptest::collection::vec(piece, 0..25).prop_map(|pieces| pieces.concat())
}

/// The same of a server.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        Just(vec![0x88]),
        Just(vec![0x08, 3, b'1', b'0', b'3']),
        Just(vec![0x88, 0x0f, 0x0d, 1, b'4']),
        Just(vec![0x00, 1, b'x', 1, b'1']),
        Just(vec![0x8d]),
    ];
    let payload = prop_oneof![
        4 => head,
        2 => Just(b"body".to_vec()),
        1 => Just(vec![0, 0, 0, 1]),
        1 => Just(vec![0, 4, 0, 0, 0, 9]),
        1 => Just(vec![0, 3, 0, 0, 0, 2]),
        1 => Just(vec![0, 0, 0, 3, 0, 0, 0, 0]),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
        1 => (0..20u8).prop_map(|n| vec![n; usize::from(n)]),
    ];
    let kind = prop_oneof![4 => Just(1u8), 3 => Just(0), 2 => 3..9u8, 1 => 0..20u8];
    let flags = prop_oneof![3 => Just(4u8), 2 => Just(0), 2 => Just(5), 1 => Just(1), 1 => Just(13), 1 => any::<u8>()];
    let frame = (kind, flags, 0..10u8, payload).prop_map(|(kind, flags, stream, payload)| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], &payload].concat()
    });
    proptest::collection::vec(frame, 0..25).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn connections(piece in 1..100u8, frames in frames()) {
        http2_connection::check(&[&[piece][..], &frames].concat());
    }

    #[test]
    fn clients(piece in 1..100u8, frames in answers()) {
        http2_client::check(&[&[piece][..], &frames].concat());
    }

    #[test]
    fn fields(bytes in proptest::collection::vec(prop_oneof![0..16u8, Just(0x40), Just(0x20), 0x80..=0xffu8, any::<u8>()], 0..300)) {
        http2_fields::check(&bytes);
    }
}
