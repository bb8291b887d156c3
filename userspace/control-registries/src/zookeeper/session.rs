//! A session with a ZooKeeper server: its wire format (jute: big-endian numbers, texts and buffers with their length before them), one
//! request at a time, watches as they come.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

/// One session on one connection. What goes wrong with it ends it.
pub struct Session {
    read: Frames,
    write: OwnedWriteHalf,
    patience: Duration,
    /// How often it must be heard of us.
    beat: Duration,
    xid: i32,
    /// Paths whose watch has fired.
    woken: BTreeSet<String>,
}

/// Why one who waits goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Woke {
    Changed(String),
    /// The server has answered meanwhile, and nothing has changed.
    Well,
}

/// What there is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    Here(T),
    /// There is no such node.
    Nothing,
    /// It may not be read without a login. No watch tells when it may.
    Forbidden,
}

impl Found<Vec<u8>> {
    fn read<T>(self, read: impl FnOnce(&mut Answer<'_>) -> Result<T, String>) -> Result<Found<T>, String> {
        match self {
            Found::Here(answer) => read(&mut Answer(&answer)).map(Found::Here),
            Found::Nothing => Ok(Found::Nothing),
            Found::Forbidden => Ok(Found::Forbidden),
        }
    }
}

/// Frames as they come, in whatever pieces.
struct Frames {
    stream: BufReader<OwnedReadHalf>,
    read: Vec<u8>,
}

impl Frames {
    /// The next one. May be given up between two pieces.
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(length) = self.read.first_chunk::<4>() {
                let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > FRAME_MAX {
                    return Err("it does not speak as ZooKeeper does; is this its client port?".to_owned());
                }
                if self.read.len() >= 4 + length {
                    let frame = self.read[4..4 + length].to_vec();
                    self.read.drain(..4 + length);
                    return Ok(frame);
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return Err("it has closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("the connection broke off: {error}")),
            }
        }
    }
}

impl Session {
    /// `patience` bounds connecting and each answer; it is also how long the server waits for us.
    pub async fn open(place: &str, patience: Duration) -> Result<Session, String> {
        let late = |what: &str| format!("{what} within {}", base_text::duration(patience));
        let stream = match timeout(patience, TcpStream::connect(place)).await {
            Ok(stream) => stream.map_err(|error| error.to_string())?,
            Err(_) => return Err(late("no connection")),
        };
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let read = Frames { stream: BufReader::new(read), read: Vec::new() };
        let mut session = Session { read, write, patience, beat: patience / 3, xid: 0, woken: BTreeSet::new() };
        // Protocol version, last zxid seen, time-out, session id, password.
        let mut hello = Request(Vec::new());
        hello.int(0).long(0).int(i32::try_from(patience.as_millis()).unwrap_or(i32::MAX)).long(0).buffer(&[0; 16]);
        session.send(&hello.0).await?;
        let answer = match timeout(patience, session.read.next()).await {
            Ok(answer) => answer?,
            Err(_) => return Err(late("no answer")),
        };
        let mut answer = Answer(&answer);
        let (_, granted) = (answer.int()?, answer.int()?);
        if granted <= 0 {
            return Err("it refused the session".to_owned());
        }
        session.beat = (Duration::from_millis(granted.unsigned_abs().into()) / 3).max(BEAT_LEAST);
        Ok(session)
    }

    /// Names of children, with a watch.
    pub async fn children(&mut self, path: &str) -> Result<Found<Vec<String>>, String> {
        self.ask(GET_CHILDREN, path).await?.read(|answer| {
            let count = answer.int()?;
            (0..count.max(0)).map(|_| answer.text()).collect()
        })
    }

    /// A node's value, with a watch.
    pub async fn value(&mut self, path: &str) -> Result<Found<Vec<u8>>, String> {
        self.ask(GET_DATA, path).await?.read(|answer| answer.buffer().map(<[u8]>::to_vec))
    }

    /// Waits until a watch fires, or for so long, and sees to it that the server knows that we live.
    pub async fn wake(&mut self, most: Duration) -> Result<Woke, String> {
        let until = Instant::now() + most;
        loop {
            if let Some(path) = self.woken.pop_first() {
                return Ok(Woke::Changed(path));
            }
            let now = Instant::now();
            if now >= until {
                return Ok(Woke::Well);
            }
            match timeout(self.beat.min(until - now), self.read.next()).await {
                Ok(frame) => drop(self.take(&frame?)?),
                Err(_) => {
                    let mut ping = Request(Vec::new());
                    ping.int(XID_PING).int(PING);
                    self.send(&ping.0).await?;
                    self.answer(XID_PING).await?;
                }
            }
        }
    }

    /// What has changed meanwhile.
    pub fn woken(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.woken)
    }

    /// What stands behind the head of the answer.
    async fn ask(&mut self, operation: i32, path: &str) -> Result<Found<Vec<u8>>, String> {
        self.xid = self.xid.wrapping_add(1).max(1);
        let xid = self.xid;
        let mut request = Request(Vec::new());
        request.int(xid).int(operation).buffer(path.as_bytes()).bool(true);
        self.send(&request.0).await?;
        match self.answer(xid).await? {
            (0, rest) => Ok(Found::Here(rest)),
            (NO_NODE, _) => Ok(Found::Nothing),
            (NO_AUTH, _) => Ok(Found::Forbidden),
            (error, _) => Err(format!("node {path} cannot be read: error {error}")),
        }
    }

    /// The answer to this request: its error, and what follows.
    async fn answer(&mut self, xid: i32) -> Result<(i32, Vec<u8>), String> {
        let until = Instant::now() + self.patience;
        loop {
            let frame = match tokio::time::timeout_at(until, self.read.next()).await {
                Ok(frame) => frame?,
                Err(_) => return Err(format!("no answer within {}", base_text::duration(self.patience))),
            };
            if let Some((of, error, rest)) = self.take(&frame)?
                && of == xid
            {
                return Ok((error, rest));
            }
        }
    }

    /// An answer: to which request, its error, what follows. An event is kept, and is no answer.
    fn take(&mut self, frame: &[u8]) -> Result<Option<(i32, i32, Vec<u8>)>, String> {
        let mut frame = Answer(frame);
        let (xid, _, error) = (frame.int()?, frame.long()?, frame.int()?);
        if xid != XID_EVENT {
            return Ok(Some((xid, error, frame.0.to_vec())));
        }
        let (kind, state, path) = (frame.int()?, frame.int()?, frame.text()?);
        if state != CONNECTED {
            return Err(format!("the session has ended (state {state})"));
        }
        if kind != NONE {
            self.woken.insert(path);
        }
        Ok(None)
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), String> {
        let length = i32::try_from(request.len()).map_err(|_| "a request is too long".to_owned())?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(request);
        match timeout(self.patience, self.write.write_all(&frame)).await {
            Ok(written) => written.map_err(|error| format!("the connection broke off: {error}")),
            Err(_) => Err(format!("it took nothing within {}", base_text::duration(self.patience))),
        }
    }
}

struct Request(Vec<u8>);

impl Request {
    fn int(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn long(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn bool(&mut self, value: bool) -> &mut Self {
        self.0.push(value.into());
        self
    }

    fn buffer(&mut self, value: &[u8]) -> &mut Self {
        self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(value);
        self
    }
}

struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or("an answer ends in the middle")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn int(&mut self) -> Result<i32, String> {
        let bytes = self.bytes(4)?;
        Ok(bytes.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)).cast_signed())
    }

    fn long(&mut self) -> Result<i64, String> {
        let bytes = self.bytes(8)?;
        Ok(bytes.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte)).cast_signed())
    }

    /// One that is missing has the length -1.
    fn buffer(&mut self) -> Result<&'a [u8], String> {
        let length = self.int()?;
        self.bytes(usize::try_from(length).unwrap_or_default())
    }

    fn text(&mut self) -> Result<String, String> {
        self.buffer().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;
const XID_EVENT: i32 = -1;
const XID_PING: i32 = -2;
const NO_NODE: i32 = -101;
const NO_AUTH: i32 = -102;
/// Of an event: nothing but that the state has changed.
const NONE: i32 = -1;
const CONNECTED: i32 = 3;
const BEAT_LEAST: Duration = Duration::from_millis(100);
/// Beyond `jute.maxbuffer` of any server that people run.
const FRAME_MAX: usize = 64 << 20;

/// By path; a node without a value may not be read.
#[cfg(test)]
pub(crate) type Nodes = std::sync::Arc<std::sync::Mutex<BTreeSet<(String, Option<String>)>>>;

/// A server of nodes that a test changes as it likes, and which says nothing of that.
#[cfg(test)]
pub(crate) async fn serve(nodes: Nodes) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut frames = Frames { stream: BufReader::new(read), read: Vec::new() };
        let mut hello = Request(Vec::new());
        frames.next().await.unwrap();
        hello.int(0).int(20_000).long(77).buffer(&[1; 16]);
        let mut frame = Request(Vec::new());
        frame.buffer(&hello.0);
        write.write_all(&frame.0).await.unwrap();
        while let Ok(asked) = frames.next().await {
            let mut request = Answer(&asked);
            let (xid, operation) = (request.int().unwrap(), request.int().unwrap());
            let mut answer = Request(Vec::new());
            answer.int(xid).long(5);
            let path = if operation == PING { String::new() } else { request.text().unwrap() };
            let known = nodes.lock().unwrap().clone();
            let below = format!("{path}/");
            let answer = match known.iter().find(|(at, _)| *at == path) {
                _ if operation == PING => answer.int(0),
                None => answer.int(NO_NODE),
                Some((_, None)) => answer.int(NO_AUTH),
                Some((_, Some(value))) if operation == GET_DATA => answer.int(0).buffer(value.as_bytes()).long(0),
                Some(_) => {
                    let children = known.iter().filter_map(|(at, _)| at.strip_prefix(&below));
                    let children: Vec<&str> = children.filter(|name| !name.contains('/')).collect();
                    let answer = answer.int(0).int(children.len() as i32);
                    children.iter().fold(answer, |answer, name| answer.buffer(name.as_bytes()))
                }
            };
            let mut frame = Request(Vec::new());
            frame.buffer(&answer.0);
            write.write_all(&frame.0).await.unwrap();
        }
    });
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has one node with one child, and says later that it has another; as recorded of ZooKeeper 3.8.
    async fn server() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut frames = Frames { stream: BufReader::new(read), read: Vec::new() };
            let mut send = async |frame: &[u8]| {
                let mut whole = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
                whole.extend_from_slice(frame);
                // In pieces, as it may come.
                for piece in whole.chunks(3) {
                    write.write_all(piece).await.unwrap();
                }
            };
            frames.next().await.unwrap();
            let mut hello = Request(Vec::new());
            hello.int(0).int(300).long(77).buffer(&[1; 16]);
            send(&hello.0).await;
            let mut pings = 0;
            while let Ok(frame) = frames.next().await {
                let mut request = Answer(&frame);
                let (xid, operation) = (request.int().unwrap(), request.int().unwrap());
                let mut answer = Request(Vec::new());
                answer.int(xid).long(5);
                match operation {
                    GET_CHILDREN if request.text().unwrap() == "/shop" => {
                        answer.int(0).int(1).buffer(b"orders");
                    }
                    GET_DATA => {
                        answer.int(0).buffer(b"{}").long(0);
                    }
                    PING => {
                        pings += 1;
                        answer.int(0);
                    }
                    _ => {
                        answer.int(NO_NODE);
                    }
                }
                send(&answer.0).await;
                if pings == 2 {
                    let mut event = Request(Vec::new());
                    event.int(XID_EVENT).long(-1).int(0).int(4).int(CONNECTED).buffer(b"/shop");
                    send(&event.0).await;
                }
            }
        });
        place
    }

    #[tokio::test]
    async fn nodes_are_read_and_watches_wake() {
        let mut session = Session::open(&server().await, Duration::from_secs(20)).await.unwrap();
        assert_eq!(session.children("/shop").await, Ok(Found::Here(vec!["orders".to_owned()])));
        assert_eq!(session.value("/shop/orders").await, Ok(Found::Here(b"{}".to_vec())));
        assert_eq!(session.children("/none").await, Ok(Found::Nothing));
        assert_eq!(session.wake(Duration::ZERO).await, Ok(Woke::Well));
        assert_eq!(session.wake(Duration::from_secs(20)).await, Ok(Woke::Changed("/shop".into())));
    }

    #[tokio::test]
    async fn what_is_no_zookeeper_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        let error = Session::open(&place, Duration::from_secs(20)).await.err().unwrap();
        assert!(error.contains("is this its client port"), "{error}");
    }
}
