//! The stack forwards nothing: what is not for this appliance may leave it only by a media flow, in
//! the driver. A rule names ports, and need not name an address of ours: with forwarding on, whoever
//! shares a link with us could reach that port of every host behind us.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the stack keeps its switches (`ip-sysctl.rst`: `conf/*/forwarding`), of the network
/// namespace of the thread that looks.
const SWITCHES: [&str; 2] = ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"];

/// Switches off forwarding on every device, and for devices to come. Gives the switches that were
/// on.
pub(super) fn switch_off() -> io::Result<Vec<String>> {
    let mut on = Vec::new();
    for folder in SWITCHES.map(Path::new) {
        // Without IPv6 there is nothing to forward.
        if !folder.exists() {
            continue;
        }
        // `all` first: it takes the others along.
        off(&folder.join("all"), &mut on)?;
        for entry in fs::read_dir(folder)? {
            off(&entry?.path(), &mut on)?;
        }
    }
    Ok(on)
}

fn off(folder: &Path, on: &mut Vec<String>) -> io::Result<()> {
    let switch = folder.join("forwarding");
    if !is_on(&switch)? {
        return Ok(());
    }
    fs::write(&switch, "0").map_err(|fault| at(&switch, &fault))?;
    if is_on(&switch)? {
        return Err(at(&switch, &io::Error::other("it stays on")));
    }
    on.push(switch.display().to_string());
    Ok(())
}

fn is_on(switch: &PathBuf) -> io::Result<bool> {
    match fs::read_to_string(switch) {
        Ok(text) => Ok(text.trim() != "0"),
        // The device has gone meanwhile.
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(fault) => Err(at(switch, &fault)),
    }
}

fn at(switch: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("{}: {fault}", switch.display()))
}
