//! What a stream has proved, as types: a stanza leaves this core only through [`Leave`], which
//! only [`Proofs::leave`] gives, as a [`Delivery`] or [`Onward`], for a pair that was granted by evidence: a [`Certified`]
//! certificate or a [`Verified`] key, each of which only its own module can make.

use super::{certify::Certified, dialback::Verified};
use crate::xmpp::{
    io::{Pair, StreamId, XmppOutput, XmppSide},
    xml::Element,
};

/// How a pair was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// By a certificate, with SASL EXTERNAL.
    External,
    /// By dialback.
    Dialback,
}

impl How {
    /// `sasl-external` or `dialback`.
    pub fn name(self) -> &'static str {
        match self {
            How::External => "sasl-external",
            How::Dialback => "dialback",
        }
    }
}

/// A pair, and for which directions it is proved.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) pair: Pair,
    pub(super) how: How,
    /// The other end may send stanzas for it.
    inbound: bool,
    /// We may.
    outbound: bool,
    /// The policy under which it was last judged.
    epoch: u64,
}

/// Everything that a stream has proved.
#[derive(Debug, Default)]
pub(super) struct Proofs(Vec<Proof>);

/// Leave for one stanza to be handed on: its stream proved the pair, and policy allows it now.
pub(super) struct Leave {
    pair: Pair,
    side: XmppSide,
}

/// A stanza with the leave that it had: nobody else can make one.
#[derive(Debug)]
pub struct Delivery {
    pair: Pair,
    side: XmppSide,
    stanza: Element,
}

impl Delivery {
    /// The pair that its stream proved, the side it came from, and the stanza.
    pub fn into_parts(self) -> (Pair, XmppSide, Element) {
        (self.pair, self.side, self.stanza)
    }

    /// For tests of those who take them.
    #[cfg(test)]
    pub(crate) fn played(pair: Pair, side: XmppSide, stanza: Element) -> Self {
        Self { pair, side, stanza }
    }
}

/// Leave for one stanza to go to the other side.
pub(super) struct Onward {
    side: XmppSide,
    pair: Pair,
}

impl Onward {
    /// Where it goes.
    pub(super) fn side(&self) -> XmppSide {
        self.side
    }

    /// The pair, seen from the stream that it goes on.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Side and pair, for the way.
    pub(super) fn into_way(self) -> (XmppSide, Pair) {
        (self.side, self.pair)
    }

    /// Side and pair of where it came from, for the answer.
    pub(super) fn into_way_back(self) -> (XmppSide, Pair) {
        let back = match self.side {
            XmppSide::Partner => XmppSide::Inside,
            XmppSide::Inside => XmppSide::Partner,
        };
        (back, Pair { local: self.pair.remote, remote: self.pair.local })
    }
}

impl Leave {
    /// The pair.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Hands the stanza to the gateway.
    pub(super) fn deliver(self, stanza: Element) -> XmppOutput {
        XmppOutput::Deliver(Delivery { pair: self.pair, side: self.side, stanza })
    }

    /// The side and pair on the other side, where a stanza goes that is between a partner and an
    /// inside server; `inside`: the pair's own domain is one of those. `Err`: it is the gateway's.
    pub(super) fn onward(self, inside: bool) -> Result<Onward, Leave> {
        let onward = match self.side {
            XmppSide::Inside => XmppSide::Partner,
            XmppSide::Partner if inside => XmppSide::Inside,
            XmppSide::Partner => return Err(self),
        };
        let pair = Pair { local: self.pair.remote, remote: self.pair.local };
        Ok(Onward { side: onward, pair })
    }
}

impl Proofs {
    /// A pair of one stream, at most so many.
    pub(super) const MOST: usize = 64;

    /// The other end's certificate names the remote domain, and it asked for this pair.
    pub(super) fn grant_certified(
        &mut self,
        certified: &Certified,
        pair: &Pair,
        epoch: u64,
    ) -> bool {
        *certified.domain() == pair.remote && self.grant(pair, How::External, (true, false), epoch)
    }

    /// The remote domain's own server knows the key that was shown on `stream`.
    pub(super) fn grant_verified(
        &mut self,
        stream: StreamId,
        verified: &Verified,
        epoch: u64,
    ) -> bool {
        verified.shown_on() == stream
            && self.grant(verified.pair(), How::Dialback, (true, false), epoch)
    }

    /// The other end accepted us for this pair: we may send.
    pub(super) fn grant_accepted(&mut self, pair: &Pair, how: How, epoch: u64) -> bool {
        self.grant(pair, how, (false, true), epoch)
    }

    fn grant(
        &mut self,
        pair: &Pair,
        how: How,
        (inbound, outbound): (bool, bool),
        epoch: u64,
    ) -> bool {
        if let Some(there) = self.0.iter_mut().find(|proof| proof.pair == *pair) {
            there.inbound |= inbound;
            there.outbound |= outbound;
            return true;
        }
        if self.0.len() >= Self::MOST {
            return false;
        }
        self.0.push(Proof { pair: pair.clone(), how, inbound, outbound, epoch });
        true
    }

    /// Leave for a stanza from `remote` to `local`. `judge` is asked when policy changed since it
    /// was last asked.
    pub(super) fn leave<E>(
        &mut self,
        side: XmppSide,
        (local, remote): (&str, &str),
        epoch: u64,
        judge: impl FnOnce(&Pair) -> Result<(), E>,
    ) -> Result<Option<Leave>, E> {
        let of_it = |p: &&mut Proof| {
            p.inbound && p.pair.remote.as_str() == remote && p.pair.local.as_str() == local
        };
        let Some(proof) = self.0.iter_mut().find(of_it) else {
            return Ok(None);
        };
        if proof.epoch != epoch {
            judge(&proof.pair)?;
            proof.epoch = epoch;
        }
        Ok(Some(Leave { pair: proof.pair.clone(), side }))
    }

    /// Whether we may send for this pair.
    pub(super) fn outbound(&self, pair: &Pair) -> bool {
        self.0.iter().any(|proof| proof.outbound && proof.pair == *pair)
    }

    /// Whether the other end may send for this pair.
    pub(super) fn has_inbound(&self, pair: &Pair) -> bool {
        self.0.iter().any(|proof| proof.inbound && proof.pair == *pair)
    }

    /// Whether the other end may send anything.
    pub(super) fn any_inbound(&self) -> bool {
        self.0.iter().any(|proof| proof.inbound)
    }

    /// Pairs for which we may send.
    pub(super) fn outbound_pairs(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter().filter(|proof| proof.outbound).map(|proof| &proof.pair)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Proof> {
        self.0.iter()
    }

    /// All were judged under this policy.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        self.0.iter_mut().for_each(|proof| proof.epoch = epoch);
    }
}
