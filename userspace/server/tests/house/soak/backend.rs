//! Backends that do as the request's path says, and die when they are told.

use super::script::{Behaviour, Random, Script};
use crate::world::free_port;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One server on a port of its own.
pub struct Backend {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    down: AtomicBool,
    ended: AtomicBool,
    /// Closes a kept connection after an answer, unannounced, once in so many times; 0 never.
    restless: u64,
    open: Mutex<HashMap<u64, TcpStream>>,
    served: AtomicU64,
}

impl Backend {
    pub fn start(restless: u64, seed: u64) -> Backend {
        let port = free_port();
        let state = Arc::new(State {
            down: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            restless,
            open: Mutex::default(),
            served: AtomicU64::new(0),
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let own = state.clone();
        thread::spawn(move || own.live(listener, port, seed));
        Backend { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Closes its port and every connection, and opens again after `down`.
    pub fn die(&self, down: Duration) {
        self.state.down.store(true, Ordering::SeqCst);
        self.state.hang_up();
        thread::sleep(down);
        self.state.down.store(false, Ordering::SeqCst);
        // It listens again when somebody is served.
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::Relaxed)
    }

    /// Closes every connection; new ones are taken.
    pub fn hang_up(&self) {
        self.state.hang_up();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.hang_up();
    }
}

impl State {
    fn hang_up(&self) {
        for (_, stream) in self.open.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn live(self: Arc<Self>, first: TcpListener, port: u16, seed: u64) {
        let mut listener = Some(first);
        let mut number = 0;
        while !self.ended.load(Ordering::SeqCst) {
            if self.down.load(Ordering::SeqCst) {
                listener = None;
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            let Some(open) = &listener else {
                listener = TcpListener::bind(("127.0.0.1", port)).ok();
                continue;
            };
            // Not to wait for ever for a connection while it should be dead.
            open.set_nonblocking(true).unwrap();
            match open.accept() {
                Err(_) => thread::sleep(Duration::from_millis(1)),
                Ok((stream, _)) => {
                    number += 1;
                    stream.set_nonblocking(false).unwrap();
                    let _ = stream.set_nodelay(true);
                    let Ok(twin) = stream.try_clone() else { continue };
                    self.open.lock().unwrap().insert(number, twin);
                    let (own, random) = (self.clone(), Random::of(seed, "backend", number as usize));
                    thread::spawn(move || {
                        let _ = Talk { input: Vec::new(), stream, random }.serve(&own);
                        own.open.lock().unwrap().remove(&number);
                    });
                }
            }
        }
    }
}

/// One connection.
struct Talk {
    stream: TcpStream,
    input: Vec<u8>,
    random: Random,
}

/// What becomes of the connection.
enum After {
    Again,
    /// What was said still arrives.
    Close,
    Drop,
}

struct Asked {
    script: Script,
    head: bool,
    length: Option<usize>,
    chunked: bool,
}

impl Talk {
    fn serve(mut self, state: &State) -> io::Result<()> {
        while let Some(asked) = self.request()? {
            let script = &asked.script;
            let early = script.behaviour.ignores_body();
            let body = if early { Vec::new() } else { self.body(&asked)? };
            let content = script.answer(&body);
            state.served.fetch_add(1, Ordering::Relaxed);
            match self.answer(&asked, &content)? {
                After::Again => {}
                After::Close => return self.close(),
                After::Drop => return Ok(()),
            }
            if early {
                self.body(&asked)?;
            }
            if state.restless > 0 && self.random.once_in(state.restless) {
                return self.close();
            }
        }
        Ok(())
    }

    /// The end of our side, and reading until that of the other: no reset takes the answer away.
    fn close(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && self.stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    }

    fn answer(&mut self, asked: &Asked, content: &[u8]) -> io::Result<After> {
        let half = content.len() / 2;
        let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        let pause = Duration::from_millis(1 + self.random.below(60));
        match asked.script.behaviour {
            behaviour if asked.head => {
                let head = match behaviour {
                    Behaviour::NoContent => "HTTP/1.1 204 No Content\r\n\r\n",
                    Behaviour::NotModified => "HTTP/1.1 304 Not Modified\r\n\r\n",
                    Behaviour::Fails => &format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n", content.len()),
                    _ => &length,
                };
                self.say(head.as_bytes())?;
            }
            Behaviour::Length | Behaviour::Early => self.say(&[length.as_bytes(), content].concat())?,
            Behaviour::EarlyClose => {
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", content.len());
                self.say(&[head.as_bytes(), content].concat())?;
                // Bytes that are never read make this a reset.
                return Ok(After::Drop);
            }
            Behaviour::Chunked => {
                let mut all = chunked.into_bytes();
                let mut rest = content;
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at((1 + self.random.below(9000) as usize).min(rest.len()));
                    all.extend(chunk(piece));
                    rest = more;
                }
                all.extend(b"0\r\n\r\n");
                self.say(&all)?;
            }
            Behaviour::Close => {
                self.say(&[b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", content].concat())?;
                return Ok(After::Close);
            }
            Behaviour::Interim => {
                self.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")?;
                thread::sleep(pause / 4);
                self.say(&[b"HTTP/1.1 102 Processing\r\n\r\n", length.as_bytes(), content].concat())?;
            }
            Behaviour::Late => {
                thread::sleep(pause * 4);
                self.say(&[length.as_bytes(), content].concat())?;
            }
            Behaviour::Stall => {
                self.say(&[length.as_bytes(), &content[..half]].concat())?;
                thread::sleep(pause * 4);
                self.say(&content[half..])?;
            }
            Behaviour::Drip => {
                self.say(length.as_bytes())?;
                for piece in content.chunks(content.len() / 20 + 1) {
                    self.say(piece)?;
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Behaviour::Extra => {
                // In one write, so that it is there before the next request can be.
                let evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                self.say(&[length.as_bytes(), content, evil].concat())?;
                return Ok(After::Close);
            }
            Behaviour::NoContent => self.say(b"HTTP/1.1 204 No Content\r\n\r\n")?,
            Behaviour::NotModified => self.say(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")?,
            Behaviour::Fails => {
                let head = format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n", content.len());
                self.say(&[head.as_bytes(), content].concat())?;
            }
            Behaviour::Silent => {
                self.stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                let _ = self.stream.read(&mut [0; 1]);
                return Ok(After::Drop);
            }
            Behaviour::Reset => {
                self.reset();
                return Ok(After::Drop);
            }
            Behaviour::ResetMid => {
                self.say(&[length.as_bytes(), &content[..half]].concat())?;
                thread::sleep(pause / 4);
                self.reset();
                return Ok(After::Drop);
            }
            Behaviour::Short => {
                self.say(&[length.as_bytes(), &content[..half]].concat())?;
                return Ok(After::Close);
            }
            Behaviour::ShortChunks => {
                self.say(&[chunked.as_bytes(), &chunk(&content[..half])].concat())?;
                return Ok(After::Close);
            }
            Behaviour::BadChunk => {
                self.say(&[chunked.as_bytes(), &chunk(&content[..half]), b"xyz\r\n", &content[half..]].concat())?;
                return Ok(After::Close);
            }
            Behaviour::Garbage => {
                let what = super::script::bytes(asked.script.nonce, 200);
                self.say(&what)?;
                return Ok(After::Close);
            }
        }
        Ok(After::Again)
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    fn request(&mut self) -> io::Result<Option<Asked>> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            if !self.more()? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let script = Script::parse(path).ok_or_else(|| io::Error::other(format!("no script: {head}")))?;
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|l| l.split_once(':'));
            fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
        };
        Ok(Some(Asked {
            head: method == "HEAD",
            length: field("content-length").and_then(|v| v.parse().ok()),
            chunked: field("transfer-encoding").is_some(),
            script,
        }))
    }

    fn body(&mut self, asked: &Asked) -> io::Result<Vec<u8>> {
        if !asked.chunked {
            return self.take(asked.length.unwrap_or(0));
        }
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.take(2)?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|w| w == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < length {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.input.split_off(length);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 32 << 10];
        let count = self.stream.read(&mut piece)?;
        self.input.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    if piece.is_empty() {
        return Vec::new();
    }
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

/// When backends of a pool were not to be relied on.
#[derive(Default)]
pub struct Deaths(Mutex<Vec<(Instant, Option<Instant>)>>);

impl Deaths {
    /// Lets a backend die and come back.
    pub fn happen(&self, backend: &Backend, down: Duration) {
        let place = {
            let mut all = self.0.lock().unwrap();
            all.push((Instant::now(), None));
            all.len() - 1
        };
        backend.die(down);
        self.0.lock().unwrap()[place].1 = Some(Instant::now());
    }

    /// Whether one was dead, or had been a moment ago, at any time between.
    pub fn touched(&self, from: Instant, to: Instant) -> bool {
        let all = self.0.lock().unwrap();
        all.iter().rev().take(50).any(|(began, ended)| *began <= to && ended.is_none_or(|e| e + AFTERWARDS >= from))
    }
}

/// A connection that died with its backend is noticed within this time.
const AFTERWARDS: Duration = Duration::from_secs(1);
