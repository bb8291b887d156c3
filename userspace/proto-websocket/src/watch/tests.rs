use super::*;
use crate::close::{CloseCode, write_close};
use proptest::prelude::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as it may come: what it says, whether it is masked, and the first byte's bits as they are.
#[derive(Debug, Clone)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
    mask: Option<[u8; 4]>,
}

impl Frame {
    fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        frame::write(out, true, Opcode::Text, self.mask, &self.payload);
        out[at] = self.first;
    }
}

/// The rules of RFC 6455 in their plainest form, over whole frames: how many bytes pass and what is behind them.
fn model(frames: &[Frame], sender: Sender, most: Option<u64>) -> (usize, Then) {
    let (mut passed, mut message) = (0, None::<(bool, Vec<u8>)>);
    for frame in frames {
        let (mut bytes, opcode, last) = (Vec::new(), frame.first & 0x0f, frame.first & 0x80 != 0);
        frame.write(&mut bytes);
        let head = bytes.len() - frame.payload.len();
        let fails = |fault| (passed, Then::Failed(fault));
        if frame.first & 0x70 != 0 {
            return fails(Fault::ReservedBit);
        }
        if !matches!(opcode, 0..=2 | 8..=10) {
            return fails(Fault::Opcode);
        }
        if frame.mask.is_some() != (sender == Sender::Client) {
            return fails(Fault::Mask);
        }
        if opcode >= 8 {
            if !last || frame.payload.len() > 125 {
                return fails(Fault::Control);
            }
            if opcode == 8 {
                match &frame.payload[..] {
                    [] => {}
                    [_] => return fails(Fault::Close),
                    [high, low, reason @ ..] => {
                        if !may_be_said(u16::from_be_bytes([*high, *low])) {
                            return fails(Fault::Close);
                        }
                        if std::str::from_utf8(reason).is_err() {
                            return fails(Fault::Text);
                        }
                    }
                }
                return (passed + bytes.len(), Then::Closed);
            }
            passed += bytes.len();
            continue;
        }
        match (&mut message, opcode) {
            (None, 0) | (Some(_), 1 | 2) => return fails(Fault::Fragments),
            (Some(_), _) => {}
            (none, opcode) => *none = Some((opcode == 1, Vec::new())),
        }
        let Some((is_text, sum)) = &mut message else { unreachable!() };
        if most.is_some_and(|most| (sum.len() + frame.payload.len()) as u64 > most) {
            return fails(Fault::TooBig);
        }
        let had = sum.len();
        sum.extend_from_slice(&frame.payload);
        if *is_text {
            // The first byte with which what came so far is no text whatever follows.
            let bad = (had..sum.len())
                .find(|end| std::str::from_utf8(&sum[..end + 1]).is_err_and(|error| error.error_len().is_some()));
            if let Some(bad) = bad {
                return (passed + head + (bad - had), Then::Failed(Fault::Text));
            }
        }
        passed += bytes.len();
        if last {
            if *is_text && std::str::from_utf8(sum).is_err() {
                return (passed, Then::Failed(Fault::Text));
            }
            message = None;
        }
    }
    (passed, Then::More)
}

/// Hands the bytes over in pieces; says how many passed, what came then, and checks what is held back.
fn run(bytes: &[u8], mut watch: Watch, cuts: &[usize]) -> (usize, Then) {
    let (mut passed, mut end) = (0, 0);
    let mut cuts = cuts.iter().cycle();
    loop {
        end = (end + cuts.next().unwrap()).min(bytes.len());
        let seen = watch.handle(&bytes[passed..end]);
        passed += seen.passes;
        assert!(passed <= end);
        if seen.then != Then::More {
            return (passed, seen.then);
        }
        assert!(end - passed < HELD_MOST, "{} bytes are held back", end - passed);
        if end == bytes.len() {
            return (passed, Then::More);
        }
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "\\PC{0,30}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(Just(b'x'), 120..140),
        1 => prop::collection::vec(Just(b'y'), 600..1200),
        2 => (prop_oneof![Just(1000u16), Just(1005), any::<u16>()], "\\PC{0,10}")
            .prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
    ]
}

fn frames(sender: Sender) -> impl Strategy<Value = Vec<Frame>> {
    let first = prop_oneof![
        4 => Just(0x81), 2 => Just(0x82), 3 => Just(0x01), 1 => Just(0x02), 4 => Just(0x00), 4 => Just(0x80),
        3 => Just(0x89), 3 => Just(0x8a), 1 => Just(0x88), 1 => any::<u8>(),
    ];
    let frame = (first, payload(), any::<[u8; 4]>(), prop::bool::weighted(0.02)).prop_map(
        move |(first, payload, mask, odd)| {
            let masked = (sender == Sender::Client) != odd;
            Frame { first, payload, mask: masked.then_some(mask) }
        },
    );
    prop::collection::vec(frame, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn frames_are_judged_as_the_rules_say_however_they_are_cut(
        (sender, frames) in prop_oneof![Just(Sender::Client), Just(Sender::Server)]
            .prop_flat_map(|sender| (Just(sender), frames(sender))),
        most in prop_oneof![Just(None), (0u64..200).prop_map(Some)],
        cuts in prop::collection::vec(prop_oneof![1usize..9, 1usize..700], 1..12),
    ) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        let expected = model(&frames, sender, most);
        prop_assert_eq!(run(&bytes, Watch::new(sender, most), &[bytes.len().max(1)]), expected);
        prop_assert_eq!(run(&bytes, Watch::new(sender, most), &cuts), expected);
    }
}

#[test]
fn a_message_may_be_as_long_as_said_and_no_longer() {
    for (pieces, fails) in
        [(&[10][..], false), (&[11], true), (&[4, 6], false), (&[4, 4, 3], true), (&[0, 10, 0], false)]
    {
        let mut bytes = Vec::new();
        for (n, length) in pieces.iter().enumerate() {
            let opcode = if n == 0 { Opcode::Binary } else { Opcode::Continuation };
            frame::write(&mut bytes, n + 1 == pieces.len(), opcode, Some(MASK), &vec![7; *length]);
            // Control frames are no part of it.
            frame::write(&mut bytes, true, Opcode::Ping, Some(MASK), b"0123456789");
        }
        let mut watch = Watch::new(Sender::Client, Some(10));
        let seen = watch.handle(&bytes);
        assert_eq!(seen.then == Then::Failed(Fault::TooBig), fails, "{pieces:?}");
        assert!(watch.is_between_frames(), "nothing of what is too long has passed");
        if !fails {
            // The next message begins anew.
            let mut next = Vec::new();
            frame::write(&mut next, true, Opcode::Binary, Some(MASK), &[7; 10]);
            assert_eq!(watch.handle(&next), Seen { passes: next.len(), then: Then::More });
        }
    }
}

#[test]
fn the_length_says_it_before_anything_of_it_comes() {
    let head = [0x82, 0xff, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 2, 3, 4];
    let seen = Watch::new(Sender::Client, Some(1 << 20)).handle(&head);
    assert_eq!(seen, Seen { passes: 0, then: Then::Failed(Fault::TooBig) });
    assert_eq!(Watch::new(Sender::Client, None).handle(&head), Seen { passes: 14, then: Then::More });
}

#[test]
fn who_leaves_finishes_the_frame_under_way() {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, true, Opcode::Binary, None, &[7; 100]);
    let end = bytes.len();
    frame::write(&mut bytes, true, Opcode::Binary, None, &[8; 100]);
    let mut watch = Watch::new(Sender::Server, None);
    assert_eq!(watch.handle(&bytes[..50]), Seen { passes: 50, then: Then::More });
    watch.leave();
    assert_eq!(watch.handle(&bytes[50..60]), Seen { passes: 10, then: Then::More });
    assert_eq!(watch.handle(&bytes[60..]), Seen { passes: end - 60, then: Then::Left });
    assert!(watch.is_between_frames());
}

#[test]
fn a_close_is_the_end_and_passes_whole() {
    let close = write_close(CloseCode::GoingAway, Some(MASK));
    let mut watch = Watch::new(Sender::Client, None);
    for end in 0..close.len() {
        assert_eq!(watch.handle(&close[..end]), Seen { passes: 0, then: Then::More }, "{end}");
    }
    let more = [&close[..], &[0xff; 40]].concat();
    assert_eq!(watch.handle(&more), Seen { passes: close.len(), then: Then::Closed });
}
