//! The Kafka filter beside a broker of the test's own, which speaks the protocol and goes away when it is told to, and beside Kafka's own.

pub mod itself;

use crate::collectors::STARTS;
use crate::world::{Connection, Machine, eventually, free_port, program, server, within};
use base_testing::kafka::Broker;
use itself::Kafka;
use std::sync::Arc;

fn pipeline(name: &str, broker: u16, sync: bool) -> String {
    let then = "- name: taken\n  kind: ResponseBuilder\n  template: 'statusCode: 202'\n";
    format!(
        "kind: Pipeline\nname: {name}\nfilters:\n- name: k\n  kind: Kafka\n  backend: ['127.0.0.1:{broker}']\n  topic: {{default: events}}\n  sync: {sync}\n{}",
        if sync { "" } else { then }
    )
}

fn post(port: u16, body: &str) -> (u16, String) {
    let answer = Connection::open(&format!("127.0.0.1:{port}")).and_then(|mut c| c.request("POST", "/", &[], body));
    answer.map_or((0, String::new()), |answer| (answer.status, answer.body))
}

/// As long as something in Java may take on a busy machine.
fn patiently<T>(what: &str, seen: impl FnMut() -> Option<T>) -> T {
    within(STARTS, seen).unwrap_or_else(|| panic!("{what}: not so in {STARTS:?}"))
}

#[test]
fn records_wait_on_disk_for_kafka_and_go_in_their_order() {
    let (broker, sync, later) = (free_port(), free_port(), free_port());
    let mut machine = Machine::start();
    machine.create(&pipeline("waits", broker, true));
    machine.create(&pipeline("later", broker, false));
    machine.create(&server("hs", sync, "waits"));
    machine.create(&server("hl", later, "later"));
    let kafka = Broker::start(broker, &Arc::default());
    eventually("it serves", || (post(sync, "first") == (200, String::new())).then_some(()));
    eventually("it serves", || (post(later, "second").0 == 202).then_some(()));
    eventually("both are there", || (kafka.values() == ["first", "second"]).then_some(()));

    let records = kafka.records();
    kafka.stop();
    let failed = eventually("it is told", || Some(post(sync, "lost")).filter(|(status, _)| *status == 500));
    assert!(failed.1.contains("\"err\":\"broker 127.0.0.1:"), "{}", failed.1);
    for number in 0..50 {
        assert_eq!(post(later, &format!("late-{number}")).0, 202);
    }
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count == 50.0));
    machine.kill();
    machine.run();
    eventually("it serves again", || (post(later, "after").0 == 202).then_some(()));

    let kafka = Broker::start(broker, &records);
    let wanted: Vec<String> = (0..50).map(|number| format!("late-{number}")).chain(["after".to_owned()]).collect();
    // What nobody was told was taken may be there as well.
    let taken = || kafka.values().iter().filter(|value| *value != "lost").count();
    eventually("all that was taken note of is there", || (taken() >= 2 + wanted.len()).then_some(()));
    let values = kafka.values();
    let after: Vec<&String> = values[2..].iter().filter(|value| *value != "lost").collect();
    assert_eq!(after, wanted.iter().collect::<Vec<_>>(), "in their order");
    assert_eq!(machine.metric("weir_kafka_spool_bytes"), Some(0.0));
    kafka.stop();
}

/// What waited was its brokers', so that it lay there for ever where the document named others.
#[test]
fn what_waits_goes_to_where_its_filter_says_by_then_and_nowhere_else() {
    let [first, second, moves, stays] = [(); 4].map(|()| free_port());
    let mut machine = Machine::start();
    for (name, port) in [("moves", moves), ("stays", stays)] {
        machine.create(&pipeline(name, first, false));
        machine.create(&server(&format!("to-{name}"), port, name));
        eventually("it serves", || (post(port, &format!("{name}-0")).0 == 202).then_some(()));
        (1..5).for_each(|number| assert_eq!(post(port, &format!("{name}-{number}")).0, 202));
    }
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count >= 10.0));
    machine.kill();
    machine.run();
    machine.update("moves", &pipeline("moves", second, false));
    let elsewhere = Broker::start(second, &Arc::default());
    let all_of = |name: &str| (0..5).map(|number| format!("{name}-{number}")).collect::<Vec<_>>();
    eventually("what waits goes elsewhere", || (elsewhere.values() == all_of("moves")).then_some(()));
    // Nobody sends what is left of one that is deleted, but for one of its name.
    let there = || machine.directory.join("data/kafka/stays+k").exists();
    assert!(there());
    machine.api("DELETE", "/objects/to-stays", "");
    machine.api("DELETE", "/objects/stays", "");
    eventually("it says since when it waits", || {
        machine.directory.join("data/kafka/stays+k/gone").exists().then_some(())
    });
    let here = Broker::start(first, &Arc::default());
    machine.create(&pipeline("stays", first, false));
    machine.create(&server("to-stays", stays, "stays"));
    eventually("what waits goes", || (here.values() == all_of("stays")).then_some(()));
    machine.api("DELETE", "/objects/to-stays", "");
    machine.api("DELETE", "/objects/stays", "");
    eventually("nothing of it is left", || (!there()).then_some(()));
    assert_eq!(elsewhere.values(), all_of("moves"));
    here.stop();
    elsewhere.stop();
}

#[test]
fn kafka_itself_takes_what_is_handed_to_it_and_misses_nothing_after_a_crash() {
    let Some(kafka) = program("javac").and_then(|_| Kafka::new(None)) else { return };
    let (port, sync, later) = (kafka.open, free_port(), free_port());
    let running = kafka.start();
    kafka.is_there();
    let mut machine = Machine::start();
    let keyed = |name: &str, sync: bool| {
        pipeline(name, port, sync).replace("  sync:", "  key: {dynamic: {header: X-Device}}\n  sync:")
    };
    machine.create(&keyed("waits", true));
    machine.create(&keyed("later", false));
    machine.create(&server("hs", sync, "waits"));
    machine.create(&server("hl", later, "later"));
    let send = |port: u16, body: &str| {
        let ask = Connection::open(&format!("127.0.0.1:{port}"));
        let answer = ask.and_then(|mut c| c.request("POST", "/", &[("X-Device", &format!("of {body}"))], body));
        answer.map_or((0, String::new()), |answer| (answer.status, answer.body))
    };
    // The topic is made for the first one.
    patiently("it takes records", || (send(sync, "first").0 == 200).then_some(()));
    // Larger than it takes (1 MiB): it says so, and nothing behind waits for it.
    let refused = post(sync, &"x".repeat(2 << 20));
    assert!(refused.0 == 500 && refused.1.contains("(error 10 of Kafka's)"), "{refused:?}");
    assert_eq!(post(later, &"x".repeat(2 << 20)).0, 202);
    let number = |n: usize| format!("late-{n}");
    (0..20).for_each(|n| assert_eq!(send(later, &number(n)).0, 202));
    assert_eq!(send(sync, "between").0, 200);
    drop(running);
    (20..60).for_each(|n| assert_eq!(send(later, &number(n)).0, 202));
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count >= 40.0));
    machine.kill();
    machine.run();
    eventually("it serves again", || (send(later, "after").0 == 202).then_some(()));
    let _running = kafka.start();
    kafka.is_there();
    patiently("all is handed over", || machine.metric("weir_kafka_spool_bytes").filter(|bytes| *bytes == 0.0));
    patiently("it takes records again", || (send(sync, "last").0 == 200).then_some(()));
    let mut wanted = vec!["first".to_owned()];
    wanted.extend((0..20).map(number));
    wanted.push("between".to_owned());
    wanted.extend((20..60).map(number));
    wanted.extend(["after", "last"].map(str::to_owned));
    // Each at least once: what was sent before an answer was lost comes again, in its place.
    let read = kafka.consumed("events", wanted.len());
    let mut values: Vec<String> = Vec::new();
    for (key, value) in read {
        assert_eq!(key, format!("of {value}"));
        if !values.contains(&value) {
            values.push(value);
        }
    }
    assert_eq!(values, wanted, "in their order");
}
