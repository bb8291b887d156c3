//! The program against a running admin API: what it prints, and how it ends.

#[path = "../../control-admin/tests/world/mod.rs"]
mod world;

use std::io::Write;
use std::process::{Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine};
use control_admin::{Door, Logins};
use control_api::client::Client;
use control_api::tls::{Pem, server_config};
use serde_json::json;
use world::{Authority, World};

#[test]
fn create_get_describe_apply_delete() {
    let world = World::start();
    world
        .ctl(&["create", "-f", "-"], TWO)
        .prints("create Pipeline pl successfully\ncreate HTTPServer hs successfully\n");
    world.ctl(&["create", "-f", "-"], TWO).fails("already").fails("nothing was changed");
    world
        .ctl(&["apply", "-f", "-"], TWO)
        .prints("update Pipeline pl successfully\nupdate HTTPServer hs successfully\n");
    world.ctl(&["get", "hs"], "").prints("NAME   KIND         AGE\nhs     HTTPServer   0s\n");
    world.ctl(&["get", "all"], "").prints("NAME   KIND         AGE\nhs     HTTPServer   0s\npl     Pipeline     0s\n");
    world
        .ctl(&["get", "pipelines", "--all-namespaces"], "")
        .prints("NAME   KIND       NAMESPACE   AGE\npl     Pipeline   default     0s\n");
    world.ctl(&["get", "hs", "hs", "-o", "yaml"], "").shows("name: hs\nkind: HTTPServer\n");
    world.ctl(&["get", "hs", "-o", "json"], "").shows("[\n  {\n    \"name\": \"hs\"");
    world.ctl(&["get", "hs", "pl"], "").fails("there is no HTTPServer named \"pl\"");
    world.ctl(&["get", "hs", "nope"], "").fails("object \"nope\" not found");
    world.ctl(&["get", "nope"], "").fails("\"nope\" is no kind");
    let described = world.ctl(&["describe", "pl", "pl"], "");
    for part in [
        "In Namespace default:",
        "Name: pl\nKind: Pipeline\nVersion: easegress.megaease.com/v2\n",
        "Filters:\n========\n",
        "AllStatus:\n==========\n",
    ] {
        described.shows(part);
    }
    world.ctl(&["delete", "hs", "nope"], "").fails("there is no HTTPServer named \"nope\"");
    world.ctl(&["delete", "hs", "hs"], "").prints("delete HTTPServer hs successfully\n");
    world.ctl(&["delete", "-f", "-"], TWO).fails("HTTPServer hs failed").shows("delete Pipeline pl successfully");
    world.ctl(&["get", "all"], "").prints("NAME   KIND   AGE\n");
}

#[test]
fn what_changes_is_told_as_it_does() {
    use std::io::BufRead;
    let world = World::start();
    world.ctl(&["create", "-f", "-"], TWO);
    let address = world.address.to_string();
    let wide = world.ctl(&["get", "all", "--wide"], "");
    wide.shows("NAME   KIND         OWNER      GENERATION   AGE\n");
    let hs = wide.out.lines().find(|line| line.starts_with("hs")).unwrap().to_owned();
    let tag = world.get("/objects/hs").etag.unwrap();
    assert_eq!(hs.split_whitespace().nth(2), Some("user-api"), "{hs}");
    assert_eq!(hs.split_whitespace().nth(3), Some(tag.trim_matches('"')), "{hs}");

    let arguments = ["--server", &address, "get", "hs", "--watch"];
    let mut watch = Command::new(PROGRAM).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let out = std::io::BufReader::new(watch.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = || lines.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(next(), "NAME   KIND         AGE");
    assert_eq!(ageless(&next()), "hs     HTTPServer   0s");
    world.ctl(&["delete", "pl", "pl"], "");
    world.ctl(&["delete", "hs", "hs"], "");
    assert_eq!(next(), "hs   HTTPServer   deleted", "nothing is told of other kinds");
    watch.kill().unwrap();
    watch.wait().unwrap();
    world.ctl(&["get", "members", "--watch"], "").fails("objects can be watched");
}

#[test]
fn older_spellings_work() {
    let world = World::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pl.yaml");
    std::fs::write(&file, TWO.split("---").next().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    world.ctl(&["object", "create", "-f", file], "").prints("create Pipeline pl successfully\n");
    world.ctl(&["object", "update", "-f", file], "").prints("update Pipeline pl successfully\n");
    world.ctl(&["object", "get", "pl"], "").shows("name: pl\n");
    world.ctl(&["object", "list"], "").shows("- name: pl\n");
    world.ctl(&["object", "delete", "pl"], "").prints("delete Pipeline pl successfully\n");
    world.ctl(&["object", "update", "-f", file], "").fails("not found");
    world.eventually("/status/members", |members| members.as_array().is_some_and(|m| m.len() == 1));
    let members = world.ctl(&["member", "list"], "");
    assert!(members.out.starts_with("NAME   ROLE      AGE"), "{}", members.out);
    members.shows("n1     primary").shows("Leader").shows("localhost:2381").shows(" ago");
    world.ctl(&["delete", "member", "ghost"], "").fails("member \"ghost\" not found; known members: n1");

    world.ctl(&["custom-data-kind", "create", "-f", "-"], "name: users\nidField: id\n").prints("");
    world.ctl(&["custom-data-kind", "create"], "name: users\nidField: id\n").fails("users");
    world.ctl(&["custom-data-kind", "update"], "name: users\nidField: id\njsonSchema: {type: object}\n").prints("");
    world.ctl(&["custom-data-kind", "list"], "").shows("users   id         yes");
    world.ctl(&["custom-data-kind", "get", "users", "-o", "yaml"], "").shows("idField: id\n");
    world.ctl(&["custom-data", "create", "users", "-f", "-"], "id: a\nage: 1\n---\nid: b\n").prints("");
    world.ctl(&["custom-data", "update", "users"], "id: a\nage: 2\n").prints("");
    world.ctl(&["custom-data", "get", "users", "a"], "").shows("age: 2\n");
    world.ctl(&["custom-data", "batch-update", "users"], "delete: [b]\nlist: [{id: c}]\n").prints("");
    world.ctl(&["custom-data", "list", "users"], "").prints("ID\na\nc\n");
    world.ctl(&["custom-data", "delete", "users", "a"], "").prints("delete CustomData users a successfully\n");
    world.ctl(&["custom-data-kind", "delete", "users"], "").prints("delete CustomDataKind users successfully\n");
}

/// Kinds in files are taken as the command line takes them: none is passed over in silence.
#[test]
fn custom_data_is_applied_and_deleted_in_every_spelling() {
    let world = World::start();
    for (kind, data) in [("CustomDataKind", "CustomData"), ("customdatakinds", "customdata"), ("cdk", "cd")] {
        let text = format!(
            "kind: {kind}\nname: users\nidField: id\n---\nkind: {data}\nname: users\nlist: [{{id: a}}, {{id: b}}]\n"
        );
        world
            .ctl(&["apply", "-f", "-"], &text)
            .prints("create CustomDataKind users successfully\napply CustomData users successfully\n");
        world.ctl(&["get", "cd", "users"], "").prints("ID\na\nb\n");
        world.ctl(&["delete", "-f", "-"], &format!("kind: {data}\nname: users\nlist: [{{id: a}}]\n")).ends(0);
        world.ctl(&["get", "cd", "users"], "").prints("ID\nb\n");
        world.ctl(&["delete", "-f", "-"], &text).ends(0);
        world.ctl(&["get", "cdk", "users"], "").fails("not found");
    }
}

#[test]
fn http_proxy_from_rules() {
    let world = World::start();
    let rules = [
        "--port",
        "10080",
        "--rule",
        "/b*=127.0.0.1:3",
        "--rule",
        "/a=127.0.0.1:1,http://127.0.0.1:2",
        "--rule",
        "x.com/=127.0.0.1:4",
    ];
    let create: Vec<&str> = ["create", "httpproxy", "demo"].into_iter().chain(rules).collect();
    world.ctl(&create, "").shows("create Pipeline demo-0 successfully").shows("create HTTPServer demo successfully");
    let server = world.get("/objects/demo").json();
    assert_eq!(server["rules"][0]["host"], "x.com");
    assert_eq!(server["rules"][1]["paths"][0], serde_json::json!({"path": "/a", "backend": "demo-1"}));
    assert_eq!(server["rules"][1]["paths"][1], serde_json::json!({"pathPrefix": "/b", "backend": "demo-0"}));
    let pool = &world.get("/objects/demo-1").json()["filters"][0]["pools"][0];
    assert_eq!(pool["servers"][1]["url"], "http://127.0.0.1:2");
    world.ctl(&["create", "httpproxy", "bad", "--port", "1", "--rule", "nonsense"], "").fails("there is no =");
    world.ctl(&["create", "httpproxy", "bad", "--port", "1"], "").ends(2);
}

#[test]
fn custom_data() {
    let world = World::start();
    let text = "kind: CustomDataKind\nname: k\nidField: id\n---\nkind: CustomData\nname: k\nlist: [{id: a, age: 1}, {id: b}]\n";
    world
        .ctl(&["create", "-f", "-"], text)
        .prints("create CustomDataKind k successfully\ncreate CustomData k successfully\n");
    world.ctl(&["apply", "-f", "-"], text).shows("update CustomDataKind k successfully");
    world
        .ctl(&["get", "cdk"], "")
        .prints("NAME   ID-FIELD   JSON-SCHEMA   DATA-NUM\nk      id         no            2\n");
    world.ctl(&["get", "cd", "k"], "").prints("ID\na\nb\n");
    world.ctl(&["get", "cd", "k", "a"], "").prints("id: a\nage: 1\n");
    world.ctl(&["delete", "cd", "k", "a"], "").prints("delete CustomData k a successfully\n");
    world.ctl(&["delete", "cd", "k", "--all"], "").prints("delete CustomData k successfully\n");
    world.ctl(&["delete", "cdk", "k"], "").prints("delete CustomDataKind k successfully\n");
    world.ctl(&["get", "cd", "k"], "").fails("not found");
}

#[test]
fn small_verbs() {
    let world = World::start();
    world.ctl(&["health"], "").prints("OK\n");
    world.ctl(&["metrics"], "").shows("weir_build_info 1");
    world.ctl(&["logs", "--tail", "2"], "").prints("line 2\nline 3\n");
    world.ctl(&["logs", "set-level", "debug"], "").prints("set log level to debug successfully\n");
    world.ctl(&["logs", "get-level"], "").prints("debug\n");
    let apis = world.ctl(&["apis"], "");
    assert!(apis.out.lines().next().unwrap().split_whitespace().eq(["PATH", "METHOD", "VERSION", "GROUP"]));
    apis.shows("/apis/v2/objects/{name}");
    let resources = world.ctl(&["api-resources"], "");
    assert!(
        resources.out.lines().next().unwrap().split_whitespace().eq(["NAME", "ALIASES", "CATEGORY", "KIND", "ACTION"])
    );
    resources.shows("httpserver,httpservers,hs").shows("CustomDataKind");
    world.ctl(&["completion", "bash"], "").shows("weirctl");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cpu").display().to_string();
    world.ctl(&["profile", "info"], "").shows("cpuPath: \"\"").shows("memoryPath: \"\"");
    world.ctl(&["profile", "start", "cpu", &file], "").prints("start cpu profile successfully\n");
    world.ctl(&["profile", "start", "memory", &file], "").fails("name a file that is not there");
    world.ctl(&["profile", "info", "-o", "json"], "").shows(&file);
    world.ctl(&["profile", "stop"], "").prints("stop profile successfully\n");
    assert!(std::fs::metadata(&file).unwrap().len() > 0);
    world.ctl(&["delete", "--help"], "").shows("delete");
    world.ctl(&["explain", "HTTPServer.port"], "").shows("port");
    world.ctl(&["explain", "Mock.rules"], "").shows("rules");
    world.ctl(&["nonsense"], "").ends(2);
    world.ctl(&["apply"], "").fails("-f FILE");
    world.ctl(&["apply", "-f", "-"], "a: [b\n").fails("stdin: line ");
    world
        .ctl(&["apply", "-f", "-"], "name: a\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: []}]\nflwo: []\n")
        .warns("flwo");
    world
        .ctl(
            &["apply", "--strict", "-f", "-"],
            "name: a\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: []}]\nflwo: []\n",
        )
        .fails("flwo");
    world.ctl(&["edit", "pl", "a"], "").prints("nothing was changed\n");

    let unreached = Command::new(PROGRAM).args(["--server", "127.0.0.1:1", "get", "all"]).output().unwrap();
    let error = String::from_utf8_lossy(&unreached.stderr);
    assert!(
        unreached.status.code() == Some(1)
            && error.contains("cannot reach http://127.0.0.1:1")
            && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn history_diff_and_rollback() {
    let world = World::start();
    world.ctl(&["create", "-f", "-"], TWO).shows("create Pipeline pl");
    let first = world.control.state().view.changed["pl"];
    let other = "name: pl\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: [{body: other, code: 200}]}]\n";
    world.ctl(&["apply", "-f", "-"], other).shows("update Pipeline pl");
    let second = world.control.state().view.changed["pl"];
    world.ctl(&["history"], "").shows("changed Pipeline pl\n").shows("created HTTPServer hs, created Pipeline pl\n");
    world.ctl(&["history", "hs"], "").shows("created HTTPServer hs\n");
    let (from, to) = (first.to_string(), second.to_string());
    world.ctl(&["diff", &from], "").shows("Pipeline pl\n").shows("+ ").shows("other");
    world.ctl(&["diff", &to, &to], "").prints("no difference\n");
    world.ctl(&["get", "pl", "pl", "--version", &to, "-o", "yaml"], "").shows("other");
    world
        .ctl(&["apply", "--if-version", &from, "-f", "-"], TWO)
        .fails("was changed in version")
        .fails("nothing was changed");
    world.ctl(&["rollback", &from], "").shows(&format!("rolled back to version {from}, as version "));
    world.ctl(&["diff", &from], "").prints("no difference\n");
    world.ctl(&["rollback", "99999"], "").fails("version 99999 is not there yet");
}

#[test]
fn a_cluster_goes_into_a_file_and_comes_back_elsewhere() {
    let world = World::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, words, wrong) = (path("shop.weir"), path("passphrase"), path("wrong"));
    std::fs::write(&words, "correct horse battery\n").unwrap();
    std::fs::write(&wrong, "another passphrase\n").unwrap();
    world.ctl(&["create", "-f", "-"], TWO).shows("create Pipeline pl");
    world.ctl(&["create", "-f", "-"], VIP).shows("create VirtualIP v");
    world.ctl(&["create", "-f", "-"], DATA).shows("create CustomData k");
    world.ctl(&["create", "-f", "-"], SECRET).shows("create Pipeline guarded");
    world.ctl(&["backup"], "").fails("give -o FILE");
    world.ctl(&["backup", "-o", "yaml"], "").fails("write ./yaml");
    world.ctl(&["get", "all", "-o", &file], "").ends(2);
    world.ctl(&["backup", "-o", &file], "").fails("hold secrets (\"guarded\")").fails("--passphrase-file");
    assert!(!std::path::Path::new(&file).exists());
    let done = world.ctl(&["backup", "-o", &file, "--passphrase-file", &words], "");
    done.shows("4 objects and 1 items of custom data").shows("(locked)");
    let text = std::fs::read(&file).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains(MARK), "nobody reads it without the passphrase");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // What is there now is told beside what the backup has, and changes in one step.
    let restore = |world: &World, more: &[&str]| {
        world.ctl(&[&["restore", &file, "--passphrase-file", &words], more].concat(), "")
    };
    restore(&world, &["--dry-run"]).shows("no difference in the objects");
    world.ctl(&["delete", "hs", "hs"], "").shows("successfully");
    world.ctl(&["delete", "cdk", "k"], "").shows("successfully");
    world.ctl(&["apply", "-f", "-"], &SECRET.replace(MARK, "another")).shows("update");
    world.ctl(&["create", "-f", "-"], &OTHER.replace("other", "later")).shows("create");
    let before = world.control.state().view.version;
    let told = restore(&world, &["--dry-run"]);
    for part in ["HTTPServer hs\n+ ", "Pipeline later\n- ", "a secret in it differs", "0 items now, 1 in the backup"] {
        told.shows(part);
    }
    assert!(!told.out.contains(MARK) && !told.out.contains("another"), "{}", told.out);
    assert_eq!(world.control.state().view.version, before, "and nothing was changed");
    restore(&world, &["--if-version", &(before - 1).to_string()]).fails("after version").fails("nothing was changed");
    let done = restore(&world, &["--if-version", &before.to_string()]);
    done.shows(&format!("restored as version {}: 1 objects created, 1 changed, 1 deleted", before + 1));
    done.shows(&format!("weirctl rollback {before}"));
    world.ctl(&["get", "cd", "k"], "").prints("ID\na\n");
    let guarded = &world.control.state().view.objects["guarded"];
    assert!(guarded.to_string().contains(MARK), "with its secret");
    world.ctl(&["rollback", &before.to_string()], "").shows("rolled back");
    world.ctl(&["get", "all"], "").shows("later");

    // Another cluster that was founded anew.
    let fresh = World::start();
    world.ctl(&["restore", &file], "").fails("is locked").fails("--passphrase-file");
    fresh.ctl(&["restore", &file, "--passphrase-file", &wrong], "").fails("does not open");
    assert!(fresh.control.state().view.objects.is_empty());
    restore(&fresh, &[]).shows("4 objects created");
    let (old, new) = (world.control.state().view.clone(), fresh.control.state().view.clone());
    assert_eq!(new.objects["guarded"], guarded.clone());
    assert_eq!((new.custom_data["k"].len(), new.members["n1"].id), (1, old.members["n1"].id));
    assert!(new.version > before - 4, "versions go on");
    assert_eq!(new.succeeds.last().unwrap().cluster_id, old.cluster_id, "edges of the old one follow");
    let number = |view: &control_api::Snapshot| view.steering["v"].generations.last().unwrap().number;
    assert!(number(&new) >= number(&old), "so do the tables of its virtual IP");
    // Tokens come back only when somebody asks for them, and are told either way.
    world.ctl(&["token", "create", "ci", "--role", "write"], "").shows("weir_");
    let with = path("with-tokens");
    world.ctl(&["backup", "-o", &with, "--passphrase-file", &words], "").shows("backup of cluster");
    let again = |world: &World, more: &[&str]| {
        world.ctl(&[&["restore", &with, "--passphrase-file", &words], more].concat(), "")
    };
    again(&world, &["--with-tokens"]).fails("founded anew").fails("nothing was changed");
    let (left, taken) = (World::start(), World::start());
    again(&left, &["--dry-run"]).shows("API tokens in the backup that are left out: ci (--with-tokens");
    again(&left, &[]).shows("left out: ci");
    assert!(left.control.state().view.tokens.is_empty(), "it may have been revoked since");
    again(&taken, &["--with-tokens", "--dry-run"]).shows("good as they were then: ci");
    again(&taken, &["--with-tokens"]).shows("good as they were then: ci");
    assert!(taken.control.state().view.tokens.contains_key("ci"));
    // Not empty any more, and not the one that the backup is of.
    let twin = World::start();
    twin.ctl(&["create", "-f", "-"], &OTHER.replace("other", "mine")).shows("create");
    restore(&twin, &[]).fails("is not empty").fails("--another-cluster");
    twin.ctl(&["get", "all"], "").shows("mine");
    restore(&twin, &["--another-cluster"]).shows("4 objects created, 0 changed, 1 deleted");
}

#[test]
fn health_tells_what_is_not_well_and_ends_with_1_where_nobody_leads() {
    let answers = |more: &'static str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nwarning: 299 weir \"a \\\"part\\\" is held back\"\r\ncontent-length: 0\r\n";
            stream.write_all(format!("{head}{more}\r\n").as_bytes()).unwrap();
        });
        let home = tempfile::tempdir().unwrap();
        let asked = Command::new(PROGRAM).args(["health", "--server", &url]).env("HOME", home.path()).output();
        Ended::of(asked.unwrap())
    };
    let done = answers("");
    done.prints("OK\n");
    done.warns("a \"part\" is held back");
    let done = answers("x-weir-leaderless: true\r\n");
    assert_eq!((done.code, done.out.as_str()), (1, ""), "{}", done.err);
    assert!(done.err.contains("nobody leads the cluster") && done.err.contains("is held back"), "{}", done.err);
}

/// The new member had joined, and the old one was left in the group for a moment in which nobody led it.
#[test]
fn a_member_is_replaced_also_where_the_others_cannot_decide_for_a_moment() {
    let member = |name: &str, up: bool| json!({"options": {"Name": name, "ClusterRole": "primary"}, "weir": {"up": up, "votes": true, "instance": name}});
    let members = json!([member("n1", true), member("n2", true), member("n3", false), member("n4", true)]).to_string();
    let undecided = (503, json!({"code": 503, "message": "nobody leads"}).to_string());
    let gone = (404, json!({"code": 404, "message": "member n3 not found"}).to_string());
    let done = (200, String::new());
    let refused = (400, json!({"code": 400, "message": "without member n3 nothing could be decided"}).to_string());
    for (answers, fails) in [
        // What a try has done that was not decided in time is not known.
        (vec![undecided.clone(), undecided.clone(), gone.clone()], None),
        (vec![undecided.clone(), done], None),
        (vec![gone], Some("member n3 not found")),
        (vec![undecided, refused], Some("nothing could be decided")),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (members, mut answers) = (members.clone(), answers.into_iter());
        // Ends with the test.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let count = std::io::Read::read(&mut stream, &mut request).unwrap_or(0);
                let (status, body) = match request[..count].starts_with(b"DELETE ") {
                    true => answers.next().unwrap(),
                    false => (200, members.clone()),
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        let home = tempfile::tempdir().unwrap();
        let replace = ["member", "replace", "n3", "n4", "--peer-url", "http://127.0.0.1:1", "--server", &url];
        let asked = Command::new(PROGRAM).args(replace).env("HOME", home.path()).output();
        let ended = Ended::of(asked.unwrap());
        match fails {
            None => ended.shows("delete Member n3 successfully"),
            Some(why) => ended.fails(why),
        };
    }
}

#[test]
fn what_is_no_good_backup_restores_nothing() {
    let world = World::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, key, bad) = (path("b"), path("key"), path("bad"));
    world.ctl(&["create", "-f", "-"], SECRET).shows("create");
    let public = world.ctl(&["backup", "--generate-key", &key], "").out.trim().to_owned();
    assert!(public.starts_with("weir-backup-"), "{public}");
    world.ctl(&["backup", "--generate-key", &key], "").fails("cannot be created");
    world.ctl(&["backup", "-o", &file, "--recipient", "nobody"], "").fails("begins with weir-backup-");
    world.ctl(&["backup", "-o", &file, "--recipient", &public], "").shows("(locked)");
    let good = std::fs::read(&file).unwrap();
    let version = world.control.state().view.version;
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let newer = String::from_utf8_lossy(&good).replacen("weir-backup 1", "weir-backup 9", 1).into_bytes();
    for (bytes, told) in [
        (&good[..good.len() - 100], "is damaged"),
        (&flipped, "is damaged: its checksum"),
        (&newer, "has format 9"),
        (b"name: pl\nkind: Pipeline\n".as_slice(), "not a backup of weir"),
        (b"".as_slice(), "not a backup of weir"),
    ] {
        std::fs::write(&bad, bytes).unwrap();
        world.ctl(&["restore", &bad, "--key-file", &key], "").fails(told);
    }
    // What this version would not take is not half taken.
    for (documents, told) in [
        (r#"{"x": {"name": "x", "kind": "Nope"}}"#, "Nope"),
        (r#"{"x": {"name": "y", "kind": "Pipeline", "filters": [{"name": "m", "kind": "Mock"}]}}"#, "has no name"),
        (
            r#"{"a": {"name": "a", "kind": "HTTPServer", "port": 80}, "b": {"name": "b", "kind": "HTTPServer", "port": 80}}"#,
            "80",
        ),
    ] {
        let cluster_id = &world.control.state().view.cluster_id;
        let body = format!(r#"{{"clusterId": "{cluster_id}", "objects": {documents}}}"#);
        let answer = world.call("POST", "/restore", &[], body);
        assert!(answer.status == 400 && answer.text.contains(told), "{}: {}", answer.status, answer.text);
    }
    assert_eq!(world.control.state().view.version, version, "nothing was changed");
    world.ctl(&["delete", "pipeline", "guarded"], "").shows("successfully");
    world.ctl(&["restore", &file, "--key-file", &key], "").shows("1 objects created");
}

#[test]
fn a_token_does_what_it_is_for_and_nothing_else() {
    let world = World::start();
    world.ctl(&["create", "-f", "-"], TWO).shows("create Pipeline pl");
    let make = |arguments: &[&str]| {
        let made = world.ctl(&[&["token"], arguments].concat(), "").out.trim().to_owned();
        assert!(made.starts_with("weir_") && made.len() > 40, "{made}");
        made
    };
    let (deploy, look) =
        (make(&["create", "deploy", "--role", "write", "--kind", "pipeline"]), make(&["create", "look"]));
    world.ctl(&["token", "create", "deploy"], "").fails("there is a token \"deploy\" already");
    world.ctl(&["token", "create", "x", "--kind", "Nope"], "").fails("kind \"Nope\" is not known; accepted are");
    let listed = world.ctl(&["token", "list"], "");
    listed.shows("deploy   write:Pipeline").shows("look     read");
    let whole = serde_json::to_string(&*world.control.state()).unwrap();
    assert!(!listed.out.contains(&deploy) && !whole.contains(&deploy), "nobody else has it");

    let ask = |token: &str, method: &str, path: &str, body: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("content-type", world::YAML)];
        world.call(method, path, &headers, body)
    };
    let (pipeline, server) = TWO.split_once("---\n").unwrap();
    let changed = pipeline.replace("hello", "changed");
    let listed = ask(&deploy, "GET", "/objects", "").json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &"pl".into()), "of its kind alone");
    let version = world.control.state().view.version;
    for (method, path, body) in [
        ("GET", "/objects/hs", ""),
        ("PUT", "/objects/hs", server),
        ("DELETE", "/objects/hs", ""),
        ("POST", "/objects?apply=true", TWO),
        ("DELETE", "/objects?all=true", ""),
        ("POST", "/rollback?version=1", ""),
        ("POST", "/customdatakinds", "name: k\n"),
        ("GET", "/customdatakinds", ""),
        ("GET", "/history", ""),
        ("GET", "/logs", ""),
        ("PUT", "/logs/level/debug", ""),
        ("GET", "/tokens", ""),
        ("POST", "/tokens", "name: more\ngrants: [{role: admin}]\n"),
        ("POST", "/tokens/deploy/rotate", ""),
        ("DELETE", "/tokens/look", ""),
        ("POST", "/backup", ""),
        ("POST", "/restore", "{}"),
        ("DELETE", "/status/members/n1", ""),
    ] {
        let answer = ask(&deploy, method, path, body);
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
    }
    assert_eq!(world.control.state().view.version, version, "nothing was changed");
    assert_eq!(ask(&deploy, "PUT", "/objects/pl", &changed).status, 200);
    assert_eq!(ask(&look, "GET", "/objects", "").json().as_array().unwrap().len(), 2);
    assert_eq!(ask(&look, "POST", "/objects-check", &changed).status, 200);
    let refused = ask(&look, "PUT", "/objects/pl", &changed);
    assert!(refused.status == 403 && refused.text.contains("it takes the role write"), "{}", refused.text);
    assert_eq!(ask("weir_guess", "GET", "/objects", "").status, 401);
    world.ctl(&["history", "pl"], "").shows("token \"deploy\"").shows("anonymous");

    let rotated = make(&["rotate", "deploy", "--keep-old", "1h"]);
    assert_eq!((ask(&rotated, "GET", "/objects", "").status, ask(&deploy, "GET", "/objects", "").status), (200, 200));
    let last = make(&["rotate", "deploy"]);
    assert_eq!((ask(&last, "GET", "/objects", "").status, ask(&rotated, "GET", "/objects", "").status), (200, 401));
    world.ctl(&["token", "revoke", "deploy"], "").prints("revoke Token deploy successfully\n");
    assert_eq!(ask(&last, "GET", "/objects", "").status, 401);
    world.ctl(&["token", "revoke", "deploy"], "").fails("token \"deploy\" not found; there are \"look\"");
    let done = Command::new(PROGRAM)
        .args(["--server", &world.address.to_string(), "delete", "pipeline", "pl"])
        .env("WEIRCTL_TOKEN", &look)
        .output()
        .unwrap();
    Ended::of(done).fails("token \"look\" may not do");
}

#[test]
fn what_is_edited_is_seen_by_nobody_else_and_goes_away() {
    let world = World::start();
    world
        .ctl(&["create", "-f", "-"], TWO)
        .prints("create Pipeline pl successfully\ncreate HTTPServer hs successfully\n");
    let directory = tempfile::tempdir().unwrap();
    let drafts = directory.path().join("drafts");
    std::fs::create_dir(&drafts).unwrap();
    let edit = |script: &str| {
        let editor = directory.path().join("editor");
        // Editors leave copies beside the file.
        let text = format!(
            "stat -c %a \"$1\" \"$(dirname \"$1\")\" > {0}/seen; cp \"$1\" \"$1~\"; {script}",
            directory.path().display()
        );
        std::fs::write(&editor, text).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["--server", &world.address.to_string(), "edit", "pl", "pl"]).env("TMPDIR", &drafts);
        let done = command.env("WEIRCTL_EDITOR", format!("sh {}", editor.display())).output().unwrap();
        let seen = std::fs::read_to_string(directory.path().join("seen")).unwrap_or_default();
        assert_eq!(seen, "600\n700\n", "{done:?}");
        let left: Vec<_> = std::fs::read_dir(&drafts).unwrap().flatten().map(|entry| entry.path()).collect();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned(), left)
    };
    for (script, well) in [("true", true), ("echo '# a remark' >> \"$1\"", true), ("exit 3", false)] {
        let (success, told, left) = edit(script);
        assert!(success == well && left.is_empty(), "{script}: {told} {left:?}");
    }
    let (success, told, left) = edit("echo 'name: [' > \"$1\"");
    assert!(!success && told.contains("your text is kept in") && left.len() == 1, "{told} {left:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&left[0]).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::remove_dir_all(&left[0]).unwrap();

    let mut command = Command::new(PROGRAM);
    command.args(["--server", &world.address.to_string(), "edit", "pl", "pl"]).env("TMPDIR", &drafts);
    assert!(!command.env("WEIRCTL_EDITOR", "/nowhere/editor").output().unwrap().status.success());
    assert_eq!(std::fs::read_dir(&drafts).unwrap().count(), 0, "an editor that does not start leaves nothing");
}

#[test]
fn check_needs_no_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let run =
        |args: &[&str]| Ended::of(Command::new(PROGRAM).args(args).env("HOME", directory.path()).output().unwrap());
    let good = file("good.yaml", TWO);
    run(&["check", &good]).prints("2 documents are fine\n");
    let bad =
        file("bad.yaml", "name: x\nkind: Pipeline\nfilters: [{name: f, kind: Nope}]\n---\nname: pl\nkind: Nope\n");
    let told = run(&["check", &good, &bad]);
    told.fails("3 problems").fails("bad.yaml:3:27: x: filters[0].kind").fails("bad.yaml:6:7: pl: kind");
    let places = file(
        "places.yaml",
        "# what is wrong stands where it is wrong\nname: a\nkind: Pipeline\nfilters:\n- name: f\n  kind: Mock\n  rules:\n  - code: 2000\n    body: x\n\
         - name: g\n  kind: RateLimiter\n---\nname: b\nkind: HTTPServer\nport: 80\ncolour: red\n",
    );
    let broken = file("broken.yaml", "name: c\nkind: [Mock\nport: 1\n");
    let told = run(&["check", "--strict", &places, &broken]);
    told.fails("places.yaml:8:11: a: filters[0].rules[0].code = 2000")
        .fails("places.yaml:10:3: a: filters[1].policies")
        .fails("places.yaml:16:1: b: colour: unknown field")
        .fails("broken.yaml:");
    // Nothing hides anything else: not a bad name, not a document that is none, not an error a warning, not a file another one.
    let hiding = file(
        "hiding.yaml",
        "name: a b\nkind: Pipeline\nflow: 5\nfilters:\n- name: f\n  kind: Mock\n  rules: [{code: 2000, colour: red}]\n  taste: sour\n- {name: g, kind: Nope}\n\
         ---\nname: [broken\n---\nname: s\nkind: HTTPServer\nport: 8080\nrules: [{paths: [{backend: p}, {backend: q}]}]\n---\nName: p\nkind: Pipeline\nfilters: 7\n",
    );
    let alike = file(
        "alike.yaml",
        "name: s\nkind: GRPCServer\nport: 80\n---\nkind: CustomDataKind\nname: s\nidField: 7\n---\nkind: Pipeline\nfilters: []\n",
    );
    let told = run(&["check", &hiding, &alike, "/nowhere.yaml"]);
    for line in [
        "hiding.yaml:1:7: a b: name = \"a b\": the name has a character",
        "hiding.yaml:3:7: a b: flow = 5: ",
        "hiding.yaml:7:18: a b: filters[0].rules[0].code = 2000",
        "warning: ",
        "hiding.yaml:7:24: a b: filters[0].rules[0].colour: unknown field",
        "hiding.yaml:8:3: a b: filters[0].taste: unknown field",
        "hiding.yaml:9:19: a b: filters[1].kind = \"Nope\"",
        "there is no Pipeline q yet",
        "hiding.yaml:20:10: p: filters = 7",
        "alike.yaml:1:7: s: name = \"s\": taken by another document, in ",
        "alike.yaml:3:7: s: port = 80: ",
        "alike.yaml:7:10: s: idField = 7",
        "/nowhere.yaml: cannot be read",
    ] {
        assert!(told.err.contains(line), "{line}\n{}", told.err);
    }
    assert!((11..=13).any(|line| told.err.contains(&format!("hiding.yaml:{line}:"))), "{}", told.err);
    assert!(!told.err.contains("there is no Pipeline p"), "it is there, only wrong: {}", told.err);
    let at = |text: &str| told.err.find(text).unwrap_or_else(|| panic!("{text}"));
    assert!(at("hiding.yaml:7:18") < at("hiding.yaml:9:19") && at("hiding.yaml:20:10") < at("alike.yaml:1:7"));
    told.ends(1);
    // What can be read of a document that is refused is looked at, and what leads to it leads somewhere.
    let partly = file(
        "partly.yaml",
        "name: s\nkind: HTTPServer\nport: 8080\nkeepAliveTimeout: 5 sec\nrules:\n- host: 'a b'\n  paths: [{path: x, backend: old}, {backend: none}]\n\
         ---\nname: p\nkind: Pipeline\nflow: 5\nfilters: [{kind: Mock, rules: [{code: 200}]}, {name: a, kind: Mock, rules: [{code: 200}]}, {name: a, kind: Mock, rules: [{code: 200}]}]\n\
         ---\nname: old\nkind: HTTPPipeline\nfilters: 7\n",
    );
    let told = run(&["check", &partly]);
    for line in
        ["keepAliveTimeout = ", "rules[0].host = ", "rules[0].paths[0].path = ", "filters[0].name", "filters[2].name"]
    {
        assert!(told.err.contains(line), "{line}\n{}", told.err);
    }
    assert!(
        told.err.contains("there is no Pipeline none yet") && !told.err.contains("no Pipeline old"),
        "{}",
        told.err
    );
    // Custom data is refused as the server would, whatever its kind is called.
    let custom = file(
        "custom.yaml",
        "kind: cdk\nname: users\nidfield: id\njsonSchema: {properties: {age: {type: integer}}}\n---\nkind: customdata\nname: users\nlist: [5, {name: a, age: x}, {age: 1}]\n\
         ---\nkind: cd\nname: others\ndelete: [7]\n---\nkind: CustomDataKind\nname: k\njsonSchema: {type: nonsense}\n",
    );
    let told = run(&["check", &custom]);
    for line in [
        "custom.yaml:3:1: users: idfield: unknown field, ignored; did you mean idField?",
        "custom.yaml:8:8: users: list[0]: an item is a mapping",
        "users: list[1]: does not fit the schema of \"users\": /age",
        "users: list[2]: users: name: required",
        "others: delete[0] = 7: an id is text",
        "k: jsonSchema: ",
    ] {
        assert!(told.err.contains(line), "{line}\n{}", told.err);
    }
    assert!(told.err.contains("5 problems"), "{}", told.err);
    told.ends(1);
    run(&["check", "/nowhere.yaml"]).fails("/nowhere.yaml: cannot be read");
    run(&["check"]).ends(2);
}

#[test]
fn configurations_of_others_become_documents_and_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let run =
        |args: &[&str]| Ended::of(Command::new(PROGRAM).args(args).env("HOME", directory.path()).output().unwrap());
    let (conf, out, report) = (path("nginx.conf"), path("out.yaml"), path("report.txt"));
    let text =
        "http { server { listen 8080; location / { proxy_pass http://127.0.0.1:1; } location /x { root /srv; } } }";
    std::fs::write(&conf, text).unwrap();
    run(&["convert", "nginx", "-f", &conf, "-o", &out, "--resource-prefix", "old", "--report", &report]).ends(0);
    let documents = base_model::yaml::parse_documents(&std::fs::read_to_string(&out).unwrap()).unwrap();
    let names: Vec<&str> = documents.iter().filter_map(|document| document["name"].as_str()).collect();
    assert_eq!(names, ["old-default-root", "old-8080"]);
    let told = std::fs::read_to_string(&report).unwrap();
    assert!(told.contains(":1: \"root /srv\": not translated") && told.ends_with("not needed\n"), "{told}");
    run(&["check", &out]).prints("2 documents are fine\n");
    std::fs::write(&conf, "http {").unwrap();
    run(&["convert", "nginx", "-f", &conf]).fails("nginx.conf:1: a { that nothing closes");
    let cfg = path("haproxy.cfg");
    std::fs::write(&cfg, "listen l\n bind :8081\n mode http\n server s 127.0.0.1:1\n").unwrap();
    run(&["convert", "haproxy", "-f", &cfg, "-o", "json"]).ends(0);
    run(&["convert", "apache", "-f", &cfg]).ends(2);
}

#[test]
fn contexts_choose_the_server() {
    let world = World::start();
    let home = tempfile::tempdir().unwrap();
    let rc = format!(
        "kind: Config\ncurrent-context: other\ncontexts:\n- name: here\n  context: {{cluster: c, user: u}}\n- name: other\n  context: {{cluster: d, user: u}}\n\
         clusters:\n- name: c\n  cluster: {{server: 'http://{}'}}\n- name: d\n  cluster: {{server: 'http://127.0.0.1:1'}}\nusers:\n- name: u\n  user: {{username: joe, password: secret}}\n",
        world.address
    );
    std::fs::write(home.path().join(".egctlrc"), rc).unwrap();
    let run = |args: &[&str]| Ended::of(Command::new(PROGRAM).args(args).env("HOME", home.path()).output().unwrap());
    run(&["health"]).fails("cannot reach http://127.0.0.1:1");
    run(&["config", "current-context"]).prints("other\n");
    run(&["config", "use-context", "nope"]).fails("there is no context \"nope\"");
    run(&["config", "use-context", "here"]).prints("Switched to context here\n");
    run(&["config", "get-contexts"])
        .prints("CURRENT   NAME    CLUSTER   USER\n*         here    c         u\n          other   d         u\n");
    run(&["health"]).prints("OK\n");
    let view = run(&["config", "view"]);
    assert!(!view.out.contains("secret"), "{}", view.out);
}

#[test]
fn over_tls_with_flags_and_with_contexts() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &Pem| {
        let path = home.path().join(name);
        std::fs::write(&path, &pem.text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let me = ours.signs("operator");
    let (ca, chain, key) = (file("ca.pem", &ours.pem), file("me.pem", &me.chain), file("me.key", &me.key));
    let other_ca = file("other.pem", &others.pem);
    let tls = server_config(&ours.signs("127.0.0.1"), Some(&ours.pem)).unwrap();
    let logins = Logins::new(&[("joe".to_owned(), "secret".to_owned())].into());
    let world =
        World::behind(Door { tls: Some(tls.into()), client_certificates: true, ..Door::default() }, Client::default());
    let run = |args: &[&str]| Ended::of(Command::new(PROGRAM).args(args).env("HOME", home.path()).output().unwrap());

    let (plain, url) = (world.address.to_string(), format!("https://{}", world.address));
    let (plain, url) = (plain.as_str(), url.as_str());
    let shown = ["--client-certificate", &chain, "--client-key", &key];
    let with = |args: &[&str]| run(&[&["health"], args, &shown].concat());
    with(&["--server", url, "--certificate-authority", &ca]).prints("OK\n");
    with(&["--server", plain, "--certificate-authority", &ca]).prints("OK\n");
    with(&["--server", plain, "--insecure-skip-verify"]).prints("OK\n");
    with(&["--server", url]).fails("UnknownIssuer; give the authority that signed its certificate");
    with(&["--server", plain, "--force-tls", "--certificate-authority", &other_ca]).fails("cannot reach https://");
    run(&["health", "--server", url, "--certificate-authority", &ca]).fails("cannot reach https://");
    run(&["health", "--server", plain]).fails("if it speaks TLS there, write https:// or --force-tls");
    run(&["health", "--server", url, "--client-key", &key]).ends(2);
    run(&["health", "--server", url, "--certificate-authority", "/no/ca.pem"])
        .fails("--certificate-authority /no/ca.pem: No such file");
    run(&["health", "--server", "ftp://x"]).fails("neither http:// nor https://");

    let data = |pem: &Pem| BASE64_STANDARD.encode(&pem.text);
    let rc = |authority: &str, user: &str| {
        let rc = format!(
            "current-context: here\ncontexts: [{{name: here, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{url}', {authority}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
        );
        std::fs::write(home.path().join(".weirctlrc"), rc).unwrap();
    };
    rc("certificate-authority: ca.pem", "client-certificate: me.pem, client-key: me.key");
    run(&["health"]).prints("OK\n");
    let inline = format!("client-certificate-data: {}, client-key-data: {}", data(&me.chain), data(&me.key));
    rc(&format!("certificate-authority-data: {}", data(&ours.pem)), &inline);
    run(&["health"]).prints("OK\n");
    let view = run(&["config", "view"]);
    assert!(!view.out.contains(&data(&me.key)), "{}", view.out);
    rc("certificate-authority: ca.pem", "client-certificate: me.pem");
    run(&["health"]).fails("client-certificate and client-key go together");
    rc("certificate-authority-data: '%'", "");
    run(&["health"]).fails("certificate-authority-data: not base64");
    drop(world);

    let world = World::behind(Door { logins: Some(logins), ..Door::default() }, Client::default());
    let url = format!("http://{}", world.address);
    run(&["health", "--server", &url]).fails("asks for a login");
    let rc = format!(
        "current-context: here\ncontexts: [{{name: here, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\nusers: [{{name: u, user: {{username: joe, password: secret}}}}]\n",
    );
    std::fs::write(home.path().join(".weirctlrc"), rc).unwrap();
    run(&["health"]).prints("OK\n");
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: std::process::Output) -> Ended {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let out = text(output.stdout).lines().map(|line| ageless(line) + "\n").collect();
        Ended { code: output.status.code().unwrap(), out, err: text(output.stderr) }
    }

    #[track_caller]
    fn prints(&self, expected: &str) {
        assert_eq!((self.out.as_str(), self.code), (expected, 0), "{}", self.err);
    }

    #[track_caller]
    fn shows(&self, part: &str) -> &Ended {
        assert!(self.out.contains(part), "{part:?} is not in\n{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn warns(&self, part: &str) {
        assert!(self.code == 0 && self.err.contains("warning") && self.err.contains(part), "{}", self.err);
    }

    #[track_caller]
    fn fails(&self, part: &str) -> &Ended {
        assert_eq!(self.code, 1, "{}\n{}", self.out, self.err);
        assert!(self.err.starts_with("weirctl: ") && self.err.contains(part), "{part:?} is not in\n{}", self.err);
        self
    }

    #[track_caller]
    fn ends(&self, code: i32) {
        assert_eq!(self.code, code, "{}", self.err);
    }
}

/// A table's last column may say one second more on a busy machine.
fn ageless(line: &str) -> String {
    let digits = line.strip_suffix('s').map_or(line, |rest| rest.trim_end_matches(|c: char| c.is_ascii_digit()));
    if digits.ends_with(' ') { format!("{digits}0s") } else { line.to_owned() }
}

trait Ctl {
    fn ctl(&self, args: &[&str], stdin: &str) -> Ended;
}

impl Ctl for World {
    fn ctl(&self, args: &[&str], stdin: &str) -> Ended {
        let mut child = Command::new(PROGRAM)
            .args(["--server", &self.address.to_string()])
            .args(args)
            .env("WEIRCTL_EDITOR", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let _ = pipe.write_all(stdin.as_bytes());
        drop(pipe);
        Ended::of(child.wait_with_output().unwrap())
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_weirctl");

const MARK: &str = "a-marked-secret";

const SECRET: &str = "\
name: guarded
kind: Pipeline
filters:
- name: proxy
  kind: Proxy
  pools:
  - servers: [{url: 'http://127.0.0.1:1'}]
    healthCheck: {interval: 1h, username: u, password: a-marked-secret}
";

const OTHER: &str = "name: other\nkind: Pipeline\nfilters: [{name: m, kind: Mock}]\n";

const VIP: &str = "name: v\nkind: VirtualIP\naddresses: [192.0.2.1]\n";

const DATA: &str = "kind: CustomDataKind\nname: k\nidField: id\n---\nkind: CustomData\nname: k\nlist: [{id: a}]\n";

const TWO: &str = "\
name: pl
kind: Pipeline
filters:
- name: mock
  kind: Mock
  rules: [{code: 200, body: hello}]
---
name: hs
kind: HTTPServer
port: 10081
rules:
- paths:
  - pathPrefix: /
    backend: pl
";
