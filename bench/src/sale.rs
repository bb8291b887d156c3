//! A flash sale's two sides: a shop of fixed capacity that degrades when it is overdriven, and the people who want to buy.

pub mod buyers;
pub mod shop;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer without its body.
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
}

/// A client connection that is kept.
pub struct Connection {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

/// Plain, or inside TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Connection {
    /// With `tls` shakes hands, too.
    pub async fn open(address: &str, tls: Option<&TlsConnector>, patience: Duration) -> io::Result<Connection> {
        let open = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => {
                    let name = ServerName::try_from("bench.example").map_err(io::Error::other)?;
                    Box::new(tls.connect(name, stream).await?)
                }
            };
            Ok(Connection { stream, input: Vec::new() })
        };
        tokio::time::timeout(patience, open).await?
    }

    /// Asks and reads the answer to its end.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)], patience: Duration) -> io::Result<Answer> {
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nAccept: application/json\r\n");
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let exchange = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.flush().await?;
            self.answer().await
        };
        tokio::time::timeout(patience, exchange).await?
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let headers: BTreeMap<String, String> =
            fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.input.len() < length {
            self.more().await?;
        }
        self.input.drain(..length);
        Ok(Answer { status, headers })
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
