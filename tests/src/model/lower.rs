//! From plain lists to the kernel's tables: the only file of the model that knows their layout.

use std::{collections::BTreeSet, net::IpAddr};

use edge_ebpf::{
    abi::{
        self, ACTION_DROP, ACTION_PASS, CONTENT_ANY, CONTENT_MEDIA, CONTENT_SIP, CONTENT_STUN,
        Interface, NO_GENERATION, RULE_DESTINATION4, RULE_DESTINATION6, SCHEMA, SET_ANY,
        SETTING_DHCP_CLIENT, SETTING_LACP, SETTING_LLDP, SETTING_MONITOR, SETTING_PINHOLES,
        SetMask, Settings, VlanKey, WORD_FEDERATION, WORD_MANAGEMENT, WORD_MEDIA, WORD_REMOTE,
        mapped, open_word, port_index, protocol_index, word, word4, words6,
    },
    decide::{Generation, MemoryTables},
    verdict::Reason,
};

use super::world::{Block, Carries, Flow, Limit, Place, Prefix, Rule, Scope, Service, Why, World};
use crate::kernel::TEST_IFINDEX;

/// The number of trials.
pub const TRIAL: u64 = 0x7217_0000_0000_0001;

/// The tables that say what the world says.
pub fn tables(world: &World) -> MemoryTables {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    let mut tables = MemoryTables {
        settings: Settings {
            schema: SCHEMA,
            generation: if world.rules_loaded { 1 } else { NO_GENERATION },
            shadow: NO_GENERATION,
            flags: flag(world.monitor, SETTING_MONITOR)
                | flag(world.lldp, SETTING_LLDP)
                | flag(world.lacp, SETTING_LACP)
                | flag(world.dhcp_client, SETTING_DHCP_CLIENT)
                // As with the media ports below: there are no pinholes.
                | flag(world.short_form, SETTING_PINHOLES),
            block_version: world.block_version,
            hash_seed: 0x5eed,
            trial: TRIAL,
            ..Settings::default()
        },
        ..MemoryTables::default()
    };
    let interface = |zone: Option<u8>, trunk| Interface {
        zone_plus_one: zone.map_or(0, |zone| zone + 1),
        trunk,
        slot: 1,
        reserved: 0,
    };
    tables.interfaces.insert(TEST_IFINDEX, interface(world.device, world.trunk.into()));
    for vlan in &world.vlans {
        let key = VlanKey { ifindex: TEST_IFINDEX, outer: vlan.outer, inner: vlan.inner };
        tables.vlans.insert(key, interface(vlan.zone, 0));
    }
    for entry in &world.blocks {
        block(&mut tables, entry);
    }
    for known in &world.flows {
        tables.flows.insert(flow(known), known.left_at);
    }
    for socket in &world.sockets {
        tables.sockets.insert(flow(socket));
    }
    tables.generations[1] = generation(world);
    tables
}

/// The sixteen bytes of an address in keys.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn flow(flow: &Flow) -> abi::FlowKey {
    abi::FlowKey {
        local: sixteen(flow.local),
        remote: sixteen(flow.remote),
        local_port: flow.local_port.to_be_bytes(),
        remote_port: flow.remote_port.to_be_bytes(),
        protocol: flow.protocol,
        reserved: [0; 3],
    }
}

fn block(tables: &mut MemoryTables, block: &Block) {
    let reason = match block.why {
        Why::Administrator => Reason::BlockedAddress,
        Why::Domain => Reason::BlockedDomain,
        Why::OurOwn => Reason::BadSource,
    };
    let scope = match block.place {
        Place::Everywhere => abi::SCOPE_ALL,
        Place::Federation => abi::SCOPE_FEDERATION,
        Place::Remote => abi::SCOPE_REMOTE,
        Place::Both => abi::SCOPE_FEDERATION | abi::SCOPE_REMOTE,
    };
    let entry = abi::Block {
        from_version: block.from_version,
        until_version: block.until_version,
        ..abi::Block::new(scope, reason as u8, 1, block.ends)
    };
    match block.prefix.address {
        IpAddr::V4(address) => tables.block4(address.octets(), block.prefix.length, entry),
        IpAddr::V6(address) => tables.block6(address.octets(), block.prefix.length, entry),
    }
}

fn limits(scope: &Scope) -> abi::Limits {
    let limit = |limit: Limit| abi::Limit::new(limit.per_second, limit.burst);
    abi::Limits { new: limit(scope.new), packets: limit(scope.packets), bytes: limit(scope.bytes) }
}

fn generation(world: &World) -> Generation {
    let mut generation = Generation::default();
    // The first is not used.
    generation.rates.push(abi::RuleLimits::default());
    generation.rates.extend(
        world.limits.iter().map(|rule| abi::RuleLimits {
            source: limits(&rule.source),
            total: limits(&rule.total),
        }),
    );
    for prefix in world.sources.iter().flatten() {
        let mut mask = SetMask::default();
        for (number, set) in (0..).zip(&world.sources) {
            // The longest prefix has the say, so it says what those around it say too.
            if set.iter().any(|other| covers(other, prefix)) {
                mask = mask.with(number);
            }
        }
        match prefix.address {
            IpAddr::V4(address) => {
                generation.sources4.insert(address.octets(), prefix.length, mask);
            }
            IpAddr::V6(address) => {
                generation.sources6.insert(address.octets(), prefix.length, mask);
            }
        }
    }
    for (number, set) in (0..).zip(&world.destinations) {
        for address in set {
            let mask = generation.destinations.entry(sixteen(*address)).or_default();
            *mask = mask.with(number);
        }
    }
    for (zone, udp, port) in ports(world) {
        let word = port_word(world, &mut generation, zone, udp, port);
        if word != 0 {
            generation.port_words.insert(port_index(zone, udp, port), word);
        }
    }
    for zone in 0..2 {
        for number in 0..=255 {
            let of: Vec<&Rule> = world
                .rules
                .iter()
                .filter(|rule| rule.zone == zone && rule.to == Service::Protocol(number))
                .collect();
            if !of.is_empty() {
                let word = run(world, &mut generation, &of, 0);
                generation.protocol_words.insert(protocol_index(zone, number), word);
            }
        }
    }
    generation
}

fn covers(around: &Prefix, inner: &Prefix) -> bool {
    around.length <= inner.length && around.contains(inner.address)
}

/// Every port that anything is said of.
fn ports(world: &World) -> BTreeSet<(u8, bool, u16)> {
    let mut ports: BTreeSet<_> = [&world.management, &world.federation, &world.remote]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    for rule in &world.rules {
        if let Service::Ports(udp, first, last) = rule.to {
            ports.extend((first..=last).map(|port| (rule.zone, udp, port)));
        }
    }
    ports
}

fn port_word(world: &World, into: &mut Generation, zone: u8, udp: bool, port: u16) -> u32 {
    let covers = |rule: &&Rule| {
        rule.zone == zone
            && matches!(rule.to, Service::Ports(of, first, last)
                if of == udp && first <= port && port <= last)
    };
    let of: Vec<&Rule> = world.rules.iter().filter(covers).collect();
    let mut flags = 0;
    if world.management.contains(&(zone, udp, port)) {
        flags |= WORD_MANAGEMENT;
    }
    if world.federation.contains(&(zone, udp, port)) {
        flags |= WORD_FEDERATION;
    }
    if world.remote.contains(&(zone, udp, port)) {
        flags |= WORD_REMOTE;
    }
    // There are no media flows in this world, so that it makes no difference.
    if udp && port.is_multiple_of(2) {
        flags |= WORD_MEDIA;
    }
    if of.is_empty() {
        return flags;
    }
    run(world, into, &of, flags)
}

fn run(world: &World, into: &mut Generation, of: &[&Rule], flags: u32) -> u32 {
    let first = of[0];
    let plain = first.limits.is_none() && first.content == Carries::Anything && !first.drop;
    let all = first.sources.is_none() && first.destinations.is_none() && plain;
    if all && world.short_form {
        return open_word(first.id, flags);
    }
    let at = u32::try_from(into.rules.len()).expect("few rules");
    into.rules.extend(of.iter().map(|rule| kernel_rule(world, rule)));
    word(at, u32::try_from(of.len()).expect("few rules"), flags)
}

fn kernel_rule(world: &World, rule: &Rule) -> abi::Rule {
    let set = |set: Option<usize>| set.map_or(SET_ANY, |set| u8::try_from(set).expect("few sets"));
    let mut kernel = abi::Rule {
        id: rule.id,
        source_set: set(rule.sources),
        destination_set: set(rule.destinations),
        action: if rule.drop { ACTION_DROP } else { ACTION_PASS },
        limits: rule.limits.map_or(0, |limits| u16::try_from(limits + 1).expect("few limits")),
        content: match rule.content {
            Carries::Anything => CONTENT_ANY,
            Carries::Sip => CONTENT_SIP,
            Carries::Stun => CONTENT_STUN,
            Carries::Media => CONTENT_MEDIA,
        },
        ..abi::Rule::default()
    };
    for address in rule.destinations.iter().flat_map(|set| &world.destinations[*set]) {
        match address {
            IpAddr::V4(address) => {
                kernel.flags |= RULE_DESTINATION4;
                kernel.destination4 = word4(address.octets());
            }
            IpAddr::V6(address) => {
                kernel.flags |= RULE_DESTINATION6;
                kernel.destination6 = words6(address.octets());
            }
        }
    }
    kernel
}
