//! A capture of all frames into a pcap file, which packet analysers read.
//!
//! A thread of its own writes. It gets frames by a queue of fixed size, so a slow disk makes the
//! capture incomplete (with a count) and never the network slow.
//!
//! Layout: a header `[magic: u32][major: u16][minor: u16][zone: u32][accuracy: u32][snaplen: u32]
//! [link type: u32]`, then for each frame `[seconds: u32][nanoseconds: u32][kept bytes: u32]
//! [bytes: u32][frame]`, all little-endian. *Source:* draft-ietf-opsawg-pcap, sections 4 and 5.

use std::{
    fs::File,
    io::{BufWriter, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    confine::Confine,
    error::{Result, io},
};

/// Nanoseconds instead of microseconds.
const MAGIC: u32 = 0xa1b2_3c4d;

/// Ethernet.
const LINK_TYPE: u32 = 1;

/// Frames that wait for the disk.
const QUEUE: usize = 512;

/// How long a frame may stay in memory before it is in the file.
const FLUSH: Duration = Duration::from_millis(200);

/// The sending end of a capture. The file is complete once it is dropped and `join` returned.
#[derive(Debug)]
pub(crate) struct Capture {
    sender: Option<SyncSender<(SystemTime, Vec<u8>)>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Capture {
    /// Writes the header to `file`, and starts the thread, which gives up its rights first.
    pub(crate) fn start(mut file: File, confine: Option<Arc<dyn Confine>>) -> Result<Self> {
        file.write_all(&header())
            .map_err(|error| io("Could not write the header of the capture", error))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let (begun, begins) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("net-capture".to_owned())
            .spawn(move || {
                let confined = confine.map_or(Ok(()), |confine| confine.capture());
                let is_confined = confined.is_ok();
                // The receiver waits for it.
                let _ = begun.send(confined);
                if is_confined {
                    write(&receiver, BufWriter::new(file));
                }
            })
            .map_err(|error| io("Could not start the thread of the capture", error))?;
        let ended = |_| Err(std::io::ErrorKind::BrokenPipe.into());
        begins
            .recv()
            .unwrap_or_else(ended)
            .map_err(|error| io("Could not confine the thread of the capture", error))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// Hands a frame over. Returns whether it was taken: not when the disk is too slow or full.
    pub(crate) fn frame(&self, frame: &[u8]) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        match sender.try_send((SystemTime::now(), frame.to_vec())) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Drop for Capture {
    /// Waits until the frames that were taken are in the file.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // The thread has no way to panic but a bug, and then the file is merely short.
            let _ = thread.join();
        }
    }
}

fn header() -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    header.extend(2u16.to_le_bytes());
    header.extend(4u16.to_le_bytes());
    header.extend([0; 8]);
    header.extend(u32::from(u16::MAX).saturating_add(64).to_le_bytes());
    header.extend(LINK_TYPE.to_le_bytes());
    header
}

fn record(time: SystemTime, frame: &[u8]) -> [u8; 16] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut record = [0; 16];
    let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
    let fields = [seconds, since.subsec_nanos(), length, length];
    for (room, field) in record.chunks_exact_mut(4).zip(fields) {
        room.copy_from_slice(&field.to_le_bytes());
    }
    record
}

/// Writes until the sender is gone or the disk refuses.
fn write(receiver: &Receiver<(SystemTime, Vec<u8>)>, mut file: BufWriter<File>) {
    let mut dirty = false;
    loop {
        // Without frames to flush there is nothing to wake up for.
        let wait = if dirty {
            FLUSH
        } else {
            Duration::from_secs(3600)
        };
        let result = match receiver.recv_timeout(wait) {
            Ok((time, frame)) => {
                dirty = true;
                file.write_all(&record(time, &frame))
                    .and_then(|()| file.write_all(&frame))
            }
            Err(RecvTimeoutError::Timeout) => {
                dirty = false;
                file.flush()
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if result.is_err() {
            return;
        }
    }
    // The last frames; a full disk only makes the capture short.
    let _ = file.flush();
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_capture_has_a_header_and_each_frame() {
        let mut file = tempfile::tempfile().unwrap();
        let capture = Capture::start(file.try_clone().unwrap(), None).unwrap();
        assert!(capture.frame(b"first"));
        assert!(capture.frame(b"second!"));
        drop(capture);
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 5 + 16 + 7);
        assert_eq!(bytes[..4], MAGIC.to_le_bytes());
        assert_eq!(bytes[20..24], LINK_TYPE.to_le_bytes());
        assert_eq!(bytes[32..36], 5u32.to_le_bytes());
        assert_eq!(&bytes[40..45], b"first");
        assert_eq!(&bytes[61..], b"second!");
    }

    #[test]
    fn a_slow_disk_drops_frames() {
        // A pipe without a reader stands for a disk that does not write.
        let (_reader, writer) = std::io::pipe().unwrap();
        let fd: std::os::fd::OwnedFd = writer.into();
        let capture = Capture::start(File::from(fd), None).unwrap();
        let mut taken = 0;
        while capture.frame(&[0; 9000]) {
            taken += 1;
            assert!(taken < 10_000, "The queue has no bound");
        }
        drop(_reader);
    }
}
