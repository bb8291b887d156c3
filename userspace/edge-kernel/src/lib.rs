//! See DESIGN: crate edge-kernel.
