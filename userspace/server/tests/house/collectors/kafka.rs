//! Apache Kafka: as it is, and within TLS with users.

use super::{Guarded, STARTS, TRACE, ask, logged, numbers, on_disk, signal, start, until_told};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Connection, Machine, eventually, free_port, get, server, within};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A broker of Kafka's own, alone, in a directory.
struct Kafka {
    java: PathBuf,
    jars: String,
    directory: tempfile::TempDir,
    /// For everybody; for whom it knows by a certificate; for whom it knows by a password.
    open: u16,
    named: u16,
    users: u16,
}

impl Kafka {
    fn new(guarded: Option<&Guarded>) -> Option<Kafka> {
        let (java, jars) = parts::kafka()?;
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display().to_string();
        let [open, named, users, controller] = [(); 4].map(|()| free_port());
        let mut listeners = vec![("OPEN", "PLAINTEXT", open), ("CONTROLLER", "PLAINTEXT", controller)];
        let mut more = String::new();
        if let Some(guarded) = guarded {
            guarded.write(directory.path());
            let both = ["key", "cert"].map(|name| fs::read_to_string(format!("{at}/{name}.pem")).unwrap());
            fs::write(format!("{at}/own.pem"), both.concat()).unwrap();
            listeners.extend([("NAMED", "SSL", named), ("USERS", "SASL_SSL", users)]);
            more = format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={at}/own.pem\nssl.truststore.type=PEM\n\
                 ssl.truststore.location={at}/ca.pem\nlistener.name.named.ssl.client.auth=required\n\
                 sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
                 user_edge=\"secret-1\";\n"
            );
            for scram in ["256", "512"] {
                more += &format!(
                    "listener.name.users.scram-sha-{scram}.sasl.jaas.config=\
                     org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
                );
            }
        }
        let each = |show: &dyn Fn(&str, &str, u16) -> String, all: &[(&str, &str, u16)]| {
            all.iter().map(|(name, kind, port)| show(name, kind, *port)).collect::<Vec<_>>().join(",")
        };
        let place = |name: &str, _: &str, port: u16| format!("{name}://127.0.0.1:{port}");
        let told: Vec<_> = listeners.iter().copied().filter(|(name, ..)| *name != "CONTROLLER").collect();
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\nlisteners={}\n\
             advertised.listeners={}\nlistener.security.protocol.map={}\ninter.broker.listener.name=OPEN\n\
             controller.listener.names=CONTROLLER\nlog.dirs={at}/data\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\nnum.partitions=1\nauto.create.topics.enable=true\nlog.index.size.max.bytes=65536\n{more}",
            each(&place, &listeners),
            each(&place, &told),
            each(&|name, kind, _| format!("{name}:{kind}"), &listeners),
        );
        fs::write(directory.path().join("conf"), text).unwrap();
        let kafka = Kafka { java, jars, directory, open, named, users };
        let mut command = kafka.runs("kafka.tools.StorageTool");
        command.args(["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"]).arg(kafka.directory.path().join("conf"));
        for scram in ["SCRAM-SHA-256=[name=edge,password=secret-2]", "SCRAM-SHA-512=[name=edge,password=secret-3]"] {
            command.args(["--add-scram", scram]);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        Some(kafka)
    }

    fn runs(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &self.jars, class]);
        command.current_dir(self.directory.path());
        command
    }

    fn start(&self) -> Leashed {
        start(self.runs("kafka.Kafka").arg(self.directory.path().join("conf")), &self.directory.path().join("out"))
    }

    /// What is in its files of a topic that has one partition, which are not packed.
    fn holds(&self, topic: &str) -> String {
        let folder = self.directory.path().join("data").join(format!("{topic}-0"));
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
        files.sort();
        let text: Vec<u8> = files.iter().filter_map(|path| fs::read(path).ok()).flatten().collect();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until these topics have so many lines, which are then in their order.
    fn has(&self, machine: &Machine, topics: &[&str], count: usize) {
        let said = || fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
        for topic in topics {
            let lines = || numbers(&self.holds(topic), "GET /n-");
            let there = within(STARTS, || (lines().len() >= count).then_some(()));
            assert!(there.is_some(), "{topic}: {:?}\n{}\n{}", lines(), machine.log(), said());
            assert_eq!(lines(), (0..count).collect::<Vec<_>>(), "{topic}: in their order");
        }
    }
}

/// Nobody is there, and the daemon is killed; then Kafka is, hangs, is killed with what it was sent, and is there again.
fn away_hangs_and_killed(kafka: &Kafka, machine: &mut Machine, shop: u16, topics: &[&str]) -> Leashed {
    ask(shop, TRACE, 0..20);
    on_disk(machine, 20);
    machine.kill();
    machine.run();
    let running = kafka.start();
    kafka.has(machine, topics, 20);
    eventually("it serves again", || get(shop, "/up").ok());
    // It hangs for a while.
    signal(&running, "STOP");
    ask(shop, TRACE, 20..40);
    on_disk(machine, 20);
    signal(&running, "CONT");
    kafka.has(machine, topics, 40);
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    ask(shop, TRACE, 40..60);
    drop(running);
    let running = kafka.start();
    ask(shop, TRACE, 60..80);
    kafka.has(machine, topics, 80);
    running
}

#[test]
fn kafka_takes_lines_also_those_it_was_killed_with() {
    let Some(kafka) = Kafka::new(None) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let sink = json!({"kafka": {"brokers": [format!("127.0.0.1:{}", kafka.open)], "topic": "lines"}});
    let shop = logged(&machine, &[("log", sink)]);
    drop(away_hangs_and_killed(&kafka, &mut machine, shop, &["lines"]));
}

/// Brokers take lines of whom they know, by a certificate or by a password, and the others are told why not.
#[test]
fn kafka_takes_lines_within_tls_of_certificates_and_users_it_knows() {
    let guarded = Guarded::new();
    let Some(kafka) = Kafka::new(Some(&guarded)) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let [known, unnamed, careful, strange] = guarded.mtls();
    let sink = |name: &str, port: u16, mtls: &Value, user: Option<(&str, &str)>| {
        let mut sink = json!({"brokers": [format!("127.0.0.1:{port}")], "topic": name});
        if !mtls.is_null() {
            sink["mtls"] = mtls.clone();
        }
        if let Some((mechanism, password)) = user {
            sink["sasl"] = json!({"mechanism": mechanism, "username": "edge", "password": password});
        }
        json!({"kafka": sink})
    };
    let (named, users) = (kafka.named, kafka.users);
    let good: &[(&str, Value)] = &[
        ("named", sink("named", named, &known, None)),
        ("plain", sink("plain", users, &unnamed, Some(("PLAIN", "secret-1")))),
        ("scram-256", sink("scram-256", users, &unnamed, Some(("SCRAM-SHA-256", "secret-2")))),
        ("scram-512", sink("scram-512", users, &unnamed, Some(("SCRAM-SHA-512", "secret-3")))),
    ];
    let bad: &[(&str, Value, &str)] = &[
        ("unnamed", sink("unnamed", named, &unnamed, None), "ertificate"),
        ("strange", sink("strange", named, &strange, None), "ertificate"),
        ("careful", sink("careful", named, &careful, None), "not signed by any of the authorities"),
        (
            "forgetful",
            sink("forgetful", users, &unnamed, Some(("SCRAM-SHA-512", "secret-2"))),
            "its password is not right",
        ),
        ("mistaken", sink("mistaken", users, &unnamed, Some(("PLAIN", "secret-3"))), "its password is not right"),
        ("nobody", sink("nobody", users, &unnamed, None), "it may want TLS (mtls), a user (sasl)"),
        ("open", sink("open", named, &Value::Null, None), "it may want TLS (mtls), a user (sasl)"),
    ];
    let mut sinks: Vec<(&str, Value)> = good.to_vec();
    sinks.extend(bad.iter().map(|(name, sink, _)| (*name, sink.clone())));
    let shop = logged(&machine, &sinks);
    let topics: Vec<&str> = good.iter().map(|(name, _)| *name).collect();
    let _running = away_hangs_and_killed(&kafka, &mut machine, shop, &topics);
    for (name, _, why) in bad {
        until_told(&machine, name, why);
        assert_eq!(kafka.holds(name), "", "{name}");
    }
    // The filter that hands over bodies speaks to them alike.
    let posted = |password: &str| {
        let broker = format!("127.0.0.1:{users}");
        let sasl = json!({"username": "edge", "password": password});
        let filter = json!({
            "name": "k", "kind": "Kafka", "backend": [broker], "topic": {"default": "events"}, "sync": true, "mtls": unnamed, "sasl": sasl,
        });
        let (name, port) = (format!("with-{password}"), free_port());
        machine.create(&json!({"kind": "Pipeline", "name": name, "filters": [filter]}).to_string());
        machine.create(&server(&format!("web-{password}"), port, &name));
        eventually("it answers", || {
            Connection::open(&format!("127.0.0.1:{port}")).and_then(|mut c| c.request("POST", "/", &[], "a body")).ok()
        })
    };
    let refused = posted("secret-2");
    assert_eq!(refused.status, 500);
    assert!(refused.body.contains("its password is not right"), "{}", refused.body);
    assert_eq!(posted("secret-3").status, 200);
    assert!(kafka.holds("events").contains("a body"));
    let shown = machine.api("GET", "/objects", "").body + &machine.log();
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("\"secret-"), "{shown}");
}
