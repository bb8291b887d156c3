//! What a finished request leaves behind: its line in the access log.

use crate::clock;
use base_telemetry::access_log::{Entry, Tags, tags};
use base_text::digits::write_number;
use base_text::escape::write_foreign;
use base_text::redact;
use base_text::time::write_duration;
use edge_pipeline::{Exchange, Note, Try};
use std::time::{Duration, Instant};

/// Tells what is to be logged of an exchange; `hide`: without credentials.
pub fn tell(
    hide: bool,
    exchange: &Exchange,
    status: u16,
    (ended, duration): (Instant, Duration),
    (request_bytes, response_bytes): (u64, u64),
    log: impl FnOnce(&Entry<'_>),
) {
    let space = exchange.default_space_ref();
    let request = &space.request;
    let passed = |out: &mut Vec<u8>| {
        if let Some(pipeline) = exchange.tags.pipeline() {
            let steps = exchange.tags.steps().iter().map(|(name, outcome, took)| (&**name, *outcome, *took));
            tags::write(out, pipeline, steps, []);
            exchange.tags.tries().iter().filter(|asked| !asked.is_open()).for_each(|asked| write_try(asked, out));
        }
        write_notes(hide, exchange, out);
    };
    let headers = |headers: &proto_http::Headers, out: &mut Vec<u8>| {
        tags::write_headers(out, headers.iter().map(|(n, v, _)| (std::str::from_utf8(n).unwrap_or("?"), v)), hide);
    };
    let request_headers = |out: &mut Vec<u8>| headers(&request.headers, out);
    let response_headers = |out: &mut Vec<u8>| {
        if let Some(response) = &space.response {
            headers(&response.headers, out);
        }
    };
    log(&Entry {
        time: clock::since_1970(ended),
        remote_addr: Some(exchange.client.peer),
        real_ip: exchange.client.real_ip,
        method: exchange.method.as_str().as_bytes(),
        uri: &exchange.uri,
        proto: request.version.as_str(),
        status,
        refused: exchange.refused,
        request_id: &exchange.id,
        duration,
        request_bytes,
        response_bytes,
        tags: Tags::Write(&passed),
        request_headers: Tags::Write(&request_headers),
        response_headers: Tags::Write(&response_headers),
    });
}

/// What a server took and said, as Easegress tags it: ` | proxy#proxy#main#duration: 3ms | status code: 200`.
fn write_try(asked: &Try, out: &mut Vec<u8>) {
    tags::write_note(out, &asked.pool);
    out.extend_from_slice(b"#duration: ");
    write_duration(asked.took, out);
    if asked.status > 0 {
        out.extend_from_slice(b" | status code: ");
        write_number(asked.status.into(), out);
    }
}

/// The notes of an exchange as they may be logged: errors in them may quote what the client sent.
fn write_notes(hide: bool, exchange: &Exchange, out: &mut Vec<u8>) {
    let mut known = None;
    for note in &exchange.tags.notes {
        match note {
            Note::Quoting(text) if hide => {
                let known = known.get_or_insert_with(|| exchange.credentials());
                let mut hidden = Vec::with_capacity(text.len());
                redact::write_text(text.as_bytes(), known, write_foreign, &mut hidden);
                tags::write_note(out, &String::from_utf8_lossy(&hidden));
            }
            _ => tags::write_note(out, note),
        }
    }
}
