//! Plain lists: one address or prefix a line, `#` or `;` begins a comment, blank lines count for
//! nothing. Taken in pieces, so that a long list is never held as text.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Content, ContentBuilder};

/// A line is at most this long, in bytes.
const MAX_LINE: usize = 1024;
/// Faults that are kept; the others are only counted.
const KEPT_FAULTS: usize = 10;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {fault}")]
pub struct LineFault {
    /// Its number, from 1.
    pub line: u64,
    /// The fault and its mend.
    pub fault: String,
}

/// A list that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What it names.
    pub content: Content,
    /// The first faults.
    pub faults: Vec<LineFault>,
    /// Lines with faults.
    pub bad: u64,
    /// Lines that name what another line names.
    pub repeated: u64,
}

/// Reads a list piece by piece.
#[derive(Debug)]
pub struct ListParser {
    builder: ContentBuilder,
    faults: Vec<LineFault>,
    bad: u64,
    line: u64,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    max: usize,
}

impl ListParser {
    /// At most `max` entries are taken.
    pub fn new(max: usize) -> Self {
        Self {
            builder: ContentBuilder::default(),
            faults: Vec::new(),
            bad: 0,
            line: 0,
            begun: Vec::new(),
            max,
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// More entries than may be.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), LineFault> {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            piece = &rest[1..];
            if self.begun.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(&line[..line.len().min(MAX_LINE)]);
                self.line(&whole)?;
            }
        }
        // Of a line without end, what shows that it is too long is enough.
        let room = (MAX_LINE + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&piece[..piece.len().min(room)]);
        Ok(())
    }

    /// The end of the list.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Parsed, LineFault> {
        if !self.begun.is_empty() {
            let last = std::mem::take(&mut self.begun);
            self.line(&last)?;
        }
        let taken = self.builder.len();
        let content = self.builder.finish();
        let repeated = (taken - content.len()) as u64;
        Ok(Parsed { content, faults: self.faults, bad: self.bad, repeated })
    }

    fn line(&mut self, line: &[u8]) -> Result<(), LineFault> {
        self.line += 1;
        match entry(line) {
            Ok(None) => {}
            Ok(Some(_)) if self.builder.len() >= self.max => {
                let fault = format!(
                    "more than {} entries: raise max_blocked_addresses or max_blocked_prefixes \
                     under [firewall], run `edge detach` and start again",
                    self.max
                );
                return Err(LineFault { line: self.line, fault });
            }
            Ok(Some(prefix)) => self.builder.push(&prefix),
            Err(fault) => {
                self.bad += 1;
                if self.faults.len() < KEPT_FAULTS {
                    self.faults.push(LineFault { line: self.line, fault });
                }
            }
        }
        Ok(())
    }
}

/// What a line names; nothing when it is blank or a comment.
fn entry(line: &[u8]) -> Result<Option<IpNet>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("longer than {MAX_LINE} bytes: one address or prefix a line"));
    }
    let text = std::str::from_utf8(line)
        .map_err(|_| "no text (UTF-8): one address or prefix a line".to_owned())?;
    let end = text.find(['#', ';']).unwrap_or(text.len());
    let text = text[..end].trim();
    if text.is_empty() {
        return Ok(None);
    }
    let shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    let prefix = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (_, Ok(prefix)) => prefix,
        _ => {
            return Err(format!(
                "`{shown}` is no address or prefix: write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"
            ));
        }
    };
    if prefix.prefix_len() == 0 {
        return Err(format!("`{shown}` blocks everybody: name smaller prefixes"));
    }
    if prefix.trunc() != prefix {
        return Err(format!("`{shown}` has host bits: write {}", prefix.trunc()));
    }
    match prefix {
        IpNet::V6(net) if net.prefix_len() >= 96 && net.network().to_ipv4_mapped().is_some() => {
            Err(format!("`{shown}` is an IPv4 address in IPv6 form: write it as IPv4"))
        }
        prefix => Ok(Some(prefix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8], piece: usize, max: usize) -> Result<Parsed, LineFault> {
        let mut parser = ListParser::new(max);
        for piece in text.chunks(piece) {
            parser.push(piece)?;
        }
        parser.finish()
    }

    #[test]
    fn a_list_reads_the_same_in_pieces_of_any_size() {
        let text =
            b"# a list\n\n192.0.2.1\r\n 2001:db8::/32 # why\n192.0.2.0/24;SBL1\n192.0.2.1/32\n";
        let whole = parse(text, text.len(), 10).unwrap();
        assert_eq!((whole.content.len(), whole.bad, whole.repeated), (3, 0, 1));
        for piece in 1..text.len() {
            assert_eq!(parse(text, piece, 10).unwrap(), whole, "{piece}");
        }
        assert_eq!(parse(&text[..text.len() - 1], 7, 10).unwrap(), whole, "without a last newline");
    }

    #[test]
    fn a_bad_line_is_named_with_its_mend() {
        for (line, mend) in [
            ("hello", "write 192.0.2.1"),
            ("192.0.2.1/33", "is no address"),
            ("192.0.2.1/24", "write 192.0.2.0/24"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("0.0.0.0/0", "everybody"),
            ("::/0", "everybody"),
            ("::ffff:192.0.2.1", "as IPv4"),
            ("192.0.2.1 192.0.2.2", "is no address"),
            (&"1".repeat(5000), "longer than"),
        ] {
            let parsed = parse(format!("# first\n{line}\n").as_bytes(), 100, 10).unwrap();
            assert_eq!((parsed.bad, parsed.content.len()), (1, 0), "{line}");
            assert_eq!(parsed.faults[0].line, 2);
            assert!(parsed.faults[0].fault.contains(mend), "{}", parsed.faults[0]);
        }
        let many = parse("x\n".repeat(100).as_bytes(), 64, 10).unwrap();
        assert_eq!((many.bad, many.faults.len()), (100, KEPT_FAULTS));
        let bytes = parse(b"\xff\xfe\n", 64, 10).unwrap();
        assert!(bytes.faults[0].fault.contains("UTF-8"));
    }

    #[test]
    fn a_list_beyond_its_bound_is_refused_where_it_goes_beyond() {
        let text = b"192.0.2.1\n192.0.2.2\n#\n192.0.2.3\n";
        let fault = parse(text, 5, 2).unwrap_err();
        assert_eq!(fault.line, 4);
        assert!(fault.fault.contains("max_blocked_addresses"));
        parse(text, 5, 3).unwrap();
    }
}
