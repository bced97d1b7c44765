//! Files of the store: a line of JSON with schema and SHA-256, then the JSON it is about.
//! Written beside and renamed over, with the disk waited for; read whole or not at all.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::unix;

/// Version of the content.
const SCHEMA: u32 = 1;
/// A store file is at most this long.
const MAX_BYTES: u64 = 32 << 20;
const OTHER_VERSION: &str = "it was written by another version";

/// Something is wrong with the store; the daemon goes on without that part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// What the file holds is not what was written; its copy was whole, and is in its place.
    #[error("the store {} was corrupt ({why}) and was restored from its copy; the corrupt one is {}", file.display(), set_aside.display())]
    Restored {
        /// The file.
        file: PathBuf,
        /// Where the corrupt one is now.
        set_aside: PathBuf,
        /// What was wrong.
        why: &'static str,
    },
    /// The file is not what was written, or was not read, and its copy is in use; changes cannot
    /// be kept.
    #[error("the store {} is not usable ({why}): its copy is in use, and no change is kept until that file is mended or taken away", file.display())]
    Copy {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file and its copy are not what was written, or another version wrote them. They stay.
    #[error("the store {} is lost ({why}): what the kernel blocks stays blocked, nobody is discovered, and no change is kept until that file is mended or it and its copy are taken away", file.display())]
    Lost {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What the file holds is not what was written.
    #[error("the store {} is corrupt ({why}) and was set aside as {}", file.display(), set_aside.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where it is now.
        set_aside: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The file is corrupt, and stays where it is; changes are refused.
    #[error("the store {} is corrupt ({why}) and cannot be set aside: {error}", file.display())]
    Stuck {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// Why it cannot be moved.
        error: String,
    },
    /// The file is there but cannot be read; changes are refused.
    #[error("the store {} cannot be read: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: String,
    },
    /// The folder cannot be made.
    #[error("the folder {} cannot be made: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: String,
    },
}

impl Alarm {
    /// What the file held is not known: nothing may be let go because nobody claims it.
    pub fn is_a_loss(&self) -> bool {
        !matches!(self, Self::Restored { .. } | Self::Copy { .. })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    sha256: String,
}

/// Makes the folder.
pub(super) fn prepare(folder: &Path, alarms: &mut Vec<Alarm>) {
    if let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder) {
        alarms.push(Alarm::Folder { folder: folder.to_owned(), error: error.to_string() });
    }
}

/// What was found of a file that has a copy.
pub(super) struct Found<T> {
    /// The content, or an empty one.
    pub value: T,
    /// The file may be written.
    pub writable: bool,
    /// The content is not known, and may have been anything.
    pub lost: bool,
}

/// Reads a file that has a copy, and restores it from there when it is corrupt. What neither holds
/// is lost: both stay as they are, so that the next start does not take an empty store for the
/// truth either.
pub(super) fn read_copied<T: DeserializeOwned + Default>(
    path: &Path,
    fits: impl Fn(&T) -> bool,
    alarms: &mut Vec<Alarm>,
) -> Found<T> {
    let file = path.to_owned();
    let whole = |path: &Path| -> Result<Option<T>, Unusable> {
        let Some(bytes) = read_bytes(path).map_err(Unusable::Unread)? else { return Ok(None) };
        let value: T = decode(&bytes).map_err(Unusable::Corrupt)?;
        if fits(&value) { Ok(Some(value)) } else { Err(Unusable::Corrupt("too many entries")) }
    };
    let copied = || whole(&copy(path)).ok().flatten();
    let (why, may_move) = match whole(path) {
        Ok(Some(value)) => return Found { value, writable: true, lost: false },
        // Neither: a first start. Only the copy: the file was taken away, or a restore broken off.
        Ok(None) => {
            let (value, lost) = match whole(&copy(path)) {
                Ok(value) => (value.unwrap_or_default(), None),
                Err(fault) => (T::default(), Some(format!("it is gone, and its copy {fault}"))),
            };
            let writable = lost.is_none();
            alarms.extend(lost.map(|why| Alarm::Lost { file, why }));
            return Found { value, writable, lost: !writable };
        }
        Err(Unusable::Corrupt(why)) => (why.to_owned(), (why != OTHER_VERSION).then_some(why)),
        Err(Unusable::Unread(error)) => (error.to_string(), None),
    };
    let Some(value) = copied() else {
        alarms.push(Alarm::Lost { file, why });
        return Found { value: T::default(), writable: false, lost: true };
    };
    let restored = may_move.and_then(|why| {
        let set_aside = moved_aside(path).ok()?;
        std::fs::copy(copy(path), path).and_then(|_| sync(path)).ok()?;
        Some(Alarm::Restored { file: file.clone(), set_aside, why })
    });
    let writable = restored.is_some();
    alarms.push(restored.unwrap_or(Alarm::Copy { file, why }));
    Found { value, writable, lost: false }
}

/// Why a file is of no use.
enum Unusable {
    Corrupt(&'static str),
    Unread(std::io::Error),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Corrupt(why) => write!(f, "is corrupt ({why})"),
            Self::Unread(error) => write!(f, "cannot be read ({error})"),
        }
    }
}

/// Where the copy of a file is.
pub(super) fn copy(path: &Path) -> PathBuf {
    path.with_extension("json.copy")
}

/// Writes a file and its copy, the copy first: one of the two is whole at any time.
pub(super) fn write_copied<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    write(&copy(path), value)?;
    write(path, value)
}

/// Reads a file. The second value tells whether it may be written: a file that is there and was
/// neither read nor set aside must not be.
pub(super) fn read<T: DeserializeOwned + Default>(
    path: &Path,
    fits: impl Fn(&T) -> bool,
    alarms: &mut Vec<Alarm>,
) -> (T, bool) {
    let bytes = match read_bytes(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return (T::default(), true),
        Err(error) => {
            let error = error.to_string();
            alarms.push(Alarm::Unreadable { file: path.to_owned(), error });
            return (T::default(), false);
        }
    };
    match decode(&bytes) {
        Ok(value) if fits(&value) => (value, true),
        Ok(_) => (T::default(), set_aside(path, "too many entries", alarms)),
        Err(why) => (T::default(), set_aside(path, why, alarms)),
    }
}

/// Reads a file that nothing stands in for: `Ok(None)` when it is not there, and an error that says
/// what is wrong when it is not what was written. The file stays as it is.
pub(super) fn read_whole<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let bytes = read_bytes(path).map_err(|error| error.to_string())?;
    bytes.map(|bytes| decode(&bytes)).transpose().map_err(str::to_owned)
}

/// Takes a file away, to the disk; one that is not there is no error.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        done => done?,
    }
    sync_folder(path)
}

/// Reads a file that belongs to another process.
pub(super) fn peek<T: DeserializeOwned + Default>(path: &Path, faults: &mut Vec<String>) -> T {
    let found = match read_bytes(path) {
        Ok(None) => return T::default(),
        Ok(Some(bytes)) => decode(&bytes).map_err(str::to_owned),
        Err(error) => Err(error.to_string()),
    };
    found.unwrap_or_else(|fault| {
        faults.push(format!("{}: {fault}", path.display()));
        T::default()
    })
}

fn read_bytes(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_file() => {
            return Err(std::io::Error::other("it is no plain file"));
        }
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, &'static str> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err("it is too long");
    }
    let end = memchr::memchr(b'\n', bytes).ok_or("it has no header")?;
    let (header, content) = bytes.split_at_checked(end).ok_or("it has no header")?;
    let content = content.get(1..).unwrap_or_default();
    let header: Header =
        serde_json::from_slice(header).map_err(|_| "its header is not readable")?;
    if header.schema != SCHEMA {
        return Err(OTHER_VERSION);
    }
    if header.sha256 != checksum(content) {
        return Err("its checksum does not match");
    }
    serde_json::from_slice(content).map_err(|_| "its content is not readable")
}

fn checksum(content: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, content).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `true`: the file was moved away, so a new one may be written.
fn set_aside(path: &Path, why: &'static str, alarms: &mut Vec<Alarm>) -> bool {
    let file = path.to_owned();
    match moved_aside(path) {
        Ok(set_aside) => {
            alarms.push(Alarm::Corrupt { file, set_aside, why });
            true
        }
        Err(error) => {
            alarms.push(Alarm::Stuck { file, why, error: error.to_string() });
            false
        }
    }
}

/// Moves a corrupt file to a name of its own.
fn moved_aside(path: &Path) -> std::io::Result<PathBuf> {
    let base = format!("{}.corrupt-{}", path.display(), unix(SystemTime::now()));
    let mut target = PathBuf::from(&base);
    for number in 1..100 {
        if std::fs::symlink_metadata(&target).is_err() {
            break;
        }
        target = PathBuf::from(format!("{base}-{number}"));
    }
    std::fs::rename(path, &target)?;
    Ok(target)
}

/// Writes a file: beside it, to the disk, over it, and the folder to the disk.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let mut content = serde_json::to_vec_pretty(value)?;
    content.push(b'\n');
    let header = Header { schema: SCHEMA, sha256: checksum(&content) };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.append(&mut content);
    if bytes.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("the store would be longer than 32 MiB"));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a crash left behind. `create_new` follows no link and overwrites nothing.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // The new content is there, for us and for the next start: no error may say otherwise. What a
    // power cut could still take back is the rename.
    if let Err(error) = sync_folder(path) {
        tracing::warn!(file = %path.display(), %error, "its folder was not waited for");
    }
    Ok(())
}

/// Waits until file and folder are on the disk.
fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_folder(path)
}

/// Waits until what a folder says of this file is on the disk.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().ok_or_else(|| std::io::Error::other("it has no folder"))?;
    File::open(folder)?.sync_all()
}
