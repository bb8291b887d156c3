//! Both versions, read and written, by the sections of the specification; and what holds of any bytes.

use proptest::prelude::*;
use proto_proxy::tlv::{self, Ssl};
use proto_proxy::{Addresses, Error, HEADER_MOST, Transport, Version, begins_one, read, v1, v2};
use std::net::{IpAddr, SocketAddr};

#[path = "../../fuzz/checks/proxy_header.rs"]
mod proxy_header;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn inet(source: &str, destination: &str) -> Addresses {
    Addresses::Inet { transport: Transport::Stream, source: at(source), destination: at(destination) }
}

fn said(bytes: &[u8]) -> Result<Addresses, Error> {
    let (header, length) = read(bytes)?.expect("it is whole");
    assert_eq!(length, bytes.len());
    Ok(header.addresses)
}

#[test]
fn lines_of_version_1() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Ok(inet("192.0.2.1:56324", "198.51.100.1:443"))),
        ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Ok(inet("[2001:db8::1]:1", "[::1]:65535"))),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 0 0\r\n", Ok(inet("255.255.255.255:0", "0.0.0.0:0"))),
        ("PROXY UNKNOWN\r\n", Ok(Addresses::Unknown)),
        ("PROXY UNKNOWN ffff:f 1 whatever\r\n", Ok(Addresses::Unknown)),
        ("PROXY UNKNOWNS\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n", Err(Error::Line)),
        ("PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 +56 443\r\n", Err(Error::Line)),
        ("PROXY TCP4 192.0.2.01 198.51.100.1 56 443\r\n", Err(Error::Line)),
        ("PROXY TCP4 ::1 ::1 56 443\r\n", Err(Error::Line)),
        ("PROXY TCP6 192.0.2.1 ::1 56 443\r\n", Err(Error::Line)),
        ("PROXY tcp4 192.0.2.1 198.51.100.1 56 443\r\n", Err(Error::Line)),
        ("PROXY UDP4 192.0.2.1 198.51.100.1 56 443\r\n", Err(Error::Line)),
        ("PROXY \r\n", Err(Error::Line)),
        ("proxy TCP4 192.0.2.1 198.51.100.1 56 443\r\n", Err(Error::Absent)),
        ("GET / HTTP/1.1\r\n", Err(Error::Absent)),
    ] {
        assert_eq!(said(line.as_bytes()), expected, "{line}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(v1::LINE_MOST - 16));
    assert_eq!((longest.len(), said(longest.as_bytes())), (v1::LINE_MOST, Ok(Addresses::Unknown)));
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(v1::LINE_MOST - 15));
    assert_eq!(read(longer.as_bytes()), Err(Error::TooLong));
}

/// The head of version 2 with these three parts.
fn block(version_and_command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([version_and_command, kind]);
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn blocks_of_version_2() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 4, 1, 0xBB];
    let here = inet("192.0.2.1:56324", "198.51.100.1:443");
    let with = |more: &[u8]| [&v4, more].concat();
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[31], v6[33], v6[35]) = (0x20, 1, 2, 80, 81);
    let udp = Addresses::Inet {
        transport: Transport::Datagram,
        source: at("192.0.2.1:56324"),
        destination: at("198.51.100.1:443"),
    };
    for (bytes, expected) in [
        (block(0x21, 0x11, &v4), Ok(here)),
        (block(0x21, 0x12, &v4), Ok(udp)),
        (block(0x21, 0x21, &v6), Ok(inet("[2000::1]:80", "[::2]:81"))),
        (block(0x21, 0x31, &[0; 216]), Ok(Addresses::Unix)),
        (block(0x21, 0x32, &[1; 216]), Ok(Addresses::Unix)),
        (block(0x21, 0x00, &[]), Ok(Addresses::Unknown)),
        (block(0x21, 0x10, &v4), Ok(Addresses::Unknown)),
        (block(0x20, 0x00, &[]), Ok(Addresses::Local)),
        (block(0x20, 0x11, &v4), Ok(Addresses::Local)),
        (block(0x20, 0xFF, b"whatever"), Ok(Addresses::Local)),
        (block(0x11, 0x11, &v4), Err(Error::Version)),
        (block(0x22, 0x11, &v4), Err(Error::Command)),
        (block(0x21, 0x41, &v4), Err(Error::Family)),
        (block(0x21, 0x13, &v4), Err(Error::Family)),
        (block(0x21, 0x11, &v4[..11]), Err(Error::Addresses)),
        (block(0x21, 0x21, &v6[..35]), Err(Error::Addresses)),
        (block(0x21, 0x31, &[0; 215]), Err(Error::Addresses)),
        (block(0x21, 0x11, &with(&[4, 0, 0])), Ok(here)),
        (block(0x21, 0x11, &with(&[4, 0])), Err(Error::Tlv)),
        (block(0x21, 0x11, &with(&[0xE0, 0, 2, 1])), Err(Error::Tlv)),
        (block(0x21, 0x11, &with(&[3, 0, 4, 1, 2, 3, 4])), Err(Error::Checksum)),
        (block(0x21, 0x11, &with(&[3, 0, 3, 1, 2, 3])), Err(Error::Tlv)),
        (block(0x21, 0x11, &with(&[0x20, 0, 4, 1, 0, 0, 0])), Err(Error::Tlv)),
        (block(0x21, 0x11, &with(&[0x20, 0, 7, 1, 0, 0, 0, 0, 0x21, 0])), Err(Error::Tlv)),
    ] {
        assert_eq!(said(&bytes), expected, "{bytes:?}");
    }
    let huge = block(0x21, 0x11, &vec![0; HEADER_MOST]);
    assert_eq!(read(&huge[..16]), Err(Error::TooLong), "told before it has come");
    assert_eq!(read(&block(0x31, 0x11, &v4)[..13]), Err(Error::Version));
}

#[test]
fn what_is_said_beside_the_addresses() {
    let ssl = Ssl {
        client: tlv::CLIENT_SSL | tlv::CLIENT_CERT_CONN,
        verified: true,
        version: Some(b"TLSv1.3"),
        common_name: Some(b"client"),
        cipher: None,
    };
    let bytes = v2::Writer::proxy(Transport::Stream, at("192.0.2.1:1"), at("198.51.100.1:2"))
        .with(tlv::ALPN, b"h2")
        .with(tlv::AUTHORITY, b"shop.test")
        .with_ssl(&ssl)
        .with(tlv::UNIQUE_ID, &[7; 128])
        .with(tlv::NETNS, &vec![1; HEADER_MOST])
        .finish_checked();
    let (header, length) = read(&bytes).unwrap().unwrap();
    assert_eq!((header.version, length), (Version::V2, bytes.len()));
    assert_eq!(header.tlvs.find(tlv::ALPN), Some(&b"h2"[..]));
    assert_eq!(header.tlvs.find(tlv::AUTHORITY), Some(&b"shop.test"[..]));
    assert_eq!(header.tlvs.ssl(), Some(ssl));
    assert_eq!(header.tlvs.find(tlv::NETNS), None, "there was no room for it");
    let unchecked = v2::Writer::local().with(tlv::UNIQUE_ID, &[7; 129]).finish();
    assert!(read(&unchecked).is_ok(), "nobody looks into what a proxy says of itself");
    assert_eq!(read(&v2::Writer::unknown().with(tlv::UNIQUE_ID, &[7; 129]).finish()), Err(Error::Tlv));
    let twice = v2::Writer::unknown().with(tlv::CRC32C, &[0; 4]).finish_checked();
    assert_eq!(read(&twice), Err(Error::Tlv));
}

#[test]
fn families_that_differ_are_said_as_one() {
    let (client, here) = (at("[2001:db8::1]:1"), at("198.51.100.1:2"));
    let expected = Ok(inet("[2001:db8::1]:1", "[::ffff:198.51.100.1]:2"));
    let mut line = Vec::new();
    v1::write(Some((client, here)), &mut line);
    assert_eq!(said(&line), expected);
    assert_eq!(said(&v2::Writer::proxy(Transport::Stream, client, here).finish()), expected);
    let mut line = Vec::new();
    v1::write(Some((at("[::ffff:192.0.2.1]:9"), here)), &mut line);
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.1 9 2\r\n");
}

#[test]
fn a_beginning_tells_itself_as_soon_as_it_can() {
    assert_eq!(begins_one(b""), None);
    assert_eq!(begins_one(b"PRO"), None);
    assert_eq!(begins_one(b"PROXY "), Some(true));
    assert_eq!(begins_one(b"PRI * HTTP/2.0"), Some(false));
    assert_eq!(begins_one(b"\r\n\r\n"), None);
    assert_eq!(begins_one(b"\r\n\r\n\0\r\nQUIT\n"), Some(true));
    assert_eq!(begins_one(b"\r\n\r\nGET"), Some(false));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn same(a: SocketAddr, b: SocketAddr) -> bool {
    (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
}

proptest! {
    #[test]
    fn what_is_written_is_read(from in address(), to in address(), value in prop::collection::vec(any::<u8>(), 0..300), checked: bool) {
        let mut line = Vec::new();
        v1::write(Some((from, to)), &mut line);
        let writer = v2::Writer::proxy(Transport::Stream, from, to).with(0xE1, &value);
        let block = if checked { writer.finish_checked() } else { writer.finish() };
        for bytes in [&line, &block] {
            for cut in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..cut]).map(|found| found.is_none()), Ok(true), "{}", cut);
            }
            let more = [&bytes[..], b"GET /"].concat();
            let (header, length) = read(&more).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            let Addresses::Inet { source, destination, .. } = header.addresses else { panic!("it has addresses") };
            prop_assert!(same(source, from) && same(destination, to));
        }
        let (header, _) = read(&block).unwrap().unwrap();
        prop_assert_eq!(header.tlvs.find(0xE1), Some(&value[..]));
    }

    /// A checksum finds any bit that was turned, unless it is one that says where things are: then something else is wrong, or more
    /// is waited for.
    #[test]
    fn a_checksum_finds_what_was_turned(from in address(), to in address(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let sound = v2::Writer::proxy(Transport::Stream, from, to).with(tlv::AUTHORITY, b"shop.test").finish_checked();
        let mut bytes = sound.clone();
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        match read(&bytes) {
            Ok(Some((header, _))) => {
                // LOCAL is not looked into; one whose type is another is no checksum any more.
                let unchecked = header.tlvs.find(tlv::CRC32C).is_none();
                prop_assert!(header.addresses == Addresses::Local || unchecked, "byte {} of {:?}", index, sound);
            }
            Ok(None) => prop_assert!((14..16).contains(&index)),
            Err(_) => {}
        }
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..2 * HEADER_MOST), signed in 0..3usize) {
        let start: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21"][signed];
        let all = [start, &bytes].concat();
        proxy_header::check(&all);
    }
}
