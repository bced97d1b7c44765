//! Remote users (trust rules, section 1): users of ours who are outside, on connections without a
//! certificate.
//!
//! Nothing is proved here: who they are, our servers ask, and this edge never challenges. What it
//! keeps is that nobody uses it as an open relay: From is a user of a domain served here who has the
//! right `outside`; everything goes to the next hops of that domain and never to a partner; and the
//! Request-URI is a user of ours or of somebody with whom that user may federate.
//!
//! The way back is the connection itself: `Path` for who registers (RFC 3327, RFC 5626), the token
//! in Record-Route for dialogs. Both lead to that one connection, or get 430.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{
    ConnectionId, Event, Output, Peer, Refusal, Side,
    admit::{is_anonymous, sip_domain},
    contacts::{ContactKey, Outcome, outcome},
    exchange::Exchange,
    flow::Flow,
    proxy::Proxy,
    respond::Answer,
    route::Path,
    token::Token,
};
use crate::{
    domain::Domain,
    federation::UserName,
    media::policy::Modalities,
    sip::{HeaderName, Message, Method, Scheme, Uri},
};

/// Users who may be registered on one connection; more are not shown.
const MAX_USERS: usize = 16;

/// A user who registered on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedIn {
    name: Box<str>,
    domain: Domain,
    until: Instant,
    contact: ContactKey,
}

impl fmt::Display for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.domain)
    }
}

impl SignedIn {
    pub(super) fn is_registered(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Whether it is this user, and registered.
    pub(super) fn is(&self, now: Instant, user: &UserName<'_>) -> bool {
        self.is_registered(now) && self.user() == *user
    }

    fn user(&self) -> UserName<'_> {
        UserName::new(Some(&self.name), &self.domain)
    }
}

impl Proxy {
    /// Whether a remote user may send this; gives the user's domain, where it is ours. `token`: of
    /// the dialog, verified, on this very connection.
    pub(super) fn judge_remote(
        &self,
        now: Instant,
        message: &Message,
        token: Option<&Token>,
    ) -> Result<Option<Domain>, Answer> {
        let from = message.from().map_err(|_| Refusal::Malformed)?;
        let domain = sip_domain(&from.uri).filter(|domain| self.policy.is_ours(domain));
        // There is no registration within a dialog: it would pass by what is asked of one.
        if token.is_some() && message.method() == Some(Method::Register) {
            return Err(Refusal::ForeignRoute.into());
        }
        if let Some(token) = token {
            // The parties are those that the token covers.
            match (&domain, token.flow) {
                (Some(domain), _) if token.inbound => self.may_sign_in(&from.uri, domain)?,
                (_, Some(flow)) if !token.inbound => self.may_be_called(flow, &from.uri)?,
                _ => {}
            }
            return Ok(domain);
        }
        let Some(domain) = domain.filter(|_| from.uri.user().is_some()) else {
            let anonymous = is_anonymous(message);
            return Err(if anonymous { Refusal::Anonymous } else { Refusal::NotOurUser }.into());
        };
        self.may_sign_in(&from.uri, &domain)?;
        let uri = message.request_uri().and_then(Result::ok).ok_or(Refusal::Malformed)?;
        match message.method() {
            Some(Method::Register) => self.judge_register(message, &uri)?,
            _ => self.judge_called(now, message, &uri)?,
        }
        Ok(Some(domain))
    }

    fn may_sign_in(&self, user: &Uri<'_>, domain: &Domain) -> Result<(), Refusal> {
        let rights = self.policy.users().rights(&UserName::new(user.user(), domain));
        if rights.outside { Ok(()) } else { Err(Refusal::UserNoOutside) }
    }

    /// Whether a remote user may still be written to: a right that was taken away ends a dialog,
    /// whether its user is registered or not. Connections of users who are, are closed with the
    /// right. To end it is always possible.
    pub(super) fn judge_called_outside(
        &self,
        message: &Message,
        flow: Flow,
        token: Option<&Token>,
    ) -> Result<(), Refusal> {
        if matches!(message.method(), Some(Method::Bye | Method::Ack | Method::Cancel)) {
            return Ok(());
        }
        let to = message.to().map_err(|_| Refusal::Malformed)?;
        if !token.is_some_and(|token| token.inbound) {
            return self.may_be_called(flow, &to.uri);
        }
        match sip_domain(&to.uri).filter(|domain| self.policy.is_ours(domain)) {
            Some(domain) => self.may_sign_in(&to.uri, &domain),
            None => Ok(()),
        }
    }

    /// Whether who was called on this connection may still be there. Whoever called may have named
    /// somebody else, a group perhaps: then it is one of those who registered there.
    fn may_be_called(&self, flow: Flow, called: &Uri<'_>) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(flow.connection) else { return Ok(()) };
        let domain = sip_domain(called);
        let named = domain.as_ref().map(|domain| UserName::new(called.user(), domain));
        let is_named = |user: &&SignedIn| named.as_ref() == Some(&user.user());
        let may = match connection.were.iter().find(is_named) {
            Some(user) => self.still_may(user),
            None => connection.were.iter().all(|user| self.still_may(user)),
        };
        if may { Ok(()) } else { Err(Refusal::UserNoOutside) }
    }

    fn still_may(&self, user: &SignedIn) -> bool {
        self.policy.is_ours(&user.domain) && self.policy.users().rights(&user.user()).outside
    }

    /// A registration is for a user of ours, at one of our domains; and the way back to it is ours
    /// alone to write.
    fn judge_register(&self, message: &Message, uri: &Uri<'_>) -> Result<(), Refusal> {
        let ours = |uri: &Uri<'_>| sip_domain(uri).filter(|domain| self.policy.is_ours(domain));
        if ours(uri).is_none() || uri.user().is_some() {
            return Err(Refusal::Transit);
        }
        let to = message.to().map_err(|_| Refusal::Malformed)?;
        let domain = ours(&to.uri).ok_or(Refusal::NotOurUser)?;
        self.may_sign_in(&to.uri, &domain)?;
        match message.header(HeaderName::Path) {
            Some(_) => Err(Refusal::ForeignRoute),
            None => Ok(()),
        }
    }

    /// Whom a remote user may ask for: our own users, telephone numbers, and users of those with whom
    /// that user may federate. All of it goes inside; no host of ours is named.
    fn judge_called(&self, now: Instant, message: &Message, uri: &Uri<'_>) -> Result<(), Answer> {
        if uri.scheme() == Scheme::Tel {
            return Ok(());
        }
        let domain = sip_domain(uri).ok_or(Refusal::Transit)?;
        if self.policy.is_ours(&domain) {
            return Ok(());
        }
        let ours = uri.host().is_some_and(|host| self.config.is_me(host, None));
        if ours || self.policy.is_below_ours(&domain) {
            return Err(Refusal::Transit.into());
        }
        let entry = self.carried_by(now, self.policy.partner(&domain)?);
        self.judge_user_outside(message, (false, Modalities::ALL), &entry)
            .map_err(|(answer, _)| answer)
    }

    /// Whether a verified token may be used on this connection.
    pub(super) fn fits_the_side(
        &self,
        token: &Token,
        connection: ConnectionId,
        side: Side,
    ) -> Result<(), Refusal> {
        match (side, token.flow) {
            (Side::Inside, _) | (Side::Partner | Side::Gateway, None) => Ok(()),
            (Side::Partner | Side::Gateway, Some(_)) | (Side::Remote, None) => {
                Err(Refusal::ForeignRoute)
            }
            (Side::Remote, Some(flow)) if flow == self.flows.flow(connection) => Ok(()),
            (Side::Remote, Some(_)) => Err(Refusal::FlowFailed),
        }
    }

    /// The remote user's connection that a request from inside names.
    pub(super) fn flow_of(&self, path: &Path) -> Option<Flow> {
        path.flow.or(path.token.as_ref().and_then(|token| token.flow))
    }

    /// That connection, if it lives.
    pub(super) fn connection_of(&self, flow: Flow) -> Option<ConnectionId> {
        let found = self.connections.get(flow.connection)?;
        let live = self.flows.is_of_this_run(flow) && found.peer.side == Side::Remote;
        live.then_some(flow.connection)
    }

    /// What a registration's `Path` says on its way inside.
    pub(super) fn path_of(
        &self,
        exchange: &Exchange,
        request: &Message,
        peer: &Peer,
    ) -> Option<String> {
        if !exchange.remote || !exchange.inbound || request.method() != Some(Method::Register) {
            return None;
        }
        let first = request.list(HeaderName::Via).nth(1).is_none();
        Some(self.config.path(peer, &self.flows.sign(exchange.from), first))
    }

    /// Notes who is registered on a connection, when our servers say so.
    pub(super) fn note_registration(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        response: &Message,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id).filter(|e| e.remote && e.inbound) else {
            return;
        };
        let Some(request) = &exchange.request else { return };
        if request.method() != Some(Method::Register) || !(200..300).contains(&status) {
            return;
        }
        let Ok(to) = request.to() else { return };
        let (Some(name), Some(domain)) = (to.uri.user(), sip_domain(&to.uri)) else { return };
        let user = UserName::new(Some(name), &domain);
        let from = exchange.from;
        let Outcome { bound, ended } = outcome(request, response);
        let is = |own: &SignedIn| own.user() == user;
        // What is bound here as before is nowhere else.
        let stays = |own: &SignedIn| is(own) && ended == [Some(own.contact)];
        let known = self.connections.get(from).is_some_and(|c| c.users.iter().any(stays));
        if bound.is_none() || !known {
            let over = |own: &SignedIn| {
                is(own) && ended.iter().any(|key| key.is_none_or(|key| key == own.contact))
            };
            self.connections.keep_users(|own| !over(own));
        }
        let Some(connection) = self.connections.get_mut(from) else { return };
        let remote = connection.peer.remote;
        let users = &mut connection.users;
        // A question that binds nothing changes nothing.
        users.retain(|own| own.until > now && (ended.is_empty() || !is(own)));
        let until = bound.and_then(|(contact, seconds)| {
            Some((contact, now.checked_add(Duration::from_secs(seconds))?))
        });
        if let Some((contact, until)) = until.filter(|_| users.len() < MAX_USERS) {
            let user = SignedIn { name: name.into(), domain: domain.clone(), until, contact };
            // The oldest goes: of those that are over it is the one that is least in a call.
            connection.were.retain(|other| other.user() != user.user());
            if connection.were.len() >= MAX_USERS {
                connection.were.remove(0);
            }
            connection.were.push(user.clone());
            users.push(user);
            out.push(Output::Event(Event::SignedIn { connection: from, remote }));
        }
    }

    /// Forgets registrations that ended by time alone.
    pub fn tidy_users(&mut self, now: Instant) {
        self.connections.keep_users(|user| user.until > now);
    }

    /// The policy changed: connections of users who may no longer sign in from outside are closed.
    pub(super) fn close_signed_out(&mut self, now: Instant, out: &mut Vec<Output>) {
        let may = |user: &SignedIn| self.still_may(user);
        let out_of_right: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.users.iter().all(may))
            .map(|(id, _)| id)
            .collect();
        for connection in out_of_right {
            self.close(now, connection, Refusal::UserNoOutside, out);
        }
    }
}
