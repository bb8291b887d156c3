//! What changes around the programs while they run: interfaces that are made anew, their MTU, the neighbours that frames go to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::interface::Interface;
use crate::kernel::{Hook, Kernel};
use crate::netlink::Netlink;
use crate::{KernelError, neighbours, sys};

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Followed {
    /// It holds from the next [`Kernel::apply`] on.
    pub news: bool,
    /// Machines whose frames go to a MAC that is known.
    pub next_hops: usize,
    /// For people: what has changed, and what is wrong, each told once.
    pub told: Vec<String>,
}

impl Kernel {
    /// Looks after interfaces and neighbours, `machines` being the addresses of the others. To be called every second or so, in the
    /// network namespace of the interfaces.
    pub fn follow(&mut self, machines: &[IpAddr]) -> Followed {
        let mut followed = Followed::default();
        let mut mtu = None;
        for name in self.options.interfaces.clone() {
            match self.follow_interface(&name, &mut followed) {
                Ok(found) => {
                    mtu = Some(mtu.map_or(found, |mtu: u32| mtu.min(found)));
                    self.astray.remove(&name);
                }
                Err(error) => {
                    let told = error.to_string();
                    if self.astray.insert(name.clone(), told.clone()).as_ref() != Some(&told) {
                        followed.told.push(format!("packets of {name} are not steered: {told}"));
                    }
                }
            }
        }
        if let Some(mtu) = mtu.map(|mtu| mtu.min(MTU_MAX)).filter(|mtu| *mtu != self.settings.mtu) {
            followed
                .told
                .push(format!("packets to other machines may be up to {mtu} bytes long, {} before", self.settings.mtu));
            self.settings.mtu = mtu;
            followed.news = true;
        }
        match self.find_next_hops(machines) {
            Ok(hops) if hops != self.next_hops => {
                self.next_hops = hops;
                followed.news = true;
            }
            Ok(_) => {}
            Err(error) => {
                let told = format!(
                    "frames to other machines go back to where packets come from: neighbours cannot be read: {error}"
                );
                if self.astray.insert(String::new(), told.clone()).as_ref() != Some(&told) {
                    followed.told.push(told);
                }
            }
        }
        followed.next_hops = self.next_hops.len();
        followed
    }

    /// The interface's MTU. One that was made anew gets the program again.
    fn follow_interface(&mut self, name: &str, followed: &mut Followed) -> Result<u32, KernelError> {
        let interface = Interface::find(name)?;
        if self.indices.get(name) != Some(&interface.index) {
            self.links.retain(|(link, hook)| {
                *hook != Hook::XdpSteer || sys::link_interface(link.as_fd()).is_ok_and(|of| of != 0)
            });
            self.attachments.retain(|attachment| attachment.interface != name);
            self.attach_to(&interface)?;
            self.indices.insert(name.to_owned(), interface.index);
            if let (Some(early), true) =
                (&self.early, self.options.interfaces.first().is_some_and(|first| first == name))
            {
                early.come_from(interface.index);
            }
            followed.told.push(format!("{name} was made anew, and its packets are steered again"));
        }
        Ok(interface.mtu)
    }

    /// The MACs that frames for the machines go to. With several interfaces there is none for all of them.
    fn find_next_hops(&mut self, machines: &[IpAddr]) -> std::io::Result<BTreeMap<IpAddr, [u8; 6]>> {
        let mut found = BTreeMap::new();
        let (1, Some(&interface)) = (self.options.interfaces.len(), self.indices.values().next()) else {
            return Ok(found);
        };
        let mut netlink = Netlink::open()?;
        let mut hops = Vec::new();
        for &machine in machines {
            hops.extend(
                neighbours::next_hop(&mut netlink, machine)?
                    .filter(|(_, by)| *by == interface)
                    .map(|(hop, _)| (machine, hop)),
            );
        }
        let known: BTreeMap<IpAddr, [u8; 6]> = neighbours::known(&mut netlink, interface)?.into_iter().collect();
        let ask_all = self.asked_neighbours.is_none_or(|at| at.elapsed() > ASK_AGAIN);
        let distinct: BTreeSet<IpAddr> = hops.iter().map(|(_, hop)| *hop).collect();
        for hop in distinct.into_iter().filter(|hop| ask_all || !known.contains_key(hop)) {
            neighbours::resolve(&mut netlink, hop, interface)?;
        }
        if ask_all {
            self.asked_neighbours = Some(Instant::now());
        }
        found.extend(hops.into_iter().filter_map(|(machine, hop)| Some((machine, *known.get(&hop)?))));
        Ok(found)
    }
}

/// More than fits the length of a tunnel's packet.
pub(crate) const MTU_MAX: u32 = 65_000;

/// The kernel forgets neighbours that nobody speaks of; frames of XDP do not count.
const ASK_AGAIN: Duration = Duration::from_secs(5);
