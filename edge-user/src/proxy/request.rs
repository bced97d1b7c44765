//! Requests that come in, from either side (RFC 3261 sections 16.3 to 16.6).

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::Instant,
};

use super::{
    ConnectionId, Output, Peer, Refusal, Side,
    admit::Judgement,
    exchange::{Exchange, Kind, NewExchange, PROMPTLY, Server, Stage, T4, TRYING, TransactionKey},
    flow::Flow,
    lookups::{Asked, Waiter},
    preflight::for_strict_router,
    proxy::Proxy,
    respond::Answer,
    route::{Destination, Path},
};
use crate::{
    config::Transport,
    domain::Domain,
    federation::{Direction, Partner, PartnerKind},
    media::policy::Modalities,
    sip::{HeaderName, Message, Method, ValueError},
};

/// Where a request goes, before its sender is judged.
struct Plan {
    destinations: VecDeque<Destination>,
    preferred: Option<ConnectionId>,
    partner: Option<Domain>,
    entry: Option<Arc<Partner>>,
    dialog: Option<Domain>,
    /// What the token of its dialog allows.
    allowed: Modalities,
    /// What is outside is a remote user.
    remote: bool,
    /// And says it is of a dialog, without a token.
    stranger: bool,
    remove_routes: usize,
    hash: u32,
}

type Refused = (Answer, Option<Domain>);

impl Proxy {
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let Some(from) = self.connections.get_mut(connection) else { return };
        from.used = now;
        let (peer, scope) = (from.peer.clone(), from.scope);
        let Some(method) = message.method() else {
            return self.on_response(now, connection, &peer, message, out);
        };
        if let Err(error) = message.validate() {
            self.note_refusal(&peer, Refusal::Malformed, None, format!("{method}: {error}"), out);
            if method != Method::Ack && method != Method::Benotify {
                // RFC 4475 section 3.1.2.18: a method that nobody knows is the better reason.
                let answer = match method {
                    Method::Other(_) if message.cseq().is_ok() && error == ValueError::CSeq => {
                        Answer::with(501, "Not Implemented", Refusal::Malformed)
                    }
                    _ => Refusal::Malformed.into(),
                };
                self.answer_stateless(connection, &peer, &message, answer, out);
            }
            return;
        }
        let key = TransactionKey::of(&message, scope);
        let known = self.exchanges.by_key(&key);
        match (method, known) {
            (Method::Cancel, known) => {
                return self.on_cancel(now, connection, &peer, &message, known, out);
            }
            (Method::Ack, Some(id)) if self.absorbs_ack(now, id) => return,
            (Method::Ack, _) | (_, None) => {}
            (_, Some(id)) => {
                self.counters.retransmissions += 1;
                // Once its ACK is there, the answer has been heard.
                let heard = |exchange: &Exchange| exchange.server == Server::Confirmed;
                if !self.exchanges.get(id).is_some_and(heard)
                    && let Some(bytes) = self.exchanges.last_response(id)
                {
                    out.push(Output::Send { connection, bytes });
                }
                return;
            }
        }
        if method == Method::Ack && self.is_ours_to_drop(&message) {
            return;
        }
        let message = self.loosen_strict_router(now, &message, peer.side).unwrap_or(message);
        let message = self.without_own_maddr(&message).unwrap_or(message);
        let scope = self.share(&message, &peer, scope);
        let plan = match self.plan(now, connection, &message, &peer, scope, out) {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                let answer = Answer::new(200, "OK");
                return self.answer_stateless(connection, &peer, &message, answer, out);
            }
            Err(refused) => {
                self.refuse(connection, &peer, &message, refused, out);
                if let Some(ban) = self.guard.take_ban() {
                    self.shut_out(now, &ban, out);
                }
                return;
            }
        };
        self.begin(now, connection, scope, peer, message, key, plan, out);
    }

    /// The checks of RFC 3261 section 16.3 and the route; `None` when the request is for this
    /// appliance itself.
    fn plan(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        message: &Message,
        peer: &Peer,
        scope: u64,
        out: &mut Vec<Output>,
    ) -> Result<Option<Plan>, Refused> {
        let of = |answer: Answer| (answer, None);
        self.preflight(message, peer).map_err(of)?;
        if let Some(reason) = self.overloaded(message, peer, scope) {
            return Err(of(reason.into()));
        }
        let path = self.path(now, message, connection, peer.side);
        let path = path.map_err(|reason| of(reason.into()))?;
        if peer.side == Side::Inside {
            // Whatever becomes of it: a connection that is gone must not keep a call's media open.
            let flow = self.flow_of(&path).is_some();
            let partner = path.token.as_ref().map(|token| &token.partner).filter(|_| !flow);
            if flow || partner.is_some() {
                self.media_bye(message, false, partner, out);
            }
        }
        if let Some(token) = &path.token {
            self.judge_parties(message, token, peer.side).map_err(|reason| of(reason.into()))?;
        }
        self.drained(now, message, &path).map_err(|reason| of(reason.into()))?;
        if path.token.is_none() && path.flow.is_none() && self.is_ping(message) {
            return Ok(None);
        }
        if let Some(reason) = self.crowded(now, message, connection, peer, path.token.is_some()) {
            return Err(of(reason.into()));
        }
        if message.max_forwards().ok().flatten() == Some(0) {
            return Err(of(Refusal::TooManyHops.into()));
        }
        let hash = self.config.loop_hash(message, peer.side);
        if self.config.loops(message, hash) {
            return Err(of(Refusal::Loop.into()));
        }
        match peer.side {
            Side::Partner | Side::Gateway => {
                self.plan_inbound(now, message, path, hash).map_err(of).map(Some)
            }
            Side::Remote => self
                .plan_from_user(now, (connection, peer), message, path, hash)
                .map_err(of)
                .map(Some),
            Side::Inside => match self.flow_of(&path) {
                Some(flow) => self.plan_to_user(flow, message, &path, hash).map_err(of).map(Some),
                None => self.plan_outbound(now, message, path, hash).map(Some),
            },
        }
    }

    /// OPTIONS for the appliance's own name: somebody asks whether it lives.
    fn is_ping(&self, message: &Message) -> bool {
        message.method() == Some(Method::Options)
            && message.request_uri().and_then(Result::ok).is_some_and(|uri| {
                uri.user().is_none()
                    && uri.host().is_some_and(|host| self.config.is_me(host, uri.port()))
                    && !crate::proxy::admit::sip_domain(&uri)
                        .is_some_and(|domain| self.policy.is_ours(&domain))
            })
    }

    fn plan_inbound(
        &self,
        now: Instant,
        message: &Message,
        path: Path,
        hash: u32,
    ) -> Result<Plan, Answer> {
        self.judge_maddr(message, path.token.is_some())?;
        let ways = self.ways_inside(message, path.token.as_ref())?;
        Ok(self.plan_to_hops(now, ways, path, hash))
    }

    /// To these next hops, in the order in which they work; of a dialog first to the server that it
    /// is with.
    fn plan_to_hops(
        &self,
        now: Instant,
        mut ways: Vec<Destination>,
        path: Path,
        hash: u32,
    ) -> Plan {
        self.order_hops(now, &mut ways);
        let token = path.token;
        let allowed = token.as_ref().map_or(Modalities::ALL, |token| token.allowed);
        let preferred =
            token.as_ref().filter(|token| token.inside_transport != Transport::Udp).and_then(
                |token| self.connections.inside_at(token.inside_transport, token.inside_remote),
            );
        Plan {
            destinations: ways.into(),
            preferred,
            partner: None,
            entry: None,
            dialog: token.map(|token| token.partner),
            allowed,
            remote: false,
            stranger: false,
            remove_routes: path.remove,
            hash,
        }
    }

    /// From a remote user: to the next hops of the user's own domain, whatever it asks for.
    fn plan_from_user(
        &mut self,
        now: Instant,
        from: (ConnectionId, &Peer),
        message: &Message,
        path: Path,
        hash: u32,
    ) -> Result<Plan, Answer> {
        let domain = self.judge_remote(now, message, path.token.as_ref())?;
        self.judge_maddr(message, path.token.is_some())?;
        let ways = self.ways_to_hops(message, domain.as_ref(), path.token.as_ref())?;
        self.judge_login(now, from, message)?;
        let begins = message.method() == Some(Method::Invite)
            && message.to().is_ok_and(|to| to.tag().is_none());
        let stranger = path.token.is_none() && !begins;
        let plan = self.plan_to_hops(now, ways, path, hash);
        Ok(Plan { dialog: None, remote: true, stranger, ..plan })
    }

    /// To a remote user: over the connection that it registered on, or that its dialog is on.
    fn plan_to_user(
        &self,
        flow: Flow,
        message: &Message,
        path: &Path,
        hash: u32,
    ) -> Result<Plan, Answer> {
        let connection = self.connection_of(flow).ok_or(Refusal::FlowFailed)?;
        self.judge_called_outside(message, flow, path.token.as_ref())?;
        Ok(Plan {
            destinations: VecDeque::from([Destination::Flow(connection)]),
            preferred: None,
            partner: None,
            entry: None,
            dialog: None,
            allowed: Modalities::ALL,
            remote: true,
            stranger: false,
            remove_routes: path.remove,
            hash,
        })
    }

    fn plan_outbound(
        &mut self,
        now: Instant,
        message: &Message,
        path: Path,
        hash: u32,
    ) -> Result<Plan, Refused> {
        let entry = self.way_outside(now, message, path.token.as_ref())?;
        if entry.kind == PartnerKind::Xmpp {
            return self.plan_to_gateway(entry, path, hash);
        }
        let own = self.own_identity(message);
        let preferred = path.token.as_ref().and_then(|token| {
            self.connections
                .for_domain(now, entry.key())
                .find(|(_, connection)| {
                    let peer = &connection.peer;
                    peer.remote == token.partner_remote && peer.own == own
                })
                .map(|(id, _)| id)
        });
        let allowed = path.token.as_ref().map_or(Modalities::ALL, |token| token.allowed);
        Ok(Plan {
            allowed,
            destinations: VecDeque::from([Destination::Partner(entry.key().clone(), own)]),
            preferred,
            dialog: path.token.map(|token| token.partner),
            partner: Some(entry.domain.clone()),
            entry: Some(entry),
            remote: false,
            stranger: false,
            remove_routes: path.remove,
            hash,
        })
    }

    /// To an XMPP partner: the gateway of this appliance takes it, without DNS.
    fn plan_to_gateway(&self, entry: Arc<Partner>, path: Path, hash: u32) -> Result<Plan, Refused> {
        let gone = || (Refusal::Unreachable.into(), Some(entry.domain.clone()));
        let gateway = self.connections.gateway().ok_or_else(gone)?;
        Ok(Plan {
            destinations: VecDeque::from([Destination::Flow(gateway)]),
            preferred: None,
            partner: Some(entry.domain.clone()),
            entry: Some(entry),
            allowed: path.token.as_ref().map_or(Modalities::ALL, |token| token.allowed),
            dialog: path.token.map(|token| token.partner),
            remote: false,
            stranger: false,
            remove_routes: path.remove,
            hash,
        })
    }

    /// As which of our own identities a request of ours goes out: by its From's domain.
    fn own_identity(&self, message: &Message) -> u8 {
        if self.config.identities.is_empty() {
            return 0;
        }
        let from = message.from().ok().and_then(|from| crate::proxy::admit::sip_domain(&from.uri));
        from.map_or(0, |from| self.config.own_for(&from))
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where all of it meets")]
    fn begin(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        scope: u64,
        peer: Peer,
        message: Message,
        key: TransactionKey,
        plan: Plan,
        out: &mut Vec<Output>,
    ) {
        let message = for_strict_router(&message, plan.remove_routes).unwrap_or(message);
        let Some(method) = message.method() else { return };
        let kind = match method {
            Method::Invite => Kind::Invite,
            Method::Ack | Method::Benotify => Kind::OneWay,
            _ => Kind::NonInvite,
        };
        let forms_dialog = method.forms_dialog() && message.to().is_ok_and(|to| to.tag().is_none());
        let inbound = peer.side != Side::Inside;
        let to_be_admitted = matches!(peer.side, Side::Partner | Side::Gateway);
        let id = self.exchanges.insert(NewExchange {
            kind,
            inbound,
            remote: plan.remote,
            stranger: plan.stranger,
            from: connection,
            scope,
            hash: plan.hash,
            // RFC 6665 section 4.3: a NOTIFY may be what forms the dialog.
            record: forms_dialog || method == Method::Notify,
            key,
            remove_routes: plan.remove_routes,
            destinations: plan.destinations,
            preferred: plan.preferred,
            dialog: plan.dialog,
            allowed: plan.allowed,
            partner: plan.partner,
            entry: plan.entry,
            from_peer: peer,
            request: message,
        });
        if to_be_admitted {
            return self.admit(now, id, out);
        }
        self.media_bye_of(id, out);
        self.trying(now, id, out);
        self.advance(now, id, out);
    }

    /// Judges an exchange from a partner, now or when DNS has answered.
    pub(super) fn admit(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if !exchange.inbound || exchange.partner.is_some() {
            return;
        }
        let (from, dialog, bound) = (exchange.from, exchange.dialog.clone(), exchange.allowed);
        // Taken out while it is looked at, and put back.
        let taken = self.exchanges.update(id, |exchange| exchange.request.take());
        let Some(request) = taken.flatten() else { return };
        let judgement = self.judge(now, from, &request, (dialog.as_ref(), bound), out);
        let allowed = match &judgement {
            Judgement::Admitted(entry) => {
                self.modalities_of_dialog(Direction::In, &request, dialog.is_some(), bound, entry)
            }
            _ => bound,
        };
        self.exchanges.update(id, |exchange| exchange.request = Some(request));
        match judgement {
            Judgement::Admitted(entry) => {
                let discovered = entry.kind == PartnerKind::DiscoveredDomain;
                self.exchanges.update(id, |exchange| {
                    exchange.partner = Some(entry.domain.clone());
                    exchange.entry = Some(entry);
                    exchange.allowed = allowed;
                    exchange.timeout = None;
                    exchange.stage = Stage::Over;
                });
                if discovered {
                    self.leave_places(now, from, out);
                }
                if let Err(reason) = self.meter_request(now, id, out) {
                    return self.conclude(now, id, reason.into(), out);
                }
                self.media_bye_of(id, out);
                self.trying(now, id, out);
                self.advance(now, id, out);
            }
            Judgement::Ask { question, lookup } => {
                let until = now + self.config.bounds.wait;
                self.exchanges.update(id, |exchange| {
                    exchange.stage = Stage::Admitting;
                    exchange.timeout.get_or_insert(until);
                });
                let waiter = Waiter::Admission(id);
                let limit = self.config.bounds.waiting_for_one();
                let brought_by = self.brought_by(from, &question);
                match self.lookups.ask(now, &question, lookup, waiter, limit, brought_by, out) {
                    Asked::Waits => self.trying_soon(now, id),
                    Asked::Full => self.conclude(now, id, Refusal::Overload.into(), out),
                    // It was not known a moment ago: cannot be; refuse rather than spin.
                    Asked::Known => {
                        self.conclude(now, id, Refusal::IdentityNotProved.into(), out);
                    }
                }
            }
            Judgement::Refused(reason, domain) => {
                let blocked = domain.clone().filter(|_| reason == Refusal::DomainBlocked);
                self.exchanges.update(id, |exchange| exchange.partner = domain);
                self.conclude(now, id, reason.into(), out);
                if let Some(domain) = blocked {
                    self.spoke_for_blocked(now, from, domain, out);
                }
            }
        }
    }

    /// 100: at once for INVITE (RFC 3261 section 17.2.1), since what follows may take a while; for
    /// other requests when they have been waiting for as long as their sender's timer E takes to
    /// reach T2 (RFC 4320 section 4.1).
    fn trying(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        match exchange.kind {
            Kind::Invite if exchange.last_response.is_none() => self.say_trying(id, out),
            Kind::NonInvite if exchange.last_response.is_none() => {
                self.exchanges.update(id, |exchange| {
                    exchange.trying.get_or_insert(now + TRYING);
                });
            }
            _ => {}
        }
    }

    /// The same while DNS is asked who the sender is: of an INVITE after what RFC 3261 section 17.2.1
    /// leaves us, or it would be sent again, or elsewhere.
    fn trying_soon(&mut self, now: Instant, id: u64) {
        self.exchanges.update(id, |exchange| {
            let wait = match exchange.kind {
                Kind::Invite => PROMPTLY,
                Kind::NonInvite => TRYING,
                Kind::OneWay => return,
            };
            if exchange.last_response.is_none() {
                exchange.trying.get_or_insert(now + wait);
            }
        });
    }

    pub(super) fn say_trying(&mut self, id: u64, out: &mut Vec<Output>) {
        if let Some(bytes) = self.own_answer(id, Answer::new(100, "Trying")) {
            self.exchanges.update(id, |exchange| {
                exchange.last_response = Some(bytes.clone());
                exchange.trying = None;
            });
            self.send_back(id, bytes, out);
        }
    }

    /// Refuses a request for which nothing is kept.
    #[cold]
    fn refuse(
        &mut self,
        connection: ConnectionId,
        peer: &Peer,
        message: &Message,
        (answer, domain): Refused,
        out: &mut Vec<Output>,
    ) {
        let Some(method) = message.method() else { return };
        if let Some(reason) = answer.reason {
            self.note_refusal(peer, reason, domain.clone(), refusal_detail(message), out);
        }
        if method != Method::Ack && method != Method::Benotify {
            let domain = domain.as_ref();
            self.answer_stateless_about(connection, peer, message, domain, answer, out);
        }
    }

    fn on_cancel(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        peer: &Peer,
        message: &Message,
        known: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let invite = known.filter(|id| self.exchanges.is_invite(*id));
        let answer = match invite {
            Some(_) => Answer::new(200, "OK"),
            None => Answer::new(481, "Call/Transaction Does Not Exist"),
        };
        self.answer_stateless(connection, peer, message, answer, out);
        if let Some(id) = invite {
            let says_why = [HeaderName::Reason, HeaderName::MsDiagnosticsPublic]
                .into_iter()
                .any(|name| message.header(name).is_some());
            if says_why {
                let came = Some(Box::new(message.clone()));
                self.exchanges.update(id, |exchange| {
                    if exchange.server == Server::Proceeding {
                        exchange.cancel_came = came;
                    }
                });
            }
            self.cancel(now, id, out);
        }
    }

    /// An ACK for a final response that is not a 2xx ends here (RFC 3261 section 17.2.1).
    fn absorbs_ack(&mut self, now: Instant, id: u64) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        match exchange.server {
            Server::Completed if exchange.kind == Kind::Invite => {}
            Server::Confirmed => return true,
            _ => return false,
        }
        let client_reliable = exchange.client().is_none_or(|client| client.reliable);
        if exchange.sender_is_reliable() && client_reliable {
            self.exchanges.remove(id);
            return true;
        }
        self.exchanges.update(id, |exchange| {
            exchange.server = Server::Confirmed;
            exchange.server_resend = None;
            // Timer I; timer D of an unreliable client side has been running since the answer.
            if client_reliable {
                exchange.end = Some(now + T4);
            }
        });
        true
    }

    /// An ACK for a refusal of ours that nothing was kept for.
    fn is_ours_to_drop(&self, message: &Message) -> bool {
        message.to().is_ok_and(|to| to.tag() == Some(self.stateless_tag(message).as_str()))
    }

    /// Our To tag for a request: the same each time it is asked.
    pub(super) fn stateless_tag(&self, message: &Message) -> String {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.config.token_secret);
        hasher.write(message.text(HeaderName::CallId).unwrap_or_default().as_bytes());
        hasher.write_u8(0);
        let tag = message.header(HeaderName::From).map_or(&b""[..], |header| header.value);
        hasher.write(tag);
        format!("edge{:016x}", hasher.finish())
    }
}

/// For people: the method and where the request wanted to go.
pub(super) fn refusal_detail(message: &Message) -> String {
    let method = message.method().map_or("", |method| method.as_str());
    match message.request_uri() {
        Some(Ok(uri)) => match uri.host() {
            Some(host) => format!("{method} to {host}"),
            None => format!("{method} to another scheme"),
        },
        _ => method.to_owned(),
    }
}
