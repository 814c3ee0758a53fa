# Marks, and halts for ever with interrupts off: what a VM holds while its guest does nothing.
#include "guest.inc"

_start:
    out TIMELINE, MARK_USER
    jmp halt
