//! What a packet's fate depends on besides its bytes.

use crate::flow::Flow;
use abi::{Address, Machine, SenderKey, Settings, Slot, Switch, VipAddress, VipKey};

pub trait Tables {
    /// The generation that is live, and what holds for it. The word that says so may change at any time: ask once per packet.
    fn live(&self) -> Option<Live<'_>>;

    fn vip(&self, key: &VipKey) -> Option<&VipAddress>;

    /// Slot `number` of `table`; [`Slot`] 0 when there is no such table.
    fn slot(&self, table: u16, number: u32) -> Slot;

    /// Element of MACHINES, `index` counted over both generations.
    fn machine(&self, index: u32) -> Option<&Machine>;

    /// The machine that sends GUE from the address; 0: none.
    fn sender(&self, key: &SenderKey) -> u16;

    /// The same number. In BPF it comes back as one the verifier knows nothing about, so that roads which differ only in it
    /// are examined once, not each to its end.
    fn forget(&self, number: usize) -> usize;

    /// State of this machine's socket for the TCP connection of the flow, as the kernel numbers them (`include/net/tcp_states.h`); 0: none. Where
    /// only a listener is found and the packet answers a SYN cookie of this machine, that is a connection: [`NEW_SYN_RECV`].
    fn tcp_state(&self, flow: &Flow, answer: Answer) -> u32;
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

/// Where in the frame the headers of a packet lie that may answer a SYN cookie; both 0 when it is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    pub ip: usize,
    pub tcp: usize,
}

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
    const CLOSE: u32 = 7;
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
