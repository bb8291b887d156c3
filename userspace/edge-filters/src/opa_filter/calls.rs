//! The text of a policy looked through without reading all of the language: what is refused when a document comes in, and calls that are
//! written in another way for the engine.
//!
//! The engine goes into itself for each bracket and each operator, and reads brackets in brackets twice: without a bound a policy ends the
//! process, or is never read.
//! The engine finds out that a function is not there when it comes to it, which may be at a request of a kind that comes once a month. And it
//! knows the older way to call one, with a last argument that what comes of it is put into, only of functions of its own.

use std::borrow::Cow;
use std::ops::Range;

/// Functions of OPA that policies here do without, or what their names begin with where that ends in a dot; and what to do instead.
const ABSENT: &[(&str, &str)] = &[
    ("http.send", "a policy does not wait for others; ask them with a ForwardAuth or a RemoteFilter in front of it"),
    (
        "net.lookup_ip_addr",
        "a policy does not wait for name servers; compare with addresses, as net.cidr_contains does",
    ),
    ("opa.runtime", "there is no OPA whose settings it could tell"),
    ("rego.", "the document holds all there is of the policy"),
    ("graph.reachable_paths", "a few dozen nodes have more paths than a machine has room for; use graph.reachable"),
    ("graphql.", "read the body with json.unmarshal, and look at its fields"),
    ("providers.aws.", "sign requests with the Validator's signature, or at the backend"),
    ("crypto.parse_private_keys", "private keys are no part of a policy; io.jwt.encode_sign takes a JWK"),
    ("crypto.x509.parse_keypair", "private keys are no part of a policy"),
    ("crypto.x509.parse_rsa_private_key", "private keys are no part of a policy; io.jwt.encode_sign takes a JWK"),
    ("json.match_schema", "look at the fields one by one"),
    ("json.verify_schema", "look at the fields one by one"),
    ("json.patch", "use object.union, object.remove and json.filter"),
    ("yaml.", "use JSON, and json.unmarshal"),
    ("regex.globs_match", "use regex.match or glob.match"),
    ("strings.render_template", "use sprintf"),
    ("uri.", "input.request has the parts of the request's own; take others apart with split and regex.match"),
];

/// `line 3, column 5: http.send is not here: …` where a policy calls one.
pub(super) fn call_of_absent(policy: &str) -> Option<String> {
    let mut at = 0;
    while let Some(call) = next_call(policy, at) {
        let name = &policy[call.clone()];
        let is = |known: &str| if known.ends_with('.') { name.starts_with(known) } else { name == known };
        if let Some((_, why)) = ABSENT.iter().find(|(known, _)| is(known)) {
            return Some(format!("{}: {name} is not here: {why}", place(policy, call.start)));
        }
        at = call.end;
    }
    None
}

/// `line 3, column 5: …` where an expression has more brackets in one another, or more operators, than the engine can be given.
pub(super) fn too_deep(policy: &str) -> Option<String> {
    let bytes = policy.as_bytes();
    let is_operator = |byte: u8| b"+-*/%&|<>=!.".contains(&byte);
    let (mut at, mut depth, mut chain, mut dots) = (0, 0usize, 0usize, 0usize);
    // The last byte that says something, and whether a line has ended since.
    let (mut last, mut has_ended) = (b';', false);
    while let Some(&byte) = bytes.get(at) {
        let (here, step) = (at, behind(bytes, at));
        at = step;
        match byte {
            b'\n' => has_ended = true,
            b' ' | b'\t' | b'\r' | b'#' => {}
            byte => {
                if has_ended && !is_operator(last) && !is_operator(byte) && byte != b'[' {
                    (chain, dots) = (0, 0);
                }
                has_ended = false;
                match byte {
                    b'(' | b'[' | b'{' => {
                        depth += 1;
                        // What is asked of what came of it, and of that again.
                        dots += usize::from(byte == b'[');
                    }
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    b',' | b';' => (chain, dots) = (0, 0),
                    b'.' => dots += 1,
                    byte if is_operator(byte) => (chain, dots) = (chain + 1, 0),
                    _ => {}
                }
                last = byte;
                if depth > DEPTH_MAX || chain > CHAIN_MAX || dots > CHAIN_MAX {
                    let what = format!("more than {DEPTH_MAX} brackets in one another, or {CHAIN_MAX} operators");
                    return Some(format!("{}: {what}: give parts of it rules of their own", place(policy, here)));
                }
            }
        }
    }
    None
}

/// Brackets in one another.
const DEPTH_MAX: usize = 12;

/// Operators of one expression.
const CHAIN_MAX: usize = 128;

fn place(policy: &str, at: usize) -> String {
    let before = &policy[..at];
    let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1) + 1;
    format!("line {}, column {column}", before.matches('\n').count() + 1)
}

/// The same policy with `[_, claims, _] = io.jwt.decode(token)` for `io.jwt.decode(token, [_, claims, _])`. `arguments` says how many a
/// function takes.
pub(super) fn outputs_in_front(policy: &str, arguments: impl Fn(&str) -> Option<u8>) -> Cow<'_, str> {
    let mut written = String::new();
    let (mut at, mut kept) = (0, 0);
    while let Some(call) = next_call(policy, at) {
        at = call.end;
        let Some(most) = arguments(&policy[call.clone()]) else { continue };
        let Some((given, close)) = arguments_of(policy, call.end) else { continue };
        let (Some(last), true) = (given.last(), given.len() == usize::from(most) + 1) else { continue };
        let inside = match given.len() {
            1 => last.start..last.start,
            count => given[0].start..given[count - 2].end,
        };
        written.push_str(&policy[kept..call.start]);
        written.push_str(policy[last.clone()].trim());
        written.push_str(" = ");
        written.push_str(&policy[call]);
        written.push('(');
        written.push_str(&policy[inside]);
        written.push(')');
        (at, kept) = (close, close);
    }
    if kept == 0 {
        return policy.into();
    }
    written.push_str(&policy[kept..]);
    written.into()
}

/// The name of the next function that is called from a place on.
fn next_call(policy: &str, mut at: usize) -> Option<Range<usize>> {
    let bytes = policy.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        if !is_of_name(byte) {
            at = behind(bytes, at);
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|byte| is_of_name(**byte)).count();
        if bytes[end..].iter().find(|byte| !matches!(byte, b' ' | b'\t')) == Some(&b'(') {
            return Some(at..end);
        }
        at = end;
    }
    None
}

/// What stands between the commas of a call whose name ends at a place, and where the call ends.
fn arguments_of(policy: &str, name_end: usize) -> Option<(Vec<Range<usize>>, usize)> {
    let bytes = policy.as_bytes();
    let mut at = name_end + bytes[name_end..].iter().position(|byte| *byte == b'(')? + 1;
    let (mut given, mut start, mut depth) = (Vec::new(), at, 0);
    loop {
        match bytes.get(at)? {
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => {
                if !policy[start..at].trim().is_empty() {
                    given.push(start..at);
                }
                return Some((given, at + 1));
            }
            b')' | b']' | b'}' if depth == 0 => return None,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                given.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
        at = behind(bytes, at);
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}

/// Behind what begins at a place: a text, a comment, or a byte.
fn behind(bytes: &[u8], at: usize) -> usize {
    let to = |end: u8| bytes[at + 1..].iter().position(|byte| *byte == end);
    match bytes[at] {
        b'#' => to(b'\n').map_or(bytes.len(), |end| at + 1 + end),
        b'`' => to(b'`').map_or(bytes.len(), |end| at + 2 + end),
        b'"' => {
            let mut end = at + 1;
            while let Some(byte) = bytes.get(end) {
                match byte {
                    b'"' => return end + 1,
                    b'\n' => return end,
                    b'\\' => end += 2,
                    _ => end += 1,
                }
            }
            bytes.len()
        }
        _ => at + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_what_looks_like_them() {
        let found = call_of_absent("package http\nallow {\n  x := http.send ({})\n}").unwrap();
        assert!(found.starts_with("line 3, column 8: http.send is not here: "), "{found}");
        assert!(found.contains("ForwardAuth"), "{found}");
        let found = call_of_absent("a { `\n\nx` == 1; yaml.unmarshal(\"\") }").unwrap();
        assert!(found.starts_with("line 3, column 10: yaml.unmarshal "), "{found}");
        for other in [
            "# http.send(1)",
            "a { \"http.send(1)\" == \"\\\"http.send(2)\" }",
            "a { `http.send(\n1)` }",
            "package http.send",
            "a { data.http.send(1) }",
            "a { http.sender(1) }",
            "a { input.opa.runtime }",
            "a { rego_v1(1) }",
            "\"never ended\\",
            "`never ended",
        ] {
            assert_eq!(call_of_absent(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_deep_is_told_from_what_is_long() {
        let many = |piece: &str, count: usize| format!("package http\nallow = {}1", piece.repeat(count));
        for piece in ["(", "[", "{", "{\"a\":", "[x | "] {
            assert_eq!(too_deep(&many(piece, DEPTH_MAX)), None, "{piece}");
            let found = too_deep(&many(piece, DEPTH_MAX + 1)).unwrap();
            assert!(found.starts_with("line 2, column ") && found.contains("rules of their own"), "{found}");
        }
        for piece in ["-", "- ", "x.", "x[1]", "1 + ", "1\n+\n", "1 +\n", "1 == "] {
            assert!(too_deep(&many(piece, CHAIN_MAX + 1)).is_some(), "{piece}");
            assert_eq!(too_deep(&many(piece, CHAIN_MAX / 2 - 1)), None, "{piece}");
        }
        assert!(too_deep(&format!("x{}", "[1]".repeat(CHAIN_MAX + 1))).is_some());
        for long in ["1, ", "a.b + c.d\n", "f(x)[1]; ", "# [[[\n", "\"[[[[\"\n", "`[[\n`\n", "x := [1, {\"a\": (2)}]\n"]
        {
            assert_eq!(too_deep(&long.repeat(1_000)), None, "{long}");
        }
    }

    #[test]
    fn what_comes_of_a_call_is_put_in_front() {
        let arguments = |name: &str| match name {
            "f" => Some(1),
            "now" => Some(0),
            _ => None,
        };
        for (policy, written) in [
            ("f(a, [x, y])", "[x, y] = f(a)"),
            ("not f( g(a, \"),(\"), x )", "not x = f( g(a, \"),(\"))"),
            ("{x | f({\"a\": [1, 2]}, x)}", "{x | x = f({\"a\": [1, 2]})}"),
            ("now(x); x > 1", "x = now(); x > 1"),
            ("f(a, # (\n `)`)", "# (\n `)` = f(a)"),
        ] {
            assert_eq!(outputs_in_front(policy, arguments), written, "{policy}");
        }
        for same in ["x := f(a)", "f(a, b, c)", "g(a, b)", "now()", "f(a, (b", "f(a, b]", "# f(a, b)", "x.f(a, b)", ""]
        {
            assert_eq!(outputs_in_front(same, arguments), same);
        }
    }
}
