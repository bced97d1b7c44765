//! Everything in the pinned tables that concerns one address.

use std::{net::IpAddr, path::Path};

use edge_ebpf::{
    abi::{
        Bucket, KnownKey, NO_GENERATION, SOURCE_SET_MANAGEMENT, SOURCE_SET_PARTNERS, SetMask,
        map_names, mapped,
    },
    verdict::Reason,
};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    super::{FirewallError, decode, plan::RuleRow, state, sys},
    PacketSpec, blocks,
    look::{lookup, source_sets},
    names::{self, Names},
    settings,
};
use crate::config::Zone;

/// What the tables say of an address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressFacts {
    /// It.
    pub address: IpAddr,
    /// It is one of ours.
    pub ours: bool,
    /// It is inside the management prefixes, which no block touches.
    pub management: bool,
    /// It is in the live set of partners.
    pub partner: bool,
    /// Blocks that hold it, the shortest prefix first; the last one is asked first.
    pub blocks: Vec<AddressBlock>,
    /// Source sets it is in, in words.
    pub sets: String,
    /// Rules that name it, as source or as one of our addresses; those for everybody aside.
    pub rules: Vec<RuleRow>,
    /// Rules under which it has proved who it is, and has a bucket of its own.
    pub known_under: Vec<String>,
}

/// A block that holds the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressBlock {
    /// Address or prefix.
    pub prefix: IpNet,
    /// `all`, `federation`, `remote users`, or both of these.
    pub scope: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// What it does, in words, and whether it is in force.
    pub words: String,
}

/// Looks an address up in the pinned tables. Works without the daemon.
pub fn address(pins: &Path, state: &Path, address: IpAddr) -> Result<AddressFacts, FirewallError> {
    let settings = settings(pins)?;
    let names = Names::new(state::read(state).ok().flatten());
    let now = sys::now().seconds();
    let mut found = blocks::prefixes_around(pins, address)?;
    found.extend(blocks::exact(pins, address)?.map(|block| (IpNet::from(address), block)));
    let blocks = found.into_iter().map(|(prefix, block)| AddressBlock {
        prefix,
        scope: decode::scope(block.scope),
        reason: decode::reason(block.reason),
        words: names::block(&block, &settings, now),
    });
    let blocks: Vec<AddressBlock> = blocks.collect();
    let mask = if settings.generation < NO_GENERATION {
        let generation = settings.generation;
        match address {
            IpAddr::V4(a) => source_sets(pins, map_names::SOURCES4, generation, a.octets())?,
            IpAddr::V6(a) => source_sets(pins, map_names::SOURCES6, generation, a.octets())?,
        }
    } else {
        None
    };
    let mask: SetMask = mask.unwrap_or_default();
    let plan = names.plan();
    let rows = plan.iter().flat_map(|plan| &plan.rows);
    let named = |row: &&RuleRow| {
        row.to.contains(&address)
            || row.from.iter().any(|prefix| prefix.contains(&address))
            || (row.partners && mask.contains(SOURCE_SET_PARTNERS))
    };
    let rules: Vec<RuleRow> = rows.clone().filter(named).cloned().collect();
    let mut known_under = Vec::new();
    for id in rows.filter_map(|row| row.id) {
        let key = KnownKey { source: known(address), rule: id, reserved: 0 };
        if lookup::<_, Bucket>(pins, map_names::KNOWN_SOURCES, &key)?.is_some() {
            known_under.push(names.rule(id));
        }
    }
    known_under.dedup();
    Ok(AddressFacts {
        address,
        ours: plan.is_some_and(|plan| plan.own_addresses.contains(&address))
            || blocks.iter().any(|block| block.reason == Reason::BadSource.name()),
        management: mask.contains(SOURCE_SET_MANAGEMENT),
        partner: mask.contains(SOURCE_SET_PARTNERS),
        blocks,
        sets: names.sets(mask, Names::source_set),
        rules,
        known_under,
    })
}

/// The source as `KNOWN_SOURCES` has it: of IPv6 the first 64 bits.
fn known(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            bytes[8..].fill(0);
            bytes
        }
    }
}

/// A SYN to the access service from this address, and the device it would come in on; `None`:
/// the plan in force has no such service in the address's family.
pub fn syn_to_access(state: &Path, source: IpAddr) -> Option<(String, PacketSpec)> {
    let plan = state::read(state).ok().flatten()?.plan;
    let rows = plan.rows.iter().filter(|row| row.name == crate::firewall::plan::RULE_ACCESS);
    let (port, destination) = rows.into_iter().find_map(|row| {
        let own = row.to.iter().chain(&plan.own_addresses);
        let mut same = own.filter(|own| own.is_ipv4() == source.is_ipv4());
        Some((row.ports.first()?.0, *same.next()?))
    })?;
    let interface = plan.interfaces.iter().find(|one| one.zone == Zone::External)?;
    let spec = PacketSpec {
        vlans: interface.vlan.into_iter().collect(),
        source,
        destination,
        protocol: super::protocol::TCP,
        source_port: 40_000,
        destination_port: port,
        tcp_flags: 2,
        icmp: (0, 0),
        hop_limit: None,
        payload: Vec::new(),
    };
    Some((interface.device.clone(), spec))
}
