use super::*;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Addresses and their time to live in seconds; `None` fails.
type Says = Option<(Vec<IpAddr>, u32)>;

/// A DNS server that knows one name, `app.example.test`: what it says, and for how long.
struct DnsServer {
    port: u16,
    asked: Arc<AtomicUsize>,
    says: Arc<Mutex<Says>>,
}

impl DnsServer {
    fn saying(addresses: &[&str], time_to_live: u32) -> DnsServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new(Some((parsed(addresses), time_to_live))));
        let asked = Arc::new(AtomicUsize::new(0));
        let (told, count) = (says.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((n, peer)) = socket.recv_from(&mut query) {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&query[..n], told.lock().unwrap().as_ref());
                if socket.send_to(&answer, peer).is_err() {
                    return;
                }
            }
        });
        DnsServer { port, asked, says }
    }

    fn say(&self, what: Option<(&[&str], u32)>) {
        *self.says.lock().unwrap() = what.map(|(addresses, ttl)| (parsed(addresses), ttl));
    }

    fn sources(&self) -> Sources {
        let udp = ConnectionConfig::new(ProtocolConfig::Udp);
        let connection = {
            let mut c = udp;
            c.port = self.port;
            c
        };
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        let search = vec![Name::from_utf8("example.test.").unwrap()];
        let config = ResolverConfig::from_parts(None, search, vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"10.7.7.7 fixed.test fixed\n::7 fixed.test\n"[..]).unwrap();
        Sources { hosts, dns: Some(builder.build().unwrap()), system: false }
    }
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

/// The answer to a query, as RFC 1035 section 4 writes it. SERVFAIL when there is nothing to say, NXDOMAIN for other names.
fn answer(query: &[u8], says: Option<&(Vec<IpAddr>, u32)>) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let known = query[12..end - 4].eq_ignore_ascii_case(b"\x03app\x07example\x04test\0");
    let records: Vec<Vec<u8>> = match says {
        Some((addresses, ttl)) if known => addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) if kind == 1 => Some(ip.octets().to_vec()),
                IpAddr::V6(ip) if kind == 28 => Some(ip.octets().to_vec()),
                _ => None,
            })
            .map(|data| {
                let mut record = vec![0xc0, 12];
                record.extend(kind.to_be_bytes());
                record.extend([0, 1]);
                record.extend(ttl.to_be_bytes());
                record.extend((data.len() as u16).to_be_bytes());
                record.extend(data);
                record
            })
            .collect(),
        _ => Vec::new(),
    };
    let code = match says {
        None => 2,
        Some(_) if !known => 3,
        Some(_) => 0,
    };
    let mut out = query[..2].to_vec();
    out.extend([0x84, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend(&query[12..end]);
    out.extend(records.concat());
    out
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn hosts_then_dns_with_search_domains_and_times_to_live() {
    let server = DnsServer::saying(&["10.0.0.1", "fd00::1"], 77);
    block_on(async {
        let (sources, blocked) = (server.sources(), Arc::new(Semaphore::new(1)));
        assert_eq!(sources.look_up("fixed.test", &blocked).await, Ok((parsed(&["10.7.7.7", "::7"]), LONGEST)));
        assert_eq!(server.asked.load(Ordering::SeqCst), 0, "the hosts file has said it");
        for name in ["app.example.test", "app"] {
            let (mut found, holds) = sources.look_up(name, &blocked).await.unwrap();
            found.sort_unstable();
            assert_eq!(found, parsed(&["10.0.0.1", "fd00::1"]), "{name}");
            assert!(holds > Duration::from_secs(70) && holds <= Duration::from_secs(77), "{name}: {holds:?}");
        }
        assert!(sources.look_up("other.test", &blocked).await.is_err());
    });
}

/// A name follows its records within a time to live, and keeps what it had while nobody answers.
#[test]
fn a_name_follows_its_records() {
    let server = DnsServer::saying(&["10.0.0.1"], 0);
    // Made by hand: nobody else looks after it.
    let endpoint = Endpoint::unwatched("app.example.test", 80);
    block_on(async {
        let (_sender, current) = watch::channel(Arc::new(server.sources()));
        let task = tokio::spawn(keep_fresh(Arc::downgrade(&endpoint), current, lanes()));
        eventually("the first look-up", || endpoint.address() == "10.0.0.1:80".parse().ok()).await;
        assert_eq!(endpoint.await_address(Instant::now()), Ok(()));
        server.say(Some((&["10.0.0.2", "10.0.0.3"], 0)));
        eventually("the change", || endpoint.addresses().len() == 2).await;
        server.say(None);
        let asked = server.asked.load(Ordering::SeqCst);
        eventually("a failure", || server.asked.load(Ordering::SeqCst) > asked + 2).await;
        assert_eq!(endpoint.addresses().len(), 2, "what was known stays");
        server.say(Some((&["10.0.0.4"], 0)));
        eventually("the recovery", || endpoint.address() == "10.0.0.4:80".parse().ok()).await;
        drop(endpoint);
        task.await.unwrap();
    });
}

fn lanes() -> Lanes {
    Lanes { permits: Arc::new(Semaphore::new(1)), blocked: Arc::new(Semaphore::new(1)) }
}

/// Names that nobody answers for do not keep others from being asked for.
#[test]
fn a_name_without_answer_lets_others_pass() {
    let (silent, server) = (UdpSocket::bind("127.0.0.1:0").unwrap(), DnsServer::saying(&["10.0.0.1"], 60));
    let nobody = DnsServer { port: silent.local_addr().unwrap().port(), ..DnsServer::saying(&[], 60) }.sources();
    block_on(async {
        let (lanes, sources) = (Arc::new(lanes()), server.sources());
        let waiting = lanes.clone();
        let stuck = tokio::spawn(async move { waiting.look_up(&nobody, "app.example.test").await });
        eventually("it has the one place", || lanes.permits.available_permits() == 0).await;
        let found = lanes.look_up(&sources, "app.example.test").await;
        assert_eq!(found.map(|(addresses, _)| addresses), Ok(parsed(&["10.0.0.1"])));
        assert!(!stuck.is_finished(), "nobody answers");
        stuck.abort();
    });
}

#[test]
fn whoever_asks_for_many_names_leaves_room_for_others() {
    let site = |n: u32| IpAddr::from(n.to_be_bytes());
    for askers in [1u32, 2, 10, 300] {
        let mut waiting = Askers { all: 0, of_site: BTreeMap::new() };
        let mut held = Vec::new();
        for _ in 0..WAITING_MOST {
            held.extend((0..askers).filter(|n| waiting.begin(site(*n))));
        }
        assert_eq!(held.len(), waiting.all);
        assert!(held.len() < WAITING_MOST && (askers > 1 || held.len() >= WAITING_MOST / 6), "{}", held.len());
        assert!(waiting.begin(site(1 << 30)), "{askers} clients hold {}", held.len());
        waiting.end(site(1 << 30));
        held.into_iter().for_each(|n| waiting.end(site(n)));
        assert!(waiting.all == 0 && waiting.of_site.is_empty());
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
