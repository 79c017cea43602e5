//! The check of the name that a guest says, before its first byte may pass to the host.

use std::net::SocketAddr;

use smoltcp::socket::tcp;

use super::{
    flow::NameCheck,
    hello::{self, Hello},
};
use crate::{context::Context, policy::Name};

/// Whether data of the guest may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// It may; with the name that the guest has said, if it has.
    Passed(Option<Name>),
    /// Not yet: more of it has to come.
    Waiting,
    /// It may not, and the flow is reset.
    Denied,
    /// The proxy of the secrets takes the flow to this host.
    Intercept(String),
}

/// Looks at the first bytes of the guest.
pub(super) fn check(
    cx: &mut Context,
    socket: &mut tcp::Socket<'_>,
    name_check: Option<NameCheck>,
    remote: SocketAddr,
    guest_ended: bool,
) -> Check {
    if !socket.can_recv() {
        // A guest that ends without a word has said no wrong name.
        return if guest_ended {
            Check::Passed(None)
        } else {
            Check::Waiting
        };
    }
    // No more than this fits, however long it waits.
    let full = socket.recv_queue() >= socket.recv_capacity().min(hello::MAX_BYTES);
    let (hello, is_tls) = match socket.peek(hello::MAX_BYTES) {
        Ok(bytes) => (hello::read(bytes), hello::is_tls(bytes)),
        // `can_recv` excludes it.
        Err(_) => return Check::Waiting,
    };
    let mut said = None;
    let by_name = name_check.is_some_and(|check| check.by_name);
    let wanted = match (&hello, &cx.config.secrets) {
        (Hello::Name(name), Some(secrets)) if is_tls => {
            let host = name.to_ascii_lowercase();
            secrets.proxy.wants(&host, remote.port()).then_some(host)
        }
        _ => None,
    };
    let allowed = match hello {
        Hello::More if !full && !guest_ended => return Check::Waiting,
        Hello::Other => true,
        _ if name_check.is_none() => true,
        Hello::Name(name) => match name.parse() {
            Ok(name) => {
                let allowed = cx.admit_name(&name, remote, by_name);
                said = Some(name);
                allowed
            }
            Err(_) => !by_name,
        },
        Hello::More | Hello::Hidden if by_name => {
            cx.deny_hidden_name(remote);
            false
        }
        Hello::More | Hello::Hidden => true,
    };
    match (allowed, wanted) {
        (true, Some(host)) => Check::Intercept(host),
        (true, None) => Check::Passed(said),
        (false, _) => Check::Denied,
    }
}
