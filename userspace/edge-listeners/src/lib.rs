//! See DESIGN: crate edge-listeners.
