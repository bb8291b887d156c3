//! See DESIGN: crate control-admin.
