//! The four transaction machines of RFC 3261 section 17 with RFC 6026 and RFC 4320, in virtual
//! time, as tables: an event, and all that is sent because of it, in order. `<` goes back to the
//! sender, `>` goes on.

use std::time::Duration;

use super::*;
use crate::config::Transport;

/// One way through the proxy: in by one transport, out by another.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// From a partner (TLS) to the only next hop.
    In(Transport),
    /// From inside to a partner (TLS).
    Out(Transport),
}

/// Somebody who sends, somebody who answers.
struct Stage {
    world: World,
    sender: ConnectionId,
    request: Req,
    /// The request as it went on, and where.
    went: Option<(ConnectionId, String)>,
    /// The CANCEL as it went on.
    cancel: Option<String>,
}

impl Stage {
    fn new(way: Way, method: &'static str) -> Self {
        let mut world = World::new();
        let (sender, request) = match way {
            Way::In(transport) => {
                world.configure(CONTOSO, |config| {
                    config.next_hops = vec![hop("10.0.0.21:5060", transport)];
                });
                let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
                (partner, Req::new(method, "fabrikam.example", "contoso.example"))
            }
            Way::Out(transport) => {
                let far = Listener::Script(names(&["sip.fabrikam.example"]));
                world.listeners.insert(address("203.0.113.20:5061"), far);
                let alice = world.inside(CONTOSO, transport, "10.0.0.5:5060");
                (alice, Req::new(method, "contoso.example", "fabrikam.example"))
            }
        };
        Self { world, sender, request, went: None, cancel: None }
    }

    /// Does what an event says; what was sent.
    fn event(&mut self, event: &str) -> String {
        let (what, rest) = event.split_once(' ').unwrap_or((event, ""));
        let Self { world, sender, .. } = self;
        match what {
            "say" => world.say(CONTOSO, *sender, &self.request.text()),
            "pass" => world.pass(Duration::from_millis(rest.parse().unwrap())),
            "cancel" | "ack" => {
                let mut request = self.request.clone();
                request.method = if what == "ack" { "ACK" } else { "CANCEL" };
                world.say(CONTOSO, *sender, &request.text());
            }
            "get" => {
                let (at, got) = self.went.clone().unwrap();
                world.say(CONTOSO, at, &answer(&got, &format!("{rest} X"), Some("b1")));
            }
            "get-cancel" => {
                let (at, _) = self.went.clone().unwrap();
                let got = self.cancel.clone().unwrap();
                world.say(CONTOSO, at, &answer(&got, &format!("{rest} X"), Some("b1")));
            }
            "cut" => {
                let (at, _) = self.went.clone().unwrap();
                world.cut(CONTOSO, at);
            }
            "cut-sender" => world.cut(CONTOSO, *sender),
            "gone" => {
                assert_eq!(world.live(), 0, "something is left");
                world.pass(Duration::from_secs(40));
            }
            _ => panic!("{event}"),
        }
        let mut sent = vec![];
        for (at, text) in self.world.mail(CONTOSO) {
            let mut words = text.split(' ');
            let mut word = words.next().unwrap();
            if word == "SIP/2.0" {
                word = words.next().unwrap();
                // Answers to CANCEL itself are told apart.
                if headers(&text, "CSeq")[0].ends_with("CANCEL") {
                    word = if word == "200" { "cancelled" } else { "nothing-to-cancel" };
                }
            } else if word == "CANCEL" {
                self.cancel = Some(text.clone());
            } else if word != "ACK" {
                self.went = Some((at, text.clone()));
            }
            sent.push(format!("{}{word}", if at == self.sender { '<' } else { '>' }));
        }
        sent.join(" ")
    }
}

fn play(name: &str, way: Way, method: &'static str, rows: &[(&str, &str)]) {
    let mut stage = Stage::new(way, method);
    for (place, (event, expected)) in rows.iter().enumerate() {
        let sent = stage.event(event);
        assert_eq!(sent, *expected, "{name}, {way:?} {method}, step {place}: {event}");
    }
}

const UDP: Transport = Transport::Udp;
const TCP: Transport = Transport::Tcp;

#[test]
fn invite_client_17_1_1_and_6026() {
    let begin = ("say", "<100 >INVITE");
    play(
        "timers A and B",
        Way::In(UDP),
        "INVITE",
        &[
            begin,
            ("pass 499", ""),
            ("pass 1", ">INVITE"),
            ("pass 999", ""),
            ("pass 1", ">INVITE"),
            ("pass 2000", ">INVITE"),
            ("pass 4000", ">INVITE"),
            ("pass 8000", ">INVITE"),
            ("pass 16000", ">INVITE"),
            ("pass 499", ""),
            ("pass 1", "<408"),
            ("ack", ""),
            ("gone", ""),
        ],
    );
    play(
        "timer B, no timer A",
        Way::In(TCP),
        "INVITE",
        &[begin, ("pass 31999", ""), ("pass 1", "<408"), ("ack", ""), ("gone", "")],
    );
    for transport in [UDP, TCP] {
        let way = Way::In(transport);
        play(
            "Proceeding, timer C",
            way,
            "INVITE",
            &[
                begin,
                ("get 100", ""),
                ("pass 100000", ""),
                ("get 180", "<180"),
                ("get 180", "<180"),
                ("get 183", "<183"),
                // Each provisional response begins timer C anew.
                ("pass 184000", ""),
                ("get 182", "<182"),
                ("pass 184000", ""),
                ("pass 1000", ">CANCEL"),
                ("get-cancel 200", ""),
                ("get 487", ">ACK <487"),
                ("ack", ""),
            ],
        );
        play(
            "Accepted, timer M",
            way,
            "INVITE",
            &[
                begin,
                ("get 180", "<180"),
                ("get 200", "<200"),
                ("get 200", "<200"),
                ("get 180", ""),
                ("get 486", ""),
                ("pass 31000", ""),
                ("get 200", "<200"),
                ("pass 2000", ""),
                ("get 200", ""),
                ("gone", ""),
            ],
        );
        play(
            "every class of final response",
            way,
            "INVITE",
            &[begin, ("get 302", ">ACK <302"), ("get 200", ""), ("ack", "")],
        );
    }
    play(
        "Completed, timer D over UDP",
        Way::In(UDP),
        "INVITE",
        &[
            begin,
            ("get 486", ">ACK <486"),
            ("get 486", ">ACK"),
            ("ack", ""),
            ("pass 31000", ""),
            ("get 486", ">ACK"),
            ("pass 1000", ""),
            ("get 486", ""),
            ("gone", ""),
        ],
    );
    play(
        "Completed, timer D over a stream",
        Way::In(TCP),
        "INVITE",
        &[begin, ("get 603", ">ACK <603"), ("get 603", ""), ("ack", ""), ("gone", "")],
    );
    play(
        "503 is no answer",
        Way::In(TCP),
        "INVITE",
        &[begin, ("get 503", ">ACK <500"), ("ack", ""), ("gone", "")],
    );
    play(
        "transport error before an answer",
        Way::In(TCP),
        "INVITE",
        &[begin, ("get 180", "<180"), ("cut", "<500"), ("ack", ""), ("gone", "")],
    );
    play(
        "transport error after a 2xx",
        Way::In(TCP),
        "INVITE",
        &[begin, ("get 200", "<200"), ("cut", ""), ("pass 33000", ""), ("gone", "")],
    );
}

#[test]
fn non_invite_client_17_1_2() {
    play(
        "timers E and F",
        Way::In(UDP),
        "MESSAGE",
        &[
            ("say", ">MESSAGE"),
            ("pass 499", ""),
            ("pass 1", ">MESSAGE"),
            ("pass 1000", ">MESSAGE"),
            // RFC 4320 has our 100 at this time.
            ("pass 2000", "<100 >MESSAGE"),
            ("pass 3999", ""),
            ("pass 1", ">MESSAGE"),
            ("pass 4000", ">MESSAGE"),
            ("pass 16000", ">MESSAGE >MESSAGE >MESSAGE >MESSAGE"),
            ("pass 4499", ">MESSAGE"),
            // Timer F: nobody is told (RFC 4320 section 4.2).
            ("pass 1", ""),
            ("gone", ""),
            ("get 200", ""),
        ],
    );
    play(
        "timer F, no timer E",
        Way::In(TCP),
        "MESSAGE",
        &[
            ("say", ">MESSAGE"),
            ("pass 3500", "<100"),
            ("pass 28499", ""),
            ("pass 1", ""),
            ("gone", ""),
        ],
    );
    play(
        "Proceeding resends every T2",
        Way::In(UDP),
        "MESSAGE",
        &[
            ("say", ">MESSAGE"),
            ("get 100", ""),
            ("pass 3999", "<100"),
            ("pass 1", ">MESSAGE"),
            ("pass 4000", ">MESSAGE"),
            ("get 180", ""),
            ("pass 3999", ""),
            ("pass 1", ">MESSAGE"),
            ("get 404", "<404"),
            ("get 404", ""),
            ("gone", ""),
        ],
    );
    for status in ["200", "302", "404", "500", "603"] {
        let (get, back) = (format!("get {status}"), format!("<{status}"));
        for transport in [UDP, TCP] {
            play(
                "final",
                Way::In(transport),
                "MESSAGE",
                &[("say", ">MESSAGE"), (&get, &back), (&get, ""), ("pass 33000", ""), ("gone", "")],
            );
        }
    }
    for (transport, forgotten) in [(UDP, ""), (TCP, ">MESSAGE")] {
        play(
            "408 is for nobody (RFC 4320 section 4.2)",
            Way::Out(transport),
            "MESSAGE",
            &[
                ("say", ">MESSAGE"),
                ("get 408", ""),
                // Whoever sends again over UDP does so for its own 32 seconds.
                ("say", forgotten),
                ("get 408", ""),
                ("pass 33000", ""),
                ("gone", ""),
            ],
        );
    }
    play(
        "503 is no answer",
        Way::In(UDP),
        "MESSAGE",
        &[("say", ">MESSAGE"), ("get 503", "<500"), ("gone", "")],
    );
    play(
        "transport error",
        Way::In(TCP),
        "MESSAGE",
        &[
            ("say", ">MESSAGE"),
            ("get 100", ""),
            ("pass 3500", "<100"),
            ("cut", "<504"),
            ("gone", ""),
        ],
    );
}

#[test]
fn invite_server_17_2_1_and_6026() {
    let begin = ("say", "<100 >INVITE");
    play(
        "Proceeding, Completed, timers G and I",
        Way::Out(UDP),
        "INVITE",
        &[
            begin,
            ("say", "<100"),
            ("get 180", "<180"),
            ("say", "<180"),
            ("get 486", ">ACK <486"),
            ("say", "<486"),
            ("pass 500", "<486"),
            ("pass 1000", "<486"),
            ("pass 2000", "<486"),
            ("pass 4000", "<486"),
            ("pass 4000", "<486"),
            ("ack", ""),
            ("say", ""),
            ("ack", ""),
            ("pass 4999", ""),
            ("ack", ""),
            ("pass 1", ""),
            ("gone", ""),
        ],
    );
    play(
        "timer H",
        Way::Out(UDP),
        "INVITE",
        &[
            begin,
            ("get 404", ">ACK <404"),
            ("pass 31999", "<404 <404 <404 <404 <404 <404 <404 <404 <404 <404"),
            ("pass 1", ""),
            ("gone", ""),
        ],
    );
    play(
        "Accepted, timer L",
        Way::Out(UDP),
        "INVITE",
        &[
            begin,
            ("get 200", "<200"),
            ("say", ""),
            ("pass 10000", ""),
            ("get 200", "<200"),
            ("pass 22000", ""),
            ("gone", ""),
        ],
    );
    play(
        "no timers G and I on a stream",
        Way::Out(TCP),
        "INVITE",
        &[begin, ("get 486", ">ACK <486"), ("pass 20000", ""), ("ack", ""), ("gone", "")],
    );
    play(
        "timer H on a stream",
        Way::Out(TCP),
        "INVITE",
        &[begin, ("get 486", ">ACK <486"), ("pass 32000", ""), ("gone", "")],
    );
    play(
        "the sender leaves",
        Way::Out(TCP),
        "INVITE",
        &[
            begin,
            ("get 180", "<180"),
            ("cut-sender", ">CANCEL"),
            ("get-cancel 200", ""),
            ("get 487", ">ACK"),
            ("pass 33000", ""),
            ("gone", ""),
        ],
    );
}

#[test]
fn non_invite_server_17_2_2() {
    play(
        "Trying, Proceeding, Completed, timer J",
        Way::Out(UDP),
        "MESSAGE",
        &[
            ("say", ">MESSAGE"),
            ("say", ""),
            ("pass 3500", "<100"),
            ("say", "<100"),
            ("get 200", "<200"),
            ("say", "<200"),
            ("pass 31000", ""),
            ("say", "<200"),
            ("pass 2000", ""),
            ("gone", ""),
            // It is a new one by now.
            ("say", ">MESSAGE"),
        ],
    );
    play(
        "timer J is zero on a stream",
        Way::Out(TCP),
        "MESSAGE",
        &[("say", ">MESSAGE"), ("say", ""), ("get 404", "<404"), ("gone", "")],
    );
    play(
        "the sender leaves",
        Way::Out(TCP),
        "MESSAGE",
        &[("say", ">MESSAGE"), ("cut-sender", ""), ("gone", ""), ("get 200", "")],
    );
}

#[test]
fn cancel_races_9_and_16_10() {
    let begin = ("say", "<100 >INVITE");
    for way in [Way::In(UDP), Way::In(TCP), Way::Out(UDP), Way::Out(TCP)] {
        play(
            "before anything",
            way,
            "INVITE",
            &[
                begin,
                ("cancel", "<cancelled"),
                ("get 100", ">CANCEL"),
                ("get-cancel 200", ""),
                ("get 487", ">ACK <487"),
                ("ack", ""),
            ],
        );
        play(
            "twice",
            way,
            "INVITE",
            &[
                begin,
                ("get 180", "<180"),
                ("cancel", "<cancelled >CANCEL"),
                ("cancel", "<cancelled"),
                ("get-cancel 200", ""),
                ("get 487", ">ACK <487"),
                ("cancel", "<cancelled"),
                ("ack", ""),
            ],
        );
        play(
            "crossed by a 2xx",
            way,
            "INVITE",
            &[
                begin,
                ("get 180", "<180"),
                ("cancel", "<cancelled >CANCEL"),
                ("get 200", "<200"),
                ("get-cancel 481", ""),
                ("pass 40000", ""),
                ("gone", ""),
            ],
        );
        play(
            "a 2xx before any provisional",
            way,
            "INVITE",
            &[
                begin,
                ("cancel", "<cancelled"),
                ("get 200", "<200"),
                ("pass 40000", ""),
                ("gone", ""),
            ],
        );
        play("for nothing", way, "INVITE", &[("cancel", "<nothing-to-cancel"), ("gone", "")]);
        play(
            "after the 2xx",
            way,
            "INVITE",
            &[begin, ("get 200", "<200"), ("cancel", "<cancelled")],
        );
        play(
            "a CANCEL of what is no INVITE",
            way,
            "MESSAGE",
            &[("say", ">MESSAGE"), ("cancel", "<nothing-to-cancel"), ("get 200", "<200")],
        );
    }
    play(
        "a CANCEL is sent again over UDP",
        Way::In(UDP),
        "INVITE",
        &[
            begin,
            ("get 180", "<180"),
            ("cancel", "<cancelled >CANCEL"),
            ("pass 500", ">CANCEL"),
            ("pass 1000", ">CANCEL"),
            ("get-cancel 200", ""),
            ("pass 10000", ""),
            // Nobody ever answers the INVITE: after 64 T1 it is over (section 9.1).
            ("pass 20499", ""),
            ("pass 1", "<487"),
            ("ack", ""),
        ],
    );
}
