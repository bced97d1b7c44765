//! Numbers for `edge status` and the metrics.

use super::Refusal;
use crate::sip::Method;

/// Methods that are counted by name; every other one is counted as the last.
const METHODS: [&str; 18] = [
    "INVITE",
    "ACK",
    "CANCEL",
    "BYE",
    "OPTIONS",
    "REGISTER",
    "MESSAGE",
    "SUBSCRIBE",
    "NOTIFY",
    "REFER",
    "INFO",
    "UPDATE",
    "PRACK",
    "PUBLISH",
    "SERVICE",
    "BENOTIFY",
    "NEGOTIATE",
    "other",
];

/// What the proxy has counted since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    refused: [u64; Refusal::ALL.len()],
    forwarded: [[u64; METHODS.len()]; 2],
    /// Responses that were passed on.
    pub responses: u64,
    /// Retransmissions that were absorbed or answered again.
    pub retransmissions: u64,
    /// Transactions that are live.
    pub transactions: usize,
    /// Requests of them that wait for DNS or a connection.
    pub waiting: usize,
    /// Connections to partners.
    pub partner_connections: usize,
    /// Connections inside.
    pub inside_connections: usize,
    /// Connections of remote users.
    pub remote_connections: usize,
    /// Remote users who are registered, over all connections.
    pub registered: usize,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            refused: [0; Refusal::ALL.len()],
            forwarded: [[0; METHODS.len()]; 2],
            responses: 0,
            retransmissions: 0,
            transactions: 0,
            waiting: 0,
            partner_connections: 0,
            inside_connections: 0,
            remote_connections: 0,
            registered: 0,
        }
    }
}

impl Counters {
    pub(super) fn refuse(&mut self, reason: Refusal) {
        if let Some(at) = Refusal::ALL.iter().position(|refusal| *refusal == reason) {
            self.refused[at] += 1;
        }
    }

    pub(super) fn forward(&mut self, method: Method<'_>, inbound: bool) {
        let name = method.as_str();
        let at = METHODS.iter().position(|known| *known == name).unwrap_or(METHODS.len() - 1);
        self.forwarded[usize::from(inbound)][at] += 1;
    }

    /// How often something was refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        Refusal::ALL
            .iter()
            .zip(self.refused)
            .find_map(|(refusal, count)| (*refusal == reason).then_some(count))
            .unwrap_or(0)
    }

    /// Each refusal with its count.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.iter().copied().zip(self.refused)
    }

    /// Requests passed on: method, outside to inside, how many. Those with none are left out.
    pub fn forwarded(&self) -> impl Iterator<Item = (&'static str, bool, u64)> {
        [false, true].into_iter().flat_map(move |inbound| {
            METHODS
                .into_iter()
                .zip(self.forwarded[usize::from(inbound)])
                .filter(|(_, count)| *count > 0)
                .map(move |(method, count)| (method, inbound, count))
        })
    }
}
