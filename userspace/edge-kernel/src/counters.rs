//! What the programs counted, added up over the CPUs. Reading takes no system call.

use abi::{Reason, Verdict, counter};

use crate::kernel::Kernel;

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
            for machine in 1..machines as u16 {
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
}
