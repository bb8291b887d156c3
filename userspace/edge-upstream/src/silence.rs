//! When a backend that says nothing is asked whether it is there (PING), and when it is held to be gone.
//!
//! A stream may say nothing for hours, and servers of gRPC end the connection of a client that asks often: they take one PING in five
//! minutes while they send no data (`GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS`). So it is asked only where something that
//! we sent has not been followed by anything, once in each such silence. Silence that nobody caused says nothing.

use std::time::{Duration, Instant};

/// A backend that has said nothing for so long, after we told it something, is asked whether it is there.
const SILENT_MOST: Duration = Duration::from_secs(30);

/// How long it has to say so. A connection that many wait for must not stay with a machine that is gone.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// Between two questions: the five minutes of gRPC, and what a question may overtake the one before by on its way.
const ASKED_APART: Duration = Duration::from_secs(310);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Look again at this time.
    Wait(Instant),
    /// Ask it, and look again.
    Ask,
    /// It did not say that it is there.
    Gone,
}

/// What is known of one connection.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// Bytes received, and frames sent that want something of the backend, when it was last looked at.
    heard: u64,
    said: u64,
    /// When the first of those frames was sent after which nothing was heard.
    since: Option<Instant>,
    /// When it was asked, while its answer is waited for.
    asked: Option<Instant>,
    /// When it was asked last.
    last: Option<Instant>,
}

impl Silence {
    /// So many bytes were received by now, and so many frames sent. `waiting`: requests are under way.
    pub(crate) fn look(&mut self, heard: u64, said: u64, waiting: bool, now: Instant) -> Next {
        if std::mem::replace(&mut self.heard, heard) != heard || !waiting {
            (self.since, self.asked) = (None, None);
        }
        if std::mem::replace(&mut self.said, said) != said && waiting {
            self.since.get_or_insert(now);
        }
        if let Some(asked) = self.asked {
            let end = asked + PONG_WITHIN;
            return if now >= end { Next::Gone } else { Next::Wait(end) };
        }
        let Some(since) = self.since else { return Next::Nothing };
        let due = self.last.map_or(since + SILENT_MOST, |last| (since + SILENT_MOST).max(last + ASKED_APART));
        if now < due {
            return Next::Wait(due);
        }
        (self.asked, self.last) = (Some(now), Some(now));
        Next::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, second by second: who speaks when, and how the backend takes being asked.
    #[derive(Default)]
    struct Play {
        silence: Silence,
        heard: u64,
        said: u64,
        pings: Vec<u64>,
    }

    impl Play {
        /// Runs to its end, or until the backend is held to be gone: when that was.
        fn run(
            &mut self,
            seconds: u64,
            hears: impl Fn(u64) -> bool,
            says: impl Fn(u64) -> bool,
            is_there: bool,
        ) -> Option<u64> {
            let start = Instant::now();
            for second in 0..seconds {
                self.heard += u64::from(hears(second));
                self.said += u64::from(says(second));
                loop {
                    match self.silence.look(self.heard, self.said, true, start + Duration::from_secs(second)) {
                        Next::Ask => {
                            self.pings.push(second);
                            self.heard += u64::from(is_there);
                        }
                        Next::Gone => return Some(second),
                        Next::Wait(_) | Next::Nothing => break,
                    }
                }
            }
            None
        }
    }

    #[test]
    fn a_stream_may_say_nothing_for_hours() {
        let mut play = Play::default();
        // The request, its head, and then nothing.
        assert_eq!(play.run(7200, |s| s == 1, |s| s == 0, true), None);
        assert_eq!(play.pings, [0; 0], "nobody has told it anything");
        let mut play = Play::default();
        // Nor does it send a head; it is there.
        assert_eq!(play.run(7200, |_| false, |s| s == 0, true), None);
        assert_eq!(play.pings, [30], "once in a silence");
    }

    /// Two PINGs too many within five minutes each, and a server of gRPC ends the connection.
    #[test]
    fn questions_are_apart_whatever_is_said() {
        for every in [1, 7, 29, 31, 45, 120, 299, 1000] {
            let mut play = Play::default();
            assert_eq!(play.run(20_000, |_| false, |s| s % every == 0, true), None);
            assert!(!play.pings.is_empty(), "{every}");
            let too_early = play.pings.windows(2).filter(|two| two[1] - two[0] < 300).count();
            assert_eq!(too_early, 0, "{every}: {:?}", play.pings);
        }
    }

    #[test]
    fn who_does_not_say_that_it_is_there_is_gone() {
        let mut play = Play::default();
        assert_eq!(play.run(7200, |s| s < 100, |s| s == 0 || s == 101, false), Some(141));
        assert_eq!(play.pings, [131]);
        let mut play = Play::default();
        assert_eq!(play.run(7200, |s| s < 100, |s| s == 90, false), None, "it was heard since");
    }

    #[test]
    fn where_nobody_waits_nobody_is_asked() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        assert_eq!(silence.look(0, 1, true, start), Next::Wait(start + SILENT_MOST));
        assert_eq!(silence.look(0, 1, false, start + SILENT_MOST), Next::Nothing);
        assert_eq!(silence.look(0, 1, true, start + SILENT_MOST), Next::Nothing);
        let later = start + SILENT_MOST * 2;
        assert_eq!(silence.look(0, 2, true, later), Next::Wait(later + SILENT_MOST));
    }
}
