//! What came of the steps: a table for people, one JSON object for machines.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The step.
    pub name: String,
    /// Whether it showed what it should.
    pub ok: bool,
    /// What was seen.
    pub evidence: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// From a step's result.
    pub fn new(name: &str, result: Result<String>, took: Duration) -> Self {
        let (ok, evidence) = match result {
            Ok(evidence) => (true, evidence),
            Err(error) => (false, format!("{error:#}")),
        };
        Self { name: name.to_owned(), ok, evidence, took }
    }

    /// `ok` or `FAILED`.
    pub const fn word(&self) -> &'static str {
        if self.ok { "ok" } else { "FAILED" }
    }
}

/// What came of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order they were played.
    pub steps: Vec<Outcome>,
}

impl Report {
    /// Every step was played and showed what it should.
    pub fn ok(&self) -> bool {
        self.steps.len() == super::STEPS.len() && self.steps.iter().all(|step| step.ok)
    }

    /// `{"ok", "steps": [{"name", "ok", "evidence"}]}`.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| json!({"name": step.name, "ok": step.ok, "evidence": step.evidence}))
            .collect();
        json!({"ok": self.ok(), "steps": steps})
    }

    /// The table for people.
    pub fn to_table(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(4);
        let mut text = format!("{:<width$}  result  evidence\n", "step");
        let indent = " ".repeat(width + 10);
        for step in &self.steps {
            let evidence = wrap(&step.evidence, 88).join(&format!("\n{indent}"));
            let _ = writeln!(text, "{:<width$}  {:<6}  {evidence}", step.name, step.word());
        }
        text
    }
}

/// Breaks text into lines of at most `width` characters, at spaces; line breaks are kept.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_ok_only_when_every_step_was_played_and_held() {
        let held = |name| Outcome::new(name, Ok("seen".into()), Duration::ZERO);
        let mut report = Report::default();
        assert!(!report.ok());
        report.steps = super::super::STEPS.iter().map(|step| held(step.name)).collect();
        assert!(report.ok());
        assert_eq!(report.to_json()["steps"][0]["evidence"], "seen");
        report.steps[3] = Outcome::new("x", Err(anyhow::anyhow!("not seen")), Duration::ZERO);
        assert!(!report.ok());
        assert_eq!(report.to_json()["ok"], false);
        assert!(report.to_table().contains("FAILED  not seen"));
    }

    #[test]
    fn long_evidence_is_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\nb", 7), ["a", "b"]);
    }
}
