//! Times, durations, addresses and numbers as Go prints them, straight into a buffer.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

thread_local! {
    /// The last second written and its text: most lines fall into the same second as the one before.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// RFC 3339 in UTC with milliseconds: `2024-05-06T07:08:09.123Z`. Easegress drops trailing zeros of the milliseconds; a fixed width
/// reads and sorts better, and whoever parses the one parses the other.
pub fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (known, text) = SECOND.get();
    let text = if known == seconds {
        text
    } else {
        let text = date_time(seconds);
        SECOND.set((seconds, text));
        text
    };
    out.extend_from_slice(&text);
    let ms = since.subsec_millis();
    out.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
}

fn digit(n: u32) -> u8 {
    b'0' + (n % 10) as u8
}

/// `2024-05-06T07:08:09`. Years beyond 9999 show their last four digits.
fn date_time(seconds: u64) -> [u8; 19] {
    let (days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
    // Days since 0000-03-01, in 400-year eras: leap days then come last in a year and months need no table.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let date = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = (if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 }) as u32;
    let year = ((year_of_era + era * 400 + u64::from(month <= 2)) % 10_000) as u32;
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
    let nanos = duration.as_nanos();
    match nanos {
        0 => out.extend_from_slice(b"0s"),
        1..1_000 => {
            write_number(nanos as u64, out);
            out.extend_from_slice(b"ns");
        }
        1_000..1_000_000 => {
            write_fraction(nanos as u64, 3, out);
            out.extend_from_slice("µs".as_bytes());
        }
        1_000_000..1_000_000_000 => {
            write_fraction(nanos as u64, 6, out);
            out.extend_from_slice(b"ms");
        }
        _ => {
            let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
            if hours > 0 {
                write_number(hours, out);
                out.push(b'h');
            }
            if hours > 0 || minutes > 0 {
                write_number(minutes, out);
                out.push(b'm');
            }
            write_fraction(duration.as_secs() % 60 * 1_000_000_000 + u64::from(duration.subsec_nanos()), 9, out);
            out.push(b's');
        }
    }
}

/// An address. The formatter of the standard library takes three times as long for an IPv4 one.
pub fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let mut text = [b'.'; 15];
            let mut at = 0;
            for (index, octet) in ip.octets().into_iter().enumerate() {
                at += usize::from(index > 0);
                for (from, digit) in [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)] {
                    if octet >= from {
                        text[at] = b'0' + digit;
                        at += 1;
                    }
                }
            }
            out.extend_from_slice(&text[..at]);
        }
        IpAddr::V6(ip) => {
            use std::io::Write as _;
            // Writing to a Vec does not fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// A number. Allocates nothing.
pub fn write_number(n: u64, out: &mut Vec<u8>) {
    // Ports, statuses, octets and most sizes: one reservation, no division by a variable.
    if n < 10 {
        out.push(b'0' + n as u8);
        return;
    }
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = n;
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// `n / 10^places` without trailing zeros; `places` is at most 9.
fn write_fraction(n: u64, places: usize, out: &mut Vec<u8>) {
    let unit = 10u64.pow(places as u32);
    write_number(n / unit, out);
    let mut rest = n % unit;
    if rest == 0 {
        return;
    }
    let mut digits = [b'.'; 10];
    for digit in digits[1..=places].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = digits[..=places].iter().rposition(|&digit| digit != b'0').unwrap_or(0);
    out.extend_from_slice(&digits[..=end]);
}

#[cfg(test)]
mod tests {
    use super::*;

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
            write_time(UNIX_EPOCH + Duration::from_millis(ms), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
