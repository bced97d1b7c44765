//! `cargo xtask test --kernel`: the kernel-program tests and the firewall's tests on Debian's
//! older kernels, in a virtual machine that holds nothing else.

mod cpio;
mod image;
mod machine;
mod root;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub use image::KernelVersion;

use crate::{
    artifacts,
    setup::{self, Purpose},
    shell::say,
    test::{Tally, result_of},
};
use image::Image;
use machine::Machine;

/// Programs of tests that run there: what loads, attaches and runs the kernel half.
const TESTS: [&str; 4] = ["program", "firewall", "egress", "interfaces"];
/// Tests of those programs that do not run there: they need the daemon.
const TESTS_LEFT_OUT: [&str; 1] = ["a_device_without_a_zone_is_named_once"];
/// The other programs of tests, which do not run there, and why.
const PROGRAMS_LEFT_OUT: [(&str, &[&str]); 5] = [
    (
        "they need the daemon, its peers or a DNS server",
        &[
            "deploy",
            "dnssec",
            "federation",
            "foreign_peer",
            "hostile",
            "kinds",
            "lab",
            "long_requests",
            "media",
            "partners",
            "partners_live",
            "plan",
            "remote_users",
            "see",
            "watch_list",
            "xmpp",
            "xmpp_lab",
            "xmpp_partner",
        ],
    ),
    ("what they add to `firewall` is the daemon's own", &["apply", "boot", "lists"]),
    ("an emulated processor sends no flood", &["flood"]),
    ("they need no kernel", &["fuzz_seeds"]),
    (
        "not tried there yet; `program` has the tests of the media program itself",
        &["media_flows", "media_kernel"],
    ),
];
/// The tests of `cargo xtask test`: all programs load, every reason is reached, cookies and replies
/// work, and a real device is guarded both ways.
const SHORT: [&str; 7] = [
    "budget::the_programs_have_not_grown_by_a_tenth_without_a_word",
    "reasons::every_reason_is_reached_by_both_families_tagged_and_untagged",
    "replies::an_unconnected_socket_gets_answers_only_to_what_left",
    "asked::in_a_flood_a_syn_is_answered_with_a_cookie_that_the_kernel_takes",
    "a_blocked_source_is_dropped_in_the_driver_until_its_block_goes_or_expires",
    "frames_longer_than_a_page_are_judged",
    "the_kernels_best_way_is_taken",
];
/// The first process.
const INIT: &str = "vm-init";
/// What it says when it has run everything.
const DONE: &str = "vm-init: all programs have run";
/// The test that measures the programs, what makes it print their record, and how it begins a line.
const MEASURE: (&str, &str, &str) =
    (SHORT[0], "EDGE_UPDATE_BUDGET=print", "record of the programs: ");
/// What a test says that leaves something out on this kernel.
const LEFT_OUT: &str = "left out: ";
/// The machine is ended after this: twice what all tests take beside nothing else.
const LIMIT: Duration = Duration::from_secs(2400);

/// `cargo xtask test --kernel`: runs all of them and prints the closing line. `arguments` go to
/// each program of tests, as after `cargo test --`.
pub fn command(version: KernelVersion, arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(Purpose::Kernels)?;
    let mut all = arguments.to_vec();
    all.extend(TESTS_LEFT_OUT.iter().flat_map(|name| ["--skip".to_owned(), (*name).to_owned()]));
    let files = Files::provide(version)?;
    let tally = files.test(&all, None, |_| ())?;
    for line in left_out_everywhere() {
        say(format!("kernel {}: {LEFT_OUT}{line}", version.number()));
    }
    Ok(tally.end())
}

/// The part of it that `cargo xtask test` runs.
pub fn short(version: KernelVersion) -> Result<Tally> {
    if !Image::is_offered(version)? {
        say(format!("{LEFT_OUT}kernel {}: this system's apt offers none", version.number()));
        return Ok(Tally::default());
    }
    let mut arguments = vec!["--exact".to_owned()];
    arguments.extend(SHORT.map(str::to_owned));
    let mut tally = Files::provide(version)?.test(&arguments, None, |_| ())?;
    let ran = tally.passed + tally.failed;
    if ran < SHORT.len() as u64 {
        say(format!("kernel {}: {ran} of {} tests have run", version.number(), SHORT.len()));
        tally.failed += 1;
    }
    Ok(tally)
}

/// `cargo xtask test --update-budget --kernel`: the record of what the programs cost, with what
/// they cost on this kernel.
pub fn measure(version: KernelVersion) -> Result<String> {
    setup::ensure(Purpose::Kernels)?;
    let (name, environment, begins) = MEASURE;
    let mut record = String::new();
    let arguments = ["--exact".to_owned(), name.to_owned()];
    let tally = Files::provide(version)?.test(&arguments, Some(environment), |line| {
        if let Some(line) = line.strip_prefix(begins) {
            record += line;
            record.push('\n');
        }
    })?;
    if tally.failed > 0 || record.is_empty() {
        bail!("the programs could not be measured on kernel {}", version.number());
    }
    Ok(record)
}

/// What the machine starts from.
struct Files {
    version: KernelVersion,
    kernel: PathBuf,
    root: PathBuf,
    messages: PathBuf,
}

impl Files {
    /// Builds the tests and fetches the kernel.
    fn provide(version: KernelVersion) -> Result<Self> {
        let init = artifacts::helper(INIT)?;
        let programs = artifacts::tests(&TESTS)?;
        let folder = target(&init)?.join("kernels").join(version.number());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let image = Image::provide(version, &folder)?;
        let root = folder.join("root.cpio");
        root::write(&image, &init, &programs, &root)?;
        let messages = folder.join("messages.log");
        Ok(Self { version, kernel: image.kernel()?, root, messages })
    }

    /// Runs the tests and hands each line of their output to `read`, too.
    fn test(
        &self,
        arguments: &[String],
        environment: Option<&str>,
        mut read: impl FnMut(&str),
    ) -> Result<Tally> {
        let Self { kernel, root, messages, .. } = self;
        let machine = Machine { kernel, root, messages, environment, arguments, limit: LIMIT };
        let (mut tally, mut done, mut left_out) = (Tally::default(), false, Vec::new());
        let ending = machine.run(|line| {
            println!("{line}");
            read(line);
            done |= line == DONE;
            left_out.extend(line.strip_prefix(LEFT_OUT).map(str::to_owned));
            tally.add(result_of(line).unwrap_or_default());
        })?;
        let number = self.version.number();
        say(format!("kernel {number}: {} s in the machine", ending.took.as_secs()));
        for line in left_out {
            say(format!("kernel {number}: {LEFT_OUT}{line}"));
        }
        if !done {
            tally.failed += 1;
            let why = if ending.late { "took too long" } else { "ended too early" };
            let said = fs::read_to_string(messages).unwrap_or_default();
            say(format!("the machine {why}; its kernel said ({}):", messages.display()));
            for line in last_lines(&said, 30) {
                say(line);
            }
        }
        Ok(tally)
    }
}

/// What no kernel's run has.
fn left_out_everywhere() -> Vec<String> {
    let tests = TESTS_LEFT_OUT.map(|name| format!("{name} (it needs the daemon)"));
    let programs = PROGRAMS_LEFT_OUT.map(|(why, names)| format!("{} ({why})", names.join(", ")));
    tests.into_iter().chain(programs).collect()
}

/// The folder that cargo builds into: above the profile's.
fn target(program: &Path) -> Result<PathBuf> {
    let folder = program.parent().and_then(Path::parent);
    folder.map(PathBuf::from).context("cargo built into no folder")
}

fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::shell::workspace;

    #[test]
    fn every_program_of_tests_runs_there_or_is_named_as_left_out() {
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(workspace().join("tests/tests")).expect("the tests") {
            let path = entry.expect("an entry").path();
            // A folder without it belongs to a program of its own file.
            if path.is_file() || path.join("main.rs").is_file() {
                let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
                there.insert(name);
            }
        }
        let left_out = PROGRAMS_LEFT_OUT.iter().flat_map(|(_, names)| names.iter());
        let named: Vec<String> =
            TESTS.iter().chain(left_out).map(|name| (*name).to_owned()).collect();
        assert_eq!(named.len(), there.len(), "named twice, or not there: {named:?}");
        assert_eq!(there, named.into_iter().collect());
    }
}
