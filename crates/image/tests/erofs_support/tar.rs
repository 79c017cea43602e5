//! A tar writer that can also write what no tar writer should.

const BLOCK: usize = 512;
/// Time of entries that do not say another.
pub const MTIME: i64 = 1_600_000_000;

/// One entry; every field may lie.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    pub device: (u32, u32),
    pub data: Vec<u8>,
    /// What the header says, when not the length of the data.
    pub size: Option<u64>,
    pub pax: Vec<u8>,
    pub magic: [u8; 8],
}

impl Entry {
    pub fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: MTIME,
            device: (0, 0),
            data: Vec::new(),
            size: None,
            pax: Vec::new(),
            magic: *b"ustar\x0000",
        }
    }

    pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self {
            data: data.as_ref().to_vec(),
            ..Self::new(b'0', path)
        }
    }

    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path)
    }

    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(b'2', path)
        }
    }

    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(b'1', path)
        }
    }

    pub fn device(kind: u8, path: &str, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(kind, path)
        }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub fn magic(mut self, magic: &[u8; 8]) -> Self {
        self.magic = *magic;
        self
    }

    /// Adds a PAX record with the right length.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.extend(pax_record(key, value.as_ref()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// The header block.
    pub fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block, 0, 100, &self.path);
        put(&mut block, 157, 100, &self.link);
        put(&mut block, 257, 8, &self.magic);
        for (offset, len, value) in [
            (100, 8, i64::from(self.mode)),
            (108, 8, self.uid.cast_signed()),
            (116, 8, self.gid.cast_signed()),
            (
                124,
                12,
                self.size.unwrap_or(self.data.len() as u64).cast_signed(),
            ),
            (136, 12, self.mtime),
            (329, 8, i64::from(self.device.0)),
            (337, 8, i64::from(self.device.1)),
        ] {
            number(&mut block[offset..offset + len], value);
        }
        block[156] = self.kind;
        seal(&mut block);
        block
    }
}

/// Writes the checksum.
pub fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = body.len();
    while len != body.len() + len.to_string().len() {
        len = body.len() + len.to_string().len();
    }
    [len.to_string().as_bytes(), &body].concat()
}

fn put(block: &mut [u8], offset: usize, room: usize, bytes: &[u8]) {
    assert!(bytes.len() <= room, "a name that needs a PAX record");
    block[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Octal if it fits, base 256 otherwise.
fn number(field: &mut [u8], value: i64) {
    let text = format!("{value:0width$o}", width = field.len() - 1);
    if value >= 0 && text.len() < field.len() {
        field[..text.len()].copy_from_slice(text.as_bytes());
        return;
    }
    let fill = if value < 0 { 0xff } else { 0 };
    field.fill(fill);
    let bytes = value.to_be_bytes();
    let len = field.len().min(8);
    let start = field.len() - len;
    field[start..].copy_from_slice(&bytes[8 - len..]);
    field[0] |= 0x80;
}

/// A tar being written.
#[derive(Clone, Debug, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut tar = Self::default();
        for entry in entries {
            tar.push(&entry);
        }
        tar
    }

    pub fn push(&mut self, entry: &Entry) {
        if !entry.pax.is_empty() {
            let mut extension = Entry::new(b'x', "PaxHeaders/x");
            extension.data.clone_from(&entry.pax);
            self.push(&extension);
        }
        self.0.extend_from_slice(&entry.header());
        self.0.extend_from_slice(&entry.data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    /// With the end mark.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK]);
        self.0
    }
}

/// A GNU header that names the next entry.
pub fn gnu_long(kind: u8, name: impl AsRef<[u8]>) -> Entry {
    let data = [name.as_ref(), b"\0"].concat();
    Entry {
        data,
        ..Entry::new(kind, "././@LongLink")
    }
    .magic(b"ustar  \0")
}

pub fn whiteout(path: &str) -> Entry {
    match path.rsplit_once('/') {
        Some((dir, name)) => Entry::file(format!("{dir}/.wh.{name}"), ""),
        None => Entry::file(format!(".wh.{path}"), ""),
    }
}

pub fn opaque(dir: &str) -> Entry {
    Entry::file(format!("{dir}/.wh..wh..opq"), "")
}
