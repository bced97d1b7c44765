//! `edge drain`.

use serde_json::Value;

use super::{
    client,
    commands::{Outcome, Report},
    protocol::Request,
};
use crate::config::Paths;

/// `edge drain`, `edge drain --off`.
pub fn drain(paths: &Paths, off: bool) -> Outcome {
    let json = client::ask(&paths.run, &Request::Drain { on: !off })?;
    let text = match off {
        true => "new dialogs and XMPP streams are taken again\n".to_owned(),
        false => text(&json) + "stop the daemon when little enough is left\n",
    };
    Ok(Report::new(text, json))
}

/// How a drain goes, or nothing when there is none.
pub(super) fn text(drain: &Value) -> String {
    if drain["draining"] != true {
        return String::new();
    }
    let xmpp = match drain["xmpp_streams"].as_u64() {
        Some(streams) => format!("; {streams} XMPP streams"),
        None => String::new(),
    };
    format!(
        "draining  for {} s; {} transactions live, {} requests within dialogs in the last 5 \
         minutes, {} in the last hour{xmpp}\n",
        drain["seconds"],
        drain["transactions"],
        drain["in_dialog_last_5_minutes"],
        drain["in_dialog_last_hour"]
    )
}
