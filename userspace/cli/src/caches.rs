//! `cache purge`: what is named goes out of the caches of every edge.

use hyper::Method;
use serde_json::{Value, json};

use crate::arguments::Purge;
use crate::output::print;
use crate::server::Server;

pub async fn purge(server: &Server, purge: &Purge) -> Result<(), String> {
    let named = |field: &'static str, texts: &[String]| -> Vec<(&'static str, Value)> {
        texts.iter().map(|text| (field, Value::from(text.as_str()))).collect()
    };
    let mut all = named("url", &purge.urls);
    all.extend(named("prefix", &purge.prefix));
    all.extend(named("tag", &purge.tag));
    all.extend(purge.all.then(|| ("all", Value::from(true))));
    for (field, value) in all {
        let mut body = json!({ field: value });
        if let Some(cache) = &purge.cache {
            body["cache"] = cache.as_str().into();
        }
        let what = value.as_str().map_or_else(|| "everything".to_owned(), |text| format!("{field} {text}"));
        let done = server.send(Method::POST, "/cache/purge", body.to_string()).await;
        done.map_err(|message| format!("purge {what} failed, {message}"))?;
        print(&format!("purge {what} successfully"));
    }
    Ok(())
}
