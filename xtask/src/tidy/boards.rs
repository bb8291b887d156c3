//! What dashboards and rules ask Prometheus for is there: every metric in `deploy/grafana` and `deploy/prometheus` is one of the code's,
//! or recorded by a rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::readme::Known;
use super::{names, short};

/// Dashboards that people look for.
const BOARDS: [&str; 7] = ["fleet", "flash-sale", "pipeline", "pool", "raft", "server", "vip"];

pub fn problems(root: &Path, known: &Known) -> Vec<String> {
    let mut problems = Vec::new();
    let (boards, rules) = (root.join("deploy/grafana/dashboards"), root.join("deploy/prometheus"));
    let files = |folder: &Path, kind: &str| -> Vec<PathBuf> {
        names(folder).iter().filter(|name| name.ends_with(kind)).map(|name| folder.join(name)).collect()
    };
    let mut texts = Vec::new();
    for path in files(&boards, ".json") {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match serde_json::from_str::<Value>(&text) {
            Ok(board) => problems.extend(wrong(&board).map(|why| format!("{}: {why}", short(root, &path)))),
            Err(error) => problems.push(format!("{}: no JSON: {error}", short(root, &path))),
        }
        texts.push((path, text));
    }
    for board in BOARDS.iter().filter(|board| !boards.join(format!("{board}.json")).is_file()) {
        problems.push(format!("deploy/grafana/dashboards: there is no {board}.json"));
    }
    texts.extend(files(&rules, ".yml").into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        (path, text)
    }));
    let recorded: BTreeSet<String> = texts.iter().flat_map(|(_, text)| recorded(text)).collect();
    for (path, text) in &texts {
        for metric in metrics(text).filter(|metric| !is_there(metric, known, &recorded)).collect::<BTreeSet<_>>() {
            problems.push(format!("{}: asks for {metric}, which does not exist", short(root, path)));
        }
    }
    problems
}

/// What is wrong with a dashboard beside the metrics it asks for.
fn wrong(board: &Value) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    for field in ["uid", "title", "schemaVersion"] {
        if board[field].is_null() {
            found.push(format!("has no {field}"));
        }
    }
    let panels = board["panels"].as_array().map_or(&[][..], Vec::as_slice);
    let charts = panels.iter().filter(|panel| panel["type"] != "row");
    let idle = charts.filter(|panel| panel["targets"].as_array().is_none_or(Vec::is_empty));
    found.extend(idle.map(|panel| format!("panel {} asks for nothing", panel["title"])));
    found.into_iter()
}

/// Names that rules record.
fn recorded(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(|name| name.trim().to_owned())
}

/// Words that are metrics of ours, or made of them.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').filter(|word| {
        let name = word.split(':').nth(1).unwrap_or(word);
        name.starts_with("weir_") && word.matches(':').count() != 1
    })
}

fn is_there(metric: &str, known: &Known, recorded: &BTreeSet<String>) -> bool {
    let of_histogram = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| metric.strip_suffix(end));
    recorded.contains(metric) || std::iter::once(metric).chain(of_histogram).any(|name| known.has_metric(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_metrics_are_found_and_others_are_not() {
        let known = Known::with_metrics(["weir_requests_total", "weir_request_duration_seconds"]);
        let text = "- record: server:weir_requests:rate5m\n  expr: sum(rate(weir_requests_total{server=~\"$server\"}[5m])) / weir_invented_total \
                    + histogram_quantile(0.9, weir_request_duration_seconds_bucket) + server:weir_requests:rate5m + server:weir_nobody:rate5m";
        let recorded: BTreeSet<String> = recorded(text).collect();
        let missing: Vec<&str> = metrics(text).filter(|metric| !is_there(metric, &known, &recorded)).collect();
        assert_eq!(missing, ["weir_invented_total", "server:weir_nobody:rate5m"]);
    }

    #[test]
    fn a_panel_that_asks_for_nothing_is_told() {
        let board = serde_json::json!({"uid": "a", "title": "A", "schemaVersion": 39,
            "panels": [{"type": "row"}, {"type": "stat", "title": "x", "targets": []}]});
        assert_eq!(wrong(&board).collect::<Vec<_>>(), ["panel \"x\" asks for nothing"]);
    }
}
