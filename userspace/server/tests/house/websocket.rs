//! WebSockets as their usual clients and servers speak them. Those that are not installed are named and left out.

use crate::http3::python_with;
use crate::leash::Leashed;
use crate::world::{Machine, answers, eventually, free_port, mock, program};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A machine before a backend on a port that the test's program listens on, and the ports of a WebSocketProxy that looks at frames, of
/// one that does not, of a Proxy, and of one that reaches it through another of our servers, over streams of HTTP/2.
fn machine(io: &str) -> (Machine, u16, [u16; 4]) {
    let mut machine = Machine::new("m1").flags(["--io", io]);
    machine.run();
    let (backend, ports) = (free_port(), [(); 4].map(|()| free_port()));
    let url = format!("servers: [{{url: 'ws://127.0.0.1:{backend}'}}]");
    let bounded = format!("kind: WebSocketProxy, pools: [{{{url}}}]");
    let unbounded = format!("kind: WebSocketProxy, pools: [{{{url}, clientMaxMsgSize: -1, serverMaxMsgSize: -1}}]");
    let proxy = format!("kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{backend}'}}]}}]");
    let streams = format!(
        "kind: WebSocketProxy, pools: [{{servers: [{{url: 'ws://127.0.0.1:{}'}}], http2: true, clientMaxMsgSize: -1, serverMaxMsgSize: -1}}]",
        ports[2]
    );
    machine.create(&mock("alive", "alive"));
    for (port, (name, filter)) in
        ports.into_iter().zip([("bounded", bounded), ("unbounded", unbounded), ("proxy", proxy), ("streams", streams)])
    {
        machine.create(&format!("kind: Pipeline\nname: to-{name}\nfilters: [{{name: f, {filter}}}]\n"));
        let alive = format!(
            "rules:\n- paths:\n  - path: /alive\n    backend: alive\n  - pathPrefix: /\n    backend: to-{name}\n"
        );
        machine.create(&format!(
            "kind: HTTPServer\nname: {name}\nport: {port}\nh2c: true\nclientMaxBodySize: -1\n{alive}"
        ));
        answers(port, "/alive", 200);
    }
    (machine, backend, ports)
}

/// What the program says; it must end well.
fn said(program: &Path, script: &str, backend: u16, ports: [u16; 4]) -> String {
    let mut command = Command::new(program);
    command.arg(if program.ends_with("node") { "-e" } else { "-c" }).arg(script);
    command.args([backend].iter().chain(&ports).map(u16::to_string));
    let done = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

#[test]
fn python_speaks_them() {
    let Some(python) = python_with("websockets") else { return };
    for io in ["uring", "epoll"] {
        let (mut machine, backend, ports) = machine(io);
        let text = said(&python, &[SERVE, PYTHON].concat(), backend, ports);
        let expected = "bounded: echo 100 kB refused 1009 4001 4002 0 chat\n\
                        unbounded: echo 100 kB passed 4001 4002 1 chat\n\
                        proxy: echo 100 kB passed 4001 4002 1 chat\n\
                        streams: echo 100 kB passed 4001 4002 1 chat\n";
        assert_eq!(text, expected, "{io}");
        let counted = "weir_limit_hits_total{limit=\"websocket_message_bytes\"} 1";
        eventually(counted, || machine.api("GET", "/metrics", "").body.contains(counted).then_some(()));
        // One that is open when its machine is to stop is told so.
        let mut waits = Command::new(&python);
        waits.args(["-c", &[SERVE, PYTHON_WAITS].concat(), &backend.to_string(), &ports[0].to_string()]);
        let mut waits = Leashed::start(waits.stdout(Stdio::piped())).unwrap();
        let mut lines = BufReader::new(waits.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("open"));
        machine.signal("TERM");
        assert_eq!(lines.next().as_deref(), Some("stopped 1001"), "{io}");
        assert!(waits.wait().unwrap().success());
        assert_eq!(machine.ended().code(), Some(0), "{io}");
    }
}

#[test]
fn python_speaks_them_over_http2() {
    let Some(python) = python_with("websockets, h2") else { return };
    for io in ["uring", "epoll"] {
        let (_machine, backend, ports) = machine(io);
        let text = said(&python, &[SERVE, PYTHON_H2].concat(), backend, ports);
        let expected = "200 chat hello close 4001\n".repeat(4) + "200 chat refused 1009\n";
        assert_eq!(text, expected, "{io}");
    }
}

#[test]
fn node_speaks_them() {
    let (Some(node), Some(python)) = (program("node"), python_with("websockets")) else { return };
    let mut command = Command::new(&node);
    let has = command.args(["-e", "globalThis.WebSocket ?? require('ws')"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        println!("skipped: node has no WebSocket (22 and later do; npm install -g ws, and NODE_PATH)");
        return;
    }
    let (_machine, backend, ports) = machine("auto");
    let _served = Leashed::start(Command::new(python).args(["-c", SERVE, &backend.to_string()])).unwrap();
    eventually("the backend listens", || std::net::TcpStream::connect(("127.0.0.1", backend)).ok());
    let text = said(&node, NODE, backend, ports);
    assert_eq!(text, "hello 100000 4001 bye\n".repeat(3) + "hello 1009\n");
}

/// Echoes; "close:N" makes it close with N, "big:N" answers N bytes.
const SERVE: &str = r#"
import asyncio, sys, websockets
async def echo(ws):
    try:
        async for message in ws:
            if isinstance(message, str) and message.startswith("close:"):
                return await ws.close(int(message[6:]), "bye")
            if isinstance(message, str) and message.startswith("big:"):
                message = "x" * int(message[4:])
            await ws.send(message)
    except websockets.ConnectionClosed:
        pass
    finally:
        closes.append(ws.close_code)
closes = []
async def serve():
    return await websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None, subprotocols=["chat"])
async def forever():
    await serve()
    await asyncio.Event().wait()
if len(sys.argv) == 2:
    asyncio.run(forever())
"#;

/// The same against each of the three ways, then one that the machine is to stop under. Says what came of it.
const PYTHON: &str = r#"
async def closed_by(ws, text):
    """The code the WebSocket ends with after this was sent, or what came instead."""
    await ws.send(text)
    try:
        while True:
            message = await asyncio.wait_for(ws.recv(), 30)
            if len(message) == len(text):
                return "passed"
    except websockets.ConnectionClosed:
        return f"refused {ws.close_code}" if len(text) > 20 else str(ws.close_code)
async def use(name, port):
    open_one = lambda: websockets.connect(f"ws://127.0.0.1:{port}/ws", max_size=None, subprotocols=["other", "chat"])
    async with open_one() as ws:
        for message in ["hello", "κόσμε", b"\x00\xff", "x" * 20000, ["in ", "two"], ""]:
            await ws.send(message)
            answer = await ws.recv()
            assert answer == (message if isinstance(message, (str, bytes)) else "".join(message)), (message, answer)
        await asyncio.wait_for(await ws.ping(), 30)
        extensions = getattr(ws, "extensions", None)
        extensions = len(ws.protocol.extensions if extensions is None else extensions)
        subprotocol = ws.subprotocol
        big = await closed_by(ws, "y" * 100000)
    async with open_one() as ws:
        by_server = await closed_by(ws, "close:4001")
    closes.clear()
    async with open_one() as ws:
        await ws.send("hi")
        await ws.recv()
        await ws.close(4002, "client goes")
    # That of the one before may come late.
    while 4002 not in closes:
        await asyncio.sleep(0.01)
    print(f"{name}: echo 100 kB {big} {by_server} 4002 {extensions} {subprotocol}", flush=True)
async def main():
    server = await serve()
    for name, port in zip(["bounded", "unbounded", "proxy", "streams"], sys.argv[2:]):
        await use(name, port)
asyncio.run(main())
"#;

/// A WebSocket that waits for its end, and says with which code it came.
const PYTHON_WAITS: &str = r#"
async def main():
    server = await serve()
    async with websockets.connect(f"ws://127.0.0.1:{sys.argv[2]}/ws", subprotocols=["chat"]) as ws:
        print("open", flush=True)
        try:
            await ws.recv()
        except websockets.ConnectionClosed:
            print("stopped", ws.close_code, flush=True)
asyncio.run(main())
"#;

/// Over streams of HTTP/2 (RFC 8441), frames written by hand.
const PYTHON_H2: &str = r#"
import os, socket, struct
import h2.config, h2.connection, h2.events, h2.settings
def frame(opcode, payload):
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([0x80 | size]) if size < 126 else bytes([0xfe]) + struct.pack(">H", size) if size < 65536 else bytes([0xff]) + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
class Stream:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", int(port)), 60)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.status, self.fields, self.data, self.ended = None, {}, b"", False
        self.flush()
        while not self.h2.remote_settings.enable_connect_protocol:
            self.more()
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a.test"), (":path", "/ws"),
                ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "http://a.test")]
        self.h2.send_headers(1, head)
        self.flush()
        while self.status is None:
            self.more()
    def flush(self):
        self.socket.sendall(self.h2.data_to_send())
    def more(self):
        received = self.socket.recv(65536)
        assert received, "closed early"
        for event in self.h2.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived):
                self.fields = dict(event.headers)
                self.status = self.fields[":status"]
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended = True
        self.flush()
    def send(self, data):
        while data:
            room = min(self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size)
            if not room:
                self.more()
                continue
            self.h2.send_data(1, data[:room])
            data = data[room:]
            self.flush()
    def frame(self):
        while len(self.data) < 2 or len(self.data) < 2 + (self.data[1] & 127):
            assert not self.ended
            self.more()
        size = self.data[1]
        opcode, payload, self.data = self.data[0] & 15, self.data[2:2 + size], self.data[2 + size:]
        return opcode, payload
def use(port, last):
    stream = Stream(port)
    print(stream.status, stream.fields["sec-websocket-protocol"], end=" ")
    if last == "close":
        stream.send(frame(1, b"hello"))
        print(stream.frame()[1].decode(), end=" ")
        stream.send(frame(1, b"close:4001"))
    else:
        stream.send(frame(2, b"y" * 100000))
    opcode, payload = stream.frame()
    assert opcode == 8, (opcode, payload)
    print(last, struct.unpack(">H", payload[:2])[0], flush=True)
    stream.send(frame(8, payload[:2]))
def all_of_them():
    for port in sys.argv[2:]:
        use(port, "close")
    use(sys.argv[2], "refused")
async def main():
    server = await serve()
    await asyncio.get_running_loop().run_in_executor(None, all_of_them)
asyncio.run(main())
"#;

/// As pages in browsers use them; with node's own WebSocket, or that of the package ws.
const NODE: &str = r#"
const WS = globalThis.WebSocket ?? require('ws');
const ports = process.argv.slice(2);
const use = (port, ask) => new Promise((resolve, reject) => {
  const ws = new WS(`ws://127.0.0.1:${port}/ws`, ['chat']);
  const said = [];
  ws.onopen = () => ws.send('hello');
  ws.onmessage = event => {
    said.push(event.data.length > 10 ? event.data.length : event.data);
    if (said.length <= ask.length) ws.send(ask[said.length - 1]);
  };
  ws.onerror = () => {};
  ws.onclose = event => { console.log([...said, event.code, event.reason].join(' ').trim()); resolve(); };
});
(async () => {
  for (const port of ports.slice(1)) await use(port, ['big:100000', 'close:4001']);
  await use(ports[0], ['z'.repeat(40000)]);
})();
"#;
