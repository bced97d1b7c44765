//! Builds the kernel half and leaves its object in `OUT_DIR`, from where it goes into the binary.
//!
//! Which toolchain does it is decided in one place, shared with `cargo xtask setup`, which
//! provides one.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use bpf_toolchain::{Core, Found};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={}", bpf_toolchain::OVERRIDE);
    let found = bpf_toolchain::find().map_err(|fault| {
        anyhow!("no toolchain builds for BPF ({fault}): run `cargo xtask setup --for build`")
    })?;
    println!("cargo:rustc-env=EDGE_KERNEL_TOOLCHAIN={}", found.name);
    prepare_linker(&found)?;
    let package = Package {
        name: "edge-ebpf",
        root_dir: "../edge-ebpf",
        features: &["program"],
        ..Default::default()
    };
    let toolchain = match found.name.as_str() {
        bpf_toolchain::NIGHTLY => Toolchain::Nightly,
        name => Toolchain::Custom(name),
    };
    aya_build::build_ebpf([package], toolchain).with_context(|| {
        format!(
            "building the kernel half with toolchain `{}` failed; `cargo xtask setup` shows what \
             is missing",
            found.name
        )
    })
}

/// bpf-linker loads the LLVM of a rustc. rustup's toolchains bring theirs; Debian's rustc has
/// none to load, and then the stable one's serves.
fn prepare_linker(found: &Found) -> Result<()> {
    let mut paths = Vec::new();
    if found.core == Core::Source {
        paths.push(found.sysroot.join("lib"));
    }
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    for rustc in [&["rustup", "run", "stable", "rustc"][..], &[rustc.as_str()][..]] {
        let output = Command::new(rustc[0]).args(&rustc[1..]).args(["--print", "sysroot"]).output();
        if let Ok(output) = output
            && output.status.success()
        {
            paths.push(PathBuf::from(String::from_utf8(output.stdout)?.trim()).join("lib"));
            break;
        }
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
