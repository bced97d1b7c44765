//! `edge explain …`: what the live firewall does with a packet or an address, and why.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    client,
    commands::{CommandError, Report},
    explain_address,
    protocol::{PartnerRequest, Request},
    table::Table,
    xmpp_text,
};
use crate::{
    config::{Paths, places},
    domain::Domain,
    firewall::{
        capture,
        explain::{self, Explanation, PacketFacts, PacketSpec, protocol},
    },
};

/// `edge explain`.
#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// What the live, loaded program does with a packet (a trial run: nothing is counted)
    Packet(Box<PacketArguments>),
    /// Every block, set, partner and rule that concerns an address
    Address {
        /// It
        address: IpAddr,
    },
    /// What becomes of a domain: how it federates or why not, and of XMPP partners each outcome
    Domain {
        /// It
        domain: Domain,
    },
}

/// A packet in words, or in a capture.
#[derive(Debug, Args)]
pub struct PacketArguments {
    /// The device it comes in on
    #[arg(long = "in", value_name = "DEVICE")]
    device: String,
    /// Source address
    #[arg(long, required_unless_present = "pcap")]
    src: Option<IpAddr>,
    /// Destination address
    #[arg(long, required_unless_present = "pcap")]
    dst: Option<IpAddr>,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = parse_protocol, required_unless_present = "pcap")]
    proto: Option<u8>,
    /// Source port
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    sport: u16,
    /// Destination port
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// TCP flags: letters of F S R P A U E C, or 0 for none
    #[arg(long, default_value = "S", value_parser = parse_flags)]
    flags: u8,
    /// Type of an ICMP message, and its code after a point; without it an echo request
    #[arg(long, value_name = "TYPE[.CODE]", value_parser = parse_icmp)]
    icmp_type: Option<(u8, u8)>,
    /// Hop limit, or time to live; without it what such a packet has (64, neighbour discovery 255)
    #[arg(long, value_name = "N")]
    hop_limit: Option<u8>,
    /// VLAN tags, the outer one first
    #[arg(long, value_name = "VLAN[.INNER]", value_parser = parse_vlans)]
    vlan: Option<Vlans>,
    /// What follows the headers: text (with \r \n), or bytes as 0x0102…
    #[arg(long, value_parser = parse_payload)]
    payload: Option<Payload>,
    /// Take the frame from a pcap or pcapng file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "proto", "dport"])]
    pcap: Option<PathBuf>,
    /// Its number in the file
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    frame: usize,
}

/// VLAN ids, outermost first.
#[derive(Clone, Debug)]
struct Vlans(Vec<u16>);

/// Bytes of a payload.
#[derive(Clone, Debug)]
struct Payload(Vec<u8>);

pub(super) fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "icmp" => Ok(protocol::ICMP),
        "icmpv6" => Ok(protocol::ICMPV6),
        number => number.parse().map_err(|_| "tcp, udp, icmp, icmpv6 or 0 to 255".to_owned()),
    }
}

fn parse_flags(text: &str) -> Result<u8, String> {
    if text == "0" {
        return Ok(0);
    }
    let flag = |letter: char| "FSRPAUEC".find(letter.to_ascii_uppercase()).map(|bit| 1 << bit);
    text.chars()
        .map(|letter| flag(letter).ok_or_else(|| format!("`{letter}` is none of F S R P A U E C")))
        .try_fold(0, |flags, flag| flag.map(|flag: u8| flags | flag))
}

fn parse_icmp(text: &str) -> Result<(u8, u8), String> {
    let (kind, code) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str| text.parse::<u8>().map_err(|_| "TYPE or TYPE.CODE".to_owned());
    Ok((number(kind)?, number(code)?))
}

fn parse_vlans(text: &str) -> Result<Vlans, String> {
    let number = |text: &str| match text.parse() {
        Ok(id @ 1..=4094) => Ok(id),
        _ => Err("1 to 4094, or OUTER.INNER".to_owned()),
    };
    text.split('.').map(number).collect::<Result<_, _>>().map(Vlans)
}

fn parse_payload(text: &str) -> Result<Payload, String> {
    if let Some(digits) = text.strip_prefix("0x") {
        let byte = |at: usize| digits.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        return bytes.map(Payload).ok_or_else(|| "0x and two hex digits for each byte".to_owned());
    }
    Ok(Payload(text.replace("\\r", "\r").replace("\\n", "\n").into_bytes()))
}

impl PacketArguments {
    /// The frame: out of the capture, or built.
    fn frame(&self) -> Result<Vec<u8>, CommandError> {
        if let Some(path) = &self.pcap {
            let bad =
                |fault: String| CommandError::Arguments(format!("{}: {fault}", path.display()));
            let file = std::fs::read(path).map_err(|fault| bad(fault.to_string()))?;
            let found =
                capture::frame(&file, self.frame).map_err(|fault| bad(fault.to_string()))?;
            return Ok(found.data);
        }
        let bad = |text: &str| CommandError::Arguments(text.to_owned());
        let (Some(source), Some(destination), Some(number)) = (self.src, self.dst, self.proto)
        else {
            return Err(bad("name --src, --dst and --proto, or --pcap"));
        };
        let ported = matches!(number, protocol::TCP | protocol::UDP);
        if ported && self.dport.is_none() {
            return Err(bad("name the destination port with --dport"));
        }
        let echo = (if source.is_ipv4() { 8 } else { 128 }, 0);
        let spec = PacketSpec {
            vlans: self.vlan.clone().map_or(Vec::new(), |vlans| vlans.0),
            source,
            destination,
            protocol: number,
            source_port: self.sport,
            destination_port: self.dport.unwrap_or(0),
            tcp_flags: self.flags,
            icmp: self.icmp_type.unwrap_or(echo),
            hop_limit: self.hop_limit,
            payload: self.payload.clone().map_or(Vec::new(), |payload| payload.0),
        };
        explain::frame(&spec, &self.device).map_err(|fault| bad(&fault.to_string()))
    }
}

/// `edge explain …`.
pub fn explain(
    paths: &Paths,
    file: &Path,
    command: &ExplainCommand,
) -> Result<Report, CommandError> {
    match command {
        ExplainCommand::Packet(arguments) => {
            let frame = arguments.frame()?;
            let found = explain::packet(&paths.pins, &paths.state, &arguments.device, &frame)?;
            let made_by = made_by(paths, file, &found)?;
            let mut json = json!(found);
            json["made_by"] = made_by.lines().map(str::trim).collect();
            Ok(Report::new(packet_text(&found, &made_by), json))
        }
        ExplainCommand::Address { address } => explain_address::address(paths, file, *address),
        ExplainCommand::Domain { domain } => {
            let request = PartnerRequest::Show { name: domain.to_string(), dns: true };
            let json = client::ask(&paths.run, &Request::Partner(request))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Report::new(xmpp_text::explain(&json, now.as_secs()), json))
        }
    }
}

/// What made the entries that were met: the lines of the file, the owners of blocks, and the
/// domains behind the source.
fn made_by(paths: &Paths, file: &Path, found: &Explanation) -> Result<String, CommandError> {
    let mut text = String::new();
    let (device, vlan) = (&found.device, found.packet.vlan);
    if found.zone != "none"
        && let Some(line) = places::line_of_interface(file, device, vlan)
    {
        let zone = found.zone;
        text.push_str(&format!(
            "zone      {zone}, by [[interface]] in {} line {line}\n",
            file.display()
        ));
    }
    let Some(source) = found.packet.source else { return Ok(text) };
    let known = explain_address::known(paths, file, source.to_canonical())?;
    for block in &found.blocks {
        text.push_str(&format!("block     {block}\n{}", known.holders(*block)));
    }
    if !found.blocks.is_empty() {
        text.push_str(&known.makers(file));
    }
    text.push_str(&known.domains(file));
    if !found.blocks.is_empty() && known.daemon.is_none() {
        text.push_str("note      the daemon is not running: not every owner of a block is known\n");
    }
    Ok(text)
}

/// `tcp 198.51.100.7 port 40000 -> 203.0.113.10 port 5061`, and of ICMP what it says.
fn ends(packet: &PacketFacts) -> String {
    let end = |address: Option<IpAddr>, port: u16| match address {
        Some(address) if port != 0 => format!("{address} port {port}"),
        Some(address) => address.to_string(),
        None => "?".to_owned(),
    };
    let icmp = packet.icmp.as_ref().map_or(String::new(), |icmp| {
        let name = icmp.name.map_or(String::new(), |name| format!(" ({name})"));
        format!(" type {} code {}{name}", icmp.kind, icmp.code)
    });
    format!(
        "{}{icmp} {} -> {}",
        packet.protocol,
        end(packet.source, packet.source_port),
        end(packet.destination, packet.destination_port)
    )
}

fn packet_text(found: &Explanation, made_by: &str) -> String {
    let packet = &found.packet;
    let mut text = format!("{}  {}: {}\n", found.verdict, found.reason, found.meaning);
    if found.monitored {
        text.push_str("monitor   only counted: without monitor mode it would be dropped\n");
    }
    text.push_str(&format!(
        "packet    {}, {} bytes, in on {}{} (zone {})\n",
        ends(packet),
        packet.length,
        found.device,
        packet.vlan.map_or(String::new(), |vlan| format!(" VLAN {vlan}")),
        found.zone
    ));
    if let Some(flow) = &found.flow {
        let (slot, line, call) = (flow.slot, flow.line, &flow.call);
        text.push_str(&format!("flow      {slot}, m-line {line} of call {call}\n"));
    }
    match (&found.rule, found.rule_id) {
        (Some(rule), _) => text.push_str(&format!(
            "rule      {}, made by {}: {}\n",
            rule.name,
            rule.made_by(),
            rule.why
        )),
        (None, Some(id)) => text.push_str(&format!("rule      number {id}\n")),
        (None, None) => {}
    }
    text.push_str(made_by);
    if let Some(fault) = &found.disagrees {
        text.push_str(&format!("DISAGREES {fault}\n"));
    }
    let mut table = Table::new(&["asked on the way", "answer"]);
    for step in &found.steps {
        table.row([step.asked.clone(), step.answer.clone()]);
    }
    if !table.is_empty() {
        text.push_str(&format!("\n{}", table.render()));
    }
    text.push_str(&format!(
        "\nThe verdict is the live program's (id {}), by a trial run that changes nothing.\n",
        found.program_id
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_letters_of_the_header() {
        assert_eq!(parse_flags("S"), Ok(0x02));
        assert_eq!(parse_flags("sa"), Ok(0x12));
        assert_eq!(parse_flags("FSRPAUEC"), Ok(0xff));
        assert_eq!(parse_flags("0"), Ok(0));
        assert!(parse_flags("X").is_err());
    }

    #[test]
    fn a_payload_is_text_or_bytes() {
        assert_eq!(parse_payload("0x00ff").unwrap().0, [0, 0xff]);
        assert_eq!(parse_payload("A\\r\\n").unwrap().0, b"A\r\n");
        for bad in ["0x0", "0xzz", "0x0é"] {
            assert!(parse_payload(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_and_types_are_numbers_with_a_point() {
        assert_eq!(parse_vlans("7.9").unwrap().0, [7, 9]);
        for bad in ["0", "4095", "x", "7.", ""] {
            assert!(parse_vlans(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_icmp("3.4"), Ok((3, 4)));
        assert_eq!(parse_icmp("8"), Ok((8, 0)));
        assert!(parse_icmp("300").is_err());
    }
}
