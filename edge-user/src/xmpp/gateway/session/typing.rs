//! Typing: keyboard activity in INFO (Lync), isComposing (RFC 3994), chat states (XEP-0085).

use super::State;
use crate::{
    sip::{Message, Method},
    xmpp::{
        gateway::{
            Gateway, Purpose,
            address::Party,
            content,
            cpim::{Content, IMDN},
            document,
            ua::Reply,
        },
        ns,
        xml::Element,
    },
};

/// RFC 3994.
pub(in crate::xmpp::gateway) const IS_COMPOSING: &str = "application/im-iscomposing+xml";
const IS_COMPOSING_NS: &str = "urn:ietf:params:xml:ns:im-iscomposing";

/// Who types in a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Typing {
    /// The SIP side takes isComposing; else it is told in INFO.
    pub is_composing: bool,
    /// What the SIP side was told last.
    pub to_sip: Option<bool>,
}

impl Gateway {
    /// A MESSAGE that is no message: isComposing, or a report (Lync's, or RFC 5438), of which nobody
    /// asked for one: it is taken and goes no further.
    pub(in crate::xmpp::gateway) fn take_notice(
        &mut self,
        content: &Content<'_>,
        sip: &Party,
        xmpp: &Party,
        thread: Option<&str>,
    ) -> bool {
        match content::media_type(&content.kind).0.as_str() {
            IS_COMPOSING => {
                let document = document::read(content.body);
                let root = document.as_ref().filter(|root| root.is(IS_COMPOSING_NS, "isComposing"));
                let state = root.and_then(|root| root.child(IS_COMPOSING_NS, "state"));
                if let Some(state) = state {
                    let active = state.text().trim() == "active";
                    self.say_state(sip, xmpp, if active { "composing" } else { "paused" }, thread);
                }
                true
            }
            "application/ms-imdn+xml" | IMDN => true,
            _ => false,
        }
    }

    /// INFO of Lync: `<KeyboardActivity><status status="type"/></KeyboardActivity>`.
    pub(super) fn on_info(&mut self, request: &Message, tag: &str, id: u64) {
        let document = document::read(request.body());
        let root = document.as_ref().filter(|root| root.name() == "KeyboardActivity");
        let status = root.and_then(|root| root.children().find(|child| child.name() == "status"));
        let Some(status) = status.and_then(|status| status.attribute("status")) else {
            return self.core.reply_as(
                request,
                tag,
                &Reply::new(415).with("Accept", "application/xml"),
            );
        };
        self.core.reply_as(request, tag, &Reply::new(200));
        let state = if status == "type" { "composing" } else { "paused" };
        if let Some(session) = self.sessions.map.get(&id) {
            let (sip, xmpp, thread) =
                (session.sip.clone(), session.xmpp.clone(), session.thread.clone());
            self.say_state(&sip, &xmpp, state, thread.as_deref());
        }
    }

    /// A MESSAGE within the session of two users, whatever comes of it; `false`: none is up.
    pub(in crate::xmpp::gateway) fn session_notice(
        &mut self,
        sip: &Party,
        xmpp: &Party,
        body: (&str, &[u8]),
    ) -> bool {
        let session = self.session_of(sip, xmpp).and_then(|id| self.sessions.map.get_mut(&id));
        let Some(session) = session.filter(|session| session.state == State::Up) else {
            return false;
        };
        let request = session.dialog.request(Method::Message, Vec::new(), Some(body));
        let _ = self.core.send(&session.xmpp.domain, &request, Purpose::Nothing);
        true
    }

    /// `<gone/>` to the XMPP side.
    pub(super) fn say_gone(&mut self, id: u64) {
        if let Some(session) =
            self.sessions.map.get(&id).filter(|session| session.state == State::Up)
        {
            let (sip, xmpp, thread) =
                (session.sip.clone(), session.xmpp.clone(), session.thread.clone());
            self.say_state(&sip, &xmpp, "gone", thread.as_deref());
        }
    }

    fn say_state(&mut self, sip: &Party, xmpp: &Party, state: &'static str, thread: Option<&str>) {
        let mut stanza =
            Element::new(ns::SERVER, "message").with("id", self.core.fresh()).with("type", "chat");
        if let Some(thread) = thread {
            stanza.push(Element::new(ns::SERVER, "thread").with_text(thread));
        }
        self.core.stanza(sip, xmpp, stanza.with_child(Element::new(ns::CHAT_STATES, state)));
    }

    /// A chat state of an XMPP user, alone or with a message.
    pub(in crate::xmpp::gateway) fn chat_state(
        &mut self,
        sip: &Party,
        xmpp: &Party,
        stanza: &Element,
    ) {
        let Some(state) = stanza.children().find(|child| child.ns() == ns::CHAT_STATES) else {
            return;
        };
        let says_more = stanza.child(ns::SERVER, "body").is_some();
        let Some(id) = self.session_of(sip, xmpp) else {
            if !says_more {
                self.state_without_session(sip, xmpp, (state.name(), stanza));
            }
            return;
        };
        // What the last message began is not ended before the message is there.
        let calling =
            self.sessions.map.get(&id).is_some_and(|session| session.state == State::Calling);
        if calling {
            return;
        }
        let typing = match state.name() {
            "gone" => return self.end_session(id, false),
            "composing" => true,
            // A message ends it on the SIP side.
            "active" if says_more => return,
            "paused" | "active" | "inactive" => false,
            _ => return,
        };
        let Some(session) = self.sessions.map.get_mut(&id) else {
            return;
        };
        let before = session.typing.to_sip.replace(typing);
        if before.unwrap_or(false) == typing {
            return;
        }
        session.xmpp = xmpp.clone();
        let (method, kind, body) = match (session.typing.is_composing, typing) {
            (true, true) => (Method::Message, IS_COMPOSING, is_composing("active")),
            (true, false) => (Method::Message, IS_COMPOSING, is_composing("idle")),
            (false, true) => (Method::Info, "application/xml", keyboard("type")),
            (false, false) => (Method::Info, "application/xml", keyboard("idle")),
        };
        let request = session.dialog.request(method, Vec::new(), Some((kind, body.as_bytes())));
        // Whatever comes of it.
        let _ = self.core.send(&session.xmpp.domain, &request, Purpose::Nothing);
    }
}

pub(in crate::xmpp::gateway) fn is_composing(state: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<isComposing xmlns=\"{IS_COMPOSING_NS}\">\
         <state>{state}</state><contenttype>text/plain</contenttype></isComposing>"
    )
}

fn keyboard(status: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<KeyboardActivity>\r\n  <status status=\"{status}\" />\r\n</KeyboardActivity>"
    )
}
