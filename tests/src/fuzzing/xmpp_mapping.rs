//! Any text as an address of either side, and any stanza or body given to the gateway. What must
//! hold: an address that is taken is the same user when it is read again from either side, with no
//! character in it that ends a header or a stanza; what the gateway says is one well-formed message
//! or a stanza that the guard reads as it was written.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use edge_user::{
    config::{Federation, Rights, UserPattern, UserPolicy},
    domain::Domain,
    federation::Policy,
    sip::{Limits, Message, Uri},
    xmpp::{
        gateway::{
            Gateway, GatewayConfig, GatewayLimits,
            address::{Party, domain_of},
            io::{GatewayInput, GatewayOutput},
        },
        io::Pair,
        settings::{XmppLimits, XmppPartner, XmppPartnerKind, XmppPolicy, XmppSettings},
        xml::{Element, XmlEvent, XmlLimits, XmlReader},
    },
};

const HEADER: &str =
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>";
const KINDS: [&str; 8] = [
    "text/plain",
    "text/html",
    "application/pidf+xml",
    "application/im-iscomposing+xml",
    "message/imdn+xml",
    "multipart/mixed;boundary=b",
    "application/sdp",
    "message/cpim",
];

fn domain(name: &str) -> Domain {
    name.parse().expect("a domain name")
}

fn policy() -> XmppPolicy {
    let contoso = domain("contoso.example");
    let rights = Rights { xmpp: true, ..Rights::default() };
    let users = vec![UserPolicy { users: vec![UserPattern::Domain(contoso.clone())], rights }];
    let federation = Federation { enabled: true, users, ..Federation::default() };
    let partner = XmppPartner {
        kind: XmppPartnerKind::Federated,
        ..XmppPartner::new(domain("montague.example"))
    };
    let settings = XmppSettings {
        enabled: true,
        domains: vec![contoso.clone()],
        inside: Vec::new(),
        chats: Default::default(),
        partners: vec![Arc::new(partner)],
        limits: XmppLimits::default(),
    };
    let federation = Arc::new(Policy::new(&[contoso], &federation));
    XmppPolicy { settings: Arc::new(settings), federation }
}

fn addresses(text: &str) {
    let from_sip = Uri::parse(text).ok().and_then(|uri| Party::of_uri(&uri).ok());
    for party in from_sip.into_iter().chain(Party::of_jid(text).ok()) {
        let (jid, sip) = (party.full_jid(), party.full_sip());
        assert!(sip.bytes().all(|byte| byte.is_ascii_graphic()), "{sip:?}");
        assert_eq!(sip.matches('@').count(), 1, "{sip:?}");
        assert!(!sip.contains(['<', '>', '"']), "{sip:?}");
        assert!(!jid.contains(['\r', '\n', '\0']), "{jid:?}");
        assert_eq!(domain_of(&jid).ok().as_ref(), Some(&party.domain), "{jid:?}");
        let again = Party::of_jid(&jid).expect("a JID that we wrote");
        assert!(again.is_user(&party) && again.domain == party.domain, "{jid:?}");
        // SIP knows no host whose last label begins with a digit (RFC 3261 section 25.1).
        if !party
            .domain
            .as_str()
            .rsplit('.')
            .next()
            .is_some_and(|last| last.starts_with(|first: char| first.is_ascii_alphabetic()))
        {
            continue;
        }
        let uri = Uri::parse(&sip).expect("a URI that we wrote");
        let again = Party::of_uri(&uri).expect("a user that we wrote");
        assert!(again.is_user(&party) && again.resource == party.resource, "{sip:?}");
    }
}

fn stanza(text: &[u8]) -> Option<Element> {
    let bytes = [HEADER.as_bytes(), text].concat();
    let mut reader = XmlReader::new(XmlLimits::new(&XmppLimits::default()), usize::MAX);
    let mut rest = &bytes[..];
    reader.next(&mut rest).ok()??;
    // The gateway hears only what was proved.
    reader.lift();
    match reader.next(&mut rest).ok()?? {
        XmlEvent::Stanza(stanza) => Some(stanza),
        _ => None,
    }
}

fn check(out: &mut Vec<GatewayOutput>) -> Vec<Message> {
    let mut messages = Vec::new();
    for output in out.drain(..) {
        match output {
            GatewayOutput::Sip(bytes) => {
                let message = Message::parse_datagram(bytes, &Limits::default());
                let message = message.expect("a message");
                message.validate().expect("a valid message");
                messages.push(message);
            }
            GatewayOutput::Stanza { stanza: said, .. } => {
                let mut bytes = Vec::new();
                said.write(&mut bytes);
                let text = String::from_utf8_lossy(&bytes);
                assert_eq!(stanza(&bytes).as_ref(), Some(&said), "{text}");
            }
            GatewayOutput::Event(_) => {}
        }
    }
    messages
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    let [choice, rest @ ..] = data else { return };
    if let Ok(text) = std::str::from_utf8(rest) {
        addresses(text);
    }
    let now = Instant::now();
    let config = GatewayConfig {
        host: domain("edge.contoso.example"),
        policy: policy(),
        secret: [7; 32],
        limits: GatewayLimits::default(),
    };
    let mut gateway = Gateway::new(now, config);
    let mut out = Vec::new();
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    if let Some(mut stanza) = stanza(rest) {
        stanza.set("from", "rob@montague.example/lab");
        stanza.set("to", "ann@contoso.example");
        gateway.handle(now, GatewayInput::Stanza { pair, stanza }, &mut out);
        check(&mut out);
    }
    let method = if choice & 8 == 0 { "MESSAGE" } else { "INVITE" };
    let head = format!(
        "{method} sip:rob@montague.example SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKx\r\n\
         Max-Forwards: 70\r\nFrom: <sip:ann@contoso.example>;tag=f\r\n\
         To: <sip:rob@montague.example>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:ann@10.0.0.1>\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        KINDS[usize::from(*choice) % KINDS.len()],
        rest.len()
    );
    let bytes = Bytes::from([head.as_bytes(), rest].concat());
    if let Ok(message) = Message::parse_datagram(bytes, &Limits::default()) {
        gateway.handle(now, GatewayInput::Sip(message), &mut out);
        check(&mut out);
    }
}
