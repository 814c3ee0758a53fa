# Sends frames to somebody who sends them back, one at a time.
#include "guest.inc"
#include "virtio.inc"
#include "receive.inc"

.set NETWORK_CARD, 1            # 5.1
.set REQUESTS, 512
.set HEADER, 12                 # struct virtio_net_hdr_v1, all zero: no offloads
.set FRAME, 64
.set NUMBER, HEADER + 16        # the frame's number, and at the end the complement of that
.set LAST, HEADER + FRAME - 4
.set NO_INTERRUPT, 1            # of an available ring (2.7.6)

virtqueue transmit, 1, 2

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device NETWORK_CARD, "net: there is no network card"
    begin
    set_up receive
    set_up transmit
    movw $NO_INTERRUPT, transmit_avail
    call ready
    offer_buffers

    xorl %ebp, %ebp
    out TIMELINE, MARK_USER
1:  movl %ebp, %edi
    notl %edi
    movl %ebp, frame + NUMBER
    movl %edi, frame + LAST
    offer transmit
    ring transmit
    take
    cmpl %ebp, NUMBER(%esi)
    jne differs
    cmpl %edi, LAST(%esi)
    jne differs
2:  movw transmit_avail + 2, %ax
    cmpw transmit_used + 2, %ax
    jne 2b                      # the frame may be written to again once it is
    incl %ebp
    cmpl $REQUESTS, %ebp
    jb 1b
    out TIMELINE, (MARK_USER + 1)
    say "net: every frame came back"
    finish 0
differs:
    say "net: a frame is not what it was"
    finish 1

.data
.balign 16
transmit_descriptors:
    descriptor frame, (HEADER + FRAME)
    .skip 16
frame:
    .skip HEADER
    .byte 2, 0, 0, 0, 0, 1      # to and from locally administered addresses
    .byte 2, 0, 0, 0, 0, 2
    .byte 0x88, 0xb5            # local experimental (IEEE 802)
    .skip FRAME - 14
