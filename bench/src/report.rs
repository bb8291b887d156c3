//! Figures as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::statistics::{Figure, kept, median, ratio};

#[derive(Serialize)]
pub struct Report {
    pub scenario: String,
    pub machine: serde_json::Value,
    pub rows: Vec<Row>,
    pub goals: Vec<Goal>,
}

#[derive(Serialize)]
pub struct Row {
    /// The gateway.
    pub name: String,
    /// What it was asked to do.
    pub cell: String,
    pub unit: String,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
    /// Median of the ratios of the same rounds.
    pub ratio_to: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// What ours is to reach, beside what it reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    pub cell: String,
    pub unit: String,
    /// The peer whose figure is multiplied; none: the bound itself is the figure.
    pub peer: Option<String>,
    pub at_most: f64,
    /// Of ours on the ring; absent when it was not measured.
    pub found: Option<f64>,
}

/// All figures of one kind in one cell: a row for each gateway.
pub struct Table<'a> {
    pub cell: &'a str,
    pub unit: &'a str,
    pub wanted: usize,
    pub figures: Vec<(&'a str, Vec<Figure>)>,
}

impl Table<'_> {
    pub fn rows(&self) -> Vec<Row> {
        let counted: Vec<_> = self.figures.iter().map(|(name, own)| (*name, kept(own, self.wanted))).collect();
        let rows = counted.iter().zip(&self.figures).map(|((name, own), (_, all))| {
            let values: Vec<f64> = own.iter().map(|figure| figure.value).collect();
            let mut row = Row::new(name, self.cell, self.unit, values);
            for (peer, theirs) in counted.iter().filter(|(peer, _)| !is_ours(peer)) {
                row.ratio_to.extend(ratio(own, theirs).map(|ratio| (peer.to_string(), ratio)));
            }
            let disturbed = own.iter().filter(|figure| figure.disturbed).count();
            row.more.insert("disturbed_rounds".into(), disturbed as f64);
            row.more.insert("dropped_rounds".into(), (all.len() - own.len()) as f64);
            row
        });
        rows.collect()
    }
}

impl Row {
    pub fn new(name: &str, cell: &str, unit: &str, values: Vec<f64>) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min).min(f64::MAX);
        let max = values.iter().copied().fold(0.0, f64::max);
        Self {
            name: name.into(),
            cell: cell.into(),
            unit: unit.into(),
            rounds: values.len(),
            median: median(values),
            min,
            max,
            ratio_to: BTreeMap::new(),
            more: BTreeMap::new(),
        }
    }
}

impl Goal {
    /// Below the figure of `peer` times `at_most`.
    pub fn ratio(cell: &str, unit: &str, peer: &str, at_most: f64) -> Self {
        Self { cell: cell.into(), unit: unit.into(), peer: Some(peer.into()), at_most, found: None }
    }

    /// Below `at_most` whatever the others do.
    pub fn bound(cell: &str, unit: &str, at_most: f64) -> Self {
        Self { cell: cell.into(), unit: unit.into(), peer: None, at_most, found: None }
    }

    fn look(&mut self, rows: &[Row]) {
        let row = rows.iter().find(|row| row.name == "weir-ring" && (&row.cell, &row.unit) == (&self.cell, &self.unit));
        self.found = match &self.peer {
            Some(peer) => row.and_then(|row| row.ratio_to.get(peer).copied()),
            None => row.map(|row| row.median),
        };
    }

    fn told(&self) -> String {
        let bound = match &self.peer {
            Some(peer) => format!("≤ {:.2} × {peer}", self.at_most),
            None => format!("≤ {} {}", self.at_most, self.unit),
        };
        let verdict = match self.found {
            Some(found) if found <= self.at_most => format!("{found:.2}  reached"),
            Some(found) => format!("{found:.2}  missed"),
            None => "not measured".into(),
        };
        format!("{:<14} {:<22} {bound:<24} {verdict}", self.cell, self.unit)
    }
}

impl Report {
    pub fn new(scenario: &str, machine: serde_json::Value, rows: Vec<Row>, mut goals: Vec<Goal>) -> Self {
        goals.iter_mut().for_each(|goal| goal.look(&rows));
        Self { scenario: scenario.into(), machine, rows, goals }
    }

    pub fn print(&self) {
        let mut shown = None;
        for row in &self.rows {
            let table = (&row.cell, &row.unit);
            if shown.replace(table) != Some(table) {
                print_head(row);
            }
            print_row(row);
        }
        if !self.goals.is_empty() {
            println!("\ngoals, of weir-ring");
            self.goals.iter().for_each(|goal| println!("  {}", goal.told()));
        }
    }

    pub fn write(&self, file: Option<&Path>) -> Result<(), String> {
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
    }
}

fn print_head(row: &Row) {
    print!("\n{:<12} {:>26}", row.cell, row.unit);
    row.ratio_to.keys().for_each(|peer| print!(" {:>10}", format!("÷ {peer}")));
    COLUMNS.iter().filter(|(name, ..)| row.more.contains_key(*name)).for_each(|(_, head, _)| print!(" {head:>10}"));
    println!(" {:>7}", "rounds");
}

fn print_row(row: &Row) {
    let digits = if row.median < 1000.0 { 2 } else { 0 };
    let range = format!("{:.digits$} [{:.digits$}–{:.digits$}]", row.median, row.min, row.max);
    print!("{:<12} {range:>26}", row.name);
    row.ratio_to.values().for_each(|ratio| print!(" {ratio:>10.2}"));
    for (name, _, factor) in COLUMNS {
        if let Some(value) = row.more.get(*name) {
            print!(" {:>10.0}", value * factor);
        }
    }
    let more = |name: &str| row.more.get(name).copied().unwrap_or(0.0);
    let dropped =
        if more("dropped_rounds") > 0.0 { format!(", {} dropped", more("dropped_rounds")) } else { "".into() };
    let disturbed = more("disturbed_rounds");
    let disturbed = if disturbed > 0.0 { format!(", {disturbed} disturbed") } else { String::new() };
    println!(" {:>7}{dropped}{disturbed}", row.rounds);
}

/// Ours are never what others are compared with.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("weir")
}

/// What the table shows of [`Row::more`]: its name, its heading, and what it is multiplied with.
const COLUMNS: &[(&str, &str, f64)] = &[
    ("requests_per_second", "requests/s", 1.0),
    ("p50_us", "p50 µs", 1.0),
    ("p99_us", "p99 µs", 1.0),
    ("gateway_cpu_share", "its CPU %", 100.0),
    ("load_cpu_share", "load CPU %", 100.0),
    ("resumed_share", "resumed %", 100.0),
    ("before_bytes", "before, KB", 0.001),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Row> {
        let figure = |round, value| Figure { round, value, disturbed: round == 3 };
        let table = Table {
            cell: "1k-64",
            unit: "µs CPU/request",
            wanted: 2,
            figures: vec![
                ("weir-ring", vec![figure(1, 5.0), figure(2, 7.0), figure(3, 50.0)]),
                ("nginx", vec![figure(1, 8.0), figure(2, 8.0)]),
            ],
        };
        table.rows()
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let report = Report::new("http1", serde_json::json!({}), table(), vec![]);
        let json = serde_json::to_value(&report).expect("JSON");
        let row = &json["rows"][0];
        assert_eq!((&row["name"], &row["median"], &row["rounds"]), (&"weir-ring".into(), &6.0.into(), &2.into()));
        assert_eq!((&row["min"], &row["max"], &row["ratio_to"]["nginx"]), (&5.0.into(), &7.0.into(), &0.75.into()));
        assert_eq!((&row["dropped_rounds"], &row["disturbed_rounds"]), (&1.0.into(), &0.0.into()));
    }

    #[test]
    fn a_goal_is_looked_up_in_its_own_cell() {
        let unit = "µs CPU/request";
        let goals = vec![
            Goal::ratio("1k-64", unit, "nginx", 0.8),
            Goal::bound("1k-64", unit, 5.5),
            Goal::ratio("1k-64", unit, "pingora", 0.4),
            Goal::ratio("16k-64", unit, "nginx", 0.5),
        ];
        let report = Report::new("http1", serde_json::json!({}), table(), goals);
        let found: Vec<_> = report.goals.iter().map(|goal| goal.found).collect();
        assert_eq!(found, [Some(0.75), Some(6.0), None, None]);
        let told: Vec<_> = report.goals.iter().map(Goal::told).collect();
        assert!(told[0].ends_with("reached") && told[1].ends_with("missed") && told[2].ends_with("not measured"));
    }
}
