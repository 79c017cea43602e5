//! The probe guest: the machine code that a host must be able to run before Cofferdam calls its
//! KVM usable.
//!
//! It starts as a kernel with a PVH entry starts (32-bit protected mode, paging off) and does in
//! under a thousand bytes what a stock kernel cannot do without: it switches to long mode by
//! itself, moves to the upper half, takes a page fault and mends it, asks CPUID, uses a port and
//! a device register, computes for a million instructions in ring 0, runs a program in ring 3
//! that makes a system call, is stopped at a forbidden address and traps back, and sleeps until an
//! interrupt. It notes each finished stage in the report page and never waits: every
//! fault that it does not expect ends it through [`PORT_DONE`].
//!
//! The code is position-independent up to the constants of [`super::layout`], assembled by rustc
//! into read-only data of this program and copied into guest memory; the host never runs it.
//!
//! Source: Intel SDM volume 3 §9.8.5 (switch to IA-32e mode), §5.8.8 (SYSCALL); the entry state is
//! that of Xen's PVH boot ABI (docs/misc/pvh.pandoc).

use super::layout as l;
use super::layout::report as r;

/// Port that the guest writes [`PORT_QUESTION`] to and reads [`PORT_ANSWER`] from.
pub(super) const PORT_ECHO: u16 = 0x0510;
pub(super) const PORT_QUESTION: u32 = 0x6b6d_7630;
pub(super) const PORT_ANSWER: u32 = 0x3076_6d6b;
/// Port by which the guest ends: [`DONE`] when all stages are behind it, [`FAULT`] otherwise.
pub(super) const PORT_DONE: u16 = 0x0514;
pub(super) const DONE: u32 = 0x600d_600d;
pub(super) const FAULT: u32 = 0x0bad_0bad;
/// What the guest writes to the device register, and what the host lets it read.
pub(super) const MMIO_QUESTION: u32 = 0x6d6d_696f;
pub(super) const MMIO_ANSWER: u32 = 0x6f69_6d6d;
/// What the demand-mapped page must read as.
pub(super) const DEMAND_VALUE: u64 = 0x5a5a_1234_dead_beef;

/// Times that ring 0 goes round its loop: see `run.rs` for the choice.
pub(super) const RING0_LOOPS: u64 = 1 << 17;
/// Instructions in one round of that loop.
pub(super) const RING0_LOOP_INSTRUCTIONS: u64 = 7;
/// Times that ring 3 goes round its loop.
pub(super) const USER_LOOPS: u64 = 1 << 10;

/// Stages in the order in which the guest finishes them; the number in the report page.
pub(super) mod stage {
    pub(in super::super) const LONG_MODE: u64 = 1;
    pub(in super::super) const PAGING: u64 = 2;
    pub(in super::super) const CPUID: u64 = 3;
    pub(in super::super) const PORT: u64 = 4;
    pub(in super::super) const MMIO: u64 = 5;
    pub(in super::super) const RING0: u64 = 6;
    pub(in super::super) const RING3: u64 = 7;
    pub(in super::super) const INTERRUPT: u64 = 8;
}

core::arch::global_asm!(
    ".pushsection .rodata.cofferdam_probe_guest, \"a\", @progbits",
    ".balign 16",
    ".global cofferdam_probe_guest_start",
    ".hidden cofferdam_probe_guest_start",
    "cofferdam_probe_guest_start:",
    // ── 32-bit protected mode, flat segments, paging off ──────────────────────────────────────
    ".code32",
    "    mov eax, cr4",
    "    or eax, 0x20", // CR4.PAE
    "    mov cr4, eax",
    "    mov eax, {pml4}",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080", // EFER
    "    rdmsr",
    "    or eax, 0x101", // LME and SCE (SYSCALL)
    "    wrmsr",
    "    lgdt [{gdt_low}]",
    "    mov eax, cr0",
    "    or eax, 0x80010000", // PG and WP
    "    mov cr0, eax",
    "    .byte 0xea", // JMP ptr16:32 to the 64-bit code segment
    "    .long {code} + 2f - cofferdam_probe_guest_start",
    "    .word {kernel_code}",
    // ── 64-bit mode, still at the identity address; jump to the upper half ────────────────────
    ".code64",
    "2:  movabs rbx, {base}", // rbx stays the base of all memory from here on
    "    lea rax, [rip + 3f]",
    "    add rax, rbx",
    "    jmp rax",
    "3:  lea rsp, [rbx + {stack_top}]",
    "    lgdt [rbx + {gdt_high}]",
    "    lidt [rbx + {idt_pointer}]",
    "    mov eax, {kernel_data}",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov eax, {tss}",
    "    ltr ax",
    "    mov qword ptr [rbx + {pd_low}], 0", // no identity mapping any more
    "    mov rax, cr3",
    "    mov cr3, rax",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_long}",
    // ── A page that is not there yet: written by one address, read by another ─────────────────
    "    movabs rax, {demand_value}",
    "    mov [rbx + {demand}], rax",
    "    movabs rdx, {demand_va}",
    "    mov rax, [rdx]",
    "    mov [rbx + {report} + {r_demand}], rax",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_paging}",
    // ── CPUID: vendor and long-mode bit ───────────────────────────────────────────────────────
    "    mov r12, rbx",
    "    xor eax, eax",
    "    cpuid",
    "    mov [r12 + {report} + {r_vendor}], rbx",
    "    mov eax, 0x80000001",
    "    cpuid",
    "    mov [r12 + {report} + {r_features}], rdx",
    "    mov rbx, r12",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_cpuid}",
    // ── A port: out and in ────────────────────────────────────────────────────────────────────
    "    mov edx, {port_echo}",
    "    mov eax, {port_question}",
    "    out dx, eax",
    "    in eax, dx",
    "    mov [rbx + {report} + {r_port}], rax",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_port}",
    // ── A device register: write and read ─────────────────────────────────────────────────────
    "    movabs rdx, {mmio_va}",
    "    mov dword ptr [rdx], {mmio_question}",
    "    mov eax, [rdx]",
    "    mov [rbx + {report} + {r_mmio}], rax",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_mmio}",
    // ── The bulk of the work, timed by the host from the exit before: its `ring0_sum` computes the same ────────────────────────────
    "    mov ecx, {ring0_loops}",
    "    xor eax, eax",
    "6:  add rax, rcx",
    "    rol rax, 7",
    "    xor rax, [rbx + {report} + {r_sum}]",
    "    mov [rbx + {report} + {r_sum}], rax",
    "    inc qword ptr [rbx + {report} + {r_loops}]",
    "    dec rcx",
    "    jnz 6b",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_ring0}",
    // ── Ring 3 by IRETQ; it comes back to label 5 through the trap gate ───────────────────────
    "    mov ecx, 0xc0000081", // STAR: selectors of SYSCALL and SYSRET
    "    xor eax, eax",
    "    mov edx, {star}",
    "    wrmsr",
    "    inc ecx", // LSTAR: entry of SYSCALL
    "    lea rdx, [rip + 7f]",
    "    mov eax, edx",
    "    shr rdx, 32",
    "    wrmsr",
    "    mov ecx, 0xc0000084", // SFMASK: flags that SYSCALL clears
    "    mov eax, 0x200",
    "    xor edx, edx",
    "    wrmsr",
    "    push {user_data_selector}",
    "    push {user_stack_top}",
    "    push 2", // RFLAGS: interrupts off, no I/O privilege
    "    push {user_code_selector}",
    "    lea rax, [rip + 4f]",
    "    sub rax, rbx",
    "    add rax, {code_to_user}",
    "    push rax",
    "    iretq",
    // ── Ring 3 ────────────────────────────────────────────────────────────────────────────────
    "4:  mov ecx, {user_loops}",
    "    xor eax, eax",
    "40: add rax, rcx",
    "    push rax",
    "    pop rdx",
    "    inc qword ptr [{user_data}]",
    "    dec ecx",
    "    jnz 40b",
    "    syscall",
    "    mov rax, [rbx + {report}]", // forbidden: the fault handler resumes at label 41
    "41: int 0x80",
    // ── Back in ring 0 ────────────────────────────────────────────────────────────────────────
    ".global cofferdam_probe_guest_trap",
    ".hidden cofferdam_probe_guest_trap",
    "cofferdam_probe_guest_trap:",
    "    movabs rbx, {base}",
    "    cmp word ptr [rsp + 8], {user_code_selector}", // the trap came from ring 3
    "    jne .Lcofferdam_probe_guest_fault",
    "    inc qword ptr [rbx + {report} + {r_traps}]",
    "    mov rax, [rbx + {user_page}]",
    "    mov [rbx + {report} + {r_user_loops}], rax",
    "    lea rsp, [rbx + {stack_top}]",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_ring3}",
    // ── Sleep until the host injects an interrupt ─────────────────────────────────────────────
    "    sti",
    "    hlt",
    "    cli",
    "    mov qword ptr [rbx + {report} + {r_stage}], {s_interrupt}",
    "    mov eax, {done}",
    "60: mov edx, {port_done}",
    "    out dx, eax",
    "61: hlt",
    "    jmp 61b",
    // ── System call entry: note it and return ─────────────────────────────────────────────────
    "7:  movabs rbx, {base}",
    "    inc qword ptr [rbx + {report} + {r_syscalls}]",
    "    sysretq",
    // ── Page fault: ring 0's own is mended, ring 3's is skipped ───────────────────────────────
    ".global cofferdam_probe_guest_page_fault",
    ".hidden cofferdam_probe_guest_page_fault",
    "cofferdam_probe_guest_page_fault:",
    "    push rax",
    "    push rdx",
    "    movabs rdx, {base}",
    "    mov rax, cr2",
    "    mov [rdx + {report} + {r_address}], rax",
    "    mov rax, [rsp + 16]", // error code
    "    cmp eax, 5",          // ring 3 read a present page of ring 0
    "    je 8f",
    "    test eax, eax", // ring 0 read an absent page
    "    jnz .Lcofferdam_probe_guest_fault",
    "    mov qword ptr [rdx + {demand_pte}], {demand} + 3",
    "    inc qword ptr [rdx + {report} + {r_kernel_faults}]",
    "    jmp 9f",
    "8:  inc qword ptr [rdx + {report} + {r_user_faults}]",
    "    lea rax, [rip + 41b]",
    "    sub rax, rdx",
    "    add rax, {code_to_user}",
    "    mov [rsp + 24], rax", // where to go on
    "9:  pop rdx",
    "    pop rax",
    "    add rsp, 8",
    "    iretq",
    // ── External interrupt ────────────────────────────────────────────────────────────────────
    ".global cofferdam_probe_guest_interrupt",
    ".hidden cofferdam_probe_guest_interrupt",
    "cofferdam_probe_guest_interrupt:",
    "    inc qword ptr [rbx + {report} + {r_interrupts}]",
    "    iretq",
    // ── Anything else ─────────────────────────────────────────────────────────────────────────
    ".global cofferdam_probe_guest_fault",
    ".hidden cofferdam_probe_guest_fault",
    "cofferdam_probe_guest_fault:",
    ".Lcofferdam_probe_guest_fault:",
    "    mov eax, {fault}",
    "    jmp 60b",
    ".global cofferdam_probe_guest_end",
    ".hidden cofferdam_probe_guest_end",
    "cofferdam_probe_guest_end:",
    ".popsection",
    pml4 = const l::PML4,
    gdt_low = const l::GDT_POINTER_LOW,
    gdt_high = const l::GDT_POINTER_HIGH,
    idt_pointer = const l::IDT_POINTER,
    code = const l::CODE,
    base = const l::KERNEL_BASE.cast_signed(),
    kernel_code = const l::KERNEL_CODE,
    kernel_data = const l::KERNEL_DATA,
    tss = const l::TSS_SELECTOR,
    stack_top = const l::STACK_TOP,
    pd_low = const l::PD_LOW,
    report = const l::REPORT,
    demand = const l::DEMAND,
    demand_va = const l::DEMAND_VA.cast_signed(),
    demand_pte = const l::DEMAND_PTE,
    demand_value = const DEMAND_VALUE,
    mmio_va = const l::MMIO_VA.cast_signed(),
    mmio_question = const MMIO_QUESTION,
    port_echo = const PORT_ECHO,
    port_question = const PORT_QUESTION,
    port_done = const PORT_DONE,
    done = const DONE,
    fault = const FAULT,
    star = const (l::SYSRET_BASE as u32 | 3) << 16 | l::KERNEL_CODE as u32,
    code_to_user = const l::USER_CODE_VA - l::CODE,
    user_data = const l::USER_DATA_VA,
    user_stack_top = const l::USER_DATA_VA + 0x1000,
    user_page = const l::USER_DATA,
    user_data_selector = const l::USER_DATA_SELECTOR,
    user_code_selector = const l::USER_CODE_SELECTOR,
    user_loops = const USER_LOOPS,
    ring0_loops = const RING0_LOOPS,
    r_stage = const r::STAGE,
    r_loops = const r::RING0_LOOPS,
    r_sum = const r::RING0_SUM,
    r_kernel_faults = const r::KERNEL_FAULTS,
    r_user_faults = const r::USER_FAULTS,
    r_address = const r::FAULT_ADDRESS,
    r_demand = const r::DEMAND_VALUE,
    r_vendor = const r::CPUID_VENDOR,
    r_features = const r::CPUID_FEATURES,
    r_port = const r::PORT_VALUE,
    r_mmio = const r::MMIO_VALUE,
    r_syscalls = const r::SYSCALLS,
    r_traps = const r::TRAPS,
    r_interrupts = const r::INTERRUPTS,
    r_user_loops = const r::USER_LOOPS,
    s_long = const stage::LONG_MODE,
    s_paging = const stage::PAGING,
    s_cpuid = const stage::CPUID,
    s_port = const stage::PORT,
    s_mmio = const stage::MMIO,
    s_ring3 = const stage::RING3,
    s_interrupt = const stage::INTERRUPT,
    s_ring0 = const stage::RING0,
);

unsafe extern "C" {
    safe static cofferdam_probe_guest_start: u8;
    safe static cofferdam_probe_guest_trap: u8;
    safe static cofferdam_probe_guest_page_fault: u8;
    safe static cofferdam_probe_guest_interrupt: u8;
    safe static cofferdam_probe_guest_fault: u8;
    safe static cofferdam_probe_guest_end: u8;
}

/// The guest's machine code; it belongs at [`super::layout::CODE`].
pub(super) fn code() -> &'static [u8] {
    let start = &raw const cofferdam_probe_guest_start;
    let len = offset_of(&raw const cofferdam_probe_guest_end);
    // SAFETY: bounds ← both labels bracket one uninterrupted run of bytes in the same
    // sub-section of the same assembly block, `end` last, so `start..start + len` is inside it;
    // alignment ← u8; init ← assembled data; aliasing ← `.rodata`, nobody can write it;
    // lifetime ← the program image is mapped as long as the process lives.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// (vector, ring that may trap to it, offset in [`code`]) for [`super::layout::write_tables`]:
/// every vector that the CPU reserves leads to the end, apart from the page fault.
pub(super) fn handlers() -> Vec<(u8, u8, u64)> {
    let fault = &raw const cofferdam_probe_guest_fault;
    let expected = [
        (
            l::PAGE_FAULT_VECTOR,
            0,
            &raw const cofferdam_probe_guest_page_fault,
        ),
        (
            l::INTERRUPT_VECTOR,
            0,
            &raw const cofferdam_probe_guest_interrupt,
        ),
        (l::TRAP_VECTOR, 3, &raw const cofferdam_probe_guest_trap),
    ];
    (0..l::INTERRUPT_VECTOR)
        .filter(|&vector| vector != l::PAGE_FAULT_VECTOR)
        .map(|vector| (vector, 0, fault))
        .chain(expected)
        .map(|(vector, ring, label)| {
            let offset = u64::try_from(offset_of(label)).unwrap_or(u64::MAX);
            (vector, ring, offset)
        })
        .collect()
}

/// Bytes from the first instruction to `label`.
fn offset_of(label: *const u8) -> usize {
    label.addr() - (&raw const cofferdam_probe_guest_start).addr()
}

/// What the guest's ring 0 loop must have left in `report::RING0_SUM`.
pub(super) fn ring0_sum() -> u64 {
    (1..=RING0_LOOPS).rev().fold(0_u64, |sum, round| {
        sum.wrapping_add(round).rotate_left(7) ^ sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_its_page_and_starts_with_the_switch() {
        let code = code();
        assert!(code.len() < l::PAGE, "{}", code.len());
        // MOV EAX, CR4; OR EAX, 0x20
        assert_eq!(code[..6], [0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20]);
    }

    #[test]
    fn the_code_holds_no_address_of_this_program() {
        let start = (&raw const cofferdam_probe_guest_start).addr() as u64;
        let near = |value: u64| value.abs_diff(start) < 1 << 24;
        let found = code()
            .windows(8)
            .any(|bytes| near(u64::from_le_bytes(bytes.try_into().unwrap())));
        assert!(!found);
    }

    #[test]
    fn every_reserved_vector_and_the_two_expected_ones_have_a_handler_inside_the_code() {
        let handlers = handlers();
        let len = u64::try_from(code().len()).unwrap();
        assert!(handlers.iter().all(|&(_, _, offset)| offset < len));
        let mut vectors: Vec<u8> = handlers.iter().map(|&(vector, _, _)| vector).collect();
        vectors.sort_unstable();
        let expected: Vec<u8> = (0..=l::INTERRUPT_VECTOR).chain([l::TRAP_VECTOR]).collect();
        assert_eq!(vectors, expected);
    }

    #[test]
    fn only_the_trap_may_be_raised_by_ring_3() {
        let open: Vec<u8> = handlers()
            .iter()
            .filter(|&&(_, ring, _)| ring == 3)
            .map(|&(vector, _, _)| vector)
            .collect();
        assert_eq!(open, [l::TRAP_VECTOR]);
    }
}
