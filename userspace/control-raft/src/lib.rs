//! See DESIGN: crate control-raft.
