//! Calls by scripts: SDP passes from side to side in virtual time, and what is open is kept as the
//! firewall would keep it.

mod bundles;
mod ends;
mod lines;
mod offers;
mod property;
mod turns;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::*;
use crate::media::{
    flow::{Component, Flow, FlowContent, FlowId, FlowStatus, Way},
    sdp::{Sdp, SdpBounds},
};
use crate::{config::MediaMode, sip::NameAddr};

pub(super) const OUT: MediaSide = MediaSide::Outside;
pub(super) const IN: MediaSide = MediaSide::Inside;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both families on both sides; outside is known by another IPv4 address.
pub(super) fn settings() -> CallSettings {
    CallSettings {
        mode: MediaMode::Relay,
        outside: OwnAddresses::new(&[ip("192.0.2.1"), ip("2001:db8::1")], &[ip("203.0.113.1")]),
        inside: OwnAddresses::new(&[ip("10.0.0.1"), ip("fd00::1")], &[]),
        own: ["192.0.2.1", "203.0.113.1", "10.0.0.1", "2001:db8::1", "fd00::1"].map(ip).to_vec(),
        ..CallSettings::default()
    }
}

/// A session description: lines after `t=`, an address for the session.
pub(super) fn sdp(address: &str, lines: &str) -> String {
    let family = if address.contains(':') { "IP6" } else { "IP4" };
    let lines = lines.replace('|', "\r\n");
    format!(
        "v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n{lines}\r\n"
    )
}

pub(super) fn audio(address: &str, port: u16) -> String {
    sdp(address, &format!("m=audio {port} RTP/AVP 8 0"))
}

/// The callee's address inside, and the caller's outside, where a test does not care.
pub(super) const CALLER: &str = "198.41.0.4";
pub(super) const CALLEE: &str = "10.0.0.50";

/// The calls, and the kernel as it would be.
pub(super) struct Bench {
    pub now: Instant,
    pub calls: Calls,
    pub open: BTreeMap<FlowId, Flow>,
    pub opened: usize,
    /// To where the way was looked up before there was a flow.
    pub expected: Vec<(IpAddr, MediaSide)>,
    pub events: Vec<CallEvent>,
    /// Of all that is said next.
    pub peers: Peers,
    pub forbidden: u32,
    pub behind_nat: bool,
    pub partner: Domain,
    /// A remote user of this name is outside, not a partner.
    pub remote: Option<&'static [u8]>,
    pub inbound: bool,
    pub session: Option<Duration>,
    free: (usize, usize),
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: CallSettings) -> Self {
        let calls = Calls::new(settings, &[7; 32], None);
        let free = (calls.pools.ports.free(), calls.pools.ids.free());
        Self {
            now: Instant::now(),
            calls,
            open: BTreeMap::new(),
            opened: 0,
            expected: Vec::new(),
            events: Vec::new(),
            peers: Peers { outside: ip("198.41.0.9"), inside: ip("10.0.0.9") },
            forbidden: 0,
            behind_nat: false,
            partner: "fabrikam.example".parse().unwrap(),
            remote: None,
            inbound: true,
            session: None,
            free,
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.act(|calls, now, effects| calls.on_timeout(now, effects));
    }

    pub(super) fn act<R>(&mut self, act: impl FnOnce(&mut Calls, Instant, &mut Effects) -> R) -> R {
        let mut effects = Effects::default();
        let result = act(&mut self.calls, self.now, &mut effects);
        for change in effects.changes {
            match change {
                MediaChange::Open(flow) => {
                    self.opened += 1;
                    assert!(self.calls.all.contains_key(&flow.call), "of a call that is over");
                    self.check(&flow);
                    self.open.insert(flow.id, flow);
                }
                MediaChange::Close(id) => {
                    assert!(self.open.remove(&id).is_some(), "it was not open: {id:?}");
                }
                MediaChange::CloseCall(call) => self.open.retain(|_, flow| flow.call != call),
                MediaChange::Expect(address, side) => self.expected.push((address, side)),
            }
        }
        self.events.append(&mut effects.events);
        let known: usize = self.calls.all.values().map(|call| call.flows.len()).sum();
        assert_eq!((known, self.calls.flows()), (self.open.len(), self.open.len()));
        for flow in self.calls.all.values().flat_map(|call| &call.flows) {
            assert_eq!(self.open.get(&flow.id), Some(flow));
        }
        result
    }

    /// What must hold of every flow, whatever happened.
    fn check(&self, flow: &Flow) {
        assert_ne!(flow.id, FlowId(0));
        let own = &self.calls.settings.own;
        assert!(!own.contains(&flow.to.ip()) && flow.to.port() != 0, "to ourselves: {flow:?}");
        if let Way::Relay { local, from } = flow.way {
            assert!(own.contains(&local.ip()) && own.contains(&from.ip()), "{flow:?}");
            assert_eq!(from.is_ipv4(), flow.to.is_ipv4(), "{flow:?}");
            assert_eq!(local.is_ipv4(), flow.source.addr().is_ipv4(), "{flow:?}");
            let odd = u16::from(flow.component == Component::Rtcp);
            assert_eq!((local.port() % 2, from.port() % 2), (odd, odd), "{flow:?}");
            let twice = self.open.values().find(|other| {
                other.id != flow.id
                    && matches!(other.way, Way::Relay { local: at, .. } if at == local)
            });
            assert_eq!(twice, None, "a port is used once: {flow:?}");
        }
    }

    /// Everything that was taken has come back.
    #[track_caller]
    pub(super) fn assert_nothing_left(&self) {
        assert_eq!(self.open, BTreeMap::new());
        assert_eq!((self.calls.len(), self.calls.flows(), self.calls.next_timeout()), (0, 0, None));
        assert_eq!((self.calls.pools.ports.free(), self.calls.pools.ids.free()), self.free);
        assert!(self.calls.pools.held.is_empty() && self.calls.pools.pinholes.is_empty());
    }

    /// A request passes: as it goes on.
    pub(super) fn ask(&mut self, say: &Say<'_>, text: &str) -> Result<String, MediaFault> {
        let sdp = parse(text);
        let partner = self.partner.clone();
        let passage = self.passage(say, &partner, false);
        self.act(|calls, now, effects| calls.request(now, &passage, &sdp, effects)).map(string)
    }

    /// A response passes: as it goes on, with its SDP if it has some.
    pub(super) fn reply(
        &mut self,
        say: &Say<'_>,
        status: u16,
        tag: &str,
        text: &str,
    ) -> Result<Option<String>, MediaFault> {
        self.reply_as(say, Reply { status, tag, ..say.reply(self.session) }, text)
    }

    pub(super) fn reply_as(
        &mut self,
        say: &Say<'_>,
        reply: Reply<'_>,
        text: &str,
    ) -> Result<Option<String>, MediaFault> {
        let sdp = (!text.is_empty()).then(|| parse(text));
        let partner = self.partner.clone();
        let passage = self.passage(say, &partner, true);
        let sdp = sdp.as_ref();
        let reply = &reply;
        self.act(|calls, now, effects| calls.response(now, &passage, reply, sdp, effects))
            .map(|text| text.map(string))
    }

    fn of_remote<'a>(&self, names: CallNames<'a>) -> CallNames<'a> {
        let user = self.remote.map(|user| NameAddr::parse(user).unwrap().uri);
        CallNames { partner: names.partner.filter(|_| user.is_none()), user, ..names }
    }

    fn passage<'a>(&self, say: &Say<'a>, partner: &'a Domain, response: bool) -> Passage<'a> {
        let names = say.names(self.inbound, partner);
        Passage {
            names: self.of_remote(names),
            exchange: say.exchange,
            cseq: say.cseq,
            method: say.method,
            from: if (self.inbound == say.by_caller) == response { IN } else { OUT },
            peers: self.peers,
            behind_nat: self.behind_nat,
            forbidden: self.forbidden,
            parties: match say.by_caller {
                true => ("sip:a@fabrikam.example", "sip:b@contoso.example"),
                false => ("sip:b@contoso.example", "sip:a@fabrikam.example"),
            },
            connection: None,
        }
    }

    /// The name of the only call.
    pub(super) fn only(&self) -> CallId {
        assert_eq!(self.calls.len(), 1);
        *self.calls.all.keys().next().unwrap()
    }

    pub(super) fn failed(&mut self, exchange: u64) {
        let id = self.only();
        self.act(|calls, now, effects| calls.failed(now, id, exchange, effects));
    }

    pub(super) fn bye(&mut self, by_caller: bool) {
        let partner = self.partner.clone();
        let say = Say { by_caller, to_tag: Some("b"), ..Say::invite(99) };
        let names = self.of_remote(say.names(self.inbound, &partner));
        self.act(|calls, _, effects| calls.bye(&names, effects));
    }

    /// Where what is open leads: m-line, component and side, then from, through us, to.
    pub(super) fn ways(&self) -> Vec<String> {
        let mut ways: Vec<String> = self
            .open
            .values()
            .map(|flow| {
                let port = flow.source_port.map_or("*".into(), |port| port.to_string());
                let source = match flow.source.prefix_len() == flow.source.max_prefix_len() {
                    true => flow.source.addr().to_string(),
                    false => flow.source.to_string(),
                };
                let side = if flow.side == OUT { "out" } else { "in" };
                let held = if flow.held { " held" } else { "" };
                format!(
                    "{} {:?} {side}: {source} {port} -> {}{held}",
                    flow.line, flow.component, flow.to
                )
            })
            .collect();
        ways.sort();
        ways
    }

    /// A call that is up: audio from [`CALLER`] port 4000 to [`CALLEE`] port 5000.
    pub(super) fn up() -> Self {
        let mut bench = Self::new();
        bench.set_up();
        bench
    }

    pub(super) fn set_up(&mut self) {
        self.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
        self.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
        assert_eq!(self.open.len(), 4);
    }
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Say<'a> {
    pub method: CallMethod,
    pub exchange: u64,
    pub cseq: u32,
    pub by_caller: bool,
    pub caller: &'a str,
    /// The callee's tag.
    pub to_tag: Option<&'a str>,
    pub offered: bool,
    pub again: bool,
    pub reliable: bool,
}

impl<'a> Say<'a> {
    /// The first INVITE, from the caller.
    pub(super) fn invite(exchange: u64) -> Self {
        Self {
            method: CallMethod::Invite,
            exchange,
            cseq: u32::try_from(exchange).unwrap(),
            by_caller: true,
            caller: "a",
            to_tag: None,
            offered: true,
            again: false,
            reliable: false,
        }
    }

    /// In the dialog.
    pub(super) fn within(method: CallMethod, exchange: u64, by_caller: bool) -> Self {
        Self { method, by_caller, to_tag: Some("b"), ..Self::invite(exchange) }
    }

    fn names(&self, inbound: bool, partner: &'a Domain) -> CallNames<'a> {
        let (from_tag, to_tag) = match self.by_caller {
            true => (self.caller, self.to_tag),
            false => (self.to_tag.unwrap(), Some(self.caller)),
        };
        let inbound = inbound == self.by_caller;
        CallNames {
            call_id: "call-1",
            from_tag,
            to_tag,
            inbound,
            partner: Some(partner),
            user: None,
        }
    }

    fn reply(&self, session: Option<Duration>) -> Reply<'static> {
        let Self { offered, again, reliable, .. } = *self;
        Reply { status: 200, tag: "b", reliable, offered, again, session }
    }
}

fn string(bytes: Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(super) fn parse(text: &str) -> Sdp {
    Sdp::parse(Bytes::copy_from_slice(text.as_bytes()), &SdpBounds::default()).unwrap()
}

/// The lines of a text that begin so.
pub(super) fn lines<'t>(text: &'t str, begin: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(begin)).collect()
}

/// The ports of the m-lines.
pub(super) fn ports(text: &str) -> Vec<u16> {
    let port = |line: &str| line.split(' ').nth(1).unwrap().parse().unwrap();
    lines(text, "m=").into_iter().map(port).collect()
}
