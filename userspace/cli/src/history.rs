//! `history`, `diff` and `rollback`: what the configuration was, what became of it, and the way back.

use std::collections::BTreeMap;

use base_model::yaml;
use hyper::Method;
use serde_json::Value;

use crate::arguments::Format;
use crate::documents::word;
use crate::objects::age;
use crate::output::{heads, print, structured, table};
use crate::server::{Server, segment};

pub async fn history(server: &Server, name: Option<&str>, format: Format) -> Result<(), String> {
    let query = name.map_or_else(String::new, |name| format!("?name={}", segment(name)));
    let changes = server.get(&format!("/history{query}")).await?;
    if format != Format::Default {
        structured(&changes, format);
        return Ok(());
    }
    let mut rows = vec![heads(&["VERSION", "AGE", "BY", "CHANGE"])];
    for change in changes.as_array().into_iter().flatten() {
        let objects: Vec<&Value> = change["objects"].as_array().into_iter().flatten().collect();
        let one =
            |object: &&Value| format!("{} {} {}", word(object, "change"), word(object, "kind"), word(object, "name"));
        let mut told: Vec<String> = objects.iter().take(TOLD_MAX).map(one).collect();
        if objects.len() > TOLD_MAX {
            told.push(format!("and {} more", objects.len() - TOLD_MAX));
        }
        rows.push(vec![
            change["version"].to_string(),
            age(word(change, "time")),
            word(change, "by").into(),
            told.join(", "),
        ]);
    }
    print(&table(&rows));
    Ok(())
}

/// From one version to another, or to what is there now.
pub async fn diff(server: &Server, from: u64, to: Option<u64>) -> Result<(), String> {
    let (before, after) = (at(server, Some(from)).await?, at(server, to).await?);
    let mut all = Vec::new();
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let text = |side: &BTreeMap<String, Value>| side.get(name).map(yaml::to_string).unwrap_or_default();
        let (old, new) = (text(&before), text(&after));
        if old == new {
            continue;
        }
        let kind = before.get(name).or(after.get(name)).map(|document| word(document, "kind")).unwrap_or_default();
        all.push(format!("{kind} {name}"));
        all.extend(changed_lines(&old, &new));
        all.push(String::new());
    }
    print(if all.is_empty() { "no difference".to_owned() } else { all.join("\n") }.trim_end());
    Ok(())
}

pub async fn rollback(server: &Server, version: u64) -> Result<(), String> {
    // What is changed by others from here on is not undone unseen.
    let about = server.call(Method::GET, "/about", String::new()).await?;
    let seen = about.headers.get(control_api::CONFIG_VERSION_HEADER).and_then(|seen| seen.to_str().ok());
    let tag = seen.map(|seen| format!("\"{seen}\""));
    let path = format!("/rollback?version={version}");
    let done = server.send_if(Method::POST, &path, String::new(), tag.as_deref()).await;
    let done = done.map_err(|message| format!("rollback to version {version} failed, {message}"))?;
    let now = done.headers.get(control_api::CONFIG_VERSION_HEADER).and_then(|now| now.to_str().ok()).unwrap_or("?");
    print(&format!("rolled back to version {version}, as version {now}"));
    Ok(())
}

async fn at(server: &Server, version: Option<u64>) -> Result<BTreeMap<String, Value>, String> {
    let query = version.map_or_else(String::new, |version| format!("?version={version}"));
    let documents = server.get(&format!("/objects{query}")).await?;
    let documents = documents.as_array().cloned().unwrap_or_default();
    Ok(documents.into_iter().map(|document| (word(&document, "name").to_owned(), document)).collect())
}

/// `-` what was, `+` what is, each change with a few lines around it.
pub fn changed_lines(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (gone, come) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut lines: Vec<(char, &str)> = old[..head].iter().map(|line| (' ', *line)).collect();
    lines.extend(merged(gone, come));
    lines.extend(old[old.len() - tail..].iter().map(|line| (' ', *line)));
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        lines[from..(at + AROUND + 1).min(lines.len())].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut shown = Vec::new();
    let mut last = None;
    for (at, (mark, line)) in lines.iter().enumerate().filter(|(at, _)| near(*at)) {
        if last.is_some_and(|last| last + 1 != at) {
            shown.push("  …".to_owned());
        }
        last = Some(at);
        shown.push(format!("{mark} {line}"));
    }
    shown
}

/// The longest lines in common stay; where that would take too long everything is told as replaced.
fn merged<'l>(gone: &[&'l str], come: &[&'l str]) -> Vec<(char, &'l str)> {
    let minus = |lines: &[&'l str]| lines.iter().map(|line| ('-', *line)).collect::<Vec<_>>();
    let plus = |lines: &[&'l str]| lines.iter().map(|line| ('+', *line)).collect::<Vec<_>>();
    if gone.len().saturating_mul(come.len()) > CELLS_MAX {
        return [minus(gone), plus(come)].concat();
    }
    let width = come.len() + 1;
    let mut common = vec![0u32; (gone.len() + 1) * width];
    for i in (0..gone.len()).rev() {
        for j in (0..come.len()).rev() {
            common[i * width + j] = if gone[i] == come[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < gone.len() && j < come.len() {
        if gone[i] == come[j] {
            lines.push((' ', gone[i]));
            (i, j) = (i + 1, j + 1);
        } else if common[(i + 1) * width + j] >= common[i * width + j + 1] {
            lines.push(('-', gone[i]));
            i += 1;
        } else {
            lines.push(('+', come[j]));
            j += 1;
        }
    }
    [lines, minus(&gone[i..]), plus(&come[j..])].concat()
}

/// Objects of one change that a line tells of.
const TOLD_MAX: usize = 4;
/// Lines shown around a change.
const AROUND: usize = 2;
/// About a hundred milliseconds.
const CELLS_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_with_what_is_around_them() {
        let (old, new) = ("a\nb\nc\nd\ne\nf\ng\nh\ni\nj", "a\nb\nx\nd\ne\nf\ng\nh\ni\ni2\nj");
        let expected = ["  a", "  b", "- c", "+ x", "  d", "  e", "  …", "  h", "  i", "+ i2", "  j"];
        assert_eq!(changed_lines(old, new), expected);
        assert_eq!(changed_lines("", "a"), ["+ a"]);
        assert_eq!(changed_lines("a\nb", ""), ["- a", "- b"]);
    }
}
