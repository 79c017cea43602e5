//! Streams made by hand after QEMU's sources; real ones are in the contract tests.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 4 * 4096;

#[derive(Default)]
struct Pages(BTreeMap<u64, u8>);

impl PageSink for Pages {
    fn put(&mut self, offset: u64, page: &[u8; PAGE_BYTES]) -> io::Result<()> {
        assert!(page.iter().all(|byte| *byte == page[0]));
        self.0.insert(offset, page[0]);
        Ok(())
    }

    fn clear(&mut self, offset: u64) -> io::Result<()> {
        self.0.insert(offset, 0);
        Ok(())
    }
}

fn name(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

fn word(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn half(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn head() -> Vec<Vec<u8>> {
    vec![
        half(MAGIC),
        half(VERSION),
        vec![CONFIGURATION],
        half(7),
        b"microvm".to_vec(),
        vec![SUBSECTION],
        name("configuration/capabilities"),
        half(1),
        half(1),
        name("x-ignore-shared"),
        vec![SECTION_START],
        half(2),
        name("ram"),
        half(0),
        half(4),
        word((MEMORY + 4096) | FLAG_SIZES),
        name("pc.bios"),
        word(4096),
        word(0xf000),
        name("ram"),
        word(MEMORY),
        word(0),
        word(FLAG_END),
        vec![FOOTER],
        half(2),
    ]
}

/// A part of the memory section around `records`.
fn part(kind: u8, records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut parts = vec![vec![kind], half(2)];
    parts.extend(records);
    parts.extend([word(FLAG_END), vec![FOOTER], half(2)]);
    parts
}

fn firmware() -> Vec<Vec<u8>> {
    vec![word(FLAG_PAGE), name("pc.bios"), vec![9; PAGE_BYTES]]
}

fn guest_memory() -> Vec<Vec<u8>> {
    vec![
        word(FLAG_PAGE),
        name("ram"),
        vec![5; PAGE_BYTES],
        word(0x1000 | FLAG_ZERO | FLAG_SAME_BLOCK),
        vec![0],
        word(0x3000 | FLAG_PAGE | FLAG_SAME_BLOCK),
        vec![6; PAGE_BYTES],
    ]
}

fn tail() -> Vec<Vec<u8>> {
    vec![vec![SECTION_FULL], b"devices, opaque".to_vec()]
}

fn command(number: u16, data: &[u8]) -> Vec<Vec<u8>> {
    let length = u16::try_from(data.len()).unwrap();
    vec![
        vec![COMMAND],
        number.to_be_bytes().to_vec(),
        length.to_be_bytes().to_vec(),
        data.to_vec(),
    ]
}

/// A stream with `commands` where QEMU 10 tells that the end begins.
fn with_commands(commands: Vec<Vec<u8>>) -> Vec<u8> {
    let mut parts = head();
    parts.extend(part(SECTION_PART, guest_memory()));
    parts.extend(commands);
    parts.extend(part(SECTION_END, Vec::new()));
    parts.extend(tail());
    parts.concat()
}

fn run(stream: &[u8]) -> io::Result<(Vec<u8>, BTreeMap<u64, u8>)> {
    let (mut output, mut pages) = (Vec::new(), Pages::default());
    split(stream, &mut output, MEMORY, &mut pages)?;
    Ok((output, pages.0))
}

fn whole() -> Vec<u8> {
    let mut parts = head();
    parts.extend(part(SECTION_PART, [guest_memory(), firmware()].concat()));
    parts.extend(part(SECTION_END, guest_memory()));
    parts.extend(tail());
    parts.concat()
}

#[test]
fn memory_goes_to_the_sink_and_all_else_stays() {
    let (output, pages) = run(&whole()).unwrap();
    let mut expected = head();
    expected.extend(part(SECTION_PART, firmware()));
    expected.extend(part(SECTION_END, Vec::new()));
    expected.extend(tail());
    assert!(output == expected.concat());
    assert_eq!(pages, BTreeMap::from([(0, 5), (0x1000, 0), (0x3000, 6)]));
}

/// QEMU names a block once, and not again for the first page of the next section.
#[test]
fn a_section_may_begin_in_the_block_where_the_last_one_ended() {
    let more = vec![
        word(0x2000 | FLAG_PAGE | FLAG_SAME_BLOCK),
        vec![7; PAGE_BYTES],
    ];
    let mut parts = head();
    parts.extend(part(SECTION_PART, guest_memory()));
    parts.extend(part(SECTION_END, more));
    parts.extend(tail());
    let (output, pages) = run(&parts.concat()).unwrap();
    assert_eq!(
        pages,
        BTreeMap::from([(0, 5), (0x1000, 0), (0x2000, 7), (0x3000, 6)])
    );
    let mut expected = head();
    expected.extend(part(SECTION_PART, Vec::new()));
    expected.extend(part(SECTION_END, Vec::new()));
    expected.extend(tail());
    assert!(output == expected.concat());
}

#[test]
fn a_stream_without_memory_is_unchanged() {
    let (without, _) = run(&whole()).unwrap();
    let (again, pages) = run(&without).unwrap();
    assert!(again == without && pages.is_empty());
}

#[test]
fn a_stream_cut_before_its_devices_is_an_error() {
    let stream = whole();
    for length in 0..stream.len() - tail().concat().len() {
        assert!(run(&stream[..length]).is_err(), "{length}");
    }
}

#[test]
fn commands_stay_where_they_are_known_or_not() {
    let switchover = command(11, &[]);
    let new = command(77, &[COMMAND; 300]);
    let (output, pages) = run(&with_commands([switchover.clone(), new.clone()].concat())).unwrap();
    let mut expected = head();
    expected.extend(part(SECTION_PART, Vec::new()));
    expected.extend(switchover);
    expected.extend(new);
    expected.extend(part(SECTION_END, Vec::new()));
    expected.extend(tail());
    assert!(output == expected.concat());
    assert_eq!(pages.len(), 3);
    // So is the head of a state, which a capture takes over.
    let kept = read_head(output.as_slice(), MEMORY).unwrap();
    assert!(output.starts_with(&kept));
}

#[test]
fn commands_that_move_memory_to_elsewhere_or_have_no_end_are_refused() {
    // `MIG_CMD_POSTCOPY_ADVISE`, `MIG_CMD_PACKAGED`.
    for number in [3, 7] {
        let error = run(&with_commands(command(number, &[0; 16]))).unwrap_err();
        assert!(error.to_string().contains("unknown command"), "{error}");
    }
    let many = (0..100).flat_map(|_| command(2, &[0; 4])).collect();
    assert!(run(&with_commands(many)).is_err());
}

#[test]
fn devices_before_the_end_of_memory_are_refused() {
    let mut parts = head();
    parts.extend(part(SECTION_PART, guest_memory()));
    parts.extend(tail());
    assert!(run(&parts.concat()).is_err());
}

#[test]
fn a_page_outside_memory_is_an_error() {
    let mut parts = head();
    let outside = vec![word(MEMORY | FLAG_PAGE), name("ram"), vec![1; PAGE_BYTES]];
    parts.extend(part(SECTION_END, outside));
    assert!(run(&parts.concat()).is_err());
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(at in 0..whole().len(), byte: u8) {
        let mut stream = whole();
        stream[at] = byte;
        struct Any;
        impl PageSink for Any {
            fn put(&mut self, offset: u64, _: &[u8; PAGE_BYTES]) -> io::Result<()> {
                assert!(offset < MEMORY);
                Ok(())
            }

            fn clear(&mut self, offset: u64) -> io::Result<()> {
                assert!(offset < MEMORY);
                Ok(())
            }
        }
        let _ = split(stream.as_slice(), io::sink(), MEMORY, &mut Any);
    }
}
