//! Redirects of servers that are followed here rather than by clients (`maxRedirection`).
//!
//! As Go's client, and with it Easegress, means it: 301, 302 and 303 are followed with GET (HEAD stays HEAD) and without the body, 307 and
//! 308 with the method and body of the request, where that can be read once more. The redirect after the last that is followed is the
//! client's answer, as is one that cannot be followed. To another origin, and from `https` to `http`, no credentials go along.

use proto_http::{Method, Request, Response, authority};
use std::net::IpAddr;

/// Fields that are for the origin that was asked, and for no other.
const CREDENTIALS: [&str; 5] = ["Authorization", "Cookie", "Cookie2", "Proxy-Authorization", "WWW-Authenticate"];

/// Fields that speak of a body.
const OF_BODIES: [&str; 7] =
    ["Content-Length", "Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Digest", "Trailer"];

/// Where a request goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub tls: bool,
    /// Host, in lower case, with its port where that is not the usual one.
    pub authority: String,
}

impl Origin {
    pub fn new(tls: bool, authority: &str) -> Origin {
        let mut authority = authority.to_ascii_lowercase();
        let usual = if tls { ":443" } else { ":80" };
        if let Some(host) = authority.strip_suffix(usual) {
            authority = host.to_owned();
        }
        Origin { tls, authority }
    }

    /// Host without brackets, and port.
    pub fn place(&self) -> Option<(String, u16)> {
        let (host, port) = authority::split(self.authority.as_bytes())?;
        let host = std::str::from_utf8(host).ok()?.trim_matches(['[', ']']).to_owned();
        Some((host, port.unwrap_or(if self.tls { 443 } else { 80 })))
    }
}

/// The request that a redirect asks for.
#[derive(Debug)]
pub struct Next {
    pub origin: Origin,
    pub request: Request,
    /// The body goes along.
    pub with_body: bool,
}

/// What follows an answer to `request`, which went to `origin`; `None` where it is no redirect, or none that can be followed. `own` are names
/// of one and the same.
pub fn next(
    request: &Request,
    origin: &Origin,
    own: &[Origin],
    response: &Response,
    body_is_there: bool,
) -> Option<Next> {
    let (method, with_body) = match response.status {
        301..=303 if request.method == Method::Head => (Method::Head, false),
        301..=303 => (Method::Get, false),
        307 | 308 if body_is_there => (request.method.clone(), true),
        _ => return None,
    };
    let location = std::str::from_utf8(response.headers.value("Location")?).ok()?.trim();
    let (to, target) = resolve(location, origin, request)?;
    let mut next = request.clone();
    next.method = method;
    next.set_target(target.as_bytes()).ok()?;
    next.authority.clone_from(&to.authority);
    next.scheme = None;
    let mut leave_out = |fields: &[&str]| {
        for field in fields {
            next.headers.remove(field);
        }
    };
    if !with_body {
        leave_out(&OF_BODIES);
    }
    if to != *origin && !(own.contains(&to) && own.contains(origin)) {
        leave_out(&CREDENTIALS);
    }
    Some(Next { origin: to, request: next, with_body })
}

/// Reads a reference (RFC 3986 section 4.2) where it stands: the origin, and path and query as they go on the wire. A fragment is the
/// client's.
fn resolve(location: &str, origin: &Origin, request: &Request) -> Option<(Origin, String)> {
    let location = location.split('#').next().unwrap_or_default();
    let path_of = |rest: &str| if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let absolute = |tls: bool, rest: &str| {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (named, rest) = rest.split_at(end);
        let good = !named.contains('@') && authority::split(named.as_bytes()).is_some();
        good.then(|| (Origin::new(tls, named), path_of(rest)))
    };
    if let Some(rest) = location.strip_prefix("//") {
        return absolute(origin.tls, rest);
    }
    if let Some((scheme, rest)) = location.split_once("://")
        && !scheme.contains(['/', '?'])
    {
        return match scheme.to_ascii_lowercase().as_str() {
            "http" => absolute(false, rest),
            "https" => absolute(true, rest),
            _ => None,
        };
    }
    let path = request.path.encoded();
    let target = match location.as_bytes().first() {
        None => return None,
        Some(b'/') => location.to_owned(),
        Some(b'?') => format!("{path}{location}"),
        // A scheme without slashes, such as mailto.
        _ if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) => return None,
        _ => format!("{}{location}", &path[..path.rfind('/').map_or(0, |slash| slash + 1)]),
    };
    Some((origin.clone(), path_of(&target)))
}

/// Whether nobody is led there by what a server says: the addresses a cloud tells its secrets at, and those that are none of one machine.
pub fn is_barred(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.octets()[..8] == METADATA_V6
        }
    }
}

/// fd00:ec2::/64, where a cloud has its metadata.
const METADATA_V6: [u8; 8] = [0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str) -> Request {
        let mut request = Request { method: Method::parse(method.as_bytes()).unwrap(), ..Request::default() };
        request.set_target(target.as_bytes()).unwrap();
        for (name, value) in [("Authorization", "a"), ("Cookie", "b"), ("Content-Type", "c"), ("X-Own", "d")] {
            request.headers.add(name, value);
        }
        request
    }

    fn answer(status: u16, location: &str) -> Response {
        let mut response = Response::with_status(status);
        response.headers.add("Location", location);
        response
    }

    #[test]
    fn references_are_read_where_they_stand() {
        let here = Origin::new(false, "Shop.test:80");
        for (location, wanted) in [
            ("/b?c=d", Some("http shop.test /b?c=d")),
            ("b", Some("http shop.test /dir/b")),
            ("../b", Some("http shop.test /b")),
            ("?q=1", Some("http shop.test /dir/a?q=1")),
            ("/b#part", Some("http shop.test /b")),
            ("//other.test/x", Some("http other.test /x")),
            ("http://other.test", Some("http other.test /")),
            ("HTTPS://Other.test:443/x y", None),
            ("https://other.test:8443?q", Some("https other.test:8443 /?q")),
            ("https://other.test:443/é", Some("https other.test /%C3%A9")),
            ("http://user@other.test/", None),
            ("ftp://other.test/", None),
            ("mailto:a@b.test", None),
            ("http://", None),
            ("", None),
            ("#only", None),
            ("http://[::1]:90/x", Some("http [::1]:90 /x")),
        ] {
            let next = next(&request("GET", "/dir/a?old=1"), &here, &[], &answer(302, location), true);
            let shown = next.map(|next| {
                let scheme = if next.origin.tls { "https" } else { "http" };
                format!("{scheme} {} {}", next.origin.authority, next.request.target())
            });
            assert_eq!(shown.as_deref(), wanted, "{location}");
        }
    }

    #[test]
    fn methods_and_bodies_are_those_of_go() {
        let here = Origin::new(false, "a.test");
        for (method, status, there, wanted) in [
            ("GET", 301, true, Some(("GET", false))),
            ("HEAD", 302, true, Some(("HEAD", false))),
            ("POST", 301, true, Some(("GET", false))),
            ("PUT", 303, false, Some(("GET", false))),
            ("POST", 307, true, Some(("POST", true))),
            ("DELETE", 308, true, Some(("DELETE", true))),
            ("POST", 307, false, None),
            ("GET", 300, true, None),
            ("GET", 304, true, None),
            ("GET", 200, true, None),
        ] {
            let next = next(&request(method, "/"), &here, &[], &answer(status, "/b"), there);
            let shown = next.as_ref().map(|next| (next.request.method.as_str(), next.with_body));
            assert_eq!(shown, wanted, "{method} {status}");
            if let Some(next) = next {
                assert_eq!(next.request.headers.contains("Content-Type"), next.with_body, "{method} {status}");
            }
        }
        assert!(next(&request("GET", "/"), &here, &[], &Response::with_status(302), true).is_none(), "no Location");
    }

    #[test]
    fn no_credentials_go_to_another_origin() {
        let here = Origin::new(true, "a.test");
        for (location, kept) in [
            ("/b", true),
            ("https://A.test:443/b", true),
            ("https://b.test/", false),
            ("https://a.test:8443/", false),
            ("https://sub.a.test/", false),
            ("http://a.test/", false),
            ("//a.test/", true),
            ("https://10.0.0.1:8443/", true),
            ("http://10.0.0.1:8443/", false),
        ] {
            let own = [here.clone(), Origin::new(true, "10.0.0.1:8443")];
            let next = next(&request("GET", "/"), &here, &own, &answer(302, location), true).unwrap();
            let headers = &next.request.headers;
            assert_eq!((headers.contains("Authorization"), headers.contains("Cookie")), (kept, kept), "{location}");
            assert!(headers.contains("X-Own"), "{location}");
        }
    }

    #[test]
    fn nobody_is_led_to_where_clouds_tell_secrets() {
        for (ip, barred) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("0.0.0.0", true),
            ("224.0.0.1", true),
            ("10.0.0.1", false),
            ("127.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_barred(ip.parse().unwrap()), barred, "{ip}");
        }
    }
}
