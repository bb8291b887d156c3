//! Field blocks within bounds are read the same again from what the encoder makes of them, and no bytes break the bounds.

use proto_h2::hpack::{Decoder, FIELD_OVERHEAD, Kept, encoder};
use proto_http::coding::Section;

/// Bytes of the list that is kept, and of the table.
const LIST: usize = 2000;
const TABLE: usize = 300;

/// The first byte says how long blocks are; they are read one after the other, as those of one connection.
pub fn check(bytes: &[u8]) {
    let Some((&length, bytes)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new(TABLE);
    for block in bytes.chunks(usize::from(length).max(1)) {
        let mut section = Section::default();
        let read = decoder.decode(block, LIST, &mut section);
        assert!(decoder.memory() <= 8 * TABLE);
        let Ok(kept) = read else { return };
        assert!(section.bytes() + section.len() * FIELD_OVERHEAD <= LIST);
        let mut written = Vec::new();
        section.iter().for_each(|(name, value)| encoder::field(name, value, &mut written));
        let mut again = Section::default();
        assert_eq!(Decoder::new(0).decode(&written, LIST, &mut again), Ok(Kept::All));
        let lower = |section: &Section| -> Vec<(Vec<u8>, Vec<u8>)> {
            section.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
        };
        assert_eq!(lower(&again), lower(&section), "{kept:?}");
    }
}
