//! Clients of HTTP/2: the h2 crate's on a thread of tokio's for what should work, and frames byte by byte for what should not.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Runs it to its end, for at most two minutes: that is for what hangs.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    runtime
        .block_on(local.run_until(async { tokio::time::timeout(Duration::from_secs(120), future).await }))
        .expect("it ends")
}

#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

pub type Requests = SendRequest<Bytes>;

/// Opens a connection in the clear. The handle tells how the connection ended.
pub async fn connect(port: u16) -> (Requests, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    over(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it listens")).await
}

pub async fn over<T>(io: T) -> (Requests, tokio::task::JoinHandle<Result<(), h2::Error>>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Room for several streams that are not read.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (requests, connection) = builder.handshake(io).await.expect("it speaks HTTP/2");
    let driver = tokio::task::spawn_local(connection);
    (requests.ready().await.expect("it is open"), driver)
}

pub fn get(target: &str) -> Request<()> {
    Request::get(format!("http://a.test{target}")).body(()).expect("a request")
}

/// One request with a body, which is sent as windows allow, and its whole answer.
pub async fn ask(requests: &Requests, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
    ask_with(requests, request, body, None).await
}

pub async fn ask_with(
    requests: &Requests,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut requests = requests.clone().ready().await?;
    let (response, mut sending) = requests.send_request(request, body.is_empty() && trailers.is_none())?;
    let body = Bytes::copy_from_slice(body);
    let send = async move {
        let mut rest = body;
        while !rest.is_empty() {
            sending.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await else { return };
            let piece = rest.split_to(room.min(rest.len()));
            let ends = rest.is_empty() && trailers.is_none();
            if sending.send_data(piece, ends).is_err() {
                return;
            }
        }
        if let Some(trailers) = trailers {
            let _ = sending.send_trailers(trailers);
        }
    };
    tokio::task::spawn_local(send);
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, ..Answer::default() };
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        answer.body.extend_from_slice(&bytes);
    }
    answer.trailers = body.trailers().await?;
    Ok(answer)
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Field lines, each a literal that goes into no table (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..127 => block.push(short as u8),
                long => {
                    block.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        block.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

pub fn get_block(target: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", target)])
}

/// A connection whose preface and settings were sent.
pub struct Raw {
    pub stream: TcpStream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Raw {
    pub fn new(port: u16) -> Raw {
        Raw::with_settings(port, &[])
    }

    pub fn with_settings(port: u16, settings: &[(u16, u32)]) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out can be set");
        stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a time-out can be set");
        stream.set_nodelay(true).expect("it can be set");
        let mut raw = Raw { stream };
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        raw.send(&[PREFACE, &frame(4, 0, 0, &payload)].concat());
        raw
    }

    /// False once the other end has closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// `None` at the end; a reset is one.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The code of the GOAWAY or, where `stream` is one, of the RST_STREAM that comes; `None` when the connection ends without.
    pub fn code(&mut self, stream: u32) -> Option<u32> {
        loop {
            let frame = self.frame()?;
            let code = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().expect("four bytes"));
            match frame.kind {
                7 => return Some(code(4)),
                3 if frame.stream == stream => return Some(code(0)),
                _ => {}
            }
        }
    }

    /// The first frame of this kind.
    pub fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}
