//! Clients that know every byte they must get.

use super::backend::Deaths;
use super::script::{Behaviour, Random, Script, bytes};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for the next byte of an answer. Silence is answered with 408 long before.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where clients go.
pub struct Target {
    pub port: u16,
    /// Port and settings of the server that speaks TLS.
    pub tls: Option<(u16, Arc<rustls::ClientConfig>)>,
    pub deaths: Deaths,
}

/// What became of one request.
#[derive(Debug)]
pub enum Outcome {
    /// As scripted; the status.
    Right(u16),
    /// An error that the state of the backends explains; the status, 0 for a cut answer.
    Excused(u16),
    /// The client itself hung up.
    HungUp,
    Wrong(String),
}

/// One client, for one connection after another.
pub struct Client<'a> {
    target: &'a Target,
    random: Random,
    connection: Option<KeptConnection>,
}

struct KeptConnection {
    stream: Stream,
    input: Vec<u8>,
    /// Requests it served, and the last of them.
    served: usize,
    last: String,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

/// A request with what is needed to judge its answer.
struct Ask {
    script: Script,
    method: &'static str,
    body: Vec<u8>,
    chunked: bool,
    expects_continue: bool,
    http10: bool,
    sent: Instant,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    complete: bool,
    closes: bool,
}

impl<'a> Client<'a> {
    pub fn new(target: &'a Target, seed: u64, index: usize) -> Client<'a> {
        Client { target, random: Random::of(seed, "client", index), connection: None }
    }

    /// One request, or a few in one go; what became of each.
    pub fn turn(&mut self) -> Vec<Outcome> {
        let count = if self.random.once_in(12) { 2 + self.random.below(4) as usize } else { 1 };
        let asks: Vec<Ask> = (0..count).map(|_| self.invent(count > 1)).collect();
        let fresh = self.connection.is_none() || self.random.once_in(6);
        if fresh {
            self.connection = match self.connect() {
                Ok(connection) => Some(connection),
                Err(error) => return vec![Outcome::Wrong(format!("cannot connect: {error}"))],
            };
        }
        let Some(mut connection) = self.connection.take() else { return Vec::new() };
        if self.random.once_in(40) {
            return vec![hang_up(connection, &asks[0], &mut self.random)];
        }
        let mut outcomes = Vec::new();
        let mut asks = asks;
        for ask in &mut asks {
            ask.sent = Instant::now();
        }
        let sent = connection.send(&asks, &mut self.random);
        let mut keep = true;
        for ask in &asks {
            let answer = match &sent {
                Ok(Some(early)) if count == 1 => Ok(early),
                _ => Err(()),
            };
            let read;
            let answer = match answer {
                Ok(early) => Ok(early),
                Err(()) => {
                    read = connection.receive(ask);
                    read.as_ref()
                }
            };
            match answer {
                Ok(answer) => {
                    let outcome = self.judge(ask, answer);
                    keep = answer.complete && !answer.closes && !ask.http10;
                    outcomes.push(outcome);
                    connection.served += 1;
                    connection.last = format!("{ask}, answered with {}", answer.status);
                    if !keep {
                        break;
                    }
                }
                // Without framing of its own only a reset tells that an answer is cut, and it may overtake the head.
                Err(error)
                    if ask.http10
                        && error.kind() == io::ErrorKind::ConnectionReset
                        && (ask.script.behaviour.may_be_cut() || self.excused(ask)) =>
                {
                    outcomes.push(Outcome::Excused(0));
                    keep = false;
                }
                Err(error) => {
                    outcomes.push(Outcome::Wrong(format!(
                        "no answer to {ask} on a connection that had served {}, last {}: {error}; sent: {:?}",
                        connection.served,
                        connection.last,
                        sent.as_ref().map(|e| e.as_ref().map(|a| a.status)),
                    )));
                    keep = false;
                    break;
                }
            }
        }
        if keep && !connection.input.is_empty() {
            outcomes.push(Outcome::Wrong(format!(
                "{} bytes nobody asked for after {}",
                connection.input.len(),
                asks[0]
            )));
            keep = false;
        }
        if keep && !self.random.once_in(10) {
            self.connection = Some(connection);
        }
        outcomes
    }

    fn connect(&mut self) -> io::Result<KeptConnection> {
        let tls = self.target.tls.as_ref().filter(|_| self.random.once_in(3));
        let stream = TcpStream::connect(("127.0.0.1", tls.map_or(self.target.port, |t| t.0)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some((_, settings)) => {
                let name = "soak.test".try_into().map_err(io::Error::other)?;
                let session = rustls::ClientConnection::new(settings.clone(), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(rustls::StreamOwned::new(session, stream)))
            }
        };
        Ok(KeptConnection { stream, input: Vec::new(), served: 0, last: "none".to_owned() })
    }

    fn invent(&mut self, pipelined: bool) -> Ask {
        let random = &mut self.random;
        let pool = random.pick(&["steady", "steady", "streamed", "streamed", "restless", "mortal", "flicker"]);
        let method = match random.below(20) {
            _ if pipelined => "GET",
            0 => "HEAD",
            1..10 => "GET",
            10..13 => "PUT",
            _ => "POST",
        };
        let has_body = matches!(method, "PUT" | "POST");
        let behaviour = match random.below(100) {
            _ if pipelined || method == "HEAD" => random.pick(Behaviour::WHOLE),
            0 if random.once_in(4) => Behaviour::Silent,
            0..8 => random.pick(Behaviour::BROKEN),
            8..14 if has_body => Behaviour::Early,
            14..17 => Behaviour::Extra,
            _ => random.pick(Behaviour::WHOLE),
        };
        let size = match behaviour {
            // It has to fit one segment together with what follows.
            Behaviour::Extra => random.below(4000) as usize,
            // Something must be missing.
            behaviour if behaviour.must_be_cut() => 2 + random.size(),
            _ => random.size(),
        };
        let body = if has_body { bytes(random.draw(), random.size().min(250_000)) } else { Vec::new() };
        Ask {
            script: Script { pool: pool.to_owned(), behaviour, size, nonce: random.draw() },
            method,
            chunked: has_body && random.once_in(2),
            expects_continue: !body.is_empty() && random.once_in(10),
            http10: method == "GET" && !pipelined && random.once_in(16),
            body,
            sent: Instant::now(),
        }
    }

    fn judge(&self, ask: &Ask, answer: &Answer) -> Outcome {
        let behaviour = ask.script.behaviour;
        let status = answer.status;
        let head = ask.method == "HEAD";
        let expected = if head { Vec::new() } else { ask.script.answer(&ask.body) };
        let is_whole = answer.complete && answer.body == expected;
        let scripted = behaviour.statuses();
        if status == 200 || matches!(behaviour, Behaviour::Fails if status == 500) {
            // A part of the right bytes may come, wrong ones never.
            if !expected.starts_with(&answer.body) {
                let at = expected.iter().zip(&answer.body).take_while(|(a, b)| a == b).count();
                let (had, wanted) = (answer.body.len(), expected.len());
                return Outcome::Wrong(format!("{ask}: {status} differs at byte {at} ({had} came, {wanted} expected)"));
            }
            if is_whole && (scripted.contains(&status)) {
                return Outcome::Right(status);
            }
            if answer.complete {
                let (had, wanted) = (answer.body.len(), expected.len());
                return Outcome::Wrong(format!("{ask}: {status} looks complete with {had} of {wanted} bytes"));
            }
            if behaviour.may_be_cut() || self.excused(ask) {
                return Outcome::Excused(0);
            }
            return Outcome::Wrong(format!(
                "{ask}: broken off after {} of {} bytes",
                answer.body.len(),
                expected.len()
            ));
        }
        if !answer.complete {
            return Outcome::Wrong(format!("{ask}: a {status} was broken off"));
        }
        if scripted.contains(&status) {
            return Outcome::Right(status);
        }
        let pool = ask.script.pool.as_str();
        let repeatable = ask.body.is_empty() && matches!(ask.method, "GET" | "HEAD");
        let excused = match status {
            404 => pool == "flicker",
            503 => pool == "flicker" || (pool == "restless" && !repeatable) || self.excused(ask),
            500 | 502 => self.excused(ask),
            _ => false,
        };
        if excused { Outcome::Excused(status) } else { Outcome::Wrong(format!("{ask}: answered with {status}")) }
    }

    fn excused(&self, ask: &Ask) -> bool {
        ask.script.pool == "mortal" && self.target.deaths.touched(ask.sent, Instant::now())
    }
}

/// Sends or reads a part and leaves, in one of the ways clients do.
fn hang_up(mut connection: KeptConnection, ask: &Ask, random: &mut Random) -> Outcome {
    let mut whole = ask.head();
    whole.extend(ask.framed_body());
    let part = 1 + random.below(whole.len() as u64) as usize;
    let _ = connection.stream.write_all(&whole[..part]);
    if random.once_in(2) {
        thread::sleep(Duration::from_millis(random.below(20)));
    }
    if part == whole.len() && random.once_in(2) {
        let _ = connection.stream.read(&mut [0; 1000]);
    }
    if random.once_in(3) {
        let _ = rustix::net::sockopt::set_socket_linger(connection.stream.socket(), Some(Duration::ZERO));
    } else if random.once_in(2) {
        let _ = connection.stream.socket().shutdown(Shutdown::Write);
        thread::sleep(Duration::from_millis(random.below(20)));
    }
    Outcome::HungUp
}

impl KeptConnection {
    /// Sends all; an answer that came instead of a 100 is given back.
    fn send(&mut self, asks: &[Ask], random: &mut Random) -> io::Result<Option<Answer>> {
        if let [ask] = asks {
            let head = ask.head();
            if ask.expects_continue {
                self.stream.write_all(&head)?;
                loop {
                    let answer = self.answer(ask)?;
                    match answer.status {
                        100 => break,
                        101..200 => {}
                        _ => return Ok(Some(answer)),
                    }
                }
                self.stream.write_all(&ask.framed_body())?;
                return Ok(None);
            }
            let body = ask.framed_body();
            if body.is_empty() || random.once_in(3) {
                self.stream.write_all(&[head, body].concat())?;
                return Ok(None);
            }
            self.stream.write_all(&head)?;
            // Not in so many pieces that their pauses outlast the pool's time-out.
            for piece in body.chunks(1 + body.len() / 40 + random.below(body.len() as u64) as usize) {
                self.stream.write_all(piece)?;
                if random.once_in(4) {
                    thread::sleep(Duration::from_millis(random.below(5)));
                }
            }
            return Ok(None);
        }
        let all: Vec<u8> = asks.iter().flat_map(Ask::head).collect();
        self.stream.write_all(&all)?;
        Ok(None)
    }

    /// The final answer.
    fn receive(&mut self, ask: &Ask) -> io::Result<Answer> {
        loop {
            let answer = self.answer(ask)?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    /// The next answer, an interim one as well.
    fn answer(&mut self, ask: &Ask) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).to_lowercase();
        self.input.drain(..end + 4);
        let status: u16 = head
            .strip_prefix("http/1.")
            .and_then(|h| h.get(2..5)?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {head}")))?;
        let field = |name: &str| {
            head.lines().filter_map(|l| l.split_once(':')).find(|(n, _)| *n == name).map(|(_, v)| v.trim().to_owned())
        };
        let closes = field("connection").is_some_and(|v| v == "close");
        let mut answer = Answer { status, body: Vec::new(), complete: true, closes };
        if status < 200 || status == 204 || status == 304 || ask.method == "HEAD" {
            return Ok(answer);
        }
        let framed = match (field("transfer-encoding"), field("content-length")) {
            (Some(_), _) => self.chunks(&mut answer.body),
            (None, Some(length)) => {
                let length = length.parse().map_err(io::Error::other)?;
                self.take(length, &mut answer.body)
            }
            (None, None) if ask.http10 => {
                answer.closes = true;
                loop {
                    match self.more() {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
                .map(|()| answer.body.append(&mut self.input))
            }
            (None, None) => Err(io::Error::other("no framing")),
        };
        if let Err(error) = framed {
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                return Err(io::Error::other(format!("nothing came for {PATIENCE:?} in the middle of an answer")));
            }
            if error.kind() == io::ErrorKind::Other {
                return Err(error);
            }
            answer.complete = false;
        }
        Ok(answer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                self.take(1, &mut line)?;
            }
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(&text, 16).map_err(|_| io::Error::other(format!("chunk {text:?}")))?;
            if size > 0 {
                self.take(size, body)?;
            }
            let mut end = Vec::new();
            self.take(2, &mut end)?;
            if end != b"\r\n" {
                return Err(io::Error::other(format!("{end:?} after a chunk")));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// What comes goes to `to` even when not all of it does.
    fn take(&mut self, length: usize, to: &mut Vec<u8>) -> io::Result<()> {
        let mut left = length;
        loop {
            let now = left.min(self.input.len());
            to.extend(self.input.drain(..now));
            left -= now;
            if left == 0 {
                return Ok(());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 32 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.input.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }
}

impl Ask {
    fn head(&self) -> Vec<u8> {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} {} HTTP/{version}\r\nHost: soak.test\r\n", self.method, self.script.path());
        if matches!(self.method, "PUT" | "POST") {
            match self.chunked {
                true => head.push_str("Transfer-Encoding: chunked\r\n"),
                false => head.push_str(&format!("Content-Length: {}\r\n", self.body.len())),
            }
        }
        if self.expects_continue {
            head.push_str("Expect: 100-continue\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn framed_body(&self) -> Vec<u8> {
        if !self.chunked {
            return self.body.clone();
        }
        let mut framed = Vec::new();
        let mut rest = self.body.as_slice();
        let mut random = Random::new(self.script.nonce);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((1 + random.size()).min(rest.len()));
            framed.extend(format!("{:x}\r\n", piece.len()).bytes());
            framed.extend(piece);
            framed.extend(b"\r\n");
            rest = more;
        }
        framed.extend(b"0\r\n\r\n");
        framed
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.chunked { "chunked" } else { "length" };
        let version = if self.http10 { " (HTTP/1.0)" } else { "" };
        let expects = if self.expects_continue { ", expects 100" } else { "" };
        write!(f, "{} {}{version} with {} bytes ({how}{expects})", self.method, self.script.path(), self.body.len())
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(into),
            Stream::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
