//! The engine against a reader that looks at one byte after another and does nothing cleverly: for heads of any bytes both
//! find the same lines, or the same kind of fault in the same place.

use proptest::prelude::*;
use proto_http::h1::{Fault, parse_request, parse_response};
use proto_http::{Headers, Limits, Method, Request, Response, Underscores};
use proto_torture::Case;
use std::sync::LazyLock;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(proto_torture::cases);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn field_lines_of_any_bytes_are_read_alike(lines in prop::collection::vec(line(), 0..7), end in any::<bool>()) {
        let mut text = lines.concat();
        if end {
            text.extend(b"\r\n");
        }
        compare_fields(&text);
    }

    #[test]
    fn one_byte_changed_anywhere_is_read_alike(
        case in 0..CASES.len(), at in any::<prop::sample::Index>(), byte in odd_byte(), how in 0..3,
    ) {
        let mut text = CASES[case].bytes.clone();
        prop_assume!(!text.is_empty() && text.len() < 2000);
        let at = at.index(text.len());
        match how {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            _ => drop(text.remove(at)),
        }
        compare_fields(&text);
        if let Some(start) = text.windows(2).position(|w| w == b"\r\n") {
            compare_fields(&text[start + 2..]);
        }
    }
}

#[test]
fn names_and_values_of_every_length_are_read_alike() {
    for name in 0..40 {
        for value in 0..40 {
            let line = [&b"n".repeat(name)[..], b": ", &b"v".repeat(value), b"\r\n\r\n"].concat();
            compare_fields(&line);
            compare_fields(&[&line[..line.len() - 2], b"Another: line that is a bit longer\r\n\r\n"].concat());
        }
    }
}

/// Reads `text` as what follows a start line, with both readers.
fn compare_fields(text: &[u8]) {
    let expected = reference(text, true);
    let shown = || String::from_utf8_lossy(text).into_owned();
    // Sizes are not what this is about.
    let limits = Limits { fields: 1000, underscores: Underscores::Allow, ..Limits::default() };

    let start = b"HTTP/1.1 200 OK\r\n";
    let mut response = Response::default();
    let found = parse_response(&[start, text].concat(), &limits, &Method::Get, &mut response).map_err(|e| e.kind);
    match (found, &expected) {
        // What lines mean is not for the reference to judge.
        (Err(fault), _) if is_about_meaning(fault) => {}
        (Ok(None), Ok(None)) => {}
        (Ok(Some(head)), Ok(Some((lines, len)))) => {
            assert_eq!(head.consumed - start.len(), *len, "{}", shown());
            assert!(is_what_is_left_of(&response.headers, lines), "{:?}, not {lines:?}", response.headers);
        }
        (Err(found), Err(expected)) if found == *expected => {}
        (found, _) => panic!("{found:?} instead of {expected:?}: {:?}", shown()),
    }

    let expected = reference(text, false);
    let start = b"GET / HTTP/1.1\r\n";
    let mut request = Request::default();
    match (parse_request(&[start, text].concat(), &limits, &mut request).map_err(|e| e.kind), &expected) {
        (Err(fault), _) if is_about_meaning(fault) => {}
        (Ok(None), Ok(None)) => {}
        (Ok(Some(head)), Ok(Some((lines, len)))) => {
            assert_eq!(head.consumed - start.len(), *len, "{}", shown());
            assert!(is_what_is_left_of(&request.headers, lines), "{:?}, not {lines:?}", request.headers);
        }
        (Err(found), Err(expected)) if found == *expected => {}
        (found, _) => panic!("{found:?} instead of {expected:?}: {:?}", shown()),
    }
}

fn is_about_meaning(fault: Fault) -> bool {
    use Fault::*;
    let about_fields = matches!(fault, NoHost | SeveralHosts | Host | NameLookalike | Expectation | Connection);
    let about_bodies = matches!(
        fault,
        LengthAndChunked | Length | SeveralLengths | TransferCoding | SeveralTransferCodings | InterimFraming
    );
    about_fields || about_bodies
}

/// Whether the fields are the lines, in order, less those that `Connection` may have struck out.
fn is_what_is_left_of(headers: &Headers, lines: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let lists = lines.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
    let mut fields = headers.iter().peekable();
    for (name, value) in lines {
        match fields.peek() {
            Some((n, v, _)) if n == name && v == value => drop(fields.next()),
            _ if lists => {}
            _ => return false,
        }
    }
    fields.next().is_none()
}

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// The lines up to the empty one and where it ends; `None` while there is none. `mend`: blanks before a colon are left out.
fn reference(text: &[u8], mend: bool) -> Result<Option<(Lines, usize)>, Fault> {
    let mut lines = Lines::new();
    let mut at = 0;
    loop {
        let mut name = Vec::new();
        loop {
            match text.get(at) {
                None => return Ok(None),
                Some(b':') if name.is_empty() => return Err(Fault::NameEmpty),
                Some(b':') => break,
                Some(b) if b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b) => name.push(*b),
                Some(b'\n') => return Err(Fault::BareLf),
                Some(b' ' | b'\t') if name.is_empty() => return Err(Fault::Fold),
                Some(b' ' | b'\t') if mend => match text[at..].iter().position(|b| !matches!(b, b' ' | b'\t')) {
                    None => return Ok(None),
                    Some(blanks) if text[at + blanks] == b':' => {
                        at += blanks;
                        break;
                    }
                    Some(_) => return Err(Fault::NameSpace),
                },
                Some(b' ' | b'\t') => return Err(Fault::NameSpace),
                Some(b'\r') if name.is_empty() => match text.get(at + 1) {
                    None => return Ok(None),
                    Some(b'\n') => return Ok(Some((lines, at + 2))),
                    Some(_) => return Err(Fault::BareCr),
                },
                Some(_) => return Err(Fault::NameCharacter),
            }
            at += 1;
        }
        at += 1;
        let mut value = Vec::new();
        loop {
            match text.get(at) {
                None => return Ok(None),
                Some(b'\r') => match text.get(at + 1) {
                    None => return Ok(None),
                    Some(b'\n') => break,
                    Some(_) => return Err(Fault::BareCr),
                },
                Some(b'\n') => return Err(Fault::BareLf),
                Some(b) if *b < 0x20 && *b != b'\t' || *b == 0x7f => return Err(Fault::ValueCharacter),
                Some(b) => value.push(*b),
            }
            at += 1;
        }
        at += 2;
        let blank = |b: &u8| matches!(b, b' ' | b'\t');
        let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
        let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
        lines.push((name, value[start..end].to_vec()));
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        6 => "[A-Za-z-]{1,20}",
        2 => "[A-Za-z0-9._-]{1,20}",
        2 => prop::sample::select(vec!["Host", "host", "Accept", "X-Forwarded-Proto", "Upgrade-Insecure-Requests", "Cookie"])
            .prop_map(str::to_string),
        1 => "[ -~]{0,6}",
    ];
    let between = prop::sample::select(vec![": ", ": ", ": ", ": ", ":", ":  ", ":\t", " : ", "", " ", ": \t "]);
    let value = prop_oneof![
        6 => "[ -~]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(odd_byte(), 0..6),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let end =
        prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", " \r\n", "\t\r\n", "\n", "\r", "\r\r\n", ""]);
    (name, between, value, end)
        .prop_map(|(name, between, value, end)| [name.as_bytes(), between.as_bytes(), &value, end.as_bytes()].concat())
}

fn odd_byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(b"\r\n\t \x00\x1f\x7f\x80\xff:;,_-aA0\"\\/".to_vec()), any::<u8>()]
}
