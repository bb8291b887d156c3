//! The maps as [`Tables`].

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_perf_event_output};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::XdpContext;

use abi::access::{block_of, place_in_block};
use abi::config::lease;
use abi::fragment::FRAGMENT_NS;
use abi::{
    AccessKey, Address, Before, Config, Delivery, FragmentWay, HeldFragment, Limit, Machine, Part, Reason, SenderKey,
    Settings, Slot, SourceKey, Switch, Syn, VipAddress, VipAt, VipHash, VipKey, VipPlace, WayKey,
};
use datapath::owners::{Decision, Question};
use datapath::steer::watched;
use datapath::syn::{Offer, Segment, Way};
use datapath::tables::Bucket;
use datapath::{Frame, Live, Outcome, Tables};

use crate::admission::{DENIED, SOURCE, kept_out, flooded, limited};
use crate::cookie::{answers, cookie, offer, way};
use crate::decide::{decide, slot_before, tcp_state};
use crate::frame::XdpFrame;
use crate::maps::{
    ACCESS, ACCESS_BLOCKS, ACCESS_PREFIXES, BACKEND_ROAD, BANS, BEFORE, BUCKETS, CONFIG, DELIVER_ROAD, DELIVERY, FLOWS,
    FRAGMENT_ROAD, FRAGMENTS, HELD, LIMITS, MACHINES, PART, QUESTION, ROADS, SLOTS, SOURCES, SYN, SYN_ROAD, VIP_PLACES,
    VIP_PREFIXES, VIP_SEEDS, VIPS, WAYS, switch,
};
use crate::sender::sender;

pub struct Maps {
    pub context: *mut xdp_md,
    /// Bytes of the frame as it arrived.
    arrived: usize,
    /// On the road of usual packets, which is short: numbers are not forgotten, and the element of CONFIG is looked for once.
    usual: bool,
    config: *const Config,
}

impl Maps {
    #[inline(always)]
    pub fn new(context: *mut xdp_md, arrived: usize) -> Maps {
        Maps { context, arrived, usual: false, config: core::ptr::null() }
    }

    /// For the road of usual packets.
    #[inline(always)]
    pub fn of_usual(context: *mut xdp_md, arrived: usize) -> Option<Maps> {
        Some(Maps { context, arrived, usual: true, config: CONFIG.get_ptr(0)? })
    }

    #[inline(always)]
    pub fn config(&self) -> Option<*const Config> {
        if self.usual { Some(self.config) } else { CONFIG.get_ptr(0) }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn live(&self) -> Option<Live<'_>> {
        let config = self.config()?;
        Some(live(switch(config), config))
    }

    #[inline(always)]
    fn live_at(&self, switch: Switch) -> Option<Live<'_>> {
        Some(live(switch, self.config()?))
    }

    #[inline(always)]
    fn leave(&self, _: &mut impl Frame, part: Part) -> Outcome {
        if let Some(held) = PART.get_ptr_mut(0) {
            // SAFETY: an element of a map of this CPU, on which no other XDP program runs meanwhile; the program that is called is of the
            // same kind.
            unsafe {
                (&raw mut (*held).part).write(Part { arrived: self.arrived as u32, ..part });
                let _ = ROADS.tail_call(
                    &XdpContext::new(self.context),
                    FRAGMENT_ROAD + BACKEND_ROAD * (part.later / Part::WHOLE),
                );
            }
        }
        // There is no program: userspace puts it there before this one runs.
        Outcome { reason: Reason::FragmentEarly, vip: 0, machine: 0, hops: 0, watched: watched::NOT }
    }

    #[inline(always)]
    fn deliver(&self, _: &mut impl Frame, delivery: Delivery) -> Outcome {
        if let Some(place) = DELIVERY.get_ptr_mut(0) {
            // SAFETY: as in `leave`.
            unsafe {
                // What `xdp_fragment` leaves has it from there.
                let arrived = delivery.part.arrived | self.arrived as u32;
                place.write(Delivery { part: Part { arrived, ..delivery.part }, ..delivery });
                let _ = ROADS.tail_call(&XdpContext::new(self.context), DELIVER_ROAD);
            }
        }
        // There is no program, as in `leave`.
        Outcome { reason: Reason::MachineUnknown, vip: 0, machine: 0, hops: 0, watched: watched::NOT }
    }

    #[inline(always)]
    fn flow(&self, name: u64) -> u32 {
        // SAFETY: one whose element is used anew while it is read is another's, and is compared with those of its slot.
        unsafe { FLOWS.get(&name) }.map_or(0, |remembered| *remembered)
    }

    #[inline(always)]
    fn keep_flow(&self, name: u64, remembered: u32) {
        let _ = FLOWS.insert(&name, remembered, 0);
    }

    #[inline(always)]
    fn way(&self, part: &Part) -> Option<FragmentWay> {
        // SAFETY: one whose element is used anew while it is read is that of another datagram: then the fragment goes where nobody waits
        // for it.
        let way = unsafe { FRAGMENTS.get(&part.key) }?;
        // SAFETY: the helper has no arguments.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        (now.wrapping_sub(way.at_ns) <= FRAGMENT_NS).then_some(FragmentWay { at_ns: 0, ..*way })
    }

    #[inline(always)]
    fn remember(&self, part: &Part, way: FragmentWay) {
        // SAFETY: the helper has no arguments.
        let at_ns = unsafe { bpf_ktime_get_coarse_ns() };
        let _ = FRAGMENTS.insert(&part.key, FragmentWay { at_ns, ..way }, 0);
    }

    #[inline(always)]
    fn send_in_parts(&self, part: Part) -> bool {
        let Some(held) = PART.get_ptr_mut(0) else { return false };
        // SAFETY: an element of this CPU's, on which no other XDP program runs meanwhile.
        unsafe { (&raw mut (*held).part).write(part) };
        self.hold(&part)
    }

    /// The part lies in PART already.
    #[inline(always)]
    fn hold(&self, _: &Part) -> bool {
        let Some(held) = PART.get_ptr_mut(0) else { return false };
        let length = XdpFrame::new(self.context).len() as u32;
        // The ring of this CPU, and behind what is given the whole frame.
        let flags = CURRENT_CPU | (length as u64) << 32;
        // SAFETY: an element of this CPU's; the helper reads as much of it as is said, and the frame itself.
        unsafe {
            (*held).length = length;
            let rings = (&raw const HELD).cast_mut().cast();
            bpf_perf_event_output(self.context.cast(), rings, flags, held.cast(), size_of::<HeldFragment>() as u64) == 0
        }
    }

    #[inline(always)]
    fn vip(&self, live: &Live<'_>, key: &VipKey) -> Option<&VipAddress> {
        VIPS.get(element_of(live, key)?)
    }

    #[inline(always)]
    fn find_vip(&self, live: &Live<'_>, address: Address) -> Option<&VipAddress> {
        // Only on the road of usual packets is the family a constant.
        if self.usual && address.is_v4() {
            let at = place_of(live, live.settings.vip_hash.of_v4(address.v4_raw()))?;
            if at.v4 == VipAt::v4(address.v4_raw()) {
                return VIPS.get(at.element);
            }
            if (self.prefixed() >> live.switch.generation()) & 1 == 0 {
                return None;
            }
        }
        VIPS.get(find_element(live, self.prefixed(), address)?)
    }

    #[inline(always)]
    fn prefixed(&self) -> u32 {
        self.config().map_or(0, prefixed)
    }

    #[inline(always)]
    fn prefix_of(&self, place: &VipPlace) -> Option<&VipKey> {
        prefix_of(place)
    }

    #[inline(always)]
    fn sender(&self, key: &SenderKey) -> u16 {
        let a = &key.address.0;
        sender(a[0], a[1], a[2], a[3], key.generation) as u16
    }

    #[inline(always)]
    fn slot(&self, table: u16, number: u32) -> Slot {
        match SLOTS.get_ptr(Slot::element(table, number)) {
            // SAFETY: a slot is one aligned word, which userspace stores at once.
            Some(slot) => unsafe { slot.read_volatile() },
            None => Slot::default(),
        }
    }

    #[inline(always)]
    fn before(&self, index: u32) -> Option<&Before> {
        BEFORE.get(index)
    }

    #[inline(always)]
    fn machine(&self, index: u32) -> Option<&Machine> {
        MACHINES.get(index)
    }

    #[inline(always)]
    fn access_listed(&self) -> u32 {
        let Some(config) = self.config() else { return 0 };
        // SAFETY: an element of the map; userspace stores the word at any time, so it is loaded once, as a whole.
        unsafe { (&raw const (*config).access).read_volatile() }
    }

    #[inline(always)]
    fn access_word(&self, index: u32) -> u64 {
        // SAFETY: one aligned double word, which userspace stores at once.
        ACCESS.get_ptr(index).map_or(0, |word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn access_block(&self, raw: u32) -> u32 {
        // SAFETY: userspace puts a block into the place of another as a whole, and one that is gone stays as it was while it is read.
        let Some(block) = (unsafe { ACCESS_BLOCKS.get(&block_of(raw)) }) else { return abi::access::OPEN };
        let (word, shift) = place_in_block(raw);
        block.get(word).map_or(abi::access::OPEN, |states| (states >> shift) as u32 & abi::access::ASK)
    }

    #[inline(always)]
    fn access_prefix(&self, key: &AccessKey) -> u32 {
        ACCESS_PREFIXES.get(&Key::new(key.bits, key.address)).map_or(abi::access::OPEN, |state| *state)
    }

    #[inline(always)]
    fn kept_out(&self, source: &Address, hops: u8, listed: u32) -> Option<Reason> {
        let a = &source.0;
        match kept_out(a[0], a[1], a[2], a[3], hops as u32 | listed << 16) {
            0 => None,
            DENIED => Some(Reason::AccessDenied),
            _ => Some(Reason::Banned),
        }
    }

    #[inline(always)]
    fn banned_until(&self, key: &Address) -> u64 {
        // SAFETY: userspace puts another element into its place and changes none.
        unsafe { BANS.get(key) }.map_or(0, |until| *until)
    }

    #[inline(always)]
    fn limit(&self, index: u32) -> Option<&Limit> {
        LIMITS.get(index)
    }

    #[inline(always)]
    fn vip_bucket(&self, vip: u32) -> Option<impl Bucket> {
        BUCKETS.get_ptr_mut(vip).map(Word)
    }

    #[inline(always)]
    fn source_bucket(&self, key: &SourceKey) -> Option<impl Bucket> {
        // One whose element is used anew meanwhile counts one connection of another source too much.
        let find = || SOURCES.get_ptr_mut(key).map(Word);
        find().or_else(|| {
            let _ = SOURCES.insert(key, 0, 0);
            find()
        })
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn limited(&self, live: &Live<'_>, vip: u16, source: &Address) -> Option<Reason> {
        let a = &source.0;
        let which = live.switch.generation() << 16 | vip as u32;
        match limited(which, a[0], a[1], a[2], a[3]) {
            0 => None,
            SOURCE => Some(Reason::SourceLimited),
            _ => Some(Reason::VipLimited),
        }
    }

    #[inline(always)]
    fn is_flooded(&self, live: &Live<'_>, vip: u16, opens: bool) -> bool {
        flooded(live.switch.generation() << 16 | vip as u32, opens as u32) != 0
    }

    #[inline(always)]
    fn watch(&self, _: &mut impl Frame, live: &Live<'_>, outcome: Outcome) -> Outcome {
        if self.is_flooded(live, outcome.vip, outcome.watched == watched::OPENS)
            && let Some(place) = SYN.get_ptr_mut(0)
        {
            let Outcome { reason, vip, hops, .. } = outcome;
            // SAFETY: as in `leave`.
            unsafe {
                place.write(Syn {
                    switch: live.switch.0,
                    arrived: self.arrived as u32,
                    vip,
                    hops,
                    reason: reason as u8,
                });
                let _ = ROADS.tail_call(&XdpContext::new(self.context), SYN_ROAD);
            }
            // This kernel does not take the program: it makes cookies itself, when its queue is full.
        }
        outcome
    }

    #[inline(always)]
    fn offer(&self, _: &impl Frame, from: usize, to: usize) -> Offer {
        Offer(offer(self.context, from as u32, to as u32))
    }

    #[inline(always)]
    fn way_back(&self, _: &impl Frame, segment: &Segment) -> Way {
        way(self.context, segment.at as u32, segment.v4 as u32)
    }

    #[inline(always)]
    fn way_to(&self, address: &Address) -> u64 {
        // SAFETY: the kernel's own context; the field is read with the width it has.
        let interface = unsafe { (&raw const (*self.context).ingress_ifindex).read_volatile() };
        let WayKey { bits, interface, address: [a, b, c, d] } = WayKey::whole(interface, address);
        WAYS.get(&Key::new(bits, [interface, a, b, c, d])).map_or(abi::way::NONE, |way| *way)
    }

    #[inline(always)]
    fn make_cookie(&self, segment: &Segment) -> Option<u32> {
        let made =
            cookie(self.context, segment.at as u32, segment.tcp as u32, segment.header as u32, segment.v4 as u32);
        (made >> 32 != 0).then_some(made as u32)
    }

    #[inline(always)]
    fn takes_answer(&self, segment: &Segment) -> bool {
        answers(self.context, segment.at as u32, segment.tcp as u32, segment.v4 as u32) != 0
    }

    #[inline(always)]
    fn syn_options(&self) -> u32 {
        let Some(config) = self.config() else { return 0 };
        // SAFETY: an element of the map; userspace stores the word at any time, so it is loaded once, as a whole.
        unsafe { (&raw const (*config).syn).read_volatile() }
    }

    #[inline(always)]
    fn lease(&self) -> u8 {
        let Some(config) = self.config() else { return lease::OFF };
        // SAFETY: an element of the map; userspace stores the double word at any time, so it is loaded once, as a whole.
        let word = unsafe { (&raw const (*config).lease).read_volatile() };
        // SAFETY: the helper has no arguments.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        lease::state(word, now)
    }

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        if self.usual { number } else { self.merge(number) }
    }

    #[inline(always)]
    fn merge(&self, number: usize) -> usize {
        // Exclusive or, because a sum with something unknown still has a known least value. Numbers here have 32 bits.
        // SAFETY: a word that nobody ever writes; read as volatile, so that LLVM does not know its value either.
        (number as u32 ^ unsafe { (&raw const ZERO).read_volatile() }) as usize
    }

    #[inline(always)]
    fn tcp_state(&self, question: &Question) -> u32 {
        tcp_state(self.context, question)
    }

    #[inline(always)]
    fn decide(&self, question: &Question) -> Decision {
        let Some(place) = QUESTION.get_ptr_mut(0) else { return Decision::STAYS };
        // SAFETY: an element of a map of this CPU, on which no other XDP program runs meanwhile.
        unsafe { place.write(*question) };
        if question.before != 0 {
            let slot = slot_before();
            // SAFETY: as above.
            unsafe { (*place).slot_before = slot };
        }
        Decision(decide(self.context))
    }
}

/// The element of VIPS for an address or a prefix by itself. Userspace writes only the generation that is not live, so nothing of it changes while it is read.
#[inline(always)]
fn element_of(live: &Live<'_>, key: &VipKey) -> Option<u32> {
    let at = place_of(live, live.settings.vip_hash.of(&key.address, key.bits))?;
    at.is(&key.address, key.bits).then_some(at.element)
}

/// What lies where its number puts it.
#[inline(always)]
fn place_of(live: &Live<'_>, number: u32) -> Option<&'static VipAt> {
    let seed = VIP_SEEDS.get(VipHash::bucket(live.switch, number))?;
    VIP_PLACES.get(VipHash::place(live.switch, number, *seed))
}

/// Likewise for an address, or the longest prefix that has it. `prefixed`: by generation one bit, whether there are prefixes.
#[inline(always)]
pub fn find_element(live: &Live<'_>, prefixed: u32, address: Address) -> Option<u32> {
    let generation = live.switch.generation();
    let found = element_of(live, &VipKey { generation: generation as u16, bits: 0, address });
    if found.is_some() || (prefixed >> generation) & 1 == 0 {
        return found;
    }
    element_of(live, prefix_of(&VipPlace::whole(generation as u16, address))?)
}

/// The longest prefix that has the address.
#[inline(always)]
fn prefix_of(place: &VipPlace) -> Option<&'static VipKey> {
    // SAFETY: both are a number of bits and twenty bytes behind it, and any bytes are a key.
    VIP_PREFIXES.get(unsafe { &*(&raw const *place).cast::<Key<[u32; 5]>>() })
}

/// By generation one bit: whether there are virtual IPs by prefix.
#[inline(always)]
pub fn prefixed(config: *const Config) -> u32 {
    // SAFETY: the element of the map; userspace stores the word at any time, so it is loaded once, as a whole.
    unsafe { (&raw const (*config).prefixed).read_volatile() }
}

#[inline(always)]
pub fn live<'a>(switch: Switch, config: *const Config) -> Live<'a> {
    // SAFETY: inside the element, whose two settings follow each other; userspace writes only those that are not live, so the value does
    // not change while it is referred to.
    let settings = unsafe {
        let first = (&raw const (*config).settings).cast::<Settings>();
        &*(select(first as usize, switch.0 as usize) as *const Settings)
    };
    Live { switch, settings }
}

/// An element of a map, which nobody but the programs writes while they run, and they only as follows.
pub struct Word(pub *mut u64);

// In assembly, because `core` has no atomics for this target (rustc 1.97). Its machine has these since kernel 5.12; for older ones
// `edge_kernel::older` puts others in their place: the exchange becomes a store, and of the three instructions of `add` the second
// becomes an addition that gives nothing back, and the third nothing, which leaves what the first has read.
impl Bucket for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: a whole aligned double word of an element that was found.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn replace(&self, seen: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: as in `load`.
        unsafe {
            asm!("r0 = cmpxchg_64({1} + 0, r0, {0})", in(reg) new, in(reg) self.0, inout("r0") seen => found, options(nostack))
        };
        found == seen
    }

    #[inline(always)]
    fn add(&self, number: u64) -> u64 {
        let before: u64;
        // SAFETY: as in `load`.
        unsafe {
            asm!(
                "{0} = *(u64 *)({1} + 0)",
                "{2} = atomic_fetch_add((u64 *)({1} + 0), {2})",
                "{0} = {2}",
                out(reg) before,
                in(reg) self.0,
                inout(reg) number => _,
                options(nostack)
            )
        };
        before
    }
}

/// BPF_F_CURRENT_CPU.
pub const CURRENT_CPU: u64 = 0xffff_ffff;

/// The settings of the generation that the switch names, `first` being those of generation 0. Calculated where LLVM cannot see it: it
/// would take two roads for one bit, and the verifier would follow both to their ends.
#[inline(always)]
fn select(first: usize, switch: usize) -> usize {
    let mut settings = first;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "{1} &= 1",
            "{1} <<= 7",
            "{0} += {1}",
            inout(reg) settings,
            inout(reg) switch => _,
            options(pure, nomem, nostack)
        )
    };
    settings
}

const _: () = assert!(core::mem::size_of::<Settings>() == 128);
const _: () = assert!(core::mem::size_of::<Key<[u32; 5]>>() == core::mem::size_of::<VipPlace>());

/// Always zero, which neither LLVM nor the verifier knows: it lies in a map that could be written.
static mut ZERO: u32 = 0;
