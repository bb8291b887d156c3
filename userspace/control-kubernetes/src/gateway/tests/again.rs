//! What is planned again after something has changed: the same as if nothing had been known before, for what the change costs.

use std::sync::LazyLock;

use super::*;
use crate::reflect::Heard;
use crate::store::tests::{everywhere, object};

/// A cluster that changes, and what is planned of it as it does.
struct World {
    store: Store,
    known: Known,
    objects: BTreeMap<(Kind, Key), Value>,
    version: u64,
}

/// Counts what it is asked about.
#[derive(Default)]
struct Counted(usize);

impl Check for Counted {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        self.0 += 1;
        // The catalog of filters is not at hand here; patterns and hosts are what one route can have wrong.
        match document["kind"].as_str() {
            Some("HTTPServer") => Checked.check(document),
            _ if document.to_string().contains(REFUSED) => Err("no cluster takes it".to_owned()),
            _ => Ok(()),
        }
    }
}

impl World {
    fn new(objects: impl IntoIterator<Item = (Kind, Value)>) -> World {
        let mut world =
            World { store: Store::default(), known: Known::default(), objects: BTreeMap::new(), version: 0 };
        objects.into_iter().for_each(|(kind, value)| world.put(kind, value));
        world
    }

    fn put(&mut self, kind: Kind, mut value: Value) {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = object(kind, value.clone());
        let of = (kind, object.key());
        // As the API server has it: what is written leaves the status as it was.
        if value.get("status").is_none()
            && let Some(status) = self.objects.get(&of).and_then(|was| was.get("status"))
        {
            value["status"] = status.clone();
        }
        self.store.hear(&everywhere(kind), Heard::Put(self::object(kind, value.clone())));
        self.objects.insert(of, value);
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        self.objects.remove(&(kind, key.clone()));
        self.store.hear(&everywhere(kind), Heard::Gone(key));
    }

    /// Plans anew; how many documents were looked at.
    fn plan(&mut self) -> (super::super::Plan, usize) {
        let mut counted = Counted::default();
        let plan = super::super::plan(&self.store, SETTINGS, &mut counted, &mut self.known);
        (plan, counted.0)
    }

    /// The same, which has to be what comes of it without anything known before.
    fn plan_as_anew(&mut self) -> (super::super::Plan, usize) {
        let (plan, looked_at) = self.plan();
        let fresh = super::super::plan(&self.store, SETTINGS, &mut Counted::default(), &mut Known::default());
        let of = |plan: &super::super::Plan| Plan::of(plan.clone());
        assert_eq!(of(&plan), of(&fresh));
        (plan, looked_at)
    }

    /// Statuses come to be as they were planned.
    fn tell(&mut self, plan: &super::super::Plan) {
        for (of, status) in plan.statuses.iter() {
            let mut value = self.objects[of].clone();
            value["status"] = status.read();
            self.put(of.0, value);
        }
    }
}

const SETTINGS: Settings<'static> =
    Settings { name: "gw", addresses: SHARED, shared: &[], now: "2026-01-01T00:00:00Z" };

fn in_namespace((kind, mut value): (Kind, Value), namespace: &str) -> (Kind, Value) {
    value["metadata"]["namespace"] = json!(namespace);
    (kind, value)
}

fn slice(service: &str, address: usize) -> (Kind, Value) {
    let metadata = json!({"name": service, "namespace": "n", "labels": {"kubernetes.io/service-name": service}});
    let endpoints = json!([{"addresses": [format!("10.0.0.{address}")]}]);
    let ports = json!([{"name": "web", "port": 8080}]);
    (Kind::EndpointSlice, json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}))
}

/// A word that no pipeline may have.
const REFUSED: &str = "refused-word";

static AUTHORITIES: LazyLock<[String; 2]> =
    LazyLock::new(|| ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()));

static SECRETS: LazyLock<[(Kind, Value); 3]> =
    LazyLock::new(|| [secret("c", "a.test"), secret("c", "*.b.test"), secret("c", "b.test")]);

/// Changes something, by two numbers and what it is about.
fn change(world: &mut World, (what, a, b): (usize, usize, usize)) {
    let hosts: [&[&str]; 5] = [&[], &["a.test"], &["*.test"], &["A.test", "b.test"], &["x.b.test"]];
    let names = ["r0", "r1", "r2"];
    let spaces = ["n", "n", "m"];
    let (name, space) = (names[a % 3], spaces[b % 3]);
    match what {
        0..6 => {
            let extension = json!({"type": "ExtensionRef", "extensionRef": {"group": "easegress.megaease.com", "kind": "FilterSpec", "name": "mine"}});
            let mirror = |namespace: &str| {
                let backend = json!({"name": "s", "namespace": namespace, "port": 80});
                json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}})
            };
            let rules = [
                json!([{"matches": prefix("/"), "backendRefs": to("s")}]),
                json!([{"matches": prefix("/a"), "backendRefs": to("t")}, {"backendRefs": to("s")}]),
                json!([{"backendRefs": [{"name": "s", "namespace": "m", "port": 80}]}]),
                json!([{"matches": [{"path": {"type": "RegularExpression", "value": "/("}}], "backendRefs": to("s")}]),
                json!([{"filters": [extension], "backendRefs": to("s")}]),
                json!([{"matches": [{"method": "GET"}], "backendRefs": to("none")}]),
                json!([{"filters": [mirror("m")], "backendRefs": to("t")}]),
                json!([{"filters": [mirror("n")], "backendRefs": to("t")}]),
            ];
            let (mut kind, mut value) = route(name, hosts[b % 5], rules[(a + 3 * b) % 8].clone());
            value["metadata"]["namespace"] = json!(space);
            value["metadata"]["creationTimestamp"] = json!(format!("2026-{}", what % 2));
            let parents = [
                json!([{"name": "g", "namespace": "n"}]),
                json!([{"name": "h", "namespace": "n"}, {"name": "g", "namespace": "n"}]),
                json!([{"name": "g", "namespace": "n", "sectionName": "http"}]),
                json!([{"name": "1", "namespace": "n", "kind": "ListenerSet"}]),
            ];
            value["spec"]["parentRefs"] = parents[(a + 2 * b) % 4].clone();
            if what == 4 {
                kind = Kind::GrpcRoute;
                value["spec"]["rules"] = json!([{"matches": [{"method": {"service": "x"}}], "backendRefs": to("s")}]);
            }
            world.put(kind, value);
        }
        6 => {
            let kinds = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute, Kind::UdpRoute];
            world.remove(kinds[(a + b) % 5], space, name);
        }
        7 | 21 => {
            let kind = [Kind::TlsRoute, Kind::TcpRoute, Kind::UdpRoute][b % 3];
            let backends = json!([
                {"name": "s", "port": 80},
                {"name": (["t", "none", "s"][a % 3]), "namespace": (["n", "m"][a % 2]), "port": 80, "weight": a}
            ]);
            let rules = json!([{"backendRefs": backends}, {"backendRefs": to("t")}]);
            let rules: Vec<Value> = rules.as_array().unwrap().iter().take(1 + a % 2).cloned().collect();
            let tls_hosts: [&[&str]; 3] = [&["c.test"], &["*.test", "c.test"], &[]];
            let hosts = if b % 3 == 0 { tls_hosts[a % 3] } else { &[] };
            let (_, mut value) = route(name, hosts, json!(rules));
            value["metadata"]["namespace"] = json!(space);
            value["metadata"]["creationTimestamp"] = json!(format!("2026-{}", (a + b) % 2));
            let mut parent = json!({"name": (["g", "h"][a / 3]), "namespace": "n"});
            if a % 2 == 0 {
                parent["sectionName"] = json!(["tls", "tcp", "udp"][b % 3]);
            }
            value["spec"]["parentRefs"] = json!([parent]);
            world.put(kind, value);
        }
        8 | 9 => {
            let name = ["g", "h"][a % 2];
            let all = json!([
                {"name": "http", "port": 80, "protocol": "HTTP", "hostname": (["", "a.test", "*.test"][b % 3]), "allowedRoutes": {"namespaces": {"from": "All"}}},
                {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c"}]}},
                {"name": "tls", "port": 444, "protocol": "TLS", "tls": {"mode": "Passthrough"}, "allowedRoutes": {"namespaces": {"from": "All"}}},
                {"name": "ends", "port": 444, "protocol": "TLS", "hostname": "*.test", "tls": {"certificateRefs": [{"name": "c"}]}},
                {"name": "tcp", "port": 445, "protocol": "TCP", "allowedRoutes": {"namespaces": {"from": "All"}}},
                {"name": "udp", "port": 446, "protocol": "UDP"},
                {"name": "some", "port": 81, "protocol": "HTTP", "allowedRoutes":
                    {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}},
            ]);
            let listeners: Vec<Value> = all.as_array().unwrap().iter().take(2 + (a + 2 * b) % 6).cloned().collect();
            let (kind, mut value) = gateway(name, json!(listeners));
            if b % 4 == 0 {
                value["spec"]["tls"] = json!({"backend": {"clientCertificateRef": {"name": "c"}}});
            }
            if b % 2 == 0 {
                value["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
            }
            world.put(kind, value);
        }
        10 => world.remove(Kind::Gateway, "n", ["g", "h"][a % 2]),
        11 => {
            let (kind, mut value) = in_namespace(service(["s", "t"][a % 2]), space);
            if b % 4 == 1 {
                value["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/h2c");
            }
            world.put(kind, value);
        }
        12 => world.remove(Kind::Service, space, ["s", "t"][a % 2]),
        13 => {
            let from = ["HTTPRoute", "TCPRoute", "TLSRoute"];
            let from = from.map(|kind| json!({"group": GROUP, "kind": kind, "namespace": "n"}));
            let to = json!([{"group": "", "kind": "Service"}]);
            let grant = json!({"metadata": {"name": "x", "namespace": "m"}, "spec": {"from": from, "to": to}});
            if a % 2 == 0 {
                world.put(Kind::ReferenceGrant, grant)
            } else {
                world.remove(Kind::ReferenceGrant, "m", "x")
            }
        }
        14 => {
            let own = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
            let validation = match b % 3 {
                0 => json!({"caCertificateRefs": own, "hostname": "s.test"}),
                1 => json!({"wellKnownCACertificates": "System", "hostname": "s.test"}),
                _ => json!({"wellKnownCACertificates": "Other", "hostname": "s.test"}),
            };
            let (kind, value) = policy(["1", "2"][a % 2], (a % 3 == 0).then_some("web"), validation);
            if b < 4 { world.put(kind, value) } else { world.remove(kind, "n", ["1", "2"][a % 2]) }
        }
        15 => {
            let spec = json!({"name": "mine", "kind": "Mock", "spec": (["rules: [{code: 200}]", "rules: {", "pools: [{serviceRegistry: gw, serviceName: m/s:80}]", "rules: [{body: refused-word}]"][b % 4])});
            let filter = json!({"metadata": {"name": "mine", "namespace": "n"}, "spec": spec});
            if a % 3 > 0 { world.put(Kind::FilterSpec, filter) } else { world.remove(Kind::FilterSpec, "n", "mine") }
        }
        16 if a % 4 == 3 => world.remove(Kind::Secret, "n", "c"),
        16 => world.put(Kind::Secret, SECRETS[a % 4].1.clone()),
        17 => {
            let labels = json!({"team": (["a", "b"][a % 2])});
            world.put(Kind::Namespace, json!({"metadata": {"name": (["n", "m"][b % 2]), "labels": labels}}));
        }
        18 => {
            let (kind, value) = listener_set("1", "n", json!([one("set", 80, "HTTP", ["set.test", "a.test"][a % 2])]));
            if b % 3 > 0 { world.put(kind, value) } else { world.remove(kind, "n", "1") }
        }
        19 => match a % 4 {
            3 => world.remove(Kind::ConfigMap, "n", "ca"),
            2 => world.put(Kind::ConfigMap, authorities("ca", "").1),
            n => world.put(Kind::ConfigMap, authorities("ca", &AUTHORITIES[n]).1),
        },
        _ if a == 5 => world.remove(Kind::EndpointSlice, "n", ["s", "t"][b % 2]),
        _ => {
            let (kind, value) = slice(["s", "t"][b % 2], a);
            world.put(kind, value);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, ..Default::default() })]

    /// Whatever changes, and in whatever order, it comes to the same as if all of it had been there from the beginning.
    #[test]
    fn what_changes_comes_to_what_would_be_made_of_it_anew(
        changes in proptest::collection::vec((0usize..23, 0usize..6, 0usize..6), 1..40),
        told_after in 1usize..4,
    ) {
        let mut world =
            World::new([class(), service("s"), service("t"), slice("s", 1), slice("t", 2), SECRETS[0].clone()]);
        world.put(Kind::Gateway, gateway("g", http("")).1);
        world.plan_as_anew();
        for (n, of) in changes.into_iter().enumerate() {
            change(&mut world, of);
            let (plan, _) = world.plan_as_anew();
            if n % told_after == 0 {
                world.tell(&plan);
                let (told, _) = world.plan_as_anew();
                proptest::prop_assert!(told.statuses.is_empty(), "{:?}", told.statuses);
            }
        }
        // Nothing stays of what goes.
        let all: Vec<(Kind, Key)> = world.objects.keys().cloned().collect();
        for (kind, key) in all {
            world.remove(kind, &key.namespace, &key.name);
        }
        let (plan, _) = world.plan_as_anew();
        proptest::prop_assert!(plan.documents.is_empty() && plan.pipelines.is_empty() && plan.reports.is_empty());
        proptest::prop_assert!(plan.services.is_empty() && plan.statuses.is_empty());
        proptest::prop_assert!(world.known.is_empty());
    }
}

/// A route that changes is the only one that is read, and the rule of its host the only one that is another: whoever takes the rest sees
/// that it is the very same.
#[test]
fn of_many_routes_the_one_that_changes_is_read_and_the_others_are_the_very_same() {
    const MANY: usize = 500;
    let of = |n: usize, to_service: &str| {
        route(&format!("r{n}"), &[&format!("h{n}.test")], json!([{"backendRefs": to(to_service)}]))
    };
    let routes = (0..MANY).map(|n| of(n, &format!("s{n}")));
    let services = (0..MANY).map(|n| service(&format!("s{n}")));
    let mut world = World::new([class(), gateway("g", http(""))].into_iter().chain(services).chain(routes));
    let (_, looked_at) = world.plan_as_anew();
    assert!(looked_at > 2 * MANY, "{looked_at}");
    let (before, looked_at) = world.plan_as_anew();
    assert_eq!(looked_at, 1, "the server");
    world.tell(&before);
    let (before, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, before.statuses.len()), (1, 0), "their statuses were written, and nothing else");
    let differs = |was: &super::super::Plan, now: &super::super::Plan| {
        let (was, now) = (&was.rules["gw.http.80"], &now.rules["gw.http.80"]);
        let others = now.iter().filter(|(place, rule)| !was.get(*place).is_some_and(|was| was.is_same(rule)));
        others.map(|(place, _)| place.host.clone()).collect::<Vec<_>>()
    };
    let pipelines = |was: &super::super::Plan, now: &super::super::Plan| {
        let same = |name: &String, one: &control_api::Kept| was.pipelines.get(name).is_some_and(|was| was.is_same(one));
        now.pipelines.iter().filter(|(name, one)| !same(name, one)).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    // Another backend: the pipeline is another, and the rule leads to it as before.
    let (kind, value) = of(7, "s8");
    world.put(kind, value);
    let (after, looked_at) = world.plan_as_anew();
    assert_eq!(looked_at, 3, "its routes and its pipeline, and the server");
    assert_eq!((differs(&before, &after), pipelines(&before, &after)), (vec![], vec!["gw.http.n.r7.0".to_owned()]));
    assert!(!after.services.contains("n/s7:80") && after.services.contains("n/s8:80"));
    assert!(Arc::ptr_eq(&before.documents["gw.http.80"], &after.documents["gw.http.80"]));
    assert!(before.reports.ptr_eq(&after.reports));
    // Another host.
    let (kind, mut value) = of(7, "s8");
    value["spec"]["hostnames"] = json!(["new.test"]);
    world.put(kind, value);
    let (moved, _) = world.plan_as_anew();
    assert_eq!((differs(&after, &moved), moved.rules["gw.http.80"].len()), (vec!["new.test".to_owned()], MANY + 1));
    // A service that one of them leads to.
    let (kind, mut value) = service("s9");
    value["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/h2c");
    world.put(kind, value);
    let (after, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, pipelines(&moved, &after)), (3, vec!["gw.http.n.r9.0".to_owned()]));
    // A Gateway that takes them as before, with one more listener.
    let mut listeners = http("");
    listeners.as_array_mut().unwrap().push(one("other", 81, "HTTP", "none.test"));
    world.put(Kind::Gateway, gateway("g", listeners).1);
    let (grown, looked_at) = world.plan_as_anew();
    assert_eq!(looked_at, 2, "the servers: what is made of the routes is as it was");
    assert_eq!((differs(&after, &grown), pipelines(&after, &grown)), (vec![], vec![]));
}

/// The same of what is relayed without being read: one port is made anew, and the others are the very same.
#[test]
fn of_many_ports_the_one_whose_routes_or_servers_change_is_made_anew() {
    const MANY: usize = 50;
    let listeners: Vec<Value> =
        (0..MANY).map(|n| json!({"name": format!("l{n}"), "port": 1000 + n, "protocol": "TCP"})).collect();
    let of = |n: usize, to_service: &str| {
        let (_, mut value) = route(&format!("r{n}"), &[], json!([{"backendRefs": to(to_service)}]));
        value["spec"]["parentRefs"] = json!([{"name": "g", "sectionName": format!("l{n}")}]);
        (Kind::TcpRoute, value)
    };
    let parts = (0..MANY).flat_map(|n| {
        let name = format!("s{n}");
        [service(&name), slice(&name, n), of(n, &name)]
    });
    let mut world = World::new([class(), gateway("g", json!(listeners))].into_iter().chain(parts));
    let differs = |was: &super::super::Plan, now: &super::super::Plan| {
        let others = now
            .documents
            .iter()
            .filter(|(name, one)| !was.documents.get(*name).is_some_and(|was| Arc::ptr_eq(was, one)));
        others.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (all, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, all.documents.len()), (MANY, MANY));
    world.tell(&all);
    assert_eq!(world.plan_as_anew().1, 0, "their statuses were written, and nothing else");
    // Pods of one service, and then another service: each is one port.
    let (kind, value) = slice("s7", 200);
    world.put(kind, value);
    let (moved, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, differs(&all, &moved)), (1, vec!["gw.tcp.1007".to_owned()]));
    let (kind, value) = of(8, "s9");
    world.put(kind, value);
    let (led, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, differs(&moved, &led)), (1, vec!["gw.tcp.1008".to_owned()]));
    // A route of HTTP is nothing to them, nor are pods of nobody.
    for ((kind, value), own) in [(route("web", &[], json!([{"backendRefs": to("s1")}])), 1), (slice("other", 1), 0)] {
        world.put(kind, value);
        let (same, looked_at) = world.plan_as_anew();
        assert_eq!((looked_at, differs(&led, &same)), (own, vec![]));
    }
    // One goes, and its port with it.
    world.remove(Kind::TcpRoute, "n", "r3");
    let (left, looked_at) = world.plan_as_anew();
    assert_eq!((looked_at, left.documents.len(), differs(&led, &left)), (0, MANY - 1, vec![]));
}

/// Of a processor, whoever else has it meanwhile.
fn spent() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    std::time::Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default())
}

fn timed(what: &str, world: &mut World) -> super::super::Plan {
    let began = spent();
    let (plan, looked_at) = world.plan();
    println!("{what}: {:.2?}, {looked_at} documents looked at", spent() - began);
    plan
}

/// Figures: `cargo test -p control-kubernetes --release --lib of_ten_thousand -- --ignored --nocapture`.
#[test]
#[ignore = "figures, which want an optimised build and a processor for themselves"]
fn of_ten_thousand_routes_a_change_costs_little() {
    const MANY: usize = 10_000;
    let of = |n: usize, path: &str| {
        let rules = json!([{"matches": prefix(path), "backendRefs": to(&format!("s{n}"))}]);
        route(&format!("r{n}"), &[&format!("h{n}.test")], rules)
    };
    let routes = (0..MANY).map(|n| of(n, "/"));
    let services = (0..MANY).map(|n| service(&format!("s{n}")));
    let mut world = World::new([class(), gateway("g", http(""))].into_iter().chain(services).chain(routes));
    let plan = timed("all of them", &mut world);
    world.tell(&plan);
    timed("their statuses are written", &mut world);
    timed("nothing", &mut world);
    let (kind, value) = of(7, "/other");
    world.put(kind, value);
    timed("one route", &mut world);
    let (kind, value) = service("s9");
    world.put(kind, value);
    timed("one service", &mut world);
    world.put(Kind::Gateway, gateway("g", http("*.test")).1);
    timed("their Gateway", &mut world);
    let began = spent();
    let fresh = super::super::plan(&world.store, SETTINGS, &mut Counted::default(), &mut Known::default());
    println!("all of them anew: {:.2?}, {} pipelines", spent() - began, fresh.pipelines.len());
}

/// The same of routes that name no host: all of them are in the one rule of their listener's.
#[test]
#[ignore = "figures, which want an optimised build and a processor for themselves"]
fn of_ten_thousand_routes_without_a_host_a_change_costs_their_one_rule() {
    for many in [100, 1_000, 10_000] {
        let of = |n: usize, to_service: usize| {
            let rules = json!([{"matches": prefix(&format!("/p{n}")), "backendRefs": to(&format!("s{to_service}"))}]);
            route(&format!("r{n}"), &[], rules)
        };
        let routes = (0..many).map(|n| of(n, n));
        let services = (0..many).map(|n| service(&format!("s{n}")));
        let mut world = World::new([class(), gateway("g", http(""))].into_iter().chain(services).chain(routes));
        let plan = timed(&format!("{many} of them"), &mut world);
        world.tell(&plan);
        timed("their statuses are written", &mut world);
        let (kind, value) = of(7, 8);
        world.put(kind, value);
        timed("another backend of one", &mut world);
        let (kind, value) = of(many, 8);
        world.put(kind, value);
        let plan = timed("one more path", &mut world);
        let rule = plan.rules["gw.http.80"].values().next().unwrap().text().to_owned();
        println!("their rule has {} bytes", rule.len());
    }
}
