//! What earlier filters have set stays when a later one refuses the request, and who may read it when a later one answers.

#[macro_use]
mod support;

use base_runtime::IoMode;
use support::{Backend, House, free_port, proxy_to};

on_both_drivers![refusals_keep_what_filters_set, answers_keep_who_may_read_them];

const CORS: &str = "{name: cors, kind: CORSAdaptor, allowedOrigins: ['http://page.test']}";
const ASK: &str = "POST /x HTTP/1.1\r\nHost: a\r\nOrigin: http://page.test\r\nContent-Length: 0\r\n\r\n";

/// Without the field a browser hides even the status from the page.
fn refusals_keep_what_filters_set(io: IoMode) {
    let silent = Backend::new(|mut wire, _| drop(wire.rest()));
    let chunked = Backend::answering(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nX-Theirs: 1\r\nContent-Length: 99999999\r\n\r\n",
    );
    let pool = |port: u16, more: &str, policies: &str| {
        format!(
            "{{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{port}'}}], {more}}}]}}]{policies}"
        )
    };
    let limit = "{name: l, kind: RateLimiter, policies: [{name: p, timeoutDuration: 0s, limitRefreshPeriod: 1h, limitForPeriod: 1}], \
                 urls: [{url: {prefix: /}, policyRef: p}]}, {name: m, kind: Mock, rules: [{code: 200}]}]";
    let breaker = "\nresilience: [{name: b, kind: CircuitBreaker, slidingWindowType: COUNT_BASED, failureRateThreshold: 1, \
                   slidingWindowSize: 1, minimumNumberOfCalls: 1, waitDurationInOpenState: 1h}]";
    let closed = free_port();
    for (filters, statuses, field) in [
        (pool(closed, "", ""), [503, 503], None),
        (pool(silent.port, "timeout: 50ms", ""), [408, 408], None),
        (pool(chunked.port, "serverMaxBodySize: 100", ""), [500, 500], None),
        (pool(closed, "circuitBreakerPolicy: b", breaker), [503, 503], None),
        (limit.to_owned(), [200, 429], Some("x-eg-rate-limiter")),
        ("{name: v, kind: Validator, headers: {X-Must: {values: [a]}}}]".to_owned(), [400, 400], None),
        (
            "{name: v, kind: Validator, jwt: {algorithm: HS256, secret: '6161'}}]".to_owned(),
            [401, 401],
            Some("www-authenticate"),
        ),
    ] {
        let house = House::new(io, "", &format!("filters: [{CORS}, {filters}"));
        for status in statuses {
            let answer = house.ask(ASK);
            assert_eq!(answer.status(), status, "{filters}");
            if status == 200 {
                continue;
            }
            assert_eq!(answer.field("access-control-allow-origin"), Some("http://page.test"), "{filters}");
            assert_eq!(answer.field("vary"), Some("Origin"), "{filters}");
            assert_eq!((answer.body.len(), answer.field("content-length")), (0, Some("0")), "{filters}");
            // Of an answer that was given up nothing stays.
            assert_eq!((answer.field("etag"), answer.field("x-theirs")), (None, None), "{filters}");
        }
        assert!(field.is_none_or(|field| house.ask(ASK).field(field).is_some()), "{filters}");
    }
}

fn answers_keep_who_may_read_them(io: IoMode) {
    let mock = "{name: m, kind: Mock, rules: [{code: 201, body: text}]}";
    let house = House::new(io, "", &format!("filters: [{CORS}, {mock}]"));
    let answer = house.ask(ASK);
    assert_eq!(answer.field("access-control-allow-origin"), Some("http://page.test"));
    assert_eq!((answer.field("vary"), answer.text()), (Some("Origin"), "text".to_owned()));
    // A backend's answer is merged with it.
    let backend =
        Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\n\r\nok");
    let house = House::new(io, "", &proxy_to(backend.port).replace("filters: [", &format!("filters: [{CORS}, ")));
    assert_eq!(house.ask(ASK).field("access-control-allow-origin"), Some("http://page.test"));
}
