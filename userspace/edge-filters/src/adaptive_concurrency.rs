//! Limits how many requests are under way by what they wait for, and lets those go first that matter most.
//!
//! Use it in front of whatever can do only so much, where nobody knows how much that is. Pools of a Proxy have the same as a field,
//! `adaptiveConcurrency`, with a limit for each server.
//!
//! ```yaml
//! name: shed
//! kind: AdaptiveConcurrency
//! maxWait: 50ms
//! priorities:
//! - priority: critical
//!   urls: [{url: {prefix: /checkout}}]
//! - priority: low
//!   urls: [{methods: [GET], url: {prefix: /browse}}]
//! ```
//!
//! The limit follows what requests take from here to the end of the flow, beyond what they take when little is under way: it needs no
//! number, and stops no traffic to find one. Time in which a client is waited for is not counted, and streams (WebSockets, events, calls
//! of gRPC) have a place until their answer begins. A place belongs to the work: that of a request that waits for its client more than for
//! the server, or for a server that has said nothing in 10s and in sixteen times what requests take, is lent to others, no more
//! of them at a time than the limit. What is beyond the limit waits in a queue that is bounded in length and time, where
//! routes and clients are served in turn, and the newest first once the queue stands. While too much comes, a threshold over priorities
//! and clients rises with the delay, and those below are refused at once. A request whose client says (`X-Request-Deadline`,
//! `grpc-timeout`) that it will not wait for the answer is refused before it costs anything.
//!
//! Outcomes: `overloaded`, with status 503 and Retry-After (1 to 3 times `retryAfter`, at random), or 504 where the deadline is too near;
//! a client of gRPC gets UNAVAILABLE or DEADLINE_EXCEEDED. `{{Refused}}` of the access log says why: priority, queue_full, share, waited
//! or deadline. Fits HTTPServer and GRPCServer. Costs two additions to numbers that workers share per request, and a
//! place in a list of its worker, which is looked through ten times a second; who is refused by priority takes no lock and allocates
//! nothing but its answer.

use crate::arriving::Arriving;
use crate::module_doc::module_doc;
use crate::placed::Placed;
use crate::ranking::{OVERLOADED, Ranking, is_telling, lasts, pushes_back};
use crate::spec::{self, Spec, unexpected};
use base_model::{AdaptiveConcurrencySpec, Findings};
use edge_pipeline::{
    Body, BuildError, Exchange, Filter, FilterKind, Hold, Outcome, Parts, SUCCESS, Step, Touches, overload,
};
use edge_upstream::adaptive::{Admission, Attended, Pass};
use proto_http::Response;
use serde_json::Value;
use std::sync::Arc;

impl Spec for AdaptiveConcurrencySpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        AdaptiveConcurrencySpec::validate(self, path, findings);
    }
}

/// A ready AdaptiveConcurrency.
pub struct AdaptiveConcurrency {
    ranking: Arc<Ranking>,
}

pub const KIND: FilterKind = FilterKind {
    kind: "AdaptiveConcurrency",
    results: &[OVERLOADED],
    doc: module_doc!("adaptive_concurrency.rs"),
    schema: spec::schema::<AdaptiveConcurrencySpec>,
    check: spec::check::<AdaptiveConcurrencySpec>,
    build: |fields, parts| spec::build(fields, |spec| AdaptiveConcurrency::new(&spec, parts)),
};

impl AdaptiveConcurrency {
    fn new(spec: &AdaptiveConcurrencySpec, parts: &Parts<'_>) -> Result<AdaptiveConcurrency, BuildError> {
        let previous = parts.previous.and_then(|previous| previous.downcast::<AdaptiveConcurrency>());
        let name = parts.place();
        let (servers, workers) = (vec!["flow".to_owned()], parts.telemetry.workers());
        let ranking = Ranking::new(spec, &name, servers, workers, previous.map(|filter| &*filter.ranking))
            .map_err(|why| unexpected("priorities", why))?;
        Ok(AdaptiveConcurrency { ranking: Arc::new(ranking) })
    }
}

impl Filter for AdaptiveConcurrency {
    fn touches(&self) -> Touches {
        Touches::HEADS
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let until = overload::note_deadline(exchange);
        let (who, asks) = self.ranking.rank(exchange);
        match self.ranking.passages.admit(&who, until) {
            Admission::Passed(pass) => Step::Done(self.let_in(exchange, pass, asks)),
            Admission::Refused(reason) => Step::Done(self.ranking.refuse(exchange, reason, asks)),
            Admission::Waits(waiting) => Step::wait(async move {
                match waiting.pass().await {
                    Ok(pass) => self.let_in(exchange, pass, asks),
                    Err(reason) => self.ranking.refuse(exchange, reason, asks),
                }
            }),
        }
    }

    fn status(&self) -> Option<Value> {
        Some(self.ranking.passages.status())
    }
}

impl AdaptiveConcurrency {
    fn let_in(&self, exchange: &mut Exchange, mut pass: Pass, asks: bool) -> Outcome {
        Ranking::note_wait(exchange, pass.waited);
        Arriving::watch(&mut exchange.space().request_body, &mut pass);
        let attended = pass.begin(0);
        exchange.hold(Box::new(Held { place: Some((attended, pass)), ranking: self.ranking.clone(), asks }));
        SUCCESS
    }
}

/// A place, until there is an answer, and its body has come from wherever that is made; of one that goes on for as long as its client
/// likes, until it begins.
struct Held {
    place: Option<(Attended, Pass)>,
    ranking: Arc<Ranking>,
    asks: bool,
}

impl Hold for Held {
    fn answered(&mut self, response: Option<&mut Response>, body: &mut Body) {
        // What is left to do is the client's: to take the answer.
        let place = self.place.take();
        let Some(response) = response else { return };
        if let Some((attended, pass)) = place {
            if is_telling(response) {
                attended.answered(pushes_back(response));
            }
            if !lasts(response) {
                *body = Placed::hold(std::mem::take(body), Some(attended), pass);
            }
        }
        self.ranking.hear(response);
        self.ranking.tell(response, self.asks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
    use std::task::{Context, Poll, Waker};

    const SPEC: &str = r#"
{initialLimit: 2, minLimit: 2, maxLimit: 2, maxQueue: 0, retryAfter: 2s, trustPriority: true, consumerHeader: X-Consumer,
 priorities: [{priority: critical, urls: [{url: {prefix: /buy}}]}, {priority: low, consumers: [bot]},
              {priority: high, headers: {X-Tier: {exact: gold}}}]}
"#;

    #[test]
    fn so_many_pass_and_the_others_are_told_when_to_come_back() {
        let filter = filter(&KIND, SPEC);
        let mut passed = [request("GET", "/", &[]), request("GET", "/", &[])];
        for exchange in &mut passed {
            assert_eq!(run(&*filter, exchange), SUCCESS);
        }
        for _ in 0..20 {
            let mut refused = request("GET", "/", &[]);
            assert_eq!(run(&*filter, &mut refused), OVERLOADED);
            assert_eq!((status_of(&refused), refused.refused), (503, Some("queue_full")));
            let after: u64 = response_header(&refused, "Retry-After").unwrap().parse().unwrap();
            assert!((2..=6).contains(&after), "{after}");
        }
        // A place is free once its exchange is over, and not before.
        assert_eq!(run(&*filter, &mut request("GET", "/", &[])), OVERLOADED);
        passed[0].reset();
        assert_eq!(run(&*filter, &mut request("GET", "/", &[])), SUCCESS);
    }

    /// A body that comes piece by piece.
    struct Pieces(usize);

    impl BodyStream for Pieces {
        fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
            let piece = self.0.checked_sub(1).map(|left| Piece::Bytes(vec![b'x'; (self.0 - left) * 9].into()));
            self.0 = self.0.saturating_sub(1);
            Poll::Ready(Ok(piece))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn a_place_is_free_when_nothing_but_the_client_is_waited_for() {
        let filter = filter(&KIND, SPEC);
        let mut answered: Vec<Exchange> = Vec::new();
        for _ in 0..5 {
            let mut exchange = request("GET", "/", &[]);
            assert_eq!(run(&*filter, &mut exchange), SUCCESS, "all of the answers before is there");
            answer(&mut exchange, 200, &[], b"done");
            exchange.answered();
            answered.push(exchange);
        }
        // What is still made has a place until it has come.
        for _ in 0..2 {
            let mut exchange = request("GET", "/", &[]);
            assert_eq!(run(&*filter, &mut exchange), SUCCESS);
            exchange.respond(Response::with_status(200), Body::Stream(Box::new(Pieces(2))));
            exchange.answered();
            answered.push(exchange);
        }
        assert_eq!(run(&*filter, &mut request("GET", "/", &[])), OVERLOADED);
        let body = &mut answered[5].default_space().response_body;
        let mut pieces = 0;
        while let Poll::Ready(Ok(Some(_))) = body.poll_piece(&mut Context::from_waker(Waker::noop()), Sight::Seen) {
            pieces += 1;
        }
        assert_eq!((pieces, run(&*filter, &mut request("GET", "/", &[]))), (2, SUCCESS));
    }

    #[test]
    fn what_lasts_as_long_as_its_client_likes_holds_no_place() {
        let filter = filter(&KIND, SPEC);
        let mut open: Vec<Exchange> = Vec::new();
        for (status, fields) in [
            (101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")][..]),
            (200, &[("Content-Type", "text/event-stream; charset=utf-8")]),
            (200, &[("Content-Type", "application/grpc+proto")]),
        ] {
            for _ in 0..10 {
                let mut exchange = request("GET", "/", &[]);
                assert_eq!(run(&*filter, &mut exchange), SUCCESS, "{status}");
                answer(&mut exchange, status, fields, b"");
                exchange.answered();
                open.push(exchange);
            }
        }
        // Others hold theirs until they have an answer.
        for _ in 0..2 {
            let mut exchange = request("GET", "/", &[]);
            assert_eq!(run(&*filter, &mut exchange), SUCCESS);
            open.push(exchange);
        }
        assert_eq!(run(&*filter, &mut request("GET", "/", &[])), OVERLOADED);
    }

    #[test]
    fn calls_of_grpc_are_refused_in_its_words() {
        let filter = filter(&KIND, &SPEC.replace("maxLimit: 2", "maxLimit: 1").replace("Limit: 2", "Limit: 1"));
        let mut first = request("POST", "/s/m", &[]);
        assert_eq!(run(&*filter, &mut first), SUCCESS);
        let mut call = request("POST", "/s/m", &[("Content-Type", "application/grpc")]);
        assert_eq!(run(&*filter, &mut call), OVERLOADED);
        assert_eq!((status_of(&call), response_header(&call, "grpc-status")), (200, Some("14")));
        assert!(response_header(&call, "grpc-retry-pushback-ms").is_some());
        let fields = [("Content-Type", "application/grpc"), ("grpc-timeout", "0n")];
        let mut late = request("POST", "/s/m", &fields);
        assert_eq!(run(&*filter, &mut late), OVERLOADED);
        assert_eq!(response_header(&late, "grpc-status"), Some("4"));
    }

    #[test]
    fn a_deadline_that_has_passed_is_refused_before_anything_is_done() {
        let filter = filter(&KIND, SPEC);
        for past in ["1700000000", "2023-11-14T22:13:20Z", "0ms"] {
            let mut late = request("GET", "/", &[("X-Request-Deadline", past)]);
            assert_eq!(run(&*filter, &mut late), OVERLOADED);
            assert_eq!((status_of(&late), late.refused), (504, Some("deadline")), "{past}");
        }
        let mut early = request("GET", "/", &[("X-Request-Deadline", "60s")]);
        assert_eq!(run(&*filter, &mut early), SUCCESS);
    }

    #[test]
    fn requests_say_their_rank_and_senders_that_do_are_told_the_threshold() {
        let filter = filter(&KIND, &SPEC.replace("maxLimit: 2", "maxLimit: 100").replace("Limit: 2", "Limit: 50"));
        for (target, fields, level) in [
            ("/buy/1", &[][..], 3),
            ("/", &[("X-Consumer", "bot")], 0),
            ("/", &[("X-Tier", "gold")], 2),
            ("/", &[("X-Tier", "tin")], 1),
            ("/", &[("X-Weir-Priority", "127")], 3),
            ("/", &[("X-Weir-Priority", "nonsense")], 1),
        ] {
            let mut exchange = request("GET", target, fields);
            assert_eq!(run(&*filter, &mut exchange), SUCCESS);
            let rank: u32 = header(&exchange, "X-Weir-Priority").unwrap().parse().unwrap();
            assert_eq!(rank / 32, level, "{target}");
            answer(&mut exchange, 200, &[], b"");
            exchange.answered();
            let told = response_header(&exchange, "X-Weir-Threshold");
            // Told is who said a rank that can be read, not whose rank is like another's by the hour's order of clients.
            assert_eq!(told, (fields == [("X-Weir-Priority", "127")]).then_some("0"), "{target}");
        }
        // Who is not trusted is not believed.
        let filter = super::tests::filter(&KIND, "{}");
        let mut exchange = request("GET", "/", &[("X-Weir-Priority", "127")]);
        assert_eq!(run(&*filter, &mut exchange), SUCCESS);
        assert_ne!(header(&exchange, "X-Weir-Priority"), Some("127"));
    }

    #[test]
    fn what_was_found_out_survives_a_change_of_the_rules() {
        let first = filter(&KIND, SPEC);
        let mut passed = [request("GET", "/", &[]), request("GET", "/", &[])];
        passed.iter_mut().for_each(|exchange| assert_eq!(run(&*first, exchange), SUCCESS));
        let second = filter_after(&KIND, &SPEC.replace("gold", "silver"), Some(&*first));
        assert_eq!(run(&*second, &mut request("GET", "/", &[])), OVERLOADED);
        let third = filter_after(&KIND, &SPEC.replace("maxQueue: 0", "maxQueue: 1"), Some(&*second));
        assert_eq!(run(&*third, &mut request("GET", "/", &[])), SUCCESS);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{minLimit: 0}", &["minLimit"]);
        refuses(&KIND, "{priorities: [{priority: urgent, urls: [{url: {prefix: /}}]}]}", &["priorities[0].priority"]);
    }
}
