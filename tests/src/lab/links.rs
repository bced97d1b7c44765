//! What a veth pair needs so that XDP can forward over it, as a network card does by itself.

use std::{os::fd::OwnedFd, process::Stdio};

use anyhow::{Context as _, Result, bail};

use super::{Lab, layout::Site, netns::Namespace};
use crate::bench::raw;

/// Far ends that take what XDP sends them, as long as this lives.
pub struct Forwarding {
    _links: Vec<OwnedFd>,
}

impl Forwarding {
    /// Of the links outside and inside of these sites.
    pub fn prepare(lab: &Lab, sites: &[Site]) -> Result<Self> {
        let internet =
            Namespace::existing(&format!("{}-{}", lab.prefix(), super::layout::INTERNET));
        let mut links = Vec::new();
        for site in sites {
            links.push(far_end(&internet, site.name())?);
            // What a socket sends here leaves with its whole checksum.
            offload_off(lab.site(*site), "ext0")?;
            if site.has_inside() {
                links.push(far_end(lab.inside(*site), "eth0")?);
            }
        }
        Ok(Self { _links: links })
    }
}

/// A veth takes frames of XDP only while there is a program at its far end; and what a local
/// socket sends must carry its whole checksum, which no program of the other side would add.
pub fn far_end(namespace: &Namespace, device: &str) -> Result<OwnedFd> {
    offload_off(namespace, device)?;
    let link = namespace.run(|| {
        let pass = raw::load(raw::Tiny::Pass)?;
        raw::attach(&pass, index(device)?)
    })?;
    link.with_context(|| format!("a program at {device} of {}", namespace.name()))
}

/// Whole checksums from what local sockets send by `device`.
pub fn offload_off(namespace: &Namespace, device: &str) -> Result<()> {
    let output = namespace
        .command("ethtool")
        .args(["-K", device, "tx", "off"])
        .stdin(Stdio::null())
        .output()
        .context("ethtool does not start")?;
    if !output.status.success() {
        bail!("ethtool -K {device} tx off: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn index(device: &str) -> std::io::Result<u32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()),
        index => Ok(index),
    }
}
