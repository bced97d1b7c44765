//! Benchmarks. Every figure is compared with a peer that was measured in the same call, turn by
//! turn, since machines are shared and differ.

pub mod cold;
pub mod media;
pub mod memory;
pub mod paths;
pub mod policy;
mod rare;
pub mod raw;
pub mod sip;
pub mod upgrade;
pub mod xdp;
pub mod xmpp;

use serde_json::{Value, json};

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured.
    pub path: String,
    /// Of both figures.
    pub unit: &'static str,
    /// Ours.
    pub ours: f64,
    /// With whom it is compared.
    pub peer: &'static str,
    /// The peer's figure.
    pub peer_value: f64,
}

/// The peer of a row whose value is a rate that was asked for, and ours the one that was reached.
pub const ASKED: &str = "asked";
/// How far from the rate that was asked for another may be.
const NEAR: f64 = 0.03;

impl Row {
    /// Whether a target is met, where the row has one (all but rates are better the smaller they
    /// are), or a rate is the one that was [`ASKED`] for.
    pub fn verdict(&self) -> Option<&'static str> {
        if self.peer == ASKED {
            let held = (self.ratio() - 1.0).abs() <= NEAR;
            return Some(if held { "held" } else { "NOT HELD" });
        }
        let more_is_better = self.unit == "Mpps" || self.unit.ends_with("/s");
        let met = match more_is_better {
            true => self.ours >= self.peer_value,
            false => self.ours <= self.peer_value,
        };
        (self.peer == "target").then_some(if met { "met" } else { "MISSED" })
    }

    /// Ours to the peer's.
    pub fn ratio(&self) -> f64 {
        self.ours / self.peer_value
    }
}

/// The one object for machines.
pub fn as_json(bench: &str, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "path": row.path,
                "unit": row.unit,
                "ours": round(row.ours),
                "peer": row.peer,
                "peer_value": round(row.peer_value),
                "ratio": round(row.ratio()),
                "verdict": row.verdict(),
            })
        })
        .collect();
    json!({ "bench": bench, "rows": rows })
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The table for people.
pub fn as_table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<36} {:>12} {:>10}  {:<14} {:>10} {:>8} verdict\n",
        "path", "unit", "ours", "peer", "peer's", "ratio"
    );
    for row in rows {
        text += &format!(
            "{:<36} {:>12} {:>10.3}  {:<14} {:>10.3} {:>8.3} {}\n",
            row.path,
            row.unit,
            row.ours,
            row.peer,
            row.peer_value,
            row.ratio(),
            row.verdict().unwrap_or_default()
        );
    }
    text
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_misses_its_target_says_so() {
        let row = |unit, ours, peer| Row { path: "x".into(), unit, ours, peer, peer_value: 10.0 };
        for (row, verdict) in [
            (row("KiB", 10.0, "target"), Some("met")),
            (row("KiB", 10.1, "target"), Some("MISSED")),
            (row("Mpps", 9.9, "target"), Some("MISSED")),
            (row("calls/s", 10.0, "target"), Some("met")),
            (row("KiB", 99.0, "prosody"), None),
            (row("packets/s", 9.8, ASKED), Some("held")),
            (row("packets/s", 9.6, ASKED), Some("NOT HELD")),
            (row("packets/s", 10.4, ASKED), Some("NOT HELD")),
            (row("packets/s", f64::NAN, ASKED), Some("NOT HELD")),
        ] {
            assert_eq!(row.verdict(), verdict, "{} {}", row.unit, row.ours);
            assert_eq!(
                as_json("b", std::slice::from_ref(&row))["rows"][0]["verdict"],
                json!(verdict)
            );
            let table = as_table(&[row]);
            for mark in ["MISSED", "NOT HELD"] {
                assert_eq!(table.contains(mark), verdict == Some(mark), "{table}");
            }
        }
    }
}
