//! What becomes of a packet of a flow, told without one: the programs' own decisions (`datapath`) over the maps they look into now.
//! Nothing is counted, no bucket loses anything, and nothing is remembered.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use abi::access;
use abi::config::lease;
use abi::{
    AccessKey, Address, Before, FragmentWay, Limit, ListenerKey, Machine, Part, Reason, SenderKey, Settings, Slot,
    SourceKey, Switch, VipAddress, VipKey, VipPlace, gue,
};
use datapath::host::{HEADROOM, SliceFrame};
use datapath::owners::Question;
use datapath::syn::Segment;
use datapath::tables::Bucket;
use datapath::{Live, Tables, steer};

use crate::kernel::Kernel;
use crate::lease::monotonic;
use crate::{KernelError, Protocol, connections, sys};

/// A packet to be told about, as it comes to this machine from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    pub protocol: Protocol,
    pub source: SocketAddr,
    /// Of the same family.
    pub destination: SocketAddr,
    /// Of TCP: the packet that opens a connection, and not one of it.
    pub opens: bool,
}

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    pub reason: Reason,
    /// The virtual IP it is counted for; 0: none.
    pub vip: u16,
    /// Its slot, where it comes to that, and the machines the slot remembers, the newest first; 0: nobody.
    pub slot: Option<(u32, [u16; 4])>,
    /// The machine that it is sent to; 0: it stays, or is dropped.
    pub machine: u16,
    /// Where the tunnel to that goes, how many it has been through then, and the MAC where it is on the link.
    pub tunnel: Option<Tunnel>,
    /// State of this machine's socket for the connection, as the kernel numbers them; 0: none.
    pub socket: u32,
    /// Whether this machine's daemon says that it lives: a number of [`abi::config::lease`].
    pub lease: u8,
    pub epoch: u16,
}

/// The tunnel around the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    pub to: IpAddr,
    pub hops: u8,
    /// `None`: back to where the packet came from.
    pub next_hop: Option<[u8; 6]>,
    /// To a server that does not run Weir: IP in IP.
    pub backend: bool,
}

impl Kernel {
    /// See the module doc. Meant for the network namespace whose packets are steered.
    pub fn trace(&self, flow: &Flow) -> Result<Trace, KernelError> {
        if flow.source.is_ipv4() != flow.destination.is_ipv4() {
            return Err(KernelError::Invalid(format!(
                "{} > {}: one is IPv4, and one IPv6",
                flow.source, flow.destination
            )));
        }
        let failed = |e| KernelError::system("cannot read the programs' maps", e);
        let config = self.config.read(0);
        let settings = config.settings[config.switch.generation() as usize];
        let socket = if flow.protocol == Protocol::Tcp {
            connections::state_of(flow.source, flow.destination)
                .map_err(|e| KernelError::system("cannot look for the connection's socket", e))?
        } else {
            0
        };
        let listener = ListenerKey {
            port: flow.destination.port(),
            protocol: flow.protocol.number(),
            v6: flow.destination.is_ipv6().into(),
        };
        let listens = self.sockets.has(&listener).map_err(failed)?;
        let tables = LiveTables {
            kernel: self,
            switch: config.switch,
            settings,
            vip: self.find_vip(flow.destination.ip().into(), config.switch).map_err(failed)?,
            before: (0..self.before.len()).map(|at| self.before.read(at)).collect(),
            machines: (0..self.machines.len()).map(|at| self.machines.read(at)).collect(),
            lease: lease::state(config.lease, monotonic()),
            socket,
            listens,
            slot: Cell::new(None),
        };
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(packet(flow));
        let length = buffer.len() - HEADROOM;
        let mut frame = SliceFrame::new(&mut buffer, length);
        let outcome = steer(&mut frame, &tables);
        let bytes: Vec<u8> = frame.bytes().collect();
        let machine = tables.machine(config.switch.generation() * settings.machines + u32::from(outcome.machine));
        let tunnel = machine.filter(|_| outcome.machine != 0).map(|machine| {
            let outer = if machine.address.is_v4() { 20 } else { 40 };
            // Behind the Ethernet, the outer and the UDP header and four bytes of GUE's.
            let packed = bytes.get(14 + outer + 8 + 4).copied().unwrap_or_default();
            let [mac @ .., _, _] = machine.next_hop.to_le_bytes();
            let next_hop = Some(mac).filter(|mac| *mac != [0; 6]);
            let backend = machine.is_backend();
            // To a backend there is no GUE, and no way back.
            let hops = if backend { 1 } else { gue::hops(packed) };
            Tunnel { to: machine.address.ip(), hops, next_hop, backend }
        });
        Ok(Trace {
            reason: outcome.reason,
            vip: outcome.vip,
            slot: tables.slot.get().map(|(number, slot)| (number, slot.owners())),
            machine: outcome.machine,
            tunnel,
            socket,
            lease: tables.lease,
            epoch: config.switch.epoch(),
        })
    }
}

/// The maps as they are, but for what a packet would change.
struct LiveTables<'k> {
    kernel: &'k Kernel,
    switch: Switch,
    settings: Settings,
    vip: Option<(VipKey, VipAddress)>,
    before: Vec<Before>,
    machines: Vec<Machine>,
    lease: u8,
    socket: u32,
    listens: bool,
    /// The first that was asked for: the packet's own.
    slot: Cell<Option<(u32, Slot)>>,
}

/// A bucket that is always full.
struct Full;

impl Bucket for Full {
    fn load(&self) -> u64 {
        0
    }

    fn replace(&self, _: u64, _: u64) -> bool {
        true
    }

    fn add(&self, _: u64) -> u64 {
        0
    }
}

impl Tables for LiveTables<'_> {
    fn live(&self) -> Option<Live<'_>> {
        Some(Live { switch: self.switch, settings: &self.settings })
    }

    fn live_at(&self, _: Switch) -> Option<Live<'_>> {
        self.live()
    }

    fn vip(&self, _: &Live<'_>, key: &VipKey) -> Option<&VipAddress> {
        self.vip.as_ref().filter(|(of, _)| of == key).map(|(_, found)| found)
    }

    fn prefixed(&self) -> u32 {
        // What was found is asked for by its own key.
        u32::MAX
    }

    fn prefix_of(&self, _: &VipPlace) -> Option<&VipKey> {
        self.vip.as_ref().map(|(key, _)| key)
    }

    fn slot(&self, table: u16, number: u32) -> Slot {
        let words = self.kernel.slots.double_words();
        let found = words.get(Slot::element(table, number) as usize);
        let slot = found.map_or(Slot::default(), |word| Slot(word.load(std::sync::atomic::Ordering::Relaxed)));
        if self.slot.get().is_none() {
            self.slot.set(Some((number, slot)));
        }
        slot
    }

    fn before(&self, index: u32) -> Option<&Before> {
        self.before.get(index as usize)
    }

    fn machine(&self, index: u32) -> Option<&Machine> {
        self.machines.get(index as usize)
    }

    fn sender(&self, _: &SenderKey) -> u16 {
        0
    }

    fn access_listed(&self) -> u32 {
        self.kernel.config.read(0).access
    }

    fn access_word(&self, index: u32) -> u64 {
        self.kernel.access.read(index as usize)
    }

    fn access_block(&self, raw: u32) -> u32 {
        let (word, shift) = access::place_in_block(raw);
        let block: Option<access::AccessBlock> =
            sys::map_lookup(self.kernel.access_blocks.as_fd(), &access::block_of(raw)).unwrap_or_default();
        block.map_or(access::OPEN, |states| (states[word] >> shift) as u32 & access::ASK)
    }

    fn banned_until(&self, key: &Address) -> u64 {
        sys::map_lookup(self.kernel.bans.as_fd(), key).unwrap_or_default().unwrap_or(0)
    }

    fn access_prefix(&self, key: &AccessKey) -> u32 {
        let state: Option<u32> = sys::map_lookup(self.kernel.access_prefixes.as_fd(), key).unwrap_or_default();
        state.unwrap_or(access::OPEN)
    }

    fn limit(&self, _: u32) -> Option<&Limit> {
        None
    }

    fn vip_bucket(&self, _: u32) -> Option<impl Bucket> {
        Some(Full)
    }

    fn source_bucket(&self, _: &SourceKey) -> Option<impl Bucket> {
        Some(Full)
    }

    fn now_ns(&self) -> u64 {
        monotonic()
    }

    fn way_to(&self, _: &Address) -> u64 {
        abi::way::NONE
    }

    fn make_cookie(&self, _: &Segment) -> Option<u32> {
        None
    }

    fn takes_answer(&self, _: &Segment) -> bool {
        true
    }

    fn syn_options(&self) -> u32 {
        0
    }

    fn lease(&self) -> u8 {
        self.lease
    }

    fn forget(&self, number: usize) -> usize {
        number
    }

    fn way(&self, _: &Part) -> Option<FragmentWay> {
        None
    }

    fn remember(&self, _: &Part, _: FragmentWay) {}

    fn hold(&self, _: &Part) -> bool {
        false
    }

    fn flow(&self, name: u64) -> u32 {
        let known: Option<u32> = sys::map_lookup(self.kernel.flows.as_fd(), &name).unwrap_or_default();
        known.unwrap_or_default()
    }

    fn keep_flow(&self, _: u64, _: u32) {}

    fn may_keep_flow(&self, _: &Live<'_>, _: u16) -> bool {
        true
    }

    fn send_in_parts(&self, _: Part) -> bool {
        true
    }

    fn tcp_state(&self, _: &Question) -> u32 {
        const LISTEN: u32 = 10;
        if self.socket == 0 && self.listens { LISTEN } else { self.socket }
    }
}

/// A frame of the flow. Its checksums are not made right: nobody looks at them.
fn packet(flow: &Flow) -> Vec<u8> {
    const ACK: u8 = 0x10;
    const SYN: u8 = 0x02;
    let mut transport = [flow.source.port().to_be_bytes(), flow.destination.port().to_be_bytes()].concat();
    match flow.protocol {
        Protocol::Tcp => {
            let flags = if flow.opens { SYN } else { ACK };
            transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Protocol::Udp => transport.extend([0, 8, 0, 0]),
    }
    let length = transport.len() as u16;
    let protocol = flow.protocol.number();
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (kind, mut header) = if flow.destination.is_ipv4() {
        let [high, low] = (20 + length).to_be_bytes();
        ([0x08, 0x00], vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0])
    } else {
        let [high, low] = length.to_be_bytes();
        ([0x86, 0xdd], vec![0x60, 0, 0, 0, high, low, protocol, 64])
    };
    header.extend(octets(flow.source.ip()));
    header.extend(octets(flow.destination.ip()));
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &kind, &header, &transport].concat()
}
