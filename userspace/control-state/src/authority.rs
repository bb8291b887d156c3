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
    /// Those that somebody has come with a moment ago, by id: whose answer was lost asks again, and gets it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<String, SpentToken>,
    /// By name of the member that was removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked: BTreeMap<String, Revoked>,
    /// The one that follows: members come to believe it, and nothing is signed with it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Successor>,
    /// The one before: it signs nothing any more, and what it has signed is still believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Successor {
    pub certificate: String,
    pub sealed_key: String,
    /// Seconds since 1970.
    pub since: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Former {
    pub certificate: String,
    /// When it signed for the last time, in seconds since 1970.
    pub since: u64,
}

/// What is due of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityStep {
    /// Another is to follow.
    Stage,
    /// Everybody believes the one that follows: it signs from now on.
    Promote,
    /// Nobody shows what the one before has signed: it is believed no more.
    Retire,
}

/// What the authority is measured by, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Since 1970: when the one that signs ends.
    pub ends: u64,
    /// How long before that another is to follow.
    pub ahead: u64,
    /// How long a member's certificate is good.
    pub lifetime: u64,
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

/// A token that let a member in, kept for whoever came with it and for nobody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpentToken {
    pub sealed_secret: String,
    pub by: Spender,
    /// Seconds since 1970.
    pub until: u64,
}

/// Who comes with a token, and with which request: one that is repeated is the same to the letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spender {
    pub name: String,
    /// What only this request has.
    pub request: String,
}

impl State {
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

impl Authority {
    /// All that members believe, the one that signs first.
    pub fn believed(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.certificate);
        let former = self.former.as_ref().map(|former| &former.certificate);
        [Some(&self.certificate), next, former]
            .into_iter()
            .flatten()
            .map(|pem| format!("{}\n", pem.trim_end()))
            .collect()
    }

    /// What is due, if anything. `all_follow`: every member has said that it believes the one that follows, or, where there is one
    /// before, that it shows a certificate of the one that signs. Nobody is waited for any longer than a certificate is good: whoever
    /// has not been heard of in that time has none that is.
    pub fn due(&self, terms: Terms, now: u64, all_follow: bool) -> Option<AuthorityStep> {
        let waited = |since: u64| now >= since.saturating_add(terms.lifetime).saturating_add(SKEW_S);
        match (&self.next, &self.former) {
            _ if self.certificate.is_empty() => None,
            (Some(next), _) => (all_follow || waited(next.since)).then_some(AuthorityStep::Promote),
            (None, Some(former)) => (all_follow || waited(former.since)).then_some(AuthorityStep::Retire),
            (None, None) => (now.saturating_add(terms.ahead) >= terms.ends).then_some(AuthorityStep::Stage),
        }
    }

    /// The sealed secret of a token that this request may come with: one that waits, or that the same request has come with already.
    pub fn secret_for(&self, id: &str, by: &Spender, at: u64) -> Option<&str> {
        let waits = self.tokens.get(id).filter(|token| token.expires > at).map(|token| &*token.sealed_secret);
        let spent = || self.spent.get(id).filter(|spent| spent.until > at && spent.by == *by);
        waits.or_else(|| spent().map(|spent| &*spent.sealed_secret))
    }

    /// Whether a certificate for this name that was issued at `version` is good for nothing any more.
    pub fn has_revoked(&self, name: &str, version: u64) -> bool {
        self.revoked.get(name).is_some_and(|revoked| version < revoked.version)
    }
}

pub(crate) fn revoke(state: &mut State, name: String, revoked: Revoked, at: u64) {
    let authority = Arc::make_mut(&mut state.authority);
    // Who was removed is answered no more: the answer is a certificate.
    authority.spent.retain(|_, spent| spent.by.name != name);
    let all = &mut authority.revoked;
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

/// One at a time.
pub(crate) fn stage(state: &mut State, next: Successor) -> Result<(), Refusal> {
    let authority = Arc::make_mut(&mut state.authority);
    if authority.certificate.is_empty() {
        return Err(Refusal::conflict("the cluster issues no certificates, or has no authority yet: none can follow"));
    }
    if authority.next.is_some() || authority.former.is_some() {
        return Err(Refusal::conflict(
            "one authority is following another already: wait until every member has a certificate of the new one (weirctl member \
             authority shows who does not)",
        ));
    }
    authority.next = Some(next);
    Ok(())
}

/// Without effect where another follows by now, or none.
pub(crate) fn promote(state: &mut State, certificate: &str, at: u64) {
    if state.authority.next.as_ref().is_none_or(|next| next.certificate != certificate) {
        return;
    }
    let authority = Arc::make_mut(&mut state.authority);
    let Some(next) = authority.next.take() else { return };
    let certificate = std::mem::replace(&mut authority.certificate, next.certificate);
    authority.sealed_key = next.sealed_key;
    authority.former = Some(Former { certificate, since: at });
}

/// Without effect where that one is believed no more anyway.
pub(crate) fn retire(state: &mut State, certificate: &str) {
    if state.authority.former.as_ref().is_some_and(|former| former.certificate == certificate) {
        Arc::make_mut(&mut state.authority).former = None;
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

/// Whoever comes first has it, and has it again who asks again with the same request. Members of before do not say who they are.
pub(crate) fn spend_token(state: &mut State, id: &str, at: u64, by: Option<Spender>) -> Result<(), Refusal> {
    let Authority { tokens, spent, .. } = Arc::make_mut(&mut state.authority);
    spent.retain(|_, spent| spent.until > at);
    if by.is_some() && spent.get(id).map(|spent| &spent.by) == by.as_ref() {
        return Ok(());
    }
    match tokens.remove(id) {
        Some(token) if token.expires > at => {
            if let Some(by) = by {
                if spent.len() >= SPENT_MAX {
                    let first = spent.iter().min_by_key(|(_, spent)| spent.until).map(|(id, _)| id.clone());
                    first.map(|first| spent.remove(&first));
                }
                let until = at.saturating_add(SPENT_KEPT_S);
                spent.insert(id.to_owned(), SpentToken { sealed_secret: token.sealed_secret, by, until });
            }
            Ok(())
        }
        _ => Err(Refusal::not_found(format!(
            "token {} is not known: it was used, has expired, or is of another cluster; make another (weirctl member token)",
            quoted(id)
        ))),
    }
}

/// Clocks of members differ, and one that has not heard of the new one may sign with the old one yet.
const SKEW_S: u64 = 3600;
/// Tokens that wait for their members.
const TOKENS_MAX: usize = 64;
/// How long whoever has come with a token may ask again: for as long as one that was started again by hand takes.
const SPENT_KEPT_S: u64 = 600;
/// Those that came first have their answer by now.
const SPENT_MAX: usize = 256;
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
    fn one_authority_follows_another_and_none_is_skipped() {
        let mut state = State::default();
        let mut turn = 0;
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer
        };
        let stage = |of: &str, at: u64| {
            let next = Successor { certificate: of.into(), sealed_key: format!("{of}-key"), since: at };
            Action::StageAuthority { next }
        };
        let promote = |of: &str, at: u64| Action::PromoteAuthority { certificate: of.into(), at };
        let retire = |of: &str| Action::RetireAuthority { certificate: of.into() };
        assert_eq!((stage("b", 0).level(), promote("b", 0).level(), retire("a").level()), (13, 13, 13));
        assert!(act(&mut state, stage("b", 5)).is_err(), "there is none to follow");
        act(&mut state, Action::FoundAuthority { certificate: "a".into(), sealed_key: "a-key".into() }).unwrap();
        let plain = serde_json::to_value(state.authority().as_ref()).unwrap();
        assert_eq!(plain.as_object().unwrap().len(), 3, "as members of before read it");
        let terms = Terms { ends: 100_000, ahead: 20_000, lifetime: 10_000 };
        let due = |state: &State, now: u64, all: bool| state.authority().due(terms, now, all);
        assert_eq!((due(&state, 79_999, true), due(&state, 80_000, false)), (None, Some(AuthorityStep::Stage)));
        act(&mut state, stage("b", 80_000)).unwrap();
        assert!(act(&mut state, stage("c", 80_001)).unwrap_err().message.contains("weirctl member authority"));
        assert_eq!(state.authority().believed(), "a\nb\n");
        assert_eq!((due(&state, 93_599, false), due(&state, 93_600, false)), (None, Some(AuthorityStep::Promote)));
        assert_eq!(due(&state, 80_000, true), Some(AuthorityStep::Promote));
        act(&mut state, promote("c", 81_000)).unwrap();
        assert_eq!(state.authority().certificate, "a", "another than follows");
        act(&mut state, promote("b", 81_000)).unwrap();
        assert_eq!((&*state.authority().certificate, &*state.authority().sealed_key), ("b", "b-key"));
        assert_eq!(state.authority().believed(), "b\na\n");
        assert!(act(&mut state, stage("c", 81_001)).is_err());
        assert_eq!((due(&state, 81_000, false), due(&state, 94_600, false)), (None, Some(AuthorityStep::Retire)));
        assert_eq!(due(&state, 81_000, true), Some(AuthorityStep::Retire));
        let read: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(read.authority(), state.authority());
        act(&mut state, retire("b")).unwrap();
        assert_eq!(state.authority().believed(), "b\na\n");
        act(&mut state, retire("a")).unwrap();
        assert_eq!(state.authority().believed(), "b\n");
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
        let spend = |id: &str, at: u64| Action::SpendToken { id: id.into(), at, by: None };
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

    #[test]
    fn whoever_has_come_with_a_token_may_ask_again_and_nobody_else() {
        let mut state = State::default();
        let mut turn = 0;
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer
        };
        let add = |id: &str| {
            let token = JoinToken { sealed_secret: format!("secret of {id}"), expires: 1000 };
            Action::AddToken { id: id.into(), token, at: 0 }
        };
        let by = |name: &str, request: &str| Spender { name: name.into(), request: request.into() };
        let spend = |id: &str, at: u64, by: Spender| Action::SpendToken { id: id.into(), at, by: Some(by) };
        assert_eq!(spend("one", 0, by("n2", "a")).level(), 16);
        act(&mut state, add("one")).unwrap();
        act(&mut state, spend("one", 10, by("n2", "a"))).unwrap();
        act(&mut state, spend("one", 11, by("n2", "a"))).unwrap();
        for other in [by("n2", "b"), by("n3", "a")] {
            assert!(act(&mut state, spend("one", 11, other.clone())).is_err());
            assert_eq!(state.authority().secret_for("one", &other, 11), None);
        }
        assert_eq!(state.authority().secret_for("one", &by("n2", "a"), 11), Some("secret of one"));
        let read: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(read.authority(), state.authority());
        let late = 10 + SPENT_KEPT_S;
        assert_eq!(state.authority().secret_for("one", &by("n2", "a"), late), None);
        assert!(act(&mut state, spend("one", late, by("n2", "a"))).is_err());

        // One that was removed does not come back with what it came with.
        act(&mut state, add("two")).unwrap();
        act(&mut state, spend("two", 20, by("n2", "a"))).unwrap();
        let member = control_api::Member { name: "n2".into(), ..Default::default() };
        act(&mut state, Action::PutMember { member }).unwrap();
        act(&mut state, Action::Expel { name: "n2".into(), at: 21, until: 1000 }).unwrap();
        assert!(act(&mut state, spend("two", 22, by("n2", "a"))).is_err());

        for n in 0..SPENT_MAX as u64 + 1 {
            let id = format!("many-{n:03}");
            act(&mut state, add(&id)).unwrap();
            act(&mut state, spend(&id, 30 + n / 128, by(&id, "a"))).unwrap();
        }
        assert_eq!(state.authority().spent.len(), SPENT_MAX);
        assert!(!state.authority().spent.contains_key("many-000"), "the first has made room");
    }
}
