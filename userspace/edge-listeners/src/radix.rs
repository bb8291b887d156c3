//! Paths with parameters, for `routerKind: RadixTree`: one tree per rule, so that a path costs its own length and not the
//! number of routes.
//!
//! ```text
//! /users/me             static text
//! /users/{id}           one parameter: up to the next literal character of the pattern, within its segment
//! /users/{id:[0-9]+}    as above, and the whole of it must match
//! /files/*              everything after the slash, perhaps nothing; only at the end
//! ```
//!
//! At each place static text is tried before parameters with an expression, these before plain ones, and `*` comes last; when
//! a choice leads nowhere the next one is tried. Routes with the same pattern are offered in the order they were written.

use regex::Regex;
use std::sync::Arc;

/// Name under which `rewriteTarget` and `setHeaders` find what `*` matched.
pub const WILDCARD: &str = "EG_WILDCARD";

/// Parameters of a path by name, in the order of the pattern.
pub type Captures = Vec<(Arc<str>, String)>;

/// The paths of a rule.
#[derive(Debug, Default)]
pub struct Tree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Static text by which it goes on; no two begin with the same byte.
    texts: Vec<(Vec<u8>, Node)>,
    expressions: Vec<Expression>,
    /// By the byte that ends the parameter; `/` last, as the one that reaches farthest.
    parameters: Vec<(u8, Node)>,
    /// Routes whose pattern ends here, and those that take whatever comes.
    ends: Vec<Leaf>,
    wildcards: Vec<Leaf>,
}

#[derive(Debug)]
struct Expression {
    source: String,
    regex: Regex,
    end: u8,
    node: Node,
}

#[derive(Debug)]
struct Leaf {
    route: usize,
    names: Vec<Arc<str>>,
}

impl Tree {
    /// Adds the path of `route`. It has passed its static checks; what is wrong all the same is said.
    pub fn insert(&mut self, path: &str, route: usize) -> Result<(), String> {
        let mut node = &mut self.root;
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut rest = path;
        loop {
            let special = rest.find(['{', '*']).unwrap_or(rest.len());
            node = node.text(proto_http::path::canonical_part(&rest[..special]).as_bytes());
            rest = &rest[special..];
            if rest.is_empty() {
                node.ends.push(Leaf { route, names });
                return Ok(());
            }
            if rest.starts_with('*') {
                if rest.len() > 1 {
                    return Err(format!("{path}: a * stands only at the end"));
                }
                names.push(WILDCARD.into());
                node.wildcards.push(Leaf { route, names });
                return Ok(());
            }
            let close = closing_brace(rest).ok_or_else(|| format!("{path}: a brace is not closed"))?;
            let (name, source) = rest[1..close].split_once(':').unwrap_or((&rest[1..close], ""));
            names.push(name.into());
            rest = &rest[close + 1..];
            let end = match rest.as_bytes().first() {
                None | Some(b'{' | b'*') => b'/',
                Some(byte) => *byte,
            };
            node = if source.is_empty() { node.parameter(end) } else { node.expression(source, end)? };
        }
    }

    /// The first route, by the order in the module doc, that `takes` it.
    pub fn find(&self, path: &str, takes: &mut dyn FnMut(usize) -> bool) -> Option<(usize, Captures)> {
        let mut values = Vec::new();
        let leaf = self.root.walk(path.as_bytes(), &mut values, takes)?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Some((leaf.route, leaf.names.iter().cloned().zip(values.into_iter().map(text)).collect()))
    }
}

impl Node {
    /// The node behind static text, which is split where another begins alike.
    fn text(&mut self, text: &[u8]) -> &mut Node {
        let Some(first) = text.first() else { return self };
        let Some(at) = self.texts.iter().position(|(known, _)| known[0] == *first) else {
            self.texts.push((text.to_vec(), Node::default()));
            let last = self.texts.len() - 1;
            return &mut self.texts[last].1;
        };
        let common = self.texts[at].0.iter().zip(text).take_while(|(a, b)| a == b).count();
        let (known, node) = &mut self.texts[at];
        if common < known.len() {
            let tail = known.split_off(common);
            let below = std::mem::take(node);
            node.texts.push((tail, below));
        }
        self.texts[at].1.text(&text[common..])
    }

    fn parameter(&mut self, end: u8) -> &mut Node {
        let at = self.parameters.iter().position(|(e, _)| *e == end).unwrap_or_else(|| {
            let at = if end == b'/' { self.parameters.len() } else { 0 };
            self.parameters.insert(at, (end, Node::default()));
            at
        });
        &mut self.parameters[at].1
    }

    fn expression(&mut self, source: &str, end: u8) -> Result<&mut Node, String> {
        let at = match self.expressions.iter().position(|e| e.source == source && e.end == end) {
            Some(at) => at,
            None => {
                let regex = base_model::regexp::compile(&format!("^(?:{source})$"))?;
                self.expressions.push(Expression { source: source.to_owned(), regex, end, node: Node::default() });
                self.expressions.len() - 1
            }
        };
        Ok(&mut self.expressions[at].node)
    }

    fn walk<'t, 'p>(
        &'t self,
        path: &'p [u8],
        values: &mut Vec<&'p [u8]>,
        takes: &mut dyn FnMut(usize) -> bool,
    ) -> Option<&'t Leaf> {
        let kept = values.len();
        if let Some(first) = path.first() {
            if let Some((text, node)) = self.texts.iter().find(|(text, _)| text[0] == *first)
                && let Some(rest) = path.strip_prefix(&text[..])
                && let Some(found) = node.walk(rest, values, takes)
            {
                return Some(found);
            }
            let expressions = self.expressions.iter().map(|e| (Some(&e.regex), e.end, &e.node));
            let parameters = self.parameters.iter().map(|(end, node)| (None, *end, node));
            for (regex, end, node) in expressions.chain(parameters) {
                let Some(length) = parameter_length(path, end) else { continue };
                let (value, rest) = path.split_at(length);
                let fits = match regex {
                    Some(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
                    None => !value.contains(&b'/'),
                };
                if length == 0 || !fits {
                    continue;
                }
                values.push(value);
                if let Some(found) = node.walk(rest, values, takes) {
                    return Some(found);
                }
                values.truncate(kept);
            }
        } else if let Some(leaf) = self.ends.iter().find(|leaf| takes(leaf.route)) {
            return Some(leaf);
        }
        let leaf = self.wildcards.iter().find(|leaf| takes(leaf.route))?;
        values.push(path);
        Some(leaf)
    }
}

/// Puts captures in the place of `{name}`; other braces stay.
pub fn expand(target: &str, captures: &Captures) -> String {
    let mut out = String::with_capacity(target.len() + 16);
    let mut rest = target;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let named = rest[open + 1..].find('}').map(|close| &rest[open + 1..open + 1 + close]);
        let value = named.and_then(|name| captures.iter().find(|(n, _)| &**n == name));
        match (named, value) {
            (Some(name), Some((_, value))) => {
                out.push_str(value);
                rest = &rest[open + name.len() + 2..];
            }
            _ => {
                out.push('{');
                rest = &rest[open + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Where the brace at the start of the text is closed; braces of an expression inside count.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    text.bytes().position(|b| {
        match b {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })
}

/// A parameter ends before its end byte; one that a slash ends may also be the last of the path.
fn parameter_length(path: &[u8], end: u8) -> Option<usize> {
    let found = path.iter().position(|b| *b == end);
    if end == b'/' { Some(found.unwrap_or(path.len())) } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: &[&str] = &[
        "/",
        "/users",
        "/users/me",
        "/users/{id:[0-9]+}",
        "/users/{name}",
        "/users/{name}/posts",
        "/users/{name}/posts/{post}",
        "/users/me/posts/latest",
        "/files/*",
        "/files/readme.md",
        "/files/{dir}/index",
        "/a/{x}-{y}",
        "/a/{x}.json",
        "/a/{x}",
        "/v{version:[0-9]{1,2}}/items",
        "/v{version}/items",
        "/static",
        "/stat/{kind}",
        "/deep/a/b/c/d",
        "/deep/{p}/b/x",
        "/deep/*",
        "/日/{名}",
        "/tag/{t:[a-z/]+}!",
        "/end/{last}/",
    ];

    /// `None`: no route; else the pattern and the values in order.
    fn check(path: &str, expected: Option<(&str, &[&str])>) {
        let mut tree = Tree::default();
        PATHS.iter().enumerate().for_each(|(i, p)| tree.insert(p, i).unwrap());
        let found = tree.find(path, &mut |_| true);
        let found = found
            .map(|(route, captures)| (PATHS[route], captures.into_iter().map(|(_, value)| value).collect::<Vec<_>>()));
        let expected = expected.map(|(p, values)| (p, values.iter().map(ToString::to_string).collect::<Vec<_>>()));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_find_their_routes() {
        check("/", Some(("/", &[])));
        check("", None);
        check("/users", Some(("/users", &[])));
        check("/user", None);
        check("/users/", None);
        check("/users/me", Some(("/users/me", &[])));
        check("/users/men", Some(("/users/{name}", &["men"])));
        check("/users/m", Some(("/users/{name}", &["m"])));
        check("/users/42", Some(("/users/{id:[0-9]+}", &["42"])));
        check("/users/42a", Some(("/users/{name}", &["42a"])));
        check("/users/42/posts", Some(("/users/{name}/posts", &["42"])));
        check("/users/me/posts", Some(("/users/{name}/posts", &["me"])));
        check("/users/me/posts/latest", Some(("/users/me/posts/latest", &[])));
        check("/users/me/posts/7", Some(("/users/{name}/posts/{post}", &["me", "7"])));
        check("/users/you/posts/7", Some(("/users/{name}/posts/{post}", &["you", "7"])));
        check("/users/you/posts/7/x", None);
        check("/users//posts", None);
        check("/files", None);
        check("/files/", Some(("/files/*", &[""])));
        check("/files/a/b", Some(("/files/*", &["a/b"])));
        check("/files/readme.md", Some(("/files/readme.md", &[])));
        check("/files/readme.mdx", Some(("/files/*", &["readme.mdx"])));
        check("/files/docs/index", Some(("/files/{dir}/index", &["docs"])));
        check("/files/docs/index2", Some(("/files/*", &["docs/index2"])));
        check("/a/1-2", Some(("/a/{x}-{y}", &["1", "2"])));
        check("/a/1-", Some(("/a/{x}", &["1-"])));
        check("/a/-2", Some(("/a/{x}", &["-2"])));
        check("/a/b.json", Some(("/a/{x}.json", &["b"])));
        check("/a/b.jso", Some(("/a/{x}", &["b.jso"])));
        check("/a/b/c-d", None);
        check("/v12/items", Some(("/v{version:[0-9]{1,2}}/items", &["12"])));
        check("/v123/items", Some(("/v{version}/items", &["123"])));
        check("/v/items", None);
        check("/static", Some(("/static", &[])));
        check("/stat/ic", Some(("/stat/{kind}", &["ic"])));
        check("/stati", None);
        check("/deep/a/b/c/d", Some(("/deep/a/b/c/d", &[])));
        check("/deep/a/b/x", Some(("/deep/{p}/b/x", &["a"])));
        check("/deep/a/b/c/e", Some(("/deep/*", &["a/b/c/e"])));
        check("/日/本", Some(("/日/{名}", &["本"])));
        check("/曜/本", None);
        check("/tag/x/y!", Some(("/tag/{t:[a-z/]+}!", &["x/y"])));
        check("/end/x/", Some(("/end/{last}/", &["x"])));
        check("/end/x", None);
    }

    #[test]
    fn routes_of_one_path_are_offered_in_order_and_then_those_of_others() {
        let mut tree = Tree::default();
        for (route, path) in ["/x/{a}", "/x/y", "/x/{b}", "/x/*", "/x/y"].iter().enumerate() {
            tree.insert(path, route).unwrap();
        }
        let mut offered = Vec::new();
        assert!(
            tree.find("/x/y", &mut |route| {
                offered.push(route);
                false
            })
            .is_none()
        );
        assert_eq!(offered, [1, 4, 0, 2, 3]);
        let (route, captures) = tree.find("/x/y", &mut |route| route == 2).unwrap();
        assert_eq!((route, &*captures[0].0, captures[0].1.as_str()), (2, "b", "y"));
    }

    #[test]
    fn targets_take_captures() {
        let captures = vec![("id".into(), "{name}".to_owned()), (WILDCARD.into(), "a/b".to_owned())];
        for (target, expected) in [
            ("/v2/{id}", "/v2/{name}"),
            ("/{EG_WILDCARD}/{id}", "/a/b/{name}"),
            ("/{unknown}/{", "/{unknown}/{"),
            ("/{{id}}", "/{{name}}"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(expand(target, &captures), expected, "{target}");
        }
    }
}
