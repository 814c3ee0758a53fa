# Asks an entropy device for bytes. Every request is rung for and answered by an interrupt. A broken chain makes the
# device ask for a reset, after which it works again.
#include "guest.inc"
#include "virtio.inc"

.set ENTROPY, 4                 # 5.4
.set REQUESTS, 500
.set LEN, 64                    # bytes a request

virtqueue requests, 0, 4

_start:
    movl $stack_top, %esp
    set_up_interrupts
    find_device ENTROPY, "virtio: there is no entropy device"
    call initialise
    movl $REQUESTS, %edi
    out TIMELINE, MARK_USER
1:  call request
    decl %edi
    jnz 1b
    out TIMELINE, (MARK_USER + 1)
    say "virtio: every request was answered"

    # A buffer where there is no memory.
    movl $0xfffffff0, requests_descriptors
    offer requests
    ring requests
    sleep
    call read_status
    testb $NEEDS_RESET, %al
    jnz 2f
    say "virtio: the device takes a buffer that is nowhere"
    finish 1
2:  movl $buffer, requests_descriptors
    call initialise
    call request
    say "virtio: it works after a reset"
    finish 0

initialise:
    begin
    set_up requests
    call ready
    ret

# One request: the used ring has to move on, and the buffer to be filled.
request:
    movl $0, buffer + LEN - 8
    movl $0, buffer + LEN - 4
    offer requests
    ring requests
    wait requests
    decl %eax                   # the place in the used ring
    andl $(requests_size - 1), %eax
    movl requests_used + 8(,%eax,8), %eax
    expect %eax, LEN, "virtio: a request is not answered in its whole length"
    movl buffer + LEN - 8, %eax
    orl buffer + LEN - 4, %eax
    jnz 1f
    say "virtio: a buffer is not filled"
    finish 1
1:  ret

.data
.balign 16
requests_descriptors:
    descriptor buffer, LEN, WRITE
    .skip 3 * 16

.bss
.balign 16
buffer:
    .skip LEN
