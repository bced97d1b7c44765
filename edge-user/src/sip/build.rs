//! Messages of our own that are made from another message: responses (RFC 3261 section 8.2.6),
//! ACK for a non-2xx response (17.1.1.3), CANCEL (9.1), ACK and BYE in a dialog (12.2.1.1).

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
    hop_by_hop(invite, "ACK", to, &[])
}

/// The CANCEL for an INVITE that we sent (RFC 3261 section 9.1): it goes where the INVITE went.
pub fn cancel(invite: &Message) -> Result<Bytes, EditError> {
    cancel_because(invite, &[])
}

/// The same with further headers, which say why (RFC 3326). One with a value that cannot stand there
/// is left out.
pub fn cancel_because(invite: &Message, why: &[(&str, &[u8])]) -> Result<Bytes, EditError> {
    let to = invite.header(HeaderName::To).ok_or(EditError::NoSuchPlace)?.value;
    hop_by_hop(invite, "CANCEL", to, why)
}

/// A request of ours in the dialog that a 2xx has made.
#[derive(Clone, Copy, Debug)]
pub struct InDialog<'a> {
    /// `ACK` or `BYE`.
    pub method: &'a str,
    /// Its CSeq number is the one after the INVITE's, else the INVITE's.
    pub next: bool,
    /// The Via value.
    pub via: &'a str,
    /// The session description in its body.
    pub sdp: Option<&'a [u8]>,
}

/// A request in the dialog of this 2xx to an INVITE that we sent (RFC 3261 section 12.2.1.1): to its
/// Contact, by those of its Record-Route values that were put in behind us, nearest first; where the
/// dialog was there before, by the INVITE's own routes.
pub fn in_dialog(
    invite: &Message,
    response: &Message,
    request: &InDialog<'_>,
) -> Result<Bytes, EditError> {
    let uri_of = |value| NameAddr::parse(value).map(|name| name.uri.as_str().as_bytes());
    let contact = response.list(HeaderName::Contact).next().map(|contact| contact.value);
    let asked = || invite.bytes().get(invite.request_uri_range()?);
    // Who leaves its Contact out is asked where it was asked before.
    let mut target = match contact.map(uri_of) {
        Some(Ok(uri)) => uri,
        _ => asked().ok_or(EditError::NoSuchPlace)?,
    };
    let remote = [b"<", target, b">"].concat();
    let before = invite.list(HeaderName::RecordRoute).count();
    let records: Vec<&[u8]> =
        response.list(HeaderName::RecordRoute).map(|value| value.value).collect();
    let behind = records.get(..records.len().saturating_sub(before)).unwrap_or_default();
    let stands = invite.to().is_ok_and(|to| to.tag().is_some());
    let mut routes: Vec<&[u8]> = match stands {
        true => invite.list(HeaderName::Route).map(|value| value.value).collect(),
        false => behind.iter().rev().copied().collect(),
    };
    if let Some(Ok(first)) = routes.first().map(|first| NameAddr::parse(first))
        && !first.uri.params().has("lr")
    {
        // A strict router wants to be the target, and the target last.
        target = first.uri.as_str().as_bytes();
        routes.remove(0);
        routes.push(&remote);
    }
    let number = invite.cseq().map_err(|_| EditError::NoSuchPlace)?.number;
    let number = number.wrapping_add(u32::from(request.next));
    let method = request.method.as_bytes();
    let mut out = Vec::with_capacity(768);
    push(&mut out, &[method, b" ", target, b" SIP/2.0\r\n"]);
    push(&mut out, &[b"Via: ", request.via.as_bytes(), b"\r\n"]);
    for route in routes {
        push(&mut out, &[b"Route: ", route, b"\r\n"]);
    }
    push(&mut out, &[b"Max-Forwards: 70\r\n"]);
    copy(&mut out, invite, HeaderName::From)?;
    copy(&mut out, response, HeaderName::To)?;
    copy(&mut out, invite, HeaderName::CallId)?;
    push(&mut out, &[b"CSeq: ", number.to_string().as_bytes(), b" ", method, b"\r\n"]);
    let sdp = request.sdp.unwrap_or_default();
    if !sdp.is_empty() {
        push(&mut out, &[b"Content-Type: application/sdp\r\n"]);
    }
    push(&mut out, &[b"Content-Length: ", sdp.len().to_string().as_bytes(), b"\r\n\r\n", sdp]);
    Ok(Bytes::from(out))
}

/// A request in the INVITE's own transaction: its Request-URI, top Via, Route, From, Call-ID and
/// CSeq number.
fn hop_by_hop(
    invite: &Message,
    method: &str,
    to: &[u8],
    more: &[(&str, &[u8])],
) -> Result<Bytes, EditError> {
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
    push(&mut out, &[b"\r\n"]);
    for (name, value) in more.iter().filter(|(_, value)| is_safe(value)) {
        push(&mut out, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }
    push(&mut out, &[b"Content-Length: 0\r\n\r\n"]);
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
