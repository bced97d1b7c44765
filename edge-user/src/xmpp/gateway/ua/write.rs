//! Requests of our own, as bytes.

use bytes::Bytes;

use crate::{domain::Domain, sip::Method};

/// A request to write.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method<'static>,
    /// Request-URI.
    pub uri: &'a str,
    /// From, with its tag.
    pub from: String,
    /// To, with its tag if there is one.
    pub to: String,
    /// Call-ID.
    pub call_id: &'a str,
    /// CSeq number.
    pub cseq: u32,
    /// The route set.
    pub routes: &'a [String],
    /// Other headers, in order. One that would break the message is left out.
    pub headers: Vec<(&'static str, String)>,
    /// Content-Type and body.
    pub body: Option<(&'a str, &'a [u8])>,
}

impl Request<'_> {
    /// The request. `None`: a value that cannot stand in a message.
    pub fn write(&self, host: &Domain, branch: &str) -> Option<Bytes> {
        let fixed = [self.uri, &self.from, &self.to, self.call_id];
        if !fixed
            .iter()
            .chain(&self.routes.iter().map(String::as_str).collect::<Vec<_>>())
            .all(|text| is_line(text))
        {
            return None;
        }
        let mut out = Vec::with_capacity(512 + self.body.map_or(0, |(_, body)| body.len()));
        let method = self.method.as_str();
        put(&mut out, &[method, " ", self.uri, " SIP/2.0\r\n"]);
        put(&mut out, &["Via: SIP/2.0/TCP ", host.as_str(), ";branch=", branch, "\r\n"]);
        put(&mut out, &["Max-Forwards: 70\r\n"]);
        for route in self.routes {
            put(&mut out, &["Route: ", route, "\r\n"]);
        }
        put(&mut out, &["From: ", &self.from, "\r\nTo: ", &self.to, "\r\n"]);
        put(&mut out, &["Call-ID: ", self.call_id, "\r\n"]);
        put(&mut out, &["CSeq: ", &self.cseq.to_string(), " ", method, "\r\n"]);
        for (name, value) in &self.headers {
            if is_line(value) {
                put(&mut out, &[name, ": ", value, "\r\n"]);
            }
        }
        let (kind, body) = self.body.unwrap_or(("", b""));
        if !body.is_empty() {
            put(&mut out, &["Content-Type: ", kind, "\r\n"]);
        }
        put(&mut out, &["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]);
        out.extend_from_slice(body);
        Some(Bytes::from(out))
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A text of an XMPP user as the value of a header or a reason phrase: one line, not too long.
pub fn line(text: &str, most: usize) -> String {
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    text.trim().to_owned()
}

/// `<uri>;tag=tag`.
pub fn name_addr(uri: &str, tag: Option<&str>) -> String {
    match tag {
        Some(tag) => format!("<{uri}>;tag={tag}"),
        None => format!("<{uri}>"),
    }
}
