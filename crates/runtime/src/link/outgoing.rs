//! What waits to be written to a peer: messages in their order, and credit as one sum for each
//! channel.
//!
//! A peer that reads slowly, or not at all, must not make this process grow. Credit is what a
//! hostile peer can cause without end, one piece for each byte that it sends: it is kept as a sum,
//! so it takes a few bytes for each channel. Data is bounded by the windows of its channels.
//! All other messages have [`MAX_BYTES`] together.
//!
//! ```text
//!             send, send_data, give ──►  rest, credit ──┐
//!                         send_bulk ──►  bulk ──────────┤ (not while held)
//!   Outgoing                                            ├──► Waiting::next ──► socket
//!             send_urgent ──────────►  urgent ──────────┘
//! ```
//! Each write has at most one piece of bulk, behind the rest. So bulk is never left out, and delays
//! a message by one piece.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cofferdam_proto::{Channel, encode_credit};
use tokio::{io::AsyncWriteExt, sync::Notify};

/// Bytes of messages that may wait, data not counted. The largest message is 1 MiB; a peer that
/// lets more than a few of those wait does not read.
const MAX_BYTES: usize = 4 << 20;

/// Bytes that are taken for one write at most, but for a single longer message.
const WRITE_BYTES: usize = 128 << 10;

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// Nobody writes any more: the connection has ended.
    Gone,
    /// Too much waits already: the peer does not read.
    Full,
}

#[derive(Debug, Default)]
struct State {
    urgent: VecDeque<Vec<u8>>,
    /// Each with how many of its bytes are counted.
    rest: VecDeque<(Vec<u8>, usize)>,
    /// As `rest`.
    bulk: VecDeque<(Vec<u8>, usize)>,
    /// Bytes of the messages in all three; data is not counted.
    counted: usize,
    credit: BTreeMap<(u32, Channel), u32>,
    held: bool,
    /// Every [`Outgoing`] is gone: what waits is written, and nothing comes behind it.
    finished: bool,
    /// The [`Waiting`] is gone.
    gone: bool,
}

#[derive(Debug, Default)]
struct Shared {
    // Held for a few instructions, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that sends; its clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// Its end is that of the last [`Outgoing`].
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().finished = true;
        self.0.changed.notify_one();
    }
}

/// The end that writes.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.state() = State {
            gone: true,
            ..State::default()
        };
    }
}

/// Makes a queue.
pub(crate) fn outgoing() -> (Outgoing, Waiting) {
    let shared = Arc::<Shared>::default();
    let open = Arc::new(Open(Arc::clone(&shared)));
    let sender = Outgoing {
        shared: Arc::clone(&shared),
        _open: open,
    };
    (sender, Waiting(shared))
}

impl Outgoing {
    /// Sends a message.
    ///
    /// # Errors
    /// [`SendError`]; then it is not sent.
    pub(crate) fn send(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        let weight = bytes.len();
        self.push(bytes, weight)
    }

    /// Sends data, which its channel's window bounds.
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub(crate) fn send_data(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        self.push(bytes, 0)
    }

    /// Sends a message, or data, behind other bulk and without delay for other messages.
    ///
    /// # Errors
    /// [`SendError`]; then it is not sent. Data is never [`SendError::Full`].
    pub(crate) fn send_bulk(&self, bytes: Vec<u8>, is_message: bool) -> Result<(), SendError> {
        let weight = if is_message { bytes.len() } else { 0 };
        let mut state = self.shared.state();
        state.take_in(weight)?;
        state.bulk.push_back((bytes, weight));
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn push(&self, bytes: Vec<u8>, weight: usize) -> Result<(), SendError> {
        let mut state = self.shared.state();
        state.take_in(weight)?;
        state.rest.push_back((bytes, weight));
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Sends a message before all that waits, also while that is held.
    ///
    /// # Errors
    /// [`SendError`]; then it is not sent.
    pub(crate) fn send_urgent(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        let mut state = self.shared.state();
        state.take_in(bytes.len())?;
        state.urgent.push_back(bytes);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Lets the peer send so many bytes more on a channel.
    pub(crate) fn give(&self, stream: u32, channel: Channel, bytes: u32) {
        let mut state = self.shared.state();
        if bytes > 0 && !state.gone {
            let sum = state.credit.entry((stream, channel)).or_default();
            // A channel's credit is never more than its window.
            *sum = sum.saturating_add(bytes);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Holds all but what is urgent back.
    pub(crate) fn hold(&self) {
        self.shared.state().held = true;
    }

    /// Lets it go out, in its order and before all that comes.
    pub(crate) fn release(&self) {
        self.shared.state().held = false;
        self.shared.changed.notify_one();
    }
}

impl State {
    fn take_in(&mut self, bytes: usize) -> Result<(), SendError> {
        if self.gone {
            return Err(SendError::Gone);
        }
        if bytes > 0 && self.counted + bytes > MAX_BYTES {
            return Err(SendError::Full);
        }
        self.counted += bytes;
        Ok(())
    }

    /// What goes out next, several messages in one piece; nothing if none may.
    fn take_out(&mut self) -> Option<Vec<u8>> {
        if let Some(bytes) = self.urgent.pop_front() {
            self.counted -= bytes.len();
            return Some(bytes);
        }
        if self.held {
            return None;
        }
        let mut out = Vec::new();
        for ((stream, channel), bytes) in std::mem::take(&mut self.credit) {
            encode_credit(stream, channel, bytes, &mut out);
        }
        while let Some((next, _)) = self.rest.front()
            && (out.is_empty() || out.len() + next.len() <= WRITE_BYTES)
            && let Some((bytes, weight)) = self.rest.pop_front()
        {
            self.counted -= weight;
            if out.is_empty() {
                out = bytes;
            } else {
                out.extend_from_slice(&bytes);
            }
        }
        if let Some((bytes, weight)) = self.bulk.pop_front() {
            self.counted -= weight;
            if out.is_empty() {
                out = bytes;
            } else {
                out.extend_from_slice(&bytes);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

impl Waiting {
    /// The next bytes to write; none when the queue is empty and nobody sends any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut state = self.0.state();
                if let Some(bytes) = state.take_out() {
                    return Some(bytes);
                }
                // What is held when no sender is left to release it goes nowhere.
                if state.finished {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// The next bytes if there are some.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Vec<u8>> {
        self.0.state().take_out()
    }
}

/// Writes what waits until the queue or the socket closes.
pub(crate) async fn write_all(mut writer: tokio::net::unix::OwnedWriteHalf, mut waiting: Waiting) {
    while let Some(bytes) = waiting.next().await {
        if writer.write_all(&bytes).await.is_err() {
            // The reader of the same socket reports the loss.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::{Decoder, FrameKind};

    use super::*;

    fn drain(waiting: &mut Waiting) -> Vec<u8> {
        std::iter::from_fn(|| waiting.try_next())
            .flatten()
            .collect()
    }

    #[test]
    fn what_is_held_goes_out_in_order_behind_what_is_urgent() {
        let (queue, mut waiting) = outgoing();
        queue.hold();
        queue.send(vec![1]).unwrap();
        queue.send_data(vec![2]).unwrap();
        queue.give(1, Channel::Stdout, 5);
        assert_eq!(waiting.try_next(), None);
        queue.send_urgent(vec![9]).unwrap();
        assert_eq!(drain(&mut waiting), [9]);
        queue.release();
        queue.send(vec![3]).unwrap();
        let out = drain(&mut waiting);
        assert_eq!(out[out.len() - 3..], [1, 2, 3]);
    }

    #[test]
    fn bulk_comes_in_its_order_behind_other_messages_one_piece_for_each_write() {
        let (queue, mut waiting) = outgoing();
        queue.send_bulk(vec![1], true).unwrap();
        queue.send_bulk(vec![2], false).unwrap();
        queue.send(vec![7]).unwrap();
        queue.send(vec![8]).unwrap();
        assert_eq!(waiting.try_next(), Some(vec![7, 8, 1]));
        queue.send(vec![9]).unwrap();
        assert_eq!(waiting.try_next(), Some(vec![9, 2]));
        assert_eq!(waiting.try_next(), None);
        queue.send_bulk(vec![0; MAX_BYTES], true).unwrap();
        assert_eq!(queue.send_bulk(vec![0], true), Err(SendError::Full));
        queue.send_bulk(vec![0], false).unwrap();
    }

    #[test]
    fn credit_is_one_sum_for_each_channel() {
        let (queue, mut waiting) = outgoing();
        for _ in 0..100_000 {
            queue.give(1, Channel::Stdout, 1);
            queue.give(2, Channel::Stderr, 2);
        }
        let mut decoder = Decoder::new();
        decoder.push(&drain(&mut waiting));
        let mut credit = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            assert_eq!(frame.kind, FrameKind::Credit);
            credit.push((frame.stream, frame.channel, frame.credit().unwrap()));
        }
        let expected = [(1, Channel::Stdout, 100_000), (2, Channel::Stderr, 200_000)];
        assert_eq!(credit, expected);
    }

    #[test]
    fn messages_to_a_peer_that_does_not_read_are_refused_and_data_is_not() {
        let (queue, mut waiting) = outgoing();
        let message = vec![0; 1 << 20];
        for _ in 0..MAX_BYTES >> 20 {
            queue.send(message.clone()).unwrap();
        }
        assert_eq!(queue.send(vec![0]), Err(SendError::Full));
        assert_eq!(queue.send_urgent(vec![0]), Err(SendError::Full));
        queue.send_data(vec![7]).unwrap();
        waiting.try_next().unwrap();
        queue.send(vec![0]).unwrap();
    }

    #[tokio::test]
    async fn the_last_sender_ends_the_queue_and_the_writer_ends_the_senders() {
        let (queue, mut waiting) = outgoing();
        let other = queue.clone();
        queue.send(vec![1]).unwrap();
        drop(queue);
        other.send(vec![2]).unwrap();
        drop(other);
        assert_eq!(waiting.next().await, Some(vec![1, 2]));
        assert_eq!(waiting.next().await, None);
        let (queue, waiting) = outgoing();
        drop(waiting);
        assert_eq!(queue.send(vec![1]), Err(SendError::Gone));
    }
}
