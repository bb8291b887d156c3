//! What holds for every packet.

use std::cell::Cell;
use std::collections::HashMap;

use abi::{
    Address, Counts, HashMode, Machine, Reason, SenderKey, Service, Settings, Slot, Switch, Verdict, VipAddress, VipKey,
};
use datapath::flow::Flow;
use datapath::host::{HEADROOM, SliceFrame};
use datapath::{Connection, Live, Outcome, Tables, steer};
use proptest::prelude::*;

/// One VIP of each family on every port; slots spread over this machine (1) and two others.
struct World {
    switch: Switch,
    /// How often the generation was asked for.
    asked: Cell<u32>,
    settings: Settings,
    /// State of this machine's socket for every connection.
    state: u32,
    vips: HashMap<VipKey, VipAddress>,
    machines: Vec<Machine>,
    slot: Slot,
}

impl World {
    fn new(own: [u8; 4], slot: Slot) -> World {
        let own = Address::from(core::net::Ipv4Addr::from(own));
        let machine = |last: u8, flags| Machine {
            address: core::net::Ipv4Addr::new(203, 0, 113, last).into(),
            flags: flags | Machine::PRESENT,
            ..Machine::default()
        };
        let machines = vec![Machine::default(), machine(1, Machine::OWN), machine(2, 0), machine(3, 0)];
        let mut value = VipAddress { count: 2, ..VipAddress::EMPTY };
        for (service, protocol) in value.services.iter_mut().zip([6, 17]) {
            *service = Service {
                port_last: 65_535,
                protocol,
                vip: 1,
                counts: Counts::new(HashMode::FiveTuple, true),
                ..Service::NONE
            };
        }
        let key = VipKey { address: core::net::Ipv4Addr::new(198, 51, 100, 1).into(), generation: 0 };
        World {
            switch: Switch::new(0, 3),
            asked: Cell::new(0),
            settings: Settings { mtu: 1500, own_v4: own, vips: 2, machines: 4, cookie: 0x5eed, ..Settings::default() },
            state: 0,
            vips: HashMap::from([(key, value)]),
            machines,
            slot,
        }
    }

    fn run(&self, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let mut buffer = vec![0xa5; HEADROOM + frame.len()];
        buffer[HEADROOM..].copy_from_slice(frame);
        let mut slice = SliceFrame::new(&mut buffer, frame.len());
        let before = self.asked.get();
        let outcome = steer(&mut slice, self);
        assert_eq!(self.asked.get(), before + 1, "a packet sees one generation: it is asked for once");
        let bytes = slice.bytes().collect();
        (outcome, bytes)
    }
}

impl Tables for World {
    fn live(&self) -> Option<Live<'_>> {
        self.asked.set(self.asked.get() + 1);
        Some(Live { switch: self.switch, settings: &self.settings })
    }

    fn sender(&self, key: &SenderKey) -> u16 {
        self.machines.iter().position(|m| m.is_present() && m.address == key.address).unwrap_or(0) as u16
    }

    fn vip(&self, key: &VipKey) -> Option<&VipAddress> {
        self.vips.get(key)
    }

    fn slot(&self, _: u16, _: u32) -> Slot {
        self.slot
    }

    fn machine(&self, index: u32) -> Option<&Machine> {
        self.machines.get(index as usize)
    }

    fn forget(&self, number: usize) -> usize {
        number
    }

    fn tcp_state(&self, _: &Connection) -> u32 {
        self.state
    }
}

/// A frame from a client to the VIP, whole.
fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let transport = if protocol == 6 {
        [&[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 1, 0, 0, 0, 0], payload].concat()
    } else {
        [&[0x9c, 0x40, 0, 80], &(8 + payload.len() as u16).to_be_bytes()[..], &[0, 0], payload].concat()
    };
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((20 + transport.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    frame.extend(transport);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4u8) {
        let mut bytes = bytes;
        if bytes.len() > 34 {
            // Far enough into the code to be worth it.
            match kind {
                0 => bytes[12..14].copy_from_slice(&[8, 0]),
                1 => bytes[12..14].copy_from_slice(&[0x86, 0xdd]),
                2 => bytes[12..16].copy_from_slice(&[0x81, 0, 0, 1]),
                _ => {
                    bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
                    bytes[30..34].copy_from_slice(&[198, 51, 100, 1]);
                }
            }
        }
        let world = World::new([203, 0, 113, 1], Slot::new(2, 1));
        let (outcome, out) = world.run(&bytes);
        if outcome.reason.verdict() == Verdict::Pass && outcome.reason != Reason::Decapsulated {
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn taking_off_undoes_putting_around(payload in prop::collection::vec(any::<u8>(), 0..1300), tcp in any::<bool>()) {
        let sent = frame(if tcp { 6 } else { 17 }, &payload);
        let (first, tunnelled) = World::new([203, 0, 113, 1], Slot::new(2, 0)).run(&sent);
        prop_assert_eq!(first.reason, Reason::Forwarded);
        // On machine 2, which the slot names; there the frame has come with link addresses swapped.
        let mut receiver = World::new([203, 0, 113, 2], Slot::new(2, 0));
        receiver.machines[1].flags = Machine::PRESENT;
        receiver.machines[2].flags = Machine::PRESENT | Machine::OWN;
        let (second, received) = receiver.run(&tunnelled);
        prop_assert!(matches!(second.reason, Reason::Decapsulated | Reason::DecapsulatedOrphan));
        prop_assert_eq!(&received[12..], &sent[12..]);
        prop_assert_eq!(&received[..6], &sent[6..12]);
    }

    #[test]
    fn no_packet_travels_through_more_than_three_tunnels(
        current in 1..4u16,
        previous in 1..4u16,
        tcp in any::<bool>(),
        states in prop::array::uniform4(0..13u32),
    ) {
        // Every machine with the worst table for it: the other two, never itself.
        let mut bytes = frame(if tcp { 6 } else { 17 }, b"x");
        let mut at = 1u16;
        for hop in 0..5 {
            let mut world = World::new([203, 0, 113, at as u8], Slot::new(current, previous));
            if world.slot.current() == at || world.slot.previous() == at {
                world.slot = Slot::new(at % 3 + 1, (at + 1) % 3 + 1);
            }
            world.state = states[usize::from(at)];
            for (index, machine) in world.machines.iter_mut().enumerate().skip(1) {
                machine.flags = Machine::PRESENT | if index == usize::from(at) { Machine::OWN } else { 0 };
            }
            let (outcome, out) = world.run(&bytes);
            if outcome.machine == 0 {
                prop_assert_eq!(outcome.reason.verdict(), Verdict::Pass);
                return Ok(());
            }
            prop_assert!(hop < 3, "a fourth tunnel");
            bytes = out;
            at = outcome.machine;
        }
    }
}

fn flow(n: u32) -> Flow {
    Flow {
        v4: true,
        protocol: 6,
        source: Address::from_v4_raw((0x0a00_0000 + n / 7).to_be()),
        destination: Address::from_v4_raw(0x0164_33c6),
        source_port: (1024 + n % 60_000) as u16,
        destination_port: 80,
    }
}

#[test]
fn slots_are_chosen_evenly() {
    // 64 buckets of slots, 256,000 flows: chi-squared with 63 degrees of freedom stays below 120 unless something is wrong.
    for v4 in [true, false] {
        let counts = Counts::new(HashMode::FiveTuple, v4);
        let mut buckets = [0f64; 64];
        for n in 0..256_000 {
            let slot = Slot::number(Flow { v4, ..flow(n) }.hash(&counts));
            buckets[(slot as usize * 64) / abi::limits::SLOTS as usize] += 1.0;
        }
        let expected = 4_000.0;
        let chi: f64 = buckets.iter().map(|b| (b - expected) * (b - expected) / expected).sum();
        assert!(chi < 120.0, "{chi}");
    }
}

#[test]
fn tunnel_ports_are_spread_evenly() {
    let mut buckets = [0f64; 64];
    for n in 0..256_000 {
        buckets[(flow(n).entropy() & 0x3f) as usize] += 1.0;
    }
    let chi: f64 = buckets.iter().map(|b| (b - 4_000.0) * (b - 4_000.0) / 4_000.0).sum();
    assert!(chi < 200.0, "{chi}");
}

/// Machines of different releases must agree, so these numbers may only change together with the layout version.
#[test]
fn the_hash_is_what_it_was() {
    let hash = |mode, v4| Flow { v4, ..flow(12_345) }.hash(&Counts::new(mode, v4));
    let all = [
        hash(HashMode::FiveTuple, true),
        hash(HashMode::FiveTuple, false),
        hash(HashMode::SourceIp, true),
        hash(HashMode::SourcePrefix { v4: 24, v6: 56 }, true),
        hash(HashMode::DestinationPort, true),
    ];
    assert_eq!(all, [3206197503, 970318914, 1417435232, 2521888388, 2880215520], "{all:?}");
}
