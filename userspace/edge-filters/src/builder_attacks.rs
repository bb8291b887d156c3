//! Texts of messages against the templates that are parsed: none may become structure, all must arrive.

use crate::testing::*;
use crate::{data_builder, request_adaptor, request_builder, response_adaptor, response_builder};
use edge_pipeline::{Exchange, PipelineName, SUCCESS};
use serde_json::{Value, json};

/// What a client would write to get out of a scalar.
const TEXTS: &[&str] = &[
    "'}",
    "'}\nmethod: DELETE\npath: {replace: /admin}\nhost: evil.test\n#",
    "\"}\nmethod: DELETE\n#",
    "x\nmethod: DELETE",
    "x\n\nmethod: DELETE\nhost: evil.test",
    "x\r\nmethod: DELETE\r\n",
    "x\rmethod: DELETE",
    "x\u{2028}method: DELETE\u{2029}host: evil.test\u{85}path: {replace: /admin}",
    "# gone",
    "x # gone",
    "a: b",
    "a: b: c",
    ": ",
    "? x",
    "- a",
    "&anchor x",
    "*alias",
    "!!binary aGk=",
    "!!map",
    "{}",
    "[]",
    "{method: DELETE}",
    "[a, b",
    "---",
    "---\nmethod: DELETE",
    "...",
    "%YAML 1.1",
    "\tx\ty",
    "x,y}, method: DELETE, z: {",
    "\\",
    "\\\"",
    "\\n\\x41",
    "\"",
    "''",
    "\"quoted\"",
    "| ",
    ">-",
    "null",
    "~",
    "0x10",
    "1e3",
    "01",
    "1.10",
    "<<",
    "@at",
    "`tick`",
    "{{.req.Method}}",
    "\u{10f000}\u{10f010}\u{10f001}",
    "日本語",
];

fn quoted(text: &str) -> String {
    let escape = |b: u8| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escape).collect()
}

fn with_template(
    kind: &edge_pipeline::FilterKind,
    template: &str,
    more: Value,
) -> std::sync::Arc<dyn edge_pipeline::Filter> {
    let mut spec = json!({ "template": template });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    filter(kind, &spec.to_string())
}

/// The text in the query, in a JSON body's field and as its name.
fn asked(text: &str) -> Exchange {
    let body = json!({"v": text, "deep": {"list": [text]}, "named": {text: 1}}).to_string();
    let mut exchange = request("POST", &format!("/k?u={}", quoted(text)), &[("X-Plain", "plain")]);
    exchange.space().request_body = edge_pipeline::Body::full(body);
    exchange
}

const SOURCES: [&str; 4] = [
    r#".req.URL.Query.Get "u""#,
    ".req.JSONBody.v",
    "(index .req.JSONBody.deep.list 0)",
    "(keys .req.JSONBody.named | first)",
];

#[test]
fn a_client_cannot_rewrite_method_path_and_host_through_an_adaptor() {
    for text in TEXTS {
        for source in SOURCES {
            for template in [
                "header: {set: {X-User: '{{SOURCE}}'}}",
                "header: {set: {X-User: \"{{SOURCE}}\"}}",
                "header: {set: {X-User: {{SOURCE}}}}",
                "header:\n  set:\n    X-User: {{SOURCE}}\n    X-After: a\n",
                "header:\n  set:\n    X-User: |-\n      {{SOURCE}}\n    X-After: a\n",
                "header:\n  set:\n    X-User: >-\n      {{SOURCE}}\n",
                "header:\n  set:\n    X-User: {{SOURCE | quote}}\n",
                "header:\n  set:\n    X-User: {{SOURCE | squote}}\n",
                "header:\n  set:\n    X-User: {{SOURCE | toJson}}\n",
                "header:\n  set:\n    {{printf \"X-User: %s\" (SOURCE)}}\n",
                "header:\n  set:\n    {{print \"X-User: \" (SOURCE)}}\n    X-After: a\n",
                "{{$x := SOURCE | default \"none\"}}header: {set: {X-User: {{$x}}}} # {{$x}}",
                "{{define \"t\"}}{X-User: {{.}}}{{end}}header: {set: {{template \"t\" SOURCE}}}",
            ] {
                let adaptor = with_template(&request_adaptor::KIND, &template.replace("SOURCE", source), json!({}));
                let mut exchange = asked(text);
                let outcome = run(&*adaptor, &mut exchange);
                let made = exchange.request();
                let line = (made.method.as_str(), made.path.as_str(), made.authority.as_str());
                assert_eq!(line, ("POST", "/k", "h.test"), "{template} with {text:?}");
                let sendable = !text.trim().contains(|c: char| c.is_ascii_control() && c != '\t');
                assert_eq!(outcome, if sendable { SUCCESS } else { "buildErr" }, "{template} with {text:?}");
                assert_eq!(header(&exchange, "X-User"), sendable.then(|| text.trim()), "{template} with {text:?}");
                let after = (sendable && template.contains("X-After")).then_some("a");
                assert_eq!(header(&exchange, "X-After"), after, "{template} with {text:?}");
            }
        }
    }
}

#[test]
fn a_refused_value_is_counted_and_told() {
    let telemetry = base_telemetry::Telemetry::new(base_telemetry::Identity::default(), 1);
    let parts = edge_pipeline::Parts {
        name: "f",
        pipeline: &PipelineName::of_object("p"),
        previous: None,
        resilience: &[],
        telemetry: &telemetry,
    };
    let fields = json!({"template": "header: {set: {X-U: '{{.req.URL.Query.Get \"u\"}}'}}"});
    let adaptor = (request_adaptor::KIND.build)(&fields, &parts).unwrap();
    let mut exchange = asked("a\r\nX-Evil: 1");
    exchange.tags.enabled = true;
    assert_eq!(run(&*adaptor, &mut exchange), "buildErr");
    let notes: Vec<&str> = exchange.tags.notes.iter().map(|note| &**note).collect();
    assert_eq!(notes, ["RequestAdaptor: the value of X-U holds a control character"]);
    assert_eq!(telemetry.limits().register("template_value").total(), 1);
}

#[test]
fn a_backend_cannot_rewrite_a_response() {
    for text in TEXTS {
        for template in [
            "statusCode: 203\nheaders: {X-B: [b]}\nbody: '{{.responses.one.Body}}'",
            "statusCode: 203\nheaders: {X-B: [b]}\nbody: {{.responses.one.Body}}",
            "statusCode: 203\nbody: |-\n  {{.responses.one.Body}}\nheaders: {X-B: [b]}",
            "statusCode: 203\nbody: |-\n{{.responses.one.Body | indent 4}}\nheaders: {X-B: [b]}",
            "statusCode: 203\nheaders:\n  X-B: b\nbody: {{.responses.one.Body | quote}}",
        ] {
            let mut exchange = request("GET", "/", &[]);
            exchange.enter(Some(&"one".into()));
            answer(&mut exchange, 201, &[], text.as_bytes());
            exchange.enter(None);
            assert_eq!(run(&*with_template(&response_builder::KIND, template, json!({})), &mut exchange), SUCCESS);
            assert_eq!(
                (status_of(&exchange), response_header(&exchange, "X-B")),
                (203, Some("b")),
                "{template} {text:?}"
            );
            assert_eq!(std::str::from_utf8(body_of(&exchange)), Ok(*text), "{template}");
        }
        let mut exchange = request("GET", "/", &[]);
        answer(&mut exchange, 200, &[("Server", "s")], text.as_bytes());
        let template = "header:\n  add: {X-B: b}\nbody: {{.resp.Body}}";
        assert_eq!(run(&*with_template(&response_adaptor::KIND, template, json!({})), &mut exchange), SUCCESS);
        assert_eq!(response_header(&exchange, "X-B"), Some("b"), "{text:?}");
        assert_eq!(std::str::from_utf8(body_of(&exchange)), Ok(*text));
    }
}

#[test]
fn data_holds_texts_as_texts_and_stays_a_messages() {
    for text in TEXTS {
        for template in [
            "user: '{{.req.JSONBody.v}}'\nrole: guest",
            "user: {{.req.JSONBody.v}}\nrole: guest",
            "{{$d := dict}}{{$_ := set $d \"u\" .req.JSONBody.v}}user: {{$d.u}}\nrole: guest",
            "{user: {{.req.JSONBody.v | toJson}}, role: guest}",
            "{{dict \"user\" .req.JSONBody.v \"role\" \"guest\" | toJson}}",
        ] {
            let mut exchange = asked(text);
            let keep = with_template(&data_builder::KIND, template, json!({"dataKey": "k"}));
            assert_eq!(run(&*keep, &mut exchange), SUCCESS, "{template} {text:?}");
            assert_eq!(exchange.data["k"], json!({"user": text, "role": "guest"}), "{template}");
            // A later template sees the client in it all the same.
            let adaptor = with_template(&request_adaptor::KIND, "header: {set: {X-U: {{.data.k.user}}}}", json!({}));
            run(&*adaptor, &mut exchange);
            assert_eq!(exchange.request().method.as_str(), "POST", "{text:?}");
            assert_eq!(exchange.request().path.as_str(), "/k", "{text:?}");
        }
        // Names that the message gives.
        let mut exchange = asked(text);
        let template = "{{range $k, $v := .req.JSONBody.named}}{{$k}}: {{$v}}\n{{end}}role: guest";
        let keep = with_template(&data_builder::KIND, template, json!({"dataKey": "k"}));
        assert_eq!(run(&*keep, &mut exchange), SUCCESS, "{text:?}");
        assert_eq!(exchange.data["k"], json!({*text: 1, "role": "guest"}));
    }
}

#[test]
fn a_message_names_none_of_our_keys() {
    let adaptor = with_template(
        &request_adaptor::KIND,
        "{{range $k, $v := .req.JSONBody}}{{$k}}: {{$v}}\n{{end}}header: {set: {X-A: a}}",
        json!({}),
    );
    let mut exchange = request_with("POST", "/k", &[], br#"{"method": "DELETE", "host": "evil.test"}"#);
    assert_eq!(run(&*adaptor, &mut exchange), SUCCESS);
    assert_eq!((exchange.request().method.as_str(), exchange.request().authority.as_str()), ("POST", "h.test"));
    assert_eq!(header(&exchange, "X-A"), Some("a"));
    // Where names are free, one that the document sets is not given a second time.
    for body in [r#"{"X-Role": "admin"}"#, r#"{"x-role": "admin"}"#] {
        let template = "headers:\n  X-Role: user\n{{range $k, $v := .req.JSONBody}}  {{$k}}: {{$v}}\n{{end}}";
        let mut exchange = request_with("POST", "/k", &[], body.as_bytes());
        assert_eq!(
            run(&*with_template(&request_builder::KIND, template, json!({})), &mut exchange),
            "buildErr",
            "{body}"
        );
    }
    let template = "{{range $k, $v := .req.JSONBody}}{{$k}}: {{$v}}\n{{end}}role: user";
    let mut exchange = request_with("POST", "/k", &[], br#"{"role": "admin"}"#);
    let keep = with_template(&data_builder::KIND, template, json!({"dataKey": "k"}));
    assert_eq!(run(&*keep, &mut exchange), "buildErr");
}

#[test]
fn json_stays_whole_in_every_scalar() {
    for text in TEXTS {
        for template in [
            "body: '{\"a\": {{.req.JSONBody.v | toJson}}}'",
            "body: |-\n  {\"a\": {{.req.JSONBody.v | toJson}}}",
            "body: |-\n  {\"a\": {{.req.JSONBody.v | default \"none\" | toJson}}}",
            "body: '{\"a\": {{.req.JSONBody.v | toRawJson}}}'",
            "body: '{\"a\": \"{{.req.JSONBody.v | jsonEscape}}\"}'",
            "body: \"{\\\"a\\\": \\\"{{.req.JSONBody.v | jsonEscape}}\\\"}\"",
            "body: '{{dict \"a\" .req.JSONBody.v | toJson}}'",
            "body: |\n{{dict \"a\" .req.JSONBody.v | toPrettyJson | indent 2}}",
            "body: '{{mergeObject (dict \"a\" .req.JSONBody.v) (dict) | toRawJson}}'",
        ] {
            let mut exchange = asked(text);
            let outcome = run(&*with_template(&response_builder::KIND, template, json!({})), &mut exchange);
            assert_eq!(outcome, SUCCESS, "{template} {text:?}");
            let body: Value = serde_json::from_slice(body_of(&exchange)).unwrap_or_default();
            assert_eq!(body, json!({"a": text}), "{template}");
        }
    }
}

#[test]
fn structure_is_had_by_name() {
    for (template, want) in [
        ("{{.req.Body}}", json!({"id": 7, "list": [1, {"a": "x: y"}]})),
        (" {{.req.Body}}\n", json!({"id": 7, "list": [1, {"a": "x: y"}]})),
        ("all: {{.req.JSONBody | toJson}}", json!({"all": {"id": 7, "list": [1, {"a": "x: y"}]}})),
        ("list: {{.req.JSONBody.list | toRawJson}}", json!({"list": [1, {"a": "x: y"}]})),
        ("{{mergeObject .req.JSONBody (dict \"id\" 8) | toJson}}", json!({"id": 8, "list": [1, {"a": "x: y"}]})),
        ("{{.req.JSONBody | toPrettyJson}}", json!({"id": 7, "list": [1, {"a": "x: y"}]})),
        ("n: {{.req.URL.Query.Get \"n\"}}\nt: '{{.req.URL.Query.Get \"n\"}}'", json!({"n": 12, "t": "12"})),
        ("n: {{.req.JSONBody.id}}\nb: {{eq .req.Method \"POST\"}}", json!({"n": 7, "b": true})),
        ("{{range $i, $x := .req.JSONBody.list}}- {{$i}}\n{{end}}", json!([0, 1])),
        ("{{if eq (.req.URL.Query.Get \"n\") \"12\"}}a: {{len .req.Body}}{{end}}", json!({"a": 37})),
        ("a: {{.req.Method | lower | printf \"%s-%s\" \"x\"}}", json!({"a": "x-post"})),
        ("a: {{.req.JSONBody}}", json!({"a": "map[id:7 list:[1 map[a:x: y]]]"})),
    ] {
        let mut exchange = request_with("POST", "/?n=12", &[], br#"{"id": 7, "list": [1, {"a": "x: y"}]}"#);
        let keep = with_template(&data_builder::KIND, template, json!({"dataKey": "k"}));
        assert_eq!(run(&*keep, &mut exchange), SUCCESS, "{template}");
        assert_eq!(exchange.data["k"], want, "{template}");
    }
}

#[test]
fn a_message_stays_in_its_part_of_a_url() {
    for (template, text, want) in [
        ("url: /s?item={{SOURCE}}", "a&admin=1#x", Some("/s?item=a%26admin=1%23x")),
        ("url: /s?item={{SOURCE | urlQueryEscape}}", "a&b c", Some("/s?item=a%26b+c")),
        ("url: /s?{{.req.URL.RawQuery}}", "a&b", Some("/s?u=a%26b&w=1")),
        ("url: /s?{{.req.URL.RawQuery | replace \"w=1\" \"w=2\"}}", "a", Some("/s?u=a&w=2")),
        ("url: /s?{{printf \"a=%s&b=1\" (SOURCE)}}", "x&b=2", Some("/s?a=x%26b=2&b=1")),
        ("url: /u/{{SOURCE}}/edit", "a?x=1", Some("/u/a%3Fx=1/edit")),
        ("url: /u/{{SOURCE}}/edit", "a#", Some("/u/a%23/edit")),
        ("url: /u/{{SOURCE}}/edit", "..", None),
        ("url: /u/{{SOURCE}}", "../../admin", None),
        ("url: /u/{{SOURCE}}", "x/%2e%2E", None),
        ("url: /u/{{SOURCE}}", "..%2fadmin", None),
        ("url: /u/{{SOURCE}}", "a/b", Some("/u/a/b")),
        ("url: /v1{{.req.URL.Path}}?{{.req.URL.RawQuery}}", "1", Some("/v1/k?u=1&w=1")),
        ("url: '{{.req.URL}}'", "1", Some("/k?u=1&w=1")),
        ("url: {{SOURCE}}", "/p?x=1&y=2", Some("/p?x=1&y=2")),
        ("url: http://{{SOURCE}}/p", "b.test:81", Some("b.test:81 /p")),
        ("url: http://{{SOURCE}}/p", "evil.test/x?", None),
        ("url: http://{{SOURCE}}/p", "a@evil.test", None),
        ("url: http://b.test{{SOURCE}}", "/p?q", Some("b.test /p%3Fq")),
        ("url: x{{SOURCE}}", "://evil.test/", None),
        ("url: '{{SOURCE}}?x=1'", "http://evil.test/", None),
        ("url: '{{SOURCE}}{{.req.URL.Path}}'", "http://evil.test", None),
        ("url: '{{SOURCE}}?x=1'", "/to/http://b.test/", Some("/to/http://b.test/?x=1")),
    ] {
        let made = template.replace("SOURCE", SOURCES[0]);
        let mut exchange = request("GET", &format!("/k?u={}&w=1", quoted(text)), &[]);
        let outcome = run(&*with_template(&request_builder::KIND, &made, json!({})), &mut exchange);
        let request = exchange.request();
        let got = format!("{} {}", if template.contains("://") { &request.authority } else { "" }, request.target());
        assert_eq!((outcome == SUCCESS).then_some(got.trim()), want, "{template} with {text}");
    }
}

#[test]
fn a_message_is_no_pattern_and_no_group() {
    let template = "path: {regexpReplace: {regexp: '^/{{.req.URL.Query.Get \"u\"}}/(.*)', replace: '/{{.req.URL.Query.Get \"u\"}}-$1'}}";
    let adaptor = with_template(&request_adaptor::KIND, template, json!({}));
    for (text, path, want) in [("a.c", "/a.c/x", "/a.c-x"), ("a.c", "/abc/x", "/abc/x"), ("$1", "/$1/x", "/$1-x")] {
        let mut exchange = request("GET", &format!("{path}?u={}", quoted(text)), &[]);
        assert_eq!(run(&*adaptor, &mut exchange), SUCCESS);
        assert_eq!(exchange.request().path.as_str(), want, "{text}");
    }
}

#[test]
fn quotes_around_a_text_that_was_carried_along_hold_it() {
    const CARRIED: [&str; 6] = [
        ".req.JSONBody.v | quote",
        ".req.JSONBody.v | default \"none\" | quote",
        "printf \"%s\" .req.JSONBody.v | quote",
        ".req.JSONBody.v | toString | printf \"%q\"",
        ".req.JSONBody.v | coalesce \"\" | quote",
        "ternary .req.JSONBody.v \"\" true | quote",
    ];
    for carried in CARRIED {
        for text in ["x\", \"admin\": \"true", "\\", "\\\"", "a\nb", "plain"] {
            let (told, alone) = (format!("{{\"a\": {{{{{carried}}}}}}}"), format!("{{{{{carried}}}}}"));
            for (template, want) in [
                (format!("body: '{told}'"), json!({"a": text}).to_string()),
                (format!("body: |-\n  {told}"), json!({"a": text}).to_string()),
                (format!("body: {alone}"), text.to_owned()),
            ] {
                let mut exchange = asked(text);
                let outcome = run(&*with_template(&response_builder::KIND, &template, json!({})), &mut exchange);
                assert_eq!(outcome, SUCCESS, "{template}");
                let body = std::str::from_utf8(body_of(&exchange)).unwrap();
                if want.starts_with('{') {
                    assert_eq!(
                        serde_json::from_str::<Value>(body).ok(),
                        serde_json::from_str(&want).ok(),
                        "{template}"
                    );
                } else {
                    assert_eq!(body, want, "{template}");
                }
            }
        }
    }
    // Beside text of the document the quotes are YAML's, and gone when the text is put back.
    for text in ["x\"y", "plain"] {
        let mut exchange = asked(text);
        let template = "body: {{printf \"a %s\" .req.JSONBody.v | quote}}";
        assert_eq!(run(&*with_template(&response_builder::KIND, template, json!({})), &mut exchange), SUCCESS);
        assert_eq!(std::str::from_utf8(body_of(&exchange)), Ok(&*format!("a {text}")));
    }
}
