//! `forward`: ports of this host that lead to servers in a sandbox, without its network.

use std::{fmt, io, rc::Rc, sync::Arc, time::Duration};

use cofferdam::{Coffer, Error, ErrorKind, GuestStream, Result, Sandbox};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::LocalSet,
};

use crate::{
    args::{Forward, ForwardArgs, Guest},
    exit_status::ExitStatus,
    output,
};

/// Most connections at once: a sandbox has as many byte streams.
const MAX_CONNECTIONS: usize = 256;

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// How long nothing is accepted when this process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Leads connections into a sandbox until it ends.
pub(crate) async fn forward(coffer: &Coffer, args: &ForwardArgs) -> ExitStatus {
    let done = match &args.stdio {
        Some(guest) => stdio(coffer, &args.sandbox, guest).await,
        None => LocalSet::new().run_until(listen(coffer, args)).await,
    };
    done.into()
}

async fn listen(coffer: &Coffer, args: &ForwardArgs) -> Result<()> {
    let sandbox = Rc::new(coffer.sandbox(&args.sandbox)?);
    check_live(&sandbox)?;
    let mut listeners = Vec::new();
    for forward in &args.ports {
        listeners.push((bind(forward).await?, forward.guest.clone()));
    }
    let places: io::Result<Vec<_>> = listeners
        .iter()
        .map(|(listener, guest)| Ok((listener.local_addr()?, guest)))
        .collect();
    let places = places.map_err(|error| io_error("Could not read an address", error))?;
    if args.json {
        let places = places.iter().map(|(host, guest)| {
            serde_json::json!({"host": host.to_string(), "guest": guest.to_string()})
        });
        output::json(&places.collect::<Vec<_>>());
    } else {
        for (host, guest) in &places {
            output::line(format_args!("{host} -> {guest}"));
        }
    }
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for (listener, guest) in listeners {
        let (sandbox, room) = (Rc::clone(&sandbox), Arc::clone(&room));
        tokio::task::spawn_local(accept(listener, sandbox, guest, room));
    }
    // How it ended is no failure of this command; that it was lost is.
    sandbox.wait().await?;
    output::note(format_args!("Sandbox `{}` has ended", sandbox.name()));
    Ok(())
}

fn check_live(sandbox: &Sandbox) -> Result<()> {
    let info = sandbox.info()?;
    if info.status.is_live() {
        return Ok(());
    }
    let what = format!("Sandbox `{}` is {}", info.name, info.status);
    Err(Error::new(ErrorKind::WrongState, what)
        .hint(format!("Start it with `coffer start {}`", info.name)))
}

async fn bind(forward: &Forward) -> Result<TcpListener> {
    let host = forward.host;
    TcpListener::bind(host).await.map_err(|error| {
        let what = format!("Could not listen on `{host}`");
        match error.kind() {
            io::ErrorKind::AddrInUse => Error::new(ErrorKind::PortTaken, what)
                .because(error)
                .hint("Choose another port of the host, or leave it out"),
            io::ErrorKind::PermissionDenied => {
                Error::new(ErrorKind::Permission, what).because(error)
            }
            _ => io_error(&what, error),
        }
    })
}

/// Serves the connections of one listener, side by side.
async fn accept(listener: TcpListener, sandbox: Rc<Sandbox>, guest: Guest, room: Arc<Semaphore>) {
    let mut places = Places::of(room);
    loop {
        match listener.accept().await {
            Ok((connection, peer)) => {
                let place = match places.take() {
                    Ok(place) => place,
                    Err(Full { is_first }) => {
                        refuse(&connection);
                        if is_first {
                            output::error_line(&format!(
                                "Refused the connection from {peer} to {guest}: {MAX_CONNECTIONS} \
                                 are open, the limit"
                            ));
                        }
                        continue;
                    }
                };
                let (sandbox, guest) = (Rc::clone(&sandbox), guest.clone());
                tokio::task::spawn_local(async move {
                    if let Err(error) = serve(connection, &sandbox, &guest).await {
                        output::note(format_args!("Connection from {peer} to {guest} failed:"));
                        output::error(&error);
                    }
                    drop(place);
                });
            }
            Err(error) => {
                output::error_line(&format!("Could not accept a connection: {error}"));
                // Time, on purpose: no event says that a descriptor is free.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut connection: TcpStream, sandbox: &Sandbox, guest: &Guest) -> Result<()> {
    // Requests are often small, and each comes as a whole.
    let _ = connection.set_nodelay(true);
    let relayed = match connect(sandbox, guest).await {
        Ok(stream) => relay(&mut connection, stream).await,
        Err(error) => Err(error),
    };
    if relayed.is_err() {
        // The peer must not take what it got for all of it.
        refuse(&connection);
    }
    relayed
}

/// The places of a listener, which others of the same command take too.
struct Places {
    free: Arc<Semaphore>,
    is_full: bool,
}

/// There is no place.
#[derive(Debug, PartialEq, Eq)]
struct Full {
    /// Whether there was one for the connection before.
    is_first: bool,
}

impl Places {
    const fn of(free: Arc<Semaphore>) -> Self {
        Self {
            free,
            is_full: false,
        }
    }

    fn take(&mut self) -> std::result::Result<OwnedSemaphorePermit, Full> {
        let place = Arc::clone(&self.free).try_acquire_owned();
        let was_full = std::mem::replace(&mut self.is_full, place.is_err());
        place.map_err(|_| Full {
            is_first: !was_full,
        })
    }
}

/// Has the connection be reset when it is dropped.
fn refuse(connection: &TcpStream) {
    let _ = set_socket_linger(connection, Some(Duration::ZERO));
}

/// A direction that broke.
#[derive(Debug)]
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Reading(error) | Broken::Writing(error) => error,
        }
    }
}

/// Copies both ways until both have ended.
async fn relay(connection: &mut TcpStream, stream: GuestStream) -> Result<()> {
    let (from_peer, to_peer) = connection.split();
    let (from_guest, mut to_guest) = stream.into_split();
    let copied = both(copy(from_peer, &mut to_guest), copy(from_guest, to_peer)).await;
    copied.map_err(|error| {
        to_guest.reset();
        io_error("The connection broke", error)
    })
}

/// Waits for both directions. A server that takes nothing any more may have answered: that is still
/// delivered. All other failures of one direction end both.
async fn both(
    up: impl Future<Output = std::result::Result<(), Broken>>,
    down: impl Future<Output = std::result::Result<(), Broken>>,
) -> io::Result<()> {
    tokio::pin!(up, down);
    let copied = tokio::select! {
        sent = &mut up => match sent {
            Ok(()) => down.await,
            Err(error @ Broken::Writing(_)) => down.await.and(Err(error)),
            Err(error) => Err(error),
        },
        answered = &mut down => match answered {
            Ok(()) => up.await,
            Err(error) => Err(error),
        },
    };
    Ok(copied?)
}

/// Copies one direction with its end.
async fn copy(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> std::result::Result<(), Broken> {
    let mut from = BufReader::with_capacity(COPY_BYTES, from);
    loop {
        let bytes = from.fill_buf().await.map_err(Broken::Reading)?;
        if bytes.is_empty() {
            break;
        }
        to.write_all(bytes).await.map_err(Broken::Writing)?;
        let count = bytes.len();
        from.consume(count);
    }
    match to.shutdown().await {
        // The other side has closed it already.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other.map_err(Broken::Writing),
    }
}

/// One connection over our standard streams; it lasts until the server ends its direction.
async fn stdio(coffer: &Coffer, sandbox: &str, guest: &Guest) -> Result<()> {
    let stream = connect(&coffer.sandbox(sandbox)?, guest).await?;
    let (from_guest, to_guest) = stream.into_split();
    let up = copy(tokio::io::stdin(), to_guest);
    let down = copy(from_guest, tokio::io::stdout());
    tokio::pin!(up, down);
    let copied = tokio::select! {
        done = &mut down => done,
        sent = &mut up => match sent {
            // What the server sent before it ended is still to be printed.
            Err(error @ Broken::Writing(_)) => down.await.and(Err(error)),
            Err(error) => Err(error),
            Ok(()) => down.await,
        },
    };
    copied.map_err(|error| io_error("The connection broke", error.into()))
}

async fn connect(sandbox: &Sandbox, guest: &Guest) -> Result<GuestStream> {
    match guest {
        Guest::Port(port) => sandbox.connect(*port).await,
        Guest::Socket(path) => sandbox.connect_socket(path).await,
    }
}

fn io_error(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, what).because(error)
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Socket(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_past_the_limit_is_refused_and_said_once_until_there_is_room() {
        let mut places = Places::of(Arc::new(Semaphore::new(1)));
        for _ in 0..2 {
            let place = places.take().unwrap();
            assert_eq!(places.take().unwrap_err(), Full { is_first: true });
            assert_eq!(places.take().unwrap_err(), Full { is_first: false });
            drop(place);
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn an_answer_is_delivered_though_the_server_takes_nothing_any_more() {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        let up = async { Err(Broken::Writing(gone())) };
        let copied = run(both(up, copy(&b"answer"[..], &mut answer)));
        assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(answer, b"answer");
        // A peer that is gone waits for nothing.
        let up = async { Err(Broken::Reading(gone())) };
        assert!(run(both(up, std::future::pending())).is_err());
        let down = async { Err(Broken::Writing(gone())) };
        assert!(run(both(std::future::pending(), down)).is_err());
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let (mut to_server, mut to_peer) = (Vec::new(), Vec::new());
        let copied = run(both(
            copy(&b"request"[..], &mut to_server),
            copy(&b"answer"[..], &mut to_peer),
        ));
        copied.unwrap();
        assert_eq!(
            (&to_server[..], &to_peer[..]),
            (&b"request"[..], &b"answer"[..])
        );
    }
}
