use std::io::Write;

use base_model::yaml;
use serde_json::Value;

use crate::arguments::Format;

/// Prints and forgets a reader that left (`weirctl … | head`).
pub fn print(text: &str) {
    let _ = try_print(text);
}

/// For what goes on until somebody ends it: the reader's leaving does.
pub fn try_print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// `value` as JSON or YAML; `Default` is YAML here, for what has no table.
pub fn structured(value: &Value, format: Format) {
    match format {
        Format::Json => print(&serde_json::to_string_pretty(value).unwrap_or_default()),
        Format::Default | Format::Yaml => print(&yaml::to_string(value)),
    }
}

/// Columns as wide as their widest cell, three spaces apart.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width - cell.chars().count() + 3;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', pad));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub fn heads(heads: &[&str]) -> Vec<String> {
    heads.iter().map(|head| head.to_string()).collect()
}

pub fn succeeded(verb: &str, kind: &str, name: &str) {
    print(&format!("{verb} {kind} {name} successfully"));
}
