//! Backends that are spoken to over QUIC: ours, and aioquic.

use crate::http3::python_with;
use crate::leash::Leashed;
use crate::tls::serve_as;
use crate::world::{Answer, Connection, Machine, PATIENCE, answers, eventually, free_port, get, mock, server};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// A certificate for the address that backends have here, and its key.
pub fn local() -> (String, String) {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A pipeline to one server that is spoken to in HTTP/3, and believed if this authority has signed it.
fn h3(name: &str, port: u16, root: &str) -> String {
    pipeline(name, root, json!({"http3": true, "servers": [{"url": format!("https://127.0.0.1:{port}")}]}))
}

pub fn pipeline(name: &str, root: &str, pool: Value) -> String {
    let filter = json!({"kind": "Proxy", "name": "proxy", "mtls": {"rootCertBase64": root}, "pools": [pool]});
    json!({"kind": "Pipeline", "name": name, "filters": [filter]}).to_string()
}

/// Many clients of HTTP/1.1 share few connections of QUIC to a server of ours; one whose certificate nobody signed is not asked; one that
/// was away and is back is found again.
#[test]
fn many_clients_share_few_connections_to_ours() {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 20;
    let (machine, pair, front, wary) = (Machine::start(), local(), free_port(), free_port());
    machine.create(&mock("answer", "ours"));
    let fields = [("http3Only", Value::from(true)), ("http3", true.into())];
    let back = serve_as(&machine, &pair, "answer", &fields);
    eventually("it listens", || machine.log().contains("listening for HTTP/3 server=hs").then_some(()));
    machine.create(&h3("relay", back, &pair.0));
    machine.create(&server("front", front, "relay"));
    machine.create(&h3("doubtful", back, &local().0));
    machine.create(&server("wary", wary, "doubtful"));
    assert_eq!(answers(front, "/", 200).body.trim(), "ours");
    assert_eq!(get(wary, "/").unwrap().status, 503);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                let mut connection = Connection::open(&format!("127.0.0.1:{front}")).unwrap();
                let mut wrong = Vec::new();
                for request in 0..REQUESTS {
                    let method = if (client + request) % 3 == 0 { "POST" } else { "GET" };
                    match connection.request(method, "/", &[], if method == "POST" { "some" } else { "" }) {
                        Ok(Answer { status: 200, body, .. }) if body.trim() == "ours" => {}
                        other => wrong.push(format!("{method}: {other:?}")),
                    }
                }
                wrong
            })
        })
        .collect();
    let wrong: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(wrong.is_empty(), "{} wrong: {:?}", wrong.len(), wrong.first());
    let line =
        format!("weir_requests_by_protocol_total{{server=\"hs\",protocol=\"HTTP/3\"}} {}", CLIENTS * REQUESTS + 1);
    eventually(&line, || machine.api("GET", "/metrics", "").body.contains(&line).then_some(()));
    let made = machine.metric("weir_upstream_connections_created_total").unwrap_or_default() as usize;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(made >= 1 && made <= workers * 2, "{made} connections for {CLIENTS} clients and {workers} workers");
    // It goes, and comes back.
    assert_eq!(machine.api("DELETE", "/objects/hs", "").status, 200);
    answers(front, "/", 503);
    let rules = json!([{"paths": [{"pathPrefix": "/", "backend": "answer"}]}]);
    let again = json!({
        "name": "hs", "kind": "HTTPServer", "port": back, "https": true, "http3": true, "http3Only": true,
        "certs": {"shop": pair.0}, "keys": {"shop": pair.1}, "rules": rules,
    });
    machine.create(&again.to_string());
    answers(front, "/", 200);
    // One server alone is spoken to so.
    let (own, port) = (json!([{"url": format!("https://127.0.0.1:{back}"), "http3": true}]), free_port());
    machine.create(&pipeline("own", &pair.0, json!({"servers": own})));
    machine.create(&server("third", port, "own"));
    answers(port, "/", 200);
}

/// What a backend of another house says is passed on as it is meant, and what it has done nothing with is asked again.
#[test]
fn aioquic_is_understood() {
    let Some(python) = python_with("aioquic") else { return };
    let (machine, (chain, key), front) = (Machine::start(), local(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("chain.pem"), &chain).unwrap();
    std::fs::write(path("key.pem"), &key).unwrap();
    let mut command = Command::new(python);
    command.args(["-u", "-c", AIOQUIC]).arg(path("chain.pem")).arg(path("key.pem"));
    let mut process = Leashed::start(command.stdin(Stdio::null()).stdout(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().expect("it says its port");
    machine.create(&h3("relay", port, &chain));
    machine.create(&server("front", front, "relay"));
    answers(front, "/plain", 200);
    let mut client = Connection::open(&format!("127.0.0.1:{front}")).unwrap();
    let mut ask = |method: &str, path: &str, body: &str| client.request(method, path, &[], body).unwrap();
    // A body both ways, longer than any window.
    let long = "~".repeat(3_000_000);
    assert_eq!(ask("POST", "/count", &long).body, "3000000");
    assert_eq!(ask("GET", "/long", "").body.len(), 3_000_000);
    // Before the answer, and behind it.
    let early = ask("GET", "/early", "");
    assert_eq!(early.status, 103, "{early:?}");
    assert!(early.head.to_ascii_lowercase().contains("link: </a.css>"), "{}", early.head);
    let answer = client.receive().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"), "{answer:?}");
    let ask = |method: &str, path: &str, body: &str| {
        Connection::open(&format!("127.0.0.1:{front}")).unwrap().request(method, path, &[], body)
    };
    // Nothing was done of them: they are asked again, whatever they are.
    for path in ["/rejected", "/goaway"] {
        let answer = ask("POST", path, "body").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "second"), "{path}: {answer:?}");
    }
    // One that it cannot serve over HTTP/3 goes over HTTP/1.1 to its port on TCP; others go on as they did.
    let mut connections = HashSet::new();
    let mut same = Connection::open(&format!("127.0.0.1:{front}")).unwrap();
    for _ in 0..20 {
        let answer = same.request("POST", "/fallback", &[], "body").unwrap();
        let connection = answer.body.strip_prefix("POST /fallback HTTP/1.1 body on ");
        assert!(answer.status == 200 && connection.is_some(), "{answer:?}");
        connections.extend(connection.map(str::to_owned));
        assert_eq!(same.request("GET", "/plain", &[], "").unwrap().body, "plain");
    }
    assert!(connections.len() < 5, "each worker keeps its connection: {connections:?}");
    // It may say so after it has refused it for the moment, as often as that is borne.
    let answer = ask("POST", "/rejected-first", "body").unwrap();
    assert!(answer.status == 200 && answer.body.starts_with("POST /rejected-first HTTP/1.1 body"), "{answer:?}");
    // Something may have been done of it.
    let reset = ask("POST", "/reset", "body").unwrap();
    assert_eq!(reset.status, 503, "{reset:?}");
    // What is no answer.
    for path in ["/upper", "/status", "/connection", "/short", "/cut"] {
        let answer = ask("GET", path, "");
        let refused = answer.as_ref().map_or(true, |answer| matches!(answer.status, 500..=599));
        assert!(refused, "{path}: {answer:?}");
    }
    assert_eq!(ask("GET", "/plain", "").unwrap().status, 200);
    // WebSockets are streams where it offers that, and connections of TCP where it will not have them so.
    for (path, told) in [("/chat", "over QUIC: hello"), ("/chat-tcp", "over TCP: hello")] {
        assert_eq!(talked(front, path, "hello", told.len()), told, "{path}");
    }
    // One that wants nothing over HTTP/3 is not asked over it for a while, by whoever has noticed.
    let mut same = Connection::open(&format!("127.0.0.1:{front}")).unwrap();
    assert_eq!(same.request("GET", "/plain", &[], "").unwrap().body, "plain");
    let mut times = Vec::new();
    for _ in 0..8 {
        let answer = same.request("POST", "/only-tcp", &[], "body").unwrap();
        assert!(answer.body.starts_with("POST /only-tcp HTTP/1.1 body"), "{answer:?}");
        times.push(answer.body.rsplit_once(" asked over QUIC ").unwrap().1.trim().to_owned());
    }
    assert_eq!(times, ["1", "2", "3", "3", "3", "3", "3", "3"]);
    let plain = same.request("GET", "/plain", &[], "").unwrap();
    assert!(plain.body.starts_with("GET /plain HTTP/1.1"), "{plain:?}");
    for limit in ["upstream_h3_faults", "upstream_h3_refused"] {
        let begin = format!("weir_limit_hits_total{{limit=\"{limit}\"}} ");
        let metrics = machine.api("GET", "/metrics", "").body;
        let count = metrics.lines().find_map(|line| line.strip_prefix(&begin)?.parse::<f64>().ok());
        assert!(count.is_some_and(|count| count >= 1.0), "{limit}: {count:?}");
    }
}

/// What comes back over a WebSocket, which here has no frames.
fn talked(front: u16, path: &str, said: &str, length: usize) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", front)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let asks = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(asks.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream.write_all(said.as_bytes()).unwrap();
    let mut came = vec![0; length];
    stream.read_exact(&mut came).unwrap();
    String::from_utf8(came).unwrap()
}

/// A backend; each path is a story.
const AIOQUIC: &str = r#"
import asyncio, ssl, sys
from aioquic.asyncio import serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

seen = {}

class Server(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.paths, self.bytes = {}, {}

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            id = event.stream_id
            if isinstance(event, HeadersReceived) and id not in self.paths:
                head = dict(event.headers)
                self.paths[id] = (head[b":method"], head[b":path"].decode())
                if self.paths[id] == (b"CONNECT", "/chat"):
                    assert head[b":protocol"] == b"websocket" and b"sec-websocket-key" not in head
                    self.say(id, end=False)
                elif head[b":method"] == b"CONNECT":
                    self._quic.reset_stream(id, 0x110)
            elif self.paths.get(id, (b"",))[0] == b"CONNECT":
                self.http.send_data(id, b"over QUIC: " + event.data, end_stream=event.stream_ended)
            elif isinstance(event, DataReceived):
                self.bytes[id] = self.bytes.get(id, 0) + len(event.data)
            if event.stream_ended and self.paths[id][0] != b"CONNECT":
                self.answer(id, *self.paths[id])
        self.transmit()

    def say(self, id, body=b"", status=b"200", fields=[], trailers=None, end=True):
        self.http.send_headers(id, [(b":status", status)] + fields, end_stream=end and not body and not trailers)
        if body:
            self.http.send_data(id, body, end_stream=end and not trailers)
        if trailers:
            self.http.send_headers(id, trailers, end_stream=True)

    def answer(self, id, method, path):
        times = seen[path] = seen.get(path, 0) + 1
        quic = self._quic
        if path == "/count":
            self.say(id, str(self.bytes[id]).encode())
        elif path == "/long":
            body = b"" if method == b"HEAD" else b"-" * 3000000
            self.say(id, body, fields=[(b"content-length", b"3000000")])
        elif path == "/early":
            self.http.send_headers(id, [(b":status", b"103"), (b"link", b"</a.css>")])
            self.say(id, b"late", fields=[(b"content-length", b"4")])
        elif path == "/rejected" and times == 1:
            quic.reset_stream(id, 0x10b)
        elif path == "/goaway" and times == 1:
            frame = encode_frame(FrameType.GOAWAY, encode_uint_var(id))
            quic.send_stream_data(self.http._local_control_stream_id, frame)
        elif path == "/rejected-first" and times < 3:
            quic.reset_stream(id, 0x10b)
        elif path in ("/fallback", "/rejected-first", "/only-tcp"):
            quic.reset_stream(id, 0x110)
        elif path == "/reset":
            quic.reset_stream(id, 0x102)
        elif path == "/upper":
            frame = encode_frame(FrameType.HEADERS, b"\x00\x00\xd9\x27\x00X-Upper\x01a")
            quic.send_stream_data(id, frame, end_stream=True)
        elif path == "/status":
            frame = encode_frame(FrameType.HEADERS, b"\x00\x00\x27\x00x-upper\x01a")
            quic.send_stream_data(id, frame, end_stream=True)
        elif path == "/connection":
            frame = encode_frame(FrameType.HEADERS, b"\x00\x00\xd9\x27\x03connection\x05close")
            quic.send_stream_data(id, frame, end_stream=True)
        elif path == "/short":
            self.say(id, b"abc", fields=[(b"content-length", b"5")])
        elif path == "/cut":
            quic.send_stream_data(id, encode_frame(FrameType.HEADERS, b"\x00\x00\xd9")[:-1], end_stream=True)
        elif times > 1:
            self.say(id, b"second" if path in ("/rejected", "/goaway") else b"plain")
        else:
            self.say(id, b"plain")

connections = 0

async def over_tcp(reader, writer):
    global connections
    connections += 1
    number = connections
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return writer.close()
        first, fields = head.split(b"\r\n")[0], head.lower()
        if b"upgrade: websocket" in fields:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            writer.write(b"over TCP: " + await reader.read(100))
            await writer.drain()
            continue
        asked = await reader.readexactly(4) if b"content-length: 4" in fields else b""
        body = first + b" " + asked + b" on %d" % number
        if b"/only-tcp" in first:
            body += b" asked over QUIC %d" % seen["/only-tcp"]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(sys.argv[1], sys.argv[2])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[1], sys.argv[2])
    tcp = await asyncio.start_server(over_tcp, "127.0.0.1", 0, ssl=tls)
    port = tcp.sockets[0].getsockname()[1]
    await serve("127.0.0.1", port, configuration=configuration, create_protocol=Server)
    print(port)
    await asyncio.Future()

asyncio.run(main())
"#;
