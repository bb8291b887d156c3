//! What a flood of refusals takes from those beside it.

#[macro_use]
mod support;

use base_runtime::IoMode;
use support::House;

on_both_drivers![a_refusal_takes_no_lock_of_the_process];

const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200}]}]";

/// Limits are registered, under a lock, when their owners are built and never when they are reached.
fn a_refusal_takes_no_lock_of_the_process(io: IoMode) {
    let house = House::new(io, "clientMaxBodySize: 1", MOCK);
    let before = house.telemetry.limits().registrations();
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /\\ HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\nx",
    ] {
        for _ in 0..3 {
            assert!(house.ask(request).status() >= 400, "{request}");
        }
    }
    assert!(house.limit("request_body_bytes") >= 3);
    assert_eq!(house.telemetry.limits().registrations(), before);
}
