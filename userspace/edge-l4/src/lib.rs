//! See DESIGN: crate edge-l4.
