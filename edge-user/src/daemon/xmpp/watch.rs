//! The watch list of the streams is the SIP proxy's: one record of each partner, whichever way its
//! users write.
//!
//! Called with the streams locked, and locks the proxy. What the proxy says goes to the log, to the
//! blocks and to the list's keeper, none of which asks for the streams.

use std::{sync::Arc, time::Instant};

use super::Watched;
use crate::{
    federation::{CertificateNames, Ruling},
    net::shell::ShellHandle,
    xmpp::{
        io::XmppNames,
        watch::{self, WatchList},
    },
};

/// The proxy's record.
pub(super) struct OfProxy(pub(super) ShellHandle<Watched>);

impl WatchList for OfProxy {
    fn comes(
        &mut self,
        _: Instant,
        what: watch::Watched<'_>,
        names: Option<Arc<XmppNames>>,
    ) -> Ruling {
        let none = CertificateNames::default();
        let names = names.as_ref().map_or(&none, |names| &names.certificate);
        self.0.with_core(|core, now, out| {
            core.proxy.meter_stanza(now, what.sender, names, what.user, out)
        })
    }

    fn failed(&mut self, _: Instant, what: watch::Watched<'_>, status: u16) {
        self.0.with_core(|core, now, out| {
            let of = (what.kind, what.user);
            core.proxy.meter_stanza_failed(now, what.sender, of, status, out);
        });
    }
}
