//! What can be said of a member before it is started: of its data directory, and of those it is to talk to.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::Method;

use control_state::State;

use crate::config::{Config, StartError, StartErrorKind, same_place};
use crate::publish::Publisher;
use crate::store::{Identity, OpenError, Store};
use crate::wire::{IdentityAnswer, Wire};

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// No member's state.
    Nothing,
    /// A member runs on it.
    InUse,
    Of {
        name: String,
        cluster_name: String,
        /// That its cluster is over, in words.
        superseded: Option<String>,
    },
    /// In words.
    Unusable(String),
}

/// Opens what is there and closes it again.
pub async fn look_at(directory: &Path) -> Held {
    if !Store::is_there(directory) {
        return Held::Nothing;
    }
    match Store::open(directory, Identity::default()) {
        Ok(store) => {
            let Identity { name, cluster_name, superseded, .. } = store.identity();
            store.close().await;
            Held::Of { name, cluster_name, superseded }
        }
        Err(OpenError::Busy { .. }) => Held::InUse,
        Err(error) => Held::Unusable(error.to_string()),
    }
}

/// How another member is found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub url: String,
    /// Its name, or why it does not answer this member.
    pub answer: Result<String, String>,
    /// How far its clock is ahead of ours, in seconds, and how sure that is.
    pub clock: Option<(f64, f64)>,
    /// Nothing accepts connections there.
    pub silent: bool,
}

/// Calls every other member that the flags name, as this member would.
pub async fn look_for_peers(config: &Config) -> Result<Vec<Found>, StartError> {
    let wire = Wire::new(config, Publisher::new(State::default()))
        .map_err(|error| StartError::new(StartErrorKind::Config, error.to_string()))?;
    let own = config.listen_peer_urls.iter().chain(&config.advertise_peer_url);
    let own: Vec<String> = own.cloned().chain(config.initial_cluster.get(&config.name).cloned()).collect();
    let others = config.initial_cluster.iter().filter(|(name, _)| **name != config.name);
    let mut urls: BTreeMap<String, String> = others.map(|(name, url)| (url.clone(), name.clone())).collect();
    for url in &config.primary_peer_urls {
        urls.entry(url.clone()).or_default();
    }
    urls.retain(|url, _| !own.iter().any(|own| same_place(own, url)));
    let mut asked = tokio::task::JoinSet::new();
    for (url, name) in urls {
        let wire = wire.clone();
        asked.spawn(async move { look_for(&wire, url, name).await });
    }
    let mut found = asked.join_all().await;
    found.sort_by(|a, b| a.url.cmp(&b.url));
    Ok(found)
}

async fn look_for(wire: &Wire, url: String, name: String) -> Found {
    // The first call agrees on how to sign; the second one's time is the answer's.
    let _ = wire.call(Method::GET, &url, "", "/raft/identity", Bytes::new(), PATIENCE).await;
    let (sent, began) = (SystemTime::now(), Instant::now());
    match wire.call(Method::GET, &url, "", "/raft/identity", Bytes::new(), PATIENCE).await {
        Ok(answer) => {
            let taken = began.elapsed();
            let clock = answer.headers.get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            let clock = clock.map(|theirs| {
                // The header has whole seconds, cut off; it was written between the two moments.
                let ours = sent.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + taken / 2;
                let theirs = theirs.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                (theirs.as_secs_f64() + 0.5 - ours.as_secs_f64(), 0.5 + taken.as_secs_f64() / 2.0)
            });
            let said: Result<IdentityAnswer, _> = serde_json::from_slice(&answer.body);
            let answer = match said {
                Ok(said) if name.is_empty() || said.name == name => Ok(said.name),
                Ok(said) => Err(format!(
                    "member {} is there, and --initial-cluster says {}: correct the URLs in it",
                    base_text::quoted(&said.name),
                    base_text::quoted(&name)
                )),
                Err(error) => Err(format!("what answers there is no member: {error}")),
            };
            Found { url, answer, clock, silent: false }
        }
        Err(error) => {
            let silent = matches!(&error, crate::wire::WireError::Call(call) if call.unsent);
            Found { url, answer: Err(error.to_string()), clock: None, silent }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(3);
