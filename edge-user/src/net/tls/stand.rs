//! Chains of live SIP connections, to be judged again: what was good when a connection began proves
//! nothing once its authority is trusted no longer, has ended, or was taken back.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, PoisonError, Weak},
};

use ring::digest;
use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};

use super::TlsStore;
use crate::proxy::Side;

/// Certificates as a peer sent them, its own first. None: it showed none.
pub type SentChain = Option<Arc<[CertificateDer<'static>]>>;

/// A chain of more bytes is not kept, and good for nothing when it is to be judged again.
const MOST: usize = 32 * 1024;
/// Chains that are looked through before those of nobody are let go.
const FEW: usize = 64;

/// One copy of a chain, however many connections have come with it.
#[derive(Default)]
pub(super) struct Chains {
    known: HashMap<[u8; 32], Weak<[CertificateDer<'static>]>>,
    look_at: usize,
}

impl Chains {
    fn share(&mut self, sent: &[CertificateDer<'static>]) -> Arc<[CertificateDer<'static>]> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for certificate in sent {
            hash.update(&certificate.len().to_be_bytes());
            hash.update(certificate);
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        if let Some(chain) = self.known.get(&key).and_then(Weak::upgrade) {
            return chain;
        }
        if self.known.len() >= self.look_at {
            self.known.retain(|_, chain| chain.strong_count() > 0);
            self.look_at = (2 * self.known.len()).max(FEW);
        }
        let chain = Arc::from(sent);
        self.known.insert(key, Arc::downgrade(&chain));
        chain
    }
}

/// A live connection's certificates. Two are the same when they share one copy of their chain: so it
/// is not read for that.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Partners' and inside servers' authorities are others.
    pub side: Side,
    /// What it came with.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// It was let in by a pin.
    pub unchained: bool,
}

impl Standing {
    fn key(&self) -> (Side, *const CertificateDer<'static>, usize, bool) {
        (self.side, self.chain.as_ptr(), self.chain.len(), self.unchained)
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Standing {}

impl Hash for Standing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl TlsStore {
    /// Keeps what a peer sent, for as long as the connection does.
    pub fn keep(&self, sent: Option<&[CertificateDer<'static>]>) -> SentChain {
        let sent = sent?;
        // Without its certificates it is judged as nobody.
        let bytes: usize = sent.iter().map(|certificate| certificate.len()).sum();
        let sent = if bytes > MOST { &[] } else { sent };
        Some(self.chains.lock().unwrap_or_else(PoisonError::into_inner).share(sent))
    }

    /// Why a handshake would not take these certificates any more.
    pub fn no_longer_good(&self, standing: &Standing, now: UnixTime) -> Option<String> {
        let current = self.current();
        let verifier = match standing.side {
            Side::Inside => current.insiders.as_ref(),
            _ => Some(&current.verifier),
        };
        let Some((leaf, intermediates)) = standing.chain.split_first() else {
            return Some("its certificates were too long to be kept".to_owned());
        };
        match verifier?.authorities_end(leaf, intermediates, now) {
            Ok(_)
                if standing.side == Side::Partner
                    && !standing.unchained
                    && self.rules.is_unchained(leaf) =>
            {
                Some("only a pin lets it in now".to_owned())
            }
            Ok(_) => None,
            Err(Error::InvalidCertificate(CertificateError::Other(fault))) => {
                Some(fault.0.to_string())
            }
            Err(Error::InvalidCertificate(fault)) => Some(fault.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn connections_that_came_with_the_same_share_one_copy_and_it_goes_with_the_last() {
        let mut chains = Chains::default();
        let certificate = |byte: u8| CertificateDer::from(vec![byte; 100]);
        let one = chains.share(&[certificate(1), certificate(2)]);
        let same = chains.share(&[certificate(1), certificate(2)]);
        let other = chains.share(&[certificate(1)]);
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let standing =
            |chain: &Arc<_>, side| Standing { side, chain: Arc::clone(chain), unchained: false };
        let all = [
            standing(&one, Side::Partner),
            standing(&same, Side::Partner),
            standing(&one, Side::Inside),
            standing(&other, Side::Partner),
            Standing { unchained: true, ..standing(&other, Side::Partner) },
        ];
        assert_eq!(HashSet::from(all).len(), 4, "each is judged once");
        for byte in 0..250 {
            drop(chains.share(&[certificate(byte), certificate(byte)]));
        }
        assert!(chains.known.len() <= FEW + 2, "{}", chains.known.len());
        assert!(Arc::ptr_eq(&one, &chains.share(&[certificate(1), certificate(2)])));
    }
}
