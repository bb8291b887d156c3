//! Who is let in, and how fast connections begin: functions by themselves, which the verifier examines once. Addresses come in words.

use abi::{Address, Reason, Switch};
use datapath::admission;

use crate::maps::CONFIG;
use crate::tables::{Maps, live};

/// [`admission::kept_out`], with the tunnels in the lower half of `how` and what there is to ask in its upper half: 0 when not.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn kept_out(a: u32, b: u32, c: u32, d: u32, how: u32) -> u32 {
    let tables = Maps::new(core::ptr::null_mut(), 0);
    match admission::kept_out(&tables, &Address([a, b, c, d]), how as u8, how >> 16) {
        None => 0,
        Some(Reason::AccessDenied) => DENIED,
        Some(_) => BANNED,
    }
}

/// [`admission::limited`] for a VIP, in the lower half of `which`, of the generation in its upper half: 0 when not.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn limited(which: u32, a: u32, b: u32, c: u32, d: u32) -> u32 {
    let Some(config) = CONFIG.get_ptr(0) else { return 0 };
    let vip = which & 0xffff;
    let live = live(Switch(which >> 16), config);
    let index = live.switch.generation() * live.settings.vips + vip;
    match admission::limited(&Maps::new(core::ptr::null_mut(), 0), index, vip, &Address([a, b, c, d])) {
        None => 0,
        Some(Reason::SourceLimited) => SOURCE,
        Some(_) => VIP,
    }
}

/// [`admission::is_flooded`] likewise: 1, or 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn flooded(which: u32, opens: u32) -> u32 {
    let Some(config) = CONFIG.get_ptr(0) else { return 0 };
    let vip = which & 0xffff;
    let live = live(Switch(which >> 16), config);
    let vips = live.settings.vips;
    let index = live.switch.generation() * vips + vip;
    admission::is_flooded(&Maps::new(core::ptr::null_mut(), 0), index, vips + vip, opens != 0) as u32
}

pub const DENIED: u32 = 1;
const BANNED: u32 = 2;

pub const SOURCE: u32 = 1;
const VIP: u32 = 2;
