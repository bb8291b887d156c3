//! Frames that cost their sender nothing and lead nowhere, counted as they come in: each kind has an allowance that comes back with time
//! and with what is useful, and a peer that has spent one is sent away.
//!
//! What is sent counts as well: each frame of data with something in it allows its receiver a PING and two WINDOW_UPDATEs of the stream
//! and the connection. Those of gRPC measure the path with one PING for each frame they receive, however small.

use crate::frame::*;
use std::time::{Duration, Instant};

/// Kinds of frames that have an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cheap {
    Ping,
    Settings,
    Priority,
    Reset,
    WindowUpdate,
    EmptyData,
    Continuation,
    Unknown,
}

impl Cheap {
    pub const ALL: [Cheap; 8] = [
        Cheap::Ping,
        Cheap::Settings,
        Cheap::Priority,
        Cheap::Reset,
        Cheap::WindowUpdate,
        Cheap::EmptyData,
        Cheap::Continuation,
        Cheap::Unknown,
    ];

    /// The name to count it by when its allowance is spent.
    pub const fn name(self) -> &'static str {
        match self {
            Cheap::Ping => "h2_pings",
            Cheap::Settings => "h2_settings",
            Cheap::Priority => "h2_priorities",
            Cheap::Reset => "h2_resets",
            Cheap::WindowUpdate => "h2_window_updates",
            Cheap::EmptyData => "h2_empty_data",
            Cheap::Continuation => "h2_continuations",
            Cheap::Unknown => "h2_unknown_frames",
        }
    }

    pub(crate) const fn allowance(self) -> Allowance {
        match self {
            // gRPC measures round trips while data flows, and asks with each frame of data it receives while no question is open.
            Cheap::Ping => Allowance { most: 200, per_second: 20, per_request: 1, per_16_kib: 0, per_data_frame: 1 },
            // Once, and again when a client changes its mind.
            Cheap::Settings => Allowance { most: 32, per_second: 1, per_request: 0, per_16_kib: 0, per_data_frame: 0 },
            // Old browsers send a tree of five at first and one for each request.
            Cheap::Priority => {
                Allowance { most: 256, per_second: 20, per_request: 2, per_16_kib: 0, per_data_frame: 0 }
            }
            // A page that is left cancels what it was waiting for, and one request in four is cancelled at most in the long run
            // (Rapid Reset, CVE-2023-44487).
            Cheap::Reset => Allowance { most: 256, per_second: 16, per_request: 0, per_16_kib: 0, per_data_frame: 0 },
            // Some open both windows for each frame of data, others in smaller steps.
            Cheap::WindowUpdate => {
                Allowance { most: 2048, per_second: 200, per_request: 4, per_16_kib: 64, per_data_frame: 2 }
            }
            Cheap::EmptyData => {
                Allowance { most: 100, per_second: 10, per_request: 1, per_16_kib: 0, per_data_frame: 0 }
            }
            // A head of 64 KiB needs four (CONTINUATION flood, CVE-2024-27316).
            Cheap::Continuation => {
                Allowance { most: 64, per_second: 16, per_request: 4, per_16_kib: 0, per_data_frame: 0 }
            }
            // Some are sent to see that they do no harm (RFC 8701).
            Cheap::Unknown => Allowance { most: 128, per_second: 16, per_request: 1, per_16_kib: 0, per_data_frame: 0 },
        }
    }
}

/// How many frames of a kind may come.
pub(crate) struct Allowance {
    /// At once.
    pub most: u32,
    pub per_second: u32,
    /// For each request begun.
    per_request: u32,
    /// For each 16 KiB of data sent.
    per_16_kib: u32,
    /// For each DATA frame sent that was not empty. Beside `most`: the frames are on their way while their answers come.
    per_data_frame: u32,
}

/// Kinds that DATA frames sent allow.
const FOR_DATA: [Cheap; 2] = [Cheap::Ping, Cheap::WindowUpdate];

/// DATA frames sent whose answers are waited for. Fewer are in flight on any path; a client that has been sent more does not save up.
const DATA_FRAMES_MOST: u32 = 64 * 1024;

/// Allowances are kept in thousandths of a frame, so that a millisecond earns its share.
pub(crate) const FRAME: u64 = 1000;

/// Requests of which one may be cancelled in the long run.
const REQUESTS_PER_RESET: u32 = 4;

/// Streams that may end because of what the peer got wrong, in a second, beside those it may get wrong at once: as many as it may cancel.
const BLAMES_PER_SECOND: u64 = 16;

/// Heads, trailers and ends that may be on their way to each request when it is given up: interim answers are beside them for most.
const LATE_PER_REQUEST: u32 = 4;

/// What is left of the allowances of one peer.
#[derive(Debug)]
pub struct Allowances {
    /// In thousandths of a frame, see [`FRAME`].
    pub(crate) left: [u64; Cheap::ALL.len()],
    /// Frames that data sent allows.
    for_data: [u32; FOR_DATA.len()],
    /// Frames, and streams that ended because of what the peer got wrong, beyond their allowances.
    excess: u32,
    /// When time last counted.
    since: Instant,
    /// The first allowance that was spent.
    spent: Option<Cheap>,
    requests: u64,
    /// Streams that may end because of what the peer got wrong, in thousandths; and how many at once.
    blames: u64,
    blames_most: u32,
    /// Frames that may still come of requests that are over, see [`LATE_PER_REQUEST`].
    late: u32,
    /// Bytes sent that have not earned anything yet.
    unearned: u64,
}

impl Allowances {
    /// `blames_most`: streams that may end at once because of what the peer got wrong.
    pub fn new(now: Instant, blames_most: u32) -> Allowances {
        Allowances {
            left: Cheap::ALL.map(|kind| u64::from(kind.allowance().most) * FRAME),
            for_data: [0; FOR_DATA.len()],
            excess: 0,
            since: now,
            spent: None,
            requests: 0,
            blames: u64::from(blames_most) * FRAME,
            blames_most,
            late: 0,
            unearned: 0,
        }
    }

    /// Time earns what it earns.
    pub fn handle_time(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_millis().min(60_000) as u64;
        if elapsed >= 100 {
            // What is left of a millisecond counts the next time.
            self.since = if elapsed == 60_000 { now } else { self.since + Duration::from_millis(elapsed) };
            self.earn(|allowance| u64::from(allowance.per_second) * elapsed);
            self.blames = (self.blames + BLAMES_PER_SECOND * elapsed).min(u64::from(self.blames_most) * FRAME);
        }
    }

    /// A frame has begun to come. Who sends requests earns something with each.
    pub fn handle_frame(&mut self, head: &Head, sends_requests: bool) {
        let cheap = match head.kind {
            DATA => (head.length == 0 && !head.has(END_STREAM)).then_some(Cheap::EmptyData),
            HEADERS => {
                if sends_requests {
                    self.begin_request();
                }
                None
            }
            PRIORITY | PRIORITY_UPDATE => Some(Cheap::Priority),
            RST_STREAM => Some(Cheap::Reset),
            SETTINGS if head.has(ACK) => None,
            SETTINGS => Some(Cheap::Settings),
            PING if head.has(ACK) => None,
            PING => Some(Cheap::Ping),
            WINDOW_UPDATE => Some(Cheap::WindowUpdate),
            CONTINUATION => Some(Cheap::Continuation),
            // Once, and again when a peer has more to say; as settings are.
            GOAWAY => Some(Cheap::Settings),
            // It must not come, which ends the connection anyway.
            PUSH_PROMISE => None,
            _ => Some(Cheap::Unknown),
        };
        if let Some(cheap) = cheap {
            self.pay(cheap);
        }
    }

    /// A frame with nothing to read in it came of a stream that is over. It was on its way when we gave that up, or leads nowhere.
    pub fn handle_late(&mut self) {
        match self.late.checked_sub(1) {
            Some(left) => self.late = left,
            None => self.pay(Cheap::Unknown),
        }
    }

    /// A DATA frame has nothing in it but padding.
    pub fn handle_padding(&mut self) {
        self.pay(Cheap::EmptyData);
    }

    /// A DATA frame with something in it is sent.
    pub fn sent_data(&mut self) {
        for (kind, earned) in FOR_DATA.iter().zip(&mut self.for_data) {
            let each = kind.allowance().per_data_frame;
            *earned = (*earned + each).min(each * DATA_FRAMES_MOST);
        }
    }

    /// So many bytes of data were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.unearned += bytes;
        let units = self.unearned / UNIT;
        if units > 0 {
            self.unearned %= UNIT;
            let units = units.min(1024) as u32;
            self.earn(|allowance| u64::from(allowance.per_16_kib * units) * FRAME);
        }
    }

    /// A request was sent to the peer. It may refuse each.
    pub fn asked(&mut self) {
        self.requests += 1;
        self.late = self.late.saturating_add(LATE_PER_REQUEST);
        self.earn(|allowance| u64::from(allowance.per_request) * FRAME);
        self.earn_resets(1);
    }

    /// The allowance that was spent, if any was.
    pub fn spent(&self) -> Option<Cheap> {
        self.spent
    }

    /// Frames that came beyond their allowances, of all kinds, and faults of streams beyond theirs.
    pub fn excess(&self) -> u32 {
        self.excess
    }

    /// Requests begun.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// A stream ends because of what the peer got wrong. False: too many did.
    pub fn blame(&mut self) -> bool {
        match self.blames.checked_sub(FRAME) {
            Some(left) => self.blames = left,
            None => {
                self.excess = self.excess.saturating_add(1);
                return false;
            }
        }
        true
    }

    fn pay(&mut self, cheap: Cheap) {
        let at = FOR_DATA.iter().position(|kind| *kind == cheap);
        match at.map(|at| &mut self.for_data[at]).filter(|earned| **earned > 0) {
            Some(earned) => *earned -= 1,
            None => match self.left[cheap as usize].checked_sub(FRAME) {
                Some(left) => self.left[cheap as usize] = left,
                None => {
                    self.spent = self.spent.or(Some(cheap));
                    self.excess = self.excess.saturating_add(1);
                }
            },
        }
    }

    fn begin_request(&mut self) {
        self.requests += 1;
        let resets = u32::from(self.requests.is_multiple_of(u64::from(REQUESTS_PER_RESET)));
        self.earn(|allowance| u64::from(allowance.per_request) * FRAME);
        self.earn_resets(resets);
    }

    fn earn_resets(&mut self, resets: u32) {
        let left = &mut self.left[Cheap::Reset as usize];
        *left = (*left + u64::from(resets) * FRAME).min(u64::from(Cheap::Reset.allowance().most) * FRAME);
    }

    /// `earned` is in thousandths of a frame.
    fn earn(&mut self, earned: impl Fn(&Allowance) -> u64) {
        for kind in Cheap::ALL {
            let allowance = kind.allowance();
            let left = &mut self.left[kind as usize];
            *left = (*left + earned(&allowance)).min(u64::from(allowance.most) * FRAME);
        }
    }
}

/// Bytes of data that earn something.
const UNIT: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: u8, flags: u8, length: u32) -> Head {
        Head { length, kind, flags, stream: 1 }
    }

    /// Of a peer that sends requests.
    fn come(allowances: &mut Allowances, head: Head, times: u32) {
        (0..times).for_each(|_| allowances.handle_frame(&head, true));
    }

    fn fresh() -> (Allowances, Instant) {
        let now = Instant::now();
        (Allowances::new(now, 4), now)
    }

    #[test]
    fn each_kind_has_an_allowance_that_comes_back_with_time() {
        let kinds = [(PING, 0), (SETTINGS, 0), (PRIORITY, 0), (RST_STREAM, 0), (WINDOW_UPDATE, 0), (DATA, 0)];
        let kinds = kinds.into_iter().chain([(CONTINUATION, 0), (99, 0)]);
        for ((kind, flags), cheap) in kinds.zip(Cheap::ALL) {
            let (mut allowances, now) = fresh();
            come(&mut allowances, head(kind, flags, 0), cheap.allowance().most);
            assert_eq!(allowances.spent(), None, "{cheap:?}");
            allowances.handle_time(now + Duration::from_secs(1));
            come(&mut allowances, head(kind, flags, 0), cheap.allowance().per_second);
            assert_eq!(allowances.spent(), None, "{cheap:?}");
            come(&mut allowances, head(kind, flags, 0), 1);
            assert_eq!(allowances.spent(), Some(cheap));
        }
    }

    #[test]
    fn answers_of_the_peer_cost_nothing() {
        let (mut allowances, _) = fresh();
        for head in [head(PING, ACK, 8), head(SETTINGS, ACK, 0), head(DATA, END_STREAM, 0)] {
            come(&mut allowances, head, 5000);
        }
        assert_eq!(allowances.spent(), None);
    }

    #[test]
    fn one_request_in_four_may_be_cancelled() {
        let (mut honest, _) = fresh();
        for _ in 0..10_000 {
            come(&mut honest, head(HEADERS, END_HEADERS, 10), 4);
            come(&mut honest, head(RST_STREAM, 0, 4), 1);
        }
        assert_eq!((honest.spent(), honest.requests()), (None, 40_000));
        let (mut rapid, _) = fresh();
        for _ in 0..400 {
            come(&mut rapid, head(HEADERS, END_HEADERS, 10), 1);
            come(&mut rapid, head(RST_STREAM, 0, 4), 1);
        }
        assert_eq!(rapid.spent(), Some(Cheap::Reset));
    }

    #[test]
    fn a_server_may_refuse_every_request_and_reset_nothing_else() {
        let (mut allowances, _) = fresh();
        for _ in 0..10_000 {
            allowances.asked();
            allowances.handle_frame(&head(RST_STREAM, 0, 4), false);
        }
        assert_eq!((allowances.spent(), allowances.requests()), (None, 10_000));
        for _ in 0..257 {
            allowances.handle_frame(&head(HEADERS, END_HEADERS, 9), false);
            allowances.handle_frame(&head(RST_STREAM, 0, 4), false);
        }
        assert_eq!((allowances.spent(), allowances.requests()), (Some(Cheap::Reset), 10_000));
    }

    #[test]
    fn windows_may_be_opened_for_what_was_sent() {
        let (mut allowances, _) = fresh();
        for _ in 0..100 {
            allowances.sent(1 << 20);
            come(&mut allowances, head(WINDOW_UPDATE, 0, 4), 1500);
        }
        assert_eq!(allowances.spent(), None);
    }

    /// grpc-go's estimator: with each frame of data that comes while no question is open a PING, and both windows opened.
    #[test]
    fn each_frame_of_data_may_be_answered_with_a_ping() {
        for in_flight in [1, 10, 5_000] {
            let (mut allowances, _) = fresh();
            for _ in 0..50_000 / in_flight {
                (0..in_flight).for_each(|_| allowances.sent_data());
                come(&mut allowances, head(PING, 0, 8), in_flight);
                come(&mut allowances, head(WINDOW_UPDATE, 0, 4), 2 * in_flight);
            }
            assert_eq!((allowances.spent(), allowances.excess()), (None, 0), "{in_flight}");
            // What was answered already allows none.
            come(&mut allowances, head(PING, 0, 8), 210);
            assert_eq!((allowances.spent(), allowances.excess()), (Some(Cheap::Ping), 10), "{in_flight}");
        }
        let (mut saving, _) = fresh();
        (0..1_000_000).for_each(|_| saving.sent_data());
        come(&mut saving, head(PING, 0, 8), 100_000);
        assert_eq!(saving.spent(), Some(Cheap::Ping), "what is saved up has a bound");
    }

    /// However often the connection is looked at, a second earns what it says.
    #[test]
    fn no_part_of_a_second_is_lost() {
        for millis in [1, 99, 100, 101, 150, 333, 999, 1500] {
            let (mut allowances, start) = fresh();
            let (mut now, mut settings) = (start, 0);
            while settings < 200 {
                now += Duration::from_millis(millis);
                let due = (now - start).as_secs();
                allowances.handle_time(now);
                come(&mut allowances, head(SETTINGS, 0, 0), (due - settings) as u32);
                settings = due;
            }
            assert_eq!(allowances.spent(), None, "looked at every {millis} ms");
            come(&mut allowances, head(SETTINGS, 0, 0), 33);
            assert_eq!(allowances.spent(), Some(Cheap::Settings));
        }
    }

    /// A long life is no fault, and a flood is one.
    #[test]
    fn what_a_peer_got_wrong_is_forgiven_with_time() {
        let (mut allowances, start) = fresh();
        for second in 0..1000 {
            allowances.handle_time(start + Duration::from_secs(second));
            assert!((0..4).all(|_| allowances.blame()), "{second}");
        }
        assert!(!allowances.blame());
        allowances.handle_time(start + Duration::from_secs(5000));
        assert_eq!((0..100).filter(|_| allowances.blame()).count(), 4, "no more than at once");
    }
}
