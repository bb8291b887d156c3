//! Names of kinds become links to their pages.

use base_model::explain::Explained;

/// `text` with a link wherever a kind other than `own` is named, as code or as a word that can be nothing else; `above` leads to the
/// folder of the pages. Blocks of code, titles and links stay as they are.
pub fn link(text: &str, own: &str, above: &str, all: &[Explained]) -> String {
    let page = |word: &str| all.iter().any(|known| known.kind == word && known.kind != own);
    let mut out = String::with_capacity(text.len() * 2);
    let mut in_block = false;
    for line in text.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        if in_block || is_fence || line.starts_with('#') {
            out.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find(|c: char| c == '`' || c == '[' || c.is_ascii_alphanumeric()) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let taken = match rest.as_bytes()[0] {
                b'`' => {
                    let end = rest[1..].find('`').map_or(rest.len(), |end| end + 2);
                    let code = &rest[..end];
                    match code.trim_matches('`') {
                        word if page(word) => out.push_str(&format!("[{code}]({above}{word}.md)")),
                        _ => out.push_str(code),
                    }
                    end
                }
                b'[' => {
                    let end = rest.find("](").and_then(|middle| rest[middle..].find(')').map(|end| middle + end + 1));
                    // A link is on one line.
                    let end = end.filter(|end| !rest[1..*end].contains('[')).unwrap_or(1);
                    out.push_str(&rest[..end]);
                    end
                }
                _ => {
                    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                    let word = &rest[..end];
                    match page(word) && is_name(word) {
                        true => out.push_str(&format!("[{word}]({above}{word}.md)")),
                        false => out.push_str(word),
                    }
                    end
                }
            };
            rest = &rest[taken..];
        }
        out.push_str(rest);
    }
    out
}

/// With several capitals it is no word of the language.
fn is_name(word: &str) -> bool {
    word.chars().filter(char::is_ascii_uppercase).count() > 1
}

/// Where the links of a text lead; blocks of code and code have none.
#[cfg(test)]
pub fn targets(text: &str) -> Vec<String> {
    let prose =
        text.split("```").step_by(2).flat_map(|part| part.split('`').step_by(2)).collect::<Vec<_>>().join("` `");
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.split('#').next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn kinds_are_linked_where_they_are_meant() {
        let known = |kind: &str| Explained { kind: kind.to_owned(), schema: Arc::default() };
        let all = ["Proxy", "HTTPServer", "Retry"].map(known);
        let text = "# HTTPServer\nA `Proxy` behind an HTTPServer; Proxy is a word, `Proxy.pools` code, [HTTPServer](x) a link, HTTPServers [Retry] `Retry`\n```yaml\nkind: HTTPServer\n```\n";
        assert_eq!(
            link(text, "Retry", "../", &all),
            "# HTTPServer\nA [`Proxy`](../Proxy.md) behind an [HTTPServer](../HTTPServer.md); Proxy is a word, `Proxy.pools` code, [HTTPServer](x) a link, HTTPServers [Retry] `Retry`\n```yaml\nkind: HTTPServer\n```\n"
        );
        assert_eq!(targets("[a](b.md#c) `[x](y)` [d](e)"), ["b.md", "e"]);
    }
}
