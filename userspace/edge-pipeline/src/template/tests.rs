//! A golden table of what Go, sprig and Easegress print.
//!
//! The first three tests were run through Go 1.26 with slim-sprig 3, which gives the same texts, except where this engine
//! is more lenient on purpose: numbers of both kinds compare, `slice` takes texts, `duration` takes any number.

use super::*;
use proptest::prelude::*;
use proto_http::Response;

#[test]
fn the_language() {
    for (template, want) in [
        ("plain", "plain"),
        ("a {{- 1 -}} b", "a1b"),
        ("a {{/* nothing */}} b", "a  b"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{ -3 }}{{ 1.50 }}{{ 0x10 }}{{ 'a' }}{{ `raw\\n` }}", "-31.51697raw\\n"),
        ("{{ true }} {{ nil | print }}", "true <nil>"),
        ("{{.nothing}} {{.nothing.more}}", "<no value> <no value>"),
        ("{{ $x := 3 }}{{ $x = add $x 1 }}{{ $x }}", "4"),
        ("{{if 0}}a{{else if \"x\"}}b{{else}}c{{end}}", "b"),
        ("{{if $x := 5}}{{$x}}{{end}}", "5"),
        ("{{with \"\"}}a{{else with 7}}{{.}}{{end}}", "7"),
        ("{{with $x := 3}}{{.}}{{$x}}{{$.namespace}}{{end}}", "33DEFAULT"),
        ("{{range list 1 2 3}}{{.}},{{end}}", "1,2,3,"),
        ("{{range $i, $v := list \"a\" \"b\"}}{{$i}}{{$v}}{{end}}", "0a1b"),
        ("{{range $k, $v := dict \"b\" 2 \"a\" 1}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range $i := 2}}{{$i}}{{end}}", "01"),
        ("{{range list}}x{{else}}none{{end}}", "none"),
        ("{{range 9}}{{if eq . 2}}{{continue}}{{end}}{{if gt . 4}}{{break}}{{end}}{{.}}{{end}}", "0134"),
        ("{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" 1}}{{template \"t\"}}", "<1><<no value>>"),
        ("{{block \"b\" 5}}[{{.}}]{{end}}", "[5]"),
        ("{{ (dict \"a\" (dict \"b\" 7)).a.b }}", "7"),
        ("{{ 3 | add 1 | printf \"%03d\" }}", "004"),
        ("{{ and 1 0 2 }} {{ or 0 \"\" 3 }} {{ not 1 }}", "0 3 false"),
        ("{{ or 1 (fail \"never\") }}", "1"),
        (
            "{{ eq 1 2 1 }} {{ ne \"a\" \"b\" }} {{ lt 1 2 }} {{ le 2.0 2 }} {{ gt \"b\" \"a\" }} {{ ge 1 2 }}",
            "true true true true true false",
        ),
        ("{{ len \"abc\" }} {{ len (list 1 2) }} {{ index (list 5 6) 1 }} {{ index (dict \"a\" 8) \"a\" }}", "3 2 6 8"),
        ("{{ slice \"abcd\" 1 3 }} {{ slice (list 1 2 3) 1 }}", "bc [2 3]"),
        ("{{ print 1 2 \"x\" 3 }}|{{ println 1 \"y\" }}", "1 2x3|1 y\n"),
        ("{{ html \"<a&'>\" }} {{ js \"a'<\" }} {{ urlquery \"a b\" }}", "&lt;a&amp;&#39;&gt; a\\'\\u003C a+b"),
        ("{{ 1000000.0 }} {{ 0.5 }} {{ 1e-7 }} {{ 123456.0 }}", "1e+06 0.5 1e-07 123456"),
        ("{{ list 1 \"a\" nil (list) (dict \"k\" true) }}", "[1 a <nil> [] map[k:true]]"),
        ("{{range $i, $v := list 1 2}}{{if $i}},{{end}}{{$v}}{{end}}", "1,2"),
        ("{{ $d := dict }}{{ $_ := set $d \"k\" 1 }}{{ $d.k }}", "1"),
        ("line\n{{- \"x\" }}\n", "linex\n"),
    ] {
        check(template, want);
    }
}

#[test]
fn sprig_and_easegress() {
    for (template, want) in [
        ("addf 1 2", "3"),
        ("divf 7 2", "3.5"),
        ("subf 5 2", "3"),
        ("mulf 2 4", "8"),
        (r#"addf "1.5" 1"#, "2.5"),
        (r#"jsonEscape "a\"b""#, r#"a\"b"#),
        (r#"urlQueryEscape "a b&c""#, "a+b%26c"),
        (r#"urlQueryUnescape "a+b%26c""#, "a b&c"),
        (r#"upper "abc""#, "ABC"),
        (r#"trunc 3 "abcdef""#, "abc"),
        (r#"trunc -2 "abcdef""#, "ef"),
        (r#"default "x" """#, "x"),
        (r#""given" | default "x""#, "given"),
        (r#"b64enc "hi""#, "aGk="),
        (r#"b64dec "aGk=""#, "hi"),
        (r#"b32enc "hi""#, "NBUQ===="),
        (r#"title "hello world""#, "Hello World"),
        (r#"substr 1 3 "abcdef""#, "bc"),
        (r#"repeat 3 "ab""#, "ababab"),
        (r#"trimAll "$" "$5$""#, "5"),
        (r#"trimSuffix "-" "a-""#, "a"),
        (r#"contains "b" "abc""#, "true"),
        (r#"quote "a" 1"#, r#""a" "1""#),
        (r#"squote "a""#, "'a'"),
        (r#"cat "a" 1 nil "b""#, "a 1 b"),
        (r#"indent 2 "a\nb""#, "  a\n  b"),
        (r#"replace "a" "b" "banana""#, "bbnbnb"),
        (r#"plural "one" "many" 2"#, "many"),
        (r#"sha1sum "abc""#, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (r#"sha256sum "abc""#, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (r#"adler32sum "Wikipedia""#, "300286872"),
        (r#"atoi "12""#, "12"),
        (r#"int64 "012""#, "12"),
        ("add 1 2 3", "6"),
        ("div 7 2", "3"),
        ("mod 7 4", "3"),
        ("max 1 5 2", "5"),
        ("round 123.5555 3", "123.556"),
        ("ceil 1.2", "2"),
        ("seq 3", "1 2 3"),
        ("seq 0 2 6", "0 2 4 6"),
        ("until 3", "[0 1 2]"),
        ("untilStep 5 0 -2", "[5 3 1]"),
        (r#"join "-" (list 1 2 "c")"#, "1-2-c"),
        (r#"splitList "," "a,b""#, "[a b]"),
        (r#"(split "," "a,b")._1"#, "b"),
        (r#"sortAlpha (list "c" "a")"#, "[a c]"),
        ("first (list 1 2)", "1"),
        ("rest (list 1 2 3)", "[2 3]"),
        ("append (list 1) 2", "[1 2]"),
        ("prepend (list 1) 2", "[2 1]"),
        ("reverse (list 1 2)", "[2 1]"),
        ("uniq (list 1 1 2)", "[1 2]"),
        ("without (list 1 2 3) 2", "[1 3]"),
        ("has 2 (list 1 2)", "true"),
        ("concat (list 1) (list 2)", "[1 2]"),
        ("chunk 2 (list 1 2 3)", "[[1 2] [3]]"),
        (r#"get (dict "a" 1) "b""#, ""),
        (r#"hasKey (dict "a" 1) "a""#, "true"),
        (r#"keys (dict "b" 1 "a" 2)"#, "[a b]"),
        (r#"pick (dict "b" 1 "a" 2) "a""#, "map[a:2]"),
        (r#"omit (dict "b" 1 "a" 2) "a""#, "map[b:1]"),
        (r#"dig "a" "b" "none" (dict "a" (dict "b" 1))"#, "1"),
        (r#"dig "a" "x" "none" (dict "a" (dict "b" 1))"#, "none"),
        (r#"toJson (dict "a" (list 1 "<") "b" 1.5)"#, r#"{"a":[1,"\u003c"],"b":1.5}"#),
        (r#"toRawJson "<""#, r#""<""#),
        (r#"(fromJson "{\"a\": [1, 2.5]}").a"#, "[1 2.5]"),
        (r#"ternary "y" "n" true"#, "y"),
        (r#"coalesce "" 0 "c""#, "c"),
        (r#"kindOf (list 1)"#, "slice"),
        (r#"typeOf 1.5"#, "float64"),
        (r#"regexMatch "^a+$" "aaa""#, "true"),
        (r#"regexFind "[0-9]+" "ab12cd""#, "12"),
        (r#"regexFindAll "[0-9]" "1a2b3" 2"#, "[1 2]"),
        (r#"regexReplaceAll "a(x*)b" "-ab-axxb-" "${1}W""#, "-W-xxW-"),
        (r#"regexReplaceAllLiteral "a" "ba" "${1}""#, "b${1}"),
        (r#"regexSplit "," "a,b,c" -1"#, "[a b c]"),
        (r#"regexSplit "" "abc" -1"#, "[a b c]"),
        (r#"regexQuoteMeta "a-b.c""#, r"a-b\.c"),
        (r#"cat "" 1"#, " 1"),
        (r#"printf "%s" (dict "a" "x")"#, "map[a:x]"),
        (r#"host "h.test:80""#, "h.test"),
        (r#"port "h.test:80""#, "80"),
        (r#"list (host "[::1]:80") (port "[::1]:80")"#, "[::1 80]"),
        (r#"list (host "h.test") (port "::1") (host "")"#, "[  ]"),
        (r#"base "/a/b.txt""#, "b.txt"),
        (r#"dir "/a/b.txt""#, "/a"),
        (r#"clean "/a/../b//c""#, "/b/c"),
        (r#"ext "a.tar.gz""#, ".gz"),
        (r#"(urlParse "http://u@h.test:80/p?q=1#f").hostname"#, "h.test"),
        (r#"urlJoin (dict "scheme" "http" "host" "h" "path" "/p" "query" "q=1")"#, "http://h/p?q=1"),
        (r#"mergeObject (dict "a" (dict "x" 1)) (dict "a" (dict "y" 2) "b" 3)"#, "map[a:map[x:1 y:2] b:3]"),
        (r#"date "2006-01-02" 0"#, "1970-01-01"),
        (r#"(toDate "2006-01-02" "2024-02-29").Year"#, "2024"),
        (r#"toDate "2006-01-02" "2024-02-29" | dateModify "24h" | htmlDate"#, "2024-03-01"),
        ("duration 95", "1m35s"),
        (r#"log "debug" "x""#, ""),
        (r#"printf "%5.2f|%-4s|%q" 3.14159 "ab" "c""#, r#" 3.14|ab  |"c""#),
        ("randInt 3 4", "3"),
        ("len (uuidv4)", "36"),
    ] {
        check(&format!("{{{{{template}}}}}"), want);
    }
}

#[test]
fn the_exchange() {
    for (template, want) in [
        ("{{.req.Method}} {{.req.URL.Path}} {{.req.URL.RawQuery}}", "POST /k z=1&z=2&y=%20"),
        ("{{.req.URL.Query.Get \"z\"}} {{.req.URL.Query.y}} {{.req.URL.Query.none}}", "1 [ ] <no value>"),
        ("{{.req.Header.Get \"x-g\"}}{{.req.Header.Get \"none\"}}", "de"),
        ("{{index .req.Header \"X-G\" | first}} {{range .req.Header.Values \"X-G\"}}{{.}}{{end}}", "de deat"),
        ("{{header .req.Header \"X-G\"}}", "de"),
        ("{{.req.Host}} {{host .req}} {{port .req}}", "h.test:8080 h.test 8080"),
        ("{{.req.Proto}} {{.req.ProtoMajor}}", "HTTP/1.1 1"),
        ("{{(.req.Cookie \"b\").Value}}", "2"),
        ("{{username .req}}", "Aladdin"),
        ("{{.req.Body}}", "{\"a\": [1, {\"b\": \"c\"}], \"n\": 1e6}"),
        ("{{.req.JSONBody.a}} {{(index .req.JSONBody.a 1).b}} {{.req.JSONBody.n}}", "[1 map[b:c]] c 1e+06"),
        ("{{.req.YAMLBody.n | int}}", "1000000"),
        ("{{.requests.DEFAULT.Method}} {{.requests.none}}", "POST <no value>"),
        ("{{.resp.StatusCode}} {{.resp.Header.Get \"X-R\"}} {{.resp.Body}}", "201 r answer"),
        ("{{.responses.DEFAULT.Status}}", "201 Created"),
        ("{{if .resp}}yes{{end}}{{if .responses.other}}no{{end}}", "yes"),
        ("{{.data.PIPELINE.greet}} {{.data.PIPELINE.list}} {{range .data.PIPELINE.list}}{{.}}{{end}}", "hi [1 2] 12"),
        ("{{.data.PIPELINE.list | toJson}}", "[1,2]"),
        ("{{.data.none.x}}", "<no value>"),
        ("{{printf \"%s\" .req.RawBody | trunc 4}}", "{\"a\""),
        ("{{range $k, $v := .req.Header}}{{$k}} {{end}}", "Authorization Cookie X-Evil X-G "),
        ("{{if eq (.req.Header.Get \"X-G\") \"de\"}}result1{{else}}{{end}}", "result1"),
        ("{{.req.URL}}", "/k?z=1&z=2&y=%20"),
    ] {
        check(template, want);
    }
}

#[test]
fn refused_when_read() {
    for (template, line, column, word) in [
        ("{{", 1, 1, "not closed"),
        ("a\n {{nosuch 1}}", 2, 4, "not defined"),
        ("{{uper \"x\"}}", 1, 3, "upper"),
        ("{{if 1}}x", 1, 1, "has no {{end}}"),
        ("{{end}}", 1, 1, "unexpected"),
        ("{{else}}", 1, 1, "unexpected"),
        ("{{$x}}", 1, 3, "not declared"),
        ("{{break}}", 1, 1, "outside of range"),
        ("{{template \"none\"}}", 1, 1, "not defined"),
        ("{{(1}}", 1, 3, "not closed"),
        ("{{1 | 2}}", 1, 7, "piped"),
        ("{{1 2}}", 1, 5, "not a function"),
        ("{{\"a}}", 1, 3, "not closed"),
        ("{{upper}}{{not 1 2}}", 1, 12, "at most 1"),
        ("{{}}", 1, 1, "without a command"),
        ("{{env \"HOME\"}}", 1, 3, "environment"),
        ("{{/* x }}", 1, 3, "not closed"),
        ("{{range $a, $b, $c := list}}{{end}}", 1, 13, "two variables"),
    ] {
        let error = Template::parse(template, "", "").unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{template}: {error}");
        assert!(error.message.contains(word), "{template}: {error}");
    }
    let deep = format!("{}1{}", "(".repeat(200), ")".repeat(200));
    assert!(Template::parse(&format!("{{{{{deep}}}}}"), "", "").is_err());
    assert!(Template::parse(&"{{if 1}}".repeat(200), "", "").is_err());
}

#[test]
fn bounded_when_run() {
    for (template, word) in [
        ("{{define \"t\"}}{{template \"t\"}}{{end}}{{template \"t\"}}", "nest deeper"),
        ("{{range 1000000000}}{{end}}", "too long"),
        ("{{$s := \"xxxxxxxxxx\"}}{{range 100}}{{$s = print $s $s}}{{end}}", "too"),
        ("{{$l := list 1}}{{range 100}}{{$l = concat $l $l}}{{end}}", "too"),
        ("{{repeat 1000000000 \"x\"}}", "too big"),
        ("{{range 100000}}{{repeat 1000 \"x\"}}{{end}}", "too big"),
        ("{{until 100000000}}", "too"),
        ("{{$l := list}}{{range 5000}}{{$l = list $l}}{{end}}{{$l}}", "too deep"),
        ("{{$l := list}}{{range 5000}}{{$l = list $l}}{{end}}{{toJson $l}}", "too deep"),
        ("{{$l := list}}{{range 5000}}{{$l = list $l}}{{end}}{{printf \"%d\" $l}}", "too deep"),
        ("{{$d := dict}}{{$e := dict \"d\" $d}}{{$_ := set $d \"e\" $e}}", "hold itself"),
        ("{{$d := dict}}{{range 60}}{{$d = dict \"a\" $d \"b\" $d}}{{end}}{{toJson $d}}", "too"),
        ("{{$d := dict}}{{range 60}}{{$d = dict \"a\" $d \"b\" $d}}{{end}}{{$d}}", "too big"),
        ("{{div 1 0}}", "zero"),
        ("{{mul 9223372036854775807 2}}", "64 bits"),
        ("{{panic \"stop\"}}", "stop"),
        ("{{index (list 1) 5}}", "index 5"),
        ("{{eq 1 \"a\"}}", "incompatible"),
        ("{{.req.Nope}}", "Nope"),
        ("{{.req.Method.X}}", "X"),
        ("{{.req.Cookie \"none\"}}", "cookie"),
        ("{{.resp.JSONBody}}", "not JSON"),
        ("{{printf \"%2000000d\" 1}}", "1000000"),
    ] {
        let template = Template::parse(template, "", "").unwrap_or_else(|e| panic!("{template}: {e}"));
        let error = template.render(&exchange()).unwrap_err();
        assert!(error.message.contains(word), "{template:?}: {error}");
    }
    // Deep nesting is dropped without recursion.
    check("{{$l := list}}{{range 90000}}{{$l = list $l}}{{end}}done", "done");
}

#[test]
fn delimiters_may_be_others() {
    let template = Template::parse("{{x}} [[ .req.Method ]]", "[[", "]]").unwrap();
    assert_eq!(template.render(&exchange()).as_deref(), Ok("{{x}} POST"));
}

#[test]
fn bodies_are_known_beforehand() {
    let named = |names: &[&str]| names.iter().map(|n| Arc::from(*n)).collect::<Vec<Arc<str>>>();
    for (template, want) in [
        ("{{.req.Header.Get \"Body\"}}{{.data.x.Body}}", Bodies::default()),
        ("{{.req.Body}}", Bodies { request: true, ..Bodies::default() }),
        ("{{if .req}}{{$.resp.JSONBody.a | toJson}}{{end}}", Bodies { response: true, ..Bodies::default() }),
        ("{{upper (.requests.a.RawBody | toString)}}", Bodies { requests: named(&["a"]), ..Bodies::default() }),
        ("{{.responses.one.YAMLBody.x}}", Bodies { responses: named(&["one"]), ..Bodies::default() }),
        ("{{with .req}}{{.Body}}{{end}}", Bodies { all: true, ..Bodies::default() }),
        ("{{$r := .req}}{{$r.Body}}", Bodies { all: true, ..Bodies::default() }),
        ("{{define \"t\"}}{{.req.Body}}{{end}}", Bodies { all: true, ..Bodies::default() }),
    ] {
        assert_eq!(*Template::parse(template, "", "").unwrap().bodies(), want, "{template}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\{\\{|\\}\\}|- | -|\\(|\\)|\\.|\\$x|:=|=|\\||\"|`|'|range|if|end|else|with|define|block|template|list|dict|printf|index|\\.req|\\.Header|[0-9a-z%* \n\\\\]){0,24}") {
        if let Ok(template) = Template::parse(&text, "", "") {
            let _ = template.render(&exchange());
        }
    }

    #[test]
    fn no_function_panics(index in 0usize..400, args in prop::collection::vec(0usize..12, 0..4)) {
        let values = ["1", "-1", "\"\"", "\"äbc\"", "(list 1 2)", "(dict \"a\" 1)", "nil", "1.5", "true", "9223372036854775807", ".req", "now"];
        let words: Vec<&str> = args.iter().map(|at| values[*at]).collect();
        if let Some(name) = functions::names().nth(index)
            && let Ok(template) = Template::parse(&format!("{{{{{name} {}}}}}", words.join(" ")), "", "")
        {
            let _ = template.render(&exchange());
        }
    }
}

#[test]
fn no_function_writes_a_text_of_a_message_as_it_is() {
    let evil = "(.req.Header.Get \"X-Evil\")";
    let lists = [format!("(list {evil})"), format!("(dict \"k\" {evil} {evil} 1)")];
    let values = [evil, "1", "\"a%s\"", "true", &lists[0], &lists[1]];
    let mut calls = 0;
    for name in functions::names() {
        for args in arguments(&values) {
            let text = format!("{{{{{name} {}}}}}|{{{{$x := {name} {}}}}}{{{{$x}}}}", args.join(" "), args.join(" "));
            let Ok(template) = Template::parse(&text, "", "") else { continue };
            let Ok(rendered) = template.render_to_parse(&exchange()) else { continue };
            calls += 1;
            assert!(!rendered.text().contains("'}"), "{text} writes {}", rendered.text());
            let plain = rendered.restore(rendered.text());
            assert!(!plain.contains('\u{10f000}'), "{text} leaves a token: {plain}");
        }
    }
    assert!(calls > 500, "{calls} calls went well");
    // Through maps that are changed in place, blocks, and the exchange as a whole.
    for text in [
        format!(
            "{{{{$d := dict}}}}{{{{$e := list $d}}}}{{{{$_ := set $d \"k\" {evil}}}}}{{{{$d.k}}}}{{{{$e}}}}{{{{values $d}}}}"
        ),
        format!(
            "{{{{with {evil}}}}}{{{{.}}}}{{{{end}}}}{{{{define \"t\"}}}}{{{{.}}}}{{{{end}}}}{{{{template \"t\" {evil}}}}}"
        ),
        "{{range $k, $v := .req.Header}}{{$k}}{{$v}}{{range $v}}{{.}}{{end}}{{end}}{{.req.Header}}".to_owned(),
        "{{index . \"req\"}}{{toJson .req.Header}}{{(dig \"req\" \"x\" .).Header}}{{$r := .req}}{{$r.Header}}"
            .to_owned(),
        format!("{{{{and 1 {evil}}}}}{{{{or {evil} 1}}}}{{{{{evil} | print \"a\" | default 1 | upper}}}}"),
    ] {
        let template = Template::parse(&text, "", "").unwrap_or_else(|e| panic!("{text}: {e}"));
        let rendered = template.render_to_parse(&exchange()).unwrap_or_else(|e| panic!("{text}: {e}"));
        let output = rendered.text();
        assert!(!output.contains("'}") && !output.contains("ZQ"), "{text} writes {output}");
    }
}

/// Every list of up to three of these, with the first one in it.
fn arguments<'v>(values: &[&'v str]) -> Vec<Vec<&'v str>> {
    let mut lists: Vec<Vec<&str>> = vec![Vec::new()];
    for _ in 0..3 {
        let longer = lists.iter().flat_map(|list| values.iter().map(|v| [list.as_slice(), &[*v]].concat()));
        let longer: Vec<Vec<&str>> = longer.collect();
        lists.extend(longer);
        lists.dedup();
    }
    lists.retain(|list| list.iter().any(|v| v.contains("Evil")));
    lists.sort_unstable();
    lists.dedup();
    lists
}

#[test]
fn texts_of_messages_come_out_of_functions_as_they_did() {
    check("{{.req.Header.Get \"X-G\" | printf \"%s: %d %q\" \"a\" 5}}", "a: 5 \"de\"");
    check("{{.req.Header.Get \"X-Evil\" | quote}}{{.req.Header.Get \"X-Evil\" | squote}}", "\"zq'}\"'zq'}'");
    check("{{printf \"%5s|%-5s|\" .req.Method .req.Method}}", " POST|POST |");
    check(
        "{{print \"a\\nb\" | indent 2}}|{{print (.req.Header.Get \"X-G\") \"\\nb\" | nindent 2}}",
        "  a\n  b|\n  de\n  b",
    );
    check("{{dict \"m\" .req.Method \"n\" 1 | toJson}}", "{\"m\":\"POST\",\"n\":1}");
    check("{{.req.Header.Get \"X-Evil\" | toJson | upper}}", "\"ZQ'}\"");
    check("{{printf \"%s %d\" .req.Method .resp.StatusCode | len}} {{eq (.req.Header.Get \"X-G\") \"de\"}}", "8 true");
}

fn check(template: &str, want: &str) {
    let ready = Template::parse(template, "", "").unwrap_or_else(|error| panic!("{template}: {error}"));
    let got = ready.render(&exchange()).unwrap_or_else(|error| panic!("{template}: {error}"));
    assert_eq!(got, want, "{template}");
}

fn exchange() -> Exchange {
    let mut exchange = Exchange::default();
    let space = exchange.space();
    space.has_request = true;
    space.request.method = proto_http::Method::Post;
    space.request.authority = "h.test:8080".to_owned();
    space.request.path = proto_http::path::Path::parse(b"/k").unwrap();
    space.request.query = Some("z=1&z=2&y=%20".to_owned());
    for (name, value) in [
        ("Host", "h.test:8080"),
        ("x-g", "de"),
        ("X-G", "at"),
        ("Cookie", "a=1; b=2"),
        ("authorization", "Basic QWxhZGRpbjpvcGVu"),
        ("x-evil", "zq'}"),
    ] {
        space.request.headers.add(name, value);
    }
    space.request_body = Body::full(&b"{\"a\": [1, {\"b\": \"c\"}], \"n\": 1e6}"[..]);
    let mut response = Response::with_status(201);
    response.headers.add("X-R", "r");
    space.respond(response, Body::full(&b"answer"[..]));
    exchange.data.insert("PIPELINE".to_owned(), serde_json::json!({"greet": "hi", "list": [1, 2]}));
    exchange
}
