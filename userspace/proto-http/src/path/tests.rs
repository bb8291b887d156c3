use super::*;
use proptest::prelude::*;

fn check(wire: &str, canonical: &str, encoded: &str) {
    let path = Path::parse(wire.as_bytes()).unwrap_or_else(|e| panic!("{wire}: {e}"));
    assert_eq!(path.as_str(), canonical, "canonical form of {wire}");
    assert_eq!(path.encoded(), encoded, "wire form of {wire}");
    let mut written = Vec::new();
    path.encode(&mut written);
    assert_eq!(written, encoded.as_bytes());
    assert_eq!(Path::parse(encoded.as_bytes()).as_ref(), Ok(&path), "{encoded} read again");
    let text = Path::from_text(canonical);
    assert_eq!((text.as_str(), text.encoded()), (canonical, encoded.into()), "{canonical} as text");
}

fn refused(wire: &[u8], error: PathError) {
    assert_eq!(Path::parse(wire), Err(error), "{}", String::from_utf8_lossy(wire));
}

#[test]
fn plain_paths_are_the_same_everywhere_and_never_copied_for_the_wire() {
    for text in [
        "/",
        "/a",
        "/a/b.html",
        "//",
        "//a//b/",
        "/a;v=1,2/b:c@d",
        "/~u/!$&'()*+,;=:@-_.",
        "/...",
        "/a.",
        "/.a",
        "/..a",
    ] {
        check(text, text, text);
        assert!(matches!(Path::parse(text.as_bytes()).unwrap().encoded(), Cow::Borrowed(_)));
    }
}

#[test]
fn only_unreserved_characters_are_decoded() {
    // RFC 3986 section 6.2.2, for all values a byte has, in both cases of the digits.
    for byte in 0..=255u8 {
        let upper = format!("%{byte:02X}");
        for escape in [upper.clone(), upper.to_ascii_lowercase()] {
            let wire = format!("/a{escape}b");
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            match byte {
                0 => refused(wire.as_bytes(), PathError::Nul),
                _ if unreserved => check(&wire, &format!("/a{}b", byte as char), &format!("/a{}b", byte as char)),
                _ => check(&wire, &format!("/a{upper}b"), &format!("/a{upper}b")),
            }
        }
        // Raw, a byte that may stand in a path stays; nothing raw reads like an escape of what is reserved.
        let raw = [b"/a", &[byte][..], b"b"].concat();
        match byte {
            b'/' | b'!'..=b'~' if CLASS[byte as usize] & (PLAIN | DOT) != 0 => {
                let text = String::from_utf8(raw).unwrap();
                check(&text, &text, &text);
                let differs = !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte);
                assert_eq!(
                    Path::parse(format!("/a{upper}b").as_bytes()) != Path::parse(text.as_bytes()),
                    differs,
                    "{text}"
                );
            }
            b'%' => refused(&raw, PathError::Escape),
            b'\\' => refused(&raw, PathError::Backslash),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                let text = String::from_utf8(raw).unwrap();
                check(&text, &format!("/a{upper}b"), &format!("/a{upper}b"));
            }
            _ => refused(&raw, PathError::Character),
        }
    }
}

#[test]
fn characters_beyond_ascii_are_shown_as_themselves() {
    check("/%61%7e%2Db", "/a~-b", "/a~-b");
    check("/a%20b", "/a%20b", "/a%20b");
    check("/%E4%B8%AD%e6%96%87", "/中文", "/%E4%B8%AD%E6%96%87");
    check("/中文", "/中文", "/%E4%B8%AD%E6%96%87");
    check("/%22%3c%3E%7B|%7d%5B]^`", "/%22%3C%3E%7B%7C%7D%5B%5D%5E%60", "/%22%3C%3E%7B%7C%7D%5B%5D%5E%60");
    check("/%F0%9F%A6%80", "/🦀", "/%F0%9F%A6%80");
    check("/%3b%2B%3D", "/%3B%2B%3D", "/%3B%2B%3D");
}

#[test]
fn a_rewrite_never_makes_a_segment_of_dots() {
    for (text, error) in [
        ("/files/../secret", PathError::DotSegment),
        ("/files/./secret", PathError::DotSegment),
        ("../secret", PathError::DotSegment),
        ("/files/..", PathError::DotSegment),
        (".", PathError::DotSegment),
        ("/%2e%2E/a", PathError::DotSegment),
        ("/files/..;x/a", PathError::DisguisedDots),
        ("/files/..%3bx/a", PathError::DisguisedDots),
        ("/files/..%2Fa", PathError::DisguisedDots),
        ("/files/..\\a", PathError::DisguisedDots),
        ("/a%00", PathError::Nul),
    ] {
        let mut path = Path::from_text("/before");
        assert_eq!(path.rewrite(text), Err(error), "{text}");
        assert_eq!(path.as_str(), "/before", "{text}");
    }
    for (text, canonical) in
        [("/a b/%2B?", "/a%20b/%2B%3F"), ("", "/"), ("x//y...", "/x//y..."), ("/ü", "/ü"), ("/..a/b..", "/..a/b..")]
    {
        let mut path = Path::from_text("/before");
        assert_eq!(path.rewrite(text), Ok(()), "{text}");
        assert_eq!(path.as_str(), canonical, "{text}");
    }
}

#[test]
fn a_character_may_be_half_raw_and_half_escaped() {
    let path = Path::parse(b"/\xe4%b8\xad").unwrap();
    assert_eq!(path.as_str(), "/中");
}

#[test]
fn delimiters_controls_and_broken_utf8_keep_their_escape() {
    check("/a%2fb", "/a%2Fb", "/a%2Fb");
    check("/with%3fmark%23h%25%5c", "/with%3Fmark%23h%25%5C", "/with%3Fmark%23h%25%5C");
    check("/%0d%0a%7f%1b", "/%0D%0A%7F%1B", "/%0D%0A%7F%1B");
    check("/%ff%c3/%c3%28", "/%FF%C3/%C3%28", "/%FF%C3/%C3%28");
    check("/%c2%85", "/%C2%85", "/%C2%85");
    check("/%252e%252e/", "/%252e%252e/", "/%252e%252e/");
    check("/%C0%AE%C0%AE/", "/%C0%AE%C0%AE/", "/%C0%AE%C0%AE/");
    check("/%ED%A0%80", "/%ED%A0%80", "/%ED%A0%80");
}

#[test]
fn dot_segments_are_resolved_however_written() {
    // RFC 3986 section 5.2.4 and friends.
    for (wire, canonical) in [
        ("/a/b/c/./../../g", "/a/g"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/.", "/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%2e/a", "/a"),
        ("/a//../b", "/a/b"),
        ("//../a", "/a"),
        ("/a/b/../..//c", "//c"),
        ("/中/../文", "/文"),
    ] {
        let path = Path::parse(wire.as_bytes()).unwrap();
        assert_eq!(path.as_str(), canonical, "{wire}");
        assert_eq!(Path::from_text(wire).as_str(), canonical);
    }
}

#[test]
fn tricks_are_refused() {
    for wire in ["/..", "/../a", "/a/../..", "/a/../../b", "/%2e%2e", "/./.."] {
        refused(wire.as_bytes(), PathError::AboveRoot);
    }
    for wire in [
        "/a/..%2fb",
        "/a/%2e%2e%2fb",
        "/..%5cb",
        "/a/..;/b",
        "/a/..;x=1",
        "/a/.;/b",
        "/a/b%2f..",
        "/a/b%2F..%2fc",
        "/a/b%5c..",
        "/a/..%3bx/b",
    ] {
        refused(wire.as_bytes(), PathError::DisguisedDots);
    }
    for wire in ["/%", "/%4", "/%zz", "/a%", "/%%41", "/% 1", "/%+1", "/%u0041"] {
        refused(wire.as_bytes(), PathError::Escape);
    }
    refused(b"/%00", PathError::Nul);
    refused(b"/a\\b", PathError::Backslash);
    for wire in
        [&b"/\0"[..], b"/ ", b"/\t", b"/\x7f", b"/\xff", b"/\xc3(", b"/a?b", b"/a#b", b"/\xed\xa0\x80", b"/\r\n"]
    {
        refused(wire, PathError::Character);
    }
    for wire in ["", "a", "*", ".", "%2F", "http://a/"] {
        refused(wire.as_bytes(), PathError::NotAbsolute);
    }
    // Three dots, and dots with something before them, are names.
    for wire in ["/...%2Fa", "/a..%2Fb", "/a..;b"] {
        assert!(Path::parse(wire.as_bytes()).is_ok(), "{wire}");
    }
}

#[test]
fn written_paths_are_never_refused() {
    for (text, canonical, encoded) in [
        ("", "/", "/"),
        ("a", "/a", "/a"),
        ("/100%", "/100%25", "/100%25"),
        ("/a?b#c", "/a%3Fb%23c", "/a%3Fb%23c"),
        ("/a\\b", "/a%5Cb", "/a%5Cb"),
        ("/a b", "/a%20b", "/a%20b"),
        ("/../a", "/a", "/a"),
        ("/a%2fb", "/a%2Fb", "/a%2Fb"),
        ("/中文", "/中文", "/%E4%B8%AD%E6%96%87"),
        ("/a\u{85}", "/a%C2%85", "/a%C2%85"),
    ] {
        let path = Path::from_text(text);
        assert_eq!((path.as_str(), path.encoded()), (canonical, encoded.into()), "{text}");
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"/".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b"%2e".to_vec()),
        Just(b"%2F".to_vec()),
        Just(b"%5c".to_vec()),
        Just(b";".to_vec()),
        Just(b"%E4%B8%AD".to_vec()),
        Just("文".as_bytes().to_vec()),
        Just(b"\xe4".to_vec()),
        Just(b"%".to_vec()),
        Just(b"%C2%9f".to_vec()),
        any::<u8>().prop_map(|b| vec![b]),
        any::<u8>().prop_map(|b| format!("%{b:02x}").into_bytes()),
        "[a-z]{1,3}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| {
        let mut path = vec![b'/'];
        path.extend(pieces.concat());
        path
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn reading_the_wire_form_gives_the_same_path(text in hostile()) {
        if let Ok(path) = Path::parse(&text) {
            let encoded = path.encoded().into_owned();
            prop_assert!(encoded.is_ascii());
            prop_assert!(encoded.bytes().all(|b| b > 0x20 && b != 0x7f && b != b'?' && b != b'#' && b != b'\\'));
            prop_assert!(!encoded.contains("/../") && !encoded.ends_with("/.."));
            prop_assert_eq!(Path::parse(encoded.as_bytes()), Ok(path.clone()));
            let text = Path::from_text(path.as_str());
            prop_assert_eq!(&text, &path);
            prop_assert_eq!(text.encoded(), encoded);
        }
    }

    #[test]
    fn written_text_is_canonical_after_one_reading(text in "\\PC{0,24}") {
        let once = Path::from_text(&text);
        let twice = Path::from_text(once.as_str());
        prop_assert_eq!(once.as_str(), twice.as_str());
        prop_assert_eq!(once.encoded(), twice.encoded());
    }

    #[test]
    fn one_path_has_one_form(text in "/[a-c./中]{0,12}", escape_all in any::<bool>()) {
        // The same path with every byte but the slash escaped.
        let escaped: String = text.bytes().map(|b| if escape_all && b != b'/' { format!("%{b:02X}") } else { (b as char).to_string() }).collect();
        let escaped = if escape_all { escaped.into_bytes() } else { text.clone().into_bytes() };
        prop_assert_eq!(Path::parse(&escaped), Path::parse(text.as_bytes()));
    }
}
