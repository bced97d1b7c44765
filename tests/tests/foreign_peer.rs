//! Another product as the partner's edge: sipp through Kamailio, with mutual TLS.

use std::net::IpAddr;

use edge_tests::{
    demo::world::{contoso_access, contoso_config, user},
    lab::{
        Lab,
        daemon::Edge,
        kamailio::Kamailio,
        layout::Site,
        sipp::{self, Agent, Carrier, Dialogue, Play},
    },
};

#[test]
fn messages_and_calls_go_through_kamailio_both_ways() {
    let lab = Lab::raise("foreign").unwrap();
    let contoso = Edge::start(&lab, contoso_config(&lab)).unwrap();
    let mut kamailio = Kamailio::start(&lab, contoso_access()[0]).unwrap();
    let agent = |site: Site| Agent {
        namespace: lab.inside(site),
        address: IpAddr::V4(site.server4()),
        carrier: Carrier::Tcp,
    };
    let (adatum, own) = (agent(Site::Adatum), agent(Site::Contoso));
    for play in [Play::Message, Play::Call, Play::HangUp, Play::Cancel] {
        let inbound = Dialogue::once(play, &user(Site::Adatum), &user(Site::Contoso));
        let result = sipp::play(&adatum, Kamailio::inside_address(), &own, lab.dir(), &inbound);
        let logs = || format!("{}\n{}", contoso.log(), kamailio.log_tail());
        assert!(result.is_ok(), "{play:?} in: {result:?}\n{}", logs());

        let outbound = Dialogue::once(play, &user(Site::Contoso), &user(Site::Adatum));
        let server = contoso.config.inside_address();
        let result = sipp::play(&own, server, &adatum, lab.dir(), &outbound);
        assert!(result.is_ok(), "{play:?} out: {result:?}\n{}", logs());
    }
    let status = contoso.status().unwrap();
    assert!(status["connections"].to_string().contains(&Site::Adatum.host()), "{status}");
    assert!(kamailio.alive(), "{}", kamailio.log_tail());
}
