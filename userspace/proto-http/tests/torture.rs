//! The torture list against the engine, in one piece, byte by byte, and through the encoder to a second engine.

use proto_http::h1::{
    BodyDecoder, Fault, Framing, LAST_CHUNK, RequestOptions, chunk_prefix, parse_request, write_request_head,
};
use proto_http::{Limits, Request};
use proto_torture::{Case, Verdict, cases};

#[test]
fn every_verdict_holds_in_one_piece() {
    for case in cases() {
        check(&case, case.bytes.len());
    }
}

#[test]
fn every_verdict_holds_however_the_bytes_arrive() {
    for case in cases() {
        // Long cases are about sizes; for them a few bytes at a time would only be slow.
        let steps: &[usize] = if case.bytes.len() > 4000 { &[1000, 1461] } else { &[1, 2, 3, 7] };
        for &step in steps {
            check(&case, step);
        }
    }
}

#[test]
fn what_is_forwarded_is_read_the_same_by_the_next_engine() {
    for case in cases() {
        for first in converse(&case.bytes, case.bytes.len()).messages {
            let host = first.request.authority.clone();
            let mut wire = Vec::new();
            let framing = first.framing;
            let options = RequestOptions { framing, host: &host, upgrade: false, expect_continue: false };
            write_request_head(&mut wire, &first.request, &options);
            match framing {
                Framing::Chunked if !first.body.is_empty() => {
                    wire.extend_from_slice(chunk_prefix(first.body.len()).as_ref());
                    wire.extend_from_slice(&first.body);
                    wire.extend_from_slice(b"\r\n");
                    wire.extend_from_slice(LAST_CHUNK);
                }
                Framing::Chunked => wire.extend_from_slice(LAST_CHUNK),
                _ => wire.extend_from_slice(&first.body),
            }
            if first.request.authority.is_empty() {
                continue; // HTTP/1.0 without Host: the caller names the backend.
            }
            let again = converse(&wire, wire.len());
            assert_eq!(again.refused, None, "{case}: {}", String::from_utf8_lossy(&wire));
            let [second] = &again.messages[..] else { panic!("{case}: not one message any more") };
            assert_eq!(second.request.method, first.request.method, "{case}");
            assert_eq!(second.request.path, first.request.path, "{case}");
            assert_eq!(second.request.query, first.request.query, "{case}");
            assert_eq!(second.request.authority, first.request.authority, "{case}");
            assert_eq!(second.framing, first.framing, "{case}");
            assert_eq!(second.body, first.body, "{case}");
        }
    }
}

#[test]
fn the_list_is_long_enough_and_every_request_fault_is_in_it() {
    let cases = cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    for fault in Fault::ALL {
        let never_in_requests = [
            Fault::StatusLine,
            Fault::InterimFraming,
            Fault::SwitchUnasked,
            Fault::TooManyInterim,
            Fault::Truncated,
            // Only where a server asks for it.
            Fault::NameUnderscore,
            // Only in later versions.
            Fault::PseudoField,
            Fault::ConnectionField,
            Fault::AuthorityDiffers,
            Fault::Protocol,
        ];
        let named = |v: &Verdict| matches!(v, Verdict::Refused { fault: f, .. } if *f == fault.name());
        let found = cases.iter().any(|c| c.verdicts.iter().any(named));
        assert_eq!(found, !never_in_requests.contains(fault), "{}", fault.name());
    }
    for case in cases.iter().flat_map(|c| &c.verdicts) {
        if let Verdict::Refused { status, fault } = case {
            let fault = Fault::ALL.iter().find(|f| f.name() == *fault).unwrap_or_else(|| panic!("{fault}"));
            assert_eq!(fault.status(), *status);
        }
    }
}

/// A general parser must take every head that we take, and find the same fields in it.
#[test]
fn httparse_reads_the_heads_we_accept_alike() {
    for case in cases() {
        if !matches!(case.verdicts[0], Verdict::Accepted { .. }) {
            continue;
        }
        let mut request = Request::default();
        let head = parse_request(&case.bytes, &Limits::default(), &mut request).unwrap().unwrap();
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let mut other = httparse::Request::new(&mut fields);
        match other.parse(&case.bytes) {
            Ok(httparse::Status::Complete(consumed)) => {
                assert_eq!(consumed, head.consumed, "{case}");
                assert_eq!(other.method, Some(request.method.as_str()), "{case}");
                // Fields that Connection lists are gone from ours, and Host follows an absolute target.
                for (name, value, known) in request.headers.iter().filter(|f| f.2 != proto_http::Known::Host) {
                    let found = other.headers.iter().any(|h| h.name.as_bytes() == name && h.value == value);
                    assert!(found, "{case}: {known:?}");
                }
            }
            // It knows 1.0 and 1.1 only, and no raw bytes in targets.
            other => assert!(
                case.name.contains("xff") || case.name.contains("1.2") || case.name.contains("1.9"),
                "{case}: {other:?}"
            ),
        }
    }
}

fn check(case: &Case, step: usize) {
    let conversation = converse(&case.bytes, step);
    let mut messages = conversation.messages.iter();
    for (place, verdict) in case.verdicts.iter().enumerate() {
        match verdict {
            Verdict::Accepted { target, host, body } => {
                let Some(message) = messages.next() else {
                    panic!("{case} [{step} at a time]: request {place} not accepted but {:?}", conversation.refused);
                };
                if let Some(target) = target {
                    assert_eq!(&message.request.target(), target, "{case} [{step}]");
                }
                if let Some(host) = host {
                    assert_eq!(&message.request.authority, host, "{case} [{step}]");
                    assert_eq!(message.request.headers.text("host"), Some(host.as_str()), "{case} [{step}]");
                }
                if let Some(body) = body {
                    assert_eq!(&message.body, body, "{case} [{step}]");
                }
            }
            Verdict::Refused { status, fault } => {
                let refused = conversation.refused.map(|(s, f)| (s, f.name()));
                assert_eq!(refused, Some((*status, *fault)), "{case} [{step} at a time]");
            }
            Verdict::Incomplete => {
                assert_eq!(conversation.refused, None, "{case} [{step}]");
                assert!(conversation.incomplete, "{case} [{step}]: complete");
            }
        }
    }
    assert!(messages.next().is_none(), "{case} [{step} at a time]: more requests than verdicts");
    if !matches!(case.verdicts.last(), Some(Verdict::Refused { .. })) {
        assert_eq!(conversation.refused, None, "{case} [{step} at a time]");
    }
}

#[derive(Default)]
struct Conversation {
    messages: Vec<Message>,
    refused: Option<(u16, Fault)>,
    incomplete: bool,
}

struct Message {
    request: Request,
    framing: Framing,
    body: Vec<u8>,
}

/// What a listener would do with these bytes, arriving `step` at a time.
fn converse(bytes: &[u8], step: usize) -> Conversation {
    let limits = Limits::default();
    let mut conversation = Conversation::default();
    let mut buffer: Vec<u8> = Vec::new();
    let mut reading: Option<(Message, BodyDecoder)> = None;
    let mut arriving = bytes.chunks(step.max(1));
    loop {
        match &mut reading {
            None => {
                let mut request = Request::default();
                match parse_request(&buffer, &limits, &mut request) {
                    Err(error) => {
                        conversation.refused = Some((error.status, error.kind));
                        return conversation;
                    }
                    Ok(Some(head)) => {
                        buffer.drain(..head.consumed);
                        let decoder = BodyDecoder::new(head.framing, &limits);
                        reading = Some((Message { request, framing: head.framing, body: Vec::new() }, decoder));
                        continue;
                    }
                    Ok(None) => {}
                }
            }
            Some((message, decoder)) => match decoder.decode(&buffer) {
                Err(error) => {
                    conversation.refused = Some((error.status, error.kind));
                    return conversation;
                }
                Ok(decoded) => {
                    message.body.extend_from_slice(&buffer[decoded.data]);
                    buffer.drain(..decoded.consumed);
                    if decoded.done {
                        conversation.messages.extend(reading.take().map(|(message, _)| message));
                        continue;
                    }
                    if decoded.consumed > 0 && !buffer.is_empty() {
                        continue;
                    }
                    assert!(buffer.is_empty(), "the decoder left input that it cannot use");
                }
            },
        }
        match arriving.next() {
            Some(more) => buffer.extend_from_slice(more),
            None => {
                conversation.incomplete = reading.is_some() || !buffer.is_empty() || bytes.is_empty();
                return conversation;
            }
        }
    }
}
