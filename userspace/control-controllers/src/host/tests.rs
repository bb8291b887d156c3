use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use control_api::{ENDPOINTS, Refusal};
use control_state::{Command, PutMode};
use serde_json::json;

use super::*;

/// A cluster of one in memory, whose leader can be another.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inside>>, watch::Sender<u64>);

struct Inside {
    state: State,
    /// All there were, in their order.
    states: Vec<State>,
    requests: u64,
    leads: Option<u64>,
}

impl World {
    pub(crate) fn new() -> World {
        World::of_level(control_state::LEVEL)
    }

    pub(crate) fn of_level(level: u32) -> World {
        let inside = Inside { state: State::default(), states: Vec::new(), requests: 0, leads: Some(1) };
        let world = World(Arc::new(Mutex::new(inside)), watch::Sender::new(0));
        world.act(Action::RaiseLevel { level }).unwrap();
        world
    }

    pub(crate) fn act(&self, action: Action) -> Answer {
        let mut inside = self.0.lock().unwrap();
        inside.requests += 1;
        let request = inside.requests;
        let answer = inside.state.apply(Command { request, now: "t".into(), action, by: None }).answer;
        let state = inside.state.readable();
        self.1.send_replace(state.view.version);
        inside.states.push(state);
        answer
    }

    /// As it was after each command so far, the first first.
    pub(crate) fn states(&self) -> Vec<State> {
        self.0.lock().unwrap().states.clone()
    }

    pub(crate) fn put(&self, document: Value) {
        self.act(Command::put(0, "t", PutMode::Upsert, vec![document]).action).unwrap();
    }

    fn lead(&self, term: Option<u64>) {
        self.0.lock().unwrap().leads = term;
    }

    pub(crate) fn services(&self) -> BTreeMap<String, Value> {
        let state = self.state();
        let keys = state.view.sections.get(ENDPOINTS).cloned().unwrap_or_default();
        keys.iter().map(|(key, keyed)| (key.clone(), keyed.value.read())).collect()
    }
}

impl Cluster for World {
    fn name(&self) -> String {
        "n1".to_owned()
    }

    fn leads(&self) -> Option<u64> {
        self.0.lock().unwrap().leads
    }

    fn state(&self) -> Arc<State> {
        Arc::new(self.0.lock().unwrap().state.readable())
    }

    async fn changed(&self, version: u64) {
        let mut versions = self.1.subscribe();
        let _ = versions.wait_for(|now| *now != version).await;
    }

    async fn served(&self, _: u64, _: Duration) -> bool {
        true
    }

    async fn call(&self, _: &Member, _: Method, _: &str, _: impl Into<Bytes> + Send) -> Result<Bytes, String> {
        Err("there is nobody else".to_owned())
    }

    fn exposed(&self) -> bool {
        false
    }

    async fn propose(&self, action: Action, _: &str) -> Answer {
        self.act(action)
    }
}

/// Every document will do.
pub(crate) struct Anything;

impl Checks for Anything {
    fn check(&self, _: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// Answers one request after the other with what is in `says`.
async fn consul(says: Arc<Mutex<(u16, String, u64)>>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let says = says.clone();
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while let Ok(1..) = stream.read(&mut read).await {
                    let (status, body, index) = says.lock().unwrap().clone();
                    let head = format!(
                        "HTTP/1.1 {status} x\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    if stream.write_all((head + &body).as_bytes()).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    address
}

fn instances(addresses: &[&str]) -> String {
    let entry = |address: &&str| json!({"Node": {"Node": "n"}, "Service": {"ID": address, "Service": "orders", "Address": address, "Port": 80}});
    Value::Array(addresses.iter().map(entry).collect()).to_string()
}

fn addresses(world: &World) -> Vec<String> {
    let services = world.services();
    let list = services.get("consul/orders").and_then(|value| value["instances"].as_array()).cloned();
    list.unwrap_or_default().iter().map(|i| i["address"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn keys() -> Arc<Keys> {
    Keys::open(&std::env::temp_dir().join("there is nothing here"), None).unwrap()
}

fn registry(address: &str) -> Value {
    json!({"name": "consul", "kind": "ConsulServiceRegistry", "address": address, "syncInterval": "100ms"})
}

fn pipeline() -> Value {
    json!({"name": "p", "kind": "Pipeline", "filters": [{"kind": "Proxy", "pools": [
        {"serviceRegistry": "consul", "serviceName": "orders"}]}]})
}

#[tokio::test]
async fn a_registry_is_watched_as_long_as_its_document_is_there_and_this_member_leads() {
    let says = Arc::new(Mutex::new((200, instances(&["10.0.0.1"]), 7)));
    let (world, board) = (World::new(), Arc::new(Board::default()));
    let host = tokio::spawn(run(world.clone(), board.clone(), Arc::new(Anything), keys()));
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(world.state().lease(LEASE), None, "nobody asks for it");
    world.put(registry(&consul(says.clone()).await));
    eventually("it is well", || board.entries().get("consul").is_some_and(|entry| entry.last_good.is_some())).await;
    assert_eq!(addresses(&world), Vec::<String>::new(), "no pool asks for anything");
    world.put(pipeline());
    eventually("its servers are known", || addresses(&world) == ["10.0.0.1"]).await;
    *says.lock().unwrap() = (200, instances(&["10.0.0.1", "10.0.0.2"]), 8);
    eventually("and those that come", || addresses(&world) == ["10.0.0.1", "10.0.0.2"]).await;
    let before = world.state().view.changed.clone();

    // Whatever a registry says that is not well, the last known servers stay.
    for (n, (status, body, told)) in [
        (500, "rpc error".to_owned(), "500"),
        (200, "<html><body>login</body></html>".to_owned(), "a page"),
        (200, r#"[{"Node": {"Node": "n"}, "Serv"#.to_owned(), "ends in the middle"),
        (200, instances(&[]), ""),
        (200, instances(&["0.0.0.0"]), ""),
        (403, "ACL not found".to_owned(), "service:read"),
    ]
    .into_iter()
    .enumerate()
    {
        *says.lock().unwrap() = (status, body.clone(), 9 + n as u64);
        eventually(&format!("{status} {body} is told"), || {
            let entry = board.entries()["consul"].clone();
            let said = entry.fault.is_some_and(|fault| !told.is_empty() && fault.contains(told));
            said || told.is_empty() && entry.held.contains_key("orders")
        })
        .await;
        assert_eq!(addresses(&world).len(), 2, "{body}");
    }
    *says.lock().unwrap() = (200, instances(&["10.0.0.3"]), 30);
    eventually("it is well again", || addresses(&world) == ["10.0.0.3"]).await;
    assert_eq!(world.state().view.changed, before, "no document has changed");
    eventually("all is well", || board.statuses(None)["consul"]["health"] == "ready").await;

    world.lead(None);
    eventually("it stops", || board.entries().is_empty()).await;
    *says.lock().unwrap() = (200, instances(&["10.0.0.4"]), 31);
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(addresses(&world), ["10.0.0.3"], "another member does this now");
    world.lead(Some(3));
    eventually("it goes on", || addresses(&world) == ["10.0.0.4"]).await;
    assert_eq!(world.state().lease(LEASE).map(|lease| lease.epoch), Some(2));

    world.act(Action::delete("consul")).unwrap();
    eventually("what it learned goes with it", || world.services().is_empty() && board.entries().is_empty()).await;
    host.abort();
}

#[tokio::test]
async fn one_that_was_deposed_without_hearing_of_it_writes_nothing() {
    let says = Arc::new(Mutex::new((200, instances(&["10.0.0.1"]), 7)));
    let (world, board) = (World::new(), Arc::new(Board::default()));
    world.put(registry(&consul(says.clone()).await));
    world.put(pipeline());
    let host = tokio::spawn(run(world.clone(), board.clone(), Arc::new(Anything), keys()));
    eventually("it works", || addresses(&world) == ["10.0.0.1"]).await;
    // Another leader, of which this member has not heard.
    let take =
        |holder: &str| Action::TakeLease { name: LEASE.into(), holder: holder.into(), until: 0, at: 0, term: Some(2) };
    world.act(take("n2")).unwrap();
    *says.lock().unwrap() = (200, instances(&["10.6.6.6"]), 8);
    eventually("it is refused", || board.fenced.load(Ordering::Relaxed) > 0).await;
    eventually("and gets no lease", || {
        board.entries().get("consul").and_then(|entry| entry.fault.clone()).is_some_and(|why| why.contains("of term 2"))
    })
    .await;
    assert_eq!(addresses(&world), ["10.0.0.1"]);
    host.abort();
    let late = Action::PutKeys {
        section: ENDPOINTS.into(),
        owner: "consul".into(),
        fence: Some(Fence { lease: LEASE.into(), epoch: 1 }),
        puts: vec![control_state::KeyPut::new("consul/orders", json!({"instances": []}))],
        deletes: Vec::new(),
    };
    let refused: Refusal = world.act(late).unwrap_err();
    assert!(refused.message.contains("is held by member"), "{refused}");
}

#[test]
fn of_too_many_services_the_first_are_watched_and_the_others_are_told() {
    let (mut objects, board) = (Objects::default(), Board::default());
    let pipeline = |n: usize| {
        let mut document = pipeline();
        document["filters"][0]["pools"][0]["serviceName"] = format!("s{n:05}").into();
        (format!("p{n}"), Document::new(document))
    };
    objects.look(&Arc::new((0..SERVICES_MAX + 3).map(pipeline).collect()));
    let watched = objects.services_of("consul", &board);
    assert_eq!((watched.len(), watched.last().unwrap().as_str()), (SERVICES_MAX, "s04095"));
    let left_out = board.entries()["consul"].left_out.clone();
    assert_eq!(left_out.into_iter().collect::<Vec<_>>(), ["s04096", "s04097", "s04098"]);
}

#[tokio::test]
async fn one_that_runs_again_after_it_was_put_off_costs_nothing() {
    let says = Arc::new(Mutex::new((200, instances(&["10.0.0.1"]), 7)));
    let (world, board) = (World::new(), Arc::new(Board::default()));
    world.put(registry(&consul(says).await));
    world.put(pipeline());
    let (checks, term) = (Arc::new(Anything), world.leads().unwrap());
    let mut leader = Leader::new(world.clone(), board, checks, keys(), term);
    let plan = |leader: &mut Leader<World>, now: Instant| {
        let seen = Seen { now, ..leader.observe() };
        Leader::<World>::plan(&seen)
    };
    leader.put_off("consul", "for a test".to_owned());
    let seen = plan(&mut leader, Instant::now());
    assert!(seen.start.is_empty() && seen.tell, "its pause is not over");
    let later = Instant::now() + PAUSE;
    assert_eq!(plan(&mut leader, later).start.len(), 1);
    let due = plan(&mut leader, later);
    assert_eq!(leader.act(due).await, Next::Rest);
    assert!(leader.running.contains_key("consul"));
    assert_eq!(plan(&mut leader, later), Plan::default(), "it runs, and there is nothing to do");
    // Another document has another controller; one that is gone has none.
    world.put(registry("127.0.0.1:1"));
    let other = plan(&mut leader, later);
    assert_eq!((&other.stop, other.start.len()), (&vec!["consul".to_owned()], 1));
    leader.act(other).await;
    leader.put_off("consul", "for a test".to_owned());
    world.act(Action::delete("consul")).unwrap();
    let gone = plan(&mut leader, later);
    assert_eq!((gone.stop, gone.forget, gone.start), (vec!["consul".to_owned()], vec!["consul".to_owned()], vec![]));
}

/// etcd whose only key is written anew every few milliseconds, so many times.
async fn restless_etcd(times: u64) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let kv = |turn: u64| {
        let value = json!({"address": "10.0.0.1", "port": 1000 + turn}).to_string();
        json!({"key": STANDARD.encode("/services/orders/1"), "value": STANDARD.encode(value)})
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut read).await {
                    if String::from_utf8_lossy(&read[..count]).contains("/v3/kv/range") {
                        let body = json!({"header": {"revision": "5"}, "kvs": [kv(0)]}).to_string();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        stream.write_all((head + &body).as_bytes()).await.unwrap();
                        continue;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                    for turn in 1..=times {
                        let line = json!({"result": {"events": [{"kv": kv(turn)}]}}).to_string() + "\n";
                        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                        if stream.write_all(chunk.as_bytes()).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_registry_that_changes_without_end_is_written_down_now_and_then() {
    let (world, board) = (World::new(), Arc::new(Board::default()));
    let etcd = restless_etcd(200).await;
    world.put(json!({"name": "etcd", "kind": "EtcdServiceRegistry", "endpoints": [etcd]}));
    let mut pipeline = pipeline();
    pipeline["filters"][0]["pools"][0]["serviceRegistry"] = "etcd".into();
    world.put(pipeline);
    let requests = || world.0.lock().unwrap().requests;
    let (began, before) = (Instant::now(), requests());
    let host = tokio::spawn(run(world.clone(), board.clone(), Arc::new(Anything), keys()));
    let port = || world.services().get("etcd/orders").and_then(|value| value["instances"][0]["port"].as_u64());
    eventually("the last of its changes is written", || port() == Some(1200)).await;
    host.abort();
    let writes = u128::from(requests() - before);
    let most = began.elapsed().as_millis() / 50 + 3;
    assert!(writes <= most, "{writes} writes, where {most} have time");
}

#[tokio::test]
async fn an_order_that_fails_is_remembered_by_whoever_leads_next() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::open(directory.path(), None).unwrap();
    let (world, board) = (World::new(), Arc::new(Board::default()));
    // Nobody listens there.
    world.put(json!({"name": "c", "kind": "AutoCertManager", "email": "a@b.test", "domains": [{"name": "b.test"}],
                     "directoryURL": "http://127.0.0.1:1/dir"}));
    let host = tokio::spawn(run(world.clone(), board.clone(), Arc::new(Anything), keys));
    let section = || world.state().view.sections.get(auto_cert::ACME).cloned().unwrap_or_default();
    let record = || section().get("order/b.test").map(|keyed| keyed.value.read()).unwrap_or_default();
    eventually("it has failed", || record()["failures"] == 1).await;
    assert!(record()["error"].as_str().is_some_and(|why| why.contains("cannot be asked")), "{}", record());
    let kept = std::fs::read_to_string(directory.path().join("cluster-keys")).unwrap();
    let id = base_tls::seal::SealKey::read(&kept).unwrap().id().to_owned();
    assert_eq!(
        section()[auto_cert::SEAL].value.read()["id"],
        id.as_str(),
        "the state names the key, and does not have it"
    );
    let status = || board.statuses(None).get("c").cloned().unwrap_or_default();
    eventually("the status says so", || status()["domains"][0]["state"] == "failed").await;
    world.lead(None);
    eventually("it stops", || board.entries().is_empty()).await;
    let before = record();
    world.lead(Some(2));
    eventually("the status says so again", || status()["domains"][0]["failures"] == before["failures"]).await;
    eventually("it is tried again, in its time", || record()["failures"].as_u64() > before["failures"].as_u64()).await;
    world.act(Action::delete("c")).unwrap();
    eventually("what was known goes with it", || section().is_empty() && board.entries().is_empty()).await;
    host.abort();
}

#[tokio::test]
async fn names_that_clients_ask_for_are_asked_about_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::open(directory.path(), None).unwrap();
    // It takes every connection and answers none.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ask = format!("http://{}/may", listener.local_addr().unwrap());
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    let (world, board) = (World::new(), Arc::new(Board::default()));
    world.put(json!({"name": "c", "kind": "AutoCertManager", "email": "a@b.test", "domains": [{"name": "b.test"}],
                     "directoryURL": "http://127.0.0.1:1/dir",
                     "onDemand": {"allow": ["*.c.test"], "ask": ask, "perHour": 100, "most": 100}}));
    let host = tokio::spawn(run(world.clone(), board.clone(), Arc::new(Anything), keys));
    eventually("it runs", || board.statuses(None).contains_key("c")).await;
    board.want((0..32).map(|n| format!("{n}.c.test")));
    // Names that are due wait for one of them at most, and not for all, one after the other.
    eventually("all of them are asked about", || open.load(Ordering::SeqCst) >= 32).await;
    host.abort();
}

/// Of ten thousand pipelines that a controller makes each asks it for a service that it knows of itself: they are no reason to tell it
/// anything, and are not among those it may have too many of.
#[test]
fn what_a_controller_makes_asks_it_for_nothing() {
    let (board, mut objects) = (Board::default(), Objects::default());
    let pipeline = |name: &str, owner: &str, service: &str| {
        let pool = json!({"serviceRegistry": "ing", "serviceName": service});
        let filter = json!({"name": "proxy", "kind": "Proxy", "pools": [pool]});
        let labels = json!({control_api::OWNER_LABEL: owner});
        let document = json!({"name": name, "kind": "Pipeline", "filters": [filter], "labels": labels});
        (name.to_owned(), Document::new(document))
    };
    let all: control_api::Objects = [
        ("ing".to_owned(), Document::new(json!({"name": "ing", "kind": "IngressController"}))),
        pipeline("theirs", "user-api", "shop/a:80"),
        pipeline("of-another", "GatewayController:gw", "shop/b:80"),
    ]
    .into_iter()
    .collect();
    assert!(objects.look(&all));
    let asked = BTreeSet::from(["shop/a:80".to_owned(), "shop/b:80".to_owned()]);
    assert_eq!(objects.services_of("ing", &board), asked);
    let mut more = all;
    more.extend([pipeline("ing.shop.s.80", "IngressController:ing", "shop/s:80")]);
    assert!(!objects.look(&more), "there is nothing to tell it");
    assert_eq!(objects.services_of("ing", &board), asked);
}
