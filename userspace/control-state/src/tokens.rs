//! Tokens of the admin API: who holds one may do what its grants say.

use std::sync::Arc;

use base_text::quoted;
use control_api::{Refusal, Snapshot, Token};

use crate::command::PutMode;

/// `now` becomes `createdAt`, or `rotatedAt` where the hash is another.
pub(crate) fn put(view: &mut Snapshot, mode: PutMode, token: Token, now: &str) -> Result<Vec<String>, Refusal> {
    let known = view.tokens.get(&token.name);
    match (known, mode) {
        (Some(_), PutMode::Create) => {
            return Err(Refusal::conflict(format!(
                "there is a token {} already: rotate it, or take another name",
                quoted(&token.name)
            )));
        }
        (None, PutMode::Update) => return Err(unknown(view, &token.name)),
        _ => {}
    }
    if known.is_none() && view.tokens.len() >= TOKENS_MAX {
        return Err(Refusal::conflict(format!("there are {TOKENS_MAX} tokens already: revoke those that nobody uses")));
    }
    if view.tokens.values().any(|other| other.name != token.name && other.hash == token.hash) {
        return Err(Refusal::conflict("another token is the same: draw it anew"));
    }
    let created = if known.is_none() { vec![token.name.clone()] } else { Vec::new() };
    let mut token = token;
    match known {
        None => now.clone_into(&mut token.created_at),
        Some(known) => {
            token.created_at.clone_from(&known.created_at);
            token.rotated_at = if known.hash == token.hash { known.rotated_at.clone() } else { now.to_owned() };
        }
    }
    Arc::make_mut(&mut view.tokens).insert(token.name.clone(), token);
    Ok(created)
}

pub(crate) fn delete(view: &mut Snapshot, name: &str) -> Result<Vec<String>, Refusal> {
    if !view.tokens.contains_key(name) {
        return Err(unknown(view, name));
    }
    Arc::make_mut(&mut view.tokens).remove(name);
    Ok(Vec::new())
}

fn unknown(view: &Snapshot, name: &str) -> Refusal {
    let known: Vec<String> = view.tokens.keys().take(NAMED_MAX).map(|name| quoted(name).to_string()).collect();
    let known = if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
    Refusal::not_found(format!("token {} not found; {known}", quoted(name)))
}

/// Every member holds them, and compares each call's with all.
const TOKENS_MAX: usize = 1000;
const NAMED_MAX: usize = 10;
