//! What a variant is chosen by (RFC 9111 section 4.1).

use crate::control::{cut, trim};
use proto_http::Headers;

/// The request fields that an answer depends on, and what they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vary {
    /// In lower case, sorted.
    names: Box<[Box<str>]>,
    values: Box<[u8]>,
}

/// Fields that one answer may depend on; one that names more is not kept.
pub const NAMES_MOST: usize = 16;

impl Vary {
    /// `None` where it depends on what no request shows (`*`), or on too much.
    pub fn of(answer: &Headers, request: &Headers) -> Option<Vary> {
        let mut names: Vec<Box<str>> = Vec::new();
        for line in answer.values("Vary") {
            for name in line.split(|&b| b == b',').map(trim).filter(|name| !name.is_empty()) {
                if !proto_http::headers::is_name(name) || name == b"*" {
                    return None;
                }
                let name = String::from_utf8_lossy(name).to_ascii_lowercase().into_boxed_str();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        // Whom it lets read it was decided by where they come from, said or not.
        let allows = answer.value("Access-Control-Allow-Origin").is_some_and(|allowed| allowed.trim_ascii() != b"*");
        if allows && !names.iter().any(|name| **name == *"origin") {
            names.push("origin".into());
        }
        if names.len() > NAMES_MOST {
            return None;
        }
        names.sort_unstable();
        let mut values = Vec::new();
        names.iter().for_each(|name| push_value(name, request, &mut values));
        Some(Vary { names: names.into(), values: values.into() })
    }

    /// Whether a request chooses the same variant. `spare` is memory to work in.
    pub fn is_for(&self, request: &Headers, spare: &mut Vec<u8>) -> bool {
        if self.names.is_empty() {
            return true;
        }
        self.select(request, spare);
        spare[..] == self.values[..]
    }

    /// What a request says in these fields, put in place of what is in `out`.
    pub fn select(&self, request: &Headers, out: &mut Vec<u8>) {
        out.clear();
        self.names.iter().for_each(|name| push_value(name, request, out));
    }

    /// As it is written.
    pub(crate) fn parts(&self) -> (&[Box<str>], &[u8]) {
        (&self.names, &self.values)
    }

    pub(crate) fn from_parts(names: Vec<Box<str>>, values: &[u8]) -> Vary {
        Vary { names: names.into(), values: values.into() }
    }

    /// Names no field at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn memory(&self) -> usize {
        self.values.len() + self.names.iter().map(|name| name.len() + size_of::<Box<str>>()).sum::<usize>()
    }
}

/// Appends what requests say in a field, in a form that is the same where they mean the same: lines joined, no blanks beside commas;
/// and what is a set of words regardless of case (codings, languages) in lower case, codings sorted.
fn push_value(name: &str, request: &Headers, out: &mut Vec<u8>) {
    let begin = out.len();
    for (index, line) in request.values(name).enumerate() {
        out.push(if index == 0 { b'=' } else { b',' });
        let mut rest = Some(trim(line));
        while let Some(text) = rest {
            let (element, after) = cut(text, b',');
            out.extend_from_slice(trim(element));
            rest = after;
            if rest.is_some() {
                out.push(b',');
            }
        }
    }
    match name {
        "accept-language" | "accept-charset" => out[begin..].make_ascii_lowercase(),
        "accept-encoding" if out.len() > begin => {
            let mut words: Vec<Vec<u8>> = out[begin + 1..].split(|&b| b == b',').map(without_blanks).collect();
            words.sort_unstable();
            out.truncate(begin + 1);
            out.extend_from_slice(&words.join(&b','));
        }
        _ => {}
    }
    // No value holds a line break, so that none reaches into the next.
    out.push(b'\n');
}

fn without_blanks(word: &[u8]) -> Vec<u8> {
    word.iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.add(name, value));
        headers
    }

    #[test]
    fn requests_that_mean_the_same_get_the_same() {
        let mut spare = Vec::new();
        for (vary, first, then, same) in [
            ("", &[][..], &[("A", "1")][..], true),
            ("A", &[("A", "1")], &[("a", "1")], true),
            ("A", &[("A", "1")], &[("A", "2")], false),
            ("A", &[("A", "1")], &[], false),
            ("A", &[], &[("A", "1")], false),
            ("A", &[("A", "")], &[], false),
            ("A, B", &[("A", "1"), ("B", "2")], &[("B", "2"), ("A", "1"), ("C", "3")], true),
            ("B,A", &[("A", "1")], &[("A", "1")], true),
            ("A, B", &[("A", "1"), ("B", "2")], &[("A", "2"), ("B", "1")], false),
            ("A", &[("A", "1, 2")], &[("A", "1"), ("A", "2")], true),
            ("A", &[("A", "1,2")], &[("A", " 1,  2 ")], true),
            ("A", &[("A", "\"1, 2\"")], &[("A", "\"1,2\"")], false),
            ("A", &[("A", "x")], &[("A", "X")], false),
            ("Accept-Language", &[("Accept-Language", "en, de")], &[("Accept-Language", "eN ,De")], true),
            ("Accept-Language", &[("Accept-Language", "en, de")], &[("Accept-Language", "de, en")], false),
            ("Accept-Encoding", &[("Accept-Encoding", "gzip, br; q=1")], &[("Accept-Encoding", "BR;q=1,gzip")], true),
        ] {
            let vary = Vary::of(&headers(&[("Vary", vary)]), &headers(first)).unwrap();
            assert_eq!(vary.is_for(&headers(then), &mut spare), same, "{first:?} {then:?}");
        }
    }

    #[test]
    fn an_answer_for_one_origin_is_not_for_another() {
        let vary = |allowed| {
            let answer = headers(&[("Access-Control-Allow-Origin", allowed)]);
            Vary::of(&answer, &headers(&[("Origin", "https://a.test")])).unwrap()
        };
        let other = headers(&[("Origin", "https://b.test")]);
        assert!(vary("*").is_for(&other, &mut Vec::new()));
        assert!(!vary("https://a.test").is_for(&other, &mut Vec::new()));
    }

    #[test]
    fn what_depends_on_anything_is_for_nobody() {
        for lines in [&["*"][..], &["*, *"], &["", "*"], &[", *"], &["*, Foo"], &["Foo, *"], &["Foo", "*"], &["a b"]] {
            let mut answer = Headers::new();
            lines.iter().for_each(|line| answer.add("Vary", line));
            assert_eq!(Vary::of(&answer, &Headers::new()), None, "{lines:?}");
        }
        let many: Vec<String> = (0..=NAMES_MOST).map(|n| format!("x-{n}")).collect();
        assert_eq!(Vary::of(&headers(&[("Vary", &many.join(","))]), &Headers::new()), None);
    }
}
