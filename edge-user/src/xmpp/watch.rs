//! The watch list, as the streams ask it: of partners that nobody vouches for, each stanza to a user
//! of a server inside is counted where the gateway's messages are, in the one record of SIP's.
//!
//! Lock order: the streams ask while they are locked, and the list may lock the SIP proxy. Who holds
//! the proxy's lock never asks for the streams'.

use std::{sync::Arc, time::Instant};

use super::io::XmppNames;
use crate::federation::{Ruling, Sender, UserName};

/// A stanza of a partner's user.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// The domain that its stream proved, and where that comes from.
    pub sender: Sender<'a>,
    /// To whom it is.
    pub user: &'a UserName<'a>,
    /// `message`, `presence` or `iq`.
    pub kind: &'a str,
}

/// Who keeps the list.
pub trait WatchList: Send {
    /// A stanza is to go inside: whether it may. `names`: the stream's certificate, when it is good.
    fn comes(&mut self, now: Instant, what: Watched<'_>, names: Option<Arc<XmppNames>>) -> Ruling;

    /// It was refused, here or inside; `status`: SIP's word for that.
    fn failed(&mut self, now: Instant, what: Watched<'_>, status: u16);
}

/// Nobody is watched: for tests, and for tools that have no proxy beside them.
#[derive(Clone, Copy, Debug)]
pub struct NobodyWatches;

impl WatchList for NobodyWatches {
    fn comes(&mut self, _: Instant, _: Watched<'_>, _: Option<Arc<XmppNames>>) -> Ruling {
        Ruling::Pass
    }

    fn failed(&mut self, _: Instant, _: Watched<'_>, _: u16) {}
}
