//! Times, durations and addresses as Go prints them, straight into a buffer.

use crate::calendar::date_of;
use crate::digits::{OCTETS, THREE, push_block, write_fraction, write_micros, write_millis, write_number};
use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

thread_local! {
    /// The last second written and its text: most lines fall into the same second as the one before.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// RFC 3339 in UTC with milliseconds: `2024-05-06T07:08:09.123Z`. Easegress drops trailing zeros of the milliseconds; a fixed width
/// reads and sorts better, and whoever parses the one parses the other.
///
/// `since` is the time since 1970.
pub fn write_time(since: Duration, out: &mut Vec<u8>) {
    let seconds = since.as_secs();
    let (known, text) = SECOND.get();
    let text = if known == seconds {
        text
    } else {
        let text = date_time(seconds);
        SECOND.set((seconds, text));
        text
    };
    let [a, b, c, _] = THREE[since.subsec_millis() as usize];
    let mut whole = [0; 24];
    whole[..19].copy_from_slice(&text);
    whole[19..].copy_from_slice(&[b'.', a, b, c, b'Z']);
    out.extend_from_slice(&whole);
}

fn digit(n: u32) -> u8 {
    b'0' + (n % 10) as u8
}

/// `2024-05-06T07:08:09`. Years beyond 9999 show their last four digits.
fn date_time(seconds: u64) -> [u8; 19] {
    let (days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
    let (year, month, date) = date_of(days as i64);
    let (year, month, date) = ((year % 10_000) as u32, month as u32, date as u32);
    let mut text = *b"0000-00-00T00:00:00";
    for (at, n) in [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, date),
        (11, second / 3600),
        (14, second / 60 % 60),
        (17, second % 60),
    ] {
        text[at] = digit(n / 10);
        text[at + 1] = digit(n);
    }
    text
}

/// A duration for people, as [`write_duration`] writes it.
pub fn duration(duration: Duration) -> impl fmt::Display {
    let mut text = Vec::new();
    write_duration(duration, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// As Go's `Duration` prints itself: `0s`, `850ns`, `1.5µs`, `1.234567ms`, `2.5s`, `1m3s`, `1h0m0.5s`.
pub fn write_duration(duration: Duration, out: &mut Vec<u8>) {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match (seconds, nanos) {
        (0, 0) => out.extend_from_slice(b"0s"),
        (0, 1..1_000) => {
            write_number(nanos.into(), out);
            out.extend_from_slice(b"ns");
        }
        (0, 1_000..1_000_000) => write_micros(nanos, out),
        (0, 1_000_000..) => write_millis(nanos, out),
        _ => {
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            if hours > 0 {
                write_number(hours, out);
                out.push(b'h');
            }
            if hours > 0 || minutes > 0 {
                write_number(minutes, out);
                out.push(b'm');
            }
            write_fraction(seconds % 60, nanos, out);
            out.push(b's');
        }
    }
}

/// An address. The formatter of the standard library takes three times as long for an IPv4 one.
pub fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let mut text = [0; 16];
            let mut at = 0;
            for octet in ip.octets() {
                text[at..at + 4].copy_from_slice(&OCTETS[usize::from(octet)]);
                at += 2 + usize::from(octet >= 10) + usize::from(octet >= 100);
            }
            push_block(text, at - 1, out);
        }
        IpAddr::V6(ip) => {
            use std::io::Write as _;
            // Writing to a Vec does not fail.
            let _ = write!(out, "{ip}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_are_what_the_standard_library_writes(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>()) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                let mut out = Vec::new();
                write_ip(ip, &mut out);
                prop_assert_eq!(String::from_utf8(out).unwrap(), ip.to_string());
            }
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(2_500)).to_string(), "2.5s");
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (1_234_567, "1.234567ms"),
            (3_300_000_000, "3.3s"),
            (1_000_000_001, "1.000000001s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (5 * 3600 * 1_000_000_000 + 367_001_000_000, "5h6m7.001s"),
            (8 * 60 * 1_000_000_000 + 1, "8m0.000000001s"),
            (3600 * 1_000_000_000, "1h0m0s"),
        ] {
            let mut out = Vec::new();
            write_duration(Duration::from_nanos(nanos), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        write_duration(Duration::MAX, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "5124095576030431h0m15.999999999s");
    }

    #[test]
    fn times() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_070, "2000-03-01T00:00:00.070Z"),
            (1_709_210_096_005, "2024-02-29T12:34:56.005Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599_100, "2024-12-31T23:59:59.100Z"),
        ] {
            let mut out = Vec::new();
            write_time(Duration::from_millis(ms), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
