//! A SIP user agent over one reliable connection that keeps order: requests of our own, their
//! transactions, dialogs, and answers to requests.

mod answer;
mod client;
mod dialog;
mod write;

pub use answer::Reply;
pub use client::{Answer, Client, Clients};
pub use dialog::{Dialog, DialogError};
pub use write::{Request, line, name_addr};

use std::time::Duration;

/// RFC 3261 section 17.1.1.1.
pub const T1: Duration = Duration::from_millis(500);
/// RFC 3261 section 17.1.2.2.
pub const T2: Duration = Duration::from_secs(4);
/// Timers B, F, and how long a 2xx waits for its ACK: 64 times T1.
pub const GIVE_UP: Duration = Duration::from_secs(32);
/// An INVITE that rings (RFC 3261 section 16.6, timer C).
pub const RINGING: Duration = Duration::from_secs(180);

/// What is understood: `Allow` (RFC 3261 section 20.5).
pub const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, SUBSCRIBE, NOTIFY, INFO, UPDATE, BENOTIFY";
/// `Accept` of an answer to OPTIONS.
pub const ACCEPT: &str = "application/sdp, text/plain, text/html, multipart/alternative, \
                          application/pidf+xml, application/im-iscomposing+xml, \
                          message/cpim, message/imdn+xml";
