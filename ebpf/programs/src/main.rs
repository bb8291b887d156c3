//! The BPF programs of Weir: one file per hook, maps in `maps.rs`, verdicts in `verdict.rs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admission;
mod cookie;
mod decide;
mod frame;
mod maps;
mod sender;
mod sk_lookup;
mod sk_reuseport;
mod tables;
mod verdict;
mod xdp_backend;
mod xdp_capture;
mod xdp_deliver;
mod xdp_fragment;
mod xdp_general;
mod xdp_steer;
mod xdp_syn;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the programs panics: they neither index without a check nor unwrap.
    loop {}
}

/// The kernel lends its GPL helpers (socket lookup, for one) only to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
