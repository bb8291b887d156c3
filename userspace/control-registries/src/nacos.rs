//! Nacos, by the open HTTP API that versions 1 and 2 have: instances of each service that is asked for, every `syncInterval`.

use std::time::{Duration, Instant};

use base_model::{NacosServerSpec, NacosServiceRegistrySpec};
use base_text::quoted;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::ask::{Asker, escaped, field, number, text};
use crate::record::{Record, Service};
use crate::{Heard, Wanted, tell};

/// See [`crate::watch`].
pub async fn watch(
    spec: &NacosServiceRegistrySpec,
    turn: usize,
    mut wanted: Wanted,
    heard: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let login = "give username and password of a user who may read, and the namespace's id";
    let asker = Asker::new("Nacos", login)?;
    let url = url_of(&spec.servers[turn % spec.servers.len()]);
    let mut token = Login::default();
    loop {
        let token = token.get(&asker, &url, spec).await?;
        let names = wanted.borrow_and_update().clone();
        let is_there = async || {
            let place = format!("{url}/v1/ns/service/list?pageNo=1&pageSize=1{}{token}", namespace(spec));
            asker.json(Method::GET, &place, &[], "", PATIENCE).await
        };
        if names.is_empty() {
            // Whether Nacos is there is of interest before a pool asks for anything.
            is_there().await?;
            tell(heard, Heard::Well).await?;
        }
        for name in names {
            let place = format!("{url}/v1/ns/instance/list?serviceName={}{}{token}", escaped(&name), namespace(spec));
            let answer = asker.json(Method::GET, &place, &[], "", PATIENCE).await.and_then(|(_, answer)| {
                let hosts = field(&answer, "hosts").and_then(Value::as_array).map(|hosts| read(&name, hosts));
                hosts.ok_or_else(|| asker.told(&place, "its answer has no hosts; is this the address of Nacos?"))
            });
            match answer {
                Ok(service) => tell(heard, Heard::Service(name, service)).await?,
                // A name that Nacos does not take, such as one with a space, is no reason to know nothing of the others.
                Err(fault) if is_there().await.is_ok() => tell(heard, Heard::Trouble(name, fault)).await?,
                Err(fault) => return Err(fault),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(spec.sync_interval.into()) => {}
            changed = wanted.changed() => changed.map_err(|_| "nobody asks for services any more".to_owned())?,
        }
    }
}

/// What Nacos gives for user and password, and until when it is used.
#[derive(Default)]
struct Login {
    token: String,
    until: Option<Instant>,
}

impl Login {
    /// As it is added to a query; empty where the document names no user.
    async fn get(&mut self, asker: &Asker, url: &str, spec: &NacosServiceRegistrySpec) -> Result<String, String> {
        if spec.username.is_empty() {
            return Ok(String::new());
        }
        if self.until.is_none_or(|until| Instant::now() >= until) {
            let place = format!("{url}/v1/auth/login");
            let form = format!("username={}&password={}", escaped(&spec.username), escaped(&spec.password));
            let headers = &[("content-type", "application/x-www-form-urlencoded")];
            let (_, answer) = asker.json(Method::POST, &place, headers, form, PATIENCE).await?;
            self.token = text(&answer, "accessToken");
            if self.token.is_empty() {
                return Err(asker.told(&place, "its answer has no accessToken"));
            }
            // Well before it ends.
            let lasts = Duration::from_secs(u64::try_from(number(&answer, "tokenTtl")).unwrap_or_default());
            self.until = Some(Instant::now() + (lasts / 2).max(Duration::from_secs(1)));
        }
        Ok(format!("&accessToken={}", escaped(&self.token)))
    }
}

fn url_of(server: &NacosServerSpec) -> String {
    let host = if server.ip_addr.contains(':') { format!("[{}]", server.ip_addr) } else { server.ip_addr.clone() };
    let path = server.context_path.trim_matches('/');
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    format!("{}://{host}:{}{path}", server.scheme, server.port)
}

fn namespace(spec: &NacosServiceRegistrySpec) -> String {
    if spec.namespace.is_empty() { String::new() } else { format!("&namespaceId={}", escaped(&spec.namespace)) }
}

/// Those that are healthy and on.
fn read(name: &str, hosts: &[Value]) -> Service {
    let mut service = Service::default();
    let is = |host: &Value, what: &str| field(host, what).is_none_or(|is| is.as_bool() != Some(false));
    for host in hosts.iter().filter(|host| is(host, "healthy") && is(host, "enabled")) {
        let (address, port) = (text(host, "ip"), number(host, "port"));
        let id = match text(host, "instanceId") {
            id if id.is_empty() => format!("{address}#{port}"),
            id => id,
        };
        // GROUP@@SERVICE.
        let of = text(host, "serviceName");
        let of = of.rsplit("@@").next().unwrap_or_default();
        if !of.is_empty() && of != name.rsplit("@@").next().unwrap_or_default() {
            let what =
                format!("instance {} is of service {}, and {} was asked for", quoted(&id), quoted(of), quoted(name));
            service.unread.push(what);
            continue;
        }
        let none = Value::Null;
        let meta = field(host, "metadata").unwrap_or(&none);
        let tags = text(meta, "tags");
        let weight = field(host, "weight").and_then(Value::as_f64).unwrap_or_default();
        service.records.push(Record {
            id,
            address,
            port,
            scheme: text(meta, "scheme"),
            tags: tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
            // Nacos counts from 0.01 to 10 000, mostly in ones.
            weight: (weight * 100.0) as i64,
        });
    }
    service
}

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts_are_read_as_nacos_writes_them() {
        let host = |ip: &str, healthy: bool, of: &str| {
            json!({"instanceId": format!("{ip}#8080#DEFAULT#{of}"), "ip": ip, "port": 8080, "weight": 1.0, "healthy": healthy,
                   "enabled": true, "serviceName": of, "metadata": {"scheme": "https", "tags": "a, b"}})
        };
        let of = "DEFAULT_GROUP@@orders";
        let service =
            read("orders", &[host("10.0.0.1", true, of), host("10.0.0.2", false, of), host("10.0.0.3", true, "x")]);
        let wanted = Record {
            id: format!("10.0.0.1#8080#DEFAULT#{of}"),
            address: "10.0.0.1".into(),
            port: 8080,
            scheme: "https".into(),
            tags: vec!["a".into(), "b".into()],
            weight: 100,
        };
        assert_eq!(service.records, [wanted]);
        assert!(service.unread[0].contains("is of service \"x\""), "{:?}", service.unread);
    }

    /// Requests as they came, to a server that answers as recorded of Nacos 2.
    #[tokio::test]
    async fn nacos_is_asked_as_the_document_says() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (saw, mut seen) = mpsc::channel(8);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for body in [json!({"accessToken": "t 1", "tokenTtl": 18000}), json!({"name": "g@@orders", "hosts": []})] {
                let mut read = vec![0; 4096];
                let count = stream.read(&mut read).await.unwrap();
                saw.send(String::from_utf8_lossy(&read[..count]).into_owned()).await.unwrap();
                let body = body.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let text = json!({"servers": [{"scheme": "http", "contextPath": "/nacos", "ipAddr": "127.0.0.1", "port": port}],
                          "namespace": "n", "username": "u", "password": "p&", "syncInterval": "1m", "emptyAfter": "1m"});
        let spec: NacosServiceRegistrySpec = base_model::decode(&text, "").unwrap().value;
        assert_eq!(base_model::ServiceRegistrySpec::Nacos(spec.clone()).empty_after(), Duration::from_secs(60));
        let (_wants, wanted) = tokio::sync::watch::channel(["orders".to_owned()].into());
        let (tell, mut heard) = mpsc::channel(8);
        let watching = tokio::spawn(async move { watch(&spec, 0, wanted, &tell).await });
        assert_eq!(heard.recv().await, Some(Heard::Service("orders".into(), Service::default())));
        watching.abort();
        let (login, list) = (seen.recv().await.unwrap(), seen.recv().await.unwrap());
        assert!(
            login.starts_with("POST /nacos/v1/auth/login ") && login.ends_with("username=u&password=p%26"),
            "{login}"
        );
        let line = "GET /nacos/v1/ns/instance/list?serviceName=orders&namespaceId=n&accessToken=t%201 ";
        assert!(list.starts_with(line), "{list}");
    }

    #[tokio::test]
    async fn a_name_that_nacos_does_not_take_keeps_no_other_away() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut read = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut read).await {
                        let asked = String::from_utf8_lossy(&read[..count]).into_owned();
                        let (status, body) = match asked.contains("serviceName=a%20b") {
                            true => ("400 Bad Request", "caused: Param 'serviceName' is illegal".to_owned()),
                            false => ("200 OK", json!({"hosts": [], "count": 0}).to_string()),
                        };
                        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                        stream.write_all((head + &body).as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let text = json!({"servers": [{"ipAddr": "127.0.0.1", "port": port}], "syncInterval": "1m"});
        let spec: NacosServiceRegistrySpec = base_model::decode(&text, "").unwrap().value;
        let (_wants, wanted) = tokio::sync::watch::channel(["a b".to_owned(), "orders".to_owned()].into());
        let (tell, mut heard) = mpsc::channel(8);
        let watching = tokio::spawn(async move { watch(&spec, 0, wanted, &tell).await });
        let first = heard.recv().await;
        let refused =
            |heard: &Heard| matches!(heard, Heard::Trouble(name, why) if name == "a b" && why.contains("400"));
        assert!(first.as_ref().is_some_and(refused), "{first:?}");
        assert_eq!(heard.recv().await, Some(Heard::Service("orders".into(), Service::default())));
        watching.abort();
    }
}
