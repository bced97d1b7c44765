//! What builds the kernel half: a toolchain with a `core` for BPF, and bpf-linker.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Action, Barrier, DOWNLOAD_LIMIT, Row, Step, packages, root_barrier};
use crate::{
    bpf_toolchain::{self, Core, Found, LINKED, NIGHTLY, OVERRIDE},
    shell::{on_path, output, run, run_within, say},
};

/// The newest bpf-linker that loads the LLVM of a rustc; later ones want a full LLVM to link to.
const LINKER_VERSION: &str = "0.10.3";
/// The link is to Debian's rustc, which lies here.
const DEBIAN_SYSROOT: &str = "/usr";

/// The step that provides a toolchain for BPF, when none works.
pub fn missing_toolchain() -> Option<Step> {
    let fault = bpf_toolchain::find().err()?;
    let barred = if on_path("rustup").is_none() {
        Some(Barrier::NoRustup)
    } else if packages::is_debian() {
        root_barrier()
    } else {
        None
    };
    let mut commands = Vec::new();
    if barred == Some(Barrier::NoRustup) {
        commands.push("# install rustup: https://rustup.rs".to_owned());
    }
    commands
        .push(format!("rustup toolchain install {NIGHTLY} --profile minimal --component rust-src"));
    if packages::is_debian() {
        let names = debian_packages().unwrap_or_else(|_| fallback_names());
        commands.push("# or, where rustup cannot download it:".to_owned());
        commands.push(format!("#   {}", packages::shown_command(&names)));
        commands.push(format!("#   rustup toolchain link {LINKED} {DEBIAN_SYSROOT}"));
    }
    Some(Step {
        missing: format!("a Rust toolchain for BPF ({fault})"),
        commands,
        barred,
        action: Action::BpfToolchain,
    })
}

/// The step that installs bpf-linker, when it is absent.
pub fn missing_linker() -> Option<Step> {
    if linker().is_some() {
        return None;
    }
    let barred = on_path("cargo").is_none().then_some(Barrier::NoRustup);
    Some(Step {
        missing: "bpf-linker".to_owned(),
        commands: vec![format!("cargo install bpf-linker --version {LINKER_VERSION} --locked")],
        barred,
        action: Action::BpfLinker,
    })
}

/// Gets a toolchain for BPF: nightly with rust-src if it can be had, else Debian's packages.
pub fn provide() -> Result<()> {
    if let Ok(name) = env::var(OVERRIDE) {
        bail!("{OVERRIDE}={name} names a toolchain that cannot build for BPF: unset it");
    }
    match provide_nightly() {
        Ok(()) => {
            say("took rustup's nightly with rust-src");
            return Ok(());
        }
        Err(error) => say(format!("nightly with rust-src cannot be had: {error:#}")),
    }
    if !packages::is_debian() {
        bail!("rustup cannot provide nightly with rust-src, and only Debian packages it otherwise");
    }
    provide_debian()?;
    say(format!("took Debian's rustc and BPF library, linked into rustup as `{LINKED}`"));
    Ok(())
}

fn provide_nightly() -> Result<()> {
    let nightly_runs = output(Command::new("rustup").args(["run", NIGHTLY, "rustc", "-V"])).is_ok();
    let mut command = Command::new("rustup");
    if nightly_runs {
        command.args(["component", "add", "rust-src", "--toolchain", NIGHTLY]);
    } else {
        command.args(["toolchain", "install", NIGHTLY, "--no-self-update"]);
        command.args(["--profile", "minimal", "--component", "rust-src"]);
    }
    run_within(&mut command, DOWNLOAD_LIMIT)?;
    bpf_toolchain::inspect(NIGHTLY).map(drop).map_err(anyhow::Error::msg)
}

fn provide_debian() -> Result<()> {
    let linked = || bpf_toolchain::inspect(LINKED).map_err(anyhow::Error::msg);
    let names = match debian_packages() {
        Ok(names) => names,
        Err(_) => {
            packages::update()?;
            debian_packages()?
        }
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    packages::install(&names)?;
    if linked().is_err() {
        run(Command::new("rustup").args(["toolchain", "link", LINKED, DEBIAN_SYSROOT]))?;
    }
    linked().map(drop)
}

/// The names of Debian's BPF library and of the compiler it belongs to. Debian 12 has a newer
/// compiler beside its own, under names with `-web`; later releases have it in the plain names.
fn debian_packages() -> Result<Vec<String>> {
    let found = output(Command::new("apt-cache").args(["search", "--names-only", "libstd-rust"]))
        .context("asking Debian's package lists")?;
    choose_packages(&found).context("no package with Rust's BPF library is known to apt")
}

fn choose_packages(search: &str) -> Option<Vec<String>> {
    let mut names: Vec<&str> = search
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with("libstd-rust") && name.ends_with("dev-bpf"))
        .collect();
    // Where both exist, the one made for browsers is the newer.
    names.sort_by_key(|name| !name.contains("-web-"));
    let library = names.first()?;
    let compiler = if library.contains("-web-") { "rustc-web" } else { "rustc" };
    Some(vec![compiler.to_owned(), (*library).to_owned()])
}

fn fallback_names() -> Vec<String> {
    vec!["rustc-web".to_owned(), "libstd-rust-web-dev-bpf".to_owned()]
}

/// Installs bpf-linker into cargo's own folder.
pub fn install_linker() -> Result<()> {
    run(Command::new("cargo").args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
    ]))
}

fn linker() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let beside = home.map(|home| home.join("bin/bpf-linker")).filter(|file| file.is_file());
    on_path("bpf-linker").or(beside)
}

/// Lines for the table.
pub fn rows() -> Vec<Row> {
    let version = |program: &str| {
        output(Command::new(program).arg("--version"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_else(|error| format!("does not run: {error}"))
    };
    let bpf = match bpf_toolchain::find() {
        Ok(Found { name, sysroot, core }) => {
            let source = match core {
                Core::Prebuilt => "prebuilt core",
                Core::Source => "core from rust-src",
            };
            let rustc = output(Command::new("rustup").args(["run", &name, "rustc", "-V"]))
                .unwrap_or_default();
            format!("`{name}` ({}, {source}, {})", rustc.trim(), sysroot.display())
        }
        Err(fault) => fault,
    };
    let linker = match linker() {
        Some(file) => format!("{} ({})", linker_version(&file), file.display()),
        None => "absent".to_owned(),
    };
    vec![
        Row { what: "Rust", found: version("rustc") },
        Row { what: "BPF toolchain", found: bpf },
        Row { what: "bpf-linker", found: linker },
    ]
}

/// It may need an LLVM that only the build script puts on its path, so a failure is no fault.
fn linker_version(file: &Path) -> String {
    output(Command::new(file).arg("--version"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| "installed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_names_are_found_by_release() {
        let table = [
            (
                "libstd-rust-web-dev-bpf - Rust standard libraries\nlibstd-rust-dev - Rust\n",
                Some(["rustc-web", "libstd-rust-web-dev-bpf"]),
            ),
            ("libstd-rust-dev-bpf - Rust\n", Some(["rustc", "libstd-rust-dev-bpf"])),
            (
                "libstd-rust-dev-bpf - Rust\nlibstd-rust-web-dev-bpf - Rust\n",
                Some(["rustc-web", "libstd-rust-web-dev-bpf"]),
            ),
            ("libstd-rust-dev - Rust\nlibstd-rust-dev-windows - Rust\n", None),
            ("", None),
        ];
        for (search, expected) in table {
            let expected = expected.map(|names| names.map(str::to_owned).to_vec());
            assert_eq!(choose_packages(search), expected, "{search:?}");
        }
    }
}
