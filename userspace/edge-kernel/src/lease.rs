//! The daemon's word that it lives. When it is not renewed in time, the programs send new flows of this machine's slots to others.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use abi::Config;
use abi::config::lease;

use crate::kernel::Kernel;
use crate::map::MappedArray;
use crate::sys;

/// See [`Kernel::lease`]. To be renewed from a thread that does little else.
pub struct Lease {
    config: Arc<MappedArray<Config>>,
    began: Cell<Instant>,
    lapsed_ms: Arc<AtomicU64>,
}

impl Kernel {
    /// Until it is renewed for the first time, the word of the process before stands, or nobody's.
    pub fn lease(&self) -> Lease {
        let (config, lapsed_ms) = (self.config.clone(), self.lapsed_ms.clone());
        Lease { config, began: Cell::new(Instant::now()), lapsed_ms }
    }

    /// When a lease of this machine was last renewed that had lapsed, or the links of a process with other maps were found, whose lease is
    /// not this one: others may have taken its new flows. Milliseconds since 1970; 0: never, since this process began.
    pub fn lapsed_ms(&self) -> u64 {
        self.lapsed_ms.load(Ordering::Relaxed)
    }
}

impl Lease {
    /// For so long after there was no daemon, or no word of it, connections that began elsewhere meanwhile are looked for there.
    pub const YOUNG: Duration = Duration::from_secs(600);

    /// The daemon lives, and will have said so again within `time`.
    pub fn renew(&self, time: Duration) {
        let now = monotonic();
        // One that lapses while it is being read counts as lapsed.
        let soon = now + CLOSE_CALL;
        if lease::state(self.word().load(Ordering::Relaxed), soon) == lease::LAPSED {
            self.began.set(Instant::now());
            note_lapse(&self.lapsed_ms);
        }
        let until = now + time.as_nanos() as u64;
        self.store(lease::word(until, self.began.get().elapsed() < Self::YOUNG));
    }

    /// As that of a daemon that has lived for long: nothing is looked for at who may have stood in. For tests.
    pub fn age(&self) {
        self.began.set(Instant::now().checked_sub(Self::YOUNG).unwrap_or_else(Instant::now));
    }

    /// From now on others take what is new.
    pub fn end(&self) {
        // The programs look at a coarse clock, which is up to a jiffy late (10 ms at 100 Hz).
        self.store(lease::word(monotonic().saturating_sub(CLOSE_CALL), false));
    }

    fn store(&self, word: u64) {
        self.word().store(word, Ordering::Relaxed);
    }

    fn word(&self) -> &AtomicU64 {
        const AT: usize = std::mem::offset_of!(Config, lease) / 8;
        &self.config.double_words()[AT]
    }
}

/// Others may have taken flows until now.
pub(crate) fn note_lapse(lapsed_ms: &AtomicU64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    lapsed_ms.store(now.as_millis() as u64, Ordering::Relaxed);
}

/// In nanoseconds.
const CLOSE_CALL: u64 = 32_000_000;

/// Whether a process keeps the lease of maps pinned below the directory. Waits for one to lapse whose process has ended just now.
pub(crate) fn is_held(pin_dir: &Path) -> bool {
    const LONGEST: Duration = Duration::from_secs(1);
    const LOOK: Duration = Duration::from_millis(50);
    let lives = || {
        let layouts = std::fs::read_dir(pin_dir).into_iter().flatten().flatten();
        layouts.filter_map(|layout| sys::open_pinned(&layout.path().join("CONFIG")).ok()).any(|map| {
            // That of another layout has another size, and is no map to read this word from.
            if !sys::map_sizes(map.as_fd()).is_ok_and(|(.., value)| value as usize == size_of::<Config>()) {
                return false;
            }
            let config: Option<Config> = sys::map_lookup(map.as_fd(), &0u32).unwrap_or_default();
            let state = config.map_or(lease::OFF, |c| lease::state(c.lease, monotonic()));
            matches!(state, lease::AWAKE | lease::YOUNG)
        })
    };
    let began = Instant::now();
    while lives() {
        if began.elapsed() > LONGEST {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

/// What the programs' clock says, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    // SAFETY: all zeros is a valid timespec, which lives through the call.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
