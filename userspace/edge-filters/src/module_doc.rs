//! The module doc of a filter as a value, so that `weirctl explain` and the dashboard print what the file says.

/// The leading `//!` lines of a source file, without their markers.
macro_rules! module_doc {
    ($file:literal) => {{
        const SOURCE: &str = include_str!($file);
        const STRIPPED: ([u8; SOURCE.len()], usize) = $crate::module_doc::strip(SOURCE);
        const TEXT: &[u8] = STRIPPED.0.split_at(STRIPPED.1).0;
        match std::str::from_utf8(TEXT) {
            Ok(text) => text,
            Err(_) => panic!("a source file is UTF-8"),
        }
    }};
}
pub(crate) use module_doc;

/// Copies the doc lines of `source` to the front of an array; gives their length.
pub(crate) const fn strip<const N: usize>(source: &str) -> ([u8; N], usize) {
    let source = source.as_bytes();
    let mut out = [0; N];
    let (mut read, mut written) = (0, 0);
    while read + 3 <= N && source[read] == b'/' && source[read + 1] == b'/' && source[read + 2] == b'!' {
        read += 3;
        if read < N && source[read] == b' ' {
            read += 1;
        }
        while read < N && source[read] != b'\n' {
            out[written] = source[read];
            read += 1;
            written += 1;
        }
        if read < N {
            out[written] = b'\n';
            read += 1;
            written += 1;
        }
    }
    (out, written)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_lose_their_markers() {
        const SOURCE: &str = "//! One.\n//!\n//!   two\n\nuse x;\n";
        let (bytes, length) = super::strip::<{ SOURCE.len() }>(SOURCE);
        assert_eq!(std::str::from_utf8(&bytes[..length]), Ok("One.\n\n  two\n"));
    }
}
