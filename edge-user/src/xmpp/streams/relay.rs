//! What goes between partners and inside servers: whether it may, and how long it is. Nobody else
//! asks, as the gateway never sees it.

use std::time::Instant;

use ring::digest;

use super::{
    Streams, dialback,
    proof::Onward,
    rules::{as_user, turned},
    write,
};
use crate::{
    domain::Domain,
    federation::{Ruling, Sender, UserName},
    xmpp::{
        gateway::errors,
        io::{Pair, StreamId, TlsPeer, XmppRefusal, XmppSide},
        settings::XmppPartnerKind,
        watch::Watched,
        xml::Element,
    },
};

/// A user of an inside server and one of a partner, of whom the first began.
pub(super) type Both = [u8; 16];

/// So many are known; the oldest goes when there are more.
const MOST_INVITED: usize = 100_000;

impl Streams {
    /// Counts changes of what [`Streams::invitations`] gives.
    pub fn invitation_changes(&self) -> u64 {
        self.invited.changes()
    }

    /// Whom users of inside servers invited, to outlive a restart: hashes of the `most` newest, the
    /// oldest first.
    pub fn invitations(&self, most: usize) -> Vec<String> {
        let first = self.invited.len().saturating_sub(most);
        self.invited.all().skip(first).map(|both| dialback::hex(both)).collect()
    }

    /// Takes them back.
    pub fn restore_invitations(&mut self, kept: &[String]) {
        let read = |text: &String| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
        for both in kept.iter().filter_map(read) {
            self.invited.put(both, MOST_INVITED);
        }
    }

    /// A stanza that came on a stream goes to the other side, where that may be.
    pub(super) fn relay(&mut self, now: Instant, id: StreamId, onward: Onward, stanza: Element) {
        let outer = turned(onward.side(), onward.pair().clone());
        let may = match onward.side() {
            XmppSide::Inside => self.is_admitted(now, id, &outer, &stanza),
            XmppSide::Partner => Ok(()),
        };
        let may = may.and_then(|()| {
            let may = self.may_relay(onward.side(), &outer, &stanza);
            may.and_then(|()| self.fits(&stanza)).inspect_err(|(reason, _)| {
                let of_user = matches!(reason, XmppRefusal::UserNoXmpp | XmppRefusal::NotInvited);
                if of_user && onward.side() == XmppSide::Inside && is_unasked(&stanza) {
                    self.note_failure(now, &outer, (&stanza, "to"), "forbidden");
                }
            })
        });
        let Err((reason, condition)) = may else {
            if onward.side() == XmppSide::Partner && stanza.attribute("type") == Some("error") {
                self.note_failure(now, &outer, (&stanza, "from"), errors::read(&stanza).0);
            }
            let (side, pair) = onward.into_way();
            if let Some(to) = self.send(now, side, pair, stanza) {
                self.feeds(now, id, to);
            }
            return;
        };
        let text = match reason {
            XmppRefusal::NotInvited => "users of this partner must be invited first",
            XmppRefusal::XmlLimit => "the stanza becomes too long when it is written",
            XmppRefusal::Throttled => "users of this partner send more than a public service may",
            XmppRefusal::WatchListed => "this partner is on the watch list",
            _ => "the user may not federate over XMPP",
        };
        let named = |name| stanza.attribute(name).unwrap_or_default();
        let text = format!("{} to {}: {text}", named("from"), named("to"));
        self.refused(id, reason, text);
        // Presence is told to many who never asked: errors go to who wants a subscription alone.
        let is_asked = stanza.name() != "presence" || stanza.attribute("type") == Some("subscribe");
        let (back, back_pair) = onward.into_way_back();
        if let (true, Some(error)) = (is_asked, write::stanza_error(&stanza, condition, "")) {
            self.send(now, back, back_pair, error);
        }
    }

    /// What nobody inside asked for, of a partner that nobody vouches for: the watch list says
    /// whether it goes on.
    fn is_admitted(
        &mut self,
        now: Instant,
        id: StreamId,
        outer: &Pair,
        stanza: &Element,
    ) -> Result<(), (XmppRefusal, &'static str)> {
        if !self.rules.is_watched(&outer.remote) || !is_unasked(stanza) {
            return Ok(());
        }
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        let source = stream.address.ip();
        if self.sources.get(&outer.remote) != Some(&source) {
            self.sources.insert(outer.remote.clone(), source);
        }
        let names = stream.tls.as_ref().and_then(TlsPeer::names);
        let user = local_part(stanza, "to").map(as_user);
        let user = UserName::new(user.as_deref(), &outer.local);
        let sender = Sender { domain: &outer.remote, source };
        let what = Watched { sender, user: &user, kind: stanza.name() };
        match self.watch.comes(now, what, names) {
            Ruling::Pass => Ok(()),
            Ruling::Slow => Err((XmppRefusal::Throttled, "resource-constraint")),
            Ruling::Listed => Err((XmppRefusal::WatchListed, "policy-violation")),
        }
    }

    /// A stanza of a partner that is watched failed: this one, or one that this answers. `ours`: the
    /// attribute that names the user inside.
    fn note_failure(
        &mut self,
        now: Instant,
        outer: &Pair,
        (stanza, ours): (&Element, &'static str),
        condition: &str,
    ) {
        let Some(&source) = self.sources.get(&outer.remote) else { return };
        if !self.rules.is_watched(&outer.remote) {
            return;
        }
        let user = local_part(stanza, ours).map(as_user);
        let user = UserName::new(user.as_deref(), &outer.local);
        let sender = Sender { domain: &outer.remote, source };
        let what = Watched { sender, user: &user, kind: stanza.name() };
        self.watch.failed(now, what, errors::status_of(condition, true));
    }

    /// A stanza is not longer for who reads it than it may be for us: it would cost a stream that
    /// many share.
    fn fits(&self, stanza: &Element) -> Result<(), (XmppRefusal, &'static str)> {
        match stanza.written_length() <= self.rules.limits().stanza_bytes {
            true => Ok(()),
            false => Err((XmppRefusal::XmlLimit, "policy-violation")),
        }
    }

    /// `outer`: the inside server's domain and the partner's. `Err`: why not, and what the sender is
    /// told.
    fn may_relay(
        &mut self,
        onward: XmppSide,
        outer: &Pair,
        stanza: &Element,
    ) -> Result<(), (XmppRefusal, &'static str)> {
        let (to_inside, ours, theirs) = match onward {
            XmppSide::Inside => (true, "to", "from"),
            XmppSide::Partner => (false, "from", "to"),
        };
        let (ours, theirs) = (local_part(stanza, ours), local_part(stanza, theirs));
        let user = ours.map(as_user);
        if !self.rules.user_may(&UserName::new(user.as_deref(), &outer.local)) {
            // Outside, who is there is not told.
            let condition = if to_inside { "service-unavailable" } else { "forbidden" };
            return Err((XmppRefusal::UserNoXmpp, condition));
        }
        if self.rules.kind(&outer.remote) != Some(XmppPartnerKind::PublicUnverified) {
            return Ok(());
        }
        let both = both((ours, &outer.local), (theirs, &outer.remote));
        if !to_inside {
            if invites(stanza) {
                self.invited.put(both, MOST_INVITED);
            }
            return Ok(());
        }
        // Errors and answers too: nothing of ours went there that could have one.
        match self.invited.has(&both) {
            true => Ok(()),
            false => Err((XmppRefusal::NotInvited, "service-unavailable")),
        }
    }
}

/// What comes unasked, as far as a stanza tells: what our own users asked for, and what ends or
/// answers something, is no bother.
fn is_unasked(stanza: &Element) -> bool {
    let kind = stanza.attribute("type");
    match stanza.name() {
        "presence" => matches!(kind, Some("subscribe" | "probe")),
        "iq" => matches!(kind, Some("get" | "set")),
        _ => kind != Some("error"),
    }
}

/// Whether a user of ours lets another speak by it. Presence counts: it goes to those whom the user
/// has accepted; answers, refusals and leaving do not.
fn invites(stanza: &Element) -> bool {
    !matches!(
        stanza.attribute("type"),
        Some("error" | "result" | "unsubscribe" | "unsubscribed" | "unavailable")
    )
}

fn local_part<'a>(stanza: &'a Element, name: &'static str) -> Option<&'a str> {
    let text = stanza.attribute(name)?;
    let bare = text.split_once('/').map_or(text, |(bare, _)| bare);
    bare.split_once('@').map(|(local, _)| local)
}

fn both(ours: (Option<&str>, &Domain), theirs: (Option<&str>, &Domain)) -> Both {
    // No part of an address has a line end.
    let of = |(user, domain): (Option<&str>, &Domain)| format!("{}@{domain}\n", user.unwrap_or(""));
    let text = of(ours) + &of(theirs);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut both = Both::default();
    both.copy_from_slice(&hash.as_ref()[..16]);
    both
}
