//! How much of what the kernel gives this process is used.

use std::os::fd::RawFd;

/// Files, sockets among them, that the process may have open; `None`: any number, or the kernel does not say.
pub fn descriptors_most() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
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
    use std::os::fd::AsRawFd;

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
    }
}
