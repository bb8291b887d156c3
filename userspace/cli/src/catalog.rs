//! The seam to the shelf of filters: what `check` and `explain` know without a cluster.

use base_model::FilterKinds;
use base_model::explain::Explained;
use edge_filters::kinds::Shelf;

pub fn filters() -> &'static dyn FilterKinds {
    &Shelf
}

/// Kinds that can be explained beside base-model's own.
pub fn explained() -> Vec<Explained> {
    edge_filters::kinds::explained()
}
