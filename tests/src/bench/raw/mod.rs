//! Programs of a few instructions and the bpf(2) calls that measuring needs: what aya does only
//! for programs that come out of an object file.

mod program;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

pub use program::{Before, Clock, Entry, LookUp, Pace, Scatter, Tiny};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Frames that go out together.
const LIVE_BATCH: u32 = 64;

/// `union bpf_attr`, large enough for the calls here, by its 32-bit words.
type Attributes = [u32; 32];

fn put_u64(attributes: &mut Attributes, at: usize, value: u64) {
    let bytes = value.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    attributes[at] = u32::from_ne_bytes([a, b, c, d]);
    attributes[at + 1] = u32::from_ne_bytes([e, f, g, h]);
}

fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the block is zeroed beyond what the caller set, and the buffers it points to live
    // in the caller until after the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: libc::c_long) -> OwnedFd {
    // SAFETY: the call before has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
}

/// Loads a small program.
///
/// # Errors
/// When the kernel refuses it.
pub fn load(program: Tiny) -> io::Result<OwnedFd> {
    load_code(&program::code(program))
}

fn load_code(code: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = BPF_PROG_TYPE_XDP;
    attributes[1] = code.len() as u32;
    put_u64(&mut attributes, 2, code.as_ptr() as u64);
    put_u64(&mut attributes, 4, c"GPL".as_ptr() as u64);
    attributes[11] = BPF_F_XDP_HAS_FRAGS;
    attributes[17] = BPF_XDP;
    bpf(BPF_PROG_LOAD, &mut attributes).map(owned)
}

/// Kinds of maps that are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// A hash that takes memory as it grows.
    Hash = 1,
    /// An array.
    Array = 2,
    /// Programs to go on with.
    Programs = 3,
    /// A trie of prefixes.
    Trie = 11,
}

/// Makes a map.
///
/// # Errors
/// When the kernel refuses it.
pub fn create_map(kind: MapKind, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = kind as u32;
    attributes[1] = key;
    attributes[2] = value;
    attributes[3] = entries;
    // BPF_F_NO_PREALLOC
    attributes[4] = u32::from(matches!(kind, MapKind::Hash | MapKind::Trie));
    bpf(BPF_MAP_CREATE, &mut attributes).map(owned)
}

/// Writes an entry. Key and value have the sizes the map was made with.
///
/// # Errors
/// When the kernel refuses it.
pub fn update_map(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = map.as_raw_fd() as u32;
    put_u64(&mut attributes, 2, key.as_ptr() as u64);
    put_u64(&mut attributes, 4, value.as_ptr() as u64);
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

impl Clock {
    /// An array of one, in which nothing has been sent yet.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn create() -> io::Result<OwnedFd> {
        create_map(MapKind::Array, 4, size_of::<Self>() as u32, 1)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn read(map: BorrowedFd<'_>) -> io::Result<Self> {
        let (key, mut words) = ([0_u8; 4], [0_u64; 3]);
        let mut attributes = Attributes::default();
        attributes[0] = map.as_raw_fd() as u32;
        put_u64(&mut attributes, 2, key.as_ptr() as u64);
        put_u64(&mut attributes, 4, words.as_mut_ptr() as u64);
        bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes)?;
        let [due, first, last] = words;
        Ok(Self { due, first, last })
    }
}

/// A program that makes a source up and goes on with `next`; what it needs besides.
///
/// # Errors
/// When the kernel refuses it.
pub fn scattered(next: BorrowedFd<'_>, sources: Scatter) -> io::Result<(OwnedFd, OwnedFd)> {
    let programs = only_program(next)?;
    let program = load(Tiny::Scatter(Scatter { programs: programs.as_raw_fd(), ..sources }))?;
    Ok((program, programs))
}

/// A program that sends an IPv4 UDP packet to any of so many ports, every second from the first on, and
/// goes on with `next`; what it needs besides.
///
/// # Errors
/// When the kernel refuses it.
pub fn spread(next: BorrowedFd<'_>, ports: (u16, u16)) -> io::Result<(OwnedFd, OwnedFd)> {
    let programs = only_program(next)?;
    let program = load_code(&program::spreading(ports, programs.as_raw_fd()))?;
    Ok((program, programs))
}

/// A program that puts things right and goes on with `next`; what it needs besides.
///
/// # Errors
/// When the kernel refuses it.
pub fn restoring(next: BorrowedFd<'_>, before: Before<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let programs = only_program(next)?;
    let program = load_code(&program::restoring(before, programs.as_raw_fd()))?;
    Ok((program, programs))
}

fn only_program(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let programs = create_map(MapKind::Programs, 4, 4, 1)?;
    let program = program.as_raw_fd().to_ne_bytes();
    update_map(std::os::fd::AsFd::as_fd(&programs), &[0; 4], &program)?;
    Ok(programs)
}

/// Attaches a program to a device of this namespace, in the driver, as long as the link lives.
///
/// # Errors
/// When the kernel refuses it.
pub fn attach(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = program.as_raw_fd() as u32;
    attributes[1] = ifindex;
    attributes[2] = BPF_XDP;
    attributes[3] = XDP_FLAGS_DRV_MODE;
    bpf(BPF_LINK_CREATE, &mut attributes).map(owned)
}

/// Pins a link (or a program) at a path on a bpffs.
///
/// # Errors
/// When the kernel refuses it.
pub fn pin(object: &OwnedFd, path: &std::path::Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = Attributes::default();
    put_u64(&mut attributes, 0, path.as_ptr() as u64);
    attributes[2] = object.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Opens a loaded program.
///
/// # Errors
/// When there is none with this id.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = id;
    bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes).map(owned)
}

/// Runs a program over one frame that came in on `ifindex` of this namespace, or on its loopback
/// when that is `None`. Gives the average time of one run.
///
/// # Errors
/// When the kernel refuses it.
pub fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: Option<u32>,
    repeat: u32,
) -> io::Result<Duration> {
    test_run(program, frame, ifindex, repeat, None)
}

/// Sends `count` real frames out of the device `ifindex` of this namespace by a program that
/// transmits. Gives the time of the whole call, of which some 25 ms are its beginning and end,
/// however few the frames are: the kernel waits there for all processors.
///
/// # Errors
/// When the kernel refuses it.
pub fn send(
    generator: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    count: u32,
) -> io::Result<Duration> {
    send_in_batches(generator, frame, ifindex, count, LIVE_BATCH)
}

/// The same, so many frames together.
///
/// # Errors
/// When the kernel refuses it.
pub fn send_in_batches(
    generator: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    count: u32,
    batch: u32,
) -> io::Result<Duration> {
    let began = Instant::now();
    test_run(generator, frame, Some(ifindex), count, Some(batch))?;
    Ok(began.elapsed())
}

fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: Option<u32>,
    repeat: u32,
    live_batch: Option<u32>,
) -> io::Result<Duration> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, frame.len() as u32, 0, ifindex.unwrap_or(0), 0, 0];
    let mut attributes = Attributes::default();
    attributes[0] = program.as_raw_fd() as u32;
    attributes[2] = frame.len() as u32;
    put_u64(&mut attributes, 4, frame.as_ptr() as u64);
    attributes[8] = repeat;
    if ifindex.is_some() {
        attributes[10] = size_of_val(&context) as u32;
        put_u64(&mut attributes, 12, context.as_ptr() as u64);
    }
    if let Some(batch) = live_batch {
        attributes[16] = BPF_F_TEST_XDP_LIVE_FRAMES;
        attributes[18] = batch;
    }
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    Ok(Duration::from_nanos(u64::from(attributes[9])))
}

/// Keeps this thread on one CPU, so that sending and receiving share it in every measurement, and
/// ahead of what else runs on the machine.
pub fn stay_on_one_cpu() {
    // SAFETY: the set is plain data, initialised before it is handed over; a failure only makes
    // the figures less steady.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
}

/// Ends [`stay_on_one_cpu`]: this thread, and those it begins, run where there is room.
pub fn leave_the_cpu() {
    // SAFETY: the set is plain data; the kernel keeps of it what there is. A failure only makes the
    // figures less steady.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in 0..libc::CPU_SETSIZE as usize {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
    }
}
