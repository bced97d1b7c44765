//! `cargo xtask fuzz`: the loaded program against the plain model, and libFuzzer's targets in
//! `tests/fuzz`.

mod seeds;

use std::{
    fs,
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
    for (name, bytes) in seeds::of(target, &workspace())? {
        let to = corpus.join(name);
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
    }
    command.args(match target {
        "config" => &["-dict=config.dict"][..],
        "sdp" => &["-dict=sdp.dict", "-max_len=4096"],
        "proxy" => &["-max_len=2048"],
        _ if target.starts_with("sip_") => &["-dict=sip.dict", "-max_len=4096"],
        _ if target.starts_with("xmpp_") => &["-dict=xmpp.dict", "-max_len=4096"],
        _ => &[],
    });
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
