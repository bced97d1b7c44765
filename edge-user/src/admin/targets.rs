//! How the addresses of partners and next hops are shown.

use serde_json::Value;

use super::{commands::string, table::Table};

/// A table of targets; empty when there is none. `rows`: whose they are, and the list.
pub(super) fn targets_text<'j>(rows: impl Iterator<Item = (&'j str, &'j Value)>) -> String {
    let mut table = Table::new(&["target of", "address", "transport", "health", "note"]);
    for (whose, row) in rows {
        if let Some(fault) = row["dns"]["fault"].as_str() {
            table.row([whose, "", "", "unknown", &format!("DNS: {fault}")].map(str::to_owned));
        }
        for target in row["targets"].as_array().into_iter().flatten() {
            table.row([
                whose.to_owned(),
                string(&target["address"]),
                string(&target["transport"]),
                string(&target["health"]),
                note(target),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

fn note(target: &Value) -> String {
    match (target["cause"].as_str(), target["failures"].as_u64()) {
        (Some(cause), Some(failures)) => {
            let again = target["again_seconds"].as_u64().unwrap_or(0);
            format!("{cause}, {failures} in a row; the last to be tried for {again} s more")
        }
        _ => target["host"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dead_target_is_shown_with_its_cause_and_what_dns_lacks_with_its_fault() {
        let row = json!({"dns": null, "targets": [
            {"host": "sip.a.example", "address": "192.0.2.1:5061", "transport": "tls",
             "health": "alive", "cause": null},
            {"host": null, "address": "192.0.2.2:5061", "transport": "tls", "health": "dead",
             "cause": "silent", "failures": 3, "again_seconds": 17},
        ]});
        let lost = json!({"dns": {"fault": "no DNS record"}, "targets": []});
        let text = targets_text([("a.example", &row), ("b.example", &lost)].into_iter());
        for part in ["sip.a.example", "dead", "silent, 3 in a row", "17 s", "DNS: no DNS record"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(targets_text(std::iter::empty()), "");
    }
}
