//! Which devices can send what XDP redirects to them, as their drivers say (the "netdev" family of
//! generic netlink, since Linux 6.3), in the network namespace of the thread that opened it.

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use super::netlink::{HEADER, NLM_F_REQUEST, NLMSG_ERROR, message, messages, put, socket, word};
use crate::{
    config::{Config, MediaMode, MediaPath, MediaSettings},
    firewall::sys,
};

/// The family of generic netlink that tells of the others, and what it is asked and says.
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const CAN_SEND: u64 = 4;
/// Length of `genlmsghdr`.
const GENERIC: usize = 4;

/// What the media of calls suffers at devices that XDP cannot send by.
pub fn warnings(config: &Config) -> Vec<String> {
    let MediaSettings { mode, path, .. } = &config.media;
    if *mode == MediaMode::Off || *path != MediaPath::Auto {
        return Vec::new();
    }
    let Ok(Some(mut senders)) = Senders::open() else { return Vec::new() };
    let devices: BTreeSet<&str> = config.interfaces.iter().map(|i| i.device.as_str()).collect();
    let unable = devices.into_iter().filter(|device| {
        sys::ifindex(device).is_some_and(|index| matches!(senders.can_send(index), Ok(Some(false))))
    });
    let what = match (mode, config.firewall.monitor) {
        (MediaMode::Pinhole, _) => {
            "is dropped, since the packets of a pinhole are not for the daemon: use another driver, \
             or mode = \"relay\""
        }
        (_, true) => "is dropped, since with firewall.monitor the daemon may not send it",
        (_, false) => "goes through the daemon, at a higher cost",
    };
    unable
        .map(|device| {
            format!("device `{device}`: XDP cannot send by it: media that leaves there {what}")
        })
        .collect()
}

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct Senders {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Senders {
    /// `None`: this kernel does not know.
    pub fn open() -> io::Result<Option<Self>> {
        let mut senders =
            Self { socket: socket(libc::NETLINK_GENERIC, 0)?, family: CONTROLLER, sequence: 0 };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let answer = match senders.ask(CTRL_CMD_GETFAMILY, &name) {
            Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        let id = sys::attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|id| id.get(..2));
        let Some(id) = id.and_then(|id| <[u8; 2]>::try_from(id).ok()) else { return Ok(None) };
        senders.family = u16::from_ne_bytes(id);
        Ok(Some(senders))
    }

    /// Whether XDP can send by this device; `None`: its driver does not say.
    pub fn can_send(&mut self, ifindex: u32) -> io::Result<Option<bool>> {
        let asked = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        let answer = match self.ask(NETDEV_CMD_DEV_GET, &asked) {
            Err(fault) if fault.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            other => other?,
        };
        let features = sys::attribute(&answer, NETDEV_A_DEV_XDP_FEATURES);
        let features = features.and_then(|bits| <[u8; 8]>::try_from(bits.get(..8)?).ok());
        Ok(features.map(|bits| u64::from_ne_bytes(bits) & CAN_SEND != 0))
    }

    /// The attributes of the answer.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        // genlmsghdr: command, version, zeros.
        let body = [&[command, 1, 0, 0], attributes].concat();
        let request = message(self.family, NLM_F_REQUEST, self.sequence, &body);
        rustix::io::write(&self.socket, &request)?;
        let mut buffer = vec![0; 8192];
        loop {
            let length = match rustix::io::read(&self.socket, &mut buffer) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for (header, message) in messages(buffer.get(..length).unwrap_or_default()) {
                if header.sequence != self.sequence {
                    continue;
                }
                if header.kind == NLMSG_ERROR {
                    let code = word(message, HEADER).unwrap_or(0) as i32;
                    return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                }
                return Ok(message.get(HEADER + GENERIC..).unwrap_or_default().to_vec());
            }
        }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, kind, value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_sends_nothing_of_xdp_and_one_that_is_gone_says_nothing() {
        // An older kernel knows nothing at all.
        let Some(mut senders) = Senders::open().unwrap() else { return };
        let loopback = sys::ifindex("lo").unwrap();
        assert_eq!(senders.can_send(loopback).unwrap(), Some(false));
        assert_eq!(senders.can_send(u32::MAX >> 1).unwrap(), None);
        assert_eq!(senders.can_send(loopback).unwrap(), Some(false));
    }
}
