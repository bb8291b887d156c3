//! All maps. Their keys and values are `abi` types; capacities marked "at load" are replaced by userspace.
//!
//! | map | type | key → value | capacity | writer | readers | eviction |
//! |---|---|---|---|---|---|---|
//! | CONFIG | array, mapped | 0 → Config | 1 | userspace: settings that are not live, then `switch`; `lease`, `captures`, `prefixed` | all programs | none |
//! | VIP_SEEDS | array, mapped | generation × 1,024 + bucket → seed (`VipHash`) | 2,048 | userspace, generation that is not live | xdp_steer, xdp_fragment, xdp_backend, sk_lookup | none |
//! | VIP_PLACES | array, mapped | generation × 8,192 + place → VipAt | 16,384 | userspace, as VIP_SEEDS | the same | none |
//! | VIPS | array, mapped | `VipAt::element` → VipAddress | both generations' addresses | userspace, as VIP_SEEDS | the same | none |
//! | VIP_PREFIXES | trie | VipPlace → VipKey | both generations' prefixes | userspace, generation that is not live | xdp_steer, xdp_fragment, sk_lookup | userspace |
//! | SLOTS | array, mapped | table × 65,537 + slot → Slot | tables at load | userspace | xdp_steer | none |
//! | BEFORE | array, mapped | generation × vips + vip → Before | 2 × vips at load | userspace, as VIPS | xdp_steer | none |
//! | SENDERS | hash | SenderKey → machine | both generations' machines | userspace, as VIPS | xdp_steer | userspace |
//! | MACHINES | array, mapped | generation × machines + machine → Machine | 2 × machines at load | userspace, as VIPS | xdp_steer | none |
//! | ACCESS | array, mapped | word of `abi::access` → states of blocks, and bits of BANS | 606,208 | userspace, while programs run | xdp_steer | none |
//! | ACCESS_BLOCKS | hash | first 24 bits of an IPv4 address → states of the 256 | 2,097,152, memory as they come | userspace, while programs run | xdp_steer | userspace |
//! | ACCESS_PREFIXES | trie | AccessKey → DENY or ALLOW | 2,097,152, memory as they come | userspace, while programs run | xdp_steer | userspace |
//! | BANS | hash | `access::banned` of a source → CLOCK_MONOTONIC at which its ban ends | 65,536, memory as they come | userspace, while programs run | xdp_steer, xdp_general | userspace |
//! | LIMITS | array, mapped | generation × vips + vip → Limit | 2 × vips at load | userspace, as VIPS | xdp_steer, xdp_fragment | none |
//! | BUCKETS | array | vip, and vips + vip for SYN cookies → bucket; behind them the bucket of FLOWS, what was and was not remembered there, and by vip its share of that | 3 × vips + 3 at load | xdp_steer, xdp_fragment, xdp_backend, xdp_deliver | the same, userspace | none |
//! | SOURCES | LRU hash | SourceKey → bucket | 65,536 | xdp_steer, xdp_fragment | the same | longest unused |
//! | COUNTERS | array, mapped | (cpu × vips + vip) × 64 + reason → Counter | at load | xdp_steer, own CPU's block | userspace | none |
//! | STEERED | array, mapped | (cpu × vips + vip) × machines + machine → Counter | at load | xdp_steer, own CPU's block | userspace | none |
//! | QUESTION | array per CPU | 0 → Question | 1 | xdp_steer, which has no room for it on its stack | xdp_steer | none |
//! | ROADS | programs | 0 → xdp_fragment, 1 → xdp_capture, 2 → xdp_syn, 3 → xdp_backend, 4 → xdp_deliver, 5 → xdp_general | 6 | userspace | xdp_steer, xdp_general, xdp_fragment, xdp_backend | none |
//! | SYN | array per CPU | 0 → Syn | 1 | xdp_steer, for xdp_syn | xdp_syn | none |
//! | PART | array per CPU | 0 → HeldFragment | 1 | xdp_steer, for xdp_fragment and xdp_backend | these; xdp_deliver, for HELD | none |
//! | FRAGMENTS | LRU hash | FragmentKey → FragmentWay | 16,384 | xdp_fragment | xdp_fragment, userspace | longest unused |
//! | DELIVERY | array per CPU | 0 → Delivery | 1 | xdp_backend, xdp_fragment, for xdp_deliver | xdp_deliver | none |
//! | FLOWS | LRU hash | `Flow::name` → vip and backend | 65,536 | xdp_deliver; userspace takes out | xdp_deliver, userspace | longest unused |
//! | CAPTURED | array per CPU | 0 → Captured | 1 | xdp_steer, xdp_fragment, for xdp_capture | xdp_capture | none |
//! | CAPTURES | array, mapped | capture → Capture | 4 | userspace; buckets and counts xdp_capture | xdp_capture, userspace | none |
//! | SEEN | perf events | Captured and the frame | one ring per CPU | xdp_capture | userspace | what does not fit |
//! | HELD | perf events | HeldFragment and the frame | one ring per CPU | xdp_fragment | userspace | what does not fit |
//! | WAYS | trie | WayKey → MAC | 512, memory as they come | userspace, while programs run | xdp_syn | userspace |
//! | LISTENERS | hash | ListenerKey → index of SOCKETS | 4,096 | userspace | sk_lookup | userspace |
//! | LISTENER_RANGES | array | 0 → ListenerRanges | 1 | userspace | sk_lookup | none |
//! | SOCKETS | sockmap | GroupValue.first + worker → socket of a listener | 16,384 | userspace | sk_lookup, sk_reuseport | closing the socket |
//! | GROUPS | hash | GroupKey → GroupValue | 4,096 | userspace | sk_reuseport | userspace |
//! | WORKER_OF_CPU | array, mapped | cpu → worker + 1 | 8,192 | userspace | sk_reuseport | none |
//!
//! SOCKETS serves both socket programs because a socket can be in a sockmap or in a reuseport array, not in both.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray, ProgramArray, SockMap};

use abi::access::{AccessBlock, WORDS, WORDS_BANS};
use abi::capture::CAPTURES_MAX;
use abi::limits::{
    ACCESS_BLOCKS_MAX, ACCESS_PREFIXES_MAX, ADDRESSES_MAX, BANS_MAX, CPUS_MAX, FLOWS_MAX, FRAGMENTS_MAX, LISTENERS_MAX,
    MACHINES_MAX, SLOTS as SLOTS_OF_TABLE, SOCKETS_MAX, SOURCES_MAX, WAYS_MAX,
};
use abi::vip::{PLACES, SEEDS};
use abi::{
    Address, Before, Capture, Captured, Config, Counter, Delivery, FragmentKey, FragmentWay, GroupKey, GroupValue, HeldFragment,
    Limit, ListenerKey, ListenerRanges, Machine, SenderKey, Slot, SourceKey, Switch, Syn, VipAddress, VipAt, VipKey,
};
use datapath::owners::Question;

/// Userspace maps the array into its memory: one store per slot instead of one system call.
const MAPPED: u32 = 1 << 10;
/// Memory as entries come, not for all of them at once.
const AS_NEEDED: u32 = 1;
/// Replaced at load.
const AT_LOAD: u32 = 1;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, MAPPED);

#[map]
pub static VIP_SEEDS: Array<u64> = Array::with_max_entries(2 * SEEDS, MAPPED);

#[map]
pub static VIP_PLACES: Array<VipAt> = Array::with_max_entries(2 * PLACES, MAPPED);

#[map]
pub static VIPS: Array<VipAddress> = Array::with_max_entries(2 * ADDRESSES_MAX, MAPPED);

#[map]
pub static VIP_PREFIXES: LpmTrie<[u32; 5], VipKey> = LpmTrie::with_max_entries(2 * ADDRESSES_MAX, AS_NEEDED);

#[map]
pub static SENDERS: HashMap<SenderKey, u32> = HashMap::with_max_entries(2 * MACHINES_MAX, AS_NEEDED);

#[map]
pub static SLOTS: Array<Slot> = Array::with_max_entries(SLOTS_OF_TABLE, MAPPED);

#[map]
pub static BEFORE: Array<Before> = Array::with_max_entries(AT_LOAD, MAPPED);

#[map]
pub static MACHINES: Array<Machine> = Array::with_max_entries(AT_LOAD, MAPPED);

#[map]
pub static ACCESS: Array<u64> = Array::with_max_entries(WORDS + WORDS_BANS, MAPPED);

#[map]
pub static ACCESS_BLOCKS: HashMap<u32, AccessBlock> = HashMap::with_max_entries(ACCESS_BLOCKS_MAX, AS_NEEDED);

#[map]
pub static ACCESS_PREFIXES: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(ACCESS_PREFIXES_MAX, AS_NEEDED);

#[map]
pub static BANS: HashMap<Address, u64> = HashMap::with_max_entries(BANS_MAX, AS_NEEDED);

#[map]
pub static WAYS: LpmTrie<[u32; 5], u64> = LpmTrie::with_max_entries(WAYS_MAX, AS_NEEDED);

#[map]
pub static LIMITS: Array<Limit> = Array::with_max_entries(AT_LOAD, MAPPED);

#[map]
pub static BUCKETS: Array<u64> = Array::with_max_entries(AT_LOAD, 0);

#[map]
pub static SOURCES: LruHashMap<SourceKey, u64> = LruHashMap::with_max_entries(SOURCES_MAX, 0);

#[map]
pub static COUNTERS: Array<Counter> = Array::with_max_entries(AT_LOAD, MAPPED);

#[map]
pub static STEERED: Array<Counter> = Array::with_max_entries(AT_LOAD, MAPPED);

#[map]
pub static QUESTION: PerCpuArray<Question> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static ROADS: ProgramArray = ProgramArray::with_max_entries(6, 0);

/// Elements of ROADS.
pub const FRAGMENT_ROAD: u32 = 0;
pub const CAPTURE_ROAD: u32 = 1;
pub const SYN_ROAD: u32 = 2;
pub const BACKEND_ROAD: u32 = 3;
pub const DELIVER_ROAD: u32 = 4;
pub const GENERAL_ROAD: u32 = 5;

#[map]
pub static SYN: PerCpuArray<Syn> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static PART: PerCpuArray<HeldFragment> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentWay> = LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);

#[map]
pub static DELIVERY: PerCpuArray<Delivery> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static FLOWS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

#[map]
pub static CAPTURED: PerCpuArray<Captured> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static CAPTURES: Array<Capture> = Array::with_max_entries(CAPTURES_MAX as u32, MAPPED);

#[map]
pub static SEEN: PerfEventArray<Captured> = PerfEventArray::new(0);

#[map]
pub static HELD: PerfEventArray<HeldFragment> = PerfEventArray::new(0);

#[map]
pub static LISTENERS: HashMap<ListenerKey, u32> = HashMap::with_max_entries(LISTENERS_MAX, AS_NEEDED);

#[map]
pub static LISTENER_RANGES: Array<ListenerRanges> = Array::with_max_entries(1, 0);

#[map]
pub static SOCKETS: SockMap = SockMap::with_max_entries(SOCKETS_MAX, 0);

#[map]
pub static GROUPS: HashMap<GroupKey, GroupValue> = HashMap::with_max_entries(LISTENERS_MAX, AS_NEEDED);

#[map]
pub static WORKER_OF_CPU: Array<u64> = Array::with_max_entries(CPUS_MAX, MAPPED);

/// The word that says which generation is live.
#[inline(always)]
pub fn switch(config: *const Config) -> Switch {
    // SAFETY: an element of the map; userspace stores the word at any time, so it is loaded once, as a whole, and no reference to it
    // is ever made.
    unsafe { (&raw const (*config).switch).read_volatile() }
}
