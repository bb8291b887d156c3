//! A request as a line of JSON: the same facts as the template's, under names that stay.

use super::format::{Entry, write_uri};
use base_text::digits::write_number;
use base_text::escape::write_foreign;
use base_text::redact;
use base_text::time::{write_ip, write_time};

/// Appends the line of a request of a server, with its newline. `hide`: without credentials.
pub fn write_line(server: &str, entry: &Entry<'_>, hide: bool, out: &mut Vec<u8>) {
    let mut scratch = Vec::with_capacity(256);
    let mut text = |name: &str, write: &mut dyn FnMut(&mut Vec<u8>), out: &mut Vec<u8>| {
        scratch.clear();
        write(&mut scratch);
        key(name, out);
        quote(&scratch, out);
    };
    out.push(b'{');
    text("time", &mut |out| write_time(entry.time, out), out);
    text("server", &mut |out| write_foreign(server.as_bytes(), out), out);
    if let Some(address) = entry.remote_addr {
        text("remoteAddr", &mut |out| out.extend(address.to_string().as_bytes()), out);
    }
    match entry.real_ip {
        Some(ip) => text("realIP", &mut |out| write_ip(ip.to_canonical(), out), out),
        None => text("realIP", &mut |out| out.extend(b"unknown"), out),
    }
    text("method", &mut |out| write_foreign(entry.method, out), out);
    let write = if hide { redact::write_url } else { write_foreign };
    text("uri", &mut |out| write_uri(entry.uri, write, out), out);
    text("proto", &mut |out| out.extend(entry.proto.as_bytes()), out);
    number("status", entry.status.into(), out);
    if let Some(refused) = entry.refused {
        text("refused", &mut |out| write_foreign(refused.as_bytes(), out), out);
    }
    if !entry.request_id.is_empty() {
        text("requestId", &mut |out| write_foreign(entry.request_id, out), out);
    }
    key("duration", out);
    out.extend(format!("{:.6}", entry.duration.as_secs_f64()).as_bytes());
    number("requestBytes", entry.request_bytes, out);
    number("responseBytes", entry.response_bytes, out);
    text("tags", &mut |out| entry.tags.write(out), out);
    out.extend(b"}\n");
}

fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    key(name, out);
    write_number(value, out);
}

fn key(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend(name.as_bytes());
    out.extend(b"\":");
}

/// What is written here is text in one line already.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => out.extend(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::Tags;
    use std::time::Duration;

    #[test]
    fn a_line_is_json_whatever_a_request_says() {
        let entry = Entry {
            time: Duration::from_millis(1_709_210_096_005),
            remote_addr: Some(([10, 0, 0, 1], 4711).into()),
            real_ip: None,
            method: b"GET",
            uri: b"/a\"b\n?token=secret",
            proto: "HTTP/1.1",
            status: 200,
            refused: Some("shed"),
            request_id: b"id \"1\"",
            duration: Duration::from_nanos(1_234_567),
            request_bytes: 80,
            response_bytes: 1024,
            tags: Tags::Text(b"a \\ \"b\""),
            request_headers: Tags::None,
            response_headers: Tags::None,
        };
        let line = |hide| {
            let mut out = Vec::new();
            write_line("web", &entry, hide, &mut out);
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap()
        };
        let (hidden, shown) = (line(true), line(false));
        assert_eq!(
            (&hidden["server"], &hidden["status"], &hidden["realIP"]),
            (&"web".into(), &200.into(), &"unknown".into())
        );
        assert_eq!((&hidden["duration"], &hidden["time"]), (&0.001235.into(), &"2024-02-29T12:34:56.005Z".into()));
        assert_eq!((&hidden["remoteAddr"], &hidden["refused"]), (&"10.0.0.1:4711".into(), &"shed".into()));
        assert!(shown["uri"].as_str().unwrap().contains("secret"), "{shown}");
        assert!(!hidden["uri"].as_str().unwrap().contains("secret"), "{hidden}");
        assert_eq!((&hidden["tags"], &hidden["requestId"]), (&"a \\ \"b\"".into(), &"id \"1\"".into()));
    }
}
