//! From virtual IPs to the tables the kernel steers by. Pure: no kernel, no clock, no I/O.
//!
//! Reading order: [`maglev`] spreads machines over slots; [`steering`] remembers for each slot who owned it before, so that
//! connections outlive a change; [`plan`] compares what should be installed with what is and lists the steps between.
//! The agent executes the steps with `edge-kernel`. Every machine computes its tables from the same inputs and must get the same
//! bytes, so nothing here depends on the order of a hash map, on the word size or on floating point.
#![forbid(unsafe_code)]

pub mod maglev;
pub mod plan;
pub mod steering;

pub use maglev::Candidate;
pub use plan::{
    Capacity, Desired, DesiredKernel, Eligible, Installed, KernelChange, Member, Plan, Refused, Service, Table, Vip,
    plan,
};
pub use steering::{Generation, NOBODY};
