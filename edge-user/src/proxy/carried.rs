//! Domains that a provider carries without being listed for it: their SRV record names the
//! provider's host, so what goes to them goes to the provider.

use std::{sync::Arc, time::Instant};

use super::{Output, Question, proxy::Proxy, route::Destination};
use crate::{domain::Domain, federation::Partner};

impl Proxy {
    /// The provider that carries a domain, as its list or what DNS said last has it.
    pub fn carrier(&self, now: Instant, domain: &Domain) -> Option<Arc<Partner>> {
        let entry = self.policy.partner(domain).ok()?;
        Some(self.carried_by(now, entry)).filter(|carrier| carrier.kind.is_shared())
    }

    /// The partner itself, or the provider that DNS is known to name for it.
    pub(super) fn carried_by(&self, now: Instant, entry: Arc<Partner>) -> Arc<Partner> {
        if !entry.may_be_carried {
            return entry;
        }
        let question = Question::Federation(entry.domain.clone());
        match self.lookups.known(now, &question, entry.options.dnssec) {
            Some(Ok(known)) => self.policy.carried(&entry, &known.hosts).unwrap_or(entry),
            _ => entry,
        }
    }

    /// DNS has answered for exchanges that wait to be sent to a partner: those whose partner turns
    /// out to be carried by a provider go there. Gives those that stay.
    pub(super) fn send_to_carriers(
        &mut self,
        now: Instant,
        waiting: Vec<u64>,
        out: &mut Vec<Output>,
    ) -> Vec<u64> {
        let (mut stay, mut go) = (Vec::with_capacity(waiting.len()), Vec::new());
        for id in waiting {
            let entry = self.exchanges.get(id).and_then(|exchange| exchange.entry.clone());
            let carrier = entry.and_then(|entry| {
                let carrier = self.carried_by(now, entry.clone());
                (!Arc::ptr_eq(&carrier, &entry)).then_some(carrier)
            });
            match carrier {
                Some(carrier) => go.push((id, carrier)),
                None => stay.push(id),
            }
        }
        for (id, carrier) in go {
            let Some(request) = self.exchanges.get(id).and_then(|e| e.request.clone()) else {
                continue;
            };
            let Some(exchange) = self.exchanges.get(id) else { continue };
            let in_dialog = (exchange.dialog.is_some(), exchange.allowed);
            let refused = self.judge_user_outside(&request, in_dialog, &carrier).err();
            let key = carrier.key().clone();
            self.exchanges.update(id, |exchange| {
                exchange.entry = Some(carrier);
                if let Some(Destination::Partner(known, _)) = exchange.destinations.front_mut() {
                    *known = key;
                }
            });
            match refused {
                Some((answer, _)) => self.conclude(now, id, answer, out),
                None => self.advance(now, id, out),
            }
        }
        stay
    }
}
