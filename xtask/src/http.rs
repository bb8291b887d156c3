//! The little of HTTP/1.1 that the demo needs: GET over a connection that may stay open, and the metrics text.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base_text::quoted;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub struct Connection {
    stream: TcpStream,
    host: String,
    input: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Connection {
    /// The source port belongs to the error too: it says which way the attempt went.
    pub fn open(address: SocketAddr, connect_limit: Duration, read_limit: Duration) -> Result<Self, (u16, io::Error)> {
        let socket = socket(address).map_err(|error| (0, error))?;
        let port = socket.local_addr().map_or(0, |address| address.port());
        let opened = connect(&socket, address, connect_limit).and_then(|()| {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(read_limit))?;
            socket.set_write_timeout(Some(read_limit))?;
            socket.set_nodelay(true)
        });
        opened.map_err(|error| (port, error))?;
        Ok(Self { stream: socket, host: address.to_string(), input: Vec::new() })
    }

    pub fn source_port(&self) -> u16 {
        self.stream.local_addr().map(|address| address.port()).unwrap_or(0)
    }

    /// One GET; the connection stays usable after an answer, not after an error.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes())?;
        let head = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                break String::from_utf8_lossy(&head).into_owned();
            }
            self.more()?;
        };
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {head}", head = quoted(&head)));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
        let field = |wanted: &str| {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).last()
        };
        let body = if field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            self.chunks(&malformed)?
        } else {
            let length = field("content-length").and_then(|length| length.parse().ok()).ok_or_else(malformed)?;
            self.take(length)?
        };
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn chunks(&mut self, malformed: &dyn Fn() -> io::Error) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.input.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.more()?,
                }
            };
            let line = self.take(end + 2)?;
            let size = std::str::from_utf8(&line[..end]).map_err(|_| malformed())?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or(size), 16).map_err(|_| malformed())?;
            let mut chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            chunk.truncate(size);
            body.append(&mut chunk);
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < count {
            self.more()?;
        }
        Ok(self.input.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side")),
            count => {
                self.input.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }
}

/// A socket with a port of its own, not connected yet.
fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let (family, any) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, SocketAddr::from(([0; 4], 0))),
        SocketAddr::V6(_) => (AddressFamily::INET6, SocketAddr::from(([0u16; 8], 0))),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &any)?;
    Ok(socket.into())
}

fn connect(socket: &TcpStream, address: SocketAddr, limit: Duration) -> io::Result<()> {
    match rustix::net::connect(socket, &address) {
        Err(Errno::INPROGRESS) => {}
        result => return result.map_err(io::Error::from),
    }
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&limit))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the SYN")),
        _ => rustix::net::sockopt::socket_error(socket)?.map_err(io::Error::from),
    }
}

/// The hidden subcommand that looks into another namespace: one GET, its body on stdout.
pub fn print(address: SocketAddr, path: &str) -> Result<(), String> {
    let limit = Duration::from_secs(5);
    let opened = Connection::open(address, limit, limit).map_err(|(_, error)| error);
    let answer = opened.and_then(|mut connection| connection.get(path));
    let answer = answer.map_err(|error| format!("GET http://{address}{path}: {error}"))?;
    print!("{}", answer.body);
    if answer.status == 200 { Ok(()) } else { Err(format!("GET http://{address}{path}: status {}", answer.status)) }
}

/// One sample of a Prometheus text: its name, its labels as they stand, its value.
pub struct Sample<'a> {
    pub name: &'a str,
    labels: &'a str,
    pub value: f64,
}

impl Sample<'_> {
    pub fn label(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.labels.split_once(&format!("{name}=\""))?;
        rest.split('"').next()
    }
}

pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Sample { name, labels, value: value.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a b\nup 1\nweir_xdp_packets_total{vip=\"shop, 1\",verdict=\"tx\"} 12\n";
        let samples: Vec<_> = samples(text).collect();
        assert_eq!(samples.len(), 2);
        assert_eq!((samples[0].name, samples[0].value), ("up", 1.0));
        assert_eq!((samples[1].label("vip"), samples[1].label("verdict")), (Some("shop, 1"), Some("tx")));
        assert_eq!(samples[1].label("reason"), None);
    }
}
