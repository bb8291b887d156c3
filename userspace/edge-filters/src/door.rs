//! What a WaitingRoom and a Lottery do alike: read and write cookies, let in, and tell whoever is not let in why.

use crate::hall::{Came, Room, hall};
use base_model::HttpCode;
use base_model::header_adapt::is_header_name;
use base_model::{Findings, Problem};
use edge_pipeline::{Body, Exchange};
use edge_upstream::random;
use proto_admission::ticket::{self, Scope};
use proto_admission::{Carried, Pass, Rejected, Ticket};
use proto_http::Response;
use proto_http::headers::Known;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A room as a filter of one generation has it.
pub(crate) struct Door {
    pub room: Arc<Room>,
    pub cookie_name: String,
    pub cookie_domain: String,
    pub bind_address: bool,
    pub session_ms: u64,
    /// Of the request to the backend; empty: none.
    pub number_header: String,
    /// Of the backend's answers; empty: none.
    pub signal_header: String,
    pub sold_out_statuses: Vec<u16>,
    /// HTML; empty: ours.
    pub page: String,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    NotStarted {
        starts_ms: u64,
    },
    /// `ahead` is unknown as long as the place does not count.
    Waiting {
        ahead: Option<u64>,
        seconds: Option<u64>,
        later: bool,
    },
    SoldOut,
    Unlucky,
    Unavailable,
}

impl Told {
    fn state(self) -> &'static str {
        match self {
            Told::NotStarted { .. } => "notStarted",
            Told::Waiting { .. } => "waiting",
            Told::SoldOut | Told::Unlucky => "soldOut",
            Told::Unavailable => "unavailable",
        }
    }

    /// As the access log names it.
    fn reason(self) -> &'static str {
        match self {
            Told::NotStarted { .. } => "not_started",
            Told::Waiting { .. } => "waiting",
            Told::SoldOut => "sold_out",
            Told::Unlucky => "unlucky",
            Told::Unavailable => "unavailable",
        }
    }

    /// In words, for the page.
    fn words(self) -> (&'static str, String) {
        match self {
            Told::NotStarted { .. } => {
                ("Not started yet", "This page goes on by itself when it begins. Your place is kept.".to_owned())
            }
            Told::Waiting { ahead: None, .. } => (
                "Please wait",
                "You are in the waiting room. Your place counts from the next look of this page.".to_owned(),
            ),
            Told::Waiting { ahead: Some(0), .. } => ("You are next", "This page goes on by itself.".to_owned()),
            Told::Waiting { ahead: Some(ahead), seconds, later } => {
                let wait = seconds.map_or_else(String::new, |seconds| format!(", about {}", span(seconds)));
                let why = if later { " It takes longer than it seemed: fewer are let in than before." } else { "" };
                let people = if ahead == 1 { "One is".to_owned() } else { format!("{ahead} are") };
                ("Please wait", format!("{people} before you{wait}.{why} This page goes on by itself."))
            }
            Told::SoldOut | Told::Unlucky => ("Sold out", "There is nothing left. Thank you for waiting.".to_owned()),
            Told::Unavailable => {
                ("One moment", "The waiting room cannot be reached; this page tries again.".to_owned())
            }
        }
    }
}

impl Door {
    /// What the client carries, if it is good. `ticket_ms` is how long a ticket lasts, by whether its place counts.
    pub fn carried(&self, exchange: &Exchange, now_ms: u64, ticket_ms: impl Fn(&Ticket) -> u64) -> Option<Carried> {
        let address = self.address(exchange);
        let (keys, scope) = (hall().keys(), self.scope(&address));
        let open = |text: &[u8]| {
            let carried = ticket::open(&keys, &scope, text)?;
            let (issued_ms, lasts_ms) = match &carried {
                Carried::Ticket(ticket) => (ticket.issued_ms, ticket_ms(ticket)),
                Carried::Pass(pass) => (pass.issued_ms, self.session_ms),
            };
            ticket::fresh(issued_ms, lasts_ms, now_ms).map(|()| carried)
        };
        // Another host of the domain, or an earlier `cookieDomain`, may have left one of the same name beside it.
        let (mut found, mut rejected) = (None, None);
        for text in cookies(exchange, self.cookie_name.as_bytes()).take(COOKIES_MAX) {
            match open(text) {
                Ok(Carried::Pass(pass)) => return Some(Carried::Pass(pass)),
                Ok(ticket) => found = found.or(Some(ticket)),
                Err(why) => rejected = rejected.or(Some(why)),
            }
        }
        if let (None, Some(rejected)) = (found, rejected) {
            self.room.count(match rejected {
                Rejected::Shape => Came::BadShape,
                Rejected::UnknownKey => Came::UnknownKey,
                Rejected::Forged => Came::Forged,
                Rejected::Expired => Came::Expired,
                Rejected::Future => Came::Future,
            });
        }
        found
    }

    /// The text of a Set-Cookie field; `None` without a key to sign with.
    pub fn set_cookie(&self, exchange: &Exchange, carried: &Carried, lasts_ms: u64) -> Option<String> {
        let address = self.address(exchange);
        let value = ticket::seal(&hall().keys(), &self.scope(&address), carried)?;
        let domain = self.domain();
        let secure = if exchange.client.scheme == "https" { "; Secure" } else { "" };
        let age = lasts_ms.div_ceil(1000);
        Some(format!("{}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{domain}{secure}", self.cookie_name))
    }

    fn domain(&self) -> String {
        if self.cookie_domain.is_empty() { String::new() } else { format!("; Domain={}", self.cookie_domain) }
    }

    fn scope<'s>(&'s self, address: &'s str) -> Scope<'s> {
        Scope { room: self.room.desk.room(), sale: self.room.desk.sale(), bound_to: address }
    }

    fn address(&self, exchange: &Exchange) -> String {
        if self.bind_address { exchange.client.real_ip_text() } else { String::new() }
    }

    /// Lets the request on. `new` is a pass that the client does not have yet.
    pub fn let_in(&self, exchange: &mut Exchange, pass: Pass, new: bool, now_ms: u64) {
        self.room.count(if new { Came::LetIn } else { Came::KnownPass });
        if !self.number_header.is_empty() {
            exchange.request_mut().headers.set(&self.number_header, pass.number.to_string());
        }
        let cookie = if new { self.set_cookie(exchange, &Carried::Pass(pass), self.session_ms) } else { None };
        if cookie.is_none() && self.signal_header.is_empty() && self.sold_out_statuses.is_empty() {
            return;
        }
        let gone = format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{}", self.cookie_name, self.domain());
        let (room, header) = (self.room.clone(), self.signal_header.clone());
        let statuses = self.sold_out_statuses.clone();
        exchange.at_end(move |exchange| {
            let Some(response) = exchange.default_space().response.as_mut() else { return };
            let said = |verb: &str| {
                !header.is_empty()
                    && response.headers.values(&header).any(|value| value.eq_ignore_ascii_case(verb.as_bytes()))
            };
            if said("sold-out") || statuses.contains(&response.status) {
                room.desk.signal(true, now_ms);
            } else if said("open") {
                room.desk.signal(false, now_ms);
            }
            let left = said("done");
            if !header.is_empty() {
                response.headers.remove(&header);
            }
            let cookie = if left { Some(gone) } else { cookie };
            if left {
                room.desk.leave(pass.id, pass.bucket);
            }
            if let Some(cookie) = cookie {
                response.headers.add("Set-Cookie", cookie);
                // Beside whatever else it says, this keeps caches that many share from handing the pass to all.
                response.headers.add("Cache-Control", "private");
            }
        });
    }

    /// Answers instead of the backend.
    pub fn turn_away(
        &self,
        exchange: &mut Exchange,
        told: Told,
        code: HttpCode,
        refresh_ms: u64,
        cookie: Option<String>,
    ) {
        self.room.count(match told {
            Told::NotStarted { .. } => Came::NotStarted,
            Told::Waiting { .. } => Came::Waiting,
            Told::SoldOut => Came::Over,
            Told::Unlucky => Came::Unlucky,
            Told::Unavailable => Came::Unavailable,
        });
        exchange.refused = Some(told.reason());
        let name = self.room.filter.clone();
        exchange.tags.note(|| match told {
            Told::Waiting { ahead: Some(ahead), .. } => format!("{name}: waiting, {ahead} ahead"),
            told => format!("{name}: {}", told.state()),
        });
        let refresh_s = refresh_ms.div_ceil(1000).max(1);
        let over = matches!(told, Told::SoldOut | Told::Unlucky);
        let mut response = Response::with_status(code.code());
        let headers = &mut response.headers;
        headers.set("Cache-Control", "no-store");
        headers.set("Vary", "Accept, Cookie");
        if !over {
            headers.set("Retry-After", refresh_s.to_string());
        }
        if let Some(cookie) = cookie {
            headers.set("Set-Cookie", cookie);
        }
        let accepts = exchange.request().headers.text("Accept").unwrap_or("").to_ascii_lowercase();
        let body = if accepts.contains("text/html") || accepts.contains("application/xhtml+xml") {
            if !over {
                headers.set("Refresh", refresh_s.to_string());
            }
            headers.set("Content-Type", "text/html; charset=utf-8");
            self.html(told, refresh_s, over)
        } else {
            headers.set("Content-Type", "application/json");
            text(told, refresh_s, over)
        };
        exchange.respond(response, Body::full(body.into_bytes()));
    }

    fn html(&self, told: Told, refresh_s: u64, over: bool) -> String {
        let page = if self.page.is_empty() { PAGE } else { &self.page };
        let (title, words) = told.words();
        let (position, seconds) = match told {
            Told::Waiting { ahead, seconds, .. } => (ahead.map(|ahead| ahead + 1), seconds),
            _ => (None, None),
        };
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let refresh = if over { String::new() } else { refresh_s.to_string() };
        [
            ("{title}", title.to_owned()),
            ("{text}", words),
            ("{state}", told.state().to_owned()),
            ("{position}", number(position)),
            ("{wait}", number(seconds)),
            ("{refresh}", refresh),
        ]
        .into_iter()
        .fold(page.to_owned(), |page, (mark, text)| page.replace(mark, &text))
    }
}

fn text(told: Told, refresh_s: u64, over: bool) -> String {
    let mut fields = Map::new();
    fields.insert("state".into(), told.state().into());
    match told {
        Told::Waiting { ahead, seconds, later } => {
            fields.insert("position".into(), ahead.map_or(Value::Null, |ahead| json!(ahead + 1)));
            fields.insert("waitSeconds".into(), seconds.map_or(Value::Null, Value::from));
            if later {
                fields.insert("reason".into(), "fewer are let in than before".into());
            }
        }
        Told::NotStarted { starts_ms } => {
            fields.insert("startsAtUnixSeconds".into(), starts_ms.div_ceil(1000).into());
        }
        _ => {}
    }
    if !over {
        fields.insert("refreshSeconds".into(), refresh_s.into());
    }
    Value::Object(fields).to_string()
}

/// A time to wait, roughly: nobody plans by seconds.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => "less than a minute".to_owned(),
        60..120 => "a minute".to_owned(),
        120..5400 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds.div_ceil(3600)),
    }
}

/// The values of the request's cookies of this name.
fn cookies<'x>(exchange: &'x Exchange, name: &'x [u8]) -> impl Iterator<Item = &'x [u8]> {
    let pairs = exchange.request().headers.known_all(Known::Cookie).flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

/// Bits that nobody can guess; `None` where the system has none.
pub(crate) fn drawn() -> Option<u64> {
    let mut bytes = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// Some time in which an answer may come.
#[cfg(not(test))]
pub(crate) async fn pause() {
    base_runtime::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// Tests bring the answer between two polls.
#[cfg(test)]
pub(crate) async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut paused, true) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Cookies of one name that are looked at; each costs a signature.
const COOKIES_MAX: usize = 4;

/// How often a request looks for its answer: for a second in all.
pub(crate) const LOOKS: usize = 100;

/// A time to come again that is not the same for all: up to half as long again.
pub(crate) fn jittered(refresh_ms: u64) -> u64 {
    let share = random::below(1 << 16);
    refresh_ms + refresh_ms * share / (2 << 16)
}

/// Files a problem for a field that names no header.
pub(crate) fn check_header(name: &str, place: String, findings: &mut Findings) {
    if !name.is_empty() && !is_header_name(name) {
        findings.problem(Problem::new(place, "not a header name").text(name));
    }
}

/// Files a problem for a cookie's name or domain that would end what stands before it.
pub(crate) fn check_cookie(name: &str, domain: &str, at: impl Fn(&str) -> String, findings: &mut Findings) {
    if !is_header_name(name) {
        findings.problem(
            Problem::new(at("cookieName"), "not a cookie's name").text(name).accepted("letters, digits, - and _"),
        );
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if !domain.bytes().all(fits) {
        let problem = Problem::new(at("cookieDomain"), "not a domain").text(domain);
        findings.problem(problem.advice("write the domain that all hosts of the sale are in, such as shop.example"));
    }
}

/// `{refresh}` is empty when there is nothing to wait for, and browsers do not act on that.
const PAGE: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{title}</title>
<style>:root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0}
main{max-width:32rem;padding:2rem;text-align:center}h1{font-size:1.6rem}b{font-size:3rem;display:block}</style></head>
<body><main data-state="{state}"><h1>{title}</h1><b>{position}</b><p>{text}</p></main></body></html>
"#;
