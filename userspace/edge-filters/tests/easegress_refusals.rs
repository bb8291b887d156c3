//! What Easegress refuses when a document comes in, refused here too: its required fields, words, ranges, patterns and lists without
//! repeats, and what its types check of themselves.
//!
//! Taken here and refused there, on purpose: a `prefix` of etcd without a slash (keys of etcd need none), certificates that are no
//! base64 where `https` is off (warned of, since they do nothing), a WebSocket health check without `http` and `ws` (the server is connected
//! to), and an AutoCertManager without domains (warned of). Refused here and taken there: a Pipeline without filters.

use base_model::{Object, Problem, yaml};
use edge_filters::kinds::Shelf;
use serde_json::Value;
use std::time::SystemTime;

#[test]
fn what_easegress_refuses_is_refused() {
    let taken: Vec<String> = documents().into_iter().filter(|document| refusal(document).is_none()).collect();
    assert!(taken.is_empty(), "{} are taken:\n{}", taken.len(), taken.join("\n"));
}

/// Whoever is refused is told where, with which value, and what would do instead.
#[test]
fn each_refusal_says_where_which_value_and_what_is_accepted() {
    let mut poor = Vec::new();
    for document in documents() {
        let value = yaml::parse_document(&document).unwrap();
        for problem in refusal(&document).into_iter().flatten() {
            let lacks = lacks(&problem, &value);
            if !lacks.is_empty() {
                poor.push(format!("{}\n  {problem}\n  lacks {}", document.trim(), lacks.join(" and ")));
            }
        }
    }
    assert!(poor.is_empty(), "{} are poor:\n{}", poor.len(), poor.join("\n"));
}

/// What a refusal does not say.
fn lacks(problem: &Problem, document: &Value) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    let there = found(document, &problem.path);
    // What is wrong with a document as a whole is nowhere in it.
    if problem.path.is_empty() && problem.advice.is_none() || there == Found::Nowhere {
        lacks.push("a path of the document");
    }
    // A secret is not repeated; of a list, a mapping and a switch the path says enough, of a long text the line.
    let is_secret = ["key", "secret", "cert", "password"].iter().any(|word| problem.path.to_lowercase().contains(word));
    let last = problem.path.rsplit('.').next().unwrap_or_default();
    let is_shown = problem.value.is_some() || problem.message.contains("line ") || problem.message.contains(last);
    let shows = match there {
        Found::There(Value::String(text)) => !text.is_empty(),
        Found::There(Value::Number(_)) => true,
        _ => false,
    };
    if shows && !is_secret && !is_shown {
        lacks.push("the value");
    }
    if problem.accepted.is_none() && problem.advice.is_none() && !problem.message.contains("; ") {
        lacks.push("what is accepted, or what to do");
    }
    lacks
}

/// Where a path leads.
#[derive(PartialEq)]
enum Found<'v> {
    There(&'v Value),
    /// It is a field that could be there.
    Missing,
    Nowhere,
}

fn found<'v>(document: &'v Value, path: &str) -> Found<'v> {
    let (mut value, mut rest) = (document, path);
    while !rest.is_empty() {
        let next = if let Some(index) = rest.strip_prefix('[') {
            let Some((index, after)) = index.split_once(']') else { return Found::Nowhere };
            rest = after;
            match index.parse::<usize>() {
                Ok(index) => value.get(index),
                Err(_) => value.get(index.trim_matches('"')),
            }
        } else {
            let name = rest.trim_start_matches('.');
            let end = name.find(['.', '[']).unwrap_or(name.len());
            rest = &name[end..];
            match value {
                Value::Object(_) => value.get(&name[..end]),
                _ => return Found::Nowhere,
            }
        };
        match next {
            Some(found) => value = found,
            None if rest.is_empty() && value.is_object() => return Found::Missing,
            None => return Found::Nowhere,
        }
    }
    Found::There(value)
}

/// What is wrong with a document that comes in; nothing where it is taken.
fn refusal(document: &str) -> Option<Vec<Problem>> {
    let value = yaml::parse_document(document).unwrap_or_else(|error| panic!("{document}: {error}"));
    Object::admit(&value, &Shelf, SystemTime::now(), |_| None).err()
}

fn documents() -> Vec<String> {
    let mut all: Vec<String> = DOCUMENTS.iter().map(|document| (*document).to_owned()).collect();
    all.extend(SERVERS.iter().map(|fields| server(fields)));
    all.extend(PATHS.iter().map(|fields| server(&path(fields))));
    all.extend(TRACING.iter().map(|fields| server(&format!("tracing: {{{fields}}}"))));
    all.extend(GRPC_SERVERS.iter().map(|fields| grpc(fields)));
    all.extend(GRPC_METHODS.iter().map(|fields| grpc(&method(fields))));
    all.extend(POLICIES.iter().map(|fields| policy(fields)));
    all.extend(POOLS.iter().map(|fields| pool(fields)));
    all.extend(CANDIDATES.iter().map(|filter| candidate(filter)));
    all.extend(FILTERS.iter().flat_map(|(kind, all)| all.iter().map(|fields| pipeline(kind, fields))));
    all
}

/// The same documents, without the fault: what refuses them is the fault.
#[test]
fn what_is_around_the_faults_is_taken() {
    for document in [
        server(""),
        server(&path("path: /")),
        server("tracing: {serviceName: a, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}}"),
        grpc(""),
        grpc(&method("method: /a, backend: p")),
        policy("kind: Retry"),
        policy("kind: CircuitBreaker"),
        pool("timeout: 1s"),
        pool("healthCheck: {uri: /, username: a, password: b, match: {statusCodes: [[200, 299]]}}"),
        pool("memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: [GET]}"),
        candidate("{headers: {a: {exact: b}}}"),
        candidate("{policy: ipHash, permil: 10}"),
        pipeline(
            "RateLimiter",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET], url: {exact: /}}]",
        ),
        pipeline("Validator", "jwt: {algorithm: HS256, secret: aa}"),
        pipeline("Mock", "rules: [{code: 200, match: {path: /a, pathPrefix: /b}}]"),
        pipeline("RequestAdaptor", "path: {addPrefix: /a}\nheader: {del: [a, b]}"),
        pipeline("CORSAdaptor", "allowedMethods: [GET, PUT]"),
        pipeline("Kafka", "backend: ['a:1', 'b:1']\ntopic: {default: a}"),
        pipeline("HeaderToJSON", "headerMap: [{header: a, json: b}]"),
        pipeline("GRPCProxy", "pools: [{servers: [{url: 'http://a:1'}]}]"),
        "name: g\nkind: GRPCServer\nport: 1025\n".to_owned(),
    ] {
        let value = yaml::parse_document(&document).unwrap_or_else(|error| panic!("{document}: {error}"));
        if let Err(problems) = Object::admit(&value, &Shelf, SystemTime::now(), |_| None) {
            panic!("{document}\n{}", base_model::problem::render(&problems));
        }
    }
}

fn server(fields: &str) -> String {
    format!("name: s\nkind: HTTPServer\nport: 10080\n{fields}\n")
}

fn path(fields: &str) -> String {
    format!("rules: [{{paths: [{{backend: p, {fields}}}]}}]")
}

fn grpc(fields: &str) -> String {
    format!("name: g\nkind: GRPCServer\nport: 10090\n{fields}\n")
}

fn method(fields: &str) -> String {
    format!("rules: [{{methods: [{{{fields}}}]}}]")
}

fn policy(fields: &str) -> String {
    let filters = "filters: [{name: m, kind: Mock, rules: [{code: 200}]}]";
    format!("name: p\nkind: Pipeline\n{filters}\nresilience: [{{name: r, {fields}}}]\n")
}

fn pool(fields: &str) -> String {
    pipeline("Proxy", &format!("{POOL}\n  {fields}"))
}

fn candidate(filter: &str) -> String {
    pipeline("Proxy", &format!("{POOL}\n- servers: [{{url: 'http://127.0.0.1:1'}}]\n  filter: {filter}"))
}

fn pipeline(kind: &str, fields: &str) -> String {
    let fields = fields.replace('\n', "\n  ");
    format!("name: p\nkind: Pipeline\nfilters:\n- name: a\n  kind: {kind}\n  {fields}\n")
}

const POOL: &str = "pools:\n- servers: [{url: 'http://127.0.0.1:1'}]";

/// Whole documents.
const DOCUMENTS: &[&str] = &[
    "kind: Pipeline\nfilters: []",
    "name: a b\nkind: Pipeline\nfilters: []",
    "name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nkind: Pipeline\nfilters: []",
    "name: a/b\nkind: Pipeline\nfilters: []",
    "name: a",
    "name: a\nkind: Foo",
    "name: 5\nkind: Pipeline\nfilters: []",
    "name: s\nkind: HTTPServer",
    "name: s\nkind: HTTPServer\nport: 0",
    "name: s\nkind: HTTPServer\nport: 65536",
    "name: s\nkind: HTTPServer\nport: \"80\"",
    "name: g\nkind: GRPCServer\nport: 1024",
    "name: g\nkind: GRPCServer\nport: 0",
    "name: g\nkind: GRPCServer",
    "name: p\nkind: Pipeline",
    "name: p\nkind: Pipeline\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]},{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nfilters: [{name: END, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nfilters: [{kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nfilters: [{name: \"a b\", kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nfilters: [{name: a}]",
    "name: p\nkind: Pipeline\nfilters: [{name: a, kind: Foo}]",
    "name: p\nkind: Pipeline\nflow: [{filter: b}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{alias: b}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, jumpIf: {foo: END}}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a}, {filter: b, jumpIf: {mocked: a}}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]},{name: b, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, jumpIf: {mocked: a}}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, jumpIf: {mocked: c}}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, jumpIf: {mocked: b}}, {filter: b}, {filter: b}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]},{name: b, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: 'a b'}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, jumpIf: {mocked: x}}, {filter: b, alias: x}, {filter: b, alias: x}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]},{name: b, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nflow: [{filter: a, alias: END}]\nfilters: [{name: a, kind: Mock, rules: [{code: 200}]}]",
    "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200}]}]\nresilience: [{kind: Retry}]",
    "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200}]}]\nresilience: [{name: a}]",
    "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200}]}]\nresilience: [{name: a, kind: TimeLimiter}]",
    "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200}]}]\nresilience: [{name: 'a b', kind: Retry}]",
    "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{code: 200}]}]\nresilience: [{name: a, kind: Retry},{name: a, kind: Retry}]",
    "name: g\nkind: GlobalFilter",
    "name: g\nkind: GlobalFilter\nbeforePipeline: {filters: [{name: END, kind: Mock, rules: [{code: 200}]}]}",
    "name: r\nkind: ConsulServiceRegistry\nscheme: foo",
    "name: r\nkind: ConsulServiceRegistry\nsyncInterval: x",
    "name: r\nkind: EtcdServiceRegistry",
    "name: r\nkind: EtcdServiceRegistry\nendpoints: ['a:1','a:1']",
    "name: r\nkind: EtcdServiceRegistry\nendpoints: ['a:1']\ncacheTimeout: x",
    "name: r\nkind: EurekaServiceRegistry\nendpoints: ['http://a:1','http://a:1']",
    "name: r\nkind: EurekaServiceRegistry\nsyncInterval: x",
    "name: r\nkind: NacosServiceRegistry",
    "name: r\nkind: NacosServiceRegistry\nservers: [{ipAddr: a}]",
    "name: r\nkind: NacosServiceRegistry\nservers: [{port: 1}]",
    "name: r\nkind: NacosServiceRegistry\nservers: [{ipAddr: 127.0.0.1, port: 1, scheme: foo}]",
    "name: r\nkind: ZookeeperServiceRegistry\nprefix: a",
    "name: r\nkind: ZookeeperServiceRegistry\nconntimeout: x",
    "name: r\nkind: ZookeeperServiceRegistry\nzkservices: ['a:1','a:1']",
    "name: a\nkind: AutoCertManager\ndomains: [{name: a.b}]",
    "name: a\nkind: AutoCertManager\nemail: nothing\ndomains: [{name: a.b}]",
    "name: a\nkind: AutoCertManager\nemail: a@b.c\ndomains: [{}]",
    "name: a\nkind: AutoCertManager\nemail: a@b.c\ndomains: [{name: '*.b'}]",
    "name: a\nkind: AutoCertManager\ndirectoryURL: foo\nemail: a@b.c\ndomains: [{name: a.b}]",
    "name: a\nkind: AutoCertManager\nrenewBefore: x\nemail: a@b.c\ndomains: [{name: a.b}]",
    "name: a\nkind: AutoCertManager\nenableHTTP01: false\nenableTLSALPN01: false\nenableDNS01: false\nemail: a@b.c\ndomains: [{name: a.b}]",
    "name: a\nkind: AutoCertManager\nemail: a@b.c\ndomains: [{name: 'a b'}]",
];

/// Fields of an HTTPServer.
const SERVERS: &[&str] = &[
    "ipFilter: {allowIPs: [1.2.3]}",
    "ipFilter: {blockIPs: [10.0.0.0/33]}",
    "ipFilter: {blockIPs: [10.0.0.1, 10.0.0.1]}",
    "http3: true",
    "https: true",
    "https: true\ncertBase64: aGk=",
    "https: true\ncertBase64: '!!'\nkeyBase64: '!!'",
    "https: true\ncerts: {a: x}\nkeys: {b: y}",
    "certBase64: '!!!'",
    "keepAliveTimeout: 5 sec",
    "maxConnections: 0",
    "maxConnections: -1",
    "routerKind: Foo",
    "cacheSize: -1",
    "rules: [{hostRegexp: '('}]",
    "rules: [{hosts: [{isRegexp: true}]}]",
    "rules: [{hosts: [{isRegexp: true, value: '('}]}]",
    "rules: [{host: 'a.*.b'}]",
    "rules: [{host: '*.a.*'}]",
    "rules: [{hosts: [{value: '*.a.*'}]}]",
    "rules: [{host: '*'}]",
    "rules: [{paths: [{path: /}]}]",
    "rules: [{paths: [{path: /, backendPool: {}}]}]",
    "rules: [{ipFilter: {allowIPs: [x]}}]",
    "routerKind: RadixTree\nrules: [{paths: [{path: '/{a}/{a}', backend: p}]}]",
    "routerKind: RadixTree\nrules: [{paths: [{path: '/{a:(}', backend: p}]}]",
    "routerKind: RadixTree\nrules: [{paths: [{path: '/{a', backend: p}]}]",
    "routerKind: RadixTree\nrules: [{paths: [{path: '/a*b', backend: p}]}]",
    "routerKind: RadixTree\nrules: [{paths: [{path: '/a/*', rewriteTarget: '/b/*', backend: p}]}]",
];

/// Fields of a path with a backend.
const PATHS: &[&str] = &[
    "path: a",
    "pathPrefix: a",
    "pathRegexp: '('",
    "rewriteTarget: /x",
    "methods: [FOO]",
    "methods: [GET, GET]",
    "headers: [{values: [a]}]",
    "headers: [{key: a}]",
    "headers: [{key: a, regexp: '('}]",
    "headers: [{key: a, values: [x, x]}]",
    "queries: [{values: [a]}]",
    "queries: [{key: a}]",
    "queries: [{key: a, regexp: '('}]",
    "queries: [{key: a, values: [x, x]}]",
    "ipFilter: {allowIPs: [x]}",
];

/// Fields of `tracing`.
const TRACING: &[&str] = &[
    "exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: '', exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: a, sampleRate: 2, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: a, sampleRate: -1, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: a",
    "serviceName: a, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}, zipkin: {serverURL: 'http://127.0.0.1:1/', sampleRate: 1}",
    "serviceName: a, tags: {a: b}, attributes: {a: b}, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: a, headerFormat: foo, exporter: {zipkin: {endpoint: 'http://127.0.0.1:1/'}}",
    "serviceName: a, exporter: {}",
    "serviceName: a, exporter: {jaeger: {mode: foo, endpoint: 'http://a:1'}}",
    "serviceName: a, exporter: {jaeger: {mode: agent, endpoint: a}}",
    "serviceName: a, exporter: {otlp: {protocol: foo, endpoint: 'a:1'}}",
    "serviceName: a, exporter: {otlp: {protocol: http}}",
    "serviceName: a, exporter: {otlp: {protocol: http, endpoint: 'a:1', compression: br}}",
    "serviceName: a, exporter: {zipkin: {endpoint: 'foo'}}",
    "serviceName: a, zipkin: {serverURL: 'http://127.0.0.1:1/', sampleRate: 3}",
];

/// Fields of a GRPCServer.
const GRPC_SERVERS: &[&str] = &[
    "rules: [{hostRegexp: '('}]",
    "minTimeClientSendPing: x",
    "maxConnectionIdle: x",
    "maxConnectionAge: x",
    "maxConnectionAgeGrace: x",
    "keepaliveTime: x",
    "keepaliveTimeout: x",
    "maxConnections: 0",
];

/// Fields of a method of one.
const GRPC_METHODS: &[&str] = &[
    "method: a, backend: p",
    "methodPrefix: a, backend: p",
    "methodRegexp: '(', backend: p",
    "method: /a",
    "method: /a, backend: p, headers: [{key: x}]",
    "method: /a, backend: p, headers: [{values: [x]}]",
    "method: /a, backend: p, headers: [{key: x, values: [x, x]}]",
];

/// Fields of an entry of `resilience`.
const POLICIES: &[&str] = &[
    "kind: Retry, maxAttempts: 0",
    "kind: Retry, waitDuration: x",
    "kind: Retry, backOffPolicy: foo",
    "kind: Retry, randomizationFactor: 2",
    "kind: Retry, randomizationFactor: -1",
    "kind: CircuitBreaker, slidingWindowType: X",
    "kind: CircuitBreaker, failureRateThreshold: 0",
    "kind: CircuitBreaker, failureRateThreshold: 101",
    "kind: CircuitBreaker, slowCallRateThreshold: 0",
    "kind: CircuitBreaker, slowCallRateThreshold: 101",
    "kind: CircuitBreaker, slidingWindowSize: 0",
    "kind: CircuitBreaker, slowCallDurationThreshold: x",
    "kind: CircuitBreaker, waitDurationInOpenState: x",
    "kind: CircuitBreaker, maxWaitDurationInHalfOpenState: x",
    "kind: CircuitBreaker, minimumNumberOfCalls: -1",
    "kind: CircuitBreaker, permittedNumberOfCallsInHalfOpenState: -1",
];

/// Fields of the only pool of a Proxy.
const POOLS: &[&str] = &[
    "serverTags: [a, a]",
    "timeout: x",
    "failureCodes: [500, 500]",
    "loadBalance: {stickySession: {}}",
    "loadBalance: {stickySession: {mode: foo}}",
    "loadBalance: {stickySession: {mode: DurationBased, lbCookieExpire: x}}",
    "healthCheck: {interval: x}",
    "healthCheck: {timeout: x}",
    "healthCheck: {fails: 0}",
    "healthCheck: {passes: 0}",
    "healthCheck: {fails: -1}",
    "healthCheck: {port: -1}",
    "healthCheck: {port: 70000}",
    "healthCheck: {method: FOO}",
    "healthCheck: {username: a}",
    "healthCheck: {password: a}",
    "healthCheck: {match: {statusCodes: [[200]]}}",
    "healthCheck: {match: {statusCodes: [[300, 200]]}}",
    "healthCheck: {match: {statusCodes: [200]}}",
    "healthCheck: {match: {headers: [{value: a}]}}",
    "healthCheck: {match: {headers: [{name: a, type: foo}]}}",
    "healthCheck: {match: {headers: [{name: a, type: regexp, value: '('}]}}",
    "healthCheck: {match: {body: {type: foo}}}",
    "healthCheck: {match: {body: {type: regexp, value: '('}}}",
    "memoryCache: {maxEntryBytes: 1, codes: [200], methods: [GET]}",
    "memoryCache: {expiration: x, maxEntryBytes: 1, codes: [200], methods: [GET]}",
    "memoryCache: {expiration: 1s, codes: [200], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 0, codes: [200], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200, 200], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [99], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [600], methods: [GET]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: []}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: [FOO]}",
    "memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: [GET, GET]}",
    "retryPolicy: zz",
    "circuitBreakerPolicy: zz",
];

/// `filter` of a further pool.
const CANDIDATES: &[&str] = &[
    "{}",
    "{policy: general}",
    "{policy: foo, headers: {a: {exact: b}}}",
    "{policy: ipHash}",
    "{policy: ipHash, permil: 0}",
    "{policy: ipHash, permil: 1001}",
    "{policy: headerHash, permil: 10}",
    "{policy: random}",
    "{headers: {a: {}}}",
    "{headers: {a: {exact: b, empty: true}}}",
    "{headers: {a: {regex: '('}}}",
    "{headers: {a: {exact: b}}, urls: [{methods: [GET]}]}",
    "{headers: {a: {exact: b}}, urls: [{methods: [FOO], url: {exact: /}}]}",
    "{headers: {a: {exact: b}}, urls: [{url: {}}]}",
];

/// Fields of filters.
const FILTERS: &[(&str, &[&str])] = &[
    ("CORSAdaptor", &["allowedMethods: [FOO]", "allowedMethods: [GET, GET]"]),
    (
        "CertExtractor",
        &[
            "target: subject\nfield: CommonName\nheaderKey: a",
            "certIndex: 0\nfield: CommonName\nheaderKey: a",
            "certIndex: 0\ntarget: foo\nfield: CommonName\nheaderKey: a",
            "certIndex: 0\ntarget: subject\nfield: Foo\nheaderKey: a",
            "certIndex: 0\ntarget: subject\nheaderKey: a",
            "certIndex: 0\ntarget: subject\nfield: CommonName",
        ],
    ),
    ("DataBuilder", &["template: a", "dataKey: a", "dataKey: a\ntemplate: '{{'"]),
    ("Fallback", &["mockBody: a", "mockCode: 99", "mockCode: 600", "mockCode: '200'"]),
    ("FileServer", &["root: /tmp\ncompress: br"]),
    (
        "GRPCProxy",
        &[
            "pools: []",
            "pools: [{servers: [{url: 'http://a:1'}]},{servers: [{url: 'http://a:1'}]}]",
            "timeout: x\npools: [{servers: [{url: 'http://a:1'}]}]",
            "maxIdleConnsPerHost: 0\npools: [{servers: [{url: 'http://a:1'}]}]",
            "maxIdleConnsPerHost: -1\npools: [{servers: [{url: 'http://a:1'}]}]",
            "borrowTimeout: x\npools: [{servers: [{url: 'http://a:1'}]}]",
            "connectTimeout: x\npools: [{servers: [{url: 'http://a:1'}]}]",
            "pools: [{servers: [{url: 'http://a:1'}]},{servers: [{url: 'http://a:1'}], filter: {headers: {a: {exact: b}}, methods: [{}]}}]",
        ],
    ),
    (
        "HeaderLookup",
        &[
            "headerKey: b\nheaderSetters: [{etcdKey: c, headerKey: d}]",
            "etcdPrefix: a/\nheaderSetters: [{etcdKey: c, headerKey: d}]",
            "etcdPrefix: a/\nheaderKey: b\nheaderSetters: []",
            "etcdPrefix: a/\nheaderKey: b\nheaderSetters: [{headerKey: d}]",
            "etcdPrefix: a/\nheaderKey: b\nheaderSetters: [{etcdKey: c}]",
            "etcdPrefix: a/\nheaderKey: b\npathRegExp: '('\nheaderSetters: [{etcdKey: c, headerKey: d}]",
            "etcdPrefix: a/\nheaderKey: b",
        ],
    ),
    ("HeaderToJSON", &["x: 1", "headerMap: []", "headerMap: [{header: a}]", "headerMap: [{json: a}]"]),
    (
        "Kafka",
        &[
            "sync: true",
            "backend: []\ntopic: {default: a}",
            "backend: ['a:1', 'a:1']\ntopic: {default: a}",
            "backend: ['a:1']",
            "backend: ['a:1']\ntopic: {}",
        ],
    ),
    (
        "Mock",
        &[
            "x: 1",
            "rules: [{body: a}]",
            "rules: [{code: 1000}]",
            "rules: [{code: 200, match: {path: a}}]",
            "rules: [{code: 200, match: {pathPrefix: a}}]",
            "rules: [{code: 200, delay: x}]",
            "rules: [{code: 200, match: {headers: {a: {}}}}]",
        ],
    ),
    (
        "OIDCAdaptor",
        &[
            "clientSecret: b\ndiscovery: 'https://a/'\nredirectURI: /cb",
            "clientId: a\ndiscovery: 'https://a/'\nredirectURI: /cb",
            "clientId: a\nclientSecret: b\nredirectURI: /cb",
            "clientId: a\nclientSecret: b\ndiscovery: 'https://a/'",
        ],
    ),
    (
        "OPAFilter",
        &[
            "readBody: true",
            "policy: 'foo bar('",
            "defaultStatus: 9999\npolicy: |\n  package http\n  default allow = false",
        ],
    ),
    (
        "Proxy",
        &[
            "maxIdleConns: 1",
            "pools: []",
            "pools: [{servers: [{url: 'http://a:1'}]},{servers: [{url: 'http://a:1'}]}]",
            "pools: [{servers: [{url: 'http://a:1'}], filter: {headers: {a: {exact: b}}}}]",
            "pools: [{servers: [{url: 'http://a:1'}]}]\nmirrorPool: {servers: [{url: 'http://a:1'}]}",
            "pools: [{servers: [{url: 'http://a:1'}]}]\nmirrorPool: {servers: [{url: 'http://a:1'}], filter: {headers: {a: {exact: b}}}, memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: [GET]}}",
            "pools: [{servers: []}]",
            "pools: [{}]",
            "pools: [{servers: [{url: 'http://a:1', weight: 1},{url: 'http://b:1'}]}]",
            "pools: [{servers: [{url: 'http://a:1', weight: 101}]}]",
            "pools: [{servers: [{url: 'http://a:1', weight: -1}]}]",
            "pools: [{servers: [{weight: 1}]}]",
            "pools: [{servers: [{url: '::'}]}]",
            "pools: [{servers: [{url: 'nothing'}]}]",
            "pools: [{servers: [{url: 'http://'}]}]",
            "pools: [{servers: [{url: 'ftp://a'}]}]",
            "pools: [{servers: [{url: 'http://a:1', tags: [a, a]}]}]",
            "pools: [{serviceRegistry: r, serviceName: s, healthCheck: {}}]",
            "pools: [{serviceRegistry: r, serviceName: s, loadBalance: {healthCheck: {path: /}}}]",
            "pools: [{servers: [{url: 'http://a:1'}]}]\nmtls: {certBase64: aGk=}",
            "pools: [{servers: [{url: 'http://a:1'}]}]\nmtls: {certBase64: '!', keyBase64: '!', rootCertBase64: '!'}",
            "pools: [{servers: [{url: 'http://a:1'}]}]\ncompression: {minLength: -1}",
        ],
    ),
    (
        "RateLimiter",
        &[
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET], url: {}}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET], url: {empty: true, exact: a}}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET], url: {regex: '('}}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET]}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GETT], url: {exact: /}}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [get], url: {exact: /}}]",
            "policies: [{name: x}]\ndefaultPolicyRef: x\nurls: [{methods: [GET, GET], url: {exact: /}}]",
            "urls: [{url: {exact: /}}]",
            "policies: [{name: x}]",
            "policies: [{name: x}]\nurls: []",
            "policies: [{name: x}]\nurls: [{url: {exact: /}, policyRef: y}]",
            "policies: [{name: x}]\nurls: [{url: {exact: /}}]",
            "policies: [{limitForPeriod: 1}]\ndefaultPolicyRef: x\nurls: [{url: {exact: /}}]",
            "policies: [{name: x, limitForPeriod: 0}]\ndefaultPolicyRef: x\nurls: [{url: {exact: /}}]",
            "policies: [{name: x, timeoutDuration: y}]\ndefaultPolicyRef: x\nurls: [{url: {exact: /}}]",
            "policies: [{name: x, limitRefreshPeriod: y}]\ndefaultPolicyRef: x\nurls: [{url: {exact: /}}]",
        ],
    ),
    (
        "Redirector",
        &[
            "replacement: a",
            "match: a",
            "match: '('\nreplacement: a",
            "match: a\nreplacement: b\nmatchPart: foo",
            "match: a\nreplacement: b\nstatusCode: 200",
            "match: ''\nreplacement: b",
        ],
    ),
    (
        "RedirectorV2",
        &[
            "scheme: ftp",
            "port: 0",
            "port: 70000",
            "statusCode: 200",
            "path: {type: Foo}",
            "path: {type: ReplaceFullPath}",
            "path: {type: ReplacePrefixMatch}",
            "path: {}",
        ],
    ),
    ("RemoteFilter", &["timeout: 1s", "url: '::'", "url: 'http://a'\ntimeout: x"]),
    (
        "RequestAdaptor",
        &[
            "compress: br",
            "decompress: br",
            "compress: gzip\ndecompress: gzip",
            "body: a\ndecompress: gzip",
            "header: {del: [a, a]}",
            "template: '{{'",
            "method: FOO",
            "path: {addPrefix: a}",
            "path: {trimPrefix: a}",
            "path: {regexpReplace: {regexp: '(', replace: a}}",
            "path: {regexpReplace: {replace: a}}",
            "sign: {apiProvider: foo, accessKeyId: a, accessKeySecret: b}",
        ],
    ),
    (
        "RequestBuilder",
        &[
            "leftDelim: '{{'",
            "template: a\nsourceNamespace: b",
            "protocol: foo\ntemplate: a",
            "template: '{{ if }}'",
            "template: '{{ foo 1 }}'",
        ],
    ),
    (
        "ResponseAdaptor",
        &[
            "compress: br",
            "decompress: br",
            "compress: gzip\ndecompress: gzip",
            "body: a\ndecompress: gzip",
            "header: {del: [a, a]}",
            "template: '{{'",
        ],
    ),
    (
        "ResponseBuilder",
        &[
            "leftDelim: '{{'",
            "template: a\nsourceNamespace: b",
            "protocol: foo\ntemplate: a",
            "template: '{{ if }}'",
            "template: '{{ foo 1 }}'",
        ],
    ),
    ("ResultBuilder", &["template: '{{'"]),
    ("SimpleHTTPProxy", &["timeout: x", "maxIdleConns: -1", "maxIdleConnsPerHost: -1"]),
    (
        "Validator",
        &[
            "cache: 1",
            "headers: {A: {}}",
            "headers: {A: {regexp: '('}}",
            "headers: {A: {values: [a, a]}}",
            "jwt: {}",
            "jwt: {algorithm: foo, secret: aa}",
            "jwt: {algorithm: HS256}",
            "jwt: {algorithm: HS256, secret: zz}",
            "jwt: {algorithm: RS256, publicKey: zz}",
            "jwt: {algorithm: RS256}",
            "jwt: {algorithm: none, secret: aa}",
            "oauth2: {}",
            "oauth2: {tokenIntrospect: {}}",
            "oauth2: {tokenIntrospect: {clientId: a}}",
            "oauth2: {jwt: {algorithm: RS256, secret: aa}}",
            "oauth2: {jwt: {algorithm: HS256}}",
            "oauth2: {jwt: {algorithm: HS256, secret: zz}}",
            "basicAuth: {mode: FOO}",
            "basicAuth: {mode: LDAP}",
            "basicAuth: {mode: LDAP, ldap: {host: a}}",
            "basicAuth: {mode: LDAP, ldap: {host: a, port: 1, baseDN: b}}",
            "basicAuth: {mode: LDAP, ldap: {host: a, port: 0, baseDN: b, uid: c}}",
            "signature: {ttl: x, accessKeys: {a: b}}",
            "signature: {ignoredHeaders: [a, a], accessKeys: {a: b}}",
        ],
    ),
    (
        "WasmHost",
        &[
            "maxConcurrency: 0\ncode: AGFzbQEAAAA=\ntimeout: 1s",
            "maxConcurrency: 1\ntimeout: 1s",
            "code: AGFzbQEAAAA=\ntimeout: x",
        ],
    ),
    (
        "WebSocketProxy",
        &[
            "pools: []",
            "pools: [{servers: [{url: 'ws://a:1'}]},{servers: [{url: 'ws://a:1'}]}]",
            "pools: [{servers: [{url: 'ws://a:1'}], healthCheck: {ws: {port: -1}}}]",
            "pools: [{serviceRegistry: r, serviceName: s, healthCheck: {ws: {}}}]",
        ],
    ),
];
