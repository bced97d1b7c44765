//! Which toolchain builds the kernel half.
//!
//! One file for two users, so that they can never disagree: the build script of `edge-user`
//! includes it by path, and `cargo xtask setup` makes sure that what it looks for is there.
//!
//! rustup has no prebuilt `core` for BPF. Two sources of one: Debian's rustc with its BPF library,
//! linked into rustup as `edge-bpf`, or rustup's nightly with the `rust-src` component, which
//! builds `core` from source. `EDGE_BPF_TOOLCHAIN` names another one by hand.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Environment variable that names the toolchain to use.
pub const OVERRIDE: &str = "EDGE_BPF_TOOLCHAIN";
/// The rustup toolchain that is a link to Debian's rustc.
pub const LINKED: &str = "edge-bpf";
/// rustup's own way.
pub const NIGHTLY: &str = "nightly";
/// The target whose `core` is wanted.
const TARGET: &str = "bpfel-unknown-none";

/// Where `core` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// The toolchain brings it compiled.
    Prebuilt,
    /// It is built from the `rust-src` component.
    Source,
}

/// A toolchain that can build for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in rustup.
    pub name: String,
    /// Where it lies.
    pub sysroot: PathBuf,
    /// Its way to a `core`.
    pub core: Core,
}

/// The toolchain to use: the one named by hand, else `edge-bpf`, else nightly with rust-src.
/// The error says what was looked at and what is missing in it.
pub fn find() -> Result<Found, String> {
    let names = match env::var(OVERRIDE) {
        Ok(name) => vec![name],
        Err(_) => vec![LINKED.to_owned(), NIGHTLY.to_owned()],
    };
    let mut faults = Vec::new();
    for name in names {
        match inspect(&name) {
            Ok(found) => return Ok(found),
            Err(fault) if faults.contains(&fault) => {}
            Err(fault) => faults.push(fault),
        }
    }
    Err(faults.join("; "))
}

/// Whether this toolchain can build for BPF, and if not, why.
pub fn inspect(name: &str) -> Result<Found, String> {
    let output = Command::new("rustup")
        .args(["run", name, "rustc", "--print", "sysroot", "--print", "target-libdir"])
        .args(["--target", TARGET])
        .output()
        .map_err(|error| format!("rustup does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (true, Some(sysroot), Some(libraries)) =
        (output.status.success(), lines.next(), lines.next())
    else {
        return Err(format!("rustup has no working toolchain `{name}`"));
    };
    let sysroot = PathBuf::from(sysroot);
    let nightly = name.starts_with(NIGHTLY);
    if has_core(Path::new(libraries)) {
        Ok(Found { name: name.to_owned(), sysroot, core: Core::Prebuilt })
    } else if nightly && sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        Ok(Found { name: name.to_owned(), sysroot, core: Core::Source })
    } else if nightly {
        Err(format!("toolchain `{name}` has no rust-src"))
    } else {
        Err(format!("toolchain `{name}` has no core for {TARGET}"))
    }
}

fn has_core(libraries: &Path) -> bool {
    fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}
