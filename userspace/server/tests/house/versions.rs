//! Members of two versions in one cluster: a fleet is upgraded machine by machine under traffic, and what an older version can be gone
//! back to until the last of them.
//!
//! The version before is the program that `WEIR_PREVIOUS` names, which `cargo xtask test-upgrade` builds from an earlier commit. Where
//! nobody names one it is the program that was built, held by `--feature-level` at the level before the last two that moved what is
//! kept: the rules of the log, of the state and of what members tell each other are then those of that level, and what else the older
//! program did otherwise is not seen.

use crate::cluster::{ADDRESSES, in_a_network, three_of};
use crate::kube::Kube;
use crate::world::{Backend, Connection, Machine, eventually, free_port, proxy, server};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[test]
fn a_fleet_is_upgraded_machine_by_machine() {
    if !in_a_network("versions::a_fleet_is_upgraded_machine_by_machine") {
        return;
    }
    let before = Version::before();
    let kube = Kube::at(HOST);
    let (first, second) = (Backend::at(HOST, "first"), Backend::at(HOST, "second"));
    kube.put(service());
    kube.put(slice(&first));
    kube.put(ingress("shop", "shop.test"));
    let mut machines = three_of(|mut machine| {
        machine.becomes(&before.program, &before.environment());
        machine
    });
    let (port, ingresses) = (free_port(), free_port());
    machines[0].create(&proxy("pl", &[format!("http://{HOST}:{}", first.port)]));
    machines[1].create(&server("hs", port, "pl"));
    machines[2].create(&format!(
        "kind: IngressController\nname: ing\nmasterURL: {}\nhttpServer: {{port: {ingresses}}}\n",
        kube.url()
    ));
    for at in ADDRESSES {
        served(at, port, "any.test", "first");
        served(at, ingresses, "shop.test", "first");
    }
    let old = level(&machines[0]);
    println!("the fleet is of level {old}");

    let clients: Vec<Clients> = ADDRESSES.iter().map(|at| Clients::start(at, port, ingresses)).collect();
    // Who leads goes last, but for one that is gone back with in between.
    let leader = eventually("somebody leads", || {
        machines.iter().position(|machine| machine.metric("weir_raft_is_leader") == Some(1.0))
    });
    let order = [(leader + 1) % 3, (leader + 2) % 3, leader];
    let now = Version::now();
    for (turn, n) in order.into_iter().enumerate() {
        change(&mut machines[n], &now, &clients[n]);
        write_everywhere(&machines, &format!("turn-{turn}"));
        if turn == 0 {
            change(&mut machines[n], &before, &clients[n]);
            write_everywhere(&machines, "back");
            change(&mut machines[n], &now, &clients[n]);
        }
        if turn < 2 {
            assert!(machines.iter().all(|machine| level(machine) == old), "it rises with the last one");
        }
        let host = ["turn-0.test", "turn-1.test", "turn-2.test"][turn];
        kube.put(ingress(&format!("turn-{turn}"), host));
        for at in ADDRESSES {
            served(at, ingresses, host, "first");
        }
    }
    let new = eventually("the level is that of the last version on all", || {
        let levels: Vec<u32> = machines.iter().map(level).collect();
        (levels[0] == control_raft::LEVEL && levels.iter().all(|level| *level == levels[0])).then_some(levels[0])
    });
    // What the controller makes is in a namespace of its own, and follows what it observes.
    for machine in &machines {
        eventually("what is made has moved", || {
            let answer = machine.try_api("GET", "/apis/v2/objects?all-namespaces=true", "").ok()?;
            let all: Value = serde_json::from_str(&answer.body).ok()?;
            let names = |space: &str| -> Vec<String> {
                let documents = all[space].as_array().into_iter().flatten();
                documents.map(|document| document["name"].as_str().unwrap_or_default().to_owned()).collect()
            };
            let (own, made) = (names("default"), names("ingresscontroller/ing"));
            (made.contains(&"ing.http".to_owned()) && !own.iter().any(|name| name.starts_with("ing."))).then_some(())
        });
        assert_eq!(machine.metric("weir_raft_state_divergence_members"), Some(0.0), "{}", machine.name);
    }
    kube.put(slice(&second));
    for at in ADDRESSES {
        served(at, ingresses, "shop.test", "second");
        served(at, port, "any.test", "first");
    }
    write_everywhere(&machines, "done");
    for (at, clients) in ADDRESSES.iter().zip(clients) {
        let [plain, made] = clients.end();
        println!("{at}: {plain:?} of people's server, {made:?} of the controller's");
        assert!(plain.answered > 50 && made.answered > 50, "{at}: {plain:?} {made:?}");
        assert_eq!(plain.failed, Vec::<String>::new(), "{at}: what people wrote is served all the time");
        // Its servers are opened anew, once: who connects in that moment is refused, or reset where nobody had accepted it yet.
        let lost = |why: &&String| !why.contains("refused") && !why.contains("reset");
        assert_eq!(made.failed.iter().find(lost), None, "{at}: what the controller made");
    }
    if new > old {
        // There is no way back from here, and the one that is taken back says so.
        machines[0].kill();
        machines[0].becomes(&before.program, &before.environment());
        machines[0].spawn();
        eventually("it says why it takes no part", || machines[0].said().contains("newer weir").then_some(()));
        machines[0].becomes(&now.program, &[]);
        machines[0].run();
        write_everywhere(&machines, "again");
    }
}

/// A program, and as what it takes part.
struct Version {
    program: PathBuf,
    held_at: Option<String>,
}

impl Version {
    fn now() -> Version {
        Version { program: crate::world::WEIR.into(), held_at: None }
    }

    fn before() -> Version {
        match std::env::var_os("WEIR_PREVIOUS") {
            Some(program) => Version { program: program.into(), held_at: None },
            None => Version { held_at: Some(BEFORE.to_string()), ..Version::now() },
        }
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.held_at.iter().map(|level| ("WEIR_FEATURE_LEVEL", level.as_str())).collect()
    }
}

/// One machine is stopped as an operator stops it, and started again as another version.
fn change(machine: &mut Machine, to: &Version, clients: &Clients) {
    clients.away.store(true, Ordering::SeqCst);
    clients.wait_for_what_is_under_way();
    machine.signal("TERM");
    assert_eq!(machine.ended().code(), Some(0), "{}", machine.log());
    machine.becomes(&to.program, &to.environment());
    machine.run();
    eventually("it is up, and its edge serves what the cluster has", || {
        let members: Value =
            serde_json::from_str(&machine.try_api("GET", "/apis/v2/status/members", "").ok()?.body).ok()?;
        let members = members.as_array()?;
        let all = members.iter().all(|member| {
            let weir = &member["weir"];
            weir["up"] == true && weir["serves"]["version"].as_u64() == weir["configVersion"].as_u64()
        });
        (members.len() == 3 && all).then_some(())
    });
    clients.away.store(false, Ordering::SeqCst);
}

/// Every machine takes a change, and every machine has it.
fn write_everywhere(machines: &[Machine], name: &str) {
    for machine in machines {
        let name = format!("{name}-{}", machine.name);
        machine.create(&crate::world::mock(&name, "x"));
        for other in machines {
            eventually(&format!("{} has what {} was told", other.name, machine.name), || {
                (other.try_api("GET", &format!("/apis/v2/objects/{name}"), "").ok()?.status == 200).then_some(())
            });
        }
    }
}

fn level(machine: &Machine) -> u32 {
    eventually("it says its level", || machine.metric("weir_raft_feature_level")) as u32
}

fn ask(at: &str, port: u16, host: &'static str) -> std::io::Result<(u16, String)> {
    let mut connection = Connection::open(&format!("{at}:{port}"))?.asking(host);
    let answer = connection.request("GET", "/", &[], "")?;
    Ok((answer.status, answer.body))
}

fn served(at: &str, port: u16, host: &'static str, by: &str) {
    let mut last = None;
    eventually(&format!("{host} at {at}:{port} is answered by {by}"), || {
        last = ask(at, port, host).ok();
        last.as_ref().is_some_and(|(status, body)| *status == 200 && body.contains(by)).then_some(())
    });
}

/// Who asks one machine all the time, for what people wrote and for what the controller made.
struct Clients {
    /// The machine is being changed: whoever balances asks others.
    away: Arc<AtomicBool>,
    under_way: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Asked>>,
}

#[derive(Debug, Default)]
struct Asked {
    answered: usize,
    failed: Vec<String>,
}

impl Clients {
    fn start(at: &'static str, port: u16, ingresses: u16) -> Clients {
        let (away, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let under_way = Arc::new(AtomicUsize::new(0));
        let threads = [(port, "any.test"), (ingresses, "shop.test")].map(|(port, host)| {
            let (away, stop, under_way) = (away.clone(), stop.clone(), under_way.clone());
            thread::spawn(move || {
                let mut asked = Asked::default();
                while !stop.load(Ordering::SeqCst) {
                    under_way.fetch_add(1, Ordering::SeqCst);
                    if !away.load(Ordering::SeqCst) {
                        match ask(at, port, host) {
                            Ok((200, _)) => asked.answered += 1,
                            other => asked.failed.push(format!("{other:?}")),
                        }
                    }
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(5));
                }
                asked
            })
        });
        Clients { away, under_way, stop, threads: threads.into() }
    }

    fn wait_for_what_is_under_way(&self) {
        eventually("nobody asks it any more", || (self.under_way.load(Ordering::SeqCst) == 0).then_some(()));
    }

    fn end(self) -> [Asked; 2] {
        self.stop.store(true, Ordering::SeqCst);
        let asked: Vec<Asked> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        asked.try_into().unwrap()
    }
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
           "spec": {"ports": [{"name": "web", "port": 80}]}})
}

fn slice(backend: &Backend) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
           "ports": [{"name": "web", "port": backend.port}],
           "endpoints": [{"addresses": [HOST], "conditions": {"ready": true}}]})
}

fn ingress(name: &str, host: &str) -> Value {
    let path =
        json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"ingressClassName": "easegress", "rules": [{"host": host, "http": {"paths": [path]}}]}})
}

/// Where the machines find what is no machine.
const HOST: &str = "10.77.0.254";

/// The level before the two that moved what controllers make and changed what members that do not vote are told.
const BEFORE: u32 = 11;
