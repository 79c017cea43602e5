//! The private link: the gateway and the host's stand-in answer for their addresses, and for no
//! other.

mod arp;
mod ndp;

pub(crate) use arp::{Arp, answer as answer_arp};
pub(crate) use ndp::{answer as answer_ndp, is_link_local};
