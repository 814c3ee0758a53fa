# Marks, and powers off at once: what a VMM takes to start a guest and to end.
#include "guest.inc"

_start:
    out TIMELINE, MARK_USER
    jmp power_off
