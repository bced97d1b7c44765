//! Dialogs (RFC 3261 section 12).

use super::{Request, name_addr};
use crate::sip::{HeaderName, Message, Method, NameAddr};

/// More than any path has.
const MAX_ROUTES: usize = 16;
/// Bytes of a route set, and of a URI.
const MAX_ROUTE_BYTES: usize = 8 << 10;
/// Bytes of a Call-ID, and of a tag.
const MAX_ID: usize = 512;

/// A dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// Call-ID.
    pub call_id: String,
    /// Our URI.
    pub local: String,
    /// Our tag.
    pub local_tag: String,
    /// Their URI.
    pub remote: String,
    /// Their tag, once it is known.
    pub remote_tag: Option<String>,
    /// Where requests go.
    pub target: String,
    /// The route set.
    pub routes: Vec<String>,
    /// The last number that we used.
    pub local_cseq: u32,
    /// The last number that they used.
    pub remote_cseq: Option<u32>,
}

/// Why a message forms no dialog, or is none of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// No Contact, or one that is no SIP URI.
    #[error("no Contact with a SIP URI")]
    Contact,
    /// More Record-Route than there can be.
    #[error("too many routes")]
    Routes,
    /// A Call-ID, tag or URI that is longer than any.
    #[error("a Call-ID, tag or URI that is too long")]
    TooLong,
    /// No tag where there must be one.
    #[error("no tag")]
    Tag,
    /// A CSeq number that was used before (RFC 3261 section 12.2.2).
    #[error("a CSeq number out of order")]
    Order,
}

impl Dialog {
    /// One that a request of ours will form.
    pub fn begin(call_id: String, local: &str, local_tag: String, remote: &str) -> Self {
        Self {
            call_id,
            local: local.to_owned(),
            local_tag,
            remote: remote.to_owned(),
            remote_tag: None,
            target: remote.to_owned(),
            routes: Vec::new(),
            local_cseq: 0,
            remote_cseq: None,
        }
    }

    /// One that a request to us forms (RFC 3261 section 12.1.1).
    pub fn of_request(request: &Message, local_tag: String) -> Result<Self, DialogError> {
        let (Ok(from), Ok(to), Ok(call_id)) = (request.from(), request.to(), request.call_id())
        else {
            return Err(DialogError::Tag);
        };
        let remote_tag = from.tag().ok_or(DialogError::Tag)?;
        let uris = from.uri.as_str().len().max(to.uri.as_str().len());
        if call_id.len().max(remote_tag.len()) > MAX_ID || uris > MAX_ROUTE_BYTES {
            return Err(DialogError::TooLong);
        }
        Ok(Self {
            call_id: call_id.to_owned(),
            local: to.uri.as_str().to_owned(),
            local_tag,
            remote: from.uri.as_str().to_owned(),
            remote_tag: Some(remote_tag.to_owned()),
            target: contact(request).ok_or(DialogError::Contact)?,
            routes: routes(request)?,
            local_cseq: 0,
            remote_cseq: request.cseq().ok().map(|cseq| cseq.number),
        })
    }

    /// Takes tag, target and routes of the response, or of the NOTIFY that came before it (RFC
    /// 3261 section 12.1.2, RFC 6665 section 4.1.3).
    pub fn establish(&mut self, message: &Message) -> Result<(), DialogError> {
        let other = if message.is_request() { message.from() } else { message.to() };
        let tag = other.ok().and_then(|other| other.tag()).ok_or(DialogError::Tag)?;
        if tag.len() > MAX_ID {
            return Err(DialogError::TooLong);
        }
        match &self.remote_tag {
            Some(known) if known != tag => return Err(DialogError::Tag),
            Some(_) => {}
            None => {
                let mut routes = routes(message)?;
                if !message.is_request() {
                    routes.reverse();
                }
                self.remote_tag = Some(tag.to_owned());
                self.routes = routes;
            }
        }
        if let Some(target) = contact(message) {
            self.target = target;
        }
        Ok(())
    }

    /// Whether a request belongs to it: Call-ID and both tags. Without a tag of theirs, any.
    pub fn has(&self, request: &Message) -> bool {
        let tag = |side: Result<NameAddr<'_>, _>| {
            side.ok().and_then(|side| side.tag().map(str::to_owned))
        };
        request.call_id().is_ok_and(|id| id == self.call_id)
            && tag(request.to()).is_some_and(|tag| tag == self.local_tag)
            && self
                .remote_tag
                .as_ref()
                .is_none_or(|known| tag(request.from()).as_ref() == Some(known))
    }

    /// Notes the number of a request of theirs, and where it says that requests go.
    pub fn take(&mut self, request: &Message) -> Result<(), DialogError> {
        let number = request.cseq().map_err(|_| DialogError::Order)?.number;
        if self.remote_cseq.is_some_and(|last| number <= last) {
            return Err(DialogError::Order);
        }
        self.remote_cseq = Some(number);
        let refreshes = matches!(
            request.method(),
            Some(Method::Invite | Method::Update | Method::Subscribe | Method::Notify)
        );
        if let Some(target) = contact(request).filter(|_| refreshes) {
            self.target = target;
        }
        Ok(())
    }

    /// The next request in it.
    pub fn request<'a>(
        &'a mut self,
        method: Method<'static>,
        headers: Vec<(&'static str, String)>,
        body: Option<(&'a str, &'a [u8])>,
    ) -> Request<'a> {
        if method != Method::Ack {
            self.local_cseq = self.local_cseq.saturating_add(1);
        }
        Request {
            method,
            from: name_addr(&self.local, Some(&self.local_tag)),
            to: name_addr(&self.remote, self.remote_tag.as_deref()),
            uri: &self.target,
            call_id: &self.call_id,
            cseq: self.local_cseq,
            routes: &self.routes,
            headers,
            body,
        }
    }
}

fn contact(message: &Message) -> Option<String> {
    let element = message.list(HeaderName::Contact).next()?;
    let contact = NameAddr::parse(element.value).ok()?;
    let fits = contact.uri.is_sip() && contact.uri.as_str().len() <= MAX_ROUTE_BYTES;
    fits.then(|| contact.uri.as_str().to_owned())
}

/// Record-Route, in its order.
fn routes(message: &Message) -> Result<Vec<String>, DialogError> {
    let mut routes = Vec::new();
    let mut bytes = 0;
    for element in message.list(HeaderName::RecordRoute) {
        bytes += element.value.len();
        let text = std::str::from_utf8(element.value).map_err(|_| DialogError::Routes)?;
        if routes.len() == MAX_ROUTES || bytes > MAX_ROUTE_BYTES {
            return Err(DialogError::Routes);
        }
        routes.push(text.to_owned());
    }
    Ok(routes)
}
