//! DNS: a service is a name, looked up again when its time to live is over. `_service._proto.name` is asked for SRV records, which say
//! where its servers are; any other for its addresses, and the port is the document's, or stands behind it as `name:port`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base_model::DnsServiceRegistrySpec;
use base_text::quoted;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{TokioResolver, lookup::Lookup};
use tokio::sync::mpsc;

use crate::record::{Record, Service};
use crate::{Heard, Wanted, each, tell};

/// See [`crate::watch`]. What goes wrong with one name is told, and the others go on.
pub async fn watch(spec: &DnsServiceRegistrySpec, wanted: Wanted, heard: &mpsc::Sender<Heard>) -> Result<(), String> {
    let resolver = resolver(spec)?;
    let start = |name| {
        Name { resolver: resolver.clone(), spec: spec.clone(), name, heard: heard.clone(), last: BTreeMap::new() }.run()
    };
    let idle = || {
        let heard = heard.clone();
        async move { tell(&heard, Heard::Well).await }
    };
    each::service(wanted, start, idle, spec.sync_interval.into()).await
}

fn resolver(spec: &DnsServiceRegistrySpec) -> Result<TokioResolver, String> {
    let told = |error: &dyn std::fmt::Display| format!("DNS cannot be asked: {error}");
    let mut builder = if spec.nameservers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| format!("{}; give nameservers", told(&error)))?
    } else {
        let mut servers = Vec::new();
        for text in &spec.nameservers {
            let at: SocketAddr = text
                .parse()
                .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)))
                .map_err(|error| format!("{}: {}", quoted(text), told(&error)))?;
            let over = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = at.port();
                connection
            });
            servers.push(NameServerConfig::new(at.ip(), true, over.to_vec()));
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // An answer is used until its end, and asked for anew then.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| told(&error))
}

/// One service.
struct Name {
    resolver: TokioResolver,
    spec: DnsServiceRegistrySpec,
    name: String,
    heard: mpsc::Sender<Heard>,
    /// What each type of record was when it was told last.
    last: BTreeMap<RecordType, Vec<Record>>,
}

impl Name {
    /// Ends when nobody listens any more.
    async fn run(mut self) {
        let mut again = AGAIN_FIRST;
        loop {
            let (told, pause) = match self.look_up().await {
                Ok((service, holds)) => {
                    again = AGAIN_FIRST;
                    let pause = holds.clamp(SHORTEST, Duration::from(self.spec.sync_interval).max(SHORTEST));
                    (tell(&self.heard, Heard::Service(self.name.clone(), service)).await, pause)
                }
                Err(why) => {
                    let told = tell(&self.heard, Heard::Trouble(self.name.clone(), why)).await;
                    let pause = again;
                    again = (again * 2).min(AGAIN);
                    (told, pause)
                }
            };
            if told.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// What the name has, and how long that holds. Of a type that DNS does not tell, where it tells another one, what it told last is true
    /// on: many a server fails for AAAA, and the addresses of the other family are good all the same.
    async fn look_up(&mut self) -> Result<(Service, Duration), String> {
        let (name, port) = match self.name.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| format!("{}: no port", quoted(&self.name)))?),
            None => (self.name.as_str(), i64::from(self.spec.port)),
        };
        let mut service = Service::default();
        let mut holds = Duration::from(self.spec.sync_interval);
        let kinds: &[RecordType] =
            if name.starts_with('_') { &[RecordType::SRV] } else { &[RecordType::A, RecordType::AAAA] };
        let mut faults = Vec::new();
        for kind in kinds {
            let found = match self.ask(name, *kind).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.last.remove(kind);
                    continue;
                }
                Err(why) => {
                    faults.push(why);
                    continue;
                }
            };
            let mut records = Vec::new();
            holds = holds.min(found.valid_until().saturating_duration_since(Instant::now()));
            let first = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv.priority),
                _ => None,
            });
            // Servers of another priority are for when these are gone, which is not seen from here.
            let first = first.min().unwrap_or_default();
            for record in found.answers() {
                let (address, port, weight) = match &record.data {
                    RData::SRV(srv) if srv.priority == first => {
                        let target = srv.target.to_utf8();
                        (target.trim_end_matches('.').to_owned(), i64::from(srv.port), i64::from(srv.weight))
                    }
                    RData::SRV(_) => continue,
                    data => match data.ip_addr() {
                        Some(ip) => (ip.to_string(), port, 0),
                        None => continue,
                    },
                };
                let id = format!("{address}:{port}");
                let scheme = self.spec.scheme.clone();
                records.push(Record { id, address, port, scheme, tags: Vec::new(), weight });
            }
            self.last.insert(*kind, records);
        }
        if faults.len() == kinds.len() {
            return Err(faults.swap_remove(0));
        }
        if !faults.is_empty() {
            // It is asked again soon.
            holds = holds.min(AGAIN);
        }
        service.records = self.last.values().flatten().cloned().collect();
        service.unread = faults;
        Ok((service, holds))
    }

    /// `None`: there is no such name, or it has none of these.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Option<Lookup>, String> {
        match tokio::time::timeout(PATIENCE, self.resolver.lookup(name, kind)).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if error.is_no_records_found() => Ok(None),
            Ok(Err(error)) => Err(format!("DNS does not say what {} {kind} is: {error}", quoted(name))),
            Err(_) => {
                Err(format!("DNS does not answer for {} {kind} within {}", quoted(name), base_text::duration(PATIENCE)))
            }
        }
    }
}

/// No name is asked for more often, whatever its time to live.
const SHORTEST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses after a fault: the first, twice as long each time, and the longest.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    /// Answers every query of this type with these records (RFC 1035 section 4), and every other with nothing; `None`: SERVFAIL.
    async fn server(kind: u16, records: Option<Vec<Vec<u8>>>) -> String {
        answering(move |asked| match &records {
            None => (SERVFAIL, Vec::new()),
            Some(records) if asked == kind => (0, records.clone()),
            Some(_) => (0, Vec::new()),
        })
        .await
    }

    /// A code and records for each type that is asked for.
    async fn answering(answer: impl Fn(u16) -> (u8, Vec<Vec<u8>>) + Send + 'static) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let place = socket.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((n, peer)) = socket.recv_from(&mut query).await {
                let query = &query[..n];
                let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
                let asked = u16::from_be_bytes([query[end - 4], query[end - 3]]);
                let (code, list) = answer(asked);
                let mut out = query[..2].to_vec();
                out.extend([0x84, 0x80 | code, 0, 1, 0, list.len() as u8, 0, 0, 0, 0]);
                out.extend(&query[12..end]);
                for data in list {
                    out.extend([0xc0, 12]);
                    out.extend(asked.to_be_bytes());
                    out.extend([0, 1, 0, 0, 0, 60]);
                    out.extend((data.len() as u16).to_be_bytes());
                    out.extend(data);
                }
                let _ = socket.send_to(&out, peer).await;
            }
        });
        place
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &[u8]) -> Vec<u8> {
        let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
        data.extend(target);
        data
    }

    fn name_of(spec: DnsServiceRegistrySpec, name: &str) -> Name {
        let (heard, _) = mpsc::channel(1);
        Name { resolver: resolver(&spec).unwrap(), spec, name: name.to_owned(), heard, last: BTreeMap::new() }
    }

    async fn found(server: String, name: &str) -> Result<Vec<String>, String> {
        let text = serde_json::json!({"nameservers": [server], "port": 8080, "scheme": "https", "syncInterval": "20s", "emptyAfter": "1m"});
        let spec: DnsServiceRegistrySpec = base_model::decode(&text, "").unwrap().value;
        assert_eq!(base_model::ServiceRegistrySpec::Dns(spec.clone()).empty_after(), Duration::from_secs(60));
        let (service, holds) = name_of(spec, name).look_up().await?;
        assert!(holds <= Duration::from_secs(20), "syncInterval");
        Ok(service.records.iter().map(|r| format!("{} {}:{} {}", r.scheme, r.address, r.port, r.weight)).collect())
    }

    #[tokio::test]
    async fn addresses_have_the_port_of_the_document_or_of_the_name() {
        let records = || Some(vec![vec![10, 0, 0, 1], vec![10, 0, 0, 2]]);
        let both = found(server(1, records()).await, "orders.test").await.unwrap();
        assert_eq!(both, ["https 10.0.0.1:8080 0", "https 10.0.0.2:8080 0"]);
        assert_eq!(found(server(1, records()).await, "orders.test:81").await.unwrap()[0], "https 10.0.0.1:81 0");
        assert_eq!(found(server(28, Some(vec![])).await, "orders.test").await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn srv_records_say_where_servers_are_and_the_first_priority_counts() {
        let records = vec![
            srv(2, 9, 83, b"\x01c\x04test\0"),
            srv(1, 3, 81, b"\x01a\x04test\0"),
            srv(1, 1, 82, b"\x01b\x04test\0"),
        ];
        let found = found(server(33, Some(records)).await, "_http._tcp.orders.test").await.unwrap();
        assert_eq!(found, ["https a.test:81 3", "https b.test:82 1"]);
    }

    #[tokio::test]
    async fn addresses_of_one_family_are_used_while_the_other_is_not_told() {
        use std::sync::atomic::{AtomicU16, Ordering};
        let (failing, asked_of) = (std::sync::Arc::new(AtomicU16::new(28)), std::sync::Arc::new(AtomicU16::new(0)));
        let (fails, counted) = (failing.clone(), asked_of.clone());
        let place = answering(move |asked| {
            counted.fetch_add(1, Ordering::Relaxed);
            match asked {
                asked if asked == fails.load(Ordering::Relaxed) => (SERVFAIL, Vec::new()),
                1 => (0, vec![vec![10, 0, 0, 1]]),
                _ => (0, vec![vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]),
            }
        })
        .await;
        let text = serde_json::json!({"nameservers": [place], "port": 80});
        let mut name = name_of(base_model::decode(&text, "").unwrap().value, "orders.test");
        let addresses = |service: &Service| service.records.iter().map(|r| r.address.clone()).collect::<Vec<_>>();
        let (service, _) = name.look_up().await.unwrap();
        assert_eq!(addresses(&service), ["10.0.0.1"], "AAAA fails");
        assert!(service.unread[0].contains("AAAA"), "{:?}", service.unread);
        failing.store(0, Ordering::Relaxed);
        assert_eq!(addresses(&name.look_up().await.unwrap().0), ["10.0.0.1", "fd00::1"]);
        failing.store(1, Ordering::Relaxed);
        let (service, _) = name.look_up().await.unwrap();
        assert_eq!(addresses(&service), ["10.0.0.1", "fd00::1"], "those that it told last are not gone");
        assert!(!service.unread.is_empty() && asked_of.load(Ordering::Relaxed) >= 6);
    }

    const SERVFAIL: u8 = 2;

    #[tokio::test]
    async fn a_server_that_is_sick_says_nothing() {
        let error = found(server(1, None).await, "orders.test").await.unwrap_err();
        assert!(error.contains("DNS does not say what"), "{error}");
    }
}
