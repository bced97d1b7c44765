//! The configured file, replaced whole: written beside, with the disk waited for, then renamed.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Copies of texts that were never in force, at most.
const MAX_KEPT: u32 = 1000;

/// The file cannot be replaced; it is as it was.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: cannot be replaced: {error}; put the new file there by hand and run `edge reload`, or let \
     the daemon write there",
    path.display()
)]
pub struct FileError {
    /// The configured file.
    pub path: PathBuf,
    /// What the system said.
    pub error: std::io::Error,
}

/// A new text that stands beside the file and waits to take its place. Dropped, it goes.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    beside: PathBuf,
}

impl NewFile {
    /// Writes the text beside `path`, with the rights and the owner that the file has. A link is
    /// followed, so that it stays one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(path: &Path, text: &str) -> Result<Self, FileError> {
        let fault = |error| FileError { path: path.to_owned(), error };
        let target = path.canonicalize().map_err(fault)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = target.with_file_name(name);
        let new = Self { target, beside };
        new.write(text).map_err(fault)?;
        Ok(new)
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let old = self.target.metadata()?;
        match std::fs::remove_file(&self.beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.beside)?;
        file.write_all(text.as_bytes())?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            // Without the right to give it away, it stays ours, for us alone.
            match std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return file.sync_all();
                }
                done => done?,
            }
        }
        file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))?;
        file.sync_all()
    }

    /// What the file says now.
    pub fn found(&self) -> String {
        std::fs::read_to_string(&self.target).unwrap_or_default()
    }

    /// Keeps a copy of what the file says now, on the disk and under a name that nobody has yet,
    /// and gives its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_old(&self) -> Result<PathBuf, FileError> {
        let name = self.target.file_name().unwrap_or_default();
        for number in 1..=MAX_KEPT {
            let mut name = name.to_owned();
            match number {
                1 => name.push(".before"),
                _ => name.push(format!(".before-{number}")),
            }
            let path = self.target.with_file_name(name);
            match self.copy(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < MAX_KEPT => {}
                Err(error) => return Err(FileError { path, error }),
                Ok(()) => return Ok(path),
            }
        }
        let error = std::io::Error::from(ErrorKind::AlreadyExists);
        Err(FileError { path: self.target.clone(), error })
    }

    fn copy(&self, path: &Path) -> std::io::Result<()> {
        let text = std::fs::read(&self.target)?;
        let mode = self.target.metadata()?.mode() & 0o777;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }

    /// Puts it in the file's place.
    ///
    /// # Errors
    /// When the system does not; the file is as it was.
    pub fn commit(self) -> Result<(), FileError> {
        let done = std::fs::rename(&self.beside, &self.target).and_then(|()| {
            let folder = self.target.parent().unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        });
        done.map_err(|error| FileError { path: self.target.clone(), error })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a commit there is nothing under this name.
        let _ = std::fs::remove_file(&self.beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests_support::Folder;

    #[test]
    fn the_file_is_replaced_whole_with_its_rights_and_a_link_stays_one() {
        let folder = Folder::new();
        folder.write("real.toml", "old", 0o640);
        let (real, link) = (folder.0.join("real.toml"), folder.0.join("edge.toml"));
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        let read = || std::fs::read_to_string(&link).unwrap();
        let names = || std::fs::read_dir(&folder.0).unwrap().count();
        drop(NewFile::prepare(&link, "never").unwrap());
        assert_eq!((read().as_str(), names()), ("old", 2));
        // What a crash left behind is no hindrance.
        folder.write("real.toml.new", "half", 0o600);
        NewFile::prepare(&link, "new").unwrap().commit().unwrap();
        assert_eq!((read().as_str(), names()), ("new", 2));
        assert!(link.is_symlink());
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn what_is_kept_never_replaces_what_was_kept_before_and_follows_no_link() {
        let folder = Folder::new();
        let path = folder.0.join("edge.toml");
        folder.write("elsewhere", "mine", 0o600);
        std::os::unix::fs::symlink("elsewhere", folder.0.join("edge.toml.before")).unwrap();
        for (text, name) in [("one", "edge.toml.before-2"), ("two", "edge.toml.before-3")] {
            folder.write("edge.toml", text, 0o640);
            let new = NewFile::prepare(&path, "new").unwrap();
            let kept = new.keep_old().unwrap();
            assert_eq!(kept, folder.0.join(name));
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
        }
        assert_eq!(std::fs::read_to_string(folder.0.join("elsewhere")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(folder.0.join("edge.toml.before-2")).unwrap(), "one");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_the_fault_says_what_to_do() {
        let folder = Folder::new();
        folder.write("edge.toml", "old", 0o600);
        let path = folder.0.join("edge.toml");
        std::fs::create_dir(folder.0.join("edge.toml.new")).unwrap();
        let fault = NewFile::prepare(&path, "new").unwrap_err().to_string();
        assert!(fault.contains("edge.toml") && fault.contains("edge reload"), "{fault}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert!(NewFile::prepare(&folder.0.join("none"), "new").is_err());
    }
}
