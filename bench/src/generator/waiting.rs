//! Waiting for events no longer than was asked for.
//!
//! `epoll_wait` counts whole milliseconds and rounds up. Where a request is due every 100 µs that makes bursts of ten: whenever no answer
//! happened to wake the generator it slept for a millisecond, and then sent all that had become due. What a burst costs a gateway is not
//! what the same requests cost one by one, and a gateway that answers late enough to keep the generator from sleeping gets another load
//! than one that does not. `poll` counts nanoseconds, and an epoll descriptor can be polled.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

/// Fills `events` with what there is or comes within `most`; none: however long that takes.
pub(super) fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, most: Option<Duration>) -> io::Result<()> {
    events.clear();
    let mut most = most;
    if let Some(short) = most.filter(|most| *most < COARSE) {
        let exact = Timespec::try_from(short).ok();
        match poll(&mut [PollFd::new(epoll, PollFlags::IN)], exact.as_ref()) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => most = Some(Duration::ZERO),
            Err(error) => return Err(error.into()),
        }
    }
    let most = most.and_then(|most| Timespec::try_from(most).ok());
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), most.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// While it lives the timers of this thread are not put off by the 50 µs the kernel allows itself otherwise.
pub(super) struct ExactTimers(());

impl ExactTimers {
    pub fn of_this_thread() -> Self {
        // Where it is refused requests go out a little later, which their latency shows.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        Self(())
    }
}

impl Drop for ExactTimers {
    fn drop(&mut self) {
        let _ = set_current_timer_slack(None);
    }
}

/// A wait from here on may well end a millisecond late: it saves a system call.
const COARSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn watched() -> (OwnedFd, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        epoll::add(&epoll, &ours, epoll::EventData::new_u64(7), epoll::EventFlags::IN).expect("watched");
        (epoll, ours, theirs)
    }

    /// A busy machine makes any wait long; one that is rounded up is never short.
    #[test]
    fn a_wait_of_less_than_a_millisecond_is_not_rounded_up_to_one() {
        let (epoll, _ours, _theirs) = watched();
        let _exact = ExactTimers::of_this_thread();
        let mut events = Vec::with_capacity(4);
        let asked = Duration::from_micros(100);
        let shortest = (0..300).map(|_| {
            let began = Instant::now();
            wait(&epoll, &mut events, Some(asked)).expect("a wait");
            assert!(events.is_empty());
            began.elapsed()
        });
        let shortest = shortest.min().expect("300 of them");
        assert!(shortest >= asked && shortest < Duration::from_millis(1), "{shortest:?}");
    }

    #[test]
    fn what_has_come_ends_short_waits_and_long_ones() {
        let (epoll, _ours, mut theirs) = watched();
        theirs.write_all(b"x").expect("room");
        let mut events = Vec::with_capacity(4);
        for most in [None, Some(Duration::ZERO), Some(Duration::from_millis(1)), Some(Duration::from_secs(3600))] {
            wait(&epoll, &mut events, most).expect("a wait");
            assert_eq!(events.iter().map(|event| event.data.u64()).collect::<Vec<_>>(), [7], "{most:?}");
        }
    }
}
