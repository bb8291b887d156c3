//! Which requests a tap shows, and how many of them.

use super::{Record, Seen};
use base_model::GoDuration;
use base_model::ip_filter::{Cidr, CidrSet};
use base_text::quoted;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Takes what passed the filter; says whether there was room for it. Runs on workers: it must not wait.
pub type Sink = Box<dyn Fn(&Arc<Record>) -> bool + Send + Sync>;

/// Requests a second that a tap shows of one machine unless it asks for another number, and at most.
const RATE: u32 = 100;
const RATE_MOST: u32 = 1_000;

/// What a tap shows.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The host, without port and case; `*.shop.test` is all below it.
    host: Option<String>,
    /// How the path begins; with `*` in it, the whole of it.
    path: Option<String>,
    method: Option<String>,
    server: Option<String>,
    statuses: Vec<RangeInclusive<u16>>,
    clients: Option<CidrSet>,
    slow: Option<Duration>,
    /// Of a thousand that pass, so many.
    permille: u32,
    rate: u32,
}

impl Default for Filter {
    fn default() -> Filter {
        Filter {
            host: None,
            path: None,
            method: None,
            server: None,
            statuses: Vec::new(),
            clients: None,
            slow: None,
            permille: 1_000,
            rate: RATE,
        }
    }
}

impl Filter {
    /// Reads `host`, `path`, `method`, `server`, `status`, `client`, `slow`, `sample` and `rate`. What is empty asks for nothing.
    pub fn parse(pairs: &[(String, String)]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        for (key, text) in pairs.iter().filter(|(_, text)| !text.is_empty()) {
            let wrong = |wanted: &str| format!("{key} = {}: {wanted}", quoted(text));
            match key.as_str() {
                "host" => filter.host = Some(text.to_ascii_lowercase()),
                "path" if text.starts_with(['/', '*']) => filter.path = Some(text.clone()),
                "path" => return Err(wrong("how a path begins, such as /cart, or a pattern with *, such as /*.png")),
                "method" => filter.method = Some(text.to_ascii_uppercase()),
                "server" => filter.server = Some(text.clone()),
                "status" => {
                    let wanted = "a status, a range or a class, with commas between them, such as 503 or 4xx,500-504";
                    for part in text.split(',').map(str::trim) {
                        filter.statuses.push(statuses(part).ok_or_else(|| wrong(wanted))?);
                    }
                }
                "client" => {
                    let wanted = "addresses or prefixes with commas between them, such as 192.0.2.7 or 2001:db8::/32";
                    let prefixes: Result<Vec<Cidr>, _> = text.split(',').map(|part| part.trim().parse()).collect();
                    filter.clients = Some(CidrSet::new(&prefixes.map_err(|_| wrong(wanted))?));
                }
                "slow" => {
                    let duration = text.parse::<GoDuration>().map_err(|_| wrong("a duration, such as 500ms"))?;
                    filter.slow = Some(duration.into());
                }
                "sample" => {
                    let percent = text.trim_end_matches('%').parse::<f64>().ok();
                    let permille = percent.map(|percent| percent * 10.0).filter(|n| (1.0..=1_000.0).contains(n));
                    filter.permille = permille.ok_or_else(|| wrong("a share from 0.1% to 100%"))? as u32;
                }
                "rate" => {
                    let rate = text.parse().ok().filter(|rate| (1..=RATE_MOST).contains(rate));
                    filter.rate = rate.ok_or_else(|| wrong("requests a second of each machine, 1 to 1000"))?;
                }
                other => {
                    return Err(format!(
                        "{}: unknown; accepted are host, path, method, server, status, client, slow, sample, rate",
                        quoted(other)
                    ));
                }
            }
        }
        Ok(filter)
    }

    /// Whether a tap shows it, but for the bounds of how many.
    pub fn passes(&self, seen: &Seen<'_>) -> bool {
        let exchange = seen.exchange;
        let client = &exchange.client;
        (self.statuses.is_empty() || self.statuses.iter().any(|range| range.contains(&seen.status)))
            && self.slow.is_none_or(|least| seen.duration >= least)
            && self.method.as_deref().is_none_or(|method| method == exchange.method.as_str())
            && self.server.as_deref().is_none_or(|server| server == &*client.server)
            && self.host.as_deref().is_none_or(|host| is_host(host, exchange.default_space_ref().request.host()))
            && self.path.as_deref().is_none_or(|path| is_path(path.as_bytes(), exchange.asked_path()))
            && self.clients.as_ref().is_none_or(|clients| {
                clients.contains(client.real_ip.unwrap_or_else(|| client.peer.ip()).to_canonical())
            })
    }
}

fn statuses(part: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    if let Some(class) = part.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
        return Some(class * 100..=class * 100 + 99);
    }
    match part.split_once('-') {
        Some((from, to)) => Some(status(from)?..=status(to)?).filter(|range| !range.is_empty()),
        None => status(part).map(|status| status..=status),
    }
}

fn is_host(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(end) => {
            host.len() >= end.len() && host.is_char_boundary(host.len() - end.len()) && {
                host[host.len() - end.len()..].eq_ignore_ascii_case(end)
            }
        }
        None => host.eq_ignore_ascii_case(wanted),
    }
}

fn is_path(wanted: &[u8], path: &[u8]) -> bool {
    if !wanted.contains(&b'*') {
        return path.starts_with(wanted);
    }
    let mut parts = wanted.split(|b| *b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let parts: Vec<&[u8]> = parts.collect();
    let (last, between) = parts.split_last().map_or((&b""[..], &[][..]), |(last, between)| (*last, between));
    for part in between.iter().filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == *part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// One that is open.
pub struct Tap {
    pub filter: Filter,
    pub sink: Sink,
    pub missed: AtomicU64,
    /// Those that passed, for the sample.
    passed: AtomicU64,
    /// The second that is counted in, and what was shown in it.
    second: Mutex<(Option<Instant>, u32)>,
}

impl Tap {
    pub fn new(filter: Filter, sink: Sink) -> Tap {
        Tap { filter, sink, missed: AtomicU64::new(0), passed: AtomicU64::new(0), second: Mutex::default() }
    }

    /// Whether the next one that passes is of the sample. The first one is.
    pub fn sampled(&self) -> bool {
        let permille = u64::from(self.filter.permille);
        let nth = self.passed.fetch_add(1, Relaxed);
        (nth * permille) % 1_000 < permille
    }

    /// Whether this second has room for it.
    pub fn admits(&self, now: Instant) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.0.is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1)) {
            *second = (Some(now), 0);
        }
        second.1 += 1;
        second.1 <= self.filter.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Filter, String> {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        Filter::parse(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        for (text, told) in [
            ("path=cart", "/cart"),
            ("status=600", "503"),
            ("status=504-500", "503"),
            ("status=6xx", "4xx"),
            ("client=shop", "192.0.2.7"),
            ("slow=1", "500ms"),
            ("sample=0", "0.1%"),
            ("sample=101%", "100%"),
            ("rate=0", "1 to 1000"),
            ("rate=5000", "1 to 1000"),
            ("color=red", "host, path"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(told) && why.contains(text.split('=').next().unwrap()), "{why}");
        }
        assert!(parse("host= path= status=").is_ok(), "what is empty asks for nothing");
    }

    #[test]
    fn patterns_of_hosts_paths_and_statuses() {
        for (wanted, path, is) in [
            ("/cart", "/cart/7", true),
            ("/cart", "/card", false),
            ("/*.png", "/a/b.png", true),
            ("/*.png", "/a/b.png?x", false),
            ("/a*c*e", "/abcde", true),
            ("/a*c*e", "/abde", false),
            ("*", "/", true),
            ("*/x", "/x/x", true),
            ("/a*a", "/a", false),
        ] {
            assert_eq!(is_path(wanted.as_bytes(), path.as_bytes()), is, "{wanted} {path}");
        }
        for (wanted, host, is) in [
            ("shop.test", "SHOP.test", true),
            ("shop.test", "a.shop.test", false),
            ("*.shop.test", "a.Shop.test", true),
            ("*.shop.test", "shop.test", false),
            ("*x", "é", false),
        ] {
            assert_eq!(is_host(wanted, host), is, "{wanted} {host}");
        }
        let filter = parse("status=404,5xx,200-204").unwrap();
        let passes = |status: u16| filter.statuses.iter().any(|range| range.contains(&status));
        assert_eq!([404, 500, 599, 204, 205, 403].map(passes), [true, true, true, true, false, false]);
    }

    #[test]
    fn a_sample_has_its_share_and_a_second_its_bound() {
        for (share, of_thousand) in [("100%", 1_000), ("25", 250), ("0.1%", 1), ("33.3%", 333)] {
            let tap = Tap::new(parse(&format!("sample={share}")).unwrap(), Box::new(|_| true));
            assert_eq!((0..1_000).filter(|_| tap.sampled()).count(), of_thousand, "{share}");
        }
        let tap = Tap::new(parse("rate=3").unwrap(), Box::new(|_| true));
        let now = Instant::now();
        assert_eq!(
            [0, 0, 0, 0, 1, 1].map(|s| tap.admits(now + Duration::from_secs(s))),
            [true, true, true, false, true, true]
        );
    }
}
