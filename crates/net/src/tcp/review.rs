//! Flows under another policy than the one that they began under.

use std::net::SocketAddr;

use super::{
    Tcp,
    flow::{State, reset_host},
};
use crate::{
    context::Context,
    policy::{Name, Protocol},
    slots::Slot,
};

impl Tcp {
    /// Resets the guest's flows that the policy does not allow any more, on both sides. Those of
    /// published ports and of the stack's own services stay. Returns how many there were.
    pub(crate) fn reset_denied(&mut self, cx: &mut Context) -> usize {
        let mut count = 0;
        for slot in self.flows.slots() {
            let Some(flow) = self.flows.get_mut(slot) else {
                continue;
            };
            if flow.is_inbound || cx.config.is_gateway(flow.key.remote.ip()) {
                continue;
            }
            let (remote, names, said) = (flow.key.remote, flow.names.clone(), flow.said.clone());
            let Some(destination) = admits(cx, remote, &names, said.as_ref()) else {
                self.reset(cx, slot);
                count += 1;
                continue;
            };
            // Nothing of it has passed, so that its name can still be checked.
            if let Some(flow) = self.flows.get_mut(slot)
                && flow.moved.0 == 0
            {
                flow.check_name = destination.check_name;
                // One that the proxy of the secrets has is searched by the proxy.
                let is_ours = flow.scanner.is_some() || cx.config.secrets.is_none();
                flow.look |= is_ours && flow.check_name.is_some();
            }
        }
        cx.counters.tcp_flows.set(self.flows.len());
        count
    }

    /// Resets a flow on both sides.
    pub(super) fn reset(&mut self, cx: &mut Context, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        reset_host(&flow.fd);
        if let Some(link) = &mut flow.link {
            link.socket().abort();
            flow.state = State::Resetting;
            self.pump(cx, slot);
        } else {
            self.remove(cx, slot);
        }
    }
}

/// Asks the policy about a flow: its address, then the name that the guest has said in it.
fn admits(
    cx: &mut Context,
    remote: SocketAddr,
    names: &[Name],
    said: Option<&Name>,
) -> Option<crate::context::Destination> {
    let destination = cx.admit_again(Protocol::Tcp, remote, names)?;
    match (destination.check_name, said) {
        (Some(check), Some(said)) if !cx.admit_name(said, remote, check.by_name) => None,
        _ => Some(destination),
    }
}
