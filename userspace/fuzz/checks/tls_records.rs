//! Records sealed with the right key whose types and contents the input chooses: a connection hands on the data of exactly those
//! before the end, in one piece and cut as the first byte says alike, and keeps no more than one record and one message.

use base_runtime::Buf;
use base_tls::connection::{PeerEnd, Schedule, TlsConnection};
use base_tls::record::{Fault, RecordKey, Suite, Version};

pub fn check(bytes: &[u8]) {
    let [choice, step, script @ ..] = bytes else { return };
    let version = if choice & 1 == 0 { Version::Tls13 } else { Version::Tls12 };
    let mut wire = Vec::new();
    let mut sender = key(version);
    // Two bytes say type and length of a content, which follows.
    let mut rest = script;
    while let [kind, length, after @ ..] = rest {
        let content = &after[..usize::from(*length).min(after.len())];
        rest = &after[content.len()..];
        let mut record = Buf::copy_from(content);
        // The high bit asks for a record that nobody sealed.
        if kind & 0x80 == 0 && sender.seal(20 + kind % 5, &mut record).is_ok() {
            wire.extend_from_slice(&record);
        } else {
            wire.extend_from_slice(content);
        }
    }
    let server = choice & 2 == 0;
    let (whole, pieces) =
        (run(version, server, &wire, wire.len()), run(version, server, &wire, usize::from(*step) + 1));
    assert_eq!(whole, pieces);
}

fn run(version: Version, server: bool, wire: &[u8], step: usize) -> (Vec<u8>, PeerEnd) {
    let mut connection = TlsConnection::new(version, key(version), key(version), Refusing { client: !server }, |_| {});
    let mut data = Vec::new();
    for piece in wire.chunks(step.clamp(1, 16_384)) {
        connection.handle_received(Buf::copy_from(piece), &mut drop);
        while let Some(buf) = connection.poll_data() {
            assert!(!buf.is_empty());
            data.extend_from_slice(&buf);
        }
    }
    (data, connection.end())
}

fn key(version: Version) -> RecordKey {
    RecordKey::from_parts(version, Suite::Aes128Gcm, &[7; 16], [9; 12], 0).expect("a key of the right length")
}

/// No key follows the first, and every ticket is welcome.
struct Refusing {
    client: bool,
}

impl Schedule for Refusing {
    fn next_tx(&mut self) -> Result<RecordKey, Fault> {
        Err(Fault::Internal)
    }

    fn next_rx(&mut self) -> Result<RecordKey, Fault> {
        Err(Fault::Internal)
    }

    fn take_ticket(&mut self, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn is_client(&self) -> bool {
        self.client
    }
}
