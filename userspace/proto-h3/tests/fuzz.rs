//! The checks of the fuzz targets, for a moment.

use proptest::prelude::*;

#[path = "../../fuzz/checks/http3_sections.rs"]
mod http3_sections;
#[path = "../../fuzz/checks/http3_streams.rs"]
mod http3_streams;

/// Bytes that mean something often.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0..16u8, Just(0x21), Just(0x51), 0xc0..=0xffu8, any::<u8>()], 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn sections(rest in bytes()) {
        http3_sections::check(&[&[0, 0][..], &rest].concat());
        http3_sections::check(&rest);
    }

    #[test]
    fn streams(bytes in bytes()) {
        http3_streams::check(&bytes);
    }
}
