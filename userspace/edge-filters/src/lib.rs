//! See DESIGN: crate edge-filters.
