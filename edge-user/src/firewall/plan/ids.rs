//! Rule ids by name, the same in every generation and after every restart.

use std::collections::BTreeMap;

use edge_ebpf::abi::MAX_RULE_IDS;
use serde::{Deserialize, Serialize};

use super::PlanError;

/// The table of names and ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleIds {
    names: BTreeMap<String, u32>,
}

impl RuleIds {
    /// The id of `name`, if it ever had one.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Ids that belong to another name than before: their counters must be cleared.
    pub fn changed_since(&self, before: &Self) -> Vec<u32> {
        let changed = self.names.iter().filter(|(name, id)| before.get(name) != Some(**id));
        changed.map(|(_, id)| *id).collect()
    }

    /// Gives every name in `wanted` an id: the one it had, else a free one, else one of a name
    /// that is no longer wanted.
    pub fn assign(&mut self, wanted: &[&str]) -> Result<(), PlanError> {
        if wanted.len() > MAX_RULE_IDS as usize {
            return Err(PlanError::TooManyIds { max: MAX_RULE_IDS });
        }
        let missing: Vec<&str> =
            wanted.iter().copied().filter(|name| !self.names.contains_key(*name)).collect();
        if self.names.len() + missing.len() > MAX_RULE_IDS as usize {
            self.names.retain(|name, _| wanted.contains(&name.as_str()));
        }
        let used: std::collections::BTreeSet<u32> = self.names.values().copied().collect();
        let mut free = (0..MAX_RULE_IDS).filter(|id| !used.contains(id));
        for name in missing {
            let id = free.next().ok_or(PlanError::TooManyIds { max: MAX_RULE_IDS })?;
            self.names.insert(name.to_owned(), id);
        }
        Ok(())
    }
}
