//! The keys that what is secret in the cluster's state is sealed with, and how every member comes to them.
//!
//! Where members share a secret (`--cluster-secret-file`) they follow from it. Elsewhere the leader draws one when it is needed first,
//! and gives it to the others over their peer URLs; each keeps it in a file of its data directory, and asks for one that it lacks. No
//! log, snapshot or backup has a key in it, only its id.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base_tls::seal::{Keyring, SealKey};
use bytes::Bytes;
use control_api::{Member, MemberRole};
use control_raft::{ClusterSecret, Control};
use control_state::State;
use hyper::Method;

use crate::host::Cluster;

/// See the module doc.
pub struct Keys {
    path: PathBuf,
    secret: Option<ClusterSecret>,
    /// What is in the file, the one that seals first.
    kept: Mutex<Vec<String>>,
}

impl Keys {
    /// Takes what the data directory has into the [`Keyring`] of this process.
    pub fn open(data_dir: &Path, secret: Option<ClusterSecret>) -> Result<Arc<Keys>, String> {
        let path = data_dir.join(FILE);
        let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(told(&format_args!("{error}; give a directory this user can write to"))),
        };
        let kept: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if kept.iter().any(|line| SealKey::read(line).is_none()) {
            return Err(told(
                &"not the keys of a cluster; restore the file, or remove it: other members have the keys",
            ));
        }
        let keys = Keys { path, secret, kept: Mutex::new(kept) };
        keys.refresh();
        Ok(Arc::new(keys))
    }

    /// Brings the [`Keyring`] to what file and secret say now.
    pub fn refresh(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let derived = self.derived().into_iter().filter_map(SealKey::of);
        let wanted: Vec<SealKey> = derived.chain(kept.iter().filter_map(|line| SealKey::read(line))).collect();
        let there = Keyring::here().keys();
        let same = there.len() == wanted.len() && there.iter().zip(&wanted).all(|(a, b)| a.id() == b.id());
        if !same {
            Keyring::here().set(wanted);
        }
    }

    fn derived(&self) -> Vec<[u8; 32]> {
        self.secret.as_ref().map(|secret| secret.derived("seal")).unwrap_or_default()
    }

    /// Keeps a key; the one that is to seal goes before the others.
    fn keep(&self, key: &SealKey, seals: bool) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = kept.clone();
        lines.retain(|line| *line != key.text());
        if seals {
            lines.insert(0, key.text());
        } else {
            lines.push(key.text());
        }
        lines.truncate(KEPT_MAX);
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let draft = self.path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all((lines.join("\n") + "\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        *kept = lines;
        drop(kept);
        self.refresh();
        Ok(())
    }

    /// What another member is told that lacks the key of this id.
    pub fn text_of(&self, id: &str) -> Option<String> {
        Keyring::here().keys().iter().find(|key| key.id() == id).map(|key| key.text())
    }

    /// Takes a key that another member gives.
    pub fn take(&self, text: &str) -> Result<(), String> {
        let key = SealKey::read(text).ok_or("not a key")?;
        if Keyring::here().has(key.id()) {
            return Ok(());
        }
        self.keep(&key, true).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Sees to it, on the leader, that there is a key to seal with, and that enough of the others have it. `Ok` with an id that the
    /// state is to name.
    pub async fn settle<C: Cluster>(&self, cluster: &C, named: Option<&str>) -> Result<Option<String>, String> {
        self.refresh();
        let ring = Keyring::here();
        if !self.derived().is_empty() {
            return ring.current().map(|_| None).ok_or_else(|| "the cluster's secret gives no key".to_owned());
        }
        let seals = ring.current();
        if let (Some(id), Some(seals)) = (named, &seals)
            && seals.id() == id
        {
            return Ok(None);
        }
        let others = others(&cluster.state(), &cluster.name());
        if cluster.exposed() && !others.is_empty() {
            return Err(
                "members talk in plain text without a secret, so private keys are not told among them: give them \
                        --cluster-secret-file, or https:// peer URLs"
                    .to_owned(),
            );
        }
        if let Some(id) = named {
            match self.text_of(id) {
                Some(text) => return self.seal_with(&SealKey::read(&text)).map(|()| None),
                None => match ask(cluster, &others, id).await {
                    Asked::Has(key) => return self.seal_with(&Some(key)).map(|()| None),
                    Asked::Silent(who) => {
                        return Err(format!(
                            "the key {id} that private keys are sealed with is not on this member, and {who} does not answer; it is \
                             asked again"
                        ));
                    }
                    Asked::Nobody => {
                        tracing::error!(key = id, "nobody has the key that was sealed with; another is drawn")
                    }
                },
            }
        }
        let key = match seals.filter(|_| named.is_none()).and_then(|key| SealKey::read(&key.text())) {
            Some(key) => key,
            None => SealKey::draw().ok_or("the machine has no random numbers")?,
        };
        self.seal_with(&SealKey::read(&key.text()))?;
        give(cluster, &others, &key).await?;
        Ok(Some(key.id().to_owned()))
    }

    fn seal_with(&self, key: &Option<SealKey>) -> Result<(), String> {
        let key = key.as_ref().ok_or("not a key")?;
        self.keep(key, true).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

enum Asked {
    Has(SealKey),
    /// One that may have it does not answer.
    Silent(String),
    Nobody,
}

fn others(state: &State, own: &str) -> Vec<Member> {
    let others = state.view.members.values().filter(|member| member.name != own && !member.peer_url.is_empty());
    others.map(|member| Member::clone(member)).collect()
}

async fn ask<C: Cluster>(cluster: &C, others: &[Member], id: &str) -> Asked {
    let mut silent = None;
    for member in others {
        match cluster.call(member, Method::GET, &format!("{PATH}/{id}"), Bytes::new()).await {
            Ok(text) => {
                let key = std::str::from_utf8(&text).ok().and_then(SealKey::read).filter(|key| key.id() == id);
                if let Some(key) = key {
                    return Asked::Has(key);
                }
            }
            Err(_) => silent = Some(member.name.clone()),
        }
    }
    silent.map_or(Asked::Nobody, Asked::Silent)
}

/// Gives a new key to all; enough of those that vote must have it, so that the next leader has it, whoever that is.
async fn give<C: Cluster>(cluster: &C, others: &[Member], key: &SealKey) -> Result<(), String> {
    let votes = |member: &&Member| member.role == MemberRole::Primary;
    let needed = others.iter().filter(votes).count().div_ceil(2);
    let (mut have, mut refused) = (0, Vec::new());
    for member in others {
        match cluster.call(member, Method::POST, PATH, key.text()).await {
            Ok(_) => have += usize::from(votes(&member)),
            Err(why) => refused.push(why),
        }
    }
    if have < needed {
        let (first, voters) = (refused.first().cloned().unwrap_or_default(), others.iter().filter(votes).count() + 1);
        return Err(format!(
            "too few members have the key that private keys are sealed with ({} of {voters}): {first}; it is tried again",
            have + 1
        ));
    }
    Ok(())
}

/// Asks the others for the key that the state names while this member lacks it, for as long as it is not dropped.
pub async fn follow(control: Control, keys: Arc<Keys>) {
    loop {
        keys.refresh();
        let state = Cluster::state(&control);
        if let Some(id) = named(&state)
            && !Keyring::here().has(&id)
            && let Asked::Has(key) = ask(&control, &others(&state, control.name()), &id).await
        {
            match keys.take(&key.text()) {
                Ok(()) => tracing::info!(key = id, "another member has given the key of the cluster"),
                Err(why) => tracing::error!("{why}; what is sealed stays closed here"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The id of the key that is sealed with, as the state has it.
pub fn named(state: &State) -> Option<String> {
    let keyed = state.view.sections.get(crate::auto_cert::ACME)?.get(crate::auto_cert::SEAL)?;
    keyed.value.read().get("id")?.as_str().map(str::to_owned)
}

/// Where members ask each other for keys, below `/`.
pub const PATH: &str = "/cluster-keys";
const FILE: &str = "cluster-keys";
/// The one that seals, and those before it.
const KEPT_MAX: usize = 8;
/// Between two looks whether the state names a key that is not here.
const LOOK: Duration = Duration::from_millis(500);
