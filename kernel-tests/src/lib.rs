//! See DESIGN: crate kernel-tests.
