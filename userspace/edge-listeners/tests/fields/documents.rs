//! Documents in which each field makes a difference to what is asked of them.

/// A house and what it is asked. `ONE` and `TWO` are ports of backends: they answer with their name and the request as it came, or with
/// the status that `X-Play` gives, in gzip where `X-Pack` is there.
pub struct Document {
    /// Fields of the HTTPServer, but for its port. Where there are no rules, all requests go to the pipeline.
    pub server: &'static str,
    pub pipeline: &'static str,
    /// Fields of the GlobalFilter `around`; empty = none.
    pub around: &'static str,
    /// Requests, each on a connection of its own: the first line, header lines, and after an empty line the body.
    pub asks: &'static [&'static str],
}

/// A pipeline alone.
const fn pipeline(pipeline: &'static str, asks: &'static [&'static str]) -> Document {
    Document { server: "", pipeline, around: "", asks }
}

/// A server in front of a proxy that shows what comes out of it.
const fn server(server: &'static str, asks: &'static [&'static str]) -> Document {
    Document { server, pipeline: PROXY, around: "", asks }
}

const PROXY: &str = "filters: [{name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}]";

pub const DOCUMENTS: &[Document] = &[
    server(
        "address: 127.0.0.1
clientMaxBodySize: 5
keepAlive: false
xForwardedFor: true
trustedProxies: [127.0.0.1]
underscoresInHeaders: allow
ipFilter: {blockByDefault: true, allowIPs: [127.0.0.1, 192.0.2.1], blockIPs: [192.0.2.7]}
rules: [{paths: [{pathPrefix: /, backend: app}]}]",
        &[
            "GET /",
            "GET / HTTP/1.0\nConnection: keep-alive",
            "GET /\nX_Under: 1",
            "GET /\nX-Forwarded-For: 192.0.2.1",
            "GET /\nX-Forwarded-For: 192.0.2.7",
            "GET /\nX-Forwarded-For: 192.0.2.9",
            "POST /\n\nlonger than five",
        ],
    ),
    server(
        "h2c: true
rules:
- host: a.test
  ipFilter: {blockIPs: [127.0.0.1]}
  paths: [{pathPrefix: /, backend: app}]
- hostRegexp: ^b[.]
  paths: [{path: /only, backend: app}]
- hosts: [{value: '*.c.test'}, {value: '^d[0-9]', isRegexp: true}]
  paths: [{pathPrefix: /p, backend: app}]",
        &[
            "GET /\nHost: a.test",
            "GET /only\nHost: b.test",
            "GET /p\nHost: x.c.test",
            "GET /p\nHost: d1.test",
            "PRI *",
        ],
    ),
    server(
        "rules:
- paths:
  - {pathPrefix: /wide, backend: nobody}
  - {path: /wide/one, backend: app}",
        &["GET /wide/one"],
    ),
    server(
        "ipFilter: {blockByDefault: true}",
        &["GET /"],
    ),
    server(
        "routerKind: RadixTree
rules:
- paths:
  - {pathPrefix: /wide, backend: nobody}
  - {path: /wide/one, backend: app}",
        &["GET /wide/one"],
    ),
    server(
        "rules:
- host: a.test
  paths:
  - path: /exact
    backend: app
    methods: [GET]
    clientMaxBodySize: 5
    setHeaders: {X-Set: here}
    ipFilter: {blockByDefault: true, allowIPs: [127.0.0.1]}
  - {path: /closed, backend: app, ipFilter: {blockByDefault: true}}
  - pathPrefix: /from
    rewriteTarget: /to
    backend: app
  - pathRegexp: ^/re([0-9]+)$
    backend: app
  - pathPrefix: /headers
    backend: app
    matchAllHeader: true
    headers: [{key: X-A, values: ['1']}, {key: X-B, regexp: ^2}]
  - pathPrefix: /queries
    backend: app
    matchAllQuery: true
    queries: [{key: a, values: ['1']}, {key: b, regexp: ^2}]",
        &[
            "GET /exact",
            "PUT /exact",
            "GET /exact\n\nlonger than five",
            "GET /closed",
            "GET /from/x",
            "GET /re12",
            "GET /headers",
            "GET /headers\nX-A: 1",
            "GET /headers\nX-A: 1\nX-B: 21",
            "GET /queries",
            "GET /queries?a=1",
            "GET /queries?b=21",
            "GET /queries?a=1&b=21",
        ],
    ),
    Document {
        server: "globalFilter: around\nrules: [{paths: [{pathPrefix: /, backend: app}]}]",
        around: "beforePipeline:
  filters:
  - {name: opens, kind: RequestAdaptor, path: {regexpReplace: {regexp: ^/closed, replace: /open}}}
  - {name: early, kind: Mock, rules: [{match: {pathPrefix: /early}, code: 202, body: early}]}
afterPipeline: {filters: [{name: late, kind: ResponseAdaptor, header: {set: {X-Late: here}}}]}
fallthrough: {beforePipeline: true, pipeline: true}",
        pipeline: "flow: [{filter: v, jumpIf: {invalid: END}}, {filter: m}]
filters:
- {name: v, kind: Validator, headers: {X-Ok: {values: ['yes']}}}
- {name: m, kind: Mock, rules: [{match: {path: /open}, code: 201}, {code: 200, body: app}]}",
        asks: &["GET /closed\nX-Ok: yes", "GET /early\nX-Ok: yes", "GET /late\nX-Ok: yes", "GET /late"],
    },
    // Flows.
    pipeline(
        "data: {greeting: hello}
flow:
- {filter: choose, jumpIf: {result1: again}}
- {filter: first}
- {filter: END}
- {filter: first, alias: again, namespace: other, jumpIf: {mocked: last}}
- {filter: last}
filters:
- {name: choose, kind: ResultBuilder, template: '[[ if eq (.req.Header.Get \"X-Way\") \"b\" ]]result1[[ end ]]', leftDelim: '[[', rightDelim: ']]'}
- {name: first, kind: Mock, rules: [{code: 201, body: first}]}
- {name: last, kind: ResponseBuilder, template: \"statusCode: 200\\nbody: '[[ .data.PIPELINE.greeting ]] [[ .responses.other.Body ]]'\", leftDelim: '[[', rightDelim: ']]'}",
        &["GET /", "GET /\nX-Way: b"],
    ),
    pipeline(
        "flow: [{filter: a, namespace: other}, {filter: copy}, {filter: p}, {filter: back}]
filters:
- {name: a, kind: RequestBuilder, template: \"method: PUT\\nurl: /built\\nbody: made\"}
- {name: copy, kind: RequestBuilder, sourceNamespace: other}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}
- {name: back, kind: ResponseBuilder, sourceNamespace: DEFAULT}",
        &["GET /x"],
    ),
    pipeline(
        "flow: [{filter: r}, {filter: p}]
filters:
- {name: r, kind: RequestBuilder, leftDelim: '[[', rightDelim: ']]', template: \"method: PUT\\nurl: '/built[[ .req.URL.Path ]]'\"}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &["GET /x"],
    ),
    pipeline(
        "flow: [{filter: d}, {filter: m, namespace: other, jumpIf: {mocked: c}}, {filter: c}, {filter: r}]
filters:
- {name: d, kind: DataBuilder, dataKey: made, leftDelim: '[[', rightDelim: ']]', template: 'path: \"[[ .req.URL.Path ]]\"'}
- {name: m, kind: Mock, rules: [{code: 203, body: found}]}
- {name: c, kind: ResponseBuilder, sourceNamespace: other}
- {name: r, kind: ResponseAdaptor, template: 'header: {set: {X-Data: \"{{ .data.made.path }}\"}}'}",
        &["GET /x"],
    ),
    // Answers.
    pipeline(
        "filters:
- name: m
  kind: Mock
  rules:
  - match: {path: /exact}
    code: 201
    body: exact
    headers: {X-Mock: one}
  - match: {pathPrefix: /pre, headers: {X-A: {exact: a}, X-B: {prefix: b}}, matchAllHeaders: true}
    code: 202
  - match: {pathPrefix: /re, headers: {X-A: {regex: ^a+$}}}
    code: 203
  - match: {pathPrefix: /em, headers: {X-A: {empty: true}}}
    code: 206
  - code: 299",
        &[
            "GET /exact",
            "GET /pre",
            "GET /pre\nX-A: a",
            "GET /pre\nX-B: bb",
            "GET /pre\nX-A: a\nX-B: bb",
            "GET /re\nX-A: aa",
            "GET /re\nX-A: b",
            "GET /em",
            "GET /em\nX-A: a",
        ],
    ),
    pipeline(
        "flow: [{filter: p, jumpIf: {failureCode: f}}, {filter: END}, {filter: f}]
filters:
- {name: p, kind: Proxy, pools: [{failureCodes: [503], servers: [{url: 'http://127.0.0.1:ONE'}]}]}
- {name: f, kind: Fallback, mockCode: 299, mockHeaders: {X-Mock: fallback}, mockBody: instead}",
        &["GET /", "GET /\nX-Play: 503", "GET /\nX-Play: 500"],
    ),
    pipeline(
        "flow: [{filter: c, jumpIf: {preflighted: END, rejected: END}}, {filter: p}]
filters:
- name: c
  kind: CORSAdaptor
  allowedOrigins: ['http://a.test']
  allowedMethods: [GET, PUT]
  allowedHeaders: [X-Mine]
  allowCredentials: true
  exposedHeaders: [X-Seen]
  maxAge: 60
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &[
            "GET /\nOrigin: http://a.test",
            "GET /\nOrigin: http://b.test",
            "OPTIONS /\nOrigin: http://a.test\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: X-Mine",
            "OPTIONS /\nOrigin: http://a.test\nAccess-Control-Request-Method: GET\nAccess-Control-Request-Headers: X-Mine",
            "OPTIONS /\nOrigin: http://a.test\nAccess-Control-Request-Method: GET",
        ],
    ),
    pipeline(
        "filters:
- {name: c, kind: CORSAdaptor, allowedMethods: [GET, PUT], full: true}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &["OPTIONS /\nOrigin: http://a.test\nAccess-Control-Request-Method: PUT"],
    ),
    // Other places.
    pipeline(
        "flow: [{filter: r}]
filters: [{name: unused, kind: Redirector, match: x, matchPart: path, replacement: y}, {name: r, kind: Redirector, match: '^http:.*/x/(.*)$', matchPart: full, replacement: 'http://b.test/y/$1', statusCode: 303}]",
        &["GET /x/1"],
    ),
    pipeline(
        "flow: [{filter: r}]
filters: [{name: unused, kind: RedirectorV2, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}, {name: r, kind: RedirectorV2, scheme: https, hostname: b.test, port: 8443, statusCode: 307, path: {type: ReplaceFullPath, replaceFullPath: /full}}]",
        &["GET /x/1"],
    ),
    pipeline("filters: [{name: r, kind: RedirectorV2, scheme: http, always: true}]", &["GET /\nHost: a.test"]),
    Document {
        server: "rules: [{paths: [{pathPrefix: /x, backend: app}]}]",
        pipeline: "filters: [{name: r, kind: RedirectorV2, path: {type: ReplacePrefixMatch, replacePrefixMatch: /pre}}]",
        around: "",
        asks: &["GET /x/1"],
    },
    // Changes of requests and responses.
    pipeline(
        "filters:
- name: r
  kind: RequestAdaptor
  method: PUT
  host: b.test
  body: mine
  path: {replace: /whole}
  header: {set: {X-Set: s}, add: {X-Add: a}, del: [X-Del]}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &["GET /x\nX-Del: d\nX-Set: mine\nX-Add: mine"],
    ),
    pipeline(
        "filters:
- {name: a, kind: RequestAdaptor, path: {addPrefix: /pre}}
- {name: b, kind: RequestAdaptor, path: {regexpReplace: {regexp: 'x+', replace: y}}}
- {name: c, kind: RequestAdaptor, path: {trimPrefix: /pre}}
- {name: d, kind: RequestAdaptor, template: \"header: {set: {X-Path: '[[ .req.URL.Path ]]'}}\", leftDelim: '[[', rightDelim: ']]'}
- {name: e, kind: RequestAdaptor, compress: gzip}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &["POST /xx\n\nbody"],
    ),
    pipeline(
        "filters:
- {name: a, kind: RequestAdaptor, compress: gzip}
- {name: b, kind: RequestAdaptor, decompress: gzip}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}
- {name: c, kind: ResponseAdaptor, decompress: gzip}",
        &["POST /xx\nX-Pack: yes\nAccept-Encoding: gzip\n\nbody"],
    ),
    pipeline(
        "filters:
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}
- {name: a, kind: ResponseAdaptor, body: mine, header: {set: {X-Set: s}, add: {X-From: a}, del: [X-Gone]}}
- {name: b, kind: ResponseAdaptor, template: \"header: {set: {X-Path: '[[ .req.URL.Path ]]'}}\", leftDelim: '[[', rightDelim: ']]'}
- {name: c, kind: ResponseAdaptor, compress: gzip}",
        &["GET /xx\nAccept-Encoding: gzip"],
    ),
    pipeline(
        "filters:
- {name: h, kind: HeaderToJSON, headerMap: [{header: X-User, json: user}]}
- {name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]}",
        &["POST /\nX-User: me\nContent-Type: application/json\n\n{\"a\":1}"],
    ),
    // Refusals.
    pipeline(
        "filters:
- name: v
  kind: Validator
  headers: {X-A: {values: [one]}, X-B: {regexp: ^two}}
- {name: m, kind: Mock, rules: [{code: 200}]}",
        &["GET /", "GET /\nX-A: one\nX-B: two", "GET /\nX-A: one", "GET /\nX-B: two", "GET /\nX-A: x\nX-B: two", "GET /\nX-A: one\nX-B: x"],
    ),
    pipeline(
        "flow: [{filter: v}, {filter: m}]
filters:
- {name: v, kind: Validator, jwt: {algorithm: HS256, secret: '6b6579', cookieName: session}}
- {name: unused, kind: Validator, jwt: {algorithm: HS384, secret: '616263'}}
- {name: m, kind: Mock, rules: [{code: 200}]}",
        &["GET /", "GET /\nCookie: session=TOKEN", "GET /\nAuthorization: Bearer TOKEN"],
    ),
    pipeline(
        "flow: [{filter: v}, {filter: m}]
filters:
- {name: unused, kind: Validator, oauth2: {jwt: {algorithm: HS384, secret: '616263'}}}
- {name: v, kind: Validator, headers: {X-A: {values: [one]}}, oauth2: {jwt: {algorithm: HS256, secret: '6b6579'}}}
- {name: m, kind: Mock, rules: [{code: 200}]}",
        &["GET /\nX-A: one", "GET /\nX-A: one\nAuthorization: Bearer TOKEN"],
    ),
    pipeline(
        "flow: [{filter: l}, {filter: m}]
filters:
- name: l
  kind: RateLimiter
  policies:
  - {name: one, limitForPeriod: 1, limitRefreshPeriod: 1h, timeoutDuration: 0ms}
  - {name: two, limitForPeriod: 2, limitRefreshPeriod: 1h, timeoutDuration: 0ms}
  defaultPolicyRef: one
  urls:
  - {methods: [GET], url: {exact: /a}}
  - {url: {prefix: /b}, policyRef: two}
  - {url: {regex: ^/c+$}}
- {name: unused, kind: RateLimiter, policies: [{name: two}], defaultPolicyRef: two, urls: [{url: {exact: /}}]}
- {name: m, kind: Mock, rules: [{code: 200}]}",
        &[
            "GET /a", "GET /a", "PUT /a", "PUT /a", "GET /b", "GET /b", "GET /b", "GET /b", "GET /cc", "GET /cc", "GET /d", "GET /d",
        ],
    ),
    // Backends.
    pipeline(
        "filters:
- name: p
  kind: Proxy
  pools:
  - filter:
      policy: general
      matchAllHeaders: true
      headers: {X-A: {exact: a}, X-B: {empty: true}}
      urls: [{methods: [GET], url: {prefix: /two}}]
    servers: [{url: 'http://127.0.0.1:TWO'}]
    setUpstreamHost: true
    serverMaxBodySize: 10
  - setUpstreamHost: true
    servers: [{url: 'http://127.0.0.1:ONE', keepHost: true}]",
        &["GET /two", "GET /two\nX-A: a", "GET /two\nX-A: a\nX-B: b", "PUT /two\nX-A: a", "GET /one\nX-A: a"],
    ),
    pipeline(
        "filters:
- name: p
  kind: Proxy
  compression: {minLength: 15}
  pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]",
        &["GET /one\nAccept-Encoding: gzip"],
    ),
    pipeline(
        "filters:
- name: p
  kind: Proxy
  serverMaxBodySize: 10
  pools: [{servers: [{url: 'http://127.0.0.1:ONE'}]}]",
        &["GET /one"],
    ),
    pipeline(
        "filters:
- name: p
  kind: Proxy
  pools:
  - serverTags: [blue]
    servers: [{url: 'http://127.0.0.1:ONE', tags: [green]}, {url: 'http://127.0.0.1:TWO', tags: [blue]}]",
        &["GET /", "GET /"],
    ),
    pipeline(
        "filters:
- name: p
  kind: Proxy
  pools:
  - filter: {policy: headerHash, headerHashKey: X-User, permil: 500}
    loadBalance: {policy: headerHash, headerHashKey: X-Key}
    servers: [{url: 'http://127.0.0.1:ONE'}, {url: 'http://127.0.0.1:TWO'}]
  - filter: {policy: ipHash, permil: 1}
    servers: [{url: 'http://127.0.0.1:TWO'}]
  - loadBalance: {policy: ipHash}
    servers: [{url: 'http://127.0.0.1:TWO'}]",
        &[
            "GET /\nX-User: alice\nX-Key: 0",
            "GET /\nX-User: robert\nX-Key: 7",
            "GET /\nX-User: carol-anne\nX-Key: 1",
            "GET /\nX-User: d\nX-Key: 8",
            "GET /\nX-User: eve.example\nX-Key: 2",
            "GET /\nX-User: frankenstein\nX-Key: 9",
            "GET /\nX-User: grace\nX-Key: 3",
            "GET /\nX-User: heidi\nX-Key: 10",
            "GET /\nX-User: ivan the last\nX-Key: 4",
            "GET /\nX-User: judy\nX-Key: 11",
            "GET /\nX-User: kim\nX-Key: 5",
            "GET /\nX-User: leonard\nX-Key: 12",
        ],
    ),
    pipeline(
        "resilience:
- {name: again, kind: Retry, maxAttempts: 2, waitDuration: 1ms}
- {name: breaker, kind: CircuitBreaker, slidingWindowType: COUNT_BASED, slidingWindowSize: 2, minimumNumberOfCalls: 2, failureRateThreshold: 50, waitDurationInOpenState: 1h}
filters:
- name: p
  kind: Proxy
  pools:
  - servers: [{url: 'http://127.0.0.1:ONE'}]
    retryPolicy: again
    failureCodes: [503]
  - filter: {headers: {X-Breaks: {exact: 'yes'}}}
    servers: [{url: 'http://127.0.0.1:ONE'}]
    circuitBreakerPolicy: breaker",
        &["GET /\nX-Play: 503", "GET /\nX-Breaks: yes\nX-Play: 503", "GET /\nX-Breaks: yes\nX-Play: 503", "GET /\nX-Breaks: yes"],
    ),
    pipeline(
        "filters: [{name: p, kind: Proxy, pools: [{http2: true, servers: [{url: 'http://127.0.0.1:ONE'}]}]}]",
        &["GET /"],
    ),
    pipeline(
        "filters: [{name: p, kind: Proxy, pools: [{servers: [{url: 'http://127.0.0.1:ONE', http2: true}]}]}]",
        &["GET /"],
    ),
    pipeline(
        "flow: [{filter: w}]
filters:
- {name: unused, kind: WebSocketProxy, pools: [{loadBalance: {policy: ipHash}, servers: [{url: 'ws://127.0.0.1:ONE'}]}]}
- name: w
  kind: WebSocketProxy
  defaultOrigin: http://c.test
  pools:
  - filter: {headers: {X-Two: {exact: 'yes'}}}
    serverTags: [blue]
    setUpstreamHost: true
    originPatterns: ['*.b.test']
    servers: [{url: 'ws://127.0.0.1:ONE', tags: [green]}, {url: 'ws://127.0.0.1:TWO', tags: [blue]}]
  - servers: [{url: 'ws://127.0.0.1:ONE'}, {url: 'ws://127.0.0.1:TWO'}]
    loadBalance: {policy: headerHash, headerHashKey: X-Key}
    insecureSkipVerify: true",
        &[
            "GET /w\nOPEN\nX-Two: yes",
            "GET /w\nOPEN\nX-Two: yes\nOrigin: http://x.b.test",
            "GET /w\nOPEN\nX-Two: yes\nOrigin: http://other.test",
            "GET /w\nOPEN\nX-Key: alice\nOrigin: http://other.test",
            "GET /w\nOPEN\nX-Key: robert\nOrigin: http://other.test",
            "GET /w\nOPEN\nX-Key: carol\nOrigin: http://other.test",
        ],
    ),
];
