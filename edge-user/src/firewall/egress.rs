//! The program at a device's egress. Where the kernel has TCX (6.6 and later), a pinned link, as
//! for XDP. Before that a filter of the device's clsact qdisc, under a priority and a handle of
//! our own: it lives until it is taken away, and is changed in place. The mark of such a filter
//! is the program itself, pinned where the link would be.

use std::{fs, io, mem, path::Path};

use aya::{
    Ebpf,
    programs::{
        Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError,
        links::FdLink,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
};

use super::{
    EgressHook, FirewallError,
    attach::{pin, update},
    kernel::{chain, program},
    sys,
};

/// Our filter's place: after those that somebody put first, before those put anywhere.
const PRIORITY: u16 = 237;
const HANDLE: TcHandle = TcHandle::new(0, 0xed6e);

/// Puts the program there, or the new one in the place of the one that is there.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    path: &Path,
    device: &str,
    ifindex: u32,
    without_tcx: bool,
) -> Result<EgressHook, FirewallError> {
    let hook = if without_tcx || !has_tcx(device) { EgressHook::Clsact } else { EgressHook::Tcx };
    match hook {
        EgressHook::Tcx => attach_link(ebpf, path, device, ifindex)?,
        EgressHook::Clsact => attach_filter(ebpf, path, device)?,
    }
    Ok(hook)
}

/// How the program of this pin is attached.
pub(super) fn hook(path: &Path) -> io::Result<EgressHook> {
    Ok(if sys::is_program(path)? { EgressHook::Clsact } else { EgressHook::Tcx })
}

/// Takes the program off its device, and its pin away.
pub(super) fn detach(path: &Path, device: &str) -> Result<(), FirewallError> {
    let fault = |fault| FirewallError::io(path.display().to_string(), fault);
    if hook(path).map_err(fault)? == EgressHook::Clsact && sys::ifindex(device).is_some() {
        match filter(device)?.detach() {
            Err(error) if !is_gone(&error) => return Err(fault_of(device, &error)),
            _ => {}
        }
    }
    // A link; where that cannot be, or the device is gone, it ends with its pin.
    let _ = sys::detach_link(path);
    fs::remove_file(path).map_err(fault)
}

/// The filter, or the qdisc that would hold it, is not there: the device was made anew.
fn is_gone(fault: &ProgramError) -> bool {
    matches!(number(fault), Some(libc::ENOENT | libc::EINVAL))
}

/// A kernel before 6.6 knows no such question.
fn has_tcx(device: &str) -> bool {
    let asked = SchedClassifier::query_tcx(device, TcAttachType::Egress);
    let unknown = |fault: &ProgramError| number(fault) == Some(libc::EINVAL);
    !asked.is_err_and(|fault| unknown(&fault))
}

fn attach_link(
    ebpf: &mut Ebpf,
    path: &Path,
    device: &str,
    ifindex: u32,
) -> Result<(), FirewallError> {
    let adopted = update(path, device, ifindex, |link| {
        let egress: &mut SchedClassifier = program(ebpf, "edge_egress")?;
        let link =
            SchedClassifierLink::try_from(link).map_err(|e| FirewallError::Load(chain(&e)))?;
        egress.attach_to_link(link).map_err(|e| FirewallError::Load(chain(&e)))?;
        Ok(())
    })?;
    if adopted {
        return Ok(());
    }
    let egress: &mut SchedClassifier = program(ebpf, "edge_egress")?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = egress
        .attach_with_options(device, TcAttachType::Egress, options)
        .map_err(|e| fault_of(device, &e))?;
    let link = egress.take_link(id).map_err(|e| fault_of(device, &e))?;
    let link =
        FdLink::try_from(link).map_err(|_| FirewallError::NoLink { device: device.to_owned() })?;
    pin(link, path)
}

/// The mark comes before the filter, so that no filter is without one.
fn attach_filter(ebpf: &mut Ebpf, path: &Path, device: &str) -> Result<(), FirewallError> {
    let egress: &mut SchedClassifier = program(ebpf, "edge_egress")?;
    mark(egress, path)?;
    if let Err(fault) = qdisc_add_clsact(device) {
        let fault = fault.into();
        if number(&fault) != Some(libc::EEXIST) {
            return Err(fault_of(device, &fault));
        }
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let made =
        egress.attach_with_options(device, TcAttachType::Egress, TcAttachOptions::Netlink(options));
    let id = match made {
        // It is there already: of the last run, or of one that ended on its way here.
        Err(fault) if number(&fault) == Some(libc::EEXIST) => {
            egress.attach_to_link(filter(device)?)
        }
        made => made,
    };
    let id = id.map_err(|e| fault_of(device, &e))?;
    // The value would take the filter away at its end.
    mem::forget(egress.take_link(id).map_err(|e| fault_of(device, &e))?);
    Ok(())
}

/// Pins the program over what is pinned there, in one step.
fn mark(egress: &mut SchedClassifier, path: &Path) -> Result<(), FirewallError> {
    let fault = |what: String| FirewallError::Load(format!("pinning {}: {what}", path.display()));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("%new");
    let fresh = Path::new(&fresh);
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fault(error.to_string()));
        }
        _ => {}
    }
    egress.pin(fresh).map_err(|e| fault(chain(&e)))?;
    fs::rename(fresh, path).map_err(|e| fault(e.to_string()))
}

/// Our filter on a device, whether or not there is one.
fn filter(device: &str) -> Result<SchedClassifierLink, FirewallError> {
    SchedClassifierLink::attached(device, TcAttachType::Egress, PRIORITY, HANDLE, None)
        .map_err(|fault| FirewallError::io(format!("device `{device}`"), fault))
}

fn fault_of(device: &str, fault: &ProgramError) -> FirewallError {
    FirewallError::Load(format!("device `{device}`: attaching at egress: {}", chain(fault)))
}

/// The system's number of a fault.
fn number(fault: &ProgramError) -> Option<i32> {
    match fault {
        ProgramError::SyscallError(fault) => fault.io_error.raw_os_error(),
        ProgramError::TcError(TcError::AlreadyAttached) => Some(libc::EEXIST),
        ProgramError::TcError(TcError::NetlinkError(fault)) => fault.raw_os_error(),
        _ => None,
    }
}
