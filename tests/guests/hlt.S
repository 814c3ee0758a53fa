# Halts, and the local APIC's timer wakes it, three times.
#include "guest.inc"
#include "interrupts.inc"

.set TIMER, LAPIC + 0x320       # local vector table: one-shot if no mode is set
.set INITIAL_COUNT, LAPIC + 0x380
.set DIVIDE, LAPIC + 0x3e0
.set BY_1, 0xb
.set COUNT, 1000000             # 1 ms of KVM's APIC bus, 1 GHz

_start:
    movl $stack_top, %esp
    set_up_interrupts
    movl $BY_1, DIVIDE
    movl $VECTOR, TIMER

1:  movl ticks, %ebx
    movl $COUNT, INITIAL_COUNT
2:  sti                         # in effect after the next instruction: nothing is missed
    hlt
    cli
    cmpl ticks, %ebx
    je 2b
    cmpl $3, ticks
    jb 1b
    say "hlt: woken three times"
    finish 0

handler:
    incl ticks
    return_from_interrupt

.bss
.balign 4
ticks:
    .skip 4
