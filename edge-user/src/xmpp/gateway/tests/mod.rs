//! The gateway played through in virtual time: a SIP user `ann@contoso.example` inside, an XMPP user
//! `rob@montague.example` outside.

mod any;
mod iqs;
mod messages;
mod policy;
mod reports;
mod sessions;
mod typing;
mod watchers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::*;
use crate::{
    config::{Federation, Rights, UserPattern, UserPolicy},
    federation::Policy,
    sip::{Limits, NameAddr},
    xmpp::{
        io::XmppEvent,
        ns,
        settings::{Chats, Negotiation, XmppLimits, XmppPartner, XmppPartnerKind, XmppSettings},
    },
};

pub(super) fn domain(name: &str) -> Domain {
    name.parse().unwrap()
}

/// Everyone in contoso.example may use XMPP, but for `noxmpp`.
pub(super) fn policy(kind: XmppPartnerKind) -> XmppPolicy {
    let contoso = domain("contoso.example");
    let rights = |xmpp| Rights { xmpp, ..Rights::default() };
    let users = vec![
        UserPolicy {
            users: vec![UserPattern::User("noxmpp".to_owned(), contoso.clone())],
            rights: rights(false),
        },
        UserPolicy { users: vec![UserPattern::Domain(contoso.clone())], rights: rights(true) },
    ];
    let federation = Federation { enabled: true, users, ..Federation::default() };
    let partner = |name: &str, kind| {
        let sasl = Negotiation::Optional;
        Arc::new(XmppPartner { kind, sasl, ..XmppPartner::new(domain(name)) })
    };
    let settings = XmppSettings {
        enabled: true,
        domains: vec![contoso.clone(), domain("jabber.contoso.example")],
        inside: vec![(
            vec![domain("jabber.contoso.example")],
            (domain("xmpp.contoso.example"), 5269),
        )],
        chats: Chats::default(),
        partners: vec![
            partner("montague.example", kind),
            partner("other.example", XmppPartnerKind::Federated),
        ],
        limits: XmppLimits { refresh: Duration::from_secs(3600), ..XmppLimits::default() },
    };
    XmppPolicy {
        settings: Arc::new(settings),
        federation: Arc::new(Policy::new(&[contoso], &federation)),
    }
}

/// montague.example is second.example, too.
pub(super) fn two_domains(policy: &mut XmppPolicy) {
    let settings = Arc::make_mut(&mut policy.settings);
    Arc::make_mut(&mut settings.partners[0]).additional = vec![domain("second.example")];
}

/// A gateway, its clock, and what it said.
pub(super) struct World {
    pub gateway: Gateway,
    pub now: Instant,
    pub sip: Vec<Message>,
    pub stanzas: Vec<Element>,
    pub events: Vec<XmppRefusal>,
    branches: u32,
}

/// A request in the making.
pub(super) struct Ask {
    pub method: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn new(method: &'static str) -> Self {
        Self {
            method,
            from: "sip:ann@contoso.example",
            to: "sip:rob@montague.example",
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }

    pub fn text(mut self, body: &str) -> Self {
        self.headers.push("Content-Type: text/plain".to_owned());
        self.body = body.as_bytes().to_vec();
        self
    }

    pub fn body(mut self, kind: &str, body: &[u8]) -> Self {
        self.headers.push(format!("Content-Type: {kind}"));
        self.body = body.to_vec();
        self
    }
}

pub(super) fn parse(bytes: impl Into<Bytes>) -> Message {
    let message = Message::parse_datagram(bytes.into(), &Limits::default()).unwrap();
    message.validate().unwrap();
    message
}

pub(super) fn text<'m>(message: &'m Message, name: &str) -> &'m str {
    let header = message.headers_named(name).next();
    header.map(|header| std::str::from_utf8(header.value).unwrap()).unwrap_or_default()
}

impl World {
    pub fn new() -> Self {
        Self::of(policy(XmppPartnerKind::Federated), GatewayLimits::default())
    }

    pub fn of(policy: XmppPolicy, limits: GatewayLimits) -> Self {
        let now = Instant::now();
        let host = domain("gw.contoso.example");
        let config = GatewayConfig { host, policy, secret: [7; 32], limits };
        Self {
            gateway: Gateway::new(now, config),
            now,
            sip: Vec::new(),
            stanzas: Vec::new(),
            events: Vec::new(),
            branches: 0,
        }
    }

    fn sort(&mut self, out: Vec<GatewayOutput>) {
        for output in out {
            match output {
                GatewayOutput::Sip(bytes) => self.sip.push(parse(bytes)),
                GatewayOutput::Stanza { pair, stanza } => {
                    let of = |name: &str| domain_of(stanza.attribute(name).unwrap()).unwrap();
                    assert_eq!((of("from"), of("to")), (pair.local, pair.remote));
                    self.stanzas.push(stanza);
                }
                GatewayOutput::Event(XmppEvent::Refused { reason, text, .. }) => {
                    assert!(text.contains(crate::xmpp::io::TO_MEND), "{text}");
                    self.events.push(reason);
                }
                GatewayOutput::Event(_) => {}
            }
        }
    }

    pub fn input(&mut self, input: GatewayInput) {
        let mut out = Vec::new();
        self.gateway.handle(self.now, input, &mut out);
        self.sort(out);
    }

    /// Time goes by, and what is due is done when it is due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(when) = self.gateway.next_timeout().filter(|when| *when <= end) {
            self.now = self.now.max(when);
            let mut out = Vec::new();
            self.gateway.on_timeout(self.now, &mut out);
            self.sort(out);
        }
        self.now = end;
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// A request of the SIP side, outside of dialogs.
    pub fn ask(&mut self, ask: Ask) {
        let from = format!("<{}>;tag=f1", ask.from);
        let to = format!("<{}>", ask.to);
        self.send(&ask, ask.to, &from, &to, "call-1@inside", 1);
    }

    pub fn send(&mut self, ask: &Ask, uri: &str, from: &str, to: &str, call_id: &str, cseq: u32) {
        self.branches += 1;
        let mut request = format!(
            "{} {uri} SIP/2.0\r\nVia: SIP/2.0/TCP inside.contoso.example;branch=z9hG4bKi{}\r\n\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {}\r\nContact: <sip:ann@10.0.0.9:5061;transport=tls>\r\n",
            ask.method, self.branches, ask.method
        );
        for header in &ask.headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n", ask.body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(&ask.body);
        let message = Message::parse_datagram(bytes.into(), &Limits::default()).unwrap();
        self.input(GatewayInput::Sip(message));
    }

    /// A request of the SIP side in the dialog that a request of ours began.
    pub fn ask_back(&mut self, ours: &Message, ask: Ask, cseq: u32) {
        let from = format!("{};tag=inside", text(ours, "To").split(";tag=").next().unwrap());
        let to = text(ours, "From").to_owned();
        let call_id = ours.call_id().unwrap().to_owned();
        self.send(&ask, "sip:rob@montague.example", &from, &to, &call_id, cseq);
    }

    /// An answer to a request of ours.
    pub fn respond(&mut self, request: &Message, status: u16, headers: &[(&str, &str)]) {
        use crate::sip::build::{Response, response};
        let bytes = response(
            request,
            &Response {
                status,
                reason: "As told",
                to_tag: Some("inside"),
                received: None,
                headers,
            },
        );
        self.input(GatewayInput::Sip(parse(bytes.unwrap())));
    }

    /// A 200 to an INVITE of ours, with this description.
    pub fn respond_with(&mut self, invite: &Message, sdp: &[u8]) {
        let text = |name| text(invite, name).to_owned();
        let mut bytes = format!(
            "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=inside\r\nCall-ID: {}\r\n\
             CSeq: {}\r\nContact: <sip:ann@10.0.0.9:5061;transport=tls>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
            text("Via"),
            text("From"),
            text("To"),
            text("Call-ID"),
            text("CSeq"),
            sdp.len()
        )
        .into_bytes();
        bytes.extend_from_slice(sdp);
        self.input(GatewayInput::Sip(parse(bytes)));
    }

    /// A stanza of rob for ann.
    pub fn stanza(&mut self, stanza: Element) {
        let from = stanza.attribute("from").unwrap_or("rob@montague.example/balcony").to_owned();
        let to = stanza.attribute("to").unwrap_or("ann@contoso.example").to_owned();
        let pair = Pair { local: domain_of(&to).unwrap(), remote: domain_of(&from).unwrap() };
        let stanza = stanza.with("from", from).with("to", to);
        self.input(GatewayInput::Stanza { pair, stanza });
    }

    /// The only SIP message since the last look.
    pub fn one_sip(&mut self) -> Message {
        assert_eq!(self.sip.len(), 1, "{:?}", self.sip);
        self.sip.pop().unwrap()
    }

    /// The only stanza since the last look.
    pub fn one_stanza(&mut self) -> Element {
        assert_eq!(self.stanzas.len(), 1, "{:?}", self.stanzas);
        self.stanzas.pop().unwrap()
    }

    /// What was said so far is not looked at.
    pub fn forget(&mut self) {
        self.sip.clear();
        self.stanzas.clear();
    }

    pub fn silent(&mut self) {
        assert!(self.sip.is_empty(), "{:?}", self.sip);
        assert!(self.stanzas.is_empty(), "{:?}", self.stanzas);
    }

    /// The status of the only SIP message.
    pub fn status(&mut self) -> u16 {
        self.one_sip().status().unwrap()
    }
}

pub(super) fn presence(kind: Option<&'static str>) -> Element {
    Element::new(ns::SERVER, "presence").with_some("type", kind)
}

pub(super) fn message(body: &str) -> Element {
    let body = Element::new(ns::SERVER, "body").with_text(body);
    Element::new(ns::SERVER, "message").with("id", "m1").with("type", "chat").with_child(body)
}

pub(super) fn condition(stanza: &Element) -> &'static str {
    assert_eq!(stanza.attribute("type"), Some("error"), "{stanza:?}");
    errors::read(stanza).0
}

pub(super) fn uri_of(value: &str) -> String {
    NameAddr::parse(value.as_bytes()).unwrap().uri.as_str().to_owned()
}
