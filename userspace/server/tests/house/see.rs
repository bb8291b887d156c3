//! Seeing what becomes of requests: ids, `weirctl tap` and `weirctl explain-request`, through any member.

use crate::leash::Leashed;
use crate::world::{
    Answer, Connection, Machine, PATIENCE, answers, eventually, free_port, mock, program, proxy, server, weirctl,
    within,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// One that serves, and one beside it that only knows of it: the port is taken.
fn two() -> (Machine, Machine, u16) {
    let first = Machine::start();
    let port = free_port();
    first.create(&mock("fine", "fine"));
    first.create(&proxy("dead", &[format!("http://127.0.0.1:{}", free_port())]));
    first.create(&format!(
        "kind: HTTPServer\nname: web\nport: {port}\nrules:\n- host: other.test\n  paths:\n  - backend: fine\n- paths:\n  - path: /fine\n    \
         backend: fine\n  - pathPrefix: /dead\n    backend: dead\n"
    ));
    answers(port, "/fine", 200);
    let mut second = Machine::new("m2");
    second = second.flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &first.peer_url()]);
    second.run();
    eventually("they know each other", || {
        let members = second.json("/status/members");
        (members.as_array()?.iter().filter(|member| member["weir"]["up"] == true).count() == 2).then_some(())
    });
    (first, second, port)
}

fn id_of(answer: &Answer) -> String {
    let line = answer.head.lines().find_map(|line| line.strip_prefix("X-Request-Id: "));
    line.unwrap_or_else(|| panic!("no id: {}", answer.head)).to_owned()
}

fn ask(port: u16, path: &str) -> Answer {
    Connection::open(&format!("127.0.0.1:{port}")).unwrap().request("GET", path, &[], "").unwrap()
}

#[test]
fn a_request_is_explained_and_tapped_through_any_member() {
    let (first, second, port) = two();
    let (dead, lost, fine) = (ask(port, "/dead/x"), ask(port, "/nowhere"), ask(port, "/fine"));
    assert_eq!((dead.status, lost.status, fine.status), (503, 404, 200));
    for machine in [&first, &second] {
        let explained = machine.json(&format!("/requests/{}", id_of(&dead)));
        let request = &explained["requests"][0];
        assert_eq!((&request["machine"], &request["endedBy"]), (&"m1".into(), &"server".into()), "{explained}");
        assert_eq!(request["route"]["taken"]["pipeline"], "dead");
        let refused = &machine.json(&format!("/requests/{}", id_of(&lost)))["requests"][0];
        assert_eq!((&refused["route"]["taken"], &refused["endedBy"]), (&Value::Null, &"weir".into()));
        let unknown = machine.api("GET", &format!("/requests/{}", id_of(&fine)), "");
        assert!(unknown.status == 404 && unknown.body.contains("no machine remembers"), "{unknown:?}");
        let latest = machine.json("/requests?sort=failed&limit=5");
        assert_eq!(latest["requests"][0]["id"], id_of(&dead).as_str());
        for wrong in ["/requests?sort=odd", "/requests?limit=0", "/tap?status=9xx", "/tap?color=red", "/tap?member=m9"]
        {
            assert_eq!(machine.api("GET", wrong, "").status, 400, "{wrong}");
        }
    }
    assert!(first.metric("weir_watch_kept_total").is_some_and(|kept| kept >= 2.0));
    assert_eq!(first.metric("weir_taps"), Some(0.0));

    let Some(weirctl) = weirctl() else { return };
    let ctl = |machine: &Machine, arguments: &[&str]| {
        let mut command = Command::new(&weirctl);
        command.args(["--server", &format!("127.0.0.1:{}", machine.api)]).args(arguments);
        command.stdin(Stdio::null());
        command
    };
    let done = |command: &mut Command| {
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, told) = done(&mut ctl(&second, &["explain-request", &id_of(&dead)]));
    assert_eq!(code, Some(0), "{told}");
    for wanted in [
        "answered  503",
        "to pipeline dead",
        "is none of other.test",
        "filter    proxy: serverError",
        "try       http://127",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    assert_eq!(done(&mut ctl(&first, &["explain-request", "nobody"])).0, Some(1));
    let (code, told) = done(&mut ctl(&first, &["tap", "--status", "9xx"]));
    assert!(code == Some(1) && told.contains("such as 503"), "{told}");

    // What the member that does not serve shows comes from the one that does.
    for machine in [&first, &second] {
        let mut tap =
            ctl(machine, &["tap", "--path", "/fine", "--status", "2xx", "-n", "1", "-o", "json", "--for", "60s"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        eventually("a tap is open", || {
            (first.metric("weir_taps")? == 1.0 && {
                ask(port, "/dead");
                true
            })
            .then_some(())
        });
        eventually("it has shown one and ended", || {
            ask(port, "/fine");
            tap.try_wait().unwrap()
        });
        let shown = tap.wait_with_output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!((&shown["target"], &shown["status"]), (&"/fine".into(), &200.into()));
        // While a tap was open it was kept, though nothing was wrong with it.
        let (code, told) = done(&mut ctl(&second, &["explain-request", shown["id"].as_str().unwrap()]));
        assert!(code == Some(0) && told.contains("answered  200"), "{told}");
        eventually("nobody taps", || (first.metric("weir_taps")? == 0.0).then_some(()));
    }
}

#[test]
fn nothing_is_remembered_where_nothing_may_be() {
    let mut machine = Machine::new("m1").flags(["--keep-requests", "0"]);
    machine.run();
    let port = free_port();
    machine.create(&server("web", port, "nobody"));
    let answer = answers(port, "/", 503);
    assert_eq!(machine.api("GET", &format!("/requests/{}", id_of(&answer)), "").status, 404);
}

#[test]
fn the_whole_cluster_is_on_one_page() {
    let (first, second, port) = two();
    let Some(weirctl) = weirctl() else { return };
    (0..10).for_each(|_| drop(ask(port, "/fine")));
    for machine in [&first, &second] {
        let api = format!("127.0.0.1:{}", machine.api);
        let done = Command::new(&weirctl)
            .args(["--server", &api, "top", "-o", "json", "--interval", "500ms"])
            .output()
            .unwrap();
        let shown: Value = serde_json::from_slice(&done.stdout).unwrap();
        let names: Vec<&str> =
            shown["machines"].as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
        assert_eq!((names, &shown["leader"]), (vec!["m1", "m2"], &"m1".into()), "{shown}");
        assert!(shown["machines"].as_array().unwrap().iter().all(|machine| machine["busy"].is_number()), "{shown}");
        let web =
            shown["servers"].as_array().unwrap().iter().find(|s| s["name"] == "web" && s["machine"] == "m1").unwrap();
        assert!(web["count"].as_f64().unwrap() >= 10.0 && web["perSecond"].is_number(), "{web}");
        assert!(shown["pools"].as_array().unwrap().iter().any(|pool| pool["name"] == "dead"), "{shown}");
        let done =
            Command::new(&weirctl).args(["--server", &api, "top", "--once", "--interval", "100ms"]).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && text.contains("MACHINE") && text.contains("web"), "{text}");
    }
    // Where nobody can draw, and where nobody answers.
    let run = |arguments: &[&str]| Command::new(&weirctl).args(arguments).stdin(Stdio::null()).output().unwrap();
    let api = format!("127.0.0.1:{}", first.api);
    let none = run(&["--server", &api, "top"]);
    assert!(none.status.code() == Some(1) && String::from_utf8_lossy(&none.stderr).contains("--once"));
    assert_eq!(run(&["--server", "127.0.0.1:1", "top", "--once"]).status.code(), Some(1));
    assert_eq!(run(&["--server", &api, "top", "--interval", "1ms"]).status.code(), Some(2));
}

/// On a terminal, which `script` lends it: it is drawn again and again, arrows do nothing, and `q` gives the terminal back as it was.
#[test]
fn top_is_drawn_until_it_is_left() {
    let (first, _second, port) = two();
    let (Some(weirctl), Some(script)) = (weirctl(), program("script")) else { return };
    let told =
        format!("stty cols 120 rows 40; {} --server 127.0.0.1:{} top --interval 200ms", weirctl.display(), first.api);
    let mut command = Command::new(script);
    command.args(["-qefc", &told, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).env("SHELL", "/bin/sh");
    let mut top = Leashed::start(&mut command).unwrap();
    let drawn = Arc::new(Mutex::new(Vec::new()));
    let (mut out, seen) = (top.stdout.take().unwrap(), drawn.clone());
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = out.read(&mut part) {
            seen.lock().unwrap().extend_from_slice(&part[..length]);
        }
    });
    let text = || String::from_utf8_lossy(&drawn.lock().unwrap()).into_owned();
    let pictures = || text().matches("\x1b[H").count();
    let last = || text().rsplit("\x1b[H").next().unwrap_or_default().to_owned();
    eventually("it is drawn", || (text().contains("\x1b[?1049h") && last().contains("web")).then_some(()));
    // It is live.
    let seen = within(PATIENCE, || {
        (0..20).for_each(|_| drop(ask(port, "/fine")));
        let row = last().lines().find(|line| line.starts_with("web") && line.contains("running"))?.to_owned();
        row.split_whitespace().nth(3)?.parse::<f64>().ok().filter(|rate| *rate > 0.0)
    });
    assert!(seen.is_some(), "{}", last());
    let mut keys = top.stdin.take().unwrap();
    let before = pictures();
    keys.write_all(b"\x1b[A").unwrap();
    eventually("an arrow ends nothing", || (pictures() > before + 2).then_some(()));
    keys.write_all(b"q").unwrap();
    let status = eventually("it ends", || top.try_wait().unwrap());
    assert!(status.success(), "{status} {}", text());
    eventually("the terminal is as it was", || text().trim_end().ends_with("\x1b[?1049l").then_some(()));
}
