//! The shadow: a configuration whose rules count, beside those in force, what they would have
//! done otherwise. It is this daemon's: it ends with it, with its time, and with the next
//! configuration that is put in force.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use super::{Daemon, apply::text};
use crate::{
    admin::protocol::{Fault, SentFile},
    apply::Difference,
    firewall::Intent,
    state::Author,
};

/// A shadow that counts.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    name: String,
    author: Author,
    pub until: Option<Instant>,
    /// Its rules ask for the partners' addresses.
    pub partners: bool,
    difference: Arc<Difference>,
}

impl Daemon {
    /// Lets a file's rules count beside those in force what they would do otherwise.
    pub(super) async fn shadow_start(
        &self,
        file: Option<SentFile>,
        seconds: Option<u64>,
        author: &Author,
    ) -> Result<Value, Fault> {
        let _one = self.change.lock().await;
        let sent = file.as_ref().map(|file| file.name.clone());
        let (new, name) = self.text_of(file)?;
        let (config, warnings) = self.checked(&new, sent.as_deref()).await?;
        let difference = Arc::new(self.difference(&config, &new)?);
        let partners = config.asks_for_partners();
        self.firewall.apply(vec![Intent::SetShadow(config)]).await.map_err(text)?;
        let until = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        let answer = json!({
            "file": name, "for_seconds": seconds, "difference": *difference, "warnings": warnings,
        });
        let shadow = Shadow { name, author: author.clone(), until, partners, difference };
        info!(file = shadow.name, by = author.by, "a shadow counts");
        self.changes.shadow.send_replace(Some(shadow));
        if partners && !self.config().asks_for_partners() {
            // Until now nobody followed where they are.
            self.enforce().await?;
        }
        Ok(answer)
    }

    /// Ends the shadow.
    pub(super) async fn shadow_stop(&self) -> Result<Value, String> {
        let _one = self.change.lock().await;
        self.firewall.apply(vec![Intent::StopShadow]).await.map_err(text)?;
        let was = self.changes.shadow.send_replace(None);
        Ok(json!({ "was_counting": was.is_some() }))
    }

    /// Who started the shadow and what it compares; the counters are in the kernel's maps.
    pub(super) fn shadow(&self) -> Value {
        let Some(shadow) = self.changes.shadow.borrow().clone() else { return Value::Null };
        let left = shadow.until.map(|at| at.saturating_duration_since(Instant::now()).as_secs());
        json!({
            "file": shadow.name,
            "by": shadow.author.by,
            "since": shadow.author.at,
            "ends_in_seconds": left,
            "difference": *shadow.difference,
        })
    }
}
