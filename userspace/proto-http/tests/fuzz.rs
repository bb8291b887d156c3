//! The checks of `userspace/fuzz` for a short while: the torture list and what one to four random changes make of it, the same
//! in every run. The long run is `cargo xtask fuzz`.

use proto_http::h1::parse_request;
use proto_http::{Limits, Request};
use proto_torture::cases;
use std::time::{Duration, Instant};

#[path = "../../fuzz/checks/http1_chunks.rs"]
mod http1_chunks;
#[path = "../../fuzz/checks/http1_request.rs"]
mod http1_request;
#[path = "../../fuzz/checks/http1_response.rs"]
mod http1_response;
#[path = "../../fuzz/checks/http_path.rs"]
mod http_path;

#[test]
fn requests() {
    run(http1_request::check, |bytes| Some(bytes.to_vec()));
}

#[test]
fn responses() {
    run(http1_response::check, |bytes| {
        let fields = bytes.windows(2).position(|w| w == b"\r\n").map_or(0, |at| at + 2);
        Some([b"HTTP/1.1 200 OK\r\n", &bytes[fields..]].concat())
    });
}

#[test]
fn chunks() {
    run(http1_chunks::check, |bytes| {
        let head = parse_request(bytes, &Limits::default(), &mut Request::default()).ok()??;
        // The first byte says in which pieces.
        Some([b"\x02", &bytes[head.consumed..]].concat())
    });
}

#[test]
fn paths() {
    run(http_path::check, |bytes| bytes.split(|&b| b == b' ').nth(1).map(<[u8]>::to_vec));
}

/// Every seed as it is, then changed ones, for so many rounds and no longer than five seconds.
fn run(check: fn(&[u8]), seed: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let seeds: Vec<Vec<u8>> = cases().iter().filter(|c| c.bytes.len() <= 4096).filter_map(|c| seed(&c.bytes)).collect();
    assert!(seeds.len() > 100, "{} seeds", seeds.len());
    seeds.iter().for_each(|bytes| check(bytes));
    let (mut random, began) = (Random(0x9e37_79b9_7f4a_7c15), Instant::now());
    for round in 0..ROUNDS {
        if round % 256 == 0 && began.elapsed() > Duration::from_secs(5) {
            break;
        }
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, &seeds, &mut random);
        }
        check(&bytes);
    }
}

/// One change of the kinds that fuzzers make.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let odd = ODD[random.below(ODD.len())];
    match random.below(6) {
        0 if at < bytes.len() => bytes[at] = odd,
        1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 => bytes.insert(at, odd),
        4 => bytes.truncate(at),
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = (from + random.below(40)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}

/// What readers have stumbled over.
const ODD: &[u8] = b"\r\n\t \x00\x7f\x80\xff:;,%/.?#0-_aA";

const ROUNDS: usize = 60_000;

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
