//! Texts for people have no gaps: where the backslash at the end of a line is lost, the next line comes with all it is indented by.

use std::path::Path;

use super::short;
use super::source::{Source, sources};

/// Places of texts that lost a line break.
pub fn problems(root: &Path) -> Vec<String> {
    let told = |source: &Source| {
        let path = short(root, &source.path);
        let lines = gaps(source);
        lines
            .map(|line| format!("{path}:{line}: there is a gap in this text; end the line before it with a backslash"))
            .collect::<Vec<_>>()
    };
    sources(root).iter().flat_map(told).collect()
}

fn gaps(source: &Source) -> impl Iterator<Item = usize> + '_ {
    source.literals().flat_map(move |(start, text)| {
        let gaps = text.match_indices(GAP).filter(|(at, _)| {
            let (before, rest) = (text[..*at].chars().next_back(), text[at + GAP.len()..].trim_start_matches(' '));
            before.is_some_and(|c| c.is_alphanumeric() || ".,;:)".contains(c)) && rest.starts_with(char::is_alphabetic)
        });
        gaps.map(move |(at, _)| source.code[..start + at].matches('\n').count() + 1)
    })
}

/// Tables for people are narrower.
const GAP: &str = "            ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_lost_a_line_break_is_told() {
        let gap = " ".repeat(20);
        let code = format!(
            "fn f() {{\n say(\"the caller{gap}belongs to another\");\n say(\"one \\\n{gap}line\");\n let a ={gap}b;\n \
             say(\"verdict    pass\");\n}}\n"
        );
        assert_eq!(gaps(&Source::new("a.rs".into(), &code)).collect::<Vec<_>>(), [2]);
    }
}
