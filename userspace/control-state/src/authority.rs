//! The authority of a cluster that issues its members' certificates itself, and the tokens that let new members in.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_text::quoted;
use control_api::Refusal;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// Its private key, and the secrets of tokens, are sealed: who reads a snapshot or a backup can sign nothing with them. What opens them
/// lies in a file of each primary and in no log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authority {
    /// PEM. Empty: there is none.
    pub certificate: String,
    pub sealed_key: String,
    /// By id.
    pub tokens: BTreeMap<String, JoinToken>,
    /// By name of the member that was removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked: BTreeMap<String, Revoked>,
}

/// Certificates for a name that were issued before somebody was removed who had it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revoked {
    /// Of the configuration; a certificate says at which it was issued.
    pub version: u64,
    /// The last of them has ended by then, in seconds since 1970.
    pub until: u64,
}

/// Lets one member in, once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JoinToken {
    pub sealed_secret: String,
    /// Seconds since 1970.
    pub expires: u64,
}

impl State {
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

impl Authority {
    /// Whether a certificate for this name that was issued at `version` is good for nothing any more.
    pub fn has_revoked(&self, name: &str, version: u64) -> bool {
        self.revoked.get(name).is_some_and(|revoked| version < revoked.version)
    }
}

pub(crate) fn revoke(state: &mut State, name: String, revoked: Revoked, at: u64) {
    let all = &mut Arc::make_mut(&mut state.authority).revoked;
    all.retain(|_, revoked| revoked.until > at);
    if all.len() >= REVOKED_MAX {
        // Whose certificates end first.
        let first = all.iter().min_by_key(|(_, revoked)| revoked.until).map(|(name, _)| name.clone());
        first.map(|first| all.remove(&first));
    }
    all.insert(name, revoked);
}

/// The first one stays.
pub(crate) fn found(state: &mut State, certificate: &str, sealed_key: &str) {
    if state.authority.certificate.is_empty() {
        let authority = Arc::make_mut(&mut state.authority);
        certificate.clone_into(&mut authority.certificate);
        sealed_key.clone_into(&mut authority.sealed_key);
    }
}

pub(crate) fn add_token(state: &mut State, id: &str, token: &JoinToken, at: u64) -> Result<(), Refusal> {
    let tokens = &mut Arc::make_mut(&mut state.authority).tokens;
    tokens.retain(|_, token| token.expires > at);
    if tokens.len() >= TOKENS_MAX {
        return Err(Refusal::conflict(format!(
            "{TOKENS_MAX} tokens wait for their members already; use them, or wait until one has expired"
        )));
    }
    tokens.insert(id.to_owned(), token.clone());
    Ok(())
}

/// Whoever comes first has it.
pub(crate) fn spend_token(state: &mut State, id: &str, at: u64) -> Result<(), Refusal> {
    match Arc::make_mut(&mut state.authority).tokens.remove(id) {
        Some(token) if token.expires > at => Ok(()),
        _ => Err(Refusal::not_found(format!(
            "token {} is not known: it was used, has expired, or is of another cluster; make another (weirctl member token)",
            quoted(id)
        ))),
    }
}

/// Tokens that wait for their members.
const TOKENS_MAX: usize = 64;
/// Members that were removed within the life of a certificate: more than a large cluster has in a month.
const REVOKED_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command};

    #[test]
    fn what_was_issued_before_a_member_was_removed_is_revoked_until_it_has_ended() {
        let mut state = State::default();
        let mut turn = 0;
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer
        };
        let member =
            |name: &str| Action::PutMember { member: control_api::Member { name: name.into(), ..Default::default() } };
        act(&mut state, member("n2")).unwrap();
        let before = state.view.version;
        let expel = |name: &str, at: u64| Action::Expel { name: name.into(), at, until: at + 100 };
        let done = act(&mut state, expel("n2", 10)).unwrap();
        assert!(!state.view.members.contains_key("n2") && done.version == before + 1);
        assert!(state.authority().has_revoked("n2", before) && !state.authority().has_revoked("n2", done.version));
        assert!(!state.authority().has_revoked("n1", 0));
        assert!(act(&mut state, expel("n2", 11)).unwrap_err().message.contains("n2"), "it is not a member");
        act(&mut state, member("n3")).unwrap();
        act(&mut state, expel("n3", 200)).unwrap();
        assert_eq!(state.authority().revoked.keys().collect::<Vec<_>>(), ["n3"], "what has ended makes room");
        let read: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(read.authority().revoked, state.authority().revoked);
    }

    #[test]
    fn a_token_is_good_once_and_until_it_expires() {
        let mut state = State::default();
        let mut turn = 0;
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer
        };
        let add = |id: &str, expires: u64, at: u64| Action::AddToken {
            id: id.into(),
            token: JoinToken { sealed_secret: "s".into(), expires },
            at,
        };
        let spend = |id: &str, at: u64| Action::SpendToken { id: id.into(), at };
        act(&mut state, add("one", 100, 50)).unwrap();
        act(&mut state, add("two", 100, 50)).unwrap();
        act(&mut state, spend("one", 60)).unwrap();
        assert!(act(&mut state, spend("one", 60)).unwrap_err().message.contains("weirctl member token"));
        assert!(act(&mut state, spend("two", 100)).is_err());
        assert!(act(&mut state, spend("three", 0)).is_err());
        for n in 0..TOKENS_MAX {
            act(&mut state, add(&format!("n{n}"), 500, 100)).unwrap();
        }
        assert!(act(&mut state, add("more", 500, 100)).is_err());
        act(&mut state, add("later", 900, 500)).unwrap();
        assert_eq!(state.authority().tokens.len(), 1, "those that expired make room");
    }
}
