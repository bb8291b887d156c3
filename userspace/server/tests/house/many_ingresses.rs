//! Ten thousand Ingresses, or routes of the Gateway API: how long until they are served, until a change is, and what they take. Figures of a
//! release build: `cargo test --release -p server --test house many_ingresses -- --ignored --nocapture`, with `WEIR_INGRESSES` for another
//! number.

use crate::ingress::{service, slice};
use crate::kube::Kube;
use crate::world::{Backend, Connection, Machine, eventually, free_port, within};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// Each has a host, a path, a service and its servers of its own, as clusters have it.
fn ingress(n: usize, to: usize) -> Value {
    let backend = json!({"service": {"name": format!("s{to}"), "port": {"number": 80}}});
    let path = json!({"path": "/shop", "pathType": "Prefix", "backend": backend});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": format!("i{n}"), "namespace": "shop"},
           "spec": {"ingressClassName": "easegress", "rules": [{"host": format!("h{n}.test"), "http": {"paths": [path]}}]}})
}

/// The same as a route of a Gateway.
fn route(n: usize, to: usize) -> Value {
    let matches = json!([{"path": {"type": "PathPrefix", "value": "/shop"}}]);
    let rules = json!([{"matches": matches, "backendRefs": [{"name": format!("s{to}"), "port": 80}]}]);
    json!({"apiVersion": GATEWAYS, "kind": "HTTPRoute",
           "metadata": {"name": format!("i{n}"), "namespace": "shop", "generation": 1},
           "spec": {"parentRefs": [{"name": "edge"}], "hostnames": [format!("h{n}.test")], "rules": rules}})
}

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";

/// Until this host is answered by this backend; how long that took.
fn live(port: u16, n: usize, by: &str) -> Duration {
    let host: &'static str = Box::leak(format!("h{n}.test").into_boxed_str());
    let began = Instant::now();
    loop {
        let asked = Connection::open(&format!("127.0.0.1:{port}"))
            .and_then(|connection| connection.asking(host).request("GET", "/shop/cart", &[], ""));
        if asked.is_ok_and(|answer| answer.status == 200 && answer.body.contains(by)) {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(300), "{host} is not answered by {by}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Memory of its own that a process has, in MB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// What comes while something is written waits until that is through, and a little longer: a change is told of that comes alone.
fn alone() {
    std::thread::sleep(Duration::from_millis(250));
}

fn told(what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!("{what}: median {:.1?}, longest {:.1?} of {}", took[took.len() / 2], took[took.len() - 1], took.len());
}

#[test]
#[ignore = "figures, which take a minute and a processor for themselves"]
fn many_ingresses_are_served_soon_and_a_change_of_one_at_once() {
    let (kube, port) = (Kube::start(), free_port());
    let document = format!(
        "kind: IngressController\nname: many\nmasterURL: {}\nhttpServer: {{port: {port}, address: 127.0.0.1}}\n\
         publishAddresses: [192.0.2.1]\n",
        kube.url()
    );
    let to_other = |changed: &mut Value| {
        changed["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = json!("other");
    };
    figures(
        &kube,
        port,
        &document,
        &Many { kind: "Ingress", made: ingress, status: "loadBalancer", to_other: &to_other },
    );
}

#[test]
#[ignore = "figures, which take a minute and a processor for themselves"]
fn many_routes_are_served_soon_and_a_change_of_one_at_once() {
    let (kube, port) = (Kube::start(), free_port());
    kube.put(json!({"apiVersion": GATEWAYS, "kind": "GatewayClass", "metadata": {"name": "weir"},
                    "spec": {"controllerName": "megaease.com/gateway-controller"}}));
    let listeners = json!([{"name": "http", "port": port, "protocol": "HTTP"}]);
    kube.put(json!({"apiVersion": GATEWAYS, "kind": "Gateway", "metadata": {"name": "edge", "namespace": "shop", "generation": 1},
                    "spec": {"gatewayClassName": "weir", "listeners": listeners}}));
    let document = format!(
        "kind: GatewayController\nname: many\nmasterURL: {}\nnamespaces: [shop]\npublishAddresses: [127.0.0.1]\n",
        kube.url()
    );
    let to_other = |changed: &mut Value| changed["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("other");
    figures(&kube, port, &document, &Many { kind: "HTTPRoute", made: route, status: "parents", to_other: &to_other });
}

/// What there is ten thousand of.
struct Many<'m> {
    kind: &'static str,
    /// With this number, which leads to the service of that one.
    made: fn(usize, usize) -> Value,
    /// A field that its status has once it is served.
    status: &'static str,
    to_other: &'m dyn Fn(&mut Value),
}

fn figures(kube: &Kube, port: u16, document: &str, many: &Many<'_>) {
    let count: usize = std::env::var("WEIR_INGRESSES").ok().map_or(10_000, |text| text.parse().unwrap());
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    for n in 0..count {
        let name = format!("s{n}");
        kube.put(service(&name));
        kube.put(slice(&name, 1, &first));
        kube.put((many.made)(n, n));
    }
    kube.put(service("other"));
    kube.put(slice("other", 1, &second));
    kube.begins();
    let machine = Machine::start();
    let before = memory(machine.pid());
    let began = Instant::now();
    machine.create(document);
    for n in [count - 1, 0, count / 2] {
        live(port, n, "first");
    }
    println!("{count} of {} are served after {:.2?}", many.kind, began.elapsed());
    let written = || kube.with_status(many.kind, many.status);
    within(Duration::from_secs(600), || (written() == count).then_some(())).expect("every status is written");
    println!("and each of them says where it is after {:.2?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(3));
    println!("memory: {before} MB without them, {} MB with them", memory(machine.pid()));

    // What one of them says.
    let changes = (0..20).map(|n| {
        let (n, turn) = (count / 20 * (n / 2), n % 2);
        let mut changed = (many.made)(n, n);
        if turn == 0 {
            (many.to_other)(&mut changed);
        }
        alone();
        kube.put(changed);
        live(port, n, if turn == 0 { "second" } else { "first" })
    });
    told(&format!("a change of one {} is live", many.kind), changes.collect());
    // Pods that come and go.
    let changes = (0..20).map(|n| {
        let (n, turn) = (count / 20 * (n / 2), n % 2);
        alone();
        kube.put(slice(&format!("s{n}"), 1, if turn == 0 { &second } else { &first }));
        live(port, n, if turn == 0 { "second" } else { "first" })
    });
    told("a change of a service's servers is live", changes.collect());

    // The API server is started anew, and has forgotten what happened.
    let status = || machine.json("/status/objects/many")[format!("default/many/{}", machine.name)]["status"].clone();
    for (what, anew) in [("restarts", Kube::restarts as fn(&Kube)), ("forgets what happened", Kube::forgets)] {
        let began = Instant::now();
        anew(kube);
        kube.put(slice("s7", 1, if what == "restarts" { &second } else { &first }));
        live(port, 7, if what == "restarts" { "second" } else { "first" });
        println!("the API server {what}: a change is live {:.2?} after that", began.elapsed());
        eventually("it is well", || (status()["health"] == "ready").then_some(()));
        assert_eq!(status()["states"][many.kind]["honoured"], count, "{}", status()["states"]);
    }
    println!("memory: {} MB at the end", memory(machine.pid()));
}
