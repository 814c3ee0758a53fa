# Reads and writes a disk, one block after the other and many at once. The host has put into each block of 4 KiB its
# first sector, and at the end the complement of that; what is written has these two the other way round.
#include "guest.inc"
#include "virtio.inc"

.set BLOCK_DEVICE, 2            # 5.2
.set BLOCKS, 64
.set SECTORS, 8                 # of each
.set REQUESTS, 512
.set DEPTH, 32
.set BATCHES, 20
.set OUT, 1                     # a request's type

virtqueue requests, 0, 128

# One request for the sectors from EBP on, by the first chain.
.macro request
    movl %ebp, headers + 8
    movb $0xff, statuses
    offer requests
    ring requests
    wait requests
    cmpb $0, statuses
    jne failed
.endm

# The block read has EBP at one end and its complement at the other.
.macro check first, last
    cmpl %ebp, blocks + \first
    jne differs
    movl %ebp, %eax
    notl %eax
    cmpl %eax, blocks + \last
    jne differs
.endm

# The next block, and the first one after the last.
.macro next_block
    addl $SECTORS, %ebp
    andl $(BLOCKS * SECTORS - 1), %ebp
.endm

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device BLOCK_DEVICE, "block: there is no disk"
    begin
    set_up requests
    call ready

    xorl %ebp, %ebp
    movl $REQUESTS, %edi
    out TIMELINE, MARK_USER
1:  request
    check 0, 4092
    next_block
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 1)

    movl $OUT, headers
    movw $NEXT, requests_descriptors + 16 + 12
    movl $REQUESTS, %edi
    out TIMELINE, (MARK_USER + 2)
1:  movl %ebp, blocks + 4092
    movl %ebp, %eax
    notl %eax
    movl %eax, blocks
    request
    next_block
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 3)

    movl $0, headers
    movw $(NEXT | WRITE), requests_descriptors + 16 + 12
    movl $BLOCKS, %edi
1:  request
    check 4092, 0
    next_block
    decl %edi
    jnz 1b
    say "block: what was written is there"

    # All chains, in each place of the ring another one.
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    andl $(DEPTH - 1), %eax
    leal (%eax,%eax,2), %eax
    movw %ax, requests_avail + 4(,%ecx,2)
    incl %ecx
    cmpl $requests_size, %ecx
    jb 1b
    movl $(DEPTH * SECTORS), headers + 8
    movl $BATCHES, %edi
    out TIMELINE, (MARK_USER + 4)
1:  .set i, 0
    .rept DEPTH / 4
    movl $-1, statuses + 4 * i
    .set i, i + 1
    .endr
    offer requests, DEPTH
    ring requests
    wait requests
    .set i, 0
    .rept DEPTH / 4
    cmpl $0, statuses + 4 * i
    jne failed
    .set i, i + 1
    .endr
    .set i, 0
    .rept DEPTH
    subl $~(SECTORS * (DEPTH + i)), blocks + 4096 * i   # leaves 0, which is in no block
    jne differs
    .set i, i + 1
    .endr
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 5)
    say "block: every request was answered"
    finish 0

failed:
    say "block: a request has failed"
    finish 1
differs:
    say "block: a block is not what it was"
    finish 1

.data
.balign 16
# A chain for each of DEPTH requests: header, block, status.
requests_descriptors:
    .set i, 0
    .rept DEPTH
    descriptor (headers + 16 * i), 16, NEXT, (3 * i + 1)
    descriptor (blocks + 4096 * i), 4096, (NEXT | WRITE), (3 * i + 2)
    descriptor (statuses + i), 1, WRITE
    .set i, i + 1
    .endr
    .skip 16 * (requests_size - 3 * DEPTH)
headers:
    .set i, 0
    .rept DEPTH
    .long 0, 0, SECTORS * (DEPTH + i), 0
    .set i, i + 1
    .endr

.bss
.balign 4096
blocks:
    .skip 4096 * DEPTH
statuses:
    .skip DEPTH
