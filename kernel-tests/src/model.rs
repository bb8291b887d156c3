//! The datapath on the host, over tables in memory: what the BPF program is compared with.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use abi::access::{self, BANS, LISTED};
use abi::fragment::FRAGMENT_NS;
use abi::{
    AccessKey, Address, Before, FragmentKey, FragmentWay, Limit, Machine, Part, SenderKey, Settings, Slot, SourceKey,
    Switch, VipAddress, VipKey, VipPlace,
};
use datapath::host::{HEADROOM, SliceFrame};
use datapath::owners::Question;
use datapath::steer::AsItIs;
use datapath::syn::Segment;
use datapath::tables::Bucket;
use datapath::{Connection, Live, Outcome, Tables, general, usual};
use edge_kernel::{AccessTables, Vip, before, gather};

use crate::world;

const EARLIER: u16 = 0x8000;
/// As the kernel numbers it.
const LISTEN: u32 = 10;

/// Tables as the kernel's maps hold them.
pub struct Model {
    switch: Switch,
    settings: Settings,
    senders: HashMap<SenderKey, u16>,
    vips: HashMap<VipKey, VipAddress>,
    /// By the number of the VIP; what its slots were by [`EARLIER`] beside it.
    slots: HashMap<u16, std::sync::Arc<[Slot]>>,
    before: Vec<Before>,
    machines: Vec<Machine>,
    /// Connections this machine holds, and the states of their sockets.
    pub sockets: Vec<(Connection, u32)>,
    /// Virtual IPs and ports that it listens on.
    pub listeners: Vec<SocketAddr>,
    /// Whether the daemon lives: a number of `abi::config::lease`.
    pub lease: u8,
    /// What is put into answers to SYNs, where there is a listener; no packet brings it.
    pub cookie: Option<u32>,
    /// As `abi::config::syn` has it.
    pub syn_options: u32,
    pub access: AccessTables,
    /// Of sources that are banned, what `abi::access::banned` says.
    pub bans: BTreeSet<Address>,
    /// The MAC that frames for an address go to, as `abi::way` has it.
    pub way_to: Option<fn(IpAddr) -> u64>,
    /// By the number of the VIP.
    limits: HashMap<u32, Limit>,
    buckets: RefCell<HashMap<SourceKey, &'static AtomicU64>>,
    began: Instant,
    /// Where first fragments went.
    pub ways: RefCell<HashMap<FragmentKey, (FragmentWay, Instant)>>,
    /// Whose backends are remembered, by the names of connections.
    pub flows: RefCell<HashMap<u64, u32>>,
    /// For so long: who compares with something that has no clock sets it to longer than a busy machine takes.
    pub ways_last: Duration,
    /// The daemon takes fragments that come too early.
    pub holds: bool,
}

impl Model {
    /// The world of the fixtures, in the epoch of the first `apply`.
    pub fn new() -> Model {
        Model::of(&world::machines(), &world::vips())
    }

    pub fn of(machines: &[edge_kernel::Machine], vips: &[Vip]) -> Model {
        let room = world::sizes().machines + 1;
        let mut array = vec![Machine::default(); 2 * room as usize];
        for machine in machines {
            let own = [world::address(world::OWN).into(), world::own_v6().into()];
            array[(room + u32::from(machine.index)) as usize] = machine.element(own, None);
        }
        let services = gather(vips, |id| id).expect("the world is consistent");
        Model {
            switch: Switch::new(1, 1),
            senders: machines
                .iter()
                .filter(|machine| !machine.own && machine.backend.is_none())
                .map(|machine| (SenderKey { address: machine.address.into(), generation: 1 }, machine.index))
                .collect(),
            settings: Settings {
                mtu: 1500,
                cookie: world::COOKIE.to_be(),
                cookies: [world::COOKIE_BEFORE.to_be(), world::COOKIE_NEXT.to_be()],
                own_v4: world::address(world::OWN).into(),
                own_v6: world::own_v6().into(),
                vips: world::sizes().vips + 1,
                machines: room,
                own: world::OWN.into(),
                seed: 0,
                ..Settings::default()
            },
            vips: services.into_iter().map(|(key, value)| (VipKey { generation: 1, ..key }, value)).collect(),
            slots: vips
                .iter()
                .map(|vip| (vip.id, vip.slots.clone()))
                .chain(vips.iter().filter_map(|vip| Some((vip.id | EARLIER, vip.earlier.as_ref()?.slots.clone()))))
                .collect(),
            before: (0..2 * (world::sizes().vips + 1))
                .map(|at| {
                    let vip = vips.iter().find(|vip| u32::from(vip.id) + world::sizes().vips + 1 == at);
                    let earlier = vip.and_then(|vip| Some((vip.id, vip.earlier.as_ref()?)));
                    earlier.map_or(Before::NONE, |(id, earlier)| before(earlier, id | EARLIER))
                })
                .collect(),
            machines: array,
            sockets: Vec::new(),
            listeners: Vec::new(),
            lease: abi::config::lease::OFF,
            cookie: None,
            syn_options: 0,
            access: AccessTables::of(&[]),
            bans: BTreeSet::new(),
            way_to: None,
            limits: vips.iter().filter_map(|vip| Some((vip.id.into(), vip.limits.element()?))).collect(),
            buckets: RefCell::default(),
            began: Instant::now(),
            ways: RefCell::default(),
            flows: RefCell::default(),
            ways_last: Duration::from_nanos(FRAGMENT_NS),
            holds: false,
        }
    }

    /// What the datapath makes of a frame.
    pub fn run(&self, frame: &[u8]) -> (Outcome, Vec<u8>) {
        // As fresh head room under a driver is: anything but zero.
        let mut buffer = vec![0xa5; HEADROOM + frame.len()];
        buffer[HEADROOM..].copy_from_slice(frame);
        let mut other = buffer.clone();
        let mut slice = SliceFrame::new(&mut buffer, frame.len());
        let usual = usual::steer(&mut slice, self, &AsItIs);
        let found: Vec<u8> = slice.bytes().collect();
        let mut slice = SliceFrame::new(&mut other, frame.len());
        let outcome = general(&mut slice, self);
        let bytes: Vec<u8> = slice.bytes().collect();
        match usual {
            Some(Ok(usual) | Err(usual)) => {
                assert_eq!((usual, found), (outcome, bytes.clone()), "the road of usual packets, and the general one")
            }
            None => assert_eq!(found, frame, "what is left to the general road has not been touched"),
        }
        (outcome, bytes)
    }
}

impl Model {
    fn bucket(&self, key: SourceKey) -> &'static AtomicU64 {
        // As many as a test has sources, and for as long as it runs.
        self.buckets.borrow_mut().entry(key).or_insert_with(|| Box::leak(Box::default()))
    }
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Tables for Model {
    fn live(&self) -> Option<Live<'_>> {
        Some(Live { switch: self.switch, settings: &self.settings })
    }

    fn sender(&self, key: &SenderKey) -> u16 {
        self.senders.get(key).copied().unwrap_or(0)
    }

    fn vip(&self, _: &Live<'_>, key: &VipKey) -> Option<&VipAddress> {
        self.vips.get(key)
    }

    fn prefixed(&self) -> u32 {
        2
    }

    fn prefix_of(&self, place: &VipPlace) -> Option<&VipKey> {
        let has = |key: &&VipKey| key.bits != 0 && place.key.address.first(key.bits.into()) == key.address;
        self.vips.keys().filter(has).max_by_key(|key| key.bits)
    }

    fn slot(&self, table: u16, number: u32) -> Slot {
        self.slots.get(&table).map_or(Slot::default(), |slots| slots[number as usize])
    }

    fn before(&self, index: u32) -> Option<&Before> {
        self.before.get(index as usize)
    }

    fn machine(&self, index: u32) -> Option<&Machine> {
        self.machines.get(index as usize)
    }

    fn access_listed(&self) -> u32 {
        (u32::from(self.access.listed) * LISTED) | (u32::from(!self.bans.is_empty()) * BANS)
    }

    fn access_word(&self, index: u32) -> u64 {
        match self.access.words.get(index as usize) {
            Some(word) => *word,
            None => self
                .bans
                .iter()
                .map(access::place_ban)
                .filter(|(word, _)| *word == index)
                .map(|(_, shift)| 1 << shift)
                .sum(),
        }
    }

    fn access_block(&self, raw: u32) -> u32 {
        let (word, shift) = abi::access::place_in_block(raw);
        let states = self.access.blocks.get(&abi::access::block_of(raw));
        states.map_or(abi::access::OPEN, |states| (states[word] >> shift) as u32 & abi::access::ASK)
    }

    fn access_prefix(&self, key: &AccessKey) -> u32 {
        let bits = |key: &AccessKey| u128::from_be_bytes(Address(key.address).octets());
        let lies_in = |prefix: &AccessKey| (bits(prefix) ^ bits(key)).checked_shr(128 - prefix.bits).unwrap_or(0) == 0;
        let longest = self.access.prefixes.iter().filter(|(prefix, _)| lies_in(prefix)).max_by_key(|(p, _)| p.bits);
        longest.map_or(abi::access::OPEN, |(_, state)| *state)
    }

    fn banned_until(&self, key: &Address) -> u64 {
        if self.bans.contains(key) { u64::MAX } else { 0 }
    }

    fn limit(&self, index: u32) -> Option<&Limit> {
        // Of the generation that is live.
        self.limits.get(&(index - self.settings.vips))
    }

    fn vip_bucket(&self, vip: u32) -> Option<impl Bucket> {
        // No source.
        Some(self.bucket(SourceKey { vip, ..SourceKey::default() }))
    }

    fn source_bucket(&self, key: &SourceKey) -> Option<impl Bucket> {
        Some(self.bucket(*key))
    }

    fn now_ns(&self) -> u64 {
        1_000_000_000_000 + self.began.elapsed().as_nanos() as u64
    }

    fn way_to(&self, address: &Address) -> u64 {
        self.way_to.as_ref().map_or(abi::way::NONE, |way| way(address.ip()))
    }

    fn make_cookie(&self, _: &Segment) -> Option<u32> {
        self.cookie
    }

    fn takes_answer(&self, _: &Segment) -> bool {
        self.cookie.is_none()
    }

    fn syn_options(&self) -> u32 {
        self.syn_options
    }

    fn lease(&self) -> u8 {
        self.lease
    }

    fn forget(&self, number: usize) -> usize {
        number
    }

    fn live_at(&self, switch: Switch) -> Option<Live<'_>> {
        assert_eq!(switch, self.switch);
        self.live()
    }

    fn way(&self, part: &Part) -> Option<FragmentWay> {
        let ways = self.ways.borrow();
        ways.get(&part.key).filter(|(_, at)| at.elapsed() <= self.ways_last).map(|(way, _)| *way)
    }

    fn remember(&self, part: &Part, way: FragmentWay) {
        self.ways.borrow_mut().insert(part.key, (way, Instant::now()));
    }

    fn hold(&self, _: &Part) -> bool {
        self.holds
    }

    fn flow(&self, name: u64) -> u32 {
        self.flows.borrow().get(&name).copied().unwrap_or(0)
    }

    fn keep_flow(&self, name: u64, remembered: u32) {
        self.flows.borrow_mut().insert(name, remembered);
    }

    fn may_keep_flow(&self, _: &Live<'_>, _: u16) -> bool {
        true
    }

    fn send_in_parts(&self, _: Part) -> bool {
        self.holds
    }

    fn tcp_state(&self, question: &Question) -> u32 {
        let connection = &Connection::of(question);
        let held = self.sockets.iter().find(|(held, _)| held == connection).map(|(_, state)| *state);
        let to = SocketAddr::new(connection.destination.ip(), connection.destination_port);
        held.or(self.listeners.contains(&to).then_some(LISTEN)).unwrap_or(0)
    }
}
