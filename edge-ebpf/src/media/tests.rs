//! Tables of what flows let through.

use super::*;
use crate::{
    abi::{CONTENT_ANY, CONTENT_MEDIA, MEDIA_BEHIND_NAT, MEDIA_REWRITE, MEDIA_RTP, mapped},
    packet::Frame,
};

const NOW: u64 = 1_000 * NANOSECONDS;
const REMOTE: [u8; 4] = [203, 0, 113, 9];
const OTHER: [u8; 4] = [203, 0, 113, 10];
const FAR: [u8; 4] = [198, 51, 100, 7];
const OURS: [u8; 4] = [192, 0, 2, 1];
const PORT: u16 = 4000;
const LOCAL: u16 = 50_000;

fn flow() -> MediaFlow {
    MediaFlow {
        call: 7,
        source: mapped(REMOTE),
        source_bits: 128,
        source_port: PORT.to_be_bytes(),
        local: mapped(OURS),
        local_port: LOCAL.to_be_bytes(),
        flags: MEDIA_REWRITE | MEDIA_RTP,
        content: CONTENT_MEDIA,
        ifindex: 3,
        state: 1,
        epoch: 4,
        expires_at_seconds: 2000,
        learn_until_seconds: 1010,
        clock: 8000,
        ..MediaFlow::default()
    }
}

fn behind_nat() -> MediaFlow {
    MediaFlow {
        flags: MEDIA_REWRITE | MEDIA_RTP | MEDIA_BEHIND_NAT,
        source: mapped([203, 0, 113, 0]),
        source_bits: 96 + 24,
        source_port: [0; 2],
        ..flow()
    }
}

/// RTP of this SSRC, or STUN for 0.
fn packet(source: [u8; 4], port: u16, ssrc: u32) -> MediaPacket {
    MediaPacket {
        source: words6(mapped(source)),
        destination: words6(mapped(OURS)),
        source_port: u16::from_ne_bytes(port.to_be_bytes()),
        destination_port: u16::from_ne_bytes(LOCAL.to_be_bytes()),
        length: 214,
        hops: 64,
        first: Some(if ssrc == 0 { 0 } else { 0x80 }),
        rtp: (ssrc != 0).then_some(Rtp { sequence: 1, timestamp: 0, ssrc }),
        ..MediaPacket::default()
    }
}

/// Judges, and writes down what came of it.
fn go(
    flow: &MediaFlow,
    state: &mut MediaState,
    packet: &MediaPacket,
    now: u64,
) -> Result<Learn, Reason> {
    match judge(flow, state, packet, now) {
        Ok(step) => {
            note(state, flow, packet, &step, now, || now);
            Ok(step.learn)
        }
        Err(reason) => {
            note_refused(state, flow, packet, reason);
            Err(reason)
        }
    }
}

const AGAIN: Result<Learn, Reason> = Err(Reason::MediaLearning);
const LEARNED: Result<Learn, Reason> = Ok(Learn::Learned);
const KNOWN: Result<Learn, Reason> = Ok(Learn::Known);
const REFUSED: Result<Learn, Reason> = Err(Reason::MediaSource);

type Seen = ([u8; 4], u16, u32, Result<Learn, Reason>);

#[track_caller]
fn follows(flow: &MediaFlow, now: u64, seen: &[Seen]) -> MediaState {
    let mut state = MediaState::default();
    for (at, (source, port, ssrc, expected)) in seen.iter().enumerate() {
        let came = go(flow, &mut state, &packet(*source, *port, *ssrc), now);
        assert_eq!(came, *expected, "packet {at}");
    }
    state
}

#[test]
fn of_flows_that_share_a_door_the_one_whose_source_it_is_fits_best() {
    let learned = |source: [u8; 4], port: u16, epoch| MediaState {
        learned: MEDIA_LEARNED,
        source: mapped(source),
        source_port: port.to_be_bytes(),
        epoch,
        ..MediaState::default()
    };
    let nothing = MediaState { epoch: 4, ..MediaState::default() };
    let candidate = MediaState { learned: MEDIA_CANDIDATE, ..learned(REMOTE, 4001, 4) };
    for (flow, state, source, port, expected) in [
        (flow(), nothing, REMOTE, PORT, 2),
        (flow(), nothing, REMOTE, 4001, 1),
        (flow(), candidate, REMOTE, 4001, 1),
        (flow(), nothing, OTHER, PORT, 0),
        (flow(), learned(REMOTE, 4001, 4), REMOTE, 4001, 2),
        (flow(), learned(REMOTE, 4001, 4), REMOTE, 4002, 0),
        (flow(), learned(REMOTE, 4001, 3), REMOTE, 4002, 1),
        // It takes the flow back.
        (flow(), learned(REMOTE, 4001, 4), REMOTE, PORT, 2),
        (behind_nat(), nothing, OTHER, PORT, 1),
        (behind_nat(), learned(OTHER, PORT, 4), OTHER, PORT, 2),
        (behind_nat(), learned(OTHER, PORT, 4), REMOTE, PORT, 0),
        (behind_nat(), nothing, FAR, PORT, 0),
        // A port that is not known is nobody's port 0.
        (behind_nat(), nothing, REMOTE, 0, 1),
    ] {
        let packet = packet(source, port, 1);
        assert_eq!(fits(&flow, &state, &packet), expected, "{source:?} {port} {state:?}");
        // What does not fit is refused, and what does may not be for its source.
        let refused = judge(&flow, &state, &packet, NOW) == Err(Reason::MediaSource);
        assert_eq!(refused, expected == 0);
    }
    // Slots from 1 on, each before the next.
    for (fits, found) in [
        (&[0, 0][..], 1),
        (&[0, 1, 0], 2),
        (&[1, 1], 1),
        (&[1, 2], 2),
        (&[2, 2], 1),
        (&[0, 0, 0, 0, 0, 0, 0, 2], 8),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 2], 1),
    ] {
        let look = |slot: u32| {
            let fits = *fits.get(slot as usize - 1)?;
            Some((fits, slot + 1))
        };
        assert_eq!(shared(1, look), found, "{fits:?}");
        // A chain that bites its own tail has an end all the same.
        assert_eq!(shared(3, |slot| Some((0, slot))), 3);
    }
}

#[test]
fn the_source_that_the_call_named_is_learned_at_once_and_then_no_other_sends() {
    let state = follows(
        &flow(),
        NOW,
        &[
            (OTHER, PORT, 1, REFUSED),
            (REMOTE, PORT, 1, LEARNED),
            (REMOTE, PORT, 1, KNOWN),
            // Another port, another address, another SSRC from elsewhere: nobody moves it.
            (REMOTE, 4001, 1, REFUSED),
            (REMOTE, 4001, 1, REFUSED),
            (OTHER, PORT, 1, REFUSED),
            (OTHER, PORT, 1, REFUSED),
            (REMOTE, PORT, 2, KNOWN),
            (REMOTE, PORT, 0, KNOWN),
        ],
    );
    assert_eq!((state.packets, state.dropped, state.bytes), (4, 5, 4 * 214));
    assert_eq!((state.source, state.source_port), (mapped(REMOTE), PORT.to_be_bytes()));
    assert_eq!((state.learned, state.epoch, state.last_seen), (MEDIA_LEARNED, 4, NOW));
}

#[test]
fn another_port_is_learned_by_two_packets_in_a_row_and_only_in_the_window() {
    // Its own port takes the flow back from another one of the same address, once and for all.
    let steady = [
        (REMOTE, 4001, 1, AGAIN),
        (REMOTE, 4001, 1, LEARNED),
        (REMOTE, 4002, 1, REFUSED),
        (REMOTE, PORT, 1, LEARNED),
        (REMOTE, 4001, 1, REFUSED),
        (REMOTE, PORT, 1, KNOWN),
    ];
    follows(&flow(), NOW, &steady);
    // One in between, or another SSRC, begins anew.
    let between = [
        (REMOTE, 4001, 1, AGAIN),
        (REMOTE, 4002, 1, AGAIN),
        (REMOTE, 4001, 1, AGAIN),
        (REMOTE, 4001, 2, AGAIN),
        (REMOTE, 4001, 2, LEARNED),
    ];
    follows(&flow(), NOW, &between);
    // The port that the call named needs no second packet.
    follows(&flow(), NOW, &[(REMOTE, 4001, 1, AGAIN), (REMOTE, PORT, 1, LEARNED)]);
    let late = NOW + 10 * NANOSECONDS;
    follows(&flow(), late, &[(REMOTE, 4001, 1, REFUSED), (REMOTE, PORT, 1, LEARNED)]);
    // Without a port in the call, none is learned after the window.
    let nameless = MediaFlow { source_port: [0; 2], ..flow() };
    follows(&nameless, late, &[(REMOTE, 4001, 1, REFUSED)]);
    follows(&nameless, NOW, &[(REMOTE, 4001, 1, AGAIN), (REMOTE, 4001, 1, LEARNED)]);
}

#[test]
fn behind_nat_a_source_of_the_prefix_is_learned_by_two_packets_in_a_row() {
    let seen = [
        (FAR, PORT, 1, REFUSED),
        (OTHER, 7, 1, AGAIN),
        (REMOTE, 7, 1, AGAIN),
        (OTHER, 7, 1, AGAIN),
        (OTHER, 7, 1, LEARNED),
        (REMOTE, 7, 1, REFUSED),
        (FAR, 7, 1, REFUSED),
    ];
    follows(&behind_nat(), NOW, &seen);
    follows(&behind_nat(), NOW + 10 * NANOSECONDS, &[(OTHER, 7, 1, REFUSED)]);
    let everybody = MediaFlow { source_bits: 0, ..behind_nat() };
    follows(&everybody, NOW, &[(OTHER, 7, 1, REFUSED)]);
}

#[test]
fn what_is_no_rtp_may_come_first_or_between_and_confirms() {
    follows(&flow(), NOW, &[(REMOTE, 9, 0, AGAIN), (REMOTE, 9, 0, LEARNED)]);
    let state = follows(&flow(), NOW, &[(REMOTE, 9, 0, AGAIN), (REMOTE, 9, 5, LEARNED)]);
    assert_eq!(state.ssrc, 5);
    let state = follows(&flow(), NOW, &[(REMOTE, 9, 5, AGAIN), (REMOTE, 9, 0, LEARNED)]);
    assert_eq!(state.ssrc, 5);
}

#[test]
fn a_new_epoch_forgets_what_was_learned_and_keeps_what_was_counted() {
    let mut state = MediaState::default();
    assert_eq!(go(&flow(), &mut state, &packet(REMOTE, PORT, 1), NOW), LEARNED);
    let moved = MediaFlow { epoch: 5, source: mapped(OTHER), ..flow() };
    assert_eq!(go(&moved, &mut state, &packet(REMOTE, PORT, 1), NOW), REFUSED);
    assert_eq!(go(&moved, &mut state, &packet(OTHER, PORT, 1), NOW), LEARNED);
    assert_eq!((state.packets, state.dropped, state.epoch), (2, 1, 5));
    // A candidate of an older epoch is none.
    let mut state = MediaState::default();
    assert_eq!(go(&flow(), &mut state, &packet(REMOTE, 9, 1), NOW), AGAIN);
    let next = MediaFlow { epoch: 5, ..flow() };
    assert_eq!(go(&next, &mut state, &packet(REMOTE, 9, 1), NOW), AGAIN);
    assert_eq!(go(&next, &mut state, &packet(REMOTE, 9, 1), NOW), LEARNED);
}

#[test]
fn what_a_flow_refuses_has_a_reason_each_and_teaches_nothing() {
    let right = packet(REMOTE, PORT, 1);
    type Row = (Reason, fn(&mut MediaFlow), fn(&mut MediaPacket));
    let rows: [Row; 14] = [
        (Reason::MediaExpired, |flow| flow.call = 0, |_| ()),
        (Reason::MediaExpired, |flow| flow.expires_at_seconds = 1000, |_| ()),
        (Reason::MediaShape, |flow| flow.local_port = [0, 1], |_| ()),
        (Reason::MediaShape, |flow| flow.local[15] ^= 1, |_| ()),
        (Reason::MediaShape, |flow| flow.local[0] ^= 1, |_| ()),
        (Reason::MediaSource, |flow| flow.source[15] ^= 1, |_| ()),
        (Reason::MediaSource, |flow| flow.source[0] ^= 1, |_| ()),
        (Reason::NotMedia, |_| (), |packet| packet.first = Some(b'P')),
        (Reason::NotMedia, |_| (), |packet| packet.first = None),
        (Reason::MediaHops, |_| (), |packet| packet.hops = 1),
        (Reason::MediaHops, |_| (), |packet| packet.hops = 0),
        (Reason::MediaNoRoute, |flow| flow.ifindex = 0, |_| ()),
        (Reason::MediaTooLong, |flow| flow.mtu = 1500, |packet| packet.udp_length = 1481),
        (Reason::MediaNoRoute, |flow| (flow.ifindex, flow.mtu) = (0, 9), |_| ()),
    ];
    for (at, (reason, change_flow, change_packet)) in rows.into_iter().enumerate() {
        let (mut flow, mut packet, mut state) = (flow(), right, MediaState::default());
        change_flow(&mut flow);
        change_packet(&mut packet);
        assert_eq!(go(&flow, &mut state, &packet, NOW), Err(reason), "row {at}");
        let expected = MediaState { dropped: 1, ..MediaState::default() };
        assert_eq!(state, expected, "row {at}");
    }
    // A wrong first byte makes no candidate either.
    let mut state = MediaState::default();
    let wrong = MediaPacket { first: Some(b'P'), rtp: None, ..packet(REMOTE, 9, 1) };
    assert_eq!(go(&flow(), &mut state, &wrong, NOW), Err(Reason::NotMedia));
    assert_eq!(go(&flow(), &mut state, &packet(REMOTE, 9, 1), NOW), AGAIN);
    // Where the call carries no RTP, anything goes.
    let any = MediaFlow { content: CONTENT_ANY, ..flow() };
    assert_eq!(go(&any, &mut state, &MediaPacket { first: None, ..right }, NOW), LEARNED);
    // As long as it may be, of either family, rewritten or not.
    for (flags, udp, length) in
        [(MEDIA_REWRITE, 1480, 0), (MEDIA_REWRITE | MEDIA_OUT_IPV6, 1460, 0), (0, 0, 1500)]
    {
        let fits = |mtu, more: u16| {
            let flow = MediaFlow { flags, mtu, content: CONTENT_ANY, ..flow() };
            let packet = MediaPacket {
                udp_length: udp + more,
                network: 14,
                length: 14 + length + u32::from(more),
                ..right
            };
            judge(&flow, &MediaState::default(), &packet, NOW).map(|step| step.learn)
        };
        assert_eq!(fits(1500, 0), LEARNED);
        assert_eq!(fits(1500, 1), Err(Reason::MediaTooLong), "{flags}");
        assert_eq!(fits(0, 60_000), LEARNED, "it is not known");
    }
    // The daemon needs no way.
    let by_daemon = MediaFlow { flags: MEDIA_BY_DAEMON, ifindex: 0, ..flow() };
    assert!(judge(&by_daemon, &MediaState::default(), &right, NOW).unwrap().by_daemon);
}

#[test]
fn a_flow_carries_what_its_call_agreed_to_and_a_stranger_uses_none_of_it() {
    let limited = MediaFlow { packets: Limit::new(50, 50), ..flow() };
    let mut state = MediaState::default();
    let mut passed = 0;
    for _ in 0..200 {
        assert!(go(&limited, &mut state, &packet(OTHER, PORT, 1), NOW).is_err());
        passed += u32::from(go(&limited, &mut state, &packet(REMOTE, PORT, 1), NOW).is_ok());
    }
    assert_eq!(passed, 51);
    let refused = go(&limited, &mut state, &packet(REMOTE, PORT, 1), NOW);
    assert_eq!(refused, Err(Reason::MediaRate));
    assert!(go(&limited, &mut state, &packet(REMOTE, PORT, 1), NOW + NANOSECONDS).is_ok());
    let limited = MediaFlow { bytes: Limit::new(1000, 500), ..flow() };
    let mut state = MediaState::default();
    let came: Vec<bool> =
        (0..5).map(|_| go(&limited, &mut state, &packet(REMOTE, PORT, 1), NOW).is_ok()).collect();
    assert_eq!(came, [true, true, true, false, false]);
}

/// Counts these sequence numbers; expected, received.
fn counted(sequences: impl IntoIterator<Item = u16>) -> (u32, u32) {
    let (flow, mut state) = (flow(), MediaState::default());
    for sequence in sequences {
        let rtp = Some(Rtp { sequence, timestamp: 0, ssrc: 1 });
        go(&flow, &mut state, &MediaPacket { rtp, ..packet(REMOTE, PORT, 1) }, NOW).unwrap();
    }
    let expected = state.highest_sequence.wrapping_sub(state.first_sequence).wrapping_add(1);
    (expected, state.received)
}

#[test]
fn sequence_numbers_are_counted_as_rfc_3550_counts_them() {
    assert_eq!(counted(10..20), (10, 10));
    assert_eq!(counted([1, 2, 5, 6]), (6, 4), "two are lost");
    assert_eq!(counted([1, 3, 2, 4]), (4, 4), "late is not lost");
    assert_eq!(counted([1, 2, 2, 3]), (3, 4), "twice");
    assert_eq!(counted((0..200_000_u32).map(|n| n as u16)), (200_000, 200_000), "cycles");
    assert_eq!(counted([65_534, 65_535, 0, 1]), (4, 4));
    // One stray number is nothing; two in a row are a new count, and old losses stay.
    assert_eq!(counted([1, 2, 30_000, 3, 4]), (4, 5));
    assert_eq!(counted([1, 2, 4, 30_000, 30_001, 30_002]), (7, 6));
}

#[test]
fn another_ssrc_of_the_same_source_is_counted_from_its_beginning() {
    let (flow, mut state) = (flow(), MediaState::default());
    for (sequence, ssrc) in [(1, 1), (9, 1), (500, 2), (501, 2)] {
        let rtp = Some(Rtp { sequence, timestamp: 0, ssrc });
        go(&flow, &mut state, &MediaPacket { rtp, ..packet(REMOTE, PORT, ssrc) }, NOW).unwrap();
    }
    assert_eq!((state.first_sequence, state.highest_sequence, state.received), (500, 501, 2));
    assert_eq!((state.packets, state.ssrc), (4, 2));
}

#[test]
fn jitter_is_measured_over_pairs_and_comes_near_to_what_it_is() {
    // Every other packet is 5 ms late: 40 units of 8 kHz between neighbours.
    for (late, least, most) in [(0, 0, 0), (5_000_000, 36, 41)] {
        let (flow, mut state) = (flow(), MediaState::default());
        let mut asked = 0;
        for number in 0..8000_u32 {
            let rtp = Rtp { sequence: number as u16, timestamp: number * 160, ssrc: 1 };
            let arrival = NOW + u64::from(number) * 20_000_000 + u64::from(number & 1) * late;
            let packet = MediaPacket { rtp: Some(rtp), ..packet(REMOTE, PORT, 1) };
            let step = judge(&flow, &state, &packet, NOW).unwrap();
            let asks = std::cell::Cell::new(0);
            let clock = || {
                asks.set(asks.get() + 1);
                arrival
            };
            note(&mut state, &flow, &packet, &step, NOW, clock);
            asked += asks.get();
        }
        let jitter = state.jitter / 16;
        assert!((least..=most).contains(&jitter), "{jitter} with {late} ns");
        assert_eq!(asked, 2000, "the precise clock is asked for one pair in eight");
    }
}

/// RFC 1071, by hand.
fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn sums_of_wide_numbers_are_those_of_words_of_sixteen_bits() {
    let mut seed = 1_u64;
    for _ in 0..10_000 {
        let mut bytes = [0; 16];
        for half in bytes.chunks_mut(8) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            half.copy_from_slice(&(seed ^ seed >> 31).to_ne_bytes());
        }
        let sum = folded(words(0, words6(bytes)));
        assert_eq!(u16::from_be_bytes(sum.to_ne_bytes()), plain_sum(&bytes));
    }
    assert_eq!((folded(0), folded(0xffff), folded(u64::MAX)), (0, 0xffff, 0xffff));
    let address = folded(words(0, words6(mapped(REMOTE))));
    let four = plain_sum(&REMOTE);
    assert_eq!(u16::from_be_bytes(address.to_ne_bytes()), four, "the mapped form adds nothing");
}

fn udp_packet(tags: &[u8], options: bool) -> Vec<u8> {
    let mut ip = vec![if options { 0x46 } else { 0x45 }, 0xb8, 0, 40, 1, 2, 0x40, 0, 9, 17, 0, 0];
    ip.extend_from_slice(&REMOTE);
    ip.extend_from_slice(&OURS);
    let sum = !plain_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&[2; 12], tags, &[8, 0], &ip[..]].concat();
    frame.extend_from_slice(&[15, 160, 0xc3, 0x50, 0, 20, 1, 2]);
    frame.extend_from_slice(&[0x80, 8, 0, 9, 0, 0, 0, 7, 0, 0, 0, 5]);
    frame
}

#[test]
fn a_packet_is_read_whole_or_not_at_all() {
    for tags in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]] {
        let frame = udp_packet(tags, false);
        let found = read(&Frame::new(&frame)).unwrap();
        let expected = MediaPacket {
            network: 14 + tags.len() as u32,
            length: frame.len() as u32,
            hops: 9,
            class: 0xb8,
            id: u16::from_ne_bytes([1, 2]),
            whole: true,
            udp_length: 20,
            checksum: u16::from_ne_bytes([1, 2]),
            rtp: Some(Rtp { sequence: 9, timestamp: 7, ssrc: 5 }),
            ..packet(REMOTE, PORT, 5)
        };
        assert_eq!(found, expected);
        for length in 0..frame.len() - 12 {
            assert_eq!(read(&Frame::new(&frame[..length])), None, "{length} bytes");
        }
        for at in 14 + tags.len()..34 + tags.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x11;
            assert_eq!(read(&Frame::new(&damaged)), None, "byte {at} of a header is damaged");
        }
    }
    assert_eq!(read(&Frame::new(&udp_packet(&[], true))), None, "options");
}
