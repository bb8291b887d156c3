//! Both sides of HTTP/2 over sockets of one worker.

use base_runtime::net::{ListenOptions, TcpListener, TcpStream};
use base_runtime::{
    Buf, Config, IoMode, Runtime,
    channel::{OneshotReceiver, oneshot},
};
use proto_h2::server::{self, Body as _, Engine as _, ResponseOptions, Stream as _};
use proto_h2::{ClientSettings, Data, Progress, ServerSettings, client};
use proto_http::{Headers, Limits, Method, Request, Response};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

fn run<F, Fut>(io: IoMode, make: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let config = Config { io, workers: Some(1), name: "test".to_owned(), ..Config::default() };
    let runtime = Runtime::start(config).expect("the driver works here");
    let (sender, receiver) = oneshot();
    runtime.workers()[0].spawn(move || {
        let future = make();
        async move {
            // For what hangs, not for what is slow.
            base_runtime::time::timeout(Duration::from_secs(60), future).await.expect("it ends");
            let _ = sender.send(());
        }
    });
    receiver.wait().expect("the task neither panicked nor hung");
    runtime.shutdown();
}

async fn pair() -> (TcpStream, TcpStream) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, ListenOptions::default()).unwrap();
    let client = TcpStream::connect(listener.local_addr()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Our machine answers every request with what it was sent, trailers included.
async fn echo(stream: TcpStream) {
    let mut machine = server::accept(stream.into(), &ServerSettings::default());
    while let Some(Ok(mut stream)) = poll_fn(|cx| machine.poll_accept(cx)).await {
        base_runtime::spawn(async move {
            let mut request = Request::default();
            stream.read_head(&Limits::default(), &mut request).unwrap();
            assert_eq!((request.method, request.authority.as_str()), (Method::Post, "a.test"));
            let options = ResponseOptions { length: None, date: "" };
            stream.send_head(&Response::with_status(200), &options, false).unwrap();
            let mut body = stream.take_body().unwrap();
            let progress = Rc::<Progress>::default();
            while let Some(bytes) = poll_fn(|cx| body.poll_data(cx)).await.unwrap() {
                poll_fn(|cx| progress.poll_waiting(32 * 1024, cx)).await;
                // As bytes, and as buffers.
                let data = match bytes.len() % 2 {
                    0 => Data::from(bytes),
                    _ => Data::from(Buf::copy_from(&bytes)),
                };
                stream.send_data(data.counted(&progress), false).unwrap();
            }
            let trailers = body.trailers(&Limits::default()).unwrap().map(|(trailers, _)| trailers);
            stream.send_end(trailers.as_ref()).unwrap();
        })
        .detach();
    }
}

async fn ask(requests: client::Requests, body: Vec<u8>) {
    let mut request = Request { method: Method::Post, ..Request::default() };
    request.set_target(b"/").unwrap();
    let options =
        client::RequestOptions { scheme: "http", authority: "a.test", prefix: "", length: None, protocol: None };
    let exchange = Rc::new(requests.ask(&request, &options, false).unwrap());
    let (sending, sent) = (exchange.clone(), body.clone());
    base_runtime::spawn(async move {
        let progress = Rc::<Progress>::default();
        for piece in sent.chunks(20_000) {
            poll_fn(|cx| progress.poll_waiting(32 * 1024, cx)).await;
            sending.send_data(Data::from(Buf::copy_from(piece)).counted(&progress), false).unwrap();
        }
        poll_fn(|cx| progress.poll_waiting(0, cx)).await;
        assert_eq!((progress.handed(), progress.written()), (sent.len() as u64, sent.len() as u64));
        let mut trailers = Headers::new();
        trailers.add("x-end", "yes");
        sending.send_end(Some(&trailers)).unwrap();
    })
    .detach();
    let limits = Limits::default();
    let (response, length) = poll_fn(|cx| exchange.poll_head(&limits, cx)).await.unwrap();
    assert_eq!((response.status, length), (200, None));
    let mut came = Vec::new();
    while let Some(bytes) = poll_fn(|cx| exchange.poll_data(cx)).await.unwrap() {
        came.extend_from_slice(&bytes);
    }
    assert!(came == body, "{} of {} bytes came back", came.len(), body.len());
    let trailers = exchange.trailers(&limits).unwrap().expect("they were sent");
    assert_eq!(trailers.value("x-end"), Some(&b"yes"[..]));
}

/// How a connection ended, and how many bytes had come by then.
type End = (Result<(), client::Ended>, u64);

/// Drives a connection to its end.
fn begin(stream: TcpStream) -> (client::Requests, OneshotReceiver<End>) {
    let (requests, mut driver) = client::begin(stream.into(), &ClientSettings::default());
    let (sender, receiver) = oneshot();
    base_runtime::spawn(async move {
        let ended = poll_fn(|cx| driver.poll(cx)).await;
        let _ = sender.send((ended, driver.bytes_in()));
    })
    .detach();
    (requests, receiver)
}

async fn many_streams() {
    let (near, far) = pair().await;
    base_runtime::spawn(echo(far)).detach();
    let (requests, ended) = begin(near);
    let mut asking = Vec::new();
    for size in [0, 1, 1_000, 100_000, 3_000_000] {
        let (sender, receiver) = oneshot();
        let requests = requests.clone();
        base_runtime::spawn(async move {
            ask(requests, (0..size).map(|at| (at % 251) as u8).collect()).await;
            let _ = sender.send(());
        })
        .detach();
        asking.push(receiver);
    }
    for receiver in asking {
        receiver.await.expect("it was answered");
    }
    assert_eq!(requests.streams(), 0);
    requests.leave();
    let (ended, bytes) = ended.await.expect("it ends");
    assert!(ended == Ok(()) && bytes > 3_101_001, "{ended:?} {bytes}");
    assert!(!requests.is_open());
}

/// Nothing that was written stays behind, and no buffer is held between turns.
async fn idle_holds_no_buffer() {
    let (near, far) = pair().await;
    base_runtime::spawn(echo(far)).detach();
    let (requests, _ended) = begin(near);
    ask(requests.clone(), vec![7; 100_000]).await;
    base_runtime::time::sleep(Duration::from_millis(50)).await;
    let stats = base_runtime::current_worker().unwrap().stats();
    assert_eq!(stats.buffers_in_use - stats.buffers_ready, 0);
}

#[test]
fn many_streams_on_the_ring() {
    run(IoMode::Uring, many_streams);
}

#[test]
fn many_streams_on_epoll() {
    run(IoMode::Epoll, many_streams);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    run(IoMode::Epoll, idle_holds_no_buffer);
}
