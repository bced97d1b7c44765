use std::{collections::BTreeMap, time::Duration};

use edge_ebpf::abi::{
    PRESENT_ADDRESSES, PRESENT_PREFIXES, WIDE_CELLS, WIDE_HERE, presence4, presence6,
    presence6_again, presence6_short, presence6_wide,
};
use proptest::prelude::*;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

/// The kernel's tables as plain collections, with the kernel's way of looking up.
#[derive(Default)]
pub(super) struct Tables {
    pub entries: BTreeMap<Key, Block>,
    pub bits: BTreeMap<(Bitmap, u32), u64>,
    pub version: u32,
    /// The kernel takes no entry for this one.
    pub refuses: Option<IpNet>,
}

impl Tables {
    fn taken(&self, prefix: IpNet) -> Result<(), FirewallError> {
        match self.refuses == Some(prefix) {
            true => Err(FirewallError::map("BLOCKED4", "no memory")),
            false => Ok(()),
        }
    }
}

impl BlockSink for Tables {
    fn put(&mut self, prefix: IpNet, block: &Block) -> Result<(), FirewallError> {
        self.taken(prefix)?;
        self.entries.insert(Key::new(&prefix), *block);
        Ok(())
    }
    fn remove(&mut self, prefix: IpNet) -> Result<(), FirewallError> {
        self.taken(prefix)?;
        self.entries.remove(&Key::new(&prefix));
        Ok(())
    }
    fn presence(&mut self, bitmap: Bitmap, slot: u32, word: u64) -> Result<(), FirewallError> {
        self.bits.insert((bitmap, slot), word);
        Ok(())
    }
}

impl Tables {
    /// Presence bit, then exactly the address, then the longest prefix: what the kernel does.
    /// `federation`: the packet goes to a federation port.
    pub fn look_up_for(
        &self,
        source: IpAddr,
        flags: u32,
        seconds: u64,
        federation: bool,
    ) -> Option<Block> {
        let (bitmap, cells) = match source {
            IpAddr::V4(address) => (Bitmap::V4, vec![presence4(address.octets())]),
            IpAddr::V6(address) => {
                (Bitmap::V6, vec![presence6(address.octets()), presence6_again(address.octets())])
            }
        };
        if flags & SETTING_BLOCKS == 0 {
            return None;
        }
        let word = |bitmap, slot| self.bits.get(&(bitmap, slot)).copied().unwrap_or(0);
        let bits = |(slot, at)| (word(bitmap, slot) >> at) as u32;
        let present = cells.into_iter().map(bits).fold(u32::MAX, |all, bits| all & bits);
        let short = |source: [u8; 16]| {
            let (slot, at) = presence6_wide(source);
            let wide = (word(Bitmap::Short6, slot) >> at) as u32;
            let (slot, at) = presence6_short(source);
            let cell = word(Bitmap::Short6, slot) >> at & 1 != 0;
            wide & WIDE_HERE != 0 || wide & WIDE_CELLS != 0 && cell
        };
        let short = match source {
            IpAddr::V6(source) if flags & SETTING_SHORT_PREFIXES6 != 0 => short(source.octets()),
            _ => false,
        };
        let addresses = present & PRESENT_ADDRESSES != 0;
        let prefixes = present & PRESENT_PREFIXES != 0 || short;
        let in_force = |block: &Block| {
            let ends = u64::from(block.expires_at_seconds);
            block.in_version(self.version)
                && (ends == 0 || seconds < ends)
                && (block.scope == SCOPE_ALL || federation)
        };
        let key = Key::new(&IpNet::from(source));
        let exact = self.entries.get(&key).copied().filter(|_| addresses).filter(in_force);
        exact.or_else(|| {
            let around = self.entries.iter().filter(|(net, _)| !net.single() && net.holds(key));
            let (_, longest) = around.max_by_key(|(net, _)| net.length)?;
            Some(*longest).filter(|_| prefixes).filter(in_force)
        })
    }

    fn look_up(&self, source: IpAddr, flags: u32, seconds: u64) -> Option<Block> {
        self.look_up_for(source, flags, seconds, true)
    }
}

pub(super) const ROOM: Room = Room { addresses: [1000; 2], prefixes: [1000; 2] };

pub(super) fn moment(seconds: u64) -> Moment {
    Moment {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds),
        monotonic: Duration::from_secs(500 + seconds),
    }
}

pub(super) fn request(prefix: &str, owner: BlockOwner, ends: Option<u64>) -> BlockRequest {
    BlockRequest {
        prefix: prefix.parse().unwrap(),
        owner,
        comment: None,
        expires_at: ends.map(|seconds| moment(seconds).wall),
    }
}

fn domain(name: &str) -> BlockOwner {
    BlockOwner::Domain(name.parse().unwrap())
}

#[test]
fn what_the_kernel_does_not_take_keeps_nothing_else_out_and_is_tried_again() {
    for refused in ["192.0.2.1/32", "2001:db8::/48"] {
        let mut table = BlockTable::new(ROOM);
        let refuses = Some(refused.parse().unwrap());
        let mut kernel = Tables { refuses, ..Tables::default() };
        let all = ["192.0.2.1/32", "198.51.100.7/32", "2001:db8::/48", "2001:db8:1::/48"];
        for prefix in all {
            table.block(&request(prefix, BlockOwner::Administrator, None)).unwrap();
        }
        assert!(table.flush(moment(0), &mut kernel).is_err());
        let held = |kernel: &Tables, prefix: &str| {
            kernel.entries.contains_key(&Key::new(&prefix.parse().unwrap()))
        };
        for prefix in all {
            assert_eq!(held(&kernel, prefix), prefix != refused, "{prefix} beside {refused}");
        }
        // Whoever asks next is not told of it.
        table.block(&request("203.0.113.9/32", domain("bad.example"), None)).unwrap();
        table.flush(moment(0), &mut kernel).unwrap();
        assert!(held(&kernel, "203.0.113.9/32") && table.is_stuck());
        table.retry();
        assert!(table.flush(moment(1), &mut kernel).is_err());
        kernel.refuses = None;
        table.retry();
        table.flush(moment(2), &mut kernel).unwrap();
        assert!(held(&kernel, refused) && !table.is_stuck());
        // The same on the way out.
        kernel.refuses = refuses;
        for prefix in all {
            table.unblock(&prefix.parse().unwrap(), &BlockOwner::Administrator);
        }
        assert!(table.flush(moment(3), &mut kernel).is_err());
        for prefix in all {
            assert_eq!(held(&kernel, prefix), prefix == refused, "{prefix} beside {refused}");
        }
    }
}

#[test]
fn a_longer_or_shorter_lived_entry_never_weakens_the_prefix_around_it() {
    let (all, some) = (BlockOwner::Administrator, domain("bad.example"));
    let cases: &[(&str, Vec<BlockRequest>, &str, u8, u32)] = &[
        (
            "federation inside all",
            vec![
                request("192.0.2.0/24", all.clone(), None),
                request("192.0.2.0/28", some.clone(), None),
            ],
            "192.0.2.1",
            SCOPE_ALL,
            0,
        ),
        (
            "address under all",
            vec![
                request("192.0.2.1/32", some.clone(), None),
                request("192.0.2.0/24", all.clone(), None),
            ],
            "192.0.2.1",
            SCOPE_ALL,
            0,
        ),
        (
            "ends earlier than what is around it",
            vec![
                request("2001:db8::/32", all.clone(), Some(60)),
                request("2001:db8::1/128", all.clone(), Some(10)),
            ],
            "2001:db8::1",
            SCOPE_ALL,
            560,
        ),
        (
            "two owners: the stronger holds",
            vec![
                request("192.0.2.1/32", some.clone(), None),
                request("192.0.2.1/32", all, Some(5)),
            ],
            "192.0.2.1",
            SCOPE_ALL,
            0,
        ),
        (
            "two owners of two kinds of ports: both, as long as one holds",
            vec![
                request("192.0.2.1/32", some.clone(), Some(5)),
                request("192.0.2.1/32", BlockOwner::WrongPasswords, Some(10)),
            ],
            "192.0.2.1",
            SCOPE_FEDERATION | SCOPE_REMOTE,
            510,
        ),
        (
            "a guesser in a prefix that is blocked for more",
            vec![
                request("2001:db8::/48", BlockOwner::File, None),
                request("2001:db8::/64", BlockOwner::WrongPasswords, Some(10)),
            ],
            "2001:db8::1",
            SCOPE_ALL,
            0,
        ),
        (
            "alone",
            vec![request("2001:db8::1/128", some, Some(10))],
            "2001:db8::1",
            SCOPE_FEDERATION,
            510,
        ),
    ];
    for (name, requests, source, scope, ends) in cases {
        let (mut table, mut tables) = (BlockTable::new(ROOM), Tables::default());
        for request in requests {
            table.block(request).unwrap();
            table.flush(moment(0), &mut tables).unwrap();
        }
        let block = tables.look_up(source.parse().unwrap(), table.flags(), 501).unwrap();
        assert_eq!((block.scope, block.expires_at_seconds), (*scope, *ends), "{name}");
    }
}

#[test]
fn the_block_goes_with_its_last_owner() {
    let (mut table, mut tables) = (BlockTable::new(ROOM), Tables::default());
    let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
    let (one, two) = (domain("one.example"), domain("two.example"));
    table.block(&request("192.0.2.1/32", one.clone(), None)).unwrap();
    table.block(&request("192.0.2.1/32", two.clone(), None)).unwrap();
    assert_eq!(table.flush(moment(0), &mut tables).unwrap().added, 1);
    assert_eq!(tables.entries[&Key::new(&prefix)].owners, 2);
    table.unblock(&prefix, &one);
    assert_eq!(table.flush(moment(0), &mut tables).unwrap().changed, 1);
    table.unblock(&prefix, &two);
    assert_eq!(table.flush(moment(0), &mut tables).unwrap().removed, 1);
    assert!(tables.entries.is_empty() && table.flags() == 0);
    assert!(tables.bits.values().all(|word| *word == 0));
}

#[test]
fn what_ends_by_itself_does_not_end_before_its_time() {
    for began in [0, 1, 400_000_000, 999_999_999] {
        for time in [0, 1, 600_000_000, 999_999_999, 1_000_000_000, 4_000_000_001] {
            let now = Moment {
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
                monotonic: Duration::new(500, began),
            };
            let time = Duration::from_nanos(time);
            let ends = Duration::from_secs(u64::from(now.kernel_seconds(now.wall + time)));
            let late = ends.checked_sub(now.monotonic + time);
            assert!(late.is_some_and(|late| late < Duration::from_secs(1)), "{began} {time:?}");
        }
    }
    let never = Moment { wall: SystemTime::UNIX_EPOCH, monotonic: Duration::ZERO };
    assert_eq!(never.kernel_seconds(never.wall), 1, "0 is for what does not end");
}

#[test]
fn expired_blocks_are_swept_and_the_rest_recomputed() {
    let (mut table, mut tables) = (BlockTable::new(ROOM), Tables::default());
    table.block(&request("192.0.2.0/24", BlockOwner::Administrator, Some(10))).unwrap();
    table.block(&request("192.0.2.1/32", domain("bad.example"), None)).unwrap();
    table.flush(moment(0), &mut tables).unwrap();
    assert_eq!(table.next_expiry(), Some(moment(10).wall));
    table.sweep(moment(10));
    table.flush(moment(10), &mut tables).unwrap();
    let block = tables.look_up("192.0.2.1".parse().unwrap(), table.flags(), 510).unwrap();
    assert_eq!((block.scope, tables.entries.len()), (SCOPE_FEDERATION, 1));
}

#[test]
fn management_prefixes_cannot_be_blocked() {
    let mut table = BlockTable::new(ROOM);
    table.protect(vec!["192.0.2.0/28".parse().unwrap()]);
    for prefix in ["192.0.2.0/28", "192.0.2.1/32", "192.0.0.0/16", "0.0.0.0/0"] {
        let request = request(prefix, BlockOwner::Administrator, None);
        assert!(
            matches!(table.block(&request), Err(FirewallError::ManagementPrefix { .. })),
            "{prefix}"
        );
        let all = table.set_owner(&BlockOwner::File, std::slice::from_ref(&request));
        assert!(all.is_err(), "{prefix}");
        // Others' other addresses are blocked all the same.
        for owner in [domain("bad.example"), BlockOwner::Administrator] {
            let good = self::request("198.51.100.7/32", owner.clone(), None);
            table.set_owner(&owner, &[request.clone(), good]).unwrap();
            assert_eq!(table.entries.len(), 1, "{prefix}");
            table.set_owner(&owner, &[]).unwrap();
            table.flush(moment(0), &mut Tables::default()).unwrap();
        }
    }
    table.block(&request("192.0.2.16/28", BlockOwner::Administrator, None)).unwrap();
}

#[test]
fn a_full_table_refuses_and_says_which() {
    let room = Room { addresses: [1, 1], prefixes: [1, 1] };
    for (first, second) in [
        ("192.0.2.1/32", "192.0.2.2/32"),
        ("192.0.2.0/24", "198.51.100.0/24"),
        ("2001:db8::1/128", "2001:db8::2/128"),
        ("2001:db8::/64", "2001:db8:1::/64"),
    ] {
        let mut table = BlockTable::new(room);
        table.block(&request(first, BlockOwner::File, None)).unwrap();
        table.block(&request(first, BlockOwner::File, None)).unwrap();
        let full = table.block(&request(second, BlockOwner::File, None));
        assert!(matches!(full, Err(FirewallError::BlocksFull { .. })), "{second}");
        // What is full leaves the rest its room.
        let rest = ["203.0.113.1/32", "203.0.113.0/24", "3fff::1/128", "3fff::/32"];
        let all: Vec<_> =
            rest.iter().map(|p| request(p, BlockOwner::Administrator, None)).collect();
        let full = table.set_owner(&BlockOwner::Administrator, &all);
        assert!(matches!(full, Err(FirewallError::BlocksFull { .. })), "{second}");
        assert_eq!(table.entries.len(), 4, "{second}");
    }
}

#[test]
fn what_is_found_in_the_kernel_stays_until_it_is_settled_or_claimed() {
    let now = moment(0);
    let mut tables = Tables::default();
    let mut before = BlockTable::new(ROOM);
    before.block(&request("192.0.2.1/32", BlockOwner::Administrator, None)).unwrap();
    before.block(&request("192.0.2.2/32", domain("bad.example"), None)).unwrap();
    before.block(&request("2001:db8::/64", BlockOwner::File, None)).unwrap();
    before.flush(now, &mut tables).unwrap();

    let mut table = BlockTable::new(ROOM);
    let mut adoption = table.restore(Vec::new());
    for (key, block) in &tables.entries {
        table.adopt(&mut adoption, key.prefix(), *block, 0, now);
    }
    table.adopted(&adoption, now, &mut tables).unwrap();
    let claim = [request("192.0.2.1/32", BlockOwner::Administrator, None)];
    table.set_owner(&BlockOwner::Administrator, &claim).unwrap();
    let applied = table.flush(now, &mut tables).unwrap();
    assert_eq!((applied.added, applied.changed, applied.removed), (0, 0, 0));
    table.unblock(&"192.0.2.2/32".parse().unwrap(), &domain("bad.example"));
    assert_eq!(table.flush(now, &mut tables).unwrap().removed, 1);
    table.settle();
    assert_eq!(table.flush(now, &mut tables).unwrap().removed, 1);
    assert_eq!(tables.entries.len(), 1);
    assert_eq!(table.presence().words(Bitmap::V6).iter().filter(|word| **word != 0).count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Block(IpNet, u8, Option<u64>),
    Unblock(IpNet, u8),
    Sweep(u64),
}

pub(super) fn owner(number: u8) -> BlockOwner {
    match number {
        0 => BlockOwner::File,
        1 => BlockOwner::Administrator,
        _ => domain("bad.example"),
    }
}

/// Prefixes that crowd together, so that they nest and share cells.
pub(super) fn prefixes() -> impl Strategy<Value = IpNet> {
    let v4 = (0u32..4, 0u32..3, 0u32..4, prop::sample::select(vec![8u8, 15, 18, 22, 24, 27, 32]))
        .prop_map(|(a, b, c, length)| {
            let address = 0xc000_0200 + (a << 22) + (b << 8) + c;
            IpNet::new(Ipv4Addr::from(address).into(), length).unwrap().trunc()
        });
    let v6 =
        (0u128..3, 0u128..3, prop::sample::select(vec![12u8, 19, 20, 29, 32, 47, 48, 56, 64, 128]))
            .prop_map(|(a, c, length)| {
                let address = (0x2001_0db8u128 << 96) + (a << 80) + c;
                IpNet::new(Ipv6Addr::from(address).into(), length).unwrap().trunc()
            });
    prop_oneof![v4, v6]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prefixes(), 0u8..3, prop::option::of(1u64..50))
            .prop_map(|(prefix, owner, ends)| Step::Block(prefix, owner, ends)),
        3 => (prefixes(), 0u8..3).prop_map(|(prefix, owner)| Step::Unblock(prefix, owner)),
        1 => (1u64..10).prop_map(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// After any history, for any source: the kernel drops all it must, and nothing that no hold
    /// covers; the bitmaps never hide an entry and never stay set without one (IPv4).
    #[test]
    fn the_kernel_agrees_with_the_list_of_holds(steps in prop::collection::vec(steps(), 1..40)) {
        let (mut table, mut tables) = (BlockTable::new(ROOM), Tables::default());
        let mut holds: BTreeMap<(IpNet, u8), Option<u64>> = BTreeMap::new();
        let mut clock = 0;
        for step in &steps {
            match step {
                Step::Block(prefix, by, ends) => {
                    let ends = ends.map(|seconds| clock + seconds);
                    table.block(&request(&prefix.to_string(), owner(*by), ends)).unwrap();
                    holds.insert((*prefix, *by), ends);
                }
                Step::Unblock(prefix, by) => {
                    table.unblock(prefix, &owner(*by));
                    holds.remove(&(*prefix, *by));
                }
                Step::Sweep(seconds) => {
                    clock += seconds;
                    table.sweep(moment(clock));
                    holds.retain(|_, ends| ends.is_none_or(|at| at > clock));
                }
            }
            table.flush(moment(clock), &mut tables).unwrap();
        }
        for (prefix, _) in holds.keys().copied().chain([("203.0.113.0/24".parse().unwrap(), 0)]) {
            for source in [prefix.network(), prefix.broadcast()] {
                let covering = holds.keys().filter(|(net, _)| net.contains(&source));
                let all = covering.clone().any(|(_, by)| *by < 2);
                let any = covering.count() > 0;
                let found = tables.look_up(source, table.flags(), moment(clock).seconds());
                prop_assert_eq!(found.is_some(), any, "{}", source);
                prop_assert_eq!(found.is_some_and(|b| b.scope == SCOPE_ALL), all, "{}", source);
            }
        }
        let words = table.presence().words(Bitmap::V4);
        for ((_, slot), word) in tables.bits.iter().filter(|((bitmap, _), _)| *bitmap == Bitmap::V4) {
            prop_assert_eq!(words[*slot as usize], *word);
        }
        let set = words.iter().enumerate().filter(|(_, word)| **word != 0);
        for (slot, word) in set {
            prop_assert_eq!(tables.bits.get(&(Bitmap::V4, slot as u32)), Some(word));
            for bit in (0..64).filter(|bit| word & (1 << bit) != 0) {
                let cell = Ipv4Addr::from(((slot as u32) << 13) | ((bit / 2) << 8));
                let cell = IpNet::new(cell.into(), 24).unwrap();
                prop_assert!(holds.keys().any(|(net, _)| overlap(net, &cell)), "{} is stale", cell);
            }
        }
    }
}
