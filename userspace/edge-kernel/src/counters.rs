//! What the programs counted, added up over the CPUs. Reading takes no system call.

use abi::{Counter, REASONS, Reason, Verdict, counter};

use crate::kernel::Kernel;
use crate::steering::{Machine, Vip};

/// Counters since the maps were made; a restart of the daemon does not reset them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Only reasons that occurred.
    pub reasons: Vec<ReasonCount>,
    /// Only pairs that occurred.
    pub steered: Vec<SteeredCount>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReasonCount {
    /// 0: packets of no VIP.
    pub vip: u16,
    pub reason: Reason,
    pub packets: u64,
    pub bytes: u64,
}

/// Packets of a VIP sent to another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SteeredCount {
    pub vip: u16,
    pub machine: u16,
    pub packets: u64,
    pub bytes: u64,
}

impl ReasonCount {
    /// The label in metrics: `pass`, `transmit` or `drop`.
    pub fn verdict(&self) -> &'static str {
        match self.reason.verdict() {
            Verdict::Pass => "pass",
            Verdict::Transmit => "transmit",
            Verdict::Drop => "drop",
        }
    }
}

impl Counters {
    /// Packets counted under a reason, of all VIPs.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.reasons.iter().filter(|c| c.reason == reason).map(|c| c.packets).sum()
    }

    pub fn dropped(&self) -> u64 {
        self.reasons.iter().filter(|c| c.reason.verdict() == Verdict::Drop).map(|c| c.packets).sum()
    }
}

impl Kernel {
    pub fn counters(&self) -> Counters {
        let (vips, machines) = (self.options.sizes.vips + 1, self.options.sizes.machines + 1);
        let mut found = Counters::default();
        for vip in 0..vips as u16 {
            for &reason in Reason::ALL {
                let (mut packets, mut bytes) = (0, 0);
                for cpu in 0..self.cpus {
                    let c = self.counters.read(counter::counters_index(vips, cpu, vip, reason as u8) as usize);
                    packets += c.packets;
                    bytes += c.bytes;
                }
                if packets > 0 {
                    found.reasons.push(ReasonCount { vip, reason, packets, bytes });
                }
            }
            // What is counted for no virtual IP is none of theirs: see `hand_over_counters`.
            for machine in (1..machines as u16).filter(|_| vip != 0) {
                let (mut packets, mut bytes) = (0, 0);
                for cpu in 0..self.cpus {
                    let c = self.steered.read(counter::steered_index(vips, machines, cpu, vip, machine) as usize);
                    packets += c.packets;
                    bytes += c.bytes;
                }
                if packets > 0 {
                    found.steered.push(SteeredCount { vip, machine, packets, bytes });
                }
            }
        }
        found
    }

    /// Counters of a number that has become another's begin at zero. Whose they are is kept among them, where no packet is counted, so
    /// that the next process knows too.
    pub(crate) fn hand_over_counters(&mut self, machines: &[Machine], all: &[&Vip]) {
        let (vips, room) = (self.options.sizes.vips + 1, self.options.sizes.machines + 1);
        const UNUSED: u8 = REASONS as u8 - 1;
        const { assert!(Reason::ALL.len() < REASONS, "the last place is no reason's") };
        for vip in all {
            let tag = Counter { packets: tag(&vip.name), bytes: 0 };
            let at = counter::counters_index(vips, 0, vip.id, UNUSED) as usize;
            if self.counters.read(at).packets == tag.packets {
                continue;
            }
            for cpu in 0..self.cpus {
                for reason in 0..REASONS as u8 {
                    let at = counter::counters_index(vips, cpu, vip.id, reason) as usize;
                    self.counters.write(at, Counter::default());
                }
                for machine in 1..room as u16 {
                    let at = counter::steered_index(vips, room, cpu, vip.id, machine) as usize;
                    self.steered.write(at, Counter::default());
                }
            }
            self.counters.write(at, tag);
        }
        for machine in machines {
            let tag = Counter { packets: tag(&machine.name), bytes: 0 };
            let at = counter::steered_index(vips, room, 0, 0, machine.index) as usize;
            if self.steered.read(at).packets == tag.packets {
                continue;
            }
            for cpu in 0..self.cpus {
                for vip in 1..vips as u16 {
                    let at = counter::steered_index(vips, room, cpu, vip, machine.index) as usize;
                    self.steered.write(at, Counter::default());
                }
            }
            self.steered.write(at, tag);
        }
    }
}

/// FNV-1a, never 0.
fn tag(name: &str) -> u64 {
    let fold = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fold).max(1)
}
