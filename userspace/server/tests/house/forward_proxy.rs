//! A forward proxy as curl uses one. Without curl it is named and left out.

use crate::world::{Backend, Machine, eventually, free_port, program};
use std::process::{Command, Stdio};

#[test]
fn curl_goes_where_it_may() {
    let Some(curl) = program("curl") else { return };
    for io in ["uring", "epoll"] {
        let mut machine = Machine::new("m1").flags(["--io", io]);
        machine.run();
        let (backend, port) = (Backend::start("one"), free_port());
        machine.create(
            "kind: Pipeline\nname: out\nfilters: [{name: out, kind: SimpleHTTPProxy, compression: {minLength: 1}}]\n",
        );
        machine
            .create(&format!("kind: HTTPServer\nname: door\nport: {port}\nrules: [{{paths: [{{backend: out}}]}}]\n"));
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(&curl);
            command.args(["-s", "-w", " %{http_code} %{http_connect}", "-x", &format!("http://127.0.0.1:{port}")]);
            let done = command.args(arguments).stdin(Stdio::null()).output().unwrap();
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        let url = format!("{}/a?b=c", backend.url());
        // The server may not listen yet.
        eventually("the door is open", || ask(&[&url]).ends_with(" 200 000").then_some(()));
        let through = ask(&["-p", &url]);
        assert!(through.contains("/a?b=c") && through.ends_with(" 200 200"), "{io}: {through}");
        let posted = ask(&["-d", "hello", &url]);
        assert!(posted.contains("hello") && posted.ends_with(" 200 000"), "{io}: {posted}");
        // Answers are packed for whoever takes it, and tunnels are nobody's business.
        let packed =
            |more: &[&str]| ask(&[&["-D", "-", "-H", "Accept-Encoding: gzip"][..], more].concat()).contains("gzip\r\n");
        assert!(packed(&["-o", "/dev/null", &url]) && !packed(&["-o", "/dev/null", "-p", &url]), "{io}");
        // What is not for everybody, and the machine's own doors.
        for refused in
            ["http://169.254.169.254/latest/meta-data/".to_owned(), format!("http://127.0.0.1:{}/", machine.api)]
        {
            assert!(ask(&[&refused]).ends_with(" 403 000"), "{io}: {refused}");
            assert!(ask(&["-p", &refused]).ends_with(" 403"), "{io}: {refused}");
        }
        let counted = "weir_limit_hits_total{limit=\"forward_refused\"} 4";
        eventually(counted, || machine.api("GET", "/metrics", "").body.contains(counted).then_some(()));
    }
}
