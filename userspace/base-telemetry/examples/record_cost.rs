//! What statistics and logging cost a worker: `cargo run --release -p base-telemetry --example record_cost`.
//! Prints the median and the spread of seven rounds in nanoseconds of CPU per call; an argument picks the lines that contain it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base_telemetry::access_log::{AccessLog, Destination, Entry, FILE_NAME, Format, Tags, tags, write_line};
use base_telemetry::proxy::{AnsweredRequest, PoolNames};
use base_telemetry::server::Sample;
use base_telemetry::{Identity, LimitHits, Names, Telemetry};

const CALLS: u64 = 1_000_000;

fn main() -> std::io::Result<()> {
    let telemetry = Telemetry::new(Identity::default(), 2);
    let server = telemetry.server("bench");
    let backends: Vec<Arc<str>> = (0..3).map(|i| Arc::from(format!("pipeline-{i}"))).collect();
    let few: Vec<String> = (0..8).map(|i| format!("/api/v1/things/{i}")).collect();
    let many: Vec<String> = (0..4096).map(|i| format!("/api/v1/things/{i}")).collect();

    for (name, paths, backends) in [
        ("record, 8 paths, 1 backend", &few, &backends[..1]),
        ("record, 8 paths, 3 backends", &few, &backends[..]),
        ("record, 4096 paths, 1 backend", &many, &backends[..1]),
    ] {
        let mut recorder = server.recorder(0);
        measure(name, |i| recorder.record(&sample(i, paths, backends)));
    }
    {
        let mut recorder = server.recorder(0);
        measure("record, no route", |i| {
            recorder.record(&Sample { backend: None, route_found: false, ..sample(i, &few, &backends) });
        });
    }
    {
        // Far more often than every 5 s and at every scrape, to see what a reader costs the writer.
        let mut recorder = server.recorder(0);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    telemetry.tick(Instant::now());
                    black_box(telemetry.render(Names::All));
                    thread::sleep(Duration::from_millis(5));
                }
            });
            measure("record while scraped every 5 ms", |i| recorder.record(&sample(i, &few, &backends[..1])));
            stop.store(true, Ordering::Relaxed);
        });
    }
    let pool = telemetry.pool(PoolNames { pool: "pool".into(), ..PoolNames::default() });
    let upstream = pool.recorder(0).server("http://127.0.0.1:9095");
    measure("upstream record", |i| {
        upstream.record(&AnsweredRequest {
            status: 200,
            duration: duration(i),
            request_bytes: 200,
            response_bytes: 1200,
        });
    });

    let format = Format::default();
    let mut out = Vec::with_capacity(1 << 20);
    measure("log line, formatted", |i| {
        if out.len() > 1 << 19 {
            out.clear();
        }
        log(i, |entry| write_line(&format, entry, &mut out));
    });
    // /dev/null, so that the figure is of the way there and not of how fast this disk is.
    let directory = tempfile::tempdir()?;
    std::os::unix::fs::symlink("/dev/null", directory.path().join(FILE_NAME))?;
    let limits = LimitHits::new(1);
    let access_log =
        AccessLog::start(Destination::Directory(directory.path().to_owned(), Default::default()), 1, &limits)?;
    let mut writer = access_log.writer(0);
    measure("log line, handed over", |i| {
        // A worker waits for its clients now and then; without any pause this would measure how cheaply lines are dropped.
        if i % 2_000 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
        log(i, |entry| writer.log(&format, entry));
    });
    println!("lines dropped because the thread was slower: {}", limits.register("access_log_queue").total());
    drop(writer);
    drop(access_log);

    let start = Instant::now();
    let text = telemetry.render(Names::All);
    println!("scrape: {} lines in {:?}", text.lines().count(), start.elapsed());
    let start = Instant::now();
    telemetry.tick(Instant::now());
    println!("tick: {:?}", start.elapsed());
    Ok(())
}

fn sample<'a>(i: u64, paths: &'a [String], backends: &'a [Arc<str>]) -> Sample<'a> {
    Sample {
        status: if i.is_multiple_of(64) { 404 } else { 200 },
        duration: duration(i),
        request_bytes: 200,
        response_bytes: 1200,
        path: &paths[i as usize % paths.len()],
        backend: Some(&backends[i as usize % backends.len()]),
        route_found: true,
    }
}

/// 100 µs to 8 ms.
fn duration(i: u64) -> Duration {
    Duration::from_nanos(100_000 + (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 41))
}

fn log(i: u64, write: impl FnOnce(&Entry<'_>)) {
    let tags = |out: &mut Vec<u8>| {
        let steps = [("validator", "", Duration::from_nanos(700)), ("proxy", "", duration(i))];
        tags::write(out, "pipeline-demo", steps, []);
    };
    write(&Entry {
        time: Duration::from_micros(1_700_000_000_000_000 + i * 20),
        remote_addr: Some(([192, 168, 1, 17], 40_000 + (i % 20_000) as u16).into()),
        real_ip: Some([192, 168, 1, 17].into()),
        method: b"GET",
        uri: b"/api/v1/things/17?page=2",
        proto: "HTTP/1.1",
        status: 200,
        refused: None,
        request_id: b"7f3c2d1e8a5b4c9d0000000001",
        duration: duration(i),
        request_bytes: 200,
        response_bytes: 1200,
        tags: Tags::Write(&tags),
        request_headers: Tags::None,
        response_headers: Tags::None,
    });
}

fn measure(name: &str, mut call: impl FnMut(u64)) {
    if std::env::args().nth(1).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut rounds: Vec<f64> = (0..7)
        .map(|_| {
            let start = on_cpu_ns();
            (0..CALLS).for_each(|i| call(black_box(i)));
            (on_cpu_ns() - start) / CALLS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<34} {:6.1} ns   ({:.1} to {:.1})", rounds[3], rounds[0], rounds[6]);
}

/// Nanoseconds this thread has been running: on a busy machine the wall clock would measure the neighbours.
fn on_cpu_ns() -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}
