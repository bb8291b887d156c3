//! Mixed load for a while, against backends that fail in every way they know, while the configuration changes.
//!
//! Every answer is checked byte for byte: its body follows from the request's path and body, so a request that reached the
//! wrong place, arrived otherwise than it was sent, or was answered with another's answer is seen. An error is right only
//! where the request's script asks its backend for one, or the chosen backend was dead at the time. What the process holds
//! in memory and descriptors must not grow.
//!
//! `WEIR_SOAK_SECONDS` (15), `WEIR_SOAK_SEED` (drawn from the clock), `WEIR_SOAK_CHANGES` (5 a second), `WEIR_SOAK_CLIENTS`
//! (8). `cargo xtask soak` runs the long form.

pub mod backend;
pub mod changes;
mod client;
pub mod figures;
pub mod script;

use crate::world::{Machine, PATIENCE, eventually, free_port, within};
use backend::{Backend, Deaths};
use changes::{Certificate, Changer, Pools};
use client::{Client, Outcome, Target};
use figures::{Course, held};
use script::Random;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn nothing_is_wrong_and_nothing_grows() {
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64) % 1_000_000_000;
    let seconds = setting("WEIR_SOAK_SECONDS", 15);
    let soak = Soak {
        length: Duration::from_secs(seconds),
        seed: setting("WEIR_SOAK_SEED", drawn),
        changes: setting("WEIR_SOAK_CHANGES", seconds * 5),
        clients: setting("WEIR_SOAK_CLIENTS", 8) as usize,
    };
    soak.run();
}

fn setting(name: &str, usual: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number"))
}

struct Soak {
    length: Duration,
    seed: u64,
    changes: u64,
    clients: usize,
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Soak {
    fn run(&self) {
        raise_descriptor_limit();
        println!("soak: seed {}, {:?}, {} changes, {} clients", self.seed, self.length, self.changes, self.clients);
        let machine = Machine::start();
        let steady: Vec<Backend> = (0..3).map(|n| Backend::start(0, self.seed + n)).collect();
        let restless: Vec<Backend> = (0..2).map(|n| Backend::start(6, self.seed + 10 + n)).collect();
        let mortal: Vec<Backend> = (0..3).map(|n| Backend::start(0, self.seed + 20 + n)).collect();
        let (port, certificates) = (free_port(), certificates());
        let tls_port = free_port();
        let target = Target { port, tls: Some((tls_port, tls_settings(&certificates))), deaths: Deaths::default() };
        let pools = Pools { steady: &steady, restless: &restless, mortal: &mortal };
        let tls = Some((tls_port, certificates));
        let mut changer = Changer::new(&machine, pools, port, tls, self.seed);
        changer.begin();
        for port in [port, tls_port] {
            eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        }
        let base = held(machine.pid());

        let shared = Shared::default();
        let mut course = Course::default();
        let began = Instant::now();
        thread::scope(|threads| {
            for index in 0..self.clients {
                let (shared, target) = (&shared, &target);
                threads.spawn(move || shared.use_it(Client::new(target, self.seed, index)));
            }
            let (shared, target, mortal) = (&shared, &target, &mortal);
            threads.spawn(move || {
                let mut random = Random::of(self.seed, "deaths", 0);
                while !shared.stop.load(Ordering::Relaxed) {
                    target.deaths.happen(random.pick_of(mortal), Duration::from_millis(20 + random.below(300)));
                    shared.count("backend died");
                    thread::sleep(Duration::from_millis(random.below(3000)));
                }
            });
            let _stop = Stop(shared);
            self.watch(&machine, shared, &mut changer, &mut course, began);
        });
        let changes = changer.made;
        self.tell(&shared, &course, changes, began);
        self.conclude(machine, &shared, &course, base.descriptors, &[steady, restless, mortal]);
    }

    /// Makes the changes at their pace and looks at the process, until the time is up or something is wrong.
    fn watch(
        &self,
        machine: &Machine,
        shared: &Shared,
        changer: &mut Changer<'_>,
        course: &mut Course,
        began: Instant,
    ) {
        let (mut looked, mut told) = (began, began);
        while began.elapsed() < self.length && shared.wrong.lock().unwrap().is_empty() {
            let due = self.changes as f64 * began.elapsed().as_secs_f64() / self.length.as_secs_f64();
            if (changer.made as f64) < due {
                if let Err(error) = changer.turn() {
                    shared.wrong(format!("change {}: {error}", changer.made));
                }
            } else {
                thread::sleep(Duration::from_millis(10));
            }
            if looked.elapsed() >= Duration::from_millis(250) {
                looked = Instant::now();
                course.push(held(machine.pid()));
            }
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                self.tell(shared, course, changer.made, began);
            }
        }
    }

    fn conclude(&self, mut machine: Machine, shared: &Shared, course: &Course, base: usize, backends: &[Vec<Backend>]) {
        machine.still_runs();
        let wrong = shared.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "WEIR_SOAK_SEED={}: {} wrong:\n{}", self.seed, wrong.len(), wrong.join("\n"));
        let served: u64 = backends.iter().flatten().map(Backend::served).sum();
        assert!(served > 100, "backends answered {served} requests only");
        // Kept connections to backends close when these do, and are looked through every 5 s.
        for backend in backends.iter().flatten() {
            backend.hang_up();
        }
        let slack = 4;
        let back = within(PATIENCE, || (held(machine.pid()).descriptors <= base + slack).then_some(()));
        let now = held(machine.pid()).descriptors;
        assert!(back.is_some(), "WEIR_SOAK_SEED={}: {now} descriptors are open, {base} were", self.seed);
        let open: f64 = machine.metric("weir_worker_connections").unwrap_or(0.0);
        assert!(open <= slack as f64, "{open} connections are open and nobody is there");
        let (early, late) = (course.median_kib(0.2, 0.4), course.median_kib(0.85, 1.0));
        println!("soak: {early} KiB of memory in the first third, {late} KiB at the end; {base} → {now} descriptors");
        // A run of seconds is all warm-up; only a long one tells growth from it.
        let slack_kib = if self.length < Duration::from_secs(120) { 32 * 1024 } else { 8 * 1024 };
        let most = early + early / 10 + slack_kib;
        assert!(late <= most, "WEIR_SOAK_SEED={}: memory grew from {early} KiB to {late} KiB", self.seed);
    }

    fn tell(&self, shared: &Shared, course: &Course, changes: u64, began: Instant) {
        let counts = shared.counts.lock().unwrap();
        let total: u64 =
            counts.iter().filter(|(k, _)| k.starts_with("right") || k.starts_with("excused")).map(|(_, n)| n).sum();
        let kinds: Vec<String> = counts.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let held = course
            .last()
            .map_or(String::new(), |h| format!("; {} KiB of memory, {} descriptors", h.anonymous_kib, h.descriptors));
        let wrong = shared.wrong.lock().unwrap().len();
        println!(
            "soak: {:.0} s: {total} answers, {wrong} wrong; {}; {changes} changes{held}",
            began.elapsed().as_secs_f64(),
            kinds.join(", "),
        );
    }
}

/// Ends all threads, also when the one that watches panics.
struct Stop<'a>(&'a Shared);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn use_it(&self, mut client: Client<'_>) {
        while !self.stop.load(Ordering::Relaxed) {
            for outcome in client.turn() {
                match outcome {
                    Outcome::Right(status) => self.count(&format!("right {status}")),
                    Outcome::Excused(0) => self.count("excused cut"),
                    Outcome::Excused(status) => self.count(&format!("excused {status}")),
                    Outcome::HungUp => self.count("client hung up"),
                    Outcome::Wrong(what) => {
                        self.wrong(what);
                        return;
                    }
                }
            }
        }
    }

    fn count(&self, kind: &str) {
        *self.counts.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
    }

    fn wrong(&self, what: String) {
        println!("soak: wrong: {what}");
        self.wrong.lock().unwrap().push(what);
    }
}

/// Clients, backends and their twins are all in this process.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

pub fn certificates() -> Vec<Certificate> {
    let make = |_| {
        let made = rcgen::generate_simple_self_signed(["soak.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    (0..2).map(make).collect()
}

/// Trusts all of them, and nobody else.
pub fn tls_settings(certificates: &[Certificate]) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for (pem, _) in certificates {
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    }
    Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
