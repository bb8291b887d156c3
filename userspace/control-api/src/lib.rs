//! See DESIGN: crate control-api.
