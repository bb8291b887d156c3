//! Figures as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

#[derive(Serialize)]
pub struct Report {
    pub scenario: String,
    pub machine: serde_json::Value,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    pub name: String,
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

impl Row {
    pub fn new(name: &str, unit: &str, values: Vec<f64>) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(0.0, f64::max);
        let (name, unit, rounds) = (name.into(), unit.into(), values.len());
        Self { name, unit, median: median(values), min, max, rounds, ratio_to: BTreeMap::new(), more: BTreeMap::new() }
    }
}

impl Report {
    pub fn print(&self) {
        let peers: Vec<&String> = self.rows.first().map_or(vec![], |row| row.ratio_to.keys().collect());
        let unit = self.rows.first().map_or("", |row| &row.unit);
        print!("\n{:<12} {:>22}", "", unit);
        peers.iter().for_each(|peer| print!(" {:>10}", format!("/ {peer}")));
        println!(" {:>11} {:>8} {:>8} {:>9} {:>9}", "requests/s", "p50 µs", "p99 µs", "its CPU", "disturbed");
        for row in &self.rows {
            let range = format!("{:.2} [{:.2}–{:.2}]", row.median, row.min, row.max);
            print!("{:<12} {range:>22}", row.name);
            peers.iter().for_each(|peer| print!(" {:>10.2}", row.ratio_to[*peer]));
            let more = |name: &str| row.more.get(name).copied().unwrap_or(0.0);
            println!(
                " {:>11.0} {:>8.0} {:>8.0} {:>8.0}% {:>6}/{}",
                more("requests_per_second"),
                more("p50_us"),
                more("p99_us"),
                more("gateway_cpu_share") * 100.0,
                more("disturbed_rounds"),
                row.rounds
            );
        }
    }

    pub fn write(&self, file: Option<&Path>) -> Result<(), String> {
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// The middle value, or the mean of the two in the middle; of nothing, 0.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let mut row = Row::new("weir-ring", "µs CPU/request", vec![9.0, 10.0, 11.0]);
        row.ratio_to.insert("nginx".into(), 0.65);
        let report = Report { scenario: "http1".into(), machine: serde_json::json!({}), rows: vec![row] };
        let json = serde_json::to_value(&report).expect("JSON");
        let row = &json["rows"][0];
        assert_eq!((&row["name"], &row["median"], &row["rounds"]), (&"weir-ring".into(), &10.0.into(), &3.into()));
        assert_eq!((&row["min"], &row["max"], &row["ratio_to"]["nginx"]), (&9.0.into(), &11.0.into(), &0.65.into()));
    }
}
