//! Differences of plain values: fields of JSON objects, and settings of TOML texts by their path.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// A field of something that is there before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Its name.
    pub field: String,
    /// Before.
    pub from: Value,
    /// After.
    pub to: Value,
}

/// A setting, by its path in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// `log.filter`, `federation.allowed_domain[fabrikam.example].port` and so on.
    pub setting: String,
    /// Before; `None`: it was not in the file.
    pub from: Option<Value>,
    /// After; `None`: it is not in the file any more.
    pub to: Option<Value>,
}

/// The fields in which two objects differ. What one of them lacks is null there.
pub(super) fn fields(old: &Value, new: &Value) -> Vec<FieldChange> {
    let empty = serde_json::Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |object: &serde_json::Map<String, Value>, name: &str| {
        object.get(name).cloned().unwrap_or_default()
    };
    names
        .into_iter()
        .map(|name| FieldChange {
            field: name.clone(),
            from: value(old, name),
            to: value(new, name),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// The settings in which two files differ, apart from those below the paths in `without`.
pub(super) fn settings(old: &str, new: &str, without: &[&str]) -> Vec<SettingChange> {
    let (old, new) = (leaves(old), leaves(new));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let skipped = |path: &str| {
        without.iter().any(|skip| {
            path.strip_prefix(skip)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    paths
        .into_iter()
        .filter(|path| !skipped(path) && old.get(*path) != new.get(*path))
        .map(|path| SettingChange {
            setting: path.clone(),
            from: old.get(path).cloned(),
            to: new.get(path).cloned(),
        })
        .collect()
}

/// Every value of a file by its path.
fn leaves(text: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    // Both texts were read as configurations before; one that is none has no settings.
    if let Ok(table) = text.parse::<toml::Table>()
        && let Ok(Value::Object(table)) = serde_json::to_value(table)
    {
        walk("", &Value::Object(table), &mut found);
    }
    found
}

/// Fields that name an entry of a list, so that another order is no difference.
const NAMES: [&str; 4] = ["name", "domain", "device", "prefix"];

fn walk(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{key}"), value, found);
            }
        }
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_object) => {
            let names: Vec<Option<&str>> = list.iter().map(name_of).collect();
            let unique = names.iter().flatten().collect::<BTreeSet<_>>().len() == list.len();
            for ((number, entry), name) in (1..).zip(list).zip(names) {
                let name = name.filter(|_| unique).map_or(number.to_string(), str::to_owned);
                walk(&format!("{path}[{name}]"), entry, found);
            }
        }
        value => {
            found.insert(path.to_owned(), value.clone());
        }
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    NAMES.iter().find_map(|name| entry.get(name)?.as_str())
}

/// A value as people read it: a list is its members, a pair of equal numbers is one.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "any".to_owned(),
        Value::Array(list) => list
            .iter()
            .map(|item| range(item).unwrap_or_else(|| text(item)))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !is_empty(value))
            .map(|(name, value)| format!("{name} {}", text(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn range(pair: &Value) -> Option<String> {
    let [first, last] = pair.as_array()?.as_slice() else { return None };
    let (first, last) = (first.as_u64()?, last.as_u64()?);
    Some(if first == last { first.to_string() } else { format!("{first}-{last}") })
}

/// Nothing to speak of: null, zero, false, or nothing but such values.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_compared_by_path_and_lists_by_name() {
        let old = r#"
            [log]
            filter = "info"
            [limits]
            connections = 5
            [firewall]
            monitor = true
            [[firewall.rule]]
            name = "a"
            [[federation.allowed_domain]]
            domain = "a.example"
            [[federation.allowed_domain]]
            domain = "b.example"
            port = 5061
        "#;
        let new = r#"
            [log]
            filter = "debug"
            [dns]
            servers = ["192.0.2.53"]
            [firewall]
            monitor = true
            [[firewall.rule]]
            name = "other"
            [[federation.allowed_domain]]
            domain = "b.example"
            port = 5062
            [[federation.allowed_domain]]
            domain = "a.example"
        "#;
        let found: Vec<(String, Option<Value>, Option<Value>)> =
            settings(old, new, &["firewall.rule"])
                .into_iter()
                .map(|change| (change.setting, change.from, change.to))
                .collect();
        let path = |text: &str| text.to_owned();
        assert_eq!(
            found,
            [
                (path("dns.servers"), None, Some(json!(["192.0.2.53"]))),
                (
                    path("federation.allowed_domain[b.example].port"),
                    Some(json!(5061)),
                    Some(json!(5062))
                ),
                (path("limits.connections"), Some(json!(5)), None),
                (path("log.filter"), Some(json!("info")), Some(json!("debug"))),
            ]
        );
        assert!(settings(old, old, &[]).is_empty());
    }

    #[test]
    fn entries_without_names_of_their_own_are_counted() {
        let found = settings("[[a]]\nx = 1\n[[a]]\nx = 2\n", "[[a]]\nx = 1\n[[a]]\nx = 3\n", &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].setting, "a[2].x");
    }

    #[test]
    fn values_are_told_in_words() {
        for (value, expected) in [
            (json!([[5061, 5061], [7000, 7010]]), "5061 7000-7010"),
            (json!([]), "any"),
            (json!(["192.0.2.0/24", "2001:db8::/32"]), "192.0.2.0/24 2001:db8::/32"),
            (
                json!({"new": {"per_second": 5, "burst": 0}, "bytes": {"per_second": 0}}),
                "new per_second 5",
            ),
            (json!(true), "true"),
            (Value::Null, "none"),
        ] {
            assert_eq!(text(&value), expected);
        }
    }
}
