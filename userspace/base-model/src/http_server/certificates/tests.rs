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
    spec.check_certificates("", UNIX_EPOCH + Duration::from_secs(NOW), &mut findings);
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
        &["keys.three", "certs.one", "keys.two", "caCertBase64"],
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
