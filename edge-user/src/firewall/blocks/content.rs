//! What a list names: sorted, 8 bytes for an IPv4 prefix and 24 for an IPv6 one, so that a
//! million costs little. Never changed once made.

use std::ops::Range;

use ipnet::IpNet;

use super::key::{Key, Lengths};

/// An IPv6 prefix in 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed6 {
    high: u64,
    low: u64,
    length: u8,
}

fn pack4(key: Key) -> u64 {
    (key.first as u64) << 8 | u64::from(key.length)
}

fn unpack4(packed: u64) -> Key {
    Key { v6: false, first: u128::from(packed >> 8), length: packed as u8 }
}

fn pack6(key: Key) -> Packed6 {
    Packed6 { high: (key.first >> 64) as u64, low: key.first as u64, length: key.length }
}

fn unpack6(packed: Packed6) -> Key {
    let first = u128::from(packed.high) << 64 | u128::from(packed.low);
    Key { v6: true, first, length: packed.length }
}

/// The members of a list, IPv4 first, sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    v4: Vec<u64>,
    v6: Vec<Packed6>,
    lengths: Lengths,
}

/// Takes members in any order.
#[derive(Clone, Debug, Default)]
pub struct ContentBuilder {
    v4: Vec<u64>,
    v6: Vec<Packed6>,
}

impl ContentBuilder {
    /// One more member.
    pub fn push(&mut self, prefix: &IpNet) {
        let key = Key::new(prefix);
        if key.v6 { self.v6.push(pack6(key)) } else { self.v4.push(pack4(key)) }
    }

    /// Members so far, repeated ones too.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sorts them and drops repetitions.
    pub fn finish(mut self) -> Content {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v4.shrink_to_fit();
        self.v6.sort_unstable();
        self.v6.dedup();
        self.v6.shrink_to_fit();
        let mut lengths = Lengths::new();
        self.v4.iter().for_each(|packed| lengths.add(unpack4(*packed)));
        self.v6.iter().for_each(|packed| lengths.add(unpack6(*packed)));
        Content { v4: self.v4, v6: self.v6, lengths }
    }
}

impl Default for Content {
    fn default() -> Self {
        ContentBuilder::default().finish()
    }
}

impl FromIterator<IpNet> for Content {
    fn from_iter<I: IntoIterator<Item = IpNet>>(members: I) -> Self {
        let mut builder = ContentBuilder::default();
        members.into_iter().for_each(|prefix| builder.push(&prefix));
        builder.finish()
    }
}

impl Content {
    /// How many.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.keys().map(Key::prefix)
    }

    /// Whether exactly this prefix is a member.
    pub fn has(&self, prefix: &IpNet) -> bool {
        self.position(Key::new(prefix)).is_some()
    }

    /// The members that hold `prefix`, itself included, the widest first.
    pub fn holding(&self, prefix: &IpNet) -> Vec<IpNet> {
        let key = Key::new(prefix);
        let around = self.lengths.around(key).filter(|around| self.contains(*around));
        around.chain(self.contains(key).then_some(key)).map(Key::prefix).collect()
    }

    /// Takes out what overlaps any of these. Gives what was taken out.
    pub fn leave_out(&mut self, prefixes: &[IpNet]) -> Vec<IpNet> {
        let mut out: Vec<Key> = Vec::new();
        for prefix in prefixes {
            let key = Key::new(prefix);
            out.extend(self.lengths.around(key).filter(|around| self.contains(*around)));
            out.extend(self.inside(key).filter_map(|index| self.get(index)));
        }
        out.sort_unstable();
        out.dedup();
        if !out.is_empty() {
            let gone = |key: Key| out.binary_search(&key).is_ok();
            self.v4.retain(|packed| !gone(unpack4(*packed)));
            self.v6.retain(|packed| !gone(unpack6(*packed)));
            out.iter().for_each(|key| self.lengths.remove(*key));
        }
        out.into_iter().map(Key::prefix).collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.v4.iter().map(|packed| unpack4(*packed)).chain(self.v6.iter().map(|p| unpack6(*p)))
    }

    /// The member at a place; IPv6 members follow the IPv4 ones.
    pub(super) fn get(&self, index: usize) -> Option<Key> {
        match self.v4.get(index) {
            Some(packed) => Some(unpack4(*packed)),
            None => self.v6.get(index - self.v4.len()).map(|packed| unpack6(*packed)),
        }
    }

    pub(super) fn position(&self, key: Key) -> Option<usize> {
        if key.v6 {
            self.v6.binary_search(&pack6(key)).ok().map(|index| index + self.v4.len())
        } else {
            self.v4.binary_search(&pack4(key)).ok()
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.position(key).is_some()
    }

    /// Where `key` is, or would be.
    pub(super) fn lower_bound(&self, key: Key) -> usize {
        if key.v6 {
            self.v4.len() + self.v6.partition_point(|packed| *packed < pack6(key))
        } else {
            self.v4.partition_point(|packed| *packed < pack4(key))
        }
    }

    /// The places of the members inside `key`, itself included.
    pub(super) fn inside(&self, key: Key) -> Range<usize> {
        let last = key.last_inside();
        let end = self.lower_bound(last);
        let end = if self.get(end) == Some(last) { end + 1 } else { end };
        self.lower_bound(key)..end
    }

    /// Whether a member is wider than `key` and around it.
    pub(super) fn covers(&self, key: Key) -> bool {
        self.lengths.around(key).any(|around| self.contains(around))
    }

    pub(super) fn lengths(&self) -> &Lengths {
        &self.lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn content(members: &[&str]) -> Content {
        members.iter().map(|text| net(text)).collect()
    }

    #[test]
    fn members_are_found_with_what_is_around_and_inside_them() {
        let all = ["192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32", "0.0.0.0/1", "::1/128"];
        let content = content(&[&all[..], &all[..]].concat());
        assert_eq!(content.len(), all.len());
        assert!(content.keys().is_sorted());
        for text in all {
            assert!(content.has(&net(text)), "{text}");
            let index = content.position(Key::new(&net(text))).unwrap();
            assert_eq!(content.get(index).unwrap().prefix(), net(text));
        }
        assert!(!content.has(&net("192.0.2.0/25")) && !content.has(&net("2001:db8::/128")));
        assert!(content.covers(Key::new(&net("192.0.2.0/25"))));
        assert!(!content.covers(Key::new(&net("0.0.0.0/1"))));
        assert!(!content.covers(Key::new(&net("2001:db8::/32"))));
        assert_eq!(content.inside(Key::new(&net("192.0.2.0/24"))).len(), 2);
        assert_eq!(content.inside(Key::new(&net("::/0"))).len(), 2);
        assert_eq!(content.holding(&net("192.0.2.1/32")).len(), 2);
        assert_eq!(content.holding(&net("127.0.0.1/32")), [net("0.0.0.0/1")]);
    }

    #[test]
    fn what_overlaps_is_left_out_from_both_sides() {
        let members = ["192.0.2.0/24", "192.0.2.1/32", "192.0.2.9/32", "2001:db8::/32"];
        let mut content = content(&members);
        let out = content.leave_out(&[net("192.0.2.0/29"), net("2001:db8:1::/48")]);
        assert_eq!(out, [net("192.0.2.0/24"), net("192.0.2.1/32"), net("2001:db8::/32")]);
        assert_eq!(content.iter().collect::<Vec<_>>(), [net("192.0.2.9/32")]);
        assert!(!content.covers(Key::new(&net("192.0.2.9/32"))));
    }

    #[test]
    fn a_member_costs_what_is_documented() {
        assert_eq!((size_of::<u64>(), size_of::<Packed6>()), (8, 24));
    }
}
