//! `cargo xtask package`: everything a host needs, in one archive, and what `deploy` sends.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell::{run, workspace};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The files that do not come from elsewhere in the workspace.
const TEMPLATES: &[(&str, &str, u32)] = &[
    ("install.sh", include_str!("../templates/install.sh"), 0o755),
    ("edge.service", include_str!("../templates/edge.service"), 0o644),
    ("edge-load.service", include_str!("../templates/edge-load.service"), 0o644),
    ("sys-fs-bpf.mount", include_str!("../templates/sys-fs-bpf.mount"), 0o644),
    ("60-edge.conf", include_str!("../templates/60-edge.conf"), 0o644),
    ("edge.sysusers", include_str!("../templates/edge.sysusers"), 0o644),
    ("README", include_str!("../templates/README.in"), 0o644),
];

/// What is copied from the workspace: from and to.
const COPIES: &[(&str, &str)] = &[
    ("edge-user/edge.example.toml", "edge.toml.example"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
];

/// Builds the archive in the target folder; where it is.
pub fn archive(binary: &Path) -> Result<PathBuf> {
    // The binary lies in a profile's folder of the target folder.
    let target = binary.parent().and_then(Path::parent).unwrap_or(Path::new("target"));
    let parent = target.join("package");
    stage(binary, &parent)?;
    let archive = parent.join(format!("{}-linux-{}.tar.gz", name(), env::consts::ARCH));
    run(pack(&parent, "gzip -9").arg("--file").arg(&archive).arg(name()))?;
    Ok(archive)
}

/// A tar command that packs what [`stage`] made; `--file` and [`name`] are to follow.
pub fn pack(parent: &Path, compressor: &str) -> Command {
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--owner=root:0", "--group=root:0"]);
    command.args(["--use-compress-program", compressor]);
    command.arg("--directory").arg(parent);
    command
}

/// Puts the archive's content into a folder of its own in `parent`; where it is.
pub fn stage(binary: &Path, parent: &Path) -> Result<PathBuf> {
    let folder = parent.join(name());
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| shown(&folder))?;
    }
    fs::create_dir_all(&folder).with_context(|| shown(&folder))?;
    install(&folder.join("edge"), &fs::read(binary).with_context(|| shown(binary))?, 0o755)?;
    for (name, content, mode) in TEMPLATES {
        install(&folder.join(name), content.as_bytes(), *mode)?;
    }
    for (from, to) in COPIES {
        let from = workspace().join(from);
        let content = fs::read(&from).with_context(|| shown(&from))?;
        install(&folder.join(to), &content, 0o644)?;
    }
    Ok(folder)
}

/// The archive's only folder.
pub fn name() -> String {
    format!("edge-{VERSION}")
}

fn install(file: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::write(file, content).with_context(|| shown(file))?;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).with_context(|| shown(file))
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::output;

    #[test]
    fn the_archive_holds_all_that_the_installer_installs() {
        let target = env::temp_dir().join(format!("edge-package-{}", std::process::id()));
        let binary = target.join("release/edge");
        fs::create_dir_all(target.join("release")).expect("folder");
        fs::write(&binary, "a program").expect("file");
        let archive = archive(&binary).expect("archive");
        let list = output(Command::new("tar").arg("-tzf").arg(&archive)).expect("tar");
        fs::remove_dir_all(&target).expect("clean up");
        let installer = include_str!("../templates/install.sh");
        let files = installer.split("files='").nth(1).and_then(|rest| rest.split('\'').next());
        for file in files.expect("the installer's list").split_whitespace() {
            let base = match file {
                "etc/sysusers.d/edge.conf" => "edge.sysusers",
                _ => file.rsplit('/').next().unwrap_or(file),
            };
            let entry = format!("{}/{base}", name());
            assert!(list.lines().any(|line| line == entry), "{entry} is not in:\n{list}");
        }
    }
}
