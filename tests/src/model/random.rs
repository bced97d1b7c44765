//! Worlds made up by a seed.

use std::net::IpAddr;

use super::world::{
    Block, Carries, Flow, Limit, Limits, Place, Prefix, Rule, Scope, Service, Vlan, Why, World,
    four, six,
};

/// A small generator (SplitMix64): the same run for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.number() as u8
    }
}

/// Ports that worlds and packets have in common.
pub const PORTS: [u16; 14] =
    [0, 22, 53, 67, 68, 443, 546, 547, 3478, 5060, 5061, 5062, 50_000, 65_535];
/// Protocols that rules and packets have in common.
pub const PROTOCOLS: [u8; 6] = [1, 58, 47, 50, 51, 132];

/// Our own addresses of a family.
pub const OWN4: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 99]];
/// Our own addresses of a family.
pub const OWN6: [[u16; 8]; 2] =
    [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99]];

/// Our own addresses.
pub fn own_addresses(v4: bool) -> [IpAddr; 2] {
    if v4 { OWN4.map(four) } else { OWN6.map(six) }
}

/// An address from a small neighbourhood, so that packets meet what worlds say.
pub fn any_source(random: &mut Random, v4: bool) -> IpAddr {
    let low = random.below(4) as u8;
    if v4 {
        four([198, random.pick(&[18, 18, 19]), random.below(3) as u8, low])
    } else {
        let third = random.below(3) as u16;
        six([0x2001, 0xdb9, third, random.below(2) as u16, 0, 0, 0, low.into()])
    }
}

fn any_prefix(random: &mut Random) -> Prefix {
    let v4 = random.once_in(2);
    let lengths: &[u8] = if v4 {
        &[16, 22, 23, 24, 25, 30, 31, 32, 32]
    } else {
        &[20, 32, 47, 48, 49, 64, 126, 128, 128]
    };
    Prefix { address: any_source(random, v4), length: random.pick(lengths) }
}

fn any_service(random: &mut Random) -> Service {
    if random.once_in(4) {
        return Service::Protocol(random.pick(&PROTOCOLS));
    }
    let first = random.pick(&PORTS);
    let last = first.saturating_add(random.pick(&[0, 0, 0, 1, 5]));
    Service::Ports(random.once_in(2), first, last)
}

fn any_zone(random: &mut Random) -> Option<u8> {
    if random.once_in(8) {
        random.pick(&[None, Some(2)])
    } else {
        random.pick(&[Some(0), Some(0), Some(1)])
    }
}

/// Ports of the lists for management, federation and remote users.
fn any_ports(random: &mut Random) -> Vec<(u8, bool, u16)> {
    let count = random.below(4);
    (0..count).map(|_| (random.below(2) as u8, random.once_in(4), random.pick(&PORTS))).collect()
}

/// A world, in second `now`.
pub fn any_world(random: &mut Random, now: u64) -> World {
    let mut world = World {
        device: any_zone(random),
        trunk: !random.once_in(3),
        vlans: Vec::new(),
        monitor: random.once_in(12),
        lldp: random.once_in(2),
        lacp: random.once_in(2),
        dhcp_client: random.once_in(2),
        rules_loaded: !random.once_in(16),
        sources: (0..5).map(|_| any_set(random)).collect(),
        destinations: (0..3).map(|_| own_set(random)).collect(),
        management: any_ports(random),
        federation: any_ports(random),
        remote: any_ports(random),
        block_version: random.below(4) as u32,
        short_form: random.once_in(2),
        ..World::default()
    };
    for outer in 1..4 {
        for inner in [0, 1, 2] {
            if !random.once_in(3) {
                world.vlans.push(Vlan { outer, inner, zone: any_zone(random) });
            }
        }
    }
    world.limits = (0..4).map(|_| any_limits(random)).collect();
    let rules = random.below(30) as u32;
    world.rules = (0..rules).map(|id| any_rule(random, id)).collect();
    for _ in 0..random.below(10) {
        let block = any_block(random, now);
        let known = |other: &Block| same(&other.prefix, &block.prefix);
        if !world.blocks.iter().any(known) {
            world.blocks.push(block);
        }
    }
    world.flows = (0..random.below(8)).map(|_| any_flow(random, now)).collect();
    world.flows.dedup_by_key(|flow| Flow { left_at: 0, ..*flow });
    world
}

fn same(one: &Prefix, other: &Prefix) -> bool {
    one.length == other.length && one.contains(other.address)
}

fn any_set(random: &mut Random) -> Vec<Prefix> {
    let count = random.below(4);
    (0..count).map(|_| any_prefix(random)).collect()
}

fn own_set(random: &mut Random) -> Vec<IpAddr> {
    let all = [own_addresses(true), own_addresses(false)].concat();
    all.into_iter().filter(|_| random.once_in(2)).collect()
}

fn any_rule(random: &mut Random, id: u32) -> Rule {
    Rule {
        id,
        zone: random.pick(&[0, 0, 0, 1]),
        to: any_service(random),
        sources: random.pick(&[None, None, Some(0), Some(1), Some(2), Some(3), Some(4)]),
        destinations: random.pick(&[None, None, Some(0), Some(1), Some(2)]),
        drop: random.once_in(4),
        content: random.pick(&[
            Carries::Anything,
            Carries::Anything,
            Carries::Anything,
            Carries::Sip,
            Carries::Stun,
            Carries::Media,
        ]),
        limits: random.pick(&[None, None, None, Some(0), Some(1), Some(2), Some(3)]),
    }
}

fn any_limit(random: &mut Random, limits: &[(u64, u64)]) -> Limit {
    if random.once_in(2) {
        return Limit::default();
    }
    let (per_second, burst) = random.pick(limits);
    Limit { per_second, burst }
}

fn any_scope(random: &mut Random) -> Scope {
    if random.once_in(3) {
        return Scope::default();
    }
    let few = [(1, 0), (1, 3), (50, 0), (50, 2), (1000, 5), (1_000_000, 100)];
    Scope {
        new: any_limit(random, &few),
        packets: any_limit(random, &few),
        bytes: any_limit(random, &[(100, 200), (10_000, 0), (100_000, 1000), (1 << 40, 0)]),
    }
}

fn any_limits(random: &mut Random) -> Limits {
    Limits { source: any_scope(random), total: any_scope(random) }
}

fn any_block(random: &mut Random, now: u64) -> Block {
    let now = now as u32;
    Block {
        prefix: any_prefix(random),
        place: random.pick(&[
            Place::Everywhere,
            Place::Everywhere,
            Place::Everywhere,
            Place::Federation,
            Place::Remote,
            Place::Both,
        ]),
        why: random.pick(&[Why::Administrator, Why::Administrator, Why::Domain, Why::OurOwn]),
        ends: random.pick(&[0, 0, now.saturating_sub(100).max(1), now + 10_000]),
        from_version: random.pick(&[0, 0, 1, 2, 3]),
        until_version: random.pick(&[0, 0, 0, 1, 2, 3]),
    }
}

fn any_flow(random: &mut Random, now: u64) -> Flow {
    let v4 = random.once_in(2);
    let echo = random.once_in(3);
    Flow {
        protocol: if !echo {
            17
        } else if v4 {
            1
        } else {
            58
        },
        local: random.pick(&own_addresses(v4)),
        local_port: random.pick(&PORTS),
        remote: any_source(random, v4),
        remote_port: if echo { 0 } else { random.pick(&PORTS) },
        left_at: random.pick(&[now, now.saturating_sub(30), now.saturating_sub(300), now + 1]),
    }
}
