//! Next hops by SIP domain, and by SRV record.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::{Host, NextHop, Transport},
    federation::Policy,
};

const ONE: &str = "10.0.0.31:5061";
const TWO: &str = "10.0.0.32:5061";

fn pool() -> NextHop {
    let host = Host::Srv { service: "_sips._tcp".into(), domain: domain("pool.b.example") };
    NextHop { host, port: 5061, transport: Transport::Tls }
}

/// contoso serves b.example too, whose next hops DNS names.
fn world() -> World {
    let mut world = World::new();
    let lists = federation(&[allow("fabrikam.example")], &[]);
    let ours = [domain("contoso.example"), domain("b.example")];
    world.set_policy(CONTOSO, Arc::new(Policy::new(&ours, &lists)));
    world.configure(CONTOSO, |config| {
        config.next_hops.push(pool());
        config.routed_only = 1;
        config.routes = vec![(vec![domain("b.example")], vec![2])];
    });
    let hosts = vec![host("one.b.example", &["10.0.0.31"]), host("two.b.example", &["10.0.0.32"])];
    world.dns.insert(Question::NextHop(pool()), Ok(hosts));
    for (at, name) in [(ONE, "one.b.example"), (TWO, "two.b.example")] {
        world.listeners.insert(address(at), Listener::Script(names(&[name])));
    }
    world
}

fn ask(world: &mut World, request: &Req) -> ConnectionId {
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &request.text());
    partner
}

fn message(to: &str) -> Req {
    Req::new("MESSAGE", "fabrikam.example", to)
}

#[test]
fn a_domain_with_a_route_goes_there_and_others_where_all_go() {
    let mut world = world();
    ask(&mut world, &message("b.example"));
    assert_eq!(world.edges[CONTOSO].connects, [address(ONE)]);
    ask(&mut world, &message("contoso.example").branch("2"));
    assert_eq!(world.edges[CONTOSO].connects[1..], [address("10.0.0.21:5060")]);
    // Those that are for everybody are not for it, even when its own are not there.
    for at in [ONE, TWO] {
        world.listeners.remove(&address(at));
    }
    let gone = world.one_of(CONTOSO, "MESSAGE sip:bob@b.example");
    world.cut(CONTOSO, gone);
    let partner = ask(&mut world, &message("b.example").branch("3"));
    let mail = world.mail(CONTOSO);
    let told = mail.iter().any(|(at, got)| *at == partner && got.starts_with("SIP/2.0 504 "));
    assert!(told, "{mail:?}");
}

#[test]
fn the_members_of_a_pool_are_tried_within_one_transaction() {
    for fault in ["refused", "503", "silent", "lost"] {
        let mut world = world();
        if fault == "refused" {
            world.listeners.remove(&address(ONE));
        }
        ask(&mut world, &Req::new("INVITE", "fabrikam.example", "b.example"));
        if fault != "refused" {
            let (at, got) = world.mail(CONTOSO).remove(1);
            match fault {
                "503" => world.say(CONTOSO, at, &answer(&got, "503 Later", Some("x"))),
                "silent" => world.pass(Duration::from_secs(5)),
                _ => world.cut(CONTOSO, at),
            }
        }
        assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address(TWO)), "{fault}");
        let mail = world.mail(CONTOSO);
        assert!(mail.iter().any(|(_, got)| got.starts_with("INVITE ")), "{fault}: {mail:?}");
        // What failed is the last for the next one too.
        let connects = world.edges[CONTOSO].connects.len();
        ask(&mut world, &message("b.example").branch("n"));
        assert_eq!(world.edges[CONTOSO].connects.len(), connects, "{fault}");
    }
}

#[test]
fn its_members_are_asked_for_again_when_the_answer_is_over() {
    let mut world = world();
    ask(&mut world, &message("b.example"));
    assert_eq!(world.edges[CONTOSO].questions.len(), 1);
    let mail = world.mail(CONTOSO);
    let (at, got) = mail.into_iter().find(|(_, got)| got.starts_with("MESSAGE ")).unwrap();
    world.say(CONTOSO, at, &answer(&got, "200 OK", Some("b1")));
    world.pass(Duration::from_secs(301));
    world.cut(CONTOSO, at);
    world.mail(CONTOSO);
    // Another one has taken its place.
    world.dns.insert(Question::NextHop(pool()), Ok(vec![host("two.b.example", &["10.0.0.32"])]));
    ask(&mut world, &message("b.example").branch("2"));
    assert_eq!(world.edges[CONTOSO].questions.len(), 2);
    assert_eq!(world.edges[CONTOSO].connects, [ONE, TWO].map(address));
}

#[test]
fn each_member_is_asked_whether_it_lives() {
    let mut world = world();
    world.configure(CONTOSO, |config| {
        config.probe = Some(Duration::from_secs(30));
        config.next_hops.drain(..2);
        config.routes = vec![(vec![domain("b.example")], vec![0])];
    });
    world.pass(Duration::from_secs(1));
    let mail = world.mail(CONTOSO);
    assert!(mail.len() == 2 && mail.iter().all(|(_, got)| got.starts_with("OPTIONS ")), "{mail:?}");
    for (at, got) in &mail {
        world.say(CONTOSO, *at, &answer(got, "200 OK", Some("p")));
    }
    // The connections are the next hop's: requests take them.
    ask(&mut world, &message("b.example"));
    assert_eq!(world.edges[CONTOSO].connects.len(), 2);
}

#[test]
fn within_a_dialog_to_names_the_domain() {
    let mut world = world();
    let partner = ask(&mut world, &Req::new("INVITE", "fabrikam.example", "b.example"));
    let (at, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, at, &answer(&got, "200 OK", Some("b1")));
    let ok = world.expect(CONTOSO, partner, "SIP/2.0 200 ");
    let routes: Vec<String> =
        headers(&ok, "Record-Route").iter().map(|value| format!("Route: {value}")).collect();
    world.cut(CONTOSO, at);
    let mut bye = Req::new("BYE", "fabrikam.example", "b.example").branch("bye");
    bye.uri = "sip:bob@10.9.9.9".into();
    bye.to = headers(&ok, "To")[0].to_owned();
    bye.cseq = 2;
    let bye = routes.iter().fold(bye, |bye, route| bye.with(route.clone()));
    world.say(CONTOSO, partner, &bye.text());
    let mail = world.mail(CONTOSO);
    assert!(mail.iter().any(|(_, got)| got.starts_with("BYE ")), "{mail:?}");
    assert_ne!(world.edges[CONTOSO].connects.last(), Some(&address("10.0.0.21:5060")));
}
