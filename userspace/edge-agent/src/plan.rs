//! What has to change to get from one state to another: pure, so that it can be tested without a machine.

use crate::desired::{Desired, Purge};
use crate::sections::{self, KeyChange, Told};
use base_model::Kept;
use base_model::kinds::{listens, named};
use edge_listeners::Purged;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One step, in the order it must be taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Put a pipeline in its place.
    ApplyPipeline {
        name: String,
        document: Arc<Value>,
    },
    /// Start or change a server.
    ApplyServer {
        name: String,
        document: Arc<Value>,
    },
    RemoveServer {
        name: String,
    },
    RemovePipeline {
        name: String,
    },
    /// Before and after pipelines of a GlobalFilter.
    ApplyGlobalFilter {
        name: String,
        document: Arc<Value>,
    },
    RemoveGlobalFilter {
        name: String,
    },
    /// What the machine does under overload.
    ApplyOverload {
        name: String,
        document: Arc<Value>,
    },
    RemoveOverload {
        name: String,
    },
    /// Where lines of the logs go.
    ApplyLogSink {
        name: String,
        document: Arc<Value>,
    },
    RemoveLogSink {
        name: String,
    },
    ApplyConsumer {
        name: String,
        document: Arc<Value>,
    },
    ApplyAutoCert {
        name: String,
        document: Arc<Value>,
    },
    RemoveAutoCert {
        name: String,
    },
    RemoveConsumer {
        name: String,
    },
    /// AccessLists came, changed or went: all of them together are put in force.
    Access,
    /// A key of a section of what controllers have learned.
    Key(KeyChange),
    /// Rules that a controller has made for a server are others, or gone.
    Rules {
        server: String,
        changes: Vec<(String, Option<Kept>)>,
    },
    /// An object of a kind that this version does not know.
    Unknown {
        name: String,
        kind: String,
    },
    /// One that is gone.
    Forget {
        name: String,
    },
    /// Other session ticket keys.
    Tickets,
    /// Take that out of caches.
    Purge(Vec<Purge>),
    /// Machines, VirtualIPs or their steering changed: the kernel's tables follow.
    Kernel,
}

/// What is new goes before what uses it; what is gone goes after. An object whose kind changed is removed and made anew.
pub fn plan(from: &Desired, to: &Desired) -> Vec<Change> {
    let kind = |document: &Value| document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut filters, mut pipelines, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut gone_servers, mut gone_rest) = (Vec::new(), Vec::new());
    // Before the pools that follow them: those begin with all their servers.
    let (rules, keys): (Vec<KeyChange>, Vec<KeyChange>) =
        sections::between(&from.sections, &to.sections).into_iter().partition(|key| key.section == sections::RULES);
    let keys = keys.into_iter().map(Change::Key);
    // The cookies of tunnels follow from the keys; keys are not taken away.
    let mut kernel = from.machines != to.machines
        || from.steering != to.steering
        || (from.tickets != to.tickets && !to.tickets.keys.is_empty());
    let mut access = false;
    let (mut over, put) = sections::values(&from.objects, &to.objects);
    let other_kind = |(name, document): &(&String, &Arc<Value>)| {
        from.objects.get(*name).is_some_and(|before| kind(before) != kind(document))
    };
    over.extend(put.iter().filter(|one| other_kind(one)).map(|(name, _)| *name));
    over.sort_unstable();
    for (name, document) in put {
        let (name, document) = (name.clone(), document.clone());
        match kind(&document).as_str() {
            "Pipeline" => pipelines.push(Change::ApplyPipeline { name, document }),
            server if listens(server) => servers.push(Change::ApplyServer { name, document }),
            "GlobalFilter" => filters.push(Change::ApplyGlobalFilter { name, document }),
            // Before whatever asks who they are.
            "Consumer" => filters.insert(0, Change::ApplyConsumer { name, document }),
            "OverloadManager" => filters.push(Change::ApplyOverload { name, document }),
            // Before the servers whose requests it is to hear of.
            "LogSink" => filters.push(Change::ApplyLogSink { name, document }),
            "AutoCertManager" => filters.push(Change::ApplyAutoCert { name, document }),
            "VirtualIP" => kernel = true,
            "AccessList" => access = true,
            kind if named(kind).is_some_and(|kind| kind.served) => {}
            kind => pipelines.push(Change::Unknown { name, kind: kind.to_owned() }),
        }
    }
    for name in over {
        let Some(document) = from.objects.get(name) else { continue };
        let name = name.clone();
        match kind(document).as_str() {
            "Pipeline" => gone_rest.push(Change::RemovePipeline { name }),
            server if listens(server) => gone_servers.push(Change::RemoveServer { name }),
            "GlobalFilter" => gone_rest.push(Change::RemoveGlobalFilter { name }),
            // First: a key may go from one to another in one change.
            "Consumer" => filters.insert(0, Change::RemoveConsumer { name }),
            "OverloadManager" => gone_rest.push(Change::RemoveOverload { name }),
            "LogSink" => gone_rest.push(Change::RemoveLogSink { name }),
            "AutoCertManager" => filters.insert(0, Change::RemoveAutoCert { name }),
            "VirtualIP" => kernel = true,
            "AccessList" => access = true,
            kind if named(kind).is_some_and(|kind| kind.served) => {}
            _ => gone_rest.push(Change::Forget { name }),
        }
    }
    // A port that one server gives up and another takes must be free first.
    let listens = !servers.is_empty() || !gone_servers.is_empty();
    let mut changes = gone_servers;
    if access {
        // Before anybody is served that they deny.
        changes.push(Change::Access);
    }
    // Without shared keys the machine keeps those it has: sessions go on.
    if from.tickets != to.tickets && !to.tickets.keys.is_empty() {
        changes.push(Change::Tickets);
    }
    changes.extend(keys);
    let purges = purges(from, to);
    if !purges.is_empty() {
        changes.push(Change::Purge(purges));
    }
    changes.append(&mut filters);
    changes.append(&mut pipelines);
    // After what they lead to, and before the servers that begin with them.
    changes.extend(by_server(rules));
    changes.append(&mut servers);
    changes.append(&mut gone_rest);
    if kernel || listens {
        changes.push(Change::Kernel);
    }
    changes
}

/// Rules of one server change together, however many they are.
fn by_server(rules: Vec<KeyChange>) -> impl Iterator<Item = Change> {
    let mut servers: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for KeyChange { key, value, .. } in rules {
        let (server, rule) = sections::rule_of(&key);
        servers.entry(server.to_owned()).or_default().push((rule.to_owned(), value.map(Told::kept)));
    }
    servers.into_iter().map(|(server, changes)| Change::Rules { server, changes })
}

/// Those that are new. Where some have been missed, or numbers have begun anew with another cluster, everything goes. A machine that has started
/// carries out again what the cluster remembers: a power cut may have taken it from the disks of its caches.
fn purges(from: &Desired, to: &Desired) -> Vec<Purge> {
    let (known, latest) = (from.purged, to.purged);
    let other = from.cluster_id != to.cluster_id || latest < known;
    let has_started = from.purges.is_empty();
    let nothing = latest == known && !other && !has_started;
    let (Some(first), false) = (to.purges.first(), nothing) else { return Vec::new() };
    if other || first.number > known + 1 {
        return vec![Purge { number: latest, cache: None, what: Purged::All }];
    }
    to.purges.iter().filter(|purge| has_started || purge.number > known).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Ticket, Tickets};
    use crate::sections::Section;
    use serde_json::json;

    fn desired(objects: &[(&str, Value)]) -> Desired {
        let objects = objects.iter().map(|(n, v)| ((*n).to_owned(), Arc::new(v.clone()))).collect();
        Desired { objects, ..Desired::default() }
    }

    #[test]
    fn pipelines_come_before_servers_and_go_after_them() {
        let server = json!({"kind": "HTTPServer", "port": 1});
        let pipeline = json!({"kind": "Pipeline"});
        let empty = desired(&[]);
        let full = desired(&[("a", server), ("b", pipeline)]);
        let names = |changes: Vec<Change>| -> Vec<String> {
            changes.iter().map(|c| format!("{c:?}").split([' ', '{']).next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(plan(&empty, &full)), ["ApplyPipeline", "ApplyServer", "Kernel"]);
        assert_eq!(names(plan(&full, &empty)), ["RemoveServer", "RemovePipeline", "Kernel"]);
        assert_eq!(plan(&full, &full.clone()), []);
    }

    #[test]
    fn only_what_changed_is_touched() {
        let one = json!({"kind": "Pipeline", "v": 1});
        let two = json!({"kind": "Pipeline", "v": 2});
        let from = desired(&[("p", one.clone()), ("q", one.clone())]);
        let to = desired(&[("p", one.clone()), ("q", two.clone())]);
        assert_eq!(plan(&from, &to), [Change::ApplyPipeline { name: "q".into(), document: Arc::new(two) }]);
        let other_kind = desired(&[("p", json!({"kind": "HTTPServer"})), ("q", one)]);
        let changes = plan(&from, &other_kind);
        assert!(
            matches!(&changes[0], Change::ApplyServer { .. }) && matches!(&changes[1], Change::RemovePipeline { .. })
        );
    }

    #[test]
    fn purges_are_carried_out_once_and_none_is_missed() {
        let with = |numbers: std::ops::RangeInclusive<u64>| {
            let purge = |number| Purge { number, cache: None, what: Purged::Tag(format!("t{number}").into()) };
            Desired { purged: *numbers.end(), purges: Arc::new(numbers.map(purge).collect()), ..Desired::default() }
        };
        let planned = |from: &Desired, to: &Desired| match plan(from, to).as_slice() {
            [] => Vec::new(),
            [Change::Purge(purges)] => purges.iter().map(|purge| (purge.number, purge.what == Purged::All)).collect(),
            other => panic!("{} changes", other.len()),
        };
        assert_eq!(planned(&with(1..=3), &with(1..=5)), [(4, false), (5, false)]);
        assert_eq!(planned(&with(1..=5), &with(1..=5)), []);
        assert_eq!(planned(&with(1..=5), &with(6..=9)).len(), 4);
        assert_eq!(planned(&with(1..=5), &with(7..=9)), [(9, true)], "one was missed");
        assert_eq!(planned(&with(1..=5), &with(1..=2)), [(2, true)], "of another cluster");
        let elsewhere = Desired { cluster_id: "other".into(), ..with(1..=5) };
        assert_eq!(planned(&with(1..=5), &elsewhere), [(5, true)]);
        // A machine that starts knows how far it was, and carries out again what the cluster remembers: its caches may have something on a disk.
        let started = |purged| Desired { purged, ..Desired::default() };
        assert_eq!(planned(&started(5), &with(4..=5)), [(4, false), (5, false)]);
        assert_eq!(planned(&started(3), &with(4..=5)), [(4, false), (5, false)]);
        assert_eq!(planned(&started(2), &with(4..=5)), [(5, true)], "one was missed");
        assert_eq!(planned(&started(5), &started(5)), [], "nothing is heard of the cluster yet");
    }

    #[test]
    fn ticket_keys_go_before_servers_and_are_not_taken_away() {
        let key = |n| Ticket { name: [n; 16], secret: [n; 32] };
        let tickets = Arc::new(Tickets { keys: vec![key(1)], current: 0 });
        let with = Desired { tickets, ..desired(&[("a", json!({"kind": "HTTPServer", "port": 1}))]) };
        let changes = plan(&desired(&[]), &with);
        assert!(matches!(changes[..], [Change::Tickets, Change::ApplyServer { .. }, Change::Kernel]), "{changes:?}");
        let without = Desired { tickets: Arc::default(), ..with.clone() };
        assert_eq!(plan(&with, &without), []);
    }

    #[test]
    fn whatever_listens_is_a_server() {
        let empty = desired(&[]);
        for kind in base_model::kinds::KINDS.iter().filter(|kind| listens(kind.name)) {
            let full = desired(&[("a", json!({"kind": kind.name, "port": 1}))]);
            let (made, gone) = (plan(&empty, &full), plan(&full, &empty));
            assert!(matches!(made[..], [Change::ApplyServer { .. }, Change::Kernel]), "{}: {made:?}", kind.name);
            assert!(matches!(gone[..], [Change::RemoveServer { .. }, Change::Kernel]), "{}: {gone:?}", kind.name);
        }
        // One that takes the place of another listens only when that is gone.
        let (tcp, udp) = (json!({"kind": "TCPProxy", "port": 1}), json!({"kind": "UDPProxy", "port": 1}));
        let changes = plan(&desired(&[("a", tcp)]), &desired(&[("a", udp)]));
        assert!(
            matches!(changes[..], [Change::RemoveServer { .. }, Change::ApplyServer { .. }, Change::Kernel]),
            "{changes:?}"
        );
    }

    #[test]
    fn what_was_learned_goes_before_the_pipelines_that_use_it() {
        let keys = [("r/s".to_owned(), Kept::of(&json!({"instances": []})))].into_iter().collect();
        let with = Desired {
            sections: Arc::new([("endpoints".to_owned(), Section::Learned(keys))].into()),
            ..desired(&[("p", json!({"kind": "Pipeline"}))])
        };
        let changes = plan(&desired(&[]), &with);
        assert!(matches!(&changes[..], [Change::Key(_), Change::ApplyPipeline { .. }]), "{changes:?}");
        let none = Desired { sections: Arc::default(), ..with.clone() };
        let changes = plan(&with, &none);
        assert!(matches!(&changes[..], [Change::Key(KeyChange { value: None, .. })]), "{changes:?}");
    }

    #[test]
    fn rules_of_a_server_change_together_after_what_they_lead_to_and_before_it() {
        let with = |rules: &[(&str, u64)], more: &[(&str, Value)]| {
            let keys = rules.iter().map(|(key, n)| ((*key).to_owned(), Kept::of(&json!({"n": n})))).collect();
            Desired { sections: Arc::new([("rules".to_owned(), Section::Learned(keys))].into()), ..desired(more) }
        };
        let objects = [("c/web", json!({"kind": "HTTPServer", "port": 1})), ("c/p", json!({"kind": "Pipeline"}))];
        let full = with(&[("c/web#0000 a", 1), ("c/web#0000 b", 1), ("c/tls#0000 a", 1)], &objects);
        let changes = plan(&desired(&[]), &full);
        assert!(
            matches!(
                &changes[..],
                [
                    Change::ApplyPipeline { .. },
                    Change::Rules { .. },
                    Change::Rules { .. },
                    Change::ApplyServer { .. },
                    Change::Kernel
                ]
            ),
            "{changes:?}"
        );
        let next = with(&[("c/web#0000 a", 2), ("c/tls#0000 a", 1)], &objects);
        let [Change::Rules { server, changes }] = &plan(&full, &next)[..] else { panic!("one server's rules changed") };
        let told: Vec<(&str, bool)> = changes.iter().map(|(key, rule)| (key.as_str(), rule.is_some())).collect();
        assert_eq!((server.as_str(), told), ("c/web", vec![("0000 b", false), ("0000 a", true)]));
    }

    #[test]
    fn a_kind_that_is_not_known_is_told_and_one_of_the_control_plane_is_not_the_edges() {
        let (empty, full) = (desired(&[]), desired(&[("a", json!({"kind": "Later"}))]));
        assert_eq!(plan(&empty, &full), [Change::Unknown { name: "a".into(), kind: "Later".into() }]);
        assert_eq!(plan(&full, &empty), [Change::Forget { name: "a".into() }]);
        assert_eq!(plan(&empty, &desired(&[("e", json!({"kind": "EtcdServiceRegistry"}))])), []);
    }

    #[test]
    fn virtual_ips_reach_the_kernel_only() {
        let from = desired(&[]);
        let to = desired(&[("v", json!({"kind": "VirtualIP"}))]);
        assert_eq!(plan(&from, &to), [Change::Kernel]);
        assert_eq!(plan(&to, &from), [Change::Kernel]);
    }
}
