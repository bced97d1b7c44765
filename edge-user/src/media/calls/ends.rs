//! How calls end, beside failing.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use super::{
    CallNames, Calls, Effects,
    call::{AnswerBy, LEARN_AGAIN, Parties},
    tag_code,
};
use crate::{
    domain::Domain,
    media::flow::{CallId, FlowId, FlowStatus},
    proxy::ConnectionId,
};

/// Why a call's media ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndCause {
    /// BYE.
    Bye,
    /// It was not accepted.
    Failed,
    /// Nothing is left that is forwarded.
    NoMedia,
    /// It was not refreshed in time (RFC 4028).
    SessionTimer,
    /// No packet for too long.
    Silence,
    /// It lasted as long as any may.
    Longest,
    /// Its partner may no longer speak.
    Policy,
    /// An administrator ended it.
    Administrator,
}

impl EndCause {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            EndCause::Bye => "bye",
            EndCause::Failed => "failed",
            EndCause::NoMedia => "no-media",
            EndCause::SessionTimer => "session-timer",
            EndCause::Silence => "silence",
            EndCause::Longest => "longest-call",
            EndCause::Policy => "policy",
            EndCause::Administrator => "administrator",
        }
    }
}

/// So many calls are remembered that are to have no media again; the oldest goes.
const MOST_OVER: usize = 1000;

/// Calls that ended for good, though their parties may not know.
#[derive(Debug, Default)]
pub(super) struct Over {
    known: HashSet<CallId>,
    order: VecDeque<CallId>,
}

impl Over {
    fn add(&mut self, id: CallId) {
        if self.known.insert(id) {
            self.order.push_back(id);
        }
        while self.order.len() > MOST_OVER {
            let Some(oldest) = self.order.pop_front() else { break };
            self.known.remove(&oldest);
        }
    }
}

impl Calls {
    /// Whether it ended by an administrator's word, or since it lasted as long as any may: whoever
    /// offers media in its dialog again begins no other.
    pub(super) fn is_over(&self, names: &CallNames<'_>) -> bool {
        !self.over.known.is_empty()
            && self.keys.candidates(names).any(|id| self.over.known.contains(&id))
    }

    /// A BYE passes: the call is over, whatever is answered.
    pub fn bye(&mut self, names: &CallNames<'_>, effects: &mut Effects) {
        let Some(id) = self.find(names) else { return };
        let ends = self.all.get(&id).is_some_and(|call| {
            let tag = names.callee_tag(call.parties.inbound).map_or(0, tag_code);
            // Another dialog that the same INVITE began is another call's end.
            call.up.is_some_and(|up| up == 0 || up == tag)
        });
        if ends {
            self.end(id, EndCause::Bye, effects);
        }
    }

    /// An INVITE that was to begin a dialog failed: a call that only an UPDATE in its early dialog
    /// made ends.
    pub fn never_accepted(&mut self, names: &CallNames<'_>, effects: &mut Effects) {
        let Some(id) = self.find(names) else { return };
        if self.all.get(&id).is_some_and(|call| call.up.is_some() && !call.accepted) {
            self.end(id, EndCause::Failed, effects);
        }
    }

    /// Ends a call; `false`: there is none.
    pub fn end(&mut self, id: CallId, cause: EndCause, effects: &mut Effects) -> bool {
        let Some(call) = self.all.remove(&id) else { return false };
        self.finish(call, cause, effects);
        if matches!(cause, EndCause::Administrator | EndCause::Longest) {
            self.over.add(id);
        }
        true
    }

    /// Ends the calls of partners for whom this does not hold any more.
    pub fn keep_partners(&mut self, holds: impl Fn(&Domain) -> bool, effects: &mut Effects) {
        let over = |parties: &Parties| parties.partner.as_ref().is_some_and(|who| !holds(who));
        self.end_all(over, effects);
    }

    /// Ends the calls of remote users for whose URI this does not hold any more.
    pub fn keep_users(&mut self, holds: impl Fn(&str) -> bool, effects: &mut Effects) {
        let over = |parties: &Parties| parties.remote_user().is_some_and(|who| !holds(who));
        self.end_all(over, effects);
    }

    /// Ends the calls of a remote user's connection.
    pub fn end_on(&mut self, connection: ConnectionId, effects: &mut Effects) {
        self.end_all(|parties| parties.connection == Some(connection), effects);
    }

    /// Ends the calls from before a restart of which no message has come since: they may be anybody's.
    pub fn end_unknown(&mut self, effects: &mut Effects) {
        self.end_all(|parties| !parties.are_known(), effects);
    }

    fn end_all(&mut self, over: impl Fn(&Parties) -> bool, effects: &mut Effects) {
        let all = self.all.values().filter(|call| over(&call.parties));
        let gone: Vec<CallId> = all.map(|call| call.id).collect();
        for id in gone {
            self.end(id, EndCause::Policy, effects);
        }
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            let Some(call) = self.all.get(&id) else {
                self.timers.remove(&(at, id));
                continue;
            };
            if call.longest <= now {
                self.end(id, EndCause::Longest, effects);
            } else if call.session_ends.is_some_and(|end| end <= now) {
                self.end(id, EndCause::SessionTimer, effects);
            } else {
                let _ = self.change(now, id, effects, |context, call| {
                    let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
                    let lost = |by| by != AnswerBy::Response;
                    call.offers.retain(|offer| !(lost(offer.by) && over(offer.until)));
                    call.give_ports(context.pools);
                    Ok(())
                });
            }
        }
    }

    /// What the kernel has counted: a call in which nobody has said anything for too long ends. Not
    /// one that is on hold (trust rules, section 9). And what it has learned that nobody told of:
    /// before a restart, or when there was no room to tell it.
    pub fn seen(&mut self, now: Instant, flows: &[FlowStatus], effects: &mut Effects) {
        let mut packets = std::collections::HashMap::<CallId, u64>::new();
        for flow in flows {
            if let Some(id) = self.owners.get(&flow.id.0) {
                *packets.entry(*id).or_default() += flow.packets;
            }
        }
        let mut silent = Vec::new();
        for (id, packets) in packets {
            let Some(call) = self.all.get_mut(&id) else { continue };
            if call.heard.1 != packets || call.session.is_held() || call.up.is_none() {
                call.heard = (now, packets);
            } else if call.heard.0 + self.settings.silence <= now {
                silent.push(id);
            }
        }
        // What is said to a call that is joined with another is counted where it comes in.
        let heard = |id: &CallId| {
            self.all.get(id).is_some_and(|call| call.heard.0 + self.settings.silence > now)
        };
        silent.retain(|id| self.all.get(id).is_some_and(|call| !call.joined.iter().any(heard)));
        for id in silent {
            self.end(id, EndCause::Silence, effects);
        }
        for flow in flows {
            let call = self.owners.get(&flow.id.0).filter(|id| **id == flow.call);
            let call = call.and_then(|id| self.all.get(id));
            if let (Some(call), Some(source)) = (call, flow.source)
                && call.is_news(flow.id, source)
            {
                self.learned(now, flow.id, source, effects);
            }
        }
        self.listen_on(now, flows, effects);
    }

    /// Who has said nothing yet may still be learned, as long as the call is up.
    fn listen_on(&mut self, now: Instant, flows: &[FlowStatus], effects: &mut Effects) {
        let mut quiet = std::collections::HashMap::<CallId, Vec<FlowId>>::new();
        for flow in flows.iter().filter(|flow| flow.source.is_none()) {
            quiet.entry(flow.call).or_default().push(flow.id);
        }
        for (id, quiet) in quiet {
            let Some(call) = self.all.get_mut(&id) else { continue };
            if call.up.is_some() && call.reopened + LEARN_AGAIN <= now {
                call.reopen(now, |flow| quiet.contains(&flow.id), effects);
            }
        }
    }

    /// The source of a flow was learned: what goes there follows.
    pub fn learned(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        effects: &mut Effects,
    ) {
        let Some(id) = self.owners.get(&flow.0).copied() else { return };
        let _ = self.change(now, id, effects, |context, call| {
            call.learned(now, context.pools, flow, source, context.effects);
            Ok(())
        });
    }

    /// The firewall could not put a call's flows in force: none of them is open. They are opened
    /// again with the next message that says what the last one said.
    pub fn not_opened(&mut self, now: Instant, id: CallId, effects: &mut Effects) {
        let _ = self.change(now, id, effects, |context, call| {
            call.drop_flows(context.pools, context.effects);
            Ok(())
        });
    }
}
