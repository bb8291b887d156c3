//! Text for people and for logs: what came from outside is quoted, escaped and freed of credentials here, and nowhere else; and what
//! happens again and again is told [once in a while](seldom).
//!
//! No dependencies, so that every crate can name things in its errors the same way.
#![forbid(unsafe_code)]

pub mod calendar;
pub mod digits;
pub mod escape;
pub mod ranges;
pub mod redact;
pub mod seldom;
pub mod time;

pub use escape::{all_quoted, escaped, quoted};
pub use ranges::ranges;
pub use seldom::Seldom;
pub use time::duration;
