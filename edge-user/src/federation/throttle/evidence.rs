//! What is kept of a sender for people to look at: enough to see why it is where it is. No message
//! text, and users of ours by a keyed hash unless the configuration wants them plain.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::federation::CertificateNames;

/// Samples kept, the last ones.
pub const MAX_SAMPLES: usize = 8;
/// Certificates kept, the last ones.
pub const MAX_CERTIFICATES: usize = 4;

/// What one sender did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Its first message, in seconds since 1970.
    pub first_seen: u64,
    /// Its last message, in seconds since 1970.
    pub last_seen: u64,
    /// Messages that were counted.
    pub messages: u64,
    /// Final responses to them, 2xx to 6xx, ours included.
    pub finals: [u64; 5],
    /// Users of ours it wrote to in this report period.
    pub distinct_users: u32,
    /// Its last messages that were answered.
    pub samples: VecDeque<Sample>,
    /// The last certificates it used.
    pub certificates: VecDeque<CertificateSeen>,
}

/// One answered message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When it was answered, in seconds since 1970.
    pub at: u64,
    /// Its method.
    pub method: String,
    /// The final response.
    pub status: u16,
    /// Whom it was for: `user@domain`, or 16 hex digits that stand for it.
    pub user: String,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSeen {
    /// Subject, issuer and serial.
    pub description: String,
    /// When it was first seen here, in seconds since 1970.
    pub first_seen: u64,
    /// When it expires, in seconds since 1970.
    pub expires_at: Option<u64>,
}

impl Evidence {
    /// A message more.
    pub(super) fn message(&mut self, unix: u64, names: &CertificateNames) {
        if self.messages == 0 {
            self.first_seen = unix;
        }
        self.last_seen = unix;
        self.messages += 1;
        // Nearly always the one that was seen last.
        if self.certificates.iter().rev().any(|seen| seen.description == names.description) {
            return;
        }
        if self.certificates.len() >= MAX_CERTIFICATES {
            self.certificates.pop_front();
        }
        self.certificates.push_back(CertificateSeen {
            description: names.description.clone(),
            first_seen: unix,
            expires_at: names.expires_at,
        });
    }

    /// A final response.
    pub(super) fn answered(&mut self, sample: Sample) {
        let class = usize::from(sample.status / 100).saturating_sub(2);
        if let Some(count) = self.finals.get_mut(class) {
            *count += 1;
        }
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Whether it is what this program may have written.
    pub(super) fn is_within_bounds(&self) -> bool {
        self.samples.len() <= MAX_SAMPLES && self.certificates.len() <= MAX_CERTIFICATES
    }
}
