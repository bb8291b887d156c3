//! The seam to the filters' catalog: what `check` and `explain` know without a cluster.
//!
//! The table below holds the filters by name and outcome until the shelf itself is asked.

use base_model::FilterKinds;
use base_model::explain::Explained;

pub fn filters() -> &'static dyn FilterKinds {
    &Known
}

/// Kinds that can be explained beside base-model's own.
pub fn explained() -> Vec<Explained> {
    Vec::new()
}

struct Known;

impl FilterKinds for Known {
    fn results(&self, kind: &str) -> Option<Vec<&'static str>> {
        FILTERS.iter().find(|(known, _)| *known == kind).map(|(_, results)| results.to_vec())
    }

    fn kinds(&self) -> Vec<&'static str> {
        FILTERS.iter().map(|(kind, _)| *kind).collect()
    }
}

const FILTERS: &[(&str, &[&str])] = &[
    ("Proxy", &["internalError", "clientError", "serverError", "failureCode"]),
    ("RequestAdaptor", &["decompressFailed", "compressFailed", "signFailed"]),
    ("ResponseAdaptor", &["decompressFailed", "compressFailed", "responseNotFound"]),
    ("Validator", &["invalid"]),
    ("RateLimiter", &["rateLimited"]),
    ("Mock", &["mocked"]),
    ("Fallback", &["fallback", "responseNotFound"]),
    ("ResponseBuilder", &["buildErr"]),
    ("RequestBuilder", &["buildErr"]),
];
