//! Logins at an OpenID provider. The provider is one of this process: it says what it is, hands out its keys, and exchanges a code once, for
//! the right secret and verifier.

use crate::authentication::{Asked, House, Issuer, Service, Told, base64url, bearer, json};
use crate::world::Answer;
use ring::digest;
use std::sync::{Arc, Mutex};

/// What the provider does with the next code.
#[derive(Default)]
struct Mood {
    challenge: String,
    nonce: String,
    audience: String,
    down: bool,
    exchanged: usize,
}

struct Provider {
    service: Service,
    mood: Arc<Mutex<Mood>>,
    issuer: Arc<Issuer>,
    url: String,
}

impl Provider {
    fn start() -> Provider {
        let mood = Arc::new(Mutex::new(Mood { audience: "edge".to_owned(), ..Mood::default() }));
        let issuer = Arc::new(Issuer::new("1"));
        let place = Arc::new(Mutex::new(String::new()));
        let (of_service, keys, url) = (mood.clone(), issuer.clone(), place.clone());
        let service = Service::start(move |asked| answer(asked, &of_service, &keys, &url.lock().unwrap()));
        let url = service.url();
        place.lock().unwrap().clone_from(&url);
        Provider { service, mood, issuer, url }
    }

    fn house(&self) -> House {
        House::with(&format!(
            "{{name: login, kind: OIDCAdaptor, discovery: '{}/.well-known/openid-configuration', clientId: edge, clientSecret: s3cret, \
             redirectURI: 'http://house.test/cb', cookieName: sess, logoutPath: /out}}",
            self.url
        ))
    }
}

fn answer(asked: &Asked, mood: &Mutex<Mood>, issuer: &Issuer, url: &str) -> Told {
    let mut mood = mood.lock().unwrap();
    if mood.down {
        return Some((503, String::new(), String::new()));
    }
    match asked.target.as_str() {
        "/.well-known/openid-configuration" => json(format!(
            r#"{{"issuer":"{url}","authorization_endpoint":"{url}/login","token_endpoint":"{url}/token","jwks_uri":"{url}/keys",
                "end_session_endpoint":"{url}/end","id_token_signing_alg_values_supported":["EdDSA"]}}"#
        )),
        "/keys" => json(issuer.keys()),
        "/token" => {
            let field = |name: &str| {
                let found = asked.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                found.unwrap_or_default().to_owned()
            };
            let verifier = digest::digest(&digest::SHA256, field("code_verifier").as_bytes());
            // edge:s3cret
            let right = field("code") == "c0de"
                && field("redirect_uri") == "http%3A%2F%2Fhouse.test%2Fcb"
                && base64url(verifier.as_ref()) == mood.challenge
                && asked.head.contains("Authorization: Basic ZWRnZTpzM2NyZXQ=");
            if !right {
                return Some((400, String::new(), r#"{"error":"invalid_grant"}"#.to_owned()));
            }
            mood.exchanged += 1;
            let claims = format!(
                r#"{{"iss":"{url}","aud":"{}","sub":"ann","nonce":"{}","exp":4000000000,"iat":1}}"#,
                mood.audience, mood.nonce
            );
            json(format!(r#"{{"access_token":"acc3ss","token_type":"Bearer","id_token":"{}"}}"#, issuer.token(&claims)))
        }
        _ => Some((404, String::new(), String::new())),
    }
}

fn fields<'a>(answer: &'a Answer, name: &'a str) -> impl Iterator<Item = &'a str> {
    answer.head.lines().filter_map(move |line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn location(answer: &Answer) -> String {
    fields(answer, "location").next().unwrap_or_default().to_owned()
}

fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_default().to_owned()
}

/// What a browser sends back.
fn cookies(answer: &Answer) -> String {
    let pairs: Vec<&str> =
        fields(answer, "set-cookie").map(|line| line.split(';').next().unwrap_or_default()).collect();
    pairs.join("; ")
}

/// Begins a login: where the browser is sent, and with which cookies. The provider takes note of nonce and challenge.
fn begin(house: &House, provider: &Provider) -> (String, String) {
    let sent = house.ask(&[]);
    assert_eq!(sent.status, 302, "{sent:?}");
    let to = location(&sent);
    assert!(to.starts_with(&format!("{}/login?", provider.url)), "{to}");
    let mut mood = provider.mood.lock().unwrap();
    (mood.challenge, mood.nonce) = (parameter(&to, "code_challenge"), parameter(&to, "nonce"));
    (parameter(&to, "state"), cookies(&sent))
}

fn come_back(house: &House, state: &str, cookies: &str) -> Answer {
    house.request("GET", &format!("/cb?code=c0de&state={state}"), &[("Cookie", cookies)], "")
}

#[test]
fn who_logs_in_passes_and_nobody_else_does() {
    let provider = Provider::start();
    let house = provider.house();
    let sent = location(&house.ask(&[]));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "edge"),
        ("redirect_uri", "http%3A%2F%2Fhouse.test%2Fcb"),
        ("code_challenge_method", "S256"),
        ("scope", "openid%20profile%20email"),
    ] {
        assert_eq!(parameter(&sent, name), value, "{sent}");
    }
    let (state, login) = begin(&house, &provider);
    let back = come_back(&house, &state, &login);
    assert_eq!((back.status, location(&back)), (302, "http://house.test/a?b=c".to_owned()), "{back:?}");
    assert!(fields(&back, "set-cookie").all(|line| line.contains("HttpOnly") && line.contains("SameSite=Lax")));
    let session = cookies(&back);
    let passed = house.ask(&[("Cookie", &format!("other=1; {session}")), ("X-User-Info", "root"), ("X-ID-Token", "x")]);
    assert_eq!(passed.status, 200, "{passed:?}");
    for told in ["X-User-Info:[eyJ", "X-Id-Token:[ey", "X-Access-Token:[acc3ss]", "Cookie:[other=1]"] {
        assert!(passed.body.contains(told), "{told}: {}", passed.body);
    }
    assert!(!passed.body.contains("root") && !passed.body.contains("sess="), "{}", passed.body);
    // What Easegress lets pass.
    let sealed = session.split("; ").next().unwrap_or_default();
    for cookie in ["sess=1", "sess=1.AAAA", "sess=", &sealed[..sealed.len() - 4]] {
        assert_eq!(house.ask(&[("Cookie", cookie)]).status, 302, "{cookie}");
    }
    assert_eq!(house.ask(&[("Authorization", "Bearer anything")]).status, 401);
    let claims =
        |audience: &str| format!(r#"{{"iss":"{}","aud":"{audience}","sub":"bob","exp":4000000000}}"#, provider.url);
    let ask = |token: &str| house.ask(&[("Authorization", &bearer(token))]).status;
    assert_eq!(ask(&provider.issuer.token(&claims("edge"))), 200);
    assert_eq!(ask(&provider.issuer.token(&claims("bank"))), 401);
    assert_eq!(ask(&Issuer::new("1").token(&claims("edge"))), 401);
    let out = house.request("GET", "/out", &[("Cookie", &session)], "");
    assert!(location(&out).starts_with(&format!("{}/end?id_token_hint=ey", provider.url)), "{out:?}");
    assert!(fields(&out, "set-cookie").any(|line| line.starts_with("sess=;") && line.contains("Max-Age=0")), "{out:?}");
    let log = house.machine.log();
    for secret in ["s3cret", "acc3ss", "c0de"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn logins_that_are_not_ours_or_not_right_are_refused() {
    let provider = Provider::start();
    let house = provider.house();
    let (state, login) = begin(&house, &provider);
    assert_eq!(come_back(&house, "AAAA", &login).status, 403, "another state");
    assert_eq!(come_back(&house, &state, "a=b").status, 403, "another browser");
    assert_eq!(house.request("GET", &format!("/cb?state={state}"), &[("Cookie", &login)], "").status, 403, "no code");
    let denied = house.request("GET", &format!("/cb?error=access_denied&state={state}"), &[("Cookie", &login)], "");
    assert!(denied.status == 403 && denied.body.contains("access_denied"), "{denied:?}");
    assert_eq!(provider.mood.lock().unwrap().exchanged, 0, "no code was shown to the provider");
    // A login of somebody else's: the code is not ours.
    let (_, other) = begin(&house, &provider);
    assert_eq!(come_back(&house, &state, &other).status, 403);
    assert_eq!(come_back(&house, &state, &login).status, 500, "the verifier is another one");
    let (state, login) = begin(&house, &provider);
    provider.mood.lock().unwrap().nonce = "other".to_owned();
    assert_eq!(come_back(&house, &state, &login).status, 401, "the token of another login");
    let (state, login) = begin(&house, &provider);
    provider.mood.lock().unwrap().audience = "bank".to_owned();
    assert_eq!(come_back(&house, &state, &login).status, 401, "a token for somebody else");
    provider.mood.lock().unwrap().down = true;
    let (asked, failed) = (provider.service.asked(), house.limit("oidc_failed"));
    assert_eq!(come_back(&house, &state, &login).status, 500, "the provider is down");
    assert_eq!((provider.service.asked() - asked, house.limit("oidc_failed") - failed), (1, 1.0));
}

#[test]
fn a_plain_provider_says_who_it_is_for_as_long_as_the_document_says() {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (hangs, is_silent) = (silent.clone(), silent);
    let service = Service::start(move |asked| match asked.target.as_str() {
        _ if is_silent.load(std::sync::atomic::Ordering::SeqCst) => None,
        "/token" => json(r#"{"access_token":"acc3ss","token_type":"bearer"}"#),
        "/user" if asked.head.contains("acc3ss") => json(r#"{"login":"ann"}"#),
        _ => Some((404, String::new(), String::new())),
    });
    let url = service.url();
    let house = House::with(&format!(
        "{{name: login, kind: OIDCAdaptor, authorizationEndpoint: '{url}/login', tokenEndpoint: '{url}/token', userinfoEndpoint: '{url}/user', \
         clientId: edge, clientSecret: s3cret, redirectURI: 'http://house.test/cb', cookieName: sess, scopes: ['read:user', email], \
         sessionTtl: 2m, timeout: 500ms}}"
    ));
    let sent = house.ask(&[]);
    let to = location(&sent);
    assert_eq!(parameter(&to, "scope"), "read%3Auser%20email", "{to}");
    let back = come_back(&house, &parameter(&to, "state"), &cookies(&sent));
    assert_eq!(back.status, 302, "{back:?}");
    let session = fields(&back, "set-cookie").find(|line| line.starts_with("sess=")).unwrap();
    assert!(session.contains("Max-Age=120;"), "{session}");
    let passed = house.ask(&[("Cookie", &cookies(&back))]);
    // {"login":"ann"}
    assert!(passed.status == 200 && passed.body.contains("X-User-Info:[eyJsb2dpbiI6ImFubiJ9]"), "{passed:?}");
    hangs.store(true, std::sync::atomic::Ordering::SeqCst);
    let sent = house.ask(&[]);
    assert_eq!(come_back(&house, &parameter(&location(&sent), "state"), &cookies(&sent)).status, 500);
    assert_eq!(house.limit("calls_timed_out"), 1.0);
}
