//! What becomes of a packet whose slot this machine owns, or that another one sent. A function by itself, which the verifier examines
//! once, and not on every road that leads here.

use aya_ebpf::bindings::{bpf_sock, xdp_md};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};

use datapath::Frame;
use datapath::ip::{HEADER_V4, HEADER_V6};
use datapath::owners::{self, Decision, Question};
use datapath::tables::NEW_SYN_RECV;

use crate::frame::XdpFrame;
use crate::maps::QUESTION;
use crate::tables::Maps;

/// [`owners::decide`] about what lies in QUESTION: a pointer to it could be handed over since kernel 5.12 only.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn decide(context: *mut xdp_md) -> u64 {
    let Some(question) = QUESTION.get_ptr(0) else { return Decision::STAYS.0 };
    // SAFETY: an element of a map of this CPU, on which no other XDP program runs meanwhile; who calls has written it.
    owners::decide(&Maps::new(context, 0), unsafe { &*question }).0
}

/// [`owners::slot_before`] likewise. By itself, and not a part of [`decide`], for the room on the stack.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn slot_before() -> u64 {
    let Some(question) = QUESTION.get_ptr(0) else { return 0 };
    // SAFETY: as in `decide`.
    owners::slot_before(&Maps::new(core::ptr::null_mut(), 0), unsafe { &*question }).0
}

/// State of the socket for the connection, as the kernel numbers them; 0: none.
#[inline(always)]
pub fn tcp_state(context: *mut xdp_md, question: &Question) -> u32 {
    let (v4, tcp) = (question.v4(), question.tcp);
    let length = if v4 { 12 } else { 36 };
    // SAFETY: a whole tuple lies there, of which the helper reads as much as the length of its family says; the socket that it
    // returns is read while it is held and then released.
    unsafe {
        let tuple = (&raw const question.tuple).cast_mut();
        let socket = bpf_skc_lookup_tcp(context.cast(), tuple.cast(), length, CURRENT_NETNS, 0);
        if socket.is_null() {
            return 0;
        }
        let mut state = (*socket).state;
        if state == LISTEN && tcp != 0 && answers_cookie(context, socket, v4, question.ip as usize, tcp as usize) {
            state = NEW_SYN_RECV;
        }
        bpf_sk_release(socket.cast());
        state
    }
}

/// Whether the packet answers a SYN cookie that this machine's listener gave. The kernel looks only while the listener has been
/// overrun within the last minutes, and says no otherwise.
#[inline(always)]
fn answers_cookie(context: *mut xdp_md, listener: *mut bpf_sock, v4: bool, ip: usize, tcp: usize) -> bool {
    const TCP_HEADER: usize = 20;
    let frame = XdpFrame::new(context);
    let Some(tcp) = frame.window::<TCP_HEADER>(tcp) else { return false };
    let check = |ip: usize, length: usize| {
        // SAFETY: both headers lie inside the frame, as their windows say and the verifier proves; the caller holds the socket.
        unsafe {
            bpf_tcp_check_syncookie(
                listener.cast(),
                ip as *mut _,
                length as u32,
                tcp.address() as *mut _,
                TCP_HEADER as u32,
            ) == 0
        }
    };
    if v4 {
        frame.window::<HEADER_V4>(ip).is_some_and(|ip| check(ip.address(), HEADER_V4))
    } else {
        frame.window::<HEADER_V6>(ip).is_some_and(|ip| check(ip.address(), HEADER_V6))
    }
}

/// TCP_LISTEN.
const LISTEN: u32 = 10;

/// BPF_F_CURRENT_NETNS: the network namespace of the device.
const CURRENT_NETNS: u64 = -1i64 as u64;
