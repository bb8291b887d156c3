//! Requests that go round: what each server of a cluster adds to `CDN-Loop` (RFC 8586) of the requests it passes on, and how often it
//! finds that there already.
//!
//! `Via` would say the same, but servers answer differently where it is there: nginx packs nothing for proxies, unless it is told to.

use proto_http::{Headers, Known, Ready};

pub const FIELD: &str = "CDN-Loop";

/// What the servers of a cluster call themselves, and the field that says it.
#[derive(Debug)]
pub struct Mark {
    name: Box<str>,
    field: Option<Ready>,
}

impl Mark {
    /// That of the cluster of this name: the same on each of its servers. The name is not shown to backends.
    pub fn of(cluster: &str) -> Mark {
        let name = mark_of(cluster);
        Mark { field: Ready::new(FIELD, &name), name: name.into() }
    }
}

fn mark_of(cluster: &str) -> String {
    // FNV-1a: it only has to be the same everywhere.
    let hash = cluster
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("weir-{:012x}", hash >> 16)
}

/// How many servers with this mark have passed the request on.
pub fn passed(headers: &Headers, mark: &Mark) -> usize {
    let elements = headers.known_all(Known::CdnLoop).flat_map(|line| line.split(|byte| *byte == b','));
    elements.filter(|element| is_of(element, &mark.name)).count()
}

/// Notes that so many servers with this mark have passed the request on.
pub fn note(headers: &mut Headers, mark: &Mark, hops: usize) {
    let Some(field) = &mark.field else { return };
    (passed(headers, mark)..hops).for_each(|_| headers.add_ready(field));
}

/// Notes in a request of our own, which is asked because of another one, who has passed that one on.
pub fn carry(from: &Headers, to: &mut Headers) {
    to.remove(FIELD);
    from.values(FIELD).for_each(|line| to.add(FIELD, line));
}

/// An element is a name, and perhaps parameters behind it.
fn is_of(element: &[u8], mark: &str) -> bool {
    let name = element.split(|byte| *byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_in_all_lines_and_nothing_else_is() {
        assert_eq!(mark_of("eg-cluster-default-name"), mark_of("eg-cluster-default-name"));
        assert_ne!(mark_of("eg-cluster-default-name"), mark_of("another"));
        let mark = Mark::of("eg-cluster-default-name");
        let name = mark.name.clone();
        let mut headers = Headers::new();
        assert_eq!(passed(&headers, &mark), 0);
        headers.add("CDN-Loop", format!("cdn.example, {name};hops=1 ,,{name}x, x{name}"));
        headers.add("cdn-loop", format!("other; a=\"{name}\""));
        headers.add("CDN-LOOP", name.to_ascii_uppercase());
        assert_eq!(passed(&headers, &mark), 2);
        let mut question = Headers::new();
        question.add("CDN-Loop", "forged");
        note(&mut question, &mark, 2);
        note(&mut question, &mark, 2);
        assert_eq!((passed(&question, &mark), question.len()), (2, 3));
        carry(&headers, &mut question);
        assert_eq!((passed(&question, &mark), question.len()), (2, 3));
    }
}
