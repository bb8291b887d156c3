//! Sources from which nothing is taken for a while. Each has the instant at which its ban ends, by which programs go whoever lives or not;
//! this process takes out what is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::{Address, access};

use crate::access::entries;
use crate::kernel::Kernel;
use crate::lease::monotonic;
use crate::{KernelError, sys};

/// As many as the kernel holds.
pub const BANS_MAX: usize = abi::limits::BANS_MAX as usize;

impl Kernel {
    /// The kernel holds what this process has told it last, as far as is known here.
    pub fn knows_bans(&self) -> bool {
        self.known_bans.is_some()
    }

    /// Somebody else may have written there: with the next [`Kernel::set_bans`] all is read and written again.
    pub fn doubt_bans(&mut self) {
        self.known_bans = None;
    }

    /// The sources that programs take for banned, and until when: as a process before may have left them.
    pub fn bans(&self) -> Result<Vec<(IpAddr, Instant)>, KernelError> {
        let failed = |e| KernelError::system("cannot read which sources are banned", e);
        let (now, clock) = (Instant::now(), monotonic());
        let there: BTreeMap<Address, u64> = entries(self.bans.as_fd()).map_err(failed)?;
        let until = |at: u64| now + Duration::from_nanos(at.saturating_sub(clock));
        Ok(there.into_iter().map(|(source, at)| (source.ip(), until(at))).collect())
    }

    /// Makes these the sources that are banned, each until its instant: an IPv6 address stands for its /64. Beyond [`BANS_MAX`] it fails.
    /// Says how many entries of the map were written.
    pub fn set_bans(&mut self, bans: impl IntoIterator<Item = (IpAddr, Instant)>) -> Result<usize, KernelError> {
        let failed = |e| KernelError::system("cannot write which sources are banned", e);
        let mut wanted: BTreeMap<Address, Instant> = BTreeMap::new();
        for (source, until) in bans {
            let at = wanted.entry(access::banned(&Address::from(source.to_canonical()))).or_insert(until);
            *at = until.max(*at);
        }
        // Forgotten with that, so that what fails half-way is read.
        let there = self.known_bans.take();
        let mut written = 0;
        let gone: Vec<Address> = match &there {
            Some(there) => there.keys().filter(|source| !wanted.contains_key(*source)).copied().collect(),
            None => {
                let keys = sys::map_keys::<Address>(self.bans.as_fd()).map_err(failed)?;
                keys.into_iter().filter(|source| !wanted.contains_key(source)).collect()
            }
        };
        for source in &gone {
            sys::map_delete(self.bans.as_fd(), source).map_err(failed)?;
            written += 1;
        }
        let (now, clock) = (Instant::now(), monotonic());
        for (source, until) in &wanted {
            if there.as_ref().and_then(|there| there.get(source)) != Some(until) {
                let until = clock + until.saturating_duration_since(now).as_nanos() as u64;
                sys::map_update(self.bans.as_fd(), source, &until).map_err(failed)?;
                written += 1;
            }
        }
        let mut bits = vec![0; access::WORDS_BANS as usize];
        for source in wanted.keys() {
            let (word, shift) = access::place_ban(source);
            bits[(word - access::WORDS) as usize] |= 1u64 << shift;
        }
        for (there, wanted) in self.access.double_words()[access::WORDS as usize..].iter().zip(bits) {
            if there.load(Ordering::Relaxed) != wanted {
                there.store(wanted, Ordering::Relaxed);
            }
        }
        self.tell_access(access::BANS, !wanted.is_empty());
        self.known_bans = Some(wanted);
        Ok(written)
    }
}
