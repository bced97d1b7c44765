//! Partners of whom signed DNS answers are demanded, against Debian's knot as the whole of DNS: a
//! signed root, a signed zone below it, an unsigned one, and one whose signatures lead nowhere.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{certs::Identities, config::EdgeConfig, layout::Site, netns::Namespace},
    patience::BUSY,
};
use edge_user::{
    domain::Domain,
    federation::Lookup,
    net::dns::Resolver,
    proxy::{Question, ResolveError},
};

/// Where knot answers, in a namespace of its own: nobody else has its port.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The server.
struct Knot {
    process: Child,
    dir: PathBuf,
    namespace: Namespace,
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        Namespace::delete(self.namespace.name());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Zones: name, records, signed.
const ZONES: [(&str, &str, bool); 4] = [
    (
        ".",
        "@ SOA ns.root.example. admin.root.example. 1 60 60 600 60\n@ NS ns.root.example.\n\
         ns.root.example. A 127.0.0.1\n\
         signed.example. NS ns.root.example.\nplain.example. NS ns.root.example.\n\
         bogus.example. NS ns.root.example.\n@DS@",
        true,
    ),
    ("signed.example.", "_sipfederationtls._tcp SRV 0 0 5061 sip\nsip A 198.51.100.1\n", true),
    ("plain.example.", "_sipfederationtls._tcp SRV 0 0 5061 sip\nsip A 198.51.100.2\n", false),
    ("bogus.example.", "_sipfederationtls._tcp SRV 0 0 5061 sip\nsip A 198.51.100.3\n", true),
];

/// A DS record that no key of bogus.example belongs to.
const NO_KEY: &str = "bogus.example. DS 1 13 2 \
    0000000000000000000000000000000000000000000000000000000000000000\n";

impl Knot {
    fn start() -> Self {
        let name = format!("edge-dnssec-{}", std::process::id());
        let (dir, namespace) =
            (std::env::temp_dir().join(&name), Namespace::create(&name).unwrap());
        let _ = std::fs::remove_dir_all(&dir);
        for folder in ["run", "db"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
        std::fs::write(dir.join("knot.conf"), conf(&dir, ADDRESS)).unwrap();
        let mut ds = NO_KEY.to_owned();
        for zone in ["signed.example.", "bogus.example.", "."] {
            let args = [zone, "generate", "algorithm=ECDSAP256SHA256", "ksk=yes", "zsk=yes"];
            keymgr(&dir, &args);
        }
        ds += &keymgr(&dir, &["signed.example.", "ds"]);
        let anchor = keymgr(&dir, &[".", "dnskey"]).replace(" DNSKEY", " 60 IN DNSKEY");
        std::fs::write(dir.join("anchor"), anchor).unwrap();
        for (zone, records, _) in ZONES {
            let mut text = format!("$ORIGIN {zone}\n$TTL 60\n");
            if zone != "." {
                text += "@ SOA ns.root.example. admin.root.example. 1 60 60 600 60\n\
                         @ NS ns.root.example.\n";
            }
            text += &records.replace("@DS@", &ds);
            std::fs::write(dir.join(file_of(zone)), text).unwrap();
        }
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = namespace
            .command("/usr/sbin/knotd")
            .arg("-c")
            .arg(dir.join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("knotd: `cargo xtask setup` installs it");
        Self { process, dir, namespace }
    }

    fn resolver(&self) -> Arc<Resolver> {
        let ids = Identities::create(&self.dir.join("ids")).unwrap();
        let config = EdgeConfig::new(Site::Contoso, &ids.contoso, &ids.trust);
        let file = self.dir.join("edge.toml");
        let text = config.to_toml(&self.dir, Path::new("/sys/fs/bpf/edge-never")).unwrap();
        std::fs::write(&file, text).unwrap();
        let mut config = edge_user::config::load(&file).unwrap();
        config.dns.servers = vec![ADDRESS];
        config.dns.timeout = BUSY;
        config.dns.trust_anchor = Some(self.dir.join("anchor"));
        config.federation.allow_addresses = vec!["198.51.100.0/24".parse().unwrap()];
        Resolver::new(&config).unwrap()
    }
}

fn file_of(zone: &str) -> String {
    format!("zone-{}", zone.trim_end_matches('.'))
}

fn conf(dir: &Path, address: SocketAddr) -> String {
    let zones: String = ZONES
        .iter()
        .map(|(zone, _, signed)| {
            let signing = if *signed { "on" } else { "off" };
            let file = file_of(zone);
            format!("  - domain: {zone}\n    file: {file}\n    dnssec-signing: {signing}\n")
        })
        .collect();
    let (dir, ip, port) = (dir.display(), address.ip(), address.port());
    format!(
        "server:\n    rundir: {dir}/run\n    listen: {ip}@{port}\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n    storage: {dir}/db\n\
         policy:\n  - id: manual\n    manual: on\n    nsec3: off\n\
         template:\n  - id: default\n    storage: {dir}\n    zonefile-sync: -1\n    \
         dnssec-policy: manual\n    semantic-checks: off\n\
         zone:\n{zones}"
    )
}

fn keymgr(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("/usr/sbin/keymgr")
        .arg("-c")
        .arg(dir.join("knot.conf"))
        .args(args)
        .output()
        .expect("keymgr: `cargo xtask setup` installs it");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_signed_answers_count_where_they_are_demanded() {
    let knot = Knot::start();
    // Its sockets are of the namespace of this one thread.
    let only = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(signed_answers(&knot));
    };
    knot.namespace.run(only).unwrap();
}

async fn signed_answers(knot: &Knot) {
    let resolver = knot.resolver();
    let ask = async |name: &str, secure: bool| {
        let domain: Domain = name.parse().unwrap();
        let lookup = Lookup { secure, ..Lookup::default() };
        let answer = resolver.resolve(&Question::Federation(domain), lookup).await;
        answer.map(|found| found.hosts[0].addresses[0])
    };
    // knotd loads and signs each zone as it starts: a busy machine takes its time.
    let until = Instant::now() + BUSY;
    for (name, secure) in
        [("signed.example", true), ("plain.example", false), ("bogus.example", false)]
    {
        while ask(name, secure).await.is_err() {
            let log = std::fs::read_to_string(knot.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "no answer about {name}: {log}");
            resolver.flush();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let at = |last| Ok(Ipv4Addr::new(198, 51, 100, last).into());
    use ResolveError as E;
    for (name, plain, secure) in [
        ("signed.example", at(1), at(1)),
        ("plain.example", at(2), Err(E::NotSecure)),
        ("bogus.example", at(3), Err(E::NotSecure)),
        // That it does not exist is signed.
        ("nothing.signed.example", Err(E::NotFound), Err(E::NotFound)),
        ("nothing.plain.example", Err(E::NotFound), Err(E::NotSecure)),
    ] {
        assert_eq!(ask(name, false).await, plain, "{name}");
        assert_eq!(ask(name, true).await, secure, "{name}, signed");
    }
}
