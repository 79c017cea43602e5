//! Why a program did not start, in Docker's terms.
//!
//! Only read after `execve` has failed, so none of it costs a start that works. The kernel says
//! "no such file" both for a missing program and for one whose interpreter is missing; the
//! program's own head tells them apart. Source: fs/binfmt_script.c, elf(5).

use std::io::Read;

use cofferdam_proto::{Failure, FailureKind};
use rustix::{
    fs::{FileType, OFlags, fstat},
    io::Errno,
};

use crate::{
    failure::{Result, failure},
    mounts::{Root, resolve},
};

/// Longest `#!` line that the kernel reads, `BINPRM_BUF_SIZE` of linux/binfmts.h.
const SCRIPT_HEAD_BYTES: usize = 256;

/// Where an ELF's interpreter is looked for: the linkers put it into the first page.
const HEAD_BYTES: u64 = 4096;

/// What to tell the host when none of `candidates` for `program` could be run.
pub(super) fn of_program(
    root: &Root,
    program: &str,
    candidates: &[String],
    workdir: &str,
    errno: Errno,
) -> Failure {
    let there = candidates
        .iter()
        .find_map(|path| Some((path, open(root, path, workdir)?)));
    match (errno, there) {
        (Errno::NOENT | Errno::NOTDIR, None) if program.contains('/') => {
            not_found(format!("`{program}`: no such file or directory"))
        }
        (Errno::NOENT | Errno::NOTDIR, None) => {
            not_found(format!("`{program}`: executable file not found in $PATH"))
        }
        (Errno::NOENT | Errno::NOTDIR, Some((path, file))) => {
            let interpreter = head(file).and_then(|head| interpreter(&head));
            not_found(missing_interpreter(path, interpreter.as_deref()))
        }
        (Errno::ACCESS, Some((path, file))) if is_directory(&file) => {
            not_executable(format!("`{path}`: is a directory"))
        }
        (Errno::ACCESS | Errno::PERM, _) => {
            not_executable(format!("`{program}`: permission denied"))
        }
        (Errno::NOEXEC | Errno::LIBBAD, _) => {
            not_executable(format!("`{program}`: exec format error"))
        }
        (errno, _) => not_executable(format!("`{program}`: {errno}")),
    }
}

/// Fails as a start would when none of `candidates` is there.
pub(super) fn expect_program(
    root: &Root,
    program: &str,
    candidates: &[String],
    workdir: &str,
) -> Result<()> {
    match candidates
        .iter()
        .any(|path| open(root, path, workdir).is_some())
    {
        true => Ok(()),
        false => Err(of_program(root, program, candidates, workdir, Errno::NOENT)),
    }
}

/// A name may end in a carriage return, which the kernel takes for a part of it and nobody sees.
fn missing_interpreter(path: &str, interpreter: Option<&str>) -> String {
    let interpreter = interpreter.unwrap_or("its interpreter");
    let mut shown = String::new();
    for character in interpreter.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    let cause = if interpreter.ends_with('\r') {
        "; the script's lines end as on Windows"
    } else {
        ""
    };
    format!("`{path}` needs `{shown}`: no such file or directory{cause}")
}

fn not_found(message: String) -> Failure {
    failure(FailureKind::ProgramNotFound, message)
}

fn not_executable(message: String) -> Failure {
    failure(FailureKind::ProgramNotExecutable, message)
}

fn open(root: &Root, path: &str, workdir: &str) -> Option<std::os::fd::OwnedFd> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{workdir}/{path}")
    };
    resolve::open(&root.directory, &path, OFlags::RDONLY | OFlags::NONBLOCK).ok()
}

fn is_directory(file: &std::os::fd::OwnedFd) -> bool {
    fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn head(file: std::os::fd::OwnedFd) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::from(file)
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}

/// The interpreter that a script's or an ELF's first bytes name.
fn interpreter(head: &[u8]) -> Option<String> {
    let name = match head.strip_prefix(b"#!") {
        Some(rest) => {
            let line = rest
                .get(..SCRIPT_HEAD_BYTES)
                .unwrap_or(rest)
                .split(|byte| *byte == b'\n')
                .next()?;
            let mut words = line
                .split(|byte| matches!(byte, b' ' | b'\t'))
                .filter(|word| !word.is_empty());
            words.next()?
        }
        None => elf_interpreter(head)?,
    };
    Some(String::from_utf8_lossy(name).into_owned())
}

/// `PT_INTERP` of a 64-bit little-endian ELF.
fn elf_interpreter(head: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u64 = 3;
    let field = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes
            .get_mut(..size)?
            .copy_from_slice(head.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let index = |value: u64| usize::try_from(value).ok();
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (
        index(field(32, 8)?)?,
        index(field(54, 2)?)?,
        index(field(56, 2)?)?,
    );
    let entry = |number: usize| table.checked_add(number.checked_mul(size)?);
    let at = (0..count)
        .filter_map(entry)
        .find(|at| field(*at, 4) == Some(PT_INTERP))?;
    let (offset, length) = (index(field(at + 8, 8)?)?, index(field(at + 32, 8)?)?);
    let name = head.get(offset..offset.checked_add(length)?)?;
    name.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_scripts_interpreter_is_its_first_word() {
        for (head, name) in [
            ("#!/bin/sh\necho", "/bin/sh"),
            ("#! \t/usr/bin/env  python3 -x\n", "/usr/bin/env"),
            ("#!/no/newline", "/no/newline"),
        ] {
            assert_eq!(interpreter(head.as_bytes()).as_deref(), Some(name));
        }
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"plain text"), None);
    }

    #[test]
    fn a_carriage_return_at_the_end_of_an_interpreter_is_shown() {
        let name = interpreter(b"#!/bin/sh\r\necho\r\n");
        assert_eq!(
            missing_interpreter("/crlf", name.as_deref()),
            "`/crlf` needs `/bin/sh\\r`: no such file or directory; the script's lines end as on \
             Windows"
        );
        assert_eq!(
            missing_interpreter("/x", Some("/bin/\u{1b}é")),
            "`/x` needs `/bin/\\u{1b}é`: no such file or directory"
        );
    }

    #[test]
    fn this_test_program_names_its_loader() {
        let program = std::env::current_exe().unwrap();
        let head = std::fs::read(program).unwrap()[..4096].to_vec();
        let name = interpreter(&head).unwrap();
        assert!(name.contains("/ld-"), "{name}");
    }

    proptest! {
        #[test]
        fn arbitrary_heads_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), elf in any::<bool>()) {
            let mut head = if elf { b"\x7fELF\x02\x01".to_vec() } else { Vec::new() };
            head.extend(tail);
            let _ = interpreter(&head);
        }
    }
}
