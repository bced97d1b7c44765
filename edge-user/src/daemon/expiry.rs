//! When certificates end: ours, those we trust, and partners' that are connected. Said in
//! `edge status` for as long as it is so, and in the log once at 30, 14, 7 and 1 days and at the
//! end. And what a new revocation list ends at once.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use rustls::pki_types::UnixTime;
use tracing::{error, warn};
use x509_parser::time::ASN1Time;

use super::{Daemon, unix_seconds};
use crate::{
    net::{shell::ConnectionInfo, tls::Standing},
    proxy::{Refusal, Side},
    xmpp::io::PeerCertificate,
};

/// How often live connections' certificates are judged again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK: Duration = Duration::from_secs(600);
/// Days before the end at which it is said.
const STEPS: [u32; 5] = [0, 1, 7, 14, 30];
const DAY: u64 = 86_400;
/// Certificates that are remembered as told of.
const MAX_TOLD: usize = 4096;
/// Alarms that are shown.
const MAX_SHOWN: usize = 100;

/// Whose certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    /// Ours, from this file.
    Ours(PathBuf),
    /// One we trust, from this file.
    Trusted(PathBuf),
    /// A connected partner's.
    Partners,
}

/// A certificate that ends.
#[derive(Clone, Debug)]
struct Ending {
    whose: Whose,
    description: String,
    valid_from: u64,
    expires_at: u64,
}

impl Ending {
    /// The narrowest step that it is in. One whose time has not come is as bad as one that ended.
    fn step(&self, now: u64) -> Option<u32> {
        if now < self.valid_from {
            return Some(0);
        }
        let left = self.expires_at.saturating_sub(now);
        STEPS.into_iter().find(|days| left <= u64::from(*days) * DAY)
    }

    fn text(&self, now: u64) -> String {
        let left = self.expires_at.saturating_sub(now);
        let when = match left {
            _ if now < self.valid_from => "is not valid yet: check the clock".to_owned(),
            0 => "has ended".to_owned(),
            left if left <= DAY => "ends within a day".to_owned(),
            left => format!("ends in {} days", left / DAY),
        };
        let at =
            i64::try_from(self.expires_at).ok().and_then(|at| ASN1Time::from_timestamp(at).ok());
        let at = at.map_or_else(String::new, |at| format!(" ({at})"));
        let (what, mend) = match &self.whose {
            Whose::Ours(file) => (
                format!("our certificate in {}", file.display()),
                "have it renewed and put the new one into the file",
            ),
            Whose::Trusted(file) => (
                format!("a root in {}", file.display()),
                "put its successor into the file beside it",
            ),
            Whose::Partners => ("a partner's certificate".to_owned(), "tell the partner"),
        };
        format!("{what} {when}{at}: {}; {mend}", self.description)
    }
}

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct ExpiryWatch {
    /// Certificate, its end, and the step that was told.
    told: HashMap<String, (u64, u32)>,
}

impl ExpiryWatch {
    /// What is to be told now, and (second) what holds now.
    fn look(&mut self, now: u64, mut all: Vec<Ending>) -> (Vec<Ending>, Vec<String>) {
        all.retain(|ending| ending.step(now).is_some());
        all.sort_by(|a, b| (a.expires_at, &a.description).cmp(&(b.expires_at, &b.description)));
        all.dedup_by(|a, b| a.description == b.description && a.whose == b.whose);
        let mut new = Vec::new();
        for ending in &all {
            let Some(step) = ending.step(now) else { continue };
            let known = self.told.get(&ending.description);
            if known.is_none_or(|(end, told)| *end != ending.expires_at || step < *told) {
                self.told.insert(ending.description.clone(), (ending.expires_at, step));
                new.push(ending.clone());
            }
        }
        while self.told.len() > MAX_TOLD {
            let oldest = self.told.iter().min_by_key(|(_, (end, _))| *end);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.told.remove(&oldest);
        }
        (new, all.iter().take(MAX_SHOWN).map(|ending| ending.text(now)).collect())
    }
}

impl Daemon {
    /// What is to be said about certificates that end soon; tells the log what is new.
    pub(super) fn endings(&self) -> Vec<String> {
        let now = unix_seconds();
        let files = self.tls.loaded().expiring.into_iter().map(|found| Ending {
            whose: if found.own { Whose::Ours(found.file) } else { Whose::Trusted(found.file) },
            description: found.description,
            valid_from: u64::try_from(found.valid_from).unwrap_or(0),
            expires_at: u64::try_from(found.expires_at).unwrap_or(0),
        });
        let connections = self.shell.connections();
        let partners =
            connections.iter().filter(|info| info.peer.side == Side::Partner).filter_map(|info| {
                Some(Ending {
                    whose: Whose::Partners,
                    description: info.peer.names.description.clone(),
                    valid_from: 0,
                    expires_at: info.peer.names.expires_at?,
                })
            });
        let streams = self.xmpp().map(|xmpp| xmpp.streams()).unwrap_or_default();
        let streams = streams.into_iter().filter_map(|info| match info.tls?.certificate {
            PeerCertificate::Valid(names) => Some(Ending {
                whose: Whose::Partners,
                description: names.certificate.description.clone(),
                valid_from: 0,
                expires_at: names.certificate.expires_at?,
            }),
            PeerCertificate::Invalid { .. } | PeerCertificate::Missing => None,
        });
        let mut watch = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, holds) = watch.look(now, files.chain(partners).chain(streams).collect());
        drop(watch);
        for ending in new {
            let text = ending.text(now);
            match ending.whose {
                Whose::Partners => warn!(ending = text, "certificate"),
                _ => error!(ending = text, "ALARM: certificate"),
            }
        }
        holds
    }

    /// Looks at certificates' ends for ever.
    pub(super) async fn keep_looking_at_ends(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            self.endings();
        }
    }

    /// Closes connections whose certificates a new list names at once, and those that a handshake would
    /// not take any more when trust stores or lists have changed, and on the clock.
    pub(super) async fn keep_out_revoked(self: Arc<Self>) {
        let mut changes = self.tls.changed_lists();
        let mut ticks = tokio::time::interval(AGAIN);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            let closed = self.shell.close_where(
                |info| info.peer.side == Side::Partner && self.tls.is_revoked(&info.peer.names),
                Refusal::Revoked,
            );
            if closed > 0 {
                warn!(closed, "connections closed: a new revocation list names their certificates");
            }
            self.keep_out_distrusted().await;
        }
    }

    /// Each chain is judged once, whatever number of connections has come with it. What was found bad
    /// beside a change is judged once more while there is none: a reload is whole, pins included, and
    /// no command waits for chains that are good.
    async fn keep_out_distrusted(&self) {
        let standing = |info: ConnectionInfo| {
            let (side, unchained) = (info.peer.side, info.peer.names.unchained);
            Some(Standing { side, chain: info.chain?, unchained })
        };
        let all: HashSet<Standing> =
            self.shell.connections().into_iter().filter_map(standing).collect();
        let bad = self.judge_again(all).await;
        if bad.is_empty() {
            return;
        }
        let _whole = self.change.lock().await;
        let bad = self.judge_again(bad.into_keys()).await;
        let Some(why) = bad.values().next() else { return };
        let is_bad = |info: &ConnectionInfo| {
            standing(info.clone()).is_some_and(|standing| bad.contains_key(&standing))
        };
        let closed = self.shell.close_where(is_bad, Refusal::NoCertificate);
        warn!(closed, why, "connections closed: their certificates are good for nothing any more");
    }

    /// Those of these that a handshake would not take any more, and why.
    async fn judge_again(
        &self,
        all: impl IntoIterator<Item = Standing, IntoIter: Send + 'static>,
    ) -> HashMap<Standing, String> {
        let (all, tls) = (all.into_iter(), Arc::clone(&self.tls));
        let judged = tokio::task::spawn_blocking(move || {
            let now = UnixTime::now();
            let judge = |standing: Standing| {
                let why = tls.no_longer_good(&standing, now)?;
                Some((standing, why))
            };
            all.filter_map(judge).collect()
        });
        judged.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn ending(name: &str, left: u64) -> Ending {
        let whose = match name {
            "ours" => Whose::Ours("edge.pem".into()),
            "root" => Whose::Trusted("partners.pem".into()),
            _ => Whose::Partners,
        };
        Ending { whose, description: name.to_owned(), valid_from: 0, expires_at: NOW + left }
    }

    #[test]
    fn one_whose_time_has_not_come_is_told_and_shown() {
        let mut watch = ExpiryWatch::default();
        let early = Ending { valid_from: NOW + 1, ..ending("ours", 90 * DAY) };
        let (new, shown) = watch.look(NOW, vec![early.clone()]);
        assert!(new.len() == 1 && shown[0].contains("not valid yet"), "{shown:?}");
        assert!(watch.look(NOW + 1, vec![early]).1.is_empty());
    }

    #[test]
    fn each_step_is_told_once_and_shown_while_it_holds() {
        let mut watch = ExpiryWatch::default();
        // Days before the end, told or not, and what is shown.
        for (days, told, words) in [
            (31, false, ""),
            (30, true, "ends in 30 days"),
            (29, false, "ends in 29 days"),
            (15, false, "ends in 15 days"),
            (14, true, "ends in 14 days"),
            (7, true, "ends in 7 days"),
            (6, false, "ends in 6 days"),
            (1, true, "within a day"),
            (1, false, "within a day"),
        ] {
            let now = NOW - days * DAY;
            let (new, shown) = watch.look(now, vec![ending("ours", 0)]);
            assert_eq!(new.len(), usize::from(told), "{days}");
            assert_eq!(shown.len(), usize::from(!words.is_empty()), "{days}");
            assert!(shown.iter().all(|text| text.contains(words)), "{days}: {shown:?}");
        }
        let (new, shown) = watch.look(NOW, vec![ending("ours", 0)]);
        assert!(new.len() == 1 && shown[0].contains("has ended"), "{shown:?}");
        assert!(shown[0].contains("edge.pem") && shown[0].contains("renewed"), "{shown:?}");
        // Renewed: silent, and told again when that one ends.
        assert_eq!(watch.look(NOW, vec![ending("ours", 90 * DAY)]).1.len(), 0);
        assert_eq!(watch.look(NOW + 85 * DAY, vec![ending("ours", 90 * DAY)]).0.len(), 1);
    }

    #[test]
    fn whose_it_is_is_said_and_the_soonest_comes_first() {
        let mut watch = ExpiryWatch::default();
        let all =
            vec![ending("partner", 5 * DAY), ending("root", 2 * DAY), ending("ours", 9 * DAY)];
        let (new, shown) = watch.look(NOW, all.clone());
        assert_eq!(new.len(), 3);
        for (text, words) in shown.iter().zip(["a root in", "partner's", "our certificate in"]) {
            assert!(text.contains(words), "{text}");
        }
        // A partner that comes again is not told again; two connections are one certificate.
        assert!(watch.look(NOW, Vec::new()).0.is_empty());
        let twice = [all.clone(), all].concat();
        let (new, shown) = watch.look(NOW, twice);
        assert_eq!((new.len(), shown.len()), (0, 3));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut watch = ExpiryWatch::default();
        for n in 0..MAX_TOLD as u64 + 50 {
            watch.look(NOW, vec![ending(&n.to_string(), n)]);
        }
        assert_eq!(watch.told.len(), MAX_TOLD);
        let many = (0..500).map(|n| ending(&format!("x{n}"), DAY)).collect();
        assert_eq!(watch.look(NOW, many).1.len(), MAX_SHOWN);
    }
}
