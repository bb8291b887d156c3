//! What is remembered of connections to backends, in the map FLOWS: taken out when nobody holds them any more, and counted.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::delivery::remembered;

use crate::kernel::Kernel;
use crate::steering::Vip;
use crate::sys;

/// What became of connections that were to be remembered with their backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounts {
    /// Those that are remembered now.
    pub present: u64,
    /// Those that were, since the maps were made.
    pub remembered: u64,
    /// Those that began too fast to be remembered, likewise: they went to who had the slot before.
    pub refused: u64,
    /// Those that others drove out since this process began: they are cut where their backend no longer takes the slot's new ones.
    pub forgotten: u64,
}

#[derive(Default)]
pub(crate) struct FlowsKnown {
    /// What entries may say, as [`remembered`] has it; none: anything, as an earlier process left it.
    said: Option<BTreeSet<u32>>,
    /// Entries that were there before this process, and those that were taken out since.
    before: u64,
    swept: u64,
    forgotten: AtomicU64,
}

impl Kernel {
    /// Takes out what no slot leads to any more. What stayed would be true again, and wrong, when the number is another backend's, or
    /// when the backend is back and the client's port a new connection's. To be called when no packet sees the slots from before; what
    /// fails is tried again with the next change.
    pub(crate) fn sweep_flows(&mut self, vips: &[&Vip]) {
        let mut said = BTreeSet::new();
        for vip in vips.iter().filter(|vip| vip.backends) {
            let with_past = vip.slots.iter().filter(|slot| slot.has_past());
            let owners =
                with_past.flat_map(|slot| slot.owners()).filter(|owner| *owner != 0).collect::<BTreeSet<u16>>();
            said.extend(owners.into_iter().map(|owner| remembered(vip.id, owner)));
        }
        let known = &self.flows_known.said;
        if known.as_ref().is_some_and(|known| known.is_subset(&said)) {
            self.flows_known.said = Some(said);
            return;
        }
        let is_first = known.is_none();
        let Ok(entries) = sys::map_entries::<u64, u32>(self.flows.as_fd()) else { return };
        let mut swept = 0;
        for (name, _) in entries.iter().filter(|(_, remembered)| is_first || !said.contains(remembered)) {
            match sys::map_delete(self.flows.as_fd(), name) {
                Ok(there) => swept += u64::from(there),
                Err(_) => return,
            }
        }
        if is_first {
            self.flows_known.before = self.flow_count(1);
        } else {
            self.flows_known.swept += swept;
        }
        self.flows_known.said = Some(said);
    }

    /// An earlier process has written since.
    pub(crate) fn forget_flows(&mut self) {
        self.flows_known.said = None;
        self.flows_known.swept = 0;
    }

    pub fn flow_counts(&self) -> FlowCounts {
        let (remembered, refused) = (self.flow_count(1), self.flow_count(2));
        let known = &self.flows_known;
        if known.said.is_none() || remembered == known.before {
            let forgotten = known.forgotten.load(Ordering::Relaxed);
            return FlowCounts { present: 0, remembered, refused, forgotten };
        }
        let present = sys::map_entries::<u64, u32>(self.flows.as_fd()).map_or(0, |entries| entries.len() as u64);
        let gone = remembered.saturating_sub(known.before + known.swept + present);
        // Packets come while this is added up, and a counter does not sink.
        let forgotten = known.forgotten.fetch_max(gone, Ordering::Relaxed).max(gone);
        FlowCounts { present, remembered, refused, forgotten }
    }

    /// Behind the buckets of virtual IPs, and that of FLOWS itself.
    fn flow_count(&self, which: u32) -> u64 {
        let at = 2 * (self.options.sizes.vips + 1) + which;
        sys::map_lookup::<u32, u64>(self.buckets.as_fd(), &at).ok().flatten().unwrap_or_default()
    }
}
