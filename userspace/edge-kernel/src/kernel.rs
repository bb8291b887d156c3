//! Load, attach, pin; take over what is pinned.
//!
//! ```text
//! <pin_dir>/link-xdp-<interface>      the XDP link of an interface, in driver mode
//! <pin_dir>/generic-xdp-<interface>   the same in generic mode
//! <pin_dir>/link-sk-lookup            the sk_lookup link of the network namespace
//! <pin_dir>/<layout>/<MAP>            the maps; <layout> names the layout version and the sizes, e.g. v1-t64-i64-m256-c8
//! ```
//! A process that finds its own layout opens the maps and puts its programs into the links at once: nothing changes for
//! packets. One that finds another layout makes new maps and leaves the old programs steering until its first
//! [`Kernel::apply`], so the new programs never run with empty maps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use abi::limits::{LAYOUT_VERSION, MACHINES_MAX, SLOTS, TABLES_MAX, VIPS_MAX};
use abi::{Address, Config, Counter, REASONS, Settings, Slot, VipAddress, VipAt, VipKey};
use aya::EbpfLoader;
use aya::maps::{Map, MapData};
use aya::programs::{SkLookup, SkReuseport, Xdp};

use crate::access::KnownAccess;
use crate::capture::Captures;
use crate::cookies;
use crate::error::{KernelError, Warning};
use crate::flows::FlowsKnown;
use crate::follow::MTU_MAX;
use crate::fragments::{Early, EarlyFragments};
use crate::interface::Interface;
use crate::long::LongPackets;
use crate::losses::Losses;
use crate::map::MappedArray;
use crate::older;
use crate::prefix::Prefix;
use crate::sockets::Sockets;
use crate::surroundings::ByPrefix;
use crate::sys;
use crate::ways::KnownWays;

/// How XDP programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// In the driver, before the kernel has made a socket buffer.
    Driver,
    /// Behind the driver: works everywhere, several times slower.
    Generic,
    /// Driver, and where the driver cannot, generic with a warning.
    #[default]
    Auto,
}

/// What to load and where to attach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interfaces that packets arrive on. None: the programs are loaded but see no packet.
    pub interfaces: Vec<String>,
    pub mode: Mode,
    /// Where maps and links stay when the process ends. None: they go with it.
    pub pin_dir: Option<PathBuf>,
    /// [`Kernel::detach`] is to be called at the end; only remembered here.
    pub detach_on_exit: bool,
    /// Addresses other machines reach this one at, one per family. Empty: the first interface's.
    pub own_addresses: Vec<IpAddr>,
    pub sizes: Sizes,
}

/// How much the maps have room for. More costs memory, see each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Maglev tables, 2 to 256. 524 kB each. One for all VIPs with the same owners, and at least one more to build a new version in.
    /// What VIPs had before differs with time, so it takes one for each, and one, to be sure of room.
    pub tables: u32,
    /// Virtual IPs with counters, 1 to 512: 1 kB each, and 16 bytes per machine, on every CPU.
    pub vips: u32,
    /// Machines, 1 to 4,095. Beside all of these: 11 MB for what is said of addresses, 5 MB for access lists and 6 MB for sources whose
    /// connections are counted.
    pub machines: u32,
}

/// How an interface was attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub interface: String,
    pub generic: bool,
    /// The link was there already, left by an earlier process.
    pub taken_over: bool,
}

/// Loaded programs and their maps.
pub struct Kernel {
    pub(crate) options: Options,
    pub(crate) config: Arc<MappedArray<Config>>,
    /// See [`Kernel::lapsed_ms`].
    pub(crate) lapsed_ms: Arc<AtomicU64>,
    pub(crate) slots: MappedArray<Slot>,
    pub(crate) machines: MappedArray<abi::Machine>,
    pub(crate) before: MappedArray<abi::Before>,
    pub(crate) limits: MappedArray<abi::Limit>,
    pub(crate) access: MappedArray<u64>,
    pub(crate) access_prefixes: OwnedFd,
    pub(crate) access_blocks: OwnedFd,
    /// What both hold, where this process wrote it.
    pub(crate) known_access: Option<KnownAccess>,
    pub(crate) bans: OwnedFd,
    /// What it holds, where this process wrote it.
    pub(crate) known_bans: Option<BTreeMap<abi::Address, Instant>>,
    pub(crate) counters: MappedArray<Counter>,
    pub(crate) steered: MappedArray<Counter>,
    pub(crate) worker_of_cpu: MappedArray<u64>,
    pub(crate) vips: MappedArray<VipAddress>,
    pub(crate) vip_seeds: MappedArray<u64>,
    pub(crate) vip_places: MappedArray<VipAt>,
    pub(crate) vip_prefixes: OwnedFd,
    pub(crate) senders: OwnedFd,
    /// Indices of the interfaces that have the program.
    pub(crate) indices: BTreeMap<String, u32>,
    /// What was told of interfaces last.
    pub(crate) astray: BTreeMap<String, String>,
    /// MACs that frames for machines go to.
    pub(crate) next_hops: BTreeMap<IpAddr, [u8; 6]>,
    pub(crate) asked_neighbours: Option<Instant>,
    /// Why the MACs of machines cannot be found out, as was told last.
    pub(crate) unfound: BTreeMap<IpAddr, String>,
    pub(crate) ways_map: OwnedFd,
    pub(crate) ways: KnownWays,
    pub(crate) by_prefix: ByPrefix,
    pub(crate) losses: Losses,
    fragments: OwnedFd,
    pub(crate) flows: OwnedFd,
    pub(crate) flows_known: FlowsKnown,
    pub(crate) buckets: OwnedFd,
    /// Where `xdp_steer` finds the program for fragments; emptied when nobody holds it.
    roads: OwnedFd,
    pub(crate) early: Option<Early>,
    pub(crate) captures: Captures,
    /// What the live generation says of addresses, by their keys but for the generation.
    pub(crate) services: BTreeMap<VipKey, VipAddress>,
    /// What the next generation is told.
    pub(crate) settings: Settings,
    pub(crate) cpus: u32,
    pub(crate) sockets: Sockets,
    /// Tables that the live generation refers to, and the virtual IPs that do.
    pub(crate) live_tables: BTreeMap<u16, BTreeSet<u16>>,
    pub(crate) switched_at: Option<Instant>,
    pub(crate) attachments: Vec<Attachment>,
    /// Links whose program still is an earlier process's, with other maps: ours goes in with the first `apply`.
    pub(crate) pending: Vec<(OwnedFd, Hook)>,
    pub(crate) links: Vec<(OwnedFd, Hook)>,
    programs: HashMap<Hook, OwnedFd>,
    layout: String,
    pub(crate) warnings: Vec<Warning>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    XdpSteer,
    /// What `XdpSteer` leaves packets to that are not as most are.
    XdpGeneral,
    /// What that leaves fragments to.
    XdpFragment,
    /// What both leave packets to that somebody wants to see.
    XdpCapture,
    /// What `XdpSteer` leaves packets to while connections begin too fast.
    XdpSyn,
    /// What `XdpSteer` leaves packets to that are for servers without Weir.
    XdpBackend,
    /// What it and `XdpFragment` leave them to then.
    XdpDeliver,
    SkLookup,
    SkReuseport,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            interfaces: Vec::new(),
            mode: Mode::Auto,
            pin_dir: Some(PathBuf::from(PIN_ROOT).join("default")),
            detach_on_exit: false,
            own_addresses: Vec::new(),
            sizes: Sizes::default(),
        }
    }
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { tables: 65, vips: 64, machines: 255 }
    }
}

impl Options {
    /// The usual place for the pins of an instance: `/sys/fs/bpf/weir/<instance>`. Characters the file system refuses become `_`.
    pub fn pin_dir_of(instance: &str) -> PathBuf {
        let clean: String =
            instance.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        PathBuf::from(PIN_ROOT).join(if clean.is_empty() { "default".to_owned() } else { clean })
    }
}

impl Kernel {
    /// Loads the programs into the kernel and attaches them to the interfaces and to the calling thread's network namespace.
    pub fn load(options: Options) -> Result<Kernel, KernelError> {
        let object = crate::OBJECT.ok_or(KernelError::NotBuiltIn)?;
        Kernel::load_object(options, object)
    }

    /// As [`Kernel::load`], with programs that are not built in.
    pub fn load_object(options: Options, object: &[u8]) -> Result<Kernel, KernelError> {
        options.sizes.check()?;
        let interfaces: Vec<Interface> =
            options.interfaces.iter().map(|name| Interface::find(name)).collect::<Result<_, _>>()?;
        let mut warnings = Vec::new();
        let own = own_addresses_of(&options, &interfaces, &mut warnings)?;
        let cpus = possible_cpus();
        let layout = options.sizes.layout(cpus);

        let map_dir = options.pin_dir.as_ref().map(|dir| dir.join(&layout));
        let mut inherited = false;
        if let Some(dir) = &map_dir {
            prepare_pin_dir(dir)?;
            inherited = dir.join("CONFIG").exists();
        }
        let features = older::features(interfaces.first().map(|interface| interface.index));
        let object = older::adapt(object, features);
        let loaded = load_object(&object, &options.sizes, cpus, map_dir.as_deref(), &mut warnings)?;
        let Loaded { maps, programs, held, seen } = loaded;
        warnings.extend(features.warnings());

        let mut kernel = Kernel::assemble(options, maps, programs, seen, cpus, layout, warnings)?;
        kernel.configure(&own, &interfaces, inherited);
        kernel.lay_roads()?;
        if inherited {
            kernel.inherit();
        }
        kernel.attach(&interfaces, inherited)?;
        if features.live_frames {
            kernel.await_first_fragments(&interfaces, held);
        }
        Ok(kernel)
    }

    /// What works less well than it could, found while loading.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The largest index of a machine that there is room for.
    pub fn machines_max(&self) -> u16 {
        self.options.sizes.machines as u16
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The addresses this machine sends and receives GUE at.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        [self.settings.own_v4, self.settings.own_v6].iter().filter(|a| !a.is_unspecified()).map(Address::ip).collect()
    }

    /// A loaded program, for facts about it and test runs; none of a hook that this kernel has no room for ([`Kernel::warnings`] says so).
    pub fn program(&self, hook: Hook) -> Option<BorrowedFd<'_>> {
        self.programs.get(&hook).map(AsFd::as_fd)
    }

    /// Takes down what an earlier process left in `pin_dir`, for one that is to run without a kernel plane: programs off, pins and routes
    /// away. False when there was nothing. Refused while a process lives that uses them. Meant for the calling thread's network
    /// namespace.
    pub fn take_down(pin_dir: &Path) -> Result<bool, KernelError> {
        if !pin_dir.is_dir() {
            return Ok(false);
        }
        if crate::lease::is_held(pin_dir) {
            return Err(KernelError::Invalid(format!(
                "{}: another process of this name lives and steers; give this one a --name of its own",
                pin_dir.display()
            )));
        }
        detach_pinned(pin_dir, &|_| false)?;
        crate::routes::keep_local_addresses(&[])?;
        fs::remove_dir_all(pin_dir)
            .map_err(|e| KernelError::system(format!("cannot remove the pins in {}", pin_dir.display()), e))?;
        Ok(true)
    }

    /// Takes up again what a process that was to succeed this one has held meanwhile: our programs into the links, and what the maps say
    /// is in force. To be followed by [`Kernel::steer`], which writes everything anew.
    pub fn reclaim(&mut self) -> Result<(), KernelError> {
        for (link, hook) in &self.links {
            sys::link_update(link.as_fd(), self.programs[hook].as_fd())
                .map_err(|e| KernelError::system("cannot put this process's programs back", e))?;
        }
        self.lay_roads()?;
        self.services.clear();
        self.live_tables.clear();
        self.known_access = None;
        self.known_bans = None;
        self.ways.forget();
        self.forget_flows();
        self.inherit();
        Ok(())
    }

    /// Takes everything down: programs off the interfaces, pins and routes away. Packets go on without Weir.
    pub fn detach(mut self) -> Result<(), KernelError> {
        let _ = self.set_local_addresses::<Prefix>(&[]);
        for (link, _) in self.links.drain(..).chain(self.pending.drain(..)) {
            match sys::link_detach(link.as_fd()) {
                Ok(()) => {}
                // The interface or namespace is gone, and the link with it.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL | libc::ENOENT)) => {}
                Err(e) => return Err(KernelError::system("cannot detach the programs", e)),
            }
        }
        if let Some(dir) = &self.options.pin_dir {
            fs::remove_dir_all(dir)
                .map_err(|e| KernelError::system(format!("cannot remove the pins in {}", dir.display()), e))?;
        }
        Ok(())
    }

    fn assemble(
        options: Options,
        mut maps: HashMap<String, OwnedFd>,
        programs: HashMap<Hook, OwnedFd>,
        seen: Option<MapData>,
        cpus: u32,
        layout: String,
        warnings: Vec<Warning>,
    ) -> Result<Kernel, KernelError> {
        let mut take = |name: &str| {
            maps.remove(name).ok_or_else(|| {
                KernelError::Invalid(format!(
                    "the BPF object has no map {name}: it was built from other sources; rebuild it"
                ))
            })
        };
        fn mapped<T: sys::Plain>(name: &str, fd: OwnedFd) -> Result<MappedArray<T>, KernelError> {
            MappedArray::open(fd).map_err(|e| KernelError::system(format!("cannot map {name} into memory"), e))
        }
        let config: Arc<MappedArray<Config>> = Arc::new(mapped("CONFIG", take("CONFIG")?)?);
        let captures = Captures::new(mapped("CAPTURES", take("CAPTURES")?)?, config.clone(), seen)
            .map_err(|e| KernelError::system("cannot use the rings for captured packets", e))?;
        Ok(Kernel {
            config,
            lapsed_ms: Arc::default(),
            captures,
            slots: mapped("SLOTS", take("SLOTS")?)?,
            machines: mapped("MACHINES", take("MACHINES")?)?,
            before: mapped("BEFORE", take("BEFORE")?)?,
            limits: mapped("LIMITS", take("LIMITS")?)?,
            access: mapped("ACCESS", take("ACCESS")?)?,
            access_prefixes: take("ACCESS_PREFIXES")?,
            access_blocks: take("ACCESS_BLOCKS")?,
            known_access: None,
            bans: take("BANS")?,
            known_bans: None,
            counters: mapped("COUNTERS", take("COUNTERS")?)?,
            steered: mapped("STEERED", take("STEERED")?)?,
            worker_of_cpu: mapped("WORKER_OF_CPU", take("WORKER_OF_CPU")?)?,
            vips: mapped("VIPS", take("VIPS")?)?,
            vip_seeds: mapped("VIP_SEEDS", take("VIP_SEEDS")?)?,
            vip_places: mapped("VIP_PLACES", take("VIP_PLACES")?)?,
            vip_prefixes: take("VIP_PREFIXES")?,
            senders: take("SENDERS")?,
            indices: BTreeMap::new(),
            astray: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            asked_neighbours: None,
            unfound: BTreeMap::new(),
            ways_map: take("WAYS")?,
            ways: KnownWays::default(),
            by_prefix: ByPrefix::default(),
            losses: Losses::default(),
            fragments: take("FRAGMENTS")?,
            flows: take("FLOWS")?,
            flows_known: FlowsKnown::default(),
            buckets: take("BUCKETS")?,
            roads: take("ROADS")?,
            early: None,
            services: BTreeMap::new(),
            settings: Settings::default(),
            sockets: Sockets::open(take("LISTENERS")?, take("LISTENER_RANGES")?, take("SOCKETS")?, take("GROUPS")?)?,
            live_tables: BTreeMap::new(),
            switched_at: None,
            attachments: Vec::new(),
            pending: Vec::new(),
            links: Vec::new(),
            options,
            cpus,
            programs,
            layout,
            warnings,
        })
    }

    /// Settles what the generations to come are told. In new maps both generations are told so now; in inherited ones the live
    /// generation keeps what it has until the first `apply` switches.
    fn configure(&mut self, own: &[IpAddr], interfaces: &[Interface], inherited: bool) {
        let family = |v4: bool| own.iter().find(|a| a.is_ipv4() == v4).map_or(Address::UNSPECIFIED, |&a| a.into());
        self.settings = Settings {
            mtu: interfaces.iter().map(|i| i.mtu).min().unwrap_or(1500).min(MTU_MAX),
            vips: self.options.sizes.vips + 1,
            machines: self.options.sizes.machines + 1,
            own_v4: family(true),
            own_v6: family(false),
            ..Settings::default()
        };
        self.publish_syn_options();
        if !inherited {
            for generation in 0..2 {
                self.write_settings(generation);
            }
        }
    }

    /// What answers with SYN cookies may hold, as this machine's stack is set now.
    pub(crate) fn publish_syn_options(&self) {
        self.config.publish(std::mem::offset_of!(Config, syn) / 4, cookies::options());
    }

    fn attach(&mut self, interfaces: &[Interface], inherited: bool) -> Result<(), KernelError> {
        if let Some(dir) = &self.options.pin_dir {
            // What was attached where it is no longer to be would steer on by tables that nobody keeps.
            let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
            detach_pinned(dir, &|pin| {
                pin == SK_LOOKUP_PIN && !names.is_empty()
                    || names.iter().any(|name| pin.strip_suffix(name).is_some_and(|mode| XDP_PINS.contains(&mode)))
            })?;
        }
        for interface in interfaces {
            self.indices.insert(interface.name.clone(), interface.index);
            let pins = self.pins_of(&interface.name);
            let found = pins.iter().flatten().enumerate();
            let mut found = found.filter_map(|(mode, pin)| Some((mode, existing_link(pin, Some(interface.index))?)));
            if let Some((mode, link)) = found.next() {
                self.take_over(link, Hook::XdpSteer, inherited).map_err(|e| {
                    KernelError::system(format!("cannot take over the XDP program of {}", interface.name), e)
                })?;
                self.attachments.push(Attachment {
                    interface: interface.name.clone(),
                    generic: mode == GENERIC,
                    taken_over: true,
                });
                continue;
            }
            self.attach_to(interface)?;
        }
        if interfaces.is_empty() {
            return Ok(());
        }
        self.attach_sk_lookup(inherited)
    }

    /// By mode.
    fn pins_of(&self, interface: &str) -> Option<[PathBuf; 2]> {
        self.options.pin_dir.as_ref().map(|dir| XDP_PINS.map(|mode| dir.join(format!("{mode}{interface}"))))
    }

    /// Where nothing of ours is attached yet.
    pub(crate) fn attach_to(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let pins = self.pins_of(&interface.name);
        let (link, generic) = self.attach_xdp(interface)?;
        self.attachments.push(Attachment { interface: interface.name.clone(), generic, taken_over: false });
        if !generic {
            self.test_sending(interface);
        }
        self.keep(link, Hook::XdpSteer, pins.as_ref().map(|pins| pins[usize::from(generic)].as_path()))
    }

    /// Our programs that others call where `xdp_steer` looks for them, which takes ours and those of an earlier process alike.
    fn lay_roads(&self) -> Result<(), KernelError> {
        for (place, hook) in [
            (0u32, Hook::XdpFragment),
            (1, Hook::XdpCapture),
            (2, Hook::XdpSyn),
            (3, Hook::XdpBackend),
            (4, Hook::XdpDeliver),
            (5, Hook::XdpGeneral),
        ] {
            let Some(program) = self.programs.get(&hook).map(|program| program.as_raw_fd() as u32) else { continue };
            sys::map_update(self.roads.as_fd(), &place, &program)
                .map_err(|e| KernelError::system("cannot put the programs that others call into their places", e))?;
        }
        Ok(())
    }

    fn await_first_fragments(&mut self, interfaces: &[Interface], rings: Option<MapData>) {
        let (Some(interface), Some(rings)) = (interfaces.first(), rings) else { return };
        let program = &self.programs[&Hook::XdpSteer];
        let started = self
            .fragments
            .try_clone()
            .and_then(|ways| Early::start(rings, ways, program.try_clone()?, interface.index));
        match started {
            Ok(early) => self.early = Some(early),
            Err(e) => self.warnings.push(Warning(format!(
                "fragments that come before the first of their datagram are dropped: {e}; allow perf_event_open(2) (capability CAP_PERFMON)"
            ))),
        }
    }

    /// What became of fragments that came before the first of their datagram.
    pub fn early_fragments(&self) -> EarlyFragments {
        self.early.as_ref().map(Early::counts).unwrap_or_default()
    }

    /// What became of packets for backends that were too long for one tunnel.
    pub fn long_packets(&self) -> LongPackets {
        self.early.as_ref().map(Early::long_packets).unwrap_or_default()
    }

    /// Attaches sk_lookup to the calling thread's network namespace. [`Kernel::load`] does so when it attaches XDP anywhere.
    fn attach_sk_lookup(&mut self, inherited: bool) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot attach sk_lookup to the network namespace", e);
        let pin = self.options.pin_dir.as_ref().map(|dir| dir.join(SK_LOOKUP_PIN));
        if let Some(link) = pin.as_deref().and_then(|pin| existing_link(pin, None)) {
            return self.take_over(link, Hook::SkLookup, inherited).map_err(failed);
        }
        let namespace = fs::File::open("/proc/thread-self/ns/net").map_err(failed)?;
        let program = self.programs[&Hook::SkLookup].as_fd();
        let link = sys::link_create(program, namespace.as_raw_fd() as u32, sys::ATTACH_SK_LOOKUP, 0).map_err(failed)?;
        self.keep(link, Hook::SkLookup, pin.as_deref())
    }

    /// Our program into a link that an earlier process left: now if it works on the same maps, else with the first `apply`.
    fn take_over(&mut self, link: OwnedFd, hook: Hook, inherited: bool) -> io::Result<()> {
        if inherited {
            sys::link_update(link.as_fd(), self.programs[&hook].as_fd())?;
            self.links.push((link, hook));
        } else {
            crate::lease::note_lapse(&self.lapsed_ms);
            self.pending.push((link, hook));
        }
        Ok(())
    }

    /// Puts our programs into the links that waited for filled maps, and takes the old maps away.
    pub(crate) fn complete_take_over(&mut self) -> Result<(), KernelError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        for (link, hook) in self.pending.drain(..) {
            sys::link_update(link.as_fd(), self.programs[&hook].as_fd())
                .map_err(|e| KernelError::system("cannot replace the programs of the earlier process", e))?;
            self.links.push((link, hook));
        }
        if let Some(dir) = &self.options.pin_dir {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let ours = entry.file_name().to_str() == Some(&self.layout);
                if !ours && entry.path().is_dir() {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        Ok(())
    }

    fn attach_xdp(&mut self, interface: &Interface) -> Result<(OwnedFd, bool), KernelError> {
        let program = self.programs[&Hook::XdpSteer].as_fd();
        let create = |flags| sys::link_create(program, interface.index, sys::ATTACH_XDP, flags);
        let name = &interface.name;
        if self.options.mode != Mode::Generic {
            match create(sys::XDP_DRIVER) {
                Ok(link) => return Ok((link, false)),
                Err(e) if self.options.mode == Mode::Driver || is_occupied(&e) => {
                    return Err(attach_error(name, "driver", e));
                }
                Err(e) => self.warnings.push(Warning(format!(
                    "{name}: attached in generic mode, which is several times slower: driver mode was refused ({}); use a NIC \
                     whose driver has native XDP, or say --xdp-mode generic to stop this warning",
                    driver_reason(&e)
                ))),
            }
        }
        match create(sys::XDP_GENERIC) {
            Ok(link) => Ok((link, true)),
            Err(e) => Err(attach_error(name, "generic", e)),
        }
    }

    fn keep(&mut self, link: OwnedFd, hook: Hook, pin: Option<&Path>) -> Result<(), KernelError> {
        if let Some(pin) = pin {
            // Something else, or a link whose interface is gone.
            let _ = fs::remove_file(pin);
            sys::pin(link.as_fd(), pin).map_err(|e| KernelError::system(format!("cannot pin {}", pin.display()), e))?;
        }
        self.links.push((link, hook));
        Ok(())
    }
}

impl Sizes {
    /// Room for so many virtual IPs, and for the tables they need: one for each, and one to build a new version in. Those that are
    /// spread over the same machines share one for as long as they have the same machines behind them, which nobody can count on; above
    /// 255 of them it has to do. Memory for 64 of them: 34 MB, and for 255 and more 134 MB.
    pub fn for_vips(vips: u32) -> Sizes {
        Sizes { vips, tables: (vips + 1).clamp(2, TABLES_MAX), ..Sizes::default() }
    }

    fn check(&self) -> Result<(), KernelError> {
        let bound = |what: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(KernelError::Invalid(format!("room for {value} {what}: between {least} and {most} can be had")))
        };
        bound("tables", self.tables, 2, TABLES_MAX)?;
        bound("virtual IPs", self.vips, 1, VIPS_MAX)?;
        bound("machines", self.machines, 1, MACHINES_MAX - 1)
    }

    fn layout(&self, cpus: u32) -> String {
        format!("v{LAYOUT_VERSION}-t{}-i{}-m{}-c{cpus}", self.tables, self.vips, self.machines)
    }
}

struct Loaded {
    maps: HashMap<String, OwnedFd>,
    programs: HashMap<Hook, OwnedFd>,
    /// The rings that early fragments come through.
    held: Option<MapData>,
    /// Those that captured packets come through.
    seen: Option<MapData>,
}

/// Makes or opens the maps, has the verifier examine the programs, and hands out descriptors of all of them.
fn load_object(
    object: &[u8],
    sizes: &Sizes,
    cpus: u32,
    map_dir: Option<&Path>,
    warnings: &mut Vec<Warning>,
) -> Result<Loaded, KernelError> {
    let vips = sizes.vips + 1;
    let machines = sizes.machines + 1;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("SLOTS", sizes.tables * SLOTS)
        .map_max_entries("MACHINES", 2 * machines)
        .map_max_entries("BEFORE", 2 * vips)
        .map_max_entries("LIMITS", 2 * vips)
        .map_max_entries("BUCKETS", 3 * vips + 3)
        .map_max_entries("COUNTERS", cpus * vips * REASONS as u32)
        .map_max_entries("STEERED", cpus * vips * machines);
    if let Some(dir) = map_dir {
        for name in MAPS {
            loader.map_pin_path(name, dir.join(name));
        }
    }
    let mut ebpf = loader.load(object).map_err(|e| load_error("the maps", &e))?;

    let mut programs = HashMap::new();
    for &(name, hook) in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or_else(|| {
            KernelError::Invalid(format!(
                "the BPF object has no program {name}: it was built from other sources; rebuild it"
            ))
        })?;
        let failed = |e: &aya::programs::ProgramError| load_error(name, e);
        let fd = match hook {
            Hook::XdpCapture | Hook::XdpSyn => {
                let xdp: &mut Xdp = program.try_into().map_err(|e| failed(&e))?;
                match xdp.load().and_then(|()| xdp.fd()) {
                    Ok(fd) => fd,
                    Err(_) => {
                        let without = if hook == Hook::XdpSyn { WITHOUT_COOKIES } else { WITHOUT_CAPTURE };
                        warnings.push(Warning(without.to_owned()));
                        continue;
                    }
                }
            }
            Hook::XdpSteer | Hook::XdpGeneral | Hook::XdpFragment | Hook::XdpBackend | Hook::XdpDeliver => {
                let xdp: &mut Xdp = program.try_into().map_err(|e| failed(&e))?;
                xdp.load().and_then(|()| xdp.fd()).map_err(|e| failed(&e))?
            }
            Hook::SkLookup => {
                let lookup: &mut SkLookup = program.try_into().map_err(|e| failed(&e))?;
                lookup.load().and_then(|()| lookup.fd()).map_err(|e| failed(&e))?
            }
            Hook::SkReuseport => {
                let reuseport: &mut SkReuseport = program.try_into().map_err(|e| failed(&e))?;
                match reuseport.load().and_then(|()| reuseport.fd()) {
                    Ok(fd) => fd,
                    // The others were let in, so it is not for lack of privileges.
                    Err(_) => {
                        warnings.push(Warning(older::WITHOUT_REUSEPORT.to_owned()));
                        continue;
                    }
                }
            }
        };
        programs.insert(hook, clone(fd.as_fd())?);
    }
    let mut maps = HashMap::new();
    for (name, map) in ebpf.maps() {
        if let Some(fd) = map_fd(map) {
            maps.insert(name.to_owned(), clone(fd)?);
        }
    }
    let mut rings = |name: &str| match ebpf.take_map(name) {
        Some(Map::PerfEventArray(rings)) => Some(rings),
        _ => None,
    };
    Ok(Loaded { maps, programs, held: rings("HELD"), seen: rings("SEEN") })
}

fn map_fd(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::ProgramArray(data)
        | Map::SockMap(data) => Some(data.fd().as_fd()),
        _ => None,
    }
}

fn clone(fd: BorrowedFd<'_>) -> Result<OwnedFd, KernelError> {
    fd.try_clone_to_owned().map_err(|e| KernelError::system("cannot copy a descriptor", e))
}

fn load_error(what: &str, error: &dyn std::error::Error) -> KernelError {
    let mut text = error.to_string();
    let mut refused = false;
    let mut cause = error.source();
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            refused |= matches!(io.raw_os_error(), Some(libc::EPERM));
        }
        text = format!("{text}: {e}");
        cause = e.source();
    }
    if refused {
        return KernelError::system(
            format!("cannot load {what} into the kernel"),
            io::Error::from_raw_os_error(libc::EPERM),
        );
    }
    KernelError::Unsupported(format!("cannot load {what} into the kernel: {text}"))
}

fn attach_error(interface: &str, mode: &str, error: io::Error) -> KernelError {
    let what = format!("cannot attach XDP to {interface} in {mode} mode");
    if is_occupied(&error) {
        return KernelError::Invalid(format!(
            "{what}: another XDP program is attached; `ip link show {interface}` names it, `ip link set {interface} xdp off` \
             takes it down"
        ));
    }
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => KernelError::system(what, error),
        _ if mode == "driver" => KernelError::Unsupported(format!(
            "{what}: {}; use --xdp-mode generic (slower), or a NIC whose driver has native XDP",
            driver_reason(&error)
        )),
        _ => KernelError::system(what, error),
    }
}

fn is_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn driver_reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(libc::ERANGE) => "the MTU is too large for the driver's XDP".to_owned(),
        _ => error.to_string(),
    }
}

/// What a machine sends to others from, and how much at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// One of each family at most.
    pub own: Vec<IpAddr>,
    /// Bytes of the longest packet that all the interfaces take.
    pub mtu: u32,
}

/// What [`Kernel::load`] would find with these interfaces and addresses.
pub fn reach(interfaces: &[String], own_addresses: &[IpAddr]) -> Result<Reach, KernelError> {
    let interfaces: Vec<Interface> = interfaces.iter().map(|name| Interface::find(name)).collect::<Result<_, _>>()?;
    let options = Options { own_addresses: own_addresses.to_vec(), ..Options::default() };
    let own = own_addresses_of(&options, &interfaces, &mut Vec::new())?;
    Ok(Reach { own, mtu: interfaces.iter().map(|interface| interface.mtu).min().unwrap_or(MTU_MAX).min(MTU_MAX) })
}

fn own_addresses_of(
    options: &Options,
    interfaces: &[Interface],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<IpAddr>, KernelError> {
    for v4 in [true, false] {
        let family: Vec<&IpAddr> = options.own_addresses.iter().filter(|a| a.is_ipv4() == v4).collect();
        if family.len() > 1 {
            return Err(KernelError::Invalid(format!(
                "--advertise-address {}, {}: at most one address of each family is accepted",
                family[0], family[1]
            )));
        }
    }
    if !options.own_addresses.is_empty() {
        return Ok(options.own_addresses.clone());
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for address in interfaces.iter().flat_map(Interface::addresses) {
        if !found.iter().any(|f| f.is_ipv4() == address.is_ipv4()) {
            found.push(address);
        }
    }
    if found.is_empty()
        && let Some(first) = interfaces.first()
    {
        warnings.push(Warning(format!(
            "{}: has no address other edges could reach this machine at, so nothing can be passed between them; give it one, \
             or say --advertise-address",
            first.name
        )));
    }
    Ok(found)
}

/// The link pinned there, if it is one, and still holds the interface asked for.
fn existing_link(pin: &Path, interface: Option<u32>) -> Option<OwnedFd> {
    let link = sys::open_pinned(pin).ok()?;
    let holds = sys::link_interface(link.as_fd()).ok()?;
    match interface {
        Some(index) => (holds == index).then_some(link),
        // The inode of the namespace; of another one, or none once it is gone, the link is no use.
        None => {
            use std::os::unix::fs::MetadataExt;
            let here = fs::metadata("/proc/thread-self/ns/net").ok()?.ino();
            (holds as u64 == here).then_some(link)
        }
    }
}

/// Detaches the links pinned in the directory, but for those of these names.
fn detach_pinned(dir: &Path, stays: &dyn Fn(&str) -> bool) -> Result<(), KernelError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_link = name == SK_LOOKUP_PIN || XDP_PINS.iter().any(|mode| name.starts_with(mode));
        if !is_link || stays(&name) {
            continue;
        }
        let failed = |e| KernelError::system(format!("cannot take down {}", entry.path().display()), e);
        if let Ok(link) = sys::open_pinned(&entry.path()) {
            match sys::link_detach(link.as_fd()) {
                Ok(()) => {}
                // The interface or namespace is gone, and the link with it.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL | libc::ENOENT)) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        fs::remove_file(entry.path()).map_err(failed)?;
    }
    Ok(())
}

fn prepare_pin_dir(dir: &Path) -> Result<(), KernelError> {
    let failed = |e| {
        KernelError::system(
            format!("cannot make the directory {} for maps and links that outlive the process", dir.display()),
            e,
        )
    };
    if let Ok(root) = dir.strip_prefix(BPFFS)
        && !root.as_os_str().is_empty()
        && !is_bpffs(Path::new(BPFFS))
    {
        mount_bpffs().map_err(|e| KernelError::system(format!("cannot mount a bpf file system at {BPFFS}"), e))?;
    }
    fs::create_dir_all(dir).map_err(failed)?;
    if !is_bpffs(dir) {
        return Err(KernelError::Invalid(format!(
            "{}: not in a bpf file system, so nothing can be pinned there; use a directory below {BPFFS}",
            dir.display()
        )));
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeros is a valid statfs; the path lives through the call.
    unsafe {
        let mut facts: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &mut facts) == 0 && facts.f_type as i64 == BPF_FS_MAGIC
    }
}

fn mount_bpffs() -> io::Result<()> {
    fs::create_dir_all(BPFFS)?;
    let target = CString::new(BPFFS)?;
    // SAFETY: C strings that live through the call; no data.
    let result = unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// CPUs that can ever be, so that every CPU a program may run on has a block of counters.
fn possible_cpus() -> u32 {
    fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|text| text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok()))
        .map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32), |last| last + 1)
}

pub(crate) const WITHOUT_CAPTURE: &str =
    "packets cannot be captured: this kernel does not take the program for that; all else works as it does elsewhere";
const WITHOUT_COOKIES: &str = "limits.synCookies of virtual IPs have no effect: Linux 6.0 lets programs make SYN cookies; the kernel makes its own when a queue is full";
/// By mode: driver, generic. Behind it stands the interface's name.
const XDP_PINS: [&str; 2] = ["link-xdp-", "generic-xdp-"];
const GENERIC: usize = 1;
const SK_LOOKUP_PIN: &str = "link-sk-lookup";
const BPFFS: &str = "/sys/fs/bpf";
const PIN_ROOT: &str = "/sys/fs/bpf/weir";
const MAPS: &[&str] = &[
    "CONFIG",
    "VIPS",
    "VIP_SEEDS",
    "VIP_PLACES",
    "VIP_PREFIXES",
    "SENDERS",
    "FRAGMENTS",
    "ROADS",
    "PART",
    // Shared by programs of this process and an earlier one while one takes over, as PART is.
    "CAPTURED",
    "SYN",
    "DELIVERY",
    "FLOWS",
    "SLOTS",
    "MACHINES",
    "BEFORE",
    "LIMITS",
    "BUCKETS",
    "SOURCES",
    "ACCESS",
    "ACCESS_BLOCKS",
    "ACCESS_PREFIXES",
    "BANS",
    "WAYS",
    "COUNTERS",
    "STEERED",
    "LISTENERS",
    "LISTENER_RANGES",
    "SOCKETS",
    "GROUPS",
    "WORKER_OF_CPU",
];
const PROGRAMS: &[(&str, Hook)] = &[
    ("xdp_steer", Hook::XdpSteer),
    ("xdp_general", Hook::XdpGeneral),
    ("xdp_fragment", Hook::XdpFragment),
    ("xdp_capture", Hook::XdpCapture),
    ("xdp_syn", Hook::XdpSyn),
    ("xdp_backend", Hook::XdpBackend),
    ("xdp_deliver", Hook::XdpDeliver),
    ("pick_listener", Hook::SkLookup),
    ("pick_worker", Hook::SkReuseport),
];
