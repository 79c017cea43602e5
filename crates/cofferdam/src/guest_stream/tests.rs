//! Streams whose supervisor is a thread of the test.

use std::{
    future::poll_fn,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    pin::pin,
    thread,
};

use cofferdam_runtime::{Connection, Receiver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{tasks::take_in, *};

const HEADER_BYTES: usize = 12;
const CONTROL: u8 = 1;
const DATA: u8 = 2;
const CREDIT: u8 = 3;

/// What a client may send before it gets credit, in bytes.
const WINDOW: usize = 256 << 10;

/// A supervisor of one stream.
struct Supervisor(UnixStream);

impl Supervisor {
    /// The next frame: its kind, its flags and its payload; none at the end.
    fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header).ok()?;
        let [l0, l1, l2, l3, .., kind, _, flags, _] = header;
        let mut payload = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
        self.0.read_exact(&mut payload).unwrap();
        Some((kind, flags, payload))
    }

    /// Takes so many bytes of the client.
    fn take(&mut self, bytes: usize) {
        let mut taken = 0;
        while taken < bytes {
            let (kind, _, payload) = self.frame().expect("bytes were lost");
            assert_eq!(kind, DATA);
            taken += payload.len();
        }
        assert_eq!(taken, bytes);
    }

    fn send(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap();
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend(1_u32.to_le_bytes());
        frame.extend([kind, channel, 0, 0]);
        frame.extend(payload);
        self.0.write_all(&frame).unwrap();
    }

    fn give(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap();
        self.send(CREDIT, 0, &bytes.to_le_bytes());
    }
}

/// A stream, and what it is served by.
async fn open(serve: impl FnOnce(Supervisor) + Send + 'static) -> (GuestStream, impl Future) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let served = thread::spawn(move || {
        let mut supervisor = Supervisor(listener.accept().unwrap().0);
        assert_eq!(supervisor.frame().unwrap().0, CONTROL);
        serve(supervisor);
    });
    let request = Request::Connect(StreamTarget::Port(7));
    let connection = Connection::open(&path, request).await.unwrap();
    let (mut receiver, outgoing) = connection.split();
    receiver.hold_credit();
    let shared = Arc::<Shared>::default();
    let received = tokio::spawn(receive_all(receiver, Arc::clone(&shared)));
    let sent = tokio::spawn(send(outgoing, Arc::clone(&shared)));
    let over = async move {
        received.await.unwrap();
        sent.await.unwrap();
        tokio::task::spawn_blocking(|| served.join().unwrap())
            .await
            .unwrap();
    };
    (GuestStream::of(shared), over)
}

async fn receive_all(mut receiver: Receiver, shared: Arc<Shared>) {
    if take_in(&mut receiver, &shared).await.is_some() {
        shared.has_ended(Ok(()));
    }
}

#[tokio::test]
async fn what_was_written_is_sent_after_a_drop_as_soon_as_there_is_room() {
    let (dropped, is_dropped) = std::sync::mpsc::channel();
    let (mut stream, over) = open(move |mut supervisor| {
        supervisor.take(WINDOW);
        is_dropped.recv().unwrap();
        // What nobody reads does not stop the server.
        supervisor.send(DATA, 1, b"unread");
        let (kind, _, bytes) = supervisor.frame().unwrap();
        assert_eq!((kind, bytes), (CREDIT, 6_u32.to_le_bytes().to_vec()));
        supervisor.give(1000);
        supervisor.take(1000);
        // No reset: this is all.
        assert_eq!(supervisor.frame(), None);
    })
    .await;
    stream.write_all(&vec![7; WINDOW + 1000]).await.unwrap();
    drop(stream);
    dropped.send(()).unwrap();
    over.await;
}

#[tokio::test]
async fn a_reset_is_sent_after_a_shutdown_and_while_there_is_no_room() {
    let (mut stream, over) = open(|mut supervisor| {
        supervisor.take(1);
        let (kind, flags, bytes) = supervisor.frame().unwrap();
        assert_eq!((kind, flags, bytes), (DATA, 1, Vec::new()));
        assert_eq!(supervisor.frame().unwrap().0, CONTROL);
        assert_eq!(supervisor.frame(), None);
    })
    .await;
    stream.write_all(b"x").await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut reader, writer) = stream.into_split();
    writer.reset();
    let failed = reader.read(&mut [0]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
    over.await;
    let (filled, is_full) = tokio::sync::oneshot::channel();
    let (mut stream, over) = open(|mut supervisor| {
        supervisor.take(WINDOW);
        filled.send(()).unwrap();
        assert_eq!(supervisor.frame().unwrap().0, CONTROL);
        assert_eq!(supervisor.frame(), None);
    })
    .await;
    stream.write_all(&vec![7; WINDOW + 1000]).await.unwrap();
    is_full.await.unwrap();
    stream.reset();
    over.await;
}

#[test]
fn a_write_that_fails_leaves_what_the_server_has_sent() {
    let shared = Arc::<Shared>::default();
    shared.state().incoming.extend(*b"last");
    shared.state().has_broken();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (mut reader, mut writer) = GuestStream::of(Arc::clone(&shared)).into_split();
    runtime.block_on(async {
        let failed = writer.write(b"x").await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
        let mut all = [0; 4];
        reader.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"last");
        // Its end is still to come.
        let mut one = [0];
        let mut read = pin!(reader.read(&mut one));
        let first = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
        assert!(first.is_pending());
        shared.has_ended(Ok(()));
        assert_eq!(read.await.unwrap(), 0);
    });
}
