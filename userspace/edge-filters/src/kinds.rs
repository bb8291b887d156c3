//! The catalog as documents are checked against it.

use crate::catalog::{kind, kinds};
use base_model::explain::Explained;
use base_model::{FilterKinds, FilterSpec, Findings};
use std::sync::Arc;

/// Every filter kind of this crate, for the checks of pipelines.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shelf;

impl FilterKinds for Shelf {
    fn results(&self, name: &str) -> Option<Vec<&'static str>> {
        kind(name).map(|k| k.results.to_vec())
    }

    fn kinds(&self) -> Vec<&'static str> {
        kinds().iter().map(|k| k.kind).collect()
    }

    fn check(&self, filter: &FilterSpec, path: &str, findings: &mut Findings) {
        let Some(kind) = kind(&filter.kind) else { return };
        match (kind.check)(&filter.raw, path) {
            Ok(warnings) => findings.warnings.extend(warnings),
            Err(problems) => problems.into_iter().for_each(|problem| findings.problem(problem)),
        }
    }
}

/// The schemas of all kinds, for `explain`.
pub fn explained() -> Vec<Explained> {
    kinds().iter().map(|k| Explained { kind: k.kind.to_owned(), schema: Arc::new((k.schema)()) }).collect()
}
