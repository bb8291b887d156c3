//! A broker of Kafka's as a producer sees it: alone, with one partition of each topic.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Topics and values by the order they came.
pub type Records = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What it says to values for a topic: 0 where it takes them, or an error code of Kafka's.
pub type Verdict = fn(topic: &str, values: &[Vec<u8>]) -> i16;

/// Error codes of Kafka's.
pub const NO_TOPIC: i16 = 3;
pub const TOO_LARGE: i16 = 10;
pub const NOT_ALLOWED: i16 = 29;

/// See the module doc.
pub struct Broker {
    port: u16,
    inside: Arc<Inside>,
}

struct Inside {
    records: Records,
    /// Those that there are; without a list, each that is asked for.
    topics: Mutex<Option<HashSet<String>>>,
    verdict: Verdict,
    stop: AtomicBool,
}

impl Broker {
    /// One at this port, which may be another's for a while yet, that goes on after these records and takes all there are.
    pub fn start(port: u16, records: &Records) -> Broker {
        Broker::with(port, records, |_, _| 0)
    }

    /// One at a port of its own that says this to records.
    pub fn that(verdict: Verdict) -> Broker {
        Broker::with(0, &Arc::default(), verdict)
    }

    fn with(port: u16, records: &Records, verdict: Verdict) -> Broker {
        let end = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < end, "port {port}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let port = listener.local_addr().expect("a place").port();
        let (topics, stop) = (Mutex::default(), AtomicBool::new(false));
        let inside = Arc::new(Inside { records: records.clone(), topics, verdict, stop });
        let broker = Broker { port, inside: inside.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if inside.stop.load(Ordering::Acquire) {
                    return;
                }
                let inside = inside.clone();
                thread::spawn(move || while inside.serve(&stream, port).is_ok() {});
            }
        });
        broker
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on there are no topics but those that are made.
    pub fn make(&self, topics: &[&str]) {
        let mut all = lock(&self.inside.topics);
        all.get_or_insert_default().extend(topics.iter().map(|topic| (*topic).to_owned()));
    }

    pub fn records(&self) -> Records {
        self.inside.records.clone()
    }

    /// Values it has taken, in their order.
    pub fn values(&self) -> Vec<String> {
        lock(&self.inside.records).iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// Waits until it has taken these.
    pub fn until(&self, values: &[&str]) {
        let end = Instant::now() + PATIENCE;
        while !values.iter().all(|value| self.values().iter().any(|taken| taken == value)) {
            assert!(Instant::now() < end, "{} did not come, but {}", values.join(", "), self.values().join(", "));
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stop(self) {
        self.inside.stop.store(true, Ordering::Release);
        // For the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inside {
    /// One request and its answer.
    fn serve(&self, mut stream: &TcpStream, port: u16) -> io::Result<()> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        if self.stop.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut input = In(&request);
        let (api, version, correlation) = (input.i16(), input.i16(), input.i32());
        input.text();
        let answer = match (api, version) {
            (18, 0) => versions(),
            (3, 5) => self.metadata(&mut input, port),
            (0, 7) => self.produce(&mut input),
            _ => panic!("this broker does not know version {version} of request {api}"),
        };
        let head = [int(answer.len() as i32 + 4), int(correlation)].concat();
        stream.write_all(&[head, answer].concat())
    }

    fn metadata(&self, input: &mut In<'_>, port: u16) -> Vec<u8> {
        let count = input.i32();
        let topics: Vec<String> = (0..count).map(|_| input.text()).collect();
        let mut answer = [int(0), int(1), int(7), text("127.0.0.1"), int(port.into())].concat();
        answer.extend((-1i16).to_be_bytes());
        answer.extend([text("cluster"), int(7), int(topics.len() as i32)].concat());
        for topic in topics {
            if lock(&self.topics).as_ref().is_none_or(|known| known.contains(&topic)) {
                answer.extend([vec![0, 0], text(&topic), vec![0], int(1), vec![0, 0], int(0), int(7)].concat());
                answer.extend([int(1), int(7), int(1), int(7), int(0)].concat());
            } else {
                answer.extend([NO_TOPIC.to_be_bytes().to_vec(), text(&topic), vec![0], int(0)].concat());
            }
        }
        answer
    }

    fn produce(&self, input: &mut In<'_>) -> Vec<u8> {
        assert_eq!(input.i16(), -1, "no transaction");
        assert_eq!(input.i16(), -1, "all replicas");
        input.i32();
        assert_eq!(input.i32(), 1, "one topic");
        let topic = input.text();
        assert_eq!((input.i32(), input.i32()), (1, 0), "one partition, the first");
        let length = input.i32() as usize;
        let mut batch = In(input.take(length));
        batch.take(57);
        let count = batch.i32();
        let values: Vec<Vec<u8>> = (0..count).map(|_| batch.value()).collect();
        let error = (self.verdict)(&topic, &values);
        if error == 0 {
            lock(&self.records).extend(values.into_iter().map(|value| (topic.clone(), value)));
        }
        let verdict = error.to_be_bytes().to_vec();
        [int(1), text(&topic), int(1), int(0), verdict, vec![0; 3 * 8], int(0)].concat()
    }
}

/// Metadata and Produce, as brokers of today have them.
fn versions() -> Vec<u8> {
    let mut answer = [vec![0; 2], int(2)].concat();
    for known in [(3i16, 0i16, 13i16), (0, 3, 12)] {
        answer.extend([known.0, known.1, known.2].map(i16::to_be_bytes).concat());
    }
    answer
}

/// Reads from the front.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn text(&mut self) -> String {
        let length = self.i16().max(0) as usize;
        String::from_utf8(self.take(length).to_vec()).expect("text")
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

    /// Of a record in a batch of format 2.
    fn value(&mut self) -> Vec<u8> {
        self.varint();
        self.take(1);
        self.varint();
        self.varint();
        let key = self.varint();
        self.take(key.max(0) as usize);
        let length = self.varint() as usize;
        let value = self.take(length).to_vec();
        assert_eq!(self.varint(), 0, "no headers");
        value
    }
}

fn int(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}
