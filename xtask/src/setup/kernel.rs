//! What the running kernel must offer: a bpffs for the pins, type information, the JIT.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{Action, Row, Step, root_barrier};
use crate::shell::run;

const BPFFS: &str = "/sys/fs/bpf";

/// The step that mounts bpffs, when it is not mounted.
pub fn missing_bpffs() -> Option<Step> {
    if bpffs_is_mounted() {
        return None;
    }
    Some(Step {
        missing: format!("a bpffs at {BPFFS} (for pinned maps and links)"),
        commands: vec![format!("mount -t bpf bpf {BPFFS}")],
        barred: root_barrier(),
        action: Action::MountBpffs,
    })
}

/// Mounts it.
pub fn mount_bpffs() -> Result<()> {
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
}

/// Lines for the table.
pub fn rows() -> Vec<Row> {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let jit = match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
        "" => "JIT unknown (not readable)",
        "0" => "JIT off",
        _ => "JIT on",
    };
    let btf = if Path::new("/sys/kernel/btf/vmlinux").exists() { "BTF" } else { "no BTF" };
    let bpffs =
        if bpffs_is_mounted() { format!("mounted at {BPFFS}") } else { "not mounted".to_owned() };
    vec![
        Row {
            what: "kernel",
            found: format!("{}, {btf}, {jit}", read("/proc/sys/kernel/osrelease")),
        },
        Row { what: "bpffs", found: bpffs },
    ]
}

fn bpffs_is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    is_mounted(&mounts)
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::is_mounted;

    #[test]
    fn only_a_bpf_file_system_at_the_right_place_counts() {
        let table = [
            ("bpf /sys/fs/bpf bpf rw 0 0\n", true),
            ("none /sys/fs/bpf bpf rw,mode=700 0 0\n", true),
            ("tmpfs /sys/fs/bpf tmpfs rw 0 0\n", false),
            ("bpf /run/bpf bpf rw 0 0\n", false),
            ("", false),
        ];
        for (mounts, expected) in table {
            assert_eq!(is_mounted(mounts), expected, "{mounts:?}");
        }
    }
}
