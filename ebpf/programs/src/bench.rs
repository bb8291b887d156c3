//! `xdp_steer` between the two halves of a harness that gives every run a fresh packet: one flow out of many goes in, and what
//! steering did to the packet is undone. Only `kernel_tests::steer_bench` loads these programs; the rest of the object is the
//! same as the shipped one.
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

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

use abi::{Address, VipPlace};
use datapath::ethernet::{Ethernet, IPV4, IPV6, Send};
use datapath::owners::Question;
use datapath::{Frame, Tables, Window, usual};

use crate::decide::tcp_state;
use crate::frame::XdpFrame;
use crate::tables::Maps;
use crate::verdict::{Settles, settle};
use crate::xdp_steer::leave;

/// Element 0: how many flows there are, less one; a power of two. Element 1: state of the generator.
#[map]
static BENCH: Array<u64> = Array::with_max_entries(2, 0);

/// What a tunnel over IPv4 adds.
const ADDED: usize = abi::gue::OVERHEAD_V4;

/// What a run costs that does nothing.
#[xdp]
pub fn bench_empty(_: XdpContext) -> u32 {
    XDP_TX
}

/// What the harness costs of packets that stay: flow in.
#[xdp]
pub fn bench_kept(context: XdpContext) -> u32 {
    choose::<26, 34>(&XdpFrame::new(context.ctx));
    XDP_PASS
}

/// What it costs to find out whose an address of IPv4 is, and nothing else.
#[xdp]
pub fn bench_lookup(context: XdpContext) -> u32 {
    let frame = XdpFrame::new(context.ctx);
    choose::<26, 34>(&frame);
    let Some(tables) = Maps::of_usual(context.ctx, 0) else { return XDP_DROP };
    let (Some(live), Some(w)) = (tables.live(), frame.window::<4>(30)) else { return XDP_DROP };
    match tables.vip(&live, &VipPlace::whole(live.switch.generation() as u16, Address::from_v4_raw(w.u32_raw(0))).key) {
        Some(_) => XDP_PASS,
        None => XDP_TX,
    }
}

/// What it costs to ask the kernel for the socket of a connection over IPv4, and nothing else.
#[xdp]
pub fn bench_socket(context: XdpContext) -> u32 {
    let frame = XdpFrame::new(context.ctx);
    choose::<26, 34>(&frame);
    let Some(w) = frame.window::<12>(26) else { return XDP_DROP };
    let tuple = [w.u32_raw(0), w.u32_raw(4), w.u32_raw(8), 0, 0, 0, 0, 0, 0];
    match tcp_state(context.ctx, &Question { tuple, flags: Question::V4, ..Question::NONE }) {
        0 => XDP_PASS,
        _ => XDP_TX,
    }
}

/// What the harness costs of others: flow in, tunnel's room added and taken away, link header written twice.
#[xdp]
pub fn bench_harness(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    choose::<26, 34>(&frame);
    let Ok(link) = Ethernet::parse(&frame) else { return XDP_DROP };
    if !frame.push_head(ADDED) || !link.write(&frame, IPV4, Send::Back) {
        return XDP_DROP;
    }
    undo(&mut frame, IPV4)
}

#[xdp]
#[inline(always)]
pub fn bench_steer_v4(context: XdpContext) -> u32 {
    run::<26, 34>(context, IPV4)
}

#[xdp]
#[inline(always)]
pub fn bench_steer_v6(context: XdpContext) -> u32 {
    run::<34, 54>(context, IPV6)
}

#[inline(always)]
fn run<const SOURCE: usize, const PORTS: usize>(context: XdpContext, kind: u16) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    choose::<SOURCE, PORTS>(&frame);
    let bytes = frame.len();
    let Some(tables) = Maps::of_usual(context.ctx, bytes) else { return XDP_DROP };
    let verdict = match usual::steer(&mut frame, &tables, &Settles { tables: &tables, bytes }) {
        Some(Ok(verdict)) => verdict,
        Some(Err(outcome)) => settle(outcome, &tables, bytes),
        None => return leave(&context),
    };
    match verdict {
        XDP_TX => undo(&mut frame, kind),
        other => other,
    }
}

/// Writes the last word of the source address and the source port of the next flow.
#[inline(always)]
fn choose<const SOURCE: usize, const PORTS: usize>(frame: &XdpFrame) {
    let (Some(flows), Some(state)) = (BENCH.get(0), BENCH.get_ptr_mut(1)) else { return };
    // SAFETY: an element of a map; the bench runs on one CPU at a time.
    let random = unsafe {
        let mut x = *state;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *state = x;
        x
    };
    let flow = (random >> 20) & *flows;
    if let (Some(source), Some(ports)) = (frame.window::<4>(SOURCE), frame.window::<2>(PORTS)) {
        source.put_u32_raw(0, 0x0a00_0000u32.to_be() | (flow as u32).to_be());
        ports.put_u16(0, 0x8000 | flow as u16);
    }
}

#[inline(always)]
fn undo(frame: &mut XdpFrame, kind: u16) -> u32 {
    let Ok(link) = Ethernet::parse(frame) else { return XDP_DROP };
    if frame.pull_head(ADDED) && link.write(frame, kind, Send::Back) { XDP_TX } else { XDP_DROP }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
