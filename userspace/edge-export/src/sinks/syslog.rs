//! A syslog server: messages of RFC 5424 in packets (RFC 5426), over TCP after their lengths (RFC 6587 section 3.4.1), within TLS or
//! not (RFC 5425), or over a Unix socket.
//!
//! Nobody there says what has arrived. Of packets is counted what is heard of them: where nobody listens, they are sent again, to the
//! host's next address, and what was heard too late for that is counted as unheard. Over a connection, a batch counts as taken when
//! the connection is still there a moment after it. What was sent last is remembered: where the connection breaks otherwise than by a
//! server that has read everything and closed it, that is sent again to the next one, so that a server that hangs and is killed loses
//! nothing that is remembered. Within TLS a server says that it closes (RFC 5425 section 4.4); one that goes without that was killed.

use super::{Sent, Sink, TIMEOUT, severity, word};
use crate::frame::Line;
use crate::packets::Packets;
use base_model::log_sink::FACILITIES;
use base_model::{MtlsSpec, SyslogSinkSpec};
use base_text::time::write_time;
use base_tls::BlockingTls;
use edge_upstream::Identity;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a message in one packet, at most (RFC 5426 section 3.2: what all receivers should take); longer ones are cut.
const PACKET_MOST: usize = 8 * 1024;

/// How long a connection is watched after a batch.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a server that asked for a certificate is waited for to say what it makes of ours. It answers nothing later on; one that
/// sends no tickets costs so much for each connection.
const VERDICT: Duration = Duration::from_secs(1);

/// What a server has read from its socket it may not have dealt with for so long. Many close connections that are idle without a word.
const READ_LONGEST: Duration = Duration::from_secs(60);

/// Bytes sent over a connection last that are remembered: about what the buffers of both ends hold.
const RECENT_MOST: usize = 4 << 20;

pub struct SyslogSink {
    address: String,
    facility: u8,
    /// Host, application and process.
    who: String,
    /// Where it takes packets of UDP.
    packets: Option<Packets>,
    /// Where it takes TLS.
    identity: Option<Arc<Identity>>,
    way: Option<Way>,
    /// Batches as they were sent over a connection and when, the newest last, and their bytes.
    recent: VecDeque<(Instant, Vec<u8>)>,
    recent_bytes: usize,
}

/// How it is reached otherwise.
enum Way {
    Local(UnixDatagram),
    Tcp(TcpStream),
    Tls(Box<BlockingTls>),
    LocalStream(UnixStream),
}

impl SyslogSink {
    /// The error says which certificate cannot be used.
    pub fn new(spec: &SyslogSinkSpec, machine: &str) -> Result<SyslogSink, String> {
        let identity = spec.address.starts_with("tls://").then(|| Identity::shared(spec.mtls.as_ref())).transpose();
        let identity = identity.map_err(|error| format!("mtls.{}: {}", MtlsSpec::field_of(error.part), error.text))?;
        let given = FACILITIES.iter().position(|name| *name == spec.facility);
        let app = if spec.app_name.is_empty() { "weir" } else { &spec.app_name };
        let printable: String = machine.chars().filter(|c| ('!'..='~').contains(c)).take(255).collect();
        let host = if printable.is_empty() { "-".to_owned() } else { printable };
        Ok(SyslogSink {
            address: spec.address.clone(),
            facility: given.unwrap_or(LOCAL0) as u8,
            who: format!("{host} {app} {}", std::process::id()),
            packets: udp_place(&spec.address).map(Packets::new),
            identity,
            way: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
        })
    }

    /// A message (RFC 5424 section 6).
    fn message(&self, line: &Line, out: &mut Vec<u8>) {
        out.extend(format!("<{}>1 ", self.facility * 8 + severity(line.kind)).as_bytes());
        write_time(Duration::from_nanos(line.at), out);
        out.extend(format!(" {} {} - ", self.who, word(line.kind)).as_bytes());
        out.extend_from_slice(&line.text);
    }

    fn send_packets(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> io::Result<()> {
        let packet = |line| {
            let mut text = Vec::new();
            self.message(line, &mut text);
            text.truncate(PACKET_MOST);
            text
        };
        let all: Vec<Vec<u8>> = lines.iter().map(packet).collect();
        let Some(packets) = &mut self.packets else { return Ok(()) };
        packets.send(all.iter().map(Vec::as_slice), lines.len() as u64, until)
    }

    fn try_send(&mut self, lines: &[Line]) -> io::Result<()> {
        let (mut way, fresh) = match self.way.take().map(|mut way| (way.is_there(), way)) {
            Some((Ok(()), way)) => (way, false),
            Some((Err(error), way)) => {
                self.broke(&way, &error);
                (self.connect()?, true)
            }
            None => (self.connect()?, true),
        };
        let mut text = Vec::new();
        match &mut way {
            Way::Local(socket) => {
                for line in lines {
                    text.clear();
                    self.message(line, &mut text);
                    text.truncate(PACKET_MOST);
                    socket.send(&text)?;
                }
            }
            stream => {
                for line in lines {
                    let mut message = Vec::with_capacity(line.text.len() + 64);
                    self.message(line, &mut message);
                    text.extend(format!("{} ", message.len()).as_bytes());
                    text.append(&mut message);
                }
                let again = self.recent.iter().map(|(_, text)| text).filter(|_| fresh);
                let sent = again.chain([&text]).try_for_each(|text| stream.write_all(text));
                if let Err(error) = sent.and_then(|()| stream.settle()) {
                    self.broke(&way, &error);
                    return Err(error);
                }
                self.remember(text);
            }
        }
        self.way = Some(way);
        Ok(())
    }

    fn connect(&self) -> io::Result<Way> {
        let (scheme, place) = self.address.split_once("://").unwrap_or(("tcp", &self.address));
        if scheme == "unix" {
            return local(place);
        }
        let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
        for at in place.to_socket_addrs()? {
            match stream(at).and_then(|stream| self.over(stream, place)) {
                Ok(way) => return Ok(way),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// What is spoken over a connection to this place.
    fn over(&self, stream: TcpStream, place: &str) -> io::Result<Way> {
        let Some(identity) = &self.identity else { return Ok(Way::Tcp(stream)) };
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match identity.tls.connect_blocking(stream, host, TIMEOUT, Some(VERDICT)) {
            Ok(tls) => Ok(Way::Tls(Box::new(tls))),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    /// A connection is over. What a server had not read when it went is reset, and sent again; one that closes what it has read to the
    /// end, and is not written to again, has nothing to be sent twice. Within TLS that is one that says so; of another, what it may have
    /// read and lost is sent again.
    fn broke(&mut self, way: &Way, error: &io::Error) {
        let is_tls = matches!(way, Way::Tls(_));
        let forgets = |sent: &Instant| match error.kind() {
            ErrorKind::UnexpectedEof => true,
            ErrorKind::BrokenPipe => !is_tls,
            ErrorKind::ConnectionAborted => is_tls && sent.elapsed() > READ_LONGEST,
            _ => false,
        };
        self.recent.retain(|(sent, _)| !forgets(sent));
        self.recent_bytes = self.recent.iter().map(|(_, text)| text.len()).sum();
    }

    fn remember(&mut self, text: Vec<u8>) {
        self.recent_bytes += text.len();
        self.recent.push_back((Instant::now(), text));
        while self.recent_bytes > RECENT_MOST
            && let Some((_, oldest)) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.len();
        }
    }
}

/// `local0`.
const LOCAL0: usize = 16;

impl Way {
    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Way::Tcp(stream) => stream.write_all(text),
            Way::Tls(stream) => stream.write_all(text).and_then(|()| stream.flush()),
            Way::LocalStream(stream) => stream.write_all(text),
            Way::Local(_) => Ok(()),
        }
    }

    /// Whether it is still there a moment later.
    fn settle(&mut self) -> io::Result<()> {
        let mut unread = [0; 512];
        let read = match self {
            Way::Tcp(stream) => stream.read(&mut unread),
            Way::Tls(stream) => match stream.read(&mut unread) {
                // It said that it closes, and does so in good order if there is nothing it had not read.
                Ok(0) => {
                    stream.socket().set_nonblocking(false)?;
                    stream.socket().read(&mut unread).map_err(|_| ErrorKind::ConnectionReset.into())
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    Err(io::Error::new(ErrorKind::ConnectionAborted, "it went without saying that it closes"))
                }
                read => read,
            },
            Way::LocalStream(stream) => stream.read(&mut unread),
            Way::Local(_) => return Ok(()),
        };
        match read {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether it is there now, so far as is known.
    fn is_there(&mut self) -> io::Result<()> {
        let block = |way: &Way, block: bool| match way {
            Way::Tcp(stream) => stream.set_nonblocking(!block),
            Way::Tls(stream) => stream.socket().set_nonblocking(!block),
            Way::LocalStream(stream) => stream.set_nonblocking(!block),
            Way::Local(_) => Ok(()),
        };
        block(self, false)?;
        let there = self.settle();
        block(self, true)?;
        there
    }
}

/// Host and port, where the address is one of UDP.
fn udp_place(address: &str) -> Option<&str> {
    let (scheme, place) = address.split_once("://").unwrap_or(("udp", address));
    (scheme == "udp").then_some(place)
}

fn local(place: &str) -> io::Result<Way> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    match socket.connect(place) {
        Ok(()) => Ok(Way::Local(socket)),
        // It takes streams and no packets.
        Err(error) if error.raw_os_error() == Some(PROTOTYPE) => {
            let stream = UnixStream::connect(place)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_read_timeout(Some(SETTLE))?;
            Ok(Way::LocalStream(stream))
        }
        Err(error) => Err(error),
    }
}

fn stream(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(SETTLE))?;
    Ok(stream)
}

/// `EPROTOTYPE`: the socket is of another kind.
const PROTOTYPE: i32 = 91;

impl Sink for SyslogSink {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent {
        let sent = if self.packets.is_some() { self.send_packets(lines, until) } else { self.try_send(lines) };
        match sent {
            Ok(()) => Sent::Taken,
            Err(error) => Sent::Later(None, error.to_string()),
        }
    }

    fn unheard(&mut self) -> u64 {
        self.packets.as_mut().map_or(0, Packets::unheard)
    }

    fn shown(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
#[path = "../../../base-tls/tests/support/std_server.rs"]
mod std_server;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use std::net::{Shutdown, TcpListener, UdpSocket};
    use std::thread;

    fn sink(address: &str) -> SyslogSink {
        let (address, facility, app_name) = (address.to_owned(), "local4".to_owned(), "edge".to_owned());
        let spec = SyslogSinkSpec { address, facility, app_name, ..SyslogSinkSpec::default() };
        SyslogSink::new(&spec, "edge 1").unwrap()
    }

    fn lines(kinds: &[Kind]) -> Vec<Line> {
        let line = |(at, kind): (usize, &Kind)| Line {
            kind: *kind,
            at: 1_709_210_096_005_000_000,
            text: format!("line {at}").into_bytes().into(),
        };
        kinds.iter().enumerate().map(line).collect()
    }

    fn head(pri: u8, kind: &str) -> String {
        format!("<{pri}>1 2024-02-29T12:34:56.005Z edge1 edge {} {kind} - ", std::process::id())
    }

    #[test]
    fn messages_of_rfc_5424_in_packets_and_over_connections() {
        let all = lines(&[Kind::Access, Kind::Warning, Kind::Error]);
        let wanted = [head(166, "access") + "line 0", head(164, "event") + "line 1", head(163, "event") + "line 2"];
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut udp = sink(&format!("udp://{}", socket.local_addr().unwrap()));
        assert!(matches!(udp.send(&all, &|| None), Sent::Taken));
        let mut packet = [0; 1024];
        for text in &wanted {
            let length = socket.recv(&mut packet).unwrap();
            assert_eq!(std::str::from_utf8(&packet[..length]).unwrap(), text);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut local = sink(&format!("unix://{}", path.display()));
        assert!(matches!(local.send(&all[..1], &|| None), Sent::Taken));
        let length = socket.recv(&mut packet).unwrap();
        assert_eq!(std::str::from_utf8(&packet[..length]).unwrap(), wanted[0]);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = sink(&format!("tcp://{}", listener.local_addr().unwrap()));
        let reader = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert!(matches!(tcp.send(&all, &|| None), Sent::Taken));
        drop(tcp);
        let framed: String = wanted.iter().map(|text| format!("{} {text}", text.len())).collect();
        assert_eq!(reader.join().unwrap(), framed);
    }

    #[test]
    fn what_a_server_that_goes_has_not_read_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut tcp = sink(&format!("tcp://{at}"));
        let closer = thread::spawn(move || drop(listener.accept().unwrap()));
        assert!(matches!(tcp.send(&lines(&[Kind::Access]), &|| None), Sent::Later(..)));
        closer.join().unwrap();
        assert!(matches!(tcp.send(&lines(&[Kind::Access]), &|| None), Sent::Later(..)), "nobody listens any more");
        let mut nobody = sink("unix:///nonexistent/log");
        assert!(matches!(nobody.send(&lines(&[Kind::Access]), &|| None), Sent::Later(..)));
    }

    /// It hangs with lines in its buffers, and is killed: whoever comes next gets them.
    #[test]
    fn what_was_in_a_server_s_buffers_when_it_was_killed_is_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = sink(&format!("tcp://{}", listener.local_addr().unwrap()));
        let all = lines(&[Kind::Access, Kind::Access, Kind::Access, Kind::Access]);
        let read = |stream: &mut TcpStream, wanted: &[usize]| {
            for number in wanted {
                let text = head(166, "access") + &format!("line {number}");
                let text = format!("{} {text}", text.len());
                let mut frame = vec![0; text.len()];
                stream.read_exact(&mut frame).unwrap();
                assert_eq!(String::from_utf8(frame).unwrap(), text);
            }
        };
        assert!(matches!(tcp.send(&all[..1], &|| None), Sent::Taken));
        assert!(matches!(tcp.send(&all[1..2], &|| None), Sent::Taken));
        drop(listener.accept().unwrap());
        // The next try may meet the end of the old connection only.
        while !matches!(tcp.send(&all[2..3], &|| None), Sent::Taken) {}
        let (mut stream, _) = listener.accept().unwrap();
        read(&mut stream, &[0, 1, 2]);
        // One that has read everything and goes in good order is sent nothing twice.
        drop(stream);
        while !matches!(tcp.send(&all[3..], &|| None), Sent::Taken) {}
        read(&mut listener.accept().unwrap().0, &[3]);
        assert!(tcp.recent_bytes < 200);
    }

    /// It may have read what its socket had and lost it: only one that says that it closes, and has left nothing unread, has everything.
    #[test]
    fn within_tls_only_a_server_that_says_that_it_closes_is_sent_nothing_twice() {
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let frame = |number: usize| {
            let text = head(166, "access") + &format!("line {number}");
            format!("{} {text}", text.len())
        };
        let (first, second) = (frame(0), frame(1));
        let read = |stream: &mut std_server::Served, length: usize| {
            let mut frame = vec![0; length];
            stream.read_exact(&mut frame).unwrap();
            String::from_utf8(frame).unwrap()
        };
        type End = fn(std_server::Served);
        let says_so: End = |mut stream| {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        };
        let is_killed: End = |stream| stream.sock.shutdown(Shutdown::Both).unwrap();
        for (end, expected) in [(says_so, second.clone()), (is_killed, first.clone() + &second)] {
            let (go, told) = std::sync::mpsc::channel();
            let length = first.len();
            let serve = |talk: Box<dyn FnOnce(std_server::Served) -> String + Send>| {
                std_server::serve((&chain, &key), &rustls::version::TLS13, None, 2, talk)
            };
            let (port, server) = serve(Box::new(move |mut stream| {
                let taken = read(&mut stream, length);
                told.recv().unwrap();
                end(stream);
                taken
            }));
            let mtls = MtlsSpec { root_cert_base64: chain.clone(), ..MtlsSpec::default() };
            let (facility, app_name) = ("local4".to_owned(), "edge".to_owned());
            let address = format!("tls://127.0.0.1:{port}");
            let spec = SyslogSinkSpec { address, facility, app_name, mtls: Some(mtls) };
            let mut tls = SyslogSink::new(&spec, "edge 1").unwrap();
            let all = lines(&[Kind::Access, Kind::Access]);
            assert!(matches!(tls.send(&all[..1], &|| None), Sent::Taken));
            go.send(()).unwrap();
            assert_eq!(server.join().unwrap(), first);
            let length = expected.len();
            let (port, server) = serve(Box::new(move |mut stream| read(&mut stream, length)));
            tls.address = format!("tls://127.0.0.1:{port}");
            // Here, too, the server goes when it has what it wants: whether it is there a moment later is nobody's business.
            let _ = tls.send(&all[1..], &|| None);
            assert_eq!(server.join().unwrap(), expected);
        }
    }

    /// A quiet edge sent the lines of a day again each time that its idle connection was closed.
    #[test]
    fn what_was_read_long_ago_is_not_sent_again() {
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let (port, server) = std_server::serve((&chain, &key), &rustls::version::TLS13, None, 2, |mut stream| {
            stream.read(&mut [0]).unwrap_or_default()
        });
        let mtls = Some(MtlsSpec { root_cert_base64: chain, ..MtlsSpec::default() });
        let spec = SyslogSinkSpec { address: format!("tls://127.0.0.1:{port}"), mtls, ..SyslogSinkSpec::default() };
        let mut tls = SyslogSink::new(&spec, "edge 1").unwrap();
        let way = tls.connect().unwrap();
        let long_ago = Instant::now().checked_sub(2 * READ_LONGEST).unwrap();
        tls.recent = VecDeque::from([(long_ago, vec![0; 3]), (Instant::now(), vec![0; 2])]);
        tls.broke(&way, &ErrorKind::ConnectionReset.into());
        assert_eq!(tls.recent.len(), 2, "it had not read them");
        tls.broke(&way, &ErrorKind::ConnectionAborted.into());
        assert_eq!((tls.recent.len(), tls.recent_bytes), (1, 2));
        drop(way);
        server.join().unwrap();
    }

    #[test]
    fn so_much_is_remembered_and_no_more() {
        let mut tcp = sink("tcp://127.0.0.1:1");
        (0..9).for_each(|_| tcp.remember(vec![0; RECENT_MOST / 4]));
        assert_eq!((tcp.recent.len(), tcp.recent_bytes), (4, RECENT_MOST));
    }
}
