//! Lists against a plain model, looked at after every single write.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Instant, SystemTime},
};

use proptest::prelude::*;

use super::{
    tests::{ROOM, Tables, moment, owner, prefixes, request},
    *,
};

/// Two thousand passed when this was written; they take minutes.
const CASES: u32 = 48;
const FLAGS: u32 = SETTING_BLOCKS | SETTING_SHORT_PREFIXES6;

fn list(name: &str, members: &[IpNet], ends: Option<u64>) -> Arc<List> {
    let about = ListAbout {
        name: name.to_owned(),
        comment: None,
        expires_at: ends.map(|seconds| moment(seconds).wall),
        by: String::new(),
        at: SystemTime::UNIX_EPOCH,
    };
    Arc::new(List { about, content: Arc::new(members.iter().copied().collect()) })
}

/// What is held, as a plain list: prefix, holder, whether it drops everything, and its end.
#[derive(Clone, Default)]
struct Truth(BTreeMap<(IpNet, String), (bool, Option<u64>)>);

impl Truth {
    fn set_list(&mut self, name: &str, members: &[IpNet], ends: Option<u64>) {
        self.0.retain(|(_, holder), _| holder != name);
        for prefix in members {
            self.0.insert((*prefix, name.to_owned()), (true, ends));
        }
    }

    fn drops(&self, source: IpAddr, at: u64, federation: bool) -> bool {
        self.0.iter().any(|((prefix, _), (all, ends))| {
            prefix.contains(&source) && (*all || federation) && ends.is_none_or(|end| end > at)
        })
    }

    fn prefixes(&self) -> BTreeSet<IpNet> {
        self.0.keys().map(|(prefix, _)| *prefix).collect()
    }
}

/// What must and may be dropped of a source, before and after the step.
struct Expected {
    source: IpAddr,
    /// To a federation port.
    federation: bool,
    /// Seconds from now.
    later: u64,
    must: [bool; 2],
    may: [bool; 2],
}

/// The tables, with what must hold after each write.
struct Watched {
    tables: Tables,
    before: Truth,
    after: Truth,
    expected: Vec<Expected>,
    watching: bool,
    fail_in: Option<u32>,
    fault: Option<String>,
}

impl Watched {
    fn sources(&self) -> BTreeSet<IpAddr> {
        let all = self.before.prefixes().into_iter().chain(self.after.prefixes());
        let ends = all.flat_map(|net| [net.network(), net.broadcast()]);
        ends.chain(["203.0.113.1".parse().unwrap(), "3fff::1".parse().unwrap()]).collect()
    }

    /// Works out [`Expected`] of every source.
    fn learn(&mut self) {
        let holds: BTreeSet<&(IpNet, String)> =
            self.before.0.keys().chain(self.after.0.keys()).collect();
        let mut expected = Vec::new();
        for source in self.sources() {
            // Several hold it, or prefixes around it.
            let nested = holds.iter().filter(|(net, _)| net.contains(&source)).count() > 1;
            for federation in [false, true] {
                for later in [0, 7, 30] {
                    let drops = [&self.before, &self.after]
                        .map(|truth| truth.drops(source, later, federation));
                    // A block may last longer than its holder asked, never shorter.
                    let may = drops.map(|drops| {
                        drops
                            || later > 0
                            || nested
                                && (self.before.drops(source, later, federation)
                                    || self.after.drops(source, later, federation))
                    });
                    expected.push(Expected { source, federation, later, must: drops, may });
                }
            }
        }
        self.expected = expected;
    }

    fn check(&mut self, what: &str) {
        let side = usize::from(self.tables.version > 0);
        for Expected { source, federation, later, must, may } in &self.expected {
            let found = self.tables.look_up_for(*source, FLAGS, 500 + later, *federation);
            if self.fault.is_none()
                && (found.is_none() && must[side] || found.is_some() && !may[side])
            {
                self.fault = Some(format!(
                    "{what}: {source} federation {federation} in {later} s, side {side}: \
                     {found:?}, must {must:?} may {may:?}"
                ));
            }
        }
    }

    fn write(&mut self) -> Result<(), FirewallError> {
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                return Err(FirewallError::Stopped);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl BlockSink for Watched {
    fn put(&mut self, prefix: IpNet, block: &Block) -> Result<(), FirewallError> {
        self.write()?;
        self.tables.put(prefix, block)?;
        if self.watching {
            self.check(&format!("put {prefix} {block:?}"));
        }
        Ok(())
    }
    fn remove(&mut self, prefix: IpNet) -> Result<(), FirewallError> {
        self.write()?;
        self.tables.remove(prefix)?;
        if self.watching {
            self.check(&format!("remove {prefix}"));
        }
        Ok(())
    }
    fn presence(&mut self, bitmap: Bitmap, slot: u32, word: u64) -> Result<(), FirewallError> {
        self.write()?;
        self.tables.presence(bitmap, slot, word)?;
        if self.watching {
            self.check(&format!("presence {slot}"));
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Meanwhile {
    Block(IpNet, u8, Option<u64>),
    Unblock(IpNet, u8),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        (prefixes(), 0u8..3, prop::option::of(1u64..50))
            .prop_map(|(prefix, by, ends)| Meanwhile::Block(prefix, by, ends)),
        (prefixes(), 0u8..3).prop_map(|(prefix, by)| Meanwhile::Unblock(prefix, by)),
    ]
}

/// Another block comes or goes between two slices.
fn apply(step: &Meanwhile, table: &mut BlockTable, sink: &mut Watched) {
    match step {
        Meanwhile::Block(prefix, by, ends) => {
            table.block(&request(&prefix.to_string(), owner(*by), *ends)).unwrap();
            for truth in [&mut sink.before, &mut sink.after] {
                truth.0.insert((*prefix, format!("owner {by}")), (*by < 2, *ends));
            }
        }
        Meanwhile::Unblock(prefix, by) => {
            table.unblock(prefix, &owner(*by));
            for truth in [&mut sink.before, &mut sink.after] {
                truth.0.remove(&(*prefix, format!("owner {by}")));
            }
        }
    }
    sink.watching = false;
    let fail_in = sink.fail_in.take();
    table.flush(moment(0), sink).unwrap();
    sink.fail_in = fail_in;
    sink.learn();
    sink.check(&format!("after {step:?}"));
    sink.watching = true;
}

/// Takes the change to its end; others come and go between its slices.
fn finish(table: &mut BlockTable, sink: &mut Watched, meanwhile: &mut Vec<Meanwhile>) -> bool {
    let mut whole = true;
    loop {
        match table.advance(moment(0), sink, Instant::now()) {
            Ok(Progress::Done(_)) => return whole,
            Ok(Progress::Staged) => {
                sink.tables.version = table.staged_version().unwrap();
                table.stored();
                sink.check("the step");
            }
            Ok(Progress::Working) => {}
            Err(_) => {
                // What was staged is taken back; what is in force already is tried again.
                whole &= !table.give_up();
            }
        }
        if let Some(step) = meanwhile.pop() {
            apply(&step, table, sink);
        }
    }
}

fn members() -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::vec(prefixes(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Whatever lists and blocks there are and whatever comes between, a list changes in one step;
    /// where prefixes cover each other or have several holders, and only there, both lists hold on
    /// the way. Afterwards the tables hold exactly what is held.
    #[test]
    fn a_list_changes_in_one_step(
        (old, new, other) in (members(), members(), members()),
        ends in (prop::option::of(3u64..40), prop::option::of(3u64..40), prop::option::of(3u64..40)),
        first in prop::collection::vec(meanwhile(), 0..6),
        mut between in prop::collection::vec(meanwhile(), 0..6),
        (gone, fail_in) in (any::<bool>(), prop::option::of(0u32..40)),
    ) {
        let mut table = BlockTable::new(ROOM);
        let mut sink = Watched {
            tables: Tables::default(),
            before: Truth::default(),
            after: Truth::default(),
            expected: Vec::new(),
            watching: false,
            fail_in: None,
            fault: None,
        };
        for (name, members, ends) in [("other", &other, ends.0), ("list", &old, ends.1)] {
            table.begin(name, Some(list(name, members, ends)), 1).unwrap();
            sink.before.set_list(name, members, ends);
            sink.after = sink.before.clone();
            while !matches!(
                table.advance(moment(0), &mut sink, Instant::now()).unwrap(),
                Progress::Staged
            ) {}
            sink.tables.version = 1;
            table.stored();
            finish(&mut table, &mut sink, &mut Vec::new());
            // As after a start: everything is in force, and the versions begin anew.
            for block in sink.tables.entries.values_mut() {
                block.from_version = 0;
            }
            sink.tables.version = 0;
        }
        for step in &first {
            apply(step, &mut table, &mut sink);
        }
        prop_assert_eq!(&sink.fault, &None);

        if !gone {
            sink.after.set_list("list", &new, ends.2);
        } else {
            sink.after.set_list("list", &[], None);
        }
        sink.learn();
        sink.watching = true;
        sink.fail_in = fail_in;
        table.begin("list", (!gone).then(|| list("list", &new, ends.2)), 1).unwrap();
        let whole = finish(&mut table, &mut sink, &mut between);
        sink.fail_in = None;
        table.flush(moment(0), &mut sink).unwrap();
        prop_assert_eq!(&sink.fault, &None);

        let truth = if whole { sink.after.clone() } else { sink.before.clone() };
        (sink.before, sink.after) = (truth.clone(), truth.clone());
        sink.learn();
        sink.check("the end");
        prop_assert_eq!(&sink.fault, &None);
        for source in sink.sources() {
            for federation in [false, true] {
                let found = sink.tables.look_up_for(source, FLAGS, 500, federation).is_some();
                prop_assert_eq!(found, truth.drops(source, 0, federation), "{}", source);
            }
        }
        let held: BTreeSet<IpNet> = truth.prefixes();
        let found: BTreeSet<IpNet> = sink.tables.entries.keys().map(|key| key.prefix()).collect();
        prop_assert_eq!(found, held);
        for ((bitmap, slot), word) in &sink.tables.bits {
            prop_assert_eq!(table.presence().words(*bitmap)[*slot as usize], *word);
        }
        if truth.0.is_empty() {
            prop_assert_eq!(table.flags(), 0);
            prop_assert!(sink.tables.bits.values().all(|word| *word == 0));
        }
    }
}
