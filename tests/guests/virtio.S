# Drives the machine's first virtio device, an entropy source, by hand: over virtio-mmio if there is one, else over
# virtio-pci. Every request is rung for and answered by an interrupt. A broken chain makes the device ask for a reset,
# after which it works again.
#include "guest.inc"
#include "interrupts.inc"

.set REDIRECTION, 0x10          # Intel 82093AA, 3.2.4: two registers a line
.set LINE, 16                   # the first line that no ISA device has
.set FUNCTION, PCI_ECAM + (1 << 15)
.set REQUESTS, 500
.set SIZE, 4                    # descriptors in the queue
.set LEN, 64                    # bytes a request

# virtio-mmio (virtio 1.3, 4.2.2)
.set QUEUE_NUM, 0x038
.set QUEUE_READY, 0x044
.set QUEUE_NOTIFY, 0x050
.set INTERRUPT_STATUS, 0x060
.set INTERRUPT_ACK, 0x064
.set STATUS, 0x070
.set DRIVER_FEATURES, 0x020
.set DRIVER_FEATURES_SEL, 0x024
.set QUEUE_DESC, 0x080
.set QUEUE_DRIVER, 0x090
.set QUEUE_DEVICE, 0x0a0
# Common configuration of virtio-pci (4.1.4.3)
.set C_FEATURE_SELECT, 0x08
.set C_FEATURE, 0x0c
.set C_STATUS, 0x14
.set C_QUEUE_SIZE, 0x18
.set C_VECTOR, 0x1a
.set C_ENABLE, 0x1c
.set C_DESC, 0x20
.set C_DRIVER, 0x28
.set C_DEVICE, 0x30

.set NEEDS_RESET, 0x40

_start:
    movl $stack_top, %esp
    set_up_interrupts
    cmpl $0x74726976, VIRTIO_MMIO
    jne 1f
    movl $VIRTIO_MMIO, registers
    movl $(VIRTIO_MMIO + QUEUE_NOTIFY), notify
    movl $(REDIRECTION + 2 * LINE + 1), IOAPIC
    movl $0, IOAPIC + 0x10
    movl $(REDIRECTION + 2 * LINE), IOAPIC
    movl $VECTOR, IOAPIC + 0x10
    jmp 2f
1:  cmpl $0x10441af4, FUNCTION
    je 3f
    say "virtio: there is no entropy device"
    finish 1
3:  call find_parts
2:  call initialise
    movl $REQUESTS, left
    out TIMELINE, MARK_USER
4:  call request
    decl left
    jnz 4b
    out TIMELINE, (MARK_USER + 1)
    say "virtio: every request was answered"

    # A buffer where there is no memory.
    movl $0xfffffff0, descriptor
    movl $0, answered
    call offer
    call wait
    call read_status
    testb $NEEDS_RESET, %al
    jnz 5f
    say "virtio: the device takes a buffer that is nowhere"
    finish 1
5:  call initialise
    call request
    say "virtio: it works after a reset"
    finish 0

# One request: the used ring has to move on, and the buffer to be filled.
request:
    movl $0, answered
    movl $0, buffer
    movl $0, buffer + LEN - 8
    movl $0, buffer + LEN - 4
    call offer
1:  call wait
    movw avail + 2, %ax
    cmpw used + 2, %ax
    jne 1b                      # an interrupt of another time
    movl used_len, %eax
    expect %eax, LEN, "virtio: a request is not answered in its whole length"
    movl buffer + LEN - 8, %eax
    orl buffer + LEN - 4, %eax
    jnz 2f
    say "virtio: a buffer is not filled"
    finish 1
2:  ret

# Makes descriptor 0 available, and rings.
offer:
    movl $LEN, descriptor + 8
    movl $2, descriptor + 12    # WRITE, and no next one
    movzwl avail + 2, %eax
    andl $(SIZE - 1), %eax
    leal used + 8(,%eax,8), %ebx
    movl %ebx, used_slot
    movw $0, avail + 4(,%eax,2)
    incw avail + 2
    movl notify, %ebx
    cmpl $VIRTIO_MMIO, registers
    je 1f
    movw $0, (%ebx)
    ret
1:  movl $0, (%ebx)
    ret

# Sleeps until an interrupt has come since the last request.
wait:
    cmpl $0, answered
    jne 2f
    sti                         # in effect after the next instruction: nothing is missed
    hlt
    cli
    jmp wait
2:  movl $0, answered
    movl used_slot, %eax
    movl (%eax), %eax
    movl %eax, used_len
    ret

read_status:
    movl registers, %ebx
    cmpl $VIRTIO_MMIO, %ebx
    je 1f
    movb C_STATUS(%ebx), %al
    ret
1:  movl STATUS(%ebx), %eax
    ret

# From a reset to DRIVER_OK (3.1.1), with VERSION_1 alone.
initialise:
    movl $0, avail
    movl $0, used
    movl $buffer, descriptor
    movl registers, %ebx
    cmpl $VIRTIO_MMIO, %ebx
    jne 1f
    movl $0, STATUS(%ebx)
    movl $3, STATUS(%ebx)
    movl $1, DRIVER_FEATURES_SEL(%ebx)
    movl $1, DRIVER_FEATURES(%ebx)
    movl $0xb, STATUS(%ebx)
    movl $SIZE, QUEUE_NUM(%ebx)
    movl $descriptor, QUEUE_DESC(%ebx)
    movl $avail, QUEUE_DRIVER(%ebx)
    movl $used, QUEUE_DEVICE(%ebx)
    movl $1, QUEUE_READY(%ebx)
    movl $0xf, STATUS(%ebx)
    jmp 2f
1:  movb $0, C_STATUS(%ebx)
    movb $3, C_STATUS(%ebx)
    movl $1, C_FEATURE_SELECT(%ebx)
    movl $1, C_FEATURE(%ebx)
    movb $0xb, C_STATUS(%ebx)
    movw $0, 0x10(%ebx)         # vector of configuration changes
    movw $0, C_VECTOR(%ebx)
    movw $SIZE, C_QUEUE_SIZE(%ebx)
    movl $descriptor, C_DESC(%ebx)
    movl $avail, C_DRIVER(%ebx)
    movl $used, C_DEVICE(%ebx)
    movw $1, C_ENABLE(%ebx)
    movb $0xf, C_STATUS(%ebx)
2:  call read_status
    expect %al, 0xf, "virtio: the device is not ready"
    ret

# Follows the capabilities (4.1.4) to the common configuration, the doorbell and the MSI-X table.
find_parts:
    movl FUNCTION + 0x10, %ebp  # the BAR, assigned
    movzbl FUNCTION + 0x34, %edi
1:  testl %edi, %edi
    jz 5f
    leal FUNCTION(%edi), %esi
    movb (%esi), %al
    cmpb $0x11, %al
    jne 2f
    movl 4(%esi), %ebx          # the table, in BAR 0
    addl %ebp, %ebx
    movl $LAPIC, (%ebx)
    movl $0, 4(%ebx)
    movl $VECTOR, 8(%ebx)
    movl $0, 12(%ebx)
    movw $0x8000, 2(%esi)       # on
    jmp 4f
2:  cmpb $0x09, %al
    jne 4f
    movl 8(%esi), %ebx
    addl %ebp, %ebx
    movb 3(%esi), %al
    cmpb $1, %al
    jne 3f
    movl %ebx, registers
3:  cmpb $2, %al
    jne 4f
    movl %ebx, notify
4:  movzbl 1(%esi), %edi
    jmp 1b
5:  cmpl $0, registers
    jne 6f
    say "virtio: the function has no common configuration"
    finish 1
6:  ret

handler:
    pushl %eax
    pushl %ebx
    movl registers, %ebx
    cmpl $VIRTIO_MMIO, %ebx
    jne 1f
    movl INTERRUPT_STATUS(%ebx), %eax
    movl %eax, INTERRUPT_ACK(%ebx)
1:  movl $1, answered
    popl %ebx
    popl %eax
    return_from_interrupt

.bss
.balign 4096
descriptor:
    .skip 16 * SIZE
avail:
    .skip 4 + 2 * SIZE + 2
.balign 4
used:
    .skip 4 + 8 * SIZE + 2
.balign 16
buffer:
    .skip LEN
registers:
    .skip 4
notify:
    .skip 4
left:
    .skip 4
answered:
    .skip 4
used_slot:
    .skip 4
used_len:
    .skip 4
