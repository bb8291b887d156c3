//! What a WaitingRoom and a Lottery do alike: read and write cookies, let in, and tell whoever is not let in why.

use crate::hall::{Came, Room};
use crate::room_answers::Answers;
use base_model::HttpCode;
use base_model::header_adapt::is_header_name;
use base_model::{Findings, Problem};
use base_text::digits::write_number;
use edge_pipeline::Exchange;
use edge_upstream::random;
use proto_admission::ticket;
use proto_admission::{Carried, Pass, Rejected, Ticket};
use proto_http::headers::Known;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A room as a filter of one generation has it.
pub(crate) struct Door {
    pub room: Arc<Room>,
    pub cookie_name: String,
    pub cookie_domain: String,
    pub bind_address: bool,
    pub session_ms: u64,
    /// Of the request to the backend; empty: none.
    pub number_header: String,
    pub signals: Arc<Signals>,
    pub answers: Answers,
}

/// What the backend may say in its answers, and to which room.
pub(crate) struct Signals {
    pub room: Arc<Room>,
    /// Empty: none.
    pub header: String,
    pub sold_out_statuses: Vec<u16>,
    /// A `Set-Cookie` that takes the client's cookie away.
    pub gone: String,
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
    pub fn state(self) -> &'static str {
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
}

impl Door {
    /// What the client carries, if it is good. `ticket_ms` is how long a ticket lasts, by whether its place counts.
    pub fn carried(&self, exchange: &Exchange, now_ms: u64, ticket_ms: impl Fn(&Ticket) -> u64) -> Option<Carried> {
        let mut shown = cookies(exchange, self.cookie_name.as_bytes()).take(COOKIES_MAX).peekable();
        shown.peek()?;
        let address = self.address(exchange);
        let keys = self.room.keys();
        let open = |text: &[u8]| {
            let carried = keys.open(&address, text)?;
            let (issued_ms, lasts_ms) = match &carried {
                Carried::Ticket(ticket) => (ticket.issued_ms, ticket_ms(ticket)),
                Carried::Pass(pass) => (pass.issued_ms, self.session_ms),
            };
            ticket::fresh(issued_ms, lasts_ms, now_ms).map(|()| carried)
        };
        // Another host of the domain, or an earlier `cookieDomain`, may have left one of the same name beside it.
        let (mut found, mut rejected) = (None, None);
        for text in shown {
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
    pub fn set_cookie(&self, exchange: &Exchange, carried: &Carried, lasts_ms: u64) -> Option<Vec<u8>> {
        let address = self.address(exchange);
        let mut text = Vec::with_capacity(192);
        text.extend_from_slice(self.cookie_name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(&self.room.keys().seal(&address, carried)?);
        text.extend_from_slice(b"; Path=/; Max-Age=");
        write_number(lasts_ms.div_ceil(1000), &mut text);
        text.extend_from_slice(COOKIE_ATTRIBUTES.as_bytes());
        if !self.cookie_domain.is_empty() {
            text.extend_from_slice(b"; Domain=");
            text.extend_from_slice(self.cookie_domain.as_bytes());
        }
        if exchange.client.scheme == "https" {
            text.extend_from_slice(b"; Secure");
        }
        Some(text)
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
        let signals = &self.signals;
        if cookie.is_none() && signals.header.is_empty() && signals.sold_out_statuses.is_empty() {
            return;
        }
        let signals = signals.clone();
        exchange.at_end(move |exchange| {
            let Some(response) = exchange.default_space().response.as_mut() else { return };
            let header = &signals.header;
            let said = |verb: &str| {
                !header.is_empty()
                    && response.headers.values(header).any(|value| value.eq_ignore_ascii_case(verb.as_bytes()))
            };
            let desk = &signals.room.desk;
            if said("sold-out") || signals.sold_out_statuses.contains(&response.status) {
                desk.signal(true, now_ms);
            } else if said("open") {
                desk.signal(false, now_ms);
            }
            let left = said("done");
            if !header.is_empty() {
                response.headers.remove(header);
            }
            if left {
                desk.leave(pass.id, pass.bucket);
            }
            let cookie = if left { Some(signals.gone.clone().into_bytes()) } else { cookie };
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
        cookie: Option<Vec<u8>>,
    ) {
        self.room.count(match told {
            Told::NotStarted { .. } => Came::NotStarted,
            Told::Waiting { .. } => Came::Waiting,
            Told::SoldOut => Came::Over,
            Told::Unlucky => Came::Unlucky,
            Told::Unavailable => Came::Unavailable,
        });
        exchange.refused = Some(told.reason());
        exchange.tags.note_own(|| self.answers.note(told));
        self.answers.give(exchange, told, code.code(), refresh_ms.div_ceil(1000).max(1), cookie);
    }
}

/// The values of the request's cookies of this name.
fn cookies<'x>(exchange: &'x Exchange, name: &'x [u8]) -> impl Iterator<Item = &'x [u8]> {
    let pairs = exchange.request().headers.known_all(Known::Cookie).flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// Milliseconds since 1970 by this machine's clock, as of this turn of the worker. The clock is read once a second: whoever sets it is
/// followed within that.
pub(crate) fn now_ms() -> u64 {
    thread_local! {
        static READ: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }
    let millis = |passed: Duration| passed.as_secs() * 1000 + u64::from(passed.subsec_millis());
    let now = base_runtime::now();
    if let Some((read, then)) = READ.get()
        && let Some(passed) = now.checked_duration_since(read).filter(|passed| *passed < ALIKE)
    {
        return then + millis(passed);
    }
    let then = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    READ.set(Some((now, then)));
    then
}

/// Bits that nobody can guess; `None` where the system has none. They are drawn for many at a time: asking the system costs more than
/// all else of telling somebody to wait.
pub(crate) fn drawn() -> Option<u64> {
    thread_local! {
        static DRAWN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.is_empty() {
            let mut bytes = [0; 8 * DRAWN_AT_ONCE];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
            drawn.extend(bytes.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)));
        }
        drawn.pop()
    })
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

/// How long the machine's clock and the workers' are taken to run alike.
const ALIKE: Duration = Duration::from_secs(1);

const DRAWN_AT_ONCE: usize = 64;

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

/// What cookies have beside the value, the path and their age.
const COOKIE_ATTRIBUTES: &str = "; HttpOnly; SameSite=Lax";

/// A `Set-Cookie` that takes a cookie away.
pub(crate) fn taken_away(name: &str, domain: &str) -> String {
    let domain = if domain.is_empty() { String::new() } else { format!("; Domain={domain}") };
    format!("{name}=; Path=/; Max-Age=0{COOKIE_ATTRIBUTES}{domain}")
}
