//! Who stands where: every address and name of the lab, in one table.
//!
//! Outside addresses come from the documentation ranges (RFC 5737, RFC 3849), inside ones from
//! the private ranges; nothing here is ever routed outside the lab's own namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One organisation, or one lonely host, with its own link to the lab's Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The organisation whose edge is under test.
    Contoso,
    /// A partner with an edge of its own; its certificate names its host only.
    Fabrikam,
    /// A third partner, the one that gets blocked.
    Northwind,
    /// A partner whose edge is another product.
    Adatum,
    /// A neighbour in names: `sip.fabrikam.example.evil.example`.
    Evil,
    /// Somebody unknown.
    Stranger,
    /// The DNS server.
    Dns,
}

/// The namespace in the middle, which routes.
pub const INTERNET: &str = "internet";

/// Prefixes that hold every outside address of the lab.
pub const OUTSIDE_PREFIXES: [&str; 4] =
    ["203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32"];

impl Site {
    /// Every site.
    pub const ALL: [Site; 7] = [
        Site::Contoso,
        Site::Fabrikam,
        Site::Northwind,
        Site::Adatum,
        Site::Evil,
        Site::Stranger,
        Site::Dns,
    ];

    /// Short name: namespace suffix, device in the Internet namespace, file names.
    pub const fn name(self) -> &'static str {
        match self {
            Site::Contoso => "contoso",
            Site::Fabrikam => "fabrikam",
            Site::Northwind => "northwind",
            Site::Adatum => "adatum",
            Site::Evil => "evil",
            Site::Stranger => "stranger",
            Site::Dns => "dns",
        }
    }

    /// Its SIP domain.
    pub fn domain(self) -> String {
        format!("{}.example", self.name())
    }

    /// Its edge's host name.
    pub fn host(self) -> String {
        match self {
            Site::Evil => "sip.fabrikam.example.evil.example".to_owned(),
            _ => format!("sip.{}.example", self.name()),
        }
    }

    /// Whether servers of its own stand behind its edge.
    pub const fn has_inside(self) -> bool {
        matches!(self, Site::Contoso | Site::Fabrikam | Site::Adatum)
    }

    /// Outside IPv4 address.
    pub const fn v4(self) -> Ipv4Addr {
        self.on_link4(10)
    }

    /// Outside IPv6 address.
    pub const fn v6(self) -> Ipv6Addr {
        self.on_link6(0x10)
    }

    /// The router's address on the site's link.
    pub const fn router4(self) -> Ipv4Addr {
        self.on_link4(1)
    }

    /// The router's IPv6 address on the site's link.
    pub const fn router6(self) -> Ipv6Addr {
        self.on_link6(1)
    }

    /// Both outside addresses.
    pub const fn outside(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4()), IpAddr::V6(self.v6())]
    }

    /// The edge's address on the inside link.
    pub const fn edge_inside4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number(), 0, 10)
    }

    /// The edge's IPv6 address on the inside link.
    pub const fn edge_inside6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.number() as u16, 0, 0, 0, 0, 0, 0x10)
    }

    /// The server's address on the inside link.
    pub const fn server4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number(), 0, 20)
    }

    /// The server's IPv6 address on the inside link.
    pub const fn server6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.number() as u16, 0, 0, 0, 0, 0, 0x20)
    }

    const fn number(self) -> u8 {
        match self {
            Site::Contoso => 1,
            Site::Fabrikam => 2,
            Site::Northwind => 3,
            Site::Adatum => 4,
            Site::Evil => 5,
            Site::Stranger => 6,
            Site::Dns => 7,
        }
    }

    /// Links are /28: base and the host's number.
    const fn on_link4(self, host: u8) -> Ipv4Addr {
        match self {
            Site::Contoso => Ipv4Addr::new(203, 0, 113, host),
            Site::Fabrikam => Ipv4Addr::new(198, 51, 100, host),
            Site::Adatum => Ipv4Addr::new(198, 51, 100, 16 + host),
            Site::Northwind => Ipv4Addr::new(192, 0, 2, host),
            Site::Evil => Ipv4Addr::new(192, 0, 2, 16 + host),
            Site::Stranger => Ipv4Addr::new(192, 0, 2, 32 + host),
            Site::Dns => Ipv4Addr::new(192, 0, 2, 48 + host),
        }
    }

    const fn on_link6(self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number() as u16, 0, 0, 0, 0, host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;

    #[test]
    fn every_outside_address_is_unique_and_in_a_documentation_range() {
        let nets: Vec<IpNet> = OUTSIDE_PREFIXES.iter().map(|p| p.parse().unwrap()).collect();
        let mut seen = Vec::new();
        for site in Site::ALL {
            for address in
                [site.outside(), [IpAddr::V4(site.router4()), IpAddr::V6(site.router6())]].concat()
            {
                assert!(nets.iter().any(|net| net.contains(&address)), "{address}");
                assert!(!seen.contains(&address), "{address} twice");
                seen.push(address);
            }
        }
    }
}
