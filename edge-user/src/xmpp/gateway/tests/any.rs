//! Anything at all, in any order: every request has one final answer, all that is said is well
//! formed, and no state is without a bound.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::xmpp::xml::{XmlEvent, XmlLimits, XmlReader};

/// One step.
#[derive(Clone, Debug)]
enum Step {
    /// A request: method, users, headers, body, and whether in a dialog of the gateway's.
    Ask {
        method: usize,
        users: (usize, usize),
        header: usize,
        body: usize,
        dialog: Option<usize>,
        cseq: u32,
    },
    /// An answer to a request of the gateway's.
    Respond { which: usize, status: u16, header: usize, body: usize },
    /// A stanza.
    Stanza { kind: usize, users: (usize, usize), child: usize, id: usize },
    /// A stanza of the gateway's comes back.
    Undelivered { which: usize, condition: usize },
    /// Time.
    Pass(u32),
    /// Another policy.
    Policy(bool),
}

const METHODS: &[&str] = &[
    "MESSAGE",
    "INVITE",
    "SUBSCRIBE",
    "NOTIFY",
    "BENOTIFY",
    "BYE",
    "ACK",
    "CANCEL",
    "INFO",
    "UPDATE",
    "OPTIONS",
    "REFER",
    "PRACK",
    "FOO",
];
const SIP_USERS: &[&str] = &[
    "sip:ann@contoso.example",
    "sip:Bea@contoso.example;gr=x",
    "sip:noxmpp@contoso.example",
    "sip:a%40b@contoso.example",
    "sip:a%0d@contoso.example",
    "sip:contoso.example",
];
const XMPP_USERS: &[&str] = &[
    "sip:rob@montague.example",
    "sip:eve@montague.example;gr=a",
    "sip:rob@other.example",
    "sip:rob@nobody.example",
    "tel:+1",
];
const HEADERS: &[&str] = &[
    "X: y",
    "Event: presence\r\nExpires: 0",
    "Event: presence\r\nSubscription-State: active;expires=60",
    "Event: presence\r\nSubscription-State: terminated;reason=deactivated",
    "Event: presence\r\nSubscription-State: terminated",
    "Event: presence;id=9\r\nExpires: 600\r\nAccept: */*",
    "Event: presence\r\nExpires: 99999999999",
    "Require: x",
    "Record-Route: <sip:p.contoso.example;lr>\r\nSubject: a",
    "ms-text-format: text/plain; charset=UTF-8;msgr=WAA;ms-body=SGk=",
];
const BODIES: &[(&str, &str)] = &[
    ("text/plain", ""),
    ("text/plain", "hi"),
    ("text/html", "<b>hi"),
    (
        "application/pidf+xml",
        "<presence xmlns='urn:ietf:params:xml:ns:pidf'><tuple id='a'><status><basic>open</basic></status></tuple></presence>",
    ),
    ("application/pidf+xml", "<presence"),
    (
        "application/sdp",
        "v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=message 5060 sip null\r\n",
    ),
    (
        "application/sdp",
        "v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5060 RTP/AVP 0\r\n",
    ),
    ("application/sdp", "nonsense"),
    ("application/xml", "<KeyboardActivity><status status=\"type\"/></KeyboardActivity>"),
    (
        "application/im-iscomposing+xml",
        "<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>active</state></isComposing>",
    ),
    ("multipart/mixed;boundary=x", "--x\r\n\r\nhi\r\n--x--"),
];
const KINDS: &[(&str, &str)] = &[
    ("message", ""),
    ("message", "chat"),
    ("message", "error"),
    ("message", "groupchat"),
    ("presence", ""),
    ("presence", "unavailable"),
    ("presence", "subscribe"),
    ("presence", "subscribed"),
    ("presence", "unsubscribe"),
    ("presence", "unsubscribed"),
    ("presence", "probe"),
    ("presence", "error"),
    ("presence", "odd"),
    ("iq", "get"),
    ("iq", "set"),
    ("odd", ""),
];
const FROM: &[&str] = &[
    "rob@montague.example/a",
    "rob@montague.example",
    "eve@montague.example/b",
    "montague.example",
    "rob@nobody.example",
    "\\20x@montague.example",
];
const TO: &[&str] = &[
    "ann@contoso.example",
    "bea@contoso.example/x",
    "noxmpp@contoso.example",
    "contoso.example",
    "a\\40b@contoso.example",
];

fn child(which: usize, id: &str) -> Element {
    let body = |text: String| Element::new(ns::SERVER, "body").with_text(text);
    match which {
        0 => body("hi".to_owned()),
        1 => body("x".repeat(2000)),
        2 => Element::new(ns::RECEIPTS, "received").with("id", id),
        3 => Element::new(ns::RECEIPTS, "request"),
        4 => Element::new(ns::CHAT_STATES, "composing"),
        5 => Element::new(ns::CHAT_STATES, "gone"),
        6 => errors::element("item-not-found", "no\r\none"),
        7 => Element::new(ns::SERVER, "status").with_text("\u{1}\u{fffe}x"),
        8 => Element::new(ns::PING, "ping"),
        _ => Element::new(ns::SERVER, "thread").with_text("call-1@inside"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let users = || (0..SIP_USERS.len(), 0..XMPP_USERS.len());
    prop_oneof![
        6 => (0..METHODS.len(), users(), 0..HEADERS.len(), 0..BODIES.len(), proptest::option::of(any::<usize>()), 1..20u32)
            .prop_map(|(method, users, header, body, dialog, cseq)| Step::Ask { method, users, header, body, dialog, cseq }),
        4 => (any::<usize>(), proptest::sample::select(vec![100u16, 180, 200, 202, 300, 403, 404, 405, 408, 423, 481, 488, 500, 603]),
            0..HEADERS.len(), 0..BODIES.len())
            .prop_map(|(which, status, header, body)| Step::Respond { which, status, header, body }),
        6 => (0..KINDS.len(), (0..FROM.len(), 0..TO.len()), 0..10usize, any::<usize>())
            .prop_map(|(kind, users, child, id)| Step::Stanza { kind, users, child, id }),
        1 => (any::<usize>(), 0..3usize).prop_map(|(which, condition)| Step::Undelivered { which, condition }),
        2 => (0..5000u32).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Policy),
    ]
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// Requests handed in, by branch: their final answers. A 2xx to an INVITE may come again.
    answers: HashMap<String, HashSet<Bytes>>,
    ours: Vec<Message>,
    said: Vec<Element>,
}

impl Seen {
    fn look(&mut self, world: &mut World) {
        for message in world.sip.drain(..) {
            let branch = message.via().unwrap().branch.unwrap().to_owned();
            match message.status() {
                None => self.ours.push(message),
                Some(status) if status >= 200 => {
                    let again =
                        !self.answers.get_mut(&branch).unwrap().insert(message.bytes().clone());
                    let invites = message.cseq().unwrap().method == Method::Invite;
                    assert!(!again || (invites && status < 300), "{branch} {status}");
                }
                Some(_) => {}
            }
        }
        for stanza in world.stanzas.drain(..) {
            assert_eq!(reread(&stanza), stanza);
            self.said.push(stanza);
        }
        world.events.clear();
    }
}

/// What the guard at the other end makes of it.
fn reread(stanza: &Element) -> Element {
    let mut bytes =
        b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
        xmlns:db='jabber:server:dialback'>"
            .to_vec();
    stanza.write(&mut bytes);
    let mut reader = XmlReader::new(XmlLimits::new(&XmppLimits::default()), 1 << 20);
    let mut rest = &bytes[..];
    assert!(matches!(reader.next(&mut rest), Ok(Some(XmlEvent::StreamOpen(_)))));
    match reader.next(&mut rest) {
        Ok(Some(XmlEvent::Stanza(element))) => element,
        other => panic!("{other:?}: {stanza:?}"),
    }
}

fn play(world: &mut World, seen: &mut Seen, step: &Step) {
    match step {
        Step::Ask { method, users, header, body, dialog, cseq } => {
            let (kind, text) = BODIES[*body];
            let ask = Ask::new(METHODS[*method]).with(HEADERS[*header]).body(kind, text.as_bytes());
            let branch = format!("z9hG4bKi{}", world.branches + 1);
            if !matches!(ask.method, "ACK" | "BENOTIFY") {
                seen.answers.insert(branch, HashSet::new());
            }
            let ours = dialog.and_then(|n| seen.ours.get(n % seen.ours.len().max(1)).cloned());
            match ours {
                Some(ours) => world.ask_back(&ours, ask, *cseq),
                None => {
                    let (sip, xmpp) = (SIP_USERS[users.0], XMPP_USERS[users.1]);
                    let (from, to) = (format!("<{sip}>;tag=f{}", cseq % 3), format!("<{xmpp}>"));
                    world.send(&ask, xmpp, &from, &to, &format!("call-{}@inside", cseq % 4), *cseq);
                }
            }
        }
        Step::Respond { which, status, header, body } => {
            let Some(ours) = seen.ours.get(which % seen.ours.len().max(1)).cloned() else { return };
            if ours.method() == Some(Method::Ack) {
                return;
            }
            let line = HEADERS[*header].split("\r\n").next().unwrap();
            let (kind, text) = BODIES[*body];
            let (name, value) = line.split_once(": ").unwrap();
            let headers = [
                (name, value),
                ("Expires", "60"),
                ("Contact", "<sip:ann@10.0.0.9>"),
                ("Min-Expires", "90"),
            ];
            let bytes = crate::sip::build::response(
                &ours,
                &crate::sip::build::Response {
                    to_tag: Some("inside"),
                    headers: &headers,
                    ..crate::sip::build::Response::new(*status, "Told")
                },
            );
            let plain = parse(bytes.unwrap());
            let whole = crate::sip::Edit::new(&plain)
                .append("Content-Type", kind)
                .body(text.as_bytes())
                .finish();
            world.input(GatewayInput::Sip(parse(whole.unwrap())));
        }
        Step::Stanza { kind, users, child: which, id } => {
            let known = seen.said.get(id % seen.said.len().max(1)).and_then(|s| s.attribute("id"));
            let id = known.unwrap_or("1-x").to_owned();
            let (name, kind) = KINDS[*kind];
            let stanza = Element::new(ns::SERVER, name)
                .with_some("type", Some(kind).filter(|kind| !kind.is_empty()))
                .with("id", id.clone())
                .with("from", FROM[users.0])
                .with("to", TO[users.1])
                .with_child(child(*which, &id));
            world.stanza(stanza);
        }
        Step::Undelivered { which, condition } => {
            let Some(stanza) = seen.said.get(which % seen.said.len().max(1)).cloned() else {
                return;
            };
            let of = |name: &str| domain_of(stanza.attribute(name).unwrap()).unwrap();
            let pair = Pair { local: of("from"), remote: of("to") };
            let condition =
                ["remote-server-not-found", "remote-server-timeout", "gone"][*condition];
            world.input(GatewayInput::Undelivered {
                pair,
                stanza,
                condition,
                text: "no\u{1}".to_owned(),
            });
        }
        Step::Pass(seconds) => world.seconds(u64::from(*seconds)),
        Step::Policy(open) => {
            let kind =
                if *open { XmppPartnerKind::Federated } else { XmppPartnerKind::PublicUnverified };
            let mut out = Vec::new();
            world.gateway.set_policy(world.now, policy(kind), &mut out);
            world.sort(out);
        }
    }
}

proptest! {
    #[test]
    fn every_request_has_one_answer_and_state_stays_bounded(steps in proptest::collection::vec(step(), 1..60)) {
        let limits = GatewayLimits {
            transactions: 12,
            held: 3,
            total: 4,
            per_user: 3,
            per_partner: 3,
            resources: 2,
            queue: 2,
            queue_bytes: 4000,
            invited: 3,
            ..GatewayLimits::default()
        };
        let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
        let mut seen = Seen::default();
        for step in &steps {
            play(&mut world, &mut seen, step);
            seen.look(&mut world);
            let status = world.gateway.status();
            prop_assert!(status.transactions <= 12 && status.held <= 3 && status.invited <= 3, "{:?}", status);
            prop_assert!(status.watched <= 4 && status.subscriptions <= 4 && status.sessions <= 4, "{:?}", status);
            prop_assert!(status.queued <= 4000, "{:?}", status);
            prop_assert!(world.gateway.is_indexed());
            prop_assert!(status.dialogs <= 12 && status.timers <= 12 + 3 + 12, "{:?}", status);
            if let Some(next) = world.gateway.next_timeout() {
                prop_assert!(next >= world.now);
            }
        }
        world.seconds(120);
        seen.look(&mut world);
        for (branch, answers) in &seen.answers {
            prop_assert_eq!(answers.len(), 1, "{}", branch);
        }
        // Everything that is not a subscription ends by itself.
        world.seconds(8 * 86_400);
        seen.look(&mut world);
        let status = world.gateway.status();
        prop_assert_eq!((status.held, status.sessions, status.watched, status.queued), (0, 0, 0, 0));
    }
}
