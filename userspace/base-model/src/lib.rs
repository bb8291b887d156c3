//! See DESIGN: crate base-model.
