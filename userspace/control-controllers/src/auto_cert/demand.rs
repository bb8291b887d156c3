//! Names that get a certificate because a client has asked an edge for them.
//!
//! Whoever can connect can ask for any name, so a name needs leave: that of the document's list, of its `ask` where there is one, and room
//! within `perHour` and `most`. What had leave is written down; a name that comes to nothing is forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use control_api::Section;
use control_api::client::Client;
use control_api::tls::ClientTrust;
use control_state::KeyPut;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{ACME, CERTIFICATES, Deposed, Shared, Stop, milliseconds};
use crate::host::Cluster;

/// What is remembered of names that were asked for.
#[derive(Default)]
pub(super) struct Demands {
    /// Names that got no leave, and when that is asked anew.
    denied: HashMap<String, Instant>,
    /// How often that was.
    pub refused: u64,
}

/// The names that had leave.
pub(super) fn names(acme: &Section) -> Vec<String> {
    let begins = acme.range(PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(PREFIX));
    begins.map(|(key, _)| key[PREFIX.len()..].to_owned()).collect()
}

impl<C: Cluster> Shared<C> {
    /// Takes note of names that were asked for, and forgets those that came to nothing.
    pub(super) async fn demand(&self, demands: &mut Demands, wanted: BTreeSet<String>) -> Result<(), Deposed> {
        let Some(rule) = &self.spec.on_demand else { return Ok(()) };
        let (acme, certificates) = (self.read(ACME), self.section(CERTIFICATES));
        let known = names(&acme.keys);
        let hopeless: Vec<String> = known
            .iter()
            .filter(|name| !certificates.contains_key(*name))
            .filter(|name| acme.record(name).is_some_and(|record| record.failures >= FAILURES_MAX))
            .flat_map(|name| [format!("{PREFIX}{name}"), format!("order/{name}")])
            .collect();
        if !hopeless.is_empty()
            && let Err(Stop::Deposed) = self.write(ACME, Vec::new(), hopeless).await
        {
            return Err(Deposed);
        }
        demands.denied.retain(|_, until| *until > Instant::now());
        let now = milliseconds(SystemTime::now());
        let since = |name: &String| {
            let value = acme.values.get(&format!("{PREFIX}{name}"));
            value.and_then(|value| value.get("since").and_then(Value::as_u64)).unwrap_or_default()
        };
        let mut lately = known.iter().filter(|name| is_recent(since(name), now)).count();
        let (mut count, mut puts) = (known.len(), Vec::new());
        let may = |name: &String| {
            let is_known = known.contains(name) || self.spec.manages(name);
            !is_known && self.spec.allows_on_demand(name) && !demands.denied.contains_key(name)
        };
        let asked: Vec<String> = wanted.into_iter().filter(may).collect();
        let full = |lately: usize, count: usize| lately >= rule.per_hour as usize || count >= rule.most as usize;
        for names in asked.chunks(ASKED_AT_ONCE) {
            let leave = match full(lately, count) {
                true => names.iter().map(|name| (name.clone(), Leave::No)).collect(),
                false => self.leave(&rule.ask, names).await,
            };
            let is_answered = leave.values().all(|leave| *leave != Leave::Unknown);
            for (name, leave) in leave {
                if leave != Leave::Yes || full(lately, count) {
                    demands.refused += 1;
                    if demands.denied.len() < DENIED_MAX {
                        demands.denied.insert(name, Instant::now() + DENIED);
                    }
                    continue;
                }
                (lately, count) = (lately + 1, count + 1);
                tracing::info!(
                    object = self.name,
                    name,
                    "a client has asked for this name, and it may have a certificate"
                );
                puts.push(KeyPut::new(format!("{PREFIX}{name}"), json!({"since": milliseconds(SystemTime::now())})));
            }
            if !is_answered {
                // Names that are due do not wait until each of the others was asked in vain; clients ask again.
                break;
            }
        }
        match puts.is_empty() {
            true => Ok(()),
            false => match self.write(ACME, puts, Vec::new()).await {
                Err(Stop::Deposed) => Err(Deposed),
                // Clients ask again.
                _ => Ok(()),
            },
        }
    }

    /// What whoever the document names says of these names, who is asked for all of them at the same time.
    async fn leave(&self, ask: &str, names: &[String]) -> BTreeMap<String, Leave> {
        let mut asking = JoinSet::new();
        for name in names {
            asking.spawn(asked(self.name.clone(), ask.to_owned(), name.clone()));
        }
        let mut leave: BTreeMap<String, Leave> = names.iter().map(|name| (name.clone(), Leave::Unknown)).collect();
        while let Some(said) = asking.join_next().await {
            leave.extend(said.ok());
        }
        leave
    }
}

/// What is said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Yes,
    No,
    /// Nobody answers.
    Unknown,
}

async fn asked(object: String, ask: String, name: String) -> (String, Leave) {
    if ask.is_empty() {
        return (name, Leave::Yes);
    }
    let Ok(client) = Client::trusting(PATIENCE, &ClientTrust::default()) else { return (name, Leave::Unknown) };
    let joint = if ask.contains('?') { '&' } else { '?' };
    // Names of DNS have nothing in them that would have to be encoded.
    let url = format!("{ask}{joint}domain={name}");
    match client.open(Method::GET, &url, &[], PATIENCE).await {
        Ok(answer) if answer.status() == StatusCode::OK => (name, Leave::Yes),
        Ok(_) => (name, Leave::No),
        Err(error) => {
            tracing::warn!(object, name, "nobody says whether it may have a certificate: {error}");
            (name, Leave::Unknown)
        }
    }
}

/// Whether a name was asked for within the hour, both in milliseconds since 1970. One that is beyond an hour to come was written while a
/// member's clock was ahead, and would count until everybody's has come to that.
fn is_recent(since: u64, now: u64) -> bool {
    now.abs_diff(since) < HOUR_MS
}

const PREFIX: &str = "demand/";
const HOUR_MS: u64 = 3_600_000;
/// A name that fails so often in a row and never had a certificate is forgotten; a client may ask for it again.
const FAILURES_MAX: u32 = 3;
/// How long no is an answer, and for how many names at a time.
const DENIED: Duration = Duration::from_secs(60);
const DENIED_MAX: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(3);
/// Names that are asked for at the same time.
const ASKED_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_within_the_hour_whatever_clocks_say() {
        let now = 1_000_000_000;
        for (since, recent) in [
            (now, true),
            (now - HOUR_MS + 1, true),
            (now - HOUR_MS, false),
            (0, false),
            (now + 60_000, true),
            (now + 365 * 24 * HOUR_MS, false),
        ] {
            assert_eq!(is_recent(since, now), recent, "{since}");
        }
    }
}
