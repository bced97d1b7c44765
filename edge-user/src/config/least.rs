//! What of a file that is not good still says who may administer the appliance: for `edge load`,
//! which must let nothing else in before the network is up (trust.md, section 7).

use std::path::Path;

use toml::de::DeTable;

use super::{
    findings::Sink,
    firewall::{self, Known},
    model::{Interface, Management},
    model_firewall::Firewall,
    reader::Section,
    sections, values,
};

/// The least that a firewall needs: nobody but administrators gets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Least {
    /// Those that could be read.
    pub interfaces: Vec<Interface>,
    /// There may be interfaces that could not be read.
    pub more_interfaces: bool,
    /// `None`: it could not be read, and nobody gets in.
    pub management: Option<Management>,
    /// Settings and blocks, without rules and sets.
    pub firewall: Firewall,
}

/// Reads that much of a file, whatever is wrong with it.
pub fn least(path: &Path) -> Least {
    match super::read_text(path) {
        Ok(text) => least_of(&text),
        Err(_) => Least { more_interfaces: true, ..Least::default() },
    }
}

/// What is wrong was said by [`super::check`] already.
fn least_of(text: &str) -> Least {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let sink = Sink::new(text);
    let root = Section::root(&sink, root.get_ref());
    let interfaces = sections::interfaces(&root);
    let more_interfaces = !syntax.is_empty() || sink.failed();
    let mut management = sections::management(&root, &interfaces);
    if let Some(management) = &mut management {
        management.from.retain(|prefix| !values::is_everything(prefix));
    }
    let section = root.section("firewall");
    let mut firewall =
        firewall::firewall(section, &Known::default(), management.as_ref(), Vec::new());
    firewall.rules.clear();
    firewall.blocks.retain(|block| !values::is_everything(block));
    Least { interfaces, more_interfaces, management, firewall }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Zone;

    const GOOD: &str = r#"
        [[interface]]
        device = "eth0"
        zone = "external"
        [management]
        ports = [22]
        from = ["192.0.2.0/28"]
        zone = "external"
        [[firewall.block]]
        prefix = "198.51.100.0/24"
        "#;

    #[test]
    fn who_may_administer_is_read_from_a_file_that_is_not_good() {
        for more in ["", "[service.access]\nlisten = \"nonsense\"\n", "[nonsense]\n"] {
            let least = least_of(&format!("{GOOD}{more}"));
            assert_eq!(least.interfaces[0].device, "eth0", "{more}");
            assert!(!least.more_interfaces, "{more}");
            let management = least.management.unwrap();
            assert_eq!((management.ports, management.zone), (vec![22], Zone::External), "{more}");
            assert_eq!(least.firewall.blocks, ["198.51.100.0/24".parse().unwrap()], "{more}");
        }
    }

    #[test]
    fn where_interfaces_cannot_be_read_there_may_be_more() {
        for text in [
            "".to_owned(),
            GOOD.replace("[[interface]]", "[[interface"),
            GOOD.replace("device = \"eth0\"", "device = 7"),
            format!("{GOOD}[[interface]]\nzone = \"internal\"\n"),
            format!("{GOOD}\nthis is no TOML"),
        ] {
            assert!(least_of(&text).more_interfaces, "{text}");
        }
        assert!(least(Path::new("/nonexistent/edge.toml")).more_interfaces);
    }
}
