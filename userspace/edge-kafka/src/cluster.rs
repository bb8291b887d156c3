//! Connections to brokers, and who leads which partition. Blocking, with a bound on every wait.

use crate::access::{Access, Proof, Stream};
use proto_kafka::{
    Api, Malformed, Metadata, Versions, authenticate_request, describe, handshake_request, metadata_request,
    produce_request, read_authenticated, read_handshake, read_metadata, read_produced, read_versions, versions_request,
};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long connecting, and an answer, may take.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(8);

/// What brokers are given for bringing records to all replicas: less than the answer may take.
const REPLICATE_MS: i32 = 5_000;

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why records were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// Another time, or another broker, may do better.
    pub passing: bool,
    /// The record is at fault, or so many together: whoever may write to the topic, and whenever, is told the same.
    pub of_record: bool,
    /// There is no such topic, as far as brokers know that can be reached.
    pub no_topic: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Failure {
    pub fn passing(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), passing: true, of_record: false, no_topic: false }
    }

    pub fn no_topic(topic: &str) -> Failure {
        let why = format!("topic {topic}: {}", describe(NO_TOPIC));
        Failure { why, passing: true, of_record: false, no_topic: true }
    }

    fn of(code: i16, what: &str) -> Failure {
        let why = format!("{what}: {} (error {code} of Kafka's)", describe(code));
        Failure {
            why,
            passing: proto_kafka::is_passing(code),
            of_record: proto_kafka::is_of_record(code),
            no_topic: false,
        }
    }
}

/// See the module doc.
pub struct Cluster {
    /// Where somebody is asked who is where.
    seeds: Vec<String>,
    access: Access,
    connections: HashMap<String, Connection>,
    /// Addresses of brokers by their numbers.
    brokers: HashMap<i32, String>,
    /// Leaders by topic, in the order of the partitions' numbers.
    leaders: HashMap<String, Vec<(i32, i32)>>,
    /// Topics that there have been: brokers that have only just started may not know of them.
    seen: HashSet<String>,
}

struct Connection {
    stream: Stream,
    versions: Versions,
    correlation: i32,
}

/// Kafka's number for a topic that is not there.
const NO_TOPIC: i16 = 3;

/// Topics remembered, at most.
const TOPICS_MAX: usize = 10_000;

impl Cluster {
    pub fn new(seeds: &[String], access: &Access) -> Cluster {
        let (connections, brokers, leaders) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (seeds, access) = (seeds.to_vec(), access.clone());
        Cluster { seeds, access, connections, brokers, leaders, seen: HashSet::new() }
    }

    /// The partitions of a topic that have a leader, and those leaders.
    pub fn partitions(&mut self, topic: &str) -> Result<&[(i32, i32)], Failure> {
        if !self.leaders.contains_key(topic) {
            self.learn(topic)?;
        }
        Ok(&self.leaders[topic])
    }

    /// Forgets who leads and every connection: they are asked for anew.
    pub fn forget(&mut self) {
        self.leaders.clear();
        self.connections.clear();
    }

    fn learn(&mut self, topic: &str) -> Result<(), Failure> {
        let known: Vec<String> = self.connections.keys().cloned().collect();
        let mut last = Failure::passing("there are no brokers to ask");
        for address in known.into_iter().chain(self.seeds.clone()) {
            let asked = self.metadata(&address, topic);
            match asked {
                Ok(metadata) => {
                    let place = |broker: &proto_kafka::Broker| (broker.id, format!("{}:{}", broker.host, broker.port));
                    self.brokers = metadata.brokers.iter().map(place).collect();
                    let found = metadata.topics.iter().find(|found| found.name == topic);
                    let Some(found) = found else {
                        last = Failure::passing(format!("{address} does not tell of topic {topic}"));
                        continue;
                    };
                    // A topic that is being made has no leader yet.
                    if found.error == NO_TOPIC && !self.seen.contains(topic) {
                        return Err(Failure::no_topic(topic));
                    }
                    if found.error != 0 {
                        return Err(Failure::of(found.error, &format!("topic {topic}")));
                    }
                    let mut leaders: Vec<(i32, i32)> =
                        found.partitions.iter().filter(|p| p.leader >= 0).map(|p| (p.id, p.leader)).collect();
                    leaders.sort_unstable();
                    if leaders.is_empty() {
                        return Err(Failure::passing(format!("topic {topic}: no partition has a leader")));
                    }
                    if self.leaders.len() >= TOPICS_MAX {
                        self.leaders.clear();
                        self.seen.clear();
                    }
                    self.seen.insert(topic.to_owned());
                    self.leaders.insert(topic.to_owned(), leaders);
                    return Ok(());
                }
                Err(error) => {
                    self.connections.remove(&address);
                    last = Failure::passing(format!("broker {address}: {error}"));
                }
            }
        }
        Err(last)
    }

    fn metadata(&mut self, address: &str, topic: &str) -> io::Result<Metadata> {
        let connection = self.connection(address)?;
        let version = connection.version(Api::Metadata)?;
        let answer = connection.ask(|correlation| metadata_request(version, correlation, &[topic]))?;
        read_metadata(version, &answer).map_err(malformed)
    }

    /// Hands a batch to the leader of its partition.
    pub fn produce(&mut self, topic: &str, partition: i32, leader: i32, batch: Vec<u8>) -> Result<(), Failure> {
        let Some(address) = self.brokers.get(&leader).cloned() else {
            return Err(Failure::passing(format!("broker {leader} is not known")));
        };
        let produced = self.try_produce(&address, topic, partition, batch);
        match produced {
            Ok(0) => Ok(()),
            Ok(code) => Err(Failure::of(code, &format!("topic {topic}, partition {partition}"))),
            Err(error) => {
                self.connections.remove(&address);
                Err(Failure::passing(format!("broker {address}: {error}")))
            }
        }
    }

    fn try_produce(&mut self, address: &str, topic: &str, partition: i32, batch: Vec<u8>) -> io::Result<i16> {
        let connection = self.connection(address)?;
        let version = connection.version(Api::Produce)?;
        let batches = [(topic, partition, batch)];
        let answer = connection.ask(|correlation| produce_request(version, correlation, REPLICATE_MS, &batches))?;
        let produced = read_produced(version, &answer).map_err(malformed)?;
        let of_it = produced.iter().find(|one| one.topic == topic && one.partition == partition);
        of_it.map(|one| one.error).ok_or_else(|| malformed(Malformed("the answer is about something else")))
    }

    fn connection(&mut self, address: &str) -> io::Result<&mut Connection> {
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, &self.access)?;
            self.connections.insert(address.to_owned(), connection);
        }
        self.connections.get_mut(address).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Connection {
    fn open(address: &str, access: &Access) -> io::Result<Connection> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for place in address.to_socket_addrs()? {
            match Connection::at(place, host, access) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn at(place: SocketAddr, host: &str, access: &Access) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&place, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let stream = access.over(stream, host, ANSWER)?;
        let mut connection = Connection { stream, versions: Versions::default(), correlation: 0 };
        let answer = connection.ask(versions_request)?;
        connection.versions = read_versions(&answer).map_err(malformed)?;
        if let Some(proof) = access.proof() {
            connection.prove(&proof)?;
        }
        Ok(connection)
    }

    /// Brokers take nothing more from whom they do not believe.
    fn prove(&mut self, proof: &Proof<'_>) -> io::Result<()> {
        let unproved = |why: String| {
            let who = base_text::quoted(proof.user());
            io::Error::new(io::ErrorKind::PermissionDenied, format!("user {who} by {}: {why}", proof.mechanism()))
        };
        let version = self.version(Api::SaslHandshake)?;
        let answer = self.ask(|correlation| handshake_request(version, correlation, proof.mechanism()))?;
        let (error, known) = read_handshake(&answer).map_err(malformed)?;
        if error != 0 {
            let known = if known.is_empty() { "no way".to_owned() } else { known.join(", ") };
            return Err(unproved(format!("{} (error {error} of Kafka's); it knows {known}", describe(error))));
        }
        let version = self.version(Api::SaslAuthenticate)?;
        let given = proof.give(|token| {
            let answer = self.ask(|correlation| authenticate_request(version, correlation, token))?;
            let answer = read_authenticated(&answer).map_err(malformed)?;
            if answer.error == 0 {
                return Ok(answer.token);
            }
            let own = answer.why.map(|why| format!(": {}", base_text::quoted(&why))).unwrap_or_default();
            let (told, code) = (describe(answer.error), answer.error);
            Err(io::Error::other(format!("{told} (error {code} of Kafka's){own}")))
        });
        given.map_err(|error| unproved(error.to_string()))
    }

    fn version(&self, api: Api) -> io::Result<i16> {
        let wrong = "it speaks none of the versions of this producer (brokers from 0.11 on do, and those from 1.0 on where there is a user)";
        self.versions.of(api).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, wrong))
    }

    fn ask(&mut self, request: impl FnOnce(i32) -> Vec<u8>) -> io::Result<Vec<u8>> {
        self.correlation = self.correlation.wrapping_add(1);
        let request = request(self.correlation);
        let mut head = [0; 8];
        let asked = self.stream.write_all(&request).and_then(|()| self.stream.flush());
        asked.and_then(|()| self.stream.read_exact(&mut head)).map_err(unanswered)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let correlation = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if correlation != self.correlation || !(4..=ANSWER_BYTES_MAX).contains(&length) {
            return Err(malformed(Malformed("an answer to something else, or one that is far too long")));
        }
        let mut answer = vec![0; length - 4];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

/// A broker that wants TLS or a user tells it by going.
fn unanswered(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            let told = "it closed the connection where an answer was due; if it always does, it may want TLS (mtls), a user (sasl), or neither";
            io::Error::new(error.kind(), told)
        }
        _ => error,
    }
}

fn malformed(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
