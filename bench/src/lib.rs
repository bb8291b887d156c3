//! See DESIGN: crate bench.
