use super::*;
use base_model::decode;

/// Words and secret of AWS's own test vectors.
const AWS: &str = "{literal: {scopeSuffix: aws4_request, algorithmName: X-Amz-Algorithm, algorithmValue: AWS4-HMAC-SHA256, \
                   signedHeaders: X-Amz-SignedHeaders, signature: X-Amz-Signature, date: X-Amz-Date, expires: X-Amz-Expires, \
                   credential: X-Amz-Credential, contentSha256: X-Amz-Content-Sha256, signingKeyPrefix: AWS4}, \
                   accessKeys: {AKIDEXAMPLE: wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY}}";
const DATE: &str = "20150830T123600Z";

fn signatures(spec: &str) -> Signatures {
    Signatures::new(decode(&base_model::yaml::parse_document(spec).unwrap(), "").unwrap().value)
}

fn request(method: &str, target: &str, host: &str, headers: &[(&str, &str)]) -> Request {
    let method = proto_http::Method::parse(method.as_bytes()).unwrap();
    let mut request = Request { method, ..Request::default() };
    request.set_target(target.as_bytes()).unwrap();
    request.authority = host.to_owned();
    headers.iter().for_each(|(name, value)| request.headers.add(name, value));
    request
}

fn check(spec: &str, request: &Request, body: Option<&[u8]>, now: i64) -> Result<(), SignatureError> {
    signatures(spec).begin(request, now)?.verify(body)
}

#[test]
fn the_vectors_of_aws() {
    let now = seconds_of(DATE).unwrap();
    assert_eq!(now, 1_440_938_160);
    for (method, target, signed, mark) in [
        ("GET", "/", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ] {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={signed}, \
             Signature={mark}"
        );
        let headers = [("X-Amz-Date", DATE), ("Authorization", &authorization)];
        let signed = request(method, target, "example.amazonaws.com", &headers);
        assert_eq!(check(AWS, &signed, Some(b""), now), Ok(()), "{method} {target}");
        assert_eq!(check(AWS, &signed, Some(b"x"), now), Err(SignatureError::Wrong), "another body");
        let elsewhere = request(method, "/other", "example.amazonaws.com", &headers);
        assert_eq!(check(AWS, &elsewhere, Some(b""), now), Err(SignatureError::Wrong));
        let host = request(method, target, "example.test", &headers);
        assert_eq!(check(AWS, &host, Some(b""), now), Err(SignatureError::Wrong));
    }
}

/// Signs as those do who call us, by the same steps from the other end.
fn sign(method: &str, target: (&str, &str), fields: &str, signed: &str, body: &[u8], scope: &[&str]) -> String {
    let of_body = hex(digest::digest(&digest::SHA256, body).as_ref());
    let canonical = format!("{method}\n{}\n{}\n{fields}\n{signed}\n{of_body}", target.0, target.1);
    let canonical = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("HMAC-SHA256\n{DATE}\n{}\n{canonical}", scope.join("/"));
    let mut key = b"secret".to_vec();
    for part in scope {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()).as_ref())
}

#[test]
fn fields_and_paths_are_signed_in_canonical_form() {
    let spec = "accessKeys: {ann: secret}";
    let scope = ["20150830", "eu", "request"];
    // A client may escape more than we do when it signs; both are the same path.
    let target = ("/a/b%2520c/%2540d", "k=a+b&k=b&l=");
    let mark =
        sign("PUT", target, "host:h.test\nx-date:20150830T123600Z\nx-k:a b,c\n", "host;x-date;x-k", b"body", &scope);
    let authorization =
        format!("HMAC-SHA256 Credential=ann/20150830/eu/request, SignedHeaders=host;x-date;x-k, Signature={mark}");
    let headers =
        [("X-Date", DATE), ("X-K", "  a   b "), ("X-K", "c"), ("X-Unsigned", "z"), ("Authorization", &authorization)];
    let now = seconds_of(DATE).unwrap();
    for path in ["/a/b%20c/%40d?l&k=b&k=a%20b", "/a/b%20c/@d?k=b&k=a+b&l="] {
        let request = request("PUT", path, "h.test", &headers);
        assert_eq!(check(spec, &request, Some(b"body"), now), Ok(()), "{path}");
        assert_eq!(check(spec, &request, None, now), Err(SignatureError::Wrong), "the body is signed");
    }
    let target = "/a/b%20c/%40d?l&k=b&k=a%20b&%zz";
    let ambiguous = request("PUT", target, "h.test", &headers);
    assert_eq!(check(spec, &ambiguous, Some(b"body"), now), Err(SignatureError::Malformed));
}

#[test]
fn a_request_signed_for_somebody_else() {
    let spec = "accessKeys: {ann: secret}";
    let scope = ["20150830", "eu", "request"];
    let credential = "ann%2F20150830%2Feu%2Frequest";
    let query = format!(
        "X-Algorithm=HMAC-SHA256&X-Credential={credential}&X-Date={DATE}&X-Expires=300&X-SignedHeaders=host&a=1"
    );
    let mark = sign("GET", ("/x", &query), "host:h.test\n", "host", b"", &scope);
    let now = seconds_of(DATE).unwrap();
    let signed = |query: &str| request("GET", &format!("/x?{query}"), "h.test", &[]);
    let whole = signed(&format!("{query}&X-Signature={mark}"));
    assert_eq!(check(spec, &whole, Some(b""), now + 300), Ok(()));
    assert_eq!(check(spec, &whole, Some(b""), now + 301), Err(SignatureError::Expired));
    for (changed, error) in [
        (query.replace("a=1", "a=2"), SignatureError::Wrong),
        (query.replace("=300", "=400"), SignatureError::Wrong),
        (query.replace("=300", "=many"), SignatureError::Malformed),
        (query.replace("X-Expires=300&", ""), SignatureError::Malformed),
        (query.replace("ann%2F", "bob%2F"), SignatureError::UnknownKey),
        (query.replace("HMAC-SHA256", "none"), SignatureError::Algorithm),
        (format!("{query}&X-Credential={credential}"), SignatureError::Malformed),
    ] {
        let request = signed(&format!("{changed}&X-Signature={mark}"));
        assert_eq!(check(spec, &request, Some(b""), now), Err(error), "{changed}");
    }
    assert_eq!(check(spec, &signed(&query), Some(b""), now), Err(SignatureError::Missing));
}

#[test]
fn times_and_keys() {
    let with_ttl = "{accessKeys: {ann: secret}, ttl: 5m}";
    let scope = ["20150830", "eu", "request"];
    let mark = sign("GET", ("/", ""), "host:h.test\n", "host", b"", &scope);
    let authorization = |id: &str, mark: &str| {
        format!("HMAC-SHA256 Credential={id}/20150830/eu/request, SignedHeaders=host, Signature={mark}")
    };
    let ask = |authorization: &str, date: &str, now: i64| {
        let headers = [("X-Date", date), ("Authorization", authorization)];
        check(with_ttl, &request("GET", "/", "h.test", &headers), Some(b""), now)
    };
    let (right, now) = (authorization("ann", &mark), seconds_of(DATE).unwrap());
    assert_eq!((ask(&right, DATE, now + 300), ask(&right, DATE, now - 300)), (Ok(()), Ok(())));
    for later in [301, -301] {
        assert_eq!(ask(&right, DATE, now + later), Err(SignatureError::Expired));
    }
    assert_eq!(ask(&right, "20150831T123600Z", now), Err(SignatureError::Malformed), "another day than the scope's");
    assert_eq!(ask(&right, "20150830T123601Z", now), Err(SignatureError::Wrong));
    assert_eq!(ask(&authorization("bob", &mark), DATE, now), Err(SignatureError::UnknownKey));
    assert_eq!(ask(&authorization("ann", &mark.to_uppercase()), DATE, now), Err(SignatureError::Malformed));
    for text in [
        "",
        "HMAC-SHA256",
        "HMAC-SHA256 ",
        "HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00",
        "HMAC-SHA256 Credential=a/b/c, SignedHeaders=, Signature=00",
        "HMAC-SHA256 Credential=a/b/c, SignedHeaders=host",
        "HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=00, More=1",
        "HMAC-SHA256 SignedHeaders=host, Credential=a/b/c, Signature=00",
        "HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=0g",
    ] {
        assert_eq!(read_authorization(text, "HMAC-SHA256").err(), Some(SignatureError::Malformed), "{text}");
    }
    assert_eq!(read_authorization("Basic YTpi", "HMAC-SHA256").err(), Some(SignatureError::Algorithm));
}

#[test]
fn dates() {
    for (text, seconds) in [
        ("19700101T000000Z", Some(0)),
        ("20000229T235959Z", Some(951_868_799)),
        ("20240301T000000Z", Some(1_709_251_200)),
        ("19000229T000000Z", None),
        ("20150830T123660Z", None),
        ("20150830T240000Z", None),
        ("20151301T000000Z", None),
        ("2015083xT000000Z", None),
        ("20150830 123600Z", None),
        ("", None),
        ("2015083éT0000Z", None),
    ] {
        assert_eq!(seconds_of(text), seconds, "{text}");
    }
}

#[test]
fn a_body_may_be_left_out_of_what_is_signed() {
    let spec = "{accessKeys: {ann: secret}, excludeBody: true}";
    let scope = ["20150830", "eu", "request"];
    let canonical = "POST\n/\n\nhost:h.test\nx-date:20150830T123600Z\n\nhost;x-date\nUNSIGNED-PAYLOAD";
    let canonical = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("HMAC-SHA256\n{DATE}\n{}\n{canonical}", scope.join("/"));
    let mut key = b"secret".to_vec();
    for part in scope {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let mark = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()).as_ref());
    let authorization =
        format!("HMAC-SHA256 Credential=ann/20150830/eu/request, SignedHeaders=host;x-date, Signature={mark}");
    let signed = request("POST", "/", "h.test", &[("X-Date", DATE), ("Authorization", &authorization)]);
    let now = seconds_of(DATE).unwrap();
    assert_eq!(check(spec, &signed, None, now), Ok(()));
    assert_eq!(check("accessKeys: {ann: secret}", &signed, Some(b"x"), now), Err(SignatureError::Wrong));
}
