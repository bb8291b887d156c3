use std::sync::Mutex;

use control_kubernetes::Object;
use control_state::PutMode;

use super::*;
use crate::host::tests::{Anything, World};

fn server(name: &str, port: u16) -> Arc<Value> {
    Arc::new(json!({"name": name, "kind": "HTTPServer", "port": port}))
}

#[test]
fn a_server_goes_with_the_one_that_takes_its_port_and_with_no_other() {
    let objects: Objects = [("old", 80), ("other", 81), ("last", 82)]
        .map(|(name, port)| (name.to_owned(), server(name, port)))
        .into_iter()
        .collect();
    let gone = ["old", "other", "last"].map(str::to_owned).into_iter();
    let servers = [server("a", 443), server("b", 80), server("c", 82)];
    let (puts, left) = paired(servers.iter().collect(), gone, &objects);
    let goes: Vec<Vec<String>> = puts.into_iter().map(|(_, goes)| goes).collect();
    assert_eq!(goes, [vec![], vec!["old".to_owned()], vec!["last".to_owned()]]);
    assert_eq!(left, ["other"]);
}

/// What is made next: documents, what they ask for, and servers that could not be made as they are to be.
type Next = (BTreeMap<String, Arc<Value>>, &'static [&'static str], &'static [&'static str]);

struct Says(Arc<Mutex<Next>>);

impl Maker for Says {
    fn kind(&self) -> &'static str {
        "GatewayController"
    }

    fn api(&self) -> (&str, &str) {
        ("", "")
    }

    fn places(&self) -> Vec<Place> {
        [Kind::Service, Kind::EndpointSlice].into_iter().flat_map(|kind| Place::all(kind, &[])).collect()
    }

    fn names_servers(&self, _: &Store) -> bool {
        false
    }

    fn make(&mut self, _: Seen<'_>) -> Outcome {
        let (documents, services, kept) = self.0.lock().unwrap().clone();
        let text = |text: &&str| (*text).to_owned();
        Outcome {
            documents,
            services: services.iter().map(text).collect(),
            kept: kept.iter().map(text).collect(),
            ..Outcome::default()
        }
    }
}

fn named(objects: &[Value], kind: Kind) -> Heard {
    let read = |object: &Value| {
        let object: Object = kind.read(&object.to_string()).unwrap();
        (object.key(), object)
    };
    Heard::Listed(objects.iter().map(read).collect(), Vec::new())
}

/// Of a controller that is called `gw`, with what is told of it for as long as that is held.
fn work(world: &World, next: &Arc<Mutex<Next>>, epoch: u64) -> (Work<World>, impl Sized + use<>) {
    let (teller, telling) = Teller::new(Api::new("", "http://127.0.0.1:1").unwrap(), |_| async {});
    let (asks, wanted) = tokio::sync::watch::channel(BTreeSet::new());
    let controller = Controller {
        cluster: world.clone(),
        name: "gw".to_owned(),
        maker: Box::new(Says(next.clone())),
        fence: Fence { lease: "l".to_owned(), epoch },
        board: Arc::default(),
        wanted,
        checks: Arc::new(Anything),
    };
    (Work::new(controller, teller), (telling, asks))
}

/// What was made before there were namespaces moves into the controller's own, and later its rules go beside its servers: no port is let
/// go of meanwhile, and nobody takes one.
#[tokio::test]
async fn servers_keep_their_ports_while_a_cluster_rises() {
    const BEFORE_NAMESPACES: u32 = NAMESPACES_LEVEL - 1;
    let world = World::of_level(BEFORE_NAMESPACES);
    world.put(json!({"name": "gw", "kind": "GatewayController"}));
    let action = Action::TakeLease { name: "l".into(), holder: "n1".into(), until: 0, at: 1, term: Some(1) };
    let epoch = world.act(action).unwrap().epoch;
    let pipeline = json!({"name": "gw.p", "kind": "Pipeline", "filters": []});
    let server = |name: &str, port: u16| json!({"name": name, "kind": "HTTPServer", "port": port, "rules": [{"paths": [{"backend": "gw.p"}]}]});
    let documents = [("gw.p", pipeline), ("gw.http", server("gw.http", 80)), ("gw.https", server("gw.https", 443))];
    let documents = documents.map(|(name, document)| (name.to_owned(), Arc::new(document)));
    let next = Arc::new(Mutex::new((documents.into(), &[][..], &[][..])));
    let (mut work, _telling) = work(&world, &next, epoch);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        work.hear(Said::Heard(Place { kind, namespace: None }, named(&[], kind)));
    }
    let names = || world.state().view.objects.keys().cloned().collect::<Vec<_>>();
    assert!(work.act().await.unwrap());
    assert_eq!(names(), ["gw", "gw.http", "gw.https", "gw.p"]);
    let made = world.states().len();
    for level in NAMESPACES_LEVEL..=control_state::LEVEL {
        world.act(Action::RaiseLevel { level }).unwrap();
        assert!(work.is_changed(), "level {level}");
        work.stale = true;
        assert!(work.act().await.unwrap(), "level {level}");
        let own = "gatewaycontroller/gw/gw";
        assert_eq!(names(), [format!("{own}.http"), format!("{own}.https"), format!("{own}.p"), "gw".to_owned()]);
        let theirs =
            Command::put(0, "t", PutMode::Create, vec![json!({"name": "theirs", "kind": "HTTPServer", "port": 80})]);
        assert!(world.act(theirs.action).is_err(), "level {level}");
    }
    for state in &world.states()[made..] {
        let mut ports: Vec<u64> =
            state.view.objects.values().filter_map(|document| document.get("port")?.as_u64()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [80, 443], "version {}", state.view.version);
    }
}

/// What a server leads to that stays as it was is there for as long as it is, and follows its pods.
#[tokio::test]
async fn a_server_that_is_kept_has_its_servers() {
    let world = World::new();
    world.put(json!({"name": "gw", "kind": "GatewayController"}));
    let action = Action::TakeLease { name: "l".into(), holder: "n1".into(), until: 0, at: 1, term: Some(1) };
    let epoch = world.act(action).unwrap().epoch;
    let pool = json!({"serviceRegistry": "gw", "serviceName": "n/s:80"});
    let filters = json!([{"name": "proxy", "kind": "Proxy", "pools": [pool]}]);
    let pipeline = json!({"name": "gw.p", "kind": "Pipeline", "filters": filters});
    let server =
        json!({"name": "gw.http", "kind": "HTTPServer", "port": 80, "rules": [{"paths": [{"backend": "gw.p"}]}]});
    let all = || [("gw.p", &pipeline), ("gw.http", &server)].map(|(name, it)| (name.to_owned(), Arc::new(it.clone())));
    let next = Arc::new(Mutex::new((all().into(), &["n/s:80"][..], &[][..])));
    let (mut work, _telling) = work(&world, &next, epoch);
    let place = |kind: Kind| Place { kind, namespace: None };
    let spec = json!({"ports": [{"port": 80}]});
    let services = [json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})];
    let pods = |address: &str| {
        let metadata = json!({"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}});
        let endpoints = json!([{"addresses": [address]}]);
        json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}]})
    };
    work.hear(Said::Heard(place(Kind::Service), named(&services, Kind::Service)));
    work.hear(Said::Heard(place(Kind::EndpointSlice), named(&[pods("10.0.0.1")], Kind::EndpointSlice)));
    let known = || {
        let address = |value: &Value| value["instances"][0]["address"].as_str().unwrap_or_default().to_owned();
        let objects = world.state().view.objects.keys().filter(|key| key.contains("gw.")).count();
        (objects, world.services().get("gw/n/s:80").map(address))
    };
    assert!(work.act().await.unwrap());
    assert_eq!(known(), (2, Some("10.0.0.1".to_owned())));
    // Its server cannot be made now, and nothing else leads there.
    *next.lock().unwrap() = (BTreeMap::new(), &[], &["gw.http"]);
    work.stale = true;
    assert!(work.act().await.unwrap());
    assert_eq!(known(), (2, Some("10.0.0.1".to_owned())));
    let moved = Kind::EndpointSlice.read(&pods("10.0.0.2").to_string()).unwrap();
    assert!(work.hear(Said::Heard(place(Kind::EndpointSlice), Heard::Put(moved))) && !work.stale);
    assert!(work.act().await.unwrap());
    assert_eq!(known(), (2, Some("10.0.0.2".to_owned())));
    // The same of one that the cluster does not take: somebody else has its port.
    world.put(json!({"name": "theirs", "kind": "HTTPServer", "port": 81}));
    let mut other = server.clone();
    (other["port"], other["rules"][0]["paths"][0]["backend"]) = (81.into(), "gw.q".into());
    let mut more = pipeline.clone();
    (more["name"], more["filters"][0]["pools"][0]["serviceName"]) = ("gw.q".into(), "n/t:80".into());
    let second = [("gw.q", more), ("gw.http", other)].map(|(name, it)| (name.to_owned(), Arc::new(it)));
    *next.lock().unwrap() = (second.into(), &["n/t:80"], &[]);
    work.stale = true;
    assert!(!work.act().await.unwrap());
    let moved = Kind::EndpointSlice.read(&pods("10.0.0.3").to_string()).unwrap();
    work.hear(Said::Heard(place(Kind::EndpointSlice), Heard::Put(moved)));
    assert!(!work.act().await.unwrap());
    assert_eq!(known(), (3, Some("10.0.0.3".to_owned())));
    world.act(Action::delete("theirs")).unwrap();
    assert!(!work.act().await.unwrap() && work.act().await.unwrap());
    assert_eq!(known(), (2, None));
    // Once nothing is kept any more all of it goes.
    *next.lock().unwrap() = (BTreeMap::new(), &[], &[]);
    work.stale = true;
    assert!(work.act().await.unwrap());
    assert_eq!(known(), (0, None));
}

/// What could not be told is told again by itself: after a while, less and less often, and at once when the API server is there again.
#[tokio::test]
async fn what_could_not_be_told_is_told_again() {
    let world = World::new();
    let next = Arc::new(Mutex::new((BTreeMap::new(), &[][..], &[][..])));
    let (mut work, _telling) = work(&world, &next, 1);
    let refused = |work: &mut Work<World>, name: &str, status: u16| {
        let tell = Tell::Event { kind: Kind::Ingress, key: Key::new("n", name), event: Value::Null };
        let why = ApiError { status, told: format!("{name} is refused"), retry_after: None };
        assert!(!work.hear(Said::Untold(tell, Some(why))));
    };
    assert!(work.tell_again.is_none());
    for n in 0..100 {
        refused(&mut work, &format!("i{n}"), 403);
    }
    let again = work.tell_again.unwrap();
    assert!(!work.tells_again() && again <= Instant::now() + TELL_AGAIN);
    assert_eq!((work.faults, work.warned.len()), (1, 1), "one of a hundred is told of");
    work.tell_again = Some(Instant::now());
    assert!(work.tells_again() && work.tell_again.is_none());
    refused(&mut work, "i0", 403);
    assert!(
        work.tell_again.unwrap() > Instant::now() + TELL_AGAIN - Duration::from_secs(5),
        "the second pause is longer"
    );
    // Nobody answered, and somebody does again.
    refused(&mut work, "i1", 0);
    work.hear(Said::Alive(Ok(())));
    assert!(!work.tells_again());
    work.hear(Said::Alive(Err("it is gone".to_owned())));
    work.hear(Said::Alive(Ok(())));
    assert!(work.tells_again());
}

/// Each of ten thousand objects is heard of once more when its status has been written. Nothing is to be done then, and a change that comes
/// meanwhile waits for no rest after it.
#[tokio::test]
async fn a_status_that_is_as_it_was_told_asks_for_no_turn() {
    let world = World::new();
    let next = Arc::new(Mutex::new((BTreeMap::new(), &[][..], &[][..])));
    let (mut work, _telling) = work(&world, &next, 1);
    let place = Place { kind: Kind::Ingress, namespace: None };
    let ingress = |version: &str, status: Value, host: &str| {
        let metadata = json!({"name": "i", "namespace": "n", "resourceVersion": version});
        json!({"metadata": metadata, "spec": {"rules": [{"host": host}]}, "status": status})
    };
    let told = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    work.hear(Said::Heard(place.clone(), named(&[ingress("1", Value::Null, "a.test")], Kind::Ingress)));
    let of = (Kind::Ingress, Key::new("n", "i"));
    let outcome =
        Outcome { statuses: [(of.clone(), control_api::Kept::of(&told))].into_iter().collect(), ..Outcome::default() };
    work.statuses.clone_from(&outcome.statuses);
    assert!(work.teller.tell(&work.store, &outcome) && work.teller.has_told_status(of.0, &of.1));
    let mut hears = |version: &str, status: &Value, host: &str| {
        work.stale = false;
        let object = Kind::Ingress.read(&ingress(version, status.clone(), host).to_string()).unwrap();
        let turns = work.hear(Said::Heard(place.clone(), Heard::Put(object)));
        (turns, work.stale)
    };
    assert_eq!(hears("2", &told, "a.test"), (false, false));
    let others = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    assert_eq!(hears("3", &others, "a.test"), (true, true), "somebody else has written there");
    assert_eq!(hears("4", &told, "b.test"), (true, true), "it says something else");
    assert!(!work.teller.has_told_status(of.0, &of.1), "what somebody else has overwritten is told again");
    assert!(work.teller.tell(&work.store, &outcome) && work.teller.has_told_status(of.0, &of.1));
}
