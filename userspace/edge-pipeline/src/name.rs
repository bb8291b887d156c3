//! What pipelines are called.
//!
//! One that is an object is called by its key, `NAME` or `NAMESPACE/NAME`. Those of a GlobalFilter are called after it,
//! `GLOBALFILTER:beforePipeline`. No name and no namespace has a colon, so that no two pipelines of a process are called the same: what is
//! kept by this name, whether cache, limit, room or figure, is of one document.

use std::fmt;
use std::sync::Arc;

/// See the module doc.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PipelineName(Arc<str>);

impl PipelineName {
    /// Of the Pipeline of this key.
    pub fn of_object(key: &str) -> PipelineName {
        PipelineName(key.into())
    }

    /// Of the GlobalFilter of this key: the one in this field of its document.
    pub fn of_global_filter(key: &str, field: &str) -> PipelineName {
        PipelineName(format!("{key}:{field}").into())
    }

    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::namespaces::key;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_called_the_same() {
        let (fields, names) =
            (["beforePipeline", "afterPipeline"], ["g", "beforePipeline", "afterPipeline", "g.b", "g-b"]);
        let namespaces = ["default", "g", "beforePipeline", "gatewaycontroller/g", "gatewaycontroller/g.b"];
        let keys = || namespaces.iter().flat_map(|namespace| names.map(|name| key(namespace, name)));
        let mut all: Vec<PipelineName> = keys().map(|key| PipelineName::of_object(&key)).collect();
        all.extend(keys().flat_map(|key| fields.map(|field| PipelineName::of_global_filter(&key, field))));
        let shown: HashSet<String> = all.iter().map(PipelineName::to_string).collect();
        assert_eq!((all.len(), shown.len()), (75, 75));
    }
}
