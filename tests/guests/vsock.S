# Connects to port 5000 of the host, and sends messages to somebody who sends them back, one at a time.
#include "guest.inc"
#include "virtio.inc"
#include "receive.inc"

.set SOCKETS, 19                # 5.10
.set REQUESTS, 512
.set LEN, 64
.set HOST, 2                    # its context
.set PORT, 5000
# struct virtio_vsock_hdr (5.10.6)
.set H_LEN, 24
.set H_TYPE, 28
.set H_OP, 30
.set H_FWD_CNT, 40
.set HEADER, 44
.set STREAM, 1
.set OP_REQUEST, 1
.set OP_RESPONSE, 2
.set OP_RW, 5
.set OP_CREDIT_UPDATE, 6
.set LAST, HEADER + LEN - 4

virtqueue transmit, 1, 2
virtqueue event, 2, 2

# Sends the packet, and takes the next one that is more than news of room.
.macro exchange
    offer transmit
    ring transmit
.Lexchange\@:
    take
    cmpw $OP_CREDIT_UPDATE, H_OP(%esi)
    je .Lexchange\@
.Lsent\@:
    movw transmit_avail + 2, %ax
    cmpw transmit_used + 2, %ax
    jne .Lsent\@                # the packet may be written to again once it is
.endm

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device SOCKETS, "vsock: there is no device"
    movl config, %ebx
    movl (%ebx), %eax
    movl %eax, packet           # its context
    begin
    set_up receive
    set_up transmit
    set_up event
    call ready
    offer_buffers
    exchange
    cmpw $OP_RESPONSE, H_OP(%esi)
    je 1f
    say "vsock: nobody listens"
    finish 1

1:  movl $LEN, packet + H_LEN
    movw $OP_RW, packet + H_OP
    movl $(HEADER + LEN), transmit_descriptors + 8
    xorl %ebp, %ebp
    out TIMELINE, MARK_USER
2:  movl %ebp, %edi
    notl %edi
    movl %ebp, packet + HEADER
    movl %edi, packet + LAST
    exchange
    cmpl $(OP_RW << 16 | STREAM), H_TYPE(%esi)
    jne differs
    cmpl $LEN, H_LEN(%esi)
    jne differs
    cmpl %ebp, HEADER(%esi)
    jne differs
    cmpl %edi, LAST(%esi)
    jne differs
    addl $LEN, packet + H_FWD_CNT
    incl %ebp
    cmpl $REQUESTS, %ebp
    jb 2b
    out TIMELINE, (MARK_USER + 1)
    say "vsock: every message came back"
    finish 0
differs:
    say "vsock: a message is not what it was"
    finish 1

.data
.balign 16
transmit_descriptors:
    descriptor packet, HEADER
    .skip 16
event_descriptors:
    .skip 2 * 16
packet:
    .quad 0, HOST
    .long 1024, PORT, 0
    .word STREAM, OP_REQUEST
    .long 0, 0x10000, 0         # flags, room, what of it was taken
    .skip LEN
