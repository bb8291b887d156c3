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

/// DATA frames sent whose answers are waited for. Fewer are in flight on any path; a client that has been sent more does not save up.
const DATA_FRAMES_MOST: u32 = 64 * 1024;

/// Allowances are kept in thousandths of a frame, so that a millisecond earns its share.
pub(crate) const FRAME: u64 = 1000;

/// Requests of which one may be cancelled in the long run.
const REQUESTS_PER_RESET: u32 = 4;

/// What is left of the allowances of one peer.
#[derive(Debug)]
pub struct Allowances {
    /// In thousandths of a frame, see [`FRAME`].
    pub(crate) left: [u64; Cheap::ALL.len()],
    /// Frames that data sent allows.
    pub(crate) for_data: [u32; Cheap::ALL.len()],
    /// Frames beyond their allowances.
    excess: u32,
    /// When time last counted.
    since: Instant,
    /// The first allowance that was spent.
    spent: Option<Cheap>,
    requests: u64,
    /// Bytes of DATA frames that came.
    data_bytes: u64,
    /// Bytes sent that have not earned anything yet.
    unearned: u64,
}

impl Allowances {
    pub fn new(now: Instant) -> Allowances {
        Allowances {
            left: Cheap::ALL.map(|kind| u64::from(kind.allowance().most) * FRAME),
            for_data: [0; Cheap::ALL.len()],
            excess: 0,
            since: now,
            spent: None,
            requests: 0,
            data_bytes: 0,
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
        }
    }

    /// A frame has begun to come. Who sends requests earns something with each.
    pub fn handle_frame(&mut self, head: &Head, sends_requests: bool) {
        let cheap = match head.kind {
            DATA => {
                self.data_bytes += u64::from(head.length);
                (head.length == 0 && !head.has(END_STREAM)).then_some(Cheap::EmptyData)
            }
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
            // What must not come from a client ends the connection anyway.
            PUSH_PROMISE | GOAWAY => None,
            _ => Some(Cheap::Unknown),
        };
        if let Some(cheap) = cheap {
            self.pay(cheap);
        }
    }

    /// A DATA frame with something in it is sent.
    pub fn sent_data(&mut self) {
        for kind in [Cheap::Ping, Cheap::WindowUpdate] {
            let each = kind.allowance().per_data_frame;
            let earned = &mut self.for_data[kind as usize];
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

    /// A request was sent to the server that is watched. It may refuse each.
    pub fn asked(&mut self) {
        self.requests += 1;
        self.earn(|allowance| u64::from(allowance.per_request) * FRAME);
        self.earn_resets(1);
    }

    /// The allowance that was spent, if any was.
    pub fn spent(&self) -> Option<Cheap> {
        self.spent
    }

    /// Frames that came beyond their allowances, of all kinds.
    pub fn excess(&self) -> u32 {
        self.excess
    }

    /// Requests begun.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes of DATA frames announced.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
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

/// Bytes of data that earn something.
const UNIT: u64 = 16 * 1024;
