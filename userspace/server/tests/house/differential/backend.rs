//! A backend that writes down every byte, and reads with nobody's parser but its own strict one.
//!
//! One thread looks at all its connections. Whoever asks what came rings at it first, and it looks at everything that is there before it
//! answers: what a gateway has sent by then belongs to the case that asks, however busy the machine is.

use super::reader::{self, From, Reading, Request};
use super::responses::Answer;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub struct Backend {
    pub port: u16,
    /// The thread ends with it.
    bell: Mutex<UnixStream>,
    seen: Arc<Mutex<Vec<Seen>>>,
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
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (bell, heard) = UnixStream::pair().unwrap();
        heard.set_nonblocking(true).unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let desk = Desk { listener, lines: Vec::new(), answers, number: 0, seen: seen.clone() };
        thread::spawn(move || desk.serve(heard));
        Backend { port, bell: Mutex::new(bell), seen }
    }

    /// What came since this was last asked.
    pub fn take(&self) -> Vec<Seen> {
        let mut bell = self.bell.lock().unwrap();
        bell.write_all(&[1]).and_then(|()| bell.read_exact(&mut [0])).expect("the backend runs");
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// Whether such a thing came since then.
    pub fn has(&self, such: impl Fn(&Seen) -> bool) -> bool {
        self.seen.lock().unwrap().iter().any(such)
    }
}

struct Desk {
    listener: TcpListener,
    lines: Vec<Line>,
    /// What `/answer/N` is answered with.
    answers: Arc<Vec<Answer>>,
    /// Of the next one that is seen.
    number: u64,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// One connection.
struct Line {
    stream: TcpStream,
    input: Vec<u8>,
    /// The last answer was given. The peer may still be sending; closing at once would take the answer away from it.
    is_over: bool,
}

impl Desk {
    fn serve(mut self, mut bell: UnixStream) {
        loop {
            let mut all = vec![PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            all.extend(self.lines.iter().map(|line| PollFd::new(&line.stream, PollFlags::IN)));
            // A signal is a look for nothing.
            let _ = poll(&mut all, None);
            let mut rung = [0];
            let has_rung = match bell.read(&mut rung) {
                Ok(0) => return,
                rung => rung.is_ok(),
            };
            self.look();
            if has_rung && bell.write_all(&rung).is_err() {
                return;
            }
        }
    }

    /// At all that has come by now.
    fn look(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let _ = stream.set_nodelay(true);
            stream.set_write_timeout(Some(TAKES_NOTHING)).unwrap();
            self.lines.push(Line { stream, input: Vec::new(), is_over: false });
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain_mut(|line| self.look_at(line));
        self.lines = lines;
    }

    /// Whether its connection goes on.
    fn look_at(&mut self, line: &mut Line) -> bool {
        let mut piece = [0; 16 << 10];
        loop {
            line.stream.set_nonblocking(true).unwrap();
            match line.stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Ok(0) | Err(_) => {
                    if !line.input.is_empty() {
                        self.note(std::mem::take(&mut line.input), Err(CUT));
                    }
                    return false;
                }
                Ok(_) if line.is_over => continue,
                Ok(len) => line.input.extend_from_slice(&piece[..len]),
            }
            // Answers are given in one piece.
            line.stream.set_nonblocking(false).unwrap();
            if !self.read(line) {
                return false;
            }
        }
    }

    /// As far as there are whole requests; false where there is nothing more to be read.
    fn read(&mut self, line: &mut Line) -> bool {
        while !line.is_over {
            match reader::read_request(&line.input, From::Gateway) {
                Reading::Whole(request, len) => {
                    let bytes = line.input.drain(..len).collect();
                    let scripted = request.target.strip_prefix("/answer/").and_then(|n| n.parse::<usize>().ok());
                    let body = if request.method == "HEAD" { "" } else { "seen\n" };
                    let number = self.note(bytes, Ok(request));
                    let given = match scripted.and_then(|n| self.answers.get(n)) {
                        Some(answer) => {
                            line.is_over = answer.closes;
                            line.stream.write_all(&answer.bytes)
                        }
                        None => {
                            let head = format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\nContent-Length: 5\r\n\r\n");
                            line.stream.write_all((head + body).as_bytes())
                        }
                    };
                    if given.is_err() {
                        return false;
                    }
                }
                Reading::Bad(why) => {
                    self.note(std::mem::take(&mut line.input), Err(why));
                    return false;
                }
                Reading::Partial => return true,
            }
        }
        line.input.clear();
        let _ = line.stream.shutdown(Shutdown::Write);
        true
    }

    fn note(&mut self, bytes: Vec<u8>, request: Result<Request, &'static str>) -> u64 {
        let number = self.number;
        self.number += 1;
        self.seen.lock().unwrap().push(Seen { number, bytes, request });
        number
    }
}

/// A gateway that takes nothing of an answer for so long does not want it.
const TAKES_NOTHING: Duration = Duration::from_secs(10);
