//! Where the servers of pools are that a document names by their addresses. Read without decoding, as a walk over the document, whatever
//! kinds of filters are in it.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::beside::field;
use crate::problem::{at, nth};

/// The address of each, and the place and text of its URL.
pub(crate) fn pool_servers(document: &Value) -> Vec<(IpAddr, String, &str)> {
    let mut servers = Vec::new();
    collect(document, "", 0, &mut servers);
    servers
}

fn collect<'v>(value: &'v Value, path: &str, depth: usize, servers: &mut Vec<(IpAddr, String, &'v str)>) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let place = at(path, name);
                let listed = if name.eq_ignore_ascii_case("servers") { value.as_array() } else { None };
                for (i, server) in listed.into_iter().flatten().enumerate() {
                    let url = server.as_object().and_then(|server| field(server, "url")?.as_str());
                    if let Some((url, address)) = url.and_then(|url| Some((url, address_of(url)?))) {
                        servers.push((address, at(&nth(&place, i), "url"), url));
                    }
                }
                collect(value, &place, depth + 1, servers);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, &nth(path, i), depth + 1, servers);
            }
        }
        _ => {}
    }
}

/// The address in a URL that has one in the place of a name.
pub fn address_of(url: &str) -> Option<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let alone = || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    Some(host.parse::<SocketAddr>().ok().map(|at| at.ip()).or_else(alone)?.to_canonical())
}

/// Deeper than any pool lies.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse_document;

    #[test]
    fn servers_with_addresses_are_found_where_they_stand() {
        let document = parse_document(
            "filters:\n- pools:\n  - Servers: [{url: 'http://10.20.5.5:8080/a'}, {URL: 'https://shop.test'}]\n\
             pool:\n  servers: [{url: 'udp://[2001:db8::1]:53'}, {url: '10.0.0.1:5432'}, {url: 'unix:///run/a.sock'}]",
        )
        .unwrap();
        let found = pool_servers(&document);
        let mut told: Vec<String> = found.iter().map(|(ip, place, url)| format!("{ip} {place} {url}")).collect();
        told.sort();
        assert_eq!(
            told,
            [
                "10.0.0.1 pool.servers[1].url 10.0.0.1:5432",
                "10.20.5.5 filters[0].pools[0].Servers[0].url http://10.20.5.5:8080/a",
                "2001:db8::1 pool.servers[0].url udp://[2001:db8::1]:53",
            ]
        );
        for (url, address) in [
            ("http://user:word@10.0.0.1", Some("10.0.0.1")),
            ("https://[::ffff:10.0.0.1]:443", Some("10.0.0.1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("http://10.0.0.1?a=b", Some("10.0.0.1")),
            ("http://10.0.0.test", None),
            ("", None),
        ] {
            assert_eq!(address_of(url), address.map(|address| address.parse().unwrap()), "{url}");
        }
    }
}
