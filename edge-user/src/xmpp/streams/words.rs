//! What an operator reads of a refusal: side and step, what was looked at, the certificate's subject
//! where there is one, and what mends it.

use super::{certify, stream::Stream};
use crate::xmpp::io::{TO_MEND, XmppRefusal};

/// All of that; what the text says already is not said again.
pub(super) fn whole(reason: XmppRefusal, stream: Option<&Stream>, text: &str) -> String {
    let mut all = String::new();
    let told = ["the stream from ", "our stream to "].iter().any(|side| text.starts_with(side));
    if let Some(stream) = stream.filter(|_| !told) {
        all.push_str(&stream.describe());
        all.push_str(": ");
    }
    let (check, mend) = text.split_once(TO_MEND).map_or((text, None), |(c, m)| (c, Some(m)));
    all.push_str(check);
    let tls = stream.and_then(|stream| stream.tls.as_ref());
    if let Some(subject) = certify::subject(tls).filter(|subject| !text.contains(subject)) {
        all.push_str("; its certificate: ");
        all.push_str(subject);
    }
    all.push_str(TO_MEND);
    all.push_str(mend.unwrap_or(reason.mend()));
    all
}
