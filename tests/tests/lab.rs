//! The lab itself: what it promises holds before any daemon runs in it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use edge_tests::{
    lab::{
        Lab, cleanup,
        dns::Record,
        kamailio::Kamailio,
        layout::Site,
        netns::Namespace,
        scan::{self, Seen},
        sipp::{self, Agent, Carrier, Dialogue, Play},
        tls_client::{Caller, request},
    },
    patience::BUSY,
};

#[test]
fn a_lab_routes_answers_carries_sip_and_leaves_nothing_behind() {
    let mut lab = Lab::raise("self").unwrap();
    let prefix = lab.prefix().to_owned();

    for address in Site::Contoso.outside() {
        let listener =
            lab.site(Site::Contoso).run(|| TcpListener::bind((address, 7000)).unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let stream = lab
            .site(Site::Stranger)
            .run(|| TcpStream::connect_timeout(&to, BUSY).unwrap())
            .unwrap();
        assert!(Site::Stranger.outside().contains(&stream.local_addr().unwrap().ip()));
    }

    let (contoso, server) = (lab.site(Site::Contoso), lab.inside(Site::Contoso));
    let user = IpAddr::V4(Site::Contoso.edge_inside4());
    let servers = [
        (Carrier::Tcp, user, IpAddr::V4(Site::Contoso.server4())),
        (Carrier::Udp, user, IpAddr::V4(Site::Contoso.server4())),
        (
            Carrier::Tcp,
            IpAddr::V6(Site::Contoso.edge_inside6()),
            IpAddr::V6(Site::Contoso.server6()),
        ),
    ];
    for (carrier, from, to) in servers {
        for play in [Play::Message, Play::Call, Play::HangUp, Play::Cancel] {
            let dialogue = Dialogue::once(play, "alice@contoso.example", "bob@contoso.example");
            let from = Agent { namespace: contoso, address: from, carrier };
            let agent = Agent { namespace: server, address: to, carrier };
            let at = SocketAddr::new(to, sipp::SERVER_PORT);
            sipp::play(&from, at, &agent, lab.dir(), &dialogue).unwrap();
        }
    }

    lab.dns.replace(vec![Record::federation("new.example", "sip.new.example", 5061)]).unwrap();
    drop(lab);
    assert_eq!(Namespace::with_prefix(&prefix), Vec::<String>::new());
    assert!(!cleanup::directory(&prefix).exists());
}

/// Without a firewall the scanner must see what is there, or it proves nothing with one.
#[test]
fn the_scanner_sees_open_and_closed_ports_where_nothing_filters() {
    let lab = Lab::raise("scan").unwrap();
    let (contoso, stranger) = (lab.site(Site::Contoso), lab.site(Site::Stranger));
    for (from, target) in Site::Stranger.outside().into_iter().zip(Site::Contoso.outside()) {
        let _service = contoso.run(|| TcpListener::bind((target, 8443)).unwrap()).unwrap();
        let all = |count: usize| move |seen: &Seen| seen.open.len() + seen.closed.len() >= count;
        let ports = [8442, 8443, 8444];
        let seen = scan::until(all(3), || scan::tcp(stranger, from, target, &ports)).unwrap();
        assert!(seen.open.iter().eq([&8443]), "{seen:?}");
        assert!(seen.closed.iter().eq([&8442, &8444]), "{seen:?}");

        let service = contoso.run(|| UdpSocket::bind((target, 3478)).unwrap()).unwrap();
        service.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let over = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 16];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = service.recv_from(&mut buffer) {
                        service.send_to(b"here", from).unwrap();
                    }
                }
            });
            let seen = scan::until(all(2), || scan::udp(stranger, target, &[3477, 3478]));
            over.store(true, Ordering::Relaxed);
            seen.unwrap()
        });
        assert!(seen.open.iter().eq([&3478]), "{seen:?}");
        assert!(seen.closed.iter().eq([&3477]), "{seen:?}");
    }
}

#[test]
fn the_foreign_peer_takes_mutual_tls_only_and_passes_messages_to_its_inside() {
    let lab = Lab::raise("peer").unwrap();
    let nobody = SocketAddr::new(IpAddr::V4(Site::Contoso.v4()), 5061);
    let mut peer = Kamailio::start(&lab, nobody).unwrap();
    let to = SocketAddr::new(IpAddr::V4(Site::Adatum.v4()), 5061);
    let (from_user, to_user) = ("alice@contoso.example", "dave@adatum.example");
    let mut caller = Caller {
        namespace: lab.site(Site::Contoso),
        from: None,
        identity: None,
        trust: &lab.identities.trust,
    };
    let message = request("MESSAGE", from_user, to_user, "sip.contoso.example");
    let refused = caller.tls(to, "sip.adatum.example").and_then(|mut tls| tls.ask(&message));
    assert!(refused.is_err(), "{refused:?}");

    caller.identity = Some(&lab.identities.contoso);
    let agent = Agent {
        namespace: lab.inside(Site::Adatum),
        address: IpAddr::V4(Site::Adatum.server4()),
        carrier: Carrier::Tcp,
    };
    let dialogue = Dialogue::once(Play::Message, from_user, to_user);
    let receiver = sipp::receiver(&agent, lab.dir(), &dialogue).unwrap();
    let mut tls = caller.tls(to, "sip.adatum.example").unwrap();
    let answer = tls.ask(&message).unwrap();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text, peer.log_tail());
    receiver.finish(BUSY).unwrap();
    assert!(peer.alive());
}
