//! What a packet's fate depends on besides its bytes.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

use abi::limits::{FLOWS_RATE, FLOWS_RATE_OF_ONE};
use abi::{
    AccessKey, Address, Before, Delivery, FragmentWay, Limit, Machine, Part, Reason, SenderKey, Settings, Slot,
    SourceKey, Switch, Syn, VipAddress, VipKey, VipPlace,
};

use crate::owners::{self, Decision, Question};
use crate::steer::watched;
use crate::syn::{Offer, Segment, Way};
use crate::{Frame, Outcome};
use crate::{admission, backend, fragment, syn};

pub trait Tables {
    /// The generation that is live, and what holds for it. The word that says so may change at any time: ask once per packet.
    fn live(&self) -> Option<Live<'_>>;

    /// The same of a switch that was read before.
    fn live_at(&self, switch: Switch) -> Option<Live<'_>>;

    /// What is said of an address or a prefix by itself, in the generation that is live.
    fn vip(&self, live: &Live<'_>, key: &VipKey) -> Option<&VipAddress>;

    /// By generation one bit: whether there are virtual IPs by prefix.
    fn prefixed(&self) -> u32;

    /// The longest prefix that has the address.
    fn prefix_of(&self, place: &VipPlace) -> Option<&VipKey>;

    /// The virtual IPs of an address: what is said of it alone, or else of the longest prefix that has it.
    #[inline(always)]
    fn find_vip(&self, live: &Live<'_>, address: Address) -> Option<&VipAddress> {
        let generation = live.switch.generation();
        let place = VipPlace::whole(generation as u16, address);
        let found = self.vip(live, &place.key);
        if found.is_some() || (self.prefixed() >> generation) & 1 == 0 {
            return found;
        }
        self.vip(live, self.prefix_of(&place)?)
    }

    /// Slot `number` of `table`; [`Slot`] 0 when there is no such table.
    fn slot(&self, table: u16, number: u32) -> Slot;

    /// Element of BEFORE.
    fn before(&self, index: u32) -> Option<&Before>;

    /// Element of MACHINES, `index` counted over both generations.
    fn machine(&self, index: u32) -> Option<&Machine>;

    /// The machine that sends GUE from the address; 0: none.
    fn sender(&self, key: &SenderKey) -> u16;

    /// Whether there are prefixes in ACCESS and sources in BANS: [`abi::access::LISTED`], [`abi::access::BANS`]; 0: neither.
    fn access_listed(&self) -> u32;

    /// Element of ACCESS.
    fn access_word(&self, index: u32) -> u64;

    /// What ACCESS_BLOCKS says of an IPv4 address, which is one native word: as `access_prefix`.
    fn access_block(&self, raw: u32) -> u32;

    /// What ACCESS_PREFIXES says of an IPv6 address: [`abi::access::DENY`], [`abi::access::ALLOW`], or [`abi::access::OPEN`] when no prefix has it.
    fn access_prefix(&self, key: &AccessKey) -> u32;

    /// [`admission::kept_out`]; in BPF a function that the verifier examines once.
    #[inline(always)]
    fn kept_out(&self, source: &Address, hops: u8, listed: u32) -> Option<Reason>
    where
        Self: Sized,
    {
        admission::kept_out(self, source, hops, listed)
    }

    /// Element of BANS; 0: there is none.
    fn banned_until(&self, key: &Address) -> u64;

    /// Element of LIMITS.
    fn limit(&self, index: u32) -> Option<&Limit>;

    /// The bucket of a VIP.
    fn vip_bucket(&self, vip: u32) -> Option<impl Bucket>;

    /// The bucket of a source, a full one where there was none.
    fn source_bucket(&self, key: &SourceKey) -> Option<impl Bucket>;

    /// CLOCK_MONOTONIC.
    fn now_ns(&self) -> u64;

    /// [`admission::limited`] with the element of LIMITS of the generation; in BPF a function that the verifier examines once.
    #[inline(always)]
    fn limited(&self, live: &Live<'_>, vip: u16, source: &Address) -> Option<Reason>
    where
        Self: Sized,
    {
        let index = live.switch.generation() * live.settings.vips + u32::from(vip);
        admission::limited(self, index, vip.into(), source)
    }

    /// [`admission::is_flooded`] likewise.
    #[inline(always)]
    fn is_flooded(&self, live: &Live<'_>, vip: u16, opens: bool) -> bool
    where
        Self: Sized,
    {
        let (index, vips) = (live.switch.generation() * live.settings.vips, live.settings.vips);
        admission::is_flooded(self, index + u32::from(vip), vips + u32::from(vip), opens)
    }

    /// What becomes of a watched packet that is this machine's: that of `outcome`, or [`syn::answer`] while too many come; in BPF a program
    /// by itself, and then this does not return.
    #[inline(always)]
    fn watch(&self, frame: &mut impl Frame, live: &Live<'_>, outcome: Outcome) -> Outcome
    where
        Self: Sized,
    {
        if !self.is_flooded(live, outcome.vip, outcome.watched == watched::OPENS) {
            return outcome;
        }
        let Outcome { reason, vip, hops, .. } = outcome;
        syn::answer(frame, self, &Syn { switch: live.switch.0, arrived: 0, vip, hops, reason: reason as u8 })
    }

    /// [`syn::read_options`]; in BPF a function that the verifier examines once.
    #[inline(always)]
    fn offer(&self, frame: &impl Frame, from: usize, to: usize) -> Offer
    where
        Self: Sized,
    {
        syn::read_options(frame, self, from, to)
    }

    /// [`syn::way_back`]; in BPF a function that the verifier examines once.
    #[inline(always)]
    fn way_back(&self, frame: &impl Frame, segment: &Segment) -> Way
    where
        Self: Sized,
    {
        syn::way_back(frame, self, segment)
    }

    /// What WAYS says of an address, on the interface that the packet came in by: as [`abi::way`] has it.
    fn way_to(&self, address: &Address) -> u64;

    /// A SYN cookie for the packet that a listener of this machine takes from who answers it.
    fn make_cookie(&self, segment: &Segment) -> Option<u32>;

    /// Whether there is a socket for the packet, or a listener that takes its SYN cookie.
    fn takes_answer(&self, segment: &Segment) -> bool;

    /// The word of [`abi::config::syn`].
    fn syn_options(&self) -> u32;

    /// Whether this machine's daemon lives: a number of [`abi::config::lease`].
    fn lease(&self) -> u8;

    /// [`owners::decide`]; in BPF a function that the verifier examines once.
    #[inline(always)]
    fn decide(&self, question: &Question) -> Decision
    where
        Self: Sized,
    {
        let mut question = *question;
        if question.before != 0 {
            question.slot_before = owners::slot_before(self, &question).0;
        }
        owners::decide(self, &question)
    }

    /// The same number. In BPF it comes back as one the verifier knows nothing about, so that roads which differ only in it
    /// are examined once, not each to its end.
    fn forget(&self, number: usize) -> usize;

    /// As `forget`, also on a road that can do with its numbers known: so many come together here.
    #[inline(always)]
    fn merge(&self, number: usize) -> usize {
        self.forget(number)
    }

    /// [`fragment::steer`], or [`backend::steer`] as the part says; in BPF programs by themselves, and this does not return.
    #[inline(always)]
    fn leave(&self, frame: &mut impl Frame, part: Part) -> Outcome
    where
        Self: Sized,
    {
        if part.later >= Part::WHOLE {
            return backend::steer(frame, self, &part);
        }
        fragment::steer(frame, self, &part)
    }

    /// [`backend::deliver`]; in BPF a program by itself, and this does not return.
    #[inline(always)]
    fn deliver(&self, frame: &mut impl Frame, delivery: Delivery) -> Outcome
    where
        Self: Sized,
    {
        backend::deliver(frame, self, &delivery)
    }

    /// Who has a connection, by its [`crate::flow::Flow::name`], as [`abi::delivery::remembered`] has it; 0: nobody is remembered.
    fn flow(&self, name: u64) -> u32;

    /// Remembers it.
    fn keep_flow(&self, name: u64, remembered: u32);

    /// Whether one more of the VIP may be remembered now of which nothing was; counts it, and those for which there is no room.
    #[inline(always)]
    fn may_keep_flow(&self, live: &Live<'_>, vip: u16) -> bool {
        // Behind the buckets of the virtual IPs; behind it the two counts, and what each has for itself.
        let first = 2 * live.settings.vips;
        let Some(bucket) = self.vip_bucket(first) else { return false };
        let now = self.now_ns();
        let half_full = bucket.load() <= now.wrapping_add(FLOWS_RATE.burst_ns / 2);
        let own = || self.vip_bucket(first + 3 + u32::from(vip));
        let may = (half_full || own().is_some_and(|own| admission::take(&own, now, FLOWS_RATE_OF_ONE)))
            && admission::take(&bucket, now, FLOWS_RATE);
        if let Some(count) = self.vip_bucket(first + 2 - may as u32) {
            count.add(1);
        }
        may
    }

    /// Where the first fragment of the datagram went from here; none when it has not come by, or is forgotten.
    fn way(&self, part: &Part) -> Option<FragmentWay>;

    /// Remembers where it went. `at_ns` is filled in.
    fn remember(&self, part: &Part, way: FragmentWay);

    /// Gives the daemon a fragment to keep until the first of its datagram is here. False when nobody takes it.
    fn hold(&self, part: &Part) -> bool;

    /// Gives it a packet to send on in several tunnels, likewise: see [`Part::LONG`].
    fn send_in_parts(&self, part: Part) -> bool;

    /// State of this machine's socket for the TCP connection, as the kernel numbers them (`include/net/tcp_states.h`); 0: none. Where
    /// only a listener is found and the packet answers a SYN cookie of this machine, that is a connection: [`NEW_SYN_RECV`].
    fn tcp_state(&self, question: &Question) -> u32;
}

/// A double word that all CPUs calculate with: see [`abi::limit`]. A trait of its own, because `core` has no atomics for BPF.
pub trait Bucket {
    fn load(&self) -> u64;

    /// Puts another number in the place of this one; false when there was a third.
    fn replace(&self, seen: u64, new: u64) -> bool;

    /// Adds, around the end of the numbers where need be, and says what was there before.
    fn add(&self, number: u64) -> u64;
}

#[cfg(not(target_arch = "bpf"))]
impl Bucket for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Relaxed)
    }

    fn replace(&self, seen: u64, new: u64) -> bool {
        self.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn add(&self, number: u64) -> u64 {
        self.fetch_add(number, Ordering::Relaxed)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<B: Bucket> Bucket for &B {
    fn load(&self) -> u64 {
        B::load(self)
    }

    fn replace(&self, seen: u64, new: u64) -> bool {
        B::replace(self, seen, new)
    }

    fn add(&self, number: u64) -> u64 {
        B::add(self, number)
    }
}

/// A generation, as one reading of the switch named it.
#[derive(Clone, Copy, Debug)]
pub struct Live<'t> {
    pub switch: Switch,
    pub settings: &'t Settings,
}

/// A TCP connection, named from the sender's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Connection {
    pub v4: bool,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Connection {
    #[inline(always)]
    pub fn of(question: &Question) -> Connection {
        let t = &question.tuple;
        let ports = |word: u32| [u16::from_be(word as u16), u16::from_be((word >> 16) as u16)];
        let (source, destination, [source_port, destination_port]) = if question.v4() {
            (Address::from_v4_raw(t[0]), Address::from_v4_raw(t[1]), ports(t[2]))
        } else {
            (Address([t[0], t[1], t[2], t[3]]), Address([t[4], t[5], t[6], t[7]]), ports(t[8]))
        };
        Connection { v4: question.v4(), source, destination, source_port, destination_port }
    }
}

/// A socket that is being taken apart.
pub const CLOSE: u32 = 7;

/// A handshake that is nearly done.
pub const NEW_SYN_RECV: u32 = 12;

/// What a socket in this state is worth to its connection: a number of [`abi::gue::held`].
#[inline(always)]
pub fn held(state: u32) -> u8 {
    // A word looked into instead of a match: one road for the verifier.
    ((HELD >> ((state & 0x0f) * 2)) & 0x03) as u8 + abi::gue::held::NOTHING
}

/// Two bits for each state, less one: LIVE where not said otherwise.
const HELD: u64 = {
    use abi::gue::held::{CLOSING, LIVE, NOTHING, TIME_WAIT};
    const FIN_WAIT_1: u32 = 4;
    const FIN_WAIT_2: u32 = 5;
    const IN_TIME_WAIT: u32 = 6;
    const LAST_ACK: u32 = 9;
    const LISTEN: u32 = 10;
    const BOTH_CLOSING: u32 = 11;
    let mut word = 0;
    let mut state = 0;
    while state < 16 {
        let held = match state {
            0 | LISTEN => NOTHING,
            IN_TIME_WAIT => TIME_WAIT,
            FIN_WAIT_1 | FIN_WAIT_2 | CLOSE | LAST_ACK | BOTH_CLOSING => CLOSING,
            _ => LIVE,
        };
        word |= ((held - NOTHING) as u64) << (state * 2);
        state += 1;
    }
    word
};
