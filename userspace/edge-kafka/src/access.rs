//! How brokers are spoken to, and as whom: within TLS or not, as a user of theirs or as nobody.

use base_model::{MtlsSpec, SaslMechanism, SaslSpec};
use base_tls::{BlockingTls, CertificateError};
use edge_upstream::Identity;
use proto_kafka::Scram;
use proto_kafka::scram::Hash;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// What a document says of it, ready to be used. Two are equal that say the same.
#[derive(Clone, Default)]
pub struct Access {
    mtls: Option<(MtlsSpec, Arc<Identity>)>,
    sasl: Option<SaslSpec>,
}

impl PartialEq for Access {
    fn eq(&self, other: &Access) -> bool {
        let spec = |access: &Access| access.mtls.as_ref().map(|(spec, _)| spec.clone());
        spec(self) == spec(other) && self.sasl == other.sasl
    }
}

impl Access {
    /// The error says which certificate cannot be used.
    pub fn new(mtls: Option<&MtlsSpec>, sasl: Option<&SaslSpec>) -> Result<Access, CertificateError> {
        let mtls = mtls.map(|spec| Identity::shared(Some(spec)).map(|identity| (spec.clone(), identity)));
        Ok(Access { mtls: mtls.transpose()?, sasl: sasl.cloned() })
    }

    /// The user's name; nothing's where there is none.
    pub(crate) fn user(&self) -> Option<&str> {
        self.sasl.as_ref().map(|sasl| sasl.username.as_str())
    }

    /// What is spoken over a connection to this host.
    pub(crate) fn over(&self, socket: TcpStream, host: &str, limit: Duration) -> io::Result<Stream> {
        match &self.mtls {
            None => Ok(Stream::Plain(socket)),
            Some((_, identity)) => {
                // Nothing counts here that a broker has not answered.
                let tls = identity.tls.connect_blocking(socket, host, limit, None);
                tls.map(|tls| Stream::Tls(Box::new(tls))).map_err(|error| io::Error::other(error.to_string()))
            }
        }
    }

    /// How a user is to be proved, where there is one.
    pub(crate) fn proof(&self) -> Option<Proof<'_>> {
        self.sasl.as_ref().map(Proof)
    }
}

/// A connection to a broker.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<BlockingTls>),
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

/// A user's proof.
pub(crate) struct Proof<'a>(&'a SaslSpec);

impl Proof<'_> {
    pub fn mechanism(&self) -> &'static str {
        self.0.mechanism.name()
    }

    pub fn user(&self) -> &str {
        &self.0.username
    }

    /// Proves it by what `ask` makes of each step: sends it, and hands back what the broker says to it.
    pub fn give(&self, mut ask: impl FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<()> {
        let SaslSpec { mechanism, username, password } = self.0;
        let hash = match mechanism {
            SaslMechanism::Plain => return ask(format!("\0{username}\0{password}").as_bytes()).map(drop),
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
        };
        let nonce = nonce()?;
        let mut scram = Scram::new(hash, username, password, &nonce);
        let challenge = ask(scram.first().as_bytes())?;
        let proof = scram.answer(&challenge).map_err(io::Error::other)?;
        let end = ask(proof.as_bytes())?;
        scram.finish(&end).map_err(io::Error::other)
    }
}

fn nonce() -> io::Result<String> {
    let mut random = [0; 18];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("this machine has no randomness"))?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        // Text always finds room.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
