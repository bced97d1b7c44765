//! `edge drain`: nothing new begins here, what stands goes on.

use serde_json::{Value, json};
use tracing::warn;

use super::Daemon;
use crate::state::Author;

impl Daemon {
    /// Begins or ends a drain; it ends with the daemon, too.
    pub(super) async fn drain(&self, on: bool, author: &Author) -> Result<Value, String> {
        let _one = self.change.lock().await;
        warn!(on, by = author.by, "drain");
        self.shell.with_core(|core, now, _| core.proxy.set_draining(now, on));
        if let Some(xmpp) = self.xmpp() {
            xmpp.set_draining(on).await?;
        }
        Ok(self.drain_state())
    }

    /// Whether it is drained, and what still lives.
    pub(super) fn drain_state(&self) -> Value {
        let (status, seconds) = self.shell.with_core(|core, now, _| {
            let status = core.proxy.drain_status(now);
            (status, status.since.map(|since| (now - since).as_secs()))
        });
        json!({
            "draining": status.since.is_some(),
            "seconds": seconds,
            "transactions": status.transactions,
            "in_dialog_last_5_minutes": status.in_dialog_last_minutes,
            "in_dialog_last_hour": status.in_dialog_last_hour,
            "xmpp_streams": self.xmpp().map(|xmpp| xmpp.partners_streams()),
        })
    }
}
