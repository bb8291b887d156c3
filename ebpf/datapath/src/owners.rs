//! Who of a slot's owners is asked next. Four machines of 16 bits lie in one word, and all are compared at once: no branch, so one
//! road for the verifier.

use abi::config::lease;
use abi::gue::{self, Asked, held};
use abi::limits::{HOPS_MAX, STAND_INS_MAX};
use abi::{Address, Slot};

use crate::Tables;
use crate::flow::Flow;
use crate::ip::TCP;
use crate::tables::{CLOSE, held};

/// What is to be known of a packet whose slot this machine owns, or that another one sent. In words, because it is handed to a function
/// that the verifier examines by itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// `bpf_sock_tuple` of the connection: both addresses, then both ports; behind those of IPv4 lies anything.
    pub tuple: [u32; 9],
    pub number: u32,
    pub slot: u64,
    /// [`Asked`], without this machine.
    pub asked: u64,
    pub table: u32,
    /// What the tunnels behind it say, as [`abi::gue::pack`] has it.
    pub packed: u32,
    /// Bits of [`Question::ASKS`] and the others.
    pub flags: u32,
    /// This machine.
    pub own: u32,
    /// The element of BEFORE for its VIP; 0: none.
    pub before: u32,
    pub reserved: u32,
    /// What [`slot_before`] says; 0 where there is no such element.
    pub slot_before: u64,
    /// Where the headers of a packet lie that may answer a SYN cookie; both 0 when it is none.
    pub ip: u32,
    pub tcp: u32,
}

impl Question {
    /// It belongs to a TCP connection that somebody holds.
    pub const ASKS: u32 = 1;
    /// It opens one.
    pub const OPENS: u32 = 2;
    pub const V4: u32 = 4;
    /// From this bit on, whether the daemon lives: a number of [`lease`].
    pub const LEASE: u32 = 8;

    pub const NONE: Question = Question {
        tuple: [0; 9],
        number: 0,
        slot: 0,
        asked: 0,
        table: 0,
        packed: 0,
        flags: 0,
        own: 0,
        before: 0,
        reserved: 0,
        slot_before: 0,
        ip: 0,
        tcp: 0,
    };

    #[inline(always)]
    pub const fn v4(&self) -> bool {
        self.flags & Question::V4 != 0
    }
}

/// The machine that gets the packet, and what it is told; or what becomes of it here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision(pub u64);

impl Decision {
    pub const STAYS: Decision = Decision(0);
    /// It stays, and nobody holds anything of it.
    pub const ORPHAN: Decision = Decision(1 << 32);

    #[inline(always)]
    const fn to(machine: u16, packed: u8) -> Decision {
        Decision(machine as u64 | (packed as u64) << 16)
    }

    /// 0: nobody, it stays.
    #[inline(always)]
    pub const fn machine(self) -> u16 {
        self.0 as u16
    }

    /// As [`abi::gue::pack`] has it.
    #[inline(always)]
    pub const fn packed(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

#[inline(always)]
pub fn decide(tables: &impl Tables, q: &Question) -> Decision {
    let asks = q.flags & Question::ASKS != 0;
    let lease = (q.flags / Question::LEASE) as u8;
    let state = if asks || q.flags & Question::OPENS != 0 { tables.tcp_state(q) } else { 0 };
    let mine = held(state);
    // A listener that is being closed is none any more.
    let listens = state != 0 && state != CLOSE;
    if if asks { mine == held::LIVE } else { listens && lease != lease::LAPSED } {
        return Decision::STAYS;
    }
    let (packed, before) = (q.packed as u8, Asked(q.asked));
    let hops = gue::hops(packed) + 1;
    // Where the daemon does not live, or did not a while ago, others took the slot's new flows. Two are tried, and before the owners that
    // the slot had in the past: a SYN goes the same way, and the further one gets from here, the less is known of this machine.
    let mut owner = 0;
    if before.at(1) == 0 && !(asks && lease < lease::YOUNG) {
        owner = stand_in(tables, q, before.and(q.own as u16));
        owner = tables.forget(owner as usize) as u16;
    }
    if asks {
        // A socket that is closing is no owner: the client may have begun anew at a machine before.
        let best = gue::held_of(packed);
        if owner == 0 {
            owner = next(Slot(q.slot), before, q.own as u16);
        }
        if owner == 0 {
            owner = next(Slot(q.slot_before), before, q.own as u16);
        }
        if owner != 0 {
            // With the one that is forgotten it is forgotten whose the claim was.
            let whose = gue::at(packed);
            let better = mine > best || whose == 2 && before.is_full();
            let (held, at) = if better { (mine, 0) } else { (best, whose + (whose != 3) as u8) };
            return Decision::to(owner, gue::pack(hops, held, at));
        }
        if best > held::NOTHING && best >= mine {
            // Nobody has a better claim than a machine before: back to it, its stack answers.
            return Decision::to(before.at(gue::at(packed)), gue::pack(HOPS_MAX, best, 0));
        }
        return if mine > held::NOTHING { Decision::STAYS } else { Decision::ORPHAN };
    }
    if owner == 0 { Decision::STAYS } else { Decision::to(owner, gue::pack(hops, held::NOTHING, 0)) }
}

/// The slot the connection had before what counts of a packet was another.
#[inline(always)]
pub fn slot_before(tables: &impl Tables, q: &Question) -> Slot {
    let Some(spread) = tables.before(q.before) else { return Slot::default() };
    // Family by family, so that nothing of the other has to be kept: there is little room on the stack.
    let t = &q.tuple;
    let flow = |v4: bool, source: Address, destination: Address, ports: u32| Flow {
        source,
        destination,
        source_port: u16::from_be(ports as u16),
        destination_port: u16::from_be((ports >> 16) as u16),
        v4,
        protocol: TCP,
    };
    let hash = if q.v4() {
        let (source, destination) = (Address::from_v4_raw(t[0]), Address::from_v4_raw(t[1]));
        flow(true, source, destination, t[2]).hash(&spread.v4, spread.seed)
    } else {
        let (source, destination) = (Address([t[0], t[1], t[2], t[3]]), Address([t[4], t[5], t[6], t[7]]));
        flow(false, source, destination, t[8]).hash(&spread.v6, spread.seed)
    };
    tables.slot(spread.table as u16, Slot::number(hash))
}

/// The newest owner that is not this machine and was not asked yet, as far as that is remembered; 0: nobody is left.
#[inline(always)]
pub fn next(slot: Slot, asked: Asked, own: u16) -> u16 {
    let mut out = zeros(slot.0);
    out |= zeros(slot.0 ^ spread(asked.at(0)));
    out |= zeros(slot.0 ^ spread(asked.at(1)));
    out |= zeros(slot.0 ^ spread(asked.at(2)));
    out |= zeros(slot.0 ^ spread(asked.at(3)));
    out |= zeros(slot.0 ^ spread(own));
    let left = !out & TOPS;
    let lowest = left & left.wrapping_neg();
    let owner = slot.0 & (lowest >> 15).wrapping_mul(0xffff);
    let owner = owner | owner >> 32;
    (owner | owner >> 16) as u16
}

/// Who takes a flow in place of its slot's owner, who does not serve it: the owner of another slot, the same on every machine, which the
/// slot remembers once that is known; where it has no room for another, the newest of those it remembers. 0: nobody. Only the last two
/// that were asked are left out: more are not tried.
#[inline(always)]
pub fn stand_in(tables: &impl Tables, q: &Question, asked: Asked) -> u16 {
    let (slot, mut number) = (Slot(q.slot), q.number);
    let mut known = if slot.is_full() { slot.0 >> 16 } else { 0 };
    let mut turn = 0;
    while turn < STAND_INS_MAX {
        let mut owner = known as u16;
        known >>= 16;
        if owner == 0 {
            number = Slot::stand_in(number);
            owner = tables.slot(q.table as u16, number).current();
        }
        if owner != 0 && owner != asked.at(0) && owner != asked.at(1) {
            return owner;
        }
        turn += 1;
    }
    0
}

/// The top bit of every part of the word that is zero.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    !((word & !TOPS).wrapping_add(!TOPS) | word) & TOPS
}

/// The machine in every part of a word.
#[inline(always)]
fn spread(machine: u16) -> u64 {
    (machine as u64).wrapping_mul(0x0001_0001_0001_0001)
}

const TOPS: u64 = 0x8000_8000_8000_8000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_asked_newest_first_and_once() {
        let slot = Slot::new([7, 65_535, 32_768, 1]);
        let mut asked = Asked::NOBODY;
        for owner in [7, 65_535, 32_768, 1, 0] {
            assert_eq!(next(slot, asked, 9), owner);
            asked = asked.and(owner);
        }
        assert_eq!(asked.at(3), 7, "the first one stays");
        // One drains no more: it is the owner by this machine's table, and by that of the machine that was asked first it was not.
        let asked = Asked::NOBODY.and(4).and(5).and(7).and(3);
        assert_eq!(next(Slot::new([1, 4, 3, 2]), asked, 2), 1);
        // A machine that is no owner was asked too; an entry of the newest place names nobody.
        assert_eq!(next(slot, Asked::NOBODY.and(9), 7), 65_535);
        assert_eq!(next(Slot::new([0, 5, 0, 0]), Asked::NOBODY, 9), 5);
        assert_eq!(next(Slot::new([0, 5, 0, 0]), Asked::NOBODY, 5), 0);
        assert_eq!(next(Slot::default(), Asked::NOBODY, 9), 0);
    }

    #[test]
    fn says_what_a_search_says() {
        let mut x = 1u64;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let slot = Slot(x & 0x0003_0003_0003_0003 | (x >> 60) << 15);
            let asked = Asked(x.rotate_left(21) & 0x0003_0003_0003_0003);
            let own = (x >> 33) as u16 & 3;
            let fresh = |o: &u16| *o != 0 && *o != own && (0..4).all(|place| asked.at(place) != *o);
            let naive = slot.owners().into_iter().find(fresh);
            assert_eq!(next(slot, asked, own), naive.unwrap_or(0), "{slot:?} {asked:?} {own}");
        }
    }
}
