//! Every kind of filter there is.

use crate::proxy;
use edge_pipeline::FilterKind;

static KINDS: &[FilterKind] = &[proxy::KIND];

pub fn kinds() -> &'static [FilterKind] {
    KINDS
}

pub fn kind(name: &str) -> Option<&'static FilterKind> {
    KINDS.iter().find(|k| k.kind == name)
}
