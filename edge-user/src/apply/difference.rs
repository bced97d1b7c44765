//! How two configurations differ: rules by name, blocks, interfaces, and the other settings by
//! their path in the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::values::{self, FieldChange, SettingChange};
use crate::firewall::plan::{PlanInterface, RuleOrigin, RuleSet};

/// What the file says about these is told by name.
const TOLD_BY_NAME: [&str; 3] = ["interface", "firewall.rule", "firewall.block"];

/// A configuration: its compiled rules and its text.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The rules.
    pub plan: &'a RuleSet,
    /// The file.
    pub text: &'a str,
}

/// A rule of this name is there before and after, and differs. A service's rule may have several
/// rows, one for each protocol and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// The rule's name.
    pub name: String,
    /// What differs in rows that are there before and after.
    pub fields: Vec<FieldChange>,
    /// Rows that come.
    pub added: Vec<Value>,
    /// Rows that go.
    pub removed: Vec<Value>,
}

/// An interface that changes its zone, comes, or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceChange {
    /// The device.
    pub device: String,
    /// The VLAN; `None`: untagged frames.
    pub vlan: Option<u16>,
    /// Its zone before; null: it was not configured.
    pub from: Value,
    /// Its zone after; null: it goes.
    pub to: Value,
}

/// What a change of the configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Rules that come.
    pub rules_added: Vec<Value>,
    /// Rules that go.
    pub rules_removed: Vec<Value>,
    /// Rules that change.
    pub rules_changed: Vec<RuleChange>,
    /// The administrator's rules that stay stand in another order, this one (the first that
    /// matches decides). Empty: in the same.
    pub rules_reordered: Vec<String>,
    /// Blocks of the file that come.
    pub blocks_added: Vec<IpNet>,
    /// Blocks of the file that go.
    pub blocks_removed: Vec<IpNet>,
    /// Interfaces that change.
    pub interfaces: Vec<InterfaceChange>,
    /// Other settings that change.
    pub settings: Vec<SettingChange>,
}

impl Difference {
    /// What changes when `new` comes after `old`.
    pub fn between(old: Side<'_>, new: Side<'_>) -> Self {
        let mut found = Self {
            interfaces: interfaces(&old.plan.interfaces, &new.plan.interfaces),
            settings: values::settings(old.text, new.text, &TOLD_BY_NAME),
            ..Self::default()
        };
        found.rules(old.plan, new.plan);
        let set = |plan: &RuleSet| plan.blocks.iter().copied().collect::<BTreeSet<IpNet>>();
        let (before, after) = (set(old.plan), set(new.plan));
        found.blocks_added = after.difference(&before).copied().collect();
        found.blocks_removed = before.difference(&after).copied().collect();
        found
    }

    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn rules(&mut self, old: &RuleSet, new: &RuleSet) {
        let (before, after) = (by_name(old), by_name(new));
        for (name, rows) in &after {
            match before.get(name) {
                None => self.rules_added.extend(rows.iter().cloned()),
                Some(former) => self.rules_changed.extend(change(name, former, rows)),
            }
        }
        for (_, rows) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
            self.rules_removed.extend(rows.iter().cloned());
        }
        let order = |plan: &RuleSet, other: &BTreeMap<String, Vec<Value>>| -> Vec<String> {
            let rows = plan.rows.iter().filter(|row| row.origin == RuleOrigin::File);
            rows.map(|row| row.name.clone()).filter(|name| other.contains_key(name)).collect()
        };
        let (was, is) = (order(old, &after), order(new, &before));
        if was != is {
            self.rules_reordered = is;
        }
    }
}

/// What does not change what a rule does: its id, where it stands, and what it is for.
const NOT_COMPARED: [&str; 4] = ["id", "line", "why", "service"];

/// The rows of each name, without what does not change what they do.
fn by_name(plan: &RuleSet) -> BTreeMap<String, Vec<Value>> {
    let mut names: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in &plan.rows {
        let mut value = serde_json::to_value(row).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.retain(|field, _| !NOT_COMPARED.contains(&field.as_str()));
        }
        names.entry(row.name.clone()).or_default().push(value);
    }
    names
}

fn change(name: &str, old: &[Value], new: &[Value]) -> Option<RuleChange> {
    let mut removed: Vec<Value> = old.iter().filter(|row| !new.contains(row)).cloned().collect();
    let mut added: Vec<Value> = new.iter().filter(|row| !old.contains(row)).cloned().collect();
    let mut fields = Vec::new();
    let single = old.len() == 1 && new.len() == 1;
    let same = |a: &Value, b: &Value| {
        single || (a["protocol"] == b["protocol"] && a["ports"] == b["ports"])
    };
    removed.retain(|row| match added.iter().position(|other| same(row, other)) {
        Some(position) => {
            fields.extend(values::fields(row, &added.remove(position)));
            false
        }
        None => true,
    });
    let change = RuleChange { name: name.to_owned(), fields, added, removed };
    let none = RuleChange { name: name.to_owned(), ..RuleChange::default() };
    (change != none).then_some(change)
}

fn interfaces(old: &[PlanInterface], new: &[PlanInterface]) -> Vec<InterfaceChange> {
    let zones = |list: &[PlanInterface]| -> BTreeMap<(String, Option<u16>), Value> {
        let zone = |i: &PlanInterface| serde_json::to_value(i.zone).unwrap_or_default();
        list.iter().map(|i| ((i.device.clone(), i.vlan), zone(i))).collect()
    };
    let (old, new) = (zones(old), zones(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let zone = |list: &BTreeMap<_, Value>, name| list.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| InterfaceChange {
            device: name.0.clone(),
            vlan: name.1,
            from: zone(&old, name),
            to: zone(&new, name),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// Fields of a row that stand in its line without their names.
const PLAIN: [&str; 3] = ["zone", "protocol", "ports"];

/// A row in one line.
fn row_text(row: &Value) -> String {
    let mut words = vec![values::text(&row["name"]) + ":"];
    words.extend(
        PLAIN.iter().map(|field| &row[field]).filter(|v| !values::is_empty(v)).map(values::text),
    );
    words.push(format!("to {}", values::text(&row["to"])));
    let partners = row["partners"] == true;
    let from = match (partners, values::is_empty(&row["from"])) {
        (true, true) => "partners".to_owned(),
        (true, false) => format!("partners {}", values::text(&row["from"])),
        (false, _) => values::text(&row["from"]),
    };
    words.push(format!("from {from}"));
    if row["action"] == "drop" {
        words.push("drop".to_owned());
    }
    if row["content"] != "any" && !values::is_empty(&row["content"]) {
        words.push(format!("only {}", values::text(&row["content"])));
    }
    let told = ["name", "to", "from", "action", "origin", "partners", "content"];
    for (field, value) in row.as_object().into_iter().flatten() {
        let told = told.contains(&field.as_str()) || PLAIN.contains(&field.as_str());
        if !told && !values::is_empty(value) {
            words.push(format!("{field} {}", values::text(value)));
        }
    }
    words.join(" ")
}

fn field_text(change: &FieldChange) -> String {
    format!("{} {} -> {}", change.field, values::text(&change.from), values::text(&change.to))
}

impl fmt::Display for Difference {
    /// A line for each change: `+` comes, `-` goes, `~` changes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for row in &self.rules_added {
            writeln!(f, "+ rule {}", row_text(row))?;
        }
        for row in &self.rules_removed {
            writeln!(f, "- rule {}", row_text(row))?;
        }
        for change in &self.rules_changed {
            for field in &change.fields {
                writeln!(f, "~ rule {}: {}", change.name, field_text(field))?;
            }
            for row in &change.added {
                writeln!(f, "+ rule {}", row_text(row))?;
            }
            for row in &change.removed {
                writeln!(f, "- rule {}", row_text(row))?;
            }
        }
        if !self.rules_reordered.is_empty() {
            writeln!(f, "~ order of the rules: {}", self.rules_reordered.join(", "))?;
        }
        for prefix in &self.blocks_added {
            writeln!(f, "+ block {prefix}")?;
        }
        for prefix in &self.blocks_removed {
            writeln!(f, "- block {prefix}")?;
        }
        for change in &self.interfaces {
            let vlan = change.vlan.map_or(String::new(), |vlan| format!(" vlan {vlan}"));
            let name = format!("interface {}{vlan}", change.device);
            match (&change.from, &change.to) {
                (Value::Null, zone) => writeln!(f, "+ {name}: zone {}", values::text(zone))?,
                (_, Value::Null) => writeln!(f, "- {name}")?,
                (from, to) => {
                    writeln!(f, "~ {name}: zone {} -> {}", values::text(from), values::text(to))?
                }
            }
        }
        for SettingChange { setting, from, to } in &self.settings {
            match (from, to) {
                (None, Some(to)) => writeln!(f, "+ {setting} = {to}")?,
                (Some(from), None) => writeln!(f, "- {setting} = {from}")?,
                (Some(from), Some(to)) => writeln!(f, "~ {setting}: {from} -> {to}")?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, tests_support},
        firewall::plan,
    };

    /// The change of the file, and all lines that tell it.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    fn plan(text: &str) -> RuleSet {
        let folder = tests_support::good_files();
        plan::compile(&config::parse(text, &folder.0.join("edge.toml")).unwrap()).unwrap()
    }

    fn between(old: &str, new: &str) -> Difference {
        let plans = (plan(old), plan(new));
        let sides = (Side { plan: &plans.0, text: old }, Side { plan: &plans.1, text: new });
        Difference::between(sides.0, sides.1)
    }

    /// The one rule of these tests, so that they do not depend on those of the example.
    const RULE: &str = "[[firewall.rule]]\nname = \"web\"\nzone = \"external\"\n\
                        protocol = \"tcp\"\nports = [80, \"8000-8009\"]\nto = \"any\"\n\
                        from = [\"198.51.100.0/24\"]\naction = \"pass\"\n\n";

    /// The example file with another rule, and one text in place of another.
    fn example(changes: &[(&str, &str)]) -> String {
        let mut text = tests_support::example();
        let rules = text.find("[[firewall.rule]]").unwrap();
        let blocks = text.find("[[firewall.block]]").unwrap();
        text.replace_range(rules..blocks, RULE);
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        text
    }

    #[test]
    fn the_same_rules_in_other_words_are_no_difference() {
        let old = example(&[]);
        let new =
            example(&[("ports = [80, \"8000-8009\"]", "ports = [ 80, \"8000-8009\" ] # same")]);
        let none = between(&old, &new);
        assert!(none.is_empty(), "{none}");
        assert_eq!(none.to_string(), "nothing changes\n");
    }

    #[test]
    fn each_kind_of_change_is_told_by_name_and_only_that() {
        let rule = |name: &str, more: &str| {
            format!(
                "[[firewall.rule]]\nname = \"{name}\"\nzone = \"internal\"\nprotocol = \"udp\"\n\
                 ports = [7000]\nto = \"any\"\n{more}\n[[firewall.rule]]\nname = \"web\""
            )
        };
        let web = "[[firewall.rule]]\nname = \"web\"";
        let more = rule("more", "from = [\"2001:db8::/32\"]");
        let from = ("from = [\"198.51.100.0/24\"]", "from = [\"198.51.100.0/25\"]");
        let block = ("prefix = \"198.51.100.66\"", "prefix = \"2001:db8:66::/48\"");
        let cases: [Case; 5] = [
            (&[(web, &more)], &["+ rule more: internal udp 7000 to any from 2001:db8::/32"]),
            (&[from], &["~ rule web: from 198.51.100.0/24 -> 198.51.100.0/25"]),
            (
                &[("name = \"web\"", "name = \"shop\"")],
                &[
                    "+ rule shop: external tcp 80 8000-8009 to any from 198.51.100.0/24",
                    "- rule web: external tcp 80 8000-8009 to any from 198.51.100.0/24",
                ],
            ),
            (&[block], &["+ block 2001:db8:66::/48", "- block 198.51.100.66/32"]),
            (&[("timeout = \"2s\"", "timeout = \"3s\"")], &["~ dns.timeout: \"2s\" -> \"3s\""]),
        ];
        for (changes, lines) in cases {
            let found = between(&example(&[]), &example(changes)).to_string();
            assert_eq!(found.lines().collect::<Vec<_>>(), lines);
        }
        let both = example(&[(web, &more)]);
        let gone = between(&both, &example(&[]));
        assert_eq!(gone.rules_removed.len(), 1);
        assert!(gone.rules_added.is_empty() && gone.rules_changed.is_empty(), "{gone}");
    }

    #[test]
    fn another_order_of_rules_is_a_difference() {
        let rule = |name: &str, port: u16| {
            format!(
                "[[firewall.rule]]\nname = \"{name}\"\nzone = \"external\"\nprotocol = \"udp\"\n\
                 ports = [{port}]\nto = \"any\"\nfrom = \"any\"\n"
            )
        };
        let (a, b) = (rule("a", 7000), rule("b", 7001));
        let text = |rules: &[&String]| {
            let rules: String = rules.iter().map(|rule| rule.as_str()).collect();
            example(&[("[[firewall.block]]", &format!("{rules}[[firewall.block]]"))])
        };
        let found = between(&text(&[&a, &b]), &text(&[&b, &a]));
        assert_eq!(found.rules_reordered, ["web", "b", "a"]);
        assert!(found.rules_changed.is_empty(), "{found}");
        assert_eq!(found.to_string(), "~ order of the rules: web, b, a\n");
    }

    #[test]
    fn a_service_that_listens_elsewhere_changes_its_own_rule() {
        let old = example(&[]);
        let line = old.lines().find(|line| line.starts_with("listen =")).unwrap();
        let found = between(&old, &old.replacen(line, &line.replacen("5061", "5071", 1), 1));
        let names: Vec<&str> = found.rules_changed.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["access"], "{found}");
        assert!(found.settings.iter().any(|s| s.setting == "service.access.listen"), "{found}");
    }

    #[test]
    fn interfaces_are_told_by_device_vlan_and_zone() {
        let old = example(&[]);
        let mut plans = (plan(&old), plan(&old));
        let changed = &mut plans.1.interfaces;
        let gone = changed.remove(0);
        changed.push(PlanInterface { device: "trunk0".to_owned(), vlan: Some(7), ..gone.clone() });
        let found = Difference::between(
            Side { plan: &plans.0, text: &old },
            Side { plan: &plans.1, text: &old },
        );
        let text = found.to_string();
        assert!(text.contains("+ interface trunk0 vlan 7: zone "), "{text}");
        assert!(text.contains(&format!("- interface {}", gone.device)), "{text}");
        assert_eq!(found.interfaces.len(), 2);
    }
}
