//! The access listener: who gets in, and what a stranger can do to it.

use rcgen::ExtendedKeyUsagePurpose as Usage;

use super::{
    outbound::{partner_server, target},
    *,
};

#[tokio::test]
async fn a_partner_is_known_by_its_certificate_and_its_messages_reach_the_core() {
    let mut lab = lab(|_| ()).await;
    let own = lab.partners.issue(&Leaf {
        dns: &[PARTNER],
        uri: &["sip:fabrikam.example"],
        ..Leaf::default()
    });
    let mut client = lab.connect(lab.access(), Some(&own)).await.unwrap();
    let (id, peer) = lab.opened().await;
    assert_eq!((peer.side, peer.transport), (Side::Partner, Transport::Tls));
    assert_eq!(peer.remote, client.get_ref().0.local_addr().unwrap());
    assert_eq!(peer.names.dns, [PARTNER.parse().unwrap()]);
    assert_eq!(peer.names.sip_uris, ["fabrikam.example".parse().unwrap()]);

    for number in 0..20 {
        echo(&mut client, number).await;
        assert!(matches!(lab.next().await, Seen::Message(from, _) if from == id));
    }
    client.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\r\n", "a ping is answered");

    let info = &lab.shell.connections()[0];
    assert_eq!((info.id, info.outbound), (id, false));
    assert_eq!(info.bytes_in, info.bytes_out + 2);
    client.shutdown().await.unwrap();
    assert_eq!(lab.closed().await, id);
    assert!(lab.shell.connections().is_empty());
    lab.counted("open.access", 0).await;
}

#[tokio::test]
async fn pieces_and_bundles_are_cut_right_and_keep_their_order() {
    let mut lab = lab(|_| ()).await;
    let (mut client, id) = lab.partner_connected().await;
    let all: String = (0..200).map(message).collect();
    let (head, tail) = all.split_at(all.len() / 3 + 7);
    let mut back = vec![0; all.len()];
    let (mut reading, mut writing) = tokio::io::split(&mut client);
    let write = async {
        for byte in head.as_bytes().chunks(997) {
            writing.write_all(byte).await.unwrap();
            writing.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        writing.write_all(tail.as_bytes()).await.unwrap();
        writing.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(write, timeout(PATIENCE, reading.read_exact(&mut back)));
    read.unwrap().unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), all);
    for number in 0..200 {
        let Seen::Message(from, message) = lab.next().await else { panic!("no message") };
        assert_eq!(from, id);
        assert_eq!(message.cseq().unwrap().number, number);
    }
}

#[tokio::test]
async fn which_certificates_are_accepted_and_why_others_are_not() {
    let mut lab = lab(|_| ()).await;
    let stranger = Authority::new("nobody's root");
    let with =
        |usages: &[Usage]| lab.partners.issue(&Leaf { dns: &[PARTNER], usages, ..Leaf::default() });
    let sip_domain = Usage::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]);
    let rows = [
        ("host only", Some(lab.partner()), None),
        ("client use", Some(with(&[Usage::ClientAuth])), None),
        ("server use only", Some(with(&[Usage::ServerAuth])), None),
        ("RFC 5924", Some(with(&[sip_domain, Usage::CodeSigning])), None),
        ("other use", Some(with(&[Usage::CodeSigning])), Some("certificate-wrong-usage")),
        ("no certificate", None, Some("no-certificate")),
        ("another root", Some(stranger.dns(&[PARTNER])), Some("unknown-authority")),
        (
            "expired",
            Some(lab.partners.issue(&Leaf { dns: &[PARTNER], expired: true, ..Leaf::default() })),
            Some("certificate-expired"),
        ),
    ];
    for (why, own, fault) in rows {
        let client = lab.connect(lab.access(), own.as_ref()).await;
        match fault {
            None => {
                let mut client = client.unwrap();
                echo(&mut client, 1).await;
                lab.opened().await;
            }
            Some(fault) => {
                // In TLS 1.3 the client learns of it when it reads.
                if let Ok(mut client) = client {
                    assert!(rest(&mut client).await.is_empty(), "{why}");
                }
                lab.counted(&format!("handshake.{fault}"), 1).await;
                let (reason, detail) = lab.refusals().pop().unwrap();
                let expected = match fault {
                    "certificate-wrong-usage" => Refusal::WrongUsage,
                    _ => Refusal::NoCertificate,
                };
                assert_eq!(reason, expected, "{why}");
                assert!(detail.starts_with(fault), "{why}: {detail}");
                assert!(!detail.is_empty(), "{why}");
            }
        }
    }
    assert_eq!(lab.count("closed.no-certificate"), 3);
    assert_eq!(lab.count("closed.wrong-usage"), 1);
}

#[tokio::test]
async fn a_chain_needs_its_intermediate_and_no_more() {
    let mut lab = lab(|_| ()).await;
    let mut own = lab.partner();
    own.certificate.push_str(&lab.partners.pem);
    let mut client = lab.connect(lab.access(), Some(&own)).await.unwrap();
    lab.opened().await;
    echo(&mut client, 1).await;
}

/// A TLS 1.2 client hello that offers CBC suites only, as an old Lync does.
fn cbc_only_hello() -> Vec<u8> {
    let extensions: Vec<u8> = [
        &[0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x01, 0x04, 0x03][..], // signature algorithms
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17],                 // groups: P-256
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],                             // point formats
        &[0x00, 0x17, 0x00, 0x00],                                         // extended master secret
    ]
    .concat();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.extend([0x00, 0x00, 0x06, 0xc0, 0x14, 0xc0, 0x13, 0x00, 0x2f, 0x01, 0x00]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![0x01, 0x00];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn what_is_no_good_tls_is_named_and_disturbs_nobody() {
    let mut lab = lab(|config| {
        config.limits.handshake_timeout = Duration::from_secs(2);
    })
    .await;
    let (mut honest, _) = lab.partner_connected().await;
    let mut truncated = cbc_only_hello();
    truncated.truncate(40);
    let mut old = cbc_only_hello();
    // The version in the hello itself: TLS 1.0.
    old[10] = 1;
    let rows: [(&str, Vec<u8>, bool, &str); 7] = [
        ("plain SIP", message(1).into_bytes(), false, "not-tls"),
        ("garbage", vec![0xff; 5000], false, "not-tls"),
        ("a record of nonsense", vec![0x16, 3, 1, 0, 4, 9, 9, 9, 9], false, "not-tls"),
        ("CBC only", cbc_only_hello(), false, "no-common-cipher-suite"),
        ("TLS 1.0", old, false, "no-common-version"),
        ("truncated, then closed", truncated.clone(), true, "closed-by-peer"),
        ("truncated, then silence", truncated, false, "handshake-timeout"),
    ];
    for (why, bytes, close, fault) in rows {
        let name = format!("handshake.{fault}");
        let before = lab.count(&name);
        let mut stream = TcpStream::connect(lab.access()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        if close {
            stream.shutdown().await.unwrap();
        }
        rest(&mut stream).await;
        lab.counted(&name, before + 1).await;
        echo(&mut honest, 1).await;
        assert_eq!(lab.shell.connections().len(), 1, "{why}");
        // What an administrator must change is an event, by its name; noise is counted only.
        let told = lab.refusals().pop();
        let mismatch = fault.starts_with("no-common");
        let named = told.is_some_and(|(reason, detail)| {
            reason == Refusal::TlsFailed && detail.starts_with(fault)
        });
        assert_eq!(named, mismatch, "{why}");
        lab.events.lock().unwrap().clear();
    }
    // Says nothing at all: no handshake slot, and gone in time.
    let mut silent = TcpStream::connect(lab.access()).await.unwrap();
    assert!(rest(&mut silent).await.is_empty());
    lab.counted("handshake.handshake-timeout", 2).await;
    lab.counted("open.access", 1).await;
}

#[tokio::test]
async fn silent_handshakes_do_not_keep_others_out() {
    let mut lab = lab(|config| {
        config.limits.handshakes = 1;
        config.limits.handshake_timeout = Duration::from_secs(30);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(lab.access()).await.unwrap());
    }
    let (mut client, _) = lab.partner_connected().await;
    echo(&mut client, 1).await;
}

/// Few handshakes at one time, as many a second as may come, and long patience with each.
fn few_at_one_time(config: &mut Config) {
    config.limits.handshakes = 4;
    config.limits.handshakes_per_second = 10_000;
    config.limits.handshake_timeout = 10 * PATIENCE;
}

/// Whether they say nothing, begin a handshake, or are through with it and ask for nothing.
#[tokio::test]
async fn who_does_not_go_on_keeps_nobody_out_and_who_proved_something_stays() {
    let mut lab = lab(|config| {
        config.limits.connections = 8;
        few_at_one_time(config);
    })
    .await;
    let (mut first, connection) = lab.partner_connected().await;
    // Its source is no better than others.
    lab.proved_as(connection, Repute::Stranger);
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(lab.partner_connected().await.0);
    }
    // The eight are seven of these and the first.
    lab.counted("closed.gave-way", 3).await;
    let mut silent = Vec::new();
    for last in 1..=100 {
        silent.push(from(last, lab.access()).await);
    }
    // It is closed at once, without last words.
    let ended = timeout(PATIENCE, silent[0].read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    // They are let in one by one, and those through with their handshakes went first.
    lab.counted("closed.gave-way", 3 + 100).await;
    let _begun = begun(101..=200, lab.access()).await;
    let (mut other, _) = lab.partner_connected().await;
    echo(&mut other, 1).await;
    echo(&mut first, 2).await;
}

/// As many handshakes as there may be, in a table that has room.
#[tokio::test]
async fn handshakes_that_do_not_go_on_keep_nobody_out() {
    let mut lab = lab(few_at_one_time).await;
    let _begun = begun(1..=20, lab.access()).await;
    lab.counted("handshake.too-many", 16).await;
    let (mut client, _) = lab.partner_connected().await;
    echo(&mut client, 1).await;
    assert_eq!(lab.count("handshake.too-many"), 17, "the oldest made room");
}

/// A flood of strangers, each within its own share, has all there is.
#[tokio::test]
async fn who_proved_something_before_is_let_in_during_a_flood_of_handshakes() {
    for dialled in [false, true] {
        known_in_a_flood(dialled).await;
    }
}

/// It came to us before, or we went to it.
async fn known_in_a_flood(dialled: bool) {
    let mut lab = lab(|config| {
        config.limits.handshakes_per_second = 1;
        config.limits.handshakes_per_second_per_source = 1000;
    })
    .await;
    let connection = if dialled {
        let (address, _told) = partner_server(&lab.ours, &lab.partner()).await;
        lab.connect_to(target(address, Some(PARTNER))).await.unwrap().0
    } else {
        lab.partner_connected().await.1
    };
    lab.proved(connection);
    let _begun = begun(1..=10, lab.access()).await;
    lab.counted("handshake.too-many", 1).await;
    let (mut again, _) = lab.partner_connected().await;
    echo(&mut again, 1).await;
}

/// Those are slow who are far away, or while the machine is busy.
#[tokio::test]
async fn strangers_push_out_no_handshake_and_no_connection_of_who_proved_something_before() {
    let mut lab = lab(|config| {
        config.limits.connections = 8;
        few_at_one_time(config);
    })
    .await;
    let (_proved, connection) = lab.partner_connected().await;
    lab.proved(connection);
    let mut shaking = TcpStream::connect(lab.access()).await.unwrap();
    shaking.write_all(&[0x16]).await.unwrap();
    let mut silent = TcpStream::connect(lab.access()).await.unwrap();
    let _begun = begun(1..=100, lab.access()).await;
    // Five have a place, and four of these one among the handshakes.
    let left = async {
        while lab.count("closed.gave-way") + lab.count("handshake.too-many") < 96 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, left).await.unwrap();
    for known in [&mut shaking, &mut silent] {
        let ended = timeout(Duration::from_millis(200), known.read(&mut [0; 16])).await;
        assert!(ended.is_err(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_slow_sender_is_closed_in_time_and_an_idle_one_later() {
    let mut lab = lab(|config| {
        config.limits.message_timeout = Duration::from_millis(600);
        config.limits.idle_timeout = Duration::from_secs(5);
    })
    .await;
    let (mut slow, slow_id) = lab.partner_connected().await;
    let (mut honest, honest_id) = lab.partner_connected().await;
    let started = Instant::now();
    let text = message(1);
    let dripping = async {
        for byte in text.as_bytes() {
            if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let waiting = async {
        loop {
            if let Seen::Closed(id) = lab.next().await {
                return id;
            }
        }
    };
    let ended = tokio::select! {
        () = dripping => panic!("a message may not take this long"),
        id = waiting => id,
    };
    assert_eq!(ended, slow_id);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(550) && took < PATIENCE, "{took:?}");
    assert_eq!(lab.count("closed.slow-sender"), 1);
    // Time between messages is not time within one.
    for number in 0..3 {
        echo(&mut honest, number).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(lab.closed().await, honest_id, "idle at last");
    assert_eq!(lab.count("closed.idle"), 1);
}

#[tokio::test]
async fn ten_megabytes_of_header_are_refused_in_bounded_memory() {
    let mut lab = lab(|_| ()).await;
    let (client, id) = lab.partner_connected().await;
    let (mut reading, mut writing) = tokio::io::split(client);
    let flood = async {
        let start = b"MESSAGE sip:bob@contoso.example SIP/2.0\r\n";
        let _ = writing.write_all(start).await;
        let line = format!("X-Filler: {}\r\n", "a".repeat(1000));
        for _ in 0..10_000 {
            if writing.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
        let _ = writing.flush().await;
    };
    let (_, answer) = tokio::join!(timeout(PATIENCE, flood), rest(&mut reading));
    assert!(answer.starts_with(b"SIP/2.0 400"), "the last words arrive: {answer:?}");
    assert!(matches!(lab.next().await, Seen::Unreadable(from) if from == id));
    assert_eq!(lab.closed().await, id);
    assert_eq!(lab.count("closed.malformed"), 1);
    assert!(lab.seen.try_recv().is_err(), "nothing more");
}

#[tokio::test]
async fn a_full_table_refuses_the_next_and_leaves_the_others_alone() {
    let mut lab = lab(|config| config.limits.connections = 2).await;
    let (mut one, first) = lab.partner_connected().await;
    let (mut two, second) = lab.partner_connected().await;
    lab.proved(first);
    lab.proved(second);
    assert!(lab.connect(lab.access(), Some(&lab.partner())).await.is_err());
    assert_eq!(lab.count("refused.table-full"), 1);
    echo(&mut one, 1).await;
    echo(&mut two, 2).await;
    drop(one);
    lab.closed().await;
    let waiting = async {
        while lab.count("open.access") > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    let (mut three, _) = lab.partner_connected().await;
    echo(&mut three, 3).await;
}

#[tokio::test]
async fn one_source_cannot_take_the_whole_table() {
    let mut lab = lab(|config| config.limits.connections_per_source = 1).await;
    let (mut one, _) = lab.partner_connected().await;
    assert!(lab.connect(lab.access(), Some(&lab.partner())).await.is_err());
    assert_eq!(lab.count("refused.source-full"), 1);
    echo(&mut one, 1).await;
}

#[tokio::test]
async fn handshakes_have_a_pace_and_live_connections_do_not_care() {
    for (all, one) in [(1, 100), (100, 1)] {
        let mut lab = lab(|config| {
            config.limits.handshakes_per_second = all;
            config.limits.handshakes_per_second_per_source = one;
        })
        .await;
        // Two seconds' worth may come at once; while the machine is slow, more.
        let (mut client, _) = lab.partner_connected().await;
        let mut refused = 0;
        for _ in 0..20 {
            refused += usize::from(lab.connect(lab.access(), Some(&lab.partner())).await.is_err());
        }
        assert!(refused > 0, "{all} in all, {one} of one source");
        lab.counted("handshake.too-many", refused as u64).await;
        echo(&mut client, 1).await;
    }
}

#[tokio::test]
async fn a_first_request_is_small_and_what_follows_an_admitted_one_is_not() {
    let large = |number: usize| {
        let body = "x".repeat(10_000);
        message(number).replace("Length: 2\r\n\r\nhi", &format!("Length: 10000\r\n\r\n{body}"))
    };
    assert!(large(1).len() > 10_000, "{}", large(1));
    let mut lab = lab(|config| config.limits.first_request_bytes = 4096).await;
    let (mut client, id) = lab.partner_connected().await;
    // Small ones pass, admitted or not.
    echo(&mut client, 1).await;
    client.write_all(large(2).as_bytes()).await.unwrap();
    let answer = rest(&mut client).await;
    // What the test's core says to what it cannot read.
    assert!(answer.starts_with(b"SIP/2.0 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(lab.closed().await, id);

    let (mut client, connection) = lab.partner_connected().await;
    lab.proved(connection);
    echo(&mut client, 1).await;
    client.write_all(large(2).as_bytes()).await.unwrap();
    let mut answer = vec![0; large(2).len()];
    timeout(PATIENCE, client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, large(2).as_bytes());
}

#[tokio::test]
async fn ipv6_is_served_as_ipv4_is() {
    let mut lab = lab(|config| config.access.listen = vec!["[::1]:0".parse().unwrap()]).await;
    let (mut client, _) = lab.partner_connected().await;
    echo(&mut client, 1).await;
    assert!(lab.shell.connections()[0].peer.remote.is_ipv6());
}
