//! Reads typed values out of a TOML tree, keeps their places, and notices keys nobody asked for.

use std::{cell::RefCell, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    findings::{Fault, Sink, Span, quoted},
    values,
};

/// A table of the file (or its absence). Every key must be asked for before [`Section::finish`].
pub(super) struct Section<'a> {
    pub sink: &'a Sink<'a>,
    /// Dotted name, `service.access`; empty for the whole file.
    name: String,
    /// The header.
    pub span: Span,
    table: Option<&'a DeTable<'a>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn root(sink: &'a Sink<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(sink, String::new(), 0..0, Some(table))
    }

    fn new(sink: &'a Sink<'a>, name: String, span: Span, table: Option<&'a DeTable<'a>>) -> Self {
        Self { sink, name, span, table, known: RefCell::default() }
    }

    /// Whether the file has it.
    pub fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file has this key.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(k, _)| k.get_ref().as_ref() == key))
    }

    /// Whether the key holds a list without anything in it.
    pub fn is_empty(&self, key: &'static str) -> bool {
        let list = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::Array(items) => items.is_empty(),
            _ => false,
        };
        self.value(key).is_some_and(list)
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table?.iter().find(|(k, _)| k.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.sink.error(
            &value.span(),
            format!("{} is {found}", self.full_name(key)),
            format!("write {wanted}"),
        );
    }

    /// The table `[key]` below this one.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let name = self.full_name(key);
        match self.value(key) {
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Section::new(self.sink, name, value.span(), Some(table)),
                _ => {
                    self.wrong_type(value, key, &format!("a table: [{name}]"));
                    Section::new(self.sink, name, value.span(), None)
                }
            },
            None => Section::new(self.sink, name, self.span.clone(), None),
        }
    }

    /// The same; its absence is an error.
    pub fn required_section(&self, key: &'static str, mend: &str) -> Section<'a> {
        if !self.has(key) {
            self.sink.error(&self.span, format!("[{}] is missing", self.full_name(key)), mend);
        }
        self.section(key)
    }

    /// The tables `[[key]]`.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let name = self.full_name(key);
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, key, &format!("[[{name}]], with two brackets"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self.sink, name.clone(), item.span(), Some(table)));
                }
                _ => self.wrong_type(item, key, &format!("a table: [[{name}]]")),
            }
        }
        sections
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<Spanned<&'a str>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.as_ref())),
            _ => {
                self.wrong_type(value, key, "a text in quotes");
                None
            }
        }
    }

    /// An error if the key is missing in a table that is there.
    pub fn require(&self, key: &'static str, mend: &str) {
        if self.exists() && !self.has(key) {
            self.sink.error(&self.span, format!("{} is missing", self.full_name(key)), mend);
        }
    }

    /// Texts: a list, or one alone.
    pub fn texts(&self, key: &'static str) -> Vec<Spanned<&'a str>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = match value.get_ref() {
            DeValue::String(text) => return vec![Spanned::new(value.span(), text.as_ref())],
            DeValue::Array(items) => items,
            _ => {
                self.wrong_type(value, key, "a text in quotes or a list of them");
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => texts.push(Spanned::new(item.span(), text.as_ref())),
                _ => self.wrong_type(item, key, "a text in quotes"),
            }
        }
        texts
    }

    /// A text, understood by `parse`.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Spanned<T>> {
        self.text(key).and_then(|text| self.understand(&text, &parse))
    }

    /// Texts, each understood by `parse`; what cannot be understood is reported and left out.
    pub fn parsed_list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<Spanned<T>> {
        self.texts(key).iter().filter_map(|text| self.understand(text, &parse)).collect()
    }

    fn understand<T>(
        &self,
        text: &Spanned<&str>,
        parse: &impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Spanned<T>> {
        match parse(text.get_ref()) {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(fault) => {
                self.sink.fault(&text.span(), fault);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        match value.get_ref() {
            DeValue::Boolean(value) => *value,
            _ => {
                self.wrong_type(value, key, "true or false, without quotes");
                default
            }
        }
    }

    /// An integer within a range.
    pub fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<Spanned<u64>> {
        let value = self.value(key)?;
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(value, key, &wanted);
            return None;
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Some(Spanned::new(value.span(), number)),
            _ => {
                self.sink.error(
                    &value.span(),
                    format!("{} is out of range", self.full_name(key)),
                    format!("write {wanted}"),
                );
                None
            }
        }
    }

    /// The same, as a plain number with a default.
    pub fn number(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.integer(key, range).map_or(default, Spanned::into_inner)
    }

    /// A port, 1 to 65535.
    pub fn port(&self, key: &'static str) -> Option<Spanned<u16>> {
        let port = self.integer(key, 1..=65_535)?;
        u16::try_from(*port.get_ref()).ok().map(|number| Spanned::new(port.span(), number))
    }

    /// Ports and ranges of ports: `[5061, "50000-59999"]`, or one alone.
    pub fn port_ranges(&self, key: &'static str) -> Vec<Spanned<(u16, u16)>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let one = std::slice::from_ref(value);
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => one.iter().collect(),
        };
        let mut ranges = Vec::new();
        for item in items {
            let parsed = match item.get_ref() {
                DeValue::Integer(number) => u16::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .filter(|port| *port != 0)
                    .map(|port| (port, port))
                    .ok_or_else(values::port_fault),
                DeValue::String(text) => values::port_range(text),
                _ => {
                    self.wrong_type(item, key, "a port (5061) or a range (\"50000-59999\")");
                    continue;
                }
            };
            match parsed {
                Ok(range) => ranges.push(Spanned::new(item.span(), range)),
                Err(fault) => self.sink.fault(&item.span(), fault),
            }
        }
        ranges
    }

    /// A time: `"500ms"`, `"5s"`, `"20min"`, `"1h"`, or an integer of seconds.
    pub fn duration(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = self.value(key) else { return default };
        let duration = match value.get_ref() {
            DeValue::String(text) => values::duration(text),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map(Duration::from_secs)
                .map_err(|_| values::duration_fault(number.as_str())),
            _ => {
                self.wrong_type(value, key, "a time such as \"5s\"");
                return default;
            }
        };
        match duration {
            Ok(duration) if range.contains(&duration) => duration,
            Ok(_) => {
                self.sink.error(
                    &value.span(),
                    format!("{} is out of range", self.full_name(key)),
                    format!("write a time from {:?} to {:?}", range.start(), range.end()),
                );
                default
            }
            Err(fault) => {
                self.sink.fault(&value.span(), fault);
                default
            }
        }
    }

    /// The place of a key.
    pub fn key_span(&self, key: &str) -> Span {
        self.table
            .and_then(|table| table.iter().find(|(k, _)| k.get_ref().as_ref() == key))
            .map_or(self.span.clone(), |(k, _)| k.span())
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        let known = self.known.into_inner();
        for (key, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name = key.get_ref().as_ref();
            if known.contains(&name) || self.sink.full() {
                continue;
            }
            let place = if self.name.is_empty() {
                "at the top of the file".to_owned()
            } else {
                format!("in [{}]", self.name)
            };
            let mend = match closest(name, &known) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known keys are {}", known.join(", ")),
            };
            let message = format!("unknown key {} {place}", quoted(name));
            self.sink.error(&key.span(), message, mend);
        }
    }
}

/// The known key that `name` is probably a slip for.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    let (distance, key) = known.iter().map(|key| (edit_distance(name, key), *key)).min()?;
    (distance <= 2.max(key.len() / 4) && distance < key.len()).then_some(key)
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.chars().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(left + 1).min(above + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
