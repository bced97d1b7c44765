//! The captures that `edge drops` writes, as a foreign reader sees them.

use std::{
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{Lab, config::EdgeConfig, daemon::Edge, layout::Site},
    patience::BUSY,
};

use super::CLOSED;

/// A port with a rule that drops.
const REFUSED: u16 = 9998;

fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|fault| panic!("{program}: {fault}: `cargo xtask setup` installs it"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn wireshark_reads_verdict_and_rule_in_the_captured_drops() {
    let lab = Lab::raise("sect").unwrap();
    let identities = &lab.identities;
    let mut config = EdgeConfig::new(Site::Contoso, &identities.contoso, &identities.trust);
    config.more = format!(
        "[[firewall.rule]]\nname = \"no-games\"\nzone = \"external\"\nprotocol = \"udp\"\n\
         ports = [{REFUSED}]\naction = \"drop\"\n"
    );
    let edge = Edge::start(&lab, config).unwrap();
    let file = lab.dir().join("drops.pcapng");
    let mut follower = edge
        .cli(&["drops", "--follow", "--count", "40", "--pcap", file.to_str().unwrap()])
        .unwrap()
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while follower.try_wait().unwrap().is_none() {
        for (from, to) in Site::Stranger.outside().into_iter().zip(Site::Contoso.outside()) {
            let stranger = lab.site(Site::Stranger);
            let socket = stranger.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
            for port in [CLOSED, REFUSED] {
                socket.send_to(b"anybody there?", (to, port)).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(began.elapsed() < BUSY, "forty drops in time");
    }
    let about = output("capinfos", &["-t", "-E", "-c", "-I"], &file);
    for part in ["pcapng", "Ethernet", "Number of packets:   40", "Name = ext0"] {
        assert!(about.contains(part), "{part} is missing: {about}");
    }
    let fields = [
        "-n",
        "-T",
        "fields",
        "-e",
        "frame.comment",
        "-e",
        "ip.src",
        "-e",
        "ipv6.src",
        "-e",
        "udp.dstport",
        "-e",
        "frame.interface_name",
        "-r",
    ];
    let read = output("tshark", &fields, &file);
    let lines: Vec<&str> = read.lines().filter(|line| line.contains("\t9")).collect();
    let [v4, v6] = Site::Stranger.outside().map(|address| address.to_string());
    for (comment, port) in [
        ("drop no-rule zone external", CLOSED),
        ("drop rule-drop rule no-games zone external", REFUSED),
    ] {
        for [four, six] in [[v4.as_str(), ""], ["", v6.as_str()]] {
            let wanted = format!("{comment}\t{four}\t{six}\t{port}\text0");
            assert!(lines.contains(&wanted.as_str()), "{wanted:?} is missing in:\n{read}");
        }
    }
    let both = |line: &&&str| line.contains("no-rule") != line.contains("rule-drop");
    assert!(lines.iter().all(|line| both(&line)), "{read}");
}
