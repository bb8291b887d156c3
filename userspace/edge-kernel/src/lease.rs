//! The daemon's word that it lives. When it is not renewed in time, the programs send new flows of this machine's slots to others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::Config;
use abi::config::lease;

use crate::kernel::Kernel;
use crate::map::MappedArray;

/// See [`Kernel::lease`]. To be renewed from a thread that does little else.
pub struct Lease {
    config: Arc<MappedArray<Config>>,
    began: Instant,
}

impl Kernel {
    /// Until it is renewed for the first time, the word of the process before stands, or nobody's.
    pub fn lease(&self) -> Lease {
        Lease { config: self.config.clone(), began: Instant::now() }
    }
}

impl Lease {
    /// Until when connections that began elsewhere while there was no daemon are looked for there.
    pub const YOUNG: Duration = Duration::from_secs(600);

    /// The daemon lives, and will have said so again within `time`.
    pub fn renew(&self, time: Duration) {
        let until = monotonic() + time.as_nanos() as u64;
        self.store(lease::word(until >> lease::TICK_BITS, self.began.elapsed() < Self::YOUNG));
    }

    /// From now on others take what is new.
    pub fn end(&self) {
        self.store(lease::word((monotonic() >> lease::TICK_BITS).saturating_sub(2), false));
    }

    fn store(&self, word: u32) {
        const AT: usize = std::mem::offset_of!(Config, lease) / 4;
        self.config.words()[AT].store(word, Ordering::Relaxed);
    }
}

/// What the programs' clock says, in nanoseconds.
fn monotonic() -> u64 {
    // SAFETY: all zeros is a valid timespec, which lives through the call.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
