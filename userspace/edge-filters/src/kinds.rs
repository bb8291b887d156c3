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
        (kind.check)(&filter.raw, path, findings);
    }
}

/// The schemas of all kinds, for `explain`.
pub fn explained() -> Vec<Explained> {
    kinds().iter().map(|k| Explained { kind: k.kind.to_owned(), schema: Arc::new((k.schema)()) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::Object;

    #[test]
    fn what_is_wrong_with_a_proxy_is_said_once() {
        let pool = "servers: [{url: 'http://127.0.0.1:1'}], loadBalance: {policy: nonsense}";
        let text = format!("name: p\nkind: Pipeline\nfilters: [{{name: f, kind: Proxy, pools: [{{{pool}}}]}}]");
        let document = base_model::yaml::parse_document(&text).unwrap();
        let object = Object::read(&document, &Shelf).unwrap_or_else(|problems| panic!("{}", problems[0]));
        assert_eq!(object.warnings.len(), 1, "{}", object.warnings[0]);
        let text = text.replace("http://127.0.0.1:1", "nothing");
        let document = base_model::yaml::parse_document(&text).unwrap();
        assert_eq!(Object::read(&document, &Shelf).err().map(|problems| problems.len()), Some(1));
    }
}
