//! How much of what the kernel gives this process is used.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Files, sockets among them, that the process may have open; `None`: any number, or the kernel does not say.
pub fn descriptors_most() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// From this descriptor on no more connections are taken in, and none is kept or opened from halfway between it and the last one. The
/// kernel gives out the lowest that is free (open(2)): one that is as high says that all below it are taken.
static PAUSE_FROM: AtomicI32 = AtomicI32::new(i32::MAX);
static REFUSE_FROM: AtomicI32 = AtomicI32::new(i32::MAX);

/// Sets the process's last descriptors aside for what is no traffic: the admin API, other members, logs, the disk. An eighth of those
/// there are, and 256 at most; connections of workers take the rest. To be called once the limit is what it is to be.
pub fn set_descriptors_aside() {
    let Some(most) = descriptors_most() else { return };
    let aside = aside_of(most);
    let at = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    PAUSE_FROM.store(at(most - aside), Ordering::Relaxed);
    REFUSE_FROM.store(at(most - aside / 2), Ordering::Relaxed);
}

fn aside_of(most: u64) -> u64 {
    (most / 8).min(256)
}

/// Files that traffic may open, of those there may be; `None`: any number.
pub fn descriptors_for_traffic() -> Option<u64> {
    let most = descriptors_most()?;
    let is_set = PAUSE_FROM.load(Ordering::Relaxed) != i32::MAX;
    Some(if is_set { most - aside_of(most) } else { most })
}

/// Files that the process has open; `None` where the kernel does not count them itself, as it does since Linux 6.2: going through a list
/// of a hundred thousand is not for who looks several times a second.
pub fn descriptors_open() -> Option<u64> {
    std::fs::metadata("/proc/self/fd").ok().map(|open| open.len()).filter(|open| *open > 0)
}

/// Whether one more connection is to wait in the kernel's queue until others have gone.
pub(crate) fn pauses_at(fd: RawFd) -> bool {
    fd >= PAUSE_FROM.load(Ordering::Relaxed)
}

/// Whether traffic may keep what has just been opened, a file for example: not where it is one of those that are set aside.
pub fn is_for_traffic(fd: &impl AsRawFd) -> bool {
    !refuses(fd.as_raw_fd())
}

/// Whether this one is needed by what is no traffic.
pub(crate) fn refuses(fd: RawFd) -> bool {
    fd >= REFUSE_FROM.load(Ordering::Relaxed)
}

/// Connections that wait to be accepted at a listening socket, and how many may. `None` where it listens no longer. A descriptor that
/// was closed in the meantime, or is another by now, does no harm: it is only asked.
pub fn accept_queue(listener: RawFd) -> Option<(u32, u32)> {
    // SAFETY: all bits zero are a valid `tcp_info`, which is a plain structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes.
    let told = unsafe {
        libc::getsockopt(listener, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    // Of a listening socket the kernel tells the queue in these two (tcp_get_info of Linux).
    (told == 0 && info.tcpi_state == LISTEN).then_some((info.tcpi_unacked, info.tcpi_sacked))
}

/// `TCP_LISTEN` of the kernel.
const LISTEN: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn who_waits_to_be_accepted_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (waits, most) = accept_queue(listener.as_raw_fd()).unwrap();
        assert!(waits == 0 && most > 0, "{waits} of {most}");
        let at = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
        assert_eq!(accept_queue(listener.as_raw_fd()), Some((5, most)));
        assert_eq!(accept_queue(clients[0].as_raw_fd()), None);
        assert!(descriptors_most().is_none_or(|most| most > 10));
        match descriptors_open() {
            Some(open) => assert!((8..10_000).contains(&open), "{open}"),
            None => assert_eq!(std::fs::metadata("/proc/self/fd").unwrap().len(), 0),
        }
    }
}
