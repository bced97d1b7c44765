//! Tables for people.

use std::fmt::Write as _;

use crate::plain::plain;

/// A table: columns are as wide as their widest cell; numbers stand on the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Missing cells stay empty, cells too many are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut row: Vec<String> =
            cells.into_iter().take(self.columns.len()).map(|cell| plain(&cell.into())).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, a line a row.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .chain([self.columns[column].len()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = String::new();
        let heading: Vec<String> = self.columns.iter().map(|name| name.to_uppercase()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let number = !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
                let _ = if number {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(&["reason", "packets"]);
        table.row(["no-rule", "7"]);
        table.row(["arp", "12345678"]);
        assert_eq!(table.render(), "REASON   PACKETS\nno-rule         7\narp      12345678\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["a"]);
        table.row(["x\u{1b}[2Jy\u{202e}z"]);
        assert!(table.render().contains("x?[2Jy?z"));
    }
}
