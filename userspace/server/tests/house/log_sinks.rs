//! LogSinks of a daemon that is killed in between: what was logged arrives, in its order, over every way there is.

use crate::world::{Connection, Machine, PATIENCE, eventually, free_port, get, mock, server};
use base_testing::kafka::Broker;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;

/// Lines that came, whatever way.
type Lines = Arc<Mutex<Vec<String>>>;

fn ask(port: u16, numbers: Range<usize>) {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    for number in numbers {
        assert_eq!(connection.request("GET", &format!("/n-{number}"), &[], "").unwrap().status, 200);
    }
}

/// Takes lines by POST.
fn http(port: u16, lines: &Lines) {
    serve(port, lines, |stream, lines| {
        let mut reader = BufReader::new(stream);
        loop {
            let (mut length, mut line) = (0, String::new());
            while line != "\r\n" {
                line.clear();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            lines.lock().unwrap().extend(String::from_utf8(body).unwrap().lines().map(str::to_owned));
            reader.get_mut().write_all(b"HTTP/1.1 204 X\r\n\r\n")?;
        }
    });
}

/// Takes messages of syslog after their lengths.
fn syslog(port: u16, lines: &Lines) {
    serve(port, lines, |stream, lines| {
        let mut reader = BufReader::new(stream);
        loop {
            let mut length = Vec::new();
            reader.read_until(b' ', &mut length)?;
            let Ok(length) = String::from_utf8(length).unwrap().trim().parse::<usize>() else { return Ok(()) };
            let mut message = vec![0; length];
            reader.read_exact(&mut message)?;
            lines.lock().unwrap().push(String::from_utf8(message).unwrap());
        }
    });
}

fn serve(port: u16, lines: &Lines, talk: fn(TcpStream, &Lines) -> std::io::Result<()>) {
    let listener = eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
    let lines = lines.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = lines.clone();
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                // It ends when the daemon does.
                let _ = talk(stream, &lines);
            });
        }
    });
}

/// The numbers in lines, in order; of those that came twice, because an answer was lost, the first.
fn numbers(lines: &[String]) -> Vec<usize> {
    let mut seen = Vec::new();
    for number in lines.iter().filter_map(|line| line.rsplit("/n-").next()?.parse().ok()) {
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
    seen
}

#[test]
fn lines_survive_kills_and_come_in_order_over_every_way() {
    let (shop, post, log, broker) = (free_port(), free_port(), free_port(), free_port());
    let mut machine = Machine::new("m1").flags(["--disable-access=true"]);
    machine.run();
    machine.create(&mock("pl", "x"));
    let sinks = BTreeMap::from([
        ("post", format!("http: {{url: 'http://127.0.0.1:{post}/in'}}")),
        ("log", format!("syslog: {{address: 'tcp://127.0.0.1:{log}', facility: local3, appName: shop}}")),
        ("kafka", format!("kafka: {{brokers: ['127.0.0.1:{broker}'], topic: access}}")),
    ]);
    for (name, sink) in &sinks {
        machine.create(&format!("kind: LogSink\nname: {name}\nlogs: [access, events]\n{sink}\n"));
    }
    machine.create(&format!("{}accessLogFormat: 'GET {{{{URI}}}}'\n", server("shop", shop, "pl")));
    eventually("it serves", || get(shop, "/up").ok());
    // Nobody is there. What is on disk outlives the process, twice.
    let mut asked = 0;
    for _ in 0..2 {
        ask(shop, asked..asked + 100);
        asked += 100;
        let kept = |name: &str| machine.metric(&format!("weir_log_sink_spool_bytes{{sink=\"{name}\"}}"));
        // Each line has its number and 17 bytes around it, and more of the events; lines of later turns come on top.
        let least = (asked * 20) as f64;
        eventually("they are on disk", || {
            sinks.keys().all(|name| kept(name).is_some_and(|b| b >= least)).then_some(())
        });
        thread::sleep(std::time::Duration::from_millis(400));
        machine.kill();
        machine.run();
        eventually("it serves again", || get(shop, "/up").ok());
    }
    let (posted, logged) = (Lines::default(), Lines::default());
    http(post, &posted);
    syslog(log, &logged);
    let kafka = Broker::start(broker, &Arc::default());
    ask(shop, asked..asked + 20);
    asked += 20;
    let wanted: Vec<usize> = (0..asked).collect();
    let came = || {
        let of_kafka: Vec<String> = kafka.values();
        [posted.lock().unwrap().clone(), logged.lock().unwrap().clone(), of_kafka]
    };
    eventually("all of them are there", || came().iter().all(|lines| numbers(lines).len() >= asked).then_some(()));
    for lines in came() {
        assert_eq!(numbers(&lines), wanted, "in their order");
        assert!(lines.iter().any(|line| line.contains("ready, admin API on")), "events, too: {lines:?}");
    }
    let messages = logged.lock().unwrap().clone();
    let access = messages.iter().find(|message| message.ends_with("/n-7")).unwrap();
    assert!(access.starts_with("<158>1 ") && access.contains(" m1 shop "), "{access}");
    assert!(access.ends_with(" access - GET /n-7"), "{access}");
    // Killed while everybody listens, with lines that are not two tenths of a second old on their way or lost; none before those is.
    ask(shop, asked..asked + 50);
    thread::sleep(std::time::Duration::from_millis(400));
    machine.kill();
    machine.run();
    eventually("it serves once more", || get(shop, "/up").ok());
    asked += 50;
    eventually("these, too", || came().iter().all(|lines| numbers(lines).len() >= asked).then_some(()));
    assert!(came().iter().all(|lines| numbers(lines) == (0..asked).collect::<Vec<_>>()), "in their order");
    kafka.stop();
}
