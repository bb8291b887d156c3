//! Another binary in the place of this one, without anybody noticing: SIGUSR2.
//!
//! The process starts its program again, by the path it was called by, links and all, with the same arguments. The two talk over a Unix socket that
//! the new one finds as its standard input:
//!
//! ```text
//! old                                          new
//! hello, sockets, begin      ──────────────▶   takes the listening sockets
//!                            ◀──────────────   here
//!                                              serves what is kept on disk
//!                            ◀──────────────   serving        (both accept from here on)
//! closes the control half
//! released                   ──────────────▶   starts the control half, opens the admin API
//!                            ◀──────────────   ready
//! reads no UDP; yours        ──────────────▶   reads what comes over UDP as well
//!                            ◀──────────────   passes on what of it is for connections of HTTP/3 that the old one has
//! accepts no more
//! ends what it has, and itself                 closes sockets that nobody asked for
//! ```
//! Until the new process is ready the old one accepts; when that ends, fails or takes too long, the old one goes on as before. The data of
//! Raft has one owner at any moment. `failed REASON` may be said in the place of anything by the new one.

use base_runtime::net::inherited::{self, Passes, SocketKind};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Tells a process that its standard input is the one before it.
const ENVIRONMENT: &str = "WEIR_UPGRADE";

/// How long the new process may take to serve what is kept on disk, and after that to be ready. The largest configurations take
/// seconds; a group without a leader for so long has other cares than an upgrade.
const SERVES_WITHIN: Duration = Duration::from_secs(120);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks whether the new process has said anything, and still runs.
const LOOK: Duration = Duration::from_millis(5);

/// How long the new process may take to read what it is told: it does little else at that time.
const SENT_WITHIN: Duration = Duration::from_secs(20);

/// Descriptors in one message; the kernel takes 253.
const DESCRIPTORS_MOST: usize = 200;

/// Bytes of a message, at most.
const MESSAGE_BYTES_MOST: usize = 4096;

const SPACE: usize = cmsg_space!(ScmRights(DESCRIPTORS_MOST));

/// Where this program was started from. To be called early: once the file is replaced the kernel knows it as deleted.
pub fn remember_program() {
    let _ = program();
}

fn program() -> &'static io::Result<PathBuf> {
    static PROGRAM: OnceLock<io::Result<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let found = std::env::current_exe()?;
        let called = std::env::args_os().next().unwrap_or_default();
        Ok(as_called(&called, &std::env::var_os("PATH").unwrap_or_default(), &found).unwrap_or(found))
    })
}

/// The path by which a file was called, links and all: whoever leads a link to another version means that one. `None` where that is
/// not this file.
fn as_called(called: &OsStr, path: &OsStr, found: &Path) -> Option<PathBuf> {
    let called = Path::new(called);
    let places: Vec<PathBuf> = match called.components().count() {
        0 => return None,
        1 if !called.is_absolute() && !called.as_os_str().as_encoded_bytes().contains(&b'/') => {
            std::env::split_paths(path).map(|directory| directory.join(called)).collect()
        }
        _ => vec![called.to_owned()],
    };
    let is_it = |place: &PathBuf| std::fs::canonicalize(place).is_ok_and(|real| real == found);
    places.into_iter().find(is_it).and_then(|place| std::path::absolute(place).ok())
}

/// Sockets to hand over.
#[derive(Default)]
pub struct Sockets {
    pub streams: Vec<OwnedFd>,
    pub datagrams: Vec<OwnedFd>,
    /// For what comes to some of those and is for connections of this process.
    pub passes: Vec<Passes>,
    pub admin: Vec<OwnedFd>,
}

/// The process that is to take the place of this one. It ends with this handle, unless it has succeeded.
pub struct Successor {
    child: Child,
    /// Answers at once, if need be that nothing was said.
    channel: OwnedFd,
    succeeded: bool,
}

impl Successor {
    /// Starts it and hands it the sockets. `api_addr` says what those of the admin API are for.
    pub async fn start(sockets: &Sockets, api_addr: &str) -> Result<Successor, String> {
        let program = program().as_ref().map_err(|e| format!("where this program lies cannot be found out: {e}"))?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let failed = |e: io::Error| format!("{} cannot be started: {e}", program.display());
        let (channel, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        rustix::io::ioctl_fionbio(&channel, true).map_err(|e| failed(e.into()))?;
        let child = Command::new(program)
            .args(arguments)
            .env(ENVIRONMENT, std::process::id().to_string())
            // It is fed by whoever is the main process, and that will be another.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(failed)?;
        let successor = Successor { child, channel, succeeded: false };
        let told = async {
            successor.send(&format!("hello 1 {api_addr}"), &[]).await?;
            for (kind, sockets) in [("tcp", &sockets.streams), ("udp", &sockets.datagrams), ("admin", &sockets.admin)] {
                for some in sockets.chunks(DESCRIPTORS_MOST) {
                    successor.send(kind, some).await?;
                }
            }
            for passes in &sockets.passes {
                let text = format!("passes {} {}", passes.at, passes.told);
                for some in passes.ends.chunks(DESCRIPTORS_MOST) {
                    successor.send(&text, some).await?;
                }
            }
            successor.send("begin", &[]).await
        };
        match told.await {
            // It is gone, or about to be: how it ended is told below.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            told => told.map_err(|e| format!("it does not take the sockets: {e}"))?,
        }
        Ok(successor)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it serves.
    pub async fn serves(&mut self) -> Result<(), String> {
        // One that is no weir, or hangs, holds nothing up for as long as one that loads a large configuration may.
        self.wait_for("here", SENT_WITHIN).await?;
        self.wait_for("serving", SERVES_WITHIN).await
    }

    /// Waits until it is ready.
    pub async fn is_ready(&mut self) -> Result<(), String> {
        self.wait_for("ready", READY_WITHIN).await
    }

    /// It lives on when this process ends.
    pub fn succeeds(&mut self) {
        self.succeeded = true;
    }

    /// Lets go of the control half's place.
    pub async fn release(&self) {
        let _ = self.send("released", &[]).await;
    }

    /// Lets go of what comes over UDP.
    pub async fn leave_datagrams(&self) {
        let _ = self.send("yours", &[]).await;
    }

    async fn wait_for(&mut self, wanted: &str, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        loop {
            match receive(self.channel.as_fd()) {
                // An empty one: it is gone, or about to be.
                Ok((said, _)) if said == wanted => return Ok(()),
                Ok((said, _)) => match said.strip_prefix("failed ") {
                    Some(reason) => return Err(reason.to_owned()),
                    // Of a later version, which may say more.
                    None if !said.is_empty() => continue,
                    None => {}
                },
                Err(_) => {}
            }
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    return Err(format!("it ended before it was {wanted} ({status}); its last words are in this log"));
                }
                _ if Instant::now() >= until => {
                    let within = base_text::duration(within);
                    return Err(format!("it was not {wanted} within {within}"));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn send(&self, text: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
        let until = Instant::now() + SENT_WITHIN;
        loop {
            match send(self.channel.as_fd(), text, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    tokio::time::sleep(LOOK).await;
                }
                done => return done,
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.succeeded {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process whose place this one is to take.
pub struct Predecessor {
    channel: OwnedFd,
    /// What its admin API was reached at, and the sockets of that.
    api_addr: String,
    admin: std::sync::Mutex<Vec<TcpListener>>,
    /// It leaves everything to this one, or is gone.
    leaves: AtomicBool,
}

impl Predecessor {
    /// Takes over the sockets of the process before, if there is one.
    pub fn meet() -> io::Result<Option<Predecessor>> {
        let input = io::stdin();
        if std::env::var_os(ENVIRONMENT).is_none() || !inherited::is_unix_socket(input.as_fd()) {
            return Ok(None);
        }
        let channel = input.as_fd().try_clone_to_owned()?;
        let (mut api_addr, mut admin) = (String::new(), Vec::new());
        inherited::datagrams_are_anothers(true);
        loop {
            let (said, descriptors) = receive(channel.as_fd())?;
            let kind = match said.as_str() {
                // It is gone: this process serves as any other.
                "" | "begin" => break,
                "tcp" => SocketKind::Stream,
                "udp" => SocketKind::Datagram,
                "admin" => {
                    admin.extend(descriptors.into_iter().map(TcpListener::from));
                    continue;
                }
                other => {
                    if let Some(address) = other.strip_prefix("hello 1 ") {
                        api_addr = address.to_owned();
                    } else if let Some((at, told)) = other.strip_prefix("passes ").and_then(passes_of) {
                        inherited::keep_passes(Passes { at, told, ends: descriptors });
                    }
                    continue;
                }
            };
            for descriptor in descriptors {
                inherited::keep(kind, descriptor)?;
            }
        }
        let before = Predecessor { channel, api_addr, admin: admin.into(), leaves: AtomicBool::new(false) };
        before.say("here");
        Ok(Some(before))
    }

    /// The listeners of its admin API, where this process is reached at the same address.
    pub fn admin_listeners(&self, api_addr: &str) -> Vec<TcpListener> {
        let listeners = std::mem::take(&mut *self.admin.lock().unwrap_or_else(|e| e.into_inner()));
        if self.api_addr == api_addr { listeners } else { Vec::new() }
    }

    /// Says that this process serves, and waits until the other has let go of the control half's place, or is gone.
    pub fn wait_until_released(&self) {
        self.say("serving");
        while let Ok((said, _)) = receive(self.channel.as_fd())
            && !said.is_empty()
            && said != "released"
        {}
    }

    /// This process is ready; the other leaves. Returns when it is gone.
    pub fn succeed(&self) {
        self.say("ready");
        while let Ok((said, _)) = receive(self.channel.as_fd())
            && !said.is_empty()
        {
            if said == "yours" {
                self.is_left();
            }
        }
        self.is_left();
        let closed = inherited::close_rest();
        tracing::info!(sockets_closed = closed, "the process before this one has left");
    }

    /// Whether this process has all that the one before had. Until then that one may have to go on, and knows of no third.
    pub fn leaves(&self) -> bool {
        self.leaves.load(Ordering::Acquire)
    }

    fn is_left(&self) {
        inherited::datagrams_are_anothers(false);
        self.leaves.store(true, Ordering::Release);
    }

    pub fn say_failed(&self, reason: &str) {
        self.say(&format!("failed {}", reason.replace('\n', " ")));
    }

    fn say(&self, text: &str) {
        // One that is gone needs to hear nothing.
        let _ = send(self.channel.as_fd(), text, &[]);
    }
}

/// Where the sockets are, and what is to be passed on.
fn passes_of(text: &str) -> Option<(SocketAddr, u32)> {
    let (at, told) = text.split_once(' ')?;
    Some((at.parse().ok()?, told.parse().ok()?))
}

fn send(channel: BorrowedFd<'_>, text: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
    let text = &text.as_bytes()[..text.len().min(MESSAGE_BYTES_MOST)];
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(channel, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message and what came with it. An empty one: the other side is gone.
fn receive(channel: BorrowedFd<'_>) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = [0; MESSAGE_BYTES_MOST];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(channel, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            done => break done?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((String::from_utf8_lossy(&text[..received.bytes]).into_owned(), descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_travel_with_what_they_are() {
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let sockets: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let descriptors: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).collect();
        send(here.as_fd(), "tcp", &descriptors).unwrap();
        send(here.as_fd(), "begin", &[]).unwrap();
        drop((here, descriptors));
        let (said, received) = receive(there.as_fd()).unwrap();
        assert_eq!(said, "tcp");
        let received: Vec<_> = received.into_iter().map(|one| TcpListener::from(one).local_addr().unwrap()).collect();
        assert_eq!(received, addresses);
        assert_eq!(receive(there.as_fd()).unwrap().0, "begin");
        assert_eq!(receive(there.as_fd()).unwrap().0, "", "it is gone");
    }

    #[test]
    fn a_program_that_was_called_by_a_link_is_called_by_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let real = |name: &str| std::fs::canonicalize(at(name)).unwrap();
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("weir"), version).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("current")).unwrap();
        let (first, link) = (real("v1/weir"), at("current/weir"));
        assert_eq!(as_called(link.as_os_str(), OsStr::new(""), &first), Some(link.clone()));
        let path = std::env::join_paths([at("none"), at("current"), at("v1")]).unwrap();
        assert_eq!(as_called(OsStr::new("weir"), &path, &first), Some(link.clone()), "from PATH");
        for other in [at("v2/weir").as_os_str(), OsStr::new("other"), OsStr::new("")] {
            assert_eq!(as_called(other, &path, &first), None, "{other:?} is another file, or none");
        }
        std::fs::remove_file(at("current")).unwrap();
        std::os::unix::fs::symlink("v2", at("current")).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "v2", "and it leads to another version by then");
    }
}
