//! Lets in a share of those who come, and no more than so many: who is lucky once is lucky always.
//!
//! Use it in front of a Proxy for a stock so small that nobody shall have to wait for it.
//!
//! ```yaml
//! name: lottery
//! kind: Lottery
//! startTime: "2026-11-29T18:00:00Z"
//! blockRatio: 0.4
//! maxPermission: 3
//! keyHeader: Authorization
//! ```
//!
//! Before the start → `503` with `notStarted`. Afterwards a user, told by `keyHeader` or by address, is lucky or not: by lot, once and
//! for all, so that trying again changes nothing. The first `maxPermission` of the lucky ones are let in, exactly so many in the
//! whole cluster, and stay so on every machine for the whole sale; everybody else → `410` with `soldOut`. Users who were let in get a
//! signed cookie, so that machines need not ask again. Another name in `sale` begins anew.
//!
//! Outcomes: `notStarted`, `soldOut`, `unavailable` (no leader can be asked just now), each with the answer that goes with it;
//! `{{Refused}}` of the access log says not_started, sold_out, unlucky or unavailable. Fits HTTPServer. Costs a signature of 1 µs per request; whoever is not lucky costs nothing else, and once all numbers are given and this
//! machine has learned whose they are, nobody does: 40 bytes for each of them.

use crate::door::{Door, LOOKS, Signals, Told, check_cookie, check_header, jittered, now_ms, pause, taken_away};
use crate::hall::hall;
use crate::module_doc::module_doc;
use crate::room_answers::Answers;
use crate::source;
use crate::spec::{self, Spec, check_final_status};
use base_model::problem::at;
use base_model::{Findings, GoDuration, HttpCode, Moment, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use proto_admission::{Carried, Pass, Rules, Turn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

const NOT_STARTED: Outcome = "notStarted";
const SOLD_OUT: Outcome = "soldOut";
const UNAVAILABLE: Outcome = "unavailable";

/// `kind: Lottery`: a share of those who come, up to a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["maxPermission"]))]
pub struct LotterySpec {
    /// When it begins, as RFC 3339 says: `2026-11-29T18:00:00Z`. Each machine goes by its own clock. Default: it has begun.
    pub start_time: Option<Moment>,
    /// Name of the sale. Another name begins anew. Default: empty.
    pub sale: String,
    /// Share of users who are not lucky, 0 to 1. Default 0: all are.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub block_ratio: f64,
    /// Users let in, in all and by the whole cluster, 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_permission: u64,
    /// Header that says who asks; requests without it are not lucky. Empty: the client's address says it. Default Authorization.
    pub key_header: String,
    /// With an empty `keyHeader`: so many bits of an IPv6 address are one client, 1 to 128. Default 64.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_length: u8,
    /// How long the cookie of somebody who was let in is good. Without it, and later, the machine asks the cluster again. Default 10m,
    /// 1s to 24h.
    pub session_time: GoDuration,
    /// Header of requests to the backend that holds the user's number, whatever the client sent there. Empty: none is sent. Default
    /// X-Lottery-Number.
    pub number_header: String,
    /// Status before the start. Default 503.
    pub not_started_status: HttpCode,
    /// Status of those who are not let in. Default 410.
    pub sold_out_status: HttpCode,
    /// The page for browsers, HTML, in which `{title}`, `{text}`, `{state}` and `{refresh}` (seconds) are filled in. Default: a plain one.
    pub page: String,
    /// Name of the cookie. Default weir_lottery.
    pub cookie_name: String,
    /// Domain of the cookie. Default: the host alone.
    pub cookie_domain: String,
}

impl Default for LotterySpec {
    fn default() -> LotterySpec {
        LotterySpec {
            start_time: None,
            sale: String::new(),
            block_ratio: 0.0,
            max_permission: 0,
            key_header: "Authorization".to_owned(),
            ipv6_prefix_length: source::IPV6_PREFIX_LENGTH,
            session_time: GoDuration::from_secs(600),
            number_header: "X-Lottery-Number".to_owned(),
            not_started_status: const { HttpCode::new(503).unwrap() },
            sold_out_status: const { HttpCode::new(410).unwrap() },
            page: String::new(),
            cookie_name: "weir_lottery".to_owned(),
            cookie_domain: String::new(),
        }
    }
}

impl Spec for LotterySpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let place = |field: &str| at(path, field);
        let (least, most) = (GoDuration::from_secs(1), GoDuration::from_secs(86_400));
        if self.session_time < least || self.session_time > most {
            let problem = Problem::new(place("sessionTime"), "out of range").text(&self.session_time.to_string());
            findings.problem(problem.accepted(format!("{least} to {most}")));
        }
        for (field, name) in [("keyHeader", &self.key_header), ("numberHeader", &self.number_header)] {
            check_header(name, place(field), findings);
        }
        for (field, status) in [("notStartedStatus", self.not_started_status), ("soldOutStatus", self.sold_out_status)]
        {
            check_final_status(status.code(), place(field), findings);
        }
        check_cookie(&self.cookie_name, &self.cookie_domain, place, findings);
    }
}

/// A ready Lottery.
pub struct Lottery {
    door: Door,
    spec: LotterySpec,
    start_ms: u64,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Lottery",
    results: &[NOT_STARTED, SOLD_OUT, UNAVAILABLE],
    doc: module_doc!("lottery.rs"),
    schema: spec::schema::<LotterySpec>,
    check: spec::check::<LotterySpec>,
    build: |fields, parts| spec::build(fields, |spec| Lottery::new(spec, parts)),
};

impl Lottery {
    fn new(spec: LotterySpec, parts: &Parts<'_>) -> Result<Lottery, BuildError> {
        let rules = Rules { stock: spec.max_permission, burst: 1, session_s: 1, grace_s: 5, ..Rules::default() };
        let start_ms = spec.start_time.as_ref().map_or(0, Moment::unix_ms);
        let room = hall().room(KIND.kind, parts, &spec.sale, (rules, start_ms));
        let door = Door {
            room: room.clone(),
            cookie_name: spec.cookie_name.clone(),
            cookie_domain: spec.cookie_domain.clone(),
            bind_address: false,
            session_ms: spec.session_time.duration().as_millis() as u64,
            number_header: spec.number_header.clone(),
            signals: Arc::new(Signals {
                room,
                header: String::new(),
                sold_out_statuses: Vec::new(),
                gone: taken_away(&spec.cookie_name, &spec.cookie_domain),
            }),
            answers: Answers::new(parts.name, &spec.page, parts.telemetry.workers()),
        };
        Ok(Lottery { door, spec, start_ms })
    }
}

impl Filter for Lottery {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let now = now_ms();
        if let Some(Carried::Pass(pass)) = self.door.carried(exchange, now, |_| 0) {
            self.door.let_in(exchange, pass, false, now);
            return Step::Done(SUCCESS);
        }
        if now < self.start_ms {
            self.door.room.desk.visit(now);
            let refresh = jittered((self.start_ms - now).clamp(REFRESH_MS, 30_000));
            let told = Told::NotStarted { starts_ms: self.start_ms };
            self.door.turn_away(exchange, told, self.spec.not_started_status, refresh, None);
            return Step::Done(NOT_STARTED);
        }
        let Some(key) = self.key(exchange) else { return self.unlucky(exchange) };
        self.door.room.desk.visit(now);
        let Some(id) = self.door.room.desk.id_of(key.as_bytes()) else {
            return Step::wait(self.settle(exchange, key, now));
        };
        match self.decide(id, now) {
            Some(Turn::Asked) => Step::wait(self.settle(exchange, key, now)),
            decided => self.tell(exchange, decided, id, now),
        }
    }

    fn status(&self) -> Option<Value> {
        let view = self.door.room.desk.view();
        Some(json!({"given": view.given, "soldOut": view.over.is_some()}))
    }
}

impl Lottery {
    fn key(&self, exchange: &Exchange) -> Option<String> {
        if self.spec.key_header.is_empty() {
            return Some(source::text(&exchange.client, self.spec.ipv6_prefix_length));
        }
        let headers = &exchange.request().headers;
        headers.text(&self.spec.key_header).filter(|key| !key.is_empty()).map(str::to_owned)
    }

    /// `None` for one who is not lucky.
    fn decide(&self, id: u64, now: u64) -> Option<Turn> {
        // 53 bits are a fraction exactly.
        let drawn = (id >> 11) as f64 / (1_u64 << 53) as f64;
        (drawn >= self.spec.block_ratio).then(|| self.door.room.desk.ask(id, now))
    }

    /// Asks until there is an answer, for a second.
    async fn settle(&self, exchange: &mut Exchange, key: String, now: u64) -> Outcome {
        let desk = &self.door.room.desk;
        let mut asked = false;
        for _ in 0..LOOKS {
            if let Some(id) = desk.id_of(key.as_bytes()) {
                let turn = if asked { desk.answered(id, 0) } else { self.decide(id, now).or(Some(UNLUCKY)) };
                asked = true;
                match turn {
                    Some(Turn::Asked) | None => {}
                    Some(turn) => {
                        let turn = (turn != UNLUCKY).then_some(turn);
                        return match self.tell(exchange, turn, id, now) {
                            Step::Done(outcome) => outcome,
                            Step::Wait(future) => future.await,
                        };
                    }
                }
            } else {
                desk.visit(now_ms());
            }
            pause().await;
        }
        self.unavailable(exchange)
    }

    fn tell<'a>(&'a self, exchange: &mut Exchange, turn: Option<Turn>, id: u64, now: u64) -> Step<'a> {
        match turn {
            Some(Turn::In(number)) => {
                self.door.let_in(exchange, Pass { id, number, bucket: 0, issued_ms: now }, true, now);
                Step::Done(SUCCESS)
            }
            Some(Turn::Over(_)) => {
                self.door.turn_away(exchange, Told::SoldOut, self.spec.sold_out_status, REFRESH_MS, None);
                Step::Done(SOLD_OUT)
            }
            Some(_) => Step::Done(self.unavailable(exchange)),
            None => self.unlucky(exchange),
        }
    }

    fn unlucky<'a>(&self, exchange: &mut Exchange) -> Step<'a> {
        self.door.turn_away(exchange, Told::Unlucky, self.spec.sold_out_status, REFRESH_MS, None);
        Step::Done(SOLD_OUT)
    }

    fn unavailable(&self, exchange: &mut Exchange) -> Outcome {
        let code = const { HttpCode::new(503).unwrap() };
        self.door.turn_away(exchange, Told::Unavailable, code, jittered(REFRESH_MS), None);
        UNAVAILABLE
    }
}

/// Stands for no turn at all.
const UNLUCKY: Turn = Turn::Wait { ahead: u64::MAX, seconds: None };
const REFRESH_MS: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{answer, filter, header, refuses, request, response_header, status_of};
    use crate::waiting_room::tests::{Cluster, cookie_of};

    #[test]
    fn who_is_lucky_once_is_lucky_always_and_no_more_than_there_may_be() {
        let mut cluster = Cluster::new();
        let lottery = filter(&KIND, "{blockRatio: 0.4, maxPermission: 3, sale: lucky}");
        let mut lucky = Vec::new();
        for user in 0..40 {
            let user = format!("user-{user}");
            let mut exchange = request("GET", "/", &[("Authorization", &user)]);
            let outcome = run(&mut cluster, &*lottery, &mut exchange);
            assert!([SUCCESS, SOLD_OUT].contains(&outcome), "{outcome}");
            if outcome == SUCCESS {
                assert_eq!(header(&exchange, "X-Lottery-Number"), Some(&*(lucky.len() + 1).to_string()));
                answer(&mut exchange, 200, &[], b"");
                exchange.end();
                lucky.push((user, cookie_of(&exchange)));
            }
        }
        assert_eq!(lucky.len(), 3);
        for (user, cookie) in &lucky {
            for headers in [[("Authorization", user.as_str())], [("Cookie", cookie.as_str())]] {
                let mut exchange = request("GET", "/", &headers);
                assert_eq!(run(&mut cluster, &*lottery, &mut exchange), SUCCESS, "{user}");
            }
        }
        // Neither nobody, nor one who made a cookie.
        for headers in [&[][..], &[("Cookie", "weir_lottery=AQAAAA")]] {
            assert_eq!(run(&mut cluster, &*lottery, &mut request("GET", "/", headers)), SOLD_OUT);
        }
    }

    #[test]
    fn about_the_share_is_blocked_and_trying_again_changes_nothing() {
        let mut cluster = Cluster::new();
        let lottery = filter(&KIND, "{blockRatio: 0.75, maxPermission: 100000, sale: share}");
        let mut round = || -> Vec<bool> {
            let user = |user: u32| {
                let user = user.to_string();
                run(&mut cluster, &*lottery, &mut request("GET", "/", &[("Authorization", &user)])) == SUCCESS
            };
            (0..400).map(user).collect()
        };
        let first = round();
        let lucky = first.iter().filter(|lucky| **lucky).count();
        assert!((60..140).contains(&lucky), "{lucky} of 400");
        assert_eq!(round(), first);
    }

    #[test]
    fn a_network_of_ipv6_has_one_lot() {
        let mut cluster = Cluster::new();
        for (length, numbers) in [("", 1), ("ipv6PrefixLength: 128, ", 20)] {
            let lottery =
                filter(&KIND, &format!("{{{length}keyHeader: '', maxPermission: 1000, sale: 'lots{numbers}'}}"));
            let given: std::collections::BTreeSet<String> = (0..20)
                .map(|host| {
                    let mut exchange = request("GET", "/", &[]);
                    exchange.client.real_ip = Some(format!("2001:db8:1:2::{host:x}").parse().unwrap());
                    assert_eq!(run(&mut cluster, &*lottery, &mut exchange), SUCCESS);
                    header(&exchange, "X-Lottery-Number").unwrap().to_owned()
                })
                .collect();
            assert_eq!(given.len(), numbers, "{length}");
        }
    }

    #[test]
    fn before_the_start_nobody_is_asked_for() {
        let lottery = filter(&KIND, "{startTime: '2999-01-01T00:00:00Z', maxPermission: 1, sale: later}");
        let mut exchange = request("GET", "/", &[("Authorization", "me")]);
        assert_eq!(run(&mut Cluster::new(), &*lottery, &mut exchange), NOT_STARTED);
        assert_eq!(status_of(&exchange), 503);
        assert!(response_header(&exchange, "Retry-After").is_some());
    }

    fn run(cluster: &mut Cluster, filter: &dyn Filter, exchange: &mut Exchange) -> Outcome {
        let lottery = filter.downcast::<Lottery>().unwrap();
        let step = lottery.handle(exchange);
        cluster.decide(&lottery.door.room, now_ms(), step)
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["maxPermission"]);
        refuses(&KIND, "{maxPermission: 0}", &["maxPermission"]);
        refuses(&KIND, "{maxPermission: 1, blockRatio: 1.5}", &["blockRatio"]);
        refuses(&KIND, "{maxPermission: 1, startTime: tomorrow}", &["startTime"]);
        refuses(
            &KIND,
            "{maxPermission: 1, sessionTime: 0s, keyHeader: 'a b', cookieName: 'a;b', cookieDomain: 'x;y'}",
            &["cookieDomain", "cookieName", "keyHeader", "sessionTime"],
        );
    }
}
