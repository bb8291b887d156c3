//! Why a packet met its fate. Every packet leaves `xdp_steer` with exactly one reason, and is counted under it.

/// What becomes of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verdict {
    /// Up the stack of this machine.
    Pass,
    /// Out of the interface it came in by.
    Transmit,
    Drop,
}

/// Room for reasons in the counters; a power of two above the last one.
pub const REASONS: usize = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $verdict:ident;)*) => {
        /// Discriminants are ABI and metric labels: never renumber, only add.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The label in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Reason::$name => Verdict::$verdict,)* }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6 behind at most one VLAN tag: ARP, for example.
    NotIp = 0, "not_ip", Pass;
    /// The destination is no virtual IP.
    NotVip = 1, "not_vip", Pass;
    /// A virtual IP, but no document serves this port.
    PortNotServed = 2, "port_not_served", Pass;
    /// A virtual IP, but neither TCP nor UDP nor ICMP.
    ProtocolNotServed = 3, "protocol_not_served", Pass;
    /// This machine owns the slot: a new connection, one it holds, or a datagram.
    Local = 4, "local", Pass;
    /// This machine owns the slot, holds no socket, and nobody else could: the stack answers with a reset.
    LocalOrphan = 5, "local_orphan", Pass;
    /// Another machine owns the slot.
    Forwarded = 6, "forwarded", Transmit;
    /// This machine owns the slot but holds no socket for the connection: the previous owner may.
    SecondChance = 7, "second_chance", Transmit;
    /// Came through a tunnel and stays.
    Decapsulated = 8, "decapsulated", Pass;
    /// Came through a tunnel; no socket here, and nobody else to ask.
    DecapsulatedOrphan = 9, "decapsulated_orphan", Pass;
    /// Came through a tunnel; no socket here, but another machine may hold it.
    SecondChanceRelayed = 10, "second_chance_relayed", Transmit;
    /// To this machine's GUE port, but not in our format.
    ForeignGue = 11, "foreign_gue", Drop;
    /// Echo request to a virtual IP.
    EchoAnswered = 12, "echo_answered", Transmit;
    /// ICMP error about a connection of another machine.
    IcmpErrorForwarded = 13, "icmp_error_forwarded", Transmit;
    /// ICMP error about a connection of this machine.
    IcmpErrorLocal = 14, "icmp_error_local", Pass;
    /// Any other ICMP.
    IcmpPassed = 15, "icmp_passed", Pass;
    /// Fragment on its way to the machine where all of the datagram meet, or from there to the owner of its connection.
    FragmentForwarded = 16, "fragment_forwarded", Transmit;
    /// Fragment of what this machine owns.
    FragmentLocal = 17, "fragment_local", Pass;
    /// Would not fit the interface once encapsulated: the sender was told the size that does.
    TooBigAnswered = 18, "too_big_answered", Transmit;
    /// Would not fit, and is nothing one may answer: an ICMP error, a fragment, or an IPv4 packet that may be fragmented.
    TooBigDropped = 19, "too_big_dropped", Drop;
    /// Shorter than its Ethernet header.
    EthernetTruncated = 20, "ethernet_truncated", Drop;
    /// Shorter than an IPv4 header, or than that header says.
    Ipv4Truncated = 21, "ipv4_truncated", Drop;
    /// To a virtual IP, with a version, header length or total length that cannot be.
    Ipv4Malformed = 22, "ipv4_malformed", Drop;
    /// Shorter than an IPv6 header, or than that header says.
    Ipv6Truncated = 23, "ipv6_truncated", Drop;
    /// To a virtual IP, with more extension headers, or longer ones, than are looked through.
    Ipv6ExtensionsTooMany = 24, "ipv6_extensions_too_many", Drop;
    /// Shorter than its TCP or UDP header.
    TransportTruncated = 25, "transport_truncated", Drop;
    /// Shorter than its ICMP header, or than the header quoted in it.
    IcmpTruncated = 26, "icmp_truncated", Drop;
    /// The slot names nobody: the table is empty.
    SlotEmpty = 27, "slot_empty", Drop;
    /// The slot names a machine that is not there.
    MachineUnknown = 28, "machine_unknown", Drop;
    /// This machine has no address of the family to send GUE from.
    NoOwnAddress = 29, "no_own_address", Drop;
    /// The driver left no room in front of the frame.
    HeadroomMissing = 30, "headroom_missing", Drop;
    /// GUE to this machine whose inner packet is not for a virtual IP known here.
    GueInnerNotVip = 31, "gue_inner_not_vip", Drop;
    /// GUE to this machine that ends before its inner header.
    GueTruncated = 32, "gue_truncated", Drop;
    /// GUE from an address that no machine of the cluster has.
    GueSenderUnknown = 33, "gue_sender_unknown", Drop;
    /// GUE from a machine's address without the cluster's cookie.
    GueCookieWrong = 34, "gue_cookie_wrong", Drop;
    /// A new flow of a slot that this machine owns, but nobody listens here, or the daemon has not said for a while that it lives: another
    /// machine takes it.
    StoodIn = 35, "stood_in", Transmit;
    /// Fragment that came before the first of its datagram: the daemon keeps it, and puts it on the road again when that is here.
    FragmentHeld = 36, "fragment_held", Drop;
    /// The same, and there is nobody to keep it.
    FragmentEarly = 37, "fragment_early", Drop;
    /// From an address that an AccessList denies.
    AccessDenied = 38, "access_denied", Drop;
    /// Opens a connection, and more than its virtual IP allows come from its source.
    SourceLimited = 39, "source_limited", Drop;
    /// Opens a connection, and more than it allows come to its virtual IP.
    VipLimited = 40, "vip_limited", Drop;
    /// Opens a connection, and more do than its virtual IP takes without: answered with a SYN cookie.
    SynCookieSent = 41, "syn_cookie_sent", Transmit;
    /// Of no connection and without a SYN cookie of this machine, while more come than its virtual IP takes without.
    SynCookieWrong = 42, "syn_cookie_wrong", Drop;
    /// For a backend, would not fit the interface once encapsulated, and is nothing one may answer: the daemon sends it there in several
    /// tunnels.
    TooBigHeld = 43, "too_big_held", Drop;
    /// From a source that is banned for a while, because what it asked for was refused too often.
    Banned = 44, "banned", Drop;
}

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!(Reason::ALL[i] as usize == i && i < REASONS);
        i += 1;
    }
};
