//! The Kafka filter beside a broker of the test's own, which speaks the protocol and goes away when it is told to.

use crate::world::{Connection, Machine, eventually, free_port, server};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
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
    eventually("all that was taken note of is there", || (kafka.values().len() >= 2 + wanted.len()).then_some(()));
    let values = kafka.values();
    let after: Vec<&String> = values[2..].iter().filter(|value| *value != "lost").collect();
    assert_eq!(after, wanted.iter().collect::<Vec<_>>(), "in their order");
    assert_eq!(machine.metric("weir_kafka_spool_bytes"), Some(0.0));
    kafka.stop();
}
