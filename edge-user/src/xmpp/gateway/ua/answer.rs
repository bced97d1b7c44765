//! Answers to requests.

use bytes::Bytes;

use crate::{
    sip::{
        Edit, HeaderName, Limits, Message,
        build::{Response, response},
    },
    xmpp::gateway::errors::reason_of,
};

use super::line;

/// A final answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Headers, in order.
    pub headers: Vec<(&'static str, String)>,
    /// Content-Type and body.
    pub body: Option<(&'static str, Vec<u8>)>,
}

impl Reply {
    /// A status with its own reason.
    pub fn new(status: u16) -> Self {
        Self { status, reason: reason_of(status).to_owned(), headers: Vec::new(), body: None }
    }

    /// Another reason phrase; an empty one changes nothing.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        let reason = line(reason, 200);
        if !reason.is_empty() {
            self.reason = reason;
        }
        self
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn with_body(mut self, kind: &'static str, body: Vec<u8>) -> Self {
        self.body = Some((kind, body));
        self
    }

    /// The answer to a request. `tag`: our tag, where To has none. What forms a dialog carries the
    /// request's Record-Route (RFC 3261 section 12.1.1).
    pub fn write(&self, request: &Message, tag: &str) -> Option<Bytes> {
        let routes = request.headers(HeaderName::RecordRoute);
        let routes = routes.filter_map(|header| std::str::from_utf8(header.value).ok());
        let mut headers: Vec<(&str, &str)> = Vec::new();
        let forms = request.method().is_some_and(|method| method.forms_dialog());
        if forms && (200..300).contains(&self.status) {
            headers.extend(routes.map(|route| ("Record-Route", route)));
        }
        headers.extend(self.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let whole = Response {
            status: self.status,
            reason: &self.reason,
            to_tag: Some(tag),
            received: None,
            headers: &headers,
        };
        // A header that cannot stand there is ours: the status alone is told.
        let bytes = response(request, &whole).or_else(|_| {
            response(
                request,
                &Response {
                    to_tag: Some(tag),
                    ..Response::new(self.status, reason_of(self.status))
                },
            )
        });
        let bytes = bytes.ok()?;
        let Some((kind, body)) = &self.body else { return Some(bytes) };
        let message = Message::parse_datagram(bytes, &Limits::default()).ok()?;
        Edit::new(&message).append("Content-Type", kind).body(body).finish().ok()
    }
}
