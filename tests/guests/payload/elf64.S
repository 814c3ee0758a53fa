# The contract of unikernels (vmm/abi/src/unikernel.rs), in every register.
#include "check.inc"
#include "start_info.inc"

.set MAGIC, 0x3146494a          # "JIF1"
.set START_INFO_MAGIC, 0x336ec578
.set CODE, 0x10
.set DATA, 0x18
.set STACK_LEN, 0x10000
.set CR0, 0x80010033            # PG, WP, NE, ET, MP, PE
.set CR4, 0x620                 # OSXMMEXCPT, OSFXSR, PAE
.set EFER, 0xc0000080
.set EFER_LONG, 0x500           # LMA, LME

.macro must_64 condition, complaint
    .pushsection .rodata
.Ltext64\@:
    .asciz "check: \complaint\n"
    .popsection
    movl $.Ltext64\@, %ebx
    j\condition .Lgood64\@
    jmp leave
.Lgood64\@:
.endm

.text
.code64
.globl _start
_start:
    pushfq
    .irp register, rbx, rcx, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    orq %\register, %rax
    .endr
    popq %rcx
    testq %rax, %rax
    must_64 z, "a general register is not 0"
    cmpq $2, %rcx
    must_64 e, "RFLAGS is not 2"
    cmpq $MAGIC, %rsi
    must_64 e, "RSI is not the contract's magic number"
    movq %rsp, %rax
    andl $15, %eax
    cmpl $8, %eax
    must_64 e, "the stack is not aligned as after a call"
    cmpq $0, (%rsp)
    must_64 e, "the return address is not null"
    movw %cs, %ax
    cmpw $CODE, %ax
    must_64 e, "CS is another selector"
    .irp segment, ss, ds, es, fs, gs
    movw %\segment, %ax
    cmpw $DATA, %ax
    must_64 e, "\segment is another selector"
    .endr
    movq %cr0, %rax
    cmpl $CR0, %eax
    must_64 e, "CR0 is another"
    movq %cr4, %rax
    cmpl $CR4, %eax
    must_64 e, "CR4 is another"
    movl $EFER, %ecx
    rdmsr
    cmpl $EFER_LONG, %eax
    must_64 e, "EFER is another"
    .irp base, 0xc0000100, 0xc0000101
    movl $\base, %ecx           # the bases of FS and GS
    rdmsr
    orl %edx, %eax
    must_64 z, "a segment has a base"
    .endr
    sidt idt
    cmpw $0, idt
    must_64 e, "there is an IDT"
    strw %ax
    testw %ax, %ax
    must_64 z, "there is a TSS"
    stmxcsr mxcsr
    cmpl $0x1f80, mxcsr
    must_64 e, "MXCSR is another"
    # SSE works.
    movl $7, %eax
    movd %eax, %xmm0
    paddd %xmm0, %xmm0
    movd %xmm0, %eax
    cmpl $14, %eax
    must_64 e, "SSE does not add"
    # The whole stack can be written, and all of the first 4 GiB is mapped.
    leaq -(STACK_LEN - 8)(%rsp), %rax
    movq $1, (%rax)
    movl $0xfffffff0, %eax
    movb (%rax), %al

    cmpl $START_INFO_MAGIC, (%rdi)
    must_64 e, "RDI is not at a start info"
    cmpl $1, 4(%rdi)
    must_64 ae, "a start info without memory map"
    xorl %ebx, %ebx
leave:
    # To 32-bit code, and out of long mode; EBX is what is wrong, EDI the start info.
    movl $stack_top, %esp
    lgdt gdt_pointer
    pushq $CODE
    pushq $leave_64
    lretq

.code32
leave_64:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %cr0, %eax
    andl $0x7fffffff, %eax      # PG
    movl %eax, %cr0
    testl %ebx, %ebx
    jz 1f
    movl %ebx, %esi
    call print
    finish 1
1:  movl %edi, %ebx
    call take_start_info
    call check
    say "elf64: pass"
    finish 0

.section .rodata
.balign 8
gdt:
    .quad 0, 0
    .quad 0x00cf9b000000ffff    # CODE, 32 bits
    .quad 0x00cf93000000ffff    # DATA
gdt_pointer:
    .word . - gdt - 1
    .long gdt, 0

.bss
.balign 8
idt: .skip 16
mxcsr: .skip 4
