//! Ingresses of Kubernetes are served: routes, servers, certificates, statuses; and served on whatever becomes of the API server.

use crate::authentication::Service;
use crate::kube::Kube;
use crate::registries::base64;
use crate::world::{Backend, Connection, Machine, eventually, free_port};
use serde_json::{Value, json};

pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"ports": [{"name": "web", "port": 80}]}})
}

/// The pods of a service: here, backends of this machine by their ports.
pub fn slice(service: &str, n: u32, backend: &Backend) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": format!("{service}-{n}"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
           "ports": [{"name": "web", "port": backend.port}],
           "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]})
}

fn path(path: &str, path_type: &str, service: &str) -> Value {
    json!({"path": path, "pathType": path_type, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(name: &str, host: &str, paths: &[Value]) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"ingressClassName": "easegress", "rules": [{"host": host, "http": {"paths": paths}}]}})
}

pub fn ask(port: u16, host: &'static str, path: &str) -> Option<(u16, String)> {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).ok()?.asking(host);
    let answer = connection.request("GET", path, &[], "").ok()?;
    Some((answer.status, answer.body))
}

/// Until who answers is who is wanted.
pub fn served(port: u16, host: &'static str, path: &str, status: u16, by: &str) {
    let mut last = None;
    eventually(&format!("{host}{path} is answered with {status} by {by}"), || {
        last = ask(port, host, path);
        last.as_ref().is_some_and(|(code, body)| *code == status && body.contains(by)).then_some(())
    });
}

fn status(machine: &Machine) -> Value {
    machine.json("/status/objects/ing")[format!("default/ing/{}", machine.name)]["status"].clone()
}

fn says(machine: &Machine, what: &str) {
    let mut last = Value::Null;
    eventually(&format!("its status says {what}"), || {
        last = status(machine);
        last["health"].as_str().is_some_and(|health| health.contains(what)).then_some(())
    });
}

#[test]
fn ingresses_are_served_and_served_on_whatever_becomes_of_the_api_server() {
    let kube = Kube::start();
    kube.pages_of(2);
    let (first, second, third) = (Backend::start("first"), Backend::start("second"), Backend::start("third"));
    for name in ["orders", "users", "later"] {
        kube.put(service(name));
    }
    kube.put(slice("orders", 1, &first));
    kube.put(slice("users", 1, &second));
    kube.put(json!({"kind": "Secret", "type": "helm.sh/release.v1", "metadata": {"name": "h", "namespace": "shop"}}));
    kube.put(ingress("shop", "shop.test", &[path("/", "Prefix", "users"), path("/orders", "Prefix", "orders")]));
    kube.put(ingress("other", "", &[path("/x", "Exact", "later")]));
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let (config, token) = (folder.path().join("config"), folder.path().join("token"));
    std::fs::write(&token, "first").unwrap();
    let text = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: '{}'}}}}]\n\
         users: [{{name: u, user: {{tokenFile: token}}}}]\n",
        kube.url()
    );
    std::fs::write(&config, text).unwrap();
    kube.token("first");

    let mut machine = Machine::start();
    for name in ["ing.http", "ing.shop.orders.80"] {
        let mine = "flow: [{filter: mine}]\nfilters: [{name: mine, kind: Mock, rules: [{code: 418}]}]";
        machine.create(&format!("kind: Pipeline\nname: {name}\n{mine}\n"));
    }
    machine.create(&format!(
        "kind: IngressController\nname: ing\nkubeConfig: {}\nhttpServer: {{port: {port}, address: 127.0.0.1}}\n\
         publishAddresses: [192.0.2.1, lb.example]\n",
        config.display()
    ));
    served(port, "shop.test", "/orders/7", 200, "first");
    served(port, "shop.test", "/ordersx", 200, "second");
    served(port, "other.test", "/x", 503, "");
    served(port, "other.test", "/y", 404, "");
    says(&machine, "ready");
    assert_eq!(status(&machine)["states"]["Ingress"]["honoured"], 2, "{}", status(&machine));
    let written = || kube.object("Ingress", "shop", "shop").unwrap()["status"]["loadBalancer"]["ingress"].clone();
    eventually("its status says where it is", || {
        (written() == json!([{"hostname": "lb.example"}, {"ip": "192.0.2.1"}])).then_some(())
    });

    // An API server that has too much to do is told later, and says what is new meanwhile.
    kube.busy(2);
    kube.put(ingress("busy", "busy.test", &[path("/", "Prefix", "orders")]));
    served(port, "busy.test", "/", 200, "first");
    eventually("its status is told once that can be done", || {
        kube.object("Ingress", "shop", "busy").filter(|object| object["status"]["loadBalancer"].is_object())
    });
    let tells = |result: &str| {
        let text = machine.api("GET", "/metrics", "").body;
        let label = format!("weir_kubernetes_tells_total{{controller=\"ing\",result=\"{result}\"}}");
        text.lines().find_map(|line| line.strip_prefix(&label)?.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    assert!(tells("put_off") >= 2.0, "{}", machine.api("GET", "/metrics", "").body);
    eventually("it is counted, and nothing is put off any more", || {
        (tells("told") >= 3.0 && status(&machine).get("putOff").is_none()).then_some(())
    });
    kube.delete("Ingress", "shop", "busy");
    served(port, "busy.test", "/", 404, "");

    // Pods come and go without a change of any document.
    let changed = |name: &str| {
        let head = machine.api("GET", &format!("/objects/{name}?namespace=ingresscontroller/ing"), "").head;
        head.lines().find(|line| line.to_lowercase().starts_with("etag")).map(str::to_owned)
    };
    let before = [changed("ing.http"), changed("ing.shop.orders.80")];
    assert!(before.iter().all(Option::is_some));
    kube.put(slice("orders", 2, &third));
    served(port, "shop.test", "/orders", 200, "third");
    kube.delete("EndpointSlice", "shop", "orders-1");
    kube.put(slice("later", 1, &first));
    served(port, "other.test", "/x", 200, "first");
    for _ in 0..4 {
        served(port, "shop.test", "/orders", 200, "third");
    }
    assert_eq!([changed("ing.http"), changed("ing.shop.orders.80")], before);
    let gone = machine.api("DELETE", "/objects/ingresscontroller%2Fing%2Fing.http", "");
    assert_eq!(gone.status, 400, "it follows its owner: {}", gone.body);
    // Users have the same names for themselves, and the controller what it needs.
    for name in ["ing.http", "ing.shop.orders.80"] {
        let mine = machine.json(&format!("/objects/{name}"));
        assert_eq!((&mine["kind"], &mine["flow"]), (&json!("Pipeline"), &json!([{"filter": "mine"}])), "{mine}");
        let theirs = machine.json(&format!("/objects/{name}?namespace=ingresscontroller/ing"));
        assert_eq!(theirs["labels"]["easegress/owner"], "IngressController:ing", "{theirs}");
    }
    let all = machine.json("/objects?all-namespaces=true");
    let names = |space: &str| -> Vec<String> {
        let documents = all[space].as_array().into_iter().flatten();
        documents.map(|document| document["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names("default"), ["ing", "ing.http", "ing.shop.orders.80"], "{all}");
    assert!(names("ingresscontroller/ing").contains(&"ing.http".to_owned()), "{all}");
    let statuses = machine.json("/status/objects");
    for space in ["default", "ingresscontroller/ing"] {
        let key = format!("eg-traffic-{space}/ing.shop.orders.80/{}", machine.name);
        assert!(statuses[&key]["status"].is_object(), "{key}: {statuses}");
    }

    // It is restarted; what it remembers is not enough; it is gone; its tokens are others; it lets nobody in.
    kube.restarts();
    kube.put(ingress("new", "new.test", &[path("/", "Prefix", "orders")]));
    served(port, "new.test", "/", 200, "third");
    kube.delete("Ingress", "shop", "new");
    kube.forgets();
    served(port, "new.test", "/", 404, "");
    served(port, "shop.test", "/orders", 200, "third");
    kube.deaf(true);
    says(&machine, "no answer within");
    served(port, "shop.test", "/orders", 200, "third");
    kube.token("second");
    kube.deaf(false);
    says(&machine, "the login is not believed");
    std::fs::write(&token, "second").unwrap();
    says(&machine, "ready");
    kube.forbids("Ingress", true);
    says(&machine, "the account may not list ingresses");
    served(port, "shop.test", "/orders", 200, "third");
    kube.forbids("Ingress", false);
    says(&machine, "ready");

    // The machine is gone for a moment, and so is the API server: what is on the disk serves.
    machine.kept("ingresscontroller/ing/ing.http");
    kube.deaf(true);
    machine.kill();
    machine.run();
    served(port, "shop.test", "/orders", 200, "third");
    kube.deaf(false);
    kube.put(slice("orders", 2, &first));
    served(port, "shop.test", "/orders", 200, "first");
    assert!(machine.metric("weir_registry_faults_total").is_some());

    // Without its owner nothing of it is left.
    assert_eq!(machine.api("DELETE", "/objects/ing", "").status, 200);
    eventually("nobody listens", || ask(port, "shop.test", "/").is_none().then_some(()));
    assert_eq!(machine.api("GET", "/healthz", "").status, 200);
}

#[test]
fn what_of_an_ingress_is_not_as_it_is_written_is_told_where_people_look() {
    let kube = Kube::start();
    let backend = Backend::start("first");
    kube.put(service("orders"));
    kube.put(slice("orders", 1, &backend));
    kube.put(ingress("good", "shop.test", &[path("/", "Prefix", "orders")]));
    let mut bad = ingress("bad", "bad.test", &[path("/", "Prefix", "nowhere")]);
    bad["metadata"]["annotations"] = json!({"easegress.ingress.kubernetes.io/proxy-timeout": "soon"});
    kube.put(bad);
    let (machine, port, tls, taken) = (Machine::start(), free_port(), free_port(), free_port());
    let mut published = service("published");
    published["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    kube.put(published);
    let mut foreign = ingress("foreign", "foreign.test", &[path("/", "Prefix", "orders")]);
    foreign["metadata"]["namespace"] = json!("other");
    kube.put(foreign);
    machine.create(&format!(
        "kind: IngressController\nname: ing\nmasterURL: {}\nhttpServer: {{port: {port}, address: 127.0.0.1}}\n\
         httpsServer: {{port: {tls}, address: 127.0.0.1, https: true}}\nnamespaces: [shop]\npublishService: shop/published\n",
        kube.url()
    ));
    served(port, "shop.test", "/", 200, "first");
    served(port, "bad.test", "/", 503, "");
    served(port, "foreign.test", "/", 404, "");
    eventually("its status says where it is", || {
        let written = kube.object("Ingress", "shop", "good").unwrap()["status"]["loadBalancer"]["ingress"].clone();
        (written == json!([{"ip": "192.0.2.7"}])).then_some(())
    });
    let events = eventually("events say it", || Some(kube.events()).filter(|events| !events.is_empty()));
    assert!(
        events[0].starts_with("NotAsWritten ") && events[0].contains("service shop/nowhere is not there"),
        "{events:?}"
    );
    let report = status(&machine)["objects"]["ingresses shop/bad"].clone();
    assert_eq!(report["state"], "refused", "{report}");
    assert!(report["refused"][0]["told"].as_str().unwrap().contains("\"soon\" is no duration"), "{report}");

    // Annotations of ingress-nginx: users of a secret get in, and nobody else; what cannot be kept is a closed door.
    let nginx = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    let mut login = ingress("login", "login.test", &[path("/", "Prefix", "orders")]);
    login["metadata"]["annotations"] = json!({nginx("auth-type"): "basic", nginx("auth-secret"): "users"});
    kube.put(login);
    let mut closed = ingress("closed", "closed.test", &[path("/", "Prefix", "orders")]);
    closed["metadata"]["annotations"] = json!({nginx("enable-global-auth"): "true"});
    kube.put(closed);
    served(port, "login.test", "/", 403, "");
    let users = base64("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    kube.put(json!({"kind": "Secret", "type": "Opaque", "metadata": {"name": "users", "namespace": "shop"}, "data": {"auth": users}}));
    served(port, "login.test", "/", 401, "");
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap().asking("login.test");
    let password = format!("Basic {}", base64("ann:secret"));
    let answer = connection.request("GET", "/", &[("Authorization", &password)], "").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    served(port, "closed.test", "/", 403, "");

    // Another service says who may pass; a third one answers for errors, and is told what for.
    let door = Service::start(|asked| {
        let passes = asked.head.to_lowercase().contains("cookie: user=ann");
        Some(if passes {
            (200, "X-User: ann\r\n".to_owned(), String::new())
        } else {
            (401, String::new(), String::new())
        })
    });
    let sorry = Service::start(|asked| {
        let code = asked.head.lines().find_map(|line| line.strip_prefix("X-Code: ").or(line.strip_prefix("x-code: ")));
        Some((404, String::new(), format!("sorry for {} at {}", code.unwrap_or("nothing"), asked.target)))
    });
    let missing = Service::start(|_| Some((404, String::new(), "the server's own page".to_owned())));
    for (name, at) in [("sorry", sorry.port), ("missing", missing.port)] {
        kube.put(service(name));
        let mut slice = slice(name, 1, &backend);
        slice["ports"][0]["port"] = json!(at);
        kube.put(slice);
    }
    let mut guarded = ingress("guarded", "guarded.test", &[path("/", "Prefix", "orders")]);
    guarded["metadata"]["annotations"] = json!({nginx("auth-url"): format!("{}/auth", door.url()),
        nginx("auth-signin"): "https://login.test/in", nginx("auth-response-headers"): "X-User"});
    kube.put(guarded);
    let mut broken = ingress("broken", "broken.test", &[path("/", "Prefix", "missing")]);
    broken["metadata"]["annotations"] = json!({nginx("custom-http-errors"): "404", nginx("default-backend"): "sorry"});
    kube.put(broken);
    served(port, "guarded.test", "/x", 302, "");
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap().asking("guarded.test");
    let answer = connection.request("GET", "/x", &[("Cookie", "user=ann"), ("X-User", "forged")], "").unwrap();
    assert!(
        answer.status == 200 && answer.body.contains("X-User:[ann]") && !answer.body.contains("forged"),
        "{answer:?}"
    );
    served(port, "broken.test", "/x", 404, "sorry for 404 at /");
    let seen = machine.api("GET", "/objects/ing.shop.orders.80~login?namespace=ingresscontroller/ing", "").body;
    assert!(seen.contains("users") && !seen.contains("5en6G6"), "{seen}");

    // A server that speaks TLS is there with the first certificate; until then it says what it waits for.
    assert!(status(&machine)["remarks"].to_string().contains("waits for a certificate"), "{}", status(&machine));
    assert!(ask(tls, "shop.test", "/").is_none());
    let pair = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
    kube.put(json!({"kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "c", "namespace": "shop"},
                    "data": {"tls.crt": base64(&pair.cert.pem()), "tls.key": base64(&pair.signing_key.serialize_pem())}}));
    let mut good = ingress("good", "shop.test", &[path("/", "Prefix", "orders")]);
    good["spec"]["tls"] = json!([{"hosts": ["shop.test"], "secretName": "c"}]);
    kube.put(good);
    served(port, "shop.test", "/", 308, "");
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", tls)).ok());
    let before = machine.api("GET", "/objects/ing.https?namespace=ingresscontroller/ing", "").body;
    assert!(before.contains("shop/c") && !before.contains("PRIVATE KEY"), "{before}");

    // A port that somebody has is told, and the rest waits for it.
    machine.create(&format!("kind: HTTPServer\nname: mine\nport: {taken}\nrules: []\n"));
    let other = format!(
        "kind: IngressController\nname: ing\nmasterURL: {}\nhttpServer: {{port: {}, address: 127.0.0.1}}\n",
        kube.url(),
        taken
    );
    machine.update("ing", &other);
    eventually("it is told", || {
        let remarks = status(&machine)["remarks"].to_string();
        remarks.contains("taken by HTTPServer mine").then_some(())
    });
    served(port, "shop.test", "/", 308, "");
}

#[test]
fn servers_come_from_the_slices_of_services() {
    let kube = Kube::start();
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    kube.put(service("orders"));
    let (machine, port, folder) = (Machine::start(), free_port(), tempfile::tempdir().unwrap());
    let config = folder.path().join("config");
    let text = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{}'}}}}]\n",
        kube.url()
    );
    std::fs::write(&config, text).unwrap();
    machine.create(&format!(
        "kind: KubernetesServiceRegistry\nname: k\nkubeConfig: {}\nmasterURL: {}\nnamespaces: [shop]\nemptyAfter: 1h\n",
        config.display(),
        kube.url()
    ));
    machine.create(&format!(
        "kind: Pipeline\nname: pl\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - serviceRegistry: k\n    \
         serviceName: shop/orders:80\n    servers:\n    - url: {}\n",
        fallback.url()
    ));
    machine.create(&crate::world::server("hs", port, "pl"));
    // Connections that are relayed as they are go there as well.
    let relay = free_port();
    machine.create(&format!(
        "kind: TCPProxy\nname: relay\nport: {relay}\npools:\n- serviceRegistry: k\n  serviceName: shop/orders:80\n  servers:\n  \
         - url: tcp://127.0.0.1:{}\n",
        fallback.port
    ));
    served(port, "a.test", "/", 200, "fallback");
    served(relay, "a.test", "/", 200, "fallback");
    kube.put(slice("orders", 1, &first));
    served(port, "a.test", "/", 200, "first");
    served(relay, "a.test", "/", 200, "first");
    kube.put(slice("orders", 2, &second));
    served(port, "a.test", "/", 200, "second");
    served(relay, "a.test", "/", 200, "second");
    kube.forgets();
    kube.delete("EndpointSlice", "shop", "orders-1");
    kube.delete("EndpointSlice", "shop", "orders-2");
    let status = || machine.json("/status/objects/k")[format!("default/k/{}", machine.name)]["status"].clone();
    eventually("an empty service keeps its servers for a while", || {
        status()["held"]["shop/orders:80"].as_str().is_some_and(|why| why.contains("emptyAfter")).then_some(())
    });
    assert_eq!(ask(port, "a.test", "/").unwrap().0, 200);
    kube.put(slice("orders", 3, &first));
    served(port, "a.test", "/", 200, "first");
}
