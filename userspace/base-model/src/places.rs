//! Where in a text the values of its documents stand, so that what is wrong with one is shown by line and column.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use crate::yaml;

/// A line and a column, both from 1. The column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The places of one document.
#[derive(Debug)]
pub struct Places {
    root: Tree,
    start: Option<Position>,
    lines_above: u64,
}

/// The places of every document of a text, in the order of [`yaml::parse_documents`]. Nothing for a text that is none, or whose places cannot
/// be told apart from its documents'.
pub fn places(text: &str) -> Vec<Places> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Tree>>(text, yaml::options());
    let documents = documents.unwrap_or_default().into_iter();
    documents
        .filter(|document| !matches!(document.value, Tree::Null))
        .map(|document| Places { start: position(document.referenced), root: document.value, lines_above: 0 })
        .collect()
}

fn position(location: serde_saphyr::Location) -> Option<Position> {
    (location.line() > 0).then(|| Position { line: location.line(), column: location.column() })
}

impl Places {
    /// In a text that has so many lines before the one that was read.
    pub fn below(mut self, lines: u64) -> Self {
        self.lines_above += lines;
        self
    }

    /// Where the value of a problem's path stands; of one that is missing, what it is missing in. With `key` the place of its key, where it
    /// has one.
    pub fn find(&self, path: &str, key: bool) -> Option<Position> {
        let (mut tree, mut place) = (&self.root, self.start);
        for step in steps(path) {
            let (inside, found) = match (tree, &step) {
                (Tree::List(items), Step::Nth(n)) => {
                    let Some(item) = items.get(*n) else { break };
                    (&item.value, position(item.referenced))
                }
                (Tree::Map(entries), Step::Key(name)) => {
                    let exact = entries.iter().find(|(key, _)| key.value == *name);
                    // Keys match without regard to case.
                    let found = exact.or_else(|| entries.iter().find(|(key, _)| key.value.eq_ignore_ascii_case(name)));
                    let Some((name, value)) = found else { break };
                    (&value.value, position(if key { name.referenced } else { value.referenced }))
                }
                _ => break,
            };
            tree = inside;
            place = found.or(place);
        }
        place.map(|place| Position { line: place.line + self.lines_above, ..place })
    }
}

/// A document, as far as its places are concerned.
#[derive(Debug)]
enum Tree {
    Null,
    Scalar,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Looks;

        impl<'de> Visitor<'de> for Looks {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_none<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
                Tree::deserialize(deserializer)
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
                Tree::deserialize(deserializer)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Tree::Map(map))
            }
            fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<Tree, A::Error> {
                data.variant::<IgnoredAny>().map(|_| Tree::Scalar)
            }
        }
        deserializer.deserialize_any(Looks)
    }
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Nth(usize),
}

/// `filters[2].headers["X y"]` in its steps; what cannot be read ends it.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(after) = rest.strip_prefix("[\"") {
            let Some((name, left)) = quoted_end(after).map(|end| (&after[..end], &after[end + 1..])) else { break };
            let Ok(name) = serde_json::from_str::<String>(&format!("\"{name}\"")) else { break };
            steps.push(Step::Key(name));
            rest = left.strip_prefix(']').unwrap_or_default();
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some((number, left)) = after.split_once(']') else { break };
            let Ok(number) = number.parse() else { break };
            steps.push(Step::Nth(number));
            rest = left;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

/// Where a text in quotes ends.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{at, nth};

    #[test]
    fn paths_are_read_as_they_are_written() {
        let path = at(&at(&nth(&at("", "filters"), 2), "X \"y\".z"), "a");
        let key = |name: &str| Step::Key(name.to_owned());
        assert_eq!(steps(&path), [key("filters"), Step::Nth(2), key("X \"y\".z"), key("a")], "{path}");
        assert_eq!(steps(""), []);
        for broken in ["a[", "a[x]", "a[\"b", "a[\"\\q\"]"] {
            assert_eq!(steps(broken), [key("a")], "{broken}");
        }
    }

    #[test]
    fn values_and_keys_have_places_in_any_style() {
        let text = "# first\nname: a\nRules:\n- host: x\n  paths: [{path: /a, 100: b}]\n---\n\n--- # second\n\"kü\": {a: 1,\n  b: [2,\n   3]}\nanchor: &x\n  in: 1\nalias: *x\ntext: |\n  one\n  two\n";
        let all = places(text);
        assert_eq!(all.len(), 2, "as documents are counted");
        for (document, path, value, key) in [
            (0, "name", (2, 7), (2, 1)),
            (0, "rules[0].host", (4, 9), (4, 3)),
            (0, "rules[0].paths[0].path", (5, 18), (5, 12)),
            (0, "rules[0].paths[0].100", (5, 27), (5, 22)),
            (0, "rules[0].paths[1]", (5, 10), (5, 3)),
            (0, "rules[0].none.at.all", (4, 3), (4, 3)),
            (0, "", (2, 1), (2, 1)),
            (1, "kü.a", (9, 11), (9, 8)),
            (1, "kü.b[1]", (11, 4), (11, 4)),
            // What an alias stands for is where it is used.
            (1, "alias.in", (14, 8), (14, 8)),
            (1, "alias", (14, 8), (14, 1)),
            (1, "text", (16, 3), (15, 1)),
        ] {
            let told = |key| all[document].find(path, key).map(|place| (place.line, place.column));
            assert_eq!((told(false), told(true)), (Some(value), Some(key)), "{path}");
        }
        let json = places("{\n  \"a\": {\n    \"b\": 5\n  }\n}");
        assert_eq!(json[0].find("a.b", false).unwrap().to_string(), "3:10");
        for none in ["", "a: [", "a: 1\na: 2"] {
            assert!(places(none).is_empty(), "{none}");
        }
    }
}
