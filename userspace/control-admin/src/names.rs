//! Under which names the API answers.
//!
//! A page in somebody's browser may point its own name at this machine, and then asks the API as its own server, whose answers it may
//! read. Where nobody has to log in, the API answers only to names that nobody else can hand out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_text::quoted;
use serde_json::json;

/// `localhost`, this machine's name, and those that were given; addresses go without saying.
#[derive(Clone)]
pub struct Names(Arc<BTreeSet<String>>);

impl Names {
    pub fn new(given: &[String]) -> Names {
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let names = given.iter().map(String::as_str).chain(["localhost", own.trim()]);
        Names(Arc::new(names.filter(|name| !name.is_empty()).map(canonical).collect()))
    }

    /// `host` is a name or an address, a port behind it or none.
    fn know(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok() || self.0.contains(&canonical(bare))
    }
}

/// Lets nobody in who came by another name.
pub async fn known(State(names): State<Names>, request: Request, next: Next) -> Response {
    let named = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let hosts = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let strange = named.into_iter().chain(hosts).find(|host| !names.know(host));
    let Some(strange) = strange else { return next.run(request).await };
    let status = StatusCode::FORBIDDEN;
    let message = format!(
        "the admin API is not reached as {}: use localhost, an address or this machine's name; or, where that name is \
         right, start weir with --api-names, or with a login",
        quoted(&strange)
    );
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        json!({"code": status.as_u16(), "message": message}).to_string(),
    )
        .into_response()
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_hand_out_are_strange() {
        let names = Names::new(&["edge-1.shop.example".to_owned()]);
        for host in [
            "localhost",
            "LOCALHOST:2381",
            "localhost.:2381",
            "127.0.0.1:2381",
            "[::1]:2381",
            "10.0.0.1",
            "Edge-1.Shop.Example:80",
        ] {
            assert!(names.know(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:2381",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "a b",
            "user@localhost.evil",
        ] {
            assert!(!names.know(host), "{host}");
        }
    }
}
