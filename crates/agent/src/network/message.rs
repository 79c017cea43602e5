//! Netlink messages as bytes.
//!
//! *Source:* netlink(7), rtnetlink(7), sock_diag(7); `linux/netlink.h`, `linux/rtnetlink.h`.
//! All numbers are in the byte order of the machine unless a field says otherwise.

/// Bytes of `struct nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32.
pub(super) const HEADER_BYTES: usize = 16;

/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;

/// Several requests that are sent with one system call. Their sequence numbers count from 0.
#[derive(Debug, Default)]
pub(super) struct Requests {
    bytes: Vec<u8>,
    count: u32,
}

impl Requests {
    /// Adds a request: its type, its flags beside `NLM_F_REQUEST`, the fixed part of its payload,
    /// and its attributes.
    pub(super) fn push(
        &mut self,
        kind: u16,
        flags: i32,
        fixed: &[u8],
        attributes: &[(u16, &[u8])],
    ) {
        let start = self.bytes.len();
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.align();
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
            self.bytes.extend_from_slice(&length.to_ne_bytes());
            self.bytes.extend_from_slice(&kind.to_ne_bytes());
            self.bytes.extend_from_slice(value);
            self.align();
        }
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many requests there are.
    pub(super) const fn len(&self) -> u32 {
        self.count
    }

    fn align(&mut self) {
        let length = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(length, 0);
    }
}

/// A message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Splits what was received into messages; stops at the first that is not whole.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            sequence: number(bytes, 8)?,
            payload: bytes.get(HEADER_BYTES..length)?,
        };
        let next = length.next_multiple_of(ALIGNMENT);
        bytes = bytes.get(next..).unwrap_or_default();
        Some(message)
    })
}

/// The 32-bit number at `offset`.
pub(super) fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_back_as_they_were_written() {
        let mut requests = Requests::default();
        requests.push(16, libc::NLM_F_ACK, &[1; 16], &[(1, &[2; 6]), (4, &[3; 4])]);
        requests.push(20, libc::NLM_F_ACK, &[4; 8], &[]);
        let all: Vec<_> = messages(requests.bytes()).collect();
        assert_eq!(requests.len(), 2);
        assert_eq!((all[0].kind, all[0].sequence), (16, 0));
        // The fixed part, six bytes padded to eight behind their header, and four behind theirs.
        assert_eq!(all[0].payload.len(), 16 + 4 + 8 + 4 + 4);
        assert_eq!((all[1].kind, all[1].sequence), (20, 1));
        assert_eq!(all[1].payload, [4; 8]);
    }

    #[test]
    fn a_message_that_is_cut_off_or_too_short_ends_the_list() {
        let mut requests = Requests::default();
        requests.push(16, 0, &[1; 16], &[]);
        let bytes = requests.bytes();
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 0);
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut bytes = bytes.to_vec();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
    }
}
