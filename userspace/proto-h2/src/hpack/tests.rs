use super::*;
use proptest::prelude::*;
use proto_http::{Headers, Method, Request, Response};

type List = Vec<(String, String)>;

fn list(section: &Section) -> List {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    section.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<List, Unread> {
    let mut section = Section::default();
    decoder.decode(block, 1 << 20, &mut section).map(|kept| {
        assert_eq!(kept, Kept::All);
        list(&section)
    })
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

type Said<'a> = &'a [(&'a str, &'a str)];

/// Blocks of one connection, each with what it says and how many bytes the table has then.
fn check(table: usize, blocks: &[(&str, Said<'_>, usize)]) {
    let mut decoder = Decoder::new(table);
    for (block, said, size) in blocks {
        let said: List = said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(read(&mut decoder, &bytes(block)).as_ref(), Ok(&said), "{block}");
        assert_eq!(decoder.table.size(), *size, "{block}");
    }
}

const CUSTOM: &[(&str, &str)] = &[("custom-key", "custom-header")];
const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];
const ANSWER: &[(&str, &str)] = &[
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const ANSWER_307: &[(&str, &str)] = &[
    (":status", "307"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const ANSWER_GZIP: &[(&str, &str)] = &[
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
];

#[test]
fn appendix_c_2_of_rfc_7541() {
    check(4096, &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", CUSTOM, 55)]);
    check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0)]);
    check(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0)]);
    check(4096, &[("82", &[(":method", "GET")], 0)]);
}

#[test]
fn appendix_c_3_and_c_4_of_rfc_7541() {
    check(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD, 164),
        ],
    );
    check(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD, 164),
        ],
    );
}

#[test]
fn appendix_c_5_and_c_6_of_rfc_7541() {
    check(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
                 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                ANSWER,
                222,
            ),
            ("4803 3330 37c1 c0bf", ANSWER_307, 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
                 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
                 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                ANSWER_GZIP,
                215,
            ),
        ],
    );
    check(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
                 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                ANSWER,
                222,
            ),
            ("4883 640e ffc1 c0bf", ANSWER_307, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
                 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                ANSWER_GZIP,
                215,
            ),
        ],
    );
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        "80",
        "be",
        "7f",
        "40",
        "4001",
        "0001 61",
        "0001 6105",
        "0081 ff00",
        "3fe2 1f",
        "8220",
        "ff80 8080 8080 8080 8080 80",
    ] {
        assert_eq!(read(&mut Decoder::new(4096), &bytes(block)), Err(Unread::Broken), "{block}");
    }
}

#[test]
fn the_size_of_the_table_changes_before_all_fields() {
    let mut decoder = Decoder::new(4096);
    read(&mut decoder, &bytes("4001 6101 62")).unwrap();
    assert_eq!(read(&mut decoder, &bytes("be")).unwrap(), [("a".to_owned(), "b".to_owned())]);
    // To nothing, and back again.
    assert_eq!(read(&mut decoder, &bytes("20 3fe1 1f 82")).unwrap().len(), 1);
    assert_eq!(read(&mut decoder, &bytes("be")), Err(Unread::Broken));
}

/// What is beyond the bound is not kept, but it is in the table.
#[test]
fn lists_are_bounded_by_what_they_stand_for() {
    let (mut decoder, mut section) = (Decoder::new(4096), Section::default());
    let one = FIELD_OVERHEAD + 2;
    let block = bytes("4001 6101 62 4001 6301 64 4001 6501 66");
    assert_eq!(decoder.decode(&block, 2 * one, &mut section), Ok(Kept::Part));
    assert_eq!(section.len(), 2);
    assert_eq!(read(&mut decoder, &bytes("be")).unwrap(), [("e".to_owned(), "f".to_owned())]);
    let many = [0xbe; 8];
    assert_eq!(decoder.decode(&many, 2 * one, &mut section), Ok(Kept::Part));
    assert_eq!(decoder.decode(&[0xbe; 9], 2 * one, &mut section), Err(Unread::TooMuch));
    // A long string that is a few bytes on the wire each.
    let mut coded = vec![0x00, 0x01, b'a'];
    let mut value = Vec::new();
    huffman::encode(&[b'0'; 1000], &mut value);
    proto_http::coding::write_integer(value.len() as u64, 7, 0x80, &mut coded);
    coded.extend(value);
    assert_eq!(decoder.decode(&coded, 200, &mut section), Err(Unread::TooMuch));
    assert!(section.memory() < 4096);
}

/// A byte of its sender is four thousand of ours, if it is copied.
#[test]
fn what_is_not_kept_is_not_copied() {
    let (mut decoder, mut section) = (Decoder::new(4096), Section::default());
    let mut block = vec![0x40, 2];
    block.extend(b"xy");
    proto_http::coding::write_integer(4_000, 7, 0, &mut block);
    block.extend([b'v'; 4_000]);
    decoder.decode(&block, 10_000, &mut section).unwrap();
    let one = 4_002 + FIELD_OVERHEAD;
    assert_eq!(decoder.table.copied(), 0);
    // Whole fields, and their names with values of nothing, which count as what they stand for.
    let kept = 2;
    let named = [0x0f, 62 - 15, 0];
    let block = [&[0x80 | 62; 7][..], &named].concat();
    assert_eq!(decoder.decode(&block, 10_000, &mut section), Ok(Kept::Part));
    assert_eq!(section.len(), kept);
    assert_eq!(decoder.table.copied(), (kept + 1) * 4_002, "the first beyond shows that it is");
    // They count all the same, and what is no field of a table is none here either.
    let most = 10_000 * READ_AHEAD / one;
    assert_eq!(decoder.decode(&vec![0x80 | 62; most], 10_000, &mut section), Ok(Kept::Part));
    assert_eq!(decoder.decode(&vec![0x80 | 62; most + 1], 10_000, &mut section), Err(Unread::TooMuch));
    for wrong in [&[0x80 | 63][..], &[0x0f, 63 - 15, 0], &[0x00, 0x81, 0x00, 0], &[0x00, 1]] {
        let block = [&[0x80 | 62; 5][..], wrong].concat();
        assert_eq!(decoder.decode(&block, 10_000, &mut section), Err(Unread::Broken), "{wrong:?}");
    }
}

fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    fields.iter().for_each(|(name, value)| headers.add(name, value));
    headers
}

fn said(response: &Response, options: &encoder::ResponseOptions<'_>) -> List {
    let mut block = Vec::new();
    assert!(encoder::response(response, options, &mut block));
    read(&mut Decoder::new(0), &block).unwrap()
}

#[test]
fn answers_are_written_without_what_concerns_one_hop() {
    let options = encoder::ResponseOptions { length: Some(1203), date: "today" };
    let mut response = Response::with_status(200);
    response.headers = headers(&[
        ("X-Custom", "Kept As It Is"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "7"),
        ("Content-Type", "text/html"),
        ("Set-Cookie", "a"),
        ("set-cookie", "b"),
    ]);
    let fields = |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<List>();
    assert_eq!(
        said(&response, &options),
        fields(&[
            (":status", "200"),
            ("x-custom", "Kept As It Is"),
            ("content-type", "text/html"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("date", "today"),
            ("content-length", "1203"),
        ])
    );
    response.headers = headers(&[("Date", "then")]);
    for (status, expected) in [
        (103, &[(":status", "103"), ("date", "then")][..]),
        (204, &[(":status", "204"), ("date", "then")]),
        (304, &[(":status", "304"), ("date", "then"), ("content-length", "1203")]),
        (599, &[(":status", "599"), ("date", "then"), ("content-length", "1203")]),
    ] {
        response.status = status;
        assert_eq!(said(&response, &options), fields(expected));
    }
    response.status = 101;
    assert!(!encoder::response(&response, &options, &mut Vec::new()));
}

#[test]
fn trailers_are_written_where_they_may_be() {
    let mut block = Vec::new();
    assert!(!encoder::trailers(&headers(&[("Content-Length", "1"), ("Connection", "close")]), &mut block));
    assert!(block.is_empty());
    assert!(encoder::trailers(&headers(&[("Grpc-Status", "0"), ("Host", "a")]), &mut block));
    assert_eq!(read(&mut Decoder::new(0), &block).unwrap(), [("grpc-status".to_owned(), "0".to_owned())]);
}

fn request(target: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    request.set_target(target.as_bytes()).unwrap();
    request.headers = headers(fields);
    request
}

fn asked(request: &Request, options: &encoder::RequestOptions<'_>) -> Option<List> {
    let mut block = Vec::new();
    let said = encoder::request(request, options, &mut block);
    assert!(said || block.is_empty());
    said.then(|| read(&mut Decoder::new(0), &block).unwrap())
}

const PLAIN: encoder::RequestOptions<'static> =
    encoder::RequestOptions { scheme: "https", authority: "a.test", prefix: "", length: None, protocol: None };

#[test]
fn requests_are_written_without_what_concerns_one_hop() {
    let fields = [
        ("Host", "old.test"),
        ("X-One", "1"),
        ("Connection", "keep-alive"),
        ("Keep-Alive", "5"),
        ("Proxy-Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("TE", "gzip"),
        ("Content-Length", "7"),
        ("Expect", "100-continue"),
        ("Sec-WebSocket-Key", "x"),
    ];
    let options = encoder::RequestOptions { length: Some(3), prefix: "/in", ..PLAIN };
    let list = |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<List>();
    assert_eq!(
        asked(&request("/a?b=c", &fields), &options).unwrap(),
        list(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", "/in/a?b=c"),
            ("x-one", "1"),
            ("sec-websocket-key", "x"),
            ("content-length", "3"),
            ("te", "trailers"),
        ])
    );
    // An offer to switch becomes an extended CONNECT.
    let options = encoder::RequestOptions { protocol: Some("websocket"), ..PLAIN };
    assert_eq!(
        asked(&request("/chat", &[("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")]), &options).unwrap(),
        list(&[
            (":method", "CONNECT"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", "/chat"),
            (":protocol", "websocket"),
            ("te", "trailers"),
        ])
    );
}

#[test]
fn what_cannot_be_said_is_not() {
    for authority in ["", "a b", "a\r\nb", "a/b", "us\u{e9}r"] {
        assert_eq!(asked(&request("/", &[]), &encoder::RequestOptions { authority, ..PLAIN }), None, "{authority}");
    }
    let tunnel = Request { method: Method::Connect, ..Request::default() };
    assert_eq!(asked(&tunnel, &PLAIN), None);
    for byte in 0x21..0x7f_u8 {
        let text = format!("/a?{}", byte as char);
        let mut request = Request::default();
        if request.set_target(text.as_bytes()).is_ok() {
            let fields = asked(&request, &PLAIN).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(fields[3], (":path".to_owned(), text));
        }
    }
}

/// RFC 7541 section 7.1.3.
#[test]
fn credentials_are_for_no_table() {
    for (name, value, never) in [
        ("Authorization", "Basic YQ==", true),
        ("proxy-authorization", "Basic YQ==", true),
        ("Set-Cookie", "session=0123456789012345678901234567890", true),
        ("Cookie", "a=1", true),
        ("cookie", "session=0123456789012345678901234567890", false),
        ("proxy-authenticate", "Basic", false),
        ("x-other", "1", false),
    ] {
        let mut block = Vec::new();
        encoder::field(name.as_bytes(), value.as_bytes(), &mut block);
        assert_eq!(block[0] & 0xf0, if never { 0x10 } else { 0 }, "{name}");
        assert_eq!(read(&mut Decoder::new(0), &block).unwrap(), [(name.to_ascii_lowercase(), value.to_owned())]);
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        fields in proptest::collection::vec(("[a-z-]{1,40}", proptest::collection::vec(any::<u8>(), 0..300)), 0..30),
    ) {
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| encoder::field(name.as_bytes(), value, &mut block));
        let mut section = Section::default();
        Decoder::new(0).decode(&block, 1 << 20, &mut section).unwrap();
        let read: Vec<_> = section.iter().map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec())).collect();
        prop_assert_eq!(read, fields);
    }

    #[test]
    fn no_bytes_break_the_bounds(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let (mut decoder, mut section) = (Decoder::new(256), Section::default());
        for block in blocks {
            let read = decoder.decode(&block, 500, &mut section);
            prop_assert!(section.bytes() + section.len() * FIELD_OVERHEAD <= 500 || read.is_err());
            prop_assert!(decoder.table.size() <= 256 && decoder.memory() <= 4096);
        }
    }
}
