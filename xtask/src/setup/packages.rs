//! The Debian packages that the lab, the tests and the benchmarks use, as peers and as tools.

use std::{collections::HashMap, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Action, Barrier, Purpose, Row, Step, root_barrier};
use crate::shell::{on_path, output, run, run_quietly, say};

/// A package, what it is for, and a program of it by which it is known on other systems.
struct Package {
    name: &'static str,
    program: Option<&'static str>,
    needed_for: &'static [Purpose],
}

const EVERY_LAB: &[Purpose] = &[Purpose::Test, Purpose::Kernels, Purpose::Demo, Purpose::Bench];
const KERNELS: &[Purpose] = &[Purpose::Kernels, Purpose::Test];
const TEST: &[Purpose] = &[Purpose::Test];
const TEST_DEMO_AND_BENCH: &[Purpose] = &[Purpose::Test, Purpose::Demo, Purpose::Bench];
const TEST_AND_BENCH: &[Purpose] = &[Purpose::Test, Purpose::Bench];

const PACKAGES: &[Package] = &[
    // The lab's plumbing and the eyes of the tests.
    Package { name: "iproute2", program: Some("ip"), needed_for: EVERY_LAB },
    Package { name: "ethtool", program: Some("ethtool"), needed_for: EVERY_LAB },
    Package { name: "bpftool", program: Some("bpftool"), needed_for: EVERY_LAB },
    Package { name: "openssl", program: Some("openssl"), needed_for: TEST },
    // Real peers.
    Package { name: "nsd", program: Some("nsd"), needed_for: EVERY_LAB },
    Package { name: "knot", program: Some("knotd"), needed_for: TEST },
    Package { name: "sip-tester", program: Some("sipp"), needed_for: TEST_DEMO_AND_BENCH },
    // The foreign XMPP server; TLS is a package of its own. We start it ourselves, its service stays
    // off (see install.sh).
    Package { name: "prosody", program: Some("prosody"), needed_for: TEST_DEMO_AND_BENCH },
    Package { name: "lua-sec", program: None, needed_for: TEST_DEMO_AND_BENCH },
    Package { name: "baresip-core", program: Some("baresip"), needed_for: TEST },
    Package { name: "rtpengine-daemon", program: Some("rtpengine"), needed_for: &[Purpose::Bench] },
    Package { name: "kamailio", program: Some("kamailio"), needed_for: TEST_AND_BENCH },
    Package { name: "kamailio-tls-modules", program: None, needed_for: TEST_AND_BENCH },
    Package { name: "stunnel4", program: Some("stunnel"), needed_for: TEST },
    // Reads the captures that we write (pcapng, with its comments): nothing lighter shows the
    // comment of a packet, and it brings capinfos along.
    Package { name: "tshark", program: Some("tshark"), needed_for: TEST },
    // Older kernels: the virtual machine, and the tools that its tests use.
    Package { name: "qemu-system-x86", program: Some("qemu-system-x86_64"), needed_for: KERNELS },
    Package { name: "xz-utils", program: Some("xz"), needed_for: KERNELS },
    // What the drop rate is measured against.
    Package { name: "xdp-tools", program: Some("xdp-filter"), needed_for: TEST_AND_BENCH },
    Package { name: "nftables", program: Some("nft"), needed_for: TEST_AND_BENCH },
    // libFuzzer is C++.
    Package { name: "g++", program: Some("c++"), needed_for: &[Purpose::Fuzz] },
    // The host that the deploy test deploys to.
    Package { name: "openssh-server", program: Some("sshd"), needed_for: TEST },
    Package { name: "systemd", program: Some("systemd-analyze"), needed_for: TEST },
    Package {
        name: "openssh-client",
        program: Some("ssh"),
        needed_for: &[Purpose::Test, Purpose::Deploy],
    },
];

/// The step that installs what is missing.
pub fn missing(purpose: Purpose) -> Result<Option<Step>> {
    let wanted = PACKAGES.iter().filter(|package| package.needed_for.contains(&purpose));
    let names: Vec<&'static str> = if is_debian() {
        let versions = versions()?;
        wanted.map(|package| package.name).filter(|name| !versions.contains_key(*name)).collect()
    } else {
        wanted
            .filter(|package| package.program.is_some_and(|program| on_path(program).is_none()))
            .map(|package| package.name)
            .collect()
    };
    if names.is_empty() {
        return Ok(None);
    }
    let barred = if is_debian() { root_barrier() } else { Some(Barrier::NotDebian) };
    let mut commands = Vec::new();
    if barred == Some(Barrier::NotDebian) {
        commands.push(
            "# what Debian calls these packages; other systems name them so or alike".to_owned(),
        );
    }
    commands.push("apt-get update".to_owned());
    commands.push(shown_command(&names));
    Ok(Some(Step {
        missing: format!("packages: {}", names.join(" ")),
        commands,
        barred,
        action: Action::Packages(names),
    }))
}

/// The command a person would type.
pub fn shown_command<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    format!("apt-get install -y --no-install-recommends {}", names.join(" "))
}

/// Installs packages without starting any service of theirs. The lists are fetched only when they
/// do not know a package or when what they name is gone.
pub fn install(names: &[&str]) -> Result<()> {
    if !known_to_apt(names) {
        update()?;
    }
    let script = include_str!("install.sh");
    let attempt = || {
        say(format!("$ {}   (no service is started)", shown_command(names)));
        run_quietly(Command::new("sh").args(["-c", script, "edge-setup"]).args(names))
            .context("apt-get could not install the packages")
    };
    attempt().or_else(|error| {
        say(format!("{error:#}; once more with fresh package lists"));
        update()?;
        attempt()
    })
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    run(Command::new("apt-get").args(["-o", "DPkg::Lock::Timeout=300", "update"]))
}

fn known_to_apt(names: &[&str]) -> bool {
    output(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(names))
        .is_ok_and(|text| all_have_a_candidate(&text, names.len()))
}

/// `apt-cache policy` leaves out names it has never heard of.
fn all_have_a_candidate(policy: &str, count: usize) -> bool {
    let candidates: Vec<&str> =
        policy.lines().filter_map(|line| line.trim().strip_prefix("Candidate: ")).collect();
    candidates.len() == count && !candidates.contains(&"(none)")
}

/// Whether this system has Debian's package tools.
pub fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists()
        && Path::new("/usr/bin/apt-get").exists()
        && Path::new("/usr/bin/dpkg-query").exists()
}

/// What is installed of our list, by name, with its version.
fn versions() -> Result<HashMap<String, String>> {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\n"]);
    command.args(PACKAGES.iter().map(|package| package.name)).env("LC_ALL", "C");
    // It fails when it does not know one of the names, and answers for the others.
    let output = command.output().context("cannot start dpkg-query")?;
    Ok(parse_versions(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_versions(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (status, name, version) = (fields.next()?, fields.next()?, fields.next()?);
            // The second letter is the state: installed, whatever is wanted of it.
            (status.chars().nth(1) == Some('i')).then(|| (name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// Lines for the table.
pub fn rows(purpose: Purpose) -> Vec<Row> {
    let wanted = PACKAGES.iter().filter(|package| package.needed_for.contains(&purpose));
    let versions = if is_debian() { versions().unwrap_or_default() } else { HashMap::new() };
    wanted
        .map(|package| {
            let found = versions.get(package.name).cloned().or_else(|| {
                package.program.and_then(on_path).map(|file| file.display().to_string())
            });
            Row { what: package.name, found: found.unwrap_or_else(|| "absent".to_owned()) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_package_that_is_installed_counts() {
        let text = "ii \tnsd\t4.6.1-1\nrc \tkamailio\t5.6\nun \topenssh-server\t\nhi \tbpftool\t7.1\n\
                    iU \tethtool\t6.1\n";
        let versions = parse_versions(text);
        let mut names: Vec<&str> = versions.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["bpftool", "nsd"]);
    }

    #[test]
    fn the_lists_are_fetched_when_they_lack_a_package() {
        let known = "nsd:\n  Installed: (none)\n  Candidate: 4.6.1-1\n";
        let gone = "nsd:\n  Installed: (none)\n  Candidate: (none)\n";
        for (text, count, expected) in
            [(known, 1, true), (known, 2, false), (gone, 1, false), ("", 1, false)]
        {
            assert_eq!(all_have_a_candidate(text, count), expected, "{text:?} {count}");
        }
    }

    #[test]
    fn building_needs_no_packages_and_tests_need_all_but_what_is_named() {
        let needed = |purpose| {
            PACKAGES.iter().filter(|package| package.needed_for.contains(&purpose)).count()
        };
        assert_eq!(needed(Purpose::Build), 0);
        // The compiler is for those who ask for fuzzing, the other relay is only measured against.
        let others: Vec<&str> = PACKAGES
            .iter()
            .filter(|package| !package.needed_for.contains(&Purpose::Test))
            .map(|package| package.name)
            .collect();
        assert_eq!(others, ["rtpengine-daemon", "g++"]);
    }
}
