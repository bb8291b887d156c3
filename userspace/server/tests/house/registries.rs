//! Pools have their servers from service registries, real ones, and keep them whatever becomes of those.

use crate::cluster::{ADDRESSES, in_a_network_of};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Answer, Backend, Connection, Machine, answers, eventually, free_port, get, server, within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A pipeline whose pool follows a service, with a server of its own to fall back to.
fn following(registry: &str, service: &str, fallback: &Backend) -> String {
    format!(
        "kind: Pipeline\nname: pl\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - serviceRegistry: {registry}\n    \
         serviceName: {service}\n    servers:\n    - url: {}\n",
        fallback.url()
    )
}

/// Names of the backends that answer within some requests.
fn who(port: u16) -> BTreeSet<String> {
    (0..8)
        .filter_map(|_| get(port, "/").ok())
        .filter(|answer| answer.status == 200)
        .map(|answer| name_of(&answer))
        .collect()
}

/// The demo backend's name is in its first line.
fn name_of(answer: &Answer) -> String {
    let names = ["first", "second", "third", "fallback"];
    let known = names.iter().find(|name| answer.body.contains(**name));
    (*known.unwrap_or_else(|| panic!("whose answer is this? {}", answer.body))).to_owned()
}

fn served_by(port: u16, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut last = BTreeSet::new();
    eventually(&format!("{names:?} serve"), || {
        last = who(port);
        (last == wanted).then_some(())
    });
}

fn status(machine: &Machine, registry: &str) -> Value {
    let all = machine.json(&format!("/status/objects/{registry}"));
    all[format!("default/{registry}/{}", machine.name)]["status"].clone()
}

fn status_says(machine: &Machine, registry: &str, what: &str) {
    let mut last = Value::Null;
    eventually(&format!("{registry} says {what}"), || {
        last = status(machine, registry);
        last["health"].as_str().is_some_and(|health| health.contains(what)).then_some(())
    });
}

/// A server of somebody else's, in a directory that outlives it.
pub struct Part {
    host: &'static str,
    port: u16,
    process: Option<Leashed>,
    command: Box<dyn Fn(&Path) -> Command>,
    directory: tempfile::TempDir,
}

impl Part {
    pub fn start(port: u16, command: impl Fn(&Path) -> Command + 'static) -> Part {
        Part::start_at("127.0.0.1", port, command)
    }

    fn start_at(host: &'static str, port: u16, command: impl Fn(&Path) -> Command + 'static) -> Part {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut part = Part { host, port, process: None, command: Box::new(command), directory };
        part.run();
        part
    }

    pub fn run(&mut self) {
        let mut command = (self.command)(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Leashed::start(&mut command).unwrap());
        // What is written in Java takes its time where everything else runs beside it.
        let listens = within(Duration::from_secs(300), || TcpStream::connect((self.host, self.port)).ok());
        assert!(listens.is_some(), "nobody listens at {}:{}", self.host, self.port);
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("it runs").id();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let mut connection = Connection::open(&format!("{}:{}", self.host, self.port)).ok()?;
        connection.request(method, path, &[("Content-Type", "application/json")], body).ok()
    }

    /// Asks until it is well enough to do so.
    fn does(&self, method: &str, path: &str, body: &str) {
        eventually(&format!("{method} {path}"), || {
            self.ask(method, path, body).is_some_and(|answer| answer.status == 200).then_some(())
        });
    }

    fn forgets_everything(&self) {
        for entry in fs::read_dir(self.directory.path()).unwrap().flatten() {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

fn etcd_at(program: PathBuf) -> Part {
    let (port, peers) = (free_port(), free_port());
    Part::start(port, move |directory| {
        let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let mut command = Command::new(&program);
        command.args(["--data-dir", directory.join("data").to_str().unwrap(), "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        command
    })
}

impl Part {
    fn etcd_put(&self, key: &str, value: &Value) {
        let body = json!({"key": base64(key), "value": base64(&value.to_string())});
        self.does("POST", "/v3/kv/put", &body.to_string());
    }

    fn etcd_delete(&self, key: &str) {
        self.does("POST", "/v3/kv/deleterange", &json!({"key": base64(key)}).to_string());
    }
}

/// RFC 4648 section 4.
pub fn base64(text: &str) -> String {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in text.as_bytes().chunks(3) {
        let bits = piece.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for place in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place > piece.len() { '=' } else { char::from(sign) });
        }
    }
    out
}

fn instance(id: &str, backend: &Backend) -> Value {
    json!({"serviceName": "orders", "instanceID": id, "address": "127.0.0.1", "port": backend.port})
}

#[test]
fn servers_come_from_etcd_and_stay_while_it_is_gone() {
    let Some(program) = parts::etcd() else { return };
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let mut etcd = etcd_at(program);
    let mut machine = Machine::start();
    let port = free_port();
    machine.create(&format!(
        "kind: EtcdServiceRegistry\nname: etcd\nendpoints: ['127.0.0.1:{}']\nprefix: /shop/\ncacheTimeout: 300ms\n",
        etcd.port
    ));
    machine.create(&following("etcd", "orders", &fallback));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    served_by(port, &["fallback"]);

    etcd.etcd_put("/shop/orders/1", &instance("1", &first));
    served_by(port, &["first"]);
    let changed = machine.api("GET", "/objects/pl", "").head;
    let etag = |head: &str| head.lines().find(|line| line.to_lowercase().starts_with("etag")).map(str::to_owned);
    etcd.etcd_put("/shop/orders/2", &instance("2", &second));
    served_by(port, &["first", "second"]);
    assert_eq!(etag(&machine.api("GET", "/objects/pl", "").head), etag(&changed), "no document has changed");
    assert_eq!(status(&machine, "etcd")["instancesNum"]["orders"], 2);
    etcd.etcd_put("/shop/orders/3", &json!({"address": "127.0.0.1", "port": 0}));
    eventually("what cannot be used is told", || {
        status(&machine, "etcd")["refused"]["orders"][0]
            .as_str()
            .is_some_and(|why| why.contains("port 0"))
            .then_some(())
    });
    etcd.etcd_delete("/shop/orders/1");
    served_by(port, &["second"]);

    // It hangs: traffic goes on, and the status says so.
    etcd.signal("STOP");
    status_says(&machine, "etcd", "no answer within");
    assert_eq!(who(port), BTreeSet::from(["second".to_owned()]));
    etcd.signal("CONT");
    status_says(&machine, "etcd", "ready");
    etcd.etcd_put("/shop/orders/1", &instance("1", &first));
    served_by(port, &["first", "second"]);
    assert!(machine.metric("weir_registry_faults_total").is_some_and(|faults| faults >= 1.0));

    // It is gone, and so is the machine for a moment: what is on the disk serves.
    machine.kept("endpoints");
    etcd.kill();
    status_says(&machine, "etcd", "etcd at");
    machine.kill();
    machine.run();
    served_by(port, &["first", "second"]);
    status_says(&machine, "etcd", "refused");

    // It comes back without what it knew: that is not believed at once.
    etcd.forgets_everything();
    etcd.run();
    eventually("its emptiness is held off", || {
        let held = status(&machine, "etcd")["held"]["orders"].as_str()?.to_owned();
        held.contains("emptyAfter").then_some(())
    });
    assert_eq!(who(port), BTreeSet::from(["first".to_owned(), "second".to_owned()]));
    etcd.etcd_put("/shop/orders/2", &instance("2", &second));
    served_by(port, &["second"]);

    assert_eq!(machine.api("DELETE", "/objects/etcd", "").status, 200);
    served_by(port, &["fallback"]);
}

#[test]
fn servers_come_from_consul_as_far_as_their_checks_pass() {
    let Some(program) = parts::consul() else { return };
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let port = free_port();
    let mut consul = Part::start(port, move |directory| {
        let mut command = Command::new(&program);
        let (port, serf, rpc) = (port.to_string(), free_port().to_string(), free_port().to_string());
        command.args([
            "agent",
            "-dev",
            "-bind",
            "127.0.0.1",
            "-http-port",
            &port,
            "-dns-port",
            "-1",
            "-grpc-port",
            "-1",
        ]);
        command.args(["-serf-lan-port", &serf, "-serf-wan-port", "-1", "-server-port", &rpc]).current_dir(directory);
        command
    });
    let register = |consul: &Part, id: &str, backend: &Backend, tags: &[&str]| {
        let body = json!({"ID": id, "Name": "orders", "Address": "127.0.0.1", "Port": backend.port, "Tags": tags,
                          "Check": {"CheckID": id, "TTL": "10m", "Status": "passing"}});
        consul.does("PUT", "/v1/agent/service/register", &body.to_string());
    };
    let machine = Machine::start();
    let entry = free_port();
    machine.create(&format!(
        "kind: ConsulServiceRegistry\nname: consul\naddress: 127.0.0.1:{}\nserviceTags: [v1]\nsyncInterval: 2s\n",
        consul.port
    ));
    machine.create(&following("consul", "orders", &fallback));
    machine.create(&server("hs", entry, "pl"));
    answers(entry, "/", 200);
    served_by(entry, &["fallback"]);
    register(&consul, "1", &first, &["v1", "a"]);
    served_by(entry, &["first"]);
    register(&consul, "2", &second, &["v1"]);
    served_by(entry, &["first", "second"]);
    register(&consul, "3", &fallback, &["v2"]);
    consul.does("PUT", "/v1/agent/check/fail/1", "");
    served_by(entry, &["second"]);
    consul.does("PUT", "/v1/agent/check/pass/1", "");
    served_by(entry, &["first", "second"]);
    assert_eq!(status(&machine, "consul")["instancesNum"]["orders"], 2);

    consul.signal("STOP");
    status_says(&machine, "consul", "no answer within");
    assert_eq!(who(entry).len(), 2);
    consul.signal("CONT");
    status_says(&machine, "consul", "ready");
    consul.kill();
    status_says(&machine, "consul", "Consul at");
    assert_eq!(who(entry).len(), 2);
    // One of `-dev` remembers nothing.
    consul.run();
    eventually("its emptiness is held off", || {
        status(&machine, "consul")["held"]["orders"].as_str().map(str::to_owned)
    });
    assert_eq!(who(entry).len(), 2);
    register(&consul, "1", &first, &["v1"]);
    served_by(entry, &["first"]);
}

#[test]
fn servers_come_from_zookeeper() {
    let Some((java, classes)) = parts::zookeeper() else { return };
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let port = free_port();
    let (program, path) = (java.clone(), classes.clone());
    let mut zookeeper = Part::start(port, move |directory| {
        let mut command = Command::new(&program);
        command.args(["-Xmx128m", "-Dzookeeper.admin.enableServer=false", "-cp", &path]);
        command
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(port.to_string())
            .arg(directory.join("data"));
        command
    });
    let write = |words: &[&str]| {
        let mut command = Command::new(&java);
        command.args(["-cp", &classes, "org.apache.zookeeper.ZooKeeperMain", "-server", &format!("127.0.0.1:{port}")]);
        let done = command.args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let value = |backend: &Backend| json!({"address": "127.0.0.1", "port": backend.port}).to_string();
    let machine = Machine::start();
    let entry = free_port();
    machine.create(&format!(
        "kind: ZookeeperServiceRegistry\nname: zk\nzkservices: ['127.0.0.1:{port}']\nprefix: /shop\nconntimeout: 1s\n\
         syncInterval: 300ms\nemptyAfter: 1s\n"
    ));
    machine.create(&following("zk", "orders", &fallback));
    machine.create(&server("hs", entry, "pl"));
    answers(entry, "/", 200);
    status_says(&machine, "zk", "there is no node \"/shop\"");
    served_by(entry, &["fallback"]);
    write(&["create", "/shop", ""]);
    status_says(&machine, "zk", "ready");
    write(&["create", "/shop/orders", ""]);
    write(&["create", "/shop/orders/1", &value(&first)]);
    served_by(entry, &["first"]);
    write(&["create", "/shop/orders/2", &value(&second)]);
    served_by(entry, &["first", "second"]);
    assert_eq!(status(&machine, "zk")["serviceInstancesNum"]["orders"], 2);
    write(&["set", "/shop/orders/1", &value(&second)]);
    served_by(entry, &["second"]);

    zookeeper.signal("STOP");
    status_says(&machine, "zk", "no answer within");
    assert_eq!(who(entry), BTreeSet::from(["second".to_owned()]));
    zookeeper.signal("CONT");
    status_says(&machine, "zk", "ready");
    zookeeper.kill();
    status_says(&machine, "zk", "ZooKeeper at");
    zookeeper.run();
    status_says(&machine, "zk", "ready");
    write(&["deleteall", "/shop/orders"]);
    // Not before `emptyAfter`.
    served_by(entry, &["fallback"]);
}

/// Netflix's own server, as Spring Cloud has it.
#[test]
fn servers_come_from_eureka() {
    let Some((java, classes, main)) = parts::eureka() else { return };
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let port = free_port();
    let mut eureka = Part::start(port, move |directory| {
        let mut command = Command::new(&java);
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &classes]).arg(&main).current_dir(directory);
        for (name, value) in [
            ("server.address", "127.0.0.1"),
            ("server.port", port.to_string().as_str()),
            ("eureka.client.register-with-eureka", "false"),
            ("eureka.client.fetch-registry", "false"),
            ("eureka.server.enable-self-preservation", "false"),
            ("eureka.server.response-cache-update-interval-ms", "200"),
            ("eureka.server.wait-time-in-ms-when-sync-empty", "0"),
        ] {
            command.arg(format!("--{name}={value}"));
        }
        command
    });
    let register = |eureka: &Part, id: &str, backend: &Backend, status: &str| {
        let ports = (json!({"$": backend.port, "@enabled": "true"}), json!({"$": 443, "@enabled": "false"}));
        let center = json!({"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"});
        let instance = json!({"instanceId": id, "hostName": "127.0.0.1", "app": "ORDERS", "ipAddr": "127.0.0.1", "status": status,
                              "port": ports.0, "securePort": ports.1, "dataCenterInfo": center});
        let body = json!({"instance": instance}).to_string();
        eventually("Eureka takes an instance", || {
            eureka.ask("POST", "/eureka/apps/ORDERS", &body).is_some_and(|answer| answer.status == 204).then_some(())
        });
    };
    let machine = Machine::start();
    let entry = free_port();
    machine.create(&format!(
        "kind: EurekaServiceRegistry\nname: eureka\nendpoints: ['http://127.0.0.1:{port}/eureka']\nsyncInterval: 200ms\n"
    ));
    machine.create(&following("eureka", "orders", &fallback));
    machine.create(&server("hs", entry, "pl"));
    answers(entry, "/", 200);
    served_by(entry, &["fallback"]);
    register(&eureka, "1", &first, "UP");
    served_by(entry, &["first"]);
    register(&eureka, "2", &second, "UP");
    served_by(entry, &["first", "second"]);
    assert_eq!(status(&machine, "eureka")["instancesNum"]["orders"], 2);
    // One that says that it is going, and one that is taken out by whoever operates it.
    register(&eureka, "1", &first, "DOWN");
    served_by(entry, &["second"]);
    register(&eureka, "1", &first, "UP");
    eureka.does("PUT", "/eureka/apps/ORDERS/2/status?value=OUT_OF_SERVICE", "");
    served_by(entry, &["first"]);
    eureka.does("DELETE", "/eureka/apps/ORDERS/2", "");
    status_says(&machine, "eureka", "ready");
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));

    eureka.signal("STOP");
    status_says(&machine, "eureka", "no answer within");
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    eureka.signal("CONT");
    status_says(&machine, "eureka", "ready");
    eureka.kill();
    status_says(&machine, "eureka", "Eureka at");
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    // It has forgotten everything, which is not believed at once; then one comes.
    eureka.run();
    eventually("its emptiness is held off", || {
        status(&machine, "eureka")["held"]["orders"].as_str().map(str::to_owned)
    });
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    register(&eureka, "2", &second, "UP");
    served_by(entry, &["second"]);
}

/// Alibaba's own server, without the part that logins are of. It has several ports, and a network for itself.
#[test]
fn servers_come_from_nacos() {
    let Some((java, classes, main)) = parts::nacos() else { return };
    if !in_a_network_of("registries::servers_come_from_nacos", 0) {
        return;
    }
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let mut nacos = Part::start(8848, move |directory| {
        let mut command = Command::new(&java);
        command.args([
            "-Xmx256m",
            "-XX:TieredStopAtLevel=1",
            "-Dnacos.standalone=true",
            "-Dnacos.core.auth.enabled=false",
        ]);
        command.args(["-Dnacos.inetutils.ip-address=127.0.0.1", &format!("-Dnacos.home={}", directory.display())]);
        command.args(["-cp", &classes]).arg(&main).arg("--server.address=127.0.0.1").current_dir(directory);
        command
    });
    // Nobody sends heartbeats for them here: they are taken for well for as long as the test may last.
    let lasts = "%22preserved.heart.beat.timeout%22:%22900000%22,%22preserved.ip.delete.timeout%22:%22900000%22";
    let does = |nacos: &Part, method: &str, backend: &Backend, more: &str| {
        let place = format!("serviceName=orders&ip=127.0.0.1&port={}&ephemeral=true", backend.port);
        nacos.does(method, &format!("/nacos/v1/ns/instance?{place}&metadata=%7B{lasts}%7D{more}"), "");
    };
    let machine = Machine::start();
    let entry = free_port();
    machine.create(
        "kind: NacosServiceRegistry\nname: nacos\nsyncInterval: 200ms\nservers: [{scheme: http, contextPath: /nacos, ipAddr: 127.0.0.1, port: 8848}]\n",
    );
    machine.create(&following("nacos", "orders", &fallback));
    machine.create(&server("hs", entry, "pl"));
    answers(entry, "/", 200);
    served_by(entry, &["fallback"]);
    does(&nacos, "POST", &first, "");
    served_by(entry, &["first"]);
    does(&nacos, "POST", &second, "&weight=2");
    served_by(entry, &["first", "second"]);
    assert_eq!(status(&machine, "nacos")["instancesNum"]["orders"], 2);
    // One that is taken out, comes back, and another that goes.
    does(&nacos, "POST", &first, "&enabled=false");
    served_by(entry, &["second"]);
    does(&nacos, "POST", &first, "&enabled=true");
    served_by(entry, &["first", "second"]);
    does(&nacos, "DELETE", &second, "");
    served_by(entry, &["first"]);
    status_says(&machine, "nacos", "ready");

    nacos.signal("STOP");
    status_says(&machine, "nacos", "no answer within");
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    nacos.signal("CONT");
    status_says(&machine, "nacos", "ready");
    nacos.kill();
    status_says(&machine, "nacos", "Nacos at");
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    // It has forgotten everything, which is not believed at once; then one comes.
    nacos.run();
    eventually("its emptiness is held off", || status(&machine, "nacos")["held"]["orders"].as_str().map(str::to_owned));
    assert_eq!(who(entry), BTreeSet::from(["first".to_owned()]));
    does(&nacos, "POST", &second, "");
    served_by(entry, &["second"]);
}

/// What Eureka's server says, and what it says by mistake: everything, and what has changed.
#[test]
fn servers_come_from_eureka_as_recorded() {
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let instance = |backend: &Backend, status: &str, action: &str| {
        json!({"instanceId": format!("host:orders:{}", backend.port), "hostName": "127.0.0.1", "app": "ORDERS", "ipAddr": "127.0.0.1",
               "status": status, "overriddenStatus": "UNKNOWN", "port": {"$": backend.port, "@enabled": "true"},
               "securePort": {"$": 443, "@enabled": "false"}, "actionType": action})
    };
    let answer = |instances: Vec<Value>, hash: &str| {
        json!({"applications": {"versions__delta": "1", "apps__hashcode": hash,
                                "application": [{"name": "ORDERS", "instance": instances}]}})
        .to_string()
    };
    let says: Arc<Mutex<[String; 2]>> = Arc::default();
    let say = |whole: String, delta: String| *says.lock().unwrap() = [whole, delta];
    say(answer(vec![instance(&first, "UP", "ADDED")], "UP_1_"), answer(vec![], "UP_1_"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let (told, asked) = (says.clone(), Arc::<Mutex<Vec<String>>>::default());
    let seen = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (told, seen) = (told.clone(), seen.clone());
            thread::spawn(move || {
                let mut stream = stream;
                let mut read = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut read) {
                    let head = String::from_utf8_lossy(&read[..count]).into_owned();
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    let body = told.lock().unwrap()[usize::from(line.contains("/delta"))].clone();
                    seen.lock().unwrap().push(line);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    if stream.write_all((head + &body).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let machine = Machine::start();
    let port = free_port();
    machine.create(&format!(
        "kind: EurekaServiceRegistry\nname: eureka\nendpoints: ['http://{place}/eureka']\nsyncInterval: 200ms\nemptyAfter: 1h\n"
    ));
    machine.create(&following("eureka", "orders", &fallback));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    served_by(port, &["first"]);
    // Two servers by a delta, whose hash code is right.
    say(String::new(), answer(vec![instance(&second, "UP", "ADDED")], "UP_2_"));
    served_by(port, &["first", "second"]);
    // A delta that something is missing of: everything is asked for anew.
    let whole = answer(vec![instance(&first, "DOWN", "MODIFIED"), instance(&second, "UP", "ADDED")], "DOWN_1_UP_1_");
    say(whole, answer(vec![instance(&second, "UP", "ADDED")], "DOWN_1_UP_1_"));
    served_by(port, &["second"]);
    // Everything, of which a part is missing.
    say(answer(vec![instance(&first, "UP", "ADDED")], "UP_2_"), answer(vec![], "UP_2_"));
    status_says(&machine, "eureka", "its hash code says \"UP_2_\"");
    assert_eq!(who(port), BTreeSet::from(["second".to_owned()]));
    say("<html>login</html>".into(), "<html>login</html>".into());
    status_says(&machine, "eureka", "a page");
    assert_eq!(who(port), BTreeSet::from(["second".to_owned()]));
    let asked = asked.lock().unwrap().clone();
    assert!(
        asked[0].starts_with("GET /eureka/apps HTTP") && asked[1].starts_with("GET /eureka/apps/delta"),
        "{asked:?}"
    );
}

/// Where registries are while [`packets_are_lost`].
const NAMESPACE: &str = "n0";

fn inside(program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", NAMESPACE]).arg(program);
    command
}

/// All packets between the two sides are lost, both ways and without a word to either, as where a switch between them has failed.
fn packets_are_lost(lost: bool) {
    for (side, device, other) in [(&[][..], "br0", ADDRESSES[0]), (&["-n", NAMESPACE], "eth0", "10.77.0.254")] {
        // Nobody has this address of a link.
        let nobody = ["neigh", "replace", other, "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", device];
        let words = if lost { &nobody[..] } else { &["neigh", "del", other, "dev", device] };
        assert!(Command::new("ip").args(side).args(words).status().unwrap().success(), "{words:?}");
    }
}

/// Asks a registry from where it is.
fn ask_inside(port: u16, method: &str, path: &str, body: &str) {
    let request = format!("{method} {path} HTTP/1.0\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let talk = format!("exec 3<>/dev/tcp/{}/{port} && printf %s \"$1\" >&3 && cat <&3", ADDRESSES[0]);
    let answer = inside(Path::new("bash")).args(["-c", &talk, "bash", &request]).output().unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.lines().next().is_some_and(|line| line.contains(" 200")), "{method} {path}: {answer}");
}

/// One that is followed through a network.
struct Followed {
    name: &'static str,
    /// All of its object but the kind and the name.
    fields: String,
    /// Of the pipeline's server.
    entry: u16,
    /// Says that a backend is the only server of the service.
    tell: Box<dyn Fn(&Backend)>,
    /// It runs for as long as this is held.
    _part: Part,
}

/// The network between a machine and its registries loses everything: traffic goes on, each status says that nobody answers, and what has
/// changed meanwhile holds once packets come through again.
#[test]
fn registries_that_the_network_cuts_off_are_followed_again() {
    // In there nothing can be taken from anywhere.
    let (etcd, consul, zookeeper) = (parts::etcd(), parts::consul(), parts::zookeeper());
    if !in_a_network_of("registries::registries_that_the_network_cuts_off_are_followed_again", 1) {
        return;
    }
    let host = ADDRESSES[0];
    let record = |backend: &Backend| json!({"address": "127.0.0.1", "port": backend.port}).to_string();
    let mut all: Vec<(&str, Followed)> = Vec::new();
    if let Some(program) = etcd {
        let (port, peers) = (free_port(), free_port());
        let part = Part::start_at(host, port, move |directory| {
            let (clients, peers) = (format!("http://{host}:{port}"), format!("http://127.0.0.1:{peers}"));
            let mut command = inside(&program);
            command.args(["--data-dir", directory.join("data").to_str().unwrap(), "--unsafe-no-fsync"]);
            command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &format!("default={peers}")]);
            command
        });
        let tell = move |backend: &Backend| {
            let body = json!({"key": base64("/shop/orders/1"), "value": base64(&record(backend))});
            ask_inside(port, "POST", "/v3/kv/put", &body.to_string());
        };
        let fields = format!("endpoints: ['{host}:{port}']\nprefix: /shop/\ncacheTimeout: 300ms\n");
        let entry = free_port();
        all.push(("EtcdServiceRegistry", Followed { name: "etcd", fields, entry, tell: Box::new(tell), _part: part }));
    }
    if let Some(program) = consul {
        let port = free_port();
        let part = Part::start_at(host, port, move |directory| {
            let mut command = inside(&program);
            command.args(["agent", "-dev", "-bind", "127.0.0.1", "-client", host, "-http-port", &port.to_string()]);
            command.args(["-dns-port", "-1", "-grpc-port", "-1", "-serf-wan-port", "-1"]).current_dir(directory);
            command
        });
        let tell = move |backend: &Backend| {
            let body = json!({"ID": "1", "Name": "orders", "Address": "127.0.0.1", "Port": backend.port});
            ask_inside(port, "PUT", "/v1/agent/service/register", &body.to_string());
        };
        let fields = format!("address: {host}:{port}\nsyncInterval: 2s\n");
        let entry = free_port();
        all.push((
            "ConsulServiceRegistry",
            Followed { name: "consul", fields, entry, tell: Box::new(tell), _part: part },
        ));
    }
    if let Some((java, classes)) = zookeeper {
        let port = free_port();
        let (program, path) = (java.clone(), classes.clone());
        let part = Part::start_at(host, port, move |directory| {
            let mut command = inside(&program);
            command.args(["-Xmx128m", "-Dzookeeper.admin.enableServer=false", "-cp", &path]);
            command.arg("org.apache.zookeeper.server.ZooKeeperServerMain").arg(port.to_string());
            command.arg(directory.join("data"));
            command
        });
        let tell = move |backend: &Backend| {
            let words = |words: &[&str]| {
                let mut command = inside(&java);
                command.args(["-cp", &classes, "org.apache.zookeeper.ZooKeeperMain", "-server"]);
                let done = command.arg(format!("{host}:{port}")).args(words).output().unwrap();
                done.status.success()
            };
            // What is there already is left as it is, and set.
            let told = record(backend);
            let made = [["create", "/shop", ""], ["create", "/shop/orders", ""], ["create", "/shop/orders/1", &told]];
            let is_new = made.iter().map(|of| words(of)).collect::<Vec<_>>()[2];
            assert!(is_new || words(&["set", "/shop/orders/1", &told]), "ZooKeeper takes {told}");
        };
        let fields = format!("zkservices: ['{host}:{port}']\nprefix: /shop\nconntimeout: 1s\nsyncInterval: 300ms\n");
        let entry = free_port();
        all.push((
            "ZookeeperServiceRegistry",
            Followed { name: "zk", fields, entry, tell: Box::new(tell), _part: part },
        ));
    }
    if all.is_empty() {
        println!("skipped: there is no registry to follow");
        return;
    }
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let machine = Machine::start();
    for (kind, Followed { name, fields, entry, tell, .. }) in &all {
        tell(&first);
        machine.create(&format!("kind: {kind}\nname: {name}\n{fields}"));
        machine.create(&format!(
            "kind: Pipeline\nname: pl-{name}\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - serviceRegistry: {name}\n    \
             serviceName: orders\n"
        ));
        machine.create(&server(&format!("hs-{name}"), *entry, &format!("pl-{name}")));
        served_by(*entry, &["first"]);
        status_says(&machine, name, "ready");
    }
    packets_are_lost(true);
    for (_, Followed { name, entry, tell, .. }) in &all {
        tell(&second);
        eventually(&format!("{name} is not well"), || (status(&machine, name)["health"] != "ready").then_some(()));
        assert_eq!(who(*entry), BTreeSet::from(["first".to_owned()]), "{name}");
        assert_eq!(status(&machine, name)["instancesNum"]["orders"], 1, "{name}");
    }
    packets_are_lost(false);
    for (_, Followed { name, entry, .. }) in &all {
        served_by(*entry, &["second"]);
        status_says(&machine, name, "ready");
    }
}

/// The machine's clock goes forward by a year and back by two: nothing that is known becomes old for it, what changes is followed, and what
/// serves serves on.
#[test]
fn a_clock_that_jumps_makes_nothing_old() {
    let Some(program) = parts::etcd() else { return };
    let Some(library) = parts::faketime() else { return };
    let (first, second, fallback) = (Backend::start("first"), Backend::start("second"), Backend::start("fallback"));
    let etcd = etcd_at(program);
    let clock = tempfile::NamedTempFile::new().unwrap();
    let says = |offset: &str| fs::write(clock.path(), offset).unwrap();
    says("+0");
    let machine = Machine::new("m")
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("FAKETIME_TIMESTAMP_FILE", clock.path().to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        // Time passes as it does: it is the date that is set.
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut machine = machine;
    machine.run();
    let port = free_port();
    machine.create(&format!(
        "kind: EtcdServiceRegistry\nname: etcd\nendpoints: ['127.0.0.1:{}']\nprefix: /shop/\ncacheTimeout: 300ms\n",
        etcd.port
    ));
    machine.create(&following("etcd", "orders", &fallback));
    machine.create(&server("hs", port, "pl"));
    etcd.etcd_put("/shop/orders/1", &instance("1", &first));
    served_by(port, &["first"]);
    let good = || status(&machine, "etcd")["lastGood"].as_str().unwrap_or_default().to_owned();
    let years: Vec<i32> = [("+365d", &second), ("-365d", &first)]
        .into_iter()
        .map(|(offset, next)| {
            etcd.signal("STOP");
            says(offset);
            let age = || machine.metric("weir_registry_last_good_age_seconds");
            let aged = eventually("it grows older as time passes", || age().filter(|age| *age > 0.2));
            assert!(aged < 3600.0, "{offset}: the registry was well {aged} seconds ago");
            assert_eq!(who(port).len(), 1, "{offset}");
            etcd.signal("CONT");
            etcd.etcd_put("/shop/orders/1", &instance("1", next));
            served_by(port, &[if offset.starts_with('+') { "second" } else { "first" }]);
            assert_eq!(status(&machine, "etcd")["instancesNum"]["orders"], 1);
            let before = good();
            eventually("it is well again", || (good() != before && !good().is_empty()).then_some(()));
            good()[..4].parse().unwrap()
        })
        .collect();
    assert!(years[0] - years[1] >= 1, "the clock has jumped: {years:?}");
}

#[test]
fn another_leader_watches_on_where_one_hangs() {
    let Some(program) = parts::etcd() else { return };
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let etcd = etcd_at(program);
    let machines = ["m1", "m2", "m3"].map(Machine::new);
    let members: Vec<String> = machines.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let mut machines = machines.map(|machine| machine.flags(["--initial-cluster", &members.join(",")]));
    machines.iter_mut().for_each(Machine::spawn);
    for machine in &machines {
        eventually(&format!("{} is ready", machine.name), || {
            machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|answer| answer.status == 200).then_some(())
        });
    }
    machines[0].create(&format!(
        "kind: EtcdServiceRegistry\nname: etcd\nendpoints: ['127.0.0.1:{}']\nprefix: /shop/\ncacheTimeout: 300ms\n",
        etcd.port
    ));
    machines[0].create(&following("etcd", "orders", &first));
    etcd.etcd_put("/shop/orders/1", &instance("1", &first));
    // The one whose controller knows so many instances, and nobody else knows any.
    let watcher = |asked: &Machine, instances: u64| {
        let all = asked.json("/status/objects/etcd");
        let all = all.as_object()?;
        let [(place, shown)] = all.iter().collect::<Vec<_>>()[..] else { return None };
        (shown["status"]["instancesNum"]["orders"] == instances)
            .then(|| place.trim_start_matches("default/etcd/").to_owned())
    };
    let leader = eventually("one member watches", || watcher(&machines[0], 1));
    let hung = machines.iter().position(|machine| machine.name == leader).unwrap();
    let other = &machines[(hung + 1) % 3];
    machines[hung].signal("STOP");
    let next = eventually("another goes on", || watcher(other, 1).filter(|name| *name != leader));
    etcd.etcd_put("/shop/orders/2", &instance("2", &second));
    eventually("with what is new", || watcher(other, 2));
    machines[hung].signal("CONT");
    eventually("the one before hears of it and keeps out", || {
        let answer = machines[hung].try_api("GET", "/apis/v2/healthz", "").ok()?;
        (answer.status == 200 && watcher(&machines[hung], 2)? == next).then_some(())
    });
}
