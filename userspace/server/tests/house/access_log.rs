//! The access log, read as whoever keeps it does: a line for each request, whatever messages and filters had to say.

use crate::world::{Connection, Machine, answers, eventually, free_port, get, mock, server};
use std::fs;

/// Stand in the places where credentials come, and in nothing else.
const SECRETS: [&str; 8] =
    ["tok-bearer", "tok-cookie", "tok-apikey", "tok-query", "tok-fragment", "tok-body", "tok-basic", "tok-backend"];

/// Notes that quote the message, as errors of filters do: the values of fields and parameters alone, without their names, decoded; and
/// a body that is a document with a password in it.
const QUOTING: &str = r#"
kind: Pipeline
name: quoting
filters:
- kind: RequestBuilder
  name: builder
  template: |
    {{ $h := .req.Header }}{{ $q := .req.URL.Query }}
    {{ fail (printf "note %s %s %s %s %s %s %s" ($h.Get "Authorization") ($h.Get "Cookie") ($h.Get "X-Api-Key")
       ($q.Get "token") ($q.Get "line") ($h.Get "X-Line") .req.Body) }}
"#;

/// Lines of its own, colours, the end of a string, and what turns text around or ends a line only in some viewers.
const FORGED: &str = "a%0A%5B2024-02-29T12%3A34%3A56.005Z%5D%20%5Bforged%20GET%20/forged%5D%0D%1B%5B31m%00%7F%C2%9B31m%C2%85%E2%80%A8%E2%80%AE%C3%28";

#[test]
fn nothing_in_it_is_forged_and_no_credential_is_in_it() {
    let mut machine = Machine::new("m1").flags(["--log-dir", "log", "--disable-access=false"]);
    machine.run();
    machine.create(QUOTING);
    machine.create(&mock("pl", "x"));
    let jwt = "kind: Pipeline\nname: guarded\nfilters:\n- kind: Validator\n  name: v\n  jwt: {algorithm: HS256, secret: '616263'}\n";
    machine.create(jwt);
    let proxy = "kind: Pipeline\nname: away\nfilters:\n- kind: Proxy\n  name: p\n  pools:\n  - servers: [{url: 'http://127.0.0.1:1'}]\n    retryPolicy: ''\n";
    machine.create(proxy);
    let everything = "{{Method}} {{URI}} {{ReqHeaders}} {{RespHeaders}} {{StatusCode}} {{Tags}}";
    let mut asked = 0;
    for (name, pipeline) in [("hs-quoting", "quoting"), ("hs-pl", "pl"), ("hs-guarded", "guarded"), ("hs-away", "away")]
    {
        for format in ["", everything] {
            let (name, port) = (format!("{name}-{}", format.len()), free_port());
            machine.create(&format!("{}accessLogFormat: '{format}'\n", server(&name, port, pipeline)));
            eventually("it serves", || get(port, "/up").ok());
            for credentials in ["Bearer tok-bearer", "Basic dXNlcjp0b2stYmFzaWM=", "tok-bearer"] {
                let fields = [
                    ("Authorization", credentials),
                    ("Cookie", "a=1; session=tok-cookie"),
                    ("X-Api-Key", "tok-apikey"),
                    ("Referer", "http://u:tok-backend@b.test/?access_token=tok-query#id_token=tok-fragment"),
                    ("X-Line", "tabbed\tand \u{9b}31m coloured"),
                ];
                let target = format!("/{name}?token=tok%2Dquery&line={FORGED}&a=b");
                let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
                let body = r#"{"password": "tok-body", "name": "x"}"#;
                connection.request("POST", &target, &fields, body).unwrap();
                asked += 1;
            }
        }
    }
    let read = |name: &str| fs::read(machine.directory.join("log").join(name)).unwrap_or_default();
    // The first request of each server is a GET, and may have been sent more than once.
    let posts = |log: &[u8]| log.split(|b| *b == b'\n').filter(|line| line.windows(6).any(|w| w == b"POST /")).count();
    eventually("each has its line", || (posts(&read("filter_http_access.log")) >= asked).then_some(()));
    for name in ["filter_http_access.log", "stdout.log"] {
        let log = read(name);
        let text = String::from_utf8(log.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        for secret in SECRETS {
            let found = text.lines().find(|line| line.contains(secret) || line.contains("dXNlcjp0b2st"));
            assert_eq!(found, None, "{name}: {secret}");
        }
        let strange = text.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{2028}'..='\u{202e}').contains(c));
        assert_eq!(strange, None, "{name}: {text}");
    }
    let text = String::from_utf8(read("filter_http_access.log")).unwrap();
    let (posts, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("POST /"));
    assert_eq!(posts.len(), asked, "{text}");
    assert_eq!(others.iter().find(|line| !line.contains("GET /up")), None, "a line of nobody's");
    assert!(!text.lines().any(|line| line.starts_with("[2024-02-29")), "{text}");
    // What is no credential is there to be read: the notes with what they quote, the station that failed, the other parameters.
    let noted: Vec<&str> =
        posts.iter().copied().filter(|line| line.contains("hs-quoting") && line.contains("note ")).collect();
    assert_eq!(noted.len(), 6, "{text}");
    for line in noted {
        assert!(line.contains("a=b") && line.contains("builder") && line.contains("forged GET /forged"), "{line}");
        assert!(line.contains(r"\x0a") && line.contains("coloured") && line.contains("\"name\": \"x\""), "{line}");
    }
    assert_eq!(posts.iter().filter(|line| line.contains("validator: jwt")).count(), 6, "{text}");
}

/// Whoever asks for credentials gets them, and no forged line with them.
#[test]
fn a_server_may_show_credentials() {
    let mut machine = Machine::new("m1").flags(["--log-dir", "log", "--disable-access=false"]);
    machine.run();
    machine.create(QUOTING);
    let port = free_port();
    machine.create(&format!("{}accessLogCredentials: true\n", server("hs", port, "quoting")));
    answers(port, &format!("/?token=tok-query&line={FORGED}"), 503);
    let read = || fs::read(machine.directory.join("log/filter_http_access.log")).unwrap_or_default();
    let log = eventually("there is its line", || Some(read()).filter(|log| log.ends_with(b"\n")));
    let text = String::from_utf8(log).unwrap();
    assert!(text.contains("token=tok-query") && text.matches("tok-query").count() == 2, "{text}");
    assert!(text.lines().count() == 1 && !text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
}
