//! A field section within bounds is read the same again from what the encoder makes of it, and no bytes break the bounds.

use proto_h3::qpack::{self, Bounds, Section};

pub fn check(bytes: &[u8]) {
    let bounds = Bounds { bytes: 2000, fields: 50 };
    let mut section = Section::default();
    let read = qpack::decode(bytes, &bounds, &mut section);
    assert!(section.bytes() <= bounds.bytes && section.len() <= bounds.fields);
    if read.is_err() {
        return;
    }
    let mut block = Vec::new();
    qpack::begin(&mut block);
    section.iter().for_each(|(name, value)| qpack::field(name, value, &mut block));
    let mut again = Section::default();
    assert_eq!(qpack::decode(&block, &bounds, &mut again), Ok(()));
    let lower = |section: &Section| -> Vec<(Vec<u8>, Vec<u8>)> {
        section.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
    };
    assert_eq!(lower(&again), lower(&section));
}
