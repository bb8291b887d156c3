//! bpf(2), as far as aya does not reach: batches, links, pins, program facts, test runs. Each call is one function; whatever
//! the kernel says comes back as `io::Error`.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use abi::{
    AccessKey, Address, Before, Config, Counter, FragmentKey, FragmentWay, GroupKey, GroupValue, Limit, ListenerKey,
    ListenerRanges, Machine, Slot, VipAddress, VipAt, VipKey, VipPlace, WayKey,
};

/// A type whose bytes may be handed to the kernel and taken from it.
///
/// # Safety
/// No padding, no pointers, and every bit pattern is a value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($t:ty),*) => {
        $(
            // SAFETY: integers and arrays of integers, as long together as the whole: `abi` asserts it and has names for what is left.
            unsafe impl Plain for $t {}
        )*
    };
}

plain!(
    u32,
    abi::SenderKey,
    abi::Capture,
    u64,
    abi::access::AccessBlock,
    AccessKey,
    Address,
    Before,
    Config,
    Counter,
    FragmentKey,
    FragmentWay,
    GroupKey,
    GroupValue,
    Limit,
    ListenerKey,
    ListenerRanges,
    Machine,
    Slot,
    VipAddress,
    VipAt,
    VipKey,
    VipPlace,
    WayKey
);

/// What `BPF_PROG_TEST_RUN` reports.
#[derive(Clone, Debug)]
pub struct TestRun {
    /// The program's return value: for XDP the action.
    pub verdict: u32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// Mean time of a run, measured by the kernel.
    pub ns: u32,
}

/// Runs a program on a packet. With `repeat` above 1 the packet is not restored between the runs.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
    let mut out = vec![0u8; packet.len() + 512];
    let mut attr = TestRunAttr {
        program: program.as_raw_fd() as u32,
        size_in: packet.len() as u32,
        size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    // SAFETY: both buffers live through the call and have the lengths given.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    out.truncate(attr.size_out as usize);
    Ok(TestRun { verdict: attr.retval, packet: out, ns: attr.duration })
}

/// Sends a frame through a program as if it had come in by the interface, of the calling thread's network namespace, and does with it
/// what the program says (kernel 5.18 and later).
pub(crate) fn put_on_the_road(program: BorrowedFd<'_>, frame: &[u8], interface: u32) -> io::Result<()> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, interface, 0, 0];
    let mut attr = TestRunAttr {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        context_size_in: size_of_val(&context) as u32,
        context_in: context.as_ptr() as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: 1,
        ..TestRunAttr::default()
    };
    // SAFETY: frame and context live through the call and have the lengths given; nothing is written back.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }.map(drop)
}

/// An XDP program of these instructions.
pub(crate) fn load_xdp(code: &[u64]) -> io::Result<OwnedFd> {
    let mut attr = ProgramAttr {
        kind: BPF_PROG_TYPE_XDP,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: code and license live through the call; the length is right.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Lets this process lock as much memory as it asks for, where it may say so.
pub(crate) fn lock_any_memory() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

/// A program of two instructions: `return XDP_PASS`.
pub(crate) fn load_passing_xdp() -> io::Result<OwnedFd> {
    const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    load_xdp(&PASS)
}

/// A loaded program by its number.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // The number, the next one, and flags.
    let mut attr = [id, 0, 0, 0];
    // SAFETY: the attributes of this command, which live through the call.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Facts about a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFacts {
    pub id: u32,
    pub name: String,
    /// Bytes of BPF instructions after the verifier's rewriting.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// Instructions the verifier examined.
    pub verified_instructions: u32,
}

pub fn program_facts(program: BorrowedFd<'_>) -> io::Result<ProgramFacts> {
    let info: ProgramInfo = object_info(program)?;
    let end = info.name.iter().position(|&b| b == 0).unwrap_or(info.name.len());
    Ok(ProgramFacts {
        id: info.id,
        name: String::from_utf8_lossy(&info.name[..end]).into_owned(),
        translated_bytes: info.xlated_len,
        jited_bytes: info.jited_len,
        verified_instructions: info.verified_insns,
    })
}

/// Maximum number of entries, key size and value size of a map.
pub fn map_sizes(map: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    let info: MapInfo = object_info(map)?;
    Ok((info.max_entries, info.key_size, info.value_size))
}

/// Program a link runs.
pub fn link_program_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    let info: LinkInfo = object_info(link)?;
    Ok(info.program)
}

/// Interface of an XDP link; 0 once the interface is gone.
pub fn link_interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    let info: LinkInfo = object_info(link)?;
    Ok(info.detail[0])
}

fn object_info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoAttr { fd: fd.as_raw_fd() as u32, len: size_of::<T>() as u32, info: &raw mut info as u64 };
    // SAFETY: `info` lives through the call and has the length given; the kernel fills as much as it knows.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Attaches a program to an interface (XDP) or a network namespace (sk_lookup).
pub fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr =
        LinkCreateAttr { program: program.as_raw_fd() as u32, target, attach_type, flags, ..LinkCreateAttr::default() };
    // SAFETY: no pointers.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Puts another program into a link, between two packets.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        ..LinkUpdateAttr::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link's program down, whoever else holds the link.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [link.as_raw_fd() as u32, 0];
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Gives an object a name in a BPF file system, which keeps it alive.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the path lives through the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path lives through the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = ElementAttr {
        map: map.as_raw_fd() as u32,
        key: key as *const K as u64,
        value: value as *const V as u64,
        ..ElementAttr::default()
    };
    // SAFETY: key and value are plain, live through the call, and have the sizes of the map (checked when it was opened).
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

pub fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    // SAFETY: a plain type may be all zeros.
    let mut value: V = unsafe { zeroed() };
    let mut attr = ElementAttr {
        map: map.as_raw_fd() as u32,
        key: key as *const K as u64,
        value: &raw mut value as u64,
        ..ElementAttr::default()
    };
    // SAFETY: as in `map_update`; the kernel fills `value`.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// True when there was such an entry.
pub fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = ElementAttr { map: map.as_raw_fd() as u32, key: key as *const K as u64, ..ElementAttr::default() };
    // SAFETY: as in `map_update`.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// All keys of a hash map.
pub fn map_keys<K: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    loop {
        // SAFETY: a plain type may be all zeros.
        let mut next: K = unsafe { zeroed() };
        let mut attr = ElementAttr {
            map: map.as_raw_fd() as u32,
            key: keys.last().map_or(0, |k| k as *const K as u64),
            value: &raw mut next as u64,
            ..ElementAttr::default()
        };
        // SAFETY: as in `map_update`; the kernel writes the following key where `value` points.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => keys.push(next),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(e) => return Err(e),
        }
    }
}

/// All entries of a hash map. Others may write it meanwhile: what is there from beginning to end is found, and this ends.
pub fn map_entries<K: Plain, V: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    // No list of one hash is nearly as long.
    const AT_ONCE: usize = 4_096;
    let mut found = Vec::new();
    // SAFETY: plain types may be all zeros.
    let mut keys: Vec<K> = (0..AT_ONCE).map(|_| unsafe { zeroed() }).collect();
    // SAFETY: as above.
    let mut values: Vec<V> = (0..AT_ONCE).map(|_| unsafe { zeroed() }).collect();
    let (mut from, mut next, mut is_first) = (0u64, 0u64, true);
    loop {
        let mut attr = BatchAttr {
            in_batch: if is_first { 0 } else { &raw const from as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: as in `map_update`; the kernel writes at most `count` keys and values, and where it stopped.
        let ended = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        found.extend(keys.iter().copied().zip(values.iter().copied()).take(attr.count as usize));
        if ended {
            return Ok(found);
        }
        (from, is_first) = (next, false);
    }
}

/// Writes many entries of a map in one call.
pub fn map_update_batch<K: Plain, V: Plain>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: as in `map_update`, `count` times.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Waits until every program that was running when this was called has returned (an RCU grace period). Where nobody may ask for that (a
/// sandbox, CPUs without a tick, a kernel built without it), that is waited out.
pub fn wait_for_readers() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } < 0 {
        std::thread::sleep(READERS_GONE);
    }
}

/// Far longer than a program runs for a packet: after it there is no need to ask.
pub const READERS_GONE: std::time::Duration = std::time::Duration::from_millis(100);

/// # Safety
/// `T` is the kernel's layout for the command, and its pointers are valid for what the command does with them.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the size tells the kernel how much of its attributes is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) const ATTACH_SK_LOOKUP: u32 = 36;
pub(crate) const ATTACH_XDP: u32 = 37;
pub(crate) const XDP_GENERIC: u32 = 1 << 1;
pub(crate) const XDP_DRIVER: u32 = 1 << 2;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

// The members of the kernel's `union bpf_attr` that the commands above use; every field is written, so none is stale.

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramAttr {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    program: u32,
    retval: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 6],
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
    interface: u32,
    flags: u32,
    netns_dev: u64,
    netns_ino: u64,
    ksyms: u32,
    func_lens: u32,
    ksym_pointers: u64,
    func_len_pointers: u64,
    btf: u32,
    func_info_record: u32,
    func_info: u64,
    func_infos: u32,
    line_infos: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_line_infos: u32,
    line_info_record: u32,
    jited_line_info_record: u32,
    tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_insns: u32,
    attach_btf_obj: u32,
    attach_btf: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    detail: [u32; 8],
}
