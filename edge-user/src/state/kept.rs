//! What the daemon learned and keeps over a restart, a file for each: the watch list, bans, and what
//! the XMPP gateway must know. In the same form as the other files of the store, each by itself, so that what befalls one does not touch
//! the others.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    StoreError,
    disk::{self, Alarm},
};
use crate::{
    federation::{Saved, SavedBans},
    xmpp::gateway::SavedGateway,
};

/// What such a file holds.
pub trait Kept: Clone + Default + PartialEq + Serialize + DeserializeOwned {
    /// Its name in the folder.
    const FILE: &'static str;

    /// Whether it is what this program may have written.
    fn is_within_bounds(&self) -> bool;
}

impl Kept for Saved {
    const FILE: &'static str = "watch.json";

    fn is_within_bounds(&self) -> bool {
        Saved::is_within_bounds(self)
    }
}

impl Kept for SavedBans {
    const FILE: &'static str = "bans.json";

    fn is_within_bounds(&self) -> bool {
        SavedBans::is_within_bounds(self)
    }
}

impl Kept for SavedGateway {
    const FILE: &'static str = "gateway.json";

    fn is_within_bounds(&self) -> bool {
        SavedGateway::is_within_bounds(self)
    }
}

/// The file.
#[derive(Debug)]
pub struct KeptFile<T> {
    path: PathBuf,
    /// It could be read, or moved away.
    writable: bool,
    /// What it holds.
    held: T,
}

impl<T: Kept> KeptFile<T> {
    /// Reads it. With alarms, what was in it is lost.
    pub fn open(directory: &Path) -> (Self, T, Vec<Alarm>) {
        let mut alarms = Vec::new();
        let path = directory.join(T::FILE);
        let (held, writable): (T, bool) = disk::read(&path, T::is_within_bounds, &mut alarms);
        (Self { path, writable, held: held.clone() }, held, alarms)
    }

    /// Writes it, if it holds something else.
    ///
    /// # Errors
    /// The disk, or a file that could neither be read nor set aside.
    pub fn write(&mut self, new: T) -> Result<(), StoreError> {
        if new == self.held {
            return Ok(());
        }
        let path = self.path.clone();
        if !self.writable {
            return Err(StoreError::ReadOnly(path));
        }
        disk::write(&path, &new).map_err(|error| StoreError::Write { path, error })?;
        self.held = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::{Evidence, SavedBan, SavedRecord};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("edge-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn list() -> Saved {
        let record = SavedRecord {
            domain: Some("bad.example".parse().unwrap()),
            source: Some("192.0.2.1".parse().unwrap()),
            listed_until: Some(1_800_000_600),
            suspicious_until: None,
            times_suspicious: 0,
            suspected_at: None,
            listed_before: 2,
            listed_at: Some(1_800_000_000),
            evidence: Some(Evidence { messages: 7, ..Evidence::default() }),
        };
        Saved { records: vec![record] }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = folder("watch-file");
        let (mut file, empty, alarms) = KeptFile::<Saved>::open(&folder);
        assert_eq!((empty, alarms), (Saved::default(), vec![]));
        file.write(list()).unwrap();
        let (_, read, alarms) = KeptFile::<Saved>::open(&folder);
        assert_eq!((read, alarms), (list(), vec![]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_is_a_file_of_its_own() {
        let folder = folder("kept-two");
        let ban = SavedBan {
            source: "192.0.2.1".parse().unwrap(),
            until: 1_800_000_000,
            times: 2,
            failures: 20,
        };
        let bans = SavedBans { bans: vec![ban] };
        KeptFile::<Saved>::open(&folder).0.write(list()).unwrap();
        KeptFile::<SavedBans>::open(&folder).0.write(bans.clone()).unwrap();
        assert_eq!(KeptFile::<SavedBans>::open(&folder).1, bans);
        assert_eq!(KeptFile::<Saved>::open(&folder).1, list());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_corrupt_file_is_set_aside_with_an_alarm_at_every_byte() {
        let folder = folder("watch-corrupt");
        let path = folder.join(Saved::FILE);
        KeptFile::<Saved>::open(&folder).0.write(list()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for place in (0..good.len()).step_by(7) {
            for file in std::fs::read_dir(&folder).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
            let mut bad = good.clone();
            bad[place] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            let (mut file, read, alarms) = KeptFile::<Saved>::open(&folder);
            assert_eq!((read, alarms.len()), (Saved::default(), 1), "{place}");
            let text = alarms[0].to_string();
            assert!(text.contains("watch.json is corrupt") && text.contains("set aside"), "{text}");
            file.write(list()).unwrap();
            assert!(KeptFile::<Saved>::open(&folder).2.is_empty());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
