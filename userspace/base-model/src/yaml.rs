//! YAML in and out, as one tree of values; JSON is read as the YAML it is.
//!
//! Key order is kept, a key given twice is an error, plain `yes`/`no`/`on`/`off` stay text (the decoder turns them into
//! booleans where a boolean is wanted), and nesting, aliases and size are bounded before anything is built.

use std::fmt;

use serde_json::Value;

/// Where and why a text is not YAML. Lines and columns count from 1; 0 where the place is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    pub line: u64,
    pub column: u64,
    pub message: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for YamlError {}

/// Every document of a text, in order; documents that hold nothing are left out.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, YamlError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(YamlError {
            line: 0,
            column: 0,
            message: format!("{} bytes of YAML; at most {TEXT_BYTES_MAX} are read, split the file", text.len()),
        });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options()).map_err(yaml_error)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Some of the documents of a text, read by themselves.
#[derive(Debug)]
pub struct Part<'t> {
    pub text: &'t str,
    /// How many lines of the whole stand above it.
    pub lines_above: u64,
    pub documents: Result<Vec<Value>, YamlError>,
}

/// Every document of a text, as [`parse_documents`] has them. Where that has none because one of them is no YAML, each is read by itself, so
/// that what is wrong with one neither hides what is wrong with another nor takes it away. Lines are those of the whole text.
pub fn parse_parts(text: &str) -> Vec<Part<'_>> {
    let whole = parse_documents(text);
    // A text that is too large is not looked into.
    if whole.is_ok() || text.len() > TEXT_BYTES_MAX {
        return vec![Part { text, lines_above: 0, documents: whole }];
    }
    let parts: Vec<Part<'_>> = split(text)
        .into_iter()
        .map(|(lines_above, text)| {
            let documents = parse_documents(text).map_err(|error| error.below(lines_above));
            Part { text, lines_above, documents }
        })
        .collect();
    // What is wrong may be with all of them together.
    match parts.iter().any(|part| part.documents.is_err()) {
        true => parts,
        false => vec![Part { text, lines_above: 0, documents: whole }],
    }
}

impl YamlError {
    /// In a text that has so many lines before the one that was read.
    fn below(mut self, lines: u64) -> Self {
        if self.line > 0 {
            self.line += lines;
        }
        self
    }
}

/// The documents of a text, as their marks part them, and how many lines are above each. `---` and `...` at the beginning of a line are
/// marks wherever they stand, in quoted and block texts too (YAML 1.2, 9.1.2).
fn split(text: &str) -> Vec<(u64, &str)> {
    let is_mark = |line: &str, mark: &str| {
        line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut parts = Vec::new();
    let (mut start, mut above, mut lines, mut at) = (0, 0, 0, 0);
    // Directives and comments belong to the document that they stand before.
    let (mut has_begun, mut has_content) = (false, false);
    for line in text.split_inclusive('\n') {
        let begins = is_mark(line, "---");
        if begins && has_content {
            parts.push((above, &text[start..at]));
            (start, above, has_content) = (at, lines, false);
        }
        has_begun |= begins;
        at += line.len();
        lines += 1;
        let rest = if begins { &line[3..] } else { line }.trim();
        has_content |= !rest.is_empty() && !rest.starts_with('#') && (has_begun || !line.starts_with('%'));
        if is_mark(line, "...") {
            parts.push((above, &text[start..at]));
            (start, above) = (at, lines);
            (has_begun, has_content) = (false, false);
        }
    }
    if has_content || parts.is_empty() {
        parts.push((above, &text[start..]));
    }
    parts
}

/// The one document of a text.
pub fn parse_document(text: &str) -> Result<Value, YamlError> {
    let mut documents = parse_documents(text)?;
    match documents.len() {
        1 => Ok(documents.remove(0)),
        0 => Err(YamlError { line: 1, column: 1, message: "the document is empty".to_owned() }),
        n => Err(YamlError {
            line: 0,
            column: 0,
            message: format!("{n} documents where one is wanted; send them one by one"),
        }),
    }
}

/// Block-style YAML, keys in the order they have.
pub fn to_string(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options)
        .unwrap_or_else(|_| serde_json::to_string_pretty(value).unwrap_or_default())
}

pub(crate) fn options() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_depth: DEPTH_MAX,
        max_nodes: NODES_MAX,
        max_documents: NODES_MAX,
        max_events: 4 * NODES_MAX,
        max_aliases: 1_000,
        max_anchors: 1_000,
        max_total_scalar_bytes: TEXT_BYTES_MAX,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        legacy_octal_numbers: false,
        leading_zero_numbers_as_strings: true,
    }
}

fn yaml_error(error: serde_saphyr::Error) -> YamlError {
    use serde_saphyr::Error;
    let plain = error.without_snippet();
    let (line, column) = plain.location().map_or((0, 0), |place| (place.line(), place.column()));
    let message = match plain {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {} is given twice in one mapping; keep one of them", Value::from(key.as_str()))
        }
        Error::DuplicateMappingKey { .. } => "a key is given twice in one mapping; keep one of them".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!(
                "too deep or too big: at most {DEPTH_MAX} levels and {NODES_MAX} values, aliases counted as what they repeat"
            )
        }
        Error::UnknownAnchor { .. } => "an alias (*) names an anchor (&) that does not stand before it".to_owned(),
        // The crate's messages for people; those for its programmers name its options and types.
        other => other.render_with_formatter(&serde_saphyr::UserMessageFormatter),
    };
    // The place is told apart from the message, so that editors and terminals can show it their own way.
    let message = message.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or(message).to_owned();
    YamlError { line, column, message }
}

/// Deeper documents are mistakes or attacks; the deepest kind users write today nests about a dozen levels.
const DEPTH_MAX: usize = 64;
/// Bounds memory: a node costs up to a few hundred bytes, so about 200 MB at the very worst.
const NODES_MAX: usize = 1_000_000;
/// As large as the largest request the admin API takes.
const TEXT_BYTES_MAX: usize = 10 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn key_order_and_scalars() {
        let value = parse_document("z: 1\na: yes\nm: on\nb: true\nf: 1.5\nn: ~\ns: '5'\nt: 0123\nu: \"x\"").unwrap();
        assert_eq!(
            serde_json::to_string(&value).unwrap(),
            r#"{"z":1,"a":"yes","m":"on","b":true,"f":1.5,"n":null,"s":"5","t":"0123","u":"x"}"#
        );
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(
            parse_document(r#"{"a": [1, {"b": "\u00e9\n"}], "c": null}"#).unwrap(),
            json!({"a": [1, {"b": "é\n"}], "c": null})
        );
        assert_eq!(parse_document("{\n\t\"a\": 1\n}").unwrap(), json!({"a": 1}));
    }

    #[test]
    fn thousands_of_documents() {
        assert_eq!(parse_documents(&"---\na: 1\n".repeat(5_000)).unwrap().len(), 5_000);
    }

    #[test]
    fn several_documents() {
        let documents = parse_documents("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        assert_eq!(documents, [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse_documents("").unwrap(), Vec::<Value>::new());
        assert!(parse_document("a: 1\n---\nb: 1").unwrap_err().message.contains("2 documents"));
    }

    #[test]
    fn a_document_that_is_none_leaves_the_others_as_they_are() {
        let text = "a: 1\n---\nb: [1\n--- # the third\n%YAML is: text\n---\n'c\n\nd'\n...\n# four\n%YAML 1.2\n---\ne: |\n  x\n ---\n---\nf: 1\nf: 2\n";
        let parts = parse_parts(text);
        let told = |part: &Part<'_>| match &part.documents {
            Ok(documents) => serde_json::to_string(documents).unwrap(),
            Err(error) => format!("{}:{}", error.line, error.column),
        };
        let found: Vec<(u64, String)> = parts.iter().map(|part| (part.lines_above, told(part))).collect();
        assert_eq!(found[0], (0, r#"[{"a":1}]"#.to_owned()));
        assert_eq!(found[1].0, 1);
        assert!(found[1].1.starts_with("3:") || found[1].1.starts_with("4:"), "{}", found[1].1);
        assert!(found.contains(&(5, r#"["c\nd"]"#.to_owned())), "{found:?}");
        assert_eq!(found.last(), Some(&(16, "19:1".to_owned())), "{found:?}");
        // All lines are in one of them.
        assert_eq!(parts.iter().map(|part| part.text).collect::<String>(), text);
        let good = parse_parts("a: 1\n---\nb: 2\n");
        assert_eq!((good.len(), good[0].documents.as_ref().unwrap().len()), (1, 2));
        assert_eq!(parse_parts(&"x".repeat(TEXT_BYTES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_key_given_twice_is_an_error_with_its_place() {
        let error = parse_document("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((error.line, error.column), (3, 1), "{error}");
        assert_eq!(
            error.to_string(),
            "line 3, column 1: the key \"a\" is given twice in one mapping; keep one of them"
        );
        let error = parse_document("rules:\n- host: a\n  paths: []\n  host: b\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 4, column 3: the key \"host\" is given twice in one mapping; keep one of them"
        );
    }

    #[test]
    fn messages_name_no_option_and_no_type_of_the_parser() {
        for text in [
            "a: 1\na: 2",
            "a: *x",
            "a: [1",
            "a: {b: }: c",
            "a: 'x",
            "\ta: 1",
            "a: b: c",
            "- a\nb: c",
            "a: !!binary x",
            "? [a]\n: b",
            "{a: 1}: b",
            "a: \"\\q\"",
            "&a *a",
            "%YAML 9\n---\na",
            "a: &x [*x]",
            "<<: 1",
            "<<: [1]",
            "a: !include b",
            &"[".repeat(200),
        ] {
            let Err(error) = parse_documents(text) else { continue };
            let message = error.to_string();
            for word in
                ["Options", "Policy", "serde", "Deserializ", "::", "_", "saphyr", "granit", "\n", "breach", "Rust"]
            {
                assert!(!message.contains(word), "{text:.20} gives {message}");
            }
        }
    }

    #[test]
    fn malformed_text_names_its_place() {
        let error = parse_document("flow:\n- filter: a\n  jumpIf: {x: [}\n").unwrap_err();
        assert_eq!(error.line, 3, "{error}");
        assert!(!error.message.contains('\n'), "{error}");
    }

    #[test]
    fn anchors_work_and_laughs_are_bounded() {
        assert_eq!(
            parse_document("a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}").unwrap(),
            json!({"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}})
        );
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        // Without the bound it would come to no end in anybody's time and memory.
        assert!(parse_document(&laughs).is_err());
        assert!(parse_document(&"[".repeat(100_000)).is_err());
        assert!(parse_document(&format!("{}1{}", "{a: ".repeat(70), "}".repeat(70))).is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            json!({"name": "a", "yes": "no", "n": 1, "f": 1.5, "empty": {}, "list": [], "multi": "a\nb\n", "t": "true", "num": "12", "z": "0123",
                   "nested": [{"a": [1, 2]}, {"b": null}], "colon": "a: b", "hash": "x # y", "star": "*x", "tilde": "~", "e": ""}),
            json!({"long": "word ".repeat(60)}),
            json!({"cert": "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", "tpl": "{{ .req.Host }}\n  indented\n\n"}),
        ] {
            let text = to_string(&value);
            assert_eq!(parse_document(&text).unwrap(), value, "{text}");
        }
    }

    fn any_tree() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "\\PC{0,20}",
            "[a-z:#\\-?!&*|>'\"%@`{}\\[\\], \\t\\n~=.0-9]{0,12}",
            "-----BEGIN\\n([a-zA-Z0-9+/]{1,60}\\n){1,3}-----END\\n{0,2}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((text.clone(), inner), 0..5)
                    .prop_map(|e| Value::Object(e.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_tree_is_read_back(tree in any_tree()) {
            let tree = json!({ "tree": tree });
            let text = to_string(&tree);
            prop_assert_eq!(parse_document(&text), Ok(tree), "{}", text);
        }

        #[test]
        fn json_of_any_tree_is_read(tree in any_tree()) {
            let tree = json!({ "tree": tree });
            prop_assert_eq!(parse_document(&tree.to_string()), Ok(tree));
        }

        #[test]
        fn no_text_panics(text in "[a-z:#\\-?!&*|>'\"%@{}\\[\\], \\t\\n0-9]{0,60}") {
            let _ = parse_documents(&text);
        }

        /// Read in parts, good documents are what they are together; bad ones leave no good one out that stands alone.
        #[test]
        fn parts_are_the_documents(pieces in proptest::collection::vec("(a: [0-9]|a: \\[|- b|'c|# d|%YAML 1\\.2|e: \\|\n  ---)", 0..6)) {
            let text = pieces.join("\n---\n");
            let parts = parse_parts(&text);
            if let Ok(whole) = parse_documents(&text) {
                let all: Vec<Value> = parts.into_iter().flat_map(|part| part.documents.unwrap_or_default()).collect();
                prop_assert_eq!(all, whole);
            } else {
                prop_assert!(parts.iter().any(|part| part.documents.is_err()));
                let good = parts.iter().filter_map(|part| part.documents.as_ref().ok()).map(Vec::len).sum::<usize>();
                let alone = pieces.iter().filter(|piece| piece.starts_with("a: ") && !piece.ends_with('[')).count();
                prop_assert!(good >= alone, "{} of {}", good, alone);
            }
        }
    }
}
