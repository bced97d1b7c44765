//! A list of blocks with its name, and how two of them differ.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{BlockTable, Content, Room, key::Lengths};
use crate::firewall::FirewallError;

/// What there is to say about a list besides its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAbout {
    /// Its name.
    pub name: String,
    /// Why it is there.
    pub comment: Option<String>,
    /// When it ends; `None`: when it is taken back.
    pub expires_at: Option<SystemTime>,
    /// Who brought it.
    pub by: String,
    /// When.
    pub at: SystemTime,
}

/// A list of blocks: everything from its members is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Whose it is.
    pub about: ListAbout,
    /// Its members.
    pub content: Arc<Content>,
}

impl List {
    /// Its time is over.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.about.expires_at.is_some_and(|ends| ends <= now)
    }
}

/// How a list differs from the one in force under its name, and whether it fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListTally {
    /// Members that come.
    pub added: u64,
    /// Members that go.
    pub removed: u64,
    /// Members that stay.
    pub kept: u64,
    /// Why it does not fit.
    pub no_room: Option<String>,
}

/// Whether a list may have this name; the mend when not.
///
/// # Errors
/// What a name is made of.
pub fn list_name(text: &str) -> Result<String, String> {
    let fine = (1..=48).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fine {
        Ok(text.to_owned())
    } else {
        Err("a list's name has 1 to 48 small letters, digits and hyphens".to_owned())
    }
}

/// Members of each kind: single addresses and prefixes, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::firewall) struct Counts {
    addresses: [u64; 2],
    prefixes: [u64; 2],
}

impl Counts {
    pub(super) fn of(lengths: &Lengths) -> Self {
        let each = |count: &dyn Fn(bool) -> u32| [false, true].map(|v6| u64::from(count(v6)));
        Self {
            addresses: each(&|v6| lengths.singles(v6)),
            prefixes: each(&|v6| lengths.prefixes(v6)),
        }
    }

    fn and(self, other: Self) -> Self {
        let sum = |a: [u64; 2], b: [u64; 2]| [a[0] + b[0], a[1] + b[1]];
        Self {
            addresses: sum(self.addresses, other.addresses),
            prefixes: sum(self.prefixes, other.prefixes),
        }
    }

    /// Whether so many fit.
    fn fit(self, room: Room) -> Result<(), FirewallError> {
        let kinds = [
            (self.addresses, room.addresses, "addresses", "max_blocked_addresses"),
            (self.prefixes, room.prefixes, "prefixes", "max_blocked_prefixes"),
        ];
        for (used, max, kind, setting) in kinds {
            for family in 0..2 {
                if used[family] > u64::from(max[family]) {
                    let what = match (kind, family) {
                        ("addresses", 0) => "IPv4 addresses",
                        ("addresses", _) => "IPv6 addresses",
                        (_, 0) => "IPv4 prefixes",
                        _ => "IPv6 prefixes",
                    };
                    return Err(FirewallError::BlocksFull { what, setting, max: max[family] });
                }
            }
        }
        Ok(())
    }
}

impl BlockTable {
    /// Whether one more entry fits. A list's members count for each list that names them.
    pub(super) fn check_room(&self, key: super::Key) -> Result<(), FirewallError> {
        let mut one = Lengths::new();
        one.add(key);
        let more = Counts::of(&one).and(Counts::of(&self.lengths));
        let steady = self.steady_lists().map(|list| Counts::of(list.content.lengths()));
        let used = steady.fold(more, Counts::and);
        match &self.change {
            None => used.fit(self.room),
            Some(change) => [&change.old, &change.new]
                .into_iter()
                .flatten()
                .try_for_each(|list| used.and(Counts::of(list.content.lengths())).fit(self.room)),
        }
    }

    /// Whether a list fits in the place of the one of its name.
    pub(super) fn check_list(&self, name: &str, list: &List) -> Result<(), FirewallError> {
        self.used_without(name).and(Counts::of(list.content.lengths())).fit(self.room)
    }

    /// What everything but this list takes.
    fn used_without(&self, name: &str) -> Counts {
        let others = self.lists.iter().filter(|(other, _)| other.as_str() != name);
        others
            .map(|(_, list)| Counts::of(list.content.lengths()))
            .fold(Counts::of(&self.lengths), Counts::and)
    }

    /// The lists in force.
    pub fn lists(&self) -> Vec<Arc<List>> {
        self.lists.values().cloned().collect()
    }

    /// A list whose time is over.
    pub fn ended_list(&self, now: super::Moment) -> Option<Arc<List>> {
        self.lists.values().find(|list| list.is_over(now.wall)).cloned()
    }

    /// The list of this name, and what everything else takes: what [`tally`] needs.
    pub fn outlook(&self, name: &str) -> Outlook {
        Outlook {
            list: self.lists.get(name).cloned(),
            used: self.used_without(name),
            room: self.room,
            management: self.management.clone(),
        }
    }
}

/// What a new list meets.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The list in force under its name.
    pub list: Option<Arc<List>>,
    used: Counts,
    room: Room,
    /// Prefixes that cannot be blocked.
    pub management: Vec<ipnet::IpNet>,
}

impl Outlook {
    /// How a new list differs from the one in force. Looks at every member: not for the owner's
    /// thread.
    pub fn tally(&self, new: &Content) -> ListTally {
        let nothing = Content::default();
        let old = self.list.as_ref().map_or(&nothing, |list| &list.content);
        let mut tally = ListTally::default();
        let (mut before, mut after) = (old.keys().peekable(), new.keys().peekable());
        loop {
            match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(one), Some(two)) if one == two => {
                    tally.kept += 1;
                    before.next();
                    after.next();
                }
                (Some(one), two) if two.is_none_or(|two| one < two) => {
                    tally.removed += 1;
                    before.next();
                }
                _ => {
                    tally.added += 1;
                    after.next();
                }
            }
        }
        let fits = self.used.and(Counts::of(new.lengths())).fit(self.room);
        tally.no_room = fits.err().map(|fault| fault.to_string());
        tally
    }
}
