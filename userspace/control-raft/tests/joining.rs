//! A cluster that issues its members' certificates itself: how one is founded, who comes in, and who does not.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use control_api::client::Client;
use control_api::tls::ClientTrust;
use control_api::{MemberRole, RefusalKind};
use control_raft::{Bound, Config, Control, Issued, StartError, StartErrorKind};
use control_state::{Action, Entry, LEVEL, PutMode};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[test]
fn members_come_with_a_token_once_and_show_certificates_from_then_on() {
    let world = World::new();
    let one = world.start("n1", None);
    one.puts("a");
    let token = one.token(Duration::from_secs(600));
    let two = world.start("n2", Some(token.clone()));
    assert!(eventually(|| two.control.state().view.objects.contains_key("a")));
    assert!(eventually(|| one.control.metrics().voters.len() == 2), "it votes");
    // Who comes second with it is told what to do, and so is whoever makes one up.
    for refused in [token.clone(), format!("{}{}", &token[..token.len() - 4], "3435")] {
        let error = world.try_start("n3", Some(refused), |_| {}).err().expect("must refuse");
        let told = &error.message;
        assert!(matches!(error.kind, StartErrorKind::Identity | StartErrorKind::Config), "{told}");
        assert!(told.contains("--join") && told.contains("weirctl member token"), "{told}");
    }
    let late = one.token(Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(1100));
    let error = world.try_start("n3", Some(late), |_| {}).err().expect("must refuse");
    assert!(error.message.contains("expired"), "{error}");
    // A name that is taken costs no token.
    let kept = two.token(Duration::from_secs(600));
    let error = world.try_start_at("n1-again", "n1", Some(kept.clone()), |_| {}).err().expect("must refuse");
    assert!(error.message.contains("a member \"n1\" already"), "{error}");
    let three = world.try_start("n3", Some(kept), |config| config.role = MemberRole::Secondary).unwrap();
    assert!(eventually(|| three.control.state().view.objects.contains_key("a")));
    three.puts("b");
    assert!(eventually(|| one.control.state().view.members.len() == 3));
    assert!(one.control.state().view.members.values().all(|member| member.peer_url.starts_with("https://")));
    // The same command line, token and all.
    two.kill();
    let two = world.start("n2", Some(token));
    two.puts("c");
    assert!(eventually(|| three.control.state().view.objects.contains_key("c")));
    // What others could read tells no key.
    let state = serde_json::to_string(&*one.control.state()).unwrap();
    assert!(state.contains("sealedKey") && !state.contains("PRIVATE KEY"));
    assert!(!serde_json::to_string(&one.control.state().view).unwrap().contains("sealedKey"), "readers see none of it");
    assert!(!world.directory.path().join("n3/peer/seal").exists(), "one that does not vote signs nothing");
}

/// A cluster that starts, or chooses a leader, takes nobody in for a moment.
#[test]
fn who_cannot_be_asked_at_once_is_asked_again() {
    let world = World::new();
    let one = world.start("n1", None);
    one.puts("a");
    let token = one.token(Duration::from_secs(600));
    one.kill();
    let at = world.listeners.lock().unwrap()["n1"].try_clone().unwrap();
    at.set_nonblocking(false).unwrap();
    std::thread::scope(|threads| {
        let comes = threads.spawn(|| world.try_start("n2", Some(token), |config| config.role = MemberRole::Secondary));
        drop(at.accept().unwrap());
        let _one = world.start("n1", None);
        let two = comes.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
        assert!(eventually(|| two.control.state().view.objects.contains_key("a")));
    });
}

/// The token is spent by then: whoever asks again, in this life or the next, is the one that it was spent for.
#[test]
fn whose_answer_was_lost_asks_again_and_gets_it() {
    for (starts_anew, is_written_off) in [(false, false), (true, false), (true, true)] {
        let world = World::new();
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", door.local_addr().unwrap());
        let one = world.start_with("n1", None, |config| config.advertise_peer_url = Some(url.clone()));
        assert!(eventually(|| one.control.state().level() == LEVEL));
        let token = one.token(Duration::from_secs(600));
        // What is said once the token is spent reaches nobody: for the first time, or as long as whoever asks lives.
        let (lost, opens) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let is_lost = {
            let (control, lost, opens) = (one.control.clone(), lost.clone(), opens.clone());
            move || {
                let spent = control.state().authority().tokens.is_empty() && !opens.load(Ordering::SeqCst);
                spent && (lost.fetch_add(1, Ordering::SeqCst) == 0 || starts_anew)
            }
        };
        relays(door, world.listeners.lock().unwrap()["n1"].local_addr().unwrap(), is_lost);
        if starts_anew {
            let comes = Control::start(world.config("n2", "n2", Some(token.clone())));
            let runtime = Runtime::new().unwrap();
            runtime.block_on(async {
                let twice = async {
                    while lost.load(Ordering::SeqCst) < 2 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::select! {
                    came = comes => panic!("no answer has reached it: {:?}", came.map(drop)),
                    () = twice => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_millis(500));
            opens.store(true, Ordering::SeqCst);
            let error = world.try_start_at("other", "n2", Some(token.clone()), |_| {}).err().expect("must refuse");
            assert!(error.message.contains("asked otherwise"), "another machine of its name: {error}");
        }
        if is_written_off {
            one.removes("n2");
            let error = world.try_start("n2", Some(token), |_| {}).err().expect("must refuse");
            assert!(error.message.contains("it was used"), "{error}");
            assert!(!one.control.state().view.members.contains_key("n2"));
            continue;
        }
        let two = world.try_start("n2", Some(token.clone()), |_| {}).unwrap_or_else(|error| panic!("{error}"));
        assert!(lost.load(Ordering::SeqCst) > 0);
        two.puts("a");
        assert!(eventually(|| one.control.metrics().voters.len() == 2));
        let error = world.try_start("n3", Some(token), |_| {}).err().expect("must refuse");
        assert!(error.message.contains("it was used"), "{error}");
    }
}

/// Its certificate is good for nothing by then, so that it does not ask to be taken in once more.
#[test]
fn whoever_is_removed_before_it_has_a_vote_stays_out() {
    let world = World::new();
    let one = world.start("n1", None);
    let token = one.token(Duration::from_secs(600));
    let unreached = |config: &mut Config| config.advertise_peer_url = Some("https://127.0.0.1:1".into());
    let two = world.try_start("n2", Some(token), unreached).unwrap_or_else(|error| panic!("{error}"));
    assert!(eventually(|| one.control.metrics().learners == 1));
    one.removes("n2");
    let refused = || one.control.metrics().calls_refused["revoked"];
    let seen = refused();
    assert!(eventually(|| refused() > seen + 3), "it goes on asking");
    assert!(eventually(|| one.control.metrics().learners == 0));
    assert!(!one.control.state().view.members.contains_key("n2"));
    one.puts("a");
    assert!(!two.control.state().view.objects.contains_key("a"));
}

#[test]
fn strangers_get_nowhere_and_a_certificate_is_for_one_name() {
    let world = World::new();
    let one = world.start("n1", None);
    let two = world.start("n2", Some(one.token(Duration::from_secs(600))));
    assert!(eventually(|| one.control.metrics().voters.len() == 2));
    let shown = |name: &str| {
        let file = |file: &str| control_api::tls::Pem {
            from: file.to_owned(),
            text: std::fs::read(world.directory.path().join(name).join("peer").join(file)).unwrap(),
        };
        control_api::tls::Identity { chain: file("cert.pem"), key: file("key.pem") }
    };
    let ask = |identity, from: &str, path: &str| {
        let trust = ClientTrust { authorities: None, identity, skip_verify: true };
        let client = Client::trusting(Duration::from_secs(3), &trust).unwrap();
        let headers = [("x-weir-cluster", "test"), ("x-weir-from", from)];
        let url = format!("{}{path}", one.control.peer_url());
        let call = client.call("GET".parse().unwrap(), &url, &headers, "", Duration::from_secs(5));
        Runtime::new().unwrap().block_on(call).unwrap().status.as_u16()
    };
    for path in ["/raft/identity", "/watch", "/raft/version", "/raft/renew"] {
        assert_eq!(ask(None, "n2", path), 401, "{path}");
    }
    assert_eq!(ask(None, "n2", "/raft/authority"), 200, "the authority itself is no secret");
    assert_eq!(ask(Some(shown("n2")), "n2", "/raft/identity"), 200);
    assert_eq!(ask(Some(shown("n2")), "n1", "/raft/identity"), 403, "in another's name");
    assert_eq!(ask(Some(shown("n2")), "n9", "/raft/identity"), 403, "nor in that of one who is not there yet");
    assert_eq!(
        ask(Some(shown("n2")), "127.0.0.1", "/raft/identity"),
        403,
        "nor in that of a member named as its host is"
    );
    assert!(one.control.metrics().calls_refused["unauthenticated"] >= 4);
    two.puts("a");
}

#[test]
fn the_certificate_of_a_removed_member_is_good_for_nothing() {
    let world = World::new();
    let one = world.start("n1", None);
    let secondary = |config: &mut Config| config.role = MemberRole::Secondary;
    let two = world.try_start("s2", Some(one.token(Duration::from_secs(600))), secondary).unwrap();
    one.puts("a");
    assert!(eventually(|| two.control.state().view.objects.contains_key("a")));
    assert!(eventually(|| one.control.state().level() == control_raft::LEVEL));
    assert!(eventually(|| one.control.state().view.members.contains_key("s2")));
    let remove = || one.runtime.as_ref().unwrap().block_on(one.control.remove_member("s2"));
    assert!(eventually(|| remove().is_ok()));
    let removed = one.control.state().view.version;
    // It runs on, and hears nothing of what comes later.
    assert!(eventually(|| one.control.metrics().calls_refused["revoked"] > 0));
    one.puts("secret");
    let seen = one.control.metrics().calls_refused["revoked"];
    assert!(eventually(|| one.control.metrics().calls_refused["revoked"] > seen + 3), "it goes on asking");
    assert!(!two.control.state().view.objects.contains_key("secret"));
    assert!(!one.control.state().view.members.contains_key("s2"), "and does not come back by itself");
    two.kill();
    // With what it has it does not start again; another machine may have the name.
    let again = world.try_start("s2", None, secondary);
    assert!(again.is_ok_and(|again| {
        let seen = one.control.metrics().calls_refused["revoked"];
        let refused = eventually(|| one.control.metrics().calls_refused["revoked"] > seen);
        let knows = again.control.state().view.objects.contains_key("secret");
        again.kill();
        refused && !knows
    }));
    let token = one.token(Duration::from_secs(600));
    let next = world.try_start_at("s2-next", "s2", Some(token), secondary).unwrap();
    assert!(eventually(|| next.control.state().view.objects.contains_key("secret")));
    assert!(eventually(|| one.control.state().view.members.contains_key("s2")));
    assert!(one.control.state().view.version > removed);
}

#[test]
fn the_authority_outlives_the_log() {
    let world = World::new();
    let kept = |name: &str, file: &str| world.directory.path().join(name).join(file);
    let one = world.start("n1", None);
    let two = world.start("n2", Some(one.token(Duration::from_secs(600))));
    assert!(eventually(|| kept("n2", "peer/authority.sealed").exists()), "every primary keeps a copy");
    let read = |name: &str, file: &str| std::fs::read_to_string(kept(name, file)).unwrap();
    assert!(eventually(|| read("n2", "peer/authority.sealed") == read("n1", "peer/authority.sealed")));
    assert!(!read("n2", "peer/authority.sealed").contains("PRIVATE"));
    let authority = read("n1", "peer/authority.pem");
    two.kill();
    one.kill();
    std::fs::remove_file(kept("n1", "raft.redb")).unwrap();
    // Founded anew, with the authority that it had: whoever shows a certificate of it is believed on.
    let one = world.start("n1", None);
    let three = world.try_start("n3", Some(one.token(Duration::from_secs(600))), |_| {}).unwrap();
    assert_eq!(read("n3", "peer/authority.pem"), authority);
    three.puts("a");
}

#[test]
fn a_certificate_is_never_for_the_name_of_another_member() {
    let world = World::new();
    let one = world.start("n1", None);
    let token = one.token(Duration::from_secs(600));
    let comes = |name: &str, host: &str| {
        let url = format!("https://{host}:2380");
        let change = |config: &mut Config| {
            config.role = MemberRole::Secondary;
            config.advertise_peer_url = Some(url);
        };
        world.try_start_at(&format!("{name}-{}", host.len()), name, Some(token.clone()), change)
    };
    for (name, host) in [("n2", "n1"), ("n2", "N1"), ("n2", "*.n1"), ("n2", "*")] {
        let error = comes(name, host).err().expect("must refuse");
        assert!(error.message.contains("host"), "{name} at {host}: {error}");
    }
    let error = comes("N1", "127.0.0.1").err().expect("must refuse");
    assert!(error.message.contains("do not differ by case"), "{error}");
    // One that is reached at its own name, and nobody who comes later has that name or that host.
    let two = world
        .try_start("n2", Some(token.clone()), |config| {
            config.role = MemberRole::Secondary;
            config.advertise_peer_url = Some("https://localhost:2380".into());
        })
        .unwrap();
    assert!(eventually(|| one.control.state().view.members.contains_key("n2")), "no refusal has cost the token");
    let token = one.token(Duration::from_secs(600));
    let error = world.try_start("localhost", Some(token), |_| {}).err().expect("must refuse");
    assert!(error.message.contains("is reached at a host of that name"), "{error}");
    drop(two);
}

#[test]
fn a_token_for_a_secondary_makes_no_primary() {
    let world = World::new();
    let one = world.start("n1", None);
    let bound = Bound { role: Some(MemberRole::Secondary), name: Some("s2".into()) };
    let token = one.token_for(Duration::from_secs(600), bound);
    let error = world.try_start("s2", Some(token.clone()), |_| {}).err().expect("must refuse");
    assert!(error.message.contains("the token is for a secondary"), "{error}");
    assert!(!world.directory.path().join("s2/peer/seal").exists(), "nor is it told what signs");
    let secondary = |config: &mut Config| config.role = MemberRole::Secondary;
    let error = world.try_start("s3", Some(token.clone()), secondary).err().expect("must refuse");
    assert!(error.message.contains("for a member \"s2\""), "{error}");
    let two = world.try_start("s2", Some(token), secondary).unwrap();
    assert!(eventually(|| one.control.state().view.members.contains_key("s2")));
    drop(two);
}

#[test]
fn certificates_are_renewed_before_they_end() {
    let world = World::new();
    let brief = |config: &mut Config| {
        config.issued.as_mut().unwrap().lifetime = Duration::from_secs(6);
    };
    let one = world.try_start("n1", None, brief).unwrap();
    let token = one.token(Duration::from_secs(600));
    let two = world
        .try_start("s2", Some(token), |config| {
            brief(config);
            config.role = MemberRole::Secondary;
        })
        .unwrap();
    let ends = |node: &Node| node.control.metrics().certificate_ends.unwrap();
    let first = [ends(&one), ends(&two)];
    assert!(eventually(|| ends(&one) > first[0] && ends(&two) > first[1]), "each has its next");
    assert!(eventually(|| SystemTime::now() > first[0].max(first[1]) + Duration::from_secs(1)), "the first have ended");
    two.puts("later");
    assert!(eventually(|| one.control.state().view.members.get("s2").is_some_and(|member| member.up)));
}

#[test]
fn another_authority_follows_and_nobody_is_left_behind() {
    let world = World::new();
    let one = world.start("n1", None);
    let two = world.start("n2", Some(one.token(Duration::from_secs(600))));
    let three = world
        .try_start("s3", Some(one.token(Duration::from_secs(600))), |config| config.role = MemberRole::Secondary)
        .unwrap();
    assert!(eventually(|| one.control.state().view.members.len() == 3));
    let before = world.authority_of("n1");
    let old_token = one.token(Duration::from_secs(600));

    // One that is away is waited for: until it is back, both are believed, and whoever is new comes by a token of that time.
    three.kill();
    assert!(eventually(|| one.control.state().view.members.get("s3").is_some_and(|member| !member.up)));
    assert!(eventually(|| one.replaces_authority().is_ok()));
    assert!(eventually(|| ["n1", "n2"].iter().all(|name| world.authority_of(name).matches("BEGIN").count() == 2)));
    let told = one.replaces_authority().unwrap_err();
    assert!(told.message.contains("weirctl member authority"), "{told}");
    let shown = || [&one, &two].iter().filter_map(|node| node.control.authority()?.waits_for).next();
    assert!(eventually(|| shown().is_some_and(|waits_for| waits_for == ["s3"])), "{:?}", shown());
    assert!(one.control.authority().unwrap().next.is_some());
    let four = world
        .try_start("s4", Some(one.token(Duration::from_secs(600))), |config| config.role = MemberRole::Secondary)
        .unwrap();
    assert!(eventually(|| one.control.state().view.members.contains_key("s4")));

    let three = world.start_with("s3", None, |config| config.role = MemberRole::Secondary);
    let names = ["n1", "n2", "s3", "s4"];
    let is_new = |name: &&str| {
        let authority = world.authority_of(name);
        authority.matches("BEGIN").count() == 1 && authority != before
    };
    assert!(eventually(|| names.iter().all(&is_new)), "the one before is believed no more");
    let shown = one.control.authority().unwrap();
    assert!(shown.next.is_none() && shown.former.is_none() && shown.ends.is_some());
    for name in ["a", "b"] {
        two.puts(name);
    }
    let nodes = [&one, &two, &three, &four];
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.objects.len() == 2)));

    // All of it also after a start, and for those who come.
    one.kill();
    let one = world.start("n1", None);
    let error = world.try_start("n5", Some(old_token), |_| {}).err().expect("must refuse");
    assert!(error.message.contains("another authority"), "{error}");
    let five = world.start("n5", Some(two.token(Duration::from_secs(600))));
    assert!(eventually(|| five.control.state().view.objects.len() == 2));
    assert!(eventually(|| one.control.state().view.members.get("n5").is_some_and(|member| member.up)));
}

#[test]
fn an_authority_is_followed_before_it_ends() {
    let world = World::new();
    let brief = |config: &mut Config| {
        let issued = config.issued.as_mut().unwrap();
        (issued.lifetime, issued.authority_lasts) = (Duration::from_secs(6), Duration::from_secs(20));
    };
    let one = world.try_start("n1", None, brief).unwrap();
    let token = one.token(Duration::from_secs(600));
    let two = world.start_with("n2", Some(token), brief);
    let ends = |node: &Node| node.control.metrics().authority_ends.unwrap();
    let first = ends(&one);
    assert_eq!(ends(&two), first);
    assert!(eventually(|| SystemTime::now() > first + Duration::from_secs(2)));
    assert!(eventually(|| ends(&one) > first && ends(&two) > first), "by itself");
    two.puts("later");
    one.puts("and later");
    assert!(eventually(|| one.control.state().view.members.get("n2").is_some_and(|member| member.up)));
}

#[test]
fn connections_are_bounded_and_counted() {
    let world = World::new();
    let one = world.try_start("n1", None, |config| config.peer_connections_max = 8).unwrap();
    let address = one.control.peer_url().trim_start_matches("https://").to_owned();
    let held: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    assert!(eventually(|| one.control.metrics().calls_refused["crowded"] >= 12));
    one.puts("a");
    drop(held);
    let token = one.token(Duration::from_secs(600));
    let mut two = None;
    assert!(eventually(|| {
        two = world.try_start("n2", Some(token.clone()), |_| {}).ok();
        two.is_some()
    }));
    assert!(eventually(|| two.as_ref().unwrap().control.state().view.objects.contains_key("a")));
}

struct World {
    directory: TempDir,
    /// A port stays a member's while that is down, as an address stays a machine's.
    listeners: Mutex<BTreeMap<String, TcpListener>>,
}

struct Node {
    control: Control,
    runtime: Option<Runtime>,
}

impl World {
    fn new() -> World {
        World { directory: tempfile::tempdir().unwrap(), listeners: Mutex::default() }
    }

    fn start(&self, name: &str, token: Option<String>) -> Node {
        let mut node = None;
        // One that was killed lets go of its file a moment later.
        eventually(|| {
            node = self.try_start(name, token.clone(), |_| {}).ok();
            node.is_some()
        });
        node.unwrap()
    }

    fn start_with(&self, name: &str, token: Option<String>, change: impl Fn(&mut Config)) -> Node {
        let mut node = None;
        eventually(|| {
            node = self.try_start(name, token.clone(), &change).ok();
            node.is_some()
        });
        node.unwrap()
    }

    /// Whom a member believes.
    fn authority_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name).join("peer/authority.pem")).unwrap()
    }

    fn try_start(
        &self,
        name: &str,
        token: Option<String>,
        change: impl FnOnce(&mut Config),
    ) -> Result<Node, StartError> {
        self.try_start_at(name, name, token, change)
    }

    fn try_start_at(
        &self,
        place: &str,
        name: &str,
        token: Option<String>,
        change: impl FnOnce(&mut Config),
    ) -> Result<Node, StartError> {
        let mut config = self.config(place, name, token);
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        match runtime.block_on(Control::start(config)) {
            Ok(control) => Ok(Node { control, runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_timeout(Duration::from_millis(500));
                Err(error)
            }
        }
    }

    fn config(&self, place: &str, name: &str, token: Option<String>) -> Config {
        let directory: PathBuf = self.directory.path().join(place);
        let mut config = Config::single(name, directory);
        config.cluster_name = "test".into();
        config.request_timeout = Duration::from_secs(5);
        let mut listeners = self.listeners.lock().unwrap();
        let listener = listeners.entry(place.into()).or_insert_with(|| TcpListener::bind("127.0.0.1:0").unwrap());
        config.listeners = vec![listener.try_clone().unwrap()];
        drop(listeners);
        config.listen_peer_urls = Vec::new();
        config.issued = Some(Issued::new(token));
        config
    }
}

impl Node {
    fn replaces_authority(&self) -> Result<(), control_api::Refusal> {
        let action = self.control.next_authority()?;
        self.runtime.as_ref().unwrap().block_on(self.control.propose(action)).map(drop)
    }

    fn removes(&self, name: &str) {
        let remove = || self.runtime.as_ref().unwrap().block_on(self.control.remove_member(name));
        assert!(eventually(|| match remove() {
            Ok(_) => true,
            Err(refusal) => refusal.kind != RefusalKind::Unavailable && panic!("{refusal}"),
        }));
    }

    fn token(&self, lasts: Duration) -> String {
        self.token_for(lasts, Bound::default())
    }

    fn token_for(&self, lasts: Duration, bound: Bound) -> String {
        let mut token = None;
        assert!(eventually(|| {
            token = self.runtime.as_ref().unwrap().block_on(self.control.invite(lasts, bound.clone())).ok();
            token.is_some()
        }));
        token.unwrap().token
    }

    fn puts(&self, name: &str) {
        let document = json!({"name": name, "kind": "Pipeline"});
        let entry = Entry::new(document.into(), Vec::new());
        assert!(eventually(|| {
            let put = Action::Put { mode: PutMode::Upsert, entries: vec![entry.clone()] };
            match self.runtime.as_ref().unwrap().block_on(self.control.propose(put)) {
                Ok(_) => true,
                Err(refusal) => refusal.kind != RefusalKind::Unavailable && panic!("{refusal}"),
            }
        }));
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_millis(500));
    }
}

/// Hands on what comes in at a door, and ends a connection instead of handing on an answer that `is_lost`.
fn relays(door: TcpListener, to: SocketAddr, is_lost: impl Fn() -> bool + Clone + Send + 'static) {
    std::thread::spawn(move || {
        for client in door.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut asks, &mut asked);
                let _ = asked.shutdown(Shutdown::Write);
            });
            let is_lost = is_lost.clone();
            std::thread::spawn(move || {
                let (mut client, mut server, mut piece) = (client, server, [0; 16 << 10]);
                while let Ok(count @ 1..) = server.read(&mut piece) {
                    if is_lost() || client.write_all(&piece[..count]).is_err() {
                        break;
                    }
                }
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
}

/// What is sure to come does, however busy the machine is.
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
