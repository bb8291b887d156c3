use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::record::{CHANGE_CIPHER_SPEC, Suite};

const ALL: [(Version, Suite); 6] = [
    (Version::Tls13, Suite::Aes128Gcm),
    (Version::Tls13, Suite::Aes256Gcm),
    (Version::Tls13, Suite::ChaCha20Poly1305),
    (Version::Tls12, Suite::Aes128Gcm),
    (Version::Tls12, Suite::Aes256Gcm),
    (Version::Tls12, Suite::ChaCha20Poly1305),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sent_arrives_whatever_the_splits(
        which in 0..ALL.len(),
        sizes in prop::collection::vec(prop_oneof![0usize..100, 0usize..5000, 16_000usize..16_500, 0usize..=31_744], 1..8),
        cuts in prop::collection::vec(prop_oneof![1usize..8, 1usize..2000, 1usize..=31_744], 1..40),
        controls in prop::collection::vec(0u8..6, 8),
    ) {
        let (mut a, mut b) = pair(ALL[which]);
        let mut sent = Vec::new();
        let mut wire = Vec::new();
        for (&size, &control) in sizes.iter().zip(controls.iter().cycle()) {
            match control {
                0 if a.version == Version::Tls13 => a.update_tx(&mut |buf| wire.extend_from_slice(&buf)),
                1 => a.transmit_record(APPLICATION_DATA, Buf::alloc(), &mut |buf| wire.extend_from_slice(&buf)),
                _ => {}
            }
            let bytes = pattern(sent.len(), size);
            a.send(Buf::copy_from(&bytes), &mut |buf| wire.extend_from_slice(&buf));
            sent.extend_from_slice(&bytes);
        }
        a.close(&mut |buf| wire.extend_from_slice(&buf));
        let mut received = Vec::new();
        let mut rest = &wire[..];
        for &cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            b.handle_received(Buf::copy_from(piece), &mut |_| {});
            prop_assert!(b.kept() <= SMALL_MAX + MESSAGE_MAX);
            while let Some(buf) = b.poll_data() {
                prop_assert!(!buf.is_empty());
                received.extend_from_slice(&buf);
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(received == sent);
        prop_assert_eq!(b.end(), PeerEnd::Closed);
        prop_assert!(b.kept() == 0 && !b.holds_buffer());
        prop_assert_eq!(a.said(), sent.len() as u64);
    }

    #[test]
    fn a_changed_byte_never_gets_through(
        which in 0..ALL.len(),
        sizes in prop::collection::vec(0usize..400, 1..5),
        place in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let (mut a, mut b) = pair(ALL[which]);
        let mut wire = Vec::new();
        let mut sent = Vec::new();
        // Where each record ends on the wire, and how much data came before that end.
        let mut ends = Vec::new();
        for &size in &sizes {
            let bytes = pattern(sent.len(), size + 1);
            a.send(Buf::copy_from(&bytes), &mut |buf| wire.extend_from_slice(&buf));
            sent.extend_from_slice(&bytes);
            ends.push((wire.len(), sent.len()));
        }
        let place = place.index(wire.len());
        wire[place] ^= 1 << bit;
        // The legacy version's second byte is in no sum of TLS 1.3's: it must be ignored (RFC 8446 §5.1).
        let before = ends.iter().filter(|(end, _)| *end <= place).map(|(_, said)| *said).max().unwrap_or(0);
        b.handle_received(Buf::copy_from(&wire), &mut |_| {});
        let received: Vec<u8> = std::iter::from_fn(|| b.poll_data()).flat_map(|buf| buf.to_vec()).collect();
        let version_byte = {
            let start = ends.iter().map(|(end, _)| *end).filter(|end| *end <= place).max().unwrap_or(0);
            place == start + 2
        };
        if version_byte {
            prop_assert!(received == sent);
        } else {
            prop_assert_eq!(&received[..], &sent[..before]);
            // A longer length may wait for bytes that never come.
            prop_assert!(matches!(b.end(), PeerEnd::Fault(_)) || b.kept() > 0 || b.holds_buffer());
        }
    }

    #[test]
    fn anything_at_all_is_survived(
        which in 0..ALL.len(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        headed in any::<bool>(),
    ) {
        let (_, mut b) = pair(ALL[which]);
        for mut piece in pieces {
            if headed && piece.len() >= 5 {
                let head = [20 + piece[0] % 4, 3, 3];
                piece[..3].copy_from_slice(&head);
                piece[3] = 0;
            }
            b.handle_received(Buf::copy_from(&piece), &mut |_| {});
            prop_assert!(!b.has_data());
        }
    }

    /// Whatever an authenticated peer says, the machine does not panic and keeps little.
    #[test]
    fn any_message_under_the_right_key_is_survived(
        which in 0..ALL.len(),
        messages in prop::collection::vec((20u8..25, prop::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..40)), 0..50),
        client in any::<bool>(),
    ) {
        let (mut a, mut b) = pair(ALL[which]);
        b.schedule.client = client;
        for (content_type, content) in messages {
            let mut wire = Vec::new();
            a.transmit_record(content_type, Buf::copy_from(&content), &mut |buf| wire.extend_from_slice(&buf));
            b.handle_received(Buf::copy_from(&wire), &mut |_| {});
            prop_assert!(b.kept() <= 4 * MESSAGE_MAX);
        }
    }
}

#[test]
fn a_slow_peer_holds_memory_of_its_own_size() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        let wire = said(&mut a, &pattern(0, 16_384));
        for (index, byte) in wire.iter().enumerate() {
            b.handle_received(Buf::copy_from(&[*byte]), &mut |_| {});
            if index < SMALL_MAX {
                assert!(b.kept() <= 2 * (index + 1).max(8), "{} bytes kept after {index}", b.kept());
                assert!(!b.holds_buffer());
            }
        }
        assert_eq!(b.poll_data().as_deref(), Some(&pattern(0, 16_384)[..]));
        assert!(b.kept() == 0 && !b.holds_buffer());
    }
}

#[test]
fn several_records_of_one_buffer_become_one_window() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        let mut wire = Vec::new();
        for index in 0..50 {
            wire.extend(said(&mut a, &pattern(index * 100, 100)));
        }
        b.handle_received(Buf::copy_from(&wire), &mut |_| {});
        assert_eq!(b.poll_data().as_deref(), Some(&pattern(0, 5000)[..]));
        assert!(b.poll_data().is_none());
    }
}

#[test]
fn buffers_without_room_around_the_window_are_sealed_too() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        let mut buf = Buf::copy_from(&pattern(0, Buf::CAPACITY - Buf::HEADROOM));
        buf.prepend(&[7; Buf::HEADROOM]);
        let plain = buf.to_vec();
        let mut received = Vec::new();
        a.send(buf, &mut |record| {
            b.handle_received(record, &mut |_| {});
            received.extend(b.poll_data().expect("a record of data").to_vec());
        });
        assert!(received == plain);
    }
}

#[test]
fn floods_without_data_are_cut_off_and_data_forgives() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        for round in 0..3 {
            for _ in 0..IDLE_MESSAGES_MAX {
                give_record(&mut a, &mut b, APPLICATION_DATA, b"");
            }
            assert_eq!(b.end(), PeerEnd::Open, "round {round}");
            give_record(&mut a, &mut b, APPLICATION_DATA, b"data");
        }
        let abuse = events(Event::Abuse);
        for _ in 0..=IDLE_MESSAGES_MAX {
            give_record(&mut a, &mut b, APPLICATION_DATA, b"");
        }
        assert_eq!(b.end(), PeerEnd::Fault(Fault::Flood));
        assert_eq!(events(Event::Abuse), abuse + 1);
    }
}

#[test]
fn key_updates_are_answered_once_and_bounded() {
    let (mut a, mut b) = pair(ALL[0]);
    let request = |a: &mut TlsConnection<Mock>, b: &mut TlsConnection<Mock>| {
        give_record(a, b, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
        a.tx = Some(a.schedule.next_tx().unwrap());
    };
    for _ in 0..5 {
        request(&mut a, &mut b);
    }
    // Five were asked for while nothing could be sent: one answer does.
    let mut answers = Vec::new();
    b.answer_key_update(&mut |buf| answers.push(buf));
    b.answer_key_update(&mut |buf| answers.push(buf));
    assert_eq!(answers.len(), 1);
    give(&mut a, answers.pop().unwrap());
    let mut back = Vec::new();
    b.send(Buf::copy_from(b"under the new key"), &mut |buf| back.push(buf));
    give(&mut a, back.pop().unwrap());
    assert_eq!(a.poll_data().as_deref(), Some(&b"under the new key"[..]));
    give_record(&mut a, &mut b, APPLICATION_DATA, b"and back");
    assert_eq!(b.poll_data().as_deref(), Some(&b"and back"[..]));
    for _ in 0..=IDLE_MESSAGES_MAX {
        request(&mut a, &mut b);
    }
    assert_eq!(b.end(), PeerEnd::Fault(Fault::Flood));
}

#[test]
fn a_key_that_has_done_its_share_is_replaced_or_the_connection_ends() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        a.tx.as_mut().unwrap().spend_all_but(RECORDS_RESERVED + 2);
        b.rx = Mock::key(suite, b'a', 0);
        let skipped = a.tx.as_ref().unwrap().records_left();
        b.rx.skip_to(a.tx.as_ref().unwrap());
        assert_eq!(skipped, RECORDS_RESERVED + 2);
        let mut wire = Vec::new();
        for _ in 0..4 {
            a.send(Buf::copy_from(b"data"), &mut |buf| wire.push(buf));
        }
        let mut received = 0;
        for record in wire {
            give(&mut b, record);
            received += b.poll_data().map_or(0, |buf| buf.len());
        }
        match suite.0 {
            Version::Tls13 => {
                assert_eq!((received, b.end()), (16, PeerEnd::Open));
                assert_eq!(a.schedule.tx_made, 1);
            }
            Version::Tls12 => {
                assert_eq!(received, 8);
                assert_eq!(a.end(), PeerEnd::Fault(Fault::KeyExhausted));
                assert_eq!(b.end(), PeerEnd::Alert(Fault::KeyExhausted.alert()));
            }
        }
    }
}

#[test]
fn what_has_no_place_is_refused_with_the_right_alert() {
    let tls13 = ALL[0];
    let tls12 = ALL[3];
    type Case = ((Version, Suite), u8, &'static [u8], Fault);
    let cases: [Case; 11] = [
        (tls13, CHANGE_CIPHER_SPEC, &[1], Fault::UnexpectedMessage),
        (tls13, HANDSHAKE, &[], Fault::UnexpectedMessage),
        (tls13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2], Fault::IllegalParameter),
        (tls13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 2, 0, 0], Fault::DecodeError),
        // Something behind a key update, still under the old key.
        (tls13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE, 0, 0, 1, 0], Fault::UnexpectedMessage),
        // A server gets no tickets, and no ClientHello.
        (tls13, HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0], Fault::UnexpectedMessage),
        (tls13, HANDSHAKE, &[CLIENT_HELLO, 0, 0, 0], Fault::UnexpectedMessage),
        (tls13, HANDSHAKE, &[KEY_UPDATE, 1, 0, 0], Fault::DecodeError),
        (tls13, ALERT, &[1], Fault::DecodeError),
        (tls12, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], Fault::UnexpectedMessage),
        (tls12, CHANGE_CIPHER_SPEC, &[1], Fault::UnexpectedMessage),
    ];
    for (suite, content_type, content, fault) in cases {
        let (mut a, mut b) = pair(suite);
        let mut alerts = Vec::new();
        for record in sealed(&mut a, content_type, content) {
            b.handle_received(record, &mut |buf| alerts.push(buf));
        }
        assert_eq!(b.end(), PeerEnd::Fault(fault), "{content_type} {content:?}");
        assert!(b.is_send_closed());
        give(&mut a, alerts.pop().expect("an alert"));
        assert_eq!(a.end(), PeerEnd::Alert(fault.alert()));
    }
}

#[test]
fn records_and_their_content_have_a_largest_size() {
    for suite in ALL {
        let (_, mut b) = pair(suite);
        b.handle_received(Buf::copy_from(&[23, 3, 3, 0x41, 0x01]), &mut |_| {});
        assert_eq!(b.end(), PeerEnd::Fault(Fault::RecordOverflow), "a header is enough");
        let (mut a, mut b) = pair(suite);
        let records = sealed(&mut a, APPLICATION_DATA, &pattern(0, CONTENT_MAX + 1));
        records.into_iter().for_each(|record| give(&mut b, record));
        assert_eq!(b.end(), PeerEnd::Fault(Fault::RecordOverflow));
    }
    // Padding fills a record without content; one that is nothing else has no type.
    let (mut a, mut b) = pair(ALL[0]);
    sealed(&mut a, 0, &[0; 100]).into_iter().for_each(|record| give(&mut b, record));
    assert_eq!(b.end(), PeerEnd::Fault(Fault::UnexpectedMessage));
}

#[test]
fn renegotiation_is_refused_once_and_then_ends_the_connection() {
    for client in [false, true] {
        let (mut a, mut b) = pair(ALL[3]);
        b.schedule.client = client;
        let message = [if client { HELLO_REQUEST } else { CLIENT_HELLO }, 0, 0, 0];
        let mut answers = Vec::new();
        for record in sealed(&mut a, HANDSHAKE, &message) {
            b.handle_received(record, &mut |buf| answers.push(buf));
        }
        assert_eq!(b.end(), PeerEnd::Open);
        // A warning only: the peer goes on.
        give(&mut a, answers.pop().expect("an alert"));
        assert_eq!(a.end(), PeerEnd::Open);
        give_record(&mut a, &mut b, APPLICATION_DATA, b"never mind");
        assert!(b.poll_data().is_some());
        give_record(&mut a, &mut b, HANDSHAKE, &message);
        assert_eq!(b.end(), PeerEnd::Fault(Fault::Renegotiation));
    }
}

#[test]
fn tickets_in_pieces_reach_the_client() {
    let (mut a, mut b) = pair(ALL[0]);
    b.schedule.client = true;
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, 6][..], b"ticket"].concat();
    give_record(&mut a, &mut b, HANDSHAKE, &ticket[..3]);
    give_record(&mut a, &mut b, HANDSHAKE, &ticket[3..7]);
    give_record(&mut a, &mut b, HANDSHAKE, &[&ticket[7..], &ticket].concat());
    assert_eq!(b.schedule.tickets, 2);
    assert_eq!((b.end(), b.has_data(), b.kept()), (PeerEnd::Open, false, 0));
    // Data between the pieces of a message is out of place.
    give_record(&mut a, &mut b, HANDSHAKE, &ticket[..3]);
    give_record(&mut a, &mut b, APPLICATION_DATA, b"data");
    assert_eq!(b.end(), PeerEnd::Fault(Fault::UnexpectedMessage));
}

#[test]
fn ends_are_told_apart() {
    for suite in ALL {
        let (mut a, mut b) = pair(suite);
        let mut wire = said(&mut a, b"all");
        a.close(&mut |buf| wire.extend_from_slice(&buf));
        b.handle_received(Buf::copy_from(&wire), &mut |_| {});
        b.handle_eof();
        assert_eq!((b.poll_data().as_deref(), b.end()), (Some(&b"all"[..]), PeerEnd::Closed));
        // The other direction stays open.
        give_record(&mut b, &mut a, APPLICATION_DATA, b"late answer");
        assert!(a.poll_data().is_some());
        a.send(Buf::copy_from(b"nothing after close"), &mut |_| panic!("sent after close"));

        let (_, mut b) = pair(suite);
        b.handle_eof();
        assert_eq!(b.end(), PeerEnd::Truncated);
        let (mut a, mut b) = pair(suite);
        give_record(&mut a, &mut b, ALERT, &[FATAL, 42]);
        assert_eq!(b.end(), PeerEnd::Alert(42));
        b.send(Buf::copy_from(b"x"), &mut |_| panic!("sent after an alert"));
    }
}

/// Two ends of one connection.
fn pair(suite: (Version, Suite)) -> (TlsConnection<Mock>, TlsConnection<Mock>) {
    let end = |tx: u8, rx: u8| {
        let schedule = Mock { suite, tx, rx, tx_made: 0, rx_made: 0, tickets: 0, client: false };
        TlsConnection::new(suite.0, Mock::key(suite, tx, 0), Mock::key(suite, rx, 0), schedule, count_event)
    };
    (end(b'a', b'b'), end(b'b', b'a'))
}

/// Keys by direction and generation.
struct Mock {
    suite: (Version, Suite),
    tx: u8,
    rx: u8,
    tx_made: u8,
    rx_made: u8,
    tickets: usize,
    client: bool,
}

impl Mock {
    fn key(suite: (Version, Suite), direction: u8, generation: u8) -> RecordKey {
        let length = if suite.1 == Suite::Aes128Gcm { 16 } else { 32 };
        let mut key = [direction; 32];
        key[0] = generation;
        RecordKey::from_parts(suite.0, suite.1, &key[..length], [direction; 12], 0).unwrap()
    }
}

impl Schedule for Mock {
    fn next_tx(&mut self) -> Result<RecordKey, Fault> {
        self.tx_made += 1;
        Ok(Mock::key(self.suite, self.tx, self.tx_made))
    }

    fn next_rx(&mut self) -> Result<RecordKey, Fault> {
        self.rx_made += 1;
        Ok(Mock::key(self.suite, self.rx, self.rx_made))
    }

    fn take_ticket(&mut self, _body: &[u8]) -> Result<(), Fault> {
        if !self.client {
            return Err(Fault::UnexpectedMessage);
        }
        self.tickets += 1;
        Ok(())
    }

    fn is_client(&self) -> bool {
        self.client
    }
}

thread_local! {
    static EVENTS: [Cell<usize>; 4] = const { [const { Cell::new(0) }; 4] };
}

fn count_event(event: Event) {
    EVENTS.with(|events| events[event as usize].set(events[event as usize].get() + 1));
}

fn events(event: Event) -> usize {
    EVENTS.with(|events| events[event as usize].get())
}

/// What `a` puts on the wire for `data`.
fn said(a: &mut TlsConnection<Mock>, data: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    a.send(Buf::copy_from(data), &mut |buf| wire.extend_from_slice(&buf));
    wire
}

/// One record of any content.
fn sealed(a: &mut TlsConnection<Mock>, content_type: u8, content: &[u8]) -> Vec<Buf> {
    let mut records = Vec::new();
    a.transmit_record(content_type, Buf::copy_from(content), &mut |buf| records.push(buf));
    records
}

fn give(b: &mut TlsConnection<Mock>, record: Buf) {
    b.handle_received(record, &mut |_| {});
}

fn give_record(a: &mut TlsConnection<Mock>, b: &mut TlsConnection<Mock>, content_type: u8, content: &[u8]) {
    sealed(a, content_type, content).into_iter().for_each(|record| give(b, record));
}

fn pattern(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
