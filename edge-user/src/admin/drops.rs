//! `edge drops`: the sampled drops, the last ones or as they come, for people, for machines and
//! as a capture.

use std::{
    fs::File,
    io::{BufWriter, ErrorKind, Write},
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, builder::PossibleValuesParser};
use edge_ebpf::verdict::{Reason, Verdict};
use ipnet::IpNet;
use serde_json::json;

use super::{
    cli::{Global, exit, parse_prefix},
    client, clock,
    commands::{CommandError, Report},
    protocol::{DropFilter, DropLine, Dropped, Request},
};
use crate::{
    config::Paths,
    firewall::{
        capture::{Packet, PcapNgWriter},
        inspect,
    },
};

/// `edge drops`.
#[derive(Debug, Args)]
pub struct DropsArguments {
    /// Show drops as they come, until interrupted
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only drops with this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(drop_reasons()), hide_possible_values = true)]
    reason: Option<String>,
    /// Only drops from this address or prefix
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    source: Option<IpNet>,
    /// End after so many (without --follow: the last so many)
    #[arg(long, value_name = "N")]
    count: Option<NonZeroUsize>,
    /// Also write them to a pcapng file, with verdict and rule as comments
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

fn drop_reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Drop).map(|r| r.name())
}

impl DropsArguments {
    fn request(&self) -> Request {
        let filter = DropFilter { reason: self.reason.clone(), source: self.source };
        Request::Drops { follow: self.follow, filter }
    }
}

type Capture = PcapNgWriter<BufWriter<File>>;

fn open_capture(path: Option<&Path>) -> Result<Option<(&Path, Capture)>, CommandError> {
    let Some(path) = path else { return Ok(None) };
    let fault = |error: std::io::Error| file_fault(path, &error);
    // Packets' contents: for the caller alone, and never into what another has put there.
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => CommandError::File {
            what: path.display().to_string(),
            error: "it is there already: name a file that is not".to_owned(),
        },
        _ => fault(error),
    })?;
    Ok(Some((path, PcapNgWriter::new(BufWriter::new(file)).map_err(fault)?)))
}

fn file_fault(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::File { what: path.display().to_string(), error: error.to_string() }
}

/// `edge drops` without `--follow`: what the daemon remembers.
pub fn recent(paths: &Paths, arguments: &DropsArguments) -> Result<Report, CommandError> {
    let answer = client::ask(&paths.run, &arguments.request())?;
    let lines: Vec<DropLine> = serde_json::from_value(answer).map_err(|_| CommandError::Form)?;
    let mut drops: Vec<Dropped> = lines
        .into_iter()
        .filter_map(|line| match line {
            DropLine::Drop(dropped) => Some(*dropped),
            DropLine::Lost(_) => None,
        })
        .collect();
    let surplus = arguments.count.map_or(0, |count| drops.len().saturating_sub(count.get()));
    drops.drain(..surplus);
    let mut capture = open_capture(arguments.pcap.as_deref())?;
    let mut text = String::new();
    for dropped in &drops {
        text.push_str(&line(dropped));
        write_capture(&mut capture, dropped)?;
    }
    if drops.is_empty() {
        text.push_str(&format!("no drop is remembered{}\n", off(paths)));
    }
    Ok(Report::new(text, json!(drops)))
}

/// `edge drops --follow`: prints as they come. Gives the exit code.
pub(super) fn follow(paths: &Paths, global: &Global, arguments: &DropsArguments) -> u8 {
    match try_follow(paths, global.json, arguments) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("edge: {error}");
            error.code()
        }
    }
}

fn try_follow(paths: &Paths, json: bool, arguments: &DropsArguments) -> Result<(), CommandError> {
    let mut capture = open_capture(arguments.pcap.as_deref())?;
    let note = off(paths);
    if !note.is_empty() {
        eprintln!("edge: warning: nothing will come{note}");
    }
    let (mut seen, mut fault) = (0, None);
    let mut out = std::io::stdout();
    let followed = client::follow(&paths.run, &arguments.request(), |line: DropLine| {
        if arguments.count.is_some_and(|count| seen >= count.get()) {
            return false;
        }
        let text = match &line {
            _ if json => format!("{}\n", json!(line)),
            DropLine::Drop(dropped) => self::line(dropped),
            DropLine::Lost(count) => format!("{count} drops were lost here: too many to print\n"),
        };
        if let DropLine::Drop(dropped) = &line {
            seen += 1;
            if let Err(error) = write_capture(&mut capture, dropped) {
                fault = Some(error);
                return false;
            }
        }
        // A reader that is gone ends it.
        let shown = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        shown.is_ok() && arguments.count.is_none_or(|count| seen < count.get())
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(followed?),
    }
}

/// Why there can be nothing to see, if that is so.
fn off(paths: &Paths) -> String {
    match inspect::status(&paths.pins) {
        Ok(status) if status.events_per_second == 0 => {
            ": events are off (events_per_second = 0 under [firewall])".to_owned()
        }
        _ => String::new(),
    }
}

fn write_capture(
    capture: &mut Option<(&Path, Capture)>,
    dropped: &Dropped,
) -> Result<(), CommandError> {
    let Some((path, writer)) = capture else { return Ok(()) };
    let packet = Packet {
        interface: &dropped.device,
        at: UNIX_EPOCH + Duration::from_nanos(dropped.at_nanoseconds),
        length: dropped.length,
        captured: &frame(dropped),
        comment: &comment(dropped),
    };
    writer.write(&packet).map_err(|error| file_fault(path, &error))
}

fn frame(dropped: &Dropped) -> Vec<u8> {
    let digit = |at: usize| dropped.frame.get(at..at + 2);
    (0..dropped.frame.len())
        .step_by(2)
        .map_while(|at| u8::from_str_radix(digit(at)?, 16).ok())
        .collect()
}

/// `drop not-partner rule sip-federation zone external`. What is dropped before its zone is looked
/// up names none.
fn comment(dropped: &Dropped) -> String {
    let rule = dropped.rule.as_ref().map_or(String::new(), |rule| format!(" rule {rule}"));
    let monitor = if dropped.verdict == "pass" { " (monitor)" } else { "" };
    let zone = match dropped.zone.as_str() {
        "none" => String::new(),
        zone => format!(" zone {zone}"),
    };
    format!("{} {}{rule}{zone}{monitor}", dropped.verdict, dropped.reason)
}

/// One line for people.
pub(super) fn line(dropped: &Dropped) -> String {
    let end = |address: Option<std::net::IpAddr>, port: u16| match address {
        Some(address) if port != 0 => format!("{address} port {port}"),
        Some(address) => address.to_string(),
        None => "?".to_owned(),
    };
    let what = match dropped.protocol {
        0 if dropped.source.is_none() => format!("EtherType {:#06x}", dropped.ether_type),
        1 | 58 => {
            let [kind, code] = dropped.destination_port.to_be_bytes();
            format!(
                "{} type {kind} code {code} {} -> {}",
                if dropped.protocol == 1 { "icmp" } else { "icmpv6" },
                end(dropped.source, 0),
                end(dropped.destination, 0)
            )
        }
        number => format!(
            "{} {} -> {}",
            match number {
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                other => format!("protocol {other}"),
            },
            end(dropped.source, dropped.source_port),
            end(dropped.destination, dropped.destination_port)
        ),
    };
    let vlan = dropped.vlan.map_or(String::new(), |vlan| format!(" VLAN {vlan}"));
    format!(
        "{}  {}  {what}  {} bytes  in on {}{vlan}\n",
        clock::time_of_day(dropped.at_nanoseconds),
        comment(dropped),
        dropped.length,
        dropped.device
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped() -> Dropped {
        Dropped {
            at_nanoseconds: 1_700_000_000_123_456_789,
            verdict: "drop".to_owned(),
            reason: "not-partner".to_owned(),
            rule: Some("sip-federation".to_owned()),
            zone: "external".to_owned(),
            device: "eth0".to_owned(),
            vlan: None,
            ether_type: 0x0800,
            protocol: 6,
            source: Some("198.51.100.7".parse().unwrap()),
            source_port: 40_000,
            destination: Some("203.0.113.10".parse().unwrap()),
            destination_port: 5061,
            length: 54,
            frame: "02ff00".to_owned(),
        }
    }

    #[test]
    fn a_capture_is_for_the_caller_alone_and_never_written_where_something_is() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = crate::config::tests_support::Folder::new();
        let path = folder.0.join("drops.pcapng");
        drop(open_capture(Some(&path)).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (link, other) = (folder.0.join("link"), folder.0.join("other"));
        symlink(&other, &link).unwrap();
        for taken in [&path, &link] {
            let fault = open_capture(Some(taken)).err().unwrap();
            assert!(fault.to_string().contains("name a file that is not"), "{fault}");
            assert_eq!(fault.code(), exit::FAILED);
        }
        assert!(!other.exists());
    }

    #[test]
    fn a_comment_names_verdict_reason_rule_and_zone() {
        let mut dropped = dropped();
        assert_eq!(comment(&dropped), "drop not-partner rule sip-federation zone external");
        dropped.rule = None;
        dropped.verdict = "pass".to_owned();
        assert_eq!(comment(&dropped), "pass not-partner zone external (monitor)");
        dropped.zone = "none".to_owned();
        assert_eq!(comment(&dropped), "pass not-partner (monitor)");
    }

    #[test]
    fn a_line_says_who_sent_what_where() {
        let mut dropped = dropped();
        let text = line(&dropped);
        for part in ["22:13:20.123456", "tcp 198.51.100.7 port 40000 -> 203.0.113.10 port 5061"] {
            assert!(text.contains(part), "{text}");
        }
        (dropped.protocol, dropped.destination_port) = (1, 0x0304);
        assert!(line(&dropped).contains("icmp type 3 code 4 198.51.100.7 -> "), "{dropped:?}");
        (dropped.protocol, dropped.source, dropped.ether_type) = (0, None, 0x88cc);
        assert!(line(&dropped).contains("EtherType 0x88cc"));
    }

    #[test]
    fn a_frame_comes_back_out_of_its_hex() {
        assert_eq!(frame(&dropped()), [2, 0xff, 0]);
        assert_eq!(frame(&Dropped { frame: "0z".to_owned(), ..dropped() }), Vec::<u8>::new());
    }
}
