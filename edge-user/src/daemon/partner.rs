//! What the daemon answers about partners.

use serde_json::Value;

use super::Daemon;
use crate::{admin::protocol::PartnerRequest, state::Author};

impl Daemon {
    /// Lists, shows and changes partners.
    pub(super) async fn partner(
        &self,
        _request: PartnerRequest,
        _author: &Author,
    ) -> Result<Value, String> {
        Err("not available yet".to_owned())
    }
}
