//! Flow tokens (RFC 5626 section 5.2): what we write into `Path`, so that requests for a remote user
//! find the connection that user registered on.
//!
//! A token is the connection's id and a random number of this run of the proxy, under a code
//! (HMAC-SHA-256, cut to 128 bits) with a key of its own. It is believed only when it comes from
//! inside, and leads to that one connection or to nowhere: a flow of another run is dead.

use std::hash::{BuildHasher as _, RandomState};

use ring::hmac;

use super::{ConnectionId, base64url};

/// No dialog's token begins so.
const VERSION: u8 = 3;
const CONTENT: usize = 17;
const CODE_BYTES: usize = 16;

/// A connection of one run of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub connection: ConnectionId,
    /// Which run: a random number.
    pub run: u64,
}

impl Flow {
    /// As bytes, for tokens.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (connection, run) = bytes.split_at_mut(8);
        connection.copy_from_slice(&self.connection.0.to_be_bytes());
        run.copy_from_slice(&self.run.to_be_bytes());
        bytes
    }

    /// The reverse; gives what is left.
    pub(super) fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (connection, rest) = bytes.split_first_chunk::<8>()?;
        let (run, rest) = rest.split_first_chunk::<8>()?;
        let connection = ConnectionId(u64::from_be_bytes(*connection));
        Some((Self { connection, run: u64::from_be_bytes(*run) }, rest))
    }
}

/// Signs and verifies flow tokens.
#[derive(Debug)]
pub(super) struct Flows {
    key: hmac::Key,
    /// Are believed too.
    former: Vec<hmac::Key>,
    run: u64,
}

/// A key of its own, made of the secret of the Record-Route tokens.
fn key(secret: &[u8; 32]) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let key = hmac::sign(&secret, b"edge flow token key");
    hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
}

impl Flows {
    /// `secret`: that of the Record-Route tokens; `former`: one that is believed beside it.
    pub(super) fn new(secret: &[u8; 32], former: Option<&[u8; 32]>) -> Self {
        Self {
            key: key(secret),
            former: former.map(key).into_iter().collect(),
            run: RandomState::new().hash_one("run"),
        }
    }

    /// Signs with another secret from now on. Flows live on, and what names them already is
    /// believed until the next change.
    pub(super) fn set(&mut self, secret: &[u8; 32], former: Option<&[u8; 32]>) {
        let before = std::mem::replace(&mut self.key, key(secret));
        self.former = former.map(key).into_iter().chain([before]).collect();
    }

    /// A connection of this run.
    pub(super) fn flow(&self, connection: ConnectionId) -> Flow {
        Flow { connection, run: self.run }
    }

    /// Whether it is of this run.
    pub(super) fn is_of_this_run(&self, flow: Flow) -> bool {
        flow.run == self.run
    }

    /// The token's text.
    pub(super) fn sign(&self, connection: ConnectionId) -> String {
        let mut bytes = Vec::with_capacity(CONTENT + CODE_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.flow(connection).to_bytes());
        let code = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(&code.as_ref()[..CODE_BYTES]);
        let mut text = String::with_capacity(bytes.len() * 4 / 3 + 2);
        base64url::encode(&bytes, &mut text);
        text
    }

    /// Reads a token; `None` for anything that we did not sign, in this run or another.
    pub(super) fn verify(&self, text: &str) -> Option<Flow> {
        if text.len() > 2 * (CONTENT + CODE_BYTES) {
            return None;
        }
        let bytes = base64url::decode(text)?;
        let (content, code) = bytes.split_at_checked(CONTENT)?;
        let mut keys = std::iter::once(&self.key).chain(&self.former);
        let same = keys.any(|key| {
            let expected = hmac::sign(key, content);
            super::token::same_code(&expected.as_ref()[..CODE_BYTES], code)
        });
        let (version, rest) = content.split_first()?;
        if !same || *version != VERSION {
            return None;
        }
        Flow::take(rest).map(|(flow, _)| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_token_leads_back_to_its_connection_and_its_run() {
        let flows = Flows::new(&[7; 32], None);
        let text = flows.sign(ConnectionId(42));
        assert_eq!(flows.verify(&text), Some(flows.flow(ConnectionId(42))));
        // The same secret, another run: ours, and dead. Another secret: not ours.
        let restarted = Flows::new(&[7; 32], None);
        let dead = restarted.verify(&text).unwrap();
        assert!(!restarted.is_of_this_run(dead) && flows.is_of_this_run(dead));
        assert_eq!(Flows::new(&[8; 32], None).verify(&text), None);
    }

    #[test]
    fn a_new_secret_ends_no_flow() {
        let mut flows = Flows::new(&[7; 32], None);
        let (text, flow) = (flows.sign(ConnectionId(42)), flows.flow(ConnectionId(42)));
        flows.set(&[8; 32], None);
        assert_eq!(flows.verify(&text), Some(flow));
        assert!(flows.is_of_this_run(flow));
        let newer = flows.sign(ConnectionId(42));
        assert_ne!(newer, text);
        assert_eq!(Flows::new(&[8; 32], None).verify(&newer), Some(flow));
        assert_eq!(Flows::new(&[9; 32], Some(&[7; 32])).verify(&text), Some(flow));
        flows.set(&[9; 32], Some(&[8; 32]));
        assert_eq!((flows.verify(&text), flows.verify(&newer)), (None, Some(flow)));
    }

    #[test]
    fn every_changed_or_missing_character_breaks_a_flow_token() {
        let flows = Flows::new(&[7; 32], None);
        let text = flows.sign(ConnectionId(42));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(flows.verify(&String::from_utf8(bytes).unwrap()), None, "{at}");
            assert_eq!(flows.verify(&text[..at]), None, "{at}");
        }
        assert_eq!(flows.verify(&format!("{text}A")), None);
    }
}
