//! What the stack does with packets that this appliance is not the end of: it forwards none, and
//! takes none from elsewhere that claims to come from an address of ours, to management's ports
//! neither.

use std::net::IpAddr;

use edge_ebpf::abi::GENERATION_SHADOW;

use super::{BlockOwner, BlockRequest, Engine, FirewallError};
use crate::{firewall::forwarding, net::interface_addresses};

impl Engine {
    /// Before rules are in force that somebody may use to reach what is behind us. Gives what was
    /// switched off. Where the kernel refuses it, that is an alarm until it does not.
    pub(super) fn switch_forwarding_off(&mut self) -> Option<String> {
        match forwarding::switch_off() {
            Ok(on) => {
                self.links.forwarding = None;
                (!on.is_empty()).then(|| {
                    format!(
                        "the kernel forwarded packets, and rules would have let them through to \
                         hosts behind this appliance: switched off ({}); what runs here must not \
                         switch it on",
                        on.join(", ")
                    )
                })
            }
            Err(fault) => {
                self.links.look_soon();
                let alarm = format!(
                    "forwarding cannot be switched off ({fault}): ports that rules open may be \
                     reached on hosts behind this appliance; switch it off with sysctl"
                );
                if self.links.forwarding.as_ref() != Some(&alarm) {
                    tracing::error!("ALARM: {alarm}");
                    self.links.forwarding = Some(alarm);
                }
                None
            }
        }
    }

    /// Addresses came or went.
    pub(super) fn look_at_addresses(&mut self) -> Result<(), FirewallError> {
        let services = self.plan.own_addresses.clone();
        let done = self.refuse_own_addresses(&services);
        let judged = self.judge_own_addresses();
        if !matches!((&done, &judged), (Ok(false), Ok(false))) {
            self.flush()?;
        }
        done.and(judged).map(drop)
    }

    /// The rules in force know which addresses are ours: management is judged before blocks. The
    /// next flush ends what was remembered before. `false`: they know already.
    fn judge_own_addresses(&mut self) -> Result<bool, FirewallError> {
        let own = self.links.own.clone();
        if own == self.links.judged {
            return Ok(false);
        }
        for (generation, plan) in [
            (self.settings.generation, Some(&self.plan)),
            (GENERATION_SHADOW, self.shadow.as_ref()),
        ] {
            let Some(plan) = plan else { continue };
            let managing = |own: &[IpAddr]| plan.own_without_management(own);
            if managing(&own) != managing(&self.links.judged) {
                self.kernel.write_sources(generation, plan, &own)?;
            }
        }
        self.links.judged = own;
        Ok(true)
    }

    /// Packets from these and the devices' addresses are forged, and from no other's any more; the
    /// next flush writes it. `false`: nothing is to be written.
    pub(super) fn refuse_own_addresses(
        &mut self,
        services: &[IpAddr],
    ) -> Result<bool, FirewallError> {
        let (own, fault) = own_addresses(services);
        let changed = own != self.links.own;
        if changed {
            self.table.set_owner(&BlockOwner::OwnAddress, &blocks(&own))?;
            self.links.own = own;
        }
        fault.map_or(Ok(changed), Err)
    }
}

/// The addresses of services and devices, in order; and why devices' are missing.
pub(super) fn own_addresses(services: &[IpAddr]) -> (Vec<IpAddr>, Option<FirewallError>) {
    let devices = interface_addresses();
    let mut own = services.to_vec();
    own.extend(devices.iter().flatten());
    // The stack refuses loopback by itself, and a neighbour on another link may have the same
    // link-local address.
    own.retain(|address| !address.is_loopback() && !is_link_local(address));
    own.sort_unstable();
    own.dedup();
    let fault = devices.err().map(|fault| FirewallError::io("the devices' addresses", fault));
    (own, fault)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn blocks(own: &[IpAddr]) -> Vec<BlockRequest> {
    let request = |address: &IpAddr| BlockRequest {
        prefix: (*address).into(),
        owner: BlockOwner::OwnAddress,
        comment: Some("an address of this appliance".to_owned()),
        expires_at: None,
    };
    own.iter().map(request).collect()
}
