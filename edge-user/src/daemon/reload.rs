//! A changed file is taken over without dropping a connection: whole, or not at all.
//!
//! What can fail without a change comes first, new listeners among it; then the firewall, which puts
//! itself back when it fails; then what cannot fail. A block that the kernel cannot take is tried
//! again, and is a warning. Listeners change last: whom they let in meets the new configuration.

use std::sync::{Arc, PoisonError};

use super::{Daemon, limits, secret, unix_seconds};
use crate::{
    config::Config,
    firewall::{self, FirewallError, Intent},
    proxy::{ProxyConfig, Secrets},
};

const PATHS: &str = "[paths] cannot change while the daemon runs: restart it";

impl Daemon {
    /// Why [`Self::take`] would refuse a configuration, as far as that is known without a change.
    pub(super) async fn would_refuse(&self, config: &Arc<Config>) -> Vec<String> {
        let old = self.config();
        let paths = (config.paths != old.paths).then(|| PATHS.to_owned());
        let listener = self.shell.bind(config).await.err().map(text);
        let is_new = |device: &str| old.interfaces.iter().all(|known| known.device != device);
        let missing = config.interfaces.iter().filter(|interface| {
            !interface.optional && is_new(&interface.device) && !firewall::exists(&interface.device)
        });
        let missing = missing.map(|interface| {
            FirewallError::NoDevice { device: interface.device.clone() }.to_string()
        });
        paths.into_iter().chain(listener).chain(missing).collect()
    }

    /// Puts a configuration in the place of the one in force. The caller holds `change`.
    pub(super) async fn take(&self, config: Arc<Config>) -> Result<Vec<String>, String> {
        let old = self.config();
        if config.paths != old.paths {
            return Err(PATHS.to_owned());
        }
        let tls = tokio::task::block_in_place(|| self.tls.prepare(&config)).map_err(text)?;
        let resolver = self.resolver.prepare(&config).map_err(text)?;
        // A key of our own is not read again: what it signed must hold.
        let secrets = match config.pool.keys.is_empty() && old.pool.keys.is_empty() {
            true => None,
            false => Some(tokio::task::block_in_place(|| secret::secrets(&config)).map_err(text)?),
        };

        let listeners = self.shell.bind(&config).await.map_err(text)?;
        let xmpp = self.prepare_xmpp(&config).await?;

        let rules = Intent::SetConfig(Arc::clone(&config));
        self.set_rules(rules, &config).await?;
        self.tls.exchange(tls);
        self.resolver.install(resolver);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        let mut proxy_config = ProxyConfig::new(&config, self.secrets(secrets), unix_seconds());
        let own = crate::net::own_addresses(&config);
        let same_answers = config.dns == old.dns
            && config.federation.allow_addresses == old.federation.allow_addresses
            && own == crate::net::own_addresses(&old);
        proxy_config.media.own = own;
        self.shell.with_core(|core, now, _| {
            core.proxy.set_config(proxy_config);
            // A ban may have ended with it.
            core.tell_guessers(now);
            if !same_answers {
                core.proxy.forget_answers();
            }
        });
        let blocks = self.enforce().await.err();
        self.shell.install(listeners).await;
        if let Some(change) = xmpp {
            let policy = self.shell.with_core(|core, _, _| core.proxy.policy());
            self.take_xmpp(change, &config, policy).await;
        }
        let log = (config.log != old.log)
            .then(|| "[log] takes effect when the daemon is started again".to_owned());
        self.changes.end_shadow();
        let media = crate::firewall::media::warnings(&config);
        let limits = limits::descriptors(&config.limits);
        let room = crate::firewall::other_room(&config);
        Ok(log.into_iter().chain(blocks).chain(media).chain(limits).chain(room).collect())
    }

    /// The secrets in force, from now on these where some are given.
    fn secrets(&self, new: Option<Secrets>) -> Secrets {
        let mut secrets = self.secret.write().unwrap_or_else(PoisonError::into_inner);
        *secrets = new.unwrap_or(*secrets);
        *secrets
    }

    /// Puts rules in force. Where neither these nor the ones before can be, it is noted, and the
    /// daemon tries until the kernel has the rules of the configuration that it follows.
    async fn set_rules(&self, rules: Intent, config: &Arc<Config>) -> Result<(), String> {
        let is_way_back = matches!(rules, Intent::PutBack(_));
        if let Err(fault) = self.firewall.apply(vec![rules]).await {
            if is_way_back || matches!(fault, FirewallError::NotPutBack { .. }) {
                self.changes.not_settled(&fault.to_string());
            }
            return Err(fault.to_string());
        }
        self.changes.settled();
        if let Some(media) = &self.media {
            media.set_config(config);
        }
        Ok(())
    }

    /// Tries again to give the kernel the rules of the configuration that the daemon follows.
    pub(super) async fn settle_rules(&self) -> Result<(), String> {
        let _one = self.change.lock().await;
        let config = self.config();
        self.set_rules(Intent::PutBack(Arc::clone(&config)), &config).await
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
