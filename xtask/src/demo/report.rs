//! What the demo takes from `GET /metrics`.

use std::collections::BTreeMap;

use crate::http::samples;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub vip: String,
    pub verdict: String,
    pub reason: String,
}

/// Packets by virtual IP, verdict and reason, those that were never counted left out.
pub fn packets(text: &str) -> BTreeMap<Labels, f64> {
    let mut packets = BTreeMap::new();
    for sample in samples(text).filter(|sample| sample.name == "weir_xdp_packets_total" && sample.value > 0.0) {
        let label = |name| sample.label(name).unwrap_or("-").to_string();
        *packets
            .entry(Labels { vip: label("vip"), verdict: label("verdict"), reason: label("reason") })
            .or_default() += sample.value;
    }
    packets
}

/// Packets by the machine they were steered to.
pub fn steered(text: &str) -> BTreeMap<String, f64> {
    let mut steered = BTreeMap::new();
    for sample in samples(text).filter(|sample| sample.name == "weir_steered_total") {
        *steered.entry(sample.label("machine").unwrap_or("-").to_string()).or_default() += sample.value;
    }
    steered
}

/// `412 (0.5 ms, 2 ms)`: how many requests, and the bucket bounds that hold half and 99 % of them.
pub fn quantiles(text: &str) -> String {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for sample in samples(text).filter(|sample| sample.name == "weir_request_duration_seconds_bucket") {
        let Some(bound) = sample.label("le").and_then(|bound| bound.replace("+Inf", "inf").parse().ok()) else {
            continue;
        };
        match buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, count)) => *count += sample.value,
            None => buckets.push((bound, sample.value)),
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, total)) = buckets.last().copied().filter(|(_, total)| *total > 0.0) else { return "-".into() };
    let at = |share: f64| {
        let bound =
            buckets.iter().find(|(_, count)| *count >= total * share).map_or(f64::INFINITY, |(bound, _)| *bound);
        format!("≤ {} ms", bound * 1e3)
    };
    format!("{total:.0} ({}, {})", at(0.5), at(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_buckets_of_all_servers() {
        let text = "weir_request_duration_seconds_bucket{server=\"a\",le=\"0.001\"} 50\n\
                    weir_request_duration_seconds_bucket{server=\"b\",le=\"0.001\"} 0\n\
                    weir_request_duration_seconds_bucket{server=\"a\",le=\"0.01\"} 90\n\
                    weir_request_duration_seconds_bucket{server=\"b\",le=\"0.01\"} 9\n\
                    weir_request_duration_seconds_bucket{server=\"a\",le=\"+Inf\"} 91\n\
                    weir_request_duration_seconds_bucket{server=\"b\",le=\"+Inf\"} 9\n";
        assert_eq!(quantiles(text), "100 (≤ 1 ms, ≤ 10 ms)");
        assert_eq!(quantiles(""), "-");
    }

    #[test]
    fn packets_are_summed_by_label() {
        let text = "weir_xdp_packets_total{vip=\"demo\",verdict=\"tx\",reason=\"forwarded\"} 3\n\
                    weir_xdp_packets_total{vip=\"demo\",verdict=\"drop\",reason=\"runt\"} 0\n\
                    weir_steered_total{vip=\"demo\",machine=\"edge-2\"} 7\n";
        let packets = packets(text);
        assert_eq!(packets.len(), 1);
        assert_eq!(steered(text).get("edge-2"), Some(&7.0));
    }
}
