//! Who may pass: tokens shown to those who issued them, keys that are rotated, passwords, signatures, policies. The services that are asked
//! are real ones, in this process.

use crate::world::{Answer, Backend, Connection, Machine, answers, eventually, free_port, proxy};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{digest, hmac};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a service was asked.
pub struct Asked {
    pub target: String,
    pub head: String,
    pub body: String,
}

/// Status, further header lines, body; nothing: it never answers.
pub type Told = Option<(u16, String, String)>;

/// A service that answers as the test says.
pub struct Service {
    pub port: u16,
    asked: Arc<AtomicUsize>,
}

impl Service {
    pub fn start(answer: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        let counted = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counted) = (answer.clone(), counted.clone());
                thread::spawn(move || serve(stream, &*answer, &counted));
            }
        });
        Service { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Asked) -> Told, counted: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let lengths = head.lines().filter_map(|line| line.split_once(':'));
        let length = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, v)| v.trim());
        let mut body = vec![0; length.max().map_or(0, |text| text.parse().unwrap())];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let asked = Asked { target, head, body: String::from_utf8_lossy(&body).into_owned() };
        let Some((status, fields, body)) = answer(&asked) else {
            // Until whoever asked gives up.
            let _ = reader.read(&mut [0]);
            return;
        };
        let text = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

pub fn json(body: impl Into<String>) -> Told {
    Some((200, "Content-Type: application/json\r\n".to_owned(), body.into()))
}

/// A machine with one worker, whose door leads through a filter to a backend.
pub struct House {
    pub machine: Machine,
    _backend: Backend,
    pub door: u16,
}

impl House {
    pub fn with(filter: &str) -> House {
        let mut machine = Machine::new("m1").flags(["--workers", "1"]);
        machine.run();
        let (backend, door) = (Backend::start("one"), free_port());
        machine.create(&House::pipeline(&backend, filter));
        // Beside it, without the filter: what happens to those who do not wait.
        machine.create(&proxy("plain", &[backend.url()]));
        let paths = "[{path: /plain, backend: plain}, {pathPrefix: /, backend: p}]";
        machine.create(&format!("kind: HTTPServer\nname: s\nport: {door}\nrules: [{{paths: {paths}}}]\n"));
        answers(door, "/plain", 200);
        House { machine, _backend: backend, door }
    }

    fn pipeline(backend: &Backend, filter: &str) -> String {
        let servers = format!("[{{url: '{}'}}]", backend.url());
        format!(
            "kind: Pipeline\nname: p\nfilters:\n- {filter}\n- {{name: proxy, kind: Proxy, pools: [{{servers: {servers}}}]}}\n"
        )
    }

    pub fn ask(&self, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", "/a?b=c", headers, "")
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut connection = Connection::open(&format!("127.0.0.1:{}", self.door)).unwrap();
        connection.request(method, path, headers, body).unwrap()
    }

    /// The port of a server of this machine that speaks TLS, with a certificate of its own, for what is behind `url`.
    pub fn behind_tls(&self, url: &str) -> u16 {
        let port = free_port();
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        self.machine.create(&proxy("front", &[url.to_owned()]));
        let front = serde_json::json!({"kind": "HTTPServer", "name": "secure", "port": port, "https": true,
            "certs": {"a": own.cert.pem()}, "keys": {"a": own.signing_key.serialize_pem()},
            "rules": [{"paths": [{"pathPrefix": "/", "backend": "front"}]}]});
        self.machine.create(&front.to_string());
        port
    }

    /// Pipelines that lead through a filter to an answer, each behind its name as a path. The port of their server.
    pub fn beside(&self, filters: &[(&str, String)]) -> u16 {
        let mock = "{name: mock, kind: Mock, rules: [{code: 200}]}";
        let answered: Vec<_> = filters.iter().map(|(name, filter)| (*name, format!("{filter}\n- {mock}"))).collect();
        self.pipelines(&answered)
    }

    /// Pipelines of these filters and no others, each behind its name as a path. The port of their server.
    pub fn pipelines(&self, filters: &[(&str, String)]) -> u16 {
        let port = free_port();
        for (name, filters) in filters {
            self.machine.create(&format!("kind: Pipeline\nname: {name}\nfilters:\n- {filters}\n"));
        }
        let paths: Vec<String> =
            filters.iter().map(|(name, _)| format!("{{path: /{name}, backend: {name}}}")).collect();
        let rules = format!("[{{paths: [{}]}}]", paths.join(", "));
        self.machine.create(&format!("kind: HTTPServer\nname: beside\nport: {port}\nrules: {rules}\n"));
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        port
    }

    pub fn limit(&self, name: &str) -> f64 {
        self.machine.metric(&format!("weir_limit_hits_total{{limit=\"{name}\"}}")).unwrap_or_default()
    }
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn tokens_are_introspected_once_and_remembered() {
    let idp = Service::start(|asked| {
        let right = asked.target == "/introspect?v=1"
            && asked.head.starts_with("POST ")
            && asked.body.contains("client_id=edge&client_secret=s%26cret");
        match asked.body.split('&').next() {
            _ if !right => Some((400, String::new(), "{}".to_owned())),
            Some("token=slow") => {
                thread::sleep(Duration::from_millis(300));
                json(r#"{"active":true,"sub":"slow"}"#)
            }
            Some("token=good") => json(r#"{"active":true,"sub":"ann","scope":"read write"}"#),
            Some("token=a%26active%3Dtrue") => json(r#"{"active":true,"sub":"escaped"}"#),
            _ => json(r#"{"active":false,"sub":"eve"}"#),
        }
    });
    let end_point = format!("{}/introspect?v=1", idp.url());
    let house = House::with(&format!(
        "{{name: v, kind: Validator, oauth2: {{tokenIntrospect: {{endPoint: '{end_point}', clientId: edge, clientSecret: s&cret, \
         cacheTtl: 1h}}}}}}"
    ));
    let told = house.ask(&[("Authorization", "Bearer good"), ("X-Authenticated-Userid", "root")]);
    assert_eq!(told.status, 200, "{told:?}");
    assert!(
        told.body.contains("X-Authenticated-Userid:[ann]") && told.body.contains("X-Authenticated-Scope:[read write]")
    );
    assert!(!told.body.contains("root"));
    for _ in 0..5 {
        assert_eq!(house.ask(&[("Authorization", "Bearer good")]).status, 200);
    }
    assert_eq!(idp.asked(), 1, "it was remembered");
    for refused in ["Bearer bad", "Bearer", "Basic good", "good"] {
        let answer = house.ask(&[("Authorization", refused)]);
        assert!(answer.status == 401 && answer.head.contains("WWW-Authenticate: Bearer"), "{answer:?}");
    }
    assert_eq!(house.ask(&[]).status, 401);
    assert_eq!(house.ask(&[("Authorization", "Bearer a&active=true")]).status, 200, "escaped");
    let before = idp.asked();
    let door = house.door;
    let many: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || {
                let mut connection = Connection::open(&format!("127.0.0.1:{door}")).unwrap();
                connection.request("GET", "/", &[("Authorization", "Bearer slow")], "").unwrap().status
            })
        })
        .collect();
    assert!(many.into_iter().all(|one| one.join().unwrap() == 200));
    assert_eq!(idp.asked() - before, 1, "twenty waited for one answer");
    // Secrets are shown to nobody.
    let shown = house.machine.api("GET", "/objects/p", "").body;
    assert!(shown.contains("DATA+OMITTED") && !shown.contains("s&cret"), "{shown}");
    let log = house.machine.log();
    assert!(!log.contains("s&cret") && !log.contains("Bearer good"), "{log}");
}

#[test]
fn an_introspection_server_that_hangs_lets_nobody_pass_and_holds_nobody_up() {
    let hangs = Arc::new(AtomicUsize::new(1));
    let (idp, state) = (hangs.clone(), hangs);
    let idp = Service::start(move |_| (idp.load(Ordering::SeqCst) == 0).then(|| json(r#"{"active":true}"#)).flatten());
    let house = House::with(&format!(
        "{{name: v, kind: Validator, oauth2: {{tokenIntrospect: {{endPoint: '{}/', timeout: 2s, maxInFlight: 4}}}}}}",
        idp.url()
    ));
    let waiting: Vec<_> = (0..10)
        .map(|n| {
            let mut connection = Connection::open(&format!("127.0.0.1:{}", house.door)).unwrap();
            connection.send("GET", "/", &[("Authorization", &bearer(&format!("t{n}")))], "").unwrap();
            connection
        })
        .collect();
    eventually("as many wait as may", || (house.limit("introspections_in_flight") >= 6.0).then_some(()));
    // The only worker serves others meanwhile: those who wait have not been answered yet, or were refused.
    assert_eq!(answers(house.door, "/plain", 200).status, 200);
    for mut connection in waiting {
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, 503, "nobody has said that the token is wrong");
        assert!(answer.head.contains("Retry-After: 1") && !answer.head.contains("WWW-Authenticate"), "{answer:?}");
    }
    assert_eq!(house.limit("introspections_failed"), 4.0);
    assert_eq!(house.limit("calls_timed_out"), 4.0);
    assert_eq!(idp.asked(), 4);
    // It is back, and nothing of the failure is remembered.
    state.store(0, Ordering::SeqCst);
    assert_eq!(house.ask(&[("Authorization", "Bearer t0")]).status, 200);
    drop(idp);
}

pub struct Issuer {
    pair: Ed25519KeyPair,
    id: &'static str,
}

impl Issuer {
    pub fn new(id: &'static str) -> Issuer {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        Issuer { pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap(), id }
    }

    pub fn keys(&self) -> String {
        let x = base64url(self.pair.public_key().as_ref());
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{}","x":"{x}"}}]}}"#, self.id)
    }

    pub fn token(&self, claims: &str) -> String {
        let head = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, self.id);
        let signed = format!("{}.{}", base64url(head.as_bytes()), base64url(claims.as_bytes()));
        let mark = base64url(self.pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{mark}")
    }
}

pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        (0..=part.len()).for_each(|n| out.push(DIGITS[(bits >> (18 - 6 * n)) as usize & 63] as char));
    }
    out
}

#[test]
fn keys_of_an_issuer_are_followed_when_they_rotate() {
    let (first, second, stranger) = (Issuer::new("1"), Issuer::new("2"), Issuer::new("3"));
    let keys = Arc::new(Mutex::new(Some(first.keys())));
    let served = keys.clone();
    let idp = Service::start(move |_| match &*served.lock().unwrap() {
        Some(keys) => json(keys.clone()),
        None => Some((503, String::new(), String::new())),
    });
    let house = House::with(&format!(
        "{{name: v, kind: Validator, jwt: {{jwksUrl: '{}/keys', issuer: 'https://idp', audience: [shop], leeway: 5s}}}}",
        idp.url()
    ));
    let ask = |token: &str| house.ask(&[("Authorization", &bearer(token))]).status;
    let claims = r#"{"iss":"https://idp","aud":"shop","sub":"ann"}"#;
    assert_eq!(ask(&first.token(claims)), 200);
    assert_eq!(ask(&first.token(r#"{"iss":"https://idp","aud":"bank"}"#)), 401);
    assert_eq!(ask(&first.token(r#"{"iss":"https://else","aud":"shop"}"#)), 401);
    assert_eq!(ask(&stranger.token(claims)), 401);
    *keys.lock().unwrap() = Some(second.keys());
    eventually("the new key counts", || (ask(&second.token(claims)) == 200).then_some(()));
    assert_eq!(ask(&first.token(claims)), 401, "the old one is gone");
    // Invented keys make nobody ask again and again.
    let before = idp.asked();
    for _ in 0..50 {
        assert_eq!(ask(&stranger.token(claims)), 401);
    }
    assert!(idp.asked() - before <= 3, "{} fetches", idp.asked() - before);
    // Nor do they keep a key that is really new from the others for long.
    for round in 0..8 {
        *keys.lock().unwrap() = Some(if round % 2 == 0 { first.keys() } else { second.keys() });
        let new = if round % 2 == 0 { &first } else { &second };
        let begun = idp.asked();
        eventually("the next key counts", || {
            assert_eq!(ask(&stranger.token(claims)), 401);
            (ask(&new.token(claims)) == 200).then_some(())
        });
        assert!(idp.asked() - begun <= 2, "the first look finds it");
    }
    // While the issuer is away what is known counts, and whether there is another key nobody knows.
    *keys.lock().unwrap() = None;
    assert_eq!(ask(&second.token(claims)), 200);
    eventually("it is asked for one that is not known", || (ask(&stranger.token(claims)) == 503).then_some(()));
    assert_eq!((ask(&second.token(claims)), ask("nonsense")), (200, 401));
}

/// An issuer that was never reached says nothing about anybody.
#[test]
fn keys_that_cannot_be_had_are_no_verdict_on_a_token() {
    let issuer = Issuer::new("1");
    let keys = Arc::new(Mutex::new(None::<String>));
    let served = keys.clone();
    let idp = Service::start(move |_| match &*served.lock().unwrap() {
        Some(keys) => json(keys.clone()),
        None => Some((503, String::new(), String::new())),
    });
    let house = House::with(&format!("{{name: v, kind: Validator, jwt: {{jwksUrl: '{}/keys'}}}}", idp.url()));
    let token = issuer.token(r#"{"sub":"ann"}"#);
    let answer = house.ask(&[("Authorization", &bearer(&token))]);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("Retry-After: 1") && !answer.head.contains("WWW-Authenticate"), "{answer:?}");
    assert_eq!(house.ask(&[]).status, 401, "who shows no token needs no keys");
    *keys.lock().unwrap() = Some(issuer.keys());
    eventually("it is back", || (house.ask(&[("Authorization", &bearer(&token))]).status == 200).then_some(()));
}

#[test]
fn users_of_a_file_get_in_and_the_file_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    // "myPassword" in SHA-1; "U*U" in bcrypt.
    let (sha, bcrypt) =
        ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
    fs::write(&path, format!("ann:{sha}\nbob:{bcrypt}\n")).unwrap();
    let house = House::with(&format!(
        "{{name: v, kind: Validator, basicAuth: {{mode: FILE, userFile: '{}'}}}}",
        path.display()
    ));
    let ask = |credentials: &str| house.ask(&[("Authorization", credentials), ("X-Auth-User", "root")]);
    // ann:myPassword, bob:U*U, ann:U*U, eve:myPassword
    let (ann, bob) = ("Basic YW5uOm15UGFzc3dvcmQ=", "Basic Ym9iOlUqVQ==");
    for (credentials, user) in [(ann, "ann"), (bob, "bob"), (ann, "ann")] {
        let answer = ask(credentials);
        assert!(answer.status == 200 && answer.body.contains(&format!("X-Auth-User:[{user}]")), "{answer:?}");
        assert!(!answer.body.contains("root"));
    }
    for wrong in ["Basic YW5uOlUqVQ==", "Basic ZXZlOm15UGFzc3dvcmQ=", "Basic ann", "Bearer x", ""] {
        let answer = ask(wrong);
        assert!(answer.status == 401 && answer.head.contains("WWW-Authenticate: Basic realm="), "{wrong}: {answer:?}");
    }
    fs::write(folder.path().join("new"), format!("bob:{bcrypt}\neve:{sha}\n")).unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    eventually("ann is gone", || (ask(ann).status == 401).then_some(()));
    assert_eq!((ask(bob).status, ask("Basic ZXZlOm15UGFzc3dvcmQ=").status), (200, 200));
    fs::remove_file(&path).unwrap();
    eventually("nobody is left", || (ask(bob).status == 401).then_some(()));
}

#[test]
fn signed_requests_pass_and_changed_ones_do_not() {
    let house = House::with("{name: v, kind: Validator, signature: {accessKeys: {ann: her-secret}, ttl: 5m}}");
    let date = utc_now();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let sha = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let scope = [&date[..8], "eu", "request"];
    let fields = format!("host:house.test\nx-date:{date}\n");
    let canonical = format!("POST\n/a/b\nk=v+w\n{fields}\nhost;x-date\n{}", sha(b"hello"));
    let text = format!("HMAC-SHA256\n{date}\n{}\n{}", scope.join("/"), sha(canonical.as_bytes()));
    let mut key = b"her-secret".to_vec();
    for part in scope {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let mark = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()).as_ref());
    let authorization =
        format!("HMAC-SHA256 Credential=ann/{}, SignedHeaders=host;x-date, Signature={mark}", scope.join("/"));
    let ask = |path: &str, body: &str, authorization: &str| {
        house.request("POST", path, &[("X-Date", &date), ("Authorization", authorization)], body)
    };
    let told = ask("/a/b?k=v%20w", "hello", &authorization);
    assert!(told.status == 200 && told.body.contains("hello"), "{told:?}");
    for (path, body, authorization) in [
        ("/a/c?k=v%20w", "hello", authorization.clone()),
        ("/a/b?k=v", "hello", authorization.clone()),
        ("/a/b?k=v%20w", "hellO", authorization.clone()),
        ("/a/b?k=v%20w", "hello", authorization.replace("ann/", "bob/")),
        ("/a/b?k=v%20w", "hello", "HMAC-SHA256 x".to_owned()),
        ("/a/b?k=v%20w", "hello", String::new()),
    ] {
        assert_eq!(ask(path, body, &authorization).status, 401, "{path} {body} {authorization}");
    }
}

/// As signatures have it.
fn utc_now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut left) = (1970, days);
    let length = |year: i64| if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 366 } else { 365 };
    while left >= length(year) {
        left -= length(year);
        year += 1;
    }
    let months = [31, length(year) - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    format!("{year:04}{:02}{:02}T{:02}{:02}{:02}Z", month + 1, left + 1, rest / 3600, rest / 60 % 60, rest % 60)
}

#[test]
fn a_policy_decides() {
    let policy = "package http\\ndefault allow = false\\nallow { input.request.path_parts[0] == \\\"ok\\\" }\\n";
    let house = House::with(&format!("{{name: o, kind: OPAFilter, policy: \"{policy}\", defaultStatus: 451}}"));
    let ask = |path: &str| house.request("GET", path, &[], "").status;
    assert_eq!((ask("/ok/1"), ask("/no"), ask("/ok"), ask("/%6Fk")), (200, 451, 200, 200));
    let broken = "kind: Pipeline\nname: broken\nfilters:\n- name: o\n  kind: OPAFilter\n  policy: |\n    package http\n    allow {\n";
    let answer = house.machine.api("POST", "/objects", broken);
    assert!(answer.status == 400 && answer.body.contains("line ") && answer.body.contains("policy"), "{answer:?}");
}

#[test]
fn consumers_are_known_by_their_keys_and_have_their_quotas() {
    let house = House::with("{name: v, kind: Validator, keyAuth: {headers: [X-Key], query: [key], groups: [gold]}}");
    let consumer = |quota: u32| {
        format!(
            "kind: Consumer\nname: acme\ngroups: [gold]\nkeys: [{{key: acme-key-0123456789}}]\nquota: {{requests: {quota}, per: 744h}}\n"
        )
    };
    house.machine.create(&consumer(3));
    house.machine.create("kind: Consumer\nname: poor\nkeys: [{key: poor-key-0123456789}]\n");
    let ask = |key: &str| house.ask(&[("X-Key", key), ("X-Consumer-Name", "root")]);
    let first =
        eventually("the key is known", || Some(ask("acme-key-0123456789")).filter(|answer| answer.status == 200));
    assert!(
        first.body.contains("X-Consumer-Name:[acme]") && first.body.contains("X-Consumer-Groups:[gold]"),
        "{first:?}"
    );
    assert!(!first.body.contains("acme-key") && !first.body.contains("root"));
    let by_query = house.request("GET", "/a?b=c&key=acme-key-0123456789", &[], "");
    assert!(by_query.status == 200 && by_query.body.contains("/a?b=c\n"), "{by_query:?}");
    assert_eq!((ask("poor-key-0123456789").status, ask("nobody").status, house.ask(&[]).status), (403, 401, 401));
    assert_eq!(ask("acme-key-0123456789").status, 200);
    let over = ask("acme-key-0123456789");
    assert!(over.status == 429 && over.head.contains("Retry-After: "), "{over:?}");
    assert_eq!(house.limit("consumer_quota"), 1.0);
    // What is shown holds no key; what was counted survives a change.
    let shown = house.machine.api("GET", "/objects/acme", "").body;
    assert!(shown.contains("DATA+OMITTED") || shown.contains("sha256:"), "{shown}");
    assert!(!shown.contains("acme-key"), "{shown}");
    let status = house.machine.api("GET", "/status/objects/acme", "").body;
    assert!(status.contains("\"requests\":3") || status.contains("\"requests\": 3"), "{status}");
    assert!(house.machine.api("GET", "/metrics", "").body.contains("weir_consumer_requests_total{consumer=\"acme\""));
    house.machine.update("acme", &consumer(4));
    eventually("there is one more", || (ask("acme-key-0123456789").status == 200).then_some(()));
    assert_eq!(ask("acme-key-0123456789").status, 429);
    // Out for a while, and back with what was counted.
    house.machine.update("acme", &format!("{}disabled: true\n", consumer(6)));
    eventually("acme is disabled", || (ask("acme-key-0123456789").status == 401).then_some(()));
    house.machine.update("acme", &consumer(6));
    eventually("acme is back", || (ask("acme-key-0123456789").status == 200).then_some(()));
    assert_eq!(house.machine.api("DELETE", "/objects/acme", "").status, 200);
    eventually("acme is gone", || (ask("acme-key-0123456789").status == 401).then_some(()));
    assert!(!house.machine.log().contains("acme-key"));
}

/// Passes every request on as it is.
pub const NOTHING: &str =
    "{name: none, kind: CertExtractor, certIndex: 0, target: subject, field: CommonName, headerKey: X}";

#[test]
fn certificates_of_their_own_are_believed_where_the_document_says_so() {
    let issuer = Arc::new(Issuer::new("1"));
    let keys = issuer.keys();
    let service = Service::start(move |asked| match asked.target.as_str() {
        "/introspect" => json(r#"{"active":true,"sub":"ann"}"#),
        "/keys" => json(keys.clone()),
        "/openid" => json(
            r#"{"issuer":"https://i","authorization_endpoint":"https://i/login","token_endpoint":"https://i/token","jwks_uri":"https://i/keys"}"#,
        ),
        _ => None,
    });
    let house = House::with(NOTHING);
    let url = format!("https://127.0.0.1:{}", house.behind_tls(&service.url()));
    let filters: Vec<(&str, String)> = [("believed", "true"), ("doubted", "false")]
        .into_iter()
        .flat_map(|(name, insecure)| {
            let name = |kind: &str| &*format!("{name}-{kind}").leak();
            [
                (
                    name("token"),
                    format!("{{name: v, kind: Validator, oauth2: {{tokenIntrospect: {{endPoint: '{url}/introspect', insecureTls: {insecure}}}}}}}"),
                ),
                (name("keys"), format!("{{name: v, kind: Validator, jwt: {{jwksUrl: '{url}/keys', jwksInsecureTls: {insecure}}}}}")),
                (
                    name("login"),
                    format!(
                        "{{name: v, kind: OIDCAdaptor, discovery: '{url}/openid', clientId: a, clientSecret: b, redirectURI: 'http://h.test/cb', \
                         insecureTls: {insecure}}}"
                    ),
                ),
            ]
        })
        .collect();
    let port = house.beside(&filters);
    let ask = |path: &str, token: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        let bearer = bearer(token);
        let fields = [("Authorization", bearer.as_str())];
        connection.request("GET", path, if token.is_empty() { &[] } else { &fields }, "").unwrap().status
    };
    let token = issuer.token(r#"{"sub":"ann"}"#);
    eventually("the front is there", || (ask("/believed-token", "x") == 200).then_some(()));
    assert_eq!((ask("/believed-keys", &token), ask("/believed-login", "")), (200, 302));
    let asked = service.asked();
    assert_eq!((ask("/doubted-token", "x"), ask("/doubted-keys", &token)), (503, 503));
    assert_ne!(ask("/doubted-login", ""), 302);
    assert_eq!(service.asked(), asked, "nothing was sent to whoever it is");
}

#[test]
fn few_introspections_are_remembered_where_the_document_says_so() {
    let idp = Service::start(|_| json(r#"{"active":true,"sub":"ann"}"#));
    let house = House::with(&format!(
        "{{name: v, kind: Validator, oauth2: {{tokenIntrospect: {{endPoint: '{}/', cacheTtl: 1h, cacheSize: 2}}}}}}",
        idp.url()
    ));
    let ask = |token: &str| assert_eq!(house.ask(&[("Authorization", &bearer(token))]).status, 200);
    (0..2).for_each(|_| ask("t0"));
    assert_eq!(idp.asked(), 1);
    (1..10).for_each(|n| ask(&format!("t{n}")));
    ask("t0");
    assert_eq!(idp.asked(), 11, "it was forgotten for others");
}

#[test]
fn what_one_filter_signs_another_lets_pass() {
    let house = House::with("{name: v, kind: Validator, signature: {accessKeys: {edge: her-secret}, ttl: 5m}}");
    let signed = |secret: &str, body: bool| {
        let sign = format!("{{accessKeyId: edge, accessKeySecret: {secret}, scopes: [eu], excludeBody: {body}}}");
        let proxy =
            format!("{{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}]}}]}}", house.door);
        format!("{{name: a, kind: RequestAdaptor, header: {{set: {{X-Who: edge}}}}, sign: {sign}}}\n- {proxy}")
    };
    let port = house.pipelines(&[
        ("right", signed("her-secret", false)),
        ("wrong", signed("other", false)),
        ("bare", signed("her-secret", true)),
    ]);
    let ask = |target: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        connection.request("POST", target, &[("User-Agent", "x"), ("Content-Type", "text/plain")], "hello").unwrap()
    };
    let passed = ask("/right?b=c+d&a");
    assert!(
        passed.status == 200 && passed.body.contains("hello") && passed.body.contains("X-Who:[edge]"),
        "{passed:?}"
    );
    assert_eq!((ask("/wrong").status, ask("/bare").status), (401, 401), "the body is asked for");
}
