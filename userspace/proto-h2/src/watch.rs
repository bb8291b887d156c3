//! Frames that cost their sender nothing and lead nowhere, counted as they come in.
//!
//! The crate answers each PING and SETTINGS, walks its tables for each RST_STREAM, and says nothing of it. What passes is looked at
//! here, nine bytes a frame: each kind has an allowance that comes back with time and with what is useful, and a client that has spent
//! one is sent away. Floods of frames are thus bounded whatever machine reads them.
//!
//! What is sent is looked at as well: each frame of data with something in it allows its receiver a PING and two WINDOW_UPDATEs of
//! the stream and the connection. Those of gRPC measure the path with one PING for each frame they receive, however small.

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

    const fn allowance(self) -> Allowance {
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
struct Allowance {
    /// At once.
    most: u32,
    per_second: u32,
    /// For each request begun.
    per_request: u32,
    /// For each 16 KiB of data sent.
    per_16_kib: u32,
    /// For each DATA frame sent that was not empty. Beside `most`: the frames are on their way while their answers come.
    per_data_frame: u32,
}

/// DATA frames sent whose answers are waited for. Fewer are in flight on any path; a client that has been sent more does not save up.
const DATA_FRAMES_MOST: u32 = 64 * 1024;

/// Allowances are kept in thousandths of a frame, so that a millisecond earns its share.
const FRAME: u64 = 1000;

/// Requests of which one may be cancelled in the long run.
const REQUESTS_PER_RESET: u32 = 4;

/// What is known of the frames a client has sent. It sees what the machine will see, in the same order.
#[derive(Debug)]
pub struct Watch {
    /// What is received, the preface first.
    coming: Heads,
    /// What is sent.
    going: Heads,
    /// In thousandths of a frame, see [`FRAME`].
    left: [u64; Cheap::ALL.len()],
    /// Frames that data sent allows.
    for_data: [u32; Cheap::ALL.len()],
    /// Frames beyond their allowances.
    excess: u32,
    /// The last stream that a head was sent on.
    opened: u32,
    /// Frames sent that want something of the other side.
    wants: u64,
    /// When time last counted.
    since: Instant,
    /// The first allowance that was spent.
    spent: Option<Cheap>,
    /// The frame under way is part of a head.
    of_head: bool,
    /// A header block has begun and not ended.
    in_block: bool,
    /// What comes are answers.
    answers: bool,
    requests: u64,
    data_bytes: u64,
}

impl Watch {
    /// Nothing has come yet, not even the preface.
    pub fn new(now: Instant) -> Watch {
        Watch {
            coming: Heads::after(PREFACE.len() as u32),
            going: Heads::default(),
            left: Cheap::ALL.map(|kind| u64::from(kind.allowance().most) * FRAME),
            for_data: [0; Cheap::ALL.len()],
            excess: 0,
            opened: 0,
            wants: 0,
            since: now,
            spent: None,
            of_head: false,
            in_block: false,
            answers: false,
            requests: 0,
            data_bytes: 0,
        }
    }

    /// For the side that asks: a server sends no preface, and what requests earn is earned as they are sent, see [`Watch::asked`].
    pub fn of_server(now: Instant) -> Watch {
        let going = Heads::after(PREFACE.len() as u32);
        Watch { coming: Heads::default(), going, answers: true, ..Watch::new(now) }
    }

    /// A request was sent to the server that is watched. It may refuse each.
    pub fn asked(&mut self) {
        self.requests += 1;
        self.earn(|allowance| u64::from(allowance.per_request) * FRAME);
        self.earn_resets(1);
    }

    /// These bytes were received.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_millis().min(60_000) as u64;
        if elapsed >= 100 {
            // What is left of a millisecond counts the next time.
            self.since = if elapsed == 60_000 { now } else { self.since + Duration::from_millis(elapsed) };
            self.earn(|allowance| u64::from(allowance.per_second) * elapsed);
        }
        while let Some(head) = self.coming.next(&mut bytes) {
            self.begin_frame(head);
        }
    }

    /// These bytes are sent.
    pub fn said(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.going.next(&mut bytes) {
            // Acknowledgements and PINGs are no reason to say anything of one's own.
            let acknowledges = head.kind == SETTINGS && head.flags & ACK != 0;
            self.wants += u64::from(head.kind != PING && !acknowledges);
            match head.kind {
                DATA if head.length > 0 => {
                    for kind in [Cheap::Ping, Cheap::WindowUpdate] {
                        let each = kind.allowance().per_data_frame;
                        let earned = &mut self.for_data[kind as usize];
                        *earned = (*earned + each).min(each * DATA_FRAMES_MOST);
                    }
                }
                HEADERS => self.opened = self.opened.max(head.stream),
                _ => {}
            }
        }
    }

    /// So many bytes of data were sent.
    pub fn sent(&mut self, bytes: u64) {
        let units = (bytes / (16 * 1024)).min(1024) as u32;
        if units > 0 {
            self.earn(|allowance| u64::from(allowance.per_16_kib * units) * FRAME);
        }
    }

    /// The allowance that was spent, if any was.
    pub fn spent(&self) -> Option<Cheap> {
        self.spent
    }

    /// Frames that came beyond their allowances, of all kinds.
    pub fn excess(&self) -> u32 {
        self.excess
    }

    /// The last stream that we sent a head on; 0: none so far.
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// Frames that we sent, but for PINGs and acknowledgements.
    pub fn wants(&self) -> u64 {
        self.wants
    }

    /// A head has begun to come and is not whole.
    pub fn is_in_head(&self) -> bool {
        self.in_block || self.of_head && self.coming.payload > 0
    }

    /// The client's preface, or a frame, has come in part.
    pub fn is_in_frame(&self) -> bool {
        self.coming.is_within()
    }

    /// Requests begun.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes of DATA frames announced.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    fn begin_frame(&mut self, head: Head) {
        let Head { kind, flags, length, .. } = head;
        self.of_head = matches!(kind, HEADERS | CONTINUATION);
        if self.of_head {
            self.in_block = flags & END_HEADERS == 0;
        }
        let cheap = match kind {
            DATA => {
                self.data_bytes += u64::from(length);
                (length == 0 && flags & END_STREAM == 0).then_some(Cheap::EmptyData)
            }
            HEADERS => {
                if !self.answers {
                    self.begin_request();
                }
                None
            }
            PRIORITY | PRIORITY_UPDATE => Some(Cheap::Priority),
            RST_STREAM => Some(Cheap::Reset),
            SETTINGS if flags & ACK != 0 => None,
            SETTINGS => Some(Cheap::Settings),
            PING if flags & ACK != 0 => None,
            PING => Some(Cheap::Ping),
            WINDOW_UPDATE => Some(Cheap::WindowUpdate),
            CONTINUATION => Some(Cheap::Continuation),
            // What must not come from a client ends the connection anyway.
            PUSH_PROMISE | GOAWAY => None,
            _ => Some(Cheap::Unknown),
        };
        if let Some(cheap) = cheap {
            self.pay(cheap);
        }
    }

    fn pay(&mut self, cheap: Cheap) {
        match (&mut self.for_data[cheap as usize], &mut self.left[cheap as usize]) {
            (0, left) if *left < FRAME => {
                self.spent = self.spent.or(Some(cheap));
                self.excess = self.excess.saturating_add(1);
            }
            (0, left) => *left -= FRAME,
            (earned, _) => *earned -= 1,
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

/// Of one frame.
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
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
                let [a, b, c, kind, flags, s, t, u, v] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]);
                let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
                return Some(Head { length: self.payload, kind, flags, stream });
            }
        }
        None
    }

    fn is_within(&self) -> bool {
        self.preface > 0 || self.have > 0 || self.payload > 0
    }
}

/// What a client of HTTP/2 says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head: length, type, flags, stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// RFC 9218 section 7.1.
const PRIORITY_UPDATE: u8 = 16;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(HEAD + payload, 0);
        frame
    }

    fn watch() -> (Watch, Instant) {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        watch.received(PREFACE, now);
        (watch, now)
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
        assert_eq!((honest.spent(), honest.requests()), (None, 40_000));
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
        assert_eq!((watch.spent(), watch.requests()), (None, 10_000));
        watch.received(&[frame(HEADERS, END_HEADERS, 9), frame(RST_STREAM, 0, 4)].concat().repeat(257), now);
        assert_eq!((watch.spent(), watch.requests()), (Some(Cheap::Reset), 10_000));
    }

    #[test]
    fn frames_are_found_wherever_they_are_split() {
        let bytes = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 18),
            frame(HEADERS, 0, 300),
            frame(CONTINUATION, END_HEADERS, 20),
            frame(DATA, 0, 1000),
            frame(PING, 0, 8),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100, 5000] {
            let now = Instant::now();
            let mut watch = Watch::new(now);
            bytes.chunks(size).for_each(|chunk| watch.received(chunk, now));
            assert_eq!((watch.requests(), watch.data_bytes()), (1, 1000), "{size}");
            assert!(!watch.is_in_frame() && !watch.is_in_head(), "{size}");
            assert_eq!(watch.left[Cheap::Ping as usize], u64::from(Cheap::Ping.allowance().most - 1) * FRAME);
        }
        let (mut open, now) = watch();
        open.received(&frame(HEADERS, 0, 30), now);
        assert!(open.is_in_head() && !open.is_in_frame());
        open.received(&frame(CONTINUATION, 0, 30)[..5], now);
        assert!(open.is_in_head() && open.is_in_frame());
        let (mut cut, now) = watch();
        cut.received(&frame(HEADERS, END_HEADERS, 30)[..20], now);
        assert!(cut.is_in_head());
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
        assert_eq!((watch.opened(), watch.for_data[Cheap::Ping as usize]), (0, 1));
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
