//! How much of everything there can be, who fills it, and why that many.

use crate::limit::Rate;

/// Layout of every map and the meaning of every value in this crate. Pinned maps of another version are not re-used.
pub const LAYOUT_VERSION: u32 = 14;

/// Slots of one Maglev table. Filled by the L4 plane. Prime, and the size the Maglev paper and Katran use: with 1,000
/// machines the fullest one has 1.007 times its fair share, and a table is built in about 2 ms.
pub const SLOTS: u32 = 65_537;

/// Machines that one slot remembers: who takes its new flows, and three before that, so that three machines may drain one after
/// the other. Two proved too few; four fit the word that can be stored at once.
pub const OWNERS: usize = 4;

/// Most Maglev tables a machine can be loaded with. 256 tables are 134 MB, the room Katran gives its rings with one owner per slot
/// and a table for each of 512 virtual IPs; here virtual IPs with the same owners share one. How many are really there is chosen
/// at load.
pub const TABLES_MAX: u32 = 256;

/// Most virtual IPs (documents, not addresses).
pub const VIPS_MAX: u32 = 512;

/// Addresses and prefixes of all virtual IPs together, in one generation.
pub const ADDRESSES_MAX: u32 = 4_096;

/// Services (a port or a range of ports, of one protocol) of one address. The programs look through them one by one,
/// narrowest first; 32 of them are 16 protocols-and-ranges for TCP and UDP each and cost at most about 20 ns.
pub const SERVICES_MAX: usize = 32;

/// Most machines, and one: index 0 means nobody. A slot has room for 65,535; the counters per VIP and machine set the bound.
pub const MACHINES_MAX: u32 = 4_096;

/// Listeners on exact ports that `sk_lookup` can find.
pub const LISTENERS_MAX: u32 = 4_096;

/// Listeners on ranges of ports. Looked through one by one after the exact ports, once per new connection.
pub const LISTENER_RANGES_MAX: usize = 32;

/// Sockets of all reuseport groups together: listeners times workers.
pub const SOCKETS_MAX: u32 = 16_384;

/// Datagrams whose first fragment has passed, the longest unused forgotten first. Touched by fragments only: 2 MB.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// Prefixes of all access lists together.
pub const PREFIXES_MAX: u32 = 1_000_000;

/// Entries of ACCESS_BLOCKS: one for each prefix at most, and those of the lists before while others take their place. Memory comes with
/// the entries, about 130 bytes each.
pub const ACCESS_BLOCKS_MAX: u32 = 2 * 1_048_576;

/// Entries of ACCESS_PREFIXES, likewise.
pub const ACCESS_PREFIXES_MAX: u32 = 2 * 1_048_576;

/// Sources that are banned for a while. Memory comes with the entries, about 100 bytes each.
pub const BANS_MAX: u32 = 65_536;

/// Sources whose new connections are counted, of all virtual IPs together, the longest unused forgotten first: 6 MB.
pub const SOURCES_MAX: u32 = 65_536;

/// Connections whose backend is remembered because their slot has had another, of all virtual IPs together, the longest unused forgotten
/// first: 7 MB. Touched by packets of such slots only.
pub const FLOWS_MAX: u32 = 65_536;

/// How many of them are remembered anew in a second, and at once: a flood of segments drives no connection out of FLOWS that has spoken
/// within the last twelve seconds. What comes faster goes where packets go of which nothing is remembered, and so do all packets of its
/// connection.
pub const FLOWS_RATE: Rate = Rate::new(4_096, 16_384);

/// How many of them each virtual IP may have where less than half of that is left: a flood at one, or at a few, leaves the others room.
pub const FLOWS_RATE_OF_ONE: Rate = Rate::new(256, 1_024);

/// Entries of WAYS: the routes of the interfaces that packets arrive on. A machine with more (one that has the whole table of the
/// Internet) is told that its ways are not known.
pub const WAYS_MAX: u32 = 512;

/// CPUs that can be mapped to workers; the largest NR_CPUS a distribution builds its kernel with.
pub const CPUS_MAX: u32 = 8_192;

/// Tunnels one packet may pass: from the machine that got it to each of four owners and to two that stood in, to two more while tables
/// differ for the moment that changes take, and back to who holds a closing socket when nobody holds more.
/// A machine that receives a packet with this many behind it keeps it, so no disagreement of tables can make a loop.
pub const HOPS_MAX: u8 = 9;

/// The same of machines before it was nine: what they mean to be kept carries this.
pub const HOPS_MAX_BEFORE: u8 = 6;

/// Slots looked into for one whose owner stands in for a machine that does not serve. With two machines one flow in 65,000 finds all of
/// them to be its own, and is refused.
pub const STAND_INS_MAX: usize = 16;

/// Extension headers of an IPv6 packet that are looked through. RFC 8200 section 4.1 recommends each at most once
/// (destination options twice); more are dropped with a counter.
pub const IPV6_EXTENSIONS_MAX: usize = 6;

/// Furthest offset at which a transport header is looked for. Real chains of extension headers end long before it.
pub const TRANSPORT_OFFSET_MAX: usize = 1_024;
