//! Clients that are banned for a while because they were refused too often: by listeners, and where the kernel steers, by its programs.

use crate::access_lists::ask_from;
use crate::cluster::in_a_network;
use crate::world::{Machine, eventually, free_port, server};
use std::process::Command;

/// A request a minute of each client; whoever is refused three times is banned.
const LIMITED: &str = "kind: Pipeline
name: logins
filters:
- kind: RateLimiter
  name: limiter
  policies:
  - name: few
    key: {from: address}
    limitForPeriod: 1
    limitRefreshPeriod: 1h
    ban: {refusals: 3, within: 1h, duration: 1h}
  defaultPolicyRef: few
  urls:
  - url: {prefix: /}
- kind: Mock
  name: mock
  rules:
  - code: 200
    body: served
";

#[test]
fn who_is_refused_again_and_again_is_not_let_in_for_a_while() {
    let machine = Machine::start();
    let [web, relayed] = [(); 2].map(|()| free_port());
    machine.create(LIMITED);
    machine.create(&server("web", web, "logins"));
    machine.create(&format!("{}trustedProxies: [127.0.0.4]\n", server("relayed", relayed, "logins")));
    let status = |source: &str, port| ask_from(source, port).split(' ').nth(1).unwrap_or("none").to_owned();
    eventually("both listen", || [web, relayed].iter().all(|port| status("127.0.0.1", *port) != "none").then_some(()));

    let statuses = |source: &str, port| -> Vec<String> { (0..6).map(|_| status(source, port)).collect() };
    assert_eq!(statuses("127.0.0.2", web), ["200", "429", "429", "429", "none", "none"]);
    assert_eq!(status("127.0.0.2", relayed), "none", "by any listener");
    assert_eq!(status("127.0.0.3", web), "200", "somebody else");
    // By a trusted proxy others come, whoever it says they are, and this machine's own address is nobody's.
    assert_eq!(statuses("127.0.0.4", relayed), ["200", "429", "429", "429", "429", "429"]);
    assert_eq!(statuses("127.0.0.1", web)[1..], ["429"; 5]);

    let listed = machine.json("/bans");
    assert_eq!((&listed["enforcedBy"], &listed["bans"][0]["source"]), (&"listeners".into(), &"127.0.0.2".into()));
    assert_eq!(
        (&listed["bans"][0]["by"], listed["bans"].as_array().map(Vec::len)),
        (&"logins/limiter few".into(), Some(1))
    );
    let left = listed["bans"][0]["secondsLeft"].as_u64().unwrap();
    assert!((1..=3_600).contains(&left), "{left}");
    assert!(machine.metric("weir_limit_hits_total{limit=\"banned\"}") >= Some(3.0));
    assert_eq!(machine.metric("weir_bans"), Some(1.0));
    assert_eq!(machine.metric("weir_bans_total{what=\"begun\"}"), Some(1.0));
    assert!(machine.metric("weir_bans_total{what=\"spared\"}") >= Some(2.0));

    for (source, status, told) in [("junk", 400, "not an address"), ("192.0.2.1", 404, "is not banned")] {
        let answer = machine.api("DELETE", &format!("/bans/{source}"), "");
        assert!(answer.status == status && answer.body.contains(told), "{answer:?}");
    }
    assert_eq!(machine.api("DELETE", "/bans/127.0.0.2", "").status, 200);
    assert_eq!(status("127.0.0.2", web), "429", "it is let in, and limited as before");
    assert_eq!(machine.metric("weir_bans"), Some(0.0));
}

#[test]
fn a_pipeline_of_a_namespace_that_would_ban_does_not_stand_and_the_one_before_serves_on() {
    let machine = Machine::start();
    let port = free_port();
    let space = |more: &str| {
        format!(
            "kind: MockNamespacer\nname: space\nnamespace: blue\nhttpServers:\n- name: web\n  port: {port}\n  rules:\n  - paths:\n    - \
             pathPrefix: /\n      backend: pl\npipelines:\n- name: pl\n  filters:\n{more}  - kind: Mock\n    name: mock\n    rules:\n    \
             - code: 200\n      body: served\n"
        )
    };
    machine.create(&space(""));
    let answers = || ask_from("127.0.0.2", port).starts_with("HTTP/1.1 200");
    eventually("it serves", || answers().then_some(()));
    let bans = "  - kind: RateLimiter\n    name: limiter\n    policies:\n    - {name: few, key: {from: address}, limitForPeriod: 1, \
                limitRefreshPeriod: 1h, ban: {refusals: 1}}\n    defaultPolicyRef: few\n    urls:\n    - url: {prefix: /}\n";
    machine.update("space", &space(bans));
    eventually("it is told", || {
        let told = machine.api("GET", "/status/objects", "").body + &machine.api("GET", "/status/members", "").body;
        told.contains("pipelines of namespaces may not say it").then_some(())
    });
    assert!((0..5).all(|_| answers()), "as before");
    assert_eq!(machine.json("/bans")["bans"].as_array().map(Vec::len), Some(0));
}

#[test]
fn packets_of_who_is_banned_end_in_the_kernel() {
    if !in_a_network("bans::packets_of_who_is_banned_end_in_the_kernel") {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    let mut machine =
        Machine::new("m1").flags(["--interface", "w0", "--xdp-mode", "generic", "--advertise-address", "10.77.0.254"]);
    machine.run();
    let port = free_port();
    machine.create(LIMITED);
    machine.create(&server("web", port, "logins"));
    machine.create(&format!(
        "kind: VirtualIP\nname: shop\naddresses: [198.51.100.1]\nports: [{port}]\nprotocols: [TCP]\n"
    ));
    let run = |arguments: &[&str]| Command::new("ip").args(arguments).output().unwrap();
    assert!(run(&["-n", "n0", "route", "add", "198.51.100.1", "via", "10.77.0.254"]).status.success());
    let talk = format!(
        "exec 3<>/dev/tcp/198.51.100.1/{port}; printf 'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n' >&3; head -1 <&3"
    );
    let is_answered = || {
        let done = run(&["netns", "exec", "n0", "timeout", "2", "bash", "-c", &talk]);
        String::from_utf8_lossy(&done.stdout).contains("HTTP/1")
    };
    let dropped = |machine: &Machine| {
        machine.metric("weir_xdp_packets_total{vip=\"shop\",verdict=\"drop\",reason=\"banned\"}").unwrap_or_default()
    };
    eventually("it is steered", || is_answered().then_some(()));
    eventually("its packets are dropped", || (!is_answered() && dropped(&machine) > 0.0).then_some(()));
    let listed = machine.json("/bans");
    assert_eq!(
        (&listed["enforcedBy"], &listed["bans"][0]["source"]),
        (&"kernel and listeners".into(), &"10.77.0.1".into())
    );
    let flow = format!("/trace?flow=tcp+10.77.0.1:4000+%3E+198.51.100.1:{port}+syn");
    assert!(machine.json(&flow).to_string().contains("\"reason\":\"banned\""));
    assert_eq!(machine.api("DELETE", "/bans/10.77.0.1", "").status, 200);
    eventually("it is let in", || is_answered().then_some(()));

    // Whom a process has banned that was killed, the next one bans on, and may let in.
    eventually("it is banned again", || (!is_answered() && !machine.json("/bans")["bans"][0].is_null()).then_some(()));
    machine.kill();
    machine.run();
    let listed = machine.json("/bans");
    assert_eq!(
        (&listed["bans"][0]["source"], &listed["bans"][0]["by"]),
        (&"10.77.0.1".into(), &"the process before".into())
    );
    assert!(!is_answered());
    assert_eq!(machine.api("DELETE", "/bans/10.77.0.1", "").status, 200);
    eventually("the next process lets it in", || is_answered().then_some(()));
}
