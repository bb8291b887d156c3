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
    /// Routes that answers take to who sent a SYN that another machine passed on; 0: those are left to the stack.
    pub ways: usize,
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
        self.follow_neighbours(machines, &mut followed);
        self.follow_ways(&mut followed);
        self.follow_surroundings(&mut followed);
        self.follow_losses(&mut followed);
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
            let before = self.warnings.len();
            let attached = self.attach_to(&interface);
            // Told, and not kept: an interface may be made anew for ever.
            followed.told.extend(self.warnings.split_off(before).into_iter().map(|warning| warning.0));
            attached?;
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

    /// One that cannot be found out leaves that machine's as it was, and the others are followed all the same.
    fn follow_neighbours(&mut self, machines: &[IpAddr], followed: &mut Followed) {
        let (mut hops, unfound) = match self.find_next_hops(machines) {
            Ok(found) => {
                self.astray.remove(NEIGHBOURS);
                found
            }
            Err(error) => {
                let told =
                    format!("frames to other machines go where they went before: neighbours cannot be read: {error}");
                if self.astray.insert(NEIGHBOURS.to_owned(), told.clone()).as_ref() != Some(&told) {
                    followed.told.push(told);
                }
                return;
            }
        };
        for (machine, error) in &unfound {
            if !hops.contains_key(machine)
                && let Some(before) = self.next_hops.get(machine)
            {
                hops.insert(*machine, *before);
            }
            if self.unfound.get(machine) != Some(error) {
                let way = match hops.contains_key(machine) {
                    true => "where they went before",
                    false => "back to where packets come from",
                };
                followed.told.push(format!("frames to {machine} go {way}: its neighbour cannot be found out: {error}"));
            }
        }
        // What is well again is told of when it fails again.
        self.unfound = unfound;
        if hops != self.next_hops {
            self.next_hops = hops;
            followed.news = true;
        }
    }

    /// The MACs that frames for the machines go to, and why they cannot be found out of others. With several interfaces there is none for
    /// all of them.
    fn find_next_hops(&mut self, machines: &[IpAddr]) -> std::io::Result<(NextHops, BTreeMap<IpAddr, String>)> {
        let (1, Some(&interface)) = (self.options.interfaces.len(), self.indices.values().next()) else {
            return Ok(Default::default());
        };
        let mut netlink = Netlink::open()?;
        let (mut hops, mut unfound) = (Vec::new(), BTreeMap::new());
        for &machine in machines {
            match neighbours::next_hop(&mut netlink, machine) {
                Ok(found) => hops.extend(found.filter(|(_, by)| *by == interface).map(|(hop, _)| (machine, hop))),
                Err(error) => drop(unfound.insert(machine, error.to_string())),
            }
        }
        let known: NextHops = neighbours::known(&mut netlink, interface)?.into_iter().collect();
        let ask_all = self.asked_neighbours.is_none_or(|at| at.elapsed() > ASK_AGAIN);
        let distinct: BTreeSet<IpAddr> = hops.iter().map(|(_, hop)| *hop).collect();
        for hop in distinct.into_iter().filter(|hop| ask_all || !known.contains_key(hop)) {
            if let Err(error) = neighbours::resolve(&mut netlink, hop, interface) {
                // What is known of it all the same holds.
                let of = hops.iter().filter(|(_, by)| *by == hop && !known.contains_key(by));
                unfound.extend(of.map(|(machine, _)| (*machine, error.to_string())));
            }
        }
        if ask_all {
            self.asked_neighbours = Some(Instant::now());
        }
        let found = hops.into_iter().filter_map(|(machine, hop)| Some((machine, *known.get(&hop)?))).collect();
        Ok((found, unfound))
    }
}

/// By the address of a machine or a neighbour.
type NextHops = BTreeMap<IpAddr, [u8; 6]>;

/// Stands for all neighbours where interfaces are told of; none is called so.
const NEIGHBOURS: &str = "";

/// More than fits the length of a tunnel's packet.
pub(crate) const MTU_MAX: u32 = 65_000;

/// The kernel forgets neighbours that nobody speaks of; frames of XDP do not count.
const ASK_AGAIN: Duration = Duration::from_secs(5);
