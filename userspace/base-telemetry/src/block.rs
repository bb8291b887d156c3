//! Easegress's stat block: cumulative counts, decaying rates, and the percentiles and codes of the last round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::ewma::Rates;
use crate::shard::{Tally, Totals};

/// The quantiles a block shows, in the order of [`PERCENTILE_KEYS`].
pub(crate) const QUANTILES: [f64; 7] = [0.25, 0.5, 0.75, 0.95, 0.98, 0.99, 0.999];
pub(crate) const PERCENTILE_KEYS: [&str; 7] = ["p25", "p50", "p75", "p95", "p98", "p99", "p999"];

/// Rates and the last round of one server, pool or path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    requests: Rates,
    errors: Rates,
    counted: u64,
    counted_errors: u64,
    percentiles_us: [u64; 7],
    codes: BTreeMap<u16, u64>,
}

impl Block {
    /// Closes a round: `totals` so far, and the codes and percentiles of the round alone.
    pub(crate) fn tick(
        &mut self,
        elapsed: Duration,
        totals: &Totals,
        codes: BTreeMap<u16, u64>,
        percentiles_us: [u64; 7],
    ) {
        self.requests.tick(totals.count.saturating_sub(self.counted), elapsed);
        self.errors.tick(totals.errors.saturating_sub(self.counted_errors), elapsed);
        self.counted = totals.count;
        self.counted_errors = totals.errors;
        self.codes = codes;
        self.percentiles_us = percentiles_us;
    }

    /// Closes a round given the sums at its start and at its end.
    pub(crate) fn tick_between(&mut self, elapsed: Duration, before: &Tally, now: &Tally) {
        let codes = now
            .codes
            .iter()
            .map(|(&code, &n)| (code, n.saturating_sub(before.codes.get(&code).copied().unwrap_or(0))))
            .filter(|&(_, n)| n > 0)
            .collect();
        self.tick(elapsed, &now.totals, codes, now.latency_us.since(&before.latency_us).quantiles(QUANTILES));
    }

    /// Takes in the rates of a block that counted other events.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.requests.absorb(&other.requests);
        self.errors.absorb(&other.errors);
        self.counted += other.counted;
        self.counted_errors += other.counted_errors;
    }

    /// Key and value of each number, with Easegress's JSON keys. Durations are in milliseconds.
    pub(crate) fn numbers(&self, totals: &Totals) -> Vec<(&'static str, Value)> {
        let (m1, m5, m15) = (self.requests.m1.rate(), self.requests.m5.rate(), self.requests.m15.rate());
        let (e1, e5, e15) = (self.errors.m1.rate(), self.errors.m5.rate(), self.errors.m15.rate());
        let mean_ns = totals.duration_ns.checked_div(totals.count).unwrap_or(0);
        let min_ns = if totals.count == 0 { 0 } else { totals.duration_min_ns };
        let mut numbers = vec![
            ("count", json!(totals.count)),
            ("m1", json!(m1)),
            ("m5", json!(m5)),
            ("m15", json!(m15)),
            ("errCount", json!(totals.errors)),
            ("m1Err", json!(e1)),
            ("m5Err", json!(e5)),
            ("m15Err", json!(e15)),
            ("m1ErrPercent", json!(ratio(e1, m1))),
            ("m5ErrPercent", json!(ratio(e5, m5))),
            ("m15ErrPercent", json!(ratio(e15, m15))),
            ("min", json!(ms(min_ns / 1000))),
            ("max", json!(ms(totals.duration_max_ns / 1000))),
            ("mean", json!(ms(mean_ns / 1000))),
        ];
        numbers.extend(PERCENTILE_KEYS.into_iter().zip(self.percentiles_us.map(|us| json!(ms(us)))));
        numbers.push(("reqSize", json!(totals.request_bytes)));
        numbers.push(("respSize", json!(totals.response_bytes)));
        numbers
    }

    /// The whole block.
    pub(crate) fn json(&self, totals: &Totals) -> Map<String, Value> {
        let mut map: Map<_, _> = self.numbers(totals).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        map.insert("codes".to_owned(), self.codes.iter().map(|(code, n)| (code.to_string(), json!(n))).collect());
        map
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// Errors per request, 0 to 1: Easegress calls this a percentage.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ewma::TICK;
    use crate::shard::Shard;

    #[test]
    fn rounds_restart_and_counts_go_on() {
        let shard = Shard::default();
        let mut block = Block::default();
        for i in 0..100u64 {
            shard.record(if i < 25 { 503 } else { 200 }, Duration::from_millis(i + 1), 10, 20);
        }
        let first = read(&shard);
        block.tick_between(TICK, &Tally::default(), &first);
        let json = Value::Object(block.json(&first.totals));
        assert_eq!((&json["count"], &json["errCount"]), (&json!(100), &json!(25)));
        assert_eq!((&json["m1"], &json["m1Err"]), (&json!(20.0), &json!(5.0)));
        for key in ["m1ErrPercent", "m5ErrPercent", "m15ErrPercent"] {
            assert_eq!(json[key], json!(0.25), "{key}");
        }
        assert_eq!((&json["min"], &json["max"], &json["mean"]), (&json!(1.0), &json!(100.0), &json!(50.5)));
        assert!((json["p50"].as_f64().unwrap() - 50.0).abs() < 0.5, "{json}");
        assert_eq!(json["codes"], json!({"200": 75, "503": 25}));
        assert_eq!((&json["reqSize"], &json["respSize"]), (&json!(1000), &json!(2000)));

        shard.record(404, Duration::from_millis(7), 0, 0);
        let second = read(&shard);
        block.tick_between(TICK, &first, &second);
        let json = Value::Object(block.json(&second.totals));
        assert_eq!(json["count"], json!(101));
        assert_eq!(json["codes"], json!({"404": 1}));
        assert!((json["p25"].as_f64().unwrap() - 7.0).abs() < 0.1, "{json}");
        assert!(json["m1"].as_f64().unwrap() < 20.0);
    }

    #[test]
    fn empty_block_is_all_zero() {
        let json = Value::Object(Block::default().json(&Totals::default()));
        for key in ["count", "m1", "min", "max", "mean", "p999", "m1ErrPercent"] {
            assert_eq!(json[key].as_f64(), Some(0.0), "{key}");
        }
    }

    fn read(shard: &Shard) -> Tally {
        let mut tally = Tally::default();
        shard.merge_into(&mut tally);
        tally
    }
}
