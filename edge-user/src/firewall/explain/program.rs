//! The live program, found by its pinned link, and asked what it would do.
//!
//! The question is a trial (see [`edge_ebpf::abi::Trial`]): the program changes nothing.

use std::{os::fd::AsFd as _, path::Path};

use aya::programs::{ProgramFd, ProgramInfo, loaded_programs};
use edge_ebpf::{
    abi::{TRIAL_ANSWERED, Trial},
    verdict::Reason,
};

use super::super::{FirewallError, attach, kernel::chain, sys};

/// Return values of XDP programs.
const XDP_ACTIONS: [&str; 5] = ["aborted", "drop", "pass", "answer", "forward"];

/// The program on a device.
pub(super) struct LiveProgram {
    program: ProgramFd,
    /// Index of the device.
    pub ifindex: u32,
    /// Kernel id of the program.
    pub id: u32,
}

/// What the live program answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LiveAnswer {
    /// `pass`, `drop`, `answer` or `forward`: what the driver would be told.
    pub action: &'static str,
    pub reason: Reason,
    /// Id of the rule that decided.
    pub rule: Option<u32>,
    /// Slot of the media flow that was found.
    pub flow: Option<u32>,
    pub zone: u8,
    /// Passed in monitor mode only.
    pub monitored: bool,
}

/// The program with this id.
pub(in crate::firewall) fn info(id: u32) -> Option<ProgramInfo> {
    loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)
}

impl LiveProgram {
    /// The program whose link is pinned for this device, which must be a device of the caller's
    /// network namespace.
    pub fn of(pins: &Path, device: &str) -> Result<Self, FirewallError> {
        let path = attach::link_folder(pins).join(sys::pin_name(device));
        if !path.exists() {
            let devices = attach::pinned(&attach::link_folder(pins));
            if devices.is_empty() {
                return Err(FirewallError::NotLoaded { pins: pins.to_owned() });
            }
            let devices: Vec<String> = devices.into_iter().map(|(device, _)| device).collect();
            return Err(FirewallError::NotOnDevice {
                device: device.to_owned(),
                devices: devices.join(" "),
            });
        }
        let facts = sys::link_facts(&path)
            .map_err(|fault| FirewallError::io(path.display().to_string(), fault))?;
        let here = sys::ifindex(device);
        let state = here.and_then(|ifindex| sys::xdp_state(ifindex).ok().flatten());
        if here != Some(facts.ifindex) || state.is_none_or(|s| s.program_id != facts.program_id) {
            return Err(FirewallError::OtherNamespace { device: device.to_owned() });
        }
        let fault = |text: String| FirewallError::Load(format!("asking the live program: {text}"));
        let info = info(facts.program_id).ok_or_else(|| fault("it is gone".to_owned()))?;
        let program = info.fd().map_err(|e| fault(chain(&e)))?;
        Ok(Self { program, ifindex: facts.ifindex, id: facts.program_id })
    }

    /// Runs a frame through the program as a trial. `magic` is [`Settings::trial`].
    ///
    /// [`Settings::trial`]: edge_ebpf::abi::Settings::trial
    pub fn ask(&self, magic: u64, frame: &[u8]) -> Result<LiveAnswer, FirewallError> {
        const META: usize = size_of::<Trial>();
        let mut data = Vec::with_capacity(META + frame.len());
        data.extend_from_slice(&magic.to_ne_bytes());
        data.resize(META, 0);
        data.extend_from_slice(frame);
        let context = context(META, data.len(), self.ifindex);
        let mut answer = vec![0; data.len() + META];
        let action = sys::test_run(self.program.as_fd(), &data, &mut answer, &context)
            .map_err(|fault| FirewallError::io("asking the live program", fault))?;
        let action = usize::try_from(action).ok().and_then(|at| XDP_ACTIONS.get(at));
        let (Some(trial), Some(action)) = (read_trial(&answer), action) else {
            return Err(FirewallError::NoTrial);
        };
        let reason = Reason::from_number(trial.reason).ok_or(FirewallError::NoTrial)?;
        Ok(LiveAnswer {
            action,
            reason,
            rule: (trial.rule != u32::MAX).then_some(trial.rule),
            flow: (trial.flow != 0).then_some(trial.flow),
            zone: trial.zone,
            monitored: trial.monitored != 0,
        })
    }
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(meta: usize, length: usize, ifindex: u32) -> [u8; 24] {
    let words = [meta as u32, length as u32, 0, ifindex, 0, 0];
    let mut bytes = [0; 24];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The answer stands over the question.
fn read_trial(bytes: &[u8]) -> Option<Trial> {
    let bytes = bytes.get(..size_of::<Trial>())?;
    // SAFETY: as many bytes as a `Trial` has, which is plain data for which every bit pattern is
    // a value; the read does not ask for alignment.
    let trial = unsafe { bytes.as_ptr().cast::<Trial>().read_unaligned() };
    (trial.magic == TRIAL_ANSWERED).then_some(trial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_mark() {
        let mut bytes = vec![0; 32];
        assert!(read_trial(&bytes).is_none());
        bytes[..8].copy_from_slice(&TRIAL_ANSWERED.to_ne_bytes());
        bytes[12] = Reason::NoRule as u8;
        assert_eq!(read_trial(&bytes).unwrap().reason, Reason::NoRule as u8);
        assert!(read_trial(&bytes[..31]).is_none());
    }

    #[test]
    fn the_context_says_where_the_frame_begins() {
        let context = context(32, 96, 7);
        let word = |at: usize| u32::from_ne_bytes(context[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(8), word(12)], [32, 96, 0, 7]);
    }
}
