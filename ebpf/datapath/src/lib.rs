//! See DESIGN: crate datapath.
