//! From the machines of a virtual IP to the slots the kernel steers by. Pure: no kernel, no clock, no I/O.
//!
//! Reading order: [`maglev`] spreads machines over slots; [`steering`] remembers for each slot who owned it before, so that
//! connections outlive a change; [`backends`] does so for servers that do not run Weir; [`stray`] is what a machine sends to another
//! without the kernel. The agent hands the slots to `edge-kernel`, which compares them with what is installed.
//! Every machine computes its tables from the same inputs and must get the same
//! bytes, so nothing here depends on the order of a hash map, on the word size or on floating point.
#![forbid(unsafe_code)]

pub mod backends;
pub mod maglev;
pub mod steering;
pub mod stray;

pub use maglev::Candidate;
pub use steering::{NOBODY, Step};
