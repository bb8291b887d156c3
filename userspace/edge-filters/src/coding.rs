//! What changes with a body: its coding (RFC 9110 section 8.4), and the fields that speak of its bytes.
//!
//! Answers that have no body, or only a part of one, are left as they are: 1xx, 204, 304, 206 and whatever has a Content-Range. So is
//! what says `no-transform` (RFC 9111 section 5.2.2.6). The answer to HEAD has no body to change; it only does not announce a length
//! that the body would not have.

use crate::gzip::{self, GzipError};
use edge_pipeline::body::SPARED_MOST;
use edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
use edge_pipeline::{Body, BodyError, Exchange};
use proto_http::{Headers, Known, Method, Response};

/// Whether this is the answer to a HEAD, of the client or made by a filter.
pub(crate) fn answers_head(exchange: &Exchange) -> bool {
    exchange.request().method == Method::Head || exchange.method == Method::Head
}

/// Whether the answer has a whole body, or would have one were the request not HEAD.
pub(crate) fn has_whole_body(response: &Response) -> bool {
    !matches!(response.status, 100..200 | 204 | 206 | 304) && !response.headers.contains("Content-Range")
}

/// The body is another one now: nothing that described the old one may stay.
pub fn replaced(headers: &mut Headers) {
    bytes_changed(headers);
    headers.remove_known(Known::ContentEncoding);
    headers.remove("Content-Range");
    headers.remove("ETag");
}

/// The bytes are others, what they mean is the same: whatever compares byte by byte must see a difference (RFC 9110 section 8.8.1).
fn recoded(headers: &mut Headers) {
    bytes_changed(headers);
    if let Some(strong) = headers.value("ETag").filter(|tag| !tag.starts_with(b"W/")) {
        let weak = [b"W/", strong].concat();
        headers.set("ETag", weak);
    }
}

/// Lengths and digests of the bytes, and the offer of ranges of them.
fn bytes_changed(headers: &mut Headers) {
    headers.remove_known(Known::ContentLength);
    for name in ["Content-MD5", "Digest", "Content-Digest", "Repr-Digest", "Accept-Ranges"] {
        headers.remove(name);
    }
}

/// Packs the answer where the client takes it.
pub(crate) fn pack_response(exchange: &mut Exchange) {
    pack_response_if(exchange, |_, _| true);
}

/// As [`pack_response`], but nothing that is known to be shorter than `least` bytes, and nothing of a type that gains nothing. Says
/// whether the body is packed now.
pub(crate) fn pack_response_of(least: u64, exchange: &mut Exchange) -> bool {
    pack_response_if(exchange, |headers, length| {
        length.is_none_or(|length| length >= least) && !headers.known(Known::ContentType).is_some_and(gains_nothing)
    })
}

fn pack_response_if(exchange: &mut Exchange, is_worth_it: impl FnOnce(&Headers, Option<u64>) -> bool) -> bool {
    let head = answers_head(exchange);
    let accepted = accepts_gzip(&exchange.default_space_ref().request.headers);
    let space = exchange.space();
    let Some(response) = &mut space.response else { return false };
    let headers = &mut response.headers;
    let untouched = headers.known(Known::ContentEncoding).is_some_and(|v| !v.is_empty()) || says_no_transform(headers);
    let length = if head { announced(headers) } else { space.response_body.length() };
    if untouched || length == Some(0) || !is_worth_it(headers, length) || !has_whole_body(response) {
        return false;
    }
    let headers = &mut response.headers;
    // Also where this client gets it as it is: another would not (RFC 9110 section 12.5.5).
    vary_by_encoding(headers);
    if !accepted {
        return false;
    }
    recoded(headers);
    if !head {
        headers.set("Content-Encoding", "gzip");
        space.response_body = gzip::pack(std::mem::take(&mut space.response_body));
    }
    !head
}

/// The length of a body that does not come.
fn announced(headers: &Headers) -> Option<u64> {
    std::str::from_utf8(headers.known(Known::ContentLength)?).ok()?.parse().ok()
}

/// Whether what is of this type is packed in itself, or has a coding of its own for each message.
fn gains_nothing(content_type: &[u8]) -> bool {
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let starts =
        |with: &&str| essence.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    let is_one = |one: &&str| essence.eq_ignore_ascii_case(one.as_bytes());
    PACKED_FAMILIES.iter().any(starts) && !PLAIN_IMAGES.iter().any(is_one) || PACKED_TYPES.iter().any(is_one)
}

/// Families of media types, by how they begin, that are packed in themselves.
const PACKED_FAMILIES: [&str; 5] = ["image/", "video/", "audio/", "application/grpc", "font/woff"];
/// Images that are not.
const PLAIN_IMAGES: [&str; 4] = ["image/svg+xml", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon"];
const PACKED_TYPES: [&str; 14] = [
    "application/zip",
    "application/epub+zip",
    "application/gzip",
    "application/x-gzip",
    "application/x-bzip2",
    "application/x-xz",
    "application/zstd",
    "application/x-7z-compressed",
    "application/vnd.rar",
    "application/x-rar-compressed",
    "application/java-archive",
    "application/vnd.android.package-archive",
    "application/font-woff",
    "application/font-woff2",
];

/// Unpacks an answer that is packed with gzip and nothing else.
pub(crate) async fn unpack_response(exchange: &mut Exchange) -> Result<(), CodingError> {
    let head = answers_head(exchange);
    let space = exchange.space();
    let Some(response) = &mut space.response else { return Ok(()) };
    if !is_gzip(&response.headers) || says_no_transform(&response.headers) || !has_whole_body(response) {
        return Ok(());
    }
    if !head {
        unpack_body(&mut space.response_body).await?;
    }
    recoded(&mut response.headers);
    response.headers.remove_known(Known::ContentEncoding);
    Ok(())
}

/// Packs a request's body that has no coding yet. An empty one stays empty.
pub(crate) async fn pack_request(headers: &mut Headers, body: &mut Body) -> Result<(), BodyError> {
    if headers.known(Known::ContentEncoding).is_some_and(|v| !v.is_empty()) || body.length() == Some(0) {
        return Ok(());
    }
    // One that is short keeps a length to announce.
    if body.is_stream() && body.length().is_some_and(|length| length <= SPARED_MOST as u64) {
        body.collect(SPARED_MOST as u64).await?;
    }
    *body = gzip::pack(std::mem::take(body));
    recoded(headers);
    headers.set("Content-Encoding", "gzip");
    Ok(())
}

/// Unpacks a request's body that is packed with gzip and nothing else.
pub(crate) async fn unpack_request(headers: &mut Headers, body: &mut Body) -> Result<(), CodingError> {
    if !is_gzip(headers) {
        return Ok(());
    }
    unpack_body(body).await?;
    recoded(headers);
    headers.remove_known(Known::ContentEncoding);
    Ok(())
}

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodingError {
    Body(BodyError),
    Gzip(GzipError),
}

impl std::fmt::Display for CodingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CodingError::Body(error) => error.fmt(f),
            CodingError::Gzip(error) => error.fmt(f),
        }
    }
}

async fn unpack_body(body: &mut Body) -> Result<(), CodingError> {
    let packed = body.collect(DEFAULT_BODY_LIMIT).await.map_err(CodingError::Body)?.clone();
    if packed.is_empty() {
        return Ok(());
    }
    *body = gzip::unpack(packed, gzip::UNPACKED_MAX).await.map_err(CodingError::Gzip)?;
    Ok(())
}

fn is_gzip(headers: &Headers) -> bool {
    let mut encodings = headers.known_all(Known::ContentEncoding);
    let gzip = |coding: &[u8]| coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip");
    encodings.next().is_some_and(gzip) && encodings.next().is_none()
}

fn says_no_transform(headers: &Headers) -> bool {
    headers.values("Cache-Control").flat_map(elements).any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
}

fn vary_by_encoding(headers: &mut Headers) {
    let says_it = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(b"Accept-Encoding");
    if !headers.values("Vary").flat_map(elements).any(says_it) {
        headers.add("Vary", "Accept-Encoding");
    }
}

/// Whether gzip is wanted, and not less than no coding at all (RFC 9110 section 12.5.3). Who says nothing gets nothing: such clients
/// may take any coding, and many can read none.
fn accepts_gzip(headers: &Headers) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for element in headers.known_all(Known::AcceptEncoding).flat_map(elements) {
        let mut parts = element.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(1000, weight);
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip = Some(weight);
        } else if coding.eq_ignore_ascii_case(b"identity") {
            identity = Some(weight);
        } else if is_any(coding) {
            any = Some(weight);
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.or(any).unwrap_or(0)
}

/// Any coding; some say it as they say it of media types, and Easegress takes that.
fn is_any(coding: &[u8]) -> bool {
    matches!(coding, b"*" | b"*/*")
}

/// How much a client wants a coding, in thousandths; 0: not at all.
pub(crate) fn weight_of(headers: &Headers, coding: &str) -> u16 {
    let (mut own, mut any) = (None, None);
    for element in headers.known_all(Known::AcceptEncoding).flat_map(elements) {
        let mut parts = element.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(1000, weight);
        if is_any(named) {
            any = Some(weight);
        } else if named.strip_prefix(b"x-").unwrap_or(named).eq_ignore_ascii_case(coding.as_bytes()) {
            own = Some(weight);
        }
    }
    own.or(any).unwrap_or(0)
}

/// `q=0.123` in thousandths; what is no weight counts as none, which refuses.
fn weight(parameter: &[u8]) -> u16 {
    let value = match parameter {
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return 0,
    };
    match value {
        [b'0'] | [b'0', b'.'] => 0,
        [b'0', b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            [100, 10, 1].iter().zip(digits).map(|(place, digit)| place * u16::from(digit - b'0')).sum()
        }
        [b'1'] | [b'1', b'.'] => 1000,
        [b'1', b'.', zeros @ ..] if zeros.len() <= 3 && zeros.iter().all(|b| *b == b'0') => 1000,
        _ => 0,
    }
}

/// The elements of a list-valued field's line.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn what_clients_accept() {
        for (lines, accepted) in [
            (&["gzip"][..], true),
            (&["GZip, deflate, br"], true),
            (&["br", "x-gzip;q=0.001"], true),
            (&["*"], true),
            (&["*;q=0.5"], true),
            (&["*/*"], true),
            (&["*/*;q=0"], false),
            (&["identity;q=0, *;q=0.1"], true),
            (&["gzip; q=1.000, identity;q=1"], true),
            (&["identity;q=0.5, gzip;q=0.8"], true),
            (&["identity;q=0"], false),
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["deflate, br"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000", "*"], false),
            (&["gzip", "gzip;q=0"], false),
            (&["*;q=0"], false),
            (&["gzip;q=0.5, identity;q=0.8"], false),
            (&["gzip;q=0.2, *;q=0.8"], false),
            (&["gzip;q=2"], false),
            (&["gzip;q=0.1234"], false),
            (&["gzip;q=-1", "gzipped"], false),
        ] {
            let mut headers = Headers::new();
            lines.iter().for_each(|line| headers.add("Accept-Encoding", line));
            assert_eq!(accepts_gzip(&headers), accepted, "{lines:?}");
        }
    }

    #[test]
    fn weights_of_codings() {
        for (line, br, gzip) in [
            ("br, gzip;q=0.5", 1000, 500),
            ("GZIP", 0, 1000),
            ("x-gzip;q=0.25, *;q=0", 0, 250),
            ("*;q=0.1, br;q=0", 0, 100),
            ("", 0, 0),
            ("gzip;q=2", 0, 0),
        ] {
            let mut headers = Headers::new();
            headers.add("Accept-Encoding", line);
            assert_eq!((weight_of(&headers, "br"), weight_of(&headers, "gzip")), (br, gzip), "{line}");
        }
    }

    #[test]
    fn what_is_packed_and_what_changes_with_it() {
        const GZIP: &[(&str, &str)] = &[("Accept-Encoding", "gzip")];
        type Fields = &'static [(&'static str, &'static str)];
        let cases: &[(&str, Fields, u16, Fields, bool, bool)] = &[
            // Method, request, status, response, packed, Vary.
            ("GET", GZIP, 200, &[], true, true),
            ("POST", GZIP, 404, &[("Vary", "Origin")], true, true),
            ("GET", &[], 200, &[], false, true),
            ("GET", &[("Accept-Encoding", "gzip;q=0")], 200, &[], false, true),
            ("HEAD", GZIP, 200, &[], false, true),
            ("GET", GZIP, 206, &[], false, false),
            ("GET", GZIP, 200, &[("Content-Range", "bytes 0-3/9")], false, false),
            ("GET", GZIP, 204, &[], false, false),
            ("GET", GZIP, 304, &[], false, false),
            ("GET", GZIP, 200, &[("Cache-Control", "public, No-Transform")], false, false),
            ("GET", GZIP, 200, &[("Content-Encoding", "br")], false, false),
        ];
        for (method, asked, status, said, packed, vary) in cases {
            let mut exchange = request(method, "/", asked);
            let mut fields = vec![
                ("ETag", "\"a\""),
                ("Content-Length", "4"),
                ("Content-MD5", "x"),
                ("Content-Digest", "x"),
                ("Accept-Ranges", "bytes"),
            ];
            fields.extend_from_slice(said);
            answer(&mut exchange, *status, &fields, if *method == "HEAD" { b"" } else { b"body" });
            pack_response(&mut exchange);
            let what = format!("{method} {asked:?} {status} {said:?}");
            let field = |name| response_header(&exchange, name);
            assert_eq!(field("Content-Encoding") == Some("gzip"), *packed, "{what}");
            let names: Vec<&str> = exchange
                .space_ref()
                .response
                .as_ref()
                .unwrap()
                .headers
                .values("Vary")
                .filter_map(|v| std::str::from_utf8(v).ok())
                .collect();
            assert_eq!(names.contains(&"Accept-Encoding"), *vary, "{what}");
            let changed = *packed || (*method == "HEAD" && !asked.is_empty());
            assert_eq!(field("ETag"), Some(if changed { "W/\"a\"" } else { "\"a\"" }), "{what}");
            for name in ["Content-Length", "Content-MD5", "Content-Digest", "Accept-Ranges"] {
                assert_eq!(field(name).is_none(), changed, "{what}: {name}");
            }
            if !packed && *method != "HEAD" {
                assert_eq!(body_of(&exchange), b"body", "{what}");
            }
        }
        // Said once is enough.
        for vary in ["accept-encoding", "Origin, Accept-Encoding", "*"] {
            let mut exchange = request("GET", "/", GZIP);
            answer(&mut exchange, 200, &[("Vary", vary), ("ETag", "W/\"a\"")], b"body");
            pack_response(&mut exchange);
            assert_eq!(exchange.space_ref().response.as_ref().unwrap().headers.values("Vary").count(), 1, "{vary}");
            assert_eq!(response_header(&exchange, "ETag"), Some("W/\"a\""));
        }
    }

    #[test]
    fn what_is_unpacked_and_what_is_left() {
        let packed = packed(&[b'p'; 100]);
        for (method, status, said, unpacked) in [
            ("GET", 200, ("Content-Encoding", "gzip"), true),
            ("GET", 200, ("Content-Encoding", "X-GZIP"), true),
            ("GET", 206, ("Content-Encoding", "gzip"), false),
            ("GET", 200, ("Content-Encoding", "br"), false),
        ] {
            let mut exchange = request(method, "/", &[]);
            answer(&mut exchange, status, &[said, ("ETag", "\"a\""), ("Digest", "d")], &packed);
            assert_eq!(ready(unpack_response(&mut exchange)), Ok(()));
            assert_eq!(body_of(&exchange) == [b'p'; 100], unpacked, "{status} {said:?}");
            let weak = response_header(&exchange, "ETag") == Some("W/\"a\"");
            let there = (
                response_header(&exchange, "Content-Encoding").is_some(),
                response_header(&exchange, "Digest").is_some(),
            );
            assert_eq!((weak, there), (unpacked, (!unpacked, !unpacked)), "{status} {said:?}");
        }
        let mut exchange = request("HEAD", "/", &[]);
        answer(&mut exchange, 200, &[("Content-Encoding", "gzip"), ("Content-Length", "30")], b"");
        assert_eq!(ready(unpack_response(&mut exchange)), Ok(()));
        assert_eq!(
            (response_header(&exchange, "Content-Length"), response_header(&exchange, "Content-Encoding")),
            (None, None)
        );
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_it_is_long() {
        let bomb = packed(&vec![0; gzip::UNPACKED_MAX as usize]);
        assert!(bomb.len() < 20_000);
        let mut body = ready(gzip::unpack(bomb.into(), gzip::UNPACKED_MAX)).unwrap();
        assert_eq!((body.in_memory(), body.length()), (None, Some(gzip::UNPACKED_MAX)), "it is not held unpacked");
        for mut body in [body.again().unwrap(), std::mem::take(&mut body)] {
            let (mut bytes, mut turns) = (0, 0);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            loop {
                match body.poll_piece(&mut context, edge_pipeline::Sight::Unseen) {
                    std::task::Poll::Ready(Ok(Some(piece))) => {
                        assert!(piece.len() <= edge_pipeline::Piece::MOST);
                        bytes += piece.len() as u64;
                    }
                    std::task::Poll::Ready(end) => break assert!(matches!(end, Ok(None))),
                    std::task::Poll::Pending => turns += 1,
                }
            }
            assert_eq!(bytes, gzip::UNPACKED_MAX);
            assert!(turns > 50, "others get their turn: {turns}");
        }
        let bomb = packed(&vec![0; gzip::UNPACKED_MAX as usize + 1]);
        assert_eq!(ready(gzip::unpack(bomb.into(), gzip::UNPACKED_MAX)).map(drop), Err(GzipError::TooLarge));
        let cut = packed(&[b'p'; 100]);
        assert_eq!(ready(gzip::unpack(cut[..cut.len() - 4].to_vec().into(), 1000)).map(drop), Err(GzipError::Corrupt));
    }

    #[test]
    fn long_bodies_are_packed_as_they_come() {
        let mut body = gzip::pack(Body::Stream(Box::new(Pauses(vec![Some(b"one"), None, Some(b"two"), None]))));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let (mut all, mut pieces) = (Vec::new(), 0);
        loop {
            match body.poll_piece(&mut context, edge_pipeline::Sight::Seen) {
                std::task::Poll::Ready(Ok(Some(piece))) => {
                    all.extend_from_slice(piece.seen());
                    pieces += 1;
                }
                std::task::Poll::Ready(end) => break assert!(matches!(end, Ok(None))),
                std::task::Poll::Pending => {}
            }
        }
        assert!(pieces >= 3, "what came before a pause goes out before it is over: {pieces}");
        let plain = ready(async {
            let mut body = gzip::unpack(all.into(), 100).await.unwrap();
            body.collect(100).await.unwrap().clone()
        });
        assert_eq!(&plain[..], b"onetwo");
    }

    /// Pieces, and pauses between them.
    struct Pauses(Vec<Option<&'static [u8]>>);

    impl edge_pipeline::BodyStream for Pauses {
        fn poll_piece(
            &mut self,
            _: &mut std::task::Context<'_>,
            _: edge_pipeline::Sight,
        ) -> std::task::Poll<Result<Option<edge_pipeline::Piece>, BodyError>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(Ok(None));
            }
            match self.0.remove(0) {
                None => std::task::Poll::Pending,
                Some(bytes) => {
                    std::task::Poll::Ready(Ok(Some(edge_pipeline::Piece::Bytes(bytes::Bytes::from_static(bytes)))))
                }
            }
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }
}
