//! etcd, by the JSON gateway of its client port (etcd 3.4 and later): the prefix is read once and then watched from that revision on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base_model::EtcdServiceRegistrySpec;
use base_text::quoted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::ask::{Asker, field, number, text, texts, url_of};
use crate::record::{Record, Service};
use crate::{Heard, tell};

/// See [`crate::watch`].
pub async fn watch(spec: &EtcdServiceRegistrySpec, turn: usize, heard: &mpsc::Sender<Heard>) -> Result<(), String> {
    let asker = Asker::new("etcd", "etcd asks for a login, which this kind of registry has no fields for")?;
    let url = url_of(&spec.endpoints[turn % spec.endpoints.len()]);
    let range = Range::new(&spec.prefix);
    let patience: Duration = Duration::from(spec.cache_timeout).clamp(PATIENCE_LEAST, PATIENCE_MOST);

    let url_of_range = format!("{url}/v3/kv/range");
    let place = &url_of_range;
    let mut request = range.json();
    request["limit"] = json!(KEYS_MAX + 1);
    let (_, answer) = asker.json(Method::POST, place, JSON, request.to_string(), PATIENCE_MOST).await?;
    let revision = answer.get("header").map_or(0, |header| number(header, "revision"));
    if revision == 0 {
        return Err(asker.told(place, "its answer names no revision; is this the client URL of etcd?"));
    }
    let kvs = answer.get("kvs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if kvs.len() > KEYS_MAX {
        let what = format!("more than {KEYS_MAX} keys begin with {}; give a longer prefix", quoted(&spec.prefix));
        return Err(asker.told(place, &what));
    }
    let mut keys = Keys::new(&spec.prefix, revision);
    for kv in kvs {
        keys.put(kv).map_err(|why| asker.told(place, &why))?;
    }
    tell(heard, Heard::All(keys.services())).await?;

    let place = format!("{url}/v3/watch");
    let mut create = range.json();
    create["start_revision"] = json!((revision + 1).to_string());
    let request = json!({"create_request": create}).to_string();
    let response = asker.open(Method::POST, &place, JSON, request, PATIENCE_MOST).await?;
    let mut lines = Lines { body: response.into_body(), read: Vec::new() };
    let mut behind = false;
    loop {
        let line = tokio::select! {
            line = lines.next() => line.map_err(|why| asker.told(&place, &why))?,
            // Nothing changes for long: whether etcd is well, and has a quorum, is seen by asking; and whether it is true. What has
            // changed and is not here by the next time is held back by somebody in between, or its connection is dead.
            () = tokio::time::sleep(spec.cache_timeout.into()) => {
                let mut request = range.json();
                request["limit"] = json!(1);
                request["keys_only"] = json!(true);
                request["sort_target"] = json!("MOD");
                request["sort_order"] = json!("DESCEND");
                let (_, answer) = asker.json(Method::POST, &url_of_range, JSON, request.to_string(), patience).await?;
                let was_behind = std::mem::replace(&mut behind, keys.are_behind(&answer));
                if was_behind && behind {
                    return Err(asker.told(&place, "the watch does not tell what has changed; is a proxy in between?"));
                }
                tell(heard, Heard::Well).await?;
                continue;
            }
        };
        behind = false;
        for (name, service) in keys.take(&line).map_err(|why| asker.told(&place, &why))? {
            tell(heard, Heard::Service(name, service)).await?;
        }
    }
}

/// All keys that begin with a prefix.
struct Range {
    key: String,
    end: String,
}

impl Range {
    fn new(prefix: &str) -> Range {
        // The first key after all of them.
        let mut end = prefix.as_bytes().to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                break;
            }
        }
        if end.is_empty() {
            end.push(0);
        }
        Range { key: STANDARD.encode(prefix), end: STANDARD.encode(end) }
    }

    fn json(&self) -> Value {
        json!({"key": self.key, "range_end": self.end})
    }
}

/// What is known of the keys.
struct Keys {
    prefix: String,
    /// By service, then by what follows it in the key.
    keys: BTreeMap<String, BTreeMap<String, Result<Record, String>>>,
    /// As etcd has them.
    names: BTreeSet<String>,
    /// Of the latest change.
    revision: i64,
}

impl Keys {
    fn new(prefix: &str, revision: i64) -> Keys {
        Keys { prefix: prefix.to_owned(), keys: BTreeMap::new(), names: BTreeSet::new(), revision }
    }

    /// Whether etcd has others than these: it was asked for the one that changed last.
    fn are_behind(&self, answer: &Value) -> bool {
        let last = answer.get("kvs").and_then(Value::as_array).and_then(|kvs| kvs.first());
        let revision = last.map_or(0, |kv| number(kv, "mod_revision"));
        usize::try_from(number(answer, "count")).is_ok_and(|count| count != self.names.len())
            || revision > self.revision
    }

    fn services(&self) -> BTreeMap<String, Service> {
        self.keys.keys().map(|name| (name.clone(), self.service(name))).collect()
    }

    fn service(&self, name: &str) -> Service {
        let mut service = Service::default();
        for record in self.keys.get(name).into_iter().flat_map(BTreeMap::values) {
            match record {
                Ok(record) => service.records.push(record.clone()),
                Err(why) => service.unread.push(why.clone()),
            }
        }
        service
    }

    /// Takes a line of the watch. Returns the services that are different.
    fn take(&mut self, line: &[u8]) -> Result<Vec<(String, Service)>, String> {
        let value: Value =
            serde_json::from_slice(line).map_err(|error| format!("a line of the watch cannot be read: {error}"))?;
        if let Some(error) = value.get("error") {
            return Err(format!("the watch has ended: {}", text(error, "message")));
        }
        let result = value.get("result").unwrap_or(&Value::Null);
        if result.get("canceled").and_then(Value::as_bool) == Some(true) {
            let reason = text(result, "cancel_reason");
            return Err(format!(
                "the watch was ended by etcd: {}",
                if reason.is_empty() { "what happened meanwhile was compacted; reading anew" } else { &reason }
            ));
        }
        let mut changed = BTreeSet::new();
        for event in result.get("events").and_then(Value::as_array).into_iter().flatten() {
            let kv = event.get("kv").unwrap_or(&Value::Null);
            let gone = event.get("type").and_then(Value::as_str) == Some("DELETE");
            changed.insert(if gone { self.remove(kv)? } else { self.put(kv)? });
        }
        Ok(changed.into_iter().map(|name| (self.service(&name), name)).map(|(service, name)| (name, service)).collect())
    }

    /// Service, and what follows it in the key.
    fn place(&self, kv: &Value) -> Result<(String, String), String> {
        let key = decoded(kv, "key")?;
        let rest = key.strip_prefix(&self.prefix).unwrap_or(&key).trim_start_matches('/');
        let (service, instance) = rest.split_once('/').unwrap_or((rest, ""));
        Ok((service.to_owned(), instance.to_owned()))
    }

    fn put(&mut self, kv: &Value) -> Result<String, String> {
        let (service, instance) = self.place(kv)?;
        self.names.insert(decoded(kv, "key")?);
        self.revision = self.revision.max(number(kv, "mod_revision"));
        let record = read(&service, &instance, &decoded(kv, "value")?);
        self.keys.entry(service.clone()).or_default().insert(instance, record);
        Ok(service)
    }

    fn remove(&mut self, kv: &Value) -> Result<String, String> {
        let (service, instance) = self.place(kv)?;
        self.names.remove(&decoded(kv, "key")?);
        self.revision = self.revision.max(number(kv, "mod_revision"));
        if let Some(records) = self.keys.get_mut(&service) {
            records.remove(&instance);
            if records.is_empty() {
                self.keys.remove(&service);
            }
        }
        Ok(service)
    }
}

/// The value of a key, as Easegress writes it.
fn read(service: &str, instance: &str, value: &str) -> Result<Record, String> {
    let told = |what: &str| format!("key {}: {what}", quoted(&format!("{service}/{instance}")));
    if service.is_empty() || instance.is_empty() {
        return Err(told("it is not SERVICE/INSTANCE; remove it, or give the registry another prefix"));
    }
    let value: Value = serde_json::from_str(value)
        .map_err(|error| told(&format!("its value is no JSON document: {error}; write {{\"address\", \"port\"}}")))?;
    let named = text(&value, "serviceName");
    if !named.is_empty() && named != service {
        return Err(told(&format!("its value is of service {}; write one of the two anew", quoted(&named))));
    }
    Ok(Record {
        id: instance.to_owned(),
        address: text(&value, "address"),
        port: number(&value, "port"),
        scheme: text(&value, "scheme"),
        tags: texts(&value, "tags"),
        weight: number(&value, "weight"),
    })
}

fn decoded(kv: &Value, name: &str) -> Result<String, String> {
    let encoded = field(kv, name).and_then(Value::as_str).unwrap_or_default();
    let bytes = STANDARD.decode(encoded).map_err(|error| format!("a {name} cannot be read: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of a body that does not end.
struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if !line.trim_ascii().is_empty() {
                    return Ok(line);
                }
                continue;
            }
            if self.read.len() > LINE_MAX {
                return Err(format!("a line of the watch is longer than {} MiB", LINE_MAX >> 20));
            }
            match self.body.frame().await {
                None => return Err("the watch has ended".to_owned()),
                Some(Err(error)) => return Err(format!("the watch broke off: {error}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// Instances of all services under the prefix.
const KEYS_MAX: usize = 65_536;
/// etcd sends changes of 1.5 MiB at most in a message.
const LINE_MAX: usize = 16 << 20;
const PATIENCE_LEAST: Duration = Duration::from_secs(1);
const PATIENCE_MOST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, key: &str, value: &str) -> Value {
        let kv = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
        if kind == "DELETE" { json!({"type": kind, "kv": kv}) } else { json!({"kv": kv}) }
    }

    fn line(events: &[Value]) -> Vec<u8> {
        json!({"result": {"header": {"revision": "7"}, "events": events}}).to_string().into_bytes()
    }

    #[test]
    fn a_range_is_what_begins_with_the_prefix() {
        let range = Range::new("/services/");
        assert_eq!(
            (STANDARD.decode(&range.key).unwrap(), STANDARD.decode(&range.end).unwrap()),
            (b"/services/".to_vec(), b"/services0".to_vec())
        );
    }

    #[test]
    fn events_change_what_they_name() {
        let mut keys = Keys::new("/services/", 0);
        let one = r#"{"serviceName":"a","instanceID":"1","Address":"10.0.0.1","port":80,"tags":["x"],"weight":3}"#;
        let changed =
            keys.take(&line(&[event("PUT", "/services/a/1", one), event("PUT", "/services/b/1", "<html>")])).unwrap();
        let [(a, first), (b, second)] = &changed[..] else { panic!("{changed:?}") };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
        let record = Record {
            id: "1".into(),
            address: "10.0.0.1".into(),
            port: 80,
            scheme: String::new(),
            tags: vec!["x".into()],
            weight: 3,
        };
        assert_eq!(first.records, [record]);
        assert!(second.unread[0].contains("no JSON document"), "{second:?}");
        let gone = keys.take(&line(&[event("DELETE", "/services/a/1", "")])).unwrap();
        assert_eq!(gone, [("a".to_owned(), Service::default())]);
        assert_eq!(keys.services().keys().collect::<Vec<_>>(), ["b"]);
        let other = r#"{"serviceName":"z","address":"10.0.0.1","port":80}"#;
        let contradicts = keys.take(&line(&[event("PUT", "/services/a/1", other)])).unwrap();
        assert!(contradicts[0].1.unread[0].contains("is of service \"z\""), "{contradicts:?}");
        let flat = keys.take(&line(&[event("PUT", "/services/a", one)])).unwrap();
        assert!(flat[0].1.unread.iter().any(|why| why.contains("not SERVICE/INSTANCE")), "{flat:?}");
    }

    #[test]
    fn the_end_of_a_watch_is_told() {
        let mut keys = Keys::new("/", 0);
        for (line, told) in [
            (r#"{"error":{"message":"no leader"}}"#, "no leader"),
            (r#"{"result":{"canceled":true,"compact_revision":"9"}}"#, "compacted"),
            ("{\"result\": {", "cannot be read"),
        ] {
            assert!(keys.take(line.as_bytes()).unwrap_err().contains(told), "{line}");
        }
    }

    #[tokio::test]
    async fn a_watch_that_keeps_changes_to_itself_is_begun_anew() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let kv =
                |n: u64| json!({"key": STANDARD.encode(format!("/services/a/{n}")), "mod_revision": n.to_string()});
            let mut ranges = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = vec![0; 4096];
                let Ok(count @ 1..) = stream.read(&mut read).await else { continue };
                let mut answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
                if String::from_utf8_lossy(&read[..count]).contains("/v3/kv/range") {
                    ranges += 1;
                    // Twice all is well, then there is one key more, of which the watch says nothing.
                    let keys = if ranges < 3 { vec![kv(5)] } else { vec![kv(6)] };
                    let count = if ranges < 3 { "1" } else { "2" };
                    let body = json!({"header": {"revision": "5"}, "kvs": keys, "count": count}).to_string();
                    let length = body.len();
                    answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                tokio::spawn(async move {
                    // Held open.
                    let _ = stream.read(&mut [0; 16]).await;
                });
            }
        });
        let spec = json!({"endpoints": [address], "cacheTimeout": "100ms"});
        let spec: EtcdServiceRegistrySpec = base_model::decode(&spec, "").unwrap().value;
        let (tell, mut heard) = mpsc::channel(8);
        let error = watch(&spec, 0, &tell).await.unwrap_err();
        assert!(error.contains("does not tell what has changed"), "{error}");
        assert!(matches!(heard.recv().await, Some(Heard::All(_))));
        assert_eq!((heard.recv().await, heard.recv().await), (Some(Heard::Well), Some(Heard::Well)));
    }
}
