//! What an appliance is told, as plain lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything that is known beside the packet.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The device: its zone, if it has one. `None`: the device is not configured.
    pub device: Option<u8>,
    /// Its tags are looked at.
    pub trunk: bool,
    /// VLANs of the trunk.
    pub vlans: Vec<Vlan>,
    /// Drops are only counted.
    pub monitor: bool,
    /// LLDP passes.
    pub lldp: bool,
    /// LACP passes.
    pub lacp: bool,
    /// Answers to the DHCP client pass.
    pub dhcp_client: bool,
    /// There is a rule set.
    pub rules_loaded: bool,
    /// Rules, the first that fits decides.
    pub rules: Vec<Rule>,
    /// Limits that rules name.
    pub limits: Vec<Limits>,
    /// Sets of sources. The first is the management's, the second the partners'.
    pub sources: Vec<Vec<Prefix>>,
    /// Sets of own addresses.
    pub destinations: Vec<Vec<IpAddr>>,
    /// Ports for management: zone, UDP, port.
    pub management: Vec<(u8, bool, u16)>,
    /// Ports for federation: zone, UDP, port.
    pub federation: Vec<(u8, bool, u16)>,
    /// Ports of remote users: zone, UDP, port.
    pub remote: Vec<(u8, bool, u16)>,
    /// Blocks; no prefix twice.
    pub blocks: Vec<Block>,
    /// The version of the block lists that is in force.
    pub block_version: u32,
    /// What left a short while ago.
    pub flows: Vec<Flow>,
    /// Sockets: of TCP those that do not listen, of UDP those that are connected.
    pub sockets: Vec<Flow>,
    /// Ports that one rule opens to all may be written in the short form.
    pub short_form: bool,
}

/// A VLAN.
#[derive(Clone, Copy, Debug)]
pub struct Vlan {
    /// Its id.
    pub outer: u16,
    /// The id of a second tag, or 0.
    pub inner: u16,
    /// Its zone, if it has one.
    pub zone: Option<u8>,
}

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its id.
    pub id: u32,
    /// Where it applies.
    pub zone: u8,
    /// For what.
    pub to: Service,
    /// Index of a set of sources; `None`: any.
    pub sources: Option<usize>,
    /// Index of a set of own addresses; `None`: any.
    pub destinations: Option<usize>,
    /// Drops what it fits.
    pub drop: bool,
    /// What the payload must be.
    pub content: Carries,
    /// Index of its limits.
    pub limits: Option<usize>,
}

/// What a payload must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Anything.
    Anything,
    /// SIP.
    Sip,
    /// STUN and TURN.
    Stun,
    /// Everything that RFC 7983 names.
    Media,
}

/// The limits of a rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// For each source.
    pub source: Scope,
    /// For all together.
    pub total: Scope,
}

/// What is limited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    /// New TCP connections.
    pub new: Limit,
    /// Packets.
    pub packets: Limit,
    /// Bytes of frames.
    pub bytes: Limit,
}

/// Units a second, and how many may come at once on top; none a second: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit {
    /// Units a second.
    pub per_second: u64,
    /// At once.
    pub burst: u64,
}

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// TCP (`false`) or UDP (`true`) ports, both ends included.
    Ports(bool, u16, u16),
    /// Another protocol.
    Protocol(u8),
}

/// A prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// An address in it.
    pub address: IpAddr,
    /// Its length.
    pub length: u8,
}

impl Prefix {
    /// Whether the address is in it: bit by bit.
    pub fn contains(&self, other: IpAddr) -> bool {
        let (mine, theirs) = (bits(self.address), bits(other));
        mine.len() == theirs.len()
            && mine[..usize::from(self.length)] == theirs[..usize::from(self.length)]
    }

    /// Whether it is a single address.
    pub fn is_host(&self) -> bool {
        usize::from(self.length) == bits(self.address).len()
    }
}

/// An address as its bits.
fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (128 >> bit) != 0)).collect()
}

/// Why there is a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An administrator wants it.
    Administrator,
    /// It is a domain's.
    Domain,
    /// The address is our own: nobody outside has it.
    OurOwn,
}

/// Where a block is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everywhere.
    Everywhere,
    /// At federation ports.
    Federation,
    /// At ports of remote users.
    Remote,
    /// At both.
    Both,
}

/// A block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Whom it blocks.
    pub prefix: Prefix,
    /// Where.
    pub place: Place,
    /// Why.
    pub why: Why,
    /// Second at which it ends; 0: never.
    pub ends: u32,
    /// First version it is in.
    pub from_version: u32,
    /// First version it is no longer in; 0: it stays.
    pub until_version: u32,
}

/// A flow, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// Our address.
    pub local: IpAddr,
    /// Our port, or the identifier of an echo.
    pub local_port: u16,
    /// The other side's address.
    pub remote: IpAddr,
    /// The other side's port; 0 of an echo.
    pub remote_port: u16,
    /// Second in which its last packet left (of a socket: 0).
    pub left_at: u64,
}

/// An IPv4 address from its bytes.
pub fn four(bytes: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(bytes).into()
}

/// An IPv6 address from its parts.
pub fn six(parts: [u16; 8]) -> IpAddr {
    Ipv6Addr::from(parts).into()
}
