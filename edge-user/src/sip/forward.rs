//! What a proxy changes in a message that it forwards (RFC 3261 sections 16.6 and 16.7, 18.2.1;
//! RFC 3581 section 4).

use std::{fmt::Write as _, net::IpAddr};

use bytes::Bytes;

use super::{
    edit::{Edit, EditError},
    header::HeaderName,
    message::Message,
    value::trim,
    via::Via,
};

/// The address a request came from, for its top Via.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Source address.
    pub address: IpAddr,
    /// Source port.
    pub port: u16,
}

/// Changes to a request on its way (RFC 3261 section 16.6).
#[derive(Clone, Debug)]
pub struct ForwardRequest<'a> {
    /// Our Via's value: `SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK...`.
    pub via: &'a str,
    /// Max-Forwards as it goes out.
    pub max_forwards: u8,
    /// Where it came from: noted in the Via that was on top.
    pub received: Option<Received>,
    /// Record-Route values of ours, the topmost first.
    pub record_routes: &'a [&'a str],
    /// Another Request-URI.
    pub request_uri: Option<&'a str>,
    /// How many Route values to take off the front.
    pub remove_routes: usize,
    /// Headers to take away.
    pub remove: &'a [HeaderName],
    /// Headers to add at the end.
    pub add: &'a [(&'a str, &'a str)],
}

impl<'a> ForwardRequest<'a> {
    /// A new Via and a new Max-Forwards; everything else stays.
    pub fn new(via: &'a str, max_forwards: u8) -> Self {
        Self {
            via,
            max_forwards,
            received: None,
            record_routes: &[],
            request_uri: None,
            remove_routes: 0,
            remove: &[],
            add: &[],
        }
    }

    /// The request as it goes out.
    pub fn apply(&self, message: &Message) -> Result<Bytes, EditError> {
        let mut edit = Edit::new(message);
        if let Some(uri) = self.request_uri {
            edit.request_uri(uri);
        }
        edit.prepend("Via", self.via);
        for value in self.record_routes {
            edit.prepend("Record-Route", value);
        }
        if let Some(received) = self.received {
            note_received(&mut edit, message, received);
        }
        if self.remove_routes > 0 {
            edit.remove_front(HeaderName::Route, self.remove_routes);
        }
        edit.set(HeaderName::MaxForwards, self.max_forwards.to_string());
        finish_headers(&mut edit, message, self.remove, self.add);
        edit.finish()
    }
}

/// Changes to a response on its way back (RFC 3261 section 16.7).
#[derive(Clone, Debug, Default)]
pub struct ForwardResponse<'a> {
    /// New values for Record-Route elements, by their place in the list from 0.
    pub record_routes: &'a [(usize, &'a str)],
    /// Headers to take away.
    pub remove: &'a [HeaderName],
    /// Headers to add at the end.
    pub add: &'a [(&'a str, &'a str)],
}

impl ForwardResponse<'_> {
    /// The response without its top Via (ours) and with the other changes.
    pub fn apply(&self, message: &Message) -> Result<Bytes, EditError> {
        let mut edit = Edit::new(message);
        edit.remove_front(HeaderName::Via, 1);
        for (place, value) in self.record_routes {
            let element =
                message.list(HeaderName::RecordRoute).nth(*place).ok_or(EditError::NoSuchPlace)?;
            edit.replace_element(&element, value);
        }
        finish_headers(&mut edit, message, self.remove, self.add);
        edit.finish()
    }
}

/// Takes away, adds, and says how long the body is where a datagram did not: the message may go
/// on over a stream, which needs it (RFC 3261 section 18.3).
fn finish_headers(
    edit: &mut Edit<'_>,
    message: &Message,
    remove: &[HeaderName],
    add: &[(&str, &str)],
) {
    if message.header(HeaderName::ContentLength).is_none() {
        edit.append(HeaderName::ContentLength.as_str(), message.body().len().to_string());
    }
    for name in remove {
        edit.remove(*name);
    }
    for (name, value) in add {
        edit.append(name, value);
    }
}

/// Notes the source in the message's top Via.
fn note_received(edit: &mut Edit<'_>, message: &Message, received: Received) {
    if let Some(top) = message.list(HeaderName::Via).next()
        && let Some(value) = via_with_received(top.value, received)
    {
        edit.replace_element(&top, value);
    }
}

/// A Via value with `received` and `rport` as the source says, not as the peer says; `None` when
/// nothing changes, or when it is no Via.
pub(super) fn via_with_received(value: &[u8], received: Received) -> Option<String> {
    let via = Via::parse(value).ok()?;
    let same_host = via.host.ip() == Some(received.address);
    if same_host && via.rport.is_none() && via.received.is_none() {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let mut out = trim(text.split_at(text.find(';').unwrap_or(text.len())).0).to_owned();
    for (name, value) in via.params.iter() {
        if name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport") {
            continue;
        }
        out.push(';');
        out.push_str(name);
        if let Some(value) = value {
            out.push('=');
            out.push_str(value);
        }
    }
    // RFC 3581 section 4: with rport, received is there even when the host is the same.
    if !same_host || via.rport.is_some() {
        let _ = write!(out, ";received={}", received.address);
    }
    if via.rport.is_some() {
        let _ = write!(out, ";rport={}", received.port);
    }
    Some(out)
}
