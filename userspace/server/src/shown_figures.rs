//! The figures of this machine that people watch, for the dashboard and `weirctl top`: a part of what `/metrics` says, as JSON.

use serde_json::{Map, Value, json};

/// Families that are shown; a name that ends in `_` stands for all that begin so.
const FAMILIES: [&str; 15] = [
    "weir_worker_busy_ratio",
    "weir_worker_connections",
    "weir_worker_requests_total",
    "weir_worker_received_bytes_total",
    "weir_worker_sent_bytes_total",
    "weir_config_version",
    "weir_raft_",
    "weir_limit_hits_total",
    "weir_room_",
    "weir_lottery_",
    "weir_steered_total",
    "weir_backend_up",
    "weir_steering_virtual_ips",
    "weir_taps",
    "process_resident_memory_bytes",
];

/// Series of one machine that are shown at most; what is beyond them is in `/metrics`.
const SERIES_MOST: usize = 2_000;

/// By family, labels and value of each series. Limits that were never reached are left out.
pub fn of(metrics: &str) -> Value {
    let is_shown = |name: &str| {
        FAMILIES.iter().any(|family| if family.ends_with('_') { name.starts_with(family) } else { name == *family })
    };
    let mut families: Map<String, Value> = Map::new();
    let mut left = SERIES_MOST;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Ok(value) = value.parse::<f64>() else { continue };
        if !is_shown(name) || (name == "weir_limit_hits_total" && value == 0.0) {
            continue;
        }
        let Some(rest) = left.checked_sub(1) else { break };
        left = rest;
        let family = families.entry(name).or_insert_with(|| json!([]));
        if let Value::Array(series) = family {
            series.push(json!([labels_of(labels), value]));
        }
    }
    Value::Object(families)
}

/// `a="b",c="d"}` as an object.
fn labels_of(mut text: &str) -> Value {
    let mut labels = Map::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at + 1,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => break rest.len(),
                },
                Some((_, other)) => value.push(other),
                None => break rest.len(),
            }
        };
        labels.insert(name.trim_start_matches(',').to_owned(), value.into());
        text = &rest[end..];
    }
    Value::Object(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_with_their_labels_and_no_others() {
        let text = "# HELP weir_taps x\nweir_taps 2\nprocess_resident_memory_bytes 4096\nprocess_open_fds 5\n\
            weir_limit_hits_total{limit=\"a\"} 0\nweir_limit_hits_total{limit=\"b\"} 3\n\
            weir_room_waiting{room=\"q\\\"x,=\",kind=\"y\"} 7\nweir_requests_total{server=\"s\",code=\"200\"} 4\n";
        let wanted = json!({
            "weir_taps": [[{}, 2.0]],
            "process_resident_memory_bytes": [[{}, 4096.0]],
            "weir_limit_hits_total": [[{"limit": "b"}, 3.0]],
            "weir_room_waiting": [[{"room": "q\"x,=", "kind": "y"}, 7.0]],
        });
        assert_eq!(of(text), wanted);
    }
}
