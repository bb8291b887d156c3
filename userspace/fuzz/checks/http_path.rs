//! The wire form of a path is ASCII and reads as the same path; canonical text is left as it is.

use proto_http::Path;

pub fn check(bytes: &[u8]) {
    if let Ok(path) = Path::parse(bytes) {
        let encoded = path.encoded();
        assert!(encoded.bytes().all(|b| b > 0x20 && b < 0x7f && !b"?#\\".contains(&b)));
        assert!(!encoded.split('/').any(|segment| segment == "." || segment == ".."));
        assert_eq!(Path::parse(encoded.as_bytes()).as_ref(), Ok(&path));
        let written = Path::from_text(path.as_str());
        assert_eq!((written.as_str(), written.encoded()), (path.as_str(), encoded));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let once = Path::from_text(text);
        assert_eq!(Path::from_text(once.as_str()).as_str(), once.as_str());
        // What a filter writes must reach the backend as what rules would match.
        if let Ok(again) = Path::parse(once.encoded().as_bytes()) {
            assert_eq!(again.as_str(), once.as_str());
        }
    }
}
