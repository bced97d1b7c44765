//! Whether a message asks for audio or video: an m-line for one of them that is on, in any session
//! description of its body (see [`crate::media`]).
//!
//! What cannot be read for what it is (an encoded part, a description that is none) counts as
//! asking: the answer decides whether a right is needed.

use crate::{
    media::{
        body::descriptions,
        policy::{Modality, modality_of},
        sdp::{Media, Sdp, SdpBounds},
    },
    sip::Message,
};

/// Whether this message asks for audio or video.
pub fn asks(message: &Message) -> bool {
    let Ok(found) = descriptions(message) else { return true };
    let body = message.body_bytes();
    found.sdp.into_iter().any(|range| {
        let sdp = Sdp::parse(body.slice(range), &SdpBounds::default());
        sdp.map_or(true, |sdp| sdp.media().iter().any(is_av))
    })
}

fn is_av(media: &Media) -> bool {
    let av = matches!(modality_of(media, false), Some(Modality::Audio | Modality::Video));
    av && media.is_on()
}
