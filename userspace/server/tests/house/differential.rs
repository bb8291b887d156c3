//! Thousands of requests and answers that HTTP implementations have read in two ways, through ours, nginx and HAProxy at the
//! same time. What ours passes on has one reading only; the peers say where we are stricter, and where nobody else is as lax.
//!
//! Reading order: [`requests`] and [`responses`] (what is sent), [`reader`] (what it means), [`backend`] and [`gateways`] (who
//! is asked), [`client`] (one exchange), then the tests.

mod backend;
mod client;
mod gateways;
mod reader;
mod requests;
mod responses;

use backend::CUT;
use client::{ExchangeEnd, Outcome};
use gateways::{Gateway, Lane};
use reader::{From, Reading, Request, Response};
use requests::Case;
use responses::Answer;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a gateway gets to answer before it counts as waiting for more.
const PATIENCE: Duration = Duration::from_millis(150);

#[test]
fn requests_have_one_reading_behind_us() {
    let cases = requests::requests();
    assert!(cases.len() >= 2000, "{} requests", cases.len());
    let mut gateways = gateways::start(&Arc::default());
    let method = |case: &Case| if case.bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let mut outcomes = through_all(&gateways, cases.len(), |lane, number| {
        client::exchange(lane, &cases[number].bytes, method(&cases[number]), PATIENCE)
    });
    // A machine that is busy makes an answer look like waiting: where that would tell gateways apart, with more patience.
    let differ = |number: &usize| {
        let waited = outcomes.iter().any(|of_one| of_one[*number].end == ExchangeEnd::Waited);
        waited && outcomes.iter().any(|of_one| of_one[*number].is_accepted())
    };
    let again: Vec<usize> = (0..cases.len()).filter(differ).collect();
    let patient = through_all(&gateways, again.len(), |lane, nth| {
        client::exchange(lane, &cases[again[nth]].bytes, method(&cases[again[nth]]), 8 * PATIENCE)
    });
    for (of_one, patient) in outcomes.iter_mut().zip(patient) {
        for (number, outcome) in again.iter().zip(patient) {
            of_one[*number] = outcome;
        }
    }
    for gateway in &mut gateways {
        assert!(gateway.is_alive(), "{} has died", gateway.name);
    }

    let mut failures = Vec::new();
    for (case, outcome) in cases.iter().zip(&outcomes[0]) {
        if let Err(why) = judge(case, outcome) {
            failures.push(format!("{}: {why}\n    {}", case.class, case.name));
        }
    }
    let accepted: Vec<Vec<bool>> =
        outcomes.iter().map(|of_one| of_one.iter().map(Outcome::is_accepted).collect()).collect();
    print_agreements("requests", &gateways, &cases.iter().map(|c| c.class).collect::<Vec<_>>(), &accepted);
    let mut reasons = BTreeMap::new();
    for (number, case) in cases.iter().enumerate() {
        for (peer, accepts) in gateways.iter().zip(&accepted).skip(1) {
            if accepts[number] || !accepted[0][number] {
                continue;
            }
            match LAXER.iter().find(|(_, covers)| covers(case)) {
                Some((reason, _)) => *reasons.entry((*reason, peer.name)).or_insert(0) += 1,
                None => {
                    failures.push(format!("{}: only ours takes it, not {}\n    {}", case.class, peer.name, case.name))
                }
            }
        }
    }
    for ((reason, peer), count) in reasons {
        println!("{count:5} that {peer} refuses and we take: {reason}");
    }
    let limits = gateways[0].metric("weir_limit_hits_total").unwrap_or_default();
    assert!(limits > 0.0, "refusals are counted");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));

    pass_on(&gateways, &outcomes[0]);
}

/// What of ours a peer may refuse, and why we take it.
type Laxer = (&'static str, fn(&Case) -> bool);

const LAXER: &[Laxer] = &[
    ("any token is a method (RFC 9110 section 9.1); who wants fewer says so in a rule", |case| {
        case.class == "Methods" || case.bytes.starts_with(b"TRACE ")
    }),
    ("a tab is white space around a value as a space is (RFC 9110 section 5.6.3); none of it is passed on", |case| {
        [&b": \t"[..], b"\t\r\n"].iter().any(|tab| case.bytes.windows(tab.len()).any(|w| w == *tab))
    }),
    ("bytes beyond ASCII are passed on escaped", |case| case.bytes.iter().any(|b| *b >= 0x80)),
    ("the authority of the target goes before Host, which is rewritten (RFC 9112 section 3.2.2)", |case| {
        case.class == "Absolute targets" && case.bytes.windows(3).any(|w| w == b"://")
    }),
    ("the target * belongs to OPTIONS (RFC 9110 section 9.3.7)", |case| case.bytes.starts_with(b"OPTIONS * ")),
    ("larger heads are taken by default", |case| case.class == "Sizes"),
    ("an offer of another protocol need not be understood to be ignored (RFC 9110 section 7.8)", |case| {
        case.class == "Upgrade"
    }),
    ("one expectation said twice is that expectation (RFC 9110 section 10.1.1)", |case| case.class == "Expect"),
];

/// Whether what ours did with a case is beyond doubt.
fn judge(case: &Case, outcome: &Outcome) -> Result<(), String> {
    if let Some(why) = &outcome.probe_failed {
        return Err(format!("an ordinary request afterwards is not served: {why}"));
    }
    if outcome.end == ExchangeEnd::Hung {
        return Err("neither an answer nor an end".to_owned());
    }
    if let Some(why) = outcome.malformed {
        return Err(format!("the client gets no proper answer: {why}"));
    }
    let meant = read_all(&case.bytes);
    for (nth, seen) in outcome.seen.iter().filter(|seen| seen.request != Err(CUT)).enumerate() {
        let shown = || seen.bytes.escape_ascii().to_string();
        let request = match &seen.request {
            Ok(request) => request,
            Err(why) => return Err(format!("the backend gets what is no request ({why}): {}", shown())),
        };
        let Some(Ok(meant)) = meant.get(nth) else {
            return Err(format!("the backend gets a request that nobody wrote ({:?}): {}", meant.get(nth), shown()));
        };
        check_request(request, meant).map_err(|why| format!("{why}: {}", shown()))?;
    }
    // Each request has one answer, in order: nothing is a request behind us that was none in front.
    let (answered, asked) = (outcome.numbers(), outcome.requests().map(|seen| seen.number).collect::<Vec<_>>());
    let left_early =
        outcome.end == ExchangeEnd::Waited && asked.len() == answered.len() + 1 && asked.starts_with(&answered);
    if answered != asked && !left_early {
        return Err(format!("requests {asked:?} reached the backend, answers {answered:?} the client"));
    }
    Ok(())
}

/// The requests that a strict reader finds, up to what it refuses.
fn read_all(bytes: &[u8]) -> Vec<Result<Request, &'static str>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match reader::read_request(&bytes[at..], From::Anybody) {
            Reading::Whole(request, len) => {
                found.push(Ok(request));
                at += len;
            }
            Reading::Bad(why) => {
                found.push(Err(why));
                break;
            }
            Reading::Partial => break,
        }
    }
    found
}

/// Whether a request behind us is the one that was meant, in canonical form.
fn check_request(request: &Request, meant: &Request) -> Result<(), String> {
    if (&request.method, &request.body) != (&meant.method, &meant.body) {
        return Err("another method or body than was meant".to_owned());
    }
    if let Some(why) = reader::fault_of_target(&request.target) {
        return Err(format!("the target is not canonical: {why}"));
    }
    let host = reader::field(&request.fields, "host").unwrap_or_default();
    if !reader::is_authority(host) {
        return Err("no proper Host".to_owned());
    }
    let (scheme, rest) = meant.target.split_at(meant.target.find("://").map_or(0, |at| at + 3));
    if matches!(&*scheme.to_lowercase(), "http://" | "https://") {
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        if host != authority.as_bytes() {
            return Err("Host is not the authority of the target".to_owned());
        }
    } else if let Some(named) = reader::field(&meant.fields, "host")
        && host != named
    {
        return Err("Host is another one".to_owned());
    }
    // Names keep their spelling; fields of this hop, framing and the id are written anew.
    for (name, value) in &request.fields {
        let own = ["host", "content-length", "transfer-encoding", "connection", "x-request-id", "cdn-loop"]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n));
        if !own && !meant.fields.iter().any(|(n, v)| n == name && v == value) {
            return Err(format!("the field {name} was not sent so"));
        }
    }
    Ok(())
}

/// What ours has passed on, once more through the peers: they read it as our own reader does.
fn pass_on(gateways: &[Gateway], ours: &[Outcome]) {
    let mut passed: Vec<(&[u8], &Request)> =
        ours.iter().flat_map(|o| &o.seen).filter_map(|s| Some((&*s.bytes, s.request.as_ref().ok()?))).collect();
    passed.sort_by_key(|(bytes, _)| *bytes);
    passed.dedup_by_key(|(bytes, _)| *bytes);
    let every = passed.len().div_ceil(400);
    let sample: Vec<_> = passed.into_iter().step_by(every).collect();
    let outcomes = through_all(&gateways[1..], sample.len(), |lane, number| {
        client::exchange(lane, sample[number].0, &sample[number].1.method, PATIENCE)
    });
    for (peer, outcomes) in gateways[1..].iter().zip(outcomes) {
        let mut refused = 0;
        for ((bytes, request), outcome) in sample.iter().zip(outcomes) {
            let read: Vec<_> = outcome.requests().filter_map(|seen| seen.request.as_ref().ok()).collect();
            match &read[..] {
                [] => refused += 1,
                [one] => {
                    assert_eq!((&one.method, &one.body), (&request.method, &request.body), "{}", bytes.escape_ascii())
                }
                _ => panic!("{} reads {} requests: {}", peer.name, read.len(), bytes.escape_ascii()),
            }
        }
        println!(
            "{} requests as ours sends them: {} reads each as we do, and refuses {refused}",
            sample.len(),
            peer.name
        );
        assert!(refused * 5 <= sample.len(), "{} refuses {refused} of {}", peer.name, sample.len());
    }
}

#[test]
fn answers_have_one_reading_in_front_of_us() {
    let answers = Arc::new(responses::responses());
    assert!(answers.len() >= 500, "{} answers", answers.len());
    let mut gateways = gateways::start(&answers);
    let outcomes = through_all(&gateways, answers.len(), |lane, number| {
        client::ask(lane, answers[number].method, &format!("/answer/{number}"))
    });
    for gateway in &mut gateways {
        assert!(gateway.is_alive(), "{} has died", gateway.name);
    }
    let mut failures = Vec::new();
    for (answer, (got, malformed, probe)) in answers.iter().zip(&outcomes[0]) {
        let meant = reader::read_response(&answer.bytes, answer.method, true, From::Backend);
        let verdict = match probe {
            Err(why) => Err(format!("the next request gets a wrong answer: {why}")),
            Ok(()) => judge_answer(got.as_ref(), *malformed, &meant),
        };
        if let Err(why) = verdict {
            failures.push(format!("{}: {why}\n    {}", answer.class, answer.name));
        }
    }
    let served = |answer: &Answer, (got, _, _): &(Option<Response>, Option<&str>, Result<(), String>)| {
        got.as_ref().is_some_and(|g| !is_gateways_own(g, answer))
    };
    let accepted: Vec<Vec<bool>> =
        outcomes.iter().map(|of_one| answers.iter().zip(of_one).map(|(a, o)| served(a, o)).collect()).collect();
    print_agreements("answers", &gateways, &answers.iter().map(|a| a.class).collect::<Vec<_>>(), &accepted);
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), answers.len(), failures.join("\n"));
}

/// An error of the gateway's own, and not one that the backend sent.
fn is_gateways_own(got: &Response, answer: &Answer) -> bool {
    matches!(got.status, 500 | 502..=504) && !answer.bytes.starts_with(format!("HTTP/1.1 {}", got.status).as_bytes())
}

/// What a client may get from ours: what the backend meant, an error instead, or a body that visibly breaks off.
fn judge_answer(
    got: Option<&Response>,
    malformed: Option<&'static str>,
    meant: &Reading<Response>,
) -> Result<(), String> {
    match (got, meant) {
        (None, _) if malformed.is_some() => Err(format!("the client gets no proper answer: {malformed:?}")),
        (Some(got), _) if matches!(got.status, 502 | 503) && got.body.is_empty() => Ok(()),
        (Some(got), Reading::Partial) if got.status == 500 && got.body.is_empty() => Ok(()),
        (Some(got), Reading::Whole(meant, _)) if (got.status, &got.body) == (meant.status, &meant.body) => Ok(()),
        (Some(got), Reading::Whole(meant, _)) => Err(format!("{got:?} instead of {meant:?}")),
        (Some(got), _) => Err(format!("what is no whole answer becomes one: {got:?}")),
        (None, Reading::Whole(..)) => Err("a good answer breaks off".to_owned()),
        (None, _) => Ok(()),
    }
}

/// Runs `cases` numbers through every gateway, and through every lane of it, at the same time.
fn through_all<T: Send>(gateways: &[Gateway], cases: usize, run: impl Fn(&Lane, usize) -> T + Sync) -> Vec<Vec<T>> {
    let results: Vec<Mutex<Vec<(usize, T)>>> = gateways.iter().map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for (gateway, results) in gateways.iter().zip(&results) {
            let next = Arc::new(AtomicUsize::new(0));
            for lane in &gateway.lanes {
                let (next, run) = (next.clone(), &run);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= cases {
                            break;
                        }
                        let result = run(lane, number);
                        results.lock().unwrap().push((number, result));
                    }
                });
            }
        }
    });
    let in_order = |results: Mutex<Vec<(usize, T)>>| {
        let mut results = results.into_inner().unwrap();
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    };
    results.into_iter().map(in_order).collect()
}

/// One row a class: how often ours and each peer took it, or refused it, together or alone.
fn print_agreements(what: &str, gateways: &[Gateway], classes: &[&'static str], accepted: &[Vec<bool>]) {
    let mut rows: BTreeMap<&str, (usize, Vec<[usize; 4]>)> = BTreeMap::new();
    for (number, class) in classes.iter().enumerate() {
        for class in [*class, "~ together"] {
            let (count, of_peers) = rows.entry(class).or_insert_with(|| (0, vec![[0; 4]; gateways.len() - 1]));
            *count += 1;
            for (cells, peer) in of_peers.iter_mut().zip(&accepted[1..]) {
                cells[match (accepted[0][number], peer[number]) {
                    (true, true) => 0,
                    (false, false) => 1,
                    (true, false) => 2,
                    (false, true) => 3,
                }] += 1;
            }
        }
    }
    let names = gateways[1..].iter().map(|g| format!(" | {:^31}", format!("ours and {}", g.name))).collect::<String>();
    let columns = gateways[1..].iter().map(|_| " |  both  none  only ours  only it").collect::<String>();
    println!("{:20} {:>5}{names}\n{:20} {:>5}{columns}", "", "", what, "");
    for (class, (count, of_peers)) in rows {
        let cells: String =
            of_peers.iter().map(|[both, none, ours, it]| format!(" | {both:5} {none:5} {ours:10} {it:8}")).collect();
        println!("{:20} {count:5}{cells}", class.trim_start_matches("~ "));
    }
}
