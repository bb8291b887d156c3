//! Changes under load.

use crate::world::{Backend, Connection, Machine, answers, eventually, free_port, mock, proxy, server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

#[test]
fn two_hundred_changes_fail_no_request_and_close_no_connection() {
    let machine = Machine::start();
    let (port, backend) = (free_port(), Backend::start("b"));
    let adapted = |turn: usize| {
        let proxy = proxy("pl", &[backend.url()]);
        let adaptor =
            format!("- kind: RequestAdaptor\n  name: adaptor\n  header:\n    set:\n      X-Turn: turn-{turn}-\n");
        proxy.replace("filters:\n", &format!("filters:\n{adaptor}"))
    };
    machine.create(&adapted(0));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.request("POST", "/a?b=c", &[], "hello").expect("the connection stays open");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert!(!answer.head.to_lowercase().contains("connection: close"), "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 1..=50 {
        machine.update("pl", &adapted(turn));
        let more = format!(
            "xForwardedFor: {}\nmaxConnections: {}\nkeepAliveTimeout: {}s\n",
            turn % 2 == 0,
            100 + turn,
            30 + turn
        );
        machine.update("hs", &format!("{}{more}", server("hs", port, "pl")));
        machine.create(&mock("other", "x"));
        assert_eq!(machine.api("DELETE", "/objects/other", "").status, 200);
    }
    eventually("the last change is in force", || {
        let answer = crate::world::get(port, "/").unwrap();
        (answer.body.contains("X-Turn:[turn-50-]") && answer.body.contains("X-Forwarded-For")).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    let served = served.load(Ordering::Relaxed);
    assert!(served > 200, "{served} requests were served");
}

#[test]
fn a_server_moves_to_another_port() {
    let machine = Machine::start();
    let (from, to) = (free_port(), free_port());
    machine.create(&mock("pl", "moved"));
    machine.create(&server("hs", from, "pl"));
    answers(from, "/", 200);
    machine.update("hs", &server("hs", to, "pl"));
    answers(to, "/", 200);
    eventually("the old port is closed", || crate::world::get(from, "/").is_err().then_some(()));
    let taken = machine.api("POST", "/objects", &server("hs2", to, "pl"));
    assert!(taken.status == 400 && taken.body.contains("taken by HTTPServer hs"), "{taken:?}");
    machine.create(&server("hs2", from, "pl"));
    answers(from, "/", 200);
}
