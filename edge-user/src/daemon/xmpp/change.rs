//! XMPP begins, goes on otherwise, or ends with another configuration: first what may fail, which
//! changes nothing, then what cannot fail.

use std::sync::{Arc, PoisonError};

use super::Xmpp;
use crate::{
    config::Config,
    daemon::{Daemon, secret},
    federation::Policy,
    net::xmpp::{Doors, NewDoors, XmppShell},
    proxy::Secrets,
};

/// What a start of XMPP needs and might not have: had before anything changes.
pub(in crate::daemon) struct Prepared {
    pub(super) doors: Doors,
    pub(super) secrets: Secrets,
    pub(super) once: [u8; 32],
}

impl Prepared {
    /// `None`: it is not configured.
    pub(in crate::daemon) fn new(
        config: &Arc<Config>,
        draining: bool,
    ) -> Result<Option<Self>, String> {
        if config.services.xmpp.is_none() {
            return Ok(None);
        }
        let secrets = secret::dialback(config).map_err(|error| error.to_string())?;
        let once = secret::once().map_err(|error| error.to_string())?;
        let doors = XmppShell::bind(config, draining).map_err(|error| error.to_string())?;
        Ok(Some(Self { doors, secrets, once }))
    }
}

/// What becomes of XMPP with another configuration; what may fail is done.
pub(in crate::daemon) enum Change {
    Begins(Prepared),
    GoesOn(Arc<Xmpp>, NewDoors, Secrets),
    Ends(Arc<Xmpp>),
}

impl Daemon {
    /// What another configuration changes in XMPP: what may fail, and changes nothing.
    pub(in crate::daemon) async fn prepare_xmpp(
        &self,
        config: &Arc<Config>,
    ) -> Result<Option<Change>, String> {
        let draining = self.drain_state()["draining"] == true;
        let served = config.services.xmpp.is_some();
        Ok(match self.xmpp() {
            Some(xmpp) if served => {
                let secrets = tokio::task::block_in_place(|| secret::dialback(config));
                let secrets = secrets.map_err(|error| error.to_string())?;
                let doors = xmpp.handle.bind(config).await.map_err(|error| error.to_string())?;
                Some(Change::GoesOn(xmpp, doors, secrets))
            }
            Some(xmpp) => Some(Change::Ends(xmpp)),
            None => {
                tokio::task::block_in_place(|| Prepared::new(config, draining))?.map(Change::Begins)
            }
        })
    }

    /// Serves XMPP as this configuration says, or no more.
    pub(in crate::daemon) async fn take_xmpp(
        &self,
        change: Change,
        config: &Arc<Config>,
        federation: Arc<Policy>,
    ) {
        let set = |xmpp| *self.xmpp.write().unwrap_or_else(PoisonError::into_inner) = xmpp;
        match change {
            Change::GoesOn(xmpp, doors, secrets) => {
                xmpp.handle.install(doors).await;
                xmpp.set_own(config, secrets);
            }
            Change::Ends(xmpp) => {
                set(None);
                xmpp.stop().await;
            }
            Change::Begins(prepared) => {
                let started = Xmpp::start(prepared, config, federation, &self.around());
                set(started.map(Arc::new));
            }
        }
    }
}
