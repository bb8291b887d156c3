//! Both directions of an exchange run at once: an answer that begins before its request has ended passes while the body goes on up,
//! and a stall of one direction, as long as it likes, is none of the other.

#[macro_use]
mod support;

use base_runtime::IoMode;
use std::io::{Read, Write};
use std::sync::mpsc;
use support::{Backend, House, Wire, eventually, proxy_to};

on_both_drivers![
    a_backend_that_answers_as_it_reads_is_heard_at_once,
    an_upload_passes_while_the_client_reads_nothing,
    an_answer_passes_while_the_backend_reads_nothing,
    an_answer_that_ends_early_does_not_cut_the_upload,
    an_early_refusal_drains_a_short_rest_and_keeps_the_connection,
    an_early_refusal_of_a_long_body_is_seen_and_ends_the_connection,
    a_client_that_leaves_between_both_directions_ends_them,
    a_client_that_leaves_while_its_upload_waits_is_noticed,
    a_half_closed_client_gets_what_was_answered,
    a_limit_that_is_reached_beside_the_answer_is_counted,
    a_backend_that_leaves_after_its_answer_does_not_hold_the_client,
    a_connection_that_was_said_to_stay_does_when_its_backend_leaves,
    a_backend_that_reads_no_more_after_its_answer_does_not_hold_the_client,
];

/// More than all buffers on the way hold together.
const LONG: usize = 24 << 20;
const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn house(io: IoMode, backend: &Backend) -> House {
    House::new(io, "clientMaxBodySize: -1", &proxy_to(backend.port))
}

fn with_length(bytes: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n")
}

/// Serves plain requests to the end of the connection.
fn serve_on(wire: &mut Wire) {
    while wire.message().is_some() {
        wire.send(OK);
    }
}

fn a_backend_that_answers_as_it_reads_is_heard_at_once(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(CHUNKED.as_bytes());
        while let Some(size) = wire.line() {
            let size = usize::from_str_radix(&size, 16).expect("a size");
            let data = wire.exactly(size + 2).expect("a chunk");
            if size == 0 {
                break;
            }
            wire.send(format!("{size:x}\r\n").as_bytes());
            wire.send(&data);
        }
        wire.send(b"0\r\nX-Sum: done\r\n\r\n");
        serve_on(&mut wire);
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(HEAD.as_bytes());
    assert!(client.head().is_some_and(|head| head.starts_with("HTTP/1.1 200") && !head.contains("close")));
    for n in 0..50 {
        let chunk = format!("6\r\nn{n:05}\r\n");
        client.send(chunk.as_bytes());
        assert_eq!(client.exactly(chunk.len()).as_deref(), Some(chunk.as_bytes()), "each is answered before the next");
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.line().as_deref(), Some("0"));
    assert_eq!(client.line().as_deref(), Some("X-Sum: done"));
    assert_eq!(client.line().as_deref(), Some(""));
    client.send(GET.as_bytes());
    assert_eq!(client.answer().text(), "ok", "both connections are used again");
    assert_eq!(backend.connections(), 1);
}

fn an_upload_passes_while_the_client_reads_nothing(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n").as_bytes());
        let mut other = wire.stream.try_clone().expect("a handle");
        let down = std::thread::spawn(move || other.write_all(&vec![b'd'; LONG]).is_ok());
        let up = wire.exactly(LONG).is_some_and(|body| body.iter().all(|b| *b == b'u'));
        assert!(up && down.join().expect("it writes"));
        serve_on(&mut wire);
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    assert!(client.send(&vec![b'u'; LONG]), "the upload got stuck behind an answer that nobody read");
    assert_eq!(client.answer().body.len(), LONG);
    client.send(GET.as_bytes());
    assert_eq!((client.answer().text().as_str(), backend.connections()), ("ok", 1));
}

fn an_answer_passes_while_the_backend_reads_nothing(io: IoMode) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n").as_bytes());
        wire.send(&vec![b'd'; LONG - 1]);
        wait.lock().unwrap().recv().expect("the client has read");
        assert!(wire.exactly(LONG).is_some());
        wire.send(b"d");
        serve_on(&mut wire);
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    let mut other = client.stream.try_clone().expect("a handle");
    let up = std::thread::spawn(move || other.write_all(&vec![b'u'; LONG]).is_ok());
    assert!(client.head().is_some());
    assert!(client.exactly(LONG - 1).is_some(), "the answer got stuck behind an upload that nobody read");
    go.send(()).expect("the backend waits");
    assert_eq!(client.exactly(1).as_deref(), Some(&b"d"[..]));
    assert!(up.join().expect("it writes"));
    client.send(GET.as_bytes());
    assert_eq!((client.answer().text().as_str(), backend.connections()), ("ok", 1));
}

fn an_answer_that_ends_early_does_not_cut_the_upload(io: IoMode) {
    let (told, whole) = mpsc::channel();
    let (over, ended) = mpsc::channel();
    let backend = Backend::new(move |mut wire, nth| {
        if nth == 0 {
            wire.head();
            wire.send(OK);
            let _ = told.send(wire.exactly(LONG).is_some());
        }
        serve_on(&mut wire);
        let _ = over.send(nth);
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    client.send(&vec![b'u'; LONG / 2]);
    assert_eq!(client.answer().text(), "ok");
    assert!(client.send(&vec![b'u'; LONG / 2]));
    assert!(whole.recv().expect("it says"), "the backend that had accepted the body did not get it");
    // Whether the upload's connection is idle again by now, or another one is made, both are kept.
    client.send(GET.as_bytes());
    assert_eq!(client.answer().text(), "ok");
    assert!(ended.try_recv().is_err(), "the upload's connection was closed");
}

fn an_early_refusal_drains_a_short_rest_and_keeps_the_connection(io: IoMode) {
    const REFUSED: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n";
    let backend = Backend::new(|mut wire, nth| {
        if nth > 0 {
            return serve_on(&mut wire);
        }
        wire.head();
        wire.send(REFUSED);
        wire.rest();
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(with_length(40_000).as_bytes());
    client.send(&[b'u'; 10_000]);
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("connection")), (413, None));
    client.send(&[b'u'; 30_000]);
    client.send(GET.as_bytes());
    assert_eq!(client.answer().text(), "ok", "the rest was no request");
    assert_eq!(backend.connections(), 2, "a connection with half a request on it is not used again");
}

fn an_early_refusal_of_a_long_body_is_seen_and_ends_the_connection(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno\n\r\n");
        wire.send(b"0\r\n\r\n");
        wire.rest();
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    client.send(&[b'u'; 10_000]);
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str(), answer.field("connection")), (413, "no\n", Some("close")));
    assert!(client.ends(), "nothing of the body is taken for a request");
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

/// The head of an answer says that the connection stays while the body still goes to a backend that has accepted it. When that
/// backend leaves without reading it, what the client was told holds: it sends the rest, which nobody wants, and its next request.
fn a_connection_that_was_said_to_stay_does_when_its_backend_leaves(io: IoMode) {
    const BODY: usize = 500_000;
    let (told, heard) = mpsc::channel::<()>();
    let heard = std::sync::Mutex::new(heard);
    let backend = Backend::new(move |mut wire, nth| {
        // The POSTs come on the even connections, which end before they are read, the GETs on the others.
        if nth % 2 == 1 {
            wire.message();
            wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        heard.lock().unwrap().recv().expect("the client has the head");
        wire.send(b"k");
        heard.lock().unwrap().recv().expect("the client has the answer");
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    for head in [with_length(BODY), HEAD.to_owned()] {
        client.send(head.as_bytes());
        let chunked = head == HEAD;
        if chunked {
            client.send(format!("{BODY:x}\r\n").as_bytes());
        }
        client.send(&vec![b'u'; BODY / 10]);
        assert!(client.head().is_some_and(|head| head.starts_with("HTTP/1.1 200") && !head.contains("close")));
        told.send(()).expect("it listens");
        assert_eq!(client.exactly(2).as_deref(), Some(&b"ok"[..]));
        told.send(()).expect("it listens");
        assert!(client.send(&vec![b'u'; BODY - BODY / 10]), "the rest was not read");
        if chunked {
            client.send(b"\r\n0\r\n\r\n");
        }
        client.send(GET.as_bytes());
        assert_eq!(client.answer().text(), "ok", "the connection was closed");
    }
}

fn a_client_that_leaves_between_both_directions_ends_them(io: IoMode) {
    let (told, ended) = mpsc::channel();
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(CHUNKED.as_bytes());
        wire.send(b"1\r\na\r\n");
        wire.rest();
        let _ = told.send(());
    });
    let house = house(io, &backend);
    let mut client = house.connect();
    client.send(HEAD.as_bytes());
    assert!(client.head().is_some());
    assert_eq!(client.exactly(6).as_deref(), Some(&b"1\r\na\r\n"[..]));
    drop(client);
    ended.recv_timeout(std::time::Duration::from_secs(60)).expect("the backend is told");
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

/// Sends until nobody takes any more.
fn send_until_it_stalls(client: &mut Wire) {
    client.stream.set_nonblocking(true).expect("it can be set");
    let (mut stalls, bytes) = (0, [b'u'; 64 * 1024]);
    while stalls < 20 {
        match client.stream.write(&bytes) {
            Ok(sent) if sent > 0 => stalls = 0,
            _ => {
                stalls += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
    client.stream.set_nonblocking(false).expect("it can be set");
}

fn a_client_that_leaves_while_its_upload_waits_is_noticed(io: IoMode) {
    for early in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"] {
        let (_go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let backend = Backend::new(move |mut wire, _| {
            wire.head();
            wire.send(b"HTTP/1.1 103 Early Hints\r\n\r\n");
            wire.send(early);
            let _ = wait.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60));
        });
        let house = house(io, &backend);
        let mut client = house.connect();
        client.send(with_length(100 * LONG).as_bytes());
        send_until_it_stalls(&mut client);
        assert_eq!(house.traffic.connections(), 1);
        // With what it has not read, this is a reset.
        client.reset();
        eventually("the client's leaving is noticed", || house.traffic.connections() == 0);
        let status = if early.is_empty() { 499 } else { 200 };
        eventually("and recorded", || house.count(status) == 1);
    }
}

fn a_half_closed_client_gets_what_was_answered(io: IoMode) {
    const HALF: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345";
    // An answer that was made although the body could not be had.
    let house = House::new(
        io,
        "",
        "flow: [{filter: r, jumpIf: {buildErr: m}}, {filter: m}]\n\
         filters:\n- {name: r, kind: RequestAdaptor, template: 'body: \"{{.req.Body}}\"'}\n\
         - {name: m, kind: Mock, rules: [{code: 200, body: made}]}",
    );
    let mut client = house.connect();
    client.send(HALF);
    client.finish_sending();
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "made"));
    assert_eq!(client.stream.read(&mut [0]).ok(), Some(0), "an end and no reset");
    eventually("it counts as answered", || house.count(200) == 1 && house.traffic.connections() == 0);

    // One of which the backend has sent a part.
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 10\r\n\r\nabcde");
        wire.rest();
    });
    let house = self::house(io, &backend);
    let mut client = house.connect();
    client.send(HALF);
    assert!(client.head().is_some_and(|head| head.starts_with("HTTP/1.1 413")));
    assert_eq!(client.exactly(5).as_deref(), Some(&b"abcde"[..]));
    client.finish_sending();
    assert_eq!(client.stream.read(&mut [0]).ok(), Some(0), "an end and no reset");
    eventually("it is over", || house.count(413) == 1 && house.traffic.connections() == 0);

    // There is none: nobody is told anything.
    let silent = Backend::new(|mut wire, _| drop(wire.rest()));
    house.pipeline("app", &proxy_to(silent.port));
    let mut client = house.connect();
    client.send(HALF);
    client.finish_sending();
    assert!(client.ends());
    eventually("it counts as left", || house.count(499) == 1);
}

fn a_limit_that_is_reached_beside_the_answer_is_counted(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(CHUNKED.as_bytes());
        wire.send(b"1\r\na\r\n");
        wire.rest();
    });
    let house = House::new(io, "clientMaxBodySize: 10", &proxy_to(backend.port));
    let mut client = house.connect();
    client.send(HEAD.as_bytes());
    assert!(client.head().is_some());
    assert_eq!(client.exactly(6).as_deref(), Some(&b"1\r\na\r\n"[..]));
    client.send(b"b\r\nhello world\r\n");
    assert!(client.rest().is_empty(), "the answer is not ended as if it were whole");
    eventually("it is counted", || house.limit("request_body_bytes") == 1);
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

fn a_backend_that_leaves_after_its_answer_does_not_hold_the_client(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(OK);
    });
    let house = House::with_timeouts(io, "clientMaxBodySize: -1", &proxy_to(backend.port), support::short_timeouts());
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    client.send(&[b'u'; 10_000]);
    assert_eq!(client.answer().text(), "ok");
    client.send(&vec![b'u'; LONG / 2]);
    drop(client);
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

fn a_backend_that_reads_no_more_after_its_answer_does_not_hold_the_client(io: IoMode) {
    let (_go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(OK);
        let _ = wait.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60));
    });
    let house = House::with_timeouts(io, "clientMaxBodySize: -1", &proxy_to(backend.port), support::short_timeouts());
    let mut client = house.connect();
    client.send(with_length(LONG).as_bytes());
    client.send(&[b'u'; 10_000]);
    assert_eq!(client.answer().text(), "ok");
    let mut other = client.stream.try_clone().expect("a handle");
    std::thread::spawn(move || other.write_all(&vec![b'u'; LONG]).is_ok());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let _ = client.stream.shutdown(std::net::Shutdown::Both);
    eventually("nothing stays behind", || house.traffic.connections() == 0);
    assert_eq!(house.limit("upload_stalled"), 1);
}
