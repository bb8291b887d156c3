//! The Gateway API is served: routes of all kinds, and statuses that say what became of each object.

use crate::authority::Authority;
use crate::cookbook::recipe;
use crate::ingress::{ask, served, service, slice};
use crate::kube::Kube;
use crate::registries::base64;
use crate::world::{Backend, Machine, eventually, free_port, weirctl};
use control_api::tls::{ClientTrust, Identity, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const VERSION: &str = "gateway.networking.k8s.io/v1";

fn gateway(name: &str, listeners: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "Gateway", "metadata": {"name": name, "namespace": "shop", "generation": 1},
           "spec": {"gatewayClassName": "weir", "listeners": listeners}})
}

fn route(kind: &str, name: &str, gateway: &str, hosts: Value, rules: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name, "namespace": "shop", "generation": 1},
           "spec": {"parentRefs": [{"name": gateway}], "hostnames": hosts, "rules": rules}})
}

/// `TYPE=STATUS/REASON` of a condition list.
fn conditions(list: &Value) -> Vec<String> {
    let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    list.as_array().into_iter().flatten().map(one).collect()
}

fn becomes(kube: &Kube, kind: &str, name: &str, pointer: &str, wanted: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("the status of {kind} {name} is {wanted:?}"), || {
        let object = kube.object(kind, "shop", name)?;
        last = conditions(object.pointer(pointer)?);
        (last == wanted).then_some(())
    });
}

#[test]
fn gateways_are_served_and_their_statuses_say_how() {
    let kube = Kube::start();
    // An older cluster has TCPRoutes of an older version, and no UDPRoutes.
    for path in ["/v1/tcproutes", "/v1beta1/tcproutes", "/v1alpha3/tcproutes", "/udproutes", "/filterspecs"] {
        kube.lacks(path);
    }
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    for (name, backend) in [("orders", &first), ("users", &second)] {
        kube.put(service(name));
        kube.put(slice(name, 1, backend));
    }
    kube.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    kube.put(json!({"apiVersion": VERSION, "kind": "GatewayClass", "metadata": {"name": "weir"},
                    "spec": {"controllerName": "megaease.com/gateway-controller"}}));
    let (port, tcp) = (free_port(), free_port());
    kube.put(gateway(
        "edge",
        json!([
            {"name": "http", "port": port, "protocol": "HTTP", "hostname": "*.test"},
            {"name": "tcp", "port": tcp, "protocol": "TCP"},
        ]),
    ));
    let to = |service: &str| json!([{"name": service, "port": 80}]);
    kube.put(route("HTTPRoute", "shop", "edge", json!(["shop.test"]), json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/orders"}}], "backendRefs": to("orders")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/moved"}}],
         "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.test", "statusCode": 301}}]},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": to("users"),
         "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/inside"}}}]},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/none"}}], "backendRefs": to("nowhere")},
    ])));
    let mut foreign =
        route("HTTPRoute", "foreign", "edge", json!(["foreign.test"]), json!([{"backendRefs": to("orders")}]));
    foreign["spec"]["parentRefs"][0]["sectionName"] = json!("none");
    kube.put(foreign);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                users: [{name: u, user: {token: secret}}]\n";
    std::fs::write(&config, text).unwrap();
    kube.token("secret");
    let machine = Machine::start();
    let controller = |more: &str| {
        format!(
            "kind: GatewayController\nname: gw\nkubeConfig: {}\nmasterURL: {}\nnamespaces: [shop]\n{more}\n",
            config.display(),
            kube.url()
        )
    };
    machine.create(&controller("addresses: [127.0.0.1]"));

    served(port, "shop.test", "/orders/1", 200, "first");
    served(port, "shop.test", "/v1/x", 200, "/inside/x");
    served(port, "shop.test", "/moved", 301, "");
    served(port, "shop.test", "/none", 500, "");
    served(port, "shop.test", "/else", 404, "");
    served(port, "other.test", "/orders", 404, "");
    becomes(&kube, "Gateway", "edge", "/status/conditions", &["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let accepted = "Accepted=True/Accepted";
    becomes(
        &kube,
        "HTTPRoute",
        "shop",
        "/status/parents/0/conditions",
        &[accepted, "ResolvedRefs=False/BackendNotFound"],
    );
    becomes(
        &kube,
        "HTTPRoute",
        "foreign",
        "/status/parents/0/conditions",
        &["Accepted=False/NoMatchingParent", "ResolvedRefs=True/ResolvedRefs"],
    );
    let status = kube.object("Gateway", "shop", "edge").unwrap()["status"].clone();
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "127.0.0.1"}]));
    assert_eq!(status["listeners"][0]["attachedRoutes"], 1);
    let class = kube.object("GatewayClass", "", "weir").unwrap()["status"].clone();
    assert_eq!(conditions(&class["conditions"]), [accepted]);

    // What comes later is resolved, in traffic and in the status; endpoints change no pipeline.
    kube.put(service("nowhere"));
    kube.put(slice("nowhere", 1, &second));
    served(port, "shop.test", "/none", 200, "second");
    becomes(&kube, "HTTPRoute", "shop", "/status/parents/0/conditions", &[accepted, "ResolvedRefs=True/ResolvedRefs"]);
    kube.put(slice("orders", 1, &second));
    served(port, "shop.test", "/orders", 200, "second");

    // Connections, by a version that this cluster has.
    kube.put(route("TCPRoute", "raw", "edge", json!([]), json!([{"backendRefs": to("orders")}])));
    eventually("bytes are relayed", || {
        let mut stream = TcpStream::connect(("127.0.0.1", tcp)).ok()?;
        stream.write_all(b"GET /raw HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("second").then_some(())
    });
    becomes(&kube, "TCPRoute", "raw", "/status/parents/0/conditions", &[accepted, "ResolvedRefs=True/ResolvedRefs"]);

    // Somebody in between says of routes that there are none: what was known is served on.
    kube.answered_by_another(Some("<html>no such page</html>"));
    let status = || machine.json("/status/objects/gw")[format!("default/gw/{}", machine.name)]["status"].clone();
    eventually("its status says so", || {
        status()["health"].as_str().is_some_and(|health| health.contains("no such page")).then_some(())
    });
    eventually("connections are relayed all the same", || TcpStream::connect(("127.0.0.1", tcp)).ok());
    kube.answered_by_another(None);
    eventually("it is well again", || {
        status()["health"].as_str().is_some_and(|health| health == "ready").then_some(())
    });
    assert!(TcpStream::connect(("127.0.0.1", tcp)).is_ok());

    // The only address is taken; without a list of them Gateways share all, and are told where that is.
    kube.put(gateway("second", json!([{"name": "http", "port": port, "protocol": "HTTP"}])));
    becomes(&kube, "Gateway", "second", "/status/conditions", &[accepted, "Programmed=False/AddressNotAssigned"]);
    kube.delete("Gateway", "shop", "second");
    machine.update("gw", &controller("publishAddresses: [lb.example]"));
    eventually("its status says where it is", || {
        let addresses = kube.object("Gateway", "shop", "edge").unwrap()["status"]["addresses"].clone();
        (addresses == json!([{"type": "Hostname", "value": "lb.example"}])).then_some(())
    });
    served(port, "shop.test", "/orders", 200, "second");

    // A port that somebody has keeps what others ask for from nobody.
    let taken = free_port();
    machine.create(&crate::world::server("mine", taken, "none"));
    kube.put(gateway("blocked", json!([{"name": "http", "port": taken, "protocol": "HTTP"}])));
    eventually("it is told", || status()["remarks"].to_string().contains("taken by HTTPServer mine").then_some(()));
    kube.put(route("HTTPRoute", "later", "edge", json!(["later.test"]), json!([{"backendRefs": to("users")}])));
    served(port, "later.test", "/", 200, "second");
    kube.delete("Gateway", "shop", "blocked");
    kube.delete("HTTPRoute", "shop", "later");

    kube.delete("HTTPRoute", "shop", "shop");
    served(port, "shop.test", "/orders", 404, "");
    kube.delete("Gateway", "shop", "edge");
    eventually("nobody listens", || ask(port, "shop.test", "/").is_none().then_some(()));
}

fn text(pem: &control_api::tls::Pem) -> &str {
    std::str::from_utf8(&pem.text).unwrap()
}

fn secret(name: &str, identity: &Identity) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": "shop"},
           "data": {"tls.crt": base64(text(&identity.chain)), "tls.key": base64(text(&identity.key))}})
}

/// What is answered within TLS to somebody who asks for a name, and then for a host. None: there is no connection to be had.
fn ask_within_tls(port: u16, name: &str, host: &str, identity: Option<&Identity>) -> Option<String> {
    let trust = ClientTrust { skip_verify: true, identity: identity.cloned(), ..ClientTrust::default() };
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(client_config(&trust).unwrap()), server).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(format!("{} {body}", head.get(9..12)?))
}

/// Of TLS: which clients come in, which listener a connection is for, what servers are shown, and what is ended or passed on.
#[test]
fn gateways_keep_listeners_apart_and_are_known_by_certificates() {
    let kube = Kube::start();
    let (ours, strangers) = (Authority::new("ours"), Authority::new("strangers"));
    kube.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    kube.put(json!({"apiVersion": VERSION, "kind": "GatewayClass", "metadata": {"name": "weir"},
                    "spec": {"controllerName": "megaease.com/gateway-controller"}}));
    kube.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours", "namespace": "shop"},
                    "data": {"ca.crt": text(&ours.pem)}}));
    kube.put(secret("all", &ours.signs("*.test")));
    kube.put(secret("gateway", &ours.signs("gateway")));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let kube_config = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                       users: [{name: u, user: {token: secret}}]\n";
    std::fs::write(&config, kube_config).unwrap();
    kube.token("secret");
    let machine = Machine::start();

    // A server that wants certificates of those who ask it, and says so within TLS and without.
    let (inner, own) = (free_port(), ours.signs("inner.test"));
    let quoted = |text: &str| Value::from(text).to_string();
    machine
        .create("name: told\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200, body: 'within'}]}]\n");
    machine.create(&format!(
        "name: inner\nkind: HTTPServer\naddress: 127.0.0.1\nport: {inner}\nhttps: true\ncertBase64: {}\nkeyBase64: {}\ncaCertBase64: {}\nrules: [{{paths: [{{backend: told}}]}}]\n",
        quoted(text(&own.chain)),
        quoted(text(&own.key)),
        quoted(text(&ours.pem)),
    ));
    let plain = Backend::start("plain");
    kube.put(service("plain"));
    kube.put(slice("plain", 1, &plain));
    kube.put(service("inner"));
    let mut of_inner = slice("inner", 1, &plain);
    of_inner["ports"][0]["port"] = json!(inner);
    kube.put(of_inner);
    kube.put(json!({"apiVersion": VERSION, "kind": "BackendTLSPolicy", "metadata": {"name": "inner", "namespace": "shop", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "inner"}],
                 "validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ours"}], "hostname": "inner.test"}}}));

    let (https, guarded, http, mixed) = (free_port(), free_port(), free_port(), free_port());
    let shows = json!({"certificateRefs": [{"name": "all"}]});
    let tls = |name: &str, port: u16, protocol: &str, hostname: &str, tls: &Value| {
        let mut listener = json!({"name": name, "port": port, "protocol": protocol, "tls": tls});
        if !hostname.is_empty() {
            listener["hostname"] = json!(hostname);
        }
        listener
    };
    let mut ends = shows.clone();
    ends["mode"] = json!("Terminate");
    let mut edge = gateway(
        "edge",
        json!([
            tls("any", https, "HTTPS", "", &shows),
            tls("one", https, "HTTPS", "one.test", &shows),
            tls("guarded", guarded, "HTTPS", "", &shows),
            {"name": "http", "port": http, "protocol": "HTTP"},
            tls("passes", mixed, "TLS", "inner.test", &json!({"mode": "Passthrough"})),
            tls("ends", mixed, "TLS", "ends.test", &ends),
        ]),
    );
    let validation = json!({"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ours"}]}});
    edge["spec"]["tls"] = json!({
        "frontend": {"default": {}, "perPort": [{"port": guarded, "tls": validation}]},
        "backend": {"clientCertificateRef": {"name": "gateway"}},
    });
    kube.put(edge);
    let to = |service: &str| json!([{"name": service, "port": 80}]);
    // Servers that know their clients by certificates are asked for themselves, and for nobody else.
    let as_inner = json!([{"type": "URLRewrite", "urlRewrite": {"hostname": "inner.test"}}]);
    kube.put(route("HTTPRoute", "plain", "edge", json!(["*.test"]), json!([{"backendRefs": to("plain")}])));
    kube.put(route(
        "HTTPRoute",
        "inner",
        "edge",
        json!(["within.test"]),
        json!([{"backendRefs": to("inner"), "filters": as_inner}]),
    ));
    kube.put(route("TLSRoute", "passes", "edge", json!(["inner.test"]), json!([{"backendRefs": to("inner")}])));
    kube.put(route("TLSRoute", "ends", "edge", json!(["ends.test"]), json!([{"backendRefs": to("plain")}])));
    machine.create(&format!(
        "kind: GatewayController\nname: gw\nkubeConfig: {}\nmasterURL: {}\nnamespaces: [shop]\naddresses: [127.0.0.1]\n",
        config.display(),
        kube.url()
    ));

    let answers = |port: u16, name: &str, host: &str, identity: Option<&Identity>, wanted: &str| {
        let mut last = None;
        eventually(&format!("{name} then {host} at {port} is answered with {wanted}"), || {
            last = ask_within_tls(port, name, host, identity);
            last.as_deref()
                .is_some_and(|said| said.starts_with(&wanted[..3]) && said.contains(&wanted[3..]))
                .then_some(())
        });
    };
    answers(https, "one.test", "one.test", None, "200plain");
    answers(https, "x.test", "y.test", None, "200plain");
    answers(https, "x.test", "one.test", None, "421");
    answers(https, "one.test", "x.test", None, "421");
    // Only who shows a certificate of ours comes in.
    let (known, unknown) = (ours.signs("client"), strangers.signs("client"));
    answers(guarded, "x.test", "x.test", Some(&known), "200plain");
    for identity in [None, Some(&unknown)] {
        assert_eq!(ask_within_tls(guarded, "x.test", "x.test", identity), None);
    }
    // What the Gateway shows is what the server wants; whoever shows nothing gets nothing from it.
    served(http, "within.test", "/", 200, "within");
    assert_eq!(ask_within_tls(inner, "inner.test", "inner.test", None), None);
    // One port: this name goes through to the server itself, and that one's TLS ends here.
    answers(mixed, "inner.test", "inner.test", Some(&known), "200within");
    answers(mixed, "ends.test", "ends.test", None, "200plain");

    let resolved = "ResolvedRefs=True/ResolvedRefs";
    let well = ["Accepted=True/Accepted", "Programmed=True/Programmed", resolved];
    becomes(&kube, "Gateway", "edge", "/status/conditions", &well);
    becomes(
        &kube,
        "BackendTLSPolicy",
        "inner",
        "/status/ancestors/0/conditions",
        &["Accepted=True/Accepted", resolved],
    );
}

/// The recipe of the cookbook: an Ingress and a Gateway of the same cluster are served, and `weirctl` says what became of them.
#[test]
fn the_recipe_of_the_cookbook_serves_ingresses_and_gateways() {
    let kube = Kube::start();
    kube.lacks("/filterspecs");
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    for (name, backend) in [("orders", &first), ("users", &second)] {
        kube.put(service(name));
        kube.put(slice(name, 1, backend));
    }
    kube.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    let path =
        json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "orders", "port": {"number": 80}}}});
    for (name, class) in [("mine", "easegress"), ("others", "nginx")] {
        kube.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
                        "spec": {"ingressClassName": class, "rules": [{"host": format!("{name}.test"), "http": {"paths": [path]}}]}}));
    }
    kube.put(json!({"apiVersion": VERSION, "kind": "GatewayClass", "metadata": {"name": "weir"},
                    "spec": {"controllerName": "megaease.com/gateway-controller"}}));
    let (door, port) = (free_port(), free_port());
    kube.put(gateway("edge", json!([{"name": "http", "port": port, "protocol": "HTTP"}])));
    let rules = json!([{"backendRefs": [{"name": "users", "port": 80}]}]);
    kube.put(route("HTTPRoute", "shop", "edge", json!(["shop.test"]), rules));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let text = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: '{}'}}}}]\n\
         users: [{{name: u, user: {{token: secret}}}}]\n",
        kube.url()
    );
    std::fs::write(&config, text).unwrap();
    kube.token("secret");
    let machine = Machine::start();
    machine.create(&recipe(
        "kubernetes",
        &[("/etc/weir/kubeconfig", config.to_str().unwrap()), ("port: 10080", &format!("port: {door}"))],
    ));
    served(door, "mine.test", "/a", 200, "first");
    served(door, "others.test", "/a", 404, "");
    served(port, "shop.test", "/a", 200, "second");
    let Some(weirctl) = weirctl() else { return };
    eventually("weirctl says what became of them", || {
        let mut command = Command::new(&weirctl);
        command.args(["--server", &format!("127.0.0.1:{}", machine.api), "get", "ingresses"]);
        let done = command.output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        (told.contains("mine") && told.contains("honoured") && !told.contains("others")).then_some(())
    });
}
