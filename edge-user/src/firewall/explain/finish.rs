//! What is still asked of a packet that a rule lets in, in words: its content, the rule's rates,
//! floods and the zone's ceiling, and fragments.
//!
//! Of a flood, each CPU knows what it counted itself and what all have told: the live program was
//! asked on one CPU, and what that one knew is what is told here.

use std::path::Path;

use aya::maps::{Array, MapData, PerCpuArray};
use edge_ebpf::{
    abi::{
        Bucket, FLOOD_ROUND, Flood, Limit, Limits, MAX_RULE_IDS, RuleLimits, SETTING_FLOOD,
        SOURCE_BUCKETS_ROW, Settings, ZONES, map_names as names, zone_bucket,
    },
    decide::{BucketName, Judged, questions},
    packet::{Frame, Kind},
    verdict::{Reason, Verdict},
};

use super::{
    super::{FirewallError, decode, kernel::open},
    look::{lookup, missing},
    names as words,
    tables::PinnedTables,
};

/// What one CPU saw of both zones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FloodState {
    /// The CPU.
    pub cpu: usize,
    /// By zone.
    pub zones: [Flood; ZONES as usize],
}

/// What each CPU saw, the one in or nearest to a flood first.
pub(super) fn floods(pins: &Path) -> Result<Vec<FloodState>, FirewallError> {
    let map: PerCpuArray<MapData, Flood> = open(pins, names::FLOODS)?;
    let mut states: Vec<FloodState> = Vec::new();
    for zone in 0..ZONES {
        let values = map.get(&zone, 0).map_err(|fault| FirewallError::map(names::FLOODS, fault))?;
        for (cpu, flood) in values.iter().enumerate() {
            if states.len() <= cpu {
                states.push(FloodState { cpu, ..FloodState::default() });
            }
            states[cpu].zones[zone as usize] = *flood;
        }
    }
    states.sort_by_key(|state| std::cmp::Reverse(state.heat()));
    Ok(states)
}

impl FloodState {
    /// The further into a flood, the higher.
    fn heat(&self) -> (u32, u32, u32) {
        let of = |flood: &Flood| (flood.cookies_until, flood.second, flood.syns);
        self.zones.iter().map(of).max().unwrap_or_default()
    }

    /// What is seen of a zone.
    pub fn zone(&self, zone: u8) -> Flood {
        self.zones.get(usize::from(zone)).copied().unwrap_or_default()
    }
}

impl PinnedTables<'_> {
    /// [`questions::content`], with a note.
    pub(super) fn ask_content(&self, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        let refused = self.quietly(|| {
            if judged.six {
                questions::content::<Self, [u8; 16]>(self, judged, frame)
            } else {
                questions::content::<Self, [u8; 4]>(self, judged, frame)
            }
        });
        let asked = format!(
            "the payload, which {} wants to be {}",
            self.names.rule(judged.found.rule),
            words::content(judged.found.content)
        );
        let tcp = judged.packed.transport().kind == Kind::Tcp;
        self.note(
            asked,
            match refused {
                Some(reason) => reason.explain(),
                None if tcp => "nothing against it (of a connection, only the first bytes count)",
                None => "nothing against it",
            },
        );
        refused
    }

    /// [`questions::limited`], with the rule's numbers.
    pub(super) fn ask_limits(
        &self,
        settings: &Settings,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let found = judged.found;
        if let Some(limits) =
            self.limits_of(settings.generation_now(), found.limits.into()).as_ref()
        {
            self.note(format!("the rates of {}", self.names.rule(found.rule)), rates(limits));
        }
        let refused = if judged.six {
            questions::limited::<Self, [u8; 16]>(self, settings, judged, frame)
        } else {
            questions::limited::<Self, [u8; 4]>(self, settings, judged, frame)
        };
        if let Some(reason) = refused {
            self.note("the rates together", reason.explain());
        }
        refused
    }

    /// [`questions::flooded`], with what the CPU has seen.
    pub(super) fn ask_floods(
        &self,
        settings: &Settings,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let tcp = judged.packed.transport().kind == Kind::Tcp;
        if tcp && settings.flags & SETTING_FLOOD != 0 && judged.found.reason == Reason::Rule {
            self.note_flood(settings, judged.place.zone);
        }
        self.in_flood.set(true);
        let refused = if judged.six {
            questions::flooded::<Self, [u8; 16]>(self, settings, judged, frame)
        } else {
            questions::flooded::<Self, [u8; 4]>(self, settings, judged, frame)
        };
        self.in_flood.set(false);
        if let Some(reason) = refused {
            self.note("floods and ceiling together", reason.explain());
        }
        refused
    }

    fn note_flood(&self, settings: &Settings, zone: u8) {
        let flood = self.flood.zone(zone);
        let second = self.second();
        let syns = if flood.second == second { flood.syns } else { 0 };
        let told = self.told(zone);
        let told = if (told >> 32) as u32 == second { told as u32 } else { 0 };
        let all = told.saturating_add(syns % FLOOD_ROUND);
        let state = if flood.cookies_until >= second && flood.cookies_until != 0 {
            "a flood: only who brings back a SYN cookie comes in"
        } else {
            "no flood"
        };
        self.note(
            format!(
                "new connections in the {} zone in this second, on CPU {}",
                decode::zone(zone),
                self.flood.cpu
            ),
            format!(
                "{syns}, and {all} on all that it knows of; a flood begins above {}: {state}",
                settings.flood_syns
            ),
        );
    }

    /// What all CPUs have told of new connections in a zone.
    pub(super) fn told(&self, zone: u8) -> u64 {
        let map = names::TOTAL_BUCKETS;
        let bucket = open::<Array<MapData, Bucket>>(&self.pins, map)
            .and_then(|buckets| missing(map, buckets.get(&zone_bucket(zone), 0)));
        self.keep(bucket).map_or(0, |bucket| bucket.new)
    }

    /// [`questions::first_fragment`], with a note.
    pub(super) fn ask_first_fragment(&self, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        let refused = if judged.six {
            questions::first_fragment::<Self, [u8; 16]>(self, judged, frame)
        } else {
            questions::first_fragment::<Self, [u8; 4]>(self, judged, frame)
        };
        let answer = refused.map_or(
            "it would be remembered (a trial does not), and let the later ones in",
            Reason::explain,
        );
        self.note("this first fragment", answer);
        refused
    }

    /// Charges a copy of a bucket, with a note.
    pub(super) fn ask_bucket<R>(
        &self,
        name: BucketName,
        change: impl FnOnce(&mut Bucket) -> R,
    ) -> Option<R> {
        let slot = |map: &str, index: u32| {
            open::<Array<MapData, Bucket>>(&self.pins, map)
                .and_then(|buckets| missing(map, buckets.get(&index, 0)))
        };
        let what = self.bucket_words(name);
        let found = match name {
            BucketName::Source(index) => slot(names::SOURCE_BUCKETS, index),
            BucketName::Total(index) => slot(names::TOTAL_BUCKETS, index),
            BucketName::Known(key) => lookup(&self.pins, names::KNOWN_SOURCES, &key),
        };
        let Some(mut bucket) = self.keep(found) else {
            self.note(what, "there is none");
            return None;
        };
        let before = bucket;
        self.refused.set(false);
        let result = change(&mut bucket);
        let answer = match (self.refused.get(), bucket == before) {
            (true, _) => "used up for now",
            (false, true) => "nothing of this packet counts there",
            (false, false) => "it has room",
        };
        self.note(what, answer);
        Some(result)
    }

    /// What a bucket is, in words.
    fn bucket_words(&self, name: BucketName) -> String {
        match name {
            BucketName::Source(index) if index < SOURCE_BUCKETS_ROW => {
                "the source's rates (first of two shared buckets)".to_owned()
            }
            BucketName::Source(_) => "the source's rates (second of two shared buckets)".to_owned(),
            BucketName::Known(_) => {
                "the source's rates (a bucket of its own, since it proved who it is)".to_owned()
            }
            BucketName::Total(index) if index < MAX_RULE_IDS => {
                "the rates of all sources together".to_owned()
            }
            BucketName::Total(index) => {
                let zone = u8::from(index != zone_bucket(0));
                let ceiling = self.settings.ceilings[usize::from(zone)];
                let (zone, ceiling) = (decode::zone(zone), words::limit(&ceiling));
                format!("the ceiling of the {zone} zone: {ceiling}")
            }
        }
    }

    /// The second since boot, as floods are counted.
    fn second(&self) -> u32 {
        u32::try_from(super::sys::now().seconds()).unwrap_or(u32::MAX)
    }

    /// In a flood, or under a full ceiling: what the live program passed had a socket.
    pub(super) fn passed_live(&self) -> bool {
        self.live.verdict() == Verdict::Pass
    }
}

/// The rates of a rule, in words.
fn rates(limits: &RuleLimits) -> String {
    let scope = |whose: &str, limits: &Limits| {
        let units =
            [("new connections", limits.new), ("packets", limits.packets), ("bytes", limits.bytes)];
        let units: Vec<String> = units
            .into_iter()
            .filter(|(_, limit): &(_, Limit)| limit.increment != 0)
            .map(|(unit, limit)| format!("{unit}: {}", words::limit(&limit)))
            .collect();
        (!units.is_empty()).then(|| format!("{whose}: {}", units.join(", ")))
    };
    let scopes = [scope("each source", &limits.source), scope("all together", &limits.total)];
    scopes.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_spelt_out() {
        let limits = RuleLimits {
            source: Limits { new: Limit::new(5, 10), ..Limits::default() },
            total: Limits {
                packets: Limit::new(1000, 100),
                bytes: Limit::new(125_000, 0),
                ..Limits::default()
            },
        };
        assert_eq!(
            rates(&limits),
            "each source: new connections: 5 a second and 10 at once; all together: packets: 1000 \
             a second and 100 at once, bytes: 125000 a second and 0 at once"
        );
    }

    #[test]
    fn the_cpu_that_is_in_a_flood_is_asked() {
        let state = |cpu, cookies_until, syns| FloodState {
            cpu,
            zones: [Flood { second: 7, syns, cookies_until, fragments: 0 }, Flood::default()],
        };
        assert!(state(1, 8, 3).heat() > state(0, 0, 50).heat());
        assert!(state(1, 0, 3).heat() > state(0, 0, 2).heat());
    }
}
