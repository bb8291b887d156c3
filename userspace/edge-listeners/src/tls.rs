//! TLS in front of a server: what its document says of certificates, ready to accept connections.

use base_model::HttpServerSpec;
use base_model::http_server::TlsTexts;
use base_quic::crypto::ServerCrypto;
use base_quic::{QuicKeys, QuicSettings};
use base_tls::{ClientAuth, ServerTls, ServerTlsSettings, TicketKeys};
use std::sync::Arc;
use std::time::Duration;

/// Protocols offered, the first that a client knows, too, is spoken.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The same for a server that does not speak HTTP/2.
const ALPN_HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What a handshake under way holds, in bytes, for the memory ledger: rustls' machine, its transcript and the client's key shares.
pub const HANDSHAKE_BYTES: usize = 24 * 1024;

/// See the module doc. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    pub server: ServerTls,
    /// A client without a certificate gets no connection.
    pub asks_clients: bool,
    /// That connections are kept apart by.
    hosts: Hosts,
}

/// Hosts of a document's `tlsHosts`.
#[derive(Debug, Clone, Default)]
struct Hosts(Arc<[String]>);

impl Hosts {
    fn of(written: &[String]) -> Hosts {
        Hosts(written.iter().map(|host| host.to_ascii_lowercase()).collect())
    }

    /// Which of them a name, in lower case, is of: itself, the longest end, or the rest.
    fn place(&self, name: &str) -> Option<usize> {
        let rank = |(n, host): (usize, &String)| match host.strip_prefix('*') {
            None => (host == name).then_some((usize::MAX, n)),
            // What has no name is of the rest.
            Some(end) => (end.is_empty() || name.len() > end.len() && name.ends_with(end)).then_some((end.len(), n)),
        };
        self.0.iter().enumerate().filter_map(rank).max().map(|(_, n)| n)
    }

    /// Whether a host is of another of them than the server name, both in lower case. One that is of none is nobody's: routes say so. Who
    /// asked for no name is of the rest, as no name is what any of the others is called; where there is but one, nobody else could be meant.
    fn keep_apart(&self, server_name: Option<&str>, host: &str) -> bool {
        let asked = match server_name {
            Some(name) => self.place(name),
            None if self.0.len() == 1 => return false,
            None => self.place(""),
        };
        self.place(host).is_some_and(|of| asked != Some(of))
    }
}

impl Tls {
    /// `None` where the document has no TLS. What has not changed since `previous` is taken over rather than read again.
    pub fn new(
        spec: &HttpServerSpec,
        tickets: &TicketKeys,
        previous: Option<(&HttpServerSpec, Option<&Tls>)>,
    ) -> Result<Option<Tls>, String> {
        if !spec.https {
            return Ok(None);
        }
        if let Some((before, Some(tls))) = previous
            && texts(before) == texts(spec)
        {
            return Ok(Some(tls.clone()));
        }
        let alpn = if spec.http2 { ALPN } else { ALPN_HTTP1 }.iter().map(|protocol| protocol.to_vec()).collect();
        let tls = Tls::make(&spec.tls_texts(), alpn, tickets, spec.auto_cert);
        tls.map(|tls| Some(Tls { hosts: Hosts::of(&spec.tls_hosts), ..tls })).map_err(|error| format!("https: {error}"))
    }

    /// Of certificates and authorities as they are written, and the protocols to offer.
    pub fn of(texts: &TlsTexts<'_>, alpn: Vec<Vec<u8>>, tickets: &TicketKeys) -> Result<Tls, String> {
        Tls::make(texts, alpn, tickets, false)
    }

    /// `managed`: certificates that the cluster orders are shown before those that are written.
    fn make(texts: &TlsTexts<'_>, alpn: Vec<Vec<u8>>, tickets: &TicketKeys, managed: bool) -> Result<Tls, String> {
        let certificates = texts.certificates().map_err(|problem| problem.to_string())?;
        let authorities = texts.client_authorities().map_err(|problem| problem.to_string())?;
        let asks_clients = authorities.is_some();
        let settings = ServerTlsSettings {
            certificates: certificates.into_iter().map(|named| named.certificate).collect(),
            client_auth: authorities.map_or(ClientAuth::None, ClientAuth::Required),
            alpn,
        };
        let make = if managed { ServerTls::with_managed } else { ServerTls::new };
        let server = make(settings, tickets.clone()).map_err(|error| error.to_string())?;
        Ok(Tls { server, asks_clients, hosts: Hosts::default() })
    }

    /// What connections of HTTP/3 are made with.
    pub fn quic(
        &self,
        spec: &HttpServerSpec,
        tickets: &TicketKeys,
    ) -> Result<Arc<base_quic::proto::ServerConfig>, String> {
        let tls = if spec.early_data { self.server.quic_early() } else { self.server.quic() };
        let crypto = ServerCrypto::new(tls.clone())
            .ok_or("http3: the cipher suite that QUIC begins with is not among those that are built in")?;
        // Silence is HTTP's to judge, which says so; QUIC's own time-out is for clients that are gone, and says nothing.
        let idle = match spec.keep_alive_timeout.duration() {
            Duration::ZERO => IDLE_MOST,
            idle => (idle.max(QuicSettings::default().idle) + IDLE_GRACE).min(IDLE_MOST),
        };
        let settings = QuicSettings { idle, ..QuicSettings::default() };
        Ok(settings.server(crypto, &QuicKeys::of(tickets)))
    }

    /// Whether a request for `host` has come over a connection that was made for somebody else: its server name led to another
    /// certificate, which is not for `host`. Answering it would let a client reach, under one name, what is served under another
    /// (RFC 9110 section 15.5.20). A client that asked for no name claimed none: it was shown the first certificate, and a new
    /// connection would show it the same again. Where clients must show certificates, what it may reach depends on the name: there it
    /// gets what the first certificate is for, and of those who ask for a name, a name none of ours is for is refused unless it is
    /// the one that was asked for. What is for another of the document's `tlsHosts` than the name is refused as well, whatever
    /// certificates they share, and so is what any of several of them claims from a client that asked for no name: a listener's
    /// host must match both the server name and the request (Gateway API, `Listener.hostname`), and no name matches none but the rest.
    pub fn is_misdirected(&self, server_name: Option<&str>, host: &str) -> bool {
        if server_name.is_some_and(|name| name.eq_ignore_ascii_case(host)) {
            return false;
        }
        let (server_name, host) = (server_name.map(str::to_ascii_lowercase), host.to_ascii_lowercase());
        let server_name = server_name.as_deref();
        if self.hosts.keep_apart(server_name, &host) {
            return true;
        }
        if server_name.is_none() && !self.asks_clients {
            return false;
        }
        let shown = server_name.and_then(|name| self.server.certificate_for(name)).or_else(|| self.server.first());
        match self.server.certificate_for(&host) {
            Some(wanted) => {
                shown.is_none_or(|shown| wanted.fingerprint() != shown.fingerprint() && !shown.covers(&host))
            }
            None => self.asks_clients && server_name.is_some(),
        }
    }
}

/// What QUIC waits longer than HTTP, and at most.
const IDLE_GRACE: Duration = Duration::from_secs(5);
const IDLE_MOST: Duration = Duration::from_secs(600);

/// Everything TLS is made of.
fn texts(spec: &HttpServerSpec) -> impl PartialEq + '_ {
    let switches = (spec.https, spec.http2, spec.auto_cert);
    let pairs = (&spec.cert_base64, &spec.key_base64, &spec.certs, &spec.keys);
    (switches, pairs, &spec.ca_cert_base64, &spec.tls_hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_the_narrowest_host() {
        let hosts = Hosts::of(&["*", "B.test", "*.test", "*.a.test"].map(str::to_owned));
        for (name, of) in
            [("b.test", 1), ("x.test", 2), ("x.a.test", 3), ("y.x.a.test", 3), ("a.test", 2), ("test", 0), ("", 0)]
        {
            assert_eq!(hosts.place(name), Some(of), "{name}");
        }
        let hosts = Hosts::of(&["b.test".to_owned(), "*.a.test".to_owned()]);
        assert!(hosts.keep_apart(Some("b.test"), "x.a.test") && hosts.keep_apart(Some("unknown"), "b.test"));
        assert!(!hosts.keep_apart(Some("b.test"), "unknown") && !hosts.keep_apart(Some("x.a.test"), "y.a.test"));
        assert!(hosts.keep_apart(None, "b.test") && !hosts.keep_apart(None, "unknown"));
        assert!(!Hosts::default().keep_apart(Some("a"), "b") && !Hosts::default().keep_apart(None, "b"));
    }
}
