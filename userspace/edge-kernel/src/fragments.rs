//! Fragments that came before the first of their datagram. Only the first one tells whose they are, and a program in the kernel cannot
//! wait for it; so it gives them to this thread, which puts each on the road again when the first has passed. By the same rings come packets
//! that are too long for a tunnel: see `long`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::{FragmentKey, FragmentWay, HeldFragment, Part};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};

use crate::long::{self, Long, LongPackets};
use crate::sys;

/// What became of fragments that came too early, since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EarlyFragments {
    /// Put on the road again behind the first of their datagram.
    pub followed: u64,
    /// The first did not come in time.
    pub given_up: u64,
    /// There was no room for them, in the rings (where packets that are too long for a tunnel want some as well) or among those that wait.
    pub refused: u64,
}

/// The thread; it ends with the value.
pub(crate) struct Early {
    counts: Arc<Counts>,
    long: Arc<long::Counts>,
    interface: Arc<AtomicU32>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    followed: AtomicU64,
    given_up: AtomicU64,
    refused: AtomicU64,
}

struct Waiting {
    key: FragmentKey,
    frame: Vec<u8>,
    since: Instant,
}

impl Early {
    /// `interface`: where frames that are put back seem to come from. In the calling thread's network namespace.
    pub(crate) fn start(rings: MapData, ways: OwnedFd, program: OwnedFd, interface: u32) -> io::Result<Early> {
        let mut array = PerfEventArray::try_from(aya::maps::Map::PerfEventArray(rings)).map_err(io::Error::other)?;
        let mut buffers = Vec::new();
        for cpu in aya::util::online_cpus().map_err(|(what, e)| io::Error::new(e.kind(), format!("{what}: {e}")))? {
            buffers.push(array.open(cpu, Some(RING_PAGES)).map_err(io::Error::other)?);
        }
        let stop = event()?;
        let (stopped, counts, long) = (stop.try_clone()?, Arc::<Counts>::default(), Arc::<long::Counts>::default());
        let interface = Arc::new(AtomicU32::new(interface));
        let mut road = Road {
            ways,
            program,
            interface: interface.clone(),
            waiting: VecDeque::new(),
            counts: counts.clone(),
            long: Long::new(long.clone()),
        };
        let thread = std::thread::Builder::new().name("fragments".into()).spawn(move || {
            road.run(&mut buffers, stopped.as_fd());
        })?;
        Ok(Early { counts, long, interface, stop, thread: Some(thread) })
    }

    /// The interface was made anew.
    pub(crate) fn come_from(&self, interface: u32) {
        self.interface.store(interface, Ordering::Relaxed);
    }

    pub(crate) fn long_packets(&self) -> LongPackets {
        self.long.read()
    }

    pub(crate) fn counts(&self) -> EarlyFragments {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { followed, given_up, refused } = &*self.counts;
        EarlyFragments { followed: of(followed), given_up: of(given_up), refused: of(refused) }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live through the call.
        unsafe { libc::write(self.stop.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Road {
    ways: OwnedFd,
    program: OwnedFd,
    interface: Arc<AtomicU32>,
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    counts: Arc<Counts>,
    long: Long,
}

impl Road {
    fn run(&mut self, buffers: &mut [PerfEventArrayBuffer<MapData>], stop: BorrowedFd<'_>) {
        loop {
            let mut polled: Vec<libc::pollfd> = std::iter::once(stop.as_raw_fd())
                .chain(buffers.iter().map(|buffer| buffer.as_raw_fd()))
                .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
                .collect();
            let pause = if self.waiting.is_empty() { -1 } else { LOOK.as_millis() as libc::c_int };
            // SAFETY: the descriptors live through the call, and there are as many as said.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, pause) };
            if polled[0].revents != 0 {
                return;
            }
            for buffer in buffers.iter_mut() {
                buffer.for_each(|event| match event {
                    PerfEvent::Sample { head, tail } => self.take(&[head, tail].concat()),
                    PerfEvent::Lost { count } => drop(self.counts.refused.fetch_add(count, Ordering::Relaxed)),
                });
            }
            self.look();
        }
    }

    fn take(&mut self, sample: &[u8]) {
        let Some((held, frame)) = read(sample) else { return };
        if held.part.later == Part::LONG {
            self.long.take(&held.part, frame);
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.waiting.push_back(Waiting { key: held.part.key, frame: frame.to_vec(), since: Instant::now() });
    }

    fn look(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let interface = self.interface.load(Ordering::Relaxed);
            let way = sys::map_lookup::<FragmentKey, FragmentWay>(self.ways.as_fd(), &waiting.key);
            if way.is_ok_and(|way| way.is_some())
                && sys::put_on_the_road(self.program.as_fd(), &waiting.frame, interface).is_ok()
            {
                self.counts.followed.fetch_add(1, Ordering::Relaxed);
            } else if waiting.since.elapsed() > PATIENCE {
                self.counts.given_up.fetch_add(1, Ordering::Relaxed);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }
}

/// The head of a sample, and the frame behind it.
fn read(sample: &[u8]) -> Option<(HeldFragment, &[u8])> {
    const HEAD: usize = size_of::<HeldFragment>();
    let head = sample.get(..HEAD)?;
    // SAFETY: as many bytes as the type has, and every bit pattern is a value of it.
    let held = unsafe { head.as_ptr().cast::<HeldFragment>().read_unaligned() };
    Some((held, sample.get(HEAD..HEAD + held.length as usize)?))
}

fn event() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is ours.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Of each CPU, besides the page that says how far it is read: some 40 frames.
const RING_PAGES: usize = 16;

/// Fragments kept at once: less than 1 MB of them. More than these come too early only where somebody means it.
const WAITING_MAX: usize = 512;

/// The first of a datagram comes at most so much later than the others; paths differ by milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks for the first ones, while anything waits.
const LOOK: Duration = Duration::from_millis(1);
