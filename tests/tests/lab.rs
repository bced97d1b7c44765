//! The lab itself: what it promises holds before any daemon runs in it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use edge_tests::lab::{
    Lab, cleanup,
    dns::Record,
    layout::Site,
    netns::Namespace,
    sipp::{self, Agent, Carrier, Dialogue, Play},
};

/// Everything in one test: raising is the dear part.
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
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap())
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
        for play in [Play::Message, Play::Call] {
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
