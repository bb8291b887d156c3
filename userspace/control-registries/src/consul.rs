//! Consul, by blocking queries of its HTTP API: one for each service that is asked for, which Consul answers when something changes.
//!
//! Consul takes 200 connections from one address (`http_max_conns_per_client`) and refuses those beyond. So more services than
//! [`BLOCKING_MOST`] are asked for one after the other every `syncInterval`, on few connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base_model::ConsulServiceRegistrySpec;
use base_text::quoted;
use hyper::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::ask::{Asker, escaped, number, text, texts};
use crate::record::{Record, Service};
use crate::{Heard, Wanted, each, tell};

/// See [`crate::watch`]. Each service is asked for on its own: what goes wrong with one of them is told, and the others go on.
pub async fn watch(
    spec: &ConsulServiceRegistrySpec,
    wanted: Wanted,
    heard: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let login = "give a token that is valid and has service:read and node:read";
    let asker = Asker::new("Consul", login)?;
    let turns = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    let start = |name| {
        let (asker, spec, turns) = (asker.clone(), spec.clone(), turns.clone());
        Query { asker, spec, name, heard: heard.clone(), wanted: wanted.clone(), turns }.run()
    };
    // Whether Consul is there is of interest before a pool asks for anything.
    let idle = || {
        let (asker, heard) = (asker.clone(), heard.clone());
        let place = format!("{}://{}/v1/status/leader", spec.scheme, spec.address);
        async move {
            asker.json(Method::GET, &place, &[], "", CONNECT).await?;
            tell(&heard, Heard::Well).await
        }
    };
    each::service(wanted.clone(), start, idle, spec.sync_interval.into()).await
}

/// One service.
struct Query {
    asker: Asker,
    spec: ConsulServiceRegistrySpec,
    name: String,
    heard: mpsc::Sender<Heard>,
    /// All services that are asked for.
    wanted: Wanted,
    /// Of questions that are answered at once.
    turns: Arc<Semaphore>,
}

impl Query {
    /// Ends when nobody listens any more.
    async fn run(self) {
        let (mut index, mut again) = (0, AGAIN_FIRST);
        loop {
            let asked = Instant::now();
            let many = self.wanted.borrow().len() > BLOCKING_MOST;
            if many {
                index = 0;
            }
            let told = match self.ask(index).await {
                Ok((next, service)) => {
                    // A service that changes without end, and a registry that does not wait, are not asked without end.
                    let least = match next == index {
                        _ if many => self.spec.sync_interval.into(),
                        true => NOT_BLOCKING,
                        false => BETWEEN,
                    };
                    // An index that goes backwards is one of another history: everything is asked for anew (Consul's own rule).
                    index = if next < index { 0 } else { next.max(1) };
                    again = AGAIN_FIRST;
                    let told = tell(&self.heard, Heard::Service(self.name.clone(), service)).await;
                    tokio::time::sleep(least.saturating_sub(asked.elapsed())).await;
                    told
                }
                Err(fault) => {
                    index = 0;
                    let told = tell(&self.heard, Heard::Trouble(self.name.clone(), fault)).await;
                    tokio::time::sleep(again).await;
                    again = (again * 2).min(AGAIN);
                    told
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn ask(&self, index: u64) -> Result<(u64, Service), String> {
        let spec = &self.spec;
        let mut url =
            format!("{}://{}/v1/health/service/{}?passing=true", spec.scheme, spec.address, escaped(&self.name));
        let wait = Duration::from(spec.sync_interval);
        if index > 0 {
            url.push_str(&format!("&index={index}&wait={}ms", wait.as_millis()));
        }
        for (name, value) in [("dc", &spec.datacenter), ("ns", &spec.namespace)] {
            if !value.is_empty() {
                url.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        for tag in &spec.service_tags {
            url.push_str(&format!("&tag={}", escaped(tag)));
        }
        let token = [("x-consul-token", spec.token.as_str())];
        let headers: &[(&str, &str)] = if spec.token.is_empty() { &[] } else { &token };
        // Nobody closes it.
        let _turn = if index == 0 { self.turns.acquire().await.ok() } else { None };
        // Consul waits for up to a sixteenth longer than it was told to.
        let patience = CONNECT + wait + wait / 16;
        let (head, answer) = self.asker.json(Method::GET, &url, headers, "", patience).await?;
        let told = |what: &str| self.asker.told(&url, what);
        if header(&head, "x-consul-knownleader") == Some("false") {
            return Err(told(
                "it knows no leader of its cluster, so that what it says may be old; look at its servers",
            ));
        }
        let index = header(&head, "x-consul-index").and_then(|index| index.parse().ok());
        let index = index
            .ok_or_else(|| told("its answer has no X-Consul-Index; is a proxy in between, or is it not Consul?"))?;
        let Some(entries) = answer.as_array() else { return Err(told("its answer is no list of instances")) };
        Ok((index, read(&self.name, entries)))
    }
}

fn read(name: &str, entries: &[Value]) -> Service {
    let mut service = Service::default();
    for entry in entries {
        let (node, said) = (entry.get("Node").unwrap_or(&Value::Null), entry.get("Service").unwrap_or(&Value::Null));
        // Ids of services are unique on one node.
        let id = format!("{}/{}", text(node, "Node"), text(said, "ID"));
        let of = text(said, "Service");
        if of != name {
            let what =
                format!("instance {} is of service {}, and {} was asked for", quoted(&id), quoted(&of), quoted(name));
            service.unread.push(what);
            continue;
        }
        let own = text(said, "Address");
        let meta = said.get("Meta").unwrap_or(&Value::Null);
        service.records.push(Record {
            id,
            address: if own.is_empty() { text(node, "Address") } else { own },
            port: number(said, "Port"),
            scheme: text(meta, "scheme"),
            tags: texts(said, "Tags"),
            weight: said.get("Weights").map_or(0, |weights| number(weights, "Passing")),
        });
    }
    service
}

fn header<'h>(head: &'h HeaderMap, name: &str) -> Option<&'h str> {
    head.get(name)?.to_str().ok()
}

const CONNECT: Duration = Duration::from_secs(5);
/// Least time from one query to the next.
const BETWEEN: Duration = Duration::from_millis(20);
/// The same where nothing had changed, so that Consul should have waited.
const NOT_BLOCKING: Duration = Duration::from_secs(1);
/// Services that are asked for by blocking queries, which take a connection each. Members and other programs of the same machine ask
/// Consul as well.
const BLOCKING_MOST: usize = 100;
/// Questions that are answered at once, at a time.
const ASKED_AT_ONCE: usize = 16;
/// Pauses after a fault: the first, twice as long each time, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_are_read_as_consul_writes_them() {
        let entry = |node: &str, id: &str, service: &str, address: &str| {
            json!({"Node": {"Node": node, "Address": "10.0.0.1"},
                   "Service": {"ID": id, "Service": service, "Address": address, "Port": 8080, "Tags": ["v1"],
                               "Meta": {"scheme": "https"}, "Weights": {"Passing": 2, "Warning": 1}}, "Checks": []})
        };
        let service = read(
            "web",
            &[entry("n1", "web", "web", ""), entry("n2", "web", "web", "10.0.0.2"), entry("n1", "x", "api", "")],
        );
        let places: Vec<(&str, &str)> = service.records.iter().map(|r| (r.id.as_str(), r.address.as_str())).collect();
        assert_eq!(places, [("n1/web", "10.0.0.1"), ("n2/web", "10.0.0.2")]);
        assert_eq!((service.records[0].scheme.as_str(), service.records[0].weight), ("https", 2));
        assert!(service.unread[0].contains("is of service \"api\""), "{:?}", service.unread);
    }

    /// Requests as they came, and answers that say what the first of `says` does, and then the next.
    async fn recorded(says: Vec<(u64, Value)>) -> (String, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let heads = seen.clone();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (index, body) in says {
                let mut read = vec![0; 4096];
                let count = stream.read(&mut read).await.unwrap();
                heads.lock().unwrap().push(String::from_utf8_lossy(&read[..count]).into_owned());
                let body = body.to_string();
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        (address, seen)
    }

    #[tokio::test]
    async fn consul_is_asked_as_the_document_says() {
        let (address, seen) = recorded(vec![(7, json!([])), (9, json!([])), (3, json!([])), (4, json!([]))]).await;
        let text = json!({"address": address, "scheme": "http", "datacenter": "dc 1", "token": "t-1", "namespace": "n",
                          "syncInterval": "2s", "serviceTags": ["a", "b"], "emptyAfter": "1m"});
        let spec: ConsulServiceRegistrySpec = base_model::decode(&text, "").unwrap().value;
        assert_eq!(base_model::ServiceRegistrySpec::Consul(spec.clone()).empty_after(), Duration::from_secs(60));
        let (_wants, wanted) = tokio::sync::watch::channel(["web/1".to_owned()].into());
        let (tell, mut heard) = mpsc::channel(8);
        let watching = tokio::spawn(async move { watch(&spec, wanted, &tell).await });
        for _ in 0..4 {
            assert_eq!(heard.recv().await, Some(Heard::Service("web/1".into(), Service::default())));
        }
        watching.abort();
        let seen = seen.lock().unwrap().clone();
        let lines: Vec<&str> = seen.iter().filter_map(|head| head.lines().next()).collect();
        let rest = "dc=dc%201&ns=n&tag=a&tag=b HTTP/1.1";
        let place = "GET /v1/health/service/web%2F1?passing=true";
        assert_eq!(lines[0], format!("{place}&{rest}"));
        assert_eq!(lines[1], format!("{place}&index=7&wait=2000ms&{rest}"));
        assert_eq!(lines[2], format!("{place}&index=9&wait=2000ms&{rest}"));
        assert_eq!(lines[3], format!("{place}&{rest}"), "an index of another history begins anew");
        assert!(seen.iter().all(|head| head.contains("x-consul-token: t-1")), "{seen:?}");
    }

    #[tokio::test]
    async fn many_services_take_no_more_connections_than_consul_allows() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let opened = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut read = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut read).await {
                        if String::from_utf8_lossy(&read[..count]).contains("&index=") {
                            // Nothing changes.
                            std::future::pending::<()>().await;
                        }
                        let answer = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 2\r\n\r\n[]";
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let text = json!({"address": address, "syncInterval": "100ms"});
        let spec: ConsulServiceRegistrySpec = base_model::decode(&text, "").unwrap().value;
        let names: std::collections::BTreeSet<String> = (0..400).map(|n| format!("s{n}")).collect();
        let (_wants, wanted) = tokio::sync::watch::channel(names);
        let (tell, mut heard) = mpsc::channel(8);
        let watching = tokio::spawn(async move { watch(&spec, wanted, &tell).await });
        let mut times = std::collections::BTreeMap::<String, usize>::new();
        while times.len() < 400 || times.values().any(|times| *times < 2) {
            let Some(Heard::Service(name, _)) = heard.recv().await else { panic!("something else was heard") };
            *times.entry(name).or_default() += 1;
        }
        watching.abort();
        let connections = connections.load(Ordering::SeqCst);
        assert!(connections <= 100, "{connections} connections");
    }
}
