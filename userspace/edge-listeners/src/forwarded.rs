//! Who asks, where proxies stand in between: X-Forwarded-For read and written.

use base_model::ip_filter::CidrSet;
use edge_pipeline::Exchange;
use proto_http::{Known, Request};
use std::net::{IpAddr, SocketAddr};

/// Adds the client's address to X-Forwarded-For.
pub fn append(exchange: &mut Exchange) {
    let ip = exchange.client.real_ip.to_canonical().to_string();
    let headers = &mut exchange.request_mut().headers;
    let earlier: Vec<String> =
        headers.known_all(Known::XForwardedFor).map(|v| String::from_utf8_lossy(v).into_owned()).collect();
    let earlier = earlier.join(",");
    if earlier.is_empty() {
        headers.set("X-Forwarded-For", ip);
    } else if !earlier.split(',').any(|part| part.trim() == ip) {
        headers.set("X-Forwarded-For", format!("{earlier},{ip}"));
    }
}

/// The client's own address: the peer, or, when the peer is trusted, the last address in X-Forwarded-For that is not.
pub fn real_ip(request: &Request, peer: SocketAddr, trusted: &CidrSet) -> IpAddr {
    let peer = peer.ip().to_canonical();
    if trusted.is_empty() || !trusted.contains(peer) {
        return peer;
    }
    let mut client = peer;
    let values: Vec<&[u8]> = request.headers.known_all(Known::XForwardedFor).collect();
    let hops = values.iter().rev().flat_map(|v| v.rsplit(|b| *b == b','));
    for hop in hops {
        let Some(ip) = std::str::from_utf8(hop).ok().and_then(|t| t.trim().parse::<IpAddr>().ok()) else { break };
        client = ip.to_canonical();
        if !trusted.contains(client) {
            break;
        }
    }
    client
}
