//! Hands the kernel the sources that are banned on this machine, and says which machines never are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use edge_agent::desired::{Desired, Machine};
use edge_agent::steer::Plane;
use edge_filters::bans::{BANS_MAX, bans};

const _: () = assert!(BANS_MAX == edge_kernel::BANS_MAX);

/// The list is looked through for what is over at least so often.
const LOOK: Duration = Duration::from_secs(1);

/// After the kernel was told: however fast sources are banned, the plane is another's in between.
const PAUSE: Duration = Duration::from_millis(50);

/// For so long after the start a process before may still write there, until it has heard that the kernel is this one's.
const DOUBT: Duration = Duration::from_secs(60);

/// Starts the thread that keeps the list, and, where there is a plane, the kernel as the list says, beginning with whom the process before
/// has banned. It ends with the plane, or when the kernel is another process's.
pub fn keep(plane: Option<Weak<Mutex<Plane>>>, kernel_is_anothers: Arc<AtomicBool>) -> std::io::Result<()> {
    if let Some(plane) = plane.as_ref().and_then(Weak::upgrade) {
        let left = plane.lock().unwrap_or_else(PoisonError::into_inner).kernel.bans();
        match left {
            Ok(left) => bans().inherit(left),
            Err(error) => tracing::error!(%error, "sources that an earlier process has banned are let in"),
        }
    }
    let run = move || {
        let (began, mut seen, mut written, mut told) = (Instant::now(), 0, None, String::new());
        loop {
            bans().sweep();
            if let Some(plane) = &plane {
                let Some(plane) = plane.upgrade() else { return };
                let listed = || bans().list().into_iter().map(|(source, ban)| (source, ban.until));
                let mut locked = plane.lock().unwrap_or_else(PoisonError::into_inner);
                if kernel_is_anothers.load(Ordering::Acquire) {
                    return;
                }
                if began.elapsed() < DOUBT {
                    locked.kernel.doubt_bans();
                }
                if written != Some(seen) || !locked.kernel.knows_bans() {
                    let failed =
                        locked.kernel.set_bans(listed()).err().map(|error| error.to_string()).unwrap_or_default();
                    locked.failed_total += u64::from(!failed.is_empty());
                    drop(locked);
                    if failed != told && !failed.is_empty() {
                        tracing::error!("sources are banned by listeners alone, and it is tried again: {failed}");
                    }
                    (written, told) = (Some(seen), failed);
                }
            }
            thread::sleep(PAUSE);
            seen = bans().wait(seen, LOOK);
        }
    };
    thread::Builder::new().name("bans".to_owned()).spawn(run).map(drop)
}

/// Says which machines the cluster has, whenever that has changed.
#[derive(Default)]
pub struct Spared {
    seen: Option<Arc<BTreeMap<String, Machine>>>,
}

impl Spared {
    pub fn look(&mut self, desired: &Desired) {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &desired.machines)) {
            return;
        }
        self.seen = Some(desired.machines.clone());
        let addresses = |machine: &Machine| [machine.v4.map(IpAddr::from), machine.v6.map(IpAddr::from)];
        bans().spare(desired.machines.values().flat_map(addresses).flatten());
    }
}
