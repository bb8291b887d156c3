//! gRPC end to end with the clients and servers people have: grpcio, in four shapes, with deadlines, large messages and a slow reader; over
//! TLS on both sides, with the services of health and reflection that come beside it.

use crate::cookbook::recipe;
use crate::http3_upstream::local;
use crate::parts;
use crate::world::{Machine, eventually, free_port, program};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A python that has what it is to import.
struct Python {
    program: PathBuf,
    /// Where it looks for modules beside its own.
    modules: Option<PathBuf>,
}

impl Python {
    /// One with these modules, if it can be had.
    fn with(modules: &str) -> Option<Python> {
        let found = program("python3")?;
        let own = [PathBuf::from("/usr/bin/python3"), found.clone()].map(|program| Python { program, modules: None });
        let has = |python: &Python| {
            let mut command = python.command();
            command.args(["-c", &format!("import {modules}")]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let brought = || parts::grpcio().map(|modules| Python { program: found, modules: Some(modules) });
        let python = own.into_iter().find(has).or_else(|| brought().filter(has));
        if python.is_none() {
            println!(
                "skipped: python3 has not the modules {modules} (pip3 install grpcio grpcio-health-checking grpcio-reflection)"
            );
        }
        python
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(modules) = &self.modules {
            command.env("PYTHONPATH", modules);
        }
        command
    }

    /// What the script says; it must end well.
    fn run(&self, script: &str, arguments: &[&str]) -> String {
        let done = self.command().args(["-c", script]).args(arguments).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
        told
    }
}

/// A server of grpcio that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Python, script: &str, arguments: &[&str]) -> Server {
        let mut command = python.command();
        command.args(["-c", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn speaks(io: &str) {
    let Some(python) = Python::with("grpc") else { return };
    let servers = ["one", "two"].map(|name| Server::start(&python, SERVER, &[name]));
    let mut machine = Machine::new("m1").flags(["--io", io, "--log-dir", "log", "--disable-access=false"]);
    machine.run();
    let (front, dead) = (free_port(), free_port());
    let [one, two] = [servers[0].port, servers[1].port];
    machine.create(&format!(
        "kind: Pipeline\nname: both\nfilters:\n- kind: GRPCProxy\n  name: g\n  pools:\n  - servers:\n    \
         - url: http://127.0.0.1:{one}\n    - url: http://127.0.0.1:{two}\n"
    ));
    machine.create(&format!(
        "kind: Pipeline\nname: dead\nfilters:\n- kind: GRPCProxy\n  name: g\n  pools:\n  - servers:\n    \
         - url: http://127.0.0.1:{dead}\n"
    ));
    machine.create(&format!(
        "kind: Pipeline\nname: short\nfilters:\n- kind: GRPCProxy\n  name: g\n  timeout: 300ms\n  pools:\n  - servers:\n    \
         - url: http://127.0.0.1:{one}\n"
    ));
    machine.create(
        "kind: Pipeline\nname: limited\nfilters:\n- kind: Mock\n  name: m\n  rules:\n  - match: {pathPrefix: /}\n    code: 429\n",
    );
    machine.create(&format!(
        "kind: GRPCServer\nname: front\nport: {front}\ngrpcWeb: true\nrules:\n- methods:\n  - {{methodPrefix: /dead., backend: dead}}\n  \
         - {{methodPrefix: /short., backend: short}}\n  - {{methodPrefix: /limited., backend: limited}}\n  \
         - {{methodPrefix: /absent., backend: nobody}}\n  \
         - {{methodPrefix: /blocked., backend: both, ipFilter: {{blockIPs: [127.0.0.1]}}}}\n  \
         - {{methodRegexp: '^/echo\\.', backend: both}}\n"
    ));
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", front)).ok());
    python.run(CLIENT, &[&front.to_string()]);
    let log = || std::fs::read_to_string(machine.directory.join("log/filter_http_access.log")).unwrap_or_default();
    for status in ["grpc-status: 0", "grpc-status: 4", "grpc-status: 5", "grpc-status: 14"] {
        eventually("the access log tells it", || log().contains(status).then_some(()));
    }
    let counted = "weir_limit_hits_total{limit=\"grpc_deadline\"} ";
    // Its server may end it first: it was told of the deadline.
    assert!(machine.api("GET", "/metrics", "").body.contains(counted));
}

#[test]
fn grpcio_speaks_it_in_four_shapes() {
    speaks("epoll");
}

#[test]
fn grpcio_speaks_it_in_four_shapes_over_uring() {
    speaks("uring");
}

/// The recipe of the cookbook, with three servers in the places that it names.
#[test]
fn the_recipe_of_the_cookbook_leads_calls_where_it_says() {
    let Some(python) = Python::with("grpc") else { return };
    let servers = ["one", "two", "next"].map(|name| Server::start(&python, SERVER, &[name]));
    let (machine, front) = (Machine::start(), free_port());
    let at = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port));
    machine.create(&recipe(
        "grpc",
        &[
            ("port: 8850", &format!("port: {front}")),
            ("127.0.0.1:9095", &at[0]),
            ("127.0.0.1:9096", &at[1]),
            ("127.0.0.1:9097", &at[2]),
        ],
    ));
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", front)).ok());
    assert_eq!(python.run(FOLLOWS_RECIPE, &[&front.to_string(), &at[0]]).trim(), "well");
}

/// What servers of grpcio with its own services ask for.
const OWN_SERVICES: &str =
    "grpc_health.v1.health_pb2_grpc, grpc_reflection.v1alpha.proto_reflection_descriptor_database";

/// Two servers of grpcio with its own services, behind TLS and a front that speaks TLS.
struct Services {
    machine: Machine,
    _servers: [Server; 2],
    front: u16,
    /// The file of the certificate that all of them show.
    certificate: String,
}

impl Services {
    fn start(python: &Python) -> Services {
        let (machine, pair) = (Machine::start(), local());
        let files = ["pair.pem", "pair.key"].map(|name| machine.directory.join(name).display().to_string());
        std::fs::write(&files[0], &pair.0).unwrap();
        std::fs::write(&files[1], &pair.1).unwrap();
        let servers = ["one", "two"].map(|name| Server::start(python, SERVICES, &[name, &files[0], &files[1]]));
        let urls = servers.each_ref().map(|server| json!({"url": format!("https://127.0.0.1:{}", server.port)}));
        let check = json!({"interval": "100ms", "service": "shop"});
        let filter = json!({
            "kind": "GRPCProxy", "name": "g", "mtls": {"rootCertBase64": pair.0},
            "pools": [{"servers": urls, "healthCheck": check}],
        });
        machine.create(&json!({"kind": "Pipeline", "name": "relay", "filters": [filter]}).to_string());
        let front = free_port();
        let rules = json!([{"methods": [{"methodPrefix": "/", "backend": "relay"}]}]);
        let server = json!({
            "kind": "GRPCServer", "name": "front", "port": front, "https": true, "grpcWeb": true, "rules": rules,
            "certs": {"a": pair.0}, "keys": {"a": pair.1},
        });
        machine.create(&server.to_string());
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", front)).ok());
        let [certificate, _] = files;
        Services { machine, _servers: servers, front, certificate }
    }
}

/// TLS in front and behind; servers are asked for their health in their own protocol, get no calls while they say NOT_SERVING, and say
/// what they serve (reflection) through the front.
#[test]
fn grpcio_with_its_own_services_over_tls() {
    let Some(python) = Python::with(OWN_SERVICES) else { return };
    let services = Services::start(&python);
    let told = python.run(ASKS_SERVICES, &[&services.front.to_string(), &services.certificate]);
    assert_eq!(told.trim(), "well");
}

/// In gRPC by what the servers say of themselves, and in gRPC-Web, which has no such stream, by a schema on the disk.
#[test]
fn buf_curl_asks_in_grpc_and_grpc_web() {
    let (Some(python), Some(buf)) = (Python::with(OWN_SERVICES), program("buf")) else { return };
    let services = Services::start(&python);
    let schema = services.machine.directory.join("schema");
    std::fs::create_dir(&schema).unwrap();
    std::fs::write(schema.join("health.proto"), HEALTH).unwrap();
    let schema = schema.display().to_string();
    let ask = |arguments: &[&str], service: &str| {
        let url = format!("https://127.0.0.1:{}/grpc.health.v1.Health/Check", services.front);
        let data = json!({"service": service}).to_string();
        let mut command = Command::new(&buf);
        command.args(["curl", "--cacert", &services.certificate, "--data", &data]).args(arguments).arg(url);
        let done = command.env("XDG_CACHE_HOME", &services.machine.directory).stdin(Stdio::null()).output().unwrap();
        let told = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (done.status.success(), told.concat())
    };
    for arguments in [
        &["--protocol", "grpc"][..],
        &["--protocol", "grpc", "--schema", &schema],
        &["--protocol", "grpcweb", "--schema", &schema],
    ] {
        let (well, told) = ask(arguments, "shop");
        assert!(well && told.contains("SERVING"), "{arguments:?}: {told}");
        let (well, told) = ask(arguments, "none");
        assert!(!well && told.contains("not_found"), "{arguments:?}: {told}");
    }
}

/// The part of grpc/health/v1/health.proto that is asked.
const HEALTH: &str = r#"
syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
"#;

/// Answers any method by its last word; messages are bytes, and no protobuf.
const SERVER: &str = r#"
import concurrent.futures, sys, time
import grpc
name = sys.argv[1].encode()
def unary(request, context):
    context.send_initial_metadata((("x-server", sys.argv[1]),))
    context.set_trailing_metadata((("x-timeout", "%.3f" % min(context.time_remaining() or 1e6, 1e6)),))
    return request
def slow(request, context):
    time.sleep(5)
    return request
def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not 100 % gr\u00fcn")
def down(request, context):
    for n in range(int(request)):
        yield b"%d" % n
def endless(request, context):
    while context.is_active():
        yield b"x"
        time.sleep(0.05)
def up(requests, context):
    return b"%d" % sum(len(message) for message in requests)
def both(requests, context):
    for message in requests:
        yield message
SHAPES = {"Unary": grpc.unary_unary_rpc_method_handler(unary), "Slow": grpc.unary_unary_rpc_method_handler(slow),
          "Fail": grpc.unary_unary_rpc_method_handler(fail), "Down": grpc.unary_stream_rpc_method_handler(down),
          "Endless": grpc.unary_stream_rpc_method_handler(endless), "Up": grpc.stream_unary_rpc_method_handler(up), "Both": grpc.stream_stream_rpc_method_handler(both)}
class Any(grpc.GenericRpcHandler):
    def service(self, details):
        return SHAPES.get(details.method.rsplit("/", 1)[1])
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=(Any(),), options=options)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"#;

/// Calls of the shop that name the next release go to its server, whatever else they name; all others are spread over the two.
const FOLLOWS_RECIPE: &str = r#"
import sys
import grpc
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=[("grpc.enable_retries", 0)])
def ask(method, *metadata):
    reply, call = channel.unary_unary(method).with_call(b"a", metadata=metadata, timeout=60, wait_for_ready=True)
    assert reply == b"a"
    return dict(call.initial_metadata())["x-server"], float(dict(call.trailing_metadata())["x-timeout"])
release = ("x-release", "next")
for more in ((), (("x-target", sys.argv[2]),)):
    named = {ask("/shop.Orders/Unary", release, *more)[0] for _ in range(4)}
    assert named == {"next"}, named
for method, metadata in (("/shop.Orders/Unary", ()), ("/shop.Orders/Unary", (("x-release", "last"),)), ("/other.S/Unary", (release,))):
    told = [ask(method, *metadata) for _ in range(6)]
    assert {server for server, _ in told} == {"one", "two"}, told
    # Whatever a client has time for, the pool's own time ends it before.
    assert all(left <= 10 for _, left in told), told
assert [int(m) for m in channel.unary_stream("/shop.Orders/Down")(b"100", timeout=60)] == list(range(100))
print("well")
"#;

/// A server with TLS, health and reflection; its method Health sets what it says of the service `shop`.
const SERVICES: &str = r#"
import concurrent.futures, sys
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
servicer = health.HealthServicer()
servicer.set("shop", health_pb2.HealthCheckResponse.SERVING)
def name(request, context):
    return sys.argv[1].encode()
def set_health(request, context):
    servicer.set("shop", int(request))
    return sys.argv[1].encode()
METHODS = {"/echo.S/Name": grpc.unary_unary_rpc_method_handler(name), "/echo.S/Health": grpc.unary_unary_rpc_method_handler(set_health)}
class Any(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)
server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=(Any(),), options=[("grpc.so_reuseport", 0)])
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
pair = [(open(sys.argv[3], "rb").read(), open(sys.argv[2], "rb").read())]
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
server.start()
print(port, flush=True)
server.wait_for_termination()
"#;

const ASKS_SERVICES: &str = r#"
import sys, time
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
credentials = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
channel = grpc.secure_channel("127.0.0.1:" + sys.argv[1], credentials, options=[("grpc.enable_retries", 0)])
name = channel.unary_unary("/echo.S/Name")
def until(wanted):
    """Ten calls in a row go to these servers, and to each of them."""
    end = time.monotonic() + 60
    while True:
        try:
            found = {name(b"", timeout=20) for _ in range(10)}
        except grpc.RpcError as error:
            found = error
        if found == wanted:
            return
        assert time.monotonic() < end, found
        time.sleep(0.05)
both = {b"one", b"two"}
until(both)
services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
assert services == {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}, services
stub = health_pb2_grpc.HealthStub(channel)
assert stub.Check(health_pb2.HealthCheckRequest(service="shop"), timeout=20).status == 1
try:
    stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=20)
    raise SystemExit("no failure")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
watch = stub.Watch(health_pb2.HealthCheckRequest(service="shop"), timeout=60)
assert next(watch).status == 1
watch.cancel()
# One that says NOT_SERVING gets no calls, without one that fails.
sick = channel.unary_unary("/echo.S/Health")(b"2", timeout=20)
until(both - {sick})
# The other one too: nobody is left.
other = channel.unary_unary("/echo.S/Health")(b"2", timeout=20)
assert {sick, other} == both
end = time.monotonic() + 60
while True:
    try:
        name(b"", timeout=20)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        break
    assert time.monotonic() < end
    time.sleep(0.05)
print("well")
"#;

const CLIENT: &str = r#"
import queue, sys, threading, time
import grpc
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=options)
unary = lambda name: channel.unary_unary("/" + name)
def code(call, *given, **more):
    try:
        call(*given, **more)
        return 0
    except grpc.RpcError as error:
        return error.code().value[0]
for _ in range(100):
    if code(unary("echo.S/Unary"), b"ready") == 0:
        break
    time.sleep(0.1)
# Calls are spread, however few connections there are; bytes that are no protobuf pass, and metadata of any name.
servers = set()
for _ in range(8):
    reply, call = unary("echo.S/Unary").with_call(b"\xff\xfe raw", metadata=(("with_underscore", "a"), ("x-bin", b"\x00\x01")))
    assert reply == b"\xff\xfe raw"
    servers |= {value for key, value in call.initial_metadata() if key == "x-server"}
assert servers == {"one", "two"}, servers
# A deadline is told on, and is shorter there than here.
reply, call = unary("echo.S/Unary").with_call(b"", timeout=20)
left = float(dict(call.trailing_metadata())["x-timeout"])
assert 1 < left < 21, left
reply, call = unary("echo.S/Unary").with_call(b"")
assert float(dict(call.trailing_metadata())["x-timeout"]) == 1e6
# So is ours, to a server whose client has none.
reply, call = unary("short.S/Unary").with_call(b"")
left = float(dict(call.trailing_metadata())["x-timeout"])
assert 0 < left <= 0.3, left
large = bytes(range(256)) * 65536
assert unary("echo.S/Unary")(large) == large
assert [int(m) for m in channel.unary_stream("/echo.S/Down")(b"1000")] == list(range(1000))
assert channel.stream_unary("/echo.S/Up")(iter([b"z" * 1000] * 500)) == b"500000"
# One message is answered before the next is sent.
sent = queue.Queue()
call = channel.stream_stream("/echo.S/Both")(iter(sent.get, None))
for n in range(50):
    sent.put(b"%d" % n)
    assert next(call) == b"%d" % n
sent.put(None)
assert list(call) == [] and call.code() == grpc.StatusCode.OK
# Who does not read holds up who sends, and nothing is lost of it.
given = [0]
def messages():
    for n in range(400):
        given[0] += 1
        yield bytes([n % 256]) * 65536
call = channel.stream_stream("/echo.S/Both")(messages())
first = next(call)
last = -1
while given[0] != last:
    last = given[0]
    time.sleep(0.5)
assert last < 400, "26 MB are on their way to one who does not read"
assert first[0] == 0 and [m[0] for m in call] == [n % 256 for n in range(1, 400)]
try:
    unary("echo.S/Fail")(b"")
    raise SystemExit("no failure")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() == "not 100 % gr\u00fcn", error
assert code(unary("echo.S/Nothing"), b"") == 12
# What is ours to say.
for name, wanted in (("dead.S/Unary", 14), ("none.S/Unary", 5), ("absent.S/Unary", 5), ("blocked.S/Unary", 7), ("limited.S/Unary", 8),
                     ("short.S/Slow", 4), ("short.S/Unary", 0)):
    assert code(unary(name), b"") == wanted, (name, code(unary(name), b""))
# The time of a stream ends it in the middle.
call = channel.unary_stream("/short.S/Endless")(b"")
got = 0
try:
    for _ in call:
        got += 1
    raise SystemExit("an end without a failure")
except grpc.RpcError as error:
    assert error.code().value[0] == 4 and got >= 1, (error, got)
# What pages in browsers speak, over HTTP/1.1.
import base64, http.client, struct
def web(path, kind, body):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer, answer.read()
def frames(body):
    found = []
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        found.append((flag, body[5:5 + length]))
        body = body[5 + length:]
    return found
message = b"\x00\x00\x00\x9c\x40" + b"w" * 40000
for kind in ("application/grpc-web+proto", "application/grpc-web-text"):
    text = "text" in kind
    answer, body = web("/echo.S/Unary", kind, base64.b64encode(message) if text else message)
    if text:
        # Each piece is padded by itself.
        body = b"".join(base64.b64decode(body[n:n + 4]) for n in range(0, len(body), 4))
    assert answer.status == 200 and answer.headers["content-type"].startswith(kind.split("+")[0]), answer.headers
    (flag, said), (last, trailers) = frames(body)
    assert (flag, said, last) == (0, b"w" * 40000, 0x80) and b"grpc-status: 0\r\n" in trailers, (flag, last, trailers)
    answer, body = web("/none.S/Unary", kind, b"")
    assert answer.status == 200 and answer.headers["grpc-status"] == "5" and body == b"", (answer.headers, body)
print("well")
"#;
