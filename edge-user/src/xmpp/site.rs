//! Streams and gateway as one machine: stanzas of partners go to the gateway, and its own to the
//! streams. No sockets, no clock. What is for XMPP servers of our own the streams carry by
//! themselves.
//!
//! What this module must never do: hand the gateway what is not from a partner and for a domain of
//! its own. Who a stanza is from and for, the streams have proved.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::{
    gateway::{
        Gateway, MAX_SAVED, SavedGateway,
        io::{GatewayInput, GatewayOutput},
    },
    io::{Pair, XmppEvent, XmppInput, XmppOutput, XmppRefusal, XmppSide},
    settings::XmppPolicy,
    streams::Streams,
    xml::Element,
};
use crate::{domain::Domain, sip::Message};

/// Turns between the two that one input may cause besides [`EACH`] for each thing said at first: no
/// honest one comes near.
const MAX_TURNS: usize = 10_000;
/// See there: a change of policy, or a stream that is lost, may say very many things at once.
const EACH: usize = 8;

/// What the site says.
#[derive(Debug)]
pub enum SiteOutput {
    /// About streams. Stanzas never come this far.
    Stream(XmppOutput),
    /// The gateway gives this message to the SIP proxy.
    Sip(Bytes),
}

/// The machine of all streams, as the site drives it.
pub trait StreamMachine {
    /// Takes an input.
    fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<XmppOutput>);
    /// When something is due.
    fn next_timeout(&self) -> Option<Instant>;
    /// Does what is due.
    fn on_timeout(&mut self, now: Instant, out: &mut Vec<XmppOutput>);
    /// Another policy holds from now on.
    fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<XmppOutput>);
    /// Ends every stream in good order.
    fn stop(&mut self, now: Instant, out: &mut Vec<XmppOutput>);
}

/// The gateway, as the site drives it.
pub trait GatewayMachine {
    /// Takes an input.
    fn handle(&mut self, now: Instant, input: GatewayInput, out: &mut Vec<GatewayOutput>);
    /// When something is due.
    fn next_timeout(&self) -> Option<Instant>;
    /// Does what is due.
    fn on_timeout(&mut self, now: Instant, out: &mut Vec<GatewayOutput>);
    /// Another policy holds from now on.
    fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<GatewayOutput>);
}

impl StreamMachine for Streams {
    fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<XmppOutput>) {
        Streams::handle(self, now, input, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        Streams::next_timeout(self)
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Vec<XmppOutput>) {
        Streams::on_timeout(self, now, out);
    }

    fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<XmppOutput>) {
        Streams::set_policy(self, now, policy, out);
    }

    fn stop(&mut self, now: Instant, out: &mut Vec<XmppOutput>) {
        self.shut_down(now, out);
    }
}

impl GatewayMachine for Gateway {
    fn handle(&mut self, now: Instant, input: GatewayInput, out: &mut Vec<GatewayOutput>) {
        Gateway::handle(self, now, input, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        Gateway::next_timeout(self)
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Vec<GatewayOutput>) {
        Gateway::on_timeout(self, now, out);
    }

    fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<GatewayOutput>) {
        Gateway::set_policy(self, now, policy, out);
    }
}

/// Both.
pub struct Site<S, G> {
    /// Streams.
    pub streams: S,
    /// The gateway.
    pub gateway: G,
    policy: XmppPolicy,
}

/// What is still to be looked at.
enum Work {
    Stream(XmppOutput),
    Gateway(GatewayOutput),
}

impl<S: StreamMachine, G: GatewayMachine> Site<S, G> {
    /// Joins the two, which know this policy already.
    pub fn new(streams: S, gateway: G, policy: XmppPolicy) -> Self {
        Self { streams, gateway, policy }
    }

    /// Takes an input about streams.
    pub fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<SiteOutput>) {
        let mut said = Vec::new();
        self.streams.handle(now, input, &mut said);
        self.settle(now, said, Vec::new(), out);
    }

    /// Takes a SIP message for the gateway.
    pub fn sip(&mut self, now: Instant, message: Message, out: &mut Vec<SiteOutput>) {
        let mut said = Vec::new();
        self.gateway.handle(now, GatewayInput::Sip(message), &mut said);
        self.settle(now, Vec::new(), said, out);
    }

    /// When [`Site::on_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.streams.next_timeout().into_iter().chain(self.gateway.next_timeout()).min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<SiteOutput>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (mut streams, mut gateway) = (Vec::new(), Vec::new());
        if due(self.streams.next_timeout()) {
            self.streams.on_timeout(now, &mut streams);
        }
        if due(self.gateway.next_timeout()) {
            self.gateway.on_timeout(now, &mut gateway);
        }
        self.settle(now, streams, gateway, out);
    }

    /// Puts a policy in force.
    pub fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<SiteOutput>) {
        self.policy = policy.clone();
        let (mut streams, mut gateway) = (Vec::new(), Vec::new());
        self.gateway.set_policy(now, policy.clone(), &mut gateway);
        self.streams.set_policy(now, policy, &mut streams);
        self.settle(now, streams, gateway, out);
    }

    /// Ends every stream in good order.
    pub fn stop(&mut self, now: Instant, out: &mut Vec<SiteOutput>) {
        let mut said = Vec::new();
        self.streams.stop(now, &mut said);
        self.settle(now, said, Vec::new(), out);
    }

    /// Asks something of the streams; what comes of it goes to the gateway as from any input.
    pub fn with_streams<R>(
        &mut self,
        now: Instant,
        out: &mut Vec<SiteOutput>,
        call: impl FnOnce(&mut S, &mut Vec<XmppOutput>) -> R,
    ) -> R {
        let mut said = Vec::new();
        let result = call(&mut self.streams, &mut said);
        self.settle(now, said, Vec::new(), out);
        result
    }

    /// Carries stanzas between the two until nothing is left to carry.
    fn settle(
        &mut self,
        now: Instant,
        streams: Vec<XmppOutput>,
        gateway: Vec<GatewayOutput>,
        out: &mut Vec<SiteOutput>,
    ) {
        let streams = streams.into_iter().map(Work::Stream);
        let mut work: VecDeque<Work> =
            streams.chain(gateway.into_iter().map(Work::Gateway)).collect();
        let (mut of_streams, mut of_gateway) = (Vec::new(), Vec::new());
        let most = MAX_TURNS.saturating_add(work.len().saturating_mul(EACH));
        let (mut turns, mut left) = (0, 0);
        while let Some(next) = work.pop_front() {
            let to = match next {
                Work::Stream(XmppOutput::Deliver(delivery)) => {
                    let (pair, side, stanza) = delivery.into_parts();
                    self.delivered(pair, side, stanza)
                }
                Work::Stream(XmppOutput::Undelivered { pair, stanza, condition, text }) => {
                    let input = GatewayInput::Undelivered { pair, stanza, condition, text };
                    To::Gateway(input)
                }
                Work::Gateway(GatewayOutput::Stanza { pair, stanza }) => To::Streams(pair, stanza),
                Work::Stream(XmppOutput::Passed { pair, stanza, acknowledged }) => {
                    To::Gateway(GatewayInput::Passed { pair, stanza, acknowledged })
                }
                Work::Stream(other) => {
                    out.push(SiteOutput::Stream(other));
                    continue;
                }
                Work::Gateway(GatewayOutput::Sip(bytes)) => {
                    out.push(SiteOutput::Sip(bytes));
                    continue;
                }
                Work::Gateway(GatewayOutput::Event(event)) => To::Nobody(event),
            };
            match to {
                To::Nobody(event) => out.push(SiteOutput::Stream(XmppOutput::Event(event))),
                _ if turns >= most => left += 1,
                To::Streams(pair, stanza) => {
                    turns += 1;
                    let input = XmppInput::Send { pair, side: XmppSide::Partner, stanza };
                    self.streams.handle(now, input, &mut of_streams);
                }
                To::Gateway(input) => {
                    turns += 1;
                    self.gateway.handle(now, input, &mut of_gateway);
                }
            }
            work.extend(of_streams.drain(..).map(Work::Stream));
            work.extend(of_gateway.drain(..).map(Work::Gateway));
        }
        if left > 0 {
            out.push(SiteOutput::Stream(XmppOutput::Event(XmppEvent::Refused {
                reason: XmppRefusal::Limit,
                remote: None,
                domain: None,
                claimed: None,
                text: format!(
                    "{left} stanzas between streams and gateway were left out: one input caused \
                     {turns} others, which is a fault of this program"
                ),
            })));
        }
    }

    /// Whether the gateway serves this domain: no XMPP server of our own has it.
    fn is_ours(&self, domain: &Domain) -> bool {
        let inside = &self.policy.settings.inside;
        !inside.iter().any(|(domains, _)| domains.contains(domain))
    }

    /// A stanza came on a stream that proved its pair: the streams keep what is for servers of our
    /// own, so it is the gateway's, or nobody's.
    fn delivered(&self, pair: Pair, side: XmppSide, stanza: Element) -> To {
        if side == XmppSide::Partner && self.is_ours(&pair.local) {
            return To::Gateway(GatewayInput::Stanza { pair, stanza });
        }
        To::Nobody(XmppEvent::Refused {
            reason: XmppRefusal::UnknownDomain,
            remote: None,
            domain: Some(pair.remote),
            claimed: None,
            text: format!("a stanza for {}, which the gateway does not serve", pair.local),
        })
    }
}

impl Site<Streams, Gateway> {
    /// Counts changes of what [`Site::save`] gives.
    pub fn changes(&self) -> u64 {
        self.gateway.changes() + self.streams.invitation_changes()
    }

    /// What must outlive a restart. `unix`: the wall clock.
    pub fn save(&self, unix: u64) -> SavedGateway {
        let invited_inside = self.streams.invitations(MAX_SAVED);
        SavedGateway { invited_inside, ..self.gateway.save(unix) }
    }

    /// Takes it back, before anything else.
    pub fn restore(&mut self, unix: u64, saved: SavedGateway) {
        self.streams.restore_invitations(&saved.invited_inside);
        self.gateway.restore(unix, saved);
    }
}

/// Where something goes.
#[expect(clippy::large_enum_variant, reason = "one at a time, never kept")]
enum To {
    Streams(Pair, Element),
    Gateway(GatewayInput),
    Nobody(XmppEvent),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::Federation,
        federation::Policy,
        xmpp::{
            ns,
            settings::{XmppLimits, XmppPartner, XmppPartnerKind, XmppSettings},
        },
    };

    /// Says what it is told to say, and keeps what it hears.
    #[derive(Default)]
    struct FakeStreams {
        sent: Vec<(XmppSide, Pair, Element)>,
        /// What becomes of the next stanza that is sent.
        fails: bool,
        incoming: Option<XmppOutput>,
    }

    #[derive(Default)]
    struct FakeGateway {
        heard: Vec<GatewayInput>,
        says: Vec<GatewayOutput>,
    }

    impl StreamMachine for FakeStreams {
        fn handle(&mut self, _: Instant, input: XmppInput, out: &mut Vec<XmppOutput>) {
            match input {
                XmppInput::Send { pair, side, stanza } => {
                    if std::mem::take(&mut self.fails) {
                        let (condition, text) = ("remote-server-timeout", "slow".into());
                        out.push(XmppOutput::Undelivered { pair, stanza, condition, text });
                    } else {
                        self.sent.push((side, pair, stanza));
                    }
                }
                _ => out.extend(self.incoming.take()),
            }
        }

        fn next_timeout(&self) -> Option<Instant> {
            None
        }

        fn on_timeout(&mut self, _: Instant, _: &mut Vec<XmppOutput>) {}

        fn set_policy(&mut self, _: Instant, _: XmppPolicy, _: &mut Vec<XmppOutput>) {}

        fn stop(&mut self, _: Instant, _: &mut Vec<XmppOutput>) {}
    }

    impl GatewayMachine for FakeGateway {
        fn handle(&mut self, _: Instant, input: GatewayInput, out: &mut Vec<GatewayOutput>) {
            self.heard.push(input);
            out.append(&mut self.says);
        }

        fn next_timeout(&self) -> Option<Instant> {
            None
        }

        fn on_timeout(&mut self, _: Instant, _: &mut Vec<GatewayOutput>) {}

        fn set_policy(&mut self, _: Instant, _: XmppPolicy, _: &mut Vec<GatewayOutput>) {}
    }

    fn d(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn pair(local: &str, remote: &str) -> Pair {
        Pair { local: d(local), remote: d(remote) }
    }

    /// contoso.example is the gateway's, chat.contoso.example a server's; p.example and q.example
    /// are partners.
    fn site() -> Site<FakeStreams, FakeGateway> {
        let partner = |name: &str| {
            let kind = XmppPartnerKind::Federated;
            Arc::new(XmppPartner { kind, ..XmppPartner::new(d(name)) })
        };
        let settings = XmppSettings {
            enabled: true,
            domains: vec![d("contoso.example"), d("chat.contoso.example")],
            inside: vec![(vec![d("chat.contoso.example")], (d("x.contoso.example"), 5269))],
            chats: Default::default(),
            partners: vec![partner("p.example"), partner("q.example")],
            limits: XmppLimits::default(),
        };
        let federation = Federation { enabled: true, ..Federation::default() };
        let policy = Policy::new(&[d("contoso.example")], &federation).with_xmpp(Some(&settings));
        let policy = XmppPolicy { settings: Arc::new(settings), federation: Arc::new(policy) };
        Site::new(FakeStreams::default(), FakeGateway::default(), policy)
    }

    fn message(from: &str, to: &str) -> Element {
        Element::new(ns::SERVER, "message").with("from", from).with("to", to).with("id", "1")
    }

    /// Has a stanza come in; what the site says.
    fn comes(
        site: &mut Site<FakeStreams, FakeGateway>,
        side: XmppSide,
        pair: Pair,
        stanza: Element,
    ) -> Vec<SiteOutput> {
        let delivery = crate::xmpp::io::Delivery::played(pair, side, stanza);
        site.streams.incoming = Some(XmppOutput::Deliver(delivery));
        let input = XmppInput::Closed { stream: crate::xmpp::io::StreamId(1), fault: None };
        let mut out = Vec::new();
        site.handle(Instant::now(), input, &mut out);
        out
    }

    #[test]
    fn the_gateway_hears_what_partners_say_to_its_own_domains_and_no_more() {
        let mut site = site();
        let stanza = message("u@p.example", "a@contoso.example");
        comes(&mut site, XmppSide::Partner, pair("contoso.example", "p.example"), stanza.clone());
        assert!(matches!(
            &site.gateway.heard[..],
            [GatewayInput::Stanza { stanza: heard, .. }] if *heard == stanza
        ));
        for (side, pair) in [
            (XmppSide::Partner, pair("chat.contoso.example", "p.example")),
            (XmppSide::Inside, pair("p.example", "chat.contoso.example")),
            (XmppSide::Inside, pair("contoso.example", "chat.contoso.example")),
        ] {
            comes(&mut site, side, pair, stanza.clone());
        }
        assert_eq!(site.gateway.heard.len(), 1);
        assert!(site.streams.sent.is_empty());
    }

    #[test]
    fn what_the_gateway_says_goes_out_and_it_is_told_what_was_not_delivered() {
        let mut site = site();
        let own = message("a@contoso.example", "u@p.example");
        let ours = pair("contoso.example", "p.example");
        let say = || GatewayOutput::Stanza { pair: ours.clone(), stanza: own.clone() };
        let hears = message("u@p.example", "a@contoso.example");
        site.gateway.says = vec![say(), GatewayOutput::Sip(Bytes::from_static(b"SIP"))];
        let out = comes(&mut site, XmppSide::Partner, ours.clone(), hears.clone());
        assert_eq!(site.streams.sent, [(XmppSide::Partner, ours.clone(), own.clone())]);
        assert!(matches!(&out[..], [SiteOutput::Sip(bytes)] if bytes == "SIP"));
        site.gateway.says = vec![say()];
        site.streams.fails = true;
        comes(&mut site, XmppSide::Partner, ours.clone(), hears);
        assert!(matches!(
            site.gateway.heard.last(),
            Some(GatewayInput::Undelivered { condition: "remote-server-timeout", .. })
        ));
    }

    #[test]
    fn nothing_is_lost_of_what_is_said_at_once() {
        let mut site = site();
        let own = message("a@contoso.example", "u@p.example");
        let ours = pair("contoso.example", "p.example");
        for _ in 0..2 * MAX_TURNS {
            site.gateway.says.push(GatewayOutput::Sip(Bytes::from_static(b"SIP")));
            let (pair, stanza) = (ours.clone(), own.clone());
            site.gateway.says.push(GatewayOutput::Stanza { pair, stanza });
        }
        let said = std::mem::take(&mut site.gateway.says);
        let mut out = Vec::new();
        site.settle(Instant::now(), Vec::new(), said, &mut out);
        assert_eq!((out.len(), site.streams.sent.len()), (2 * MAX_TURNS, 2 * MAX_TURNS));
    }
}
