//! Which CPUs the process may use, and pinning to one of them.

use std::sync::OnceLock;

/// The CPUs the process was started with, in ascending order. Read once: workers pin themselves later, and a thread started from a
/// pinned one would otherwise see a single CPU.
pub fn allowed_cpus() -> Vec<usize> {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED
        .get_or_init(|| match core_affinity::get_core_ids() {
            Some(ids) if !ids.is_empty() => ids.into_iter().map(|core| core.id).collect(),
            // Without an answer (more CPUs than cpu_set_t holds) CPU 0 is the one that always exists.
            _ => vec![0],
        })
        .clone()
}

/// Pins the calling thread; false when the kernel refuses.
pub(crate) fn pin_to(cpu: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
}
