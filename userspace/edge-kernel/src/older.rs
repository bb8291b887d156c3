//! What older kernels lack, found by asking the kernel and not by its number, and what takes its place.
//!
//! The object is built for the oldest kernel the programs run on (5.10): its level of the instruction set (v3) is older, no function
//! takes pointers but to the packet, and what needs more is put into other words here before the kernel sees it:
//!
//! | lacks | until | instead |
//! |---|---|---|
//! | atomic instructions that say what was there before | 5.12 | limits of virtual IPs add and store without them: two CPUs that count one source at the same moment may let one connection more in |
//! | the coarse clock (`bpf_ktime_get_coarse_ns`) | 5.11 | the exact one, some 20 ns slower |
//! | the listening socket in sk_reuseport | 5.14 | that program is left out: the kernel spreads connections over workers by their hash |
//! | frames put back on the road (`BPF_F_TEST_XDP_LIVE_FRAMES`) | 5.18 | fragments that come before the first of their datagram are dropped |

use std::borrow::Cow;
use std::os::fd::AsFd;

use crate::{Warning, sys};

/// What this kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    pub(crate) atomics: bool,
    pub(crate) coarse_clock: bool,
    pub(crate) live_frames: bool,
}

/// Asks the kernel, with programs of a few instructions; `interface` is where a frame may seem to come from. Where it lets this process
/// load no program at all it is taken to have everything: what then is refused says why.
pub(crate) fn features(interface: Option<u32>) -> Features {
    let all = Features { atomics: true, coarse_clock: true, live_frames: true };
    // Before 5.11 programs are locked memory, of which all of a user's processes together may have little.
    let dropping = sys::load_xdp(&[MOVE_R0_DROP, EXIT]).or_else(|_| {
        sys::lock_any_memory();
        sys::load_xdp(&[MOVE_R0_DROP, EXIT])
    });
    let Ok(dropping) = dropping else { return all };
    // r1 = 1; *(u64 *)(r10 - 8) = r1; r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
    let atomics = [MOVE_R1_1, word(STORE, 10, 1, -8, 0), word(ATOMIC, 10, 1, -8, FETCH_ADD), MOVE_R0_DROP, EXIT];
    let clock = [word(CALL, 0, 0, 0, COARSE_CLOCK), MOVE_R0_DROP, EXIT];
    Features {
        atomics: sys::load_xdp(&atomics).is_ok(),
        coarse_clock: sys::load_xdp(&clock).is_ok(),
        live_frames: sys::put_on_the_road(dropping.as_fd(), &[0; 64], interface.unwrap_or(LOOPBACK)).is_ok(),
    }
}

impl Features {
    /// What there is to say of what is missing.
    pub(crate) fn warnings(self) -> impl Iterator<Item = Warning> {
        [
            (self.atomics, "connections that begin at the same moment on several CPUs may pass limits of virtual IPs: Linux 5.12 counts them exactly"),
            (self.coarse_clock, "each packet of one of this machine's connections costs some 20 ns more: Linux 5.11 has a cheaper clock"),
            (self.live_frames, "fragments that come before the first of their datagram are dropped: Linux 5.18 can put them on the road again"),
        ]
        .into_iter()
        .filter(|(has, _)| !has)
        .map(|(_, text)| Warning(text.to_owned()))
    }
}

/// Said where sk_reuseport cannot see the socket it chooses for.
pub(crate) const WITHOUT_REUSEPORT: &str = "connections are spread over the workers by the kernel's hash, not served on the CPU they arrive on: Linux 5.14 can do that";

/// The object with other instructions in the place of those that the kernel lacks.
pub(crate) fn adapt(object: &[u8], features: Features) -> Cow<'_, [u8]> {
    let mut adapted = Cow::Borrowed(object);
    if features.atomics && features.coarse_clock {
        return adapted;
    }
    for (from, to) in code(object) {
        let mut at = from;
        while at + 8 <= to {
            let instruction = read(object, at);
            let mut put = |at: usize, instruction: u64| {
                adapted.to_mut()[at..at + 8].copy_from_slice(&instruction.to_le_bytes());
            };
            match (opcode(instruction), immediate(instruction)) {
                (ATOMIC, EXCHANGE) if !features.atomics => put(at, with(instruction, STORE, 0)),
                (ATOMIC, FETCH_ADD) if !features.atomics && at + 16 <= to => {
                    put(at, with(instruction, ATOMIC, 0));
                    // What was there before has been read in front of it, and must not be written over.
                    put(at + 8, NOTHING);
                }
                (CALL, COARSE_CLOCK) if !features.coarse_clock && source(instruction) == 0 => {
                    put(at, with(instruction, CALL, EXACT_CLOCK));
                }
                _ => {}
            }
            at += if opcode(instruction) == LOAD_DOUBLE { 16 } else { 8 };
        }
    }
    adapted
}

/// Where the sections with instructions lie in an object file (ELF, 64 bits, little-endian); nowhere in what is none.
fn code(object: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = object.get(at..at.checked_add(bytes)?)?;
        usize::try_from(field.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))).ok()
    };
    let sections = || Some((number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?));
    let Some((table, size, count)) = sections() else { return Vec::new() };
    let section = |index: usize| {
        let header = table.checked_add(index.checked_mul(size)?)?;
        let field = |offset: usize, bytes| number(header.checked_add(offset)?, bytes);
        let (kind, flags) = (field(4, 4)?, field(8, 8)?);
        let (from, length) = (field(0x18, 8)?, field(0x20, 8)?);
        let to = from.checked_add(length)?;
        (kind == PROGRAM_BITS && flags & EXECUTABLE != 0 && to <= object.len()).then_some((from, to))
    };
    (0..count).filter_map(section).collect()
}

fn read(object: &[u8], at: usize) -> u64 {
    object[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// An instruction as it lies in memory: code, registers, offset, number.
const fn word(code: u8, destination: u8, source: u8, offset: i16, number: u32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (number as u64) << 32
}

/// The same registers and offset.
const fn with(instruction: u64, code: u8, number: u32) -> u64 {
    instruction & 0xffff_ff00 | code as u64 | (number as u64) << 32
}

const fn opcode(instruction: u64) -> u8 {
    instruction as u8
}

const fn source(instruction: u64) -> u8 {
    (instruction >> 12) as u8 & 0x0f
}

const fn immediate(instruction: u64) -> u32 {
    (instruction >> 32) as u32
}

/// BPF_LD | BPF_IMM | BPF_DW: the only instruction of two words.
const LOAD_DOUBLE: u8 = 0x18;
/// BPF_STX | BPF_ATOMIC | BPF_DW; with 0 for a number it adds and gives nothing back (BPF_XADD of older kernels).
const ATOMIC: u8 = 0xdb;
const FETCH_ADD: u32 = 0x01;
/// BPF_CMPXCHG.
const EXCHANGE: u32 = 0xf1;
/// BPF_STX | BPF_MEM | BPF_DW.
const STORE: u8 = 0x7b;
const CALL: u8 = 0x85;
/// bpf_ktime_get_coarse_ns and bpf_ktime_get_ns.
const COARSE_CLOCK: u32 = 160;
const EXACT_CLOCK: u32 = 5;
/// A jump to the next one.
const NOTHING: u64 = word(0x05, 0, 0, 0, 0);
const MOVE_R0_DROP: u64 = word(0xb7, 0, 0, 0, 1);
const MOVE_R1_1: u64 = word(0xb7, 1, 0, 0, 1);
const EXIT: u64 = word(0x95, 0, 0, 0, 0);
/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// SHT_PROGBITS, SHF_EXECINSTR.
const PROGRAM_BITS: usize = 1;
const EXECUTABLE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const OLDEST: Features = Features { atomics: false, coarse_clock: false, live_frames: false };

    fn count(object: &[u8], wanted: impl Fn(u64) -> bool) -> usize {
        let mut count = 0;
        for (from, to) in code(object) {
            let mut at = from;
            while at + 8 <= to {
                let instruction = read(object, at);
                count += usize::from(wanted(instruction));
                at += if opcode(instruction) == LOAD_DOUBLE { 16 } else { 8 };
            }
        }
        count
    }

    #[test]
    fn nothing_of_what_older_kernels_lack_is_left_in_the_programs() {
        let Some(object) = crate::OBJECT else { return };
        let clock = |i: u64| opcode(i) == CALL && source(i) == 0 && immediate(i) == COARSE_CLOCK;
        let atomic = |i: u64| opcode(i) & 0xe7 == ATOMIC & 0xe7 && immediate(i) != 0;
        assert!(count(object, clock) > 0 && count(object, atomic) > 0);
        let adapted = adapt(object, OLDEST);
        assert_eq!((count(&adapted, clock), count(&adapted, atomic)), (0, 0));
        // What was read before an addition is kept: behind each there is nothing now, where there was a move.
        let additions = count(object, |i| opcode(i) == ATOMIC && immediate(i) == FETCH_ADD);
        let nothing = |object: &[u8]| count(object, |i| i == NOTHING);
        assert_eq!(nothing(&adapted), nothing(object) + additions);
        let moves = |object: &[u8]| count(object, |i| opcode(i) == 0xbf);
        assert_eq!(moves(object), moves(&adapted) + additions);
        let all = adapt(object, Features { atomics: true, coarse_clock: true, live_frames: false });
        assert_eq!(&*all, object, "a newer kernel gets it as it is");
    }

    #[test]
    fn programs_for_older_kernels_are_programs() {
        // SAFETY: no arguments.
        let (Some(object), 0) = (crate::OBJECT, unsafe { libc::geteuid() }) else { return };
        let sizes = crate::Sizes { tables: 2, vips: 1, machines: 1 };
        let options = crate::Options { pin_dir: None, sizes, ..crate::Options::default() };
        if let Err(error) = crate::Kernel::load_object(options, &adapt(object, OLDEST)) {
            panic!("{error}");
        }
    }

    #[test]
    fn what_is_no_object_stays_as_it_is() {
        for bytes in [vec![], vec![0x7f; 63], vec![0xff; 300], [vec![0; 0x3a], vec![64, 0, 255, 255]].concat()] {
            assert_eq!(&*adapt(&bytes, OLDEST), bytes);
        }
    }
}
