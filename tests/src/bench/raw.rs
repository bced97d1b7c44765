//! Programs of a few instructions and the bpf(2) calls that measuring needs: what aya does only
//! for programs that come out of an object file.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// A program of a few instructions.
#[derive(Clone, Copy, Debug)]
pub enum Tiny {
    /// Drops everything: the ceiling.
    Drop,
    /// Passes everything.
    Pass,
    /// Reads the headers of an IPv4 UDP packet down to the ports, then passes.
    Parse,
    /// Sends everything back out: the generator.
    Transmit,
}

/// opcode, destination and source register, offset, immediate.
type Instruction = (u8, u8, u8, i16, i32);

const MOV_IMM: u8 = 0xb7;
const MOV: u8 = 0xbf;
const ADD_IMM: u8 = 0x07;
const ADD: u8 = 0x0f;
const AND_IMM: u8 = 0x57;
const SHIFT_LEFT_IMM: u8 = 0x67;
const LOAD8: u8 = 0x71;
const LOAD16: u8 = 0x69;
const LOAD32: u8 = 0x61;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_NOT_EQUAL_IMM: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instructions(program: Tiny) -> Vec<Instruction> {
    let answer = |code| vec![(MOV_IMM, 0, 0, 0, code), (EXIT, 0, 0, 0, 0)];
    match program {
        Tiny::Drop => answer(XDP_DROP),
        Tiny::Pass => answer(XDP_PASS),
        Tiny::Transmit => answer(XDP_TX),
        Tiny::Parse => vec![
            (MOV_IMM, 0, 0, 0, XDP_DROP),
            (LOAD32, 2, 1, 0, 0),                 // r2 = data
            (LOAD32, 3, 1, 4, 0),                 // r3 = data_end
            (MOV, 4, 2, 0, 0),                    // Ethernet and IPv4 in bounds?
            (ADD_IMM, 4, 0, 0, 34),               //
            (JUMP_GREATER, 4, 3, 15, 0),          // to the exit
            (LOAD16, 5, 2, 12, 0),                // EtherType
            (JUMP_NOT_EQUAL_IMM, 5, 0, 13, 0x08), // IPv4 (little-endian load)
            (LOAD8, 5, 2, 23, 0),                 // protocol
            (JUMP_NOT_EQUAL_IMM, 5, 0, 11, 17),   // UDP
            (LOAD8, 5, 2, 14, 0),                 // header length
            (AND_IMM, 5, 0, 0, 0x0f),             //
            (SHIFT_LEFT_IMM, 5, 0, 0, 2),         //
            (MOV, 4, 2, 0, 0),                    // the UDP header in bounds?
            (ADD, 4, 5, 0, 0),                    //
            (MOV, 2, 4, 0, 0),                    //
            (ADD_IMM, 4, 0, 0, 22),               //
            (JUMP_GREATER, 4, 3, 3, 0),           // to the exit
            (LOAD16, 5, 2, 16, 0),                // destination port
            (LOAD16, 5, 2, 14, 0),                // source port
            (MOV_IMM, 0, 0, 0, XDP_PASS),
            (EXIT, 0, 0, 0, 0),
        ],
    }
}

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
    let code: Vec<u64> = instructions(program)
        .into_iter()
        .map(|(opcode, to, from, offset, immediate)| {
            u64::from(opcode)
                | u64::from(to | (from << 4)) << 8
                | u64::from(offset as u16) << 16
                | u64::from(immediate as u32) << 32
        })
        .collect();
    let mut attributes = Attributes::default();
    attributes[0] = BPF_PROG_TYPE_XDP;
    attributes[1] = code.len() as u32;
    put_u64(&mut attributes, 2, code.as_ptr() as u64);
    put_u64(&mut attributes, 4, c"GPL".as_ptr() as u64);
    attributes[17] = BPF_XDP;
    bpf(BPF_PROG_LOAD, &mut attributes).map(owned)
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

/// Runs a program over one frame that came in on `ifindex` of this namespace. With `live`, the
/// frames are real: what the program says happens to them. Gives the average time of one run.
///
/// # Errors
/// When the kernel refuses it.
pub fn run(
    program: &OwnedFd,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
    live: bool,
) -> io::Result<Duration> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut attributes = Attributes::default();
    attributes[0] = program.as_raw_fd() as u32;
    attributes[2] = frame.len() as u32;
    put_u64(&mut attributes, 4, frame.as_ptr() as u64);
    attributes[8] = repeat;
    attributes[10] = size_of_val(&context) as u32;
    put_u64(&mut attributes, 12, context.as_ptr() as u64);
    if live {
        attributes[16] = BPF_F_TEST_XDP_LIVE_FRAMES;
        attributes[18] = 64;
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
