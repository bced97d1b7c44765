//! `edge plan ports` works from the file alone, and nft takes what it writes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use edge_tests::{
    lab::{certs::Identities, config::EdgeConfig, daemon::binary, layout::Site},
    wire::Wire,
};

/// Every service, sets that overlap, every protocol, partners, rates.
const MORE: &str = r#"
[service.web_conferencing]
listen = ["203.0.113.11", "[2001:db8:1::11]:443"]
[service.av]
listen = ["203.0.113.12", "2001:db8:1::12"]
legacy_partners = true
packets_per_second_per_source = 5000
[service.xmpp]
listen = "203.0.113.13"
[service.remote]
listen = "203.0.113.13"
[admin]
listen = "10.255.0.1"
[[federation.allowed_domain]]
domain = "far.example"
from_addresses = ["198.51.100.32/28", "198.51.100.32", "2001:db8:7::/48"]
[[firewall.set]]
name = "wide"
prefixes = ["198.51.100.0/24", "2001:db8:8::/45"]
[[firewall.set]]
name = "narrow"
prefixes = ["198.51.100.0/25", "198.51.100.128/25"]
[[firewall.rule]]
name = "web"
zone = "external"
protocol = "tcp"
ports = [80, 81, "8000-8009"]
from = ["wide", "narrow", "partners"]
new_per_second_total = 10
[[firewall.rule]]
name = "ping"
zone = "external"
protocol = "icmp"
from = ["wide"]
[[firewall.rule]]
name = "ping6"
zone = "external"
protocol = "icmpv6"
[[firewall.rule]]
name = "gre"
zone = "internal"
protocol = "47"
to = "inside"
action = "drop"
"#;

fn file(dir: &Path) -> PathBuf {
    let ids = Identities::create(dir).unwrap();
    let mut config = EdgeConfig::new(Site::Contoso, &ids.contoso, &ids.trust)
        .access("partners_only = true")
        .allow("fabrikam.example");
    config.more = MORE.to_owned();
    let text = config.to_toml(dir, Path::new("/sys/fs/bpf/edge-never")).unwrap();
    let file = dir.join("edge.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn plan(file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(binary().unwrap());
    let output =
        command.args(["plan", "ports"]).args(arguments).arg("-c").arg(file).output().unwrap();
    let fault = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{fault}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_takes_the_plan_as_it_is() {
    let wire = Wire::new("pln").unwrap();
    let dir = wire.state.join("plan");
    std::fs::create_dir_all(&dir).unwrap();
    let file = file(&dir);
    for whom in ["appliance", "outer", "both"] {
        for style in ["destination", "source-and-destination"] {
            let arguments = ["--format", "nftables", "--for", whom, "--av-style", style];
            let rules = plan(&file, &arguments);
            let mut nft = wire.edge.command("nft");
            nft.args(["-c", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut nft = nft.spawn().unwrap();
            nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
            let output = nft.wait_with_output().unwrap();
            let fault = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{whom} {style}: {fault}\n{rules}");
            assert!(rules.contains("accept"), "{rules}");
        }
    }
    let json: serde_json::Value = serde_json::from_str(&plan(&file, &["--json"])).unwrap();
    let names = |table: &str| {
        let rows = json[table].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for name in ["management", "access", "inside", "web-conferencing", "av-inside", "gre"] {
        assert!(names("appliance").iter().any(|n| n == name), "{name}");
    }
    assert!(!names("outer").iter().any(|n| n == "gre"), "what is dropped is not let through");
}
