//! Purges: what is named goes out of the caches of every edge.

use std::sync::Arc;

use axum::extract::State;
use base_text::quoted;
use control_api::{PURGE_BYTES_MOST, Purged};
use control_state::Action;
use serde_json::Value;

use crate::body::{Answer, Error, Reply, Text};
use crate::routes::Api;

/// `POST /cache/purge`: `{url: http://host/path?query}`, `{prefix: http://host/path}`, `{tag: t}` or `{all: true}`; with
/// `cache: PIPELINE/FILTER` of that one alone. Answered when the cluster has agreed on it; edges carry it out when they hear of it.
pub async fn purge(State(api): State<Arc<Api>>, body: Text) -> Answer {
    let document = body.document()?;
    let (cache, what) = read(&document).map_err(Error::invalid)?;
    let done = api.change(Action::PurgeCaches { cache, what }).await?;
    Ok(Reply::default().version(done.version))
}

const WANTED: &str =
    "one of url, prefix, tag and all: true is wanted, such as {tag: product-7}, and maybe cache: PIPELINE/FILTER";

fn read(document: &Value) -> Result<(String, Purged), String> {
    let fields = document.as_object().ok_or(WANTED)?;
    let (mut cache, mut what) = (String::new(), None);
    for (name, value) in fields {
        let text = || match value.as_str() {
            Some("") => Err(format!("{name}: is empty; {WANTED}")),
            Some(text) if text.len() > PURGE_BYTES_MOST => {
                Err(format!("{name}: {} bytes; accepted are {PURGE_BYTES_MOST}", text.len()))
            }
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("{name}: a text is wanted; {WANTED}")),
        };
        let named = match name.as_str() {
            "cache" => {
                cache = text()?;
                continue;
            }
            "url" => Purged::Url(canonical(&text()?)?),
            "prefix" => Purged::Prefix(canonical(&text()?)?),
            "tag" => Purged::Tag(text()?),
            "all" if value == &Value::Bool(true) => Purged::All,
            other => return Err(format!("{}: not a field of a purge; {WANTED}", quoted(other))),
        };
        if what.replace(named).is_some() {
            return Err(WANTED.to_owned());
        }
    }
    Ok((cache, what.ok_or(WANTED)?))
}

/// A URL as keys of caches write it: scheme and host in lower case, without the port that the scheme has anyway, and with a path.
fn canonical(url: &str) -> Result<String, String> {
    let no = || format!("{}: not a URL; write http://host/path or https://host/path", quoted(url));
    let (scheme, rest) = url.split_once("://").ok_or_else(no)?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(no()),
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(own_port).unwrap_or(&host);
    if host.is_empty() || rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(no());
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{host}{slash}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_purge_names_one_thing() {
        let url = |text: &str| Purged::Url(text.to_owned());
        for (body, read_as) in [
            (json!({"url": "HTTP://H.test:80/A?b"}), ("", url("http://h.test/A?b"))),
            (json!({"url": "https://h.test", "cache": "p/c"}), ("p/c", url("https://h.test/"))),
            (json!({"prefix": "http://h.test:8080/a"}), ("", Purged::Prefix("http://h.test:8080/a".into()))),
            (json!({"tag": "product 7"}), ("", Purged::Tag("product 7".into()))),
            (json!({"all": true}), ("", Purged::All)),
        ] {
            assert_eq!(read(&body), Ok((read_as.0.to_owned(), read_as.1)), "{body}");
        }
        for body in [
            json!({}),
            json!([]),
            json!({"cache": "p/c"}),
            json!({"all": false}),
            json!({"tag": ""}),
            json!({"tag": 7}),
            json!({"tag": "a", "all": true}),
            json!({"url": "/a"}),
            json!({"url": "ftp://h/a"}),
            json!({"url": "http:///a"}),
            json!({"url": "http://h/a b"}),
            json!({"tags": "a"}),
            json!({"tag": "x".repeat(PURGE_BYTES_MOST + 1)}),
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
    }
}
