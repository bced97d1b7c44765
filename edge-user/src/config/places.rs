//! Where in the file something stands, for those who ask later.

use std::path::Path;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

/// The line of a `[[firewall.block]]` with this prefix, counted from 1.
pub fn line_of_block(file: &Path, prefix: IpNet) -> Option<usize> {
    block_in(&std::fs::read_to_string(file).ok()?, prefix)
}

fn block_in(text: &str, wanted: IpNet) -> Option<usize> {
    let (root, _) = DeTable::parse_recoverable(text);
    let DeValue::Table(firewall) = super::entry(root.get_ref(), "firewall")? else { return None };
    let DeValue::Array(blocks) = super::entry(firewall, "block")? else { return None };
    let span = blocks.iter().find_map(|block| {
        let DeValue::Table(block) = block.get_ref() else { return None };
        let (_, value) = block.iter().find(|(key, _)| key.get_ref().as_ref() == "prefix")?;
        let DeValue::String(prefix) = value.get_ref() else { return None };
        let prefix: IpNet = match prefix.parse() {
            Ok(prefix) => prefix,
            Err(_) => prefix.parse::<std::net::IpAddr>().ok()?.into(),
        };
        (prefix.trunc() == wanted.trunc()).then(|| value.span())
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
}
