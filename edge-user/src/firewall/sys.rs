//! System calls that neither aya nor rustix has: link information, XDP state of a device, VLAN
//! offload, the file system of the pins. Each `unsafe` is one call with its reason.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};

use super::{AttachMode, FirewallError, blocks::Moment};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Both clocks now.
pub(super) fn now() -> Moment {
    Moment { wall: SystemTime::now(), monotonic: Duration::from_nanos(monotonic_nanoseconds()) }
}

/// Nanoseconds since boot, as events are stamped.
pub(super) fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.unsigned_abs())
}

/// Index of a device in this network namespace.
pub(super) fn ifindex(device: &str) -> Option<u32> {
    let name = CString::new(device).ok()?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Name of the device with this index.
pub(super) fn device_name(ifindex: u32) -> Option<String> {
    let mut buffer = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call requires.
    let found = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&buffer).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// Hardware address of a device of this network namespace; zeros when it has none.
pub(super) fn hardware_address(device: &str) -> [u8; 6] {
    let mut address = [0; 6];
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` is a place for the list's head; the list is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return address;
    }
    let mut next = first;
    // SAFETY: the list comes from getifaddrs, is walked to its null end and not yet freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if entry.ifa_name.is_null() || entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: both point to what lives as long as the list: a NUL-terminated string, and an
        // address that says its family.
        let (name, family) =
            unsafe { (std::ffi::CStr::from_ptr(entry.ifa_name), (*entry.ifa_addr).sa_family) };
        if i32::from(family) == libc::AF_PACKET && name.to_bytes() == device.as_bytes() {
            // SAFETY: an address of this family is a `sockaddr_ll`.
            let link = unsafe { entry.ifa_addr.cast::<libc::sockaddr_ll>().read_unaligned() };
            address.copy_from_slice(&link.sll_addr[..6]);
        }
    }
    // SAFETY: `first` came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(first) };
    address
}

/// Devices that are up and no loopback.
pub(super) fn devices_up() -> Vec<String> {
    devices_with(libc::IFF_UP)
}

/// Devices, up or not, but no loopback.
pub(super) fn devices() -> Vec<String> {
    devices_with(0)
}

fn devices_with(wanted: i32) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` is a place for the list's head; the list is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Vec::new();
    }
    let mut next = first;
    // SAFETY: the list comes from getifaddrs, is walked to its null end and not yet freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        let flags = entry.ifa_flags as i32;
        let is_wanted = flags & wanted == wanted && flags & libc::IFF_LOOPBACK == 0;
        if is_wanted && !entry.ifa_name.is_null() {
            // SAFETY: `ifa_name` is a NUL-terminated string that lives as long as the list.
            let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
            names.insert(name.to_string_lossy().into_owned());
        }
        next = entry.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(first) };
    names.into_iter().collect()
}

/// Makes sure that the pin folder is on a bpffs, mounting one when that is safe to guess.
pub(super) fn prepare_pins(pins: &Path) -> Result<(), FirewallError> {
    let mut existing: PathBuf = pins.to_owned();
    while !existing.exists() && existing.pop() {}
    if !on_bpffs(&existing) && pins.starts_with("/sys/fs/bpf") && Path::new("/sys/fs/bpf").exists()
    {
        use rustix::mount::{MountFlags, mount};
        let none: Option<&std::ffi::CStr> = None;
        mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), none).map_err(|fault| {
            FirewallError::io("mounting a BPF file system on /sys/fs/bpf", fault.into())
        })?;
    }
    std::fs::create_dir_all(pins)
        .map_err(|fault| FirewallError::io(pins.display().to_string(), fault))?;
    if on_bpffs(pins) { Ok(()) } else { Err(FirewallError::NoBpffs { path: pins.to_owned() }) }
}

fn on_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| i64::from(found.f_type as u32) == BPF_FS_MAGIC)
}

/// Takes the lock on the pin folder itself, so that it means the same for everybody. `None`:
/// somebody else has it. Tries for a moment, since [`is_locked`] holds it for an instant.
pub(super) fn lock(pins: &Path) -> Result<Option<File>, FirewallError> {
    for _ in 0..20 {
        if let Some(lock) = try_lock(pins, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(None)
}

/// Whether a daemon has the lock.
pub(super) fn is_locked(pins: &Path) -> Result<bool, FirewallError> {
    let Some(ours) = try_lock(pins, FlockOperation::NonBlockingLockShared)? else {
        return Ok(true);
    };
    // Not by closing it: a child that starts at this moment has a copy, and the lock with it.
    let _ = flock(&ours, FlockOperation::Unlock);
    Ok(false)
}

fn try_lock(pins: &Path, operation: FlockOperation) -> Result<Option<File>, FirewallError> {
    let fault = |fault| FirewallError::io(pins.display().to_string(), fault);
    let folder = File::open(pins).map_err(fault)?;
    match flock(&folder, operation) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(fault(errno.into())),
    }
}

/// What the kernel says about a pinned link.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkFacts {
    pub id: u32,
    pub program_id: u32,
    /// 0: the device is gone.
    pub ifindex: u32,
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 16]) -> io::Result<libc::c_long> {
    // SAFETY: the attribute block is zeroed beyond what is set, longer than any union member
    // that is used here, and pointers in it outlive the call (see the callers).
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Two `u32` fields that stand one after the other.
fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (u64::from(first), u64::from(second));
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

/// Runs a program once on `data` with this context; what becomes of the data goes into `out`.
/// Gives the program's return value. aya has the call, but no way to a loaded program with it.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    data: &[u8],
    out: &mut [u8],
    context: &[u8],
) -> io::Result<u32> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    // prog_fd, retval; data_size_in, data_size_out; data_in; data_out; repeat, duration;
    // ctx_size_in, ctx_size_out; ctx_in.
    let mut attributes = [0u64; 16];
    attributes[0] = pair(program.as_raw_fd() as u32, 0);
    attributes[1] = pair(length(data.len()), length(out.len()));
    attributes[2] = data.as_ptr() as u64;
    attributes[3] = out.as_mut_ptr() as u64;
    attributes[4] = pair(1, 0);
    attributes[5] = pair(length(context.len()), 0);
    attributes[6] = context.as_ptr() as u64;
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    let answer = attributes[0];
    let second = if cfg!(target_endian = "little") { answer >> 32 } else { answer };
    Ok(second as u32)
}

/// A number of an array whose values aya does not read, such as the programs of a program array.
pub(super) fn lookup_number(map: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut value = 0u32;
    let mut attributes = [0u64; 16];
    attributes[0] = pair(map.as_raw_fd() as u32, 0);
    attributes[1] = &raw const index as u64;
    attributes[2] = &raw mut value as u64;
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) {
        Ok(_) => Ok(Some(value)),
        Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The key after this one; of a key that is not in the map, the map's first. `None`: there is no
/// key after it, or none at all. `next` is as long as the map's keys.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attributes = [0u64; 16];
    attributes[0] = pair(map.as_raw_fd() as u32, 0);
    attributes[1] = key.map_or(0, |key| key.as_ptr() as u64);
    attributes[2] = next.as_mut_ptr() as u64;
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(_) => Ok(true),
        Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// The first values of an array map, in a few calls. aya has no batch calls (kernel 5.6).
pub(super) fn array_values<V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    slots: u32,
) -> io::Result<Vec<V>> {
    let mut keys = vec![0u32; slots as usize];
    let mut values = vec![V::default(); slots as usize];
    let (mut cursor, mut done) = (0u32, 0usize);
    while done < values.len() {
        // in_batch, out_batch, keys, values, then count and map_fd (u32 each).
        let mut attributes = [0u64; 16];
        let into = &raw mut cursor as u64;
        attributes[0] = if done == 0 { 0 } else { into };
        attributes[1] = into;
        attributes[2] = keys[done..].as_mut_ptr() as u64;
        attributes[3] = values[done..].as_mut_ptr() as u64;
        let count = u32::try_from(values.len() - done).unwrap_or(u32::MAX);
        attributes[4] = pair(count, map.as_raw_fd() as u32);
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes);
        let copied = if cfg!(target_endian = "little") {
            attributes[4] & u64::from(u32::MAX)
        } else {
            attributes[4] >> 32
        };
        done += copied as usize;
        match result {
            Ok(_) if copied > 0 => {}
            // The end of the map.
            Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) && done == values.len() => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(fault) => return Err(fault),
        }
    }
    if keys.iter().zip(0u32..).all(|(key, slot)| *key == slot) {
        Ok(values)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Opens a pinned object.
fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = [0u64; 16];
    attributes[0] = name.as_ptr() as u64;
    let fd = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the call has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether a program is pinned here, and not a link.
pub(super) fn is_program(path: &Path) -> io::Result<bool> {
    let pinned = open_pin(path)?;
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", pinned.as_raw_fd()))?;
    Ok(kind.to_string_lossy().contains("bpf-prog"))
}

/// Reads a pinned link. `struct bpf_link_info`: type, id, prog_id, padding, then the union; for
/// XDP and TCX its first field is the ifindex.
pub(super) fn link_facts(path: &Path) -> io::Result<LinkFacts> {
    let link = open_pin(path)?;
    let mut info = [0u32; 64];
    let mut attributes = [0u64; 16];
    // bpf_fd (u32) and info_len (u32), then the pointer.
    let fd = u64::from(link.as_raw_fd() as u32);
    let length = size_of_val(&info) as u64;
    attributes[0] =
        if cfg!(target_endian = "little") { fd | length << 32 } else { fd << 32 | length };
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(LinkFacts { id: info[1], program_id: info[2], ifindex: info[4] })
}

/// Takes what a pinned link holds off its device at once. A link that only loses its last holder
/// lets go a moment later, and whoever attaches until then meets it.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let link = open_pin(path)?;
    let mut attributes = [0u64; 16];
    attributes[0] = pair(link.as_raw_fd() as u32, 0);
    bpf(BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// The XDP program on a device, as rtnetlink tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct XdpState {
    pub mode: AttachMode,
    pub program_id: u32,
}

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;

/// Asks rtnetlink (RTM_GETLINK) for the XDP program of a device.
pub(super) fn xdp_state(ifindex: u32) -> io::Result<Option<XdpState>> {
    // SAFETY: plain system call; the descriptor is owned below.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // nlmsghdr (16 bytes) and ifinfomsg (16 bytes).
    let mut request = [0u8; 32];
    request[..4].copy_from_slice(&32u32.to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[20..24].copy_from_slice(&ifindex.to_ne_bytes());
    rustix::io::write(&socket, &request)?;
    let mut answer = vec![0u8; 32 * 1024];
    let length = rustix::io::read(&socket, &mut answer)?;
    let answer = answer.get(..length).unwrap_or_default();
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    if kind != Some(libc::RTM_NEWLINK) {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let nested = attribute(answer.get(32..).unwrap_or_default(), IFLA_XDP).unwrap_or_default();
    let mode = attribute(nested, IFLA_XDP_ATTACHED).and_then(|value| value.first().copied());
    let program_id = attribute(nested, IFLA_XDP_PROG_ID)
        .and_then(|value| Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?)));
    Ok(match (mode, program_id) {
        (Some(mode), Some(program_id)) if mode != 0 => Some(XdpState {
            mode: if mode == XDP_ATTACHED_SKB { AttachMode::Generic } else { AttachMode::Native },
            program_id,
        }),
        _ => None,
    })
}

/// Finds a netlink attribute; its type's two high bits are flags.
pub(super) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Turns VLAN receive offload off, so that XDP sees the tags, and makes sure of it.
pub(super) fn vlan_offload_off(device: &str) -> io::Result<()> {
    let flags = match ethtool(device, ETHTOOL_GFLAGS, 0) {
        Ok(flags) => flags,
        // A driver without ethtool calls has no such offload.
        Err(fault) if fault.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    if flags & ETH_FLAG_RXVLAN == 0 {
        return Ok(());
    }
    ethtool(device, ETHTOOL_SFLAGS, flags & !ETH_FLAG_RXVLAN)?;
    if ethtool(device, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0 {
        return Err(io::Error::other("it stays on"));
    }
    Ok(())
}

fn ethtool(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // struct ethtool_value.
    let mut value = [command, data];
    // SAFETY: all zeros is a value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request names a buffer of the size that these two commands use, and both
    // outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value[1]) }
}

/// A device's name as a file name on bpffs, which allows no dots.
pub(super) fn pin_name(device: &str) -> String {
    device.replace('%', "%25").replace('.', "%2e")
}

/// The device behind a file name.
pub(super) fn device_of_pin(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// Lets the stack take SYN cookies at any time (tcp(7), `tcp_syncookies` 2), as it must when the
/// driver sends them. For this network namespace; for IPv6 too.
pub(super) fn accept_syn_cookies() -> io::Result<()> {
    if std::fs::read_to_string(SYN_COOKIES)?.trim() == "2" {
        return Ok(());
    }
    std::fs::write(SYN_COOKIES, "2")
}

/// Does something on this CPU, if it may run there, else wherever it runs; gives the CPU.
pub(super) fn on_cpu<T>(cpu: Option<usize>, work: impl FnOnce() -> T) -> (usize, T) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
    let before = sched_getaffinity(None).ok();
    let mut only = CpuSet::new();
    let here = cpu.filter(|cpu| *cpu < CpuSet::MAX_CPU).unwrap_or_else(sched_getcpu);
    only.set(here);
    let moved = before.is_some() && sched_setaffinity(None, &only).is_ok();
    let cpu = if moved { here } else { sched_getcpu() };
    let done = work();
    if let Some(before) = before.filter(|_| moved) {
        // It was so before: it can be so again.
        let _ = sched_setaffinity(None, &before);
    }
    (cpu, done)
}

/// A number nobody can guess, never 0.
pub(super) fn random() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    // It fails only where the kernel has no random numbers; then the clock must do.
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => monotonic_nanoseconds().max(1),
    }
}

/// Memory of a map as the kernel accounts it, from the descriptor's `memlock` line; 0: unknown.
pub(super) fn map_bytes(fd: RawFd) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

/// Waits until a descriptor can be read, at most so long. An interrupted wait is no fault.
pub(super) fn wait_readable(fd: RawFd, milliseconds: i32) -> io::Result<()> {
    let mut ready = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which the caller keeps open during the call.
    if unsafe { libc::poll(&mut ready, 1, milliseconds) } < 0 {
        let fault = io::Error::last_os_error();
        if fault.kind() != io::ErrorKind::Interrupted {
            return Err(fault);
        }
    }
    Ok(())
}
