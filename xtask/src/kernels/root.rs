//! The root file system of the virtual machine: our programs, the tools they call, the libraries
//! of both, and the kernel's modules.

use std::{
    collections::BTreeSet,
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{cpio::Archive, image::Image};
use crate::shell::{on_path, output};

/// What the tests call.
const TOOLS: [&str; 5] = ["ip", "tc", "nsenter", "ethtool", "bpftool"];
/// What is a module in Debian's kernels, in the order of loading.
const MODULES: [&str; 4] = ["veth", "macvlan", "sch_ingress", "cls_bpf"];

/// Writes it to `to`.
pub fn write(image: &Image, init: &Path, tests: &[PathBuf], to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut archive = Archive::new(BufWriter::new(file));
    // Without it the first process has no standard output.
    archive.device("/dev/console", 5, 1)?;
    archive.folder("/modules")?;
    for (number, name) in MODULES.iter().enumerate() {
        if let Some(module) = image.module(name)? {
            archive.file(&format!("/modules/{number}-{name}.ko"), &module)?;
        }
    }
    let mut libraries = BTreeSet::new();
    libraries.extend(libraries_of(init)?);
    archive.copy("/init", init)?;
    for program in tests {
        libraries.extend(libraries_of(program)?);
        let name = program.file_name().context("a program without a name")?;
        archive.copy(&format!("/tests/{}", name.to_string_lossy()), program)?;
    }
    for tool in TOOLS {
        let Some(program) = on_path(tool) else { bail!("the tests need `{tool}`") };
        libraries.extend(libraries_of(&program)?);
        archive.copy(&format!("/usr/bin/{tool}"), &program)?;
    }
    for library in &libraries {
        archive.copy(library, Path::new(library))?;
    }
    archive.finish()?;
    Ok(())
}

/// The shared libraries of a program and its loader, by the names it asks for.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let text = output(Command::new("ldd").arg(program))?;
    if text.contains("not found") {
        bail!("{} lacks libraries:\n{text}", program.display());
    }
    Ok(paths(&text))
}

/// Reads `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn paths(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| {
            let line = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = line.split_whitespace().next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tstatically linked\n";
        assert_eq!(paths(text), ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
