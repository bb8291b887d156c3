//! The ports this machine listens on: free, unless weir runs.

use super::Findings;
use crate::options::Options;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};

pub fn look(options: &Options, runs: bool, found: &mut Findings) {
    if runs {
        return found.well("ports", "not looked at while weir runs here");
    }
    let mut doors: Vec<(String, String)> = Vec::new();
    for text in options.api_addr.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let address = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        doors.push((format!("--api-addr {text}"), address));
    }
    for url in options.listen_peer_urls.iter().filter(|_| !options.secondary) {
        let address = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).trim_end_matches('/');
        doors.push((format!("--listen-peer-urls {url}"), address.to_owned()));
    }
    for port in options.initial_object_files.iter().flat_map(|path| ports_of(path)).filter(|_| options.edge) {
        doors.push((format!("port {port} of the initial objects"), format!("[::]:{port}")));
    }
    let mut well = true;
    for (what, address) in doors {
        // As weir takes it: the first address, IPv4 before IPv6.
        let addresses: Vec<_> = address.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let Some(first) = first else {
            well = false;
            found.fault("ports", format!("{what}: {address} is no address of this machine's: correct it"));
            continue;
        };
        let Err(error) = TcpListener::bind(first) else { continue };
        well = false;
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "ss -ltnp says who listens there: end it, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 take CAP_NET_BIND_SERVICE (it is in deploy/systemd/weir.service), or another user"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: give one it has (ip addr)",
            _ => "choose another",
        };
        found.fault("ports", format!("{what}: {error}; {advice}"));
    }
    if well {
        found.well("ports", "free");
    }
}

/// Ports that the servers of a file listen on.
fn ports_of(path: &std::path::Path) -> Vec<u16> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let documents = base_model::yaml::parse_documents(&text).unwrap_or_default();
    let port = |document: &serde_json::Value| u16::try_from(document.get("port")?.as_u64()?).ok();
    documents.iter().filter_map(port).collect()
}
