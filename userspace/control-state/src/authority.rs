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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command};

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
