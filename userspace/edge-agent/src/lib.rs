//! See DESIGN: crate edge-agent.
