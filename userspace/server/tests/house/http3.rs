//! HTTP/3 as its usual clients speak it. Those that are not installed are named and left out.

use crate::http3_upstream::{local, pipeline as h3_pipeline};
use crate::leash::Leashed;
use crate::parts;
use crate::tls::{serve_as, shop};
use crate::upgrade::{gone, lives, signal, successor};
use crate::world::{Backend, Machine, eventually, free_port, program, proxy};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A machine that serves HTTP/3, and its port.
fn machine() -> (Machine, Backend, u16) {
    machine_with(&[])
}

/// With further fields of its document.
fn machine_with(more: &[(&str, serde_json::Value)]) -> (Machine, Backend, u16) {
    let (machine, backend) = (Machine::start(), Backend::start("one"));
    machine.create(&proxy("to-one", &[backend.url()]));
    let fields = [&[("http3", true.into()), ("clientMaxBodySize", (-1).into())], more].concat();
    let port = serve_as(&machine, &shop(), "to-one", &fields);
    eventually("it listens", || machine.log().contains("listening for HTTP/3 server=hs").then_some(()));
    (machine, backend, port)
}

/// A python that has these modules, of those there are, or with what was brought for it.
pub fn python_with(modules: &str) -> Option<PathBuf> {
    // Debian's modules are those of its own interpreter.
    let candidates = [program("python3")?, PathBuf::from("/usr/bin/python3")];
    let has = |python: &PathBuf| {
        let mut command = Command::new(python);
        let check = format!("import {modules}");
        command.args(["-c", &check]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let found = candidates.into_iter().find(has).or_else(|| parts::python_clients().filter(has));
    if found.is_none() {
        println!("skipped: python3 has not the modules {modules}");
    }
    found
}

/// What a program says; it must end well.
fn said(program: &Path, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

fn counted(machine: &Machine, protocol: &str, requests: u64) {
    let line = format!("weir_requests_by_protocol_total{{server=\"hs\",protocol=\"{protocol}\"}} {requests}");
    eventually(&line, || machine.api("GET", "/metrics", "").body.contains(&line).then_some(()));
}

#[test]
fn curl_speaks_it() {
    let Some(curl) = program("curl") else { return };
    if !said(&curl, &["--version"]).contains("HTTP3") {
        return println!("skipped: this curl has no HTTP/3");
    }
    let (machine, _backend, port) = machine();
    let url = format!("https://localhost:{port}/a?b=c");
    assert!(said(&curl, &["-skw", "%{http_version}", "--http3-only", &url]).ends_with('3'));
    counted(&machine, "HTTP/3", 1);
}

#[test]
fn libcurl_speaks_it() {
    let Some(python) = python_with("pycurl") else { return };
    let (machine, _backend, port) = machine();
    let text = said(&python, &["-c", PYCURL, &port.to_string()]);
    if text.contains("no HTTP/3") {
        return println!("skipped: the libcurl of pycurl has no HTTP/3 (pip install pycurl)");
    }
    assert_eq!(text.trim(), "200 30 200 30 500000 200 30 0 alt-svc", "{text}");
    counted(&machine, "HTTP/3", 3);
}

/// A request, one with a long body, one without an answer's body; what TCP says of HTTP/3.
const PYCURL: &str = r#"
import io, pycurl, sys
if "HTTP3" not in pycurl.version and not (pycurl.version_info()[4] & (1 << 25)):
    print("no HTTP/3")
    sys.exit()
def ask(version, body=None, head=False):
    curl, out, lines = pycurl.Curl(), io.BytesIO(), []
    curl.setopt(pycurl.URL, "https://localhost:%s/a" % sys.argv[1])
    curl.setopt(pycurl.HTTP_VERSION, version)
    curl.setopt(pycurl.SSL_VERIFYPEER, 0)
    curl.setopt(pycurl.SSL_VERIFYHOST, 0)
    curl.setopt(pycurl.TIMEOUT, 60)
    curl.setopt(pycurl.WRITEDATA, out)
    curl.setopt(pycurl.HEADERFUNCTION, lines.append)
    curl.setopt(pycurl.NOBODY, head)
    if body is not None:
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.POSTFIELDS, body)
    curl.perform()
    return curl.getinfo(pycurl.RESPONSE_CODE), curl.getinfo(pycurl.INFO_HTTP_VERSION), out.getvalue(), b"".join(lines)
status, version, _, _ = ask(31)
said = [status, version]
status, version, body, _ = ask(31, "~" * 500000)
said += [status, version, body.count(b"~")]
status, version, body, _ = ask(31, head=True)
said += [status, version, len(body)]
_, _, _, head = ask(pycurl.CURL_HTTP_VERSION_1_1)
said += ["alt-svc" if b'alt-svc: h3=":%s"' % sys.argv[1].encode() in head.lower() else head]
print(*said)
"#;

#[test]
fn curl_that_looks_like_a_browser_speaks_it() {
    let Some(python) = python_with("curl_cffi") else { return };
    let (machine, _backend, port) = machine();
    let text = said(&python, &["-c", CURL_CFFI, &port.to_string()]);
    assert_eq!(text.trim(), "200 30 500000 200 3", "{text}");
    counted(&machine, "HTTP/3", 1);
}

const CURL_CFFI: &str = r#"
import sys
from curl_cffi import requests
url = "https://localhost:%s/a" % sys.argv[1]
how = dict(verify=False, impersonate="chrome", timeout=60)
over = requests.post(url, data=b"~" * 500000, http_version="v3only", **how)
tcp = requests.get(url, http_version="v2", **how)
print(over.status_code, over.http_version, over.content.count(b"~"), tcp.status_code, tcp.http_version)
"#;

#[test]
fn aioquic_speaks_it() {
    let Some(python) = python_with("aioquic") else { return };
    let (machine, _backend, port) = machine();
    let text = said(&python, &["-c", AIOQUIC, &port.to_string()]);
    assert_eq!(text.trim(), "200 200 200 200 200 100000 200 200", "{text}");
    counted(&machine, "HTTP/3", 7);
}

/// Requests at once, one with a long body and trailers, new keys meanwhile, another connection id and another address after that.
const AIOQUIC: &str = r#"
import asyncio, ssl, sys
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.status, self.bodies, self.waiting = {}, {}, {}

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            id = event.stream_id
            if isinstance(event, HeadersReceived):
                self.status.setdefault(id, dict(event.headers).get(b":status", b"").decode())
            elif isinstance(event, DataReceived):
                self.bodies[id] = self.bodies.get(id, b"") + event.data
            if event.stream_ended:
                self.waiting[id].set_result(None)

    def ask(self, method="GET", body=b"", trailers=[]):
        id = self._quic.get_next_available_stream_id()
        self.waiting[id] = asyncio.get_event_loop().create_future()
        head = [(":method", method), (":scheme", "https"), (":authority", "shop.test"), (":path", "/")]
        head = [(name.encode(), value.encode()) for name, value in head]
        self.http.send_headers(id, head, end_stream=not body)
        if body:
            self.http.send_data(id, body, end_stream=not trailers)
        if trailers:
            self.http.send_headers(id, trailers, end_stream=True)
        self.transmit()
        return id

async def main():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    configuration.server_name = "shop.test"
    async with connect("127.0.0.1", int(sys.argv[1]), configuration=configuration, create_protocol=Client) as client:
        said, ids = [], [client.ask() for _ in range(4)]
        for id in ids:
            await asyncio.wait_for(client.waiting[id], 60)
            said.append(client.status[id])
        client.request_key_update()
        id = client.ask("POST", b"~" * 100000, [(b"x-sum", b"1")])
        await asyncio.wait_for(client.waiting[id], 60)
        said += [client.status[id], client.bodies[id].count(b"~")]
        client.change_connection_id()
        id = client.ask()
        await asyncio.wait_for(client.waiting[id], 60)
        said.append(client.status[id])
        loop = asyncio.get_event_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Relay(client), local_addr=("::", 0))
        client._transport = transport
        id = client.ask()
        await asyncio.wait_for(client.waiting[id], 60)
        said.append(client.status[id])
        print(*said)

class Relay(asyncio.DatagramProtocol):
    def __init__(self, client):
        self.client = client
    def datagram_received(self, data, address):
        self.client.datagram_received(data, address)

asyncio.run(main())
"#;

/// UDP through a forward proxy (RFC 9298), and the same through a Proxy in front of it that speaks HTTP/3 to both sides.
#[test]
fn aioquic_reaches_udp() {
    let Some(python) = python_with("aioquic") else { return };
    let (machine, (chain, key)) = (Machine::start(), local());
    machine.create(
        "kind: Pipeline\nname: out\nfilters: [{name: f, kind: SimpleHTTPProxy, connectUdp: true, \
                    allowedDestinations: [{addresses: [127.0.0.0/8]}]}]\n",
    );
    let behind = serve_as(&machine, &(chain.clone(), key.clone()), "out", &[("http3", true.into())]);
    eventually("it listens", || machine.log().contains("listening for HTTP/3 server=hs").then_some(()));
    let pool = json!({"http3": true, "servers": [{"url": format!("https://127.0.0.1:{behind}")}]});
    machine.create(&h3_pipeline("to-it", &chain, pool));
    let front = free_port();
    let pem = |text: &str| serde_json::Value::from(text).to_string();
    machine.create(&format!(
        "kind: HTTPServer\nname: front\nport: {front}\nhttps: true\nhttp3: true\ncertBase64: {}\nkeyBase64: {}\n\
         rules: [{{paths: [{{backend: to-it}}]}}]\n",
        pem(&chain),
        pem(&key)
    ));
    eventually("it listens", || machine.log().contains("listening for HTTP/3 server=front").then_some(()));
    let script = format!("{}\n{AIOQUIC_UDP}", AIOQUIC.split("async def main()").next().unwrap());
    for port in [behind, front] {
        let text = said(&python, &["-c", &script, &port.to_string()]);
        assert_eq!(text.trim(), "200 ?1 hello 1100", "{text}");
    }
    let counted = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("weir_quic_datagram_frames_received_total "))?;
        line.rsplit(' ').next()?.parse::<f64>().ok().filter(|frames| *frames >= 8.0)
    };
    eventually("datagrams went beside the streams", || counted(&machine.api("GET", "/metrics", "").body));
}

/// Two datagrams to a server of UDP that says them back. Each may be lost, and so is sent until it comes.
const AIOQUIC_UDP: &str = r#"
from aioquic.buffer import encode_uint_var
from aioquic.h3.events import DatagramReceived

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)

class Tunnel(Client):
    def __init__(self, *args, **kwargs):
        super(Client, self).__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.head, self.came = asyncio.get_event_loop().create_future(), asyncio.Queue()

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.head.set_result(dict(event.headers))
            elif isinstance(event, DatagramReceived):
                self.came.put_nowait(event.data)

    async def echoed(self, id, payload):
        for _ in range(100):
            self.http.send_datagram(id, encode_uint_var(0) + payload)
            self.transmit()
            try:
                while await asyncio.wait_for(self.came.get(), 0.5) != encode_uint_var(0) + payload:
                    pass
                return payload
            except asyncio.TimeoutError:
                pass

async def main():
    loop = asyncio.get_event_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    configuration.server_name, configuration.max_datagram_frame_size = "localhost", 65536
    async with connect("127.0.0.1", int(sys.argv[1]), configuration=configuration, create_protocol=Tunnel) as client:
        id = client._quic.get_next_available_stream_id()
        path = "/.well-known/masque/udp/127.0.0.1/%d/" % transport.get_extra_info("sockname")[1]
        head = [(":method", "CONNECT"), (":protocol", "connect-udp"), (":scheme", "https"), (":authority", "127.0.0.1"),
                (":path", path), ("capsule-protocol", "?1")]
        client.http.send_headers(id, [(name.encode(), value.encode()) for name, value in head])
        client.transmit()
        head = await asyncio.wait_for(client.head, 60)
        first, second = await client.echoed(id, b"hello"), await client.echoed(id, b"~" * 1100)
        print(head[b":status"].decode(), head[b"capsule-protocol"].decode(), first.decode(), len(second))

asyncio.run(main())
"#;

/// Comes back with a ticket: what is safe is answered from what it says first, and what is not, too, once the handshake is over.
#[test]
fn aioquic_sends_early_data() {
    let Some(python) = python_with("aioquic") else { return };
    let (machine, _backend, port) = machine_with(&[("earlyData", true.into())]);
    let script = format!("{}\n{AIOQUIC_EARLY}", AIOQUIC.split("async def main()").next().unwrap());
    let text = said(&python, &["-c", &script, &port.to_string()]);
    assert_eq!(text.trim(), "200 True 200 True 200", "{text}");
    for line in [
        "weir_quic_early_data_connections_total 2",
        "weir_early_data_requests_total 1",
        "weir_early_data_waits_total 1",
    ] {
        eventually(line, || machine.api("GET", "/metrics", "").body.contains(line).then_some(()));
    }
}

/// One request on a connection of its own for a ticket, and then GET and POST on one each that begins with what they say.
const AIOQUIC_EARLY: &str = r#"
async def once(method, ticket):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    configuration.server_name = "shop.test"
    configuration.session_ticket = ticket
    tickets, early = asyncio.Queue(), ticket is not None
    where = dict(configuration=configuration, create_protocol=Client, session_ticket_handler=tickets.put_nowait)
    async with connect("127.0.0.1", int(sys.argv[1]), wait_connected=not early, **where) as client:
        id = client.ask(method)
        await asyncio.wait_for(client.waiting[id], 60)
        next = await asyncio.wait_for(tickets.get(), 60)
        said = [client.status[id]]
        if early:
            said.append(client._quic.tls.early_data_accepted)
        return said, next

async def main():
    first, ticket = await once("GET", None)
    second, ticket = await once("GET", ticket)
    third, ticket = await once("POST", ticket)
    print(*(second + third + first))

asyncio.run(main())
"#;

/// Another process takes the place of this one, three times, while requests are under way: those come to their end on the process they
/// began on, be it three before, and new connections are served meanwhile.
#[test]
fn an_upgrade_leaves_connections_where_they_are() {
    let Some(python) = python_with("aioquic") else { return };
    let (machine, _backend, port) = machine();
    let mut command = Command::new(python);
    command.args(["-u", "-c", AIOQUIC_UPGRADE, &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Leashed::start(&mut command).unwrap();
    let (mut tells, mut says) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()).lines());
    let mut ask = |what: &str| {
        writeln!(tells, "{what}").unwrap();
        says.next().unwrap_or_else(|| panic!("{what}: it has ended")).unwrap()
    };
    let mut pids = vec![machine.pid()];
    for turn in 0..3 {
        // One in the middle has none of its own, and is needed all the same.
        if turn != 1 {
            assert_eq!(ask("begin"), "begun");
        }
        signal(pids[turn], "USR2");
        pids.push(successor(&machine, turn));
        eventually("it has taken over", || {
            (machine.log().matches("another process has the place of this one").count() > turn).then_some(())
        });
        assert_eq!(ask("new"), "200");
        // The one before has left the control half and all else.
        eventually("the API answers", || {
            machine.try_api("GET", "/apis/v2/healthz", "").ok().filter(|answer| answer.status == 200)
        });
    }
    // For longer than anybody is patient.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ask("new"), "200");
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
    assert_eq!(ask("end"), "200 whole, 200 whole, 200 whole, 200 whole");
    pids[..3].iter().for_each(|pid| gone(*pid));
    assert_eq!(ask("new"), "200");
    signal(pids[3], "TERM");
    gone(pids[3]);
}

/// `begin`: two connections with a request each that is not at its end. `end`: those end. `new`: a request over a connection of its own.
const AIOQUIC_UPGRADE: &str = r#"
import asyncio, ssl, sys
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.status, self.body, self.ended = "", b"", asyncio.get_event_loop().create_future()

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.status = dict(event.headers).get(b":status", b"").decode()
            elif isinstance(event, DataReceived):
                self.body += event.data
            if event.stream_ended and event.stream_id == 0:
                self.ended.set_result(None)

    def begin(self, method):
        self._quic.get_next_available_stream_id()
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", b"shop.test"), (b":path", b"/")]
        self.http.send_headers(0, head, end_stream=method == b"GET")

    def say(self, body, end):
        self.http.send_data(0, body, end_stream=end)
        self.transmit()

def connected():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    configuration.server_name = "shop.test"
    return connect("127.0.0.1", int(sys.argv[1]), configuration=configuration, create_protocol=Client)

async def main():
    loop, begun = asyncio.get_event_loop(), []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "begin":
            for _ in range(2):
                opened = connected()
                client = await opened.__aenter__()
                client.begin(b"POST")
                client.say(b"begun ", False)
                begun.append((opened, client))
            print("begun")
        elif line.strip() == "new":
            async with connected() as client:
                client.begin(b"GET")
                client.transmit()
                await asyncio.wait_for(client.ended, 60)
                print(client.status)
        else:
            said = []
            for opened, client in begun:
                client.say(b"and ended", True)
                await asyncio.wait_for(client.ended, 20)
                said.append(client.status + " " + ("whole" if b"begun and ended" in client.body else repr(client.body)))
                await opened.__aexit__(None, None, None)
            begun = []
            print(", ".join(said))

asyncio.run(main())
"#;

#[test]
fn ngtcp2_speaks_it() {
    let own = || program("gtlsclient").map(|client| (client, PathBuf::new()));
    let Some((client, libraries)) = parts::ngtcp2().or_else(own) else { return };
    let (machine, _backend, port) = machine();
    let url = format!("https://localhost:{port}/a");
    let run = |how: &[&str]| {
        let mut command = Command::new(&client);
        command.args(["-q", "--exit-on-all-streams-close"]).args(how).args(["127.0.0.1", &port.to_string(), &url]);
        let done = command.env("LD_LIBRARY_PATH", &libraries).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{how:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["-n", "20"]);
    counted(&machine, "HTTP/3", 20);
    // From another address in the middle of it, with new keys.
    run(&["--change-local-addr=200ms", "--key-update=100ms", "--delay-stream=300ms"]);
    counted(&machine, "HTTP/3", 21);
}

#[test]
fn chromium_speaks_it() {
    browses("HTTP/3", |port| format!("--origin-to-force-quic-on=shop.test:{port}"));
}

#[test]
fn chromium_speaks_http2() {
    browses("HTTP/2", |_| "--disable-quic".to_owned());
}

/// A browser that is told how to go there comes over this version.
fn browses(version: &str, how: impl Fn(u16) -> String) {
    let (Some(chromium), Some(_)) = (program("chromium"), program("openssl")) else { return };
    let (machine, backend, pair, folder) =
        (Machine::start(), Backend::start("one"), shop(), tempfile::tempdir().unwrap());
    machine.create(&proxy("to-one", &[backend.url()]));
    let port = serve_as(&machine, &pair, "to-one", &[("http3", true.into())]);
    eventually("it listens", || machine.log().contains("listening for HTTP/3 server=hs").then_some(()));
    // It trusts a certificate that signs itself by the digest of its key alone.
    let key = folder.path().join("key.pem");
    std::fs::write(&key, &pair.1).unwrap();
    let digest = "openssl pkey -in \"$0\" -pubout -outform der | openssl dgst -sha256 -binary | openssl base64";
    let digest = said(Path::new("/bin/sh"), &["-c", digest, &key.display().to_string()]);
    let arguments = [
        "--headless".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--enable-quic".to_owned(),
        "--host-resolver-rules=MAP shop.test 127.0.0.1".to_owned(),
        how(port),
        format!("--ignore-certificate-errors-spki-list={}", digest.trim()),
        format!("--user-data-dir={}", folder.path().join("profile").display()),
        "--dump-dom".to_owned(),
        format!("https://shop.test:{port}/a-page"),
    ];
    let text = said(&chromium, &arguments.each_ref().map(String::as_str));
    assert!(text.contains("/a-page"), "{text}");
    let log = machine.api("GET", "/metrics", "").body;
    let counted = format!("by_protocol_total{{server=\"hs\",protocol=\"{version}\"}}");
    let line = log.lines().find(|l| l.contains(&counted)).unwrap_or("");
    assert!(line.rsplit(' ').next().is_some_and(|n| n.parse::<f64>().is_ok_and(|n| n >= 1.0)), "{line}");
}
