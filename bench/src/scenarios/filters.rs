//! `filters`: what each filter adds to a request, beside the same weir without it: stations before the Proxy that let the request pass.

use super::Options;
use super::extras::{Extra, filtered, measure, more, put};
use crate::gateways::HTTP;
use crate::report::Goal;

pub fn run(options: &Options) -> Result<(), String> {
    measure("filters", FILTERS, options)
}

/// One station, in the words of a document, with the indent that stands in the pipeline's list.
macro_rules! station {
    ($name:literal, $fields:expr) => {
        Extra { name: $name, document: |plain, _| filtered(plain, $fields), goal: |_| None, tells: false }
    };
}

const FILTERS: &[Extra] = &[
    Extra { name: "ten-headers", document: |plain, _| ten(plain), goal: header_goal, tells: false },
    // As many places as there are clients: what is refused would be no figure.
    station!("adaptive-concurrency", "kind: AdaptiveConcurrency\n  minLimit: 128\n  initialLimit: 128"),
    station!("cors-adaptor", "kind: CORSAdaptor\n  allowedOrigins: ['https://shop.example']"),
    // Nothing is kept: each request is a miss that may not be.
    station!("cache-miss", "kind: Cache\n  lifetimes: []"),
    station!(
        "cert-extractor",
        "kind: CertExtractor\n  certIndex: 0\n  target: subject\n  field: CommonName\n  headerKey: X-Cn"
    ),
    station!(
        "data-builder",
        "kind: DataBuilder\n  dataKey: k\n  template: 'agent: {{.req.Header.Get \"User-Agent\"}}'"
    ),
    station!("fault-injector", "kind: FaultInjector\n  abort: {percentage: 0, statusCode: 503}"),
    station!(
        "opa-filter",
        "kind: OPAFilter\n  policy: |\n    package http\n    default allow = false\n    allow { input.request.method == \"GET\" }"
    ),
    station!(
        "rate-limiter",
        "kind: RateLimiter\n  policies: [{name: p, limitForPeriod: 100000000}]\n  defaultPolicyRef: p\n  urls: [{url: {prefix: /}}]"
    ),
    station!(
        "rate-limiter-key",
        "kind: RateLimiter\n  policies: [{name: p, limitForPeriod: 100000000, key: {from: address}}]\n  defaultPolicyRef: p\n  urls: [{url: {prefix: /}}]"
    ),
    station!("redirector", "kind: Redirector\n  match: ^/never/(.*)$\n  replacement: /$1"),
    station!("request-adaptor", "kind: RequestAdaptor\n  header: {set: {X-Set: a}, add: {X-Add: b}, del: [X-Del]}"),
    station!(
        "request-adaptor-template",
        "kind: RequestAdaptor\n  template: 'header: {set: {X-Agent: {{.req.Header.Get \"User-Agent\" | toJson}}}}'"
    ),
    station!("result-builder", "kind: ResultBuilder\n  template: '{{if eq .req.Method \"DELETE\"}}result1{{end}}'"),
    station!("script", "kind: Script\n  script: 'req.Header.Set(\"X-Out\", req.Header.Get(\"Accept\") + \"-a\");'"),
    station!("validator-headers", "kind: Validator\n  headers: {User-Agent: {values: [lg], regexp: ^curl}}"),
];

/// The documents with what `ten-headers` has more.
pub(super) fn ten_headers() -> Result<String, String> {
    ten(HTTP.ours)
}

/// Ten stations that look at heads and nothing else. Where the answer is changed it is on its way back, so they stand on both sides.
fn ten(plain: &str) -> Result<String, String> {
    let station = |n: usize| match n % 5 {
        0 => format!("- name: h{n}\n  kind: RequestAdaptor\n  header: {{set: {{X-Set-{n}: a}}}}\n"),
        1 => format!("- name: h{n}\n  kind: Validator\n  headers: {{User-Agent: {{values: [lg]}}}}\n"),
        2 => format!("- name: h{n}\n  kind: CORSAdaptor\n  allowedOrigins: ['https://shop.example']\n"),
        3 => format!("- name: h{n}\n  kind: Redirector\n  matchPart: path\n  match: ^/never/\n  replacement: /\n"),
        _ => format!("- name: h{n}\n  kind: RequestAdaptor\n  header: {{del: [X-Del-{n}]}}\n"),
    };
    let stations: String = (0..10).map(station).collect();
    put(plain, "filters:\n", &format!("filters:\n{stations}"))
}

fn header_goal(cell: &'static str) -> Option<Goal> {
    more(cell, 1.5)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn each_is_put_into_the_documents_of_weir() {
        let nowhere: SocketAddr = ([127, 0, 0, 1], 9).into();
        for filter in FILTERS {
            let with = (filter.document)(HTTP.ours, nowhere).unwrap_or_else(|why| panic!("{}: {why}", filter.name));
            assert!(with.len() > HTTP.ours.len() && with.contains("kind: HTTPServer"), "{with}");
        }
        assert_eq!(ten(HTTP.ours).unwrap().matches("- name: h").count(), 10);
    }
}
