//! The people: they come whether or not earlier ones were answered, want one piece each, wait as they are told or not, and lose
//! patience. Among them are bots: few names, no cookies, as fast as they may.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Connection;
use crate::generator::wire::Handshakes;
use tokio_rustls::TlsConnector;

/// Who comes, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where they go, by turns; another one when one does not answer
    #[arg(long, value_delimiter = ',')]
    pub at: Vec<String>,
    /// The same over TLS, for one in four; absent: nobody uses it
    #[arg(long, value_delimiter = ',')]
    pub tls_at: Vec<String>,
    /// Of the shop itself, to look at its queue
    #[arg(long)]
    pub shop: String,
    /// People who come in a second
    #[arg(long)]
    pub rate: u64,
    /// For so long
    #[arg(long)]
    pub seconds: u64,
    /// And are watched for so long in all
    #[arg(long)]
    pub watch: u64,
    /// Requests of bots in a second
    #[arg(long, default_value_t = 0)]
    pub bots: u64,
    /// Measure the shop by so many that ask at the same time, and nothing else
    #[arg(long)]
    pub unloaded: Option<u64>,
}

/// What was seen, by the second.
#[derive(Debug, Default, Serialize)]
pub struct Seen {
    pub seconds: Vec<Second>,
    /// Milliseconds of answered requests of those who were let in, sorted.
    pub accepted_ms: Vec<f64>,
    pub bought_people: u64,
    pub bought_bots: u64,
    /// Had seen the shop and were sent away later.
    pub refused_later: u64,
    pub sold: u64,
    pub served: u64,
    /// Answers there were, and of them those of the shop: let in, and sold out.
    pub answers: u64,
    pub from_shop: u64,
    /// Of the requests, those over TLS.
    pub over_tls: u64,
    /// When somebody came last, in milliseconds.
    pub last_came_ms: u64,
    /// Requests in the shop, ten times a second: milliseconds, and how many.
    pub queue: Vec<(u64, u64)>,
}

#[derive(Debug, Default, Clone, Serialize)]
pub struct Second {
    pub arrived: u64,
    pub requests: u64,
    pub bought: u64,
    /// Requests the shop has answered.
    pub served: u64,
    /// In the shop, waiting or worked on.
    pub inside: u64,
    pub accepted_ms: Vec<f64>,
    pub refused: BTreeMap<String, u64>,
}

struct Sale {
    options: Options,
    began: Instant,
    tls: Option<TlsConnector>,
    seen: Mutex<Seen>,
}

/// Runs the sale and says what was seen.
pub async fn run(options: Options) -> io::Result<Seen> {
    let watch = options.watch;
    let mut seen = Seen::default();
    seen.seconds.resize(watch as usize + 1, Second::default());
    // Half of those who come back have a ticket of their handshake before.
    let tls = match options.tls_at.is_empty() {
        true => None,
        false => Some(TlsConnector::from(Handshakes::new(true, None).map_err(io::Error::other)?.config())),
    };
    let sale = Arc::new(Sale { options, began: Instant::now(), tls, seen: Mutex::new(seen) });
    let mut tasks = vec![tokio::spawn(sale.clone().look())];
    match sale.options.unloaded {
        Some(clients) => tasks.extend((0..clients).map(|_| tokio::spawn(sale.clone().browse()))),
        None => {
            tasks.push(tokio::spawn(sale.clone().open()));
            tasks.extend((0..sale.options.bots.min(20)).map(|bot| tokio::spawn(sale.clone().bot(bot))));
        }
    }
    tokio::time::sleep_until((sale.began + Duration::from_secs(watch)).into()).await;
    tasks.iter().for_each(|task| task.abort());
    let mut seen = std::mem::take(&mut *sale.lock());
    seen.accepted_ms = seen.seconds.iter().flat_map(|second| second.accepted_ms.iter().copied()).collect();
    seen.accepted_ms.sort_by(f64::total_cmp);
    for second in &mut seen.seconds {
        second.accepted_ms.sort_by(f64::total_cmp);
    }
    seen.seconds.truncate(watch as usize);
    Ok(seen)
}

impl Sale {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: impl FnOnce(&mut Second)) {
        let at = self.began.elapsed().as_secs() as usize;
        if let Some(second) = self.lock().seconds.get_mut(at) {
            note(second);
        }
    }

    /// Looks at the shop ten times a second, past everything that is before it.
    async fn look(self: Arc<Self>) {
        let mut connection = None;
        let mut before = None;
        loop {
            if connection.is_none() {
                connection = Connection::open(&self.options.shop, None, PATIENCE).await.ok();
            }
            let answer = match &mut connection {
                Some(open) => open.get("/figures", &[], PATIENCE).await.ok(),
                None => None,
            };
            let figures = answer.as_ref().and_then(|answer| answer.headers.get("x-figures"));
            let figures: Vec<u64> =
                figures.iter().flat_map(|text| text.split(' ')).filter_map(|n| n.parse().ok()).collect();
            match figures[..] {
                [inside, served, sold] => {
                    let more = served - before.replace(served).unwrap_or(served).min(served);
                    self.note(|second| {
                        second.inside = second.inside.max(inside);
                        second.served += more;
                    });
                    let at_ms = self.began.elapsed().as_millis() as u64;
                    let mut seen = self.lock();
                    (seen.sold, seen.served) = (sold, served);
                    seen.queue.push((at_ms, inside));
                }
                _ => connection = None,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn browse(self: Arc<Self>) {
        let Ok(mut connection) = Connection::open(&self.options.at[0], None, PATIENCE).await else { return };
        loop {
            let asked = Instant::now();
            if connection.get("/item/1", &[], PATIENCE).await.is_err() {
                return;
            }
            let took = asked.elapsed().as_secs_f64() * 1e3;
            self.note(|second| second.accepted_ms.push(took));
        }
    }

    async fn open(self: Arc<Self>) {
        let all = self.options.rate * self.options.seconds;
        for number in 0..all {
            let due =
                self.began + Duration::from_secs(1) + Duration::from_micros(1_000_000 * number / self.options.rate);
            tokio::time::sleep_until(due.into()).await;
            self.note(|second| second.arrived += 1);
            self.lock().last_came_ms = self.began.elapsed().as_millis() as u64;
            tokio::spawn(self.clone().person(number));
        }
    }

    /// One in five does not wait as it is told; one in three opens a new connection for each request.
    async fn person(self: Arc<Self>, number: u64) {
        let mut visitor = Visitor::new(&self, format!("person-{number}"), number);
        let (impatient, renews) = (number.is_multiple_of(5), number.is_multiple_of(3));
        // Half of all ask for one item in ten: keys after Zipf's law, s = 1, drawn by the visitor's number.
        let item = (100.0_f64.powf(fraction(number)) as u64).max(1);
        let path = format!("/item/{item}");
        let mut seen_shop = false;
        for _ in 0..60 {
            if renews {
                visitor.connection = None;
            }
            let path = if seen_shop { "/buy" } else { path.as_str() };
            let (status, after) = visitor.ask(path).await;
            match status {
                200 if seen_shop => {
                    self.note(|second| second.bought += 1);
                    self.lock().bought_people += 1;
                    return;
                }
                200 => {
                    seen_shop = true;
                    continue;
                }
                409 | 410 => {
                    self.lock().refused_later += u64::from(seen_shop && status == 410);
                    return;
                }
                // Where nothing came at all it asks another machine.
                1.. if seen_shop => self.lock().refused_later += 1,
                _ => {}
            }
            let wait = if impatient { Duration::from_millis(300) } else { after };
            tokio::time::sleep(wait.mul_f64(0.9 + fraction(number * 7 + 1) / 5.0)).await;
        }
    }

    /// No cookies, one of twenty names, and a request as soon as the last was answered, as far as its share allows.
    async fn bot(self: Arc<Self>, bot: u64) {
        let pause = Duration::from_micros(1_000_000 * self.options.bots.min(20) / self.options.bots.max(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut visitor = Visitor::new(&self, format!("bot-{bot}"), bot);
        let mut turn: u64 = 0;
        let mut has_one = false;
        loop {
            let due = Instant::now() + pause;
            turn += 1;
            // Half of the time it keeps its cookie, for a place.
            if turn.is_multiple_of(2) && !visitor.inside {
                visitor.cookie.clear();
            }
            if has_one {
                // It has what it may have, and asks on as somebody new.
                visitor.cookie.clear();
                visitor.inside = false;
            }
            let path = if visitor.inside { "/buy" } else { "/item/1" };
            let (status, _) = visitor.ask(path).await;
            match (status, visitor.inside) {
                (200, true) => {
                    self.note(|second| second.bought += 1);
                    self.lock().bought_bots += 1;
                    has_one = true;
                }
                (200, false) => visitor.inside = true,
                (409, _) => visitor.inside = false,
                _ => {}
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

struct Visitor<'s> {
    sale: &'s Sale,
    name: String,
    at: usize,
    cookie: String,
    connection: Option<Connection>,
    inside: bool,
    tls: bool,
}

impl<'s> Visitor<'s> {
    fn new(sale: &'s Sale, name: String, number: u64) -> Visitor<'s> {
        let at = number as usize % sale.options.at.len();
        let tls = sale.tls.is_some() && number % 4 == 1;
        Visitor { sale, name, at, cookie: String::new(), connection: None, inside: false, tls }
    }

    /// Status, and when to come again; 0 where there was no answer.
    async fn ask(&mut self, path: &str) -> (u16, Duration) {
        self.sale.note(|second| second.requests += 1);
        let asked = Instant::now();
        let answer = self.answer(path).await;
        match answer {
            Ok(answer) => {
                {
                    let mut seen = self.sale.lock();
                    seen.answers += 1;
                    seen.over_tls += u64::from(self.tls);
                    seen.from_shop += u64::from(matches!(answer.status, 200 | 409));
                }
                if let Some(cookie) = answer.headers.get("set-cookie") {
                    self.cookie = cookie.split(';').next().unwrap_or_default().to_owned();
                }
                let took = asked.elapsed().as_secs_f64() * 1e3;
                let why = match answer.status {
                    200 => {
                        self.sale.note(|second| second.accepted_ms.push(took));
                        None
                    }
                    409 | 410 => Some("sold out"),
                    429 => Some("too many"),
                    503 => Some("waiting"),
                    502 | 504 => Some("gateway"),
                    _ => Some("other"),
                };
                if let Some(why) = why {
                    self.sale.note(|second| *second.refused.entry(why.to_owned()).or_default() += 1);
                }
                let after = answer.headers.get("retry-after").and_then(|after| after.parse().ok()).unwrap_or(1);
                (answer.status, Duration::from_secs(after))
            }
            Err(error) => {
                self.connection = None;
                self.at = (self.at + 1) % self.sale.options.at.len();
                let why = if error.kind() == io::ErrorKind::TimedOut { "no answer in time" } else { "no connection" };
                self.sale.note(|second| *second.refused.entry(why.to_owned()).or_default() += 1);
                (0, Duration::from_millis(500))
            }
        }
    }

    async fn answer(&mut self, path: &str) -> io::Result<super::Answer> {
        if self.connection.is_none() {
            let options = &self.sale.options;
            let (places, tls) = if self.tls { (&options.tls_at, self.sale.tls.as_ref()) } else { (&options.at, None) };
            self.connection = Some(Connection::open(&places[self.at % places.len()], tls, PATIENCE).await?);
        }
        let Some(connection) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        connection.get(path, &[("X-User", &self.name), ("Cookie", &self.cookie)], PATIENCE).await
    }
}

/// Spread evenly over 0 to 1, and the same in every run.
fn fraction(number: u64) -> f64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
