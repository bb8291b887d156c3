use std::time::UNIX_EPOCH;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::*;

/// 2030-06-15.
const NOW: u64 = 1_907_712_000;

struct Pair {
    chain: String,
    key: String,
}

fn pair(from: (i32, u8, u8), until: (i32, u8, u8)) -> Pair {
    let mut params = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from.0, from.1, from.2);
    params.not_after = date_time_ymd(until.0, until.1, until.2);
    let key = KeyPair::generate().unwrap();
    Pair { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn good() -> Pair {
    pair((2030, 1, 1), (2031, 1, 1))
}

fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2030, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 1);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// What the door says: problems and warnings, each with its field.
fn told(mut fields: Value) -> (Vec<String>, Vec<String>) {
    fields["port"] = 443.into();
    fields["https"] = true.into();
    let spec = crate::decode::<HttpServerSpec>(&fields, "").unwrap().value;
    let mut findings = Findings::default();
    spec.validate("", &mut findings);
    let mut dates = Dates::default();
    spec.check_certificates("", UNIX_EPOCH + Duration::from_secs(NOW), &mut dates, &mut findings);
    dates.judge(&mut findings, Dates::default);
    for problem in &findings.problems {
        println!("{problem}");
    }
    (
        findings.problems.iter().map(|p| p.path.clone()).collect(),
        findings.warnings.iter().map(|w| w.to_string()).collect(),
    )
}

fn refused(fields: Value, places: &[&str]) {
    let (problems, _) = told(fields.clone());
    assert_eq!(problems, places, "{fields}");
}

#[test]
fn good_pairs_are_taken_as_pem_and_as_base64() {
    let (a, b) = (good(), good());
    assert_eq!(told(json!({"certBase64": a.chain, "keyBase64": a.key})), (vec![], vec![]));
    let encoded = |text: &str| base64(text.as_bytes());
    let fields = json!({
        "certs": {"one": encoded(&a.chain), "two": b.chain}, "keys": {"one": encoded(&a.key), "two": b.key},
        "caCertBase64": encoded(&authority()),
    });
    assert_eq!(told(fields), (vec![], vec![]));
}

#[test]
fn every_problem_is_told_under_the_name_of_its_field() {
    let (a, b) = (good(), good());
    let (old, young) = (pair((2029, 1, 1), (2030, 6, 14)), pair((2030, 6, 16), (2031, 1, 1)));
    refused(json!({"certBase64": old.chain, "keyBase64": old.key}), &["certBase64"]);
    refused(json!({"certBase64": young.chain, "keyBase64": young.key}), &["certBase64"]);
    refused(json!({"certBase64": a.chain, "keyBase64": b.key}), &["keyBase64"]);
    refused(json!({"certBase64": &a.chain[..a.chain.len() / 2], "keyBase64": a.key}), &["certBase64"]);
    refused(json!({"certBase64": a.chain, "keyBase64": &a.key[..a.key.len() / 2]}), &["keyBase64"]);
    refused(json!({"certBase64": "%%%", "keyBase64": a.key}), &["certBase64"]);
    refused(json!({"certBase64": a.chain}), &["keyBase64", "https"]);
    refused(json!({"keyBase64": a.key}), &["certBase64", "https"]);
    refused(
        json!({
            "certs": {"one": old.chain, "two": a.chain, "three": b.chain, "four": b.chain},
            "keys": {"one": old.key, "two": b.key, "four": b.key},
            "caCertBase64": "nonsense",
        }),
        &["keys.three", "keys.two", "caCertBase64", "certs.one"],
    );
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let soon = pair((2030, 1, 1), (2030, 6, 25));
    let (problems, warnings) = told(json!({"certBase64": soon.chain, "keyBase64": soon.key}));
    assert_eq!(problems, [""; 0]);
    assert_eq!(warnings, ["certBase64: the certificate ends in 10 days; renew it"]);
}

#[test]
fn what_has_ended_is_served_on() {
    let old = pair((2019, 1, 1), (2020, 1, 1));
    let fields = json!({"port": 443, "https": true, "certs": {"old": old.chain}, "keys": {"old": old.key}});
    let spec = crate::decode::<HttpServerSpec>(&fields, "").unwrap().value;
    let served = spec.certificates().unwrap();
    assert_eq!(served[0].name, "old");
    assert!(served[0].certificate.not_after() < SystemTime::now());
    assert!(spec.client_authorities().unwrap().is_none());
}

/// Everything that has a date, in each kind of document that can hold it.
#[test]
fn the_dates_of_a_stored_certificate_keep_nothing_from_being_changed() {
    let (old, young, other) =
        (pair((2029, 1, 1), (2030, 6, 14)), pair((2030, 6, 16), (2031, 1, 1)), pair((2029, 1, 1), (2030, 6, 14)));
    let proxy = |change: &str, mtls: Value| json!({"name": change, "kind": "Proxy", "mtls": mtls, "pools": [{"servers": [{"url": "https://127.0.0.1:1"}]}]});
    let documents: [&Made<'_>; 6] = [
        &|change, pair| server(change, json!({"certBase64": pair.chain, "keyBase64": pair.key})),
        &|change, pair| server(change, json!({"certs": {"a": base64(pair.chain.as_bytes())}, "keys": {"a": pair.key}})),
        &|change, pair| {
            let own = good();
            server(change, json!({"certBase64": own.chain, "keyBase64": own.key, "caCertBase64": pair.chain}))
        },
        &|change, pair| {
            let mtls = json!({"certBase64": pair.chain, "keyBase64": pair.key});
            json!({"name": "x", "kind": "Pipeline", "filters": [proxy(change, mtls)]})
        },
        &|change, pair| {
            let roots = format!("{}{}", authority(), pair.chain);
            json!({"name": "x", "kind": "Pipeline", "filters": [proxy(change, json!({"rootCertBase64": roots}))]})
        },
        &|change, pair| {
            let mtls = json!({"certBase64": pair.chain, "keyBase64": pair.key});
            json!({"name": "x", "kind": "GlobalFilter", "beforePipeline": {"filters": [proxy(change, mtls)]}})
        },
    ];
    for document in documents {
        for pair in [&old, &young] {
            let stored = document("one", pair);
            assert_eq!(admitted(&stored, None).0, 1, "as a new document: {stored}");
            assert_eq!(admitted(&document("two", pair), Some(&stored)), (0, 1), "another place changed: {stored}");
            assert_eq!(admitted(&document("two", &other), Some(&stored)).0, 1, "another certificate: {stored}");
        }
    }
    // One that was not served is new to those who would see it.
    let mut idle = server("one", json!({"certBase64": old.chain, "keyBase64": old.key}));
    idle["https"] = false.into();
    assert_eq!(admitted(&server("one", json!({"certBase64": old.chain, "keyBase64": old.key})), Some(&idle)).0, 1);
    // A key that is another's is a problem whatever the dates.
    let stored = server("one", json!({"certBase64": old.chain, "keyBase64": old.key}));
    let swapped = server("one", json!({"certBase64": old.chain, "keyBase64": other.key}));
    assert_eq!(admitted(&swapped, Some(&stored)).0, 1);
}

/// A document of a state, with a certificate in it.
type Made<'a> = dyn Fn(&str, &Pair) -> Value + 'a;

fn server(path: &str, mut fields: Value) -> Value {
    for (key, value) in
        [("name", json!("x")), ("kind", json!("HTTPServer")), ("port", json!(443)), ("https", json!(true))]
    {
        fields[key] = value;
    }
    fields["rules"] = json!([{"paths": [{"path": format!("/{path}"), "backend": "p"}]}]);
    fields
}

/// How many problems and warnings the door has with a document that would replace `stored`.
fn admitted(document: &Value, stored: Option<&Value>) -> (usize, usize) {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    match crate::Object::admit(document, &crate::pipeline::tests::Kinds, now, |name| stored.filter(|_| name == "x")) {
        Ok(object) => {
            for warning in &object.warnings {
                assert!(warning.message.contains("was here before"), "{warning}");
            }
            (0, object.warnings.len())
        }
        Err(problems) => (problems.len(), 0),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}
