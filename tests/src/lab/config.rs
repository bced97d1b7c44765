//! Writes a daemon's configuration file, the way an administrator of that site would.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Result;

use super::{
    certs::Identity,
    layout::{OUTSIDE_PREFIXES, Site},
    sipp::SERVER_PORT,
};

/// What a test may want to differ.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Whose edge.
    pub site: Site,
    /// Certificate and key of the access service (and of the inside listener).
    pub identity: Identity,
    /// Roots.
    pub trust: std::path::PathBuf,
    /// Partners found by DNS SRV.
    pub allowed: Vec<String>,
    /// Partners with a pinned server: domain and FQDN.
    pub allowed_servers: Vec<(String, String)>,
    /// Blocked from the start.
    pub blocked: Vec<String>,
    /// Next hops, in order.
    pub next_hops: Vec<String>,
    /// The one server inside that is spoken to, by TLS alone: its name.
    pub inside_tls: Option<String>,
    /// How often they are asked whether they live: never, since most are scripts.
    pub probe: String,
    /// Lines of `[service.access]`.
    pub access: Vec<String>,
    /// Further lines of `[federation]`.
    pub federation: Vec<String>,
    /// Lines of `[limits]`.
    pub limits: Vec<String>,
    /// Further sections, as TOML text.
    pub more: String,
    /// Log filter.
    pub log_filter: String,
}

impl EdgeConfig {
    /// The plain configuration of `site`.
    pub fn new(site: Site, identity: &Identity, trust: &Path) -> Self {
        Self {
            site,
            identity: identity.clone(),
            trust: trust.to_owned(),
            allowed: Vec::new(),
            allowed_servers: Vec::new(),
            blocked: Vec::new(),
            next_hops: vec![format!("sip:{}:{SERVER_PORT};transport=tcp", site.server4())],
            inside_tls: None,
            probe: "0s".to_owned(),
            access: Vec::new(),
            federation: Vec::new(),
            limits: Vec::new(),
            more: String::new(),
            log_filter: "info".to_owned(),
        }
    }

    /// Allows a partner by SRV.
    #[must_use]
    pub fn allow(mut self, domain: &str) -> Self {
        self.allowed.push(domain.to_owned());
        self
    }

    /// Allows a partner's pinned server.
    #[must_use]
    pub fn allow_server(mut self, domain: &str, fqdn: &str) -> Self {
        self.allowed_servers.push((domain.to_owned(), fqdn.to_owned()));
        self
    }

    /// Adds a line to `[service.access]`.
    #[must_use]
    pub fn access(mut self, line: &str) -> Self {
        self.access.push(line.to_owned());
        self
    }

    /// Adds a line to `[limits]`.
    #[must_use]
    pub fn limit(mut self, line: &str) -> Self {
        self.limits.push(line.to_owned());
        self
    }

    /// Gives it the A/V service at its own addresses, and media in this mode at these ports.
    #[must_use]
    pub fn media(mut self, mode: &str, ports: &str) -> Self {
        let (site, quoted) = (self.site, |address: IpAddr| format!("\"{address}\""));
        let list = |addresses: [IpAddr; 2]| addresses.map(quoted).join(", ");
        self.more.push_str(&format!(
            "[service.av]\nlisten = [{}]\ninside = [{}]\nmedia_ports = \"{ports}\"\n\n\
             [media]\nmode = \"{mode}\"\n\n",
            list(site.outside()),
            list([site.edge_inside4().into(), site.edge_inside6().into()]),
        ));
        self
    }

    /// Serves XMPP at its own addresses, for every user, with these partners: each a domain and
    /// further lines of its entry.
    #[must_use]
    pub fn xmpp(mut self, partners: &[(&str, &str)]) -> Self {
        let (site, at) = (self.site, |port: u16| {
            format!("\"{}:{port}\", \"[{}]:{port}\"", self.site.v4(), self.site.v6())
        });
        let (server, direct) = (at(5269), at(5270));
        self.more.push_str(&format!(
            "[service.xmpp]\nlisten = [{server}]\ndirect_tls = [{direct}]\n\
             inside = \"{}\"\n\n[[user_policy]]\nusers = [\"*\"]\nxmpp = true\n\n",
            site.edge_inside4(),
        ));
        for (domain, lines) in partners {
            let entry = format!("[[xmpp.partner]]\ndomain = \"{domain}\"\n{lines}\n\n");
            self.more.push_str(&entry);
        }
        self
    }

    /// Relays stanzas of `domain` between partners and the XMPP server inside at `host`.
    #[must_use]
    pub fn xmpp_server(mut self, domain: &str, host: &str) -> Self {
        self.more.push_str(&format!(
            "[[service.xmpp.server]]\ndomains = [\"{domain}\"]\nnext_hop = \"{host}\"\n\n"
        ));
        self
    }

    /// The address inside user agents send to.
    pub fn inside_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.site.edge_inside4()), SERVER_PORT)
    }

    /// The file's text, with its folders under `dir` and its pins at `pins`.
    pub fn to_toml(&self, dir: &Path, pins: &Path) -> Result<String> {
        let mut text = String::new();
        let site = self.site;
        writeln!(text, "[edge]\nfqdn = \"{}\"\ndomains = [\"{}\"]\n", site.host(), site.domain())?;
        writeln!(
            text,
            "[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\npins = \"{1}\"\n",
            dir.display(),
            pins.display()
        )?;
        for (device, zone) in [("ext0", "external"), ("int0", "internal")] {
            writeln!(text, "[[interface]]\ndevice = \"{device}\"\nzone = \"{zone}\"\n")?;
        }
        writeln!(
            text,
            "[management]\nports = [22]\nfrom = [\"{}/32\"]\nzone = \"internal\"\n",
            site.server4()
        )?;
        self.services(&mut text)?;
        self.federation(&mut text)?;
        writeln!(text, "[dns]\nservers = [\"{}:53\"]\ntimeout = \"3s\"\n", Site::Dns.v4())?;
        let mut limits = self.limits.clone();
        if !limits.iter().any(|line| line.starts_with("handshake_timeout")) {
            // Handshakes have a low priority, and others are at work on this machine.
            limits.push("handshake_timeout = \"10s\"".to_owned());
        }
        writeln!(text, "[limits]\n{}\n", limits.join("\n"))?;
        writeln!(text, "[log]\nfilter = \"{}\"\n\n{}", self.log_filter, self.more)?;
        Ok(text)
    }

    /// Speaks TLS with a server inside, which must prove this name.
    #[must_use]
    pub fn inside_tls(mut self, server: &str) -> Self {
        self.next_hops = vec![format!("sip:{server}:5061;transport=tls")];
        self.inside_tls = Some(server.to_owned());
        self
    }

    fn services(&self, text: &mut String) -> Result<()> {
        let (site, tls) = (self.site, self.tls_lines() + &self.access.join("\n"));
        writeln!(
            text,
            "[service.access]\nlisten = [\"{}:5061\", \"[{}]:5061\"]\n{tls}",
            site.v4(),
            site.v6()
        )?;
        let quoted = |list: &[String]| format!("{list:?}");
        let (edge4, edge6) = (site.edge_inside4(), site.edge_inside6());
        let listen = [
            format!("tcp:{edge4}:{SERVER_PORT}"),
            format!("udp:{edge4}:{SERVER_PORT}"),
            format!("tcp:[{edge6}]:{SERVER_PORT}"),
            format!("udp:[{edge6}]:{SERVER_PORT}"),
        ];
        let servers = [format!("{}/32", site.server4()), format!("{}/128", site.server6())];
        let (listen, servers) = match &self.inside_tls {
            None => (listen.to_vec(), servers.to_vec()),
            Some(name) => (
                vec![format!("tls:{edge4}:5061"), format!("tls:[{edge6}]:5061")],
                vec![name.clone()],
            ),
        };
        writeln!(
            text,
            "[inside]\nlisten = {}\nservers = {}\nnext_hops = {}\nprobe = \"{}\"\n",
            quoted(&listen),
            quoted(&servers),
            quoted(&self.next_hops),
            self.probe
        )?;
        Ok(())
    }

    fn tls_lines(&self) -> String {
        format!(
            "certificate = \"{}\"\nkey = \"{}\"\ntrust = \"{}\"\n",
            self.identity.certificate.display(),
            self.identity.key.display(),
            self.trust.display()
        )
    }

    fn federation(&self, text: &mut String) -> Result<()> {
        writeln!(text, "[federation]\nenabled = true\nallow_addresses = {OUTSIDE_PREFIXES:?}")?;
        writeln!(text, "{}\n", self.federation.join("\n"))?;
        for domain in &self.allowed {
            writeln!(text, "[[federation.allowed_domain]]\ndomain = \"{domain}\"\n")?;
        }
        for (domain, fqdn) in &self.allowed_servers {
            writeln!(
                text,
                "[[federation.allowed_domain]]\ndomain = \"{domain}\"\nproxy_fqdn = \"{fqdn}\"\n"
            )?;
        }
        for domain in &self.blocked {
            writeln!(text, "[[federation.blocked_domain]]\ndomain = \"{domain}\"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::certs::Identities, *};

    #[test]
    fn the_labs_files_are_valid_configurations() {
        let dir = std::env::temp_dir().join(format!("lab-config-{}", std::process::id()));
        let ids = Identities::create(&dir).unwrap();
        for (site, identity) in [(Site::Contoso, &ids.contoso), (Site::Fabrikam, &ids.fabrikam)] {
            let config = EdgeConfig::new(site, identity, &ids.trust)
                .allow("northwind.example")
                .allow_server("adatum.example", "sip.adatum.example")
                .access("partners_only = true")
                .limit("connections = 16")
                .media("relay", "50000-50199")
                .xmpp(&[("jabber.example", "type = \"federated\"")]);
            let file = dir.join("edge.toml");
            let text = config.to_toml(&dir, Path::new("/sys/fs/bpf/edge-never")).unwrap();
            std::fs::write(&file, text).unwrap();
            let checked = edge_user::config::check(&file);
            assert!(checked.config.is_some(), "{}: {}", site.name(), checked.findings);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
