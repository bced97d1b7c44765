//! Builds the kernel half and leaves its object in `OUT_DIR`, from where it goes into the binary.
//!
//! Two sources of a `core` for BPF: a rustup toolchain linked as `edge-bpf` (Debian's rustc with
//! its BPF library), or rustup's nightly with rust-src. `cargo xtask setup` provides one.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=EDGE_BPF_TOOLCHAIN");
    let toolchain = match env::var("EDGE_BPF_TOOLCHAIN") {
        Ok(name) => name,
        Err(_) if runs("edge-bpf") => "edge-bpf".to_owned(),
        Err(_) => "nightly".to_owned(),
    };
    ensure!(runs(&toolchain), "no toolchain `{toolchain}` for BPF: run `cargo xtask setup`");
    prepare_linker()?;
    let package = Package {
        name: "edge-ebpf",
        root_dir: "../edge-ebpf",
        features: &["program"],
        ..Default::default()
    };
    let toolchain = match toolchain.as_str() {
        "nightly" => Toolchain::Nightly,
        name => Toolchain::Custom(name),
    };
    aya_build::build_ebpf([package], toolchain)
        .context("building the kernel half failed; `cargo xtask setup` shows what is missing")
}

/// Whether rustup can run a rustc of this toolchain.
fn runs(toolchain: &str) -> bool {
    Command::new("rustup")
        .args(["run", toolchain, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// bpf-linker loads the LLVM of a rustc; Debian's rustc has none to load, the stable one has.
fn prepare_linker() -> Result<()> {
    let output =
        Command::new("rustup").args(["run", "stable", "rustc", "--print", "sysroot"]).output();
    let mut paths = Vec::new();
    if let Ok(output) = output
        && output.status.success()
    {
        paths.push(PathBuf::from(String::from_utf8(output.stdout)?.trim()).join("lib"));
    }
    if let Some(value) = env::var_os("LD_LIBRARY_PATH") {
        paths.extend(env::split_paths(&value));
    }
    let value = env::join_paths(paths)?;
    // SAFETY: a build script has one thread here.
    unsafe {
        env::set_var("LD_LIBRARY_PATH", value);
        // One crate of the kernel half uses one unstable feature; this opens it for it alone.
        env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf");
    }
    Ok(())
}
