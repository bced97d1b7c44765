//! Chains of headers, as the parser asks for them: extension headers of IPv6 and options of IPv4.

use aya_ebpf::{bindings::xdp_md, helpers::bpf_xdp_get_buff_len};
use edge_ebpf::{
    packet::{Environment, Frame, Upper, extension_headers, options},
    verdict::Reason,
};

use crate::{context::frame_of, tables::KernelTables};

impl Environment for KernelTables {
    #[inline(always)]
    fn total_length(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }

    #[inline(always)]
    fn extension_headers(
        &self,
        _frame: &Frame<'_>,
        offset: usize,
        first: u8,
        length: usize,
    ) -> Result<Upper, Reason> {
        let answer = edge_extensions(self.context, offset as u32, u32::from(first), length as u32);
        if answer & REFUSED != 0 {
            return Err(match answer as u8 {
                number if number == Reason::Truncated as u8 => Reason::Truncated,
                number if number == Reason::Fragment as u8 => Reason::Fragment,
                number if number == Reason::ExtensionDepth as u8 => Reason::ExtensionDepth,
                _ => Reason::ExtensionHeader,
            });
        }
        Ok(Upper {
            protocol: (answer >> 32) as u8,
            fragment: answer >> 40 & 1 != 0,
            fragment_at: (answer >> 16 & 0xffff) as usize,
            skipped: (answer & 0xffff) as usize,
        })
    }

    #[inline(always)]
    fn options(&self, _frame: &Frame<'_>, offset: usize, length: usize) -> Result<(), Reason> {
        match edge_options(self.context, offset as u32, length as u32) as u8 {
            0 => Ok(()),
            number if number == Reason::SourceRoute as u8 => Err(Reason::SourceRoute),
            number if number == Reason::Truncated as u8 => Err(Reason::Truncated),
            _ => Err(Reason::IpHeader),
        }
    }
}

const REFUSED: u64 = 1 << 63;

/// The walk over IPv6 extension headers, proved once as [`edge_decide4`] is. Of the answer, bit 63
/// says refused and the low byte why; else bits 32 to 39 are the protocol, bit 40 says fragment
/// the low sixteen bits how many bytes the headers take, and the sixteen above them where the
/// fragment header begins.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_extensions(context: *mut xdp_md, offset: u32, first: u32, length: u32) -> u64 {
    match extension_headers(&frame_of(context), offset as usize, first as u8, length as usize) {
        Ok(Upper { protocol, fragment, fragment_at, skipped }) => {
            (u64::from(fragment) << 40)
                | (u64::from(protocol) << 32)
                | (fragment_at as u64 & 0xffff) << 16
                | skipped as u64 & 0xffff
        }
        Err(reason) => REFUSED | reason as u64,
    }
}

/// The walk over IPv4 options, proved once. 0, or the number of the reason to refuse them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_options(context: *mut xdp_md, offset: u32, length: u32) -> u64 {
    match options(&frame_of(context), offset as usize, length as usize) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}
