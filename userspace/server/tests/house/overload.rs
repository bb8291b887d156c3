//! More comes than can be done: a shop that is slow for real, and who gets through to it.

use crate::world::{
    Answer, Connection, Machine, PATIENCE, answers, eventually, free_port, get, program, server, within,
};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A backend with so many hands. What comes beyond them waits there.
struct Shop {
    port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Requests that have come and are not answered, and the most there were at a time.
    inside: AtomicUsize,
    most: AtomicUsize,
    served: AtomicUsize,
    heads: Mutex<Vec<String>>,
    hands: Mutex<usize>,
    free: Condvar,
}

impl Shop {
    fn open(hands: usize, takes: Duration) -> Shop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts { hands: Mutex::new(hands), ..Counts::default() });
        let shared = counts.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = shared.clone();
                thread::spawn(move || attend(stream, &counts, takes));
            }
        });
        Shop { port, counts }
    }

    fn served(&self) -> usize {
        self.counts.served.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.counts.most.load(Ordering::SeqCst)
    }

    /// Heads of requests whose path begins so.
    fn heads(&self, path: &str) -> Vec<String> {
        let heads = self.counts.heads.lock().unwrap();
        heads.iter().filter(|head| head.split(' ').nth(1).is_some_and(|at| at.starts_with(path))).cloned().collect()
    }
}

fn attend(stream: TcpStream, counts: &Counts, takes: Duration) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let inside = counts.inside.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most.fetch_max(inside, Ordering::SeqCst);
        let mut hands = counts.hands.lock().unwrap();
        while *hands == 0 {
            hands = counts.free.wait(hands).unwrap();
        }
        *hands -= 1;
        drop(hands);
        thread::sleep(takes);
        *counts.hands.lock().unwrap() += 1;
        counts.free.notify_one();
        let fails = head.contains("/fail");
        counts.heads.lock().unwrap().push(head);
        counts.inside.fetch_sub(1, Ordering::SeqCst);
        counts.served.fetch_add(1, Ordering::SeqCst);
        let status = if fails { "500 Internal Server Error" } else { "200 OK" };
        if writer.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\ndone").as_bytes()).is_err() {
            return;
        }
    }
}

/// A pipeline to the shop; `more` are further lines of its pool.
fn to(name: &str, shop: &Shop, more: &str) -> String {
    format!(
        "kind: Pipeline\nname: {name}\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - servers: [{{url: 'http://127.0.0.1:{}'}}]\n{more}",
        shop.port
    )
}

const LIMITED: &str = "    adaptiveConcurrency:\n      minLimit: 2\n      initialLimit: 4\n      maxLimit: 6\n      maxQueue: 8\n      \
    maxWait: 300ms\n      priorities:\n      - {priority: critical, urls: [{url: {prefix: /checkout}}]}\n      - {priority: low, urls: [{url: {prefix: /browse}}]}\n";

/// So many clients that ask without a pause until the shop has served `served`; what they were told, by path.
fn rush(
    port: u16,
    clients: usize,
    paths: &'static [&'static str],
    shop: &Shop,
    served: usize,
) -> Vec<(&'static str, Answer)> {
    let (stop, before) = (Arc::new(AtomicBool::new(false)), shop.served());
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let stop = stop.clone();
            thread::spawn(move || {
                let (mut told, mut connection) = (Vec::new(), None);
                let path = paths[client % paths.len()];
                while !stop.load(Ordering::SeqCst) {
                    let mut open = match connection.take() {
                        Some(open) => open,
                        None => Connection::open(&format!("127.0.0.1:{port}")).unwrap(),
                    };
                    let answer = open.request("GET", path, &[], "").unwrap();
                    // Who is told to come back does, though sooner than told.
                    if answer.status != 200 {
                        thread::sleep(Duration::from_millis(5));
                    }
                    if !answer.head.to_lowercase().contains("connection: close") {
                        connection = Some(open);
                    }
                    told.push((path, answer));
                }
                told
            })
        })
        .collect();
    eventually("the shop serves", || (shop.served() >= before + served).then_some(()));
    stop.store(true, Ordering::SeqCst);
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

#[test]
fn a_slow_shop_gets_no_more_than_it_can_do_and_checkout_outlives_browsing() {
    let shop = Shop::open(3, Duration::from_millis(20));
    let mut machine = Machine::new("m1").flags(["--log-dir", "log", "--disable-access=false"]);
    machine.run();
    let (limited, open) = (free_port(), free_port());
    machine.create(&to("to-limited", &shop, LIMITED));
    machine.create(&to("to-open", &shop, ""));
    machine.create(&format!(
        "{}accessLogFormat: '{{{{URI}}}} {{{{StatusCode}}}} why:{{{{Refused}}}}'\n",
        server("limited", limited, "to-limited")
    ));
    machine.create(&server("open", open, "to-open"));
    answers(limited, "/up", 200);
    answers(open, "/up", 200);
    // One in eight buys.
    const PATHS: &[&str] = &["/checkout", "/browse", "/browse", "/browse", "/browse", "/browse", "/browse", "/browse"];
    let told = rush(limited, 48, PATHS, &shop, 300);
    assert!(shop.most() <= 6, "{} at a time", shop.most());
    let share = |path: &str| {
        let (all, done) = told
            .iter()
            .filter(|(p, _)| *p == path)
            .fold((0.0, 0.0), |(all, done), (_, answer)| (all + 1.0, done + f64::from(u8::from(answer.status == 200))));
        done / all
    };
    assert!(share("/checkout") > 2.0 * share("/browse"), "{} against {}", share("/checkout"), share("/browse"));
    let refused: Vec<&Answer> = told.iter().map(|(_, answer)| answer).filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty() && refused.iter().all(|answer| answer.status == 503), "{:?}", refused.first());
    let after: Vec<u64> = refused.iter().map(|answer| field(answer, "Retry-After").unwrap().parse().unwrap()).collect();
    assert!(after.iter().all(|seconds| (1..=3).contains(seconds)) && after.iter().any(|s| *s != after[0]), "jitter");
    // Counted, shown, and in the access log with the reason.
    let counted = machine.metric("weir_concurrency_refused_total").unwrap();
    assert!(counted >= refused.len() as f64, "{counted} of {}", refused.len());
    let status = machine.api("GET", "/status/objects/to-limited", "").body;
    assert!(status.contains("adaptiveConcurrency") && status.contains("queue_full"), "{status}");
    let log = || std::fs::read_to_string(machine.directory.join("log/filter_http_access.log")).unwrap_or_default();
    eventually("the log says why", || log().contains("503 why:").then_some(()));
    let reasons = ["why:priority", "why:queue_full", "why:share", "why:waited"];
    assert!(
        log().lines().filter(|line| line.contains(" 503 ")).all(|line| reasons.iter().any(|why| line.contains(why)))
    );
    // The control: without it all of them are in the shop at a time.
    rush(open, 48, PATHS, &shop, 100);
    assert!(shop.most() > 20, "{} at a time", shop.most());
    // Normal again.
    eventually("nobody is refused", || {
        (0..20).all(|_| get(limited, "/browse").is_ok_and(|a| a.status == 200)).then_some(())
    });
}

#[test]
fn it_is_refused_in_every_version_of_http_alike() {
    let Some(curl) = program("curl") else { return };
    let shop = Shop::open(1, Duration::from_millis(1500));
    let machine = Machine::start();
    let port = free_port();
    let one = "kind: Pipeline\nname: one\nfilters:\n- {kind: AdaptiveConcurrency, name: shed, minLimit: 1, initialLimit: 1, maxLimit: 1, maxQueue: 0}\n";
    let flow = format!(
        "flow: [{{filter: shed, jumpIf: {{overloaded: END}}}}, {{filter: proxy}}]\n{}",
        one.replace("kind: Pipeline\nname: one\n", "")
    );
    let pools =
        format!("- {{kind: Proxy, name: proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}]}}]}}\n", shop.port);
    machine.create(&format!("kind: Pipeline\nname: one\n{flow}{pools}"));
    machine.create(&format!("{}h2c: true\n", server("web", port, "one")));
    eventually("it listens", || get(port, "/up").ok().filter(|a| a.status == 200));
    let url = format!("http://127.0.0.1:{port}/");
    let busy = thread::spawn(move || get(port, "/slow").unwrap().status);
    let inside = || shop.counts.inside.load(Ordering::SeqCst) == 1;
    eventually("one is inside", || inside().then_some(()));
    let say = |arguments: &[&str]| {
        let mut command = Command::new(&curl);
        let done = command.args(["-si"]).args(arguments).arg(&url).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&done.stdout).to_lowercase()
    };
    let first = say(&["--http1.1"]);
    let second = say(&["--http2-prior-knowledge"]);
    let call = say(&["--http2-prior-knowledge", "-X", "POST", "-H", "Content-Type: application/grpc"]);
    if inside() {
        assert!(first.contains("503") && first.contains("retry-after: "), "{first}");
        assert!(second.contains("http/2 503") && second.contains("retry-after: "), "{second}");
        assert!(call.contains("http/2 200") && call.contains("grpc-status: 14") && call.contains("pushback"), "{call}");
    }
    assert_eq!(busy.join().unwrap(), 200);
    assert_eq!(shop.heads("/").len(), shop.served());
}

#[test]
fn what_nobody_waits_for_is_not_begun_and_repeats_say_so() {
    let shop = Shop::open(8, Duration::from_millis(5));
    let machine = Machine::start();
    let port = free_port();
    let retry =
        "    retryPolicy: again\nresilience:\n- {name: again, kind: Retry, maxAttempts: 3, waitDuration: 1ms}\n";
    machine.create(&to("to-shop", &shop, retry));
    machine.create(&server("web", port, "to-shop"));
    answers(port, "/up", 200);
    let ask = |path: &str, fields: &[(&str, &str)]| {
        Connection::open(&format!("127.0.0.1:{port}")).unwrap().request("GET", path, fields, "").unwrap().status
    };
    for past in ["1700000000", "1700000000000", "2023-11-14T22:13:20Z", "0ms"] {
        assert_eq!(ask("/late", &[("X-Request-Deadline", past)]), 504, "{past}");
    }
    assert_eq!(shop.heads("/late"), Vec::<String>::new());
    // What is left goes on; a point in time stays what it is.
    assert_eq!(ask("/early", &[("X-Request-Deadline", "60s")]), 200);
    let head = shop.heads("/early").remove(0).to_lowercase();
    let left =
        head.split("x-request-deadline: ").nth(1).and_then(|rest| rest.split("ms\r\n").next()).unwrap_or_default();
    assert!(left.parse::<u64>().is_ok_and(|ms| ms > 0 && ms <= 60_000), "{head}");
    assert_eq!(ask("/then", &[("X-Request-Deadline", "4000000000")]), 200);
    assert!(shop.heads("/then")[0].contains("4000000000"));
    // What cannot be read is no deadline, and what is longer than anybody lives is none either; of several the earliest counts.
    let huge = "999999999999999h";
    for said in ["soon", "-5s", "12", "", "1e3s", "NaN", "5s5s", "99999999999999999999s", "2023-13-14T22:13:20Z", huge]
    {
        assert_eq!(ask("/hostile", &[("X-Request-Deadline", said)]), 200, "{said}");
    }
    assert_eq!(ask("/hostile", &[("X-Request-Deadline", huge), ("X-Request-Deadline", "60s")]), 200);
    let head = shop.heads("/hostile").pop().unwrap().to_lowercase();
    assert_eq!(head.matches("x-request-deadline: ").count(), 1, "{head}");
    assert_eq!(ask("/twice", &[("X-Request-Deadline", "60s"), ("X-Request-Deadline", "0s")]), 504);
    for timeout in ["", "S", "-1S", "1", "1s", "123456789n", "99999999H"] {
        let fields = [("Content-Type", "application/grpc"), ("grpc-timeout", timeout)];
        assert_eq!(ask("/hostile", &fields), 200, "{timeout}");
    }
    // Each try says which it is; what is a repeat already is not repeated.
    assert_eq!(ask("/fail/a", &[]), 500);
    let heads = shop.heads("/fail/a");
    let marks: Vec<bool> = (1..3).map(|n| heads[n].to_lowercase().contains(&format!("x-retry-attempt: {n}"))).collect();
    assert!(
        heads.len() == 3 && !heads[0].to_lowercase().contains("x-retry-attempt") && marks == [true, true],
        "{heads:?}"
    );
    assert_eq!(ask("/fail/b", &[("X-Retry-Attempt", "1")]), 500);
    assert_eq!(shop.heads("/fail/b").len(), 1);
    // The next Proxy of a flow asks for the first time.
    let pool = format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}], retryPolicy: again}}]", shop.port);
    machine.update(
        "to-shop",
        &format!(
            "kind: Pipeline\nname: to-shop\nflow: [{{filter: first, jumpIf: {{serverError: second}}}}, {{filter: second}}]\nfilters:\n- \
             {{kind: Proxy, name: first, {pool}}}\n- {{kind: Proxy, name: second, {pool}}}\n{}",
            retry.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()
        ),
    );
    let heads = eventually("both are asked", || {
        assert_eq!(ask("/fail/c", &[]), 500);
        let heads = shop.heads("/fail/c");
        (heads.len() >= 6).then(|| heads[heads.len() - 6..].to_vec())
    });
    let marks =
        heads.iter().map(|head| head.to_lowercase().split("x-retry-attempt: ").nth(1).map(|rest| rest[..1].to_owned()));
    let marks: Vec<String> = marks.map(Option::unwrap_or_default).collect();
    assert_eq!(marks, ["", "1", "2", "", "1", "2"]);
}

const LITTLE_LEFT: &str = "kind: OverloadManager\nname: shed\nrefreshInterval: 50ms\nretryAfter: 2s\nactions:\n\
    - {name: ACTION, triggers: [{name: descriptors, TRIGGER}]}\nresourceMonitors: [{name: queueDelay, maxDelay: 1ns}]\n\
    consumerHeader: X-Consumer\npriorities:\n- {priority: critical, urls: [{url: {prefix: /checkout}}]}\n- {priority: critical, consumers: [known]}\n";

/// Of descriptors some are in use as long as the machine runs, and never all. A worker's delay would be none while it has no CPU to have a
/// turn with, and the overload be over.
const OVERLOAD: &str = "threshold: {value: 0.001}";
const NO_OVERLOAD: &str = "threshold: {value: 1}";
const DESCRIPTORS: u32 = 4096;

#[test]
fn a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once() {
    let mut machine = Machine::new("m1").descriptors(DESCRIPTORS);
    machine.run();
    let port = free_port();
    machine.create(&crate::world::mock("pl", "done"));
    machine.create(&server("web", port, "pl"));
    answers(port, "/up", 200);
    let document = |action: &str, trigger: &str| LITTLE_LEFT.replace("ACTION", action).replace("TRIGGER", trigger);
    machine.create(&document("shedLowPriority", "scaled: {scalingThreshold: 0.0001, saturationThreshold: 0.001}"));
    let refused = eventually("browsing is refused", || get(port, "/browse").ok().filter(|answer| answer.status == 503));
    let after: u64 = field(&refused, "Retry-After").unwrap().parse().unwrap();
    assert!((2..=6).contains(&after), "{after}");
    assert_eq!(get(port, "/checkout").unwrap().status, 200, "what matters most goes on");
    let known = |name: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        connection.request("GET", "/browse", &[("X-Consumer", name)], "").unwrap().status
    };
    assert_eq!(known("known"), 200, "and so does who matters most");
    eventually("it is counted", || machine.metric("weir_overload_activations_total").filter(|times| *times >= 1.0));
    let metrics = machine.try_api("GET", "/metrics", "").unwrap().body;
    for line in ["weir_overload_pressure{resource=\"descriptors\"}", "weir_overload_action{action=\"shedLowPriority\"}"]
    {
        assert!(metrics.contains(line), "{line}");
    }
    for _ in 0..50 {
        let _ = get(port, "/browse");
    }
    assert!(machine.api("GET", "/status/objects/shed", "").body.contains("queueDelay"));
    let told = machine.log().lines().filter(|line| line.contains("the action is in force")).count();
    assert_eq!(told, 1, "once, not for each request");
    // Everything.
    machine.update("shed", &document("stopAcceptingRequests", OVERLOAD));
    eventually("all are refused", || get(port, "/checkout").ok().filter(|answer| answer.status == 503));
    let mut kept = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    for _ in 0..3 {
        let answer = kept.request("GET", "/checkout", &[], "").unwrap();
        assert!(
            answer.status == 503 && field(&answer, "Connection") != Some("close"),
            "sockets are not short: {answer:?}"
        );
    }
    machine.update("shed", &document("disableHttpKeepalive", OVERLOAD));
    eventually("connections end", || {
        let answer = get(port, "/browse").ok()?;
        (answer.status == 200 && field(&answer, "Connection") == Some("close")).then_some(())
    });
    machine.update("shed", &document("rejectIncomingConnections", OVERLOAD));
    eventually("connections are reset", || get(port, "/browse").is_err().then_some(()));
    // Over.
    let calm = document("stopAcceptingRequests", NO_OVERLOAD);
    machine.update("shed", &calm);
    answers(port, "/browse", 200);
    machine.update("shed", &document("stopAcceptingRequests", OVERLOAD));
    answers(port, "/browse", 503);
    assert_eq!(machine.api("DELETE", "/objects/shed", "").status, 200);
    answers(port, "/browse", 200);
    // A worker's delay as well, in moments in which it has a CPU: with a nanosecond as all there may be, each of its turns is one.
    let late = document("stopAcceptingRequests", OVERLOAD).replace("name: descriptors", "name: queueDelay");
    machine.create(&late);
    answers(port, "/browse", 503);
}

/// What the overload manager has seen of a resource lately, as a share of it.
fn pressure(machine: &Machine, resource: &str) -> Option<f64> {
    let text = machine.try_api("GET", "/metrics", "").ok()?.body;
    let series = format!("weir_overload_pressure{{resource=\"{resource}\"");
    text.lines().find(|line| line.starts_with(&series))?.rsplit(' ').next()?.parse().ok()
}

/// Connections that are opened at a time, where sockets are to become scarce.
const FEW: usize = 8;

/// Another handshake costs more than another refusal, but a socket that somebody else waits for costs most.
#[test]
fn where_sockets_are_scarce_refused_clients_give_theirs_up() {
    let mut machine = Machine::new("m1").descriptors(256);
    machine.run();
    let port = free_port();
    machine.create(&crate::world::mock("pl", "done"));
    machine.create(&server("web", port, "pl"));
    answers(port, "/up", 200);
    let all = LITTLE_LEFT.replace("ACTION", "stopAcceptingRequests").replace("TRIGGER", OVERLOAD);
    machine.create(&all);
    let are_closed = |wanted: bool| {
        eventually(&format!("refused clients give their connections up: {wanted}"), || {
            let mut connection = Connection::open(&format!("127.0.0.1:{port}")).ok()?;
            let answer = connection.request("GET", "/", &[], "").ok().filter(|answer| answer.status == 503)?;
            ((field(&answer, "Connection") == Some("close")) == wanted).then_some(())
        });
    };
    are_closed(false);
    // Until most of its descriptors are taken, and not all of them: whoever comes is still let in, and refused. Of each few that come it
    // is waited until they are seen.
    let used = || pressure(&machine, "descriptors");
    let (mut idle, mut seen) = (Vec::new(), 0.0);
    while seen < 0.85 {
        idle.extend((0..FEW).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()));
        let next = seen + 0.5 * FEW as f64 / 256.0;
        seen = eventually("those that came are seen", || used().filter(|used| *used > next));
    }
    assert!(seen < 1.0, "{seen}");
    are_closed(true);
    drop(idle);
    are_closed(false);
}

#[test]
fn connections_that_are_not_accepted_wait_and_every_resource_is_seen() {
    let mut machine = Machine::new("m1").flags(["--memory-limit", "256MiB"]).descriptors(DESCRIPTORS);
    machine.run();
    let port = free_port();
    machine.create(&crate::world::mock("pl", "done"));
    machine.create(&server("web", port, "pl"));
    answers(port, "/up", 200);
    let address = format!("127.0.0.1:{port}");
    let mut kept = Connection::open(&address).unwrap();
    assert_eq!(kept.request("GET", "/", &[], "").unwrap().status, 200);
    let mut many: Vec<Connection> = (0..128).map(|_| Connection::open(&address).unwrap()).collect();
    let mut all_ask = || {
        many.iter_mut().for_each(|one| one.send("GET", "/", &[], "").unwrap());
        many.iter_mut().for_each(|one| assert_eq!(one.receive().unwrap().status, 200));
    };
    all_ask();
    // What a moment has used is shown until the next look: on a busy machine nobody comes to see it within 50 ms.
    let stop = LITTLE_LEFT.replace("ACTION", "stopAcceptingConnections").replace("TRIGGER", OVERLOAD);
    machine.create(&stop.replace("refreshInterval: 50ms", "refreshInterval: 2s"));
    let in_force = "weir_overload_action{action=\"stopAcceptingConnections\"} 1";
    let metrics = || machine.try_api("GET", "/metrics", "").map(|answer| answer.body).unwrap_or_default();
    eventually("the action is shown to be in force", || {
        assert_eq!(kept.request("GET", "/", &[], "").unwrap().status, 200);
        metrics().contains(in_force).then_some(())
    });
    let mut waiting: Vec<TcpStream> = Vec::new();
    // Some are handed over before it pauses; those behind them wait.
    eventually("connections wait in the kernel's queue", || {
        for _ in 0..64 {
            let mut stream = TcpStream::connect(&address).ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            waiting.push(stream);
        }
        assert_eq!(kept.request("GET", "/", &[], "").unwrap().status, 200, "who is in goes on");
        pressure(&machine, "acceptQueue").filter(|share| *share > 0.0)
    });
    let last = waiting.pop().unwrap();
    last.set_nonblocking(true).unwrap();
    let early = last.peek(&mut [0; 1]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it was answered");
    // While many ask at once everything is used a little: what is seen is of the last moments.
    let (done, mut unseen) =
        (AtomicBool::new(false), vec!["workerBusy", "queueDelay", "ringQueue", "memory", "descriptors"]);
    thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                all_ask();
            }
        });
        let _ = within(PATIENCE, || {
            unseen.retain(|resource| pressure(&machine, resource).is_none_or(|share| share <= 0.0));
            unseen.is_empty().then_some(())
        });
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(unseen, [""; 0]);
    assert_eq!(machine.api("DELETE", "/objects/shed", "").status, 200);
    last.set_nonblocking(false).unwrap();
    let mut answer = String::new();
    BufReader::new(last).read_line(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "whoever waited is served: {answer}");
}
