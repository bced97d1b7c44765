//! What a script's proxy does, and whether it may: flows, connections, messages, and what is left at
//! the end.

use super::*;

impl Driver {
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.proxy.next_timeout().filter(|at| *at <= end) {
            wakes += 1;
            assert!(wakes < 200_000, "it wakes for ever");
            self.now = self.now.max(at);
            let mut out = vec![];
            self.proxy.on_timeout(self.now, &mut out);
            self.carry_out(out);
        }
        self.now = end;
    }

    fn media(&mut self, changes: Vec<MediaChange>) {
        for change in changes {
            match change {
                MediaChange::Open(flow) => drop(self.flows.insert(flow.id, flow.call)),
                MediaChange::Close(id) => {
                    assert!(self.flows.remove(&id).is_some(), "closed, and not open");
                }
                MediaChange::CloseCall(call) => self.flows.retain(|_, of| *of != call),
                MediaChange::Expect(..) => {}
            }
        }
    }

    pub(super) fn carry_out(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { connection, bytes } => self.sent(connection, &bytes),
                Output::Connect { attempt, target } => self.attempts.push((attempt, target)),
                Output::Resolve { query, question, .. } => self.questions.push((query, question)),
                Output::Release { connection } | Output::Close { connection, .. } => {
                    assert!(self.open.remove(&connection).is_some(), "closed, and not open");
                    self.left(connection);
                }
                Output::Media(changes) => self.media(changes),
                Output::Event(_) => {}
            }
        }
    }

    /// The number of the script's request that a Via's branch names.
    pub(super) fn number(via: Option<Via<'_>>) -> Option<usize> {
        via?.branch?.strip_prefix("z9hG4bKs")?.parse().ok()
    }

    fn sent(&mut self, connection: ConnectionId, bytes: &Bytes) {
        let peer = self.open.get(&connection).expect("sent to a connection that is not open");
        let side = peer.side;
        let message = match Message::parse_datagram(bytes.clone(), &Limits::default()) {
            Ok(message) => message,
            // An answer cannot copy what its request lacks.
            Err(error) => {
                let answer =
                    bytes.starts_with(b"SIP/2.0 400 ") || bytes.starts_with(b"SIP/2.0 505 ");
                assert!(answer, "unreadable: {error}: {bytes:?}");
                return;
            }
        };
        assert_eq!(message.bytes(), bytes, "one message, and nothing after it");
        let via =
            |place| message.list(HeaderName::Via).nth(place).and_then(|e| Via::parse(e.value).ok());
        if message.is_request() {
            assert!(message.validate().is_ok(), "{:?}", message.validate());
            let text = String::from_utf8_lossy(bytes).into_owned();
            if let Some(asked) = Self::number(via(1)).and_then(|n| self.asked.get_mut(n)) {
                let crosses = (asked.side == Side::Inside) != (side == Side::Inside);
                assert!(asked.changed || crosses, "{:?} to {side:?}", asked.side);
                if let Some(flow) = asked.flow.filter(|_| side != Side::Inside) {
                    assert_eq!(flow, connection, "to another than who registered");
                }
                asked.went = true;
            }
            return self.got.push((connection, text));
        }
        let Some(status) = message.status() else { return };
        let cancel = message.cseq().is_ok_and(|cseq| cseq.method == Method::Cancel);
        let Some(asked) = Self::number(via(0)).and_then(|n| self.asked.get_mut(n)) else { return };
        assert!(asked.changed || asked.side == side, "an answer goes back");
        if status < 200 || cancel || asked.changed {
            return;
        }
        assert!(!matches!(asked.method, "ACK" | "BENOTIFY"), "{} is not answered", asked.method);
        let known = asked.finals.contains(bytes);
        let ok = |bytes: &Bytes| bytes.starts_with(b"SIP/2.0 2");
        let all_2xx = asked.method == "INVITE" && ok(bytes) && asked.finals.iter().all(ok);
        assert!(
            known || asked.finals.is_empty() || all_2xx,
            "two answers to {}: {:?} and {bytes:?}",
            asked.method,
            asked.finals
        );
        if !known {
            asked.finals.push(bytes.clone());
        }
        if asked.method == "INVITE" && ok(bytes) {
            asked.accepted = Some(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    pub(super) fn check_the_end(&self) {
        let counters = self.proxy.counters();
        assert_eq!((counters.transactions, counters.waiting), (0, 0), "something is left");
        // A call that came up lasts as long as any may; every other one is over.
        assert!(self.proxy.calls().iter().all(|call| call.state == CallState::Up), "in setup");
        for asked in self.asked.iter().filter(|asked| !asked.changed && !asked.left) {
            let settled = match asked.method {
                "ACK" | "BENOTIFY" => true,
                "INVITE" => !asked.finals.is_empty(),
                _ => !asked.finals.is_empty() || asked.went,
            };
            assert!(settled, "neither answered nor sent on: {}", asked.text);
        }
    }
}
