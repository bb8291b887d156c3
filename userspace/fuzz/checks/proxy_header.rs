//! A PROXY header is read the same however much follows it, is bounded, and what it says is read again from what we write of it.

use proto_proxy::{Addresses, Error, HEADER_MOST, Transport, begins_one, read, v1, v2};

pub fn check(bytes: &[u8]) {
    let whole = read(bytes);
    match &whole {
        Ok(None) => assert!(bytes.len() < HEADER_MOST),
        Ok(Some((header, length))) => {
            assert!(*length <= bytes.len().min(HEADER_MOST));
            assert_eq!(begins_one(bytes), Some(true));
            assert_eq!(read(&bytes[..*length]), whole);
            assert_eq!(read(&bytes[..length - 1]).map(|found| found.is_none()), Ok(true));
            assert!(header.tlvs.iter().all(|(_, value)| value.len() < *length));
            again(&header.addresses);
        }
        Err(Error::Absent) => assert_ne!(begins_one(bytes), Some(true)),
        Err(_) => {}
    }
}

fn again(said: &Addresses) {
    let Addresses::Inet { transport, source, destination } = *said else { return };
    let same = |bytes: &[u8]| {
        let Ok(Some((header, length))) = read(bytes) else { panic!("what we write is read") };
        assert_eq!(length, bytes.len());
        let Addresses::Inet { source: from, destination: to, .. } = header.addresses else { panic!("as it was") };
        for (a, b) in [(from, source), (to, destination)] {
            assert_eq!((a.ip().to_canonical(), a.port()), (b.ip().to_canonical(), b.port()));
        }
    };
    same(&v2::Writer::proxy(transport, source, destination).finish_checked());
    if transport == Transport::Stream {
        let mut line = Vec::new();
        v1::write(Some((source, destination)), &mut line);
        same(&line);
    }
}
