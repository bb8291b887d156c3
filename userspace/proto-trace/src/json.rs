//! As much of JSON as the formats need to be written in.

/// Writes a text in quotation marks.
pub fn text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..0x20 => {
                out.extend(b"\\u00");
                out.extend([b'0' + (byte >> 4), b"0123456789abcdef"[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Writes a name and a colon, after a comma where something stands before it.
pub fn key(name: &str, out: &mut Vec<u8>) {
    comma(out);
    text(name, out);
    out.push(b':');
}

/// Writes a comma where something stands before.
pub fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Writes a number.
pub fn number(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    out.extend(value.to_string().as_bytes());
}
