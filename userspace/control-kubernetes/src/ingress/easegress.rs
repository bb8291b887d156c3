//! Easegress's annotations, `easegress.ingress.kubernetes.io/…`.

use std::time::Duration;

use base_model::GoDuration;
use base_text::quoted;
use serde_json::{Map, Value, json};

use super::options::{Options, Rewrite};
use crate::object::Ingress;
use crate::report::Report;

const PREFIX: &str = "easegress.ingress.kubernetes.io/";

/// Takes what the annotations ask for into the options.
pub(crate) fn read(ingress: &Ingress, options: &mut Options, report: &mut Report) {
    let mut balance = Map::new();
    let mut bounds = Map::new();
    let mut websocket = false;
    for (name, value) in ingress.metadata.annotations.iter() {
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        let done = match short {
            "proxy-load-balance" => put(&mut balance, "policy", json!(value)),
            "proxy-header-hash-key" => put(&mut balance, "headerHashKey", json!(value)),
            "proxy-forward-key" => put(&mut balance, "forwardKey", json!(value)),
            "proxy-server-max-size" => {
                number(value).map(|bytes| drop(options.proxy.insert("serverMaxBodySize".into(), json!(bytes))))
            }
            "proxy-timeout" => {
                timeout(value).map(|timeout| drop(options.pool.insert("timeout".into(), json!(timeout))))
            }
            "websocket" => truth(value).map(|is| websocket = is),
            "websocket-client-max-msg-size" => {
                number(value).and_then(|n| put(&mut bounds, "clientMaxMsgSize", json!(n)))
            }
            "websocket-server-max-msg-size" => {
                number(value).and_then(|n| put(&mut bounds, "serverMaxMsgSize", json!(n)))
            }
            "websocket-insecure-skip-verify" => {
                truth(value).and_then(|is| put(&mut bounds, "insecureSkipVerify", json!(is)))
            }
            "websocket-origin-patterns" => {
                let patterns: Vec<&str> = value.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
                put(&mut bounds, "originPatterns", json!(patterns))
            }
            "rewrite-target" if value.starts_with('/') => {
                options.rewrite = Some(Rewrite::Matched(value.clone()));
                Ok(())
            }
            "rewrite-target" => Err(format!("{} is no path; it begins with /", quoted(value))),
            _ => Err("there is no such annotation".to_owned()),
        };
        match done {
            Ok(()) => report.honoured(name),
            Err(why) => report.refused(name, why),
        }
    }
    if !balance.is_empty() {
        options.pool.insert("loadBalance".to_owned(), Value::Object(balance));
    }
    if websocket {
        options.websocket = Some(bounds);
    }
}

fn put(fields: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), String> {
    fields.insert(name.to_owned(), value);
    Ok(())
}

pub(super) fn number(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("{} is no whole number", quoted(text)))
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "True" | "TRUE" | "1" | "t" | "T" => Ok(true),
        "false" | "False" | "FALSE" | "0" | "f" | "F" => Ok(false),
        _ => Err(format!("{} is neither true nor false", quoted(text))),
    }
}

/// A duration as Go writes it; a number alone has nothing that it is of.
fn timeout(text: &str) -> Result<String, String> {
    let duration: GoDuration =
        text.trim().parse().map_err(|_| format!("{} is no duration; write 5s or 500ms", quoted(text)))?;
    match Duration::from(duration).is_zero() {
        true => Err("0 is no time at all; leave it out for no limit".to_owned()),
        false => Ok(duration.to_string()),
    }
}
