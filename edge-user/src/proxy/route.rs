//! Where a request may go (trust rules, section 4): to the next hops of one of our domains, to an
//! allowed partner, or along a Route that is ours and verifies. Nothing else that a message names
//! chooses a destination.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::{
    ConnectionId, Refusal, Side,
    flow::Flow,
    proxy::Proxy,
    respond::Answer,
    route_set::RouteSet,
    token::{Token, TokenFault},
};
use crate::{
    config::Transport,
    domain::Domain,
    federation::Partner,
    media::policy::Modalities,
    sip::{HeaderName, Message, NameAddr},
};

use super::admit::sip_domain;

/// Whom to send to. What the addresses are is found out later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// A partner's edges, and as which of our own identities.
    Partner(Domain, u8),
    /// One of our next hops, by its place in the list.
    NextHop(usize),
    /// A server inside that a verified token names; UDP has no connection that would end.
    InsideUdp(SocketAddr),
    /// The same server as another way leads to by UDP, for a request that is long (RFC 3261 section
    /// 18.1.1).
    InsideTcp(SocketAddr),
    /// A remote user's connection, or the XMPP gateway's: that one or none.
    Flow(ConnectionId),
}

impl Destination {
    /// The partner whose edges it stands for; `None`: what is inside.
    pub(super) fn partner(&self) -> Option<&Domain> {
        match self {
            Destination::Partner(key, _) => Some(key),
            _ => None,
        }
    }

    /// The list of next hops changed. One that is gone becomes a place that there is not: what
    /// waits for it goes on to the next.
    pub(super) fn renumber(&mut self, place: impl Fn(usize) -> Option<usize>) {
        if let Destination::NextHop(index) = self {
            *index = place(*index).unwrap_or(usize::MAX);
        }
    }
}

/// The Route headers, read.
#[derive(Debug)]
pub(super) struct Path {
    /// The dialog, when it is one of ours.
    pub token: Option<Token>,
    /// A remote user's connection, from inside only: what was in `Path`.
    pub flow: Option<Flow>,
    /// Route values to take off: ours.
    pub remove: usize,
}

impl Proxy {
    /// Reads the Route headers: none, or ours first.
    pub(super) fn path(
        &mut self,
        now: Instant,
        message: &Message,
        connection: ConnectionId,
        side: Side,
    ) -> Result<Path, Refusal> {
        let mut routes = message.list(HeaderName::Route);
        let Some(first) = routes.next() else {
            return Ok(Path { token: None, flow: None, remove: 0 });
        };
        let mut route = NameAddr::parse(first.value).map_err(|_| Refusal::Malformed)?;
        let mut remove = 1;
        if self.is_bare(&route) {
            // An outbound proxy that is preloaded: us. It says nothing.
            match routes.next() {
                None => return Ok(Path { token: None, flow: None, remove }),
                Some(next) => {
                    route = NameAddr::parse(next.value).map_err(|_| Refusal::Malformed)?;
                }
            }
            remove += 1;
        }
        let text = route.uri.user().ok_or(Refusal::ForeignRoute)?;
        if side == Side::Inside
            && let Some(flow) = self.flows.verify(text)
        {
            return Ok(Path { token: None, flow: Some(flow), remove });
        }
        let from = message.from().map_err(|_| Refusal::Malformed)?;
        let to = message.to().map_err(|_| Refusal::Malformed)?;
        let call_id = message.call_id().map_err(|_| Refusal::Malformed)?;
        let token = self.keys.check(now, text, side != Side::Inside, call_id, &from, &to).map_err(
            |fault| match fault {
                TokenFault::Foreign => Refusal::ForeignRoute,
                TokenFault::Expired => Refusal::DialogTooOld,
            },
        )?;
        self.fits_the_side(&token, connection, side)?;
        // We wrote two, one for each side (RFC 5658): the second goes too.
        if let Some(second) = routes.next()
            && let Ok(second) = NameAddr::parse(second.value)
        {
            if second.uri.user() == Some(text) {
                remove += 1;
            } else if second.uri.host().is_some_and(|h| self.config.is_me(h, second.uri.port())) {
                return Err(Refusal::ForeignRoute);
            }
        }
        // Behind ours there is what our own servers wrote, or it would choose a host inside.
        let behind = message.list(HeaderName::Route).skip(remove).map(|route| route.value);
        if side != Side::Inside && RouteSet::of(behind) != token.routes {
            return Err(Refusal::ForeignRoute);
        }
        Ok(Path { token: Some(token), flow: None, remove })
    }

    /// A Route value that names us and no user.
    fn is_bare(&self, route: &NameAddr<'_>) -> bool {
        route.uri.user().is_none()
            && route.uri.host().is_some_and(|host| self.config.is_me(host, route.uri.port()))
    }

    /// Destinations of a request from a partner.
    pub(super) fn ways_inside(
        &self,
        message: &Message,
        token: Option<&Token>,
    ) -> Result<Vec<Destination>, Answer> {
        let uri = message.request_uri().and_then(Result::ok).ok_or(Refusal::Malformed)?;
        let domain = sip_domain(&uri);
        match token {
            // Where our server's user is, was told in the dialog. What names nobody else's host is
            // none.
            Some(_)
                if uri.host().is_some_and(|host| self.config.is_no_target(host, uri.port())) =>
            {
                return Err(Refusal::Transit.into());
            }
            Some(_) => {}
            None if !uri.is_sip() => {
                return Err(Answer::with(404, "Not Found", Refusal::Transit));
            }
            None if !domain.as_ref().is_some_and(|domain| self.policy.is_ours(domain)) => {
                return Err(Refusal::Transit.into());
            }
            None => {}
        }
        self.ways_to_hops(message, domain.as_ref(), token)
    }

    /// The next hops that serve a domain of ours; of a dialog first the server that it is with.
    pub(super) fn ways_to_hops(
        &self,
        message: &Message,
        domain: Option<&Domain>,
        token: Option<&Token>,
    ) -> Result<Vec<Destination>, Answer> {
        let mut ways = Vec::with_capacity(self.config.next_hops.len() + 1);
        if let Some(token) = token
            && token.inside_transport == Transport::Udp
        {
            ways.push(Destination::InsideUdp(token.inside_remote));
        }
        let uri = message.request_uri().and_then(Result::ok).ok_or(Refusal::Malformed)?;
        // `sips:` says TLS on every hop (RFC 3261 section 26.2.2).
        let secure = uri.scheme() == crate::sip::Scheme::Sips;
        if secure {
            ways.clear();
        }
        let serves = |index: &usize| {
            let hop = self.config.next_hops.get(*index);
            hop.is_some_and(|hop| !secure || hop.transport == Transport::Tls)
        };
        // Within a dialog the Request-URI names a server; To names the domain.
        let ours = |domain: &Domain| self.policy.is_ours(domain);
        let called = domain.filter(|domain| ours(domain)).cloned().or_else(|| {
            let to = message.to().ok().and_then(|to| sip_domain(&to.uri));
            to.filter(|domain| token.is_some() && ours(domain))
        });
        let hops = self.hops_for(called.as_ref()).into_iter().filter(serves);
        ways.extend(hops.map(Destination::NextHop));
        if ways.is_empty() {
            return Err(Answer::with(480, "Temporarily Unavailable", Refusal::Unreachable));
        }
        Ok(ways)
    }

    /// The partner that a request from inside goes to.
    pub(super) fn way_outside(
        &self,
        now: Instant,
        message: &Message,
        token: Option<&Token>,
    ) -> Result<Arc<Partner>, (Answer, Option<Domain>)> {
        let domain = match token {
            Some(token) => token.partner.clone(),
            None => {
                self.judge_inside(message).map_err(|reason| (reason.into(), None))?;
                let uri = message
                    .request_uri()
                    .and_then(Result::ok)
                    .ok_or((Refusal::Malformed.into(), None))?;
                if !uri.is_sip() {
                    let answer = Answer::with(404, "Not Found", Refusal::DomainNotAllowed);
                    return Err((answer, None));
                }
                sip_domain(&uri).ok_or((Refusal::DomainNotAllowed.into(), None))?
            }
        };
        let entry =
            self.policy.partner(&domain).map_err(|reason| (reason.into(), Some(domain.clone())))?;
        let entry = self.carried_by(now, entry);
        let allowed = token.map_or(Modalities::ALL, |token| token.allowed);
        self.judge_user_outside(message, (token.is_some(), allowed), &entry)?;
        Ok(entry)
    }
}
