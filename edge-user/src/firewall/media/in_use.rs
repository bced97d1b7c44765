//! Where flows of calls come in, whatever the configuration says by now: calls go on undisturbed
//! when other ports or another way of doing media are put in force, until they are over.

use std::{collections::BTreeSet, path::Path};

use aya::maps::MapData;
use edge_ebpf::abi::{
    MEDIA_PORT_SLOTS, PinholeKey, SETTING_PINHOLES, WORD_MEDIA, map_names as names, port_index,
};

use super::{at, open, values};
use crate::firewall::{FirewallError, plan::RuleSet, shape};

/// A run of equal words: first index, last index, word.
type Words = (u32, u32, u32);

/// What must stay for calls that began under another configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::firewall) struct InUse {
    /// Words of the ports where their flows come in, by index.
    pub words: BTreeSet<u32>,
    /// What their flows want of the settings.
    pub flags: u32,
}

impl InUse {
    /// What the kernel's flows need, and what `former` let calls have until this moment.
    pub fn read(pins: &Path, former: &RuleSet) -> Result<Self, FirewallError> {
        let folder = shape::map_folder(pins);
        let ports = MapData::from_pin(folder.join(names::MEDIA_PORTS));
        let ports = ports.map_err(at(names::MEDIA_PORTS))?;
        let ports: Vec<u32> = values(&ports, names::MEDIA_PORTS, MEDIA_PORT_SLOTS)?;
        let pinholes: aya::maps::HashMap<MapData, PinholeKey, u32> =
            open(pins, names::MEDIA_PINHOLES)?;
        let has_pinholes = pinholes.keys().next().is_some();
        Ok(Self::new(&ports, has_pinholes, &former.port_words, former.flags))
    }

    fn new(ports: &[u32], has_pinholes: bool, former: &[Words], former_flags: u32) -> Self {
        let used = (0u32..).zip(ports).filter(|(_, slot)| **slot != 0);
        let mut words: BTreeSet<u32> = used.map(|(index, _)| word_of(index)).collect();
        let media = former.iter().filter(|(.., word)| word & WORD_MEDIA != 0);
        words.extend(media.flat_map(|(first, last, _)| *first..=*last));
        let pinholes = if has_pinholes { SETTING_PINHOLES } else { 0 };
        Self { words, flags: pinholes | former_flags & SETTING_PINHOLES }
    }

    /// Every one of its words as it must be where these rules are in force.
    pub fn words_with<'a>(&'a self, plan: &'a [Words]) -> impl Iterator<Item = (u32, u32)> + 'a {
        self.words.iter().map(|index| {
            let of = |(first, last, _): &&Words| (*first..=*last).contains(index);
            let word = plan.iter().find(of).map_or(0, |(.., word)| *word);
            (*index, word | WORD_MEDIA)
        })
    }
}

/// The word of the port that this index of `MEDIA_PORTS` is for.
fn word_of(index: u32) -> u32 {
    let zone = (index >> 17 & 1) as u8;
    port_index(zone, true, index as u16)
}

#[cfg(test)]
mod tests {
    use edge_ebpf::abi::{
        SETTING_MONITOR, WORD_MANAGEMENT, ZONE_EXTERNAL, ZONE_INTERNAL, media_port_index, open_word,
    };

    use super::*;

    #[test]
    fn a_port_keeps_its_flow_and_has_the_rules_that_are_in_force() {
        let mut ports = vec![0; MEDIA_PORT_SLOTS as usize];
        let used = [
            (ZONE_EXTERNAL, false, 50_000),
            (ZONE_EXTERNAL, true, 50_002),
            (ZONE_INTERNAL, false, 50_000),
            (ZONE_INTERNAL, true, 65_534),
        ];
        for (zone, six, port) in used {
            ports[media_port_index(zone, six, port) as usize] = 7;
        }
        let in_use = InUse::new(&ports, false, &[], 0);
        let words: BTreeSet<u32> =
            used.iter().map(|(zone, _, port)| port_index(*zone, true, *port)).collect();
        assert_eq!(in_use, InUse { words, flags: 0 });
        let rule = open_word(3, WORD_MANAGEMENT);
        let first = port_index(ZONE_EXTERNAL, true, 50_001);
        let words: Vec<(u32, u32)> = in_use.words_with(&[(first, first + 1, rule)]).collect();
        let expected = |zone, port, word| (port_index(zone, true, port), word | WORD_MEDIA);
        let mut all = vec![
            expected(ZONE_EXTERNAL, 50_000, 0),
            expected(ZONE_EXTERNAL, 50_002, rule),
            expected(ZONE_INTERNAL, 50_000, 0),
            expected(ZONE_INTERNAL, 65_534, 0),
        ];
        all.sort_unstable();
        assert_eq!(words, all);
    }

    #[test]
    fn what_calls_could_have_until_now_stays_for_those_that_just_began() {
        let index = |port| port_index(ZONE_EXTERNAL, true, port);
        let former = [
            (index(5060), index(5060), open_word(1, 0)),
            (index(50_000), index(50_003), WORD_MEDIA),
        ];
        let in_use = InUse::new(&[], false, &former, SETTING_PINHOLES | SETTING_MONITOR);
        assert_eq!(in_use.words, (index(50_000)..=index(50_003)).collect());
        assert_eq!(in_use.flags, SETTING_PINHOLES);
        assert_eq!(InUse::new(&[], true, &[], 0).flags, SETTING_PINHOLES);
        assert_eq!(InUse::new(&[0; 9], false, &former[..1], 0), InUse::default());
    }
}
