//! Lists on disk: `lists/NAME.list` in the state folder. A line of JSON with the schema, the
//! SHA-256 of what follows and what there is to say about the list; then its members, one a line.
//! Written beside, brought to the disk and renamed; read whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{List, ListAbout, ListParser, list_name};
use crate::firewall::FirewallError;

/// Version of the form.
const SCHEMA: u32 = 1;
/// A header is at most this long, in bytes.
const MAX_HEADER: u64 = 64 * 1024;
/// Entries of a file are at most this many: more than any table can be made to hold.
const MAX_ENTRIES: usize = 64_000_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    sha256: String,
    about: ListAbout,
}

/// A list on disk that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list {} is not in force: {fault}; import it again", file.display())]
pub struct ListFault {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: String,
}

/// A list's file, written but not yet in its place.
#[derive(Debug)]
pub struct StagedFile {
    beside: PathBuf,
    path: PathBuf,
}

fn folder(state: &Path) -> PathBuf {
    state.join("lists")
}

fn path(state: &Path, name: &str) -> PathBuf {
    folder(state).join(format!("{name}.list"))
}

fn fault(path: &Path) -> impl Fn(io::Error) -> FirewallError + '_ {
    move |error| FirewallError::io(path.display().to_string(), error)
}

/// Writes a list beside its place. Waits for the disk.
pub fn stage_file(state: &Path, list: &List) -> Result<StagedFile, FirewallError> {
    let folder = folder(state);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(fault(&folder))?;
    let path = path(state, &list.about.name);
    let beside = path.with_extension("list.new");
    write(&beside, list).map_err(fault(&beside))?;
    Ok(StagedFile { beside, path })
}

fn write(beside: &Path, list: &List) -> io::Result<()> {
    let mut digest = Context::new(&SHA256);
    for prefix in list.content.iter() {
        digest.update(format!("{prefix}\n").as_bytes());
    }
    let header = Header { schema: SCHEMA, sha256: hex(digest), about: list.about.clone() };
    // What a crash left behind goes; a link that somebody put there is not followed.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, &header)?;
    out.write_all(b"\n")?;
    for prefix in list.content.iter() {
        writeln!(out, "{prefix}")?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

impl StagedFile {
    /// Puts it in its place.
    pub fn keep(self) -> Result<(), FirewallError> {
        fs::rename(&self.beside, &self.path).map_err(fault(&self.path))?;
        sync_folder(&self.path)
    }

    /// Takes it away again.
    pub fn discard(self) {
        let _ = fs::remove_file(self.beside);
    }
}

/// Takes a list's file away; one that is not there is no error.
pub fn remove_file(state: &Path, name: &str) -> Result<(), FirewallError> {
    let path = path(state, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(&path)(error)),
        Ok(()) => sync_folder(&path),
    }
}

/// Whether what is kept is this list.
pub(in crate::firewall) fn is_kept(state: &Path, list: &List) -> bool {
    read(&path(state, &list.about.name)).is_ok_and(|kept| kept == *list)
}

fn sync_folder(path: &Path) -> Result<(), FirewallError> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fault(folder))
}

/// Reads every list that has not ended. One that cannot be used is named, and stays where it is, as
/// does one that has ended: the clock may be wrong.
pub fn read_all(state: &Path, now: SystemTime) -> (Vec<Arc<List>>, Vec<ListFault>) {
    let (mut lists, faults) = read_every(state);
    lists.retain(|list| !list.is_over(now));
    (lists, faults)
}

/// As [`read_all`], with those that have ended.
pub(in crate::firewall) fn read_every(state: &Path) -> (Vec<Arc<List>>, Vec<ListFault>) {
    let (mut lists, mut faults) = (Vec::new(), Vec::new());
    let Ok(entries) = fs::read_dir(folder(state)) else { return (lists, faults) };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".list").map(str::to_owned))
        .filter(|name| list_name(name).is_ok())
        .collect();
    names.sort();
    for name in names {
        let file = path(state, &name);
        match read(&file) {
            Ok(list) if list.about.name != name => {
                let fault = format!("it is the list `{}`", list.about.name);
                faults.push(ListFault { file, fault });
            }
            Ok(list) => lists.push(Arc::new(list)),
            Err(fault) => faults.push(ListFault { file, fault }),
        }
    }
    (lists, faults)
}

fn read(file: &Path) -> Result<List, String> {
    let text = |error: io::Error| error.to_string();
    if !fs::symlink_metadata(file).map_err(text)?.is_file() {
        return Err("it is no plain file".to_owned());
    }
    let mut reader = BufReader::with_capacity(1 << 16, File::open(file).map_err(text)?);
    let mut header = Vec::new();
    reader.by_ref().take(MAX_HEADER).read_until(b'\n', &mut header).map_err(text)?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| "its header is not readable".to_owned())?;
    if header.schema != SCHEMA {
        return Err(format!("it has schema {}, this version has {SCHEMA}", header.schema));
    }
    let mut digest = Context::new(&SHA256);
    let mut parser = ListParser::new(MAX_ENTRIES);
    loop {
        let piece = reader.fill_buf().map_err(text)?;
        if piece.is_empty() {
            break;
        }
        digest.update(piece);
        parser.push(piece).map_err(|fault| fault.to_string())?;
        let length = piece.len();
        reader.consume(length);
    }
    if hex(digest) != header.sha256 {
        return Err("its checksum does not match".to_owned());
    }
    let parsed = parser.finish().map_err(|fault| fault.to_string())?;
    match parsed.faults.first() {
        Some(fault) => Err(format!("line {fault}")),
        None => Ok(List { about: header.about, content: Arc::new(parsed.content) }),
    }
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn list(name: &str, expires_at: Option<SystemTime>) -> List {
        let members = ["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "2001:db9::1/128"];
        let about = ListAbout {
            name: name.to_owned(),
            comment: Some("why".to_owned()),
            expires_at,
            by: "uid 0".to_owned(),
            at: UNIX_EPOCH + Duration::from_secs(5),
        };
        let content = members.iter().map(|text| text.parse().unwrap()).collect();
        List { about, content: Arc::new(content) }
    }

    fn state(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edge-lists-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_list_comes_back_as_it_was_kept_until_it_ends_or_is_removed() {
        let state = state("back");
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(read_all(&state, now), (Vec::new(), Vec::new()));
        let lists = [list("a", None), list("b", Some(now + Duration::from_secs(1)))];
        for list in &lists {
            let staged = stage_file(&state, list).unwrap();
            assert!(!read_all(&state, now).0.iter().any(|l| l.about == list.about), "staged only");
            staged.keep().unwrap();
        }
        let (found, faults) = read_all(&state, now);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(found.iter().map(|list| (**list).clone()).collect::<Vec<_>>(), lists);
        assert_eq!(read_all(&state, now + Duration::from_secs(2)).0.len(), 1);
        assert_eq!(read_all(&state, now).0.len(), 2, "the clock was wrong for a moment");
        for name in ["a", "b", "b"] {
            remove_file(&state, name).unwrap();
        }
        assert!(read_all(&state, now).0.is_empty());
        stage_file(&state, &lists[0]).unwrap().discard();
        assert_eq!(fs::read_dir(folder(&state)).unwrap().count(), 0);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_damaged_list_is_refused_whole_and_named() {
        let state = state("damaged");
        stage_file(&state, &list("a", None)).unwrap().keep().unwrap();
        let good = fs::read_to_string(path(&state, "a")).unwrap();
        for (bad, fault) in [
            (good.replace("192.0.2.0/24\n", ""), "checksum"),
            (good.replace("198.51.100.7", "198.51.100.8"), "checksum"),
            (good.replace("\"schema\":1", "\"schema\":9"), "schema 9"),
            ("x".repeat(100_000), "header"),
            (String::new(), "header"),
        ] {
            fs::write(path(&state, "a"), &bad).unwrap();
            let (lists, faults) = read_all(&state, UNIX_EPOCH);
            assert!(lists.is_empty());
            assert!(faults[0].to_string().contains(fault), "{}", faults[0]);
        }
        fs::write(path(&state, "b"), &good).unwrap();
        fs::remove_file(path(&state, "a")).unwrap();
        let (lists, faults) = read_all(&state, UNIX_EPOCH);
        assert!(lists.is_empty() && faults[0].fault.contains("the list `a`"), "{faults:?}");
        fs::remove_dir_all(state).unwrap();
    }
}
