//! Dialback (XEP-0220): keys, and the table of those that are being verified.
//!
//! A key is an HMAC over both domains and the stream's id under a secret of ours (XEP-0185), so that
//! nothing need be kept to recognise it. Whoever shows us a key for their domain is asked about over
//! a connection that we made to that domain's server: never over the one it came on. An answer
//! counts only when it comes on the connection that was asked, and names the pair and the id that
//! were asked for.

use std::time::Instant;

use ring::{digest, hmac};

use crate::{
    domain::Domain,
    proxy::Secrets,
    xmpp::io::{Pair, StreamId, XmppSide},
};

/// What keys are made with, and what those were made with that may still be asked about: of the
/// rest of a pool, and of before a change.
pub(super) struct Keys {
    secrets: Secrets,
    all: Vec<hmac::Key>,
}

impl Keys {
    pub(super) fn new(secrets: Secrets) -> Self {
        let all = std::iter::once(secrets.current).chain(secrets.former);
        Self { all: all.map(|secret| Self::made_with(&secret)).collect(), secrets }
    }

    /// Other secrets are in force. Whoever was shown a key before may ask about it after.
    pub(super) fn change(&mut self, secrets: Secrets) {
        if secrets != self.secrets {
            let before = Self::made_with(&self.secrets.current);
            *self = Self::new(secrets);
            self.all.push(before);
        }
    }

    fn made_with(secret: &[u8]) -> hmac::Key {
        let digest = hex(digest::digest(&digest::SHA256, secret).as_ref());
        hmac::Key::new(hmac::HMAC_SHA256, digest.as_bytes())
    }

    /// The key that `originating` shows to `receiving` on a stream to which that gave `id`.
    pub(super) fn key(&self, receiving: &Domain, originating: &Domain, id: &str) -> String {
        let text = Self::text(receiving, originating, id);
        self.all.first().map(|key| hex(hmac::sign(key, &text).as_ref())).unwrap_or_default()
    }

    /// Whether it is that key. Takes the same time wherever it differs.
    pub(super) fn is(&self, key: &str, receiving: &Domain, originating: &Domain, id: &str) -> bool {
        let Some(tag) = unhex(key.trim()) else {
            return false;
        };
        let text = Self::text(receiving, originating, id);
        self.all.iter().any(|key| hmac::verify(key, &text, &tag).is_ok())
    }

    fn text(receiving: &Domain, originating: &Domain, id: &str) -> Vec<u8> {
        format!("{receiving} {originating} {id}").into_bytes()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() != 64 {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A key that somebody showed us, until the domain's server has spoken.
#[derive(Clone, Debug)]
struct Waiting {
    /// Where it was shown.
    shown_on: StreamId,
    side: XmppSide,
    pair: Pair,
    /// The id that we gave to that stream.
    id: String,
    key: String,
    /// The connection on which the domain's server was asked.
    asked_on: Option<StreamId>,
    until: Instant,
}

/// The domain's server said that the key is its own. Made here alone.
#[derive(Debug)]
pub(super) struct Verified {
    shown_on: StreamId,
    pair: Pair,
}

impl Verified {
    /// The stream that showed the key.
    pub(super) fn shown_on(&self) -> StreamId {
        self.shown_on
    }

    /// What it proves.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }
}

/// Somebody whose key was not verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unverified {
    /// Where it was shown.
    pub shown_on: StreamId,
    /// For which pair.
    pub pair: Pair,
}

/// Keys that are being verified.
#[derive(Default)]
pub(super) struct Verifications(Vec<Waiting>);

impl Verifications {
    /// As many for one stream at one time.
    pub(super) const OF_A_STREAM: usize = 8;

    /// A key was shown. `false`: one is being verified for this pair already, or too many are.
    #[must_use]
    pub(super) fn begin(
        &mut self,
        shown_on: StreamId,
        side: XmppSide,
        pair: Pair,
        (id, key): (String, String),
        until: Instant,
    ) -> bool {
        let of_it = || self.0.iter().filter(|w| w.shown_on == shown_on);
        if of_it().any(|w| w.pair == pair) || of_it().count() >= Self::OF_A_STREAM {
            return false;
        }
        self.0.push(Waiting { shown_on, side, pair, id, key, asked_on: None, until });
        true
    }

    /// What is to be asked on `connection`, which we made to the server of this pair's domain: pair,
    /// id and key of each.
    pub(super) fn ask_on(
        &mut self,
        connection: StreamId,
        side: XmppSide,
        pair: &Pair,
    ) -> Vec<(String, String)> {
        let of_it = |w: &&mut Waiting| {
            w.asked_on.is_none() && w.side == side && w.pair == *pair && w.shown_on != connection
        };
        self.0
            .iter_mut()
            .filter(of_it)
            .map(|w| {
                w.asked_on = Some(connection);
                (w.id.clone(), w.key.clone())
            })
            .collect()
    }

    /// Whether a connection to this domain is needed for it.
    pub(super) fn wants(&self, side: XmppSide, pair: &Pair) -> bool {
        self.0.iter().any(|w| w.asked_on.is_none() && w.side == side && w.pair == *pair)
    }

    /// The answer that came on `connection`; `None`: nobody asked for it there.
    pub(super) fn answer(
        &mut self,
        connection: StreamId,
        pair: &Pair,
        id: &str,
        valid: bool,
    ) -> Option<Result<Verified, Unverified>> {
        let at = self
            .0
            .iter()
            .position(|w| w.asked_on == Some(connection) && w.pair == *pair && w.id == id)?;
        let Waiting { shown_on, pair, .. } = self.0.swap_remove(at);
        Some(if valid {
            Ok(Verified { shown_on, pair })
        } else {
            Err(Unverified { shown_on, pair })
        })
    }

    /// What a stream showed is forgotten.
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.0.retain(|w| w.shown_on != stream);
    }

    /// A stream is gone: what it showed is forgotten, and what was asked on it has no answer.
    pub(super) fn gone(&mut self, stream: StreamId) -> Vec<Unverified> {
        self.forget(stream);
        self.take(|w| w.asked_on == Some(stream))
    }

    /// No connection to the domain's server can be had.
    pub(super) fn unreachable(&mut self, side: XmppSide, pair: &Pair) -> Vec<Unverified> {
        self.take(|w| w.asked_on.is_none() && w.side == side && w.pair == *pair)
    }

    /// Those that nobody answered in time.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Unverified> {
        self.take(|w| w.until <= now)
    }

    /// When the first is late.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|w| w.until).min()
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Unverified> {
        let mut taken = Vec::new();
        self.0.retain(|w| {
            let take = which(w);
            if take {
                taken.push(Unverified { shown_on: w.shown_on, pair: w.pair.clone() });
            }
            !take
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_those_of_xep_0185() {
        let secrets = Secrets { current: [0; 32], former: None };
        let of = |secret| Keys { secrets, all: vec![Keys::made_with(secret)] };
        let keys = of(b"s3cr3tf0rd14lb4ck");
        let (receiving, originating) = (domain("xmpp.example.com"), domain("example.org"));
        let key = keys.key(&receiving, &originating, "D60000229F");
        assert_eq!(key, "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643");
        assert!(keys.is(&key, &receiving, &originating, "D60000229F"));
        assert!(!keys.is(&key, &originating, &receiving, "D60000229F"));
        assert!(!keys.is(&key, &receiving, &originating, "D60000229E"));
        assert!(!keys.is(&key[..63], &receiving, &originating, "D60000229F"));
        assert!(!keys.is("", &receiving, &originating, "D60000229F"));
        assert!(!of(b"other").is(&key, &receiving, &originating, "D60000229F"));
    }

    #[test]
    fn keys_of_before_a_change_and_of_the_rest_of_the_pool_are_ours() {
        let (a, b) = (domain("a.example"), domain("b.example"));
        let of = |current: u8, former: Option<u8>| Secrets {
            current: [current; 32],
            former: former.map(|former| [former; 32]),
        };
        let key = |secret| Keys::new(of(secret, None)).key(&a, &b, "i");
        let mut keys = Keys::new(of(1, Some(2)));
        let known = |keys: &Keys| [1, 2, 3, 4].map(|secret| keys.is(&key(secret), &a, &b, "i"));
        assert_eq!(known(&keys), [true, true, false, false]);
        assert_eq!(keys.key(&a, &b, "i"), key(1));
        keys.change(of(1, Some(2)));
        keys.change(of(3, None));
        assert_eq!(keys.key(&a, &b, "i"), key(3));
        assert_eq!(known(&keys), [true, false, true, false]);
        keys.change(of(4, Some(3)));
        assert_eq!(known(&keys), [false, false, true, true]);
    }

    #[test]
    fn an_answer_counts_only_where_and_for_what_was_asked() {
        let pair = Pair { local: domain("a.example"), remote: domain("b.example") };
        let other = Pair { local: domain("a.example"), remote: domain("c.example") };
        let (shown, asked, third) = (StreamId(1), StreamId(2), StreamId(3));
        let until = Instant::now() + Duration::from_secs(1);
        let begin = || {
            let mut table = Verifications::default();
            let side = XmppSide::Partner;
            assert!(table.begin(shown, side, pair.clone(), ("i".into(), "k".into()), until));
            assert!(!table.begin(shown, side, pair.clone(), ("i".into(), "k2".into()), until));
            // Never over the connection that it came on.
            assert!(table.ask_on(shown, side, &pair).is_empty());
            assert!(table.ask_on(asked, side, &other).is_empty());
            assert_eq!(table.ask_on(asked, side, &pair), [("i".into(), "k".into())]);
            assert!(table.ask_on(third, side, &pair).is_empty());
            table
        };
        assert!(begin().answer(third, &pair, "i", true).is_none());
        assert!(begin().answer(shown, &pair, "i", true).is_none());
        assert!(begin().answer(asked, &other, "i", true).is_none());
        assert!(begin().answer(asked, &pair, "j", true).is_none());
        let mut table = begin();
        let verified = table.answer(asked, &pair, "i", true).unwrap().unwrap();
        assert_eq!((verified.shown_on(), verified.pair()), (shown, &pair));
        assert!(table.answer(asked, &pair, "i", true).is_none(), "once");
        assert!(begin().answer(asked, &pair, "i", false).unwrap().is_err());
        let unverified = Unverified { shown_on: shown, pair: pair.clone() };
        assert_eq!(begin().gone(asked), [unverified]);
        assert!(begin().gone(shown).is_empty());
        assert_eq!(begin().late(until).len(), 1);
    }
}
