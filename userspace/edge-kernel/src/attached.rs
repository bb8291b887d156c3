//! Which XDP program an interface has, whoever put it there.

use std::io;
use std::os::fd::AsFd;

use crate::netlink::{NLMSG_ERROR, Netlink, attributes, error_of};
use crate::sys;

/// What is there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Attached {
    #[default]
    Nothing,
    Program {
        id: u32,
        /// None where this process may not look at it.
        name: Option<String>,
        generic: bool,
    },
}

pub(crate) fn attached(interface: u32) -> io::Result<Attached> {
    let mut netlink = Netlink::open()?;
    // struct ifinfomsg: family, padding, type, index, flags, change.
    let mut body = vec![0u8; 16];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    let (how, id) = netlink.ask(RTM_GETLINK, 0, &body, |message| {
        if message.kind == NLMSG_ERROR {
            return Some(error_of(message.body).map(|()| (NONE, 0)));
        }
        let rest = message.body.get(16..).filter(|_| message.kind == RTM_NEWLINK)?;
        Some(Ok(attributes(rest)
            .find(|(kind, _)| kind & KIND == IFLA_XDP)
            .map_or((NONE, 0), |(_, nested)| read(nested))))
    })?;
    if how == NONE {
        return Ok(Attached::Nothing);
    }
    let facts = sys::program_by_id(id).and_then(|program| sys::program_facts(program.as_fd()));
    Ok(Attached::Program { id, name: facts.ok().map(|facts| facts.name), generic: how == GENERIC })
}

/// How, and the program's number.
fn read(nested: &[u8]) -> (u8, u32) {
    let (mut how, mut id) = (NONE, 0);
    for (kind, value) in attributes(nested) {
        match kind {
            IFLA_XDP_ATTACHED => how = value.first().copied().unwrap_or(NONE),
            // Of several at the same time the one in the driver is listed first, and sees packets first.
            IFLA_XDP_PROG_ID | IFLA_XDP_DRV_PROG_ID | IFLA_XDP_SKB_PROG_ID | IFLA_XDP_HW_PROG_ID if id == 0 => {
                id = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            }
            _ => {}
        }
    }
    (how, id)
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_XDP: u16 = 43;
/// Without NLA_F_NESTED and its like.
const KIND: u16 = 0x3fff;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const NONE: u8 = 0;
const GENERIC: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    #[test]
    fn the_kernels_answer_is_read() {
        let nested = |how: u8, kind: u16, id: u32| {
            let mut body = Vec::new();
            attribute(&mut body, IFLA_XDP_ATTACHED, &[how]);
            attribute(&mut body, kind, &id.to_ne_bytes());
            body
        };
        assert_eq!(read(&nested(1, IFLA_XDP_PROG_ID, 77)), (1, 77));
        assert_eq!(read(&nested(GENERIC, IFLA_XDP_SKB_PROG_ID, 78)), (GENERIC, 78));
        assert_eq!(read(&[]), (NONE, 0));
    }

    #[test]
    fn the_loopback_has_none() {
        assert_eq!(attached(1).expect("it is there"), Attached::Nothing);
        assert!(attached(0x7fff_fff0).is_err(), "there is no such interface");
    }
}
