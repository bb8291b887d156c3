//! Sticky sessions: a client stays with the server it was led to, by a cookie of the application or one of ours.
//!
//! With `CookieConsistentHash` the application's cookie is hashed onto a ring of the servers, and nothing is set. With `DurationBased` each
//! answer sets a cookie of ours that names its server; with `ApplicationBased` those answers do that set the application's cookie. Ours has
//! Easegress's form: in hexadecimals a key of 8 bytes, and the HMAC-SHA256 under it of the server's URL. It names a server to whoever has
//! it in a document, on every machine and after every change, and to nobody else; a client that makes one up is led to a server it could
//! have been led to anyhow. The key is no secret, as it is part of the cookie: ours is always the same, so that every process looks its
//! cookies up. Those that Easegress has set have keys of their own, and are tried against server after server, a bounded number of them.
//!
//! A client whose server is gone, left out, unwell or full is led elsewhere, and gets a cookie for that one.

use crate::balance::hash::spread64;
use crate::balance::table::Table;
use crate::endpoint::Server;
use base_model::StickySessionSpec;
use proto_http::date::ImfDate;
use proto_http::{Known, Request, Response};
use ring::hmac;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes of the key in front of the HMAC.
const KEY_BYTES: usize = 8;

/// A cookie of ours, in hexadecimals.
const COOKIE_LENGTH: usize = 2 * (KEY_BYTES + 32);

/// Cookies of our name that are looked at in one request. Of those with another key than ours the first alone is tried.
const COOKIES_MOST: usize = 4;

/// Servers that a cookie with another key than ours is tried against: a client that makes keys up costs an HMAC for each.
const TRIED_MOST: usize = 256;

/// See the module doc.
#[derive(Debug)]
pub struct Sticky {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Hash { cookie: String, ring: Option<Table> },
    Named(Named),
}

#[derive(Debug)]
struct Named {
    /// The application's cookie whose being set is waited for; `None`: every answer sets ours.
    when: Option<String>,
    cookie: String,
    expire: Duration,
    /// By server: what our cookie says.
    values: Vec<String>,
    known: HashMap<String, usize>,
    /// To understand what Easegress has said.
    urls: Vec<String>,
}

/// What a request says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This one.
    Server(usize),
    /// The one the ring has for this hash.
    Hash(u64),
}

impl Sticky {
    /// `None` for a mode that nobody knows.
    pub fn new(spec: &StickySessionSpec, servers: &[Arc<Server>]) -> Option<Sticky> {
        let named = |when: Option<String>| {
            let values: Vec<String> = servers.iter().map(|server| value_of(OWN_KEY, &server.url)).collect();
            let known = values.iter().cloned().zip(0..).collect();
            let expire = match Duration::from(spec.lb_cookie_expire) {
                Duration::ZERO => StickySessionSpec::default().lb_cookie_expire.into(),
                expire => expire,
            };
            let usual = StickySessionSpec::default().lb_cookie_name;
            let cookie = if spec.lb_cookie_name.is_empty() { usual } else { spec.lb_cookie_name.clone() };
            let urls = servers.iter().map(|server| server.url.clone()).collect();
            Mode::Named(Named { when, cookie, expire, values, known, urls })
        };
        let mode = match spec.mode.as_str() {
            "CookieConsistentHash" => {
                let names: Vec<(&str, u32)> = servers.iter().map(|s| (s.url.as_str(), s.weight)).collect();
                Mode::Hash { cookie: spec.app_cookie_name.clone(), ring: Table::ring(&names) }
            }
            "DurationBased" => named(None),
            "ApplicationBased" => named(Some(spec.app_cookie_name.clone())),
            _ => return None,
        };
        Some(Sticky { mode })
    }

    /// What the request's cookies say; `None` for a client that was led nowhere yet.
    pub fn wish(&self, request: &Request) -> Option<Wish> {
        match &self.mode {
            Mode::Hash { cookie, .. } => {
                let value = cookies(request, cookie).next().filter(|value| !value.is_empty())?;
                Some(Wish::Hash(spread64(0, value)))
            }
            Mode::Named(named) => {
                let values = || cookies(request, &named.cookie).take(COOKIES_MOST);
                let known = values().find_map(|value| named.known_server(value));
                known.or_else(|| values().find_map(digits).and_then(|bytes| named.server_of(bytes))).map(Wish::Server)
            }
        }
    }

    /// The server of the ring for this hash, of those that are there.
    pub fn find(&self, hash: u64, is_there: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.mode {
            Mode::Hash { ring, .. } => ring.as_ref()?.find(hash, is_there),
            Mode::Named(_) => None,
        }
    }

    /// Has the answer of this server say where its client belongs, where it does; to a client that came over TLS a cookie for TLS alone.
    pub fn mark(&self, server: usize, tls: bool, response: &mut Response, now: SystemTime) {
        let Mode::Named(named) = &self.mode else { return };
        let Some(value) = named.values.get(server) else { return };
        if let Some(when) = &named.when {
            let mut set = response.headers.known_all(Known::SetCookie);
            if !set.any(|set| set.strip_prefix(when.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))) {
                return;
            }
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = named.expire.as_secs();
        let date = ImfDate::new(since.as_secs().saturating_add(seconds).min(LATEST));
        let secure = if tls { "; Secure" } else { "" };
        let (cookie, date) = (&named.cookie, date.as_str());
        let line = format!("{cookie}={value}; Path=/; Expires={date}; Max-Age={seconds}; HttpOnly{secure}");
        response.headers.add("Set-Cookie", line);
    }
}

/// The last second of the year 9999: later ones cannot be written.
const LATEST: u64 = 253_402_300_799;

impl Named {
    fn known_server(&self, value: &[u8]) -> Option<usize> {
        self.known.get(std::str::from_utf8(value).ok()?).copied()
    }

    fn server_of(&self, bytes: [u8; COOKIE_LENGTH / 2]) -> Option<usize> {
        let (key, tag) = bytes.split_at(KEY_BYTES);
        if key == OWN_KEY {
            return None;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        self.urls.iter().take(TRIED_MOST).position(|url| hmac::verify(&key, url.as_bytes(), tag).is_ok())
    }
}

/// What a cookie of our form says.
fn digits(value: &[u8]) -> Option<[u8; COOKIE_LENGTH / 2]> {
    let mut bytes = [0; COOKIE_LENGTH / 2];
    if value.len() != COOKIE_LENGTH || !value.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(value.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A server's name under a key.
fn value_of(key: [u8; KEY_BYTES], url: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), url.as_bytes());
    let mut value = String::with_capacity(COOKIE_LENGTH);
    for byte in key.iter().chain(tag.as_ref()) {
        let _ = write!(value, "{byte:02x}");
    }
    value
}

/// The key of our cookies. Another one in each process would have every machine try the cookies of all others.
const OWN_KEY: [u8; KEY_BYTES] = *b"weir-key";

/// The values of the cookies of this name, as they stand there.
pub(crate) fn cookies<'r>(request: &'r Request, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = request.headers.known_all(Known::Cookie).flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(ports: &[u16]) -> Vec<Arc<Server>> {
        let server = |port: &u16| Server::new(&format!("http://10.0.0.1:{port}"), 0, false, None).unwrap();
        ports.iter().map(|port| Arc::new(server(port))).collect()
    }

    fn sticky(mode: &str, ports: &[u16]) -> Sticky {
        let spec = StickySessionSpec {
            mode: mode.to_owned(),
            app_cookie_name: "SID".to_owned(),
            ..StickySessionSpec::default()
        };
        Sticky::new(&spec, &servers(ports)).unwrap()
    }

    fn with_cookies(lines: &[&str]) -> Request {
        let mut request = Request::default();
        lines.iter().for_each(|line| request.headers.add("Cookie", line));
        request
    }

    fn marked(sticky: &Sticky, server: usize, set: &[&str]) -> Vec<String> {
        let mut response = Response::default();
        set.iter().for_each(|line| response.headers.add("Set-Cookie", line));
        sticky.mark(server, false, &mut response, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        let lines = response.headers.known_all(Known::SetCookie).map(|line| String::from_utf8_lossy(line).into_owned());
        lines.collect()
    }

    #[test]
    fn our_cookie_names_the_server_wherever_it_stands() {
        let sticky = sticky("DurationBased", &[1, 2, 3]);
        let lines = marked(&sticky, 1, &["a=b"]);
        let (pair, attributes) = lines[1].split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Expires=Sun, 06 Nov 1994 10:49:37 GMT; Max-Age=7200; HttpOnly");
        let value = pair.strip_prefix("EG_SESSION=").unwrap();
        assert_eq!(value.len(), 80);
        for line in [format!("a=b; {pair}; c"), format!("EG_SESSION=\"{value}\""), format!("EG_SESSION=old;{pair}")] {
            assert_eq!(sticky.wish(&with_cookies(&[&line])), Some(Wish::Server(1)), "{line}");
        }
        // In another order, without some, of another process.
        let other = super::tests::sticky("DurationBased", &[9, 2]);
        assert_eq!(other.wish(&with_cookies(&[pair])), Some(Wish::Server(1)));
        let foreign = value_of([7; 8], "http://10.0.0.1:3");
        assert_eq!(sticky.wish(&with_cookies(&[&format!("EG_SESSION={foreign}")])), Some(Wish::Server(2)));
        let gone = super::tests::sticky("DurationBased", &[1, 3]);
        assert_eq!(gone.wish(&with_cookies(&[pair])), None, "a server that is not there any more");
    }

    #[test]
    fn what_is_no_cookie_of_ours_says_nothing() {
        let sticky = sticky("DurationBased", &[1, 2]);
        let good = value_of([0; 8], "http://10.0.0.1:1");
        let mut forged = good.clone();
        forged.replace_range(40..41, if &good[40..41] == "0" { "1" } else { "0" });
        for value in ["", "x", &"0".repeat(80), &forged, &good[..78], &format!("{good}00"), &"é".repeat(40)] {
            let line = format!("EG_SESSION={value}");
            assert_eq!(sticky.wish(&with_cookies(&[&line])), None, "{line}");
        }
        assert_eq!(sticky.wish(&with_cookies(&[&format!("XEG_SESSION={good}")])), None);
        let late = format!("{}EG_SESSION={good}", "EG_SESSION=x;".repeat(COOKIES_MOST));
        assert_eq!(sticky.wish(&with_cookies(&[&late])), None, "a bounded number is looked at");
    }

    #[test]
    fn cookies_with_keys_made_up_cost_a_bounded_number_of_trials() {
        let ports: Vec<u16> = (1..=300).collect();
        let sticky = sticky("DurationBased", &ports);
        let of = |key: [u8; 8], port: u16| value_of(key, &format!("http://10.0.0.1:{port}"));
        let led = |values: &[String]| {
            let lines: Vec<String> = values.iter().map(|value| format!("EG_SESSION={value}")).collect();
            sticky.wish(&with_cookies(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        assert_eq!(led(&[of([7; 8], 256)]), Some(Wish::Server(255)));
        assert_eq!(led(&[of([7; 8], 257)]), None, "too far");
        assert_eq!(led(&[of([7; 8], 301), of([7; 8], 1)]), None, "one alone is tried");
        assert_eq!(led(&[of([7; 8], 301), of(OWN_KEY, 300)]), Some(Wish::Server(299)), "ours are looked up");
    }

    #[test]
    fn every_process_makes_the_same_cookie() {
        let expected = "776569722d6b6579b85677680d313cc79e8b4934f442b8cfebca6ea967d3b4c1c0463d3cc22cce2c";
        let line = marked(&sticky("DurationBased", &[1]), 0, &[]).remove(0);
        assert_eq!(line.split([';', '=']).nth(1), Some(expected));
    }

    #[test]
    fn who_came_over_tls_gets_a_cookie_for_tls() {
        for (tls, secure) in [(true, true), (false, false)] {
            let mut response = Response::default();
            sticky("DurationBased", &[1]).mark(0, tls, &mut response, SystemTime::UNIX_EPOCH);
            let line = response.headers.known(Known::SetCookie).unwrap();
            assert_eq!(line.ends_with(b"; HttpOnly; Secure"), secure);
        }
    }

    #[test]
    fn the_applications_cookie_brings_ours() {
        let sticky = sticky("ApplicationBased", &[1, 2]);
        assert_eq!(marked(&sticky, 0, &[]).len(), 0);
        assert_eq!(marked(&sticky, 0, &["SIDE=1", "X=SID=1"]).len(), 2);
        let lines = marked(&sticky, 0, &["X=1", "SID=abc; Path=/"]);
        assert!(lines[2].starts_with("EG_SESSION="), "{lines:?}");
        let pair = lines[2].split(';').next().unwrap();
        assert_eq!(sticky.wish(&with_cookies(&["SID=abc", pair])), Some(Wish::Server(0)));
        assert_eq!(sticky.wish(&with_cookies(&["SID=abc"])), None);
    }

    #[test]
    fn the_applications_cookie_is_hashed() {
        let sticky = sticky("CookieConsistentHash", &[1, 2, 3]);
        assert_eq!(marked(&sticky, 0, &["SID=abc"]).len(), 1, "nothing is set");
        assert_eq!(sticky.wish(&with_cookies(&["a=b"])), None);
        assert_eq!(sticky.wish(&with_cookies(&["SID="])), None);
        let found = |value: &str| match sticky.wish(&with_cookies(&[&format!("b=c; SID={value}")])) {
            Some(Wish::Hash(hash)) => sticky.find(hash, |_| true).unwrap(),
            other => panic!("{other:?}"),
        };
        let mut got = [0; 3];
        (0..300).for_each(|n| got[found(&format!("user-{n}"))] += 1);
        assert!(got.iter().all(|n| *n > 50), "{got:?}");
        assert!((0..20).all(|_| found("me") == found("me")));
    }
}
