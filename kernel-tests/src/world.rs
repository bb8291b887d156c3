//! The machines and virtual IPs that the fixtures and the comparison speak of.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use abi::Slot;
use abi::limit::Rate;
use abi::limits::SLOTS;
use edge_kernel::{
    Backend, Hash, Kernel, KernelError, Machine, Options, Prefix, Protocol, Sizes, SourceLimit, Vip, VipLimits,
};

/// This machine, two others over IPv4, one over IPv6.
pub const OWN: u16 = 1;
pub const OTHER: u16 = 2;
pub const THIRD: u16 = 3;
pub const OVER_V6: u16 = 4;
/// On the link: frames go to its MAC.
pub const NEAR: u16 = 5;
/// Servers that do not run Weir, the second over IPv6; packets for the last two come from ranges of addresses.
pub const BACKEND: u16 = 6;
pub const BACKEND_V6: u16 = 7;
pub const BACKEND_FROM: u16 = 8;
pub const BACKEND_FROM_V6: u16 = 9;
/// Indices nobody has.
pub const GONE: u16 = 60;
pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// A virtual IP of the fixtures; every slot of its table says the same, but for SPREAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Fixture {
    Elsewhere = 1,
    Here,
    HereBefore,
    Empty,
    Unknown,
    ElsewhereV6,
    /// Three owners before this machine.
    HereLong,
    ElsewhereNear,
    SpreadFiveTuple,
    SpreadSource,
    SpreadPrefix,
    SpreadPort,
    /// All ports.
    AnyPort,
    /// No new flows; this machine had it before.
    NobodyNow,
    /// A prefix, of another machine.
    Wide,
    /// A longer one in it, spread.
    Narrow,
    /// Over four backends.
    Backends,
    /// One backend; another has what began before, and a third some of what began between.
    BackendsMoved,
}

impl Fixture {
    pub const ALL: [Fixture; 18] = [
        Fixture::Elsewhere,
        Fixture::Here,
        Fixture::HereBefore,
        Fixture::Empty,
        Fixture::Unknown,
        Fixture::ElsewhereV6,
        Fixture::HereLong,
        Fixture::ElsewhereNear,
        Fixture::SpreadFiveTuple,
        Fixture::SpreadSource,
        Fixture::SpreadPrefix,
        Fixture::SpreadPort,
        Fixture::AnyPort,
        Fixture::NobodyNow,
        Fixture::Wide,
        Fixture::Narrow,
        Fixture::Backends,
        Fixture::BackendsMoved,
    ];

    /// Of a prefix one of its addresses.
    pub fn v4(self) -> IpAddr {
        match self {
            Fixture::Wide => IpAddr::from([198, 51, 101, 70]),
            Fixture::Narrow => IpAddr::from([198, 51, 101, 20]),
            alone => IpAddr::from([198, 51, 100, alone as u16 as u8]),
        }
    }

    pub fn v6(self) -> IpAddr {
        match self {
            Fixture::Wide => IpAddr::from([0x2001, 0xdb8, 0x52, 0, 7, 0, 0, 9]),
            Fixture::Narrow => IpAddr::from([0x2001, 0xdb8, 0x52, 0, 1, 2, 3, 4]),
            alone => IpAddr::from([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, alone as u16]),
        }
    }

    pub fn addresses(self) -> Vec<Prefix> {
        let prefixes = |v4: u8, v6: u8| vec![first(self.v4(), v4), first(self.v6(), v6)];
        match self {
            Fixture::Wide => prefixes(25, 64),
            Fixture::Narrow => prefixes(28, 80),
            // One of its addresses lies in both.
            Fixture::Here => vec![self.v4().into(), self.v6().into(), INSIDE_V4.into(), INSIDE_V6.into()],
            alone => vec![alone.v4().into(), alone.v6().into()],
        }
    }

    pub fn at(self, v4: bool, port: u16) -> SocketAddr {
        SocketAddr::new(if v4 { self.v4() } else { self.v6() }, port)
    }
}

/// Of [`Fixture::Here`], in the prefixes of two others.
pub const INSIDE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 101, 21));
pub const INSIDE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x52, 0, 1, 0, 0, 7));

fn first(of: IpAddr, bits: u8) -> Prefix {
    let address = match of {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) & (u32::MAX << (32 - bits))).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & (u128::MAX << (128 - bits))).to_be_bytes()),
    };
    Prefix { address, bits }
}

pub fn address(machine: u16) -> IpAddr {
    match machine {
        OVER_V6 | BACKEND_V6 | BACKEND_FROM_V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, machine]),
        _ => IpAddr::from([203, 0, 113, machine as u8]),
    }
}

/// This machine's IPv6 address.
pub fn own_v6() -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, OWN])
}

/// A client; `n` makes others.
pub fn client(v4: bool, n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    let ip = if v4 { IpAddr::from([192, 0, high, low]) } else { IpAddr::from([0x2001, 0xdb8, 0xc1, n, 0, 0, 0, 7]) };
    SocketAddr::new(ip, 40_000 + n % 1000)
}

pub fn machines() -> Vec<Machine> {
    let from = |machine| match machine {
        BACKEND_FROM => Some(Prefix { address: IpAddr::from([10, 99, 128, 0]), bits: 17 }),
        BACKEND_FROM_V6 => Some(Prefix { address: IpAddr::from([0xfd00, 0x99, 0, 0, 0, 0, 0, 0]), bits: 64 }),
        _ => None,
    };
    [OWN, OTHER, THIRD, OVER_V6, NEAR, BACKEND, BACKEND_V6, BACKEND_FROM, BACKEND_FROM_V6]
        .map(|index| Machine {
            index,
            name: format!("m{index}"),
            address: address(index),
            next_hop: (index == NEAR).then_some(NEAR_MAC),
            backend: (index >= BACKEND).then(|| Backend { sources: from(index) }),
            own: index == OWN,
        })
        .to_vec()
}

pub fn vips() -> Vec<Vip> {
    let spread: Arc<[Slot]> = (0..SLOTS)
        .map(|slot| {
            let owners = [[OWN, OTHER, THIRD, 0], [OTHER, OWN, 0, 0], [THIRD, OVER_V6, OWN, OTHER], [OVER_V6, 0, 0, 0]];
            Slot::new(owners[slot as usize % 4])
        })
        .collect();
    Fixture::ALL
        .map(|fixture| Vip {
            id: fixture as u16,
            name: format!("v{}", fixture as u16),
            addresses: fixture.addresses(),
            ports: if fixture == Fixture::AnyPort { vec![0..=65535] } else { vec![80..=80, 8000..=8099] },
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: match fixture {
                Fixture::SpreadSource => Hash::SourceIp,
                Fixture::SpreadPrefix => Hash::SourcePrefix { v4: 24, v6: 56 },
                Fixture::SpreadPort => Hash::DestinationPort,
                _ => Hash::FiveTuple,
            },
            slots: match fixture {
                Fixture::Elsewhere | Fixture::Wide => uniform([OTHER, 0, 0, 0]),
                Fixture::Here => uniform([OWN, 0, 0, 0]),
                Fixture::HereBefore => uniform([OWN, OTHER, 0, 0]),
                Fixture::Empty => uniform([0, 0, 0, 0]),
                Fixture::Unknown => uniform([GONE, 0, 0, 0]),
                Fixture::ElsewhereV6 => uniform([OVER_V6, 0, 0, 0]),
                Fixture::HereLong => uniform([OWN, OTHER, OVER_V6, THIRD]),
                Fixture::NobodyNow => uniform([0, OWN, 0, 0]),
                Fixture::ElsewhereNear => uniform([NEAR, 0, 0, 0]),
                Fixture::BackendsMoved => uniform([BACKEND, BACKEND_FROM, 0, BACKEND_V6]),
                Fixture::Backends => {
                    let turn = [BACKEND, BACKEND_V6, BACKEND_FROM, BACKEND_FROM_V6];
                    (0..SLOTS).map(|slot| Slot::of(turn[slot as usize % 4])).collect()
                }
                _ => spread.clone(),
            },
            limits: if fixture == Fixture::SpreadSource { never_reached() } else { VipLimits::default() },
            earlier: None,
            backends: matches!(fixture, Fixture::Backends | Fixture::BackendsMoved),
        })
        .to_vec()
}

/// Limits that no test comes near: they are looked at all the same.
fn never_reached() -> VipLimits {
    let rate = Rate::new(10_000_000, 10_000_000);
    VipLimits { all: Some(rate), source: Some(SourceLimit { rate, v4: 16, v6: 40 }), cookies: Some(rate) }
}

/// Every slot with these owners.
pub fn uniform(owners: [u16; 4]) -> Arc<[Slot]> {
    vec![Slot::new(owners); SLOTS as usize].into()
}

/// What the machines of the world know each other by, and what they knew before and will know.
pub const COOKIE: u32 = 0x5eed_c0de;
pub const COOKIE_BEFORE: u32 = 0x0bad_cafe;
pub const COOKIE_NEXT: u32 = 0x1234_5678;

pub fn set_cookies(kernel: &mut Kernel) {
    kernel.set_cookies(NonZeroU32::new(COOKIE), [NonZeroU32::new(COOKIE_BEFORE), NonZeroU32::new(COOKIE_NEXT)]);
}

pub fn sizes() -> Sizes {
    Sizes { tables: 32, vips: 18, machines: 63 }
}

/// The programs with this world in their maps, attached to nothing.
pub fn kernel() -> Result<Kernel, KernelError> {
    kernel_with(&vips())
}

/// The same with other virtual IPs.
pub fn kernel_with(vips: &[Vip]) -> Result<Kernel, KernelError> {
    let mut kernel = Kernel::load(Options {
        pin_dir: None,
        own_addresses: vec![address(OWN), own_v6()],
        sizes: sizes(),
        ..Options::default()
    })?;
    set_cookies(&mut kernel);
    kernel.apply(&machines(), vips)?;
    Ok(kernel)
}
