//! Where in the file something stands, for those who ask later.

use std::path::Path;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

/// The line of a `[[firewall.block]]` with this prefix, counted from 1.
pub fn line_of_block(file: &Path, prefix: IpNet) -> Option<usize> {
    block_in(&std::fs::read_to_string(file).ok()?, prefix)
}

/// The line of the `[[interface]]` of this device and VLAN, counted from 1.
pub fn line_of_interface(file: &Path, device: &str, vlan: Option<u16>) -> Option<usize> {
    interface_in(&std::fs::read_to_string(file).ok()?, device, vlan)
}

/// The line of a `[[federation.allowed_domain]]`, `blocked_domain` and so on with this domain,
/// counted from 1.
pub fn line_of_domain(file: &Path, list: &str, domain: &str) -> Option<usize> {
    domain_in(&std::fs::read_to_string(file).ok()?, list, domain)
}

fn block_in(text: &str, wanted: IpNet) -> Option<usize> {
    line_in(text, &["firewall", "block"], "prefix", |entry| {
        let prefix = word(entry, "prefix").unwrap_or_default();
        let prefix = prefix.parse::<IpNet>().ok().or_else(|| {
            let address: std::net::IpAddr = prefix.parse().ok()?;
            Some(address.into())
        });
        prefix.is_some_and(|prefix| prefix.trunc() == wanted.trunc())
    })
}

fn interface_in(text: &str, device: &str, vlan: Option<u16>) -> Option<usize> {
    line_in(text, &["interface"], "device", |entry| {
        let tag = match super::entry(entry, "vlan") {
            Some(DeValue::Integer(tag)) => tag.as_str().parse().ok(),
            _ => None,
        };
        word(entry, "device") == Some(device) && tag == vlan
    })
}

fn domain_in(text: &str, list: &str, domain: &str) -> Option<usize> {
    line_in(text, &["federation", list], "domain", |entry| {
        word(entry, "domain").is_some_and(|found| found.eq_ignore_ascii_case(domain))
    })
}

/// A text of a table.
fn word<'t>(entry: &'t DeTable<'_>, key: &str) -> Option<&'t str> {
    match super::entry(entry, key)? {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

/// The line of `key` in the first table of the list at `path` that fits.
fn line_in(
    text: &str,
    path: &[&str],
    key: &str,
    fits: impl Fn(&DeTable<'_>) -> bool,
) -> Option<usize> {
    let (root, _) = DeTable::parse_recoverable(text);
    let (list, parents) = path.split_last()?;
    let mut table = root.get_ref();
    for parent in parents {
        let DeValue::Table(inner) = super::entry(table, parent)? else { return None };
        table = inner;
    }
    let DeValue::Array(entries) = super::entry(table, list)? else { return None };
    let span = entries.iter().find_map(|entry| {
        let DeValue::Table(entry) = entry.get_ref() else { return None };
        let (_, value) = entry.iter().find(|(found, _)| found.get_ref().as_ref() == key)?;
        fits(entry).then(|| value.span())
    })?;
    Some(text.get(..span.start)?.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_by_its_prefix() {
        let text = "[firewall]\n\n[[firewall.block]]\nprefix = \"198.51.100.0/24\"\n\n\
                    [[firewall.block]]\nprefix = \"2001:db8::7\"\n";
        assert_eq!(block_in(text, "198.51.100.0/24".parse().unwrap()), Some(4));
        assert_eq!(block_in(text, "2001:db8::7/128".parse().unwrap()), Some(7));
        assert_eq!(block_in(text, "192.0.2.0/24".parse().unwrap()), None);
        assert_eq!(block_in("firewall = 1", "192.0.2.0/24".parse().unwrap()), None);
    }

    #[test]
    fn a_zone_and_a_domain_have_their_lines() {
        let text = "[[interface]]\ndevice = \"eth0\"\nzone = \"external\"\n\n[[interface]]\n\
                    device = \"eth0\"\nvlan = 7\nzone = \"internal\"\n\n[federation]\n\n\
                    [[federation.blocked_domain]]\nsubdomains = true\ndomain = \"bad.example\"\n";
        assert_eq!(interface_in(text, "eth0", None), Some(2));
        assert_eq!(interface_in(text, "eth0", Some(7)), Some(6));
        assert_eq!(interface_in(text, "eth0", Some(8)), None);
        assert_eq!(domain_in(text, "blocked_domain", "BAD.example"), Some(14));
        assert_eq!(domain_in(text, "allowed_domain", "bad.example"), None);
    }
}
