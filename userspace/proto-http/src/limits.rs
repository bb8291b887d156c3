//! Every bound of the engine and what it protects.
#[derive(Clone, Debug, Default)]
pub struct Limits {}
