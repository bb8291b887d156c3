//! What OPA documents and tests of the functions that are added here (its policy reference, and the folders of its test cases that carry the
//! functions' names), with names and numbers of our own: a policy that was written for OPA decides the same here.
//!
//! `!` is what OPA ends with an error: the expression is undefined.

use super::tests::comes_to;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::{hmac, signature};
use serde_json::Value;

fn check(vectors: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (expression, want) in vectors {
        let found = comes_to(expression);
        let same = match (&found, *want) {
            (None, "!") => true,
            (Some(found), want) => {
                serde_json::from_str::<Value>(found).ok() == serde_json::from_str::<Value>(want).ok()
            }
            (None, _) => false,
        };
        if !same {
            wrong.push(format!("{expression}\n  is {found:?} and not {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn globs() {
    check(&[
        // Without delimiters the dot is one, and null is none at all.
        (r#"glob.match("*.shop.test", [], "api.shop.test")"#, "true"),
        (r#"glob.match("*.shop.test", [], "api.cdn.shop.test")"#, "false"),
        (r#"glob.match("*.shop.test", ["."], "api.other-shop.test")"#, "false"),
        (r#"glob.match("*op.test", null, "api.cdn.shop.test")"#, "true"),
        (r#"glob.match("*:shop:test", [":"], "api:shop:test")"#, "true"),
        (r#"glob.match("*:shop:test", [":"], "api:cdn:shop:test")"#, "false"),
        (r#"glob.match("/a/*/c.d", ["/"], "/a/b.x/c.d")"#, "true"),
        (r#"glob.match("a*c", [".", ":"], "a:c")"#, "false"),
        (r#"glob.match("a*c", ["ab"], "abc")"#, "!"),
        (r#"glob.match("a*c", [1], "abc")"#, "!"),
        (r#"glob.match("a*c", ".", "abc")"#, "!"),
        // Over delimiters.
        (r#"glob.match("api.**.test", [], "api.shop.test")"#, "true"),
        (r#"glob.match("api.**.test", [], "api.cdn.shop.test")"#, "true"),
        (r#"glob.match("**", [], "")"#, "true"),
        // Single characters and lists of them.
        (r#"glob.match("?at", [], "cat")"#, "true"),
        (r#"glob.match("?at", [], "at")"#, "false"),
        (r#"glob.match("?at", [], ".at")"#, "false"),
        (r#"glob.match("[abc]at", [], "bat")"#, "true"),
        (r#"glob.match("[abc]at", [], "lat")"#, "false"),
        (r#"glob.match("[!abc]at", [], "cat")"#, "false"),
        (r#"glob.match("[!abc]at", [], "lat")"#, "true"),
        (r#"glob.match("[a-c]at", [], "cat")"#, "true"),
        (r#"glob.match("[a-c]at", [], "lat")"#, "false"),
        (r#"glob.match("[!a-c]at", [], "cat")"#, "false"),
        (r#"glob.match("[!a-c]at", [], "lat")"#, "true"),
        (r#"glob.match("[^a]at", [], "^at")"#, "true"),
        // Alternatives.
        (r#"glob.match("{cat,bat,[fr]at}", [], "bat")"#, "true"),
        (r#"glob.match("{cat,bat,[fr]at}", [], "rat")"#, "true"),
        (r#"glob.match("{cat,bat,[fr]at}", [], "zat")"#, "false"),
        (r#"glob.quote_meta("*.shop.test")"#, r#""\\*.shop.test""#),
        (r#"glob.match(glob.quote_meta("*.shop.test"), [], "*.shop.test")"#, "true"),
        (r#"glob.match(glob.quote_meta("*.shop.test"), [], "api.shop.test")"#, "false"),
        (r#"glob.match("[", [], "[")"#, "!"),
        (r#"glob.match("{a", [], "a")"#, "!"),
    ]);
}

#[test]
fn networks() {
    check(&[
        (r#"net.cidr_contains("172.20.0.0/24", "172.20.0.5")"#, "true"),
        (r#"net.cidr_contains("172.20.0.0/24", "172.20.1.5")"#, "false"),
        (r#"net.cidr_contains("172.20.0.0/16", "172.20.3.0/24")"#, "true"),
        (r#"net.cidr_contains("172.20.0.0/24", "172.20.0.0/16")"#, "false"),
        (r#"net.cidr_contains("2001:db8:7::/48", "2001:db8:7:8::/64")"#, "true"),
        (r#"net.cidr_contains("not-a-network", "172.20.0.0/16")"#, "!"),
        (r#"net.cidr_contains("172.20.0.0/16", "not-a-network")"#, "!"),
        (r#"net.cidr_intersects("192.168.4.0/25", "192.168.4.64/25")"#, "true"),
        (r#"net.cidr_intersects("192.168.4.0/25", "192.168.4.128/25")"#, "false"),
        (r#"net.cidr_intersects("fd7a:1::/64", "fd7a:1::/60")"#, "true"),
        (r#"net.cidr_intersects("192.168.4.0/25", "no")"#, "!"),
        (r#"net.cidr_is_valid("192.168.4.0/24")"#, "true"),
        (r#"net.cidr_is_valid("2001:db8::/32")"#, "true"),
        (r#"net.cidr_is_valid("192.168.4.5")"#, "false"),
        (r#"net.cidr_is_valid("192.168.4.0/33")"#, "false"),
        (r#"net.cidr_is_valid("")"#, "false"),
        (r#"net.cidr_expand("192.168.4.8/30")"#, r#"["192.168.4.10","192.168.4.11","192.168.4.8","192.168.4.9"]"#),
        (r#"net.cidr_expand("192.168.4.8/32")"#, r#"["192.168.4.8"]"#),
        (r#"net.cidr_expand("192.168.4.8/33")"#, "!"),
        (r#"net.cidr_expand("192.168.4.8")"#, "!"),
    ]);
}

/// What a match is told by depends on what the networks are in.
#[test]
fn networks_that_contain_others() {
    let call = |first: &str, second: &str| format!("net.cidr_contains_matches({first}, {second})");
    for (first, second, want) in [
        (r#""10.7.0.0/24""#, r#""10.7.0.128""#, r#"[["10.7.0.0/24","10.7.0.128"]]"#),
        (r#"["10.7.0.0/24","10.7.1.0/24"]"#, r#""10.7.1.128""#, r#"[[1,"10.7.1.128"]]"#),
        (r#"[["10.7.0.0/24","a"],"10.7.1.0/24"]"#, r#"["10.7.1.128",["10.7.254.254","b"]]"#, "[[1,0]]"),
        (r#"{"10.7.0.0/24","10.7.1.0/24"}"#, r#"{"10.7.1.128"}"#, r#"[["10.7.1.0/24","10.7.1.128"]]"#),
        (r#"{["10.7.0.0/24","a"],["10.7.1.0/24","b"]}"#, r#"{"10.7.0.1"}"#, r#"[[["10.7.0.0/24","a"],"10.7.0.1"]]"#),
        (
            r#"{"k1":"10.7.0.1/24","k2":["10.7.0.2/24",1]}"#,
            r#""10.7.0.128""#,
            r#"[["k1","10.7.0.128"],["k2","10.7.0.128"]]"#,
        ),
        (r#"{"k1":"10.7.0.0/24"}"#, r#"{"x":"10.7.0.1","y":"10.8.0.1"}"#, r#"[["k1","x"]]"#),
        (r#"["10.7.0.0/24"]"#, r#"{1}"#, "!"),
        (r#"["10.7.0.0/24"]"#, r#"[[]]"#, "!"),
        (r#"1"#, r#""10.7.0.1""#, "!"),
    ] {
        check(&[(&call(first, second), want)]);
    }
}

#[test]
fn networks_that_are_one() {
    check(&[
        (r#"net.cidr_merge(["198.51.100.0/24"])"#, r#"["198.51.100.0/24"]"#),
        (r#"net.cidr_merge(["198.51.100.0/24", "198.51.100.0/24"])"#, r#"["198.51.100.0/24"]"#),
        (r#"net.cidr_merge(["198.51.100.0/24", "0.0.0.0/0"])"#, r#"["0.0.0.0/0"]"#),
        (r#"net.cidr_merge(["198.51.100.0/24", "198.51.101.0/24"])"#, r#"["198.51.100.0/23"]"#),
        (r#"net.cidr_merge(["198.51.101.0/24", "198.51.102.0/24"])"#, r#"["198.51.101.0/24","198.51.102.0/24"]"#),
        (r#"net.cidr_merge(["203.0.113.16/30", "203.0.113.20/31", "203.0.113.22/31"])"#, r#"["203.0.113.16/29"]"#),
        (r#"net.cidr_merge({"203.0.113.16/30", "203.0.113.20/31", "203.0.113.22/31"})"#, r#"["203.0.113.16/29"]"#),
        (
            r#"net.cidr_merge(["203.0.113.16/31", "203.0.113.20/31", "203.0.113.22/31"])"#,
            r#"["203.0.113.16/31","203.0.113.20/30"]"#,
        ),
        (
            r#"net.cidr_merge(["203.0.113.16/30", "203.0.113.20/32", "203.0.113.22/31"])"#,
            r#"["203.0.113.16/30","203.0.113.20/32","203.0.113.22/31"]"#,
        ),
        (r#"net.cidr_merge(["::/0", "fe80::7/128"])"#, r#"["::/0"]"#),
        (
            r#"net.cidr_merge(["fe80::/120", "198.51.100.0/24", "198.51.101.0/24", "198.51.102.0/25", "198.51.102.128/25"])"#,
            r#"["198.51.100.0/23","198.51.102.0/24","fe80::/120"]"#,
        ),
        (r#"net.cidr_merge(["2001:db8:1:2:3:4:5:6/64", "2001:db8:1:2:3:4:5:6/128"])"#, r#"["2001:db8:1:2::/64"]"#),
        (r#"net.cidr_merge([])"#, "[]"),
        // An address alone is the network of its class; an address of IPv6 is in none.
        (r#"net.cidr_merge(["203.0.113.16", "203.0.113.20/31"])"#, r#"["203.0.113.0/24"]"#),
        (r#"net.cidr_merge(["10.1.2.3"])"#, r#"["10.0.0.0/8"]"#),
        (r#"net.cidr_merge(["172.16.2.3"])"#, r#"["172.16.0.0/16"]"#),
        (r#"net.cidr_merge(["2001:db8::1"])"#, "!"),
        (r#"net.cidr_merge(["foo"])"#, "!"),
    ]);
}

/// Digests of RFC 1321, FIPS 180 and RFC 2202, 4231.
#[test]
fn digests() {
    check(&[
        (r#"crypto.md5("message digest")"#, r#""f96b697d7cb7938d525a2f31aaf161d0""#),
        (r#"crypto.sha1("")"#, r#""da39a3ee5e6b4b0d3255bfef95601890afd80709""#),
        (r#"crypto.sha256("")"#, r#""e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855""#),
        (r#"crypto.md5(1)"#, "!"),
        (r#"crypto.hmac.md5("what do ya want for nothing?", "Jefe")"#, r#""750c783e6ab0b503eaa86e310a5db738""#),
        (
            r#"crypto.hmac.sha1("what do ya want for nothing?", "Jefe")"#,
            r#""effcdf6ae5eb2fa2d27416d5f184df9c259a7c79""#,
        ),
        (
            r#"crypto.hmac.sha512("what do ya want for nothing?", "Jefe")"#,
            r#""164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737""#,
        ),
        (r#"crypto.hmac.equal("5bdc", "5bdc")"#, "true"),
        (r#"crypto.hmac.equal("5bdc", "5bdd")"#, "false"),
        (r#"crypto.hmac.equal("5bdc", "5b")"#, "false"),
        (r#"crypto.hmac.equal("5bdc", 1)"#, "!"),
    ]);
    // A key that is longer than a block of the digest is digested itself.
    let key = "k".repeat(80);
    let md5 = comes_to(&format!("crypto.hmac.md5(\"a\", \"{key}\")")).unwrap();
    assert_eq!(md5.len(), 34);
    assert_ne!(md5, comes_to(r#"crypto.hmac.md5("a", "k")"#).unwrap());
}

/// A token with this head and these claims, signed by `sign`.
fn token(head: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let mark = sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mark))
}

fn by_secret(algorithm: hmac::Algorithm) -> impl Fn(&[u8]) -> Vec<u8> {
    move |signed| hmac::sign(&hmac::Key::new(algorithm, b"s3cret"), signed).as_ref().to_vec()
}

#[test]
fn tokens_are_taken_apart() {
    let made = token(r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"nbf":1444478400,"iss":"xyz"}"#, |_| vec![0x13, 0xab]);
    check(&[
        (
            &format!("io.jwt.decode(\"{made}\")"),
            r#"[{"alg":"HS256","typ":"JWT"},{"nbf":1444478400,"iss":"xyz"},"13ab"]"#,
        ),
        (r#"io.jwt.decode("nothing")"#, "!"),
        (r#"io.jwt.decode("a.b")"#, "!"),
        (r#"io.jwt.decode("aaaa.bbbb.cccc")"#, "!"),
        (r#"io.jwt.decode("a.b.c.d.e")"#, "!"),
    ]);
}

#[test]
fn tokens_are_believed_by_their_key() {
    for (name, algorithm) in [("hs256", hmac::HMAC_SHA256), ("hs384", hmac::HMAC_SHA384), ("hs512", hmac::HMAC_SHA512)]
    {
        let made = token(&format!(r#"{{"alg":"{}"}}"#, name.to_uppercase()), r#"{"iss":"xxx"}"#, by_secret(algorithm));
        check(&[
            (&format!("io.jwt.verify_{name}(\"{made}\", \"s3cret\")"), "true"),
            (&format!("io.jwt.verify_{name}(\"{made}\", \"other\")"), "false"),
            (&format!("io.jwt.decode_verify(\"{made}\", {{\"secret\": \"s3cret\"}})[2]"), r#"{"iss":"xxx"}"#),
        ]);
    }
    let random = SystemRandom::new();
    let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let own = rcgen::KeyPair::generate().unwrap();
    let key = signature::EcdsaKeyPair::from_pkcs8(kind, &own.serialize_der(), &random).unwrap();
    let made =
        token(r#"{"alg":"ES256"}"#, r#"{"iss":"xxx"}"#, |signed| key.sign(&random, signed).unwrap().as_ref().to_vec());
    let quoted = |pem: &str| serde_json::to_string(pem).unwrap();
    let certificate = |key: &rcgen::KeyPair| {
        quoted(&rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(key).unwrap().pem())
    };
    let (public, certified) = (quoted(&own.public_key_pem()), certificate(&own));
    let others = certificate(&rcgen::KeyPair::generate().unwrap());
    for (key, want) in [(&public, "true"), (&certified, "true"), (&others, "false"), (&quoted("no key"), "!")] {
        check(&[(&format!("io.jwt.verify_es256(\"{made}\", {key})"), want)]);
    }
    for (key, want) in [(&certified, "true"), (&others, "false")] {
        check(&[(&format!("io.jwt.decode_verify(\"{made}\", {{\"cert\": {key}}})[0]"), want)]);
    }
    let refused = r#"[false,{},{}]"#;
    check(&[
        (&format!("io.jwt.decode_verify(\"{made}\", {{\"cert\": {certified}, \"alg\": \"RS256\"}})"), refused),
        // Whoever has the certificate, which everybody has, cannot sign with it as a secret.
        (&format!("io.jwt.decode_verify(\"{made}\", {{\"secret\": {certified}}})"), refused),
    ]);
}

#[test]
fn tokens_keep_all_constraints() {
    let head = r#"{"alg":"HS256","typ":"JWT"}"#;
    let refused = r#"[false,{},{}]"#;
    for (claims, constraints, want) in [
        (r#"{"iss":"xxx"}"#, r#""iss": "xxx""#, "kept"),
        (r#"{"iss":"xxx"}"#, r#""iss": "yyy""#, refused),
        (r#"{"sub":"u"}"#, r#""iss": "xxx""#, refused),
        (r#"{"aud":"fred"}"#, r#""aud": "fred""#, "kept"),
        (r#"{"aud":["fred","bob"]}"#, r#""aud": "bob""#, "kept"),
        (r#"{"aud":["fred","bob"]}"#, r#""aud": "cath""#, refused),
        (r#"{"aud":"fred"}"#, "", refused),
        (r#"{"sub":"u"}"#, r#""aud": "fred""#, refused),
        (r#"{"sub":"u"}"#, r#""alg": "HS256""#, "kept"),
        (r#"{"sub":"u"}"#, r#""alg": "HS384""#, refused),
        // `time` is in nanoseconds, the token's times are in seconds, and may have a fraction.
        (r#"{"exp":3000}"#, r#""time": 2999000000000"#, "kept"),
        (r#"{"exp":3000}"#, r#""time": 3000000000000"#, refused),
        (r#"{"exp":3000}"#, "", refused),
        (r#"{"exp":1589385771.1234}"#, r#""time": 1589385771122400000"#, "kept"),
        (r#"{"exp":1589385771.1234}"#, r#""time": 1589385772123400000"#, refused),
        (r#"{"nbf":1000}"#, r#""time": 1000000000000"#, "kept"),
        (r#"{"nbf":1000}"#, r#""time": 500000000000"#, refused),
        (r#"{"nbf":1589385770.1234}"#, r#""time": 1589385770124400000"#, "kept"),
        (r#"{"nbf":1000}"#, "", "kept"),
        (r#"{"iat":3000}"#, r#""time": 1000000000000"#, "kept"),
        (r#"{"exp":null}"#, "", "!"),
        (r#"{"exp":"soon"}"#, "", "!"),
        (r#"{"nbf":"now"}"#, "", "!"),
        (r#"{"sub":"u"}"#, r#""time": "now""#, "!"),
        (r#"{"exp":3000}"#, r#""time": -1"#, "!"),
        (r#"{"sub":"u"}"#, r#""whatever": "junk""#, "!"),
        (r#"{"sub":"u"}"#, r#""cert": "both""#, "!"),
    ] {
        let made = token(head, claims, by_secret(hmac::HMAC_SHA256));
        let more = if constraints.is_empty() { String::new() } else { format!(", {constraints}") };
        let kept = format!("[true,{head},{claims}]");
        let want = if want == "kept" { &kept } else { want };
        check(&[(&format!("io.jwt.decode_verify(\"{made}\", {{\"secret\": \"s3cret\"{more}}})"), want)]);
    }
    let unsigned = token(r#"{"alg":"none"}"#, r#"{"sub":"u"}"#, |_| Vec::new());
    let critical = token(r#"{"alg":"HS256","crit":["x"]}"#, r#"{"sub":"u"}"#, by_secret(hmac::HMAC_SHA256));
    for refuses in [unsigned, critical] {
        check(&[(&format!("io.jwt.decode_verify(\"{refuses}\", {{\"secret\": \"s3cret\"}})"), refused)]);
    }
}

/// A key made for this, and what OpenSSL signed with it.
const RSA: &str = r#"{"kty":"RSA","e":"AQAB","n":"yAm1Xdo0mkGnN1hz6P2ifORRlXEvdNLYm_vtQhyL6MWezeR1J4FL3RkqTkujfx2c7770RgxGAQOI3-w1Ec5KD6Zra0fl0gYOLAIkefwF9eNjUYUtgZvJFZgKZ46AH17mfzkIXWRmiKsSSpP1qwbng0KLSDH5tweTQ47MMWYThcAeleu8IvkjRWPpuyYT_EnOzB0IyKph5E5r7Lk3zgYXavcNQ7dDnFDtd-J1paTFGpzjqoru3hOWsnN9rrAtiixKjNBFz_F6INN0llQgXY15GRtcSp51Du9_USyDTZ79Qf0kSbClzkkaaaMvDXKgSBuyi4lF89m5VIFOsyFVAqxw0Q","d":"AaJurHMlfeMuchnTbKJx6vJUplNz71DvuyqOUD16eS7wMr98o5N_YrGbcmNU1SuRRjY5ub7M7aIxQp8j-d7FJSaXdxtxycsJ35su4B5KkC1I-PgNHKOAu5_v6dO0wUzdtklpg5XX7qLzNc_KsJiQWLa4-6CI6VFzBxjKG1c5rpyVECUpfNCEEQtQNGB7Q0R9U0rWhzmPctuQtDMhVDSTYI7pU1hdSBo8IwenfwPGb1MsmMQky-Whv77mRLNLiStvXRffVpWiH10I4zGcdLyST2SXEvqTcd34T1_SdDSSfklJY2K67OvK2WioKPA6B8aOhzt2ALD-gtL8ahiOUz1dxw","p":"6fCrFZ-_xwKJbu22uRqm6ZgHj6krN8wT1spKB9G3NaSB_VC3ZENGxz6BAfYGu5mt8RdqFFRjHwLFUXN9Bepq1CfPLq3bHHLqxf_GwibQKAv1lYXWE7pHVHNXPr_XjsUbRS-Ksu73XqG8Wh5_o4B4CFtPUCVY0DCU6cOaOw-IELs","q":"2uaji4N2IW5qBGRpjTKL53V_7ULUp2KPaIxnSSmHuzo_k0rfEJqGkakbZ2orU8s4ILxdiXzQ59lwfyBl9H0cRw2lVgSzTxmiw_3QOXnku-oO2GyCYZjSJuCjZJIRrLP20pcakMxU82DglYuRPVEKEB2WWiBAwRH_Zww5sZeAoeM","dp":"L7Uh3q4OWRJeXp3htowF3_teB2ETbDSVEyd7w250M19SFwu_6pWBuJ45huHaa6WigFkrC-xNroRNIxgvNeahVJStvrI7zehtkmVf7jYmGxSdR5ncl3dUlpdTAnvzBK2Tqx9P5L-w-L54_9PaaciIMgQU_54uJ37Qz39RU5wOPoM","dq":"XWIC5uOAI6bsx07m0Ht9v5IarubRvU6IiztKXKXA55hjwrwwCO9C9STFMgrSzP5mxWBWLu72V9Ik8baqh_BPfehOXjHHJLl0_FNs3vgnIhsplh5ESMpe7ILscVz2-UwUwaYAiUECBImRhXpyzUujFVjp6SzVMwgwgo9ulVpiX60","qi":"YxNRbDnYCtyNjyREt84jwM3zpWo8s_s5izOos1BnGpoCxEpviNXeobyOz8_BF7LuEWQbQwzvFoQvkKsgqV-PhZ2-8lTs5yaM1NhXcT7MV2YcAA2tXz0dUK0ts9BlRyhJgfIlGQ3XwTk36XpXFWvRvCfhW7O7e4DR9AtSvJUpr4Q"}"#;
const BY_OPENSSL: &str = "eyJhbGciOiAiUlMyNTYifQ.eyJpc3MiOiAiam9lIn0.TVDR6w3DHAyRbwH3wo6WomLSRwRNqli8wwNueBOxxNF-yHK65QyttYAtOoVh6LIUOmyZTH5VDYpHpM7Ssl_gRYSpBkYp44DfKZNIi40j_JOt2A6a2a7NF-PJrdZP8VmsNaDBw1I1Xj34JtjEb2UwBYPZPFCTQTBgGr9yfzOOz3-mEFskLmySyF57TMZKllxXZkx2XGkt9i7WkkC7-Pafe2FjF5aQf5c2HkNHrFLSvuBZqIbus6Y4MYVCW8QnXsulm50UMiWh7-XnVVhzrWMgN58szS4Cs20Ps9ugj9lGdDBjuRWaUCZaHwcwLZ8KpAb_mOotWx1kYNM5OCyLgLtpVg";

/// The first is of OPA's own cases, the second of RFC 7515 appendix A.1.
#[test]
fn tokens_are_signed() {
    let secret = r#"{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    let text = |text: &str| serde_json::to_string(text).unwrap();
    let documented = concat!(
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOlsiYm9iIiwic2F1bCJdLCJleHAiOjEzMDA4MTkzODAsImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290",
        "Ijp0cnVlLCJpc3MiOiJqb2UiLCJwcml2YXRlUGFyYW1zIjp7InByaXZhdGVfb25lIjoib25lIiwicHJpdmF0ZV90d28iOiJ0d28ifX0.",
        "-Or2eol8bzly-Ztb0v7_7UkcKBkN_aNNpK33HK0MeOY"
    );
    let claims = r#"{"iss": "joe", "exp": 1300819380, "aud": ["bob", "saul"], "http://example.com/is_root": true,
        "privateParams": {"private_one": "one", "private_two": "two"}}"#;
    let of_rfc = concat!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290",
        "Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let raw = |head: &str, claims: &str, key: &str| {
        format!("io.jwt.encode_sign_raw({}, {}, {})", text(head), text(claims), text(key))
    };
    check(&[
        (&format!(r#"io.jwt.encode_sign({{"typ": "JWT", "alg": "HS256"}}, {claims}, {secret})"#), &text(documented)),
        (
            &raw(
                "{\"typ\":\"JWT\",\r\n \"alg\":\"HS256\"}",
                "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}",
                secret,
            ),
            &text(of_rfc),
        ),
        (&raw(r#"{"alg": "RS256"}"#, r#"{"iss": "joe"}"#, RSA), &text(BY_OPENSSL)),
        // A set has its first key.
        (
            &raw(r#"{"alg": "RS256"}"#, r#"{"iss": "joe"}"#, &format!(r#"{{"keys": [{RSA}, {secret}]}}"#)),
            &text(BY_OPENSSL),
        ),
        // What is no token may say anything; a token has claims.
        (
            &raw(r#"{"typ":"text/plain","alg":"HS256"}"#, "e", r#"{"kty":"oct","k":"cw"}"#),
            r#""eyJ0eXAiOiJ0ZXh0L3BsYWluIiwiYWxnIjoiSFMyNTYifQ.ZQ.bScU8VkDOf0L76ujgXHgT5-ZiFZGcjN_hdyGZYIrlVA""#,
        ),
        (&raw(r#"{"alg":"HS256"}"#, "e", r#"{"kty":"oct","k":"cw"}"#), "!"),
        (&raw(r#"{"alg":"none"}"#, "{}", r#"{"kty":"oct","k":"cw"}"#), "!"),
        (&raw(r#"{"alg":"RS256"}"#, "{}", r#"{"kty":"oct","k":"cw"}"#), "!"),
        (&raw(r#"{"alg":"HS256"}"#, "{}", r#"{"kty":"oct","k":""}"#), "!"),
        (&raw(r#"{"alg":"HS256"}"#, "{}", RSA), "!"),
        (&raw(r#"{"alg":"HS256"}"#, "{}", "no key"), "!"),
        (&raw("no head", "{}", secret), "!"),
        (r#"io.jwt.encode_sign({"alg": "HS256"}, "no claims", {"kty": "oct", "k": "cw"})"#, "!"),
    ]);
    // Those that are signed anew each time count for who has the public key.
    let random = SystemRandom::new();
    let curve = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = rcgen::KeyPair::generate().unwrap();
    let der = pair.serialize_der();
    let own = signature::EcdsaKeyPair::from_pkcs8(curve, &der, &random).unwrap();
    let point = signature::KeyPair::public_key(&own).as_ref().to_vec();
    // In PKCS#8 of a P-256 key the secret stands before the point, in an OCTET STRING of 32 bytes.
    let at = der.windows(4).position(|bytes| bytes == [2, 1, 1, 4]).unwrap() + 5;
    let (x, y, d) = (&point[1..33], &point[33..], &der[at..at + 32]);
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = format!(r#""kty": "EC", "crv": "P-256", "x": "{}", "y": "{}""#, encoded(x), encoded(y));
    let key = format!(r#"{{{public}, "d": "{}"}}"#, encoded(d));
    let signed = format!(r#"io.jwt.encode_sign({{"alg": "ES256"}}, {{"iss": "joe"}}, {key})"#);
    let set = text(&format!(r#"{{"keys": [{{{public}}}]}}"#));
    let of_rsa = text(&format!(r#"{{"keys": [{RSA}]}}"#));
    check(&[
        (&format!("io.jwt.verify_es256({signed}, {set})"), "true"),
        // A key alone is a set of one.
        (&format!("io.jwt.verify_es256({signed}, {})", text(&format!("{{{public}}}"))), "true"),
        (&format!(r#"io.jwt.verify_ps256(io.jwt.encode_sign({{"alg": "PS256"}}, {{}}, {RSA}), {of_rsa})"#), "true"),
        (&format!(r#"io.jwt.encode_sign({{"alg": "ES384"}}, {{}}, {key})"#), "!"),
    ]);
}

/// RFC 7519 section 5.2: a token that carries another one, each signed.
#[test]
fn tokens_in_tokens_are_taken_apart_and_believed_by_both_marks() {
    let inner = token(r#"{"alg":"HS256"}"#, r#"{"iss":"xxx"}"#, by_secret(hmac::HMAC_SHA256));
    let around = |inner: &str, secret: &'static [u8]| {
        token(r#"{"alg":"HS256","cty":"jwt"}"#, inner, move |signed| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed).as_ref().to_vec()
        })
    };
    let outer = around(&inner, b"s3cret");
    let forged_inside = around(&token(r#"{"alg":"HS256"}"#, r#"{"iss":"root"}"#, |_| vec![0; 32]), b"s3cret");
    let forged_outside = around(&inner, b"other");
    let many = (0..20).fold(inner.clone(), |inner, _| around(&inner, b"s3cret"));
    let verify =
        |token: &str, more: &str| format!("io.jwt.decode_verify(\"{token}\", {{\"secret\": \"s3cret\"{more}}})");
    let refused = r#"[false,{},{}]"#;
    check(&[
        (&format!("io.jwt.decode(\"{outer}\")[1]"), r#"{"iss":"xxx"}"#),
        (&verify(&outer, ""), r#"[true,{"alg":"HS256"},{"iss":"xxx"}]"#),
        (&verify(&outer, r#", "iss": "xxx""#), r#"[true,{"alg":"HS256"},{"iss":"xxx"}]"#),
        (&verify(&outer, r#", "iss": "yyy""#), refused),
        (&verify(&forged_inside, ""), refused),
        (&verify(&forged_outside, ""), refused),
        (&verify(&many, ""), refused),
        (&format!("io.jwt.decode(\"{many}\")"), "!"),
        (&verify(&around("no token", b"s3cret"), ""), refused),
    ]);
}
