//! Whether frames that XDP gives back to a driver are sent: nobody else notices where they are not, as all counters say that they were.
//!
//! What the driver itself counts as lost is looked at every few seconds. And once a program is attached to a driver a frame is sent by that
//! driver's frames of XDP, and something must come back: a question after the router's MAC (ARP), asked as one who looks whether an address
//! is free does (RFC 5227), so that the answer is to this question and to no other. The kernel sends such a frame as one that another
//! interface's program redirects (`ndo_xdp_xmit`), so that only drivers are tested whose own `XDP_TX` goes the same way ([`SAME_WAY`]). The
//! same question is asked without XDP before: where that is not answered, by a switch that lets none through from nobody's address, nothing
//! is to be learnt.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::follow::Followed;
use crate::interface::{Interface, mac};
use crate::kernel::Kernel;
use crate::probe::advice_for;
use crate::{ethtool, neighbours, raw, sys};

/// By interface.
#[derive(Default)]
pub(crate) struct Losses {
    known: BTreeMap<String, Known>,
    looked: Option<Instant>,
    tests: Vec<(String, Arc<OnceLock<Sent>>)>,
}

struct Known {
    /// By the driver, since the interface was made.
    lost: u64,
    /// What of it was told, and when.
    told: (u64, Option<Instant>),
}

/// What came of a frame that was sent as programs send theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sent {
    CameBack,
    /// Its router answers others.
    Lost(Ipv4Addr),
    /// There is no router of IPv4 that answers, or the kernel cannot be asked for that.
    Untold,
}

impl Kernel {
    /// Frames that drivers did not send although a program gave them back, by interface, as its driver counts them: where it does.
    pub fn frames_lost(&self) -> BTreeMap<String, u64> {
        self.losses.known.iter().map(|(name, known)| (name.clone(), known.lost)).collect()
    }

    /// To be called once a program of ours is in the driver. In the network namespace of the interface.
    pub(crate) fn test_sending(&mut self, interface: &Interface) {
        let told = Arc::<OnceLock<Sent>>::default();
        let (tell, interface, name) = (told.clone(), interface.clone(), interface.name.clone());
        let begun = std::thread::Builder::new().name("xdp-sends".into()).spawn(move || {
            let _ = tell.set(send_one(&interface).unwrap_or(Sent::Untold));
        });
        if begun.is_ok() {
            self.losses.tests.retain(|(of, _)| *of != name);
            self.losses.tests.push((name, told));
        }
    }

    pub(crate) fn follow_losses(&mut self, followed: &mut Followed) {
        let losses = &mut self.losses;
        losses.tests.retain(|(name, told)| match told.get() {
            None => true,
            Some(Sent::Lost(router)) => {
                let driver = ethtool::driver(name).unwrap_or_default();
                followed.told.push(format!(
                    "{name}: frames that XDP gives back to its driver do not arrive: the router {router} answers this machine, and not what \
                     was sent that way{}",
                    remedy(&driver)
                ));
                false
            }
            Some(Sent::CameBack | Sent::Untold) => false,
        });
        if losses.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return;
        }
        losses.looked = Some(Instant::now());
        losses.known.retain(|name, _| self.options.interfaces.contains(name));
        for name in &self.options.interfaces {
            let Some(lost) = ethtool::lost(name) else { continue };
            let known = losses.known.entry(name.clone()).or_insert(Known { lost, told: (lost, None) });
            if lost < known.lost {
                // It was made anew.
                known.told.0 = 0;
            }
            known.lost = lost;
            let (before, at) = known.told;
            if lost > before && at.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                known.told = (lost, Some(Instant::now()));
                let driver = ethtool::driver(name).unwrap_or_default();
                followed.told.push(format!(
                    "{name}: its driver ({driver}) did not send {} frames that XDP gave back to it: their packets are lost (ethtool -S {name} | \
                     grep xdp){}",
                    lost - before,
                    remedy(&driver)
                ));
            }
        }
    }
}

fn remedy(driver: &str) -> &'static str {
    match advice_for(driver) {
        "" => "; more and longer queues (ethtool -L, ethtool -G) help, or --xdp-mode generic",
        advice => advice,
    }
}

/// Asks the router by a frame of XDP, some times.
fn send_one(interface: &Interface) -> io::Result<Sent> {
    if !ethtool::driver(&interface.name).is_some_and(|driver| SAME_WAY.contains(&driver.as_str())) {
        return Ok(Sent::Untold);
    }
    let Some(router) = neighbours::answering_router(interface.index) else { return Ok(Sent::Untold) };
    let own = mac(&interface.name)?;
    let ear = listen(interface.index, router)?;
    if !is_answered(&ear, |socket| raw::send(socket, &question(own, router)), interface)? {
        return Ok(Sent::Untold);
    }
    let program = sys::load_xdp(&SEND_BACK)?;
    for _ in 0..TRIES {
        // Before Linux 5.18 there is no such way.
        sys::put_on_the_road(program.as_fd(), &question(own, router), interface.index)?;
        if hears(&ear)? {
            return Ok(Sent::CameBack);
        }
    }
    Ok(Sent::Lost(router))
}

/// Without XDP, as often.
fn is_answered(ear: &OwnedFd, ask: impl Fn(&OwnedFd) -> io::Result<()>, interface: &Interface) -> io::Result<bool> {
    // Hears nothing: it has no protocol.
    let mouth = raw::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    raw::bind_to_link(&mouth, 0, interface.index)?;
    for _ in 0..TRIES {
        ask(&mouth)?;
        if hears(ear)? {
            drain(ear);
            return Ok(true);
        }
    }
    Ok(false)
}

/// What came to the question before is no answer to the next: all that is there, and what comes for a moment.
fn drain(ear: &OwnedFd) {
    std::thread::sleep(ANSWERS_WITHIN);
    let mut buffer = [0u8; 128];
    // SAFETY: a buffer of our own, of the length given.
    while unsafe { libc::recv(ear.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) } >= 0 {}
}

/// RFC 826, from an address that is nobody's.
fn question(own: [u8; 6], router: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(own);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(own);
    frame.extend([0; 4 + 6]);
    frame.extend(router.octets());
    // The shortest frame.
    frame.resize(60, 0);
    frame
}

/// A socket that hears the answer alone.
fn listen(interface: u32, router: Ipv4Addr) -> io::Result<OwnedFd> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const EQUALS: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Behind the link's header: an answer, from the router, to nobody's address.
    let asked = [(LOAD_HALF, 6, 2), (LOAD_WORD, 14, u32::from(router)), (LOAD_WORD, 24, 0)];
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut code = Vec::new();
    for (i, (load, at, value)) in asked.into_iter().enumerate() {
        code.extend([step(load, 0, at), step(EQUALS, (2 * (asked.len() - i) - 1) as u8, value)]);
    }
    code.extend([step(RETURN, 0, u32::MAX), step(RETURN, 0, 0)]);
    let socket = raw::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    raw::filter(&socket, &code)?;
    raw::bind_to_link(&socket, libc::ETH_P_ARP as u16, interface)?;
    Ok(socket)
}

fn hears(ear: &OwnedFd) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: ear.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, ANSWERS_WITHIN.as_millis() as libc::c_int) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready > 0) }
}

/// Drivers that send what a program gives back, and what another redirects to them, by the same function or rings.
const SAME_WAY: [&str; 5] = ["veth", "virtio_net", "ixgbe", "i40e", "ice"];
/// `return XDP_TX`.
const SEND_BACK: [u64; 2] = [0x0000_0003_0000_00b7, 0x95];
const TRIES: usize = 3;
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// A card answers some of its questions through its firmware.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A line a minute.
const TELL_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_of_nobody() {
        let frame = question([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[12..22], [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!((&frame[28..32], &frame[38..42]), (&[0; 4][..], &[10, 0, 0, 1][..]));
    }
}
