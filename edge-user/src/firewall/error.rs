//! Everything that can go wrong with the firewall: the fault and the mend.

use std::{io, path::PathBuf};

use ipnet::IpNet;

use super::plan::PlanError;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// The configuration cannot be turned into kernel rules.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Not root.
    #[error("the firewall needs root (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)")]
    NotPermitted,
    /// No bpffs where the pins should be.
    #[error("{path}: not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs {
        /// The pin folder.
        path: PathBuf,
    },
    /// Another process owns these pins.
    #[error("{pins}: another edge daemon is running with these pins: stop it first")]
    Locked {
        /// The pin folder.
        pins: PathBuf,
    },
    /// A pinned map is not of this version's shape.
    #[error(
        "{path}: pinned map has {found}, this version needs {expected}: run `edge detach` and start again"
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Pins of another version's layouts.
    #[error(
        "{pins}: pins of schema {found} are there, this version has schema {expected}: run `edge detach` and start again"
    )]
    Schema {
        /// The pin folder.
        pins: PathBuf,
        /// What was found.
        found: String,
        /// Ours.
        expected: u32,
    },
    /// Nothing is pinned.
    #[error("{pins}: nothing is loaded here: start `edge run` or `edge load`")]
    NotLoaded {
        /// The pin folder.
        pins: PathBuf,
    },
    /// The pins went while the daemon ran.
    #[error(
        "{pins}: the pins are gone (was the BPF file system unmounted, or `edge detach --force` run?): nothing was changed; mount it again (`mount -t bpf bpf /sys/fs/bpf`) and restart the daemon"
    )]
    PinsGone {
        /// The pin folder.
        pins: PathBuf,
    },
    /// No such map.
    #[error("no map `{name}`: `edge map list` names them")]
    NoSuchMap {
        /// What was asked for.
        name: String,
    },
    /// The program is not on this device.
    #[error("the firewall is not on device `{device}`: name one of: {devices}")]
    NotOnDevice {
        /// The device.
        device: String,
        /// Those that have it.
        devices: String,
    },
    /// The device that has the program is one of another network namespace.
    #[error(
        "device `{device}` of this network namespace does not carry the pinned program: ask in the namespace of the daemon (`nsenter -t PID -n edge explain ...`)"
    )]
    OtherNamespace {
        /// The device.
        device: String,
    },
    /// The loaded program does not answer trials.
    #[error(
        "the loaded program does not answer trial runs: it is of another version; restart the daemon, which replaces it"
    )]
    NoTrial,
    /// A configured device does not exist.
    #[error("device `{device}` does not exist: correct `[[interface]]`, or create it first")]
    NoDevice {
        /// The device.
        device: String,
    },
    /// A device's index is too high for the kernel's table.
    #[error("device `{device}` has index {ifindex}, above {max}: restart the machine to renumber")]
    IfIndex {
        /// The device.
        device: String,
        /// Its index.
        ifindex: u32,
        /// The highest that works.
        max: u32,
    },
    /// Somebody else's XDP program is on the device.
    #[error(
        "device `{device}` already has the XDP program {program}: remove it first (`ip link set dev {device} xdp off`, or stop its owner)"
    )]
    ForeignProgram {
        /// The device.
        device: String,
        /// Its name and id.
        program: String,
    },
    /// The driver takes no XDP program.
    #[error(
        "device `{device}`: its driver refuses native XDP ({fault}): lower the MTU, turn off LRO, or set `allow_generic = true` under [firewall] and accept that it is slow"
    )]
    NoNative {
        /// The device.
        device: String,
        /// What the kernel said.
        fault: String,
    },
    /// The attach fell back to netlink, which ends with the process.
    #[error(
        "device `{device}`: the kernel made no BPF link, so the firewall would end with the daemon: kernel 5.9 or later is needed"
    )]
    NoLink {
        /// The device.
        device: String,
    },
    /// VLAN offload hides tags from XDP.
    #[error(
        "device `{device}`: VLAN offload cannot be turned off ({fault}): tags would be hidden from the firewall; try `ethtool -K {device} rxvlan off`"
    )]
    VlanOffload {
        /// The device.
        device: String,
        /// What went wrong.
        fault: String,
    },
    /// A block would lock administrators out.
    #[error("{prefix} overlaps the management prefix {management}: it cannot be blocked")]
    ManagementPrefix {
        /// What should be blocked.
        prefix: IpNet,
        /// What it overlaps.
        management: IpNet,
    },
    /// No room for more blocks.
    #[error(
        "no room for more than {max} blocked {what}: raise `{setting}` under [firewall], run `edge detach` and start again"
    )]
    BlocksFull {
        /// `IPv4 addresses` and the like.
        what: &'static str,
        /// The setting.
        setting: &'static str,
        /// The room.
        max: u32,
    },
    /// One list after the other.
    #[error("another list of blocks is being taken in or out: try again when that is done")]
    ListBusy,
    /// No such list.
    #[error("there is no list of blocks `{name}`: `edge block list --lists` names them")]
    NoSuchList {
        /// What was asked for.
        name: String,
    },
    /// Neither a good configuration nor a good former plan.
    #[error(
        "{state}: no plan of a former start to fall back to ({fault}): correct the configuration"
    )]
    NoLastGood {
        /// The file.
        state: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A media flow that cannot be.
    #[error("media flow {flow} cannot be opened: {fault}")]
    MediaFlow {
        /// Its number.
        flow: u32,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// No room for more media flows.
    #[error(
        "no room for another media flow: {flows} are open, and what was closed rests; try again"
    )]
    MediaFull {
        /// How many are open.
        flows: usize,
    },
    /// The kernel half could not be loaded.
    #[error("loading the kernel program failed: {0}")]
    Load(String),
    /// A system call on a file or map failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A kernel map could not be read or written.
    #[error("map {map}: {fault}")]
    Map {
        /// The map.
        map: String,
        /// What the kernel said.
        fault: String,
    },
    /// Rules could not be put in force, nor those of before put back.
    #[error("{fault}; and the former rules could not be put back whole: {second}")]
    NotPutBack {
        /// Why the new rules were not put in force.
        fault: Box<FirewallError>,
        /// Why the former are not in force either.
        second: String,
    },
    /// The owner's thread has ended.
    #[error("the firewall's owner has stopped: restart the daemon; what is loaded stays in force")]
    Stopped,
}

impl FirewallError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    pub(super) fn map(map: &str, fault: impl std::fmt::Display) -> Self {
        Self::Map { map: map.to_owned(), fault: fault.to_string() }
    }
}
