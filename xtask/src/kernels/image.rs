//! Debian's kernels: which package has a version, and its files, unpacked below `target`. The
//! package is never installed, so that it cannot touch how this machine starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    setup::packages,
    shell::{output, run, say},
};

/// A kernel that the tests can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelVersion {
    /// Debian 12's; it has no TCX.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's.
    #[value(name = "6.12")]
    V6_12,
}

impl KernelVersion {
    /// As it is written in names of packages.
    pub fn number(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// An unpacked kernel package.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// Whether this system can have a kernel of this version at all.
    pub fn is_offered(version: KernelVersion) -> Result<bool> {
        Ok(packages::is_debian() && package(version)?.is_some())
    }

    /// The newest package of this version, downloaded and unpacked into `below` unless one is
    /// there already.
    pub fn provide(version: KernelVersion, below: &Path) -> Result<Self> {
        let folder = below.join("image");
        if !folder.is_dir() {
            let fresh = below.join("unpacking");
            if fresh.exists() {
                fs::remove_dir_all(&fresh)?;
            }
            fs::create_dir_all(&fresh)?;
            download(version, &fresh)?;
            let archive = only(&fresh, |name| name.ends_with(".deb"))?;
            run(Command::new("dpkg").arg("-x").arg(&archive).arg(&fresh))?;
            fs::remove_file(&archive)?;
            fs::rename(&fresh, &folder)?;
        }
        Ok(Self { folder })
    }

    /// The file to boot.
    pub fn kernel(&self) -> Result<PathBuf> {
        only(&self.folder.join("boot"), |name| name.starts_with("vmlinuz-"))
    }

    /// A module's content; `None`: the kernel has it built in.
    pub fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let modules = only(&self.folder.join("lib/modules"), |_| true)?;
        let plain = format!("{name}.ko");
        let packed = format!("{plain}.xz");
        let Some(file) = find(&modules, &|found| found == plain || found == packed)? else {
            return Ok(None);
        };
        if file.extension().is_some_and(|end| end == "xz") {
            let unpacked = Command::new("xz")
                .arg("-dc")
                .arg(&file)
                .output()
                .context("cannot start xz (package xz-utils)")?;
            if !unpacked.status.success() {
                bail!("xz cannot unpack {}", file.display());
            }
            return Ok(Some(unpacked.stdout));
        }
        Ok(Some(fs::read(&file)?))
    }
}

/// The one entry of a folder whose name fits.
fn only(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&fits) {
            return Ok(entry.path());
        }
    }
    bail!("{}: not what a kernel package has; remove the folder", folder.display())
}

/// The first file below a folder whose name fits.
fn find(folder: &Path, fits: &impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some(found) = find(&entry.path(), fits)? {
                return Ok(Some(found));
            }
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(fits) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Downloads the newest package; once more with fresh lists when what they name is gone.
fn download(version: KernelVersion, to: &Path) -> Result<()> {
    if !packages::is_debian() {
        bail!("the kernels are Debian's: this needs apt-get and dpkg");
    }
    let attempt = || {
        let package = package(version)?.with_context(|| {
            format!(
                "apt offers no linux-image-{}…-cloud-amd64: add the Debian release that has it, \
                 or its backports, to /etc/apt/sources.list.d",
                version.number()
            )
        })?;
        run(Command::new("apt-get").args(["download", &package]).current_dir(to))
    };
    attempt().or_else(|error| {
        say(format!("{error:#}; once more with fresh package lists"));
        packages::update()?;
        attempt()
    })
}

/// The name of the newest package, if there is one; the lists are fetched when they know none.
fn package(version: KernelVersion) -> Result<Option<String>> {
    let known = || -> Result<Option<String>> {
        let names = output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
        Ok(newest(&names, version))
    };
    if let Some(name) = known()? {
        return Ok(Some(name));
    }
    say(format!("apt knows no kernel {}: fetching its lists", version.number()));
    packages::update()?;
    known()
}

/// Of the names of packages, the newest signed cloud kernel of this version.
fn newest(names: &str, version: KernelVersion) -> Option<String> {
    let prefix = format!("linux-image-{}.", version.number());
    names
        .lines()
        .filter_map(|name| {
            let release = name.strip_prefix(&prefix)?.strip_suffix("-cloud-amd64")?;
            let numbers: Vec<u32> = release
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            Some((numbers, name))
        })
        .max()
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_of_the_version_is_taken() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-56-cloud-amd64\n\
                     linux-image-6.1.0-57-cloud-amd64-dbg\n\
                     linux-image-6.1.0-58-cloud-amd64-unsigned\nlinux-image-6.1.0-60-amd64\n\
                     linux-image-6.12.9+deb12-cloud-amd64\n\
                     linux-image-6.12.117+deb12-cloud-amd64\nlinux-image-cloud-amd64\n";
        let table = [
            (KernelVersion::V6_1, "linux-image-6.1.0-56-cloud-amd64"),
            (KernelVersion::V6_12, "linux-image-6.12.117+deb12-cloud-amd64"),
        ];
        for (version, expected) in table {
            assert_eq!(newest(names, version).as_deref(), Some(expected));
        }
        assert_eq!(newest("linux-image-cloud-amd64\n", KernelVersion::V6_1), None);
    }
}
