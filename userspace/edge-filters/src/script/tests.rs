use super::words::{Reads, TEXT_MAX, reads};
use super::*;
use crate::testing::*;

/// On a busy machine a script may have to wait.
fn script(text: &str) -> Arc<dyn Filter> {
    filter(&KIND, &json!({"script": text, "timeout": "1s"}).to_string())
}

#[test]
fn results() {
    for (text, outcome, status) in [
        ("let a = 1;", SUCCESS, 0),
        ("0", SUCCESS, 0),
        ("if req.Method == \"POST\" { return 3; } 4", "scriptResult3", 200),
        ("resp.StatusCode = 404; resp.Body = \"gone\"; 9", "scriptResult9", 404),
        ("10", SCRIPT_ERROR, 503),
        ("-1", SCRIPT_ERROR, 503),
        ("\"text\"", SCRIPT_ERROR, 503),
        ("throw \"no\"", SCRIPT_ERROR, 503),
        ("req.Header.Set(\"A B\", \"x\")", SCRIPT_ERROR, 503),
        ("req.Header.Set(\"A\", \"x\\r\\nB: y\")", SCRIPT_ERROR, 503),
        ("resp.StatusCode = 99", SCRIPT_ERROR, 503),
        ("resp.StatusCode = 70000", SCRIPT_ERROR, 503),
        ("req.Method = \"A B\"", SCRIPT_ERROR, 503),
        ("req.Host = \"a b\"", SCRIPT_ERROR, 503),
        ("req.URL.RawQuery = \"a b\"", SCRIPT_ERROR, 503),
        ("req.JSONBody.a", SCRIPT_ERROR, 503),
    ] {
        let spec = json!({ "script": text }).to_string();
        // What can be told before is refused before.
        if KIND.checked(&yaml(&spec), "").is_err() {
            assert_eq!(outcome, SCRIPT_ERROR, "{text}");
            continue;
        }
        let mut exchange = request_with("POST", "/k?z=1", &[], b"no json");
        let script = script(text);
        let told = (run(&*script, &mut exchange), status_of(&exchange));
        assert_eq!(told, (outcome, status), "{text}: {}", script.status().unwrap());
    }
}

/// What a run leaves for the next one is nothing that a script could tell.
#[test]
fn each_run_begins_as_the_first_did() {
    for text in [
        "let n = 1; n += 1; const C = 5; req.Header.Set(\"X-Out\", `${n}${C}`);",
        "let own = req.Header.Get(\"X-Out\"); if own != \"\" { return 9; } req.Header.Set(\"X-Out\", \"25\"); req = 7; resp = 8;",
        "let req2 = req; let req = 25; req2.Header.Set(\"X-Out\", `${req}`);",
        "fn twice(x) { x * 2 } for i in 0..5 { twice(i); } req.Header.Set(\"X-Out\", `${twice(12) + 1}`);",
        // Another type for the same call each time.
        "let all = [25, \"25\"]; let one = all[req.URL.RawQuery.len() % 2]; req.Header.Set(\"X-Out\", one.to_string());",
    ] {
        let spec = json!({"script": text, "maxOperations": 200, "timeout": "1s"}).to_string();
        let script = filter(&KIND, &spec);
        for target in ["/", "/?a", "/?aa", "/?a", "/", "/", "/"] {
            let mut exchange = request("GET", target, &[]);
            assert_eq!(run(&*script, &mut exchange), SUCCESS, "{text} {}", script.status().unwrap());
            assert_eq!(header(&exchange, "X-Out"), Some("25"), "{text}");
        }
    }
    // Nor does one that failed leave anything.
    let script =
        script("let a = req.URL.RawQuery; if a == \"a\" { let b = [1, 2]; b[7]; } req.Header.Set(\"X-Out\", a);");
    for (target, outcome) in [("/?b", SUCCESS), ("/?a", SCRIPT_ERROR), ("/?b", SUCCESS)] {
        assert_eq!(run(&*script, &mut request("GET", target, &[])), outcome);
    }
}

/// Each is ended by its bound, and the next request finds the filter as it was.
#[test]
fn hostile_scripts_are_ended_and_counted() {
    for (text, reason) in [
        ("loop { }", OPERATIONS),
        ("let x = 0; while true { x += 1; }", OPERATIONS),
        ("for i in 0..9223372036854775807 { let x = i; }", OPERATIONS),
        ("let s = \"x\"; loop { s += s; }", SIZE),
        ("let s = \"\"; s.pad(1000000000, \"x\");", SIZE),
        ("let a = []; loop { a.push(1); }", SIZE),
        ("let a = [1]; loop { a = [a, a, a]; }", SIZE),
        ("let a = []; a.pad(1000000000, 0);", SIZE),
        ("let m = #{}; loop { let n = m; m.a = n; m.b = n; }", SIZE),
        ("fn grow() { this.push(1); } let a = []; loop { a.grow(); }", SIZE),
        ("let s = \"0123456789\"; s = `${s}${s}${s}`; let a = []; loop { a.push(s + s + s + s + s + s); }", SIZE),
        ("let s = \"x\"; s.pad(60000, \"x\"); s.replace(\"x\", s);", SIZE),
        ("let s = \"x\"; s.pad(60000, \"x\"); s.replace(\"\", s);", SIZE),
        ("let s = \"x\"; s.pad(60000, \"x\"); s.replace('x', s);", SIZE),
        ("let s = \"x\"; s.pad(60000, \"x\"); s.replace(\"x\", '€');", SIZE),
        ("let s = \"x\"; s.pad(60000, \"x\"); s.replace('x', '€');", SIZE),
        ("let m = #{}; let i = 0; loop { i += 1; m.set(i.to_string(), i); }", SIZE),
        ("let i = 0; loop { i += 1; req.Header.Add(\"A\" + i, \"0123456789012345678901234567890123456789\"); }", SIZE),
        ("fn f() { f() } f()", ERROR),
        ("let x = 9223372036854775807; x += 1;", ERROR),
        ("1 / 0", ERROR),
    ] {
        let telemetry = telemetry();
        let spec = json!({"script": text, "timeout": "1s"});
        let filter = filter_with(&KIND, &spec.to_string(), &telemetry);
        for _ in 0..2 {
            assert_eq!(run(&*filter, &mut request("GET", "/", &[])), SCRIPT_ERROR, "{text}");
        }
        let made = filter.downcast::<Script>().unwrap();
        let counts: Vec<u64> = made.figures.failures.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(counts[reason], 2, "{text}: {}", lock(&made.figures.last).clone().unwrap());
        let limit = ["script_operations", "script_time", "script_size"].get(reason);
        assert!(limit.is_none_or(|limit| telemetry.limits().register(limit).total() == 2), "{text}");
    }
}

/// However few operations it takes.
#[test]
fn time_ends_a_script_too() {
    let telemetry = telemetry();
    let spec = json!({"script": "loop { }", "maxOperations": OPERATIONS_MAX, "timeout": "1ms"});
    let filter = filter_with(&KIND, &spec.to_string(), &telemetry);
    assert_eq!(run(&*filter, &mut request("GET", "/", &[])), SCRIPT_ERROR);
    assert_eq!(telemetry.limits().register("script_time").total(), 1);
}

#[test]
fn the_words_of_a_request() {
    let text = r#"
        req.Header.Set("X-Made", req.Method + " " + req.Host + " " + req.URL.Path + " " + req.URL.RawQuery + " " + req.Header.Get("X-In"));
        req.Header.Set("X-More", req.Scheme + " " + req.Proto + " " + req.RequestURI + " " + req.Cookie("c") + req.Cookie("d") + " "
            + req.URL.Query.Get("q") + req.URL.Query.Get("none") + " " + req.URL.EscapedPath + " " + req.Header.Values("X-In").len());
        req.Header.Add("X-Two", "a"); req.Header.Add("X-Two", "b"); req.Header.Del("X-In");
        req.Method = "PUT"; req.Host = "other.test"; req.URL.Path = "/new"; req.URL.RawQuery = "";
        let body = req.Body;
        body.make_upper();
        req.Body = body;
    "#;
    let headers_in = [("X-In", "in"), ("Cookie", "a=1; c=sugar"), ("ETag", "\"x\"")];
    let mut exchange = request_with("POST", "/k%20k?q=a%26b&q=2", &headers_in, b"body");
    let script = script(text);
    assert_eq!(run(&*script, &mut exchange), SUCCESS, "{}", script.status().unwrap());
    assert_eq!(header(&exchange, "X-Made"), Some("POST h.test /k%20k q=a%26b&q=2 in"));
    assert_eq!(header(&exchange, "X-More"), Some("http HTTP/1.1 /k%20k?q=a%26b&q=2 sugar a&b /k%20k 1"));
    assert_eq!((headers(&exchange, "X-Two").as_str(), header(&exchange, "X-In")), ("a,b", None));
    let request = exchange.request();
    let told = (request.method.as_str(), request.authority.as_str(), request.target());
    assert_eq!(told, ("PUT", "other.test", "/new".to_owned()));
    assert_eq!(request_body_of(&exchange), b"BODY");
}

#[test]
fn the_words_of_an_answer() {
    let mut exchange = request("GET", "/", &[]);
    answer(&mut exchange, 200, &[("X-Old", "1"), ("Content-Length", "9")], br#"{"a":[1]}"#);
    let text = "resp.Header.Del(\"X-Old\"); resp.Header.Set(\"X-Code\", `${resp.StatusCode}`); resp.StatusCode = 201; \
                resp.Body = \"<\" + resp.Body + resp.JSONBody.a[0] + \">\";";
    let made = script(text);
    assert_eq!(run(&*made, &mut exchange), SUCCESS, "{}", made.status().unwrap());
    assert_eq!((response_header(&exchange, "X-Code"), response_header(&exchange, "X-Old")), (Some("200"), None));
    assert_eq!((body_of(&exchange), status_of(&exchange)), (&br#"<{"a":[1]}1>"#[..], 201));
    // Looking for an answer makes none.
    let mut exchange = request("GET", "/", &[]);
    let text = "if resp.StatusCode == 0 && resp.Header.Get(\"A\") == \"\" { req.Header.Set(\"X-None\", \"1\"); }";
    assert_eq!((run(&*script(text), &mut exchange), status_of(&exchange)), (SUCCESS, 0));
    assert_eq!(header(&exchange, "X-None"), Some("1"));
}

/// As of what an adaptor adds.
#[test]
fn a_refusal_keeps_who_may_read_answers_as_a_script_has_added_it() {
    let allow = "Access-Control-Allow-Origin";
    let mut exchange = request("GET", "/", &[]);
    answer(&mut exchange, 200, &[], b"");
    let text = format!("resp.Header.Add(\"{allow}\", \"https://a.test\"); resp.Header.Add(\"X-Own\", \"1\");");
    assert_eq!(run(&*script(&text), &mut exchange), SUCCESS);
    exchange.refuse(503);
    assert_eq!(response_header(&exchange, allow), Some("https://a.test"));
}

#[test]
fn which_bodies_a_script_reads_is_told_by_its_text() {
    let of = |request, response, writes_request, writes_response| Reads {
        request,
        response,
        writes_request,
        writes_response,
    };
    for (text, wanted) in [
        ("req.Header.Get(\"Body\"); resp.StatusCode = 1;", of(false, false, false, false)),
        ("resp.Body = \"x\"", of(false, false, false, true)),
        ("req . Body == \"x\"", of(true, false, true, false)),
        ("resp.Body += \"x\"", of(false, true, false, true)),
        ("resp.JSONBody.a", of(false, true, false, true)),
        ("let r = resp; r.Body", of(true, true, true, true)),
        ("req?.Body", of(true, false, true, false)),
    ] {
        assert_eq!(reads(text), wanted, "{text}");
    }
}

#[test]
fn a_failure_leaves_the_request_as_it_came_where_it_may_go_on() {
    let text =
        "req.Header.Set(\"X-A\", \"1\"); req.URL.Path = \"/b\"; req.Body = \"new\"; resp.StatusCode = 201; throw 1";
    let spec = json!({"script": text, "failOpen": true, "timeout": "1s"}).to_string();
    let mut exchange = request_with("POST", "/a", &[], b"old");
    let filter = filter(&KIND, &spec);
    assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (SUCCESS, 0));
    assert_eq!((header(&exchange, "X-A"), exchange.request().target().as_str()), (None, "/a"));
    assert_eq!(request_body_of(&exchange), b"old");
    assert_eq!(filter.status().unwrap()["numOfScriptError"], 1);
}

#[test]
fn a_body_that_is_too_large_is_the_policys() {
    for (fail_open, outcome, status, left) in [(false, SCRIPT_ERROR, 413, 0), (true, SUCCESS, 0, TEXT_MAX + 1)] {
        let telemetry = telemetry();
        let spec = json!({"script": "if req.Body.len() > 0 { 0 }", "failOpen": fail_open, "timeout": "1s"}).to_string();
        let filter = filter_with(&KIND, &spec, &telemetry);
        let mut exchange = request_with("POST", "/", &[], &vec![b'x'; TEXT_MAX + 1]);
        assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (outcome, status));
        assert_eq!(request_body_of(&exchange).len(), left);
        assert_eq!(telemetry.limits().register("script_body").total(), 1);
    }
}

#[test]
fn what_it_prints_is_in_the_access_log() {
    let mut exchange = request("GET", "/", &[]);
    exchange.tags.enabled = true;
    let text = "print(\"a\\nb\"); for i in 0..100 { print(i); }";
    assert_eq!(run(&*script(text), &mut exchange), SUCCESS);
    assert_eq!((&*exchange.tags.notes[0], exchange.tags.notes.len()), ("a\\x0ab", 32));
}

#[test]
fn refused() {
    refuses(&KIND, "{}", &["script"]);
    refuses(&KIND, "{script: 'let ='}", &["script"]);
    refuses(&KIND, "{script: 'eval(\"1\")'}", &["script"]);
    refuses(&KIND, "{script: 'import \"a\" as a;'}", &["script"]);
    refuses(&KIND, "{script: '1', maxOperations: 0}", &["maxOperations"]);
    refuses(&KIND, "{script: '1', timeout: 2s}", &["timeout"]);
    let long = json!({"script": "1;".repeat(40_000)}).to_string();
    refuses(&KIND, &long, &["script"]);
    // Not from a name made at run time, either.
    let mut exchange = request("GET", "/", &[]);
    assert_eq!(run(&*script("sleep(100)"), &mut exchange), SCRIPT_ERROR);
    assert_eq!(run(&*script("sleep(100.5)"), &mut exchange), SCRIPT_ERROR);
    assert_eq!(run(&*script("Fn(\"sle\" + \"ep\").call(100)"), &mut exchange), SCRIPT_ERROR);
    assert_eq!(run(&*script("Fn(\"ev\" + \"al\").call(\"1\")"), &mut exchange), SCRIPT_ERROR);
}

/// The engine does not look at the whole when a part is written.
#[test]
fn what_would_grow_unseen_is_refused() {
    for text in [
        "let m = #{}; let i = 0; loop { i += 1; m[i.to_string()] = i; }",
        "let a = [1]; a[0] = a;",
        "let a = [1]; a[0] += 1;",
        "let m = #{a: #{}}; m.a.b = m;",
        "let a = [[]]; a[0].push(a);",
        "let m = #{a: []}; m.a.push(m);",
        "let m = #{a: [[]]}; m.a[0].push(m);",
        "let m = #{a: [[]]}; m[\"a\"][0].append([m]);",
        "let m = #{a: #{}}; m.a.mixin(m);",
        "fn grow() { this.push(1); } let a = [[]]; a[0].grow();",
        "fn get() { this.push(1); } let a = [[]]; a[0].get();",
        "fn f(m) { m.a.b = 1; } f(#{a: #{}})",
        "if true { let a = [[1]]; while a.len() > 0 { a[0][0] = a; } }",
    ] {
        let refused = KIND.checked(&json!({ "script": text }), "").expect_err(text);
        let told = base_model::problem::render(&refused);
        assert!(told.contains("(line 1") || told.contains("cannot be called get"), "{told}");
    }
    for text in [
        "let a = [[1, 2]]; a.set(0, [3]); if a[0][0] != 3 { throw 1; }",
        "let s = \"abab\"; s.replace(\"a\", \"xy\"); s.replace('b', '€'); s.replace(\"€x\", 'z'); if s != \"xyzy€\" { throw s; }",
        "let m = #{}; m.set(\"k\", 1); m.b = 2; if m[\"k\"] + m.b != 3 { throw 1; }",
        "let j = #{items: [#{name: \"x\"}]}; if j.items[0].name.to_upper() != \"X\" || j.items.len() != 1 { throw 1; }",
        "req.URL.Path = \"/b\"; req.Header.Set(\"A\", req.URL.Query.Get(\"q\")); resp.Header.Del(\"B\");",
    ] {
        let script = script(text);
        assert_eq!(run(&*script, &mut request("GET", "/", &[])), SUCCESS, "{text}: {}", script.status().unwrap());
    }
}

/// After a method that may have changed a part, the engine looks for a way to put that back: it must not begin to.
#[test]
fn a_header_that_is_set_is_not_put_back() {
    use std::sync::atomic::AtomicUsize;
    let mut engine = words::engine();
    let put_back = Arc::new(AtomicUsize::new(0));
    let count = put_back.clone();
    engine.register_indexer_set(move |_: &mut words::Req, _: &str, _: rhai::Dynamic| {
        count.fetch_add(1, Relaxed);
    });
    let text = "req.Header.Set(\"A\", req.Header.Get(\"B\") + req.URL.Query.Get(\"z\") + req.Cookie(\"c\")); req.Header.Del(\"B\");";
    let ast = words::compile(&engine, text).unwrap();
    let mut exchange = request_with("GET", "/k?z=1", &[("B", "b"), ("Cookie", "c=2")], b"");
    assert!(words::lent(&mut exchange, Duration::from_secs(1), || words::run(&engine, &ast, &mut None)).is_ok());
    let headers = &exchange.space_ref().request.headers;
    assert_eq!((headers.value("A"), headers.value("B")), (Some(&b"b12"[..]), None));
    assert_eq!(put_back.load(Relaxed), 0);
}
