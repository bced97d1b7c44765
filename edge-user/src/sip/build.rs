//! Messages of our own that are made from another message: responses (RFC 3261 section 8.2.6),
//! ACK for a non-2xx response (17.1.1.3), CANCEL (9.1).

use bytes::Bytes;

use super::{
    class::is_token,
    edit::{EditError, is_safe},
    forward::{Noted, Received},
    header::HeaderName,
    message::Message,
    value::NameAddr,
    via::Via,
};

/// A response to make.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// 100 to 699.
    pub status: u16,
    /// Reason phrase.
    pub reason: &'a str,
    /// Our tag, put on To when it has none. Needed for everything but 100.
    pub to_tag: Option<&'a str>,
    /// Where the request came from, noted in its top Via.
    pub received: Option<Received>,
    /// More headers, in order.
    pub headers: &'a [(&'a str, &'a str)],
}

impl<'a> Response<'a> {
    /// Status and reason, nothing more.
    pub fn new(status: u16, reason: &'a str) -> Self {
        Self { status, reason, to_tag: None, received: None, headers: &[] }
    }
}

/// The response to a request: its Via, From, To, Call-ID and CSeq (those that it has), and no body.
pub fn response(request: &Message, response: &Response<'_>) -> Result<Bytes, EditError> {
    if !(100..700).contains(&response.status) || !is_safe(response.reason.as_bytes()) {
        return Err(EditError::Injection);
    }
    let mut out = Vec::with_capacity(512);
    push(&mut out, &[b"SIP/2.0 ", response.status.to_string().as_bytes(), b" "]);
    push(&mut out, &[response.reason.as_bytes(), b"\r\n"]);
    copy_via(&mut out, request, response.received);
    copy_present(&mut out, request, HeaderName::From);
    let to = request.header(HeaderName::To).map(|header| header.value).unwrap_or_default();
    let untagged = NameAddr::parse(to).is_ok_and(|to| !to.params.has("tag"));
    match response.to_tag {
        Some(tag) if !tag.bytes().all(is_token) || tag.is_empty() => {
            return Err(EditError::Injection);
        }
        Some(tag) if untagged => push(&mut out, &[b"To: ", to, b";tag=", tag.as_bytes(), b"\r\n"]),
        _ => copy_present(&mut out, request, HeaderName::To),
    }
    copy_present(&mut out, request, HeaderName::CallId);
    copy_present(&mut out, request, HeaderName::CSeq);
    if response.status == 100 {
        copy_present(&mut out, request, HeaderName::Timestamp);
    }
    for (name, value) in response.headers {
        if name.is_empty() || !name.bytes().all(is_token) || !is_safe(value.as_bytes()) {
            return Err(EditError::Injection);
        }
        push(&mut out, &[name.as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    push(&mut out, &[b"Content-Length: 0\r\n\r\n"]);
    Ok(Bytes::from(out))
}

/// The ACK for a final response other than 2xx to an INVITE that we sent (RFC 3261 section
/// 17.1.1.3): it goes where the INVITE went.
pub fn ack(invite: &Message, response: &Message) -> Result<Bytes, EditError> {
    let to = response.header(HeaderName::To).ok_or(EditError::NoSuchPlace)?.value;
    hop_by_hop(invite, "ACK", to)
}

/// The CANCEL for an INVITE that we sent (RFC 3261 section 9.1): it goes where the INVITE went.
pub fn cancel(invite: &Message) -> Result<Bytes, EditError> {
    let to = invite.header(HeaderName::To).ok_or(EditError::NoSuchPlace)?.value;
    hop_by_hop(invite, "CANCEL", to)
}

/// A request in the INVITE's own transaction: its Request-URI, top Via, Route, From, Call-ID and
/// CSeq number.
fn hop_by_hop(invite: &Message, method: &str, to: &[u8]) -> Result<Bytes, EditError> {
    let uri = invite
        .request_uri_range()
        .and_then(|range| invite.bytes().get(range))
        .ok_or(EditError::NoSuchPlace)?;
    let via = invite.list(HeaderName::Via).next().ok_or(EditError::NoSuchPlace)?;
    let number = invite.cseq().map_err(|_| EditError::NoSuchPlace)?.number;
    let mut out = Vec::with_capacity(512);
    push(&mut out, &[method.as_bytes(), b" ", uri, b" SIP/2.0\r\nVia: ", via.value, b"\r\n"]);
    for route in invite.headers(HeaderName::Route) {
        push(&mut out, &[b"Route: ", route.value, b"\r\n"]);
    }
    push(&mut out, &[b"Max-Forwards: 70\r\n"]);
    copy(&mut out, invite, HeaderName::From)?;
    push(&mut out, &[b"To: ", to, b"\r\n"]);
    copy(&mut out, invite, HeaderName::CallId)?;
    push(&mut out, &[b"CSeq: ", number.to_string().as_bytes(), b" ", method.as_bytes()]);
    push(&mut out, &[b"\r\nContent-Length: 0\r\n\r\n"]);
    Ok(Bytes::from(out))
}

/// Every Via line as it came, but for what we note in the top value. Lines, not values: a line of
/// commas must not make a response longer than its request.
fn copy_via(out: &mut Vec<u8>, request: &Message, received: Option<Received>) {
    let top = request.list(HeaderName::Via).next();
    for line in request.headers(HeaderName::Via) {
        let top = top.as_ref().filter(|top| top.header == line.index);
        let noted = top.and_then(|top| {
            // Of a message whose values were not checked, too.
            Noted::new(top.value, &Via::parse(top.value).ok()?, received?)
        });
        match (noted, top) {
            (Some(noted), Some(top)) => {
                let rest = line.value.get(top.value.len()..).unwrap_or(&[]);
                push(out, &[b"Via: "]);
                noted.write(out);
                push(out, &[rest, b"\r\n"]);
            }
            _ => push(out, &[b"Via: ", line.value, b"\r\n"]),
        }
    }
}

fn copy(out: &mut Vec<u8>, from: &Message, name: HeaderName) -> Result<(), EditError> {
    from.header(name).ok_or(EditError::NoSuchPlace)?;
    copy_present(out, from, name);
    Ok(())
}

fn copy_present(out: &mut Vec<u8>, from: &Message, name: HeaderName) {
    if let Some(header) = from.header(name) {
        push(out, &[name.as_str().as_bytes(), b": ", header.value, b"\r\n"]);
    }
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
