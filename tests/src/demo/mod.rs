//! The demo: raises the lab, runs two daemons in it and plays every step of the product's story,
//! each with evidence. The end-to-end tests play the same steps.

pub mod block;
pub mod discover;
pub mod federate;
pub mod inspect;
pub mod media;
pub mod operate;
pub mod report;
pub mod throttle;
pub mod world;
pub mod xmpp;

use std::time::Instant;

use anyhow::Result;

use self::{
    report::{Outcome, Report},
    world::World,
};
use crate::lab::cleanup;

/// One step: what is to be shown, and how. The text it returns is the evidence.
pub struct Step {
    /// Its name, as people and machines know it.
    pub name: &'static str,
    /// Plays it.
    pub play: fn(&mut World) -> Result<String>,
}

/// Every step, in order.
pub const STEPS: &[Step] = &[
    Step { name: "message fabrikam to contoso", play: federate::message_in },
    Step { name: "message contoso to fabrikam", play: federate::message_out },
    Step { name: "message over IPv6", play: federate::message_ipv6 },
    Step { name: "call fabrikam to contoso", play: federate::call_in },
    Step { name: "call contoso to fabrikam", play: federate::call_out },
    Step { name: "call with media", play: media::call_with_media },
    Step { name: "refuse a stranger without a certificate", play: federate::refuse_no_certificate },
    Step { name: "refuse a certificate of another domain", play: federate::refuse_wrong_domain },
    Step { name: "message discovered", play: discover::message_discovered },
    Step { name: "message xmpp", play: xmpp::message_xmpp },
    Step { name: "refuse provider", play: discover::refuse_provider },
    Step { name: "block throttled", play: throttle::block_throttled },
    Step { name: "block northwind.example", play: block::block },
    Step { name: "scan from outside", play: inspect::scan },
    Step { name: "explain, plan, apply and roll back", play: operate::operate },
    Step { name: "kill the daemon", play: block::kill },
    Step { name: "maps with named fields", play: inspect::maps },
];

/// Plays all steps in `world`; `progress` hears of each when it begins and when it ends.
pub fn play(world: &mut World, mut progress: impl FnMut(&str, Option<&Outcome>)) -> Report {
    let mut report = Report::default();
    for step in STEPS {
        if cleanup::ending() {
            break;
        }
        progress(step.name, None);
        let begun = Instant::now();
        let result = (step.play)(world);
        let outcome = Outcome::new(step.name, result, begun.elapsed());
        progress(step.name, Some(&outcome));
        report.steps.push(outcome);
    }
    report
}
