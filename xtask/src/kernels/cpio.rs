//! The archive a kernel unpacks as its first root file system: cpio, format "newc", as the
//! kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive, entry by entry. Everything belongs to root.
pub struct Archive<W> {
    to: W,
    folders: BTreeSet<String>,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(to: W) -> Self {
        Self { to, folders: BTreeSet::new(), entries: 0 }
    }

    /// A folder, with those above it.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above)?;
        }
        self.entry(path, FOLDER, (0, 0), &[])
    }

    /// A file that can be run, with the folders above it.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, PROGRAM, (0, 0), content)
    }

    /// A copy of a file of this machine.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.file(path, &content)
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.parent(path)?;
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((above, _)) => self.folder(above),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> Result<()> {
        let name = path.trim_start_matches('/');
        let Ok(size) = u32::try_from(content.len()) else {
            bail!("{path}: too big for the archive");
        };
        self.entries += 1;
        let name_size = u32::try_from(name.len() + 1)?;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(name.as_bytes())?;
        self.pad(header.len() + name.len() + 1, 1)?;
        self.to.write_all(content)?;
        self.pad(content.len(), 0)?;
        Ok(())
    }

    /// Zeroes up to the next multiple of four, after `least` of them.
    fn pad(&mut self, length: usize, least: usize) -> io::Result<()> {
        let zeroes = least + length.next_multiple_of(4) - length;
        self.to.write_all(&[0; 4][..zeroes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        for name in ["a", "ab", "abc", "abcd", "abcde"] {
            for content in [&b""[..], b"1", b"12", b"123", b"1234"] {
                let mut archive = Archive::new(Vec::new());
                archive.file(name, content).expect("a file");
                let bytes = archive.finish().expect("an archive");
                assert_eq!(bytes.len() % 4, 0);
                let start = (110 + name.len() + 1).next_multiple_of(4);
                assert_eq!(&bytes[110..110 + name.len()], name.as_bytes());
                assert_eq!(&bytes[start..start + content.len()], content);
                let next = (start + content.len()).next_multiple_of(4);
                assert_eq!(&bytes[next..next + 6], b"070701", "{name} {content:?}");
            }
        }
    }

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/usr/bin/ip", b"x").expect("a file");
        archive.file("/usr/bin/tc", b"x").expect("a file");
        let bytes = archive.finish().expect("an archive");
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).expect("an entry");
        assert!(at("usr") < at("usr/bin") && at("usr/bin") < at("usr/bin/ip"));
        assert_eq!(text.matches("usr/bin\0").count(), 1);
    }
}
