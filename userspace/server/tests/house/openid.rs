//! Logins at an OpenID provider: one of this process, which says what it is, hands out its keys, and exchanges a code once, for the right
//! secret and verifier, and may lie; and a certified one, with a browser that people would use.

use crate::authentication::{Asked, House, Issuer, Service, Told, base64url, bearer, json};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Answer, Connection, eventually, free_port};
use ring::digest;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
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
    let down = come_back(&house, &state, &login);
    assert_eq!((down.status, fields(&down, "retry-after").next()), (503, Some("1")), "the provider is down");
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
    assert_eq!(come_back(&house, &parameter(&location(&sent), "state"), &cookies(&sent)).status, 503);
    assert_eq!(house.limit("calls_timed_out"), 1.0);
}

/// oidc-provider, and a browser's cookies of it by name and path.
struct Certified {
    port: u16,
    host: &'static str,
    cookies: Mutex<BTreeMap<(String, String), String>>,
    _process: Leashed,
}

impl Certified {
    fn start() -> Option<Certified> {
        let (node, folder) = parts::oidc_provider()?;
        // Modules are looked for beside the program.
        let program = folder.join(format!("provider-{}.mjs", std::process::id()));
        std::fs::write(&program, include_str!("openid/provider.mjs")).unwrap();
        let port = free_port();
        let mut command = Command::new(node);
        command.arg(&program).args([&port.to_string(), "http://house.test/cb"]);
        let process = Leashed::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
        // The same for all tests of a process, one of which lives as long.
        let host: &'static str = Box::leak(format!("127.0.0.1:{port}").into_boxed_str());
        let provider = Certified { port, host, cookies: Mutex::default(), _process: process };
        eventually("the provider answers", || {
            let told = provider.request("GET", "/.well-known/openid-configuration", "");
            told.filter(|told| told.status == 200)
        });
        let _ = std::fs::remove_file(program);
        Some(provider)
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let pairs: Vec<String> = {
            let cookies = self.cookies.lock().unwrap();
            let there = cookies.iter().filter(|((_, at), _)| path.starts_with(at.as_str()));
            there.map(|((name, _), value)| format!("{name}={value}")).collect()
        };
        let pairs = pairs.join("; ");
        let headers = [("Cookie", pairs.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
        let mut connection = Connection::open(self.host).ok()?.asking(self.host);
        let answer = connection.request(method, path, &headers, body).ok()?;
        for line in fields(&answer, "set-cookie") {
            let (name, value) = line.split(';').next()?.split_once('=')?;
            let at = line.split(';').find_map(|part| part.trim().strip_prefix("path=")).unwrap_or("/");
            self.cookies.lock().unwrap().insert((name.to_owned(), at.to_owned()), value.to_owned());
        }
        Some(answer)
    }

    fn does(&self, what: &str) {
        assert_eq!(self.request("GET", &format!("/test/{what}"), "").map(|told| told.status), Some(200), "{what}");
    }

    /// Goes where the edge sent the browser, logs in and agrees; the path it comes back to.
    fn log_in(&self, to: &str) -> String {
        let own = format!("http://127.0.0.1:{}", self.port);
        let mut path = to.strip_prefix(&own).expect("the provider's own").to_owned();
        let mut answer = self.request("GET", &path, "").expect("an answer");
        for _ in 0..12 {
            if (301..400).contains(&answer.status) {
                let next = location(&answer);
                if let Some(back) = next.strip_prefix("http://house.test") {
                    return back.to_owned();
                }
                path = next.strip_prefix(&own).unwrap_or(&next).to_owned();
                answer = self.request("GET", &path, "").expect("an answer");
                continue;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            let asks = answer.body.contains("name=\"login\"");
            let form = if asks { "prompt=login&login=ann&password=x" } else { "prompt=consent" };
            answer = self.request("POST", &path, form).expect("an answer");
        }
        panic!("the login does not end: {answer:?}");
    }
}

#[test]
fn people_log_in_at_a_certified_provider() {
    let Some(provider) = Certified::start() else { return };
    let house = House::with(&format!(
        "{{name: login, kind: OIDCAdaptor, discovery: 'http://127.0.0.1:{}/.well-known/openid-configuration', clientId: edge,          clientSecret: s3cret, redirectURI: 'http://house.test/cb', cookieName: sess, timeout: 1s}}",
        provider.port
    ));
    // Whoever is sent there with this comes back to that.
    let begin = || {
        let sent = house.ask(&[]);
        assert_eq!(sent.status, 302, "{sent:?}");
        (provider.log_in(&location(&sent)), cookies(&sent))
    };
    let back = |path: &str, login: &str| house.request("GET", path, &[("Cookie", login)], "");
    let (path, login) = begin();
    // It says who it is (RFC 9207), and the edge looks at that.
    assert!(path.contains("&iss=http"), "{path}");
    let other = path.replace("&iss=http", "&iss=https");
    assert_eq!(back(&other, &login).status, 403, "the answer of another provider");
    let done = back(&path, &login);
    assert_eq!((done.status, location(&done)), (302, "http://house.test/a?b=c".to_owned()), "{done:?}");
    let passed = house.ask(&[("Cookie", &cookies(&done))]);
    assert_eq!(passed.status, 200, "{passed:?}");
    let told = |name: &str| {
        let rest = passed.body.split_once(&format!("{name}:[")).expect(name).1;
        rest.split_once(']').expect(name).0.to_owned()
    };
    // {"sub":"ann" …
    assert!(told("X-User-Info").starts_with("eyJ"), "{}", passed.body);
    let token = told("X-Id-Token");
    let ask = |token: &str| house.ask(&[("Authorization", &bearer(token))]).status;
    assert_eq!(ask(&token), 200);
    let (signed, mark) = token.rsplit_once('.').unwrap();
    let turned: String = mark.chars().rev().collect();
    assert_eq!((ask(&format!("{signed}.{turned}")), ask(signed)), (401, 401));

    // A code is good once, and for the login it was given to: the provider holds it against the challenge.
    assert_eq!(back(&path, &login).status, 500, "a code that was used");
    let ((stolen, _), (own, login)) = (begin(), begin());
    let mixed = format!("/cb?code={}&state={}", parameter(&stolen, "code"), parameter(&own, "state"));
    assert_eq!(back(&mixed, &login).status, 500, "the code of another login");

    // It signs with another key: what was signed with the old one is nobody's any more, and the new one counts.
    provider.does("rotate");
    eventually("the new key counts", || {
        let (path, login) = begin();
        (back(&path, &login).status == 302).then_some(())
    });
    assert_eq!(ask(&token), 401, "the old key is gone");

    // It hangs: that is nobody's fault who logs in, and the same code will do when it is back.
    let (path, login) = begin();
    provider.does("silent");
    let hangs = back(&path, &login);
    assert_eq!((hangs.status, fields(&hangs, "retry-after").next()), (503, Some("1")), "{hangs:?}");
    assert_eq!(house.limit("calls_timed_out"), 1.0);
    provider.does("speaks");
    assert_eq!(back(&path, &login).status, 302);
}
