use super::*;
use proptest::prelude::*;

const WIDE: Bounds = Bounds { bytes: 1 << 20, fields: 1 << 10 };

fn read(block: &[u8], bounds: Bounds) -> Result<Vec<(String, String)>, Unread> {
    let mut section = Section::default();
    decode(block, &bounds, &mut section)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(section.iter().count(), section.len());
    assert_eq!(section.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>(), section.bytes());
    Ok(section.iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn appendix_b_of_rfc_9204() {
    // B.1, a literal with a static name.
    let block = b"\x00\x00\x51\x0b/index.html";
    assert_eq!(read(block, WIDE), Ok(fields(&[(":path", "/index.html")])));
    // B.2, B.3 and B.4 refer to a dynamic table.
    for block in [&b"\x03\x81\x10\x11"[..], b"\x05\x00\x80\xc1\x81", b"\x04\x00\x80"] {
        assert_eq!(read(block, WIDE), Err(Unread::Broken));
    }
}

#[test]
fn what_refers_to_a_dynamic_table_is_refused() {
    for first in 0..=0xff_u8 {
        let dynamic = matches!(first, 0x80..=0xbf | 0x10..=0x1f | 0x00..=0x0f | 0x40..=0x4f | 0x60..=0x6f);
        let block = [&[0, 0, first][..], &[0; 80]].concat();
        if dynamic {
            assert_eq!(read(&block, WIDE), Err(Unread::Broken), "{first:02x}");
        }
    }
    assert_eq!(read(&[0, 0x80], WIDE), Err(Unread::Broken), "a base below none");
    assert_eq!(read(&[0, 0x05], WIDE), Ok(vec![]), "a base that nothing refers to");
}

#[test]
fn the_errors_of_the_public_vectors() {
    for block in [
        &b"\xff"[..],
        b"\x00",
        b"\x00\xff",
        b"\x00\x81",
        b"\x00\x00\x41",
        b"\x00\x00\x27",
        b"\x00\x00\x51\xff",
        b"\x00\x00\xbf",
    ] {
        assert_eq!(read(block, WIDE), Err(Unread::Broken), "{block:02x?}");
    }
}

#[test]
fn bounds_hold_for_what_numbers_stand_for() {
    // 85 stands for 75 bytes, and takes two.
    let bomb = [&[0, 0][..], &[0xff, 22].repeat(10_000)].concat();
    assert_eq!(read(&bomb, Bounds { bytes: 64 << 10, fields: 1 << 20 }), Err(Unread::TooLarge));
    assert_eq!(read(&bomb, Bounds { bytes: 64 << 10, fields: 128 }), Err(Unread::TooMany));
    let mut section = Section::default();
    assert!(decode(&bomb, &Bounds { bytes: 64 << 10, fields: 1 << 20 }, &mut section).is_err());
    assert!(section.bytes() <= 64 << 10);
    for (bytes, ends) in [(15, Err(Unread::TooLarge)), (16, Ok(fields(&[(":path", "/index.html")])))] {
        assert_eq!(read(b"\x00\x00\x51\x0b/index.html", Bounds { bytes, fields: 1 }), ends);
    }
    // The same when coded, where five bits are a byte.
    let mut block = vec![0, 0, 0x51, 0x80 | 62];
    huffman::encode(&[b'0'; 99], &mut block);
    assert_eq!(read(&block, Bounds { bytes: 103, fields: 1 }), Err(Unread::TooLarge));
    assert!(read(&block, Bounds { bytes: 104, fields: 1 }).is_ok());
}

#[test]
fn integers_that_do_not_fit_are_refused() {
    let long = [&[0, 0, 0xff][..], &[0xff; 12]].concat();
    assert_eq!(read(&long, WIDE), Err(Unread::Broken));
    let huge = [0, 0, 0x51, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(read(&huge, WIDE), Err(Unread::Broken));
}

#[test]
fn what_is_known_is_written_as_a_number() {
    let mut block = Vec::new();
    begin(&mut block);
    field(b":status", b"200", &mut block);
    field(b"Content-Type", b"text/plain", &mut block);
    field(b"Server", b"x", &mut block);
    field(b"X-One", b"1", &mut block);
    assert_eq!(block, b"\x00\x00\xd9\xf5\x5f\x4d\x01x\x25x-one\x011");
}

/// `netbsd.qif` of github.com/qpackers/qifs, coded with a table of no capacity by ls-qpack: for each section the number of its
/// stream in eight bytes, its length in four, and the section.
#[test]
fn sections_of_another_encoder() {
    let (mut coded, text) =
        (&include_bytes!("../../tests/vectors/netbsd.out")[..], include_str!("../../tests/vectors/netbsd.qif"));
    let mut sections = text.split("\n\n").filter(|section| !section.trim().is_empty());
    let mut count = 0;
    while let Some((head, rest)) = coded.split_first_chunk::<12>() {
        let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let (block, after) = rest.split_at(length);
        coded = after;
        let lines = sections.next().unwrap().lines().filter(|line| !line.starts_with('#'));
        let expected: Vec<(String, String)> =
            lines.map(|line| line.split_once('\t').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(read(block, WIDE), Ok(expected));
        count += 1;
    }
    assert!(count > 10 && sections.next().is_none());
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(list in proptest::collection::vec(("[a-z:][a-z0-9-]{0,40}", "[ -~]{0,200}"), 0..20), known in 0..99usize) {
        let (name, value) = FIELDS[known];
        let mut list = list;
        list.push((name.to_owned(), value.to_owned()));
        let mut block = Vec::new();
        begin(&mut block);
        list.iter().for_each(|(name, value)| field(name.as_bytes(), value.as_bytes(), &mut block));
        prop_assert_eq!(read(&block, WIDE), Ok(list));
    }

    #[test]
    fn no_bytes_break_the_bounds(block in proptest::collection::vec(any::<u8>(), 0..400), bytes in 0..600usize) {
        let mut section = Section::default();
        let bounds = Bounds { bytes, fields: 20 };
        let _ = decode(&block, &bounds, &mut section);
        prop_assert!(section.bytes() <= bytes && section.len() <= 20);
    }
}
