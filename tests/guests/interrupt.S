# COM1's "transmitter empty" arrives as an interrupt, through IOAPIC, local APIC and IDT, and wakes a halted vCPU.
#include "guest.inc"
#include "interrupts.inc"

.set REDIRECTION, 0x10          # Intel 82093AA, 3.2.4: two registers a line

_start:
    movl $stack_top, %esp
    set_up_interrupts

    # Line COM1_IRQ: edge-triggered, active high, fixed delivery to APIC ID 0, not masked.
    movl $(REDIRECTION + 2 * COM1_IRQ + 1), IOAPIC
    movl $0, IOAPIC + 0x10
    movl $(REDIRECTION + 2 * COM1_IRQ), IOAPIC
    movl $VECTOR, IOAPIC + 0x10

    out COM1 + 4, 0x08          # modem control: OUT2 lets the interrupt through
    out COM1 + 1, 0x02          # interrupt enable: transmitter holding register empty

1:  cmpl $0, seen
    jne 2f
    sti                         # in effect after the next instruction: nothing is missed
    hlt
    cli
    jmp 1b
2:  out COM1 + 1, 0
    cli
    movl identified, %eax
    expect %al, 0x02, "interrupt: COM1 does not say that its transmitter is empty"
    say "interrupt: delivered"
    finish 0

handler:
    pushl %eax
    pushl %edx
    movw $(COM1 + 2), %dx       # interrupt identification; reading it clears this one
    inb %dx, %al
    andb $0x0f, %al             # the upper bits tell of FIFOs
    cmpl $0, seen
    jne 1f
    movb %al, identified
1:  incl seen
    popl %edx
    popl %eax
    return_from_interrupt

.bss
.balign 4
seen:
    .skip 4
identified:
    .skip 4
