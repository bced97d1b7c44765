//! The ceiling to measure against: an XDP program of two instructions.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _},
    time::Duration,
};

const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const PROG_TYPE_XDP: u32 = 6;
const XDP_DROP: u32 = 1;

/// An XDP program that drops everything.
pub struct BareDrop(File);

/// The start of `union bpf_attr` for the two commands used here.
#[repr(C, align(8))]
struct Attributes([u32; 32]);

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are as long as is said, and the pointers in them outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<Attributes>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).unwrap_or(-1))
}

fn halves<T>(pointer: *const T) -> [u32; 2] {
    let address = (pointer as u64).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = address;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

impl BareDrop {
    /// Loads it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load() -> io::Result<Self> {
        // r0 = XDP_DROP; exit.
        let instructions: [u64; 2] = [0xb7 | (u64::from(XDP_DROP) << 32), 0x95];
        let license = c"GPL";
        let mut attributes = Attributes([0; 32]);
        attributes.0[..2].copy_from_slice(&[PROG_TYPE_XDP, 2]);
        attributes.0[2..4].copy_from_slice(&halves(instructions.as_ptr()));
        attributes.0[4..6].copy_from_slice(&halves(license.as_ptr()));
        let descriptor = bpf(PROG_LOAD, &mut attributes)?;
        // SAFETY: the kernel has just given this descriptor, and nobody else has it.
        Ok(Self(unsafe { File::from_raw_fd(descriptor) }))
    }

    /// Average time for one packet over this many runs.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn time(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let descriptor = u32::try_from(self.0.as_raw_fd()).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let mut attributes = Attributes([0; 32]);
        attributes.0[0] = descriptor;
        attributes.0[2] = length;
        attributes.0[4..6].copy_from_slice(&halves(frame.as_ptr()));
        attributes.0[8] = repeat;
        bpf(PROG_TEST_RUN, &mut attributes)?;
        Ok(Duration::from_nanos(attributes.0[9].into()))
    }
}
