//! See DESIGN: crate proto-http.
