use rcgen::{
    CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    RsaKeySize, date_time_ymd,
};

use super::*;

/// 2030-06-15.
const NOW: Duration = Duration::from_secs(1_907_712_000);

#[test]
fn good_ones_are_read_as_pem_and_as_base64_of_it() {
    let (chain, key) = signed(params(&["Shop.test", "*.shop.test"]), &key_pair());
    for (chain, key) in [(chain.clone(), key.clone()), (STANDARD.encode(&chain), STANDARD.encode(&key))] {
        let certificate = read(&chain, &key).expect("good");
        assert_eq!(certificate.names(), ["shop.test", "*.shop.test"]);
        // 2031-01-01, as the file says.
        assert_eq!(certificate.not_after(), UNIX_EPOCH + Duration::from_secs(1_924_992_000));
        assert_eq!(certificate.fingerprint(), read(&chain, &key).expect("good").fingerprint());
    }
    // Base64 is often folded.
    let folded = STANDARD.encode(&chain).as_bytes().chunks(60).map(|line| [line, b"\r\n"].concat()).collect::<Vec<_>>();
    assert!(read(std::str::from_utf8(&folded.concat()).unwrap(), &key).is_ok());
}

#[test]
fn every_kind_of_key_is_taken() {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let others = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    for pair in others.into_iter().map(|kind| KeyPair::generate_for(kind).unwrap()).chain([rsa]) {
        let (chain, key) = signed(params(&["a.test"]), &pair);
        assert!(read(&chain, &key).is_ok(), "{:?}", pair.algorithm());
    }
}

/// SEC1 and PKCS#1 are what older tools write; PKCS#8 wraps them.
#[test]
fn old_forms_of_keys_are_taken() {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for (pair, label) in [(key_pair(), "EC PRIVATE KEY"), (rsa, "RSA PRIVATE KEY")] {
        let (chain, _) = signed(params(&["a.test"]), &pair);
        let pkcs8 = pair.serialize_der();
        // The wrapped key is the contents of the octet string at the end of the structure.
        let inner = (0..pkcs8.len())
            .find_map(|at| {
                let (header, length) = match pkcs8[at..] {
                    [4, 0x82, a, b, ..] => (4, usize::from(a) << 8 | usize::from(b)),
                    [4, 0x81, a, ..] => (3, usize::from(a)),
                    [4, a, ..] if a < 0x80 => (2, usize::from(a)),
                    _ => return None,
                };
                let inner = &pkcs8[at + header..];
                (at > 10 && inner.len() == length).then_some(inner)
            })
            .expect("an octet string up to the end");
        let key = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(inner));
        read(&chain, &key).unwrap_or_else(|error| panic!("{label}: {error}"));
    }
}

#[test]
fn names_are_those_of_the_alternative_names_or_the_common_name() {
    let mut without = params(&[]);
    without.distinguished_name.push(DnType::CommonName, "Old.Test");
    let (chain, key) = signed(without, &key_pair());
    assert_eq!(read(&chain, &key).unwrap().names(), ["old.test"]);
    let mut with = params(&["new.test", "192.0.2.1", "2001:db8::1"]);
    with.distinguished_name.push(DnType::CommonName, "old.test");
    let (chain, key) = signed(with, &key_pair());
    assert_eq!(read(&chain, &key).unwrap().names(), ["new.test", "192.0.2.1", "[2001:db8::1]"]);
}

#[test]
fn what_cannot_serve_is_refused_with_advice() {
    let pair = key_pair();
    let (chain, key) = signed(params(&["a.test"]), &pair);
    let (_, other_key) = signed(params(&["a.test"]), &key_pair());
    let dated = |from: i32, until: i32| {
        let mut params = params(&["a.test"]);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        signed(params, &pair).0
    };
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let changed = |text: &str| text.replacen("\nMII", "\n%II", 1);
    // A structure that ends early inside intact PEM.
    let cut_der = {
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&der[..der.len() - 40]))
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (chain, key, part, words) in [
        ("", &*key, Part::Chain, "empty"),
        (" \n", &key, Part::Chain, "empty"),
        (&chain, "", Part::Key, "empty"),
        ("%%%", &key, Part::Chain, "neither PEM"),
        ("AAAA", &key, Part::Chain, "base64, but not of PEM"),
        (&half(&chain), &key, Part::Chain, "cut off"),
        (&chain, &half(&key), Part::Key, "cut off"),
        (&changed(&chain), &key, Part::Chain, "not base64"),
        (&cut_der, &key, Part::Chain, "damaged"),
        (&format!("{chain}{cut_der}"), &key, Part::Chain, "certificate 2"),
        (&key, &chain, Part::Chain, "swapped"),
        (&chain, &chain, Part::Key, "swapped"),
        (&chain, encrypted, Part::Key, "passphrase"),
        (&chain, nonsense_key, Part::Key, "of no kind"),
        (&chain, &other_key, Part::Key, "not the one"),
        (&dated(2028, 2029), &key, Part::Chain, "expired at"),
        (&dated(2031, 2032), &key, Part::Chain, "not valid before"),
    ] {
        let error = read(chain, key).expect_err(words);
        assert!(error.part == part && error.text.contains(words), "{words:?}: {error:?}");
        assert!(error.text.contains(": "), "what to do is missing: {error}");
    }
    for chain in [dated(2028, 2029), dated(2031, 2032)] {
        assert!(Certificate::read_undated(&chain, &key).is_ok());
    }
}

/// Old tools and many appliances make certificates without extensions, which rustls does not read.
#[test]
fn version_1_is_served_and_a_wrong_key_is_called_that() {
    let pair = key_pair();
    let mut named = params(&[]);
    named.distinguished_name.push(DnType::CommonName, "old.test");
    let der = as_version_1(named.self_signed(&pair).unwrap().der(), &pair);
    let pem =
        |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    let certificate = read(&pem(&der), &pair.serialize_pem()).expect("version 1");
    assert_eq!(certificate.names(), ["old.test"]);
    assert_eq!(read_authorities(&pem(&der), UNIX_EPOCH + NOW).unwrap().len(), 1);
    let error = read(&pem(&der), &key_pair().serialize_pem()).unwrap_err();
    assert!(error.part == Part::Key && error.text.contains("not the one"), "{error}");
    // What cannot be read is the chain's fault, never the key's.
    for at in (0..der.len()).step_by(7) {
        let mut damaged = der.clone();
        damaged[at] ^= 0x5a;
        if let Err(error) = read(&pem(&damaged), &pair.serialize_pem())
            && error.part == Part::Key
        {
            let (_, parsed) = X509Certificate::from_der(&damaged).expect("a key is compared with what could be read");
            assert_ne!(
                parsed.public_key().raw,
                rcgen::PublicKeyData::subject_public_key_info(&pair),
                "byte {at}: {error}"
            );
        }
    }
}

/// The certificate without its version and extensions, signed again.
fn as_version_1(der: &[u8], key: &KeyPair) -> Vec<u8> {
    let outer = items(&items(der)[0].1);
    let kept: Vec<u8> =
        items(&outer[0].1).iter().filter(|(tag, _)| *tag < 0xa0).flat_map(|(tag, body)| item(*tag, body)).collect();
    let signed = item(0x30, &kept);
    let mut signature = vec![0];
    signature.extend(rcgen::SigningKey::sign(key, &signed).unwrap());
    item(0x30, &[signed, item(0x30, &outer[1].1), item(0x03, &signature)].concat())
}

/// Tag and contents of each item of a DER sequence.
fn items(mut der: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut items = Vec::new();
    while let [tag, first, rest @ ..] = der {
        let (length, rest) = match first {
            0x81 => (usize::from(rest[0]), &rest[1..]),
            0x82 => (usize::from(rest[0]) << 8 | usize::from(rest[1]), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        items.push((*tag, rest[..length].to_vec()));
        der = &rest[length..];
    }
    items
}

fn item(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u16;
    let header = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header, body.to_vec()].concat()
}

#[test]
fn authorities_are_read_and_dated() {
    let (one, _) = signed(params(&["a.test"]), &key_pair());
    let mut old = params(&["a.test"]);
    old.not_after = date_time_ymd(2030, 2, 1);
    let (old, _) = signed(old, &key_pair());
    let now = UNIX_EPOCH + NOW;
    assert_eq!(read_authorities(&format!("{one}{one}"), now).unwrap().len(), 2);
    assert_eq!(read_authorities(&STANDARD.encode(&one), now).unwrap().len(), 1);
    assert!(read_authorities(&format!("{one}{old}"), now).unwrap_err().text.contains("expired"));
    assert_eq!(read_authorities_undated(&format!("{one}{old}")).unwrap().len(), 2);
    assert_eq!(read_authorities("", now).unwrap_err().part, Part::Authorities);
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(2030, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 1);
    params
}

fn key_pair() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn signed(params: CertificateParams, key: &KeyPair) -> (String, String) {
    (params.self_signed(key).unwrap().pem(), key.serialize_pem())
}

fn read(chain: &str, key: &str) -> Result<Certificate, CertificateError> {
    Certificate::read(chain, key, UNIX_EPOCH + NOW)
}
