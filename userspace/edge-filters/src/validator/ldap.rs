//! A directory that knows users and their passwords (LDAP): a password is right when the directory lets the user bind with it.

mod wire;

use base_model::problem::at;
use base_model::proxy::MtlsSpec;
use base_model::{Findings, Problem};
use base_runtime::buffer::Buf;
use base_tls::{HandshakeError, Transport};
use edge_upstream::connect::{ConnectError, connect_saying};
use edge_upstream::endpoint::Place;
use edge_upstream::{AttemptError, Endpoint, Identity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use wire::{Answered, BOUND, EXTENDED};

/// Where the directory is, and which entry a user has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["host", "port", "baseDN", "uid"]))]
pub struct LdapSpec {
    /// Name or address of the directory.
    pub host: String,
    /// Its port: 389, or 636 with `useSSL`.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The entry below which users are: `ou=people,dc=example,dc=com`.
    #[serde(rename = "baseDN")]
    pub base_dn: String,
    /// The attribute that names a user in its entry: with `uid` ann is `uid=ann,` and `baseDN`.
    pub uid: String,
    /// TLS from the first byte on. Default false: TLS is asked for with StartTLS.
    #[serde(rename = "useSSL")]
    pub use_ssl: bool,
    /// No TLS at all: passwords can be read by whoever is on the way. Default false.
    #[serde(rename = "skipTLS")]
    pub skip_tls: bool,
    /// Take any certificate. Default false.
    pub insecure: bool,
    /// What the directory's certificate must be for. Default: `host`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// Certificate shown to the directory, base64 or PEM. Goes with `keyBase64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_base64: String,
    /// Its key, base64 or PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_base64: String,
    /// Authorities the directory must be signed by, base64 or PEM. Default: the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root_cert_base64: String,
}

/// The whole of a check may take so long.
const TIMEOUT: Duration = Duration::from_secs(5);

impl LdapSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        for (field, value, accepted) in [
            ("host", &self.host, "a name or an address"),
            ("baseDN", &self.base_dn, "an entry, e.g. ou=people,dc=example,dc=com"),
            ("uid", &self.uid, "an attribute, e.g. uid or cn"),
        ] {
            if value.is_empty() {
                findings.problem(Problem::new(at(path, field), "missing").accepted(accepted));
            }
        }
        if !self.uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
            findings.problem(Problem::new(at(path, "uid"), "no name of an attribute").text(&self.uid));
        }
        if self.port == 0 {
            let usual = if self.use_ssl { "636" } else { "389" };
            findings.problem(Problem::new(at(path, "port"), "missing").accepted("1 to 65535").advice(usual));
        }
        if self.skip_tls && self.use_ssl {
            findings.problem(Problem::new(at(path, "skipTLS"), "useSSL says the opposite").advice("give one of them"));
        } else if self.skip_tls {
            findings.warn(at(path, "skipTLS"), "passwords go to the directory as plain text");
        }
        if self.cert_base64.is_empty() != self.key_base64.is_empty() {
            findings.problem(Problem::new(path, "certBase64 and keyBase64 go together").advice("give both or none"));
        } else if !self.skip_tls
            && let Err(error) = Identity::shared(Some(&self.mtls()))
        {
            findings.problem(Problem::new(at(path, MtlsSpec::field_of(error.part)), error.text));
        }
    }

    fn mtls(&self) -> MtlsSpec {
        MtlsSpec {
            cert_base64: self.cert_base64.clone(),
            key_base64: self.key_base64.clone(),
            root_cert_base64: self.root_cert_base64.clone(),
            insecure_skip_verify: self.insecure,
            ..MtlsSpec::default()
        }
    }
}

/// Ready to be asked.
pub(super) struct Directory {
    spec: LdapSpec,
    endpoint: Arc<Endpoint>,
    identity: Option<Arc<Identity>>,
}

impl Directory {
    pub(super) fn new(spec: LdapSpec) -> Result<Directory, String> {
        let identity = match spec.skip_tls {
            true => None,
            false => Some(Identity::shared(Some(&spec.mtls())).map_err(|error| error.text)?),
        };
        let host = spec.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Directory { endpoint: Endpoint::shared(Place::Host(host, spec.port)), identity, spec })
    }

    /// Whether this is the user's password; the error says why that is not known. Needs a worker.
    pub(super) async fn is_right(&self, user: &str, password: &[u8]) -> Result<bool, String> {
        // A bind without a password is one as nobody, which directories let anybody do (RFC 4513 section 5.1.2).
        if password.is_empty() {
            return Ok(false);
        }
        match base_runtime::time::timeout(TIMEOUT, Box::pin(self.bind(user, password))).await {
            Ok(told) => told,
            Err(_) => Err(format!("the directory has not answered in {}", base_text::duration(TIMEOUT))),
        }
    }

    async fn bind(&self, user: &str, password: &[u8]) -> Result<bool, String> {
        let mut link = Link { transport: self.connect().await?, received: Vec::new() };
        if let Some(identity) = self.identity.as_ref().filter(|_| !self.spec.use_ssl) {
            let answered = link.ask(&wire::start_tls(1), 1, EXTENDED).await?;
            if answered.code != SUCCESS {
                return Err(format!("the directory does not start TLS: {}", told(&answered)));
            }
            link = Link { transport: self.shake(link, identity).await?, received: Vec::new() };
        }
        let name = format!("{}={},{}", self.spec.uid, escaped(user), self.spec.base_dn);
        let answered = link.ask(&wire::bind(2, &name, password), 2, BOUND).await?;
        link.transport.send(Buf::copy_from(&wire::unbind(3)));
        match answered.code {
            SUCCESS => Ok(true),
            NO_SUCH_OBJECT | INVALID_NAME | INAPPROPRIATE | INVALID_CREDENTIALS | UNWILLING => Ok(false),
            _ => Err(format!("the directory says {}", told(&answered))),
        }
    }

    async fn connect(&self) -> Result<Transport, String> {
        let transport = connect_saying(&self.endpoint, None, &[], &[], TIMEOUT).await.map_err(unreached)?;
        match &self.identity {
            Some(identity) if self.spec.use_ssl => self.shake(Link { transport, received: Vec::new() }, identity).await,
            _ => Ok(transport),
        }
    }

    async fn shake(&self, link: Link, identity: &Identity) -> Result<Transport, String> {
        let name = if self.spec.server_name.is_empty() { self.endpoint.name() } else { &self.spec.server_name };
        match link.transport {
            // What came in plain text is not taken for an answer under TLS.
            Transport::Plain(stream) if link.received.is_empty() => {
                let shaken = identity.tls.connect_offering(stream, name, &[], TIMEOUT).await;
                shaken.map_err(|error: HandshakeError| format!("no TLS with the directory: {error}"))
            }
            _ => Err("the directory sent more than an answer before TLS".to_owned()),
        }
    }
}

/// A connection, and what came on it.
struct Link {
    transport: Transport,
    received: Vec<u8>,
}

impl Link {
    async fn ask(&mut self, request: &[u8], id: u32, tag: u8) -> Result<Answered, String> {
        self.transport.send(Buf::copy_from(request));
        loop {
            match wire::read(&self.received) {
                Ok(Some((answered, length))) => {
                    self.received.drain(..length);
                    if answered.id != id || answered.tag != tag {
                        // A notice that it will close the connection has the id 0 (RFC 4511 section 4.4.1).
                        return Err(format!("the directory says {}", told(&answered)));
                    }
                    return Ok(answered);
                }
                Ok(None) => {}
                Err(wire::Malformed) => return Err("what answers there speaks no LDAP".to_owned()),
            }
            match self.transport.recv().await {
                Ok(Some(buf)) => self.received.extend_from_slice(&buf),
                Ok(None) => return Err("the directory closed the connection".to_owned()),
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

fn unreached(error: ConnectError) -> String {
    format!("the directory cannot be reached: {}", AttemptError::Connect(error))
}

fn lost(error: &io::Error) -> String {
    format!("the connection to the directory was lost: {error}")
}

fn told(answered: &Answered) -> String {
    let text =
        if answered.text.is_empty() { String::new() } else { format!(": {}", base_text::quoted(&answered.text)) };
    format!("{} (result code of RFC 4511){text}", answered.code)
}

/// A value in a name (RFC 4514 section 2.4): nobody leaves it.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, c) in value.char_indices() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => out.extend(['\\', c]),
            '#' | ' ' if at == 0 => out.extend(['\\', c]),
            ' ' if at == last => out.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    // Text always finds room.
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Result codes (RFC 4511 appendix A.1) that say what somebody is to do about it.
const SUCCESS: u8 = 0;
const NO_SUCH_OBJECT: u8 = 32;
const INVALID_NAME: u8 = 34;
const INAPPROPRIATE: u8 = 48;
const INVALID_CREDENTIALS: u8 = 49;
const UNWILLING: u8 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_his_part_of_a_name() {
        for (user, expected) in [
            ("ann", "ann"),
            ("ann,ou=admins", "ann\\,ou\\=admins"),
            ("a+b\\c\"d;<e>", "a\\+b\\\\c\\\"d\\;\\<e\\>"),
            (" ann ", "\\ ann\\ "),
            ("#ann b", "\\#ann b"),
            ("ann\u{0}", "ann\\00"),
            ("jürg", "jürg"),
            (" ", "\\ "),
        ] {
            assert_eq!(escaped(user), expected, "{user}");
        }
    }
}
