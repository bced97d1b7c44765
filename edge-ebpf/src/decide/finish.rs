//! What is still asked of a packet that was let in: what it carries, whether its rule's rates and
//! its zone's ceiling have room, whether there is a flood. And what has passed all that is
//! remembered, where what comes after it must be known: a first fragment, a connection's SYN.

use super::{
    Family, Judged, Tables, Tuple,
    fragment::begin,
    limit::{Amount, charge, scaled},
};
use crate::{
    abi::{
        CONTENT_ANY, CONTENT_SIP, FLOOD_ROUND, FRAGMENT_SPOILED, FRAGMENTS_PER_SECOND, Flood,
        FlowKey, Fragment, FragmentKey, KnownKey, Limit, Limits, SETTING_CEILING, SETTING_FLOOD,
        Settings, bucket_index, zone_bucket,
    },
    packet::{Frame, Kind, PROTOCOL_TCP, TCP_ACK, TCP_SYN, payload, refused_content},
    verdict::{Reason, Verdict},
};

/// Which of the buckets.
#[derive(Clone, Copy, Debug)]
pub enum BucketName {
    /// One of the shared buckets of sources.
    Source(u32),
    /// Of a rule, or of a zone.
    Total(u32),
    /// Of a source that has proved who it is.
    Known(KnownKey),
}

impl Judged {
    /// The reason after everything was asked.
    #[inline(always)]
    pub(super) fn reason<T: Tables>(
        &self,
        tables: &T,
        settings: &Settings,
        frame: &Frame<'_>,
    ) -> Reason {
        let reason = self.found.reason;
        // What keeps the link alive has no packed facts and is never limited.
        if reason.verdict() != Verdict::Pass || self.upper == 0 {
            return reason;
        }
        if reason != Reason::Management
            && let Some(refused) = self.refused(tables, settings, frame)
        {
            return refused;
        }
        if self.packed.fragment()
            && let Some(refused) = tables.first_fragment(settings, self, frame)
        {
            return refused;
        }
        if self.found.content != CONTENT_ANY && self.is_syn() {
            tables.begun(self, frame);
        }
        reason
    }

    /// What its content, its rates or a flood refuse it for.
    #[inline(always)]
    fn refused<T: Tables>(
        &self,
        tables: &T,
        settings: &Settings,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        if self.found.content != CONTENT_ANY
            && let Some(refused) = tables.content(settings, self, frame)
        {
            return Some(refused);
        }
        if self.found.limits != 0
            && let Some(refused) = tables.limited(settings, self, frame)
        {
            return Some(refused);
        }
        let ceiling = settings.flags & SETTING_CEILING != 0;
        if ceiling || self.asks_for_floods(tables, settings) {
            return tables.flooded(settings, self, frame);
        }
        None
    }

    /// Whether it matters if there is a flood: to what opens a connection always, to the segments
    /// of a connection only while cookies are sent.
    #[inline(always)]
    fn asks_for_floods<T: Tables>(&self, tables: &T, settings: &Settings) -> bool {
        settings.flags & SETTING_FLOOD != 0
            && self.found.reason == Reason::Rule
            && self.packed.transport().kind == Kind::Tcp
            && (self.is_syn() || tables.sends_cookies(self.place.zone))
    }

    #[inline(always)]
    fn is_syn(&self) -> bool {
        let transport = self.packed.transport();
        transport.kind == Kind::Tcp && transport.detail & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Both ends, read again from the frame; they were there a moment ago, and are still.
    #[inline(always)]
    fn tuple<A: Family>(&self, frame: &Frame<'_>) -> Option<Tuple<A>> {
        let (source, destination) = A::addresses(frame, self.network as usize)?;
        let transport = self.packed.transport();
        Some(Tuple::new(source, transport.source_port, destination, transport.destination_port))
    }
}

/// The questions, each always asked through the method of [`Tables`] of the same name.
pub mod questions {
    use super::*;

    /// What the payload begins with.
    #[inline(always)]
    pub fn content<T: Tables, A: Family>(
        tables: &T,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let kind = judged.packed.transport().kind;
        if kind == Kind::Tcp && !begins::<T, A>(tables, judged, frame) {
            return None;
        }
        let content = judged.found.content;
        let end = A::end(frame, judged.network as usize)?;
        let payload = payload(frame, judged.upper as usize, kind)?;
        if let Some(refused) = refused_content(frame, payload, end, kind, content) {
            return Some(refused);
        }
        let scanner = content == CONTENT_SIP && tables.is_scanner(frame, payload as u32);
        scanner.then_some(Reason::SipScanner)
    }

    /// Remembers where the first bytes of a connection come, whose SYN has passed.
    #[inline(always)]
    pub fn begun<T: Tables, A: Family>(tables: &T, judged: &Judged, frame: &Frame<'_>) {
        if let Some((key, sequence)) = segment::<A>(judged, frame) {
            tables.set_beginning(&key, sequence.wrapping_add(1));
        }
    }

    /// The rule's limits: those for one source, then those for all.
    #[inline(always)]
    pub fn limited<T: Tables, A: Family>(
        tables: &T,
        settings: &Settings,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let (source, _) = A::addresses(frame, judged.network as usize)?;
        let rule = judged.found.rule;
        let amount = Amount { new: judged.is_syn(), bytes: tables.frame_length(frame) };
        let limits = tables.limits(tables.generation(settings), judged.found.limits.into())?;
        let now = scaled(tables.now_nanoseconds());
        let (first, second) = bucket_index(settings.hash_seed, source.bucket(), rule);
        let one = take(tables, BucketName::Source(first), &limits.source, now, amount);
        let other = take(tables, BucketName::Source(second), &limits.source, now, amount);
        if one == Some(false) && other == Some(false) {
            let key = KnownKey { source: source.known(), rule, reserved: 0 };
            if take(tables, BucketName::Known(key), &limits.source, now, amount) != Some(true) {
                return Some(Reason::RateSource);
            }
        }
        let total = take(tables, BucketName::Total(rule), &limits.total, now, amount);
        (total == Some(false)).then_some(Reason::RateTotal)
    }

    /// Whether there is a flood, and whether the zone has room.
    #[inline(always)]
    pub fn flooded<T: Tables, A: Family>(
        tables: &T,
        settings: &Settings,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let now = tables.now_nanoseconds();
        let tcp = judged.packed.transport().kind == Kind::Tcp;
        let zone = judged.place.zone;
        if tcp
            && settings.flags & SETTING_FLOOD != 0
            && judged.found.reason == Reason::Rule
            && tables.in_flood(settings.flood_syns, zone, judged.is_syn(), seconds(now))
        {
            if judged.is_syn() {
                return Some(Reason::SynCookie);
            }
            let tuple = judged.tuple::<A>(frame)?;
            if !tables.tcp_socket(&tuple) && !tables.cookie_is_good(judged, &tuple) {
                return Some(Reason::SynCookieBad);
            }
        }
        if settings.flags & SETTING_CEILING == 0 {
            return None;
        }
        // Only packets are limited: the other limits would want room on a small stack.
        let limit = &settings.ceilings[usize::from(zone & 1)];
        let name = BucketName::Total(zone_bucket(zone));
        let full = limit.increment != 0
            && tables.bucket(name, |bucket| {
                match tables.conforms(limit, bucket.packets, scaled(now), 1) {
                    Some(due) => {
                        bucket.packets = due;
                        true
                    }
                    None => false,
                }
            }) == Some(false);
        // A connection that stands is not disturbed.
        (full && !(tcp && tables.tcp_socket(&judged.tuple::<A>(frame)?)))
            .then_some(Reason::ZoneCeiling)
    }

    /// Remembers a first fragment that has passed. Without room in this second it is dropped:
    /// those after it would be anyway.
    #[inline(always)]
    pub fn first_fragment<T: Tables, A: Family>(
        tables: &T,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        let second = seconds(tables.now_nanoseconds());
        let room = tables.flood(judged.place.zone, |flood| {
            in_second(flood, second);
            flood.fragments = flood.fragments.wrapping_add(1);
            flood.fragments <= FRAGMENTS_PER_SECOND
        });
        if room != Some(true) {
            return Some(Reason::Fragment);
        }
        let (source, destination) = A::addresses(frame, judged.network as usize)?;
        let key = FragmentKey {
            source: source.mapped(),
            destination: destination.mapped(),
            id: judged.fragment_id,
            protocol: if judged.six { 0 } else { judged.packed.protocol() },
            zone: judged.place.zone,
            reserved: [0; 2],
        };
        let fragment = begin(tables.fragment(&key), second, judged.fragment_length);
        let spoiled = Fragment { end: FRAGMENT_SPOILED, seconds: second };
        tables.set_fragment(&key, fragment.unwrap_or(spoiled));
        fragment.is_none().then_some(Reason::FragmentOverlap)
    }
}

/// Charges a bucket. `None`: there is none.
#[inline(always)]
fn take<T: Tables>(
    tables: &T,
    name: BucketName,
    limits: &Limits,
    now: u64,
    amount: Amount,
) -> Option<bool> {
    let conforms = |limit: &Limit, due, now, units| tables.conforms(limit, due, now, units);
    tables.bucket(name, |bucket| match charge(limits, bucket, now, amount, conforms) {
        Some(after) => {
            *bucket = after;
            true
        }
        None => false,
    })
}

/// Counts new connections, and tells whether only those come in that can show a cookie. Every CPU
/// counts for itself and tells the others each [`FLOOD_ROUND`], so that the threshold is the whole
/// machine's.
#[inline(always)]
pub fn in_flood<T: Tables>(tables: &T, threshold: u32, zone: u8, syn: bool, second: u32) -> bool {
    if threshold == 0 {
        return false;
    }
    let cookies = tables.flood(zone, |flood| {
        in_second(flood, second);
        if syn {
            flood.syns = flood.syns.wrapping_add(1);
            let untold = flood.syns % FLOOD_ROUND;
            let more = if untold == 0 { FLOOD_ROUND } else { 0 };
            let told = tables.new_connections(zone, |told| in_all(told, second, more));
            if told.wrapping_add(untold) > threshold {
                // Over in this second, and in the next until it is seen to be over.
                flood.cookies_until = second.wrapping_add(1);
            }
        }
        if second > flood.cookies_until {
            // It is over: segments need not be asked any more.
            flood.cookies_until = 0;
        }
        flood.cookies_until != 0
    });
    cookies == Some(true)
}

/// What all CPUs have told of this second, with `more`: see [`zone_bucket`].
#[inline(always)]
const fn in_all(told: u64, second: u32, more: u32) -> u64 {
    let before = if (told >> 32) as u32 == second { told as u32 } else { 0 };
    (second as u64) << 32 | before.saturating_add(more) as u64
}

/// Whether a TCP segment brings the first bytes of its connection, which alone say what it
/// carries. The sequence number of a SYN that was let in tells. A connection whose SYN was
/// forgotten, or answered with a cookie, is not looked at here: the daemon reads its bytes in any
/// case.
#[inline(always)]
fn begins<T: Tables, A: Family>(tables: &T, judged: &Judged, frame: &Frame<'_>) -> bool {
    if judged.is_syn() {
        return false;
    }
    let Some((key, sequence)) = segment::<A>(judged, frame) else { return false };
    tables.beginning(&key) == Some(sequence)
}

/// A TCP segment's connection and sequence number.
#[inline(always)]
fn segment<A: Family>(judged: &Judged, frame: &Frame<'_>) -> Option<(FlowKey, u32)> {
    let tuple = judged.tuple::<A>(frame)?;
    let mut cursor = frame.cursor();
    cursor.skip((judged.upper & 0x7fff) as usize);
    let sequence = u32::from_be_bytes(cursor.take::<8>()?.four::<4>());
    Some((tuple.flow(PROTOCOL_TCP), sequence))
}

#[inline(always)]
const fn seconds(nanoseconds: u64) -> u32 {
    (nanoseconds / 1_000_000_000) as u32
}

#[inline(always)]
fn in_second(flood: &mut Flood, second: u32) {
    if flood.second != second {
        flood.second = second;
        flood.syns = 0;
        flood.fragments = 0;
    }
}
