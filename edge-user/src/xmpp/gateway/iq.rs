//! Questions to the gateway's domains and to users (RFC 6120 section 8.2.3).
//!
//! A user's address answers only those who may see the user's presence; to others it is as if
//! nobody were there (RFC 6121 section 8.5.1, XEP-0030 section 8).

use super::{Gateway, address::Party, errors};
use crate::{
    domain::Domain,
    xmpp::{ns, xml::Element},
};

/// What the gateway does for users.
const USER_FEATURES: &[&str] =
    &[ns::DISCO_INFO, ns::PING, ns::VERSION, ns::CHAT_STATES, ns::RECEIPTS];
/// What the domain does.
const DOMAIN_FEATURES: &[&str] = &[ns::DISCO_INFO, ns::PING, ns::VERSION];

impl Gateway {
    /// An `<iq/>`. `to`: the user it is for; `None`: the domain.
    pub(super) fn on_iq(
        &mut self,
        from: Option<&Party>,
        to: Option<&Party>,
        local: &Domain,
        remote: &Domain,
        stanza: &Element,
    ) {
        if !matches!(stanza.attribute("type"), Some("get" | "set")) {
            return;
        }
        let answer = match self.iq_result(from, to, stanza) {
            Ok(payload) => Some(result(stanza, payload)),
            Err((condition, text)) => {
                self.core.counters.refused_xmpp += 1;
                errors::answer(stanza, condition, text)
            }
        };
        if let Some(answer) = answer {
            self.core.stanza_as(local, remote, answer);
        }
    }

    fn iq_result(
        &self,
        from: Option<&Party>,
        to: Option<&Party>,
        stanza: &Element,
    ) -> Result<Option<Element>, (&'static str, &'static str)> {
        let mut children = stanza.children();
        let (Some(question), None, Some(_)) =
            (children.next(), children.next(), stanza.attribute("id"))
        else {
            return Err(("bad-request", "One question, and an id"));
        };
        let unserved = Err(("service-unavailable", ""));
        if let Some(to) = to {
            let known = from.is_some_and(|from| self.sees_presence(from, to));
            if !known {
                return unserved;
            }
        }
        if stanza.attribute("type") != Some("get") {
            return unserved;
        }
        match (question.ns(), question.name()) {
            (ns::PING, "ping") => Ok(None),
            (ns::DISCO_INFO, "query") if question.attribute("node").is_some() => {
                Err(("item-not-found", ""))
            }
            (ns::DISCO_INFO, "query") => Ok(Some(info(to.is_some()))),
            (ns::VERSION, "query") => {
                let name = Element::new(ns::VERSION, "name").with_text("Edge");
                let version =
                    Element::new(ns::VERSION, "version").with_text(env!("CARGO_PKG_VERSION"));
                Ok(Some(Element::new(ns::VERSION, "query").with_child(name).with_child(version)))
            }
            _ => unserved,
        }
    }
}

fn result(stanza: &Element, payload: Option<Element>) -> Element {
    let mut answer = Element::new(ns::SERVER, "iq")
        .with_some("from", stanza.attribute("to"))
        .with_some("to", stanza.attribute("from"))
        .with_some("id", stanza.attribute("id"))
        .with("type", "result");
    if let Some(payload) = payload {
        answer.push(payload);
    }
    answer
}

fn info(user: bool) -> Element {
    let (category, kind, features) = match user {
        true => ("account", "registered", USER_FEATURES),
        false => ("gateway", "simple", DOMAIN_FEATURES),
    };
    let identity =
        Element::new(ns::DISCO_INFO, "identity").with("category", category).with("type", kind);
    let mut query = Element::new(ns::DISCO_INFO, "query").with_child(identity);
    for feature in features {
        query.push(Element::new(ns::DISCO_INFO, "feature").with("var", *feature));
    }
    query
}
