//! A service that says who may pass.

use crate::authentication::{House, NOTHING, Service};
use crate::world::{Backend, Connection, answers, eventually, free_port};

/// The lines of a head that begin so, without regard to case.
fn line<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

#[test]
fn a_service_says_who_may_pass() {
    let service = Service::start(|asked| {
        if asked.target.starts_with("/silent") {
            return None;
        }
        let told = |status: u16, more: &str| Some((status, more.to_owned(), String::new()));
        let seen =
            ["X-Original-URL", "X-Original-Method", "X-Other"].map(|name| line(&asked.head, name).unwrap_or("-"));
        let method = asked.head.split(' ').next().unwrap_or_default();
        match line(&asked.head, "Cookie") {
            Some("user=ann") => {
                told(200, &format!("X-User: ann {} {method} {}\r\nSet-Cookie: s=1\r\n", seen.join(" "), asked.target))
            }
            Some("user=bob") => told(403, ""),
            Some("user=eve") => told(302, "Location: https://login.test/\r\n"),
            Some("user=dan") => told(500, ""),
            _ => told(401, "WWW-Authenticate: Cookie\r\n"),
        }
    });
    let house = House::with(NOTHING);
    let secure = house.behind_tls(&service.url());
    let filter = |fields: &str| format!("{{name: a, kind: ForwardAuth, {fields}}}");
    let url = service.url();
    let (backend, door) = (Backend::start("echo"), free_port());
    let filters = [
        ("login", filter(&format!("url: '{url}/ask?for=$escaped_request_uri', responseHeaders: [X-User]"))),
        (
            "few",
            filter(&format!("url: '{url}/ask', method: HEAD, requestHeaders: [cookie], responseHeaders: [X-User]")),
        ),
        ("signin", filter(&format!("url: '{url}/ask', signin: 'https://login.test/in', signinRedirectParam: to"))),
        ("silent", filter(&format!("url: '{url}/silent', timeout: 300ms"))),
        ("one", filter(&format!("url: '{url}/silent', maxInFlight: 1"))),
        ("believed", filter(&format!("url: 'https://127.0.0.1:{secure}/ask', insecureTls: true"))),
        ("doubted", filter(&format!("url: 'https://127.0.0.1:{secure}/ask'"))),
    ];
    let proxy = format!("{{name: p, kind: Proxy, pools: [{{servers: [{{url: '{}'}}]}}]}}", backend.url());
    for (name, filter) in &filters {
        house.machine.create(&format!("kind: Pipeline\nname: {name}\nfilters:\n- {filter}\n- {proxy}\n"));
    }
    let paths = filters.iter().map(|(name, _)| format!("{{path: /{name}, backend: {name}}}"));
    let paths = paths.collect::<Vec<_>>().join(", ");
    house.machine.create(&format!("kind: HTTPServer\nname: auth\nport: {door}\nrules: [{{paths: [{paths}]}}]\n"));
    answers(door, "/login", 401);
    let ask = |path: &str, headers: &[(&str, &str)], body: &str| {
        Connection::open(&format!("127.0.0.1:{door}")).unwrap().request("POST", path, headers, body).unwrap()
    };
    let ann =
        [("Cookie", "user=ann"), ("X_User", "forged"), ("X-Original-URL", "http://forged.test/"), ("X-Other", "1")];
    let answer = ask("/login?a=b", &ann, "hello");
    assert_eq!((answer.status, line(&answer.head, "Set-Cookie")), (200, Some("s=1")), "{answer:?}");
    let user = "ann http://house.test/login?a=b POST 1 GET /ask?for=%2Flogin%3Fa%3Db";
    assert!(answer.body.contains(user) && answer.body.contains("hello"), "{answer:?}");
    assert!(!answer.body.contains("X_User"), "{answer:?}");
    let few = ask("/few", &ann, "");
    assert!(few.body.contains("ann http://house.test/few POST - HEAD /ask"), "{few:?}");
    for (who, status, field, value) in [
        ("user=bob", 403, "Location", None),
        ("user=eve", 302, "Location", Some("https://login.test/")),
        ("user=dan", 503, "Location", None),
        ("none", 401, "WWW-Authenticate", Some("Cookie")),
    ] {
        let answer = ask("/login", &[("Cookie", who)], "");
        assert_eq!((answer.status, line(&answer.head, field)), (status, value), "{who}: {answer:?}");
    }
    let sent = ask("/signin?a=b", &[], "");
    let place = "https://login.test/in?to=http%3A%2F%2Fhouse.test%2Fsignin%3Fa%3Db";
    assert_eq!((sent.status, line(&sent.head, "Location")), (302, Some(place)), "{sent:?}");
    assert_eq!(ask("/silent", &ann, "").status, 503);
    assert_eq!((ask("/believed", &ann, "").status, ask("/doubted", &ann, "").status), (200, 503));
    let (asked, mut waits) = (service.asked(), Connection::open(&format!("127.0.0.1:{door}")).unwrap());
    waits.send("GET", "/one", &[], "").unwrap();
    eventually("the service is asked", || (service.asked() > asked).then_some(()));
    assert_eq!(ask("/one", &ann, "").status, 503);
    assert!(house.limit("calls_in_flight") >= 1.0 && house.limit("calls_timed_out") >= 1.0);
}
