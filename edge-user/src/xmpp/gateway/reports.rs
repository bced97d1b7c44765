//! Reports of delivery to SIP users who asked for them (IMDN, RFC 5438), out of receipts (XEP-0184)
//! and errors of the XMPP side.
//!
//! A receipt is reported even where the response waited for it: 200 promises less. A failure that the
//! response told is not told again (RFC 5438 section 7.2.1.1). What is asked for is remembered for a
//! day, the newest only.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Gateway, Purpose,
    address::Party,
    core::number,
    cpim::{Asked, CPIM},
    message::Sender,
};
use crate::xmpp::settings::Chats;

/// How long a report may come after its message.
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// A message of which its sender wants to hear.
#[derive(Debug)]
struct Wanted {
    /// The `id` of its stanza.
    name: String,
    sip: Party,
    xmpp: Party,
    asked: Asked,
    at: Instant,
}

impl Wanted {
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > LATEST
    }
}

/// Messages of which their senders want to hear, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Reports {
    wanted: BTreeMap<u64, Wanted>,
}

impl Gateway {
    /// The sender of a message wants reports of it. `id`, `name`: of its stanza.
    pub(super) fn want_report(
        &mut self,
        (id, name): (u64, &str),
        (sip, xmpp): (&Party, &Party),
        asked: Asked,
    ) {
        let (now, most) = (self.core.now, self.core.limits.held);
        let (sip, xmpp) = (sip.clone(), xmpp.clone());
        let wanted = Wanted { name: name.to_owned(), sip, xmpp, asked, at: now };
        let all = &mut self.reports.wanted;
        all.insert(id, wanted);
        while let Some((_, oldest)) = all.first_key_value()
            && (all.len() > most || oldest.is_late(now))
        {
            all.pop_first();
        }
    }

    /// What became of a message is known: its report goes, if it was asked for. `told`: the sender
    /// has it from the final response.
    pub(super) fn report(
        &mut self,
        name: Option<&str>,
        sip: &Party,
        from: &Sender<'_>,
        (delivered, told): (bool, bool),
    ) {
        let Some(id) = name.and_then(number) else { return };
        let Some(wanted) = self.reports.wanted.get(&id) else { return };
        let known = Some(wanted.name.as_str()) == name
            && wanted.sip.is_user(sip)
            && from.may_say_of(&wanted.xmpp);
        if !known {
            return;
        }
        let Some(wanted) = self.reports.wanted.remove(&id) else { return };
        let late = wanted.is_late(self.core.now);
        let Wanted { sip, xmpp, asked, .. } = wanted;
        let asks = if delivered { asked.delivery } else { asked.failure };
        if told || late || !asks || self.core.may_speak(&sip, &xmpp).is_err() {
            return;
        }
        let report_id = self.core.fresh();
        let body = asked.report((&xmpp.sip, &sip.sip), &report_id, delivered);
        self.send_report(&sip, &xmpp, &body);
    }

    /// Into the session of these two, or without one where servers inside take that. Where there is
    /// no room, it is not told.
    fn send_report(&mut self, sip: &Party, xmpp: &Party, body: &[u8]) {
        let sessions_only = self.core.policy.settings.chats == Chats::Sessions;
        if self.session_notice(sip, xmpp, (CPIM, body)) || sessions_only {
            return;
        }
        let call = self.core.fresh();
        self.notice((sip, xmpp), &call, (CPIM, body), Purpose::Nothing);
    }
}
