//! The Kafka filter beside a broker of the test's own, which speaks the protocol and goes away when it is told to, and beside Kafka's own.

use crate::parts;
use crate::registries::Part;
use crate::world::{Connection, Machine, eventually, free_port, program, server};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Topics and values by the order they came.
pub type Records = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// One broker with one partition of every topic; values by the order they came.
pub struct Broker {
    port: u16,
    records: Records,
    stop: Arc<AtomicBool>,
}

impl Broker {
    pub fn start(port: u16, records: &Records) -> Broker {
        let listener = eventually("the broker's port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
        let broker = Broker { port, records: records.clone(), stop: Arc::default() };
        let (records, stop) = (broker.records.clone(), broker.stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let (records, stop) = (records.clone(), stop.clone());
                thread::spawn(move || while serve(&stream, port, &records).is_ok() && !stop.load(Ordering::Acquire) {});
            }
        });
        broker
    }

    pub fn values(&self) -> Vec<String> {
        self.records.lock().unwrap().iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // For the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Reads from the front.
struct In<'a>(&'a [u8]);

impl In<'_> {
    fn take(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.i16().max(0) as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn varint(&mut self) -> i64 {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.take(1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return (value >> 1) as i64 ^ -((value & 1) as i64);
            }
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn serve(mut stream: &TcpStream, port: u16, records: &Records) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut request)?;
    let mut input = In(&request);
    let (api, version, correlation) = (input.i16(), input.i16(), input.i32());
    input.text();
    let int = |value: i32| value.to_be_bytes().to_vec();
    let mut answer: Vec<u8> = Vec::new();
    match (api, version) {
        (18, 0) => {
            answer.extend([0; 2]);
            answer.extend(int(2));
            // Metadata and Produce, as brokers of today have them.
            for (api, low, high) in [(3i16, 0i16, 13i16), (0, 3, 12)] {
                answer.extend([api, low, high].map(i16::to_be_bytes).concat());
            }
        }
        (3, 5) => {
            let count = input.i32();
            let topics: Vec<String> = (0..count).map(|_| input.text()).collect();
            answer.extend([int(0), int(1), int(7), text("127.0.0.1"), int(port.into())].concat());
            answer.extend((-1i16).to_be_bytes());
            answer.extend([text("cluster"), int(7), int(topics.len() as i32)].concat());
            for topic in topics {
                answer.extend([vec![0, 0], text(&topic), vec![0], int(1), vec![0, 0], int(0), int(7)].concat());
                answer.extend([int(1), int(7), int(1), int(7), int(0)].concat());
            }
        }
        (0, 7) => {
            assert_eq!(input.i16(), -1, "no transaction");
            assert_eq!(input.i16(), -1, "all replicas");
            input.i32();
            assert_eq!(input.i32(), 1);
            let topic = input.text();
            assert_eq!((input.i32(), input.i32()), (1, 0));
            let length = input.i32() as usize;
            let mut batch = In(input.take(length));
            batch.take(57);
            for _ in 0..batch.i32() {
                batch.varint();
                batch.take(1);
                batch.varint();
                batch.varint();
                let key = batch.varint();
                batch.take(key.max(0) as usize);
                let value = batch.varint() as usize;
                let value = batch.take(value).to_vec();
                assert_eq!(batch.varint(), 0, "no headers");
                records.lock().unwrap().push((topic.clone(), value));
            }
            answer.extend([int(1), text(&topic), int(1), int(0), vec![0; 2 + 3 * 8], int(0)].concat());
        }
        other => panic!("a request that this broker does not know: {other:?}"),
    }
    let head = [int(answer.len() as i32 + 4), int(correlation)].concat();
    stream.write_all(&[head, answer].concat())
}

fn pipeline(name: &str, broker: u16, sync: bool) -> String {
    let then = "- name: taken\n  kind: ResponseBuilder\n  template: 'statusCode: 202'\n";
    format!(
        "kind: Pipeline\nname: {name}\nfilters:\n- name: k\n  kind: Kafka\n  backend: ['127.0.0.1:{broker}']\n  topic: {{default: events}}\n  sync: {sync}\n{}",
        if sync { "" } else { then }
    )
}

fn post(port: u16, body: &str) -> (u16, String) {
    let answer = Connection::open(&format!("127.0.0.1:{port}")).and_then(|mut c| c.request("POST", "/", &[], body));
    answer.map_or((0, String::new()), |answer| (answer.status, answer.body))
}

#[test]
fn records_wait_on_disk_for_kafka_and_go_in_their_order() {
    let (broker, sync, later) = (free_port(), free_port(), free_port());
    let mut machine = Machine::start();
    machine.create(&pipeline("waits", broker, true));
    machine.create(&pipeline("later", broker, false));
    machine.create(&server("hs", sync, "waits"));
    machine.create(&server("hl", later, "later"));
    let kafka = Broker::start(broker, &Arc::default());
    eventually("it serves", || (post(sync, "first") == (200, String::new())).then_some(()));
    eventually("it serves", || (post(later, "second").0 == 202).then_some(()));
    eventually("both are there", || (kafka.values() == ["first", "second"]).then_some(()));

    let records = kafka.records.clone();
    kafka.stop();
    let failed = eventually("it is told", || Some(post(sync, "lost")).filter(|(status, _)| *status == 500));
    assert!(failed.1.contains("\"err\":\"broker 127.0.0.1:"), "{}", failed.1);
    for number in 0..50 {
        assert_eq!(post(later, &format!("late-{number}")).0, 202);
    }
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count == 50.0));
    machine.kill();
    machine.run();
    eventually("it serves again", || (post(later, "after").0 == 202).then_some(()));

    let kafka = Broker::start(broker, &records);
    let wanted: Vec<String> = (0..50).map(|number| format!("late-{number}")).chain(["after".to_owned()]).collect();
    // What nobody was told was taken may be there as well.
    let taken = || kafka.values().iter().filter(|value| *value != "lost").count();
    eventually("all that was taken note of is there", || (taken() >= 2 + wanted.len()).then_some(()));
    let values = kafka.values();
    let after: Vec<&String> = values[2..].iter().filter(|value| *value != "lost").collect();
    assert_eq!(after, wanted.iter().collect::<Vec<_>>(), "in their order");
    assert_eq!(machine.metric("weir_kafka_spool_bytes"), Some(0.0));
    kafka.stop();
}

/// A broker of Kafka's, alone, with one partition of every topic.
fn kafka_itself(java: &Path, classes: &str, port: u16) -> Part {
    let (java, classes, controller) = (java.to_owned(), classes.to_owned(), free_port());
    Part::start(port, move |directory| {
        let settings = directory.join("server.properties");
        let logs = directory.join("logs");
        if !settings.exists() {
            let lines = [
                "process.roles=broker,controller".to_owned(),
                "node.id=1".to_owned(),
                format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
                format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
                "controller.listener.names=CONTROLLER".to_owned(),
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
                format!("log.dirs={}", logs.display()),
                "num.partitions=1".to_owned(),
                // It sets a file of this size aside for each topic, and the memory of the test is where it does so.
                "log.index.size.max.bytes=65536".to_owned(),
            ];
            std::fs::write(&settings, lines.join("\n")).unwrap();
            let mut format = Command::new(&java);
            format.args(["-Xmx128m", "-cp", &classes, "kafka.tools.StorageTool", "format", "-t"]);
            let done = format.args(["AAAAAAAAQACAAAAAAAAAAQ", "-c"]).arg(&settings).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        }
        let mut command = Command::new(&java);
        command.args(["-Xmx256m", "-cp", &classes, "kafka.Kafka"]).arg(&settings);
        command
    })
}

/// Records as Kafka's own client reads them: key and value.
fn consumed(java: &Path, classes: &str, port: u16, topic: &str, count: usize) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("Consume.java");
    std::fs::write(&program, include_str!("kafka/Consume.java")).unwrap();
    let mut command = Command::new(java);
    command.args(["-Xmx128m", "-cp", classes]).arg(&program).args([&port.to_string(), topic, &count.to_string()]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('\t')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn kafka_itself_takes_what_is_handed_to_it_and_misses_nothing_after_a_crash() {
    // The client is a program in Java's own words.
    let Some((java, classes)) = parts::kafka().filter(|_| program("javac").is_some()) else { return };
    let (port, sync, later) = (free_port(), free_port(), free_port());
    let mut kafka = kafka_itself(&java, &classes, port);
    let mut machine = Machine::start();
    let keyed = |name: &str, sync: bool| {
        pipeline(name, port, sync).replace("  sync:", "  key: {dynamic: {header: X-Device}}\n  sync:")
    };
    machine.create(&keyed("waits", true));
    machine.create(&keyed("later", false));
    machine.create(&server("hs", sync, "waits"));
    machine.create(&server("hl", later, "later"));
    let send = |port: u16, body: &str| {
        let ask = Connection::open(&format!("127.0.0.1:{port}"));
        let answer = ask.and_then(|mut c| c.request("POST", "/", &[("X-Device", &format!("of {body}"))], body));
        answer.map_or((0, String::new()), |answer| (answer.status, answer.body))
    };
    // The topic is made for the first one.
    eventually("it takes records", || (send(sync, "first").0 == 200).then_some(()));
    // Larger than it takes (1 MiB): it says so, and nothing behind waits for it.
    let refused = post(sync, &"x".repeat(2 << 20));
    assert!(refused.0 == 500 && refused.1.contains("(error 10 of Kafka's)"), "{refused:?}");
    assert_eq!(post(later, &"x".repeat(2 << 20)).0, 202);
    let number = |n: usize| format!("late-{n}");
    (0..20).for_each(|n| assert_eq!(send(later, &number(n)).0, 202));
    assert_eq!(send(sync, "between").0, 200);
    kafka.kill();
    (20..60).for_each(|n| assert_eq!(send(later, &number(n)).0, 202));
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count >= 40.0));
    machine.kill();
    machine.run();
    eventually("it serves again", || (send(later, "after").0 == 202).then_some(()));
    kafka.run();
    eventually("all is handed over", || machine.metric("weir_kafka_spool_bytes").filter(|bytes| *bytes == 0.0));
    eventually("it takes records again", || (send(sync, "last").0 == 200).then_some(()));
    let mut wanted = vec!["first".to_owned()];
    wanted.extend((0..20).map(number));
    wanted.push("between".to_owned());
    wanted.extend((20..60).map(number));
    wanted.extend(["after", "last"].map(str::to_owned));
    // Each at least once: what was sent before an answer was lost comes again, in its place.
    let read = consumed(&java, &classes, port, "events", wanted.len());
    let mut values: Vec<String> = Vec::new();
    for (key, value) in read {
        assert_eq!(key, format!("of {value}"));
        if !values.contains(&value) {
            values.push(value);
        }
    }
    assert_eq!(values, wanted, "in their order");
}
