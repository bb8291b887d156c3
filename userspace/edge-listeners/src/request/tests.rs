//! A protocol that does not exist: its streams live in memory, with windows both ways, trailers, resets with a reason, and no
//! socket. What serves it serves any protocol.

use super::{Served, admit, remember, serve};
use crate::client_stream::{AnswerHead, BodyFailure, ClientStream, Follows, Reset};
use crate::http_server::Local;
use crate::{Timeouts, Traffic, tunnel};
use base_runtime::net::Pipe;
use base_runtime::time::Deadline;
use base_runtime::{Buf, Config, IoMode, Runtime};
use base_telemetry::{Identity, Telemetry};
use base_tls::Session;
use edge_pipeline::filter::{Build, Check};
use edge_pipeline::{Body, BodyError, BodyStream, Duplex, Exchange, Filter, FilterKind, Piece, SUCCESS, Sight, Step};
use proto_http::{Headers, Limits, Response, h1};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

macro_rules! spec {
    ($text:expr) => {
        base_model::decode(&base_model::yaml::parse_document($text).expect("good YAML"), "")
            .expect("a good document")
            .value
    };
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_stream_without_a_socket_gets_interim_answers_data_and_trailers() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        for piece in ["one", "two", "three"] {
            stream.client_sends(piece);
        }
        stream.client_ends(&[("x-sum", "11")]);
        let served = stream.serve(&local, "echo", POST).await;
        assert!(matches!(served, Served::Answered), "{served:?}");
        let state = stream.0.borrow();
        assert_eq!(state.interim, [103]);
        assert_eq!((state.status, state.length), (200, None));
        assert_eq!(state.answer, b"onetwothree");
        assert_eq!(state.trailers.as_ref().and_then(|t| t.text("x-sum")), Some("11"));
        assert!(state.ended && state.reset.is_none());
    });
}

#[test]
fn a_closed_window_stops_the_answer_and_then_its_source() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        for _ in 0..100 {
            stream.client_sends("0123456789");
        }
        stream.client_ends(&[]);
        stream.0.borrow_mut().window = 25;
        let task = {
            let (stream, local) = (stream.clone(), local.clone());
            base_runtime::spawn(async move { stream.serve(&local, "echo", POST).await }.map_drop())
        };
        turns().await;
        assert!(!task.is_finished());
        let (sent, left) = (stream.0.borrow().answer.len(), stream.0.borrow().body.len());
        assert!(sent <= 35 && left >= 96, "{sent} bytes sent, {left} pieces left");
        stream.open_window(10_000);
        turns().await;
        assert!(task.is_finished());
        assert_eq!(stream.0.borrow().answer.len(), 1000);
    });
}

#[test]
fn an_answer_that_breaks_off_resets_the_stream_with_its_reason() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        stream.client_sends("some");
        stream.0.borrow_mut().body.push_back(Err(BodyError::Malformed { status: 400 }));
        stream.serve(&local, "echo", POST).await;
        let state = stream.0.borrow();
        assert_eq!((state.status, &state.answer[..], state.ended), (200, &b"some"[..], false));
        assert_eq!(state.reset, Some(Reset::AnswerBroken));
    });
}

#[test]
fn a_client_that_takes_nothing_is_reset_as_slow() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        stream.client_sends("more than it takes");
        stream.0.borrow_mut().window = 0;
        stream.serve(&local, "echo", POST).await;
        assert_eq!(stream.0.borrow().reset, Some(Reset::ClientSlow));
    });
}

#[test]
fn a_client_that_goes_ends_its_request() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        let task = {
            let (stream, local) = (stream.clone(), local.clone());
            base_runtime::spawn(async move { stream.serve(&local, "wait", POST).await }.map_drop())
        };
        turns().await;
        assert!(!task.is_finished());
        stream.goes();
        turns().await;
        assert!(task.is_finished());
        assert_eq!((stream.0.borrow().status, stream.0.borrow().reset), (0, Some(Reset::ClientGone)));
    });
}

#[test]
fn a_body_beyond_its_limit_is_refused_by_its_length_and_by_its_bytes() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        stream.0.borrow_mut().announced = Some(1 << 40);
        stream.serve(&local, "echo", POST).await;
        assert_eq!(stream.0.borrow().status, 413);

        let stream = Memory::default();
        stream.client_sends("0123456789");
        stream.client_sends("0123456789");
        stream.client_ends(&[]);
        stream.serve(&local, "small", POST).await;
        assert_eq!(stream.0.borrow().status, 413);
    });
}

#[test]
fn both_sides_of_a_connect_are_joined_without_a_socket() {
    on_a_worker(|local| async move {
        let (stream, backend) = (Memory::default(), Memory::default());
        BACKEND.with_borrow_mut(|slot| *slot = Some(backend.clone()));
        let served = stream.serve(&local, "dial", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").await;
        let Served::Joined(joined, _held) = served else { panic!("{served:?}") };
        assert_eq!(stream.0.borrow().status, 200);
        assert_eq!(stream.0.borrow().follows, Some(Follows::Duplex));
        stream.client_sends("up");
        backend.client_sends("down");
        backend.client_ends(&[]);
        let client = stream.clone();
        let task = base_runtime::spawn(async move {
            let deadline = Deadline::new();
            let patience = tunnel::Patience { silence: Duration::from_secs(600), stopping: false };
            let end = tunnel::join(&client, &*joined, &deadline, || patience).await.end;
            assert_eq!(end, tunnel::TunnelEnd::Finished);
        });
        turns().await;
        assert_eq!((&backend.0.borrow().answer[..], &stream.0.borrow().answer[..]), (&b"up"[..], &b"down"[..]));
        assert!(stream.0.borrow().ended && !task.is_finished(), "one direction goes on when the other has ended");
        stream.client_ends(&[]);
        turns().await;
        assert!(task.is_finished() && backend.0.borrow().ended);
    });
}

#[test]
fn a_connect_without_a_tunnel_is_not_told_that_it_has_one() {
    on_a_worker(|local| async move {
        let stream = Memory::default();
        let served = stream.serve(&local, "dial", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").await;
        assert!(matches!(served, Served::Answered), "{served:?}");
        let state = stream.0.borrow();
        assert_eq!((state.status, &state.answer[..], state.length), (502, &b""[..], Some(0)));
    });
}

/// One stream, from both of its ends; a handle.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<State>>);

struct State {
    /// Pieces the peer has sent, and nobody has read.
    body: VecDeque<Result<Vec<u8>, BodyError>>,
    body_ends: bool,
    announced: Option<u64>,
    limit: u64,
    read: u64,
    failed: Option<BodyError>,
    body_trailers: Option<Headers>,
    interim: Vec<u16>,
    status: u16,
    length: Option<u64>,
    follows: Option<Follows>,
    answer: Vec<u8>,
    trailers: Option<Headers>,
    ended: bool,
    reset: Option<Reset>,
    /// Bytes the peer takes before it says that it takes more.
    window: usize,
    gone: bool,
    wakers: Vec<Waker>,
}

impl Default for State {
    fn default() -> State {
        State {
            body: VecDeque::new(),
            body_ends: false,
            announced: None,
            limit: u64::MAX,
            read: 0,
            failed: None,
            body_trailers: None,
            interim: Vec::new(),
            status: 0,
            length: None,
            follows: None,
            answer: Vec::new(),
            trailers: None,
            ended: false,
            reset: None,
            window: usize::MAX,
            gone: false,
            wakers: Vec::new(),
        }
    }
}

impl Memory {
    fn client_sends(&self, text: &str) {
        self.0.borrow_mut().body.push_back(Ok(text.as_bytes().to_vec()));
        self.wake();
    }

    fn client_ends(&self, trailers: &[(&str, &str)]) {
        let mut fields = Headers::default();
        trailers.iter().for_each(|(name, value)| fields.set(*name, *value));
        self.0.borrow_mut().body_ends = true;
        self.0.borrow_mut().body_trailers = Some(fields);
        self.wake();
    }

    fn open_window(&self, bytes: usize) {
        self.0.borrow_mut().window += bytes;
        self.wake();
    }

    fn goes(&self) {
        self.0.borrow_mut().gone = true;
        self.wake();
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.0.borrow_mut().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Serves one request on it, with the pipeline that has this filter.
    async fn serve(&self, local: &Local, host: &str, text: &str) -> Served {
        let mut exchange = Exchange::default();
        let text = text.replace("Host: a\r\n", &format!("Host: {host}\r\n"));
        let head = h1::parse_request(text.as_bytes(), &Limits::default(), &mut exchange.default_space().request);
        assert!(head.is_ok_and(|head| head.is_some()), "{text}");
        let mut stream = self.clone();
        admit(local, &stream, &mut exchange);
        remember(&mut exchange);
        serve(local, &mut stream, &mut exchange).await
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, BodyError>> {
        let mut state = self.0.borrow_mut();
        match state.body.pop_front() {
            Some(Ok(piece)) => {
                state.read += piece.len() as u64;
                if state.read > state.limit {
                    state.failed = Some(BodyError::TooLarge);
                    return Poll::Ready(Err(BodyError::TooLarge));
                }
                Poll::Ready(Ok(Some(piece)))
            }
            Some(Err(error)) => {
                state.failed = Some(error);
                Poll::Ready(Err(error))
            }
            None if state.body_ends => Poll::Ready(Ok(None)),
            None => {
                state.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_window(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        if state.answer.len() < state.window {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl BodyStream for Memory {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.poll_sent(cx).map_ok(|piece| piece.map(|bytes| Piece::Buf(Buf::copy_from(&bytes))))
    }

    fn remaining(&self) -> Option<u64> {
        self.0.borrow().announced
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.0.borrow_mut().body_trailers.take()
    }
}

impl ClientStream for Memory {
    fn peer(&self) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 1))
    }

    fn session(&self) -> Option<Rc<Session>> {
        None
    }

    fn offers_upgrade(&self) -> bool {
        false
    }

    fn take_body(&mut self, limit: Option<u64>) -> Body {
        self.0.borrow_mut().limit = limit.unwrap_or(u64::MAX);
        Body::Stream(Box::new(self.clone()))
    }

    fn body_failure(&self) -> Option<BodyFailure> {
        let error = self.0.borrow().failed?;
        Some(BodyFailure { error, limit: None })
    }

    fn request_bytes(&self) -> u64 {
        self.0.borrow().read
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        if state.gone {
            return Poll::Ready(());
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn send_interim(&mut self, response: &Response) {
        self.0.borrow_mut().interim.push(response.status);
    }

    fn takes_pipes(&self) -> bool {
        false
    }

    fn send_head(&mut self, head: &AnswerHead<'_>, first: Option<Piece>) {
        {
            let mut state = self.0.borrow_mut();
            assert_eq!(state.status, 0, "one answer has one head");
            (state.status, state.length, state.follows) = (head.response.status, head.length, Some(head.follows));
        }
        first.into_iter().for_each(|piece| self.send_data(piece));
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_window(cx)
    }

    fn send_data(&mut self, piece: Piece) {
        match piece {
            Piece::Buf(buffer) => self.0.borrow_mut().answer.extend_from_slice(&buffer),
            Piece::Bytes(bytes) => self.0.borrow_mut().answer.extend_from_slice(&bytes),
            Piece::Pipe(_) => unreachable!("it takes none"),
        }
    }

    fn poll_send_pipe(&mut self, _: &mut Pipe, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unreachable!("it takes none")
    }

    fn send_end(&mut self, trailers: Option<&Headers>) {
        self.0.borrow_mut().trailers = trailers.cloned();
        self.0.borrow_mut().ended = true;
    }

    fn poll_settled(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn bytes_said(&self) -> u64 {
        self.0.borrow().answer.len() as u64
    }

    fn bytes_taken(&self) -> u64 {
        let state = self.0.borrow();
        state.answer.len().min(state.window) as u64
    }

    fn reset(&mut self, why: Reset) {
        self.0.borrow_mut().reset = Some(why);
    }
}

impl Duplex for Memory {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let piece = self.poll_sent(cx).map_ok(|piece| piece.map(|bytes| Buf::copy_from(&bytes)));
        piece.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, _: usize) -> Poll<io::Result<()>> {
        self.poll_window(cx)
    }

    fn send(&self, bytes: Buf) {
        self.0.borrow_mut().answer.extend_from_slice(&bytes);
    }

    fn shutdown(&self) {
        self.0.borrow_mut().ended = true;
    }

    fn abort(&self) {
        self.0.borrow_mut().reset = Some(Reset::AnswerBroken);
    }
}

thread_local! {
    static BACKEND: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Says 103 and sends back what it is sent.
struct Echo;

impl Filter for Echo {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        exchange.interim.push(Response::with_status(103));
        let body = std::mem::take(&mut exchange.space().request_body);
        exchange.respond(Response::with_status(200), body);
        Step::Done(SUCCESS)
    }
}

/// Gathers the body, and answers with the status that says how that went.
struct Gather;

impl Filter for Gather {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(async move {
            let status = match exchange.space().request_body.collect(1 << 20).await {
                Ok(_) => 200,
                Err(BodyError::TooLarge) => 413,
                Err(_) => 400,
            };
            exchange.respond(Response::with_status(status), Body::Empty);
            SUCCESS
        })
    }
}

/// Waits for ever.
struct Wait;

impl Filter for Wait {
    fn handle<'a>(&'a self, _: &'a mut Exchange) -> Step<'a> {
        Step::wait(std::future::pending())
    }
}

/// Makes a tunnel to the stream that the test has put there, and an answer without one when there is none.
struct Dial;

impl Filter for Dial {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        exchange.upgraded = BACKEND.with_borrow_mut(Option::take).map(|backend| Box::new(backend) as Box<dyn Duplex>);
        let body = if exchange.upgraded.is_some() { Body::Empty } else { Body::full("no tunnel") };
        exchange.respond(Response::with_status(200), body);
        Step::Done(SUCCESS)
    }

    fn makes_tunnels(&self) -> bool {
        true
    }
}

fn kind(name: &str) -> Option<&'static FilterKind> {
    const fn made_by(kind: &'static str, build: Build) -> FilterKind {
        let (schema, check): (fn() -> _, Check) = (|| serde_json::Value::Null, |_, _, _| {});
        FilterKind { kind, results: &[], doc: "", schema, check, build }
    }
    static ECHO: FilterKind = made_by("Echo", |_, _| Ok(Arc::new(Echo)));
    static GATHER: FilterKind = made_by("Gather", |_, _| Ok(Arc::new(Gather)));
    static WAIT: FilterKind = made_by("Wait", |_, _| Ok(Arc::new(Wait)));
    static DIAL: FilterKind = made_by("Dial", |_, _| Ok(Arc::new(Dial)));
    [&ECHO, &GATHER, &WAIT, &DIAL].into_iter().find(|kind| kind.kind == name)
}

const SERVER: &str = "
address: 127.0.0.1
port: 0
rules:
- {host: echo, paths: [{backend: Echo}]}
- {host: small, paths: [{backend: Gather, clientMaxBodySize: 15}]}
- {host: wait, paths: [{backend: Wait}]}
- {paths: [{backend: Dial}]}
";

/// Runs a test on a worker that has a server.
fn on_a_worker<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Local>) -> F + Send + 'static) {
    let config = Config { io: IoMode::Epoll, workers: Some(1), name: "request".to_owned(), ..Config::default() };
    let runtime = Runtime::start(config).expect("epoll works everywhere");
    let identity =
        Identity { cluster_name: "c".to_owned(), cluster_role: "primary".to_owned(), instance_name: "i".to_owned() };
    let timeouts =
        Timeouts { send: Duration::from_millis(50), grace: Duration::from_millis(50), ..Timeouts::default() };
    let workers = runtime.workers().to_vec();
    let traffic = Traffic::with_kinds(workers, "test", Telemetry::new(identity, 1), None, timeouts, kind);
    for name in ["Echo", "Gather", "Wait", "Dial"] {
        let text = format!("filters: [{{name: f, kind: {name}}}]");
        traffic.apply_pipeline(name, &spec!(&text)).expect("a good pipeline");
    }
    traffic.apply_server("web", &spec!(SERVER)).expect("a good server");
    let (sender, receiver) = mpsc::channel();
    runtime.workers()[0].spawn(move || async move {
        let mut local = Local::of("web");
        while local.is_none() {
            base_runtime::yield_now().await;
            local = Local::of("web");
        }
        test(local.expect("it was waited for")).await;
        let _ = sender.send(());
    });
    receiver.recv().expect("the test holds");
    traffic.stop();
}

/// Lets everything that can go on go on.
async fn turns() {
    for _ in 0..20 {
        base_runtime::yield_now().await;
    }
}

/// A task has no output.
trait MapDrop: Future + Sized {
    async fn map_drop(self) {
        drop(self.await);
    }
}

impl<F: Future> MapDrop for F {}
