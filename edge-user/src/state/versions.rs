//! The configurations that were put in force: the last [`MAX_VERSIONS`], each a file in
//! `versions/` of the state folder, and the one that waits for its confirmation.
//!
//! A file has a checksum and is written beside and renamed; one that is damaged is named and
//! skipped, never half-read and never overwritten. The version with the highest number is the one
//! in force. Nothing here puts anything in force.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Author, disk};

/// Versions that are kept.
pub const MAX_VERSIONS: usize = 20;

const FOLDER: &str = "versions";
const PENDING: &str = "pending.json";

/// A configuration that was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number: each is one more than the one before.
    pub number: u32,
    /// Who, and when.
    pub author: Author,
    /// `start`, `reload`, `apply new.toml`, `rollback to 7` and so on.
    pub how: String,
    /// The text of the file.
    pub text: String,
}

/// A version that goes back to the former unless it is confirmed in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The version in question.
    pub version: u32,
    /// The one that comes back.
    pub former: u32,
    /// The boot it was made in: after a reboot its time is over.
    pub boot: String,
    /// Milliseconds since that boot when its time is over.
    pub until_milliseconds: u64,
    /// Starts of the daemon with it since the last that ended in order.
    #[serde(default)]
    pub starts: u32,
}

/// So often the daemon is started with a version that waits, until it is taken for what keeps it
/// from running.
const MAX_STARTS: u32 = 2;

impl Pending {
    /// What is left of its time. `None`: it is over.
    pub fn left(&self, now: &Moment) -> Option<Duration> {
        let left = self.until_milliseconds.checked_sub(now.milliseconds).filter(|left| *left > 0);
        left.filter(|_| self.boot == now.boot).map(Duration::from_millis)
    }
}

/// A moment by a clock that nobody sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's id of this boot.
    pub boot: String,
    /// Milliseconds since boot, suspended time included.
    pub milliseconds: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
        Self {
            boot: boot.trim().to_owned(),
            milliseconds: seconds * 1000 + nanoseconds / 1_000_000,
        }
    }

    /// As a pending version's end: so much later.
    pub fn after(self, time: Duration) -> Self {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { milliseconds: self.milliseconds.saturating_add(time), ..self }
    }
}

/// Why a version cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// No such version.
    #[error("there is no version {0}; `edge version list` shows those that are kept")]
    Unknown(u32),
    /// Nothing to go back to.
    #[error("no other version is kept; `edge version list` shows those that are")]
    NoFormer,
    /// A file is not what was written.
    #[error("{}: {why}: it is skipped; name another version", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The folder cannot be read or written.
    #[error("{}: {error}; check the disk and the rights", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// The versions on disk. Every call reads or writes the disk.
#[derive(Clone, Debug)]
pub struct Versions {
    state: PathBuf,
}

impl Versions {
    /// Those in this state folder. Nothing is read or made yet.
    pub fn in_folder(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    /// All that can be read, by number, and what is to be said about those that cannot.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<(Vec<Version>, Vec<String>), VersionError> {
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        for number in self.numbers()? {
            match self.get(number) {
                Ok(version) => good.push(version),
                Err(fault) => damaged.push(fault.to_string()),
            }
        }
        Ok((good, damaged))
    }

    /// One version.
    ///
    /// # Errors
    /// When there is none with this number, or it is damaged.
    pub fn get(&self, number: u32) -> Result<Version, VersionError> {
        let file = self.file(number);
        let found: Option<Version> = disk::read_whole(&file)
            .map_err(|why| VersionError::Damaged { file: file.clone(), why })?;
        match found {
            Some(version) if version.number == number => Ok(version),
            Some(version) => {
                let why = format!("it holds version {}", version.number);
                Err(VersionError::Damaged { file, why })
            }
            None => Err(VersionError::Unknown(number)),
        }
    }

    /// The newest that can be read: the one in force, unless the disk did not take that.
    pub fn newest(&self) -> Option<Version> {
        let numbers = self.numbers().ok()?;
        numbers.into_iter().rev().find_map(|number| self.get(number).ok())
    }

    /// The newest one with this text.
    pub fn holding(&self, text: &str) -> Option<Version> {
        let numbers = self.numbers().ok()?;
        let mut newest = numbers.into_iter().rev().filter_map(|number| self.get(number).ok());
        newest.find(|version| version.text == text)
    }

    /// The newest one that says something else than what is in force, which may not have been
    /// kept, and was not kept after it.
    ///
    /// # Errors
    /// When there is none.
    pub fn former(&self, in_force: &str) -> Result<Version, VersionError> {
        let (mut older, _) = self.list()?;
        if let Some(place) = older.iter().rposition(|version| version.text == in_force) {
            older.truncate(place);
        }
        let mut older = older.into_iter().rev();
        older.find(|version| version.text != in_force).ok_or(VersionError::NoFormer)
    }

    /// Keeps a text as the newest version and gives its number; the oldest beyond
    /// [`MAX_VERSIONS`] go.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, text: &str, how: &str, author: &Author) -> Result<u32, VersionError> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder)
            .and_then(|()| disk::sync_folder(&folder))
            .map_err(|error| VersionError::Io { path: folder.clone(), error })?;
        let numbers = self.numbers()?;
        // Past the damaged ones too: nothing is overwritten.
        let number = numbers.last().map_or(1, |last| last.saturating_add(1));
        let (author, how) = (author.clone(), super::words(how));
        let version = Version { number, author, how, text: text.to_owned() };
        let path = self.file(number);
        disk::write(&path, &version).map_err(|error| VersionError::Io { path, error })?;
        for old in numbers.iter().rev().skip(MAX_VERSIONS - 1) {
            // One that stays is no harm, and tried again at the next version.
            let _ = std::fs::remove_file(self.file(*old));
        }
        Ok(number)
    }

    /// Takes back what [`Self::add`] kept, because it did not come into force.
    pub fn take_back(&self, number: u32) {
        let _ = std::fs::remove_file(self.file(number));
    }

    /// The version that waits for its confirmation.
    ///
    /// # Errors
    /// When the note about it is damaged.
    pub fn pending(&self) -> Result<Option<Pending>, VersionError> {
        let file = self.state.join(PENDING);
        disk::read_whole(&file).map_err(|why| VersionError::Damaged { file, why })
    }

    /// Notes on disk that a version waits, or that none does any more.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn set_pending(&self, pending: Option<&Pending>) -> Result<(), VersionError> {
        let path = self.state.join(PENDING);
        let done = match pending {
            Some(pending) => disk::write(&path, pending),
            None => disk::remove(&path),
        };
        done.map_err(|error| VersionError::Io { path, error })
    }

    fn folder(&self) -> PathBuf {
        self.state.join(FOLDER)
    }

    fn file(&self, number: u32) -> PathBuf {
        self.folder().join(format!("{number:06}.json"))
    }

    /// The numbers of all files, in order.
    fn numbers(&self) -> Result<Vec<u32>, VersionError> {
        let path = self.folder();
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(VersionError::Io { path, error }),
        };
        let mut numbers: Vec<u32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// What a start takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The configuration's text.
    pub text: String,
    /// For [`Version::how`].
    pub how: String,
    /// It still waits for its confirmation.
    pub pending: Option<Pending>,
    /// The configured file should hold `text` again.
    pub restore_file: bool,
    /// What there is to say.
    pub notes: Vec<String>,
}

/// What a start takes: the configured file, unless a version waits for its confirmation. Within
/// its time that one is taken, afterwards the one before it. With `settled` (nobody stays to go
/// back) the one before it in any case.
pub fn choose(versions: &Versions, file: String, now: &Moment, settled: bool) -> Choice {
    let plain = |text, note: Option<String>| Choice {
        text,
        how: "start".to_owned(),
        pending: None,
        restore_file: false,
        notes: note.into_iter().collect(),
    };
    let pending = match versions.pending() {
        Ok(None) => return plain(file, None),
        Ok(Some(pending)) => pending,
        Err(fault) => return plain(file, Some(format!("{fault}; the configured file is used"))),
    };
    let (number, former) = (pending.version, pending.former);
    let (new, old) = (versions.get(number), versions.get(former));
    let known = |text: &str| [&new, &old].into_iter().flatten().any(|version| version.text == text);
    if !known(&file) {
        let note = format!(
            "version {number} waited for its confirmation, but the configured file was changed \
             since: the file is used"
        );
        return plain(file, Some(note));
    }
    let keeps_failing = pending.starts >= MAX_STARTS;
    if !settled
        && !keeps_failing
        && pending.left(now).is_some()
        && let Ok(new) = &new
    {
        let note = format!("version {number} waits for its confirmation: `edge confirm`");
        let how = format!("start; version {number} still unconfirmed");
        return Choice { how, pending: Some(pending), ..plain(new.text.clone(), Some(note)) };
    }
    match old {
        Ok(old) => Choice {
            how: format!("start; version {number} was not confirmed, back to {former}"),
            restore_file: !settled && file != old.text,
            ..plain(
                old.text,
                Some(format!("version {number} was not confirmed: version {former} is in force")),
            )
        },
        Err(fault) => plain(
            file,
            Some(format!("version {number} was not confirmed, but {fault}: the file is used")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::tests_support::Folder;

    fn author() -> Author {
        Author::new("uid 0", UNIX_EPOCH + Duration::from_secs(1000))
    }

    fn kept(folder: &Folder, texts: &[&str]) -> Versions {
        let versions = Versions::in_folder(&folder.0);
        for text in texts {
            versions.add(text, "apply", &author()).unwrap();
        }
        versions
    }

    fn at(milliseconds: u64) -> Moment {
        Moment { boot: "this".to_owned(), milliseconds }
    }

    #[test]
    fn the_last_twenty_are_kept_and_numbers_go_on() {
        let folder = Folder::new();
        let texts: Vec<String> = (1..=25).map(|n| format!("text {n}")).collect();
        let versions = kept(&folder, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let (good, damaged) = versions.list().unwrap();
        let numbers: Vec<u32> = good.iter().map(|version| version.number).collect();
        assert_eq!((numbers, damaged), ((6..=25).collect(), vec![]));
        assert_eq!(versions.newest().unwrap().text, "text 25");
        assert_eq!(versions.former("text 25").unwrap().number, 24);
        assert!(matches!(versions.get(5), Err(VersionError::Unknown(5))));
    }

    #[test]
    fn a_damaged_version_is_named_and_skipped_and_never_overwritten() {
        let folder = Folder::new();
        let versions = kept(&folder, &["one", "two", "three"]);
        let path = versions.file(3);
        let good = std::fs::read(&path).unwrap();
        let changed = String::from_utf8(good.clone()).unwrap().replace("three", "thres");
        let mut cases = vec![Vec::new(), changed.into_bytes(), [good.as_slice(), b" "].concat()];
        cases.extend([1, 20, good.len() / 2, good.len() - 1].map(|n| good[..n].to_vec()));
        for bytes in cases {
            std::fs::write(&path, &bytes).unwrap();
            let (good, damaged) = versions.list().unwrap();
            assert_eq!(good.len(), 2);
            assert_eq!(damaged.len(), 1);
            assert!(damaged[0].contains("000003.json"), "{damaged:?}");
            assert_eq!(versions.newest().unwrap().text, "two");
            assert!(matches!(versions.get(3), Err(VersionError::Damaged { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        // A good file under another's number is not that version.
        std::fs::copy(versions.file(1), &path).unwrap();
        assert!(matches!(versions.get(3), Err(VersionError::Damaged { .. })));
        assert_eq!(versions.add("four", "apply", &author()).unwrap(), 4);
        assert_eq!(versions.newest().unwrap().text, "four");
    }

    #[test]
    fn the_version_before_is_one_that_says_something_else() {
        let folder = Folder::new();
        let versions = kept(&folder, &["one"]);
        assert!(matches!(versions.former("one"), Err(VersionError::NoFormer)));
        versions.add("two", "apply", &author()).unwrap();
        versions.add("two", "reload", &author()).unwrap();
        assert_eq!(versions.former("two").unwrap().number, 1);
        // What is in force was not kept: the one before it is the newest.
        assert_eq!(versions.former("three").unwrap().number, 3);
        versions.add("one", "rollback", &author()).unwrap();
        assert_eq!(versions.former("one").unwrap().number, 3);
        assert_eq!(versions.holding("two").map(|version| version.number), Some(3));
        assert_eq!(versions.holding("three"), None);
    }

    #[test]
    fn a_start_takes_an_unconfirmed_version_within_its_time_only() {
        // Text of the file, the moment, settled: what is taken, still pending, restored.
        let cases = [
            ("old", 5_000, "this", false, "new", true, false),
            ("new", 5_000, "this", false, "new", true, false),
            ("old", 10_000, "this", false, "old", false, false),
            ("new", 10_000, "this", false, "old", false, true),
            ("new", 5_000, "another", false, "old", false, true),
            ("new", 5_000, "this", true, "old", false, false),
            ("third", 5_000, "this", false, "third", false, false),
            ("third", 10_000, "this", false, "third", false, false),
        ];
        for (file, milliseconds, boot, settled, taken, waits, restored) in cases {
            let folder = Folder::new();
            let versions = kept(&folder, &["old", "new"]);
            assert_eq!(choose(&versions, file.to_owned(), &at(0), settled).text, file);
            let Moment { boot: this, milliseconds: until } = at(10_000);
            let pending =
                Pending { version: 2, former: 1, boot: this, until_milliseconds: until, starts: 0 };
            versions.set_pending(Some(&pending)).unwrap();
            let now = Moment { boot: boot.to_owned(), milliseconds };
            let choice = choose(&versions, file.to_owned(), &now, settled);
            let found = (choice.text.as_str(), choice.pending.is_some(), choice.restore_file);
            assert_eq!(found, (taken, waits, restored), "{file} {milliseconds} {boot} {settled}");
            assert_eq!(choice.notes.len(), 1);
            versions.set_pending(None).unwrap();
            versions.set_pending(None).unwrap();
            assert_eq!(versions.pending().unwrap(), None);
        }
    }

    #[test]
    fn a_version_that_keeps_the_daemon_from_running_gives_way_before_its_time_is_over() {
        let folder = Folder::new();
        let versions = kept(&folder, &["old", "new"]);
        let boot = "this".to_owned();
        for (starts, taken) in [(0, "new"), (1, "new"), (2, "old"), (3, "old")] {
            let (boot, until_milliseconds) = (boot.clone(), 10_000);
            let pending = Pending { version: 2, former: 1, boot, until_milliseconds, starts };
            versions.set_pending(Some(&pending)).unwrap();
            let choice = choose(&versions, "new".to_owned(), &at(1), false);
            assert_eq!(choice.text, taken, "{starts}");
            assert_eq!(choice.restore_file, taken == "old", "{starts}");
        }
    }

    #[test]
    fn what_is_damaged_around_a_pending_version_never_hinders_a_start() {
        let folder = Folder::new();
        let versions = kept(&folder, &["old", "new"]);
        let pending = Pending {
            version: 2,
            former: 1,
            boot: "this".to_owned(),
            until_milliseconds: 10_000,
            starts: 0,
        };
        versions.set_pending(Some(&pending)).unwrap();
        std::fs::write(versions.file(2), "x").unwrap();
        let choice = choose(&versions, "old".to_owned(), &at(1), false);
        assert_eq!((choice.text.as_str(), choice.pending), ("old", None), "the new one is damaged");
        std::fs::write(versions.file(1), "x").unwrap();
        let choice = choose(&versions, "old".to_owned(), &at(1), false);
        assert_eq!((choice.text.as_str(), choice.pending), ("old", None), "both are");
        std::fs::write(folder.0.join(PENDING), "{}").unwrap();
        let choice = choose(&versions, "file".to_owned(), &at(1), false);
        assert_eq!(choice.text, "file");
        assert!(choice.notes[0].contains("pending.json"), "{:?}", choice.notes);
        assert!(versions.pending().is_err());
    }

    #[test]
    fn the_clock_of_a_pending_version_is_not_the_wall_clock() {
        let now = Moment::now();
        assert!(!now.boot.is_empty() && now.milliseconds > 0);
        let end = now.clone().after(Duration::from_secs(2));
        let pending = Pending {
            version: 2,
            former: 1,
            boot: end.boot,
            until_milliseconds: end.milliseconds,
            starts: 0,
        };
        assert_eq!(pending.left(&now), Some(Duration::from_secs(2)));
    }
}
