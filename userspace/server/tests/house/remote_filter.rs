//! A service that decides what becomes of requests.

use crate::authentication::{House, NOTHING, Service, json};
use crate::world::{Connection, answers, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

#[test]
fn a_service_changes_requests_or_answers_them() {
    let service = Service::start(|asked| {
        let context: Value = serde_json::from_str(&asked.body).ok()?;
        let request = &context["request"];
        match request["path"].as_str()? {
            "/changed" => {
                let body = STANDARD.decode(request["body"].as_str()?).ok()?;
                let body = [&body[..], b" world"].concat();
                let header =
                    json!({"X-Told": [format!("{} {}", request["method"].as_str()?, request["query"].as_str()?)]});
                json(json!({"request": {"method": "PUT", "path": "/other", "query": "x=y", "header": header, "body": STANDARD.encode(body)},
                    "response": {"header": {"X-Answer": ["1"]}}}).to_string())
            }
            "/answered" => {
                let response =
                    json!({"statusCode": 418, "header": {"X-Answer": ["2"]}, "body": STANDARD.encode("teapot")});
                Some((205, String::new(), json!({"response": response}).to_string()))
            }
            "/refused" => Some((403, String::new(), "{}".to_owned())),
            "/moved" => Some((302, "Location: /\r\n".to_owned(), "{}".to_owned())),
            "/garbled" => json("{"),
            "/long" => json(" ".repeat(200 * 1024)),
            "/silent" => None,
            _ => json(asked.body.clone()),
        }
    });
    let filter = format!("{{name: r, kind: RemoteFilter, url: '{}/check?v=1', timeout: 700ms}}", service.url());
    let house = House::with(&filter);
    let ask =
        |path: &str, body: &str| house.request("POST", path, &[("X-Own", "own"), ("Content-Type", "text/plain")], body);
    let echoed = ask("/a%2fb?c=d", "hello");
    assert!(echoed.status == 200 && echoed.body.contains("X-Own:[own]") && echoed.body.contains("hello"), "{echoed:?}");
    let changed = ask("/changed?c=d", "hello");
    assert!(changed.status == 200 && changed.head.contains("X-Answer: 1"), "{changed:?}");
    for part in ["PUT", "/other", "x=y", "X-Told:[POST c=d]", "hello world"] {
        assert!(changed.body.contains(part), "{part}: {changed:?}");
    }
    assert!(!changed.body.contains("X-Own"), "{changed:?}");
    let answered = ask("/answered", "");
    assert_eq!(
        (answered.status, &*answered.body, answered.head.contains("X-Answer: 2")),
        (418, "teapot", true),
        "{answered:?}"
    );
    for path in ["/refused", "/moved", "/garbled", "/long", "/silent"] {
        assert_eq!(ask(path, "").status, 503, "{path}");
    }
    let asked = service.asked();
    assert_eq!(ask("/", &"x".repeat(65 * 1024)).status, 503, "a body that is too long");
    assert_eq!(service.asked(), asked, "is not sent");
    assert_eq!((house.limit("calls_timed_out"), house.limit("call_answer_bytes")), (1.0, 1.0));
}

#[test]
fn a_service_with_a_certificate_of_its_own_is_believed_where_the_document_says_so_and_few_questions_wait() {
    let service = Service::start(|asked| (!asked.target.starts_with("/silent")).then(|| json("{}")).flatten());
    let house = House::with(NOTHING);
    let secure = house.behind_tls(&service.url());
    let filter = |fields: &str| format!("{{name: r, kind: RemoteFilter, {fields}}}");
    let door = house.beside(&[
        ("believed", filter(&format!("url: 'https://127.0.0.1:{secure}/', insecureTls: true"))),
        ("doubted", filter(&format!("url: 'https://127.0.0.1:{secure}/'"))),
        ("few", filter(&format!("url: '{}/silent', maxInFlight: 1", service.url()))),
    ]);
    answers(door, "/believed", 200);
    let open = || Connection::open(&format!("127.0.0.1:{door}")).unwrap();
    assert_eq!(open().request("GET", "/doubted", &[], "").unwrap().status, 503);
    let (asked, mut waits) = (service.asked(), open());
    waits.send("GET", "/few", &[], "").unwrap();
    eventually("the service was asked", || (service.asked() > asked).then_some(()));
    assert_eq!(open().request("GET", "/few", &[], "").unwrap().status, 503);
    assert_eq!((service.asked(), house.limit("calls_in_flight")), (asked + 1, 1.0));
}
