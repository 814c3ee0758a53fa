# From the reset vector to Rust.
#
# What must hold at the reset vector (Intel SDM 3A, 10.1.4; AMD APM 2, 14.1.5):
#  1. The processor came out of reset: real mode, interrupts off, CS base 0xffff_0000, IP 0xfff0.
#  2. It has long mode and SSE2, as every x86-64 processor has.
#  3. The ROM's last 64 KiB can be read at 0xffff_0000.
#  4. RAM works without set-up, and A20 is not masked.
#
# What holds when `firmware_main` is called:
#  1. 64-bit mode; CS is CODE64; SS, DS and ES are DATA; FS and GS are as after reset, with base 0.
#  2. The first 2 MiB and the last 2 MiB below 4 GiB are mapped to themselves, writable, in 2 MiB pages; the tables
#     are PML4, PAGE_POINTERS and PAGE_DIRECTORIES, one for each GiB, but the fourth GiB has the first one's. All
#     other entries hold anything.
#  3. SSE can be used: CR0.EM clear, CR0.MP set, CR4.OSFXSR and CR4.OSXMMEXCPT set. Caches are on.
#  4. The stack is empty, aligned as the System V ABI asks, and ends at `stack_top`.
#  5. Interrupts are off and there is no IDT: an exception resets the machine.
#  6. The direction flag is clear.
#
# Selectors and the bits of control registers, page tables and descriptors come from main.rs.

.set PML4, {PML4}
.set PDPT, {PAGE_POINTERS}
.set PD, {PAGE_DIRECTORIES}
.set HIGH, 0x90000                      # the segment that has the first two; the third is in segment 0
.set GIBS, 4                            # one page directory each
.set LAST_PAGE, 0xffe00000
.set LAST_ENTRY, 511 * 8

.section .reset, "ax", @progbits
.code16
.globl reset_vector
reset_vector:
    jmp real_mode
.balign 16, 0

.section .entry, "ax", @progbits
real_mode:
    cli
    cld
    # After a warm reset RAM holds what it held: both halves of every entry that counts are written. The last GiB
    # shares the directory of the first until more has to be mapped: each page that is touched costs an exit.
    xorl %edx, %edx
    movw %dx, %es
    movw $(HIGH >> 4), %ax
    movw %ax, %ds
    movl $(PDPT + {TABLE}), PML4 - HIGH
    movl %edx, PML4 - HIGH + 4
    .set gib, 0
    .rept GIBS - 1
    movl $(PD + gib * 0x1000 + {TABLE}), PDPT - HIGH + gib * 8
    movl %edx, PDPT - HIGH + gib * 8 + 4
    .set gib, gib + 1
    .endr
    movl $(PD + {TABLE}), PDPT - HIGH + gib * 8
    movl %edx, PDPT - HIGH + gib * 8 + 4
    movl ${PAGE}, %es:PD
    movl %edx, %es:PD + 4
    movl $(LAST_PAGE + {PAGE}), %es:PD + LAST_ENTRY
    movl %edx, %es:PD + LAST_ENTRY + 4

    movl ${CR4_LONG}, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl ${EFER}, %ecx
    movl ${EFER_LONG}, %eax
    wrmsr
    lgdtl %cs:(gdt_pointer - {REAL_MODE_BASE})
    # Protection and paging at once, which is one exit less (AMD APM 2, 14.6.2: paging needs protection, not before).
    movl ${CR0_LONG}, %eax
    movl %eax, %cr0
    ljmpl ${CODE64}, $long_mode

.code64
long_mode:
    movl ${DATA}, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl $stack_top, %esp
    xorl %ebp, %ebp
    movabsq $firmware_main, %rax
    call *%rax
    ud2                                 # it does not return

.balign 8
gdt:
    .quad 0
    .quad {GDT_CODE32}
    .quad {GDT_CODE64}
    .quad {GDT_DATA}
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
