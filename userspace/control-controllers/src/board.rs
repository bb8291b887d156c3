//! What is told of the controllers that run here: by object, for `/status/objects` and the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use base_text::quoted;
use control_api::time::rfc3339;
use control_kubernetes::ingress::Reports;
use control_kubernetes::report::Report;
use control_kubernetes::{Key, Kind};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::telling::Went;

/// Written by controllers, read by whoever asks. It outlives the member's control half.
#[derive(Debug, Default)]
pub struct Board {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Writes that were refused because another member leads by now.
    pub fenced: AtomicU64,
    /// Controllers that panicked, and started again.
    pub restarts: AtomicU64,
    /// Names that clients have asked edges for.
    wanted: Mutex<BTreeSet<String>>,
    /// Told when there are some.
    asked: Notify,
}

/// How one controller is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    pub kind: String,
    /// What is wrong: with what it observes, or with itself.
    pub fault: Option<String>,
    /// Instances by service, as they were said last.
    pub instances: BTreeMap<String, usize>,
    /// When what it observes was last known to be well.
    pub last_good: Option<Moment>,
    /// What cannot be used, by service, in words.
    pub refused: BTreeMap<String, Vec<String>>,
    /// Why a service keeps servers that the registry does not have any more.
    pub held: BTreeMap<String, String>,
    /// Services that pools ask for and that what it observes does not have: the pools have no servers of it.
    pub lacking: BTreeSet<String>,
    /// Services beyond the bound of how many are watched, which are not.
    pub left_out: BTreeSet<String>,
    /// Of objects of Kubernetes: what became of each.
    pub reports: Reports,
    /// How many of them, by kind and by what became of them.
    pub states: BTreeMap<(String, String), usize>,
    /// What is not well with all of it.
    pub remarks: Vec<String>,
    /// What the API server could not be told last, and is not told now.
    pub untold: Option<String>,
    /// Why it cannot be told anything at the moment.
    pub put_off: Option<String>,
    pub tells: Tells,
    pub faults_total: u64,
    pub changes_total: u64,
    /// Of an AutoCertManager, which has nothing of the above but its fault.
    pub auto_cert: Option<AutoCertFigures>,
}

/// A moment, as people read it, and how long ago it is whatever becomes of the machine's clock: one that jumps makes nothing old.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    pub read: SystemTime,
    pub passed: Instant,
}

impl Moment {
    pub fn now() -> Moment {
        Moment { read: SystemTime::now(), passed: Instant::now() }
    }
}

/// How often the API server was told a status or an event, and how that went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tells {
    pub told_total: u64,
    /// It had too much to do, or did not answer: each is told again.
    pub put_off_total: u64,
    /// Somebody else had written to the object: what is to be told is decided anew.
    pub superseded_total: u64,
    /// It refused, or there was no answer for long.
    pub failed_total: u64,
}

/// What is told of an AutoCertManager.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AutoCertFigures {
    /// How each name is, as the status shows it.
    pub domains: Vec<Value>,
    /// Names without a certificate that could be renewed, and how often in a row it failed.
    pub failing: BTreeMap<String, u32>,
    /// Since this member leads.
    pub issued_total: u64,
    pub failed_total: u64,
    pub requests_total: u64,
    pub bad_nonces_total: u64,
    /// Names that clients asked for and that got none, for a bound or because the document's `ask` said no.
    pub demands_refused_total: u64,
}

impl Board {
    pub fn update(&self, object: &str, change: impl FnOnce(&mut Entry)) {
        change(self.lock().entry(object.to_owned()).or_default());
    }

    /// Counts what became of something that the API server was to be told.
    pub fn tells(&self, object: &str, went: &Went) {
        self.update(object, |entry| {
            let is_answered = match went {
                Went::Told | Went::Untold(_, None) => true,
                Went::PutOff(_) => false,
                Went::Untold(_, Some(why)) => !why.is_passing(),
            };
            // Whatever it says, it says something again.
            if is_answered && entry.put_off.take().is_some() {
                tracing::info!(object, "the API server can be told how its objects are again");
            }
            match went {
                Went::Told => entry.tells.told_total += 1,
                Went::PutOff(why) => {
                    entry.tells.put_off_total += 1;
                    // It is tried again and again, and told once.
                    if entry.put_off.replace(why.clone()).is_none() {
                        tracing::warn!(object, "{why}; it is told later");
                    }
                }
                Went::Untold(_, None) => entry.tells.superseded_total += 1,
                Went::Untold(_, Some(_)) => entry.tells.failed_total += 1,
            }
        });
    }

    /// Clients have asked edges for these names, and there is no certificate for them. What is too much at a time is asked for again.
    pub fn want(&self, names: impl IntoIterator<Item = String>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if wanted.len() < WANTED_MAX {
                wanted.insert(name);
            }
        }
        self.asked.notify_one();
    }

    /// Those of which nobody has taken note yet.
    pub fn take_wanted(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when names have been asked for.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Nothing runs for this object any more.
    pub fn remove(&self, object: &str) {
        self.lock().remove(object);
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.lock().clone()
    }

    /// Statuses by object, of one or of all, as Easegress's registries have them and with what is ours.
    pub fn statuses(&self, name: Option<&str>) -> BTreeMap<String, Value> {
        let now = Instant::now();
        let entries = self.lock();
        let chosen = entries.iter().filter(|(object, _)| name.is_none_or(|name| name == *object));
        // Reports of ten thousand objects are for whoever asks for them.
        let json = |entry: &Entry| {
            let mut status = entry.json(now);
            if name.is_some() && !entry.reports.is_empty() {
                let object = |((kind, key), report): (&(Kind, Key), &Report)| {
                    let mut value = report.json();
                    value["kind"] = json!(kind.name());
                    (format!("{} {key}", kind.plural()), value)
                };
                status["objects"] = Value::Object(entry.reports.iter().map(object).collect());
            }
            status
        };
        chosen.map(|(object, entry)| (object.clone(), json(entry))).collect()
    }

    pub fn fenced_out(&self) {
        self.fenced.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Seconds since what it observes was known to be well.
    pub fn age_s(&self, now: Instant) -> Option<f64> {
        Some(now.saturating_duration_since(self.last_good?.passed).as_secs_f64())
    }

    fn json(&self, now: Instant) -> Value {
        if self.kind == "AutoCertManager" {
            let domains = self.auto_cert.as_ref().map(|figures| figures.domains.clone()).unwrap_or_default();
            return json!({"health": self.fault.as_deref().unwrap_or("ready"), "domains": domains});
        }
        let mut status = json!({
            "health": self.fault.as_deref().unwrap_or("ready"),
            "instancesNum": self.instances,
        });
        if self.kind == "ZookeeperServiceRegistry" {
            status["serviceInstancesNum"] = json!(self.instances);
        }
        if let Some(good) = self.last_good {
            status["lastGood"] = json!(rfc3339(good.read));
            status["lastGoodAgeSeconds"] = json!(self.age_s(now).unwrap_or_default().round());
        }
        if !self.refused.is_empty() {
            status["refused"] = json!(self.refused);
        }
        if !self.held.is_empty() {
            status["held"] = json!(self.held);
        }
        if !self.lacking.is_empty() {
            status["lacking"] = json!(told(&self.lacking, |service| format!(
                "pools ask for {}, which the registry does not have; they answer 503 unless they have servers of their own",
                quoted(service)
            )));
        }
        if !self.left_out.is_empty() {
            status["leftOut"] = json!(told(&self.left_out, |service| format!(
                "{} is not watched: {SERVICES_MAX} services are the most of one registry; put the others into a second one",
                quoted(service)
            )));
        }
        for ((kind, state), count) in &self.states {
            status["states"][kind][state] = json!(count);
        }
        if !self.remarks.is_empty() {
            status["remarks"] = json!(self.remarks);
        }
        if let Some(untold) = &self.untold {
            status["untold"] = json!(untold);
        }
        if let Some(put_off) = &self.put_off {
            status["putOff"] = json!(put_off);
        }
        status
    }
}

/// The first of many, each in words, and how many more there are.
fn told(services: &BTreeSet<String>, words: impl Fn(&str) -> String) -> Vec<String> {
    let mut told: Vec<String> = services.iter().take(SERVICES_TOLD).map(|service| words(service)).collect();
    let more = services.len() - told.len();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

/// Services of one registry that are watched; those beyond it, by name, are told of and left out.
pub(crate) const SERVICES_MAX: usize = 4096;
const SERVICES_TOLD: usize = 16;
/// Names that are asked for between two looks.
const WANTED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_put_off_is_so_until_something_is_answered() {
        use control_kubernetes::ApiError;
        let board = Board::default();
        let tell = || crate::tell::Tell::Event { kind: Kind::Ingress, key: Key::new("n", "i"), event: Value::Null };
        let error = |status| ApiError { status, told: "no".into(), retry_after: None };
        let is_put_off = |went: Went| {
            board.tells("ing", &went);
            board.entries()["ing"].put_off.is_some()
        };
        let busy = || Went::PutOff("429".into());
        assert!(is_put_off(busy()) && is_put_off(Went::Untold(tell(), Some(error(503)))));
        assert!(!is_put_off(Went::Untold(tell(), Some(error(403)))), "it has answered");
        for answered in [Went::Told, Went::Untold(tell(), None)] {
            assert!(is_put_off(busy()) && !is_put_off(answered));
        }
        let counted = Tells { told_total: 1, put_off_total: 3, superseded_total: 1, failed_total: 2 };
        assert_eq!(board.entries()["ing"].tells, counted);
    }

    #[test]
    fn a_status_is_easegresss_with_the_age_of_the_last_good_answer() {
        let (good, read) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        let mut entry = Entry { last_good: Some(Moment { read, passed: good }), ..Entry::default() };
        entry.instances.insert("orders".into(), 2);
        let status = entry.json(good + Duration::from_secs(7));
        assert_eq!(
            status["lastGood"], "1970-01-01T00:01:40Z",
            "the clock was set right since, and nothing is older for it"
        );
        assert_eq!(status["health"], "ready");
        assert_eq!((&status["instancesNum"]["orders"], &status["lastGoodAgeSeconds"]), (&json!(2), &json!(7.0)));
        assert!(["refused", "held", "lacking", "leftOut"].iter().all(|name| status.get(name).is_none()), "{status}");
        entry.lacking = (0..20).map(|n| format!("s{n:02}")).collect();
        entry.left_out.insert("z".into());
        let status = entry.json(good);
        let lacking = status["lacking"].as_array().unwrap();
        assert!(lacking[0].as_str().unwrap().starts_with("pools ask for \"s00\", which"), "{status}");
        assert_eq!((lacking.len(), &lacking[SERVICES_TOLD]), (SERVICES_TOLD + 1, &json!("and 4 more")));
        assert!(status["leftOut"][0].as_str().unwrap().contains("4096 services are the most"), "{status}");
        entry.fault = Some("etcd at http://a: refused".into());
        assert_eq!(entry.json(good)["health"], "etcd at http://a: refused");
    }
}
