//! Session descriptions in the bodies of messages: read, judged, put back; and what is said when that
//! cannot be.

use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, respond::Answer};
use crate::{
    media::{
        body::{Descriptions, descriptions},
        calls::{CallMethod, MediaFault},
        policy::{Judged, Modalities, is_of_event, judge},
        sdp::{Sdp, SdpBounds},
    },
    sip::{HeaderName, Message, Method},
};

/// RFC 4028 section 4: no session timer is shorter.
const SHORTEST_SESSION: u64 = 90;

/// Another body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewBody {
    /// With these bytes, of the same type.
    Changed(Bytes),
    /// None: what it says is for nobody there.
    TakenOut,
}

impl NewBody {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            NewBody::Changed(bytes) => bytes,
            NewBody::TakenOut => &[],
        }
    }

    /// What says of what type it is goes with it.
    pub(super) fn is_taken_out(&self) -> bool {
        *self == NewBody::TakenOut
    }
}

/// Why a message does not go on as it is.
pub(super) struct Fault {
    pub reason: Refusal,
    /// For people.
    pub detail: String,
    /// The line of a session description that is at fault.
    pub line: Option<u32>,
}

impl Fault {
    pub(super) fn answer(&self) -> Answer {
        let answer = match self.reason {
            Refusal::ModalityForbidden => {
                Answer::with(488, "Not Acceptable Here", Refusal::ModalityForbidden)
            }
            reason => reason.into(),
        };
        Answer { line: self.line, ..answer }
    }
}

impl From<MediaFault> for Fault {
    fn from(fault: MediaFault) -> Self {
        let (reason, line) = match &fault {
            MediaFault::Forbidden => (Refusal::ModalityForbidden, None),
            MediaFault::Unsupported => (Refusal::MediaNotRelayed, None),
            MediaFault::Address { .. } => (Refusal::MediaAddress, None),
            MediaFault::Another => (Refusal::WrongDialogPeer, None),
            MediaFault::Over => (Refusal::CallEnded, None),
            MediaFault::NoPorts => (Refusal::MediaPorts, None),
            MediaFault::Sdp(error) => (Refusal::SessionUnreadable, Some(error.line)),
        };
        Self { reason, detail: fault.to_string(), line }
    }
}

/// A body's session descriptions.
pub(super) struct Offered {
    pub places: Descriptions,
    pub texts: Vec<Sdp>,
    /// m-lines of each that are forbidden, as bits.
    pub forbidden: Vec<u32>,
}

/// `relays`: no address may be seen on the other side.
pub(super) fn read(message: &Message, allowed: Modalities, relays: bool) -> Result<Offered, Fault> {
    let unreadable =
        |detail: String, line| Fault { reason: Refusal::SessionUnreadable, detail, line };
    let places = descriptions(message).map_err(|fault| unreadable(fault.to_string(), None))?;
    if relays && places.fragment && !places.sdp.is_empty() {
        // They show addresses that the description beside them is not to show.
        return Err(unreadable("candidates beside a session description".to_owned(), None));
    }
    let body = message.body_bytes();
    let (mut texts, mut forbidden) = (Vec::new(), Vec::new());
    for place in &places.sdp {
        let text = body.slice(place.clone());
        let sdp = Sdp::parse(text, &SdpBounds::default())
            .map_err(|error| unreadable(format!("SDP {error}"), Some(error.line)))?;
        let bits = |lines: &[usize]| lines.iter().fold(0, |bits, line| bits | 1_u32 << (line % 32));
        forbidden.push(match judge(&sdp, places.file_transfer, allowed) {
            Judged::AllAllowed => 0,
            Judged::SomeForbidden(lines) => bits(&lines),
            Judged::NoneAllowed(_) => u32::MAX,
        });
        texts.push(sdp);
    }
    Ok(Offered { places, texts, forbidden })
}

/// The method of a request, if offers and answers are in it.
pub(super) fn call_method(method: Method<'_>) -> Option<CallMethod> {
    match method {
        Method::Invite => Some(CallMethod::Invite),
        Method::Update => Some(CallMethod::Update),
        Method::Prack => Some(CallMethod::Prack),
        Method::Ack => Some(CallMethod::Ack),
        _ => None,
    }
}

/// Whether a body that is no offer and no answer shows addresses of media: a session description
/// or candidates of ICE, alone or among other parts. So does a body that may hold some where nobody
/// can tell, except in what tells of an event: the presence of many is many parts.
pub(super) fn shows_addresses(message: &Message) -> bool {
    if let Ok(found) = descriptions(message) {
        return !found.sdp.is_empty() || found.fragment;
    }
    let method = message.method().or_else(|| message.cseq().ok().map(|cseq| cseq.method));
    let event = method.is_some_and(is_of_event);
    message.headers(HeaderName::ContentType).any(|header| {
        // Any word of it: some readers stop at a comma or a space.
        let kind = header.value.split(|byte| !byte.is_ascii_alphanumeric());
        let mut words = kind.filter(|word| !word.is_empty());
        words.any(|word| {
            word.eq_ignore_ascii_case(b"multipart") && !event || word.eq_ignore_ascii_case(b"sdp")
        })
    })
}

/// The session timer that a response sets.
pub(super) fn session_timer(response: &Message) -> Option<Duration> {
    let text = response.text(HeaderName::SessionExpires)?;
    let digits = text.split(';').next()?.trim();
    let seconds: u32 = digits.parse().ok()?;
    Some(Duration::from_secs(u64::from(seconds).max(SHORTEST_SESSION)))
}

/// The body with other descriptions, if they are others.
pub(super) fn changed(
    message: &Message,
    offered: &Offered,
    texts: &[Bytes],
    relays: bool,
) -> Result<Option<NewBody>, Fault> {
    if relays && offered.texts.is_empty() && offered.places.fragment {
        return Ok(Some(NewBody::TakenOut));
    }
    if offered.texts.iter().zip(texts).all(|(old, new)| old.text() == new) {
        return Ok(None);
    }
    match offered.places.replace(message.body(), texts) {
        Ok(body) => Ok(Some(NewBody::Changed(body))),
        Err(fault) => {
            Err(Fault { reason: Refusal::SessionUnreadable, detail: fault.to_string(), line: None })
        }
    }
}
