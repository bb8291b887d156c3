//! What the tests of the kernel programs share: packets, the datapath over tables in memory, network namespaces, the bench.
//!
//! Everything here needs root and the BPF object. [`ready`] says so in the test's output when one is missing.

pub mod decapsulation;
pub mod model;
pub mod mutation;
pub mod namespace;
pub mod packet;
pub mod steer_bench;
pub mod witness;
pub mod world;

/// Whether the kernel can be asked at all. A test that gets `false` prints nothing more and passes.
pub fn ready(test: &str) -> bool {
    if !edge_kernel::built_in() {
        eprintln!("{test}: SKIPPED: the BPF programs are not built in; run `cargo xtask build-ebpf` and build again");
        return false;
    }
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("{test}: SKIPPED: loading BPF programs and making network namespaces need root");
        return false;
    }
    true
}
