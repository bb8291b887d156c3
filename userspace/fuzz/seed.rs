//! Fills `corpus/` from the torture list, and with the messages that TLS knows.

use proto_http::h1::parse_request;
use proto_http::{Limits, Request};
use std::path::Path;
use std::{fs, io};

const TARGETS: [&str; 17] = [
    "configuration",
    "http1_request",
    "http1_response",
    "http1_chunks",
    "http_path",
    "http2_fields",
    "http2_connection",
    "http2_client",
    "http3_sections",
    "http3_streams",
    "tls_records",
    "tls_hello",
    "proxy_header",
    "websocket_frames",
    "cache_fields",
    "credentials",
    "policies",
];

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        fs::create_dir_all(root.join(target))?;
    }
    for (number, case) in proto_torture::cases().iter().enumerate().filter(|(_, case)| case.bytes.len() <= 4096) {
        let name = format!("{number:03}");
        fs::write(root.join("http1_request").join(&name), &case.bytes)?;
        // A response with the same fields and body.
        let fields = case.bytes.windows(2).position(|w| w == b"\r\n").map_or(0, |at| at + 2);
        fs::write(root.join("http1_response").join(&name), [b"HTTP/1.1 200 OK\r\n", &case.bytes[fields..]].concat())?;
        let mut request = Request::default();
        if let Ok(Some(head)) = parse_request(&case.bytes, &Limits::default(), &mut request) {
            fs::write(root.join("http1_chunks").join(&name), &case.bytes[head.consumed..])?;
        }
        if let Some(target) = case.bytes.split(|&b| b == b' ').nth(1) {
            fs::write(root.join("http_path").join(&name), target)?;
        }
    }
    let goldens = [
        ("nginx", "nginx/shop/nginx.conf"),
        ("streams", "nginx/streams/nginx.conf"),
        ("haproxy", "haproxy/web/haproxy.cfg"),
        ("relay", "haproxy/relay/haproxy.cfg"),
    ];
    for (name, golden) in goldens {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-convert/tests/golden").join(golden);
        fs::copy(golden, root.join("configuration").join(name))?;
    }
    let credentials = [
        "YW5uOm15UGFzc3dvcmQ=",
        "HMAC-SHA256 Credential=ann/20150830/eu/request, SignedHeaders=host, Signature=5fa00fa31553b73e",
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ1In0.c2lnbmF0dXJl",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ];
    for (number, text) in credentials.iter().enumerate() {
        fs::write(root.join("credentials").join(number.to_string()), text)?;
    }
    for (number, text) in include_str!("checks/policies.rego").split("---\n").enumerate() {
        fs::write(root.join("policies").join(number.to_string()), text)?;
    }
    // Blocks with a field of the table, literals, and one that is coded; a request with a body and trailers, cut into pieces of five.
    let blocks = b"\x18\x82\x86\x84\x41\x01a\x40\x01x\x011\xbe\x00\x01y\x83\xa8\xeb\x10\x20";
    fs::write(root.join("http2_fields").join("all"), blocks)?;
    let post = b"\x83\x86\x84\x41\x01a\x0f\x0d\x014";
    let frames: [&[u8]; 4] =
        [b"\0\0\x0a\x01\x04\0\0\0\x01", post, b"\0\0\x04\0\0\0\0\0\x01body", b"\0\0\x05\x01\x05\0\0\0\x01\0\x01x\x011"];
    fs::write(root.join("http2_connection").join("request"), [b"\x05", &frames.concat()[..]].concat())?;
    // Two answers, one with a body and trailers and one that is reset; and that the server leaves.
    let frames: [&[u8]; 6] = [
        b"\0\0\x05\x01\x04\0\0\0\x01\x88\x0f\x0d\x014",
        b"\0\0\x04\0\0\0\0\0\x01body",
        b"\0\0\x05\x01\x05\0\0\0\x01\0\x01x\x011",
        b"\0\0\x01\x01\x04\0\0\0\x03\x88",
        b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08",
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x05\0\0\0\0",
    ];
    fs::write(root.join("http2_client").join("answers"), [b"\x05", &frames.concat()[..]].concat())?;
    // A section with a static field, a literal with a static name, and one with its own; and with it a request and a control stream, and
    // capsules: datagrams, one of no bytes and one that is too long, and one that nobody knows.
    let section = b"\0\0\xd1\x51\x02/x\x25x-one\x011";
    fs::write(root.join("http3_sections").join("all"), section)?;
    let request = [b"\x05\x01\x0f", &section[..], b"\0\x04body\x21\x01x\x01\x02\0\0"].concat();
    fs::write(root.join("http3_streams").join("request"), request)?;
    fs::write(
        root.join("http3_streams").join("control"),
        b"\x05\0\x04\x04\x06\x40\x64\x08\x01\x07\x01\x04\x0d\x01\x01",
    )?;
    fs::write(root.join("http3_streams").join("decoder"), b"\x05\x03\x44\x7f\x80\x01")?;
    fs::write(root.join("http3_streams").join("capsules"), b"\x05\0\x06\0hello\x40\x99\x02xy\0\0\0\x80\x01\0\x11zz")?;
    // Data, an alert, a key update, a ticket, a client's hello, each sealed (types count from 20).
    let records: [&[u8]; 5] = [
        b"\x03\x05hello",
        b"\x01\x02\x01\x00",
        b"\x02\x05\x18\0\0\x01\x01",
        b"\x02\x05\x04\0\0\x01\0",
        b"\x02\x04\x01\0\0\0",
    ];
    for (number, record) in records.iter().enumerate() {
        for choice in 0..4 {
            let script = [&[choice, 3], records[0], record, records[0]].concat();
            fs::write(root.join("tls_records").join(format!("{number}{choice}")), script)?;
        }
    }
    // How it is cut and who sends; then a text in two pieces with a ping between them, and a Close.
    let frames: [&[u8]; 4] = [b"\x01\x03hel", b"\x89\x01p", b"\x80\x02lo", b"\x88\x02\x03\xe8"];
    fs::write(root.join("websocket_frames").join("server"), [&[0x15], &frames.concat()[..]].concat())?;
    let masked: [&[u8]; 3] = [b"\x01\x83\0\0\0\0hel", b"\x80\x82\0\0\0\0lo", b"\x88\x80\0\0\0\0"];
    fs::write(root.join("websocket_frames").join("client"), [&[0x14], &masked.concat()[..]].concat())?;
    // Fields of a request, an empty line, fields of its answer.
    let fields = "Cache-Control: max-age=5, max-stale\nRange: bytes=0-1\nIf-None-Match: \"a\", W/\"b\"\nAccept-Language: de, en;q=0.5\n\n\
                  Cache-Control: s-maxage=60, private=\"X\", stale-while-revalidate=5\nVary: Accept-Language\nETag: \"a\"\nAge: 1\n\
                  Expires: Sun, 06 Nov 1994 08:49:37 GMT\nCache-Tag: a, b\nLocation: //h.test/a";
    fs::write(root.join("cache_fields").join("all"), fields)?;
    // A hello without extensions, in two records, and one header of each version.
    let hello =
        [&b"\x16\x03\x01\0\x04\x01\0\0\x2b\x16\x03\x01\0\x2b\x03\x03"[..], &[7; 32], b"\0\0\x02\x13\x01\x01\0\0\0"]
            .concat();
    fs::write(root.join("tls_hello").join("0"), hello)?;
    let mut line = Vec::new();
    let (from, to) = (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into());
    proto_proxy::v1::write(Some((from, to)), &mut line);
    fs::write(root.join("proxy_header").join("1"), line)?;
    let block = proto_proxy::v2::Writer::proxy(proto_proxy::Transport::Stream, from, to);
    fs::write(root.join("proxy_header").join("2"), block.with(proto_proxy::tlv::ALPN, b"h2").finish_checked())
}
