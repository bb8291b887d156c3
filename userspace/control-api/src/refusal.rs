use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request was not carried out, for people: what, where, which value, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalKind {
    /// The request is wrong in itself: 400.
    Invalid,
    /// What it names is not there: 404.
    NotFound,
    /// What it names is there already: 409.
    Conflict,
    /// It was decided upon a state that is no more: 412.
    Stale,
    /// The cluster cannot decide now: 503. Whether a change that was under way was made is not known.
    Unavailable,
    /// 501.
    NotBuilt,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Refusal { kind, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Conflict, message)
    }

    pub fn stale(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Stale, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Unavailable, message)
    }

    /// The HTTP status it is answered with.
    pub fn status(&self) -> u16 {
        match self.kind {
            RefusalKind::Invalid => 400,
            RefusalKind::NotFound => 404,
            RefusalKind::Conflict => 409,
            RefusalKind::Stale => 412,
            RefusalKind::NotBuilt => 501,
            RefusalKind::Unavailable => 503,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
