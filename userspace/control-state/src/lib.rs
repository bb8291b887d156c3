//! See DESIGN: crate control-state.
