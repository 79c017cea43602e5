//! A connection whose calls are given up half-way.

use std::time::Duration;

use cofferdam_proto::INITIAL_WINDOW_BYTES;

use super::*;

/// All that the peer is sent: frames by kind and channel, with their bytes.
async fn frames(peer: &mut UnixStream, until_credit: u32) -> (usize, u32) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 64 << 10];
    let (mut input, mut credit) = (0, 0);
    while credit < until_credit {
        let length = peer.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0);
        decoder.push(&buffer[..length]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            match frame.kind {
                FrameKind::Data => input += frame.payload.len(),
                FrameKind::Credit => credit += frame.credit().unwrap(),
                FrameKind::Control => {}
            }
        }
    }
    (input, credit)
}

#[tokio::test]
async fn credit_and_frames_survive_calls_that_are_given_up() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let connection = Connection::over(ours, Request::Status).await.unwrap();
    let (mut incoming, mut outgoing) = connection.split();
    let mut output = Vec::new();
    encode_data(
        SESSION_STREAM,
        Channel::Stdout,
        &[1; 100],
        false,
        &mut output,
    );
    peer.write_all(&output).await.unwrap();
    let item = incoming.next().await.unwrap();
    assert!(matches!(item, Incoming::Output { bytes, .. } if bytes.len() == 100));
    // The peer reads nothing, so that the socket is full soon.
    let all = vec![7; INITIAL_WINDOW_BYTES as usize];
    let short = Duration::from_millis(50);
    let given_up = tokio::time::timeout(short, outgoing.input(&all)).await;
    assert!(given_up.is_err(), "the socket holds a whole window");
    for _ in 0..3 {
        let given_up = tokio::time::timeout(short, incoming.next()).await;
        assert!(given_up.is_err());
    }
    let sent = outgoing.sent;
    // It reads now; the next call sends the rest.
    let (read, next) = tokio::join!(
        frames(&mut peer, 100),
        tokio::time::timeout(Duration::from_secs(1), incoming.next())
    );
    assert!(next.is_err());
    let (input, credit) = read;
    assert_eq!((input as u64, credit), (sent, 100));
}
