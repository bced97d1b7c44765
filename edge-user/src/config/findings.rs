//! What is wrong with a configuration, and where: findings with line, column and mend.

use std::{cell::RefCell, fmt, ops::Range, path::PathBuf};

use serde::Serialize;

use crate::plain::is_plain;

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// No more findings of a kind than this are kept: a hostile file must not fill the memory.
const MAX_FINDINGS: usize = 100;
/// What is shown of a source line, in characters.
const MAX_SOURCE: usize = 120;

/// One thing that is wrong, or doubtful, in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
    /// The line it is about, cut and without control characters.
    pub source: String,
    /// How many characters of the line it is about.
    pub length: usize,
}

/// Everything found in a file that is not valid; warnings are kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigErrors {
    /// The file.
    pub file: PathBuf,
    /// What makes it unusable, in the order of the file.
    pub errors: Vec<Finding>,
    /// What should be looked at.
    pub warnings: Vec<Finding>,
}

impl ConfigErrors {
    /// The findings for people: with `source` the line and a caret under each.
    pub fn render(&self, source: bool) -> String {
        let mut text = String::new();
        for (kind, findings) in [("error", &self.errors), ("warning", &self.warnings)] {
            for finding in findings {
                // Writing to a String cannot fail.
                let _ = self.render_one(&mut text, kind, finding, source);
            }
        }
        text
    }

    fn render_one(
        &self,
        out: &mut impl fmt::Write,
        kind: &str,
        finding: &Finding,
        source: bool,
    ) -> fmt::Result {
        let Finding { line, column, message, mend, .. } = finding;
        writeln!(out, "{}:{line}:{column}: {kind}: {message}; mend: {mend}", self.file.display())?;
        if source && !finding.source.is_empty() && *column <= MAX_SOURCE {
            let number = line.to_string();
            let length = finding.length.clamp(1, MAX_SOURCE.saturating_sub(column - 1).max(1));
            writeln!(out, "  {number} | {}", finding.source)?;
            writeln!(
                out,
                "  {:w$} | {:c$}{}",
                "",
                "",
                "^".repeat(length),
                w = number.len(),
                c = column - 1
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// What is wrong with one value; the reader adds the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub message: String,
    pub mend: String,
}

impl Fault {
    pub fn new(message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { message: message.into(), mend: mend.into() }
    }
}

/// Collects findings while the file is read.
pub(super) struct Sink<'t> {
    text: &'t str,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    errors: RefCell<Vec<(usize, Finding)>>,
    warnings: RefCell<Vec<(usize, Finding)>>,
}

impl<'t> Sink<'t> {
    pub fn new(text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(newlines).collect();
        Self { text, lines, errors: RefCell::default(), warnings: RefCell::default() }
    }

    /// Something that makes the file unusable.
    pub fn error(&self, span: &Span, message: impl Into<String>, mend: impl Into<String>) {
        self.push(&self.errors, span, message.into(), mend.into());
    }

    /// The same, from a value's fault.
    pub fn fault(&self, span: &Span, fault: Fault) {
        self.push(&self.errors, span, fault.message, fault.mend);
    }

    /// Something that should be looked at.
    pub fn warn(&self, span: &Span, message: impl Into<String>, mend: impl Into<String>) {
        self.push(&self.warnings, span, message.into(), mend.into());
    }

    /// Whether there is an error.
    pub fn failed(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// Whether no more errors are taken.
    pub fn full(&self) -> bool {
        self.errors.borrow().len() >= MAX_FINDINGS
    }

    /// Line of a place, from 1.
    pub fn line(&self, span: &Span) -> usize {
        self.lines.partition_point(|begin| *begin <= span.start).max(1)
    }

    fn push(
        &self,
        list: &RefCell<Vec<(usize, Finding)>>,
        span: &Span,
        message: String,
        mend: String,
    ) {
        let mut list = list.borrow_mut();
        if list.len() < MAX_FINDINGS {
            list.push((span.start, self.finding(span, message, mend)));
        }
    }

    fn finding(&self, span: &Span, message: String, mend: String) -> Finding {
        let line = self.line(span);
        let begin = self.lines.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(begin..).unwrap_or("");
        let source = rest.split(['\n', '\r']).next().unwrap_or("");
        let characters =
            |to: usize| source.char_indices().take_while(|(i, _)| begin + i < to).count();
        let column = characters(span.start) + 1;
        let length = (characters(span.end) + 1).saturating_sub(column).max(1);
        Finding { line, column, message, mend, source: printable(source, MAX_SOURCE), length }
    }

    /// The findings, in the order of the file.
    pub fn into_errors(self, file: PathBuf) -> ConfigErrors {
        let sorted = |list: RefCell<Vec<(usize, Finding)>>| {
            let mut list = list.into_inner();
            list.sort_by_key(|(start, _)| *start);
            list.into_iter().map(|(_, finding)| finding).collect()
        };
        ConfigErrors { file, errors: sorted(self.errors), warnings: sorted(self.warnings) }
    }
}

/// `text` cut to `limit` characters, with control characters replaced.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let visible = |c: char| match c {
        '\t' => ' ',
        c if is_plain(c) => c,
        _ => '\u{fffd}',
    };
    text.chars().take(limit).map(visible).collect()
}

/// A text from the file inside a message: quoted and cut.
pub(super) fn quoted(text: &str) -> String {
    let more = if text.chars().nth(60).is_some() { "…" } else { "" };
    format!("\"{}{more}\"", printable(text, 60))
}
