//! Modalities: what a call or a request is for, and whether that is allowed.
//!
//! Pure: which modalities are allowed is the configuration's to say
//! ([`crate::federation::Policy::modalities`]); what befalls a forbidden m-line is the caller's to
//! do (port 0, RFC 3264 section 6, or a refusal of the whole).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    body::{BodyFault, descriptions},
    sdp::{Media, MediaKind, Sdp},
};
use crate::sip::{HeaderName, Message, Method};

/// What people do with one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Messages.
    Im,
    /// Who is there.
    Presence,
    /// Speech.
    Audio,
    /// Pictures that move.
    Video,
    /// Shared screens and applications, meeting data.
    WebConferencing,
    /// Files.
    FileTransfer,
}

impl Modality {
    /// All of them.
    pub const ALL: &'static [Modality] = &[
        Modality::Im,
        Modality::Presence,
        Modality::Audio,
        Modality::Video,
        Modality::WebConferencing,
        Modality::FileTransfer,
    ];

    /// As the file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Modality::Im => "im",
            Modality::Presence => "presence",
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::WebConferencing => "web-conferencing",
            Modality::FileTransfer => "file-transfer",
        }
    }
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No modality has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of im, presence, audio, video, web-conferencing, file-transfer")]
pub struct UnknownModality;

impl FromStr for Modality {
    type Err = UnknownModality;

    fn from_str(text: &str) -> Result<Self, UnknownModality> {
        Self::ALL.iter().copied().find(|one| one.name() == text).ok_or(UnknownModality)
    }
}

/// A set of them. All, unless somebody says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Modalities(u8);

impl Modalities {
    /// Every modality, and what is none that we know.
    pub const ALL: Self = Self((1 << Modality::ALL.len()) - 1);
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it is among them.
    pub const fn contains(self, modality: Modality) -> bool {
        self.0 & (1 << modality as u8) != 0
    }

    /// Those of both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// With one more.
    pub const fn with(self, modality: Modality) -> Self {
        Self(self.0 | (1 << modality as u8))
    }

    /// Without one.
    pub const fn without(self, modality: Modality) -> Self {
        Self(self.0 & !(1 << modality as u8))
    }

    /// As a byte, for tokens.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// The reverse.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte & Self::ALL.0)
    }

    /// Each.
    pub fn iter(self) -> impl Iterator<Item = Modality> {
        Modality::ALL.iter().copied().filter(move |modality| self.contains(*modality))
    }

    /// Whether nothing is forbidden.
    pub const fn is_all(self) -> bool {
        self.0 == Self::ALL.0
    }

    /// Whether this is allowed; `None`: something that no modality is, which needs all of them.
    pub const fn allows(self, modality: Option<Modality>) -> bool {
        match modality {
            Some(modality) => self.contains(modality),
            None => self.is_all(),
        }
    }
}

impl Default for Modalities {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Modality> for Modalities {
    fn from_iter<T: IntoIterator<Item = Modality>>(modalities: T) -> Self {
        modalities.into_iter().fold(Self::NONE, Self::with)
    }
}

/// `im, audio`.
impl fmt::Display for Modalities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, modality) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{modality}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Modalities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Modalities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Modality>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// What an m-line is for; `None`: nothing that we know. `file_part`: the message offers a file
/// beside it ([`super::body::Descriptions::file_transfer`]).
pub fn modality_of(media: &Media, file_part: bool) -> Option<Modality> {
    if media.file_transfer {
        return Some(Modality::FileTransfer);
    }
    match media.kind {
        MediaKind::Audio => Some(Modality::Audio),
        MediaKind::Video => Some(Modality::Video),
        MediaKind::Message | MediaKind::Text => Some(Modality::Im),
        MediaKind::Data if file_part => Some(Modality::FileTransfer),
        MediaKind::ApplicationSharing | MediaKind::Data | MediaKind::Application => {
            Some(Modality::WebConferencing)
        }
        MediaKind::Image | MediaKind::Other => None,
    }
}

/// What becomes of a session description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Nothing in it is forbidden.
    AllAllowed,
    /// These m-lines, from 0, are forbidden and others are not.
    SomeForbidden(Vec<usize>),
    /// Every m-line that is on is forbidden. The first is for this; `None`: for nothing that we
    /// know.
    NoneAllowed(Option<Modality>),
}

/// Judges a session description: an offer, and its answer too. M-lines that are off count for
/// nothing; those that are part of a bundle only are on (RFC 8843 section 6).
pub fn judge(sdp: &Sdp, file_part: bool, allowed: Modalities) -> Judged {
    let on = sdp.media().iter().enumerate().filter(|(_, media)| media.is_on());
    let (mut forbidden, mut first, mut good) = (Vec::new(), None, false);
    for (at, media) in on {
        let modality = modality_of(media, file_part);
        if allowed.allows(modality) {
            good = true;
        } else {
            first.get_or_insert(modality);
            forbidden.push(at);
        }
    }
    match first {
        None => Judged::AllAllowed,
        Some(_) if good => Judged::SomeForbidden(forbidden),
        Some(first) => Judged::NoneAllowed(first),
    }
}

/// What a message is for without regard to session descriptions; `None`: nothing of its own
/// (an INVITE is for what its descriptions say, a BYE for nothing). A fault: it has parts that
/// cannot be read, so it may be for anything.
pub fn modality_of_message(message: &Message) -> Result<Option<Modality>, BodyFault> {
    let has = |is: &dyn Fn(&str, &str) -> bool| {
        message.headers(HeaderName::ContentType).any(|header| {
            let kind = std::str::from_utf8(header.value).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().to_ascii_lowercase();
            kind.split_once('/').is_some_and(|(main, sub)| is(main.trim(), sub.trim()))
        })
    };
    // Communicator invites to send files in messages; Lync says what becomes of them in INFO.
    let files = [("text", "x-msmsgsinvite"), ("application", "ms-filetransfer+xml")];
    if has(&|main, sub| files.contains(&(main, sub))) {
        return Ok(Some(Modality::FileTransfer));
    }
    let Some(method) = message.method() else { return Ok(None) };
    if has(&|main, _| main == "multipart") && file_among_parts(method, message)? {
        return Ok(Some(Modality::FileTransfer));
    }
    Ok(match method {
        Method::Message => Some(Modality::Im),
        method if is_of_event(method) => message
            .text(HeaderName::Event)
            .filter(|event| is_presence(event))
            .map(|_| Modality::Presence),
        _ => None,
    })
}

/// Whether a message of several parts is about a file.
fn file_among_parts(method: Method<'_>, message: &Message) -> Result<bool, BodyFault> {
    match method {
        // Their body does not say what they are for.
        Method::Bye | Method::Cancel => Ok(false),
        method if is_of_event(method) => Ok(false),
        // A file beside a description is judged with it, and so is what cannot be read.
        Method::Invite | Method::Update | Method::Prack | Method::Ack => {
            Ok(descriptions(message).is_ok_and(|found| found.file_transfer && found.sdp.is_empty()))
        }
        _ => Ok(descriptions(message)?.file_transfer),
    }
}

/// Whether a method tells of an event or asks for it.
pub fn is_of_event(method: Method<'_>) -> bool {
    matches!(method, Method::Subscribe | Method::Notify | Method::Benotify | Method::Publish)
}

/// Whether an event package is about people: presence, who watches it (RFC 3857), and what Lync
/// keeps of contacts and of one's own devices.
fn is_presence(event: &str) -> bool {
    let package = event.split(';').next().unwrap_or_default().trim();
    let base = package.split('.').next().unwrap_or_default();
    base.eq_ignore_ascii_case("presence")
        || package.get(..14).is_some_and(|head| head.eq_ignore_ascii_case("vnd-microsoft-"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{media::sdp::SdpBounds, sip::Limits};

    fn sdp(lines: &[&str]) -> Sdp {
        let head = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1"];
        let text: String = head.iter().chain(lines).map(|line| format!("{line}\r\n")).collect();
        Sdp::parse(Bytes::from(text), &SdpBounds::default()).unwrap()
    }

    const AUDIO: &str = "m=audio 4000 RTP/AVP 0";
    const VIDEO: &str = "m=video 4002 RTP/AVP 31";
    const SHARING: &str = "m=applicationsharing 4004 TCP/RTP/SAVP 127";
    const IM: &str = "m=message 5060 sip null";

    #[test]
    fn an_m_line_is_for_one_thing() {
        use Modality::*;
        let rows: &[(&[&str], Option<Modality>)] = &[
            (&[AUDIO], Some(Audio)),
            (&[VIDEO], Some(Video)),
            (&[SHARING], Some(WebConferencing)),
            (&["m=data 4000 TCP/RTP/AVP x"], Some(WebConferencing)),
            (&["m=application 9 UDP/DTLS/SCTP webrtc-datachannel"], Some(WebConferencing)),
            (&[IM], Some(Im)),
            (&["m=x-ms-message 5060 sip null"], Some(Im)),
            (&["m=text 4000 RTP/AVP 98"], Some(Im)),
            (&["m=message 4000 TCP/MSRP *"], Some(Im)),
            (&["m=message 4000 TCP/MSRP *", "a=file-selector:name:\"x\""], Some(FileTransfer)),
            (&["m=image 4000 udptl t38"], None),
            (&["m=control 4000 udp x"], None),
        ];
        for (lines, expected) in rows {
            assert_eq!(modality_of(&sdp(lines).media()[0], false), *expected, "{lines:?}");
        }
        let data = sdp(&["m=data 4000 TCP/RTP/AVP x"]);
        assert_eq!(modality_of(&data.media()[0], true), Some(FileTransfer));
        assert_eq!(modality_of(&sdp(&[AUDIO]).media()[0], true), Some(Audio));
    }

    #[test]
    fn each_modality_is_forbidden_alone_and_with_others() {
        for (line, modality) in [
            (AUDIO, Some(Modality::Audio)),
            (VIDEO, Some(Modality::Video)),
            (SHARING, Some(Modality::WebConferencing)),
            (IM, Some(Modality::Im)),
            ("m=image 4000 udptl t38", None),
        ] {
            let allowed = modality.map_or(Modalities::ALL, |one| Modalities::ALL.without(one));
            let allowed = allowed.without(Modality::FileTransfer);
            let other = if modality == Some(Modality::Audio) { VIDEO } else { AUDIO };
            let judged = |lines: &[&str]| judge(&sdp(lines), false, allowed);
            assert_eq!(judged(&[line]), Judged::NoneAllowed(modality), "{line}");
            assert_eq!(judged(&[line, line]), Judged::NoneAllowed(modality), "{line}");
            assert_eq!(judged(&[other, line]), Judged::SomeForbidden(vec![1]), "{line}");
            assert_eq!(judged(&[line, other, line]), Judged::SomeForbidden(vec![0, 2]), "{line}");
            assert_eq!(judged(&[other]), Judged::AllAllowed, "{other}");
            let everything = judge(&sdp(&[line]), false, Modalities::ALL);
            assert_eq!(everything, Judged::AllAllowed, "{line}");
        }
    }

    #[test]
    fn what_is_off_counts_for_nothing_and_what_hides_in_a_bundle_counts() {
        let allowed = Modalities::ALL.without(Modality::Video);
        let judged = |lines: &[&str]| judge(&sdp(lines), false, allowed);
        assert_eq!(judged(&["m=video 0 RTP/AVP 31"]), Judged::AllAllowed);
        assert_eq!(judged(&[]), Judged::AllAllowed);
        let hidden = ["m=video 0 RTP/AVP 31", "a=bundle-only"];
        assert_eq!(judged(&hidden), Judged::NoneAllowed(Some(Modality::Video)));
        let beside = ["m=video 0 RTP/AVP 31", "a=bundle-only", AUDIO];
        assert_eq!(judged(&beside), Judged::SomeForbidden(vec![0]));
    }

    #[test]
    fn a_message_is_for_what_its_method_and_type_say() {
        use Modality::*;
        let rows: &[(&str, &str, Option<Modality>)] = &[
            ("MESSAGE", "c: text/plain", Some(Im)),
            ("MESSAGE", "c: text/x-msmsgsinvite; charset=UTF-8", Some(FileTransfer)),
            ("INFO", "c: application/ms-filetransfer+xml", Some(FileTransfer)),
            ("INFO", "c: application/xml", None),
            ("SUBSCRIBE", "Event: presence", Some(Presence)),
            ("SUBSCRIBE", "o: Presence.winfo;id=1", Some(Presence)),
            ("SUBSCRIBE", "Event: vnd-microsoft-roaming-contacts", Some(Presence)),
            ("SUBSCRIBE", "Event: presencex", None),
            ("SUBSCRIBE", "Event: conference", None),
            ("NOTIFY", "Event: presence", Some(Presence)),
            ("BENOTIFY", "Event: presence", Some(Presence)),
            ("NOTIFY", "Event: refer", None),
            ("PUBLISH", "Event: presence", Some(Presence)),
            ("INVITE", "c: application/sdp", None),
            ("BYE", "Event: presence", None),
        ];
        for (method, head, expected) in rows {
            let text = format!(
                "{method} sip:a@b.example SIP/2.0\r\n\
                 Via: SIP/2.0/TLS h.example;branch=z9hG4bK1\r\nFrom: <sip:a@b.example>;tag=1\r\n\
                 To: <sip:a@b.example>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\n{head}\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            let message = Message::parse_datagram(text.into(), &Limits::default()).unwrap();
            assert_eq!(modality_of_message(&message), Ok(*expected), "{method} {head}");
        }
    }

    #[test]
    fn a_file_among_other_parts_is_seen_and_parts_that_cannot_be_read_are_for_anything() {
        use Modality::*;
        const INVITE: &str = "text/x-msmsgsinvite";
        const XML: &str = "application/ms-filetransfer+xml";
        type Found = Result<Option<Modality>, BodyFault>;
        let rows: &[(&str, &[&str], bool, Found)] = &[
            ("MESSAGE", &["text/plain", "text/rtf"], true, Ok(Some(Im))),
            ("MESSAGE", &["text/plain", INVITE], true, Ok(Some(FileTransfer))),
            ("MESSAGE", &["text/plain"], false, Err(BodyFault::Unfinished)),
            ("INFO", &["text/plain", XML], true, Ok(Some(FileTransfer))),
            ("INFO", &["application/sdp", XML], true, Ok(Some(FileTransfer))),
            ("INFO", &["text/plain"], true, Ok(None)),
            ("REFER", &["text/plain"], false, Err(BodyFault::Unfinished)),
            ("INVITE", &["application/sdp", XML], true, Ok(None)),
            ("INVITE", &["text/plain", XML], true, Ok(Some(FileTransfer))),
            ("INVITE", &["application/sdp"], false, Ok(None)),
            ("NOTIFY", &["application/rlmi+xml"], false, Ok(Some(Presence))),
            ("BYE", &["text/plain"], false, Ok(None)),
        ];
        for (method, parts, whole, expected) in rows {
            let parts = parts.iter().map(|kind| format!("--b1\r\nc: {kind}\r\n\r\nx\r\n"));
            let mut body = parts.collect::<String>();
            body.push_str(if *whole { "--b1--\r\n" } else { "" });
            let text = format!(
                "{method} sip:a@b.example SIP/2.0\r\n\
                 Via: SIP/2.0/TLS h.example;branch=z9hG4bK1\r\nFrom: <sip:a@b.example>;tag=1\r\n\
                 To: <sip:a@b.example>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\nEvent: presence\r\n\
                 Content-Type: Multipart / mixed ;boundary=b1\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let message = Message::parse_datagram(text.clone().into(), &Limits::default()).unwrap();
            assert_eq!(modality_of_message(&message), *expected, "{text}");
        }
    }

    #[test]
    fn sets_are_written_as_the_file_writes_them() {
        let some: Modalities = [Modality::Audio, Modality::Im].into_iter().collect();
        assert_eq!(some.to_string(), "im, audio");
        let json = serde_json::to_string(&some).unwrap();
        assert_eq!(json, r#"["im","audio"]"#);
        assert_eq!(serde_json::from_str::<Modalities>(&json).unwrap(), some);
        assert_eq!(Modalities::default(), Modalities::ALL);
        for modality in Modality::ALL {
            assert_eq!(modality.name().parse(), Ok(*modality));
            assert!(Modalities::ALL.contains(*modality));
            assert!(!Modalities::NONE.contains(*modality));
        }
        assert!(Modality::ALL.iter().copied().collect::<Modalities>().is_all());
    }
}
