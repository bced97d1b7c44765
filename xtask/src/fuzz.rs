//! `cargo xtask fuzz`: the loaded program against the plain model, and libFuzzer's targets in
//! `tests/fuzz`.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    lab,
    setup::{self, Purpose},
    shell::{output, run, say, workspace},
};

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The loaded program against the plain model, a million pairs unless told otherwise.
    Differential,
    /// The packet parser and the decision, by libFuzzer.
    Packet,
    /// The configuration, by libFuzzer.
    Config,
    /// How streams and datagrams are cut into SIP messages, by libFuzzer.
    SipFraming,
    /// A SIP message's index, its edits and its answers, by libFuzzer.
    SipIndex,
    /// URIs, Via, From and the like, by libFuzzer.
    SipValues,
    /// Session descriptions and the bodies they stand in, by libFuzzer.
    Sdp,
    /// The whole proxy core, by libFuzzer.
    Proxy,
    /// The guard of XMPP streams, by libFuzzer.
    #[value(alias = "xmpp_guard")]
    XmppGuard,
    /// The core of all XMPP streams, by libFuzzer.
    #[value(alias = "xmpp_streams")]
    XmppStreams,
    /// Addresses, stanzas and bodies that the XMPP gateway maps, by libFuzzer.
    #[value(alias = "xmpp_mapping")]
    XmppMapping,
}

/// `cargo xtask fuzz …`
#[derive(Args, Debug)]
pub struct Arguments {
    /// What
    target: Target,
    /// How long; libFuzzer's targets run for a minute unless told otherwise
    #[arg(long)]
    seconds: Option<u64>,
    /// Pairs of a rule set and a packet (differential)
    #[arg(long, conflicts_with = "seconds")]
    pairs: Option<u64>,
    /// Seed; a run that failed prints its own
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    match arguments.target {
        Target::Differential => {
            setup::ensure(Purpose::Test)?;
            let mut rest = vec!["differential".to_owned()];
            let options = [
                ("--seconds", arguments.seconds),
                ("--pairs", arguments.pairs),
                ("--seed", arguments.seed),
            ];
            for (name, value) in options {
                rest.extend(value.into_iter().flat_map(|v| [name.to_owned(), v.to_string()]));
            }
            lab::program("fuzz", false, &rest)
        }
        Target::Packet => libfuzzer("packet", arguments),
        Target::Config => libfuzzer("config", arguments),
        Target::SipFraming => libfuzzer("sip_framing", arguments),
        Target::SipIndex => libfuzzer("sip_index", arguments),
        Target::SipValues => libfuzzer("sip_values", arguments),
        Target::Sdp => libfuzzer("sdp", arguments),
        Target::Proxy => libfuzzer("proxy", arguments),
        Target::XmppGuard => libfuzzer("xmpp_guard", arguments),
        Target::XmppStreams => libfuzzer("xmpp_streams", arguments),
        Target::XmppMapping => libfuzzer("xmpp_mapping", arguments),
    }
}

/// Builds a target with the nightly toolchain and runs it.
fn libfuzzer(target: &str, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(Purpose::Fuzz)?;
    if output(Command::new("rustup").args(["run", "nightly", "rustc", "-V"])).is_err() {
        bail!("libFuzzer's targets need the nightly toolchain: `rustup toolchain install nightly`");
    }
    let known = output(Command::new("cargo").args(["fuzz", "--version"])).is_ok();
    if !known {
        say("cargo-fuzz is missing");
        run(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]))?;
    }
    let folder = workspace().join("tests/fuzz");
    let corpus = folder.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let mut command = Command::new("cargo");
    command.current_dir(&folder);
    // cargo sets these for its own children; the nightly one must find its own.
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command.env("CARGO_TARGET_DIR", folder.join("target"));
    // After cargo-fuzz's own single unit, which one core would build for most of an hour.
    command.env("RUSTFLAGS", "-Ccodegen-units=16");
    command.args(["+nightly", "fuzz", "run", "--fuzz-dir", ".", target, "--"]);
    command.arg(format!("-max_total_time={}", arguments.seconds.unwrap_or(60)));
    command.args(arguments.seed.map(|seed| format!("-seed={seed}")));
    command.arg("-print_final_stats=1");
    if target == "config" {
        // The example is the way in: without it, most inputs are no configuration at all.
        let example = workspace().join("edge-user/edge.example.toml");
        fs::copy(&example, corpus.join("example")).with_context(|| corpus.display().to_string())?;
        command.arg("-dict=config.dict");
    }
    if target.starts_with("sip_") {
        sip_seeds(target, &folder, &corpus)?;
        command.args(["-dict=sip.dict", "-max_len=4096"]);
    }
    if target == "sdp" {
        descriptions(&corpus)?;
        command.args(["-dict=sdp.dict", "-max_len=4096"]);
    }
    if target.starts_with("xmpp_") {
        xmpp_seeds(target, &folder, &corpus)?;
        command.args(["-dict=xmpp.dict", "-max_len=4096"]);
    }
    if target == "proxy" {
        // A remote user registers and is called along the Path: the way in to what needs both.
        let registered = [0, 2, 2, 8, 2, 9, 0, 1, 5, 0, 2, 0, 7, 1, 0, 1];
        let seed = corpus.join("registered");
        fs::write(&seed, registered).with_context(|| seed.display().to_string())?;
        command.arg("-max_len=2048");
    }
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

/// The session descriptions of the tests, alone and as parts of a body.
fn descriptions(corpus: &Path) -> Result<()> {
    let seeds = workspace().join("edge-user/src/media/sdp/tests");
    for entry in fs::read_dir(&seeds).with_context(|| seeds.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "sdp") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text = text.replace('\n', "\r\n");
        let part = format!("--b1\r\nContent-Type: application/sdp\r\n\r\n{text}\r\n");
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (name, seed) in
            [(format!("{name}-parts"), format!("{part}{part}--b1--\r\n")), (name, text)]
        {
            let to = corpus.join(name);
            fs::write(&to, seed).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

/// The stanzas to begin with, after the bytes that each target reads first.
fn xmpp_seeds(target: &str, folder: &Path, corpus: &Path) -> Result<()> {
    let first: &[u8] = match target {
        // How it is cut, and no bound on what comes first.
        "xmpp_guard" => b"\x07\xff",
        // A partner connects, opens a stream, and writes these raw bytes.
        "xmpp_streams" => b"\x00\x00\x01\x01\x00\x00\x04\x00\xff",
        _ => b"\x00",
    };
    let seeds = folder.join("seeds");
    for entry in fs::read_dir(&seeds).with_context(|| seeds.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            let text = fs::read(&path).with_context(|| path.display().to_string())?;
            let to = corpus.join(path.file_stem().unwrap_or_default());
            let seed = [first, text.trim_ascii_end()].concat();
            fs::write(&to, seed).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

/// The messages to begin with, as each target reads them.
fn sip_seeds(target: &str, folder: &Path, corpus: &Path) -> Result<()> {
    let seeds = folder.join("seeds");
    for entry in fs::read_dir(&seeds).with_context(|| seeds.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "sip") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let message = text.replace('\n', "\r\n").into_bytes();
        let write = |name: String, bytes: &[u8]| {
            let to = corpus.join(name);
            fs::write(&to, bytes).with_context(|| to.display().to_string())
        };
        match target {
            // Lengths of chunks come first.
            "sip_framing" => {
                write(format!("{name}-twice"), &[b"\x01\x28\x03", &*message, &message].concat())?;
            }
            // Which value it is comes first.
            "sip_values" => {
                for (at, line) in text.lines().enumerate() {
                    let value = line.split_once(": ").map_or(line, |(_, value)| value);
                    for choice in 0..4u8 {
                        let bytes = [&[choice], value.as_bytes()].concat();
                        write(format!("{name}-{at}-{choice}"), &bytes)?;
                    }
                }
            }
            _ => write(name, &message)?,
        }
    }
    Ok(())
}
