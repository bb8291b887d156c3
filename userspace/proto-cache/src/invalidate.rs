//! Which answers a write makes doubtful (RFC 9111 section 4.4).

use proto_http::message::host_of;
use proto_http::{Method, Request, Response};

/// Whether a request may change something at the origin (RFC 9110 section 9.2.1). Of a method nobody knows one must fear so.
pub fn is_unsafe(method: &Method) -> bool {
    !matches!(method, Method::Get | Method::Head | Method::Options | Method::Trace)
}

/// Whether the answer says that it has.
pub fn has_done_it(response: &Response) -> bool {
    (200..400).contains(&response.status)
}

/// Targets that the answer names beside the request's own, on the same host: paths with their queries.
pub fn others(request: &Request, scheme: &str, response: &Response) -> Vec<Vec<u8>> {
    let fields = ["Location", "Content-Location"];
    fields
        .iter()
        .filter_map(|name| response.headers.value(name))
        .filter_map(|reference| target_of(reference, request, scheme))
        .collect()
}

fn target_of(reference: &[u8], request: &Request, scheme: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(reference).ok()?.trim();
    let text = text.split('#').next().unwrap_or_default();
    let target = match text.split_once("://") {
        Some((of, rest)) if !of.is_empty() && of.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(end);
            let same = of.eq_ignore_ascii_case(scheme) && authority.eq_ignore_ascii_case(&request.authority);
            match target {
                _ if !same => return None,
                "" => "/".to_owned(),
                query if query.starts_with('?') => format!("/{query}"),
                target => target.to_owned(),
            }
        }
        _ => match text.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let same = host_of(&rest[..end]).eq_ignore_ascii_case(request.host());
                if !same {
                    return None;
                }
                rest[end..].to_owned()
            }
            None if text.starts_with('/') => text.to_owned(),
            None if text.is_empty() => return None,
            // Beside the path of the request.
            None => {
                let path = request.path.encoded();
                let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
                format!("{folder}{text}")
            }
        },
    };
    Some(target.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_the_same_host() {
        let mut request = Request { authority: "a.test:80".to_owned(), ..Request::default() };
        request.set_target(b"/shop/cart?x=1").unwrap();
        for (reference, target) in [
            ("/a?b", Some("/a?b")),
            ("http://a.test:80/a", Some("/a")),
            ("HTTP://A.test:80/a#f", Some("/a")),
            ("http://a.test:80", Some("/")),
            ("http://a.test:80?q", Some("/?q")),
            ("//a.test:80/a", Some("/a")),
            ("items", Some("/shop/items")),
            ("http://b.test/a", None),
            ("https://a.test:80/a", None),
            ("//b.test/a", None),
            ("", None),
        ] {
            let mut response = Response::default();
            response.headers.add("Location", reference);
            let found: Vec<String> =
                others(&request, "http", &response).into_iter().map(|t| String::from_utf8(t).unwrap()).collect();
            assert_eq!(found, target.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{reference}");
        }
        assert!(is_unsafe(&Method::Post) && is_unsafe(&Method::Other("M-SEARCH".into())) && !is_unsafe(&Method::Head));
    }
}
