//! What becomes of bodies on their way through filters: refused in the middle, gathered, followed by trailers.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use edge_pipeline::{Body, BodyError, BodyStream, Exchange, Filter, FilterKind, Piece, SUCCESS, Sight, Step};
use std::sync::Arc;
use std::task::{Context, Poll};
use support::{Backend, House, proxy_to};

on_both_drivers![a_body_refused_in_the_middle_is_answered_with_the_verdict, trailers_outlive_a_filter_that_gathers];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ANY: &str = "rules: [{paths: [{backend: app}]}]";

/// Lets a request's body pass up to the byte `!`.
struct Guard;

struct Guarded(Body);

impl BodyStream for Guarded {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.poll_piece(cx, Sight::Seen).map(|piece| match piece {
            Ok(Some(piece)) if piece.seen().contains(&b'!') => Err(BodyError::Refused { status: 403 }),
            piece => piece,
        })
    }

    fn remaining(&self) -> Option<u64> {
        self.0.length()
    }
}

impl Filter for Guard {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let body = std::mem::take(&mut exchange.space().request_body);
        exchange.space().request_body = Body::Stream(Box::new(Guarded(body)));
        Step::Done(SUCCESS)
    }
}

/// Reads the whole answer before it goes on.
struct Gather;

impl Filter for Gather {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(async {
            let _ = exchange.space().response_body.collect(1 << 20).await;
            SUCCESS
        })
    }
}

fn kind(name: &str) -> Option<&'static FilterKind> {
    const fn made_by(kind: &'static str, build: edge_pipeline::filter::Build) -> FilterKind {
        let (schema, check): (fn() -> _, edge_pipeline::filter::Check) =
            (|| serde_json::Value::Null, |_, _| Ok(Vec::new()));
        FilterKind { kind, results: &[], doc: "", schema, check, build }
    }
    static GUARD: FilterKind = made_by("Guard", |_, _| Ok(Arc::new(Guard)));
    static GATHER: FilterKind = made_by("Gather", |_, _| Ok(Arc::new(Gather)));
    match name {
        "Guard" => Some(&GUARD),
        "Gather" => Some(&GATHER),
        _ => edge_filters::kind(name),
    }
}

/// A filter before the proxy, and one behind it.
fn house(io: IoMode, before: &str, after: &str, port: u16) -> House {
    let filter = |name: &str| if name.is_empty() { String::new() } else { format!("{{name: x, kind: {name}}}, ") };
    let pipeline = proxy_to(port).replace("[{name: p", &format!("[{}{{name: p", filter(before)));
    let pipeline = match after {
        "" => pipeline,
        after => pipeline[..pipeline.len() - 1].to_owned() + &format!(", {{name: y, kind: {after}}}]"),
    };
    House::with_kinds(io, ANY, &pipeline, Timeouts::default(), kind)
}

fn a_body_refused_in_the_middle_is_answered_with_the_verdict(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, "Guard", "", backend.port);
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status(), 200);
    // At once, and after some of it has gone to the backend.
    assert_eq!(house.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell!").status(), 403);
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    support::eventually("the backend is asked", || backend.connections() == 2);
    client.send(b"1\r\n!\r\n");
    assert_eq!(client.answer().status(), 403);
    assert_eq!(house.count(403), 2);
}

fn trailers_outlive_a_filter_that_gathers(io: IoMode) {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
    );
    for after in ["", "Gather"] {
        let house = house(io, "", after, backend.port);
        let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("ok", "X-Sum: 7\n"), "{after}");
        let old = house.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert!(old.field("transfer-encoding").is_none(), "HTTP/1.0 knows no chunks");
    }
}
