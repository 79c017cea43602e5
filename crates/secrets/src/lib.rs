//! Puts secrets into a sandbox's requests at the host, so that the guest never holds them.
//!
//! ```text
//!  guest ──TLS by the sandbox's CA──► Proxy ──TLS, verified with the host's trust store──► server
//!          placeholder                       value, for the secret's own hosts only
//! ```
//!
//! The guest has a placeholder. The network stack gives each TLS flow that this proxy wants to
//! [`Proxy::take`]: one end of a socket pair that carries the guest's bytes, and a socket that is
//! connected already. So the address is the one that the policy has decided about, and no name is
//! looked up a second time.
//!
//! **Which flows.** With secrets, the proxy ends every TLS flow to port 443 that says a name, and
//! those to the secrets' hosts on every port; hosts of the bypass list are left alone. Only so is a
//! placeholder on its way to a wrong host seen, blocked and reported. The price: a program that
//! pins certificates or has a client certificate needs a line in the bypass list. Peers decide
//! alike.
//!
//! **HTTP.** `hyper` reads and writes both sides, HTTP/1.1 and HTTP/2. The guest's ALPN list is
//! offered to the server, and the server's choice to the guest, so both sides speak the same.
//! Messages are framed anew, so what a guest frames in two ways (smuggling) reaches the server in
//! one, and a request with both `Transfer-Encoding` and `Content-Length` is refused. A request for
//! another host than the name in TLS is answered with 421, because a server of many hosts would
//! give the value to the wrong one.
//!
//! **Where a value goes**: into the values of header fields, also inside Basic credentials; into
//! query and body if the secret says so. Where an answer repeats the value, it is masked by `*` of
//! the same length, and such requests ask for answers without compression.
//!
//! **Bounds.** [`MAX_FLOWS`] flows at a time, heads of 64 KiB, [`MAX_STREAMS`] streams of HTTP/2 on
//! a connection, time limits on handshakes and heads, and bodies are streamed. All of it runs on
//! one thread of its own.
//!
//! The CA's key and the values are in this process's memory only. Values are overwritten when they
//! are dropped; copies inside buffers of TLS and HTTP are freed, not overwritten.

mod authority;
mod body;
mod error;
mod find;
mod forward;
mod head;
mod proxy;
mod reason;
mod rule;
mod tls;

pub use authority::Authority;
pub use error::{Error, ErrorKind, Result};
pub use forward::MAX_STREAMS;
pub use proxy::{Flow, MAX_FLOWS, Proxy};
pub use rule::{Report, Rule};
