# Writes lines to a virtio console, and waits for each until it is taken.
#include "guest.inc"
#include "virtio.inc"

.set CONSOLE, 3                 # 5.3
.set REQUESTS, 512
.set LEN, 64                    # bytes of a line

virtqueue receive, 0, 2
virtqueue transmit, 1, 2

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device CONSOLE, "console: there is no virtio console"
    begin
    set_up receive
    set_up transmit
    call ready
    movl $REQUESTS, %edi
    out TIMELINE, MARK_USER
1:  offer transmit
    ring transmit
    wait transmit
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 1)
    say "console: every line was taken"
    finish 0

.data
.balign 16
receive_descriptors:
    .skip 2 * 16
transmit_descriptors:
    descriptor line, LEN
    .skip 16
line:
    .ascii "console: a line of 64 bytes, as many as a terminal gets at once\n"
