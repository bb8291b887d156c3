//! An upstream that speaks HTTP/2 in the clear, on a thread of its own beside the load: it answers what the generator's own does, and calls
//! of gRPC with what they have sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::generator::pattern::{Pattern, WINDOWS};

/// See the module doc; it ends when this is dropped.
pub struct H2Upstream {
    pub address: SocketAddr,
    asked: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl H2Upstream {
    /// Listens on a port of its own; answers have so many bytes.
    pub fn start(size: usize) -> Result<H2Upstream, String> {
        let failed = |error: std::io::Error| format!("upstream of HTTP/2: {error}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (asked, (stop, stopped)) = (Arc::<AtomicU64>::default(), oneshot::channel());
        let pattern = Pattern::new("/", size, 0, false);
        let bodies = (0..WINDOWS).map(|window| Bytes::copy_from_slice(pattern.response_body(window))).collect();
        let answers = Answers { bodies, asked: asked.clone() };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, answers) => {}
                }
            });
        });
        Ok(H2Upstream { address, asked, stop: Some(stop), thread: Some(thread) })
    }

    /// Counts what it was asked.
    pub fn asked(&self) -> Arc<AtomicU64> {
        self.asked.clone()
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Answers {
    bodies: Arc<[Bytes]>,
    asked: Arc<AtomicU64>,
}

async fn accept(listener: std::net::TcpListener, answers: Answers) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, answers.clone()));
    }
}

async fn serve(stream: TcpStream, answers: Answers) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1000).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        answers.asked.fetch_add(1, Ordering::Relaxed);
        let is_call =
            request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        match is_call {
            true => drop(tokio::spawn(call(request, respond))),
            false => answer(&answers, &request, respond),
        }
    }
}

fn answer(answers: &Answers, request: &Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let window = request.uri().path().rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
    let body = window.and_then(|window| answers.bodies.get(window));
    let status = if body.is_some() { 200 } else { 404 };
    let body = body.cloned().unwrap_or_default();
    let head =
        Response::builder().status(status).header("content-type", "text/plain").header("content-length", body.len());
    if let Ok(head) = head.body(())
        && let Ok(mut sending) = respond.send_response(head, false)
    {
        let _ = sending.send_data(body, true);
    }
}

/// A call of gRPC: its message comes back.
async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        message.extend_from_slice(&piece);
    }
    let Ok(head) = Response::builder().header("content-type", "application/grpc").body(()) else { return };
    let Ok(mut sending) = respond.send_response(head, false) else { return };
    let _ = sending.send_data(message.into(), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = sending.send_trailers(trailers);
}
