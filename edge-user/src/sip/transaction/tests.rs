//! RFC 3261 section 17 and RFC 6026 as scripts in virtual time.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::sip::{CSeq, HeaderName};

const UDP: Origin<u8> = Origin { flow: 1, scope: 10, reliable: false };
const TCP: Origin<u8> = Origin { flow: 2, scope: 10, reliable: true };

/// A table, a clock that only the test moves, and what was written with the time of it.
struct Lab {
    table: Transactions<u8>,
    start: Instant,
    now: Instant,
    sent: Vec<(u64, String)>,
    events: Vec<(u64, Event<u8>)>,
}

impl Lab {
    fn new() -> Self {
        Self::with(Timing::default())
    }

    fn with(timing: Timing) -> Self {
        let start = Instant::now();
        let (sent, events) = (Vec::new(), Vec::new());
        Self { table: Transactions::new(timing), start, now: start, sent, events }
    }

    fn drain(&mut self) {
        let at = (self.now - self.start).as_millis() as u64;
        while let Some(event) = self.table.poll() {
            match event {
                Event::Send { bytes, .. } => {
                    let line = bytes.split(|b| *b == b'\r').next().unwrap();
                    self.sent.push((at, String::from_utf8_lossy(line).into_owned()));
                }
                event => self.events.push((at, event)),
            }
        }
    }

    /// Lets `duration` pass, stopping at each timer.
    fn pass(&mut self, duration: Duration) {
        self.drain();
        let end = self.now + duration;
        while let Some(due) = self.table.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.table.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn sent_at(&mut self) -> Vec<u64> {
        self.drain();
        std::mem::take(&mut self.sent).into_iter().map(|(at, _)| at).collect()
    }

    fn sent(&mut self) -> Vec<String> {
        self.drain();
        std::mem::take(&mut self.sent).into_iter().map(|(_, line)| line).collect()
    }

    fn events(&mut self) -> Vec<(u64, Event<u8>)> {
        self.drain();
        std::mem::take(&mut self.events)
    }

    fn request(&mut self, from: Origin<u8>, message: &Message) -> Incoming {
        self.table.receive_request(self.now, from, message)
    }

    fn response(&mut self, from: Origin<u8>, message: &Message) -> Answer {
        self.table.receive_response(self.now, from, message)
    }

    fn new_server(&mut self, from: Origin<u8>, message: &Message) -> ServerId {
        match self.request(from, message) {
            Incoming::New(id) => id,
            other => panic!("not new: {other:?}"),
        }
    }

    fn respond(&mut self, id: ServerId, status: u16) -> Result<(), TransactionError> {
        let bytes = Bytes::from(format!("SIP/2.0 {status} X\r\n\r\n"));
        self.table.respond(self.now, id, status, bytes)
    }

    fn send(&mut self, to: Origin<u8>, method: Method<'static>) -> ClientId {
        let bytes = request(method.as_str()).bytes().clone();
        let outgoing = Outgoing { to, branch: "z9hG4bKb", method, bytes };
        self.table.send(self.now, outgoing).unwrap()
    }
}

fn parse(text: String) -> Message {
    Message::parse_datagram(Bytes::from(text.into_bytes()), &Limits::default()).unwrap()
}

fn request(method: &str) -> Message {
    request_with(method, "z9hG4bKb")
}

fn request_with(method: &str, branch: &str) -> Message {
    parse(format!(
        "{method} sip:b@b.example SIP/2.0\r\nVia: SIP/2.0/TCP a.example;branch={branch}\r\n\
         Route: <sip:r.example;lr>\r\nFrom: <sip:a@a.example>;tag=a\r\nTo: <sip:b@b.example>\r\n\
         Call-ID: 1\r\nCSeq: 5 {method}\r\nMax-Forwards: 7\r\nContent-Length: 0\r\n\r\n"
    ))
}

fn response(status: u16, method: &str) -> Message {
    parse(format!(
        "SIP/2.0 {status} X\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bKb\r\n\
         From: <sip:a@a.example>;tag=a\r\nTo: <sip:b@b.example>;tag=b\r\nCall-ID: 1\r\n\
         CSeq: 5 {method}\r\nContent-Length: 0\r\n\r\n"
    ))
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_client_request_is_repeated_on_udp_only_and_times_out_after_64_t1() {
    // Timers A and E, B and F (17.1.1.2, 17.1.2.2).
    let invite = [0, 500, 1500, 3500, 7500, 15500, 31500];
    let other = [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
    let cases: &[(Origin<u8>, Method<'static>, &[u64])] = &[
        (UDP, Method::Invite, &invite),
        (UDP, Method::Message, &other),
        (TCP, Method::Invite, &[0]),
        (TCP, Method::Message, &[0]),
    ];
    for (to, method, times) in cases {
        let mut lab = Lab::new();
        let id = lab.send(*to, *method);
        lab.pass(LONG);
        assert_eq!(lab.sent_at(), *times, "{method} {to:?}");
        let end = vec![(32000, Event::Timeout(id)), (32000, Event::ClientEnded(id))];
        assert_eq!(lab.events(), end, "{method} {to:?}");
        assert_eq!((lab.table.clients(), lab.table.next_timeout()), (0, None));
    }
}

#[test]
fn a_provisional_response_stops_an_invite_and_slows_the_others_to_t2() {
    let mut lab = Lab::new();
    let id = lab.send(UDP, Method::Invite);
    assert_eq!(lab.response(UDP, &response(180, "INVITE")), Answer::Deliver(id));
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.sent_at(), [0]);

    let mut lab = Lab::new();
    let id = lab.send(UDP, Method::Message);
    assert_eq!(lab.response(UDP, &response(100, "MESSAGE")), Answer::Deliver(id));
    lab.pass(LONG);
    assert_eq!(lab.sent_at(), [0, 4000, 8000, 12000, 16000, 20000, 24000, 28000]);
    assert_eq!(lab.events()[0], (32000, Event::Timeout(id)));
}

#[test]
fn a_final_response_ends_a_client_transaction_at_once_on_reliable_transports() {
    // (method, status, where, how long it stays): timers D, K, M.
    let cases = [
        (Method::Invite, 200, UDP, 32000),
        (Method::Invite, 200, TCP, 32000),
        (Method::Invite, 486, UDP, 33000),
        (Method::Invite, 486, TCP, 0),
        (Method::Message, 200, UDP, 5000),
        (Method::Message, 200, TCP, 0),
        (Method::Message, 503, TCP, 0),
    ];
    for (method, status, to, ends) in cases {
        let mut lab = Lab::new();
        let id = lab.send(to, method);
        let final_response = response(status, method.as_str());
        assert_eq!(lab.response(to, &final_response), Answer::Deliver(id));
        lab.pass(LONG);
        assert_eq!(lab.events(), [(ends, Event::ClientEnded(id))], "{method} {status} {to:?}");
        let acks = lab.sent().iter().filter(|line| line.starts_with("ACK ")).count();
        assert_eq!(acks, usize::from(method == Method::Invite && status >= 300));
    }
}

#[test]
fn every_2xx_is_delivered_and_every_other_final_response_once_and_acknowledged_again() {
    let mut lab = Lab::new();
    let id = lab.send(UDP, Method::Invite);
    for _ in 0..3 {
        assert_eq!(lab.response(UDP, &response(200, "INVITE")), Answer::Deliver(id));
    }
    assert_eq!(lab.response(UDP, &response(486, "INVITE")), Answer::Absorbed);
    assert_eq!(lab.response(UDP, &response(180, "INVITE")), Answer::Absorbed);
    assert_eq!(lab.sent(), ["INVITE sip:b@b.example SIP/2.0"]);

    let mut lab = Lab::new();
    let id = lab.send(UDP, Method::Invite);
    assert_eq!(lab.response(UDP, &response(486, "INVITE")), Answer::Deliver(id));
    assert_eq!(lab.response(UDP, &response(486, "INVITE")), Answer::Absorbed);
    assert_eq!(lab.response(UDP, &response(180, "INVITE")), Answer::Absorbed);
    assert_eq!(lab.sent()[1..], ["ACK sip:b@b.example SIP/2.0", "ACK sip:b@b.example SIP/2.0"]);
}

#[test]
fn the_ack_goes_where_its_invite_went_with_the_tag_of_the_response() {
    let mut lab = Lab::new();
    lab.send(TCP, Method::Invite);
    lab.response(TCP, &response(486, "INVITE"));
    let bytes = std::iter::from_fn(|| lab.table.poll())
        .filter_map(|event| match event {
            Event::Send { bytes, .. } => Some(bytes),
            _ => None,
        })
        .nth(1)
        .unwrap();
    let ack = Message::parse_datagram(bytes, &Limits::default()).unwrap();
    ack.validate().unwrap();
    assert_eq!(ack.method(), Some(Method::Ack));
    assert_eq!(ack.to().unwrap().tag(), Some("b"));
    assert_eq!(ack.via().unwrap().branch, Some("z9hG4bKb"));
    assert_eq!(ack.text(HeaderName::Route), Some("<sip:r.example;lr>"));
    assert_eq!(ack.cseq().unwrap(), CSeq { number: 5, method: Method::Ack });
}

#[test]
fn a_response_from_another_peer_or_for_another_method_is_stray() {
    let mut lab = Lab::new();
    lab.send(TCP, Method::Invite);
    let other_peer = Origin { scope: 11, ..TCP };
    assert_eq!(lab.response(other_peer, &response(200, "INVITE")), Answer::Stray);
    assert_eq!(lab.response(TCP, &response(200, "BYE")), Answer::Stray);
    // The same peer over another connection is the same peer.
    let other_flow = Origin { flow: 9, ..TCP };
    assert!(matches!(lab.response(other_flow, &response(200, "INVITE")), Answer::Deliver(_)));
}

#[test]
fn timer_c_starts_again_with_each_response_but_100_then_cancels() {
    let mut lab = Lab::new();
    let id = lab.send(TCP, Method::Invite);
    lab.response(TCP, &response(100, "INVITE"));
    lab.pass(Duration::from_secs(100));
    lab.response(TCP, &response(180, "INVITE"));
    lab.pass(Duration::from_secs(100));
    lab.response(TCP, &response(100, "INVITE"));
    assert!(lab.events().is_empty());
    lab.pass(LONG);
    let expected = [
        (285_000, Event::TimerC(id)),
        (317_000, Event::Timeout(id)),
        (317_000, Event::ClientEnded(id)),
    ];
    assert_eq!(lab.events(), expected);
    let lines = ["INVITE sip:b@b.example SIP/2.0", "CANCEL sip:b@b.example SIP/2.0"];
    assert_eq!(lab.sent(), lines);
    assert_eq!(lab.table.clients(), 0);
}

#[test]
fn a_cancel_waits_for_a_provisional_response_and_its_own_response_is_absorbed() {
    let mut lab = Lab::new();
    let id = lab.send(TCP, Method::Invite);
    let now = lab.now;
    lab.table.cancel(now, id);
    assert_eq!(lab.sent().len(), 1);
    lab.response(TCP, &response(100, "INVITE"));
    assert_eq!(lab.sent(), ["CANCEL sip:b@b.example SIP/2.0"]);
    lab.table.cancel(now, id);
    assert!(lab.sent().is_empty(), "one CANCEL only");
    assert_eq!(lab.response(TCP, &response(200, "CANCEL")), Answer::Absorbed);
    assert_eq!(lab.response(TCP, &response(487, "INVITE")), Answer::Deliver(id));
    assert_eq!(lab.sent(), ["ACK sip:b@b.example SIP/2.0"]);
    assert_eq!(lab.events(), [(0, Event::ClientEnded(id))]);
    assert_eq!(lab.table.clients(), 0);
}

#[test]
fn a_server_invite_repeats_its_refusal_on_udp_until_the_ack() {
    // Timers G, H, I (17.2.1).
    let mut lab = Lab::new();
    let id = lab.new_server(UDP, &request("INVITE"));
    lab.respond(id, 100).unwrap();
    assert_eq!(lab.request(UDP, &request("INVITE")), Incoming::Absorbed);
    assert_eq!(lab.sent(), ["SIP/2.0 100 X", "SIP/2.0 100 X"]);
    lab.respond(id, 486).unwrap();
    assert_eq!(lab.respond(id, 200), Err(TransactionError::Answered));
    lab.pass(Duration::from_millis(8000));
    assert_eq!(lab.sent_at(), [0, 500, 1500, 3500, 7500]);
    assert_eq!(lab.request(UDP, &request("ACK")), Incoming::Absorbed);
    lab.pass(LONG);
    assert!(lab.sent_at().is_empty());
    assert_eq!(lab.events(), [(13_000, Event::ServerEnded(id))]);
}

#[test]
fn a_refusal_that_nobody_acknowledges_is_reported_after_64_t1() {
    for from in [UDP, TCP] {
        let mut lab = Lab::new();
        let id = lab.new_server(from, &request("INVITE"));
        lab.respond(id, 403).unwrap();
        lab.pass(LONG);
        let end = [(32000, Event::NotAcknowledged(id)), (32000, Event::ServerEnded(id))];
        assert_eq!(lab.events(), end);
        let times: &[u64] = match from.reliable {
            true => &[0],
            false => &[0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500],
        };
        assert_eq!(lab.sent_at(), times);
    }
}

#[test]
fn the_ack_of_a_refusal_ends_the_transaction_at_once_on_reliable_transports() {
    let mut lab = Lab::new();
    let id = lab.new_server(TCP, &request("INVITE"));
    lab.respond(id, 403).unwrap();
    assert_eq!(lab.request(TCP, &request("ACK")), Incoming::Absorbed);
    assert_eq!(lab.events(), [(0, Event::ServerEnded(id))]);
    assert_eq!(lab.table.servers(), 0);
}

#[test]
fn after_a_2xx_repeated_invites_are_absorbed_and_acks_and_more_2xx_pass() {
    // RFC 6026 section 7.1: Accepted, timer L.
    for from in [UDP, TCP] {
        let mut lab = Lab::new();
        let id = lab.new_server(from, &request("INVITE"));
        lab.respond(id, 200).unwrap();
        assert_eq!(lab.request(from, &request("INVITE")), Incoming::Absorbed);
        assert_eq!(lab.sent().len(), 1);
        lab.respond(id, 200).unwrap();
        assert_eq!(lab.sent().len(), 1);
        assert_eq!(lab.respond(id, 486), Err(TransactionError::Answered));
        assert_eq!(lab.request(from, &request("ACK")), Incoming::Stateless);
        lab.pass(LONG);
        assert_eq!(lab.events(), [(32000, Event::ServerEnded(id))]);
        assert_eq!(lab.respond(id, 200), Err(TransactionError::Ended));
    }
}

#[test]
fn an_answered_request_is_answered_again_on_udp_and_forgotten_on_tcp() {
    // Timer J (17.2.2).
    let mut lab = Lab::new();
    let id = lab.new_server(UDP, &request("MESSAGE"));
    assert_eq!(lab.request(UDP, &request("MESSAGE")), Incoming::Absorbed);
    assert!(lab.sent().is_empty());
    lab.respond(id, 200).unwrap();
    lab.pass(Duration::from_secs(10));
    assert_eq!(lab.request(UDP, &request("MESSAGE")), Incoming::Absorbed);
    lab.pass(LONG);
    assert_eq!(lab.sent_at(), [0, 10_000]);
    assert_eq!(lab.events(), [(32000, Event::ServerEnded(id))]);

    let mut lab = Lab::new();
    let id = lab.new_server(TCP, &request("MESSAGE"));
    lab.respond(id, 200).unwrap();
    assert_eq!(lab.events(), [(0, Event::ServerEnded(id))]);
    assert_eq!((lab.table.servers(), lab.table.next_timeout()), (0, None));
}

#[test]
fn a_cancel_finds_the_invite_of_its_own_peer_while_that_is_unanswered() {
    let mut lab = Lab::new();
    let invite = lab.new_server(TCP, &request("INVITE"));
    let cancel = request("CANCEL");
    let stranger = Origin { scope: 11, ..TCP };
    assert!(matches!(lab.request(stranger, &cancel), Incoming::Cancel { invite: None, .. }));
    assert!(matches!(lab.request(TCP, &cancel),
        Incoming::Cancel { invite: Some(found), .. } if found == invite));
    assert_eq!(lab.request(TCP, &cancel), Incoming::Absorbed);

    let mut lab = Lab::new();
    let invite = lab.new_server(TCP, &request("INVITE"));
    lab.respond(invite, 200).unwrap();
    assert!(matches!(lab.request(TCP, &cancel), Incoming::Cancel { invite: None, .. }));
}

#[test]
fn transactions_are_told_apart_by_branch_sent_by_method_and_peer() {
    let mut lab = Lab::new();
    let first = request_with("MESSAGE", "z9hG4bKb");
    let mut ids = vec![lab.new_server(TCP, &first)];
    ids.push(lab.new_server(TCP, &request_with("MESSAGE", "z9hG4bKc")));
    ids.push(lab.new_server(TCP, &request_with("INFO", "z9hG4bKb")));
    ids.push(lab.new_server(Origin { scope: 11, ..TCP }, &first));
    let text = String::from_utf8(first.bytes().to_vec()).unwrap();
    ids.push(lab.new_server(TCP, &parse(text.replace("TCP a.example", "TCP a.example:5061"))));
    ids.dedup();
    assert_eq!(ids.len(), 5);
    // Case and white space of sent-by make no difference.
    let same = parse(text.replace("TCP a.example", "TCP   A.EXAMPLE."));
    assert_eq!(lab.request(TCP, &same), Incoming::Absorbed);
}

#[test]
fn an_rfc_2543_sender_is_matched_by_its_ids() {
    let mut lab = Lab::new();
    let id = lab.new_server(UDP, &request_with("INVITE", "1"));
    lab.respond(id, 486).unwrap();
    assert_eq!(lab.request(UDP, &request_with("INVITE", "1")), Incoming::Absorbed);
    let ack = String::from_utf8(request_with("ACK", "1").bytes().to_vec()).unwrap();
    let ack = parse(ack.replace("To: <sip:b@b.example>", "To: <sip:b@b.example>;tag=b"));
    assert_eq!(lab.request(UDP, &ack), Incoming::Absorbed);
    let other = String::from_utf8(request_with("INVITE", "1").bytes().to_vec()).unwrap();
    lab.new_server(UDP, &parse(other.replace("Call-ID: 1", "Call-ID: 2")));
}

#[test]
fn ack_without_transaction_and_benotify_are_stateless() {
    let mut lab = Lab::new();
    assert_eq!(lab.request(TCP, &request("ACK")), Incoming::Stateless);
    assert_eq!(lab.request(TCP, &request("BENOTIFY")), Incoming::Stateless);
    assert_eq!(lab.table.servers(), 0);
}

#[test]
fn a_closed_flow_fails_what_is_unanswered_on_it_and_nothing_else() {
    let mut lab = Lab::new();
    let client = lab.send(TCP, Method::Message);
    let server = lab.new_server(TCP, &request_with("INFO", "z9hG4bKs"));
    let elsewhere = lab.new_server(UDP, &request_with("INFO", "z9hG4bKu"));
    lab.table.flow_closed(TCP.flow);
    let mut events: Vec<_> = lab.events().into_iter().map(|(_, event)| event).collect();
    events.sort_by_key(|event| format!("{event:?}"));
    let expected =
        [Event::ClientEnded(client), Event::FlowLost(server), Event::TransportError(client)];
    assert_eq!(events, expected);
    lab.sent();
    // Nothing is written to a closed flow; a named one is used.
    lab.respond(server, 100).unwrap();
    assert!(lab.sent().is_empty());
    lab.table.reroute(server, 7);
    lab.table.respond(lab.now, server, 200, Bytes::from_static(b"x")).unwrap();
    assert_eq!(lab.table.poll(), Some(Event::Send { flow: 7, bytes: Bytes::from_static(b"x") }));
    lab.respond(elsewhere, 200).unwrap();
    assert_eq!(lab.sent().len(), 1);
}

#[test]
fn the_table_is_bounded_and_an_unanswered_request_does_not_stay_for_ever() {
    let mut lab = Lab::with(Timing { max: 2, ..Timing::default() });
    for branch in ["z9hG4bK1", "z9hG4bK2"] {
        lab.new_server(TCP, &request_with("MESSAGE", branch));
    }
    assert_eq!(lab.request(TCP, &request_with("MESSAGE", "z9hG4bK3")), Incoming::Full);
    lab.pass(LONG);
    assert_eq!(lab.table.servers(), 0);
    lab.send(TCP, Method::Message);
    let again = Outgoing {
        to: TCP,
        branch: "z9hG4bKb",
        method: Method::Message,
        bytes: request("MESSAGE").bytes().clone(),
    };
    assert_eq!(lab.table.send(lab.now, again.clone()), Err(TransactionError::BranchInUse));
    let other = Outgoing { branch: "z9hG4bKc", ..again.clone() };
    lab.table.send(lab.now, other).unwrap();
    let third = Outgoing { branch: "z9hG4bKd", ..again };
    assert_eq!(lab.table.send(lab.now, third), Err(TransactionError::Full));
}

#[test]
fn timers_of_finished_transactions_do_not_gather() {
    let mut lab = Lab::new();
    for i in 0..20_000 {
        let id = lab.new_server(TCP, &request_with("MESSAGE", &format!("z9hG4bK{i}")));
        lab.respond(id, 200).unwrap();
        lab.drain();
    }
    lab.drain();
    assert!(lab.table.timers_held() < 4096);
    assert_eq!(lab.table.servers(), 0);
}
