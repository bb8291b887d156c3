//! What the cluster shall know of a registry's services, from what the registry said: pure.
//!
//! A registry that is sick answers with nothing as readily as with an error. So an emptiness is believed only when the registry has
//! kept saying so for a while, and never where it said things that cannot be used; until then a service keeps its last servers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use control_registries::record::{Instance, Judged};

/// What is known of a registry.
#[derive(Debug, Default)]
pub struct Observed {
    /// By service.
    pub services: BTreeMap<String, Judged>,
    /// It has said all that it has: a service that is not there has no instances.
    pub whole: bool,
    /// It is not well at the moment: what it said before is no news.
    pub faulty: bool,
    /// The same of single services.
    pub troubles: BTreeMap<String, String>,
    /// Services that are lacking, as it was told last.
    pub told: BTreeSet<String>,
    /// Since when a service is said to be empty.
    empty_since: BTreeMap<String, Instant>,
    /// Since when no pool asks for a service that the cluster knows.
    unwanted_since: BTreeMap<String, Instant>,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub puts: BTreeMap<String, Vec<Instance>>,
    pub deletes: Vec<String>,
    /// Services that keep servers that the registry does not have, and why.
    pub held: BTreeMap<String, String>,
    /// Services that pools ask for and that the registry has never had: whoever misspells a name is told so.
    pub lacking: BTreeSet<String>,
    /// When to look again although nothing is heard.
    pub due: Option<Instant>,
}

impl Observed {
    /// What was said before says nothing about now.
    pub fn went_wrong(&mut self) {
        self.faulty = true;
        self.empty_since.clear();
    }

    pub fn trouble(&mut self, service: &str, why: String) {
        self.empty_since.remove(service);
        self.troubles.insert(service.to_owned(), why);
    }

    fn of(&self, service: &str) -> Option<Judged> {
        if self.faulty || self.troubles.contains_key(service) {
            return None;
        }
        let known = self.services.get(service).cloned();
        known.or_else(|| self.whole.then(Judged::default))
    }

    /// `current` is what the cluster knows by service.
    pub fn plan(
        &mut self,
        wanted: &BTreeSet<String>,
        current: &BTreeMap<String, Vec<Instance>>,
        empty_after: Duration,
        now: Instant,
    ) -> Plan {
        if !self.whole {
            // Of a service that is not asked for nothing is heard any more: what was said of it some day says nothing when it is
            // asked for again.
            self.services.retain(|service, _| wanted.contains(service) || current.contains_key(service));
        }
        let mut plan = Plan::default();
        let mut due = |at: Instant| plan.due = Some(plan.due.map_or(at, |due: Instant| due.min(at)));
        for service in wanted {
            // Also of one that is not well now, where the cluster knows nothing of it yet: it is what was said last.
            let known = self.of(service).or_else(|| {
                let said = self.services.get(service).filter(|_| !current.contains_key(service));
                said.filter(|said| !said.instances.is_empty()).cloned()
            });
            let Some(judged) = known else { continue };
            let has = current.get(service).map(Vec::as_slice).unwrap_or_default();
            if !judged.instances.is_empty() {
                self.empty_since.remove(service);
                if judged.instances != has {
                    plan.puts.insert(service.clone(), judged.instances);
                }
                continue;
            }
            if has.is_empty() {
                if judged.refused.is_empty() {
                    plan.lacking.insert(service.clone());
                }
                continue;
            }
            if !judged.refused.is_empty() {
                self.empty_since.remove(service);
                let why = "nothing of what the registry has of it can be used; its last servers are used on".to_owned();
                plan.held.insert(service.clone(), why);
                continue;
            }
            let believed = *self.empty_since.entry(service.clone()).or_insert(now) + empty_after;
            if now >= believed {
                self.empty_since.remove(service);
                plan.deletes.push(service.clone());
            } else {
                due(believed);
                let why = format!(
                    "the registry has none of its instances any more; that is believed when it has been so for {} (emptyAfter)",
                    base_text::duration(empty_after)
                );
                plan.held.insert(service.clone(), why);
            }
        }
        self.empty_since.retain(|service, _| wanted.contains(service));
        self.unwanted_since.retain(|service, _| !wanted.contains(service) && current.contains_key(service));
        for service in current.keys().filter(|service| !wanted.contains(*service)) {
            let forgotten = *self.unwanted_since.entry(service.clone()).or_insert(now) + UNWANTED;
            if now >= forgotten {
                plan.deletes.push(service.clone());
                if !self.whole {
                    self.services.remove(service);
                }
            } else {
                due(forgotten);
            }
        }
        plan
    }
}

/// A pipeline that is deleted and made anew finds the servers it had, whatever has become of the registry.
const UNWANTED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(30);

    fn instances(ids: &[&str]) -> Vec<Instance> {
        let instance =
            |id: &&str| Instance { id: (*id).to_owned(), address: "10.0.0.1".into(), port: 80, ..Instance::default() };
        ids.iter().map(instance).collect()
    }

    fn said(ids: &[&str], refused: &[&str]) -> Judged {
        Judged { instances: instances(ids), refused: refused.iter().map(|why| (*why).to_owned()).collect() }
    }

    fn wanted(services: &[&str]) -> BTreeSet<String> {
        services.iter().map(|service| (*service).to_owned()).collect()
    }

    fn knows(services: &[(&str, &[&str])]) -> BTreeMap<String, Vec<Instance>> {
        services.iter().map(|(service, ids)| ((*service).to_owned(), instances(ids))).collect()
    }

    #[test]
    fn what_pools_ask_for_is_written_and_nothing_else() {
        let mut observed = Observed { whole: true, ..Observed::default() };
        observed.services.insert("a".into(), said(&["1", "2"], &[]));
        observed.services.insert("b".into(), said(&["1"], &[]));
        let now = Instant::now();
        let plan = observed.plan(&wanted(&["a", "c"]), &knows(&[]), AFTER, now);
        assert_eq!(plan, Plan { puts: knows(&[("a", &["1", "2"])]), lacking: wanted(&["c"]), ..Plan::default() });
        let plan = observed.plan(&wanted(&["a"]), &knows(&[("a", &["1", "2"])]), AFTER, now);
        assert_eq!(plan, Plan::default(), "nothing is different");
    }

    #[test]
    fn a_service_that_the_registry_never_had_is_named_once_it_has_said_so() {
        let (a, now) = (wanted(&["a"]), Instant::now());
        let mut observed = Observed::default();
        assert_eq!(observed.plan(&a, &knows(&[]), AFTER, now), Plan::default(), "it has not said anything yet");
        observed.services.insert("a".into(), said(&[], &[]));
        assert_eq!(observed.plan(&a, &knows(&[]), AFTER, now).lacking, a);
        observed.services.insert("a".into(), said(&[], &["port 0"]));
        assert_eq!(
            observed.plan(&a, &knows(&[]), AFTER, now).lacking,
            wanted(&[]),
            "why it has none is told otherwise"
        );
        let mut observed = Observed { whole: true, ..Observed::default() };
        assert_eq!(observed.plan(&a, &knows(&[]), AFTER, now).lacking, a);
        observed.went_wrong();
        assert_eq!(observed.plan(&a, &knows(&[]), AFTER, now), Plan::default(), "it says nothing now");
    }

    #[test]
    fn an_empty_answer_is_believed_after_a_while_and_not_of_one_that_is_not_well() {
        let mut observed = Observed { whole: true, ..Observed::default() };
        let (a, known, now) = (wanted(&["a"]), knows(&[("a", &["1"])]), Instant::now());
        let plan = observed.plan(&a, &known, AFTER, now);
        assert!(plan.deletes.is_empty() && plan.held["a"].contains("30s"), "{plan:?}");
        assert_eq!(plan.due, Some(now + AFTER));
        let almost = now + AFTER - Duration::from_millis(1);
        assert!(observed.plan(&a, &known, AFTER, almost).deletes.is_empty());
        assert_eq!(observed.plan(&a, &known, AFTER, now + AFTER).deletes, ["a"]);

        observed.plan(&a, &known, AFTER, now);
        observed.went_wrong();
        let later = now + AFTER * 10;
        assert_eq!(observed.plan(&a, &known, AFTER, later), Plan::default(), "it says nothing now");
        observed.faulty = false;
        assert!(observed.plan(&a, &known, AFTER, later).deletes.is_empty(), "the time begins anew");
        observed.services.insert("a".into(), said(&["2"], &[]));
        assert_eq!(observed.plan(&a, &known, AFTER, later).puts, knows(&[("a", &["2"])]));
        observed.services.insert("a".into(), said(&[], &[]));
        assert_eq!(
            observed.plan(&a, &known, Duration::ZERO, later).deletes,
            ["a"],
            "unless it is to be believed at once"
        );
    }

    #[test]
    fn what_cannot_be_used_empties_nothing_however_long_it_is_said() {
        let mut observed = Observed { whole: true, ..Observed::default() };
        observed.services.insert("a".into(), said(&[], &["port 0"]));
        let (a, known, now) = (wanted(&["a"]), knows(&[("a", &["1"])]), Instant::now());
        for hours in [0, 1, 100] {
            let plan = observed.plan(&a, &known, AFTER, now + Duration::from_secs(3600) * hours);
            assert!(plan.deletes.is_empty() && plan.held.contains_key("a"), "{plan:?}");
        }
        observed.trouble("b", "403".into());
        observed.services.insert("b".into(), said(&[], &[]));
        let plan = observed.plan(&wanted(&["b"]), &knows(&[("b", &["1"])]), Duration::ZERO, now);
        assert_eq!(plan, Plan::default(), "of one service that cannot be asked for nothing is known");
    }

    #[test]
    fn what_nobody_asks_for_any_more_goes_later() {
        let mut observed = Observed::default();
        let (none, known, now) = (wanted(&[]), knows(&[("a", &["1"])]), Instant::now());
        let plan = observed.plan(&none, &known, AFTER, now);
        assert_eq!((plan.deletes.len(), plan.due), (0, Some(now + UNWANTED)));
        observed.plan(&wanted(&["a"]), &known, AFTER, now + UNWANTED);
        assert!(observed.plan(&none, &known, AFTER, now + UNWANTED).deletes.is_empty(), "somebody did meanwhile");
        assert_eq!(observed.plan(&none, &known, AFTER, now + UNWANTED * 2).deletes, ["a"]);
    }

    #[test]
    fn what_was_said_of_a_service_that_nobody_asks_for_is_forgotten_with_it() {
        let mut observed = Observed::default();
        let (none, now) = (wanted(&[]), Instant::now());
        observed.services.insert("a".into(), said(&["1"], &[]));
        let plan = observed.plan(&wanted(&["a"]), &knows(&[]), AFTER, now);
        assert_eq!(plan.puts, knows(&[("a", &["1"])]));
        observed.plan(&none, &knows(&[("a", &["1"])]), AFTER, now);
        assert_eq!(observed.plan(&none, &knows(&[("a", &["1"])]), AFTER, now + UNWANTED).deletes, ["a"]);
        // Hours later.
        let plan = observed.plan(&wanted(&["a"]), &knows(&[]), AFTER, now + UNWANTED * 100);
        assert_eq!(plan, Plan::default(), "the registry has not said anything of it since");
    }

    #[test]
    fn a_pool_that_comes_while_the_registry_is_gone_gets_what_was_said_last() {
        let mut observed = Observed { whole: true, ..Observed::default() };
        observed.services.insert("a".into(), said(&["1"], &[]));
        observed.went_wrong();
        let plan = observed.plan(&wanted(&["a"]), &knows(&[]), AFTER, Instant::now());
        assert_eq!(plan.puts, knows(&[("a", &["1"])]));
    }
}
