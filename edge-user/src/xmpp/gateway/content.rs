//! What a message says: plain text out of what SIP users send.
//!
//! Bodies come from clients inside, and end up in XML: characters that XML does not have are taken
//! out here, markup is taken off. Nothing is read deeper than a part of a multipart within one.

/// Parts of a multipart.
const MAX_PARTS: usize = 8;
/// A multipart within a multipart.
const MAX_DEPTH: usize = 2;
/// Bytes of a text that is handed on.
pub const MAX_TEXT: usize = 64 << 10;

/// What is taken: `Accept` of a 415.
pub const ACCEPT: &str = "text/plain, text/html, multipart/alternative, \
                          application/im-iscomposing+xml, message/cpim, message/imdn+xml";

/// The text of a body; `None`: nothing that can be read (415).
pub fn text_of(kind: &str, body: &[u8]) -> Option<String> {
    read(kind, body, 0).map(|text| clean(&text))
}

fn read(kind: &str, body: &[u8], depth: usize) -> Option<String> {
    let (name, params) = media_type(kind);
    if body.len() > MAX_TEXT {
        return None;
    }
    match name.as_str() {
        "text/plain" => decode(body, &params),
        "text/html" => decode(body, &params).map(|html| strip(&html)),
        "multipart/alternative" | "multipart/mixed" | "multipart/related" if depth < MAX_DEPTH => {
            let boundary = param(&params, "boundary")?;
            let parts = parts(body, &boundary);
            // The last alternative is the richest; plain text is the one that survives whole.
            let plain = parts.iter().find(|(kind, _)| media_type(kind).0 == "text/plain");
            let one = |(kind, body): &(String, &[u8])| read(kind, body, depth + 1);
            plain.and_then(one).or_else(|| parts.iter().find_map(one))
        }
        _ => None,
    }
}

/// A body of a type, alone or as a part.
pub fn part_of<'b>(kind: &str, body: &'b [u8], wanted: &str) -> Option<&'b [u8]> {
    let (name, params) = media_type(kind);
    if name == wanted {
        return Some(body);
    }
    if !name.starts_with("multipart/") || body.len() > MAX_TEXT {
        return None;
    }
    let boundary = param(&params, "boundary")?;
    parts(body, &boundary)
        .into_iter()
        .find(|(kind, _)| media_type(kind).0 == wanted)
        .map(|(_, body)| body)
}

/// `type/subtype` in lower case, and its parameters.
pub fn media_type(kind: &str) -> (String, Vec<(String, String)>) {
    let mut pieces = kind.split(';');
    let name = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
    let params = pieces.take(16).filter_map(|piece| {
        let (name, value) = piece.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()))
    });
    (name, params.collect())
}

fn param(params: &[(String, String)], name: &str) -> Option<String> {
    params
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.clone())
        .filter(|value| !value.is_empty())
}

fn decode(body: &[u8], params: &[(String, String)]) -> Option<String> {
    let charset = param(params, "charset").unwrap_or_else(|| "utf-8".to_owned());
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => String::from_utf8(body.to_vec()).ok(),
        "iso-8859-1" | "latin1" => Some(body.iter().map(|byte| char::from(*byte)).collect()),
        _ => None,
    }
}

/// The parts of a multipart: type and content (RFC 2046 section 5.1). Parts that are encoded are
/// left out.
fn parts<'b>(body: &'b [u8], boundary: &str) -> Vec<(String, &'b [u8])> {
    let mut found = Vec::new();
    if boundary.len() > 70 {
        return found;
    }
    let delimiter = format!("--{boundary}");
    let Some(mut at) = delimiter_at(body, delimiter.as_bytes(), 0) else { return found };
    while found.len() < MAX_PARTS {
        let start = at + delimiter.len();
        let rest = body.get(start..).unwrap_or(&[]);
        if rest.starts_with(b"--") {
            break;
        }
        let Some(next) = delimiter_at(body, delimiter.as_bytes(), start) else { break };
        if let Some(part) = body.get(start..next).and_then(one_part) {
            found.push(part);
        }
        at = next;
    }
    found
}

/// A delimiter at the beginning of a line.
fn delimiter_at(body: &[u8], delimiter: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let found = at + memchr::memmem::find(body.get(at..)?, delimiter)?;
        if found == 0 || body.get(found - 1) == Some(&b'\n') {
            return Some(found);
        }
        at = found + 1;
    }
}

fn one_part(part: &[u8]) -> Option<(String, &[u8])> {
    let line_end = memchr::memchr(b'\n', part)?;
    let mut rest = part.get(line_end + 1..)?;
    let mut kind = "text/plain".to_owned();
    loop {
        let end = memchr::memchr(b'\n', rest)?;
        let line = rest.get(..end)?.trim_ascii_end();
        rest = rest.get(end + 1..)?;
        if line.is_empty() {
            break;
        }
        let line = std::str::from_utf8(line).ok()?;
        let (name, value) = line.split_once(':')?;
        if name.trim().eq_ignore_ascii_case("content-type") {
            kind = value.trim().to_owned();
        } else if name.trim().eq_ignore_ascii_case("content-transfer-encoding")
            && !is_unencoded(value)
        {
            return None;
        }
    }
    // The line end before the delimiter belongs to it.
    let body = rest.strip_suffix(b"\r\n").or_else(|| rest.strip_suffix(b"\n")).unwrap_or(rest);
    Some((kind, body))
}

/// Whether a Content-Transfer-Encoding leaves the bytes as they are (RFC 2045 section 6.2).
pub fn is_unencoded(encoding: &str) -> bool {
    let known = ["7bit", "8bit", "binary"];
    known.iter().any(|known| encoding.trim().eq_ignore_ascii_case(known))
}

/// HTML without its markup. Never markup again: what stands in it as `&lt;` is text, and stays text
/// in a `<body/>`.
pub fn strip(html: &str) -> String {
    let mut out = String::with_capacity(html.len().min(MAX_TEXT));
    let mut rest = html;
    while let Some(open) = rest.find(['<', '&']) {
        push_text(&mut out, rest.get(..open).unwrap_or_default());
        rest = rest.get(open..).unwrap_or_default();
        rest = match rest.starts_with('<') {
            true => skip_tag(rest, &mut out),
            false => entity(rest, &mut out),
        };
    }
    push_text(&mut out, rest);
    out.trim().to_owned()
}

/// White space in HTML is one space.
fn push_text(out: &mut String, text: &str) {
    for c in text.chars() {
        if !c.is_ascii_whitespace() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with([' ', '\n']) {
            out.push(' ');
        }
    }
}

/// What follows a tag, a comment, or an element whose content is no text.
fn skip_tag<'a>(text: &'a str, out: &mut String) -> &'a str {
    if let Some(comment) = text.strip_prefix("<!--") {
        return comment.split_once("-->").map_or("", |(_, after)| after);
    }
    let Some((tag, after)) = text.get(1..).unwrap_or_default().split_once('>') else { return "" };
    let name: String = tag
        .trim_start_matches('/')
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .take(16)
        .collect();
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "script" | "style" | "head" | "title" if !tag.starts_with('/') => {
            let end = format!("</{name}");
            let at = find_ignoring_case(after, &end);
            let after = at.and_then(|at| after.get(at..)).unwrap_or_default();
            after.split_once('>').map_or("", |(_, after)| after)
        }
        "br" | "p" | "div" | "li" | "tr" | "h1" | "h2" | "h3" | "blockquote" => {
            if !out.is_empty() && (name == "br" || !out.ends_with('\n')) {
                out.push('\n');
            }
            after
        }
        _ => after,
    }
}

fn find_ignoring_case(text: &str, wanted: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    bytes.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted.as_bytes()))
}

fn entity<'a>(text: &'a str, out: &mut String) -> &'a str {
    let rest = text.get(1..).unwrap_or_default();
    let Some(end) = rest.bytes().take(12).position(|b| b == b';') else {
        out.push('&');
        return rest;
    };
    let name = rest.get(..end).unwrap_or_default();
    let number = |text: &str, radix| u32::from_str_radix(text, radix).ok().and_then(char::from_u32);
    let c = match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => match name.strip_prefix('#') {
            Some(hex) if hex.starts_with(['x', 'X']) => {
                hex.get(1..).and_then(|hex| number(hex, 16))
            }
            Some(decimal) => number(decimal, 10),
            None => None,
        },
    };
    match c {
        Some(c) => {
            out.push(c);
            rest.get(end + 1..).unwrap_or_default()
        }
        None => {
            out.push('&');
            rest
        }
    }
}

/// Whether it is a language tag (RFC 5646), roughly: it can stand in a header and in `xml:lang`.
pub fn is_lang(lang: &str) -> bool {
    (1..=35).contains(&lang.len()) && lang.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A text as XML may hold it (XML 1.0 section 2.2), with line ends as `\n`.
pub fn clean(text: &str) -> String {
    let is_char = |c: &char| {
        matches!(*c, '\t' | '\n' | '\u{20}'..='\u{fffd}' | '\u{10000}'..) && *c != '\u{7f}'
    };
    text.replace("\r\n", "\n").chars().filter(is_char).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_comes_out_of_what_clients_send() {
        let alternative =
            b"preamble\r\n--b\r\nContent-Type: text/html\r\n\r\n<b>rich</b>\r\n--b\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\r\nplain\r\n--b--\r\n";
        let html_alone =
            b"--b\r\nContent-Type: text/html\r\n\r\n<p>one</p><p>two&nbsp;&lt;3</p>\r\n--b--";
        let encoded = b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--b--\r\n";
        for (kind, body, text) in [
            ("text/plain", &b"hi"[..], Some("hi")),
            ("TEXT/Plain; charset=\"UTF-8\"", "gr\u{fc}n".as_bytes(), Some("gr\u{fc}n")),
            ("text/plain;charset=iso-8859-1", b"gr\xfcn", Some("gr\u{fc}n")),
            ("text/plain", b"\xff", None),
            ("text/plain;charset=utf-16", b"h\0i\0", None),
            ("text/plain", b"a\0\x0b\r\nb\x1b", Some("a\nb")),
            ("multipart/alternative;boundary=b", alternative, Some("plain")),
            ("multipart/alternative; boundary=\"b\"", html_alone, Some("one\ntwo <3")),
            ("multipart/alternative;boundary=b", encoded, None),
            ("multipart/alternative", alternative, None),
            ("text/rtf", b"{\\rtf1}", None),
            ("message/cpim", b"From: x\r\n\r\nhi", None),
            ("", b"hi", None),
        ] {
            assert_eq!(text_of(kind, body).as_deref(), text, "{kind} {body:?}");
        }
    }

    #[test]
    fn markup_never_comes_through() {
        for (html, text) in [
            ("a<script>alert(1)</script>b", "ab"),
            ("<STYLE>x{}</Style>b", "b"),
            ("a<!-- <b> -->c", "ac"),
            ("a<script>never closed", "a"),
            ("a<b", "a"),
            ("&lt;script&gt;", "<script>"),
            ("&#60;b&#x3e; &#0; &#xd800; &bogus; &", "<b> \u{0} &#xd800; &bogus; &"),
            ("one<br/>two<BR>three", "one\ntwo\nthree"),
        ] {
            assert_eq!(strip(html), text, "{html}");
        }
        assert_eq!(text_of("text/html", b"&#0;a&#27;b").as_deref(), Some("ab"));
    }

    #[test]
    fn a_part_is_found_by_its_type() {
        let body = b"--x\r\nContent-Type: application/pidf+xml\r\n\r\n<presence/>\r\n--x--\r\n";
        let kind = "multipart/related;type=\"application/rlmi+xml\";boundary=x";
        assert_eq!(part_of(kind, body, "application/pidf+xml"), Some(&b"<presence/>"[..]));
        assert_eq!(part_of(kind, body, "text/plain"), None);
        assert_eq!(
            part_of("application/pidf+xml;charset=utf-8", b"x", "application/pidf+xml"),
            Some(&b"x"[..])
        );
    }

    proptest! {
        #[test]
        fn anything_is_read_without_harm(kind in ".{0,40}", body in proptest::collection::vec(any::<u8>(), 0..300)) {
            for kind in [kind.as_str(), "text/html", "multipart/mixed;boundary=-", "text/plain;charset=latin1"] {
                if let Some(text) = text_of(kind, &body) {
                    prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || c >= ' '));
                }
            }
        }

        #[test]
        fn html_is_read_without_harm(html in "[<>/&;#a-z!-]{0,60}") {
            strip(&html);
        }
    }
}
