//! The probe guest's physical and virtual memory: addresses, descriptor tables, page tables.
//!
//! The host writes all of this before the guest's first instruction; [`super::guest`] is assembled
//! against the same constants. Everything here is plain bytes: no KVM, no unsafe.
//!
//! ```text
//! guest physical            virtual, ring 0                      virtual, ring 3
//! 0x1000 GDT TSS IDT        KERNEL_BASE + gpa                    -
//! 0x2000 PML4 .. 0x7fff     KERNEL_BASE + gpa                    -
//! 0x8000 code               KERNEL_BASE + gpa; identity at first 0x40_0000 (read-only)
//! 0x9000 report             KERNEL_BASE + gpa                    -
//! 0xa000 demand page        KERNEL_BASE + gpa and DEMAND_VA,     -
//!                           the latter absent until a fault
//! 0xb000 ring 0 stack       KERNEL_BASE + gpa                    -
//! 0xc000 ring 3 data, stack KERNEL_BASE + gpa                    0x40_1000
//! 0xd000_0000 no memory     MMIO_VA (2 MiB page)                 -
//! ```
//!
//! Source: Intel SDM volume 3 §3.4.5 (segments), §4.5 (4-level paging), §6.14 (64-bit IDT),
//! §7.7 (64-bit TSS); AMD APM volume 2 §6.1 (SYSCALL, SYSRET and STAR).

/// Size of a page.
pub(super) const PAGE: usize = 0x1000;
/// Bytes of guest memory, from guest physical address 0.
pub(super) const MEMORY_BYTES: usize = 0x1_0000;

/// Where the guest's kernel half starts: the link address of a stock x86-64 Linux kernel.
/// Source: Linux Documentation/arch/x86/x86_64/mm.rst.
pub(super) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

pub(super) const TABLES: u64 = 0x1000;
pub(super) const TSS: u64 = TABLES + 0x100;
pub(super) const IDT: u64 = TABLES + 0x600;
pub(super) const GDT_POINTER_LOW: u64 = TABLES + 0x200;
pub(super) const GDT_POINTER_HIGH: u64 = TABLES + 0x210;
pub(super) const IDT_POINTER: u64 = TABLES + 0x220;
pub(super) const PML4: u64 = 0x2000;
pub(super) const PDPT_LOW: u64 = 0x3000;
pub(super) const PDPT_HIGH: u64 = 0x4000;
pub(super) const PD_LOW: u64 = 0x5000;
pub(super) const PD_HIGH: u64 = 0x6000;
/// Page table of the first 2 MiB above [`KERNEL_BASE`].
pub(super) const PT_HIGH: u64 = 0x7000;
pub(super) const CODE: u64 = 0x8000;
pub(super) const REPORT: u64 = 0x9000;
pub(super) const DEMAND: u64 = 0xa000;
pub(super) const STACK_TOP: u64 = 0xc000;
pub(super) const USER_DATA: u64 = 0xc000;
/// Page table of the lowest 2 MiB: holds what the moment of the switch needs.
pub(super) const PT_IDENTITY: u64 = 0xd000;
/// Page table of ring 3's 2 MiB.
pub(super) const PT_USER: u64 = 0xe000;

/// Ring 3's view of the code page, read-only.
pub(super) const USER_CODE_VA: u64 = 0x40_0000;
/// Ring 3's view of its data page; the stack grows down from its end.
pub(super) const USER_DATA_VA: u64 = 0x40_1000;
/// A ring 0 address without a page until the guest's own page-fault code gives it [`DEMAND`].
pub(super) const DEMAND_VA: u64 = KERNEL_BASE + 0x1f_f000;
/// Where the entry of [`DEMAND_VA`] is in [`PT_HIGH`].
pub(super) const DEMAND_PTE: u64 = PT_HIGH + 511 * 8;
/// A ring 0 address of a 2 MiB page over guest physical space that has no memory behind it.
pub(super) const MMIO_VA: u64 = KERNEL_BASE + 0x20_0000;
/// The guest physical address behind [`MMIO_VA`]; where a PC has its PCI hole.
pub(super) const MMIO: u64 = 0xd000_0000;

/// Segment selectors. SYSCALL takes `KERNEL_CODE` and the next; 64-bit SYSRET takes
/// `SYSRET_BASE + 8` for the stack and `+ 16` for the code.
pub(super) const KERNEL_CODE: u16 = 0x08;
pub(super) const KERNEL_DATA: u16 = 0x10;
pub(super) const SYSRET_BASE: u16 = 0x18;
pub(super) const USER_DATA_SELECTOR: u16 = 0x20 | 3;
pub(super) const USER_CODE_SELECTOR: u16 = 0x28 | 3;
pub(super) const BOOT_CODE: u16 = 0x30;
pub(super) const TSS_SELECTOR: u16 = 0x38;

/// Vectors the guest expects.
pub(super) const PAGE_FAULT_VECTOR: u8 = 14;
/// The external interrupt that the host injects: the first that the CPU does not reserve.
pub(super) const INTERRUPT_VECTOR: u8 = 0x20;
/// The trap by which ring 3 comes back: Linux's old system call gate.
pub(super) const TRAP_VECTOR: u8 = 0x80;

/// Offsets into the report page, one `u64` each.
pub(super) mod report {
    pub(in super::super) const STAGE: u64 = 0x00;
    pub(in super::super) const RING0_LOOPS: u64 = 0x08;
    pub(in super::super) const RING0_SUM: u64 = 0x10;
    pub(in super::super) const KERNEL_FAULTS: u64 = 0x18;
    pub(in super::super) const USER_FAULTS: u64 = 0x20;
    pub(in super::super) const FAULT_ADDRESS: u64 = 0x28;
    pub(in super::super) const DEMAND_VALUE: u64 = 0x30;
    pub(in super::super) const CPUID_VENDOR: u64 = 0x38;
    pub(in super::super) const CPUID_FEATURES: u64 = 0x40;
    pub(in super::super) const PORT_VALUE: u64 = 0x48;
    pub(in super::super) const MMIO_VALUE: u64 = 0x50;
    pub(in super::super) const SYSCALLS: u64 = 0x58;
    pub(in super::super) const TRAPS: u64 = 0x60;
    pub(in super::super) const INTERRUPTS: u64 = 0x68;
    pub(in super::super) const USER_LOOPS: u64 = 0x70;
}

/// Size of a 64-bit TSS.
const TSS_BYTES: u64 = 104;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;

// No table runs into the next.
const _: () = {
    assert!(TABLES + TSS_SELECTOR as u64 + 16 <= TSS);
    assert!(TSS + TSS_BYTES <= GDT_POINTER_LOW);
    assert!(IDT_POINTER + 10 <= IDT);
    assert!(IDT + (TRAP_VECTOR as u64 + 1) * 16 <= PML4);
};

/// Writes the guest's code, descriptor tables and page tables into zeroed `memory`, guest physical
/// address 0 first. `handlers` are (vector, ring that may trap to it, offset in the code page).
pub(super) fn write(memory: &mut [u8; MEMORY_BYTES], code: &[u8], handlers: &[(u8, u8, u64)]) {
    let at = index(CODE);
    memory[at..at + code.len()].copy_from_slice(code);
    segments(memory);
    interrupts(memory, handlers);
    page_tables(memory);
}

/// Writes one little-endian `u64` of guest memory.
pub(super) fn put(memory: &mut [u8; MEMORY_BYTES], gpa: u64, value: u64) {
    let at = index(gpa);
    memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Reads one little-endian `u64` of guest memory.
pub(super) fn get(memory: &[u8; MEMORY_BYTES], gpa: u64) -> u64 {
    let at = index(gpa);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&memory[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// A guest physical address as an index into its memory; the constants above all fit.
fn index(gpa: u64) -> usize {
    usize::try_from(gpa).unwrap_or(usize::MAX)
}

fn segments(memory: &mut [u8; MEMORY_BYTES]) {
    /// Flat descriptors: present, type, granularity as in Linux's boot GDT.
    const CODE64: u64 = 0x00af_9b00_0000_ffff;
    const CODE32: u64 = 0x00cf_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    const RING3: u64 = 3 << 45;

    let selectors = [
        (KERNEL_CODE, CODE64),
        (KERNEL_DATA, DATA),
        (SYSRET_BASE, CODE32 | RING3),
        (USER_DATA_SELECTOR, DATA | RING3),
        (USER_CODE_SELECTOR, CODE64 | RING3),
        (BOOT_CODE, CODE32),
    ];
    for (selector, descriptor) in selectors {
        put(memory, TABLES + u64::from(selector & !7), descriptor);
    }
    let base = KERNEL_BASE + TSS;
    let low = (TSS_BYTES - 1)
        | (base & 0xff_ffff) << 16
        | 0x89 << 40 // present, available 64-bit TSS
        | (base >> 24 & 0xff) << 56;
    put(memory, TABLES + u64::from(TSS_SELECTOR), low);
    put(memory, TABLES + u64::from(TSS_SELECTOR) + 8, base >> 32);
    // RSP0, at offset 4 of the TSS; the I/O map base beyond the limit means that ring 3 has no ports.
    put(memory, TSS + 4, KERNEL_BASE + STACK_TOP);
    put(memory, TSS + 96, TSS_BYTES << 48);

    let gdt_limit = u64::from(TSS_SELECTOR) + 15;
    pointer(memory, GDT_POINTER_LOW, TABLES, gdt_limit);
    pointer(memory, GDT_POINTER_HIGH, KERNEL_BASE + TABLES, gdt_limit);
    pointer(memory, IDT_POINTER, KERNEL_BASE + IDT, 0x81 * 16 - 1);
}

/// Writes a pseudo-descriptor (16-bit limit, base) for LGDT or LIDT.
fn pointer(memory: &mut [u8; MEMORY_BYTES], gpa: u64, base: u64, limit: u64) {
    put(memory, gpa, limit | base << 16);
    put(memory, gpa + 8, base >> 48);
}

fn interrupts(memory: &mut [u8; MEMORY_BYTES], handlers: &[(u8, u8, u64)]) {
    for &(vector, ring, offset) in handlers {
        let target = KERNEL_BASE + CODE + offset;
        let gate = (target & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | (0x8e | u64::from(ring) << 5) << 40 // present 64-bit interrupt gate
            | (target >> 16 & 0xffff) << 48;
        put(memory, IDT + u64::from(vector) * 16, gate);
        put(memory, IDT + u64::from(vector) * 16 + 8, target >> 32);
    }
}

fn page_tables(memory: &mut [u8; MEMORY_BYTES]) {
    let table = PRESENT | WRITABLE;
    // One entry of 512 GiB, 1 GiB and 2 MiB each for the upper half: 0xffff_ffff_8000_0000 is
    // entry 511 of the PML4 and entry 510 of its table.
    put(memory, PML4 + 511 * 8, PDPT_HIGH | table);
    put(memory, PDPT_HIGH + 510 * 8, PD_HIGH | table);
    put(memory, PD_HIGH, PT_HIGH | table);
    put(memory, PD_HIGH + 8, MMIO | LARGE | UNCACHED | table);
    for page in 1..u64::try_from(MEMORY_BYTES / PAGE).unwrap_or(0) {
        put(memory, PT_HIGH + page * 8, page << 12 | table);
    }

    put(memory, PML4, PDPT_LOW | USER | table);
    put(memory, PDPT_LOW, PD_LOW | USER | table);
    put(memory, PD_LOW, PT_IDENTITY | table);
    // The far jump after the switch reads the GDT, so that page is needed too.
    put(memory, PT_IDENTITY + (TABLES >> 12) * 8, TABLES | PRESENT);
    put(memory, PT_IDENTITY + (CODE >> 12) * 8, CODE | PRESENT);
    put(
        memory,
        PD_LOW + (USER_CODE_VA >> 21) * 8,
        PT_USER | USER | table,
    );
    put(memory, PT_USER, CODE | PRESENT | USER);
    put(memory, PT_USER + 8, USER_DATA | USER | table);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page tables make of a virtual address: (guest physical address, may ring 3, may
    /// write), or none. Intel SDM volume 3 §4.5.
    fn walk(memory: &[u8; MEMORY_BYTES], va: u64) -> Option<(u64, bool, bool)> {
        let (mut table, mut user, mut writable) = (PML4, true, true);
        for shift in [39, 30, 21, 12] {
            let entry = get(memory, table + (va >> shift & 0x1ff) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            user &= entry & USER != 0;
            writable &= entry & WRITABLE != 0;
            table = entry & 0x000f_ffff_ffff_f000;
            if shift == 12 || entry & LARGE != 0 {
                return Some((table | va & ((1 << shift) - 1), user, writable));
            }
        }
        None
    }

    fn written() -> Box<[u8; MEMORY_BYTES]> {
        let mut memory: Box<[u8; MEMORY_BYTES]> =
            vec![0; MEMORY_BYTES].into_boxed_slice().try_into().unwrap();
        write(&mut memory, &[0xf4; 100], &[(14, 0, 0x10), (0x80, 3, 0x20)]);
        memory
    }

    #[test]
    fn the_upper_half_maps_all_memory_but_the_null_page_for_ring_0_alone() {
        let memory = written();
        assert_eq!(walk(&memory, KERNEL_BASE), None);
        for gpa in (0x1000..0x1_0000).step_by(PAGE) {
            assert_eq!(walk(&memory, KERNEL_BASE + gpa), Some((gpa, false, true)));
        }
    }

    #[test]
    fn the_demand_page_is_absent_and_its_entry_is_where_the_guest_writes_it() {
        let mut memory = written();
        assert_eq!(walk(&memory, DEMAND_VA), None);
        put(&mut memory, DEMAND_PTE, DEMAND | PRESENT | WRITABLE);
        assert_eq!(walk(&memory, DEMAND_VA), Some((DEMAND, false, true)));
    }

    #[test]
    fn the_device_register_lies_outside_memory() {
        assert_eq!(walk(&written(), MMIO_VA), Some((MMIO, false, true)));
        assert!(MMIO > MEMORY_BYTES as u64);
    }

    #[test]
    fn ring_3_can_reach_its_two_pages_only_and_cannot_write_code() {
        let memory = written();
        assert_eq!(walk(&memory, USER_CODE_VA), Some((CODE, true, false)));
        assert_eq!(walk(&memory, USER_DATA_VA), Some((USER_DATA, true, true)));
        let reachable = (0..0x60_0000_u64)
            .step_by(PAGE)
            .filter(|&va| walk(&memory, va).is_some_and(|(_, user, _)| user))
            .count();
        assert_eq!(reachable, 2);
    }

    #[test]
    fn the_switch_finds_its_code_and_its_descriptors_at_their_physical_addresses() {
        let memory = written();
        assert_eq!(walk(&memory, CODE), Some((CODE, false, false)));
        assert_eq!(walk(&memory, TABLES), Some((TABLES, false, false)));
    }

    #[test]
    fn gates_lead_to_their_handlers_and_only_the_trap_is_open_to_ring_3() {
        let memory = written();
        let gate = |vector: u64| {
            let low = get(&memory, IDT + vector * 16);
            let high = get(&memory, IDT + vector * 16 + 8);
            let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
            (target, low >> 45 & 3, low >> 47 & 1)
        };
        assert_eq!(gate(14), (KERNEL_BASE + CODE + 0x10, 0, 1));
        assert_eq!(gate(0x80), (KERNEL_BASE + CODE + 0x20, 3, 1));
        assert_eq!(gate(0x21), (0, 0, 0));
    }
}
