//! See DESIGN: crate abi.
