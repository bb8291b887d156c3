//! See DESIGN: crate base-runtime.
