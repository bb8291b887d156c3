//! A backend that writes down every byte, and reads with nobody's parser but its own strict one.

use super::reader::{self, From, Reading, Request};
use super::responses::Answer;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

pub struct Backend {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    numbers: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    /// What `/answer/N` is answered with.
    answers: Arc<Vec<Answer>>,
}

/// What came on one connection, in one piece as far as the reader is concerned.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its answer says the same in `X-Number`.
    pub number: u64,
    pub bytes: Vec<u8>,
    /// The request, or why these bytes are none.
    pub request: Result<Request, &'static str>,
}

/// Why bytes are no request when the connection ended before the reader could tell.
pub const CUT: &str = "cut short";

impl Backend {
    pub fn start(answers: Arc<Vec<Answer>>) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { answers, ..State::default() });
        let own = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.ended.load(Ordering::SeqCst) {
                    break;
                }
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        Backend { port, state }
    }

    /// What came since this was last asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// Whether such a thing came since then.
    pub fn has(&self, such: impl Fn(&Seen) -> bool) -> bool {
        self.state.seen.lock().unwrap().iter().any(such)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (mut input, mut piece) = (Vec::new(), [0; 16 << 10]);
        loop {
            match reader::read_request(&input, From::Gateway) {
                Reading::Whole(request, len) => {
                    let number = self.numbers.fetch_add(1, Ordering::SeqCst);
                    let bytes = input.drain(..len).collect();
                    let scripted = request
                        .target
                        .strip_prefix("/answer/")
                        .and_then(|n| self.answers.get(n.parse::<usize>().ok()?));
                    let body = if request.method == "HEAD" { "" } else { "seen\n" };
                    self.seen.lock().unwrap().push(Seen { number, bytes, request: Ok(request) });
                    let (bytes, closes) = match scripted {
                        Some(answer) => (answer.bytes.clone(), answer.closes),
                        None => (
                            format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\nContent-Length: 5\r\n\r\n{body}")
                                .into_bytes(),
                            false,
                        ),
                    };
                    if stream.write_all(&bytes).is_err() {
                        return;
                    }
                    if closes {
                        // The peer may still be sending; closing at once would take the answer away from it.
                        let _ = stream.shutdown(Shutdown::Write);
                        while matches!(stream.read(&mut piece), Ok(1..)) {}
                        return;
                    }
                    continue;
                }
                Reading::Bad(why) => {
                    self.note(input, why);
                    return;
                }
                Reading::Partial => {}
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => {
                    if !input.is_empty() {
                        self.note(input, CUT);
                    }
                    return;
                }
                Ok(len) => input.extend_from_slice(&piece[..len]),
            }
        }
    }

    fn note(&self, bytes: Vec<u8>, why: &'static str) {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(Seen { number, bytes, request: Err(why) });
    }
}
