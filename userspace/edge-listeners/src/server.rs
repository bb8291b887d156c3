//! What a server of any kind is to the rest of the machine, and the table of the kinds.
//!
//! Whoever plans, steers, reports, retries or drains knows listeners by [`Server`] alone. A further kind is an implementation and a
//! line in [`KINDS`].

use crate::http_server::HttpServer;
use crate::tcp_proxy::TcpProxy;
use crate::traffic::Shared;
use crate::udp_proxy::UdpProxy;
use base_model::{Protocol, Spec};
use base_runtime::net::inherited::Passes;
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Makes a server of a document and tries to listen. That the port is taken is a state, not an error: see [`Server::retry`].
pub type Start = fn(&str, &Spec, Arc<Shared>) -> Result<Arc<dyn Server>, String>;

/// The kinds of servers this machine runs, by the names of their documents.
pub const KINDS: &[(&str, Start)] = &[
    ("HTTPServer", |name, spec, shared| match spec {
        Spec::HttpServer(spec) => Ok(HttpServer::start(name, spec, shared)?),
        other => Err(not_of(other)),
    }),
    ("GRPCServer", |name, spec, shared| match spec {
        Spec::GrpcServer(spec) => Ok(HttpServer::start_grpc(name, spec, shared)?),
        other => Err(not_of(other)),
    }),
    ("TCPProxy", |name, spec, shared| match spec {
        Spec::TcpProxy(spec) => Ok(TcpProxy::start(name, spec, shared)?),
        other => Err(not_of(other)),
    }),
    ("UDPProxy", |name, spec, shared| match spec {
        Spec::UdpProxy(spec) => Ok(UdpProxy::start(name, spec, shared)?),
        other => Err(not_of(other)),
    }),
];

/// A listener of a document, whatever it speaks. Called from control threads.
pub trait Server: Send + Sync {
    /// As documents spell it.
    fn kind(&self) -> &'static str;

    /// Takes another document of its kind. What was in force stays when it cannot be.
    fn update(self: Arc<Self>, spec: &Spec) -> Result<(), String>;

    /// Takes other rules that a controller has made for it, see [`crate::router::made`]. One that has no routes has none of those.
    fn update_rules(&self) -> Result<(), String> {
        Ok(())
    }

    /// Listens if it does not yet. Call it now and then: a port in use may become free.
    fn retry(self: Arc<Self>);

    /// Takes nothing new in. What is under way ends.
    fn stop(&self);

    /// Another process has its sockets, too, and takes whoever comes from now on: nothing more is accepted. What is there goes on until
    /// [`stop`](Server::stop).
    fn release(&self);

    /// Whether it accepts connections still, some time after it was to release its sockets.
    fn accepts(&self) -> bool {
        false
    }

    /// Where it has connections that only it can go on with, over sockets that receive what is for others, too: streams for another process
    /// that is to have those sockets, over which that passes on what is for these connections.
    fn passes(&self) -> io::Result<Option<Passes>> {
        Ok(None)
    }

    /// Leaves what sockets of UDP receive to another process: that which was given [`passes`](Server::passes) last, where there are any.
    /// `heard` and its clones are dropped when nothing more is taken from them.
    fn let_go(&self, _heard: Sender<()>) {}

    /// Where it listens now.
    fn sockets(&self) -> Vec<Sockets>;

    /// Connections, or sessions, that are open.
    fn connections(&self) -> usize;

    /// `running` or `failed`, with the reason.
    fn state(&self) -> (&'static str, Option<String>);

    /// Its status on this member.
    fn status(&self) -> Value;
}

/// Sockets that share one address, one per worker and in the workers' order: what virtual IPs lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    pub at: SocketAddr,
    pub protocol: Protocol,
    pub descriptors: Vec<RawFd>,
}

/// Starts the server of a document.
pub fn start(name: &str, spec: &Spec, shared: Arc<Shared>) -> Result<Arc<dyn Server>, String> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == spec.kind());
    kind.ok_or_else(|| not_of(spec))?.1(name, spec, shared)
}

/// A document came to a server of another kind.
pub(crate) fn not_of(spec: &Spec) -> String {
    format!("a document of kind {} is no such server", spec.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_served_and_listens_has_a_server() {
        let listening = base_model::kinds::KINDS.iter().filter(|kind| kind.served && !kind.sockets.is_empty());
        let mut wanted: Vec<&str> = listening.map(|kind| kind.name).collect();
        let mut known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        wanted.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, wanted);
    }
}
