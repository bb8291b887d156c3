//! What passes over a connection to a server, looked at beside the `h2` crate that reads and writes it.
//!
//! The crate answers each PING and SETTINGS, walks its tables for each RST_STREAM, and says nothing of it. Nine bytes a frame are read
//! here once more, so that floods are bounded, see [`Allowances`].

use crate::allowances::{Allowances, Cheap};
use crate::frame::*;
use std::time::Instant;

/// What is known of the frames a server has sent. It sees what the machine will see, in the same order.
#[derive(Debug)]
pub struct Watch {
    /// What is received.
    coming: Heads,
    /// What is sent, the preface first.
    going: Heads,
    allowances: Allowances,
    /// The last stream that a head was sent on.
    opened: u32,
    /// Frames sent that want something of the other side.
    wants: u64,
    /// What comes are answers.
    answers: bool,
}

impl Watch {
    /// A server sends no preface, and what requests earn is earned as they are sent, see [`Watch::asked`].
    pub fn of_server(now: Instant) -> Watch {
        Watch {
            coming: Heads::default(),
            going: Heads::after(PREFACE.len() as u32),
            allowances: Allowances::new(now),
            opened: 0,
            wants: 0,
            answers: true,
        }
    }

    /// A request was sent to the server that is watched. It may refuse each.
    pub fn asked(&mut self) {
        self.allowances.asked();
    }

    /// These bytes were received.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) {
        self.allowances.handle_time(now);
        while let Some(head) = self.coming.next(&mut bytes) {
            self.allowances.handle_frame(&head, !self.answers);
        }
    }

    /// These bytes are sent.
    pub fn said(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.going.next(&mut bytes) {
            // Acknowledgements and PINGs are no reason to say anything of one's own.
            let acknowledges = head.kind == SETTINGS && head.has(ACK);
            self.wants += u64::from(head.kind != PING && !acknowledges);
            match head.kind {
                DATA if head.length > 0 => self.allowances.sent_data(),
                HEADERS => self.opened = self.opened.max(head.stream),
                _ => {}
            }
        }
    }

    /// So many bytes of data were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.allowances.sent(bytes);
    }

    /// Bytes of DATA frames announced.
    pub fn data_bytes(&self) -> u64 {
        self.allowances.data_bytes()
    }

    /// The allowance that was spent, if any was.
    pub fn spent(&self) -> Option<Cheap> {
        self.allowances.spent()
    }

    /// Frames that came beyond their allowances, of all kinds.
    pub fn excess(&self) -> u32 {
        self.allowances.excess()
    }

    /// The last stream that we sent a head on; 0: none so far.
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// Frames that we sent, but for PINGs and acknowledgements.
    pub fn wants(&self) -> u64 {
        self.wants
    }
}

/// The heads of frames among bytes that come in pieces of any size.
#[derive(Debug, Default)]
struct Heads {
    /// Bytes of the preface that are still to come.
    preface: u32,
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the frame under way that are still to come.
    payload: u32,
}

impl Heads {
    fn after(preface: u32) -> Heads {
        Heads { preface, ..Heads::default() }
    }

    /// The next head that these bytes end. `None`: they are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        while !bytes.is_empty() {
            let skipped = self.preface.max(self.payload).min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            if skipped > 0 {
                let left = if self.preface > 0 { &mut self.preface } else { &mut self.payload };
                *left -= skipped;
                *bytes = &bytes[skipped as usize..];
                continue;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            *bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                let head = Head::read(&self.head);
                self.payload = head.length;
                return Some(head);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowances::FRAME;
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(HEAD + payload, 0);
        frame
    }

    /// The side that asks, whose preface has come.
    fn of_client(now: Instant) -> Watch {
        Watch { answers: false, going: Heads::default(), ..Watch::of_server(now) }
    }

    fn watch() -> (Watch, Instant) {
        let now = Instant::now();
        (of_client(now), now)
    }

    #[test]
    fn each_kind_has_an_allowance_that_comes_back_with_time() {
        let kinds = [(PING, 0), (SETTINGS, 0), (PRIORITY, 0), (RST_STREAM, 0), (WINDOW_UPDATE, 0), (DATA, 0)];
        let kinds = kinds.into_iter().chain([(CONTINUATION, 0), (99, 0)]);
        for ((kind, flags), cheap) in kinds.zip(Cheap::ALL) {
            let (mut watch, now) = watch();
            let most = cheap.allowance().most;
            let flood = frame(kind, flags, 0).repeat(most as usize);
            watch.received(&flood, now);
            assert_eq!(watch.spent(), None, "{cheap:?}");
            let later = now + Duration::from_secs(1);
            watch.received(&frame(kind, flags, 0).repeat(cheap.allowance().per_second as usize), later);
            assert_eq!(watch.spent(), None, "{cheap:?}");
            watch.received(&frame(kind, flags, 0), later);
            assert_eq!(watch.spent(), Some(cheap));
        }
    }

    #[test]
    fn answers_of_the_client_cost_nothing() {
        let (mut watch, now) = watch();
        watch.received(
            &[frame(PING, ACK, 8), frame(SETTINGS, ACK, 0), frame(DATA, END_STREAM, 0)].concat().repeat(5000),
            now,
        );
        assert_eq!(watch.spent(), None);
    }

    #[test]
    fn one_request_in_four_may_be_cancelled() {
        let (mut honest, now) = watch();
        let four = [frame(HEADERS, END_HEADERS, 10).repeat(4), frame(RST_STREAM, 0, 4)].concat();
        honest.received(&four.repeat(10_000), now);
        assert_eq!((honest.spent(), honest.allowances.requests()), (None, 40_000));
        let (mut rapid, now) = watch();
        let each = [frame(HEADERS, END_HEADERS, 10), frame(RST_STREAM, 0, 4)].concat();
        rapid.received(&each.repeat(400), now);
        assert_eq!(rapid.spent(), Some(Cheap::Reset));
    }

    #[test]
    fn a_server_may_refuse_every_request_and_reset_nothing_else() {
        let now = Instant::now();
        let mut watch = Watch::of_server(now);
        for _ in 0..10_000 {
            watch.asked();
            watch.received(&frame(RST_STREAM, 0, 4), now);
        }
        assert_eq!((watch.spent(), watch.allowances.requests()), (None, 10_000));
        watch.received(&[frame(HEADERS, END_HEADERS, 9), frame(RST_STREAM, 0, 4)].concat().repeat(257), now);
        assert_eq!((watch.spent(), watch.allowances.requests()), (Some(Cheap::Reset), 10_000));
    }

    #[test]
    fn frames_are_found_wherever_they_are_split() {
        let bytes = [
            frame(SETTINGS, 0, 18),
            frame(HEADERS, 0, 300),
            frame(CONTINUATION, END_HEADERS, 20),
            frame(DATA, 0, 1000),
            frame(PING, 0, 8),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100, 5000] {
            let now = Instant::now();
            let mut watch = of_client(now);
            bytes.chunks(size).for_each(|chunk| watch.received(chunk, now));
            assert_eq!((watch.allowances.requests(), watch.data_bytes()), (1, 1000), "{size}");
            assert_eq!(
                watch.allowances.left[Cheap::Ping as usize],
                u64::from(Cheap::Ping.allowance().most - 1) * FRAME
            );
        }
    }

    #[test]
    fn windows_may_be_opened_for_what_was_sent() {
        let (mut watch, now) = watch();
        for _ in 0..100 {
            watch.sent(1 << 20);
            watch.received(&frame(WINDOW_UPDATE, 0, 4).repeat(1500), now);
        }
        assert_eq!(watch.spent(), None);
    }

    /// grpc-go's estimator: with each frame of data that comes while no question is open a PING, and both windows opened.
    #[test]
    fn each_frame_of_data_may_be_answered_with_a_ping() {
        let answer = [frame(PING, 0, 8), frame(WINDOW_UPDATE, 0, 4).repeat(2)].concat();
        for in_flight in [1, 10, 5_000] {
            let (mut watch, now) = watch();
            for _ in 0..50_000 / in_flight {
                let sent = frame(DATA, 0, 7).repeat(in_flight);
                sent.chunks(5).for_each(|chunk| watch.said(chunk));
                watch.received(&answer.repeat(in_flight), now);
            }
            assert_eq!((watch.spent(), watch.excess()), (None, 0), "{in_flight}");
            // Empty frames, those of other kinds, and what was answered already allow none.
            let others = [frame(DATA, 0, 0), frame(HEADERS, END_HEADERS, 9), frame(PING, ACK, 8)].concat();
            watch.said(&others.repeat(1000));
            watch.received(&frame(PING, 0, 8).repeat(210), now);
            assert_eq!((watch.spent(), watch.excess()), (Some(Cheap::Ping), 10), "{in_flight}");
        }
        let (mut saving, now) = watch();
        saving.said(&frame(DATA, 0, 1).repeat(1_000_000));
        saving.received(&frame(PING, 0, 8).repeat(100_000), now);
        assert_eq!(saving.spent(), Some(Cheap::Ping), "what is saved up has a bound");
    }

    #[test]
    fn heads_that_were_sent_are_found_behind_the_preface() {
        let mut watch = Watch::of_server(Instant::now());
        for chunk in [PREFACE, &frame(SETTINGS, 0, 18), &frame(DATA, 0, 300)].concat().chunks(7) {
            watch.said(chunk);
        }
        assert_eq!((watch.opened(), watch.allowances.for_data[Cheap::Ping as usize]), (0, 1));
        let mut head = frame(HEADERS, END_HEADERS, 20);
        head[8] = 9;
        head.chunks(4).for_each(|chunk| watch.said(chunk));
        assert_eq!((watch.opened(), watch.wants()), (9, 3));
        watch.said(&[frame(PING, 0, 8), frame(PING, ACK, 8), frame(SETTINGS, ACK, 0)].concat());
        assert_eq!(watch.wants(), 3);
    }

    /// However often the connection is looked at, a second earns what it says.
    #[test]
    fn no_part_of_a_second_is_lost() {
        for millis in [1, 99, 100, 101, 150, 333, 999, 1500] {
            let (mut watch, start) = watch();
            let (mut now, mut settings) = (start, 0);
            while settings < 200 {
                now += Duration::from_millis(millis);
                let due = (now - start).as_secs();
                watch.received(&frame(SETTINGS, 0, 0).repeat((due - settings) as usize), now);
                settings = due;
            }
            assert_eq!(watch.spent(), None, "looked at every {millis} ms");
            watch.received(&frame(SETTINGS, 0, 0).repeat(33), now);
            assert_eq!(watch.spent(), Some(Cheap::Settings));
        }
    }
}
