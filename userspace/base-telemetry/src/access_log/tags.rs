//! The texts behind `{{Tags}}`, `{{ReqHeaders}}` and `{{RespHeaders}}`. What others have a say in, names, notes and values, is escaped
//! as it is written; what stands between is ours.

use std::time::Duration;

use base_text::escape::write_foreign;
use base_text::redact;
use base_text::time::write_duration;

/// What a pipeline did: `pipeline(name): adapt(1.2µs)->proxy(serverError,3ms) | note | note`. A step is a filter's name, its result
/// (empty when it is the ordinary one) and its time.
pub fn write<'a>(
    out: &mut Vec<u8>,
    pipeline: &str,
    steps: impl IntoIterator<Item = (&'a str, &'a str, Duration)>,
    notes: impl IntoIterator<Item = &'a str>,
) {
    out.extend_from_slice(b"pipeline(");
    write_foreign(pipeline.as_bytes(), out);
    out.extend_from_slice(b"): ");
    for (index, (name, result, duration)) in steps.into_iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b"->");
        }
        write_foreign(name.as_bytes(), out);
        out.push(b'(');
        if !result.is_empty() {
            write_foreign(result.as_bytes(), out);
            out.push(b',');
        }
        write_duration(duration, out);
        out.push(b')');
    }
    for note in notes {
        write_note(out, note);
    }
}

/// Adds a note to tags written before.
pub fn write_note(out: &mut Vec<u8>, note: &str) {
    out.extend_from_slice(b" | ");
    write_foreign(note.as_bytes(), out);
}

/// Headers as Easegress prints them: `Host: [a], X-A: [1 2]`. Values of a name are joined when they follow each other. `hide`:
/// without the credentials in them.
pub fn write_headers<'a>(out: &mut Vec<u8>, headers: impl IntoIterator<Item = (&'a str, &'a [u8])>, hide: bool) {
    let mut previous: Option<&str> = None;
    for (name, value) in headers {
        if previous.is_some_and(|previous| previous.eq_ignore_ascii_case(name)) {
            out.push(b' ');
        } else {
            if previous.is_some() {
                out.extend_from_slice(b"], ");
            }
            write_foreign(name.as_bytes(), out);
            out.extend_from_slice(b": [");
            previous = Some(name);
        }
        if hide {
            redact::write_field(name, value, out);
        } else {
            write_foreign(value, out);
        }
    }
    if previous.is_some() {
        out.push(b']');
    }
}
