//! SYN cookies of the kernel: made for a SYN, and only those that a listener of this machine would take; looked for in what answers.
//! Functions by themselves, which the verifier examines once.

use core::ptr::null_mut;

use aya_ebpf::bindings::{bpf_sock, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};

use datapath::ip::{HEADER_V4, HEADER_V6};
use datapath::syn::{self, Segment};
use datapath::{Frame, Tables, Window};

use crate::frame::XdpFrame;
use crate::tables::Maps;

/// What a SYN offers, in one word.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn offer(context: *mut xdp_md, from: u32, to: u32) -> u64 {
    syn::read_options(&XdpFrame::new(context), &Maps::new(context, 0), from as usize, to as usize).0
}

/// [`syn::way_back`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn way(context: *mut xdp_md, at: u32, v4: u32) -> u64 {
    syn::way_back(&XdpFrame::new(context), &Maps::new(context, 0), &segment(at, 0, 0, v4))
}

/// A cookie for a SYN, and a bit above it; 0: none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn cookie(context: *mut xdp_md, at: u32, tcp: u32, header: u32, v4: u32) -> u64 {
    match make_cookie(context, &segment(at, tcp, header, v4)) {
        Some(cookie) => 1 << 32 | cookie as u64,
        None => 0,
    }
}

/// [`takes_answer`]: 1, or 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn answers(context: *mut xdp_md, at: u32, tcp: u32, v4: u32) -> u32 {
    takes_answer(context, &segment(at, tcp, 0, v4)) as u32
}

#[inline(always)]
fn segment(at: u32, tcp: u32, header: u32, v4: u32) -> Segment {
    Segment { v4: v4 != 0, at: at as usize, tcp: tcp as usize, header: header as usize, flags: 0, bare: false }
}

/// A cookie for a SYN. The kernel's listeners take cookies only while one of their group has been overrun within the last two minutes,
/// and the kernel says so of none, so the answer that is to come is shown to the listener beforehand: if it would not take that, the SYN
/// is for the stack, which takes it, or is overrun by it.
#[inline(always)]
fn make_cookie(context: *mut xdp_md, segment: &Segment) -> Option<u32> {
    let frame = XdpFrame::new(context);
    let Segment { v4, at, tcp, header, .. } = *segment;
    let mut words = [0u32; HEADER_WORDS];
    let mut i = 0;
    let tables = Maps::new(context, 0);
    while i < HEADER_WORDS {
        let mut word = 0;
        if i * 4 < tables.forget(header) {
            word = frame.window::<4>(tcp + i * 4)?.u32_raw(0);
        }
        // Which of them are there does not divide the roads.
        words[i] = tables.forget(word as usize) as u32;
        i += 1;
    }
    let length = tables.forget(header) as u32 & 63;
    if length < 20 || length > 60 {
        return None;
    }
    let ip = if v4 { frame.window::<HEADER_V4>(at)? } else { frame.window::<HEADER_V6>(at)? };
    // SAFETY: a header of the packet, as its window says and the verifier proves; the other lies on the stack, and is as long as said.
    let made = unsafe {
        let (ip, tcp) = (ip.address(), (&raw mut words).cast());
        match v4 {
            true => bpf_tcp_raw_gen_syncookie_ipv4(ip as *mut _, tcp, length),
            false => bpf_tcp_raw_gen_syncookie_ipv6(ip as *mut _, tcp, length),
        }
    };
    if made < 0 {
        return None;
    }
    let cookie = made as u32;
    // The answer: one more than both numbers, and nothing but ACK.
    words[1] = u32::from_be(words[1]).wrapping_add(1).to_be();
    words[2] = cookie.wrapping_add(1).to_be();
    words[3] = 0x5010_ffff_u32.to_be();
    let listener = socket(context, segment)?;
    let takes = is_listener(listener) && takes(&frame, segment, listener, (&raw const words) as usize);
    // SAFETY: it was looked up, and is let go once.
    unsafe { bpf_sk_release(listener.cast()) };
    takes.then_some(cookie)
}

/// Whether there is a socket for the packet, or a listener that takes its cookie.
#[inline(always)]
fn takes_answer(context: *mut xdp_md, segment: &Segment) -> bool {
    let Some(found) = socket(context, segment) else { return false };
    let frame = XdpFrame::new(context);
    let takes = !is_listener(found)
        || match frame.window::<TCP_HEADER>(segment.tcp) {
            Some(tcp) => takes(&frame, segment, found, tcp.address()),
            None => false,
        };
    // SAFETY: as above.
    unsafe { bpf_sk_release(found.cast()) };
    takes
}

/// `tcp`: the address of a TCP header without options.
#[inline(always)]
fn takes(frame: &XdpFrame, segment: &Segment, listener: *mut bpf_sock, tcp: usize) -> bool {
    let at = segment.at;
    let check = |ip: usize, length: usize| {
        // SAFETY: both headers are there, as the verifier proves; the caller holds the socket.
        unsafe {
            bpf_tcp_check_syncookie(listener.cast(), ip as *mut _, length as u32, tcp as *mut _, TCP_HEADER as u32) == 0
        }
    };
    if segment.v4 {
        frame.window::<HEADER_V4>(at).is_some_and(|ip| check(ip.address(), HEADER_V4))
    } else {
        frame.window::<HEADER_V6>(at).is_some_and(|ip| check(ip.address(), HEADER_V6))
    }
}

/// This machine's socket for the packet, to be let go; a listener where there is no other.
#[inline(always)]
fn socket(context: *mut xdp_md, segment: &Segment) -> Option<*mut bpf_sock> {
    let frame = XdpFrame::new(context);
    let ports = frame.window::<4>(segment.tcp)?.u32_raw(0);
    let at = segment.at;
    let mut tuple = [0u32; 9];
    let length = if segment.v4 {
        let w = frame.window::<HEADER_V4>(at)?;
        (tuple[0], tuple[1], tuple[2]) = (w.u32_raw(12), w.u32_raw(16), ports);
        12
    } else {
        let w = frame.window::<HEADER_V6>(at)?;
        let mut i = 0;
        while i < 8 {
            tuple[i] = w.u32_raw(8 + i * 4);
            i += 1;
        }
        tuple[8] = ports;
        36
    };
    // SAFETY: a whole tuple lies there, of which the helper reads as much as the length of its family says.
    let found = unsafe { bpf_skc_lookup_tcp(context.cast(), (&raw mut tuple).cast(), length, CURRENT_NETNS, 0) };
    if found == null_mut() { None } else { Some(found) }
}

#[inline(always)]
fn is_listener(socket: *mut bpf_sock) -> bool {
    // SAFETY: the caller holds it.
    unsafe { (*socket).state == LISTEN }
}

const TCP_HEADER: usize = 20;
/// With all options there can be.
const HEADER_WORDS: usize = 15;
/// TCP_LISTEN.
const LISTEN: u32 = 10;
/// BPF_F_CURRENT_NETNS: the network namespace of the device.
const CURRENT_NETNS: u64 = -1i64 as u64;
