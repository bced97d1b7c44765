//! A real authoritative DNS server (NSD) with zone files written on the spot. It can be told to
//! lie: its records are whatever a test writes.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{layout::Site, netns::Namespace, process::Process};
use crate::patience::BUSY;

/// The service of SIP federation over TLS.
pub const FEDERATION_SERVICE: &str = "_sipfederationtls._tcp";
/// The service of XMPP servers.
pub const XMPP_SERVICE: &str = "_xmpp-server._tcp";
/// The same with TLS from the first byte (XEP-0368).
pub const XMPPS_SERVICE: &str = "_xmpps-server._tcp";
/// Time to live of every record, in seconds: short, so that a changed zone is seen soon.
pub const TTL: u32 = 5;

/// One record of the zone `example.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    owner: String,
    data: String,
}

impl Record {
    /// A or AAAA.
    pub fn address(host: &str, address: IpAddr) -> Self {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        Self { owner: host.to_owned(), data: format!("{kind} {address}") }
    }

    /// The federation SRV record of `domain`.
    pub fn federation(domain: &str, target: &str, port: u16) -> Self {
        Self::service(FEDERATION_SERVICE, domain, target, port)
    }

    /// The SRV record of `domain` for a service.
    pub fn service(service: &str, domain: &str, target: &str, port: u16) -> Self {
        Self { owner: format!("{service}.{domain}"), data: format!("SRV 0 0 {port} {target}.") }
    }

    /// Any other record, in zone file form.
    pub fn other(owner: &str, data: &str) -> Self {
        Self { owner: owner.to_owned(), data: data.to_owned() }
    }

    /// Whether it is an AAAA record.
    pub fn is_ipv6(&self) -> bool {
        self.data.starts_with("AAAA ")
    }

    /// What this record is of.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

/// The honest records: SRV, A and AAAA of every site with an edge.
pub fn honest_records() -> Vec<Record> {
    let mut records = Vec::new();
    for site in Site::ALL {
        for address in site.outside() {
            records.push(Record::address(&site.host(), address));
        }
        if !matches!(site, Site::Dns | Site::Stranger | Site::Evil) {
            records.push(Record::federation(&site.domain(), &site.host(), 5061));
            records.push(Record::service(XMPP_SERVICE, &site.domain(), &site.host(), 5269));
        }
    }
    // The neighbour is a real domain of its own, with a real SRV record.
    records.push(Record::federation("evil.example", &Site::Evil.host(), 5061));
    records
}

/// The running server.
pub struct Dns {
    process: Process,
    namespace: Namespace,
    zone_file: PathBuf,
    records: Vec<Record>,
    serial: u32,
}

impl Dns {
    /// Starts it in `namespace`, with its files in `dir`, and waits until it answers there, on
    /// loopback and at `addresses`.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        addresses: &[IpAddr],
        records: Vec<Record>,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let zone_file = dir.join("example.zone");
        write_zone(&zone_file, &records, 1)?;
        let config = dir.join("nsd.conf");
        std::fs::write(&config, server_config(dir, addresses))?;
        let mut command = namespace.command("nsd");
        command.arg("-d").arg("-c").arg(&config);
        let process = Process::spawn("nsd (package nsd)", command, &dir.join("nsd.log"))?;
        let mut dns = Self { process, namespace: namespace.clone(), zone_file, records, serial: 1 };
        dns.wait_serial()?;
        Ok(dns)
    }

    /// What it serves.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Serves exactly these records from now on.
    pub fn set_records(&mut self, records: Vec<Record>) -> Result<()> {
        self.records = records;
        self.serial += 1;
        write_zone(&self.zone_file, &self.records, self.serial)?;
        self.process.signal(Signal::HUP)?;
        self.wait_serial()
    }

    /// Replaces every record of the owners in `records`.
    pub fn replace(&mut self, records: Vec<Record>) -> Result<()> {
        let mut all = self.records.clone();
        all.retain(|old| !records.iter().any(|new| new.owner == old.owner));
        all.extend(records);
        self.set_records(all)
    }

    /// Stops answering until [`Dns::resume`].
    pub fn pause(&self) -> Result<()> {
        // Children of NSD answer; the whole service is silenced by taking its link down.
        self.namespace.ip_batch("link set ext0 down\n")
    }

    /// Answers again.
    pub fn resume(&self) -> Result<()> {
        let site = Site::Dns;
        self.namespace.ip_batch(&format!(
            "link set ext0 up\n\
             addr replace {}/64 dev ext0 nodad\n\
             route replace default via {}\n\
             route replace ::/0 via {}\n",
            site.v6(),
            site.router4(),
            site.router6(),
        ))
    }

    fn wait_serial(&mut self) -> Result<()> {
        let wanted = self.serial;
        let namespace = self.namespace.clone();
        self.process
            .wait_ready(BUSY, || Ok((namespace.run(serial)?? == wanted).then_some(())))
            .with_context(|| format!("zone serial {wanted}"))
    }
}

fn server_config(dir: &Path, addresses: &[IpAddr]) -> String {
    let dir = dir.display();
    let listen: String =
        addresses.iter().map(|address| format!("  ip-address: {address}\n")).collect();
    format!(
        "server:\n{listen}\
         \x20 ip-address: 127.0.0.1\n\
         \x20 username: \"\"\n\
         \x20 chroot: \"\"\n\
         \x20 database: \"\"\n\
         \x20 zonesdir: \"{dir}\"\n\
         \x20 zonelistfile: \"{dir}/zone.list\"\n\
         \x20 xfrdfile: \"{dir}/xfrd.state\"\n\
         \x20 xfrdir: \"{dir}\"\n\
         \x20 pidfile: \"{dir}/nsd.pid\"\n\
         \x20 server-count: 1\n\
         \x20 rrl-ratelimit: 0\n\
         \x20 verbosity: 1\n\
         remote-control:\n\
         \x20 control-enable: no\n\
         zone:\n\
         \x20 name: \"example\"\n\
         \x20 zonefile: \"example.zone\"\n",
    )
}

fn write_zone(file: &Path, records: &[Record], serial: u32) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = format!(
        "$TTL {TTL}\n\
         example. SOA sip.dns.example. admin.dns.example. {serial} 60 60 600 {TTL}\n\
         example. NS sip.dns.example.\n"
    );
    for record in records {
        writeln!(text, "{}. {}", record.owner, record.data)?;
    }
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// Asks for the zone's SOA on loopback and reads the serial: the last 20 bytes before any
/// additional record begin with it.
fn serial() -> Result<u32> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect("127.0.0.1:53")?;
    let question =
        b"\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x06\x00\x01";
    socket.send(question)?;
    let mut answer = [0_u8; 512];
    let length = socket.recv(&mut answer)?;
    // Header and question, then name pointer (2), type, class, TTL, length (10), and the data:
    // two names and five 32-bit numbers.
    let data = question.len() + 12;
    let size = answer.get(data - 2..data).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let end = data + size.context("short answer")?;
    let numbers = answer[..length].get(end.saturating_sub(20)..end).context("short answer")?;
    Ok(u32::from_be_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]))
}
