//! See DESIGN: crate base-telemetry.
