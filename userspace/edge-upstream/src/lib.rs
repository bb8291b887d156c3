//! See DESIGN: crate edge-upstream.
