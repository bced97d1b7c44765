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

/// Something is wrong with the store; the daemon goes on without that part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
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
        return Err("it was written by another version");
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
    let base = format!("{}.corrupt-{}", path.display(), unix(SystemTime::now()));
    let mut target = PathBuf::from(&base);
    for number in 1..100 {
        if std::fs::symlink_metadata(&target).is_err() {
            break;
        }
        target = PathBuf::from(format!("{base}-{number}"));
    }
    let file = path.to_owned();
    match std::fs::rename(path, &target) {
        Ok(()) => {
            alarms.push(Alarm::Corrupt { file, set_aside: target, why });
            true
        }
        Err(error) => {
            alarms.push(Alarm::Stuck { file, why, error: error.to_string() });
            false
        }
    }
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
    let beside = path.with_extension("json.new");
    // What a crash left behind. `create_new` follows no link and overwrites nothing.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().ok_or_else(|| std::io::Error::other("it has no folder"))?;
    File::open(folder)?.sync_all()
}
