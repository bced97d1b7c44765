//! The maps of media flows, written as the daemon writes them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::{TestRun as _, TestRunOptions, maps::RingBuf, programs::Xdp};
use edge_ebpf::{
    abi::{MediaFlow, MediaLearned, MediaState, PinholeKey, map_names, mapped, media_port_index},
    verdict::Reason,
};

use super::Kernel;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The driver's action (`enum xdp_action`).
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The one reason that was counted.
    pub reason: Reason,
}

/// `XDP_DROP`.
pub const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_TX`.
pub const XDP_TX: u32 = 3;
/// `XDP_REDIRECT`.
pub const XDP_REDIRECT: u32 = 4;

/// The 16-byte form of an address.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

impl Kernel {
    /// Writes a flow and sets its state to zero.
    ///
    /// # Errors
    /// When the kernel refuses a write.
    pub fn set_media_flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<()> {
        self.set_media_state(flow.state, MediaState::default())?;
        self.change_media_flow(slot, flow)
    }

    /// Writes a flow and leaves its state as it is.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn change_media_flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<()> {
        Ok(self.array(map_names::MEDIA_FLOWS)?.set(slot, *flow, 0)?)
    }

    /// Leads a port of ours to a flow; 0: to none.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_media_port(&mut self, zone: u8, six: bool, port: u16, slot: u32) -> Result<()> {
        let index = media_port_index(zone, six, port);
        Ok(self.array(map_names::MEDIA_PORTS)?.set(index, slot, 0)?)
    }

    /// Leads what is for an endpoint behind us to a flow.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_pinhole(&mut self, zone: u8, to: IpAddr, port: u16, slot: u32) -> Result<()> {
        let (address, port) = (sixteen(to), port.to_be_bytes());
        let key = PinholeKey { address, port, zone, reserved: 0 };
        Ok(self.hash(map_names::MEDIA_PINHOLES)?.insert(key, slot, 0)?)
    }

    /// What the program knows of a flow.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn media_state(&mut self, slot: u32) -> Result<MediaState> {
        Ok(self.array(map_names::MEDIA_STATES)?.get(&slot, 0)?)
    }

    /// Writes what the program knows of a flow.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_media_state(&mut self, slot: u32, state: MediaState) -> Result<()> {
        Ok(self.array(map_names::MEDIA_STATES)?.set(slot, state, 0)?)
    }

    /// Takes all learned sources out of the ring.
    ///
    /// # Errors
    /// When the ring is not there.
    pub fn media_learned(&mut self) -> Result<Vec<MediaLearned>> {
        let mut ring = RingBuf::try_from(self.map(map_names::MEDIA_EVENTS)?)?;
        let mut learned = Vec::new();
        while let Some(item) = ring.next() {
            anyhow::ensure!(item.len() == size_of::<MediaLearned>(), "an entry of another size");
            // SAFETY: as many bytes as an entry has, and every bit pattern is a value of it.
            learned.push(unsafe { item.as_ptr().cast::<MediaLearned>().read_unaligned() });
        }
        Ok(learned)
    }

    /// Runs a frame through `edge_xdp` and tells what became of it.
    ///
    /// # Errors
    /// When not exactly one packet was counted.
    pub fn outcome(&mut self, frame: &[u8]) -> Result<Outcome> {
        let before = self.all_counters()?;
        let xdp: &Xdp = self.ebpf.program("edge_xdp").context("edge_xdp")?.try_into()?;
        let mut data = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            ..TestRunOptions::default()
        };
        let result = xdp.test_run(options)?;
        let (action, length) = (result.return_value, usize::try_from(result.data_size_out)?);
        data.truncate(length);
        let reason = self.counted_since(&before, frame.len())?;
        Ok(Outcome { action, frame: data, reason })
    }
}
