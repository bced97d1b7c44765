//! The place of the calls' media in the proxy: what bodies become on their way, which flows are
//! open, and what is refused for what it asks for.
//!
//! A message without a session description costs one look at its method and its body's length.
//! Flows are opened before the message that tells of them is sent.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    ConnectionId, Event, Output, Peer, Refusal,
    admit::sip_domain,
    descriptions::{
        Fault, NewBody, Offered, call_method, changed, read, session_timer, shows_addresses,
    },
    exchange::{Exchange, Server},
    proxy::Proxy,
    request::refusal_detail,
    respond::Answer,
};
use crate::{
    domain::Domain,
    federation::{Direction, Partner, Policy, UserName},
    media::{
        calls::{
            CallMethod, CallNames, CallStatus, Calls, Effects, EndCause, Passage, Peers, Reply,
        },
        flow::{CallId, Flow, FlowId, FlowStatus, MediaSide},
        policy::Modalities,
    },
    sip::{Message, Method, Uri},
};

/// What a response, or a 2xx that came again, says of its transaction.
struct About<'a> {
    exchange: u64,
    inbound: bool,
    /// `None`: a remote user is outside.
    partner: Option<&'a Domain>,
    peers: Peers,
    behind_nat: bool,
    /// The remote user's.
    connection: Option<ConnectionId>,
}

impl<'a> About<'a> {
    /// `connection`: that of whoever is outside, when it is known.
    fn of(exchange: &'a Exchange, id: u64, peers: Peers, connection: Option<ConnectionId>) -> Self {
        Self {
            exchange: id,
            inbound: exchange.inbound,
            partner: exchange.partner.as_ref(),
            peers,
            behind_nat: behind_nat(exchange.remote, exchange.entry.as_deref()),
            connection: connection.filter(|_| exchange.remote),
        }
    }

    fn names<'m>(&'m self, message: &'m Message, to_tag: Option<&'m str>) -> Option<CallNames<'m>> {
        names(message, to_tag, self.inbound, self.partner)
    }

    fn passage<'m>(
        &'m self,
        message: &'m Message,
        to_tag: Option<&'m str>,
        method: CallMethod,
    ) -> Option<Passage<'m>> {
        let from_outside = self.inbound == message.is_request();
        let parties = (message.from().ok()?.uri.as_str(), message.to().ok()?.uri.as_str());
        Some(Passage {
            names: self.names(message, to_tag)?,
            exchange: self.exchange,
            cseq: message.cseq().ok()?.number,
            method,
            from: if from_outside { MediaSide::Outside } else { MediaSide::Inside },
            peers: self.peers,
            behind_nat: self.behind_nat,
            forbidden: 0,
            parties,
            connection: self.connection,
        })
    }
}

fn names<'m>(
    message: &'m Message,
    to_tag: Option<&'m str>,
    inbound: bool,
    partner: Option<&'m Domain>,
) -> Option<CallNames<'m>> {
    let call_id = message.call_id().ok()?;
    let from = message.from().ok()?;
    let from_tag = from.tag().unwrap_or_default();
    let outside = if inbound { from.uri } else { message.to().ok()?.uri };
    let user = partner.is_none().then_some(outside);
    Some(CallNames { call_id, from_tag, to_tag, inbound, partner, user })
}

fn peers(inbound: bool, sender: IpAddr, receiver: IpAddr) -> Peers {
    let (outside, inside) = if inbound { (sender, receiver) } else { (receiver, sender) };
    Peers { outside: outside.to_canonical(), inside: inside.to_canonical() }
}

/// A user behind a home router never knows its own address.
fn behind_nat(remote: bool, entry: Option<&Partner>) -> bool {
    remote || entry.is_some_and(|entry| entry.options.behind_nat)
}

/// Whether a remote user, by its URI, may still be outside; of whoever is not ours our servers know.
fn may_be_outside(policy: &Policy, user: &str) -> bool {
    let Ok(uri) = Uri::parse(user) else { return true };
    match sip_domain(&uri).filter(|domain| policy.is_ours(domain)) {
        Some(domain) => policy.users().rights(&UserName::new(uri.user(), &domain)).outside,
        None => true,
    }
}

impl Proxy {
    /// Whoever may end a call sends BYE: its media is over, whether the other side can be told or
    /// not. `partner`: `None` for a remote user.
    pub(super) fn media_bye(
        &mut self,
        request: &Message,
        inbound: bool,
        partner: Option<&Domain>,
        out: &mut Vec<Output>,
    ) {
        if request.method() != Some(Method::Bye) {
            return;
        }
        over(&mut self.calls, request, inbound, partner, out);
    }

    /// The same for a BYE whose sender is judged.
    pub(super) fn media_bye_of(&mut self, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id).filter(|exchange| !exchange.stranger) else {
            return;
        };
        if let Some(request) = &exchange.request
            && request.method() == Some(Method::Bye)
        {
            let partner = exchange.partner.as_ref();
            over(&mut self.calls, request, exchange.inbound, partner, out);
        }
    }

    /// The callee of an INVITE within a dialog is hung up: its call is over, as with a BYE. `false`:
    /// the INVITE was to begin a dialog.
    pub(super) fn media_hung_up(&mut self, id: u64, out: &mut Vec<Output>) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let Some(request) = &exchange.request else { return false };
        if request.to().ok().and_then(|to| to.tag()).is_none() {
            return false;
        }
        if !exchange.stranger {
            let partner = exchange.partner.as_ref();
            over(&mut self.calls, request, exchange.inbound, partner, out);
        }
        true
    }

    /// What is done to a request's body on its way to a peer. The flows that it opens are told before.
    pub(super) fn media_of_request(
        &mut self,
        now: Instant,
        id: u64,
        (to, peer): (ConnectionId, &Peer),
        out: &mut Vec<Output>,
    ) -> Result<Option<NewBody>, Answer> {
        let Some(exchange) = self.exchanges.get(id) else { return Ok(None) };
        let Some(request) = &exchange.request else { return Ok(None) };
        let method = request.method();
        if request.body().is_empty() {
            return Ok(None);
        }
        if exchange.stranger {
            let relays = self.calls.relays();
            return Ok((relays && shows_addresses(request)).then_some(NewBody::TakenOut));
        }
        let sender = exchange.from_peer.remote.ip();
        let peers = peers(exchange.inbound, sender, peer.remote.ip());
        let outside = if exchange.inbound { exchange.from } else { to };
        let about = About::of(exchange, id, peers, Some(outside));
        let to_tag = request.to().ok().and_then(|to| to.tag());
        let mut effects = Effects::default();
        let relays = self.calls.relays();
        let Some(method) = method.and_then(call_method) else {
            // It is no offer; but it names addresses.
            return Ok((relays && shows_addresses(request)).then_some(NewBody::TakenOut));
        };
        let allowed = self.modalities(exchange, request);
        if self.calls.is_off() && allowed.is_all() {
            return Ok(None);
        }
        let Some(passage) = about.passage(request, to_tag, method) else { return Ok(None) };
        let (mut call, mut detail) = (None, None);
        let mut has_offer = false;
        let result = read(request, allowed, relays).and_then(|offered| {
            has_offer = !offered.texts.is_empty();
            check_all(&self.calls, &passage, &offered)?;
            let mut texts = Vec::with_capacity(offered.texts.len());
            for (sdp, forbidden) in offered.texts.iter().zip(&offered.forbidden) {
                let passage = Passage { forbidden: *forbidden, ..passage };
                texts.push(self.calls.request(now, &passage, sdp, &mut effects)?);
                call = self.calls.call_of(&passage);
            }
            changed(request, &offered, &texts, relays)
        });
        if let Err(fault) = &result {
            detail = Some(format!("{}: {}", refusal_detail(request), fault.detail));
        }
        let (from_peer, partner) = (exchange.from_peer.clone(), exchange.partner.clone());
        media_output(effects, out);
        self.exchanges.update(id, |exchange| {
            exchange.offered |= has_offer;
            exchange.call = call.or(exchange.call);
        });
        match result {
            Ok(body) => Ok(body),
            // Nobody hears an answer to an ACK: without a body its receiver hangs up.
            Err(fault) if method == CallMethod::Ack => {
                let detail = detail.unwrap_or_default();
                self.note_refusal(&from_peer, fault.reason, partner, detail, out);
                Ok(Some(NewBody::TakenOut))
            }
            Err(fault) => {
                self.exchanges.update(id, |exchange| exchange.detail = detail.map(Into::into));
                Err(fault.answer())
            }
        }
    }

    /// What is done to a response's body on its way back.
    pub(super) fn media_of_response(
        &mut self,
        now: Instant,
        id: u64,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> Result<Option<NewBody>, Answer> {
        let Some(exchange) = self.exchanges.get(id) else { return Ok(None) };
        let Some(status) = message.status() else { return Ok(None) };
        let empty = message.body().is_empty();
        if empty && !(200..300).contains(&status) {
            return Ok(None);
        }
        if exchange.stranger {
            let relays = self.calls.relays();
            return Ok((relays && shows_addresses(message)).then_some(NewBody::TakenOut));
        }
        let receiver = exchange.client().map_or(exchange.from_peer.remote, |c| c.remote).ip();
        let peers = peers(exchange.inbound, exchange.from_peer.remote.ip(), receiver);
        let outside = match exchange.inbound {
            true => Some(exchange.from),
            false => exchange.client().map(|client| client.connection),
        };
        let about = About::of(exchange, id, peers, outside);
        let again = exchange.server == Server::Accepted;
        let to_tag = exchange.request.as_ref().map_or_else(
            || message.to().ok().and_then(|to| to.tag()),
            |request| request.to().ok().and_then(|to| to.tag()),
        );
        let method = message.cseq().ok().and_then(|cseq| call_method(cseq.method));
        let allowed = self.modalities(exchange, exchange.request.as_ref().unwrap_or(message));
        let offered = exchange.offered;
        let relays = self.calls.relays();
        let Some(method) = method.filter(|_| status < 300) else {
            let out_it_goes = relays && shows_addresses(message);
            return Ok(out_it_goes.then_some(NewBody::TakenOut));
        };
        if self.calls.is_off() && allowed.is_all() {
            return Ok(None);
        }
        let Some(passage) = about.passage(message, to_tag, method) else { return Ok(None) };
        let mut effects = Effects::default();
        let mut call = None;
        let says = Says { again, offered, allowed };
        let up = self.calls.is_up(&passage);
        let result =
            answered(&mut self.calls, now, &passage, message, says, &mut call, &mut effects);
        if result.is_err() && status >= 200 && method == CallMethod::Invite && !up {
            // The caller is told that it failed.
            if let Some(call) = self.calls.call_of(&passage) {
                self.calls.end(call, EndCause::Failed, &mut effects);
            }
        }
        let (peer, partner) = (exchange.from_peer.clone(), exchange.partner.clone());
        media_output(effects, out);
        if call.is_some() {
            self.exchanges.update(id, |exchange| exchange.call = call);
        }
        match result {
            Ok(body) => Ok(body),
            Err(fault) => {
                let detail = format!("response {status}: {}", fault.detail);
                if status < 200 {
                    self.note_refusal(&peer, fault.reason, partner, detail, out);
                    return Ok(Some(NewBody::TakenOut));
                }
                self.exchanges.update(id, |exchange| exchange.detail = Some(detail.into()));
                // It is not the caller who is at fault.
                let answer = match fault.reason {
                    Refusal::SessionUnreadable => Answer::with(502, "Bad Gateway", fault.reason),
                    _ => fault.answer(),
                };
                Err(answer)
            }
        }
    }

    /// The same for a 2xx that came again when nothing but this is left of its transaction.
    pub(super) fn media_again(
        &mut self,
        now: Instant,
        exchange: &Exchange,
        to: Option<ConnectionId>,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> Option<NewBody> {
        if message.body().is_empty() {
            return None;
        }
        if exchange.stranger {
            let relays = self.calls.relays();
            return (relays && shows_addresses(message)).then_some(NewBody::TakenOut);
        }
        let sender = exchange.from_peer.remote.ip();
        let peer = to.and_then(|to| self.connections.get(to)).map(|c| c.peer.remote.ip());
        let peers = peers(exchange.inbound, sender, peer.unwrap_or(sender));
        let about = About::of(exchange, 0, peers, None);
        let allowed = self.modalities(exchange, message);
        if self.calls.is_off() && allowed.is_all() {
            return None;
        }
        let to_tag = message.to().ok().and_then(|to| to.tag());
        let passage = about.passage(message, to_tag, CallMethod::Invite)?;
        let mut effects = Effects::default();
        let says = Says { again: true, offered: true, allowed };
        let result =
            answered(&mut self.calls, now, &passage, message, says, &mut None, &mut effects);
        media_output(effects, out);
        // It passed before; whatever is wrong with it now does not.
        result.unwrap_or(Some(NewBody::TakenOut))
    }

    /// What the two parties may do with one another.
    fn modalities(&self, exchange: &Exchange, request: &Message) -> Modalities {
        let Some(entry) = exchange.entry.as_ref().filter(|_| !exchange.remote) else {
            return Modalities::ALL;
        };
        let direction = if exchange.inbound { Direction::In } else { Direction::Out };
        let in_dialog = exchange.dialog.is_some() || !request.is_request();
        self.modalities_of_dialog(direction, request, in_dialog, exchange.allowed, entry)
    }

    /// A transaction failed: what it offered was offered in vain.
    pub(super) fn media_in_vain(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        self.media_never_accepted(id, out);
        if let Some(call) = self.exchanges.get(id).and_then(|exchange| exchange.call) {
            let mut effects = Effects::default();
            self.calls.failed(now, call, id, &mut effects);
            media_output(effects, out);
        }
    }

    /// An INVITE that was to begin a dialog failed: what an UPDATE opened in the meantime goes too.
    fn media_never_accepted(&mut self, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let Some(request) = exchange.request.as_ref() else { return };
        let first = request.to().is_ok_and(|to| to.tag().is_none());
        if request.method() != Some(Method::Invite) || !first {
            return;
        }
        // A remote user has not shown yet who it is: only what it offered itself is its call.
        if exchange.remote && exchange.inbound && exchange.call.is_none() {
            return;
        }
        let partner = exchange.partner.as_ref();
        if let Some(names) = names(request, None, exchange.inbound, partner) {
            let mut effects = Effects::default();
            self.calls.never_accepted(&names, &mut effects);
            media_output(effects, out);
        }
    }

    /// Transactions are gone.
    pub(super) fn media_gone(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.exchanges.gone.is_empty() {
            return;
        }
        let mut effects = Effects::default();
        for (call, exchange) in std::mem::take(&mut self.exchanges.gone) {
            self.calls.gone(now, call, exchange, &mut effects);
        }
        media_output(effects, out);
    }

    pub(super) fn media_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        self.calls.on_timeout(now, &mut effects);
        media_output(effects, out);
    }

    /// Partners who may no longer speak have no calls, nor users who may no longer be outside.
    /// `narrower`: somebody may do less than before; then what is of nobody known ends too.
    pub(super) fn media_by_policy(&mut self, narrower: bool, out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        let policy = &self.policy;
        self.calls.keep_partners(|partner| policy.partner(partner).is_ok(), &mut effects);
        self.calls.keep_users(|user| may_be_outside(policy, user), &mut effects);
        if narrower {
            self.calls.end_unknown(&mut effects);
        }
        media_output(effects, out);
    }

    /// A remote user's connection is closed because of who is there: so are the calls on it.
    pub(super) fn media_shut_out(&mut self, connection: ConnectionId, out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        self.calls.end_on(connection, &mut effects);
        media_output(effects, out);
    }

    /// The source of a flow was learned.
    pub fn media_learned(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        out: &mut Vec<Output>,
    ) {
        let mut effects = Effects::default();
        self.calls.learned(now, flow, source, &mut effects);
        media_output(effects, out);
    }

    /// What the kernel has counted: said every few seconds.
    pub fn media_seen(&mut self, now: Instant, flows: &[FlowStatus], out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        self.calls.seen(now, flows, &mut effects);
        media_output(effects, out);
    }

    /// A change of a call's flows could not be put in force: see [`Output::Media`].
    pub fn media_failed(&mut self, now: Instant, call: CallId, out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        self.calls.not_opened(now, call, &mut effects);
        media_output(effects, out);
    }

    /// Every call that has media, or will have some.
    pub fn calls(&self) -> Vec<CallStatus> {
        self.calls.status()
    }

    /// Closes the media of a call; says nothing to anybody. `false`: there is no such call.
    pub fn end_call(&mut self, _now: Instant, call: CallId, out: &mut Vec<Output>) -> bool {
        let mut effects = Effects::default();
        let ended = self.calls.end(call, EndCause::Administrator, &mut effects);
        media_output(effects, out);
        ended
    }

    /// Takes over what is open in the kernel, from the run before; closes what is for nobody. Before
    /// any message.
    pub fn adopt_flows(&mut self, now: Instant, flows: Vec<Flow>, out: &mut Vec<Output>) {
        let mut effects = Effects::default();
        self.calls.adopt(now, flows, &mut effects);
        media_output(effects, out);
    }
}

/// The call that this request is of is over, as with a BYE.
fn over(
    calls: &mut Calls,
    request: &Message,
    inbound: bool,
    partner: Option<&Domain>,
    out: &mut Vec<Output>,
) {
    let to_tag = request.to().ok().and_then(|to| to.tag());
    if let Some(names) = names(request, to_tag, inbound, partner) {
        let mut effects = Effects::default();
        calls.bye(&names, &mut effects);
        media_output(effects, out);
    }
}

/// How a response stands to its request.
struct Says {
    again: bool,
    offered: bool,
    allowed: Modalities,
}

fn answered(
    calls: &mut Calls,
    now: Instant,
    passage: &Passage<'_>,
    message: &Message,
    says: Says,
    call: &mut Option<CallId>,
    effects: &mut Effects,
) -> Result<Option<NewBody>, Fault> {
    let to = message.to().ok();
    let status = message.status().unwrap_or_default();
    let reliable = status < 200 && message.headers_named("RSeq").next().is_some();
    let reply = Reply {
        status,
        tag: to.as_ref().and_then(|to| to.tag()).unwrap_or_default(),
        reliable,
        offered: says.offered,
        again: says.again,
        session: session_timer(message),
    };
    if message.body().is_empty() {
        calls.response(now, passage, &reply, None, effects)?;
        *call = calls.call_of(passage);
        return Ok(None);
    }
    let relays = calls.relays();
    let offered = read(message, says.allowed, relays)?;
    if offered.texts.is_empty() {
        calls.response(now, passage, &reply, None, effects)?;
        *call = calls.call_of(passage);
        return changed(message, &offered, &[], relays);
    }
    check_all(calls, passage, &offered)?;
    let mut texts = Vec::with_capacity(offered.texts.len());
    for (index, (sdp, forbidden)) in offered.texts.iter().zip(&offered.forbidden).enumerate() {
        let passage = Passage { forbidden: *forbidden, ..*passage };
        // Only the last decides: until then it may still fail as a whole.
        let last = index + 1 == offered.texts.len();
        let reply = Reply { status: if last { reply.status } else { 183 }, ..reply };
        let text = calls.response(now, &passage, &reply, Some(sdp), effects)?;
        *call = calls.call_of(&passage);
        texts.push(text.unwrap_or_else(|| sdp.text().clone()));
    }
    changed(message, &offered, &texts, relays)
}

/// A body of several descriptions passes as a whole or not at all.
fn check_all(calls: &Calls, passage: &Passage<'_>, offered: &Offered) -> Result<(), Fault> {
    if offered.texts.len() > 1 {
        for (sdp, forbidden) in offered.texts.iter().zip(&offered.forbidden) {
            calls.check(&Passage { forbidden: *forbidden, ..*passage }, sdp)?;
        }
    }
    Ok(())
}

/// For the firewall first, then for people.
fn media_output(effects: Effects, out: &mut Vec<Output>) {
    if !effects.changes.is_empty() {
        out.push(Output::Media(effects.changes));
    }
    for event in effects.events {
        out.push(Output::Event(Event::Call(event)));
    }
}
