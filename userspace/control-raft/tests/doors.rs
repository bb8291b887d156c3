//! Who gets an answer on the peer URL: members, and nobody else. Real members on loopback, real sockets.

#[path = "support/authority.rs"]
mod authority;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use authority::Authority;
use control_api::client::{Answer, Client};
use control_api::tls::ClientTrust;
use control_api::{MemberRole, Refusal};
use control_raft::{ClusterSecret, Config, Control, PeerTls, StartErrorKind};
use control_state::{Action, Entry, LEVEL, PutMode};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MARK: &str = "a-private-key-that-nobody-may-see";
const OLD: &str = "the old secret, long enough to be one";
const NEW: &str = "the new secret, long enough to be one";
const NAMED: [(&str, &str); 2] = [("x-weir-cluster", "shop"), ("x-weir-from", "n9")];

#[test]
fn without_the_name_of_the_cluster_nothing_is_told() {
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    node.put("kept").unwrap();
    for headers in
        [&[][..], &[("x-weir-cluster", "eg-cluster-default-name"), ("x-weir-from", "n9")], &NAMED[..1], &NAMED[1..]]
    {
        for path in ["/watch", "/raft/identity", "/local/status", "/raft/hello", "/nowhere"] {
            let (status, told) = node.ask("GET", path, headers, "");
            assert!((400..500).contains(&status), "{path} {headers:?}: {status} {told}");
            for secret in [MARK, "shop", "n1", "kept"] {
                assert!(!told.contains(secret), "{path} {headers:?} tells {secret}: {told}");
            }
        }
    }
    let (status, told) = node.ask("GET", &format!("/watch?level={LEVEL}"), &NAMED, "");
    assert!(status == 200 && told.contains(MARK), "a member on this machine is answered: {status} {told}");
}

#[test]
fn a_page_in_a_browser_gets_nowhere() {
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    node.put("kept").unwrap();
    let all = json!({"request": 7, "now": "2026-01-01T00:00:00Z", "action": "deleteAll"}).to_string();
    let json = ("content-type", "application/json");
    for says in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("referer", "http://evil.example/x"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "no-cors"),
        ("cookie", "a=b"),
        ("accept-language", "en"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("host", "evil.example:2380"),
    ] {
        for (method, path, body) in
            [("POST", "/raft/propose", all.as_str()), ("GET", "/watch", ""), ("GET", "/raft/identity", "")]
        {
            let (status, told) = node.ask(method, path, &[NAMED[0], NAMED[1], json, says], body);
            assert!(status == 403 && !told.contains(MARK), "{says:?} {path}: {status} {told}");
        }
    }
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json2", ""]
    {
        let headers = [NAMED[0], NAMED[1], ("content-type", kind)];
        assert_eq!(node.ask("POST", "/raft/propose", &headers, &all).0, 403, "{kind:?}");
    }
    assert!(node.control.state().view.objects.contains_key("kept"));
    assert!(node.control.metrics().calls_refused["browser"] >= 30, "{:?}", node.control.metrics().calls_refused);
    for host in ["localhost:2380", "127.0.0.1:2380", "[::1]:2380"] {
        assert_eq!(node.ask("GET", "/raft/identity", &[NAMED[0], NAMED[1], ("host", host)], "").0, 200, "{host}");
    }
}

#[test]
fn with_a_secret_only_signed_calls_are_answered_and_each_of_them_once() {
    let place = Place::new();
    let secret = place.secret("secret", OLD);
    // Everything the secondary says goes by somebody who writes it down.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let recorder = Recorder::before(listener.local_addr().unwrap().port());
    let node = place.primary("n1", |config| {
        config.secret = Some(secret.clone());
        config.listeners = vec![listener.try_clone().unwrap()];
        config.advertise_peer_url = Some(recorder.url());
    });
    drop(listener);
    let other = place.primary("n2", |config| config.secret = Some(secret.clone()));
    node.put("kept").unwrap();
    let (status, told) = node.ask("GET", "/watch", &NAMED, "");
    assert!(status == 401 && told.contains("--cluster-secret-file") && !told.contains(MARK), "{status} {told}");

    let follower = place.secondary("s1", &recorder.url(), |config| config.secret = Some(secret.clone()));
    assert!(eventually(|| follower.control.state().view.objects.contains_key("kept")), "it follows");
    follower.put("through-it").unwrap();
    assert!(eventually(|| node.control.state().view.members.contains_key("s1")), "it is heard");
    let calls = recorder.calls();
    let of = |path: &str| calls.iter().filter(|call| call.contains(path)).cloned().collect::<Vec<_>>();
    assert!(!of("POST /raft/propose").is_empty() && !of("GET /watch").is_empty(), "{calls:?}");
    let version = || node.control.state().view.version;
    let before = version();
    for call in of("POST /raft/propose").iter().chain(&of("GET /watch")).chain(&of("POST /raft/heartbeat")) {
        let (status, told) = send(node.port, call);
        assert!(status == 401 && !told.contains(MARK), "again at the same member: {status} {told}");
        let (status, told) = send(other.port, call);
        assert!(status == 401 && !told.contains(MARK), "at another member: {status} {told}");
        let twisted = call.replace("through-it", "through-me").replace("from=0", "from=1").replace("s1", "s2");
        if twisted != *call {
            assert!((400..500).contains(&send(node.port, &twisted).0), "changed on the way");
        }
    }
    assert_eq!(version(), before);
    assert!(node.control.metrics().calls_refused["replayed"] > 0);

    drop(recorder);
    let node = node.again(|config| config.secret = Some(secret.clone()));
    for call in calls.iter().filter(|call| !call.contains("/raft/hello")) {
        assert_eq!(send(node.port, call).0, 401, "after a restart: {call}");
    }
}

#[test]
fn who_has_another_secret_is_told_what_to_do() {
    let place = Place::new();
    let node = place.primary("n1", |config| config.secret = Some(place.secret("ours", OLD)));
    node.put("kept").unwrap();
    for (name, secret, advice) in [
        ("s1", Some(place.secret("theirs", NEW)), "another secret"),
        ("s2", None, "give the caller the --cluster-secret-file"),
    ] {
        let stranger = place.secondary(name, &node.url(), |config| config.secret = secret.clone());
        let refusal = stranger.put("no").unwrap_err();
        assert!(refusal.message.contains(advice), "{refusal}");
        assert!(stranger.control.state().view.objects.is_empty());
    }
    assert!(node.control.metrics().calls_refused["unauthenticated"] > 0);
    // The other way round: who has a secret says nothing to somebody who does not show to have it.
    let plain = place.primary("n2", |_| {});
    let follower = place.secondary("s3", &plain.url(), |config| config.secret = Some(place.secret("ours", OLD)));
    let refusal = follower.put("no").unwrap_err();
    assert!(refusal.message.contains("it signs nothing"), "{refusal}");
    assert!(!plain.control.state().view.objects.contains_key("no"));
}

#[test]
fn a_secret_is_replaced_while_members_talk() {
    let place = Place::new();
    let (ours, theirs) = (place.path("n1-secret"), place.path("s1-secret"));
    let write = |path: &Path, lines: &[&str]| {
        // As configuration management does it: another file takes the name.
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, lines.join("\n")).unwrap();
        std::fs::rename(fresh, path).unwrap();
    };
    write(&ours, &[OLD]);
    write(&theirs, &[OLD]);
    let node = place.primary("n1", |config| config.secret = Some(ClusterSecret::read(&ours).unwrap()));
    let follower =
        place.secondary("s1", &node.url(), |config| config.secret = Some(ClusterSecret::read(&theirs).unwrap()));
    follower.put("at-first").unwrap();
    for (n, (one, another)) in [
        (vec![OLD, NEW], vec![OLD]),
        (vec![OLD, NEW], vec![OLD, NEW]),
        (vec![NEW, OLD], vec![OLD, NEW]),
        (vec![NEW, OLD], vec![NEW, OLD]),
        (vec![NEW], vec![NEW, OLD]),
        (vec![NEW], vec![NEW]),
    ]
    .into_iter()
    .enumerate()
    {
        write(&ours, &one);
        write(&theirs, &another);
        // Both look at their file once a second.
        std::thread::sleep(Duration::from_millis(1300));
        follower.put(&format!("step-{n}")).unwrap_or_else(|refusal| panic!("step {n}: {refusal}"));
    }
    write(&theirs, &[OLD]);
    assert!(
        eventually(|| follower.put(&format!("late-{}", node.control.state().view.version)).is_err()),
        "the old one is no more"
    );
}

#[test]
fn a_cluster_gets_its_first_secret_member_by_member() {
    let place = Place::new();
    let secret = place.secret("secret", OLD);
    let node = place.primary("n1", |config| {
        config.secret = Some(secret.clone());
        config.insecure_peers = true;
    });
    let late = place.secondary("s1", &node.url(), |_| {});
    late.put("unsigned").unwrap();
    let early = place.secondary("s2", &node.url(), |config| config.secret = Some(secret.clone()));
    early.put("signed").unwrap();
    assert!(eventually(
        || late.control.state().view.objects.len() == 2 && early.control.state().view.objects.len() == 2
    ));
}

#[test]
fn two_clusters_of_one_name_do_not_mix() {
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    node.put("kept").unwrap();
    assert!(eventually(|| !node.control.state().view.cluster_id.is_empty()));
    let id = node.control.state().view.cluster_id.clone();
    let asked = |id: &str, path: &str| node.ask("GET", path, &[NAMED[0], NAMED[1], ("x-weir-cluster-id", id)], "");
    assert_eq!(asked(&id, "/raft/identity").0, 200);
    for (method, path) in [
        ("GET", "/watch"),
        ("GET", "/raft/identity"),
        ("POST", "/raft/append"),
        ("POST", "/raft/vote"),
        ("POST", "/raft/snapshot"),
        ("POST", "/raft/propose"),
        ("POST", "/raft/heartbeat"),
        ("POST", "/raft/admission"),
        ("POST", "/raft/remove"),
        ("GET", "/local/status"),
    ] {
        let headers = [NAMED[0], NAMED[1], ("x-weir-cluster-id", "0123"), ("content-type", "application/json")];
        let (status, told) = node.ask(method, path, &headers, "{}");
        assert!(status == 409 && told.contains("two clusters of one name"), "{path}: {status} {told}");
        let headers = [NAMED[0], NAMED[1], ("x-weir-to", "n7"), ("content-type", "application/json")];
        let (status, told) = node.ask(method, path, &headers, "{}");
        assert!(status == 409 && told.contains("--initial-cluster"), "{path}: {status} {told}");
    }
    // From the first call after a start on.
    let node = node.again(|_| {});
    let (status, told) = node.ask("GET", "/watch", &[NAMED[0], NAMED[1], ("x-weir-cluster-id", "0123")], "");
    assert!(status == 409 && !told.contains(MARK), "{status} {told}");
}

#[test]
fn whoever_took_the_place_of_a_member_is_told_nothing() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(String::new()));
    let hearing = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hearing = hearing.clone();
            std::thread::spawn(move || impostor(stream, &hearing));
        }
    });
    let follower = place.secondary("s1", &url, |config| config.secret = Some(place.secret("secret", OLD)));
    let refusal = follower.put("anything").unwrap_err();
    assert!(refusal.message.contains("--cluster-secret-file"), "{refusal}");
    let heard = heard.lock().unwrap().clone();
    assert!(heard.contains("/raft/hello") && !heard.contains(MARK) && !heard.contains("shop"), "{heard}");
    assert!(follower.control.state().view.objects.is_empty(), "nor believed");
}

#[test]
fn a_certificate_speaks_for_its_own_member_alone() {
    let place = Place::new();
    let ours = Authority::new("ours");
    let tls = |name: &str| Some(PeerTls::new(ours.signs(name), ours.pem.clone()).unwrap());
    let node = place.primary("n1", |config| config.tls = tls("127.0.0.1"));
    let ask = |shown: &str, says: &str, method: &str, path: &str, body: String| {
        let trust =
            ClientTrust { authorities: Some(ours.pem.clone()), identity: Some(ours.signs(shown)), skip_verify: false };
        let client = Client::trusting(Duration::from_secs(60), &trust).unwrap();
        let headers = [NAMED[0], ("x-weir-from", says), ("content-type", "application/json")];
        let url = format!("https://127.0.0.1:{}{path}", node.port);
        let call = client.call(method.parse().unwrap(), &url, &headers, body, Duration::from_secs(60));
        let answer: Answer = Runtime::new().unwrap().block_on(call).unwrap();
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
    };
    assert!(eventually(|| node.control.state().view.members.contains_key("n1")));
    let identity = |shown: &str, says: &str| ask(shown, says, "GET", "/raft/identity", String::new());
    assert_eq!(identity("127.0.0.1", "n1").0, 200, "for the host of its peer URL");
    assert_eq!(identity("n1", "n1").0, 200, "for its name");
    let (status, told) = identity("edge-9", "n1");
    assert!(status == 403 && told.contains("DNS:n1") && told.contains("--peer-cert-file"), "{status} {told}");
    assert_eq!(identity("edge-9", "edge-9").0, 200, "one that is new here");
    let heartbeat = |name: &str, url: &str| {
        let member = json!({"name": name, "role": "secondary", "peerUrl": url, "up": true, "level": LEVEL});
        json!({"member": member, "leaving": false}).to_string()
    };
    let beat = |shown: &str, says: &str, name: &str, url: &str| {
        ask(shown, says, "POST", "/raft/heartbeat", heartbeat(name, url))
    };
    assert_eq!(beat("edge-9", "edge-9", "n1", "https://127.0.0.1:1").0, 403, "in another's name");
    assert_eq!(
        beat("edge-9", "edge-8", "edge-8", "https://10.9.9.9:1").0,
        403,
        "as somebody new with another's certificate"
    );
    assert_eq!(beat("edge-9", "edge-9", "edge-9", "https://10.9.9.9:1").0, 200, "as itself");
}

#[test]
fn plain_text_leaves_the_machine_only_when_somebody_said_how() {
    let place = Place::new();
    let refused = |name: &str, change: &dyn Fn(&mut Config)| {
        let mut config = place.config(name);
        change(&mut config);
        let runtime = Runtime::new().unwrap();
        let error = runtime.block_on(Control::start(config)).err().expect("must refuse");
        assert_eq!(error.kind, StartErrorKind::Config, "{error}");
        for advice in ["--cluster-secret-file", "https://", "--insecure-peers"] {
            assert!(error.message.contains(advice), "{advice} is not in {error}");
        }
        error.message
    };
    let everywhere = |config: &mut Config| config.listeners = vec![TcpListener::bind("0.0.0.0:0").unwrap()];
    assert!(refused("n1", &everywhere).contains("--listen-peer-urls"));
    assert!(
        refused("n1", &|config| {
            config.listeners.clear();
            config.listen_peer_urls = vec!["http://0.0.0.0:0".into()];
        })
        .contains("--listen-peer-urls http://0.0.0.0:0")
    );
    let others = [("n1".to_owned(), "http://127.0.0.1:1".to_owned()), ("n2".into(), "http://192.0.2.7:2380".into())];
    assert!(refused("n1", &|config| config.initial_cluster = others.clone().into()).contains("--initial-cluster n2"));
    let far = refused("s1", &|config| {
        config.role = MemberRole::Secondary;
        config.primary_peer_urls = vec!["http://192.0.2.7:2380".into()];
    });
    assert!(far.contains("--primary-listen-peer-urls http://192.0.2.7:2380"), "{far}");

    let open = place.primary("n2", |config| {
        everywhere(config);
        config.insecure_peers = true;
    });
    assert!(open.control.exposed());
    let safe = place.primary("n3", |config| {
        everywhere(config);
        config.secret = Some(place.secret("secret", OLD));
    });
    assert!(!safe.control.exposed());
    assert!(
        !place.primary("n4", |config| config.insecure_peers = true).control.exposed(),
        "on loopback it makes no difference"
    );
    assert!(eventually(|| safe.control.state().view.tickets.current.is_some()));
    assert!(open.control.state().view.tickets.current.is_none(), "ticket keys are for members alone");
}

#[test]
fn one_who_has_no_vote_leads_nobody() {
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    let follower = place.secondary("s1", &node.url(), |_| {});
    assert!(eventually(|| node.control.state().view.members.contains_key("s1")), "it is a member");
    let changes = node.control.metrics().leader_changes;
    for caller in ["s1", "gone"] {
        // As members number themselves: FNV-1a of the name, one bit left away.
        let number = caller
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
            >> 1;
        for term in [99, 1_u64 << 62] {
            let leader = json!({"term": term, "node_id": number});
            let vote = |committed: bool| json!({"leader_id": leader, "committed": committed});
            let asks = json!({"vote": vote(false), "last_log_id": {"leader_id": leader, "index": 1000}});
            let leads = json!({"vote": vote(true), "prev_log_id": null, "entries": [], "leader_commit": null});
            let members = json!({"log_id": null, "membership": {"configs": [[number]], "nodes": {number.to_string(): {"name": caller, "url": "http://x:1"}}}});
            let meta = json!({"last_log_id": {"leader_id": leader, "index": 1000}, "last_membership": members, "snapshot_id": "s"});
            let copies = format!("{}\n{{}}", json!({"vote": vote(true), "meta": meta}));
            let headers = [NAMED[0], ("x-weir-from", caller), ("content-type", "application/json")];
            for (path, body) in
                [("/raft/vote", asks.to_string()), ("/raft/append", leads.to_string()), ("/raft/snapshot", copies)]
            {
                let (status, told) = node.ask("POST", path, &headers, &body);
                assert!(status == 409 && told.contains("not among those that vote"), "{path} {term}: {status} {told}");
            }
        }
    }
    follower.put("after").unwrap();
    let now = node.control.metrics();
    assert!(now.is_leader && now.leader_changes == changes, "nothing came of it");
}

#[test]
fn who_is_only_on_the_same_machine_gives_no_rights() {
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    let follower = place.secondary("s1", &node.url(), |_| {});
    follower.put("objects-still-go").unwrap();
    let now = "2026-01-01T00:00:00Z";
    let token = json!({"name": "mine", "hash": "0".repeat(64), "createdAt": now, "grants": [{"role": "admin"}]});
    let join = json!({"sealedSecret": "s", "expires": 1});
    let padding = " ".repeat(1 << 20);
    for action in [
        json!({"putToken": {"mode": "create", "token": token}}),
        json!({"deleteToken": {"name": "mine"}}),
        json!({"addToken": {"id": "i", "token": join, "at": 1}}),
        json!({"spendToken": {"id": "i", "at": 1}}),
    ] {
        let call = json!({"request": 7, "now": now, "action": action}).to_string();
        for call in [call.clone(), call.replacen('{', &format!("{{{padding}"), 1)] {
            let headers = [NAMED[0], NAMED[1], ("content-type", "application/json")];
            let (status, told) = node.ask("POST", "/raft/propose", &headers, &call);
            assert!(told.contains("--cluster-secret-file") && !told.contains("version"), "{action}: {status} {told}");
        }
    }
    assert!(node.control.state().view.tokens.is_empty());
    let delete = || Action::DeleteToken { name: "none".into() };
    let at = |node: &Node| node.runtime.as_ref().unwrap().block_on(node.control.propose(delete())).unwrap_err().message;
    assert!(at(&follower).contains("Ask the admin API of n1") || at(&follower).contains("n1"), "{}", at(&follower));
    assert!(!at(&node).contains("--cluster-secret-file"), "the leader itself decides: {}", at(&node));
}

/// What a member is told that has no vote yet costs as much as what a voter is told: it is seen by how many there are. That several come at
/// the same time keeps none of them out.
#[test]
fn whoever_is_copied_to_without_a_vote_is_counted() {
    const MANY: u64 = 8;
    let place = Place::new();
    let node = place.primary("n1", |_| {});
    node.put("kept").unwrap();
    assert_eq!(node.control.metrics().learners, 0);
    let call = |port: u16, nth: u64, step: &str| {
        let name = format!("other-{nth}");
        let headers = [NAMED[0], ("x-weir-from", name.as_str()), ("content-type", "application/json")];
        let body = json!({"name": name, "instance": name, "url": "http://127.0.0.1:1", "step": step, "level": LEVEL});
        ask_at(port, "POST", "/raft/admission", &headers, &body.to_string())
    };
    // Nobody listens there: they have nothing yet, and so no vote.
    std::thread::scope(|threads| {
        let port = node.port;
        let waiting: Vec<_> = (0..MANY).map(|nth| threads.spawn(move || call(port, nth, "Admit"))).collect();
        assert!(eventually(|| node.control.metrics().learners == MANY), "{:?}", node.control.metrics());
        assert_eq!(node.control.metrics().voters, ["n1"]);
        // Half of them go by themselves, the others by an operator's word.
        for nth in 0..MANY / 2 {
            let (status, told) = call(port, nth, "Forget");
            assert!(status == 200 && told.contains("Ok"), "{status} {told}");
        }
        for nth in MANY / 2..MANY {
            let name = format!("other-{nth}");
            node.runtime.as_ref().unwrap().block_on(node.control.remove_member(&name)).unwrap();
        }
        assert!(eventually(|| node.control.metrics().learners == 0), "{:?}", node.control.metrics());
        let told: Vec<String> = waiting.into_iter().map(|waits| waits.join().unwrap().1).collect();
        assert!(!told.iter().any(|told| told.contains("Ok")), "{told:?}");
        // On a busy machine some were answered before.
        assert!(told.iter().any(|told| told.contains("removed while it was being taken in")), "{told:?}");
    });
    let removed = node.runtime.as_ref().unwrap().block_on(node.control.remove_member("other-1")).unwrap_err();
    assert_eq!(removed.kind, control_api::RefusalKind::NotFound, "{removed}");
}

/// Directories and secrets of one test.
struct Place {
    directory: TempDir,
}

struct Node {
    control: Control,
    port: u16,
    config: Box<dyn Fn() -> Config>,
    runtime: Option<Runtime>,
}

fn ask_at(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let host = headers.iter().find(|(name, _)| *name == "host").map_or("127.0.0.1", |(_, host)| host);
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    send(port, &format!("{text}\r\n{body}"))
}

/// Forwards, and keeps what was said to the member.
struct Recorder {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) -> ClusterSecret {
        std::fs::write(self.path(name), text).unwrap();
        ClusterSecret::read(&self.path(name)).unwrap()
    }

    fn config(&self, name: &str) -> Config {
        let mut config = Config::single(name, self.path(name));
        config.cluster_name = "shop".into();
        config.request_timeout = Duration::from_secs(5);
        config.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
        config
    }

    fn primary(&self, name: &str, change: impl Fn(&mut Config)) -> Node {
        let mut config = self.config(name);
        change(&mut config);
        let (name, directory) = (name.to_owned(), self.path(name));
        start(
            config,
            Box::new(move || {
                let mut config = Config::single(&name, directory.clone());
                config.cluster_name = "shop".into();
                config.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
                config
            }),
        )
    }

    fn secondary(&self, name: &str, primary: &str, change: impl Fn(&mut Config)) -> Node {
        let mut config = self.config(name);
        config.role = MemberRole::Secondary;
        config.primary_peer_urls = vec![primary.to_owned()];
        change(&mut config);
        start(config, Box::new(|| unreachable!("secondaries are not started again here")))
    }
}

fn start(config: Config, again: Box<dyn Fn() -> Config>) -> Node {
    let port = config.listeners[0].local_addr().unwrap().port();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let control = runtime.block_on(Control::start(config)).unwrap();
    Node { control, port, config: again, runtime: Some(runtime) }
}

impl Node {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn put(&self, name: &str) -> Result<(), Refusal> {
        let document = json!({"name": name, "kind": "Pipeline", "key": MARK});
        let entries = vec![Entry::new(document.into(), Vec::new())];
        let put = self.control.propose(Action::Put { mode: PutMode::Create, entries });
        self.runtime.as_ref().unwrap().block_on(put).map(drop)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        ask_at(self.port, method, path, headers, body)
    }

    /// Ends as `kill -9` would, and starts on another port.
    fn again(mut self, change: impl Fn(&mut Config)) -> Node {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_millis(500));
        let again = std::mem::replace(&mut self.config, Box::new(|| unreachable!("once")));
        drop(self);
        let mut config = again();
        change(&mut config);
        start(config, again)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

impl Recorder {
    fn before(port: u16) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let keeping = heard.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                let place = {
                    let mut heard = keeping.lock().unwrap();
                    heard.push(Vec::new());
                    heard.len() - 1
                };
                let (mut up, mut down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
                let keeping = keeping.clone();
                std::thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(count @ 1..) = up.0.read(&mut piece) {
                        keeping.lock().unwrap()[place].extend_from_slice(&piece[..count]);
                        if up.1.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = up.1.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut down.0, &mut down.1);
                    let _ = down.1.shutdown(Shutdown::Both);
                });
            }
        });
        Recorder { port: own, heard }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whole requests, in the order of their connections.
    fn calls(&self) -> Vec<String> {
        let mut calls = Vec::new();
        for connection in self.heard.lock().unwrap().iter() {
            let mut text = String::from_utf8(connection.clone()).unwrap();
            while let Some(end) = text.find("\r\n\r\n") {
                let length = text[..end].lines().filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
                    name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
                });
                let whole = end + 4 + length.unwrap_or(0);
                if text.len() < whole {
                    break;
                }
                let rest = text.split_off(whole);
                calls.push(std::mem::replace(&mut text, rest));
            }
        }
        calls
    }
}

/// Says `200` to everything.
fn impostor(mut stream: TcpStream, heard: &Mutex<String>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        heard.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
        let body = r#"{"epoch":"0123456789abcdef0123456789abcdef"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-weir-signature: 00\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Sends these bytes: the status, and all that comes, of a watch its first line.
fn send(port: u16, call: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(call.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 65536];
    while !is_whole(&String::from_utf8_lossy(&answer), call.starts_with("GET /watch"))
        && let Ok(count @ 1..) = stream.read(&mut piece)
    {
        answer.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), text)
}

/// Nothing more comes, or, of a watch, nothing before something happens.
fn is_whole(answer: &str, watch: bool) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    match length {
        Some(length) => body.len() >= length,
        // The line with the length of a chunk, and one in it.
        None if watch => body.lines().count() > 1 && body.ends_with('\n'),
        None => body.ends_with("0\r\n\r\n"),
    }
}

fn eventually(mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if check() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
