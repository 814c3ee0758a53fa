# Tells pvpanic of a panic (QEMU, docs/specs/pvpanic.rst).
#include "guest.inc"

.set PANICKED, 1 << 0

_start:
    movl $stack_top, %esp
    movw $PVPANIC, %dx
    inb %dx, %al                # which events the device takes
    andb $PANICKED, %al
    expect %al, PANICKED, "panic: the device does not take panics"
    say "panic: now"
    out PVPANIC, PANICKED
    jmp halt
