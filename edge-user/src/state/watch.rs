//! The watch list on disk: in the same form as the other files of the store, by itself, so that
//! what befalls one does not touch the others.

use std::path::{Path, PathBuf};

use super::{
    StoreError,
    disk::{self, Alarm},
};
use crate::federation::Saved;

const WATCH: &str = "watch.json";

/// The file.
#[derive(Debug)]
pub struct WatchFile {
    path: PathBuf,
    /// It could be read, or moved away.
    writable: bool,
    /// What it holds.
    held: Saved,
}

impl WatchFile {
    /// Reads it. With alarms, what was in it is lost, and nothing is known of who was listed.
    pub fn open(directory: &Path) -> (Self, Saved, Vec<Alarm>) {
        let mut alarms = Vec::new();
        let path = directory.join(WATCH);
        let (held, writable): (Saved, bool) =
            disk::read(&path, Saved::is_within_bounds, &mut alarms);
        (Self { path, writable, held: held.clone() }, held, alarms)
    }

    /// Writes it, if it holds something else.
    pub fn write(&mut self, list: Saved) -> Result<(), StoreError> {
        if list == self.held {
            return Ok(());
        }
        let path = self.path.clone();
        if !self.writable {
            return Err(StoreError::ReadOnly(path));
        }
        disk::write(&path, &list).map_err(|error| StoreError::Write { path, error })?;
        self.held = list;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::{Evidence, SavedRecord};

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
        let (mut file, empty, alarms) = WatchFile::open(&folder);
        assert_eq!((empty, alarms), (Saved::default(), vec![]));
        file.write(list()).unwrap();
        let (_, read, alarms) = WatchFile::open(&folder);
        assert_eq!((read, alarms), (list(), vec![]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_corrupt_file_is_set_aside_with_an_alarm_at_every_byte() {
        let folder = folder("watch-corrupt");
        let path = folder.join(WATCH);
        WatchFile::open(&folder).0.write(list()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for place in (0..good.len()).step_by(7) {
            for file in std::fs::read_dir(&folder).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
            let mut bad = good.clone();
            bad[place] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            let (mut file, read, alarms) = WatchFile::open(&folder);
            assert_eq!((read, alarms.len()), (Saved::default(), 1), "{place}");
            let text = alarms[0].to_string();
            assert!(text.contains("watch.json is corrupt") && text.contains("set aside"), "{text}");
            file.write(list()).unwrap();
            assert!(WatchFile::open(&folder).2.is_empty());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
