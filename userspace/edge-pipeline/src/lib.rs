//! See DESIGN: crate edge-pipeline.
