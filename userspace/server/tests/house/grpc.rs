//! gRPC end to end with the clients and servers people have: grpcio, in four shapes, with deadlines, large messages and a slow reader.

use crate::world::{Machine, eventually, free_port, program};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A python that has grpcio, if there is one.
fn python() -> Option<PathBuf> {
    let found = program("python3")?;
    let candidates = [PathBuf::from("/usr/bin/python3"), found];
    let has = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import grpc"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let python = candidates.into_iter().find(has);
    if python.is_none() {
        println!("skipped: python3 has no module grpc (Debian: apt install python3-grpcio)");
    }
    python
}

/// A server of grpcio that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path, name: &str) -> Server {
        let child =
            Command::new(python).args(["-c", SERVER, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
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
    let Some(python) = python() else { return };
    let servers = [Server::start(&python, "one"), Server::start(&python, "two")];
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
    let done = Command::new(&python).args(["-c", CLIENT, &front.to_string()]).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
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
