//! What a shared cache may keep, for how long, and what it may answer with it (RFC 9111), without memory, clock or sockets.
//!
//! Reading order: [`control`] reads Cache-Control; [`freshness`] counts ages; [`rules`] decides whether an answer is kept, and makes of
//! it a [`Kept`]; [`key`] says what it is found under and [`vary`] tells variants apart; [`reuse`] decides what a request gets of one that is kept; [`conditional`] and
//! [`range`] make 304 and 206 of it; [`invalidate`] says which URLs a write makes doubtful; [`tags`] and [`status`] are words between
//! caches and their operators.
//!
//! The caller keeps bodies and hands in the time: an [`Instant`](std::time::Instant) for ages, and the seconds since 1970 where a date
//! of the origin is compared. Nothing here panics on any input; a value that cannot be read makes an answer older, never fresher.
#![forbid(unsafe_code)]

pub mod conditional;
pub mod control;
pub mod freshness;
pub mod invalidate;
pub mod kept;
pub mod key;
pub mod range;
pub mod reuse;
pub mod rules;
pub mod status;
pub mod tags;
pub mod vary;
pub mod written;

pub use control::{RequestControl, ResponseControl};
pub use freshness::Freshness;
pub use kept::Kept;
pub use key::{KeyRules, push_key};
pub use reuse::{Use, may_stand_in, use_of};
pub use rules::{Cookies, Heuristic, Refusal, Rules, Times, keep_for};
pub use vary::Vary;
