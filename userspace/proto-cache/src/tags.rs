//! Words that origins give their answers, to purge them by.

use proto_http::Headers;

/// Tags of one answer; one with more is not kept, since a purge of them would miss it.
pub const TAGS_MOST: usize = 256;

/// Bytes of one tag.
pub const TAG_BYTES_MOST: usize = 1024;

/// The tags of an answer: `Cache-Tag: a, b` and `Surrogate-Key: a b`. `None` where there are too many, or too long ones.
pub fn of(headers: &Headers) -> Option<Vec<Box<str>>> {
    let mut tags: Vec<Box<str>> = Vec::new();
    let commas = headers.values("Cache-Tag").flat_map(|line| line.split(|&b| b == b','));
    let blanks = headers.values("Surrogate-Key").flat_map(|line| line.split(u8::is_ascii_whitespace));
    for tag in commas.chain(blanks).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()) {
        if tag.len() > TAG_BYTES_MOST || tags.len() == TAGS_MOST {
            return None;
        }
        tags.push(String::from_utf8_lossy(tag).into());
    }
    tags.sort_unstable();
    tags.dedup();
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fields_name_tags() {
        let mut headers = Headers::new();
        headers.add("Cache-Tag", "product 7, shop,,");
        headers.add("surrogate-key", "shop  b");
        let tags = of(&headers).unwrap();
        assert_eq!(tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["b", "product 7", "shop"]);
        headers.add("Cache-Tag", "x".repeat(TAG_BYTES_MOST + 1));
        assert_eq!(of(&headers), None);
    }
}
