//! What counts as one sender: an address, or the part of IPv6 that one subscriber owns.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// How much of an address is one sender's: all of IPv4, 64 bits of IPv6. Behind the well-known
/// prefix of NAT64 (64:ff9b::/96, RFC 6052; nothing else is in its /64) each address is another
/// host of IPv4.
fn own_bits(canonical: IpAddr) -> u8 {
    match canonical {
        IpAddr::V4(_) => 32,
        IpAddr::V6(address) if matches!(address.segments(), [0x64, 0xff9b, 0, 0, ..]) => 128,
        IpAddr::V6(_) => 64,
    }
}

/// What stands for a sender: the first address of what is its own.
pub fn first_of_source(source: IpAddr) -> IpAddr {
    let canonical = source.to_canonical();
    match canonical {
        IpAddr::V6(address) if own_bits(canonical) == 64 => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        whole => whole,
    }
}

/// What is a sender's own: an IPv4 address, an IPv6 /64, or one address behind NAT64.
pub fn source_prefix(source: IpAddr) -> IpNet {
    let first = first_of_source(source);
    IpNet::new(first, own_bits(first)).unwrap_or(IpNet::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_an_ipv4_address_an_ipv6_64_or_one_address_behind_nat64() {
        for (source, prefix) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201/128"),
            ("64:ff9b:0:1::1", "64:ff9b:0:1::/64"),
        ] {
            let source: IpAddr = source.parse().unwrap();
            let prefix: IpNet = prefix.parse().unwrap();
            assert_eq!(source_prefix(source), prefix);
            assert_eq!(first_of_source(source), prefix.addr());
        }
    }
}
