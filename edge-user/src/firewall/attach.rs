//! Programs on devices: pinned links only, so that enforcement outlives the daemon, and swapped
//! atomically when a new daemon comes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

use super::{
    AttachMode, Attached, EgressHook, FirewallError, OwnerOptions, egress,
    kernel::{chain, program},
    sys,
};
use crate::failpoint;

/// Folder of the XDP links.
pub(super) fn link_folder(pins: &Path) -> PathBuf {
    pins.join("links")
}

/// Folder of the egress links.
pub(super) fn egress_folder(pins: &Path) -> PathBuf {
    pins.join("egress")
}

/// Puts both programs on a device, or gives the links that are there the new programs.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    options: &OwnerOptions,
    device: &str,
    ifindex: u32,
    allow_generic: bool,
) -> Result<(Attached, Vec<String>), FirewallError> {
    let pins = &options.pins;
    // It may have been renamed.
    let named = sys::device_name(ifindex);
    let now = named.as_deref().unwrap_or(device);
    sys::vlan_offload_off(now).map_err(|fault| FirewallError::VlanOffload {
        device: device.to_owned(),
        fault: fault.to_string(),
    })?;
    for folder in [link_folder(pins), egress_folder(pins)] {
        fs::create_dir_all(&folder)
            .map_err(|fault| FirewallError::io(folder.display().to_string(), fault))?;
    }
    let path = egress_folder(pins).join(sys::pin_name(device));
    take_over(&egress_folder(pins), &path, ifindex)?;
    let egress = egress::attach(ebpf, &path, now, ifindex, options.without_tcx)?;
    let mut warnings = Vec::new();
    let path = link_folder(pins).join(sys::pin_name(device));
    take_over(&link_folder(pins), &path, ifindex)?;
    let adopted = update(&path, device, ifindex, |link| {
        let xdp: &mut Xdp = program(ebpf, "edge_xdp")?;
        let link = XdpLink::try_from(link).map_err(|e| FirewallError::Load(chain(&e)))?;
        xdp.attach_to_link(link).map_err(|e| FirewallError::Load(chain(&e)))?;
        Ok(())
    })?;
    if !adopted {
        attach_new(ebpf, &path, device, ifindex, allow_generic, &mut warnings)?;
    }
    let facts = sys::link_facts(&path)
        .map_err(|fault| FirewallError::io(path.display().to_string(), fault))?;
    let mode =
        sys::xdp_state(ifindex).ok().flatten().map_or(AttachMode::Native, |state| state.mode);
    let attached = Attached {
        device: device.to_owned(),
        ifindex,
        mode,
        egress,
        link_id: facts.id,
        program_id: facts.program_id,
        adopted,
    };
    Ok((attached, warnings))
}

/// The device that the pinned link of this name is on: its index, and what it is called now.
/// `None`: there is no such link, or its device is gone.
pub(super) fn held(pins: &Path, device: &str) -> Option<(u32, String)> {
    let facts = sys::link_facts(&link_folder(pins).join(sys::pin_name(device))).ok()?;
    let name = sys::device_name(facts.ifindex)?;
    Some((facts.ifindex, name))
}

/// What the pin of a link begins with that waits for its device's name; the index follows.
const WAITS: &str = "%if";

/// Whether a pinned link waits for its device's name (see [`take_over`]): it is renamed at this
/// moment.
pub(super) fn waits(device: &str) -> bool {
    let index = device.strip_prefix(WAITS).and_then(|index| index.parse().ok());
    index.and_then(sys::device_name).is_some()
}

/// A link of ours that is on the device already, under a name it had before, gets this name; one
/// that has this name and is on another device gets that one's.
fn take_over(folder: &Path, path: &Path, ifindex: u32) -> Result<(), FirewallError> {
    let fault = |fault| FirewallError::io(path.display().to_string(), fault);
    let is_mark = |path: &Path| sys::is_program(path).unwrap_or(false);
    let on = |path: &Path| {
        sys::link_facts(path).ok().filter(|_| !is_mark(path)).map(|facts| facts.ifindex)
    };
    if is_mark(path) || on(path) == Some(ifindex) {
        return Ok(());
    }
    let other = on(path).and_then(|held| Some((held, sys::device_name(held)?)));
    // Where several change places, one waits under a name that no device has for its turn.
    let aside = other.map(|(held, name)| (folder.join(format!("{WAITS}{held}")), name));
    if let Some((aside, _)) = &aside {
        fs::rename(path, aside).map_err(fault)?;
    }
    let same = pinned(folder).into_iter().map(|(_, path)| path);
    if !path.exists()
        && let Some(same) = { same }.find(|link| on(link) == Some(ifindex))
    {
        fs::rename(same, path).map_err(fault)?;
    }
    match aside.map(|(aside, name)| (aside, folder.join(sys::pin_name(&name)))) {
        Some((aside, now)) if !now.exists() => fs::rename(aside, now).map_err(fault),
        _ => Ok(()),
    }
}

/// Gives a pinned link the new program. `false`: there is no link, or its device is gone.
pub(super) fn update(
    path: &Path,
    device: &str,
    ifindex: u32,
    put: impl FnOnce(FdLink) -> Result<(), FirewallError>,
) -> Result<bool, FirewallError> {
    if !path.exists() {
        return Ok(false);
    }
    let fault = |fault| FirewallError::io(format!("link of {device}"), fault);
    let facts = sys::link_facts(path).map_err(fault)?;
    if facts.ifindex != ifindex {
        // The device was taken away and made anew, or renamed: this link is not its link.
        fs::remove_file(path).map_err(fault)?;
        return Ok(false);
    }
    let link = PinnedLink::from_pin(path)
        .map_err(|e| FirewallError::Load(format!("{}: {}", path.display(), chain(&e))))?;
    put(link.into())?;
    failpoint::wrote("a link's program");
    Ok(true)
}

fn attach_new(
    ebpf: &mut Ebpf,
    path: &Path,
    device: &str,
    ifindex: u32,
    allow_generic: bool,
    warnings: &mut Vec<String>,
) -> Result<(), FirewallError> {
    let state = sys::xdp_state(ifindex)
        .map_err(|fault| FirewallError::io(format!("asking for the state of {device}"), fault))?;
    if let Some(state) = state {
        return Err(foreign(device, state.program_id));
    }
    let xdp: &mut Xdp = program(ebpf, "edge_xdp")?;
    let id = match xdp.attach_to_if_index(ifindex, XdpMode::Driver) {
        Ok(id) => id,
        Err(fault) if busy(&fault) => {
            let other = sys::xdp_state(ifindex).ok().flatten();
            return Err(foreign(device, other.map_or(0, |state| state.program_id)));
        }
        Err(fault) if allow_generic => {
            warnings.push(format!(
                "device `{device}`: GENERIC MODE, slow: its driver refuses native XDP ({})",
                chain(&fault)
            ));
            xdp.attach_to_if_index(ifindex, XdpMode::Skb).map_err(|fault| {
                FirewallError::NoNative { device: device.to_owned(), fault: chain(&fault) }
            })?
        }
        Err(fault) => {
            let fault = chain(&fault);
            return Err(FirewallError::NoNative { device: device.to_owned(), fault });
        }
    };
    let link = xdp.take_link(id).map_err(|e| FirewallError::Load(chain(&e)))?;
    let link =
        FdLink::try_from(link).map_err(|_| FirewallError::NoLink { device: device.to_owned() })?;
    pin(link, path)
}

pub(super) fn pin(link: FdLink, path: &Path) -> Result<(), FirewallError> {
    failpoint::wrote("what comes before a new link is pinned");
    link.pin(path)
        .map(drop)
        .map_err(|e| FirewallError::Load(format!("pinning {}: {}", path.display(), chain(&e))))?;
    failpoint::wrote("the pin of a new link");
    Ok(())
}

fn busy(fault: &ProgramError) -> bool {
    let ProgramError::SyscallError(fault) = fault else { return false };
    matches!(fault.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn foreign(device: &str, id: u32) -> FirewallError {
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    let program = match name {
        Some(name) => format!("`{name}` (id {id})"),
        None => format!("with id {id}"),
    };
    FirewallError::ForeignProgram { device: device.to_owned(), program }
}

/// Takes the programs off the devices that `keep` does not name. Returns those.
pub(super) fn detach_others(
    pins: &Path,
    keep: impl Fn(&str) -> bool,
) -> Result<Vec<String>, FirewallError> {
    let mut devices = Vec::new();
    for folder in [link_folder(pins), egress_folder(pins)] {
        for (device, path) in pinned(&folder) {
            if !keep(&device) {
                take_away(pins, &path, &device)?;
                failpoint::wrote("a device that is let go");
                if !devices.contains(&device) {
                    devices.push(device);
                }
            }
        }
    }
    Ok(devices)
}

/// Takes one pin of a device away, and with it what it holds in place.
pub(super) fn take_away(pins: &Path, path: &Path, device: &str) -> Result<(), FirewallError> {
    if path.starts_with(egress_folder(pins)) {
        return egress::detach(path, device);
    }
    if path.starts_with(link_folder(pins)) {
        // Where that cannot be, or the device is gone, the link ends with its pin.
        let _ = sys::detach_link(path);
    }
    fs::remove_file(path).map_err(|fault| FirewallError::io(path.display().to_string(), fault))
}

/// The pinned links of a folder: device and path.
pub(super) fn pinned(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|entry| (sys::device_of_pin(&entry.file_name().to_string_lossy()), entry.path()))
        .collect();
    found.sort();
    found
}

/// The devices with a pinned XDP link, as the kernel tells.
pub(super) fn attached(pins: &Path) -> Result<Vec<Attached>, FirewallError> {
    // The owner may give a link another name, or let go of it, between two looks.
    let moved = |fault: &FirewallError| matches!(fault, FirewallError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    for _ in 0..10 {
        match attached_now(pins) {
            Err(fault) if moved(&fault) => {}
            done => return done,
        }
    }
    attached_now(pins)
}

fn attached_now(pins: &Path) -> Result<Vec<Attached>, FirewallError> {
    let mut all = Vec::new();
    for (device, path) in pinned(&link_folder(pins)) {
        let facts = sys::link_facts(&path)
            .map_err(|fault: io::Error| FirewallError::io(path.display().to_string(), fault))?;
        let state = sys::xdp_state(facts.ifindex).ok().flatten();
        let egress = egress_folder(pins).join(sys::pin_name(&device));
        all.push(Attached {
            device,
            egress: egress::hook(&egress).unwrap_or(EgressHook::Tcx),
            ifindex: facts.ifindex,
            mode: state.map_or(AttachMode::Native, |state| state.mode),
            link_id: facts.id,
            program_id: facts.program_id,
            adopted: true,
        });
    }
    Ok(all)
}
