//! Packets for who wants to see them: `xdp_capture` gives those that pass a filter, and come no faster than was asked, to a thread here,
//! which there is only while a capture is open. The programs look at a packet for it only while one is; should this process die with
//! one open, they stop by themselves within [`PATIENCE`].

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use abi::capture::{CAPTURES_MAX, Capture, Captured, Ends};
use abi::limit::Rate;
use abi::{Address, Config, Reason, Slot};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use datapath::flow::Flow;
use datapath::ip::{TCP, UDP};

use crate::kernel::{Hook, Kernel, WITHOUT_CAPTURE};
use crate::lease::monotonic;
use crate::map::MappedArray;
use crate::{KernelError, Protocol, sys};

/// Which packets are wanted; what is not said is any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CaptureFilter {
    /// Empty: whatever became of them.
    pub reasons: Vec<Reason>,
    /// By the number it is counted under; 0: of no virtual IP.
    pub vip: Option<u16>,
    /// The machine they are sent to.
    pub machine: Option<u16>,
    pub protocol: Option<Protocol>,
    /// Address and bits of it that count; then the port.
    pub source: Option<(IpAddr, u8)>,
    pub source_port: Option<u16>,
    pub destination: Option<(IpAddr, u8)>,
    pub destination_port: Option<u16>,
    /// Packets a second, 1 to [`RATE_MOST`](crate::CAPTURE_RATE_MOST).
    pub rate: u32,
    /// Bytes of each that are wanted, 64 to [`SNAP_MOST`](crate::CAPTURE_SNAP_MOST).
    pub snap: u32,
}

/// A packet, as the programs left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapturedPacket {
    pub at: SystemTime,
    pub reason: Reason,
    /// The virtual IP it is counted for; 0: none.
    pub vip: u16,
    /// The machine it is sent to, in the tunnel that is around it; 0: none.
    pub machine: u16,
    /// Tunnels it had been through when it arrived.
    pub hops: u8,
    pub epoch: u16,
    /// Index of the interface it came in by, and receive queue of that.
    pub interface: u32,
    pub queue: u32,
    /// Bytes of the frame as it arrived, and as it was left.
    pub arrived: u32,
    pub length: u32,
    /// The frame, or the first bytes of it.
    pub bytes: Vec<u8>,
    /// Read by the programs, so that they are known of whatever is kept.
    ends: Ends,
}

/// Takes packets; says whether there was room for this one. Must not wait.
pub type PacketSink = Box<dyn FnMut(CapturedPacket) -> bool + Send>;

/// A capture that is open; it ends with this. When the kernel plane goes before, the sink is dropped.
pub struct OpenCapture {
    shared: Arc<Shared>,
    number: usize,
    /// Of all that were ever open.
    id: u64,
}

/// How much was captured since this process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CaptureCounts {
    /// Captures that are open.
    pub open: usize,
    /// Packets that were given to who waits for them.
    pub shown: u64,
    /// Those that passed a filter and came faster than was asked for.
    pub too_fast: u64,
    /// Those that found no room on their way.
    pub no_room: u64,
}

/// The kernel plane's end of all captures.
pub(crate) struct Captures {
    shared: Arc<Shared>,
}

struct Shared {
    captures: MappedArray<Capture>,
    config: Arc<MappedArray<Config>>,
    rings: Mutex<Option<PerfEventArray<MapData>>>,
    state: Mutex<State>,
    /// Of captures that are over; `no_room` of those that are open too, where it was the reader who had none.
    ended: [AtomicU64; 3],
}

#[derive(Default)]
struct State {
    open: [Option<Open>; CAPTURES_MAX],
    /// A thread reads the rings.
    reads: bool,
    /// The kernel plane is gone.
    over: bool,
    opened: u64,
}

struct Open {
    id: u64,
    /// By CLOCK_MONOTONIC: what the programs saw before passed the filter of another, and lies in a ring still.
    since_ns: u64,
    sink: PacketSink,
    snap: u32,
    shown: u64,
    /// The reader had no room.
    no_room: u64,
}

impl Captures {
    /// Packets that an earlier process waited for are no longer looked for.
    pub(crate) fn new(
        captures: MappedArray<Capture>,
        config: Arc<MappedArray<Config>>,
        rings: Option<MapData>,
    ) -> io::Result<Captures> {
        let rings = rings
            .map(|rings| PerfEventArray::try_from(aya::maps::Map::PerfEventArray(rings)).map_err(io::Error::other))
            .transpose()?;
        let shared =
            Shared { captures, config, rings: Mutex::new(rings), state: Mutex::default(), ended: Default::default() };
        shared.tell_programs(0);
        Ok(Captures { shared: Arc::new(shared) })
    }

    fn open(&self, filter: &CaptureFilter, sink: PacketSink) -> Result<OpenCapture, KernelError> {
        let element = element(filter)?;
        let mut state = self.shared.state();
        let Some(number) = state.open.iter().position(Option::is_none) else {
            return Err(KernelError::Invalid(format!(
                "{CAPTURES_MAX} captures are open on this machine, which are all there may be: end one first"
            )));
        };
        if !state.reads {
            let shared = self.shared.clone();
            let started = self.shared.open_rings().and_then(|mut rings| {
                std::thread::Builder::new().name("capture".into()).spawn(move || shared.read(&mut rings))
            });
            started.map_err(|e| {
                KernelError::system("cannot open the rings that captured packets come through (perf_event_open(2))", e)
            })?;
            state.reads = true;
        }
        // Who looked into it while it was another's is gone.
        sys::wait_for_readers();
        self.shared.write(number, &element);
        state.opened += 1;
        let id = state.opened;
        let since_ns = monotonic();
        state.open[number] = Some(Open { id, since_ns, sink, snap: filter.snap, shown: 0, no_room: 0 });
        self.shared.renew(&state);
        Ok(OpenCapture { shared: self.shared.clone(), number, id })
    }

    pub(crate) fn counts(&self) -> CaptureCounts {
        let state = self.shared.state();
        let [shown, too_fast, no_room] = [0, 1, 2].map(|at| self.shared.ended[at].load(Ordering::Relaxed));
        let mut counts = CaptureCounts { open: 0, shown, too_fast, no_room };
        for (number, open) in state.open.iter().enumerate() {
            let Some(open) = open else { continue };
            let element = self.shared.captures.read(number);
            counts.open += 1;
            counts.shown += open.shown;
            counts.too_fast += element.too_fast;
            counts.no_room += element.no_room + open.no_room;
        }
        counts
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.over = true;
        for number in 0..CAPTURES_MAX {
            self.shared.close(&mut state, number);
        }
        self.shared.renew(&state);
    }
}

impl OpenCapture {
    /// Packets that passed the filter and were not given to the sink: they came too fast, or found no room.
    pub fn missed(&self) -> u64 {
        let state = self.shared.state();
        let Some(open) = state.open[self.number].as_ref().filter(|open| open.id == self.id) else { return 0 };
        let element = self.shared.captures.read(self.number);
        element.too_fast + element.no_room + open.no_room
    }
}

impl Drop for OpenCapture {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.open[self.number].as_ref().is_some_and(|open| open.id == self.id) {
            self.shared.close(&mut state, self.number);
            self.shared.renew(&state);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_rings(&self) -> io::Result<Vec<PerfEventArrayBuffer<MapData>>> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rings) = rings.as_mut() else { return Err(io::Error::other("the BPF object has none")) };
        let online = aya::util::online_cpus().map_err(|(what, e)| io::Error::new(e.kind(), format!("{what}: {e}")))?;
        online.into_iter().map(|cpu| rings.open(cpu, Some(RING_PAGES)).map_err(io::Error::other)).collect()
    }

    /// Of one that nobody waits for.
    fn write(&self, number: usize, element: &Capture) {
        const WORDS: usize = size_of::<Capture>() / 8;
        // SAFETY: as many double words as the type has, all of them integers without padding between.
        let words: [u64; WORDS] = unsafe { std::mem::transmute::<Capture, [u64; WORDS]>(*element) };
        let place = &self.captures.double_words()[number * WORDS..][..WORDS];
        for (at, word) in words.into_iter().enumerate() {
            place[at].store(word, Ordering::Relaxed);
        }
    }

    fn close(&self, state: &mut State, number: usize) {
        let Some(open) = state.open[number].take() else { return };
        self.put_off(number, 0);
        let element = self.captures.read(number);
        let counts = [open.shown, element.too_fast, element.no_room + open.no_room];
        for (ended, count) in self.ended.iter().zip(counts) {
            ended.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Says of all that are open that somebody still waits.
    fn renew(&self, state: &State) {
        let until = monotonic() + PATIENCE.as_nanos() as u64;
        let mut bits = 0;
        for number in (0..CAPTURES_MAX).filter(|number| state.open[*number].is_some()) {
            self.put_off(number, until);
            bits |= 1 << number;
        }
        self.tell_programs(bits);
    }

    fn put_off(&self, number: usize, until_ns: u64) {
        const WORDS: usize = size_of::<Capture>() / 8;
        const { assert!(std::mem::offset_of!(Capture, until_ns) == 0) };
        self.captures.double_words()[number * WORDS].store(until_ns, Ordering::Release);
    }

    fn tell_programs(&self, bits: u32) {
        self.config.publish(std::mem::offset_of!(Config, captures) / 4, bits);
    }

    /// Until no capture is open.
    fn read(&self, rings: &mut [PerfEventArrayBuffer<MapData>]) {
        let mut packets = Vec::new();
        loop {
            let mut polled: Vec<libc::pollfd> = rings
                .iter()
                .map(|ring| libc::pollfd { fd: ring.as_raw_fd(), events: libc::POLLIN, revents: 0 })
                .collect();
            // SAFETY: the descriptors live through the call, and there are as many as said.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, LOOK.as_millis() as libc::c_int) };
            let offset = wall_clock_offset();
            let mut lost = 0;
            for ring in rings.iter_mut() {
                ring.for_each(|event| match event {
                    PerfEvent::Sample { head, tail } => packets.extend(sample(&[head, tail].concat(), offset)),
                    // Counted by the program already, which was told.
                    PerfEvent::Lost { count } => lost += count,
                });
            }
            if lost > 0 {
                tracing::debug!(lost, "the rings of captured packets were full");
            }
            let mut state = self.state();
            for seen in packets.drain(..) {
                state.hand_out(seen);
            }
            self.renew(&state);
            if state.over || state.open.iter().all(Option::is_none) {
                state.reads = false;
                return;
            }
        }
    }
}

impl State {
    fn hand_out(&mut self, seen: Seen) {
        for (number, open) in self.open.iter_mut().enumerate() {
            let takes = |open: &&mut Open| seen.captures >> number & 1 != 0 && open.since_ns <= seen.at_ns;
            let Some(open) = open.as_mut().filter(takes) else { continue };
            let mut packet = seen.packet.clone();
            packet.bytes.truncate(open.snap as usize);
            match (open.sink)(packet) {
                true => open.shown += 1,
                false => open.no_room += 1,
            }
        }
    }
}

impl Kernel {
    /// Gives packets that pass the filter to the sink, from now on, for as long as what comes back lives. A few can be open at once.
    pub fn capture(&self, filter: &CaptureFilter, sink: PacketSink) -> Result<OpenCapture, KernelError> {
        if self.program(Hook::XdpCapture).is_none() {
            return Err(KernelError::Unsupported(WITHOUT_CAPTURE.to_owned()));
        }
        self.captures.open(filter, sink)
    }

    pub fn capture_counts(&self) -> CaptureCounts {
        self.captures.counts()
    }

    /// Of the interfaces that have the programs.
    pub fn interface_name(&self, index: u32) -> Option<&str> {
        self.indices.iter().find(|(_, of)| **of == index).map(|(name, _)| name.as_str())
    }

    /// The word by which the programs know whether anybody waits for packets.
    pub fn captures_word(&self) -> u32 {
        self.config.read(0).captures
    }

    /// As a process does that is killed with a capture open: for tests.
    pub fn leave_a_capture_behind(&self) {
        self.config.publish(std::mem::offset_of!(Config, captures) / 4, 1);
    }

    /// The slot of a captured packet and the machines that remembers, the newest first; none where that depends on none, or cannot be told any
    /// more, because packets are steered by something newer.
    pub fn slot_of_captured(&self, packet: &CapturedPacket) -> Option<(u32, [u16; 4])> {
        let config = self.config.read(0);
        let ends = packet.ends;
        let protocol = ends.protocol as u8;
        if config.switch.epoch() != packet.epoch || packet.vip == 0 || ends.ports == 0 {
            return None;
        }
        let settings = config.settings[config.switch.generation() as usize];
        let (_, found) = self.find_vip(ends.destination, config.switch).ok()??;
        let bytes = ends.ports.to_ne_bytes();
        let flow = Flow {
            v4: ends.destination.is_v4(),
            protocol,
            source: ends.source,
            destination: ends.destination,
            source_port: u16::from_be_bytes([bytes[0], bytes[1]]),
            destination_port: u16::from_be_bytes([bytes[2], bytes[3]]),
        };
        let services = found.services.iter().take(found.count as usize);
        let service = services.into_iter().find(|service| service.serves(protocol, flow.destination_port))?;
        let number = Slot::number(flow.hash(&service.counts, settings.seed));
        let word = self.slots.double_words().get(Slot::element(service.table, number) as usize)?;
        Some((number, Slot(word.load(Ordering::Relaxed)).owners()))
    }
}

impl CapturedPacket {
    /// Who sent it and to whom, of the packet inside where a tunnel of this machine is around it; none of what is neither TCP nor UDP, or
    /// has no ports.
    pub fn flow(&self) -> Option<crate::Flow> {
        let ends = self.ends;
        let protocol = match ends.protocol as u8 {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return None,
        };
        let bytes = ends.ports.to_ne_bytes();
        let at = |address: Address, port| std::net::SocketAddr::new(address.ip(), u16::from_be_bytes(port));
        (ends.ports != 0).then(|| crate::Flow {
            protocol,
            source: at(ends.source, [bytes[0], bytes[1]]),
            destination: at(ends.destination, [bytes[2], bytes[3]]),
            opens: false,
        })
    }

    /// Tunnels it has been through when it leaves this machine, or when it is up the stack: one more than when it arrived, where it is sent
    /// in one.
    pub fn hop(&self) -> u8 {
        if self.machine == 0 { self.hops } else { self.ends.hops as u8 }
    }

    /// Both addresses; none of what is not IP.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let ends = self.ends;
        (!ends.destination.is_unspecified()).then(|| (ends.source.ip(), ends.destination.ip()))
    }
}

/// What the programs are told.
fn element(filter: &CaptureFilter) -> Result<Capture, KernelError> {
    let bound = |what: &str, value: u32, least: u32, most: u32| match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(KernelError::Invalid(format!("{what} = {value}: {least} to {most} are accepted"))),
    };
    bound("rate", filter.rate, 1, RATE_MOST)?;
    bound("snap", filter.snap, SNAP_LEAST, SNAP_MOST)?;
    let prefix = |given: &Option<(IpAddr, u8)>| match given {
        None => (Address::UNSPECIFIED, Address::UNSPECIFIED),
        Some((ip, bits)) => {
            let bits = u32::from(*bits) + if ip.is_ipv4() { 96 } else { 0 };
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits)).unwrap_or(0);
            (Address::from(*ip), std::net::Ipv6Addr::from_bits(mask).into())
        }
    };
    let ((source, source_mask), (destination, destination_mask)) =
        (prefix(&filter.source), prefix(&filter.destination));
    let ports = |source: u16, destination: u16| {
        let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
        u32::from_ne_bytes([a, b, c, d])
    };
    let all = |given: bool| if given { u32::MAX } else { 0 };
    let half = |given: Option<u16>| if given.is_some() { u16::MAX } else { 0 };
    let reasons = filter.reasons.iter().fold(0, |bits, reason| bits | 1 << *reason as u8);
    Ok(Capture {
        rate: Rate::new(filter.rate, filter.rate),
        filter: abi::capture::Filter {
            reasons: if filter.reasons.is_empty() { u64::MAX } else { reasons },
            source,
            source_mask,
            destination,
            destination_mask,
            ports: ports(filter.source_port.unwrap_or(0), filter.destination_port.unwrap_or(0)),
            ports_mask: ports(half(filter.source_port), half(filter.destination_port)),
            protocol: filter.protocol.map_or(0, |protocol| protocol.number().into()),
            protocol_mask: all(filter.protocol.is_some()),
            vip: filter.vip.unwrap_or(0).into(),
            vip_mask: all(filter.vip.is_some()),
            machine: filter.machine.unwrap_or(0).into(),
            machine_mask: all(filter.machine.is_some()),
            snap: filter.snap,
            reserved: 0,
        },
        ..Capture::default()
    })
}

/// What a sample tells.
struct Seen {
    /// Bits of the captures it is for.
    captures: u32,
    /// By CLOCK_MONOTONIC.
    at_ns: u64,
    packet: CapturedPacket,
}

fn sample(sample: &[u8], offset: Duration) -> Option<Seen> {
    let head = sample.get(..HEAD)?;
    // SAFETY: as many bytes as the type has, and every bit pattern is a value of it.
    let head = unsafe { head.as_ptr().cast::<Captured>().read_unaligned() };
    let packet = CapturedPacket {
        at: SystemTime::UNIX_EPOCH + offset + Duration::from_nanos(head.at_ns),
        reason: *Reason::ALL.get(usize::from(head.reason))?,
        vip: head.vip,
        machine: head.machine,
        hops: head.hops,
        epoch: abi::Switch(head.switch).epoch(),
        interface: head.interface,
        queue: head.queue,
        arrived: head.arrived,
        length: head.length,
        bytes: sample.get(HEAD..HEAD + head.kept as usize)?.to_vec(),
        ends: head.ends,
    };
    Some(Seen { captures: head.captures, at_ns: head.at_ns, packet })
}

/// What CLOCK_MONOTONIC is behind the time of day.
fn wall_clock_offset() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(monotonic()))
}

const HEAD: usize = size_of::<Captured>();

/// Packets a second that one capture may have of one machine: what is read and written faster than that costs more than it tells.
pub const RATE_MOST: u32 = 20_000;

/// A frame of 9,000 bytes with its headers, and what a ring has room for many of.
pub const SNAP_MOST: u32 = 16_384;

/// Headers, at least.
pub const SNAP_LEAST: u32 = 64;

/// Of each CPU, besides the page that says how far it is read: 512 kB.
const RING_PAGES: usize = 128;

/// How often it is said that somebody waits, and looked whether anybody does.
const LOOK: Duration = Duration::from_millis(200);

/// So long packets are looked for after that was said last.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_what_the_programs_compare() {
        let all = CaptureFilter { rate: 10, snap: 128, ..CaptureFilter::default() };
        let any = element(&all).unwrap().filter;
        assert_eq!(
            (any.reasons, any.vip_mask, any.ports_mask, any.source_mask),
            (u64::MAX, 0, 0, Address::UNSPECIFIED)
        );
        let asked = CaptureFilter {
            reasons: vec![Reason::NotIp, Reason::VipLimited],
            vip: Some(0),
            source: Some(("192.0.2.0".parse().unwrap(), 24)),
            destination: Some(("2001:db8::1".parse().unwrap(), 128)),
            destination_port: Some(443),
            ..all.clone()
        };
        let told = element(&asked).unwrap().filter;
        assert_eq!(told.reasons, 1 | 1 << 40);
        assert_eq!((told.vip, told.vip_mask), (0, u32::MAX), "of no virtual IP");
        assert_eq!(told.source_mask.octets()[12..], [255, 255, 255, 0]);
        assert_eq!(told.source_mask.octets()[..12], [255; 12], "and IPv4");
        assert_eq!(told.destination_mask.octets(), [255; 16]);
        assert_eq!(told.ports_mask.to_ne_bytes(), [0, 0, 255, 255]);
        assert_eq!(told.ports.to_ne_bytes()[2..], 443u16.to_be_bytes());
        for wrong in [
            CaptureFilter { rate: 0, ..all.clone() },
            CaptureFilter { rate: RATE_MOST + 1, ..all.clone() },
            CaptureFilter { snap: 1, ..all.clone() },
            CaptureFilter { snap: SNAP_MOST + 1, ..all },
        ] {
            assert!(element(&wrong).unwrap_err().to_string().contains("are accepted"));
        }
    }

    #[test]
    fn what_was_seen_for_a_capture_before_is_not_shown_to_the_next() {
        let (sender, shown) = std::sync::mpsc::channel();
        let sink: PacketSink = Box::new(move |packet| sender.send(packet.length).is_ok());
        let mut state = State::default();
        state.open[1] = Some(Open { id: 7, since_ns: 1_000, sink, snap: 64, shown: 0, no_room: 0 });
        // In the ring since the capture whose place this one has.
        for (at_ns, length) in [(900, 1), (999, 2), (1_000, 3), (2_000, 4)] {
            let mut bytes = vec![0; HEAD];
            bytes[..8].copy_from_slice(&u64::to_ne_bytes(at_ns));
            let at = |field: usize| field..field + 4;
            bytes[at(std::mem::offset_of!(Captured, captures))].copy_from_slice(&0b10_u32.to_ne_bytes());
            bytes[at(std::mem::offset_of!(Captured, length))].copy_from_slice(&u32::to_ne_bytes(length));
            state.hand_out(sample(&bytes, Duration::ZERO).expect("a packet"));
        }
        drop(state);
        assert_eq!(shown.iter().collect::<Vec<_>>(), [3, 4]);
    }
}
