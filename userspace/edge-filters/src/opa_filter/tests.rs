use super::*;
use crate::testing::*;

/// Status of the answer, 0 where the policy lets the request pass.
fn decide(spec: &str, exchange: &mut Exchange) -> u16 {
    let outcome = run(&*filter(&KIND, spec), exchange);
    assert_eq!(outcome, if status_of(exchange) == 0 { SUCCESS } else { DENIED });
    status_of(exchange)
}

fn policy(rules: &str) -> String {
    let text: String = rules.lines().map(|line| format!("  {line}\n")).collect();
    format!("policy: |\n  package http\n{text}")
}

/// What an expression comes to, for a request without anything.
pub(super) fn comes_to(expression: &str) -> Option<String> {
    comes_to_of(expression, "")
}

/// As [`comes_to`]; the text is `input.text`.
fn comes_to_of(expression: &str, text: &str) -> Option<String> {
    let mut found = request("GET", "/", &[]);
    let rules = format!("allow = json.marshal(x) {{ x := {expression} }}");
    let made = engine(&format!("package http\n{rules}"), Duration::from_secs(1));
    let Made { mut engine, .. } = made.unwrap_or_else(|why| panic!("{expression}: {why}"));
    engine.set_input(Value::from(serde_json::json!({ "text": text })));
    found.tags.enabled = true;
    let value = engine.eval_rule(RULE.to_owned()).unwrap_or_else(|error| panic!("{expression}: {error}"));
    value.as_string().ok().map(|text| text.to_string())
}

#[test]
fn what_a_policy_says_is_done() {
    let by_path = policy("default allow = false\nallow { input.request.path_parts[0] == \"ok\" }");
    for (target, status) in [("/ok/1", 0), ("/ok", 0), ("/no", 403), ("/", 403), ("/x/ok", 403)] {
        assert_eq!(decide(&by_path, &mut request("GET", target, &[])), status, "{target}");
    }
    let other = format!("{by_path}defaultStatus: 451\n");
    assert_eq!(decide(&other, &mut request("GET", "/no", &[])), 451);
    assert_eq!(decide(&format!("{by_path}defaultStatus: 0\n"), &mut request("GET", "/no", &[])), 403);
}

#[test]
fn what_is_neither_true_nor_false_lets_nobody_pass() {
    for rules in [
        "allow = 1",
        "allow = \"true\"",
        "allow { input.request.method == \"POST\" }",
        "default allow = true\nallow = {\"status_code\": 403} { true }",
        "allow = true { true }\nallow = false { true }",
        "deny = true",
    ] {
        let mut exchange = request("GET", "/", &[]);
        assert_eq!(decide(&policy(rules), &mut exchange), 403, "{rules}");
        assert_eq!(response_header(&exchange, "x-eg-opa-error"), Some("true"), "{rules}");
        assert!(!body_of(&exchange).is_empty(), "{rules}");
    }
    // An ordinary no is no error.
    let mut exchange = request("GET", "/", &[]);
    assert_eq!(decide(&policy("allow = false"), &mut exchange), 403);
    assert_eq!(response_header(&exchange, "x-eg-opa-error"), None);
    let elsewhere = "policy: |\n  package http.authz\n  allow = true\n";
    assert_eq!(decide(elsewhere, &mut request("GET", "/", &[])), 403);
    let warnings = KIND.checked(&yaml(elsewhere), "").unwrap();
    assert_eq!(warnings.len(), 1, "another package is warned about");
}

#[test]
fn the_policy_sees_what_it_may() {
    let shows = |spec: &str, expression: &str, exchange: &mut Exchange| {
        let rules = format!("default allow = false\nallow {{ {expression} }}");
        decide(&format!("{}{spec}", policy(&rules)), exchange) == 0
    };
    let ask = || request("PUT", "/a/b%20c?x=1&x=2&y=%41+b&%zz", &[("x-k", "one"), ("X-K", "two"), ("X-Other", "z")]);
    for expression in [
        "input.request.method == \"PUT\"",
        "input.request.path == \"/a/b c\"",
        "input.request.path_parts == [\"a\", \"b c\"]",
        "input.request.raw_query == \"x=1&x=2&y=%41+b&%zz\"",
        "input.request.query == {\"x\": [\"1\", \"2\"], \"y\": [\"A b\"]}",
        "input.request.headers == {}",
        "input.request.scheme == \"http\"",
        "input.request.realIP == \"unknown\"",
        "input.request.body == \"\"",
    ] {
        assert!(shows("", expression, &mut ask()), "{expression}");
    }
    let included = "includedHeaders: \"x-k , Nothing\"\n";
    assert!(shows(included, "input.request.headers == {\"X-K\": \"one, two\"}", &mut ask()));
    let text = "input.request.body == \"hello\"";
    assert!(!shows("", text, &mut request_with("POST", "/", &[], b"hello")));
    assert!(shows("readBody: true\n", text, &mut request_with("POST", "/", &[], b"hello")));
    let mut streamed = request("POST", "/", &[]);
    streamed.space().request_body = Body::Stream(Box::new(Pieces(vec![b"hel", b"lo"])));
    assert!(shows("readBody: true\n", text, &mut streamed));
    assert_eq!(request_body_of(&streamed), b"hello", "it is still there");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    for (text, place) in [
        ("package http\nallow {\n  input.x ==\n}\n", "line "),
        ("package http\nallow { nothing(1) }\n", "nothing"),
        ("package http\nallow { http.send({\"url\": \"http://a\"}) }\n", "http.send"),
        // Nobody comes to it before somebody sends this.
        ("package http\nallow { input.request.body == \"x\"; http.send({\"url\": \"http://a\"}) }\n", "ForwardAuth"),
        ("allow = true\n", "line 1"),
        ("", ""),
    ] {
        let fields = json!({"policy": text});
        let problems = KIND.checked(&fields, "filters[0]").expect_err(text);
        let told = base_model::problem::render(&problems);
        assert!(problems[0].path == "filters[0].policy" && told.contains(place), "{text}: {told}");
    }
    refuses(&KIND, &format!("{}defaultStatus: 100\n", policy("allow = true")), &["defaultStatus"]);
    refuses(&KIND, &format!("{}includedHeaders: 'a b:c'\n", policy("allow = true")), &["includedHeaders"]);
    refuses(&KIND, &format!("{}timeout: 1m\n", policy("allow = true")), &["timeout"]);
    for (rules, note) in
        [("import rego.v1\nallow if { true }", "v1"), ("import future.keywords\nallow if 1 in [1]", "in")]
    {
        assert_eq!(decide(&policy(rules), &mut request("GET", "/", &[])), 0, "{note}");
    }
}

#[test]
fn a_policy_that_takes_too_long_is_stopped() {
    let rules = "allow { x := numbers.range(1, 60000); y := numbers.range(1, 60000); x[i] + y[j] == -1 }";
    let telemetry = telemetry();
    let filter = filter_with(&KIND, &format!("{}timeout: 1ms\n", policy(rules)), &telemetry);
    let mut exchange = request("GET", "/", &[]);
    assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (DENIED, 403));
    assert_eq!(response_header(&exchange, "x-eg-opa-error"), Some("true"));
    let totals = telemetry.limits().totals();
    assert!(totals.contains(&("opa_timeouts", 1)) && totals.contains(&("opa_errors", 1)));
    // The next one is decided afresh.
    assert_eq!(
        (run(&*filter, &mut exchange), telemetry.limits().totals()),
        (DENIED, {
            let mut more = totals;
            more.iter_mut()
                .filter(|(name, _)| ["opa_timeouts", "opa_errors"].contains(name))
                .for_each(|(_, hits)| *hits += 1);
            more
        })
    );
}

/// One that doubled a text line by line, or put one in the place of each letter of another, ended the process.
#[test]
fn what_a_policy_makes_of_texts_is_bounded() {
    let line = |of: &str| format!("a0 := input.request.headers[\"X-Long\"]; {of}; count(a30) > 0");
    let each = |call: &str| {
        let lines = (1..=30).map(|n| format!("a{n} := {}", call.replace('X', &format!("a{}", n - 1))));
        line(&lines.collect::<Vec<_>>().join("; "))
    };
    let one = |call: &str| line(&format!("a30 := {call}"));
    let twice = |call: &str, last: usize| -> String {
        (1..=last).map(|n| format!("a{n} := {}; ", call.replace('X', &format!("a{}", n - 1)))).collect()
    };
    let long = "a".repeat(200_000);
    let input = || input(&json!({"headers": {"X-Long": long.as_str()}}));
    for rule in [
        each("concat(\"\", [X, X])"),
        each("replace(X, \"aa\", \"aaaa\")"),
        each("regex.replace(X, \"a{100}\", \"$0$0\")"),
        each("sprintf(\"%s%s\", [X, X])"),
        each("hex.encode(X)"),
        each("base64.encode(X)"),
        each("glob.quote_meta(concat(\"*\", [X, X]))"),
        each("json.marshal([X, X])"),
        each("urlquery.encode(concat(\"%\", [X, X]))"),
        format!("input.request.headers[_]; a0 := [1, 2]; {}count(a30) > 0", twice("array.concat(X, X)", 30)),
        // Each names the one before it twice, which takes no room until it is written.
        format!("input.request.headers[_]; a0 := \"a\"; {}json.marshal(a40) != \"\"", twice("[X, X]", 40)),
        one("replace(a0, \"a\", a0)"),
        one("replace(a0, \"\", a0)"),
        one("regex.replace(a0, \"a\", a0)"),
        one("concat(a0, split(a0, \"\"))"),
        one("split(concat(\"\", [a0, a0, a0, a0]), \"\")"),
        one("json.marshal_with_options(split(substring(a0, 0, 9999), \"\"), {\"prefix\": a0})"),
    ] {
        // The clock is not what stops it.
        let made = engine(&format!("package http\nallow {{ {rule} }}"), Duration::from_secs(3600));
        let Made { mut engine, .. } = made.unwrap_or_else(|why| panic!("{rule}: {why}"));
        engine.set_input(input());
        grown::begin();
        let found = engine.eval_rule(RULE.to_owned());
        assert!(found.is_err() && grown::is_spent(), "{rule:.200}: {found:?}");
        // The next one has its own.
        engine.set_input(Value::Undefined);
        grown::begin();
        assert!(engine.eval_rule(RULE.to_owned()).is_ok());
    }
    // Who may not write so much is not let pass for it, be it what would keep others out.
    let rule = one("concat(a0, split(a0, \"\"))");
    for rules in [format!("allow {{ {rule} }}"), format!("deny {{ {rule} }}\nallow {{ not deny }}")] {
        let telemetry = telemetry();
        let spec = format!("{}includedHeaders: X-Long\ntimeout: 1s\n", policy(&rules));
        let filter = filter_with(&KIND, &spec, &telemetry);
        let mut exchange = request("GET", "/", &[("X-Long", &long)]);
        assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (DENIED, 403));
        let totals = telemetry.limits().totals();
        assert!(totals.contains(&("opa_texts", 1)) && totals.contains(&("opa_errors", 1)), "{rules:.200}");
    }
    // One such number from a client took gigabytes, and let it pass.
    assert_eq!(comes_to("bits.lsh(1, 4000000000)"), None);
    assert_eq!(comes_to("bits.lsh(1, 40)").as_deref(), Some("1099511627776"));
    // So did a long list of numbers in a body, and one in which each value lies deep.
    let many = |number: &str, count: usize| format!("product({:?}) != 0", vec![number; count]).replace('"', "");
    assert_eq!(comes_to(&many("9223372036854775807", 66)), None);
    assert_eq!(comes_to(&many("9223372036854775807", 60)).as_deref(), Some("true"));
    assert_eq!(comes_to("product([-2, -2, 0.5])").as_deref(), Some("2"));
    let walked = |body: &str| {
        let rules =
            "allow { walk(json.unmarshal(input.request.body), [path, value]); value == \"it\"; count(path) == 2 }";
        let Made { mut engine, .. } = engine(&format!("package http\n{rules}"), Duration::from_secs(3600)).unwrap();
        engine.set_input(self::input(&json!({"body": body})));
        grown::begin();
        engine.eval_rule(RULE.to_owned()).map_err(|_| grown::is_spent())
    };
    assert_eq!(walked(r#"{"a": ["x", "it"]}"#), Ok(Value::from(true)));
    assert_eq!(walked(r#"{"a": "it"}"#), Ok(Value::Undefined));
    let deep = format!("{}{}{}", "[".repeat(100), vec!["1"; 100_000].join(","), "]".repeat(100));
    assert_eq!(walked(&deep), Err(true));
    let refused = engine("package http\nallow { graph.reachable_paths({}, []) == [] }", TIMEOUT).err().unwrap();
    assert!(refused.contains("use graph.reachable"), "{refused}");
    assert_eq!(comes_to(r#"sprintf("%%20260101%d", [1])"#).as_deref(), Some(r#""%202601011""#));
    for format in ["%9999999999d", "%.99999f", "%²d"] {
        assert_eq!(comes_to(&format!("sprintf({format:?}, [1])")), None, "{format}");
    }
    assert_eq!(comes_to(r#"sprintf("%5d|%s|%03d", [1, ["a"], 2])"#).as_deref(), Some(r#""    1|[\"a\"]|002""#));
}

#[test]
fn functions_that_are_added() {
    for (expression, value) in [
        (r#"glob.match("*.shop.test", [], "a.shop.test")"#, Some("true")),
        (r#"glob.match("*.shop.test", [], "a.b.shop.test")"#, Some("false")),
        (r#"glob.match("**.shop.test", [], "a.b.shop.test")"#, Some("true")),
        (r#"glob.match("*", null, "a.b/c")"#, Some("true")),
        (r#"glob.match("/api/*/x", ["/"], "/api/v1/x")"#, Some("true")),
        (r#"glob.match("/api/*/x", ["/"], "/api/v1/v2/x")"#, Some("false")),
        (r#"glob.match("{cat,d?g}[0-9][!0-9]", [], "dog1x")"#, Some("true")),
        (r#"glob.match("a(b", [], "a(b")"#, Some("true")),
        (r#"glob.match("[", [], "[")"#, None),
        (r#"glob.quote_meta("*.{x}")"#, Some(r#""\\*.\\{x\\}""#)),
        (r#"net.cidr_contains("10.0.0.0/8", "10.2.3.4")"#, Some("true")),
        (r#"net.cidr_contains("10.0.0.0/8", "11.2.3.4")"#, Some("false")),
        (r#"net.cidr_contains("10.0.0.0/8", "10.1.0.0/16")"#, Some("true")),
        (r#"net.cidr_contains("10.0.0.0/8", "::1")"#, Some("false")),
        (r#"net.cidr_contains("10.0.0.0", "10.0.0.0")"#, None),
        (r#"net.cidr_contains("0.0.0.0/0", "x")"#, None),
        (r#"net.cidr_contains("::/0", "2001:db8::1")"#, Some("true")),
        (r#"net.cidr_is_valid("10.0.0.0/33")"#, Some("false")),
        (r#"net.cidr_intersects("192.168.0.0/16", "192.168.1.0/24")"#, Some("true")),
        (r#"net.cidr_intersects("192.168.0.0/24", "192.168.1.0/24")"#, Some("false")),
        (r#"net.cidr_contains_matches({"a": "10.0.0.0/8", "b": "11.0.0.0/8"}, ["10.1.2.3"])"#, Some(r#"[["a",0]]"#)),
        (r#"net.cidr_merge(["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16"])"#, Some(r#"["10.0.0.0/8"]"#)),
        (r#"net.cidr_merge(["10.0.1.0/24", "10.0.2.0/24"])"#, Some(r#"["10.0.1.0/24","10.0.2.0/24"]"#)),
        (r#"count(net.cidr_expand("10.0.0.0/24"))"#, Some("256")),
        (r#"net.cidr_expand("10.0.0.0/8")"#, None),
        (r#"numbers.range(3, 1)"#, Some("[3,2,1]")),
        (r#"numbers.range(1, 1000000000000)"#, None),
        (r#"numbers.range_step(1, 6, 2)"#, Some("[1,3,5]")),
        (r#"crypto.sha256("abc")"#, Some(r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#)),
        (r#"crypto.md5("abc")"#, Some(r#""900150983cd24fb0d6963f7d28e17f72""#)),
        (r#"crypto.sha1("abc")"#, Some(r#""a9993e364706816aba3e25717850c26c9cd0d89d""#)),
        // RFC 4231, test case 2.
        (
            r#"crypto.hmac.sha256("what do ya want for nothing?", "Jefe")"#,
            Some(r#""5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843""#),
        ),
        (r#"crypto.hmac.equal("a", "a")"#, Some("true")),
        (r#"time.parse_rfc3339_ns("1970-01-02T01:00:00.5+01:00")"#, Some("86400500000000")),
        (r#"time.parse_rfc3339_ns("1970-01-02")"#, None),
        (r#"time.parse_duration_ns("1m30s")"#, Some("90000000000")),
        (r#"time.date(1709210096000000000)"#, Some("[2024,2,29]")),
        (r#"time.clock(1709210096000000000)"#, Some("[12,34,56]")),
        (r#"time.weekday([1709210096000000000, "UTC"])"#, Some(r#""Thursday""#)),
        (r#"time.now_ns() > 1700000000000000000"#, Some("true")),
    ] {
        assert_eq!(comes_to(expression).as_deref(), value, "{expression}");
    }
}

#[test]
fn nobody_writes_numbers_that_no_machine_has_room_for() {
    for digits in ["1e999999999".to_owned(), "1".repeat(1_000_000)] {
        let bomb = format!(r#"{{"$serde_json::private::Number": "{digits}"}}"#);
        for text in [bomb.clone(), format!(r#"[{{"a": {bomb}}}]"#)] {
            for call in ["json.unmarshal(input.text)", "to_number(input.text)"] {
                assert_eq!(comes_to_of(call, &text), None, "{call} {text:.60}");
            }
            assert_eq!(comes_to_of("json.is_valid(input.text)", &text).as_deref(), Some("true"));
        }
    }
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = r#"{"sub": {"$serde_json::private::Number": "1e999999999"}}"#;
    let token = format!("{}.{}.AAAA", base64.encode(r#"{"alg":"HS256"}"#), base64.encode(claims));
    assert_eq!(comes_to(&format!("io.jwt.decode(\"{token}\")")), None);
    for (call, want) in [
        (r#"json.unmarshal("{\"a\": [1, 2.5, null, \"b\"]}").a"#, Some(r#"[1,2.5,null,"b"]"#)),
        (r#"json.unmarshal("{")"#, None),
        (r#"json.is_valid("{")"#, Some("false")),
        (r#"to_number("12") + to_number("1.5e1") + to_number(true) + to_number(null) + to_number(2)"#, Some("30")),
        (r#"to_number("1e999999999")"#, None),
        (r#"to_number("a")"#, None),
        (r#"to_number("[1]")"#, None),
    ] {
        assert_eq!(comes_to(call).as_deref(), want, "{call}");
    }
}

#[test]
fn keys_in_one_line_and_what_comes_of_a_call_behind_it() {
    let keys = format!("keys := `{{\"keys\": [{}]}}`", "1,".repeat(50_000) + "1");
    assert_eq!(
        decide(&policy(&format!("{}\n  allow {{ count(keys) > 100000 }}", keys)), &mut request("GET", "/", &[])),
        0
    );
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.AAAA";
    let rules = format!("allow {{ io.jwt.decode(\"{token}\", [_, claims, _]); claims.sub == \"ann\" }}");
    assert_eq!(decide(&policy(&rules), &mut request("GET", "/", &[])), 0);
    // The engine's own panics here.
    assert_eq!(comes_to(r#"strings.count("ab", "")"#).as_deref(), Some("3"));
}

#[test]
fn time_passes_between_decisions_and_zones_are_those_of_the_world() {
    let Made { mut engine, .. } = engine("package http\nallow = time.now_ns()", Duration::from_secs(1)).unwrap();
    let mut now = || engine.eval_rule(RULE.to_owned()).unwrap().as_i64().unwrap();
    let first = now();
    std::thread::sleep(Duration::from_millis(2));
    assert!(now() > first);
    for (expression, value) in [
        (r#"time.clock([1709210096000000000, "Europe/Berlin"])"#, Some("[13,34,56]")),
        (r#"time.clock([1720000000000000000, "America/New_York"])"#, Some("[5,46,40]")),
        (r#"time.clock([1720000000000000000, "Nowhere/At_All"])"#, None),
        (r#"time.parse_ns("2006-01-02", "2024-02-29")"#, Some("1709164800000000000")),
        (r#"time.add_date(1709164800000000000, 0, 0, 1)"#, Some("1709251200000000000")),
        (r#"time.parse_duration_ns("-1h1.5s")"#, Some("-3601500000000")),
        (r#"time.parse_duration_ns("1")"#, None),
        (r#"time.parse_duration_ns("99999999999999999999h")"#, None),
    ] {
        assert_eq!(comes_to(expression).as_deref(), value, "{expression}");
    }
}

#[test]
fn tokens_in_policies() {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let sign = |claims: &str| {
        let signed = format!("{}.{}", base64.encode(r#"{"alg":"HS256"}"#), base64.encode(claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        format!("{signed}.{}", base64.encode(ring::hmac::sign(&key, signed.as_bytes())))
    };
    let valid = |claims: &str, constraints: &str| {
        comes_to(&format!("io.jwt.decode_verify(\"{}\", {constraints})[0]", sign(claims)))
    };
    for (claims, constraints, want) in [
        (r#"{"sub":"u"}"#, r#"{"secret": "secret"}"#, Some("true")),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "alg": "HS256"}"#, Some("true")),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "alg": "HS512"}"#, Some("false")),
        (r#"{"sub":"u"}"#, r#"{"secret": "other"}"#, Some("false")),
        // The classic confusion: a secret where a public key is meant.
        (r#"{"sub":"u"}"#, r#"{"cert": "secret"}"#, Some("false")),
        (r#"{"sub":"u"}"#, "{}", None),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "audience": "x"}"#, None),
        (r#"{"iss":"i"}"#, r#"{"secret": "secret", "iss": "i"}"#, Some("true")),
        (r#"{"iss":"i"}"#, r#"{"secret": "secret", "iss": "j"}"#, Some("false")),
        // A constraint of another type is not kept, so nothing is valid by it.
        (r#"{"iss":"j"}"#, r#"{"secret": "secret", "iss": ["i"]}"#, None),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "aud": ["a"]}"#, None),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "alg": null}"#, None),
        (r#"{"sub":"u"}"#, r#"{"secret": "secret", "cert": 1}"#, None),
        (r#"{"aud":["a","b"]}"#, r#"{"secret": "secret", "aud": "b"}"#, Some("true")),
        (r#"{"aud":"a"}"#, r#"{"secret": "secret"}"#, Some("false")),
        (r#"{"exp":10}"#, r#"{"secret": "secret", "time": 9000000000}"#, Some("true")),
        (r#"{"exp":10}"#, r#"{"secret": "secret", "time": 10000000000}"#, Some("false")),
        (r#"{"exp":10}"#, r#"{"secret": "secret"}"#, Some("false")),
    ] {
        assert_eq!(valid(claims, constraints).as_deref(), want, "{claims} {constraints}");
    }
    let token = sign(r#"{"sub":"u"}"#);
    let of = |call: &str| comes_to(&call.replace("TOKEN", &token));
    assert_eq!(of(r#"io.jwt.decode("TOKEN")[1].sub"#).as_deref(), Some("\"u\""));
    assert_eq!(of(r#"io.jwt.decode("TOKEN")[0].alg"#).as_deref(), Some("\"HS256\""));
    assert_eq!(of(r#"io.jwt.verify_hs256("TOKEN", "secret")"#).as_deref(), Some("true"));
    assert_eq!(of(r#"io.jwt.verify_hs256("TOKEN", "other")"#).as_deref(), Some("false"));
    assert_eq!(of(r#"io.jwt.verify_rs256("TOKEN", "secret")"#).as_deref(), Some("false"));
    assert_eq!(of(r#"io.jwt.decode("x.y.z")"#), None);
}
