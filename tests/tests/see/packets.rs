//! `edge explain packet` against the live, loaded program: tags, ICMP, content, rates, floods,
//! fragments and captures, over both families.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{Lab, daemon, layout::Site},
    packets,
    patience::BUSY,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, open_port},
};
use edge_user::{
    config::{Config, Content, FirewallRule, Interface, Protocol, Rates, Zone},
    firewall::{
        capture::{Packet, PcapNgWriter},
        explain::{self, Explanation, PacketSpec, protocol},
    },
};
use serde_json::Value;

use super::{ask, spec, start};

/// Plain SIP in the external zone.
const SIP: u16 = 5070;
/// Plain SIP in the zone of VLAN 7.
const TAGGED_SIP: u16 = 5072;
/// A port with rates.
const LIMITED: u16 = 5071;
/// Somebody else's address on the link-local network.
const NEIGHBOUR: &str = "fe80::2";

fn both() -> [(IpAddr, IpAddr); 2] {
    [(PEER4.into(), EDGE4.into()), (PEER6.into(), EDGE6.into())]
}

fn config(wire: &Wire, change: impl FnOnce(&mut Config)) -> Arc<Config> {
    wire.config_with(|config| {
        config.interfaces.push(Interface {
            device: DEVICE.to_owned(),
            vlan: Some(7),
            zone: Zone::Internal,
            optional: false,
        });
        let ping = |name: &str, protocol| FirewallRule::new(name, Zone::External, protocol);
        config.firewall.rules = vec![
            ping("ping4", Protocol::Icmp),
            ping("ping6", Protocol::Icmpv6),
            FirewallRule { content: Content::Sip, ..open_port("sip", SIP) },
            FirewallRule { zone: Zone::Internal, ..open_port("tagged", TAGGED_SIP) },
            FirewallRule {
                protocol: Protocol::Tcp,
                rates: Rates { new_per_source: 1, packets_total: 900, ..Rates::default() },
                ..open_port("limited", LIMITED)
            },
        ];
        change(config);
    })
}

/// What was said about something that was asked on the way.
fn step<'e>(found: &'e Explanation, asked: &str) -> &'e str {
    let step = found.steps.iter().find(|step| step.asked.contains(asked));
    step.map_or_else(|| panic!("nobody asked `{asked}`: {found:#?}"), |step| &step.answer)
}

/// Verdict, reason and rule, and that the replay says the same.
fn check(found: &Explanation, expected: (&str, &str, Option<&str>)) {
    let rule = found.rule.as_ref().map(|rule| rule.name.as_str());
    assert_eq!((found.verdict, found.reason, rule), expected, "{found:#?}");
    assert_eq!(found.disagrees, None, "{found:#?}");
}

#[test]
fn tags_icmp_and_content_are_explained() {
    let wire = Wire::new("sev").unwrap();
    let _handle = start(&wire, config(&wire, |_| ()));
    for (peer, own) in both() {
        let tagged = |vlans: &[u16]| PacketSpec {
            vlans: vlans.to_vec(),
            ..spec(peer, own, protocol::UDP, TAGGED_SIP)
        };
        let found = ask(&wire, &tagged(&[7])).unwrap();
        check(&found, ("pass", "rule", Some("tagged")));
        assert_eq!((found.zone, found.packet.vlan), ("internal", Some(7)));
        assert_eq!(step(&found, "VLAN 7 of this trunk"), "internal zone");
        for vlans in [&[8][..], &[7, 9]] {
            let found = ask(&wire, &tagged(vlans)).unwrap();
            check(&found, ("drop", "vlan-unknown", None));
            assert!(step(&found, "of this trunk").starts_with("none: no [[interface]]"));
        }
        check(&ask(&wire, &tagged(&[])).unwrap(), ("drop", "no-rule", None));

        let (number, rule) =
            if peer.is_ipv4() { (protocol::ICMP, "ping4") } else { (protocol::ICMPV6, "ping6") };
        let mut echo = spec(peer, own, number, 0);
        let found = ask(&wire, &echo).unwrap();
        check(&found, ("pass", "rule", Some(rule)));
        let icmp = found.packet.icmp.clone().unwrap();
        assert_eq!((icmp.name, found.packet.destination_port), (Some("echo request"), 0));
        echo.icmp = if peer.is_ipv4() { (0, 0) } else { (129, 0) };
        check(&ask(&wire, &echo).unwrap(), ("drop", "icmp-unsolicited", None));

        for (payload, verdict, reason) in [
            (&b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"[..], "pass", "rule"),
            (b"", "pass", "rule"),
            (b"GET / HTTP/1.1\r\n", "drop", "not-sip"),
            (b"OPTIONS sip:a@b SIP/2.0\r\nUser-Agent: friendly-scanner\r\n", "drop", "sip-scanner"),
        ] {
            let mut sip = spec(peer, own, protocol::UDP, SIP);
            sip.payload = payload.to_vec();
            let found = ask(&wire, &sip).unwrap();
            check(&found, (verdict, reason, Some("sip")));
            let said = step(&found, "the payload, which rule `sip` wants to be SIP in the clear");
            let expected = if verdict == "pass" { "nothing against it" } else { found.meaning };
            assert_eq!(said, expected);
        }
    }
    let mut solicitation = spec(NEIGHBOUR.parse().unwrap(), EDGE6.into(), protocol::ICMPV6, 0);
    solicitation.icmp = (135, 0);
    let solicited = |spec: &PacketSpec| {
        let mut spec = spec.clone();
        // The target of the question (RFC 4861 section 4.3), after the reserved word.
        spec.payload = EDGE6.octets().to_vec();
        ask(&wire, &spec).unwrap()
    };
    check(&solicited(&solicitation), ("pass", "neighbour-discovery", None));
    solicitation.hop_limit = Some(64);
    check(&solicited(&solicitation), ("drop", "neighbour-hop-limit", None));
}

#[test]
fn rates_are_spelt_out_and_a_used_up_one_is_seen() {
    let wire = Wire::new("ser").unwrap();
    let _handle = start(&wire, config(&wire, |_| ()));
    for (peer, own) in both() {
        let syn = spec(peer, own, protocol::TCP, LIMITED);
        let found = ask(&wire, &syn).unwrap();
        check(&found, ("pass", "rule", Some("limited")));
        assert_eq!(
            step(&found, "the rates of rule `limited`"),
            "each source: new connections: 1 a second and 1 at once; all together: packets: 900 a \
             second and 900 at once"
        );
        assert_eq!(step(&found, "the source's rates (first"), "it has room");
        let began = Instant::now();
        let used_up = loop {
            let _ = wire.peer.run(|| {
                let to = SocketAddr::new(own, LIMITED);
                TcpStream::connect_timeout(&to, Duration::from_millis(20))
            });
            let found = ask(&wire, &syn).unwrap();
            if found.reason == "rate-source" {
                break found;
            }
            assert!(began.elapsed() < BUSY, "{found:#?}");
        };
        check(&used_up, ("drop", "rate-source", Some("limited")));
        assert_eq!(step(&used_up, "the source's rates (first"), "used up for now");
        let plain = PacketSpec { tcp_flags: 0x10, ..syn };
        let found = ask(&wire, &plain).unwrap();
        assert_eq!(
            step(&found, "the source's rates (first"),
            "nothing of this packet counts there"
        );
    }
}

#[test]
fn a_flood_is_seen_as_the_program_sees_it() {
    let wire = Wire::new("sef").unwrap();
    let _handle = start(
        &wire,
        config(&wire, |config| {
            config.firewall.flood.syn_cookies_above = 1;
            config.firewall.flood.external_packets_per_second = 5000;
        }),
    );
    for (peer, own) in both() {
        let syn = spec(peer, own, protocol::TCP, 5061);
        let calm = loop {
            let found = ask(&wire, &syn).unwrap();
            if found.verdict == "pass" {
                break found;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        check(&calm, ("pass", "rule", Some("access")));
        let said = step(&calm, "new connections in the external zone in this second, on CPU");
        assert!(said.contains("a flood begins above 1: no flood"), "{said}");
        let ceiling = "the ceiling of the external zone: 5000 a second and 500 at once";
        assert_eq!(step(&calm, ceiling), "it has room");
        let began = Instant::now();
        let flooded = loop {
            for _ in 0..8 {
                let _ = wire.peer.run(|| {
                    let to = SocketAddr::new(own, 5061);
                    TcpStream::connect_timeout(&to, Duration::from_millis(5))
                });
            }
            let found = ask(&wire, &syn).unwrap();
            if found.verdict == "answer" && found.disagrees.is_none() {
                break found;
            }
            assert!(began.elapsed() < BUSY, "{found:#?}");
        };
        check(&flooded, ("answer", "syn-cookie", Some("access")));
        let said = step(&flooded, "new connections in the external zone in this second");
        assert!(said.contains("a flood: only who brings back a SYN cookie"), "{said}");
    }
}

/// Puts an IP packet on the wire as it is.
fn send(wire: &Wire, frame: &[u8], to: IpAddr) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let packet = frame[14..].to_vec();
    let sent = wire.peer.run(move || {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(to, 0))
    });
    sent.unwrap().unwrap();
}

fn ask_frame(wire: &Wire, frame: &[u8]) -> Explanation {
    let asked = wire.edge.run(|| explain::packet(&wire.pins, &wire.state, DEVICE, frame));
    asked.unwrap().unwrap()
}

#[test]
fn fragments_are_explained_by_what_passed_before() {
    let wire = Wire::new("seg").unwrap();
    wire.know_neighbours().unwrap();
    let _handle = start(&wire, config(&wire, |_| ()));
    for (peer, own) in both() {
        let whole =
            packets::udp(40_000, SIP, &[b"OPTIONS sip:a@b SIP/2.0\r\n", &[b' '; 60][..]].concat());
        let piece = |bytes| packets::fragment(peer, own, protocol::UDP, &whole, bytes, 77);
        let (first, later) = (piece(0..48), piece(48..whole.len()));
        check(&ask_frame(&wire, &later), ("drop", "fragment", None));
        let found = ask_frame(&wire, &first);
        check(&found, ("pass", "rule", Some("sip")));
        assert!(step(&found, "this first fragment").starts_with("it would be remembered"));
        check(&ask_frame(&wire, &later), ("drop", "fragment", None));
        send(&wire, &first, own);
        let began = Instant::now();
        while ask_frame(&wire, &later).verdict != "pass" {
            assert!(began.elapsed() < BUSY, "{:#?}", ask_frame(&wire, &later));
        }
        for _ in 0..2 {
            check(&ask_frame(&wire, &later), ("pass", "fragment-tracked", None));
        }
        let overlapping = piece(40..whole.len());
        check(&ask_frame(&wire, &overlapping), ("drop", "fragment-overlap", None));
        check(&ask_frame(&wire, &later), ("pass", "fragment-tracked", None));
    }
}

/// A capture as tcpdump writes it (the libpcap file format, microseconds, Ethernet).
fn classic_pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        file.extend_from_slice(&[[0; 4], [0; 4], length, length].concat());
        file.extend_from_slice(frame);
    }
    file
}

/// The command in the appliance's own namespace.
fn in_place(lab: &Lab, edge: &edge_tests::lab::daemon::Edge, arguments: &[&str]) -> (String, i32) {
    let mut command = lab.site(Site::Contoso).command(daemon::binary().unwrap());
    let output = command.args(arguments).arg("-c").arg(edge.file()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code().unwrap())
}

#[test]
fn a_captured_frame_is_explained_with_the_line_or_the_domain_behind_it() {
    let lab = Lab::raise("seep").unwrap();
    let identities = &lab.identities;
    let mut config = edge_tests::lab::config::EdgeConfig::new(
        Site::Contoso,
        &identities.contoso,
        &identities.trust,
    );
    config.blocked.push("northwind.example".to_owned());
    config.more = "[[firewall.block]]\nprefix = \"192.0.2.32/28\"\n\n\
                   [[firewall.block]]\nprefix = \"2001:db8:6::/48\"\n"
        .to_owned();
    let edge = daemon::Edge::start(&lab, config).unwrap();
    let syn = |from: Site, v6: bool| {
        let (from, to) =
            (from.outside()[usize::from(v6)], Site::Contoso.outside()[usize::from(v6)]);
        packets::frame(from, to, protocol::TCP, &packets::tcp(40_000, 5061, packets::SYN))
    };
    let frames: Vec<Vec<u8>> = [Site::Stranger, Site::Northwind, Site::Adatum]
        .into_iter()
        .flat_map(|site| [syn(site, false), syn(site, true)])
        .collect();
    let classic = lab.dir().join("frames.pcap");
    std::fs::write(&classic, classic_pcap(&frames)).unwrap();
    let modern = lab.dir().join("frames.pcapng");
    let mut writer = PcapNgWriter::new(std::fs::File::create(&modern).unwrap()).unwrap();
    for frame in &frames {
        let packet = Packet {
            interface: "eth0",
            at: std::time::SystemTime::now(),
            length: u32::try_from(frame.len()).unwrap(),
            captured: frame,
            comment: "",
        };
        writer.write(&packet).unwrap();
    }
    let text = std::fs::read_to_string(edge.file()).unwrap();
    let line = |wanted: &str| text.lines().position(|line| line.contains(wanted)).unwrap() + 1;
    let expected = [
        ("drop  blocked-address", format!(" line {}", line("192.0.2.32/28"))),
        ("drop  blocked-address", format!(" line {}", line("2001:db8:6::/48"))),
        ("drop  blocked-domain", format!(" line {})", line("domain = \"northwind.example\""))),
        ("drop  blocked-domain", format!(" line {})", line("domain = \"northwind.example\""))),
        ("pass  rule", "access, made by [service.access]".to_owned()),
        ("pass  rule", "access, made by [service.access]".to_owned()),
    ];
    for file in [&classic, &modern] {
        let file = file.to_str().unwrap();
        for (number, (verdict, made_by)) in expected.iter().enumerate() {
            let number = (number + 1).to_string();
            let arguments =
                ["explain", "packet", "--in", "ext0", "--pcap", file, "--frame", &number];
            let began = Instant::now();
            let said = loop {
                let (said, code) = in_place(&lab, &edge, &arguments);
                assert_eq!(code, 0, "{said}");
                // The blocked domain's addresses come from DNS.
                if said.starts_with(verdict) && said.contains(made_by) {
                    break said;
                }
                assert!(began.elapsed() < BUSY, "{verdict} {made_by}: {said}");
                std::thread::sleep(Duration::from_millis(50));
            };
            let zone = format!("zone      external, by [[interface]] in {}", edge.file().display());
            assert!(said.contains(&zone), "{said}");
            let domain = "held by domain northwind.example";
            assert_eq!(said.contains(domain), verdict.contains("domain"), "{said}");
        }
        let arguments = ["explain", "packet", "--in", "ext0", "--pcap", file, "--frame", "7"];
        let (said, code) = in_place(&lab, &edge, &arguments);
        assert_eq!(code, 2, "{said}");
    }
    let (said, _) = in_place(
        &lab,
        &edge,
        &["explain", "packet", "--in", "ext0", "--json", "--pcap", classic.to_str().unwrap()],
    );
    let json: Value = serde_json::from_str(&said).unwrap();
    assert!(json["made_by"].to_string().contains("[[firewall.block]]"), "{json}");
}
