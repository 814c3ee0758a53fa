# From Rust to a payload, in the states that `handover::Entry` describes.
#
# What must hold:
#  1. 64-bit mode as entry.S has made it, on a stack below 4 GiB.
#  2. This code is where addresses of 32 bits reach it.
#
# Selectors and the bits of control registers and descriptors come from main.rs.

.section .entry, "ax", @progbits
.code64

# extern "sysv64" fn(eip: u32, eax: u32, ebx: u32, esi: u32) -> !
.globl enter_protected
enter_protected:
    lgdt payload_gdt_pointer(%rip)
    movl %edx, %ebx
    movl %esi, %ebp
    movl %ecx, %esi
    leaq 1f(%rip), %rax
    pushq ${PAYLOAD_CODE32}
    pushq %rax
    lretq
.code32
1:
    movl ${DATA}, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl ${CR0_PAYLOAD}, %eax           # without paging this is no long mode any more
    movl %eax, %cr0
    movl ${EFER}, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    movl %eax, %cr4
    movl %eax, %ecx
    pushl %edi
    movl %ebp, %eax
    movl %ecx, %edi
    movl %ecx, %ebp
    ret

.code64
# extern "sysv64" fn(rip: u64, rdi: u64, rsi: u64, rsp: u64) -> !
.globl enter_long
enter_long:
    lidt no_idt(%rip)
    movl ${DATA}, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq %rcx, %rsp
    pushq %rdi
    pushq $2                            # RFLAGS, when nothing changes them any more
    movq %rsi, %rdi
    movq %rdx, %rsi
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %ebp, %ebp
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    popfq
    ret

.balign 8
payload_gdt:
    .quad 0
    .quad 0
    .quad {GDT_CODE32}
    .quad {GDT_DATA}
payload_gdt_pointer:
    .word payload_gdt_pointer - payload_gdt - 1
    .quad payload_gdt
no_idt:
    .word 0
    .quad 0
