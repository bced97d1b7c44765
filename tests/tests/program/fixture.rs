//! What the tests share: a rule set, addresses of both families, a namespace.

use std::{net::IpAddr, process::Command, thread};

use edge_ebpf::{
    abi::{
        ACTION_DROP, ACTION_PASS, Block, Interface, Rule, SCHEMA, SCOPE_ALL, SCOPE_FEDERATION,
        SCOPE_REMOTE, SET_ANY, SOURCE_SET_MANAGEMENT, SetMask, Settings, VlanKey, WORD_FEDERATION,
        WORD_MANAGEMENT, WORD_REMOTE, ZONE_EXTERNAL, mapped, open_word, port_index, protocol_index,
        word,
    },
    decide::{Decision, Generation, MemoryTables, judge},
    packet::Frame,
    verdict::{Reason, Verdict},
};
use edge_tests::kernel::{Kernel, TEST_IFINDEX};
use edge_user::firewall::KERNEL_OBJECT;

/// A VLAN with a zone, alone and with a second tag in it.
pub const VLAN: u16 = 100;
/// The second tag.
pub const INNER_VLAN: u16 = 200;
/// Open to all, a federation port.
pub const FEDERATION_PORT: u16 = 5061;
/// Open to all, for remote users.
pub const REMOTE_PORT: u16 = 5443;
/// Open to the partners only.
pub const PARTNER_PORT: u16 = 8443;
/// Open on the second address only.
pub const SECOND_PORT: u16 = 9443;
/// Closed by a rule.
pub const CLOSED_PORT: u16 = 7000;
/// For management.
pub const MANAGEMENT_PORT: u16 = 22;
/// Rule ids, in the order of the ports above.
pub const RULE_IDS: [u32; 5] = [7, 9, 10, 11, 12];

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Ours.
    pub me: IpAddr,
    /// Ours too.
    pub second: IpAddr,
    /// A stranger.
    pub stranger: IpAddr,
    /// In the management prefix.
    pub management: IpAddr,
    /// In the partners' prefix.
    pub partner: IpAddr,
    /// Blocked by an administrator.
    pub blocked: IpAddr,
    /// Blocked because of its domain.
    pub blocked_domain: IpAddr,
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Both families.
pub fn sides() -> [Side; 2] {
    [
        Side {
            me: address("192.0.2.1"),
            second: address("192.0.2.99"),
            stranger: address("203.0.113.9"),
            management: address("198.51.100.7"),
            partner: address("198.18.3.3"),
            blocked: address("198.18.1.1"),
            blocked_domain: address("198.18.2.2"),
        },
        Side {
            me: address("2001:db8::1"),
            second: address("2001:db8::99"),
            stranger: address("2001:db8:5::9"),
            management: address("2001:db8:22::7"),
            partner: address("2001:db8:33::3"),
            blocked: address("2001:db8:bad::1"),
            blocked_domain: address("2001:db8:bae::2"),
        },
    ]
}

/// The 16-byte form of an address.
pub fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn rule(id: u32, source_set: u8, destination_set: u8, action: u8) -> Rule {
    Rule { id, source_set, destination_set, action, ..Rule::default() }
}

fn sources(generation: &mut Generation, address: IpAddr, length: [u8; 2], set: u8) {
    let mask = SetMask::default().with(set);
    match address {
        IpAddr::V4(address) => generation.sources4.insert(address.octets(), length[0], mask),
        IpAddr::V6(address) => generation.sources6.insert(address.octets(), length[1], mask),
    }
}

/// Blocks an address or prefix.
pub fn block(tables: &mut MemoryTables, address: IpAddr, length: u8, block: Block) {
    match address {
        IpAddr::V4(address) => tables.block4(address.octets(), length, block),
        IpAddr::V6(address) => tables.block6(address.octets(), length, block),
    }
}

/// A block of everything, for ever.
pub const FOREVER: Block = Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 0);
/// Of who guesses passwords.
pub const GUESSER: Block = Block::new(SCOPE_REMOTE, Reason::BlockedAddress as u8, 1, 0);
/// A domain's block.
pub const DOMAIN: Block = Block::new(SCOPE_FEDERATION, Reason::BlockedDomain as u8, 1, 0);

/// The rule set of the tests, in generation 1.
pub fn tables() -> MemoryTables {
    let mut tables = MemoryTables {
        settings: Settings { schema: SCHEMA, generation: 1, ..Settings::default() },
        now_seconds: now_seconds(),
        ..MemoryTables::default()
    };
    let external = Interface { zone_plus_one: ZONE_EXTERNAL + 1, trunk: 1, slot: 0, reserved: 0 };
    tables.interfaces.insert(TEST_IFINDEX, external);
    for inner in [0, INNER_VLAN] {
        let key = VlanKey { ifindex: TEST_IFINDEX, outer: VLAN, inner };
        tables.vlans.insert(key, Interface { trunk: 0, ..external });
    }
    let generation = &mut tables.generations[1];
    generation.rules = vec![
        rule(RULE_IDS[0], SET_ANY, SET_ANY, ACTION_PASS),
        rule(RULE_IDS[1], 1, SET_ANY, ACTION_PASS),
        rule(RULE_IDS[2], SET_ANY, 40, ACTION_PASS),
        rule(RULE_IDS[3], SET_ANY, SET_ANY, ACTION_DROP),
        rule(RULE_IDS[4], SET_ANY, SET_ANY, ACTION_PASS),
    ];
    for udp in [false, true] {
        let mut port = |port, word| {
            generation.port_words.insert(port_index(ZONE_EXTERNAL, udp, port), word);
        };
        port(FEDERATION_PORT, open_word(RULE_IDS[0], WORD_FEDERATION));
        port(REMOTE_PORT, open_word(RULE_IDS[0], WORD_REMOTE));
        port(PARTNER_PORT, word(1, 1, 0));
        port(SECOND_PORT, word(2, 1, 0));
        port(CLOSED_PORT, word(3, 1, 0));
        port(MANAGEMENT_PORT, word(0, 0, WORD_MANAGEMENT));
    }
    for protocol in [1, 58] {
        generation.protocol_words.insert(protocol_index(ZONE_EXTERNAL, protocol), word(4, 1, 0));
    }
    for side in sides() {
        sources(generation, side.management, [24, 64], SOURCE_SET_MANAGEMENT);
        sources(generation, side.partner, [24, 64], 1);
        generation.destinations.insert(sixteen(side.second), SetMask::default().with(40));
    }
    for side in sides() {
        let host = if side.me.is_ipv4() { 32 } else { 128 };
        block(&mut tables, side.blocked, host, FOREVER);
        block(&mut tables, side.blocked_domain, host, DOMAIN);
    }
    tables
}

/// Seconds since boot, as the program counts them.
pub fn now_seconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).expect("after boot")
}

/// The program and the tables that are in its maps.
pub struct Bench {
    /// The program.
    pub kernel: Kernel,
    /// What its maps say.
    pub tables: MemoryTables,
}

impl Bench {
    /// The program with the rule set of the tests.
    pub fn new() -> Self {
        let mut kernel = Kernel::load(KERNEL_OBJECT).expect("the program loads");
        let tables = tables();
        kernel.apply(&tables).expect("the maps are written");
        Self { kernel, tables }
    }

    /// Changes the tables, and the maps with them.
    pub fn change(&mut self, change: impl FnOnce(&mut MemoryTables)) {
        change(&mut self.tables);
        self.kernel.apply(&self.tables).expect("the maps are written");
    }

    /// What the decision says on the host.
    pub fn on_host(&mut self, frame: &[u8]) -> Decision {
        self.tables.now_seconds = now_seconds();
        let settings = self.tables.settings;
        judge(&self.tables, &settings, &Frame::new(frame), &frame, TEST_IFINDEX)
    }

    /// Asserts that the kernel drops or passes the frame for this reason.
    #[track_caller]
    pub fn kernel_says(&mut self, frame: &[u8], reason: Reason) {
        let (verdict, counted) = self.kernel.judge(frame).expect("the frame is judged");
        assert_eq!(counted, reason, "frame {frame:02x?}");
        let monitored = self.tables.settings.flags & edge_ebpf::abi::SETTING_MONITOR != 0;
        let expected = if monitored { Verdict::Pass } else { reason.verdict() };
        assert_eq!(verdict, expected, "{reason:?}");
    }

    /// Asserts that kernel and host agree on this reason.
    #[track_caller]
    pub fn both_say(&mut self, frame: &[u8], reason: Reason) {
        // The same first fragment twice would be an overlap.
        self.kernel.forget_packets().unwrap();
        self.tables.fragments.borrow_mut().clear();
        self.kernel_says(frame, reason);
        assert_eq!(self.on_host(frame).reason, reason, "on the host, frame {frame:02x?}");
    }
}

/// Runs a test in a network namespace of its own, with all addresses of [`sides`] on its
/// loopback. The namespace ends with the thread.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: only this thread moves, and it ends after the test.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "a network namespace (needs root)");
        ip(&["link", "set", "lo", "up"]);
        for side in sides() {
            let length = if side.me.is_ipv4() { "32" } else { "128" };
            for own in [side.me, side.second] {
                ip(&["addr", "add", &format!("{own}/{length}"), "dev", "lo"]);
            }
            let family = if side.me.is_ipv4() { "-4" } else { "-6" };
            ip(&[family, "route", "add", "default", "dev", "lo"]);
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().expect("the ip command");
    assert!(done.success(), "ip {arguments:?}");
}

/// Keeps this thread on one CPU: what is kept for each CPU is then kept once.
pub fn stay_on_one_cpu() {
    // SAFETY: the set is plain data, initialised before it is handed over.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).expect("a CPU"), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    assert_eq!(done, 0, "the thread stays where it is");
}
