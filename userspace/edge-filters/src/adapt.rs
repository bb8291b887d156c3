//! Changes to header fields, ready to apply.

use crate::built::{Built, BuiltError, checked_name, checked_value};
use base_model::HeaderAdaptSpec;
use edge_pipeline::exchange::{add_said, is_cors};
use proto_http::Headers;
use proto_http::headers::Ready;
use serde_json::Value;

/// Name and value.
type Field = (Box<str>, Box<str>);

/// A field that is set or added.
#[derive(Debug)]
enum Said {
    /// By a document: made once for all requests. `None` has a name that no field may have.
    Ready(Option<Ready>),
    /// By a template, for one request.
    Text(Field),
}

/// `{del, set, add}`, applied in this order.
#[derive(Debug, Default)]
pub(crate) struct HeaderAdapt {
    del: Vec<Box<str>>,
    set: Vec<Said>,
    add: Vec<Said>,
    host: Option<Box<str>>,
}

impl HeaderAdapt {
    pub fn new(spec: &HeaderAdaptSpec) -> HeaderAdapt {
        let pairs = |map: &std::collections::BTreeMap<String, String>| -> Vec<Field> {
            map.iter().map(|(n, v)| (n.as_str().into(), v.trim().into())).collect()
        };
        let del = spec.del.iter().map(|n| n.as_str().into()).collect();
        HeaderAdapt::of_fields(del, pairs(&spec.set), pairs(&spec.add), |(name, value)| {
            Said::Ready(Ready::new(&name, &value))
        })
    }

    fn of_fields(del: Vec<Box<str>>, set: Vec<Field>, add: Vec<Field>, said: fn(Field) -> Said) -> HeaderAdapt {
        let host = set.iter().chain(&add).rev().find(|(name, _)| name.eq_ignore_ascii_case("Host"));
        let host = host.map(|(_, host)| host.clone());
        let all = |fields: Vec<Field>| fields.into_iter().map(said).collect();
        HeaderAdapt { host, del, set: all(set), add: all(add) }
    }

    /// Out of a template's output.
    pub fn of_built(built: &Built) -> Result<HeaderAdapt, BuiltError> {
        let pairs = |key: &str| -> Result<Vec<Field>, BuiltError> {
            let Some(map) = built.map(key)? else { return Ok(Vec::new()) };
            let mut fields = Vec::new();
            for (name, value) in map.entries()? {
                let value = built.text_of(value, &name)?;
                fields.push((checked_name(&name)?.into(), checked_value(&name, &value)?.into()));
            }
            Ok(fields)
        };
        let del = match built.value("del") {
            None => Vec::new(),
            Some(Value::Array(names)) => {
                names.iter().map(|n| Ok(built.text_of(n, "del")?.as_ref().into())).collect::<Result<_, BuiltError>>()?
            }
            Some(_) => return Err("del is not a list".to_owned().into()),
        };
        Ok(HeaderAdapt::of_fields(del, pairs("set")?, pairs("add")?, Said::Text))
    }

    /// The `Host` it sets, which is the authority to ask for and no field beside it.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    pub fn apply(&self, headers: &mut Headers) {
        for name in &self.del {
            headers.remove(name);
        }
        for said in &self.set {
            match said {
                Said::Ready(ready) => ready.iter().for_each(|ready| headers.set_ready(ready)),
                Said::Text((name, value)) => headers.set(&**name, &**value),
            }
        }
        for said in &self.add {
            match said {
                Said::Ready(None) => {}
                Said::Ready(Some(ready)) if is_cors(ready.name()) => headers.add_own_ready(ready),
                Said::Ready(Some(ready)) => headers.add_ready(ready),
                Said::Text((name, value)) => add_said(headers, &**name, &**value),
            }
        }
    }
}
