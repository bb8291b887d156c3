//! HTTP/2 as its usual clients speak it. Those that are not installed are named and left out.

use crate::http3::python_with;
use crate::tls::{serve, serve_with, shop};
use crate::world::{Backend, Machine, answers, eventually, free_port, program, proxy, server};
use std::path::Path;
use std::process::{Command, Stdio};

/// A machine that serves over TLS and in the clear, and the two ports.
fn machine() -> (Machine, Backend, u16, u16) {
    let (machine, backend, clear) = (Machine::start(), Backend::start("one"), free_port());
    let encrypted = serve(&machine, &shop());
    machine.create(&proxy("to-one", &[backend.url()]));
    machine.create(&format!("{}h2c: true\n", server("clear", clear, "to-one")));
    answers(clear, "/", 200);
    eventually("it listens", || machine.log().contains("listening server=hs").then_some(()));
    (machine, backend, encrypted, clear)
}

/// What a program says; it must end well.
fn said(program: &Path, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

#[test]
fn curl_speaks_it() {
    let Some(curl) = program("curl") else { return };
    let (machine, _backend, encrypted, clear) = machine();
    let url = format!("https://127.0.0.1:{encrypted}/a?b=c");
    let how = "%{http_version} %{response_code}";
    assert!(said(&curl, &["-skw", how, &url]).ends_with("2 200"), "agreed on by itself");
    assert!(said(&curl, &["-skw", how, "--http1.1", &url]).ends_with("1.1 200"));
    let url = format!("http://127.0.0.1:{clear}/a%20b?q");
    let body = "x".repeat(100_000);
    let known = ["-sw", how, "--http2-prior-knowledge"];
    let answer = said(&curl, &[&known[..], &["-H", "Cookie: a=1", "--data", &body, &url]].concat());
    assert!(answer.ends_with("2 200"), "{answer}");
    assert!(answer.contains("POST") && answer.contains("/a%20b?q") && answer.contains(&body), "{}", &answer[..500]);
    // Asking to switch is a request like any other.
    assert!(said(&curl, &["-sw", how, "--http2", &url]).ends_with("1.1 200"));
    assert!(said(&curl, &[&known[..], &["-I", &url]].concat()).ends_with("2 200"));
    let counted = "weir_requests_by_protocol_total{server=\"clear\",protocol=\"HTTP/2\"} 2";
    eventually(counted, || machine.api("GET", "/metrics", "").body.contains(counted).then_some(()));
}

#[test]
fn load_over_many_streams() {
    let Some(h2load) = program("h2load") else { return };
    let (_machine, _backend, encrypted, clear) = machine();
    for url in [format!("https://127.0.0.1:{encrypted}/"), format!("http://127.0.0.1:{clear}/")] {
        let text = said(&h2load, &["-n", "2000", "-c", "8", "-m", "16", &url]);
        assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
        assert!(text.contains("status codes: 2000 2xx"), "{text}");
    }
    let Some(nghttp) = program("nghttp") else { return };
    let url = format!("http://127.0.0.1:{clear}/");
    let text = said(&nghttp, &["-nv", "-m", "20", &url]);
    assert_eq!(text.matches(":status: 200").count(), 20, "{text}");
}

#[test]
fn python_speaks_it() {
    let Some(python) = python_with("h2") else { return };
    let (_machine, _backend, encrypted, _) = machine();
    let text = said(&python, &["-c", PYTHON, &encrypted.to_string()]);
    assert_eq!(text.trim(), "200 200 200 shop shop shop", "{text}");
}

/// Three requests at once over TLS, the second with a body and trailers.
const PYTHON: &str = r#"
import socket, ssl, sys
import h2.connection, h2.events
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
stream = context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="shop.test")
assert stream.selected_alpn_protocol() == "h2"
connection = h2.connection.H2Connection()
connection.initiate_connection()
for n in (1, 3, 5):
    method = "POST" if n == 3 else "GET"
    head = [(":method", method), (":scheme", "https"), (":authority", "shop.test"), (":path", "/")]
    connection.send_headers(n, head, end_stream=n != 3)
connection.send_data(3, b"x" * 10000)
connection.send_headers(3, [("x-sum", "1")], end_stream=True)
stream.sendall(connection.data_to_send())
status, bodies, open_streams = {}, {1: b"", 3: b"", 5: b""}, {1, 3, 5}
while open_streams:
    data = stream.recv(65536)
    assert data, "closed early"
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived):
            status[event.stream_id] = dict(event.headers)[b":status"].decode()
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            open_streams.discard(event.stream_id)
    stream.sendall(connection.data_to_send())
print(*[status[n] for n in (1, 3, 5)], *[bodies[n].decode().strip() for n in (1, 3, 5)])
"#;

#[test]
fn node_speaks_it() {
    let Some(node) = program("node") else { return };
    let (_machine, _backend, encrypted, clear) = machine();
    for url in [format!("https://127.0.0.1:{encrypted}"), format!("http://127.0.0.1:{clear}")] {
        assert_eq!(said(&node, &["-e", NODE, &url]).trim(), "200 200 200 200 200 closed", "{url}");
    }
}

/// Five requests at once, one of them with a long body, then an end in good order.
const NODE: &str = r#"
const session = require("http2").connect(process.argv[1], { rejectUnauthorized: false })
const ask = (n) => new Promise((done, failed) => {
  const stream = session.request(n == 2 ? { ":path": "/", ":method": "POST" } : { ":path": "/" })
  let status
  stream.on("response", (head) => { status = head[":status"] })
  stream.on("error", failed)
  stream.on("end", () => done(status))
  stream.resume()
  stream.end(n == 2 ? "x".repeat(300000) : undefined)
})
Promise.all([0, 1, 2, 3, 4].map(ask)).then((all) => session.close(() => console.log(...all, "closed")))
"#;

#[test]
fn httpx_speaks_it() {
    let Some(python) = python_with("httpx, h2") else { return };
    let (_machine, _backend, encrypted, _) = machine();
    let text = said(&python, &["-c", HTTPX, &encrypted.to_string()]);
    assert_eq!(text.trim(), "HTTP/2 200 HTTP/2 200 shop shop", "{text}");
}

const HTTPX: &str = r#"
import httpx, sys
url = "https://127.0.0.1:%s/" % sys.argv[1]
with httpx.Client(http2=True, verify=False) as client:
    first, second = client.get(url), client.post(url, content=b"x" * 60000)
print(first.http_version, first.status_code, second.http_version, second.status_code, first.text.strip(), second.text.strip())
"#;

#[test]
fn the_suite_for_servers_of_http2() {
    let Some(h2spec) = program("h2spec") else { return };
    // The backend answers what it has read to its end. Cases that begin a request and break a rule in a frame of its own thus find
    // the stream open, however busy the machine is: behind a whole answer there is no window left to be too large.
    let (machine, backend) = (Machine::start(), Backend::start("one"));
    machine.create(&proxy("to-one", &[backend.url()]));
    let port = serve_with(&machine, &shop(), "to-one");
    eventually("it listens", || machine.log().contains("listening server=hs").then_some(()));
    // Longer than the machine may be busy with other tests; what fails for lack of an answer takes as long.
    let arguments = ["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "-k", "-o", "20"];
    let done = Command::new(&h2spec).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(told.contains(" 0 failed"), "{told}");
}
