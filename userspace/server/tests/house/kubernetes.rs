//! A real Kubernetes: its released API server over etcd, asked with the rights that deploy/kubernetes gives and no others.
//!
//! There are no nodes: the servers of services are written down by the test, as nodes would have it. `cargo xtask test-kubernetes` builds
//! the API server; without it these tests say so and leave.

use crate::authority::Authority;
use crate::cluster::in_a_network;
use crate::ingress::{ask, served};
use crate::kube::plural;
use crate::leash::Leashed;
use crate::parts::{self, Kubernetes};
use crate::registries::base64;
use crate::world::{Backend, Connection, Machine, eventually, free_port, within};
use control_api::tls::{ClientTrust, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where servers of services are: addresses of a machine's own (127.0.0.0/8) are none to Kubernetes.
const HERE: &str = "10.77.0.254";
/// Of the one who may do everything.
const ADMIN: &str = "the-token-of-the-administrator";

struct Cluster {
    parts: Kubernetes,
    directory: tempfile::TempDir,
    etcd_port: u16,
    port: u16,
    _etcd: Leashed,
    api: Option<Leashed>,
    client: Arc<ClientConfig>,
}

impl Cluster {
    /// With the definitions of the Gateway API, and nothing else.
    fn start(parts: Kubernetes) -> Cluster {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let place = |name: &str| directory.path().join(name);
        let authority = Authority::new("Kubernetes");
        let identity = authority.signs("127.0.0.1");
        let key = rcgen::KeyPair::generate().unwrap();
        for (name, text) in [
            ("ca.crt", &authority.pem.text[..]),
            ("tls.crt", &identity.chain.text),
            ("tls.key", &identity.key.text),
            ("accounts.key", key.serialize_pem().as_bytes()),
            ("accounts.pub", key.public_key_pem().as_bytes()),
            ("tokens.csv", format!("{ADMIN},admin,admin,system:masters\n").as_bytes()),
        ] {
            fs::write(place(name), text).unwrap();
        }
        let (etcd_port, peers, port) = (free_port(), free_port(), free_port());
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = Command::new(&parts.etcd);
        etcd.args(["--data-dir", place("etcd").to_str().unwrap(), "--unsafe-no-fsync", "--log-level", "error"]);
        etcd.args(["--listen-client-urls", &at(etcd_port), "--advertise-client-urls", &at(etcd_port)]);
        etcd.args(["--listen-peer-urls", &at(peers), "--initial-advertise-peer-urls", &at(peers)]);
        etcd.args(["--initial-cluster", &format!("default={}", at(peers))]);
        let etcd = Leashed::start(etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
        eventually("etcd listens", || TcpStream::connect(("127.0.0.1", etcd_port)).ok());
        let trust = ClientTrust { authorities: Some(authority.pem.clone()), ..ClientTrust::default() };
        let client = Arc::new(client_config(&trust).unwrap());
        let mut cluster = Cluster { parts, directory, etcd_port, port, _etcd: etcd, api: None, client };
        cluster.run();
        for file in fs::read_dir(&cluster.parts.definitions).unwrap().flatten() {
            cluster.apply_file(&file.path(), |_| true);
        }
        eventually("the Gateway API is served", || {
            cluster.list("/apis/gateway.networking.k8s.io/v1/udproutes").map(drop)
        });
        cluster
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place("api.log")).unwrap_or_default()
    }

    fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.place("api.log")).unwrap();
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.place(name).display());
        let mut command = Command::new(&self.parts.api_server);
        command.args([
            &format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            &format!("--secure-port={}", self.port),
            &format!("--advertise-address={HERE}"),
            &file("tls-cert-file", "tls.crt"),
            &file("tls-private-key-file", "tls.key"),
            &file("service-account-key-file", "accounts.pub"),
            &file("service-account-signing-key-file", "accounts.key"),
            &file("token-auth-file", "tokens.csv"),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.test",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--etcd-compaction-interval=0s",
            "--profiling=false",
        ]);
        self.api = Some(Leashed::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log)).unwrap());
        // It takes three seconds, and minutes where everything else runs beside it.
        let ready = within(Duration::from_secs(300), || {
            if let Some(status) = self.api.as_mut().and_then(|api| api.try_wait().unwrap()) {
                let log = self.log();
                let lines: Vec<&str> = log.lines().collect();
                panic!("the API server ended with {status}:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
            let ready = self.ask("GET", "/readyz", "", "").ok()?;
            (ready.0 == 200).then_some(())
        });
        ready.expect("the API server is ready");
    }

    fn kill(&mut self) {
        self.api = None;
    }

    fn signal(&self, name: &str) {
        let pid = self.api.as_ref().expect("it runs").id();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
    }

    /// As the one who may do everything.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> io::Result<(u16, Value)> {
        let socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        let connection = ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\nAccept: application/json\r\n\
             Connection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let body = answer.split_off(end + 4);
        let body = if head.contains("transfer-encoding: chunked") { unchunked(&body) } else { body };
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::String(text))))
    }

    fn does(&self, method: &str, path: &str, kind: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, kind, &body.to_string()).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}\n{body:#}");
        answer
    }

    fn list(&self, path: &str) -> Option<Vec<Value>> {
        let (status, answer) = self.ask("GET", path, "", "").ok()?;
        (status == 200).then(|| answer["items"].as_array().cloned().unwrap_or_default())
    }

    /// As `kubectl apply --server-side` does; every field has to be one that is known. `more` goes to the query.
    fn applied(&self, object: &Value, more: &str) -> Value {
        let query = format!("?fieldManager=test&force=true&fieldValidation=Strict{more}");
        self.does("PATCH", &(path_of(object) + &query), "application/apply-patch+yaml", object)
    }

    fn put(&self, object: Value) {
        self.applied(&object, "");
    }

    fn apply_file(&self, file: &Path, takes: impl Fn(&str) -> bool) {
        for document in documents(&fs::read_to_string(file).unwrap()) {
            if takes(document["kind"].as_str().unwrap()) {
                self.applied(&document, "");
            }
        }
    }

    fn delete(&self, object: &Value) {
        self.does("DELETE", &path_of(object), "application/json", &json!({}));
    }

    fn object(&self, object: &Value) -> Value {
        self.does("GET", &path_of(object), "", &json!(null))
    }

    /// Nobody can go on from before this any more.
    fn forgets(&self) {
        let mut etcd = Connection::open(&format!("127.0.0.1:{}", self.etcd_port)).unwrap();
        let answer = etcd.request("POST", "/v3/kv/range", &[], "{\"key\": \"YQ==\"}").unwrap();
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        let revision = answer["header"]["revision"].as_str().unwrap().to_owned();
        let body = json!({"revision": revision}).to_string();
        let answer = etcd.request("POST", "/v3/kv/compaction", &[], &body).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// The account of the manifests has a token, which is a new one each time.
    fn token(&self) {
        let path = "/api/v1/namespaces/weir/serviceaccounts/weir/token";
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let answer = self.does("POST", path, "application/json", &wanted);
        fs::write(self.place("token"), answer["status"]["token"].as_str().unwrap()).unwrap();
    }

    /// A kubeconfig with it.
    fn config(&self) -> String {
        let text = format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: ca.crt}}}}]\n",
            self.port
        );
        fs::write(self.place("config"), text).unwrap();
        self.place("config").display().to_string()
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|end| end == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap();
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
        if size == 0 {
            break;
        }
    }
    whole
}

/// Where the API server has an object.
fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, meta) = (text(&object["apiVersion"]), &object["metadata"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = match meta["namespace"].as_str() {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    format!("/{root}/{version}{namespace}/{}/{}", plural(object["kind"].as_str().unwrap()), text(&meta["name"]))
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---").map(str::trim).filter(|part| !part.is_empty());
    let parsed = parts.map(|part| base_model::yaml::parse_document(part).unwrap());
    parsed.filter(Value::is_object).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
           "spec": {"ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}})
}

/// What a node and its controllers write of a Pod that is Ready.
fn slice(namespace: &str, service: &str, n: u32, backend: &Backend) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": format!("{service}-{n}"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
           "ports": [{"name": "web", "port": backend.port, "protocol": "TCP"}],
           "endpoints": [{"addresses": [HERE], "conditions": {"ready": true}}]})
}

fn path(path: &str, path_type: &str, service: &str) -> Value {
    json!({"path": path, "pathType": path_type, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(name: &str, host: &str, paths: &[Value]) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"ingressClassName": "easegress", "rules": [{"host": host, "http": {"paths": paths}}]}})
}

fn secret(name: &str, host: &str) -> Value {
    let pair = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": "shop"},
           "data": {"tls.crt": base64(&pair.cert.pem()), "tls.key": base64(&pair.signing_key.serialize_pem())}})
}

/// The certificate that is shown for a name, as a secret has it.
fn shown(port: u16, name: &str) -> Option<String> {
    let client = client_config(&ClientTrust { skip_verify: true, ..ClientTrust::default() }).unwrap();
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(client), server).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.complete_io(&mut socket).ok()?;
    let certificate = connection.peer_certificates()?.first()?;
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate);
    Some(text)
}

/// Whether it is the one of this secret.
fn is_of(shown: &str, secret: &Value) -> bool {
    let text = secret["data"]["tls.crt"].as_str().unwrap();
    let text = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap();
    let lines = String::from_utf8(text).unwrap();
    let body: String = lines.lines().filter(|line| !line.starts_with("-----")).collect();
    body == shown
}

fn status(machine: &Machine, name: &str) -> Value {
    machine.json(&format!("/status/objects/{name}"))[format!("default/{name}/{}", machine.name)]["status"].clone()
}

fn says(machine: &Machine, name: &str, what: &str) {
    let mut last = Value::Null;
    eventually(&format!("the status of {name} says {what}"), || {
        last = status(machine, name);
        last["health"].as_str().is_some_and(|health| health.contains(what)).then_some(())
    });
}

#[test]
fn its_ingresses_and_gateways_are_served_with_the_rights_of_the_manifests() {
    let Some(parts) = parts::kubernetes() else { return };
    if !in_a_network("kubernetes::its_ingresses_and_gateways_are_served_with_the_rights_of_the_manifests") {
        return;
    }
    let mut cluster = Cluster::start(parts);
    for name in ["weir", "shop", "other"] {
        cluster.put(namespace(name));
    }
    manifests(&cluster);
    let machine = Machine::start();
    let backends = [Backend::at(HERE, "first"), Backend::at(HERE, "second"), Backend::at(HERE, "third")];
    ingresses(&mut cluster, &machine, &backends);
    let before = forbidden(&machine);
    gateways(&cluster, &machine, &backends);
    assert_eq!(forbidden(&machine), before, "the rights of the manifests are all that is needed");
}

/// What was asked for and not allowed.
fn forbidden(machine: &Machine) -> Vec<String> {
    machine.log().lines().filter(|line| line.contains("the account may not")).map(str::to_owned).collect()
}

/// Everything of deploy/kubernetes is taken, field by field; then what is needed of it is there.
fn manifests(cluster: &Cluster) {
    let file = repository().join("deploy/kubernetes/weir.yaml");
    for document in documents(&fs::read_to_string(&file).unwrap()) {
        cluster.applied(&document, "&dryRun=All");
    }
    for document in chart(cluster).iter().flatten() {
        cluster.applied(document, "&dryRun=All");
    }
    cluster.apply_file(&file, |kind| {
        ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "IngressClass"].contains(&kind)
    });
    cluster.token();
}

/// What helm makes of the chart, both ways, where there is one.
fn chart(cluster: &Cluster) -> Option<Vec<Value>> {
    let helm = cluster.parts.helm.as_ref()?;
    let mut all = Vec::new();
    for set in ["host=true,gateway.enabled=true", "host=false"] {
        let mut command = Command::new(helm);
        command.args(["template", "weir", "--namespace", "weir", "--set", set]);
        let done = command.arg(repository().join("deploy/kubernetes/chart")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for mut document in documents(&String::from_utf8_lossy(&done.stdout)) {
            let of_cluster = ["ClusterRole", "ClusterRoleBinding", "IngressClass", "GatewayClass"];
            if document["metadata"]["namespace"].is_null() && !of_cluster.iter().any(|kind| document["kind"] == *kind) {
                document["metadata"]["namespace"] = json!("weir");
            }
            all.push(document);
        }
    }
    assert!(all.len() > 10, "{all:#?}");
    Some(all)
}

fn ingresses(cluster: &mut Cluster, machine: &Machine, [first, second, third]: &[Backend; 3]) {
    for name in ["orders", "users", "later"] {
        cluster.put(service("shop", name));
    }
    cluster.put(slice("shop", "orders", 1, first));
    cluster.put(slice("shop", "users", 1, second));
    let shop = [path("/", "Prefix", "users"), path("/orders", "Prefix", "orders"), path("/orders/7", "Exact", "later")];
    cluster.put(ingress("shop", "shop.test", &shop));
    cluster.put(ingress("wild", "*.wild.test", &[path("/", "Prefix", "orders")]));
    cluster.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "rest", "namespace": "shop"},
        "spec": {"ingressClassName": "easegress", "defaultBackend": {"service": {"name": "users", "port": {"name": "web"}}}}}));
    let mut old = ingress("old", "old.test", &[path("/api(/|$)(.*)", "ImplementationSpecific", "orders")]);
    old["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/rewrite-target": "/$2",
        "nginx.ingress.kubernetes.io/server-snippet": "return 200;"});
    cluster.put(old);
    let (port, tls) = (free_port(), free_port());
    machine.create(&format!(
        "kind: IngressController\nname: ing\nkubeConfig: {}\nhttpServer: {{port: {port}, address: 127.0.0.1}}\n\
         httpsServer: {{port: {tls}, address: 127.0.0.1, https: true}}\npublishAddresses: [192.0.2.1, lb.example]\n",
        cluster.config()
    ));
    served(port, "shop.test", "/orders/8", 200, "first");
    served(port, "shop.test", "/orders/7", 503, "");
    served(port, "shop.test", "/else", 200, "second");
    served(port, "a.wild.test", "/", 200, "first");
    served(port, "b.a.wild.test", "/", 200, "second");
    served(port, "anything.test", "/", 200, "second");
    served(port, "old.test", "/api/x", 200, "URL   : /x\n");
    says(machine, "ing", "ready");
    let report = status(machine, "ing")["objects"]["ingresses shop/old"].clone();
    assert!(report["refused"][0]["told"].as_str().unwrap().contains("text of nginx is not run"), "{report}");
    let places = json!([{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]);
    eventually("its status says where it is", || {
        let written = cluster.object(&ingress("shop", "", &[]))["status"]["loadBalancer"]["ingress"].clone();
        (written == places).then_some(())
    });
    eventually("an event says what is not as it is written", || {
        let events = cluster.list("/api/v1/namespaces/shop/events")?;
        events.iter().any(|e| e["reason"] == "NotAsWritten" && e["involvedObject"]["name"] == "old").then_some(())
    });

    // Certificates of secrets, and others in their place, without a connection being closed for it.
    let (one, another) = (secret("c", "shop.test"), secret("c", "shop.test"));
    cluster.put(one.clone());
    let mut with_tls = ingress("shop", "shop.test", &shop);
    with_tls["spec"]["tls"] = json!([{"hosts": ["shop.test"], "secretName": "c"}]);
    cluster.put(with_tls);
    served(port, "shop.test", "/orders", 308, "");
    eventually("its certificate is shown", || shown(tls, "shop.test").is_some_and(|it| is_of(&it, &one)).then_some(()));
    cluster.put(another.clone());
    eventually("the new one is", || shown(tls, "shop.test").is_some_and(|it| is_of(&it, &another)).then_some(()));

    // Pods come and go without a change of any document.
    let changed = |name: &str| {
        let head = machine.api("GET", &format!("/objects/{name}?namespace=ingresscontroller/ing"), "").head;
        head.lines().find(|line| line.to_lowercase().starts_with("etag")).map(str::to_owned)
    };
    let before = [changed("ing.http"), changed("ing.shop.orders.80")];
    assert!(before.iter().all(Option::is_some));
    cluster.put(slice("shop", "orders", 2, third));
    served(port, "a.wild.test", "/", 200, "third");
    cluster.delete(&slice("shop", "orders", 1, first));
    for _ in 0..4 {
        served(port, "a.wild.test", "/", 200, "third");
    }
    assert_eq!([changed("ing.http"), changed("ing.shop.orders.80")], before);

    // After a restart it may refuse what is allowed, until it has read its rules.
    assert_eq!(forbidden(machine), [""; 0], "the rights of the manifests are all that is needed");

    // It says nothing for a while; it is restarted; what happened meanwhile is forgotten (410).
    cluster.signal("STOP");
    says(machine, "ing", "no answer within");
    served(port, "a.wild.test", "/", 200, "third");
    cluster.signal("CONT");
    says(machine, "ing", "ready");
    cluster.kill();
    served(port, "a.wild.test", "/", 200, "third");
    cluster.run();
    cluster.put(ingress("new", "new.test", &[path("/", "Prefix", "orders")]));
    served(port, "new.test", "/", 200, "third");
    machine.signal("STOP");
    cluster.delete(&ingress("new", "", &[]));
    cluster.put(ingress("newer", "newer.test", &[path("/", "Prefix", "users")]));
    cluster.kill();
    cluster.forgets();
    cluster.run();
    machine.signal("CONT");
    served(port, "newer.test", "/", 200, "second");
    served(port, "a.wild.test", "/", 200, "third");
    eventually("what is gone is gone", || {
        ask(port, "new.test", "/").is_some_and(|(_, body)| body.contains("second")).then_some(())
    });

    // Its account is another one, so that its token is believed no more; its rights are taken away, and given back.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "weir", "namespace": "weir"}});
    cluster.delete(&account);
    cluster.put(account);
    cluster.kill();
    cluster.run();
    says(machine, "ing", "the login is not believed");
    served(port, "a.wild.test", "/", 200, "third");
    cluster.token();
    says(machine, "ing", "ready");
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "weir"}});
    cluster.delete(&binding);
    cluster.kill();
    cluster.run();
    says(machine, "ing", "the account may not");
    served(port, "a.wild.test", "/", 200, "third");
    cluster.apply_file(&repository().join("deploy/kubernetes/weir.yaml"), |kind| kind == "ClusterRoleBinding");
    says(machine, "ing", "ready");
}

fn gateway_object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = match namespace {
        "" => json!({"name": name}),
        namespace => json!({"name": name, "namespace": namespace}),
    };
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// `TYPE=STATUS/REASON` of a condition list.
fn conditions(list: &Value) -> Vec<String> {
    let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    list.as_array().into_iter().flatten().map(one).collect()
}

fn gateways(cluster: &Cluster, machine: &Machine, [first, second, _]: &[Backend; 3]) {
    let becomes = |object: &Value, pointer: &str, wanted: &[&str]| {
        let mut last = Vec::new();
        eventually(&format!("{pointer} of {} is {wanted:?}", path_of(object)), || {
            last = conditions(cluster.object(object).pointer(pointer)?);
            (last == wanted).then_some(())
        });
    };
    cluster.put(slice("shop", "orders", 1, first));
    cluster.delete(&slice("shop", "orders", 2, first));
    cluster.put(service("other", "far"));
    cluster.put(slice("other", "far", 1, second));
    let class =
        gateway_object("GatewayClass", "", "weir", json!({"controllerName": "megaease.com/gateway-controller"}));
    cluster.put(class.clone());
    let (port, tls, tcp, udp) = (free_port(), free_port(), free_port(), free_port());
    let gateway = gateway_object(
        "Gateway",
        "shop",
        "edge",
        json!({"gatewayClassName": "weir", "listeners": [
            {"name": "http", "port": port, "protocol": "HTTP", "hostname": "*.test"},
            {"name": "https", "port": tls, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c"}]}},
            {"name": "tcp", "port": tcp, "protocol": "TCP"},
            {"name": "udp", "port": udp, "protocol": "UDP"},
            {"name": "lost", "port": free_port(), "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "nowhere"}]}},
        ]}),
    );
    cluster.put(gateway.clone());
    let rule = |prefix: &str, backend: Value| json!({"matches": [{"path": {"type": "PathPrefix", "value": prefix}}], "backendRefs": [backend]});
    let route = gateway_object(
        "HTTPRoute",
        "shop",
        "shop",
        json!({"parentRefs": [{"name": "edge"}], "hostnames": ["shop.test"], "rules": [
            rule("/orders", json!({"name": "orders", "port": 80})),
            rule("/far", json!({"name": "far", "namespace": "other", "port": 80})),
            {"matches": [{"path": {"type": "PathPrefix", "value": "/moved"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.test", "statusCode": 301}}]},
        ]}),
    );
    cluster.put(route.clone());
    let raw = |kind: &str, section: &str| {
        gateway_object(
            kind,
            "shop",
            section,
            json!({"parentRefs": [{"name": "edge", "sectionName": section}],
            "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]}),
        )
    };
    cluster.put(raw("TCPRoute", "tcp"));
    cluster.put(raw("UDPRoute", "udp"));
    let calls = gateway_object(
        "GRPCRoute",
        "shop",
        "calls",
        json!({"parentRefs": [{"name": "edge", "sectionName": "none"}],
        "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]}),
    );
    cluster.put(calls.clone());
    machine.create(&format!(
        "kind: GatewayController\nname: gw\nkubeConfig: {}\npublishAddresses: [lb.example]\n",
        cluster.config()
    ));
    served(port, "shop.test", "/orders/1", 200, "first");
    served(port, "shop.test", "/moved", 301, "");
    served(port, "shop.test", "/far", 500, "");
    served(port, "shop.test", "/else", 404, "");
    let accepted = "Accepted=True/Accepted";
    becomes(&class, "/status/conditions", &[accepted]);
    becomes(&gateway, "/status/conditions", &["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    let listeners = cluster.object(&gateway)["status"]["listeners"].clone();
    assert_eq!(listeners[0]["attachedRoutes"], 1, "{listeners:#}");
    assert!(conditions(&listeners[4]["conditions"]).contains(&"ResolvedRefs=False/InvalidCertificateRef".to_owned()));
    let parents = "/status/parents/0/conditions";
    becomes(&route, parents, &[accepted, "ResolvedRefs=False/RefNotPermitted"]);
    becomes(&raw("TCPRoute", "tcp"), parents, &[accepted, "ResolvedRefs=True/ResolvedRefs"]);
    becomes(&raw("UDPRoute", "udp"), parents, &[accepted, "ResolvedRefs=True/ResolvedRefs"]);
    becomes(&calls, parents, &["Accepted=False/NoMatchingParent", "ResolvedRefs=True/ResolvedRefs"]);
    // What is in another namespace is used once that allows it, and no longer than that.
    let grant = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "shop", "namespace": "other"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}], "to": [{"group": "", "kind": "Service"}]}});
    cluster.put(grant.clone());
    served(port, "shop.test", "/far", 200, "second");
    becomes(&route, parents, &[accepted, "ResolvedRefs=True/ResolvedRefs"]);
    cluster.delete(&grant);
    served(port, "shop.test", "/far", 500, "");
    eventually("bytes are relayed", || {
        let answer = Connection::open(&format!("127.0.0.1:{tcp}")).ok()?.request("GET", "/", &[], "").ok()?;
        answer.body.contains("first").then_some(())
    });
    let text = cluster.object(&secret("c", "shop.test"));
    assert!(eventually("it speaks TLS", || shown(tls, "shop.test")).len() > 100 && text["data"]["tls.key"].is_string());
    says(machine, "gw", "ready");
    cluster.delete(&route);
    served(port, "shop.test", "/orders", 404, "");
    cluster.delete(&gateway);
    eventually("nobody listens", || ask(port, "shop.test", "/").is_none().then_some(()));
}
