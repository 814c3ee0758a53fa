# Reads and writes persistent memory in place, and has it flushed. What is in it, block.S says. It is above 4 GiB, where
# only paging gets to; for that, the guest is in compatibility mode, and back without paging when it takes interrupts.
#include "guest.inc"
#include "virtio.inc"

.set PERSISTENT_MEMORY, 27      # 5.19
.set REQUESTS, 512
.set BLOCK, 4096
.set BLOCKS, 64
.set SECTORS, 8                 # of each block
.set WINDOW, 1 << 30            # where it is mapped to
.set PAE, 1 << 5                # in CR4
.set EFER, 0xc0000080
.set LME, 1 << 8
.set PG, 1 << 31                # in CR0
.set TABLE, 3                   # present, writable
.set LARGE, 0x83                # a page of 2 MiB, present, writable

virtqueue requests, 0, 2

.macro paging_on
    movl %cr0, %eax
    orl $PG, %eax
    movl %eax, %cr0
.endm

.macro paging_off
    movl %cr0, %eax
    andl $~PG, %eax
    movl %eax, %cr0
.endm

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device PERSISTENT_MEMORY, "pmem: there is none"
    movl config, %ebx
    movl (%ebx), %eax
    orl $LARGE, %eax
    movl %eax, window
    movl 4(%ebx), %eax
    movl %eax, window + 4
    movl $tables, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $PAE, %eax
    movl %eax, %cr4
    movl $EFER, %ecx
    movl $LME, %eax
    xorl %edx, %edx
    wrmsr
    begin
    set_up requests
    call ready

    paging_on
    xorl %ebp, %ebp             # the first sector of the block at EBX
    movl $WINDOW, %ebx
1:  movl %ebp, %eax
    notl %eax
    cmpl %ebp, (%ebx)
    jne differs
    cmpl %eax, BLOCK - 4(%ebx)
    jne differs
    movl %eax, (%ebx)
    movl %ebp, BLOCK - 4(%ebx)
    addl $BLOCK, %ebx
    addl $SECTORS, %ebp
    cmpl $(BLOCKS * SECTORS), %ebp
    jb 1b
    paging_off

    movl $REQUESTS, %edi
    out TIMELINE, MARK_USER
1:  movl $-1, answer
    offer requests
    ring requests
    wait requests
    cmpl $0, answer
    jne failed
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 1)
    say "pmem: every flush was answered"
    finish 0
failed:
    say "pmem: a flush has failed"
    finish 1
differs:
    say "pmem: a block is not what it was"
    finish 1

.data
.balign 4096
tables:
    .long pointers + TABLE, 0
    .skip 511 * 8
pointers:
    .long low + TABLE, 0, window + TABLE, 0, 0, 0, high + TABLE, 0
    .skip 508 * 8
# RAM, and what is below 4 GiB.
low:
    .quad LARGE, (2 << 20) + LARGE
    .skip 510 * 8
window:
    .skip 512 * 8
high:
    .set i, 0
    .rept 512
    .quad (3 << 30) + (i << 21) + LARGE
    .set i, i + 1
    .endr
.balign 16
requests_descriptors:
    descriptor request, 4, NEXT, 1
    descriptor answer, 4, WRITE
request:
    .long 0                     # a flush

.bss
.balign 4
answer:
    .skip 4
