//! What those are told who are not let in by a WaitingRoom or a Lottery: a page, or JSON where the client takes no HTML.
//!
//! When a sale is sold out most requests are answered from here, so what is the same for all is made ready before anybody asks.

use crate::door::Told;
use crate::each_worker::EachWorker;
use base_text::digits::write_number;
use bytes::Bytes;
use edge_pipeline::{Body, Exchange, Note, Space};
use proto_http::Headers;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module doc.
pub(crate) struct Answers {
    html: Form,
    json: Form,
    page: Vec<Piece>,
    /// For the access log, by state.
    notes: EachWorker<[Arc<str>; 4]>,
    /// What those were told lately who have no position: many are told the same.
    lately: EachWorker<Mutex<[Lately; LATELY]>>,
    filter: Arc<str>,
}

/// Of one form of answer: the fields that are always there, and the body of those for whom it is over.
struct Form {
    fields: Headers,
    over: EachWorker<Bytes>,
}

/// An answer that was given lately.
#[derive(Default)]
struct Lately {
    /// What was told, whether in HTML, and when to come again; `None`: nothing yet.
    of: Option<(Told, bool, u64)>,
    fields: Headers,
    body: Bytes,
}

/// A part of a page.
enum Piece {
    Text(String),
    Mark(Mark),
}

#[derive(Clone, Copy)]
enum Mark {
    Title,
    Text,
    State,
    Position,
    Wait,
    Refresh,
}

impl Answers {
    /// `page` is HTML with marks; empty: ours.
    pub fn new(filter: &str, page: &str, workers: usize) -> Answers {
        let page = pieces(if page.is_empty() { PAGE } else { page });
        let form = |kind: &str, over: Vec<u8>| {
            let mut fields = Headers::new();
            fields.set("Cache-Control", "no-store");
            fields.set("Vary", "Accept, Cookie");
            fields.set("Content-Type", kind);
            Form { fields, over: EachWorker::new(workers, || over.clone().into()) }
        };
        let note = |state: &'static str| Arc::from(format!("{filter}: {state}"));
        Answers {
            html: form("text/html; charset=utf-8", html(&page, Told::SoldOut, 0)),
            json: form("application/json", json(Told::SoldOut, 0)),
            page,
            lately: EachWorker::new(workers, Mutex::default),
            notes: EachWorker::new(workers, || ["notStarted", "waiting", "soldOut", "unavailable"].map(note)),
            filter: filter.into(),
        }
    }

    /// What the access log says of it.
    pub fn note(&self, told: Told) -> Note {
        if let Told::Waiting { ahead: Some(ahead), .. } = told {
            return format!("{}: waiting, {ahead} ahead", self.filter).into();
        }
        let at = match told {
            Told::NotStarted { .. } => 0,
            Told::Waiting { .. } => 1,
            Told::SoldOut | Told::Unlucky => 2,
            Told::Unavailable => 3,
        };
        self.notes.own()[at].clone().into()
    }

    /// Answers so, with a time to come again unless it is over.
    pub fn give(&self, exchange: &mut Exchange, told: Told, status: u16, refresh_s: u64, cookie: Option<Vec<u8>>) {
        let takes_html = takes_html(&exchange.request().headers);
        let form = if takes_html { &self.html } else { &self.json };
        if told.is_over() {
            begin(exchange.space(), status, &form.fields, Body::shared(form.over.own().clone()));
            return;
        }
        // Of no worker but this one, unless it is none.
        let mut lately = self.lately.own().lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut lately[refresh_s as usize % LATELY];
        let of = Some((told, takes_html, refresh_s));
        let mut body = None;
        if kept.of != of {
            let made = if takes_html { html(&self.page, told, refresh_s) } else { json(told, refresh_s) };
            if told.has_position() || made.len() > KEPT_MOST {
                body = Some(Body::full(made));
            } else {
                (kept.of, kept.body) = (of, made.into());
                kept.fields.copy_from(&form.fields);
                come_again(&mut kept.fields, refresh_s, takes_html);
            }
        }
        let headers = match body {
            None => begin(exchange.space(), status, &kept.fields, Body::shared(kept.body.clone())),
            Some(body) => {
                let headers = begin(exchange.space(), status, &form.fields, body);
                come_again(headers, refresh_s, takes_html);
                headers
            }
        };
        if let Some(cookie) = cookie {
            headers.set("Set-Cookie", cookie);
        }
    }
}

fn come_again(headers: &mut Headers, refresh_s: u64, takes_html: bool) {
    let mut refresh = Vec::with_capacity(8);
    write_number(refresh_s, &mut refresh);
    headers.set("Retry-After", &refresh);
    if takes_html {
        headers.set("Refresh", &refresh);
    }
}

/// The answer with these fields, beside what filters have said to the client: without the fields of CORS a page of another origin could
/// not read where it stands.
fn begin<'s>(space: &'s mut Space, status: u16, fields: &Headers, body: Body) -> &'s mut Headers {
    if space.response.is_none() {
        let headers = &mut space.answer(status, body).headers;
        headers.set_all(fields);
        return headers;
    }
    space.refuse(status);
    space.response_body = body;
    let headers = &mut space.response.get_or_insert_default().headers;
    for (name, value, _) in fields.iter() {
        match name {
            b"Vary" => headers.add(name, value),
            _ => headers.set(name, value),
        }
    }
    headers
}

impl Told {
    /// It is told to one and not to many.
    fn has_position(self) -> bool {
        matches!(self, Told::Waiting { ahead: Some(_), .. })
    }

    /// There is nothing to come again for.
    fn is_over(self) -> bool {
        matches!(self, Told::SoldOut | Told::Unlucky)
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

fn takes_html(headers: &Headers) -> bool {
    let accept = headers.value("Accept").unwrap_or_default();
    let holds = |kind: &[u8]| accept.windows(kind.len()).any(|part| part.eq_ignore_ascii_case(kind));
    holds(b"text/html") || holds(b"application/xhtml+xml")
}

/// The page in pieces, so that filling it in is a copy of each.
fn pieces(mut page: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some((at, (name, mark))) =
        MARKS.iter().filter_map(|mark| Some((page.find(mark.0)?, *mark))).min_by_key(|(at, _)| *at)
    {
        pieces.push(Piece::Text(page[..at].to_owned()));
        pieces.push(Piece::Mark(mark));
        page = &page[at + name.len()..];
    }
    pieces.push(Piece::Text(page.to_owned()));
    pieces
}

fn html(page: &[Piece], told: Told, refresh_s: u64) -> Vec<u8> {
    let (title, words) = told.words();
    let (position, seconds) = match told {
        Told::Waiting { ahead, seconds, .. } => (ahead.map(|ahead| ahead + 1), seconds),
        _ => (None, None),
    };
    // Empty when there is nothing to wait for, and browsers do not act on that.
    let refresh = (!told.is_over()).then_some(refresh_s);
    let mut out = Vec::with_capacity(1024);
    let number =
        |number: Option<u64>, out: &mut Vec<u8>| number.into_iter().for_each(|number| write_number(number, out));
    for piece in page {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Mark(Mark::Title) => out.extend_from_slice(title.as_bytes()),
            Piece::Mark(Mark::Text) => out.extend_from_slice(words.as_bytes()),
            Piece::Mark(Mark::State) => out.extend_from_slice(told.state().as_bytes()),
            Piece::Mark(Mark::Position) => number(position, &mut out),
            Piece::Mark(Mark::Wait) => number(seconds, &mut out),
            Piece::Mark(Mark::Refresh) => number(refresh, &mut out),
        }
    }
    out
}

/// An object with the fields that go with the state.
fn json(told: Told, refresh_s: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{");
    let number = |name: &str, value: Option<u64>, out: &mut Vec<u8>| {
        out.extend_from_slice(name.as_bytes());
        match value {
            Some(value) => write_number(value, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
    };
    if let Told::Waiting { ahead, seconds, later } = told {
        number("\"position\":", ahead.map(|ahead| ahead + 1), &mut out);
        number("\"waitSeconds\":", seconds, &mut out);
        if later {
            out.extend_from_slice(b"\"reason\":\"fewer are let in than before\",");
        }
    }
    if let Told::NotStarted { starts_ms } = told {
        number("\"startsAtUnixSeconds\":", Some(starts_ms.div_ceil(1000)), &mut out);
    }
    if !told.is_over() {
        number("\"refreshSeconds\":", Some(refresh_s), &mut out);
    }
    out.extend_from_slice(b"\"state\":\"");
    out.extend_from_slice(told.state().as_bytes());
    out.extend_from_slice(b"\"}");
    out
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

/// Answers that each worker keeps ready,
const LATELY: usize = 8;
/// and how large one may be, in bytes: a page of the document's own may be of any size.
const KEPT_MOST: usize = 4096;

const MARKS: [(&str, Mark); 6] = [
    ("{title}", Mark::Title),
    ("{text}", Mark::Text),
    ("{state}", Mark::State),
    ("{position}", Mark::Position),
    ("{wait}", Mark::Wait),
    ("{refresh}", Mark::Refresh),
];

const PAGE: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{title}</title>
<style>:root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0}
main{max-width:32rem;padding:2rem;text-align:center}h1{font-size:1.6rem}b{font-size:3rem;display:block}</style></head>
<body><main data-state="{state}"><h1>{title}</h1><b>{position}</b><p>{text}</p></main></body></html>
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{body_of, request, response_header};
    use serde_json::{Value, json};

    fn given(told: Told, page: &str, accept: &str) -> (Option<String>, Option<String>, String) {
        let mut exchange = request("GET", "/", &[("Accept", accept)]);
        Answers::new("room", page, 1).give(&mut exchange, told, 503, 7, Some(b"a=b".to_vec()));
        let said = |name: &str| response_header(&exchange, name).map(str::to_owned);
        let body = String::from_utf8(body_of(&exchange).to_vec()).unwrap();
        assert_eq!(response_header(&exchange, "Cache-Control"), Some("no-store"));
        (said("Retry-After"), said("Refresh"), body)
    }

    #[test]
    fn each_state_has_its_fields() {
        let waiting = |ahead, seconds, later| Told::Waiting { ahead, seconds, later };
        for (told, fields) in [
            (
                Told::NotStarted { starts_ms: 1500 },
                json!({"state": "notStarted", "startsAtUnixSeconds": 2, "refreshSeconds": 7}),
            ),
            (
                waiting(None, None, false),
                json!({"state": "waiting", "position": null, "waitSeconds": null, "refreshSeconds": 7}),
            ),
            (
                waiting(Some(41), Some(90), true),
                json!({
                    "state": "waiting",
                    "position": 42,
                    "waitSeconds": 90,
                    "reason": "fewer are let in than before",
                    "refreshSeconds": 7,
                }),
            ),
            (Told::SoldOut, json!({"state": "soldOut"})),
            (Told::Unlucky, json!({"state": "soldOut"})),
            (Told::Unavailable, json!({"state": "unavailable", "refreshSeconds": 7})),
        ] {
            let (retry, refresh, body) = given(told, "", "*/*");
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), fields);
            let (over, comes) = (told.is_over(), Some("7".to_owned()));
            assert_eq!((retry == comes, refresh), (!over, None), "{told:?}");
            let (retry, refresh, page) = given(told, "", "application/json, TEXT/HTML;q=0.9");
            assert_eq!((&retry, &refresh), (&refresh, &retry), "{told:?}");
            assert!(page.contains(told.words().0) && page.contains(told.state()) && !page.contains("{text}"), "{page}");
            assert_eq!(retry.is_none(), over);
        }
    }

    /// What is kept ready is told to those alone whom it is for.
    #[test]
    fn answers_that_are_kept_ready_are_those_of_the_same_state_form_and_time() {
        let answers = Answers::new("room", "", 1);
        let waiting = |ahead| Told::Waiting { ahead, seconds: None, later: false };
        let cases = [
            (waiting(None), "*/*", 5),
            (waiting(None), "text/html", 5),
            (waiting(None), "*/*", 5 + LATELY as u64),
            (waiting(Some(3)), "*/*", 5),
            (waiting(Some(4)), "*/*", 5),
            (Told::NotStarted { starts_ms: 9 }, "*/*", 5),
            (Told::Unavailable, "*/*", 5),
            (Told::SoldOut, "*/*", 5),
        ];
        for (told, accept, refresh_s) in cases.iter().chain(&cases).chain(cases.iter().rev()).copied() {
            let mut exchange = request("GET", "/", &[("Accept", accept)]);
            answers.give(&mut exchange, told, 503, refresh_s, Some(b"a=b".to_vec()));
            let takes_html = accept == "text/html";
            let body = if takes_html { html(&pieces(PAGE), told, refresh_s) } else { json(told, refresh_s) };
            assert_eq!(body_of(&exchange), body, "{told:?}");
            let comes = (!told.is_over()).then(|| refresh_s.to_string());
            assert_eq!(response_header(&exchange, "Retry-After"), comes.as_deref(), "{told:?}");
            assert_eq!(response_header(&exchange, "Refresh").is_some(), takes_html && !told.is_over());
            assert_eq!(response_header(&exchange, "Set-Cookie").is_some(), !told.is_over());
        }
    }

    #[test]
    fn a_page_of_another_origin_can_read_it() {
        for told in [Told::SoldOut, Told::Unavailable] {
            let mut exchange = request("GET", "/", &[]);
            let before = exchange.space().response.get_or_insert_default();
            before.headers.add("Vary", "Origin");
            before.headers.add_own("Access-Control-Allow-Origin", "https://shop.example");
            before.headers.add("ETag", "x");
            Answers::new("room", "", 1).give(&mut exchange, told, 410, 7, None);
            let said: Vec<_> = exchange.default_space_ref().response.as_ref().unwrap().headers.values("Vary").collect();
            assert_eq!(said, [&b"Origin"[..], b"Accept, Cookie"]);
            assert_eq!(response_header(&exchange, "Access-Control-Allow-Origin"), Some("https://shop.example"));
            assert_eq!(
                (response_header(&exchange, "ETag"), response_header(&exchange, "Cache-Control")),
                (None, Some("no-store"))
            );
            assert!(body_of(&exchange).starts_with(b"{"));
        }
    }

    #[test]
    fn a_page_of_ones_own_is_filled_in_wherever_it_says() {
        let told = Told::Waiting { ahead: Some(2), seconds: Some(61), later: false };
        let page = "{{state}{position}/{wait} {unknown} {refresh}{refresh}<{title}>";
        assert_eq!(given(told, page, "text/html").2, "{waiting3/61 {unknown} 77<Please wait>");
        assert_eq!(given(Told::SoldOut, "{position}{wait}{refresh}.", "text/html").2, ".");
    }
}
