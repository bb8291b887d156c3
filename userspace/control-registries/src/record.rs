//! What a registry says of a service's instances, and which of them can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base_text::quoted;
use serde::{Deserialize, Serialize};

/// A service as a registry has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    pub records: Vec<Record>,
    /// What could not be read of it, in words.
    pub unread: Vec<String>,
}

/// An instance as it was written, whatever that was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// Unique within the registry.
    pub id: String,
    pub address: String,
    pub port: i64,
    /// Empty: `http`.
    pub scheme: String,
    pub tags: Vec<String>,
    pub weight: i64,
}

/// An instance that can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    pub id: String,
    pub scheme: String,
    /// Name or address, an IPv6 one without brackets.
    pub address: String,
    pub port: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "is_none")]
    pub weight: u32,
}

/// What came of looking at a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// By id.
    pub instances: Vec<Instance>,
    /// Why others cannot be used: what, where, what to do.
    pub refused: Vec<String>,
}

/// Sorts out what can be used. Of two records of one id that contradict each other neither is believed; two ids at one place are one
/// server.
pub fn judge(service: &Service) -> Judged {
    let mut refused = service.unread.clone();
    let mut by_id: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in &service.records {
        let same = by_id.entry(&record.id).or_default();
        // Of one that is there without end a few are enough to be told.
        if same.len() < CONTRADICTIONS_TOLD && !same.contains(&record) {
            same.push(record);
        }
    }
    let (mut instances, mut places, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    for (id, records) in by_id {
        let [record] = records[..] else {
            let said: Vec<String> =
                records.iter().map(|r| quoted(&format!("{}:{}", r.address, r.port)).to_string()).collect();
            refused.push(format!(
                "instance {} is there {} times, at {}: none of them is used; register it once",
                quoted(id),
                records.len(),
                said.join(" and ")
            ));
            continue;
        };
        match usable(record) {
            Err(why) => refused.push(format!("instance {}: {why}", quoted(id))),
            Ok(instance) => {
                if !places.insert((instance.scheme.clone(), instance.address.clone(), instance.port)) {
                    continue;
                }
                bytes += size_of_text(&instance);
                if instances.len() == INSTANCES_MAX || bytes > SERVICE_BYTES_MAX {
                    refused.push(format!(
                        "more than {INSTANCES_MAX} instances, or {} KiB of them: those from {} on are left out; split the service",
                        SERVICE_BYTES_MAX >> 10,
                        quoted(id)
                    ));
                    break;
                }
                instances.push(instance);
            }
        }
    }
    let more = refused.len().saturating_sub(REFUSED_TOLD);
    refused.truncate(REFUSED_TOLD);
    if more > 0 {
        refused.push(format!("and {more} more"));
    }
    Judged { instances, refused }
}

fn usable(record: &Record) -> Result<Instance, String> {
    let scheme = match record.scheme.to_ascii_lowercase().as_str() {
        "" | "http" | "ws" | "grpc" | "h2c" | "tcp" | "udp" => "http",
        "https" | "wss" | "grpcs" | "tls" => "https",
        other => return Err(format!("scheme {} is not spoken; register it with http or https", quoted(other))),
    };
    let address = record.address.trim_start_matches('[').trim_end_matches(']');
    let port = u16::try_from(record.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("port {} is none; register it with 1 to 65535", record.port))?;
    match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            return Err(format!("address {address} is no machine's; register the one it is reached at"));
        }
        Ok(_) => {}
        Err(_) if is_name(address) => {}
        Err(_) => {
            return Err(format!("address {} is neither an address nor a name; register one", quoted(address)));
        }
    }
    let instance = Instance {
        id: record.id.clone(),
        scheme: scheme.to_owned(),
        address: address.to_ascii_lowercase(),
        port,
        tags: record.tags.clone(),
        weight: u32::try_from(record.weight.clamp(0, WEIGHT_MAX)).unwrap_or_default(),
    };
    match size_of_text(&instance) {
        0..=INSTANCE_BYTES_MAX => Ok(instance),
        bytes => Err(format!(
            "its id and tags have {bytes} bytes, and {INSTANCE_BYTES_MAX} are taken, since every member keeps them; shorten them"
        )),
    }
}

/// What it takes to keep it, about.
fn size_of_text(instance: &Instance) -> usize {
    let tags: usize = instance.tags.iter().map(|tag| tag.len() + 3).sum();
    tags + instance.id.len() + instance.address.len() + 64
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 253 && text.chars().all(fits) && !text.starts_with(['.', '-'])
        // What looks like an address and is none.
        && text.chars().any(|c| c.is_ascii_alphabetic())
}

fn is_none(weight: &u32) -> bool {
    *weight == 0
}

/// More servers than a pool can be spread over with sense; each costs every edge a line of metrics.
const INSTANCES_MAX: usize = 4096;
/// Whoever keeps a whole configuration in tags has a place, and one instance is not the end of the cluster's memory.
const INSTANCE_BYTES_MAX: usize = 32 << 10;
/// Of all instances of a service: so much is sent to every edge whenever one of them changes.
const SERVICE_BYTES_MAX: usize = 1 << 20;
const REFUSED_TOLD: usize = 8;
const CONTRADICTIONS_TOLD: usize = 4;
const WEIGHT_MAX: i64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, address: &str, port: i64) -> Record {
        Record { id: id.to_owned(), address: address.to_owned(), port, ..Record::default() }
    }

    fn judged(records: &[Record]) -> Judged {
        judge(&Service { records: records.to_vec(), unread: Vec::new() })
    }

    #[test]
    fn what_can_be_used_is_and_the_rest_is_told() {
        let names = |judged: &Judged| -> Vec<String> {
            judged.instances.iter().map(|i| format!("{}={}:{}", i.id, i.address, i.port)).collect()
        };
        let good = judged(&[record("b", "10.0.0.2", 80), record("a", "[::1]", 81), record("c", "Shop.Test", 82)]);
        assert_eq!(names(&good), ["a=::1:81", "b=10.0.0.2:80", "c=shop.test:82"]);
        assert_eq!(good.refused, Vec::<String>::new());
        for (bad, told) in [
            (record("x", "10.0.0.1", 0), "port 0 is none"),
            (record("x", "10.0.0.1", 70_000), "port 70000 is none"),
            (record("x", "", 80), "neither an address nor a name"),
            (record("x", "10.0.0", 80), "neither an address nor a name"),
            (record("x", "a b", 80), "neither an address nor a name"),
            (record("x", "<html>", 80), "neither an address nor a name"),
            (record("x", "0.0.0.0", 80), "is no machine's"),
            (Record { scheme: "gopher".into(), ..record("x", "10.0.0.1", 80) }, "is not spoken"),
        ] {
            let judged = judged(&[bad.clone(), record("y", "10.0.0.9", 80)]);
            assert_eq!(names(&judged), ["y=10.0.0.9:80"], "{bad:?}");
            assert!(judged.refused.len() == 1 && judged.refused[0].contains(told), "{:?}", judged.refused);
        }
    }

    #[test]
    fn doubles_are_one_and_contradictions_are_nobody() {
        let same = judged(&[record("a", "10.0.0.1", 80), record("a", "10.0.0.1", 80), record("b", "10.0.0.1", 80)]);
        assert_eq!((same.instances.len(), same.refused.len()), (1, 0), "one server, whatever it is called");
        let contradicts =
            judged(&[record("a", "10.0.0.1", 80), record("a", "10.0.0.2", 80), record("b", "10.0.0.3", 80)]);
        assert_eq!(contradicts.instances.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(contradicts.refused[0].contains("is there 2 times"), "{:?}", contradicts.refused);
        let many: Vec<Record> = (0..5000).map(|n| record(&format!("{n:05}"), "10.0.0.1", 1 + n)).collect();
        let many = judged(&many);
        assert_eq!((many.instances.len(), many.refused.len()), (INSTANCES_MAX, 1));
        let other: Vec<Record> = (1..1000).map(|port| record("a", "10.0.0.1", port)).collect();
        assert!(judged(&other).refused[0].len() < 200, "{:?}", judged(&other).refused);
        let bad: Vec<Record> = (0..50).map(|n| record(&n.to_string(), "", 80)).collect();
        assert_eq!(judged(&bad).refused.len(), REFUSED_TOLD + 1);
    }

    #[test]
    fn what_is_huge_is_told_and_kept_by_nobody() {
        let tagged = |id: &str, tags: usize, bytes: usize| Record {
            tags: (0..tags).map(|n| format!("{n}{}", "x".repeat(bytes))).collect(),
            ..record(id, "10.0.0.1", 80)
        };
        let long = judged(&[tagged("a", 1, 1 << 20), tagged("b", 20_000, 8), record("c", "10.0.0.3", 80)]);
        assert_eq!(long.instances.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(long.refused.iter().all(|why| why.contains("shorten them") && why.len() < 300), "{:?}", long.refused);
        let many: Vec<Record> =
            (1..1000).map(|port| Record { port, ..tagged(&format!("{port:05}"), 1, 8 << 10) }).collect();
        let many = judged(&many);
        assert!((100..128).contains(&many.instances.len()), "{}", many.instances.len());
        assert!(many.refused[0].contains("1024 KiB of them"), "{:?}", many.refused);
    }
}
